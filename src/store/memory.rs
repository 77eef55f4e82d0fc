//! The memory tier: a byte-budgeted map from key to response, an index for purges, and the fence.
//!
//! Lookups touch the map only, and the short list of bans while a large purge is carried out ([`super::purging`]).
//! Everything that changes the store holds the index's lock, so that a purge and an insertion have an order: either
//! the insertion sees the purge in the fence and is refused, or the purge sees the insertion in the index.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::ban::{Ban, is_gone};
use super::fence::{Fence, Sequence};
use super::forms::Forms;
use super::index::{EntryId, Index};
use super::response::StoredResponse;
use super::sendable::Files;
use crate::plan::Memory as Budget;
use crate::rules::key::{CacheKey, Vary};
use crate::rules::selector::Facts;

/// What lies under a key.
#[derive(Clone)]
pub(super) enum Slot {
    /// The response itself. Purges up to `vouched` do not mean it. `weight` is what it is charged with: a response gains
    /// encoded forms while it lies here.
    Response { id: EntryId, response: Arc<StoredResponse>, vouched: Sequence, weight: u64 },
    /// Under a primary key whose responses have variants: what selects among them.
    Varies(Arc<Vary>),
}

#[derive(Clone)]
pub(super) struct ByBytes;

impl Weighter<CacheKey, Slot> for ByBytes {
    fn weight(&self, key: &CacheKey, slot: &Slot) -> u64 {
        // The key is held by the map and by the index.
        let key = (key.len() * 2) as u64;
        key + match slot {
            Slot::Response { weight, .. } => *weight,
            Slot::Varies(vary) => 128 + vary.len() as u64,
        }
    }
}

/// Collects what an insertion pushed out, so that it leaves the index too.
#[derive(Clone, Default)]
pub(super) struct PushedOut;

impl Lifecycle<CacheKey, Slot> for PushedOut {
    type RequestState = Vec<(CacheKey, EntryId)>;

    // Called for a replaced value as well as for an evicted one.
    fn on_evict(&self, out: &mut Self::RequestState, key: CacheKey, slot: Slot) {
        if let Slot::Response { id, .. } = slot {
            out.push((key, id));
        }
    }
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) fence: Fence,
    pub(super) index: Index,
    pub(super) last_id: EntryId,
}

/// The memory tier.
pub struct Memory {
    pub(super) map: Cache<CacheKey, Slot, ByBytes, DefaultHashBuilder, PushedOut>,
    pub(super) books: Mutex<Books>,
    /// The latest purge in force, which a fetch that begins now has not missed.
    pub(super) began: AtomicU64,
    pub(super) bans: ArcSwap<Vec<Arc<Ban>>>,
    pub(super) has_bans: AtomicBool,
    pub(super) evictions: AtomicU64,
    crowded_out: AtomicU64,
    pub(super) files: Arc<Files>,
}

/// What a lookup found.
pub struct Found {
    /// The key the request selects: of a variant where the responses have any.
    pub key: CacheKey,
    /// The response under it.
    pub response: Option<Arc<StoredResponse>>,
}

/// Why an insertion was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A purge that covers it came after its fetch began.
    Purged,
    /// It does not fit.
    TooLarge,
    /// What it was to renew is stored no longer.
    Superseded,
}

impl Memory {
    /// An empty tier within `budget`.
    pub fn new(budget: Budget) -> Self {
        // A shard must hold several of the largest objects, or they would not be admitted at all.
        let shards = (budget.max_size / (budget.max_object_size.max(1) * 2)).clamp(1, 64);
        // Rounded down to a power of two; the library rounds up.
        let shards = 1 << shards.ilog2();
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(
                usize::try_from(budget.max_size / 4096).unwrap_or(usize::MAX).max(shards * 32),
            )
            .weight_capacity(budget.max_size)
            .build()
            .expect("both capacities are set above");
        Self {
            map: Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), PushedOut),
            books: Mutex::default(),
            began: AtomicU64::new(0),
            bans: ArcSwap::default(),
            has_bans: AtomicBool::new(false),
            evictions: AtomicU64::new(0),
            crowded_out: AtomicU64::new(0),
            files: Arc::new(Files::new(budget.max_size)),
        }
    }

    /// Finds the response that a request selects under a primary key; `variant` tells the key of its variant, where the
    /// responses have any.
    pub fn lookup(&self, primary: &CacheKey, variant: impl FnOnce(&Vary) -> CacheKey) -> Found {
        let (variant, response) = self.select(primary.as_ref(), variant);
        Found { key: variant.unwrap_or_else(|| primary.clone()), response }
    }

    /// The same for who has the bytes of the primary key only ([`CacheKey::write_primary`]), and needs none of the keys.
    pub fn lookup_bytes<K: AsRef<[u8]>>(
        &self,
        primary: &[u8],
        variant: impl FnOnce(&Vary) -> K,
    ) -> Option<Arc<StoredResponse>> {
        self.select(primary, variant).1
    }

    /// What `variant` made, if it was asked, and the response that is selected.
    fn select<K: AsRef<[u8]>>(
        &self,
        primary: &[u8],
        variant: impl FnOnce(&Vary) -> K,
    ) -> (Option<K>, Option<Arc<StoredResponse>>) {
        let bans = self.bans_in_force();
        match self.map.get(primary) {
            None => (None, None),
            Some(Slot::Response { response, vouched, .. }) => {
                (None, Some(response).filter(|response| !is_gone(bans, vouched, response)))
            }
            Some(Slot::Varies(vary)) => {
                let key = variant(&vary);
                let response = self.at(key.as_ref());
                (Some(key), response)
            }
        }
    }

    /// What lies under a key itself.
    pub fn stored(&self, key: &CacheKey) -> Option<Arc<StoredResponse>> {
        self.at(key.as_ref())
    }

    fn at(&self, key: &[u8]) -> Option<Arc<StoredResponse>> {
        let bans = self.bans_in_force();
        match self.map.get(key) {
            Some(Slot::Response { response, vouched, .. }) if !is_gone(bans, vouched, &response) => {
                Some(response)
            }
            _ => None,
        }
    }

    /// Whether what was fetched since `begun` may still be stored.
    pub fn admits(&self, begun: Sequence, facts: &Facts) -> bool {
        self.books.lock().fence.admits(begun, facts)
    }

    /// The point in the order of purges from which a fetch that begins now counts.
    pub fn begin(&self) -> Sequence {
        Sequence(self.began.load(Ordering::Acquire))
    }

    /// Learns that the responses under a primary key have variants.
    pub fn note_vary(&self, primary: &CacheKey, vary: &Vary) {
        if vary.is_empty() {
            return;
        }
        if let Some(Slot::Varies(known)) = self.map.peek(primary)
            && *known == *vary
        {
            return;
        }
        let mut books = self.books.lock();
        self.put(&mut books, primary.clone(), Slot::Varies(Arc::new(vary.clone())));
    }

    /// Stores what was fetched since `begun`, unless a purge since then covers it. Where its URL then has more than
    /// `max_variants` entries, the oldest leaves.
    pub fn insert(
        &self,
        key: &CacheKey,
        response: Arc<StoredResponse>,
        begun: Sequence,
        max_variants: usize,
    ) -> Result<(), Refused> {
        let mut books = self.books.lock();
        if !books.fence.admits(begun, &response.facts) {
            return Err(Refused::Purged);
        }
        let added = self.add(&mut books, key, response);
        while let Some(oldest) = books.index.oldest_beyond(key, max_variants) {
            self.take_out(&mut books, oldest);
            self.crowded_out.fetch_add(1, Ordering::Relaxed);
        }
        added
    }

    /// Puts `new` in the place of `old`, which it renews, unless `old` has lost that place meanwhile or a purge since
    /// `begun` covers it.
    pub fn renew(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: &Arc<StoredResponse>,
        begun: Sequence,
    ) -> Result<(), Refused> {
        let mut books = self.books.lock();
        if !books.fence.admits(begun, &new.facts) {
            return Err(Refused::Purged);
        }
        match self.map.peek(key) {
            Some(Slot::Response { response, vouched, .. })
                if Arc::ptr_eq(&response, old) && !is_gone(self.bans_in_force(), vouched, &response) => {}
            _ => return Err(Refused::Superseded),
        }
        self.add(&mut books, key, new.clone())
    }

    fn add(&self, books: &mut Books, key: &CacheKey, response: Arc<StoredResponse>) -> Result<(), Refused> {
        books.last_id += 1;
        let id = books.last_id;
        let (facts, vouched) = (response.facts.clone(), books.fence.now());
        let weight = response.weight();
        response.set_place(id);
        if let Some(forms) = &response.forms {
            forms.set_place(id);
        }
        let slot = Slot::Response { id, response, vouched, weight };
        books.index.add(id, key.clone(), facts, ByBytes.weight(key, &slot));
        self.put(books, key.clone(), slot);
        if books.index.get(id).is_some() { Ok(()) } else { Err(Refused::TooLarge) }
    }

    /// Whether the response that these forms are of is stored.
    pub fn holds(&self, forms: &Forms) -> bool {
        self.books.lock().index.get(forms.place()).is_some()
    }

    /// The files of what is stored.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Removes the response under `key` if it still is this one, and tells whether it was.
    pub fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) -> bool {
        let mut books = self.books.lock();
        let same =
            |slot: &Slot| matches!(slot, Slot::Response { response: r, .. } if Arc::ptr_eq(r, response));
        match self.map.remove_if(key, same) {
            Some((_, Slot::Response { id, .. })) => books.index.remove(id).is_some(),
            _ => false,
        }
    }

    /// Removes all that was stored through a route.
    pub fn remove_route(&self, route: &str) {
        let mut books = self.books.lock();
        for id in books.index.find_route(route) {
            self.take_out(&mut books, id);
        }
    }

    /// Takes one response out of index and map.
    pub(super) fn take_out(&self, books: &mut Books, id: EntryId) {
        let Some(key) = books.index.remove(id) else { return };
        let same = |slot: &Slot| matches!(slot, Slot::Response { id: found, .. } if *found == id);
        self.map.remove_if(&key, same);
    }

    fn put(&self, books: &mut Books, key: CacheKey, slot: Slot) {
        let mut pushed_out = Vec::new();
        self.map.insert_with_lifecycle(key.clone(), slot, &mut pushed_out);
        for (gone, id) in pushed_out {
            books.index.remove(id);
            if gone != key {
                self.evictions.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Stored responses.
    pub fn entries(&self) -> usize {
        self.books.lock().index.len()
    }

    /// Bytes they are charged with.
    pub fn bytes(&self) -> u64 {
        self.map.weight()
    }

    /// The budget, in bytes.
    pub fn capacity(&self) -> u64 {
        self.map.capacity()
    }

    /// Responses that left because their URL had too many, since the start.
    pub fn crowded_out(&self) -> u64 {
        self.crowded_out.load(Ordering::Relaxed)
    }

    /// Responses pushed out to make room, since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::rules::freshness::Freshness;
    use crate::rules::head::{Fields, RequestHead};
    use crate::rules::selector::Selector;
    use crate::rules::tags::Tags;
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;
    use crate::store::ban::Effect;
    use crate::store::response::Head;
    use std::time::Duration;

    pub const MANY: usize = 1000;
    const BUDGET: Budget = Budget { max_size: 1 << 20, max_object_size: 1 << 18 };

    fn request(path: &str) -> RequestHead<'_> {
        let target = Target::new(Scheme::Http, "shop", path);
        RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &[] }
    }

    pub fn key(path: &str) -> CacheKey {
        CacheKey::primary("route", &request(path), &testing::policy())
    }

    pub fn response(path: &str, tags: &[&str], body: usize) -> Arc<StoredResponse> {
        let tags = tags.iter().map(|tag| Arc::from(*tag));
        let head = Head::from_fields(200, [("etag", &b"\"1\""[..])].into_iter());
        Arc::new(new_response(path, Tags::new(tags), head, vec![0; body]))
    }

    /// A response worth encoding.
    pub fn page(path: &str, body: Vec<u8>) -> StoredResponse {
        let fields = [("etag", &b"\"1\""[..]), ("content-type", b"text/plain")];
        new_response(path, Tags::default(), Head::from_fields(200, fields.into_iter()), body)
    }

    fn new_response(path: &str, tags: Tags, head: Head, body: Vec<u8>) -> StoredResponse {
        let freshness = Freshness {
            stored_at: Timestamp(0),
            initial_age: Duration::ZERO,
            lifetime: Duration::from_secs(60),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_on_disconnect: Duration::ZERO,
            stale_forbidden: false,
            always_revalidate: false,
            is_purged: false,
        };
        let facts = Facts::new(&request(path), &testing::policy().query, tags);
        StoredResponse::new(head, body.into(), freshness, facts, Vary::default(), None)
    }

    fn vary(names: &str) -> Vary {
        Vary::parse(Fields::new(&[("vary", names.as_bytes())]), &testing::policy()).unwrap()
    }

    fn look_up(memory: &Memory, path: &str, fields: Fields<'_>) -> Option<Arc<StoredResponse>> {
        let primary = key(path);
        let found = memory.lookup(&primary, |vary| primary.variant(vary, fields)).response;
        let by_bytes = memory.lookup_bytes(primary.as_ref(), |vary| primary.variant(vary, fields));
        assert_eq!(found.as_ref().map(Arc::as_ptr), by_bytes.as_ref().map(Arc::as_ptr));
        found
    }

    fn stored(memory: &Memory, path: &str) -> bool {
        look_up(memory, path, Fields::default()).is_some()
    }

    #[test]
    fn variants_live_side_by_side_and_are_purged_together() {
        let memory = Memory::new(BUDGET);
        let vary = vary("accept");
        let (html, json) =
            (Fields::new(&[("accept", b"text/html")]), Fields::new(&[("accept", b"application/json")]));
        memory.note_vary(&key("/a"), &vary);
        for fields in [html, json] {
            memory
                .insert(&key("/a").variant(&vary, fields), response("/a", &[], 10), memory.begin(), MANY)
                .unwrap();
        }
        assert!(look_up(&memory, "/a", html).is_some());
        assert!(look_up(&memory, "/a", json).is_some());
        assert!(look_up(&memory, "/a", Fields::default()).is_none());
        let purged =
            memory.purge(&[Selector::url("/a", &[testing::policy().query]).unwrap()], Effect::Remove);
        assert_eq!(purged.total().entries, 2);
        assert!(look_up(&memory, "/a", html).is_none());
    }

    #[test]
    fn a_url_has_so_many_entries_and_the_oldest_makes_room() {
        let memory = Memory::new(BUDGET);
        let vary = vary("accept");
        memory.note_vary(&key("/a"), &vary);
        let wish = |n: usize| format!("text/{n}");
        for n in 0..10 {
            let variant = key("/a").variant(&vary, Fields::new(&[("accept", wish(n).as_bytes())]));
            memory.insert(&variant, response("/a", &[], 10), memory.begin(), 4).unwrap();
            memory.insert(&key(&format!("/{n}")), response("/b", &[], 10), memory.begin(), 4).unwrap();
        }
        let held =
            |n: usize| look_up(&memory, "/a", Fields::new(&[("accept", wish(n).as_bytes())])).is_some();
        assert_eq!((0..10).filter(|n| held(*n)).collect::<Vec<_>>(), [6, 7, 8, 9]);
        assert_eq!((memory.crowded_out(), memory.entries()), (6, 14), "other URLs are not touched");
    }

    #[test]
    fn a_renewal_never_takes_the_place_of_a_newer_response() {
        let memory = Memory::new(BUDGET);
        let (old, renewed, newer) = (response("/a", &[], 1), response("/a", &[], 1), response("/a", &[], 2));
        memory.insert(&key("/a"), old.clone(), memory.begin(), MANY).unwrap();
        assert_eq!(memory.renew(&key("/a"), &old, &renewed, memory.begin()), Ok(()));
        memory.insert(&key("/a"), newer, memory.begin(), MANY).unwrap();
        assert_eq!(memory.renew(&key("/a"), &renewed, &old, memory.begin()), Err(Refused::Superseded));
        assert_eq!(look_up(&memory, "/a", Fields::default()).unwrap().body.len(), 2);
        let before = memory.begin();
        memory.purge(&[Selector::All], Effect::Remove);
        assert_eq!(memory.renew(&key("/a"), &renewed, &old, before), Err(Refused::Purged));
        assert!(!stored(&memory, "/a"));
    }

    #[test]
    fn what_selects_among_variants_follows_the_newest_response() {
        let memory = Memory::new(BUDGET);
        let (by_foo, by_bar) = (vary("foo"), vary("bar"));
        let asked = Fields::new(&[("foo", b"1"), ("bar", b"1")]);
        let store = |vary: &Vary, body: usize| {
            let key = if vary.is_empty() { key("/a") } else { key("/a").variant(vary, asked) };
            memory.note_vary(&self::key("/a"), vary);
            memory.insert(&key, response("/a", &[], body), memory.begin(), MANY).unwrap();
        };
        let found = |fields: Fields<'_>| look_up(&memory, "/a", fields).map(|r| r.body.len());
        store(&by_foo, 1);
        store(&by_bar, 2);
        assert_eq!(found(Fields::new(&[("bar", b"1")])), Some(2));
        assert_eq!(found(Fields::new(&[("foo", b"1")])), None);
        store(&Vary::default(), 3);
        assert_eq!((found(asked), found(Fields::default())), (Some(3), Some(3)), "it matches every request");
        store(&by_foo, 4);
        assert_eq!((found(asked), found(Fields::default())), (Some(4), None));
    }

    #[test]
    fn a_full_store_evicts_and_stays_within_its_budget() {
        let memory = Memory::new(BUDGET);
        for n in 0..2_000 {
            let path = format!("/{n}");
            memory.insert(&key(&path), response(&path, &["t"], 2_000), memory.begin(), MANY).unwrap();
            assert!(memory.bytes() <= BUDGET.max_size, "{} bytes after {n}", memory.bytes());
        }
        assert!(memory.evictions() > 1_000, "{} evictions", memory.evictions());
        let held = memory.map.len();
        let purged = memory.purge(&[Selector::tag("t").unwrap()], Effect::Remove);
        assert_eq!(purged.total().entries, held);
        memory.sweep();
        assert_eq!((memory.entries(), memory.bytes()), (0, 0));
    }

    #[test]
    fn the_largest_object_fits_and_a_larger_one_is_refused() {
        let budget = Budget { max_size: 64 << 20, max_object_size: 8 << 20 };
        let memory = Memory::new(budget);
        let largest = usize::try_from(budget.max_object_size).unwrap();
        assert_eq!(memory.insert(&key("/a"), response("/a", &[], largest), memory.begin(), MANY), Ok(()));
        assert!(stored(&memory, "/a"));
        let over = response("/b", &[], largest * 8);
        assert_eq!(memory.insert(&key("/b"), over, memory.begin(), MANY), Err(Refused::TooLarge));
        assert_eq!(memory.entries(), 1);
    }

    #[test]
    fn removing_spares_what_has_taken_its_place() {
        let memory = Memory::new(BUDGET);
        let (old, new) = (response("/a", &[], 1), response("/a", &[], 2));
        memory.insert(&key("/a"), old.clone(), memory.begin(), MANY).unwrap();
        memory.insert(&key("/a"), new.clone(), memory.begin(), MANY).unwrap();
        assert_eq!(memory.evictions(), 0, "a replacement is no eviction");
        memory.remove(&key("/a"), &old);
        assert!(stored(&memory, "/a"));
        memory.remove(&key("/a"), &new);
        assert_eq!((stored(&memory, "/a"), memory.entries()), (false, 0));
    }
}
