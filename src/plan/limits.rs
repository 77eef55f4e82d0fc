//! How often the clients of a route may ask, compiled.

use ipnet::IpNet;

use super::compile::{Mistakes, networks};
use super::routes::{MAX_ITEMS, check_methods};
use crate::config::limits::{self as written, Rate};
use crate::config::locate::Path;
use crate::config::schema::{Config, Route};
use crate::rules::head::is_token;
use crate::rules::limit::{Access, LimitKey, LimitPolicy, OnError, RateLimit};

const MAX_CONCURRENT: usize = 100_000;

pub(super) fn compile(
    config: &Config,
    route: &Route,
    name: &str,
    path: &Path,
    mistakes: &mut Mistakes,
) -> LimitPolicy {
    let place = path.key("rate_limit");
    let limits = &route.rate_limit.0;
    mistakes.limit(&place, limits.len(), MAX_ITEMS, "limits");
    let mut rates: Vec<RateLimit> = Vec::new();
    for (index, written) in limits.iter().enumerate() {
        let place = if limits.len() > 1 { place.item(index) } else { place.clone() };
        let Some(rate) = rate(written, name, &place, mistakes) else { continue };
        if rates.iter().any(|other| other.name == rate.name) {
            let remedy = "give each a `name`: clients and metrics tell them apart by it";
            mistakes.error(&place, format!("two limits are called `{}`", rate.name), remedy);
        }
        if rate.shared.is_some() && config.storage.redis.is_none() {
            let remedy = "add `storage: {redis: {url: redis://127.0.0.1:6379}}`";
            mistakes.error(&place.key("shared"), "there is no Redis to share it by", remedy);
        }
        rates.push(rate);
    }
    if route.max_concurrent.is_some_and(|most| !(1..=MAX_CONCURRENT).contains(&most)) {
        let remedy = format!("write a number from 1 to {MAX_CONCURRENT}, or leave it out");
        mistakes.error(&path.key("max_concurrent"), "nobody, or everybody, would be let through", remedy);
    }
    let mut nets = |list: &[String], key: &str| plain(list, &path.key("access").key(key), mistakes);
    let access = Access { allow: nets(&route.access.allow, "allow"), deny: nets(&route.access.deny, "deny") };
    LimitPolicy { rates, concurrency: route.max_concurrent, access }
}

fn plain(list: &[String], path: &Path, mistakes: &mut Mistakes) -> Vec<IpNet> {
    networks(list, None, path, mistakes)
}

fn rate(
    written: &written::RateLimit,
    route: &str,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Option<RateLimit> {
    let Some(Rate { count, period }) = written.rate else {
        mistakes.error(path, "a limit without a rate", "add `rate: 100/h`");
        return None;
    };
    let name = written.name.as_deref().unwrap_or(route);
    // That of the route has been looked at.
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if written.name.is_some() && !((1..=64).contains(&name.len()) && name.bytes().all(is_plain)) {
        let remedy = "use letters, digits, `-`, `_` and `.`, at most 64 of them";
        mistakes.error(&path.key("name"), format!("`{name}` is not a name"), remedy);
    }
    let burst = written.burst.unwrap_or(count);
    if burst == 0 {
        mistakes.error(
            &path.key("burst"),
            "nobody would be let through",
            "write `burst: 1` for one at a time",
        );
    }
    let methods = written.methods.as_ref().map(|list| list.0.clone()).unwrap_or_default();
    check_methods(&methods, &path.key("methods"), mistakes);
    Some(RateLimit {
        name: name.into(),
        count,
        period,
        burst,
        key: key(written.key.as_deref().unwrap_or("client_ip"), &path.key("key"), mistakes),
        methods,
        exempt: plain(&written.allow, &path.key("allow"), mistakes),
        dry_run: written.dry_run.unwrap_or(false),
        shared: shared(written, path, mistakes),
    })
}

fn shared(written: &written::RateLimit, path: &Path, mistakes: &mut Mistakes) -> Option<OnError> {
    if written.shared != Some(true) {
        if written.on_error.is_some() {
            let remedy = "add `shared: true`, or leave it out";
            mistakes.error(
                &path.key("on_error"),
                "nothing can go wrong with a limit of this instance",
                remedy,
            );
        }
        return None;
    }
    Some(match written.on_error {
        None | Some(written::OnError::Open) => OnError::Open,
        Some(written::OnError::Closed) => OnError::Closed,
    })
}

fn key(text: &str, path: &Path, mistakes: &mut Mistakes) -> LimitKey {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    match (kind, name) {
        ("client_ip", "") => LimitKey::Client,
        ("route", "") => LimitKey::Route,
        ("header", name) if is_token(name) => LimitKey::Header(name.to_ascii_lowercase()),
        ("cookie", name) if is_token(name) => LimitKey::Cookie(name.to_owned()),
        ("jwt_claim", name) if !name.is_empty() => LimitKey::JwtClaim(name.to_owned()),
        _ => {
            let remedy =
                "write `client_ip`, `header:X-API-Key`, `cookie:sessionid`, `jwt_claim:sub` or `route`";
            mistakes.error(path, format!("`{text}` tells no clients apart"), remedy);
            LimitKey::Client
        }
    }
}
