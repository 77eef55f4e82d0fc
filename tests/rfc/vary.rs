//! Which stored variant a request selects (RFC 9111 section 4.1, RFC 9110 section 12.5.5).

use super::{ROUTES, again_with, new_path, page, with};
use crate::support::{Reply, Rig};

const FRESH: (&str, &str) = ("Cache-Control", "max-age=3600");

fn reused(rig: &Rig, vary: &[&str], first: &[(&str, &str)], second: &[(&str, &str)]) -> bool {
    let mut fields = vec![FRESH];
    fields.extend(vary.iter().map(|line| ("Vary", *line)));
    again_with(rig, page(&fields), first, second).verdict() == "hit"
}

#[test]
fn all_selecting_fields_must_match() {
    let rig = Rig::new(ROUTES);
    let one = [("Foo", "1"), ("Bar", "abc")];
    for (vary, second, expected) in [
        (&["Foo"][..], &[("Foo", "1")][..], true),
        (&["Foo"][..], &[("Foo", "2")][..], false),
        (&["Foo"][..], &[][..], false),
        (&["fOO, BaR"][..], &[("Bar", "abc"), ("Foo", "1")][..], true),
        (&["Foo, Bar"][..], &[("Foo", "1"), ("Bar", "abcde")][..], false),
        (&["Foo", "Bar"][..], &[("Foo", "1"), ("Bar", "abcde")][..], false),
        (&["Foo, Bar"][..], &[("Foo", "1")][..], false),
        (&["Other"][..], &[("Foo", "2")][..], true),
    ] {
        assert_eq!(reused(&rig, vary, &one, second), expected, "{vary:?} {second:?}");
    }
    assert!(!reused(&rig, &["Foo"], &[], &[("Foo", "1")]), "absent in the stored request");
    assert!(reused(&rig, &["Foo"], &[], &[]), "absent in both");
}

#[test]
fn a_star_matches_nothing_wherever_it_stands() {
    let rig = Rig::new(ROUTES);
    for vary in
        [&["*"][..], &["*, *"], &["*", "*"], &["Foo, *"], &["*, Foo"], &[", *"], &["", "*"], &["Foo Bar"]]
    {
        assert!(!reused(&rig, vary, &[], &[]), "{vary:?}");
    }
}

#[test]
fn values_are_compared_by_meaning_where_it_is_known() {
    let rig = Rig::new(ROUTES);
    for (vary, first, second, expected) in [
        ("Foo", &[("Foo", "1, 2")][..], &[("Foo", "1,2")][..], true),
        ("Foo", &[("Foo", "1, 2")][..], &[("Foo", "1"), ("Foo", "2")][..], true),
        ("Foo", &[("Foo", "1, 2")][..], &[("Foo", "2, 1")][..], false),
        ("Foo", &[("Foo", "a")][..], &[("Foo", "A")][..], false),
        ("Foo", &[("Foo", "\"a, b\"")][..], &[("Foo", "\"a,b\"")][..], false),
        ("Accept-Language", &[("Accept-Language", "en, de")][..], &[("Accept-Language", "eN,De")][..], true),
        (
            "Accept-Language",
            &[("Accept-Language", "en, de;q=0.5")][..],
            &[("Accept-Language", "en,  de ; q=0.5")][..],
            true,
        ),
        (
            "Accept-Language",
            &[("Accept-Language", "en, de")][..],
            &[("Accept-Language", "de, en")][..],
            false,
        ),
    ] {
        assert_eq!(reused(&rig, &[vary], first, second), expected, "{vary} {first:?} {second:?}");
    }
}

#[test]
fn variants_live_side_by_side() {
    let rig = Rig::new(ROUTES);
    rig.origin.on_each("/", |request| {
        with(Reply::ok(request.field("foo").unwrap_or_default()), &[FRESH, ("Vary", "Foo")])
    });
    for round in ["miss", "hit"] {
        for value in ["1", "2", "3"] {
            let response = rig.get_with("/", &[("Foo", value)]);
            assert_eq!((response.verdict(), response.text().as_str()), (round, value));
        }
    }
    assert_eq!(rig.origin.count("/"), 3);
}

#[test]
fn a_vary_that_changes_is_followed_and_the_newest_response_wins() {
    let rig = Rig::new(ROUTES);
    let path = new_path();
    let old = with(Reply::ok("by foo"), &[FRESH, ("Vary", "Foo")]);
    let new = with(Reply::ok("for all"), &[FRESH]);
    rig.origin.on_sequence(&path, vec![old, new]);
    assert_eq!(rig.get_with(&path, &[("Foo", "1")]).text(), "by foo");
    assert_eq!(rig.get_with(&path, &[("Foo", "2")]).text(), "for all");
    let newest = rig.get_with(&path, &[("Foo", "1")]);
    assert_eq!((newest.verdict(), newest.text().as_str()), ("hit", "for all"), "both match: the newest");

    let path = new_path();
    let by_foo = with(
        Reply::ok("by foo"),
        &[("Cache-Control", "max-age=60"), ("Age", "100"), ("ETag", "\"1\""), ("Vary", "Foo")],
    );
    let by_both = with(Reply::ok("by both"), &[FRESH, ("Vary", "Foo, Bar")]);
    rig.origin.on_sequence(&path, vec![by_foo, by_both]);
    let asked = [("Foo", "1"), ("Bar", "1")];
    rig.get_with(&path, &asked);
    assert_eq!(rig.get_with(&path, &asked).text(), "by both");
    assert_eq!(rig.get_with(&path, &asked).verdict(), "hit");
    assert_eq!(rig.get_with(&path, &[("Foo", "1"), ("Bar", "2")]).verdict(), "miss");
}
