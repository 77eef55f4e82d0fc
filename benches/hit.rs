//! What the rules and the store cost a hit, step by step: `cargo bench --bench hit`.
#![allow(clippy::disallowed_methods)]

mod page;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use page::Page;
use parvis::rules::client_control::ClientControl;
use parvis::rules::key::CacheKey;
use parvis::rules::{lookup, route, verdict};

fn hit(c: &mut Criterion) {
    let (page, request) = (Page::new(), page::request());
    let policy = &page.route.cache;
    c.bench_function("route of 50", |b| {
        b.iter(|| route::select(black_box(&page.plan.routes), black_box(&request)));
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

criterion_group!(benches, hit);
criterion_main!(benches);
