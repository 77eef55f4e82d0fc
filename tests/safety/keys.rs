//! Keys that hit: wishes, devices and parameters are reduced to what the application distinguishes.

use super::{seen, short, told};
use crate::support::{Reply, Rig};

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
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "x-device-class")));
    rig.origin
        .on_each("/varies", |request| Reply::ok(seen(request, "user-agent")).field("Vary", "User-Agent"));
    rig.origin
        .on_each("/habit", |request| Reply::ok(seen(request, "x-device-class")).field("Vary", "User-Agent"));
    let ask =
        |path: &str, agent: &str| rig.get_with(path, &[("User-Agent", agent), ("X-Device-Class", "forged")]);
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
    // What varies by more than the device is found out.
    for agent in ["curl/8", "wget/1", "lynx/2"] {
        ask("/habit", agent);
        assert_eq!(ask("/varies", agent).text(), agent);
    }
    assert_eq!(ask("/habit", "w3m/0").verdict(), "hit", "three browsers of a kind got the same");
    assert_eq!(short(&ask("/varies", "w3m/0")), told("pass", "personalised"));
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
        for query in ["?utm_source=a", "?utm_source=b"] {
            assert_eq!(rig.get(&format!("{path}{query}")).verdict(), "miss", "{path}{query}");
        }
    }
    rig.get("/page");
    assert_eq!(rig.origin.received("/page")[0].target, "/page?utm_source=a", "it is sent");
    assert_eq!(rig.get("/page?utm_source=c").verdict(), "hit");
    let echoed = rig.get("/echo?utm_source=c");
    assert_eq!(
        (echoed.text().as_str(), short(&echoed)),
        ("/echo?utm_source=c", told("pass", "personalised"))
    );
}

#[test]
fn a_host_with_a_dot_at_its_end_is_the_same_host() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "host")));
    assert_eq!(rig.get_with("/", &[("Host", "shop.test.")]).text(), "shop.test");
    assert_eq!(rig.get("/").verdict(), "hit");
    rig.purge(r#"{"urls": ["http://shop.test/"]}"#);
    assert_eq!(rig.get_with("/", &[("Host", "shop.test.:80")]).verdict(), "miss");
}

#[test]
fn a_second_browser_line_is_another_browser() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m, key: {device_class: true}}}]");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "user-agent")).field("Vary", "User-Agent"));
    rig.get_with("/", &[("User-Agent", "Firefox"), ("User-Agent", "evil")]);
    assert_eq!(rig.get_with("/", &[("User-Agent", "Firefox")]).text(), "Firefox");
}

#[test]
fn what_browsers_and_routers_send_of_themselves_is_no_identity() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
    rig.origin.on_each("/", |request| Reply::ok(seen(request, "rsc") + &seen(request, "x-xsrf-token")));
    let browser = [("Sec-Fetch-User", "?1"), ("Sec-Fetch-Mode", "navigate"), ("X-XSRF-TOKEN", "of-ada")];
    assert_eq!(rig.get_with("/", &browser).text(), "nothingnothing");
    assert_eq!(rig.get_with("/", &browser).verdict(), "hit");
    let fragment = rig.get_with("/", &[("RSC", "1")]);
    assert_eq!((fragment.text().as_str(), short(&fragment)), ("1nothing", told("pass", "fragment")));
}
