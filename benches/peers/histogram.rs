//! Latencies in buckets that are at most 3 % wide.

use std::time::Duration;

/// Buckets of each power of two.
const STEPS: u64 = 32;

/// Counts by latency, in nanoseconds.
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; (64 * STEPS) as usize])
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        self.0[bucket(latency.as_nanos() as u64)] += 1;
    }

    /// The latency in microseconds that a share (0 to 1) did not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let all: u64 = self.0.iter().sum();
        let mut left = (all as f64 * share).ceil() as u64;
        for (bucket, count) in self.0.iter().enumerate() {
            if *count >= left {
                return middle(bucket as u64) / 1e3;
            }
            left -= count;
        }
        0.0
    }
}

fn bucket(value: u64) -> usize {
    let value = value.max(STEPS);
    let exponent = u64::from(value.ilog2()) - 5;
    (exponent * STEPS + (value >> exponent) - STEPS) as usize
}

fn middle(bucket: u64) -> f64 {
    let (exponent, step) = (bucket / STEPS, bucket % STEPS);
    ((STEPS + step) as f64 + 0.5) * (1_u64 << exponent) as f64
}
