//! What a purge has removed is never served afterwards: not by a fetch that was under way, not while a large purge is
//! being carried out, not by a validation or a refresh that began before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::{Gate, Reply, Rig, eventually};

const ALL: &str = "routes: [{name: all, cache: {ttl: 5m, tags: [t]}}]";

/// Every kind of selector, naming `/page` on every host.
fn selectors() -> Vec<Value> {
    vec![
        json!({"urls": ["/page"]}),
        json!({"prefixes": ["/pa"]}),
        json!({"wildcards": ["/p*e"]}),
        json!({"tags": ["t"]}),
        json!({"tags": ["of-the-response"]}),
        json!({"hosts": ["shop.test"]}),
        json!({"regex": ["^/pa[a-z]e$"]}),
        json!({"all": true}),
    ]
}

fn softly(selector: &Value) -> Value {
    let mut soft = selector.clone();
    soft["soft"] = true.into();
    soft
}

#[test]
fn a_fetch_under_way_is_delivered_and_not_stored_whatever_names_it() {
    let rig = Rig::new(ALL);
    for selector in selectors().iter().flat_map(|one| [one.clone(), softly(one)]) {
        let (head, body) = (Gate::new(), Gate::new());
        // Before its head, and in the middle of its body.
        for gate in [&head, &body] {
            let reply = Reply::script();
            let reply = if std::ptr::eq(gate, &head) { reply.then_wait(gate) } else { reply };
            let reply =
                reply.then("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nxkey: of-the-response\r\n\r\nold");
            rig.origin.on("/page", reply.then_wait(gate).then("old").then_close());
            let before = rig.origin.count("/page");
            thread::scope(|scope| {
                let waiting = scope.spawn(|| rig.get("/page").text());
                eventually("the fetch is under way", || rig.origin.count("/page") > before);
                rig.purge(&selector.to_string());
                rig.origin.on("/page", Reply::ok("new").field("xkey", "of-the-response"));
                assert_eq!(rig.get("/page").text(), "new", "nobody joins what began before: {selector}");
                gate.open();
                assert_eq!(waiting.join().unwrap(), "oldold", "{selector}");
            });
            let after = rig.get("/page");
            assert_eq!((after.text().as_str(), after.verdict()), ("new", "hit"), "{selector}");
            rig.purge(r#"{"all": true}"#);
        }
    }
}

#[test]
fn a_soft_purge_has_what_it_names_validated_or_served_stale_within_its_windows() {
    let rig = Rig::new(
        "routes:
  - {name: window, match: {path: /window}, cache: {ttl: 5m, stale_while_revalidate: 1h}}
  - {name: failing, match: {path: /failing}, cache: {ttl: 5m, stale_if_error: 1h}}
  - {name: none, cache: {ttl: 5m}}",
    );
    for path in ["/window", "/failing", "/none"] {
        let page = Reply::ok("old").field("ETag", "\"1\"");
        let then = match path {
            "/failing" => Reply::status(503, "down"),
            "/none" => Reply::status(304, "").field("ETag", "\"1\""),
            _ => Reply::ok("new").field("ETag", "\"2\""),
        };
        rig.origin.on_sequence(path, vec![page, then]);
        rig.get(path);
    }
    let answer = rig.purge(r#"{"prefixes": ["/"], "soft": true}"#);
    assert_eq!((answer["entries"].as_u64(), answer["soft"].as_bool()), (Some(3), Some(true)));
    let validated = rig.get("/none");
    assert_eq!((validated.verdict(), validated.text().as_str()), ("revalidate", "old"));
    assert_eq!(rig.origin.received("/none")[1].field("if-none-match").as_deref(), Some("\"1\""));
    assert_eq!(rig.get("/none").verdict(), "hit", "it holds, and is fresh again");
    let stood_in = rig.get("/failing");
    assert_eq!((stood_in.text().as_str(), stood_in.detail().as_str()), ("old", "stale-if-error"));
    assert_eq!(rig.get("/window").verdict(), "stale");
    eventually("it is refreshed", || rig.get("/window").text() == "new");
    rig.purge(r#"{"all": true}"#);
    assert_eq!(rig.get("/failing").status, 503, "what a hard purge removed stands in for nothing");
}

#[test]
fn a_refresh_that_began_before_a_purge_does_not_bring_back_what_it_removed() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m, stale_while_revalidate: 1h}}]");
    for soft in [false, true] {
        let gate = Gate::new();
        rig.origin.on_sequence(
            "/page",
            vec![
                Reply::ok("old").field("ETag", "\"1\"").field("Age", "400"),
                Reply::status(304, "").field("ETag", "\"1\"").behind(&gate),
                Reply::ok("new"),
            ],
        );
        let before = rig.origin.count("/page");
        rig.get("/page");
        assert_eq!(rig.get("/page").verdict(), "stale");
        eventually("it is being refreshed", || rig.origin.count("/page") == before + 2);
        rig.purge(&json!({"urls": ["/page"], "soft": soft}).to_string());
        gate.open();
        eventually("the refresh has ended", || rig.parvis.metric("parvis_fills", "") == 0.0);
        let next = rig.get("/page");
        assert!(next.verdict() != "hit" || next.text() == "new", "soft {soft}: {}", next.cache_status());
        eventually("the new one is stored", || rig.get("/page").text() == "new");
        rig.purge(r#"{"all": true}"#);
    }
}

#[test]
fn a_head_makes_nothing_fresh_that_has_no_validator() {
    let rig = Rig::new(ALL);
    rig.origin.on_sequence("/page", vec![Reply::ok("price 41"), Reply::ok("price 42")]);
    rig.get("/page");
    rig.purge(r#"{"urls": ["/page"], "soft": true}"#);
    rig.send("HEAD", "/page", "");
    assert_eq!(rig.get("/page").text(), "price 42");
}

#[test]
fn a_write_under_way_during_a_reload_removes_what_was_stored_under_the_new_rules() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m, key: {query: {exclude: [a]}}}}]");
    let gate = Gate::new();
    let page = "/page?b=1&a=2&u=3";
    rig.origin
        .on_sequence("/page", vec![Reply::ok("written").behind(&gate), Reply::ok("old"), Reply::ok("new")]);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| rig.send("POST", page, "").text());
        eventually("the write is under way", || rig.origin.count("/page") == 1);
        rig.reload("exclude: [a]", "exclude: [u]");
        assert_eq!(rig.get(page).text(), "old");
        gate.open();
        assert_eq!(writing.join().unwrap(), "written");
    });
    assert_eq!(rig.get(page).text(), "new");
}

#[test]
fn pages_of_other_tags_are_not_served_after_a_reload() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m, tags: [old]}}]");
    rig.origin.on("/page", Reply::ok("x"));
    rig.get("/page");
    rig.reload("tags: [old]", "tags: [new]");
    assert_eq!((rig.get("/page").verdict(), rig.get("/page").verdict()), ("miss", "hit"));
    assert_eq!(rig.purge(r#"{"tags": ["new"]}"#)["entries"], 1);
}

#[test]
fn a_purge_finds_what_was_stored_under_rules_that_come_back() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m, key: {query: {sort: true}}}}]");
    rig.origin.on("/page", Reply::ok("old"));
    let page = "/page?b=1&a=2";
    rig.get(page);
    rig.reload("sort: true", "sort: false");
    rig.purge(&json!({"urls": [page]}).to_string());
    rig.origin.on("/page", Reply::ok("new"));
    rig.reload("sort: false", "sort: true");
    assert_eq!(rig.get(page).text(), "new");
}

/// The promise under load, with more entries than are removed at once: whoever asks after a purge was answered sees
/// nothing that was there before it.
#[test]
fn nobody_sees_what_a_purge_has_removed_while_it_is_being_carried_out() {
    const PAGES: u64 = 1100;
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m, tags: [t]}}]");
    let version = Arc::new(AtomicU64::new(0));
    for n in 0..PAGES {
        let version = version.clone();
        rig.origin.on_each(&format!("/pages/{n}"), move |_| {
            Reply::ok(version.load(Ordering::SeqCst).to_string()).field("xkey", "of-the-response")
        });
    }
    let ask = |connection: &mut crate::support::client::Connection, n: u64| {
        connection.write_request("GET", &format!("/pages/{n}"), &[], b"");
        connection.read_response("GET").text().parse::<u64>().unwrap()
    };
    let client = rig.parvis.client();
    for round in 1..=8 {
        let mut connection = client.connect();
        (0..PAGES).for_each(|n| assert!(ask(&mut connection, n) < round));
        let selectors = [
            json!({"tags": ["t"]}),
            json!({"tags": ["of-the-response"]}),
            json!({"prefixes": ["/pages/"]}),
            json!({"regex": ["^/pages/[0-9]+$"]}),
            json!({"hosts": ["shop.test"]}),
            json!({"all": true}),
            json!({"wildcards": ["/p*s/*"]}),
            json!({"regex": ["^/pages/"], "tags": ["of-the-response"]}),
        ];
        version.store(round, Ordering::SeqCst);
        let selector = &selectors[usize::try_from(round).unwrap() - 1];
        thread::scope(|scope| {
            // Others read meanwhile, and may see either state.
            for from in [0, PAGES / 2] {
                let mut connection = client.connect();
                scope.spawn(move || {
                    (from..from + 300).for_each(|n| assert!(ask(&mut connection, n) <= round))
                });
            }
            let answer = rig.purge(&selector.to_string());
            assert!(answer["entries"].as_u64() > Some(500), "{answer}");
            for n in (0..PAGES).step_by(7) {
                assert_eq!(ask(&mut connection, n), round, "/pages/{n} after {selector}");
            }
        });
    }
}
