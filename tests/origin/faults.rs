//! Many faults at once, and for long: nothing hangs, nothing leaks, nobody else notices.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{PASSING, Servers, started};
use crate::support::{Gate, PATIENCE, Reply, eventually};

#[test]
fn a_thousand_clients_that_trickle_their_heads_hold_nobody_up() {
    let servers = Servers::new(1, "max_conns: 8", PASSING);
    servers.origins[0].on("/", Reply::ok("well"));
    let slow: Vec<TcpStream> = (0..1000)
        .map(|number| {
            let mut stream = TcpStream::connect(servers.parvis.listen).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET /slow-{number} HTTP/1.1\r\nHost: shop.test\r\nX-Slow: ").unwrap();
            stream
        })
        .collect();
    for _ in 0..100 {
        assert_eq!(servers.get("/").status, 200);
        assert_eq!(servers.parvis.client().send("POST", "/", &[], b"x").status, 200);
    }
    let mut all = slow.into_iter();
    for mut stream in all.by_ref().take(3) {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert_eq!(servers.origins[0].all_received().len(), 200, "none of them reached the application");
}

#[test]
fn what_an_origin_sends_beyond_its_length_is_nobodys_answer() {
    let servers = Servers::new(1, "max_conns: 1", PASSING);
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let gate = Gate::new();
    let first = Reply::script()
        .then(format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc{poison}"))
        .then_wait(&gate);
    servers.origins[0].on("/long", first);
    servers.origins[0].on("/", Reply::ok("well"));
    for _ in 0..20 {
        assert_eq!(servers.get("/long").text(), "abc");
        assert_eq!(servers.get("/").text(), "well");
    }
    gate.open();
}

/// Every way an origin can fail, again and again. By hand with more: `PARVIS_FAULTS=100000`.
#[test]
fn faults_leave_nothing_behind() {
    let most: usize = std::env::var("PARVIS_FAULTS").map_or(6_000, |text| text.parse().expect("a number"));
    let settings =
        "max_conns: 4, circuit_breaker: {max_fails: 10000, min_requests: 1000000}, timeouts: {read: 20s}";
    let servers = Servers::new(1, settings, PASSING);
    let origin = &servers.origins[0];
    let faults = [
        Reply::script().then_close(),
        Reply::script().then_reset(),
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Le"),
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf"),
        Reply::raw("\u{1}\u{2}garbage\r\n\r\n"),
        Reply::status(503, "busy"),
    ];
    for (number, reply) in faults.iter().enumerate() {
        origin.on(&format!("/{number}"), reply.clone());
    }
    let clients = 4;
    let fail = |count: usize| {
        std::thread::scope(|scope| {
            for client in 0..clients {
                let servers = &servers;
                scope.spawn(move || {
                    for number in 0..count / clients {
                        let path = format!("/{}", (number + client) % 7);
                        let mut connection = servers.parvis.client().connect();
                        connection.write_request("GET", &path, &[("Connection", "close")], b"");
                        // Half a body has no end that could be read.
                        let _ = connection.try_read_response("GET");
                    }
                });
            }
        });
        servers.parvis.resident_memory()
    };
    let after_a_thousand = fail(1_000);
    let after_all = fail(most - 1_000);
    assert!(
        after_all < after_a_thousand + after_a_thousand / 10 + (4 << 20),
        "{} KiB, and then {} KiB",
        after_a_thousand >> 10,
        after_all >> 10
    );
    origin.on("/", Reply::ok("well"));
    assert_eq!(servers.get("/").text(), "well");
    let parvis = &servers.parvis;
    let requests = || parvis.metric("parvis_upstream_requests", "upstream=\"app\"") + servers.waiting();
    eventually("no place is held", || requests() == 0.0);
}

#[test]
fn names_that_cannot_be_looked_up_end_in_an_answer() {
    let parvis = started("\"no-such-host.invalid:80\"", "resolve_every: 1h", PASSING);
    for method in ["GET", "POST"] {
        let refused = parvis.client().send(method, "/", &[], b"");
        assert_eq!((refused.status, refused.field("retry-after").as_deref()), (503, Some("1")));
    }
}
