//! Under which key a response is stored, and which variant of it a request selects.
//!
//! The key is one string of bytes in which no two different sets of components can collide: no component can
//! hold a NUL (a request with one is malformed), so NUL separates them. The values of selecting fields enter
//! as a digest, because they may be secrets and keys are shown to operators.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::head::{Fields, RequestHead, is_token};
use super::identity::{self, DEVICE_FIELD, Stand};
use super::outgoing::is_left_out;
use super::policy::CachePolicy;

const SEPARATOR: u8 = 0;
/// Stands between the name of a route and the stamp of its rules.
const STAMP: u8 = 1;

/// What stands behind the URL in a key: a letter and, for the first two, a digest.
mod mark {
    pub const IDENTITY: &[u8] = b"\0i";
    pub const VARIANT: &[u8] = b"\0v";
    pub const SHADOW: &[u8] = b"\0s";
    pub const HEAD: &[u8] = b"\0h";
    pub const PERSON: &[u8] = b"\0p";
}

/// The key of a stored response. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(Arc<[u8]>);

impl CacheKey {
    /// The primary key of a request (RFC 9111 section 2): what is known before any response is.
    ///
    /// The route is part of it, because two routes may lead to different applications; and so is what the route
    /// keys on besides the URL.
    pub fn primary(route: &str, request: &RequestHead<'_>, policy: &CachePolicy) -> Self {
        let mut key = Vec::with_capacity(128);
        Self::write_primary(&mut key, route, request, policy);
        Self(key.into())
    }

    /// Writes the bytes of the primary key into a buffer, in place of what it holds. For a usual request that allocates
    /// nothing but the room that the buffer lacks.
    pub fn write_primary(buffer: &mut Vec<u8>, route: &str, request: &RequestHead<'_>, policy: &CachePolicy) {
        let target = &request.target;
        buffer.clear();
        buffer.extend_from_slice(route.as_bytes());
        buffer.push(STAMP);
        buffer.extend_from_slice(&hexadecimal(policy.stamp));
        for part in [target.scheme.as_str(), &target.host, &target.path] {
            buffer.push(SEPARATOR);
            buffer.extend_from_slice(part.as_bytes());
        }
        buffer.push(SEPARATOR);
        // `/?` with an empty query and `/` are one page; a present query is marked apart from none.
        target.write_key_query(&policy.query, buffer);
        if let Some(stand) = identity::of(request, policy) {
            buffer.extend_from_slice(mark::IDENTITY);
            buffer.extend_from_slice(&stand);
        }
    }

    /// The key of one variant below a primary key (RFC 9111 section 4.1).
    pub fn variant(&self, vary: &Vary, sent: Fields<'_>) -> Self {
        self.followed_by(&[mark::VARIANT, &vary.select(sent)])
    }

    /// Writes the bytes of the same key into a buffer, in place of what it holds; `primary` are those of the primary key, and
    /// `sent` the fields that the origin would be sent ([`super::outgoing`]).
    pub fn write_variant(buffer: &mut Vec<u8>, primary: &[u8], vary: &Vary, sent: Fields<'_>) {
        buffer.clear();
        for part in [primary, mark::VARIANT, &vary.select(sent)] {
            buffer.extend_from_slice(part);
        }
    }

    /// The key under which the fetch of a HEAD can be joined: its response has no body for those who want a GET.
    pub fn of_head(&self) -> Self {
        self.followed_by(&[mark::HEAD])
    }

    /// The key under which a fetch can be joined by those with the same personal inputs.
    pub fn of_person(&self, person: &Stand) -> Self {
        self.followed_by(&[mark::PERSON, person])
    }

    /// The key under which a route in shadow mode keeps its response: what came of a pass is never served.
    pub fn in_shadow(&self) -> Self {
        self.followed_by(&[mark::SHADOW])
    }

    fn followed_by(&self, parts: &[&[u8]]) -> Self {
        let mut key = Vec::with_capacity(self.0.len() + 18);
        key.extend_from_slice(&self.0);
        parts.iter().for_each(|part| key.extend_from_slice(part));
        Self(key.into())
    }

    /// Whether it is of this route.
    pub fn is_of_route(&self, route: &str) -> bool {
        self.0.strip_prefix(route.as_bytes()).is_some_and(|rest| rest.first() == Some(&(STAMP)))
    }

    /// Whether its URL can have other entries: for another visitor, or for other wishes.
    pub fn is_of_many(&self) -> bool {
        self.url().len() < self.0.len()
    }

    /// The part that all entries of one URL share, whoever they are for.
    pub fn url(&self) -> &[u8] {
        let mut separators = self.0.iter().enumerate().filter(|(_, byte)| **byte == SEPARATOR);
        separators.nth(4).map_or(&self.0, |(end, _)| &self.0[..end])
    }

    /// Bytes the key occupies.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the key is empty; it never is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AsRef<[u8]> for CacheKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// So that what is stored is found by bytes that are no key yet: they have the hash of one.
impl Borrow<[u8]> for CacheKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    /// `route http host /path ?query`, with the digests of identity and variant in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url();
        for (at, part) in url.split(|b| *b == SEPARATOR).enumerate() {
            let gap = if at == 0 || part.is_empty() { "" } else { " " };
            let part = part.split(|b| *b == STAMP).next().unwrap_or(part);
            write!(f, "{gap}{}", String::from_utf8_lossy(part))?;
        }
        let mut rest = &self.0[url.len()..];
        while let Some((marked, more)) = rest.split_at_checked(2) {
            let digest = match marked {
                mark::IDENTITY => Some(" identity="),
                mark::VARIANT => Some(" variant="),
                mark::PERSON => Some(" person="),
                mark::SHADOW => f.write_str(" in shadow").map(|()| None)?,
                _ => f.write_str(" head").map(|()| None)?,
            };
            rest = more;
            if let (Some(name), Some((digest, more))) = (digest, more.split_at_checked(size_of::<Stand>())) {
                f.write_str(name)?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                rest = more;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({self})")
    }
}

/// Eight digits, as `{:08x}` writes them.
fn hexadecimal(number: u32) -> [u8; 8] {
    let mut digits = [0; 8];
    for (at, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (28 - 4 * at)) as usize & 15];
    }
    digits
}

/// The request fields that select among the variants of a response (RFC 9110 section 12.5.5), in lower case,
/// sorted, without the ones that parvis itself fixes in the upstream request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vary(Box<[String]>);

/// Why a `Vary` cannot be honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaryError {
    /// `*`: the response depends on more than the request's fields.
    Star,
    /// It names a field that parvis writes for each client, such as the client's address.
    PerClient,
    /// It names more fields than [`Vary::MAX`].
    TooMany,
}

/// In the primary key, or of the connection only.
const NOT_SELECTING: &[&str] = &["connection", "host", "te"];

/// No lists: their commas and white space belong to the value.
const NO_LISTS: &[&str] = &["authorization", "cookie", "origin", "referer", "user-agent"];

/// Different for every client.
const PER_CLIENT: &[&str] = &["forwarded", "x-forwarded-for", "x-real-ip", "x-request-id"];

impl Vary {
    /// The most fields a response may vary on.
    pub const MAX: usize = 16;

    /// Reads the `Vary` lines of a response on a route. What the key holds already, or what the route says to ignore,
    /// selects nothing.
    pub fn parse(response: Fields<'_>, policy: &CachePolicy) -> Result<Self, VaryError> {
        if response.all("vary").any(|line| std::str::from_utf8(line).is_err()) {
            return Err(VaryError::Star);
        }
        let mut names: Vec<String> = response.list("vary").map(str::to_ascii_lowercase).collect();
        // What is no name may mean anything.
        if names.iter().any(|name| name == "*" || !is_token(name)) {
            return Err(VaryError::Star);
        }
        names.retain(|name| !is_settled(name, policy));
        if names.iter().any(|name| PER_CLIENT.contains(&name.as_str())) {
            return Err(VaryError::PerClient);
        }
        // What is dropped from every upstream request selects nothing either.
        names.retain(|name| !NOT_SELECTING.contains(&name.as_str()) && !is_left_out(name));
        names.sort_unstable();
        names.dedup();
        if names.len() > Self::MAX {
            return Err(VaryError::TooMany);
        }
        Ok(Self(names.into()))
    }

    /// The same that [`Vary::names`] told.
    pub fn of_names(names: Vec<String>) -> Self {
        Self(names.into())
    }

    /// In lower case, sorted.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether every request selects the same variant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes the names occupy.
    pub fn len(&self) -> usize {
        self.0.iter().map(|name| name.len() + size_of::<String>()).sum()
    }

    /// A digest of the selecting values of the fields that the origin is sent ([`super::outgoing`]).
    fn select(&self, sent: Fields<'_>) -> Stand {
        let mut digest = Sha256::new();
        for name in &self.0 {
            digest.update(name);
            for value in sent.all(name) {
                if NO_LISTS.contains(&name.as_str()) {
                    digest.update([0, 1]);
                    digest.update(value);
                    continue;
                }
                // Combining lines and white space around commas is insignificant (RFC 9111 section 4.1).
                for member in members(value) {
                    digest.update([0, 1]);
                    digest.update(normal_member(name, member).as_ref());
                }
            }
            digest.update([0, 0]);
        }
        let mut half = [0; 16];
        half.copy_from_slice(&digest.finalize()[..16]);
        half
    }
}

/// Whether the key, or the word of the operator, has settled what this field selects.
fn is_settled(name: &str, policy: &CachePolicy) -> bool {
    let identity = &policy.identity;
    let by_device = identity.device && (name == DEVICE_FIELD || name == "user-agent");
    // Of the cookies that are sent, those that are keyed are in the key.
    let no_cookie = name == "cookie" && policy.forward_cookies.is_empty();
    let is_ignored = policy.ignore_vary.iter().any(|other| other == name);
    by_device || no_cookie || is_ignored || identity.keys_on(name)
}

/// The members of a list; commas inside a quoted string belong to it.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut in_quotes, mut escaped) = (false, false);
    value
        .split(move |byte| {
            let was_escaped = std::mem::replace(&mut escaped, false);
            match *byte {
                b'"' if !was_escaped => in_quotes = !in_quotes,
                b'\\' if in_quotes && !was_escaped => escaped = true,
                b',' => return !in_quotes,
                _ => {}
            }
            false
        })
        .map(<[u8]>::trim_ascii)
}

/// A member in a form that two members share exactly when the definition of their field gives them one meaning.
/// Language ranges have no case (RFC 9110 section 12.5.4); white space around the weight has no meaning. Their order
/// is left alone: applications do read it as a preference.
fn normal_member<'a>(name: &str, member: &'a [u8]) -> NormalMember<'a> {
    if name != "accept-language" {
        return NormalMember::AsSent(member);
    }
    let mut normal = SmallVec::new();
    for (at, part) in member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).enumerate() {
        if at > 0 {
            normal.push(b';');
        }
        normal.extend_from_slice(part);
    }
    normal.make_ascii_lowercase();
    NormalMember::Rewritten(normal)
}

enum NormalMember<'a> {
    AsSent(&'a [u8]),
    Rewritten(SmallVec<[u8; 32]>),
}

impl AsRef<[u8]> for NormalMember<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::AsSent(member) => member,
            Self::Rewritten(member) => member,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::{IdentityPolicy, Patterns};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;
    use proptest::prelude::*;

    fn vary(lines: &[&str]) -> Result<Vary, VaryError> {
        let fields: Vec<_> = lines.iter().map(|line| ("vary", line.as_bytes())).collect();
        Vary::parse(Fields::new(&fields), &testing::policy())
    }

    fn key(route: &str, scheme: Scheme, host: &str, path: &str) -> CacheKey {
        let request = RequestHead {
            method: "GET",
            target: Target::new(scheme, host, path),
            fields: Fields::default(),
            has_body: false,
            believed: &[],
        };
        CacheKey::primary(route, &request, &testing::policy())
    }

    #[test]
    fn spellings_of_one_page_share_a_key() {
        let page = key("r", Scheme::Http, "shop", "/a?x=1&y=2");
        for (host, path) in
            [("SHOP", "/a?y=2&x=1"), ("shop:80", "/%61?x=1&y=2&utm_source=m"), ("shop", "/a?&x=1&&y=2")]
        {
            assert_eq!(key("r", Scheme::Http, host, path), page, "{host}{path}");
        }
    }

    #[test]
    fn different_pages_never_share_a_key() {
        let pages = [
            key("r", Scheme::Http, "shop", "/a"),
            key("q", Scheme::Http, "shop", "/a"),
            key("r", Scheme::Https, "shop", "/a"),
            key("r", Scheme::Http, "shop2", "/a"),
            key("r", Scheme::Http, "shop", "/a/"),
            key("r", Scheme::Http, "shop", "/A"),
            key("r", Scheme::Http, "shop", "/a?b"),
            key("r", Scheme::Http, "shop", "/a%3Fb"),
            key("r", Scheme::Http, "shop/a", ""),
        ];
        for (i, one) in pages.iter().enumerate() {
            for other in &pages[i + 1..] {
                assert_ne!(one, other);
            }
        }
    }

    #[test]
    fn keys_are_shown_without_the_values_that_select() {
        let primary = key("r", Scheme::Http, "shop", "/a?b=1");
        assert_eq!(primary.to_string(), "r http shop /a ?b=1");
        let vary = vary(&["X-Token"]).unwrap();
        let shown = primary.variant(&vary, Fields::new(&[("x-token", b"secret")])).to_string();
        assert!(shown.starts_with("r http shop /a ?b=1 variant=") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn vary_is_read_from_all_lines_in_any_case() {
        assert_eq!(vary(&["Accept, Cookie", "accept-language"]), vary(&["ACCEPT-LANGUAGE,accept"]));
        assert_eq!(vary(&["Cookie, Accept-Encoding"]), Ok(Vary::default()));
        assert_eq!(vary(&["", "Accept, *"]), Err(VaryError::Star));
        assert_eq!(vary(&["Accept, Foo Bar"]), Err(VaryError::Star));
        assert_eq!(vary(&["X-Forwarded-For"]), Err(VaryError::PerClient));
        let many: String = (0..40).map(|n| format!("x-{n},")).collect();
        assert_eq!(vary(&[&many]), Err(VaryError::TooMany));
    }

    #[test]
    fn what_the_key_holds_or_the_route_ignores_selects_nothing() {
        let policy = CachePolicy {
            identity: IdentityPolicy { headers: vec!["x-tenant".into()], device: true, ..Default::default() },
            ignore_vary: vec!["origin".into(), "x-forwarded-for".into()],
            ..testing::policy()
        };
        let read = |value: &str| Vary::parse(Fields::new(&[("vary", value.as_bytes())]), &policy);
        assert_eq!(
            read("Cookie, Origin, X-Forwarded-For, User-Agent, X-Device-Class, X-Tenant"),
            Ok(Vary::default())
        );
        assert_eq!(read("Origin, *"), Err(VaryError::Star));
        let forwarding =
            CachePolicy { forward_cookies: Patterns::new(&["theme"]).unwrap(), ..policy.clone() };
        let cookie = Vary::parse(Fields::new(&[("vary", b"Cookie")]), &forwarding).unwrap();
        assert!(!cookie.is_empty(), "what is left of the cookies selects");
    }

    #[test]
    fn an_identity_has_entries_of_its_own_below_one_url() {
        let identity =
            IdentityPolicy { cookies: Patterns::new(&["sessionid"]).unwrap(), ..Default::default() };
        let policy = CachePolicy { identity, ..testing::policy() };
        let of = |cookie: &str| {
            let target = Target::new(Scheme::Http, "shop", "/a?b");
            let fields = [("cookie", cookie.as_bytes())];
            CacheKey::primary(
                "r",
                &RequestHead {
                    method: "GET",
                    target,
                    fields: Fields::new(&fields),
                    has_body: false,
                    believed: &[],
                },
                &policy,
            )
        };
        let (ada, bob) = (of("sessionid=secret"), of("sessionid=other"));
        assert_ne!(ada, bob);
        assert_eq!(ada.url(), bob.url());
        let variant = ada.variant(&vary(&["accept"]).unwrap(), Fields::default());
        assert_eq!((variant.url(), ada.in_shadow().url()), (ada.url(), ada.url()));
        let shown = variant.in_shadow().of_head().to_string();
        assert!(shown.starts_with("r http shop /a ?b identity="), "{shown}");
        assert!(shown.contains(" variant=") && shown.ends_with(" in shadow head"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
        assert_eq!(key("r", Scheme::Http, "shop", "/a").url(), &key("r", Scheme::Http, "shop", "/a").0[..]);
    }

    #[test]
    fn a_variant_is_selected_by_values_not_by_their_spelling() {
        let primary = key("r", Scheme::Http, "shop", "/a");
        let vary = vary(&["accept, accept-language"]).unwrap();
        let variant = |fields: &[(&str, &[u8])]| primary.variant(&vary, Fields::new(fields));
        let html = variant(&[("Accept", b"text/html, */*")]);
        assert_eq!(html, variant(&[("accept", b"text/html"), ("ACCEPT", b"*/*")]));
        assert_eq!(html, variant(&[("accept", b"text/html,*/*")]));
        assert_ne!(html, variant(&[("accept", b"application/json")]));
        let language = |value: &'static [u8]| variant(&[("accept-language", value)]);
        assert_eq!(language(b"en, DE;q=0.5"), language(b"EN,de ; q=0.5"));
        assert_ne!(language(b"de"), language(b"d e"));
        assert_ne!(language(b"de;q=0.5"), language(b"de;q=0. 5"));
        assert_ne!(html, variant(&[]));
        assert_ne!(variant(&[]), variant(&[("accept", b"")]), "empty differs from absent");
        assert_ne!(variant(&[("accept", b"fr")]), variant(&[("accept-language", b"fr")]));
    }

    #[test]
    fn the_bytes_of_a_key_are_what_they_were() {
        let policy = CachePolicy { stamp: 0xa1b2, ..testing::policy() };
        let target = Target::new(Scheme::Https, "Shop:8443", "/%61/b?y=2&utm_source=m&x=%c3%a9");
        let request =
            RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &[] };
        let mut buffer = b"what was there before".to_vec();
        CacheKey::write_primary(&mut buffer, "route", &request, &policy);
        let expected = "route\u{1}0000a1b2\0https\0shop:8443\0/a/b\0?x=%C3%A9&y=2";
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
        assert_eq!(CacheKey::primary("route", &request, &policy).as_ref(), expected.as_bytes());
    }

    proptest! {
        #[test]
        fn a_key_is_its_parts_behind_one_another(
            stamp in any::<u32>(),
            path in "/[a-z%]{0,8}",
            query in proptest::option::of("[a-c=&]{0,12}"),
            prefix in proptest::option::of("[a-z]{1,4}"),
        ) {
            let policy = CachePolicy { stamp, ..testing::policy() };
            let text = query.map_or(path.clone(), |query| format!("{path}?{query}"));
            let believed: Vec<_> = prefix.iter().map(|value| ("x-forwarded-prefix", value.as_bytes())).collect();
            let target = Target::new(Scheme::Http, "shop", &text);
            let head = RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &believed };
            let query = head.target.key_query(&policy.query).map(|query| format!("?{query}")).unwrap_or_default();
            let mut expected = format!("r\u{1}{stamp:08x}\0http\0shop\0{}\0{query}", head.target.path).into_bytes();
            if let Some(stand) = identity::of(&head, &policy) {
                expected.extend([&b"\0i"[..], &stand].concat());
            }
            prop_assert_eq!(CacheKey::primary("r", &head, &policy).as_ref().to_vec(), expected);
        }

        /// Compared with a plain reading of RFC 9111 section 4.1: a field is the list of its members over all its
        /// lines, or absent.
        #[test]
        fn a_variant_is_never_selected_by_other_values(
            one in proptest::collection::vec(("foo|bar", "[ab,]{0,3}"), 0..4),
            other in proptest::collection::vec(("foo|bar", "[ab,]{0,3}"), 0..4),
        ) {
            let vary = vary(&["foo, bar"]).unwrap();
            let primary = key("r", Scheme::Http, "h", "/");
            let variant = |fields: &[(String, String)]| {
                let lent: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
                let variant = primary.variant(&vary, Fields::new(&lent));
                let mut written = b"before".to_vec();
                CacheKey::write_variant(&mut written, primary.as_ref(), &vary, Fields::new(&lent));
                assert_eq!(variant.as_ref(), written);
                variant
            };
            let values = |fields: &[(String, String)], name: &str| {
                let lines = fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
                lines.map(str::to_owned).reduce(|all, line| all + "," + &line)
            };
            let same = ["foo", "bar"].iter().all(|name| values(&one, name) == values(&other, name));
            prop_assert_eq!(variant(&one) == variant(&other), same);
        }

        #[test]
        fn the_order_of_fields_never_changes_a_variant(
            mut fields in proptest::collection::vec(("accept|accept-language|x-other", "[a-z]{0,4}"), 0..6),
        ) {
            // Lines of one name keep their order; lines of different names may come in any.
            let vary = vary(&["accept, accept-language"]).unwrap();
            let primary = key("r", Scheme::Http, "h", "/");
            let variant = |fields: &[(String, String)]| {
                let lent: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
                primary.variant(&vary, Fields::new(&lent))
            };
            let as_given = variant(&fields);
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            prop_assert_eq!(as_given, variant(&fields));
        }
    }
}
