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
fn a_server_that_breaks_off_every_body_is_left_alone() {
    let servers = Servers::new(1, "circuit_breaker: {max_fails: 3, error_share: 100%}", PASSING);
    servers.origins[0].on("/", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").then_close());
    for _ in 0..3 {
        let response = servers.get("/");
        assert_eq!((response.status, response.complete), (200, false));
    }
    eventually("it is left alone", || states(&servers.parvis, "open") == 1.0);
    assert_eq!(servers.get("/").detail(), "no-server", "each head was good");
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

#[test]
fn a_client_that_stalls_its_upload_is_no_failure_of_the_server() {
    let settings = "circuit_breaker: {max_fails: 2, fail_timeout: 1h}, timeouts: {read: 200ms}";
    let servers = Servers::new(1, settings, PASSING);
    servers.origins[0].on("/", Reply::ok("well"));
    let mut stalled: Vec<_> = (0..4).map(|_| servers.parvis.client().connect()).collect();
    for connection in &mut stalled {
        connection.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\nhalf");
    }
    for connection in &mut stalled {
        // Whatever it is told: it is over.
        let _ = connection.try_read_response("POST");
    }
    assert_eq!((servers.get("/").text().as_str(), states(&servers.parvis, "up")), ("well", 1.0));
}

#[test]
fn a_server_is_tried_again_although_others_are_busy_and_many_wait() {
    let settings = "max_conns: 1, queue: {size: 50, timeout: 20s}, circuit_breaker: {max_fails: 1, fail_timeout: 300ms}, timeouts: {read: 20s}";
    let servers = Servers::new(2, settings, PASSING);
    let gate = Gate::new();
    servers.origins[0].on("/", Reply::script().then_close());
    servers.origins[1].on("/", Reply::ok("slow").behind(&gate));
    eventually("the broken one is left alone, the other busy", || {
        servers.crowd(1, "/");
        states(&servers.parvis, "open") == 1.0 && servers.origins[1].count("/") == 1
    });
    servers.origins[0].on("/", Reply::ok("well again"));
    let waiting = servers.crowd(5, "/");
    std::thread::sleep(std::time::Duration::from_millis(400));
    // One more comes, and is the probe; with the server back all others are served by it.
    let probe = servers.crowd(1, "/");
    let texts: Vec<String> = (0..5).map(|_| waiting.recv().unwrap().text()).collect();
    assert!(texts.iter().all(|text| text == "well again"), "{texts:?}");
    assert_eq!(probe.recv().unwrap().text(), "well again");
    gate.open();
}
