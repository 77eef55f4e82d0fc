//! A write removes what it changed before its client sees the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{Gate, Reply, Rig, eventually};

const SHOP: &str = "routes:
  - {name: reads, match: {methods: [GET, HEAD]}, cache: {ttl: 5m}}
  - {name: writes, match: {path: /api/*}, purge_on_success: [{tags: [products]}, {prefix: /products/}, {url: /?page=1}]}
  - {name: rest}";

const TAGGED: &str = "routes:
  - {name: lists, match: {path: /lists/*, methods: [GET]}, cache: {ttl: 5m, tags: [products]}}
  - {name: reads, match: {methods: [GET]}, cache: {ttl: 5m}}
  - {name: writes, match: {path: /api/*}, purge_on_success: [{tags: [products]}, {prefix: /products/}, {url: /?page=1}]}
  - {name: rest}";

/// Stores these pages.
fn store(rig: &Rig, paths: &[&str]) {
    for path in paths {
        rig.origin.on(path.split('?').next().unwrap(), Reply::ok("x"));
        rig.get(path);
        assert_eq!(rig.get(path).verdict(), "hit", "{path}");
    }
}

#[test]
fn target_tags_prefixes_and_urls_go_and_nothing_else() {
    let rig = Rig::new(TAGGED);
    let gone = ["/api/7", "/products/7", "/products/", "/lists/a", "/?page=1"];
    let kept = ["/other", "/product", "/?page=2", "/api/7?full=1"];
    store(&rig, &[&gone[..], &kept[..]].concat());
    rig.origin.on("/api/7", Reply::ok("changed"));
    assert_eq!(rig.send("PUT", "/api/7", "{}").verdict(), "pass");
    for path in gone {
        assert_eq!(rig.get(path).verdict(), "miss", "{path}");
    }
    for path in kept {
        assert_eq!(rig.get(path).verdict(), "hit", "{path}");
    }
    assert_eq!(rig.parvis.metric("parvis_purged_entries_total", ""), 5.0);
}

#[test]
fn every_unsafe_method_counts_also_an_unknown_one() {
    let rig = Rig::new(SHOP);
    for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
        store(&rig, &["/api/7"]);
        rig.send(method, "/api/7", "");
        assert_eq!(rig.get("/api/7").verdict(), "miss", "{method}");
    }
    store(&rig, &["/api/7"]);
    rig.send("OPTIONS", "/api/7", "");
    assert_eq!(rig.get("/api/7").verdict(), "hit");
}

#[test]
fn only_an_answer_that_tells_of_a_change_removes() {
    let rig = Rig::new(SHOP);
    for (status, verdict) in
        [(200, "miss"), (201, "miss"), (204, "miss"), (302, "miss"), (400, "hit"), (403, "hit"), (500, "hit")]
    {
        store(&rig, &["/api/7"]);
        rig.origin.on("/api/7", Reply::status(status, ""));
        assert_eq!(rig.send("POST", "/api/7", "").status, status);
        rig.origin.on("/api/7", Reply::ok("x"));
        assert_eq!(rig.get("/api/7").verdict(), verdict, "{status}");
    }
}

#[test]
fn what_the_answer_names_on_the_same_host_goes_too() {
    let rig = Rig::new(SHOP);
    store(&rig, &["/a", "/b", "/c"]);
    let answer =
        Reply::status(201, "").field("Location", "http://shop.test/a").field("Content-Location", "b");
    rig.origin.on("/api", answer);
    rig.send("POST", "/api", "");
    assert_eq!(
        (rig.get("/a").verdict(), rig.get("/b").verdict(), rig.get("/c").verdict()),
        ("miss", "miss", "hit")
    );
    rig.origin.on("/api", Reply::status(201, "").field("Location", "http://elsewhere.test/c"));
    rig.send("POST", "/api", "");
    assert_eq!(rig.get("/c").verdict(), "hit");
}

#[test]
fn a_fetch_that_began_before_a_write_is_delivered_and_not_stored() {
    let rig = Rig::new(SHOP);
    let gate = Gate::new();
    rig.origin
        .on_sequence("/api/7", vec![Reply::ok("old").behind(&gate), Reply::ok("written"), Reply::ok("new")]);
    let mut early = rig.parvis.client().connect();
    early.write_request("GET", "/api/7", &[], b"");
    eventually("the fetch is under way", || rig.origin.count("/api/7") == 1);
    assert_eq!(rig.send("PUT", "/api/7", "").text(), "written");
    let after = rig.get("/api/7");
    assert_eq!((after.verdict(), after.text().as_str()), ("miss", "new"), "nobody joins the old fetch");
    gate.open();
    assert_eq!(early.read_response("GET").text(), "old");
    eventually("the old fetch has ended", || {
        rig.parvis.metric("parvis_fetches_total", "result=\"purged\"") == 1.0
    });
    assert_eq!((rig.get("/api/7").verdict(), rig.get("/api/7").text().as_str()), ("hit", "new"));
}

#[test]
fn a_write_whose_answer_was_lost_counts_as_carried_out() {
    let rig = Rig::new(SHOP);
    store(&rig, &["/api/7", "/products/7"]);
    rig.origin.on("/api/7", Reply::script().then_close());
    let lost = rig.send("POST", "/api/7", "");
    assert_eq!((lost.status, lost.detail().as_str()), (502, "origin-unreachable"));
    rig.origin.on("/api/7", Reply::ok("x"));
    assert_eq!((rig.get("/api/7").verdict(), rig.get("/products/7").verdict()), ("miss", "miss"));
}

#[test]
fn all_variants_and_spellings_of_the_target_go() {
    let rig = Rig::new(SHOP);
    rig.origin.on("/api/7", Reply::ok("x").field("Vary", "Accept"));
    for accept in ["a/a", "b/b"] {
        rig.get_with("/api/7?x=1&y=2", &[("Accept", accept)]);
    }
    rig.origin.on("/api/%37", Reply::status(204, ""));
    assert_eq!(rig.send("PUT", "/api/%37?y=2&x=1&utm_source=mail", "").status, 204);
    for accept in ["a/a", "b/b"] {
        assert_eq!(rig.get_with("/api/7?x=1&y=2", &[("Accept", accept)]).verdict(), "miss", "{accept}");
    }
}

/// Three pages that say how often `/write` was asked: fresh, stale when they come, and stale with validation due.
fn count_writes(rig: &Rig) {
    let current = Arc::new(AtomicU64::new(0));
    for path in ["/fresh", "/stale", "/validated"] {
        let current = current.clone();
        rig.origin.on_each(path, move |request| {
            let seen = current.load(Ordering::SeqCst);
            // Long enough for a write to be answered in between.
            std::thread::sleep(Duration::from_micros(500 * (seen % 7)));
            let etag = format!("\"{seen}\"");
            let age = if path == "/fresh" { "0" } else { "70" };
            let more = if path == "/validated" { "max-age=60, must-revalidate" } else { "max-age=60" };
            let status = if request.field("if-none-match").as_deref() == Some(&etag) { 304 } else { 200 };
            let body = if status == 304 { String::new() } else { seen.to_string() };
            Reply::status(status, body)
                .field("Cache-Control", more)
                .field("Age", age)
                .field("ETag", &etag)
                .field("Vary", "Accept-Language")
        });
    }
    rig.origin.on_each("/write", move |_| {
        current.fetch_add(1, Ordering::SeqCst);
        Reply::status(204, "")
    });
}

/// The promise under load: whoever asks after a write was answered never sees what was before it, whatever
/// fetches, refreshes, validations and variants are under way.
#[test]
fn nobody_who_asks_after_an_answered_write_sees_what_was_before_it() {
    const WRITES: u64 = 150;
    let rig = Rig::new(
        "routes:
  - {name: reads, match: {methods: [GET]}, cache: {ttl: 5m, stale_while_revalidate: 1h, tags: [all]}}
  - {name: writes, purge_on_success: [{tags: [all]}]}",
    );
    count_writes(&rig);
    let answered = AtomicU64::new(0);
    let served = |verdict| rig.parvis.metric("parvis_requests_total", &format!("verdict=\"{verdict}\""));
    std::thread::scope(|scope| {
        for reader in 0..6 {
            let (rig, answered) = (&rig, &answered);
            scope.spawn(move || {
                let mut connection = rig.parvis.client().connect();
                for n in reader.. {
                    let known = answered.load(Ordering::SeqCst);
                    let path = ["/fresh", "/stale", "/validated"][n % 3];
                    let language = ["en", "fr"][n % 2];
                    connection.write_request("GET", path, &[("Accept-Language", language)], b"");
                    let response = connection.read_response("GET");
                    let seen: u64 = response.text().parse().expect("a number");
                    assert!(
                        seen >= known,
                        "{path}: {seen} after {known} was answered: {}",
                        response.cache_status()
                    );
                    if known == WRITES {
                        break;
                    }
                }
            });
        }
        let mut writer = rig.parvis.client().connect();
        for n in 1..=WRITES {
            writer.write_request("POST", "/write", &[], b"");
            assert_eq!(writer.read_response("POST").status, 204);
            answered.store(n, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(n % 5));
            // Most writes meet fetches under way. That some meet what is stored must not depend on the machine. Not
            // after the last write, when the readers leave.
            if n % 10 == 5 {
                let (hits, stale) = (served("hit"), served("stale"));
                eventually("pages were served from the store", || {
                    served("hit") > hits && served("stale") > stale
                });
            }
        }
    });
}
