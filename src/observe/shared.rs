//! What is counted of the Redis that instances share.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGauge};

use super::metrics::Registrar;

/// Counters and gauges of it; clones count the same.
#[derive(Clone)]
pub struct Figures {
    questions: IntCounterVec,
    times: HistogramVec,
    is_connected: IntGauge,
    instances: IntGauge,
}

impl Figures {
    pub(super) fn new(new: &Registrar<'_>) -> Self {
        let gauge = |name: &str, help: &str| new.registered(IntGauge::new(name, help));
        Self {
            questions: new.counter(
                "parvis_redis_requests_total",
                "Questions to the shared Redis, by what they were about and what came of them.",
                &["about", "result"],
            ),
            times: new.histogram(
                "parvis_redis_seconds",
                "How long answers of the shared Redis took, by what they were about.",
                &["about"],
            ),
            is_connected: gauge("parvis_redis_connected", "Whether there is a link to the shared Redis."),
            instances: gauge("parvis_instances", "Instances that share the Redis, as far as they are known."),
        }
    }

    /// Counts a question.
    pub fn asked(&self, about: &str, result: &str, time: Duration) {
        self.questions.with_label_values(&[about, result]).inc();
        if result == "ok" {
            self.times.with_label_values(&[about]).observe(time.as_secs_f64());
        }
    }

    /// Notes whether there is a link.
    pub fn connected(&self, is_connected: bool) {
        self.is_connected.set(i64::from(is_connected));
    }

    /// Notes how many instances there are.
    pub fn instances(&self, count: u32) {
        self.instances.set(i64::from(count));
    }
}
