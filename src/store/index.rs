//! Which keys a purge means, without a scan of the store: by path, in order, so that a prefix is a range; and by
//! tag. And which entries one URL has.

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
    /// Of URLs whose entries are for different visitors or wishes; in the order in which they came.
    by_url: HashMap<Box<[u8]>, BTreeSet<EntryId>>,
}

impl Index {
    /// Adds a stored response.
    pub fn add(&mut self, id: EntryId, key: CacheKey, facts: Arc<Facts>) {
        self.by_path.insert((facts.path.clone(), id));
        for tag in &facts.tags {
            self.by_tag.entry(tag.clone()).or_default().insert(id);
        }
        if key.is_of_many() {
            self.by_url.entry(key.url().into()).or_default().insert(id);
        }
        self.entries.insert(id, Indexed { key, facts });
    }

    /// The oldest entry of the URL of `key`, when it has more than `max`.
    pub fn oldest_beyond(&self, key: &CacheKey, max: usize) -> Option<EntryId> {
        let ids = self.by_url.get(key.url())?;
        ids.first().copied().filter(|_| ids.len() > max)
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
        let url = indexed.key.url();
        if let Some(ids) = self.by_url.get_mut(url) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_url.remove(url);
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

    /// The stored responses of a route. Looks at all: for what happens rarely.
    pub fn find_route(&self, route: &str) -> Vec<EntryId> {
        let of_route = self.entries.iter().filter(|(_, entry)| entry.key.is_of_route(route));
        of_route.map(|(id, _)| *id).collect()
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
