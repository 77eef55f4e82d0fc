//! What one client sends is nobody else's page, nor keeps it from them.

use std::thread;

use super::{short, told, with_cookie};
use crate::support::{Gate, Reply, Rig, eventually};

#[test]
fn a_page_behind_the_path_of_a_file_is_not_stored() {
    let rig = Rig::new(
        "routes: [{name: static, match: {path: \"*.css\"}, cache: {ttl: 1h, ignore_cookies: [\"*\"]}}]",
    );
    rig.origin.on("/account/x.css", Reply::ok("the account of ada").field("Content-Type", "text/html"));
    rig.origin.on("/site.css", Reply::ok("a {}").field("Content-Type", "text/css"));
    assert_eq!(short(&with_cookie(&rig, "/account/x.css", "sessionid=ada")), told("miss", "extension"));
    assert_eq!(short(&rig.get("/account/x.css")), told("pass", "uncacheable"));
    assert_eq!([rig.get("/site.css").verdict(), rig.get("/site.css").verdict()], ["miss", "hit"]);
}

#[test]
fn an_error_that_one_client_provokes_is_never_anybody_elses() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on_each("/", |request| match request.field("x-oversized") {
        Some(_) => Reply::status(400, "bad").field("Cache-Control", "public, max-age=600"),
        None => Reply::ok("fine"),
    });
    let long = "x".repeat(9000);
    let provoked = rig.get_with("/", &[("X-Oversized", &long)]);
    assert_eq!((provoked.status, short(&provoked)), (400, told("miss", "provoked")));
    assert_eq!((rig.get("/").text().as_str(), rig.get("/").verdict()), ("fine", "hit"));
}

#[test]
fn claims_of_strangers_never_reach_the_application_on_any_way() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    let claims = [
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Scheme", "evil"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Original-URL", "/evil"),
        ("X-Rewrite-URL", "/evil"),
        ("Forwarded", "host=evil.test"),
        ("X-Forwarded-For", "192.0.2.66"),
        ("X-HTTP-Method-Override", "evil"),
    ];
    rig.origin.on_each("/", |request| Reply::ok(format!("{:?}", request.fields)));
    for more in [&[][..], &[("Cookie", "basket=1")][..]] {
        let page = rig.get_with("/", &[&claims[..], more].concat()).text();
        assert!(!page.contains("evil") && !page.contains("192.0.2.66"), "{page}");
        for set in [
            r#"("X-Forwarded-Host", "shop.test")"#,
            r#"("X-Forwarded-Proto", "http")"#,
            r#"("X-Forwarded-For", "127.0.0.1")"#,
        ] {
            assert!(page.to_lowercase().contains(&set.to_lowercase()), "{set}: {page}");
        }
    }
}

#[test]
fn a_page_that_becomes_cacheable_is_noticed_by_the_first_that_passes() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, uncacheable_ttl: 1h}}]");
    rig.origin.on("/", Reply::ok("x").field("Cache-Control", "no-store"));
    assert_eq!(short(&rig.get("/")), told("miss", "no-store"));
    assert_eq!(short(&rig.get("/")), told("pass", "uncacheable"));
    rig.origin.on("/", Reply::ok("x"));
    assert_eq!(short(&rig.get("/")), told("pass", "uncacheable"));
    assert_eq!([rig.get("/").verdict(), rig.get("/").verdict()], ["miss", "hit"]);
}

#[test]
fn a_late_validation_does_not_bring_an_older_page_back() {
    let rig = Rig::new("routes: [{name: all}]");
    let gate = Gate::new();
    let hold = gate.clone();
    let page = |body: &str, tag: &str| Reply::ok(body).field("ETag", tag);
    rig.origin.on("/", page("version 1", "\"1\"").field("Cache-Control", "max-age=60").field("Age", "60"));
    rig.get("/");
    rig.origin.on_each("/", move |request| match request.method.as_str() {
        "HEAD" => {
            Reply::status(304, "").field("ETag", "\"1\"").field("Cache-Control", "max-age=60").behind(&hold)
        }
        _ => page("version 2", "\"2\"").field("Cache-Control", "max-age=60"),
    });
    thread::scope(|scope| {
        let head = scope.spawn(|| rig.parvis.client().send("HEAD", "/", &[], b""));
        eventually("the HEAD is under way", || rig.origin.count("/") == 2);
        assert_eq!(rig.get("/").text(), "version 2");
        gate.open();
        head.join().expect("a head");
    });
    assert_eq!((rig.get("/").text().as_str(), rig.get("/").verdict()), ("version 2", "hit"));
}

#[test]
fn one_patience_holds_for_all_a_request_waits_for() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, lock: {timeout: 300ms}, set_cookie: strip}}]");
    // It never ends: nobody may read along, and everyone waits once.
    let endless = Reply::script()
        .then("HTTP/1.1 200 OK\r\nSet-Cookie: a=0123456789\r\nContent-Length: 20\r\n\r\nbeginning")
        .then_wait(&Gate::new());
    rig.origin.on_sequence("/", vec![endless, Reply::ok("by itself")]);
    let mut first = rig.parvis.client().connect();
    first.write_request("GET", "/", &[], b"");
    eventually("the first has begun", || rig.origin.count("/") == 1);
    let second = rig.get("/");
    assert_eq!((second.text().as_str(), short(&second)), ("by itself", told("pass", "lock-timeout")));
}
