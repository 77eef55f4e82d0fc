//! When a stored response is reused (RFC 9111 sections 4 and 5.2.1), and when the client already has it (4.3.2).

use super::{ROUTES, again_with, new_path, page, with};
use crate::support::{Gate, Reply, Rig, eventually};

const FRESH: (&str, &str) = ("Cache-Control", "max-age=3600");

/// What a second request with this `Cache-Control` gets.
fn asked(rig: &Rig, stored: &[(&str, &str)], cache_control: &str) -> (&'static str, u16) {
    let second = again_with(rig, page(stored), &[], &[("Cache-Control", cache_control)]);
    (second.verdict(), second.status)
}

#[test]
fn a_client_may_ask_for_fresher_than_what_is_stored() {
    let rig = Rig::new(ROUTES);
    let stored = [FRESH, ("Age", "100")];
    for (value, verdict) in [
        ("no-cache", "reload"),
        ("max-age=0", "reload"),
        ("max-age=99", "reload"),
        ("max-age=1000", "hit"),
        ("min-fresh=3550", "reload"),
        ("min-fresh=1000", "hit"),
        ("foo, No-Cache", "reload"),
        ("foo", "hit"),
        ("max-age=x", "hit"),
    ] {
        assert_eq!(asked(&rig, &stored, value), (verdict, 200), "{value}");
    }
    let pragma = |fields| again_with(&rig, page(&stored), &[], fields).verdict();
    assert_eq!(pragma(&[("Pragma", "no-cache")]), "reload");
    assert_eq!(pragma(&[("Pragma", "no-cache"), ("Cache-Control", "foo")]), "hit");
    assert_eq!(pragma(&[("Pragma", "foo")]), "hit");
}

#[test]
fn a_client_that_asks_for_fresher_gets_a_validated_page_and_so_does_who_comes_next() {
    let rig = Rig::new(ROUTES);
    let path = new_path();
    let first = page(&[FRESH, ("ETag", "\"1\""), ("Age", "100")]);
    rig.origin.on_sequence(&path, vec![first, with(Reply::status(304, ""), &[("ETag", "\"1\"")])]);
    rig.get(&path);
    let reloaded = rig.get_with(&path, &[("Cache-Control", "no-cache")]);
    assert_eq!((reloaded.status, reloaded.text().as_str()), (200, "page"));
    assert_eq!(reloaded.cache_status(), "parvis; fwd=request; fwd-status=304; stored; ttl=3600");
    let received = rig.origin.received(&path);
    assert_eq!(received[1].field("if-none-match").as_deref(), Some("\"1\""));
    assert_eq!((rig.get(&path).verdict(), rig.get(&path).field("age").as_deref()), ("hit", Some("0")));
}

#[test]
fn a_client_may_take_what_has_expired_unless_the_origin_forbids_it() {
    let rig = Rig::new(ROUTES);
    let expired = |more: &'static str| [("Cache-Control", more), ("Age", "100")];
    for (stored, value, verdict) in [
        ("max-age=60", "max-stale", "stale"),
        ("max-age=60", "max-stale=1000", "stale"),
        ("max-age=60", "max-stale=10", "miss"),
        ("max-age=60, must-revalidate", "max-stale", "miss"),
        ("max-age=60, proxy-revalidate", "max-stale", "miss"),
        ("s-maxage=60", "max-stale", "miss"),
        ("max-age=60, no-cache", "max-stale", "miss"),
    ] {
        // Without a validator it is kept for its stale window, or not at all.
        let (got, _) = asked(&rig, &[expired(stored)[0], ("Age", "100"), ("ETag", "\"a\"")], value);
        let expected = if verdict == "miss" { "revalidate" } else { verdict };
        assert_eq!(got, expected, "{stored} | {value}");
    }
    let second = again_with(
        &rig,
        page(&[("Cache-Control", "max-age=60"), ("Age", "100"), ("ETag", "\"a\"")]),
        &[],
        &[("Cache-Control", "max-stale")],
    );
    assert_eq!((second.detail().as_str(), second.field("age").as_deref()), ("max-stale", Some("100")));
}

#[test]
fn only_if_cached_never_reaches_the_origin() {
    let rig = Rig::new(ROUTES);
    let only = [("Cache-Control", "only-if-cached")];
    let refused = rig.get_with("/", &only);
    assert_eq!((refused.status, refused.cache_status().as_str()), (504, "parvis; detail=only-if-cached"));
    assert_eq!(rig.origin.count("/"), 0);
    rig.origin.on("/", page(&[FRESH]));
    rig.get("/");
    assert_eq!(rig.get_with("/", &only).verdict(), "hit");
    assert_eq!(rig.get_with("/", &[("Cache-Control", "only-if-cached, no-cache")]).status, 504);
    let personal = [("Cache-Control", "only-if-cached"), ("Cookie", "a=b")];
    assert_eq!(rig.get_with("/", &personal).status, 504, "nor does what would pass");
    assert_eq!(rig.origin.count("/"), 1);
}

#[test]
fn nothing_of_a_no_store_request_is_stored_and_what_is_stored_may_serve_it() {
    let rig = Rig::new(ROUTES);
    let no_store = [("Cache-Control", "no-store")];
    rig.origin.on("/", page(&[FRESH]));
    let first = rig.get_with("/", &no_store);
    assert_eq!((first.verdict(), first.detail().as_str()), ("pass", "client-no-store"));
    assert_eq!(rig.get("/").verdict(), "miss");
    assert_eq!(rig.get_with("/", &no_store).verdict(), "hit");
}

#[test]
fn a_fresh_page_stands_in_when_its_reload_fails() {
    let rig = Rig::new(ROUTES);
    rig.origin.on_sequence("/", vec![page(&[FRESH]), Reply::status(503, "down")]);
    rig.get("/");
    let reloaded = rig.get_with("/", &[("Cache-Control", "no-cache")]);
    assert_eq!((reloaded.status, reloaded.detail().as_str()), (200, "origin-failed"));
}

#[test]
fn a_route_may_ignore_what_clients_ask_of_the_cache() {
    let rig = Rig::new("routes: [{name: all, cache: {client_cache_control: ignore}}]");
    for value in ["no-cache", "no-store", "max-age=0", "only-if-cached", "min-fresh=99999"] {
        assert_eq!(asked(&rig, &[FRESH], value), ("hit", 200), "{value}");
    }
    rig.origin.on("/", page(&[FRESH]));
    assert_eq!(rig.get_with("/", &[("Cache-Control", "no-store")]).verdict(), "miss");
}

#[test]
fn many_who_reload_at_once_cost_the_origin_one_validation_at_a_time() {
    let rig = Rig::new(ROUTES);
    let stored = page(&[FRESH, ("ETag", "\"1\"")]);
    let gate = Gate::new();
    rig.origin.on_sequence("/", vec![stored, Reply::status(304, "").behind(&gate)]);
    rig.get("/");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(rig.get_with("/", &[("Cache-Control", "no-cache")]).text(), "page"));
        }
        eventually("all have come", || rig.parvis.metric("parvis_connections_total", "") >= 21.0);
        gate.open();
    });
    // Those who come when the first validation has just ended begin a second.
    assert!(rig.origin.count("/") <= 3, "{}", rig.origin.count("/"));
}

#[test]
fn conditions_that_a_cache_can_check_are_answered_from_the_store() {
    let rig = Rig::new(ROUTES);
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    let stored = [FRESH, ("ETag", "\"a,b\""), ("Last-Modified", modified)];
    for (name, value, status) in [
        ("If-None-Match", "\"a,b\"", 304),
        ("If-None-Match", "W/\"a,b\"", 304),
        ("If-None-Match", "\"x\", \"a,b\"", 304),
        ("If-None-Match", "\"a,b\", \"x\"", 304),
        ("If-None-Match", "\"x\", \"a,b\", \"y\"", 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", "\"x\"", 200),
        ("If-None-Match", "\"a\"", 200),
        ("If-Modified-Since", modified, 304),
        ("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT", 304),
        ("If-Modified-Since", "Sun Nov  6 08:49:37 1994", 304),
        ("If-Modified-Since", "Mon, 07 Nov 1994 08:49:37 GMT", 304),
        ("If-Modified-Since", "Sat, 05 Nov 1994 08:49:37 GMT", 200),
        ("If-Modified-Since", "yesterday", 200),
    ] {
        let second = again_with(&rig, page(&stored), &[], &[(name, value)]);
        assert_eq!((second.verdict(), second.status), ("hit", status), "{name}: {value}");
        if status == 304 {
            assert_eq!(second.field("etag").as_deref(), Some("\"a,b\""));
            assert_eq!((second.field("content-length"), second.text().as_str()), (None, ""));
        }
    }
    let both = [("If-None-Match", "\"x\""), ("If-Modified-Since", modified)];
    assert_eq!(again_with(&rig, page(&stored), &[], &both).status, 200, "If-None-Match wins");
    let weak = [FRESH, ("ETag", "W/\"a\"")];
    assert_eq!(again_with(&rig, page(&weak), &[], &[("If-None-Match", "\"a\"")]).status, 304);
    let dated = [FRESH, ("Date", &*super::date(-60))];
    let since_now = [("If-Modified-Since", &*super::date(0))];
    assert_eq!(again_with(&rig, page(&dated), &[], &since_now).status, 304, "no Last-Modified: its Date");
}

#[test]
fn conditions_that_only_the_origin_can_check_go_there() {
    let rig = Rig::new(ROUTES);
    for (name, value) in [("If-Match", "\"a\""), ("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")] {
        let path = new_path();
        rig.origin.on_each(&path, move |request| match request.field(name) {
            Some(_) => Reply::status(412, "changed"),
            None => page(&[FRESH, ("ETag", "\"b\"")]),
        });
        rig.get(&path);
        let conditional = rig.get_with(&path, &[(name, value)]);
        assert_eq!((conditional.status, conditional.detail().as_str()), (412, "precondition"), "{name}");
        assert_eq!(rig.get(&path).verdict(), "hit", "and the page stays");
    }
}

#[test]
fn a_post_is_never_answered_from_the_store() {
    let rig = Rig::new(ROUTES);
    rig.origin.on("/", page(&[FRESH, ("Content-Location", "/")]));
    for count in 1..=2 {
        assert_eq!((rig.send("POST", "/", "x").verdict(), rig.origin.count("/")), ("pass", count));
    }
    assert_eq!(rig.get("/").verdict(), "miss", "nor does it answer a GET");
}

#[test]
fn head_is_answered_from_a_stored_get_and_freshens_it() {
    let rig = Rig::new(ROUTES);
    let head = |path: &str| rig.parvis.client().send("HEAD", path, &[], b"");
    rig.origin.on("/", page(&[FRESH, ("ETag", "\"1\"")]));
    rig.get("/");
    let from_store = head("/");
    assert_eq!((from_store.verdict(), from_store.field("content-length").as_deref()), ("hit", Some("4")));
    let expired =
        || page(&[("Cache-Control", "max-age=60"), ("Age", "100"), ("ETag", "\"1\""), ("X-Old", "1")]);
    for (answer, text, verdict) in [
        (Reply::status(304, ""), "page", "hit"),
        (Reply::ok("page").field("ETag", "\"1\""), "page", "hit"),
        (Reply::ok("page").field("ETag", "\"2\""), "new", "miss"),
        (Reply::ok("other length").field("ETag", "\"1\""), "new", "miss"),
    ] {
        let path = new_path();
        let answer = with(answer, &[FRESH, ("X-New", "1")]);
        rig.origin.on_sequence(&path, vec![expired(), answer.clone(), page(&[FRESH]).with_body("new")]);
        rig.get(&path);
        let response = head(&path);
        assert_eq!((response.status, response.field("x-new").as_deref()), (200, Some("1")));
        assert_eq!(rig.origin.received(&path)[1].method, "HEAD");
        let after = rig.get(&path);
        assert_eq!((after.text().as_str(), after.verdict()), (text, verdict), "{answer:?}");
        assert_eq!(after.field("x-old").is_some(), verdict == "hit", "what a HEAD does not say stays");
    }
    let stale = new_path();
    let swr = [("Cache-Control", "max-age=60, stale-while-revalidate=600"), ("Age", "100")];
    rig.origin.on_sequence(&stale, vec![page(&swr), page(&[FRESH]).with_body("new")]);
    rig.get(&stale);
    assert_eq!(head(&stale).verdict(), "stale");
    eventually("the whole is refreshed", || rig.get(&stale).text() == "new");
    assert_eq!((rig.origin.count(&stale), rig.origin.received(&stale)[1].method.as_str()), (2, "GET"));
    let gone = new_path();
    rig.origin.on_sequence(&gone, vec![expired(), Reply::status(410, "gone")]);
    rig.get(&gone);
    assert_eq!(
        (head(&gone).status, rig.get(&gone).status),
        (410, 410),
        "a HEAD that tells of its end ends it"
    );
}
