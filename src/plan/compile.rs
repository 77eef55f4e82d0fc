//! Config to Plan, with every mistake at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::listeners::Listener;
use super::{Clients, Memory, Plan, admin, headers, listeners, redis, routes, upstreams};
use crate::config::locate::Path;
use crate::config::schema::{self, Config, ForwardedFields, LogFormat};
use crate::config::values::{Period, Size};
use crate::config::{Mistake, Severity};
use crate::rules::forwarding::{ToldBy, Trust};

pub(super) const DEFAULT_PORT: u16 = 8080;
const DEFAULT_MAX_SIZE: u64 = 256 << 20;
const DEFAULT_MAX_OBJECT_SIZE: u64 = 8 << 20;
/// Below this the store's own tables would not fit.
const MIN_MAX_SIZE: u64 = 1 << 20;
/// A stored object may take this share of the store at most, so that one cannot push out everything else.
const MAX_OBJECT_SHARE: u64 = 4;
const DEFAULT_MAX_HEADER_SIZE: u64 = 32 << 10;
/// Less would turn browsers away; more than the most that Pingora reads would be refused by it without a word.
const HEADER_SIZES: std::ops::RangeInclusive<u64> = (1 << 10)..=(512 << 10);
const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_MIN_RATE: u64 = 100;
const MAX_NETWORKS: usize = 1000;

/// Collects mistakes while the parts are compiled.
#[derive(Default)]
pub(super) struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    pub fn error(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Mistake::error(path, message, remedy));
    }

    pub fn warn(&mut self, path: &Path, message: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Mistake::warning(path, message, remedy));
    }

    /// The value, or nothing and the error noted.
    pub fn take<T>(&mut self, path: &Path, result: Result<T, String>, remedy: &str) -> Option<T> {
        result.map_err(|message| self.error(path, message, remedy)).ok()
    }

    pub fn limit(&mut self, path: &Path, found: usize, max: usize, what: &str) {
        if found > max {
            self.error(path, format!("{found} {what}; at most {max} are allowed"), "");
        }
    }
}

/// Compiles a configuration. The plan is `None` when a mistake keeps it from being made.
pub fn compile(config: &Config) -> (Option<Plan>, Vec<Mistake>) {
    let mut mistakes = Mistakes::default();
    let top = Path::default();
    let listen = listeners::compile(config, &top.key("listen"), &mut mistakes);
    let trust = trust(config, &top.key("trusted_proxies"), &mut mistakes);
    let purge_clients = purge_clients(config, &top.key("purge_clients"), &mut mistakes);
    let instance = instance(config, &listen, &top.key("instance"), &mut mistakes);
    let clients = clients(&config.clients, &top.key("clients"), &mut mistakes);
    let admin = admin::compile(&config.admin, &top.key("admin"), &mut mistakes);
    let upstreams = upstreams::compile(config, &top.key("upstreams"), &mut mistakes);
    let storage = top.key("storage");
    let memory = memory(config, &storage.key("memory"), &mut mistakes);
    let written = config.storage.redis.as_ref();
    let redis = written.and_then(|written| redis::compile(written, &storage.key("redis"), &mut mistakes));
    let response_headers =
        headers::compile(&config.response_headers, &top.key("response_headers"), &mut mistakes);
    let (routes, query_policies) = routes::compile(config, &response_headers, &mut mistakes);
    let plan = Plan {
        listen,
        trust,
        purge_clients,
        clients,
        instance,
        admin,
        upstreams,
        memory,
        redis,
        routes,
        query_policies,
        response_headers,
        access_log: config.observability.access_log.format.unwrap_or(LogFormat::Json) == LogFormat::Json,
        slow_request: period(config.observability.slow_request, Duration::from_secs(1)),
    };
    refuse_loops(&plan, &top.key("upstreams"), &mut mistakes);
    let failed = mistakes.0.iter().any(|mistake| mistake.severity == Severity::Error);
    ((!failed).then_some(plan), mistakes.0)
}

fn clients(written: &schema::Clients, path: &Path, mistakes: &mut Mistakes) -> Clients {
    let mut positive = |value: Option<Period>, key: &str, default: Duration| {
        let time = period(value, default);
        if time.is_zero() {
            mistakes.error(&path.key(key), "no client could be served", "write a time such as 10s");
        }
        time
    };
    let header_timeout = positive(written.header_timeout, "header_timeout", DEFAULT_HEADER_TIMEOUT);
    let idle_timeout = positive(written.idle_timeout, "idle_timeout", DEFAULT_IDLE_TIMEOUT);
    let stall_timeout = positive(written.stall_timeout, "stall_timeout", DEFAULT_STALL_TIMEOUT);
    let min_rate = written.min_rate.map_or(DEFAULT_MIN_RATE, |size| size.0);
    let max_header_size = written.max_header_size.map_or(DEFAULT_MAX_HEADER_SIZE, |size| size.0);
    if !HEADER_SIZES.contains(&max_header_size) {
        let (least, most) = (Size(*HEADER_SIZES.start()), Size(*HEADER_SIZES.end()));
        let message = format!("a head must be allowed {least} to {most}");
        mistakes.error(
            &path.key("max_header_size"),
            message,
            "32KiB is enough for browsers and their cookies",
        );
    }
    // Within the bounds above.
    let max_header_size = usize::try_from(max_header_size).unwrap_or(usize::MAX);
    Clients { max_header_size, header_timeout, idle_timeout, stall_timeout, min_rate }
}

/// An upstream that is parvis itself would send every request round until nothing is left to open.
fn refuse_loops(plan: &Plan, path: &Path, mistakes: &mut Mistakes) {
    let listens = |server: SocketAddr| {
        plan.listen.iter().map(|listener| listener.address).any(|own| {
            own.port() == server.port()
                && (own.ip() == server.ip() || (own.ip().is_unspecified() && server.ip().is_loopback()))
        })
    };
    for (name, upstream) in &plan.upstreams {
        for server in &upstream.servers {
            let local = server.label.replace("localhost:", "127.0.0.1:");
            if local.parse().is_ok_and(listens) {
                // The list as compiled may be shorter than as written: point at the whole.
                let place = path.key(name.as_ref()).key("servers");
                mistakes.error(
                    &place,
                    format!("`{}` is where parvis itself listens", server.label),
                    "name the application's port",
                );
            }
        }
    }
}

pub(super) fn period(written: Option<Period>, default: Duration) -> Duration {
    written.map_or(default, |period| period.0)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| format!("`{text}` is not an address with a port"))
}

fn trust(config: &Config, path: &Path, mistakes: &mut Mistakes) -> Trust {
    let risk = "trusts every client to name its own address and scheme";
    let remedy = "list the networks of your own proxies";
    let networks = networks(&config.trusted_proxies, Some((risk, remedy)), path, mistakes);
    let by = match config.forwarded_fields {
        None | Some(ForwardedFields::XForwarded) => ToldBy::XForwarded,
        Some(ForwardedFields::Forwarded) => ToldBy::Forwarded,
    };
    Trust { networks, by }
}

fn purge_clients(config: &Config, path: &Path, mistakes: &mut Mistakes) -> Vec<IpNet> {
    let machine = || vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
    let written = config.purge_clients.clone().unwrap_or_else(machine);
    let risk = "lets every client empty the store";
    networks(&written, Some((risk, "list the addresses of your own applications")), path, mistakes)
}

/// The name of the instance: the machine's name tells instances apart, the port those of one machine.
fn instance(config: &Config, listen: &[Listener], path: &Path, mistakes: &mut Mistakes) -> Arc<str> {
    if let Some(name) = &config.instance {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        if !(1..=128).contains(&name.len()) || !name.bytes().all(is_plain) {
            mistakes.error(path, format!("`{name}` is not a name"), "write `web-1`");
        }
        return name.as_str().into();
    }
    // Where the system does not say, the port has to do.
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let port = listen.first().map_or(DEFAULT_PORT, |listener| listener.address.port());
    format!("{}:{port}", machine.trim()).into()
}

/// Reads networks. `risk` is what is said, and advised, of one that is everybody.
pub(super) fn networks(
    written: &[String],
    risk: Option<(&str, &str)>,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Vec<IpNet> {
    let mut networks = Vec::new();
    mistakes.limit(path, written.len(), MAX_NETWORKS, "networks");
    for (index, text) in written.iter().enumerate() {
        let place = path.item(index);
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| format!("`{text}` is not a network"));
        let Some(network) = mistakes.take(&place, network, "write `10.0.0.0/8`, `::1` or `192.0.2.7`") else {
            continue;
        };
        if let Some((risk, remedy)) = risk.filter(|_| network.prefix_len() == 0) {
            mistakes.warn(&place, format!("`{text}` {risk}"), remedy);
        }
        networks.push(network);
    }
    networks
}

fn memory(config: &Config, path: &Path, mistakes: &mut Mistakes) -> Memory {
    let written = &config.storage.memory;
    let max_size = written.max_size.map_or(DEFAULT_MAX_SIZE, |size| size.0);
    if max_size < MIN_MAX_SIZE {
        mistakes.error(&path.key("max_size"), "`max_size` is below 1MiB", "write `256MiB`");
    }
    let largest = max_size / MAX_OBJECT_SHARE;
    let max_object_size = match written.max_object_size {
        None => DEFAULT_MAX_OBJECT_SIZE.min(largest),
        Some(size) => {
            if size.0 > largest {
                mistakes.error(
                    &path.key("max_object_size"),
                    "`max_object_size` is more than a quarter of `max_size`",
                    "one object could push out most others; raise `max_size` or lower this",
                );
            }
            size.0
        }
    };
    Memory { max_size, max_object_size }
}

pub(super) const NAME_REMEDY: &str = "use letters, digits, `-` and `_`, at most 64 of them";

/// Names appear in keys, metrics and logs.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_out_the_host() {
        assert_eq!(address(":80"), Ok("0.0.0.0:80".parse().unwrap()));
        assert_eq!(address("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        assert!(address("80").is_err());
        assert!(address("localhost:80").is_err());
    }
}
