//! TLS and HTTP/2 to clients, redirects to them, and the PROXY protocol before them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use openssl::ssl::SslVersion;

use crate::support::tls::{Authority, connect};
use crate::support::{Directory, Gate, GrpcOrigin, Http2, Origin, Parvis, Reply, eventually, free_port};

/// A parvis with a TLS listener, and a plain one beside it.
struct Secure {
    origin: Origin,
    parvis: Parvis,
    address: SocketAddr,
    authority: Authority,
    directory: Directory,
}

impl Secure {
    /// `more` is said of the plain listener.
    fn new(more: &str, routes: &str) -> Self {
        Self::with(more, "", routes)
    }

    /// The same, with these settings of the upstream.
    fn with(more: &str, settings: &str, routes: &str) -> Self {
        let (origin, directory) = (Origin::start(), Directory::new());
        let authority = Authority::new(directory.path());
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let pair = |file: &str, names: &[&str]| {
            let (certificate, key) = authority.sign(file, names);
            format!("{{certificate: \"{}\", key: \"{}\"}}", certificate.display(), key.display())
        };
        let certificates = [pair("shop", &["shop.test"]), pair("other", &["*.other.test"])].join(", ");
        let parvis = Parvis::start(&format!(
            "listen: [{{address: {{listen}}{more}}}, {{address: \"{address}\", tls: [{certificates}]}}]\nadmin: {{listen: {{admin}}}}\ntrusted_proxies: [127.0.0.2]\nupstreams: {{app: {{servers: [\"{}\"]{settings}}}}}\n{routes}\n",
            origin.address
        ));
        Self { origin, parvis, address, authority, directory }
    }

    fn get(&self, name: &str, path: &str) -> String {
        let mut stream = connect(self.address, &self.authority, name, None).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }
}

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

#[test]
fn each_name_gets_its_certificate_and_pages_over_tls_are_pages_of_their_own() {
    let secure = Secure::new("", MINUTE);
    assert!(!secure.parvis.errors().contains("ERROR"), "{}", secure.parvis.errors());
    secure.origin.on_each("/", |request| Reply::ok(request.field("x-forwarded-proto").unwrap_or_default()));
    for verdict in ["fwd=miss", "hit"] {
        let response = secure.get("shop.test", "/");
        assert!(response.contains(verdict) && response.ends_with("https"), "{response}");
    }
    assert!(secure.get("a.other.test", "/").ends_with("https"));
    assert!(
        connect(secure.address, &secure.authority, "b.a.other.test", None).is_err(),
        "no certificate for it"
    );
    assert_eq!(secure.parvis.client().get("/").text(), "http");
}

#[test]
fn old_versions_of_tls_are_refused() {
    let secure = Secure::new("", MINUTE);
    for (version, is_spoken) in
        [(SslVersion::TLS1_1, false), (SslVersion::TLS1_2, true), (SslVersion::TLS1_3, true)]
    {
        let connected = connect(secure.address, &secure.authority, "shop.test", Some(version));
        assert_eq!(connected.is_ok(), is_spoken, "{version:?}");
    }
}

#[test]
fn a_certificate_that_is_renewed_is_shown_and_no_connection_ends_for_it() {
    let secure = Secure::new("", MINUTE);
    secure.origin.on("/", Reply::ok("x"));
    let mut open = connect(secure.address, &secure.authority, "shop.test", None).unwrap();
    let shown = || {
        let stream = connect(secure.address, &secure.authority, "shop.test", None).unwrap();
        let certificate = stream.ssl().peer_certificate().unwrap();
        certificate.serial_number().to_bn().unwrap().to_string()
    };
    let before = shown();
    // A key that is not its own is refused, and told; the old one goes on.
    let key = secure.directory.path().join("shop.key");
    std::fs::copy(secure.directory.path().join("other.key"), &key).unwrap();
    eventually("it is told", || secure.parvis.errors().contains("is not the key of"));
    assert_eq!(shown(), before);
    secure.authority.sign("shop", &["shop.test", "new.test"]);
    eventually("the new one is shown", || shown() != before);
    assert!(secure.get("new.test", "/").contains("200 OK"));
    write!(open, "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    open.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

#[test]
fn http_goes_to_https_but_for_what_authorities_ask() {
    let secure = Secure::new(", redirect_to_https: 443", MINUTE);
    secure.origin.on("/page", Reply::ok("page"));
    secure.origin.on("/.well-known/acme-challenge/token", Reply::ok("token"));
    assert!(secure.get("shop.test", "/page").ends_with("page"));
    for method in ["GET", "POST"] {
        let fields = [("Host", "shop.test:8080")];
        let response = secure.parvis.client().send(method, "/page?a=b", &fields, b"");
        assert_eq!(response.status, 308);
        assert_eq!(response.field("location").as_deref(), Some("https://shop.test/page?a=b"));
    }
    let nowhere = secure.parvis.client().raw(b"GET /page HTTP/1.0\r\n\r\n");
    assert!(nowhere.starts_with(b"HTTP/1.0 400") || nowhere.starts_with(b"HTTP/1.1 400"));
    assert_eq!(secure.parvis.client().get("/.well-known/acme-challenge/token").text(), "token");
    assert_eq!(secure.origin.count("/page"), 1);
}

#[test]
fn http_2_is_spoken_and_shares_the_store() {
    let secure = Secure::new("", MINUTE);
    let client = Http2::new(secure.address, "shop.test");
    secure.origin.on_each("/", |request| Reply::ok(request.field("host").unwrap_or_default()));
    secure.origin.on_each("/mine", |request| Reply::ok(request.field("cookie").unwrap_or_default()));
    secure.origin.on("/chunks", Reply::ok("").chunked(&["one ", "two"]));
    let response = client.get("/");
    assert_eq!((response.text().as_str(), response.verdict()), ("shop.test", "miss"), "{response:?}");
    assert!(secure.get("shop.test", "/").contains("; hit"), "HTTP/1 gets what HTTP/2 has fetched");
    assert_eq!(client.get("/").verdict(), "hit");
    // Cut into two lines, which a server of HTTP/1 would not put together.
    let cookies = [("cookie", "sessionid=1"), ("cookie", "theme=dark")];
    assert_eq!(client.send("GET", "/mine", &cookies).text(), "sessionid=1; theme=dark");
    let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("cookie");
    assert_eq!(secure.origin.received("/mine")[0].fields.iter().filter(named).count(), 1);
    assert_eq!(client.get("/chunks").text(), "one two");
}

#[test]
fn the_front_answers_hits_by_http_2() {
    let secure = Secure::new("", MINUTE);
    let client = Http2::new(secure.address, "shop.test");
    let large = "0123456789".repeat(100_000);
    secure.origin.on("/small", Reply::ok("small").field("ETag", "\"s\""));
    secure.origin.on("/large", Reply::ok(large.as_str()));
    ["/small", "/large"].iter().for_each(|path| drop(client.get(path)));
    let lent = || secure.parvis.metric("parvis_lent_total", "");
    let before = lent();
    assert_eq!(client.get("/small").text(), "small");
    assert_eq!(client.get("/large").text(), large);
    assert_eq!(client.send("GET", "/small", &[("if-none-match", "\"s\"")]).status, 304);
    let head = client.send("HEAD", "/large", &[]);
    assert_eq!((head.field("content-length").as_deref(), head.body.len()), (Some("1000000"), 0));
    assert_eq!(lent(), before, "Pingora saw none of them");
    client.get("/other");
    assert_eq!(lent(), before + 1.0);
    eventually("all are logged", || secure.parvis.access_log().len() == 7);
    let line = &secure.parvis.access_log()[3];
    assert_eq!((&line["target"], &line["bytes"]), (&"/large".into(), &1_000_000.into()), "{line}");
    (0..20).for_each(|_| assert_eq!(client.get("/large").text(), large));
    assert_eq!(secure.parvis.body_files(), 0, "none could be sent");
}

#[test]
fn who_leaves_the_queue_is_noticed_behind_tls_and_by_http_2() {
    let settings = ", max_conns: 1, queue: {timeout: 25s}, timeouts: {read: 25s}";
    let secure = Secure::with("", settings, "routes: [{name: all, cache: {mode: off}}]");
    let gate = Gate::new();
    secure.origin.on("/slow", Reply::ok("slow").behind(&gate));
    let client = secure.parvis.client();
    let slow = std::thread::spawn(move || client.get("/slow"));
    eventually("the server is busy", || secure.origin.count("/slow") == 1);
    let waiting = || secure.parvis.metric("parvis_upstream_waiting", "");
    let http2 = Http2::new(secure.address, "shop.test");
    let mut stream = connect(secure.address, &secure.authority, "shop.test", None).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").unwrap();
    eventually("it waits", || waiting() == 1.0);
    drop(stream);
    eventually("it has left", || waiting() == 0.0);
    http2.give_up("/", || waiting() == 1.0);
    eventually("it has left by HTTP/2", || waiting() == 0.0);
    gate.open();
    assert_eq!(slow.join().unwrap().text(), "slow");
    assert_eq!(secure.origin.count("/"), 0, "nobody asked for who had left");
}

#[test]
fn who_is_slow_by_http_2_but_takes_what_comes_gets_all_of_it() {
    let secure = Secure::new("", &format!("{MINUTE}\nclients: {{stall_timeout: 1s}}"));
    let length = 4 << 20;
    secure.origin.on("/large", Reply::ok(vec![b'x'; length]));
    let client = Http2::new(secure.address, "shop.test");
    client.get("/large");
    assert_eq!(client.get_slowly("/large", Duration::from_millis(20)), length);
}

#[test]
fn who_trickles_an_upload_by_http_2_is_ended() {
    let clients = "clients: {stall_timeout: 500ms, min_rate: 1KiB}";
    let secure = Secure::new("", &format!("routes: [{{name: all, cache: {{mode: off}}}}]\n{clients}"));
    secure.origin.on("/", Reply::ok("taken"));
    let client = Http2::new(secure.address, "shop.test");
    assert!(client.trickle("/", Duration::from_millis(10), 3));
    assert!(!client.trickle("/", Duration::from_millis(100), 100));
    let counted = || secure.parvis.metric("parvis_limit_reached_total", "limit=\"min_rate\"");
    eventually("it is counted", || counted() == 1.0);
}

#[test]
fn grpc_passes_both_ways_at_once_and_with_its_trailers() {
    let (origin, directory) = (GrpcOrigin::start(), Directory::new());
    let (certificate, key) = Authority::new(directory.path()).sign("shop", &["shop.test"]);
    let parvis = Parvis::start(&format!(
        "listen: {{address: {{listen}}, tls: [{{certificate: {}, key: {}}}]}}\nadmin: {{listen: {{admin}}}}\nupstreams: {{app: {{servers: [\"{}\"], protocol: http2}}}}\nroutes: [{{name: all, cache: {{ttl: 1m}}}}]\n",
        certificate.display(),
        key.display(),
        origin.address
    ));
    let client = Http2::new(parvis.listen, "shop.test");
    let call = client.call("/shop.Cart/Watch", &["one", "two", "three"]).unwrap();
    assert_eq!(call.answers, ["ONE", "TWO", "THREE"], "each before the next was sent");
    assert_eq!(call.trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(call.head.get("x-te").unwrap(), "trailers", "servers insist on it");
    assert!(client.call("/shop.Cart/Watch", &["one", "break"]).is_err());
    assert_eq!(client.call("/shop.Cart/Watch", &["again"]).unwrap().answers, ["AGAIN"]);
}

#[test]
fn the_proxy_protocol_tells_the_client_to_those_who_are_trusted() {
    let origin = Origin::start();
    origin.on_each("/", |request| Reply::ok(request.field("x-forwarded-for").unwrap_or_default()));
    let start = |trusted: &str| {
        Parvis::start(&format!(
            "listen: {{address: {{listen}}, proxy_protocol: true}}\nadmin: {{listen: {{admin}}}}\ntrusted_proxies: [{trusted}]\nupstreams: {{app: {{servers: [\"{}\"]}}}}\nroutes: [{{name: all, cache: {{mode: off}}}}]\n",
            origin.address
        ))
    };
    let ask = |parvis: &Parvis, before: &[u8]| {
        let mut stream = TcpStream::connect(parvis.listen).unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
        stream.write_all(&[before, request].concat()).unwrap();
        let mut response = String::new();
        // A connection that is refused may be reset.
        let _ = stream.read_to_string(&mut response);
        response
    };
    let parvis = start("127.0.0.0/8");
    let one = b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\n".as_slice();
    assert!(ask(&parvis, one).ends_with("192.0.2.7"), "{}", ask(&parvis, one));
    let two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\x0a\0\0\x01\x1f\x90\0\x50";
    assert!(ask(&parvis, two).ends_with("192.0.2.8"));
    assert!(ask(&parvis, b"PROXY UNKNOWN\r\n").ends_with("127.0.0.1"));
    eventually("the client is logged", || {
        parvis.access_log().iter().any(|line| line["client"] == "192.0.2.8")
    });
    for bad in [&b""[..], b"PROXY TCP4 here there 1 2\r\n"] {
        assert_eq!(ask(&parvis, bad), "");
    }
    let stranger = start("10.0.0.0/8");
    let refused = || stranger.metric("parvis_limit_reached_total", "limit=\"proxy-protocol\"");
    // Its own look whether it listens is refused too.
    eventually("that has been counted", || refused() == 1.0);
    let before = refused();
    assert_eq!(ask(&stranger, one), "", "anyone could be anyone");
    assert_eq!(refused() - before, 1.0);
}
