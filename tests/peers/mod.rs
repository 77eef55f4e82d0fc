//! Several instances that share what they have stored, and purge together.

mod tier;
mod troubles;

use serde_json::json;

use crate::support::peers::{Peers, Wire, follows};
use crate::support::process::command;
use crate::support::redis::{Cluster, Redis, Watched};
use crate::support::{ALL_SECRET, Client, Directory, Reply, eventually};

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
    let answer = peers.purge_waiting(0, r#"{"urls": ["/a"]}"#, 1);
    assert_eq!(answer["missing"], json!(["b"]), "it is named: {answer}");
    assert_eq!(peers.get(1, "/a").text(), "version 1", "it cannot know");
    // Its own are in force, and are told when that can be done.
    let untold = peers.purge_waiting(1, r#"{"urls": ["/b"]}"#, 0);
    assert!(untold["unknown"].is_string(), "{untold}");
    assert_eq!(peers.get(1, "/b").text(), "version 2");
    assert_eq!(peers.get(0, "/b").text(), "version 1");
    peers.mend(1);
    assert_eq!(peers.get(1, "/a").text(), "version 2");
    eventually("the other has heard of it", || peers.get(0, "/b").text() != "version 1");
}

#[test]
fn writes_and_soft_purges_reach_the_others_too() {
    let redis = Redis::start();
    let routes = "routes: [{name: pages, cache: {ttl: 1h, stale_while_revalidate: 1h}, purge_on_success: [{tags: [shop]}]}]";
    let peers = Peers::start(2, &redis, routes);
    counting(&peers, "/a");
    peers.origin.on("/write", Reply::ok("done"));
    peers.get(0, "/a");
    peers.written(0, 1.0);
    peers.get(1, "/a");
    assert_eq!(peers.all[0].client().send("POST", "/write", &[], b"x").status, 200);
    eventually("the other has heard of it", || peers.get(1, "/a").text() == "version 2");
    peers.written(1, 1.0);
    peers.get(0, "/a");
    peers.purge(1, r#"{"urls": ["/a"], "soft": true}"#);
    let stale = peers.get(0, "/a");
    assert_eq!((stale.verdict(), stale.text().as_str()), ("stale", "version 2"));
    eventually("it is refreshed", || peers.get(0, "/a").text() == "version 3");
}

#[test]
fn what_could_not_be_told_before_a_restart_is_told_after_it() {
    let redis = Redis::start();
    let directory = Directory::new();
    let journal = directory.path().join("{name}.json").display().to_string();
    let wires = (0..2).map(|_| Wire::to(redis.port)).collect();
    let options = format!("url: \"redis://127.0.0.1:{{port}}\", journal: \"{journal}\"");
    let mut peers = Peers::with(2, &options, ROUTES, wires);
    counting(&peers, "/a");
    peers.get(0, "/a");
    peers.written(0, 1.0);
    peers.get(1, "/a");
    peers.cut(1);
    peers.purge_waiting(1, r#"{"tags": ["shop"]}"#, 0);
    eventually("it is written down", || directory.path().join("b.json").exists());
    peers.wires[1].mend();
    peers.restart(1);
    eventually("the other has heard of it", || peers.get(0, "/a").text() == "version 2");
    eventually("nothing waits", || !directory.path().join("b.json").exists());
}

#[test]
fn a_journal_that_cannot_be_read_may_have_held_anything() {
    let redis = Redis::start();
    let directory = Directory::new();
    let journal = directory.write("b.json", "[{").display().to_string().replace("b.json", "{name}.json");
    let wires = (0..2).map(|_| Wire::to(redis.port)).collect();
    let options = format!("url: \"redis://127.0.0.1:{{port}}\", journal: \"{journal}\"");
    let peers = Peers::with(2, &options, ROUTES, wires);
    assert!(peers.all[1].errors().contains("everything is purged"), "{}", peers.all[1].errors());
    eventually("the other is told", || peers.all[0].metric("parvis_purges_total", "cause=\"peer\"") == 1.0);
}

#[test]
fn a_redis_that_comes_back_empty_costs_nobody_its_memory_and_no_purge() {
    let mut redis = Redis::start();
    let peers = Peers::start(2, &redis, ROUTES);
    counting(&peers, "/a");
    counting(&peers, "/b");
    for path in ["/a", "/b"] {
        peers.get(0, path);
        peers.get(1, path);
    }
    redis.kill();
    peers.purge_waiting(0, r#"{"urls": ["/b"]}"#, 0);
    redis.restart();
    peers.all.iter().for_each(follows);
    eventually("the other has heard of it", || {
        peers.all[1].metric("parvis_purges_total", "cause=\"peer\"") == 1.0
    });
    let asked = peers.origin.count("/a");
    assert_eq!((peers.get(0, "/a").verdict(), peers.get(1, "/a").verdict()), ("hit", "hit"));
    assert_eq!(peers.origin.count("/a"), asked);
    assert_eq!(peers.get(1, "/b").verdict(), "miss");
    assert!(!peers.all[1].errors().contains("memory_dropped=true"), "{}", peers.all[1].errors());
}

#[test]
fn who_has_missed_what_the_log_no_longer_holds_drops_all() {
    let redis = Redis::start();
    let peers = Peers::start(2, &redis, ROUTES);
    counting(&peers, "/a");
    peers.get(1, "/a");
    peers.cut(1);
    peers.purge_waiting(0, r#"{"urls": ["/a"]}"#, 0);
    peers.purge_waiting(0, r#"{"urls": ["/other"]}"#, 0);
    redis.cli(&["xtrim", "parvis:{log}", "maxlen", "1"]);
    assert_eq!(peers.get(1, "/a").verdict(), "hit");
    peers.mend(1);
    assert_eq!(peers.get(1, "/a").text(), "version 2");
    assert!(peers.all[1].errors().contains("memory_dropped=true"), "{}", peers.all[1].errors());
}

#[test]
fn the_command_waits_for_all_instances_and_names_those_that_did_not_answer() {
    let redis = Redis::start();
    let peers = Peers::start(2, &redis, ROUTES);
    let admin = format!("http://{}", peers.all[0].admin);
    let purge = || {
        let arguments = ["purge", "--tag", "shop", "--wait", "--timeout", "2s", "--admin", &admin];
        let output = command(&arguments, &[("PARVIS_TOKEN", ALL_SECRET)]);
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), told)
    };
    let (code, told) = purge();
    assert!(code == Some(0) && told.contains("acknowledged by b"), "{code:?} {told}");
    peers.cut(1);
    let (code, told) = purge();
    assert!(code == Some(3) && told.contains("not acknowledged by b"), "{code:?} {told}");
}

#[test]
fn who_asks_again_hears_who_has_acknowledged_since() {
    let redis = Redis::start();
    let peers = Peers::start(2, &redis, ROUTES);
    assert_eq!(peers.purge(0, r#"{"all": true}"#)["instances"].as_array().unwrap().len(), 2);
    peers.cut(1);
    // What the Redis knew of the instances is gone, and the other one is missed all the same.
    redis.cli(&["flushall"]);
    let token = format!("Bearer {ALL_SECRET}");
    let fields = [("Authorization", token.as_str()), ("Idempotency-Key", "deploy-1")];
    let ask = |wait: u8| {
        let admin = Client::new(peers.all[0].admin);
        let answer = admin.send("POST", &format!("/purge?wait={wait}"), &fields, br#"{"all": true}"#);
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_str::<serde_json::Value>(&answer.text()).unwrap()
    };
    // Its log has to be begun anew first, which takes up to a second.
    let first = ask(5);
    assert_eq!(
        (&first["missing"], first["instances"].as_array().unwrap().len()),
        (&json!(["b"]), 1),
        "{first}"
    );
    peers.mend(1);
    let again = ask(20);
    assert_eq!(
        (&again["missing"], again["instances"].as_array().unwrap().len()),
        (&json!(null), 2),
        "{again}"
    );
    assert_eq!(
        (&again["log"], &again["sequence"]),
        (&first["log"], &first["sequence"]),
        "it is the same purge"
    );
    let refused =
        Client::new(peers.all[0].admin).send("POST", "/purge?wait=61", &fields, br#"{"all": true}"#);
    assert_eq!((refused.status, refused.text().contains("at most 60")), (400, true), "{}", refused.text());
}

#[test]
fn a_full_redis_keeps_no_purge_from_its_own_instance() {
    let redis = Redis::start();
    let peers = Peers::start(1, &redis, ROUTES);
    counting(&peers, "/a");
    redis.cli(&["config", "set", "maxmemory", "1"]);
    assert_eq!(peers.get(0, "/a").text(), "version 1");
    let answer = peers.purge_waiting(0, r#"{"urls": ["/a"]}"#, 0);
    assert!(answer["unknown"].is_string(), "{answer}");
    assert_eq!(peers.get(0, "/a").text(), "version 2");
    redis.cli(&["config", "set", "maxmemory", "0"]);
    let waiting = || peers.all[0].metric("parvis_purge_log_waiting", "");
    eventually("it is told", || waiting() == 0.0);
    eventually("it is written again", || {
        peers.purge(0, r#"{"urls": ["/a"]}"#);
        peers.get(0, "/a");
        peers.all[0].metric("parvis_redis_writes_total", "result=\"written\"") > 0.0
    });
}

#[test]
fn the_user_of_the_documents_may_do_all_that_is_needed() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cluster.md")).unwrap();
    let command = text.split('`').find(|code| code.starts_with("ACL SETUSER")).unwrap();
    let redis = Redis::start();
    let told = redis.cli(&command.split(' ').collect::<Vec<_>>());
    assert_eq!(told.trim(), "OK", "{command}");
    let options = "url: \"redis://parvis:change-me@127.0.0.1:{port}\", key_prefix: \"shop:\"";
    let wires = (0..2).map(|_| Wire::to(redis.port)).collect();
    let routes = "routes: [{name: pages, cache: {ttl: 1h, lock: {shared: true}}, rate_limit: {rate: 100/s, shared: true}}]";
    let peers = Peers::with(2, options, routes, wires);
    counting(&peers, "/a");
    peers.get(0, "/a");
    peers.written(0, 1.0);
    assert_eq!(peers.get(1, "/a").detail(), "redis");
    assert_eq!(peers.purge(0, r#"{"all": true}"#)["instances"].as_array().unwrap().len(), 2);
    for parvis in &peers.all {
        assert_eq!(
            parvis.metric("parvis_redis_requests_total", "result=\"failed\""),
            0.0,
            "{}",
            parvis.errors()
        );
    }
    let config = peers.all[0].config.to_str().unwrap();
    let check = self::command(&["redis", "check", "-c", config], &[]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn a_redis_that_hangs_holds_no_miss_up_for_longer_than_its_timeout() {
    let redis = Redis::start();
    let wires = vec![Wire::to(redis.port)];
    let peers = Peers::with(1, "url: \"redis://127.0.0.1:{port}\", timeout: 300ms", ROUTES, wires);
    redis.signal("STOP");
    for page in 0..20 {
        counting(&peers, &format!("/{page}"));
        assert_eq!(peers.get(0, &format!("/{page}")).verdict(), "miss");
    }
    let asked = |result: &str| {
        let labels = format!("about=\"recall\",result=\"{result}\"");
        peers.all[0].metric("parvis_redis_requests_total", &labels)
    };
    assert!(asked("late") <= 3.0 && asked("late") + asked("ok") + asked("unconnected") <= 20.0);
    redis.signal("CONT");
    follows(&peers.all[0]);
    counting(&peers, "/later");
    eventually("it is written again", || {
        peers.purge(0, r#"{"urls": ["/later"]}"#);
        peers.get(0, "/later");
        peers.all[0].metric("parvis_redis_writes_total", "result=\"written\"") > 0.0
    });
}

#[test]
fn in_a_cluster_keys_can_move_under_load() {
    let cluster = Cluster::start();
    let options = format!("url: {}, cluster: true", cluster.urls());
    let peers = Peers::with(2, &options, ROUTES, Vec::new());
    for page in 0..50 {
        counting(&peers, &format!("/{page}"));
        peers.get(0, &format!("/{page}"));
    }
    peers.written(0, 50.0);
    let id = |node: usize| cluster.0[node].cli(&["cluster", "myid"]).trim().to_owned();
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| cluster.reshard(&id(0), &id(1), 5000));
        let mut number = 0;
        while !moving.is_finished() {
            number += 1;
            let page = peers.get(number % 2, &format!("/{}", number % 50));
            assert!(page.status == 200 && page.text() == "version 1", "{page:?}");
        }
        assert!(moving.join().unwrap(), "the slots have moved");
    });
    let answer = peers.purge_waiting(1, r#"{"tags": ["shop"]}"#, 20);
    assert_eq!(answer["instances"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(peers.get(0, "/0").text(), "version 2");
    let recalled = || {
        peers.get(0, "/7");
        peers.get(1, "/7").detail() == "redis"
    };
    eventually("it is shared by its new place", || {
        peers.purge(0, r#"{"urls": ["/7"]}"#);
        peers.get(0, "/7");
        recalled()
    });
}

#[test]
fn in_a_cluster_a_master_can_die_under_load() {
    let mut cluster = Cluster::start();
    let options = format!("url: {}, cluster: true, timeout: 200ms", cluster.urls());
    let peers = Peers::with(3, &options, ROUTES, Vec::new());
    for page in 0..20 {
        counting(&peers, &format!("/{page}"));
    }
    let purge = |at: usize| peers.purge_waiting(at, r#"{"tags": ["shop"]}"#, 10);
    assert_eq!(purge(0)["instances"].as_array().unwrap().len(), 3);
    let ask_all = |rounds: usize| {
        let pages = (0..rounds * 60).map(|n| peers.get(n % 3, &format!("/{}", n / 3 % 20)));
        pages.map(|page| (page.status, page.verdict())).collect::<Vec<_>>()
    };
    ask_all(1);
    for node in 0..3 {
        std::thread::scope(|scope| {
            let load = scope.spawn(|| ask_all(4));
            cluster.0[node].kill();
            let answers = load.join().unwrap();
            assert!(answers.iter().all(|(status, _)| *status == 200), "no client sees it");
        });
        let last = ask_all(1);
        assert!(last.iter().all(|(_, verdict)| *verdict == "hit"), "{last:?}");
        cluster.0[node].restart();
        eventually("all nodes agree", || {
            cluster.0.iter().all(|node| node.cli(&["cluster", "info"]).contains("cluster_state:ok"))
        });
        peers.all.iter().for_each(follows);
        eventually("purges reach all again", || purge(node)["instances"].as_array().unwrap().len() == 3);
        ask_all(1);
    }
}

#[test]
fn a_failover_of_sentinels_loses_no_purge() {
    let mut watched = Watched::start();
    let options = format!("url: \"{}\", sentinel: shop", watched.sentinel.url());
    let peers = Peers::with(2, &options, ROUTES, Vec::new());
    counting(&peers, "/a");
    peers.get(0, "/a");
    peers.get(1, "/a");
    // What the primary is told now the replica does not hear.
    watched.replica.cli(&["replicaof", "no", "one"]);
    peers.purge(0, r#"{"urls": ["/a"]}"#);
    watched.replica.cli(&["replicaof", "127.0.0.1", "1"]);
    watched.primary.kill();
    watched.replica.cli(&["replicaof", "no", "one"]);
    eventually("the sentinel knows the new one", || {
        watched.sentinel.cli(&["sentinel", "failover", "shop"]);
        watched
            .sentinel
            .cli(&["sentinel", "get-master-addr-by-name", "shop"])
            .contains(&watched.replica.port.to_string())
    });
    peers.all.iter().for_each(follows);
    let told = peers.purge_waiting(1, r#"{"urls": ["/a"]}"#, 20);
    assert_eq!(told["instances"].as_array().unwrap().len(), 2, "{told}");
}
