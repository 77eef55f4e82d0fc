//! How long a response is fresh (RFC 9111 section 4.2), and how long after that it may still be served stale
//! (RFC 5861).

use std::time::{Duration, SystemTime};

use super::cache_control::CacheControl;
use super::head::{Fields, ResponseHead};
use super::policy::{CachePolicy, OriginControl};
use crate::clock::Timestamp;

/// When a response was asked for and when its head arrived.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// The moment the request was sent.
    pub requested_at: Timestamp,
    /// The moment the response head arrived.
    pub received_at: Timestamp,
}

/// The freshness of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The moment the response was received or last validated.
    pub stored_at: Timestamp,
    /// How old it was at that moment, by the origin's `Age` and `Date`.
    pub initial_age: Duration,
    /// How long it is fresh, counted from its generation at the origin.
    pub lifetime: Duration,
    /// How long after expiry it may be served while it is refreshed; zero when forbidden.
    pub stale_while_revalidate: Duration,
    /// How long after expiry it may be served when the origin fails; zero when forbidden.
    pub stale_if_error: Duration,
    /// `no-cache`: never reused without asking the origin.
    pub always_revalidate: bool,
}

/// Where a lifetime came from, in the words of `parvis explain` and the debug log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeSource {
    /// `s-maxage` of the response.
    SMaxAge,
    /// `max-age` of the response.
    MaxAge,
    /// `Expires` of the response.
    Expires,
    /// `no-cache` of the response: none, but it may be stored and validated.
    NoCache,
    /// `status_ttl` of the route.
    StatusTtl,
    /// `ttl` of the route.
    Ttl,
}

impl Freshness {
    /// Assesses a response; `None` when neither the origin nor the route gives it a lifetime.
    pub fn assess(
        response: &ResponseHead<'_>,
        cache_control: &CacheControl,
        policy: &CachePolicy,
        exchange: Exchange,
    ) -> Option<(Self, LifetimeSource)> {
        let explicit = explicit_lifetime(cache_control, response.fields, exchange.received_at);
        let configured = configured_lifetime(response.status, policy);
        let (lifetime, source) = match policy.origin_cache_control {
            OriginControl::Honour => explicit.or(configured)?,
            OriginControl::Override => configured.or(explicit)?,
        };
        let by_route = matches!(source, LifetimeSource::Ttl | LifetimeSource::StatusTtl);
        let initial_age = if by_route {
            // The operator counts from arrival here; only time spent in caches further in is deducted, not the
            // difference between two machines' clocks.
            age_value(response.fields)
        } else {
            initial_age(response.fields, exchange)
        };
        // must-revalidate forbids every stale answer (section 5.2.2.2), and no-cache every unvalidated one.
        let stale_allowed = !cache_control.must_revalidate && !cache_control.no_cache;
        let window = |from_origin: Option<Duration>, from_route: Duration| {
            if stale_allowed { from_origin.unwrap_or(from_route) } else { Duration::ZERO }
        };
        let freshness = Self {
            stored_at: exchange.received_at,
            initial_age,
            lifetime,
            stale_while_revalidate: window(
                cache_control.stale_while_revalidate,
                policy.stale_while_revalidate,
            ),
            stale_if_error: window(cache_control.stale_if_error, policy.stale_if_error),
            always_revalidate: cache_control.no_cache,
        };
        Some((freshness, source))
    }

    /// The response's age at `now` (section 4.2.3). It never decreases while the clock does not.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age + now.since(self.stored_at)
    }

    /// How much of the lifetime is left at `now`; `None` once it has expired.
    pub fn remaining(&self, now: Timestamp) -> Option<Duration> {
        self.lifetime.checked_sub(self.age(now)).filter(|left| !left.is_zero())
    }

    /// How long ago the response expired; zero while it is fresh.
    pub fn staleness(&self, now: Timestamp) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    /// Whether the response may stand in for a failing origin at `now` (RFC 5861 section 4).
    pub fn serves_on_error(&self, now: Timestamp) -> bool {
        !self.always_revalidate
            && (self.remaining(now).is_some() || self.staleness(now) < self.stale_if_error)
    }
}

/// Section 4.2.1: s-maxage, else max-age, else Expires minus Date.
fn explicit_lifetime(
    cache_control: &CacheControl,
    fields: Fields<'_>,
    received_at: Timestamp,
) -> Option<(Duration, LifetimeSource)> {
    if let Some(lifetime) = cache_control.s_maxage {
        return Some((lifetime, LifetimeSource::SMaxAge));
    }
    if let Some(lifetime) = cache_control.max_age {
        return Some((lifetime, LifetimeSource::MaxAge));
    }
    if fields.has("expires") {
        let date = date_value(fields).unwrap_or(received_at.into());
        // An invalid or repeated Expires means "already expired" (section 5.3).
        let single = fields.all("expires").count() == 1;
        let expires = fields.text("expires").filter(|_| single).and_then(parse_date);
        let lifetime = expires.and_then(|at| at.duration_since(date).ok()).unwrap_or_default();
        return Some((lifetime, LifetimeSource::Expires));
    }
    // The origin allows storing and asks to be asked (RFC 9111 section 5.2.2.4).
    cache_control.no_cache.then_some((Duration::ZERO, LifetimeSource::NoCache))
}

/// What the route grants a response by its status.
fn configured_lifetime(status: u16, policy: &CachePolicy) -> Option<(Duration, LifetimeSource)> {
    if let Some(ttl) = policy.status_ttl.get(&status) {
        return Some((*ttl, LifetimeSource::StatusTtl));
    }
    // A plain `ttl` speaks of pages that worked; errors need a line of their own.
    let worked = matches!(status, 200 | 203 | 300 | 301 | 308);
    (worked && !policy.ttl.is_zero()).then_some((policy.ttl, LifetimeSource::Ttl))
}

/// Section 4.2.3: the larger of what the Date and what the Age field say.
fn initial_age(fields: Fields<'_>, exchange: Exchange) -> Duration {
    let received = SystemTime::from(exchange.received_at);
    let apparent = date_value(fields).and_then(|date| received.duration_since(date).ok()).unwrap_or_default();
    // Date has whole seconds: less than one is no evidence of age.
    let apparent = Duration::from_secs(apparent.as_secs());
    let response_delay = exchange.received_at.since(exchange.requested_at);
    let corrected = if fields.has("age") { age_value(fields) + response_delay } else { Duration::ZERO };
    apparent.max(corrected)
}

/// The Age field; the first of several values, zero when it is not a number (section 5.1).
fn age_value(fields: Fields<'_>) -> Duration {
    let first = fields.text("age").and_then(|value| value.split(',').next()).map(str::trim);
    let seconds = first.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    Duration::from_secs(seconds.and_then(|text| text.parse::<u32>().ok()).unwrap_or_default().into())
}

fn date_value(fields: Fields<'_>) -> Option<SystemTime> {
    fields.text("date").and_then(parse_date)
}

/// Reads the three date formats of RFC 9110 section 5.6.7.
pub fn parse_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing;
    use proptest::prelude::*;

    const NOON: Timestamp = Timestamp(1_784_289_600_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn assess(
        status: u16,
        fields: &[(&str, &str)],
        change: impl FnOnce(&mut CachePolicy),
    ) -> Option<(Freshness, LifetimeSource)> {
        let mut policy = testing::policy();
        change(&mut policy);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let response = ResponseHead { status, fields: Fields(&fields) };
        let exchange = Exchange { requested_at: NOON, received_at: NOON };
        Freshness::assess(&response, &CacheControl::parse(response.fields), &policy, exchange)
    }

    fn lifetime(status: u16, fields: &[(&str, &str)]) -> Option<u64> {
        assess(status, fields, |_| {}).map(|(freshness, _)| freshness.lifetime.as_secs())
    }

    fn date(at: Timestamp) -> String {
        httpdate::fmt_http_date(at.into())
    }

    #[test]
    fn the_origin_wins_unless_overridden() {
        let max_age = [("cache-control", "max-age=7")];
        assert_eq!(lifetime(200, &max_age), Some(7));
        let overridden = assess(200, &max_age, |p| p.origin_cache_control = OriginControl::Override);
        assert_eq!(overridden.unwrap().1, LifetimeSource::Ttl);
        let nothing_configured = assess(200, &max_age, |p| {
            p.origin_cache_control = OriginControl::Override;
            p.ttl = Duration::ZERO;
        });
        assert_eq!(nothing_configured.unwrap().1, LifetimeSource::MaxAge);
    }

    #[test]
    fn s_maxage_beats_max_age_beats_expires_beats_the_route() {
        let expires = date(NOON.plus(MINUTE * 3));
        let all = [("cache-control", "max-age=9, s-maxage=8"), ("expires", &expires)];
        assert_eq!(lifetime(200, &all), Some(8));
        assert_eq!(lifetime(200, &[("cache-control", "max-age=9"), ("expires", &expires)]), Some(9));
        assert_eq!(lifetime(200, &[("expires", &expires)]), Some(180));
        assert_eq!(lifetime(200, &[]), Some(60));
    }

    #[test]
    fn expires_counts_from_the_origins_own_date() {
        let fields = [("date", &*date(NOON.plus(MINUTE))), ("expires", &date(NOON.plus(MINUTE * 3)))];
        assert_eq!(lifetime(200, &fields), Some(120));
        for broken in ["0", "-1", "soon", "Thu, 18 Aug 2050 2:01:18 GMT", ""] {
            assert_eq!(lifetime(200, &[("expires", broken)]), Some(0), "{broken}");
        }
        let twice = date(NOON.plus(MINUTE));
        assert_eq!(lifetime(200, &[("expires", &twice), ("expires", &twice)]), Some(0));
    }

    #[test]
    fn a_plain_ttl_is_for_pages_that_worked() {
        for (status, expected) in
            [(200, Some(60)), (301, Some(60)), (302, None), (404, Some(10)), (410, None), (500, None)]
        {
            assert_eq!(lifetime(status, &[]), expected, "{status}");
        }
        assert_eq!(lifetime(500, &[("cache-control", "max-age=5")]), Some(5));
        assert_eq!(assess(200, &[], |p| p.ttl = Duration::ZERO), None);
    }

    #[test]
    fn the_age_of_the_origin_counts() {
        let age = |fields: &[(&str, &str)]| assess(200, fields, |_| {}).unwrap().0.initial_age.as_secs();
        assert_eq!(age(&[("age", "20")]), 20);
        assert_eq!(age(&[("age", "20, 30")]), 20);
        assert_eq!(age(&[("age", "-3")]), 0);
        assert_eq!(age(&[("age", "x")]), 0);
        let old = date(Timestamp(NOON.0 - 30_000));
        assert_eq!(age(&[("date", &old), ("cache-control", "max-age=60")]), 30);
        assert_eq!(age(&[("date", &old), ("age", "40"), ("cache-control", "max-age=60")]), 40);
        assert_eq!(age(&[("date", &old)]), 0, "a route's ttl does not care for the origin's clock");
    }

    #[test]
    fn must_revalidate_and_no_cache_close_the_stale_windows() {
        let windows = |value: &str| {
            let (freshness, _) = assess(200, &[("cache-control", value)], |p| {
                p.stale_while_revalidate = MINUTE;
                p.stale_if_error = MINUTE * 2;
            })
            .unwrap();
            (freshness.stale_while_revalidate.as_secs(), freshness.stale_if_error.as_secs())
        };
        assert_eq!(windows("max-age=1"), (60, 120));
        assert_eq!(windows("max-age=1, stale-while-revalidate=5, stale-if-error=6"), (5, 6));
        for closing in ["must-revalidate", "proxy-revalidate", "s-maxage=3", "no-cache"] {
            assert_eq!(windows(&format!("max-age=1, {closing}")), (0, 0), "{closing}");
        }
    }

    proptest! {
        #[test]
        fn age_never_decreases(initial in 0u64..10_000, first in 0u64..1_000_000, then in 0u64..1_000_000) {
            let (freshness, _) = assess(200, &[("age", &initial.to_string())], |_| {}).unwrap();
            let earlier = freshness.age(NOON.plus(Duration::from_millis(first)));
            let later = freshness.age(NOON.plus(Duration::from_millis(first + then)));
            prop_assert!(later >= earlier);
        }

        #[test]
        fn fresh_and_stale_never_overlap(after in 0u64..200_000) {
            let (freshness, _) = assess(200, &[], |_| {}).unwrap();
            let now = NOON.plus(Duration::from_millis(after));
            prop_assert_eq!(freshness.remaining(now).is_some(), after < 60_000);
            if freshness.remaining(now).is_some() {
                prop_assert_eq!(freshness.staleness(now), Duration::ZERO);
            }
        }
    }
}
