//! A purge that is in force and still to be carried out: what lookups hold against what they find.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;

use super::fence::Sequence;
use super::index::EntryId;
use super::response::StoredResponse;
use crate::clock::Timestamp;
use crate::rules::selector::Selector;

/// Entries.
pub(super) type Ids = HashSet<EntryId, DefaultHashBuilder>;

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
    pub(super) fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }
}

/// What lookups hold against what they find, while it is still to be carried out.
#[derive(Debug)]
pub struct Ban {
    pub(super) selectors: Arc<[Selector]>,
    pub(super) effect: Effect,
    /// Entries that are vouched for up to here are not meant.
    sequence: AtomicU64,
    pub(super) work: Mutex<Work>,
}

/// How far it is.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) stage: Stage,
    /// Entries found through the index.
    pub(super) ids: Ids,
    /// Selectors whose entries are still to be found, by a look at every one.
    pub(super) unfound: Vec<usize>,
    /// Per selector.
    pub(super) named: Vec<Count>,
}

/// Whether it is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A purge of the same may join it.
    Waiting,
    /// A sweep has taken it.
    UnderWay,
    /// Nothing that it names is left.
    Done,
}

impl Ban {
    /// A purge in force from `sequence` on.
    pub(super) fn new(selectors: &[Selector], effect: Effect, sequence: Sequence, work: Work) -> Self {
        let sequence = AtomicU64::new(sequence.0);
        Self { selectors: selectors.into(), effect, sequence, work: Mutex::new(work) }
    }

    /// What it names.
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// Whether it has been carried out.
    pub fn is_done(&self) -> bool {
        self.work.lock().stage == Stage::Done
    }

    /// What its selectors have named.
    pub fn named(&self) -> Vec<Count> {
        self.work.lock().named.clone()
    }

    pub(super) fn sequence(&self) -> Sequence {
        Sequence(self.sequence.load(Ordering::Acquire))
    }

    /// Whether a purge of the same, which comes while it waits, can leave the work to it.
    pub(super) fn takes(&self, selectors: &[Selector], effect: Effect) -> bool {
        let same_effect = matches!(
            (self.effect, effect),
            (Effect::Remove, Effect::Remove) | (Effect::Expire(_), Effect::Expire(_))
        );
        same_effect && *self.selectors == *selectors && self.work.lock().stage == Stage::Waiting
    }

    /// From now on it means what has come meanwhile too.
    pub(super) fn extend_to(&self, sequence: Sequence) {
        self.work.lock().unfound = (0..self.selectors.len()).collect();
        self.sequence.store(sequence.0, Ordering::Release);
    }
}

/// Holds bans against a response that is vouched for up to a purge: whether it is gone. One that they let expire has
/// expired then.
pub(super) fn is_gone(
    bans: Option<Arc<Vec<Arc<Ban>>>>,
    vouched: Sequence,
    response: &StoredResponse,
) -> bool {
    let against = |ban: &&Arc<Ban>| {
        ban.sequence() > vouched && ban.selectors.iter().any(|selector| selector.matches(&response.facts))
    };
    bans.iter().flat_map(|bans| bans.iter()).filter(against).any(|ban| match ban.effect {
        Effect::Remove => true,
        Effect::Expire(at) => {
            response.expire(at);
            false
        }
    })
}
