//! States of a Redis in which it answers, and is of no use.

use super::{ROUTES, counting};
use crate::support::eventually;
use crate::support::peers::{Peers, Wire, follows};
use crate::support::redis::{Cluster, Redis};

#[test]
fn a_redis_that_loads_is_as_good_as_none() {
    // A millisecond for each key.
    let mut redis = Redis::with(&["--key-load-delay", "1000", "--enable-debug-command", "yes"]);
    let peers = Peers::with(1, "url: \"redis://127.0.0.1:{port}\"", ROUTES, vec![Wire::to(redis.port)]);
    redis.cli(&["debug", "populate", "2000"]);
    assert_eq!(redis.cli(&["save"]).trim(), "OK");
    counting(&peers, "/a");
    redis.kill();
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| redis.restart());
        while !loading.is_finished() {
            assert_eq!(peers.get(0, "/a").text(), "version 1");
            counting(&peers, "/b");
            peers.purge_waiting(0, r#"{"urls": ["/b"]}"#, 0);
            assert_eq!(peers.get(0, "/b").status, 200);
        }
    });
    follows(&peers.all[0]);
    let waiting = || peers.all[0].metric("parvis_purge_log_waiting", "");
    eventually("all is told", || waiting() == 0.0);
    let told = |text: &str| peers.all[0].errors().matches(text).count();
    assert_eq!((told("is left alone"), told("is connected")), (1, 2), "{}", peers.all[0].errors());
}

#[test]
fn a_cluster_that_is_down_as_a_whole_keeps_nobody_waiting() {
    let mut cluster = Cluster::start();
    for node in &cluster.0 {
        node.cli(&["config", "set", "cluster-require-full-coverage", "yes"]);
    }
    let options = format!("url: {}, cluster: true, timeout: 200ms", cluster.urls());
    let peers = Peers::with(2, &options, ROUTES, Vec::new());
    for page in 0..20 {
        counting(&peers, &format!("/{page}"));
    }
    cluster.0[2].kill();
    eventually("it is down", || cluster.0[0].cli(&["get", "x"]).contains("CLUSTERDOWN"));
    for page in 0..20 {
        for at in 0..2 {
            assert_eq!(peers.get(at, &format!("/{page}")).status, 200);
        }
    }
    peers.purge_waiting(0, r#"{"all": true}"#, 0);
    assert_eq!(peers.get(0, "/1").verdict(), "miss");
    cluster.0[2].restart();
    peers.all.iter().for_each(follows);
    eventually("the other has heard of it", || {
        peers.all[1].metric("parvis_purges_total", "cause=\"peer\"") >= 1.0
    });
}
