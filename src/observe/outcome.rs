//! One record per request.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::clock::{self, Timestamp};
use crate::rules::admission::DiscardReason;
use crate::rules::freshness::StandIn;
use crate::rules::head::Fields;
use crate::rules::lookup::PassReason;
use crate::rules::verdict::{RevalidateReason, Verdict};

/// The longest request id taken over from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

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
            Self::NoRoute => 404,
            Self::Refused => 405,
            Self::BadRequest | Self::BadPurge => 400,
            Self::HeadTooSlow => 408,
            Self::HeadTooLarge => 431,
            Self::TransferCoding => 501,
            Self::Version => 505,
            Self::OriginUnreachable => 502,
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
    /// The route that took it.
    pub route: Option<Arc<str>>,
    /// What was done with it; `None` when parvis answered before it came to that.
    pub verdict: Option<Verdict>,
    /// What became of the origin's response.
    pub fate: Option<Fate>,
    /// Whether it read along with another request's fetch.
    pub collapsed: bool,
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
        Self {
            request_id: String::new(),
            client: None,
            method: String::new(),
            host: String::new(),
            target: String::new(),
            route: None,
            verdict: None,
            fate: None,
            collapsed: false,
            validated: false,
            stood_in: None,
            ttl: None,
            shadow: None,
            local: None,
            status: 0,
            bytes: 0,
            received_at: clock::now(),
            started: clock::start(),
            origin: None,
            first_byte: None,
            total: None,
            error: None,
        }
    }
}

impl Outcome {
    /// Begins another request.
    pub fn renew(&mut self, now: Timestamp, started: Instant) {
        *self = Self { received_at: now, started, ..Self::default() };
    }

    /// Takes over a well-formed id of the client, or makes one.
    pub fn set_request_id(&mut self, request: Fields<'_>) {
        let given = request.text("x-request-id").filter(|id| is_request_id(id));
        self.request_id = given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
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
            _ if self.collapsed => "collapsed",
            _ => "",
        }
    }

    /// This cache's member of `Cache-Status` (RFC 9211).
    pub fn cache_status(&self) -> String {
        let mut status = String::from("parvis");
        status.push_str(match self.verdict {
            Some(Verdict::Hit | Verdict::HitStale(_)) => "; hit",
            Some(Verdict::Miss) => "; fwd=miss",
            Some(Verdict::Revalidate(RevalidateReason::Expired)) => "; fwd=stale",
            Some(Verdict::Revalidate(RevalidateReason::Client)) => "; fwd=request",
            Some(Verdict::Pass(PassReason::Method)) => "; fwd=method",
            Some(Verdict::Pass(_)) => "; fwd=bypass",
            Some(Verdict::OnlyIfCached) | None => "",
        });
        if self.validated {
            status.push_str("; fwd-status=304");
        }
        if self.fate == Some(Fate::Stored) {
            status.push_str("; stored");
        }
        if self.collapsed {
            status.push_str("; collapsed");
        }
        // Writing to a String cannot fail.
        if let Some(ttl) = self.ttl {
            let _ = write!(status, "; ttl={ttl}");
        }
        // What has a parameter of its own needs no detail.
        match self.reason() {
            "" | "method" | "client" | "validated" | "collapsed" => {}
            reason => {
                let _ = write!(status, "; detail={reason}");
            }
        }
        status
    }

    /// This proxy's members of `Server-Timing`, up to now, in milliseconds.
    pub fn server_timing(&self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let mut timing = format!("cache;desc=\"{}\"", self.verdict_label());
        if let Some(origin) = self.origin {
            let _ = write!(timing, ", origin;dur={:.1}", ms(origin));
        }
        let _ = write!(timing, ", total;dur={:.1}", ms(self.elapsed()));
        timing
    }
}

fn is_request_id(id: &str) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

#[cfg(test)]
mod tests {
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
            outcome.set_request_id(Fields(&[("x-request-id", value.as_bytes())]));
            outcome.request_id
        };
        assert_eq!(id("abc-1.2:3_Z"), "abc-1.2:3_Z");
        for bad in ["", "a b", "<script>", "é", &"x".repeat(129)] {
            let made = id(bad);
            assert_eq!((made.len(), Uuid::parse_str(&made).unwrap().get_version_num()), (36, 7), "{bad}");
        }
    }
}
