//! The head that the origin is sent, and what is refused of the head that it answers with.

use http::{Uri, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, OrErr, Result};

use super::context::Context;
use super::encode;
use super::view;
use crate::config::upstream::Protocol;
use crate::rules::cookies::{self, Role};
use crate::rules::directives::digits;
use crate::rules::encodable::with_origin_tags;
use crate::rules::forwarding::{Told, ToldBy, is_claim};
use crate::rules::head::Fields;
use crate::rules::identity::{DEVICE_FIELD, Device};
use crate::rules::outgoing::Outgoing;
use crate::rules::policy::{CachePolicy, OriginControl};
use crate::rules::request::Received;
use crate::rules::target::normal_host;
use crate::rules::validation;
use crate::store::response::StoredResponse;

/// Completes the head of a request that is passed on. `request` is Pingora's copy, already without hop-by-hop
/// fields.
pub fn for_pass(received: &RequestHeader, request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let view = view::received(received, &ctx.client);
    if received.uri.authority().is_some() {
        set_target(request, view.path_and_query())?;
        request.insert_header("host", view.own_host())?;
    }
    if passes_trailers(&view, ctx) {
        // It is about the connection (RFC 9110 section 10.1.4), and servers of gRPC insist on it.
        request.insert_header("TE", "trailers")?;
    }
    if let Some(left) = forwards_left(received) {
        request.insert_header("Max-Forwards", left.saturating_sub(1).to_string())?;
    }
    if request.headers.get_all("cookie").iter().nth(1).is_some() {
        // HTTP/2 may cut it; a server of HTTP/1 reads one line (RFC 9113 section 8.2.3).
        let lines: Vec<&[u8]> = view.fields().all("cookie").collect();
        request.insert_header("Cookie", lines.join(&b"; "[..]))?;
    }
    let peer_chain = forwarded_for(&view, ctx);
    if ctx.client.told_by != Some(ToldBy::XForwarded) {
        let claims: Vec<String> = request
            .headers
            .keys()
            .map(|name| name.as_str())
            .filter(|name| is_claim(name))
            .map(str::to_owned)
            .collect();
        for claim in claims {
            request.remove_header(claim.as_str());
        }
    }
    // Nothing that is told by it is told otherwise below, and nobody may have looked at it.
    request.remove_header("forwarded");
    name_tags_of_the_origin(request, ctx)?;
    if encode::would_encode(&view, received.version, ctx) {
        request.insert_header("Accept-Encoding", "identity")?;
    }
    request.insert_header("X-Forwarded-For", peer_chain)?;
    if !request.headers.contains_key("x-forwarded-proto") {
        request.insert_header("X-Forwarded-Proto", ctx.client.scheme.as_str())?;
    }
    if !request.headers.contains_key("x-forwarded-host") && !view.host().is_empty() {
        request.insert_header("X-Forwarded-Host", view.host())?;
    }
    if ctx.route.as_ref().is_some_and(|route| route.cache.identity.device) {
        request.insert_header(DEVICE_FIELD, Device::of(view.fields()).as_str())?;
    }
    request.insert_header("X-Request-ID", ctx.outcome.request_id.as_str())?;
    request.append_header("Via", via(ctx.version))?;
    as_the_operator_wants(request, ctx)
}

/// Whether the client takes trailers, and both ends speak HTTP/2: only there do they pass.
fn passes_trailers(view: &Received<'_>, ctx: &Context) -> bool {
    let is_http2 = ctx.pool().is_some_and(|pool| pool.settings.protocol == Protocol::Http2);
    is_http2 && ctx.version == Version::HTTP_2 && view.fields().list("te").any(|coding| coding == "trailers")
}

/// Adds, replaces and removes what the route says: last of all, so that it has the last word.
fn as_the_operator_wants(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let Some(wanted) = ctx.route.as_ref().map(|route| &route.request_headers) else { return Ok(()) };
    for name in &wanted.remove {
        request.remove_header(name.as_str());
    }
    for (name, value) in &wanted.set {
        request.insert_header(name.clone(), value)?;
    }
    for (name, value) in &wanted.add {
        request.append_header(name.clone(), value)?;
    }
    Ok(())
}

fn finished(mut request: RequestHeader, ctx: &Context) -> Result<RequestHeader> {
    as_the_operator_wants(&mut request, ctx)?;
    Ok(request)
}

/// A client that writes on the condition that it has seen the latest state names the tag that it was given: that of an encoded
/// form, or a weak one for a body that was encoded on its way. The origin knows neither. Who reads on that condition means just
/// the form, of which the origin has none.
fn name_tags_of_the_origin(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let is_read = matches!(request.method, http::Method::GET | http::Method::HEAD);
    if is_read || ctx.route.as_ref().is_none_or(|route| route.encode.formats.is_empty()) {
        return Ok(());
    }
    let lines: Vec<Vec<u8>> =
        request.headers.get_all("if-match").iter().map(|line| line.as_bytes().to_vec()).collect();
    if lines.iter().any(|line| with_origin_tags(line).is_some()) {
        request.remove_header("if-match");
        for line in lines {
            request.append_header("If-Match", with_origin_tags(&line).unwrap_or(line))?;
        }
    }
    Ok(())
}

/// How many times more an `OPTIONS` may be forwarded, where it says (RFC 9110 section 7.6.2).
pub fn forwards_left(request: &RequestHeader) -> Option<u64> {
    let field = request.headers.get("max-forwards").filter(|_| request.method == http::Method::OPTIONS)?;
    digits(field.to_str().ok()?.trim())
}

/// This proxy's member of `Via` in a message that came in `version` (RFC 9110 section 7.6.3).
pub fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0 parvis",
        Version::HTTP_2 => "2.0 parvis",
        _ => "1.1 parvis",
    }
}

/// Refuses a body in a transfer coding that was not offered (RFC 9112 section 6.1): nobody behind this connection
/// would know how to read it. `identity`, which old servers send, is none.
pub fn settle_transfer_coding(response: &mut ResponseHeader) -> Result<()> {
    let codings: Vec<Vec<u8>> = response
        .headers
        .get_all("transfer-encoding")
        .iter()
        .map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase())
        .collect();
    match codings.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [] | [b"chunked"] => Ok(()),
        [b"identity"] => {
            response.remove_header("transfer-encoding");
            Ok(())
        }
        _ => {
            let message = "the origin used a transfer coding that was not offered";
            Error::e_explain(ErrorType::InvalidHTTPHeader, message).map_err(|error| error.into_up())
        }
    }
}

/// Refuses a switch of protocols that the client did not ask for: what follows it would be read as another response
/// (RFC 9110 section 15.2.2).
pub fn refuse_unasked_upgrade(request: &RequestHeader, response: &ResponseHeader) -> Result<()> {
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS && !request.headers.contains_key("upgrade") {
        let message = "the origin switched protocols without being asked";
        return Error::e_explain(ErrorType::InvalidHTTPHeader, message).map_err(|error| error.into_up());
    }
    Ok(())
}

/// Makes the head of a fetch for the store out of the request that caused it. `expired` is the stored response
/// that may still hold.
pub fn for_fetch(
    view: &Received<'_>,
    policy: &CachePolicy,
    expired: Option<&StoredResponse>,
    ctx: &Context,
) -> Result<RequestHeader> {
    finished(of_fetch(view, policy, expired, ctx)?, ctx)
}

fn of_fetch(
    view: &Received<'_>,
    policy: &CachePolicy,
    expired: Option<&StoredResponse>,
    ctx: &Context,
) -> Result<RequestHeader> {
    let head = view.head();
    let path = view.path_and_query().split('?').next().unwrap_or("/");
    let target = match head.target.upstream_query(&policy.query) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let outgoing = Outgoing::of(&head, policy);
    // Names are spelled one way, whoever asks: a page could repeat them.
    let mut request = RequestHeader::build_no_case("GET", target.as_bytes(), Some(outgoing.0.len() + 8))?;
    for (name, value) in &outgoing.0 {
        request.append_header((*name).to_owned(), value.as_ref())?;
    }
    // Spelled as in the key: a page may repeat it.
    let host = normal_host(head.target.scheme, view.own_host());
    if !host.is_empty() {
        request.insert_header("Host", host.as_ref())?;
        if !request.headers.contains_key("x-forwarded-host") {
            request.insert_header("X-Forwarded-Host", host.as_ref())?;
        }
    }
    // Nothing of these has been taken over.
    request.append_header("Accept-Encoding", "identity")?;
    request.append_header("X-Forwarded-For", forwarded_for(view, ctx))?;
    request.append_header("X-Forwarded-Proto", ctx.client.scheme.as_str())?;
    request.append_header("X-Request-ID", ctx.outcome.request_id.as_str())?;
    request.append_header("Via", via(ctx.version))?;
    if let Some(expired) = expired {
        let fields = expired.head.fields();
        for (name, value) in validation::conditions(Fields::new(&fields)) {
            request.insert_header(name, value)?;
        }
    }
    Ok(request)
}

/// Makes the head of a request that asks what the origin would have answered to this client with all its cookies.
pub fn for_audit(view: &Received<'_>, policy: &CachePolicy, ctx: &Context) -> Result<RequestHeader> {
    let mut request = of_fetch(view, policy, None, ctx)?;
    request.remove_header("cookie");
    for cookie in view.fields().all("cookie") {
        request.append_header("Cookie", cookie)?;
    }
    finished(request, ctx)
}

/// Makes the head of a fetch that has nothing personal of who caused it but what is in the key.
pub fn for_stranger(
    view: &Received<'_>,
    policy: &CachePolicy,
    expired: Option<&StoredResponse>,
    ctx: &Context,
) -> Result<RequestHeader> {
    finished(of_stranger(view, policy, expired, ctx)?, ctx)
}

fn of_stranger(
    view: &Received<'_>,
    policy: &CachePolicy,
    expired: Option<&StoredResponse>,
    ctx: &Context,
) -> Result<RequestHeader> {
    let mut unforwarding = policy.clone();
    unforwarding.query.forward_excluded = false;
    let mut request = of_fetch(view, &unforwarding, expired, ctx)?;
    let keyed = cookies::with_role(view.fields(), policy, Role::Keyed).map(|pair| pair.to_string());
    let keyed: Vec<String> = keyed.collect();
    request.remove_header("cookie");
    if !keyed.is_empty() {
        request.insert_header("Cookie", keyed.join("; "))?;
    }
    if !policy.identity.keys_on("authorization") {
        request.remove_header("authorization");
    }
    Ok(request)
}

/// The same without what tells browsers apart, as far as it can be left out: the address is the connection's.
pub fn for_anyone(view: &Received<'_>, policy: &CachePolicy, ctx: &Context) -> Result<RequestHeader> {
    let mut request = of_stranger(view, policy, None, ctx)?;
    if policy.identity.jwt_claim.is_some()
        && let Some(token) = view.fields().first("authorization")
    {
        // The entry is its user's.
        request.insert_header("Authorization", token)?;
    }
    let ignored = policy.ignore_vary.iter().filter(|name| *name != "cookie");
    for name in ignored.filter(|name| !policy.identity.keys_on(name)) {
        request.remove_header(name.as_str());
    }
    if policy.origin_cache_control == OriginControl::Override || policy.identity.device {
        request.insert_header("User-Agent", Device::of(view.fields()).agent())?;
    }
    finished(request, ctx)
}

/// The chain as a trusted proxy sent it, and the address of the connection; only the latter from a stranger.
fn forwarded_for(view: &Received<'_>, ctx: &Context) -> String {
    let peer = ctx.client.peer.to_string();
    let hops = ctx.client.told_by.map(|by| Told::by(by, view.fields()).hops).unwrap_or_default();
    hops.into_iter().chain([peer.as_str()]).collect::<Vec<_>>().join(", ")
}

fn set_target(request: &mut RequestHeader, path_and_query: &str) -> Result<()> {
    let uri = Uri::builder()
        .path_and_query(path_and_query)
        .build()
        .or_err(ErrorType::InvalidHTTPHeader, "the target of the request cannot be sent in origin form")?;
    request.set_uri(uri);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chunked_is_a_transfer_coding_that_was_offered() {
        for (codings, offered) in [
            (&[][..], true),
            (&["chunked"][..], true),
            (&[" Chunked "][..], true),
            (&["gzip, chunked"][..], false),
            (&["gzip", "chunked"][..], false),
            (&["chunked", "chunked"][..], false),
            (&["Identity"][..], true),
        ] {
            let mut response = ResponseHeader::build(200, None).unwrap();
            for coding in codings {
                response.append_header("Transfer-Encoding", *coding).unwrap();
            }
            assert_eq!(settle_transfer_coding(&mut response).is_ok(), offered, "{codings:?}");
        }
    }

    #[test]
    fn only_options_counts_its_forwards() {
        let left = |method: &str, value: &str| {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            request.insert_header("Max-Forwards", value).unwrap();
            forwards_left(&request)
        };
        assert_eq!(left("OPTIONS", " 7 "), Some(7));
        assert_eq!(left("OPTIONS", "0"), Some(0));
        assert_eq!(left("OPTIONS", "-1"), None);
        assert_eq!(left("GET", "0"), None);
    }

    #[test]
    fn via_tells_the_version_a_message_came_in() {
        assert_eq!(via(Version::HTTP_10), "1.0 parvis");
        assert_eq!(via(Version::HTTP_11), "1.1 parvis");
        assert_eq!(via(Version::HTTP_2), "2.0 parvis");
    }
}
