//! What the origin is sent, and what of it may end in a page for everyone.

use crate::support::{Reply, Rig};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

#[test]
fn a_stranger_cannot_plant_a_host_in_a_stored_page() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/", |request| {
        let claims = ["x-forwarded-host", "x-original-url", "forwarded", "x-forwarded-prefix", "x-host"];
        Reply::ok(claims.map(|name| request.field(name).unwrap_or_default()).join("|"))
    });
    let claims = [
        ("X-Forwarded-Host", "evil.test"),
        ("X-Original-URL", "/admin"),
        ("Forwarded", "host=evil.test"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Host", "evil.test"),
    ];
    assert_eq!(rig.get_with("/", &claims).text(), "shop.test||||");
    assert_eq!(rig.get("/").text(), "shop.test||||");
    let passed = rig.get_with("/", &[&claims[..], &[("Cookie", "a=b")]].concat());
    assert_eq!((passed.verdict(), passed.text().as_str()), ("pass", "shop.test||||"));
}

#[test]
fn the_origin_learns_who_asks_from_parvis_alone() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    rig.get_with("/", &[("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Proto", "https")]);
    let fetched = &rig.origin.received("/")[0];
    assert_eq!(fetched.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(fetched.field("x-forwarded-proto").as_deref(), Some("http"));
}

#[test]
fn a_trusted_proxy_is_believed() {
    let rig = Rig::new("trusted_proxies: [127.0.0.0/8]\nroutes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on("/", Reply::ok("x"));
    rig.send("POST", "/", "");
    let claims = [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "https")];
    rig.get_with("/", &claims);
    let received = rig.origin.received("/");
    assert_eq!(received[1].field("x-forwarded-for").as_deref(), Some("192.0.2.7, 127.0.0.1"));
    assert_eq!(received[1].field("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(rig.get("/").verdict(), "miss", "http and https are different pages");
    assert_eq!(rig.get_with("/", &claims).verdict(), "hit");
    let client = |line: &serde_json::Value| line["client"] == "192.0.2.7";
    crate::support::eventually("the client's address is logged", || {
        rig.parvis.access_log().iter().any(client)
    });
}

#[test]
fn the_host_and_prefix_that_a_trusted_proxy_names_make_another_page_and_reach_the_application() {
    let rig = Rig::new(
        "trusted_proxies: [127.0.0.0/8]
routes:
  - {name: www, match: {host: www.shop.test}, cache: {ttl: 1m}}
  - {name: rest, cache: {ttl: 1m}}",
    );
    rig.origin.on_each("/", |request| {
        let seen = ["host", "x-forwarded-host", "x-forwarded-prefix"]
            .map(|name| request.field(name).unwrap_or_default());
        Reply::ok(seen.join(" "))
    });
    let named = |host: &str, prefix: &str| {
        rig.get_with("/", &[("Host", "internal"), ("X-Forwarded-Host", host), ("X-Forwarded-Prefix", prefix)])
    };
    for (host, prefix) in [("www.shop.test", "/a"), ("www.shop.test", "/b"), ("other.test", "/a")] {
        for verdict in ["miss", "hit"] {
            let response = named(host, prefix);
            assert_eq!((response.text(), response.verdict()), (format!("internal {host} {prefix}"), verdict));
        }
    }
    assert_eq!(named("www.shop.test/evil", "/a").status, 400);
    // A page is purged by the host that its readers know.
    rig.purge(r#"{"urls": ["http://www.shop.test/"]}"#);
    assert_eq!(
        [named("www.shop.test", "/a").verdict(), named("other.test", "/a").verdict()],
        ["miss", "hit"]
    );
    crate::support::eventually("all is logged", || rig.parvis.access_log().len() == 9);
    assert_eq!(rig.parvis.access_log()[0]["route"], "www");
}

#[test]
fn where_proxies_write_forwarded_that_alone_is_believed() {
    let rig = Rig::new(
        "trusted_proxies: [127.0.0.0/8]
forwarded_fields: forwarded
routes: [{name: passed, match: {path: /passed}, cache: {mode: off}}, {name: all, cache: {ttl: 1m}}]",
    );
    let names = [
        "host",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-for",
        "x-forwarded-prefix",
        "forwarded",
    ];
    for path in ["/passed", "/page"] {
        rig.origin.on_each(path, move |request| {
            Reply::ok(names.map(|name| request.field(name).unwrap_or_default()).join("|"))
        });
        let named = |host: &str| {
            let forwarded =
                format!("for=192.0.2.1;proto=http, for=\"[2001:db8::1]:99\";proto=https;host=\"{host}\"");
            let invented = [
                ("X-Forwarded-Host", "evil.test"),
                ("X-Forwarded-For", "1.2.3.4"),
                ("X-Forwarded-Prefix", "/evil"),
            ];
            rig.get_with(path, &[&[("Host", "internal"), ("Forwarded", &forwarded)][..], &invented].concat())
        };
        for host in ["shop.test", "other.test:8443"] {
            let expected = format!("internal|{host}|https|192.0.2.1, 2001:db8::1, 127.0.0.1||");
            assert_eq!(named(host).text(), expected, "{path}");
        }
        let again = if path == "/page" { "hit" } else { "pass" };
        assert_eq!([named("shop.test").verdict(), named("other.test:8443").verdict()], [again, again]);
        assert_eq!(named("shop test").status, 400);
        // Broken by the client, it would hide what the proxy adds, and the client would be the proxy.
        for broken in ["for=\", for=192.0.2.1", "for=a;for=b, for=192.0.2.1"] {
            assert_eq!(rig.get_with(path, &[("Forwarded", broken)]).status, 400, "{broken}");
        }
    }
    crate::support::eventually("the client's address is logged", || {
        rig.parvis.access_log().iter().any(|line| line["client"] == "2001:db8::1")
    });
}

#[test]
fn forwarded_is_nobodys_word_where_proxies_write_the_other_fields() {
    let rig = Rig::new(
        "trusted_proxies: [127.0.0.0/8]
routes: [{name: passed, match: {path: /passed}, cache: {mode: off}}, {name: all, cache: {ttl: 1m}}]",
    );
    for path in ["/passed", "/page"] {
        rig.origin.on_each(path, |request| Reply::ok(request.field("forwarded").unwrap_or_default()));
        let response = rig.get_with(path, &[("Forwarded", "host=evil.test;for=127.0.0.1")]);
        assert_eq!((response.status, response.text().as_str()), (200, ""), "{path}");
    }
}

#[test]
fn a_fetch_for_everyone_carries_nothing_of_one_visitor() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    let fields = [
        ("Cookie", "_ga=GA1.2.3"),
        ("Accept-Encoding", "gzip, br"),
        ("Cache-Control", "no-cache"),
        ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Connection", "close, X-Secret"),
        ("X-Secret", "1"),
        ("Accept-Language", "fr"),
        ("X-Request-ID", "given-1"),
    ];
    let response = rig.get_with("/", &fields);
    assert_eq!(response.field("x-request-id").as_deref(), Some("given-1"));
    let fetched = &rig.origin.received("/")[0];
    for gone in ["cookie", "cache-control", "if-modified-since", "x-secret"] {
        assert_eq!(fetched.field(gone), None, "{gone}");
    }
    assert_eq!(fetched.field("accept-encoding").as_deref(), Some("identity"));
    assert_eq!(fetched.field("accept-language").as_deref(), Some("fr"));
    assert_eq!(fetched.field("x-request-id").as_deref(), Some("given-1"));
    assert_eq!(fetched.field("host").as_deref(), Some("shop.test"));
}

#[test]
fn a_request_that_passes_keeps_its_own_fields() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    let fields =
        [("Cookie", "sessionid=1; _ga=2"), ("If-None-Match", "\"a\""), ("Accept-Encoding", "deflate")];
    rig.get_with("/?utm_source=x", &fields);
    let passed = &rig.origin.received("/")[0];
    assert_eq!(passed.target, "/?utm_source=x");
    for (name, value) in fields {
        assert_eq!(passed.field(name).as_deref(), Some(value), "{name}");
    }
    // What parvis encodes itself it wants as it is.
    rig.get_with("/", &[("Cookie", "sessionid=1"), ("Accept-Encoding", "deflate, gzip")]);
    assert_eq!(rig.origin.received("/")[1].field("accept-encoding").as_deref(), Some("identity"));
}

#[test]
fn the_host_of_an_absolute_target_wins_for_key_and_origin_alike() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/", |request| Reply::ok(request.field("host").unwrap_or_default()));
    let absolute = rig.get_with("http://shop.test/", &[("Host", "evil.test")]);
    if absolute.status == 200 {
        assert_eq!(absolute.text(), "shop.test");
    } else {
        assert_eq!(absolute.status, 400, "a contradiction may be refused");
    }
    assert_eq!(rig.get_with("http://shop.test/", &[("Host", "shop.test")]).text(), "shop.test");
    assert_eq!(rig.get("/").text(), "shop.test");
}

#[test]
fn bodies_reach_the_origin_whole() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/", |request| Reply::ok(request.body.len().to_string()));
    assert_eq!(rig.send("POST", "/", &"x".repeat(300_000)).text(), "300000");
    let chunked =
        rig.parvis.client().send("POST", "/", &[("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(chunked.status, 200);
    let received = rig.origin.received("/");
    assert!(String::from_utf8_lossy(&received[1].body).contains("abc"));
}

#[test]
fn methods_that_purge_or_reflect_never_reach_an_application() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    for method in ["PURGE", "BAN", "PURGEKEYS", "PURGETAGS", "URIBAN", "TRACE", "TRACK", "REFRESH"] {
        // Forwarded by a proxy that nobody has told of.
        let response = rig.parvis.client().send(method, "/", &[("X-Forwarded-For", "127.0.0.1")], b"");
        assert_eq!((response.status, response.detail().as_str()), (405, "method-refused"), "{method}");
        assert!(response.field("allow").is_some());
    }
    assert_eq!(rig.origin.count("/"), 0);
}

#[test]
fn servers_of_an_upstream_take_turns_and_a_dead_one_is_stepped_over() {
    let rig = Rig::new(MINUTE);
    let dead = crate::support::free_port();
    let other = crate::support::Origin::start();
    for origin in [&rig.origin, &other] {
        origin.on("/", Reply::ok("x").field("Cache-Control", "no-store"));
    }
    let yaml = format!(
        "listen: {{listen}}\nadmin: {{listen: {{admin}}}}\nupstreams: {{app: {{servers: [\"{}\", \"{}\", \"127.0.0.1:{dead}\"]}}}}\n{MINUTE}",
        rig.origin.address, other.address
    );
    let parvis = crate::support::Parvis::start(&yaml);
    for _ in 0..9 {
        assert_eq!(parvis.client().get("/").status, 200);
        assert_eq!(parvis.client().send("POST", "/", &[], b"x").status, 200);
    }
    assert!(
        rig.origin.count("/") >= 5 && other.count("/") >= 5,
        "{} {}",
        rig.origin.count("/"),
        other.count("/")
    );
}
