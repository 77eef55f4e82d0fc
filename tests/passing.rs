//! What passes through: switched protocols, streams, uploads, old clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{Gate, Origin, PATIENCE, Parvis, Reply, Rig, eventually};

const PASSING: &str = "routes: [{name: all, cache: {mode: off}, timeouts: {read: 20s}}]";

/// An origin that does with each connection what it is told, once it has read a head.
fn raw_origin(answer: impl Fn(TcpStream, String) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let head = read_head(&mut stream);
                answer(stream, head);
            });
        }
    });
    address
}

fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn before(origin: SocketAddr, settings: &str) -> Parvis {
    Parvis::start(&format!(
        "listen: {{listen}}\nadmin: {{listen: {{admin}}}}\nupstreams: {{app: {{servers: [\"{origin}\"], {settings}}}}}\n{PASSING}\n"
    ))
}

fn connected(parvis: &Parvis) -> TcpStream {
    let stream = TcpStream::connect(parvis.listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(read.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[test]
fn a_websocket_speaks_both_ways_however_early_it_is_accepted_and_takes_no_place() {
    // The first message comes with the head.
    let origin = raw_origin(|mut stream, head| {
        if !head.starts_with("GET /ws ") {
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nplain");
            return;
        }
        let _ = stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        );
        let mut message = [0; 4];
        while stream.read_exact(&mut message).is_ok() {
            message.reverse();
            if stream.write_all(&message).is_err() {
                return;
            }
        }
    });
    let parvis = before(origin, "max_conns: 1");
    let mut open = Vec::new();
    for round in 0..50 {
        let mut socket = connected(&parvis);
        socket.write_all(UPGRADE).unwrap();
        let head = read_head(&mut socket);
        assert!(head.starts_with("HTTP/1.1 101 "), "{round}: {head}");
        exactly(&mut socket, b"hello");
        for message in [b"abcd", b"1234"] {
            socket.write_all(message).unwrap();
            let mut expected = *message;
            expected.reverse();
            exactly(&mut socket, &expected);
        }
        open.push(socket);
    }
    assert_eq!(parvis.client().get("/").text(), "plain", "fifty open sockets take none of one place");
    open.iter_mut().for_each(|socket| socket.write_all(b"ping").unwrap());
    open.iter_mut().for_each(|socket| exactly(socket, b"gnip"));
}

#[test]
fn events_come_when_they_happen() {
    let rig = Rig::new(PASSING);
    let (first, second) = (Gate::new(), Gate::new());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = Reply::script().then(head).then_wait(&first).then("9\r\ndata: 1\n\n\r\n").then_wait(&second);
    rig.origin.on("/events", reply.then("9\r\ndata: 2\n\n\r\n").then("0\r\n\r\n"));
    let mut client = connected(&rig.parvis);
    client
        .write_all(b"GET /events HTTP/1.1\r\nHost: shop.test\r\nAccept-Encoding: identity\r\n\r\n")
        .unwrap();
    assert!(
        read_head(&mut client).contains("text/event-stream"),
        "by it a browser knows that it is connected"
    );
    first.open();
    exactly(&mut client, b"9\r\ndata: 1\n\n\r\n");
    second.open();
    exactly(&mut client, b"9\r\ndata: 2\n\n\r\n0\r\n\r\n");
}

#[test]
fn a_head_does_not_wait_for_a_slow_body() {
    let rig = Rig::new(
        "routes:\n  - {name: passed, match: {path: /passed}, cache: {mode: off}}\n  - {name: stored, cache: {ttl: 1m}}",
    );
    for path in ["/passed", "/stored"] {
        let gate = Gate::new();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 4\r\n\r\n";
        rig.origin.on(path, Reply::script().then(head).then_wait(&gate).then("body"));
        let mut client = connected(&rig.parvis);
        client.write_all(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n").as_bytes()).unwrap();
        assert!(read_head(&mut client).contains("Content-Length: 4"), "{path}");
        gate.open();
        exactly(&mut client, b"body");
    }
}

#[test]
fn an_upload_reaches_the_origin_while_it_is_sent() {
    let (sender, receiver) = mpsc::channel();
    let origin = raw_origin(move |mut stream, _| {
        let mut buffer = [0; 4096];
        let mut received = Vec::new();
        while !received.ends_with(b"0\r\n\r\n") {
            let Ok(read @ 1..) = stream.read(&mut buffer) else { return };
            received.extend_from_slice(&buffer[..read]);
            let _ = sender.send(String::from_utf8_lossy(&received).into_owned());
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    });
    let parvis = before(origin, "max_conns: 1");
    let mut client = connected(&parvis);
    client
        .write_all(
            b"POST /up HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        )
        .unwrap();
    assert!(
        receiver.recv_timeout(PATIENCE).unwrap().contains("first"),
        "before the client has sent the rest"
    );
    client.write_all(b"4\r\nlast\r\n0\r\n\r\n").unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200"));
    exactly(&mut client, b"done");
}

#[test]
fn who_asks_first_whether_to_send_is_told_by_the_origin() {
    let origin = raw_origin(|mut stream, head| {
        if !head.to_ascii_lowercase().contains("expect: 100-continue") {
            let _ = stream.write_all(
                b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
            return;
        }
        if head.contains("/no") {
            let _ =
                stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        let mut body = [0; 4];
        if stream.read_exact(&mut body).is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(&body);
        }
    });
    let parvis = before(origin, "max_conns: 4");
    let ask = |path: &str| {
        let mut client = connected(&parvis);
        write!(
            client,
            "POST {path} HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        .unwrap();
        client
    };
    let mut client = ask("/yes");
    assert!(read_head(&mut client).starts_with("HTTP/1.1 100 Continue"));
    client.write_all(b"body").unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200"));
    exactly(&mut client, b"body");
    assert!(read_head(&mut ask("/no")).starts_with("HTTP/1.1 413"), "without having sent anything");
}

#[test]
fn a_client_of_http_1_0_reads_to_the_end_of_the_connection_and_may_keep_it() {
    let rig = Rig::new(PASSING);
    rig.origin.on("/chunks", Reply::ok("").chunked(&["one ", "two"]));
    rig.origin.on("/length", Reply::ok("four"));
    let mut client = connected(&rig.parvis);
    client.write_all(b"GET /chunks HTTP/1.0\r\nHost: shop.test\r\n\r\n").unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(
        response.ends_with("\r\n\r\none two") && !response.to_lowercase().contains("transfer-encoding"),
        "{response}"
    );
    // As `ab -k` does.
    let mut client = connected(&rig.parvis);
    for _ in 0..3 {
        client
            .write_all(b"GET /length HTTP/1.0\r\nHost: shop.test\r\nConnection: Keep-Alive\r\n\r\n")
            .unwrap();
        let head = read_head(&mut client).to_lowercase();
        assert!(head.contains("content-length: 4") && head.contains("connection: keep-alive"), "{head}");
        exactly(&mut client, b"four");
    }
}

#[test]
fn a_large_download_takes_no_memory_to_speak_of() {
    let origin = raw_origin(|mut stream, _| {
        let piece = vec![b'x'; 1 << 20];
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\nConnection: close\r\n\r\n");
        for _ in 0..256 {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let parvis = before(origin, "max_conns: 4");
    let mut client = connected(&parvis);
    client.write_all(b"GET /large HTTP/1.1\r\nHost: shop.test\r\n\r\n").unwrap();
    read_head(&mut client);
    let mut piece = vec![0; 1 << 20];
    let (mut least, mut most, mut length) = (u64::MAX, 0, 0);
    while length < 268_435_456 {
        length += client.read(&mut piece).unwrap();
        let memory = parvis.resident_memory();
        (least, most) = (least.min(memory), most.max(memory));
    }
    assert!(most - least < 32 << 20, "{} MiB", (most - least) >> 20);
}

#[test]
fn a_route_may_wait_longer_than_its_upstream_or_less_long() {
    let origin = Origin::start();
    let slow = || Reply::ok("late").delayed(Duration::from_millis(700));
    origin.on("/patient", slow());
    origin.on("/quick", slow());
    let routes = "routes:\n  - {name: quick, match: {path: /quick}, cache: {mode: off}, timeouts: {read: 200ms}}\n  - {name: patient, match: {path: /patient}, cache: {ttl: 1m}, timeouts: {read: 20s}}\n  - {name: rest}";
    let parvis = Parvis::start(&format!(
        "listen: {{listen}}\nadmin: {{listen: {{admin}}}}\nupstreams: {{app: {{servers: [\"{}\"], timeouts: {{read: 300ms}}}}}}\n{routes}\n",
        origin.address
    ));
    assert_eq!(parvis.client().get("/patient").text(), "late");
    let late = parvis.client().get("/quick");
    assert_eq!((late.status, late.detail().as_str()), (504, "origin-timeout"));
    eventually("both are logged", || parvis.access_log().len() == 2);
}

#[test]
fn trailers_of_http_1_end_at_parvis_and_the_body_does_not() {
    let rig = Rig::new(PASSING);
    let head = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    rig.origin.on("/", Reply::script().then(head).then("4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n"));
    for _ in 0..3 {
        let response = rig.get("/");
        assert_eq!((response.text().as_str(), response.field("x-sum")), ("body", None));
    }
}

#[test]
fn nobody_is_connected_through() {
    let rig = Rig::new(PASSING);
    let mut client = connected(&rig.parvis);
    client.write_all(b"CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n").unwrap();
    let refusal = read_head(&mut client);
    assert!(refusal.starts_with("HTTP/1.1 405 ") && refusal.contains("\r\nAllow: GET, "), "{refusal}");
    eventually("it is logged", || rig.parvis.access_log().iter().any(|line| line["status"] == 405));
    assert!(rig.origin.all_received().is_empty());
}
