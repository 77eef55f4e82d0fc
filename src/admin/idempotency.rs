//! A purge whose answer was lost is sent again: with the same `Idempotency-Key` it gets the same answer and is not carried
//! out a second time, which would empty the store of what has come meanwhile.

use std::num::NonZeroUsize;
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
const MAX_ANSWER: usize = 64 << 10;

/// How long a key is remembered.
pub(super) const PERIOD: Duration = Duration::from_secs(3600);

/// The answers of a while ago, by the name of the token and the key.
pub(super) struct Answers(Mutex<LruCache<(String, String), Remembered>>);

struct Remembered {
    request: [u8; 32],
    /// `None` while it is being carried out.
    answer: Option<String>,
    until: Timestamp,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Carry it out.
    First,
    /// Give this answer again.
    Again(String),
}

impl Default for Answers {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_KEYS)))
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
    pub fn enter(&self, token: &str, key: &str, request: &[u8], now: Timestamp) -> Result<Turn, Refusal> {
        let digest: [u8; 32] = Sha256::digest(request).into();
        let place = (token.to_owned(), key.to_owned());
        let mut answers = self.0.lock();
        match answers.get(&place).filter(|known| known.until > now) {
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
                answers.put(place, Remembered { request: digest, answer: None, until: now.plus(PERIOD) });
                Ok(Turn::First)
            }
        }
    }

    /// Remembers the answer; a purge that was refused, or whose answer is too long, may be tried again.
    pub fn leave(&self, token: &str, key: &str, answer: Option<String>) {
        let place = (token.to_owned(), key.to_owned());
        let mut answers = self.0.lock();
        match answer.filter(|answer| answer.len() <= MAX_ANSWER) {
            Some(answer) => {
                if let Some(known) = answers.get_mut(&place) {
                    known.answer = Some(answer);
                }
            }
            None => drop(answers.pop(&place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_one_purge() {
        let answers = Answers::default();
        let now = Timestamp(0);
        let status = |turn: Result<Turn, Refusal>| turn.map_err(|refusal| refusal.status.as_u16());
        assert_eq!(status(answers.enter("ci", "k", b"a", now)), Ok(Turn::First));
        assert_eq!(status(answers.enter("ci", "k", b"a", now)), Err(409));
        answers.leave("ci", "k", Some("answer".into()));
        assert_eq!(status(answers.enter("ci", "k", b"a", now)), Ok(Turn::Again("answer".into())));
        assert_eq!(status(answers.enter("ci", "k", b"b", now)), Err(422));
        assert_eq!(status(answers.enter("other", "k", b"b", now)), Ok(Turn::First));
        assert_eq!(status(answers.enter("ci", "k", b"b", now.plus(PERIOD))), Ok(Turn::First));
        answers.leave("ci", "k", None);
        assert_eq!(status(answers.enter("ci", "k", b"c", now.plus(PERIOD))), Ok(Turn::First));
    }
}
