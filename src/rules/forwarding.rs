//! Who the client is, and what of a request's forwarding fields the origin may see.
//!
//! Anyone can write `X-Forwarded-Host: evil`. If the origin builds links from it and the page is stored, everyone
//! gets them. So what an untrusted client claims is dropped, and parvis writes these fields itself.

use std::net::IpAddr;
use std::ops::Deref;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::forwarded;
use super::head::Fields;
use super::target::Scheme;

/// The client as far as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address of the connection itself.
    pub peer: IpAddr,
    /// Its address: of the connection, or the first untrusted one from the right of what trusted proxies tell.
    pub address: IpAddr,
    /// The scheme it used.
    pub scheme: Scheme,
    /// By which fields the connection's other end tells of it, if that is a trusted proxy.
    pub told_by: Option<ToldBy>,
}

/// The fields by which trusted proxies tell of their clients. Those of the other kind may be the client's own invention, which a
/// proxy that does not write them hands on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToldBy {
    /// `X-Forwarded-For` and its kin, and what names the visitor.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239), and nothing else.
    Forwarded,
}

/// Who is believed about its clients, and by what.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Its networks.
    pub networks: Vec<IpNet>,
    /// The fields.
    pub by: ToldBy,
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
pub fn identify(peer: IpAddr, scheme: Scheme, trust: &Trust, request: Fields<'_>) -> Client {
    let peer = peer.to_canonical();
    if !is_among(peer, &trust.networks) {
        return Client { peer, address: peer, scheme, told_by: None };
    }
    let told = Told::by(trust.by, request);
    let (address, _) = told.follow_hops(peer, &trust.networks);
    let scheme = match told.proto {
        Some(proto) if proto.eq_ignore_ascii_case("https") => Scheme::Https,
        Some(proto) if proto.eq_ignore_ascii_case("http") => Scheme::Http,
        _ => scheme,
    };
    Client { peer, address, scheme, told_by: Some(trust.by) }
}

/// The address that a request comes from, if that is among the `allowed`; `None` also when it was forwarded by someone who
/// is not trusted, or who does not say for whom. `request` are the fields received, be they nominated by `Connection` or not.
pub fn sender_among(allowed: &[IpNet], peer: IpAddr, trust: &Trust, request: Fields<'_>) -> Option<IpAddr> {
    sender(peer, trust, request).filter(|address| is_among(*address, allowed))
}

fn sender(peer: IpAddr, trust: &Trust, request: Fields<'_>) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    let told = Told::by(trust.by, request);
    if !is_among(peer, &trust.networks) || (told.is_readable && told.hops.is_empty()) {
        return (!is_forwarded(request)).then_some(peer);
    }
    let (address, was_read) = told.follow_hops(peer, &trust.networks);
    (told.is_readable && was_read).then_some(address)
}

fn is_among(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// What is told of a request by fields of one kind.
pub struct Told<'a> {
    /// Who has sent it, from the client on; as many as there are as a rule need no allocation.
    pub hops: SmallVec<[&'a str; 8]>,
    /// By which scheme the nearest proxy was asked.
    proto: Option<&'a str>,
    /// Whether all of it can be read.
    is_readable: bool,
}

impl<'a> Told<'a> {
    /// What these fields tell.
    pub fn by(by: ToldBy, request: Fields<'a>) -> Self {
        match by {
            ToldBy::XForwarded => Self {
                hops: request.list("x-forwarded-for").collect(),
                proto: request.list("x-forwarded-proto").next_back(),
                is_readable: request.all("x-forwarded-for").all(|line| std::str::from_utf8(line).is_ok()),
            },
            ToldBy::Forwarded => {
                let elements = forwarded::elements(request.all("forwarded"));
                let is_readable = elements.is_some();
                let elements = elements.unwrap_or_default();
                let nearest = elements.last().copied().unwrap_or_default();
                let hops =
                    elements.iter().map(|element| element.node.map_or("unknown", without_port)).collect();
                Self { hops, proto: nearest.proto, is_readable }
            }
        }
    }

    /// The first address from the right that is not trusted, or how far it can be read, and whether all up to it could.
    fn follow_hops(&self, peer: IpAddr, trusted: &[IpNet]) -> (IpAddr, bool) {
        let mut address = peer;
        for hop in self.hops.iter().rev() {
            // What cannot be read ends what can be known.
            let Some(hop) = hop_address(hop) else { return (address, false) };
            address = hop.to_canonical();
            if !is_among(address, trusted) {
                break;
            }
        }
        (address, true)
    }
}

/// Whether a request says that somebody else has sent it on.
fn is_forwarded(request: Fields<'_>) -> bool {
    // That is a field of FOSHttpCache's.
    let says_so =
        |name: &str| name.eq_ignore_ascii_case("via") || (is_claim(name) && *folded(name) != *"x-host");
    request.lines().iter().any(|(name, _)| says_so(name))
}

/// A node of `Forwarded` as a hop of `X-Forwarded-For`.
fn without_port(node: &str) -> &str {
    match node.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(node, |(address, _)| address),
        None => node.split_once(':').map_or(node, |(address, _)| address),
    }
}

/// One hop, which may have its port.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(by: ToldBy) -> Trust {
        Trust { networks: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()], by }
    }

    fn client(peer: &str, fields: &[(&str, &str)]) -> (String, Scheme) {
        let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        let client =
            identify(peer.parse().unwrap(), Scheme::Http, &trust(ToldBy::XForwarded), Fields::new(&fields));
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
        let known = |peer: &str, fields: &[(&str, &[u8])]| {
            let sender = sender(peer.parse().unwrap(), &trust(ToldBy::XForwarded), Fields::new(fields));
            sender.map(|address| address.to_string())
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
        let networks = trust(ToldBy::XForwarded).networks;
        let allowed = |peer: &str| {
            sender_among(&networks, peer.parse().unwrap(), &Trust::default(), Fields::default()).is_some()
        };
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

    #[test]
    fn forwarded_is_believed_only_where_the_proxies_write_it() {
        let known = |by: ToldBy, fields: &[(&str, &str)]| {
            let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
            let client =
                identify("10.0.0.1".parse().unwrap(), Scheme::Http, &trust(by), Fields::new(&fields));
            (client.address.to_string(), client.scheme)
        };
        let both = [
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=\"192.0.2.2:99\";proto=https, for=10.1.1.1;proto=https"),
        ];
        assert_eq!(known(ToldBy::XForwarded, &both), ("192.0.2.1".into(), Scheme::Http));
        assert_eq!(known(ToldBy::Forwarded, &both), ("192.0.2.2".into(), Scheme::Https));
        for (value, expected) in [
            ("for=192.0.2.3, for=_hidden", "10.0.0.1"),
            ("for=192.0.2.3, proto=https", "10.0.0.1"),
            ("for=192.0.2.3, for=\"", "10.0.0.1"),
            ("for=1.1.1.1, for=192.0.2.3", "192.0.2.3"),
            ("for=\"[2001:db8::1]\"", "2001:db8::1"),
        ] {
            assert_eq!(known(ToldBy::Forwarded, &[("forwarded", value)]).0, expected, "{value}");
        }
        let sender = |value: &str| {
            sender(
                "10.0.0.1".parse().unwrap(),
                &trust(ToldBy::Forwarded),
                Fields::new(&[("forwarded", value.as_bytes())]),
            )
        };
        assert_eq!(sender("for=192.0.2.3"), Some("192.0.2.3".parse().unwrap()));
        assert_eq!((sender("for=_hidden"), sender("for=\""), sender("proto=https")), (None, None, None));
    }
}
