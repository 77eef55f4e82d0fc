//! Labels: from the response, from the route, with parts of the path; and what a write does with them.

use serde_json::json;

use crate::support::{Reply, Rig, eventually};

#[test]
fn tags_of_every_dialect_are_read_and_not_delivered() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m}}]");
    let fields = [
        ("X-Cache-Tags", "one, two"),
        ("xkey", "one two"),
        ("Surrogate-Key", "one two"),
        ("Cache-Tag", "one,two"),
        ("Cache-Tags", "one two"),
        ("Edge-Cache-Tag", "one, two"),
        ("X-Magento-Tags", "one,two"),
        ("Cache-Groups", r#""one", "two";a=1"#),
    ];
    for (at, (name, value)) in fields.iter().enumerate() {
        let path = format!("/{at}");
        rig.origin.on(&path, Reply::ok("x").field(name, value).field("ETag", "\"1\""));
        rig.origin.on(&format!("/other/{at}"), Reply::ok("x").field(name, "\"other\""));
        rig.get(&format!("/other/{at}"));
        for answer in [rig.get(&path), rig.get(&path), rig.get_with(&path, &[("Cookie", "a=b")])] {
            assert_eq!((answer.status, answer.field(name)), (200, None), "{name} {}", answer.cache_status());
        }
        let answer = rig.purge(&json!({"tags": ["two"]}).to_string());
        assert_eq!(answer["entries"], 1, "{name}");
        assert_eq!(rig.get(&path).verdict(), "miss", "{name}");
        assert_eq!(rig.get(&format!("/other/{at}")).verdict(), "hit", "{name}");
        rig.purge(r#"{"tags": ["two"]}"#);
    }
}

#[test]
fn a_route_can_read_other_fields_and_deliver_them() {
    let rig = Rig::new(
        "routes:
  - {name: delivered, match: {path: /d}, cache: {ttl: 5m, deliver_tags: true}}
  - {name: own, cache: {ttl: 5m, tag_headers: [X-Labels]}}",
    );
    for path in ["/d", "/own"] {
        rig.origin.on(path, Reply::ok("x").field("xkey", "a").field("X-Labels", "b, c"));
        rig.get(path);
    }
    let (delivered, own) = (rig.get("/d"), rig.get("/own"));
    assert_eq!(
        (delivered.field("xkey"), delivered.field("x-labels")),
        (Some("a".into()), Some("b, c".into()))
    );
    assert_eq!((own.field("xkey"), own.field("x-labels")), (Some("a".into()), None));
    assert_eq!(rig.purge(r#"{"tags": ["b"]}"#)["entries"], 1);
    assert_eq!((rig.get("/d").verdict(), rig.get("/own").verdict()), ("hit", "miss"));
    assert_eq!(rig.purge(r#"{"tags": ["a"]}"#)["entries"], 1);
}

#[test]
fn a_page_with_more_tags_than_are_kept_goes_with_every_tag() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m}}]");
    let many: Vec<String> = (0..1001).map(|n| format!("t{n}")).collect();
    rig.origin.on("/many", Reply::ok("x").field("Cache-Tag", &many.join(",")));
    rig.origin.on("/long", Reply::ok("x").field("xkey", &"x".repeat(1025)));
    rig.origin.on("/few", Reply::ok("x").field("xkey", "a"));
    let pages = ["/many", "/long", "/few"];
    pages.iter().for_each(|path| drop(rig.get(path)));
    assert!(rig.parvis.metric("parvis_limit_reached_total", "limit=\"tags\"") >= 2.0);
    rig.purge(r#"{"tags": ["never seen"]}"#);
    assert_eq!(pages.map(|path| rig.get(path).verdict()), ["miss", "miss", "hit"]);
}

#[test]
fn a_304_keeps_the_tags_and_a_new_list_replaces_them() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m}}]");
    let page = |tag: &str| Reply::ok("x").field("ETag", "\"1\"").field("xkey", tag).field("Age", "400");
    rig.origin.on_sequence(
        "/",
        vec![
            page("old"),
            Reply::status(304, "").field("ETag", "\"1\"").field("Age", "400"),
            Reply::status(304, "").field("ETag", "\"1\"").field("xkey", "new").field("Age", "0"),
        ],
    );
    assert_eq!(rig.get("/").verdict(), "miss");
    assert_eq!(rig.get("/").verdict(), "revalidate");
    assert_eq!(rig.purge(r#"{"tags": ["old"], "dry_run": true}"#)["entries"], 1);
    assert_eq!(rig.get("/").verdict(), "revalidate");
    assert_eq!(rig.purge(r#"{"tags": ["old"], "dry_run": true}"#)["entries"], 0);
    assert_eq!(rig.purge(r#"{"tags": ["new"]}"#)["entries"], 1);
}

const CAPTURING: &str = r#"routes:
  - name: reads
    match: {path: ["/products/{id}", "/products/{id}/*"], methods: [GET, HEAD]}
    cache: {ttl: 5m, stale_while_revalidate: 1h, tags: ["product:{id}", products]}
  - name: versions
    match: {path_regex: "^/v(?<version>[0-9]+)/", methods: [GET, HEAD]}
    cache: {ttl: 5m, tags: ["v{version}"]}
  - name: writes
    match: {path: "/api/products/{id}"}
    purge_on_success:
      - {tags: "product:{id}", url: "/lists/{id}?page=1"}
      - {prefix: "/archive/{id}/", soft: true}
      - {wildcard: "/*/about/{id}"}
  - name: wild-writes
    match: {path: "/w/{id}"}
    purge_on_success: [{wildcard: "/*/{id}"}, {wildcard: "/*/*"}]
  - {name: rest, cache: {ttl: 5m, stale_while_revalidate: 1h}}"#;

#[test]
fn a_write_names_what_it_changes_by_parts_of_its_path() {
    let rig = Rig::new(CAPTURING);
    let gone = ["/products/7", "/products/7/reviews/", "/lists/7?page=1", "/fr/about/7", "/api/products/7"];
    let expired = ["/archive/7/a"];
    let kept = ["/products/77", "/products/8", "/lists/7", "/archive/77/a", "/about/7", "/archive/"];
    for path in gone.iter().chain(&expired).chain(&kept) {
        rig.origin.on(path.split('?').next().unwrap(), Reply::ok("x"));
        rig.get(path);
    }
    assert_eq!(rig.send("PUT", "/api/products/7", "{}").status, 200);
    assert_eq!(gone[..4].iter().map(|path| rig.get(path).verdict()).collect::<Vec<_>>(), ["miss"; 4]);
    let served = rig.get(expired[0]);
    assert_eq!((served.verdict(), served.detail().as_str()), ("stale", "stale-while-revalidate"));
    assert_eq!(kept.map(|path| rig.get(path).verdict()), ["hit"; 6]);
}

#[test]
fn what_the_route_captures_is_a_tag() {
    let rig = Rig::new(CAPTURING);
    for path in ["/products/7", "/products/8/a", "/v2/x", "/v22/x"] {
        rig.origin.on(path, Reply::ok("x"));
        rig.get(path);
    }
    let found =
        |tag: &str| rig.purge(&json!({"tags": [tag], "dry_run": true}).to_string())["entries"].clone();
    let tags = ["product:7", "product:8", "products", "v2", "v22", "product:{id}"];
    assert_eq!(tags.map(|tag| found(tag).as_u64().unwrap()), [1, 1, 2, 1, 1, 0]);
}

#[test]
fn cache_groups_are_of_one_host_and_invalidated_by_writes_only() {
    let rig = Rig::new("routes: [{name: reads, match: {methods: [GET]}, cache: {ttl: 5m}}, {name: writes}]");
    let grouped = Reply::ok("x").field("Cache-Groups", r#""a b", "shop""#);
    let invalidating = Reply::ok("x").field("Cache-Group-Invalidation", r#""a b""#);
    rig.origin.on("/page", grouped);
    rig.origin.on("/other", Reply::ok("x").field("Cache-Groups", "\"shop\""));
    rig.origin.on("/write", invalidating.clone());
    rig.origin.on("/failed", Reply::status(409, "").field("Cache-Group-Invalidation", "\"shop\""));
    let elsewhere = [("Host", "elsewhere.test")];
    let store = || {
        drop((rig.get("/page"), rig.get("/other"), rig.get_with("/page", &elsewhere)));
    };
    store();
    rig.get("/write");
    rig.send("POST", "/failed", "");
    assert_eq!((rig.get("/page").verdict(), rig.get("/other").verdict()), ("hit", "hit"));
    let written = rig.send("POST", "/write", "");
    assert_eq!(written.status, 200);
    assert_eq!(rig.get("/page").verdict(), "miss");
    assert_eq!((rig.get("/other").verdict(), rig.get_with("/page", &elsewhere).verdict()), ("hit", "hit"));
}

#[test]
fn what_is_captured_is_taken_by_the_letter() {
    let rig = Rig::new(CAPTURING);
    for path in ["/fr/about/7", "/fr/about/*", "/products/7", "/products/*"] {
        rig.origin.on(path, Reply::ok("x"));
        rig.get(path);
    }
    rig.origin.on("/api/products/*", Reply::status(302, "").field("Location", "/login/"));
    rig.send("DELETE", "/api/products/*", "");
    let pages = ["/fr/about/7", "/fr/about/*", "/products/7", "/products/*"];
    let verdicts = || pages.map(|path| rig.get(path).verdict());
    assert_eq!(verdicts(), ["hit", "miss", "hit", "miss"]);
    rig.origin.on("/w/*", Reply::ok("x"));
    rig.send("POST", "/w/*", "");
    assert_eq!(
        verdicts(),
        ["miss"; 4],
        "one wildcard has a star of the path in it, the other two of its own"
    );
    eventually("it is carried out", || rig.parvis.metric("parvis_bans", "") == 0.0);
    assert_eq!(verdicts(), ["hit"; 4]);
}

#[test]
fn a_page_too_long_for_a_purge_is_not_stored() {
    let rig = Rig::new(CAPTURING);
    for (length, verdict) in [(7000, "hit"), (7200, "pass")] {
        let id = "x".repeat(length);
        let page = format!("/products/{id}");
        rig.origin.on(&page, Reply::ok("x"));
        rig.origin.on(&format!("/api/products/{id}"), Reply::ok("x"));
        rig.get(&page);
        assert_eq!(rig.get(&page).verdict(), verdict);
        rig.send("DELETE", &format!("/api/products/{id}"), "");
        assert!(rig.get(&page).verdict() != "hit", "{length}");
    }
}

#[test]
fn interim_responses_carry_no_tags_either() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m}}]");
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nxkey: a b\r\n\r\n";
    let page = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nxkey: a b\r\n\r\nx";
    for (path, cookie) in [("/miss", ""), ("/pass", "sessionid=1")] {
        rig.origin.on(path, Reply::raw([hints, page].concat()));
        let mut connection = rig.parvis.client().connect();
        connection.write_request("GET", path, &[("Cookie", cookie)], b"");
        let first = connection.read_response("GET");
        assert_eq!((first.status, first.field("xkey")), (103, None), "{path}");
        assert!(first.field("link").is_some());
    }
}
