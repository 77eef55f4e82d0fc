//! One response on its way from the origin, and its readers.
//!
//! Whoever asks first leads: a fetch of its own task fills the response in, and the leader reads along like
//! everyone who comes later. So no reader, however slow or gone, holds back the fetch or the others.
//!
//! A fill keeps all chunks as long as they may be stored, so that a later reader starts from the beginning. Once
//! it is clear that the response will not be stored (it is personal, or too large), the fill becomes a window: no
//! new readers, and a chunk is let go when the slowest reader has taken it. Then the fetch waits for the slowest
//! reader, whose own write timeout bounds that.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::fence::Sequence;
use super::response::{Head, StoredResponse};
use crate::rules::admission::DiscardReason;
use crate::rules::freshness::StandIn;
use crate::rules::guard::Witness;
use crate::rules::key::{CacheKey, Vary};
use crate::rules::selector::Facts;
use crate::rules::unavailable::Unavailable;

/// Bytes a window holds before the fetch waits.
const WINDOW: u64 = 128 << 10;

/// What a chunk takes beside its bytes: an origin may send them one at a time.
const CHUNK_OVERHEAD: u64 = 96;

fn charge(chunk: &Bytes) -> u64 {
    chunk.len() as u64 + CHUNK_OVERHEAD
}

/// The most interim responses (1xx) that a fetch hands on, and their fields' bytes together; more are dropped.
const MAX_INTERIM: usize = 16;
const MAX_INTERIM_BYTES: usize = 16 << 10;

/// The head of a response under way.
#[derive(Debug)]
pub struct Streaming {
    /// Status and fields, as they are stored and shared.
    pub head: Head,
    /// The head for the one who caused the fetch, where it has fields that are not shared.
    pub for_leader: Option<Head>,
    /// The length of its body, where the origin told.
    pub length: Option<u64>,
    /// What selects among its variants, and the key of this one.
    pub vary: Vary,
    /// The key under which it is stored, of its variant.
    pub key: CacheKey,
    /// `None` when it is about to be stored.
    pub discard: Option<DiscardReason>,
    /// How old it was on arrival, in seconds, where the origin said so.
    pub age: Option<u64>,
    /// Who may read along; `None`: everyone.
    pub witness: Option<Witness>,
    /// Whether it is for the one who caused it only, if it is not stored: others look again.
    pub is_personal: bool,
    /// Whether nobody may before the whole body has been looked at.
    pub is_sealed: bool,
}

/// What a fetch turned out to be, as its readers see it.
#[derive(Clone, Debug)]
pub enum Opening {
    /// A new response; its body is read from the fill.
    Streaming(Arc<Streaming>),
    /// The stored response still holds (304); with a reason when it is nevertheless not stored any longer.
    Validated(Arc<StoredResponse>, Option<DiscardReason>),
    /// The origin failed, and the stored response stands in for it.
    StandIn(Arc<StoredResponse>, StandIn),
    /// What is stored has changed meanwhile: look again.
    Again,
    /// Another instance has fetched it, and it is stored now: look again.
    Recalled,
    /// The origin failed, with what the operator's log says of it.
    Failed(Failure, Arc<str>),
}

/// What who waits for the head of a response hears.
#[derive(Clone, Debug)]
pub enum News {
    /// An interim response (RFC 9110 section 15.2); more will follow.
    Interim(Arc<Head>),
    /// The final head, or what came instead.
    Opening(Opening),
}

/// How the origin failed before a response head arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke.
    Unreachable,
    /// It took too long.
    Timeout,
    /// No server could be asked.
    Unavailable(Unavailable),
    /// Any of these, and what is stored may not be served without it.
    Unvalidated,
    /// The fetch itself broke; a bug on our side.
    Internal,
}

/// The bytes that all fills together hold.
#[derive(Debug)]
pub struct InFlight {
    used: AtomicU64,
    max: u64,
}

impl InFlight {
    /// A budget of `max` bytes.
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), max })
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|total| *total <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(super) fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct State {
    interim: Vec<Arc<Head>>,
    opening: Option<Opening>,
    chunks: VecDeque<Bytes>,
    /// The number of the first chunk held.
    first: u64,
    held: u64,
    reserved: u64,
    window: bool,
    /// By reader, the number of the chunk it takes next.
    readers: HashMap<u64, u64>,
    last_reader: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Broken,
}

/// A response on its way. Held by its fetch, its readers and the table of fills.
#[derive(Debug)]
pub struct Fill {
    /// What it is known by until its head arrives.
    pub facts: Facts,
    /// When it began, in the order of purges.
    pub begun: Sequence,
    state: Mutex<State>,
    /// Counts changes, for readers to wait on.
    version: watch::Sender<u64>,
    /// Tells the fetch that a reader took a chunk or left.
    taken: Notify,
    in_flight: Arc<InFlight>,
}

impl Fill {
    /// A fill that has just begun.
    pub fn new(facts: Facts, begun: Sequence, in_flight: Arc<InFlight>) -> Self {
        Self {
            facts,
            begun,
            state: Mutex::default(),
            version: watch::Sender::new(0),
            taken: Notify::new(),
            in_flight,
        }
    }

    /// Whether nobody reads along.
    pub fn is_unread(&self) -> bool {
        self.state.lock().readers.is_empty()
    }

    /// A reader from the first chunk on; `None` when the beginning has been let go already.
    pub fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state.lock();
        if state.first > 0 {
            return None;
        }
        state.last_reader += 1;
        let id = state.last_reader;
        state.readers.insert(id, 0);
        Some(Reader { fill: self.clone(), id, interim: 0, version: self.version.subscribe() })
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.in_flight.release(self.state.get_mut().reserved);
    }
}

/// The filling end. Dropping it before the end breaks the response off for its readers.
#[derive(Debug)]
pub struct Filler(pub Arc<Fill>);

/// Nobody reads a response that nobody may store: its fetch may stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned;

impl Filler {
    /// Hands an interim response on. Returns whether there was room for it.
    pub fn interim(&self, head: Head) -> bool {
        let mut state = self.0.state.lock();
        let bytes: usize = state.interim.iter().map(|head| head.len()).sum();
        let fits = state.interim.len() < MAX_INTERIM && bytes + head.len() <= MAX_INTERIM_BYTES;
        if fits {
            state.interim.push(Arc::new(head));
        }
        drop(state);
        self.0.changed();
        fits
    }

    /// Announces the head. A response that will not be stored becomes a window.
    pub fn open(&self, opening: Opening) {
        let mut state = self.0.state.lock();
        if let Opening::Streaming(streaming) = &opening {
            state.window |= streaming.discard.is_some();
        }
        state.opening = Some(opening);
        drop(state);
        self.0.changed();
    }

    /// Hands a chunk to the readers. Returns whether the response is still whole, i.e. may be stored; waits
    /// while a window is full.
    pub async fn push(&self, chunk: Bytes) -> Result<bool, Abandoned> {
        let whole = self.append(chunk);
        self.0.changed();
        if whole { Ok(true) } else { self.wait_for_room().await.map(|()| false) }
    }

    /// Takes the last chunk in without telling the readers yet: a client that has its last byte may ask again at
    /// once, and shall find the response stored. [`Filler::finish`] tells them.
    pub fn append_last(&self, chunk: Bytes) {
        self.append(chunk);
    }

    fn append(&self, chunk: Bytes) -> bool {
        let mut state = self.0.state.lock();
        if !chunk.is_empty() {
            let charge = charge(&chunk);
            if !state.window {
                if self.0.in_flight.reserve(charge) {
                    state.reserved += charge;
                } else {
                    state.window = true;
                }
            }
            state.held += charge;
            state.chunks.push_back(chunk);
        }
        !state.window
    }

    /// Gives up storing: from now on chunks are let go once every reader has taken them.
    pub fn stop_keeping(&self) {
        self.0.state.lock().window = true;
    }

    /// See [`Fill::is_unread`].
    pub fn is_unread(&self) -> bool {
        self.0.is_unread()
    }

    /// All chunks, if none has been let go.
    pub fn body(&self) -> Option<Bytes> {
        let state = self.0.state.lock();
        if state.window {
            return None;
        }
        // One allocation of exactly the body's length: chunks pin larger read buffers.
        let mut body = Vec::with_capacity(state.chunks.iter().map(Bytes::len).sum());
        state.chunks.iter().for_each(|chunk| body.extend_from_slice(chunk));
        Some(body.into())
    }

    /// The response is complete.
    pub fn finish(self) {
        self.end(End::Complete);
    }

    fn end(&self, end: End) {
        self.0.state.lock().end.get_or_insert(end);
        self.0.changed();
    }

    async fn wait_for_room(&self) -> Result<(), Abandoned> {
        loop {
            let taken = self.0.taken.notified();
            tokio::pin!(taken);
            // Registered before the look, so that a reader in between is not missed.
            taken.as_mut().enable();
            {
                let mut state = self.0.state.lock();
                state.let_go();
                if state.readers.is_empty() {
                    return Err(Abandoned);
                }
                if state.held <= WINDOW {
                    return Ok(());
                }
            }
            taken.await;
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.end(End::Broken);
    }
}

impl State {
    /// The chunk of this number, if it is held.
    fn chunk(&self, number: u64) -> Option<&Bytes> {
        self.chunks.get(usize::try_from(number - self.first).unwrap_or(usize::MAX))
    }

    /// Lets go of the chunks that every reader has taken.
    fn let_go(&mut self) {
        let slowest = self.readers.values().copied().min().unwrap_or(u64::MAX);
        while self.first < slowest {
            let Some(chunk) = self.chunks.pop_front() else {
                break;
            };
            self.held -= charge(&chunk);
            self.first += 1;
        }
    }
}

/// One reader of a fill.
#[derive(Debug)]
pub struct Reader {
    fill: Arc<Fill>,
    id: u64,
    /// The interim responses seen.
    interim: usize,
    version: watch::Receiver<u64>,
}

/// The fetch broke off in the middle of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenOff;

impl Reader {
    /// Waits for the head, or for the next interim response before it: those are for who caused the fetch only, since
    /// nothing in them tells whether they may be shared.
    pub async fn news(&mut self) -> News {
        let seen = self.interim;
        let news = self
            .until(|state, _| {
                if let Some(interim) = state.interim.get(seen) {
                    return Some(News::Interim(interim.clone()));
                }
                match (&state.opening, state.end) {
                    (Some(opening), _) => Some(News::Opening(opening.clone())),
                    (None, Some(_)) => {
                        let message = "the fetch ended without an answer".into();
                        Some(News::Opening(Opening::Failed(Failure::Internal, message)))
                    }
                    (None, None) => None,
                }
            })
            .await;
        self.interim += usize::from(matches!(news, News::Interim(_)));
        news
    }

    /// Whether a chunk is there that it has not read.
    pub fn has_next(&self) -> bool {
        let state = self.fill.state.lock();
        let next = state.readers.get(&self.id).and_then(|next| state.chunk(*next));
        next.is_some_and(|chunk| !chunk.is_empty())
    }

    /// The next chunk; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        let result = self
            .until(|state, id| {
                let next = *state.readers.get(&id)?;
                if let Some(chunk) = state.chunk(next).cloned() {
                    state.readers.insert(id, next + 1);
                    return Some(Ok(Some(chunk)));
                }
                state.end.map(|end| if end == End::Complete { Ok(None) } else { Err(BrokenOff) })
            })
            .await;
        self.fill.taken.notify_one();
        result
    }

    /// Waits until the response is complete, and stored or refused.
    pub async fn settled(mut self) {
        // It reads nothing, and must not hold back those who do.
        self.fill.state.lock().readers.remove(&self.id);
        self.fill.taken.notify_one();
        self.until(|state, _| state.end).await;
    }

    /// Waits for the head.
    pub async fn opening(&mut self) -> Opening {
        loop {
            if let News::Opening(opening) = self.news().await {
                return opening;
            }
        }
    }

    async fn until<T>(&mut self, mut look: impl FnMut(&mut State, u64) -> Option<T>) -> T {
        loop {
            // Seen before the look, so that a change in between wakes us.
            self.version.borrow_and_update();
            if let Some(found) = look(&mut self.fill.state.lock(), self.id) {
                return found;
            }
            // The sender lives in the fill that this reader holds.
            let _ = self.version.changed().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.fill.state.lock().readers.remove(&self.id);
        self.fill.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tags::Tags;
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;

    fn fill(max: u64) -> (Filler, Arc<Fill>) {
        let request = crate::rules::head::RequestHead {
            method: "GET",
            target: Target::new(Scheme::Http, "shop", "/"),
            fields: Default::default(),
            has_body: false,
            believed: &[],
        };
        let facts = Facts::new(&request, &testing::policy().query, Tags::default());
        let fill = Arc::new(Fill::new(facts, Sequence(0), InFlight::new(max)));
        (Filler(fill.clone()), fill)
    }

    async fn drain(mut reader: Reader) -> Result<Vec<u8>, BrokenOff> {
        let mut body = Vec::new();
        while let Some(chunk) = reader.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    #[tokio::test]
    async fn early_and_late_readers_get_the_whole_body() {
        let (filler, fill) = fill(1000);
        let early = tokio::spawn(drain(fill.join().unwrap()));
        assert_eq!(filler.push("one ".into()).await, Ok(true));
        let late = tokio::spawn(drain(fill.join().unwrap()));
        assert_eq!(filler.push("two".into()).await, Ok(true));
        assert_eq!(filler.body().unwrap(), "one two");
        filler.finish();
        assert_eq!(early.await.unwrap().unwrap(), b"one two");
        assert_eq!(late.await.unwrap().unwrap(), b"one two");
        assert_eq!(drain(fill.join().unwrap()).await.unwrap(), b"one two");
    }

    #[tokio::test]
    async fn a_dropped_fill_breaks_off_and_never_looks_complete() {
        let (filler, fill) = fill(1000);
        let reader = fill.join().unwrap();
        filler.push("half".into()).await.unwrap();
        drop(filler);
        assert_eq!(drain(reader).await, Err(BrokenOff));
        let news = fill.join().unwrap().news().await;
        assert!(matches!(news, News::Opening(Opening::Failed(Failure::Internal, _))));
    }

    #[tokio::test]
    async fn interim_responses_come_once_in_order_and_before_the_head() {
        let (filler, fill) = fill(1000);
        let mut reader = fill.join().unwrap();
        let head = |status| Head::from_fields(status, std::iter::empty());
        assert!(filler.interim(head(102)) && filler.interim(head(103)));
        filler.open(Opening::Again);
        for status in [102, 103] {
            assert!(matches!(reader.news().await, News::Interim(head) if head.status == status));
        }
        assert!(matches!(reader.news().await, News::Opening(Opening::Again)));
        let large = Head::from_fields(103, [("link", &[b'x'; MAX_INTERIM_BYTES][..])].into_iter());
        assert!(!filler.interim(large), "too many bytes");
        while filler.interim(head(103)) {}
        assert_eq!(fill.state.lock().interim.len(), MAX_INTERIM);
    }

    #[tokio::test]
    async fn a_window_waits_for_its_slowest_reader_and_lets_go() {
        let (filler, fill) = fill(u64::MAX);
        let mut slow = fill.join().unwrap();
        filler.stop_keeping();
        let chunk = Bytes::from(vec![0; 80_000]);
        assert_eq!(filler.push(chunk.clone()).await, Ok(false));
        let pushing = tokio::spawn(async move {
            let result = filler.push(Bytes::from(vec![1; 80_000])).await;
            (filler, result)
        });
        tokio::task::yield_now().await;
        assert!(!pushing.is_finished(), "above the window");
        assert_eq!(slow.chunk().await.unwrap().unwrap().len(), 80_000);
        let (filler, result) = pushing.await.unwrap();
        assert_eq!(result, Ok(false));
        assert!(fill.join().is_none(), "its beginning is gone");
        assert!(filler.body().is_none());
        drop(slow);
        assert_eq!(filler.push("more".into()).await, Err(Abandoned));
    }

    #[tokio::test]
    async fn bytes_under_way_have_a_budget_and_are_given_back() {
        let (filler, fill) = fill(10 + CHUNK_OVERHEAD);
        let reader = fill.join().unwrap();
        assert_eq!(filler.push("0123456789".into()).await, Ok(true));
        assert_eq!(filler.push("x".into()).await, Ok(false));
        let in_flight = fill.in_flight.clone();
        assert_eq!(in_flight.used(), 10 + CHUNK_OVERHEAD);
        filler.finish();
        assert_eq!(drain(reader).await.unwrap(), b"0123456789x");
        drop(fill);
        assert_eq!(in_flight.used(), 0);
    }
}
