//! The client's connection, which the front lends to Pingora for one request at a time.
//!
//! Pingora may read that request and not a byte of what follows, so that the front sees every head first: what the
//! client sends ahead is kept here. And Pingora writes its own clock into the `Date` of every response head; but the
//! `Date` of a response is the moment it was made at the origin (RFC 9110 section 6.6.1), and caches behind parvis
//! compute its age from it. So a head that passes through gets the date back that was set for it.
//!
//! A head whose body is there goes out together with the first bytes of that, which Pingora writes by themselves: in two pieces
//! they would cost twice, here and at the client.
//!
//! Large bodies go out from files, for which it asks for the descriptor behind Pingora's stream.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora::proxy::Session;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{self, Timestamp};
use crate::rules::framing::Boundary;
use crate::rules::freshness::parse_date;
use crate::rules::pace::{LeastPace, Pace, TooSlow};
use crate::store::sendable::File;

/// A client connection.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    /// The date of the next response head, in seconds since 1970; zero leaves the present moment.
    date: AtomicU64,
    /// Whether that head waits for the first bytes of its body.
    awaits_body: AtomicBool,
    /// The head of a response that is not all sent.
    head: Option<Held>,
    /// What has arrived and nobody has read yet.
    pub received: BytesMut,
    /// The request that Pingora may read.
    lent: Option<Lent>,
    /// How fast the client sends that, and takes the response.
    sends: Pace,
    takes: Pace,
    least: LeastPace,
}

/// A request that is lent.
#[derive(Debug)]
struct Lent {
    boundary: Boundary,
    /// Whether it asks to switch protocols.
    may_switch: bool,
    /// Whether that has happened: then everything that follows is for who reads now.
    has_switched: bool,
}

/// A head that Pingora has written, and that is not all sent.
#[derive(Debug)]
struct Held {
    /// The head, and what of its body has joined it.
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// How many bytes their writer hears of when all are sent; `None` as long as the head waits for its body.
    owed: Option<usize>,
}

/// The most bytes of a body that join the head before it: copying as many costs less than sending them by themselves.
const MAX_JOINED: usize = 16 * 1024;

/// The most bytes that are kept of what a client sends ahead; then they wait in the system's buffers.
const MAX_AHEAD: usize = 64 * 1024;
/// How much is read at once of what is sent ahead.
const STEP: usize = 4 * 1024;

/// The first moment that an IMF-fixdate cannot tell, in seconds since 1970: the year 10000.
pub const END_OF_DATES: u64 = 253_402_300_800;
/// How long an IMF-fixdate is, always.
const DATE_LENGTH: usize = 29;

impl Wire {
    /// Wraps a connection.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            date: AtomicU64::new(0),
            awaits_body: AtomicBool::new(false),
            head: None,
            received: BytesMut::new(),
            lent: None,
            sends: Pace::default(),
            takes: Pace::default(),
            least: LeastPace::default(),
        }
    }

    /// The address at the other end; `None` where it has none.
    pub fn peer(&self) -> Option<IpAddr> {
        Some(self.stream.get_socket_digest()?.peer_addr()?.as_inet()?.ip())
    }

    /// The address at this end; `None` where it has none.
    pub fn local(&self) -> Option<SocketAddr> {
        self.stream.get_socket_digest()?.local_addr()?.as_inet().copied()
    }

    /// Whether it has TLS.
    pub fn has_tls(&self) -> bool {
        self.stream.get_ssl_digest().is_some()
    }

    /// Reads from the connection itself, past what was received before.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }

    /// Whether what is written goes out as it is, by a descriptor.
    pub fn is_plain(&self) -> bool {
        self.plain().is_some()
    }

    /// The descriptor of a plain connection.
    fn plain(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor().filter(|_| self.stream.as_any().is::<L4Stream>())
    }

    /// The descriptor, for as long as the connection is borrowed; `None` of one that is not of the system.
    ///
    /// Pingora lends it as a number only, and every safe interface of the kernel asks for the type that guarantees an open
    /// descriptor.
    #[allow(unsafe_code)]
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let number = Some(self.stream.id()).filter(|number| *number >= 0)?;
        // SAFETY: this is the number of a socket which the stream owns, and closes only when it is dropped. It cannot be
        // dropped while the result lives, since that borrows it.
        Some(unsafe { BorrowedFd::borrow_raw(number) })
    }

    /// Whether the connection has ended, or also whether the client has closed its end of it. Reads nothing.
    pub fn has_ended(&self, or_half: bool) -> bool {
        let Some(descriptor) = self.descriptor() else { return false };
        let flags = if or_half { PollFlags::RDHUP } else { PollFlags::empty() };
        let mut looked_at = [PollFd::new(&descriptor, flags)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error is not the client's doing.
        poll(&mut looked_at, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// Sends as many bytes as the client takes now, without the detours of a write that may wait. If `more` follows at once,
    /// they may go out together with that.
    ///
    /// # Errors
    ///
    /// Those of a write that does not wait; [`io::ErrorKind::Unsupported`] where the connection is not [plain](Wire::is_plain).
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let plain = self.plain().ok_or(io::ErrorKind::Unsupported)?;
        let more = if more { SendFlags::MORE } else { SendFlags::empty() };
        Ok(rustix::net::send(plain, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more)?)
    }

    /// Sends at most `length` bytes of a file, from `at` on, without copying them; tells how many the client takes now.
    ///
    /// # Errors
    ///
    /// As of [`Wire::send`].
    pub fn send_file(&mut self, file: &File, at: usize, length: usize) -> io::Result<usize> {
        let plain = self.plain().ok_or(io::ErrorKind::Unsupported)?;
        let mut offset = at as u64;
        let sent = rustix::fs::sendfile(plain, file, Some(&mut offset), length)?;
        self.takes.moved(sent, clock::start);
        Ok(sent)
    }

    /// Lets the next reader have what is received up to `boundary`, and more if it then `may_switch` protocols.
    pub fn lend(&mut self, boundary: Boundary, may_switch: bool, least: LeastPace) {
        self.lent = Some(Lent { boundary, may_switch, has_switched: false });
        self.awaits_body = AtomicBool::new(false);
        self.begin_exchange(least);
    }

    /// From here on it counts how fast the client is.
    pub fn begin_exchange(&mut self, least: LeastPace) {
        (self.sends, self.takes, self.least) = (Pace::default(), Pace::default(), least);
    }

    /// Writes to the connection itself, as long as the client takes enough.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = write(Pin::new(&mut self.stream), cx)? else {
            self.takes.waits(clock::start);
            return Poll::Pending;
        };
        self.takes.moved(written, clock::start);
        if !self.lent.as_ref().is_some_and(|lent| lent.has_switched) {
            self.takes.keep(self.least)?;
        }
        Poll::Ready(Ok(written))
    }

    /// Ends the loan. Tells whether another request may follow: the one lent was read to its end (what is left of it would
    /// be taken for a request), and the protocol is still the same. Nothing of the response is held back then.
    pub fn take_back(&mut self) -> bool {
        debug_assert!(self.head.is_none(), "Pingora flushes what it has written");
        self.lent.take().is_some_and(|lent| lent.boundary.is_reached() && !lent.has_switched)
    }

    /// Reads no further than the request that is lent goes.
    fn poll_lent(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bad_chunk =
            |_| io::Error::new(io::ErrorKind::InvalidData, "the chunks of the request cannot be read");
        let lent = match &mut self.lent {
            Some(lent) if !lent.has_switched => lent,
            _ if self.received.is_empty() => return Pin::new(&mut self.stream).poll_read(cx, buf),
            _ => {
                let length = self.received.len().min(buf.remaining());
                buf.put_slice(&self.received.split_to(length));
                return Poll::Ready(Ok(()));
            }
        };
        if lent.boundary.is_reached() {
            return self.poll_ahead(cx);
        }
        if self.received.is_empty() {
            let before = buf.filled().len();
            if Pin::new(&mut self.stream).poll_read(cx, buf)?.is_pending() {
                self.sends.waits(clock::start);
                return Poll::Pending;
            }
            self.sends.moved(buf.filled().len() - before, clock::start);
            self.sends.keep(self.least)?;
            let taken = before + lent.boundary.take(&buf.filled()[before..]).map_err(bad_chunk)?;
            self.received.extend_from_slice(&buf.filled()[taken..]);
            buf.set_filled(taken);
        } else {
            let length = self.received.len().min(buf.remaining());
            let taken = lent.boundary.take(&self.received[..length]).map_err(bad_chunk)?;
            buf.put_slice(&self.received.split_to(taken));
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps what comes after the request; ends when the client has.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.received.len() < MAX_AHEAD {
            let mut space = [MaybeUninit::uninit(); STEP];
            let mut ahead = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut ahead))?;
            if ahead.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.received.extend_from_slice(ahead.filled());
        }
        Poll::Pending
    }

    /// Notices the head by which the origin agrees to switch protocols.
    fn notice_switch(&mut self, written: &[u8]) {
        if let Some(lent) = self.lent.as_mut().filter(|lent| lent.may_switch) {
            lent.has_switched |= written.starts_with(b"HTTP/1.1 101");
        }
    }

    /// Whether these bytes are the final head of a response to the request that is lent. An interim one goes out at once.
    fn is_final_head(&self, bytes: &[u8]) -> bool {
        let is_lent = self.lent.as_ref().is_some_and(|lent| !lent.has_switched);
        is_lent && bytes.starts_with(b"HTTP/1.") && bytes.get(b"HTTP/1.1 ".len()) != Some(&b'1')
    }

    /// A head with the date that was set for it.
    fn dated(&self, bytes: &[u8]) -> Vec<u8> {
        const DATE: &[u8] = b"\r\nDate: ";
        let mut head = bytes.to_vec();
        let seconds = self.date.swap(0, Ordering::Relaxed);
        if seconds == 0 {
            return head;
        }
        let date = httpdate::fmt_http_date(Timestamp(seconds * 1000).into());
        let at = bytes.windows(DATE.len()).position(|window| window.eq_ignore_ascii_case(DATE));
        let at = at.map(|at| at + DATE.len());
        // What Pingora wrote is as long; anything else is left alone.
        if let Some(at) = at
            && bytes.get(at + DATE_LENGTH..).is_some_and(|rest| rest.starts_with(b"\r\n"))
        {
            head[at..at + DATE_LENGTH].copy_from_slice(date.as_bytes());
        }
        head
    }

    /// Sends the head that is held, together with the first of these bytes. Tells how many of them; `None` when no head is held.
    fn poll_joined(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<Option<usize>>> {
        let Some(held) = &mut self.head else { return Poll::Ready(Ok(None)) };
        if held.owed.is_none() {
            let before = held.bytes.len();
            for buf in bufs {
                let room = MAX_JOINED - (held.bytes.len() - before);
                held.bytes.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            held.owed = Some(held.bytes.len() - before);
        }
        // Its writer comes back with the same bytes until it hears of them.
        ready!(self.poll_held(cx))?;
        Poll::Ready(Ok(self.head.take().and_then(|held| held.owed)))
    }

    /// Sends what is held.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(mut held) = self.head.take() else { return Poll::Ready(Ok(())) };
        let result = self.poll_rest(cx, &held.bytes, &mut held.sent);
        self.head = Some(held);
        result
    }

    /// Sends what is not yet `sent`.
    fn poll_rest(&mut self, cx: &mut Context<'_>, bytes: &[u8], sent: &mut usize) -> Poll<io::Result<()>> {
        while *sent < bytes.len() {
            match ready!(self.poll_send(cx, |stream, cx| stream.poll_write(cx, &bytes[*sent..])))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *sent += more,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is held of a head that nothing follows.
    fn poll_held_alone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        // Who has bytes in it has yet to hear of them.
        self.head = self.head.take().filter(|held| held.owed.is_some());
        Poll::Ready(Ok(()))
    }
}

impl From<TooSlow> for io::Error {
    fn from(too_slow: TooSlow) -> Self {
        Self::new(io::ErrorKind::TimedOut, too_slow)
    }
}

/// Whether this is what an error is about.
pub fn is_too_slow(error: &(dyn std::error::Error + 'static)) -> bool {
    let cause = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    cause.is_some_and(|cause| cause.is::<TooSlow>())
}

/// Lets the response keep its own `Date`, where it has a valid one. To be called before its head is sent.
pub fn keep_date(session: &Session, response: &ResponseHeader) {
    // The date that is set is for the final head.
    if response.status.is_informational() {
        return;
    }
    let Some(wire) = of(session) else { return };
    let date = response.headers.get("date").and_then(|date| date.to_str().ok()).and_then(parse_date);
    let seconds = date.map_or(0, |date| Timestamp::from(date).0 / 1000);
    wire.date.store(if seconds < END_OF_DATES { seconds } else { 0 }, Ordering::Relaxed);
}

/// Lets the head that is sent next wait for the first bytes of its body, which have to follow at once.
pub fn await_body(session: &Session) {
    if let Some(wire) = of(session) {
        wire.awaits_body.store(true, Ordering::Relaxed);
    }
}

/// The wire of a session. A subrequest has none, nor has a request by HTTP/2.
fn of(session: &Session) -> Option<&Wire> {
    session.as_downstream().as_http1()?.stream().as_any().downcast_ref()
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_lent(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.head.is_none() && this.is_final_head(buf) {
            let waits = this.awaits_body.swap(false, Ordering::Relaxed);
            let owed = (!waits).then_some(buf.len());
            this.head = Some(Held { bytes: this.dated(buf), sent: 0, owed });
            if waits {
                return Poll::Ready(Ok(buf.len()));
            }
        }
        if let Some(written) = ready!(this.poll_joined(cx, &[io::IoSlice::new(buf)]))? {
            return Poll::Ready(Ok(written));
        }
        this.notice_switch(buf);
        this.poll_send(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held_alone(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held_alone(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    // Pingora writes a head by itself, never in several pieces.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(written) = ready!(self.poll_joined(cx, bufs))? {
            return Poll::Ready(Ok(written));
        }
        self.poll_send(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        // With TLS only the first of several pieces would be taken. Who knows that puts small ones together.
        self.is_plain() && self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        // A head that is still held is that of a response which could not be begun.
        self.stream.shutdown().await;
    }
}

#[async_trait]
impl Peek for Wire {
    // What is received already is not to be seen here; nobody asks a client's connection.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.stream.try_peek(buf).await
    }
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Wire {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> std::time::Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> std::time::Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::framing::Content;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const OWN: &str = "HTTP/1.1 200 OK\r\nX: 1\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\nA: b\r\n\r\n";

    fn lent(near: tokio::io::DuplexStream) -> Wire {
        let mut wire = Wire::new(Box::new(near));
        wire.lend(Boundary::new(0, Content::Length(0)), false, LeastPace::default());
        wire
    }

    /// Writes through a pipe of three bytes, so that every write is partial.
    async fn through(date: u64, writes: &[&str]) -> String {
        let (near, mut far) = tokio::io::duplex(3);
        let wire = lent(near);
        wire.date.store(date, Ordering::Relaxed);
        let writes: Vec<String> = writes.iter().map(|text| (*text).to_owned()).collect();
        let writing = tokio::spawn(async move {
            let mut wire = wire;
            for text in writes {
                wire.write_all(text.as_bytes()).await.unwrap();
            }
        });
        let mut read = String::new();
        far.read_to_string(&mut read).await.unwrap();
        writing.await.unwrap();
        read
    }

    #[tokio::test]
    async fn a_head_gets_its_own_date_back_and_a_body_is_left_alone() {
        let expected = OWN.replace("Tue, 24 Nov 2026 10:00:00 GMT", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(through(784_111_777, &[OWN]).await, expected);
        assert_eq!(through(784_111_777, &[OWN, OWN]).await, format!("{expected}{OWN}"), "once");
        assert_eq!(through(0, &[OWN]).await, OWN);
    }

    #[tokio::test]
    async fn an_interim_head_leaves_the_date_to_the_final_one() {
        let early = OWN.replace("200 OK", "103 Early Hints");
        let early = early.as_str();
        let read = through(784_111_777, &[early, OWN]).await;
        assert!(read.starts_with(early) && read.contains("1994"), "{read}");
    }

    #[tokio::test]
    async fn a_head_and_the_first_of_its_body_go_out_in_one_piece() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let mut wire = lent(near);
        wire.awaits_body.store(true, Ordering::Relaxed);
        wire.write_all(OWN.as_bytes()).await.unwrap();
        let mut read = vec![0; 64 * 1024];
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(20), far.read(&mut read)).await;
        assert!(nothing.is_err(), "the head waits");
        let body = "x".repeat(MAX_JOINED + 1);
        // There is room for all of it, so that it is what has joined the head.
        assert_eq!(wire.write(body.as_bytes()).await.unwrap(), MAX_JOINED);
        wire.write_all(&body.as_bytes()[MAX_JOINED..]).await.unwrap();
        wire.write_all(OWN.as_bytes()).await.unwrap();
        let all = format!("{OWN}{body}{OWN}");
        far.read_exact(&mut read[..all.len()]).await.unwrap();
        assert_eq!(&read[..all.len()], all.as_bytes(), "once");
    }

    #[tokio::test]
    async fn a_head_whose_body_does_not_come_goes_out_with_a_flush() {
        let (near, mut far) = tokio::io::duplex(7);
        let mut wire = lent(near);
        wire.awaits_body.store(true, Ordering::Relaxed);
        let writing = tokio::spawn(async move {
            wire.write_all(OWN.as_bytes()).await.unwrap();
            wire.flush().await.unwrap();
            wire
        });
        let mut read = vec![0; OWN.len()];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, OWN.as_bytes());
        assert!(writing.await.unwrap().take_back());
    }
}
