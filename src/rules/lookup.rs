//! Whether a request may be answered from a stored response at all.
//!
//! This is the first line of the promise: a request that names a person, or that the store cannot answer
//! rightly, passes to the origin, with the reason. It is decided before any key is made.

use super::cookies;
use super::forwarding::{FRAGMENT_FIELDS, folded, names_a_person};
use super::head::{Fields, KnownNames, Names, RequestHead};
use super::identity;
use super::policy::{Authorization, CachePolicy, Mode, is_identity};
use super::target::Target;

/// Why a request goes to the origin without touching the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PassReason {
    /// Neither GET nor HEAD.
    Method,
    /// The route's `mode` is `off`.
    Off,
    /// The route's `mode` is `shadow`: what the store would have answered is only compared.
    Shadow,
    /// An audit found that the route's pages are not what the origin would have answered.
    Tripped,
    /// It asks to change the protocol.
    Upgrade,
    /// A GET or HEAD with content: the key would not cover it.
    Body,
    /// It carries a field that names a person (`Authorization`, an API key).
    Authorization,
    /// It carries a cookie that no list of the route names.
    Cookie,
    /// Its path may name another resource than it seems to, or is too long for a purge to name.
    Path,
    /// It asks for a fragment of the page, as a framework's router does.
    Fragment,
    /// It asks for a part of a response that is not stored.
    Range,
    /// What is stored has a coding that the client does not accept.
    Encoding,
    /// It depends on a condition that only the origin can check (`If-Match`, `If-Unmodified-Since`).
    Precondition,
    /// Nothing usable is stored, and the client forbids to store what comes.
    NoStore,
    /// The key proved uncacheable a moment ago.
    Uncacheable,
    /// The key proved personalised a moment ago: different visitors got different responses.
    Personalised,
    /// Another request's fetch of the same key took longer than `lock.timeout`.
    LockTimeout,
    /// What it waited for was not for it, several times.
    Unsettled,
    /// Too many fetches, or too many bytes of them, are under way to keep one more.
    FillLimit,
}

impl PassReason {
    /// The word used in the header, the log, the metric and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Tripped => "tripped",
            Self::Upgrade => "upgrade",
            Self::Body => "body",
            Self::Authorization => "authorization",
            Self::Cookie => "cookie",
            Self::Path => "path",
            Self::Fragment => "fragment",
            Self::Range => "range",
            Self::Encoding => "encoding",
            Self::Precondition => "precondition",
            Self::NoStore => "client-no-store",
            Self::Uncacheable => "uncacheable",
            Self::Personalised => "personalised",
            Self::LockTimeout => "lock-timeout",
            Self::Unsettled => "unsettled",
            Self::FillLimit => "fill-limit",
        }
    }

    /// One sentence for a person.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Method => "only GET and HEAD are answered from the store",
            Self::Off => "this route's cache mode is off",
            Self::Shadow => "this route's cache mode is shadow: what would have been served is only compared",
            Self::Tripped => "an audit found that this route's pages differ by visitor",
            Self::Upgrade => "the request asks to change the protocol",
            Self::Body => "a GET or HEAD with content is not covered by the key",
            Self::Authorization => "the request carries a field that names a person",
            Self::Cookie => "the request carries a cookie that no list of the route names",
            Self::Path => "the path contains dot segments and may name another resource",
            Self::Fragment => "the request asks for a fragment of the page, as a framework's router does",
            Self::Encoding => "what is stored has a coding that the client does not accept",
            Self::Precondition => "only the origin can check its If-Match or If-Unmodified-Since",
            Self::NoStore => "nothing usable is stored and the client forbids to store what comes",
            Self::Range => "a part is asked for and no complete response is stored",
            Self::Uncacheable => "the response to this key was not cacheable a moment ago",
            Self::Personalised => "different visitors got different responses to this key a moment ago",
            Self::LockTimeout => "another request's fetch of this key took too long",
            Self::Unsettled => "what it waited for was not for it, several times",
            Self::FillLimit => "too many fetches are under way to keep one more",
        }
    }
}

/// Decides whether `request` may be answered from the store under `policy`.
pub fn allowed(request: &RequestHead<'_>, policy: &CachePolicy) -> Result<(), PassReason> {
    allowed_by_fields(request, policy)?;
    allowed_by_target(&request.target)
}

/// The part of [`allowed`] that is the same for every target: of the method, the content, the fields and the route.
pub fn allowed_by_fields(request: &RequestHead<'_>, policy: &CachePolicy) -> Result<(), PassReason> {
    if !request.is_read() {
        return Err(PassReason::Method);
    }
    if policy.mode == Mode::Off {
        return Err(PassReason::Off);
    }
    if request.fields.has("upgrade") {
        return Err(PassReason::Upgrade);
    }
    if request.has_body {
        return Err(PassReason::Body);
    }
    let claimed = request.believed.iter().any(|(name, _)| names_a_person(name));
    if claimed || request.fields.lines().iter().any(|(name, _)| is_personal(name, request, policy)) {
        return Err(PassReason::Authorization);
    }
    if cookies::first_identifying(request.fields, policy).is_some() {
        return Err(PassReason::Cookie);
    }
    if asks_for_fragment(request.fields) {
        return Err(PassReason::Fragment);
    }
    // A cache may ignore these (RFC 9110 section 13.1.1), but who resumes a download relies on them.
    if request.fields.has("if-match") || request.fields.has("if-unmodified-since") {
        return Err(PassReason::Precondition);
    }
    Ok(())
}

/// The other part.
pub fn allowed_by_target(target: &Target<'_>) -> Result<(), PassReason> {
    if target.is_ambiguous() || target.is_beyond_purges() { Err(PassReason::Path) } else { Ok(()) }
}

fn asks_for_fragment(fields: Fields<'_>) -> bool {
    const NAMES: Names = Names::all(FRAGMENT_FIELDS);
    fields.names().may_have(NAMES) && FRAGMENT_FIELDS.iter().any(|name| fields.has(name))
}

/// Whether a field of this name makes a request personal. RFC 9111 section 3.5 lets a shared cache store some
/// responses to requests with `Authorization`; the default is stricter. What is in the key is personal no longer,
/// if it is spelled as the key reads it.
fn is_personal(name: &str, request: &RequestHead<'_>, policy: &CachePolicy) -> bool {
    if policy.bypass_headers.is_empty() && is_sent_by_all(name) {
        return false;
    }
    let plain: &str = &folded(name);
    if !is_identity(plain) && !policy.bypass_headers.iter().any(|listed| listed == plain) {
        return false;
    }
    let name = name.to_ascii_lowercase();
    let takes_part = name == "authorization" && policy.authorization == Authorization::Rfc9111;
    !takes_part && !identity::covers(&name, request.fields, &policy.identity)
}

/// Whether every browser sends a field of this name: none of them is an identity, and needs no closer look.
fn is_sent_by_all(name: &str) -> bool {
    const USUAL: KnownNames = KnownNames::new(&[
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "cookie",
        "dnt",
        "host",
        "if-modified-since",
        "if-none-match",
        "origin",
        "priority",
        "range",
        "referer",
        "upgrade-insecure-requests",
        "user-agent",
    ]);
    USUAL.has(name) || name.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case("sec-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::Fields;
    use crate::rules::policy::{FORGERY_TOKENS, IDENTITY_HEADERS, IdentityPolicy, Patterns};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;

    fn verdict(method: &str, path: &str, fields: &[(&str, &[u8])], has_body: bool) -> Result<(), PassReason> {
        let request = RequestHead {
            method,
            target: Target::new(Scheme::Http, "shop", path),
            fields: Fields::new(fields),
            has_body,
            believed: &[],
        };
        allowed(&request, &testing::policy())
    }

    #[test]
    fn anonymous_reads_are_looked_up() {
        assert_eq!(verdict("GET", "/", &[], false), Ok(()));
        assert_eq!(verdict("HEAD", "/a?b=c", &[("cookie", b"_ga=1")], false), Ok(()));
    }

    #[test]
    fn what_needs_no_closer_look_is_no_identity() {
        let usual = "Host Range Accept Cookie Referer Priority Connection User-Agent Cache-Control If-None-Match \
            Accept-Encoding Accept-Language If-Modified-Since Upgrade-Insecure-Requests Sec-Fetch-User sec-ch-ua";
        for name in usual.split_whitespace() {
            assert!(is_sent_by_all(name) && !is_identity(&folded(name)), "{name}");
        }
        for name in IDENTITY_HEADERS.iter().chain(FORGERY_TOKENS) {
            assert!(!is_sent_by_all(name), "{name}");
        }
    }

    #[test]
    fn every_reason_to_pass_is_named() {
        use PassReason::*;
        for (method, path, fields, has_body, reason) in [
            ("POST", "/", &[][..], false, Method),
            ("get", "/", &[][..], false, Method),
            ("GET", "/", &[("Upgrade", &b"websocket"[..])][..], false, Upgrade),
            ("GET", "/", &[][..], true, Body),
            ("GET", "/", &[("AUTHORIZATION", &b"Token x"[..])][..], false, Authorization),
            ("GET", "/", &[("x-api-key", &b""[..])][..], false, Authorization),
            ("GET", "/", &[("Api_Key", &b""[..])][..], false, Authorization),
            ("GET", "/", &[("Cf-Access-Jwt-Assertion", &b"x"[..])][..], false, Authorization),
            ("GET", "/", &[("X-Auth-Request-User", &b"ada"[..])][..], false, Authorization),
            ("GET", "/", &[("Cookie", &b"sessionid=1"[..])][..], false, Cookie),
            ("GET", "/static/../me", &[][..], false, Path),
            ("GET", "/", &[("RSC", &b"1"[..])][..], false, Fragment),
            ("GET", "/", &[("If-Match", &b"\"a\""[..])][..], false, Precondition),
            ("HEAD", "/", &[("if-unmodified-since", &b"x"[..])][..], false, Precondition),
        ] {
            assert_eq!(verdict(method, path, fields, has_body), Err(reason), "{reason:?}");
        }
        let off = CachePolicy { mode: Mode::Off, ..testing::policy() };
        let request = RequestHead {
            method: "GET",
            target: Target::new(Scheme::Http, "shop", "/"),
            fields: Fields::default(),
            has_body: false,
            believed: &[],
        };
        assert_eq!(allowed(&request, &off), Err(Off));
    }

    #[test]
    fn who_is_named_by_a_trusted_proxy_passes() {
        let request = RequestHead {
            method: "GET",
            target: Target::new(Scheme::Http, "shop", "/"),
            fields: Fields::default(),
            has_body: false,
            believed: &[("x-remote-user", b"ada")],
        };
        assert_eq!(allowed(&request, &testing::policy()), Err(PassReason::Authorization));
        let linked = RequestHead { believed: &[("x-forwarded-prefix", b"/shop")], ..request };
        assert_eq!(allowed(&linked, &testing::policy()), Ok(()));
    }

    #[test]
    fn what_the_route_keys_on_or_forwards_is_looked_up() {
        let policy = CachePolicy {
            identity: IdentityPolicy {
                cookies: Patterns::new(&["sessionid"]).unwrap(),
                headers: vec!["authorization".into(), "x-api-key".into()],
                ..Default::default()
            },
            forward_cookies: Patterns::new(&["theme"]).unwrap(),
            ..testing::policy()
        };
        for (name, value, expected) in [
            ("Cookie", "sessionid=1; theme=dark; _ga=1", Ok(())),
            ("Cookie", "sessionid=1; basket=2", Err(PassReason::Cookie)),
            ("AUTHORIZATION", "Token x", Ok(())),
            ("X-Api-Key", "x", Ok(())),
            ("x_api_key", "x", Err(PassReason::Authorization)),
            ("X-Auth-Token", "x", Err(PassReason::Authorization)),
        ] {
            let fields = [(name, value.as_bytes())];
            let request = RequestHead {
                method: "GET",
                target: Target::new(Scheme::Http, "shop", "/"),
                fields: Fields::new(&fields),
                has_body: false,
                believed: &[],
            };
            assert_eq!(allowed(&request, &policy), expected, "{name}: {value}");
        }
    }

    #[test]
    fn authorization_takes_part_where_the_route_follows_the_rfc() {
        let policy = CachePolicy { authorization: Authorization::Rfc9111, ..testing::policy() };
        let asked = |name: &'static str| {
            let fields = [(name, &b"Token x"[..])];
            let request = RequestHead {
                method: "GET",
                target: Target::new(Scheme::Http, "shop", "/"),
                fields: Fields::new(&fields),
                has_body: false,
                believed: &[],
            };
            allowed(&request, &policy)
        };
        assert_eq!(asked("Authorization"), Ok(()));
        assert_eq!(asked("X-Api-Key"), Err(PassReason::Authorization), "only Authorization itself");
    }
}
