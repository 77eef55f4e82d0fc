//! The upstream side: which server takes a request, and how long it is waited for.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora::upstreams::peer::HttpPeer;

use crate::plan::{Plan, Upstream};

/// The servers of one upstream, looked up.
#[derive(Debug)]
pub struct Pool {
    servers: Vec<SocketAddr>,
    settings: Upstream,
    turn: AtomicUsize,
}

/// The pools of a plan, by the name of the upstream.
pub type Pools = BTreeMap<Arc<str>, Arc<Pool>>;

/// A host name that could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{upstream}`: cannot look up `{server}`: {cause}")]
pub struct LookupError {
    upstream: String,
    server: String,
    cause: String,
}

/// Looks up the servers of a plan. Pools of `before` whose settings are unchanged keep their turn.
pub fn pools(plan: &Plan, before: Option<&Pools>) -> Result<Pools, LookupError> {
    let mut pools = Pools::new();
    for (name, settings) in &plan.upstreams {
        let servers = look_up(name, settings)?;
        let kept = before
            .and_then(|pools| pools.get(name))
            .filter(|pool| pool.settings == *settings && pool.servers == servers);
        let pool = match kept {
            Some(pool) => pool.clone(),
            None => Arc::new(Pool { servers, settings: settings.clone(), turn: AtomicUsize::new(0) }),
        };
        pools.insert(name.clone(), pool);
    }
    Ok(pools)
}

fn look_up(upstream: &str, settings: &Upstream) -> Result<Vec<SocketAddr>, LookupError> {
    let mut found = Vec::new();
    for server in &settings.servers {
        let failed =
            |cause: String| LookupError { upstream: upstream.to_owned(), server: server.clone(), cause };
        let mut addresses = server.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
        found.push(addresses.next().ok_or_else(|| failed("no address".to_owned()))?);
    }
    Ok(found)
}

impl Pool {
    /// The server whose turn it is.
    pub fn peer(&self) -> Box<HttpPeer> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // A plan has no upstream without servers.
        let server = self.servers[turn % self.servers.len()];
        let mut peer = HttpPeer::new(server, false, String::new());
        peer.options.connection_timeout = Some(self.settings.connect_timeout);
        peer.options.total_connection_timeout = Some(self.settings.connect_timeout);
        peer.options.read_timeout = Some(self.settings.read_timeout);
        peer.options.write_timeout = Some(self.settings.write_timeout);
        peer.options.idle_timeout = Some(self.settings.idle_timeout);
        Box::new(peer)
    }

    /// How long the origin may be silent.
    pub fn read_timeout(&self) -> Duration {
        self.settings.read_timeout
    }

    /// How many servers there are, i.e. how many connections are worth trying.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there are none; a plan has no such upstream.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }
}
