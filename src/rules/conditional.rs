//! Whether the client already has the response (304), by the conditions that a cache may check.

use std::time::SystemTime;

use super::encodable::{Kin, kin};
use super::encoding;
use super::freshness::{date_value, parse_date};
use super::head::Fields;
use crate::clock::Timestamp;

/// Whether a conditional GET or HEAD is answered with 304 (RFC 9111 section 4.3.2). `stored_at` is the moment the
/// response was received.
pub fn not_modified(request: Fields<'_>, response: Fields<'_>, stored_at: Timestamp) -> bool {
    if request.has("if-none-match") {
        // If-Modified-Since is ignored beside it (RFC 9110 section 13.1.3).
        return held(request, response.first("etag")).is_some();
    }
    let Some(since) = request.text("if-modified-since").and_then(parse_date) else {
        return false;
    };
    // What has no Last-Modified has not changed since it was made, or received.
    let modified = response.text("last-modified").and_then(parse_date);
    modified.or_else(|| date_value(response)).unwrap_or(stored_at.into()) <= since
}

/// The first tag in `If-None-Match` that is `etag`, or that of one of its encoded forms: a client that has one of them has the
/// page, if it accepts that coding now. A cache may have got it for somebody else. `*` is any.
pub fn held<'a>(request: Fields<'a>, etag: Option<&[u8]>) -> Option<&'a [u8]> {
    let mut candidates = request.all("if-none-match").flat_map(entity_tags);
    candidates.find(|tag| {
        *tag == b"*"
            || match etag.and_then(|etag| kin(tag, etag)) {
                Some(Kin::Same) => true,
                Some(Kin::Form(coding)) => encoding::accepts(request, coding.as_str()),
                None => false,
            }
    })
}

/// The tag of the form that the client has, where it has not the one that is `selected` for it now: its 304 carries that
/// tag, so that it finds its own (RFC 9111 section 4.3.4). `stored` is the tag of the identity form.
pub fn held_other<'a>(
    request: Fields<'a>,
    stored: Option<&[u8]>,
    selected: Option<&[u8]>,
) -> Option<&'a [u8]> {
    let held = held(request, stored).filter(|tag| *tag != b"*")?;
    let selected = selected.map(opaque_tag)?;
    let mut all = request.all("if-none-match").flat_map(entity_tags);
    all.all(|tag| opaque_tag(tag) != selected).then_some(held)
}

/// The entity tags of a list, quotes and weakness included. Commas inside a tag are part of it.
pub fn entity_tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut in_quotes = false;
    list.split(move |byte| {
        in_quotes ^= *byte == b'"';
        *byte == b',' && !in_quotes
    })
    .map(<[u8]>::trim_ascii)
    .filter(|tag| !tag.is_empty())
}

/// The part of an entity tag that the weak comparison compares (RFC 9110 section 8.8.3.2).
pub fn opaque_tag(etag: &[u8]) -> &[u8] {
    let etag = etag.trim_ascii();
    etag.strip_prefix(b"W/").unwrap_or(etag)
}

/// Whether the condition of a `Range` holds. Strong comparison only: a weak tag or an unsure date asks for the
/// whole (RFC 9110 section 13.1.5).
pub fn if_range_holds(request: Fields<'_>, response: Fields<'_>) -> bool {
    let Some(condition) = request.first("if-range").map(<[u8]>::trim_ascii) else {
        return true;
    };
    if condition.starts_with(b"\"") {
        return response.first("etag").map(<[u8]>::trim_ascii) == Some(condition);
    }
    let condition = std::str::from_utf8(condition).ok().and_then(parse_date);
    let modified = response.text("last-modified").and_then(parse_date);
    match (condition, modified, date_value(response)) {
        (Some(condition), Some(modified), Some(sent)) => condition == modified && is_strong(modified, sent),
        _ => false,
    }
}

/// A Last-Modified at least a second before the Date cannot have changed twice within it (section 8.8.2.2).
fn is_strong(modified: SystemTime, sent: SystemTime) -> bool {
    sent.duration_since(modified).is_ok_and(|gap| gap.as_secs() >= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const STORED_AT: Timestamp = Timestamp(784_111_777_000);

    fn fields<'a>(pairs: &'a [(&'a str, &'a str)]) -> Vec<(&'a str, &'a [u8])> {
        pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
    }

    fn same(request: &[(&str, &str)], response: &[(&str, &str)]) -> bool {
        not_modified(Fields::new(&fields(request)), Fields::new(&fields(response)), STORED_AT)
    }

    #[test]
    fn entity_tags_are_compared_weakly() {
        let etag = [("etag", "\"a\"")];
        for (condition, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("\"a\", \"b\"", true),
            ("\"x\",W/\"a\" ,\"b\"", true),
            ("*", true),
            ("\"b\"", false),
            ("\"a", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(same(&[("if-none-match", condition)], &etag), expected, "{condition}");
        }
        assert!(same(&[("if-none-match", "\"a\"")], &[("etag", "W/\"a\"")]));
        assert!(same(&[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")], &etag), "on two lines");
        assert!(!same(&[("if-none-match", "\"a\"")], &[]));
        assert!(same(&[("if-none-match", "*")], &[]));
    }

    #[test]
    fn who_has_an_encoded_form_has_the_page() {
        let etag = [("etag", "\"a\"")];
        for (condition, expected) in
            [("\"a-br5\"", true), ("\"b\", W/\"a-zstd19\"", true), ("\"b-br5\"", false), ("\"a-br6\"", false)]
        {
            let accepted = ("accept-encoding", "br, zstd");
            assert_eq!(same(&[("if-none-match", condition), accepted], &etag), expected, "{condition}");
            let accepted = ("accept-encoding", "gzip");
            assert!(!same(&[("if-none-match", condition), accepted], &etag), "somebody else has it");
        }
        let asked = [("if-none-match", &b"\"b\", \"a-br5\", \"a\""[..]), ("accept-encoding", b"br")];
        assert_eq!(held(Fields::new(&asked), Some(b"\"a\"")), Some(&b"\"a-br5\""[..]));
    }

    #[test]
    fn commas_and_any_bytes_may_stand_in_a_tag() {
        assert!(same(&[("if-none-match", "\"x\", \"a,b\"")], &[("etag", "\"a,b\"")]));
        assert!(!same(&[("if-none-match", "\"a,b\"")], &[("etag", "b\"")]));
        let odd = [("etag", &b"\"caf\xe9\""[..])];
        let asked = [("if-none-match", &b"\"x\", \"caf\xe9\""[..])];
        assert!(not_modified(Fields::new(&asked), Fields::new(&odd), STORED_AT));
    }

    #[test]
    fn dates_count_only_without_tags() {
        let modified = [("last-modified", EARLY)];
        assert!(same(&[("if-modified-since", EARLY)], &modified));
        assert!(same(&[("if-modified-since", LATE)], &modified));
        assert!(same(&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], &modified));
        assert!(same(&[("if-modified-since", "Sun Nov  6 08:49:37 1994")], &modified));
        assert!(!same(&[("if-modified-since", EARLY)], &[("last-modified", LATE)]));
        assert!(!same(&[("if-modified-since", "soon")], &modified));
        let both = [("if-none-match", "\"b\""), ("if-modified-since", EARLY)];
        assert!(!same(&both, &[("etag", "\"a\""), ("last-modified", EARLY)]));
    }

    #[test]
    fn without_last_modified_the_date_or_the_moment_of_receipt_stands_in() {
        assert!(same(&[("if-modified-since", LATE)], &[("date", EARLY)]));
        assert!(!same(&[("if-modified-since", EARLY)], &[("date", LATE)]));
        assert!(same(&[("if-modified-since", EARLY)], &[]), "received at that moment");
        assert!(!same(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], &[]));
    }

    #[test]
    fn if_range_needs_a_strong_match() {
        for (if_range, response, expected) in [
            ("\"a\"", &[("etag", "\"a\"")][..], true),
            ("\"a\"", &[("etag", "W/\"a\"")][..], false),
            ("W/\"a\"", &[("etag", "W/\"a\"")][..], false),
            ("\"a\"", &[("etag", "\"b\"")][..], false),
            ("\"a\"", &[][..], false),
            (EARLY, &[("last-modified", EARLY), ("date", LATE)][..], true),
            (EARLY, &[("last-modified", EARLY), ("date", EARLY)][..], false),
            (EARLY, &[("last-modified", EARLY)][..], false),
            (LATE, &[("last-modified", EARLY), ("date", LATE)][..], false),
            ("soon", &[("last-modified", EARLY), ("date", LATE)][..], false),
        ] {
            let request = [("if-range", if_range.as_bytes())];
            assert_eq!(
                if_range_holds(Fields::new(&request), Fields::new(&fields(response))),
                expected,
                "{if_range}"
            );
        }
        assert!(if_range_holds(Fields::new(&[]), Fields::new(&[])), "no condition");
    }
}
