//! A route in shadow mode: everything is done but serving.
//!
//! Every request goes to the origin as if nothing were cached. Beside it the store decides as it would, and keeps what
//! came, under keys of its own that are never served. Where it would have answered, the two are compared: so an
//! operator sees on live traffic, without a risk and without a request more, what a rule would do.

use std::borrow::Cow;
use std::sync::Arc;

use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::audit::comparable;
use super::context::Context;
use super::view;
use super::{App, cached};
use crate::clock;
use crate::observe::outcome::Shadowed;
use crate::rules::admission::{self, Admission, Kept};
use crate::rules::client_control::ClientControl;
use crate::rules::freshness::Exchange;
use crate::rules::guard::{self, Inputs, Settled, Witness};
use crate::rules::head::{Field, Fields, ResponseHead};
use crate::rules::identity;
use crate::rules::key::CacheKey;
use crate::rules::lookup::PassReason;
use crate::rules::outgoing::Outgoing;
use crate::rules::route::Route;
use crate::rules::secrets::Secrets;
use crate::rules::selector::Facts;
use crate::rules::verdict::{self, Verdict};
use crate::store::collect::Collected;
use crate::store::fence::Sequence;
use crate::store::response::{Head, StoredResponse};

/// What is watched of one request.
pub struct Shadow {
    route: Arc<Route>,
    primary: CacheKey,
    /// What the request would send, for the variant of its response.
    outgoing: Vec<(String, Vec<u8>)>,
    facts: Facts,
    inputs: Inputs,
    secrets: Secrets,
    begun: Sequence,
    exchange: Exchange,
    max_object_size: u64,
    is_get: bool,
    /// What would have been served.
    hit: Option<Arc<StoredResponse>>,
    response: Option<Coming>,
    result: Shadowed,
}

/// A response on its way to the client.
struct Coming {
    head: Head,
    /// How it would be stored.
    kept: Option<Kept>,
    body: Collected,
}

impl Shadow {
    /// Looks at what the store would do with a request that it may answer.
    pub fn begin(app: &App, session: &Session, ctx: &Context) -> Self {
        let route = ctx.route.clone().expect("only a routed request is judged");
        let policy = &route.cache;
        let view = view::received(session.req_header(), &ctx.client);
        let request = view.head();
        let now = clock::now();
        let primary = CacheKey::primary(&route.name, &request, policy).in_shadow();
        let begun = app.store.memory.begin();
        let inputs = Inputs::of(&request, ctx.client.address, policy);
        let found = cached::stored_for(app, &request, &inputs, policy, &primary);
        let client = ClientControl::heeded(request.fields, policy);
        let freshness = found.response.as_ref().map(|response| response.freshness());
        let would_hit =
            matches!(verdict::judge(freshness.as_ref(), &client, now), Verdict::Hit | Verdict::HitStale(_));
        let owned = |(name, value): (&str, Cow<'_, [u8]>)| (name.to_owned(), value.into_owned());
        let outgoing = Outgoing::of(&request, policy).0.into_iter().map(owned).collect();
        let authorized = identity::is_authorized(request.fields, policy);
        Self {
            outgoing,
            facts: Facts::new(&request, &policy.query, route.tags(&request.target.path)),
            inputs,
            secrets: Secrets::of_request(&request, policy),
            exchange: Exchange { requested_at: now, received_at: now, authorized },
            max_object_size: ctx.live.plan.memory.max_object_size,
            is_get: request.method == "GET",
            hit: found.response.filter(|_| would_hit),
            result: match app.store.memo.reason(&found.key, now) {
                Some(_) => Shadowed::Passed,
                None if would_hit => Shadowed::Unseen,
                None => Shadowed::NotStored,
            },
            response: None,
            primary,
            begun,
            route,
        }
    }

    /// What the request came to.
    pub fn result(&self) -> Shadowed {
        self.result
    }

    /// Takes the head of the origin's response in.
    pub fn head(&mut self, app: &App, response: &ResponseHeader) {
        let status = response.status.as_u16();
        // A part, and what is not modified, cannot be compared with the whole.
        if self.result == Shadowed::Passed || !self.is_get || matches!(status, 206 | 304) {
            return;
        }
        self.exchange.received_at = clock::now();
        let fields = view::response_fields(response);
        let head = ResponseHead { status, fields: Fields::new(&fields) };
        let policy = &self.route.cache;
        let kept =
            match admission::judge(&self.facts.path, &head, policy, self.max_object_size, self.exchange) {
                Admission::Keep(kept) => Some(kept),
                Admission::Discard(_) => None,
            };
        if kept.as_ref().is_some_and(|kept| kept.sets_cookie) {
            self.secrets.set_by(head.fields);
        }
        // A response with a cookie, or one that is not to be stored, is still compared with what would have been served.
        let head = comparable(&head);
        if kept.is_none() && self.hit.is_none() {
            // Nothing to store, and nothing to compare with.
            return;
        }
        let body = app.store.fills.collect(self.max_object_size);
        self.response = Some(Coming { head, kept, body });
        let is_empty =
            |(name, value): &Field<'_>| name.eq_ignore_ascii_case("content-length") && *value == b"0";
        if status == 204 || fields.iter().any(is_empty) {
            // No body will come.
            self.body(app, &[], true);
        }
    }

    /// Takes a part of its body in.
    pub fn body(&mut self, app: &App, chunk: &[u8], ends: bool) {
        let Some(coming) = &mut self.response else { return };
        if let Err(reason) = coming.body.push(chunk) {
            app.observer.metrics.limit(reason.as_str());
            self.response = None;
            return;
        }
        if ends && let Some(coming) = self.response.take() {
            self.result = self.settle(app, coming);
        }
    }

    fn settle(&self, app: &App, coming: Coming) -> Shadowed {
        if let Some(hit) = &self.hit {
            let new = (&coming.head, coming.body.bytes());
            let difference = new
                .0
                .with(|new_head| hit.head.with(|old| guard::difference((old, &hit.body), (new_head, new.1))));
            return difference.map_or(Shadowed::Same, |difference| {
                self.tell(&format!("the store would have served another {difference}"));
                Shadowed::Different
            });
        }
        let Some(kept) = &coming.kept else { return Shadowed::NotStored };
        if coming.head.with(|head| self.secrets.shown_by(head.fields, coming.body.bytes())).is_some() {
            return Shadowed::Personalised;
        }
        let key = self.key(kept);
        let Some(own) = Witness::of(&self.inputs, kept.ambient, &self.route.cache) else {
            self.store(app, &key, coming, None);
            return Shadowed::Miss;
        };
        let stored = [&key, &self.primary]
            .into_iter()
            .find_map(|place| Some((place, app.store.memory.stored(place)?)));
        let new = (&coming.head, coming.body.bytes());
        let settled = stored.as_ref().map_or(Settled::Store(own.clone()), |(_, stored)| {
            stored.settle(&self.inputs, self.exchange.requested_at, new, own)
        });
        match (settled, stored) {
            (Settled::Store(witness), _) => {
                self.store(app, &key, coming, Some(witness));
                Shadowed::Miss
            }
            (Settled::Admit(witness), Some((place, stored))) => {
                let admitting = coming.head.with(|new| stored.admitting(witness, new.fields));
                // Another has taken its place meanwhile: then this visitor is one more miss.
                let _ = app.store.memory.renew(place, &stored, &Arc::new(admitting), self.begun);
                Shadowed::Miss
            }
            (Settled::Mark(difference), Some((place, stored))) => {
                app.store.memory.remove(place, &stored);
                self.mark(app, &key);
                self.tell(&format!("another visitor got another {difference}"));
                Shadowed::Personalised
            }
            (Settled::Mark(_) | Settled::Admit(_) | Settled::Refuse, _) => Shadowed::Personalised,
        }
    }

    /// The key would pass from now on.
    fn mark(&self, app: &App, key: &CacheKey) {
        let period = self.route.cache.personalised_ttl;
        let facts = Arc::new(self.facts.clone());
        app.store.memo.note(key, facts, PassReason::Personalised, period, clock::now());
    }

    fn tell(&self, message: &str) {
        tracing::warn!(route = %self.route.name, key = %self.primary, "shadow: {message}");
    }

    /// The key of the response's variant.
    fn key(&self, kept: &Kept) -> CacheKey {
        if kept.vary.is_empty() {
            return self.primary.clone();
        }
        let sent = self.outgoing.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.primary.variant(&kept.vary, Fields::new(&sent.collect::<Vec<_>>()))
    }

    fn store(&self, app: &App, key: &CacheKey, coming: Coming, witness: Option<Witness>) {
        let Some(kept) = coming.kept else { return };
        let facts = self.facts.of_response(&coming.head.content_type(), &kept.tags);
        let body = coming.body.bytes().to_vec().into();
        let response = StoredResponse::new(coming.head, body, kept.freshness, facts, kept.vary, witness);
        app.store.memory.note_vary(&self.primary, &response.vary);
        // Refused when a purge came meanwhile, or it does not fit: then the next request is one more miss.
        let _ = app.store.memory.insert(key, Arc::new(response), self.begun, self.route.cache.max_variants);
    }
}
