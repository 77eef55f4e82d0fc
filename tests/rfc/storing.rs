//! What may be stored, and which of its fields (RFC 9111 section 3).

use super::{ROUTES, again, again_with, is_reused, new_path, page, with};
use crate::support::{Gate, Reply, Rig, eventually};

const FRESH: (&str, &str) = ("Cache-Control", "max-age=3600");

#[test]
fn any_final_status_with_a_lifetime_is_stored_but_for_parts() {
    let rig = Rig::new(ROUTES);
    let reused = |status: u16, cache_control: &str| {
        let reply = with(Reply::status(status, "x"), &[("Cache-Control", cache_control)]);
        let second = again(&rig, reply);
        assert_eq!(second.status, status);
        second.verdict() == "hit"
    };
    for status in
        [200, 203, 204, 299, 301, 302, 303, 307, 308, 404, 405, 410, 499, 500, 502, 503, 504, 599, 999]
    {
        assert!(reused(status, "max-age=3600"), "{status}");
        assert!(!reused(status, "max-age=0"), "{status} expired");
    }
    // One client can provoke 400 and 413 for everyone: stored only where the route names them.
    for status in [206, 400, 413, 416, 428, 429, 431, 511] {
        assert!(!reused(status, "max-age=3600"), "{status}");
    }
}

#[test]
fn must_understand_asks_for_a_known_status_and_lifts_no_store() {
    let rig = Rig::new(ROUTES);
    let verdict = |status: u16, value: &str| {
        again(&rig, with(Reply::status(status, "x"), &[("Cache-Control", value)])).verdict()
    };
    assert_eq!(verdict(200, "max-age=3600, no-store, must-understand"), "hit");
    assert_eq!(verdict(404, "max-age=3600, must-understand"), "hit");
    assert_eq!(verdict(599, "max-age=3600, must-understand"), "miss", "not stored the first time");
    assert_eq!(verdict(200, "max-age=3600, no-store"), "pass");
}

#[test]
fn prohibitions_are_obeyed_in_any_case_and_company() {
    let rig = Rig::new(ROUTES);
    for value in
        ["no-store", "No-StOrE", "private", "max-age=3600, no-store", "public, private, max-age=3600"]
    {
        assert!(!is_reused(&rig, &[("Cache-Control", value), ("ETag", "\"a\"")]), "{value}");
    }
    assert!(!is_reused(&rig, &[FRESH, ("Cache-Control", "no-cache"), ("ETag", "\"a\"")]));
    assert!(is_reused(&rig, &[FRESH, ("Pragma", "no-cache")]), "Pragma says nothing in a response");
}

#[test]
fn named_fields_are_for_who_fetched_and_the_rest_is_shared() {
    let rig = Rig::new(ROUTES);
    for directive in ["private", "no-cache"] {
        let path = new_path();
        let value = format!("{directive}=\"X-User, set-cookie\", max-age=3600");
        let fields = [("Cache-Control", &*value), ("X-User", "ada"), ("Set-Cookie", "a=b"), ("X-All", "1")];
        rig.origin.on(&path, page(&fields));
        let first = rig.get(&path);
        assert_eq!((first.field("x-user").as_deref(), first.verdict()), (Some("ada"), "miss"));
        let second = rig.get(&path);
        assert_eq!((second.verdict(), second.field("x-all").as_deref()), ("hit", Some("1")), "{directive}");
        assert_eq!((second.field("x-user"), second.field("set-cookie")), (None, None), "{directive}");
    }
}

#[test]
fn a_follower_never_sees_a_named_field() {
    let rig = Rig::new(ROUTES);
    let gate = Gate::new();
    let fields = [("Cache-Control", "private=\"x-user\", max-age=3600"), ("X-User", "ada")];
    rig.origin.on("/", page(&fields).behind(&gate));
    let seen: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| rig.get("/").field("x-user"))).collect();
        eventually("the fetch is under way", || rig.origin.count("/") == 1);
        gate.open();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(seen.iter().flatten().count() <= 1, "{seen:?}");
}

#[test]
fn authorization_passes_unless_the_route_follows_the_rfc() {
    let token: &[(&str, &str)] = &[("Authorization", "Token x")];
    let public = || page(&[("Cache-Control", "public, max-age=3600")]);
    let rig = Rig::new(ROUTES);
    assert_eq!(again_with(&rig, public(), token, token).detail(), "authorization");
    let rig = Rig::new("routes: [{name: all, cache: {authorization: rfc9111}}]");
    for (value, reused) in [
        ("max-age=3600", false),
        ("public, max-age=3600", true),
        ("must-revalidate, max-age=3600", true),
        ("s-maxage=3600", true),
    ] {
        let second = again_with(&rig, page(&[("Cache-Control", value)]), token, &[]);
        assert_eq!(second.verdict() == "hit", reused, "{value}");
    }
    let path = new_path();
    rig.origin.on_each(&path, |request| Reply::ok(request.field("authorization").unwrap_or_default()));
    for name in ["ada", "bob"] {
        let own = rig.get_with(&path, &[("Authorization", name)]);
        assert_eq!((own.text().as_str(), own.verdict()), (name, "miss"), "asked for with its own field");
    }
}

#[test]
fn what_one_person_is_told_changes_nothing_for_the_others() {
    let rig = Rig::new("routes: [{name: all, cache: {authorization: rfc9111}}]");
    let reload = [("Authorization", "ada"), ("Cache-Control", "no-cache")];
    let stored = || page(&[("Cache-Control", "public, max-age=3600"), ("ETag", "\"1\"")]);
    let own_304 = with(Reply::status(304, ""), &[("X-User", "ada"), ("Cache-Control", "max-age=60")]);
    let own_page = page(&[("Cache-Control", "private"), ("X-User", "ada")]);
    for (answer, forbidden) in [(own_304, false), (own_page, true)] {
        let path = new_path();
        rig.origin.on_each(&path, move |request| match request.field("authorization") {
            Some(_) => answer.clone(),
            None => stored(),
        });
        rig.get(&path);
        let own = rig.get_with(&path, &reload);
        assert_eq!((own.status, own.field("x-user").is_some()), (200, forbidden));
        let next = rig.get(&path);
        assert_eq!((next.verdict(), next.field("x-user")), ("hit", None), "neither changed nor gone");
        assert_eq!(next.field("cache-control").as_deref(), Some("public, max-age=3600"));
    }
}

#[test]
fn who_waits_for_anothers_authorized_page_gets_its_own() {
    waits_and_gets_its_own(&["ada", "bob", "cyd"]);
    // By itself: what a stranger gets is stored, and then is for the others too on such a route.
    waits_and_gets_its_own(&["ada", ""]);
}

/// The first of these leads, and the others wait for it.
fn waits_and_gets_its_own(names: &[&str]) {
    let rig = Rig::new("routes: [{name: all, cache: {authorization: rfc9111, ttl: 1m}}]");
    let gate = Gate::new();
    let held = gate.clone();
    rig.origin.on_each("/", move |request| {
        let reply = Reply::ok(request.field("authorization").unwrap_or_default());
        if request.field("authorization").as_deref() == Some("ada") { reply.behind(&held) } else { reply }
    });
    let pages: Vec<String> = std::thread::scope(|scope| {
        let ada = scope.spawn(|| rig.get_with("/", &[("Authorization", "ada")]).text());
        eventually("ada leads", || rig.origin.count("/") == 1);
        let others: Vec<_> = names[1..]
            .iter()
            .map(|name| {
                let rig = &rig;
                scope.spawn(move || match *name {
                    "" => rig.get("/").text(),
                    name => rig.get_with("/", &[("Authorization", name)]).text(),
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(50));
        gate.open();
        [ada].into_iter().chain(others).map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(pages, names);
}

#[test]
fn cookies_are_a_reason_not_to_store_unless_the_route_says_otherwise() {
    let reply = || page(&[FRESH, ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d"), ("X-All", "1")]);
    let rig = Rig::new(ROUTES);
    assert_eq!(again(&rig, reply()).verdict(), "pass");
    let rig = Rig::new("routes: [{name: all, cache: {set_cookie: strip}}]");
    rig.origin.on("/", reply());
    for verdict in ["miss", "hit"] {
        let response = rig.get("/");
        assert_eq!((response.verdict(), response.field("set-cookie")), (verdict, None));
        assert_eq!(response.field("x-all").as_deref(), Some("1"));
    }
    let rig = Rig::new("routes: [{name: all, cache: {set_cookie: store}}]");
    let second = again(&rig, reply());
    assert_eq!((second.verdict(), second.field("set-cookie").as_deref()), ("hit", Some("a=b, c=d")));
}

#[test]
fn fields_of_the_message_are_stored_and_fields_of_the_connection_are_not() {
    let rig = Rig::new("routes: [{name: all, cache: {set_cookie: store}}]");
    for (name, value) in [
        ("Test-Header", "1"),
        ("X-Test-Header", "1"),
        ("Content-Foo", "1"),
        ("Content-Location", "/foo"),
        ("Content-MD5", "rL0Y20zC+Fzt72VPzMSk2A=="),
        ("Content-Security-Policy", "default-src 'self'"),
        ("Content-Type", "text/plain;charset=utf-8"),
        ("Clear-Site-Data", "\"cache\""),
        ("ETag", "\"abc\""),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Expires", "Thu, 18 Aug 2050 02:01:18 GMT"),
        ("Set-Cookie", "a=b"),
        ("Set-Cookie2", "a=b"),
        ("Public-Key-Pins", "max-age=0"),
        ("X-Frame-Options", "SAMEORIGIN"),
        ("X-XSS-Protection", "1; mode=block"),
        ("Warning", "299 - \"old\""),
        ("Trailer", "X-Sum"),
        ("Vary", "Foo"),
    ] {
        let second = again(&rig, page(&[FRESH, (name, value)]));
        assert_eq!((second.verdict(), second.field(name).as_deref()), ("hit", Some(value)), "{name}");
    }
    for (name, value) in [
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authentication-Info", "x=y"),
        ("Proxy-Authorization", "x"),
        ("Proxy-Connection", "close"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
    ] {
        let second = again(&rig, page(&[FRESH, (name, value)]));
        assert_eq!((second.verdict(), second.field(name)), ("hit", None), "{name}");
    }
    let second =
        again(&rig, page(&[FRESH, ("Connection", "X-Hop, x-other"), ("X-Hop", "1"), ("X-Other", "2")]));
    assert_eq!((second.verdict(), second.field("x-hop"), second.field("x-other")), ("hit", None, None));
}

#[test]
fn interim_responses_are_handed_on_and_never_stored() {
    let rig = Rig::new(ROUTES);
    let gate = Gate::new();
    let early =
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Early: 1\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\npage";
    for (path, fields, verdict) in [("/shared", &[][..], "miss"), ("/pass", &[("Cookie", "a=b")][..], "pass")]
    {
        rig.origin.on(path, Reply::script().then(early).then_wait(&gate).then(last));
        let mut connection = rig.parvis.client().connect();
        connection.write_request("GET", path, fields, b"");
        assert_eq!(connection.read_response("GET").status, 102, "{path}");
        let hints = connection.read_response("GET");
        assert_eq!(
            (hints.status, hints.field("link").as_deref()),
            (103, Some("</a.css>")),
            "before the answer"
        );
        gate.open();
        let answer = connection.read_response("GET");
        assert_eq!((answer.status, answer.verdict(), answer.text().as_str()), (200, verdict, "page"));
        assert_eq!(answer.field("x-early"), None, "{path}");
    }
    let hit = rig.get("/shared");
    assert_eq!((hit.status, hit.verdict(), hit.field("x-early")), (200, "hit", None));
}

#[test]
fn interim_responses_are_for_who_caused_the_fetch() {
    let rig = Rig::new(ROUTES);
    let gate = Gate::new();
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </u/ada.css>\r\nSet-Cookie: sid=ada\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\npage";
    rig.origin.on("/", Reply::script().then(early).then_wait(&gate).then(last));
    let mut leader = rig.parvis.client().connect();
    leader.write_request("GET", "/", &[], b"");
    let hints = leader.read_response("GET");
    assert_eq!((hints.status, hints.field("set-cookie")), (103, None));
    let mut follower = rig.parvis.client().connect();
    follower.write_request("GET", "/", &[], b"");
    eventually("the follower is there", || rig.parvis.metric("parvis_connections_total", "") >= 2.0);
    gate.open();
    for connection in [&mut follower, &mut leader] {
        let page = connection.read_response("GET");
        assert_eq!((page.status, page.text().as_str()), (200, "page"));
    }
    assert_eq!(rig.origin.count("/"), 1);
}

#[test]
fn interim_responses_are_bounded_and_keep_their_own_fields() {
    let rig = Rig::new(ROUTES);
    let dated = "HTTP/1.1 103 Early Hints\r\nDate: Sun Nov  6 08:49:37 1994\r\nX-A: 1\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 4\r\n\r\npage";
    rig.origin.on("/", Reply::script().then_repeat(dated, 100).then(last));
    for (fields, count) in [(&[][..], 16), (&[("Cookie", "a=b")][..], 100)] {
        let mut connection = rig.parvis.client().connect();
        connection.write_request("GET", "/", fields, b"");
        let mut interim = 0;
        let page = loop {
            let response = connection.read_response("GET");
            if response.status == 200 {
                break response;
            }
            assert_eq!(response.field("x-a").as_deref(), Some("1"), "{}", response.head);
            interim += 1;
        };
        assert_eq!((interim, page.text().as_str()), (count, "page"));
        assert_eq!(page.field("date").as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    }
    for cookie in ["", "Cookie: a=b\r\n"] {
        let old = rig.parvis.client().raw(format!("GET / HTTP/1.0\r\nHost: h\r\n{cookie}\r\n").as_bytes());
        assert!(old.starts_with(b"HTTP/1.1 200"), "1.0 knows none: {}", String::from_utf8_lossy(&old));
    }
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_refused() {
    let rig = Rig::new(ROUTES);
    rig.origin
        .on("/", Reply::raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"));
    for fields in [&[][..], &[("Cookie", "a=b")][..]] {
        assert_eq!(rig.get_with("/", fields).status, 502, "{fields:?}");
    }
}

#[test]
fn a_304_to_a_request_without_conditions_is_no_answer() {
    let rig = Rig::new(ROUTES);
    rig.origin.on_sequence("/", vec![Reply::status(304, ""), page(&[FRESH])]);
    assert_eq!(rig.get("/").status, 502);
    assert_eq!((rig.get("/").verdict(), rig.get("/").verdict()), ("miss", "hit"));
}

#[test]
fn what_comes_encoded_is_for_those_who_accept_it() {
    let rig = Rig::new(ROUTES);
    rig.origin.on_each("/", |request| match request.field("accept-encoding").as_deref() {
        Some("none") => page(&[FRESH]),
        _ => with(Reply::ok("\x1f..."), &[FRESH, ("Content-Encoding", "gzip"), ("ETag", "\"z\"")]),
    });
    let asked = |accepted: &str| rig.get_with("/", &[("Accept-Encoding", accepted)]);
    assert_eq!(asked("gzip, br").verdict(), "miss");
    let hit = asked("br, gzip;q=0.5");
    assert_eq!((hit.verdict(), hit.field("content-encoding").as_deref()), ("hit", Some("gzip")));
    let passed = asked("none");
    assert_eq!((passed.detail().as_str(), passed.text().as_str()), ("encoding", "page"));
    assert_eq!(rig.origin.received("/")[1].field("accept-encoding").as_deref(), Some("none"));
}

#[test]
fn a_failure_after_early_hints_is_still_told() {
    let rig = Rig::new(ROUTES);
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
    rig.origin.on("/", Reply::script().then(early).then_close());
    for fields in [&[][..], &[("Cookie", "a=b")][..]] {
        let mut connection = rig.parvis.client().connect();
        connection.write_request("GET", "/", fields, b"");
        assert_eq!(connection.read_response("GET").status, 103);
        assert_eq!(connection.read_response("GET").status, 502, "{fields:?}");
    }
}

#[test]
fn a_transfer_coding_that_was_not_offered_is_refused() {
    let rig = Rig::new(ROUTES);
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    rig.origin.on("/", Reply::raw(format!("{head}3\r\nabc\r\n0\r\n\r\n")));
    let old = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: identity\r\n";
    rig.origin.on("/old", Reply::raw(format!("{old}Content-Length: 3\r\n\r\nabc")));
    rig.origin.on("/older", Reply::raw(format!("{old}\r\nabc")));
    for fields in [&[("Cookie", "a=b")][..], &[][..]] {
        assert_eq!(rig.get_with("/", fields).status, 502, "{fields:?}");
        for path in ["/old", "/older"] {
            let none = rig.get_with(path, fields);
            assert_eq!((none.status, none.text().as_str()), (200, "abc"), "{path} {fields:?}");
        }
    }
}
