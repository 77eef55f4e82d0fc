//! The applications behind parvis, compiled.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path as File, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pingora::tls::pkey::PKey;
use pingora::tls::x509::X509;

use super::compile::{Mistakes, NAME_REMEDY, is_name, period};
use crate::config::locate::Path;
use crate::config::schema::Config;
use crate::config::upstream::{self as written, LoadBalancing, Protocol, Verify};
use crate::config::values::Period;
use crate::rules::balance::{Balance, HashBy};
use crate::rules::breaker::BreakerPolicy;
use crate::rules::head::is_token;
use crate::rules::retry::RetryPolicy;

const MAX_SERVERS: usize = 64;
const MAX_WEIGHT: u32 = 1000;
const MAX_CONNS: RangeInclusive<usize> = 1..=100_000;
const MAX_QUEUE: usize = 100_000;
const MAX_ATTEMPTS: usize = 5;
/// What is read of the body of a good answer must fit into it.
const MAX_HEALTH_BODY: usize = 64;

/// An application behind parvis.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Where it answers; never empty.
    pub servers: Vec<Server>,
    /// How requests are spread.
    pub balance: Balance,
    /// Requests under way at each server.
    pub max_conns: usize,
    /// Requests that wait for a place.
    pub queue_size: usize,
    /// How long each waits.
    pub queue_timeout: Duration,
    /// What its servers are asked now and then.
    pub health: Option<HealthPolicy>,
    /// When a server is left alone.
    pub breaker: BreakerPolicy,
    /// Statuses that count as failures.
    pub failures: Vec<u16>,
    /// When a request is sent once more.
    pub retries: RetryPolicy,
    /// How long a server that comes back gets less than its share.
    pub slow_start: Duration,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For the head of a response; `None`: as for the next bytes.
    pub first_byte_timeout: Option<Duration>,
    /// For the next bytes of a response.
    pub read_timeout: Duration,
    /// For the origin to take bytes of a request.
    pub write_timeout: Duration,
    /// No attempt begins later.
    pub total_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// For servers with TLS.
    pub tls: Tls,
    /// Which HTTP.
    pub protocol: Protocol,
    /// How often names are looked up.
    pub resolve_every: Duration,
}

/// One server as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As in the file, without `http://`: in metrics and logs.
    pub label: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Beside the others; 1 to 1000.
    pub weight: u32,
    /// Whether it is only for when no other can take a request.
    pub backup: bool,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A name or an IP address, without brackets, and a port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// What servers are asked now and then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Path and query.
    pub uri: String,
    /// The `Host`, if not the server's own.
    pub host: Option<String>,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Bad answers in a row that take a server out.
    pub fails: u32,
    /// Good ones that take it in again.
    pub passes: u32,
    /// Statuses of a good answer.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// What its body contains.
    pub body: Option<String>,
}

/// How TLS is spoken to servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Instead of the server's own name.
    pub server_name: Option<String>,
    /// What is verified.
    pub verify: Verify,
    /// Certificate authorities, if not the system's.
    pub ca: Option<Pem>,
    /// The certificate that parvis shows, and its key.
    pub identity: Option<(Pem, Pem)>,
}

/// What a file in PEM format holds, which may be a key and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(pub Vec<u8>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

pub(super) fn compile(config: &Config, path: &Path, mistakes: &mut Mistakes) -> BTreeMap<Arc<str>, Upstream> {
    if config.upstreams.is_empty() {
        mistakes.error(path, "no upstreams", "add `upstreams: {app: {servers: [\"127.0.0.1:8000\"]}}`");
    }
    let mut compiled = BTreeMap::new();
    for (name, written) in &config.upstreams {
        let path = path.key(name);
        if !is_name(name) {
            mistakes.error(&path, format!("`{name}` is not a name"), NAME_REMEDY);
        }
        compiled.insert(Arc::from(name.as_str()), upstream(name, written, &path, mistakes));
    }
    compiled
}

fn upstream(name: &str, written: &written::Upstream, path: &Path, mistakes: &mut Mistakes) -> Upstream {
    let servers = servers(name, &written.servers, &path.key("servers"), mistakes);
    let times = path.key("timeouts");
    let timeouts = &written.timeouts;
    let second = Duration::from_secs(1);
    let protocol = written.protocol.unwrap_or(Protocol::Http1);
    if protocol == Protocol::Auto && servers.iter().all(|server| !server.tls) {
        let remedy = "write `http1` or `http2`, or `https://` before the servers";
        mistakes.error(&path.key("protocol"), "without TLS nothing is negotiated", remedy);
    }
    check_first_byte(timeouts.first_byte, timeouts.read, &times, mistakes);
    Upstream {
        balance: balance(written, path, mistakes),
        max_conns: within(written.max_conns, 1000, &MAX_CONNS, &path.key("max_conns"), mistakes),
        queue_size: within(
            written.queue.size,
            200,
            &(0..=MAX_QUEUE),
            &path.key("queue").key("size"),
            mistakes,
        ),
        queue_timeout: positive(
            written.queue.timeout,
            5 * second,
            &path.key("queue").key("timeout"),
            mistakes,
        ),
        health: health(&written.health_check, &path.key("health_check"), mistakes),
        breaker: breaker(&written.circuit_breaker, &path.key("circuit_breaker"), mistakes),
        failures: failures(&written.circuit_breaker, &path.key("circuit_breaker"), mistakes),
        retries: retries(&written.retries, &path.key("retries"), mistakes),
        slow_start: period(written.slow_start, Duration::ZERO),
        connect_timeout: positive(timeouts.connect, second, &times.key("connect"), mistakes),
        first_byte_timeout: timeouts
            .first_byte
            .map(|period| positive(Some(period), period.0, &times.key("first_byte"), mistakes)),
        read_timeout: positive(timeouts.read, 30 * second, &times.key("read"), mistakes),
        write_timeout: positive(timeouts.write, 30 * second, &times.key("write"), mistakes),
        total_timeout: positive(timeouts.total, 60 * second, &times.key("total"), mistakes),
        idle_timeout: positive(timeouts.idle, Duration::from_millis(1500), &times.key("idle"), mistakes),
        tls: tls(&written.tls, &path.key("tls"), mistakes),
        protocol,
        resolve_every: positive(written.resolve_every, 10 * second, &path.key("resolve_every"), mistakes),
        servers,
    }
}

/// Pingora's timer for the next bytes runs for the first ones, too.
pub(super) fn check_first_byte(
    first_byte: Option<Period>,
    read: Option<Period>,
    path: &Path,
    mistakes: &mut Mistakes,
) {
    if let (Some(first_byte), Some(read)) = (first_byte, read)
        && first_byte > read
    {
        let message = format!("the head may take no longer than the next bytes, {read}");
        mistakes.error(&path.key("first_byte"), message, format!("write `read: {first_byte}` too"));
    }
}

pub(super) fn positive(
    written: Option<Period>,
    default: Duration,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Duration {
    let value = period(written, default);
    if value.is_zero() {
        let remedy = "a request that may wait forever holds a connection forever; write `30s`";
        mistakes.error(path, "this time is zero", remedy);
    }
    value
}

fn within<T: Copy + PartialOrd + fmt::Display>(
    written: Option<T>,
    default: T,
    range: &RangeInclusive<T>,
    path: &Path,
    mistakes: &mut Mistakes,
) -> T {
    let value = written.unwrap_or(default);
    if !range.contains(&value) {
        let remedy = format!("write a number from {} to {}", range.start(), range.end());
        mistakes.error(path, format!("{value} is out of range"), remedy);
    }
    value
}

fn servers(name: &str, written: &[written::Server], path: &Path, mistakes: &mut Mistakes) -> Vec<Server> {
    if written.is_empty() {
        let remedy = "add `servers: [\"127.0.0.1:8000\"]`";
        mistakes.error(path, format!("upstream `{name}` has no servers"), remedy);
    }
    mistakes.limit(path, written.len(), MAX_SERVERS, "servers");
    let mut servers: Vec<Server> = Vec::new();
    for (index, written) in written.iter().enumerate() {
        let place = path.item(index);
        let Some(mut server) = mistakes.take(&place, server(&written.address), "write `127.0.0.1:8000`")
        else {
            continue;
        };
        server.weight = within(written.weight, 1, &(1..=MAX_WEIGHT), &place, mistakes);
        server.backup = written.backup.unwrap_or(false);
        if servers.iter().any(|other| other.label == server.label) {
            mistakes.error(&place, format!("`{}` is listed twice", server.label), "give it a weight");
        }
        servers.push(server);
    }
    if !servers.is_empty() && servers.iter().all(|server| server.backup) {
        mistakes.error(path, "all servers are backups", "leave `backup` out of one");
    }
    servers
}

/// Reads `host:port`, `http://host[:port]`, `https://host[:port]` or `unix:/path`.
fn server(text: &str) -> Result<Server, String> {
    let of = |label: &str, address: Address, tls: bool| Server {
        label: label.into(),
        address,
        tls,
        weight: 1,
        backup: false,
    };
    if let Some(path) = text.strip_prefix("unix:") {
        // The longest name that a socket can have.
        let fits = path.starts_with('/') && path.len() <= 107;
        let address = Address::Unix(path.into());
        return fits
            .then(|| of(text, address, false))
            .ok_or_else(|| format!("`{path}` is no path of a socket"));
    }
    let (rest, scheme_port, tls) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (rest, Some(80), false),
        (_, Some(rest)) => (rest, Some(443), true),
        _ => (text, None, false),
    };
    let rest = if scheme_port.is_some() { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
        return Err(format!("`{text}` is not a server: a host and a port, without a path"));
    }
    // An IPv6 address has colons of its own.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => {
            let port = port.parse().ok().filter(|port| *port > 0);
            (host, Some(port.ok_or_else(|| format!("`{text}` has no port"))?))
        }
        _ if rest.contains(':') && !rest.ends_with(']') => return Err(format!("`{text}` has no port")),
        _ => (rest, scheme_port),
    };
    let port = port.ok_or_else(|| format!("`{text}` has no port"))?;
    let label = if tls { format!("https://{host}:{port}") } else { format!("{host}:{port}") };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Ok(of(&label, Address::Tcp(bare.to_owned(), port), tls))
}

fn balance(written: &written::Upstream, path: &Path, mistakes: &mut Mistakes) -> Balance {
    let by = written.hash_by.as_deref().unwrap_or("client_ip");
    let by = match (by, by.strip_prefix("cookie:")) {
        ("client_ip", _) => HashBy::Client,
        ("url", _) => HashBy::Url,
        (_, Some(name)) if is_token(name) => HashBy::Cookie(name.to_owned()),
        _ => {
            let remedy = "write `client_ip`, `url` or `cookie:sessionid`";
            mistakes.error(&path.key("hash_by"), format!("`{by}` cannot be hashed by"), remedy);
            HashBy::Client
        }
    };
    let strategy = written.load_balancing.unwrap_or(LoadBalancing::RoundRobin);
    if written.hash_by.is_some() && strategy != LoadBalancing::Hash {
        let remedy = "write `load_balancing: hash`, or leave `hash_by` out";
        mistakes.error(&path.key("hash_by"), "nothing is hashed", remedy);
    }
    match strategy {
        LoadBalancing::RoundRobin => Balance::RoundRobin,
        LoadBalancing::LeastConn => Balance::LeastConn,
        LoadBalancing::Hash => Balance::Hash(by),
    }
}

fn health(written: &written::HealthCheck, path: &Path, mistakes: &mut Mistakes) -> Option<HealthPolicy> {
    let second = Duration::from_secs(1);
    let uri = written.uri.clone().unwrap_or_default();
    if written.uri.as_ref().is_some_and(|uri| !uri.starts_with('/') || uri.contains(' ')) {
        mistakes.error(&path.key("uri"), format!("`{uri}` is not a path"), "write `/health/`");
    }
    if written.uri.is_none()
        && serde_json::to_value(written).ok() != serde_json::to_value(written::HealthCheck::default()).ok()
    {
        mistakes.error(path, "nothing is asked for", "add `uri: /health/`");
    }
    let ranges = written.status.as_ref().map_or_else(|| vec!["200-399".to_owned()], |list| list.0.clone());
    let statuses = ranges
        .iter()
        .filter_map(|text| mistakes.take(&path.key("status"), statuses(text), "write `200` or `200-399`"));
    let statuses = statuses.collect();
    let body = written.body.clone().filter(|body| !body.is_empty());
    let length = body.as_ref().map_or(0, String::len);
    mistakes.limit(&path.key("body"), length, MAX_HEALTH_BODY, "bytes");
    let policy = HealthPolicy {
        uri,
        host: written.host.clone(),
        interval: positive(written.interval, 5 * second, &path.key("interval"), mistakes),
        timeout: positive(written.timeout, 2 * second, &path.key("timeout"), mistakes),
        fails: within(written.fails, 3, &(1..=100), &path.key("fails"), mistakes),
        passes: within(written.passes, 2, &(1..=100), &path.key("passes"), mistakes),
        statuses,
        body,
    };
    written.uri.is_some().then_some(policy)
}

fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse().ok().filter(|status| (200..=599).contains(status));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("`{text}` is not a status")),
    }
}

fn breaker(written: &written::CircuitBreaker, path: &Path, mistakes: &mut Mistakes) -> BreakerPolicy {
    let ten = Duration::from_secs(10);
    let error_share = written.error_share.map_or(0.5, |share| share.0);
    if error_share <= 0.0 {
        let remedy = "a server without any failure would be left alone; write `50%`";
        mistakes.error(&path.key("error_share"), "the share is zero", remedy);
    }
    BreakerPolicy {
        max_fails: within(written.max_fails, 5, &(1..=10_000), &path.key("max_fails"), mistakes),
        error_share,
        min_requests: within(written.min_requests, 20, &(1..=1_000_000), &path.key("min_requests"), mistakes),
        window: positive(written.window, ten, &path.key("window"), mistakes),
        fail_timeout: positive(written.fail_timeout, ten, &path.key("fail_timeout"), mistakes),
    }
}

fn failures(written: &written::CircuitBreaker, path: &Path, mistakes: &mut Mistakes) -> Vec<u16> {
    let statuses = written.statuses.clone().unwrap_or_default();
    for status in &statuses {
        if !(400..=599).contains(status) {
            let message = format!("{status} is no failure");
            mistakes.error(&path.key("statuses"), message, "write statuses from 400 to 599");
        }
    }
    statuses
}

fn retries(written: &written::Retries, path: &Path, mistakes: &mut Mistakes) -> RetryPolicy {
    let mut policy = RetryPolicy {
        attempts: within(written.attempts, 2, &(0..=MAX_ATTEMPTS), &path.key("attempts"), mistakes),
        on_connect: written.on.is_none(),
        on_error: false,
        on_timeout: false,
        statuses: Vec::new(),
        budget: written.budget.map_or(0.2, |share| share.0),
    };
    for (index, word) in written.on.iter().flatten().enumerate() {
        let status = word.strip_prefix("http_").and_then(|status| status.parse().ok());
        match (word.as_str(), status) {
            ("connect", _) => policy.on_connect = true,
            ("error", _) => (policy.on_connect, policy.on_error) = (true, true),
            ("timeout", _) => policy.on_timeout = true,
            (_, Some(status @ 400..=599)) => policy.statuses.push(status),
            _ => {
                let remedy = "write `connect`, `error`, `timeout` or a status such as `http_503`";
                mistakes.error(&path.key("on").item(index), format!("`{word}` is no failure"), remedy);
            }
        }
    }
    policy
}

fn tls(written: &written::Tls, path: &Path, mistakes: &mut Mistakes) -> Tls {
    let mut read = |file: &Option<PathBuf>, key: &str, check: fn(&[u8]) -> bool| {
        let file = file.as_deref()?;
        mistakes.take(&path.key(key), pem(file, check), "name a file in PEM format that parvis may read")
    };
    let ca = read(&written.ca, "ca", is_certificate);
    let certificate = read(&written.certificate, "certificate", is_certificate);
    let key = read(&written.key, "key", |pem| PKey::private_key_from_pem(pem).is_ok());
    if written.certificate.is_some() != written.key.is_some() {
        mistakes.error(path, "a certificate and its key belong together", "write both, or neither");
    }
    let verify = written.verify.unwrap_or(Verify::Full);
    if verify != Verify::Full {
        let remedy = "name the authority that signed the server's certificate: `ca: /etc/ssl/app-ca.pem`";
        mistakes.warn(&path.key("verify"), "whoever sits between parvis and the server can be it", remedy);
    }
    Tls { server_name: written.server_name.clone(), verify, ca, identity: certificate.zip(key) }
}

/// Whether there is a certificate in a file.
pub(super) fn is_certificate(pem: &[u8]) -> bool {
    X509::stack_from_pem(pem).is_ok_and(|found| !found.is_empty())
}

/// What a file holds. The error does not repeat any of it.
pub(super) fn pem(file: &File, is_valid: fn(&[u8]) -> bool) -> Result<Pem, String> {
    let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    if !is_valid(&text) {
        return Err(format!("{}: nothing of this kind in it", file.display()));
    }
    Ok(Pem(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_a_host_and_a_port_or_a_socket() {
        for (text, expected) in [
            ("127.0.0.1:8000", Some("127.0.0.1:8000")),
            ("http://127.0.0.1:8000/", Some("127.0.0.1:8000")),
            ("http://app", Some("app:80")),
            ("https://app", Some("https://app:443")),
            ("https://app:8443/", Some("https://app:8443")),
            ("[::1]:8000", Some("[::1]:8000")),
            ("http://[::1]", Some("[::1]:80")),
            ("unix:/run/app.sock", Some("unix:/run/app.sock")),
            ("unix:app.sock", None),
            ("app", None),
            ("app:0", None),
            ("app:99999", None),
            ("::1", None),
            ("http://app/path", None),
            ("", None),
        ] {
            assert_eq!(
                server(text).ok().map(|server| server.label.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
        assert_eq!(server("[::1]:80").unwrap().address, Address::Tcp("::1".to_owned(), 80));
    }

    #[test]
    fn statuses_are_one_or_a_range() {
        assert_eq!(statuses("200"), Ok(200..=200));
        assert_eq!(statuses("200-399"), Ok(200..=399));
        for bad in ["", "2xx", "399-200", "100", "600"] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
    }
}
