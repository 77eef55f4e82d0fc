//! What other instances have fetched: it is asked for before the origin is, and told of what this fetch has brought.

use std::sync::Arc;
use std::time::Duration;

use pingora::http::RequestHeader;

use super::Job;
use crate::clock;
use crate::rules::key::CacheKey;
use crate::rules::selector::Selector;
use crate::shared::Shared;
use crate::shared::lock::Turn;
use crate::shared::tier::{Recalled, Share};
use crate::store::ban::Effect;
use crate::store::response::StoredResponse;

/// How often to look whether another instance has fetched it.
const LOOK: Duration = Duration::from_millis(25);
/// No lock is held for longer, should its holder be gone.
const LONGEST_LOCK: Duration = Duration::from_secs(60);

impl Job {
    /// What is shared with other instances, if they may have what this fetches.
    fn peers(&self) -> Option<&Arc<Shared>> {
        self.app.shared.as_ref().filter(|_| self.route.cache.is_shared)
    }

    /// Whether another instance's response is in memory now, so that nothing has to be fetched. Otherwise the fetch begins at
    /// this moment.
    pub(super) async fn recall(&mut self, request: &RequestHeader) -> bool {
        let is_recalled = match self.peers().filter(|_| !self.as_head).cloned() {
            None => false,
            Some(shared) if self.look_up(&shared, request).await => true,
            Some(shared) if self.route.cache.shares_lock && shared.log.is_current() => {
                self.await_turn(&shared, request).await
            }
            Some(_) => false,
        };
        self.requested_at = clock::now();
        self.mark = self.peers().and_then(|shared| shared.log.mark());
        is_recalled
    }

    /// Whether the Redis has it, and it is in memory now. Waits no longer than for one answer, of however many.
    async fn look_up(&self, shared: &Shared, request: &RequestHeader) -> bool {
        let Ok(found) = tokio::time::timeout(shared.timeout(), self.find(shared, request)).await else {
            return false;
        };
        let Some((key, response)) = found else { return false };
        let (freshness, now) = (response.freshness(), clock::now());
        let is_news = self.expired.as_ref().is_none_or(|expired| {
            freshness.remaining(now).is_some() && freshness.stored_at > expired.freshness().stored_at
        });
        if !is_news || self.live.tripped.holds(&self.route.name) {
            return false;
        }
        let response = Arc::new(response.encodable(&self.route.encode, None));
        let memory = &self.app.store.memory;
        memory.note_vary(&self.primary, &response.vary);
        memory.insert(&key, response, self.begun, self.route.cache.max_variants).is_ok()
    }

    /// What the Redis has, and its key: of the variant where the page has any.
    async fn find(
        &self,
        shared: &Shared,
        request: &RequestHeader,
    ) -> Option<(CacheKey, Box<StoredResponse>)> {
        let (stamp, max_body) = (self.route.cache.shared_stamp, self.live.plan.memory.max_object_size);
        match shared.recall(&self.key, stamp, max_body).await? {
            Recalled::Response(response) => Some((self.key.clone(), response)),
            Recalled::Varies(vary) if self.key == self.primary => {
                let key = self.variant(&vary, request);
                match shared.recall(&key, stamp, max_body).await? {
                    Recalled::Response(response) => Some((key, response)),
                    Recalled::Varies(_) => None,
                }
            }
            Recalled::Varies(_) => None,
        }
    }

    /// Waits while another instance fetches it. Tells whether that has brought it; if not, it is this one's turn.
    async fn await_turn(&mut self, shared: &Arc<Shared>, request: &RequestHeader) -> bool {
        let (started, patience) = (clock::start(), self.route.cache.lock_timeout);
        loop {
            match shared.lock(&self.key, self.route.cache.shared_stamp, patience.min(LONGEST_LOCK)).await {
                Turn::Ours(held) => {
                    self.held = Some(Arc::new(held));
                    // It may have come between the look and the lock.
                    return self.look_up(shared, request).await;
                }
                Turn::Unknown(held) => {
                    self.held = Some(Arc::new(held));
                    return false;
                }
                Turn::Another => {}
            }
            if started.elapsed() >= patience {
                self.app.observer.metrics.limit("shared-lock");
                return false;
            }
            if !shared.log.is_current() {
                // Whatever it brings could not be taken.
                return false;
            }
            tokio::time::sleep(LOOK).await;
            if self.look_up(shared, request).await {
                return true;
            }
        }
    }

    /// Lets other instances have what has been stored, if it is for everyone.
    pub(super) fn share(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        let (Some(shared), Some(mark)) = (self.peers(), self.mark) else { return };
        if response.witness.is_some() || response.freshness().always_revalidate {
            return;
        }
        let (primary, key) = (self.primary.clone(), key.clone());
        let (stamp, response, held) = (self.route.cache.shared_stamp, response.clone(), self.held.clone());
        let share = Share { primary, key, stamp, response, mark, held };
        shared.share(share, clock::now());
    }

    /// Removes what is stored under `key`, and tells whether it was there. Where it may have been shared, all forget the page.
    pub(super) fn remove(&self, key: &CacheKey, stored: &Arc<StoredResponse>) -> bool {
        let memory = &self.app.store.memory;
        let is_there = || memory.stored(key).is_some_and(|other| Arc::ptr_eq(&other, stored));
        let Some(shared) = self.peers().filter(|_| is_there()) else { return memory.remove(key, stored) };
        let page = [Selector::page(&stored.facts)];
        shared.log.announce(&page, false);
        let was_there = memory.remove(key, stored);
        // What another request has recalled before it was announced must not come after it.
        self.app.store.purge(&page, Effect::Remove);
        was_there
    }
}
