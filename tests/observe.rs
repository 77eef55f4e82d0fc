//! Every response tells what happened to it, and the log and the metrics say the same.

use std::collections::HashSet;
use std::time::Duration;

use crate::support::{Reply, Response, Rig, eventually};

#[test]
fn every_response_carries_an_id_and_its_times() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin
        .on("/", Reply::ok("x").field("X-Request-ID", "of the origin").field("Server-Timing", "db;dur=5"));
    let mut ids = HashSet::new();
    for (cookie, timing) in [
        ("", "cache;desc=\"miss\", origin;dur="),
        ("", "cache;desc=\"hit\", total;dur="),
        ("a=b", "cache;desc=\"pass\", origin;dur="),
    ] {
        let fields: &[(&str, &str)] = if cookie.is_empty() { &[] } else { &[("Cookie", cookie)] };
        let response = rig.get_with("/", fields);
        ids.insert(response.field("x-request-id").unwrap());
        let processing = response.field("x-processing-time").unwrap();
        let seconds = processing.strip_suffix('s').unwrap();
        assert!(
            seconds.split('.').nth(1).is_some_and(|digits| digits.len() == 3)
                && seconds.parse::<f64>().is_ok()
        );
        let timings = response.field("server-timing").unwrap();
        assert!(timings.starts_with("db;dur=5, ") && timings.contains(timing), "{timings}");
    }
    assert_eq!(ids.len(), 3, "an id names one request, also of a stored response: {ids:?}");
    assert!(!ids.contains("of the origin"));
}

#[test]
fn cache_status_is_appended_to_that_of_caches_further_in() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on("/", Reply::ok("x").field("Cache-Status", "cdn; hit"));
    assert_eq!(rig.get("/").cache_status(), "cdn; hit, parvis; fwd=miss; stored");
    assert_eq!(rig.get("/").cache_status(), "cdn; hit, parvis; hit; ttl=60");
}

#[test]
fn browsers_are_protected_where_the_origin_says_nothing() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on("/", Reply::ok("x").field("X-Frame-Options", "SAMEORIGIN"));
    rig.origin.on("/error", Reply::status(500, "x"));
    for path in ["/", "/", "/error"] {
        let response = rig.get(path);
        assert_eq!(response.field("x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(response.field("referrer-policy").as_deref(), Some("strict-origin-when-cross-origin"));
        let frames = if path == "/" { "SAMEORIGIN" } else { "DENY" };
        assert_eq!(response.field("x-frame-options").as_deref(), Some(frames));
    }
    let plain = Rig::new("response_headers: {preset: off}\nroutes: [{name: all}]");
    plain.origin.on("/", Reply::ok("x"));
    assert_eq!(plain.get("/").field("x-frame-options"), None);
}

#[test]
fn fields_of_the_origins_connection_end_with_it() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    let reply = Reply::ok("x")
        .field("Connection", "keep-alive, X-Hop")
        .field("X-Hop", "1")
        .field("Keep-Alive", "timeout=5");
    rig.origin.on("/", reply);
    for fields in [&[][..], &[][..], &[("Cookie", "a=b")][..]] {
        let response = rig.get_with("/", fields);
        assert_eq!(
            (response.field("x-hop"), response.field("keep-alive")),
            (None, None),
            "{}",
            response.head
        );
    }
}

#[test]
fn log_and_metrics_say_what_the_header_says() {
    let rig = Rig::new("routes: [{name: pages, match: {path: /p*}, cache: {ttl: 1m}}]");
    rig.origin.on("/p", Reply::ok("0123456789"));
    rig.origin.on("/p2", Reply::ok("x").field("Set-Cookie", "secret=1"));
    let asks: [&dyn Fn() -> Response; 5] = [
        &|| rig.get("/p"),
        &|| rig.get("/p?utm_source=x"),
        &|| rig.get_with("/p", &[("Cookie", "sessionid=secret"), ("User-Agent", "secret")]),
        &|| rig.get("/p2"),
        &|| rig.get("/none"),
    ];
    for (before, ask) in asks.iter().enumerate() {
        ask();
        // A line is written when its response has ended, and not before the client has read that.
        eventually("a line", || rig.parvis.access_log().len() == before + 1);
    }
    let lines = rig.parvis.access_log();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            assert!(
                line["total_ms"].is_f64() && line["request_id"].is_string() && line["client"] == "127.0.0.1"
            );
            (text("target"), text("route"), text("verdict"), text("reason"), line["status"].as_u64().unwrap())
        })
        .collect();
    let line = |target: &str, route: &str, verdict: &str, reason: &str, status| {
        (target.to_owned(), route.to_owned(), verdict.to_owned(), reason.to_owned(), status)
    };
    assert_eq!(
        seen,
        [
            line("/p", "pages", "miss", "", 200),
            line("/p?utm_source=x", "pages", "hit", "", 200),
            line("/p", "pages", "pass", "cookie", 200),
            line("/p2", "pages", "miss", "set-cookie", 200),
            line("/none", "-", "local", "no-route", 404),
        ]
    );
    let requests = |labels: &str| rig.parvis.metric("parvis_requests_total", labels);
    assert_eq!(requests("route=\"pages\",verdict=\"hit\",status=\"200\""), 1.0);
    assert_eq!(requests("verdict=\"pass\",reason=\"cookie\""), 1.0);
    assert_eq!(requests("verdict=\"local\",reason=\"no-route\",status=\"404\""), 1.0);
    assert_eq!(requests("reason=\"set-cookie\""), 1.0);
    assert_eq!(rig.parvis.metric("parvis_request_duration_seconds_count", "route=\"pages\""), 4.0);
    assert_eq!(rig.parvis.metric("parvis_origin_duration_seconds_count", "route=\"pages\""), 3.0);
    assert_eq!(rig.parvis.metric("parvis_store_entries", ""), 1.0);
    assert!(rig.parvis.metric("parvis_store_bytes", "") > 10.0);
    assert_eq!(rig.parvis.metric("parvis_store_capacity_bytes", ""), f64::from(256 << 20));
    assert!(rig.parvis.metric("process_resident_memory_bytes", "") > 0.0);
    assert_eq!(rig.parvis.admin("GET", "/metrics/", None, "").status, 200);
    assert_eq!(rig.parvis.admin("GET", "/healthz", None, "").text(), "ok\n");
    let everything = format!("{:?}{}", rig.parvis.access_log(), rig.parvis.errors());
    assert!(!everything.contains("secret"), "cookies and agents stay out of the logs");
}

#[test]
fn a_slow_request_is_logged_with_where_the_time_went() {
    let rig =
        Rig::new("observability: {slow_request: 100ms, access_log: {format: off}}\nroutes: [{name: all}]");
    rig.origin.on("/slow", Reply::ok("x").delayed(Duration::from_millis(300)));
    let id = rig.get("/slow").field("x-request-id").unwrap();
    eventually("it is logged", || rig.parvis.errors().contains(&id));
    let log = rig.parvis.errors();
    let line = log.lines().find(|line| line.contains(&id)).unwrap();
    for part in ["slow request", "target=\"/slow\"", "origin_s=", "total_s=", "first_byte_s="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(rig.parvis.access_log().is_empty());
}
