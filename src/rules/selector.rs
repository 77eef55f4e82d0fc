//! What a purge names.
//!
//! A [`Selector`] names stored responses; [`Facts`] are what a stored response (or one still under way) is known
//! by. The same `matches` serves the purge of the store, the fence against fetches under way, and the tests.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::head::RequestHead;
use super::pattern::{Pattern, Rule};
use super::policy::QueryPolicy;
use super::tags::{MAX_TAG_BYTES, Tags};
use super::target::{Scheme, Target, is_host, normal_encoding, normal_host};

/// What a stored response is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Normalised, as in [`Target::host`].
    pub host: Box<str>,
    /// Normalised, as in [`Target::path`].
    pub path: Box<str>,
    /// As in the key.
    pub query: Option<Box<str>>,
    /// Its media type with parameters; empty until the response is there.
    pub content_type: Box<str>,
    /// Labels: those of the route, until the response is there.
    pub tags: Tags,
}

impl Facts {
    /// The facts of a response to `request` that is still to come.
    pub fn new(request: &RequestHead<'_>, policy: &QueryPolicy, tags: Tags) -> Self {
        Self {
            host: request.target.host.as_ref().into(),
            path: request.target.path.as_ref().into(),
            query: request.target.key_query(policy).map(Into::into),
            content_type: Box::default(),
            tags,
        }
    }

    /// The same, now that the response is there.
    pub fn of_response(&self, content_type: &str, tags: &Tags) -> Self {
        Self { content_type: content_type.into(), tags: self.tags.with(tags), ..self.clone() }
    }

    /// `http://host/path?query`, for people, and as a purge by URL takes it; the scheme is not known.
    pub fn url(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let origin = if self.host.is_empty() { String::new() } else { format!("http://{}", self.host) };
        format!("{origin}{}{query}", self.path)
    }
}

/// The most selectors of one request, whatever it is written in.
pub const MAX_SELECTORS: usize = 1000;

/// What a purge names. As text it is what instances tell one another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Selector {
    /// One URL: all its variants, over both schemes and through every route.
    Url {
        /// `None`: on every host.
        host: Option<String>,
        /// Normalised.
        path: String,
        /// The query as each distinct query policy of the routes spells it.
        queries: Vec<Option<String>>,
    },
    /// Every URL whose path begins like this.
    Prefix {
        /// `None`: on every host.
        host: Option<String>,
        /// Normalised.
        path: String,
    },
    /// Every URL of a host.
    Host(String),
    /// Everything that carries a tag.
    Tag {
        /// `None`: on every host. A cache group is of one origin (RFC 9875 section 2).
        host: Option<String>,
        /// The label.
        tag: Arc<str>,
    },
    /// Everything that patterns match. There is no index for it: the store is gone through.
    Pattern(Arc<Pattern>),
    /// Everything.
    All,
}

impl Selector {
    /// The longest URL, prefix or pattern accepted, in bytes.
    pub const MAX_LENGTH: usize = 8 * 1024;

    /// Reads `/path?query` (on every host) or `http://host/path?query`.
    pub fn url(text: &str, policies: &[QueryPolicy]) -> Result<Self, SelectorError> {
        let (host, rest) = split(text)?;
        let target = Target::new(Scheme::Http, "", rest);
        Ok(Self::target(host, &target, policies))
    }

    /// Reads `/path` (on every host) or `http://host/path`.
    pub fn prefix(text: &str) -> Result<Self, SelectorError> {
        let (host, path) = split(text)?;
        if path.contains('?') {
            return Err(SelectorError::QueryInPrefix);
        }
        Ok(Self::below(host, path))
    }

    /// Everything below a path, which may be the root of a host, or of all.
    pub(super) fn below(host: Option<String>, path: &str) -> Self {
        match (host, path) {
            (None, "/") => Self::All,
            (Some(host), "/") => Self::Host(host),
            (host, path) => Self::Prefix { host, path: normal_encoding(path).into_owned() },
        }
    }

    /// Reads a URL with `*` in its host, path or query, which stands for any text.
    pub fn wildcard(text: &str) -> Result<Self, SelectorError> {
        let (host, rest) = split(text)?;
        Self::wildcard_on(host, rest, '*')
    }

    pub(super) fn wildcard_on(host: Option<String>, rest: &str, star: char) -> Result<Self, SelectorError> {
        let url = Some(Rule::wildcard(&normal_encoding(rest), star)?);
        let host = host.filter(|host| !host.chars().all(|c| c == star));
        let host = host.map(|host| Rule::wildcard(&host, star)).transpose()?;
        Ok(Self::pattern(Pattern { host, url, ..Pattern::default() }))
    }

    /// Reads a regular expression, which is searched for in the path and query as they are percent-encoded.
    pub fn regex(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::pattern(Pattern { url: Rule::selective(text)?, ..Pattern::default() }))
    }

    /// Reads a host name, with its port where that is not the scheme's.
    pub fn host(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        let host = any_scheme(text);
        if host.is_empty() || !is_host(host.as_bytes()) {
            return Err(SelectorError::NotAHost);
        }
        Ok(Self::Host(host))
    }

    /// Reads a tag: any text without white space around it.
    pub fn tag(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_TAG_BYTES {
            return Err(SelectorError::LongTag);
        }
        let is_trimmed = text.trim() == text && !text.is_empty();
        if !is_trimmed || text.contains(char::is_control) {
            return Err(SelectorError::BadTag);
        }
        Ok(Self::of_tag(text.into()))
    }

    /// The page that is known by these facts: all its variants.
    pub fn page(facts: &Facts) -> Self {
        let query = facts.query.as_deref().map(str::to_owned);
        Self::Url { host: Some(facts.host.to_string()), path: facts.path.to_string(), queries: vec![query] }
    }

    /// Everything that carries this tag.
    pub fn of_tag(tag: Arc<str>) -> Self {
        Self::Tag { host: None, tag }
    }

    /// Everything that a pattern matches; a simpler selector where one says the same.
    pub fn pattern(pattern: Pattern) -> Self {
        match (&pattern.host, &pattern.url, &pattern.content_type, &pattern.tags) {
            (None, None, None, None) => Self::All,
            (host, Some(url), None, None) if host.as_ref().is_none_or(|host| host.literal().is_some()) => {
                match url.prefix() {
                    Some(path) => {
                        let host = host.as_ref().and_then(Rule::literal).map(str::to_owned);
                        Self::below(host, path)
                    }
                    None => Self::Pattern(pattern.into()),
                }
            }
            (Some(host), None, None, None) => match host.literal() {
                Some(host) => Self::Host(host.to_owned()),
                None => Self::Pattern(pattern.into()),
            },
            _ => Self::Pattern(pattern.into()),
        }
    }

    pub(super) fn target(host: Option<String>, target: &Target<'_>, policies: &[QueryPolicy]) -> Self {
        let mut queries: Vec<_> = policies.iter().map(|policy| target.key_query(policy)).collect();
        queries.sort_unstable();
        queries.dedup();
        Self::Url { host, path: target.path.clone().into_owned(), queries }
    }

    /// Whether a response with these facts is named.
    pub fn matches(&self, facts: &Facts) -> bool {
        let on = |host: &Option<String>| host.as_deref().is_none_or(|host| host == &*facts.host);
        match self {
            Self::Url { host, path, queries } => {
                path == &*facts.path
                    && on(host)
                    && queries.iter().any(|query| query.as_deref() == facts.query.as_deref())
            }
            Self::Prefix { host, path } => facts.path.starts_with(path.as_str()) && on(host),
            Self::Host(host) => **host == *facts.host,
            Self::Tag { host, tag } => on(host) && facts.tags.match_tag(tag),
            Self::Pattern(pattern) => pattern.matches(facts),
            Self::All => true,
        }
    }

    /// Whether a response of which only the URL is known yet may turn out to match: what comes with the response
    /// may match everything.
    pub fn may_match(&self, facts: &Facts) -> bool {
        match self {
            Self::Tag { host, .. } => host.as_deref().is_none_or(|host| host == &*facts.host),
            Self::Pattern(pattern) => pattern.may_match(facts),
            _ => self.matches(facts),
        }
    }

    /// Whether it names everything, however it is written: all of some pages that have little in common.
    pub fn is_everything(&self) -> bool {
        let page = |host: &str, path: &str, query: Option<&str>| Facts {
            host: host.into(),
            path: path.into(),
            query: query.map(Into::into),
            ..Facts::default()
        };
        let pages = [
            page("a.example", "/", None),
            page("b.example:8080", "/b", None),
            page("", "/c/D.e-f/", Some("g=1")),
            page("[::1]", "/%C3%A9/2", None),
        ];
        pages.iter().all(|facts| self.matches(facts))
    }

    /// Whether only a look at every entry finds what it names.
    pub fn is_lazy(&self) -> bool {
        matches!(self, Self::Pattern(_))
    }

    /// About the bytes it occupies.
    pub fn size(&self) -> usize {
        let host = |host: &Option<String>| host.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + match self {
                Self::Url { host: on, path, queries } => {
                    host(on) + path.len() + queries.iter().flatten().map(String::len).sum::<usize>()
                }
                Self::Prefix { host: on, path } => host(on) + path.len(),
                Self::Host(name) => name.len(),
                Self::Tag { host: on, tag } => host(on) + tag.len(),
                Self::Pattern(pattern) => pattern.size(),
                Self::All => 0,
            }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |host: &Option<String>| match host.as_deref() {
            None | Some("") => String::new(),
            Some(host) => format!("//{host}"),
        };
        match self {
            Self::Url { host: on, path, queries } => {
                write!(f, "url {}{path}", host(on))?;
                queries.iter().flatten().next().map_or(Ok(()), |query| write!(f, "?{query}"))
            }
            Self::Prefix { host: on, path } => write!(f, "prefix {}{path}", host(on)),
            Self::Host(name) => write!(f, "host {name}"),
            Self::Tag { host: None, tag } => write!(f, "tag {tag}"),
            Self::Tag { host: Some(on), tag } => write!(f, "tag {tag} on {on}"),
            Self::Pattern(pattern) => pattern.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

/// Why a selector cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Neither a path nor a URL.
    #[error("must begin with `/`, `http://` or `https://`")]
    NotAUrl,
    /// Spaces or control characters.
    #[error("spaces and control characters are percent-encoded in a URL: write `%20`")]
    Unencoded,
    /// A query in a prefix.
    #[error("a prefix has no query: name a path, or use a URL for one page")]
    QueryInPrefix,
    /// Not a host.
    #[error("not a host: write `shop.example` or `shop.example:8080`")]
    NotAHost,
    /// Not a tag.
    #[error("a tag is text without spaces around it")]
    BadTag,
    /// Several tags in a place for one.
    #[error("one tag, without spaces and commas: make it a list")]
    SeveralTags,
    /// Longer than [`MAX_TAG_BYTES`].
    #[error("longer than the {MAX_TAG_BYTES} bytes of a tag")]
    LongTag,
    /// Longer than [`Selector::MAX_LENGTH`].
    #[error("longer than {} bytes", Selector::MAX_LENGTH)]
    TooLong,
    /// Not a regular expression.
    #[error("malformed regular expression: {0}")]
    BadRegex(String),
    /// A regular expression that matches everything says nothing.
    #[error("an empty pattern matches everything: say `all`")]
    EmptyPattern,
}

/// What stands for any text in a wildcard with parts of a path in it: no path holds it.
pub(super) const STAR: char = '\u{1}';

pub(super) fn check_length(text: &str) -> Result<(), SelectorError> {
    if text.len() > Selector::MAX_LENGTH { Err(SelectorError::TooLong) } else { Ok(()) }
}

/// A host as the key has it, whichever scheme its port is the default of.
pub fn any_scheme(host: &str) -> String {
    normal_host(Scheme::Https, &normal_host(Scheme::Http, host)).into_owned()
}

/// Splits a URL into its host, if it names one, and the rest from the path on, without a fragment.
pub(super) fn split_url(text: &str) -> Result<(Option<String>, &str), SelectorError> {
    let text = text.split('#').next().unwrap_or(text);
    if text.starts_with('/') && !text.starts_with("//") {
        return Ok((None, text));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
        _ => return Err(SelectorError::NotAUrl),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    if host.is_empty() {
        return Err(SelectorError::NotAUrl);
    }
    let host = normal_host(scheme, host).into_owned();
    // A star is for wildcards; anything else that is none would name nothing.
    if !is_host(host.replace(['*', STAR], "").as_bytes()) {
        return Err(SelectorError::NotAHost);
    }
    Ok((Some(host), if path.is_empty() { "/" } else { path }))
}

/// The same for a text from outside, which may be too long or hold what no URL does.
pub(super) fn split(text: &str) -> Result<(Option<String>, &str), SelectorError> {
    check_length(text)?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(SelectorError::Unencoded);
    }
    split_url(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing;
    use proptest::prelude::*;

    fn policies() -> Vec<QueryPolicy> {
        let default = testing::policy().query;
        vec![QueryPolicy { sort: false, ..default.clone() }, default]
    }

    fn facts(host: &str, path: &str, query: Option<&str>, tags: &[&str]) -> Facts {
        Facts {
            host: host.into(),
            path: path.into(),
            query: query.map(Into::into),
            content_type: "text/html; charset=utf-8".into(),
            tags: Tags::new(tags.iter().map(|tag| Arc::from(*tag))),
        }
    }

    #[test]
    fn a_url_names_all_spellings_of_one_page_and_no_other() {
        let selector = Selector::url("http://SHOP:80/%7Ea?b=2&a=1&utm_source=x", &policies()).unwrap();
        assert!(selector.matches(&facts("shop", "/~a", Some("a=1&b=2"), &[])), "sorted");
        assert!(selector.matches(&facts("shop", "/~a", Some("b=2&a=1"), &[])), "as sent");
        for other in [
            facts("other", "/~a", Some("a=1&b=2"), &[]),
            facts("shop", "/~a", None, &[]),
            facts("shop", "/~a/", Some("a=1&b=2"), &[]),
        ] {
            assert!(!selector.matches(&other), "{other:?}");
        }
        assert!(Selector::url("/~a", &policies()).unwrap().matches(&facts("any", "/~a", None, &[])));
    }

    #[test]
    fn prefixes_hosts_tags_and_everything() {
        let page = facts("shop", "/products/7", None, &["products", "product:7"]);
        assert!(Selector::prefix("/products/").unwrap().matches(&page));
        assert!(Selector::prefix("https://shop/products").unwrap().matches(&page));
        assert!(!Selector::prefix("http://other/products/").unwrap().matches(&page));
        assert!(!Selector::prefix("/product/").unwrap().matches(&page));
        assert!(Selector::host("SHOP:443").unwrap().matches(&page));
        assert!(!Selector::host("shop:8080").unwrap().matches(&page));
        assert!(Selector::tag("product:7").unwrap().matches(&page));
        assert!(!Selector::tag("product").unwrap().matches(&page));
        let group = |host: &str| Selector::Tag { host: Some(host.into()), tag: "products".into() };
        assert!(group("shop").matches(&page) && !group("other").matches(&page));
        assert!(Selector::All.matches(&page));
    }

    #[test]
    fn wildcards_and_regular_expressions() {
        let page = facts("shop", "/blog/2026/a.html", Some("page=2"), &[]);
        for (text, expected) in [
            ("/blog/*", true),
            ("/blog/*.html?page=*", true),
            ("/blog/*.html", false),
            ("/blog/2026/a.html", false),
            ("http://shop/*", true),
            ("http://*op/blog/*", true),
            ("http://other/*", false),
            ("/blog/*/axhtml*", false),
        ] {
            assert_eq!(Selector::wildcard(text).unwrap().matches(&page), expected, "{text}");
        }
        assert_eq!(
            Selector::wildcard("/blog/*").unwrap(),
            Selector::prefix("/blog/").unwrap(),
            "the index finds it"
        );
        for (text, expected) in [
            ("^/blog/", true),
            ("[.]html", true),
            ("[?]page=[0-9]+$", true),
            ("^/BLOG", false),
            ("(?i)^/BLOG", true),
        ] {
            assert_eq!(Selector::regex(text).unwrap().matches(&page), expected, "{text}");
        }
        assert_eq!(Selector::regex("^/blog/.*$").unwrap(), Selector::prefix("/blog/").unwrap());
        for text in ["^/.*", ".*", "^/"] {
            assert_eq!(Selector::regex(text).unwrap(), Selector::All, "{text}");
        }
        for (text, expected) in [
            (".", true),
            ("()", true),
            ("(?s)^/.*$", true),
            ("/[^?]*", true),
            ("^/[^/]*$", false),
            ("[^/]$", false),
            ("^/a", false),
        ] {
            let found = Selector::regex(text).unwrap().is_everything();
            assert_eq!(found, expected, "{text}");
        }
        for text in ["/*", "/**", "http://*/*"] {
            assert_eq!(Selector::wildcard(text).unwrap(), Selector::All, "{text}");
        }
        assert_eq!(Selector::prefix("/").unwrap(), Selector::All);
        assert_eq!(Selector::regex("^/a.b/.*").unwrap().to_string(), "regex ^/a.b/.*");
    }

    #[test]
    fn malformed_selectors_say_why() {
        let long = format!("/{}", "a".repeat(Selector::MAX_LENGTH));
        for (result, expected) in [
            (Selector::url("products", &[]), SelectorError::NotAUrl),
            (Selector::url("", &[]), SelectorError::NotAUrl),
            (Selector::url("ftp://shop/", &[]), SelectorError::NotAUrl),
            (Selector::url("http:///x", &[]), SelectorError::NotAUrl),
            (Selector::url("//shop/x", &[]), SelectorError::NotAUrl),
            (Selector::url(&long, &[]), SelectorError::TooLong),
            (Selector::url("/a b", &[]), SelectorError::Unencoded),
            (Selector::prefix("/a?b"), SelectorError::QueryInPrefix),
            (Selector::wildcard("blog/*"), SelectorError::NotAUrl),
            (Selector::url("http://user@shop/x", &[]), SelectorError::NotAHost),
            (Selector::url("http://sh%6fp/x", &[]), SelectorError::NotAHost),
            (Selector::host(""), SelectorError::NotAHost),
            (Selector::host("http://shop"), SelectorError::NotAHost),
            (Selector::tag(""), SelectorError::BadTag),
            (Selector::tag(" a"), SelectorError::BadTag),
            (Selector::tag("a\tb"), SelectorError::BadTag),
            (Selector::tag(&long), SelectorError::LongTag),
            (Selector::regex(""), SelectorError::EmptyPattern),
            (Selector::regex(&long), SelectorError::TooLong),
        ] {
            assert_eq!(result, Err(expected));
        }
        for bad in ["(", "a{1000}{1000}", "(?<x", "[z-a]"] {
            assert!(matches!(Selector::regex(bad), Err(SelectorError::BadRegex(_))), "{bad}");
        }
    }

    proptest! {
        /// Whatever simpler selector an expression becomes, it names the same pages.
        #[test]
        fn an_expression_names_the_pages_in_whose_url_it_is_found(
            text in "\\^?[/ab.*?\\[\\]^$|()]{1,8}",
            path in "/[ab/]{0,6}",
            query in proptest::option::of("[ab]{1,3}"),
        ) {
            let Ok(selector) = Selector::regex(&text) else { return Ok(()) };
            let expression = regex::bytes::RegexBuilder::new(&text).unicode(false).build().unwrap();
            let whole = query.as_ref().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            let found = selector.matches(&facts("shop", &path, query.as_deref(), &[]));
            prop_assert_eq!(found, expression.is_match(whole.as_bytes()), "{}", selector);
        }
    }

    #[test]
    fn what_has_no_head_yet_may_still_match() {
        let pending = Facts { content_type: Box::default(), ..facts("shop", "/", None, &[]) };
        assert!(Selector::tag("x").unwrap().may_match(&pending));
        assert!(!Selector::prefix("/a").unwrap().may_match(&pending));
        let elsewhere = Selector::Tag { host: Some("other".into()), tag: "x".into() };
        assert!(!elsewhere.may_match(&pending));
        assert!(!Selector::regex("^/a[bc]").unwrap().may_match(&pending));
    }
}
