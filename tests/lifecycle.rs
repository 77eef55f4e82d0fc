//! Starting, reloading, ending.

use std::time::Duration;

use crate::support::process::command;
use crate::support::{Gate, Parvis, Reply, Rig, eventually, free_port, upstream};

const TIMEOUTS: &str = "{connect: 1s, read: 10s, idle: 1s}";

fn rewrite(rig: &Rig, config: &str) {
    let yaml = upstream(rig.origin.address, TIMEOUTS, config)
        .replace("{listen}", &rig.parvis.listen.to_string())
        .replace("{admin}", &rig.parvis.admin.to_string());
    std::fs::write(&rig.parvis.config, yaml).unwrap();
}

#[test]
fn hup_takes_over_a_good_file_and_refuses_a_bad_one() {
    let rig = Rig::with_timeouts(TIMEOUTS, "routes: [{name: all}]");
    rig.origin.on("/", Reply::ok("x"));
    assert_eq!(rig.get("/").detail(), "no-ttl");
    rewrite(&rig, "routes: [{name: all, cache: {ttl: 1 m in}}]");
    rig.parvis.signal("HUP");
    eventually("the bad file is refused", || {
        rig.parvis.metric("parvis_reloads_total", "result=\"refused\"") == 1.0
    });
    assert!(rig.parvis.errors().contains("config.yaml:9:35"), "{}", rig.parvis.errors());
    assert_eq!(rig.get("/").detail(), "uncacheable", "the old configuration stays");
    rewrite(&rig, "routes: [{name: new, cache: {ttl: 1m}}]");
    rig.parvis.signal("HUP");
    eventually("the good file is taken over", || {
        rig.parvis.metric("parvis_reloads_total", "result=\"ok\"") == 1.0
    });
    assert_eq!((rig.get("/").verdict(), rig.get("/").verdict()), ("miss", "hit"));
    rewrite(&rig, "storage: {memory: {max_size: 64MiB}}\nroutes: [{name: new, cache: {ttl: 1m}}]");
    rig.parvis.signal("HUP");
    eventually("what needs a restart is said", || rig.parvis.errors().contains("storage.memory"));
    assert_eq!(rig.get("/").verdict(), "hit", "what is stored survives a reload");
}

#[test]
fn a_hup_at_once_is_no_end() {
    for _ in 0..8 {
        let rig = Rig::with_timeouts(TIMEOUTS, "routes: [{name: all}]");
        rig.parvis.signal("HUP");
        eventually("it is taken over", || rig.parvis.metric("parvis_reloads_total", "result=\"ok\"") == 1.0);
    }
}

#[test]
fn term_finishes_what_is_under_way_and_takes_nothing_new() {
    let mut rig = Rig::with_timeouts(TIMEOUTS, "routes: [{name: all, cache: {ttl: 1m}}]");
    let gate = Gate::new();
    rig.origin.on("/", Reply::ok("finished").behind(&gate));
    let mut idle = rig.parvis.client().connect();
    let mut under_way = rig.parvis.client().connect();
    under_way.write_request("GET", "/", &[], b"");
    eventually("the origin has the request", || rig.origin.count("/") == 1);
    rig.parvis.signal("TERM");
    eventually("nothing new is taken", || std::net::TcpStream::connect(rig.parvis.listen).is_err());
    gate.open();
    assert_eq!(under_way.read_response("GET").text(), "finished");
    assert_eq!(rig.parvis.wait_for_end().code(), Some(0));
    assert!(idle.try_read_response("GET").is_none());
    assert!(!rig.parvis.access_log().is_empty(), "the log is written out");
}

#[test]
fn int_ends_at_once() {
    let mut rig = Rig::with_timeouts(TIMEOUTS, "routes: [{name: all}]");
    rig.origin.on("/", Reply::ok("x").delayed(Duration::from_secs(5)));
    let mut under_way = rig.parvis.client().connect();
    under_way.write_request("GET", "/", &[], b"");
    eventually("the origin has the request", || rig.origin.count("/") == 1);
    rig.parvis.signal("INT");
    assert_eq!(rig.parvis.wait_for_end().code(), Some(0));
}

#[test]
fn an_address_in_use_is_told_and_nothing_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let admin = format!("127.0.0.1:{}", free_port());
    let output =
        command(&["run", "--origin", "http://127.0.0.1:1", "--listen", &address, "--admin", &admin], &[]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(&format!("cannot listen on {address}")), "{errors}");
}

#[test]
fn clients_and_operators_cannot_share_an_address() {
    let port = free_port();
    for (listen, admin) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")] {
        let (listen, admin) = (format!("{listen}:{port}"), format!("{admin}:{port}"));
        let output =
            command(&["run", "--origin", "127.0.0.1:1", "--listen", &listen, "--admin", &admin], &[]);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("cannot listen on"), "{errors}");
    }
}

#[test]
fn without_a_file_the_defaults_are_safe() {
    let origin = crate::support::Origin::start();
    origin.on("/plain", Reply::ok("x"));
    origin.on("/fresh", Reply::ok("x").field("Cache-Control", "max-age=60"));
    let url = format!("http://{}", origin.address);
    let parvis = Parvis::start_with(&["--origin", &url]);
    for path in ["/plain", "/fresh"] {
        parvis.client().get(path);
    }
    assert_eq!(parvis.client().get("/plain").verdict(), "pass");
    assert_eq!(parvis.client().get("/fresh").verdict(), "hit");
    let personal = parvis.client().send("GET", "/fresh", &[("Cookie", "sessionid=1")], b"");
    assert_eq!((personal.verdict(), personal.detail().as_str()), ("pass", "cookie"));
    assert_eq!(
        parvis.admin("POST", "/purge", Some("anything-at-all-0123"), "{}").status,
        401,
        "nobody may purge"
    );
}
