//! The order of all purges, which the instances share.
//!
//! A purge is in force in its own instance at once. Then it is appended to a log in the Redis, a stream that every instance
//! follows ([`follow`]): each purges the same, and acknowledges it. What is stored in the Redis carries a [`Mark`]: the last entry
//! that its writer had read when it began to fetch. A reader serves it if it has read that very entry too, and no purge after it
//! that names the page ([`Log::admits`]). So nothing has to be deleted, and nobody can bring back what was purged.
//!
//! A log can lose its end, in a failover, or all of it. Entries have nonces: what was written by who had read others than those
//! that are there now is refused without further ado, and who finds the last entry that it has read gone looks for the last one
//! that is still there, goes on from it, and tells its own lost purges again.
//!
//! Purges that are not in the log yet wait in a list, in order ([`append`]). What they name is refused too.
//!
//! | module | |
//! |---|---|
//! | [`acknowledge`] | who has carried a purge out |
//! | [`append`] | tells the others of this instance's purges |
//! | [`entry`] | what stands in the log |
//! | [`follow`] | hears of theirs |
//! | [`journal`] | keeps over a restart what could not be told |

pub mod acknowledge;
pub mod append;
pub mod entry;
pub mod follow;
pub mod journal;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock;
use crate::rules::selector::{Facts, Selector};
use crate::store::fence::{Fence, Sequence};
use entry::{Entry, Purge, What};

/// The part of the keys in which the log is, with those who follow it.
pub(super) const LOG: &str = "log";

/// The most selectors that wait to be told, and their bytes; beyond it they are told as one purge of everything.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_BYTES: usize = 4 << 20;
/// The most selectors, and their bytes, of purges that come while another one is being told and are told as one.
const MAX_TOGETHER: usize = 500;
const MAX_TOGETHER_BYTES: usize = 64 << 10;
/// How many of its own purges an instance can tell again when the log has lost them.
const MAX_TOLD: usize = 256;
/// For how long an instance is expected that the Redis no longer names: longer than its links need to be made anew.
const MET: Duration = Duration::from_secs(15);
/// Of how many own purges the place is remembered.
const MAX_PLACES: usize = 4096;
/// Those that came back longer ago are not told again to a log that begins anew: who has not read them drops all that he has.
const AGAIN: Duration = Duration::from_secs(6 * 60);
/// How many entries an instance remembers: what was written by who had read none of them is not served.
const MAX_HISTORY: usize = 16_384;

/// A place in the log: the id of an entry of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// When it was appended, by the clock of the Redis, in milliseconds.
    pub time: u64,
    /// Its number among those of that moment.
    pub number: u64,
}

impl Position {
    /// The place before this one, after which it is the next.
    fn before(self) -> Self {
        match self.number.checked_sub(1) {
            Some(number) => Self { number, ..self },
            None => Self { time: self.time.saturating_sub(1), number: u64::MAX },
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time, self.number)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (time, number) = text.split_once('-').ok_or(())?;
        let read = |digits: &str| digits.parse().map_err(|_| ());
        Ok(Self { time: read(time)?, number: read(number)? })
    }
}

/// An entry of the log, as it is told from all others: another one may have its place after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Its place.
    pub position: Position,
    /// Its nonce.
    pub nonce: Uuid,
}

/// What this instance knows of the log.
pub struct Log {
    state: Mutex<State>,
    /// Tells who appends that there is something.
    waits: Notify,
}

#[derive(Default)]
struct State {
    /// In the order in which this instance has read them.
    fence: Fence,
    /// Whether all is known that was in the log when the link to it was made.
    is_current: bool,
    /// The last entry of the log, when it was looked at last.
    last: Position,
    /// Own purges that have not come back out of the log.
    waiting: VecDeque<Waiting>,
    /// The latest ones that have.
    told: VecDeque<Told>,
    /// The last one that is no longer among them.
    forgotten: Option<Told>,
    /// Where the latest ones stand, of which more are remembered.
    places: VecDeque<(Uuid, Position)>,
    place: Option<Place>,
    /// When the Redis named an instance that follows the log.
    met: HashMap<String, Instant>,
    /// The latest entries read, and up to which purge of the fence each had come.
    history: VecDeque<(Mark, Sequence)>,
}

/// How far an instance has read.
#[derive(Clone, Copy, Debug)]
struct Place {
    position: Position,
    /// Of the entry there; `None` for a place before an entry.
    nonce: Option<Uuid>,
    /// When the log was found to be the one that was read, and read to its end.
    seen: Instant,
}

struct Waiting {
    purge: Arc<Purge>,
    /// Whether it is on its way, or there: then no other joins it.
    is_sent: bool,
    /// Where the log has it, once it does.
    at: Option<Position>,
}

impl From<Purge> for Waiting {
    fn from(purge: Purge) -> Self {
        Self { purge: purge.into(), is_sent: false, at: None }
    }
}

/// A purge that has come back out of the log.
#[derive(Clone)]
struct Told {
    purge: Arc<Purge>,
    at: Position,
    came: Instant,
}

/// How an instance stands to the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Touch {
    /// Whether it has read all that was in the log when the link to it was made.
    pub in_touch: bool,
    /// How much later than the last entry that it has read the last one was appended, when it looked last.
    pub behind_ms: u64,
    /// How long ago that was.
    pub seen_seconds: Option<f64>,
    /// Own purges that have not come back out of the log.
    pub untold: usize,
}

/// What an instance is told to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Orders {
    /// To purge what another has purged.
    Purge {
        /// What that names.
        selectors: Vec<Selector>,
        /// Whether it only expires.
        soft: bool,
    },
    /// To drop all: it may have missed purges.
    DropAll,
}

impl Orders {
    /// What is to be purged.
    pub fn selectors(&self) -> &[Selector] {
        match self {
            Self::Purge { selectors, .. } => selectors,
            Self::DropAll => &[Selector::All],
        }
    }
}

impl Log {
    /// One of which nothing is known yet, with purges that wait from before a restart.
    pub fn new(waiting: Vec<Purge>) -> Self {
        // The log may have them already: no other joins them.
        let sent = |purge: Purge| Waiting { is_sent: true, ..purge.into() };
        let state = State { waiting: waiting.into_iter().map(sent).collect(), ..State::default() };
        Self { state: Mutex::new(state), waits: Notify::new() }
    }

    /// Tells the others of a purge, which is about to be in force here. Returns what it is called in the log.
    pub fn announce(&self, selectors: &[Selector], soft: bool) -> Uuid {
        let mut state = self.state.lock();
        let joined = state.waiting.back_mut().filter(|last| last.takes(selectors, soft));
        match joined {
            Some(last) => Arc::make_mut(&mut last.purge).selectors.extend_from_slice(selectors),
            None => {
                let purge = Purge { nonce: Uuid::new_v4(), selectors: selectors.into(), soft };
                state.waiting.push_back(purge.into());
            }
        }
        state.bound();
        let nonce = state.waiting.back().map(|last| last.purge.nonce);
        drop(state);
        self.waits.notify_one();
        nonce.unwrap_or_default()
    }

    /// Where the log has a purge of this instance.
    ///
    /// # Errors
    ///
    /// Why nobody knows.
    pub fn whereabouts(&self, nonce: Uuid) -> Result<Position, &'static str> {
        let state = self.state.lock();
        let waiting = state.waiting.iter().find(|waiting| waiting.purge.nonce == nonce);
        let known = state.places.iter().rev().find(|(other, _)| *other == nonce).map(|(_, at)| *at);
        match waiting {
            Some(waiting) => waiting.at.ok_or("it waits to be told to them"),
            None => known.ok_or("it was told too long ago"),
        }
    }

    /// The last entry that this instance has read: what is fetched from now on has missed no purge up to it. `None` while nobody
    /// knows.
    pub fn mark(&self) -> Option<Mark> {
        let state = self.state.lock();
        state.history.back().map(|(mark, _)| *mark).filter(|_| state.is_current)
    }

    /// Whether what was fetched since `mark` may be served: this instance has read that entry, and no purge after it that means
    /// this.
    pub fn admits(&self, mark: Mark, facts: &Facts) -> bool {
        let state = self.state.lock();
        let waits =
            |waiting: &Waiting| waiting.purge.selectors.iter().any(|selector| selector.matches(facts));
        state.is_current
            && state.read_at(mark).is_some_and(|begun| state.fence.admits(begun, facts))
            && !state.waiting.iter().any(waits)
    }

    /// Whether all is known that the log held when the link to it was made.
    pub fn is_current(&self) -> bool {
        self.state.lock().is_current
    }

    /// How many purges of this instance have not come back out of the log.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// The next one to be appended; from now on it is on its way.
    pub(super) fn next(&self) -> Option<Arc<Purge>> {
        let mut state = self.state.lock();
        let next = state.waiting.iter_mut().find(|waiting| waiting.at.is_none())?;
        next.is_sent = true;
        Some(next.purge.clone())
    }

    /// Those that are not in the log, as far as is known.
    pub(super) fn untold(&self) -> Vec<Arc<Purge>> {
        let state = self.state.lock();
        let untold = state.waiting.iter().filter(|waiting| waiting.at.is_none());
        untold.map(|waiting| waiting.purge.clone()).collect()
    }

    /// Takes note of where the log has a purge of ours.
    pub(super) fn appended(&self, nonce: Uuid, at: Position) {
        let mut state = self.state.lock();
        // It may have come back before the answer to who has appended it.
        if let Some(waiting) = state.waiting.iter_mut().find(|waiting| waiting.purge.nonce == nonce) {
            waiting.at = Some(at);
        }
    }

    fn place(&self) -> Option<Place> {
        self.state.lock().place
    }

    /// From now on it reads after this place, where nothing is known of what came before.
    fn start_at(&self, place: Place) {
        let mut state = self.state.lock();
        state.is_current = false;
        state.history.clear();
        state.place = Some(place);
    }

    /// The log is the one it was, up to the place of this instance; its last entry is at `last`.
    fn seen(&self, now: Instant, last: Position) {
        let mut state = self.state.lock();
        state.last = last;
        // Only who has read all of it has missed nothing until now.
        if let Some(place) = state.place.as_mut().filter(|place| place.position >= last) {
            place.seen = now;
        }
    }

    /// How this instance stands to the log.
    pub fn touch(&self, now: Instant) -> Touch {
        let state = self.state.lock();
        let place = state.place;
        Touch {
            in_touch: state.is_current,
            behind_ms: place.map_or(0, |place| state.last.time.saturating_sub(place.position.time)),
            seen_seconds: place.map(|place| now.saturating_duration_since(place.seen).as_secs_f64()),
            untold: state.waiting.len(),
        }
    }

    /// All up to `target` was there when the link was made.
    fn reaches(&self, target: Position) {
        let mut state = self.state.lock();
        state.is_current |= state.place.is_some_and(|place| place.position >= target);
    }

    /// Own purges that the log was said to have.
    fn said_to_be_there(&self) -> Vec<Uuid> {
        let state = self.state.lock();
        state
            .waiting
            .iter()
            .filter(|waiting| waiting.at.is_some())
            .map(|waiting| waiting.purge.nonce)
            .collect()
    }

    /// Tells those again that the log has lost: it ends at `last`, before them, or they did not come by.
    fn tell_again(&self, said_to_be_there: &[Uuid], last: Position) {
        let mut state = self.state.lock();
        let read = state.place.map(|place| place.position);
        let mut is_any = false;
        for waiting in &mut state.waiting {
            let is_lost = |at: Position| at > last || Some(at) <= read;
            if waiting.at.is_some_and(is_lost) && said_to_be_there.contains(&waiting.purge.nonce) {
                (waiting.at, is_any) = (None, true);
            }
        }
        if is_any {
            self.waits.notify_one();
        }
    }

    /// Nobody knows what is in the log now.
    pub(super) fn lose(&self) {
        self.state.lock().is_current = false;
    }

    /// Takes the next entry in. Returns what this instance has to do, unless that is done: when this returns, what the purge
    /// means is refused.
    fn take(&self, entry: Entry) -> Option<Orders> {
        let mut state = self.state.lock();
        let Entry { position, nonce, what } = entry;
        if let Some(place) = &mut state.place {
            (place.position, place.nonce) = (position, Some(nonce));
        }
        let (sequence, orders) = match what {
            What::Begun => (state.fence.now(), None),
            What::Purge { selectors, soft } => {
                let sequence = state.fence.advance(&selectors);
                (sequence, (!state.is_own(nonce, position)).then_some(Orders::Purge { selectors, soft }))
            }
        };
        state.history.push_back((Mark { position, nonce }, sequence));
        if state.history.len() > MAX_HISTORY {
            state.history.pop_front();
        }
        orders
    }

    /// Takes note of who follows the log.
    fn met(&self, followers: impl Iterator<Item = String>, now: Instant) {
        let mut state = self.state.lock();
        state.met.extend(followers.map(|name| (name, now)));
        state.met.retain(|_, met| now.saturating_duration_since(*met) < MET);
    }

    /// Who has followed the log a moment ago, though the Redis may have forgotten it.
    fn lately_met(&self, now: Instant) -> Vec<String> {
        let state = self.state.lock();
        let lately = state.met.iter().filter(|(_, met)| now.saturating_duration_since(**met) < MET);
        lately.map(|(name, _)| name.clone()).collect()
    }

    /// Whether one of these has been read.
    fn knows_one_of(&self, entries: &[Entry]) -> bool {
        let state = self.state.lock();
        entries.iter().any(|entry| state.read_at(entry.mark()).is_some())
    }

    /// Whether this is the beginning of a log other than the one that has been read.
    fn is_another(&self, entry: &Entry) -> bool {
        let state = self.state.lock();
        entry.what == What::Begun && !state.history.is_empty() && state.read_at(entry.mark()).is_none()
    }

    /// The log has lost its end, or all; `tail` is what is there now. Own purges that it has lost are told again. Reading goes on after
    /// the last entry that both know.
    fn go_back(&self, tail: &[Entry], now: Instant) -> Lost {
        let there: HashSet<Mark> = tail.iter().map(Entry::mark).collect();
        let nonces: HashSet<Uuid> = there.iter().map(|mark| mark.nonce).collect();
        let mut state = self.state.lock();
        state.is_current = false;
        let common = state.history.iter().rposition(|(mark, _)| there.contains(mark));
        let common = common.map(|at| {
            state.history.truncate(at + 1);
            state.history[at].0
        });
        let read = state.place.map(|place| place.position);
        if let (Some(mark), Some(place)) = (common, &mut state.place) {
            (place.position, place.nonce) = (mark.position, Some(mark.nonce));
        }
        let lost = match common {
            Some(_) => Lost::End,
            // What is later than all that was read is the same log, cut off at its beginning.
            None if tail
                .first()
                .is_some_and(|first| first.what != What::Begun && Some(first.position) > read) =>
            {
                Lost::Beginning
            }
            None => Lost::All,
        };
        let is_lost = |told: &Told| match lost {
            Lost::End => {
                common.is_some_and(|mark| told.at > mark.position) && !nonces.contains(&told.purge.nonce)
            }
            // Who has not read the older ones drops all.
            Lost::Beginning | Lost::All => {
                now.saturating_duration_since(told.came) < AGAIN && !nonces.contains(&told.purge.nonce)
            }
        };
        let (again, told): (VecDeque<_>, _) = std::mem::take(&mut state.told).into_iter().partition(is_lost);
        state.told = told;
        for waiting in state.waiting.iter_mut().filter(|waiting| !nonces.contains(&waiting.purge.nonce)) {
            waiting.at = None;
        }
        for Told { purge, .. } in again.into_iter().rev() {
            state.waiting.push_front(Waiting { purge, is_sent: true, at: None });
        }
        if state.forgotten.take_if(|forgotten| is_lost(forgotten)).is_some() {
            // It is not known any longer what that was.
            state.waiting.push_front(Purge::of_everything().into());
        }
        state.bound();
        drop(state);
        self.waits.notify_one();
        lost
    }
}

/// What of a log is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// Its end.
    End,
    /// What was to be read next, and all before.
    Beginning,
    /// All: it is another one.
    All,
}

/// Whether these are no more than so many, and no more than so many bytes.
fn fits<'s>(selectors: impl Iterator<Item = &'s Selector>, max: usize, max_bytes: usize) -> bool {
    let add = |(count, bytes): (usize, usize), selector: &Selector| (count + 1, bytes + selector.size());
    let (count, bytes) = selectors.fold((0, 0), add);
    count <= max && bytes <= max_bytes
}

impl Waiting {
    /// Whether another purge can be told with it.
    fn takes(&self, selectors: &[Selector], soft: bool) -> bool {
        let together = self.purge.selectors.iter().chain(selectors);
        !self.is_sent && self.purge.soft == soft && fits(together, MAX_TOGETHER, MAX_TOGETHER_BYTES)
    }
}

impl State {
    /// Up to which purge of the fence this instance had come with this entry, if it has read it.
    fn read_at(&self, mark: Mark) -> Option<Sequence> {
        let at = self.history.partition_point(|(read, _)| read.position < mark.position);
        self.history.get(at).filter(|(read, _)| *read == mark).map(|(_, sequence)| *sequence)
    }

    /// Whether a purge that has come out of the log is one of ours; it waits no longer then.
    fn is_own(&mut self, nonce: Uuid, at: Position) -> bool {
        let own = self.waiting.iter().position(|waiting| waiting.purge.nonce == nonce);
        let Some(own) = own.and_then(|own| self.waiting.remove(own)) else { return false };
        self.places.push_back((nonce, at));
        if self.places.len() > MAX_PLACES {
            self.places.pop_front();
        }
        self.told.push_back(Told { purge: own.purge, at, came: clock::start() });
        let is_too_much = |told: &VecDeque<Told>| {
            let selectors = told.iter().flat_map(|told| &told.purge.selectors);
            told.len() > MAX_TOLD || !fits(selectors, MAX_WAITING / 2, MAX_WAITING_BYTES / 2)
        };
        while is_too_much(&self.told) {
            self.forgotten = self.told.pop_front();
        }
        true
    }

    /// Makes one purge of everything of what waits where that is too much.
    fn bound(&mut self) {
        let selectors = self.waiting.iter().flat_map(|waiting| &waiting.purge.selectors);
        if !fits(selectors, MAX_WAITING, MAX_WAITING_BYTES) {
            self.waiting = VecDeque::from([Purge::of_everything().into()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_purges_that_can_be_told_again_are_bounded_by_their_bytes_too() {
        let log = Log::new(Vec::new());
        for time in 0..200 {
            // Far from what their number may be.
            let selectors =
                [0; 2].map(|_| Selector::prefix(&format!("/{time}{}", "x".repeat(8000))).unwrap());
            let nonce = log.announce(&selectors, false);
            let what = What::Purge { selectors: selectors.to_vec(), soft: false };
            let orders = log.take(Entry { position: Position { time, number: 0 }, nonce, what });
            assert_eq!((orders, log.waiting()), (None, 0), "it is an own one");
        }
        let state = log.state.lock();
        let bytes: usize = state.told.iter().flat_map(|told| &told.purge.selectors).map(Selector::size).sum();
        assert!(bytes <= MAX_WAITING_BYTES / 2 && state.told.len() > 100, "{bytes}");
        assert!(state.forgotten.is_some());
    }
}
