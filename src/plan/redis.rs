//! The Redis that several instances share, compiled.

use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::compile::Mistakes;
use super::upstreams::positive;
use crate::config::locate::Path;
use crate::config::redis as written;
use crate::config::values::Secret;

const MAX_NODES: usize = 64;
const MAX_PREFIX: usize = 64;
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(50);

/// Where it is, and how it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Its URLs, which can be read; never empty.
    pub urls: Vec<Secret>,
    /// How its nodes belong together.
    pub topology: Topology,
    /// What all keys begin with.
    pub key_prefix: Arc<str>,
    /// How long a request waits for it.
    pub timeout: Duration,
}

/// How the nodes of a Redis belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// There is one.
    Single,
    /// Each has a part of the keys.
    Cluster,
    /// They tell which one it is that is called so.
    Sentinel(String),
}

impl Redis {
    /// The nodes, as the client library knows them.
    pub fn nodes(&self) -> Vec<ConnectionInfo> {
        // That they can be read was found out when the plan was made.
        self.urls.iter().filter_map(|url| url.expose().into_connection_info().ok()).collect()
    }
}

pub(super) fn compile(written: &written::Redis, path: &Path, mistakes: &mut Mistakes) -> Option<Redis> {
    let urls = written.url.clone().unwrap_or_default().0;
    let place = path.key("url");
    if urls.is_empty() {
        let remedy = "add `url: redis://127.0.0.1:6379`, or set the variable REDIS_URL";
        mistakes.error(path, "no Redis is named", remedy);
        return None;
    }
    mistakes.limit(&place, urls.len(), MAX_NODES, "nodes");
    for (index, url) in urls.iter().enumerate() {
        // What stands there may be a secret, and is not repeated.
        let place = if urls.len() > 1 { place.item(index) } else { place.clone() };
        if url.expose().into_connection_info().is_err() {
            let remedy =
                "write `redis://:password@host:6379/0`, `rediss://` for TLS, or `unix:///run/redis.sock`";
            mistakes.error(&place, "this is no URL of a Redis", remedy);
        }
    }
    let is_cluster = written.cluster.unwrap_or(false);
    let topology = match &written.sentinel {
        Some(_) if is_cluster => {
            let remedy = "leave one of them out: a cluster looks after itself";
            mistakes.error(&path.key("sentinel"), "a cluster has no sentinels", remedy);
            Topology::Cluster
        }
        Some(name) => Topology::Sentinel(name.clone()),
        None if is_cluster => Topology::Cluster,
        None => Topology::Single,
    };
    if topology == Topology::Single && urls.len() > 1 {
        let remedy = "add `cluster: true`, or `sentinel: NAME`";
        mistakes.error(&place, "several nodes that do not belong together", remedy);
    }
    let key_prefix = written.key_prefix.as_deref().unwrap_or("parvis:");
    // Braces would put all keys of a cluster on one node.
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"{}*?[]\\".contains(&byte);
    if !(1..=MAX_PREFIX).contains(&key_prefix.len()) || !key_prefix.bytes().all(is_plain) {
        let remedy =
            format!("write `shop:`, without spaces, braces and wildcards, at most {MAX_PREFIX} letters");
        mistakes.error(&path.key("key_prefix"), format!("`{key_prefix}` is no prefix"), remedy);
    }
    let timeout = positive(written.timeout, DEFAULT_TIMEOUT, &path.key("timeout"), mistakes);
    Some(Redis { urls, topology, key_prefix: key_prefix.into(), timeout })
}
