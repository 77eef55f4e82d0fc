//! A hit is answered without an allocation. What the store and the rules do for one is measured here, in a binary of its
//! own: it counts what its threads allocate.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use parvis::clock::{self, Timestamp};
use parvis::config::load;
use parvis::plan::Plan;
use parvis::rules::admission::{self, Admission};
use parvis::rules::client_control::ClientControl;
use parvis::rules::conditional;
use parvis::rules::forwarding;
use parvis::rules::freshness::Exchange;
use parvis::rules::head::{Field, Fields, RequestHead, ResponseHead};
use parvis::rules::hop;
use parvis::rules::key::CacheKey;
use parvis::rules::lookup;
use parvis::rules::outgoing::Outgoing;
use parvis::rules::ranges;
use parvis::rules::route;
use parvis::rules::selector::Facts;
use parvis::rules::target::{Scheme, Target, is_host};
use parvis::rules::verdict::{self, Verdict};
use parvis::store::Store;
use parvis::store::response::{Head, StoredResponse};

/// What a browser sends, with the cookies of two trackers.
const BROWSER: &[Field<'static>] = &[
    ("Host", b"Shop.example:80"),
    ("User-Agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("Accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", b"en-US,en;q=0.5"),
    ("Accept-Encoding", b"gzip, deflate, br, zstd"),
    ("Connection", b"keep-alive"),
    ("Cookie", b"_ga=GA1.2.1234567890.1234567890; _fbp=fb.1.1234567890"),
    ("Upgrade-Insecure-Requests", b"1"),
    ("Sec-Fetch-Dest", b"document"),
    ("Priority", b"u=0, i"),
];

const HOST: &str = "shop.example:80";
const PATH: &str = "/caf%C3%A9/7?size=L%2FXL&page=2&utm_source=mail&color%5B%5D=red&sort=price";
const IN_MANY_LANGUAGES: &str = "/about";
const ETAG: Field<'static> = ("etag", b"\"1\"");

/// A configuration of fifty routes; the last one takes what the others do not.
fn plan() -> Plan {
    let shapes =
        |n: usize| ["/section-N/*", "/page-N", "/*.ext-N", "/N/{id}/x"][n % 4].replace('N', &n.to_string());
    let routes: String =
        (1..50).map(|n| format!("  - {{name: r{n}, match: {{path: \"{}\"}}}}\n", shapes(n))).collect();
    let yaml = format!(
        "trusted_proxies: [127.0.0.1]\nupstreams: {{app: {{servers: [\"127.0.0.1:1\"]}}}}\nroutes:\n{routes}  - {{name: rest, cache: {{ttl: 5m}}}}\n"
    );
    Plan::from_loaded(&load::parse("test.yaml", &yaml, &|_| None)).unwrap().0
}

fn request<'a>(scheme: Scheme, path: &'a str, fields: &'a [Field<'a>]) -> RequestHead<'a> {
    let target = Target::new(scheme, HOST, path);
    RequestHead { method: "GET", target, fields: Fields(fields), has_body: false, believed: &[] }
}

/// A request as it comes.
struct Visit<'a> {
    peer: IpAddr,
    path: &'a str,
    fields: &'a [Field<'a>],
}

/// What one request leaves to the next.
#[derive(Default)]
struct Buffers {
    primary: Vec<u8>,
    variant: Vec<u8>,
}

/// What an answer to a hit consists of, as far as it is decided here.
#[derive(Debug, PartialEq)]
struct Answer {
    verdict: Verdict,
    is_not_modified: bool,
    is_whole: bool,
    body: usize,
}

/// All that is decided about a request that may be answered from the store. What else answers hits is to be added here.
fn answer(
    plan: &Plan,
    store: &Store,
    visit: &Visit<'_>,
    buffers: &mut Buffers,
    now: Timestamp,
) -> Option<Answer> {
    let client = forwarding::identify(visit.peer, Scheme::Http, &plan.trusted_proxies, Fields(visit.fields));
    let fields = hop::end_to_end(visit.fields);
    let request = request(client.scheme, visit.path, &fields);
    let route = route::select(&plan.routes, &request).filter(|_| is_host(HOST))?;
    lookup::allowed(&request, &route.cache).ok()?;
    let Buffers { primary, variant } = buffers;
    CacheKey::write_primary(primary, &route.name, &request, &route.cache);
    let found = store.memory.lookup_bytes(primary, |vary| {
        let sent = Outgoing::of(&request, &route.cache);
        CacheKey::write_variant(variant, primary, vary, Fields(&sent.lend()));
        &*variant
    })?;
    let control = ClientControl::heeded(request.fields, &route.cache);
    let verdict = verdict::judge(Some(&found.freshness()), &control, now);
    let response = Fields(&[ETAG]);
    let is_not_modified = conditional::not_modified(request.fields, response, found.freshness().stored_at);
    let part = ranges::part(request.fields, response, found.body.len() as u64);
    let is_whole = ranges::begins_at_zero(request.fields) && part == ranges::Part::Whole;
    Some(Answer { verdict, is_not_modified, is_whole, body: found.body.len() })
}

/// Stores a page that varies by these fields.
fn store_page(plan: &Plan, store: &Store, path: &str, vary: &str, now: Timestamp) {
    let request = request(Scheme::Http, path, BROWSER);
    let policy = &route::select(&plan.routes, &request).unwrap().cache;
    let fields = [("content-type", &b"text/html"[..]), ETAG, ("vary", vary.as_bytes())];
    let response = ResponseHead { status: 200, fields: Fields(&fields) };
    let exchange = Exchange { requested_at: now, received_at: now, authorized: false };
    let Admission::Keep(kept) = admission::judge("/", &response, policy, 1 << 20, exchange) else {
        panic!("not kept")
    };
    let facts = Facts::new(&request, &policy.query, kept.tags);
    let mut key = CacheKey::primary("rest", &request, policy);
    store.memory.note_vary(&key, &kept.vary);
    if !kept.vary.is_empty() {
        key = key.variant(&kept.vary, Fields(&Outgoing::of(&request, policy).lend()));
    }
    let (head, body) = (Head::storable(&response), vec![b'x'; 1024].into());
    let stored = StoredResponse::new(head, body, kept.freshness, facts, kept.vary, None);
    store.memory.insert(&key, Arc::new(stored), store.memory.begin(), 1000).unwrap();
}

#[test]
fn a_hit_allocates_nothing() {
    let (plan, now) = (plan(), clock::now());
    let store = Store::new(plan.memory);
    store_page(&plan, &store, PATH, "accept-encoding, cookie", now);
    store_page(&plan, &store, IN_MANY_LANGUAGES, "accept-language, cookie", now);
    let mut buffers = Buffers::default();
    let (stranger, proxy) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let hit = || Answer { verdict: Verdict::Hit, is_not_modified: false, is_whole: true, body: 1024 };
    let has_it = || Answer { is_not_modified: true, ..hit() };
    let since = later(now);
    let forwarded: [Field<'_>; 2] =
        [("X-Forwarded-For", b"192.0.2.7, 127.0.0.1"), ("X-Forwarded-Proto", b"http")];
    for (peer, path, more, expected) in [
        (stranger, PATH, &[][..], hit()),
        (stranger, IN_MANY_LANGUAGES, &[], hit()),
        (proxy, PATH, &forwarded, hit()),
        (stranger, PATH, &[("Cache-Control", &b"max-age=60"[..])], hit()),
        (stranger, PATH, &[("If-None-Match", b"\"0\", W/\"1\"")], has_it()),
        (stranger, PATH, &[("If-Modified-Since", since.as_bytes())], has_it()),
        (stranger, PATH, &[("Range", b"bytes=0-1")], Answer { is_whole: false, ..hit() }),
    ] {
        let fields = [BROWSER, more].concat();
        let visit = Visit { peer, path, fields: &fields };
        let mut ask = || answer(&plan, &store, &visit, &mut buffers, now);
        // What is made once: the room of the buffers, the caches of regular expressions.
        assert_eq!(ask().as_ref(), Some(&expected), "{path} {more:?}");
        let mut again = None;
        let allocated = measure(|| again = ask());
        assert_eq!(again, Some(expected), "{path} {more:?}");
        assert_eq!(allocated.count_total, 0, "{path} {more:?}: {} bytes", allocated.bytes_total);
    }
}

fn later(now: Timestamp) -> String {
    httpdate::fmt_http_date(now.plus(Duration::from_secs(1)).into())
}

#[test]
fn what_allocates_is_counted() {
    assert_eq!(measure(|| drop(black_box(vec![0_u8; 7]))).bytes_total, 7);
}
