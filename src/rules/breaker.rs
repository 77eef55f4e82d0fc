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
    /// How often the state has changed. What a request of before tells says nothing of now.
    generation: u64,
    in_a_row: u32,
    window: Window,
}

impl Breaker {
    /// Closed, with nothing known.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Closed, generation: 0, in_a_row: 0, window: Window::new(now) }
    }

    fn change(&mut self, state: State, now: Instant) {
        *self = Self { state, generation: self.generation + 1, ..Self::new(now) };
    }

    /// The generation that a request belongs to which begins now.
    pub fn generation(&self) -> u64 {
        self.generation
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
    pub fn begin_probe(&mut self, now: Instant) {
        self.change(State::HalfOpen, now);
    }

    /// The probe has ended without telling anything: the next request may be one.
    pub fn abandon_probe(&mut self, generation: u64, now: Instant) {
        if self.state == State::HalfOpen && generation == self.generation {
            self.change(State::Open { until: now }, now);
        }
    }

    /// The head of a response to a request of this generation has come. Tells whether that closed the breaker: the rest of a
    /// probe's may take its time.
    pub fn answered(&mut self, generation: u64, now: Instant) -> bool {
        let closes = generation == self.generation && self.state == State::HalfOpen;
        if closes {
            self.close(now);
        }
        closes
    }

    /// The response to a request of this generation has ended well: it counts once it has.
    pub fn succeeded(&mut self, generation: u64, now: Instant, policy: &BreakerPolicy) {
        if generation == self.generation && self.state == State::Closed {
            self.in_a_row = 0;
            self.window.count(now, policy.window, false);
        }
    }

    /// Forgets what was, because somebody else knows better.
    pub fn close(&mut self, now: Instant) {
        self.change(State::Closed, now);
    }

    /// A request of this generation has failed. Tells what that opened the breaker for.
    pub fn failed(&mut self, generation: u64, now: Instant, policy: &BreakerPolicy) -> Option<Trip> {
        if generation != self.generation {
            return None;
        }
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
        self.change(State::Open { until: now + policy.fail_timeout }, now);
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
        assert_eq!(breaker.failed(breaker.generation(), start, &POLICY), None);
        breaker.succeeded(breaker.generation(), start, &POLICY);
        assert_eq!(
            [
                breaker.failed(breaker.generation(), start, &POLICY),
                breaker.failed(breaker.generation(), start, &POLICY)
            ],
            [None, None]
        );
        assert_eq!(breaker.admit(start, &POLICY), Admit::Yes);
        assert_eq!(breaker.failed(breaker.generation(), start, &POLICY), Some(Trip::InARow(3)));
        assert_eq!(breaker.failed(breaker.generation(), start, &POLICY), None, "it is open already");
        assert!(!breaker.answered(breaker.generation(), start), "a late answer to an old request");
        assert_eq!(breaker.admit(after(start, 4999), &POLICY), Admit::NotBefore(after(start, 5000)));
        assert_eq!(breaker.admit(after(start, 5000), &POLICY), Admit::Probe);
        breaker.begin_probe(after(start, 5000));
        assert!(matches!(breaker.admit(after(start, 5000), &POLICY), Admit::NotBefore(_)), "one is enough");
        assert!(breaker.answered(breaker.generation(), after(start, 5001)));
        assert_eq!(breaker.admit(after(start, 5001), &POLICY), Admit::Yes);
    }

    #[test]
    fn a_probe_that_fails_opens_it_again_and_one_that_is_given_up_leaves_room_for_another() {
        let start = clock::start();
        let mut breaker = Breaker::new(start);
        (0..3).for_each(|_| {
            breaker.failed(breaker.generation(), start, &POLICY);
        });
        let later = after(start, 6000);
        breaker.begin_probe(after(start, 5000));
        assert_eq!(breaker.failed(breaker.generation(), later, &POLICY), Some(Trip::Probe));
        assert_eq!(breaker.admit(later, &POLICY), Admit::NotBefore(after(start, 11_000)));
        breaker.begin_probe(after(start, 5000));
        breaker.abandon_probe(breaker.generation(), later);
        assert_eq!(breaker.admit(later, &POLICY), Admit::Probe);
    }

    #[test]
    fn a_share_of_failures_opens_it_once_there_are_enough_to_tell() {
        let start = clock::start();
        let mut breaker = Breaker::new(start);
        let trips: Vec<_> = (0..10)
            .map(|n| match n % 2 {
                0 => {
                    breaker.succeeded(breaker.generation(), start, &POLICY);
                    None
                }
                _ => breaker.failed(breaker.generation(), start, &POLICY),
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
                0 => breaker.succeeded(breaker.generation(), now, &POLICY),
                _ => assert_eq!(breaker.failed(breaker.generation(), now, &POLICY), None, "{n}"),
            }
        }
    }

    #[test]
    fn what_was_asked_before_a_change_tells_nothing_after_it() {
        let start = clock::start();
        let mut breaker = Breaker::new(start);
        let old = breaker.generation();
        (0..3).for_each(|_| {
            breaker.failed(old, start, &POLICY);
        });
        breaker.begin_probe(after(start, 5000));
        let probe = breaker.generation();
        // Requests that had hung since before it was opened end now, well or not.
        assert_eq!(breaker.failed(old, after(start, 5001), &POLICY), None);
        assert!(!breaker.answered(old, after(start, 5001)));
        breaker.abandon_probe(old, after(start, 5001));
        assert!(
            matches!(breaker.admit(after(start, 5001), &POLICY), Admit::NotBefore(_)),
            "the probe is under way"
        );
        assert!(breaker.answered(probe, after(start, 5002)));
        (0..5).for_each(|_| assert_eq!(breaker.failed(old, after(start, 5003), &POLICY), None));
        assert!(breaker.is_closed());
    }
}
