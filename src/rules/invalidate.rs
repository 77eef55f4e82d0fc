//! What a write removes.
//!
//! By the RFC: its target, what its answer names on the same host, and the cache groups that its answer invalidates. By
//! the route: what `purge_on_success` says, with parts of the path in it.

use super::head::{Fields, RequestHead};
use super::policy::QueryPolicy;
use super::selector::{MAX_SELECTORS, STAR, Selector, SelectorError, split, split_url};
use super::tags::groups;
use super::target::{Scheme, Target};
use super::template::{Captures, Template};

/// What a successful write through a route removes besides its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Which kind of selector the text is.
    pub kind: RemovalKind,
    /// The selector, with places for captures.
    pub template: Template,
    /// Whether what it names is gone, or only expires.
    pub expires: Expires,
}

/// Whether what a purge names only expires (a soft purge).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// It is gone.
    No,
    /// It is validated before it is served, or served within its stale windows.
    Yes,
}

impl Expires {
    /// As the word `soft` says.
    pub fn softly(soft: bool) -> Self {
        if soft { Self::Yes } else { Self::No }
    }
}

/// The kinds of selectors that a route can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalKind {
    /// A label.
    Tag,
    /// The beginning of paths.
    Prefix,
    /// A page.
    Url,
    /// A URL with `*`.
    Wildcard,
}

impl Removal {
    /// The selector for a write to a path with these captures; nothing when one of those it needs took no part. An error is
    /// a text that no page can be stored under.
    pub fn selector(
        &self,
        captures: &Captures<'_>,
        policies: &[QueryPolicy],
    ) -> Option<Result<Selector, SelectorError>> {
        // A star in the path of a write is a star.
        let stars = self.kind == RemovalKind::Wildcard;
        let text = self.template.render(captures, |text| {
            if stars { text.replace('*', STAR.encode_utf8(&mut [0; 4])) } else { text.into() }
        })?;
        Some(self.read(&text, policies))
    }

    fn read(&self, text: &str, policies: &[QueryPolicy]) -> Result<Selector, SelectorError> {
        if self.kind == RemovalKind::Tag {
            // Of any length: the page that carries a longer one than are kept is named by every tag.
            return Ok(Selector::of_tag(text.into()));
        }
        // What begins with a slash is a path, whatever was captured behind it.
        let (host, rest) = if text.starts_with('/') { (None, text) } else { split_url(text)? };
        match self.kind {
            RemovalKind::Prefix => Ok(Selector::below(host, rest)),
            RemovalKind::Wildcard => Selector::wildcard_on(host, rest, STAR),
            _ => Ok(Selector::target(host, &Target::new(Scheme::Http, "", rest), policies)),
        }
    }
}

/// What a successful write removes: its target, what `Location` and `Content-Location` name on the same host (RFC 9111
/// section 4.4), and what carries one of the groups that `Cache-Group-Invalidation` names (RFC 9875 section 3).
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
    // Groups are of one origin (RFC 9875 section 2).
    let mut named: Vec<_> = response.all("cache-group-invalidation").flat_map(groups).collect();
    named.sort_unstable();
    named.dedup();
    match named.len() <= MAX_SELECTORS {
        true => {
            selectors.extend(named.into_iter().map(|tag| Selector::Tag { host: Some(host.clone()), tag }))
        }
        // Rather too much than too little.
        false => selectors.push(Selector::Host(host)),
    }
    selectors.dedup();
    selectors
}

/// Resolves a reference against a target (RFC 3986 section 5.2); `None` when it is not an HTTP URL.
fn resolve(base: &Target<'_>, reference: &str) -> Option<(String, String)> {
    // As a browser would send it.
    let reference = reference.split('#').next().unwrap_or_default().replace(' ', "%20");
    let reference = reference.as_str();
    let own_host = || base.host.clone().into_owned();
    let before_query = reference.split('?').next().unwrap_or_default();
    if reference.starts_with("//")
        || before_query.find("://").is_some_and(|at| !before_query[..at].contains('/'))
    {
        let absolute = match reference.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", base.scheme.as_str()),
            None => reference.to_owned(),
        };
        let (host, path) = split(&absolute).ok()?;
        return Some((host?, without_dot_segments(path)));
    }
    if reference.starts_with('/') {
        return Some((own_host(), without_dot_segments(reference)));
    }
    if reference.is_empty() || reference.starts_with('?') {
        return Some((own_host(), format!("{}{reference}", base.path)));
    }
    // `mailto:`, `urn:`: a scheme of its own, not a path.
    if before_query.split('/').next().is_some_and(|segment| segment.contains(':')) {
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
    use crate::rules::selector::Facts;
    use crate::rules::testing;

    fn policies() -> Vec<QueryPolicy> {
        let default = testing::policy().query;
        vec![QueryPolicy { sort: false, ..default.clone() }, default]
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
        by_write(&request, Fields::new(&fields), &policies()).iter().map(ToString::to_string).collect()
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
            ("/pg?next=http://x/", Some("url //shop/pg?next=http://x/")),
            ("pv?u=http://z", Some("url //shop/api/products/pv?u=http://z")),
            ("http://shop/d/../pr", Some("url //shop/pr")),
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
    fn a_write_removes_the_groups_that_its_answer_invalidates() {
        let answer =
            [("Cache-Group-Invalidation", r#""a", "b c";x=1"#), ("cache-group-invalidation", "bad,")];
        let expected = ["url //shop/x", "tag a on shop", "tag b c on shop"];
        assert_eq!(written("POST", "/x", &answer), expected);
        let many: Vec<String> = (0..=MAX_SELECTORS).map(|n| format!("\"{n}\"")).collect();
        let flood = [("Cache-Group-Invalidation", many.join(","))];
        let flood = flood.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(written("POST", "/x", &flood), ["url //shop/x", "host shop"]);
    }

    #[test]
    fn a_removal_is_spelled_with_parts_of_the_path() {
        let captures = vec![("id".to_owned(), "7")];
        let removed = |kind, text: &str| {
            let removal = Removal { kind, template: Template::parse(text), expires: Expires::No };
            removal.selector(&captures, &policies()).map(|selector| selector.unwrap().to_string())
        };
        assert_eq!(removed(RemovalKind::Tag, "product:{id}").as_deref(), Some("tag product:7"));
        assert_eq!(removed(RemovalKind::Url, "/products/{id}?x=1").as_deref(), Some("url /products/7?x=1"));
        assert_eq!(removed(RemovalKind::Prefix, "/products/{id}/").as_deref(), Some("prefix /products/7/"));
        assert_eq!(removed(RemovalKind::Wildcard, "/*/p/{id}").as_deref(), Some("wildcard /*/p/7"));
        assert_eq!(removed(RemovalKind::Tag, "{other}"), None);
        let stars = "*".repeat(5000);
        let star = vec![("id".to_owned(), "*")];
        let template = Template::parse("/*/p/{id}");
        let removal = Removal { kind: RemovalKind::Wildcard, template, expires: Expires::No };
        let selector = removal.selector(&star, &policies()).unwrap().unwrap();
        let page = |path: &str| Facts { host: "shop".into(), path: path.into(), ..Facts::default() };
        assert!(selector.matches(&page("/fr/p/*")) && !selector.matches(&page("/fr/p/7")));
        for (kind, template, id, path) in [
            (RemovalKind::Wildcard, "/p/{id}*", stars.as_str(), format!("/p/{stars}/x")),
            (RemovalKind::Wildcard, "/p/{id}*", "x\\", r"/p/x\1".to_owned()),
            (RemovalKind::Wildcard, "http://sh*/p/{id}/*", "7", "/p/7/x".to_owned()),
            (RemovalKind::Url, "/{id}", "/foo", "//foo".to_owned()),
            (RemovalKind::Url, "http://shop/p/{id}", "7", "/p/7".to_owned()),
            (RemovalKind::Prefix, "/{id}", "/foo", "//foo/bar".to_owned()),
        ] {
            let removal = Removal { kind, template: Template::parse(template), expires: Expires::No };
            let captures = vec![("id".to_owned(), id)];
            let selector = removal.selector(&captures, &policies()).unwrap().unwrap();
            assert!(selector.matches(&page(&path)), "{template} {id:.20}");
        }
    }
}
