//! The link to the Redis, and who keeps it up.
//!
//! There is one connection, which all requests share (to each node of a cluster). It is made anew from the beginning whenever it
//! does not answer: only that finds out that a name has got another address, or a Sentinel another master.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisFuture, RedisResult,
    Script, TlsMode, Value,
};

use super::{Away, Shared};
use crate::clock;
use crate::plan::redis::{Redis, Topology};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a link is looked at, and how long an instance is known without a sign of life.
const BEAT: Duration = Duration::from_secs(1);
const ALIVE: u64 = 10;
/// How long to wait before the next attempt: doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Notes that an instance is there, by the clock that all share, and tells how many are.
const HEARTBEAT: &str = "
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
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

/// Makes a link.
///
/// # Errors
///
/// What is in the way.
pub async fn connect(settings: &Redis) -> RedisResult<Link> {
    let nodes = settings.nodes();
    // Each question has a time of its own; this is the longest of all.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(CONNECT));
    match &settings.topology {
        Topology::Single => {
            let Some(node) = nodes.into_iter().next() else { return Err(unnamed()) };
            let client = Client::open(node)?;
            Ok(Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
        }
        Topology::Cluster => {
            let client = ClusterClientBuilder::new(nodes)
                .connection_timeout(CONNECT)
                .response_timeout(CONNECT)
                .retries(1)
                .build()?;
            Ok(Link::Cluster(client.get_async_connection().await?))
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

fn unnamed() -> redis::RedisError {
    (redis::ErrorKind::InvalidClientConfig, "no node is named").into()
}

/// How the one is asked that sentinels look after: as the first URL says.
fn of_master(first: &ConnectionInfo) -> SentinelNodeConnectionInfo {
    let is_tls = matches!(first.addr(), ConnectionAddr::TcpTls { .. });
    let asked =
        SentinelNodeConnectionInfo::default().set_redis_connection_info(first.redis_settings().clone());
    if is_tls { asked.set_tls_mode(TlsMode::Secure) } else { asked }
}

/// Where a sentinel is: user, password and database of its URL are for the one that it looks after.
fn of_sentinel(node: &ConnectionInfo) -> ConnectionInfo {
    node.clone().set_redis_settings(redis::RedisConnectionInfo::default())
}

/// Keeps the link up for as long as it is wanted.
pub async fn keep(shared: Weak<Shared>) {
    let mut wait = FIRST_WAIT;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        // The library has times of its own; this one holds whatever they are.
        let linked = tokio::time::timeout(2 * CONNECT, usable(&strong)).await;
        let linked = linked.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no connection in time").into()));
        match linked {
            Ok(link) => {
                tracing::info!("the Redis is connected");
                wait = FIRST_WAIT;
                strong.unanswered.store(0, Ordering::Relaxed);
                strong.link.store(Some(link.into()));
                strong.figures.connected(true);
                drop(strong);
                look_after(&shared).await;
            }
            Err(error) => {
                strong.cannot_connect(error.to_string());
                drop(strong);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Makes a link by which one can write. Who only reads, or is out of memory, is as good as nobody.
async fn usable(shared: &Shared) -> RedisResult<Link> {
    let link = connect(&shared.settings).await?;
    shared.heartbeat(link.clone()).await?;
    Ok(link)
}

/// Looks after a link until it is gone.
async fn look_after(shared: &Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        if strong.link.load().is_none() {
            return;
        }
        strong.beat().await;
        let beaten = clock::start();
        tokio::select! {
            () = strong.lost.notified() => return,
            () = tokio::time::sleep_until((beaten + BEAT).into()) => {}
        }
    }
}

impl Shared {
    /// Tells the operator, once, why there is no link.
    fn cannot_connect(&self, error: String) {
        let mut trouble = self.trouble.lock();
        if *trouble != error {
            tracing::warn!(error, "the Redis cannot be connected; everything goes on without it");
            *trouble = error;
        }
    }

    /// Tells the others that this instance is there, and finds out how many there are.
    async fn beat(&self) {
        let beaten: Result<u32, Away> = self.ask("heartbeat", |link| self.heartbeat(link)).await;
        // What is wrong has been counted, and may have cost the link.
        if let Ok(count) = beaten {
            self.instances.store(count, Ordering::Relaxed);
            self.figures.instances(count);
        }
    }

    async fn heartbeat(&self, mut link: Link) -> RedisResult<u32> {
        let script = Script::new(HEARTBEAT);
        let key = self.key("instances", "");
        script.key(key).arg(&*self.instance).arg(ALIVE).invoke_async(&mut link).await
    }
}
