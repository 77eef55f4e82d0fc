//! One fetch of a key for all instances.
//!
//! Who is to fetch what nobody has takes a lock in the Redis first, which ends by itself. The others look again and again whether
//! it is there, for as long as the route says, and fetch then all the same: a lock saves the origin work, and is never needed.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Shared;
use super::connect::Link;
use crate::rules::key::CacheKey;

/// Lets go of a lock that still is the caller's.
pub(super) const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0";

/// Whose turn it is to fetch.
pub enum Turn {
    /// Ours; nobody else's while this is held.
    Ours(Held),
    /// Another instance's.
    Another,
    /// Nobody can tell; it may be ours.
    Unknown(Held),
}

/// A lock that is held. Let go of when dropped.
pub struct Held {
    shared: Arc<Shared>,
    part: String,
    place: String,
    nonce: String,
}

impl Shared {
    /// Takes the lock of a key for at most `period`, if no other instance has it.
    pub async fn lock(self: &Arc<Self>, key: &CacheKey, stamp: u32, period: Duration) -> Turn {
        let (part, place) = self.place_of(key, stamp);
        let (place, nonce) = (format!("{place}:lock"), Uuid::new_v4().to_string());
        let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut set = redis::cmd("SET");
        set.arg(&place).arg(&nonce).arg("NX").arg("PX").arg(millis);
        let ask = |mut link| async move { set.query_async(&mut link).await };
        let taken: Result<Option<String>, _> = self.ask("lock", &part, ask).await;
        let held = || Held { shared: self.clone(), part, place, nonce };
        match taken {
            Ok(Some(_)) => Turn::Ours(held()),
            Ok(None) => Turn::Another,
            // It may have been taken all the same.
            Err(_) => Turn::Unknown(held()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (shared, part) = (self.shared.clone(), std::mem::take(&mut self.part));
        let (place, nonce) = (std::mem::take(&mut self.place), std::mem::take(&mut self.nonce));
        // Where it fails the lock ends by itself.
        drop(tokio::spawn(async move {
            let script = &shared.release_script;
            let release = |mut link: Link| async move {
                script.key(place).arg(nonce).invoke_async::<u8>(&mut link).await
            };
            shared.ask("unlock", &part, release).await
        }));
    }
}
