//! Which bytes of a response a client asks for (RFC 9110 section 14).

use std::ops::Range;

use smallvec::SmallVec;

use super::conditional::if_range_holds;
use super::head::Fields;

/// The most ranges answered one by one. A client that asks for more gets the whole response: many small or
/// overlapping ranges cost more than they save (RFC 9110 section 14.2).
pub const MAX_RANGES: usize = 16;

/// Which part of a complete response is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// These bytes, in this order: at least two ranges.
    Several(Vec<Range<u64>>),
    /// Bytes it does not have: 416.
    Unsatisfiable,
}

/// What is asked for: as a rule one range.
type Wanted = SmallVec<[Range<u64>; 2]>;

/// One range as asked for.
enum Asked {
    Bytes(Range<u64>),
    Unsatisfiable,
    Malformed,
}

/// Reads `Range` and `If-Range` of a GET for a complete 200 of `length` bytes.
pub fn part(request: Fields<'_>, response: Fields<'_>, length: u64) -> Part {
    let mut lines = request.all("range");
    let (Some(range), None) = (lines.next(), lines.next()) else {
        return Part::Whole;
    };
    let range = std::str::from_utf8(range).unwrap_or_default();
    let Some((unit, ranges)) = range.split_once('=') else {
        return Part::Whole;
    };
    // Section 14.2: what is no valid range of a known unit is ignored.
    if !unit.trim().eq_ignore_ascii_case("bytes") || !if_range_holds(request, response) {
        return Part::Whole;
    }
    let mut wanted = Wanted::new();
    let specs = ranges.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    let mut any = false;
    for (count, spec) in specs.enumerate() {
        any = true;
        match one(spec, length) {
            _ if count >= MAX_RANGES => return Part::Whole,
            Asked::Malformed => return Part::Whole,
            // Section 14.1.2: one satisfiable range is enough.
            Asked::Unsatisfiable => {}
            Asked::Bytes(range) => wanted.push(range),
        }
    }
    choose(wanted, any, length)
}

/// Whether a request asks for the whole, or for one range from its beginning on: what a player asks for first. It can
/// be answered while the whole is fetched.
pub fn begins_at_zero(request: Fields<'_>) -> bool {
    let Some(range) = request.text("range") else { return !request.has("range") };
    matches!(range.split_once('='), Some((_, ranges)) if ranges.trim().starts_with("0-") && !ranges.contains(','))
}

fn choose(mut wanted: Wanted, any: bool, length: u64) -> Part {
    match wanted.len() {
        0 if any => Part::Unsatisfiable,
        0 => Part::Whole,
        1 => Part::Bytes(wanted.remove(0)),
        _ => {
            let overlaps = wanted.iter().enumerate().any(|(at, range)| {
                wanted[..at].iter().any(|before| range.start < before.end && before.start < range.end)
            });
            let total = || wanted.iter().map(|range| range.end - range.start).sum::<u64>();
            if overlaps || total() >= length { Part::Whole } else { Part::Several(wanted.into_vec()) }
        }
    }
}

fn one(spec: &str, length: u64) -> Asked {
    let Some((first, last)) = spec.split_once('-') else {
        return Asked::Malformed;
    };
    let (first, last) = (first.trim(), last.trim());
    let position = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first, position(first), last, position(last)) {
        ("", _, _, Some(suffix)) if suffix == 0 || length == 0 => Asked::Unsatisfiable,
        ("", _, _, Some(suffix)) => Asked::Bytes(length.saturating_sub(suffix)..length),
        (_, Some(first), "", _) if first < length => Asked::Bytes(first..length),
        (_, Some(_), "", _) => Asked::Unsatisfiable,
        (_, Some(first), _, Some(last)) if first > last => Asked::Malformed,
        (_, Some(first), _, Some(last)) if first < length => {
            Asked::Bytes(first..last.saturating_add(1).min(length))
        }
        (_, Some(_), _, Some(_)) => Asked::Unsatisfiable,
        _ => Asked::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(range: &str, length: u64) -> Part {
        part(Fields::new(&[("Range", range.as_bytes())]), Fields::default(), length)
    }

    #[test]
    fn one_range_is_a_part() {
        for (range, expected) in [
            ("bytes=0-4", Part::Bytes(0..5)),
            ("bytes=5-", Part::Bytes(5..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-99", Part::Bytes(0..10)),
            ("bytes=0-99", Part::Bytes(0..10)),
            ("bytes=9-9", Part::Bytes(9..10)),
            ("BYTES = 1-2", Part::Bytes(1..3)),
            ("bytes=0-18446744073709551616", Part::Bytes(0..10)),
            ("bytes=20-, 1-2", Part::Bytes(1..3)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=10-12", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=20-, 30-", Part::Unsatisfiable),
        ] {
            assert_eq!(asked(range, 10), expected, "{range}");
        }
        assert_eq!(asked("bytes=-1", 0), Part::Unsatisfiable);
    }

    #[test]
    fn what_is_no_range_asks_for_the_whole() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=a-b",
            "bytes=4-2",
            "bytes=--1",
            "items=0-1",
            "bytes=1-2, x",
        ] {
            assert_eq!(asked(range, 10), Part::Whole, "{range}");
        }
        let twice = [("range", &b"bytes=0-1"[..]), ("range", &b"bytes=2-3"[..])];
        assert_eq!(part(Fields::new(&twice), Fields::default(), 10), Part::Whole);
    }

    #[test]
    fn several_ranges_are_several_parts_unless_the_whole_is_cheaper() {
        assert_eq!(asked("bytes=0-1, 4-5", 10), Part::Several(vec![0..2, 4..6]));
        assert_eq!(asked("bytes=-2,0-1", 10), Part::Several(vec![8..10, 0..2]));
        assert_eq!(asked("bytes=0-1, 1-3", 10), Part::Whole, "overlapping");
        assert_eq!(asked("bytes=0-4, 5-9", 10), Part::Whole, "everything");
        let many =
            format!("bytes={}", (0..=MAX_RANGES).map(|n| format!("{0}-{0},", n * 2)).collect::<String>());
        assert_eq!(asked(&many, 1000), Part::Whole, "too many");
    }

    #[test]
    fn what_begins_at_the_beginning_is_told_apart() {
        for (range, expected) in [
            ("bytes=0-", true),
            ("bytes=0-1", true),
            ("bytes = 0-1", true),
            ("bytes=0-1,5-6", false),
            ("bytes=1-", false),
            ("bytes=-1", false),
            ("bytes=00-", false),
            ("nonsense", false),
        ] {
            assert_eq!(begins_at_zero(Fields::new(&[("range", range.as_bytes())])), expected, "{range}");
        }
        assert!(begins_at_zero(Fields::new(&[])), "no range at all");
    }

    #[test]
    fn a_condition_that_does_not_hold_asks_for_the_whole() {
        let request = [("range", &b"bytes=0-1"[..]), ("if-range", &b"\"a\""[..])];
        let holds = |etag: &'static [u8]| part(Fields::new(&request), Fields::new(&[("etag", etag)]), 10);
        assert_eq!(holds(b"\"a\""), Part::Bytes(0..2));
        assert_eq!(holds(b"\"b\""), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_response(range in "bytes=[0-9, -]{0,24}", length in 0u64..40) {
            let ranges = match asked(&range, length) {
                Part::Bytes(range) => vec![range],
                Part::Several(ranges) => ranges,
                Part::Whole | Part::Unsatisfiable => vec![],
            };
            for range in ranges {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
