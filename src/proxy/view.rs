//! Pingora's heads, lent to the rules.

use std::net::{IpAddr, Ipv4Addr};

use http::uri::Authority;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;

use crate::rules::forwarding::{self, Client, Trust};
use crate::rules::head::{Field, Fields, Names};
use crate::rules::request::{Envelope, Received};
use crate::rules::target::Scheme;

/// A request head of Pingora's as the rules see it.
pub fn received<'a>(request: &'a RequestHeader, client: &Client) -> Received<'a> {
    Received::new(request.method.as_str(), path_and_query(request), envelope(request, client))
}

/// All of it but method and target.
pub fn envelope<'a>(request: &'a RequestHeader, client: &Client) -> Envelope<'a> {
    Envelope::new(request.uri.authority().map(Authority::as_str), request_fields(request), client)
}

/// The target without its authority.
pub fn path_and_query(request: &RequestHeader) -> &str {
    request.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Whether a request has content of which no field tells: by HTTP/2 that is told by its frames.
pub fn has_unannounced_body(session: &ServerSession) -> bool {
    session.as_http2().is_some_and(|http2| !http2.is_body_empty())
}

/// The field lines as received.
pub fn request_fields(request: &RequestHeader) -> Vec<Field<'_>> {
    request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// Identifies the client of a session.
pub fn client(session: &ServerSession, trust: &Trust) -> Client {
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let fields = request_fields(session.req_header());
    let has_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    let scheme = if has_tls { Scheme::Https } else { Scheme::Http };
    forwarding::identify(peer, scheme, trust, Fields::new(&fields))
}

/// The fields of a response, with their names as the origin wrote them.
pub fn response_fields(response: &ResponseHeader) -> Vec<Field<'_>> {
    if !response.has_case() {
        // By HTTP/2 they are in lower case.
        return response.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    }
    let fields = response.case_header_iter();
    fields
        .filter_map(|(name, value)| Some((str::from_utf8(name.as_slice()).ok()?, value.as_bytes())))
        .collect()
}

/// The lines of one field of a response.
pub fn lines_of<'r>(response: &'r ResponseHeader, name: &'static str) -> Vec<Field<'r>> {
    response.headers.get_all(name).iter().map(|value| (name, value.as_bytes())).collect()
}

/// The names that may be among the fields of a response.
pub fn names(response: &ResponseHeader) -> Names {
    let mut names = Names::default();
    response.headers.keys().for_each(|name| names.add(name.as_str()));
    names
}
