//! The front before HTTP/2: each request of a connection is a task of Pingora's, which has read its head. What is a plain
//! hit is answered as on HTTP/1; everything else goes the full way.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use memchr::memchr_iter;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;
use pingora::server::ShutdownWatch;
use pingora::{Error, ErrorType, OrErr, Result};

use super::Front;
use super::answer::{self, Asked, Hit, REUSED};
use super::caller::Caller;
use super::connection::record;
use super::output::Output;
use crate::clock;
use crate::observe::outcome::Outcome;
use crate::proxy::answer::PIECE;
use crate::proxy::{Active, view};

/// A small body is cut into such pieces. On a connection that takes one piece at a time, `h2` gathers what is shorter than 1 KiB with
/// its head and with what else goes out (`CHAIN_THRESHOLD_WITHOUT_VECTORED_IO`); anything longer is written by itself, which costs
/// more than the pieces do.
const SMALL_PIECE: usize = 1000;
const SMALL: usize = 4 * SMALL_PIECE;

/// The application of the requests by HTTP/2.
pub struct Streams(pub Arc<Front>);

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let front = &self.0;
        match hit(front, &session) {
            Some(answer) => send(front, session, answer).await,
            None => {
                front.app.observer.metrics.lent();
                front.proxy.process_new_http(session, shutdown).await;
            }
        }
        None
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.proxy.server_options.as_ref()
    }
}

/// An answer that has not been sent.
struct Answer {
    /// As HTTP/1 writes it, with a small body behind it.
    head: Vec<u8>,
    body: Bytes,
    outcome: Outcome,
}

/// The answer, if the request is a plain hit.
fn hit(front: &Front, session: &ServerSession) -> Option<Answer> {
    let started = clock::start();
    let request = session.req_header();
    let (method, target) = (request.method.as_str(), view::path_and_query(request));
    if !front.answers || !answer::is_for_us(method, target) || view::has_unannounced_body(session) {
        return None;
    }
    let live = front.app.live.load();
    let client = view::client(session, &live.plan.trust);
    let caller = &Caller::of(client, view::envelope(request, &client), true);
    let asked = Asked { method, target, caller, started, keeps: true, takes_files: false };
    let mut output = Output::default();
    REUSED.with_borrow_mut(|reused| {
        let Hit { body, .. } = answer::hit(&front.app, &live, &asked, reused, &mut output)?;
        Some(Answer { head: output.whole()?.to_vec(), body, outcome: std::mem::take(&mut reused.outcome) })
    })
}

/// Sends an answer as the client takes it.
async fn send(front: &Front, mut session: ServerSession, answer: Answer) {
    let _active = Active::new(&front.app.active);
    let Answer { head, body, mut outcome } = answer;
    let result = match &mut session {
        ServerSession::H2(session) => {
            session.set_write_timeout(Some(front.app.live.load().plan.clients.stall_timeout));
            write(session, head, body).await
        }
        _ => Error::e_explain(ErrorType::InternalError, "a session of another version"),
    };
    if let Err(error) = result {
        outcome.bytes = session.body_bytes_sent() as u64;
        outcome.error = Some(format!("the client took no more: {error}"));
    }
    record(&front.app, &front.app.live.load(), &mut outcome);
}

async fn write(session: &mut HttpSession, head: Vec<u8>, mut body: Bytes) -> Result<()> {
    let (header, length) = read_back(&head)?;
    if body.is_empty() {
        body = Bytes::from(head).slice(length..);
    }
    session.write_response_header(Box::new(header), body.is_empty())?;
    let piece = if body.len() <= SMALL { SMALL_PIECE } else { PIECE };
    while !body.is_empty() {
        let next = body.split_to(piece.min(body.len()));
        session.write_body(next, body.is_empty()).await?;
    }
    Ok(())
}

/// The head that was written for HTTP/1, and its length. Writing it a second way would be a second judge.
fn read_back(bytes: &[u8]) -> Result<(ResponseHeader, usize)> {
    let mut lines = vec![httparse::EMPTY_HEADER; memchr_iter(b'\n', bytes).count()];
    let mut head = httparse::Response::new(&mut lines);
    let broken = "a head of ours cannot be read";
    let parsed = head.parse(bytes).or_err(ErrorType::InternalError, broken)?;
    let httparse::Status::Complete(length) = parsed else {
        return Error::e_explain(ErrorType::InternalError, broken);
    };
    let mut header = ResponseHeader::build_no_case(head.code.unwrap_or_default(), Some(head.headers.len()))?;
    for line in head.headers.iter() {
        header.append_header(line.name.to_owned(), line.value)?;
    }
    Ok((header, length))
}
