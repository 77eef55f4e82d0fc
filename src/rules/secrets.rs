//! Whether a body shows a secret of the visitor it was made for.
//!
//! A page with someone's session id or form token in it is theirs, whatever its headers say.

use std::borrow::Cow;

use memchr::memmem;

use super::cookies::{self, Role};
use super::head::{Fields, RequestHead};
use super::identity;
use super::policy::{CachePolicy, Guard};

/// Shorter values occur in pages by chance.
const MIN_SENT: usize = 16;
/// The same for a cookie that the response itself sets: the coincidence would be a larger one.
const MIN_SET: usize = 8;
/// The most values looked for.
const MAX_SECRETS: usize = 64;

/// Names of form fields that hold a token against forged requests, as frameworks call them. Their value is masked
/// anew for each page, so that only the name can be found.
const FORM_TOKENS: &[&[u8]] = &[
    b"__RequestVerificationToken",
    b"authenticity_token",
    b"csrfmiddlewaretoken",
    b"csrf-token",
    b"csrf_token",
    b"name=\"_csrf\"",
    b"name=\"_token\"",
];

/// Values that no shared body may show. `Debug` does not print them.
#[derive(Default)]
pub struct Secrets {
    values: Vec<Vec<u8>>,
    /// Whether a form with a token was made for one visitor.
    owns_forms: bool,
}

impl Secrets {
    /// What the visitor sent that is not in the key: what is keyed may be in a page of their own.
    pub fn of_request(request: &RequestHead<'_>, policy: &CachePolicy) -> Self {
        let mut secrets = Self::default();
        if policy.guard == Guard::Off {
            return secrets;
        }
        for (_, value) in cookies::with_role(request.fields, policy, Role::Forwarded) {
            secrets.add(value.trim_matches('"').as_bytes(), MIN_SENT);
        }
        secrets.owns_forms = !secrets.values.is_empty();
        let keyed = policy.identity.headers.iter().any(|name| name == "authorization");
        if !keyed && (policy.identity.jwt_claim.is_some() || identity::is_authorized(request.fields, policy))
        {
            for line in request.fields.all("authorization") {
                let credential = line.rsplit(|byte| *byte == b' ').next().unwrap_or(line);
                secrets.add(credential, MIN_SENT);
            }
        }
        secrets
    }

    /// Adds what a response sets as cookies.
    pub fn set_by(&mut self, response: Fields<'_>) {
        for line in response.all("set-cookie") {
            self.owns_forms = true;
            let pair = line.split(|byte| *byte == b';').next().unwrap_or(line);
            if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
                let value = pair[at + 1..].trim_ascii();
                self.add(
                    value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value),
                    MIN_SET,
                );
            }
        }
    }

    fn add(&mut self, value: &[u8], min: usize) {
        if value.len() >= min && self.values.len() < MAX_SECRETS {
            self.values.push(value.to_vec());
        }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && !self.owns_forms
    }

    /// Whether `body` shows one of them: as it is, percent-decoded, escaped for HTML or JSON, or behind a mask as
    /// Django's form tokens are.
    pub fn appear_in(&self, body: &[u8]) -> bool {
        let found = |needle: &[u8]| memmem::find(body, needle).is_some();
        if self.owns_forms && FORM_TOKENS.iter().any(|name| found(name)) {
            return true;
        }
        let shown = |value: &[u8]| {
            let decoded = percent_decoded(value);
            found(value)
                || found(&decoded)
                || found(&escaped(&decoded, |c| match c {
                    b'&' => Some(b"&amp;"),
                    b'<' => Some(b"&lt;"),
                    b'>' => Some(b"&gt;"),
                    b'"' => Some(b"&quot;"),
                    b'\'' => Some(b"&#x27;"),
                    _ => None,
                }))
                || found(&escaped(&decoded, |c| match c {
                    b'/' => Some(b"\\/"),
                    b'"' => Some(b"\\\""),
                    _ => None,
                }))
        };
        self.values.iter().any(|value| shown(value)) || self.shows_masked(body)
    }

    /// Whether a word of the body is a masked form of one of the values (Django's `_mask_cipher_secret`).
    fn shows_masked(&self, body: &[u8]) -> bool {
        let secrets: Vec<Vec<u8>> = self.values.iter().filter_map(|value| plain_token(value)).collect();
        !secrets.is_empty()
            && body
                .split(|byte| !byte.is_ascii_alphanumeric())
                .filter(|word| word.len() == 2 * TOKEN)
                .filter_map(plain_token)
                .any(|token| secrets.contains(&token))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.values.len())
    }
}

/// The length of Django's form token without its mask.
const TOKEN: usize = 32;

/// A token without its mask: 32 letters as they are, or 32 of mask and 32 of cipher.
fn plain_token(text: &[u8]) -> Option<Vec<u8>> {
    let place = |byte: u8| match byte {
        b'a'..=b'z' => Some(byte - b'a'),
        b'A'..=b'Z' => Some(byte - b'A' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        _ => None,
    };
    let places = text.iter().map(|byte| place(*byte)).collect::<Option<Vec<u8>>>()?;
    match places.len() {
        TOKEN => Some(places),
        length if length == 2 * TOKEN => {
            let (mask, cipher) = places.split_at(TOKEN);
            Some(cipher.iter().zip(mask).map(|(c, m)| (c + 62 - m) % 62).collect())
        }
        _ => None,
    }
}

fn percent_decoded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'%') {
        return value.into();
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(code.unwrap_or(*first));
        rest = if code.is_some() { &more[2..] } else { more };
    }
    decoded.into()
}

fn escaped(value: &[u8], escape: impl Fn(u8) -> Option<&'static [u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value {
        match escape(*byte) {
            Some(escaped) => out.extend_from_slice(escaped),
            None => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::{IdentityPolicy, Patterns};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;

    fn set(cookie: &str) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.set_by(Fields(&[("Set-Cookie", cookie.as_bytes())]));
        secrets
    }

    fn sent(policy: &CachePolicy, fields: &[(&str, &str)]) -> Secrets {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let target = Target::new(Scheme::Http, "shop", "/");
        let request =
            RequestHead { method: "GET", target, fields: Fields(&fields), has_body: false, believed: &[] };
        Secrets::of_request(&request, policy)
    }

    /// Recorded from Django 5.2: the cookie, and the token of the form beside it.
    const SECRET: &str = "NzqpNSq2ABLlKkj1bJXTQJE1Tn9m4Hby";

    fn masked(secret: &str, mask: &str) -> String {
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let at = |c: u8| letters.iter().position(|letter| *letter == c).unwrap();
        let cipher = secret.bytes().zip(mask.bytes()).map(|(s, m)| letters[(at(s) + at(m)) % 62] as char);
        mask.to_owned() + &cipher.collect::<String>()
    }

    #[test]
    fn a_cookie_that_is_set_and_shown_is_found_in_any_spelling() {
        for (cookie, body, shown) in [
            ("token=abcdefgh; Path=/", "<input value=\"abcdefgh\">", true),
            ("token=\"abcdefgh\"", "abcdefgh", true),
            ("token=ab%2Fcd%3Def", "data-x='ab/cd=ef'", true),
            ("token=ab/cd=efgh", r#"{"t": "ab\/cd=efgh"}"#, true),
            ("token=ab&cd=efgh", "value=ab&amp;cd=efgh", true),
            ("token=abcdefgh", "abcdefg", false),
            ("lang=en", "<html lang=en>", false),
            ("token", "token", false),
            ("a=1", "<input name=\"csrfmiddlewaretoken\">", true),
            ("a=1", "<meta name=\"csrf-token\" content=x>", true),
            ("a=1", "<form>", false),
        ] {
            assert_eq!(set(cookie).appear_in(body.as_bytes()), shown, "{cookie} {body}");
        }
    }

    #[test]
    fn a_masked_form_token_is_found_behind_its_cookie() {
        let token = masked(SECRET, "mask0123456789mask0123456789mask");
        let page = format!("<input type=hidden value=\"{token}\">");
        let secrets = set(&format!("csrftoken={SECRET}"));
        assert!(secrets.appear_in(page.as_bytes()));
        let other_mask = masked(SECRET, "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF");
        assert!(
            set(&format!("csrftoken={other_mask}")).appear_in(page.as_bytes()),
            "older cookies are masked too"
        );
        let other = masked(&SECRET.to_ascii_lowercase(), "mask0123456789mask0123456789mask");
        assert!(!secrets.appear_in(other.as_bytes()));
    }

    #[test]
    fn what_the_visitor_sent_is_looked_for_unless_it_is_keyed() {
        let long = "0123456789abcdef";
        let body = format!("your id is {long}");
        let policy = CachePolicy { forward_cookies: Patterns::new(&["*"]).unwrap(), ..testing::policy() };
        let cookie = format!("id={long}; theme=dark");
        assert!(sent(&policy, &[("Cookie", &cookie)]).appear_in(body.as_bytes()));
        assert!(!sent(&policy, &[("Cookie", "theme=dark")]).appear_in(b"dark"));
        assert!(sent(&testing::policy(), &[("Cookie", &cookie)]).is_empty(), "it is not sent on");
        let bearer = format!("Bearer {long}");
        let keyed = |identity| CachePolicy { identity, ..testing::policy() };
        let by_claim = keyed(IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() });
        assert!(sent(&by_claim, &[("Authorization", &bearer)]).appear_in(body.as_bytes()));
        let by_value = keyed(IdentityPolicy { headers: vec!["authorization".into()], ..Default::default() });
        assert!(sent(&by_value, &[("Authorization", &bearer)]).is_empty());
    }

    #[test]
    fn secrets_are_never_printed() {
        assert_eq!(format!("{:?}", set("token=abcdefghijk")), "Secrets(1)");
    }
}
