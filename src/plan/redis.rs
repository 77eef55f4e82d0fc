//! The Redis that several instances share, compiled.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use super::compile::Mistakes;
use super::upstreams::{Pem, is_certificate, pem, positive};
use crate::config::locate::Path;
use crate::config::redis as written;
use crate::config::values::Secret;

const MAX_NODES: usize = 64;
const MAX_PREFIX: usize = 64;
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(50);
const DEFAULT_MAX_OBJECT_SIZE: u64 = 1 << 20;
/// All share one connection: what is larger would keep the others waiting.
const MAX_MAX_OBJECT_SIZE: u64 = 64 << 20;

/// Where it is, and how it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Its URLs, which can be read; never empty.
    pub urls: Vec<Secret>,
    /// How its nodes belong together.
    pub topology: Topology,
    /// Who has to have signed its certificate; `None`: one that the system knows.
    pub ca: Option<Pem>,
    /// What all keys begin with.
    pub key_prefix: Arc<str>,
    /// How long a request waits for it.
    pub timeout: Duration,
    /// The most bytes of a body that is written to it.
    pub max_object_size: u64,
    /// Where purges wait that could not be told yet, if not in memory only.
    pub journal: Option<PathBuf>,
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

    /// A name for a key. Those of a `part` are on one node of a cluster.
    pub fn key(&self, part: &str, rest: &str) -> String {
        format!("{}{{{part}}}{rest}", self.key_prefix)
    }

    /// A text, such as one of a server, without the passwords that are known.
    pub fn without_passwords(&self, text: &str) -> String {
        let nodes = self.nodes();
        let passwords = nodes.iter().filter_map(|node| node.redis_settings().password());
        passwords
            .filter(|password| !password.is_empty())
            .fold(text.to_owned(), |text, password| text.replace(password, "***"))
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
    let has_tls = urls.iter().all(|url| url.expose().to_ascii_lowercase().starts_with("rediss://"));
    if written.ca.is_some() && !has_tls {
        let remedy = "write `rediss://`, or leave it out";
        mistakes.error(&path.key("ca"), "without TLS nobody shows a certificate", remedy);
    }
    if written.ca.is_some() && topology != Topology::Single {
        let remedy = "let the system know the authority, or set the variable SSL_CERT_FILE";
        mistakes.error(
            &path.key("ca"),
            "it is for one server; several are verified by the system's authorities",
            remedy,
        );
    }
    let ca = written.ca.as_deref().and_then(|file| {
        let remedy = "name a file in PEM format that parvis may read";
        mistakes.take(&path.key("ca"), pem(file, is_certificate), remedy)
    });
    let max_object_size = written.max_object_size.map_or(DEFAULT_MAX_OBJECT_SIZE, |size| size.0);
    if !(1..=MAX_MAX_OBJECT_SIZE).contains(&max_object_size) {
        let remedy = "write from `1KiB` to `64MiB`";
        mistakes.error(&path.key("max_object_size"), "all share one connection", remedy);
    }
    let journal = written.journal.clone();
    Some(Redis { urls, topology, ca, key_prefix: key_prefix.into(), timeout, max_object_size, journal })
}
