//! Who waits for a place at a server, and for how long.

use std::time::Duration;

use super::{PASSING, Servers};
use crate::support::{Gate, Reply, eventually};

/// One worker, with this queue, and nothing else in the way.
fn one_worker(queue: &str, routes: &str) -> (Servers, Gate) {
    let settings = format!("max_conns: 1, queue: {queue}, timeouts: {{read: 20s}}");
    let servers = Servers::new(1, &settings, routes);
    let gate = Gate::new();
    servers.origins[0].on("/slow", Reply::ok("slow").behind(&gate));
    servers.origins[0].on_each("/", |request| Reply::ok(request.target.clone()));
    (servers, gate)
}

fn occupied(servers: &Servers) -> std::sync::mpsc::Receiver<crate::support::Response> {
    let slow = servers.crowd(1, "/slow");
    eventually("the worker is busy", || servers.origins[0].count("/slow") == 1);
    slow
}

#[test]
fn the_ninth_waits_until_one_of_eight_is_done() {
    let (servers, gate) = one_worker("{size: 10, timeout: 20s}", PASSING);
    let slow = occupied(&servers);
    let waiting = servers.crowd(4, "/");
    eventually("four wait", || servers.waiting() == 4.0);
    assert_eq!(servers.origins[0].count("/"), 0);
    gate.open();
    assert_eq!(slow.recv().unwrap().text(), "slow");
    assert!((0..4).all(|_| waiting.recv().unwrap().status == 200));
    assert_eq!((servers.waiting(), servers.origins[0].count("/")), (0.0, 4));
    assert_eq!(servers.parvis.metric("parvis_upstream_wait_seconds_count", ""), 4.0);
}

#[test]
fn who_finds_the_queue_full_is_told_at_once_and_when_to_come_back() {
    let (servers, gate) = one_worker("{size: 2, timeout: 20s}", PASSING);
    let slow = occupied(&servers);
    let waiting = servers.crowd(2, "/");
    eventually("two wait", || servers.waiting() == 2.0);
    let third = servers.get("/");
    assert_eq!((third.status, third.detail().as_str()), (503, "queue-full"));
    assert_eq!(third.field("retry-after").as_deref(), Some("1"));
    assert!(third.text().starts_with("503 the application has too much to do\nrequest id: "));
    gate.open();
    assert!(slow.recv().unwrap().status == 200 && (0..2).all(|_| waiting.recv().unwrap().status == 200));
    assert_eq!(servers.parvis.metric("parvis_upstream_unavailable_total", "reason=\"queue-full\""), 1.0);
}

#[test]
fn who_waits_for_too_long_is_told_so() {
    let (servers, gate) = one_worker("{size: 2, timeout: 300ms}", PASSING);
    let slow = occupied(&servers);
    let late = servers.get("/");
    assert_eq!((late.status, late.detail().as_str()), (503, "queue-timeout"));
    assert_eq!(servers.waiting(), 0.0);
    gate.open();
    assert_eq!(slow.recv().unwrap().status, 200);
    assert_eq!(servers.get("/").status, 200, "the place is free again");
}

#[test]
fn who_leaves_frees_its_place_in_the_queue() {
    let (servers, gate) = one_worker("{size: 1, timeout: 20s}", PASSING);
    let slow = occupied(&servers);
    let mut leaving = servers.parvis.client().connect();
    leaving.write_request("GET", "/", &[], b"");
    eventually("it waits", || servers.waiting() == 1.0);
    drop(leaving);
    eventually("it has left", || servers.waiting() == 0.0);
    gate.open();
    assert_eq!(slow.recv().unwrap().status, 200);
    assert_eq!(servers.get("/").status, 200);
    assert_eq!(servers.origins[0].count("/"), 1, "nobody asked for who had left");
}

#[test]
fn a_busy_route_does_not_keep_another_waiting() {
    let routes = "routes:\n  - {name: busy, match: {path: /busy}, cache: {mode: off}}\n  - {name: rest, cache: {mode: off}}";
    let (servers, gate) = one_worker("{size: 50, timeout: 20s}", routes);
    servers.origins[0].on("/busy", Reply::ok("busy"));
    let slow = occupied(&servers);
    let busy = servers.crowd(20, "/busy");
    eventually("twenty wait", || servers.waiting() == 20.0);
    let other = servers.crowd(1, "/");
    eventually("one more waits", || servers.waiting() == 21.0);
    gate.open();
    assert_eq!(slow.recv().unwrap().status, 200);
    assert_eq!(other.recv().unwrap().status, 200);
    (0..20).for_each(|_| assert_eq!(busy.recv().unwrap().status, 200));
    let order: Vec<String> =
        servers.origins[0].all_received().iter().map(|request| request.target.clone()).collect();
    let place = order.iter().position(|target| target == "/").unwrap();
    assert!(place <= 2, "its turn comes after one of the busy route's: {order:?}");
}

#[test]
fn a_client_comes_before_a_refresh_that_nobody_waits_for() {
    let routes = "routes:\n  - {name: page, match: {path: /page}, cache: {ttl: 1ms, stale_while_revalidate: 1h}}\n  - {name: rest, cache: {mode: off}}";
    let (servers, gate) = one_worker("{size: 10, timeout: 20s}", routes);
    servers.origins[0].on("/page", Reply::ok("page"));
    assert_eq!(servers.get("/page").verdict(), "miss");
    std::thread::sleep(Duration::from_millis(5));
    let slow = occupied(&servers);
    assert_eq!(servers.get("/page").verdict(), "stale");
    eventually("the refresh waits", || servers.waiting() == 1.0);
    let client = servers.crowd(1, "/");
    eventually("the client waits", || servers.waiting() == 2.0);
    gate.open();
    assert_eq!((slow.recv().unwrap().status, client.recv().unwrap().status), (200, 200));
    eventually("it is refreshed", || servers.origins[0].count("/page") == 2);
    let targets: Vec<String> =
        servers.origins[0].all_received().iter().map(|request| request.target.clone()).collect();
    assert_eq!(targets, ["/page", "/slow", "/", "/page"]);
}

#[test]
fn with_something_stored_a_full_queue_is_answered_with_that() {
    let routes = "routes:\n  - {name: page, match: {path: /page}, cache: {ttl: 1ms, stale_on_disconnect: 1h}}\n  - {name: rest, cache: {mode: off}}";
    let (servers, gate) = one_worker("{size: 0, timeout: 20s}", routes);
    servers.origins[0].on("/page", Reply::ok("page"));
    assert_eq!(servers.get("/page").verdict(), "miss");
    std::thread::sleep(Duration::from_millis(5));
    let slow = occupied(&servers);
    let stale = servers.get("/page");
    assert_eq!((stale.status, stale.text().as_str()), (200, "page"));
    assert_eq!(servers.get("/").status, 503);
    gate.open();
    assert_eq!(slow.recv().unwrap().status, 200);
}
