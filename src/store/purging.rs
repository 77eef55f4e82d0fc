//! How a purge takes effect at once and is carried out without a stall.
//!
//! A purge of a page or two is carried out on the spot. One that names very many entries, or that only a look at every
//! entry can carry out, becomes a *ban* first: a line in a short list that lookups hold against what they find. With
//! that it is in force, and can be answered; a [`Sweep`] then removes the entries in steps, between which others have
//! their turn, and lifts the ban.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quick_cache::DefaultHashBuilder;

use super::fence::Sequence;
use super::index::EntryId;
use super::memory::{Books, Memory, Slot};
use super::response::StoredResponse;
use crate::clock::Timestamp;
use crate::rules::selector::{Facts, Selector};

/// The most entries removed on the spot.
const AT_ONCE: usize = if cfg!(test) { 2 } else { 500 };

/// How many entries a sweep looks at before it lets others have their turn.
const STEP: usize = if cfg!(test) { 2 } else { 500 };

/// How many entries are found through the index at once; what the selectors after that name, the sweep finds.
const FOUND_AT_ONCE: usize = if cfg!(test) { 30 } else { 200_000 };

/// The most selectors of bans in force; beyond it who purges has to wait until it is carried out.
const MAX_BANS: usize = if cfg!(test) { 4 } else { 4096 };

type Ids = HashSet<EntryId, DefaultHashBuilder>;

/// What a purge does to what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is gone.
    Remove,
    /// It has expired at this moment: it is validated before it is served, or served within its stale windows.
    Expire(Timestamp),
}

/// Entries, and the bytes they are charged with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Stored responses.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |total, count| Self {
            entries: total.entries + count.entries,
            bytes: total.bytes + count.bytes,
        })
    }
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }
}

/// A purge that is in force.
#[derive(Debug)]
pub struct Purged {
    /// Its place in the order of purges.
    pub sequence: Sequence,
    /// Per selector, in the order given, what it names; an entry counts where it is named first.
    pub named: Vec<Count>,
    /// What is left to do before the ban can be lifted, and before patterns are counted.
    pub sweep: Option<Sweep>,
    /// Whether so much is in force and not carried out that this had better be before more is asked for.
    pub is_crowded: bool,
}

impl Purged {
    /// What all selectors name.
    pub fn total(&self) -> Count {
        self.named.iter().copied().sum()
    }
}

/// What a lookup holds against what it finds while a purge is being carried out.
#[derive(Debug)]
pub(super) struct Ban {
    sequence: Sequence,
    selectors: Arc<[Selector]>,
    effect: Effect,
}

/// The rest of a purge. Dropped without being run it leaves the ban in force, and lookups a little slower.
#[derive(Debug)]
pub struct Sweep {
    sequence: Sequence,
    selectors: Arc<[Selector]>,
    effect: Effect,
    ids: Ids,
    /// Selectors whose entries are still to be found, by a look at every one.
    unfound: Vec<usize>,
    /// The newest entry that the purge can mean.
    last: EntryId,
    named: Vec<Count>,
}

impl Memory {
    /// Purges what `selectors` name: when this returns, no lookup finds it any longer (or only as expired).
    #[expect(clippy::mutable_key_type, reason = "what a regular expression caches is no part of its hash")]
    pub fn purge(&self, selectors: &[Selector], effect: Effect) -> Purged {
        let mut books = self.books.lock();
        let sequence = books.fence.advance(selectors);
        let mut named = vec![Count::default(); selectors.len()];
        let (mut ids, mut unfound, mut found) = (Ids::default(), Vec::new(), 0);
        let mut distinct = HashSet::new();
        for (at, selector) in selectors.iter().enumerate().filter(|(_, selector)| distinct.insert(*selector))
        {
            if selector.is_lazy() || found > FOUND_AT_ONCE {
                unfound.push(at);
                continue;
            }
            for id in books.index.find(selector) {
                found += 1;
                if let Some((_, bytes)) = books.index.get(id).filter(|_| ids.insert(id)) {
                    named[at].add(bytes);
                }
            }
        }
        let is_small = ids.len() <= AT_ONCE && unfound.is_empty();
        let mut sweep = None;
        if is_small {
            ids.iter().for_each(|id| self.carry_out(&mut books, *id, effect));
            self.forget_varies(&books, selectors, effect);
        } else {
            let (selectors, last) = (Arc::from(selectors), books.last_id);
            let named = named.clone();
            sweep = Some(Sweep { sequence, selectors, effect, ids, unfound, last, named });
        }
        sweep.iter().for_each(|sweep| self.ban(&books, sweep));
        // Last: a fetch that begins with this number begins when all is in force.
        self.began.fetch_max(sequence.0, Ordering::AcqRel);
        let banned = self.bans.load().iter().map(|ban| ban.selectors.len()).sum::<usize>();
        Purged { sequence, named, sweep, is_crowded: banned > MAX_BANS }
    }

    /// What a purge would name now: per selector, how many of all are fresh, and some of the URLs.
    pub fn survey(&self, selectors: &[Selector], now: Timestamp, max_examples: usize) -> Survey {
        let mut survey =
            Survey { named: vec![Count::default(); selectors.len()], fresh: 0, examples: Vec::new() };
        let last = self.books.lock().last_id;
        let mut after = 0;
        loop {
            let step = self.books.lock().index.next(after, last, STEP);
            let Some((end, _)) = step.last() else { return survey };
            after = *end;
            for (id, facts) in &step {
                let Some(at) = selectors.iter().position(|selector| selector.matches(facts)) else {
                    continue;
                };
                let Some((response, bytes)) = self.by_id(*id) else { continue };
                survey.named[at].add(bytes);
                survey.fresh += usize::from(response.freshness().remaining(now).is_some());
                if survey.examples.len() < max_examples {
                    survey.examples.push(facts.url());
                }
            }
        }
    }

    /// Holds the bans in force against a response: whether it is gone. One that they let expire has expired then.
    pub(super) fn apply_bans(&self, vouched: Sequence, response: &StoredResponse) -> bool {
        if !self.has_bans.load(Ordering::Acquire) {
            return false;
        }
        let bans = self.bans.load();
        let mut against = bans.iter().filter(|ban| {
            ban.sequence > vouched && ban.selectors.iter().any(|selector| selector.matches(&response.facts))
        });
        against.any(|ban| match ban.effect {
            Effect::Remove => true,
            Effect::Expire(at) => {
                response.expire(at);
                false
            }
        })
    }

    fn ban(&self, _order: &Books, sweep: &Sweep) {
        let Sweep { sequence, selectors, effect, .. } = sweep;
        let ban = Ban { sequence: *sequence, selectors: selectors.clone(), effect: *effect };
        let mut bans: Vec<Arc<Ban>> = self.bans.load().to_vec();
        bans.push(Arc::new(ban));
        self.bans.store(Arc::new(bans));
        self.has_bans.store(true, Ordering::Release);
    }

    fn lift_ban(&self, _order: &Books, sequence: Sequence) {
        let bans: Vec<Arc<Ban>> =
            self.bans.load().iter().filter(|ban| ban.sequence != sequence).cloned().collect();
        self.has_bans.store(!bans.is_empty(), Ordering::Release);
        self.bans.store(Arc::new(bans));
    }

    fn carry_out(&self, books: &mut Books, id: EntryId, effect: Effect) {
        match effect {
            Effect::Remove => self.take_out(books, id),
            Effect::Expire(at) => {
                let key = books.index.get(id).map(|(key, _)| key);
                if let Some(Slot::Response { id: found, response, .. }) =
                    key.and_then(|key| self.map.peek(key))
                    && found == id
                {
                    response.expire(at);
                }
            }
        }
    }

    /// What selects among variants goes with everything else, where nothing has come meanwhile.
    fn forget_varies(&self, books: &Books, selectors: &[Selector], effect: Effect) {
        if effect == Effect::Remove && selectors.contains(&Selector::All) && books.index.is_empty() {
            self.map.clear();
        }
    }

    fn by_id(&self, id: EntryId) -> Option<(Arc<StoredResponse>, u64)> {
        let books = self.books.lock();
        let (key, bytes) = books.index.get(id)?;
        match self.map.peek(key) {
            Some(Slot::Response { id: found, response, vouched }) if found == id => {
                (!self.apply_bans(vouched, &response)).then_some((response, bytes))
            }
            _ => None,
        }
    }

    /// Bans in force.
    pub fn bans(&self) -> usize {
        self.bans.load().len()
    }
}

/// What a purge would name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// As in [`Purged::named`].
    pub named: Vec<Count>,
    /// How many of them are fresh: each costs a request to the origin if it is asked for again.
    pub fresh: usize,
    /// Some of their URLs.
    pub examples: Vec<String>,
}

impl Sweep {
    /// Whether all that was named is counted already.
    pub fn is_counted(&self) -> bool {
        self.unfound.is_empty()
    }

    /// What was named.
    pub fn selectors(&self) -> Arc<[Selector]> {
        self.selectors.clone()
    }

    /// Removes the rest step by step and lifts the ban. Returns what each selector has named. Takes long: not for a
    /// thread that serves requests.
    pub fn run(mut self, memory: &Memory) -> Vec<Count> {
        let ids: Vec<EntryId> = self.ids.iter().copied().collect();
        for step in ids.chunks(STEP) {
            let mut books = memory.books.lock();
            step.iter().for_each(|id| memory.carry_out(&mut books, *id, self.effect));
        }
        if !self.unfound.is_empty() {
            self.go_through(memory);
        }
        let books = memory.books.lock();
        memory.forget_varies(&books, &self.selectors, self.effect);
        memory.lift_ban(&books, self.sequence);
        self.named
    }

    /// Looks at every entry for those that no index finds.
    fn go_through(&mut self, memory: &Memory) {
        let mut after = 0;
        loop {
            let step = memory.books.lock().index.next(after, self.last, STEP);
            let Some((end, _)) = step.last() else { return };
            after = *end;
            let found: Vec<(EntryId, usize)> = step
                .iter()
                .filter(|(id, _)| !self.ids.contains(id))
                .filter_map(|(id, facts)| Some((*id, self.first_of_unfound(facts)?)))
                .collect();
            let mut books = memory.books.lock();
            for (id, at) in found {
                if let Some((_, bytes)) = books.index.get(id) {
                    self.named[at].add(bytes);
                    memory.carry_out(&mut books, id, self.effect);
                }
            }
        }
    }

    fn first_of_unfound(&self, facts: &Facts) -> Option<usize> {
        self.unfound.iter().copied().find(|at| self.selectors[*at].matches(facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Memory as Budget;
    use crate::rules::head::Fields;
    use crate::rules::key::CacheKey;
    use crate::store::memory::tests::{MANY, key, response};
    use proptest::prelude::*;
    use std::collections::HashMap;

    const BUDGET: Budget = Budget { max_size: 1 << 20, max_object_size: 1 << 18 };
    const NOW: Timestamp = Timestamp(1_000);

    /// How a lookup would find a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum State {
        Absent,
        Fresh,
        Expired,
    }

    fn state(memory: &Memory, path: &str) -> State {
        let found = memory.lookup(&key(path), |vary| CacheKey::variant(&key(path), vary, Fields::default()));
        match found.response {
            None => State::Absent,
            Some(response) if response.freshness().remaining(NOW).is_some() => State::Fresh,
            Some(_) => State::Expired,
        }
    }

    fn filled(pages: usize, tag: &str) -> Memory {
        let memory = Memory::new(BUDGET);
        for n in 0..pages {
            let path = format!("/{n}");
            memory.insert(&key(&path), response(&path, &[tag], 10), memory.begin(), MANY).unwrap();
        }
        memory
    }

    #[test]
    fn a_large_purge_is_in_force_before_it_is_carried_out() {
        for effect in [Effect::Remove, Effect::Expire(NOW)] {
            let memory = filled(20, "t");
            let purged = memory.purge(&[Selector::tag("t").unwrap()], effect);
            assert_eq!((purged.total().entries, memory.entries(), memory.bans()), (20, 20, 1));
            let expected = if effect == Effect::Remove { State::Absent } else { State::Expired };
            assert!((0..20).all(|n| state(&memory, &format!("/{n}")) == expected));
            memory.insert(&key("/0"), response("/0", &["t"], 10), memory.begin(), MANY).unwrap();
            assert_eq!(state(&memory, "/0"), State::Fresh, "what came after it is not meant");
            purged.sweep.unwrap().run(&memory);
            assert_eq!((state(&memory, "/0"), state(&memory, "/1")), (State::Fresh, expected));
            let left = if effect == Effect::Remove { 1 } else { 20 };
            assert_eq!((memory.entries(), memory.bans()), (left, 0));
        }
    }

    #[test]
    fn patterns_are_counted_by_the_sweep_and_nothing_is_counted_twice() {
        let memory = filled(12, "t");
        let selectors = [
            Selector::url("/1", &[Default::default()]).unwrap(),
            Selector::regex("^/1[01]?$").unwrap(),
            Selector::regex("^/[13]$").unwrap(),
        ];
        let purged = memory.purge(&selectors, Effect::Remove);
        let entries = |named: &[Count]| named.iter().map(|count| count.entries).collect::<Vec<_>>();
        assert_eq!(entries(&purged.named), [1, 0, 0]);
        assert_eq!(entries(&purged.sweep.unwrap().run(&memory)), [1, 2, 1]);
        assert_eq!(memory.entries(), 8);
    }

    #[test]
    fn many_selectors_for_the_same_entries_are_looked_for_once() {
        let memory = filled(20, "t");
        let tag = || Selector::tag("t").unwrap();
        let prefix = |path: &str| Selector::prefix(path).unwrap();
        // The index has found enough with the third.
        let selectors = [tag(), tag(), prefix("/1"), prefix("http://shop/"), prefix("/2"), prefix("/9")];
        let purged = memory.purge(&selectors, Effect::Remove);
        let sweep = purged.sweep.unwrap();
        assert_eq!((purged.named[0].entries, sweep.unfound.as_slice()), (20, &[3, 4, 5][..]));
        assert!((0..20).all(|n| state(&memory, &format!("/{n}")) == State::Absent));
        assert_eq!(
            sweep.run(&memory).iter().map(|count| count.entries).collect::<Vec<_>>(),
            [20, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn everything_goes_with_what_selects_among_variants() {
        let memory = filled(20, "t");
        let vary =
            crate::rules::key::Vary::parse(Fields(&[("vary", b"accept")]), &crate::rules::testing::policy());
        memory.note_vary(&key("/v"), &vary.unwrap());
        memory.purge(&[Selector::All], Effect::Remove).sweep.unwrap().run(&memory);
        assert_eq!((memory.entries(), memory.bytes()), (0, 0));
    }

    #[test]
    fn who_purges_waits_where_too_much_is_in_force() {
        let memory = filled(3, "t");
        let lazy = |n: usize| Selector::regex(&format!("^/{n}[ab]")).unwrap();
        let few: Vec<_> = (0..MAX_BANS).map(lazy).collect();
        let first = memory.purge(&few, Effect::Remove);
        assert!(!first.is_crowded);
        let second = memory.purge(&[lazy(7)], Effect::Remove);
        assert!(second.is_crowded);
        first.sweep.unwrap().run(&memory);
        assert!(!memory.purge(&[lazy(8)], Effect::Remove).is_crowded);
    }

    #[test]
    fn a_survey_changes_nothing() {
        let memory = filled(5, "t");
        memory.purge(&[Selector::url("/3", &[Default::default()]).unwrap()], Effect::Expire(NOW));
        let selectors = [Selector::regex("^/[34]$").unwrap(), Selector::tag("t").unwrap()];
        let survey = memory.survey(&selectors, NOW, 2);
        assert_eq!((survey.named[0].entries, survey.named[1].entries, survey.fresh), (2, 3, 4));
        assert_eq!(survey.examples, ["http://shop/0", "http://shop/1"]);
        assert_eq!(memory.entries(), 5);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(usize),
        Commit(usize),
        Purge(usize, bool),
        Sweep(usize),
    }

    fn selectors() -> Vec<Selector> {
        let query = [crate::rules::testing::policy().query];
        vec![
            Selector::url("/a/1", &query).unwrap(),
            Selector::url("http://shop/b?x=1", &query).unwrap(),
            Selector::prefix("/a/").unwrap(),
            Selector::prefix("http://elsewhere/").unwrap(),
            Selector::tag("odd").unwrap(),
            Selector::regex("^/[bc]").unwrap(),
            Selector::wildcard("/*/2").unwrap(),
            Selector::host("shop").unwrap(),
            Selector::All,
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0usize..12).prop_map(Step::Begin),
            3 => (0usize..12).prop_map(Step::Commit),
            2 => (0usize..9, proptest::bool::ANY).prop_map(|(which, soft)| Step::Purge(which, soft)),
            2 => (0usize..4).prop_map(Step::Sweep),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// A page that a lookup must find.
    struct Stored {
        facts: Arc<Facts>,
        expired: bool,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// The oracle: a page may be stored only if no purge that names it came since its fetch began; it is found until
        /// a purge names it, and as expired from a soft one on, whenever the sweeps run.
        #[test]
        fn no_interleaving_of_fetches_purges_and_sweeps_leaves_purged_content(steps in steps()) {
            let memory = Memory::new(BUDGET);
            let pages = ["/a/1", "/a/2", "/b?x=1", "/c"];
            let selectors = selectors();
            let mut begun: HashMap<usize, Sequence> = HashMap::new();
            let mut expected: HashMap<&str, Stored> = HashMap::new();
            let mut purges: Vec<(Sequence, Selector)> = Vec::new();
            let mut sweeps: Vec<Sweep> = Vec::new();
            for step in steps {
                match step {
                    Step::Begin(fetch) => {
                        begun.insert(fetch, memory.begin());
                    }
                    Step::Commit(fetch) => {
                        let Some(since) = begun.remove(&fetch) else { continue };
                        let page = pages[fetch % 4];
                        let tags: &[&str] = if fetch % 2 == 1 { &["odd"] } else { &[] };
                        let response = response(page, tags, 10);
                        let purged =
                            purges.iter().any(|(at, selector)| *at > since && selector.matches(&response.facts));
                        let facts = response.facts.clone();
                        prop_assert_eq!(memory.insert(&key(page), response, since, MANY).is_err(), purged);
                        if !purged {
                            expected.insert(page, Stored { facts, expired: false });
                        }
                    }
                    Step::Purge(which, soft) => {
                        let selector = selectors[which].clone();
                        let effect = if soft { Effect::Expire(NOW) } else { Effect::Remove };
                        let purged = memory.purge(std::slice::from_ref(&selector), effect);
                        for stored in expected.values_mut().filter(|stored| selector.matches(&stored.facts)) {
                            stored.expired = true;
                        }
                        expected.retain(|_, stored| soft || !selector.matches(&stored.facts));
                        sweeps.extend(purged.sweep);
                        purges.push((purged.sequence, selector));
                    }
                    Step::Sweep(which) if which < sweeps.len() => {
                        sweeps.swap_remove(which).run(&memory);
                    }
                    Step::Sweep(_) => {}
                }
                for page in pages {
                    let expected = expected.get(page).map_or(State::Absent, |stored| {
                        if stored.expired { State::Expired } else { State::Fresh }
                    });
                    prop_assert_eq!(state(&memory, page), expected, "{}", page);
                }
            }
            sweeps.into_iter().for_each(|sweep| drop(sweep.run(&memory)));
            prop_assert_eq!((memory.entries(), memory.bans()), (expected.len(), 0));
            prop_assert!(memory.bytes() > 0 || expected.is_empty());
        }
    }
}
