//! Which cookies carry identity, and which of them a fetch for the store takes along.
//!
//! A cookie that no list of the route names may change the page, so its request passes. One that is ignored is taken
//! out of the upstream request too: what the origin never sees, the stored page cannot depend on.

use super::head::Fields;
use super::policy::CachePolicy;

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

/// What a cookie of this name is to the route: the narrower list wins, so that `*` can mean the others.
pub fn role(name: &str, policy: &CachePolicy) -> Role {
    if policy.identity.cookies.matches(name) {
        Role::Keyed
    } else if policy.forward_cookies.matches(name) {
        Role::Forwarded
    } else if policy.ignore_cookies.matches(name) {
        Role::Ignored
    } else {
        Role::Identifying
    }
}

/// The name of the first cookie that may name a visitor.
pub fn first_identifying<'a>(fields: Fields<'a>, policy: &CachePolicy) -> Option<&'a str> {
    for value in fields.all("cookie") {
        let Ok(value) = std::str::from_utf8(value) else {
            return Some("(not text)");
        };
        if let Some(pair) = pairs(value).find(|pair| role(name(pair), policy) == Role::Identifying) {
            return Some(name(pair));
        }
    }
    None
}

/// The cookies of one role, as name and value.
pub fn with_role<'a>(
    fields: Fields<'a>,
    policy: &CachePolicy,
    wanted: Role,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    texts(fields).flat_map(pairs).filter(move |pair| role(name(pair), policy) == wanted).map(split)
}

/// The `Cookie` of a fetch for the store.
pub fn sent(fields: Fields<'_>, policy: &CachePolicy) -> Option<String> {
    let is_sent = |pair: &&str| matches!(role(name(pair), policy), Role::Keyed | Role::Forwarded);
    let kept: Vec<&str> = texts(fields).flat_map(pairs).filter(is_sent).collect();
    (!kept.is_empty()).then(|| kept.join("; "))
}

fn texts(fields: Fields<'_>) -> impl Iterator<Item = &str> {
    fields.all("cookie").filter_map(|value| std::str::from_utf8(value).ok())
}

fn pairs(value: &str) -> impl Iterator<Item = &str> {
    value.split(';').map(str::trim).filter(|pair| !pair.is_empty())
}

fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').map_or((pair, ""), |(name, value)| (name.trim(), value.trim()))
}

fn name(pair: &str) -> &str {
    split(pair).0
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
            assert_eq!(first_identifying(Fields(&fields), &policy), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_that_is_not_text_identifies() {
        let fields = [("cookie", &b"_ga=\xff"[..])];
        assert!(first_identifying(Fields(&fields), &testing::policy()).is_some());
    }

    #[test]
    fn each_cookie_has_one_role_and_the_narrower_list_wins() {
        let policy = CachePolicy {
            identity: IdentityPolicy { cookies: patterns(&["sessionid"]), ..Default::default() },
            forward_cookies: patterns(&["theme", "s*"]),
            ignore_cookies: patterns(&["*"]),
            ..testing::policy()
        };
        let fields = [("cookie", &b"_ga=1; sessionid = x ; theme=dark"[..]), ("Cookie", b"style=2")];
        let fields = Fields(&fields);
        assert_eq!(first_identifying(fields, &policy), None);
        let of = |role| with_role(fields, &policy, role).collect::<Vec<_>>();
        assert_eq!(of(Role::Keyed), [("sessionid", "x")]);
        assert_eq!(of(Role::Forwarded), [("theme", "dark"), ("style", "2")]);
        assert_eq!(of(Role::Ignored), [("_ga", "1")]);
        assert_eq!(sent(fields, &policy).as_deref(), Some("sessionid = x; theme=dark; style=2"));
        assert_eq!(sent(fields, &testing::policy()), None);
    }
}
