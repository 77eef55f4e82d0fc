//! What a stored response is good for at a given moment.

use super::freshness::Freshness;
use super::lookup::PassReason;
use crate::clock::Timestamp;

/// What is done with a request. The one word that every response, log line and metric carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answered from the store; fresh.
    Hit,
    /// Answered from the store although expired: within a stale window.
    HitStale,
    /// Stored but expired: the origin is asked whether it still holds.
    Revalidate,
    /// Nothing usable stored: fetched from the origin.
    Miss,
    /// Sent to the origin without touching the store.
    Pass(PassReason),
}

impl Verdict {
    /// The word used in the log, the metric and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::HitStale => "stale",
            Self::Revalidate => "revalidate",
            Self::Miss => "miss",
            Self::Pass(_) => "pass",
        }
    }
}

/// Judges what is stored under a request's key.
pub fn judge(stored: Option<&Freshness>, now: Timestamp) -> Verdict {
    let Some(freshness) = stored else {
        return Verdict::Miss;
    };
    if freshness.always_revalidate {
        // RFC 9111 section 5.2.2.4.
        return Verdict::Revalidate;
    }
    if freshness.remaining(now).is_some() {
        return Verdict::Hit;
    }
    if freshness.staleness(now) < freshness.stale_while_revalidate {
        return Verdict::HitStale;
    }
    Verdict::Revalidate
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const STORED: Timestamp = Timestamp(1_000_000);

    fn freshness() -> Freshness {
        Freshness {
            stored_at: STORED,
            initial_age: Duration::from_secs(10),
            lifetime: Duration::from_secs(60),
            stale_while_revalidate: Duration::from_secs(30),
            stale_if_error: Duration::from_secs(300),
            always_revalidate: false,
        }
    }

    fn after(seconds: u64) -> Timestamp {
        STORED.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_response_goes_from_hit_to_stale_to_revalidation() {
        let stored = freshness();
        for (seconds, expected) in [
            (0, Verdict::Hit),
            (49, Verdict::Hit),
            (50, Verdict::HitStale),
            (79, Verdict::HitStale),
            (80, Verdict::Revalidate),
        ] {
            assert_eq!(judge(Some(&stored), after(seconds)), expected, "{seconds}");
        }
        assert_eq!(judge(None, STORED), Verdict::Miss);
    }

    #[test]
    fn no_cache_is_never_a_hit() {
        let stored = Freshness { always_revalidate: true, ..freshness() };
        assert_eq!(judge(Some(&stored), STORED), Verdict::Revalidate);
        assert!(!stored.serves_on_error(STORED));
    }

    #[test]
    fn an_error_may_be_bridged_within_its_window_only() {
        let stored = freshness();
        assert!(stored.serves_on_error(after(0)));
        assert!(stored.serves_on_error(after(349)));
        assert!(!stored.serves_on_error(after(350)));
    }
}
