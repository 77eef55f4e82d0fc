//! Fields that are added, replaced and removed: on pages from the store, on others, and on answers of parvis' own.

use crate::support::{Reply, Response, Rig};

/// The page from the application, from the store, from there by the full way, passed, and an answer of parvis' own.
fn all_ways(rig: &Rig, path: &str) -> Vec<Response> {
    let responses = vec![
        rig.get(path),
        rig.get(path),
        rig.get_with(path, &[("Range", "bytes=0-")]),
        rig.get_with(path, &[("Cookie", "sessionid=1")]),
        rig.parvis.client().send("TRACE", path, &[], b""),
    ];
    let verdicts: Vec<&str> = responses.iter().map(Response::verdict).collect();
    assert_eq!(verdicts[..4], ["miss", "hit", "hit", "pass"]);
    responses
}

fn page() -> Reply {
    Reply::ok("page")
        .field("ETag", "\"1\"")
        .field("Server", "gunicorn")
        .field("X-Powered-By", "Python")
        .field("X-Frame-Options", "SAMEORIGIN")
}

#[test]
fn browsers_are_protected_and_told_nothing_they_need_not_know() {
    let rig = Rig::new(
        "response_headers: {preset: strict, content_security_policy: \"default-src 'self'\", xss_protection: \"1; mode=block\", remove: [server, X-Powered-By]}\nroutes: [{name: all, cache: {ttl: 1m}}]",
    );
    rig.origin.on("/", page());
    for (way, response) in all_ways(&rig, "/").iter().enumerate() {
        let is = |name: &str, value: Option<&str>| {
            assert_eq!(response.field(name).as_deref(), value, "{way} {name}: {}", response.head);
        };
        is("x-content-type-options", Some("nosniff"));
        is("referrer-policy", Some("strict-origin-when-cross-origin"));
        is("content-security-policy", Some("default-src 'self'"));
        is("x-xss-protection", Some("1; mode=block"));
        assert!(response.field("permissions-policy").unwrap().contains("camera=()"));
        // The application's own counts; and nothing is promised over plain HTTP.
        is("x-frame-options", Some(if way == 4 { "DENY" } else { "SAMEORIGIN" }));
        is("strict-transport-security", None);
        is("server", None);
        is("x-powered-by", None);
    }
    let unchanged = rig.get_with("/", &[("If-None-Match", "\"1\"")]);
    assert_eq!((unchanged.status, unchanged.field("x-content-type-options")), (304, None));
}

#[test]
fn over_tls_browsers_are_to_come_back_by_tls() {
    let config = "trusted_proxies: [127.0.0.0/8]\nresponse_headers: {preset: strict, hsts: {max_age: 730d, preload: true}}\nroutes: [{name: all, cache: {ttl: 1m}}]";
    let rig = Rig::new(config);
    rig.origin.on("/", page());
    for verdict in ["miss", "hit"] {
        let response = rig.get_with("/", &[("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https")]);
        let hsts = response.field("strict-transport-security");
        assert_eq!(
            (response.verdict(), hsts.as_deref()),
            (verdict, Some("max-age=63072000; includeSubDomains; preload"))
        );
    }
    assert_eq!(rig.get("/").field("strict-transport-security"), None);
}

#[test]
fn what_is_to_override_replaces_what_the_application_set() {
    let rig =
        Rig::new("response_headers: {override: [X-Frame-Options]}\nroutes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on("/", page());
    for response in all_ways(&rig, "/") {
        assert_eq!(response.field("x-frame-options").as_deref(), Some("DENY"), "{}", response.head);
    }
    let rig =
        Rig::new("response_headers: {remove: [X-Frame-Options]}\nroutes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on("/", page());
    for response in all_ways(&rig, "/") {
        assert_eq!(response.field("x-frame-options").as_deref(), Some("DENY"), "{}", response.head);
    }
    let rig = Rig::new("response_headers: {preset: off}\nroutes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on("/", page());
    for response in all_ways(&rig, "/") {
        assert_eq!(response.field("x-content-type-options"), None);
    }
}

#[test]
fn a_route_adds_replaces_and_removes_on_both_sides() {
    let rig = Rig::new(
        "routes:
  - name: all
    cache: {ttl: 1m}
    request_headers: {set: {Host: app.internal, X-Stage: live}, add: {X-Seen: parvis}, remove: [X-Debug]}
    response_headers: {set: {Server: shop}, add: {Link: \"</a.css>; rel=preload\"}, remove: [X-Frame-Options]}",
    );
    rig.origin.on_each("/", |request| {
        let seen = ["host", "x-stage", "x-seen", "x-debug", "x-forwarded-host"]
            .map(|name| request.field(name).unwrap_or_default());
        page().field("Link", "</b.css>; rel=preload").with_body(&seen.join("|"))
    });
    for (way, response) in all_ways(&rig, "/").iter().enumerate() {
        if way == 4 {
            continue;
        }
        assert_eq!(response.text(), "app.internal|live|parvis||shop.test", "{way}");
        assert_eq!(response.field("server").as_deref(), Some("shop"), "{way}");
        assert_eq!(
            response.field("link").as_deref(),
            Some("</b.css>; rel=preload, </a.css>; rel=preload"),
            "{way}"
        );
        assert_eq!(response.field("x-frame-options"), None, "{way}");
    }
    let debugging = rig.get_with("/", &[("Cookie", "sessionid=1"), ("X-Debug", "1"), ("X-Stage", "test")]);
    assert_eq!(debugging.text(), "app.internal|live|parvis||shop.test");
}
