//! What it takes to share a store: pages out of memory, out of the Redis and from the origin; how long a purge takes to be in force
//! everywhere; what clients see when a master of a cluster dies. `cargo bench --bench cluster`; it takes two minutes.
//!
//! The servers are those of the tests. Times are of one client on the loopback interface, and are reported, never asserted.
#![allow(clippy::disallowed_methods)]

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

use std::time::{Duration, Instant};

use support::peers::{Peers, Wire, follows};
use support::redis::{Cluster, Redis};
use support::{ALL_SECRET, Parvis, Reply, eventually};

const ROUTES: &str = "routes: [{name: pages, cache: {ttl: 1h}}]";
const PAGES: usize = 4000;
const PURGES: usize = 300;

fn main() {
    tiers();
    let redis = Redis::start();
    purges("one server", &Peers::start(3, &redis, ROUTES));
    let mut cluster = Cluster::start();
    let options = format!("url: {}, cluster: true, timeout: 50ms", cluster.urls());
    let peers = Peers::with(3, &options, ROUTES, Vec::new());
    purges("three masters", &peers);
    death(&mut cluster, &peers);
    healing(&redis);
}

/// What one client waits for, and the processor time of parvis, per page.
fn tiers() {
    let redis = Redis::start();
    println!("| 1 KiB page, one client | median, µs | 99 %, µs | CPU µs of parvis |\n|---|---|---|---|");
    let routes = "routes: [{name: pages, cache: {ttl: 1h}}]";
    let peers = Peers::start(2, &redis, routes);
    let body = "<p>0123456789abcdef</p>\n".repeat(43);
    for page in 0..PAGES {
        peers.origin.on(&format!("/{page}"), Reply::ok(body.as_str()));
    }
    measure("from the origin, and written behind", &peers.all[0], "miss");
    peers.written(0, PAGES as f64);
    measure("out of the Redis", &peers.all[1], "redis");
    measure("out of memory", &peers.all[1], "hit");
}

fn measure(what: &str, parvis: &Parvis, expected: &str) {
    let mut connection = parvis.client().connect();
    let before = processor_time(parvis);
    let times = (0..PAGES).map(|page| {
        let started = Instant::now();
        connection.write_request("GET", &format!("/{page}"), &[], b"");
        let response = connection.read_response("GET");
        let time = started.elapsed();
        let got = if response.detail() == "redis" { "redis" } else { response.verdict() };
        assert_eq!(got, expected, "/{page}");
        time
    });
    let times = sorted(times.collect());
    let cpu = (processor_time(parvis) - before).as_micros() / PAGES as u128;
    println!("| {what} | {} | {} | {cpu} |", at(&times, 50).as_micros(), at(&times, 99).as_micros());
}

fn processor_time(parvis: &Parvis) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", parvis.pid())).expect("its figures");
    let fields: Vec<&str> = text.rsplit(')').next().expect("after its name").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    // User and system time, in hundredths of a second.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// How long after a purge by tag was sent no instance serves what it named.
fn purges(what: &str, peers: &Peers) {
    peers.origin.on("/a", Reply::ok("page").field("Cache-Tag", "shop"));
    let mut clients: Vec<_> = peers.all.iter().map(|parvis| parvis.client().connect()).collect();
    let mut ask = |at: usize| {
        clients[at].write_request("GET", "/a", &[("Cache-Control", "only-if-cached")], b"");
        clients[at].read_response("GET").status
    };
    let mut times = Vec::new();
    for round in 0..PURGES {
        (0..3).for_each(|at| drop(peers.get(at, "/a")));
        let started = Instant::now();
        let body = br#"{"tags": ["shop"]}"#;
        let token = format!("Bearer {ALL_SECRET}");
        let admin = support::Client::new(peers.all[round % 3].admin);
        admin.send("POST", "/purge?wait=0", &[("Authorization", &token)], body);
        while (0..3).any(|at| ask(at) == 200) {}
        times.push(started.elapsed());
    }
    let times = sorted(times);
    let micros = |percent| at(&times, percent).as_micros();
    println!(
        "purge by tag, in force at all three ({what}): median {} µs, 99 % {} µs, longest {} µs",
        micros(50),
        micros(99),
        micros(100)
    );
}

/// What clients see while each master dies and comes back.
fn death(cluster: &mut Cluster, peers: &Peers) {
    for page in 0..200 {
        peers.origin.on(&format!("/{page}"), Reply::ok("page"));
    }
    let load = |time: Duration| {
        let (started, mut statuses, mut hits, mut longest) = (Instant::now(), [0, 0], 0, Duration::ZERO);
        let mut clients: Vec<_> = peers.all.iter().map(|parvis| parvis.client().connect()).collect();
        for n in 0.. {
            if started.elapsed() > time {
                break;
            }
            let sent = Instant::now();
            clients[n % 3].write_request("GET", &format!("/{}", n / 3 % 200), &[], b"");
            let response = clients[n % 3].read_response("GET");
            longest = longest.max(sent.elapsed());
            statuses[usize::from(response.status != 200)] += 1;
            hits += usize::from(response.verdict() == "hit");
        }
        (statuses, 100.0 * hits as f64 / (statuses[0] + statuses[1]) as f64, longest)
    };
    println!("| a master dies | requests | errors | hits, % | longest, ms |\n|---|---|---|---|---|");
    for node in 0..3 {
        peers.purge_waiting(0, r#"{"all": true}"#, 10);
        std::thread::scope(|scope| {
            let under_way = scope.spawn(|| load(Duration::from_secs(5)));
            std::thread::sleep(Duration::from_secs(1));
            cluster.0[node].kill();
            let ([done, errors], hits, longest) = under_way.join().expect("the load ends");
            println!("| node {node} | {} | {errors} | {hits:.1} | {} |", done + errors, longest.as_millis());
        });
        cluster.0[node].restart();
        eventually("all nodes agree", || {
            cluster.0.iter().all(|node| node.cli(&["cluster", "info"]).contains("cluster_state:ok"))
        });
        peers.all.iter().for_each(follows);
    }
}

/// How long after it is back an instance that was cut off serves nothing that was purged meanwhile.
fn healing(redis: &Redis) {
    let wires = (0..2).map(|_| Wire::to(redis.port)).collect();
    let options = "url: \"redis://127.0.0.1:{port}\", key_prefix: \"healing:\"";
    let peers = Peers::with(2, options, ROUTES, wires);
    peers.origin.on("/a", Reply::ok("page"));
    let times = (0..10).map(|_| {
        peers.get(1, "/a");
        peers.cut(1);
        peers.purge_waiting(0, r#"{"urls": ["/a"]}"#, 0);
        peers.wires[1].mend();
        let started = Instant::now();
        while peers.get(1, "/a").verdict() == "hit" {
            std::thread::sleep(Duration::from_millis(1));
        }
        let time = started.elapsed();
        follows(&peers.all[1]);
        time
    });
    let times = sorted(times.collect());
    let millis = |percent| at(&times, percent).as_millis();
    println!(
        "cut off, mended, and nothing purged is served: median {} ms, longest {} ms",
        millis(50),
        millis(100)
    );
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

/// A percentile.
fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
