//! Which requests are sent once more.

use super::{PASSING, Servers};
use crate::support::{Reply, eventually};

const PATIENT: &str = "circuit_breaker: {max_fails: 1000, min_requests: 1000}";

fn send(servers: &Servers, method: &str) -> u16 {
    servers.parvis.client().send(method, "/", &[], b"").status
}

#[test]
fn only_what_may_be_repeated_is_and_only_after_what_the_operator_names() {
    let settings = format!("retries: {{attempts: 1, on: [error, http_503]}}, {PATIENT}");
    let servers = Servers::new(1, &settings, PASSING);
    let origin = &servers.origins[0];
    for (broken, method, status, sent) in [
        (Reply::script().then_close(), "GET", 200, 2),
        (Reply::script().then_close(), "POST", 502, 1),
        (Reply::script().then_close(), "PUT", 200, 2),
        (Reply::status(503, "busy"), "GET", 200, 2),
        (Reply::status(503, "busy"), "POST", 503, 1),
        (Reply::status(500, "broken"), "GET", 500, 1),
        (Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "GET", 200, 1),
    ] {
        let before = origin.count("/");
        origin.on_sequence("/", vec![broken, Reply::ok("well")]);
        let client = servers.parvis.client();
        let mut connection = client.connect();
        connection.write_request(method, "/", &[], b"");
        // Of half a body nothing may follow but the end.
        let answered = connection.try_read_response(method).map_or(200, |response| response.status);
        assert_eq!((answered, origin.count("/") - before), (status, sent), "{method} {status}");
    }
}

#[test]
fn a_request_that_no_server_survives_is_not_taken_round() {
    let servers = Servers::new(3, PATIENT, PASSING);
    for origin in &servers.origins {
        origin.on("/", Reply::script().then_close());
    }
    assert_eq!(send(&servers, "GET"), 502);
    assert_eq!(servers.counts("/").iter().sum::<usize>(), 1);
}

#[test]
fn what_meets_a_closing_connection_is_sent_again() {
    let servers = Servers::new(1, PATIENT, PASSING);
    let origin = &servers.origins[0];
    origin.on("/", Reply::ok("first"));
    assert_eq!(send(&servers, "GET"), 200);
    // It is logged when its connection has been put away.
    eventually("the connection is kept", || servers.parvis.access_log().len() == 1);
    // And breaks off with the next request.
    origin.on_sequence("/", vec![Reply::script().then_close(), Reply::ok("second")]);
    assert_eq!(send(&servers, "GET"), 200);
    assert_eq!(origin.count("/"), 3);
}

#[test]
fn retries_do_not_multiply_an_outage() {
    let settings = format!("retries: {{attempts: 2, on: [error], budget: 10%}}, {PATIENT}");
    let servers = Servers::new(2, &settings, PASSING);
    for origin in &servers.origins {
        origin.on("/", Reply::script().then_close());
    }
    for _ in 0..50 {
        assert_eq!(send(&servers, "GET"), 502);
    }
    let sent = servers.counts("/").iter().sum::<usize>();
    assert!((60..=65).contains(&sent), "{sent} for 50, ten of them in reserve");
    assert_eq!(
        servers.parvis.metric("parvis_upstream_retries_total", "failure=\"broken\""),
        (sent - 50) as f64
    );
}

#[test]
fn a_content_that_is_sent_again_is_whole() {
    let settings = format!("retries: {{on: [error]}}, {PATIENT}");
    let servers = Servers::new(1, &settings, PASSING);
    let origin = &servers.origins[0];
    for (length, status, sent) in [(40_000, 200, 2), (400_000, 502, 1)] {
        let before = origin.count("/");
        origin.on_sequence("/", vec![Reply::script().then_close(), Reply::ok("well")]);
        let body = "x".repeat(length);
        let response = servers.parvis.client().send("PUT", "/", &[], body.as_bytes());
        assert_eq!((response.status, origin.count("/") - before), (status, sent), "{length}");
        let last = origin.received("/").pop().unwrap();
        assert_eq!(last.body.len(), length);
    }
}
