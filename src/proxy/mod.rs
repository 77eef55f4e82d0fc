//! The full path of a request, as Pingora's `ProxyHttp`: a list of verbs.
//!
//! 1. **identify** the client and give the request an id,
//! 2. **refuse** what is not for an application,
//! 3. **route** it,
//! 4. **judge** whether the store may answer; if not, Pingora passes it to the origin,
//! 5. **serve** it from the store or from a fetch that all requests for the key share ([`cached`]),
//! 6. **invalidate** what a successful write changed, before the client sees the answer,
//! 7. **record** the outcome.
//!
//! A fetch for the store ([`fetch`]) is a subrequest: it takes the same upstream hooks as any other request, but
//! its response goes into a [`crate::store::fill`] and not to a client, so that no client can slow it down or
//! break it off. Pingora's own cache is not used: it ties a fill to its first client, and decides for itself what
//! [`crate::rules`] has to decide.

pub mod answer;
mod audit;
pub mod cached;
mod context;
mod deadline;
mod encode;
mod exchange;
mod extract;
mod fetch;
mod leaving;
pub mod limits;
pub mod purge;
mod shadow;
pub mod upstream;
pub mod view;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{Error, Result};
use tokio::sync::{Notify, Semaphore};

use crate::clock;
use crate::observe::Observer;
use crate::observe::audit::AuditLog;
use crate::observe::metrics::Cause;
use crate::observe::outcome::Local;
use crate::origin::Pools;
use crate::plan::Plan;
use crate::plan::listeners::CHALLENGES;
use crate::rules::admission::{self, Admission};
use crate::rules::client_control::ClientControl;
use crate::rules::dialect;
use crate::rules::framing;
use crate::rules::freshness::Exchange;
use crate::rules::head::{Fields, ResponseHead};
use crate::rules::identity;
use crate::rules::invalidate::Expires;
use crate::rules::lookup::{self, PassReason};
use crate::rules::policy::{Mode, QueryPolicy};
use crate::rules::request::Received;
use crate::rules::route;
use crate::rules::selector::Selector;
use crate::rules::target::Scheme;
use crate::rules::verdict::Verdict;
use crate::shared::Shared;
use crate::store::Store;
pub use context::Active;
use context::{Context, Kind};
pub use fetch::Blank;
use limits::Limits;
use shadow::Shadow;

/// Methods that only reflect a request, or refresh a cache. No application expects them.
const REFUSED_METHODS: &[&str] = &["REFRESH", "TRACE", "TRACK"];

/// What a reload replaces as a whole.
pub struct Live {
    /// The configuration.
    pub plan: Plan,
    /// Its upstreams, looked up.
    pub pools: Pools,
    /// The routes that an audit has tripped.
    pub tripped: audit::Tripped,
}

impl Live {
    /// A configuration that goes live, with nothing tripped.
    pub fn new(plan: Plan, pools: Pools) -> Self {
        Self { plan, pools, tripped: audit::Tripped::default() }
    }
}

/// The proxy: what is configured, what is stored, what is observed.
pub struct Parvis {
    /// Swapped on reload; a request keeps the one it began with.
    pub live: ArcSwap<Live>,
    /// Survives reloads.
    pub store: Arc<Store>,
    /// Where outcomes go.
    pub observer: Observer,
    /// Requests and fetches under way.
    pub active: Arc<AtomicUsize>,
    /// Places for purges that follow a write of unknown outcome.
    pub late_purges: Arc<Semaphore>,
    /// One purge of many entries is carried out at a time: it takes a processor.
    pub sweeps: Semaphore,
    /// Who purged what.
    pub audit: AuditLog,
    /// Places for audits of hits.
    pub audits: Arc<Semaphore>,
    /// What is known of clients for the limits of routes.
    pub limits: Arc<Limits>,
    /// What is shared with other instances, if anything.
    pub shared: Option<Arc<Shared>>,
    /// What subrequests are made from.
    pub blank: Blank,
    /// Tells who looks after the pools that there are others.
    pub reloaded: Notify,
}

/// The most audits at once: they are load that nobody waits for.
pub const MAX_AUDITS: usize = 16;

/// The most purges that wait to follow a write of unknown outcome.
pub const MAX_LATE_PURGES: usize = 1024;

impl Parvis {
    /// How many requests and fetches are under way.
    pub fn active_requests(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

/// [`Parvis`] as Pingora's application. The newtype lets the admin listener share the same instance.
#[derive(Clone)]
pub struct App(pub Arc<Parvis>);

impl std::ops::Deref for App {
    type Target = Parvis;

    fn deref(&self) -> &Parvis {
        &self.0
    }
}

#[async_trait]
impl ProxyHttp for App {
    // On the heap: Pingora moves it, and holds room for it in each of the futures around a request.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Context::new(self.live.load_full(), &self.active))
    }

    /// A subrequest of ours becomes what its order says, before anything looks at it.
    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        if fetch::accept_order(session, ctx)? {
            // Its reader is a fill, whose own readers have the client's timeouts.
            return Ok(());
        }
        ctx.version = session.req_header().version;
        if ctx.version == http::Version::HTTP_2 {
            // Pingora makes subrequests out of the bytes of a head, and writes `HTTP/2` into those of this one, which it then
            // cannot read. What tells the two apart is the session, and here `ctx.version`.
            session.req_header_mut().set_version(http::Version::HTTP_11);
        }
        if session.req_header().version == http::Version::HTTP_10
            && let ServerSession::H1(http1) = session.as_downstream_mut()
        {
            // It knows no interim responses (RFC 9110 section 15.2).
            http1.set_ignore_info_resp(true);
        }
        let fields = view::request_fields(session.req_header());
        if !framing::persists(1, Fields::new(&fields)) {
            // Pingora looks at the first line only.
            session.set_keepalive(None);
        }
        let stall_timeout = ctx.live.plan.clients.stall_timeout;
        session.set_read_timeout(Some(stall_timeout));
        session.set_write_timeout(Some(stall_timeout));
        session.set_total_drain_timeout(Some(stall_timeout));
        Ok(())
    }

    fn allow_spawning_subrequest(&self, _session: &Session, ctx: &Self::CTX) -> bool {
        matches!(ctx.kind, Kind::Client)
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        if let Kind::Fetch(_) = ctx.kind {
            return Ok(false);
        }
        self.identify(session, ctx);
        if dialect::is_purge(session.req_header().method.as_str()) {
            return self.answer_purge(session, ctx).await.map(|()| true);
        }
        if let Err(local) = route(session, ctx) {
            return answer::local(session, ctx, local).await.map(|()| true);
        }
        if let Err(local) = self.limit(session, ctx).await {
            return answer::local(session, ctx, local).await.map(|()| true);
        }
        if upstream::forwards_left(session.req_header()) == Some(0) {
            return answer::local(session, ctx, Local::MaxForwards).await.map(|()| true);
        }
        let reason = match self.judge(session, ctx) {
            Ok(()) if ctx.mode() == Mode::Shadow => {
                ctx.shadow = Some(Box::new(Shadow::begin(self, session, ctx)));
                PassReason::Shadow
            }
            Ok(()) => match cached::serve(self, session, ctx).await? {
                cached::Served::Answered => return Ok(true),
                cached::Served::Pass(reason) => reason,
            },
            Err(_) if self.wants_stored_only(session, ctx) => {
                ctx.outcome.verdict = Some(Verdict::OnlyIfCached);
                return answer::local(session, ctx, Local::OnlyIfCached).await.map(|()| true);
            }
            Err(reason) => reason,
        };
        ctx.outcome.verdict = Some(Verdict::Pass(reason));
        if let Err(local) = self.enter(ctx) {
            return answer::local(session, ctx, local).await.map(|()| true);
        }
        // A write is carried through although its client leaves: only the answer tells that it is done.
        let is_safe = view::received(session.req_header(), &ctx.client).head().is_safe();
        session.set_abort_on_close(is_safe);
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        exchange::begin(self, session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        number: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        exchange::connected(ctx, number);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        exchange::sends(ctx, request.version);
        match ctx.kind {
            // Its head was made when it was ordered.
            Kind::Fetch(_) => Ok(()),
            Kind::Client => upstream::for_pass(session.req_header(), request, ctx),
        }?;
        if ctx.shadow.is_some() {
            // As a fetch would be answered: what is compressed anew each time cannot be compared.
            request.insert_header("Accept-Encoding", "identity")?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        ends: bool,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        exchange::received(ctx, body.as_ref().map_or(0, Bytes::len), ends)?;
        if ends {
            exchange::sent(ctx);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        upstream::refuse_unasked_upgrade(session.req_header(), response)?;
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            exchange::switched(session, ctx);
        }
        if response.status.is_informational() {
            exchange::interim(ctx);
            return Ok(());
        }
        upstream::settle_transfer_coding(response)?;
        exchange::answered(self, session, ctx, response.status.as_u16())?;
        self.note_origin_time(ctx);
        if matches!(ctx.kind, Kind::Client)
            && (response.status.is_success() || response.status.is_redirection())
        {
            self.invalidate(session, Some(response), ctx).await;
        }
        if matches!(ctx.kind, Kind::Client) {
            self.watch(session, response, ctx);
        }
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        ends: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if let Some(shadow) = &mut ctx.shadow {
            shadow.body(self, body.as_deref().unwrap_or_default(), ends);
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if session.req_header().version == http::Version::HTTP_10 {
            // It knows no chunks: there the end of the connection ends the body.
            response.remove_header("transfer-encoding");
        }
        match ctx.kind {
            Kind::Fetch(_) => {}
            Kind::Client if response.status.is_informational() => answer::strip_tags(response, ctx),
            Kind::Client => {
                encode::passed(self, session, ctx, response)?;
                if response.status != http::StatusCode::SWITCHING_PROTOCOLS {
                    answer::remove_hop_by_hop(response);
                }
                answer::decorate(response, ctx)?;
                if ctx.encoding.is_some() {
                    // The origin's may be 1.0, which knows no chunks.
                    response.set_version(http::Version::HTTP_11);
                }
                wire::keep_date(session, response);
            }
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        ends: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if let Some(encoding) = &mut ctx.encoding {
            *body = encoding.chunk(body.take(), ends)?;
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        exchange::not_connected(self, session, ctx, error)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Self::CTX,
        was_reused: bool,
    ) -> Box<Error> {
        let error = error.more_context(format!("server {}", peer.address()));
        exchange::broken(self, session, ctx, error, was_reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        if let Kind::Fetch(_) = ctx.kind {
            // Its readers hear of it through the fill.
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        ctx.outcome.error = Some(error.to_string());
        if ctx.connected {
            // A write whose answer was lost, or not waited for, may have been carried out.
            self.invalidate(session, None, ctx).await;
            self.invalidate_again(session, ctx);
        }
        let status = answer::failure(session, ctx, error).await;
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Self::CTX) {
        // What is left to do is between parvis and the client.
        if let Some(mut lease) = ctx.lease.take().filter(|_| error.is_some()) {
            lease.broken_off();
        }
        if let Kind::Fetch(_) = ctx.kind {
            return;
        }
        let outcome = &mut ctx.outcome;
        let final_head = session.response_written().filter(|head| {
            !head.status.is_informational() || head.status == http::StatusCode::SWITCHING_PROTOCOLS
        });
        outcome.status = final_head.map_or(outcome.status, |head| head.status.as_u16());
        outcome.bytes = session.body_bytes_sent() as u64;
        if outcome.error.is_none() {
            outcome.error = error.map(ToString::to_string);
        }
        if error.is_some_and(|error| wire::is_too_slow(error.root_cause())) {
            self.observer.metrics.limit("min_rate");
        }
        outcome.shadow = ctx.shadow.as_ref().map(|shadow| shadow.result());
        outcome.finish();
        let plan = &ctx.live.plan;
        self.observer.record(outcome, plan.access_log, plan.slow_request);
    }

    // The access log tells of failures, once; Pingora's own lines would repeat them.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

impl App {
    fn identify(&self, session: &Session, ctx: &mut Context) {
        ctx.client = view::client(session, &ctx.live.plan.trust);
        let view = view::received(session.req_header(), &ctx.client);
        let outcome = &mut ctx.outcome;
        outcome.set_request_id(view.fields());
        outcome.client = Some(ctx.client.address);
        outcome.method = view.method().to_owned();
        outcome.host = view.host().to_owned();
        outcome.target = view.path_and_query().to_owned();
    }

    fn judge(&self, session: &Session, ctx: &Context) -> std::result::Result<(), PassReason> {
        let Some(route) = &ctx.route else {
            return Err(PassReason::Off);
        };
        if !session.req_header().raw_path_is_utf8() {
            return Err(PassReason::Path);
        }
        if route.cache.audit > 0.0 && ctx.live.tripped.holds(&route.name) {
            return Err(PassReason::Tripped);
        }
        let view = view::received(session.req_header(), &ctx.client);
        let mut request = view.head();
        request.has_body |= view::has_unannounced_body(session);
        lookup::allowed(&request, &route.cache)
    }

    /// Looks at what comes of a pass: for the shadow of the store, or for a key that may be cacheable again.
    fn watch(&self, session: &Session, response: &ResponseHeader, ctx: &mut Context) {
        if let Some(shadow) = &mut ctx.shadow {
            return shadow.head(self, response);
        }
        let (Some(key), Some(route)) = (&ctx.believed_uncacheable, &ctx.route) else { return };
        let (view, now) = (view::received(session.req_header(), &ctx.client), clock::now());
        let fields = view::response_fields(response);
        let head = ResponseHead { status: response.status.as_u16(), fields: Fields::new(&fields) };
        let authorized = identity::is_authorized(view.fields(), &route.cache);
        let exchange = Exchange { requested_at: now, received_at: now, authorized };
        let max = ctx.live.plan.memory.max_object_size;
        let admission = admission::judge(&view.head().target.path, &head, &route.cache, max, exchange);
        if matches!(admission, Admission::Keep(_)) {
            self.store.memo.forget_key(key);
        }
    }

    /// Whether a read that cannot be answered from the store may not go to the origin either (RFC 9111 section
    /// 5.2.1.7).
    fn wants_stored_only(&self, session: &Session, ctx: &Context) -> bool {
        let view = view::received(session.req_header(), &ctx.client);
        let Some(route) = ctx.route.as_ref().filter(|_| view.head().is_read()) else { return false };
        ClientControl::heeded(view.fields(), &route.cache).only_if_cached
    }

    /// Removes what a write changed (RFC 9111 section 4.4). `response` is `None` when its answer was lost.
    async fn invalidate(&self, session: &Session, response: Option<&ResponseHeader>, ctx: &Context) {
        // By the rules of now: a reload since the request came may have had its target stored under others.
        let live = self.live.load_full();
        let removed = removed_by(session, response, ctx, &live.plan.query_policies);
        self.purge_after(Cause::Write, removed).await;
    }

    /// The origin may carry a write out after it was given up on, and others may have fetched the old state in
    /// between: what it changes is removed once more when the origin should be done.
    fn invalidate_again(&self, session: &Session, ctx: &Context) {
        let live = self.live.load_full();
        let removals = removed_by(session, None, ctx, &live.plan.query_policies);
        let Some(pool) = ctx.pool().filter(|_| !removals.is_empty()) else { return };
        let Ok(permit) = self.late_purges.clone().try_acquire_owned() else {
            self.observer.metrics.limit("late-purges");
            return;
        };
        let (app, after) = (self.clone(), exchange::read_timeout(ctx, pool));
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            app.purge_after(Cause::Late, removals).await;
            drop(permit);
        });
    }

    fn note_origin_time(&self, ctx: &mut Context) {
        let (Some(sent_at), Some(route)) = (ctx.sent_at, ctx.route_name()) else {
            return;
        };
        self.observer.metrics.origin(&route).observe(sent_at.elapsed().as_secs_f64());
        if let Kind::Client = ctx.kind {
            ctx.outcome.origin = Some(ctx.outcome.elapsed());
        }
    }
}

/// Finds the route, unless the request is not for an application. The error is the answer that it gets.
fn route(session: &Session, ctx: &mut Context) -> std::result::Result<(), Local> {
    let view = view::received(session.req_header(), &ctx.client);
    if !view.has_valid_host() {
        return Err(Local::BadRequest);
    }
    if let Some(local) = redirect(session, &view, ctx) {
        return Err(local);
    }
    if REFUSED_METHODS.contains(&view.method()) {
        return Err(Local::Refused);
    }
    let route = route::select(&ctx.live.plan.routes, &view.head()).ok_or(Local::NoRoute)?;
    ctx.outcome.route = Some(route.name.clone());
    ctx.route = Some(route.clone());
    Ok(())
}

/// The answer on a listener that redirects, which tells where to. The method stays what it is (RFC 9110 section 15.4.9).
fn redirect(session: &Session, view: &Received<'_>, ctx: &mut Context) -> Option<Local> {
    let local = session.server_addr()?.as_inet()?;
    let port = ctx.live.plan.listener(*local)?.redirect_to_https?;
    if ctx.client.scheme == Scheme::Https || view.path_and_query().starts_with(CHALLENGES) {
        return None;
    }
    // Without its port, if it has one behind the name.
    let host = view.host().rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let host = host.map_or(view.host(), |(host, _)| host);
    if host.is_empty() {
        // HTTP/1.0 need not name one, and then there is nowhere to go.
        return Some(Local::BadRequest);
    }
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let location = format!("https://{host}{port}{}", view.path_and_query());
    ctx.told.push(("Location", location));
    Some(Local::Redirected)
}

/// What a write through its route removes; nothing for a safe method.
fn removed_by(
    session: &Session,
    response: Option<&ResponseHeader>,
    ctx: &Context,
    policies: &[QueryPolicy],
) -> Vec<(Selector, Expires)> {
    let view = view::received(session.req_header(), &ctx.client);
    let request = view.head();
    let Some(route) = ctx.route.as_ref().filter(|_| !request.is_safe()) else { return Vec::new() };
    let named = response.map(view::response_fields).unwrap_or_default();
    route.removed_by(&request, Fields::new(&named), policies)
}
