//! How a rule is proven on live traffic: shadow mode before it serves, audits while it does.

use crate::support::origin::Received;
use crate::support::{Reply, Rig, eventually};

fn seen(request: &Received, name: &str) -> String {
    request.field(name).unwrap_or_else(|| "nothing".to_owned())
}

/// These counts are reached; a request is counted when its response has been sent.
#[track_caller]
fn expect_shadowed(rig: &Rig, counts: &[(&str, f64)]) {
    let reached = |(result, count): &(&str, f64)| {
        rig.parvis.metric("parvis_shadow_total", &format!("result=\"{result}\"")) == *count
    };
    eventually(&format!("{counts:?}"), || counts.iter().all(reached));
}

#[test]
fn a_shadow_serves_nothing_and_tells_what_it_would_have_done() {
    let rig = Rig::new("routes: [{name: all, cache: {mode: shadow, ttl: 1m}}]");
    rig.origin.on("/page", Reply::ok("").chunked(&["the same", " for all"]).field("Vary", "Accept"));
    rig.origin.on_each("/by-cookie", |request| Reply::ok(seen(request, "cookie")));
    rig.origin.on("/form", Reply::ok("x").field("Set-Cookie", "a=b"));
    for n in 0..3 {
        let cookie = format!("_ga=GA1.{n}");
        for path in ["/page", "/by-cookie", "/form"] {
            let response = rig.get_with(path, &[("Cookie", &cookie), ("Accept-Encoding", "gzip")]);
            assert_eq!((response.verdict(), response.detail().as_str()), ("pass", "shadow"), "{path}");
        }
        let received = rig.origin.received("/by-cookie").remove(n);
        assert_eq!(received.field("cookie").as_deref(), Some(&*cookie), "as if there were no cache");
        assert_eq!(received.field("accept-encoding").as_deref(), Some("identity"));
    }
    rig.get_with("/page", &[("Cookie", "sessionid=1")]);
    assert_eq!(rig.origin.count("/page"), 4);
    expect_shadowed(&rig, &[("same", 2.0), ("different", 2.0), ("miss", 2.0), ("not-stored", 3.0)]);
    eventually("all is logged", || rig.parvis.access_log().len() == 10);
    let of_log: Vec<_> = rig.parvis.access_log().iter().map(|line| line["shadow"].clone()).collect();
    assert_eq!(of_log.iter().filter(|shadow| *shadow == "different").count(), 2, "{of_log:?}");
    assert!(of_log.contains(&serde_json::Value::Null), "who passes anyway has no shadow");
    let log = rig.parvis.errors();
    assert!(log.contains("the store would have served another body"), "{log}");
}

#[test]
fn what_a_shadow_cannot_compare_is_said_to_be_unseen() {
    let rig = Rig::new("routes: [{name: all, cache: {mode: shadow, ttl: 1m}}]");
    rig.origin.on_each("/", |request| match request.field("if-none-match") {
        Some(_) => Reply::status(304, "").field("ETag", "\"1\""),
        None => Reply::ok("x").field("ETag", "\"1\""),
    });
    rig.get("/");
    rig.origin.on("/empty", Reply::ok(""));
    assert_eq!((rig.get("/empty").status, rig.get("/empty").status), (200, 200));
    assert_eq!(rig.get_with("/", &[("If-None-Match", "\"1\"")]).status, 304);
    assert_eq!(rig.parvis.client().send("HEAD", "/", &[], b"").status, 200);
    expect_shadowed(&rig, &[("miss", 2.0), ("same", 1.0), ("unseen", 2.0)]);
}

#[test]
fn a_shadow_forgets_what_a_purge_removes_and_is_never_served_after_a_reload() {
    let config = "routes: [{name: all, cache: {mode: shadow, ttl: 1m}}]";
    let rig = Rig::new(config);
    rig.origin.on("/", Reply::ok("old"));
    rig.get("/");
    rig.purge(r#"{"urls": ["/"]}"#);
    rig.get("/");
    expect_shadowed(&rig, &[("miss", 2.0), ("same", 0.0)]);
    rig.reload("mode: shadow", "mode: enforce");
    rig.origin.on("/", Reply::ok("new"));
    let response = rig.get("/");
    assert_eq!((response.verdict(), response.text().as_str()), ("miss", "new"));
}

#[test]
fn a_shadow_tells_of_pages_that_the_guard_would_mark() {
    let rig = Rig::new("routes: [{name: all, cache: {mode: shadow, ttl: 1m, forward_cookies: [theme]}}]");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "cookie")));
    rig.origin.on("/same", Reply::ok("x"));
    for cookie in ["theme=a", "theme=b", ""] {
        rig.get_with("/same", &[("Cookie", cookie)]);
    }
    for cookie in ["theme=a", "theme=b"] {
        rig.get_with("/", &[("Cookie", cookie)]);
    }
    rig.get_with("/same", &[("Cookie", "theme=c")]);
    expect_shadowed(&rig, &[("miss", 4.0), ("personalised", 1.0), ("same", 1.0)]);
}

fn audited(rig: &Rig, result: &str) -> f64 {
    rig.parvis.metric("parvis_audits_total", &format!("result=\"{result}\""))
}

#[test]
fn an_audit_trips_a_route_whose_pages_differ_by_visitor() {
    let config = "routes: [{name: all, cache: {ttl: 1m, audit: 100%}}]";
    let rig = Rig::new(config);
    // It reads a cookie that the route ignores.
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "cookie")));
    rig.get_with("/", &[("Cookie", "_ga=1")]);
    let hit = rig.get_with("/", &[("Cookie", "_ga=2")]);
    assert_eq!((hit.verdict(), hit.text().as_str()), ("hit", "nothing"));
    eventually("the audit is done", || audited(&rig, "different") == 1.0);
    eventually("the route has tripped", || rig.get_with("/", &[("Cookie", "_ga=3")]).detail() == "tripped");
    assert_eq!(rig.get_with("/", &[("Cookie", "_ga=4")]).text(), "_ga=4");
    let log = rig.parvis.errors();
    assert!(log.contains("audit: a visitor would have got another body"), "{log}");
    rig.reload("1m", "2m");
    // A reload gives it another chance, but what was stored is gone.
    assert_eq!([rig.get("/").verdict(), rig.get("/").verdict()], ["miss", "hit"]);
}

#[test]
fn an_audit_knows_a_changed_page_from_a_personal_one() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, audit: 100%}}]");
    rig.origin.on("/", Reply::ok("old"));
    rig.get("/");
    rig.get("/");
    eventually("the page was the same", || audited(&rig, "same") == 1.0);
    rig.origin.on("/", Reply::ok("new"));
    assert_eq!(rig.get("/").text(), "old");
    eventually("the change is seen", || audited(&rig, "changed") == 1.0);
    rig.origin.on("/", Reply::status(503, "down"));
    rig.get("/");
    eventually("the failure is seen", || audited(&rig, "failed") == 1.0);
    assert_eq!(rig.get("/").verdict(), "hit", "the route is not tripped");
}

#[test]
fn an_audit_knows_a_page_that_is_never_twice_the_same() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, audit: 100%}}]");
    let count = std::sync::atomic::AtomicUsize::new(0);
    rig.origin.on_each("/", move |_| {
        Reply::ok(format!("rendered {}", count.fetch_add(1, std::sync::atomic::Ordering::SeqCst)))
    });
    rig.get("/");
    assert_eq!(rig.get_with("/", &[("Host", "SHOP.test:80"), ("Cookie", "_ga=1")]).verdict(), "hit");
    eventually("it is seen", || audited(&rig, "volatile") == 1.0);
    assert_eq!(rig.get("/").verdict(), "hit");
}

#[test]
fn an_audit_sees_through_what_a_route_forwards() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, forward_cookies: [sessionid], audit: 100%}}]");
    // The same for strangers and two sessions, and then one logs in.
    rig.origin.on("/", Reply::ok("log in"));
    for cookie in ["sessionid=1", "", "sessionid=2"] {
        rig.get_with("/", &[("Cookie", cookie)]);
    }
    rig.origin.on_each("/", |request| {
        Reply::ok(if seen(request, "cookie").contains("ada") { "hello ada" } else { "log in" })
    });
    assert_eq!(rig.get_with("/", &[("Cookie", "sessionid=ada")]).verdict(), "hit");
    eventually("it is seen", || audited(&rig, "different") == 1.0);
    eventually("the route has tripped", || rig.get("/").detail() == "tripped");
}

#[test]
fn one_client_that_the_origin_refuses_trips_no_route() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, audit: 100%}}]");
    rig.origin.on_each("/", |request| match request.field("cookie") {
        Some(cookie) if cookie.len() > 8000 => Reply::status(400, "too large"),
        _ => Reply::ok("x"),
    });
    rig.get("/");
    assert_eq!(rig.get_with("/", &[("Cookie", &format!("_ga={}", "x".repeat(9000)))]).verdict(), "hit");
    eventually("the refusal is seen", || audited(&rig, "failed") == 1.0);
    assert_eq!(rig.get("/").verdict(), "hit");
}

#[test]
fn an_audit_of_a_keyed_page_knows_its_visitor() {
    let rig = Rig::new(
        "routes: [{name: all, cache: {ttl: 1m, audit: 100%, key: {cookies: [sessionid]}, ignore_vary: [Cookie]}}]",
    );
    rig.origin.on_each("/", |request| Reply::ok(format!("old {}", seen(request, "cookie"))));
    let ada = [("Cookie", "sessionid=ada; _ga=1")];
    assert_eq!(rig.get_with("/", &ada).text(), "old sessionid=ada");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "cookie").replace("; _ga=1", "")));
    assert_eq!(rig.get_with("/", &ada).verdict(), "hit");
    eventually("the change is seen", || audited(&rig, "changed") == 1.0);
}
