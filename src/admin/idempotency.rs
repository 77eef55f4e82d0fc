//! A purge whose answer was lost is sent again: with the same `Idempotency-Key` it gets the same answer and is not carried
//! out a second time, which would empty the store of what has come meanwhile.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::Refusal;
use crate::clock::Timestamp;

const FIELD: &str = "idempotency-key";

/// The most keys remembered; beyond it the least recently used is forgotten.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(1000).expect("not zero");

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The longest answer remembered, in bytes: a longer one would be carried out again.
pub(super) const MAX_ANSWER: usize = 64 << 10;

/// How long a key is remembered.
pub(super) const PERIOD: Duration = Duration::from_secs(3600);

/// The answers of a while ago, by the name of the token and the key.
pub(super) struct Answers {
    known: Mutex<LruCache<(String, String), Remembered>>,
    serials: AtomicU64,
}

struct Remembered {
    /// Which of all, since a key may be pushed out and come back.
    serial: u64,
    request: [u8; 32],
    /// `None` while it is being carried out.
    answer: Option<String>,
    until: Timestamp,
}

/// What to do with a request.
pub(super) enum Turn {
    /// Carry it out.
    First(Place),
    /// Give this answer again.
    Again(String),
}

/// The place of a purge that is being carried out. Dropped without an answer (it was refused) it lets the next one try.
pub(super) struct Place {
    answers: Arc<Answers>,
    name: (String, String),
    serial: u64,
    is_answered: bool,
}

impl Place {
    /// Remembers the answer; one that is too long is carried out again.
    pub fn answer(mut self, answer: &str) {
        let mut answers = self.answers.known.lock();
        let own = answers.get_mut(&self.name).filter(|known| known.serial == self.serial);
        if answer.len() <= MAX_ANSWER
            && let Some(known) = own
        {
            known.answer = Some(answer.to_owned());
            drop(answers);
            self.is_answered = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut answers = self.answers.known.lock();
        let is_own = answers.peek(&self.name).is_some_and(|known| known.serial == self.serial);
        if !self.is_answered && is_own {
            answers.pop(&self.name);
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self { known: Mutex::new(LruCache::new(MAX_KEYS)), serials: AtomicU64::new(0) }
    }
}

/// The key of a request, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(FIELD) else { return Ok(None) };
    let well_formed = |key: &&str| !key.is_empty() && key.len() <= MAX_KEY_BYTES;
    match value.to_str().ok().filter(well_formed) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "the Idempotency-Key is empty, longer than 255 bytes or not ASCII",
            "send for example the id of the CI job",
        )),
    }
}

impl Answers {
    /// Whose turn it is with this key, and takes it.
    pub fn enter(
        self: &Arc<Self>,
        token: &str,
        key: &str,
        request: &[u8],
        now: Timestamp,
    ) -> Result<Turn, Refusal> {
        let digest: [u8; 32] = Sha256::digest(request).into();
        let name = (token.to_owned(), key.to_owned());
        let mut answers = self.known.lock();
        match answers.get(&name).filter(|known| known.until > now) {
            Some(known) if known.request != digest => Err(Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key came with another purge before",
                "send a new key for a new purge",
            )),
            Some(Remembered { answer: Some(answer), .. }) => Ok(Turn::Again(answer.clone())),
            Some(Remembered { answer: None, .. }) => Err(Refusal::new(
                StatusCode::CONFLICT,
                "the purge with this Idempotency-Key is being carried out",
                "ask again in a second",
            )),
            None => {
                let until = now.plus(PERIOD);
                let serial = self.serials.fetch_add(1, Ordering::Relaxed);
                answers.put(name.clone(), Remembered { serial, request: digest, answer: None, until });
                Ok(Turn::First(Place { answers: self.clone(), name, serial, is_answered: false }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of a refusal, or the answer; empty when it is to be carried out.
    fn turn(answers: &Arc<Answers>, token: &str, request: &str, now: Timestamp) -> (String, Option<Place>) {
        match answers.enter(token, "k", request.as_bytes(), now) {
            Ok(Turn::First(place)) => (String::new(), Some(place)),
            Ok(Turn::Again(answer)) => (answer, None),
            Err(refusal) => (refusal.status.as_u16().to_string(), None),
        }
    }

    #[test]
    fn a_key_stands_for_one_purge() {
        let (answers, now) = (Arc::new(Answers::default()), Timestamp(0));
        let said = |token: &str, request: &str, now| turn(&answers, token, request, now).0;
        let (_, place) = turn(&answers, "ci", "a", now);
        assert_eq!(said("ci", "a", now), "409");
        place.unwrap().answer("answer");
        assert_eq!(said("ci", "a", now), "answer");
        assert_eq!(said("ci", "b", now), "422");
        assert_eq!(said("other", "b", now), "", "keys are of their token");
        assert_eq!(said("ci", "b", now.plus(PERIOD)), "", "and end");
        assert_eq!(said("ci", "c", now), "", "nobody has answered it");
        turn(&answers, "ci", "d", now).1.unwrap().answer(&"x".repeat(MAX_ANSWER + 1));
        assert_eq!(said("ci", "e", now), "");
    }
}
