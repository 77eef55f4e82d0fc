//! Which cookies carry identity, and which of them a fetch for the store takes along.
//!
//! A cookie that no list of the route names may change the page, so its request passes. One that is ignored is taken
//! out of the upstream request too: what the origin never sees, the stored page cannot depend on.

use std::fmt;

use super::head::Fields;
use super::policy::CachePolicy;
use super::text;

/// What a cookie is to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Part of the key, and sent.
    Keyed,
    /// Not part of the key, but sent; the guard watches it.
    Forwarded,
    /// Neither.
    Ignored,
    /// None of these: it may name a visitor.
    Identifying,
}

/// One cookie, as it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// Its name; empty where there is none.
    pub name: &'a str,
    /// Its value; `None` without an equals sign.
    pub value: Option<&'a str>,
}

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.value.map_or(Ok(()), |value| write!(f, "={value}"))
    }
}

/// What a cookie of this name is to the route: the list with the closest pattern counts, so that `*` can mean all
/// others; of equally close ones the first of [`Role`].
pub fn role(name: &str, policy: &CachePolicy) -> Role {
    let lists = [
        (&policy.identity.cookies, Role::Keyed),
        (&policy.forward_cookies, Role::Forwarded),
        (&policy.ignore_cookies, Role::Ignored),
    ];
    let mut closest: Option<(usize, Role)> = None;
    for (patterns, role) in lists {
        if let Some(closeness) = patterns.closeness(name)
            && closest.is_none_or(|(other, _)| closeness > other)
        {
            closest = Some((closeness, role));
        }
    }
    closest.map_or(Role::Identifying, |(_, role)| role)
}

/// The most cookies of one request that are looked at; browsers keep fewer per site. With more it passes.
const MAX_COOKIES: usize = 256;

/// The name of the first cookie that may name a visitor.
pub fn first_identifying<'a>(fields: Fields<'a>, policy: &CachePolicy) -> Option<&'a str> {
    // Each takes a byte, and a semicolon.
    let bytes = fields.all("cookie").map(|line| line.len() + 1).sum::<usize>();
    if bytes > 2 * MAX_COOKIES && all(fields).nth(MAX_COOKIES).is_some() {
        return Some("(too many)");
    }
    for value in fields.all("cookie") {
        let Ok(value) = std::str::from_utf8(value) else {
            return Some("(not text)");
        };
        if let Some(pair) = pairs(value).find(|pair| role(pair.name, policy) == Role::Identifying) {
            return Some(pair.name);
        }
    }
    None
}

/// The cookies of one role.
pub fn with_role<'a>(
    fields: Fields<'a>,
    policy: &CachePolicy,
    wanted: Role,
) -> impl Iterator<Item = Pair<'a>> {
    all(fields).filter(move |pair| role(pair.name, policy) == wanted)
}

/// The `Cookie` of a fetch for the store. It is written anew, so that the origin reads what the key was made of.
pub fn sent(fields: Fields<'_>, policy: &CachePolicy) -> Option<String> {
    let is_sent = |pair: &Pair<'_>| matches!(role(pair.name, policy), Role::Keyed | Role::Forwarded);
    let kept: Vec<String> = all(fields).filter(is_sent).map(|pair| pair.to_string()).collect();
    (!kept.is_empty()).then(|| kept.join("; "))
}

/// The value of the first cookie of this name.
pub fn value<'a>(fields: Fields<'a>, name: &str) -> Option<&'a str> {
    all(fields).find(|pair| pair.name == name).and_then(|pair| pair.value)
}

fn all(fields: Fields<'_>) -> impl Iterator<Item = Pair<'_>> {
    fields.all("cookie").filter_map(|value| std::str::from_utf8(value).ok()).flat_map(pairs)
}

/// Only these are white space to a server; any other belongs to the value.
fn trimmed(text: &str) -> &str {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    match is_space(text.as_bytes().first()) || is_space(text.as_bytes().last()) {
        true => text.trim_matches([' ', '\t']),
        false => text,
    }
}

fn pairs(value: &str) -> impl Iterator<Item = Pair<'_>> {
    let pairs = text::split(value, b';').map(trimmed).filter(|pair| !pair.is_empty());
    pairs.map(|pair| match text::cut(pair, b'=') {
        Some((name, value)) => Pair { name: trimmed(name), value: Some(trimmed(value)) },
        None => Pair { name: pair, value: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::{IdentityPolicy, Patterns};
    use crate::rules::testing;

    fn patterns(list: &[&str]) -> Patterns {
        Patterns::new(list).unwrap()
    }

    #[test]
    fn only_ignored_cookies_are_anonymous() {
        let policy = CachePolicy { ignore_cookies: patterns(&["_ga*", "_fbp"]), ..testing::policy() };
        for (lines, expected) in [
            (&[][..], None),
            (&[""][..], None),
            (&["_ga=1; _gat=2"][..], None),
            (&["_ga=1; sessionid=x"][..], Some("sessionid")),
            (&["_ga=1", "theme=dark"][..], Some("theme")),
            (&["  _fbp=1 ;"][..], None),
            (&["=value"][..], Some("")),
            (&["flag"][..], Some("flag")),
            (&["_GA=1"][..], Some("_GA")),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("Cookie", line.as_bytes())).collect();
            assert_eq!(first_identifying(Fields::new(&fields), &policy), expected, "{lines:?}");
        }
    }

    #[test]
    fn of_too_many_cookies_any_may_identify() {
        let many = "_ga=1;".repeat(MAX_COOKIES);
        let one_more = many.clone() + "_ga=1";
        for (cookies, expected) in [(many, None), (one_more, Some("(too many)"))] {
            assert_eq!(
                first_identifying(Fields::new(&[("cookie", cookies.as_bytes())]), &testing::policy()),
                expected
            );
        }
    }

    #[test]
    fn a_cookie_that_is_not_text_identifies() {
        let fields = [("cookie", &b"_ga=\xff"[..])];
        assert!(first_identifying(Fields::new(&fields), &testing::policy()).is_some());
    }

    #[test]
    fn each_cookie_has_one_role_and_the_closest_pattern_wins() {
        let policy = CachePolicy {
            identity: IdentityPolicy { cookies: patterns(&["sessionid"]), ..Default::default() },
            forward_cookies: patterns(&["theme", "s*"]),
            ignore_cookies: patterns(&["*", "stat_*"]),
            ..testing::policy()
        };
        let fields = [
            ("cookie", &b"_ga=1; sessionid = x ; theme=dark"[..]),
            ("Cookie", b"style; stat_1=y; s=\xc2\xa0z"),
        ];
        let fields = Fields::new(&fields);
        assert_eq!(first_identifying(fields, &policy), None);
        let of = |role| with_role(fields, &policy, role).map(|pair| pair.to_string()).collect::<Vec<_>>();
        assert_eq!(of(Role::Keyed), ["sessionid=x"]);
        assert_eq!(of(Role::Forwarded), ["theme=dark", "style", "s=\u{a0}z"]);
        assert_eq!(of(Role::Ignored), ["_ga=1", "stat_1=y"]);
        assert_eq!(sent(fields, &policy).as_deref(), Some("sessionid=x; theme=dark; style; s=\u{a0}z"));
        assert_eq!(sent(fields, &testing::policy()), None);
    }
}
