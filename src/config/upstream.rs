//! The part of the YAML about the applications behind parvis.

use std::path::PathBuf;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::values::{OneOrMany, Period, Share, text_or_map};

/// An application behind parvis.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// Where it answers.
    pub servers: Vec<Server>,
    /// How requests are spread: `round_robin` (default), `least_conn` or `hash`.
    pub load_balancing: Option<LoadBalancing>,
    /// What leads to the same server with `hash`: `client_ip` (default), `url`, or `cookie:NAME`.
    pub hash_by: Option<String>,
    /// The most requests under way at each server: workers times threads. What comes beyond waits in the queue. Default
    /// `1000`.
    pub max_conns: Option<usize>,
    /// Waiting for a place at a server.
    pub queue: Queue,
    /// Asking each server now and then whether it is well.
    pub health_check: HealthCheck,
    /// When a server is left alone.
    pub circuit_breaker: CircuitBreaker,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// Sending a request that failed once more.
    pub retries: Retries,
    /// How long a server that comes back gets less than its share. Default `0s`.
    pub slow_start: Option<Period>,
    /// TLS to servers that are named with `https://`.
    pub tls: Tls,
    /// `http1` (default); `http2`; `auto`: HTTP/2 where the server chooses it during the TLS handshake.
    pub protocol: Option<Protocol>,
    /// How often names of servers are looked up anew. Default `10s`.
    pub resolve_every: Option<Period>,
}

/// A server of an application: its address alone, or with more to say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Server {
    /// `host:port`, with or without `http://` or `https://`; or `unix:/path`.
    pub address: String,
    /// How many requests it gets beside the others. Default `1`.
    pub weight: Option<u32>,
    /// Whether it gets requests only when no other can take them. Default `false`.
    pub backup: Option<bool>,
}

impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<_, InFull, _>(deserializer, "an address, or a map with one")
    }
}

/// A server with more to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFull {
    address: String,
    weight: Option<u32>,
    backup: Option<bool>,
}

impl From<InFull> for Server {
    fn from(InFull { address, weight, backup }: InFull) -> Self {
        Self { address, weight, backup }
    }
}

impl From<&str> for Server {
    fn from(address: &str) -> Self {
        Self { address: address.to_owned(), ..Self::default() }
    }
}

/// How requests are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancing {
    /// In turn.
    RoundRobin,
    /// To the one with the fewest under way.
    LeastConn,
    /// To the same for the same.
    Hash,
}

/// Which HTTP a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge.
    Http2,
    /// What it chooses.
    Auto,
}

/// Waiting for a place at a server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// The most requests that wait; the next one is answered 503. Default `200`.
    pub size: Option<usize>,
    /// How long each waits; then it is answered 503. Default `5s`.
    pub timeout: Option<Period>,
}

/// Asking each server now and then whether it is well.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// What is asked for, such as `/health/`. Default: nothing.
    pub uri: Option<String>,
    /// The `Host` of the question. Default the server's name.
    pub host: Option<String>,
    /// How often. Default `5s`.
    pub interval: Option<Period>,
    /// How long an answer may take. Default `2s`.
    pub timeout: Option<Period>,
    /// After how many bad answers in a row a server gets no more requests. Default `3`.
    pub fails: Option<u32>,
    /// After how many good ones it gets them again. Default `2`.
    pub passes: Option<u32>,
    /// Statuses of a good answer, such as `200` or `200-399`. Default `200-399`.
    pub status: Option<OneOrMany>,
    /// What the body of a good answer contains. Default: anything.
    pub body: Option<String>,
}

/// When a server is left alone.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// After so many failures in a row. Default `5`.
    pub max_fails: Option<u32>,
    /// Or when this share of the requests within `window` has failed. Default `50%`.
    pub error_share: Option<Share>,
    /// Of fewer requests than this no share is taken. Default `20`.
    pub min_requests: Option<u32>,
    /// How far back the share looks. Default `10s`.
    pub window: Option<Period>,
    /// How long it is left alone; then one request tries it again. Default `10s`.
    pub fail_timeout: Option<Period>,
    /// Statuses that count as failures, besides errors and timeouts, such as `[502, 503, 504]`. Default none: who answers is
    /// there.
    pub statuses: Option<Vec<u16>>,
}

/// How long to wait for the origin.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection. Default `1s`.
    pub connect: Option<Period>,
    /// For the whole head of a response, once the request has been sent; over HTTP/1. At most `read`, which is the default.
    pub first_byte: Option<Period>,
    /// For the next bytes of a response. Default `30s`.
    pub read: Option<Period>,
    /// For the origin to take bytes of a request. Default `30s`.
    pub write: Option<Period>,
    /// For waiting in the queue and all attempts together: none begins later. Default `60s`.
    pub total: Option<Period>,
    /// How long an unused connection is kept. Below the origin's own keep-alive time (gunicorn: 2 s), or
    /// requests meet a closing connection. Default `1500ms`.
    pub idle: Option<Period>,
}

/// How long the requests of a route may take.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// For a connection. Default the upstream's.
    pub connect: Option<Period>,
    /// For the whole head of a response, once the request has been sent; over HTTP/1. Default the upstream's, or as `read`.
    pub first_byte: Option<Period>,
    /// For the next bytes of a response: longer for events, and for downloads that are made while they are sent. Default the
    /// upstream's.
    pub read: Option<Period>,
    /// For the origin to take bytes of a request. Default the upstream's.
    pub write: Option<Period>,
    /// For waiting in the queue and all attempts together: none begins later. Default the upstream's.
    pub total: Option<Period>,
}

/// Sending a request that failed once more.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// How often at most, `0` to `5`. Default `2`.
    pub attempts: Option<usize>,
    /// After what: `connect` (no connection), `error` (also a broken one, or no HTTP), `timeout`, or a status such as
    /// `http_503`. Only what is idempotent is repeated, unless nothing of it was sent; and always what met a connection that the
    /// server was about to close. Default `[connect]`.
    pub on: Option<Vec<String>>,
    /// Retries per request in the long run, so that they do not multiply an outage. Default `20%`.
    pub budget: Option<Share>,
}

/// TLS to servers that are named with `https://`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The name that is asked for and that the certificate must have. Default the server's.
    pub server_name: Option<String>,
    /// What is verified: `full` (default), `certificate` (but not its name), or `none`.
    pub verify: Option<Verify>,
    /// A file of certificate authorities (PEM). Default the system's.
    pub ca: Option<PathBuf>,
    /// A file with the certificate that parvis shows (PEM). Default none.
    pub certificate: Option<PathBuf>,
    /// The file of its key (PEM).
    pub key: Option<PathBuf>,
}

/// What is verified of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Who signed it, and its name.
    Full,
    /// Who signed it.
    Certificate,
    /// Nothing.
    None,
}
