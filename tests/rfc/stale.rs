//! What happens when a stored response has expired.
//!
//! No test sleeps: an origin that sends `Age: 70` with `max-age=60` makes a response that expired ten seconds ago.

use std::time::Duration;

use crate::support::{Gate, Reply, Rig, eventually};

const ROUTES: &str = "routes: [{name: all}]";

/// A response that expired `past` seconds ago.
fn expired(body: &str, past: u32, more: &str) -> Reply {
    Reply::ok(body)
        .field("Cache-Control", &format!("max-age=60{more}"))
        .field("Age", &(60 + past).to_string())
        .field("ETag", "\"1\"")
}

fn fresh(body: &str) -> Reply {
    Reply::ok(body).field("Cache-Control", "max-age=60")
}

#[test]
fn an_expired_response_that_still_holds_is_refreshed_by_a_304() {
    let rig = Rig::new(ROUTES);
    let not_modified = Reply::status(304, "").field("Cache-Control", "max-age=90").field("X-New", "1");
    rig.origin.on_sequence("/", vec![expired("body", 0, ""), not_modified]);
    rig.get("/");
    let validated = rig.get("/");
    assert_eq!((validated.status, validated.text().as_str()), (200, "body"));
    assert_eq!(validated.cache_status(), "parvis; fwd=stale; fwd-status=304; stored; ttl=90");
    assert_eq!(rig.origin.received("/")[1].field("if-none-match").as_deref(), Some("\"1\""));
    let hit = rig.get("/");
    assert_eq!(
        (hit.verdict(), hit.text().as_str(), hit.field("x-new").as_deref()),
        ("hit", "body", Some("1"))
    );
}

#[test]
fn a_304_that_forbids_storing_ends_the_entry() {
    let rig = Rig::new(ROUTES);
    let private = Reply::status(304, "").field("Cache-Control", "private");
    rig.origin.on_sequence("/", vec![expired("old", 0, ""), private, fresh("new")]);
    rig.get("/");
    assert_eq!(rig.get("/").text(), "new", "asked for without conditions");
    assert_eq!(rig.origin.received("/")[2].field("if-none-match"), None);
}

#[test]
fn a_stale_page_is_served_while_one_refresh_is_under_way() {
    let rig = Rig::new(ROUTES);
    let gate = Gate::new();
    let old = expired("old", 10, ", stale-while-revalidate=600");
    rig.origin.on_sequence("/", vec![old, fresh("new").behind(&gate)]);
    rig.get("/");
    for _ in 0..5 {
        let stale = rig.get("/");
        assert_eq!((stale.verdict(), stale.text().as_str()), ("stale", "old"));
        assert!(stale.cache_status().contains("ttl=-1"), "{}", stale.cache_status());
    }
    eventually("the refresh has begun", || rig.origin.count("/") == 2);
    gate.open();
    eventually("the new page is served", || rig.get("/").verdict() == "hit");
    assert_eq!((rig.get("/").text().as_str(), rig.origin.count("/")), ("new", 2));
}

#[test]
fn a_refresh_that_may_not_be_stored_ends_the_stale_page() {
    let rig = Rig::new(ROUTES);
    let old = expired("old", 10, ", stale-while-revalidate=600");
    rig.origin.on_sequence("/", vec![old, Reply::ok("personal").field("Set-Cookie", "a=b")]);
    rig.get("/");
    assert_eq!(rig.get("/").verdict(), "stale");
    eventually("nothing stale is left", || rig.get("/").verdict() == "pass");
}

#[test]
fn a_page_past_its_window_is_not_served_stale() {
    let rig = Rig::new(ROUTES);
    rig.origin.on_sequence("/", vec![expired("old", 10, ", stale-while-revalidate=5"), fresh("new")]);
    rig.get("/");
    assert_eq!(rig.get("/").text(), "new");
}

#[test]
fn a_stale_page_stands_in_for_a_failing_origin_within_its_window() {
    let rig = Rig::with_timeouts("{connect: 1s, read: 300ms, idle: 1s}", ROUTES);
    let late = Reply::ok("late").delayed(Duration::from_secs(2));
    for (path, failure) in [
        ("/503", Reply::status(503, "down")),
        ("/close", Reply::script().then_close()),
        ("/reset", Reply::script().then("HTTP/1.1 2").then_reset()),
        ("/late", late),
    ] {
        rig.origin.on_sequence(path, vec![expired("old", 10, ", stale-if-error=600"), failure]);
        rig.get(path);
        let stale = rig.get(path);
        assert_eq!((stale.status, stale.text().as_str()), (200, "old"), "{path}");
        assert_eq!((stale.verdict(), stale.detail().as_str()), ("revalidate", "stale-if-error"), "{path}");
        assert!(stale.field("age").is_some_and(|age| age.parse::<u32>().is_ok_and(|age| age >= 70)));
    }
}

#[test]
fn a_stale_page_stands_in_for_an_origin_that_does_not_answer_where_the_route_says_so() {
    let rig = Rig::with_timeouts(
        "{connect: 1s, read: 300ms, idle: 1s}",
        "routes: [{name: all, cache: {stale_on_disconnect: 1h}}]",
    );
    let gate = Gate::new();
    let old = |more: &str| expired("old", 40, more);
    for (path, failure) in [
        ("/close", Reply::script().then_close()),
        ("/half", Reply::script().then("HTTP/1.1 2").then_reset()),
        ("/silent", Reply::script().then_wait(&gate)),
    ] {
        rig.origin.on_sequence(path, vec![old(""), failure]);
        rig.get(path);
        let stale = rig.get(path);
        assert_eq!((stale.status, stale.detail().as_str()), (200, "stale-on-disconnect"), "{path}");
    }
    rig.origin.on_sequence("/503", vec![old(""), Reply::status(503, "down")]);
    rig.get("/503");
    assert_eq!(rig.get("/503").status, 503, "an answer is an answer");
    for forbidding in [", must-revalidate", ", proxy-revalidate", ", s-maxage=1", ", no-cache"] {
        let path = format!("/{}", forbidding.trim_start_matches(", "));
        rig.origin.on_sequence(&path, vec![old(forbidding), Reply::script().then_close()]);
        rig.get(&path);
        let failed = rig.get(&path);
        assert_eq!((failed.status, failed.detail().as_str()), (504, "validation-failed"), "{forbidding}");
    }
    gate.open();
}

#[test]
fn what_must_be_revalidated_is_never_served_stale() {
    let rig = Rig::new("routes: [{name: all, cache: {stale_if_error: 1h, stale_while_revalidate: 1h}}]");
    for more in [", must-revalidate", ", proxy-revalidate", ", no-cache", ", s-maxage=1"] {
        let path = format!("/{}", more.trim_start_matches(", "));
        rig.origin.on_sequence(&path, vec![expired("old", 10, more), Reply::status(503, "down")]);
        rig.get(&path);
        let failed = rig.get(&path);
        assert_eq!((failed.status, failed.text().as_str()), (503, "down"), "{more}");
    }
}

#[test]
fn a_purge_reaches_a_refresh_under_way() {
    let rig = Rig::new(ROUTES);
    let gate = Gate::new();
    let old = expired("old", 10, ", stale-while-revalidate=600");
    rig.origin.on_sequence("/", vec![old, fresh("purged").behind(&gate), fresh("new")]);
    rig.get("/");
    assert_eq!(rig.get("/").verdict(), "stale");
    eventually("the refresh has begun", || rig.origin.count("/") == 2);
    rig.purge(r#"{"urls": ["/"]}"#);
    let after = rig.get("/");
    assert_eq!((after.verdict(), after.text().as_str()), ("miss", "new"));
    gate.open();
    eventually("the refresh was refused", || {
        rig.parvis.metric("parvis_fetches_total", "result=\"purged\"") == 1.0
    });
    assert_eq!((rig.get("/").verdict(), rig.get("/").text().as_str()), ("hit", "new"));
}
