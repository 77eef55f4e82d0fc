//! What the rules and the store cost a hit, step by step: `cargo bench --bench hit`.
#![allow(clippy::disallowed_methods)]

mod page;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use page::Page;
use parvis::clock;
use parvis::front::answer::Reused;
use parvis::proxy::limits::Limits;
use parvis::rules::client_control::ClientControl;
use parvis::rules::encoding::{self, Coding, Formats};
use parvis::rules::head::Fields;
use parvis::rules::key::CacheKey;
use parvis::rules::{lookup, route, verdict};

fn hit(c: &mut Criterion) {
    let (page, request) = (Page::new(), page::request());
    let (live, policy) = (page.app.live.load_full(), &page.route.cache);
    c.bench_function("route of 50", |b| {
        b.iter(|| route::select(black_box(&live.plan.routes), black_box(&request)));
    });
    for routes in [1, 100, 1000] {
        let plan = page::plan(routes);
        c.bench_function(&format!("route of {routes}"), |b| {
            b.iter(|| route::select(black_box(&plan.routes), black_box(&request)));
        });
    }
    c.bench_function("may be looked up", |b| b.iter(|| lookup::allowed(black_box(&request), policy)));
    c.bench_function("key", |b| b.iter(|| CacheKey::primary("rest", black_box(&request), policy)));
    c.bench_function("store lookup", |b| b.iter(|| black_box(&page).find()));
    let found = page.find().expect("found");
    let client = ClientControl::default();
    c.bench_function("verdict", |b| {
        b.iter(|| verdict::judge(black_box(Some(&found.freshness())), &client, page.now))
    });
}

/// Which representation a client gets, by what it accepts.
fn negotiation(c: &mut Criterion) {
    let offered = Formats::new([Coding::Zstd, Coding::Brotli, Coding::Gzip]);
    for (name, accepted) in
        [("of a browser", "gzip, deflate, br, zstd"), ("with weights", "br;q=0.8, gzip;q=0.5, *;q=0.1")]
    {
        let fields = [("accept-encoding", accepted.as_bytes())];
        c.bench_function(&format!("negotiation {name}"), |b| {
            b.iter(|| encoding::negotiate(black_box(Fields::new(&fields)), offered))
        });
    }
}

/// The front's whole answer, recorded.
fn answer(c: &mut Criterion) {
    let (page, head, mut reused) = (Page::new(), page::head(), Reused::default());
    c.bench_function("answer", |b| b.iter(|| page.answer(black_box(&head), &mut reused).expect("a hit")));
    let (limits, limited, request) = (Limits::default(), page.limited(), page::request());
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    c.bench_function("rate-limit", |b| {
        b.iter(|| limits.admit(&limited, black_box(&request), client, clock::start(), true, |_| {}).is_ok());
    });
    let repeat = page.repeat(&head);
    c.bench_function("answer-again", |b| {
        b.iter(|| page.answer_again(black_box(&head), &repeat, &mut reused).expect("a hit"));
    });
}

criterion_group!(benches, hit, negotiation, answer);
criterion_main!(benches);
