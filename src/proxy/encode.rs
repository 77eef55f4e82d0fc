//! Which representation of a stored response a client gets on the full path; and bodies that are not stored, encoded on
//! their way.

use std::io;

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::context::Context;
use super::view;
use crate::codec::Stream;
use crate::rules::conditional::{entity_tags, opaque_tag};
use crate::rules::encodable::{is_encodable, says_it_varies, weakened};
use crate::rules::encoding::{self, Coding, Wish};
use crate::rules::head::{Fields, ResponseHead};
use crate::rules::request::Received;
use crate::rules::route::Route;
use crate::store::encoder::random_padding;
use crate::store::forms::Selected;
use crate::store::response::StoredResponse;

/// The coding that a request likes best of those that its route stores.
pub fn wanted(request: Fields<'_>, route: &Route) -> Option<Coding> {
    let offered = route.encode.offered(route.encode.pads_stored);
    encoding::negotiate(request, offered).codings.as_slice().first().copied()
}

/// Chooses the representation of a stored response, and asks for the one that the client would like better. Only a client
/// that refuses the identity form waits for another.
pub async fn select(app: &App, session: &Session, ctx: &Context, response: &StoredResponse) -> Selected {
    let Some(route) = &ctx.route else { return Selected::default() };
    let mut selected =
        response.select(view::received(session.req_header(), &ctx.client).fields(), &route.encode);
    match selected.wanted {
        Some(coding) if selected.is_refused => {
            selected.form = app.store.encoder.make_now(response, coding).await;
            if selected.form.is_none() {
                app.observer.metrics.limit("encodings-at-once");
            }
        }
        Some(coding) => app.store.encoder.want(response, coding),
        None => {}
    }
    selected
}

/// A body that is encoded on its way, until its end.
pub struct Encoding {
    stream: Option<Stream>,
    _room: OwnedSemaphorePermit,
}

impl Encoding {
    /// Encodes a part of the body. What comes out can be read without what follows.
    pub fn chunk(&mut self, chunk: Option<Bytes>, ends: bool) -> Result<Option<Bytes>> {
        let Some(mut stream) = self.stream.take() else { return Ok(None) };
        let chunk = chunk.unwrap_or_default();
        if chunk.is_empty() && !ends {
            self.stream = Some(stream);
            return Ok(None);
        }
        let encode = || -> io::Result<(Vec<u8>, Option<Stream>)> {
            stream.write(&chunk)?;
            if ends {
                return Ok((stream.finish()?, None));
            }
            Ok((stream.flush()?, Some(stream)))
        };
        let (encoded, rest) = encode().or_err(ErrorType::InternalError, BROKEN).map_err(Error::into_in)?;
        self.stream = rest;
        Ok(Some(encoded.into()))
    }
}

const BROKEN: &str = "a body could not be encoded";

/// Whether a response of the request's route is worth encoding, and may be.
pub fn is_worth_it(ctx: &Context, head: &ResponseHead<'_>, length: Option<u64>) -> bool {
    ctx.route.as_ref().is_some_and(|route| is_encodable(head, length, &route.encode))
}

/// What a client wants of a body that is encoded on its way. HTTP/1.0 knows no chunks: a body that breaks off would look
/// complete.
fn wish(view: &Received<'_>, version: http::Version, route: &Route) -> Wish {
    match version {
        http::Version::HTTP_10 => Wish::IDENTITY,
        _ => encoding::negotiate(view.fields(), route.encode.offered(route.encode.pads_passed)),
    }
}

/// Whether the body of a pass would be encoded for this client, if it comes as it is and is worth it: then the origin need not
/// do it, and lengths are blurred.
pub fn would_encode(view: &Received<'_>, version: http::Version, ctx: &Context) -> bool {
    ctx.route.as_ref().is_some_and(|route| !wish(view, version, route).codings.is_empty())
}

/// Begins to encode the body of a pass, where that is worth it and its client accepts it.
pub fn passed(app: &App, session: &Session, ctx: &mut Context, response: &mut ResponseHeader) -> Result<()> {
    let fields = view::response_fields(response);
    let head = ResponseHead { status: response.status.as_u16(), fields: Fields::new(&fields) };
    // Chunks say where the body ends, whatever a length beside them says.
    let length = head.fields.text("content-length").and_then(|length| length.trim().parse().ok());
    let length = length.filter(|_| !head.fields.has("transfer-encoding"));
    if head.status == 304 {
        return not_modified(session, ctx, response);
    }
    if is_worth_it(ctx, &head, length) {
        let request = session.req_header();
        let view = view::received(request, &ctx.client);
        ctx.encoding = begin(app, ctx, (&view, request.version), response, false)?;
    }
    Ok(())
}

/// Begins to encode a body that is worth it, where its client accepts that. One that is stored is encoded on its way only for
/// who refuses it as it is: all others get a form that is made once.
pub fn begin(
    app: &App,
    ctx: &Context,
    (view, version): (&Received<'_>, http::Version),
    response: &mut ResponseHeader,
    is_stored: bool,
) -> Result<Option<Encoding>> {
    let Some(route) = &ctx.route else { return Ok(None) };
    say_that_it_varies(response)?;
    let must_stay = matches!(response.status.as_u16(), 206 | 304);
    let wish = wish(view, version, route);
    let Some(coding) = wish.codings.as_slice().first().copied() else { return Ok(None) };
    if must_stay || (is_stored && !wish.refuses_identity) {
        return Ok(None);
    }
    let Some(room) = app.store.encoder.stream_room(coding) else {
        app.observer.metrics.limit("encoded-streams");
        return Ok(None);
    };
    for name in ["Content-Length", "Accept-Ranges"] {
        response.remove_header(name);
    }
    response.insert_header("Content-Encoding", coding.as_str())?;
    if let Some(etag) = response.headers.get("etag").map(|etag| weakened(etag.as_bytes())) {
        response.insert_header("ETag", etag)?;
    }
    if view.method() == "HEAD" {
        return Ok(None);
    }
    response.insert_header("Transfer-Encoding", "chunked")?;
    let padding = if route.encode.pads_passed { random_padding() } else { 0 };
    let stream =
        Stream::new(coding, padding).or_err(ErrorType::InternalError, BROKEN).map_err(Error::into_in)?;
    Ok(Some(Encoding { stream: Some(stream), _room: room }))
}

/// Tells caches that the answer depends on what its client accepts.
fn say_that_it_varies(response: &mut ResponseHeader) -> Result<()> {
    if !says_it_varies(Fields::new(&view::lines_of(response, "vary"))) {
        response.append_header("Vary", "Accept-Encoding")?;
    }
    Ok(())
}

/// The 304 of a pass. A client that has a body which was encoded on its way knows it by a weak tag, and finds it by that
/// (RFC 9111 section 4.3.4).
fn not_modified(session: &Session, ctx: &Context, response: &mut ResponseHeader) -> Result<()> {
    if ctx.route.as_ref().is_none_or(|route| route.encode.formats.is_empty()) {
        return Ok(());
    }
    // As the 200 would say (RFC 9110 section 15.4.5).
    say_that_it_varies(response)?;
    let Some(etag) = response.headers.get("etag").map(|etag| etag.as_bytes().trim_ascii().to_vec()) else {
        return Ok(());
    };
    let view = view::received(session.req_header(), &ctx.client);
    let mut tags = view.fields().all("if-none-match").flat_map(entity_tags);
    let is_weak = |tag: &&[u8]| tag.starts_with(b"W/") && opaque_tag(tag) == opaque_tag(&etag);
    if tags.any(|tag| is_weak(&tag)) {
        response.insert_header("ETag", weakened(&etag))?;
    }
    Ok(())
}
