//! By what servers are reached: names, sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use super::{PASSING, started};
use crate::support::{Directory, Origin, Reply, eventually};

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
