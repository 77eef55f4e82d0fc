//! The answer to a plain hit: a fresh, complete response that may be served as it is stored, or its 304.
//!
//! Everything is decided by [`crate::rules`], as on the full path. Where the rules say anything but that, there is no
//! answer here, and the full path decides anew.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::Version;

use super::caller::Caller;
use super::output::Output;
use crate::clock::{self, Timestamp};
use crate::observe::outcome::Outcome;
use crate::observe::text::{self, Sink};
use crate::proxy::answer::{IN_NOT_MODIFIED, ttl};
use crate::proxy::upstream::via;
use crate::proxy::{App, Live, cached};
use crate::rules::client_control::ClientControl;
use crate::rules::conditional;
use crate::rules::dialect;
use crate::rules::forwarding::Client;
use crate::rules::guard::{self, Inputs};
use crate::rules::head::{Fields, Names, RequestHead};
use crate::rules::headers::HeaderPolicy;
use crate::rules::key::CacheKey;
use crate::rules::outgoing::Outgoing;
use crate::rules::policy::Mode;
use crate::rules::route::{self, Route};
use crate::rules::target::Scheme;
use crate::rules::verdict::{self, Verdict};
use crate::store::forms::Selected;
use crate::store::response::StoredResponse;
use crate::store::sendable::File;

/// Up to here a body is copied behind its head, so that both go in one piece; above, two pieces cost less.
const COPIED: usize = 4 * 1024;

/// A request that may be a hit.
#[derive(Clone, Copy)]
pub struct Asked<'r> {
    /// GET or HEAD.
    pub method: &'r str,
    /// In origin form.
    pub target: &'r str,
    /// Who asks.
    pub caller: &'r Caller<'r>,
    /// When it had come.
    pub started: Instant,
    /// Whether another request may follow on the connection.
    pub keeps: bool,
    /// Whether a body can be sent from a file: on a plain connection of HTTP/1.
    pub takes_files: bool,
}

/// Whether a request of this method and target may be answered here. A target in absolute form is rare.
pub fn is_for_us(method: &str, target: &str) -> bool {
    matches!(method, "GET" | "HEAD") && target.starts_with('/')
}

/// What one request after the other is answered with: the room of the last one's texts.
#[derive(Default)]
pub struct Reused {
    /// The request that is answered.
    pub outcome: Outcome,
    clock: clock::Reading,
    key: Vec<u8>,
    variant: Vec<u8>,
}

thread_local! {
    /// Hits are answered one at a time by each thread, without waiting. With these in every connection, each would have to be
    /// fetched into the processor's caches anew.
    pub static REUSED: RefCell<Reused> = RefCell::default();
}

/// What follows the head that was written.
pub struct Hit {
    /// What of the body is not in the output; often nothing.
    pub body: Bytes,
    /// The same in a file, where there is one.
    pub file: Option<Arc<File>>,
}

/// Writes the head of the answer, if the request is a plain hit.
pub fn hit(
    app: &App,
    live: &Live,
    asked: &Asked<'_>,
    reused: &mut Reused,
    output: &mut Output,
) -> Option<Hit> {
    let Reused { outcome, clock, key, variant } = reused;
    let Asked { method, target, caller, started, keeps, takes_files } = *asked;
    let Caller { client, envelope, .. } = caller;
    if !envelope.has_valid_host() {
        return None;
    }
    let request = envelope.head(method, target);
    let route = route(live, caller, &request)?;
    let now = clock.time_of(started);
    let response = look_up(app, &request, client, route, now, (key, variant))?;
    let selected = select(app, caller, &request, route, &response)?;
    let held = held(&request, &response, &selected);
    if !route.limits.access.lets_in(client.address) {
        return None;
    }
    outcome.renew(now, started);
    outcome.set_request_id(request.fields);
    describe(outcome, asked, route, &response, now);
    outcome.status = if held.is_none() { response.head.status } else { 304 };
    let page = Page { response: &response, selected: &selected, held };
    let policy = &route.response_headers;
    write(output, &page, policy, now);
    let is_set = |name: &str| response.head.delivers(name) && !policy.takes_away(name);
    finish(output, outcome, (client.scheme, policy), (response.head.names(), is_set), keeps);
    let (mut body, mut file) = (Bytes::new(), None);
    if held.is_none() && request.method == "GET" {
        let whole = selected.body(&response);
        outcome.bytes = whole.len() as u64;
        match whole.len() {
            0..=COPIED => output.put(whole),
            _ => {
                body = whole.clone();
                // Only then: it is charged like the body once more.
                file = if takes_files { app.store.file(&response, &selected) } else { None };
            }
        }
    }
    // One that does not fit goes the full way.
    output.whole()?;
    // Last of all, since it counts. Who is beyond a rate is told so by the full path, which counts nothing for it either.
    app.rate(route, &request, client.address, started).ok()?;
    Some(Hit { body, file })
}

/// The route, if it answers from the store and is not watched.
fn route<'l>(live: &'l Live, caller: &Caller<'_>, request: &RequestHead<'_>) -> Option<&'l Route> {
    let route = route::select(&live.plan.routes, request)?;
    let policy = &route.cache;
    // An audit needs a request that can be sent again, and other instances take their time.
    let is_plain = policy.mode == Mode::Enforce && policy.audit == 0.0 && !route.limits.is_shared();
    (is_plain && caller.may_be_looked_up(request, route)).then_some(route)
}

/// What is stored for the request, if that is a hit and can be served whole.
fn look_up(
    app: &App,
    request: &RequestHead<'_>,
    client: &Client,
    route: &Route,
    now: Timestamp,
    (key, variant): (&mut Vec<u8>, &mut Vec<u8>),
) -> Option<Arc<StoredResponse>> {
    let policy = &route.cache;
    if request.fields.has("range") || dialect::asks_for_refresh(request.fields) {
        return None;
    }
    CacheKey::write_primary(key, &route.name, request, policy);
    let response = app.store.memory.lookup_bytes(key, |vary| {
        CacheKey::write_variant(variant, key, vary, Fields::new(&Outgoing::of(request, policy).lend()));
        &*variant
    })?;
    // As a rule it is for everyone.
    if let Some(witness) = response.witness.as_deref() {
        let inputs = Inputs::of(request, client.address, policy);
        if !guard::may_have(&inputs, Some(witness)) {
            return None;
        }
    }
    let control = ClientControl::heeded(request.fields, policy);
    let is_hit = verdict::judge(Some(&response.freshness()), &control, now) == Verdict::Hit;
    let is_whole = !matches!(response.head.status, 204 | 206 | 304);
    (is_hit && is_whole && cached::is_readable(request.fields, &response.head)).then_some(response)
}

/// The representation that the client gets, unless it has to wait for one.
fn select(
    app: &App,
    caller: &Caller<'_>,
    request: &RequestHead<'_>,
    route: &Route,
    response: &StoredResponse,
) -> Option<Selected> {
    let selected = response.select_by(request.fields, &route.encode, |offered| caller.wish(offered));
    if selected.is_refused {
        return None;
    }
    if let Some(coding) = selected.wanted {
        app.store.encoder.want(response, coding);
    }
    Some(selected)
}

/// Whether the client has the page, and by which tag if it is another than that of what it would get.
fn held<'r>(request: &RequestHead<'r>, response: &StoredResponse, selected: &Selected) -> Option<Held<'r>> {
    let is_conditional = request.fields.has("if-none-match") || request.fields.has("if-modified-since");
    // Conditions are about a representation that there is (RFC 9110 section 13.2.1).
    if !is_conditional || !matches!(response.head.status, 200..=299) {
        return None;
    }
    let stored_at = response.freshness().stored_at;
    let own = response.head.etag();
    let tag = || conditional::held_other(request.fields, own, selected.etag(own));
    response
        .head
        .with(|head| conditional::not_modified(request.fields, head.fields, stored_at))
        .then(|| Held { tag: tag() })
}

/// What a client has that gets a 304.
#[derive(Clone, Copy)]
struct Held<'r> {
    tag: Option<&'r [u8]>,
}

/// What is sent.
struct Page<'p> {
    response: &'p StoredResponse,
    selected: &'p Selected,
    held: Option<Held<'p>>,
}

/// Notes what is told of the request.
fn describe(
    outcome: &mut Outcome,
    asked: &Asked<'_>,
    route: &Route,
    response: &StoredResponse,
    now: Timestamp,
) {
    let freshness = response.freshness();
    outcome.client = Some(asked.caller.client.address);
    outcome.method.push_str(asked.method);
    outcome.host.push_str(asked.caller.envelope.host());
    outcome.target.push_str(asked.target);
    outcome.set_route(&route.name);
    outcome.verdict = Some(Verdict::Hit);
    outcome.ttl = Some(ttl(freshness.lifetime, freshness.age(now)));
}

/// Writes the head of the answer, as far as it is that of the page.
fn write(output: &mut Output, page: &Page<'_>, policy: &HeaderPolicy, now: Timestamp) {
    let Page { response, selected, held } = page;
    let head = &response.head;
    let etag = held.and_then(|held| held.tag).or(selected.etag(head.etag()));
    output.status_line(if held.is_none() { head.status } else { 304 });
    if held.is_some() {
        let repeated = |name: &str| IN_NOT_MODIFIED.iter().any(|kept| kept.eq_ignore_ascii_case(name));
        let (before, after) = head.fields_around_etag();
        before
            .chain(after)
            .filter(|(name, _)| repeated(name) && !policy.takes_away(name))
            .for_each(|(name, value)| output.field(name, value));
    } else {
        if policy.touches(head.names()) {
            let (before, after) = head.fields_around_etag();
            let fields = before.chain(after).filter(|(name, _)| !policy.takes_away(name));
            fields.for_each(|(name, value)| output.field(name, value));
        } else {
            let (before, after) = head.lines_around_etag();
            output.put(before);
            output.put(after);
        }
        if let Some(form) = &selected.form {
            output.field("Content-Encoding", form.coding.as_str().as_bytes());
        }
        output.put(b"Content-Length: ");
        text::number(output, selected.body(response).len() as u64);
        output.put(b"\r\n");
    }
    if let Some(etag) = etag {
        output.field("ETag", etag);
    }
    if selected.adds_vary {
        output.put(b"Vary: Accept-Encoding\r\n");
    }
    output.put(b"Age: ");
    text::number(output, response.freshness().age(now).as_secs());
    output.put(b"\r\nVia: ");
    output.put(via(Version::HTTP_11).as_bytes());
    output.put(b"\r\n");
}

/// Writes what every response carries, and the end of the head: a line's end together with the next one's name, since
/// this is written for every hit.
pub fn finish(
    output: &mut Output,
    outcome: &mut Outcome,
    (scheme, policy): (Scheme, &HeaderPolicy),
    (present, is_set): (Names, impl Fn(&str) -> bool),
    keeps: bool,
) {
    outcome.first_byte = Some(outcome.elapsed());
    output.put(b"Cache-Status: ");
    outcome.write_cache_status(output);
    output.put(b"\r\nX-Request-ID: ");
    output.put(outcome.request_id.as_bytes());
    output.put(b"\r\nX-Processing-Time: ");
    outcome.write_processing_time(output);
    output.put(b"\r\nServer-Timing: ");
    outcome.write_server_timing(output);
    output.put(b"\r\n");
    let (status, is_https) = (outcome.status, scheme == Scheme::Https);
    match policy.lines(status, is_https, present) {
        Some(lines) => output.put(lines.as_bytes()),
        None => policy
            .written(status, is_https, is_set)
            .for_each(|(name, value)| output.field(name, value.as_bytes())),
    }
    let connection: &[u8] =
        if keeps { b"Connection: keep-alive\r\n\r\n" } else { b"Connection: close\r\n\r\n" };
    output.put(connection);
}
