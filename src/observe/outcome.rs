//! One record per request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ids;
use super::text::{self, Sink};
use crate::clock::{self, Timestamp};
use crate::rules::admission::DiscardReason;
use crate::rules::freshness::StandIn;
use crate::rules::head::Fields;
use crate::rules::lookup::PassReason;
use crate::rules::verdict::{RevalidateReason, Verdict};

/// The longest request id taken over from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The most bytes of room that each text of an outcome keeps for the next request.
const MAX_KEPT: usize = 4096;

/// What became of the response of a forwarded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is stored.
    Stored,
    /// It may be stored, once it is complete and has been looked at (see [`crate::rules::guard`]).
    OnProbation,
    /// It is not, for this reason.
    Discarded(DiscardReason),
}

/// What a route in shadow mode would have done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadowed {
    /// A hit, with the bytes that the origin sent.
    Same,
    /// A hit, with other bytes than the origin sent.
    Different,
    /// A hit that cannot be compared: the origin's answer had no complete body.
    Unseen,
    /// A fetch, whose response would be stored.
    Miss,
    /// A fetch by another visitor, whose response shows that the page is personalised.
    Personalised,
    /// A fetch whose response would not be stored.
    NotStored,
    /// A pass: the key proved personalised a moment ago.
    Passed,
}

impl Shadowed {
    /// The word used in the log and the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Unseen => "unseen",
            Self::Miss => "miss",
            Self::Personalised => "personalised",
            Self::NotStored => "not-stored",
            Self::Passed => "pass",
        }
    }
}

/// Why parvis answered by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// No route takes the request.
    NoRoute,
    /// The method is not for an application, and its client may not purge by it.
    Refused,
    /// A client of another cache has purged.
    Purged,
    /// A client of another cache has asked for a purge that cannot be read.
    BadPurge,
    /// The request is malformed.
    BadRequest,
    /// Its version is not one of HTTP/1 (RFC 9110 section 15.6.6).
    Version,
    /// It has a transfer coding that is not known (RFC 9112 section 6.1).
    TransferCoding,
    /// Its head is larger than `clients.max_header_size` (RFC 6585 section 5).
    HeadTooLarge,
    /// Its head took longer than `clients.header_timeout`.
    HeadTooSlow,
    /// An `OPTIONS` that its sender wants no further than here (RFC 9110 section 7.6.2).
    MaxForwards,
    /// Nothing usable is stored, and the client wants nothing else.
    OnlyIfCached,
    /// It is sent to `https://`.
    Redirected,
    /// The route does not let this client in.
    Forbidden,
    /// The client has asked more often than a limit of the route allows.
    RateLimited,
    /// The client has as many requests under way as the route allows.
    TooManyAtOnce,
    /// The instances that count together cannot, and the operator wants nobody let through then.
    Uncounted,
    /// No server of the upstream takes requests now.
    NoServer,
    /// All are busy, and too many requests wait already.
    QueueFull,
    /// It has waited too long for a place at one.
    QueueTimeout,
    /// The origin could not be reached, or broke off.
    OriginUnreachable,
    /// The origin took too long.
    OriginTimeout,
    /// The origin did not answer, and what is stored may not be served without asking it (RFC 9111 section 5.2.2.2).
    Unvalidated,
    /// A defect of parvis.
    Internal,
}

impl Local {
    /// The word used in the header, the log and the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Refused => "method-refused",
            Self::Purged => "purged",
            Self::BadPurge => "bad-purge",
            Self::BadRequest => "bad-request",
            Self::Version => "version",
            Self::TransferCoding => "transfer-coding",
            Self::HeadTooLarge => "head-too-large",
            Self::HeadTooSlow => "head-too-slow",
            Self::MaxForwards => "max-forwards",
            Self::OnlyIfCached => "only-if-cached",
            Self::Redirected => "redirected",
            Self::Forbidden => "access",
            Self::RateLimited => "rate-limit",
            Self::TooManyAtOnce => "max-concurrent",
            Self::Uncounted => "uncounted",
            Self::NoServer => "no-server",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::OriginUnreachable => "origin-unreachable",
            Self::OriginTimeout => "origin-timeout",
            Self::Unvalidated => "validation-failed",
            Self::Internal => "internal",
        }
    }

    /// The status it is answered with.
    pub fn status(self) -> u16 {
        match self {
            Self::MaxForwards | Self::Purged => 200,
            Self::Redirected => 308,
            Self::Forbidden => 403,
            Self::RateLimited | Self::TooManyAtOnce => 429,
            Self::NoRoute => 404,
            Self::Refused => 405,
            Self::BadRequest | Self::BadPurge => 400,
            Self::HeadTooSlow => 408,
            Self::HeadTooLarge => 431,
            Self::TransferCoding => 501,
            Self::Version => 505,
            Self::OriginUnreachable => 502,
            Self::NoServer | Self::QueueFull | Self::QueueTimeout | Self::Uncounted => 503,
            Self::OnlyIfCached | Self::OriginTimeout | Self::Unvalidated => 504,
            Self::Internal => 500,
        }
    }
}

/// What happened to a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Unique, or taken over from the client; the same at the origin, in the response and in the log.
    pub request_id: String,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// As sent.
    pub method: String,
    /// As sent to.
    pub host: String,
    /// Path and query as sent.
    pub target: String,
    /// The route that took it; see [`Outcome::set_route`].
    pub route: Option<Arc<str>>,
    pub(super) last_route: Option<Arc<str>>,
    /// What was done with it; `None` when parvis answered before it came to that.
    pub verdict: Option<Verdict>,
    /// What became of the origin's response.
    pub fate: Option<Fate>,
    /// Whether it read along with another request's fetch.
    pub collapsed: bool,
    /// Whether the response came out of the Redis that instances share.
    pub recalled: bool,
    /// The stored response was found to still hold.
    pub validated: bool,
    /// A stored response stood in for a failing origin, and who allows that.
    pub stood_in: Option<StandIn>,
    /// Seconds of freshness left (negative: since expiry) of what was served from the store.
    pub ttl: Option<i64>,
    /// What the shadow of the store would have done, and how that compares.
    pub shadow: Option<Shadowed>,
    /// Why parvis answered by itself.
    pub local: Option<Local>,
    /// The status sent.
    pub status: u16,
    /// Bytes of body sent.
    pub bytes: u64,
    /// When it began.
    pub received_at: Timestamp,
    pub(super) started: Instant,
    /// From the start until the origin's response head was there.
    pub origin: Option<Duration>,
    /// Until the response head was sent.
    pub first_byte: Option<Duration>,
    pub(super) total: Option<Duration>,
    /// For the operator: what went wrong, in full.
    pub error: Option<String>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self::begun(clock::now(), clock::start())
    }
}

impl Outcome {
    fn begun(received_at: Timestamp, started: Instant) -> Self {
        Self {
            request_id: String::new(),
            client: None,
            method: String::new(),
            host: String::new(),
            target: String::new(),
            route: None,
            last_route: None,
            verdict: None,
            fate: None,
            collapsed: false,
            recalled: false,
            validated: false,
            stood_in: None,
            ttl: None,
            shadow: None,
            local: None,
            status: 0,
            bytes: 0,
            received_at,
            started,
            origin: None,
            first_byte: None,
            total: None,
            error: None,
        }
    }

    /// Back to the beginning, for another request that came `now`, which was when the measurement `started`. Texts keep
    /// their room, up to 4 KiB each.
    pub fn renew(&mut self, now: Timestamp, started: Instant) {
        let emptied = |text: &mut String| match text.capacity() {
            ..=MAX_KEPT => {
                text.clear();
                std::mem::take(text)
            }
            _ => String::new(),
        };
        *self = Self {
            request_id: emptied(&mut self.request_id),
            method: emptied(&mut self.method),
            host: emptied(&mut self.host),
            target: emptied(&mut self.target),
            last_route: self.route.take().or(self.last_route.take()),
            ..Self::begun(now, started)
        };
    }

    /// Notes the route. An outcome that is used again and again for the same route counts it as used once: all cores
    /// would write to the same counter otherwise.
    pub fn set_route(&mut self, name: &Arc<str>) {
        let last = self.last_route.take().filter(|last| Arc::ptr_eq(last, name));
        self.route = Some(last.unwrap_or_else(|| name.clone()));
    }

    /// Takes over a well-formed id of the client, or makes one.
    pub fn set_request_id(&mut self, request: Fields<'_>) {
        self.request_id.clear();
        match request.text("x-request-id").filter(|id| is_request_id(id)) {
            Some(given) => self.request_id.push_str(given),
            None => ids::write_next(self.received_at, &mut self.request_id),
        }
    }

    /// Time since the request began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends the measurement.
    pub fn finish(&mut self) {
        self.total = Some(self.elapsed());
    }

    /// When it ended; when it began, before that.
    pub(super) fn ended(&self) -> Instant {
        self.started + self.total()
    }

    /// From beginning to end.
    pub fn total(&self) -> Duration {
        self.total.unwrap_or_default()
    }

    /// The verdict as a label; requests that parvis answered by itself have `local`.
    pub fn verdict_label(&self) -> &'static str {
        self.verdict.map_or("local", Verdict::as_str)
    }

    /// The named reason behind the verdict; empty when the verdict says it all.
    pub fn reason(&self) -> &'static str {
        if let Some(local) = self.local {
            return local.as_str();
        }
        if let Some(reason) = self.stood_in {
            return reason.as_str();
        }
        match (self.verdict, self.fate) {
            (Some(Verdict::Pass(reason)), _) => reason.as_str(),
            (Some(Verdict::HitStale(reason)), _) => reason.as_str(),
            (_, Some(Fate::Discarded(reason))) => reason.as_str(),
            (_, Some(Fate::OnProbation)) => "probation",
            (Some(Verdict::Revalidate(RevalidateReason::Client)), _) => "client",
            _ if self.validated => "validated",
            (Some(Verdict::Hit), _) if self.recalled => "redis",
            _ if self.collapsed => "collapsed",
            _ => "",
        }
    }

    /// This cache's member of `Cache-Status` (RFC 9211).
    pub fn cache_status(&self) -> String {
        text_of(|out| self.write_cache_status(out))
    }

    /// Appends what [`Outcome::cache_status`] tells.
    pub fn write_cache_status(&self, out: &mut impl Sink) {
        out.put(match self.verdict {
            Some(Verdict::Hit | Verdict::HitStale(_)) => b"parvis; hit",
            Some(Verdict::Miss) => b"parvis; fwd=miss",
            Some(Verdict::Revalidate(RevalidateReason::Expired)) => b"parvis; fwd=stale",
            Some(Verdict::Revalidate(RevalidateReason::Client)) => b"parvis; fwd=request",
            Some(Verdict::Pass(PassReason::Method)) => b"parvis; fwd=method",
            Some(Verdict::Pass(_)) => b"parvis; fwd=bypass",
            Some(Verdict::OnlyIfCached) | None => b"parvis",
        });
        if self.validated {
            out.put(b"; fwd-status=304");
        }
        if self.fate == Some(Fate::Stored) {
            out.put(b"; stored");
        }
        if self.collapsed {
            out.put(b"; collapsed");
        }
        if let Some(ttl) = self.ttl {
            out.put(b"; ttl=");
            text::signed(out, ttl);
        }
        // What has a parameter of its own needs no detail.
        match self.reason() {
            "" | "method" | "client" | "validated" | "collapsed" => {}
            reason => {
                out.put(b"; detail=");
                out.put(reason.as_bytes());
            }
        }
    }

    /// This proxy's members of `Server-Timing`, up to the response head, or up to now before there is one, in
    /// milliseconds.
    pub fn server_timing(&self) -> String {
        text_of(|out| self.write_server_timing(out))
    }

    /// Appends what [`Outcome::server_timing`] tells.
    pub fn write_server_timing(&self, out: &mut impl Sink) {
        out.put(b"cache;desc=\"");
        out.put(self.verdict_label().as_bytes());
        match self.origin {
            Some(origin) => {
                out.put(b"\", origin;dur=");
                text::millis(out, origin);
                out.put(b", total;dur=");
            }
            None => out.put(b"\", total;dur="),
        }
        text::millis(out, self.until_head());
    }

    /// The time up to the response head, or up to now before there is one, in seconds: the value of
    /// `X-Processing-Time`.
    pub fn processing_time(&self) -> String {
        text_of(|out| self.write_processing_time(out))
    }

    /// Appends what [`Outcome::processing_time`] tells.
    pub fn write_processing_time(&self, out: &mut impl Sink) {
        text::seconds(out, self.until_head());
        out.put(b"s");
    }

    /// One moment for all that the head tells, and one look at the clock.
    fn until_head(&self) -> Duration {
        self.first_byte.unwrap_or_else(|| self.elapsed())
    }
}

/// What `write` appends, as text of its own.
fn text_of(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::with_capacity(64);
    write(&mut out);
    String::from_utf8(out).expect("only ASCII is written")
}

fn is_request_id(id: &str) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn status(change: impl FnOnce(&mut Outcome)) -> String {
        let mut outcome = Outcome::default();
        change(&mut outcome);
        outcome.cache_status()
    }

    #[test]
    fn cache_status_tells_what_happened() {
        assert_eq!(
            status(|o| {
                o.verdict = Some(Verdict::Hit);
                o.ttl = Some(30);
            }),
            "parvis; hit; ttl=30"
        );
        assert_eq!(
            status(|o| {
                o.verdict = Some(Verdict::Miss);
                o.fate = Some(Fate::Stored);
                o.collapsed = true;
            }),
            "parvis; fwd=miss; stored; collapsed"
        );
        assert_eq!(
            status(|o| {
                o.verdict = Some(Verdict::Miss);
                o.fate = Some(Fate::Discarded(DiscardReason::SetCookie));
            }),
            "parvis; fwd=miss; detail=set-cookie"
        );
        assert_eq!(
            status(|o| {
                o.verdict = Some(Verdict::Revalidate(RevalidateReason::Expired));
                o.validated = true;
                o.fate = Some(Fate::Stored);
            }),
            "parvis; fwd=stale; fwd-status=304; stored"
        );
        assert_eq!(status(|o| o.verdict = Some(Verdict::Pass(PassReason::Method))), "parvis; fwd=method");
        assert_eq!(
            status(|o| o.verdict = Some(Verdict::Pass(PassReason::Cookie))),
            "parvis; fwd=bypass; detail=cookie"
        );
        assert_eq!(status(|o| o.local = Some(Local::NoRoute)), "parvis; detail=no-route");
    }

    #[test]
    fn a_well_formed_request_id_is_kept_and_any_other_replaced() {
        let id = |value: &str| {
            let mut outcome = Outcome::default();
            outcome.set_request_id(Fields::new(&[("x-request-id", value.as_bytes())]));
            outcome.request_id
        };
        assert_eq!(id("abc-1.2:3_Z"), "abc-1.2:3_Z");
        for bad in ["", "a b", "<script>", "é", &"x".repeat(129)] {
            let made = id(bad);
            assert_eq!((made.len(), Uuid::parse_str(&made).unwrap().get_version_num()), (36, 7), "{bad}");
        }
    }
    #[test]
    fn times_of_a_head_are_those_of_one_moment() {
        let mut outcome = Outcome { verdict: Some(Verdict::Hit), ..Outcome::default() };
        outcome.first_byte = Some(Duration::from_micros(1_234_567));
        assert_eq!(outcome.processing_time(), "1.235s");
        assert_eq!(outcome.server_timing(), "cache;desc=\"hit\", total;dur=1234.6");
        outcome.origin = Some(Duration::from_micros(1_200_049));
        assert_eq!(outcome.server_timing(), "cache;desc=\"hit\", origin;dur=1200.0, total;dur=1234.6");
    }

    #[test]
    fn a_renewed_outcome_tells_nothing_of_the_request_before() {
        let mut outcome = Outcome::default();
        let route = Arc::from("pages");
        outcome.set_request_id(Fields::new(&[]));
        outcome.client = Some(IpAddr::from([127, 0, 0, 1]));
        outcome.method.push_str("GET");
        outcome.host.push_str("shop.example");
        outcome.target.push_str(&"x".repeat(MAX_KEPT + 1));
        outcome.set_route(&route);
        outcome.verdict = Some(Verdict::Hit);
        outcome.fate = Some(Fate::Stored);
        (outcome.collapsed, outcome.validated, outcome.ttl) = (true, true, Some(1));
        outcome.stood_in = None;
        outcome.shadow = Some(Shadowed::Same);
        outcome.local = Some(Local::Internal);
        (outcome.status, outcome.bytes) = (200, 7);
        (outcome.origin, outcome.first_byte) = (Some(Duration::ZERO), Some(Duration::ZERO));
        outcome.error = Some("error".to_owned());
        outcome.finish();
        let (now, started) = (Timestamp(7), clock::start());
        outcome.renew(now, started);
        let kept = outcome.last_route.take();
        assert_eq!(format!("{outcome:?}"), format!("{:?}", Outcome::begun(now, started)));
        assert!(outcome.host.capacity() >= 12 && outcome.target.capacity() == 0);
        outcome.last_route = kept;
        outcome.set_route(&route);
        assert_eq!((outcome.route.as_deref(), Arc::strong_count(&route)), (Some("pages"), 2));
        outcome.renew(now, started);
        outcome.renew(now, started);
        outcome.set_route(&route);
        assert_eq!(Arc::strong_count(&route), 2);
        outcome.set_route(&Arc::from("another"));
        outcome.renew(now, started);
        assert_eq!((outcome.route, Arc::strong_count(&route)), (None, 1));
    }
}
