//! What came of encoded forms, as metrics.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::rules::encodable::Level;
use crate::rules::encoding::Coding;
use crate::store::encoder::Figures;

/// Figures that the encoder keeps; copied when scraped.
pub struct Encodings {
    made: IntCounterVec,
    bytes: IntCounterVec,
    failed: IntCounter,
}

impl Encodings {
    /// Registers them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let new = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let failed = IntCounter::new("parvis_encodings_failed_total", "Forms whose encoder broke.")?;
        registry.register(Box::new(failed.clone()))?;
        Ok(Self {
            made: new(
                "parvis_encodings_total",
                "Encoded forms made of stored responses, by coding and level (quick, strongest).",
                &["coding", "level"],
            )?,
            bytes: new(
                "parvis_encoding_bytes_total",
                "Bytes of the bodies that forms were made of (in), and of the forms (out).",
                &["direction"],
            )?,
            failed,
        })
    }

    /// Takes the figures over.
    pub fn scrape(&self, figures: &Figures) {
        for coding in Coding::ALL {
            for level in Level::ALL {
                let counter = self.made.with_label_values(&[coding.as_str(), level.as_str()]);
                super::metrics::raise(&counter, figures.made(coding, level));
            }
        }
        let (bytes_in, bytes_out) = figures.bytes();
        super::metrics::raise(&self.bytes.with_label_values(&["in"]), bytes_in);
        super::metrics::raise(&self.bytes.with_label_values(&["out"]), bytes_out);
        super::metrics::raise(&self.failed, figures.failed());
    }
}
