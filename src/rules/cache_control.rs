//! What the `Cache-Control` of a response says (RFC 9111 section 5.2.2).
//!
//! Origins write it in every imaginable way. Where a directive is malformed or contradicts itself, the reading
//! that stores less or shorter is taken.

use std::time::Duration;

use super::directives::{Argument, Directive, directives};
use super::head::Fields;
use super::targeted;

/// The response directives that a shared cache obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// Whether a targeted field said it: then `Expires` does not count (RFC 9213 section 2.2).
    pub targeted: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `private` without field names.
    pub private: bool,
    /// `no-cache` without field names.
    pub no_cache: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `max-age`; zero when malformed.
    pub max_age: Option<Duration>,
    /// `s-maxage`; zero when malformed.
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate` (RFC 5861); zero when malformed.
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861); zero when malformed.
    pub stale_if_error: Option<Duration>,
    /// The fields that `private` or `no-cache` name, in lower case: the rest of the response may be stored and
    /// reused without them (sections 5.2.2.4 and 5.2.2.7).
    pub withheld: Vec<String>,
}

impl CacheControl {
    /// What a response says to this cache: in `CDN-Cache-Control` where it has a valid one, else in
    /// `Cache-Control`.
    pub fn of(response: Fields<'_>) -> Self {
        targeted::parse(response).unwrap_or_else(|| Self::parse(response))
    }

    /// Reads every `Cache-Control` line.
    pub fn parse(response: Fields<'_>) -> Self {
        let mut read = Self::default();
        for line in response.all("cache-control") {
            for directive in directives(&String::from_utf8_lossy(line)) {
                read.apply(&directive);
            }
        }
        read
    }

    pub(super) fn apply(&mut self, directive: &Directive) {
        let argument = &directive.argument;
        match directive.name.as_str() {
            "no-store" => self.no_store = true,
            "private" => match argument.field_names() {
                Some(names) => self.withheld.extend(names),
                None => self.private = true,
            },
            "no-cache" => match argument.field_names() {
                Some(names) => self.withheld.extend(names),
                None => self.no_cache = true,
            },
            // Permissions: only when they are written well.
            "public" => self.public |= *argument == Argument::Absent,
            "must-understand" => self.must_understand |= *argument == Argument::Absent,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "max-age" => shortest(&mut self.max_age, argument),
            "s-maxage" => shortest(&mut self.s_maxage, argument),
            "stale-while-revalidate" => shortest(&mut self.stale_while_revalidate, argument),
            "stale-if-error" => shortest(&mut self.stale_if_error, argument),
            // Unrecognized directives are ignored (section 5.2.3).
            _ => {}
        }
    }

    /// Whether an expired response may never be used without asking the origin, whatever a client or the route
    /// allows. `s-maxage` implies `proxy-revalidate` (section 5.2.2.10).
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }

    /// Whether the origin itself marks the response as good for everyone, for a time.
    pub fn shares(&self) -> bool {
        self.public || self.s_maxage.or(self.max_age).is_some_and(|lifetime| !lifetime.is_zero())
    }

    /// Whether the response to a request with `Authorization` may be stored and shared (section 3.5).
    pub fn permits_authorization(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }
}

/// A repeated directive counts with its shortest value; a malformed value counts as zero, i.e. as stale
/// (section 4.2.1).
fn shortest(slot: &mut Option<Duration>, argument: &Argument) {
    let value = Duration::from_secs(argument.seconds().unwrap_or(0));
    *slot = Some(slot.map_or(value, |before| before.min(value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::directives::MAX_DELTA;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> CacheControl {
        let fields: Vec<_> = lines.iter().map(|line| ("Cache-Control", line.as_bytes())).collect();
        CacheControl::parse(Fields::new(&fields))
    }

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn directives_are_read_in_any_spelling() {
        assert_eq!(read(&["max-age=60"]).max_age, seconds(60));
        assert_eq!(read(&["MAX-AGE=60 , x=\"a,b\" ,S-MaxAge=\"5\""]).s_maxage, seconds(5));
        assert_eq!(read(&["max-age=60", "no-store"]), {
            CacheControl { max_age: seconds(60), no_store: true, ..Default::default() }
        });
        assert!(read(&["no-cache=x"]).no_cache);
        assert!(read(&["s-maxage=1"]).forbids_stale());
        assert!(!read(&["x-no-store, xprivate"]).no_store);
        assert_eq!(read(&["foo, max-age=60, bar=\"x\""]).max_age, seconds(60), "unknown ones are ignored");
    }

    #[test]
    fn what_is_malformed_or_repeated_counts_as_the_shortest() {
        for (line, expected) in [
            ("max-age=60, max-age=10", 10),
            ("max-age=10, max-age=60", 10),
            ("max-age", 0),
            ("max-age=", 0),
            ("max-age=-1", 0),
            ("max-age=1.5", 0),
            ("max-age=60s", 0),
            ("max-age=a60", 0),
            ("max-age='60'", 0),
            ("max-age = 60", 0),
            ("max-age =60", 0),
            ("max-age= 60", 0),
            ("max-age=\"60\"", 60),
            ("max-age=0060", 60),
            ("max-age=2147483649", MAX_DELTA),
            ("max-age=99999999999999999999", MAX_DELTA),
        ] {
            assert_eq!(read(&[line]).max_age, seconds(expected), "{line}");
        }
        assert_eq!(read(&["max-age=60", "max-age=10"]).max_age, seconds(10), "on two lines");
    }

    #[test]
    fn sloppy_separators_and_quotes_hide_nothing() {
        for line in [
            "private; max-age=60",
            "no-store; no-cache",
            "no-cache no-store",
            "x=\"a, no-store",
            "\"no-store\"",
            "private =\"x\"",
        ] {
            let read = read(&[line]);
            assert!(read.no_store || read.private, "{line}");
        }
        assert_eq!(read(&["private; max-age=60"]).max_age, seconds(60));
    }

    #[test]
    fn a_permission_counts_only_when_it_is_written_well() {
        assert!(read(&["public, must-understand"]).public && read(&["must-understand"]).must_understand);
        assert!(!read(&["public=0"]).public && !read(&["must-understand=\"no\""]).must_understand);
    }

    #[test]
    fn a_directive_inside_a_quoted_string_is_text() {
        assert!(!read(&["x=\"no-store, private\", max-age=1"]).no_store);
        assert_eq!(read(&["x=\"max-age=60\", max-age=1"]).max_age, seconds(1));
        assert_eq!(read(&["x=\"a\\\", no-store\", max-age=1"]), {
            CacheControl { max_age: seconds(1), ..Default::default() }
        });
    }

    #[test]
    fn field_names_withhold_fields_and_not_the_response() {
        let read = read(&["private=\"Set-Cookie, X-User\", no-cache=\"x-mood\", max-age=1"]);
        assert!(!read.private && !read.no_cache && !read.forbids_stale());
        assert_eq!(read.withheld, ["set-cookie", "x-user", "x-mood"]);
    }

    #[test]
    fn authorization_needs_one_of_three_permissions() {
        for (line, expected) in [
            ("public", true),
            ("must-revalidate", true),
            ("s-maxage=1", true),
            ("max-age=1", false),
            ("proxy-revalidate", false),
        ] {
            assert_eq!(read(&[line]).permits_authorization(), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(line in "\\PC{0,80}") {
            read(&[&line]);
        }

        #[test]
        fn no_store_survives_any_neighbour(before in "[a-z-]{1,8}(=[a-z0-9]{0,4})?", after in "[a-z=\",]{0,12}") {
            let line = format!("{before}, no-store, {after}");
            prop_assert!(read(&[&line]).no_store);
        }
    }
}
