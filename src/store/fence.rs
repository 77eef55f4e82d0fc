//! Which purges a fetch under way has missed.
//!
//! A fetch that began before a purge may carry what the purge removed. Each purge gets the next number of one
//! sequence; a fetch remembers the number at its beginning; when it wants to be stored, every later purge is
//! held against it.

use std::collections::VecDeque;

use crate::rules::selector::{Facts, Selector};

/// A position in the order of purges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// The most purges remembered.
const MAX_PURGES: usize = 16_384;
/// The longest URL remembered whole, in bytes.
const MAX_NOTED: usize = 128;
/// The most bytes of selectors remembered.
const MAX_BYTES: usize = 4 << 20;

/// The purges of the recent past.
#[derive(Debug, Default)]
pub struct Fence {
    last: Sequence,
    /// Purges up to here are forgotten; fetches from before them cannot be vouched for.
    forgotten: Sequence,
    recent: VecDeque<(Sequence, Selector)>,
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
            let noted = noted(selector);
            self.bytes += charge(&noted);
            self.recent.push_back((self.last, noted));
        }
        while self.recent.len() > MAX_PURGES || self.bytes > MAX_BYTES {
            let Some((sequence, selector)) = self.recent.pop_front() else {
                break;
            };
            self.bytes -= charge(&selector);
            self.forgotten = sequence;
        }
        self.last
    }

    /// Whether what was fetched since `begun` and is known by `facts` may be stored.
    pub fn admits(&self, begun: Sequence, facts: &Facts) -> bool {
        begun >= self.forgotten
            && !self
                .recent
                .iter()
                .rev()
                .take_while(|(sequence, _)| *sequence > begun)
                .any(|(_, selector)| selector.matches(facts))
    }
}

/// What is remembered of a purge: of a long URL only its beginning, which may keep a page or two from being stored, but lets
/// nobody make the fence forget by writing to long paths.
fn noted(selector: &Selector) -> Selector {
    match selector {
        Selector::Url { host, path, queries }
            if path.len() + queries.iter().flatten().map(String::len).sum::<usize>() > MAX_NOTED =>
        {
            let path = path.chars().take(MAX_NOTED).collect();
            Selector::Prefix { host: host.clone(), path }
        }
        _ => selector.clone(),
    }
}

fn charge(selector: &Selector) -> usize {
    size_of::<Sequence>() + selector.size()
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
    fn a_long_url_is_remembered_by_its_beginning() {
        let mut fence = Fence::default();
        let before = fence.now();
        let long = format!("/{}", "x".repeat(5000));
        let url = Selector::url(&format!("{long}?q=1"), &[Default::default()]).unwrap();
        for _ in 0..MAX_PURGES {
            fence.advance(std::slice::from_ref(&url));
        }
        assert!(fence.admits(before, &page("/a")), "nothing is forgotten");
        assert!(!fence.admits(before, &page(&format!("{long}7"))));
    }

    #[test]
    fn long_selectors_are_forgotten_earlier() {
        let mut fence = Fence::default();
        let long = Selector::prefix(&format!("/{}", "x".repeat(8000))).unwrap();
        for _ in 0..1000 {
            fence.advance(std::slice::from_ref(&long));
        }
        assert!(fence.bytes <= MAX_BYTES && fence.recent.len() < 600, "{}", fence.recent.len());
    }
}
