//! The only place that reads the time.
//!
//! Decisions take a [`Timestamp`] as an argument, so that they can be tested at any moment and so that one
//! request is judged at one moment. Durations inside the process are measured with [`Instant`], which a
//! correction of the system clock cannot move.

use std::time::{Duration, Instant, SystemTime};

/// A moment of wall-clock time, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `later` after this one; saturates at the end of time instead of wrapping.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long before this moment `earlier` lies; zero when it lies after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        SystemTime::UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

/// The present moment.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// The start of a measurement; `elapsed()` ends it.
#[allow(clippy::disallowed_methods)]
pub fn start() -> Instant {
    Instant::now()
}
