//! Whether the client already has the response (304), and which bytes of it the client asks for (206).

use std::ops::Range;
use std::time::SystemTime;

use super::freshness::parse_date;
use super::head::Fields;

/// Whether a conditional GET or HEAD is answered with 304 (RFC 9110 section 13.2.2).
pub fn not_modified(request: Fields<'_>, response: Fields<'_>) -> bool {
    if request.has("if-none-match") {
        // If-Modified-Since is ignored beside it (section 13.1.3).
        let Some(stored) = response.text("etag") else {
            return request.all("if-none-match").any(|value| value.trim_ascii() == b"*");
        };
        return request
            .list("if-none-match")
            .any(|candidate| candidate == "*" || weak(candidate) == weak(stored.trim()));
    }
    let since = request.text("if-modified-since").and_then(parse_date);
    let modified = response.text("last-modified").and_then(parse_date);
    matches!((since, modified), (Some(since), Some(modified)) if modified <= since)
}

/// The opaque part of an entity tag: what the weak comparison compares (section 8.8.3.2).
fn weak(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

/// Which part of a complete response is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// Bytes it does not have: 416.
    Unsatisfiable,
}

/// Reads `Range` and `If-Range` of a GET for a stored 200 of `length` bytes (RFC 9110 section 14).
///
/// A request for several ranges is answered whole, which the RFC allows and few clients miss.
pub fn part(request: Fields<'_>, response: Fields<'_>, length: u64) -> Part {
    let Some(range) = request.text("range") else {
        return Part::Whole;
    };
    if !if_range_holds(request, response) {
        return Part::Whole;
    }
    let Some((unit, ranges)) = range.split_once('=') else {
        return Part::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else {
        return Part::Whole;
    };
    let position = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first, position(first), last, position(last)) {
        ("", _, _, Some(0)) => Part::Unsatisfiable,
        ("", _, _, Some(_)) if length == 0 => Part::Unsatisfiable,
        ("", _, _, Some(suffix)) => Part::Bytes(length.saturating_sub(suffix)..length),
        (_, Some(first), "", _) if first < length => Part::Bytes(first..length),
        (_, Some(first), _, Some(last)) if first <= last && first < length => {
            Part::Bytes(first..last.saturating_add(1).min(length))
        }
        (_, Some(first), "", _) if first >= length => Part::Unsatisfiable,
        (_, Some(first), _, Some(last)) if first <= last => Part::Unsatisfiable,
        // Not a valid range: ignored (section 14.2).
        _ => Part::Whole,
    }
}

/// Strong comparison only: a weak tag or an unsure date asks for the whole (RFC 9110 section 13.1.5).
fn if_range_holds(request: Fields<'_>, response: Fields<'_>) -> bool {
    if !request.has("if-range") {
        return true;
    }
    let Some(condition) = request.text("if-range").map(str::trim) else {
        return false;
    };
    if condition.starts_with('"') {
        return response.text("etag").map(str::trim) == Some(condition);
    }
    let date = |name| response.text(name).and_then(parse_date);
    match (parse_date(condition), date("last-modified"), date("date")) {
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

    fn fields<'a>(pairs: &'a [(&'a str, &'a str)]) -> Vec<(&'a str, &'a [u8])> {
        pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
    }

    fn same(request: &[(&str, &str)], response: &[(&str, &str)]) -> bool {
        not_modified(Fields(&fields(request)), Fields(&fields(response)))
    }

    #[test]
    fn entity_tags_are_compared_weakly() {
        let etag = [("etag", "\"a\"")];
        for (condition, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
        ] {
            assert_eq!(same(&[("if-none-match", condition)], &etag), expected, "{condition}");
        }
        assert!(same(&[("if-none-match", "\"a\"")], &[("etag", "W/\"a\"")]));
        assert!(!same(&[("if-none-match", "\"a\"")], &[]));
        assert!(same(&[("if-none-match", "*")], &[]));
    }

    #[test]
    fn a_date_is_used_only_without_an_entity_tag_condition() {
        let modified = [("last-modified", EARLY), ("etag", "\"a\"")];
        assert!(same(&[("if-modified-since", EARLY)], &modified));
        assert!(same(&[("if-modified-since", LATE)], &modified));
        assert!(!same(&[("if-modified-since", LATE), ("if-none-match", "\"b\"")], &modified));
        assert!(!same(&[("if-modified-since", EARLY)], &[("last-modified", LATE)]));
        assert!(!same(&[("if-modified-since", "yesterday")], &modified));
        assert!(!same(&[], &modified));
    }

    #[test]
    fn one_range_is_cut_and_odd_ones_are_answered_whole() {
        let ask = |range: &str, length| part(Fields(&fields(&[("range", range)])), Fields::default(), length);
        for (range, length, expected) in [
            ("bytes=0-0", 10, Part::Bytes(0..1)),
            ("bytes=2-", 10, Part::Bytes(2..10)),
            ("bytes=2-99999999999999999999", 10, Part::Bytes(2..10)),
            ("bytes=-3", 10, Part::Bytes(7..10)),
            ("bytes=-30", 10, Part::Bytes(0..10)),
            ("bytes=10-", 10, Part::Unsatisfiable),
            ("bytes=10-12", 10, Part::Unsatisfiable),
            ("bytes=-0", 10, Part::Unsatisfiable),
            ("bytes=0-", 0, Part::Unsatisfiable),
            ("bytes=-5", 0, Part::Unsatisfiable),
            ("bytes=3-2", 10, Part::Whole),
            ("bytes=0-1,3-4", 10, Part::Whole),
            ("lines=1-2", 10, Part::Whole),
            ("bytes", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=a-b", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
        ] {
            assert_eq!(ask(range, length), expected, "{range} of {length}");
        }
    }

    #[test]
    fn if_range_holds_only_for_a_strong_match() {
        let ask = |condition: &str, response: &[(&str, &str)]| {
            let request = [("range", "bytes=0-0"), ("if-range", condition)];
            part(Fields(&fields(&request)), Fields(&fields(response)), 10) == Part::Bytes(0..1)
        };
        assert!(ask("\"a\"", &[("etag", "\"a\"")]));
        assert!(!ask("\"b\"", &[("etag", "\"a\"")]));
        assert!(!ask("W/\"a\"", &[("etag", "W/\"a\"")]));
        assert!(ask(EARLY, &[("last-modified", EARLY), ("date", LATE)]));
        assert!(!ask(EARLY, &[("last-modified", EARLY), ("date", EARLY)]));
        assert!(!ask(EARLY, &[("last-modified", EARLY)]));
        assert!(!ask(LATE, &[("last-modified", EARLY), ("date", LATE)]));
    }
}
