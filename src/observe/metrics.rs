//! Counters and histograms, each defined once: name, unit, help.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{AtomicU64, Collector, GenericGauge};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};

use super::encodings::Encodings;
use super::log::AccessLog;
use super::outcome::Outcome;
use super::shared::Figures;
use super::stripes::Place;
use super::tally::{NO_ROUTE, Tally};
use super::upstreams::Upstreams;
use crate::rules::admission::DiscardReason;
use crate::rules::lookup::PassReason;
use crate::store::Store;

/// From a hit to a page that a reader has given up on, in seconds.
pub(super) const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

type Gauge = GenericGauge<AtomicU64>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    store: Arc<Store>,
    access_log: AccessLog,
    tally: Tally,
    origin: HistogramVec,
    purges: IntCounterVec,
    purged: IntCounter,
    audit_lost: IntCounter,
    limits: IntCounterVec,
    limited: IntCounterVec,
    connections: IntCounter,
    lent: IntCounter,
    reloads: IntCounterVec,
    fetches: IntCounterVec,
    shadow: IntCounterVec,
    audits: IntCounterVec,
    personalised: IntCounterVec,
    encodings: Encodings,
    upstreams: Upstreams,
    on_scrape: Mutex<OnScrape>,
}

/// Figures that others keep; copied when scraped.
struct OnScrape {
    entries: Gauge,
    bytes: Gauge,
    evictions: IntCounter,
    bans: Gauge,
    fills: Gauge,
    fill_bytes: Gauge,
    dropped_lines: IntCounter,
}

/// A metric of this module is registered once, under a valid name.
pub(super) const VALID: &str = "metric names are valid and distinct";

/// What causes a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A token of the admin listener.
    Api,
    /// A client of another cache, on the main listener.
    Client,
    /// A write.
    Write,
    /// A write of unknown outcome, once more when it should be done.
    Late,
    /// A reload that leads elsewhere.
    Reload,
    /// Another instance, which has purged the same.
    Peer,
    /// What was stored may have missed purges of other instances.
    Doubt,
}

impl Cause {
    /// The word used in the metric and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Client => "client",
            Self::Write => "write",
            Self::Late => "late",
            Self::Reload => "reload",
            Self::Peer => "peer",
            Self::Doubt => "doubt",
        }
    }
}

/// Makes metrics and registers them.
pub(super) struct Registrar<'a>(pub(super) &'a Registry);

impl Registrar<'_> {
    pub(super) fn registered<T: Collector + Clone + 'static>(&self, metric: prometheus::Result<T>) -> T {
        let metric = metric.expect(VALID);
        self.0.register(Box::new(metric.clone())).expect(VALID);
        metric
    }

    pub(super) fn counter(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn single(&self, name: &str, help: &str) -> IntCounter {
        self.registered(IntCounter::new(name, help))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.registered(HistogramVec::new(options, labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.registered(Gauge::new(name, help))
    }
}

impl Metrics {
    /// Registers everything; figures of the store are read when scraped.
    pub fn new(store: Arc<Store>, access_log: AccessLog) -> Self {
        let registry = Registry::new();
        let new = Registrar(&registry);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect(VALID);
        let tally = Tally::new();
        registry.register(Box::new(tally.collector())).expect(VALID);
        let metrics = Self {
            tally,
            origin: new.histogram(
                "parvis_origin_duration_seconds",
                "From sending a request to the origin to its response head.",
                &["route"],
            ),
            purges: new.counter("parvis_purges_total", "Purges, by what caused them, and those refused.", &["cause"]),
            purged: new.single("parvis_purged_entries_total", "Stored responses removed, or expired, by purges and writes."),
            audit_lost: new.single(
                "parvis_audit_log_lost_total",
                "Purges that could not be written to the file of the audit log.",
            ),
            limits: new.counter("parvis_limit_reached_total", "How often a limit was reached.", &["limit"]),
            limited: new.counter(
                "parvis_rate_limited_total",
                "Requests beyond a limit of their route: refused, or only counted.",
                &["route", "limit", "result"],
            ),
            lent: new.single("parvis_lent_total", "Requests that were not answered or refused at the door."),
            connections: new.single("parvis_connections_total", "Client connections accepted."),
            reloads: new.counter("parvis_reloads_total", "Reloads of the configuration, by result.", &["result"]),
            fetches: new.counter("parvis_fetches_total", "Fetches for the store, by result.", &["result"]),
            shadow: new.counter(
                "parvis_shadow_total",
                "Requests of routes in shadow mode, by what would have been done, and whether the bytes were the same.",
                &["route", "result"],
            ),
            audits: new.counter(
                "parvis_audits_total",
                "Hits compared with the origin, by result.",
                &["route", "result"],
            ),
            personalised: new.counter(
                "parvis_personalised_total",
                "Responses that were not stored because they may be one visitor's, by what was found.",
                &["route", "found"],
            ),
            encodings: Encodings::new(&registry).expect(VALID),
            upstreams: Upstreams::new(&new),
            on_scrape: Mutex::new(OnScrape {
                entries: new.gauge("parvis_store_entries", "Responses in the memory tier."),
                bytes: new.gauge("parvis_store_bytes", "Bytes the memory tier is charged with."),
                evictions: new.single("parvis_store_evictions_total", "Responses pushed out to make room."),
                bans: new.gauge("parvis_bans", "Purges in force that are not carried out yet."),
                fills: new.gauge("parvis_fills", "Fetches under way that others can join."),
                fill_bytes: new.gauge("parvis_fill_bytes", "Bytes of bodies under way."),
                dropped_lines: new.single("parvis_access_log_dropped_total", "Access log lines dropped."),
            }),
            store,
            access_log,
            registry: registry.clone(),
        };
        new.gauge("parvis_store_capacity_bytes", "The budget of the memory tier.")
            .set(metrics.store.memory.capacity());
        metrics
    }

    /// Counts a finished request, where this thread counts.
    pub(super) fn record(&self, outcome: &Outcome, place: Place) {
        let reason = outcome.reason();
        if !self.tally.count(place, outcome, reason) {
            self.limit("series");
        }
        if let Some(shadowed) = outcome.shadow {
            let route = outcome.route.as_deref().unwrap_or(NO_ROUTE);
            self.shadow.with_label_values(&[route, shadowed.as_str()]).inc();
        }
        for limit in [
            PassReason::LockTimeout.as_str(),
            PassReason::FillLimit.as_str(),
            DiscardReason::TooLarge.as_str(),
        ] {
            if reason == limit {
                self.limit(limit);
            }
        }
    }

    /// The histogram of the origin's answers on a route.
    pub fn origin(&self, route: &str) -> Histogram {
        self.origin.with_label_values(&[route])
    }

    /// Counts a purge by its cause and what it named.
    pub fn purge(&self, cause: Cause, entries: usize) {
        self.purges.with_label_values(&[cause.as_str()]).inc();
        self.purged.inc_by(entries as u64);
    }

    /// Counts a purge that was refused.
    pub fn purge_refused(&self) {
        self.purges.with_label_values(&["refused"]).inc();
    }

    /// Counts a line of the audit log's file that could not be written.
    pub fn audit_line_lost(&self) {
        self.audit_lost.inc();
    }

    /// Counts that a limit was reached.
    pub fn limit(&self, limit: &str) {
        self.limits.with_label_values(&[limit]).inc();
    }

    /// Counts a request beyond a limit of its route, by what became of it.
    pub fn limited(&self, route: &str, limit: &str, result: &str) {
        self.limited.with_label_values(&[route, limit, result]).inc();
    }

    /// Brings the count of a limit to the figure that somebody else keeps.
    pub fn raise_limit(&self, limit: &str, to: u64) {
        raise(&self.limits.with_label_values(&[limit]), to);
    }

    /// Counts an audit of a hit.
    pub fn audit(&self, route: &str, result: &str) {
        self.audits.with_label_values(&[route, result]).inc();
    }

    /// Counts a response that the guard refused, by what it found: a `difference` that marks the key, a `secret`, or
    /// nothing but that it is another than the one stored (`refused`).
    pub fn personalised(&self, route: &str, found: &str) {
        self.personalised.with_label_values(&[route, found]).inc();
    }

    /// Counts a request that goes the full way.
    pub fn lent(&self) {
        self.lent.inc();
    }

    /// Counts a client connection.
    pub fn connection(&self) {
        self.connections.inc();
    }

    /// What is counted of the shared Redis. To be called once, if there is one: figures of none would be misleading.
    pub fn shared(&self) -> Figures {
        Figures::new(&Registrar(&self.registry))
    }

    /// What is counted of upstreams.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Counts a reload.
    pub fn reload(&self, result: &str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Counts a fetch for the store by what became of it.
    pub fn fetch(&self, result: &str) {
        self.fetches.with_label_values(&[result]).inc();
    }

    /// How many requests of each route had which verdict.
    pub fn verdicts(&self) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
        self.tally.verdicts()
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        {
            let figures = self.on_scrape.lock();
            figures.entries.set(self.store.memory.entries() as u64);
            figures.bytes.set(self.store.memory.bytes());
            raise(&figures.evictions, self.store.memory.evictions());
            figures.fills.set(self.store.fills.len() as u64);
            figures.fill_bytes.set(self.store.fills.bytes());
            raise(&self.limits.with_label_values(&["variants"]), self.store.memory.crowded_out());
            raise(&self.limits.with_label_values(&["files"]), self.store.memory.files().refused());
            self.encodings.scrape(self.store.encoder.figures());
            raise(&self.limits.with_label_values(&["encodings"]), self.store.encoder.figures().refused());
            figures.bans.set(self.store.memory.bans() as u64);
            raise(&figures.dropped_lines, self.access_log.dropped());
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Brings a counter to the figure that somebody else keeps.
pub(super) fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
