//! One client connection: what it receives, what it still has to send, and how long either may take.
//!
//! Nothing is kept between requests but what was received of the next one, and the end of a head, which may come
//! again ([`super::repeat`]). A request that arrives whole, as nearly all do, is read and answered out of buffers on the
//! stack, without an allocation.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{ControlFlow, Range};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::coop;
use tokio::time::Sleep;

use super::Front;
use super::answer::{self, Asked, Hit, REUSED};
use super::caller::Caller;
use super::head::{self, Head, Read, Refused};
use super::output::Output;
use super::repeat::Repeat;
use crate::clock;
use crate::observe::outcome::Outcome;
use crate::proxy::wire::{self, Wire};
use crate::proxy::{Active, App, Live};
use crate::rules::framing::{Boundary, Malformed};
use crate::rules::request::FieldList;
use crate::rules::target::Scheme;
use crate::store::sendable::File;

/// How much is read at once. What browsers send fits.
const READ: usize = 8 * 1024;

/// The longest target that a `Uri` holds.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// How much of a body is written between two pieces of its file.
const PIECE: usize = 16 * 1024;

/// What a connection needs someone else for.
pub enum Event {
    /// The next request is the proxy's.
    Lend(Loan),
    /// The next request is not let in.
    Refuse(Refused),
    /// The connection ends.
    Close,
}

/// A request for the proxy.
pub struct Loan {
    /// Where it ends.
    pub boundary: Boundary,
    /// Whether it asks to switch protocols.
    pub may_switch: bool,
    /// See [`Head::host_to_replace`].
    host_to_replace: Option<[Range<usize>; 2]>,
}

impl Loan {
    /// The loan of `head`, whose bytes are `received`. What Pingora would refuse without a log line is refused here.
    fn new(head: &Head<'_>, received: &[u8]) -> Result<Self, Refused> {
        if head.method == "CONNECT" {
            return Err(Refused::Method);
        }
        if let Err(error) = head.target.parse::<http::Uri>() {
            tracing::debug!(%error, "a target cannot be read");
            let is_long = head.target.len() > MAX_TARGET;
            return Err(if is_long { Refused::TooLarge } else { Malformed::Target.into() });
        }
        let host_to_replace = head.host_to_replace(received);
        let length = received.len();
        let length = host_to_replace.as_ref().map_or(length, |[host, own]| length - host.len() + own.len());
        let boundary = Boundary::new(length, head.content);
        Ok(Self { boundary, may_switch: head.fields.has("upgrade"), host_to_replace })
    }

    /// Replaces `Host` by the authority of an absolute target. `received` begins with the head.
    pub fn name_the_host(&mut self, received: &mut BytesMut) {
        if let Some([host, own]) = self.host_to_replace.take() {
            let parts = [&received[..host.start], &received[own], &received[host.end..]];
            *received = parts.concat().as_slice().into();
        }
    }
}

/// What the client has not taken yet.
struct Unsent {
    head: Vec<u8>,
    body: Bytes,
    file: Option<Sending>,
    /// Whether the connection ends with it.
    ends: bool,
}

/// The same, and the request that it answers.
struct Unfinished {
    unsent: Unsent,
    outcome: Box<Outcome>,
}

/// A body that is sent from its file.
struct Sending {
    file: Arc<File>,
    length: usize,
}

impl Sending {
    /// Sends of the file what the client takes now of `body`, which is its end.
    fn send(&self, wire: &mut Wire, body: &mut Bytes) -> io::Result<()> {
        match wire.send_file(&self.file, self.length - body.len(), body.len())? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            sent => {
                body.advance(sent);
                Ok(())
            }
        }
    }
}

enum Step {
    Event(Event),
    Unfinished(Unfinished),
}

/// A client connection.
pub struct Connection<'f> {
    front: &'f Front,
    /// The connection itself, and what was received.
    pub wire: Box<Wire>,
    /// Where it comes from.
    pub peer: IpAddr,
    scheme: Scheme,
    /// Whether hits are answered here.
    answers: bool,
    repeat: Repeat,
    /// Fires no later than it has to; armed anew only when it does.
    timer: Pin<Box<Sleep>>,
    /// Whether the timer knows whom to wake when it fires.
    is_watched: bool,
    idle_since: Instant,
    head_began: Option<Instant>,
    /// Bytes received that are known not to end a head.
    scanned: usize,
}

impl<'f> Connection<'f> {
    /// A connection that has just been accepted.
    pub fn new(front: &'f Front, wire: Box<Wire>) -> Self {
        let idle_since = clock::start();
        let live = front.app.live.load();
        let idle_timeout = live.plan.clients.idle_timeout;
        let redirects = wire.local().and_then(|local| live.plan.listener(local)?.redirect_to_https).is_some();
        Self {
            scheme: if wire.has_tls() { Scheme::Https } else { Scheme::Http },
            answers: front.answers && !redirects,
            front,
            peer: wire.peer().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            wire,
            repeat: Repeat::default(),
            timer: Box::pin(tokio::time::sleep_until((idle_since + idle_timeout).into())),
            is_watched: false,
            idle_since,
            head_began: None,
            scanned: 0,
        }
    }

    /// Answers hits until something else comes.
    pub async fn next(&mut self, shutdown: &ShutdownWatch) -> Event {
        self.idle_since = clock::start();
        loop {
            match poll_fn(|cx| self.poll(cx, shutdown)).await {
                Step::Event(event) => return event,
                Step::Unfinished(unfinished) => {
                    let ends = unfinished.unsent.ends;
                    if self.send(unfinished).await.is_err() || ends {
                        return Event::Close;
                    }
                    self.idle_since = clock::start();
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, shutdown: &ShutdownWatch) -> Poll<Step> {
        loop {
            if !self.wire.received.is_empty() {
                let mut kept = std::mem::take(&mut self.wire.received);
                let (used, step) = self.work(cx, &kept, shutdown);
                kept.advance(used);
                self.wire.received = if kept.is_empty() { BytesMut::new() } else { kept };
                if let Some(step) = step {
                    return Poll::Ready(step);
                }
            }
            let mut space = [const { MaybeUninit::uninit() }; READ];
            let mut arrived = ReadBuf::uninit(&mut space);
            match self.wire.poll_receive(cx, &mut arrived) {
                Poll::Pending => return self.poll_timer(cx).map(Step::Event),
                Poll::Ready(Ok(())) if !arrived.filled().is_empty() => {}
                // Who leaves in the middle of a head is owed no answer.
                Poll::Ready(_) => return Poll::Ready(Step::Event(Event::Close)),
            }
            if !self.wire.received.is_empty() {
                self.wire.received.extend_from_slice(arrived.filled());
                continue;
            }
            let (used, step) = self.work(cx, arrived.filled(), shutdown);
            self.wire.received.extend_from_slice(&arrived.filled()[used..]);
            if let Some(step) = step {
                return Poll::Ready(step);
            }
        }
    }

    /// Answers what hits there are in `bytes`. Tells how many bytes of them are done with.
    fn work(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        shutdown: &ShutdownWatch,
    ) -> (usize, Option<Step>) {
        let mut repeat = std::mem::take(&mut self.repeat);
        let mut at = 0;
        let mut step = None;
        while at < bytes.len() {
            let (used, next) = self.begin(cx, &bytes[at..], &mut repeat, shutdown);
            at += used;
            if let ControlFlow::Break(end) = next {
                step = end;
                break;
            }
        }
        self.repeat = repeat;
        (at, step)
    }

    /// Answers the request that `bytes` begin with, if it is there and a hit. Tells how many bytes are done with, and whether
    /// to go on with those behind them.
    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        repeat: &mut Repeat,
        shutdown: &ShutdownWatch,
    ) -> (usize, ControlFlow<Option<Step>>) {
        let (live, from) = (self.front.app.live.load(), (self.peer, self.scheme));
        if let Some((head, caller, end)) = repeat.find(bytes, &live) {
            return self.let_in(cx, &live, (&head, Some(caller)), (bytes, 0..end), shutdown);
        }
        let mut lines = FieldList::new();
        match head::read(bytes, self.scanned, &mut lines) {
            Read::Empty => (bytes.len(), ControlFlow::Break(None)),
            Read::Partial => (0, ControlFlow::Break(self.wait_for_the_rest(bytes.len()))),
            Read::Refused(why) => (0, ControlFlow::Break(refuse(why))),
            Read::Head { head, start, end } => {
                repeat.note(&head, &bytes[start..end], &live, from);
                self.let_in(cx, &live, (&head, None), (bytes, start..end), shutdown)
            }
        }
    }

    /// Answers the request with this head, which stands at `place` of `bytes` and whose sender may be known, or lends it to
    /// the proxy.
    fn let_in(
        &mut self,
        cx: &mut Context<'_>,
        live: &Live,
        (head, caller): (&Head<'_>, Option<&Caller<'_>>),
        (bytes, place): (&[u8], Range<usize>),
        shutdown: &ShutdownWatch,
    ) -> (usize, ControlFlow<Option<Step>>) {
        self.scanned = 0;
        if self.head_began.take().is_some() {
            // It was set to when the head had to be there, which may be later than the end of what is idle.
            self.arm_timer(clock::start() + live.plan.clients.idle_timeout);
        }
        if place.len() > live.plan.clients.max_header_size {
            return (0, ControlFlow::Break(refuse(Refused::TooLarge)));
        }
        match self.answer(cx, live, (head, caller), shutdown) {
            Some(None) => (place.end, ControlFlow::Continue(())),
            Some(step) => (place.end, ControlFlow::Break(step)),
            None => {
                let lent = Loan::new(head, &bytes[place.clone()]);
                let event = lent.map_or_else(Event::Refuse, Event::Lend);
                (place.start, ControlFlow::Break(Some(Step::Event(event))))
            }
        }
    }

    /// Lets a head take its time, from its first byte on, and its size.
    fn wait_for_the_rest(&mut self, received: usize) -> Option<Step> {
        let clients = self.front.app.live.load().plan.clients;
        if received > clients.max_header_size {
            return refuse(Refused::TooLarge);
        }
        self.scanned = received;
        if self.head_began.is_none() {
            let now = clock::start();
            self.head_began = Some(now);
            self.arm_timer(now + clients.header_timeout);
        }
        None
    }

    /// Answers a request that is a plain hit; `None` for any other.
    fn answer(
        &mut self,
        cx: &mut Context<'_>,
        live: &Live,
        (head, caller): (&Head<'_>, Option<&Caller<'_>>),
        shutdown: &ShutdownWatch,
    ) -> Option<Option<Step>> {
        let Head { method, target, .. } = *head;
        if !self.answers || !answer::is_for_us(method, target) {
            return None;
        }
        let started = clock::start();
        let unknown;
        let caller = match caller {
            Some(known) => known,
            None => {
                let from = (self.peer, self.scheme);
                unknown = Caller::new(live, head.fields, head.minor_version, from);
                &unknown
            }
        };
        // An error means that who would tell of an end is gone.
        let is_ending = !matches!(shutdown.has_changed(), Ok(false));
        let keeps = caller.keeps && !is_ending;
        let takes_files = self.wire.is_plain();
        let asked = Asked { method, target, caller, started, keeps, takes_files };
        let mut output = Output::default();
        REUSED.with_borrow_mut(|reused| {
            let Hit { body, file } = answer::hit(&self.front.app, live, &asked, reused, &mut output)?;
            self.idle_since = started;
            let file = file.map(|file| Sending { file, length: body.len() });
            if let Some(unsent) = self.write(cx, output.whole()?, body, file, !keeps) {
                let outcome = Box::new(std::mem::take(&mut reused.outcome));
                return Some(Some(Step::Unfinished(Unfinished { unsent, outcome })));
            }
            record(&self.front.app, live, &mut reused.outcome);
            Some((!keeps).then_some(Step::Event(Event::Close)))
        })
    }

    /// Sends a response as far as the client takes it now, and returns what is left.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        mut body: Bytes,
        file: Option<Sending>,
        ends: bool,
    ) -> Option<Unsent> {
        // One that sends hit after hit must let the others have their turn.
        let Poll::Ready(turn) = coop::poll_proceed(cx) else {
            return Some(Unsent { head: head.to_vec(), body, file, ends });
        };
        turn.made_progress();
        // An error is met again by the write below.
        let mut sent = match (&file, body.is_empty()) {
            (None, false) => 0,
            (file, _) => self.wire.send(head, file.is_some()).unwrap_or(0),
        };
        while sent < head.len() || !body.is_empty() {
            let mut wire = Pin::new(&mut *self.wire);
            let written = match &file {
                Some(sending) if sent == head.len() => match sending.send(&mut wire, &mut body) {
                    Ok(()) => continue,
                    // It is met again when the rest is sent.
                    Err(_) => return Some(Unsent { head: Vec::new(), body, file, ends }),
                },
                None if !body.is_empty() => {
                    let pieces = [io::IoSlice::new(&head[sent..]), io::IoSlice::new(&body)];
                    wire.poll_write_vectored(cx, &pieces)
                }
                _ => wire.poll_write(cx, &head[sent..]),
            };
            match written {
                Poll::Ready(Ok(written @ 1..)) => {
                    let of_head = written.min(head.len() - sent);
                    sent += of_head;
                    body.advance(written - of_head);
                }
                // What went wrong shows when the rest is sent.
                _ => return Some(Unsent { head: head[sent..].to_vec(), body, file, ends }),
            }
        }
        None
    }

    /// Sends the rest, as long as the client goes on taking it.
    async fn send(&mut self, unfinished: Unfinished) -> io::Result<()> {
        // A server that is about to end waits for it.
        let _active = Active::new(&self.front.app.active);
        let Unfinished { unsent: Unsent { head, mut body, file, .. }, mut outcome } = unfinished;
        let mut head = Bytes::from(head);
        let mut result = Ok(());
        let clients = self.front.app.live.load().plan.clients;
        self.wire.begin_exchange(clients.least_pace());
        while result.is_ok() && !(head.is_empty() && body.is_empty()) {
            // Writing a piece waits until the client takes more; what else it then takes goes from the file.
            let next = if head.is_empty() { &mut body } else { &mut head };
            let piece = if file.is_some() { next.slice(..next.len().min(PIECE)) } else { next.clone() };
            result = match tokio::time::timeout(clients.stall_timeout, self.wire.write(&piece)).await {
                Ok(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written.map(|written| next.advance(written)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            if let Some(file) = file.as_ref().filter(|_| head.is_empty() && result.is_ok()) {
                // What it does not take shows with the next write.
                let _ = file.send(&mut self.wire, &mut body);
            }
        }
        if let Err(error) = &result {
            if wire::is_too_slow(error) {
                self.front.app.observer.metrics.limit("min_rate");
            }
            let unsent = (head.len() + body.len()) as u64;
            outcome.bytes = outcome.bytes.saturating_sub(unsent);
            outcome.error = Some(format!("the client took no more: {error}"));
        }
        record(&self.front.app, &self.front.app.live.load(), &mut outcome);
        result
    }

    /// Ends a connection that waits for too long.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // Asked once: each hit comes by here.
        if std::mem::replace(&mut self.is_watched, true) && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            // Unconstrained: asked when it is the turn of others, it would not note whom to wake.
            ready!(pin!(coop::unconstrained(self.timer.as_mut())).poll(cx));
            let clients = self.front.app.live.load().plan.clients;
            let (due, event) = match self.head_began {
                Some(began) => (began + clients.header_timeout, Event::Refuse(Refused::TooSlow)),
                None => (self.idle_since + clients.idle_timeout, Event::Close),
            };
            if clock::start() >= due {
                return Poll::Ready(event);
            }
            self.arm_timer(due);
        }
    }

    fn arm_timer(&mut self, due: Instant) {
        self.timer.as_mut().reset(due.into());
        self.is_watched = false;
    }
}

/// Records a request that has been answered.
pub fn record(app: &App, live: &Live, outcome: &mut Outcome) {
    outcome.finish();
    app.observer.record(outcome, live.plan.access_log, live.plan.slow_request);
}

fn refuse(why: Refused) -> Option<Step> {
    Some(Step::Event(Event::Refuse(why)))
}
