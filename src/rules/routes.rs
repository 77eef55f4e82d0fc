//! The routes of a plan, and how the one that takes a request is found without asking each.
//!
//! What a pattern for paths says up to its first wildcard is how every path begins that it takes. So of a thousand routes
//! only those are asked, in file order, whose patterns begin as the path does.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use super::route::Route;

/// Routes in file order. A list of them, for all but [`super::route::select`].
#[derive(Clone, Debug, Default)]
pub struct Routes {
    all: Vec<Arc<Route>>,
    /// Sorted, each once.
    beginnings: Vec<Beginning>,
}

/// How patterns begin.
#[derive(Clone, Debug)]
struct Beginning {
    text: Box<str>,
    /// Its first bytes, which are compared before the text.
    start: u128,
    /// The longest other one that this one begins with.
    within: Option<usize>,
    /// The routes that have such a pattern, in file order.
    routes: Vec<usize>,
}

impl Routes {
    /// Routes in file order.
    pub fn new(all: Vec<Arc<Route>>) -> Self {
        let mut known: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, route) in all.iter().enumerate() {
            let mut patterns = route.matcher.path_sources();
            if patterns.is_empty() {
                patterns.push("*");
            }
            for beginning in patterns.into_iter().map(beginning) {
                let routes = known.entry(beginning).or_default();
                if routes.last() != Some(&at) {
                    routes.push(at);
                }
            }
        }
        let mut beginnings: Vec<Beginning> = Vec::with_capacity(known.len());
        for (text, routes) in known {
            let within = beginnings.len().checked_sub(1);
            let within = holding(&beginnings, within, text);
            beginnings.push(Beginning { text: text.into(), start: start(text), within, routes });
        }
        Self { all, beginnings }
    }

    /// The first route for which `takes` holds, which it does of none whose patterns for paths do not match `path`.
    pub(super) fn first(&self, path: &str, takes: impl Fn(&Route) -> bool) -> Option<&Arc<Route>> {
        let start = start(path);
        let is_before = |beginning: &Beginning| {
            beginning.start < start || beginning.start == start && *beginning.text <= *path
        };
        let before = self.beginnings.partition_point(is_before).checked_sub(1);
        let mut next = holding(&self.beginnings, before, path);
        let mut first = self.all.len();
        while let Some(beginning) = next.map(|at| &self.beginnings[at]) {
            let mut earlier = beginning.routes.iter().copied().take_while(|at| *at < first);
            first = earlier.find(|at| takes(&self.all[*at])).unwrap_or(first);
            next = beginning.within;
        }
        self.all.get(first)
    }
}

/// The first sixteen bytes of a text as a number, or as many as there are: of two texts the one that is sorted first has no
/// larger one.
fn start(text: &str) -> u128 {
    let mut bytes = [0; 16];
    let length = text.len().min(bytes.len());
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    u128::from_be_bytes(bytes)
}

/// The longest of the beginnings that `text` begins with; `before` is the last one that is not sorted behind it. What is
/// sorted between a beginning of the text and the text begins so too: it lies within.
fn holding(beginnings: &[Beginning], mut before: Option<usize>, text: &str) -> Option<usize> {
    while let Some(at) = before.filter(|at| !text.starts_with(&*beginnings[*at].text)) {
        before = beginnings[at].within;
    }
    before
}

/// What a pattern says up to its first wildcard or capture.
fn beginning(pattern: &str) -> &str {
    &pattern[..pattern.find(['*', '?', '{']).unwrap_or(pattern.len())]
}

impl Deref for Routes {
    type Target = [Arc<Route>];

    fn deref(&self) -> &[Arc<Route>] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::{Fields, RequestHead};
    use crate::rules::policy::Patterns;
    use crate::rules::route::{Matcher, select};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::template::{PathPattern, has_captures};
    use crate::rules::testing;
    use proptest::prelude::*;

    fn route(at: usize, patterns: &[String], host: Option<&str>, regex: Option<&str>) -> Arc<Route> {
        let (capturing, plain): (Vec<_>, Vec<_>) =
            patterns.iter().cloned().partition(|pattern| has_captures(pattern));
        let matcher = Matcher {
            hosts: Patterns::new(host.as_slice()).unwrap(),
            paths: Patterns::new(&plain).unwrap(),
            capturing: capturing.iter().map(|pattern| PathPattern::new(pattern).unwrap()).collect(),
            path_regex: regex.map(|regex| regex::Regex::new(regex).unwrap()),
            ..Default::default()
        };
        let name = at.to_string().into();
        Arc::new(Route {
            name,
            matcher,
            upstream: "".into(),
            cache: testing::policy(),
            encode: Default::default(),
            purge_on_success: vec![],
            limits: Default::default(),
            timeouts: Default::default(),
            request_headers: Default::default(),
            response_headers: Default::default(),
        })
    }

    fn request<'a>(host: &'a str, path: &'a str) -> RequestHead<'a> {
        let target = Target::new(Scheme::Http, host, path);
        RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &[] }
    }

    #[test]
    fn the_first_in_the_file_wins_however_its_path_is_written() {
        let written = ["/a/b/c", "*.css", "/a/*", "/a/b/*", "/?", "/{id}/x", "/a", "/b/x", "*"];
        let all = written.iter().enumerate().map(|(at, pattern)| route(at, &[(*pattern).into()], None, None));
        let routes = Routes::new(all.collect());
        for (path, expected) in [
            ("/a/b/c", 0),
            ("/a/b/c.css", 1),
            ("/a/b/d", 2),
            ("/a/x", 2),
            ("/a", 4),
            ("/b/x", 5),
            ("/bb/x", 5),
            ("/bb", 8),
            ("/", 8),
            ("", 8),
            ("/é", 8),
        ] {
            let taken = select(&routes, &request("shop", path)).unwrap();
            assert_eq!(taken.name.as_ref(), expected.to_string(), "{path}");
        }
        assert!(select(&Routes::default(), &request("shop", "/")).is_none());
        assert!(select(&Routes::new(vec![routes[0].clone()]), &request("shop", "/a/b/cd")).is_none());
    }

    proptest! {
        /// Compared with the definition.
        #[test]
        fn the_first_that_takes_it_is_found(
            written in proptest::collection::vec(
                (
                    proptest::collection::vec("(/a|/b|/ab|a|b|é|\\.)?(/|a|b|[*?]|\\{x\\}|\\{){0,4}", 0..3),
                    proptest::option::of("(a|b|\\*)"),
                    proptest::option::of(proptest::sample::select(vec!["a", "^/b", "b$"])),
                ),
                0..12,
            ),
            host in "(a|b)",
            path in "(/a|/b|/ab|a|b|é)?(/|a|b|x|é|\\.|\\{){0,5}",
        ) {
            let twice = |pattern: &String| pattern.matches("{x}").count() > 1;
            prop_assume!(!written.iter().flat_map(|(patterns, ..)| patterns).any(twice));
            let all = written.iter().enumerate();
            let all = all.map(|(at, (patterns, host, regex))| route(at, patterns, host.as_deref(), *regex));
            let routes = Routes::new(all.collect());
            let request = request(&host, &path);
            let plain = routes.iter().find(|route| route.matcher.check(&request).is_ok());
            let found = select(&routes, &request);
            prop_assert_eq!(found.map(|route| &route.name), plain.map(|route| &route.name));
        }
    }
}
