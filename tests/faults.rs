//! Origins that fail and clients that misbehave: nothing hangs, nothing broken is stored, nobody else suffers.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Gate, Parvis, Reply, Rig, eventually, free_port, upstream};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

fn with_dead_origin() -> Parvis {
    let dead = ([127, 0, 0, 1], free_port()).into();
    Parvis::start(&upstream(dead, "{connect: 1s, read: 1s, idle: 1s}", MINUTE))
}

#[test]
fn an_origin_that_is_down_gives_a_502_that_names_the_request() {
    let parvis = with_dead_origin();
    for (method, cookie) in [("GET", ""), ("GET", "sessionid=1"), ("POST", "")] {
        let fields: &[(&str, &str)] = if cookie.is_empty() { &[] } else { &[("Cookie", cookie)] };
        let response = parvis.client().send(method, "/", fields, b"");
        let id = response.field("x-request-id").expect("an id");
        assert_eq!(
            (response.status, response.detail() == "origin-unreachable"),
            (502, true),
            "{}",
            response.head
        );
        assert_eq!(
            response.text(),
            format!("502 the application cannot be reached, or gave no usable answer\nrequest id: {id}\n")
        );
        assert_eq!(response.field("cache-control").as_deref(), Some("no-store"));
        let logged = |line: &serde_json::Value| line["request_id"] == id.as_str() && line["status"] == 502;
        eventually("it is logged", || parvis.access_log().iter().any(logged));
    }
    assert_eq!(parvis.client().send("HEAD", "/", &[], b"").status, 502);
}

#[test]
fn what_is_broken_before_its_body_is_a_502_and_not_stored() {
    let rig = Rig::new(MINUTE);
    for (path, reply) in [
        ("/closed", Reply::script().then_close()),
        ("/reset", Reply::script().then_reset()),
        ("/half-head", Reply::raw("HTTP/1.1 200 OK\r\nContent-Le")),
        ("/garbage", Reply::raw("\u{1}\u{2}garbage\r\n\r\n")),
        ("/bad-length", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc")),
    ] {
        rig.origin.on(path, reply);
        let response = rig.get(path);
        assert_eq!(response.status, 502, "{path}: {}", response.head);
        rig.origin.on(path, Reply::ok("well"));
        assert_eq!((rig.get(path).verdict(), rig.get(path).text().as_str()), ("miss", "well"), "{path}");
    }
}

#[test]
fn a_body_that_breaks_off_is_seen_to_and_is_not_stored() {
    let rig = Rig::new(MINUTE);
    for (path, reply) in [
        ("/length", Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")),
        ("/chunks", Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")),
        ("/in-a-chunk", Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc")),
        ("/bad-chunk", Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")),
        ("/personal", Reply::raw("HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 10\r\n\r\nabc")),
    ] {
        rig.origin.on(path, reply);
        let broken = rig.get(path);
        assert!(!broken.complete, "{path} looks complete: {:?}", broken.text());
        rig.origin.on(path, Reply::ok("well"));
        assert_eq!(rig.get(path).text(), "well", "{path}");
    }
    assert!(rig.parvis.metric("parvis_fetches_total", "result=\"broken\"") >= 4.0);
}

#[test]
fn a_silent_origin_is_given_up_on_with_a_504() {
    let rig = Rig::with_timeouts("{connect: 1s, read: 200ms, idle: 1s}", MINUTE);
    rig.origin.on("/", Reply::ok("late").delayed(Duration::from_secs(2)));
    for fields in [&[][..], &[("Cookie", "sessionid=1")][..]] {
        let response = rig.get_with("/", fields);
        assert_eq!(
            (response.status, response.detail() == "origin-timeout"),
            (504, true),
            "{}",
            response.head
        );
    }
}

#[test]
fn all_who_wait_for_a_failing_fetch_fail_with_it_and_the_origin_is_asked_once() {
    let rig = Arc::new(Rig::new(MINUTE));
    let gate = Gate::new();
    rig.origin.on("/", Reply::script().then_wait(&gate).then_close());
    let before = rig.parvis.metric("parvis_connections_total", "");
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let rig = rig.clone();
            std::thread::spawn(move || rig.get("/").status)
        })
        .collect();
    eventually("all are connected", || rig.parvis.metric("parvis_connections_total", "") >= before + 20.0);
    gate.open();
    let statuses: Vec<u16> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert!(statuses.iter().all(|status| *status == 502), "{statuses:?}");
    assert!(rig.origin.count("/") <= 2, "{} fetches", rig.origin.count("/"));
}

#[test]
fn a_connection_that_the_origin_closed_meanwhile_is_replaced() {
    let rig = Rig::new("routes: [{name: all}]");
    rig.origin.on("/", Reply::ok("x").close());
    for method in ["GET", "GET", "POST", "GET"] {
        let response = rig.send(method, "/", "");
        assert_eq!((response.status, response.text().as_str()), (200, "x"), "{method}");
        // A POST that crosses the end of its connection is rightly not sent again.
        eventually("the origin has closed it", || rig.origin.open_connections() == 0);
    }
}

#[test]
fn malformed_requests_are_refused_and_others_go_on() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    for bytes in [
        "GARBAGE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        let answer = String::from_utf8_lossy(&rig.parvis.client().raw(bytes.as_bytes())).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400"), "{bytes:?}: {answer}");
        assert_eq!(rig.get("/").status, 200);
    }
    assert!(
        rig.origin.all_received().iter().all(|request| request.method == "GET" && request.body.is_empty())
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::new(MINUTE);
    for path in ["/a", "/b", "/c"] {
        rig.origin.on(path, Reply::ok(path));
    }
    let mut connection = rig.parvis.client().connect();
    let requests: String =
        ["/a", "/b", "/a", "/c"].iter().map(|p| format!("GET {p} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    connection.write(requests.as_bytes());
    for path in ["/a", "/b", "/a", "/c"] {
        assert_eq!(connection.read_response("GET").text(), path);
    }
}

#[test]
fn an_http_1_0_client_gets_a_body_it_understands() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/stored", Reply::ok("").chunked(&["abc", "def"]));
    for _ in 0..2 {
        let answer = rig.parvis.client().raw(b"GET /stored HTTP/1.0\r\nHost: h\r\n\r\n");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            !answer.to_ascii_lowercase().contains("chunked") && answer.ends_with("\r\n\r\nabcdef"),
            "{answer}"
        );
    }
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_body_harms_nobody() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    let mut halting = rig.parvis.client().connect();
    halting.stream.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
    drop(halting);
    for _ in 0..5 {
        assert_eq!(rig.send("POST", "/", "whole").status, 200);
    }
    let whole = |request: &crate::support::origin::Received| request.body == b"whole";
    assert!(rig.origin.received("/").iter().all(whole), "no body is completed with another's bytes");
}

#[test]
fn a_request_after_an_unread_body_is_not_taken_from_it() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    rig.get("/");
    let mut connection = rig.parvis.client().connect();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    connection.write_request(
        "GET",
        "/",
        &[("Content-Length", &smuggled.len().to_string())],
        smuggled.as_bytes(),
    );
    assert_eq!(connection.read_response("GET").status, 200);
    connection.write_request("GET", "/", &[], b"");
    if let Some(next) = connection.try_read_response("GET") {
        assert_eq!(next.text(), "x");
    }
    assert_eq!(rig.origin.count("/smuggled"), 0);
}

#[test]
fn a_client_that_has_finished_sending_still_gets_its_page() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x").delayed(Duration::from_millis(100)));
    for verdict in ["miss", "hit"] {
        let mut connection = rig.parvis.client().connect();
        connection.write_request("GET", "/", &[], b"");
        connection.finish_sending();
        assert_eq!(connection.read_response("GET").verdict(), verdict);
    }
}

#[test]
fn upgraded_connections_pass_through() {
    let rig = Rig::new(MINUTE);
    let gate = Gate::new();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    rig.origin.on("/", Reply::script().then_wait(&gate).then(switch).then("hello").then_close());
    let mut connection = rig.parvis.client().connect();
    connection.write_request("GET", "/", &[("Connection", "Upgrade"), ("Upgrade", "websocket")], b"");
    eventually("the origin has the request", || rig.origin.count("/") == 1);
    gate.open();
    assert_eq!(connection.read_response("GET").status, 101);
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut connection.stream, &mut rest);
    assert!(rest.ends_with(b"hello") || connection_had(&connection, b"hello"), "{rest:?}");
}

/// Bytes that came together with the head.
fn connection_had(connection: &crate::support::client::Connection, bytes: &[u8]) -> bool {
    connection.unread().ends_with(bytes)
}
