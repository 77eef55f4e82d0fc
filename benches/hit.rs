//! What the rules and the store cost a hit, step by step: `cargo bench`.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use parvis::clock;
use parvis::config::load;
use parvis::plan::Plan;
use parvis::rules::admission::{self, Admission};
use parvis::rules::client_control::ClientControl;
use parvis::rules::freshness::Exchange;
use parvis::rules::head::{Field, Fields, RequestHead, ResponseHead};
use parvis::rules::key::{CacheKey, Vary};
use parvis::rules::selector::Facts;
use parvis::rules::target::{Scheme, Target};
use parvis::rules::{lookup, route, verdict};
use parvis::store::Store;
use parvis::store::response::{Head, StoredResponse};

/// What a browser sends.
const BROWSER: &[Field<'static>] = &[
    ("host", b"shop.example"),
    ("user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", b"en-US,en;q=0.5"),
    ("accept-encoding", b"gzip, deflate, br, zstd"),
    ("connection", b"keep-alive"),
    ("cookie", b"_ga=GA1.2.1234567890.1234567890; _fbp=fb.1.1234567890"),
    ("sec-fetch-dest", b"document"),
    ("sec-fetch-mode", b"navigate"),
    ("priority", b"u=0, i"),
];

fn plan(routes: usize) -> Plan {
    let mut yaml = String::from("upstreams: {app: {servers: [\"127.0.0.1:1\"]}}\nroutes:\n");
    for n in 1..routes {
        writeln!(yaml, "  - {{name: r{n}, match: {{path: /section-{n}/*, methods: [GET]}}}}")
            .expect("a String");
    }
    yaml.push_str("  - {name: rest, cache: {ttl: 5m}}\n");
    Plan::from_loaded(&load::parse("bench.yaml", &yaml, &|_| None)).expect("a valid plan").0
}

fn request() -> RequestHead<'static> {
    let target = Target::new(Scheme::Http, "shop.example", "/products/7?page=2&utm_source=mail&sort=price");
    RequestHead { method: "GET", target, fields: Fields(BROWSER), has_body: false, believed: &[] }
}

fn hit(c: &mut Criterion) {
    let plan_of_50 = plan(50);
    let request = request();
    let rest = plan_of_50.routes.last().expect("a route").clone();
    let policy = &rest.cache;
    for routes in [1, 100, 1000] {
        let plan = plan(routes);
        c.bench_function(&format!("route of {routes}"), |b| {
            b.iter(|| route::select(black_box(&plan.routes), black_box(&request)));
        });
    }
    c.bench_function("may be looked up", |b| b.iter(|| lookup::allowed(black_box(&request), policy)));
    c.bench_function("key", |b| b.iter(|| CacheKey::primary("rest", black_box(&request), policy)));

    let store = Store::new(plan_of_50.memory);
    let key = CacheKey::primary("rest", &request, policy);
    let now = clock::now();
    let fields: &[Field<'_>] = &[("content-type", b"text/html"), ("etag", b"\"1\"")];
    let response = ResponseHead { status: 200, fields: Fields(fields) };
    let exchange = Exchange { requested_at: now, received_at: now, authorized: false };
    let Admission::Keep(kept) = admission::judge("/", &response, policy, 1 << 20, exchange) else {
        panic!("kept")
    };
    let (head, body) = (Head::storable(&response), vec![b'x'; 1024].into());
    let facts = Facts::new(&request, &policy.query, kept.tags);
    let stored = Arc::new(StoredResponse::new(head, body, kept.freshness, facts, kept.vary, None));
    store.memory.insert(&key, stored, store.memory.begin(), 1000).expect("stored");
    let no_variant = |_: &Vary| key.clone();
    c.bench_function("store lookup", |b| b.iter(|| store.memory.lookup(black_box(&key), no_variant)));
    let found = store.memory.lookup(&key, no_variant).response.expect("found");
    let client = ClientControl::default();
    c.bench_function("verdict", |b| {
        b.iter(|| verdict::judge(black_box(Some(&found.freshness())), &client, now))
    });
}

criterion_group!(benches, hit);
criterion_main!(benches);
