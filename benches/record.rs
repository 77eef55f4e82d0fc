//! What it costs to record a request: `cargo bench --bench record`.
#![allow(clippy::disallowed_methods)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use parvis::clock;
use parvis::config::load;
use parvis::observe::Observer;
use parvis::observe::ids;
use parvis::observe::log::AccessLog;
use parvis::observe::outcome::Outcome;
use parvis::plan::Plan;
use parvis::rules::verdict::Verdict;
use parvis::store::Store;

const SLOW: Duration = Duration::from_secs(1);

fn observer() -> (Observer, parvis::observe::log::Guard) {
    let yaml = "upstreams: {app: {servers: [\"127.0.0.1:1\"]}}\nroutes: [{name: all}]";
    let plan = Plan::from_loaded(&load::parse("bench.yaml", yaml, &|_| None)).expect("a valid plan").0;
    let (log, guard) = AccessLog::new(std::io::sink()).expect("a thread");
    (Observer::new(Arc::new(Store::new(plan.memory)), log), guard)
}

/// A hit, written where the one before was.
fn hit(outcome: &mut Outcome, route: &Arc<str>) {
    outcome.renew(clock::now(), clock::start());
    ids::write_next(outcome.received_at, &mut outcome.request_id);
    outcome.client = Some(IpAddr::from([203, 0, 113, 77]));
    outcome.method.push_str("GET");
    outcome.host.push_str("shop.example");
    outcome.target.push_str("/products/7?page=2&sort=price");
    outcome.set_route(route);
    outcome.verdict = Some(Verdict::Hit);
    outcome.ttl = Some(299);
    (outcome.status, outcome.bytes) = (200, 15_360);
    outcome.first_byte = Some(outcome.elapsed());
    outcome.finish();
}

fn single(c: &mut Criterion) {
    let (observer, _guard) = observer();
    let (mut outcome, route) = (Outcome::default(), Arc::from("products"));
    c.bench_function("a hit's outcome, with four looks at the clock", |b| {
        b.iter(|| hit(black_box(&mut outcome), &route));
    });
    c.bench_function("record, without a line", |b| {
        b.iter(|| observer.record(black_box(&outcome), false, SLOW));
    });
    // In rounds, so that the thread that writes keeps up, as it does under the load of a server.
    c.bench_function("record, with a line", |b| {
        b.iter_custom(|times| in_rounds(times, || observer.record(black_box(&outcome), true, SLOW)));
    });
    let now = clock::now();
    let mut id = String::new();
    c.bench_function("request id", |b| {
        b.iter(|| {
            id.clear();
            ids::write_next(black_box(now), &mut id);
        });
    });
    let mut head = Vec::new();
    c.bench_function("what a head tells", |b| {
        b.iter(|| {
            head.clear();
            outcome.write_cache_status(&mut head);
            outcome.write_server_timing(&mut head);
            black_box(&outcome).write_processing_time(&mut head);
        });
    });
}

/// Measures rounds of a thousand, with pauses that are not measured.
fn in_rounds(times: u64, mut what: impl FnMut()) -> Duration {
    let mut measured = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let round = left.min(1000);
        let started = Instant::now();
        (0..round).for_each(|_| what());
        measured += started.elapsed();
        left -= round;
        std::thread::sleep(Duration::from_millis(1));
    }
    measured
}

/// All cores at once: what is shared would show.
fn together(c: &mut Criterion) {
    let (observer, _guard) = observer();
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let route: Arc<str> = Arc::from("products");
    c.bench_function("outcome and record with a line, on all cores", |b| {
        b.iter_custom(|times| {
            let work = || {
                let mut outcome = Outcome::default();
                in_rounds(times, || {
                    hit(&mut outcome, &route);
                    observer.record(&outcome, true, SLOW);
                })
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
                let measured = threads.into_iter().map(|thread| thread.join().expect("no panic"));
                measured.sum::<Duration>() / u32::try_from(cores).unwrap_or(1)
            })
        });
    });
}

criterion_group!(benches, single, together);
criterion_main!(benches);
