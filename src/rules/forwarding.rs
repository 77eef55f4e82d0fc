//! Who the client is, and what of a request's forwarding fields the origin may see.
//!
//! Anyone can write `X-Forwarded-Host: evil`. If the origin builds links from it and the page is stored, everyone
//! gets them. So what an untrusted client claims is dropped, and parvis writes these fields itself.

use std::net::IpAddr;
use std::ops::Deref;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::head::Fields;
use super::target::Scheme;

/// The client as far as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address of the connection itself.
    pub peer: IpAddr,
    /// Its address: of the connection, or the first untrusted one from the right of `X-Forwarded-For`.
    pub address: IpAddr,
    /// The scheme it used.
    pub scheme: Scheme,
    /// Whether the connection comes from a trusted proxy.
    pub via_trusted: bool,
}

/// Fields by which a proxy tells the origin about the client or rewrites the request, besides the families that
/// [`is_claim`] knows; believed only from a trusted proxy.
const CLAIMS: &[&str] = &[
    "base-url",
    "cf-ipcountry",
    "cookie2",
    "forwarded",
    "front-end-https",
    "proxy",
    "script-name",
    "x-country-code",
    "x-host",
    "x-http-destinationurl",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-middleware-subrequest",
    "x-path-override",
    "x-real-ip",
    "x-scheme",
    "x-ssl",
    "x-url-scheme",
];

/// Whether a claim of a trusted proxy is part of the page: the origin builds links from it, or it names the visitor.
pub fn is_believed(name: &str) -> bool {
    let is = |other: &&str| name.eq_ignore_ascii_case(other);
    ["x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"].iter().any(is) || names_a_person(name)
}

/// Whether a claim, in lower case, says who the visitor is.
pub fn names_a_person(name: &str) -> bool {
    let name: &str = &folded(name);
    let says = |word: &str| name.starts_with("x-forwarded-") && name.contains(word);
    ["user", "email", "groups", "access-token"].into_iter().any(says)
        || ["remote-user", "authenticated-user", "webauth-user"].iter().any(|family| name.ends_with(family))
}

/// Whether a field claims something about the client, its request or its identity that only a proxy may say.
///
/// An underscore counts as a hyphen: to a WSGI or CGI application both are one variable.
pub fn is_claim(name: &str) -> bool {
    let name: &str = &folded(name);
    CLAIMS.contains(&name)
        || ["ssl-client-", "x-forwarded-", "x-original-", "x-rewrite-", "x-invoke-", "x-ssl-"]
            .iter()
            .any(|family| name.starts_with(family))
        || [
            "client-ip",
            "connecting-ip",
            "originating-ip",
            "remote-ip",
            "remote-user",
            "remote-addr",
            "authenticated-user",
            "webauth-user",
        ]
        .iter()
        .any(|family| name.ends_with(family))
}

/// A field's name as a WSGI or CGI application sees it, but for its case.
pub fn folded(name: &str) -> Folded {
    let mut folded = SmallVec::from_slice(name.as_bytes());
    folded.make_ascii_lowercase();
    folded.iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
    Folded(folded)
}

/// A folded name; usual ones need no allocation.
pub struct Folded(SmallVec<[u8; 64]>);

impl Deref for Folded {
    type Target = str;

    fn deref(&self) -> &str {
        // It was text, and only ASCII has changed.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Not sent with a fetch for the store, or written by parvis itself: conditions, ranges, content, codings. So they
/// select no variant either. Of cookies [`super::cookies`] knows which are sent.
pub const NOT_FETCHED_WITH: &[&str] = &[
    "accept-encoding",
    "cache-control",
    "content-length",
    "content-type",
    "expect",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
    "x-request-id",
];

/// By these a framework's router asks for a fragment of a page, or for its data, under the page's own URL; few origins vary
/// by them.
pub const FRAGMENT_FIELDS: &[&str] = &[
    "hx-request",
    "next-router-state-tree",
    "rsc",
    "turbo-frame",
    "x-inertia",
    "x-middleware-prefetch",
    "x-nextjs-data",
    "x-pjax",
];

/// Identifies the client of a connection from `peer` over `scheme`.
pub fn identify(peer: IpAddr, scheme: Scheme, trusted: &[IpNet], request: Fields<'_>) -> Client {
    let peer = peer.to_canonical();
    if !is_among(peer, trusted) {
        return Client { peer, address: peer, scheme, via_trusted: false };
    }
    let (address, _) = follow_hops(peer, trusted, request);
    let scheme = match request.list("x-forwarded-proto").next_back() {
        Some(proto) if proto.eq_ignore_ascii_case("https") => Scheme::Https,
        Some(proto) if proto.eq_ignore_ascii_case("http") => Scheme::Http,
        _ => scheme,
    };
    Client { peer, address, scheme, via_trusted: true }
}

/// The address that a request comes from, if that is among the `allowed`; `None` also when it was forwarded by someone who
/// is not trusted, or who does not say for whom. `request` are the fields received, be they nominated by `Connection` or not.
pub fn sender_among(
    allowed: &[IpNet],
    peer: IpAddr,
    trusted: &[IpNet],
    request: Fields<'_>,
) -> Option<IpAddr> {
    sender(peer, trusted, request).filter(|address| is_among(*address, allowed))
}

fn sender(peer: IpAddr, trusted: &[IpNet], request: Fields<'_>) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    if !is_among(peer, trusted) || request.list("x-forwarded-for").next().is_none() {
        return (!is_forwarded(request)).then_some(peer);
    }
    let is_text = request.all("x-forwarded-for").all(|line| std::str::from_utf8(line).is_ok());
    let (address, was_read) = follow_hops(peer, trusted, request);
    (is_text && was_read).then_some(address)
}

fn is_among(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// The first address from the right of `X-Forwarded-For` that is not trusted, or how far it can be read, and whether all
/// up to it could.
fn follow_hops(peer: IpAddr, trusted: &[IpNet], request: Fields<'_>) -> (IpAddr, bool) {
    let mut address = peer;
    for hop in request.list("x-forwarded-for").rev() {
        // What cannot be read ends what can be known.
        let Some(hop) = hop_address(hop) else { return (address, false) };
        address = hop.to_canonical();
        if !is_among(address, trusted) {
            break;
        }
    }
    (address, true)
}

/// Whether a request says that somebody else has sent it on.
fn is_forwarded(request: Fields<'_>) -> bool {
    // That is a field of FOSHttpCache's.
    let says_so =
        |name: &str| name.eq_ignore_ascii_case("via") || (is_claim(name) && *folded(name) != *"x-host");
    request.lines().iter().any(|(name, _)| says_so(name))
}

/// One hop of `X-Forwarded-For`, which some proxies write with its port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, fields: &[(&str, &str)]) -> (String, Scheme) {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        let client = identify(peer.parse().unwrap(), Scheme::Http, &trusted, Fields::new(&fields));
        (client.address.to_string(), client.scheme)
    }

    #[test]
    fn a_stranger_cannot_name_its_address_or_scheme() {
        let claims = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")];
        assert_eq!(client("192.0.2.1", &claims), ("192.0.2.1".into(), Scheme::Http));
        assert_eq!(client("::ffff:192.0.2.1", &[]), ("192.0.2.1".into(), Scheme::Http));
    }

    #[test]
    fn where_a_request_comes_from_is_known_only_if_nobody_hides_it() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let known = |peer: &str, fields: &[(&str, &[u8])]| {
            sender(peer.parse().unwrap(), &trusted, Fields::new(fields)).map(|address| address.to_string())
        };
        let stranger = "192.0.2.1";
        assert_eq!(known(stranger, &[("X-Host", b".*"), ("Host", b"shop")]).as_deref(), Some(stranger));
        for name in
            ["X-Forwarded-For", "X_Forwarded_For", "X-Forwarded-Proto", "Forwarded", "Via", "X-Client-IP"]
        {
            assert_eq!(known(stranger, &[(name, b"127.0.0.1")]), None, "{name}");
        }
        let proxy = "10.0.0.1";
        assert_eq!(known(proxy, &[]).as_deref(), Some(proxy));
        for (hops, expected) in [
            ("192.0.2.9", Some("192.0.2.9")),
            ("192.0.2.9, 10.0.0.2", Some("192.0.2.9")),
            ("192.0.2.9:5555", Some("192.0.2.9")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("unknown", None),
            ("192.0.2.9, unknown, 10.0.0.2", None),
            ("", None),
        ] {
            assert_eq!(known(proxy, &[("x-forwarded-for", hops.as_bytes())]).as_deref(), expected, "{hops}");
        }
        assert_eq!(known(proxy, &[("x-forwarded-for", b"10.0.0.2, \xff")]), None);
        assert_eq!(known(proxy, &[("X-Real-IP", b"192.0.2.9")]), None, "only X-Forwarded-For is believed");
        let allowed =
            |peer: &str| sender_among(&trusted, peer.parse().unwrap(), &[], Fields::default()).is_some();
        assert!(allowed(proxy) && allowed("::ffff:10.0.0.1") && !allowed(stranger));
    }

    #[test]
    fn claims_are_known_in_any_spelling() {
        for name in [
            "X_Forwarded_Host",
            "x-forwarded-user",
            "X-Original-URI",
            "True-Client-IP",
            "REMOTE_USER",
            "Script-Name",
            "Proxy",
            "SSL_CLIENT_CERT",
        ] {
            assert!(is_claim(name), "{name}");
        }
        for (name, believed, person) in [
            ("x-forwarded-host", true, false),
            ("x-forwarded-preferred-username", true, true),
            ("x-forwarded-email", true, true),
            ("x-remote-user", true, true),
            ("x-forwarded-for", false, false),
            ("x-original-url", false, false),
        ] {
            assert_eq!((is_believed(name), names_a_person(name)), (believed, person), "{name}");
        }
        for name in ["accept", "x-requested-with", "user-agent", "x-csrftoken", "host"] {
            assert!(!is_claim(name), "{name}");
        }
    }

    #[test]
    fn a_chain_is_followed_through_trusted_hops_only() {
        for (chain, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("1.1.1.1, 192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("evil, 10.0.0.2", "10.0.0.2"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", chain)]).0, expected, "{chain}");
        }
        let lines = [("x-forwarded-for", "1.1.1.1"), ("X-Forwarded-For", "192.0.2.9")];
        assert_eq!(client("10.0.0.1", &lines).0, "192.0.2.9");
        assert_eq!(client("10.0.0.1", &[("x-forwarded-proto", "HTTPS")]).1, Scheme::Https);
        assert_eq!(client("10.0.0.1", &[("x-forwarded-proto", "gopher")]).1, Scheme::Http);
    }
}
