//! Budgets hold as memory of the process, not only as counters.

use std::io::Read;

use crate::support::{Reply, Rig, eventually};

/// What a debug build may need beside the store: the code, connections, the fetches under way.
const SLACK: u64 = 12 << 20;

/// What an encoder may take beside the store while it works, and the allocator keeps: the tables of brotli's strongest level.
const ENCODER: u64 = 14 << 20;

/// Asks for `count` different pages over a few connections.
fn fill(rig: &Rig, count: usize) {
    const READERS: usize = 4;
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            scope.spawn(move || {
                let mut connection = rig.parvis.client().connect();
                for n in (reader..count).step_by(READERS) {
                    connection.write_request("GET", &format!("/page?n={n}"), &[], b"");
                    assert_eq!(connection.read_response("GET").status, 200);
                }
            });
        }
    });
}

/// Fills a store of 24 MiB several times over with bodies of one size, and looks at the process.
fn stays_within_its_budget(body: usize, count: usize) {
    let page = vec![b'x'; body];
    with_pages(move |_| Reply::ok(page.clone()), count);
}

/// The same with pages that the origin makes of their number.
fn with_pages(page: impl Fn(&str) -> Reply + Send + Sync + 'static, count: usize) {
    let config = "storage: {memory: {max_size: 24MiB, max_object_size: 1MiB}}\n\
                  observability: {access_log: {format: off}}\nroutes: [{name: all, cache: {ttl: 1h, tags: [all]}}]";
    let rig = Rig::new(config);
    rig.origin.on_each("/page", move |request| page(request.target.rsplit('=').next().unwrap()));
    fill(&rig, 40);
    let before = rig.parvis.resident_memory();
    fill(&rig, count);
    let grown = rig.parvis.resident_memory().saturating_sub(before);
    let budget: u32 = 24 << 20;
    assert!(rig.parvis.metric("parvis_store_evictions_total", "") > 0.0, "the store was full");
    assert!(rig.parvis.metric("parvis_store_bytes", "") <= f64::from(budget));
    let filled = rig.parvis.metric("parvis_store_bytes", "") / f64::from(budget);
    assert!(filled > 0.8, "the budget is used, not only kept: {filled}");
    assert!(grown <= u64::from(budget) + SLACK, "grown by {} MiB", grown >> 20);
    assert_eq!(rig.purge(r#"{"all": true}"#)["entries"].as_u64().map(|entries| entries > 0), Some(true));
    eventually("what is purged is gone", || rig.parvis.metric("parvis_store_bytes", "") == 0.0);
}

/// An index that knows each tag costs more than its text.
#[test]
fn a_store_full_of_pages_with_tags_of_their_own_stays_within_its_budget() {
    let tags = |n: &str| (0..200).map(|tag| format!("{n}-{tag}")).collect::<Vec<_>>().join(" ");
    with_pages(move |n| Reply::ok("x").field("xkey", &tags(n)), 1_500);
}

#[test]
fn a_store_full_of_large_bodies_stays_within_its_budget() {
    stays_within_its_budget(100_000, 1_000);
}

#[test]
fn a_store_full_of_small_bodies_stays_within_its_budget() {
    stays_within_its_budget(1_024, 16_000);
}

/// Text of its own that becomes half as long.
fn digits(n: u64) -> String {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state ^ (state >> 29))
    };
    (0..1_000).map(|_| next()).collect()
}

#[test]
fn a_store_full_of_pages_with_encoded_forms_stays_within_its_budget() {
    let config = "storage: {memory: {max_size: 24MiB, max_object_size: 1MiB}}\n\
                  observability: {access_log: {format: off}}\nroutes: [{name: all, cache: {ttl: 1h}}]";
    let rig = Rig::new(config);
    rig.origin.on_each("/page", |request| {
        let number = request.target.rsplit('=').next().unwrap().parse().unwrap();
        Reply::ok(digits(number)).field("Content-Type", "text/plain")
    });
    let mut connection = rig.parvis.client().connect();
    let mut ask = |range: std::ops::Range<u64>| {
        for n in range {
            for coding in ["gzip", "br", "zstd"] {
                let fields = [("Accept-Encoding", coding)];
                connection.write_request("GET", &format!("/page?n={n}"), &fields, b"");
                assert_eq!(connection.read_response("GET").status, 200);
            }
        }
    };
    let made = || rig.parvis.metric("parvis_encodings_total", "");
    // Before any encoder has worked, and after all have: then what is added is the store's.
    let before = rig.parvis.resident_memory();
    ask(0..20);
    eventually("the encoders have worked", || made() >= 60.0);
    let after_encoders = rig.parvis.resident_memory();
    ask(20..2_000);
    let bytes = || rig.parvis.metric("parvis_store_bytes", "");
    assert!(made() > 100.0, "{}", made());
    assert!(rig.parvis.metric("parvis_store_evictions_total", "") > 0.0, "the store was full");
    assert!(bytes() <= f64::from(24 << 20));
    let now = rig.parvis.resident_memory();
    let by_store = now.saturating_sub(after_encoders);
    assert!(by_store <= (24 << 20) + SLACK, "grown by {} MiB", by_store >> 20);
    let grown = now.saturating_sub(before);
    assert!(grown <= (24 << 20) + SLACK + ENCODER, "grown by {} MiB", grown >> 20);
    rig.purge(r#"{"all": true}"#);
    eventually("what is purged is gone, with its forms", || bytes() == 0.0);
}

#[test]
fn an_endless_body_is_read_no_faster_than_its_reader_takes_it() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1h}}]");
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    let endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    rig.origin.on("/", Reply::script().then(endless).then_repeat(chunk, 1 << 20));
    let mut reader = rig.parvis.client().connect();
    reader.write_request("GET", "/", &[], b"");
    let mut taken = vec![0; 40 << 20];
    reader.stream.read_exact(&mut taken).unwrap();
    drop(taken);
    let before = rig.parvis.resident_memory();
    assert!(before < 200 << 20, "{} MiB", before >> 20);
    let mut more = vec![0; 40 << 20];
    reader.stream.read_exact(&mut more).unwrap();
    let grown = rig.parvis.resident_memory().saturating_sub(before);
    assert!(grown < 8 << 20, "grown by {} MiB while 40 MiB went through", grown >> 20);
    drop(reader);
    eventually("the fetch ends with its last reader", || {
        rig.parvis.metric("parvis_fetches_total", "result=\"abandoned\"") == 1.0
            && rig.parvis.metric("parvis_fill_bytes", "") == 0.0
    });
}

#[test]
fn a_body_that_comes_byte_by_byte_takes_no_more_than_the_budget_of_bodies_under_way() {
    let config = "storage: {memory: {max_size: 16MiB, max_object_size: 4MiB}}\nroutes: [{name: all, cache: {ttl: 1h}}]";
    let rig = Rig::new(config);
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let crumbs = b"1\r\nx\r\n".repeat(1_000);
    rig.origin.on("/", Reply::script().then(head).then_repeat(crumbs, 300).then("0\r\n\r\n"));
    let before = rig.parvis.resident_memory();
    let response = rig.get("/");
    assert_eq!((response.body.len(), response.complete), (300_000, true));
    let grown = rig.parvis.resident_memory().saturating_sub(before);
    assert!(grown <= SLACK + (8 << 20), "grown by {} MiB", grown >> 20);
    assert_eq!(rig.parvis.metric("parvis_limit_reached_total", "limit=\"fill-limit\""), 1.0);
    eventually("nothing is held any longer", || rig.parvis.metric("parvis_fill_bytes", "") == 0.0);
}
