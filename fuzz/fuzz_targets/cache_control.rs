//! Whatever stands in the fields that steer a cache, the rules read it without a panic, and what they promise
//! holds.
//!
//! The input is a head: lines of `Name: value`. A line without a name is a `Cache-Control`. The same head is
//! taken as a request's and as a response's.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/clock.rs"]
mod clock;
#[allow(dead_code)]
#[path = "../../src/rules/mod.rs"]
mod rules;

mod clean;
mod purges;

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;

use clean::names;
use clock::Timestamp;
use rules::admission::{self, Admission};
use rules::cache_control::CacheControl;
use rules::client_control::ClientControl;
use rules::conditional;
use rules::cookies::{self, Role};
use rules::directives::MAX_DELTA;
use rules::forwarding::is_claim;
use rules::freshness::{Exchange, Freshness, StaleReason, age_value, parse_date};
use rules::guard::{Ambient, Inputs, Witness};
use rules::head::{Field, Fields, RequestHead, ResponseHead, is_token};
use rules::key::{CacheKey, Vary};
use rules::outgoing::Outgoing;
use rules::policy::*;
use rules::ranges::{self, Part};
use rules::secrets::Secrets;
use rules::target::{Scheme, Target};
use rules::targeted;
use rules::validation::{self, Validation};
use rules::verdict::{self, Verdict};

const NOON: Timestamp = Timestamp(1_784_289_600_000);

/// Permissive, so that as little as possible is refused before it is looked at.
static POLICY: LazyLock<CachePolicy> = LazyLock::new(|| CachePolicy {
    heuristic: Some(Heuristic { percent: 10, max: Duration::MAX }),
    set_cookie: SetCookie::Store,
    authorization: Authorization::Rfc9111,
    guard: Guard::Off,
    extension_must_match: false,
    ttl: Duration::from_secs(60),
    query: QueryPolicy { sort: true, ..QueryPolicy::default() },
    stale_while_revalidate: Duration::from_secs(30),
    stale_if_error: Duration::from_secs(60),
    stale_on_disconnect: Duration::from_secs(90),
    ..CachePolicy::default()
});

fuzz_target!(|bytes: &[u8]| {
    let lines: Vec<Field<'_>> = bytes.split(|byte| *byte == b'\n').map(field).collect();
    let fields = Fields::new(&lines);
    let targeted: Vec<Field<'_>> = lines.iter().map(|(name, value)| (for_cdn(name), *value)).collect();
    prohibitions_are_read(fields);
    a_targeted_field_wins_as_a_whole(fields);
    a_targeted_field_wins_as_a_whole(Fields::new(&targeted));
    for (status, authorized) in [(200, false), (200, true), (206, false), (302, false), (599, false)] {
        what_is_kept_may_be(fields, status, authorized);
    }
    what_is_kept_may_be(Fields::new(&targeted), 200, true);
    parts_lie_within_the_body(fields);
    conditions_are_checked(fields);
    what_selects_is_read_alike(fields);
    one_visitor_leaves_no_trace(fields);
    numbers_and_dates_are_bounded(fields);
    purges::are_read(fields);
});

/// One line of a head. White space around a value is no part of it.
fn field(line: &[u8]) -> Field<'_> {
    let at = line.iter().position(|byte| *byte == b':').unwrap_or_default();
    match std::str::from_utf8(&line[..at]) {
        Ok(name) if is_token(name) => (name, line[at + 1..].trim_ascii()),
        _ => ("cache-control", line.trim_ascii()),
    }
}

fn for_cdn(name: &str) -> &str {
    if name.eq_ignore_ascii_case("cache-control") { "cdn-cache-control" } else { name }
}

fn prohibitions_are_read(fields: Fields<'_>) {
    let read = CacheControl::parse(fields);
    let client = ClientControl::parse(fields);
    for line in fields.all("cache-control") {
        let line = String::from_utf8_lossy(line);
        for (directive, is_read) in [
            ("no-store", read.no_store && client.no_store),
            ("no-cache", read.no_cache && client.no_cache),
            ("private", read.private),
            ("must-revalidate", read.must_revalidate && read.forbids_stale()),
            ("proxy-revalidate", read.proxy_revalidate && read.forbids_stale()),
            ("only-if-cached", client.only_if_cached),
        ] {
            assert!(is_read || !names(&line, directive), "{directive} in {line:?}");
        }
    }
    let longest = Some(Duration::from_secs(MAX_DELTA));
    assert!(read.max_age <= longest && read.s_maxage <= longest && client.max_age <= longest);
}

fn a_targeted_field_wins_as_a_whole(fields: Fields<'_>) {
    let read = CacheControl::of(fields);
    match targeted::parse(fields) {
        Some(targeted) => assert!(targeted == read && read.targeted),
        None => assert!(read == CacheControl::parse(fields) && !read.targeted),
    }
}

fn what_is_kept_may_be(fields: Fields<'_>, status: u16, authorized: bool) {
    let control = CacheControl::of(fields);
    let response = ResponseHead { status, fields };
    let exchange =
        Exchange { requested_at: NOON, received_at: NOON.plus(Duration::from_millis(1500)), authorized };
    if let Some((freshness, _)) = Freshness::assess(&response, &control, &POLICY, exchange) {
        time_only_takes_away(&freshness, &ClientControl::parse(fields));
    }
    let Admission::Keep(kept) = admission::judge("/", &response, &POLICY, u64::MAX, exchange) else { return };
    assert_ne!(status, 206);
    assert!(!control.private && (!control.no_store || control.must_understand));
    assert!(!authorized || control.permits_authorization());
    assert_eq!(Ok(kept.vary), Vary::parse(fields, &POLICY));
    assert!(kept.withheld.iter().all(|name| is_token(name) && !name.bytes().any(|b| b.is_ascii_uppercase())));
}

/// A response only ever gets older, and is never good again for the same request.
fn time_only_takes_away(freshness: &Freshness, client: &ClientControl) {
    let expiry = freshness.lifetime.saturating_sub(freshness.initial_age);
    let allowed = client.max_stale.unwrap_or_default().min(Duration::from_secs(MAX_DELTA));
    let second = Duration::from_secs(1);
    let last = expiry + allowed;
    let mut moments =
        [Duration::ZERO, second, expiry.saturating_sub(second), expiry, expiry + second, last, last + second];
    moments.sort_unstable();
    let mut before = (Duration::ZERO, Some(Duration::MAX), true);
    for moment in moments {
        let now = freshness.stored_at.plus(moment);
        let (age, remaining) = (freshness.age(now), freshness.remaining(now));
        assert!(remaining.is_none() || freshness.staleness(now).is_zero());
        let verdict = verdict::judge(Some(freshness), client, now);
        let is_served = match verdict {
            Verdict::Hit => remaining.is_some(),
            Verdict::HitStale(StaleReason::MaxStale) => {
                assert!(!freshness.stale_forbidden && client.max_stale.is_some());
                true
            }
            Verdict::HitStale(_) => freshness.staleness(now) < freshness.stale_while_revalidate,
            _ => false,
        };
        assert!(is_served || !matches!(verdict, Verdict::Hit | Verdict::HitStale(_)));
        assert!(!is_served || !(freshness.always_revalidate || client.no_cache), "{freshness:?} {client:?}");
        assert!(age >= before.0 && remaining <= before.1, "{freshness:?}");
        assert!(before.2 || !is_served, "served after it was refused: {freshness:?} {client:?} {moment:?}");
        before = (age, remaining, is_served);
    }
}

fn parts_lie_within_the_body(fields: Fields<'_>) {
    for length in [0, 1, 10, 1000, 1 << 40] {
        let parts: Vec<Range<u64>> = match ranges::part(fields, fields, length) {
            Part::Bytes(part) => vec![part],
            Part::Several(parts) => {
                let total: u64 = parts.iter().map(|part| part.end - part.start).sum();
                assert!((2..=ranges::MAX_RANGES).contains(&parts.len()) && total < length);
                parts
            }
            Part::Whole | Part::Unsatisfiable => continue,
        };
        assert!(fields.has("range"));
        assert!(
            parts.iter().all(|part| part.start < part.end && part.end <= length),
            "{parts:?} of {length}"
        );
    }
}

fn conditions_are_checked(fields: Fields<'_>) {
    let holds = conditional::not_modified(fields, fields, NOON);
    assert!(!holds || fields.has("if-none-match") || fields.has("if-modified-since"));
    assert!(conditional::if_range_holds(fields, fields) || fields.has("if-range"));
    if let Some(etag) = fields.first("etag") {
        let opaque = conditional::opaque_tag(etag);
        let is_tag = opaque.len() > 1 && opaque.starts_with(b"\"") && opaque.ends_with(b"\"");
        if is_tag && !opaque[1..opaque.len() - 1].contains(&b'"') {
            let asked = [("if-none-match", etag)];
            assert!(conditional::not_modified(Fields::new(&asked), fields, NOON), "its own tag: {etag:?}");
        }
        let weak = [&b"W/"[..], opaque].concat();
        let weak = [("etag", &weak[..]), ("if-range", &weak[..])];
        assert!(!conditional::if_range_holds(Fields::new(&weak), Fields::new(&weak)), "a weak tag: {etag:?}");
    }
    match validation::apply(fields, fields) {
        Validation::Holds(merged) => assert_eq!(merged.len(), fields.lines().len()),
        Validation::OtherRepresentation => panic!("a response is another than itself"),
    }
}

fn what_selects_is_read_alike(fields: Fields<'_>) {
    let mut reversed = fields.lines().to_vec();
    reversed.reverse();
    let vary = Vary::parse(fields, &POLICY);
    assert_eq!(vary, Vary::parse(Fields::new(&reversed), &POLICY));
    let Ok(vary) = vary else { return };
    assert!(fields.list("vary").all(|name| name != "*"));
    let target = Target::new(Scheme::Http, "shop", "/page");
    let request = RequestHead { method: "GET", target, fields, has_body: false, believed: &[] };
    let primary = CacheKey::primary("all", &request, &POLICY);
    assert_eq!(primary.variant(&vary, fields), primary.variant(&vary, Fields::new(fields.lines())));
}

/// Of a route that keys on sessions and claims, forwards some cookies and lists its languages and media types.
static SHARING: LazyLock<CachePolicy> = LazyLock::new(|| CachePolicy {
    ignore_cookies: Patterns::new(&["*"]).expect("a constant"),
    forward_cookies: Patterns::new(&["theme"]).expect("a constant"),
    identity: IdentityPolicy {
        cookies: Patterns::new(&["sessionid"]).expect("a constant"),
        headers: vec!["x-tenant".into()],
        jwt_claim: Some("sub".into()),
        device: true,
    },
    preferences: Preferences {
        languages: vec!["en".into(), "fr-CH".into()],
        media_types: vec!["text/html".into(), "application/json".into()],
    },
    guard: Guard::On,
    ..POLICY.clone()
});

/// What a fetch sends is what the route keys on, forwards or lists; and what differs in none of it is one request.
fn one_visitor_leaves_no_trace(fields: Fields<'_>) {
    let policy = &*SHARING;
    let target = Target::new(Scheme::Http, "shop", "/page");
    let request = RequestHead { method: "GET", target, fields, has_body: false, believed: &[] };
    let outgoing = Outgoing::of(&request, policy);
    let sent = outgoing.lend();
    let sent = Fields::new(&sent);
    for (name, role) in [("_ga", Role::Ignored), ("theme", Role::Forwarded), ("sessionid", Role::Keyed)] {
        assert_eq!(cookies::role(name, policy), role);
    }
    assert_eq!(cookies::with_role(sent, policy, Role::Ignored).count(), 0);
    for role in [Role::Forwarded, Role::Keyed] {
        assert!(cookies::with_role(sent, policy, role).eq(cookies::with_role(fields, policy, role)));
    }
    let wishes =
        [("accept-language", &policy.preferences.languages), ("accept", &policy.preferences.media_types)];
    for (name, listed) in wishes {
        assert!(sent.list(name).all(|item| listed.iter().any(|listed| listed == item)), "{name}");
        assert!(sent.all(name).count() <= 1, "{name}");
    }
    assert!(!sent.lines().iter().any(|(name, _)| is_claim(name) || name.contains('_')));
    // A request with what is sent is the same request.
    let again = RequestHead { fields: sent, target: request.target.clone(), ..request };
    let (first, second) = (Outgoing::of(&again, policy), CacheKey::primary("all", &again, policy));
    for name in ["cookie", "accept", "accept-language", "x-tenant"] {
        assert!(Fields::new(&first.lend()).all(name).eq(sent.all(name)), "{name}");
    }
    if !fields.has("connection") {
        assert_eq!(second, CacheKey::primary("all", &request, policy));
        let home = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let witness = Witness::of(&Inputs::of(&request, home, policy), Ambient::default(), policy)
            .expect("it is watched");
        assert!(witness.covers(&Inputs::of(&again, home, policy)));
    }
    let mut secrets = Secrets::of_request(&request, policy);
    secrets.set_by(fields);
    let shown = |body: &[u8]| secrets.shown_by(Fields::default(), body).is_some();
    for line in fields.all("set-cookie") {
        let value =
            line.split(|byte| *byte == b';').next().and_then(|pair| pair.splitn(2, |b| *b == b'=').nth(1));
        if let Some(value) =
            value.map(<[u8]>::trim_ascii).filter(|value| value.len() >= 8 && value[0] != b'"')
        {
            assert!(shown(value), "{value:?}");
        }
    }
}

fn numbers_and_dates_are_bounded(fields: Fields<'_>) {
    assert!(age_value(fields) <= Duration::from_secs(MAX_DELTA));
    for (_, value) in fields.lines() {
        let Ok(text) = std::str::from_utf8(value) else { continue };
        let read = parse_date(text);
        assert_eq!(read, parse_date(&text.to_ascii_lowercase()), "{text:?}");
        if let Some(at) = read {
            assert_eq!(parse_date(&httpdate::fmt_http_date(at)), Some(at), "{text:?}");
        }
    }
}
