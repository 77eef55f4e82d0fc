//! Who shares an entry: the cookies, fields, token claims and kinds of devices that a route keys on.
//!
//! Their values enter keys as a digest only, because they are secrets and keys are shown to operators.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memmem;
use sha2::{Digest, Sha256};

use super::cookies::{self, Role};
use super::head::{Fields, RequestHead};
use super::policy::{CachePolicy, IdentityPolicy};

/// A digest that stands for a value. Half of SHA-256: nobody can find two values with the same.
pub type Stand = [u8; 16];

/// The field that tells the origin the kind of device, where the route keys on it.
pub const DEVICE_FIELD: &str = "x-device-class";

/// The longest token that a claim is read from, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// What stands for these parts; each is framed by its length, so that no two lists of parts can be confused.
pub fn stand<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Stand {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let mut half = Stand::default();
    half.copy_from_slice(&digest.finalize()[..16]);
    half
}

/// What the request's identity adds to the key, and what a trusted proxy says of it; `None` where there is neither.
pub fn of(request: &RequestHead<'_>, policy: &CachePolicy) -> Option<Stand> {
    let IdentityPolicy { cookies, headers, jwt_claim, device } = &policy.identity;
    let keys_on_nothing = cookies.is_empty() && headers.is_empty() && jwt_claim.is_none() && !device;
    if keys_on_nothing && request.believed.is_empty() {
        return None;
    }
    let fields = request.fields;
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut keyed: Vec<_> = cookies::with_role(fields, policy, Role::Keyed).collect();
    // Browsers order them by path and age: which changes nothing. Equal names keep their order.
    keyed.sort_by_key(|pair| pair.name);
    for pair in keyed {
        parts.extend([b"cookie".to_vec(), pair.to_string().into_bytes()]);
    }
    for name in headers {
        for value in fields.all(name) {
            parts.extend([b"field".to_vec(), name.as_bytes().to_vec(), value.trim_ascii().to_vec()]);
        }
    }
    if let Some(value) = jwt_claim.as_ref().and_then(|name| claim(fields, name)) {
        parts.extend([b"claim".to_vec(), value.into_bytes()]);
    }
    if *device {
        parts.extend([b"device".to_vec(), Device::of(fields).as_str().into()]);
    }
    // Neither the case of their names nor their order means anything; equal names keep their order.
    let mut believed: Vec<_> =
        request.believed.iter().map(|(name, value)| (name.to_ascii_lowercase(), *value)).collect();
    believed.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in believed {
        parts.extend([b"believed".to_vec(), name.into_bytes(), value.to_vec()]);
    }
    Some(stand(parts.iter().map(Vec::as_slice)))
}

/// Whether a field of this name, in lower case, has a part in the key that makes its requests no longer personal.
pub fn covers(name: &str, fields: Fields<'_>, policy: &IdentityPolicy) -> bool {
    let by_claim = || policy.jwt_claim.as_ref().is_some_and(|wanted| claim(fields, wanted).is_some());
    policy.keys_on(name) || (name == "authorization" && by_claim())
}

/// Whether the request carries `Authorization` that the key does not cover: then RFC 9111 section 3.5 applies.
pub fn is_authorized(fields: Fields<'_>, policy: &CachePolicy) -> bool {
    fields.has("authorization") && !covers("authorization", fields, &policy.identity)
}

/// The claim of this name in the token that `Authorization` carries, **unverified**: anyone can write one. It may find
/// an entry, and nothing more; see [`super::guard`].
pub fn claim(fields: Fields<'_>, name: &str) -> Option<String> {
    let mut lines = fields.all("authorization");
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (_scheme, token) = std::str::from_utf8(line).ok()?.trim().split_once(' ')?;
    let mut parts = token.trim().split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    if payload.len() > MAX_TOKEN {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let payload: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&payload).ok()?;
    // As JSON, so that the number 1 and the text "1" differ.
    payload.get(name).filter(|value| value.is_string() || value.is_number()).map(ToString::to_string)
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A telephone.
    Mobile,
    /// A tablet.
    Tablet,
    /// Anything else.
    Desktop,
}

impl Device {
    /// The word that the origin is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mobile => "mobile",
            Self::Tablet => "tablet",
            Self::Desktop => "desktop",
        }
    }

    /// A `User-Agent` of such a device that is nobody's.
    pub fn agent(self) -> &'static str {
        match self {
            Self::Mobile => "Mozilla/5.0 (Mobile)",
            Self::Tablet => "Mozilla/5.0 (Tablet)",
            Self::Desktop => "Mozilla/5.0",
        }
    }

    /// Reads `User-Agent` as browsers agree to write it: phones say `Mobi`, Android tablets do not.
    pub fn of(fields: Fields<'_>) -> Self {
        let lines: Vec<&[u8]> = fields.all("user-agent").collect();
        let says = |word: &str| lines.iter().any(|line| memmem::find(line, word.as_bytes()).is_some());
        if says("iPad") || says("Tablet") || says("Silk/") || (says("Android") && !says("Mobi")) {
            Self::Tablet
        } else if says("Mobi") || says("iPhone") || says("iPod") || says("Opera Mini") {
            Self::Mobile
        } else {
            Self::Desktop
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::Patterns;
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;

    fn token(payload: &str) -> String {
        format!("Bearer e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    fn stand_of(identity: &IdentityPolicy, fields: &[(&str, &str)]) -> Option<Stand> {
        let policy = CachePolicy { identity: identity.clone(), ..testing::policy() };
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let target = Target::new(Scheme::Http, "shop", "/");
        of(
            &RequestHead {
                method: "GET",
                target,
                fields: Fields::new(&fields),
                has_body: false,
                believed: &[],
            },
            &policy,
        )
    }

    #[test]
    fn what_a_trusted_proxy_says_makes_another_page() {
        let target = Target::new(Scheme::Http, "shop", "/");
        let prefixed = |believed| {
            let request = RequestHead {
                method: "GET",
                target: target.clone(),
                fields: Fields::default(),
                has_body: false,
                believed,
            };
            of(&request, &testing::policy())
        };
        assert_eq!(prefixed(&[]), None);
        let (one, other) =
            (prefixed(&[("x-forwarded-prefix", b"/a")]), prefixed(&[("x-forwarded-prefix", b"/b")]));
        assert!(one.is_some() && one != other);
    }

    #[test]
    fn each_session_is_one_identity_and_nobody_is_one_too() {
        let identity =
            IdentityPolicy { cookies: Patterns::new(&["sessionid", "lang"]).unwrap(), ..Default::default() };
        let of = |cookie: &str| stand_of(&identity, &[("Cookie", cookie)]);
        assert_eq!(stand_of(&IdentityPolicy::default(), &[("Cookie", "sessionid=a")]), None);
        assert_eq!(of("sessionid=a; lang=fr; _ga=1"), of("_ga=2; lang=fr;sessionid=a"));
        let all = ["sessionid=a", "sessionid=b", "sessionid=", "sessionid", "_ga=1", "lang=a"].map(of);
        for (at, one) in all.iter().enumerate() {
            assert!(one.is_some() && !all[at + 1..].contains(one), "{at}");
        }
        assert_ne!(
            of("sessionid=a; sessionid=b"),
            of("sessionid=b; sessionid=a"),
            "the origin may take either"
        );
        assert_ne!(of("sessionid=alang=b"), of("sessionid=a; lang=b"));
    }

    #[test]
    fn fields_count_with_all_their_lines() {
        let identity = IdentityPolicy { headers: vec!["x-tenant".into()], ..Default::default() };
        let of = |fields: &[(&str, &str)]| stand_of(&identity, fields);
        assert_eq!(of(&[("X-Tenant", "a ")]), of(&[("x-tenant", "a")]));
        assert_ne!(of(&[("x-tenant", "a")]), of(&[("x-tenant", "b")]));
        assert_ne!(of(&[("x-tenant", "a"), ("x-tenant", "b")]), of(&[("x-tenant", "a")]));
        assert_ne!(of(&[]), of(&[("x-tenant", "")]));
    }

    #[test]
    fn a_claim_is_read_from_what_is_a_token_and_nothing_else() {
        let read = |line: &str| claim(Fields::new(&[("authorization", line.as_bytes())]), "sub");
        assert_eq!(read(&token(r#"{"sub": "ada", "exp": 1}"#)).as_deref(), Some("\"ada\""));
        assert_eq!(read(&token(r#"{"sub": 7}"#)).as_deref(), Some("7"));
        for bad in [
            "Token abc",
            "Bearer a.b",
            "Bearer a.b.c.d",
            "Bearer",
            &token("[]"),
            &token(r#"{"sub": null}"#),
            &token(r#"{"sub": ["a"]}"#),
            &token(r#"{"sub": "a""#),
            &token(&format!(r#"{{"sub": "{}"}}"#, "x".repeat(MAX_TOKEN))),
            "Bearer e30.!!!.c2ln",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let twice = token(r#"{"sub": "ada"}"#);
        let twice = [("authorization", twice.as_bytes()), ("Authorization", twice.as_bytes())];
        assert_eq!(claim(Fields::new(&twice), "sub"), None);
    }

    #[test]
    fn authorization_is_covered_by_its_own_value_or_by_a_claim() {
        let by_claim = IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() };
        let good = token(r#"{"sub": "ada"}"#);
        let covered = |line: &str, identity: &IdentityPolicy| {
            covers("authorization", Fields::new(&[("authorization", line.as_bytes())]), identity)
        };
        assert!(covered(&good, &by_claim) && !covered("Token x", &by_claim));
        let by_field = IdentityPolicy { headers: vec!["authorization".into()], ..Default::default() };
        assert!(covered("Token x", &by_field) && !covered(&good, &IdentityPolicy::default()));
    }

    #[test]
    fn devices_are_told_apart_as_browsers_agreed() {
        for (agent, device) in [
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Mobile/15E148 Safari/604.1",
                Device::Mobile,
            ),
            ("Mozilla/5.0 (Linux; Android 15; Pixel 9) Chrome/130 Mobile Safari/537.36", Device::Mobile),
            ("Mozilla/5.0 (Linux; Android 15; SM-X910) Chrome/130 Safari/537.36", Device::Tablet),
            ("Mozilla/5.0 (iPad; CPU OS 16_0 like Mac OS X) Mobile/15E148", Device::Tablet),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", Device::Desktop),
            ("curl/8", Device::Desktop),
        ] {
            assert_eq!(Device::of(Fields::new(&[("User-Agent", agent.as_bytes())])), device, "{agent}");
        }
        assert_eq!(Device::of(Fields::default()), Device::Desktop);
        for device in [Device::Mobile, Device::Tablet, Device::Desktop] {
            assert_eq!(Device::of(Fields::new(&[("user-agent", device.agent().as_bytes())])), device);
        }
    }
}
