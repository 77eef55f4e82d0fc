//! The routes of a plan: matchers, policies, and what an operator is likely to have overlooked.

use std::sync::Arc;

use regex::RegexBuilder;

use super::compile::{Mistakes, NAME_REMEDY, is_name};
use super::upstreams::check_first_byte;
use super::upstreams::positive;
use super::{encode, headers, limits, policies, removals, risks};
use crate::config::locate::Path;
use crate::config::schema::{self, Config};
use crate::config::upstream::RouteTimeouts;
use crate::config::values::{OneOrMany, Period};
use crate::rules::headers::HeaderPolicy;
use crate::rules::policy::{Patterns, QueryPolicy};
use crate::rules::route::{Matcher, Route, Routes, Timeouts};
use crate::rules::target::normal_encoding;
use crate::rules::template::{PathPattern, has_captures};

const MAX_ROUTES: usize = 1000;
/// Per list: patterns, tags, methods, removals.
pub(super) const MAX_ITEMS: usize = 200;
const MAX_REGEX_BYTES: usize = 1 << 20;

/// The routes, and the distinct query policies among them.
pub(super) fn compile(
    config: &Config,
    all: &HeaderPolicy,
    mistakes: &mut Mistakes,
) -> (Routes, Vec<QueryPolicy>) {
    let path = Path::default().key("routes");
    if config.routes.is_empty() {
        mistakes.error(&path, "no routes", "add `routes: [{name: all, cache: {ttl: 0s}}]`");
    }
    mistakes.limit(&path, config.routes.len(), MAX_ROUTES, "routes");
    let defaults = Path::default().key("cache_defaults");
    risks::warn(&config.cache_defaults, &defaults, mistakes);
    policies::check_shared(&config.cache_defaults, &defaults, config.storage.redis.is_none(), mistakes);
    encode::check(&config.encode, &Path::default().key("encode"), mistakes);
    let mut routes: Vec<(usize, Route)> = Vec::new();
    for (index, written) in config.routes.iter().enumerate() {
        let path = path.item(index);
        if let Some(route) = route(config, all, written, &path, mistakes) {
            check_against_earlier(&route, &routes, &path, mistakes);
            routes.push((index, route));
        }
    }
    if !routes.is_empty() && !routes.iter().any(|(_, route)| route.matcher.covers(&Matcher::default())) {
        mistakes.warn(
            &path,
            "no route takes every request; what none takes is answered 404",
            "add a last route `{name: rest, match: {path: /*}}`",
        );
    }
    // A URL to remove may be stored through any route, so it is spelled by the query policies of all.
    let policies = query_policies(&routes);
    (Routes::new(routes.into_iter().map(|(_, route)| Arc::new(route)).collect()), policies)
}

fn check_against_earlier(route: &Route, earlier: &[(usize, Route)], path: &Path, mistakes: &mut Mistakes) {
    let mut earlier = earlier.iter().map(|(_, route)| route);
    if earlier.clone().any(|other| other.name == route.name) {
        mistakes.error(&path.key("name"), format!("two routes are called `{}`", route.name), "rename one");
    } else if let Some(wider) = earlier.find(|earlier| earlier.matcher.covers(&route.matcher)) {
        mistakes.error(
            path,
            format!("route `{}` is never reached: `{}` takes all its requests", route.name, wider.name),
            format!("move it before `{}`, or remove it", wider.name),
        );
    }
}

fn query_policies(routes: &[(usize, Route)]) -> Vec<QueryPolicy> {
    let mut distinct: Vec<QueryPolicy> = Vec::new();
    for policy in routes.iter().map(|(_, route)| &route.cache.query) {
        if !distinct.iter().any(|other| other.spells_like(policy)) {
            distinct.push(policy.clone());
        }
    }
    distinct
}

fn route(
    config: &Config,
    all: &HeaderPolicy,
    written: &schema::Route,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Option<Route> {
    let Some(name) = &written.name else {
        mistakes.error(path, "a route without a name", "add `name: products`; logs and metrics show it");
        return None;
    };
    if !is_name(name) {
        mistakes.error(&path.key("name"), format!("`{name}` is not a name"), NAME_REMEDY);
    }
    let upstream = upstream(config, written, path, mistakes);
    let matcher = matcher(&written.r#match, &path.key("match"), mistakes);
    let cache_path = path.key("cache");
    risks::warn(&written.cache, &cache_path, mistakes);
    let mut cache = policies::compile(&written.cache, &config.cache_defaults, &cache_path, mistakes)?;
    let without_redis = config.storage.redis.is_none();
    policies::check_shared(&written.cache, &cache_path, without_redis, mistakes);
    let encode =
        encode::compile(&written.encode, &config.encode, &cache.identity, &path.key("encode"), mistakes);
    let servers = config.upstreams.get(&*upstream).map(|upstream| upstream.servers.as_slice());
    cache.shared_stamp = policies::shared_stamp(&cache, &upstream, servers.unwrap_or_default());
    // What is stored with lengths as they are must not be served where they are to be blurred.
    cache.stamp ^= u32::from(encode.pads_stored);
    let (name, matcher): (Arc<str>, _) = (name.as_str().into(), matcher?);
    if written.cache.tags.is_some() {
        // Those of the defaults are for the routes that capture.
        removals::check_tags(&cache.tags, &matcher, &cache_path.key("tags"), mistakes);
    }
    let place = path.key("purge_on_success");
    let purge_on_success = removals::compile(&written.purge_on_success, &matcher, &place, mistakes);
    let limits = limits::compile(config, written, &name, path, mistakes);
    let timeouts = timeouts(&written.timeouts, &path.key("timeouts"), mistakes);
    let request_headers =
        headers::of_requests(&written.request_headers, &path.key("request_headers"), mistakes);
    let response_headers =
        headers::of_route(all, &written.response_headers, &path.key("response_headers"), mistakes);
    Some(Route {
        name,
        matcher,
        upstream,
        cache,
        encode,
        purge_on_success,
        limits,
        timeouts,
        request_headers,
        response_headers,
    })
}

fn timeouts(written: &RouteTimeouts, path: &Path, mistakes: &mut Mistakes) -> Timeouts {
    check_first_byte(written.first_byte, written.read, path, mistakes);
    let mut positive = |written: Option<Period>, key: &str| {
        written.map(|period| positive(Some(period), period.0, &path.key(key), mistakes))
    };
    Timeouts {
        connect: positive(written.connect, "connect"),
        first_byte: positive(written.first_byte, "first_byte"),
        read: positive(written.read, "read"),
        write: positive(written.write, "write"),
        total: positive(written.total, "total"),
    }
}

/// Complains of what is no method.
pub(super) fn check_methods(methods: &[String], path: &Path, mistakes: &mut Mistakes) {
    for (index, method) in methods.iter().enumerate() {
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            let remedy = format!("methods are upper case: `{}`", method.to_ascii_uppercase());
            mistakes.error(&item(path, methods.len(), index), format!("`{method}` is not a method"), remedy);
        }
    }
}

fn upstream(config: &Config, written: &schema::Route, path: &Path, mistakes: &mut Mistakes) -> Arc<str> {
    let names = || config.upstreams.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match &written.upstream {
        Some(name) => {
            if !config.upstreams.contains_key(name) {
                let remedy = format!("known upstreams: {}", names());
                mistakes.error(&path.key("upstream"), format!("no upstream is called `{name}`"), remedy);
            }
            name.as_str().into()
        }
        None if config.upstreams.len() == 1 => {
            config.upstreams.keys().next().map_or("", String::as_str).into()
        }
        None => {
            if !config.upstreams.is_empty() {
                let remedy = format!("add `upstream:` with one of: {}", names());
                mistakes.error(path, "a route without an upstream, and there are several", remedy);
            }
            "".into()
        }
    }
}

fn matcher(written: &schema::Match, path: &Path, mistakes: &mut Mistakes) -> Option<Matcher> {
    let hosts: Vec<String> =
        list(written.host.as_ref()).iter().map(|host| host.to_ascii_lowercase()).collect();
    let paths = list(written.path.as_ref());
    for (index, pattern) in paths.iter().enumerate() {
        if !pattern.starts_with(['/', '*']) {
            let place = item(&path.key("path"), paths.len(), index);
            mistakes.error(&place, format!("`{pattern}` can match no path"), format!("write `/{pattern}`"));
        }
    }
    let methods = list(written.methods.as_ref());
    check_methods(methods, &path.key("methods"), mistakes);
    let path_regex = written.path_regex.as_ref().and_then(|text| {
        let regex = RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build();
        let regex =
            regex.map_err(|error| format!("malformed regular expression: {}", last_line(&error.to_string())));
        mistakes.take(&path.key("path_regex"), regex, "")
    });
    let mut headers = Vec::new();
    for (name, pattern) in written.headers.iter().flatten() {
        if http::HeaderName::try_from(name.as_str()).is_err() {
            mistakes.error(
                &path.key("headers").key(name),
                format!("`{name}` is not the name of a field"),
                "write `X-Device`",
            );
        }
        let compiled = patterns(std::slice::from_ref(pattern), &path.key("headers").key(name), mistakes)?;
        headers.push((name.to_ascii_lowercase(), compiled));
    }
    // Spelled like the paths they are held against.
    let spelled = paths.iter().map(|pattern| normal_encoding(&pattern.replace(' ', "%20")).into_owned());
    let (capturing, plain): (Vec<String>, Vec<String>) = spelled.partition(|pattern| has_captures(pattern));
    mistakes.limit(&path.key("path"), capturing.len(), MAX_ITEMS, "patterns");
    let compiled: Vec<_> = capturing
        .iter()
        .map(|pattern| mistakes.take(&path.key("path"), PathPattern::new(pattern), "write each name once"))
        .collect();
    Some(Matcher {
        capturing: compiled.into_iter().collect::<Option<_>>()?,
        hosts: patterns(&hosts, &path.key("host"), mistakes)?,
        paths: patterns(&plain, &path.key("path"), mistakes)?,
        path_regex,
        methods: methods.to_vec(),
        headers,
    })
}

/// The regex crate draws a picture; its last line says what is wrong.
fn last_line(message: &str) -> &str {
    message.lines().last().unwrap_or(message).trim_start_matches("error: ")
}

pub(super) fn list(written: Option<&OneOrMany>) -> &[String] {
    written.map_or(&[], |list| &list.0)
}

fn item(path: &Path, count: usize, index: usize) -> Path {
    if count > 1 { path.item(index) } else { path.clone() }
}

pub(super) fn patterns(written: &[String], path: &Path, mistakes: &mut Mistakes) -> Option<Patterns> {
    mistakes.limit(path, written.len(), MAX_ITEMS, "patterns");
    mistakes.take(path, Patterns::new(written), "only `*` and `?` are special")
}
