//! What a purge or a write removes.
//!
//! A [`Selector`] names stored responses; [`Facts`] are what a stored response (or one still under way) is known
//! by. The same `matches` serves the purge of the store, the fence against fetches under way, and the tests.

use std::fmt;
use std::sync::Arc;

use super::head::{Fields, RequestHead};
use super::policy::QueryPolicy;
use super::target::{Scheme, Target, normal_encoding, normal_host};

/// What a stored response is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Normalised, as in [`Target::host`].
    pub host: Box<str>,
    /// Normalised, as in [`Target::path`].
    pub path: Box<str>,
    /// As in the key.
    pub query: Option<Box<str>>,
    /// Labels.
    pub tags: Box<[Arc<str>]>,
}

impl Facts {
    /// The facts of a response to `request`.
    pub fn new(request: &RequestHead<'_>, policy: &QueryPolicy, tags: &[Arc<str>]) -> Self {
        Self {
            host: request.target.host.as_ref().into(),
            path: request.target.path.as_ref().into(),
            query: request.target.key_query(policy).map(Into::into),
            tags: tags.into(),
        }
    }
}

/// What a purge removes.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Everything that carries this tag.
    Tag(Arc<str>),
    /// Everything.
    All,
}

impl Selector {
    /// The longest URL, prefix or tag accepted, in bytes.
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
        Ok(Self::Prefix { host, path: normal_encoding(path).into_owned() })
    }

    /// Reads a tag: any visible text without spaces and commas, which separate tags in every dialect.
    pub fn tag(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',') {
            return Err(SelectorError::BadTag);
        }
        Ok(Self::Tag(text.into()))
    }

    fn target(host: Option<String>, target: &Target<'_>, policies: &[QueryPolicy]) -> Self {
        let mut queries: Vec<_> = policies.iter().map(|policy| target.key_query(policy)).collect();
        queries.sort_unstable();
        queries.dedup();
        Self::Url { host, path: target.path.clone().into_owned(), queries }
    }

    /// Whether a response with these facts is removed.
    pub fn matches(&self, facts: &Facts) -> bool {
        let on = |host: &Option<String>| host.as_deref().is_none_or(|host| host == &*facts.host);
        match self {
            Self::Url { host, path, queries } => {
                path == &*facts.path
                    && on(host)
                    && queries.iter().any(|query| query.as_deref() == facts.query.as_deref())
            }
            Self::Prefix { host, path } => facts.path.starts_with(path.as_str()) && on(host),
            Self::Tag(tag) => facts.tags.contains(tag),
            Self::All => true,
        }
    }

    /// Whether a response of which only the URL is known yet may turn out to match. Tags may still come with
    /// the response, so a tag matches everything.
    pub fn may_match(&self, facts: &Facts) -> bool {
        matches!(self, Self::Tag(_)) || self.matches(facts)
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
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// Why a selector cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// Not a tag.
    #[error("a tag is visible text without spaces and commas")]
    BadTag,
    /// Longer than [`Selector::MAX_LENGTH`].
    #[error("longer than 8192 bytes")]
    TooLong,
}

fn check_length(text: &str) -> Result<(), SelectorError> {
    if text.len() > Selector::MAX_LENGTH { Err(SelectorError::TooLong) } else { Ok(()) }
}

/// Splits a URL into its host, if it names one, and the rest from the path on, without a fragment.
fn split(text: &str) -> Result<(Option<String>, &str), SelectorError> {
    check_length(text)?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(SelectorError::Unencoded);
    }
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
    Ok((Some(host), if path.is_empty() { "/" } else { path }))
}

/// What a successful write removes (RFC 9111 section 4.4): its target, and what `Location` and
/// `Content-Location` name on the same host.
pub fn by_write(request: &RequestHead<'_>, response: Fields<'_>, policies: &[QueryPolicy]) -> Vec<Selector> {
    let target = &request.target;
    let host = target.host.clone().into_owned();
    let mut selectors = vec![Selector::target(Some(host.clone()), target, policies)];
    if target.is_ambiguous() {
        // The origin may have resolved it.
        let resolved = Target { path: without_dot_segments(&target.path).into(), ..target.clone() };
        selectors.push(Selector::target(Some(host.clone()), &resolved, policies));
    }
    for name in ["location", "content-location"] {
        let Some(reference) = response.text(name) else {
            continue;
        };
        let Some((named_host, path)) = resolve(target, reference.trim()) else {
            continue;
        };
        // Another host's pages are not this one's to remove.
        if named_host == host {
            let named = Target::new(target.scheme, "", &path);
            selectors.push(Selector::target(Some(named_host), &named, policies));
        }
    }
    selectors.dedup();
    selectors
}

/// Resolves a reference against a target (RFC 3986 section 5.2); `None` when it is not an HTTP URL.
fn resolve(base: &Target<'_>, reference: &str) -> Option<(String, String)> {
    let reference = reference.split('#').next().unwrap_or_default();
    let own_host = || base.host.clone().into_owned();
    if reference.contains("://") || reference.starts_with("//") {
        let absolute = match reference.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", base.scheme.as_str()),
            None => reference.to_owned(),
        };
        let (host, path) = split(&absolute).ok()?;
        return Some((host?, path.to_owned()));
    }
    if reference.starts_with('/') {
        return Some((own_host(), without_dot_segments(reference)));
    }
    if reference.is_empty() || reference.starts_with('?') {
        return Some((own_host(), format!("{}{reference}", base.path)));
    }
    // `mailto:`, `urn:`: a scheme of its own, not a path.
    if reference.split('/').next().is_some_and(|segment| segment.contains(':')) {
        return None;
    }
    let directory = base.path.rfind('/').map_or("/", |end| &base.path[..=end]);
    Some((own_host(), without_dot_segments(&format!("{directory}{reference}"))))
}

/// RFC 3986 section 5.2.4, leaving a query alone.
fn without_dot_segments(reference: &str) -> String {
    let (path, query) = match reference.find('?') {
        Some(at) => reference.split_at(at),
        None => (reference, ""),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing;

    fn policies() -> Vec<QueryPolicy> {
        let default = testing::policy().query;
        vec![QueryPolicy { sort: false, ..default.clone() }, default]
    }

    fn facts(host: &str, path: &str, query: Option<&str>, tags: &[&str]) -> Facts {
        Facts {
            host: host.into(),
            path: path.into(),
            query: query.map(Into::into),
            tags: tags.iter().map(|tag| Arc::from(*tag)).collect(),
        }
    }

    fn written(method: &str, path: &str, response: &[(&str, &str)]) -> Vec<String> {
        let request = RequestHead {
            method,
            target: Target::new(Scheme::Http, "shop", path),
            fields: Fields::default(),
            has_body: true,
            believed: &[],
        };
        let fields: Vec<_> = response.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        by_write(&request, Fields(&fields), &policies()).iter().map(ToString::to_string).collect()
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
    fn prefixes_tags_and_everything() {
        let page = facts("shop", "/products/7", None, &["products", "product:7"]);
        assert!(Selector::prefix("/products/").unwrap().matches(&page));
        assert!(Selector::prefix("https://shop/products").unwrap().matches(&page));
        assert!(!Selector::prefix("http://other/products/").unwrap().matches(&page));
        assert!(!Selector::prefix("/product/").unwrap().matches(&page));
        assert!(Selector::tag("product:7").unwrap().matches(&page));
        assert!(!Selector::tag("product").unwrap().matches(&page));
        assert!(Selector::All.matches(&page));
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
            (Selector::tag(""), SelectorError::BadTag),
            (Selector::tag("a b"), SelectorError::BadTag),
            (Selector::tag("a,b"), SelectorError::BadTag),
        ] {
            assert_eq!(result, Err(expected));
        }
    }

    #[test]
    fn a_write_removes_its_target_and_what_the_answer_names() {
        assert_eq!(written("PUT", "/api/products/7", &[]), ["url //shop/api/products/7"]);
        assert_eq!(written("PUT", "/a/../b", &[]), ["url //shop/a/../b", "url //shop/b"]);
        for (location, expected) in [
            ("/products/8", Some("url //shop/products/8")),
            ("http://shop/products/8?x=1#top", Some("url //shop/products/8?x=1")),
            ("//shop/products/8", Some("url //shop/products/8")),
            ("8", Some("url //shop/api/products/8")),
            ("../users/", Some("url //shop/api/users/")),
            ("?page=2", Some("url //shop/api/products/7?page=2")),
            ("http://elsewhere/products/8", None),
            ("//elsewhere/products/8", None),
            ("mailto:x@y", None),
            ("/caf\u{e9}", Some("url //shop/caf%C3%A9")),
        ] {
            let selectors = written("POST", "/api/products/7", &[("Location", location)]);
            assert_eq!(selectors.get(1).map(String::as_str), expected, "{location}");
            let selectors = written("POST", "/api/products/7", &[("Content-Location", location)]);
            assert_eq!(selectors.get(1).map(String::as_str), expected, "{location}");
        }
    }

    #[test]
    fn a_tag_may_still_match_what_has_no_head_yet() {
        let pending = facts("shop", "/", None, &[]);
        assert!(Selector::tag("x").unwrap().may_match(&pending));
        assert!(!Selector::prefix("/a").unwrap().may_match(&pending));
    }
}
