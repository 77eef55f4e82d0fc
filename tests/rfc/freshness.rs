//! How long a response is fresh (RFC 9111 section 4.2, RFC 9213).

use super::{ROUTES, again, date, is_reused, page, with};
use crate::support::{Reply, Rig};

#[test]
fn s_maxage_beats_max_age_beats_expires() {
    let rig = Rig::new(ROUTES);
    let (future, past) = (date(3600), date(-3600));
    for (fields, reused) in [
        (&[("Cache-Control", "max-age=3600")][..], true),
        (&[("Cache-Control", "max-age=0")][..], false),
        (&[("Cache-Control", "max-age=3600"), ("Expires", &past)][..], true),
        (&[("Cache-Control", "max-age=3600"), ("Expires", "0")][..], true),
        (&[("Cache-Control", "max-age=0"), ("Expires", &future)][..], false),
        (&[("Cache-Control", "max-age=1, s-maxage=3600"), ("Age", "60")][..], true),
        (&[("Cache-Control", "s-maxage=3600, max-age=1"), ("Age", "60")][..], true),
        (&[("Cache-Control", "max-age=3600, s-maxage=1"), ("Age", "60")][..], false),
        (&[("Cache-Control", "s-maxage=1"), ("Expires", &future), ("Age", "60")][..], false),
        (&[("Expires", future.as_str())][..], true),
        (&[("Expires", past.as_str())][..], false),
        (&[][..], false),
    ] {
        assert_eq!(is_reused(&rig, fields), reused, "{fields:?}");
    }
}

#[test]
fn directive_values_are_read_in_every_spelling() {
    let rig = Rig::new(ROUTES);
    for (value, reused) in [
        ("MaX-aGe=3600", true),
        ("max-age=\"3600\"", true),
        ("max-age=003600", true),
        ("max-age=2147483647", true),
        ("max-age=2147483648", true),
        ("max-age=99999999999999", true),
        ("max-age=3600, foobar", true),
        ("foo=\"bar, baz\", max-age=3600", true),
        ("max-age='3600'", false),
        ("max-age =3600", false),
        ("max-age= 3600", false),
        ("max-age=-3600", false),
        ("max-age=a3600", false),
        ("max-age=3600a", false),
        ("max-age=3600.0", false),
        ("max-age=3600, max-age=1", false),
        ("max-age=1, max-age=3600", false),
        ("x=\"max-age=3600\", max-age=1", false),
        ("max-age=1, x=\"max-age=3600\"", false),
    ] {
        assert_eq!(is_reused(&rig, &[("Cache-Control", value), ("Age", "60")]), reused, "{value}");
    }
    let lines = [("Cache-Control", "max-age=3600"), ("Cache-Control", "max-age=1"), ("Age", "60")];
    assert!(!is_reused(&rig, &lines), "on two lines");
}

#[test]
fn an_expires_that_is_malformed_has_expired() {
    let rig = Rig::new(ROUTES);
    for (value, reused) in [
        ("Thu, 18 Aug 2050 02:01:18 GMT", true),
        ("Thursday, 18-Aug-50 02:01:18 GMT", true),
        ("Thu Aug 18 02:01:18 2050", true),
        ("THU, 18 AUG 2050 02:01:18 gmt", true),
        ("0", false),
        ("Thu, 18 Aug 2050 2:01:18 GMT", false),
        ("Thu, 18 Aug 50 02:01:18 GMT", false),
        ("Thu 18 Aug 2050 02:01:18 GMT", false),
        ("Thu, 18-Aug-2050 02:01:18 GMT", false),
        ("Thu, 18  Aug  2050  02:01:18 GMT", false),
        ("Thu, 18 Aug 2050 02.01.18 GMT", false),
        ("Thu, 18 Aug 2050 02:01:18 AEST", false),
        ("Thu, 18 Aug 2050 02:01:18 UTC", false),
    ] {
        assert_eq!(is_reused(&rig, &[("Expires", value)]), reused, "{value}");
    }
    let future = date(3600);
    assert!(!is_reused(&rig, &[("Expires", &future), ("Expires", &future)]), "on two lines");
}

#[test]
fn expires_counts_from_the_date_of_the_response() {
    let rig = Rig::new(ROUTES);
    for (date_offset, expires_offset, reused) in
        [(-3600, 3600, true), (-3600, -1800, false), (3600, 1800, false), (3600, 7200, true), (0, 0, false)]
    {
        let fields = [("Date", &*date(date_offset)), ("Expires", &*date(expires_offset))];
        assert_eq!(is_reused(&rig, &fields), reused, "{date_offset} {expires_offset}");
    }
}

#[test]
fn the_age_and_date_of_the_origin_count() {
    let rig = Rig::new(ROUTES);
    let fresh = ("Cache-Control", "max-age=3600");
    for (age, reused) in [
        ("0", true),
        ("3000", true),
        ("7200", false),
        ("0007200", false),
        ("7200, 0", false),
        ("0, 7200", true),
        ("7200, foo", false),
        ("foo, 7200", true),
        ("-7200", true),
        ("7200.0", true),
        ("7200s", true),
        ("a7200", true),
        ("7200;foo=bar", true),
        ("2147483649", false),
        ("99999999999999999999", false),
    ] {
        assert_eq!(is_reused(&rig, &[fresh, ("Age", age)]), reused, "{age}");
    }
    assert!(!is_reused(&rig, &[fresh, ("Age", "7200"), ("Age", "0")]), "the first line counts");
    assert!(!is_reused(&rig, &[fresh, ("Date", &date(-7200))]), "apparent age");
}

#[test]
fn a_lifetime_is_guessed_only_where_it_is_allowed() {
    let rig = Rig::new("routes: [{name: all, cache: {heuristic: {mode: last_modified}}}]");
    let old = date(-86_400);
    let modified = ("Last-Modified", old.as_str());
    let reused = |status: u16, fields: &[(&str, &str)]| {
        again(&rig, with(Reply::status(status, "x"), fields)).verdict() == "hit"
    };
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert!(reused(status, &[modified]), "{status}");
        assert!(!reused(status, &[("ETag", "\"a\"")]), "{status} without a date");
    }
    for status in [201, 202, 302, 403, 502, 503, 504, 599] {
        assert!(!reused(status, &[modified]), "{status}");
        assert!(reused(status, &[modified, ("Cache-Control", "public")]), "{status} public");
    }
    assert!(!reused(200, &[modified, ("Cache-Control", "max-age=0")]), "the origin told");
    let off = Rig::new(ROUTES);
    assert!(!is_reused(&off, &[modified]), "the default guesses nothing");
}

#[test]
fn cdn_cache_control_wins_where_it_is_valid() {
    let rig = Rig::new(ROUTES);
    let future = date(3600);
    for (targeted, cache_control, reused) in [
        ("max-age=3600", "max-age=1", true),
        ("max-age=3600", "no-store", true),
        ("max-age=3600, foo", "max-age=1", true),
        ("max-age=3600;x=1", "max-age=1", true),
        ("max-age=1", "max-age=3600", false),
        ("max-age=0", "max-age=3600", false),
        ("no-store", "max-age=3600", false),
        ("private", "max-age=3600", false),
        ("no-cache", "max-age=3600", false),
        ("foo", "max-age=3600", false),
        ("MaX-aGe=1", "max-age=3600", true),
        ("max-age =1", "max-age=3600", true),
        ("max-age= 1", "max-age=3600", true),
        ("max-age=\"3600\"", "no-store", false),
        ("max-age=&&&", "no-store", false),
        ("max-age=3600,", "no-store", false),
        ("", "max-age=3600", true),
    ] {
        let fields = [("CDN-Cache-Control", targeted), ("Cache-Control", cache_control), ("Age", "60")];
        assert_eq!(is_reused(&rig, &fields), reused, "{targeted} | {cache_control}");
    }
    assert!(!is_reused(&rig, &[("CDN-Cache-Control", "max-age=0"), ("Expires", &future)]));
    assert!(!is_reused(&rig, &[("CDN-Cache-Control", "max-age=3600"), ("Age", "7200")]), "its own Age");
    let kept = again(&rig, page(&[("CDN-Cache-Control", "max-age=60")]));
    assert_eq!(kept.field("cdn-cache-control").as_deref(), Some("max-age=60"), "passed through");
}
