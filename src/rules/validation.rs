//! What a 304 from the origin changes in the stored response (RFC 9111 sections 3.2 and 4.3.4).

use super::conditional::opaque_tag;
use super::freshness::parse_date;
use super::head::{Field, Fields};
use super::hop::{self, HopByHop};

/// What became of a validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation<'a> {
    /// The stored response still holds; these are its fields from now on.
    Holds(Vec<Field<'a>>),
    /// The 304 speaks of another representation than the stored one.
    OtherRepresentation,
}

/// Not updated although they are stored: they tell how to read the stored body, which is the identity form
/// (section 3.2 leaves such fields to the cache).
const OF_THE_BODY: &[&str] = &["content-encoding", "content-range"];

/// The conditions under which a stored response is asked for again: its validators as they are (RFC 9111 section
/// 4.3.1).
pub fn conditions(stored: Fields<'_>) -> impl Iterator<Item = (&'static str, &[u8])> {
    [("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")]
        .into_iter()
        .filter_map(move |(condition, validator)| Some((condition, stored.first(validator)?)))
}

/// Applies the fields of a 304 to the stored ones.
///
/// A 304 without any validator is believed: parvis sent the validators of one response only, so that it can be
/// about no other.
pub fn apply<'a>(stored: Fields<'a>, not_modified: Fields<'a>) -> Validation<'a> {
    if names_another(stored, not_modified) {
        return Validation::OtherRepresentation;
    }
    let hop_by_hop = HopByHop::of(not_modified);
    let updates = |name: &str| {
        not_modified.has(name)
            && hop::is_stored(name, &hop_by_hop)
            && !OF_THE_BODY.iter().any(|kept| kept.eq_ignore_ascii_case(name))
    };
    let mut merged: Vec<Field<'a>> =
        stored.lines().iter().copied().filter(|(name, _)| !updates(name)).collect();
    merged.extend(not_modified.lines().iter().copied().filter(|(name, _)| updates(name)));
    Validation::Holds(merged)
}

/// Whether the response to a HEAD shows that the stored response to a GET, with a body of this length, still holds: both
/// have a validator, and it is the same. If not, it has been replaced at the origin, or may have been (RFC 9111 section
/// 4.3.5).
pub fn freshens(stored: Fields<'_>, stored_length: u64, head: Fields<'_>) -> bool {
    let same_length = head
        .text("content-length")
        .is_none_or(|length| length.trim().parse::<u64>().is_ok_and(|length| length == stored_length));
    let same = |name: &str, equal: fn(&[u8], &[u8]) -> bool| match (stored.first(name), head.first(name)) {
        (Some(ours), Some(theirs)) => equal(ours, theirs),
        (_, theirs) => theirs.is_none(),
    };
    let same_tag = same("etag", |ours, theirs| opaque_tag(ours) == opaque_tag(theirs));
    let has_both = |name: &str| stored.has(name) && head.has(name);
    let is_comparable = has_both("etag") || has_both("last-modified");
    is_comparable
        && same_length
        && same_tag
        && same("last-modified", |ours, theirs| ours.trim_ascii() == theirs.trim_ascii())
}

/// Whether the validators of the 304 are of another response (section 4.3.4).
fn names_another(stored: Fields<'_>, not_modified: Fields<'_>) -> bool {
    if let Some(theirs) = not_modified.first("etag").map(<[u8]>::trim_ascii) {
        let ours = stored.first("etag").map(<[u8]>::trim_ascii);
        // A strong validator speaks of the response that has it, byte for byte.
        let is_weak = theirs.starts_with(b"W/");
        return if is_weak { ours.map(opaque_tag) != Some(opaque_tag(theirs)) } else { ours != Some(theirs) };
    }
    let modified = |fields: Fields<'_>| fields.text("last-modified").and_then(parse_date);
    match (modified(stored), modified(not_modified)) {
        (Some(ours), Some(theirs)) => ours != theirs,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &[Field<'static>] = &[
        ("Content-Type", b"text/html"),
        ("Content-Encoding", b"identity"),
        ("ETag", b"\"a\""),
        ("Last-Modified", b"Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Cache-Control", b"max-age=1"),
        ("X-Twice", b"1"),
        ("X-Twice", b"2"),
    ];

    fn merged(update: &'static [Field<'static>]) -> Vec<Field<'static>> {
        match apply(Fields::new(STORED), Fields::new(update)) {
            Validation::Holds(fields) => fields,
            Validation::OtherRepresentation => panic!("same representation"),
        }
    }

    #[test]
    fn validators_become_conditions_as_they_are() {
        let sent = |fields: &[Field<'static>]| {
            conditions(Fields::new(fields)).map(|(name, value)| (name, value.to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(sent(&[("ETag", b"W/\"a\"")]), [("If-None-Match", b"W/\"a\"".to_vec())]);
        assert_eq!(sent(&[("ETag", b"abc")]), [("If-None-Match", b"abc".to_vec())]);
        assert_eq!(
            sent(STORED).iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["If-None-Match", "If-Modified-Since"]
        );
        assert_eq!(sent(&[]), []);
    }

    #[test]
    fn fields_of_the_304_replace_all_lines_of_their_name() {
        let fields = merged(&[
            ("cache-control", b"max-age=9"),
            ("X-Twice", b"3"),
            ("date", b"now"),
            ("content-type", b"text/plain"),
            ("Set-Cookie", b"a=b"),
        ]);
        let fields = Fields::new(&fields);
        assert_eq!(fields.all("cache-control").collect::<Vec<_>>(), [b"max-age=9"]);
        assert_eq!(fields.all("x-twice").collect::<Vec<_>>(), [b"3"]);
        assert_eq!(fields.text("content-type"), Some("text/plain"));
        assert!(fields.has("date") && fields.has("set-cookie"));
    }

    #[test]
    fn what_describes_the_body_or_the_connection_stays() {
        let fields = merged(&[
            ("content-length", b"0"),
            ("content-encoding", b"gzip"),
            ("content-range", b"bytes 0-1/2"),
            ("connection", b"close, X-Hop"),
            ("keep-alive", b"timeout=5"),
            ("proxy-connection", b"close"),
            ("upgrade", b"h2c"),
            ("age", b"7"),
            ("x-hop", b"1"),
        ]);
        assert_eq!(fields, STORED);
    }

    #[test]
    fn a_head_freshens_what_has_its_validators_and_its_length() {
        let date = &b"Sun, 06 Nov 1994 08:49:37 GMT"[..];
        for (head, expected) in [
            (&[("etag", &b"\"a\""[..]), ("last-modified", date), ("content-length", b"5")][..], true),
            (&[("etag", &b"W/\"a\""[..])][..], true),
            (&[][..], false),
            (&[("content-length", &b"5"[..])][..], false),
            (&[("last-modified", date)][..], true),
            (&[("etag", &b"\"b\""[..])][..], false),
            (&[("last-modified", &b"Sun, 06 Nov 1994 08:49:38 GMT"[..])][..], false),
            (&[("content-length", &b"6"[..])][..], false),
            (&[("content-length", &b"x"[..])][..], false),
        ] {
            assert_eq!(freshens(Fields::new(STORED), 5, Fields::new(head)), expected, "{head:?}");
        }
        assert!(
            !freshens(Fields::new(&[]), 5, Fields::new(&[("etag", b"\"a\"")])),
            "a validator that ours lacks"
        );
        assert!(!freshens(Fields::new(&[]), 5, Fields::new(&[])), "nothing tells");
    }

    #[test]
    fn another_validator_is_another_representation() {
        let other = |update: &'static [Field<'static>]| {
            apply(Fields::new(STORED), Fields::new(update)) == Validation::OtherRepresentation
        };
        assert!(other(&[("etag", b"\"b\"")]));
        assert!(other(&[("last-modified", b"Sun, 06 Nov 1994 08:49:38 GMT")]));
        assert!(!other(&[("etag", b"W/\"a\"")]));
        let weak: &[Field<'static>] = &[("etag", b"W/\"a\"")];
        let strong: &[Field<'static>] = &[("etag", b"\"a\"")];
        assert_eq!(
            apply(Fields::new(weak), Fields::new(strong)),
            Validation::OtherRepresentation,
            "strong against weak"
        );
        assert_eq!(
            apply(Fields::new(&[]), Fields::new(strong)),
            Validation::OtherRepresentation,
            "against none"
        );
        assert!(!other(&[("etag", b"\"a\""), ("last-modified", b"Sun, 06 Nov 1994 08:49:38 GMT")]));
        assert!(!other(&[("last-modified", b"Sunday, 06-Nov-94 08:49:37 GMT")]));
        assert!(!other(&[]));
    }
}
