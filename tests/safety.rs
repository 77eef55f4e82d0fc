//! Safe in front of an application that nobody understands any more, and still effective.

use std::sync::Barrier;
use std::thread;

use crate::support::origin::Received;
use crate::support::{Gate, Reply, Response, Rig, eventually};

/// The body names what the application saw, as a personal page does.
fn seen(request: &Received, name: &str) -> String {
    request.field(name).unwrap_or_else(|| "nothing".to_owned())
}

fn with_cookie(rig: &Rig, path: &str, cookie: &str) -> Response {
    rig.get_with(path, &[("Cookie", cookie)])
}

fn short(response: &Response) -> (&'static str, String) {
    (response.verdict(), response.detail())
}

fn told(verdict: &'static str, detail: &str) -> (&'static str, String) {
    (verdict, detail.to_owned())
}

// Entries per identity ---------------------------------------------------------------------------------------------

#[test]
fn each_session_has_entries_of_its_own_and_a_purge_finds_them_all() {
    let rig = Rig::new("routes: [{name: mine, cache: {ttl: 1m, key: {cookies: [sessionid]}}}]");
    rig.origin.on_each("/my/posts", |request| Reply::ok(seen(request, "cookie")).field("Vary", "Cookie"));
    for round in 0..3 {
        for cookie in ["sessionid=ada", "sessionid=bob", ""] {
            let sent = format!("_ga=GA1.{round}; {cookie}");
            let response = with_cookie(&rig, "/my/posts", &sent);
            let expected = if cookie.is_empty() { "nothing" } else { cookie };
            assert_eq!(response.text(), expected, "what is ignored is not sent");
            assert_eq!(response.verdict(), if round == 0 { "miss" } else { "hit" }, "{cookie}");
        }
    }
    assert_eq!(rig.origin.count("/my/posts"), 3);
    // A cookie that no list names still passes.
    assert_eq!(short(&with_cookie(&rig, "/my/posts", "sessionid=ada; basket=1")), told("pass", "cookie"));
    rig.purge(r#"{"urls": ["/my/posts"]}"#);
    for cookie in ["sessionid=ada", "sessionid=bob"] {
        assert_eq!(with_cookie(&rig, "/my/posts", cookie).verdict(), "miss", "{cookie}");
    }
}

#[test]
fn each_token_has_entries_of_its_own_and_its_value_is_shown_nowhere() {
    let config = "routes: [{name: api, cache: {ttl: 1m, key: {headers: [Authorization]}}}]";
    let rig = Rig::new(config);
    rig.origin.on_each("/api", |request| Reply::ok(seen(request, "authorization")));
    for verdict in ["miss", "hit"] {
        for token in ["Token secret-of-ada", "Token secret-of-bob"] {
            let response = rig.get_with("/api", &[("Authorization", token)]);
            assert_eq!((response.verdict(), response.text().as_str()), (verdict, token));
        }
        assert_eq!(rig.get("/api").text(), "nothing");
    }
    // To a WSGI application the same field, but not as the key reads it.
    let odd = rig.get_with("/api", &[("X_Api_Key", "x")]);
    assert_eq!(short(&odd), told("pass", "authorization"));
    eventually("all is logged", || rig.parvis.access_log().len() == 7);
    let told = format!("{:?}{}", rig.parvis.access_log(), rig.parvis.errors());
    assert!(!told.contains("secret-of"), "{told}");
}

/// A token whose payload is `{"sub": ..}`, with a signature that only the application can check.
fn token(payload: &str, signature: &str) -> String {
    use std::fmt::Write;
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).collect();
    let bits = payload.bytes().fold(String::new(), |mut bits, byte| {
        let _ = write!(bits, "{byte:08b}");
        bits
    });
    let sextets = bits.as_bytes().chunks(6).map(|chunk| {
        let padded = format!("{:0<6}", String::from_utf8_lossy(chunk));
        letters[usize::from_str_radix(&padded, 2).expect("bits")]
    });
    format!("Bearer e30.{}.{signature}", sextets.collect::<String>())
}

#[test]
fn a_claim_finds_the_page_of_its_user_and_a_forged_token_never_gets_it() {
    let rig = Rig::new("routes: [{name: api, cache: {ttl: 1m, key: {jwt_claim: sub}}}]");
    rig.origin.on_each("/me", |request| {
        let token = request.field("authorization").unwrap_or_default();
        match token.rsplit('.').next() {
            Some("good-1" | "good-2") => Reply::ok("the page of ada"),
            // As applications do where a login is optional.
            _ => Reply::ok("the page of nobody"),
        }
    });
    let ada = r#"{"sub":"ada"}"#;
    let ask = |signature: &str| rig.get_with("/me", &[("Authorization", &token(ada, signature))]);
    assert_eq!((ask("good-1").text().as_str(), ask("good-1").verdict()), ("the page of ada", "hit"));
    // Renewed: the application answers it once with the same bytes.
    assert_eq!(
        (ask("good-2").verdict(), ask("good-2").verdict(), ask("good-1").verdict()),
        ("miss", "hit", "hit")
    );
    for _ in 0..3 {
        let forged = ask("forged");
        assert_eq!(forged.text(), "the page of nobody", "{}", forged.head);
    }
    // Who forges tokens takes nothing from the one they are forged for.
    assert_eq!((ask("good-1").verdict(), ask("good-1").text().as_str()), ("hit", "the page of ada"));
    assert_eq!(rig.parvis.metric("parvis_personalised_total", "found=\"credential\""), 3.0);
    let none = rig.get_with("/me", &[("Authorization", "Token opaque")]);
    assert_eq!(short(&none), told("pass", "authorization"));
}

#[test]
fn a_url_has_so_many_variants_and_a_metric_tells_when() {
    let rig =
        Rig::new("routes: [{name: all, cache: {ttl: 1m, max_variants: 3, key: {cookies: [sessionid]}}}]");
    rig.origin.on("/", Reply::ok("x"));
    let verdict = |n: usize| with_cookie(&rig, "/", &format!("sessionid={n}")).verdict();
    (0..5).for_each(|n| assert_eq!(verdict(n), "miss"));
    assert_eq!(rig.parvis.metric("parvis_limit_reached_total", "limit=\"variants\""), 2.0);
    assert_eq!([4, 3, 2].map(verdict), ["hit"; 3]);
    assert_eq!(verdict(0), "miss", "the oldest made room");
}

// The personalisation guard ----------------------------------------------------------------------------------------

const FORWARDING: &str = "routes: [{name: all, cache: {ttl: 1m, forward_cookies: [theme, sessionid]}}]";

#[test]
fn a_page_is_shared_once_another_visitor_got_the_same() {
    let rig = Rig::new(FORWARDING);
    rig.origin
        .on_each("/", |request| Reply::ok("the same for all").field("X-Seen", &seen(request, "x-other")));
    let first = with_cookie(&rig, "/", "theme=dark; _ga=1");
    assert_eq!(short(&first), told("miss", "probation"));
    assert_eq!(rig.origin.received("/")[0].field("cookie").as_deref(), Some("theme=dark"), "it is sent");
    assert_eq!(with_cookie(&rig, "/", "theme=dark").verdict(), "hit", "the same inputs");
    assert_eq!(with_cookie(&rig, "/", "theme=light").verdict(), "miss", "not yet for others");
    for cookie in ["theme=blue", "theme=dark", "_ga=2"] {
        assert_eq!(with_cookie(&rig, "/", cookie).verdict(), "hit", "{cookie}");
    }
    assert_eq!(
        with_cookie(&rig, "/", "sessionid=1").verdict(),
        "miss",
        "proven is one cookie, not the other"
    );
    assert_eq!(with_cookie(&rig, "/", "sessionid=2; theme=red").verdict(), "hit");
    assert_eq!(rig.origin.count("/"), 3);
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
        with_cookie(&rig, path, "theme=a");
        with_cookie(&rig, path, "theme=b");
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
fn a_crowd_waits_for_the_proof_and_nobody_reads_along_before() {
    let rig = Rig::new(FORWARDING);
    let slow = std::time::Duration::from_millis(150);
    rig.origin.on_each("/page", move |_| Reply::ok("the same for all").delayed(slow));
    rig.origin.on_each("/personal", move |request| Reply::ok(seen(request, "cookie")).delayed(slow));
    for (_, response) in crowd(&rig, "/page", 30) {
        assert_eq!(response.text(), "the same for all");
    }
    assert_eq!(rig.origin.count("/page"), 2, "one to store, one to prove");
    for (cookie, response) in crowd(&rig, "/personal", 30) {
        assert_eq!(response.text(), cookie, "{}", response.head);
    }
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
    }
    for (path, expected) in [
        ("/by-agent", told("pass", "personalised")),
        ("/by-address", told("pass", "personalised")),
        ("/same", told("hit", "")),
    ] {
        assert_eq!(short(&from(path, "192.0.2.3", "tablet")), expected, "{path}");
    }
    assert_eq!(rig.origin.count("/public"), 1, "the application itself says that it is for everyone");
}

#[test]
fn a_body_with_the_visitors_own_secret_is_refused() {
    let rig = Rig::new(FORWARDING);
    rig.origin.on_each("/debug", |request| Reply::ok(format!("you sent: {}", seen(request, "cookie"))));
    let own = "sessionid=0123456789abcdef0123";
    assert_eq!(short(&with_cookie(&rig, "/debug", own)), told("miss", "probation"));
    assert_eq!(short(&with_cookie(&rig, "/debug", own)), told("pass", "personalised"));
    assert_eq!(rig.parvis.metric("parvis_personalised_total", "found=\"secret\""), 1.0);
}

#[test]
fn vary_may_be_ignored_and_the_guard_looks_whether_it_was_meant() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, ignore_vary: [User-Agent]}}]");
    let asked = |path: &str, agent: &str| rig.get_with(path, &[("User-Agent", agent)]);
    rig.origin.on_each("/habit", |_| Reply::ok("x").field("Vary", "User-Agent"));
    rig.origin
        .on_each("/meant", |request| Reply::ok(seen(request, "user-agent")).field("Vary", "User-Agent"));
    for path in ["/habit", "/meant"] {
        asked(path, "a");
        asked(path, "b");
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

// Cookies that responses set ---------------------------------------------------------------------------------------

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

// Keys that hit ----------------------------------------------------------------------------------------------------

#[test]
fn wishes_are_reduced_to_what_the_application_has_and_sent_in_that_form() {
    let rig = Rig::new(
        "routes: [{name: all, cache: {ttl: 1m, vary: {accept-language: [en, fr], accept: [application/json, text/html]}}}]",
    );
    rig.origin.on_each("/", |request| {
        let body = format!("{} {}", seen(request, "accept-language"), seen(request, "accept"));
        Reply::ok(body).field("Vary", "Accept-Language, Accept")
    });
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,image/png,*/*;q=0.8";
    for (language, accept, expected, verdict) in [
        ("fr-CH, fr;q=0.9, en;q=0.8", browser, "fr text/html", "miss"),
        ("fr", firefox, "fr text/html", "hit"),
        ("FR, *;q=0.1", "text/html", "fr text/html", "hit"),
        ("de, en;q=0.1", "*/*", "en application/json", "miss"),
        ("en-GB", "application/json;indent=2", "en application/json", "hit"),
        ("de", "image/png", "nothing nothing", "miss"),
        ("pl", "text/csv", "nothing nothing", "hit"),
    ] {
        let response = rig.get_with("/", &[("Accept-Language", language), ("Accept", accept)]);
        assert_eq!(
            (response.text().as_str(), response.verdict()),
            (expected, verdict),
            "{language} {accept}"
        );
    }
}

#[test]
fn kinds_of_devices_have_entries_of_their_own_and_the_application_is_told() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, key: {device_class: true}}}]");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "x-device-class")).field("Vary", "User-Agent"));
    let asked = |agent: &str, more: &[(&str, &str)]| {
        rig.get_with("/", &[&[("User-Agent", agent), ("X-Device-Class", "forged")], more].concat())
    };
    for (agent, class, verdict) in [
        ("Mozilla/5.0 (iPhone) Mobile Safari", "mobile", "miss"),
        ("Mozilla/5.0 (Linux; Android 15) Mobile Chrome", "mobile", "hit"),
        ("Mozilla/5.0 (X11; Linux) Firefox/140", "desktop", "miss"),
        ("curl/8", "desktop", "hit"),
    ] {
        let response = asked(agent, &[]);
        assert_eq!((response.text().as_str(), response.verdict()), (class, verdict), "{agent}");
    }
    let passing = asked("Mobile", &[("Cookie", "basket=1")]);
    assert_eq!((passing.verdict(), passing.text().as_str()), ("pass", "mobile"));
}

#[test]
fn only_listed_parameters_count_and_others_are_forwarded_only_under_the_guard() {
    let rig = Rig::new(
        "routes:
  - {name: search, match: {path: /search}, cache: {ttl: 1m, key: {query: {include: [q, page]}}}}
  - {name: rest, cache: {ttl: 1m, key: {query: {excluded: forward}}}}",
    );
    rig.origin.on_each("/search", |request| Reply::ok(request.target.clone()));
    assert_eq!(rig.get("/search?x=1&q=a&page=2").text(), "/search?q=a&page=2");
    assert_eq!(rig.get("/search?page=2&q=a&y=%3Cscript%3E").verdict(), "hit");
    rig.origin.on_each("/echo", |request| Reply::ok(request.target.clone()));
    rig.origin.on("/page", Reply::ok("x"));
    for path in ["/echo", "/page"] {
        for (campaign, verdict) in [("a", "miss"), ("b", "miss")] {
            let response = rig.get(&format!("{path}?utm_source={campaign}"));
            assert_eq!(response.verdict(), verdict, "{path} {campaign}");
        }
    }
    assert_eq!(rig.origin.received("/page")[0].target, "/page?utm_source=a", "it is sent");
    assert_eq!(rig.get("/page?utm_source=c").verdict(), "hit");
    let echoed = rig.get("/echo?utm_source=c");
    assert_eq!(
        (echoed.text().as_str(), short(&echoed)),
        ("/echo?utm_source=c", told("pass", "personalised"))
    );
}

// Poisoning and deception ------------------------------------------------------------------------------------------

#[test]
fn a_page_behind_the_path_of_a_file_is_not_stored() {
    let rig = Rig::new(
        "routes: [{name: static, match: {path: \"*.css\"}, cache: {ttl: 1h, ignore_cookies: [\"*\"]}}]",
    );
    rig.origin.on("/account/x.css", Reply::ok("the account of ada").field("Content-Type", "text/html"));
    rig.origin.on("/site.css", Reply::ok("a {}").field("Content-Type", "text/css"));
    assert_eq!(short(&with_cookie(&rig, "/account/x.css", "sessionid=ada")), told("miss", "extension"));
    assert_eq!(short(&rig.get("/account/x.css")), told("pass", "uncacheable"));
    assert_eq!([rig.get("/site.css").verdict(), rig.get("/site.css").verdict()], ["miss", "hit"]);
}

#[test]
fn an_error_that_one_client_provokes_is_never_anybody_elses() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on_each("/", |request| match request.field("x-oversized") {
        Some(_) => Reply::status(400, "bad").field("Cache-Control", "public, max-age=600"),
        None => Reply::ok("fine"),
    });
    let long = "x".repeat(9000);
    let provoked = rig.get_with("/", &[("X-Oversized", &long)]);
    assert_eq!((provoked.status, short(&provoked)), (400, told("miss", "provoked")));
    assert_eq!((rig.get("/").text().as_str(), rig.get("/").verdict()), ("fine", "hit"));
}

#[test]
fn claims_of_strangers_never_reach_the_application_on_any_way() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    let claims = [
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Scheme", "evil"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Original-URL", "/evil"),
        ("X-Rewrite-URL", "/evil"),
        ("Forwarded", "host=evil.test"),
        ("X-Forwarded-For", "192.0.2.66"),
        ("X-HTTP-Method-Override", "evil"),
    ];
    rig.origin.on_each("/", |request| Reply::ok(format!("{:?}", request.fields)));
    for more in [&[][..], &[("Cookie", "basket=1")][..]] {
        let page = rig.get_with("/", &[&claims[..], more].concat()).text();
        assert!(!page.contains("evil") && !page.contains("192.0.2.66"), "{page}");
        for set in [
            r#"("X-Forwarded-Host", "shop.test")"#,
            r#"("X-Forwarded-Proto", "http")"#,
            r#"("X-Forwarded-For", "127.0.0.1")"#,
        ] {
            assert!(page.to_lowercase().contains(&set.to_lowercase()), "{set}: {page}");
        }
    }
}

// The memo ---------------------------------------------------------------------------------------------------------

#[test]
fn a_page_that_becomes_cacheable_is_noticed_by_the_first_that_passes() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, uncacheable_ttl: 1h}}]");
    rig.origin.on("/", Reply::ok("x").field("Cache-Control", "no-store"));
    assert_eq!(short(&rig.get("/")), told("miss", "no-store"));
    assert_eq!(short(&rig.get("/")), told("pass", "uncacheable"));
    rig.origin.on("/", Reply::ok("x"));
    assert_eq!(short(&rig.get("/")), told("pass", "uncacheable"));
    assert_eq!([rig.get("/").verdict(), rig.get("/").verdict()], ["miss", "hit"]);
}
