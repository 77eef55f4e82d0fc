//! The guard, as one.

use std::net::IpAddr;

use super::*;
use crate::rules::head::{Fields, RequestHead};
use crate::rules::policy::{CachePolicy, Guard, IdentityPolicy, OriginControl, Patterns};
use crate::rules::target::{Scheme, Target};
use crate::rules::testing;
use proptest::prelude::*;

const WATCHED: &str = "the guard watches this route";
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const NOTHING: Ambient = Ambient { address: false, agent: false };
const FORCED: Ambient = Ambient { address: true, agent: true };

fn forwarding() -> CachePolicy {
    CachePolicy { forward_cookies: Patterns::new(&["*"]).expect("a pattern"), ..testing::policy() }
}

fn inputs_from(address: &str, policy: &CachePolicy, path: &str, fields: &[(&str, &str)]) -> Inputs {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let target = Target::new(Scheme::Http, "shop", path);
    let request =
        RequestHead { method: "GET", target, fields: Fields::new(&fields), has_body: false, believed: &[] };
    Inputs::of(&request, address.parse().expect("an address"), policy)
}

fn with_cookies(cookies: &str) -> Inputs {
    inputs_from(&HOME.to_string(), &forwarding(), "/", &[("Cookie", cookies)])
}

/// The witness of a page that all of these got.
fn witness(visits: &[&str]) -> Witness {
    let first = Witness::of(&with_cookies(visits[0]), NOTHING, &forwarding()).expect(WATCHED);
    visits[1..].iter().fold(first, |witness, cookies| witness.joined_by(&with_cookies(cookies)))
}

#[test]
fn a_route_that_leaves_nothing_out_is_not_watched() {
    let inputs = inputs_from("192.0.2.1", &testing::policy(), "/?utm_source=x", &[("cookie", "_ga=1")]);
    assert_eq!(Witness::of(&inputs, NOTHING, &testing::policy()), None);
    let off = CachePolicy { guard: Guard::Off, ..forwarding() };
    assert_eq!(Witness::of(&with_cookies("a=1"), FORCED, &off), None);
}

#[test]
fn a_first_copy_is_for_those_with_the_same_values() {
    let first = witness(&["theme=dark; plan=a"]);
    assert!(first.covers(&with_cookies("plan=a; theme=dark")));
    assert!(first.covers(&with_cookies("theme=dark; plan=a; theme=dark")), "sent twice alike");
    let strangers =
        ["theme=light; plan=a", "theme=light; plan=b", "theme=dark", "theme=dark; plan=a; x=1", ""];
    for cookies in strangers {
        assert!(!first.covers(&with_cookies(cookies)), "{cookies}");
    }
}

#[test]
fn sessions_alone_prove_nothing_for_a_session_that_nobody_has_tried() {
    // They may all be of one person, on a page that only this person may see.
    let several = witness(&["id=1", "id=2", "id=3", "id=4", "id=1; id=2"]);
    for cookies in ["id=1", "id=4"] {
        assert!(several.covers(&with_cookies(cookies)), "{cookies}");
    }
    for cookies in ["id=5", "", "id=1; id=3"] {
        assert!(!several.covers(&with_cookies(cookies)), "{cookies}");
    }
}

#[test]
fn what_a_stranger_and_two_sessions_got_is_public() {
    for visits in [["", "id=1", "id=2"], ["id=1", "id=2", ""], ["id=1", "", "id=2"]] {
        let public = witness(&visits);
        for cookies in ["", "id=1", "id=3"] {
            assert!(public.covers(&with_cookies(cookies)), "{visits:?} {cookies}");
        }
        assert!(!public.covers(&with_cookies("id=3; theme=dark")), "of another cookie nothing is known");
    }
    let halfway = witness(&["", "id=1"]);
    assert!(!halfway.covers(&with_cookies("id=2")), "a session that has ended looks like none");
}

#[test]
fn a_renewal_by_one_person_ends_what_was_proven_for_others() {
    let public = witness(&["", "id=1", "id=2"]);
    let by_member = public.renewed_by(&with_cookies("id=1"));
    assert!(by_member.covers(&with_cookies("id=1")));
    for cookies in ["", "id=2", "id=3"] {
        assert!(!by_member.covers(&with_cookies(cookies)), "{cookies}");
    }
    let by_stranger = public.renewed_by(&with_cookies("id=1").of_stranger());
    assert!(["", "id=1", "id=3"].iter().all(|cookies| by_stranger.covers(&with_cookies(cookies))));
}

#[test]
fn fields_of_the_moment_that_differ_are_named() {
    let one = [("Server-Timing", &b"auth;desc=ada"[..]), ("Date", b"1"), ("ETag", b"1"), ("X-A", b"1")];
    let other = [("date", &b"2"[..]), ("etag", b"1"), ("x-a", b"2"), ("X-Debug-User", b"bob")];
    assert_eq!(
        difference::of_the_moment(Fields::new(&one), Fields::new(&other)),
        ["server-timing", "x-debug-user"]
    );
}

#[test]
fn who_lacks_one_cookie_but_has_another_is_no_stranger() {
    let theirs = witness(&["id=1", "remember=1", "id=2", "remember=2"]);
    for cookies in ["", "id=bob", "remember=bob", "id=1; remember=2"] {
        assert!(!theirs.covers(&with_cookies(cookies)), "{cookies}");
    }
}

#[test]
fn a_credential_is_never_proven_but_for_its_own_value() {
    let identity = IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() };
    let policy = CachePolicy { identity, ..testing::policy() };
    let with = |token: &str| inputs_from("192.0.2.1", &policy, "/", &[("Authorization", token)]);
    let first = Witness::of(&with("Bearer a"), NOTHING, &policy).expect(WATCHED);
    let mut joined = first.joined_by(&with("Bearer b")).joined_by(&Inputs::default());
    assert!(joined.covers(&with("Bearer a")) && joined.covers(&with("Bearer b")));
    assert!(!joined.covers(&with("Bearer forged")));
    for n in 0..300 {
        joined = joined.joined_by(&with(&format!("Bearer {n}")));
    }
    assert_eq!(joined.persons.len(), Witness::MAX);
    assert!(
        joined.covers(&with("Bearer 299")) && !joined.covers(&with("Bearer a")),
        "forgotten is not admitted"
    );
}

#[test]
fn what_is_forgotten_is_not_admitted() {
    let mut many = witness(&["id=0; theme=a"]);
    for n in 1..500 {
        many = many.joined_by(&with_cookies(&format!("id={n}; d{n}=1")));
    }
    assert!(many.persons.len() <= Witness::MAX && many.values.len() <= Witness::MAX);
    for cookies in ["", "id=0; theme=a", "id=bob", "d1=1"] {
        assert!(!many.covers(&with_cookies(cookies)), "{cookies}");
    }
}

#[test]
fn traits_of_the_client_count_where_they_may_matter_and_three_prove_them() {
    let policy = CachePolicy { origin_cache_control: OriginControl::Override, ..testing::policy() };
    let from = |address: &str, agent: &str| inputs_from(address, &policy, "/", &[("user-agent", agent)]);
    let first = from("192.0.2.1", "x");
    let forced = Witness::of(&first, FORCED, &policy).expect(WATCHED);
    assert!(!forced.covers(&from("192.0.2.2", "x")) && !forced.covers(&from("192.0.2.1", "y")));
    let two = forced.joined_by(&from("192.0.2.2", "y"));
    assert!(two.covers(&from("192.0.2.2", "x")) && !two.covers(&from("192.0.2.3", "z")));
    assert!(two.joined_by(&from("192.0.2.3", "z")).covers(&from("192.0.2.4", "w")));
    let agent = Ambient { agent: true, ..NOTHING };
    let by_agent = Witness::of(&first, agent, &policy).expect(WATCHED);
    assert!(by_agent.covers(&from("192.0.2.9", "x")) && !by_agent.covers(&from("192.0.2.1", "y")));
    assert_eq!(Witness::of(&first, NOTHING, &policy), None, "the origin itself marked it as fresh");
}

#[test]
fn parameters_and_fields_that_are_sent_unkeyed_count() {
    let mut policy = testing::policy();
    policy.query.forward_excluded = true;
    policy.ignore_vary = vec!["accept".into(), "cookie".into()];
    let of = |path: &str, accept: &str| inputs_from("192.0.2.1", &policy, path, &[("Accept", accept)]);
    let witness = Witness::of(&of("/?utm_source=a", "x"), NOTHING, &policy).expect(WATCHED);
    assert!(witness.covers(&of("/?utm_source=a&page=2", "x")), "what is keyed is no input");
    for (path, accept) in [("/?utm_source=b", "x"), ("/?utm_source=a", "y"), ("/", "x")] {
        assert!(!witness.covers(&of(path, accept)), "{path} {accept}");
    }
}

#[test]
fn only_what_may_name_a_person_keeps_requests_from_waiting_for_each_other() {
    let policy = CachePolicy { origin_cache_control: OriginControl::Override, ..forwarding() };
    let of =
        |address: &str, cookies: &str| inputs_from(address, &policy, "/", &[("Cookie", cookies)]).person();
    assert_eq!(of("192.0.2.1", ""), None);
    assert_eq!(of("192.0.2.1", "id=1"), of("192.0.2.2", "id=1"));
    assert_ne!(of("192.0.2.1", "id=1"), of("192.0.2.1", "id=2"));
}

#[test]
fn what_exceeds_the_inputs_told_apart_is_never_proven() {
    let flags: Vec<String> = (0..Inputs::MAX).map(|n| format!("c{n}=1")).collect();
    let with = |more: &str| with_cookies(&format!("{}; {more}", flags.join("; ")));
    assert_eq!(with("id=ada; x=1").0.len(), Inputs::MAX + 1);
    let first = Witness::of(&with("id=ada; x=1"), NOTHING, &forwarding()).expect(WATCHED);
    let joined =
        first.joined_by(&with("id=ada; x=2")).joined_by(&with_cookies("")).joined_by(&with("id=ada"));
    assert!(!joined.covers(&with("id=bob")) && !joined.covers(&with("id=bob; x=1")));
}

#[test]
fn other_bytes_mean_a_change_a_forged_token_or_a_personal_page() {
    let identity = IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() };
    let policy = CachePolicy { identity, ..forwarding() };
    let with = |token: &str, cookie: &str| {
        inputs_from("192.0.2.1", &policy, "/", &[("Authorization", token), ("Cookie", cookie)])
    };
    let first = with("Bearer a", "theme=dark");
    let witness = Witness::of(&first, NOTHING, &policy).expect(WATCHED);
    let head = ResponseHead { status: 200, fields: Fields::default() };
    let settled = |body: &[u8], inputs: &Inputs, is_fresh: bool| {
        let own = Witness::of(inputs, NOTHING, &policy).expect(WATCHED);
        let stored = Stored { witness: &witness, head, body: b"page", is_fresh };
        settle(&stored, (head, body), own, inputs)
    };
    let own = |inputs: &Inputs| Settled::Store(Witness::of(inputs, NOTHING, &policy).expect(WATCHED));
    assert_eq!(settled(b"new", &first, true), own(&first), "the page has changed");
    let forged = with("Bearer b", "theme=dark");
    assert_eq!(settled(b"new", &forged, true), Settled::Refuse);
    assert_eq!(settled(b"new", &forged, false), own(&forged), "it may have changed");
    assert_eq!(settled(b"page", &forged, true), Settled::Admit(witness.joined_by(&forged)));
    let renewed = witness.renewed_by(&forged);
    assert_eq!(settled(b"page", &forged, false), Settled::Store(renewed.clone()));
    assert!(renewed.covers(&forged) && !renewed.covers(&first), "the first token may have been withdrawn");
    let stranger = Inputs::default();
    assert_eq!(settled(b"page", &stranger, true), Settled::Store(witness.joined_by(&stranger)));
    let other = inputs_from("192.0.2.1", &policy, "/", &[("Cookie", "theme=light")]);
    assert_eq!(settled(b"new", &other, true), Settled::Mark(Difference::Body));
}

#[test]
fn the_first_difference_is_named() {
    let page = |status, fields: &'static [(&'static str, &'static [u8])]| ResponseHead {
        status,
        fields: Fields::new(fields),
    };
    let one = page(200, &[("Date", b"1"), ("X-A", b"1"), ("x-b", b"2")]);
    let same = page(200, &[("X-B", b"2 "), ("x-a", b"1"), ("ETag", b"\"1\""), ("X-RateLimit-Left", b"3")]);
    assert_eq!(difference((one, b"x"), (same, b"x")), None);
    assert_eq!(difference((one, b"x"), (same, b"y")), Some(Difference::Body));
    assert_eq!(difference((one, b"x"), (page(404, &[]), b"x")), Some(Difference::Status));
    let user = page(200, &[("x-a", b"1"), ("x-b", b"2"), ("X-User", b"ada")]);
    assert_eq!(difference((one, b"x"), (user, b"x")), Some(Difference::Field("x-user".into())));
    assert_eq!(difference((user, b"x"), (one, b"x")), Some(Difference::Field("x-user".into())));
}

proptest! {
    /// Whatever the order of visitors, a page that depends on a cookie never reaches a visitor with another
    /// value, nor one without it when those without get another.
    #[test]
    fn a_page_that_depends_on_a_cookie_is_never_shared_across_it(
        visits in proptest::collection::vec((0u8..4, 0u8..3), 1..60),
    ) {
        let policy = forwarding();
        let mut stored: Option<(u8, Witness)> = None;
        for (user, theme) in visits {
            let name = if user == 0 { String::new() } else { format!("user={user}; ") };
            let inputs = with_cookies(&format!("{name}theme={theme}"));
            match &stored {
                Some((body, witness)) if witness.covers(&inputs) => prop_assert_eq!(*body, user),
                Some((body, witness)) if *body == user => stored = Some((user, witness.joined_by(&inputs))),
                // Marked as personalised; here it begins anew.
                _ => stored = Witness::of(&inputs, NOTHING, &policy).map(|witness| (user, witness)),
            }
        }
    }

    /// A page that two cookies can each open reaches only those who have opened it, whatever they came with before.
    #[test]
    fn a_page_with_two_keys_stays_behind_both(
        visits in proptest::collection::vec((0u8..3, 0u8..3), 1..40), other in (0u8..3, 0u8..3),
    ) {
        // 0: none; 1: ada's; 2: of someone else, who gets the public page.
        let opens = |(id, remember): (u8, u8)| id == 1 || remember == 1;
        let cookies = |(id, remember): (u8, u8), n: usize| {
            let pair = |name: &str, of: u8| match of {
                0 => String::new(),
                1 => format!("{name}=ada-{}; ", n % 3),
                _ => format!("{name}=other-{n}; "),
            };
            pair("id", id) + &pair("remember", remember)
        };
        let mut theirs: Option<Witness> = None;
        for (n, visit) in visits.iter().enumerate().filter(|(_, visit)| opens(**visit)) {
            let inputs = with_cookies(&cookies(*visit, n));
            theirs = match theirs {
                None => Witness::of(&inputs, NOTHING, &forwarding()),
                Some(witness) => Some(witness.joined_by(&inputs)),
            };
        }
        if let Some(witness) = theirs.filter(|_| !opens(other)) {
            prop_assert!(!witness.covers(&with_cookies(&cookies(other, 1000))));
        }
    }

    /// A page that only one person may see, on as many devices as they like, reaches nobody else.
    #[test]
    fn the_page_of_one_person_stays_theirs(sessions in proptest::collection::vec(0u8..6, 1..40)) {
        let cookies: Vec<String> = sessions.iter().map(|n| format!("id=ada-{n}; theme={n}")).collect();
        let visits: Vec<&str> = cookies.iter().map(String::as_str).collect();
        let theirs = witness(&visits);
        for other in ["", "id=bob", "id=bob; theme=1", "theme=1"] {
            prop_assert!(!theirs.covers(&with_cookies(other)));
        }
    }
}
