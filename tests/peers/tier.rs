//! What is kept in the Redis, and what is not.

use super::{ROUTES, counting};
use crate::support::peers::Peers;
use crate::support::redis::Redis;
use crate::support::{Gate, Reply, eventually};

fn recalls(peers: &Peers, at: usize, result: &str) -> f64 {
    peers.all[at].metric("parvis_redis_recalls_total", &format!("result=\"{result}\""))
}

/// The keys of responses.
fn entries(redis: &Redis) -> Vec<String> {
    let keys = redis.cli(&["--scan"]);
    keys.lines().filter(|key| key.len() > 30).map(str::to_owned).collect()
}

#[test]
fn what_is_not_for_all_or_too_large_stays_in_memory() {
    let redis = Redis::start();
    let routes = "routes:
  - {name: own, match: {path: /own}, cache: {ttl: 1h, tiers: [memory]}}
  - {name: watched, match: {path: /watched}, cache: {ttl: 1h, forward_cookies: [theme]}}
  - {name: rest, cache: {ttl: 1h}}";
    let peers = Peers::with(
        1,
        "url: \"redis://127.0.0.1:{port}\", max_object_size: 10KiB",
        routes,
        vec![crate::support::peers::Wire::to(redis.port)],
    );
    peers.origin.on("/own", Reply::ok("page"));
    peers.origin.on("/watched", Reply::ok("page"));
    peers.origin.on("/large", Reply::ok("x".repeat(11 << 10)));
    peers.origin.on("/asks", Reply::ok("page").field("Cache-Control", "no-cache").field("ETag", "\"a\""));
    peers.origin.on("/private", Reply::ok("page").field("Cache-Control", "private"));
    for path in ["/own", "/watched", "/large", "/asks", "/private"] {
        peers.get(0, path);
    }
    peers.origin.on("/shared", Reply::ok("page"));
    peers.get(0, "/shared");
    peers.written(0, 1.0);
    assert_eq!(entries(&redis).len(), 1, "{:?}", entries(&redis));
    assert_eq!(peers.get(0, "/own").verdict(), "hit");
}

#[test]
fn each_variant_is_found_by_the_others() {
    let redis = Redis::start();
    let peers = Peers::start(2, &redis, ROUTES);
    peers.origin.on_each("/a", |received| {
        let language = received.field("accept-language").unwrap_or_default();
        Reply::ok(format!("in {language}")).field("Vary", "Accept-Language")
    });
    let ask = |at: usize, language: &str| {
        let client = peers.all[at].client();
        client.send("GET", "/a", &[("Accept-Language", language)], b"")
    };
    ask(0, "fr");
    ask(0, "en");
    peers.written(0, 2.0);
    for language in ["en", "fr"] {
        let recalled = ask(1, language);
        assert_eq!((recalled.text(), recalled.detail()), (format!("in {language}"), "redis".to_owned()));
    }
    assert_eq!((ask(1, "de").verdict(), peers.origin.count("/a")), ("miss", 3));
}

#[test]
fn a_record_that_is_broken_or_of_another_version_is_a_miss() {
    let redis = Redis::start();
    let peers = Peers::start(3, &redis, ROUTES);
    counting(&peers, "/a");
    peers.get(0, "/a");
    peers.written(0, 1.0);
    let key = entries(&redis).remove(0);
    redis.cli(&["setrange", &key, "0", "\x7f"]);
    assert_eq!((peers.get(1, "/a").text().as_str(), recalls(&peers, 1, "unreadable")), ("version 2", 1.0));
    peers.written(1, 1.0);
    redis.cli(&["setrange", &key, "9", "????"]);
    assert_eq!((peers.get(2, "/a").text().as_str(), recalls(&peers, 2, "unreadable")), ("version 3", 1.0));
    redis.cli(&["del", &key]);
    redis.cli(&["lpush", &key, "a list"]);
    peers.purge(0, r#"{"urls": ["/a"]}"#);
    assert_eq!(peers.get(0, "/a").text(), "version 4", "another type of key is none");
}

#[test]
fn one_refreshes_an_expired_page_for_all() {
    let redis = Redis::start();
    let routes = "routes: [{name: pages, cache: {ttl: 1s, stale_while_revalidate: 1h, stale_if_error: 2h}}]";
    let peers = Peers::start(2, &redis, routes);
    counting(&peers, "/a");
    peers.get(0, "/a");
    peers.written(0, 1.0);
    peers.get(1, "/a");
    let left: u64 = redis.cli(&["ttl", &entries(&redis)[0]]).trim().parse().unwrap();
    assert!((7000..=7201).contains(&left), "as long as it may be served: {left}");
    eventually("it has expired", || peers.get(0, "/a").verdict() == "stale");
    eventually("it is renewed", || peers.get(0, "/a").text() == "version 2");
    peers.written(0, 2.0);
    let asked = peers.origin.count("/a");
    assert_eq!(peers.get(1, "/a").text(), "version 1", "at once, as it is");
    eventually("the other has the new one", || peers.get(1, "/a").text() != "version 1");
    assert!(recalls(&peers, 1, "hit") >= 2.0 && peers.origin.count("/a") <= asked + 1);
}

#[test]
fn a_key_prefix_keeps_applications_apart() {
    let redis = Redis::start();
    let peers = Peers::start(1, &redis, ROUTES);
    let others = Peers::with(
        1,
        "url: \"redis://127.0.0.1:{port}\", key_prefix: \"other:\"",
        ROUTES,
        vec![crate::support::peers::Wire::to(redis.port)],
    );
    for both in [&peers, &others] {
        counting(both, "/a");
        both.get(0, "/a");
        both.written(0, 1.0);
    }
    let answer = peers.purge(0, r#"{"all": true}"#);
    assert_eq!(answer["instances"].as_array().unwrap().len(), 1);
    assert_eq!((others.get(0, "/a").text().as_str(), others.get(0, "/a").verdict()), ("version 1", "hit"));
    let keys = redis.cli(&["--scan"]);
    let of = |prefix: &str| keys.lines().filter(|key| key.starts_with(prefix)).count();
    assert_eq!(of("parvis:") + of("other:"), keys.lines().count(), "{keys}");
}

#[test]
fn pages_of_another_application_are_other_pages() {
    let redis = Redis::start();
    let (one, other) = (Peers::start(1, &redis, ROUTES), Peers::start(1, &redis, ROUTES));
    one.origin.on("/a", Reply::ok("one"));
    other.origin.on("/a", Reply::ok("other"));
    one.get(0, "/a");
    one.written(0, 1.0);
    let fetched = other.get(0, "/a");
    assert_eq!((fetched.verdict(), fetched.text().as_str()), ("miss", "other"));
}

#[test]
fn what_the_origin_no_longer_gives_to_all_is_forgotten_by_all() {
    let redis = Redis::start();
    let routes = "routes: [{name: pages, cache: {ttl: 1s, stale_if_error: 1h}}]";
    let peers = Peers::start(2, &redis, routes);
    peers.origin.on_sequence(
        "/a",
        vec![Reply::ok("for all"), Reply::ok("for one").field("Cache-Control", "private")],
    );
    peers.get(0, "/a");
    peers.written(0, 1.0);
    assert_eq!(peers.get(1, "/a").detail(), "redis");
    eventually("it has become private", || peers.get(0, "/a").text() == "for one");
    eventually("the other has heard of it", || {
        peers.all[1].metric("parvis_store_entries", "") == 0.0 && peers.get(1, "/a").text() == "for one"
    });
}

#[test]
fn a_shared_lock_lets_one_instance_fetch_for_all() {
    let redis = Redis::start();
    let routes = "routes: [{name: pages, cache: {ttl: 1h, lock: {timeout: 20s, shared: true}}}]";
    let peers = Peers::start(3, &redis, routes);
    let gate = Gate::new();
    peers.origin.on("/a", Reply::ok("page").behind(&gate));
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..9)
            .map(|n| {
                scope.spawn({
                    let peers = &peers;
                    move || peers.get(n % 3, "/a")
                })
            })
            .collect();
        let waiting = |at: usize| {
            peers.all[at].metric("parvis_redis_requests_total", "about=\"lock\",result=\"ok\"") > 1.0
        };
        eventually("two instances wait", || (0..3).filter(|at| waiting(*at)).count() == 2);
        gate.open();
        assert!(asked.into_iter().all(|one| one.join().unwrap().text() == "page"));
    });
    assert_eq!(peers.origin.count("/a"), 1);
    eventually("nobody holds it", || !redis.cli(&["--scan"]).contains(":lock"));
}

#[test]
fn a_lock_whose_holder_is_gone_holds_nobody_up_for_longer_than_its_route_says() {
    let redis = Redis::start();
    let routes = "routes: [{name: pages, cache: {ttl: 1h, lock: {timeout: 1s, shared: true}}}]";
    let peers = Peers::start(2, &redis, routes);
    let gate = Gate::new();
    peers.origin.on_sequence("/a", vec![Reply::ok("never").behind(&gate), Reply::ok("page")]);
    std::thread::scope(|scope| {
        scope.spawn(|| peers.all[0].client().connect().write_request("GET", "/a", &[], b""));
        eventually("it is asked", || peers.origin.count("/a") == 1);
        peers.all[0].signal("KILL");
        assert_eq!(peers.get(1, "/a").text(), "page");
        gate.open();
    });
}
