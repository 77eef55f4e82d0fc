//! What a client asks of the cache: the request directives of `Cache-Control` (RFC 9111 section 5.2.1), and
//! `Pragma`.
//!
//! They are preferences. A malformed one is none.

use std::time::Duration;

use super::directives::{Argument, digits, directives};
use super::head::Fields;
use super::policy::{CachePolicy, ClientCacheControl};

/// The request directives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientControl {
    /// `no-cache`, or `Pragma: no-cache` without any `Cache-Control`.
    pub no_cache: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
    /// `max-age`: the oldest response wanted.
    pub max_age: Option<Duration>,
    /// `min-fresh`: how long the response must stay fresh.
    pub min_fresh: Option<Duration>,
    /// `max-stale`: how long ago the response may have expired; [`Duration::MAX`] without an argument.
    pub max_stale: Option<Duration>,
}

impl ClientControl {
    /// What a request says, as far as the route heeds it.
    pub fn heeded(request: Fields<'_>, policy: &CachePolicy) -> Self {
        match policy.client_cache_control {
            ClientCacheControl::Honour => Self::parse(request),
            ClientCacheControl::Ignore => Self::default(),
        }
    }

    /// Reads what a request says.
    pub fn parse(request: Fields<'_>) -> Self {
        let mut read = Self::default();
        for line in request.all("cache-control") {
            if read.apply_usual(line) {
                continue;
            }
            for directive in directives(&String::from_utf8_lossy(line)) {
                read.apply(&directive.name, &directive.argument);
            }
        }
        // Where Cache-Control is absent, Pragma says the same to a cache that knows it (section 5.4).
        if !request.has("cache-control") {
            read.no_cache = request.list("pragma").any(|member| member.eq_ignore_ascii_case("no-cache"));
        }
        read
    }

    /// Applies what browsers say, and tells whether it was that: it needs no list of directives.
    fn apply_usual(&mut self, line: &[u8]) -> bool {
        const MAX_AGE: usize = "max-age=".len();
        if line.eq_ignore_ascii_case(b"no-cache") {
            self.no_cache = true;
            return true;
        }
        let Some((name, seconds)) = line.split_at_checked(MAX_AGE) else { return false };
        let seconds = std::str::from_utf8(seconds).ok().and_then(digits);
        let is_age = name.eq_ignore_ascii_case(b"max-age=") && seconds.is_some();
        if is_age {
            self.max_age = narrower(self.max_age, seconds.map(Duration::from_secs));
        }
        is_age
    }

    fn apply(&mut self, name: &str, argument: &Argument) {
        let seconds = argument.seconds().map(Duration::from_secs);
        match (name, argument) {
            ("no-cache", _) => self.no_cache = true,
            ("no-store", _) => self.no_store = true,
            ("only-if-cached", _) => self.only_if_cached = true,
            ("max-age", _) => self.max_age = narrower(self.max_age, seconds),
            ("max-stale", Argument::Absent) => self.max_stale = self.max_stale.or(Some(Duration::MAX)),
            ("max-stale", _) => self.max_stale = narrower(self.max_stale, seconds),
            ("min-fresh", _) => self.min_fresh = self.min_fresh.max(seconds),
            _ => {}
        }
    }

    /// Whether the client wants no response that has expired: it names an age or a freshness, and no staleness
    /// beside it (section 5.2.1.1).
    pub fn refuses_stale(&self) -> bool {
        self.max_stale.is_none() && (self.max_age.is_some() || self.min_fresh.is_some())
    }
}

fn narrower(before: Option<Duration>, now: Option<Duration>) -> Option<Duration> {
    match (before, now) {
        (Some(before), Some(now)) => Some(before.min(now)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(fields: &[(&str, &str)]) -> ClientControl {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        ClientControl::parse(Fields::new(&fields))
    }

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn every_directive_of_a_request_is_read() {
        let line = "No-Cache, no-store, only-if-cached, max-age=\"5\", min-fresh=6, max-stale=7, x=1";
        assert_eq!(
            read(&[("cache-control", line)]),
            ClientControl {
                no_cache: true,
                no_store: true,
                only_if_cached: true,
                max_age: seconds(5),
                min_fresh: seconds(6),
                max_stale: seconds(7),
            }
        );
        assert_eq!(read(&[]), ClientControl::default());
    }

    #[test]
    fn a_malformed_preference_is_none_and_a_repeated_one_counts_at_its_narrowest() {
        for malformed in ["max-age", "max-age=x", "max-age=-1", "min-fresh=1.5", "max-stale=x"] {
            assert_eq!(read(&[("cache-control", malformed)]), ClientControl::default(), "{malformed}");
        }
        let twice = read(&[
            ("cache-control", "max-age=9, min-fresh=1, max-stale"),
            ("cache-control", "max-age=3, min-fresh=4, max-stale=5"),
        ]);
        assert_eq!((twice.max_age, twice.min_fresh, twice.max_stale), (seconds(3), seconds(4), seconds(5)));
        assert_eq!(read(&[("cache-control", "max-stale")]).max_stale, Some(Duration::MAX));
    }

    #[test]
    fn pragma_counts_only_where_cache_control_is_absent() {
        assert!(read(&[("pragma", "foo, No-Cache")]).no_cache);
        assert!(!read(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]).no_cache);
        assert!(!read(&[("pragma", "no-cache=x")]).no_cache);
    }

    #[test]
    fn naming_an_age_refuses_what_has_expired() {
        assert!(read(&[("cache-control", "max-age=100")]).refuses_stale());
        assert!(read(&[("cache-control", "min-fresh=1")]).refuses_stale());
        assert!(!read(&[("cache-control", "max-age=100, max-stale")]).refuses_stale());
        assert!(!read(&[]).refuses_stale());
    }

    proptest! {
        #[test]
        fn what_browsers_say_means_what_its_directives_do(
            lines in proptest::collection::vec("(no-cache|No-Cache|max-age|MAX-AGE=|=|0|7|99999999999|,| |\"|-){0,4}", 0..3),
        ) {
            let fields: Vec<_> = lines.iter().map(|line| ("cache-control", line.as_bytes())).collect();
            let mut plain = ClientControl::default();
            for directive in lines.iter().flat_map(|line| directives(line)) {
                plain.apply(&directive.name, &directive.argument);
            }
            prop_assert_eq!(ClientControl::parse(Fields::new(&fields)), plain);
        }
    }
}
