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

/// How long one reading of the wall clock serves.
const SERVES: Duration = Duration::from_millis(10);

/// A reading of the wall clock, for as many moments as come soon after it: one look at a clock less for each of them. A
/// correction of the system clock is seen ten milliseconds later.
#[derive(Debug)]
pub struct Reading {
    at: Instant,
    time: Timestamp,
}

impl Default for Reading {
    fn default() -> Self {
        Self { at: start(), time: now() }
    }
}

impl Reading {
    /// The wall-clock time of a moment that has just been measured.
    pub fn time_of(&mut self, moment: Instant) -> Timestamp {
        let since = moment.saturating_duration_since(self.at);
        if since < SERVES {
            return self.time.plus(since);
        }
        *self = Self { at: moment, time: now() };
        self.time
    }
}

/// The start of a measurement; `elapsed()` ends it.
#[allow(clippy::disallowed_methods)]
pub fn start() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_serves_for_ten_milliseconds() {
        let after = Duration::from_millis;
        let mut reading = Reading { at: start(), time: Timestamp(7) };
        let at = reading.at;
        assert_eq!([0, 3, 9].map(|ms| reading.time_of(at + after(ms)).0), [7, 10, 16]);
        let anew = reading.time_of(at + after(10));
        assert!(anew > Timestamp(1_700_000_000_000));
        assert_eq!(reading.time_of(at + after(12)), anew.plus(after(2)));
    }
}
