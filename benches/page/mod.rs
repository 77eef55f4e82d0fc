//! A stored page, the request for it and the routes before it: what the benches of a hit have in common.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write;
use std::sync::Arc;

use parvis::clock::{self, Timestamp};
use parvis::config::load;
use parvis::plan::Plan;
use parvis::rules::admission::{self, Admission};
use parvis::rules::freshness::Exchange;
use parvis::rules::head::{Field, Fields, RequestHead, ResponseHead};
use parvis::rules::key::{CacheKey, Vary};
use parvis::rules::route::Route;
use parvis::rules::selector::Facts;
use parvis::rules::target::{Scheme, Target};
use parvis::store::Store;
use parvis::store::response::{Head, StoredResponse};

/// What a browser sends.
pub const BROWSER: &[Field<'static>] = &[
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

/// The page's host.
pub const HOST: &str = "shop.example";

/// The page's path and query.
pub const PATH: &str = "/products/7?page=2&utm_source=mail&sort=price";

/// A plan whose last route takes the page, after all others were tried.
pub fn plan(routes: usize) -> Plan {
    let mut yaml = String::from("upstreams: {app: {servers: [\"127.0.0.1:1\"]}}\nroutes:\n");
    for n in 1..routes {
        writeln!(yaml, "  - {{name: r{n}, match: {{path: /section-{n}/*, methods: [GET]}}}}")
            .expect("a String");
    }
    yaml.push_str("  - {name: rest, cache: {ttl: 5m}}\n");
    Plan::from_loaded(&load::parse("bench.yaml", &yaml, &|_| None)).expect("a valid plan").0
}

/// The browser's request for the page.
pub fn request() -> RequestHead<'static> {
    let target = Target::new(Scheme::Http, HOST, PATH);
    RequestHead { method: "GET", target, fields: Fields(BROWSER), has_body: false, believed: &[] }
}

/// A store that holds the page.
pub struct Page {
    /// Fifty routes.
    pub plan: Plan,
    /// The one that takes the page.
    pub route: Arc<Route>,
    /// Where the page is.
    pub store: Store,
    /// What it is called there.
    pub key: CacheKey,
    /// A moment at which it is fresh.
    pub now: Timestamp,
}

impl Page {
    /// Stores a page of 1 KiB.
    pub fn new() -> Self {
        let (plan, request, now) = (plan(50), request(), clock::now());
        let route = plan.routes.last().expect("a route").clone();
        let policy = &route.cache;
        let store = Store::new(plan.memory);
        let key = CacheKey::primary("rest", &request, policy);
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
        Self { plan, route, store, key, now }
    }

    /// The page, found in the store.
    pub fn find(&self) -> Option<Arc<StoredResponse>> {
        self.store.memory.lookup(&self.key, |_: &Vary| self.key.clone()).response
    }
}
