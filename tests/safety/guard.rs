//! What reaches the application and is not in the key is shared only once it is proven to change nothing.

use std::sync::Barrier;
use std::thread;

use super::{seen, short, told, with_cookie};
use crate::support::{Gate, Reply, Response, Rig, eventually};

const FORWARDING: &str = "routes: [{name: all, cache: {ttl: 1m, forward_cookies: [theme, sessionid]}}]";

#[test]
fn a_page_is_shared_once_a_stranger_and_two_visitors_got_the_same() {
    let rig = Rig::new(FORWARDING);
    rig.origin.on("/", Reply::ok("the same for all"));
    let first = with_cookie(&rig, "/", "theme=dark; _ga=1");
    assert_eq!(short(&first), told("miss", "probation"));
    assert_eq!(rig.origin.received("/")[0].field("cookie").as_deref(), Some("theme=dark"), "it is sent");
    for (cookie, verdict) in [
        ("theme=dark", "hit"),
        ("theme=light", "miss"),
        // Two may be one person's.
        ("theme=blue", "miss"),
        ("theme=light; _ga=2", "hit"),
        ("_ga=3", "miss"),
        ("theme=never-seen", "hit"),
        ("", "hit"),
        // Of the other cookie nothing is known yet.
        ("sessionid=1", "miss"),
        ("sessionid=2; theme=red", "miss"),
        ("sessionid=3", "hit"),
    ] {
        assert_eq!(with_cookie(&rig, "/", cookie).verdict(), verdict, "{cookie}");
    }
    assert_eq!(rig.origin.count("/"), 6);
}

#[test]
fn the_page_of_one_person_stays_theirs_however_many_devices_they_have() {
    let rig = Rig::new(FORWARDING);
    // Only ada may see it, and sees the same everywhere.
    rig.origin.on_each("/inbox", |request| match seen(request, "cookie") {
        cookie if cookie.contains("ada") => Reply::ok("the inbox of ada"),
        _ => Reply::status(403, "not yours"),
    });
    for device in ["laptop", "phone", "laptop", "tablet", "phone"] {
        let page = with_cookie(&rig, "/inbox", &format!("sessionid=ada-{device}")).text();
        assert_eq!(page, "the inbox of ada", "{device}");
    }
    with_cookie(&rig, "/inbox", "sessionid=ada-laptop; sessionid=ada-laptop");
    for other in ["sessionid=bob", "", "theme=dark", "sessionid=bob; theme=dark"] {
        assert_eq!(with_cookie(&rig, "/inbox", other).status, 403, "{other}");
    }
}

#[test]
fn who_lacks_one_of_two_keys_is_no_stranger() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, forward_cookies: [sessionid, remember]}}]");
    rig.origin.on_each("/", |request| match seen(request, "cookie") {
        cookie if cookie.contains("ada") => Reply::ok("the page of ada"),
        _ => Reply::ok("log in"),
    });
    for cookie in ["sessionid=ada-1; remember=ada", "remember=ada", "sessionid=ada-1", "sessionid=ada-2"] {
        assert_eq!(with_cookie(&rig, "/", cookie).text(), "the page of ada", "{cookie}");
    }
    for cookie in ["sessionid=bob", "remember=bob", ""] {
        assert_eq!(with_cookie(&rig, "/", cookie).text(), "log in", "{cookie}");
    }
}

#[test]
fn many_with_a_session_refresh_a_proven_page_once() {
    let rig =
        Rig::new("routes: [{name: all, cache: {forward_cookies: [sessionid], stale_while_revalidate: 1h}}]");
    let expired = || Reply::ok("public").field("Cache-Control", "max-age=60").field("Age", "61");
    rig.origin.on("/", expired());
    for cookie in ["sessionid=1", "sessionid=2", ""] {
        with_cookie(&rig, "/", cookie);
    }
    let gate = Gate::new();
    let before = rig.origin.count("/");
    rig.origin.on("/", expired().behind(&gate));
    for (_, response) in crowd(&rig, "/", 30) {
        assert_eq!((response.verdict(), response.text().as_str()), ("stale", "public"));
    }
    // Nobody waits for it, so it may come after all of them.
    eventually("it is refreshed", || rig.origin.count("/") > before);
    gate.open();
    assert_eq!(rig.origin.count("/") - before, 1);
}

#[test]
fn what_one_person_is_told_ends_the_page_for_nobody_else() {
    let rig = Rig::new("routes: [{name: all, cache: {forward_cookies: [sessionid], stale_if_error: 1h}}]");
    let aged = || Reply::ok("public").field("Cache-Control", "max-age=60").field("Age", "61");
    rig.origin.on("/", aged());
    for cookie in ["sessionid=1", "sessionid=2", ""] {
        with_cookie(&rig, "/", cookie);
    }
    // Whoever refreshes it does so as a stranger would, once; a session that has proven nothing asks for itself.
    rig.origin.on_each("/", move |request| match request.field("cookie") {
        Some(_) => Reply::ok("yours").field("Cache-Control", "private"),
        None => aged(),
    });
    let before = rig.origin.count("/");
    assert_eq!(with_cookie(&rig, "/", "sessionid=3").text(), "public");
    assert_eq!(rig.origin.count("/") - before, 1);
    assert_eq!(with_cookie(&rig, "/", "sessionid=3; x=1").detail(), "cookie");
    rig.origin.on("/", Reply::status(503, "down"));
    assert_eq!((rig.get("/").status, rig.get("/").detail()), (200, "stale-if-error".to_owned()));
}

#[test]
fn a_page_that_differs_by_visitor_is_marked_and_shared_with_nobody() {
    let rig = Rig::new(FORWARDING);
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "cookie")));
    for (cookie, expected) in [
        ("sessionid=ada", told("miss", "probation")),
        ("sessionid=bob", told("miss", "probation")),
        ("sessionid=ada", told("pass", "personalised")),
        ("sessionid=bob", told("pass", "personalised")),
        ("sessionid=eve", told("pass", "personalised")),
    ] {
        let response = with_cookie(&rig, "/", cookie);
        assert_eq!((response.text().as_str(), short(&response)), (cookie, expected), "{cookie}");
    }
    assert_eq!(rig.get("/").text(), "nothing");
    assert_eq!(rig.parvis.metric("parvis_personalised_total", "found=\"difference\""), 1.0);
    eventually("all are counted", || {
        rig.parvis.metric("parvis_requests_total", "reason=\"personalised\"") == 4.0
    });
    let log = rig.parvis.errors();
    assert!(log.contains("personalised") && log.contains("another visitor got another body"), "{log}");
    assert!(!log.contains("ada"), "{log}");
    // A purge ends the belief: the page may have been changed.
    rig.purge(r#"{"urls": ["/"]}"#);
    assert_eq!(short(&rig.get("/")), told("miss", "probation"));
}

#[test]
fn a_difference_in_a_field_counts_and_one_of_the_moment_does_not() {
    let rig = Rig::new(FORWARDING);
    rig.origin.on_each("/user", |request| Reply::ok("x").field("X-User", &seen(request, "cookie")));
    rig.origin.on_each("/time", |request| {
        Reply::ok("x")
            .field("X-Request-ID", &seen(request, "x-request-id"))
            .field("Server-Timing", &seen(request, "cookie"))
    });
    for path in ["/user", "/time"] {
        for cookie in ["theme=a", "theme=b", ""] {
            with_cookie(&rig, path, cookie);
        }
    }
    assert_eq!(short(&with_cookie(&rig, "/user", "theme=c")), told("pass", "personalised"));
    assert_eq!(with_cookie(&rig, "/time", "theme=c").verdict(), "hit");
}

#[test]
fn what_replaces_a_proven_page_is_proven_anew() {
    let rig = Rig::new(FORWARDING);
    // Empty for both, and expired at once; then ada puts something into hers.
    let empty = Reply::ok("0 items").field("Cache-Control", "max-age=60").field("Age", "60");
    rig.origin.on("/basket", empty.field("ETag", "\"0\""));
    with_cookie(&rig, "/basket", "sessionid=ada");
    with_cookie(&rig, "/basket", "sessionid=bob");
    rig.origin.on_each("/basket", |request| {
        Reply::ok(if seen(request, "cookie").contains("ada") { "3 items" } else { "0 items" })
    });
    assert_eq!(with_cookie(&rig, "/basket", "sessionid=ada").text(), "3 items");
    assert_eq!(with_cookie(&rig, "/basket", "sessionid=bob").text(), "0 items");
    assert_eq!(short(&with_cookie(&rig, "/basket", "sessionid=ada")), told("pass", "personalised"));
}

/// Asks at once; each answer is paired with the cookie it was asked with.
fn crowd(rig: &Rig, path: &str, count: usize) -> Vec<(String, Response)> {
    let barrier = Barrier::new(count);
    let ask = |n: usize| {
        let cookie = format!("sessionid=visitor-{n}");
        barrier.wait();
        let response = with_cookie(rig, path, &cookie);
        (cookie, response)
    };
    let (ask, mut answers) = (&ask, Vec::new());
    thread::scope(|scope| {
        let asking: Vec<_> = (0..count).map(|n| scope.spawn(move || ask(n))).collect();
        answers.extend(asking.into_iter().map(|asking| asking.join().expect("a response")));
    });
    answers
}

#[test]
fn in_a_crowd_nobody_reads_along_with_another_person_and_strangers_share_one_fetch() {
    let rig = Rig::new(FORWARDING);
    let slow = std::time::Duration::from_millis(150);
    rig.origin.on_each("/personal", move |request| Reply::ok(seen(request, "cookie")).delayed(slow));
    rig.origin.on_each("/page", move |_| Reply::ok("the same for all").delayed(slow));
    for (cookie, response) in crowd(&rig, "/personal", 30) {
        assert_eq!(response.text(), cookie, "{}", response.head);
    }
    thread::scope(|scope| {
        let strangers: Vec<_> = (0..20).map(|_| scope.spawn(|| rig.get("/page"))).collect();
        let visitors = crowd(&rig, "/page", 10).into_iter().map(|(_, response)| response);
        let strangers = strangers.into_iter().map(|asking| asking.join().expect("a response"));
        strangers.chain(visitors).for_each(|response| assert_eq!(response.text(), "the same for all"));
    });
    assert!(rig.origin.count("/page") <= 11, "{}", rig.origin.count("/page"));
}

#[test]
fn a_forced_lifetime_makes_address_and_browser_prove_themselves() {
    let rig = Rig::new(
        "trusted_proxies: [127.0.0.1]\nroutes: [{name: all, cache: {ttl: 1m, origin_cache_control: override}}]",
    );
    let from = |path: &str, address: &str, agent: &str| {
        rig.get_with(path, &[("X-Forwarded-For", address), ("User-Agent", agent)])
    };
    rig.origin.on_each("/by-agent", |request| Reply::ok(seen(request, "user-agent")));
    rig.origin.on_each("/by-address", |request| {
        Reply::ok(seen(request, "x-forwarded-for")).field("Cache-Control", "max-age=0")
    });
    rig.origin.on("/same", Reply::ok("x"));
    rig.origin.on_each("/public", |_| Reply::ok("x").field("Cache-Control", "public"));
    for path in ["/by-agent", "/by-address", "/same", "/public"] {
        from(path, "192.0.2.1", "phone");
        from(path, "192.0.2.2", "desktop");
        from(path, "192.0.2.3", "tablet");
    }
    for (path, expected) in [
        ("/by-agent", told("pass", "personalised")),
        ("/by-address", told("pass", "personalised")),
        ("/same", told("hit", "")),
    ] {
        assert_eq!(short(&from(path, "192.0.2.4", "watch")), expected, "{path}");
    }
    assert_eq!(rig.origin.count("/public"), 1, "the application itself says that it is for everyone");
}

#[test]
fn a_body_with_the_visitors_own_secret_is_refused_and_nobody_else_pays_for_it() {
    let rig = Rig::new(FORWARDING);
    rig.origin.on_each("/debug", |request| Reply::ok(format!("you sent: {}", seen(request, "cookie"))));
    let own = "sessionid=0123456789abcdef0123";
    for _ in 0..2 {
        let response = with_cookie(&rig, "/debug", own);
        assert_eq!(short(&response), told("miss", "probation"));
        assert!(!response.cache_status().contains("stored"), "{}", response.head);
    }
    assert_eq!(rig.parvis.metric("parvis_personalised_total", "found=\"secret\""), 2.0);
    // A piece of a public page is no secret, whoever sends it.
    rig.origin.on("/page", Reply::ok("<link href=/static/css/main.css>"));
    with_cookie(&rig, "/page", "theme=/static/css/main.css");
    assert_eq!([rig.get("/page").verdict(), rig.get("/page").verdict()], ["miss", "hit"]);
}

#[test]
fn nobody_reads_along_with_a_page_that_may_show_a_token() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, authorization: rfc9111}}]");
    let gate = Gate::new();
    let hold = gate.clone();
    rig.origin.on_each("/page", move |request| match request.field("authorization") {
        Some(token) => Reply::script()
            .then("HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Length: 40\r\n\r\n")
            .then(format!("{token:<30}"))
            .then_wait(&hold)
            .then("0123456789"),
        None => Reply::ok("for everyone").field("Cache-Control", "public, max-age=60"),
    });
    let (own, stranger) = thread::scope(|scope| {
        let own = scope.spawn(|| rig.get_with("/page", &[("Authorization", "Bearer secret-of-ada-0123")]));
        eventually("ada asks", || rig.origin.count("/page") == 1);
        let stranger = scope.spawn(|| rig.get("/page"));
        thread::sleep(std::time::Duration::from_millis(200));
        gate.open();
        (own.join().expect("a page"), stranger.join().expect("a page"))
    });
    assert!(own.text().contains("secret-of-ada"));
    assert_eq!(stranger.text(), "for everyone", "{}", stranger.head);
}

#[test]
fn vary_may_be_ignored_and_the_guard_looks_whether_it_was_meant() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, ignore_vary: [User-Agent]}}]");
    let asked = |path: &str, agent: &str| rig.get_with(path, &[("User-Agent", agent)]);
    rig.origin.on_each("/habit", |_| Reply::ok("x").field("Vary", "User-Agent"));
    rig.origin
        .on_each("/meant", |request| Reply::ok(seen(request, "user-agent")).field("Vary", "User-Agent"));
    for path in ["/habit", "/meant"] {
        for agent in ["a", "b", "d"] {
            asked(path, agent);
        }
    }
    assert_eq!(asked("/habit", "c").verdict(), "hit");
    assert_eq!(
        (asked("/meant", "c").text().as_str(), short(&asked("/meant", "c"))),
        ("c", told("pass", "personalised"))
    );
}

#[test]
fn with_the_guard_off_a_page_is_shared_at_once() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, forward_cookies: [theme], guard: off}}]");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "cookie")));
    assert_eq!(with_cookie(&rig, "/", "theme=dark").text(), "theme=dark");
    assert_eq!(with_cookie(&rig, "/", "theme=light").text(), "theme=dark", "as the operator wanted");
}

#[test]
fn a_page_that_shows_the_cookie_it_sets_is_refused_even_where_cookies_are_stripped() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, set_cookie: strip}}]");
    let form = r#"<input name="token" value="s3cret-t0ken">"#;
    rig.origin.on("/form", Reply::ok(form).field("Set-Cookie", "csrf=s3cret-t0ken; Path=/"));
    rig.origin.on("/page", Reply::ok("hello").field("Set-Cookie", "visited=yes-it-was; Path=/"));
    assert_eq!([rig.get("/page").verdict(), rig.get("/page").verdict()], ["miss", "hit"]);
    assert_eq!(rig.get("/page").field("set-cookie"), None);
    rig.get("/form");
    for _ in 0..2 {
        let form = rig.get("/form");
        assert_eq!(short(&form), told("pass", "personalised"));
        assert!(form.field("set-cookie").is_some(), "who passes gets the cookie too");
    }
}

#[test]
fn nobody_reads_along_with_a_page_that_may_show_its_cookie() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, set_cookie: strip}}]");
    let (gate, counter) = (Gate::new(), std::sync::atomic::AtomicUsize::new(0));
    let hold = gate.clone();
    rig.origin.on_each("/form", move |_| {
        let token = format!("t0ken-number-{}", counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        let cookie = format!("csrf={token}");
        Reply::ok(format!("<input value={token}>")).field("Set-Cookie", &cookie).behind(&hold)
    });
    let ask = || rig.get("/form").text();
    let mut forms: Vec<String> = thread::scope(|scope| {
        let asking: Vec<_> = (0..5).map(|_| scope.spawn(ask)).collect();
        eventually("one of them leads", || rig.origin.count("/form") == 1);
        gate.open();
        asking.into_iter().map(|asking| asking.join().expect("a form")).collect()
    });
    forms.sort();
    forms.dedup();
    assert_eq!(forms.len(), 5, "each has a token of its own: {forms:?}");
}

#[test]
fn what_was_stored_under_other_rules_is_not_served_after_a_reload() {
    let lax = "cache: {ttl: 1m, set_cookie: store, guard: off, forward_cookies: [sessionid]}";
    let rig = Rig::new(&format!("routes: [{{name: all, {lax}}}]"));
    rig.origin.on("/", Reply::ok("x").field("Set-Cookie", "sessionid=of-ada-and-nobody-else"));
    assert_eq!([rig.get("/").verdict(), rig.get("/").verdict()], ["miss", "hit"]);
    rig.reload(lax, "cache: {ttl: 1m}");
    assert_eq!(short(&rig.get("/")), told("miss", "set-cookie"));
}

/// A page that has expired and is proven public, of which a stranger and two visitors know.
fn proven(rig: &Rig, path: &str, reply: Reply) {
    rig.origin.on(path, reply.field("Cache-Control", "max-age=60").field("Age", "61").field("ETag", "\"1\""));
    // The stranger last: who refreshes an expired page shows only that they may have it.
    for cookie in ["sessionid=1", "sessionid=2", ""] {
        with_cookie(rig, path, cookie);
    }
}

const FORWARDING_ONLY: &str = "routes: [{name: all, cache: {forward_cookies: [sessionid]}}]";

#[test]
fn what_a_304_says_to_one_visitor_is_theirs() {
    let rig = Rig::new(FORWARDING_ONLY);
    proven(&rig, "/", Reply::ok("public"));
    rig.origin.on_each("/", |request| {
        let fresh = Reply::status(304, "").field("Cache-Control", "max-age=60").field("ETag", "\"1\"");
        match request.field("cookie") {
            Some(cookie) => fresh.field("X-User", &cookie).field("Server-Timing", &cookie),
            None => fresh,
        }
    });
    let own = with_cookie(&rig, "/", "sessionid=0123456789-of-ada");
    assert_eq!(own.text(), "public");
    // `ada` alone may stand in the id of a request.
    for cookie in ["", "sessionid=bob", "sessionid=1"] {
        let response = with_cookie(&rig, "/", cookie);
        assert_eq!(response.text(), "public");
        assert!(!response.head.contains("of-ada"), "{cookie}: {}", response.head);
    }
}

#[test]
fn a_304_that_sets_a_cookie_and_shows_it_renews_nothing() {
    let rig = Rig::new("routes: [{name: all, cache: {set_cookie: strip}}]");
    let page = |reply: Reply, age: &str| {
        reply.field("Cache-Control", "max-age=60").field("Age", age).field("ETag", "\"1\"")
    };
    rig.origin.on("/", page(Reply::ok("page"), "61"));
    rig.get("/");
    let shows = page(Reply::status(304, ""), "0")
        .field("Set-Cookie", "csrf=0123456789")
        .field("X-CSRF", "0123456789");
    rig.origin.on("/", shows);
    rig.get("/");
    let next = rig.get("/");
    assert!(next.verdict() != "hit" && next.detail() == "personalised", "{}", next.head);
}

#[test]
fn a_public_page_that_becomes_a_members_is_no_longer_a_strangers() {
    let rig = Rig::new(FORWARDING_ONLY);
    proven(&rig, "/", Reply::ok("the same bytes"));
    rig.origin.on_each("/", |request| match request.field("cookie") {
        Some(_) => Reply::ok("the same bytes").field("Cache-Control", "max-age=60"),
        None => Reply::status(403, "members only"),
    });
    for cookie in ["sessionid=1", "sessionid=2", "sessionid=3"] {
        assert_eq!(with_cookie(&rig, "/", cookie).text(), "the same bytes", "{cookie}");
        assert_eq!(rig.get("/").status, 403);
    }
}

#[test]
fn who_joins_a_page_does_not_make_it_younger() {
    let rig = Rig::new(FORWARDING_ONLY);
    let aged = |age: &str| Reply::ok("x").field("Cache-Control", "max-age=100").field("Age", age);
    rig.origin.on("/", aged("90"));
    with_cookie(&rig, "/", "sessionid=1");
    rig.origin.on("/", aged("0"));
    with_cookie(&rig, "/", "sessionid=2");
    let age = |cookie: &str| {
        let response = with_cookie(&rig, "/", cookie);
        assert_eq!(response.verdict(), "hit", "{cookie}");
        response.field("age").expect("an age").parse::<u32>().expect("a number")
    };
    assert!(age("sessionid=1") >= 90 && age("sessionid=2") >= 90);
    // A stranger's shows that it is still public.
    rig.get("/");
    assert!(age("") < 90);
}

#[test]
fn a_crowd_does_not_pay_for_what_one_visitor_is_told() {
    let rig = Rig::new(FORWARDING_ONLY);
    proven(&rig, "/", Reply::ok("public"));
    let before = rig.origin.count("/");
    let slow = std::time::Duration::from_millis(150);
    rig.origin.on_each("/", move |request| match request.field("cookie") {
        Some(_) => Reply::ok("yours").field("Cache-Control", "private").delayed(slow),
        None => Reply::ok("public").field("Cache-Control", "max-age=60").delayed(slow),
    });
    thread::scope(|scope| {
        scope.spawn(|| with_cookie(&rig, "/", "sessionid=ada"));
        eventually("ada asks", || rig.origin.count("/") > before);
        let strangers: Vec<_> = (0..20).map(|_| scope.spawn(|| rig.get("/"))).collect();
        for stranger in strangers {
            assert_eq!(stranger.join().expect("a page").text(), "public");
        }
    });
    assert!(rig.origin.count("/") - before <= 4, "{}", rig.origin.count("/") - before);
}

#[test]
fn a_token_is_not_what_a_stranger_has() {
    let rig = Rig::new(
        "routes: [{name: all, cache: {authorization: rfc9111, forward_cookies: [sessionid], stale_while_revalidate: 1s}}]",
    );
    proven(&rig, "/", Reply::ok("public"));
    rig.origin.on_each("/", |request| {
        let reply = Reply::ok("public").field("Cache-Control", "public, max-age=60").field("ETag", "\"1\"");
        match request.field("authorization") {
            Some(token) => reply.field("X-Echo", &token),
            None => reply,
        }
    });
    let fields = [("Authorization", "Bearer secret-of-ada-0123"), ("Cookie", "sessionid=1")];
    rig.get_with("/", &fields);
    rig.get_with("/", &fields);
    for cookie in ["", "sessionid=1", "sessionid=9"] {
        let response = with_cookie(&rig, "/", cookie);
        assert!(!response.head.contains("of-ada"), "{cookie}: {}", response.head);
    }
}

#[test]
fn what_the_origin_refuses_one_client_ends_no_public_page() {
    let rig = Rig::new(FORWARDING);
    rig.origin.on_each("/", |request| match request.field("accept").as_deref() {
        Some("x/y") => Reply::status(406, "no"),
        Some("x/z") => Reply::status(429, "later"),
        _ => Reply::ok("public"),
    });
    for cookie in ["", "sessionid=1", "sessionid=2"] {
        with_cookie(&rig, "/", cookie);
    }
    for accept in ["x/y", "x/z"] {
        rig.get_with("/", &[("Accept", accept), ("Cache-Control", "no-cache")]);
        assert_eq!(rig.get("/").verdict(), "hit", "{accept}");
    }
}

#[test]
fn an_origin_that_fails_is_asked_once_by_each() {
    let rig = Rig::new(FORWARDING_ONLY);
    proven(&rig, "/", Reply::ok("public"));
    rig.origin.on("/", Reply::status(503, "down"));
    for n in 0..3 {
        let before = rig.origin.count("/");
        assert_eq!(with_cookie(&rig, "/", "sessionid=1").status, 503);
        assert_eq!(rig.origin.count("/") - before, 1, "{n}");
    }
}
