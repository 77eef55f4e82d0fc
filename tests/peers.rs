//! Several instances that share what they have stored, and purge together.

use serde_json::json;

use crate::support::peers::Peers;
use crate::support::redis::Redis;
use crate::support::{Reply, eventually};

const ROUTES: &str = "routes: [{name: pages, cache: {ttl: 1h, stale_while_revalidate: 1h}}]";

/// A page whose body counts how often the origin was asked, with a tag.
fn counting(peers: &Peers, path: &str) {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    peers.origin.on_each(path, move |_| {
        let asked = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        Reply::ok(format!("version {asked}")).field("Cache-Tag", "shop")
    });
}

#[test]
fn what_one_instance_has_fetched_the_others_need_not() {
    let redis = Redis::start();
    let peers = Peers::start(2, &redis, ROUTES);
    counting(&peers, "/a");
    assert_eq!(peers.get(0, "/a").verdict(), "miss");
    peers.written(0, 1.0);
    let recalled = peers.get(1, "/a");
    assert_eq!(
        (recalled.verdict(), recalled.detail().as_str(), recalled.text().as_str()),
        ("hit", "redis", "version 1")
    );
    assert_eq!(recalled.field("cache-tag"), None, "what clients are not sent stays withheld");
    let again = peers.get(1, "/a");
    assert_eq!((again.verdict(), again.detail().as_str()), ("hit", ""), "it is in memory now");
    assert_eq!(peers.origin.count("/a"), 1);
    assert_eq!(peers.all[1].metric("parvis_redis_recalls_total", "result=\"hit\""), 1.0);
    let keys = redis.cli(&["keys", "*"]);
    assert!(keys.lines().all(|key| key.starts_with("parvis:")), "{keys}");
    assert!(
        redis.cli(&["--scan"]).lines().all(|key| redis.cli(&["ttl", key]) != "-1\n" || key == "parvis:{log}")
    );
}

#[test]
fn a_purge_reaches_all_and_nothing_brings_back_what_it_removed() {
    let redis = Redis::start();
    let mut peers = Peers::start(3, &redis, ROUTES);
    counting(&peers, "/a");
    for at in 0..3 {
        peers.get(at, "/a");
        peers.written(0, 1.0);
    }
    assert_eq!(peers.origin.count("/a"), 1);
    let answer = peers.purge(1, r#"{"tags": ["shop"]}"#);
    let acknowledged: Vec<&str> =
        answer["instances"].as_array().unwrap().iter().map(|one| one["instance"].as_str().unwrap()).collect();
    assert_eq!((acknowledged, &answer["missing"]), (vec!["b", "a", "c"], &json!(null)), "{answer}");
    for at in 0..3 {
        assert_eq!(peers.get(at, "/a").text(), "version 2", "instance {at}");
        peers.written(0, 2.0);
    }
    // One that begins now knows what was purged before, and may have what came since.
    peers.restart(2);
    let recalled = peers.get(2, "/a");
    assert_eq!((recalled.detail().as_str(), recalled.text().as_str()), ("redis", "version 2"));
}

#[test]
fn who_is_cut_off_serves_nothing_that_was_purged_once_it_is_back() {
    let redis = Redis::start();
    let peers = Peers::start(2, &redis, ROUTES);
    counting(&peers, "/a");
    counting(&peers, "/b");
    for path in ["/a", "/b"] {
        peers.get(0, path);
        peers.written(0, if path == "/a" { 1.0 } else { 2.0 });
        peers.get(1, path);
    }
    peers.cut(1);
    let answer = peers.purge(0, r#"{"urls": ["/a"], "wait": 1}"#);
    assert_eq!(answer["missing"], json!(["b"]), "it is named: {answer}");
    assert_eq!(peers.get(1, "/a").text(), "version 1", "it cannot know");
    // Its own are in force, and are told when that can be done.
    let untold = peers.purge(1, r#"{"urls": ["/b"], "wait": 0}"#);
    assert!(untold["untold"].is_string(), "{untold}");
    assert_eq!(peers.get(1, "/b").text(), "version 2");
    assert_eq!(peers.get(0, "/b").text(), "version 1");
    peers.mend(1);
    assert_eq!(peers.get(1, "/a").text(), "version 2");
    eventually("the other has heard of it", || peers.get(0, "/b").text() != "version 1");
}
