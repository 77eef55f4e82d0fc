//! The link to the Redis, and who keeps it up.
//!
//! There is one connection for questions and one for bodies, which all requests share (to each node of a cluster). It is made anew from the beginning whenever it
//! does not answer: only that finds out that a name has got another address, or a Sentinel another master.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisFuture, RedisResult,
    Script, TlsCertificates, TlsMode, Value,
};

use super::{Away, Held, Shared};
use crate::clock;
use crate::plan::redis::{Redis, Topology};

/// How long a connection to one node may take to be made, and all of a link.
const CONNECT: Duration = Duration::from_secs(1);
const LONGEST_CONNECT: Duration = Duration::from_secs(10);
/// How often a link is looked at, and how long an instance is known without a sign of life.
const BEAT: Duration = Duration::from_secs(1);
pub(super) const ALIVE: u64 = 10;
/// How long to wait before the next attempt: doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A link that has held for so long was worth making.
const STEADY: Duration = Duration::from_secs(10);
/// A cluster of which no node has answered for so long is looked for anew, by its URLs.
const SILENCE: Duration = Duration::from_secs(5);
/// The part of the keys in which instances are known.
const INSTANCES: &str = "instances";

/// Notes that an instance is there, by the clock that all share, and tells how many are.
pub(super) const HEARTBEAT: &str = "
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])";

/// A connection that all requests share.
#[derive(Clone)]
pub enum Link {
    /// To one server.
    Single(MultiplexedConnection),
    /// To the nodes of a cluster.
    Cluster(ClusterConnection),
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Makes a link for questions of requests.
///
/// # Errors
///
/// What is in the way.
pub async fn connect(settings: &Redis) -> RedisResult<Link> {
    // Each question has a time of its own. A cluster's link has to give up sooner, or it would never hear of it, and go on asking
    // a node that is gone.
    let patience = match settings.topology {
        Topology::Cluster => settings.timeout * 4 / 5,
        Topology::Single | Topology::Sentinel(_) => CONNECT,
    };
    connect_with(settings, patience).await
}

/// Makes a link on which an answer may take so long.
///
/// # Errors
///
/// What is in the way.
pub async fn connect_with(settings: &Redis, patience: Duration) -> RedisResult<Link> {
    let nodes = settings.nodes();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(patience));
    match &settings.topology {
        Topology::Single => {
            let Some(node) = nodes.into_iter().next() else { return Err(unnamed()) };
            let client = client(node, settings)?;
            Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
        }
        Topology::Cluster => {
            let builder = ClusterClientBuilder::new(nodes)
                .connection_timeout(CONNECT)
                .response_timeout(patience)
                .retries(1);
            Ok(Link::Cluster(builder.build()?.get_async_connection().await?))
        }
        Topology::Sentinel(name) => {
            let Some(first) = nodes.first() else { return Err(unnamed()) };
            let of_master = of_master(first);
            let sentinels = nodes.iter().map(of_sentinel).collect();
            let client = Sentinel::build(sentinels)?.async_master_for(name, Some(&of_master)).await?;
            Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
        }
    }
}

/// A client for one node.
///
/// # Errors
///
/// What is in the way.
pub fn client(node: ConnectionInfo, settings: &Redis) -> RedisResult<Client> {
    match certificates(settings) {
        Some(certificates) => Client::build_with_tls(node, certificates),
        None => Client::open(node),
    }
}

/// Runs a script that writes, as parvis does, on a key of its own which is gone afterwards.
///
/// # Errors
///
/// What is in the way, such as a user who may not.
pub async fn try_script(settings: &Redis, link: &mut Link) -> RedisResult<()> {
    let key = format!("{}{{check}}", settings.key_prefix);
    let script = Script::new(HEARTBEAT);
    let _: u32 = script.key(&key).arg("check").arg(ALIVE).invoke_async(link).await?;
    redis::cmd("DEL").arg(&key).query_async(link).await
}

fn certificates(settings: &Redis) -> Option<TlsCertificates> {
    let ca = settings.ca.as_ref()?;
    Some(TlsCertificates { client_tls: None, root_cert: Some(ca.0.clone()) })
}

fn unnamed() -> redis::RedisError {
    (redis::ErrorKind::InvalidClientConfig, "no node is named").into()
}

/// How the one is asked that sentinels look after: as the first URL says.
fn of_master(first: &ConnectionInfo) -> SentinelNodeConnectionInfo {
    let asked =
        SentinelNodeConnectionInfo::default().set_redis_connection_info(first.redis_settings().clone());
    match first.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => asked.set_tls_mode(TlsMode::Insecure),
        ConnectionAddr::TcpTls { .. } => asked.set_tls_mode(TlsMode::Secure),
        _ => asked,
    }
}

/// Where a sentinel is: user, password and database of its URL are for the one that it looks after.
fn of_sentinel(node: &ConnectionInfo) -> ConnectionInfo {
    node.clone().set_redis_settings(redis::RedisConnectionInfo::default())
}

/// Keeps the link up for as long as it is wanted. The operator reads one line for each change.
pub async fn keep(shared: Weak<Shared>) {
    let (mut wait, mut is_told) = (FIRST_WAIT, false);
    loop {
        let Some(strong) = shared.upgrade() else { return };
        // The library has times of its own; this one holds whatever they are.
        let linked = tokio::time::timeout(LONGEST_CONNECT, usable(&strong)).await;
        let linked = linked.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no connection in time").into()));
        let began = clock::start();
        let trouble = match linked {
            Ok((link, bulk)) => {
                let held = Arc::new(Held::new(link, bulk));
                strong.held.store(Some(held.clone()));
                strong.figures.connected(true);
                tracing::info!("the Redis is connected");
                is_told = false;
                drop(strong);
                look_after(&shared, &held).await;
                held.lost_by.get().cloned().unwrap_or_default()
            }
            Err(error) => error.to_string(),
        };
        let Some(strong) = shared.upgrade() else { return };
        let trouble = strong.settings.without_passwords(&trouble);
        strong.figures.connected(false);
        if !is_told {
            tracing::warn!(reason = trouble, "the Redis is left alone; everything goes on without it");
            is_told = true;
        }
        *strong.trouble.lock() = trouble;
        drop(strong);
        // One that has held is made anew soon; one that breaks at once is not made again and again.
        wait = if began.elapsed() > STEADY { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
        tokio::time::sleep(wait).await;
    }
}

/// Makes a link by which one can write, in time, and one for bodies. Who only reads, is out of memory, or slow, is as good as nobody.
async fn usable(shared: &Shared) -> RedisResult<(Link, Link)> {
    let (link, bulk) = (connect(&shared.settings).await?, connect(&shared.settings).await?);
    if shared.settings.topology == Topology::Cluster {
        // Of its nodes some may be well.
        return Ok((link, bulk));
    }
    // The first one may have to bring the script.
    shared.heartbeat(link.clone()).await?;
    let timed = tokio::time::timeout(shared.settings.timeout, shared.heartbeat(link.clone())).await;
    timed.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "it answers later than `timeout`").into()))?;
    Ok((link, bulk))
}

/// Looks after a link for as long as it is held.
async fn look_after(shared: &Weak<Shared>, held: &Arc<Held>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if !strong.held.load().as_ref().is_some_and(|other| Arc::ptr_eq(other, held)) {
            return;
        }
        strong.beat().await;
        let now = clock::start();
        let silence = now.saturating_duration_since(*held.answered_at.lock());
        if silence > SILENCE {
            strong.drop_link(held, format!("no node has answered for {silence:.0?}"));
        }
        // Who told of an end may have meant another link.
        tokio::select! {
            () = strong.lost.notified() => {}
            () = tokio::time::sleep_until((now + BEAT).into()) => {}
        }
    }
}

impl Shared {
    /// Tells the others that this instance is there, and finds out how many there are.
    async fn beat(&self) {
        let beaten: Result<u32, Away> = self.ask("heartbeat", INSTANCES, |link| self.heartbeat(link)).await;
        // What is wrong has been counted, and may have cost the link.
        if let Ok(count) = beaten {
            self.instances.store(count, Ordering::Relaxed);
            self.figures.instances(count);
        }
    }

    async fn heartbeat(&self, mut link: Link) -> RedisResult<u32> {
        let key = self.key(INSTANCES, "");
        self.heartbeat_script.key(key).arg(&*self.instance).arg(ALIVE).invoke_async(&mut link).await
    }
}
