//! Which keys a purge means, without a scan of the store: by path, in order, so that a prefix is a range; and by
//! tag.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::rules::invalidate::{Facts, Selector};
use crate::rules::key::CacheKey;

/// Names one stored response: a key may hold another one a moment later.
pub type EntryId = u64;

#[derive(Debug)]
struct Indexed {
    key: CacheKey,
    facts: Arc<Facts>,
}

/// The index of the memory tier.
#[derive(Debug, Default)]
pub struct Index {
    entries: HashMap<EntryId, Indexed>,
    by_path: BTreeSet<(Box<str>, EntryId)>,
    by_tag: HashMap<Arc<str>, HashSet<EntryId>>,
}

impl Index {
    /// Adds a stored response.
    pub fn add(&mut self, id: EntryId, key: CacheKey, facts: Arc<Facts>) {
        self.by_path.insert((facts.path.clone(), id));
        for tag in &facts.tags {
            self.by_tag.entry(tag.clone()).or_default().insert(id);
        }
        self.entries.insert(id, Indexed { key, facts });
    }

    /// Removes a stored response and returns its key.
    pub fn remove(&mut self, id: EntryId) -> Option<CacheKey> {
        let indexed = self.entries.remove(&id)?;
        self.by_path.remove(&(indexed.facts.path.clone(), id));
        for tag in &indexed.facts.tags {
            if let Some(tagged) = self.by_tag.get_mut(tag) {
                tagged.remove(&id);
                if tagged.is_empty() {
                    self.by_tag.remove(tag);
                }
            }
        }
        Some(indexed.key)
    }

    /// The stored responses that `selector` names.
    pub fn find(&self, selector: &Selector) -> Vec<EntryId> {
        let matching =
            |id: &EntryId| self.entries.get(id).is_some_and(|entry| selector.matches(&entry.facts));
        match selector {
            Selector::Url { path, .. } => self
                .starting_at(path)
                .take_while(|(at, _)| *at == path)
                .map(|(_, id)| id)
                .filter(matching)
                .collect(),
            Selector::Prefix { path, .. } => self
                .starting_at(path)
                .take_while(|(at, _)| at.starts_with(path.as_str()))
                .map(|(_, id)| id)
                .filter(matching)
                .collect(),
            Selector::Tag(tag) => {
                self.by_tag.get(tag).map_or_else(Vec::new, |ids| ids.iter().copied().collect())
            }
            Selector::All => self.entries.keys().copied().collect(),
        }
    }

    /// Whether this response is indexed.
    pub fn contains(&self, id: EntryId) -> bool {
        self.entries.contains_key(&id)
    }

    /// How many responses are indexed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn starting_at(&self, path: &str) -> impl Iterator<Item = (&str, EntryId)> {
        let start = Bound::Included((Box::from(path), 0));
        self.by_path.range((start, Bound::Unbounded)).map(|(path, id)| (&**path, *id))
    }
}
