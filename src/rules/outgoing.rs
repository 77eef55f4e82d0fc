//! Which fields of a request a fetch for the store takes along.
//!
//! Its response is for everyone who shares the key, so it must not depend on what one client holds, claims or wants a
//! part of. The same fields select the variant of a stored response: what the origin was not sent selects nothing.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::cookies;
use super::forwarding::{NOT_FETCHED_WITH, is_claim};
use super::head::{Field, RequestHead};
use super::hop::HopByHop;
use super::identity::{DEVICE_FIELD, Device};
use super::policy::{CachePolicy, FORGERY_TOKENS};
use super::preferences;

/// The fields that a fetch takes over from the request that caused it; as many as a browser sends need no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<'a>(pub SmallVec<[Sent<'a>; USUAL]>);

/// A field that is sent: as it came, or written anew.
pub type Sent<'a> = (&'a str, Cow<'a, [u8]>);

/// About the fields that a browser sends.
const USUAL: usize = 20;

impl<'a> Outgoing<'a> {
    /// The fields of a fetch for `request` under `policy`.
    pub fn of(request: &RequestHead<'a>, policy: &'a CachePolicy) -> Self {
        let fields = request.fields;
        let mut outgoing = SmallVec::new();
        let hop_by_hop = HopByHop::of(fields);
        let taken = fields.lines().iter().filter(|(name, _)| !hop_by_hop.has(name) && is_taken(name, policy));
        outgoing.extend(taken.map(|(name, value)| (*name, Cow::Borrowed(*value))));
        outgoing.extend(request.believed.iter().map(|(name, value)| (*name, Cow::Borrowed(*value))));
        let mut set = |name: &'a str, value: Option<Cow<'a, [u8]>>| {
            outgoing.extend(value.map(|value| (name, value)));
        };
        set("Cookie", cookies::sent(fields, policy).map(|cookies| cookies.into_bytes().into()));
        let preferences = &policy.preferences;
        let borrowed = |text: &'a str| Cow::Borrowed(text.as_bytes());
        set("Accept-Language", preferences::language(fields, &preferences.languages).map(borrowed));
        set("Accept", preferences::media_type(fields, &preferences.media_types).map(borrowed));
        set("X-Device-Class", policy.identity.device.then(|| borrowed(Device::of(fields).as_str())));
        Self(outgoing)
    }

    /// The fields as the rules see them.
    pub fn lend(&self) -> SmallVec<[Field<'_>; USUAL]> {
        self.0.iter().map(|(name, value)| (*name, value.as_ref())).collect()
    }
}

/// Whether a field of this name is left out of every fetch, or written anew by parvis: then pages cannot differ by it, and
/// it selects no variant.
pub fn is_left_out(name: &str) -> bool {
    NOT_FETCHED_WITH.iter().chain(FORGERY_TOKENS).any(|other| other.eq_ignore_ascii_case(name))
        || is_claim(name)
        // To an application it may be the same as another field, with a hyphen.
        || name.contains('_')
}

/// Whether a field goes as it is.
fn is_taken(name: &str, policy: &CachePolicy) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let replaced = is("cookie")
        || (is("accept-language") && !policy.preferences.languages.is_empty())
        || (is("accept") && !policy.preferences.media_types.is_empty())
        || (is(DEVICE_FIELD) && policy.identity.device);
    !replaced && !is_left_out(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::Fields;
    use crate::rules::policy::{IdentityPolicy, Patterns, Preferences};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;

    fn outgoing(policy: &CachePolicy, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let target = Target::new(Scheme::Http, "shop", "/");
        let request = RequestHead {
            method: "GET",
            target,
            fields: Fields::new(&fields),
            has_body: false,
            believed: &[],
        };
        let sent = Outgoing::of(&request, policy);
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        sent.lend().iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect()
    }

    fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_one_client_holds_claims_or_wants_is_left_behind() {
        let sent = outgoing(
            &testing::policy(),
            &[
                ("Accept", "text/html"),
                ("Cookie", "_ga=1"),
                ("Range", "bytes=0-1"),
                ("If-None-Match", "\"a\""),
                ("X-Forwarded-Host", "evil.test"),
                ("X_Forwarded_Host", "evil.test"),
                ("X-Original-URL", "/admin"),
                ("Connection", "X-Hop"),
                ("X-Hop", "1"),
                ("X-Other", "2"),
                ("X-XSRF-TOKEN", "of-one-visitor"),
            ],
        );
        assert_eq!(sent, owned(&[("Accept", "text/html"), ("X-Other", "2")]));
    }

    #[test]
    fn wishes_go_in_the_form_that_selects() {
        let policy = CachePolicy {
            preferences: Preferences {
                languages: vec!["fr".into(), "en".into()],
                media_types: vec!["text/html".into()],
            },
            identity: IdentityPolicy {
                device: true,
                cookies: Patterns::new(&["sessionid"]).unwrap(),
                ..Default::default()
            },
            ..testing::policy()
        };
        let sent = outgoing(
            &policy,
            &[
                ("accept-language", "de, fr-CH;q=0.9"),
                ("accept", "image/png"),
                ("x-device-class", "toaster"),
                ("user-agent", "Mobile"),
                ("cookie", "_ga=1; sessionid=a"),
            ],
        );
        let expected = [
            ("user-agent", "Mobile"),
            ("Cookie", "sessionid=a"),
            ("Accept-Language", "fr"),
            ("X-Device-Class", "mobile"),
        ];
        assert_eq!(sent, owned(&expected));
    }
}
