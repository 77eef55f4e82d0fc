//! What was measured, as Markdown: per case a table with ratios to nginx, and one of all cases.

use std::fmt::Write;

use crate::cases::Case;
use crate::servers::{KINDS, Kind};

/// One round of one server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// CPU time of the server per request, in microseconds.
    pub cpu: f64,
    /// Requests per second.
    pub rate: f64,
    /// The median of the latency in microseconds.
    pub p50: f64,
    /// The latency in microseconds that one request in a hundred exceeds.
    pub p99: f64,
    /// MiB of memory.
    pub memory: f64,
    /// The share of the core's time that the server used, in percent.
    pub busy: f64,
    /// The share of its time in which the load had something to do, in percent. At 100 the load is what limits the rate.
    pub load: f64,
    /// The share of both cores' time that the hypervisor gave to others, in percent.
    pub stolen: f64,
    /// The share of the requests that did not reach the origin, in percent.
    pub hits: f64,
    /// KiB of memory per idle connection, where there were any.
    pub idle: Option<f64>,
}

/// All rounds of one server, or why there are none.
pub type Outcome = Result<Vec<Sample>, String>;

/// All servers in one case.
pub struct Results {
    /// Which.
    pub case: Case,
    /// In the order of [`KINDS`]; those that are not installed are missing.
    pub outcomes: Vec<(Kind, Outcome)>,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// How far the rounds are apart, in percent of their median.
fn spread(samples: &[Sample]) -> f64 {
    let costs = || samples.iter().map(|sample| sample.cpu);
    let (least, most) = (costs().fold(f64::INFINITY, f64::min), costs().fold(0.0, f64::max));
    (most - least) * 100.0 / median(costs())
}

/// A value's median, and that of its ratios to what nginx had in the same round: whatever disturbs one server for longer than a
/// round disturbs those beside it as much.
fn with_ratio(
    samples: &[Sample],
    nginx: Option<&[Sample]>,
    value: fn(&Sample) -> f64,
    digits: usize,
) -> String {
    let middle = median(samples.iter().map(value));
    let ratio = nginx.and_then(|nginx| ratio(samples, nginx, value));
    ratio.map_or(format!("{middle:.digits$}"), |ratio| format!("{middle:.digits$} ({ratio:.2})"))
}

/// `None` where there was too little to measure.
fn ratio(samples: &[Sample], others: &[Sample], value: fn(&Sample) -> f64) -> Option<f64> {
    let ratio = median(samples.iter().zip(others).map(|(one, other)| value(one) / value(other)));
    Some(ratio).filter(|ratio| ratio.is_finite())
}

impl Results {
    fn of(&self, kind: Kind) -> Option<&[Sample]> {
        let (_, outcome) = self.outcomes.iter().find(|(other, _)| *other == kind)?;
        outcome.as_deref().ok()
    }

    /// The better nginx: the one that needs less time per request.
    fn nginx(&self) -> Option<&[Sample]> {
        let both = [true, false].into_iter().filter_map(|sendfile| self.of(Kind::Nginx { sendfile }));
        let cost = |samples: &&[Sample]| median(samples.iter().map(|sample| sample.cpu));
        both.min_by(|one, other| cost(one).total_cmp(&cost(other)))
    }

    /// CPU time per request, with its ratio to the better nginx and, for others than that, to the floor.
    fn cost(&self, kind: Kind) -> Option<String> {
        let samples = self.of(kind)?;
        let mut cost = with_ratio(samples, self.nginx(), |sample| sample.cpu, 2);
        let floor = self.of(Kind::Floor).filter(|_| kind != Kind::Floor);
        if let Some(times) = floor.and_then(|floor| ratio(samples, floor, |sample| sample.cpu)) {
            write!(cost, ", {times:.2}×").expect("a String");
        }
        Some(cost)
    }

    /// The table of this case.
    pub fn table(&self) -> String {
        let case = &self.case;
        let mut text = format!("### `{}`: {}\n\n", case.name, case.about);
        text.push_str("| server | CPU µs/request | spread % | requests/s | p50 µs | p99 µs | memory MiB | hits % | busy % | load busy % | stolen % |");
        text.push_str(if case.idle > 0 { " KiB per idle connection |\n" } else { "\n" });
        text.push_str("|-|-|-|-|-|-|-|-|-|-|-|");
        text.push_str(if case.idle > 0 { "-|\n" } else { "\n" });
        let nginx = self.nginx();
        let mut notes = String::new();
        for (kind, outcome) in &self.outcomes {
            match outcome {
                Err(reason) => {
                    let reason = reason.lines().next().unwrap_or_default();
                    write!(notes, "\n{} is left out: {reason}\n", kind.name()).expect("a String");
                }
                Ok(samples) => text.push_str(&row(*kind, samples, nginx)),
            }
        }
        text + &notes
    }
}

fn row(kind: Kind, samples: &[Sample], nginx: Option<&[Sample]>) -> String {
    let with_ratio = |value, digits| with_ratio(samples, nginx, value, digits);
    let middle = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
    let mut row = format!(
        "| {} | {} | {:.0} | {} | {} | {} | {} | {:.1} | {:.0} | {:.0} | {:.1} |",
        kind.name(),
        with_ratio(|sample| sample.cpu, 2),
        spread(samples),
        with_ratio(|sample| sample.rate, 0),
        with_ratio(|sample| sample.p50, 0),
        with_ratio(|sample| sample.p99, 0),
        with_ratio(|sample| sample.memory, 1),
        middle(|sample| sample.hits),
        middle(|sample| sample.busy),
        middle(|sample| sample.load),
        middle(|sample| sample.stolen),
    );
    // The first round only: later ones find the memory of the first.
    if let Some(idle) = samples.first().and_then(|sample| sample.idle) {
        write!(row, " {idle:.1} |").expect("a String");
    }
    row + "\n"
}

/// CPU time per request of all servers in all cases, with its ratios to the better nginx and to the floor.
pub fn overview(all: &[Results]) -> String {
    let kinds = || KINDS.into_iter().filter(|kind| all.iter().any(|results| results.of(*kind).is_some()));
    let mut text = String::from("| CPU µs/request (ratio to nginx), × the floor |");
    kinds().for_each(|kind| write!(text, " {} |", kind.name()).expect("a String"));
    text.push_str("\n|-|");
    kinds().for_each(|_| text.push_str("-|"));
    for results in all {
        write!(text, "\n| {} |", results.case.about).expect("a String");
        for kind in kinds() {
            write!(text, " {} |", results.cost(kind).as_deref().unwrap_or("–")).expect("a String");
        }
    }
    text + "\n"
}
