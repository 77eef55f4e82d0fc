//! Servers and clients that take their time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{PASSING, Servers, started};
use crate::support::{Parvis, Reply, eventually};

const STEP: Duration = Duration::from_millis(100);
const BOTH: &str =
    "routes: [{name: passed, match: {path: /passed/*}, cache: {mode: off}}, {name: all, cache: {ttl: 1m}}]";

#[test]
fn a_head_has_to_be_whole_in_time_and_its_body_may_take_longer() {
    let settings = "timeouts: {first_byte: 500ms, read: 20s}, retries: {attempts: 0}";
    let servers = Servers::new(1, settings, BOTH);
    let origin = &servers.origins[0];
    // Each byte comes soon after the last, and the head never ends.
    let mut trickle = Reply::script().then("HTTP/1.1 200 OK\r\nX: ");
    for _ in 0..100 {
        trickle = trickle.then("x").then_sleep(STEP);
    }
    let late_body = Reply::script()
        .then("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        .then_sleep(10 * STEP)
        .then("late");
    for below in ["/passed", ""] {
        let path = |name: &str| format!("{below}/{name}");
        origin.on(&path("silent"), Reply::ok("").delayed(100 * STEP));
        origin.on(&path("trickle"), trickle.clone());
        origin.on(&path("late"), late_body.clone());
        for (name, status, text) in
            [("silent", 504, None), ("trickle", 504, None), ("late", 200, Some("late"))]
        {
            let response = servers.get(&path(name));
            assert_eq!(response.status, status, "{below} {name} {}", response.text());
            assert!(text.is_none_or(|text| response.text() == text), "{response:?}");
        }
    }
    let timeouts = servers.parvis.metric("parvis_upstream_failures_total", "failure=\"timeout\"");
    assert_eq!(timeouts, 4.0, "be the connection new or used before");
}

#[test]
fn a_connection_has_a_time_of_its_own_by_route() {
    // Nobody accepts, and there is no room to wait for that: who connects hears nothing.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _waiting: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&address, 2 * STEP)).collect();
    let routes = "routes: [{name: all, cache: {mode: off}, timeouts: {connect: 300ms}}]";
    let settings = "timeouts: {connect: 1h, total: 1h}, retries: {attempts: 0}";
    let parvis = started(&format!("\"{address}\""), settings, routes);
    let response = parvis.client().get("/");
    assert_eq!((response.status, response.detail().as_str()), (504, "origin-timeout"));
}

#[test]
fn an_upload_may_take_longer_than_the_head_of_its_answer() {
    let servers = Servers::new(1, "timeouts: {first_byte: 500ms}", PASSING);
    servers.origins[0].on("/", Reply::ok("taken"));
    let mut connection = servers.parvis.client().connect();
    connection.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\n");
    for _ in 0..10 {
        std::thread::sleep(STEP);
        connection.write(b"x");
    }
    assert_eq!(connection.read_response("POST").text(), "taken");
}

fn too_slow(parvis: &Parvis) -> f64 {
    parvis.metric("parvis_limit_reached_total", "limit=\"min_rate\"")
}

#[test]
fn a_client_that_trickles_its_body_is_ended() {
    let clients = "clients: {stall_timeout: 500ms, min_rate: 1KiB}\n";
    let servers = Servers::new(1, "max_conns: 10", &format!("{PASSING}\n{clients}"));
    servers.origins[0].on("/", Reply::ok("taken"));
    let mut connection = servers.parvis.client().connect();
    connection.write(b"POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1000\r\n\r\n");
    let ended = (0..100).any(|_| {
        std::thread::sleep(STEP);
        connection.stream.write_all(b"x").is_err()
    });
    assert!(ended, "it was never silent for as long as it may be");
    eventually("it is counted", || too_slow(&servers.parvis) == 1.0);
    assert_eq!(servers.get("/").text(), "taken");
}

/// What a client gets that takes a piece of so many bytes at each step.
fn read_in_steps(parvis: &Parvis, path: &str, field: &str, piece: usize) -> usize {
    let mut connection = parvis.client().connect();
    connection.write(
        format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{field}Connection: close\r\n\r\n").as_bytes(),
    );
    let (mut got, mut piece) = (0, vec![0; piece]);
    while let Ok(length @ 1..) = connection.stream.read(&mut piece) {
        got += length;
        std::thread::sleep(STEP);
    }
    got
}

#[test]
fn a_client_that_is_slow_but_takes_what_comes_gets_all_of_it() {
    let clients = "clients: {stall_timeout: 1s, min_rate: 1MiB}\n";
    let servers = Servers::new(1, "max_conns: 10", &format!("{BOTH}\n{clients}"));
    let large = vec![b'x'; 24 << 20];
    servers.origins[0].on("/large", Reply::ok(large.clone()));
    // Often enough for the file that it is then sent from.
    (0..12).for_each(|_| assert_eq!(servers.get("/large").status, 200));
    for field in ["", "Range: bytes=1-\r\n"] {
        let got = read_in_steps(&servers.parvis, "/large", field, 512 * 1024);
        assert!(got >= large.len() - 1, "{field}: {got}");
    }
    assert_eq!(too_slow(&servers.parvis), 0.0);
}

#[test]
fn a_client_that_reads_too_slowly_is_ended() {
    let clients = "clients: {stall_timeout: 1s, min_rate: 100MiB}\n";
    let servers = Servers::new(1, "max_conns: 10", &format!("{BOTH}\n{clients}"));
    let large = vec![b'x'; 32 << 20];
    for (at, path) in ["/passed/large", "/large", "/large"].into_iter().enumerate() {
        servers.origins[0].on(path, Reply::ok(large.clone()));
        let got = read_in_steps(&servers.parvis, path, "", 256 * 1024);
        assert!(got < large.len(), "{path}: {got}");
        eventually("it is counted", || too_slow(&servers.parvis) == (at + 1) as f64);
        assert_eq!(servers.get(path).body.len(), large.len(), "who reads gets it");
    }
}
