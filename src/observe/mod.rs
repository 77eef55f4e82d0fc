//! What happened, told in the same words everywhere.
//!
//! One [`outcome::Outcome`] per request feeds the response headers, the access log, the slow log and the metrics.

pub mod audit;
mod encodings;
pub mod ids;
mod line;
pub mod log;
pub mod metrics;
pub mod outcome;
pub mod shared;
mod stripes;
mod tally;
pub mod text;
pub mod upstreams;

use std::sync::Arc;
use std::time::Duration;

use stripes::Place;

use crate::store::Store;

/// The places an outcome goes to.
pub struct Observer {
    /// Counters and histograms.
    pub metrics: metrics::Metrics,
    access_log: log::AccessLog,
}

impl Observer {
    /// An observer that writes access lines to `access_log`.
    pub fn new(store: Arc<Store>, access_log: log::AccessLog) -> Self {
        Self { metrics: metrics::Metrics::new(store, access_log.clone()), access_log }
    }

    /// Records a finished request.
    pub fn record(&self, outcome: &outcome::Outcome, access_log: bool, slow_request: Duration) {
        let place = Place::here();
        self.metrics.record(outcome, place);
        if access_log {
            self.access_log.write(place, outcome);
        }
        if outcome.total() > slow_request {
            line::slow(outcome);
        }
    }
}
