//! One exchange with a server of the upstream: getting a place at one, telling how it did, and trying another.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, OrErr, Result};

use super::context::{Context, Kind};
use super::deadline::Deadline;
use super::leaving::{LOOK, left};
use super::{App, view};
use crate::clock;
use crate::config::upstream::Protocol;
use crate::observe::outcome::Local;
use crate::origin::queue::Urgency;
use crate::origin::servers::Ask;
use crate::origin::{Lease, Pool, Wish};
use crate::rules::balance::{Balance, HashBy, hashed};
use crate::rules::cookies;
use crate::rules::forwarding::Client;
use crate::rules::head::RequestHead;
use crate::rules::retry::{Attempt, Failure};
use crate::rules::route::Timeouts;
use crate::rules::unavailable::Unavailable;
use crate::store::fill::Fill;

/// The error of a request that is to be sent once more because of the status of its answer.
const RETRIED_STATUS: ErrorType = ErrorType::new("RetriedStatus");

/// The error of a request that gets no server.
const NO_SERVER: ErrorType = ErrorType::new("NoServer");

/// Gets a place at a server, for the next attempt.
pub async fn begin(app: &App, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
    let Some(pool) = ctx.pool().cloned() else {
        return Error::e_explain(ErrorType::InternalError, "the route's upstream has no pool");
    };
    // The place of an attempt that has failed is for others.
    if let Some(lease) = ctx.lease.take() {
        ctx.failed_by.push(lease.id());
    }
    ctx.attempts += 1;
    let ask = ask(session, ctx, &pool);
    let found = match pool.place(&ask) {
        Ok(Some(lease)) => Ok(lease),
        Ok(None) => wait(app, session, ctx, &pool, ask).await,
        Err(unavailable) => Err(unavailable),
    };
    let lease = found.map_err(|unavailable| {
        app.observer.metrics.upstreams().unavailable(&pool.name, unavailable);
        Error::because(NO_SERVER, "no server", unavailable)
    })?;
    let mut peer = lease.peer();
    let options = &mut peer.options;
    options.read_timeout = Some(read_timeout(ctx, &pool));
    let timeouts = timeouts(ctx);
    options.write_timeout = timeouts.write.or(options.write_timeout);
    options.connection_timeout = timeouts.connect.or(options.connection_timeout);
    options.total_connection_timeout = timeouts.connect.or(options.total_connection_timeout);
    ctx.lease = Some(lease);
    Ok(Box::new(peer))
}

async fn wait(
    app: &App,
    session: &mut Session,
    ctx: &Context,
    pool: &Arc<Pool>,
    ask: Ask,
) -> std::result::Result<Lease, Unavailable> {
    let wish = Wish {
        ask,
        route: ctx.route_name().unwrap_or_else(|| "".into()),
        urgency: match &ctx.kind {
            Kind::Fetch(terms) => terms.urgency,
            Kind::Client => Urgency::Client,
        },
        deadline: ctx.began + total(ctx, pool),
    };
    let began = clock::start();
    let lease = match &ctx.kind {
        Kind::Fetch(terms) => pool.wait(wish, nobody_reads(terms.fill.clone(), terms.urgency)).await,
        Kind::Client => pool.wait(wish, left(session)).await,
    };
    app.observer.metrics.upstreams().waited(&pool.name, began.elapsed());
    lease
}

fn timeouts(ctx: &Context) -> Timeouts {
    ctx.route.as_ref().map(|route| route.timeouts).unwrap_or_default()
}

/// How long the server may take for the head of a response.
pub fn first_byte(ctx: &Context, pool: &Pool) -> Duration {
    let read = read_timeout(ctx, pool);
    timeouts(ctx)
        .first_byte
        .or(pool.settings.first_byte_timeout)
        .map_or(read, |first_byte| first_byte.min(read))
}

/// How long the server may be silent.
pub fn read_timeout(ctx: &Context, pool: &Pool) -> Duration {
    timeouts(ctx).read.unwrap_or(pool.settings.read_timeout)
}

/// How long all attempts together may take to begin.
fn total(ctx: &Context, pool: &Pool) -> Duration {
    timeouts(ctx).total.unwrap_or(pool.settings.total_timeout)
}

fn ask(session: &Session, ctx: &Context, pool: &Pool) -> Ask {
    let is_idempotent = session.req_header().method.is_idempotent();
    let (hash, has_body) = match &ctx.kind {
        Kind::Fetch(terms) => (terms.hash, false),
        Kind::Client => {
            let view = view::received(session.req_header(), &ctx.client);
            let head = view.head();
            (hash(&head, &ctx.client, &pool.settings.balance), head.has_body)
        }
    };
    // Who takes its time with its content would keep all others waiting for what the probe tells.
    Ask { hash, may_probe: is_idempotent && !has_body, failed_by: ctx.failed_by.clone() }
}

/// What leads a request to the same server as others.
pub fn hash(request: &RequestHead<'_>, client: &Client, balance: &Balance) -> u64 {
    let Balance::Hash(by) = balance else { return 0 };
    match by {
        HashBy::Url => hashed(&(&request.target.host, &request.target.path, request.target.query)),
        HashBy::Cookie(name) => match cookies::value(request.fields, name) {
            Some(value) => hashed(&value),
            None => hashed(&client.address),
        },
        HashBy::Client => hashed(&client.address),
    }
}

/// Ends when nobody reads what a fetch would bring, and somebody has.
async fn nobody_reads(fill: Option<Arc<Fill>>, urgency: Urgency) {
    match fill.filter(|_| urgency == Urgency::Client) {
        Some(fill) => {
            while !fill.is_unread() {
                tokio::time::sleep(LOOK).await;
            }
        }
        None => std::future::pending().await,
    }
}

/// No connection to the server came about: tells it, and decides whether another is tried.
pub fn not_connected(app: &App, session: &Session, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
    let retries = judge(app, session, ctx, Failure::Connect, false, false);
    error.set_retry(retries);
    error
}

/// The exchange has broken: tells the server if it is its doing, and decides whether the request is sent once more.
pub fn broken(
    app: &App,
    session: &mut Session,
    ctx: &mut Context,
    mut error: Box<Error>,
    was_reused: bool,
) -> Box<Error> {
    if *error.etype() == RETRIED_STATUS {
        // Decided when the head came.
        return error;
    }
    if *error.esource() != ErrorSource::Upstream {
        error.set_retry(false);
        return error;
    }
    if ctx.deadline.take().is_some_and(|deadline| deadline.has_passed()) {
        let late = "no whole head within the time for it";
        error = Error::because(ErrorType::ReadTimedout, late, error).into_up();
        // That it has been closed is not its age's doing.
        error.set_retry(false);
    }
    // Pingora knows which errors of a connection that was used before may be its age's.
    error.retry.decide_reuse(was_reused);
    let by_age = was_reused && error.retry();
    if matches!(error.etype(), ErrorType::H2Downgrade) && error.retry() {
        return error;
    }
    let failure = match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Failure::Timeout,
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::InvalidH2 | ErrorType::H2Error => {
            Failure::Malformed
        }
        _ => Failure::Broken,
    };
    if failure == Failure::Timeout && !session.as_downstream_mut().is_body_done() {
        // The server has waited for the client: that is not its failure, or any client could have it left alone.
        error.set_retry(false);
        return error;
    }
    let retries = judge(app, session, ctx, failure, true, by_age);
    error.set_retry(retries);
    error
}

/// An interim head has come. The final one may come in time and wait behind it for the client, so there is only the timer of reading
/// from here on.
pub fn interim(ctx: &mut Context) {
    // 100 comes before the content, with whose end the time begins.
    ctx.deadline = ctx.deadline.take().filter(|deadline| !deadline.has_begun());
}

/// The final head has come: tells the server, and decides whether the request is rather sent once more.
///
/// # Errors
///
/// The one that makes Pingora do so.
pub fn answered(app: &App, session: &Session, ctx: &mut Context, status: u16) -> Result<()> {
    if ctx.deadline.take().is_some_and(|deadline| deadline.has_passed()) {
        // It has come just then, and nothing will follow.
        let late = "the head has come too late";
        return Error::e_explain(ErrorType::ReadTimedout, late).map_err(|error| error.into_up());
    }
    let has_failed = ctx.lease.as_mut().is_some_and(|lease| lease.answered(status));
    if has_failed {
        count(app, ctx, Failure::Status(status));
    }
    let retries = status >= 400 && may_retry(app, session, ctx, Failure::Status(status), true, false);
    if retries {
        let mut error = Error::explain(RETRIED_STATUS, format!("the answer was {status}")).into_up();
        error.set_retry(true);
        return Err(error);
    }
    ctx.has_answered = true;
    Ok(())
}

/// A connection to the server has been made, or is used again.
pub fn connected(ctx: &mut Context, number: RawFd) {
    ctx.connected = true;
    ctx.sent_at = Some(clock::start());
    let may_be_alone = ctx.pool().is_some_and(|pool| pool.settings.protocol != Protocol::Http2);
    ctx.deadline = if may_be_alone { Deadline::new(number) } else { None };
}

/// The request is about to be sent, in this version.
pub fn sends(ctx: &mut Context, version: Version) {
    if version == Version::HTTP_2 {
        // The connection may be that of other exchanges, too.
        ctx.deadline = None;
    }
}

/// So much of the content has come from the client, and goes on to the server.
///
/// # Errors
///
/// That the client is too slow. Over HTTP/1 its connection tells; here the time is counted that the server takes, too.
pub fn received(ctx: &mut Context, bytes: usize, ends: bool) -> Result<()> {
    // Calls of gRPC may be silent for as long as they like.
    let is_call = ctx.pool().is_some_and(|pool| pool.settings.protocol == Protocol::Http2);
    if ctx.version != Version::HTTP_2 || is_call {
        return Ok(());
    }
    ctx.sends.moved(bytes, clock::start);
    if !ends {
        ctx.sends.waits(clock::start);
    }
    let kept = ctx.sends.keep(ctx.live.plan.clients.least_pace());
    kept.map_err(io::Error::from)
        .or_err(ErrorType::ReadError, "reading the content of a request")
        .map_err(|error| error.into_down())
}

/// The request has been sent as a whole.
pub fn sent(ctx: &mut Context) {
    let Some(pool) = ctx.pool().cloned() else { return };
    let within = first_byte(ctx, &pool);
    if let Some(deadline) = &mut ctx.deadline {
        deadline.begin(within);
    }
}

/// The protocol is switched: what follows is between the client and the server, for as long as they like. It takes no place of
/// those for requests, and the client need not say anything.
pub fn switched(session: &mut Session, ctx: &mut Context) {
    if let Some(mut lease) = ctx.lease.take() {
        lease.answered(101);
    }
    ctx.has_answered = true;
    ctx.deadline = None;
    session.set_read_timeout(None);
}

fn judge(
    app: &App,
    session: &Session,
    ctx: &mut Context,
    failure: Failure,
    was_sent: bool,
    by_age: bool,
) -> bool {
    if !by_age {
        let is_news = ctx.lease.as_mut().is_none_or(|lease| lease.failed(failure));
        if is_news {
            count(app, ctx, failure);
        }
    }
    may_retry(app, session, ctx, failure, was_sent, by_age)
}

fn count(app: &App, ctx: &Context, failure: Failure) {
    if let (Some(pool), Some(lease)) = (ctx.pool(), &ctx.lease) {
        app.observer.metrics.upstreams().failure(&pool.name, lease.label(), failure);
    }
}

fn may_retry(
    app: &App,
    session: &Session,
    ctx: &Context,
    failure: Failure,
    was_sent: bool,
    was_reused: bool,
) -> bool {
    let Some(pool) = ctx.pool() else { return false };
    let attempt = Attempt {
        failure,
        before: ctx.attempts.saturating_sub(1),
        was_sent,
        was_reused,
        is_idempotent: session.req_header().method.is_idempotent(),
        has_content: !session.as_ref().retry_buffer_truncated(),
        has_answered: ctx.has_answered,
    };
    let is_late = ctx.began.elapsed() > total(ctx, pool);
    let mut failed_by = ctx.failed_by.clone();
    failed_by.extend(ctx.lease.as_ref().map(Lease::id));
    let retries = !is_late && pool.may_retry(&attempt, &failed_by).is_ok();
    if retries {
        app.observer.metrics.upstreams().retry(&pool.name, failure);
    }
    retries
}

impl From<Unavailable> for Local {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::Nobody { .. } => Self::NoServer,
            Unavailable::Full(_) => Self::QueueFull,
            Unavailable::TooLate(_) | Unavailable::Left => Self::QueueTimeout,
        }
    }
}

/// Why there was no server, if that is what an error is about.
pub fn unavailable(error: &Error) -> Option<Unavailable> {
    error.root_cause().downcast_ref().copied()
}
