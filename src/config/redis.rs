//! The part of the YAML about a Redis that several instances share.

use std::path::PathBuf;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::values::{Period, Secret, Size, one_or_list};

/// A Redis, Valkey, Redis Cluster, or what Sentinels look after.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// Where it answers: `redis://[[user]:password@]host:6379[/database]`, `rediss://` with TLS, or `unix:///path`; or a list: nodes
    /// of a cluster, or sentinels. Default the variable `REDIS_URL`.
    pub url: Option<Urls>,
    /// Whether it is a cluster. Default `false`.
    pub cluster: Option<bool>,
    /// What the sentinels at `url` call the one that they look after. User, password, database and TLS are those of the first URL,
    /// and for that one. Default none.
    pub sentinel: Option<String>,
    /// A file of certificate authorities (PEM) for one `rediss://`. Default the system's, which are also those of clusters and
    /// sentinels.
    pub ca: Option<PathBuf>,
    /// What all keys begin with: instances of another application with another prefix have nothing to do with these. Default
    /// `parvis:`.
    pub key_prefix: Option<String>,
    /// How long a request may wait for an answer; then it goes on without. Default `50ms`.
    pub timeout: Option<Period>,
    /// The largest body that is written to it; larger ones stay in memory. Default `1MiB`.
    pub max_object_size: Option<Size>,
    /// A file in which purges wait that could not be told to the others yet, so that a restart does not lose them. Default none: they
    /// wait in memory.
    pub journal: Option<PathBuf>,
}

/// One URL, or a list of them. They may hold a password.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Urls(pub Vec<Secret>);

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_or_list(deserializer, "a URL such as `redis://127.0.0.1:6379`, or a list of them").map(Self)
    }
}
