//! Whether a response may be stored (RFC 9111 section 3), and if not, why.
//!
//! The request has already passed [`super::lookup`]: it was a GET without identity, or with one that the route has a rule
//! for. What is left is what the response says of itself.

use super::cache_control::CacheControl;
use super::freshness::{Exchange, Freshness, LifetimeSource};
use super::guard::Ambient;
use super::head::ResponseHead;
use super::key::{Vary, VaryError};
use super::media;
use super::policy::{CachePolicy, OriginControl, SetCookie};
use super::tags::Tags;

/// Whether a response is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is, like this.
    Keep(Kept),
    /// It is not.
    Discard(DiscardReason),
}

/// How a response is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How long it is good for.
    pub freshness: Freshness,
    /// Where its lifetime came from.
    pub source: LifetimeSource,
    /// What selects among its variants.
    pub vary: Vary,
    /// Labels a purge can name that the response carries.
    pub tags: Tags,
    /// Fields that only the one who caused the fetch may see: not stored and not shared. In lower case.
    pub withheld: Vec<String>,
    /// Which traits of the client may show in it although the key does not hold them.
    pub ambient: Ambient,
    /// Whether it sets a cookie, so that its body may be made for the one who gets it.
    pub sets_cookie: bool,
}

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiscardReason {
    /// `Cache-Control: no-store`.
    NoStore,
    /// `Cache-Control: private`.
    Private,
    /// The request carried `Authorization`, and the response does not allow to share what came of it.
    Authorization,
    /// It sets a cookie: it was made for one visitor.
    SetCookie,
    /// `Vary: *`, more fields than can be honoured, or a field that differs for every client.
    Vary,
    /// A part of a response (206), or a status that describes the exchange and not the resource.
    Status,
    /// An error that the fields of one request can provoke, which the key does not hold.
    Provoked,
    /// Its path ends like a file, and it is none of that kind.
    Extension,
    /// Its body shows a secret of its visitor, or others got another response.
    Personalised,
    /// Neither the origin nor the route gives it a lifetime.
    NoTtl,
    /// It has expired on arrival, has nothing to be validated with, and no stale window is open.
    Expired,
    /// It answers a HEAD, and has no body to store.
    Head,
    /// A stream of events, which has no end to store it at.
    Stream,
    /// Its body is larger than `max_object_size`.
    TooLarge,
    /// A purge or a write that covers it came while it was under way.
    Purged,
    /// Too many bytes were under way to keep one more body.
    FillLimit,
}

impl DiscardReason {
    /// The word used in the header, the log, the metric and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set-cookie",
            Self::Vary => "vary",
            Self::Status => "status",
            Self::Provoked => "provoked",
            Self::Extension => "extension",
            Self::Personalised => "personalised",
            Self::NoTtl => "no-ttl",
            Self::Expired => "expired",
            Self::Head => "head",
            Self::Stream => "stream",
            Self::TooLarge => "too-large",
            Self::Purged => "purged",
            Self::FillLimit => "fill-limit",
        }
    }

    /// Whether the response is refused for what it is, and not for lack of room or a purge: then it may be for the one who
    /// got it only.
    pub fn is_of_one_exchange(self) -> bool {
        !matches!(self, Self::Purged | Self::TooLarge | Self::FillLimit)
    }

    /// Whether a response with this status, refused for this reason, is news of the page: what is stored has been
    /// replaced by it (RFC 9111 section 4.3.3), and the next response is likely to be refused too, so that its
    /// requests had better not wait for each other.
    pub fn ends_the_page(self, status: u16) -> bool {
        // What the origin refuses one client (400, 406, 413, 431) or cannot do now says nothing of the page.
        self.is_lasting() && (status < 400 || matches!(status, 404 | 410))
    }

    /// Whether a response with this status, refused for this reason, keeps who asked from the page: it asks for a login, or
    /// forbids.
    pub fn hides_the_page(self, status: u16) -> bool {
        self.is_lasting() && matches!(status, 300..=399 | 401 | 403 | 404 | 410 | 451)
    }

    fn is_lasting(self) -> bool {
        !matches!(self, Self::Purged | Self::FillLimit | Self::Authorization | Self::Head)
    }
}

/// Decides whether `response`, of a request for `path`, is stored under `policy`. `max_object_size` is in bytes.
pub fn judge(
    path: &str,
    response: &ResponseHead<'_>,
    policy: &CachePolicy,
    max_object_size: u64,
    exchange: Exchange,
) -> Admission {
    match admit(path, response, policy, max_object_size, exchange) {
        Ok(kept) => Admission::Keep(kept),
        Err(reason) => Admission::Discard(reason),
    }
}

fn admit(
    path: &str,
    response: &ResponseHead<'_>,
    policy: &CachePolicy,
    max_object_size: u64,
    exchange: Exchange,
) -> Result<Kept, DiscardReason> {
    let fields = response.fields;
    if is_of_the_exchange(response.status) {
        return Err(DiscardReason::Status);
    }
    let control = CacheControl::of(fields);
    if control.must_understand && !is_understood(response.status) {
        return Err(DiscardReason::Status);
    }
    if is_provoked(response.status) && !policy.status_ttl.contains_key(&response.status) {
        return Err(DiscardReason::Provoked);
    }
    // must-understand takes the place of a no-store beside it, which is for caches that do not know it
    // (section 5.2.2.3).
    if control.no_store && !control.must_understand {
        return Err(DiscardReason::NoStore);
    }
    if control.private {
        return Err(DiscardReason::Private);
    }
    // Section 3.5.
    if exchange.authorized && !control.permits_authorization() {
        return Err(DiscardReason::Authorization);
    }
    let sets_cookie = fields.has("set-cookie");
    let withholds_cookie = control.withheld.iter().any(|name| name == "set-cookie");
    if sets_cookie && !withholds_cookie && policy.set_cookie == SetCookie::Uncacheable {
        return Err(DiscardReason::SetCookie);
    }
    let vary = Vary::parse(fields, policy).map_err(|error| match error {
        VaryError::Star | VaryError::PerClient | VaryError::TooMany => DiscardReason::Vary,
    })?;
    let is_success = (200..300).contains(&response.status);
    if policy.extension_must_match && is_success && media::contradicts(path, fields.text("content-type")) {
        return Err(DiscardReason::Extension);
    }
    let media_type = fields.text("content-type").unwrap_or_default().to_ascii_lowercase();
    if media_type.starts_with("text/event-stream") {
        return Err(DiscardReason::Stream);
    }
    let length = fields.text("content-length").and_then(|length| length.trim().parse::<u64>().ok());
    if length.is_some_and(|length| length > max_object_size) {
        return Err(DiscardReason::TooLarge);
    }
    let (freshness, source) =
        Freshness::assess(response, &control, policy, exchange).ok_or(DiscardReason::NoTtl)?;
    if !is_worth_storing(&freshness, response, exchange) {
        return Err(DiscardReason::Expired);
    }
    let by_route = matches!(source, LifetimeSource::Ttl | LifetimeSource::StatusTtl);
    // The route forces a lifetime on a response of which the origin says nothing of the kind.
    let is_forced = policy.origin_cache_control == OriginControl::Override && by_route && !control.shares();
    // Of the browser the key holds the kind of device only.
    let by_agent =
        policy.identity.device && fields.list("vary").any(|name| name.eq_ignore_ascii_case("user-agent"));
    let ambient = Ambient { address: is_forced, agent: is_forced || by_agent };
    let tags = Tags::of_response(fields, &policy.tag_headers);
    Ok(Kept { freshness, source, vary, tags, withheld: control.withheld, ambient, sets_cookie })
}

/// Errors that fields of one request can provoke: too long ones, characters that only the origin refuses, a body or
/// a protocol claimed in a field. Stored, one such request would take the page from everyone ("cache-poisoned denial of
/// service"). A route that names such a status in `status_ttl` stores it all the same.
pub fn is_provoked(status: u16) -> bool {
    matches!(status, 400 | 408 | 411..=413 | 415 | 417 | 421 | 425 | 426 | 505)
}

/// Whether a status says nothing of the resource: 206 holds a part (section 3.3); 304 and 416 answer one client's
/// conditions; 428, 429, 431 and 511 are for one client too, and never stored (RFC 6585). A final one is at least 200.
pub fn is_of_the_exchange(status: u16) -> bool {
    matches!(status, 0..=199 | 206 | 304 | 416 | 428 | 429 | 431 | 511)
}

/// Whether the caching requirements of a status are known here: those of RFC 9110, but for parts.
fn is_understood(status: u16) -> bool {
    matches!(status, 200..=205 | 300..=303 | 305 | 307 | 308 | 400..=415 | 417 | 421 | 422 | 426 | 500..=505)
}

/// A response that is never a hit still saves its body when the origin can say "not modified".
fn is_worth_storing(freshness: &Freshness, response: &ResponseHead<'_>, exchange: Exchange) -> bool {
    let has_validator = response.fields.has("etag") || response.fields.has("last-modified");
    let fresh = freshness.remaining(exchange.received_at).is_some() && !freshness.always_revalidate;
    fresh || has_validator || (freshness.has_stale_window() && !freshness.always_revalidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::rules::head::Fields;
    use crate::rules::policy::OriginControl;
    use crate::rules::testing;
    use proptest::prelude::*;

    fn verdict_under(policy: &CachePolicy, status: u16, fields: &[(&str, &str)]) -> Admission {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let response = ResponseHead { status, fields: Fields::new(&fields) };
        let now = Timestamp(1_784_289_600_000);
        judge(
            "/",
            &response,
            policy,
            1000,
            Exchange { requested_at: now, received_at: now, authorized: false },
        )
    }

    fn verdict(status: u16, fields: &[(&str, &str)]) -> Admission {
        verdict_under(&testing::policy(), status, fields)
    }

    fn reason(status: u16, fields: &[(&str, &str)]) -> Option<DiscardReason> {
        match verdict(status, fields) {
            Admission::Keep(_) => None,
            Admission::Discard(reason) => Some(reason),
        }
    }

    #[test]
    fn every_refusal_is_named() {
        use DiscardReason::*;
        for (status, fields, expected) in [
            (200, &[][..], None),
            (200, &[("cache-control", "no-store")][..], Some(NoStore)),
            (200, &[("cache-control", "private, max-age=60")][..], Some(Private)),
            (200, &[("set-cookie", "a=b")][..], Some(SetCookie)),
            (200, &[("vary", "*")][..], Some(Vary)),
            (200, &[("vary", "x-forwarded-for")][..], Some(Vary)),
            (206, &[("cache-control", "max-age=60")][..], Some(Status)),
            (304, &[("cache-control", "max-age=60")][..], Some(Status)),
            (416, &[("cache-control", "max-age=60")][..], Some(Status)),
            (428, &[("cache-control", "max-age=60")][..], Some(Status)),
            (429, &[("cache-control", "max-age=60")][..], Some(Status)),
            (431, &[("cache-control", "max-age=60")][..], Some(Status)),
            (511, &[("cache-control", "max-age=60")][..], Some(Status)),
            (302, &[][..], Some(NoTtl)),
            (400, &[("cache-control", "public, max-age=60")][..], Some(Provoked)),
            (413, &[("cache-control", "max-age=60")][..], Some(Provoked)),
            (405, &[("cache-control", "max-age=60")][..], None),
            (200, &[("content-encoding", "gzip")][..], None),
            (200, &[("content-type", "Text/Event-Stream; charset=utf-8")][..], Some(Stream)),
            (200, &[("content-length", "1001")][..], Some(TooLarge)),
            (200, &[("content-length", "1000")][..], None),
            (200, &[("cache-control", "max-age=0")][..], Some(Expired)),
            (200, &[("cache-control", "no-cache, max-age=60")][..], Some(Expired)),
            (200, &[("cache-control", "no-cache"), ("etag", "\"1\"")][..], None),
            (200, &[("cache-control", "max-age=0"), ("last-modified", "x")][..], None),
            (299, &[("cache-control", "max-age=60")][..], None),
            (499, &[("cache-control", "max-age=60")][..], None),
            (599, &[("cache-control", "max-age=60")][..], None),
            (999, &[("cache-control", "max-age=60")][..], None),
            (599, &[("cache-control", "max-age=60, must-understand")][..], Some(Status)),
            (200, &[("cache-control", "max-age=60, no-store, must-understand")][..], None),
            (200, &[("cdn-cache-control", "no-store"), ("cache-control", "max-age=60")][..], Some(NoStore)),
            (200, &[("cdn-cache-control", "private"), ("cache-control", "max-age=60")][..], Some(Private)),
            (200, &[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store")][..], None),
            (200, &[("cdn-cache-control", "max-age=a b"), ("cache-control", "no-store")][..], Some(NoStore)),
        ] {
            assert_eq!(reason(status, fields), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_ttl_in_the_configuration_never_overrides_privacy() {
        let mut policy = testing::policy();
        policy.origin_cache_control = OriginControl::Override;
        for fields in [
            ("cache-control", "no-store"),
            ("cache-control", "private"),
            ("set-cookie", "csrftoken=x"),
            ("vary", "*"),
        ] {
            assert!(matches!(verdict_under(&policy, 200, &[fields]), Admission::Discard(_)), "{fields:?}");
        }
    }

    fn kept(policy: &CachePolicy, fields: &[(&str, &str)]) -> Option<Kept> {
        match verdict_under(policy, 200, fields) {
            Admission::Keep(kept) => Some(kept),
            Admission::Discard(_) => None,
        }
    }

    #[test]
    fn an_error_that_a_request_provokes_is_stored_only_where_the_route_names_it() {
        let policy = CachePolicy {
            status_ttl: [(400, std::time::Duration::from_secs(9))].into(),
            ..testing::policy()
        };
        assert!(matches!(verdict_under(&policy, 400, &[]), Admission::Keep(_)));
        assert!(matches!(
            verdict_under(&policy, 413, &[("cache-control", "max-age=60")]),
            Admission::Discard(_)
        ));
    }

    #[test]
    fn a_path_of_a_file_is_stored_only_when_it_is_one() {
        let now = Timestamp(1_784_289_600_000);
        let exchange = Exchange { requested_at: now, received_at: now, authorized: false };
        let fields: &[(&str, &[u8])] = &[("content-type", b"text/html")];
        let admitted = |status: u16, policy: &CachePolicy| {
            let response = ResponseHead { status, fields: Fields::new(fields) };
            judge("/account/x.css", &response, policy, 1000, exchange)
        };
        assert_eq!(admitted(200, &testing::policy()), Admission::Discard(DiscardReason::Extension));
        let anything = CachePolicy { extension_must_match: false, ..testing::policy() };
        assert!(matches!(admitted(200, &anything), Admission::Keep(_)));
        assert!(matches!(admitted(404, &testing::policy()), Admission::Keep(_)), "an error page is none");
    }

    #[test]
    fn a_lifetime_is_forced_where_the_origin_says_nothing_of_the_kind() {
        let forcing = CachePolicy { origin_cache_control: OriginControl::Override, ..testing::policy() };
        for (value, policy, forced) in [
            ("max-age=0", &forcing, true),
            ("x", &forcing, true),
            ("public", &forcing, false),
            ("max-age=1", &forcing, false),
            ("x", &testing::policy(), false),
        ] {
            let kept = kept(policy, &[("cache-control", value), ("etag", "\"1\"")]).unwrap();
            assert_eq!(kept.ambient.address, forced, "{value}");
        }
    }

    #[test]
    fn a_page_that_varies_by_browser_is_watched_where_only_the_device_is_keyed() {
        let mut policy = testing::policy();
        policy.identity.device = true;
        let by_agent = |vary: &str| kept(&policy, &[("vary", vary)]).unwrap().ambient.agent;
        assert!(by_agent("Accept, User-Agent") && !by_agent("Accept"));
    }

    #[test]
    fn cookies_are_kept_or_taken_away_only_where_the_route_says_so() {
        let policy = |set_cookie| CachePolicy { set_cookie, ..testing::policy() };
        let sets = [("set-cookie", "a=b")];
        assert_eq!(kept(&policy(SetCookie::Uncacheable), &sets), None);
        for allowing in [SetCookie::Strip, SetCookie::Store] {
            assert!(kept(&policy(allowing), &sets).is_some(), "{allowing:?}");
            for forbidding in ["no-store", "private"] {
                let both = [sets[0], ("cache-control", forbidding)];
                assert_eq!(kept(&policy(allowing), &both), None, "{forbidding}");
            }
        }
    }

    #[test]
    fn named_fields_are_withheld_and_the_rest_is_kept() {
        let fields = [("cache-control", "private=\"Set-Cookie, X-User\", max-age=60"), ("set-cookie", "a=b")];
        assert_eq!(kept(&testing::policy(), &fields).unwrap().withheld, ["set-cookie", "x-user"]);
        let other = [("cache-control", "private=\"x-user\", max-age=60"), ("set-cookie", "a=b")];
        assert_eq!(kept(&testing::policy(), &other), None, "a cookie that is not named still counts");
    }

    #[test]
    fn authorization_needs_the_origins_permission() {
        let now = Timestamp(1_784_289_600_000);
        let exchange = Exchange { requested_at: now, received_at: now, authorized: true };
        for (value, expected) in [
            ("max-age=60", false),
            ("max-age=60, public", true),
            ("max-age=60, must-revalidate", true),
            ("s-maxage=60", true),
            ("max-age=60, proxy-revalidate", false),
        ] {
            let fields = [("cache-control", value.as_bytes())];
            let response = ResponseHead { status: 200, fields: Fields::new(&fields) };
            let admission = judge("/", &response, &testing::policy(), 1000, exchange);
            assert_eq!(matches!(admission, Admission::Keep(_)), expected, "{value}");
        }
    }

    #[test]
    fn what_replaces_a_page_ends_it_and_an_error_leaves_it() {
        for (reason, status, expected) in [
            (DiscardReason::NoStore, 200, true),
            (DiscardReason::SetCookie, 302, true),
            (DiscardReason::NoTtl, 404, true),
            (DiscardReason::NoTtl, 410, true),
            (DiscardReason::NoTtl, 406, false),
            (DiscardReason::NoTtl, 500, false),
            (DiscardReason::NoTtl, 503, false),
            (DiscardReason::Authorization, 200, false),
            (DiscardReason::Head, 200, false),
            (DiscardReason::Purged, 200, false),
            (DiscardReason::FillLimit, 200, false),
        ] {
            assert_eq!(reason.ends_the_page(status), expected, "{reason:?} {status}");
        }
        for (reason, status, expected) in [
            (DiscardReason::NoTtl, 403, true),
            (DiscardReason::NoTtl, 302, true),
            (DiscardReason::NoTtl, 406, false),
            (DiscardReason::Status, 429, false),
            (DiscardReason::Provoked, 400, false),
            (DiscardReason::NoTtl, 503, false),
            (DiscardReason::Head, 403, false),
        ] {
            assert_eq!(reason.hides_the_page(status), expected, "{reason:?} {status}");
        }
    }

    #[test]
    fn what_is_kept_carries_the_tags_that_its_fields_name() {
        let policy = CachePolicy { tag_headers: vec!["xkey".into()], ..testing::policy() };
        let kept = kept(&policy, &[("vary", "Accept, Cookie"), ("xkey", "a b"), ("cache-tag", "c")]).unwrap();
        assert_eq!(kept.tags, Tags::new(["a".into(), "b".into()]));
        assert!(!kept.vary.is_empty());
    }

    proptest! {
        #[test]
        fn what_says_no_store_or_sets_a_cookie_is_never_kept(
            status in 200u16..600,
            others in proptest::collection::vec(
                ("etag|expires|cache-control|date|age|last-modified", "[a-z0-9=, \"-]{0,20}"), 0..5),
            forbidding in proptest::sample::select(vec![
                ("Cache-Control", "no-store"), ("Set-Cookie", "a=b"), ("CACHE-CONTROL", "Private")]),
            at in 0usize..5,
        ) {
            let mut fields: Vec<(&str, &str)> = others.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            fields.insert(at.min(fields.len()), forbidding);
            prop_assert!(matches!(verdict(status, &fields), Admission::Discard(_)));
        }
    }
}
