//! How often a client may ask, and who may ask at all.
//!
//! The generic cell rate algorithm: each request pushes a moment ahead by what one request costs, and who is too far ahead
//! waits. One moment per client is all that has to be kept.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::cookies;
use super::head::RequestHead;
use super::identity::claim;

/// What a route lets through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitPolicy {
    /// How often. All must agree.
    pub rates: Vec<RateLimit>,
    /// How many requests of one client at once; `None`: any number.
    pub concurrency: Option<usize>,
    /// Whom at all.
    pub access: Access,
}

/// Whom a route lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Only these; empty: all.
    pub allow: Vec<IpNet>,
    /// None of these.
    pub deny: Vec<IpNet>,
}

impl LimitPolicy {
    /// Whether any of it is counted together with other instances.
    pub fn is_shared(&self) -> bool {
        self.rates.iter().any(|limit| limit.shared.is_some())
    }
}

impl Access {
    /// Whether a client is let through: by the most specific network that has it; of two that are the same, not.
    pub fn lets_in(&self, client: IpAddr) -> bool {
        let closest = |networks: &[IpNet]| {
            networks.iter().filter(|net| net.contains(&client)).map(IpNet::prefix_len).max()
        };
        match (closest(&self.allow), closest(&self.deny)) {
            (allow, Some(deny)) => allow.is_some_and(|allow| allow > deny),
            (Some(_), None) => true,
            (None, None) => self.allow.is_empty(),
        }
    }
}

/// How often a client may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In the response and the metric.
    pub name: Arc<str>,
    /// Requests within `period`.
    pub count: u32,
    /// How long that is.
    pub period: Duration,
    /// How many at once.
    pub burst: u32,
    /// What counts as a client.
    pub key: LimitKey,
    /// For which methods; empty: all.
    pub methods: Vec<String>,
    /// Who is not limited.
    pub exempt: Vec<IpNet>,
    /// Whether it only counts.
    pub dry_run: bool,
    /// Whether several instances count together, and what they do while they cannot.
    pub shared: Option<OnError>,
}

/// What a shared limit does while nobody knows how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Each instance counts by itself, against its part.
    Open,
    /// It refuses.
    Closed,
}

/// What counts as a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// Its address; of IPv6 the network that one household or server has, 64 bits.
    Client,
    /// The value of a field.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// A claim of the token in `Authorization`.
    JwtClaim(String),
    /// Nothing: all together.
    Route,
}

impl LimitKey {
    /// The client that a request is of. Who does not say is known by its address.
    pub fn of<'r>(&self, request: &RequestHead<'r>, client: IpAddr) -> Cow<'r, [u8]> {
        let named = match self {
            Self::Client => None,
            Self::Header(name) => request.fields.first(name).map(Cow::from),
            Self::Cookie(name) => cookies::value(request.fields, name).map(|value| value.as_bytes().into()),
            Self::JwtClaim(name) => claim(request.fields, name).map(|value| value.into_bytes().into()),
            Self::Route => Some(Cow::from(&b""[..])),
        };
        named.unwrap_or_else(|| network(client).to_vec().into())
    }
}

/// The first 64 bits of an address, or all of one of IPv4.
pub fn network(client: IpAddr) -> [u8; 8] {
    let mut bytes = [0; 8];
    match client.to_canonical() {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes.copy_from_slice(&v6.octets()[..8]),
    }
    bytes
}

/// What a limit says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// It is within; this is to be kept of the client.
    Within(Instant),
    /// It is not, before so much time has passed.
    Beyond(Duration),
}

impl RateLimit {
    /// Whether it is about such a request.
    pub fn concerns(&self, method: &str, client: IpAddr) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|listed| listed == method))
            && !self.exempt.iter().any(|net| net.contains(&client))
    }

    /// How far one request pushes the moment ahead.
    pub fn cost(&self) -> Duration {
        self.period / self.count.max(1)
    }

    /// How far ahead it may be.
    pub fn most(&self) -> Duration {
        self.cost().saturating_mul(self.burst.saturating_sub(1))
    }

    /// The part of it that one of so many instances may let through by itself: never less than one request at a time.
    pub fn part(&self, instances: u32) -> Self {
        let instances = instances.max(1);
        let period = self.period.saturating_mul(instances);
        Self { period, burst: (self.burst / instances).max(1), ..self.clone() }
    }

    /// Decides about a request of a client of whom `kept` is known.
    pub fn judge(&self, kept: Option<Instant>, now: Instant) -> Allowance {
        let (cost, most) = (self.cost(), self.most());
        let ahead = kept.map_or(Duration::ZERO, |kept| kept.saturating_duration_since(now));
        match ahead.checked_sub(most).filter(|wait| !wait.is_zero()) {
            Some(wait) => Allowance::Beyond(wait),
            None => Allowance::Within(now + ahead + cost),
        }
    }

    /// What it allows, as `RateLimit-Policy` says it (draft-ietf-httpapi-ratelimit-headers-10 section 3).
    pub fn policy_field(&self) -> String {
        format!("\"{}\";q={};w={}", self.name, self.count, self.period.as_secs().max(1))
    }

    /// What is left of it for who is beyond, as `RateLimit` says it (the same, section 4).
    pub fn field(&self, wait: Duration) -> String {
        format!("\"{}\";r=0;t={}", self.name, whole_seconds(wait))
    }
}

/// A time in seconds, rounded up.
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::{Field, Fields};
    use crate::rules::target::{Scheme, Target};

    fn limit(count: u32, period: u64, burst: u32) -> RateLimit {
        RateLimit {
            name: "api".into(),
            count,
            period: Duration::from_secs(period),
            burst,
            key: LimitKey::Client,
            methods: vec!["POST".into()],
            exempt: vec!["10.0.0.0/8".parse().unwrap()],
            dry_run: false,
            shared: None,
        }
    }

    #[test]
    fn a_burst_passes_and_then_one_after_another() {
        let (limit, start) = (limit(60, 60, 3), crate::clock::start());
        let mut kept = None;
        let mut ask = |millis: u64| match limit.judge(kept, start + Duration::from_millis(millis)) {
            Allowance::Within(next) => {
                kept = Some(next);
                Ok(())
            }
            Allowance::Beyond(wait) => Err(wait.as_millis()),
        };
        assert_eq!([ask(0), ask(0), ask(0), ask(0)], [Ok(()), Ok(()), Ok(()), Err(1000)]);
        assert_eq!([ask(400), ask(1000), ask(1000)], [Err(600), Ok(()), Err(1000)]);
        assert_eq!([ask(60_000), ask(60_000), ask(60_000), ask(60_000)], [Ok(()), Ok(()), Ok(()), Err(1000)]);
    }

    #[test]
    fn in_the_long_run_it_is_the_rate() {
        let (limit, start) = (limit(100, 3600, 20), crate::clock::start());
        let (mut kept, mut passed) = (None, 0);
        for second in 0..3600 {
            if let Allowance::Within(next) = limit.judge(kept, start + Duration::from_secs(second)) {
                (kept, passed) = (Some(next), passed + 1);
            }
        }
        assert_eq!(passed, 20 + 99);
    }

    #[test]
    fn it_concerns_the_methods_and_clients_it_names() {
        let (limit, stranger) = (limit(1, 1, 1), "192.0.2.1".parse().unwrap());
        assert!(limit.concerns("POST", stranger));
        assert!(!limit.concerns("GET", stranger));
        assert!(!limit.concerns("POST", "10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn a_client_is_what_the_key_says_or_its_network() {
        let fields: [Field<'_>; 2] = [("X-Api-Key", b"k"), ("Cookie", b"sessionid=s")];
        let target = Target::new(Scheme::Http, "shop", "/");
        let request = RequestHead {
            method: "GET",
            target,
            fields: Fields::new(&fields),
            has_body: false,
            believed: &[],
        };
        let of = |key: LimitKey, client: &str| key.of(&request, client.parse().unwrap()).into_owned();
        assert_eq!(of(LimitKey::Header("x-api-key".into()), "1.2.3.4"), b"k");
        assert_eq!(of(LimitKey::Cookie("sessionid".into()), "1.2.3.4"), b"s");
        assert_eq!(of(LimitKey::Cookie("other".into()), "1.2.3.4"), [1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(of(LimitKey::Route, "1.2.3.4"), b"");
        assert_eq!(of(LimitKey::Client, "::ffff:1.2.3.4"), of(LimitKey::Client, "1.2.3.4"));
        assert_eq!(of(LimitKey::Client, "2001:db8:1:2:3::1"), of(LimitKey::Client, "2001:db8:1:2:4::2"));
        assert_ne!(of(LimitKey::Client, "2001:db8:1:2::1"), of(LimitKey::Client, "2001:db8:1:3::1"));
    }

    #[test]
    fn the_closest_network_decides_who_is_let_in() {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        for (allow, deny, client, expected) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&["10.0.0.0/8"], &[], "192.0.2.1", false),
            (&["10.0.0.0/8"], &[], "10.1.1.1", true),
            (&[], &["192.0.2.0/24"], "192.0.2.1", false),
            (&["192.0.2.1/32"], &["192.0.2.0/24"], "192.0.2.1", true),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.1.1", false),
            (&["10.0.0.0/8"], &["10.0.0.0/8"], "10.1.1.1", false),
        ] {
            let access = Access { allow: nets(allow), deny: nets(deny) };
            assert_eq!(access.lets_in(client.parse().unwrap()), expected, "{allow:?} {deny:?} {client}");
        }
    }

    #[test]
    fn it_is_told_as_the_draft_has_it() {
        let limit = limit(100, 3600, 20);
        assert_eq!(limit.policy_field(), "\"api\";q=100;w=3600");
        assert_eq!(limit.field(Duration::from_millis(1500)), "\"api\";r=0;t=2");
    }
}
