//! How long a response is fresh (RFC 9111 section 4.2), and how long after that it may still be served stale
//! (section 4.2.4, RFC 5861).

use std::time::{Duration, SystemTime};

use super::cache_control::CacheControl;
use super::directives::digits;
use super::head::{Fields, ResponseHead};
use super::policy::{CachePolicy, Heuristic, OriginControl};
use crate::clock::Timestamp;

/// How a response was asked for, and when.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// The moment the request was sent.
    pub requested_at: Timestamp,
    /// The moment the response head arrived.
    pub received_at: Timestamp,
    /// Whether the request carried `Authorization`.
    pub authorized: bool,
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
    /// How long after expiry it may be served when the origin answers with an error, or not at all; zero when
    /// forbidden.
    pub stale_if_error: Duration,
    /// How long after expiry it may be served when the origin does not answer; zero when forbidden.
    pub stale_on_disconnect: Duration,
    /// Whether not even a client may ask for it once it has expired.
    pub stale_forbidden: bool,
    /// `no-cache`: never reused without asking the origin.
    pub always_revalidate: bool,
    /// A soft purge has ended its lifetime.
    pub is_purged: bool,
}

/// Where a lifetime came from, in the words of `parvis explain` and the debug log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeSource {
    /// `CDN-Cache-Control` of the response.
    Targeted,
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
    /// A share of the time since `Last-Modified`.
    Heuristic,
}

impl LifetimeSource {
    /// A few words for a person.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Targeted => "CDN-Cache-Control of the response",
            Self::SMaxAge => "s-maxage of the response",
            Self::MaxAge => "max-age of the response",
            Self::Expires => "Expires of the response",
            Self::NoCache => "no-cache of the response: validated every time",
            Self::StatusTtl => "status_ttl of the route",
            Self::Ttl => "ttl of the route",
            Self::Heuristic => "guessed from Last-Modified of the response",
        }
    }
}

/// How the origin failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginFailure {
    /// It answered 500, 502, 503 or 504.
    Error,
    /// It could not be reached, broke off, or took too long.
    Disconnect,
}

impl OriginFailure {
    /// The failure that a status tells of (RFC 5861 section 4).
    pub fn told_by(status: u16) -> Option<Self> {
        matches!(status, 500 | 502 | 503 | 504).then_some(Self::Error)
    }
}

/// Who allows an expired response to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The origin or the route, while it is refreshed (RFC 5861 section 3).
    WhileRevalidate,
    /// The client (RFC 9111 section 5.2.1.2).
    MaxStale,
}

impl StaleReason {
    /// The word used in the header, the log, the metric and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WhileRevalidate => "stale-while-revalidate",
            Self::MaxStale => "max-stale",
        }
    }
}

/// Why a stored response stands in for a failing origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// It is still fresh; only the client asked for fresher.
    Fresh,
    /// The origin or the route allows it when the origin fails (RFC 5861 section 4).
    StaleIfError,
    /// The route allows it when the origin does not answer (RFC 9111 section 4.2.4).
    StaleOnDisconnect,
}

impl StandIn {
    /// The word used in the header, the log, the metric and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "origin-failed",
            Self::StaleIfError => "stale-if-error",
            Self::StaleOnDisconnect => "stale-on-disconnect",
        }
    }
}

impl Freshness {
    /// Assesses a response; `None` when neither the origin nor the route gives it a lifetime.
    pub fn assess(
        response: &ResponseHead<'_>,
        control: &CacheControl,
        policy: &CachePolicy,
        exchange: Exchange,
    ) -> Option<(Self, LifetimeSource)> {
        let explicit = explicit_lifetime(response, control, exchange.received_at);
        let configured = configured_lifetime(response.status, policy);
        let (lifetime, source) = match policy.origin_cache_control {
            OriginControl::Honour => explicit.or(configured),
            OriginControl::Override => configured.or(explicit),
        }
        .or_else(|| heuristic_lifetime(response, control, policy.heuristic, exchange.received_at))?;
        let by_route = matches!(source, LifetimeSource::Ttl | LifetimeSource::StatusTtl);
        let initial_age = if by_route {
            // The operator counts from arrival here; only time spent in caches further in is deducted, not the
            // difference between two machines' clocks.
            age_value(response.fields)
        } else {
            initial_age(response.fields, exchange)
        };
        // must-revalidate forbids every stale answer (section 5.2.2.2), and no-cache every unvalidated one.
        let stale_forbidden = control.forbids_stale();
        let window = |from_origin: Option<Duration>, from_route: Duration| {
            if stale_forbidden { Duration::ZERO } else { from_origin.unwrap_or(from_route) }
        };
        let freshness = Self {
            stored_at: exchange.received_at,
            initial_age,
            lifetime,
            stale_while_revalidate: window(control.stale_while_revalidate, policy.stale_while_revalidate),
            stale_if_error: window(control.stale_if_error, policy.stale_if_error),
            stale_on_disconnect: window(None, policy.stale_on_disconnect),
            stale_forbidden,
            always_revalidate: control.no_cache,
            is_purged: false,
        };
        Some((freshness, source))
    }

    /// The response's age at `now` (section 4.2.3). It never decreases while the clock does not.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.initial_age + now.since(self.stored_at)
    }

    /// How much of the lifetime is left at `now`; `None` once it has expired.
    pub fn remaining(&self, now: Timestamp) -> Option<Duration> {
        // Whatever the clock says: it may be set back after the purge.
        self.lifetime.checked_sub(self.age(now)).filter(|left| !left.is_zero() && !self.is_purged)
    }

    /// How long from `now` on it is of any use: fresh, or within the longest of its stale windows.
    pub fn kept_for(&self, now: Timestamp) -> Duration {
        let stale = self.stale_while_revalidate.max(self.stale_if_error).max(self.stale_on_disconnect);
        self.lifetime.saturating_add(stale).saturating_sub(self.age(now))
    }

    /// The same, expired by a soft purge at `at`: its stale windows begin there.
    pub fn purged(self, at: Timestamp) -> Self {
        Self { lifetime: self.lifetime.min(self.age(at)), is_purged: true, ..self }
    }

    /// How long ago the response expired; zero while it is fresh.
    pub fn staleness(&self, now: Timestamp) -> Duration {
        self.age(now).saturating_sub(self.lifetime)
    }

    /// Whether the response may stand in for an origin that fails in this way at `now`, and who allows it. RFC 5861
    /// section 4 counts an origin that does not answer as an error too.
    pub fn stands_in(&self, failure: OriginFailure, now: Timestamp) -> Option<StandIn> {
        let staleness = self.staleness(now);
        match failure {
            _ if self.always_revalidate => None,
            _ if self.remaining(now).is_some() => Some(StandIn::Fresh),
            _ if staleness < self.stale_if_error => Some(StandIn::StaleIfError),
            OriginFailure::Disconnect if staleness < self.stale_on_disconnect => {
                Some(StandIn::StaleOnDisconnect)
            }
            OriginFailure::Error | OriginFailure::Disconnect => None,
        }
    }

    /// Whether some failure may open a window for it once it has expired.
    pub fn has_stale_window(&self) -> bool {
        let windows = [self.stale_while_revalidate, self.stale_if_error, self.stale_on_disconnect];
        windows.iter().any(|window| !window.is_zero())
    }
}

/// Section 4.2.1: s-maxage, else max-age, else Expires minus Date.
fn explicit_lifetime(
    response: &ResponseHead<'_>,
    control: &CacheControl,
    received_at: Timestamp,
) -> Option<(Duration, LifetimeSource)> {
    let fields = response.fields;
    let named = |source| if control.targeted { LifetimeSource::Targeted } else { source };
    if let Some(lifetime) = control.s_maxage {
        return Some((lifetime, named(LifetimeSource::SMaxAge)));
    }
    if let Some(lifetime) = control.max_age {
        return Some((lifetime, named(LifetimeSource::MaxAge)));
    }
    // Beside a targeted field Expires says nothing to this cache (RFC 9213 section 2.2).
    if fields.has("expires") && !control.targeted {
        let date = date_value(fields).unwrap_or(received_at.into());
        // An invalid or repeated Expires means "already expired" (section 5.3).
        let single = fields.all("expires").count() == 1;
        let expires = fields.text("expires").filter(|_| single).and_then(parse_date);
        let lifetime = expires.and_then(|at| at.duration_since(date).ok()).unwrap_or_default();
        return Some((lifetime, LifetimeSource::Expires));
    }
    // The origin allows storing and asks to be asked (RFC 9111 section 5.2.2.4); but no-cache alone is no leave to
    // store what otherwise may not be (section 3).
    (control.no_cache && may_be_guessed(response.status, control))
        .then_some((Duration::ZERO, LifetimeSource::NoCache))
}

/// Whether a response may be stored without a lifetime of its own: for statuses that RFC 9110 section 15.1 calls
/// heuristically cacheable, and with `public` for any other (sections 3 and 4.2.2).
fn may_be_guessed(status: u16, control: &CacheControl) -> bool {
    control.public || matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
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

/// Section 4.2.2: what has not changed for long will not change soon.
fn heuristic_lifetime(
    response: &ResponseHead<'_>,
    control: &CacheControl,
    heuristic: Option<Heuristic>,
    received_at: Timestamp,
) -> Option<(Duration, LifetimeSource)> {
    let heuristic = heuristic?;
    if !may_be_guessed(response.status, control) {
        return None;
    }
    let modified = response.fields.text("last-modified").and_then(parse_date)?;
    let date = date_value(response.fields).unwrap_or(received_at.into());
    let unchanged = date.duration_since(modified).ok()?;
    let lifetime = (unchanged * u32::from(heuristic.percent) / 100).min(heuristic.max);
    (!lifetime.is_zero()).then_some((lifetime, LifetimeSource::Heuristic))
}

/// Section 4.2.3: the larger of what the Date and what the Age field say.
fn initial_age(fields: Fields<'_>, exchange: Exchange) -> Duration {
    let received = SystemTime::from(exchange.received_at);
    let apparent = date_value(fields).and_then(|date| received.duration_since(date).ok()).unwrap_or_default();
    // Date has whole seconds: less than one is no evidence of age.
    let apparent = Duration::from_secs(apparent.as_secs());
    // The response may have been made as early as it was asked for.
    let response_delay = exchange.received_at.since(exchange.requested_at);
    apparent.max(age_value(fields) + response_delay)
}

/// The Age field: the first of several values, and zero when that is not a number (section 5.1).
pub fn age_value(fields: Fields<'_>) -> Duration {
    let first = fields.text("age").and_then(|value| value.split(',').next()).map(str::trim);
    Duration::from_secs(first.and_then(digits).unwrap_or_default())
}

/// The `Date` of a response; `None` when it has no valid one.
pub fn date_value(fields: Fields<'_>) -> Option<SystemTime> {
    fields.text("date").and_then(parse_date)
}

/// Reads the three date formats of RFC 9110 section 5.6.7, in any case (RFC 9111 section 4.2).
pub fn parse_date(text: &str) -> Option<SystemTime> {
    // As nearly everyone writes it: every answer asks for its own.
    if let Ok(date) = httpdate::parse_http_date(text) {
        return Some(date);
    }
    let mut canonical = String::with_capacity(text.len());
    for c in text.trim().chars() {
        let begins = !canonical.ends_with(|before: char| before.is_ascii_alphabetic());
        canonical.push(if begins { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
    }
    let canonical = canonical.replace("Gmt", "GMT");
    httpdate::parse_http_date(&canonical).ok()
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
        let response = ResponseHead { status, fields: Fields::new(&fields) };
        let exchange = Exchange { requested_at: NOON, received_at: NOON, authorized: false };
        Freshness::assess(&response, &CacheControl::of(response.fields), &policy, exchange)
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
    fn no_cache_alone_is_no_leave_to_store() {
        assert_eq!(lifetime(200, &[("cache-control", "no-cache")]), Some(0));
        assert_eq!(lifetime(302, &[("cache-control", "no-cache, public")]), Some(0));
        assert_eq!(lifetime(302, &[("cache-control", "no-cache, max-age=5")]), Some(5));
        assert_eq!(lifetime(302, &[("cache-control", "no-cache")]), None);
    }

    #[test]
    fn expires_counts_from_the_origins_own_date() {
        let fields = [("date", &*date(NOON.plus(MINUTE))), ("expires", &date(NOON.plus(MINUTE * 3)))];
        assert_eq!(lifetime(200, &fields), Some(120));
        let past = [("date", &*date(NOON)), ("expires", &*date(NOON))];
        assert_eq!(lifetime(200, &past), Some(0), "at its date");
        let twice = date(NOON.plus(MINUTE));
        assert_eq!(lifetime(200, &[("expires", &twice), ("expires", &twice)]), Some(0));
    }

    #[test]
    fn every_malformed_expires_has_expired() {
        for malformed in [
            "0",
            "-1",
            "soon",
            "",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18  Aug  2050  02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18",
        ] {
            assert_eq!(lifetime(200, &[("expires", malformed)]), Some(0), "{malformed}");
        }
    }

    #[test]
    fn the_three_date_formats_are_read_in_any_case() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 NOV 1994 08:49:37 gmt",
            "sun, 06 nov 1994 08:49:37 Gmt",
            "  Sun, 06 Nov 1994 08:49:37 GMT ",
        ] {
            assert_eq!(parse_date(text).map(Timestamp::from), Some(Timestamp(784_111_777_000)), "{text}");
        }
    }

    #[test]
    fn a_targeted_field_replaces_cache_control_and_expires() {
        let far = date(NOON.plus(MINUTE * 60));
        let targeted = |value: &str| {
            lifetime(200, &[("cdn-cache-control", value), ("cache-control", "max-age=9"), ("expires", &far)])
        };
        assert_eq!(targeted("max-age=30"), Some(30));
        assert_eq!(targeted("max-age=3600"), Some(3600));
        assert_eq!(targeted("max-age=0"), Some(0));
        assert_eq!(targeted("foo"), Some(60), "neither of the others counts: the route's ttl");
        assert_eq!(targeted("max-age=\"30\""), Some(9), "invalid: the others count");
    }

    #[test]
    fn a_heuristic_needs_a_validator_a_status_and_leave() {
        let modified = date(Timestamp(NOON.0 - 1_000_000));
        let heuristic = |status: u16, fields: &[(&str, &str)], max: u64| {
            let allow = |p: &mut CachePolicy| {
                p.ttl = Duration::ZERO;
                p.status_ttl.clear();
                p.heuristic = Some(Heuristic { percent: 10, max: Duration::from_secs(max) });
            };
            assess(status, fields, allow).map(|(freshness, source)| (freshness.lifetime.as_secs(), source))
        };
        let lm = ("last-modified", &*modified);
        let expected = Some((100, LifetimeSource::Heuristic));
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(heuristic(status, &[lm], 3600), expected, "{status}");
        }
        for status in [201, 202, 302, 403, 500, 502, 503, 504, 599] {
            assert_eq!(heuristic(status, &[lm], 3600), None, "{status}");
            assert_eq!(heuristic(status, &[lm, ("cache-control", "public")], 3600), expected, "{status}");
        }
        assert_eq!(heuristic(200, &[lm], 40), Some((40, LifetimeSource::Heuristic)), "capped");
        assert_eq!(heuristic(200, &[("etag", "\"a\"")], 3600), None, "no date to go by");
        assert_eq!(heuristic(200, &[("last-modified", "yesterday")], 3600), None);
        assert_eq!(heuristic(200, &[lm, ("cache-control", "max-age=1")], 3600).unwrap().0, 1, "told");
        let off = assess(200, &[lm], |p| p.ttl = Duration::ZERO);
        assert_eq!(off, None, "nobody allowed it");
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
        for (value, expected) in [
            ("20", 20),
            ("020", 20),
            ("20, 30", 20),
            ("20, x", 20),
            ("x, 20", 0),
            ("-3", 0),
            ("7.5", 0),
            ("20s", 0),
            ("a20", 0),
            ("20;x=1", 0),
            ("", 0),
            ("2147483649", 1 << 31),
            ("99999999999999999999", 1 << 31),
        ] {
            assert_eq!(age(&[("age", value)]), expected, "{value}");
        }
        assert_eq!(age(&[("age", "20"), ("age", "30")]), 20, "the first line");
        let old = date(Timestamp(NOON.0 - 30_000));
        assert_eq!(age(&[("date", &old), ("cache-control", "max-age=60")]), 30);
        assert_eq!(age(&[("date", &old), ("age", "40"), ("cache-control", "max-age=60")]), 40);
        assert_eq!(age(&[("date", &old)]), 0, "a route's ttl does not care for the origin's clock");
    }

    #[test]
    fn the_time_a_fetch_took_is_age_too() {
        let exchange = Exchange { requested_at: NOON, received_at: NOON.plus(MINUTE), authorized: false };
        let control = CacheControl { max_age: Some(MINUTE * 9), ..CacheControl::default() };
        for (fields, expected) in [(&[][..], 60), (&[("age", &b"5"[..])][..], 65)] {
            let response = ResponseHead { status: 200, fields: Fields::new(fields) };
            let (freshness, _) =
                Freshness::assess(&response, &control, &testing::policy(), exchange).unwrap();
            assert_eq!(freshness.age(NOON.plus(MINUTE)).as_secs(), expected);
        }
    }

    #[test]
    fn must_revalidate_and_no_cache_close_the_stale_windows() {
        let windows = |value: &str| {
            let (freshness, _) = assess(200, &[("cache-control", value)], |p| {
                p.stale_while_revalidate = MINUTE;
                p.stale_if_error = MINUTE * 2;
                p.stale_on_disconnect = MINUTE * 3;
            })
            .unwrap();
            let seconds =
                [freshness.stale_while_revalidate, freshness.stale_if_error, freshness.stale_on_disconnect];
            seconds.map(|window| window.as_secs())
        };
        assert_eq!(windows("max-age=1"), [60, 120, 180]);
        assert_eq!(windows("max-age=1, stale-while-revalidate=5, stale-if-error=6"), [5, 6, 180]);
        for closing in ["must-revalidate", "proxy-revalidate", "s-maxage=3", "no-cache"] {
            assert_eq!(windows(&format!("max-age=1, {closing}")), [0, 0, 0], "{closing}");
        }
    }

    #[test]
    fn a_failure_opens_its_own_window() {
        let (freshness, _) = assess(200, &[("cache-control", "max-age=60")], |p| {
            p.stale_if_error = MINUTE;
            p.stale_on_disconnect = MINUTE * 2;
        })
        .unwrap();
        for (seconds, error, disconnect) in
            [(0, true, true), (119, true, true), (120, false, true), (179, false, true), (180, false, false)]
        {
            let now = NOON.plus(Duration::from_secs(seconds));
            assert_eq!(freshness.stands_in(OriginFailure::Error, now).is_some(), error, "{seconds}");
            assert_eq!(
                freshness.stands_in(OriginFailure::Disconnect, now).is_some(),
                disconnect,
                "{seconds}"
            );
        }
        for (status, error) in
            [(500, true), (502, true), (503, true), (504, true), (501, false), (404, false)]
        {
            assert_eq!(OriginFailure::told_by(status).is_some(), error, "{status}");
        }
        let late = NOON.plus(Duration::from_secs(150));
        assert_eq!(freshness.stands_in(OriginFailure::Disconnect, late), Some(StandIn::StaleOnDisconnect));
        let no_cache = Freshness { always_revalidate: true, ..freshness };
        assert_eq!(no_cache.stands_in(OriginFailure::Error, NOON), None);
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
