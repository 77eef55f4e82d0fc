//! How a URL is spelled.
//!
//! The same page has many spellings (`%7Euser` and `~user`, `HOST:80` and `host`, parameters in any order).
//! Keys, purges and route matching must all see one, or an invalidation misses what it names; so this module is
//! the only place that normalises, and the origin still receives what the client sent.

use std::borrow::Cow;
use std::cmp::Ordering;

use memchr::memchr_iter;
use smallvec::SmallVec;

use super::policy::QueryPolicy;
use super::text;

/// The parameters of a query; those of most queries need no allocation.
type Parameters<'a> = SmallVec<[Cow<'a, str>; 16]>;

/// The scheme a client used, as far as the origin is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> &'static str {
        match self {
            Self::Http => "80",
            Self::Https => "443",
        }
    }
}

/// The target of a request, normalised (RFC 3986 section 6.2.2) except for the query, whose form depends on
/// the route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Plain or over TLS.
    pub scheme: Scheme,
    /// Lower case, without the default port. Empty when the client named none.
    pub host: Cow<'a, str>,
    /// Percent-encoding normalised; never decoded further, so `%2F` stays apart from `/`.
    pub path: Cow<'a, str>,
    /// As sent, without the `?`.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Splits and normalises a request target in origin form (`/path?query`) and the host it was sent to.
    pub fn new(scheme: Scheme, host: &'a str, path_and_query: &'a str) -> Self {
        Self::at(scheme, normal_host(scheme, host), path_and_query)
    }

    /// The same, where the host is in its normal spelling.
    pub fn at(scheme: Scheme, host: Cow<'a, str>, path_and_query: &'a str) -> Self {
        let (path, query) = match text::cut(path_and_query, b'?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        Self { scheme, host, path: normal_encoding(path), query }
    }

    /// Whether the path may name another resource at the origin than it seems to: a segment `.` or `..`, also
    /// behind an encoded slash or a backslash. Such a path could reach a personal page through a route for
    /// static files, so it is never answered from the store.
    pub fn is_ambiguous(&self) -> bool {
        let mut rest = self.path.as_bytes();
        if text::find(rest, b'.').is_none() {
            return false;
        }
        loop {
            let dots = rest.iter().take_while(|byte| **byte == b'.').count();
            // Some servers cut a segment's parameters off before they look at it: `/..;x/`.
            let ends = |rest: &[u8]| rest.first().is_none_or(|byte| *byte == b';') || separator(rest) > 0;
            if matches!(dots, 1 | 2) && ends(&rest[dots..]) {
                return true;
            }
            let Some(end) = (dots..rest.len()).find(|at| separator(&rest[*at..]) > 0) else { return false };
            rest = &rest[end + separator(&rest[end..])..];
        }
    }

    /// Whether it is longer than what a purge can name, a host and the text around a capture included.
    pub fn is_beyond_purges(&self) -> bool {
        const MAX: usize = 7 * 1024;
        self.path.len() + self.query.map_or(0, str::len) > MAX
    }

    /// The query as part of the key: parameters that the policy excludes left out, the rest in normal spelling
    /// and order. An empty query equals none.
    pub fn key_query(&self, policy: &QueryPolicy) -> Option<String> {
        let mut kept = Parameters::new();
        self.key_parameters(policy, &mut kept);
        (!kept.is_empty()).then(|| kept.join("&"))
    }

    /// Appends `?` and [`Self::key_query`], or nothing where there is none.
    pub fn write_key_query(&self, policy: &QueryPolicy, buffer: &mut Vec<u8>) {
        let (mut mark, mut kept) = (b'?', Parameters::new());
        self.key_parameters(policy, &mut kept);
        for parameter in &kept {
            buffer.push(std::mem::replace(&mut mark, b'&'));
            buffer.extend_from_slice(parameter.as_bytes());
        }
    }

    /// Adds those of the query that are in the key, in their order there. Into a place that the caller has, since they take
    /// more of it than it is worth to move.
    fn key_parameters(&self, policy: &QueryPolicy, kept: &mut Parameters<'a>) {
        let Some(query) = self.query else { return };
        // Looked at once as a whole: nearly all are spelled so.
        let is_normal = is_normal(query);
        let normal = |each: &'a str| if is_normal { each.into() } else { normal_encoding(each) };
        let normal = self.parameters().map(normal);
        kept.extend(normal.filter(|each| policy.keeps(parameter_name(each))));
        if policy.sort {
            // Stable: equal names keep their order, which may carry meaning.
            kept.sort_by(|one, other| by_meaning(parameter_name(one), parameter_name(other)));
        }
    }

    /// The query to send to the origin: as received, but for the parameters that are not in the key. A stored page
    /// must not depend on those, unless the operator wants them to arrive.
    pub fn upstream_query(&self, policy: &QueryPolicy) -> Option<String> {
        let kept: Vec<&str> =
            self.parameters().filter(|each| policy.forward_excluded || is_kept(each, policy)).collect();
        (!kept.is_empty()).then(|| kept.join("&"))
    }

    /// The parameters that are sent to the origin although they are not in the key.
    pub fn unkeyed_parameters<'s>(
        &'s self,
        policy: &'s QueryPolicy,
    ) -> impl Iterator<Item = &'a str> + use<'a, 's> {
        self.parameters().filter(|each| policy.forward_excluded && !is_kept(each, policy))
    }

    fn parameters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        text::split(self.query.unwrap_or_default(), b'&').filter(|parameter| !parameter.is_empty())
    }
}

/// How many bytes of a path, from its beginning, separate segments for one server or another: a slash, a backslash, or one of
/// them encoded.
fn separator(path: &[u8]) -> usize {
    match path {
        [b'/' | b'\\', ..] => 1,
        [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] => 3,
        _ => 0,
    }
}

/// The order of names as the origin reads them: `a%5B%5D` is `a[]`.
fn by_meaning(one: &str, other: &str) -> Ordering {
    let is_encoded = |name: &str| text::find(name.as_bytes(), b'%').is_some();
    if is_encoded(one) || is_encoded(other) {
        return decoded_bytes(one.as_bytes()).cmp(decoded_bytes(other.as_bytes()));
    }
    one.cmp(other)
}

fn is_kept(parameter: &str, policy: &QueryPolicy) -> bool {
    policy.keeps(parameter_name(&normal_encoding(parameter)))
}

/// The name of a parameter.
pub fn parameter_name(parameter: &str) -> &str {
    text::cut(parameter, b'=').map_or(parameter, |(name, _)| name)
}

/// Whether a host is one: letters, digits and what addresses and ports are written with. Anything else could be
/// one host in the key and another at the origin. An HTTP/1.0 client may name none.
pub fn is_host(host: &[u8]) -> bool {
    const ALLOWED: [bool; 256] = allowed(b".-_:[]", true);
    host.iter().all(|byte| ALLOWED[usize::from(*byte)]) && host.first() != Some(&b':')
}

/// Which bytes may stand in a text: letters, those in upper case maybe, digits, and `others`.
const fn allowed(others: &[u8], upper: bool) -> [bool; 256] {
    let (mut table, mut at) = ([false; 256], 0);
    while at < 256 {
        let byte = at as u8;
        table[at] = byte.is_ascii_lowercase() || byte.is_ascii_digit() || upper && byte.is_ascii_uppercase();
        at += 1;
    }
    at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// Lower case, without the scheme's default port (RFC 3986 section 6.2.3).
pub fn normal_host(scheme: Scheme, host: &str) -> Cow<'_, str> {
    const USUAL: [bool; 256] = allowed(b".-", false);
    if host.bytes().all(|byte| USUAL[usize::from(byte)]) && !host.ends_with('.') {
        return host.into();
    }
    let (name, port) = split_port(host);
    // A fully qualified name is the same host.
    let name = name.strip_suffix('.').unwrap_or(name);
    let port = port.trim_start_matches('0');
    let host: Cow<'_, str> = match () {
        () if port.is_empty() || port == scheme.default_port() => name.into(),
        () if host.len() == name.len() + 1 + port.len() => host.into(),
        () => format!("{name}:{port}").into(),
    };
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host }
}

/// Splits a host from its port, which is empty when it has none. The colons of an IPv6 address stand in brackets.
pub fn split_port(host: &str) -> (&str, &str) {
    let is_port = |(name, port): &(&str, &str)| {
        port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']'))
    };
    host.rsplit_once(':').filter(is_port).unwrap_or((host, ""))
}

/// Decodes what never needed encoding, encodes what always does, and writes the rest in upper case (RFC 3986
/// sections 6.2.2.1 and 6.2.2.2; RFC 3987 section 3.1 for text outside ASCII).
pub fn normal_encoding(text: &str) -> Cow<'_, str> {
    if is_normal(text) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match (c, encoded(rest.as_bytes())) {
            (_, Some(byte)) if is_unreserved(byte) => {
                out.push(byte.into());
                3
            }
            (_, Some(_)) => {
                out.push_str(&rest[..3].to_ascii_uppercase());
                3
            }
            // A stray percent sign is data.
            _ if c.is_ascii() => {
                out.push(c);
                1
            }
            _ => {
                rest[..c.len_utf8()].bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out.into()
}

/// Whether a text is in normal spelling already, as nearly all are.
fn is_normal(text: &str) -> bool {
    let is_as_it_should_be = |at: usize| match encoded(&text.as_bytes()[at..]) {
        Some(byte) => {
            !is_unreserved(byte) && !text.as_bytes()[at + 1..at + 3].iter().any(u8::is_ascii_lowercase)
        }
        None => true,
    };
    let Some(first) = text::find(text.as_bytes(), b'%') else { return text.is_ascii() };
    text.is_ascii() && memchr_iter(b'%', &text.as_bytes()[first..]).all(|at| is_as_it_should_be(first + at))
}

/// Whether a byte never needs encoding (RFC 3986 section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The bytes that a text stands for once everything is decoded.
pub fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    out.extend(decoded_bytes(text.as_bytes()));
    out
}

fn decoded_bytes(mut text: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let byte = encoded(text);
        let (first, _) = text.split_first()?;
        text = &text[if byte.is_some() { 3 } else { 1 }..];
        Some(byte.unwrap_or(*first))
    })
}

/// The byte that a text begins with the encoding of, if it does.
fn encoded(text: &[u8]) -> Option<u8> {
    // One by one: `from_str_radix` would accept a sign.
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match text {
        [b'%', high, low, ..] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::Patterns;
    use proptest::prelude::*;

    fn policy(exclude: &[&str], sort: bool) -> QueryPolicy {
        QueryPolicy {
            include: Patterns::default(),
            exclude: Patterns::new(exclude).unwrap(),
            forward_excluded: false,
            sort,
        }
    }

    #[test]
    fn one_page_has_one_spelling() {
        for (given, normal) in [
            ("/%7euser", "/~user"),
            ("/%7Euser", "/~user"),
            ("/a%2fb", "/a%2Fb"),
            ("/%", "/%"),
            ("/%+1", "/%+1"),
            ("/%zz%41", "/%zzA"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/100%", "/100%"),
            ("/é%41", "/%C3%A9A"),
            ("/%é", "/%%C3%A9"),
        ] {
            assert_eq!(Target::new(Scheme::Http, "h", given).path, normal, "{given}");
        }
    }

    #[test]
    fn hosts_lose_case_and_default_port() {
        for (scheme, given, normal) in [
            (Scheme::Http, "Example.COM:80", "example.com"),
            (Scheme::Http, "example.com:443", "example.com:443"),
            (Scheme::Https, "example.com:443", "example.com"),
            (Scheme::Http, "example.com:8080", "example.com:8080"),
            (Scheme::Http, "[::1]:80", "[::1]"),
            (Scheme::Http, "", ""),
            (Scheme::Http, "example.com.", "example.com"),
            (Scheme::Http, "example.com.:80", "example.com"),
        ] {
            assert_eq!(normal_host(scheme, given), normal, "{given}");
        }
    }

    #[test]
    fn what_is_no_host_is_told_apart() {
        for (host, expected) in [
            ("shop.example:8080", true),
            ("[::1]:80", true),
            ("", true),
            (":80", false),
            ("\u{a0}shop", false),
            ("shop\u{3000}", false),
            ("shop/x", false),
            ("a b", false),
        ] {
            assert_eq!(is_host(host.as_bytes()), expected, "{host}");
        }
    }

    #[test]
    fn paths_that_climb_are_ambiguous() {
        for (path, expected) in [
            ("/static/../account", true),
            ("/static/%2e%2e/account", true),
            ("/static/..%2faccount", true),
            ("/static/..%5Caccount", true),
            ("/static/..;a=b/account", true),
            ("/static/..", true),
            ("/./a", true),
            ("/static\\..\\account", true),
            ("/static/..hidden", false),
            ("/a..b/c.", false),
            ("/.well-known/x", false),
        ] {
            assert_eq!(Target::new(Scheme::Http, "h", path).is_ambiguous(), expected, "{path}");
        }
    }

    #[test]
    fn the_query_keeps_what_matters() {
        let campaign = policy(&["utm_*", "gclid"], true);
        for (given, key, upstream) in [
            ("/", None, None),
            ("/?", None, None),
            ("/?&&", None, None),
            ("/?utm_source=x", None, None),
            ("/?%75tm_source=x", None, None),
            ("/?b=2&a=1", Some("a=1&b=2"), Some("b=2&a=1")),
            ("/?b=2&gclid=7&a=1", Some("a=1&b=2"), Some("b=2&a=1")),
            ("/?a=2&a=1", Some("a=2&a=1"), Some("a=2&a=1")),
            ("/?a[]=2&a%5B%5D=1", Some("a[]=2&a%5B%5D=1"), Some("a[]=2&a%5B%5D=1")),
            ("/?a%5b%5d=1&a[]=2", Some("a%5B%5D=1&a[]=2"), Some("a%5b%5d=1&a[]=2")),
            ("/?q=a%2fb", Some("q=a%2Fb"), Some("q=a%2fb")),
            ("/?a", Some("a"), Some("a")),
            ("/?x?y", Some("x?y"), Some("x?y")),
        ] {
            let target = Target::new(Scheme::Http, "h", given);
            assert_eq!(target.key_query(&campaign).as_deref(), key, "{given}");
            assert_eq!(target.upstream_query(&campaign).as_deref(), upstream, "{given}");
        }
        let target = Target::new(Scheme::Http, "h", "/?b=2&gclid=7&a=1&page=3");
        let forwarding = QueryPolicy { forward_excluded: true, ..campaign };
        assert_eq!(target.key_query(&forwarding).as_deref(), Some("a=1&b=2&page=3"));
        assert_eq!(target.upstream_query(&forwarding).as_deref(), target.query);
        assert_eq!(target.unkeyed_parameters(&forwarding).collect::<Vec<_>>(), ["gclid=7"]);
        let include = Patterns::new(&["a", "page", "gclid"]).unwrap();
        let listed = QueryPolicy { include, ..policy(&["gclid"], true) };
        assert_eq!(target.key_query(&listed).as_deref(), Some("a=1&page=3"));
        assert_eq!(target.upstream_query(&listed).as_deref(), Some("a=1&page=3"));
        let as_sent = policy(&[], false);
        assert_eq!(Target::new(Scheme::Http, "h", "/?b&a").key_query(&as_sent).as_deref(), Some("b&a"));
    }

    /// What the functions below were before they had to do without allocations: the plain reading of what they promise.
    mod plainly {
        use super::*;

        pub fn is_ambiguous(path: &str) -> bool {
            let path = path.to_ascii_lowercase().replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
            path.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
        }

        pub fn key_query(query: &str, policy: &QueryPolicy) -> Option<String> {
            let mut kept: Vec<String> = query
                .split('&')
                .filter(|parameter| !parameter.is_empty())
                .map(normal_encoding)
                .filter(|parameter| policy.keeps(parameter_name(parameter)))
                .collect();
            if policy.sort {
                kept.sort_by_cached_key(|parameter| decoded(parameter_name(parameter)));
            }
            (!kept.is_empty()).then(|| kept.join("&"))
        }

        pub fn normal_encoding(text: &str) -> String {
            let bytes = text.as_bytes();
            let (mut out, mut at) = (String::new(), 0);
            while at < bytes.len() {
                let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
                let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                match digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()) {
                    Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                        out.push(byte.into())
                    }
                    Some(byte) => out.push_str(&format!("%{byte:02X}")),
                    None if bytes[at].is_ascii() => out.push(bytes[at].into()),
                    None => out.push_str(&format!("%{:02X}", bytes[at])),
                }
                at += if digits.is_some() { 3 } else { 1 };
            }
            out
        }

        pub fn decoded(text: &str) -> Vec<u8> {
            let mut out = Vec::new();
            let mut rest = text.as_bytes();
            while let Some((first, more)) = rest.split_first() {
                let digits = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let digits = digits.filter(|d| *first == b'%' && d.bytes().all(|b| b.is_ascii_hexdigit()));
                out.push(digits.map_or(*first, |digits| u8::from_str_radix(digits, 16).unwrap()));
                rest = if digits.is_some() { &more[2..] } else { more };
            }
            out
        }
    }

    proptest! {
        #[test]
        fn paths_are_ambiguous_as_their_segments_say(
            path in "(/|\\\\|\\.|;|a|%|2|%2[fF]|%5[cC]|%2[eE]|%25|é){0,12}",
        ) {
            let plain = plainly::is_ambiguous(&normal_encoding(&path));
            prop_assert_eq!(Target::new(Scheme::Http, "h", &path).is_ambiguous(), plain);
            let as_it_is = Target { path: path.as_str().into(), ..Target::new(Scheme::Http, "h", "") };
            prop_assert_eq!(as_it_is.is_ambiguous(), plainly::is_ambiguous(&path));
        }

        #[test]
        fn the_query_is_spelled_as_a_plain_reading_of_it(
            query in "(a|b|c|é|%|=|%5[bB]|%61|%C3|%c3|%2[bB]|&){0,40}",
            sort in any::<bool>(),
        ) {
            let policy = policy(&["c*", "ba"], sort);
            let text = format!("/?{query}");
            let target = Target::new(Scheme::Http, "h", &text);
            let plain = plainly::key_query(&query, &policy);
            prop_assert_eq!(target.key_query(&policy), plain.clone());
            let mut written = b"before".to_vec();
            target.write_key_query(&policy, &mut written);
            let expected = format!("before{}", plain.map(|query| format!("?{query}")).unwrap_or_default());
            prop_assert_eq!(String::from_utf8(written).unwrap(), expected);
        }

        #[test]
        fn text_is_spelled_and_read_as_a_plain_reading_of_it(text in "(a|Z|é|\u{20ac}|%|[0-9a-fA-F]|%[0-9a-fA-F]{2}|[+~ -]){0,24}") {
            prop_assert_eq!(normal_encoding(&text), plainly::normal_encoding(&text));
            prop_assert_eq!(decoded(&text), plainly::decoded(&text));
        }

        #[test]
        fn normalising_twice_changes_nothing_more(
            parts in proptest::collection::vec("[/a-zA-Z0-9~é.?&=]{0,4}(%[013-9a-fA-F][0-9a-fA-F])?", 0..8),
        ) {
            // `%25` is left out: what it encodes is a percent sign, and `%2541` must not become `A`.
            let once = normal_encoding(&parts.concat()).into_owned();
            prop_assert_eq!(normal_encoding(&once), once.as_str());
        }

        #[test]
        fn an_encoded_percent_sign_is_never_decoded(text in "[a-z%0-9]{0,20}") {
            let encoded = text.replace('%', "%25");
            prop_assert_eq!(normal_encoding(&encoded), encoded.as_str());
        }

        #[test]
        fn sorting_makes_the_order_of_parameters_irrelevant(mut names in proptest::collection::hash_set("[a-z]{1,3}", 1..6)) {
            let given: Vec<String> = names.drain().map(|n| format!("{n}=1")).collect();
            let reversed: Vec<String> = given.iter().rev().cloned().collect();
            let (given, reversed) = (format!("/?{}", given.join("&")), format!("/?{}", reversed.join("&")));
            let sorted = policy(&[], true);
            prop_assert_eq!(
                Target::new(Scheme::Http, "h", &given).key_query(&sorted),
                Target::new(Scheme::Http, "h", &reversed).key_query(&sorted)
            );
        }
    }
}
