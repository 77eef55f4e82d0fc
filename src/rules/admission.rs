//! Whether a response may be stored (RFC 9111 section 3), and if not, why.
//!
//! The request has already passed [`super::lookup`]: it was a GET without identity. What is left is what the
//! response says of itself.

use std::sync::Arc;
use std::time::Duration;

use super::cache_control::CacheControl;
use super::freshness::{Exchange, Freshness, LifetimeSource};
use super::head::ResponseHead;
use super::key::{Vary, VaryError};
use super::policy::CachePolicy;

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
    /// Labels a purge can name.
    pub tags: Vec<Arc<str>>,
}

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiscardReason {
    /// `Cache-Control: no-store`.
    NoStore,
    /// `Cache-Control: private`.
    Private,
    /// It sets a cookie: it was made for one visitor.
    SetCookie,
    /// `Vary: *`, more fields than can be honoured, or a field that differs for every client.
    Vary,
    /// A part of a response (206), or a status that describes the exchange and not the resource.
    Status,
    /// Neither the origin nor the route gives it a lifetime.
    NoTtl,
    /// It has expired on arrival, has nothing to be validated with, and no stale window is open.
    Expired,
    /// The origin encoded it although identity was asked for.
    ContentEncoding,
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
            Self::SetCookie => "set-cookie",
            Self::Vary => "vary",
            Self::Status => "status",
            Self::NoTtl => "no-ttl",
            Self::Expired => "expired",
            Self::ContentEncoding => "content-encoding",
            Self::Stream => "stream",
            Self::TooLarge => "too-large",
            Self::Purged => "purged",
            Self::FillLimit => "fill-limit",
        }
    }

    /// Whether the next response to the same key is likely to be refused for the same reason, so that its
    /// requests had better not wait for each other.
    pub fn is_lasting(self) -> bool {
        !matches!(self, Self::Purged | Self::FillLimit)
    }
}

/// Decides whether `response` is stored under `policy`. `max_object_size` is in bytes.
pub fn judge(
    response: &ResponseHead<'_>,
    policy: &CachePolicy,
    max_object_size: u64,
    exchange: Exchange,
) -> Admission {
    match admit(response, policy, max_object_size, exchange) {
        Ok(kept) => Admission::Keep(kept),
        Err(reason) => Admission::Discard(reason),
    }
}

fn admit(
    response: &ResponseHead<'_>,
    policy: &CachePolicy,
    max_object_size: u64,
    exchange: Exchange,
) -> Result<Kept, DiscardReason> {
    let fields = response.fields;
    // 206 holds a part (section 3.3); 304 and 416 describe the exchange; a final code is three digits from 200.
    if matches!(response.status, 0..=199 | 206 | 304 | 416) {
        return Err(DiscardReason::Status);
    }
    let cache_control = CacheControl::parse(fields);
    if cache_control.no_store {
        return Err(DiscardReason::NoStore);
    }
    if cache_control.private {
        return Err(DiscardReason::Private);
    }
    if fields.has("set-cookie") {
        return Err(DiscardReason::SetCookie);
    }
    let vary = Vary::parse(fields).map_err(|error| match error {
        VaryError::Star | VaryError::PerClient | VaryError::TooMany => DiscardReason::Vary,
    })?;
    let is_identity = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    if !fields.all("content-encoding").all(is_identity) {
        return Err(DiscardReason::ContentEncoding);
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
        Freshness::assess(response, &cache_control, policy, exchange).ok_or(DiscardReason::NoTtl)?;
    if !is_worth_storing(&freshness, response, exchange) {
        return Err(DiscardReason::Expired);
    }
    Ok(Kept { freshness, source, vary, tags: policy.tags.clone() })
}

/// A response that is never a hit still saves its body when the origin can say "not modified".
fn is_worth_storing(freshness: &Freshness, response: &ResponseHead<'_>, exchange: Exchange) -> bool {
    let has_validator = response.fields.has("etag") || response.fields.has("last-modified");
    let fresh = freshness.remaining(exchange.received_at).is_some() && !freshness.always_revalidate;
    let stale_window = freshness.stale_while_revalidate.max(freshness.stale_if_error) > Duration::ZERO;
    fresh || has_validator || (stale_window && !freshness.always_revalidate)
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
        let response = ResponseHead { status, fields: Fields(&fields) };
        let now = Timestamp(1_784_289_600_000);
        judge(&response, policy, 1000, Exchange { requested_at: now, received_at: now })
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
            (302, &[][..], Some(NoTtl)),
            (200, &[("content-encoding", "gzip")][..], Some(ContentEncoding)),
            (200, &[("content-encoding", "identity")][..], None),
            (200, &[("content-type", "Text/Event-Stream; charset=utf-8")][..], Some(Stream)),
            (200, &[("content-length", "1001")][..], Some(TooLarge)),
            (200, &[("content-length", "1000")][..], None),
            (200, &[("cache-control", "max-age=0")][..], Some(Expired)),
            (200, &[("cache-control", "no-cache, max-age=60")][..], Some(Expired)),
            (200, &[("cache-control", "no-cache"), ("etag", "\"1\"")][..], None),
            (200, &[("cache-control", "max-age=0"), ("last-modified", "x")][..], None),
            (599, &[("cache-control", "max-age=60")][..], None),
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

    #[test]
    fn what_is_kept_carries_the_tags_of_its_route() {
        let Admission::Keep(kept) = verdict(200, &[("vary", "Accept, Cookie")]) else { panic!("kept") };
        assert_eq!(kept.tags, ["products".into()]);
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
