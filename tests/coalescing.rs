//! Many readers of one page: one fetch, and no reader holds up another.

use std::sync::Arc;

use crate::support::{Gate, Reply, Rig, eventually};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

/// Sends `count` requests at once and collects what came back.
fn at_once(
    rig: &Arc<Rig>,
    count: usize,
    path: &'static str,
) -> Vec<std::thread::JoinHandle<crate::support::Response>> {
    (0..count)
        .map(|_| {
            let rig = rig.clone();
            std::thread::spawn(move || rig.get(path))
        })
        .collect()
}

fn connections(rig: &Rig) -> f64 {
    rig.parvis.metric("parvis_connections_total", "")
}

#[test]
fn fifty_simultaneous_misses_cost_the_origin_one_fetch() {
    let rig = Arc::new(Rig::new(MINUTE));
    let gate = Gate::new();
    rig.origin.on("/", Reply::ok("hello").behind(&gate));
    let before = connections(&rig);
    let readers = at_once(&rig, 50, "/");
    eventually("all are connected", || connections(&rig) >= before + 50.0);
    gate.open();
    let responses: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert!(responses.iter().all(|response| response.status == 200 && response.text() == "hello"));
    let collapsed =
        responses.iter().filter(|r| r.cache_status() == "parvis; fwd=miss; stored; collapsed").count();
    let hits = responses.iter().filter(|response| response.verdict() == "hit").count();
    assert_eq!(rig.origin.count("/"), 1);
    assert_eq!(collapsed + hits, 49, "one leads");
    assert!(collapsed > 0);
}

#[test]
fn followers_read_while_the_body_is_still_coming() {
    let rig = Arc::new(Rig::new(MINUTE));
    let gate = Gate::new();
    let script = Reply::script()
        .then("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        .then_wait(&gate)
        .then("half");
    rig.origin.on("/", script);
    let mut leader = rig.parvis.client().connect();
    leader.write_request("GET", "/", &[], b"");
    eventually("the fetch is under way", || rig.origin.count("/") == 1);
    let mut follower = rig.parvis.client().connect();
    follower.write_request("GET", "/", &[], b"");
    let mut first = [0; 4096];
    let read = std::io::Read::read(&mut follower.stream, &mut first).unwrap();
    assert!(read > 0, "a head before the body is complete");
    gate.open();
    assert_eq!(leader.read_response("GET").text(), "halfhalf");
    assert_eq!(rig.origin.count("/"), 1);
}

#[test]
fn a_leader_that_leaves_does_not_stop_the_fetch() {
    let rig = Rig::new(MINUTE);
    let gate = Gate::new();
    rig.origin.on(
        "/",
        Reply::script().then("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhal").then_wait(&gate).then("ves"),
    );
    let mut leader = rig.parvis.client().connect();
    leader.write_request("GET", "/", &[], b"");
    eventually("the fetch is under way", || rig.origin.count("/") == 1);
    drop(leader);
    gate.open();
    eventually("the response is stored", || rig.parvis.metric("parvis_store_entries", "") == 1.0);
    assert_eq!((rig.get("/").verdict(), rig.get("/").text().as_str()), ("hit", "halves"));
    assert_eq!(rig.origin.count("/"), 1);
}

#[test]
fn a_leader_that_does_not_read_holds_nobody_up() {
    for reply in [
        Reply::ok(vec![b'x'; 3_000_000]),
        Reply::script()
            .then("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .then_repeat(chunk(100_000), 30)
            .then("0\r\n\r\n"),
    ] {
        let rig = Rig::new(MINUTE);
        rig.origin.on("/", reply);
        let mut leader = rig.parvis.client().connect();
        leader.write_request("GET", "/", &[], b"");
        eventually("the response is stored", || rig.parvis.metric("parvis_store_entries", "") == 1.0);
        let other = rig.get("/");
        assert_eq!((other.verdict(), other.body.len()), ("hit", 3_000_000));
        assert_eq!(leader.read_response("GET").body.len(), 3_000_000);
    }
}

fn chunk(size: usize) -> Vec<u8> {
    [format!("{size:x}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat()
}

#[test]
fn a_body_larger_than_the_limit_streams_through_to_all_who_read_it_and_is_not_stored() {
    let config =
        "storage: {memory: {max_size: 8MiB, max_object_size: 1MiB}}\nroutes: [{name: all, cache: {ttl: 1m}}]";
    let rig = Rig::new(config);
    rig.origin.on("/known", Reply::ok(vec![b'x'; 5_000_000]));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let gate = Gate::new();
    let streamed =
        Reply::script().then(chunked).then_wait(&gate).then_repeat(chunk(50_000), 100).then("0\r\n\r\n");
    rig.origin.on("/unknown", streamed);
    let known = rig.get("/known");
    assert_eq!((known.detail().as_str(), known.body.len(), known.complete), ("too-large", 5_000_000, true));
    let rig = Arc::new(rig);
    let before = connections(&rig);
    let readers = at_once(&rig, 5, "/unknown");
    eventually("all are connected", || connections(&rig) >= before + 5.0);
    gate.open();
    for reader in readers {
        let response = reader.join().unwrap();
        assert_eq!((response.body.len(), response.complete), (5_000_000, true));
    }
    assert_eq!(rig.parvis.metric("parvis_store_entries", ""), 0.0);
    for path in ["/known", "/unknown"] {
        assert_eq!(rig.get(path).detail(), "uncacheable", "{path} is remembered");
    }
    assert!(rig.parvis.metric("parvis_limit_reached_total", "limit=\"too-large\"") >= 2.0);
    eventually("nothing is held any longer", || rig.parvis.metric("parvis_fill_bytes", "") == 0.0);
}

#[test]
fn requests_for_a_personal_page_do_not_read_along() {
    let rig = Arc::new(Rig::new(MINUTE));
    let gate = Gate::new();
    let number = std::sync::atomic::AtomicUsize::new(0);
    let held = gate.clone();
    rig.origin.on_each("/", move |_| {
        let visit = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Reply::ok(format!("visit {visit}")).field("Set-Cookie", &format!("id={visit}")).behind(&held)
    });
    let before = connections(&rig);
    let readers = at_once(&rig, 10, "/");
    eventually("all are connected", || connections(&rig) >= before + 10.0);
    gate.open();
    let mut seen: Vec<_> = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .map(|r| (r.text(), r.field("set-cookie")))
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10, "everyone has a page and a cookie of their own: {seen:?}");
}

#[test]
fn followers_that_want_another_variant_get_their_own() {
    let rig = Arc::new(Rig::new(MINUTE));
    let gate = Gate::new();
    let held = gate.clone();
    rig.origin.on_each("/", move |request| {
        Reply::ok(request.field("accept-language").unwrap_or_default())
            .field("Vary", "Accept-Language")
            .behind(&held)
    });
    let before = connections(&rig);
    let readers: Vec<_> = (0..12)
        .map(|n| {
            let rig = rig.clone();
            let language = ["en", "fr", "de"][n % 3];
            std::thread::spawn(move || (language, rig.get_with("/", &[("Accept-Language", language)])))
        })
        .collect();
    eventually("all are connected", || connections(&rig) >= before + 12.0);
    gate.open();
    for reader in readers {
        let (language, response) = reader.join().unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, language));
    }
    assert_eq!(rig.origin.count("/"), 3, "one fetch per variant");
}

#[test]
fn waiting_for_another_request_ends_after_the_lock_timeout() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, lock: {timeout: 100ms}}}]");
    let gate = Gate::new();
    rig.origin.on_sequence("/", vec![Reply::ok("slow").behind(&gate), Reply::ok("own")]);
    let mut leader = rig.parvis.client().connect();
    leader.write_request("GET", "/", &[], b"");
    eventually("the fetch is under way", || rig.origin.count("/") == 1);
    let impatient = rig.get("/");
    assert_eq!(
        (impatient.verdict(), impatient.detail().as_str(), impatient.text().as_str()),
        ("pass", "lock-timeout", "own")
    );
    gate.open();
    assert_eq!(leader.read_response("GET").text(), "slow");
}
