//! What the operator wants, per route, in the form the rules can use at once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::template::Template;
pub use super::wildcard::Patterns;

/// Whether a route may store and reuse responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Responses are stored and reused.
    Enforce,
    /// Every request goes to the origin; what the store would have answered is compared with what came.
    Shadow,
    /// Every request goes to the origin.
    Off,
}

/// Who decides how long a response is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginControl {
    /// An explicit lifetime from the origin wins over the route's.
    Honour,
    /// The route's lifetime replaces the origin's. `no-store`, `private` and `no-cache` are still obeyed.
    Override,
}

/// What is done with a response that sets a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetCookie {
    /// It was made for one visitor and is not stored.
    Uncacheable,
    /// It is stored, and sent to everyone, without its cookies.
    Strip,
    /// It is stored with its cookies: everyone gets the same ones.
    Store,
}

/// What is done with a request that carries `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// It goes to the origin by itself.
    Pass,
    /// It takes part in caching as RFC 9111 section 3.5 allows.
    Rfc9111,
}

/// Whether clients may ask for fresher responses than the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCacheControl {
    /// The request directives of `Cache-Control` count.
    Honour,
    /// They do not.
    Ignore,
}

/// A lifetime guessed from `Last-Modified` where nobody gives one (RFC 9111 section 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heuristic {
    /// Which share of the time since the last change, in percent.
    pub percent: u8,
    /// The longest lifetime guessed.
    pub max: Duration,
}

/// The caching policy of one route.
#[derive(Clone, Debug)]
pub struct CachePolicy {
    /// Whether the route takes part in caching at all.
    pub mode: Mode,
    /// Lifetime of a successful response to which the origin gave none; zero stores only what the origin
    /// marks as fresh.
    pub ttl: Duration,
    /// Lifetime by status, before [`CachePolicy::ttl`].
    pub status_ttl: BTreeMap<u16, Duration>,
    /// Whose lifetime wins.
    pub origin_cache_control: OriginControl,
    /// Whether a lifetime may be guessed.
    pub heuristic: Option<Heuristic>,
    /// Responses that set cookies.
    pub set_cookie: SetCookie,
    /// Requests with `Authorization`.
    pub authorization: Authorization,
    /// Requests with `Cache-Control`.
    pub client_cache_control: ClientCacheControl,
    /// Labels that a purge can name, with places for what the route captures of the path.
    pub tags: Vec<Template>,
    /// Fields of responses that carry more of them, in lower case.
    pub tag_headers: Vec<String>,
    /// Whether clients are sent those fields.
    pub deliver_tags: bool,
    /// Cookies that carry no identity: out of the key and out of the upstream request.
    pub ignore_cookies: Patterns,
    /// Cookies that are said to change nothing, but that the origin needs: out of the key, in the upstream request.
    pub forward_cookies: Patterns,
    /// Fields of `Vary` that are said to change nothing, in lower case.
    pub ignore_vary: Vec<String>,
    /// Request fields that make a request personal, besides those of [`is_identity`]; in lower case, with hyphens.
    pub bypass_headers: Vec<String>,
    /// Who shares an entry.
    pub identity: IdentityPolicy,
    /// How the query takes part in the key.
    pub query: QueryPolicy,
    /// What preferences of clients are reduced to.
    pub preferences: Preferences,
    /// The most entries per URL.
    pub max_variants: usize,
    /// Whether what reaches the origin and is not in the key is watched.
    pub guard: Guard,
    /// How long a key is remembered as personalised.
    pub personalised_ttl: Duration,
    /// Whether a path with the extension of a file must lead to such a file.
    pub extension_must_match: bool,
    /// A digest of what decides who shares a response: a part of every key, so that what was stored under other rules is
    /// not served under these.
    pub stamp: u32,
    /// Which share of hits is compared with what the origin would have answered, from 0 to 1.
    pub audit: f64,
    /// How long a request waits for another one's fetch of the same key.
    pub lock_timeout: Duration,
    /// Whether it waits for that of another instance too.
    pub shares_lock: bool,
    /// Whether its responses are shared with other instances.
    pub is_shared: bool,
    /// A digest of where they come from and how long they live: those that are shared by instances for which that is another are
    /// other ones.
    pub shared_stamp: u32,
    /// How long a key is remembered as uncacheable.
    pub uncacheable_ttl: Duration,
    /// How long after expiry a response may be served while it is refreshed (RFC 5861 section 3).
    pub stale_while_revalidate: Duration,
    /// How long after expiry a response may be served when the origin fails (RFC 5861 section 4).
    pub stale_if_error: Duration,
    /// How long after expiry a response may be served when the origin does not answer at all (RFC 9111 section
    /// 4.2.4).
    pub stale_on_disconnect: Duration,
}

impl Default for CachePolicy {
    /// The strictest: nothing has a lifetime but by the origin's word, every cookie identifies, nothing is forwarded.
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            ttl: Duration::ZERO,
            status_ttl: BTreeMap::new(),
            origin_cache_control: OriginControl::Honour,
            heuristic: None,
            set_cookie: SetCookie::Uncacheable,
            authorization: Authorization::Pass,
            client_cache_control: ClientCacheControl::Honour,
            tags: Vec::new(),
            tag_headers: Vec::new(),
            deliver_tags: false,
            ignore_cookies: Patterns::default(),
            forward_cookies: Patterns::default(),
            ignore_vary: Vec::new(),
            bypass_headers: Vec::new(),
            identity: IdentityPolicy::default(),
            query: QueryPolicy::default(),
            preferences: Preferences::default(),
            max_variants: usize::MAX,
            guard: Guard::On,
            personalised_ttl: Duration::ZERO,
            extension_must_match: true,
            stamp: 0,
            audit: 0.0,
            lock_timeout: Duration::ZERO,
            shares_lock: false,
            is_shared: false,
            shared_stamp: 0,
            uncacheable_ttl: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_on_disconnect: Duration::ZERO,
        }
    }
}

/// Whether the personalisation guard watches a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It does.
    On,
    /// What reaches the origin and is not in the key is shared unseen.
    Off,
}

/// What of a request's identity is in the key, so that each has entries of their own.
#[derive(Clone, Debug, Default)]
pub struct IdentityPolicy {
    /// Cookies.
    pub cookies: Patterns,
    /// Fields, in lower case.
    pub headers: Vec<String>,
    /// A claim of the JSON Web Token in `Authorization`.
    pub jwt_claim: Option<String>,
    /// The kind of device that `User-Agent` tells of.
    pub device: bool,
}

impl IdentityPolicy {
    /// Whether the value of a field of this name, in lower case, is in the key.
    pub fn keys_on(&self, name: &str) -> bool {
        self.headers.iter().any(|keyed| keyed == name)
    }
}

/// Lists that the preferences of clients are reduced to, so that few variants answer many wishes. Empty: as sent.
#[derive(Clone, Debug, Default)]
pub struct Preferences {
    /// Languages, for `Accept-Language`.
    pub languages: Vec<String>,
    /// Media types, for `Accept`.
    pub media_types: Vec<String>,
}

/// How the query string takes part in the key.
#[derive(Clone, Debug, Default)]
pub struct QueryPolicy {
    /// The only parameters that change anything in the response; empty: all but the excluded ones do.
    pub include: Patterns,
    /// Parameters that change nothing in the response: out of the key.
    pub exclude: Patterns,
    /// Whether what is not in the key is left in the upstream request.
    pub forward_excluded: bool,
    /// Whether parameters are ordered by name, so that `?a=1&b=2` and `?b=2&a=1` are one entry.
    pub sort: bool,
}

impl QueryPolicy {
    /// Whether they spell every query alike in the key; what is forwarded is another matter.
    pub fn spells_like(&self, other: &Self) -> bool {
        self.sort == other.sort
            && self.include.sources() == other.include.sources()
            && self.exclude.sources() == other.exclude.sources()
    }

    /// Whether a parameter of this name, in normal spelling, is part of the key.
    pub fn keeps(&self, name: &str) -> bool {
        (self.include.is_empty() || self.include.matches(name)) && !self.exclude.matches(name)
    }
}

/// Cookies set by analytics scripts in the browser. The server side does not read them, and one of them on every request would otherwise turn every page into a pass.
pub const ANALYTICS_COOKIES: &[&str] = &[
    "_ga",
    "_ga_*",
    "_gid",
    "_gat*",
    "_gcl_*",
    "_dc_gtm_*",
    "__utm*",
    "_fbp",
    "_fbc",
    "_hj*",
    "_pk_*",
    "_clck",
    "_clsk",
    "_uetsid",
    "_uetvid",
    "_ttp",
    "_scid",
    "_pin_unauth",
    "ajs_*",
    "amplitude_*",
    "mp_*_mixpanel",
    "__hs*",
    "hubspotutk",
];

/// Parameters that campaigns append to links. Applications do not read them.
pub const CAMPAIGN_PARAMETERS: &[&str] = &[
    "utm_*", "gclid", "gclsrc", "gbraid", "wbraid", "dclid", "fbclid", "msclkid", "mc_cid", "mc_eid", "_gl",
];

/// Request fields that name a person, whatever the route says.
pub const IDENTITY_HEADERS: &[&str] = &[
    "api-key",
    "apikey",
    "authentication",
    "authorization",
    "dpop",
    "ocp-apim-subscription-key",
    "session",
    "token",
    "x-auth",
    "x-session",
    "x-session-id",
];

/// Tokens against forged writes. Some scripts send them with every request: a fetch leaves them out.
pub const FORGERY_TOKENS: &[&str] = &["x-csrf-token", "x-csrftoken", "x-xsrf-token"];

/// How such names end, and begin.
const IDENTITY_ENDS: &[&str] = &[
    "-access-key",
    "-api-key",
    "-apikey",
    "-assertion",
    "-auth-key",
    "-authorization",
    "-client-cert",
    "-email",
    "-principal",
    "-secret",
    "-session",
    "-token",
    "-user",
    "-user-id",
    "-userid",
    "-username",
];
const IDENTITY_BEGINNINGS: &[&str] = &[
    "cf-access-",
    "remote-",
    "tailscale-user-",
    "x-amzn-oidc-",
    "x-auth-",
    "x-authenticated-",
    "x-authentik-",
    "x-consumer-",
    "x-credential-",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-hasura-",
    "x-pomerium-",
    "x-token-",
    "x-vouch-",
    "x-webauth-",
];

/// Whether a field of this name, in lower case and with hyphens, names a person by its usual form: API keys, tokens, and
/// what gateways say of who is logged in.
pub fn is_identity(name: &str) -> bool {
    // The browser's own, such as `Sec-Fetch-User`; and tokens against forged writes, which a read has no use for.
    if name.starts_with("sec-") || FORGERY_TOKENS.contains(&name) {
        return false;
    }
    IDENTITY_HEADERS.contains(&name)
        || IDENTITY_ENDS.iter().any(|end| name.ends_with(end))
        || IDENTITY_BEGINNINGS.iter().any(|begin| name.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_whole_and_case_sensitively() {
        let patterns = Patterns::new(ANALYTICS_COOKIES).unwrap();
        for (name, expected) in
            [("_ga", true), ("_ga_X1", true), ("_gax", false), ("_GA", false), ("sessionid", false)]
        {
            assert_eq!(patterns.matches(name), expected, "{name}");
        }
    }

    #[test]
    fn the_usual_names_of_identities_are_known() {
        for name in ["apikey", "x-api-key", "private-token", "x-auth-user", "remote-email", "x-user-id"] {
            assert!(is_identity(name), "{name}");
        }
        for name in [
            "accept",
            "user-agent",
            "x-requested-with",
            "x-tenant",
            "sec-fetch-user",
            "priority",
            "x-xsrf-token",
        ] {
            assert!(!is_identity(name), "{name}");
        }
    }
}
