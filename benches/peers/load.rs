//! The load: one thread, one `epoll` loop, requests made beforehand, and as little reading of responses as will do.
//! Each connection has always one request under way.
//!
//! The thread does not sleep unless it is told to. A load that sleeps while it waits has to be woken by the server, at its cost
//! and the more often the slower that is, which no client on another machine asks of it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::cases::Requests;
use crate::histogram::Histogram;

/// How long the last responses may take.
const DRAIN: Duration = Duration::from_secs(5);

/// What one read may take: more than most responses have.
const BUFFER: usize = 128 * 1024;

/// The most bytes of a head.
const MAX_HEAD: usize = 16 * 1024;

/// What a run of load has shown.
#[derive(Default)]
pub struct Run {
    /// Responses that have come whole.
    pub responses: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// How long of that it looked whether something has come.
    pub idle: Duration,
    /// From the request to the last byte of its response.
    pub latency: Histogram,
}

/// Connections to a server.
pub struct Load<'i> {
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    /// How long it sleeps while nothing comes.
    sleep: Duration,
    interrupted: &'i AtomicBool,
}

impl<'i> Load<'i> {
    /// Connects `count` times. What has one request under way on each connection `sleeps` while it waits, or not.
    pub fn connect(
        address: SocketAddr,
        count: usize,
        sleeps: bool,
        interrupted: &'i AtomicBool,
    ) -> Result<Self, String> {
        let poll = Poll::new().map_err(|error| error.to_string())?;
        let connect = |token| -> std::io::Result<Connection> {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(token), Interest::READABLE)?;
            Ok(Connection { stream, response: Response::default(), since: Instant::now() })
        };
        let connections = (0..count).map(connect).collect::<Result<_, _>>();
        let connections = connections.map_err(|error| format!("cannot connect: {error}"))?;
        let sleep = if sleeps { DRAIN } else { Duration::ZERO };
        Ok(Self { poll, connections, buffer: vec![0; BUFFER], sleep, interrupted })
    }

    /// Asks for `duration`, and waits for the last responses. A `duration` of zero is one request per connection.
    pub fn run(
        &mut self,
        requests: &mut Requests<'_>,
        status: u16,
        duration: Duration,
    ) -> Result<Run, String> {
        let started = Instant::now();
        let mut run = Run::default();
        for connection in &mut self.connections {
            connection.send(requests, started)?;
        }
        let mut under_way = self.connections.len();
        let mut events = Events::with_capacity(1024);
        let mut now = started;
        while under_way > 0 {
            run.idle += self.look(&mut events, self.sleep)?;
            if events.is_empty() && now.elapsed() > DRAIN {
                return Err(format!("{under_way} responses have not come within {} s", DRAIN.as_secs()));
            }
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                if !connection.receive(&mut self.buffer, status)? {
                    continue;
                }
                now = Instant::now();
                run.responses += 1;
                run.latency.record(now - connection.since);
                match now - started < duration {
                    true => connection.send(requests, now)?,
                    false => under_way -= 1,
                }
            }
        }
        run.elapsed = started.elapsed();
        Ok(run)
    }

    /// Looks for what can be read, and sleeps so long at most. Where there is nothing, the origin, which is on the same core,
    /// gets its turn at once. Tells how long that took.
    fn look(&mut self, events: &mut Events, sleep: Duration) -> Result<Duration, String> {
        let began = Instant::now();
        match self.poll.poll(events, Some(sleep)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.to_string()),
            _ => {}
        }
        if events.is_empty() {
            std::thread::yield_now();
        }
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err("interrupted".to_owned()),
            false => Ok(began.elapsed()),
        }
    }

    /// Asks `rate` times per second for `duration`, whether responses come or not. A request that is due while all connections
    /// wait for theirs is sent later, and its latency counts from when it was due.
    pub fn run_at(
        &mut self,
        rate: f64,
        requests: &mut Requests<'_>,
        status: u16,
        duration: Duration,
    ) -> Result<Run, String> {
        let started = Instant::now();
        let mut run = Run::default();
        let (mut free, mut sent) = ((0..self.connections.len()).collect::<VecDeque<_>>(), 0);
        let mut events = Events::with_capacity(1024);
        loop {
            let (now, due) = (started.elapsed(), Duration::from_secs_f64(f64::from(sent) / rate));
            let is_over = due >= duration;
            if !is_over
                && due <= now
                && let Some(next) = free.pop_front()
            {
                self.connections[next].send(requests, started + due)?;
                sent += 1;
                continue;
            }
            if is_over && free.len() == self.connections.len() {
                run.elapsed = now;
                return Ok(run);
            }
            if now > duration + DRAIN {
                return Err(format!("the server does not keep up with {rate} requests per second"));
            }
            run.idle += self.look(&mut events, Duration::ZERO)?;
            for event in &events {
                let Token(at) = event.token();
                let connection = &mut self.connections[at];
                if connection.receive(&mut self.buffer, status)? {
                    run.responses += 1;
                    run.latency.record(connection.since.elapsed());
                    free.push_back(at);
                }
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    response: Response,
    since: Instant,
}

impl Connection {
    fn send(&mut self, requests: &mut Requests<'_>, now: Instant) -> Result<(), String> {
        let request = requests.next();
        self.since = now;
        match self.stream.write(request) {
            Ok(written) if written == request.len() => Ok(()),
            // The connection's buffer is empty: a request fits into it.
            Ok(written) => Err(format!("only {written} bytes of a request could be written")),
            Err(error) => Err(format!("cannot write a request: {error}")),
        }
    }

    /// Whether the response is complete. What was read to less than the buffer's end is empty, and tells when more comes.
    fn receive(&mut self, buffer: &mut [u8], status: u16) -> Result<bool, String> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err("the server has closed a connection".to_owned()),
                Ok(read) => {
                    if self.response.advance(&buffer[..read], status)? {
                        return Ok(true);
                    }
                    if read < buffer.len() {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(format!("cannot read a response: {error}")),
            }
        }
    }
}

/// How much of a response has come.
#[derive(Default)]
enum Response {
    #[default]
    Nothing,
    /// A part of its head.
    Head(Vec<u8>),
    /// This many bytes of its body are missing.
    Sized(usize),
    /// A body in chunks, of which these were the last bytes.
    Chunked([u8; END.len()]),
}

/// How a body in chunks ends. That it also stands at the end of a read within a compressed body is possible, and as
/// likely as any other seven bytes.
const END: &[u8; 7] = b"\r\n0\r\n\r\n";

impl Response {
    /// Takes what has come, and tells whether that was all.
    fn advance(&mut self, data: &[u8], status: u16) -> Result<bool, String> {
        let rest = match std::mem::take(self) {
            Self::Nothing => return self.begin(data, status),
            Self::Head(mut head) => {
                head.extend_from_slice(data);
                return self.begin(&head, status);
            }
            Self::Sized(missing) => missing.checked_sub(data.len()).map(Self::Sized),
            Self::Chunked(last) => Some(Self::Chunked(tail(last, data))),
        };
        *self = rest.ok_or("a response is longer than it says")?;
        Ok(self.complete())
    }

    fn begin(&mut self, data: &[u8], status: u16) -> Result<bool, String> {
        let Some(end) = memchr::memmem::find(data, b"\r\n\r\n") else {
            *self = Self::Head(data.to_vec());
            return if data.len() > MAX_HEAD { Err("a head without end".to_owned()) } else { Ok(false) };
        };
        let (head, body) = data.split_at(end + 4);
        if head.get(9..12) != Some(status.to_string().as_bytes()) {
            return Err(format!("not answered with {status}: {}", String::from_utf8_lossy(head)));
        }
        *self = match framing(head) {
            _ if status == 304 => Self::Sized(0),
            Some(length) => Self::Sized(length),
            None => Self::Chunked([0; END.len()]),
        };
        if body.is_empty() { Ok(self.complete()) } else { self.advance(body, status) }
    }

    /// Whether nothing is missing; then the next response may begin.
    fn complete(&mut self) -> bool {
        let complete = match self {
            Self::Sized(missing) => *missing == 0,
            Self::Chunked(last) => last == END,
            Self::Nothing | Self::Head(_) => false,
        };
        if complete {
            *self = Self::Nothing;
        }
        complete
    }
}

/// The length that a head gives; without one the body is in chunks.
pub fn framing(head: &[u8]) -> Option<usize> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        let value = name.eq_ignore_ascii_case(b"content-length:").then_some(value)?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}

/// The last bytes of all that came.
fn tail(mut last: [u8; END.len()], data: &[u8]) -> [u8; END.len()] {
    let new = &data[data.len().saturating_sub(END.len())..];
    last.rotate_left(new.len());
    last[END.len() - new.len()..].copy_from_slice(new);
    last
}
