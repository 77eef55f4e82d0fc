//! The circuit breaker of one server: when it is left alone, and who may try it again.
//!
//! *Closed*, it takes requests. Too many failures in a row, or too large a share of them within a window, *open* it: nobody
//! asks the server for `fail_timeout`. Then it is *half-open*: one request goes there as a probe, and all others wait for
//! what comes of it.

use std::time::{Duration, Instant};

/// What opens it, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// Failures in a row.
    pub max_fails: u32,
    /// The share of failures within the window, above 0 and up to 1.
    pub error_share: f64,
    /// Of fewer requests within the window than this, no share is taken.
    pub min_requests: u32,
    /// How far back the share looks.
    pub window: Duration,
    /// How long it stays open.
    pub fail_timeout: Duration,
}

/// What opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    /// So many requests in a row have failed.
    InARow(u32),
    /// So many of so many within the window.
    Share(u32, u32),
    /// The probe failed.
    Probe,
}

impl std::fmt::Display for Trip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InARow(1) => write!(f, "a request has failed"),
            Self::InARow(fails) => write!(f, "{fails} requests in a row have failed"),
            Self::Share(failed, all) => write!(f, "{failed} of the last {all} requests have failed"),
            Self::Probe => write!(f, "the request that tried it again has failed"),
        }
    }
}

/// Whether a request may go to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// It may.
    Yes,
    /// It may, to find out.
    Probe,
    /// Not before this moment.
    NotBefore(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// The probe is under way.
    HalfOpen,
}

/// What is known of the requests to one server.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    in_a_row: u32,
    window: Window,
}

impl Breaker {
    /// Closed, with nothing known.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Closed, in_a_row: 0, window: Window::new(now) }
    }

    /// Whether a request may go there now.
    pub fn admit(&self, now: Instant, policy: &BreakerPolicy) -> Admit {
        match self.state {
            State::Closed => Admit::Yes,
            State::Open { until } if now >= until => Admit::Probe,
            State::Open { until } => Admit::NotBefore(until),
            // Most probes are answered sooner than the time that a server is left alone.
            State::HalfOpen => Admit::NotBefore(now + policy.fail_timeout.min(Duration::from_secs(1))),
        }
    }

    /// A probe is on its way.
    pub fn begin_probe(&mut self) {
        self.state = State::HalfOpen;
    }

    /// The probe has ended without telling anything: the next request may be one.
    pub fn abandon_probe(&mut self, now: Instant) {
        if self.state == State::HalfOpen {
            self.state = State::Open { until: now };
        }
    }

    /// The server has answered. Tells whether that closed the breaker.
    pub fn succeeded(&mut self, now: Instant, policy: &BreakerPolicy) -> bool {
        self.in_a_row = 0;
        match self.state {
            State::Closed => {
                self.window.count(now, policy.window, false);
                false
            }
            // An answer to an older request says nothing of the server as it is now.
            State::Open { .. } => false,
            State::HalfOpen => {
                self.close(now);
                true
            }
        }
    }

    /// Forgets what was, because somebody else knows better.
    pub fn close(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// A request has failed. Tells what that opened the breaker for.
    pub fn failed(&mut self, now: Instant, policy: &BreakerPolicy) -> Option<Trip> {
        let trip = match self.state {
            State::Open { .. } => return None,
            State::HalfOpen => Trip::Probe,
            State::Closed => {
                self.in_a_row += 1;
                self.window.count(now, policy.window, true);
                let (failed, all) = self.window.sum(now, policy.window);
                let share = f64::from(failed) / f64::from(all);
                match () {
                    () if self.in_a_row >= policy.max_fails => Trip::InARow(self.in_a_row),
                    () if all >= policy.min_requests && share >= policy.error_share => {
                        Trip::Share(failed, all)
                    }
                    () => return None,
                }
            }
        };
        *self = Self { state: State::Open { until: now + policy.fail_timeout }, ..Self::new(now) };
        Some(trip)
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// The word used in metrics and statistics.
    pub fn as_str(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::HalfOpen => "half-open",
        }
    }
}

const PARTS: usize = 10;

/// Requests and failures of the last while, in parts that are let go one by one.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// Failed, all, and which part of time that was.
    parts: [(u32, u32, u64); PARTS],
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, parts: [(0, 0, 0); PARTS] }
    }

    fn number(&self, now: Instant, length: Duration) -> u64 {
        let part = (length / PARTS as u32).max(Duration::from_millis(1));
        u64::try_from(now.saturating_duration_since(self.began).as_millis() / part.as_millis())
            .unwrap_or(u64::MAX)
    }

    fn count(&mut self, now: Instant, length: Duration, failed: bool) {
        let number = self.number(now, length);
        let part = &mut self.parts[(number % PARTS as u64) as usize];
        if part.2 != number {
            *part = (0, 0, number);
        }
        part.0 += u32::from(failed);
        part.1 += 1;
    }

    fn sum(&self, now: Instant, length: Duration) -> (u32, u32) {
        let number = self.number(now, length);
        let recent = self.parts.iter().filter(|part| number - part.2.min(number) < PARTS as u64);
        recent.fold((0, 0), |(failed, all), part| (failed + part.0, all + part.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const POLICY: BreakerPolicy = BreakerPolicy {
        max_fails: 3,
        error_share: 0.5,
        min_requests: 10,
        window: Duration::from_secs(10),
        fail_timeout: Duration::from_secs(5),
    };

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_closes_it() {
        let start = clock::start();
        let mut breaker = Breaker::new(start);
        assert_eq!(breaker.failed(start, &POLICY), None);
        assert!(!breaker.succeeded(start, &POLICY));
        assert_eq!([breaker.failed(start, &POLICY), breaker.failed(start, &POLICY)], [None, None]);
        assert_eq!(breaker.admit(start, &POLICY), Admit::Yes);
        assert_eq!(breaker.failed(start, &POLICY), Some(Trip::InARow(3)));
        assert_eq!(breaker.failed(start, &POLICY), None, "it is open already");
        assert!(!breaker.succeeded(start, &POLICY), "a late answer to an old request");
        assert_eq!(breaker.admit(after(start, 4999), &POLICY), Admit::NotBefore(after(start, 5000)));
        assert_eq!(breaker.admit(after(start, 5000), &POLICY), Admit::Probe);
        breaker.begin_probe();
        assert!(matches!(breaker.admit(after(start, 5000), &POLICY), Admit::NotBefore(_)), "one is enough");
        assert!(breaker.succeeded(after(start, 5001), &POLICY));
        assert_eq!(breaker.admit(after(start, 5001), &POLICY), Admit::Yes);
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_that_is_given_up_leaves_room_for_another() {
        let start = clock::start();
        let mut breaker = Breaker::new(start);
        (0..3).for_each(|_| {
            breaker.failed(start, &POLICY);
        });
        let later = after(start, 6000);
        breaker.begin_probe();
        assert_eq!(breaker.failed(later, &POLICY), Some(Trip::Probe));
        assert_eq!(breaker.admit(later, &POLICY), Admit::NotBefore(after(start, 11_000)));
        breaker.begin_probe();
        breaker.abandon_probe(later);
        assert_eq!(breaker.admit(later, &POLICY), Admit::Probe);
    }

    #[test]
    fn a_share_of_failures_opens_it_once_there_are_enough_to_tell() {
        let start = clock::start();
        let mut breaker = Breaker::new(start);
        let trips: Vec<_> = (0..10)
            .map(|n| match n % 2 {
                0 => breaker.succeeded(start, &POLICY).then_some(Trip::Probe),
                _ => breaker.failed(start, &POLICY),
            })
            .collect();
        assert!(trips[..9].iter().all(Option::is_none));
        assert_eq!(trips[9], Some(Trip::Share(5, 10)));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let start = clock::start();
        let mut breaker = Breaker::new(start);
        for n in 0..20 {
            // Half of them, but never ten within ten seconds.
            let now = after(start, n * 1500);
            match n % 2 {
                0 => assert!(!breaker.succeeded(now, &POLICY)),
                _ => assert_eq!(breaker.failed(now, &POLICY), None, "{n}"),
            }
        }
    }
}
