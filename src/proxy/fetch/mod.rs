//! A fetch for the store: one subrequest of our own, whose response goes into a fill.
//!
//! It runs in its own task. The client that caused it reads the fill like every other, so it may leave, or read
//! slowly, without harm to the response or to those who wait for it. What becomes of a complete response is in
//! [`settle`]; what other instances have to do with it, in [`recall`].

mod order;
mod recall;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::subrequest::server::SubrequestHandle;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

pub use order::{Blank, Order, Terms, accept_order, subrequest};

use super::context::Context;
use super::view;
use super::wire::END_OF_DATES;
use super::{App, Live, encode, exchange, upstream};
use crate::clock::{self, Timestamp};
use crate::origin::queue::Urgency;
use crate::rules::admission::{self, Admission, DiscardReason, Kept};
use crate::rules::encoding::Coding;
use crate::rules::freshness::{Exchange, OriginFailure, age_value, date_value};
use crate::rules::guard::{Inputs, Settled, Witness};
use crate::rules::head::{Fields, ResponseHead};
use crate::rules::identity;
use crate::rules::key::{CacheKey, Vary};
use crate::rules::lookup::PassReason;
use crate::rules::policy::SetCookie;
use crate::rules::request::Received;
use crate::rules::route::Route;
use crate::rules::secrets::{Secrets, Shown};
use crate::rules::validation::{self, Validation};
use crate::shared::lock::Held;
use crate::shared::log::Mark;
use crate::store::fence::Sequence;
use crate::store::fill::{Failure, Filler, Opening, Streaming};
use crate::store::fills::{Lease, Place};
use crate::store::memory::{Found, Refused};
use crate::store::response::{Head, StoredResponse};

/// How long a body may go on coming when nobody reads it any longer: it would hold a worker of the origin.
const UNREAD_LIMIT: Duration = Duration::from_secs(30);

/// What is fetched.
pub struct Target {
    /// The key that all its variants share.
    pub primary: CacheKey,
    /// What is stored under the key that the request selects.
    pub stored: Found,
    /// What of the request reaches the origin and is not in the key.
    pub inputs: Inputs,
    /// Whether only the head is asked for, to freshen what is stored.
    pub as_head: bool,
    /// How urgent it is.
    pub urgency: Urgency,
}

/// A fetch and all it needs to store its response.
pub struct Job {
    app: App,
    live: Arc<Live>,
    route: Arc<Route>,
    primary: CacheKey,
    /// The key that the request selects.
    key: CacheKey,
    /// What is stored under it, and has to be validated.
    expired: Option<Arc<StoredResponse>>,
    /// What of the request reaches the origin and is not in the key.
    inputs: Inputs,
    /// What no shared body may show.
    secrets: Secrets,
    as_head: bool,
    /// The coding that who caused it likes best.
    wanted: Option<Coding>,
    /// Whether it carries `Authorization` that is not in the key (RFC 9111 section 3.5).
    authorized: bool,
    begun: Sequence,
    /// The last entry of the log of all purges that was read when it began, if all were.
    mark: Option<Mark>,
    /// What keeps other instances from fetching the same.
    held: Option<Arc<Held>>,
    requested_at: Timestamp,
    filler: Filler,
    lease: Lease,
}

/// What follows the head.
enum Next {
    /// The fetch is over for its readers; whatever body comes is not wanted.
    Settled,
    /// The body goes to the readers, and into the store if it is kept.
    Body { key: CacheKey, head: Head, kept: Option<Box<Kept>>, length: Option<u64> },
}

/// Starts the fetch of `target`, for the route of the request, in a task of its own. Tells whether it is sent as a
/// stranger would: then what it brings may not be for who caused it.
pub fn start(
    app: &App,
    session: &Session,
    (view, ctx): (&Received<'_>, &Context),
    route: &Arc<Route>,
    target: Target,
    place: Place,
) -> Result<bool> {
    let head = view.head();
    let expired = target.stored.response;
    let is_stranger = target.inputs.person().is_none();
    let as_stranger = !is_stranger && is_public(expired.as_deref());
    let mut job = Job {
        app: app.clone(),
        live: ctx.live.clone(),
        route: route.clone(),
        primary: target.primary,
        key: target.stored.key,
        // Nothing stored: then the whole is fetched.
        as_head: target.as_head && expired.is_some(),
        wanted: encode::wanted(head.fields, route),
        authorized: !as_stranger && identity::is_authorized(head.fields, &route.cache),
        secrets: Secrets::of_request(&head, &route.cache),
        expired,
        inputs: if as_stranger { target.inputs.of_stranger() } else { target.inputs },
        begun: place.begun,
        mark: None,
        held: None,
        requested_at: clock::now(),
        filler: place.filler,
        lease: place.lease,
    };
    let expired = job.expired.as_deref();
    let mut request = match as_stranger {
        true => upstream::for_stranger(view, &route.cache, expired, ctx)?,
        false => upstream::for_fetch(view, &route.cache, expired, ctx)?,
    };
    if job.as_head {
        request.set_method(Method::HEAD);
    }
    let order = Order {
        request: request.clone(),
        route: route.clone(),
        live: job.live.clone(),
        terms: Terms {
            urgency: target.urgency,
            fill: Some(job.filler.0.clone()),
            hash: ctx.pool().map_or(0, |pool| exchange::hash(&head, &ctx.client, &pool.settings.balance)),
        },
    };
    let (subrequest, handle) = subrequest(&app.blank, session, order)?;
    tokio::spawn(async move {
        if job.recall(&request).await {
            job.filler.open(Opening::Recalled);
            job.app.observer.metrics.fetch("recalled");
            return;
        }
        tokio::join!(subrequest.run(), job.receive(handle, request));
    });
    Ok(as_stranger)
}

/// Whether a stranger got what is stored. Then it is refreshed as a stranger, so that whoever refreshes it shows that it is
/// still public.
fn is_public(stored: Option<&StoredResponse>) -> bool {
    stored.and_then(|stored| stored.witness.as_deref()).is_some_and(Witness::is_public)
}

impl Job {
    /// Takes the response in.
    async fn receive(mut self, mut handle: SubrequestHandle, request: RequestHeader) {
        let app = self.app.clone();
        let Some(response) = self.head(&mut handle).await else {
            self.fail(&mut handle);
            app.observer.metrics.fetch("failed");
            return;
        };
        let result = match self.open(&response, &request) {
            Next::Settled => "settled",
            Next::Body { key, head, kept, length } => {
                self.receive_body(&mut handle, key, head, kept, length).await
            }
        };
        app.observer.metrics.fetch(result);
    }

    /// Decides what the head means, and tells the readers.
    fn open(&mut self, response: &ResponseHeader, request: &RequestHeader) -> Next {
        let received_at = clock::now();
        let exchange = Exchange { requested_at: self.requested_at, received_at, authorized: self.authorized };
        let mut fields = view::response_fields(response);
        let date = date(Fields::new(&fields), received_at);
        fields.retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
        fields.push(("Date", date.as_bytes()));
        let head = ResponseHead { status: response.status.as_u16(), fields: Fields::new(&fields) };
        if let Some(expired) = self.expired.clone() {
            if head.status == 304 {
                let opening = self.validate(&expired, head, exchange);
                self.filler.open(opening);
                return Next::Settled;
            }
            let failure = OriginFailure::told_by(head.status);
            if let Some(reason) =
                failure.and_then(|failure| expired.freshness().stands_in(failure, received_at))
            {
                self.filler.open(Opening::StandIn(expired, reason));
                return Next::Settled;
            }
        }
        if head.status == 304 {
            let message = "the origin answered 304 to a request without conditions";
            self.filler.open(Opening::Failed(Failure::Unreachable, message.into()));
            return Next::Settled;
        }
        let max_object_size = self.live.plan.memory.max_object_size;
        let path = &self.filler.0.facts.path;
        let admission = admission::judge(path, &head, &self.route.cache, max_object_size, exchange);
        let next = match (admission, self.expired.clone()) {
            (Admission::Keep(_), Some(expired)) if self.as_head => {
                // It freshens what is stored, or shows that it has been replaced (RFC 9111 section 4.3.5).
                if self.is_freshened_by(&expired, head) {
                    let opening = self.validate(&expired, head, exchange);
                    self.filler.open(opening);
                    return Next::Settled;
                }
                self.remove(&self.key, &expired);
                self.open_new(head, Admission::Discard(DiscardReason::Head), request)
            }
            (admission, _) => self.open_new(head, admission, request),
        };
        // The response to a HEAD is over with its head.
        if self.as_head { Next::Settled } else { next }
    }

    /// Whether what it finds out may be true for one person only, and no news to the others.
    fn is_personal(&self) -> bool {
        self.authorized || self.inputs.person().is_some()
    }

    /// Whether nobody has read along for too long.
    fn is_abandoned(&self) -> bool {
        self.filler.is_unread() && clock::now().since(self.requested_at) > UNREAD_LIMIT
    }

    fn is_freshened_by(&self, expired: &StoredResponse, head: ResponseHead<'_>) -> bool {
        let length = expired.body.len() as u64;
        let same = |stored: ResponseHead<'_>| validation::freshens(stored.fields, length, head.fields);
        head.status == expired.head.status && expired.head.with(same)
    }

    fn open_new(&mut self, head: ResponseHead<'_>, admission: Admission, request: &RequestHeader) -> Next {
        // Chunks say where the body ends, whatever a length beside them says (RFC 9112 section 6.3).
        let length = head.fields.text("content-length").and_then(|length| length.trim().parse().ok());
        let length = length.filter(|_| !head.fields.has("transfer-encoding"));
        let mut stored_head = Head::storable(&head);
        let (mut for_leader, mut witness) = (None, None);
        let (key, kept, discard) = match admission {
            Admission::Keep(kept) => {
                witness = Witness::of(&self.inputs, kept.ambient, &self.route.cache);
                let key = self.settle_variant(&kept, witness.is_some(), request);
                self.secrets.set_by(head.fields);
                (stored_head, for_leader) = self.shared(stored_head, &kept);
                (key, Some(Box::new(kept)), None)
            }
            Admission::Discard(reason) => {
                self.forget(reason, head.status);
                (self.key.clone(), None, Some(reason))
            }
        };
        let streaming = Streaming {
            head: stored_head.clone(),
            for_leader,
            length,
            vary: kept.as_ref().map(|kept| kept.vary.clone()).unwrap_or_default(),
            key: key.clone(),
            discard,
            age: head.fields.has("age").then(|| age_value(head.fields).as_secs()),
            witness,
            is_sealed: kept.is_some() && !self.secrets.is_empty(),
            is_personal: self.is_personal(),
        };
        self.filler.open(Opening::Streaming(Arc::new(streaming)));
        Next::Body { key, head: stored_head, kept, length }
    }

    /// The head that is stored and shared, and the one for who caused the fetch where they differ.
    fn shared(&self, head: Head, kept: &Kept) -> (Head, Option<Head>) {
        let strips_cookies = self.route.cache.set_cookie == SetCookie::Strip;
        let head = if strips_cookies { head.without(&["set-cookie"]) } else { head };
        match kept.withheld.is_empty() {
            true => (head, None),
            false => (head.without(&kept.withheld), Some(head)),
        }
    }

    /// The key of the variant that the request selects.
    fn variant(&self, vary: &Vary, request: &RequestHeader) -> CacheKey {
        let fields: Vec<_> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        self.primary.variant(vary, Fields::new(&fields))
    }

    /// The key of the response's variant; requests for other variants stop waiting for this one.
    fn settle_variant(&mut self, kept: &Kept, is_watched: bool, request: &RequestHeader) -> CacheKey {
        let key = if kept.vary.is_empty() {
            self.primary.clone()
        } else {
            if !is_watched {
                // A watched one has first to be compared with what lies there.
                self.app.store.memory.note_vary(&self.primary, &kept.vary);
            }
            self.variant(&kept.vary, request)
        };
        self.lease.move_to(&fill_key(&key, &self.inputs, self.expired.is_some()));
        key
    }

    /// A response that is not stored replaces what was, and the next requests need not wait for its like.
    fn forget(&self, reason: DiscardReason, status: u16) {
        // A stranger is kept from what was public.
        let hides = is_public(self.expired.as_deref()) && reason.hides_the_page(status);
        if self.is_personal() || !(hides || reason.ends_the_page(status)) {
            return;
        }
        if let Some(expired) = &self.expired {
            self.remove(&self.key, expired);
            if expired.freshness().remaining(self.requested_at).is_some() {
                // One client asked for fresher: the others need not pay for what it got.
                return;
            }
        }
        let period = self.route.cache.uncacheable_ttl;
        let facts = Arc::new(self.filler.0.facts.clone());
        self.app.store.memo.note(&self.key, facts, PassReason::Uncacheable, period, clock::now());
    }

    /// Renews what is stored, with the fields that a 304 has brought: they are a visitor's as those of any response.
    fn renew(&self, expired: &Arc<StoredResponse>, merged: &ResponseHead<'_>, kept: Kept) -> Opening {
        let (head, _) = self.shared(Head::storable(merged), &kept);
        if let Some((shown, reason)) = self.shows_a_secret(&self.key, &head, &expired.body) {
            if shown == Shown::Set {
                self.remove(&self.key, expired);
            }
            return Opening::Validated(expired.clone(), Some(reason));
        }
        let own = Witness::of(&self.inputs, kept.ambient, &self.route.cache);
        let settled =
            own.map(|own| expired.settle(&self.inputs, self.requested_at, (&head, &expired.body), own));
        let response = match settled {
            None => self.response(head, expired.body.clone(), kept, None),
            Some(Settled::Store(witness)) => self.response(head, expired.body.clone(), kept, Some(witness)),
            Some(Settled::Admit(witness)) => {
                Arc::new(head.with(|new| expired.admitting(witness, new.fields)))
            }
            Some(Settled::Refuse | Settled::Mark(_)) => {
                return Opening::Validated(expired.clone(), Some(DiscardReason::Personalised));
            }
        };
        match self.app.store.memory.renew(&self.key, expired, &response, self.begun) {
            Ok(()) => {
                self.share(&self.key, &response);
                Opening::Validated(response, None)
            }
            Err(Refused::Superseded) => Opening::Again,
            Err(Refused::Purged) => Opening::Validated(response, Some(DiscardReason::Purged)),
            Err(Refused::TooLarge) => Opening::Validated(response, Some(DiscardReason::TooLarge)),
        }
    }

    /// Applies a 304 (RFC 9111 section 4.3.4).
    fn validate(
        &mut self,
        expired: &Arc<StoredResponse>,
        head: ResponseHead<'_>,
        exchange: Exchange,
    ) -> Opening {
        let stored = expired.head.fields();
        let mut fields = match validation::apply(Fields::new(&stored), head.fields) {
            Validation::Holds(fields) => fields,
            Validation::OtherRepresentation => {
                self.remove(&self.key, expired);
                return Opening::Again;
            }
        };
        self.secrets.set_by(head.fields);
        // It is not stored, but counts: the 304 may come out of a cache further in.
        fields.extend(head.fields.first("age").map(|age| ("age", age)));
        let merged = ResponseHead { status: expired.head.status, fields: Fields::new(&fields) };
        let max_object_size = self.live.plan.memory.max_object_size;
        let path = &self.filler.0.facts.path;
        match admission::judge(path, &merged, &self.route.cache, max_object_size, exchange) {
            // What is stored without its new variants would be served to all of them.
            Admission::Keep(kept) if kept.vary != expired.vary => {
                self.remove(&self.key, expired);
                Opening::Again
            }
            Admission::Keep(kept) => self.renew(expired, &merged, kept),
            // It holds for one person, and says nothing to the others.
            Admission::Discard(reason) if self.is_personal() => {
                Opening::Validated(expired.clone(), Some(reason))
            }
            // What it has become (private, with a cookie) is for the client that asks for it without conditions.
            Admission::Discard(_) => {
                self.remove(&self.key, expired);
                Opening::Again
            }
        }
    }

    /// Hands the body to the readers and, once complete, to the store. Returns what became of it.
    async fn receive_body(
        self,
        handle: &mut SubrequestHandle,
        key: CacheKey,
        head: Head,
        mut kept: Option<Box<Kept>>,
        length: Option<u64>,
    ) -> &'static str {
        let max_object_size = self.live.plan.memory.max_object_size;
        let mut received: u64 = 0;
        loop {
            let (chunk, end) = match handle.rx.recv().await {
                Some(HttpTask::Body(chunk, end)) => (chunk.unwrap_or_default(), end),
                Some(HttpTask::Done) => (Bytes::new(), true),
                Some(HttpTask::Trailer(_) | HttpTask::Header(..)) => continue,
                Some(HttpTask::UpgradedBody(..) | HttpTask::Failed(_)) | None => return "broken",
            };
            received += chunk.len() as u64;
            if kept.is_some() && received > max_object_size {
                self.filler.stop_keeping();
                self.forget(DiscardReason::TooLarge, head.status);
                self.app.observer.metrics.limit(DiscardReason::TooLarge.as_str());
                kept = None;
            }
            let last = end || Some(received) == length;
            if last && kept.is_some() {
                self.filler.append_last(chunk);
                break;
            }
            match self.filler.push(chunk).await {
                Ok(true) => {}
                Ok(false) if kept.take().is_some() => {
                    self.app.observer.metrics.limit(DiscardReason::FillLimit.as_str());
                }
                Ok(false) => {}
                Err(_) => return "abandoned",
            }
            if last {
                break;
            }
            if self.is_abandoned() {
                return "abandoned";
            }
        }
        let stored = kept.zip(self.filler.body()).map(|(kept, body)| self.settle(&key, head, body, *kept));
        // In the store before the fill leaves the table and before a reader has the last byte: whoever asks next
        // finds one or the other.
        self.filler.finish();
        drop(self.lease);
        // The subrequest ends by itself, so that its connection can be used again.
        while handle.rx.recv().await.is_some() {}
        match stored {
            Some(Ok(())) => "stored",
            Some(Err(reason)) => reason.as_str(),
            None => "discarded",
        }
    }

    /// No head came: something stored stands in, or the readers hear of the failure.
    fn fail(self, handle: &mut SubrequestHandle) {
        let (failure, message) = match handle.subreq_proxy_error.try_recv() {
            Ok(error) => (classify(&error), error.to_string()),
            Err(_) => (Failure::Internal, "the fetch ended without an answer".to_owned()),
        };
        tracing::warn!(route = %self.route.name, key = %self.key, error = message, "fetch failed");
        let stand_in = self.expired.as_ref().and_then(|expired| {
            let reason = expired.freshness().stands_in(OriginFailure::Disconnect, clock::now())?;
            Some(Opening::StandIn(expired.clone(), reason))
        });
        let must_validate = self.expired.as_ref().is_some_and(|expired| expired.freshness().stale_forbidden);
        let failure = if must_validate { Failure::Unvalidated } else { failure };
        self.filler.open(stand_in.unwrap_or_else(|| Opening::Failed(failure, message.into())));
    }

    /// Waits for the final head; interim ones are handed to the leader, and never stored.
    async fn head(&self, handle: &mut SubrequestHandle) -> Option<Box<ResponseHeader>> {
        loop {
            match handle.rx.recv().await? {
                HttpTask::Header(head, _) if head.status.is_informational() => {
                    let fields = view::response_fields(&head);
                    let interim = ResponseHead { status: head.status.as_u16(), fields: Fields::new(&fields) };
                    if !self.filler.interim(Head::storable(&interim).without(&["set-cookie"])) {
                        self.app.observer.metrics.limit("interim");
                    }
                    if self.is_abandoned() {
                        return None;
                    }
                }
                HttpTask::Header(head, _) => return Some(head),
                HttpTask::Failed(_) => return None,
                _ => {}
            }
        }
    }
}

/// The key under which a fetch of `key` can be joined by requests with these inputs. Where something is stored for them
/// all share one, to validate it; else another person's fetch is nothing to wait for, since what it brings is not for
/// them.
pub fn fill_key(key: &CacheKey, inputs: &Inputs, has_stored: bool) -> CacheKey {
    let person = if has_stored { None } else { inputs.person() };
    person.map_or_else(|| key.clone(), |person| key.of_person(&person))
}

/// The `Date` of a response in the one format that may be sent (RFC 9110 section 5.6.7): whoever receives a response without
/// one records when it came (section 6.6.1).
fn date(response: Fields<'_>, received_at: Timestamp) -> String {
    let own = date_value(response).filter(|date| Timestamp::from(*date).0 < END_OF_DATES * 1000);
    httpdate::fmt_http_date(own.unwrap_or_else(|| received_at.into()))
}

fn classify(error: &Error) -> Failure {
    use ErrorType::{ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
    if let Some(unavailable) = exchange::unavailable(error) {
        return Failure::Unavailable(unavailable);
    }
    match error.etype() {
        ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout => Failure::Timeout,
        _ => Failure::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_without_a_valid_date_gets_the_moment_it_came() {
        let given = |lines: &[(&str, &[u8])]| date(Fields::new(lines), Timestamp(784_111_777_000));
        let moment = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(given(&[]), moment);
        assert_eq!(given(&[("DATE", b"yesterday")]), moment);
        let own = "Mon, 07 Nov 1994 08:49:37 GMT";
        assert_eq!(given(&[("Date", own.as_bytes())]), own);
    }
}
