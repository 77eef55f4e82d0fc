//! By what servers are reached: names, sockets, TLS.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};

use super::{PASSING, started};
use crate::support::tls::Authority;
use crate::support::{Directory, Origin, Parvis, Reply, eventually, free_port};

#[test]
fn a_name_has_all_its_addresses_and_one_that_does_not_answer_is_stepped_over() {
    let origin = Origin::start();
    origin.on("/", Reply::ok("x"));
    // Often also ::1, where nobody listens.
    let parvis = started(&format!("\"localhost:{}\"", origin.address.port()), "max_conns: 4", PASSING);
    for method in ["GET", "POST", "GET", "POST"] {
        assert_eq!(parvis.client().send(method, "/", &[], b"x").status, 200);
    }
    let label = format!("server=\"localhost:{} (127.0.0.1)\"", origin.address.port());
    assert_eq!(parvis.metric("parvis_upstream_server_state", &format!("{label},state=\"up\"")), 1.0);
}

#[test]
fn a_name_that_is_not_known_keeps_nobody_from_starting() {
    let origin = Origin::start();
    origin.on("/", Reply::ok("x"));
    let servers = format!("\"no-such-host.invalid:80\", \"{}\"", origin.address);
    let parvis = started(&servers, "resolve_every: 50ms", PASSING);
    (0..3).for_each(|_| assert_eq!(parvis.client().get("/").status, 200));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let told = parvis.errors();
    assert!(told.contains("cannot look up `no-such-host.invalid:80`"), "{told}");
    assert!(
        told.matches("cannot look up").count() <= 2,
        "it is told once at the start, and once later: {told}"
    );
    let parvis = started("\"no-such-host.invalid:80\"", "resolve_every: 1h", PASSING);
    let refused = parvis.client().get("/");
    assert_eq!((refused.status, refused.detail().as_str()), (503, "no-server"));
}

#[test]
fn a_socket_in_the_file_system_is_a_server() {
    let directory = Directory::new();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nunix");
        }
    });
    let parvis = started(&format!("\"unix:{}\"", path.display()), "max_conns: 4", PASSING);
    (0..3).for_each(|_| assert_eq!(parvis.client().get("/").text(), "unix"));
    std::fs::remove_file(&path).unwrap();
    eventually("it is gone", || parvis.client().get("/").status == 502);
}

/// A server that speaks TLS: another parvis, with a certificate for `app.test`.
struct TlsServer {
    address: std::net::SocketAddr,
    authority: Authority,
    _parvis: Parvis,
    _directory: Directory,
}

impl TlsServer {
    fn before(origin: &Origin) -> Self {
        let directory = Directory::new();
        let authority = Authority::new(directory.path());
        let (certificate, key) = authority.sign("app", &["app.test"]);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listen = format!(
            "[{{address: {{listen}}}}, {{address: \"{address}\", tls: [{{certificate: \"{}\", key: \"{}\"}}]}}]",
            certificate.display(),
            key.display()
        );
        let parvis = Parvis::start(&format!(
            "listen: {listen}\nadmin: {{listen: {{admin}}}}\nupstreams: {{app: {{servers: [\"{}\"]}}}}\n{PASSING}\n",
            origin.address
        ));
        Self { address, authority, _parvis: parvis, _directory: directory }
    }
}

#[test]
fn a_server_with_tls_is_who_it_says_or_gets_no_request() {
    let origin = Origin::start();
    origin.on_each("/", |request| Reply::ok(request.field("via").unwrap_or_default()));
    let server = TlsServer::before(&origin);
    let ca = server.authority.file();
    let stranger = Directory::new();
    let other = Authority::new(stranger.path()).file();
    for (settings, status, version) in [
        (format!("tls: {{server_name: app.test, ca: \"{}\"}}", ca.display()), 200, "1.1"),
        (format!("protocol: auto, tls: {{server_name: app.test, ca: \"{}\"}}", ca.display()), 200, "2.0"),
        (format!("protocol: http2, tls: {{server_name: app.test, ca: \"{}\"}}", ca.display()), 200, "2.0"),
        ("tls: {server_name: app.test}".to_owned(), 502, ""),
        (format!("tls: {{server_name: app.test, ca: \"{}\"}}", other.display()), 502, ""),
        (format!("tls: {{server_name: other.test, ca: \"{}\"}}", ca.display()), 502, ""),
        (
            format!("tls: {{server_name: other.test, ca: \"{}\", verify: certificate}}", ca.display()),
            200,
            "1.1",
        ),
        ("tls: {verify: none}".to_owned(), 200, "1.1"),
    ] {
        let parvis = started(&format!("\"https://{}\"", server.address), &settings, PASSING);
        let response = parvis.client().get("/");
        let expected = if status == 200 { format!("1.1 parvis, {version} parvis") } else { String::new() };
        let via = if status == 200 { response.text() } else { String::new() };
        assert_eq!((response.status, via), (status, expected), "{settings}");
    }
}

#[test]
fn parvis_shows_its_own_certificate_to_a_server_that_asks_for_one() {
    let directory = Directory::new();
    let authority = Authority::new(directory.path());
    let (certificate, key) = authority.sign("app", &["app.test"]);
    let (own, own_key) = authority.sign("own", &["parvis.test"]);
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    acceptor.set_certificate_chain_file(certificate).unwrap();
    acceptor.set_private_key_file(key, SslFiletype::PEM).unwrap();
    acceptor.set_ca_file(authority.file()).unwrap();
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let acceptor = acceptor.build();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(mut stream) = acceptor.accept(stream) else { continue };
            let shown = stream.ssl().peer_certificate().unwrap();
            let name = shown.subject_name().entries().next().unwrap().data().to_string().unwrap();
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok() {
                let length = name.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
                );
            }
        }
    });
    let tls = format!("server_name: app.test, ca: \"{}\"", authority.file().display());
    let shown = format!("certificate: \"{}\", key: \"{}\"", own.display(), own_key.display());
    let parvis = started(&format!("\"https://{address}\""), &format!("tls: {{{tls}, {shown}}}"), PASSING);
    assert_eq!(parvis.client().get("/").text(), "parvis.test");
    let parvis = started(&format!("\"https://{address}\""), &format!("tls: {{{tls}}}"), PASSING);
    assert_eq!(parvis.client().get("/").status, 502);
}
