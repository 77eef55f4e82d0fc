//! Which entries a purge means, without a scan of the store: by host and path, in order, so that a prefix is a range; and
//! by tag. And which entries one URL has.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::rules::key::CacheKey;
use crate::rules::selector::{Facts, Selector};
use crate::rules::tags::Tags;

/// Names one stored response: a key may hold another one a moment later. Later ones are larger.
pub type EntryId = u64;

#[derive(Debug)]
struct Indexed {
    key: CacheKey,
    facts: Arc<Facts>,
    bytes: u64,
}

/// An entry among those of its host, ordered by path.
#[derive(Debug)]
struct Place(Arc<Facts>, EntryId);

impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.0.path, self.1).cmp(&(&other.0.path, other.1))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

/// The index of the memory tier.
#[derive(Debug, Default)]
pub struct Index {
    entries: BTreeMap<EntryId, Indexed>,
    by_host: HashMap<Box<str>, BTreeSet<Place>>,
    /// In the order in which they came, which is how `entries` lie: half a purge is finding them.
    by_tag: HashMap<Arc<str>, BTreeSet<EntryId>>,
    /// Those with more tags than are kept: every purge of a tag means them.
    cut: HashSet<EntryId>,
    /// Of URLs whose entries are for different visitors or wishes; in the order in which they came.
    by_url: HashMap<Box<[u8]>, BTreeSet<EntryId>>,
}

impl Index {
    /// Adds a stored response that is charged with so many bytes.
    pub fn add(&mut self, id: EntryId, key: CacheKey, facts: Arc<Facts>, bytes: u64) {
        match self.by_host.get_mut(&facts.host) {
            Some(places) => drop(places.insert(Place(facts.clone(), id))),
            None => {
                let places = BTreeSet::from([Place(facts.clone(), id)]);
                self.by_host.insert(facts.host.clone(), places);
            }
        }
        for tag in facts.tags.names() {
            self.by_tag.entry(tag.clone()).or_default().insert(id);
        }
        if facts.tags.is_cut() {
            self.cut.insert(id);
        }
        if key.is_of_many() {
            self.by_url.entry(key.url().into()).or_default().insert(id);
        }
        self.entries.insert(id, Indexed { key, facts, bytes });
    }

    /// An entry is charged with so many bytes from now on.
    pub fn recharge(&mut self, id: EntryId, bytes: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.bytes = bytes;
        }
    }

    /// The oldest entry of the URL of `key`, when it has more than `max`.
    pub fn oldest_beyond(&self, key: &CacheKey, max: usize) -> Option<EntryId> {
        let ids = self.by_url.get(key.url())?;
        ids.first().copied().filter(|_| ids.len() > max)
    }

    /// Removes a stored response and returns its key.
    pub fn remove(&mut self, id: EntryId) -> Option<CacheKey> {
        let Indexed { key, facts, .. } = self.entries.remove(&id)?;
        if let Some(places) = self.by_host.get_mut(&facts.host) {
            places.remove(&Place(facts.clone(), id));
            if places.is_empty() {
                self.by_host.remove(&facts.host);
            }
        }
        for tag in facts.tags.names() {
            if let Some(tagged) = self.by_tag.get_mut(tag) {
                tagged.remove(&id);
                if tagged.is_empty() {
                    self.by_tag.remove(tag);
                }
            }
        }
        self.cut.remove(&id);
        if let Some(ids) = self.by_url.get_mut(key.url()) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_url.remove(key.url());
            }
        }
        Some(key)
    }

    /// The stored responses that `selector` names. For patterns this goes through the whole.
    pub fn find(&self, selector: &Selector) -> Vec<EntryId> {
        match selector {
            Selector::Url { host, path, .. } => self.on(host.as_deref(), |places| {
                let same = places.range(starting_at(path)).take_while(|place| *place.0.path == **path);
                same.filter(|place| selector.matches(&place.0)).map(|place| place.1).collect()
            }),
            Selector::Prefix { host, path } => self.on(host.as_deref(), |places| {
                let below = places.range(starting_at(path));
                below.take_while(|place| place.0.path.starts_with(&**path)).map(|place| place.1).collect()
            }),
            Selector::Host(host) => {
                self.on(Some(host), |places| places.iter().map(|place| place.1).collect())
            }
            Selector::Tag { host, tag } => {
                let tagged = self.by_tag.get(tag).into_iter().flatten();
                // What is cut and carries the tag all the same is named once.
                let cut = self.cut.iter().filter(|id| !self.carries(**id, tag));
                let all = tagged.chain(cut).copied();
                match host {
                    None => all.collect(),
                    Some(host) => all.filter(|id| self.is_on(*id, host)).collect(),
                }
            }
            Selector::Pattern(_) => {
                let named = self.entries.iter().filter(|(_, entry)| selector.matches(&entry.facts));
                named.map(|(id, _)| *id).collect()
            }
            Selector::All => self.entries.keys().copied().collect(),
        }
    }

    fn is_on(&self, id: EntryId, host: &str) -> bool {
        self.entries.get(&id).is_some_and(|entry| *entry.facts.host == *host)
    }

    fn carries(&self, id: EntryId, tag: &str) -> bool {
        let listed = |tags: &Tags| tags.names().binary_search_by(|name| (**name).cmp(tag)).is_ok();
        self.entries.get(&id).is_some_and(|entry| listed(&entry.facts.tags))
    }

    /// What `find` finds among the entries of one host, or of all.
    fn on(&self, host: Option<&str>, find: impl Fn(&BTreeSet<Place>) -> Vec<EntryId>) -> Vec<EntryId> {
        match host {
            Some(host) => self.by_host.get(host).map(find).unwrap_or_default(),
            None => self.by_host.values().flat_map(find).collect(),
        }
    }

    /// The next `max` entries after one, up to another, in the order in which they came.
    pub fn next(&self, after: EntryId, last: EntryId, max: usize) -> Vec<(EntryId, Arc<Facts>)> {
        let range = (Bound::Excluded(after), Bound::Unbounded);
        let entries = self.entries.range(range).take_while(|(id, _)| **id <= last).take(max);
        entries.map(|(id, entry)| (*id, entry.facts.clone())).collect()
    }

    /// The key and the bytes of a stored response.
    pub fn get(&self, id: EntryId) -> Option<(&CacheKey, u64)> {
        self.entries.get(&id).map(|entry| (&entry.key, entry.bytes))
    }

    /// The stored responses of a route. Looks at all: for what happens rarely.
    pub fn find_route(&self, route: &str) -> Vec<EntryId> {
        let of_route = self.entries.iter().filter(|(_, entry)| entry.key.is_of_route(route));
        of_route.map(|(id, _)| *id).collect()
    }

    /// How many responses are indexed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Where the paths that begin like this begin, whatever their host.
fn starting_at(path: &str) -> (Bound<Place>, Bound<Place>) {
    let probe = Facts { path: path.into(), ..Facts::default() };
    (Bound::Included(Place(Arc::new(probe), 0)), Bound::Unbounded)
}
