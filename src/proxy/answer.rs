//! Responses to clients: from the store, from a fetch under way, and of parvis itself.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::header::TRANSFER_ENCODING;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::App;
use super::context::Context;
use super::encode::{self, Encoding};
use super::exchange;
use super::extract::{self, Extract};
use super::upstream::via;
use super::view;
use super::wire;
use crate::clock::{self, Timestamp};
use crate::observe::outcome::Local;
use crate::rules::conditional;
use crate::rules::head::{Field, Fields, Names};
use crate::rules::hop::HopByHop;
use crate::rules::target::Scheme;
use crate::store::fill::{Reader, Streaming};
use crate::store::response::{Head, StoredResponse};

/// The most bytes that are written at once.
pub const PIECE: usize = 16 * 1024;

/// What a 304 repeats (RFC 9110 section 15.4.5).
pub const IN_NOT_MODIFIED: &[&str] =
    &["cache-control", "content-location", "date", "etag", "expires", "last-modified", "vary"];

/// What the error for a refused method names (RFC 9110 section 15.5.6).
pub const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What is said of an answer that is about one request only.
const NOT_STORED: [Field<'static>; 1] = [("Cache-Control", b"no-store")];

/// Answers with a stored response, in the part and under the conditions that the client asked for.
pub async fn stored(
    app: &App,
    session: &mut Session,
    ctx: &mut Context,
    response: &StoredResponse,
    now: Timestamp,
) -> Result<()> {
    let selected = encode::select(app, session, ctx, response).await;
    let freshness = response.freshness();
    ctx.outcome.ttl = Some(ttl(freshness.lifetime, freshness.age(now)));
    let is_head = session.req_header().method == "HEAD";
    let fields = selected.fields(response.head.fields());
    let view = view::received(session.req_header(), &ctx.client);
    let extract = Extract::of(response, &selected, Fields::new(&fields), &view);
    drop(view);
    let status = extract.status;
    // What the page says of itself is not about this answer: a cache that took it for the page would give it to others.
    let mut header = header(status, if status == 416 { &NOT_STORED } else { &fields })?;
    if status == 206 {
        // A stored one is a slip of the origin; parts have their own (RFC 9110 section 15.3.7).
        header.remove_header("Content-Range");
    }
    for (name, value) in &extract.fields {
        header.insert_header(*name, value.as_slice())?;
    }
    let length = extract.len();
    if !has_no_body(status) {
        header.insert_header("Content-Length", length)?;
    }
    header.insert_header("Age", freshness.age(now).as_secs())?;
    decorate(&mut header, ctx)?;
    let without_body = is_head || length == 0 || has_no_body(status);
    send_head(session, header, if without_body { Body::None } else { Body::There }).await?;
    if !without_body {
        let last = extract.pieces.len() - 1;
        for (at, piece) in extract.pieces.into_iter().enumerate() {
            send_body(session, Some(piece), at == last).await?;
        }
    }
    Ok(())
}

/// Hands an interim response on (RFC 9110 section 15.2).
pub async fn interim(session: &mut Session, ctx: &Context, head: &Head) -> Result<()> {
    let mut header = header(head.status, &head.fields())?;
    strip_tags(&mut header, ctx);
    send_head(session, header, Body::ToCome).await
}

/// Takes the labels away, which are between the application and its caches.
pub fn strip_tags(response: &mut ResponseHeader, ctx: &Context) {
    let Some(route) = ctx.route.as_ref().filter(|route| !route.cache.deliver_tags) else { return };
    let present = view::names(response);
    for name in route.cache.tag_headers.iter().filter(|name| present.may_have(Names::one(name))) {
        response.remove_header(name.as_str());
    }
}

/// Answers with a response that is still on its way; `head` is the part of it that this client may see.
pub async fn streaming(
    app: &App,
    session: &mut Session,
    ctx: &mut Context,
    response: &Streaming,
    head: &Head,
    reader: Reader,
) -> Result<()> {
    let is_head = session.req_header().method == "HEAD";
    let request = session.req_header();
    let (view, version) = (view::received(request, &ctx.client), request.version);
    // What is not stored, or not all of it, goes whole: a 304 of ours would take its cookies away.
    let keeps = response.discard.is_none() && response.for_leader.is_none();
    let (not_modified, cut, is_worth_it) = head.with(|head| {
        let not_modified = keeps && extract::not_modified(&view, &head, clock::now());
        let whole = response.length.filter(|_| !not_modified);
        let is_worth_it = encode::is_worth_it(ctx, &head, response.length);
        let cut = whole.and_then(|length| extract::cut(&view, &head, length, is_worth_it));
        (not_modified, cut, is_worth_it)
    });
    let etag = head.etag();
    let held = conditional::held_other(view.fields(), etag, etag).filter(|_| not_modified);
    let status = match &cut {
        _ if not_modified => 304,
        Some(_) => 206,
        None => head.status,
    };
    let mut header = header(status, &head.fields())?;
    if let Some(tag) = held {
        header.insert_header("ETag", tag)?;
    }
    let mut length = response.length;
    if let (Some(range), Some(whole)) = (&cut, response.length) {
        header.insert_header("Content-Range", extract::content_range(range, whole))?;
        length = Some(range.end - range.start);
    }
    if !has_no_body(status) {
        match length {
            Some(length) => header.insert_header("Content-Length", length)?,
            // HTTP/1.0 knows no chunks: there the end of the connection ends the body.
            None if version == http::Version::HTTP_10 => {}
            None => header.insert_header("Transfer-Encoding", "chunked")?,
        }
    }
    if let Some(age) = response.age {
        header.insert_header("Age", age)?;
    }
    let encoding = match is_worth_it {
        true => encode::begin(app, ctx, (&view, version), &mut header, response.discard.is_none())?,
        false => None,
    };
    drop(view);
    decorate(&mut header, ctx)?;
    let without_body = is_head || has_no_body(status) || length == Some(0);
    if without_body {
        return send_head(session, header, Body::None).await;
    }
    // An encoded one comes in chunks, before which Pingora sends the head by itself.
    let is_there = encoding.is_none() && cut.is_none() && reader.has_next();
    send_head(session, header, if is_there { Body::There } else { Body::ToCome }).await?;
    send_while_it_comes(session, ctx, reader, cut.unwrap_or(0..u64::MAX), encoding).await
}

/// Sends these bytes of a body as they come, or all of it encoded.
async fn send_while_it_comes(
    session: &mut Session,
    ctx: &mut Context,
    mut reader: Reader,
    wanted: Range<u64>,
    mut encoding: Option<Encoding>,
) -> Result<()> {
    let mut at = 0;
    let mut encoded = move |chunk: Option<Bytes>, ends: bool| match &mut encoding {
        Some(encoding) => encoding.chunk(chunk, ends),
        None => Ok(chunk),
    };
    loop {
        match reader.chunk().await {
            Ok(Some(chunk)) => {
                let from = usize::try_from(wanted.start.saturating_sub(at)).unwrap_or(usize::MAX);
                let to = usize::try_from(wanted.end - at).unwrap_or(usize::MAX).min(chunk.len());
                at += chunk.len() as u64;
                if from < to {
                    send_body(session, encoded(Some(chunk.slice(from..to)), false)?, false).await?;
                }
                if at >= wanted.end {
                    return send_body(session, encoded(None, true)?, true).await;
                }
            }
            Ok(None) => return send_body(session, encoded(None, true)?, true).await,
            // The client must see that the body is incomplete: the connection ends without its last chunk.
            Err(_) => {
                ctx.outcome.error = Some("the origin broke off in the middle of the body".to_owned());
                return Error::e_explain(ErrorType::ConnectionClosed, "the origin broke off")
                    .map_err(|e| e.into_up());
            }
        }
    }
}

/// What follows a head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    /// Nothing.
    None,
    /// A body, of which the beginning is there.
    There,
    /// A body that the head does not wait for.
    ToCome,
}

/// Sends a head. What goes wrong here is the client's doing: it left, or does not read.
async fn send_head(session: &mut Session, header: ResponseHeader, body: Body) -> Result<()> {
    wire::keep_date(session, &header);
    if body == Body::There {
        wire::await_body(session);
    }
    let ends = body == Body::None;
    session.write_response_header(Box::new(header), ends).await.map_err(|error| error.into_down())
}

/// Sends a part of a body, or its end. Pingora has one timer for each write, which is about a client that takes nothing: so no
/// write may be so large that a slow one cannot take it in that time.
async fn send_body(session: &mut Session, body: Option<Bytes>, ends: bool) -> Result<()> {
    let Some(mut rest) = body else { return write(session, None, ends).await };
    while rest.len() > PIECE {
        let piece = rest.split_to(PIECE);
        write(session, Some(piece), false).await?;
    }
    write(session, Some(rest), ends).await
}

async fn write(session: &mut Session, body: Option<Bytes>, ends: bool) -> Result<()> {
    session.write_response_body(body, ends).await.map_err(|error| error.into_down())
}

/// Answers by itself, in plain text, with the id under which the operator finds the rest.
pub async fn local(session: &mut Session, ctx: &mut Context, local: Local) -> Result<()> {
    let text = match local {
        Local::NoRoute => "no route takes this request",
        Local::Refused => "this method is refused",
        Local::Purged => "purged",
        Local::BadPurge => "this purge cannot be read",
        Local::BadRequest => "the request is malformed",
        // The front tells these with their particulars.
        Local::Version | Local::TransferCoding | Local::HeadTooLarge | Local::HeadTooSlow => {
            "the request is refused"
        }
        Local::MaxForwards => "this request goes no further",
        Local::OnlyIfCached => "nothing usable is stored, and nothing else was wanted",
        Local::Redirected => "by https",
        Local::Forbidden => "this client is not let in",
        Local::RateLimited | Local::TooManyAtOnce => "this client has asked too often",
        Local::Uncounted => "nobody knows how often this client has asked",
        Local::NoServer => "the application takes no requests now",
        Local::QueueFull | Local::QueueTimeout => "the application has too much to do",
        Local::OriginUnreachable => "the application cannot be reached, or gave no usable answer",
        Local::OriginTimeout => "the application took too long",
        Local::Unvalidated => "the application did not confirm what is stored",
        Local::Internal => "something went wrong on our side",
    };
    says(session, ctx, local, text).await
}

/// Answers by itself with this text.
pub async fn says(session: &mut Session, ctx: &mut Context, local: Local, text: &str) -> Result<()> {
    ctx.outcome.local = Some(local);
    let body = format!("{} {text}\nrequest id: {}\n", local.status(), ctx.outcome.request_id);
    let mut header = ResponseHeader::build(local.status(), Some(12))?;
    header.insert_header("Content-Type", "text/plain; charset=utf-8")?;
    header.insert_header("Content-Length", body.len())?;
    header.insert_header("Cache-Control", "no-store")?;
    if matches!(local, Local::Refused | Local::MaxForwards) {
        header.insert_header("Allow", ALLOWED)?;
    }
    for (name, value) in &ctx.told {
        header.insert_header(*name, value.as_str())?;
    }
    decorate(&mut header, ctx)?;
    let is_head = session.req_header().method == "HEAD";
    send_head(session, header, if is_head { Body::None } else { Body::There }).await?;
    if !is_head {
        send_body(session, Some(body.into()), true).await?;
    }
    Ok(())
}

/// Answers a failure of the origin or of parvis; returns the status sent, zero when the client is gone or has
/// part of a response already.
pub async fn failure(session: &mut Session, ctx: &mut Context, error: &Error) -> u16 {
    let unavailable = exchange::unavailable(error);
    let Some(kind) = unavailable.map(Local::from).or_else(|| classify(error)) else { return 0 };
    let retry_after = unavailable.map(|unavailable| unavailable.retry_after().to_string());
    ctx.told.extend(retry_after.map(|seconds| ("Retry-After", seconds)));
    ctx.outcome.local = Some(kind);
    // An interim response is not the answer.
    if session.response_written().is_some_and(|head| !head.status.is_informational()) {
        return 0;
    }
    match local(session, ctx, kind).await {
        Ok(()) => kind.status(),
        // The client left before it could be told.
        Err(_) => 0,
    }
}

/// Whose fault it is; `None` when the client broke off.
fn classify(error: &Error) -> Option<Local> {
    use ErrorType::*;
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout) => {
            Some(Local::OriginTimeout)
        }
        (ErrorSource::Upstream, _) => Some(Local::OriginUnreachable),
        // Chunks that cannot be read.
        (ErrorSource::Downstream, ReadError) if is_invalid_data(error) => Some(Local::BadRequest),
        (
            ErrorSource::Downstream,
            ReadError | WriteError | ReadTimedout | WriteTimedout | ConnectionClosed,
        ) => None,
        (ErrorSource::Downstream, _) => Some(Local::BadRequest),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Local::Internal),
    }
}

fn is_invalid_data(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData)
}

/// Adds what every response carries: the verdict, the id, the times, and what protects a browser.
pub fn decorate(response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
    strip_tags(response, ctx);
    let outcome = &mut ctx.outcome;
    outcome.first_byte = Some(outcome.elapsed());
    if outcome.local.is_none() {
        response.append_header("Via", via(response.version))?;
    }
    response.append_header("Cache-Status", outcome.cache_status())?;
    response.insert_header("X-Request-ID", outcome.request_id.as_str())?;
    response.insert_header("X-Processing-Time", outcome.processing_time())?;
    response.append_header("Server-Timing", outcome.server_timing())?;
    let policy = ctx.route.as_ref().map_or(&ctx.live.plan.response_headers, |route| &route.response_headers);
    if policy.touches(view::names(response)) {
        let gone = response.headers.keys().filter(|name| policy.takes_away(name.as_str()));
        for name in gone.cloned().collect::<Vec<_>>() {
            response.remove_header(&name);
        }
    }
    let is_https = ctx.client.scheme == Scheme::Https;
    let set = |name: &str| response.headers.contains_key(name);
    let written: Vec<_> = policy.written(response.status.as_u16(), is_https, set).collect();
    for (name, value) in written {
        response.append_header(name.to_owned(), value)?;
    }
    Ok(())
}

/// Takes away what is about the origin's connection; the framing is Pingora's to set.
pub fn remove_hop_by_hop(response: &mut ResponseHeader) {
    let gone: Vec<HeaderName> = {
        let nominated = view::lines_of(response, "connection");
        let hop_by_hop = HopByHop::of(Fields::new(&nominated));
        let is_gone = |name: &&HeaderName| hop_by_hop.has(name.as_str()) && **name != TRANSFER_ENCODING;
        response.headers.keys().filter(is_gone).cloned().collect()
    };
    for name in gone {
        response.remove_header(&name);
    }
}

fn header(status: u16, fields: &[Field<'_>]) -> Result<ResponseHeader> {
    let mut header = ResponseHeader::build(status, Some(fields.len() + 12))?;
    for (name, value) in fields {
        let is_repeated = || IN_NOT_MODIFIED.iter().any(|kept| kept.eq_ignore_ascii_case(name));
        if status != 304 || is_repeated() {
            header.append_header((*name).to_owned(), *value)?;
        }
    }
    Ok(header)
}

fn has_no_body(status: u16) -> bool {
    matches!(status, 204 | 304)
}

/// Seconds of freshness that are left; negative: since it ended.
pub fn ttl(lifetime: Duration, age: Duration) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    seconds(lifetime).saturating_sub(seconds(age))
}
