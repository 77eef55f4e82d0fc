//! How long a server may take for the head of its response, from the last byte of the request on.
//!
//! Pingora has one timer for reading from a server, which begins anew with every byte: a server that sends its head byte by
//! byte could go on for hours, and one that may be silent between events for an hour may be so before its first, too. So the
//! connection is shut down from the side when the time is over; Pingora then finds it closed.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::task::JoinHandle;

/// The time of one exchange. Dropping it calls it off.
pub struct Deadline {
    /// Until the time begins.
    connection: Option<OwnedFd>,
    has_passed: Arc<AtomicBool>,
    timer: Option<JoinHandle<()>>,
}

impl Deadline {
    /// For the exchange on a connection that serves nothing else meanwhile. `number` is that of its descriptor, as Pingora tells
    /// it when it has connected; `None` if that cannot be watched.
    #[allow(unsafe_code)]
    pub fn new(number: RawFd) -> Option<Self> {
        if number < 0 {
            return None;
        }
        // SAFETY: Pingora owns the connection while it tells of it, so the number is that of an open descriptor until the call
        // returns. What is kept is a descriptor of its own.
        let connection = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned();
        let connection = connection
            .inspect_err(|error| tracing::warn!(%error, "a response head has no time limit"))
            .ok()?;
        Some(Self { connection: Some(connection), has_passed: Arc::default(), timer: None })
    }

    /// The request has been sent: the time begins, once.
    pub fn begin(&mut self, within: Duration) {
        let Some(connection) = self.connection.take() else { return };
        let has_passed = self.has_passed.clone();
        self.timer = Some(tokio::spawn(async move {
            tokio::time::sleep(within).await;
            has_passed.store(true, Ordering::Relaxed);
            if let Err(error) = shutdown(&connection, Shutdown::Both) {
                tracing::debug!(%error, "a connection has ended by itself");
            }
        }));
    }

    /// Whether the time has begun.
    pub fn has_begun(&self) -> bool {
        self.timer.is_some()
    }

    /// Whether the time was over before the head had come.
    pub fn has_passed(&self) -> bool {
        self.has_passed.load(Ordering::Relaxed)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}
