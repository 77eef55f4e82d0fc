//! What every request counts: kept in stripes, so that recording takes one lookup under a lock that nobody else
//! wants, and merged when scraped.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::metrics::{BUCKETS, VALID};
use super::outcome::Outcome;
use super::stripes::{Place, Stripes};

/// The most combinations of labels that a stripe tells apart. Routes of earlier configurations are among them, since a
/// counter must not go backwards.
const MAX_SERIES: usize = 8192;

/// The route that requests beyond [`MAX_SERIES`] are counted under, with their verdict and the class of their status.
const OTHER: &str = "other";

/// The route of requests that none takes.
pub(super) const NO_ROUTE: &str = "none";

/// How many series are copied at a time when scraped: recording waits for no more than that.
const STEP: usize = 256;

/// Where the buckets end, in nanoseconds.
const ENDS: [u64; BUCKETS.len()] = {
    let (mut ends, mut at) = ([0; BUCKETS.len()], 0);
    while at < BUCKETS.len() {
        ends[at] = (BUCKETS[at] * 1e6 + 0.5) as u64 * 1000;
        at += 1;
    }
    ends
};

/// One more than buckets with an end.
const COUNTS: usize = BUCKETS.len() + 1;

/// Requests, their bytes and their durations, by their labels.
#[derive(Clone)]
pub struct Tally(Arc<Stripes<Series>>);

/// The labels of a request.
#[derive(Clone, Copy)]
struct Labels<'a> {
    route: &'a str,
    verdict: &'static str,
    reason: &'static str,
    status: u16,
}

impl Labels<'_> {
    /// Cheap and well spread. Nobody outside chooses the texts, so that it need not withstand attacks.
    fn hash(&self) -> u64 {
        let mut hash = u64::from(self.status);
        for text in [self.route, self.verdict, self.reason] {
            let mut words = text.as_bytes().chunks_exact(8);
            let mut add = |word: u64| hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for word in &mut words {
                add(word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
            }
            // Begun with a one, so that the end of a text counts as well.
            add(words.remainder().iter().fold(1, |word, byte| word << 8 | u64::from(*byte)));
        }
        hash ^ hash >> 32
    }
}

/// The requests with the same labels.
#[derive(Clone)]
struct Cell {
    route: Arc<str>,
    verdict: &'static str,
    reason: &'static str,
    status: u16,
    /// Bytes of bodies.
    bytes: u64,
    /// The sum of durations in nanoseconds. In 64 bits, ten thousand connections that stay would fill it in three weeks.
    nanos: u128,
    /// How many ended within each bucket and not within the one before; the last has no end.
    counts: [u64; COUNTS],
}

impl Cell {
    fn new(labels: &Labels<'_>) -> Self {
        let Labels { route, verdict, reason, status } = *labels;
        Self { route: route.into(), verdict, reason, status, bytes: 0, nanos: 0, counts: [0; COUNTS] }
    }

    fn has(&self, labels: &Labels<'_>) -> bool {
        self.status == labels.status
            && is_same(self.verdict, labels.verdict)
            && is_same(self.reason, labels.reason)
            && is_same(&self.route, labels.route)
    }
}

/// Whether two texts are the same. Most are one text in one place, so that is looked at first.
fn is_same(one: &str, other: &str) -> bool {
    std::ptr::eq(one, other) || one == other
}

/// The series of one stripe.
#[derive(Default)]
struct Series {
    /// Where in `cells` labels are, by their hash, or the next free number after it.
    places: HashMap<u64, usize, BuildHasherDefault<Hashed>>,
    /// Never removed, so that a place stays right.
    cells: Vec<Cell>,
    /// Where the last request was counted: the next is often of the same.
    last: usize,
}

impl Series {
    /// Where labels are counted; `None` when they are new and too many.
    fn find(&mut self, labels: &Labels<'_>, max: usize) -> Option<usize> {
        if self.cells.get(self.last).is_none_or(|cell| !cell.has(labels)) {
            self.last = self.search(labels, max)?;
        }
        Some(self.last)
    }

    fn search(&mut self, labels: &Labels<'_>, max: usize) -> Option<usize> {
        let mut hash = labels.hash();
        while let Some(at) = self.places.get(&hash) {
            if self.cells[*at].has(labels) {
                return Some(*at);
            }
            hash = hash.wrapping_add(1);
        }
        if self.cells.len() >= max {
            return None;
        }
        self.places.insert(hash, self.cells.len());
        self.cells.push(Cell::new(labels));
        Some(self.cells.len() - 1)
    }
}

/// Hashes what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Tally {
    /// Nothing counted.
    pub fn new() -> Self {
        Self(Arc::new(Stripes::new()))
    }

    /// Counts a finished request; `false` when its labels are too many to be told apart.
    pub fn count(&self, place: Place, outcome: &Outcome, reason: &'static str) -> bool {
        let labels = Labels {
            route: outcome.route.as_deref().unwrap_or(NO_ROUTE),
            verdict: outcome.verdict_label(),
            reason,
            status: outcome.status,
        };
        let nanos = u64::try_from(outcome.total().as_nanos()).unwrap_or(u64::MAX);
        let bucket = ENDS.iter().position(|end| nanos <= *end).unwrap_or(ENDS.len());
        let mut series = self.0.at(place).lock();
        let found = series.find(&labels, MAX_SERIES);
        let at = found.or_else(|| {
            let status = labels.status / 100 * 100;
            series.find(&Labels { route: OTHER, reason: "", status, ..labels }, usize::MAX)
        });
        if let Some(cell) = at.map(|at| &mut series.cells[at]) {
            cell.bytes += outcome.bytes;
            cell.nanos += u128::from(nanos);
            cell.counts[bucket] += 1;
        }
        found.is_some()
    }

    /// The collector that merges the stripes.
    pub fn collector(&self) -> impl Collector + use<> {
        Merging { tally: self.clone(), families: FAMILIES.map(|family| family.describe()) }
    }

    /// How many requests of each route had which verdict; those without a route are under [`NO_ROUTE`].
    pub fn verdicts(&self) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
        let mut verdicts: BTreeMap<String, BTreeMap<_, u64>> = BTreeMap::new();
        self.for_each(|cell| {
            let count: u64 = cell.counts.iter().sum();
            *verdicts.entry(cell.route.to_string()).or_default().entry(cell.verdict).or_default() += count;
        });
        verdicts
    }

    /// Hands each series of each stripe over. A stripe is locked for a few of them at a time.
    fn for_each(&self, mut use_cell: impl FnMut(Cell)) {
        for stripe in self.0.iter() {
            for from in (0..).step_by(STEP) {
                let some: Vec<Cell> = stripe.lock().cells.iter().skip(from).take(STEP).cloned().collect();
                let last = some.len() < STEP;
                some.into_iter().for_each(&mut use_cell);
                if last {
                    break;
                }
            }
        }
    }
}

/// A metric of this module; its labels in the order of their names, as they are exposed.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
}

const FAMILIES: [Family; 3] = [
    Family {
        name: "parvis_requests_total",
        help: "Requests, by route, verdict, its reason, and status.",
        labels: &["reason", "route", "status", "verdict"],
    },
    Family {
        name: "parvis_response_body_bytes_total",
        help: "Bytes of response bodies sent.",
        labels: &["route"],
    },
    Family {
        name: "parvis_request_duration_seconds",
        help: "From the request's arrival to the end of its response.",
        labels: &["route", "verdict"],
    },
];

impl Family {
    fn describe(self) -> Desc {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new()).expect(VALID)
    }

    fn of(self, kind: proto::MetricType, metrics: Vec<proto::Metric>) -> proto::MetricFamily {
        let mut family = proto::MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        family
    }

    fn labelled(self, values: &[&str]) -> proto::Metric {
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        proto::Metric::from_label(self.labels.iter().zip(values).map(pair).collect())
    }

    fn counter(self, values: &[&str], count: u64) -> proto::Metric {
        let mut counter = proto::Counter::default();
        counter.set_value(count as f64);
        let mut metric = self.labelled(values);
        metric.set_counter(counter);
        metric
    }

    fn histogram(self, values: &[&str], durations: &Durations) -> proto::Metric {
        let mut within = 0;
        let bucket = |(end, count): (&f64, &u64)| {
            within += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*end);
            bucket.set_cumulative_count(within);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(BUCKETS.iter().zip(&durations.counts).map(bucket).collect());
        histogram.set_sample_count(durations.counts.iter().sum());
        histogram.set_sample_sum(durations.nanos as f64 / 1e9);
        let mut metric = self.labelled(values);
        metric.set_histogram(histogram);
        metric
    }
}

#[derive(Default)]
struct Durations {
    nanos: u128,
    counts: [u64; COUNTS],
}

struct Merging {
    tally: Tally,
    families: [Desc; 3],
}

impl Collector for Merging {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut requests: BTreeMap<_, u64> = BTreeMap::new();
        let mut bytes: BTreeMap<_, u64> = BTreeMap::new();
        let mut durations: BTreeMap<_, Durations> = BTreeMap::new();
        self.tally.for_each(|cell| {
            let Cell { route, verdict, reason, status, .. } = cell;
            *requests.entry((reason, route.clone(), status, verdict)).or_default() +=
                cell.counts.iter().sum::<u64>();
            *bytes.entry(route.clone()).or_default() += cell.bytes;
            let of = durations.entry((route, verdict)).or_default();
            of.nanos += cell.nanos;
            of.counts.iter_mut().zip(cell.counts).for_each(|(sum, count)| *sum += count);
        });
        let [by_request, by_route, by_verdict] = FAMILIES;
        let requests = requests.iter().map(|((reason, route, status, verdict), count)| {
            by_request.counter(&[reason, route, &format!("{:03}", status % 1000), verdict], *count)
        });
        let bytes = bytes.iter().map(|(route, bytes)| by_route.counter(&[route], *bytes));
        let durations =
            durations.iter().map(|((route, verdict), sums)| by_verdict.histogram(&[route, verdict], sums));
        vec![
            by_request.of(proto::MetricType::COUNTER, requests.collect()),
            by_route.of(proto::MetricType::COUNTER, bytes.collect()),
            by_verdict.of(proto::MetricType::HISTOGRAM, durations.collect()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
    use proptest::prelude::*;

    use super::*;
    use crate::rules::verdict::Verdict;

    fn outcome(route: &str, status: u16, bytes: u64, nanos: u64) -> Outcome {
        let mut outcome = Outcome { route: Some(route.into()), status, bytes, ..Outcome::default() };
        outcome.verdict = status.is_multiple_of(2).then_some(Verdict::Hit);
        outcome.total = Some(std::time::Duration::from_nanos(nanos));
        outcome
    }

    fn count(tally: &Tally, outcome: &Outcome) -> bool {
        tally.count(Place::here(), outcome, outcome.reason())
    }

    /// The same, by the vectors of the library.
    fn reference(outcomes: &[Outcome]) -> Vec<proto::MetricFamily> {
        let [requests, bytes, durations] = FAMILIES;
        let counters = [(requests, &["route", "verdict", "reason", "status"][..]), (bytes, &["route"])]
            .map(|(family, labels)| IntCounterVec::new(Opts::new(family.name, family.help), labels).unwrap());
        let options = HistogramOpts::new(durations.name, durations.help).buckets(BUCKETS.to_vec());
        let durations = HistogramVec::new(options, &["route", "verdict"]).unwrap();
        for outcome in outcomes {
            let (route, verdict) = (outcome.route.as_deref().unwrap(), outcome.verdict_label());
            let status = format!("{:03}", outcome.status);
            counters[0].with_label_values(&[route, verdict, outcome.reason(), &status]).inc();
            counters[1].with_label_values(&[route]).inc_by(outcome.bytes);
            durations.with_label_values(&[route, verdict]).observe(outcome.total().as_secs_f64());
        }
        let registry = Registry::new();
        counters.into_iter().for_each(|counter| registry.register(Box::new(counter)).unwrap());
        registry.register(Box::new(durations)).unwrap();
        registry.gather()
    }

    fn gathered(tally: &Tally) -> Vec<proto::MetricFamily> {
        let registry = Registry::new();
        registry.register(Box::new(tally.collector())).unwrap();
        registry.gather()
    }

    /// Takes the sums out, which differ in their last binary places, for a comparison of their own.
    fn without_sums(mut families: Vec<proto::MetricFamily>) -> (Vec<proto::MetricFamily>, Vec<f64>) {
        let mut sums = Vec::new();
        for metric in families.iter_mut().flat_map(proto::MetricFamily::mut_metric) {
            let mut histogram = metric.get_histogram().clone();
            sums.push(histogram.get_sample_sum());
            histogram.set_sample_sum(0.0);
            metric.set_histogram(histogram);
        }
        (families, sums)
    }

    proptest! {
        #[test]
        fn it_exposes_what_the_library_would(
            requests in prop::collection::vec(("[a-c]{0,12}", 0u16..1000, 0u64..1000, 0u64..40_000_000_000), 0..50),
        ) {
            let outcomes: Vec<_> =
                requests.iter().map(|(route, status, bytes, nanos)| outcome(route, *status, *bytes, *nanos)).collect();
            let tally = Tally::new();
            std::thread::scope(|scope| {
                for some in outcomes.chunks(20) {
                    let tally = &tally;
                    scope.spawn(move || assert!(some.iter().all(|outcome| count(tally, outcome))));
                }
            });
            let (found, sums) = without_sums(gathered(&tally));
            let (expected, of_library) = without_sums(reference(&outcomes));
            prop_assert_eq!(found, expected);
            for (sum, expected) in sums.iter().zip(&of_library) {
                prop_assert!((sum - expected).abs() < 1e-6, "{} is not {}", sum, expected);
            }
        }
    }

    #[test]
    fn a_duration_at_the_end_of_a_bucket_is_within() {
        assert_eq!((ENDS[0], ENDS[1], ENDS[14]), (500_000, 1_000_000, 30_000_000_000));
        let ends: Vec<_> = ENDS.iter().map(|end| outcome("r", 200, 0, *end)).collect();
        let tally = Tally::new();
        assert!(ends.iter().all(|outcome| count(&tally, outcome)));
        assert_eq!(without_sums(gathered(&tally)).0, without_sums(reference(&ends)).0);
    }

    #[test]
    fn a_route_of_a_new_configuration_goes_on_with_the_count_of_the_old() {
        let tally = Tally::new();
        for name in [Arc::from("pages"), Arc::<str>::from("pages")] {
            assert!(count(&tally, &Outcome { route: Some(name), ..outcome("", 200, 1, 1) }));
        }
        let families = gathered(&tally);
        let bytes =
            families.iter().find(|family| family.name() == "parvis_response_body_bytes_total").unwrap();
        let bytes: Vec<_> =
            bytes.get_metric().iter().map(|metric| metric.get_counter().get_value()).collect();
        assert_eq!(bytes, [2.0]);
    }

    #[test]
    fn too_many_series_are_counted_as_others() {
        let tally = Tally::new();
        let known = (0..MAX_SERIES).all(|n| count(&tally, &outcome(&format!("r{n}"), 200, 1, 1)));
        assert!(known);
        assert!(!count(&tally, &outcome("one more", 204, 1, 1)));
        assert!(!count(&tally, &outcome("another", 299, 1, 1)));
        assert!(count(&tally, &outcome("r7", 200, 1, 1)));
        let families = gathered(&tally);
        let requests = families.iter().find(|family| family.name() == "parvis_requests_total").unwrap();
        let other: Vec<_> =
            requests.get_metric().iter().filter(|metric| metric.get_label()[1].value() == OTHER).collect();
        let told: Vec<_> = other
            .iter()
            .map(|metric| (metric.get_label()[2].value(), metric.get_label()[3].value()))
            .collect();
        assert_eq!(told, [("200", "hit"), ("200", "local")]);
        let all: f64 = requests.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum();
        assert_eq!(all, (MAX_SERIES + 3) as f64);
    }
}
