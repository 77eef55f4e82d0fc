//! Whether a response shows a secret of the visitor it was made for.
//!
//! A page with someone's session id or form token in it is theirs, whatever its headers say.

use memchr::memmem;

use super::cookies::{self, Role};
use super::head::{Fields, RequestHead};
use super::identity;
use super::policy::{CachePolicy, Guard};
use super::target::decoded;

/// Shorter values occur in pages by chance.
const MIN_SENT: usize = 16;
/// The same for a cookie that the response itself sets: the coincidence would be a larger one.
const MIN_SET: usize = 8;
/// The most values, and the most parts of them, that are looked for: each is a pass over the body. A response to a request
/// with more is refused.
const MAX_NEEDLES: usize = 64;

/// Names of form fields that hold a token against forged requests, as frameworks call them. Their value is often masked
/// anew for each page, so that only the name can be found.
const FORM_TOKENS: &[&[u8]] = &[
    b"__RequestVerificationToken",
    b"authenticity_token",
    b"csrf-token",
    b"csrfToken",
    b"csrf_token",
    b"csrfmiddlewaretoken",
    b"[_token]",
    b"name=\"_csrf",
    b"name=\"_token",
    b"name='_csrf",
    b"name='_token",
];

/// What a response shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// What it sets itself: it is made for one visitor, and so are others to its key.
    Set,
    /// What its visitor sent. Anyone can send a piece of a public page, so it says nothing about others.
    Sent,
}

/// Values that no shared response may show. `Debug` does not print them.
#[derive(Default)]
pub struct Secrets {
    sent: Vec<Vec<u8>>,
    set: Vec<Vec<u8>>,
    /// Whether the response sets a cookie: then a form with a token was made for one visitor.
    sets_cookie: bool,
}

impl Secrets {
    /// What the visitor sent that is not in the key: what is keyed may be in a page of their own.
    pub fn of_request(request: &RequestHead<'_>, policy: &CachePolicy) -> Self {
        let mut secrets = Self::default();
        if policy.guard == Guard::Off {
            return secrets;
        }
        let sent = &mut secrets.sent;
        for pair in cookies::with_role(request.fields, policy, Role::Forwarded) {
            add(sent, pair.value.unwrap_or_default().trim_matches('"').as_bytes(), MIN_SENT);
        }
        let keyed = policy.identity.keys_on("authorization");
        if !keyed && (policy.identity.jwt_claim.is_some() || identity::is_authorized(request.fields, policy))
        {
            for line in request.fields.all("authorization") {
                add(sent, line.rsplit(|byte| *byte == b' ').next().unwrap_or(line), MIN_SENT);
            }
        }
        secrets
    }

    /// Adds what a response sets as cookies.
    pub fn set_by(&mut self, response: Fields<'_>) {
        for line in response.all("set-cookie") {
            self.sets_cookie = true;
            let pair = line.split(|byte| *byte == b';').next().unwrap_or(line);
            if let Some(at) = pair.iter().position(|byte| *byte == b'=') {
                let value = pair[at + 1..].trim_ascii();
                let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
                add(&mut self.set, unquoted.unwrap_or(value), MIN_SET);
            }
        }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty() && !self.sets_cookie
    }

    /// What a response with these fields, as it is stored, and this body shows of them: as it is, percent-decoded or in
    /// part, escaped for HTML or JSON, or behind a mask as Django's form tokens are. A coded body cannot be read, nor can
    /// be looked for any number of values: then it may show anything.
    pub fn shown_by(&self, fields: Fields<'_>, body: &[u8]) -> Option<Shown> {
        if self.is_empty() {
            return None;
        }
        let is_coded = fields.list("content-encoding").any(|coding| !coding.eq_ignore_ascii_case("identity"));
        let media_type = fields.text("content-type").unwrap_or_default().to_ascii_lowercase();
        let is_wide = ["utf-16", "utf-32", "ucs-2"].iter().any(|charset| media_type.contains(charset));
        let (sent, set) = (needles(&self.sent), needles(&self.set));
        if is_wide || is_coded || sent.len() + set.len() > MAX_NEEDLES {
            return Some(if self.sets_cookie { Shown::Set } else { Shown::Sent });
        }
        let (plain, unquoted) = (unescaped(body), percent_decoded(body));
        // A cookie that everyone gets, because the route says so, is in its own field.
        let others = fields.lines().iter().filter(|(name, _)| !name.eq_ignore_ascii_case("set-cookie"));
        let texts: Vec<&[u8]> =
            [body, &plain, &unquoted].into_iter().chain(others.map(|(_, value)| *value)).collect();
        let found = |needle: &[u8]| texts.iter().any(|text| memmem::find(text, needle).is_some());
        let shown = |needles: &[Vec<u8>], values: &[Vec<u8>]| {
            needles.iter().any(|needle| found(needle)) || shows_masked(body, values)
        };
        let has_form = || FORM_TOKENS.iter().any(|name| found(name));
        // Scripts name the fields too, and are everybody's.
        let is_page = media_type.is_empty() || media_type.contains("html");
        if self.sets_cookie && (has_form() || shown(&set, &self.set)) {
            Some(Shown::Set)
        } else if !self.sent.is_empty() && ((is_page && has_form()) || shown(&sent, &self.sent)) {
            Some(Shown::Sent)
        } else {
            None
        }
    }
}

fn add(values: &mut Vec<Vec<u8>>, value: &[u8], min: usize) {
    if value.len() >= min {
        values.push(value.to_vec());
    }
}

/// What to look for: each value as it is and decoded, and its longer words, which every way of writing it leaves alone.
fn needles(values: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut needles = values.to_vec();
    for value in values {
        let decoded = decoded(&String::from_utf8_lossy(value));
        let words = decoded.split(|byte| !byte.is_ascii_alphanumeric());
        needles.extend(words.filter(|word| word.len() >= MIN_SENT).map(<[u8]>::to_vec));
        needles.extend(Some(decoded).filter(|decoded| decoded.len() >= MIN_SET));
    }
    needles
}

/// Whether a word of the body is a masked form of one of the values (Django's `_mask_cipher_secret`).
fn shows_masked(body: &[u8], values: &[Vec<u8>]) -> bool {
    let secrets: Vec<Vec<u8>> = values.iter().filter_map(|value| plain_token(value)).collect();
    !secrets.is_empty()
        && body
            .split(|byte| !byte.is_ascii_alphanumeric())
            .filter(|word| word.len() == 2 * TOKEN)
            .filter_map(plain_token)
            .any(|token| secrets.contains(&token))
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.sent.len() + self.set.len())
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

/// A text without the escapes of HTML and JSON; empty when it has none.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let Some(first) = memchr::memchr2(b'&', b'\\', text) else { return Vec::new() };
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let Some((byte, more)) = rest.split_first() {
        let meant = match byte {
            b'&' => entity(more),
            b'\\' => json_escape(more),
            _ => None,
        };
        let (c, length) = meant.unwrap_or((char::REPLACEMENT_CHARACTER, 0));
        if meant.is_some() {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.push(*byte);
        }
        rest = &more[length..];
    }
    out
}

/// A text without percent-encoding; empty when it has none.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    match memchr::memchr(b'%', text) {
        Some(_) => decoded(&String::from_utf8_lossy(text)),
        None => Vec::new(),
    }
}

/// What stands behind an ampersand, and how long it is. Browsers read it without its semicolon too.
fn entity(text: &[u8]) -> Option<(char, usize)> {
    /// `10FFFF`, and some zeros before it.
    const LONGEST: usize = 16;
    let (from, is_part): (usize, fn(&u8) -> bool) = match text {
        [b'#', b'x' | b'X', ..] => (2, u8::is_ascii_hexdigit),
        [b'#', ..] => (1, u8::is_ascii_digit),
        _ => (0, u8::is_ascii_alphabetic),
    };
    let end = from + text[from..].iter().take(LONGEST).take_while(|byte| is_part(byte)).count();
    let has_semicolon = text.get(end) == Some(&b';');
    let name = std::str::from_utf8(&text[..end]).ok()?;
    let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    let c = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => match name.strip_prefix('#')? {
            hex if hex.starts_with(['x', 'X']) => number(&hex[1..], 16)?,
            decimal => number(decimal, 10)?,
        },
    };
    Some((c, end + usize::from(has_semicolon)))
}

/// What stands behind a backslash, and how long it is.
fn json_escape(text: &[u8]) -> Option<(char, usize)> {
    match text.first()? {
        b'x' => {
            let digits = std::str::from_utf8(text.get(1..3)?).ok()?;
            Some((char::from(u8::from_str_radix(digits, 16).ok()?), 3))
        }
        b'u' => {
            let digits = std::str::from_utf8(text.get(1..5)?).ok()?;
            Some((char::from_u32(u32::from_str_radix(digits, 16).ok()?)?, 5))
        }
        b'/' => Some(('/', 1)),
        b'"' => Some(('"', 1)),
        b'\\' => Some(('\\', 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::{IdentityPolicy, Patterns};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;

    fn set(cookie: &str) -> Secrets {
        let mut secrets = Secrets::default();
        secrets.set_by(Fields::new(&[("Set-Cookie", cookie.as_bytes())]));
        secrets
    }

    fn sent(policy: &CachePolicy, fields: &[(&str, &str)]) -> Secrets {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let target = Target::new(Scheme::Http, "shop", "/");
        let request = RequestHead {
            method: "GET",
            target,
            fields: Fields::new(&fields),
            has_body: false,
            believed: &[],
        };
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
            ("token=ab%2Bcd%3Def", "ab&#x2B;cd&#61;ef", true),
            ("token=ab%26cd%3Def", "ab\\u0026cd=ef", true),
            ("next=0123456789abcdef%7Chash-of-it", "the token is 0123456789abcdef", true),
            ("id=eyJhbGciOiJub25lIn0.0123456789abcdef.s", "0123456789abcdef", true),
            ("a=1", "&#xFFFFFFFF; &amp &;\\", false),
            ("cart=%5B%22%22%5D", "var x = [\"\"]", false),
            ("csrf=abcdef+ghijk", "abcdef&#00000000043;ghijk", true),
            ("csrf=ZGVmYWNlZG9m/+f4CBgg==", "?t=ZGVmYWNlZG9m%2F%2Bf4CBgg%3D%3D", true),
            ("csrf=abcdef+ghijk", "abcdef\\x2bghijk", true),
            ("csrf=abcdef+ghijk", "abcdef&#43ghijk", true),
            ("csrf=0123456789abcdef+f4", "0123456789abcdef&plus;f4", true),
        ] {
            let shows = set(cookie).shown_by(Fields::default(), body.as_bytes());
            assert_eq!(shows, shown.then_some(Shown::Set), "{cookie} {body}");
        }
    }

    #[test]
    fn a_masked_form_token_is_found_behind_its_cookie() {
        let token = masked(SECRET, "mask0123456789mask0123456789mask");
        let page = format!("<input type=hidden value=\"{token}\">");
        let secrets = set(&format!("csrftoken={SECRET}"));
        let shown =
            |secrets: &Secrets, page: &str| secrets.shown_by(Fields::default(), page.as_bytes()).is_some();
        assert!(shown(&secrets, &page));
        let other_mask = masked(SECRET, "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF");
        assert!(shown(&set(&format!("csrftoken={other_mask}")), &page), "older cookies are masked too");
        let other = masked(&SECRET.to_ascii_lowercase(), "mask0123456789mask0123456789mask");
        assert!(!shown(&secrets, &other));
    }

    #[test]
    fn what_the_visitor_sent_is_looked_for_unless_it_is_keyed() {
        let long = "0123456789abcdef";
        let body = format!("your id is {long}");
        let policy = CachePolicy { forward_cookies: Patterns::new(&["*"]).unwrap(), ..testing::policy() };
        let cookie = format!("id={long}; theme=dark");
        let shown = |secrets: Secrets, body: &str| secrets.shown_by(Fields::default(), body.as_bytes());
        assert_eq!(shown(sent(&policy, &[("Cookie", &cookie)]), &body), Some(Shown::Sent));
        assert_eq!(shown(sent(&policy, &[("Cookie", "theme=dark")]), "dark"), None);
        assert!(sent(&testing::policy(), &[("Cookie", &cookie)]).is_empty(), "it is not sent on");
        let bearer = format!("Bearer {long}");
        let keyed = |identity| CachePolicy { identity, ..testing::policy() };
        let by_claim = keyed(IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() });
        assert_eq!(shown(sent(&by_claim, &[("Authorization", &bearer)]), &body), Some(Shown::Sent));
        let by_value = keyed(IdentityPolicy { headers: vec!["authorization".into()], ..Default::default() });
        assert!(sent(&by_value, &[("Authorization", &bearer)]).is_empty());
    }

    #[test]
    fn fields_are_looked_at_too_and_a_coded_body_may_show_anything() {
        let secrets = set("csrf=0123456789");
        let in_field = [("X-CSRF-Token", &b"0123456789"[..])];
        assert_eq!(secrets.shown_by(Fields::new(&in_field), b"page"), Some(Shown::Set));
        assert_eq!(
            secrets.shown_by(Fields::new(&[("Content-Encoding", b"gzip")]), b"\x1f\x8b"),
            Some(Shown::Set)
        );
        assert_eq!(secrets.shown_by(Fields::new(&[("Content-Encoding", b"identity")]), b"page"), None);
        let wide = [("Content-Type", &b"text/html; charset=UTF-16"[..])];
        assert_eq!(secrets.shown_by(Fields::new(&wide), b"page"), Some(Shown::Set));
        let nothing = Secrets::default();
        assert_eq!(nothing.shown_by(Fields::new(&[("Content-Encoding", b"gzip")]), b"csrf_token"), None);
    }

    #[test]
    fn of_too_many_secrets_any_may_be_shown() {
        let policy = CachePolicy { forward_cookies: Patterns::new(&["*"]).unwrap(), ..testing::policy() };
        let parts: Vec<String> = (0..100).map(|n| format!("part0number0{n:05}")).collect();
        let cookie = format!("many={}", parts.join("|"));
        assert_eq!(
            sent(&policy, &[("Cookie", &cookie)]).shown_by(Fields::default(), b"page"),
            Some(Shown::Sent)
        );
    }

    #[test]
    fn secrets_are_never_printed() {
        assert_eq!(format!("{:?}", set("token=abcdefghijk")), "Secrets(1)");
    }
}
