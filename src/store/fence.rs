//! Which purges a fetch under way has missed.
//!
//! A fetch that began before a purge may carry what the purge removed. Each purge gets the next number of one
//! sequence; a fetch remembers the number at its beginning; when it wants to be stored, every later purge is
//! held against it.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::rules::selector::{Facts, Selector};

/// A position in the order of purges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// The most purges remembered.
const MAX_PURGES: usize = 16_384;
/// Among so many of the latest a page is looked for that is purged again.
const NEAR: usize = 64;
/// The longest prefix remembered whole, in characters.
const MAX_PREFIX: usize = 128;
/// The most bytes of selectors remembered.
const MAX_BYTES: usize = 8 << 20;

/// The purges of the recent past.
#[derive(Debug, Default)]
pub struct Fence {
    last: Sequence,
    /// Purges up to here are forgotten; fetches from before them cannot be vouched for.
    forgotten: Sequence,
    recent: VecDeque<(Sequence, Noted)>,
    bytes: usize,
}

impl Fence {
    /// The number of the latest purge.
    pub fn now(&self) -> Sequence {
        self.last
    }

    /// Takes note of a purge and returns its number.
    pub fn advance(&mut self, selectors: &[Selector]) -> Sequence {
        self.last = Sequence(self.last.0 + 1);
        for selector in selectors {
            let noted = Noted::of(selector);
            // The same page is written to again and again: one line is enough for it.
            let latest = self.recent.iter().rev().take(NEAR).position(|(_, other)| other.is_same(&noted));
            if let Some((_, same)) = latest.and_then(|back| self.recent.remove(self.recent.len() - 1 - back))
            {
                self.bytes -= same.size();
            }
            self.bytes += noted.size();
            self.recent.push_back((self.last, noted));
        }
        while self.recent.len() > MAX_PURGES || self.bytes > MAX_BYTES {
            let Some((sequence, noted)) = self.recent.pop_front() else {
                break;
            };
            self.bytes -= noted.size();
            self.forgotten = sequence;
        }
        self.last
    }

    /// Whether what was fetched since `begun` and is known by `facts` may be stored.
    pub fn admits(&self, begun: Sequence, facts: &Facts) -> bool {
        if begun >= self.last {
            return true;
        }
        let page = Page::of(facts);
        let mut missed = self.recent.iter().rev().take_while(|(sequence, _)| *sequence > begun);
        begun >= self.forgotten && !missed.any(|(_, noted)| noted.matches(&page))
    }
}

/// What is remembered of a purge.
#[derive(Debug)]
enum Noted {
    /// Pages, by a digest each, on one host or on all: a page is named however long its URL is, and nobody makes the fence
    /// forget by writing to long ones. Another page with the same digest is not stored, which harms nobody.
    Pages { on_host: bool, digests: Box<[u64]> },
    /// Anything else. Of a long prefix only the beginning.
    Selector(Selector),
}

impl Noted {
    fn of(selector: &Selector) -> Self {
        match selector {
            Selector::Url { host, path, queries } => {
                let digests = queries.iter().map(|query| digest(host.as_deref(), path, query.as_deref()));
                Self::Pages { on_host: host.is_some(), digests: digests.collect() }
            }
            Selector::Prefix { host, path } if path.len() > MAX_PREFIX => {
                let path = path.chars().take(MAX_PREFIX).collect();
                Self::Selector(Selector::Prefix { host: host.clone(), path })
            }
            _ => Self::Selector(selector.clone()),
        }
    }

    /// Whether it is of the same pages.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pages { on_host, digests }, Self::Pages { on_host: other_host, digests: others }) => {
                on_host == other_host && digests == others
            }
            _ => false,
        }
    }

    fn matches(&self, page: &Page<'_>) -> bool {
        match self {
            Self::Pages { on_host: true, digests } => digests.contains(&page.on_host),
            Self::Pages { on_host: false, digests } => digests.contains(&page.on_any_host),
            Self::Selector(selector) => selector.matches(page.facts),
        }
    }

    fn size(&self) -> usize {
        size_of::<(Sequence, Self)>()
            + match self {
                Self::Pages { digests, .. } => digests.len() * size_of::<u64>(),
                Self::Selector(selector) => selector.size(),
            }
    }
}

/// A page with its digests.
struct Page<'f> {
    facts: &'f Facts,
    on_host: u64,
    on_any_host: u64,
}

impl<'f> Page<'f> {
    fn of(facts: &'f Facts) -> Self {
        let (path, query) = (&facts.path, facts.query.as_deref());
        let on_host = digest(Some(&facts.host), path, query);
        Self { facts, on_host, on_any_host: digest(None, path, query) }
    }
}

fn digest(host: Option<&str>, path: &str, query: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (host, path, query).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tags::Tags;

    fn page(path: &str) -> Facts {
        Facts { host: "shop".into(), path: path.into(), tags: Tags::new(["t".into()]), ..Facts::default() }
    }

    #[test]
    fn only_purges_after_the_beginning_count() {
        let mut fence = Fence::default();
        let before = fence.now();
        let purge = fence.advance(&[Selector::prefix("/a").unwrap()]);
        assert!(!fence.admits(before, &page("/a/1")));
        assert!(fence.admits(before, &page("/b")));
        assert!(fence.admits(purge, &page("/a/1")));
    }

    #[test]
    fn what_began_before_a_forgotten_purge_is_refused() {
        let mut fence = Fence::default();
        let before = fence.now();
        for _ in 0..=MAX_PURGES {
            fence.advance(&[Selector::prefix("/other").unwrap()]);
        }
        assert!(!fence.admits(before, &page("/a")));
        assert!(fence.admits(fence.now(), &page("/a")));
        assert_eq!(fence.recent.len(), MAX_PURGES);
    }

    #[test]
    fn a_page_that_is_purged_again_and_again_pushes_nothing_out() {
        let mut fence = Fence::default();
        let url = |path: &str| [Selector::url(path, &[Default::default()]).unwrap()];
        let before = fence.now();
        fence.advance(&url("/a"));
        for _ in 0..MAX_PURGES {
            fence.advance(&url("/beacon"));
        }
        let after = fence.now();
        fence.advance(&url("/beacon"));
        assert!(fence.admits(before, &page("/b")) && !fence.admits(before, &page("/a")));
        assert!(!fence.admits(after, &page("/beacon")) && fence.admits(fence.now(), &page("/beacon")));
    }

    #[test]
    fn long_urls_make_nothing_be_forgotten_and_nothing_else_be_refused() {
        let mut fence = Fence::default();
        let before = fence.now();
        let long = "x".repeat(5000);
        for text in [format!("/{long}"), format!("/?{long}"), format!("http://shop/b?{long}")] {
            let url = Selector::url(&text, &[Default::default()]).unwrap();
            for _ in 0..MAX_PURGES / 4 {
                fence.advance(std::slice::from_ref(&url));
            }
        }
        let with_query = |path: &str| Facts { query: Some(long.as_str().into()), ..page(path) };
        for (facts, admitted) in [
            (page("/a"), true),
            (page("/"), true),
            (page(&format!("/{long}")), false),
            (with_query("/"), false),
            (with_query("/b"), false),
            (Facts { host: "other".into(), ..with_query("/b") }, true),
        ] {
            assert_eq!(fence.admits(before, &facts), admitted, "{:.20}", facts.url());
        }
    }

    #[test]
    fn long_selectors_are_forgotten_earlier() {
        let mut fence = Fence::default();
        let long = Selector::of_tag("x".repeat(8000).as_str().into());
        for _ in 0..2000 {
            fence.advance(std::slice::from_ref(&long));
        }
        assert!(fence.bytes <= MAX_BYTES && fence.recent.len() < 1100, "{}", fence.recent.len());
    }
}
