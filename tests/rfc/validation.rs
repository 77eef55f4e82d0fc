//! Validation, and what a 304 updates (RFC 9111 sections 3.2 and 4.3).

use super::{ROUTES, new_path, with};
use crate::support::{Reply, Response, Rig};

fn expired(fields: &[(&str, &str)]) -> Reply {
    with(Reply::ok("page").field("Cache-Control", "max-age=60").field("Age", "100"), fields)
}

/// Stores an expired page, then validates it with a 304 with these fields; what a third request gets, and how often
/// the origin was asked.
fn validated(rig: &Rig, stored: &[(&str, &str)], update: &[(&str, &str)]) -> (Response, usize) {
    let path = new_path();
    let update = with(Reply::status(304, ""), update).field("Cache-Control", "max-age=3600");
    rig.origin.on_sequence(
        &path,
        vec![expired(stored), update, Reply::ok("new").field("Cache-Control", "max-age=60")],
    );
    rig.get(&path);
    rig.get(&path);
    (rig.get(&path), rig.origin.count(&path))
}

#[test]
fn both_validators_are_sent_as_stored() {
    let rig = Rig::new(ROUTES);
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    for fields in [
        &[("ETag", "\"abc\"")][..],
        &[("ETag", "W/\"abc\"")][..],
        &[("ETag", "abc")][..],
        &[("Last-Modified", modified)][..],
        &[("ETag", "\"abc\""), ("Last-Modified", modified)][..],
    ] {
        let path = new_path();
        rig.origin.on_sequence(&path, vec![expired(fields), Reply::status(304, "")]);
        rig.get(&path);
        let second = rig.get(&path);
        assert_eq!((second.status, second.text().as_str(), second.verdict()), (200, "page", "revalidate"));
        let request = &rig.origin.received(&path)[1];
        let sent = |name: &str| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        assert_eq!(request.field("if-none-match"), sent("ETag"), "{fields:?}");
        assert_eq!(request.field("if-modified-since"), sent("Last-Modified"), "{fields:?}");
    }
}

#[test]
fn a_304_updates_stored_fields_but_for_those_of_body_and_connection() {
    let rig = Rig::new("routes: [{name: all, cache: {set_cookie: store}}]");
    for (name, old, new) in [
        ("Test-Header", "1", "2"),
        ("X-Test-Header", "1", "2"),
        ("Content-Foo", "1", "2"),
        ("X-Content-Foo", "1", "2"),
        ("Content-Location", "/a", "/b"),
        ("Content-MD5", "a", "b"),
        ("Content-Security-Policy", "default-src 'self'", "default-src 'none'"),
        ("Content-Type", "text/plain", "text/plain;charset=utf-8"),
        ("Clear-Site-Data", "\"cache\"", "\"cookies\""),
        ("Public-Key-Pins", "a", "b"),
        ("Set-Cookie", "a=b", "a=c"),
        ("Expires", "Thu, 18 Aug 2050 02:01:18 GMT", "Fri, 19 Aug 2050 02:01:18 GMT"),
        ("X-Frame-Options", "DENY", "SAMEORIGIN"),
        ("X-XSS-Protection", "1", "1; mode=block"),
    ] {
        let (third, asked) = validated(&rig, &[("ETag", "\"1\""), (name, old)], &[(name, new)]);
        assert_eq!((third.field(name).as_deref(), asked), (Some(new), 2), "{name}");
        let (third, _) = validated(&rig, &[("ETag", "\"1\""), (name, old)], &[]);
        assert_eq!(third.field(name).as_deref(), Some(old), "{name} is kept where the 304 has none");
    }
    let (third, _) =
        validated(&rig, &[("ETag", "\"1\"")], &[("Content-Length", "99"), ("Content-Encoding", "gzip")]);
    assert_eq!(third.field("content-length").as_deref(), Some("4"));
    assert_eq!(third.field("content-encoding"), None);
    for name in ["Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "TE", "Upgrade", "X-Hop"] {
        let update = [("Connection", "X-Hop"), (name, "x")];
        let (third, _) = validated(&rig, &[("ETag", "\"1\"")], &update);
        assert_eq!(third.field(name), None, "{name}");
    }
}

#[test]
fn a_304_about_another_response_updates_nothing() {
    let rig = Rig::new(ROUTES);
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (stored, update, text) in [
        (("ETag", "\"1\""), ("ETag", "\"2\""), "new"),
        (("Last-Modified", modified), ("Last-Modified", "Mon, 07 Nov 1994 08:49:37 GMT"), "new"),
        (("Last-Modified", modified), ("ETag", "\"2\""), "new"),
        (("ETag", "W/\"1\""), ("ETag", "\"1\""), "new"),
        (("ETag", "\"1\""), ("ETag", "W/\"1\""), "page"),
        (("Last-Modified", modified), ("Last-Modified", "Sunday, 06-Nov-94 08:49:37 GMT"), "page"),
    ] {
        assert_eq!(validated(&rig, &[stored], &[update]).0.text(), text, "{stored:?} {update:?}");
    }
}

#[test]
fn the_age_of_a_304_counts() {
    let rig = Rig::new(ROUTES);
    let (third, _) = validated(&rig, &[("ETag", "\"1\"")], &[("Age", "1000")]);
    let age: u64 = third.field("age").unwrap().parse().unwrap();
    assert!((1000..1030).contains(&age), "{age}");
}

#[test]
fn a_304_that_sets_a_cookie_leads_to_the_page_with_its_cookie() {
    let rig = Rig::new(ROUTES);
    let with_cookie = Reply::status(304, "").field("Set-Cookie", "a=b");
    let page = Reply::ok("page").field("Set-Cookie", "a=b");
    rig.origin.on_sequence("/", vec![expired(&[("ETag", "\"1\"")]), with_cookie, page]);
    rig.get("/");
    let response = rig.get("/");
    assert_eq!((response.text().as_str(), response.field("set-cookie").as_deref()), ("page", Some("a=b")));
}

#[test]
fn a_full_response_replaces_and_an_error_leaves_what_is_stored() {
    let rig = Rig::new(ROUTES);
    let path = new_path();
    let full = with(Reply::ok("new"), &[("Cache-Control", "max-age=60"), ("X-New", "1")]);
    rig.origin.on_sequence(&path, vec![expired(&[("ETag", "\"1\""), ("X-Old", "1")]), full]);
    rig.get(&path);
    rig.get(&path);
    let third = rig.get(&path);
    assert_eq!((third.verdict(), third.text().as_str(), third.field("x-old")), ("hit", "new", None));
    for status in [500, 502, 503, 504] {
        let path = new_path();
        let down = Reply::status(status, "down");
        rig.origin.on_sequence(&path, vec![expired(&[("ETag", "\"1\"")]), down, Reply::status(304, "")]);
        rig.get(&path);
        assert_eq!(rig.get(&path).status, status, "handed on: nobody allowed stale");
        assert_eq!(rig.get(&path).text(), "page", "and what is stored was still there to be validated");
    }
}
