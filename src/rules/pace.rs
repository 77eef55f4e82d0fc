//! How fast a client is while it is waited for.
//!
//! One that sends or takes a byte now and then is never silent, and holds a place for hours. What counts is the time in which
//! nobody but the client could have gone on: a slow application is not its fault.

use std::time::{Duration, Instant};

/// The least that is asked of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeastPace {
    /// Bytes per second, on average; zero for any.
    pub rate: u64,
    /// How long it may be waited for before that counts.
    pub patience: Duration,
}

/// It is slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is slower than `min_rate`")]
pub struct TooSlow;

/// One direction of one exchange.
#[derive(Debug, Default)]
pub struct Pace {
    waits_since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The client could go on, and does not.
    pub fn waits(&mut self, now: impl FnOnce() -> Instant) {
        self.waits_since.get_or_insert_with(now);
    }

    /// So many bytes have gone. The time is asked for only if somebody has waited.
    pub fn moved(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        self.bytes += bytes as u64;
        if let Some(since) = self.waits_since.take() {
            self.waited += now().saturating_duration_since(since);
        }
    }

    /// Whether the client is fast enough.
    ///
    /// # Errors
    ///
    /// That it is not.
    pub fn keep(&self, least: LeastPace) -> Result<(), TooSlow> {
        let is_due = !self.waited.is_zero() && self.waited > least.patience;
        match is_due && (self.bytes as f64) < least.rate as f64 * self.waited.as_secs_f64() {
            true => Err(TooSlow),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn only_the_time_in_which_it_is_waited_for_counts() {
        let start = clock::start();
        let at = |seconds: u64| move || start + Duration::from_secs(seconds);
        let least = |rate: u64| LeastPace { rate, patience: Duration::from_secs(60) };
        let mut pace = Pace::default();
        pace.moved(10, || unreachable!("nobody has waited"));
        pace.waits(at(1000));
        pace.waits(at(1030));
        pace.moved(90, at(1060));
        assert_eq!(pace.keep(least(100)), Ok(()), "a minute is granted");
        pace.waits(at(5000));
        pace.moved(100, at(5040));
        // 200 bytes in 100 seconds.
        assert_eq!(pace.keep(least(3)), Err(TooSlow));
        assert_eq!(pace.keep(least(2)), Ok(()));
        assert_eq!(pace.keep(least(0)), Ok(()), "any pace will do");
        pace.moved(1_000_000, || unreachable!());
        assert_eq!(pace.keep(least(3)), Ok(()));
    }
}
