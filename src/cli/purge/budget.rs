//! Waiting for what another part of the same deploy does: about every second, and not for ever.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::web::REQUEST_TIMEOUT;
use crate::cli::Failure;
use crate::clock;

/// How long to wait before trying again.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What an attempt gets however little time is left: what came before may have taken it all.
const LEAST: Duration = Duration::from_secs(5);

/// What a try came to: the end, or what was seen instead of it.
pub type Try<T> = ControlFlow<Result<T, Failure>, String>;

/// The time that the command may spend waiting, all in all.
pub struct Budget {
    total: Duration,
    started: Instant,
}

impl Budget {
    /// Starts to count.
    pub fn new(total: Duration) -> Self {
        Self { total, started: clock::start() }
    }

    /// Tries until an attempt ends it or the time is over. An attempt is told how long it may take.
    pub fn retry<T>(&self, mut attempt: impl FnMut(Duration) -> Try<T>) -> Result<T, Failure> {
        loop {
            match attempt(self.left().clamp(LEAST, REQUEST_TIMEOUT)) {
                ControlFlow::Break(result) => return result,
                ControlFlow::Continue(seen) if self.left() <= INTERVAL => {
                    let total = humantime::format_duration(self.total);
                    return Err(Failure::timed_out(format!("not within {total}; last: {seen}")));
                }
                ControlFlow::Continue(_) => std::thread::sleep(INTERVAL),
            }
        }
    }

    fn left(&self) -> Duration {
        self.total.saturating_sub(self.started.elapsed())
    }
}
