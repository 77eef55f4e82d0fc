//! Which route takes a request, and why not the ones before it. The first match wins, in file order.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use super::encodable::EncodePolicy;
use super::head::{Fields, RequestHead};
use super::headers::{HeaderPolicy, RequestHeaders};
use super::invalidate::{Expires, Removal, by_write};
use super::limit::LimitPolicy;
use super::policy::{CachePolicy, Patterns, QueryPolicy};
pub use super::routes::Routes;
use super::selector::Selector;
use super::tags::Tags;
use super::template::{Captures, PathPattern};

/// One rule of the plan: what it matches, and what then applies.
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique within the plan.
    pub name: Arc<str>,
    /// Which requests it takes.
    pub matcher: Matcher,
    /// The name of the upstream its requests go to.
    pub upstream: Arc<str>,
    /// How its responses are cached.
    pub cache: CachePolicy,
    /// How they are encoded.
    pub encode: EncodePolicy,
    /// What a successful write through it removes besides its target.
    pub purge_on_success: Vec<Removal>,
    /// How often its clients may ask.
    pub limits: LimitPolicy,
    /// How long its requests may take, where that is not as its upstream has it.
    pub timeouts: Timeouts,
    /// What is done to the fields of its requests.
    pub request_headers: RequestHeaders,
    /// What is done to the fields of its responses.
    pub response_headers: HeaderPolicy,
}

/// How long requests may take; `None`: as the upstream has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Option<Duration>,
    /// For the head of a response.
    pub first_byte: Option<Duration>,
    /// For the next bytes of a response.
    pub read: Option<Duration>,
    /// For the origin to take bytes of a request.
    pub write: Option<Duration>,
    /// For all attempts together to begin.
    pub total: Option<Duration>,
}

impl Route {
    /// What a write through it removes once it has succeeded, and what of that only expires: by the RFC, and by the route.
    /// `response` are the fields of its answer.
    pub fn removed_by(
        &self,
        request: &RequestHead<'_>,
        response: Fields<'_>,
        policies: &[QueryPolicy],
    ) -> Vec<(Selector, Expires)> {
        let by_rfc =
            by_write(request, response, policies).into_iter().map(|selector| (selector, Expires::No));
        by_rfc.chain(self.removals(&request.target.path, policies)).collect()
    }

    fn removals(&self, path: &str, policies: &[QueryPolicy]) -> Vec<(Selector, Expires)> {
        if self.purge_on_success.is_empty() {
            return Vec::new();
        }
        let captures = self.matcher.captures(path);
        let spelled = |removal: &Removal| {
            // What no path can be stored under needs no removal.
            let selector = removal.selector(&captures, policies)?.ok()?;
            Some((selector, removal.expires))
        };
        self.purge_on_success.iter().filter_map(spelled).collect()
    }

    /// The labels that a page under this path has by the route.
    pub fn tags(&self, path: &str) -> Tags {
        if self.cache.tags.is_empty() {
            return Tags::default();
        }
        let captures = self.matcher.captures(path);
        Tags::new(
            self.cache.tags.iter().filter_map(|tag| tag.render(&captures, str::to_owned)).map(Into::into),
        )
    }
}

/// Which requests a route takes. Criteria left empty match everything; all given ones must hold.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    /// Host patterns, in lower case, without port unless the client sends one.
    pub hosts: Patterns,
    /// Path patterns; `*` also crosses `/`.
    pub paths: Patterns,
    /// Path patterns that capture: `/products/{id}`.
    pub capturing: Vec<PathPattern>,
    /// A regular expression searched for in the path.
    pub path_regex: Option<Regex>,
    /// Methods, in upper case.
    pub methods: Vec<String>,
    /// Fields that must be present, with a pattern for their value.
    pub headers: Vec<(String, Patterns)>,
}

/// Why a route does not take a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch<'m> {
    /// The method is not listed.
    Method,
    /// No host pattern matches.
    Host,
    /// No path pattern matches.
    Path,
    /// The regular expression does not match the path.
    PathRegex,
    /// This field is absent or has another value.
    Header(&'m str),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::PathRegex => f.write_str("path_regex"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

impl Matcher {
    /// Whether the matcher takes `request`; otherwise the first criterion that fails.
    pub fn check(&self, request: &RequestHead<'_>) -> Result<(), Mismatch<'_>> {
        let lists =
            |patterns: &Patterns, value: &str| patterns.sources().is_empty() || patterns.matches(value);
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == request.method) {
            return Err(Mismatch::Method);
        }
        if !lists(&self.hosts, &request.target.host) {
            return Err(Mismatch::Host);
        }
        if !self.takes_path(&request.target.path) {
            return Err(Mismatch::Path);
        }
        if self.path_regex.as_ref().is_some_and(|regex| !regex.is_match(&request.target.path)) {
            return Err(Mismatch::PathRegex);
        }
        for (name, pattern) in &self.headers {
            let held =
                request.fields.lines().iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).any(
                    |(_, value)| std::str::from_utf8(value).is_ok_and(|value| pattern.matches(value.trim())),
                );
            if !held {
                return Err(Mismatch::Header(name));
            }
        }
        Ok(())
    }

    fn takes_path(&self, path: &str) -> bool {
        let any = self.paths.is_empty() && self.capturing.is_empty();
        any || self.paths.matches(path) || self.capturing.iter().any(|pattern| pattern.regex.is_match(path))
    }

    /// What its patterns capture of a path that it takes.
    pub fn captures<'p>(&self, path: &'p str) -> Captures<'p> {
        let capturing = self.capturing.iter().map(|pattern| &pattern.regex);
        let first = capturing.filter_map(|regex| Some((regex, regex.captures(path)?))).next();
        let searched = self.path_regex.as_ref().and_then(|regex| Some((regex, regex.captures(path)?)));
        let mut captured = Vec::new();
        for (regex, found) in first.into_iter().chain(searched) {
            for name in regex.capture_names().flatten() {
                captured.extend(found.name(name).map(|value| (name.to_owned(), value.as_str())));
            }
        }
        captured
    }

    /// Whether something is captured under this name of every path that it takes.
    pub fn always_captures(&self, name: &str) -> bool {
        let captures = |regex: &Regex| regex.capture_names().flatten().any(|known| known == name);
        let by_path = self.paths.is_empty()
            && !self.capturing.is_empty()
            && self.capturing.iter().all(|pattern| captures(&pattern.regex));
        by_path || self.path_regex.as_ref().is_some_and(captures)
    }

    /// Whether this matcher certainly takes every request that `later` takes, so that `later` is unreachable
    /// behind it. Conservative: `false` when unsure.
    pub fn covers(&self, later: &Self) -> bool {
        let methods = self.methods.is_empty()
            || (!later.methods.is_empty()
                && later.methods.iter().all(|method| self.methods.contains(method)));
        let regex = match (&self.path_regex, &later.path_regex) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours.as_str() == theirs.as_str(),
            (Some(_), None) => false,
        };
        let headers = self.headers.iter().all(|(name, pattern)| {
            later.headers.iter().any(|(n, p)| n == name && p.sources() == pattern.sources())
        });
        methods
            && regex
            && headers
            && list_covers(&sources(&self.hosts), &sources(&later.hosts))
            && list_covers(&self.path_sources(), &later.path_sources())
    }

    /// Its patterns for paths, as written; none where every path will do.
    pub(super) fn path_sources(&self) -> Vec<&str> {
        let capturing = self.capturing.iter().map(|pattern| pattern.source.as_str());
        sources(&self.paths).into_iter().chain(capturing).collect()
    }
}

fn sources(patterns: &Patterns) -> Vec<&str> {
    patterns.sources().iter().map(String::as_str).collect()
}

fn list_covers(ours: &[&str], theirs: &[&str]) -> bool {
    if ours.is_empty() || ours.iter().any(|pattern| matches!(*pattern, "*" | "/*")) {
        return true;
    }
    !theirs.is_empty() && theirs.iter().all(|their| ours.iter().any(|our| pattern_covers(our, their)))
}

fn pattern_covers(ours: &str, theirs: &str) -> bool {
    if ours == theirs {
        return true;
    }
    // `/api/*` covers `/api/products/*` and `/api/7`: what follows a literal beginning does not matter to it.
    match ours.strip_suffix('*') {
        Some(beginning) if !beginning.contains(['*', '?', '{']) => theirs.starts_with(beginning),
        _ => false,
    }
}

/// Finds the route that takes `request`: the first one that does.
pub fn select<'r>(routes: &'r Routes, request: &RequestHead<'_>) -> Option<&'r Arc<Route>> {
    routes.first(&request.target.path, |route| route.matcher.check(request).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::Field;
    use crate::rules::hop;
    use crate::rules::target::{Scheme, Target};

    fn patterns(list: &[&str]) -> Patterns {
        Patterns::new(list).unwrap()
    }

    fn check<'m>(
        matcher: &'m Matcher,
        method: &str,
        host: &str,
        path: &str,
        fields: &[Field<'_>],
    ) -> Result<(), Mismatch<'m>> {
        matcher.check(&RequestHead {
            method,
            target: Target::new(Scheme::Http, host, path),
            fields: Fields::new(fields),
            has_body: false,
            believed: &[],
        })
    }

    #[test]
    fn all_given_criteria_must_hold() {
        let matcher = Matcher {
            hosts: patterns(&["*.shop.example", "shop.example"]),
            paths: patterns(&["/api/*"]),
            path_regex: Some(Regex::new("^/api/v[0-9]+/").unwrap()),
            methods: vec!["GET".into(), "HEAD".into()],
            headers: vec![("accept".into(), patterns(&["application/json*"]))],
            capturing: vec![],
        };
        let json: &[Field<'_>] = &[("Accept", b"application/json; q=1")];
        assert_eq!(check(&matcher, "GET", "WWW.shop.example", "/api/v1/x?y", json), Ok(()));
        assert_eq!(check(&matcher, "POST", "shop.example", "/api/v1/x", json), Err(Mismatch::Method));
        assert_eq!(check(&matcher, "GET", "example", "/api/v1/x", json), Err(Mismatch::Host));
        assert_eq!(check(&matcher, "GET", "shop.example", "/apis", json), Err(Mismatch::Path));
        assert_eq!(check(&matcher, "GET", "shop.example", "/api/x", json), Err(Mismatch::PathRegex));
        let header = Err(Mismatch::Header("accept"));
        assert_eq!(check(&matcher, "GET", "shop.example", "/api/v1/x", &[]), header);
        let nominated: &[Field<'_>] = &[("Accept", b"application/json"), ("Connection", b"accept")];
        let header = Err(Mismatch::Header("accept"));
        let kept = hop::end_to_end(Fields::new(nominated).into());
        assert_eq!(check(&matcher, "GET", "shop.example", "/api/v1/x", kept.lines()), header);
        assert_eq!(check(&Matcher::default(), "BREW", "", "*", &[]), Ok(()));
    }

    #[test]
    fn the_query_takes_no_part_in_matching_and_encoding_none() {
        let matcher = Matcher { paths: patterns(&["/a"]), ..Default::default() };
        assert_eq!(check(&matcher, "GET", "", "/a?b/c", &[]), Ok(()));
        assert_eq!(check(&matcher, "GET", "", "/%61", &[]), Ok(()));
    }

    #[test]
    fn a_later_route_behind_a_wider_one_is_unreachable() {
        let paths = |list: &[&str]| Matcher { paths: patterns(list), ..Default::default() };
        let get = Matcher { methods: vec!["GET".into()], ..Default::default() };
        for (earlier, later, expected) in [
            (paths(&["/*"]), paths(&["/a"]), true),
            (Matcher::default(), get.clone(), true),
            (get.clone(), Matcher::default(), false),
            (get.clone(), get.clone(), true),
            (paths(&["/api/*"]), paths(&["/api/products/*", "/api/7"]), true),
            (paths(&["/api/*"]), paths(&["/api/products/*", "/b"]), false),
            (paths(&["/api/*"]), Matcher::default(), false),
            (paths(&["/a?c*"]), paths(&["/abcd"]), false),
            (paths(&["/*/x"]), paths(&["/*/x"]), true),
        ] {
            assert_eq!(earlier.covers(&later), expected, "{earlier:?} {later:?}");
        }
    }
}
