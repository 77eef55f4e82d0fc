//! The second tier: responses that the instances share.
//!
//! It is asked by the one fetch that leads for a key, before the origin is, and what it has lands in memory: all other work is the
//! memory's. What is stored in memory is written to it aside; when too much waits to be written, that is left out. What may be
//! for some visitors only never gets here.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::form::{Forms, Record};
use super::lock::Held;
use super::log::Mark;
use super::{Away, Shared};
use crate::clock::Timestamp;
use crate::rules::key::{CacheKey, Vary};
use crate::store::response::StoredResponse;

/// The most memory, in KiB, of bodies that wait to be written.
const MAX_WAITING: usize = 32 * 1024;
/// So many bytes are decompressed where they arrive.
const READ_AT_ONCE: usize = 32 << 10;
/// What selects among variants is kept for so long at least: those that live for longer shall be found.
const SHORTEST_VARY: Duration = Duration::from_secs(24 * 3600);
/// How many are written at once.
const WRITERS: usize = 8;
/// Nothing is kept for longer, whatever its lifetime is.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Room for what is written, and who writes it.
pub(super) struct Room {
    waiting: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    forms: Arc<Forms>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(MAX_WAITING).into(),
            writers: Semaphore::new(WRITERS).into(),
            forms: Arc::default(),
        }
    }
}

/// What the Redis has under a key.
pub enum Recalled {
    /// A response that no purge has hit since.
    Response(Box<StoredResponse>),
    /// What selects among the variants of the page.
    Varies(Vary),
}

/// What is written.
pub struct Share {
    /// The key that all variants have in common.
    pub primary: CacheKey,
    /// The key of the response.
    pub key: CacheKey,
    /// What it is shared as: [`crate::rules::policy::CachePolicy::shared_stamp`].
    pub stamp: u32,
    /// The response.
    pub response: Arc<StoredResponse>,
    /// The last entry of the log of purges that was read when its fetch began.
    pub mark: Mark,
    /// What keeps other instances waiting until it is written.
    pub held: Option<Arc<Held>>,
}

impl Shared {
    /// What is stored under `key`, as far as it may be served: with a body of at most `max_body` bytes, and not purged. Waits no longer
    /// than `timeout`.
    pub async fn recall(&self, key: &CacheKey, stamp: u32, max_body: u64) -> Option<Recalled> {
        let (result, recalled) = self.look_up(key, stamp, max_body).await;
        self.figures.recalled(result);
        recalled
    }

    async fn look_up(&self, key: &CacheKey, stamp: u32, max_body: u64) -> (&'static str, Option<Recalled>) {
        if !self.log.is_current() {
            return ("untrusted", None);
        }
        let (part, place) = self.place_of(key, stamp);
        let get = |mut link| async move { redis::cmd("GET").arg(place).query_async(&mut link).await };
        let bytes: Option<Vec<u8>> = match self.ask_for_body("recall", &part, get).await {
            Ok(bytes) => bytes,
            Err(away) => return (away.as_str(), None),
        };
        let Some(bytes) = bytes else { return ("miss", None) };
        let record = match bytes.len() {
            0..READ_AT_ONCE => self.room.forms.read(&bytes, key, max_body),
            // Not on a thread that serves requests: it takes milliseconds.
            _ => {
                let (key, forms) = (key.clone(), self.room.forms.clone());
                let read = move || forms.read(&bytes, &key, max_body);
                let read = tokio::task::spawn_blocking(read).await;
                read.ok().flatten()
            }
        };
        match record {
            None => ("unreadable", None),
            // Held against the log after it has been read: what is purged now is refused by the memory.
            Some(Record::Response(response, mark)) if !self.log.admits(mark, &response.facts) => {
                ("purged", None)
            }
            Some(Record::Response(response, _)) => ("hit", Some(Recalled::Response(response))),
            Some(Record::Varies(vary)) => ("varies", Some(Recalled::Varies(vary))),
        }
    }

    /// Writes a response aside, if there is room.
    pub fn share(self: &Arc<Self>, share: Share, now: Timestamp) {
        let length = share.response.body.len();
        let ttl = share.response.freshness().kept_for(now).min(LONGEST);
        if ttl.is_zero() || length as u64 > self.settings.max_object_size {
            return;
        }
        // One that is larger than all of the room goes alone.
        let permits = u32::try_from((length / 1024 + 1).min(MAX_WAITING)).unwrap_or(u32::MAX);
        let Ok(room) = self.room.waiting.clone().try_acquire_many_owned(permits) else {
            self.figures.shared("no-room");
            return;
        };
        let shared = self.clone();
        tokio::spawn(async move {
            // Never closed.
            let _turn = shared.room.writers.acquire().await;
            let result = shared.write(&share, ttl).await;
            shared.figures.shared(result.unwrap_or_else(|away| away.as_str()));
            drop((room, share.held));
        });
    }

    /// Writes a response; the word for the metric.
    pub(super) async fn write(&self, share: &Share, ttl: Duration) -> Result<&'static str, Away> {
        let (key, response, mark) = (share.key.clone(), share.response.clone(), share.mark);
        // Not on a thread that serves requests: a large one takes milliseconds.
        let forms = self.room.forms.clone();
        let write = move || forms.of_response(&key, &response, mark);
        let written = tokio::task::spawn_blocking(write).await;
        let Some(written) = written.ok().flatten() else { return Ok("unwritable") };
        self.put(&share.key, share.stamp, written, ttl).await?;
        if !share.response.vary.is_empty()
            && let Some(written) = self.room.forms.of_vary(&share.primary, &share.response.vary)
        {
            self.put(&share.primary, share.stamp, written, ttl.max(SHORTEST_VARY)).await?;
        }
        Ok("written")
    }

    async fn put(&self, key: &CacheKey, stamp: u32, written: Vec<u8>, ttl: Duration) -> Result<(), Away> {
        let (part, place) = self.place_of(key, stamp);
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut set = redis::cmd("SET");
        set.arg(place).arg(written).arg("PX").arg(millis);
        self.ask_for_body("share", &part, |mut link| async move { set.query_async(&mut link).await }).await
    }

    /// Under which key of the Redis what has `key` lies, and in which of 256 parts: so few that a node which does not answer is
    /// found out, so many that they spread over all nodes.
    pub(super) fn place_of(&self, key: &CacheKey, stamp: u32) -> (String, String) {
        let digest = Sha256::new_with_prefix(key.as_ref()).chain_update(stamp.to_be_bytes()).finalize();
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let part = digest[..2].to_owned();
        let place = self.key(&part, &digest);
        (part, place)
    }
}
