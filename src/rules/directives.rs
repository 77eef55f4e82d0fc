//! The directives of a `Cache-Control` line, in every spelling that origins and clients use.
//!
//! A strict reader would miss `no-store; private`, and store what must not be. So this one finds a directive
//! wherever a person would see one, and marks what the grammar does not allow: a prohibition counts however it
//! is written, a permission only when it is written well.

use super::head::is_token;

/// One directive (RFC 9111 section 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// In lower case.
    pub name: String,
    /// What stands after `=`.
    pub argument: Argument,
}

/// The argument of a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// There is none.
    Absent,
    /// A token, or anything else that ends at the next separator.
    Token(String),
    /// A quoted string, its quotes and escapes taken away.
    Quoted(String),
    /// Against the grammar: white space around `=`, or a quote that is never closed.
    Malformed,
}

/// The largest delta-seconds worth telling apart: a larger one counts as this (RFC 9111 section 1.2.2).
pub const MAX_DELTA: u64 = 1 << 31;

impl Argument {
    /// The argument as delta-seconds; recipients accept both forms (RFC 9111 section 5.2).
    pub fn seconds(&self) -> Option<u64> {
        match self {
            Self::Token(text) | Self::Quoted(text) => digits(text),
            Self::Absent | Self::Malformed => None,
        }
    }

    /// The field names of a qualified `private` or `no-cache`, in lower case. `None` unless the argument is a
    /// quoted list of nothing else: then the directive counts for the whole response.
    pub fn field_names(&self) -> Option<Vec<String>> {
        let Self::Quoted(list) = self else { return None };
        let names: Vec<String> = list.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        names.iter().all(|name| is_token(name)).then_some(names)
    }
}

/// Reads a number of digits only, as delta-seconds are; [`MAX_DELTA`] at most.
pub fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse::<u64>().unwrap_or(MAX_DELTA).min(MAX_DELTA))
}

const SEPARATORS: &[char] = &[',', ';', ' ', '\t', '"'];

/// Splits a line into its directives. Semicolons, spaces and stray quotes separate as commas do.
pub fn directives(line: &str) -> Vec<Directive> {
    let mut found = Vec::new();
    // After a stray quote nobody knows which quotes open and which close: none of them hides anything any more.
    let mut is_stray = false;
    let mut skip = |text: &'_ str| {
        let separators = text.len() - text.trim_start_matches(SEPARATORS).len();
        is_stray |= text[..separators].contains('"');
        (separators, is_stray)
    };
    let (mut at, mut unsure) = skip(line);
    while at < line.len() {
        let rest = &line[at..];
        let end = rest.find(|c| SEPARATORS.contains(&c) || c == '=').unwrap_or(rest.len());
        let name = rest[..end].to_ascii_lowercase();
        let (argument, after) = argument(&rest[end..], unsure);
        if !name.is_empty() {
            found.push(Directive { name, argument });
        }
        let (separators, is_stray) = skip(after);
        at = line.len() - after.len() + separators;
        unsure = is_stray;
    }
    found
}

/// Reads the argument that follows a name, if any, and returns what follows it. Where quotes are `unsure`, what they
/// enclose is read on as directives.
fn argument(after_name: &str, unsure: bool) -> (Argument, &str) {
    let Some(text) = after_name.trim_start().strip_prefix('=') else {
        return (Argument::Absent, after_name);
    };
    let value = text.trim_start();
    let is_spaced = !after_name.starts_with('=') || value.len() != text.len();
    let (argument, after) = match value.strip_prefix('"') {
        Some(quoted) if unsure => (Argument::Malformed, quoted),
        Some(quoted) => quoted_string(quoted),
        None => {
            let end = value.find([',', ';', ' ', '\t']).unwrap_or(value.len());
            (Argument::Token(value[..end].to_owned()), &value[end..])
        }
    };
    (if is_spaced { Argument::Malformed } else { argument }, after)
}

/// Reads a quoted string from behind its opening quote.
fn quoted_string(quoted: &str) -> (Argument, &str) {
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '"' => return (Argument::Quoted(value), &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    // Never closed: its text cannot be told from directives, so it is read as such.
    (Argument::Malformed, quoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(line: &str) -> Argument {
        directives(line).remove(0).argument
    }

    #[test]
    fn arguments_are_told_apart_by_their_form() {
        for (line, expected) in [
            ("a", Argument::Absent),
            ("a=1", Argument::Token("1".into())),
            ("a=", Argument::Token(String::new())),
            ("a=\"1, \\\"2\"", Argument::Quoted("1, \"2".into())),
            ("a =1", Argument::Malformed),
            ("a= 1", Argument::Malformed),
            ("a=\"1", Argument::Malformed),
        ] {
            assert_eq!(one(line), expected, "{line}");
        }
    }

    #[test]
    fn names_are_found_between_any_separators() {
        let names = |line| directives(line).into_iter().map(|d| d.name).collect::<Vec<_>>();
        assert_eq!(names("No-Store;private , max-age=1 x"), ["no-store", "private", "max-age", "x"]);
        assert_eq!(names("x=\"no-store\", a"), ["x", "a"], "inside a quoted string is text");
        assert_eq!(names("x=\"a, no-store"), ["x", "a", "no-store"], "a quote never closed hides nothing");
        assert_eq!(
            names("x\"y=\"a, no-store, b=\"c\""),
            ["x", "y", "a", "no-store", "b", "c"],
            "nor a stray one"
        );
        assert_eq!(names(",, ;=1"), Vec::<String>::new());
    }

    #[test]
    fn only_a_quoted_list_of_names_qualifies() {
        for (line, expected) in [
            ("private=\"Set-Cookie, X-User\"", Some(vec!["set-cookie", "x-user"])),
            ("private=\"x\"", Some(vec!["x"])),
            ("private=x", None),
            ("private=\"\"", None),
            ("private=\"x,\"", None),
            ("private=\"a b\"", None),
            ("private =\"x\"", None),
            ("private", None),
        ] {
            let names = one(line).field_names();
            assert_eq!(names, expected.map(|n| n.into_iter().map(str::to_owned).collect()), "{line}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_ends(line in "\\PC{0,80}") {
            prop_assert!(directives(&line).len() <= line.len());
        }
    }
}
