//! What is counted of the Redis that instances share.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{HistogramVec, IntCounterVec, IntGauge};

use super::metrics::Registrar;

/// Counters and gauges of it; clones count the same.
#[derive(Clone)]
pub struct Figures {
    questions: IntCounterVec,
    times: HistogramVec,
    is_connected: IntGauge,
    instances: IntGauge,
    recalled: IntCounterVec,
    shared: IntCounterVec,
    follows_log: IntGauge,
    purges_waiting: IntGauge,
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
            recalled: new.counter(
                "parvis_redis_recalls_total",
                "Responses that were looked for in the shared Redis, by what came of it.",
                &["result"],
            ),
            shared: new.counter(
                "parvis_redis_writes_total",
                "Responses for the shared Redis, by what came of them.",
                &["result"],
            ),
            follows_log: gauge(
                "parvis_purge_log_followed",
                "Whether all purges of all instances are known; without that nothing of the shared Redis is served.",
            ),
            purges_waiting: gauge(
                "parvis_purge_log_waiting",
                "Purges of this instance that have not come back out of the log which all share.",
            ),
            instances: gauge("parvis_instances", "Instances that share the Redis, as far as they are known."),
        }
    }

    /// Those that nobody sees.
    #[cfg(test)]
    pub fn unregistered() -> Self {
        Self::new(&Registrar(&prometheus::Registry::new()))
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

    /// What came of the responses that were looked for, by result, and the mean time of an answer in milliseconds.
    pub fn recalls(&self) -> (BTreeMap<String, u64>, f64) {
        let families = self.recalled.collect();
        let counted = families.iter().flat_map(|family| family.get_metric()).map(|metric| {
            let label = metric.get_label().first().map(|label| label.value().to_owned()).unwrap_or_default();
            // A counter of whole numbers.
            (label, metric.get_counter().get_value() as u64)
        });
        let times = self.times.with_label_values(&["recall"]);
        let count = times.get_sample_count().max(1) as f64;
        (counted.collect(), times.get_sample_sum() * 1e3 / count)
    }

    /// Counts a response that was looked for.
    pub fn recalled(&self, result: &str) {
        self.recalled.with_label_values(&[result]).inc();
    }

    /// Counts a response that was to be written.
    pub fn shared(&self, result: &str) {
        self.shared.with_label_values(&[result]).inc();
    }

    /// Notes whether the purges of all are known.
    pub fn log_followed(&self, is_followed: bool) {
        self.follows_log.set(i64::from(is_followed));
    }

    /// Notes how many own purges have not come back.
    pub fn log_waiting(&self, count: usize) {
        self.purges_waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes how many instances there are.
    pub fn instances(&self, count: u32) {
        self.instances.set(i64::from(count));
    }
}
