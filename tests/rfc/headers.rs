//! Fields that a cache and proxy writes, keeps or takes away (RFC 9110 sections 6.6.1, 7.6.1 and 7.6.3, RFC 9111
//! section 5).

use super::{ROUTES, again, date, new_path, page};
use crate::support::{Reply, Rig};

const FRESH: (&str, &str) = ("Cache-Control", "max-age=3600");

#[test]
fn the_date_of_a_response_is_the_origins_on_every_path() {
    let rig = Rig::new("routes: [{name: all, cache: {stale_while_revalidate: 1h, stale_if_error: 1h}}]");
    let made = date(-1000);
    let dated = ("Date", made.as_str());
    rig.origin.on("/", page(&[FRESH, dated, ("ETag", "\"1\"")]));
    let kept = |response: crate::support::Response, case: &str| {
        assert_eq!(response.field("date").as_deref(), Some(made.as_str()), "{case}");
        assert_eq!(response.head.matches("Date:").count(), 1, "{case}");
    };
    kept(rig.get("/"), "miss");
    kept(rig.get("/"), "hit");
    kept(rig.get_with("/", &[("If-None-Match", "\"1\"")]), "304");
    kept(rig.get_with("/", &[("Range", "bytes=0-1")]), "206");
    kept(rig.parvis.client().send("HEAD", "/", &[], b""), "HEAD");
    kept(rig.get_with("/", &[("Cookie", "a=b")]), "pass");
    kept(rig.send("POST", "/", "x"), "write");
    rig.origin.on("/stale", page(&[("Cache-Control", "max-age=60"), dated]));
    rig.get("/stale");
    kept(rig.get("/stale"), "stale");
    let mut connection = rig.parvis.client().connect();
    for fields in [&[][..], &[("Cookie", "a=b")][..], &[][..]] {
        connection.write_request("GET", "/", fields, b"");
        kept(connection.read_response("GET"), "one connection");
    }
    let own = rig.parvis.client().send("PURGE", "/", &[], b"");
    assert_ne!(own.field("date").as_deref(), Some(made.as_str()), "parvis' own answers have its own");
}

#[test]
fn a_response_without_a_date_gets_the_moment_it_came() {
    let rig = Rig::new(ROUTES);
    for fields in [&[FRESH][..], &[FRESH, ("Date", "yesterday")][..]] {
        let path = new_path();
        rig.origin.on(&path, page(fields));
        let first = rig.get(&path).field("date").unwrap();
        let seconds = |text: &str| {
            let moment = httpdate::parse_http_date(text).unwrap();
            moment.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        };
        assert!((0..60).contains(&(seconds(&date(0)) - seconds(&first))), "{first}");
        assert_eq!(rig.get(&path).field("date").as_deref(), Some(&*first), "and keeps it");
    }
}

#[test]
fn a_304_brings_a_new_date() {
    let rig = Rig::new(ROUTES);
    let (old, new) = (date(-100), date(-5));
    let stored = page(&[("Cache-Control", "max-age=60"), ("Date", &old), ("ETag", "\"1\"")]);
    rig.origin.on_sequence("/", vec![stored, Reply::status(304, "").field("Date", &new)]);
    rig.get("/");
    assert_eq!(rig.get("/").field("date").as_deref(), Some(&*new));
    let hit = rig.get("/");
    assert_eq!((hit.verdict(), hit.field("date").as_deref()), ("hit", Some(&*new)));
    let age: u64 = hit.field("age").unwrap().parse().unwrap();
    assert!((5..60).contains(&age), "{age}");
}

#[test]
fn age_is_sent_with_everything_that_was_stored_and_counts_the_origins() {
    let rig = Rig::new(ROUTES);
    let age =
        |fields: &[(&str, &str)]| again(&rig, page(fields)).field("age").unwrap().parse::<u64>().unwrap();
    assert_eq!(age(&[FRESH]), 0);
    assert!((100..130).contains(&age(&[FRESH, ("Age", "100")])));
    assert!((1000..1030).contains(&age(&[FRESH, ("Date", &date(-1000))])));
    assert!((1000..1030).contains(&age(&[FRESH, ("Date", &date(-1000)), ("Age", "100")])), "the larger");
    let first = Rig::new(ROUTES);
    first.origin.on("/", page(&[FRESH, ("Age", "100, 200")]));
    assert_eq!(first.get("/").field("age").as_deref(), Some("100"), "a miss hands it on");
    first.origin.on("/none", page(&[FRESH]));
    assert_eq!(first.get("/none").field("age"), None, "what comes from the origin itself has none");
}

#[test]
fn the_time_that_a_slow_origin_took_counts_as_age() {
    let rig = Rig::new(ROUTES);
    for (fields, least) in [(&[FRESH][..], 1), (&[FRESH, ("Age", "100")][..], 101)] {
        let slow = page(fields).delayed(std::time::Duration::from_millis(1100));
        let age: u64 = again(&rig, slow).field("age").unwrap().parse().unwrap();
        assert!((least..least + 29).contains(&age), "{age}");
    }
}

#[test]
fn via_names_this_proxy_in_both_directions_after_those_before_it() {
    let rig = Rig::new(ROUTES);
    rig.origin.on("/", page(&[FRESH, ("Via", "1.0 inner")]));
    for fields in [&[("Via", "1.1 outer")][..], &[("Via", "1.1 outer"), ("Cookie", "a=b")][..], &[][..]] {
        let response = rig.get_with("/", fields);
        assert_eq!(response.field("via").as_deref(), Some("1.0 inner, 1.1 parvis"));
    }
    for request in rig.origin.received("/") {
        assert_eq!(request.field("via").as_deref(), Some("1.1 outer, 1.1 parvis"));
    }
    assert_eq!(
        rig.parvis.client().send("PURGE", "/", &[], b"").field("via"),
        None,
        "its own answers were not forwarded"
    );
}

#[test]
fn options_is_counted_down_and_goes_no_further_than_it_says() {
    let rig = Rig::new(ROUTES);
    rig.origin.on("/", Reply::ok(""));
    let options = |left: &str| rig.parvis.client().send("OPTIONS", "/", &[("Max-Forwards", left)], b"");
    assert_eq!((options("0").status, rig.origin.count("/")), (200, 0));
    assert!(options("0").field("allow").is_some_and(|allow| allow.contains("GET")));
    options("3");
    assert_eq!(rig.origin.received("/")[0].field("max-forwards").as_deref(), Some("2"));
}

#[test]
fn what_connection_nominates_goes_no_further_either_way() {
    let rig = Rig::new(ROUTES);
    rig.origin.on("/", page(&[FRESH, ("Connection", "X-Hop"), ("X-Hop", "1"), ("X-Kept", "1")]));
    let nominated = [("Connection", "X-Mine"), ("X-Mine", "1"), ("X-Other", "1")];
    for extra in [&[][..], &[("Cookie", "a=b")][..]] {
        let response = rig.get_with("/", &[&nominated[..], extra].concat());
        assert_eq!((response.field("x-hop"), response.field("x-kept").as_deref()), (None, Some("1")));
    }
    for request in rig.origin.received("/") {
        assert_eq!((request.field("x-mine"), request.field("x-other").as_deref()), (None, Some("1")));
    }
}

#[test]
fn lines_keep_their_order_and_names_their_spelling() {
    let rig = Rig::new(ROUTES);
    let fields = [
        FRESH,
        ("Warning", "199 - \"a\""),
        ("x-ODD-Name", "1"),
        ("Warning", "299 - \"b\""),
        ("x-ODD-Name", "2"),
    ];
    rig.origin.on("/", page(&fields));
    for verdict in ["miss", "hit"] {
        let response = rig.get("/");
        assert_eq!(response.verdict(), verdict);
        assert_eq!(response.field("warning").as_deref(), Some("199 - \"a\", 299 - \"b\""));
        assert!(response.head.contains("x-ODD-Name: 1\r\nx-ODD-Name: 2"), "{}", response.head);
    }
}
