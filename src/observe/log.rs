//! The access log, off the request's path: lines wait in stripes, and a thread of its own writes them out. Where
//! they come faster than they can be written, they are dropped and counted rather than requests delayed.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

use super::line::{self, Second};
use super::outcome::Outcome;
use super::stripes::{Place, Stripes};
use crate::clock;

/// The most bytes of lines that wait to be written, in all.
const MAX_WAITING: usize = 64 << 20;

/// How often lines are written out while there are some.
const INTERVAL: Duration = Duration::from_millis(5);

/// Bytes handed to the output at a time, about.
const CHUNK: usize = 64 << 10;

/// The most room that a buffer keeps for the lines to come, and the fewest bytes of a line.
const MAX_KEPT: usize = 1 << 20;
const MIN_LINE: usize = 128;

/// How long the end waits for what is still to be written.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// The writer looks after the lines by itself.
const AWAKE: u8 = 0;
/// The writer sleeps until somebody has a line.
const ASLEEP: u8 = 1;
/// There is no writer any longer.
const ENDED: u8 = 2;

/// One JSON object per request.
#[derive(Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
}

/// Writes out what waits when dropped, unless the output does not take it within five seconds.
pub struct Guard {
    shared: Arc<Shared>,
    writer: Thread,
    ended: Receiver<()>,
}

struct Shared {
    stripes: Stripes<Waiting>,
    /// The most bytes that wait in each stripe; as many may be in the hands of the writer.
    max: usize,
    /// What the writer does. Under load nobody writes to it.
    state: AtomicU8,
    closing: AtomicBool,
    /// Lines lost by the writer.
    lost: AtomicU64,
    /// From when on the ends of requests are counted.
    epoch: Instant,
}

#[derive(Default)]
struct Waiting {
    lines: Lines,
    second: Second,
    dropped: u64,
}

/// Lines, and where each ends.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    marks: Vec<Mark>,
}

#[derive(Clone, Copy)]
struct Mark {
    /// When the request ended, in nanoseconds.
    ended: u64,
    /// Where its line ends.
    at: usize,
}

impl Lines {
    fn bytes(&self) -> usize {
        self.text.len() + size_of_val(self.marks.as_slice())
    }

    /// Empties it, and gives room back that a burst has taken.
    fn renew(&mut self) {
        self.text.clear();
        self.text.shrink_to(MAX_KEPT);
        self.marks.clear();
        self.marks.shrink_to(MAX_KEPT / MIN_LINE);
    }
}

impl AccessLog {
    /// A log that writes to `out`. Lines still waiting are written when the guard is dropped. The error is that of a
    /// thread that cannot be started.
    pub fn new(out: impl Write + Send + 'static) -> io::Result<(Self, Guard)> {
        let stripes = Stripes::new();
        // A stripe's share may wait there, and once more in the hands of the writer.
        let max = MAX_WAITING / stripes.count() / 2;
        Self::with(out, stripes, max)
    }

    fn with(
        out: impl Write + Send + 'static,
        stripes: Stripes<Waiting>,
        max: usize,
    ) -> io::Result<(Self, Guard)> {
        let shared = Arc::new(Shared {
            stripes,
            max,
            state: AtomicU8::new(AWAKE),
            closing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            epoch: clock::start(),
        });
        let (tell_end, ended) = channel();
        let ending = Ending { shared: shared.clone(), in_hand: 0, _tell: tell_end };
        let (taken, chunk) = (vec![], vec![]);
        let writer = Writer { taken, chunk, out, midway: false, failing: false, ending };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
        let writer = thread.thread().clone();
        Ok((Self { shared: shared.clone(), writer: writer.clone() }, Guard { shared, writer, ended }))
    }

    /// How many lines were dropped.
    pub fn dropped(&self) -> u64 {
        let of_stripes: u64 = self.shared.stripes.iter().map(|stripe| stripe.lock().dropped).sum();
        of_stripes + self.shared.lost.load(Ordering::Relaxed)
    }

    /// Queues the line of a request.
    pub(super) fn write(&self, place: Place, outcome: &Outcome) {
        let shared = &*self.shared;
        let ended = outcome.ended().saturating_duration_since(shared.epoch).as_nanos();
        let ended = u64::try_from(ended).unwrap_or(u64::MAX);
        {
            let mut stripe = shared.stripes.at(place).lock();
            let Waiting { lines, second, dropped } = &mut *stripe;
            if lines.bytes() >= shared.max || shared.state.load(Ordering::Relaxed) == ENDED {
                *dropped += 1;
                return;
            }
            let begin = lines.marks.last().map_or(0, |last| last.at);
            // Not more than what a panic may have left.
            lines.text.truncate(begin);
            line::write(&mut lines.text, outcome, second);
            lines.marks.push(Mark { ended, at: lines.text.len() });
            if lines.bytes() > shared.max {
                lines.text.truncate(begin);
                lines.marks.pop();
                *dropped += 1;
                return;
            }
        }
        // The writer looks at the stripes once more after it has said that it sleeps: either it has seen the line,
        // or this sees that it sleeps, since one of both had the lock of the stripe first.
        if shared.state.load(Ordering::Relaxed) == ASLEEP {
            let woken = shared.state.compare_exchange(ASLEEP, AWAKE, Ordering::Relaxed, Ordering::Relaxed);
            if woken.is_ok() {
                self.writer.unpark();
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.writer.unpark();
        if self.ended.recv_timeout(LAST_WRITES) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the output of the access log is blocked: its last lines are lost");
        }
    }
}

/// The thread that writes.
struct Writer<W> {
    /// What was taken from the stripes, each with how many of its lines are written.
    taken: Vec<(Lines, usize)>,
    /// Room for lines of several stripes in their order.
    chunk: Vec<u8>,
    out: W,
    /// Whether the output has got only a part of a line.
    midway: bool,
    /// Whether the last attempt failed.
    failing: bool,
    ending: Ending,
}

/// Tells that there is no writer any longer, however it ended.
struct Ending {
    shared: Arc<Shared>,
    /// Lines taken and neither written nor lost.
    in_hand: u64,
    /// Hangs up on the guard.
    _tell: Sender<()>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.state.store(ENDED, Ordering::Relaxed);
        self.shared.lost.fetch_add(self.in_hand, Ordering::Relaxed);
        for stripe in self.shared.stripes.iter() {
            let mut stripe = stripe.lock();
            stripe.dropped += stripe.lines.marks.len() as u64;
            stripe.lines = Lines::default();
        }
    }
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        loop {
            // Before looking: lines from before the end are seen.
            let closing = self.ending.shared.closing.load(Ordering::Acquire);
            let some = self.take();
            if some {
                self.write_out();
            }
            if closing {
                return;
            }
            match some {
                true => thread::park_timeout(INTERVAL),
                false => self.sleep(),
            }
        }
    }

    /// Sleeps until there is a line, or the end has come.
    fn sleep(&self) {
        let shared = &self.ending.shared;
        shared.state.store(ASLEEP, Ordering::Relaxed);
        let idle = shared.stripes.iter().all(|stripe| stripe.lock().lines.marks.is_empty());
        // Whoever wakes it up in between has its next sleep end at once.
        if idle {
            thread::park();
        }
        shared.state.store(AWAKE, Ordering::Relaxed);
    }

    /// Takes what waits, and leaves empty buffers; `false` when there was nothing.
    fn take(&mut self) -> bool {
        let Ending { shared, in_hand, .. } = &mut self.ending;
        self.taken.resize_with(shared.stripes.count(), Default::default);
        for (stripe, (lines, written)) in shared.stripes.iter().zip(&mut self.taken) {
            lines.renew();
            *written = 0;
            std::mem::swap(lines, &mut stripe.lock().lines);
            *in_hand += lines.marks.len() as u64;
        }
        *in_hand > 0
    }

    /// Writes what was taken in the order in which the requests ended.
    fn write_out(&mut self) {
        let mut taken = std::mem::take(&mut self.taken);
        let mut waiting = taken.iter().filter(|(lines, _)| !lines.marks.is_empty());
        match (waiting.next(), waiting.next()) {
            // Often all are in one stripe, in their order.
            (Some((lines, _)), None) => self.write_straight(lines),
            _ => self.write_merged(&mut taken),
        }
        self.taken = taken;
        match self.out.flush() {
            Ok(()) => {}
            Err(error) => self.tell(&error),
        }
    }

    /// Hands the lines of one stripe over as they lie there, in pieces that end with a line.
    fn write_straight(&mut self, lines: &Lines) {
        let (mut begin, mut marks) = (0, lines.marks.as_slice());
        while !marks.is_empty() {
            let count = marks.partition_point(|mark| mark.at - begin < CHUNK) + 1;
            let (some, rest) = marks.split_at(count.min(marks.len()));
            let end = some.last().map_or(begin, |last| last.at);
            self.hand_over(&lines.text[begin..end], some.len() as u64);
            (begin, marks) = (end, rest);
        }
    }

    /// Hands the lines of several over in the order of their ends.
    fn write_merged(&mut self, taken: &mut [(Lines, usize)]) {
        let (mut chunk, mut count) = (std::mem::take(&mut self.chunk), 0);
        loop {
            let waiting = taken.iter_mut().filter(|(lines, written)| *written < lines.marks.len());
            let next = waiting.min_by_key(|(lines, written)| lines.marks[*written].ended);
            if let Some((lines, written)) = &next {
                let begin = written.checked_sub(1).map_or(0, |last| lines.marks[last].at);
                chunk.extend_from_slice(&lines.text[begin..lines.marks[*written].at]);
                count += 1;
            }
            if chunk.len() >= CHUNK || next.is_none() {
                self.hand_over(&chunk, std::mem::take(&mut count));
                chunk.clear();
            }
            match next {
                Some((_, written)) => *written += 1,
                None => break,
            }
        }
        chunk.shrink_to(2 * CHUNK);
        self.chunk = chunk;
    }

    /// Hands some lines to the output. What it does not take is lost, so that it cannot hold up what comes later.
    fn hand_over(&mut self, text: &[u8], lines: u64) {
        // A line that was broken off must not take the next one with it.
        let result = match self.midway {
            true => self.hand_over_all(b"\n").and_then(|()| self.hand_over_all(text)),
            false => self.hand_over_all(text),
        };
        match result {
            Ok(()) => self.failing = false,
            Err((written, error)) => {
                let lost = memchr::memchr_iter(b'\n', &text[written..]).count();
                self.ending.shared.lost.fetch_add(lost as u64, Ordering::Relaxed);
                self.tell(&error);
            }
        }
        self.ending.in_hand -= lines;
    }

    /// An error comes with the bytes that were taken before it.
    fn hand_over_all(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            match self.out.write(&bytes[written..]) {
                Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
                Ok(some) => {
                    written += some;
                    self.midway = bytes[written - 1] != b'\n';
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A pipe that its other user has made non-blocking, and that is full.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::park_timeout(INTERVAL),
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    /// Tells the operator, once until it works again.
    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "the access log cannot be written: lines are lost until it can");
        }
    }
}

/// Sends the operator's log to standard error; `RUST_LOG` overrides what is shown.
pub fn init() {
    // Pingora reports at error level what the access log tells with its context; what a Redis is in for is told once, by `shared`.
    let default =
        "info,pingora=error,pingora_core=error,pingora_core::connectors=off,pingora_proxy=off,redis=off";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second initialisation (the demo inside a test) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .try_init();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::SyncSender;

    use parking_lot::Mutex;

    use super::*;

    /// An output that keeps what it gets, and does as it is told before each write.
    struct Output<F>(Arc<Mutex<Vec<u8>>>, F);

    impl<F: FnMut() -> io::Result<usize>> Write for Output<F> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let some = (self.1)()?.min(bytes.len());
            self.0.lock().extend_from_slice(&bytes[..some]);
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Kept = Arc<Mutex<Vec<u8>>>;

    fn log(max: usize, told: impl FnMut() -> io::Result<usize> + Send + 'static) -> (AccessLog, Guard, Kept) {
        let kept = Kept::default();
        let (log, guard) = AccessLog::with(Output(kept.clone(), told), Stripes::of(4), max).unwrap();
        (log, guard, kept)
    }

    fn lines(kept: &Kept) -> Vec<String> {
        let text = String::from_utf8(kept.lock().clone()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let id = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).map(|line| line["request_id"].clone())
        };
        text.lines().map(|line| id(line).map_or("half".into(), |id| id.as_str().unwrap().into())).collect()
    }

    fn finished(id: impl ToString) -> Outcome {
        let mut outcome = Outcome { request_id: id.to_string(), ..Outcome::default() };
        outcome.finish();
        outcome
    }

    /// An output that waits until the sender is gone, and tells when it begins to.
    fn gate() -> (SyncSender<()>, Receiver<()>, impl FnMut() -> io::Result<usize> + Send) {
        let (open, closed) = std::sync::mpsc::sync_channel::<()>(0);
        let (tell, reached) = channel();
        let wait = move || {
            let _ = (tell.send(()), closed.recv());
            Ok(usize::MAX)
        };
        (open, reached, wait)
    }

    #[test]
    fn nothing_is_lost_at_the_end_and_lines_of_a_thread_keep_their_order() {
        let (log, guard, kept) = log(usize::MAX, || Ok(1000));
        thread::scope(|scope| {
            for thread in 0..8 {
                let log = &log;
                scope.spawn(move || {
                    (0..1000).for_each(|n| log.write(Place::here(), &finished(format!("{thread}-{n:04}"))));
                });
            }
        });
        drop(guard);
        let lines = lines(&kept);
        assert_eq!((lines.len(), log.dropped()), (8000, 0));
        for thread in 0..8 {
            let of_thread = lines.iter().filter(|line| line.starts_with(&format!("{thread}-")));
            assert!(of_thread.is_sorted_by(|line, next| line < next));
        }
        log.write(Place::here(), &finished("too late"));
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn a_line_is_written_without_another_one_and_after_a_sleep() {
        let (log, _guard, kept) = log(usize::MAX, || Ok(usize::MAX));
        for count in 1..20 {
            log.write(Place::here(), &finished("x"));
            while lines(&kept).len() < count {
                thread::yield_now();
            }
            while log.shared.state.load(Ordering::Relaxed) != ASLEEP {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_blocked_output_costs_lines_and_delays_nobody() {
        let (open, reached, wait) = gate();
        let (log, guard, kept) = log(10_000, wait);
        log.write(Place::here(), &finished("first"));
        reached.recv().unwrap();
        (0..1000).for_each(|_| log.write(Place::here(), &finished("x")));
        let dropped = log.dropped();
        assert!(dropped > 900);
        let waiting = |log: &AccessLog| {
            log.shared.stripes.iter().map(|stripe| stripe.lock().lines.bytes()).sum::<usize>()
        };
        assert!(waiting(&log) <= 10_000);
        drop(open);
        drop(guard);
        assert_eq!((lines(&kept).len() as u64, log.dropped()), (1001 - dropped, dropped));
        assert_eq!(waiting(&log), 0);
    }

    #[test]
    fn a_line_that_is_too_long_by_itself_is_dropped() {
        let (log, guard, kept) = log(10_000, || Ok(usize::MAX));
        log.write(Place::here(), &finished("x".repeat(10_000)));
        log.write(Place::here(), &finished("short"));
        drop(guard);
        assert_eq!((lines(&kept), log.dropped()), (vec!["short".to_owned()], 1));
    }

    #[test]
    fn lines_that_wait_together_are_in_the_order_of_their_ends() {
        let (open, reached, wait) = gate();
        let (log, guard, kept) = log(usize::MAX, wait);
        log.write(Place::at(0), &finished("00"));
        reached.recv().unwrap();
        (1..50).for_each(|n| log.write(Place::at(n * 7), &finished(format!("{n:02}"))));
        drop((open, guard));
        let expected: Vec<_> = (0..50).map(|n| format!("{n:02}")).collect();
        assert_eq!(lines(&kept), expected);
    }

    #[test]
    fn what_an_output_refuses_is_counted_and_the_next_line_is_whole() {
        // Blocked for a moment, then half a line, then an error, then it works.
        let mut told =
            vec![Err(ErrorKind::StorageFull), Ok(9), Err(ErrorKind::Interrupted), Err(ErrorKind::WouldBlock)];
        let (log, guard, kept) = log(usize::MAX, move || Ok(told.pop().unwrap_or(Ok(usize::MAX))?));
        log.write(Place::here(), &finished("lost"));
        while log.dropped() == 0 {
            thread::yield_now();
        }
        log.write(Place::here(), &finished("whole"));
        drop(guard);
        assert_eq!((lines(&kept), log.dropped()), (vec!["half".to_owned(), "whole".to_owned()], 1));
    }

    #[test]
    fn a_writer_that_panics_hangs_nobody() {
        let (log, guard, _) = log(usize::MAX, || panic!("an output"));
        log.write(Place::here(), &finished("lost"));
        while log.dropped() == 0 {
            thread::yield_now();
        }
        log.write(Place::here(), &finished("lost too"));
        drop(guard);
        assert_eq!(log.dropped(), 2);
    }
}
