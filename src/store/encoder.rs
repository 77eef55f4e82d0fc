//! The threads that make encoded forms, away from the requests.
//!
//! Few, and of low priority: a form saves bytes, and may come a moment later when requests need the processors. Quick forms
//! come first, also while another is under way; what is asked for often is encoded once more with all effort when nothing
//! else is to be done. A form of what has been purged or replaced meanwhile is given up, and one that comes late undoes
//! nothing: it is put in its place only where its response is still stored, under the lock that purges take.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::forms::{Form, Forms};
use super::memory::Memory;
use super::response::StoredResponse;
use super::sendable::{MIN_LENGTH, Sendable};
use crate::codec::{self, MAX_PADDING};
use crate::rules::encodable::Level;
use crate::rules::encoding::Coding;

/// The most forms of each level that wait to be made; what is asked for beyond that is asked for again.
const MAX_WAITING: usize = 1024;

/// The most threads; of a machine with fewer processors a quarter.
const MAX_THREADS: usize = 4;

/// How much less than requests they are worth to the scheduler, from 0 to 19.
const NICE: i32 = 10;

/// The most clients that wait for forms, since they refuse the identity form.
const MAX_AT_ONCE: usize = 4;

/// The most memory, in KiB, that bodies which are encoded on their way take together ([`codec::Stream::memory`]).
const MAX_STREAM_MEMORY: usize = 128 * 1024;

/// A number of bytes by which a length is blurred.
pub fn random_padding() -> u8 {
    let [random, ..] = *Uuid::new_v4().as_bytes();
    // A little more often short than long, which does not matter.
    random % (MAX_PADDING + 1)
}

/// What a form is made of.
struct Source {
    body: Bytes,
    etag: Option<Box<[u8]>>,
}

impl Source {
    fn of(stored: &StoredResponse) -> Self {
        Self { body: stored.body.clone(), etag: stored.head.etag().map(Into::into) }
    }
}

/// A form to be made.
struct Job {
    forms: Weak<Forms>,
    coding: Coding,
    level: Level,
}

#[derive(Default)]
struct Queues {
    /// By level.
    waiting: [VecDeque<Job>; Level::ALL.len()],
    threads: usize,
    idle: usize,
}

/// What came of forms, since the start.
#[derive(Debug, Default)]
pub struct Figures {
    made: [[AtomicU64; Level::ALL.len()]; Coding::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Figures {
    /// Forms made of this coding and level.
    pub fn made(&self, coding: Coding, level: Level) -> u64 {
        self.made[coding.index()][level.index()].load(Ordering::Relaxed)
    }

    /// Bytes of bodies that forms were made of, and bytes of these forms.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }

    /// Forms that could not be made because too many wait.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Forms whose encoder broke.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

struct Shared {
    memory: Arc<Memory>,
    queues: Mutex<Queues>,
    ready: Condvar,
    is_closed: AtomicBool,
    max_threads: usize,
    figures: Figures,
}

/// Makes encoded forms.
pub struct Encoder {
    shared: Arc<Shared>,
    at_once: Arc<Semaphore>,
    /// For these clients one form is made after the other: the next one may find there what it wants.
    in_turn: Arc<tokio::sync::Mutex<()>>,
    stream_memory: Arc<Semaphore>,
}

impl Encoder {
    /// Makes forms of what `memory` holds. Its threads begin with the first form.
    pub fn new(memory: Arc<Memory>) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(memory, (processors / 4).clamp(1, MAX_THREADS))
    }

    fn with_threads(memory: Arc<Memory>, max_threads: usize) -> Self {
        let shared = Shared {
            memory,
            queues: Mutex::default(),
            ready: Condvar::new(),
            is_closed: AtomicBool::new(false),
            max_threads,
            figures: Figures::default(),
        };
        Self {
            shared: Arc::new(shared),
            at_once: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            in_turn: Arc::default(),
            stream_memory: Arc::new(Semaphore::new(MAX_STREAM_MEMORY)),
        }
    }

    /// What came of forms.
    pub fn figures(&self) -> &Figures {
        &self.shared.figures
    }

    /// Says that a client would like this coding of a stored response. What is to be made for that waits for a thread; where
    /// nothing is, this costs a load.
    pub fn want(&self, stored: &StoredResponse, coding: Coding) {
        if let Some(forms) = &stored.forms
            && let Some(level) = forms.ask(coding)
        {
            self.push(forms, coding, level);
        }
    }

    /// Room for a body that is encoded on its way; `None` when too many are.
    pub fn stream_room(&self, coding: Coding) -> Option<OwnedSemaphorePermit> {
        self.stream_memory.clone().try_acquire_many_owned(codec::Stream::memory(coding)).ok()
    }

    fn push(&self, forms: &Arc<Forms>, coding: Coding, level: Level) {
        let mut queues = self.shared.queues.lock();
        if queues.waiting[level.index()].len() >= MAX_WAITING || !self.shared.has_thread(&mut queues) {
            drop(queues);
            self.shared.figures.refused.fetch_add(1, Ordering::Relaxed);
            forms.leave(coding, level);
            return;
        }
        queues.waiting[level.index()].push_back(Job { forms: Arc::downgrade(forms), coding, level });
        self.shared.ready.notify_one();
    }

    /// Makes a quick form for a client that refuses the identity form, and waits for it. `None` when too many wait already.
    pub async fn make_now(&self, stored: &StoredResponse, coding: Coding) -> Option<Arc<Form>> {
        let forms = stored.forms.clone()?;
        let place = self.at_once.clone().try_acquire_owned().ok()?;
        let turn = self.in_turn.clone().lock_owned().await;
        let (shared, source) = (self.shared.clone(), Source::of(stored));
        let make = move || {
            // Until it is made: its client may be gone before.
            let _held = (place, turn);
            shared.make_now(&forms, &source, coding)
        };
        let made = tokio::task::spawn_blocking(make).await;
        // An encoder that panics has said so.
        made.ok().flatten()
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
        // None is waited for: each leaves what it makes half done.
        let _queues = self.shared.queues.lock();
        self.shared.ready.notify_all();
    }
}

impl Shared {
    /// Whether a thread will take what waits: an idle one, a new one, or one that is busy.
    fn has_thread(self: &Arc<Self>, queues: &mut Queues) -> bool {
        if queues.idle > 0 || queues.threads >= self.max_threads {
            return true;
        }
        let shared = self.clone();
        match thread::Builder::new().name("encoder".to_owned()).spawn(move || shared.work()) {
            Ok(_) => queues.threads += 1,
            Err(error) => tracing::error!(%error, "no thread for encoding could be started"),
        }
        queues.threads > 0
    }

    fn work(&self) {
        // Of this thread alone, as Linux has it. Without it forms are made all the same.
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::warn!(%error, "encoding has the priority of requests");
        }
        while let Some(job) = self.next() {
            self.carry_out(&job);
        }
    }

    /// The next form to be made, as soon as there is one; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut queues = self.queues.lock();
        loop {
            if self.is_closed.load(Ordering::Acquire) {
                return None;
            }
            if let Some(job) = queues.waiting.iter_mut().find_map(VecDeque::pop_front) {
                return Some(job);
            }
            queues.idle += 1;
            self.ready.wait(&mut queues);
            queues.idle -= 1;
        }
    }

    fn carry_out(&self, job: &Job) {
        self.make(job, |forms, source| self.encoded(forms, source, job));
    }

    /// Encodes a body; `None` when nobody wants it any longer.
    fn encoded(&self, forms: &Forms, source: &Source, job: &Job) -> std::io::Result<Option<Vec<u8>>> {
        let padding = if forms.is_padded() { random_padding() } else { 0 };
        let goes_on = || {
            if job.level == Level::Strongest {
                self.carry_out_quick_ones();
            }
            !self.is_closed.load(Ordering::Relaxed) && self.memory.holds(forms)
        };
        codec::encode(job.coding, job.level, &source.body, padding, goes_on)
    }

    /// In the middle of a strongest form: it may take seconds, for which the clients of other pages would get the identity form.
    fn carry_out_quick_ones(&self) {
        let next = || self.queues.lock().waiting[Level::Quick.index()].pop_front();
        while let Some(job) = next() {
            self.carry_out(&job);
        }
    }

    /// Makes a form and puts it in its place, where it is better than what is there.
    fn make(&self, job: &Job, encode: impl FnOnce(&Forms, &Source) -> std::io::Result<Option<Vec<u8>>>) {
        let Some(forms) = job.forms.upgrade() else { return };
        let Some(source) = self.memory.response_with(&forms).map(|stored| Source::of(&stored)) else {
            return forms.leave(job.coding, job.level);
        };
        match catch_unwind(AssertUnwindSafe(|| encode(&forms, &source))) {
            Ok(Ok(Some(encoded))) => {
                let best = forms.get(job.coding).map_or(source.body.len(), |form| form.body.len());
                if encoded.len() >= best {
                    return forms.settle(job.coding);
                }
                self.count(&source, job, encoded.len());
                if !self.memory.attach(&forms, form(&forms, &source, job, encoded)) {
                    // It does not fit, or is stored no longer: then there is nothing to come back to.
                    forms.settle(job.coding);
                }
            }
            Ok(Ok(None)) => forms.leave(job.coding, job.level),
            Ok(Err(error)) => {
                tracing::error!(%error, coding = job.coding.as_str(), "a body could not be encoded");
                self.give_up(&forms, job.coding);
            }
            // The hook has said where.
            Err(_) => self.give_up(&forms, job.coding),
        }
    }

    fn give_up(&self, forms: &Forms, coding: Coding) {
        self.figures.failed.fetch_add(1, Ordering::Relaxed);
        forms.settle(coding);
    }

    fn count(&self, source: &Source, job: &Job, encoded: usize) {
        let figures = &self.figures;
        figures.made[job.coding.index()][job.level.index()].fetch_add(1, Ordering::Relaxed);
        figures.bytes_in.fetch_add(source.body.len() as u64, Ordering::Relaxed);
        figures.bytes_out.fetch_add(encoded as u64, Ordering::Relaxed);
    }

    /// Makes a form whether it is smaller or not, and keeps it where it is.
    fn make_now(&self, forms: &Arc<Forms>, source: &Source, coding: Coding) -> Option<Arc<Form>> {
        if let Some(made) = forms.get(coding) {
            return Some(made);
        }
        let level = forms.ask(coding);
        let padding = if forms.is_padded() { random_padding() } else { 0 };
        let encode = || codec::encode(coding, Level::Quick, &source.body, padding, || true);
        // A panic has been told of by its hook.
        let encoded = catch_unwind(AssertUnwindSafe(encode)).unwrap_or(Ok(None));
        let encoded = encoded
            .inspect_err(|error| tracing::error!(%error, "a body could not be encoded"))
            .ok()
            .flatten();
        let Some(encoded) = encoded else {
            level.inspect(|_| self.give_up(forms, coding));
            return None;
        };
        let job = Job { forms: Arc::downgrade(forms), coding, level: Level::Quick };
        let made = form(forms, source, &job, encoded);
        if level.is_some() {
            let body = made.body.to_vec();
            self.make(&job, |_, _| Ok(Some(body)));
        }
        Some(Arc::new(made))
    }
}

fn form(forms: &Forms, source: &Source, &Job { coding, level, .. }: &Job, encoded: Vec<u8>) -> Form {
    // A copy: the allocator leaves a block that shrinks by less than half as it is.
    let body = Bytes::copy_from_slice(&encoded);
    let sendable = (body.len() >= MIN_LENGTH).then(Sendable::default);
    Form { coding, level, body, etag: forms.tag(source.etag.as_deref(), coding, level), sendable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Memory as Budget;
    use crate::rules::encodable::EncodePolicy;
    use crate::rules::encoding::Formats;
    use crate::rules::selector::Selector;
    use crate::store::ban::Effect;
    use crate::store::memory::tests::{MANY, key, page};

    const POLICY: EncodePolicy = EncodePolicy {
        formats: Formats::NONE,
        min_length: 1,
        max_length: 1 << 20,
        pads_passed: false,
        pads_stored: false,
    };

    fn policy() -> EncodePolicy {
        EncodePolicy { formats: Formats::new(Coding::ALL), ..POLICY }
    }

    /// An encoder with so many threads, and a page of its store.
    fn encoder(threads: usize, body: Vec<u8>) -> (Encoder, Arc<StoredResponse>) {
        let memory = Arc::new(Memory::new(Budget { max_size: 1 << 20, max_object_size: 1 << 18 }));
        let stored = store(&memory, body);
        (Encoder::with_threads(memory, threads), stored)
    }

    fn store(memory: &Memory, body: Vec<u8>) -> Arc<StoredResponse> {
        let stored = Arc::new(page("/a", body).encodable(&policy(), None));
        memory.insert(&key("/a"), stored.clone(), memory.begin(), MANY).unwrap();
        stored
    }

    fn forms(stored: &StoredResponse) -> &Arc<Forms> {
        stored.forms.as_ref().unwrap()
    }

    /// A job that a client has asked for.
    fn job(stored: &StoredResponse, coding: Coding) -> Job {
        let level = forms(stored).ask(coding).unwrap();
        Job { forms: Arc::downgrade(forms(stored)), coding, level }
    }

    fn text() -> Vec<u8> {
        b"the same again and again ".repeat(100)
    }

    /// Bytes that do not become smaller.
    fn noise() -> Vec<u8> {
        (0..100).flat_map(|_| Uuid::new_v4().into_bytes()).collect()
    }

    #[test]
    fn what_is_asked_for_is_made_once_and_what_is_asked_for_often_is_made_better() {
        let (encoder, stored) = encoder(1, text());
        for coding in Coding::ALL {
            encoder.want(&stored, coding);
            while stored.form(coding).is_none() {
                thread::yield_now();
            }
            let quick = stored.form(coding).unwrap();
            assert_eq!((quick.level, quick.coding), (Level::Quick, coding));
            assert!(quick.etag.is_some() && quick.body.len() < stored.body.len());
            // The strongest may be no smaller: then the quick one stays.
            while !forms(&stored).is_settled(coding) {
                encoder.want(&stored, coding);
                thread::yield_now();
            }
            assert_eq!(encoder.figures().made(coding, Level::Quick), 1, "{coding:?}");
        }
    }

    #[test]
    fn a_form_of_what_was_purged_or_replaced_meanwhile_undoes_nothing() {
        let (encoder, stored) = encoder(0, text());
        let memory = encoder.shared.memory.clone();
        encoder.shared.make(&job(&stored, Coding::Gzip), |_, _| {
            memory.purge(&[Selector::All], Effect::Remove);
            Ok(Some(vec![0; 10]))
        });
        assert_eq!((memory.entries(), memory.bytes(), stored.form(Coding::Gzip).is_none()), (0, 0, true));
        let (old, mut new) = (store(&memory, text()), None);
        encoder.shared.make(&job(&old, Coding::Gzip), |_, _| {
            new = Some(store(&memory, text()));
            Ok(Some(vec![0; 10]))
        });
        let found = memory.stored(&key("/a")).unwrap();
        assert!(Arc::ptr_eq(&found, new.as_ref().unwrap()) && found.form(Coding::Gzip).is_none());
        assert!(old.form(Coding::Gzip).is_none());
        let job = Job { forms: Weak::new(), coding: Coding::Brotli, level: Level::Strongest };
        let given_up = encoder.shared.encoded(forms(&stored), &Source::of(&stored), &job);
        assert_eq!(given_up.unwrap(), None, "nobody wants it");
    }

    #[test]
    fn a_quick_form_does_not_wait_for_a_strongest_one() {
        // There is no thread: what is made is made in the middle of the strongest form.
        let (encoder, stored) = encoder(0, text());
        let other = Arc::new(page("/b", text()).encodable(&policy(), None));
        encoder.shared.memory.insert(&key("/b"), other.clone(), encoder.shared.memory.begin(), MANY).unwrap();
        for coding in Coding::ALL {
            encoder.want(&other, coding);
        }
        let job = |level| Job { forms: Arc::downgrade(forms(&stored)), coding: Coding::Gzip, level };
        encoder.shared.carry_out(&job(Level::Quick));
        assert_eq!(
            Coding::ALL.map(|coding| other.form(coding).is_some()),
            [false; 3],
            "a quick one ends first"
        );
        encoder.shared.carry_out(&job(Level::Strongest));
        assert_eq!(Coding::ALL.map(|coding| other.form(coding).is_some()), [true; 3]);
    }

    #[test]
    fn forms_are_charged_and_what_is_validated_keeps_them() {
        let (encoder, stored) = encoder(0, text());
        let memory = encoder.shared.memory.clone();
        let before = memory.bytes();
        encoder.shared.make(&job(&stored, Coding::Gzip), |_, _| Ok(Some(vec![0; 800])));
        let with_form = memory.bytes();
        assert!(with_form > before + 900 && with_form < before + 1_200, "{before} {with_form}");
        let mut renewed = page("/a", Vec::new());
        renewed.body = stored.body.clone();
        let renewed = Arc::new(renewed.encodable(&policy(), Some(&stored)));
        memory.renew(&key("/a"), &stored, &renewed, memory.begin()).unwrap();
        assert_eq!((memory.bytes(), renewed.form(Coding::Gzip).unwrap().body.len()), (with_form, 800));
        encoder.shared.make(&job(&renewed, Coding::Brotli), |_, _| Ok(Some(vec![0; 400])));
        assert!(renewed.form(Coding::Brotli).is_some() && memory.bytes() > with_form + 400);
        memory.purge(&[Selector::All], Effect::Remove);
        assert_eq!((memory.entries(), memory.bytes()), (0, 0));
    }

    #[test]
    fn a_store_full_of_pages_with_forms_stays_within_its_budget() {
        let (encoder, _) = encoder(0, text());
        let memory = encoder.shared.memory.clone();
        for n in 0..600 {
            let path = format!("/{n}");
            let stored = Arc::new(page(&path, vec![b'x'; 2_000]).encodable(&policy(), None));
            memory.insert(&key(&path), stored.clone(), memory.begin(), MANY).unwrap();
            for coding in Coding::ALL {
                encoder.shared.make(&job(&stored, coding), |_, _| Ok(Some(vec![0; 1_000])));
            }
            assert!(memory.bytes() <= 1 << 20, "{} bytes after {n}", memory.bytes());
        }
        assert!(memory.evictions() > 100, "{} evictions", memory.evictions());
        assert_eq!(memory.entries(), memory.map.len(), "what is pushed out leaves the index");
        memory.purge(&[Selector::All], Effect::Remove);
        memory.sweep();
        assert_eq!((memory.entries(), memory.bytes()), (0, 0));
    }

    #[test]
    fn a_form_never_pushes_its_own_response_out() {
        let (encoder, _) = encoder(0, text());
        let memory = encoder.shared.memory.clone();
        let stored = store(&memory, vec![b'x'; 180_000]);
        encoder.shared.make(&job(&stored, Coding::Gzip), |_, _| Ok(Some(vec![0; 170_000])));
        assert!(stored.form(Coding::Gzip).is_none() && memory.stored(&key("/a")).is_some());
        assert!(forms(&stored).ask(Coding::Gzip).is_none(), "it is not tried again");
    }

    #[test]
    fn what_does_not_become_smaller_is_remembered() {
        let (encoder, stored) = encoder(0, noise());
        let shared = &encoder.shared;
        shared.carry_out(&job(&stored, Coding::Zstd));
        assert!(stored.form(Coding::Zstd).is_none() && forms(&stored).ask(Coding::Zstd).is_none());
    }

    #[test]
    fn an_encoder_that_panics_ends_nothing() {
        let (encoder, stored) = encoder(0, text());
        encoder.shared.make(&job(&stored, Coding::Gzip), |_, _| panic!("a bug"));
        encoder.shared.make(&job(&stored, Coding::Zstd), |_, _| Err(std::io::Error::other("a bug")));
        assert_eq!(encoder.figures().failed(), 2);
        assert!(forms(&stored).ask(Coding::Gzip).is_none(), "it is not tried again");
        encoder.shared.make(&job(&stored, Coding::Brotli), |_, _| Ok(Some(vec![0; 10])));
        assert!(stored.form(Coding::Brotli).is_some());
    }

    #[test]
    fn what_there_is_no_room_for_is_asked_for_again() {
        let (encoder, stored) = encoder(0, text());
        let pages: Vec<_> =
            (0..MAX_WAITING).map(|_| Arc::new(page("/b", text()).encodable(&policy(), None))).collect();
        pages.iter().for_each(|page| encoder.want(page, Coding::Gzip));
        encoder.want(&pages[0], Coding::Gzip);
        assert_eq!(encoder.figures().refused(), 0);
        encoder.want(&stored, Coding::Gzip);
        assert_eq!(encoder.figures().refused(), 1);
        assert_eq!(forms(&stored).ask(Coding::Gzip), Some(Level::Quick));
    }

    #[tokio::test]
    async fn who_refuses_the_identity_form_gets_another_even_a_longer_one() {
        let (encoder, stored) = encoder(0, noise());
        let form = encoder.make_now(&stored, Coding::Gzip).await.unwrap();
        assert!(form.body.len() > stored.body.len() && stored.form(Coding::Gzip).is_none());
        let (encoder, stored) = self::encoder(0, text());
        let form = encoder.make_now(&stored, Coding::Gzip).await.unwrap();
        assert_eq!(stored.form(Coding::Gzip).unwrap().body, form.body, "it is kept");
    }

    #[tokio::test]
    async fn of_those_who_refuse_the_identity_form_one_has_the_form_made() {
        // It takes a while, or the first would be done before the second begins.
        let body: String = (0..2_500).map(|_| Uuid::new_v4().to_string()).collect();
        let (encoder, stored) = encoder(0, body.into_bytes());
        let make = || encoder.make_now(&stored, Coding::Brotli);
        let (first, second) = tokio::join!(make(), make());
        let kept = stored.form(Coding::Brotli).unwrap();
        assert_eq!(first.unwrap().body, kept.body);
        assert!(Arc::ptr_eq(&second.unwrap(), &kept), "it found what the first one had made");
    }
}
