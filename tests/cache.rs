//! What is stored, what is not, and why.

use crate::support::{Reply, Rig};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

#[test]
fn a_page_is_fetched_once_and_then_served_from_the_store() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("hello").field("X-Legacy", "one").field("x-LEGACY", "two"));
    let first = rig.get("/");
    assert_eq!((first.status, first.verdict(), first.text().as_str()), (200, "miss", "hello"));
    assert_eq!(first.cache_status(), "parvis; fwd=miss; stored");
    let second = rig.get("/");
    assert_eq!((second.status, second.verdict(), second.text().as_str()), (200, "hit", "hello"));
    assert_eq!(second.field("x-legacy").as_deref(), Some("one, two"));
    assert_eq!(second.field("content-length").as_deref(), Some("5"));
    assert_eq!(second.field("age").as_deref(), Some("0"));
    assert!(second.head.contains("x-LEGACY: two"), "names keep their spelling: {}", second.head);
    assert_eq!(rig.origin.count("/"), 1);
}

#[test]
fn without_a_ttl_only_what_the_origin_marks_as_fresh_is_stored() {
    let rig = Rig::new("routes: [{name: all}]");
    rig.origin.on("/plain", Reply::ok("x"));
    rig.origin.on("/fresh", Reply::ok("x").field("Cache-Control", "max-age=60"));
    rig.get("/plain");
    rig.get("/fresh");
    assert_eq!(rig.get("/plain").verdict(), "pass");
    assert_eq!(rig.get("/fresh").verdict(), "hit");
}

#[test]
fn every_refusal_to_store_names_its_reason() {
    let rig = Rig::new(MINUTE);
    for (path, reply, reason) in [
        ("/no-store", Reply::ok("x").field("Cache-Control", "no-store"), "no-store"),
        ("/private", Reply::ok("x").field("Cache-Control", "private"), "private"),
        ("/cookie", Reply::ok("x").field("Set-Cookie", "a=b"), "set-cookie"),
        ("/vary", Reply::ok("x").field("Vary", "*"), "vary"),
        ("/expired", Reply::ok("x").field("Expires", "0"), "expired"),
        ("/missing", Reply::status(404, "x"), "no-ttl"),
        ("/part", Reply::status(206, "x").field("Content-Range", "bytes 0-0/9"), "status"),
    ] {
        rig.origin.on(path, reply);
        let first = rig.get(path);
        assert_eq!(
            (first.verdict(), first.detail().as_str(), first.text().as_str()),
            ("miss", reason, "x"),
            "{path}"
        );
        let second = rig.get(path);
        assert_eq!((second.verdict(), second.detail().as_str()), ("pass", "uncacheable"), "{path}");
        assert_eq!(rig.origin.count(path), 2, "{path}");
    }
}

#[test]
fn requests_that_name_a_person_pass() {
    let rig = Rig::new(
        "routes:\n  - {name: me, match: {path: /me}, cache: {ttl: 1m, bypass: {headers: [X-Tenant]}}}\n  - {name: all, cache: {ttl: 1m}}",
    );
    rig.origin.on("/me", Reply::ok("for everyone"));
    assert_eq!(rig.get("/me").verdict(), "miss");
    for (name, value, reason) in [
        ("Cookie", "sessionid=1", "cookie"),
        ("Cookie", "_ga=1; theme=dark", "cookie"),
        ("Authorization", "Token x", "authorization"),
        ("X-API-Key", "x", "authorization"),
        ("x-tenant", "x", "authorization"),
        ("Upgrade", "h2c", "upgrade"),
    ] {
        let response = rig.get_with("/me", &[(name, value)]);
        assert_eq!((response.verdict(), response.detail().as_str()), ("pass", reason), "{name}: {value}");
    }
    assert_eq!(rig.get_with("/me", &[("Cookie", "_ga=GA1.2; _fbp=fb.1")]).verdict(), "hit");
    let tricky = rig.get("/static/../me");
    assert_eq!((tricky.verdict(), tricky.detail().as_str()), ("pass", "path"));
    let with_body = rig.parvis.client().send("GET", "/me", &[("Content-Length", "1")], b"x");
    assert_eq!((with_body.verdict(), with_body.detail().as_str()), ("pass", "body"));
}

#[test]
fn ttl_depends_on_route_and_status() {
    let rig = Rig::new(
        "routes:\n  - {name: off, match: {path: /off/*}, cache: {mode: off, ttl: 1m}}\n  - {name: errors, cache: {ttl: 1m, status_ttl: {404: 30s}}}",
    );
    rig.origin.on("/off/a", Reply::ok("x"));
    rig.origin.on("/gone", Reply::status(404, "gone"));
    rig.origin.on("/broken", Reply::status(500, "broken"));
    assert_eq!((rig.get("/off/a").verdict(), rig.get("/off/a").detail().as_str()), ("pass", "off"));
    rig.get("/gone");
    let gone = rig.get("/gone");
    assert_eq!(
        (gone.status, gone.verdict(), gone.cache_status().as_str()),
        (404, "hit", "parvis; hit; ttl=30")
    );
    rig.get("/broken");
    assert_eq!((rig.get("/broken").status, rig.origin.count("/broken")), (500, 2));
}

#[test]
fn routes_are_taken_by_host_path_method_and_header() {
    let rig = Rig::new(
        "routes:
  - {name: api, match: {host: api.test, path_regex: '^/v[0-9]+/'}, cache: {ttl: 1m}}
  - {name: mobile, match: {headers: {X-Device: 'mobile*'}}, cache: {ttl: 1m}}
  - {name: reads, match: {methods: [GET]}, cache: {ttl: 1m}}",
    );
    rig.origin.on("/v1/x", Reply::ok("x"));
    let route = |fields: &[(&str, &str)], method: &str| {
        let response = rig.parvis.client().send(method, "/v1/x", fields, b"");
        let log = || rig.parvis.access_log().last().cloned();
        let id = response.field("x-request-id").expect("an id");
        crate::support::eventually("the line of the request", || {
            log().is_some_and(|line| line["request_id"] == id.as_str())
        });
        (response.status, log().expect("a line")["route"].clone())
    };
    assert_eq!(route(&[("Host", "api.test")], "GET"), (200, "api".into()));
    assert_eq!(route(&[("X-Device", "mobile-7")], "GET"), (200, "mobile".into()));
    assert_eq!(route(&[], "GET"), (200, "reads".into()));
    assert_eq!(route(&[], "POST"), (404, serde_json::Value::Null));
}

#[test]
fn variants_are_told_apart_by_what_the_origin_varies_on() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/", |request| {
        let kind = request.field("accept").unwrap_or_default();
        Reply::ok(kind).field("Vary", "Accept, Cookie")
    });
    let get = |accept: &str| {
        let response = rig.get_with("/", &[("Accept", accept)]);
        (response.verdict(), response.text())
    };
    assert_eq!(get("text/html"), ("miss", "text/html".into()));
    assert_eq!(get("application/json"), ("miss", "application/json".into()));
    assert_eq!(get("text/html"), ("hit", "text/html".into()));
    assert_eq!(get("application/json"), ("hit", "application/json".into()));
    let nominated = rig.get_with("/", &[("Accept", "text/html"), ("Connection", "close, Accept")]);
    assert_eq!((nominated.verdict(), nominated.text().as_str()), ("miss", ""), "the origin never saw Accept");
}

#[test]
fn head_is_answered_from_a_stored_get_and_never_has_a_body() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("hello"));
    let mut connection = rig.parvis.client().connect();
    for verdict in ["miss", "hit"] {
        connection.write_request("HEAD", "/", &[], b"");
        let head = connection.read_response("HEAD");
        assert_eq!((head.verdict(), head.field("content-length").as_deref()), (verdict, Some("5")));
        crate::support::eventually("the fetch is stored", || {
            rig.parvis.metric("parvis_store_entries", "") > 0.0
        });
    }
    connection.write_request("GET", "/", &[], b"");
    let get = connection.read_response("GET");
    assert_eq!((get.verdict(), get.text().as_str()), ("hit", "hello"));
    assert_eq!(rig.origin.received("/")[0].method, "GET");
}

#[test]
fn a_client_that_has_the_page_is_told_so() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("hello").field("ETag", "\"v1\"").field("Content-Language", "en"));
    let fresh = rig.get_with("/", &[("If-None-Match", "\"v1\"")]);
    assert_eq!((fresh.status, fresh.verdict(), fresh.body.len()), (304, "miss", 0));
    let stored = rig.get_with("/", &[("If-None-Match", "W/\"v1\", \"v0\"")]);
    assert_eq!((stored.status, stored.verdict()), (304, "hit"));
    assert_eq!(stored.field("etag").as_deref(), Some("\"v1\""));
    assert_eq!((stored.field("content-language"), stored.field("content-length")), (None, None));
    assert_eq!(rig.get_with("/", &[("If-None-Match", "\"v2\"")]).text(), "hello");
    assert_eq!(rig.origin.received("/")[0].field("if-none-match"), None, "the whole page is fetched");
}

#[test]
fn spellings_of_one_page_are_one_entry_and_different_pages_are_not() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/a", |request| Reply::ok(request.target.clone()));
    assert_eq!(rig.get("/a?b=2&a=1").text(), "/a?b=2&a=1");
    for same in ["/a?a=1&b=2", "/%61?b=2&a=1", "/a?b=2&a=1&utm_source=mail&gclid=7"] {
        assert_eq!((rig.get(same).verdict(), rig.get(same).text().as_str()), ("hit", "/a?b=2&a=1"), "{same}");
    }
    for other in ["/a", "/a?a=1", "/a?a=1&b=3"] {
        assert_eq!(rig.get(other).verdict(), "miss", "{other}");
    }
    assert_eq!(rig.get_with("/a", &[("Host", "other.test")]).verdict(), "miss");
    assert_eq!(rig.get("/a?utm_campaign=x").text(), "/a", "campaign parameters do not reach a stored page");
}
