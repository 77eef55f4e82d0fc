//! The doorman: what is let in, where a request ends, and how long a head may take.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Gate, PATIENCE, Parvis, Reply, Rig, eventually, upstream};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";
/// Short, so that waiting for them takes no time.
const IMPATIENT: &str = "clients: {max_header_size: 2KiB, header_timeout: 500ms, idle_timeout: 1s}\n\
                         routes: [{name: all, cache: {ttl: 1m}}]";

/// What comes back for these bytes until the connection ends.
fn answer(parvis: &Parvis, bytes: &[u8]) -> String {
    String::from_utf8_lossy(&parvis.client().raw(bytes)).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n")
}

#[test]
fn what_can_be_read_in_two_ways_reaches_no_application() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    let request = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    let hidden = "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for (bytes, status, why) in [
        (request("Content-Length: 5\r\nContent-Length: 5"), 400, "Content-Length"),
        (request("Content-Length: 5\r\nContent-Length: 6"), 400, "Content-Length"),
        (request("Content-Length: 5, 5"), 400, "Content-Length"),
        (request("Content-Length: +5"), 400, "Content-Length"),
        (request("Content-Length: 0x5"), 400, "Content-Length"),
        (request("Content-Length: 5\r\nTransfer-Encoding: chunked") + hidden, 400, "and a Transfer-Encoding"),
        (request("Transfer-Encoding: chunked\r\nContent-Length: 5") + hidden, 400, "and a Transfer-Encoding"),
        (request("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked") + hidden, 501, "coding"),
        (request("Transfer-Encoding: gzip, chunked") + hidden, 501, "coding"),
        (request("Transfer-Encoding: chunked, identity") + hidden, 501, "coding"),
        (request("Transfer-Encoding: xchunked") + hidden, 501, "coding"),
        (request("Transfer-Encoding: \u{b}chunked") + hidden, 400, "cannot be read"),
        (request("Transfer-Encoding : chunked") + hidden, 400, "before a colon"),
        (request("X: 1\r\n Transfer-Encoding: chunked") + hidden, 400, "continues"),
        (request("X: 1\r\n\tTransfer-Encoding: chunked") + hidden, 400, "continues"),
        (request("X: 1\nTransfer-Encoding: chunked") + hidden, 400, "carriage return"),
        (request("X: 1\rTransfer-Encoding: chunked") + hidden, 400, "cannot be read"),
        (request("X: a\u{0}b"), 400, "cannot be read"),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400, "carriage return"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), 400, "carriage return"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "no host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), 400, "twice"),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned(), 400, "twice, or is none"),
        ("GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(), 400, "twice, or is none"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "form"),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "form"),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "cannot be read"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400, "cannot be read"),
        ("GET /\r\n\r\n".to_owned(), 400, "cannot be read"),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned() + hidden, 400, "HTTP/1.0"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505, "version"),
        ("GET / HTTP/9.9\r\nHost: a\r\n\r\n".to_owned(), 505, "version"),
        ("\u{16}\u{3}\u{1}".to_owned(), 400, "cannot be read"),
    ] {
        // First on its connection, and after another request.
        for before in ["", &get("/")] {
            let answer = answer(&rig.parvis, format!("{before}{bytes}").as_bytes());
            let refusal = answer.rfind("HTTP/1.1 ").map(|at| &answer[at..]).unwrap_or_default();
            assert!(refusal.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {answer}");
            assert!(refusal.contains(why) && refusal.contains("Connection: close"), "{bytes:?}: {answer}");
            let expected = if before.is_empty() { 1 } else { 2 };
            assert_eq!(answer.matches("HTTP/1.1 ").count(), expected, "{bytes:?}: {answer}");
        }
    }
    assert!(rig.origin.all_received().iter().all(|request| request.method == "GET" && request.target == "/"));
    assert!(rig.parvis.metric("parvis_requests_total", "reason=\"bad-request\"") >= 40.0);
    assert!(rig.parvis.access_log().iter().any(|line| line["error"] == "it names no host"));
}

#[test]
fn what_old_clients_send_is_let_in_or_told_why_not() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/", |_| Reply::ok("x"));
    for bytes in [
        "\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://other/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /a|b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /{a}\" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /caf\u{e9} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "PURGE / HTTP/1.1\r\nConnection: close\r\n\r\n",
    ] {
        let answer = answer(&rig.parvis, bytes.as_bytes());
        assert!(!answer.contains("the request is refused"), "{bytes:?}: {answer}");
        assert!(
            answer.contains("X-Request-ID: ") || answer.contains("x-request-id: "),
            "{bytes:?}: {answer}"
        );
    }
    let absolute = rig.origin.all_received().into_iter().filter(|request| request.target == "/");
    assert!(
        absolute.clone().any(|request| request.field("host").as_deref() == Some("other")),
        "its host wins"
    );
    let tags = answer(&rig.parvis, b"GET /<b> HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(tags.starts_with("HTTP/1.1 400") && tags.contains("percent-encoded"), "{tags}");
    // Bytes of an encoding that nobody can tell.
    let latin = answer(&rig.parvis, b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(latin.starts_with("HTTP/1.1 400") && latin.contains("cannot be read"), "{latin}");
}

#[test]
fn a_request_goes_to_its_end_and_no_further() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("page"));
    rig.origin.on_each("/form", |request| {
        let body = String::from_utf8_lossy(&request.body);
        // How many chunks there are depends on how it arrived.
        Reply::ok(match request.field("transfer-encoding") {
            Some(_) => body.split("\r\n").skip(1).step_by(2).collect::<String>(),
            None => body.into_owned(),
        })
    });
    let chunked = "POST /form HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n";
    let sized = "POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let parts = [get("/"), chunked.to_owned(), get("/"), sized.to_owned(), sized.to_owned(), get("/")];
    let all = parts.concat();
    // In one piece, in small ones, and cut in the middle.
    for piece in [all.len(), 7, all.len() / 2] {
        let mut connection = rig.parvis.client().connect();
        connection.stream.set_nodelay(true).expect("no delay");
        for piece in all.as_bytes().chunks(piece) {
            connection.write(piece);
        }
        for expected in ["page", "hello", "page", "abc", "abc", "page"] {
            let response = connection.read_response("POST");
            assert_eq!((response.status, response.text().as_str()), (200, expected), "by {piece}");
        }
    }
}

#[test]
fn chunks_that_cannot_be_read_end_the_request() {
    let rig = Rig::new(MINUTE);
    rig.origin.on_each("/form", |request| Reply::ok(request.body.clone()));
    let head = "POST /form HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in
        ["5\nhello\r\n0\r\n\r\n", "x\r\n", "5\r\nhelloo\r\n0\r\n\r\n", "1;\r\n\u{0}", "fffffffffffffffff\r\n"]
    {
        let answer = answer(&rig.parvis, format!("{head}{body}{}", get("/hidden")).as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
    }
    assert_eq!(rig.origin.count("/hidden"), 0);
}

#[test]
fn a_head_has_a_size_and_a_time_on_every_request() {
    let rig = Rig::new(IMPATIENT);
    rig.origin.on("/", Reply::ok("x"));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2048));
    let endless = format!("GET /{}", "x".repeat(4096));
    let lines = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(150));
    let slow = "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ";
    for before in [String::new(), get("/"), get("/not-stored")] {
        for (bytes, status) in [(large.as_str(), 431), (&endless, 431), (&lines, 431), (slow, 408)] {
            let answer = answer(&rig.parvis, format!("{before}{bytes}").as_bytes());
            assert!(answer.contains(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {answer}");
        }
    }
    assert_eq!(rig.parvis.metric("parvis_limit_reached_total", "limit=\"max_header_size\""), 9.0);
    assert_eq!(rig.parvis.metric("parvis_limit_reached_total", "limit=\"header_timeout\""), 3.0);
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(1900));
    assert!(answer(&rig.parvis, fits.as_bytes()).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_head_that_trickles_ends_although_it_never_pauses_for_long() {
    let rig = Rig::new(IMPATIENT);
    let mut connection = rig.parvis.client().connect();
    connection.write(get("/").as_bytes());
    connection.read_response("GET");
    connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n");
    let started = Instant::now();
    // Until it is refused; writing on into a closed connection fails.
    while started.elapsed() < PATIENCE {
        use std::io::Write;
        if connection.stream.write_all(b"X: 1\r\n").is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert!(started.elapsed() < PATIENCE, "it was never refused");
    assert_eq!(rig.parvis.metric("parvis_limit_reached_total", "limit=\"header_timeout\""), 1.0);
}

#[test]
fn an_idle_connection_ends_and_one_in_use_goes_on() {
    let rig = Rig::new(IMPATIENT);
    rig.origin.on("/", Reply::ok("x"));
    rig.get("/");
    let mut idle = rig.parvis.client().connect();
    let mut used = rig.parvis.client().connect();
    idle.write(get("/").as_bytes());
    assert_eq!(idle.read_response("GET").verdict(), "hit");
    for _ in 0..10 {
        used.write(get("/").as_bytes());
        assert_eq!(used.read_response("GET").verdict(), "hit");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(idle.try_read_response("GET").is_none(), "it was ended without a word");
    assert!(used.try_read_response("GET").is_none(), "so is the other one, once it is idle too");
}

#[test]
fn a_head_in_two_pieces_leaves_the_idle_timeout_as_it_is() {
    let patient = "clients: {header_timeout: 10m, idle_timeout: 1s}\nroutes: [{name: all, cache: {ttl: 1m}}]";
    let rig = Rig::new(patient);
    rig.origin.on("/", Reply::ok("x"));
    rig.get("/");
    let request = get("/");
    let (begin, end) = request.split_at(10);
    let mut connection = rig.parvis.client().connect();
    connection.write(begin.as_bytes());
    thread::sleep(Duration::from_millis(100));
    connection.write(end.as_bytes());
    assert_eq!(connection.read_response("GET").verdict(), "hit");
    assert!(connection.try_read_response("GET").is_none(), "it was ended without a word");
}

#[test]
fn a_connection_that_has_had_its_turn_ends_when_it_is_idle() {
    let rig = Rig::new(IMPATIENT);
    rig.origin.on("/", Reply::ok("x"));
    rig.get("/");
    // With them a task has taken 128 steps, and is told by all that it waits for that it is the turn of others.
    const HITS: usize = 127;
    let begin = |_| {
        let mut connection = rig.parvis.client().connect();
        connection.write(get("/").repeat(HITS).as_bytes());
        connection
    };
    // Of many, some are there before they are looked at for the first time.
    for mut connection in (0..50).map(begin).collect::<Vec<_>>() {
        (0..HITS).for_each(|_| assert_eq!(connection.read_response("GET").verdict(), "hit"));
        assert!(connection.try_read_response("GET").is_none(), "it was ended without a word");
    }
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_a_large_hit() {
    let rig = Rig::new(MINUTE);
    let body: String = (0..400_000).map(|n| format!("{n:07}\n")).collect();
    rig.origin.on("/large", Reply::ok(body.clone()));
    rig.get("/large");
    let mut connection = rig.parvis.client().connect();
    // More than the system's buffers hold, so that it is sent in pieces.
    connection.write(get("/large").repeat(3).as_bytes());
    thread::sleep(Duration::from_millis(200));
    for _ in 0..3 {
        let response = connection.read_response("GET");
        assert!(response.complete && response.text() == body);
        assert_eq!(response.verdict(), "hit");
    }
    eventually("all are logged", || rig.parvis.access_log().len() == 4);
    assert!(rig.parvis.access_log().iter().all(|line| line["bytes"] == body.len()));
}

#[test]
fn a_large_page_that_is_asked_for_often_is_sent_from_a_file() {
    let rig = Rig::new(MINUTE);
    let body: String = (0..400_000).map(|n| format!("{n:07}\n")).collect();
    rig.origin.on("/large", Reply::ok(body.clone()));
    rig.origin.on("/small", Reply::ok("x".repeat(16 * 1024 - 1)));
    let before = rig.parvis.read_of_files();
    for asked in 1..=10 {
        rig.get("/small");
        assert_eq!(rig.get("/large").text(), body);
        if asked == 5 {
            assert!(rig.parvis.read_of_files() - before < body.len() as u64, "there is no file yet");
        }
    }
    eventually("there is a file", || rig.parvis.body_files() == 1);
    let before = rig.parvis.read_of_files();
    let mut connection = rig.parvis.client().connect();
    connection.write(get("/large").repeat(3).as_bytes());
    connection.write(get("/large").replace("GET", "HEAD").as_bytes());
    connection.write(get("/large").replace("Host", "Range: bytes=8-15\r\nHost").as_bytes());
    connection.write(get("/small").as_bytes());
    // Until no more fits between the two, so that it is sent in pieces.
    thread::sleep(Duration::from_millis(200));
    for _ in 0..3 {
        let response = connection.read_response("GET");
        assert!(response.complete && response.text() == body);
    }
    assert_eq!(connection.read_response("HEAD").verdict(), "hit");
    assert_eq!(connection.read_response("GET").text(), "0000001\n");
    assert_eq!(connection.read_response("GET").body.len(), 16 * 1024 - 1);
    let sent = rig.parvis.read_of_files() - before;
    assert!(sent > 2 * body.len() as u64, "{sent} bytes went out of a file");
    eventually("all are logged", || rig.parvis.access_log().len() == 26);
    let sent = rig.parvis.access_log();
    let of_large = sent.iter().filter(|line| line["target"] == "/large" && line["bytes"] == body.len());
    assert_eq!(of_large.count(), 13);
    drop(connection);
    assert_eq!(rig.parvis.client().send("PURGE", "/large", &[("Host", "shop.test")], b"").status, 200);
    eventually("the file goes with its page", || rig.parvis.body_files() == 0);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_file_is_told_of() {
    let rig = Rig::new(MINUTE);
    let body = "x".repeat(3 << 20);
    rig.origin.on("/large", Reply::ok(body.clone()));
    for _ in 0..10 {
        rig.get("/large");
    }
    eventually("there is a file", || rig.parvis.body_files() == 1);
    let mut connection = rig.parvis.client().connect();
    // More than the system's buffers hold.
    connection.write(get("/large").repeat(20).as_bytes());
    thread::sleep(Duration::from_millis(200));
    drop(connection);
    let cut = || rig.parvis.access_log().into_iter().find(|line| line["bytes"] != body.len());
    eventually("it is logged", || cut().is_some());
    let line = cut().expect("a line");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("took no more")), "{line}");
    assert!(line["bytes"].as_u64().is_some_and(|bytes| bytes < body.len() as u64), "{line}");
}

#[test]
fn a_server_that_ends_finishes_the_hits_it_is_sending() {
    let mut rig = Rig::new(MINUTE);
    let body = "x".repeat(7 << 20);
    rig.origin.on("/large", Reply::ok(body.clone()));
    rig.get("/large");
    let mut connection = rig.parvis.client().connect();
    connection.write(get("/large").as_bytes());
    thread::sleep(Duration::from_millis(200));
    rig.parvis.signal("TERM");
    thread::sleep(Duration::from_millis(200));
    let response = connection.read_response("GET");
    assert!(response.complete && response.body.len() == body.len());
    assert!(rig.parvis.wait_for_end().success());
}

#[test]
fn a_client_that_has_said_all_gets_its_hits_and_is_gone_for_the_rest() {
    let rig = Rig::new(MINUTE);
    let gate = Gate::new();
    rig.origin.on("/", Reply::ok("x"));
    rig.origin.on("/slow", Reply::ok("y").behind(&gate));
    rig.get("/");
    // A hit is answered before anyone looks whether more comes.
    let mut connection = rig.parvis.client().connect();
    connection.write(get("/").repeat(2).as_bytes());
    connection.finish_sending();
    assert_eq!(connection.read_response("GET").verdict(), "hit");
    assert_eq!(connection.read_response("GET").verdict(), "hit");
    let waits = |path: &str, fields: &[(&str, &str)]| {
        let mut connection = rig.parvis.client().connect();
        connection.write_request("GET", path, fields, b"");
        eventually("the origin is asked", || rig.origin.count("/slow") > 0);
        connection.finish_sending();
        connection
    };
    // What is for the origin alone is given up, as elsewhere: its client looks as if it were gone.
    assert!(waits("/slow", &[("Cookie", "sessionid=1")]).try_read_response("GET").is_none());
    // A fetch for all goes on, and so its client gets it too.
    let mut fetching = waits("/slow", &[]);
    gate.open();
    assert_eq!(fetching.read_response("GET").text(), "y");
}

#[test]
fn a_switch_of_protocols_takes_the_connection_over() {
    let rig = Rig::new(MINUTE);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    rig.origin.on("/socket", Reply::script().then(switch).then_close());
    rig.origin.on("/", Reply::ok("x"));
    let upgrade = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    };
    let answer = answer(&rig.parvis, upgrade("/socket").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("hello"), "{answer}");
    // One that is not agreed to is a request like any other.
    let mut connection = rig.parvis.client().connect();
    connection.write(format!("{}{}", upgrade("/"), get("/")).as_bytes());
    assert_eq!(connection.read_response("GET").text(), "x");
    assert_eq!(connection.read_response("GET").text(), "x");
}

#[test]
fn every_way_to_end_a_connection_is_heeded() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("x"));
    rig.get("/");
    for (version, connection, keeps) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Keep-Alive, Close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
    ] {
        let request = format!("GET / HTTP/{version}\r\nHost: shop.test\r\n{connection}\r\n");
        let mut client = rig.parvis.client().connect();
        client.write(request.as_bytes());
        let response = client.read_response("GET");
        let said = response.field("connection");
        assert_eq!((response.verdict(), said.as_deref() == Some("keep-alive")), ("hit", keeps), "{request}");
        if keeps {
            client.write(request.as_bytes());
            client.read_response("GET");
        } else {
            assert!(client.try_read_response("GET").is_none(), "{request}");
        }
    }
}

#[test]
fn without_the_shortcut_hits_are_the_same() {
    let origin = crate::support::Origin::start();
    origin.on("/", Reply::ok("x"));
    let yaml = upstream(origin.address, "{}", MINUTE);
    let parvis = Parvis::start_also_with(&yaml, &["--no-shortcut"]);
    assert_eq!(parvis.client().get("/").verdict(), "miss");
    assert_eq!(parvis.client().get("/").verdict(), "hit");
}
