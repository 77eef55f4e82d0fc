//! A stored page, the request for it and the routes before it: what the benches of a hit have in common.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use parvis::clock::{self, Timestamp};
use parvis::config::load;
use parvis::front::answer::{self, Asked, Reused};
use parvis::front::caller::Caller;
use parvis::front::head::{self, Head, Read};
use parvis::front::output::Output;
use parvis::front::repeat::Repeat;
use parvis::observe::log::Guard;
use parvis::plan::Plan;
use parvis::proxy::{App, Live};
use parvis::rules::admission::{self, Admission};
use parvis::rules::freshness::Exchange;
use parvis::rules::head::{Field, Fields, RequestHead, ResponseHead};
use parvis::rules::key::{CacheKey, Vary};
use parvis::rules::request::FieldList;
use parvis::rules::route::Route;
use parvis::rules::selector::Facts;
use parvis::rules::target::{Scheme, Target};
use parvis::server;
use parvis::store::response::{self, StoredResponse};

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
    for n in 2..routes {
        writeln!(yaml, "  - {{name: r{n}, match: {{path: /section-{n}/*, methods: [GET]}}}}")
            .expect("a String");
    }
    if routes > 1 {
        yaml.push_str("  - {name: limited, match: {path: /limited}, rate_limit: {rate: 1000000000/s}}\n");
    }
    yaml.push_str("  - {name: rest, cache: {ttl: 5m}}\n");
    Plan::from_loaded(&load::parse("bench.yaml", &yaml, &|_| None)).expect("a valid plan").0
}

/// The browser's request for the page.
pub fn request() -> RequestHead<'static> {
    let target = Target::new(Scheme::Http, HOST, PATH);
    RequestHead { method: "GET", target, fields: Fields::new(BROWSER), has_body: false, believed: &[] }
}

/// The same as it comes.
pub fn head() -> Vec<u8> {
    let mut head = format!("GET {PATH} HTTP/1.1\r\n").into_bytes();
    for (name, value) in BROWSER {
        head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Where it comes from.
const PEER: (IpAddr, Scheme) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), Scheme::Http);

/// Everything that answers requests, and the page in its store.
pub struct Page {
    /// With fifty routes.
    pub app: App,
    /// The one that takes the page.
    pub route: Arc<Route>,
    /// What it is called there.
    pub key: CacheKey,
    /// A moment at which it is fresh.
    pub now: Timestamp,
    // The access log is written out until it goes.
    _log: Guard,
}

impl Page {
    /// Stores a page of 1 KiB.
    pub fn new() -> Self {
        let (request, now) = (request(), clock::now());
        let (app, log) = server::assemble(plan(50), std::io::sink()).expect("assembled");
        let route = app.live.load().plan.routes.last().expect("a route").clone();
        let policy = &route.cache;
        let key = CacheKey::primary("rest", &request, policy);
        let fields: &[Field<'_>] = &[("content-type", b"text/html"), ("etag", b"\"1\"")];
        let response = ResponseHead { status: 200, fields: Fields::new(fields) };
        let exchange = Exchange { requested_at: now, received_at: now, authorized: false };
        let Admission::Keep(kept) = admission::judge("/", &response, policy, 1 << 20, exchange) else {
            panic!("kept")
        };
        let (head, body) = (response::Head::storable(&response), vec![b'x'; 1024].into());
        let facts = Facts::new(&request, &policy.query, kept.tags);
        let stored = Arc::new(StoredResponse::new(head, body, kept.freshness, facts, kept.vary, None));
        let memory = &app.store.memory;
        memory.insert(&key, stored, memory.begin(), 1000).expect("stored");
        Self { app, route, key, now, _log: log }
    }

    /// A route with a limit that lets all through.
    pub fn limited(&self) -> Arc<Route> {
        let live = self.app.live.load();
        live.plan.routes.iter().find(|route| &*route.name == "limited").expect("it is there").clone()
    }

    /// The page, found in the store.
    pub fn find(&self) -> Option<Arc<StoredResponse>> {
        self.app.store.memory.lookup(&self.key, |_: &Vary| self.key.clone()).response
    }

    /// All that the front does for a hit: from the bytes of its head to those of its answer, recorded. Tells how many there
    /// are.
    pub fn answer(&self, head: &[u8], reused: &mut Reused) -> Option<usize> {
        let mut lines = FieldList::new();
        let Read::Head { head, .. } = head::read(head, 0, &mut lines) else { return None };
        let live = self.app.live.load();
        let caller = Caller::new(&live, head.fields, head.minor_version, PEER);
        self.answer_caller(&live, head, &caller, reused)
    }

    /// The same of a head that ends as one that came twice on its connection, which is in `repeat`.
    pub fn answer_again(&self, head: &[u8], repeat: &Repeat, reused: &mut Reused) -> Option<usize> {
        let live = self.app.live.load();
        let (head, caller, _) = repeat.find(head, &live)?;
        self.answer_caller(&live, head, caller, reused)
    }

    /// What a connection knows that has sent this head twice.
    pub fn repeat(&self, bytes: &[u8]) -> Repeat {
        let (mut lines, mut repeat) = (FieldList::new(), Repeat::default());
        let Read::Head { head, .. } = head::read(bytes, 0, &mut lines) else { panic!("a head") };
        (0..2).for_each(|_| repeat.note(&head, bytes, &self.app.live.load(), PEER));
        repeat
    }

    fn answer_caller(
        &self,
        live: &Live,
        head: Head<'_>,
        caller: &Caller<'_>,
        reused: &mut Reused,
    ) -> Option<usize> {
        let Head { method, target, .. } = head;
        let (started, mut output) = (clock::start(), Output::default());
        let asked = Asked { method, target, caller, started, keeps: caller.keeps, takes_files: true };
        let hit = answer::hit(&self.app, live, &asked, reused, &mut output)?;
        reused.outcome.finish();
        self.app.observer.record(&reused.outcome, live.plan.access_log, live.plan.slow_request);
        Some(output.whole()?.len() + hit.body.len())
    }
}
