//! Pingora's heads, lent to the rules.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use crate::rules::forwarding::{self, Client, is_believed};
use crate::rules::head::{Field, Fields, RequestHead};
use crate::rules::hop;
use crate::rules::target::{Scheme, Target, is_host};

const FORWARDED_HOST: &str = "x-forwarded-host";

/// A request head as the rules see it.
pub struct View<'a> {
    request: &'a RequestHeader,
    scheme: Scheme,
    fields: Vec<Field<'a>>,
    /// Of a trusted proxy.
    believed: Vec<Field<'a>>,
}

impl<'a> View<'a> {
    /// Lends `request`, which `client` sent.
    pub fn new(request: &'a RequestHeader, client: &Client) -> Self {
        let fields = hop::end_to_end(&request_fields(request));
        let mut view = Self { request, scheme: client.scheme, fields, believed: Vec::new() };
        if client.via_trusted {
            view.believe();
        }
        view
    }

    /// Takes over what a trusted proxy says, where it says more than the request itself.
    fn believe(&mut self) {
        let own = self.own_host();
        let says_more = |(name, value): &&Field<'a>| {
            is_believed(name) && !(*name == FORWARDED_HOST && *value == own.as_bytes())
        };
        self.believed = self.fields.iter().filter(says_more).copied().collect();
        if self.host() != own {
            // The origin is sent both.
            self.believed.push(("host", own.as_bytes()));
        }
    }

    /// The version in which the request came.
    pub fn version(&self) -> http::Version {
        self.request.version
    }

    /// The method as sent.
    pub fn method(&self) -> &'a str {
        self.request.method.as_str()
    }

    /// The host that the page is of: what a trusted proxy says that its client asked for, else the request's own.
    pub fn host(&self) -> &'a str {
        let forwarded = self.believed.iter().rev().find(|(name, _)| *name == FORWARDED_HOST);
        // The last of several is what the nearest proxy says.
        let host = forwarded.and_then(|(_, hosts)| std::str::from_utf8(hosts).ok()?.rsplit(',').next());
        host.map_or_else(|| self.own_host(), str::trim)
    }

    /// Where the request itself is aimed at: the authority of an absolute target wins over `Host` (RFC 9112 section
    /// 3.2.2).
    pub fn own_host(&self) -> &'a str {
        match self.request.uri.authority() {
            Some(authority) => authority.as_str(),
            None => self
                .fields
                .iter()
                .find(|(name, _)| *name == "host")
                .and_then(|(_, value)| std::str::from_utf8(value).ok())
                .unwrap_or_default(),
        }
    }

    /// Whether the client named a host that is one.
    pub fn has_valid_host(&self) -> bool {
        let is_text = |value: &[u8]| std::str::from_utf8(value).is_ok();
        let own = self.fields.iter().filter(|(name, _)| *name == "host");
        let mut named = own.chain(self.believed.iter().filter(|(name, _)| *name == FORWARDED_HOST));
        let names_none = self.host().is_empty() && !self.own_host().is_empty();
        named.all(|(_, value)| is_text(value))
            && is_host(self.own_host())
            && is_host(self.host())
            && !names_none
    }

    /// The target in origin form; `/` for an absolute one without a path.
    pub fn path_and_query(&self) -> &'a str {
        self.request.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// The field lines.
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.fields)
    }

    /// The head for the rules.
    pub fn head(&self) -> RequestHead<'_> {
        let fields = self.fields();
        let has_length = fields.text("content-length").is_some_and(|length| length.trim() != "0");
        RequestHead {
            method: self.method(),
            target: Target::new(self.scheme, self.host(), self.path_and_query()),
            fields,
            has_body: has_length || fields.has("transfer-encoding"),
            believed: &self.believed,
        }
    }
}

/// The field lines as received.
pub fn request_fields(request: &RequestHeader) -> Vec<Field<'_>> {
    request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// Identifies the client of a session.
pub fn client(session: &Session, trusted: &[IpNet]) -> Client {
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let fields = request_fields(session.req_header());
    forwarding::identify(peer, Scheme::Http, trusted, Fields(&fields))
}

/// The fields of a response, with their names as the origin wrote them.
pub fn response_fields(response: &ResponseHeader) -> Vec<(String, Vec<u8>)> {
    use pingora::http::HeaderNameVariant;
    let mut fields = Vec::with_capacity(response.headers.len());
    let collected = response.map(|name, value| {
        let name = match name {
            HeaderNameVariant::Case(name) => String::from_utf8_lossy(name.as_slice()).into_owned(),
            HeaderNameVariant::Titled(name) => name.to_owned(),
        };
        fields.push((name, value.as_bytes().to_vec()));
        Ok(())
    });
    debug_assert!(collected.is_ok(), "the closure has no error");
    fields
}

/// Lends owned fields to the rules.
pub fn lend(fields: &[(String, Vec<u8>)]) -> Vec<Field<'_>> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
}
