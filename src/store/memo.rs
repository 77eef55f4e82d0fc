//! Which keys proved uncacheable a moment ago, so that their requests do not wait in line for a response that
//! none of them may share.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::rules::key::CacheKey;

/// The most keys remembered; beyond it the least recently used one is forgotten, which costs it one wait.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// Keys that proved uncacheable, each with the moment until which that is believed.
pub struct Memo(Mutex<LruCache<CacheKey, Timestamp>>);

impl Default for Memo {
    fn default() -> Self {
        // Grown on demand: the capacity is a bound, not a reservation.
        let mut keys = LruCache::unbounded();
        keys.resize(MAX_KEYS);
        Self(Mutex::new(keys))
    }
}

impl Memo {
    /// Takes note that `key` is uncacheable for `period`.
    pub fn note(&self, key: CacheKey, period: Duration, now: Timestamp) {
        if !period.is_zero() {
            self.0.lock().put(key, now.plus(period));
        }
    }

    /// Whether `key` is believed to be uncacheable.
    pub fn holds(&self, key: &CacheKey, now: Timestamp) -> bool {
        let mut keys = self.0.lock();
        match keys.get(key) {
            Some(until) if *until > now => true,
            Some(_) => {
                keys.pop(key);
                false
            }
            None => false,
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}
