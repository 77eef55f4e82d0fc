//! Defects that were found, each with a test that fails without its fix.

use crate::support::{Gate, Reply, Rig, eventually};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

#[test]
fn a_page_that_sets_a_cookie_is_not_shortened_to_a_304() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("page").field("ETag", "\"1\"").field("Set-Cookie", "csrftoken=new"));
    let response = rig.get_with("/", &[("If-None-Match", "\"1\"")]);
    assert_eq!((response.status, response.text().as_str()), (200, "page"));
    assert_eq!(response.field("set-cookie").as_deref(), Some("csrftoken=new"));
}

#[test]
fn a_write_whose_client_left_is_carried_through_and_then_purges() {
    let rig = Rig::new(MINUTE);
    let gate = Gate::new();
    rig.origin.on("/", Reply::ok("old"));
    rig.get("/");
    rig.origin.on("/", Reply::ok("written").behind(&gate));
    let mut writer = rig.parvis.client().connect();
    writer.write_request("PUT", "/", &[], b"new");
    eventually("the origin has the write", || rig.origin.count("/") == 2);
    drop(writer);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(rig.get("/").text(), "old", "nothing has changed yet");
    gate.open();
    eventually("the write has ended", || rig.parvis.access_log().len() == 3);
    rig.origin.on("/", Reply::ok("new"));
    assert_eq!((rig.get("/").verdict(), rig.get("/").text().as_str()), ("miss", "new"));
}

#[test]
fn a_write_whose_client_breaks_off_counts_as_carried_out() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("old"));
    rig.get("/");
    rig.origin.on("/", Reply::ok("written").delayed(std::time::Duration::from_millis(500)));
    let mut writer = rig.parvis.client().connect();
    writer.write_request("PUT", "/", &[], b"new");
    eventually("the origin has the write", || rig.origin.count("/") == 2);
    socket2::SockRef::from(&writer.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(writer);
    eventually("the write has ended", || rig.parvis.access_log().len() == 2);
    rig.origin.on("/", Reply::ok("new"));
    assert_eq!((rig.get("/").verdict(), rig.get("/").text().as_str()), ("miss", "new"));
}

#[test]
fn a_route_written_in_any_script_takes_its_paths() {
    let rig = Rig::new(
        "routes:
  - {name: pages, match: {path: ['/größe/*', '/a b', '/%7Eada']}, cache: {ttl: 1m}}
  - {name: rest}",
    );
    for path in ["/gr%C3%B6%C3%9Fe/1", "/größe/1", "/a%20b", "/~ada"] {
        rig.origin.on(path, Reply::ok("x"));
        rig.get(path);
        assert_eq!(rig.get(path).verdict(), "hit", "{path}");
    }
}

#[test]
fn a_failed_fetch_tells_the_operator_why_on_the_line_of_its_request() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::script().then_close());
    let id = rig.get("/").field("x-request-id").unwrap();
    let told = |line: &serde_json::Value| line["request_id"] == id.as_str() && line["error"].is_string();
    eventually("the error is in the access log", || rig.parvis.access_log().iter().any(told));
}

#[test]
fn a_url_to_remove_is_spelled_as_every_route_spells_it() {
    let rig = Rig::new(
        "routes:
  - {name: writes, match: {methods: [POST]}, purge_on_success: [{url: '/list?b=2&a=1'}]}
  - {name: all, cache: {ttl: 1m, key: {query: {sort: false}}}}",
    );
    rig.origin.on("/list", Reply::ok("x"));
    rig.origin.on("/write", Reply::ok("x"));
    rig.get("/list?b=2&a=1");
    rig.send("POST", "/write", "");
    assert_eq!(rig.get("/list?b=2&a=1").verdict(), "miss");
}

#[test]
fn a_write_reaches_a_page_whatever_its_path_looks_like() {
    let rig = Rig::new(MINUTE);
    for (read, write) in [("/caf%C3%A9", "/café"), ("/products/7", "/a/../products/7"), ("/~ada", "/%7Eada")]
    {
        rig.origin.on(read, Reply::ok("x"));
        rig.origin.on(write, Reply::ok("x"));
        rig.get(read);
        assert_eq!(rig.get(read).verdict(), "hit", "{read}");
        assert_eq!(rig.send("PUT", write, "").status, 200, "{write}");
        assert_eq!(rig.get(read).verdict(), "miss", "{write}");
    }
}

#[test]
fn a_page_that_comes_into_being_is_no_longer_believed_uncacheable() {
    let rig = Rig::new(
        "routes:
  - {name: reads, match: {methods: [GET]}, cache: {ttl: 1m, tags: [products]}}
  - {name: writes, purge_on_success: [{tags: [products]}]}",
    );
    rig.origin.on("/api", Reply::status(201, ""));
    assert_eq!(rig.get("/products/21").detail(), "no-ttl");
    assert_eq!(rig.get("/products/21").detail(), "uncacheable");
    rig.origin.on("/products/21", Reply::ok("new"));
    rig.send("POST", "/api", "");
    assert_eq!((rig.get("/products/21").verdict(), rig.get("/products/21").verdict()), ("miss", "hit"));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_hit_is_no_defect_of_ours() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok(vec![b'x'; 4_000_000]));
    rig.get("/");
    let mut leaving = rig.parvis.client().connect();
    leaving.write_request("GET", "/", &[], b"");
    socket2::SockRef::from(&leaving.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(leaving);
    eventually("it is logged", || rig.parvis.access_log().len() == 2);
    let line = rig.parvis.access_log().remove(1);
    assert_eq!((line["verdict"].as_str(), line["reason"].as_str()), (Some("hit"), Some("")), "{line}");
    assert!(line["error"].is_string(), "{line}");
}

#[test]
fn a_cache_control_written_with_semicolons_still_forbids() {
    let rig = Rig::new(MINUTE);
    for (path, value) in
        [("/a", "private; max-age=60"), ("/b", "no-store; no-cache"), ("/c", "x=\"open, no-store")]
    {
        rig.origin.on(path, Reply::ok("x").field("Cache-Control", value));
        rig.get(path);
        assert_eq!(rig.get(path).detail(), "uncacheable", "{value}");
    }
}

#[test]
fn a_field_with_underscores_is_the_one_with_hyphens() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/", |request| Reply::ok(request.field("x_forwarded_host").unwrap_or_default()));
    rig.origin.on_each("/account", |request| Reply::ok(request.field("api_key").unwrap_or_default()));
    assert_eq!(rig.get_with("/", &[("X_Forwarded_Host", "evil.test")]).text(), "");
    let personal = rig.get_with("/account", &[("api_key", "alice")]);
    assert_eq!((personal.detail().as_str(), personal.text().as_str()), ("authorization", "alice"));
    assert_eq!(rig.get("/account").text(), "");
}

#[test]
fn a_host_is_one_thing_to_the_key_and_to_the_origin() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/", |request| Reply::ok(request.field("host").unwrap_or_default()));
    for bad in ["\u{a0}shop.test", "shop.test\u{3000}", ":80", "shop.test/x"] {
        assert_eq!(rig.get_with("/", &[("Host", bad)]).status, 400, "{bad}");
    }
    assert_eq!(rig.get_with("/", &[("Host", "SHOP.test:80")]).text(), "shop.test");
    assert_eq!((rig.get("/").verdict(), rig.get("/").text().as_str()), ("hit", "shop.test"));
}

#[test]
fn a_304_that_adds_variants_ends_the_page_without_them() {
    let rig = Rig::new("routes: [{name: all}]");
    let first =
        Reply::ok("fr").field("Cache-Control", "max-age=60").field("Age", "60").field("ETag", "\"1\"");
    let validated =
        Reply::status(304, "").field("Cache-Control", "max-age=60").field("Vary", "Accept-Language");
    let own = Reply::ok("en").field("Cache-Control", "max-age=60").field("Vary", "Accept-Language");
    rig.origin.on_sequence("/", vec![first, validated, own]);
    rig.get_with("/", &[("Accept-Language", "fr")]);
    assert_eq!(rig.get_with("/", &[("Accept-Language", "en")]).text(), "en");
}

#[test]
fn one_client_that_the_origin_refuses_takes_the_page_from_nobody() {
    let rig = Rig::new("routes: [{name: all, cache: {stale_while_revalidate: 1h}}]");
    rig.origin.on_each("/", |request| match request.field("accept").as_deref() {
        Some("x/y") => Reply::status(406, "no"),
        _ => Reply::ok("page").field("Cache-Control", "max-age=60").field("Age", "70"),
    });
    rig.get("/");
    assert_eq!(rig.get_with("/", &[("Accept", "x/y")]).verdict(), "stale");
    eventually("the refresh was refused", || {
        rig.parvis.metric("parvis_fetches_total", "result=\"abandoned\"") == 1.0
    });
    assert_eq!(rig.get("/").verdict(), "stale", "what is stored stays");
}

#[test]
fn http_1_0_knows_no_chunks_on_a_pass_either() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("").chunked(&["hello ", "world"]));
    let answer = rig.parvis.client().raw(b"GET / HTTP/1.0\r\nHost: h\r\nCookie: a=b\r\n\r\n");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("detail=cookie") && answer.ends_with("\r\n\r\nhello world"), "{answer}");
}

#[test]
fn a_write_given_up_on_purges_again_when_the_origin_should_be_done() {
    let rig = Rig::with_timeouts("{connect: 1s, read: 300ms, idle: 1s}", MINUTE);
    rig.origin.on("/", Reply::ok("old"));
    rig.origin.on("/write", Reply::ok("late").delayed(std::time::Duration::from_secs(2)));
    assert_eq!(rig.send("PUT", "/write", "").status, 504);
    eventually("it purges again", || rig.parvis.metric("parvis_purges_total", "cause=\"late\"") == 1.0);
}
