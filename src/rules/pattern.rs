//! Purges by pattern, as Varnish knows them: a conjunction of regular expressions over what a response is known by.
//!
//! Patterns come from outside, so their length, their compiled size and (by the engine) the time they take are bounded.
//! Most that clients send are simpler than they look (`^/blog/.*`, a list of tags); those become selectors that the
//! index can find.

use std::fmt;
use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::selector::{Facts, MAX_SELECTORS, SelectorError, check_length};

/// The most bytes a compiled pattern, or its cache, may occupy.
const MAX_COMPILED: usize = 256 << 10;

/// About the bytes that a byte of a pattern occupies once compiled.
const COMPILED_PER_BYTE: usize = 64;

/// What all must match; `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// The host.
    pub host: Option<Rule>,
    /// Path and query.
    pub url: Option<Rule>,
    /// The media type.
    pub content_type: Option<Rule>,
    /// The tags, separated by commas.
    pub tags: Option<Rule>,
}

impl Pattern {
    /// Whether a response with these facts is named.
    pub fn matches(&self, facts: &Facts) -> bool {
        let later = |rule: &Option<Rule>, text: &str| rule.as_ref().is_none_or(|rule| rule.matches(text));
        self.may_match(facts)
            && later(&self.content_type, &facts.content_type)
            && self.tags.as_ref().is_none_or(|rule| facts.tags.is_cut() || rule.matches(&facts.tags.joined()))
    }

    /// Whether a response of which only the URL is known yet may turn out to be named.
    pub fn may_match(&self, facts: &Facts) -> bool {
        let url = |rule: &Rule| match &facts.query {
            None => rule.matches(&facts.path),
            Some(query) => rule.matches(&format!("{}?{query}", facts.path)),
        };
        self.host.as_ref().is_none_or(|rule| rule.matches(&facts.host)) && self.url.as_ref().is_none_or(url)
    }

    /// About the bytes it occupies.
    pub fn size(&self) -> usize {
        let rules = [&self.host, &self.url, &self.content_type, &self.tags];
        let size = |rule: &Rule| match rule.matcher {
            Matcher::Regex(_) => rule.shown.len() * COMPILED_PER_BYTE,
            Matcher::Exact | Matcher::Wildcard(_) => rule.shown.len() * 2,
        };
        rules.into_iter().flatten().map(size).sum()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named =
            [("regex", &self.url), ("host", &self.host), ("type", &self.content_type), ("tags", &self.tags)];
        let mut gap = "";
        for (name, rule) in named {
            let Some(rule) = rule else { continue };
            let name = if name == "regex" && matches!(rule.matcher, Matcher::Wildcard(_)) {
                "wildcard"
            } else {
                name
            };
            write!(f, "{gap}{name} {}", rule.shown)?;
            gap = " ";
        }
        Ok(())
    }
}

/// One condition.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Rule {
    shown: String,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    Exact,
    /// The texts between which any other may stand.
    Wildcard(Vec<String>),
    Regex(Regex),
}

/// A condition as text.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Written {
    Exact(String),
    Wildcard(Vec<String>),
    Regex(String),
}

impl From<Rule> for Written {
    fn from(rule: Rule) -> Self {
        match rule.matcher {
            Matcher::Exact => Self::Exact(rule.shown),
            Matcher::Wildcard(parts) => Self::Wildcard(parts),
            Matcher::Regex(_) => Self::Regex(rule.shown),
        }
    }
}

impl TryFrom<Written> for Rule {
    type Error = SelectorError;

    fn try_from(written: Written) -> Result<Self, SelectorError> {
        match written {
            Written::Exact(text) => Self::exact(&text),
            Written::Wildcard(parts) => {
                Ok(Self { shown: parts.join("*"), matcher: Matcher::Wildcard(parts) })
            }
            Written::Regex(text) => Self::regex(&text),
        }
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        match (&self.matcher, &other.matcher) {
            // A star in what is shown may be one or stand for any text.
            (Matcher::Wildcard(ours), Matcher::Wildcard(theirs)) => ours == theirs,
            (Matcher::Exact, Matcher::Exact) | (Matcher::Regex(_), Matcher::Regex(_)) => {
                self.shown == other.shown
            }
            _ => false,
        }
    }
}

impl Eq for Rule {}

impl Hash for Rule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Of what `eq` compares: `/**` and `/*` are one.
        match &self.matcher {
            Matcher::Wildcard(parts) => parts.hash(state),
            Matcher::Exact | Matcher::Regex(_) => self.shown.hash(state),
        }
    }
}

impl Rule {
    /// Text that is exactly this.
    pub fn exact(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        Ok(Self { shown: text.to_owned(), matcher: Matcher::Exact })
    }

    /// Text in which `star` stands for any other.
    pub fn wildcard(text: &str, star: char) -> Result<Self, SelectorError> {
        check_length(text)?;
        let parts: Vec<&str> = text.split(star).collect();
        // Several stars in a row are one.
        let (end, inner) = (parts.len() - 1, parts.iter().enumerate());
        let kept = inner.filter(|(at, part)| [0, end].contains(at) || !part.is_empty());
        let parts = kept.map(|(_, part)| (*part).to_owned()).collect();
        Ok(Self { shown: text.replace(star, "*"), matcher: Matcher::Wildcard(parts) })
    }

    /// Text in which this regular expression is found.
    pub fn regex(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        if text.is_empty() {
            return Err(SelectorError::EmptyPattern);
        }
        // What is matched is ASCII or arbitrary bytes; Unicode classes would only make programs large.
        let built = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .build();
        let regex = built.map_err(|error| {
            let message = error.to_string();
            let last = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
            SelectorError::BadRegex(last.to_owned())
        })?;
        Ok(Self { shown: text.to_owned(), matcher: Matcher::Regex(regex) })
    }

    /// The same from the start of the text on.
    pub fn regex_from_start(text: &str) -> Result<Self, SelectorError> {
        Self::regex(text)?;
        Self::regex(&format!("^(?:{text})"))
    }

    /// The same; nothing for what is written to match everything.
    pub fn selective(text: &str) -> Result<Option<Self>, SelectorError> {
        let rule = Self::regex(text)?;
        Ok((!matches!(text, ".*" | "^.*$" | "^.*" | ".*$")).then_some(rule))
    }

    fn matches(&self, text: &str) -> bool {
        match &self.matcher {
            Matcher::Exact => self.shown == text,
            Matcher::Wildcard(parts) => matches_parts(parts, text),
            Matcher::Regex(regex) => regex.is_match(text.as_bytes()),
        }
    }

    /// The only text it matches, where it is written as such.
    pub fn literal(&self) -> Option<&str> {
        match &self.matcher {
            Matcher::Exact => Some(&self.shown),
            Matcher::Wildcard(parts) if parts.len() == 1 => parts.first().map(String::as_str),
            _ => None,
        }
    }

    /// The beginning of a path that all texts have that it matches, where it says nothing else.
    pub fn prefix(&self) -> Option<&str> {
        match &self.matcher {
            Matcher::Regex(_) => {}
            Matcher::Wildcard(parts) => match &parts[..] {
                [path, end] if end.is_empty() && !path.contains('?') => return Some(path),
                _ => return None,
            },
            Matcher::Exact => return None,
        }
        let text = self.shown.strip_prefix('^')?;
        // As `regex_from_start` writes it.
        let text = text.strip_prefix("(?:").and_then(|inner| inner.strip_suffix(')')).unwrap_or(text);
        // What ends there and says no more than where it begins.
        let text = text.strip_suffix(".*$").or_else(|| text.strip_suffix(".*")).unwrap_or(text);
        (text.starts_with('/') && !text.contains(METACHARACTERS)).then_some(text)
    }
}

/// Whether a text begins with the first part, ends with the last, and has the others between them, in order. The first
/// place for each is as good as any later one, so that this takes no longer than reading the text a few times.
fn matches_parts(parts: &[String], text: &str) -> bool {
    let (Some((first, rest)), Some(last)) = (parts.split_first(), parts.last()) else { return false };
    if rest.is_empty() {
        return text == first;
    }
    let within = text.strip_prefix(first.as_str()).and_then(|text| text.strip_suffix(last.as_str()));
    let Some(mut within) = within else { return false };
    rest[..rest.len() - 1].iter().all(|part| match within.split_once(part.as_str()) {
        Some((_, after)) => {
            within = after;
            true
        }
        None => false,
    })
}

/// What means something in a regular expression, and the `?` of a query.
const METACHARACTERS: &[char] = &['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$', '#'];

/// The tags that a pattern spells, if it does nothing else: `(^|,)(a|b)(,|$)`, `((^|,)a(,|$))|((^|,)b(,|$))`.
pub fn spelled_tags(pattern: &str) -> Option<Vec<String>> {
    let mut tags = Vec::new();
    for part in alternatives(pattern)? {
        let part = unwrapped(part).unwrap_or(part);
        let rest =
            ["(^|,)", "(,|^)", r"(^|\,)", r"(\,|^)"].iter().find_map(|start| part.strip_prefix(start))?;
        let names = ["(,|$)", "($|,)", r"(\,|$)", r"($|\,)"].iter().find_map(|end| rest.strip_suffix(end))?;
        let names = unwrapped(names).unwrap_or(names);
        for name in alternatives(names)? {
            tags.push(unescaped(name)?);
        }
    }
    (tags.len() <= MAX_SELECTORS).then_some(tags)
}

/// Splits at the `|` that stand in no parentheses; `None` when those do not match.
fn alternatives(pattern: &str) -> Option<Vec<&str>> {
    let (mut depth, mut escaped, mut from) = (0_usize, false, 0);
    let mut parts = Vec::new();
    for (at, byte) in pattern.bytes().enumerate() {
        let is_escaped = escaped;
        escaped = byte == b'\\' && !is_escaped;
        if is_escaped {
            continue;
        }
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1)?,
            b'|' if depth == 0 => {
                parts.push(&pattern[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&pattern[from..]);
    (depth == 0).then_some(parts)
}

/// What stands in the parentheses that enclose all of it.
fn unwrapped(pattern: &str) -> Option<&str> {
    let inner = pattern.strip_prefix('(')?.strip_suffix(')')?;
    // Those of `(a)(b)` do not, nor of `(a\)`.
    alternatives(inner).map(|_| inner)
}

/// The text that a pattern without any special character matches.
fn unescaped(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(char::is_ascii_punctuation)?),
            // `#` is special in verbose mode only.
            c if METACHARACTERS.contains(&c) && c != '#' => return None,
            c => text.push(c),
        }
    }
    (!text.is_empty() && !text.contains(',')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tags::Tags;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn facts(tags: &[&str]) -> Facts {
        Facts {
            host: "shop".into(),
            path: "/a".into(),
            query: Some("b=1".into()),
            content_type: "image/png".into(),
            tags: Tags::new(tags.iter().map(|tag| Arc::from(*tag))),
        }
    }

    #[test]
    fn all_conditions_must_hold() {
        let rule = |text: &str| Some(Rule::regex(text).unwrap());
        let whole = Pattern {
            host: rule("^shop$"),
            url: rule("^/a[?]b"),
            content_type: rule("image/"),
            tags: rule("(^|,)t(,|$)"),
        };
        assert!(whole.matches(&facts(&["s", "t", "u"])));
        assert!(!whole.matches(&facts(&["tt"])));
        for pattern in [
            Pattern { host: rule("^op$"), ..whole.clone() },
            Pattern { url: rule("^/b"), ..whole.clone() },
            Pattern { content_type: rule("text"), ..whole.clone() },
        ] {
            assert!(!pattern.matches(&facts(&["t"])), "{pattern}");
        }
        assert!(whole.may_match(&Facts { content_type: "".into(), ..facts(&[]) }));
        assert_eq!(whole.to_string(), "regex ^/a[?]b host ^shop$ type image/ tags (^|,)t(,|$)");
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, expected) in [
            ("/a*c", "/abc", true),
            ("/a*c", "/ac", true),
            ("/a*c", "/a", false),
            ("/ab*bc", "/abc", false),
            ("*", "", true),
            ("/**/x", "/a/x", true),
            ("/*/x", "/x", false),
            ("*b*b*", "abb", true),
            ("*b*b*", "ab", false),
            ("/é*", "/éa", true),
        ] {
            assert_eq!(Rule::wildcard(pattern, '*').unwrap().matches(text), expected, "{pattern} {text}");
        }
        let (literal, wild) = (Rule::wildcard("/~/*", '~').unwrap(), Rule::wildcard("/*/*", '*').unwrap());
        assert!(literal != wild && literal.shown == wild.shown);
        let spellings = ["/a*", "/a**", "/a*b"].map(|text| Rule::wildcard(text, '*').unwrap());
        assert_eq!(std::collections::HashSet::from(spellings).len(), 2);
        for (pattern, expected) in [
            ("^/a/", Some("/a/")),
            ("^/a/.*", Some("/a/")),
            ("^/a/.*$", Some("/a/")),
            ("^/a/$", None),
            ("/a/.*", None),
            ("^/a|b", None),
        ] {
            assert_eq!(Rule::regex(pattern).unwrap().prefix(), expected, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_spells_tags_is_read_as_tags() {
        for (pattern, expected) in [
            ("(^|,)(a|b)(,|$)", Some(&["a", "b"][..])),
            ("((^|,)cat_p_1(,|$))|((^|,)cat_c(,|$))", Some(&["cat_p_1", "cat_c"][..])),
            (r"(^|\,)/books/1($|\,)", Some(&["/books/1"][..])),
            (r"(^|,)(product\-7|a\.b)(,|$)", Some(&["product-7", "a.b"][..])),
            ("(^|,)a.b(,|$)", None),
            ("(^|,)a", None),
            ("a(,|$)", None),
            ("(^|,)(a|)(,|$)", None),
            (r"(^|,)\d(,|$)", None),
            ("((^|,)a(,|$)", None),
            ("(^|,)a(,|$))|((^|,)b(,|$)", None),
            (".*", None),
            ("", None),
        ] {
            let expected = expected.map(|tags| tags.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(spelled_tags(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn what_matches_everything_selects_nothing_and_what_is_malformed_is_refused() {
        assert_eq!(Rule::selective(".*"), Ok(None));
        assert!(Rule::selective("a.*").unwrap().is_some());
        assert!(Rule::selective("(").is_err());
        assert!(Rule::regex_from_start("a)|(b").is_err(), "it must be well-formed by itself");
        assert!(Rule::regex_from_start("/a|/b").unwrap().matches("/b"));
        assert!(!Rule::regex_from_start("/a|/b").unwrap().matches("x/b"));
        assert_eq!(Rule::regex_from_start("/a/.*").unwrap().prefix(), Some("/a/"));
        assert_eq!(Rule::regex("^/a/.*|b").unwrap().prefix(), None);
        assert_eq!(Rule::regex("/a/.*").unwrap().prefix(), None, "it may stand anywhere");
    }

    proptest! {
        /// Compared with a regular expression that says the same.
        #[test]
        fn a_wildcard_matches_what_an_expression_would(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
            let expression = Regex::new(&format!("^{}$", parts.join(".*"))).unwrap();
            let found = Rule::wildcard(&pattern, '*').unwrap().matches(&text);
            prop_assert_eq!(found, expression.is_match(text.as_bytes()));
        }

        /// Reading a pattern as tags never names another page than the pattern would.
        #[test]
        fn spelled_tags_mean_what_the_pattern_means(
            names in proptest::collection::vec("[a-c]{1,2}", 1..4),
            carried in proptest::collection::vec("[a-c]{1,2}", 0..4),
        ) {
            let pattern = format!("(^|,)({})(,|$)", names.join("|"));
            let spelled = spelled_tags(&pattern).unwrap();
            let carried: Vec<&str> = carried.iter().map(String::as_str).collect();
            let facts = facts(&carried);
            let by_tags = spelled.iter().any(|tag| facts.tags.match_tag(tag));
            let by_pattern = Pattern { tags: Some(Rule::regex(&pattern).unwrap()), ..Pattern::default() };
            prop_assert_eq!(by_tags, by_pattern.matches(&facts));
        }

        #[test]
        fn any_pattern_is_read_or_refused(text in "[ab(|)\\\\^$,.*]{0,12}") {
            if let Some(tags) = spelled_tags(&text) {
                prop_assert!(Rule::regex(&text).is_ok(), "{:?}", tags);
            }
        }
    }
}
