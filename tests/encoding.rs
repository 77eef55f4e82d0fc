//! Encoded bodies: made once, read as the client likes, and never mixed up.

use std::io::Read;

use crate::support::client::Connection;
use crate::support::{Gate, Reply, Response, Rig, eventually};

const ROUTE: &str = "routes: [{name: all, cache: {ttl: 1h}}]";
const OPEN: &str = "encode: {mitigate_breach: off}\nroutes: [{name: all, cache: {ttl: 1h}}]";

/// A page of some 15 KB.
fn page() -> String {
    (0..300).map(|n: u32| format!("<li id=\"{n}\">item number {} of many</li>\n", n * 7919 % 1009)).collect()
}

fn html(body: impl Into<Vec<u8>>) -> Reply {
    Reply::ok(body).field("Content-Type", "text/html").field("ETag", "\"x\"")
}

/// What a client makes of a body.
fn decode(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_end(&mut decoded).unwrap(),
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut decoded).unwrap(),
        "zstd" => zstd::stream::read::Decoder::new(body).unwrap().read_to_end(&mut decoded).unwrap(),
        _ => panic!("{coding} was not asked for"),
    };
    decoded
}

fn decoded(response: &Response) -> String {
    let body = match response.field("content-encoding") {
        Some(coding) => decode(&coding, &response.body),
        None => response.body.clone(),
    };
    String::from_utf8(body).unwrap()
}

fn field(response: &Response, name: &str) -> String {
    response.field(name).unwrap_or_default()
}

fn asked(rig: &Rig, accepted: &str) -> Response {
    rig.get_with("/", &[("Accept-Encoding", accepted)])
}

/// Asks until the response is the form with this entity tag.
fn until(rig: &Rig, accepted: &str, etag: &str) -> Response {
    let mut response = asked(rig, accepted);
    eventually(etag, || {
        response = asked(rig, accepted);
        assert_eq!(decoded(&response), page());
        field(&response, "etag") == etag
    });
    response
}

#[test]
fn a_form_is_made_on_first_demand_and_the_strongest_when_it_is_hot() {
    let rig = Rig::new(ROUTE);
    rig.origin.on("/", html(page()));
    let first = asked(&rig, "gzip, br, zstd");
    assert_eq!((first.verdict(), first.field("content-encoding")), ("miss", None), "nobody waits");
    assert_eq!((decoded(&first), field(&first, "vary")), (page(), "Accept-Encoding".to_owned()));
    for (coding, quick, strongest) in [("gzip", 6, 9), ("br", 5, 11), ("zstd", 3, 19)] {
        let quick = until(&rig, coding, &format!("\"x-{coding}{quick}\""));
        assert_eq!((quick.verdict(), quick.status), ("hit", 200));
        assert_eq!(field(&quick, "content-encoding"), coding);
        assert_eq!(field(&quick, "content-length"), quick.body.len().to_string());
        assert_eq!(field(&quick, "vary"), "Accept-Encoding");
        assert!(quick.body.len() < page().len() / 3, "{coding} {}", quick.body.len());
        let strongest = until(&rig, coding, &format!("\"x-{coding}{strongest}\""));
        assert!(strongest.body.len() < quick.body.len(), "{coding}");
        let made = |level: &str| {
            rig.parvis.metric("parvis_encodings_total", &format!("coding=\"{coding}\",level=\"{level}\""))
        };
        assert_eq!((made("quick"), made("strongest")), (1.0, 1.0));
    }
    assert_eq!(asked(&rig, "").field("content-encoding"), None);
    assert_eq!(rig.origin.count("/"), 1);
    assert_eq!(rig.origin.received("/")[0].field("accept-encoding").as_deref(), Some("identity"));
    assert!(rig.parvis.metric("parvis_encoding_bytes_total", "direction=\"out\"") > 0.0);
}

#[test]
fn the_client_decides_by_its_weights() {
    let rig = Rig::new(ROUTE);
    rig.origin.on("/", html(page()));
    for coding in ["gzip", "br", "zstd"] {
        eventually(coding, || asked(&rig, coding).field("content-encoding").is_some());
    }
    for (accepted, coding) in [
        ("gzip, deflate, br, zstd", Some("br")),
        ("gzip;q=1, br;q=0.9, *;q=0.1", Some("gzip")),
        ("x-gzip", Some("gzip")),
        ("*", Some("br")),
        ("br;q=0, *", Some("zstd")),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=0", None),
        ("deflate", None),
        ("identity;q=0, br", Some("br")),
    ] {
        let response = asked(&rig, accepted);
        assert_eq!(response.field("content-encoding").as_deref(), coding, "{accepted}");
        assert_eq!(decoded(&response), page(), "{accepted}");
    }
    assert_eq!(rig.get("/").field("content-encoding"), None, "who says nothing reads none");
    let fields = [("Accept-Encoding", "br"), ("Cache-Control", "no-transform")];
    assert_eq!(rig.get_with("/", &fields).field("content-encoding"), None);
}

#[test]
fn who_refuses_the_identity_form_waits_for_another() {
    let rig = Rig::new(ROUTE);
    rig.origin.on("/", html(page()));
    let refusing = "identity;q=0, gzip";
    let miss = asked(&rig, refusing);
    assert_eq!((miss.verdict(), field(&miss, "content-encoding").as_str()), ("miss", "gzip"));
    assert_eq!((decoded(&miss), field(&miss, "etag").as_str()), (page(), "W/\"x\""));
    let hit = asked(&rig, "br, *;q=0");
    assert_eq!((hit.verdict(), field(&hit, "content-encoding").as_str()), ("hit", "br"));
    assert_eq!(decoded(&hit), page());
    rig.origin.on("/image", Reply::ok(vec![0; 2000]).field("Content-Type", "image/png"));
    let image = rig.get_with("/image", &[("Accept-Encoding", refusing)]);
    assert_eq!((image.field("content-encoding"), image.body.len()), (None, 2000), "there is no other");
}

#[test]
fn conditions_hold_for_every_form_of_a_page() {
    let rig = Rig::new(ROUTE);
    rig.origin.on("/", html(page()));
    until(&rig, "br", "\"x-br5\"");
    for (condition, accepted, etag) in [
        ("\"x\"", "", "\"x\""),
        ("\"x-br5\"", "gzip, br", "\"x-br5\""),
        ("\"y\", W/\"x-gzip9\"", "gzip", "W/\"x-gzip9\""),
        ("*", "", "\"x\""),
    ] {
        let fields = [("If-None-Match", condition), ("Accept-Encoding", accepted)];
        let response = rig.get_with("/", &fields);
        assert_eq!((response.status, field(&response, "etag").as_str()), (304, etag), "{condition}");
        assert_eq!(field(&response, "vary"), "Accept-Encoding");
        assert_eq!(response.field("content-encoding"), None);
    }
    for condition in ["\"y\"", "\"y-br5\"", "\"x-br4\""] {
        let fields = [("If-None-Match", condition), ("Accept-Encoding", "br")];
        assert_eq!(rig.get_with("/", &fields).status, 200, "{condition}");
    }
    let head = rig.parvis.client().send("HEAD", "/", &[("Accept-Encoding", "br")], b"");
    let get = asked(&rig, "br");
    assert_eq!((field(&head, "etag"), field(&head, "content-length")), {
        (field(&get, "etag"), field(&get, "content-length"))
    });
}

#[test]
fn parts_are_of_the_form_that_if_range_names() {
    let rig = Rig::new(ROUTE);
    rig.origin.on("/", html(page()));
    let form = until(&rig, "br", "\"x-br5\"");
    let part = |if_range: Option<&str>| {
        let mut fields = vec![("Accept-Encoding", "br"), ("Range", "bytes=10-19")];
        fields.extend(if_range.map(|tag| ("If-Range", tag)));
        rig.get_with("/", &fields)
    };
    let of_form = part(Some("\"x-br5\""));
    assert_eq!((of_form.status, field(&of_form, "content-encoding").as_str()), (206, "br"));
    assert_eq!(field(&of_form, "content-range"), format!("bytes 10-19/{}", form.body.len()));
    assert_eq!((&of_form.body[..], field(&of_form, "etag").as_str()), (&form.body[10..20], "\"x-br5\""));
    for condition in [None, Some("\"x\"")] {
        let plain = part(condition);
        assert_eq!((plain.status, plain.field("content-encoding")), (206, None), "{condition:?}");
        assert_eq!(plain.body, &page().as_bytes()[10..20]);
    }
    for condition in ["\"x-br11\"", "\"y\"", "W/\"x-br5\""] {
        let whole = part(Some(condition));
        assert_eq!((whole.status, field(&whole, "content-encoding").as_str()), (200, "br"), "{condition}");
        assert_eq!(decoded(&whole), page());
    }
    let strongest = until(&rig, "br", "\"x-br11\"");
    let late = part(Some("\"x-br5\""));
    assert_eq!((late.status, late.body), (200, strongest.body), "the one it has a part of is gone");
}

#[test]
fn what_is_not_worth_it_or_must_not_be_changed_is_left_alone() {
    let rig = Rig::new(&format!("encode: {{min_length: 1000B, max_length: 20000B}}\n{ROUTE}"));
    let long = || Reply::ok(page());
    let reply = |name: &str| match name {
        "/short" => html("x".repeat(999)),
        "/long" => html("x".repeat(20_001)),
        "/image" => long().field("Content-Type", "image/png"),
        "/untyped" => long(),
        "/no-transform" => html(page()).field("Cache-Control", "max-age=60, no-transform"),
        "/encoded" => html(page()).field("Content-Encoding", "br"),
        _ => html(page()).field("Content-Digest", "sha-256=:x:"),
    };
    for path in ["/short", "/long", "/image", "/untyped", "/no-transform", "/encoded", "/digest"] {
        rig.origin.on(path, reply(path));
        // As a miss, a hit, and a pass.
        for cookie in ["", "", "session=1"] {
            let fields = [("Accept-Encoding", "gzip, br"), ("Cookie", cookie)];
            let response = rig.get_with(path, &fields);
            let own = (path == "/encoded").then(|| "br".to_owned());
            assert_eq!((response.field("content-encoding"), response.field("vary")), (own, None), "{path}");
            assert!(response.field("content-length").is_some(), "{path}");
        }
    }
    assert_eq!(rig.parvis.metric("parvis_encodings_total", "coding=\"zstd\",level=\"quick\""), 0.0);
}

#[test]
fn what_passes_is_encoded_on_its_way() {
    let rig = Rig::new(OPEN);
    let page_of = |cache: &str| html(page()).field("Cache-Control", cache).field("Accept-Ranges", "bytes");
    rig.origin.on("/", page_of("max-age=60"));
    rig.origin.on("/private", page_of("no-store"));
    for (path, cookie) in [("/", "session=1"), ("/private", ""), ("/private", "session=1")] {
        for coding in ["gzip", "br", "zstd"] {
            let fields = [("Accept-Encoding", coding), ("Cookie", cookie)];
            let response = rig.get_with(path, &fields);
            assert_eq!(field(&response, "content-encoding"), coding, "{path} {cookie}");
            assert!(response.complete && response.body.len() < page().len() / 3);
            assert_eq!((decoded(&response), field(&response, "etag")), (page(), "W/\"x\"".to_owned()));
            assert_eq!(field(&response, "vary"), "Accept-Encoding");
            assert_eq!((response.field("content-length"), response.field("accept-ranges")), (None, None));
        }
    }
    let fields = [("Accept-Encoding", "br"), ("Cookie", "session=1")];
    let head = rig.parvis.client().send("HEAD", "/", &fields, b"");
    assert_eq!((field(&head, "content-encoding").as_str(), head.field("content-length")), ("br", None));
    assert_eq!(field(&head, "etag"), "W/\"x\"");
    let old = "GET / HTTP/1.0\r\nHost: shop.test\r\nAccept-Encoding: br\r\nCookie: session=1\r\n\r\n";
    let old = String::from_utf8(rig.parvis.client().raw(old.as_bytes())).unwrap();
    assert!(old.ends_with(&page()) && !old.to_lowercase().contains("content-encoding"), "{old}");
}

#[test]
fn a_pass_from_an_old_origin_is_framed_as_it_is_sent() {
    let rig = Rig::new(ROUTE);
    let head =
        format!("HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page().len());
    rig.origin.on("/", Reply::script().then(head + &page()));
    let asked =
        "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\nCookie: session=1\r\nConnection: close\r\n\r\n";
    let sent = rig.parvis.client().raw(asked.as_bytes());
    let sent = String::from_utf8_lossy(&sent).to_lowercase();
    assert!(sent.starts_with("http/1.1 200") && sent.contains("transfer-encoding: chunked"), "{sent}");
    assert!(sent.contains("content-encoding: br") && sent.contains("via: 1.0 parvis"), "{sent}");
}

#[test]
fn a_304_varies_as_its_page_does_and_names_what_the_client_has() {
    let rig = Rig::new(ROUTE);
    rig.origin.on_each("/", |request| match request.field("if-none-match").is_some() {
        true => Reply::status(304, "").field("ETag", "\"x\"").field("Vary", "Cookie"),
        false => html(page()),
    });
    let fields = [("Cookie", "session=1"), ("If-None-Match", "W/\"x\""), ("Accept-Encoding", "br")];
    let passed = rig.get_with("/", &fields);
    assert_eq!((passed.status, field(&passed, "etag").as_str()), (304, "W/\"x\""));
    assert!(field(&passed, "vary").contains("Accept-Encoding"), "{}", field(&passed, "vary"));
    // It has a form of a page that is no longer stored.
    let missed = rig.get_with("/", &[("If-None-Match", "\"x-br11\""), ("Accept-Encoding", "br")]);
    assert_eq!(
        (missed.status, missed.verdict(), field(&missed, "etag").as_str()),
        (304, "miss", "\"x-br11\"")
    );
}

#[test]
fn a_tag_that_parvis_made_is_named_to_the_origin_as_its_own() {
    let rig = Rig::new(ROUTE);
    rig.origin.on("/", html(page()));
    for (method, tag, named) in [
        ("PUT", "\"x-br11\"", "\"x-br11\", \"x\""),
        ("PATCH", "W/\"x\"", "W/\"x\", \"x\""),
        ("PUT", "\"x\"", "\"x\""),
        // Who goes on reading means that form, of which the origin has nothing.
        ("GET", "\"x-br11\"", "\"x-br11\""),
    ] {
        rig.parvis.client().send(method, "/", &[("If-Match", tag)], b"");
        let received = rig.origin.received("/");
        assert_eq!(received.last().unwrap().field("if-match").as_deref(), Some(named), "{method} {tag}");
    }
    rig.origin.on("/", Reply::status(304, "").field("ETag", "\"x\""));
    let fields = [("If-None-Match", "W/\"x\""), ("Cookie", "session=1"), ("Accept-Encoding", "br")];
    let response = rig.get_with("/", &fields);
    assert_eq!((response.status, field(&response, "etag").as_str()), (304, "W/\"x\""));
}

/// Reads until so many bytes of the decoded body are there.
fn beginning(connection: &mut Connection, coding: &str, length: usize) -> String {
    let mut raw = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = connection.stream.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended after {}", String::from_utf8_lossy(&raw));
        raw.extend_from_slice(&buffer[..read]);
        let Some(at) = raw.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let (mut body, mut rest) = (Vec::new(), &raw[at + 4..]);
        while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            let Some(chunk) = rest.get(line + 2..line + 2 + size) else { break };
            body.extend_from_slice(chunk);
            rest = rest.get(line + size + 4..).unwrap_or_default();
        }
        let mut decoded = vec![0; length];
        let complete = match coding {
            "gzip" => flate2::read::GzDecoder::new(&body[..]).read_exact(&mut decoded),
            "br" => brotli::Decompressor::new(&body[..], 4096).read_exact(&mut decoded),
            "zstd" => zstd::stream::read::Decoder::new(&body[..]).unwrap().read_exact(&mut decoded),
            _ => {
                decoded.clone_from_slice(body.get(..length).unwrap_or(&vec![0; length]));
                Ok(())
            }
        };
        if complete.is_ok() && decoded.iter().any(|byte| *byte != 0) {
            return String::from_utf8(decoded).unwrap();
        }
    }
}

#[test]
fn each_chunk_of_a_pass_arrives_at_once() {
    for (config, coding) in [(ROUTE, "gzip"), (ROUTE, "br"), (OPEN, "zstd")] {
        let rig = Rig::new(config);
        let gate = Gate::new();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n";
        let first = Reply::script().then(head).then("5\r\nfirst\r\n").then_wait(&gate);
        rig.origin.on("/", first.then("6\r\nsecond\r\n0\r\n\r\n"));
        let mut connection = rig.parvis.client().connect();
        let fields = [("Accept-Encoding", coding), ("Cookie", "session=1")];
        connection.write_request("GET", "/", &fields, b"");
        assert_eq!(beginning(&mut connection, coding, 5), "first", "{coding}");
        gate.open();
    }
}

#[test]
fn event_streams_are_neither_encoded_nor_delayed() {
    let rig = Rig::new(ROUTE);
    let gate = Gate::new();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let events = Reply::script().then(head).then("8\r\ndata: 1\n\r\n").then_wait(&gate).then("0\r\n\r\n");
    rig.origin.on("/", events);
    let mut connection = rig.parvis.client().connect();
    let fields = [("Accept-Encoding", "gzip, br"), ("Cookie", "session=1")];
    connection.write_request("GET", "/", &fields, b"");
    assert_eq!(beginning(&mut connection, "", 8), "data: 1\n");
    gate.open();
}

#[test]
fn lengths_are_blurred_where_they_could_tell() {
    let config = "routes:\n  - {name: mine, match: {path: /mine}, cache: {ttl: 1h, key: {cookies: [session]}}}\n  \
                  - {name: all, cache: {ttl: 1h}}";
    let rig = Rig::new(config);
    rig.origin.on("/", html(page()));
    rig.origin.on("/mine", html(page()));
    let passed =
        |accepted: &str| rig.get_with("/", &[("Accept-Encoding", accepted), ("Cookie", "session=1")]);
    for coding in ["gzip", "br"] {
        let lengths: std::collections::BTreeSet<usize> = (0..20)
            .map(|_| {
                let response = passed(coding);
                assert_eq!(decoded(&response), page());
                response.body.len()
            })
            .collect();
        assert!(lengths.len() > 3, "{coding} {lengths:?}");
    }
    assert_eq!(passed("zstd").field("content-encoding"), None, "there is no room in it");
    let mine = || rig.get_with("/mine", &[("Accept-Encoding", "zstd, br"), ("Cookie", "session=1")]);
    eventually("a form", || mine().field("content-encoding").is_some());
    let form = mine();
    assert_eq!((field(&form, "content-encoding").as_str(), decoded(&form)), ("br", page()));
    assert!(field(&form, "etag").starts_with("W/\"x-br"), "its bytes are never the same again");
}

#[test]
fn a_purge_takes_the_forms_along_and_a_reload_changes_what_is_on_offer() {
    let rig = Rig::new("encode: {formats: [br]}\nroutes: [{name: all, cache: {ttl: 1h}}]");
    rig.origin.on("/", html(page()));
    until(&rig, "br", "\"x-br5\"");
    assert!(rig.parvis.metric("parvis_store_bytes", "") > 0.0);
    rig.purge(r#"{"all": true}"#);
    assert_eq!(rig.parvis.metric("parvis_store_bytes", ""), 0.0);
    // While one is made anew, over and over.
    for n in 0..20 {
        asked(&rig, "br");
        rig.purge(r#"{"all": true}"#);
        rig.origin.on("/", html(format!("{n}{}", page())));
        assert_eq!(decoded(&asked(&rig, "br")), format!("{n}{}", page()));
    }
    rig.purge(r#"{"all": true}"#);
    rig.origin.on("/", html(page()));
    until(&rig, "br", "\"x-br5\"");
    rig.reload("formats: [br]", "formats: [gzip]");
    assert_eq!(asked(&rig, "br").field("content-encoding"), None);
    until(&rig, "br, gzip", "\"x-gzip6\"");
    rig.reload("formats: [gzip]", "formats: []");
    let plain = asked(&rig, "br, gzip");
    assert_eq!((plain.verdict(), plain.field("content-encoding"), plain.field("vary")), ("hit", None, None));
}

#[test]
fn what_still_holds_keeps_its_forms() {
    let rig = Rig::new("routes: [{name: all}]");
    rig.origin.on_each("/", |request| match request.field("if-none-match") {
        Some(_) => Reply::status(304, "").field("ETag", "\"x\"").field("Cache-Control", "max-age=60"),
        None => html(page()).field("Cache-Control", "max-age=60"),
    });
    let strongest = until(&rig, "br", "\"x-br11\"");
    let fields = [("Accept-Encoding", "br"), ("Cache-Control", "no-cache")];
    let validated = rig.get_with("/", &fields);
    assert_eq!((validated.verdict(), validated.body == strongest.body), ("reload", true));
    let made = rig.parvis.metric("parvis_encodings_total", "coding=\"br\",level=\"quick\"");
    assert_eq!((made, field(&asked(&rig, "br"), "etag").as_str()), (1.0, "\"x-br11\""));
}
