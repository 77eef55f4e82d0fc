//! When a server is left alone, and how it comes back.

use super::{PASSING, Servers, started, states};
use crate::support::{Gate, Origin, Reply, eventually};

const QUICK: &str = "circuit_breaker: {max_fails: 3, fail_timeout: 1s}";

#[test]
fn a_dead_server_is_left_alone_and_one_request_tries_it_again() {
    let servers = Servers::new(1, QUICK, PASSING);
    let origin = &servers.origins[0];
    origin.on("/", Reply::script().then_close());
    for _ in 0..3 {
        assert_eq!(servers.get("/").status, 502);
    }
    let refused = servers.get("/");
    assert_eq!((refused.status, refused.detail().as_str()), (503, "no-server"));
    assert_eq!(refused.field("retry-after").as_deref(), Some("1"));
    assert_eq!((origin.count("/"), states(&servers.parvis, "open")), (3, 1.0));
    let gate = Gate::new();
    origin.on("/", Reply::ok("well").behind(&gate));
    eventually("it is tried again", || {
        servers.crowd(3, "/");
        origin.count("/") > 3
    });
    // The crowd does not come along.
    assert_eq!((servers.get("/").status, origin.count("/")), (503, 4));
    gate.open();
    eventually("it takes requests again", || servers.get("/").status == 200);
    assert_eq!(states(&servers.parvis, "up"), 1.0);
    let told = servers.parvis.errors();
    assert_eq!(told.matches("a server is left alone").count(), 1, "{told}");
    assert_eq!(told.matches("a server takes requests again").count(), 1, "{told}");
}

#[test]
fn one_of_two_that_dies_is_noticed_by_nobody() {
    let servers = Servers::new(2, QUICK, PASSING);
    for origin in &servers.origins {
        origin.on("/", Reply::ok("well"));
    }
    for turn in 0..40 {
        if turn == 10 {
            servers.origins[0].stop();
        }
        assert_eq!(servers.get("/").status, 200, "{turn}");
        assert_eq!(servers.parvis.client().send("POST", "/", &[], b"x").status, 200, "{turn}");
    }
    assert_eq!(states(&servers.parvis, "up"), 1.0);
}

#[test]
fn all_die_and_come_back() {
    let origin = Origin::start();
    origin.on("/", Reply::ok("well"));
    let routes = "routes: [{name: page, match: {path: /page}, cache: {ttl: 1ms, stale_if_error: 1h, stale_on_disconnect: 1h}}, {name: all, cache: {mode: off}}]";
    let parvis = started(&format!("\"{}\"", origin.address), QUICK, routes);
    origin.on("/page", Reply::ok("page"));
    assert_eq!((parvis.client().get("/").status, parvis.client().get("/page").status), (200, 200));
    origin.stop();
    for _ in 0..6 {
        assert!(matches!(parvis.client().get("/").status, 502 | 503));
        assert_eq!(parvis.client().get("/page").text(), "page", "what is stored stands in");
    }
    assert_eq!(states(&parvis, "open"), 1.0);
    let again = Origin::start_at(origin.address);
    again.on("/", Reply::ok("back"));
    eventually("it is back", || parvis.client().get("/").text() == "back");
    assert_eq!(parvis.client().get("/").text(), "back");
}

#[test]
fn answers_count_as_failures_only_where_the_operator_says_so() {
    let servers = Servers::new(1, QUICK, PASSING);
    servers.origins[0].on("/", Reply::status(503, "in maintenance"));
    (0..6).for_each(|_| assert_eq!(servers.get("/").text(), "in maintenance"));
    let settings = "circuit_breaker: {error_share: 40%, min_requests: 5, statuses: [503]}";
    let servers = Servers::new(1, settings, PASSING);
    servers.origins[0].on("/", Reply::status(503, "broken"));
    servers.origins[0].on("/well", Reply::ok("well"));
    for path in ["/well", "/", "/well", "/"] {
        assert_eq!(servers.get(path).status, if path == "/" { 503 } else { 200 });
    }
    assert_eq!(servers.get("/").text(), "broken");
    assert_eq!(servers.get("/well").detail(), "no-server", "three of five have failed");
}

#[test]
fn a_server_that_comes_back_gets_less_than_its_share_at_first() {
    let servers =
        Servers::new(2, "circuit_breaker: {max_fails: 1, fail_timeout: 100ms}, slow_start: 1h", PASSING);
    for origin in &servers.origins {
        origin.on("/", Reply::ok("well"));
    }
    (0..20).for_each(|_| assert_eq!(servers.get("/").status, 200));
    assert_eq!(servers.counts("/"), [10, 10], "at the start each has its whole share");
    servers.origins[0].stop();
    eventually("it is left alone", || {
        servers.get("/");
        states(&servers.parvis, "open") == 1.0
    });
    let again = Origin::start_at(servers.origins[0].address);
    again.on("/", Reply::ok("back"));
    eventually("it is back", || {
        servers.get("/");
        states(&servers.parvis, "up") == 2.0
    });
    let before = again.count("/");
    (0..110).for_each(|_| assert_eq!(servers.get("/").status, 200));
    assert!(
        (9..=11).contains(&(again.count("/") - before)),
        "a tenth of a share: {}",
        again.count("/") - before
    );
}
