//! The fetches under way, by key: the first request for a key leads, the others read along.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::collect::Collected;
use super::fence::Sequence;
use super::fill::{Fill, Filler, InFlight, Reader};
use crate::rules::key::CacheKey;
use crate::rules::selector::{Facts, Selector};

/// The most fetches that others may join at once; beyond it requests go to the origin by themselves.
const MAX_FILLS: usize = 4096;

/// Fills may hold this share of the store's budget together.
pub const SHARE_OF_STORE: u64 = 4;

/// The table of fills.
pub struct Fills {
    table: Mutex<HashMap<CacheKey, Arc<Fill>>>,
    in_flight: Arc<InFlight>,
}

/// The place of one fetch among all.
pub struct Place {
    /// Takes the response in.
    pub filler: Filler,
    /// Where the fill can be joined.
    pub lease: Lease,
    /// When it began, in the order of purges.
    pub begun: Sequence,
}

/// What a request does about its key.
pub enum Ticket {
    /// Nobody fetches it yet: fetch it, and read along if a client waits.
    Lead(Place, Reader),
    /// Somebody does: read along.
    Follow(Reader),
    /// Too many fetches are under way.
    Full,
}

impl Fills {
    /// An empty table whose fills may hold `max_bytes` together.
    pub fn new(max_bytes: u64) -> Self {
        Self { table: Mutex::default(), in_flight: InFlight::new(max_bytes) }
    }

    /// Joins the fetch of `key`, or begins it.
    pub fn enter(self: &Arc<Self>, key: &CacheKey, facts: impl FnOnce() -> Facts, begun: Sequence) -> Ticket {
        let mut table = self.table.lock();
        if let Some(reader) = table.get(key).and_then(Fill::join) {
            return Ticket::Follow(reader);
        }
        if table.len() >= MAX_FILLS {
            return Ticket::Full;
        }
        let fill = Arc::new(Fill::new(facts(), begun, self.in_flight.clone()));
        let reader = fill.join().expect("a new fill has its beginning");
        table.insert(key.clone(), fill.clone());
        let filler = Filler(fill.clone());
        let lease = Lease { fills: self.clone(), key: key.clone(), fill };
        Ticket::Lead(Place { filler, lease, begun }, reader)
    }

    /// A body of at most `max` bytes that is collected beside the fills, out of the same budget.
    pub fn collect(&self, max: u64) -> Collected {
        Collected::new(max, self.in_flight.clone())
    }

    /// Keeps requests that begin later from joining what a purge may mean. Those who wait already are answered.
    pub fn detach(&self, selectors: &[Selector], purge: Sequence) {
        let covered = |fill: &Fill| {
            fill.begun < purge && selectors.iter().any(|selector| selector.may_match(&fill.facts))
        };
        self.table.lock().retain(|_, fill| !covered(fill));
    }

    /// Fetches that can be joined now.
    pub fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that fills hold now.
    pub fn bytes(&self) -> u64 {
        self.in_flight.used()
    }
}

/// A fill's place in the table; it leaves when the lease is dropped.
pub struct Lease {
    fills: Arc<Fills>,
    key: CacheKey,
    fill: Arc<Fill>,
}

impl Lease {
    /// Moves the fill to the key of its variant, once its head has told which that is. A fill that is there
    /// already keeps its place.
    pub fn move_to(&mut self, key: &CacheKey) {
        if *key == self.key {
            return;
        }
        let mut table = self.fills.table.lock();
        if is_ours(&table, &self.key, &self.fill) {
            table.remove(&self.key);
            table.entry(key.clone()).or_insert_with(|| self.fill.clone());
        }
        self.key = key.clone();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.fills.table.lock();
        if is_ours(&table, &self.key, &self.fill) {
            table.remove(&self.key);
        }
    }
}

/// After a purge another fill may have taken the place.
fn is_ours(table: &HashMap<CacheKey, Arc<Fill>>, key: &CacheKey, fill: &Arc<Fill>) -> bool {
    table.get(key).is_some_and(|there| Arc::ptr_eq(there, fill))
}
