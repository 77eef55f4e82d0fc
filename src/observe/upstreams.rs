//! What is counted of the servers behind parvis.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use super::metrics::Registrar;
use crate::rules::retry::Failure;
use crate::rules::unavailable::Unavailable;

/// The states that a server can be in, in the metric.
const STATES: [&str; 4] = ["up", "half-open", "open", "down"];

/// Counters and gauges of upstreams.
pub struct Upstreams {
    failures: IntCounterVec,
    retries: IntCounterVec,
    unavailable: IntCounterVec,
    waits: HistogramVec,
    states: IntGaugeVec,
    in_flight: IntGaugeVec,
    waiting: IntGaugeVec,
}

impl Upstreams {
    pub(super) fn new(new: &Registrar<'_>) -> Self {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            new.registered(IntGaugeVec::new(Opts::new(name, help), labels))
        };
        Self {
            failures: new.counter(
                "parvis_upstream_failures_total",
                "Requests that a server has failed, by how.",
                &["upstream", "server", "failure"],
            ),
            retries: new.counter(
                "parvis_upstream_retries_total",
                "Requests that were sent once more, by what had happened.",
                &["upstream", "failure"],
            ),
            unavailable: new.counter(
                "parvis_upstream_unavailable_total",
                "Requests that got no server, by why.",
                &["upstream", "reason"],
            ),
            waits: new.histogram(
                "parvis_upstream_wait_seconds",
                "How long requests waited for a place at a server that did not get one at once.",
                &["upstream"],
            ),
            states: gauge(
                "parvis_upstream_server_state",
                "1 for the state that a server is in.",
                &["upstream", "server", "state"],
            ),
            in_flight: gauge(
                "parvis_upstream_requests",
                "Requests under way at a server.",
                &["upstream", "server"],
            ),
            waiting: gauge(
                "parvis_upstream_waiting",
                "Requests that wait for a place at a server.",
                &["upstream"],
            ),
        }
    }

    /// Counts a failure of a server.
    pub fn failure(&self, upstream: &str, server: &str, failure: Failure) {
        self.failures.with_label_values(&[upstream, server, failure.as_str()]).inc();
    }

    /// Counts a request that is sent once more.
    pub fn retry(&self, upstream: &str, failure: Failure) {
        self.retries.with_label_values(&[upstream, failure.as_str()]).inc();
    }

    /// Counts a request that got no server.
    pub fn unavailable(&self, upstream: &str, why: Unavailable) {
        self.unavailable.with_label_values(&[upstream, why.as_str()]).inc();
    }

    /// Notes how long a request has waited for a place.
    pub fn waited(&self, upstream: &str, time: Duration) {
        self.waits.with_label_values(&[upstream]).observe(time.as_secs_f64());
    }

    /// Forgets the servers that there were, before those that there are are noted.
    pub fn renew(&self) {
        self.states.reset();
        self.in_flight.reset();
        self.waiting.reset();
    }

    /// Notes how many requests of an upstream wait.
    pub fn queue(&self, upstream: &str, waiting: usize) {
        self.waiting.with_label_values(&[upstream]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Notes how a server stands.
    pub fn server(&self, upstream: &str, server: &str, state: &str, in_flight: usize) {
        for known in STATES {
            self.states.with_label_values(&[upstream, server, known]).set(i64::from(known == state));
        }
        let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
        self.in_flight.with_label_values(&[upstream, server]).set(in_flight);
    }
}
