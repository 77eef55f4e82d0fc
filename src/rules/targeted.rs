//! Targeted cache control (RFC 9213): `CDN-Cache-Control` says to shared caches in front of the origin what
//! `Cache-Control` says to everyone, and wins over it.
//!
//! It is a structured field. What does not parse, or gives a known directive a value of another type, is as if it
//! were not there: the field as a whole is ignored, so that no half of it is believed.

use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::cache_control::CacheControl;
use super::directives::{Argument, Directive};
use super::head::Fields;

/// The field of shared caches in front of an origin (RFC 9213 section 3.1).
const FIELD: &str = "cdn-cache-control";

/// Reads the targeted field of a response; `None` when it is absent, empty or invalid.
pub fn parse(response: Fields<'_>) -> Option<CacheControl> {
    // Lines of a structured field are one list (RFC 9651 section 4.2).
    let lines: Vec<&[u8]> = response.all(FIELD).collect();
    if lines.is_empty() {
        return None;
    }
    let members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut read = CacheControl { targeted: true, ..CacheControl::default() };
    for (name, value) in &members {
        // Parameters say nothing about a directive (section 2.1).
        let value = match value {
            ListEntry::Item(item) => Some(&item.bare_item),
            ListEntry::InnerList(_) => None,
        };
        let name = name.as_str().to_owned();
        match argument(&name, value) {
            Some(argument) => read.apply(&Directive { name, argument }),
            None => return None,
        }
    }
    Some(read)
}

/// The argument of a directive; `None` when its type is not the one the directive has (section 2.1).
fn argument(name: &str, value: Option<&BareItem>) -> Option<Argument> {
    match (name, value) {
        (
            "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error",
            Some(BareItem::Integer(n)),
        ) => {
            // A negative one has expired.
            Some(Argument::Token(u64::try_from(i64::from(*n)).unwrap_or(0).to_string()))
        }
        ("private" | "no-cache", Some(BareItem::String(names))) => {
            Some(Argument::Quoted(names.as_str().to_owned()))
        }
        (
            "no-store" | "private" | "no-cache" | "public" | "must-revalidate" | "proxy-revalidate"
            | "must-understand",
            Some(BareItem::Boolean(true)),
        ) => Some(Argument::Absent),
        (
            "max-age"
            | "s-maxage"
            | "stale-while-revalidate"
            | "stale-if-error"
            | "no-store"
            | "private"
            | "no-cache"
            | "public"
            | "must-revalidate"
            | "proxy-revalidate"
            | "must-understand",
            _,
        ) => None,
        // Unknown directives are ignored, whatever their type.
        _ => Some(Argument::Absent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(lines: &[&str]) -> Option<CacheControl> {
        let mut fields: Vec<_> = lines.iter().map(|line| ("CDN-Cache-Control", line.as_bytes())).collect();
        fields.push(("Cache-Control", b"max-age=7"));
        parse(Fields::new(&fields))
    }

    fn max_age(line: &str) -> Option<u64> {
        read(&[line]).and_then(|read| read.max_age).map(|age| age.as_secs())
    }

    #[test]
    fn a_valid_field_is_read_alone() {
        assert_eq!(max_age("max-age=60"), Some(60));
        assert_eq!(max_age("max-age=60, foo=bar, baz"), Some(60), "unknown directives are ignored");
        assert_eq!(max_age("max-age=60;max-age=7;x"), Some(60), "parameters are ignored");
        assert_eq!(max_age("max-age=-1"), Some(0));
        assert_eq!(max_age("max-age=10, max-age=60"), Some(60), "the last of a key counts in a dictionary");
        let both = read(&["max-age=60", "no-store"]).unwrap();
        assert!(both.no_store && both.max_age == Some(Duration::from_secs(60)) && both.targeted);
        let fields = read(&["private=\"x-user\", max-age=1"]).unwrap();
        assert!(!fields.private && fields.withheld == ["x-user"]);
    }

    #[test]
    fn what_is_invalid_is_ignored_as_a_whole() {
        for line in [
            "",
            "  ",
            "max-age =60",
            "max-age= 60",
            "MaX-aGe=60",
            "max-age=60,",
            "max-age=&&&",
            "max-age=\"60\"",
            "max-age=60.0",
            "max-age",
            "max-age=(60)",
            "max-age=1000000000000000000",
            "no-store=?0, max-age=60",
            "no-store=1, max-age=60",
            "max-age=60, p\u{e9}=1",
        ] {
            assert_eq!(read(&[line]), None, "{line}");
        }
        assert_eq!(parse(Fields::new(&[("cache-control", b"max-age=60")])), None, "absent");
    }
}
