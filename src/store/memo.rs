//! Which keys proved uncacheable or personalised a moment ago, so that their requests do not wait in line for a
//! response that none of them may share.
//!
//! A purge or a write that covers such a key ends the belief: a page that was missing may exist now.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;

use super::index::{EntryId, Index};
use crate::clock::Timestamp;
use crate::rules::key::CacheKey;
use crate::rules::lookup::PassReason;
use crate::rules::selector::{Facts, Selector};

/// The most keys remembered; beyond it the least recently used one is forgotten, which costs it one wait.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// Longer keys are not remembered: with the number this bounds the memo to some tens of MiB.
const MAX_KEY_BYTES: usize = 512;

/// Keys whose requests pass.
#[derive(Default)]
pub struct Memo(Mutex<Beliefs>);

struct Beliefs {
    keys: LruCache<CacheKey, Belief>,
    index: Index,
    last_id: EntryId,
}

#[derive(Clone, Copy)]
struct Belief {
    reason: PassReason,
    until: Timestamp,
    /// Its number in the index.
    id: EntryId,
}

impl Default for Beliefs {
    fn default() -> Self {
        // Grown on demand: the capacity is a bound, not a reservation.
        let mut keys = LruCache::unbounded();
        keys.resize(MAX_KEYS);
        Self { keys, index: Index::default(), last_id: 0 }
    }
}

impl Memo {
    /// Takes note that requests for `key`, known by `facts`, pass for `period`, and why.
    pub fn note(
        &self,
        key: &CacheKey,
        facts: Arc<Facts>,
        reason: PassReason,
        period: Duration,
        now: Timestamp,
    ) {
        if period.is_zero() || key.len() > MAX_KEY_BYTES {
            return;
        }
        let mut beliefs = self.0.lock();
        beliefs.last_id += 1;
        let id = beliefs.last_id;
        // What it replaces under the same key, or pushes out.
        let belief = Belief { reason, until: now.plus(period), id };
        if let Some((_, gone)) = beliefs.keys.push(key.clone(), belief) {
            beliefs.index.remove(gone.id);
        }
        beliefs.index.add(id, key.clone(), facts, 0);
    }

    /// Why requests for `key` pass, if they do.
    pub fn reason(&self, key: &CacheKey, now: Timestamp) -> Option<PassReason> {
        let mut beliefs = self.0.lock();
        let belief = *beliefs.keys.get(key)?;
        if belief.until <= now {
            beliefs.remove(key);
        }
        (belief.until > now).then_some(belief.reason)
    }

    /// Forgets this key: what came of a pass shows that it is cacheable now.
    pub fn forget_key(&self, key: &CacheKey) {
        self.0.lock().remove(key);
    }

    /// Forgets what `selectors` name.
    pub fn forget<'s>(&self, selectors: impl Iterator<Item = &'s Selector>) {
        for selector in selectors {
            // Others have their turn in between.
            let mut beliefs = self.0.lock();
            for id in beliefs.index.find(selector) {
                if let Some(key) = beliefs.index.remove(id) {
                    beliefs.keys.pop(&key);
                }
            }
        }
    }
}

impl Beliefs {
    fn remove(&mut self, key: &CacheKey) {
        if let Some(belief) = self.keys.pop(key) {
            self.index.remove(belief.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::{Fields, RequestHead};
    use crate::rules::tags::Tags;
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;

    const NOW: Timestamp = Timestamp(1_000_000);
    const PERIOD: Duration = Duration::from_secs(60);

    fn entry(path: &str) -> (CacheKey, Arc<Facts>) {
        let target = Target::new(Scheme::Http, "shop", path);
        let request =
            RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &[] };
        let policy = testing::policy();
        let facts = Facts::new(&request, &policy.query, Tags::new(["t".into()]));
        (CacheKey::primary("r", &request, &policy), Arc::new(facts))
    }

    #[test]
    fn a_belief_ends_with_its_period_or_a_purge_that_names_it() {
        let memo = Memo::default();
        let note = |path: &str| {
            let (key, facts) = entry(path);
            memo.note(&key, facts, PassReason::Personalised, PERIOD, NOW);
            key
        };
        let holds = |key: &CacheKey, now| memo.reason(key, now) == Some(PassReason::Personalised);
        let (a, b) = (note("/a"), note("/b"));
        assert!(holds(&a, NOW) && holds(&b, NOW.plus(PERIOD / 2)));
        memo.forget([Selector::prefix("/b").unwrap(), Selector::tag("other").unwrap()].iter());
        assert!(holds(&a, NOW) && !holds(&b, NOW));
        assert!(!holds(&a, NOW.plus(PERIOD)));
        let a = note("/a");
        note("/a");
        memo.forget([Selector::tag("t").unwrap()].iter());
        assert!(!holds(&a, NOW));
        memo.forget_key(&note("/c"));
        assert_eq!(memo.0.lock().index.len(), 0);
    }

    #[test]
    fn the_number_of_beliefs_is_bounded_in_index_and_list_alike() {
        let memo = Memo::default();
        for n in 0..MAX_KEYS.get() + 100 {
            let (key, facts) = entry(&format!("/{n}"));
            memo.note(&key, facts, PassReason::Uncacheable, PERIOD, NOW);
        }
        let beliefs = memo.0.lock();
        assert_eq!((beliefs.keys.len(), beliefs.index.len()), (MAX_KEYS.get(), MAX_KEYS.get()));
    }
}
