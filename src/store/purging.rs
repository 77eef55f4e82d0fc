//! How a purge takes effect at once and is carried out without a stall.
//!
//! A purge of a page or two is carried out on the spot. One that names very many entries, or that only a look at every
//! entry can carry out, becomes a [`Ban`] first: a line in a short list that lookups hold against what they find. With
//! that it is in force, and can be answered. A sweep then carries out all bans that wait, in steps between which others
//! have their turn, with one look at every entry for all of them; and lifts them. A purge that says the same as one that
//! waits joins it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ban::{Ban, Count, Effect, Ids, Stage, Work, is_gone};
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

/// A purge that is in force.
#[derive(Debug)]
pub struct Purged {
    /// Its place in the order of purges.
    pub sequence: Sequence,
    /// Per selector, in the order given, what it names; an entry counts where it is named first.
    pub named: Vec<Count>,
    /// Whether that is all.
    pub is_counted: bool,
    /// What is in force and still to be carried out.
    pub ban: Option<Arc<Ban>>,
    /// Whether so much is that this had better be before more is asked for.
    pub is_crowded: bool,
}

impl Purged {
    /// What all selectors name, as far as it is counted.
    pub fn total(&self) -> Count {
        self.named.iter().copied().sum()
    }
}

impl Memory {
    /// Purges what `selectors` name: when this returns, no lookup finds it any longer (or only as expired).
    pub fn purge(&self, selectors: &[Selector], effect: Effect) -> Purged {
        let mut books = self.books.lock();
        let sequence = books.fence.advance(selectors);
        let known = self.bans.load().iter().find(|ban| ban.takes(selectors, effect)).cloned();
        let (named, is_counted, ban) = match known {
            Some(ban) => {
                ban.extend_to(sequence);
                // The one before it has counted them.
                (vec![Count::default(); selectors.len()], true, Some(ban))
            }
            None => self.purge_anew(&mut books, selectors, effect, sequence),
        };
        // Last: a fetch that begins with this number begins when all is in force.
        self.began.fetch_max(sequence.0, Ordering::AcqRel);
        let banned = self.bans.load().iter().map(|ban| ban.selectors.len()).sum::<usize>();
        Purged { sequence, named, is_counted, ban, is_crowded: banned > MAX_BANS }
    }

    fn purge_anew(
        &self,
        books: &mut Books,
        selectors: &[Selector],
        effect: Effect,
        sequence: Sequence,
    ) -> (Vec<Count>, bool, Option<Arc<Ban>>) {
        let work = find(books, selectors);
        let (named, is_counted) = (work.named.clone(), work.unfound.is_empty());
        if work.ids.len() <= AT_ONCE && is_counted {
            for id in work.ids {
                self.carry_out(books, id, effect, sequence);
            }
            self.forget_varies(books, selectors, effect);
            return (named, true, None);
        }
        let ban = Arc::new(Ban::new(selectors, effect, sequence, work));
        let bans = self.bans.load();
        self.bans.store(Arc::new(bans.iter().chain([&ban]).cloned().collect()));
        self.has_bans.store(true, Ordering::Release);
        (named, is_counted, Some(ban))
    }

    /// What a purge would name now: per selector, how many of all are fresh, and some of the URLs.
    pub fn survey(&self, selectors: &[Selector], now: Timestamp, max_examples: usize) -> Survey {
        let mut survey =
            Survey { named: vec![Count::default(); selectors.len()], fresh: 0, examples: Vec::new() };
        self.look_at_all(|step| {
            for (id, facts) in step {
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
        });
        survey
    }

    /// Calls `look` with all entries that are there now, step by step.
    fn look_at_all(&self, mut look: impl FnMut(&[(EntryId, Arc<Facts>)])) {
        let last = self.books.lock().last_id;
        let mut after = 0;
        loop {
            let step = self.books.lock().index.next(after, last, STEP);
            let Some((end, _)) = step.last() else { return };
            after = *end;
            look(&step);
        }
    }

    /// The bans in force. A lookup asks for them first and looks into the map then: a ban that is lifted meanwhile was in force
    /// when it began, and what it has removed may be in its hands already.
    pub(super) fn bans_in_force(&self) -> Option<Arc<Vec<Arc<Ban>>>> {
        self.has_bans.load(Ordering::Acquire).then(|| self.bans.load_full())
    }

    /// Carries out all bans that wait, and lifts them; tells which. Takes long: not for a thread that serves requests.
    pub fn sweep(&self) -> Vec<Arc<Ban>> {
        let batch = self.take_waiting();
        for ban in &batch {
            let ids: Vec<EntryId> = ban.work.lock().ids.iter().copied().collect();
            for step in ids.chunks(STEP) {
                let mut books = self.books.lock();
                for id in step {
                    self.carry_out(&mut books, *id, ban.effect, ban.sequence());
                }
            }
        }
        let seeking: Vec<&Arc<Ban>> =
            batch.iter().filter(|ban| !ban.work.lock().unfound.is_empty()).collect();
        if !seeking.is_empty() {
            self.look_at_all(|step| self.carry_out_unfound(&seeking, step));
        }
        let books = self.books.lock();
        for ban in &batch {
            self.forget_varies(&books, &ban.selectors, ban.effect);
            ban.work.lock().stage = Stage::Done;
        }
        let bans: Vec<Arc<Ban>> = self.bans.load().iter().filter(|ban| !ban.is_done()).cloned().collect();
        self.has_bans.store(!bans.is_empty(), Ordering::Release);
        self.bans.store(Arc::new(bans));
        batch
    }

    fn take_waiting(&self) -> Vec<Arc<Ban>> {
        // No purge can join one of them meanwhile.
        let _books = self.books.lock();
        let waits = |ban: &&Arc<Ban>| {
            let mut work = ban.work.lock();
            let waits = work.stage == Stage::Waiting;
            work.stage = if waits { Stage::UnderWay } else { work.stage };
            waits
        };
        self.bans.load().iter().filter(waits).cloned().collect()
    }

    /// Carries out what these bans could not find through the index, among some entries.
    fn carry_out_unfound(&self, bans: &[&Arc<Ban>], entries: &[(EntryId, Arc<Facts>)]) {
        let mut found: Vec<(&Ban, usize, EntryId)> = Vec::new();
        for ban in bans {
            let work = ban.work.lock();
            let first = |facts: &Facts| work.unfound.iter().find(|at| ban.selectors[**at].matches(facts));
            let unknown = entries.iter().filter(|(id, _)| !work.ids.contains(id));
            found.extend(unknown.filter_map(|(id, facts)| Some((&***ban, *first(facts)?, *id))));
        }
        let mut books = self.books.lock();
        for (ban, at, id) in found {
            let bytes = books.index.get(id).map_or(0, |(_, bytes)| bytes);
            if self.carry_out(&mut books, id, ban.effect, ban.sequence()) {
                ban.work.lock().named[at].add(bytes);
            }
        }
    }

    /// Carries a purge out on one entry, if that is there and meant.
    fn carry_out(&self, books: &mut Books, id: EntryId, effect: Effect, sequence: Sequence) -> bool {
        let Some((key, _)) = books.index.get(id) else { return false };
        let response = match self.map.peek(key) {
            Some(Slot::Response { id: found, response, vouched, .. })
                if found == id && vouched < sequence =>
            {
                response
            }
            _ => return false,
        };
        match effect {
            Effect::Remove => self.take_out(books, id),
            Effect::Expire(at) => response.expire(at),
        }
        true
    }

    /// What selects among variants goes with everything else, where nothing has come meanwhile.
    fn forget_varies(&self, books: &Books, selectors: &[Selector], effect: Effect) {
        if effect == Effect::Remove && selectors.contains(&Selector::All) && books.index.is_empty() {
            self.map.clear();
        }
    }

    /// The response that was stored under this number, if it still is, and the bytes that it is charged with. Nobody has asked
    /// for it: it does not count as a hit.
    pub(super) fn by_id(&self, id: EntryId) -> Option<(Arc<StoredResponse>, u64)> {
        let books = self.books.lock();
        let (key, bytes) = books.index.get(id)?;
        match self.map.peek(key) {
            Some(Slot::Response { id: found, response, vouched, .. }) if found == id => {
                (!is_gone(self.bans_in_force(), vouched, &response)).then_some((response, bytes))
            }
            _ => None,
        }
    }

    /// Bans in force.
    pub fn bans(&self) -> usize {
        self.bans.load().len()
    }
}

/// Finds through the index what these name, as far as that goes.
#[expect(clippy::mutable_key_type, reason = "what a regular expression caches is no part of its hash")]
fn find(books: &Books, selectors: &[Selector]) -> Work {
    let mut named = vec![Count::default(); selectors.len()];
    let (mut ids, mut unfound, mut found) = (Ids::default(), Vec::new(), 0);
    let mut distinct = HashSet::new();
    for (at, selector) in selectors.iter().enumerate().filter(|(_, selector)| distinct.insert(*selector)) {
        if selector.is_lazy() || found > FOUND_AT_ONCE {
            unfound.push(at);
            continue;
        }
        let named_by = books.index.find(selector);
        found += named_by.len();
        ids.reserve(named_by.len());
        for id in named_by {
            if let Some((_, bytes)) = books.index.get(id).filter(|_| ids.insert(id)) {
                named[at].add(bytes);
            }
        }
    }
    Work { stage: Stage::Waiting, ids, unfound, named }
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
            memory.sweep();
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
        assert!(!purged.is_counted);
        memory.sweep();
        assert_eq!(entries(&purged.ban.unwrap().named()), [1, 2, 1]);
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
        let ban = purged.ban.unwrap();
        assert_eq!((purged.named[0].entries, ban.work.lock().unfound.as_slice()), (20, &[3, 4, 5][..]));
        assert!((0..20).all(|n| state(&memory, &format!("/{n}")) == State::Absent));
        memory.sweep();
        assert_eq!(ban.named().iter().map(|count| count.entries).collect::<Vec<_>>(), [20, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_lookup_that_began_before_a_ban_was_lifted_finds_nothing_that_it_removed() {
        let memory = filled(20, "t");
        memory.purge(&[Selector::tag("t").unwrap()], Effect::Remove);
        // As a lookup does it, with a sweep between its steps.
        let bans = memory.bans_in_force();
        let Some(Slot::Response { response, vouched, .. }) = memory.map.get(&key("/7")) else {
            panic!("it is still there")
        };
        memory.sweep();
        assert!(memory.bans_in_force().is_none() && is_gone(bans, vouched, &response));
    }

    #[test]
    fn a_purge_that_says_the_same_as_one_that_waits_joins_it() {
        for effect in [Effect::Remove, Effect::Expire(NOW)] {
            let memory = filled(20, "t");
            let tag = [Selector::tag("t").unwrap()];
            let first = memory.purge(&tag, effect);
            memory.insert(&key("/0"), response("/0", &["t"], 10), memory.begin(), MANY).unwrap();
            assert_eq!(state(&memory, "/0"), State::Fresh);
            let second = memory.purge(&tag, effect);
            assert_eq!((first.total().entries, second.total().entries, memory.bans()), (20, 0, 1));
            let expected = if effect == Effect::Remove { State::Absent } else { State::Expired };
            assert_eq!(state(&memory, "/0"), expected, "what has come meanwhile is meant by the second");
            memory.insert(&key("/1"), response("/1", &["t"], 10), memory.begin(), MANY).unwrap();
            memory.sweep();
            assert_eq!((state(&memory, "/0"), state(&memory, "/1")), (expected, State::Fresh));
            assert_eq!((memory.bans(), second.ban.unwrap().named()[0].entries), (0, 21));
        }
    }

    #[test]
    fn everything_goes_with_what_selects_among_variants() {
        let memory = filled(20, "t");
        let vary = crate::rules::key::Vary::parse(
            Fields::new(&[("vary", b"accept")]),
            &crate::rules::testing::policy(),
        );
        memory.note_vary(&key("/v"), &vary.unwrap());
        memory.purge(&[Selector::All], Effect::Remove);
        memory.sweep();
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
        memory.sweep();
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
        Sweep,
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
            1 => Just(Step::Sweep),
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
                        purges.push((purged.sequence, selector));
                    }
                    Step::Sweep => drop(memory.sweep()),
                }
                for page in pages {
                    let expected = expected.get(page).map_or(State::Absent, |stored| {
                        if stored.expired { State::Expired } else { State::Fresh }
                    });
                    prop_assert_eq!(state(&memory, page), expected, "{}", page);
                }
            }
            memory.sweep();
            prop_assert_eq!((memory.entries(), memory.bans()), (expected.len(), 0));
            prop_assert!(memory.bytes() > 0 || expected.is_empty());
        }
    }
}
