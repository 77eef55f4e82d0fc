//! Entries of their own for sessions, tokens and users.

use super::{seen, short, told, with_cookie};
use crate::support::{Reply, Rig, eventually};

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
    assert_eq!(rig.parvis.metric("parvis_personalised_total", "found=\"refused\""), 3.0);
    // Nor by an answer that varies otherwise.
    rig.origin.on("/me", Reply::ok("another").field("Vary", "Accept"));
    assert_eq!(ask("forged-again").text(), "another");
    assert_eq!((ask("good-1").verdict(), ask("good-1").text().as_str()), ("hit", "the page of ada"));
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

#[test]
fn cookies_are_spelled_to_the_application_as_the_key_reads_them() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, key: {cookies: [cur]}}}]");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "cookie")));
    for (sent, received) in
        [("cur =EUR", "cur=EUR"), ("cur=\u{a0}EUR", "cur=\u{a0}EUR"), ("cur", "cur"), ("cur=", "cur=")]
    {
        assert_eq!(with_cookie(&rig, "/", sent).text(), received, "{sent}");
    }
    assert_eq!(with_cookie(&rig, "/", "cur=EUR").verdict(), "hit");
}

#[test]
fn a_field_that_connection_nominates_is_not_there_for_the_key_either() {
    let rig =
        Rig::new("routes: [{name: all, cache: {ttl: 1m, key: {headers: [X-Tenant], device_class: true}}}]");
    rig.origin.on_each("/", |request| {
        Reply::ok(format!("{} {}", seen(request, "x-tenant"), seen(request, "x-device-class")))
    });
    let nominated = [("X-Tenant", "acme"), ("User-Agent", "Mobile"), ("Connection", "X-Tenant, User-Agent")];
    assert_eq!(rig.get_with("/", &nominated).text(), "nothing desktop");
    assert_eq!(rig.get_with("/", &nominated[..2]).text(), "acme mobile");
    assert_eq!(rig.get("/").verdict(), "hit", "it was stored as what it was");
}
