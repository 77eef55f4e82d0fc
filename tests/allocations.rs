//! A plain hit is answered and recorded without an allocation, from the bytes of its head to those of the answer; what is
//! stored takes little beside its bytes; and what encodes it takes no more than it may. In a binary of its own, which counts
//! what its threads allocate.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use parvis::clock::{self, Timestamp};
use parvis::codec;
use parvis::config::load;
use parvis::front::answer::{self, Asked, Reused};
use parvis::front::caller::Caller;
use parvis::front::head::{self, Head, Read};
use parvis::front::output::Output;
use parvis::plan::{Memory as Budget, Plan};
use parvis::proxy::App;
use parvis::rules::admission::{self, Admission};
use parvis::rules::encodable::Level;
use parvis::rules::encoding::Coding;
use parvis::rules::freshness::Exchange;
use parvis::rules::head::{Field, Fields, RequestHead, ResponseHead};
use parvis::rules::key::CacheKey;
use parvis::rules::outgoing::Outgoing;
use parvis::rules::request::FieldList;
use parvis::rules::route;
use parvis::rules::selector::Facts;
use parvis::rules::target::{Scheme, Target};
use parvis::server;
use parvis::store::{Store, response};

/// What a browser sends, with the cookies of two trackers.
const BROWSER: &[Field<'static>] = &[
    ("Host", b"shop.example:80"),
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
const LARGE: &str = "/large";
const ENCODED: &str = "/encoded";
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
    RequestHead { method: "GET", target, fields: Fields::new(fields), has_body: false, believed: &[] }
}

/// A request as it comes.
struct Visit<'a> {
    peer: IpAddr,
    head: &'a [u8],
}

/// The status of the answer, and how many bytes of it there are.
fn answer(app: &App, visit: &Visit<'_>, reused: &mut Reused) -> Option<(u16, usize)> {
    let mut lines = FieldList::new();
    let Read::Head { head, .. } = head::read(visit.head, 0, &mut lines) else { return None };
    let mut output = Output::default();
    let live = app.live.load();
    let Head { method, target, fields, minor_version, .. } = head;
    let caller = &Caller::new(&live, fields, minor_version, (visit.peer, Scheme::Http));
    let (started, keeps) = (clock::start(), caller.keeps);
    let asked = Asked { method, target, caller, started, keeps, takes_files: true };
    let hit = answer::hit(app, &live, &asked, reused, &mut output)?;
    reused.outcome.finish();
    app.observer.record(&reused.outcome, live.plan.access_log, live.plan.slow_request);
    Some((reused.outcome.status, output.whole()?.len() + hit.body.len()))
}

/// Stores a page that varies by these fields, and has forms to come if it is `encodable`.
fn store_page(plan: &Plan, store: &Store, (path, vary): (&str, &str), body: usize, encodable: bool) {
    let now = clock::now();
    let request = request(Scheme::Http, path, BROWSER);
    let route = route::select(&plan.routes, &request).unwrap();
    let policy = &route.cache;
    let fields = [
        ("Server", &b"gunicorn"[..]),
        ("Date", b"Mon, 30 Nov 2026 05:00:00 GMT"),
        ("Content-Type", b"text/html; charset=utf-8"),
        ETAG,
        ("vary", vary.as_bytes()),
    ];
    let response = ResponseHead { status: 200, fields: Fields::new(&fields) };
    let exchange = Exchange { requested_at: now, received_at: now, authorized: false };
    let Admission::Keep(kept) = admission::judge("/", &response, policy, 1 << 20, exchange) else {
        panic!("not kept")
    };
    let facts = Facts::new(&request, &policy.query, kept.tags);
    let mut key = CacheKey::primary("rest", &request, policy);
    store.memory.note_vary(&key, &kept.vary);
    if !kept.vary.is_empty() {
        key = key.variant(&kept.vary, Fields::new(&Outgoing::of(&request, policy).lend()));
    }
    let (head, body) = (response::Head::storable(&response), vec![b'x'; body].into());
    let stored = response::StoredResponse::new(head, body, kept.freshness, facts, kept.vary, None);
    let stored = if encodable { stored.encodable(&route.encode, None) } else { stored };
    store.memory.insert(&key, Arc::new(stored), store.memory.begin(), 1000).unwrap();
}

#[test]
fn a_hit_allocates_nothing() {
    let now = clock::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    // What is to be made for later goes there.
    let _here = runtime.enter();
    // Lines are dropped where nobody writes them out; here all are written.
    let (app, _guard) = server::assemble(plan(), std::io::sink()).unwrap();
    let live = app.live.load_full();
    store_page(&live.plan, &app.store, (PATH, "accept-encoding, cookie"), 1024, false);
    store_page(&live.plan, &app.store, (IN_MANY_LANGUAGES, "accept-language, cookie"), 1024, false);
    store_page(&live.plan, &app.store, (LARGE, "accept-encoding"), 100_000, false);
    store_page(&live.plan, &app.store, (ENCODED, ""), 50_000, true);
    let mut reused = Reused::default();
    let (stranger, proxy) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let since = format!("If-Modified-Since: {}\r\n", later(now));
    for (peer, path, more, status, least) in [
        (stranger, PATH, "", 200, 1024),
        (stranger, IN_MANY_LANGUAGES, "", 200, 1024),
        (stranger, LARGE, "", 200, 100_000),
        (proxy, PATH, "X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\nX-Forwarded-Proto: http\r\n", 200, 1024),
        (stranger, ENCODED, "", 200, 0),
        (stranger, PATH, "Cache-Control: max-age=60\r\n", 200, 1024),
        (stranger, PATH, "X-Request-ID: chosen\r\n", 200, 1024),
        (stranger, PATH, "If-None-Match: \"0\", W/\"1\"\r\n", 304, 0),
        (stranger, PATH, since.as_str(), 304, 0),
    ] {
        let lines: String = BROWSER.iter().map(|(n, v)| format!("{n}: {}\r\n", v.escape_ascii())).collect();
        let head = format!("GET {path} HTTP/1.1\r\n{lines}{more}\r\n");
        let visit = Visit { peer, head: head.as_bytes() };
        // What is made once: the file of a large body, the room of the buffers, the caches of regular expressions, the places of the tallies.
        for _ in 0..10 {
            let (found, length) = answer(&app, &visit, &mut reused).expect("a hit");
            assert_eq!(found, status, "{path} {more}");
            assert!(length > least, "{path} {more}: {length}");
        }
        // Its form comes from a thread of its own.
        let is_encoded = |length| path != ENCODED || length < 5_000;
        let deadline = clock::start() + Duration::from_secs(30);
        while !is_encoded(answer(&app, &visit, &mut reused).expect("a hit").1) {
            assert!(clock::start() < deadline, "no form is made");
            std::thread::yield_now();
        }
        // The access log's buffer grows now and then, until it has its room: the least is what each takes.
        let mut allocated = || measure(|| assert!(black_box(answer(&app, &visit, &mut reused)).is_some()));
        let least = (0..5).map(|_| allocated()).min_by_key(|allocated| allocated.count_total).expect("five");
        assert_eq!(least.count_total, 0, "{path} {more:?}: {} bytes", least.bytes_total);
    }
}

fn later(now: Timestamp) -> String {
    httpdate::fmt_http_date(now.plus(Duration::from_secs(1)).into())
}

#[test]
fn what_allocates_is_counted() {
    assert_eq!(measure(|| drop(black_box(vec![0_u8; 7]))).bytes_total, 7);
}

/// What a page takes beside its bytes must not grow unnoticed.
#[test]
fn a_stored_page_of_1_kib_takes_less_than_2_kb() {
    const PAGES: usize = 20_000;
    let (plan, store) = (plan(), Store::new(Budget { max_size: 256 << 20, max_object_size: 1 << 20 }));
    let held = measure(|| {
        for n in 0..PAGES {
            store_page(&plan, &store, (&format!("/products/{n}"), ""), 1024, true);
        }
    });
    assert_eq!(store.memory.entries(), PAGES);
    let (held, charged) = (held.bytes_current as usize / PAGES, store.memory.bytes() as usize / PAGES);
    assert!(held < 2_000, "{held} bytes each");
    assert!((held..held * 115 / 100).contains(&charged), "{held} bytes each, and {charged} are charged");
}

/// What the strongest encoder takes while it works comes on top of the store. (That of zstd is not counted here: it is written in C.)
#[test]
fn brotli_at_its_strongest_takes_less_than_14_mib() {
    let words = (0_u64..).map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52));
    let text: Vec<u8> = words.flat_map(String::into_bytes).take(500 << 10).collect();
    let mut form = None;
    let encode = || codec::encode(Coding::Brotli, Level::Strongest, &text, 0, || true);
    let peak = measure(|| form = encode().expect("it encodes")).bytes_max;
    assert!(form.expect("wanted to the end").len() < text.len() / 2);
    assert!(peak < 14 << 20, "{} KiB", peak >> 10);
}
