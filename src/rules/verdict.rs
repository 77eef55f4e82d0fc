//! What a stored response is good for, for a client with these wishes, at a given moment.

use super::client_control::ClientControl;
use super::freshness::{Freshness, StaleReason};
use super::lookup::PassReason;
use crate::clock::Timestamp;

/// What is done with a request. The one word that every response, log line and metric carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answered from the store; fresh.
    Hit,
    /// Answered from the store although expired.
    HitStale(StaleReason),
    /// Stored, but the origin is asked whether it still holds.
    Revalidate(RevalidateReason),
    /// Nothing usable stored: fetched from the origin.
    Miss,
    /// Nothing usable stored, and the client wants nothing else: answered 504.
    OnlyIfCached,
    /// Sent to the origin without touching the store.
    Pass(PassReason),
}

/// Why a stored response is validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevalidateReason {
    /// It has expired, or the origin wants to be asked every time.
    Expired,
    /// It is fresh, but the client asks for fresher.
    Client,
}

impl Verdict {
    /// The word used in the log, the metric and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::HitStale(_) => "stale",
            Self::Revalidate(_) => "revalidate",
            Self::Miss => "miss",
            Self::OnlyIfCached => "only-if-cached",
            Self::Pass(_) => "pass",
        }
    }
}

/// Judges what is stored under a request's key.
pub fn judge(stored: Option<&Freshness>, client: &ClientControl, now: Timestamp) -> Verdict {
    let verdict = stored.map_or(Verdict::Miss, |freshness| reuse(freshness, client, now));
    match verdict {
        Verdict::Hit | Verdict::HitStale(_) => verdict,
        // RFC 9111 section 5.2.1.7.
        _ if client.only_if_cached => Verdict::OnlyIfCached,
        // Section 5.2.1.5: what is stored already may serve, but nothing of this exchange is stored.
        _ if client.no_store => Verdict::Pass(PassReason::NoStore),
        _ => verdict,
    }
}

/// RFC 9111 section 4: when a stored response may be reused.
fn reuse(freshness: &Freshness, client: &ClientControl, now: Timestamp) -> Verdict {
    if freshness.always_revalidate {
        // Section 5.2.2.4.
        return Verdict::Revalidate(RevalidateReason::Expired);
    }
    let remaining = freshness.remaining(now);
    // Sections 5.2.1.4, 5.2.1.1 and 5.2.1.3.
    let too_old = client.max_age.is_some_and(|max_age| freshness.age(now) > max_age);
    let too_short = client.min_fresh.is_some_and(|wanted| remaining.unwrap_or_default() < wanted);
    if client.no_cache || too_old || too_short {
        let reason = if remaining.is_some() { RevalidateReason::Client } else { RevalidateReason::Expired };
        return Verdict::Revalidate(reason);
    }
    if remaining.is_some() {
        return Verdict::Hit;
    }
    let staleness = freshness.staleness(now);
    if staleness < freshness.stale_while_revalidate && !client.refuses_stale() {
        return Verdict::HitStale(StaleReason::WhileRevalidate);
    }
    // A client's leave does not undo what the origin forbids (section 4.2.4), or an operator.
    if !freshness.stale_forbidden
        && !freshness.is_purged
        && client.max_stale.is_some_and(|allowed| staleness <= allowed)
    {
        return Verdict::HitStale(StaleReason::MaxStale);
    }
    Verdict::Revalidate(RevalidateReason::Expired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use RevalidateReason::{Client, Expired};
    use StaleReason::{MaxStale, WhileRevalidate};
    use Verdict::{Hit, HitStale, Miss, OnlyIfCached, Pass, Revalidate};
    use std::time::Duration;

    use crate::rules::head::Fields;

    const STORED: Timestamp = Timestamp(1_000_000);

    fn freshness() -> Freshness {
        Freshness {
            stored_at: STORED,
            initial_age: Duration::from_secs(10),
            lifetime: Duration::from_secs(60),
            stale_while_revalidate: Duration::from_secs(30),
            stale_if_error: Duration::from_secs(300),
            stale_on_disconnect: Duration::ZERO,
            stale_forbidden: false,
            always_revalidate: false,
            is_purged: false,
        }
    }

    fn after(seconds: u64) -> Timestamp {
        STORED.plus(Duration::from_secs(seconds))
    }

    fn asked(stored: &Freshness, cache_control: &str, seconds: u64) -> Verdict {
        let client = ClientControl::parse(Fields::new(&[("cache-control", cache_control.as_bytes())]));
        judge(Some(stored), &client, after(seconds))
    }

    #[test]
    fn a_response_goes_from_hit_to_stale_to_revalidation() {
        let stored = freshness();
        let client = ClientControl::default();
        for (seconds, expected) in [
            (0, Hit),
            (49, Hit),
            (50, HitStale(WhileRevalidate)),
            (79, HitStale(WhileRevalidate)),
            (80, Revalidate(Expired)),
        ] {
            assert_eq!(judge(Some(&stored), &client, after(seconds)), expected, "{seconds}");
        }
        assert_eq!(judge(None, &client, STORED), Miss);
    }

    #[test]
    fn no_cache_is_never_a_hit() {
        let stored = Freshness { always_revalidate: true, ..freshness() };
        assert_eq!(asked(&stored, "max-stale", 0), Revalidate(Expired));
    }

    #[test]
    fn a_client_may_ask_for_fresher() {
        let stored = freshness();
        for (directive, expected) in [
            ("no-cache", Revalidate(Client)),
            ("max-age=9", Revalidate(Client)),
            ("max-age=0", Revalidate(Client)),
            ("max-age=10", Hit),
            ("min-fresh=51", Revalidate(Client)),
            ("min-fresh=50", Hit),
            ("no-store", Hit),
            ("only-if-cached", Hit),
            ("foo", Hit),
        ] {
            assert_eq!(asked(&stored, directive, 0), expected, "{directive}");
        }
    }

    #[test]
    fn a_client_may_take_what_has_expired() {
        let stored = Freshness { stale_while_revalidate: Duration::ZERO, ..freshness() };
        for (directive, expected) in [
            ("max-stale", HitStale(MaxStale)),
            ("max-stale=10", HitStale(MaxStale)),
            ("max-stale=9", Revalidate(Expired)),
            ("max-stale, max-age=10", Revalidate(Expired)),
            ("max-stale, min-fresh=1", Revalidate(Expired)),
            ("max-stale, no-cache", Revalidate(Expired)),
        ] {
            assert_eq!(asked(&stored, directive, 60), expected, "{directive}");
        }
        let forbidden = Freshness { stale_forbidden: true, ..stored };
        assert_eq!(asked(&forbidden, "max-stale", 60), Revalidate(Expired));
        assert_eq!(asked(&stored.purged(after(1)), "max-stale", 60), Revalidate(Expired));
    }

    #[test]
    fn a_client_that_names_an_age_gets_nothing_expired() {
        let stored = freshness();
        assert_eq!(asked(&stored, "max-age=1000", 60), Revalidate(Expired));
        assert_eq!(asked(&stored, "min-fresh=1", 60), Revalidate(Expired));
        assert_eq!(asked(&stored, "max-age=1000, max-stale=1", 60), HitStale(WhileRevalidate));
    }

    #[test]
    fn what_is_not_stored_is_not_fetched_for_only_if_cached_nor_kept_for_no_store() {
        let ask = |directive: &str| {
            judge(
                None,
                &ClientControl::parse(Fields::new(&[("cache-control", directive.as_bytes())])),
                STORED,
            )
        };
        assert_eq!(ask("only-if-cached"), OnlyIfCached);
        assert_eq!(ask("only-if-cached, no-store"), OnlyIfCached);
        assert_eq!(ask("no-store"), Pass(PassReason::NoStore));
        assert_eq!(asked(&freshness(), "no-store", 80), Pass(PassReason::NoStore));
        assert_eq!(asked(&freshness(), "only-if-cached, no-cache", 0), OnlyIfCached);
    }
}
