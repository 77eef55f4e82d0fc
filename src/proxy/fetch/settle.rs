//! What becomes of a complete response: it is stored, or turns out to be for one visitor.

use std::sync::Arc;

use bytes::Bytes;

use super::Job;
use crate::clock;
use crate::rules::admission::{DiscardReason, Kept};
use crate::rules::guard::{Settled, Witness};
use crate::rules::key::CacheKey;
use crate::rules::lookup::PassReason;
use crate::rules::secrets::Shown;
use crate::store::memory::Refused;
use crate::store::response::{Head, StoredResponse};

impl Job {
    /// Stores a complete response, unless it turns out to be personal.
    pub(super) fn settle(
        &self,
        key: &CacheKey,
        head: Head,
        body: Bytes,
        kept: Kept,
    ) -> Result<(), DiscardReason> {
        if let Some((_, reason)) = self.shows_a_secret(key, &head, &body) {
            return Err(reason);
        }
        let Some(own) = Witness::of(&self.inputs, kept.ambient, &self.route.cache) else {
            return self.store(key, &self.response(head, body, kept, None));
        };
        let memory = &self.app.store.memory;
        if !memory.admits(self.begun, &self.filler.0.facts) {
            // It is older than a purge, and what is stored may be newer.
            return Err(DiscardReason::Purged);
        }
        // Another's may be stored under the primary key still, without variants.
        let places = [key, &self.primary];
        let stored = places.into_iter().find_map(|place| Some((place, memory.stored(place)?)));
        let Some((place, stored)) = stored else {
            return self.store(key, &self.response(head, body, kept, Some(own)));
        };
        match stored.settle(&self.inputs, self.requested_at, (&head, &body), own) {
            Settled::Store(witness) => self.store(key, &self.response(head, body, kept, Some(witness))),
            Settled::Admit(witness) => self.admit(place, &stored, witness, &head),
            Settled::Mark(difference) if self.remove(place, &stored) => {
                let message = format!("another visitor got another {difference}");
                Err(self.personalised(key, "difference", &message))
            }
            // Gone meanwhile: then the next one is compared.
            Settled::Mark(_) | Settled::Refuse => {
                self.app.observer.metrics.personalised(&self.route.name, "refused");
                Err(DiscardReason::Personalised)
            }
        }
    }

    /// Whether a response shows a secret of its visitor, and why it is not stored then. One that it sets itself marks the key.
    pub(super) fn shows_a_secret(
        &self,
        key: &CacheKey,
        head: &Head,
        body: &[u8],
    ) -> Option<(Shown, DiscardReason)> {
        if self.secrets.is_empty() {
            return None;
        }
        let shown = head.with(|head| self.secrets.shown_by(head.fields, body))?;
        let reason = match shown {
            Shown::Set => self.personalised(key, "secret", "it shows a cookie that it sets"),
            Shown::Sent => {
                self.app.observer.metrics.personalised(&self.route.name, "secret");
                DiscardReason::Personalised
            }
        };
        Some((shown, reason))
    }

    /// Lets one more visitor have what is stored.
    fn admit(
        &self,
        place: &CacheKey,
        stored: &Arc<StoredResponse>,
        witness: Witness,
        head: &Head,
    ) -> Result<(), DiscardReason> {
        let admitting = Arc::new(head.with(|new| stored.admitting(witness, new.fields)));
        // Another has been admitted, or the page renewed, meanwhile: then this one is fetched for again.
        let _ = self.app.store.memory.renew(place, stored, &admitting, self.begun);
        Ok(())
    }

    /// Marks the key as personalised.
    fn personalised(&self, key: &CacheKey, found: &str, message: &str) -> DiscardReason {
        let (route, period) = (&self.route.name, self.route.cache.personalised_ttl);
        tracing::warn!(%route, %key, message, "personalised: not shared for {period:?}");
        self.app.observer.metrics.personalised(route, found);
        let facts = Arc::new(self.filler.0.facts.clone());
        self.app.store.memo.note(key, facts, PassReason::Personalised, period, clock::now());
        DiscardReason::Personalised
    }

    pub(super) fn response(
        &self,
        head: Head,
        body: Bytes,
        kept: Kept,
        witness: Option<Witness>,
    ) -> Arc<StoredResponse> {
        let facts = self.filler.0.facts.of_response(&head.content_type(), &kept.tags);
        if facts.tags.is_cut() {
            self.app.observer.metrics.limit("tags");
        }
        let policy = &self.route.cache;
        let head = if policy.deliver_tags { head } else { head.withholding(&policy.tag_headers) };
        let response = StoredResponse::new(head, body, kept.freshness, facts, kept.vary, witness);
        Arc::new(response.encodable(&self.route.encode, self.expired.as_deref()))
    }

    fn store(&self, key: &CacheKey, response: &Arc<StoredResponse>) -> Result<(), DiscardReason> {
        if self.live.tripped.holds(&self.route.name) {
            return Err(DiscardReason::Personalised);
        }
        self.app.store.memory.note_vary(&self.primary, &response.vary);
        let max_variants = self.route.cache.max_variants;
        self.app.store.memory.insert(key, response.clone(), self.begun, max_variants).map_err(|refused| {
            match refused {
                Refused::Purged | Refused::Superseded => DiscardReason::Purged,
                Refused::TooLarge => DiscardReason::TooLarge,
            }
        })?;
        self.share(key, response);
        if let Some(coding) = self.wanted {
            self.app.store.encoder.want(response, coding);
        }
        Ok(())
    }
}
