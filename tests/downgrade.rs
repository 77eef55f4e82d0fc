//! Requests by HTTP/2 that would be two, or another one, once they are written as HTTP/1: nothing of them may reach an application
//! but what they are. The frames are made by hand, since no library makes such ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};

use crate::support::tls::Authority;
use crate::support::{Directory, Origin, PATIENCE, Parvis, Reply, free_port};

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const RESET: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as HPACK literals, neither indexed nor in Huffman's code (RFC 7541 section 6.2.2).
fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

fn connect(address: SocketAddr) -> SslStream<TcpStream> {
    let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    connector.set_alpn_protos(b"\x02h2").unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = connector.build().connect("shop.test", stream).unwrap();
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
}

/// Whether the request was answered, and not refused by its stream or with the connection.
fn answered(stream: &mut SslStream<TcpStream>) -> bool {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).unwrap();
        match head[3] {
            HEADERS => return true,
            RESET | GO_AWAY => return false,
            _ => {}
        }
    }
}

type Request = (Vec<(&'static str, &'static str)>, &'static str);

fn base(path: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![(":method", "POST"), (":scheme", "https"), (":authority", "shop.test"), (":path", path)]
}

fn with(field: (&'static str, &'static str)) -> Vec<(&'static str, &'static str)> {
    [base("/"), vec![field]].concat()
}

/// Requests that would be two, or another one, once they are written as HTTP/1.
fn forged() -> Vec<Request> {
    let smuggled = "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let as_value: &'static str = Box::leak(format!("x{smuggled}").into_boxed_str());
    let as_name: &'static str = Box::leak(format!("x: y{smuggled}z").into_boxed_str());
    let as_path: &'static str = Box::leak(format!("/ HTTP/1.1{smuggled}").into_boxed_str());
    let as_method: &'static str = Box::leak(format!("GET /{smuggled}POST").into_boxed_str());
    vec![
        (with(("x-value", as_value)), "x=1"),
        (with((as_name, "1")), "x=1"),
        (with(("x-feed", "a\nx-smuggled: 1")), "x=1"),
        (with(("x-return", "a\rx-smuggled: 1")), "x=1"),
        (with(("x-null", "a\0b")), "x=1"),
        (with(("X-Upper", "1")), "x=1"),
        (with(("x space", "1")), "x=1"),
        (
            with(("transfer-encoding", "chunked")),
            "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        ),
        (with(("content-length", "0")), "GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
        (with(("content-length", "999")), "x=1"),
        (with(("content-length", "+3")), "x=1"),
        (with(("connection", "x-kept")), "x=1"),
        (with(("host", "evil.test")), "x=1"),
        ([base(as_path)].concat(), "x=1"),
        (base("/ HTTP/1.1"), "x=1"),
        (base("smuggled"), "x=1"),
        (base("http://evil.test/smuggled"), "x=1"),
        (
            vec![(":method", as_method), (":scheme", "https"), (":authority", "shop.test"), (":path", "/")],
            "x=1",
        ),
        (
            vec![
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", "shop.test\r\nx-smuggled: 1"),
                (":path", "/"),
            ],
            "x=1",
        ),
        (
            vec![
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", "evil.test/smuggled?"),
                (":path", "/"),
            ],
            "x=1",
        ),
        (vec![(":method", "POST"), (":scheme", "https"), (":path", "/")], "x=1"),
        ([base("/"), vec![(":path", "/smuggled")]].concat(), "x=1"),
    ]
}

#[test]
fn a_request_by_http_2_stays_one_request_and_the_one_it_is() {
    let (origin, directory) = (Origin::start(), Directory::new());
    let (certificate, key) = Authority::new(directory.path()).sign("shop", &["shop.test"]);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _parvis = Parvis::start(&format!(
        "listen: [{{address: {{listen}}}}, {{address: \"{address}\", tls: [{{certificate: \"{}\", key: \"{}\"}}]}}]\nadmin: {{listen: {{admin}}}}\nupstreams: {{app: {{servers: [\"{}\"]}}}}\nroutes: [{{name: all, cache: {{mode: off}}}}]\n",
        certificate.display(),
        key.display(),
        origin.address
    ));
    origin.on("/", Reply::ok("one"));
    // One that is fine arrives: what is refused below is refused for what it is.
    let mut fine = connect(address);
    let head = frame(HEADERS, END_HEADERS, 1, &literals(&with(("x-fine", "1"))));
    fine.write_all(&[head, frame(DATA, END_STREAM, 1, b"x=1")].concat()).unwrap();
    assert!(answered(&mut fine));
    let received = origin.received("/").pop().unwrap();
    assert_eq!(
        (received.field("x-fine").as_deref(), received.field("host").as_deref()),
        (Some("1"), Some("shop.test"))
    );
    assert!(String::from_utf8_lossy(&received.body).contains("x=1"));
    for (fields, body) in forged() {
        let before = origin.all_received().len();
        let mut stream = connect(address);
        let head = frame(HEADERS, END_HEADERS, 1, &literals(&fields));
        let data = frame(DATA, END_STREAM, 1, body.as_bytes());
        // It may be closed before all is written.
        let _ = stream.write_all(&[head, data].concat());
        answered(&mut stream);
        // Whatever follows on the connection to the origin would be seen with the next request.
        let mut next = connect(address);
        next.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(&base("/")))).unwrap();
        assert!(answered(&mut next), "{fields:?}");
        let received = origin.all_received();
        assert!(received.len() - before <= 2, "{fields:?}: {:?}", &received[before..]);
        for request in &received[before..] {
            assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/"), "{fields:?}");
            assert_eq!(request.field("host").as_deref(), Some("shop.test"), "{fields:?}");
            assert_eq!(request.field("x-smuggled"), None, "{fields:?}");
            let is_whole = request.body.is_empty() || String::from_utf8_lossy(&request.body).contains(body);
            assert!(is_whole, "{fields:?}: {}", String::from_utf8_lossy(&request.body));
        }
    }
    assert_eq!(origin.count("/smuggled"), 0);
}
