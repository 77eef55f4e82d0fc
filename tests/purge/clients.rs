//! The purge clients that exist, as they send their bytes: what is gone, what is not, and the status they expect.

use crate::support::{ALL_SECRET, Client, PURGE_SECRET, Reply, Rig, eventually};

/// Pages by a letter: host, path, tags, media type.
const PAGES: &[(char, &str, &str, &str, &str)] = &[
    ('h', "shop.test", "/", "home", "text/html"),
    ('a', "shop.test", "/blog/a", "node:1,cat_p_1,/books/1", "text/html"),
    ('q', "shop.test", "/blog/a?q=1", "node:1,cat_p_1,/books/1", "text/html"),
    ('b', "shop.test", "/blog/b", "node:2,cat_p_10,/books/10", "text/html"),
    ('i', "shop.test", "/img/logo.png", "image", "image/png"),
    ('o', "other.test", "/blog/a", "node:1,cat_p_1,/books/1", "text/html"),
    ('p', "other.test:8080", "/blog/a", "port", "text/html"),
];

struct Shelf(Rig);

impl Shelf {
    fn filled() -> Self {
        let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m}}]");
        for (_, _, path, ..) in PAGES.iter().filter(|page| !page.2.contains('?')) {
            rig.origin.on_each(path, move |request| {
                let host = request.field("host").unwrap_or_default();
                let page = PAGES.iter().find(|page| (page.1, page.2) == (host.as_str(), *path));
                let (_, _, _, tags, kind) = page.expect("a page of this host");
                Reply::ok("x").field("X-Cache-Tags", tags).field("Content-Type", kind)
            });
        }
        let shelf = Self(rig);
        assert_eq!(shelf.gone(), "haqbiop", "nothing is stored yet");
        assert_eq!(shelf.gone(), "", "everything is stored now");
        shelf
    }

    /// The letters of the pages that are not fresh in the store; they are when this returns.
    fn gone(&self) -> String {
        let is_gone = |host: &str, path: &str| {
            let response = self.0.get_with(path, &[("Host", host)]);
            assert_eq!((response.status, response.field("x-cache-tags")), (200, None), "{path}");
            response.verdict() != "hit"
        };
        PAGES.iter().filter(|(_, host, path, ..)| is_gone(host, path)).map(|(letter, ..)| letter).collect()
    }

    /// Sends a request as it stands; `\n` stands for the end of a line.
    fn send(client: &Client, request: &str) -> crate::support::Response {
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let mut connection = client.connect();
        connection.write(format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n")).as_bytes());
        connection.read_response(head.split(' ').next().unwrap())
    }
}

/// Of the main listener: the name of the client, its bytes, the status, what is gone.
const MAIN: &[(&str, &str, u16, &str)] = &[
    (
        "Wagtail",
        "PURGE /blog/a HTTP/1.1\nAccept-Encoding: identity\nHost: shop.test\nUser-Agent: Wagtail-frontendcache/8.0.1\nConnection: close",
        200,
        "a",
    ),
    ("Wagtail, a query", "PURGE /blog/a?q=1 HTTP/1.1\nHost: shop.test:80\nConnection: close", 200, "q"),
    ("Wagtail, a port", "PURGE /blog/a HTTP/1.1\nHost: other.test:8080\nConnection: close", 200, "p"),
    ("plone.cachepurging", "PURGE /blog/b HTTP/1.1\nHost: shop.test\nContent-Length: 0", 200, "b"),
    ("django-cache-purge-hooks", "PURGE / HTTP/1.1\nHost: shop.test", 200, "h"),
    ("python-varnish", "PURGE /blog/a? HTTP/1.1\nHost: shop.test", 200, "a"),
    ("absent", "PURGE /nothing HTTP/1.1\nHost: shop.test", 200, ""),
    ("FOSHttpCache Varnish, path", "PURGE /blog/a HTTP/1.1\nHost: other.test", 200, "o"),
    (
        "FOSHttpCache Varnish, all",
        "BAN / HTTP/1.1\nHost: 127.0.0.1\nX-Host: .*\nX-Url: .*\nX-Content-Type: .*",
        200,
        "haqbiop",
    ),
    (
        "FOSHttpCache Varnish, URL",
        "BAN / HTTP/1.1\nHost: 127.0.0.1\nX-Host: ^(shop|nobody)[.]test$\nX-Url: ^/blog/.*\nX-Content-Type: .*",
        200,
        "aqb",
    ),
    (
        "FOSHttpCache Varnish, type",
        "BAN / HTTP/1.1\nHost: 127.0.0.1\nX-Host: .*\nX-Url: .*\nX-Content-Type: image/.*",
        200,
        "i",
    ),
    (
        "FOSHttpCache Varnish, tags",
        "BAN / HTTP/1.1\nHost: x\nX-Host: .*\nX-Url: .*\nX-Content-Type: .*\nX-Cache-Tags: (^|,)(cat_p_1|home)(,|$)",
        200,
        "haqo",
    ),
    (
        "FOSHttpCache Varnish, tags by pattern",
        "BAN / HTTP/1.1\nHost: x\nX-Cache-Tags: cat_p_1[0-9]",
        200,
        "b",
    ),
    ("FOSHttpCache Varnish, a bad pattern", "BAN / HTTP/1.1\nHost: x\nX-Url: (", 400, ""),
    ("FOSHttpCache Varnish, keys", "PURGEKEYS / HTTP/1.1\nHost: x\nxkey-purge: node:2 home", 200, "hb"),
    ("FOSHttpCache Varnish, soft keys", "PURGEKEYS / HTTP/1.1\nHost: x\nxkey-softpurge: node:2", 200, "b"),
    ("FOSHttpCache Varnish, no keys", "PURGEKEYS / HTTP/1.1\nHost: x", 400, ""),
    ("FOSHttpCache nginx", "PURGE /blog/a HTTP/1.1\nHost: shop.test", 200, "a"),
    ("FOSHttpCache nginx, a location", "PURGE /purge/blog/a HTTP/1.1\nHost: shop.test", 200, "a"),
    ("FOSHttpCache Symfony, tags", "PURGETAGS / HTTP/1.1\nHost: x\nX-Cache-Tags: node:2,image", 200, "bi"),
    ("FOSHttpCache Symfony, no tags", "PURGETAGS / HTTP/1.1\nHost: x", 400, ""),
    ("FOSHttpCache Symfony, all", "PURGE / HTTP/1.1\nHost: x\nClear-Cache: true", 200, "haqbiop"),
    (
        "API Platform, BAN",
        "BAN / HTTP/1.1\nHost: x\nApiPlatform-Ban-Regex: (^|\\,)/books/1($|\\,)",
        200,
        "aqo",
    ),
    ("API Platform, xkey", "PURGE / HTTP/1.1\nHost: x\nxkey: /books/10 home", 200, "hb"),
    ("API Platform, Surrogate-Key", "PURGE / HTTP/1.1\nHost: x\nSurrogate-Key: /books/10, home", 200, "hb"),
    ("Drupal, tags", "BAN /tags HTTP/1.1\nHost: 127.0.0.1\nCache-Tags: node:2 image", 200, "bi"),
    ("Drupal, tags at the root", "BAN / HTTP/1.1\nHost: 127.0.0.1\nCache-Tags: node:1", 200, "aqo"),
    ("Drupal, page", "PURGE /blog/b HTTP/1.1\nHost: 127.0.0.1", 200, "b"),
    ("Drupal, wildcard", "BAN /blog/* HTTP/1.1\nHost: 127.0.0.1", 200, "aqbop"),
    ("Drupal, everything", "BAN /.* HTTP/1.1\nHost: 127.0.0.1", 200, "haqbiop"),
    ("Drupal, everything of a site", "BAN /.* HTTP/1.1\nHost: other.test", 200, "o"),
    ("Drupal, URIBAN", "URIBAN /img HTTP/1.1\nHost: 127.0.0.1", 200, "i"),
    ("WordPress, page", "PURGE /blog/a HTTP/1.1\nHost: shop.test\nX-Purge-Method: default", 200, "a"),
    ("WordPress, below", "PURGE /blog/.* HTTP/1.1\nHost: shop.test\nX-Purge-Method: regex", 200, "aqb"),
    ("WordPress, everything", "PURGE /.* HTTP/1.1\nHost: shop.test\nX-Purge-Method: regex", 200, "haqbi"),
    (
        "Magento 2.4",
        "PURGE / HTTP/1.1\nHost: 127.0.0.1\nX-Magento-Tags-Pattern: ((^|,)cat_p_1(,|$))\nContent-Length: 0",
        200,
        "aqo",
    ),
    (
        "Magento 2.4, several",
        "PURGE / HTTP/1.1\nHost: 127.0.0.1\nX-Magento-Tags-Pattern: ((^|,)cat_p_10(,|$))|((^|,)home(,|$))",
        200,
        "hb",
    ),
    (
        "Magento 2.4, everything",
        "PURGE / HTTP/1.1\nHost: 127.0.0.1\nX-Magento-Tags-Pattern: .*",
        200,
        "haqbiop",
    ),
    ("Magento 2.4, X-Pool", "PURGE / HTTP/1.1\nHost: 127.0.0.1\nX-Pool: ^port", 200, "p"),
    ("Magento 2.4, a bad pattern", "PURGE / HTTP/1.1\nHost: 127.0.0.1\nX-Magento-Tags-Pattern: ((", 400, ""),
    (
        "Magento 2.0, without a host",
        "PURGE / HTTP/1.1\nX-Magento-Tags-Pattern: ((^|,)cat_p_1(,|$))\nContent-Length: 0",
        200,
        "aqo",
    ),
    ("FOSHttpCache Fastly", "PURGE /blog/b HTTP/1.1\nHost: shop.test\nFastly-Soft-Purge: 1", 200, "b"),
    ("two hosts", "PURGE / HTTP/1.1\nHost: a/b", 400, ""),
];

#[test]
fn every_client_of_the_main_listener_gets_what_it_expects() {
    let shelf = Shelf::filled();
    let client = shelf.0.parvis.client();
    for (name, request, status, gone) in MAIN {
        let answer = Shelf::send(&client, request);
        assert_eq!(answer.status, *status, "{name}: {}", answer.text());
        assert!(answer.field("content-length").is_some(), "{name}");
        assert_eq!(shelf.gone(), *gone, "{name}");
    }
    assert!(shelf.0.origin.all_received().iter().all(|request| request.method == "GET"));
}

/// Of the admin listener; `ALL` stands for a secret.
const ADMIN: &[(&str, &str, u16, &str)] = &[
    ("Fastly, key", "POST /service/ID/purge/node:2 HTTP/1.1\nHost: api\nFastly-Key: ALL", 200, "b"),
    (
        "Fastly, a key with a slash",
        "POST /service/ID/purge/%2Fbooks%2F10 HTTP/1.1\nHost: api\nFastly-Key: ALL\nfastly-soft-purge: 1",
        200,
        "b",
    ),
    (
        "Fastly, keys",
        "POST /service/ID/purge HTTP/1.1\nHost: api\nFastly-Key: ALL\nsurrogate-key: node:2 home\nContent-Length: 0",
        200,
        "hb",
    ),
    (
        "Fastly, all",
        "POST /service/ID/purge_all HTTP/1.1\nHost: api\nFastly-Key: ALL\nContent-Length: 0",
        200,
        "haqbiop",
    ),
    ("Fastly, page", "POST /purge/shop.test/blog/a HTTP/1.1\nHost: api\nFastly-Key: ALL", 200, "a"),
    (
        "Fastly, page with a query",
        "POST /purge/shop.test/blog/a?q=1 HTTP/1.1\nHost: api\nFastly-Key: ALL",
        200,
        "q",
    ),
    ("Fastly, home page", "POST /purge/shop.test/ HTTP/1.1\nHost: api\nFastly-Key: ALL", 200, "h"),
    (
        "FOSHttpCache Fastly",
        "POST /service/ID/purge HTTP/1.1\nHost: api.fastly.com\nFastly-Key: ALL\nContent-Length: 30\n\n{\"surrogate_keys\":[\"image\"]}  ",
        200,
        "i",
    ),
    (
        "Fastly, no keys",
        "POST /service/ID/purge HTTP/1.1\nHost: api\nFastly-Key: ALL\nContent-Length: 2\n\n{}",
        400,
        "",
    ),
    ("Fastly, unknown", "POST /service/ID/purge_all HTTP/1.1\nHost: api\nFastly-Key: wrong", 401, ""),
    (
        "Cloudflare, files",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 86\n\n{\"files\":[\"http://shop.test/blog/a\",{\"url\":\"https://other.test/blog/a\",\"headers\":{}}]}",
        200,
        "ao",
    ),
    (
        "Cloudflare, tags",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nX-Auth-Email: a@b\nX-Auth-Key: ALL\nContent-Length: 17\n\n{\"tags\":[\"home\"]}",
        200,
        "h",
    ),
    (
        "Cloudflare, hosts",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 24\n\n{\"hosts\":[\"other.test\"]}",
        200,
        "o",
    ),
    (
        "Cloudflare, prefixes",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 31\n\n{\"prefixes\":[\"shop.test/blog\"]}",
        200,
        "aqb",
    ),
    (
        "Cloudflare, everything",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 25\n\n{\"purge_everything\":true} ",
        200,
        "haqbiop",
    ),
    (
        "Cloudflare, nothing",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 2\n\n{}",
        400,
        "",
    ),
    (
        "Cloudflare, unknown field",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 12\n\n{\"tag\":[\"\"]}",
        400,
        "",
    ),
    (
        "Cloudflare, no token",
        "POST /client/v4/zones/ID/purge_cache HTTP/1.1\nHost: api\nContent-Length: 17\n\n{\"tags\":[\"home\"]}",
        401,
        "",
    ),
    (
        "Souin, flush",
        "PURGE /souin-api/souin/flush HTTP/1.1\nHost: api\nAuthorization: Bearer ALL",
        204,
        "haqbiop",
    ),
    (
        "Souin, regex",
        "PURGE /souin-api/souin/.+logo.+ HTTP/1.1\nHost: api\nAuthorization: Bearer ALL",
        204,
        "i",
    ),
    (
        "Souin, a key",
        "PURGE /souin-api/souin/GET-http-shop.test-/blog/b HTTP/1.1\nHost: api\nAuthorization: Bearer ALL",
        204,
        "b",
    ),
    (
        "Souin, keys",
        "PURGE /souin-api/souin HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nSurrogate-Key: home, image",
        204,
        "hi",
    ),
    ("Souin, nothing", "PURGE /souin-api/souin HTTP/1.1\nHost: api\nAuthorization: Bearer ALL", 400, ""),
    (
        "Souin, uri",
        "POST /souin-api/souin HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 70\n\n{\"type\":\"uri\",\"selectors\":[\"http://shop.test/blog/a?q=1\"],\"purge\":true}",
        200,
        "q",
    ),
    (
        "Souin, uri-prefix",
        "POST /souin-api/souin HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 64\n\n{\"type\":\"uri-prefix\",\"selectors\":[\"http://shop.test/img/\"]}     ",
        200,
        "i",
    ),
    (
        "Souin, origin",
        "POST /souin-api/souin HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 52\n\n{\"type\":\"origin\",\"selectors\":[\"http://other.test\"]} ",
        200,
        "o",
    ),
    (
        "Souin, group",
        "POST /souin-api/souin HTTP/1.1\nHost: api\nAuthorization: Bearer ALL\nContent-Length: 48\n\n{\"type\":\"group\",\"groups\":[\"home\"],\"purge\":true}  ",
        200,
        "h",
    ),
];

#[test]
fn every_client_of_the_admin_listener_gets_what_it_expects() {
    let shelf = Shelf::filled();
    let client = Client::new(shelf.0.parvis.admin);
    for (name, request, status, gone) in ADMIN {
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let lines = head.lines().filter(|line| body.is_empty() || !line.starts_with("Content-Length"));
        let mut head = lines.collect::<Vec<_>>().join("\n").replace("ALL", ALL_SECRET);
        if !body.is_empty() {
            head = format!("{head}\nContent-Type: application/json\nContent-Length: {}", body.len());
        }
        let answer = Shelf::send(&client, &format!("{head}\n\n{body}"));
        assert_eq!(answer.status, *status, "{name}: {}", answer.text());
        if *status == 200 && name.starts_with("Fastly") {
            let said: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
            assert_eq!(said["status"], "ok", "{name}");
        }
        if name.starts_with("Cloudflare") {
            let said: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
            assert_eq!(said["success"], *status == 200, "{name} {said}");
            assert!(said["errors"].is_array() && said["messages"].is_array(), "{name}");
        }
        assert_eq!(shelf.gone(), *gone, "{name}");
    }
}

#[test]
fn apis_of_other_caches_have_the_same_scopes() {
    let shelf = Shelf::filled();
    let ask = |method: &str, path: &str, body: &str| {
        shelf.0.parvis.admin(method, path, Some(PURGE_SECRET), body).status
    };
    assert_eq!(ask("POST", "/service/ID/purge_all", ""), 403);
    assert_eq!(ask("POST", "/client/v4/zones/ID/purge_cache", r#"{"purge_everything": true}"#), 403);
    assert_eq!(ask("PURGE", "/souin-api/souin/flush", ""), 403);
    assert_eq!(ask("PURGE", "/souin-api/souin/.*", ""), 403);
    assert_eq!(ask("GET", "/souin-api/souin", ""), 403, "it wants `read`");
    assert_eq!(shelf.gone(), "");
    assert_eq!(ask("POST", "/service/ID/purge/home", ""), 200);
    assert_eq!(shelf.gone(), "h");
    let listed = shelf.0.parvis.admin("GET", "/souin-api/souin", Some(ALL_SECRET), "");
    let keys: Vec<String> = serde_json::from_str(&listed.text()).unwrap();
    assert!(keys.contains(&"GET-http-shop.test-/blog/a?q=1".to_owned()), "{keys:?}");
    assert_eq!(keys.len(), PAGES.len());
}

#[test]
fn only_the_addresses_that_may_purge_do() {
    let page = "routes: [{name: all, cache: {ttl: 5m}}]";
    for (config, fields, status) in [
        ("purge_clients: []", &[][..], 405),
        ("purge_clients: [192.0.2.0/24]", &[], 405),
        (
            "purge_clients: [192.0.2.0/24]\ntrusted_proxies: [127.0.0.1]",
            &[("X-Forwarded-For", "192.0.2.9")],
            200,
        ),
        ("trusted_proxies: [127.0.0.1]", &[("X-Forwarded-For", "192.0.2.9")], 405),
        ("trusted_proxies: [127.0.0.1]", &[("X-Forwarded-For", "127.0.0.1, 192.0.2.9")], 405),
        ("", &[("X-Forwarded-For", "127.0.0.1")], 405),
        ("", &[("X-Forwarded-For", "192.0.2.9"), ("Connection", "X-Forwarded-For")], 405),
        ("trusted_proxies: [127.0.0.1]", &[("X-Real-IP", "192.0.2.9")], 405),
        ("trusted_proxies: [127.0.0.1]", &[("X-Forwarded-For", "unknown")], 405),
        ("trusted_proxies: [127.0.0.1]", &[("Via", "1.1 nginx")], 405),
        ("trusted_proxies: [127.0.0.1]", &[], 200),
        ("", &[("X-Forwarded-Proto", "https")], 405),
        ("", &[("Forwarded", "for=192.0.2.9")], 405),
        ("", &[("Via", "1.1 nginx")], 405),
        ("", &[], 200),
    ] {
        let rig = Rig::new(&format!("{config}\n{page}"));
        rig.origin.on("/", Reply::ok("x"));
        rig.get("/");
        let answer = rig.parvis.client().send("PURGE", "/", fields, b"");
        assert_eq!(answer.status, status, "{config} {fields:?}");
        let expected = if status == 200 { "miss" } else { "hit" };
        assert_eq!(rig.get("/").verdict(), expected, "{config} {fields:?}");
        assert_eq!(rig.origin.all_received().iter().filter(|r| r.method == "PURGE").count(), 0);
    }
}

#[test]
fn a_purge_by_a_client_is_in_the_audit_log_and_the_metrics() {
    let shelf = Shelf::filled();
    Shelf::send(&shelf.0.parvis.client(), "PURGE /blog/a HTTP/1.1\nHost: shop.test");
    let purges = || {
        let answer = shelf.0.parvis.admin("GET", "/purges", Some(ALL_SECRET), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_str::<serde_json::Value>(&answer.text()).unwrap()
    };
    eventually("it is noted", || purges().as_array().unwrap().len() == 1);
    let entry = &purges()[0];
    assert_eq!((entry["by"].as_str(), entry["entries"].as_u64()), (Some("PURGE"), Some(1)));
    assert_eq!(entry["cause"], "client");
    assert_eq!(
        (&entry["from"], &entry["selectors"][0]),
        (&"127.0.0.1".into(), &"url //shop.test/blog/a".into())
    );
    assert_eq!(shelf.0.parvis.metric("parvis_purges_total", "cause=\"client\""), 1.0);
    eventually("it is in the access log", || {
        let log = shelf.0.parvis.access_log();
        log.iter().any(|line| line["method"] == "PURGE" && line["reason"] == "purged")
    });
}

#[test]
fn a_refresh_of_a_purge_client_fetches_anew_whatever_the_route_says_of_clients() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m, client_cache_control: ignore}}]");
    rig.origin.on("/", Reply::ok("x"));
    rig.get("/");
    assert_eq!(rig.get_with("/", &[("Cache-Control", "no-cache")]).verdict(), "hit");
    assert_eq!(rig.get_with("/", &[("X-Refresh", "1")]).verdict(), "reload");
    let from_outside = [("X-Refresh", "1"), ("X-Forwarded-For", "192.0.2.9")];
    assert_eq!(rig.get_with("/", &from_outside).verdict(), "hit");
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m}}]");
    rig.origin.on("/", Reply::ok("x"));
    rig.get("/");
    assert_eq!(rig.get_with("/", &[("Cache-Control", "no-cache")]).verdict(), "reload");
}
