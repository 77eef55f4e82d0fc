//! What other instances have fetched: it is asked for before the origin is, and told of what this fetch has brought.

use std::sync::Arc;
use std::time::Duration;

use pingora::http::RequestHeader;

use super::Job;
use crate::clock;
use crate::rules::head::Fields;
use crate::rules::key::CacheKey;
use crate::rules::selector::Selector;
use crate::shared::Shared;
use crate::shared::lock::Turn;
use crate::shared::tier::{Recalled, Share};
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
            Some(shared) if self.route.cache.shares_lock && shared.is_trusted() => {
                self.await_turn(&shared, request).await
            }
            Some(_) => false,
        };
        self.requested_at = clock::now();
        self.mark = self.peers().and_then(|shared| shared.log.mark());
        is_recalled
    }

    async fn look_up(&self, shared: &Shared, request: &RequestHeader) -> bool {
        let max_body = self.live.plan.memory.max_object_size;
        let (mut key, mut recalled) = (self.key.clone(), shared.recall(&self.key, max_body).await);
        if let Some(Recalled::Varies(vary)) = &recalled
            && self.key == self.primary
        {
            let fields: Vec<_> =
                request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            key = self.primary.variant(vary, Fields::new(&fields));
            recalled = shared.recall(&key, max_body).await;
        }
        let Some(Recalled::Response(response)) = recalled else { return false };
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

    /// Waits while another instance fetches it. Tells whether that has brought it; if not, it is this one's turn.
    async fn await_turn(&mut self, shared: &Arc<Shared>, request: &RequestHeader) -> bool {
        let (started, patience) = (clock::start(), self.route.cache.lock_timeout);
        loop {
            match shared.lock(&self.key, patience.min(LONGEST_LOCK)).await {
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
        let share = Share { primary, key, response: response.clone(), mark, held: self.held.clone() };
        shared.share(share, clock::now());
    }

    /// Removes what is stored under `key`, here and wherever it has been shared, and tells whether it was here.
    pub(super) fn remove(&self, key: &CacheKey, stored: &Arc<StoredResponse>) -> bool {
        let was_here = self.app.store.memory.remove(key, stored);
        if let Some(shared) = self.peers().filter(|_| was_here) {
            // Where it stands in the log is of no interest here.
            drop(shared.log.announce(&[Selector::page(&stored.facts)], false));
        }
        was_here
    }
}
