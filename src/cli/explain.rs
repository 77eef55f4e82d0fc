//! `parvis explain`: what would happen to a request, by the code that decides it, without sending anything.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::clock;
use crate::plan::Plan;
use crate::rules::admission::{self, Admission, Kept};
use crate::rules::client_control::ClientControl;
use crate::rules::forwarding::Client;
use crate::rules::freshness::Exchange;
use crate::rules::guard::{Inputs, Witness};
use crate::rules::head::{Fields, RequestHead, ResponseHead};
use crate::rules::identity;
use crate::rules::invalidate::Expires;
use crate::rules::key::CacheKey;
use crate::rules::lookup::{self, PassReason};
use crate::rules::outgoing::Outgoing;
use crate::rules::policy::Mode;
use crate::rules::request::Envelope;
use crate::rules::route::Route;
use crate::rules::target::{Scheme, is_host};
use crate::rules::verdict::{self, RevalidateReason, Verdict};

#[derive(Args, Debug)]
pub struct Options {
    /// `http://host/path?query`, or `/path?query`.
    url: String,
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/parvis/config.yaml")]
    config: PathBuf,
    /// The request's method.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A field of the request, such as 'Cookie: _ga=1'. May be repeated.
    #[arg(short = 'H', long, value_name = "FIELD")]
    header: Vec<String>,
    /// The status of the origin's response.
    #[arg(long, value_name = "CODE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=999))]
    status: u16,
    /// A field of the origin's response, such as 'Cache-Control: max-age=60'. May be repeated.
    #[arg(long, value_name = "FIELD")]
    response_header: Vec<String>,
}

impl Options {
    pub fn run(self) -> Result<(), Failure> {
        let (plan, _) = Plan::load(&self.config)?;
        let fields = self.header.iter().map(|line| field(line)).collect::<Result<Vec<_>, _>>()?;
        let response = self.response_header.iter().map(|line| field(line)).collect::<Result<Vec<_>, _>>()?;
        let (scheme, host, path) = split(&self.url, Fields::new(&fields))?;
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let client = Client { peer: nobody, address: nobody, scheme, told_by: None };
        let envelope = Envelope::new(Some(host), Fields::new(&fields), &client);
        let request = envelope.head(&self.method, path);
        let response = ResponseHead { status: self.status, fields: Fields::new(&response) };
        print(explain(&plan, &request, &response).trim_end());
        Ok(())
    }
}

fn field(line: &str) -> Result<(&str, &[u8]), Failure> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| Failure::usage(format!("`{line}` is not a field: write 'Name: value'")))?;
    Ok((name.trim(), value.trim().as_bytes()))
}

fn split<'a>(url: &'a str, fields: Fields<'a>) -> Result<(Scheme, &'a str, &'a str), Failure> {
    if url.starts_with('/') {
        return Ok((Scheme::Http, fields.text("host").unwrap_or_default(), url));
    }
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => {
            return Err(Failure::usage(format!("`{url}` is not a URL: write `http://host/path` or `/path`")));
        }
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    if !is_host(host.as_bytes()) {
        return Err(Failure::usage(format!("`{host}` is not a host; such a request is answered 400")));
    }
    Ok((scheme, host, if path.is_empty() { "/" } else { path }))
}

/// The whole explanation, one finding per line.
fn explain(plan: &Plan, request: &RequestHead<'_>, response: &ResponseHead<'_>) -> String {
    let mut out = String::new();
    let mut say = |topic: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{topic:<12}{text}");
    };
    let taken = plan.routes.iter().find(|route| match route.matcher.check(request) {
        Ok(()) => true,
        Err(mismatch) => {
            say("not route", &format!("{}: {mismatch} does not match", route.name));
            false
        }
    });
    let Some(route) = taken else {
        say("route", "none: answered 404 (no-route)");
        return out;
    };
    say("route", &route.name);
    say("upstream", &route.upstream);
    if !request.is_safe() {
        say("verdict", "pass (method): sent to the origin");
        say_removals(plan, route, request, response, &mut say);
        return out;
    }
    match lookup::allowed(request, &route.cache) {
        Err(reason) => say("verdict", &format!("pass ({}): {}", reason.as_str(), reason.explain())),
        Ok(()) => {
            if route.cache.mode == Mode::Shadow {
                say("mode", PassReason::Shadow.explain());
            }
            say_sent(route, request, &mut say);
            let keyed = keyed_on(route);
            if !keyed.is_empty() {
                say("keyed on", &keyed.join(", "));
            }
            say("key", &CacheKey::primary(&route.name, request, &route.cache).to_string());
            let client = ClientControl::heeded(request.fields, &route.cache);
            match verdict::judge(None, &client, clock::now()) {
                Verdict::OnlyIfCached => say("verdict", "hit if stored, else 504 (only-if-cached)"),
                Verdict::Pass(reason) => {
                    let text =
                        format!("hit if stored, else pass ({}): {}", reason.as_str(), reason.explain());
                    say("verdict", &text);
                }
                _ => say_admission(plan, route, request, response, &client, &mut say),
            }
        }
    }
    out
}

/// What has entries of its own on the route, besides the URL.
fn keyed_on(route: &Route) -> Vec<String> {
    let identity = &route.cache.identity;
    let cookies = identity.cookies.sources().iter().map(|name| format!("cookie {name}"));
    let fields = identity.headers.iter().map(|name| format!("field {name}"));
    let claim = identity.jwt_claim.iter().map(|name| format!("claim {name} (not verified)"));
    let device = identity.device.then(|| "kind of device".to_owned());
    cookies.chain(fields).chain(claim).chain(device).collect()
}

/// What of the request a fetch would send on, where that is not as it came.
fn say_sent(route: &Route, request: &RequestHead<'_>, say: &mut impl FnMut(&str, &str)) {
    let outgoing = Outgoing::of(request, &route.cache);
    for (name, _) in request.fields.lines().iter().filter(|(name, _)| !is_sent(&outgoing, name)) {
        say("not sent", &format!("{name}: a fetch for the store leaves it out"));
    }
    let shown = ["Accept-Language", "Accept", "X-Device-Class"];
    for (name, value) in outgoing.0.iter().filter(|(name, _)| shown.contains(name)) {
        if request.fields.first(name) != Some(value) {
            say("sent", &format!("{name}: {}", String::from_utf8_lossy(value)));
        }
    }
}

fn is_sent(outgoing: &Outgoing<'_>, name: &str) -> bool {
    outgoing.0.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(name))
}

fn say_admission(
    plan: &Plan,
    route: &Route,
    request: &RequestHead<'_>,
    response: &ResponseHead<'_>,
    client: &ClientControl,
    say: &mut impl FnMut(&str, &str),
) {
    let now = clock::now();
    let authorized = identity::is_authorized(request.fields, &route.cache);
    let exchange = Exchange { requested_at: now, received_at: now, authorized };
    match admission::judge(
        &request.target.path,
        response,
        &route.cache,
        plan.memory.max_object_size,
        exchange,
    ) {
        Admission::Discard(reason) => {
            say(
                "verdict",
                &format!("miss: a {} like this is not stored ({})", response.status, reason.as_str()),
            );
        }
        Admission::Keep(kept) => {
            let source = kept.source.explain();
            let period = |time| humantime::format_duration(time).to_string();
            let freshness = kept.freshness;
            let then = match verdict::judge(Some(&freshness), client, now) {
                Verdict::Revalidate(RevalidateReason::Client) => "revalidate (the client asks for fresher)",
                then => then.as_str(),
            };
            say("verdict", &format!("miss, then {then}: a {} like this is stored", response.status));
            let left = freshness.remaining(now).unwrap_or_default();
            say(
                "fresh for",
                &format!("{} ({source})", period(std::time::Duration::from_secs(left.as_secs()))),
            );
            if !freshness.stale_while_revalidate.is_zero() {
                say(
                    "stale",
                    &format!("for {} more while it is refreshed", period(freshness.stale_while_revalidate)),
                );
            }
            if !freshness.stale_if_error.is_zero() {
                say("stale", &format!("for {} more when the origin fails", period(freshness.stale_if_error)));
            }
            if !freshness.stale_on_disconnect.is_zero() {
                let window = period(freshness.stale_on_disconnect);
                say("stale", &format!("for {window} more when the origin does not answer"));
            }
            say_guard(route, request, &kept, say);
            if !kept.withheld.is_empty() {
                say("withheld", &format!("{}: not stored", kept.withheld.join(", ")));
            }
            let tags = route.tags(&request.target.path).with(&kept.tags);
            if !tags.names().is_empty() {
                say("tags", &tags.names().join(", "));
            }
        }
    }
}

/// Whether the response is shared with everyone at once.
fn say_guard(route: &Route, request: &RequestHead<'_>, kept: &Kept, say: &mut impl FnMut(&str, &str)) {
    let inputs = Inputs::of(request, IpAddr::V4(Ipv4Addr::UNSPECIFIED), &route.cache);
    if Witness::of(&inputs, kept.ambient, &route.cache).is_some() {
        let names = inputs.names(kept.ambient).collect::<Vec<_>>().join(", ");
        let because = match names.as_str() {
            "" => "a stranger's, until visitors with more got the same bytes".to_owned(),
            names => format!("the application is sent, and the key has not: {names}"),
        };
        say("guard", &format!("on probation: {because}"));
        say("guard", "shared as far as others got the same bytes; passes (personalised) once they did not");
    }
    if kept.sets_cookie {
        say("guard", "refused (personalised) if the body shows a cookie that it sets");
    }
}

fn say_removals(
    plan: &Plan,
    route: &Route,
    request: &RequestHead<'_>,
    response: &ResponseHead<'_>,
    say: &mut impl FnMut(&str, &str),
) {
    if !(200..400).contains(&response.status) {
        say("removes", "nothing: only a 2xx or 3xx answer tells that something changed");
        return;
    }
    for (selector, expires) in route.removed_by(request, response.fields, &plan.query_policies) {
        let word = if expires == Expires::Yes { "expires" } else { "removes" };
        say(word, &selector.to_string());
    }
}
