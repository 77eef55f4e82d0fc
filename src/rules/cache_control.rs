//! What `Cache-Control` says (RFC 9111 section 5.2).
//!
//! Origins write it in every imaginable way. Where a directive is malformed or contradicts itself, the reading
//! that stores less or shorter is taken.

use std::time::Duration;

use super::head::Fields;

/// The largest delta-seconds worth telling apart (RFC 9111 section 1.2.2).
const MAX_DELTA: u64 = 1 << 31;

/// The response directives a shared cache obeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `no-store`.
    pub no_store: bool,
    /// `private`, also with field names: the whole response is then treated as private.
    pub private: bool,
    /// `no-cache`, also with field names: every reuse is then validated.
    pub no_cache: bool,
    /// `must-revalidate`, `proxy-revalidate`, or `s-maxage`, which implies the latter (section 5.2.2.10).
    pub must_revalidate: bool,
    /// `max-age`; zero when malformed.
    pub max_age: Option<Duration>,
    /// `s-maxage`; zero when malformed.
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate` (RFC 5861).
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error` (RFC 5861).
    pub stale_if_error: Option<Duration>,
}

impl CacheControl {
    /// Reads every `Cache-Control` line.
    pub fn parse(fields: Fields<'_>) -> Self {
        let mut read = Self::default();
        for line in fields.all("cache-control") {
            for (name, argument) in directives(&String::from_utf8_lossy(line)) {
                read.apply(&name, argument.as_deref());
            }
        }
        read.must_revalidate |= read.s_maxage.is_some();
        read
    }

    fn apply(&mut self, name: &str, argument: Option<&str>) {
        match name {
            "no-store" => self.no_store = true,
            "private" => self.private = true,
            "no-cache" => self.no_cache = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "max-age" => shortest(&mut self.max_age, argument),
            "s-maxage" => shortest(&mut self.s_maxage, argument),
            "stale-while-revalidate" => shortest(&mut self.stale_while_revalidate, argument),
            "stale-if-error" => shortest(&mut self.stale_if_error, argument),
            // Unrecognized directives are ignored (section 5.2.3).
            _ => {}
        }
    }
}

/// A repeated directive counts with its shortest value; a malformed value counts as zero, i.e. as stale
/// (section 4.2.1).
fn shortest(slot: &mut Option<Duration>, argument: Option<&str>) {
    let seconds = argument.and_then(delta_seconds).unwrap_or(0);
    let value = Duration::from_secs(seconds);
    *slot = Some(slot.map_or(value, |before| before.min(value)));
}

fn delta_seconds(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse::<u64>().unwrap_or(MAX_DELTA).min(MAX_DELTA))
}

/// Splits a line into lower-case directive names and their arguments, unquoted. Semicolons, spaces and stray quotes
/// separate as commas do: origins write `no-store; private` and mean it.
fn directives(line: &str) -> Vec<(String, Option<String>)> {
    const SEPARATORS: &[char] = &[',', ';', ' ', '\t', '"'];
    let mut found = Vec::new();
    let mut rest = line.trim_start_matches(SEPARATORS);
    while !rest.is_empty() {
        let end = rest.find(|c| SEPARATORS.contains(&c) || c == '=').unwrap_or(rest.len());
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let argument = rest.strip_prefix('=').map(|after| {
            let (argument, after) = argument(after.trim_start());
            rest = after;
            argument
        });
        if !name.is_empty() {
            found.push((name, argument));
        }
        rest = rest.trim_start_matches(SEPARATORS);
    }
    found
}

/// Reads a token or quoted-string, and what follows it.
fn argument(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    // Never closed: its text cannot be told from directives, so it is read as both.
    (value, quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> CacheControl {
        let fields: Vec<_> = lines.iter().map(|line| ("Cache-Control", line.as_bytes())).collect();
        CacheControl::parse(Fields(&fields))
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
        assert!(read(&["private=\"set-cookie, x\", max-age=1"]).private);
        assert_eq!(read(&["private=\"set-cookie, x\", max-age=1"]).max_age, seconds(1));
        assert!(read(&["no-cache=x"]).no_cache);
        assert!(read(&["s-maxage=1"]).must_revalidate);
        assert!(!read(&["x-no-store, xprivate"]).no_store);
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
            ("max-age='60'", 0),
            ("max-age=99999999999999999999", MAX_DELTA),
            ("max-age = 60", 60),
        ] {
            assert_eq!(read(&[line]).max_age, seconds(expected), "{line}");
        }
    }

    #[test]
    fn sloppy_separators_and_quotes_hide_nothing() {
        for line in [
            "private; max-age=60",
            "no-store; no-cache",
            "no-cache no-store",
            "x=\"a, no-store",
            "\"no-store\"",
        ] {
            let read = read(&[line]);
            assert!(read.no_store || read.private, "{line}");
        }
        assert_eq!(read(&["private; max-age=60"]).max_age, seconds(60));
    }

    #[test]
    fn a_directive_inside_a_quoted_string_is_text() {
        assert!(!read(&["x=\"no-store, private\", max-age=1"]).no_store);
        assert_eq!(read(&["x=\"a\\\", no-store\", max-age=1"]), {
            CacheControl { max_age: seconds(1), ..Default::default() }
        });
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
