//! The routes of a plan: matchers, policies, and what an operator is likely to have overlooked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regex::RegexBuilder;

use super::compile::{Mistakes, NAME_REMEDY, is_name, period};
use crate::config::locate::Path;
use crate::config::schema::{self, Cache, Config};
use crate::config::values::OneOrMany;
use crate::rules::admission::is_of_the_exchange;
use crate::rules::forwarding::folded;
use crate::rules::invalidate::{Selector, SelectorError};
use crate::rules::policy::{
    ANALYTICS_COOKIES, Authorization, CAMPAIGN_PARAMETERS, CachePolicy, ClientCacheControl, Heuristic,
    IDENTITY_HEADERS, Mode, OriginControl, Patterns, QueryPolicy, SetCookie,
};
use crate::rules::route::{Matcher, Route};
use crate::rules::target::normal_encoding;

const MAX_ROUTES: usize = 1000;
/// Per list: patterns, tags, methods, removals.
const MAX_ITEMS: usize = 200;
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Cookies by which common frameworks recognise a visitor.
const SESSION_COOKIES: &[&str] = &[
    "sessionid",
    "csrftoken",
    "messages",
    "PHPSESSID",
    "JSESSIONID",
    "session",
    "connect.sid",
    "laravel_session",
];

/// The routes, and the distinct query policies among them.
pub(super) fn compile(config: &Config, mistakes: &mut Mistakes) -> (Vec<Arc<Route>>, Vec<QueryPolicy>) {
    let path = Path::default().key("routes");
    if config.routes.is_empty() {
        mistakes.error(&path, "no routes", "add `routes: [{name: all, cache: {ttl: 0s}}]`");
    }
    mistakes.limit(&path, config.routes.len(), MAX_ROUTES, "routes");
    let defaults = Path::default().key("cache_defaults");
    warn_of_risks(&config.cache_defaults, &defaults, mistakes);
    let mut routes: Vec<(usize, Route)> = Vec::new();
    for (index, written) in config.routes.iter().enumerate() {
        let path = path.item(index);
        if let Some(route) = route(config, written, &path, mistakes) {
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
    for (index, route) in &mut routes {
        let place = path.item(*index).key("purge_on_success");
        route.purge_on_success = removals(&config.routes[*index], &policies, &place, mistakes);
    }
    (routes.into_iter().map(|(_, route)| Arc::new(route)).collect(), policies)
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
        let same = |other: &QueryPolicy| {
            other.sort == policy.sort && other.exclude.sources() == policy.exclude.sources()
        };
        if !distinct.iter().any(same) {
            distinct.push(policy.clone());
        }
    }
    distinct
}

fn route(config: &Config, written: &schema::Route, path: &Path, mistakes: &mut Mistakes) -> Option<Route> {
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
    warn_of_risks(&written.cache, &cache_path, mistakes);
    let cache = policy(&written.cache, &config.cache_defaults, &cache_path, mistakes)?;
    let name = name.as_str().into();
    Some(Route { name, matcher: matcher?, upstream, cache, purge_on_success: Vec::new() })
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
    for (index, method) in methods.iter().enumerate() {
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            let place = item(&path.key("methods"), methods.len(), index);
            let remedy = format!("methods are upper case: `{}`", method.to_ascii_uppercase());
            mistakes.error(&place, format!("`{method}` is not a method"), remedy);
        }
    }
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
    let spelled: Vec<String> =
        paths.iter().map(|pattern| normal_encoding(&pattern.replace(' ', "%20")).into_owned()).collect();
    Some(Matcher {
        hosts: patterns(&hosts, &path.key("host"), mistakes)?,
        paths: patterns(&spelled, &path.key("path"), mistakes)?,
        path_regex,
        methods: methods.to_vec(),
        headers,
    })
}

/// The regex crate draws a picture; its last line says what is wrong.
fn last_line(message: &str) -> &str {
    message.lines().last().unwrap_or(message).trim_start_matches("error: ")
}

fn list(written: Option<&OneOrMany>) -> &[String] {
    written.map_or(&[], |list| &list.0)
}

fn item(path: &Path, count: usize, index: usize) -> Path {
    if count > 1 { path.item(index) } else { path.clone() }
}

fn patterns(written: &[String], path: &Path, mistakes: &mut Mistakes) -> Option<Patterns> {
    mistakes.limit(path, written.len(), MAX_ITEMS, "patterns");
    mistakes.take(path, Patterns::new(written), "only `*` and `?` are special")
}

fn policy(written: &Cache, defaults: &Cache, path: &Path, mistakes: &mut Mistakes) -> Option<CachePolicy> {
    let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let ignored = written.ignore_cookies.clone().or_else(|| defaults.ignore_cookies.clone());
    let excluded = written.key.query.exclude.clone().or_else(|| defaults.key.query.exclude.clone());
    let bypass = written.bypass.headers.as_ref().or(defaults.bypass.headers.as_ref());
    let tags = written.tags.as_ref().or(defaults.tags.as_ref());
    let status_ttl = written.status_ttl.as_ref().or(defaults.status_ttl.as_ref());
    let control = written.origin_cache_control.or(defaults.origin_cache_control);
    let mode = written.mode.or(defaults.mode);
    let zero = Duration::ZERO;
    let ignore_path = path.key("ignore_cookies");
    let ignore_cookies =
        patterns(&ignored.unwrap_or_else(|| owned(ANALYTICS_COOKIES)), &ignore_path, mistakes)?;
    let query_path = path.key("key").key("query").key("exclude");
    let exclude = patterns(&excluded.unwrap_or_else(|| owned(CAMPAIGN_PARAMETERS)), &query_path, mistakes)?;
    Some(CachePolicy {
        mode: match mode.unwrap_or(schema::Mode::Enforce) {
            schema::Mode::Enforce => Mode::Enforce,
            schema::Mode::Off => Mode::Off,
        },
        ttl: period(written.ttl.or(defaults.ttl), zero),
        status_ttl: statuses(status_ttl, &path.key("status_ttl"), mistakes),
        origin_cache_control: match control.unwrap_or(schema::OriginCacheControl::Honour) {
            schema::OriginCacheControl::Honour => OriginControl::Honour,
            schema::OriginCacheControl::Override => OriginControl::Override,
        },
        heuristic: heuristic(&written.heuristic, &defaults.heuristic, &path.key("heuristic"), mistakes),
        set_cookie: set_cookie(written.set_cookie.or(defaults.set_cookie)),
        authorization: match written.authorization.or(defaults.authorization) {
            None | Some(schema::Authorization::Pass) => Authorization::Pass,
            Some(schema::Authorization::Rfc9111) => Authorization::Rfc9111,
        },
        client_cache_control: match written.client_cache_control.or(defaults.client_cache_control) {
            None | Some(schema::ClientCacheControl::Honour) => ClientCacheControl::Honour,
            Some(schema::ClientCacheControl::Ignore) => ClientCacheControl::Ignore,
        },
        tags: self::tags(tags.map_or(&[][..], |tags| tags), &path.key("tags"), mistakes),
        ignore_cookies,
        bypass_headers: IDENTITY_HEADERS
            .iter()
            .map(|name| (*name).to_owned())
            .chain(bypass.into_iter().flatten().map(|name| folded(name)))
            .collect(),
        query: QueryPolicy {
            exclude,
            sort: written.key.query.sort.or(defaults.key.query.sort).unwrap_or(true),
        },
        lock_timeout: period(written.lock.timeout.or(defaults.lock.timeout), Duration::from_secs(5)),
        uncacheable_ttl: period(
            written.uncacheable_ttl.or(defaults.uncacheable_ttl),
            Duration::from_secs(120),
        ),
        stale_while_revalidate: period(
            written.stale_while_revalidate.or(defaults.stale_while_revalidate),
            zero,
        ),
        stale_if_error: period(written.stale_if_error.or(defaults.stale_if_error), zero),
        stale_on_disconnect: period(written.stale_on_disconnect.or(defaults.stale_on_disconnect), zero),
    })
}

fn set_cookie(written: Option<schema::SetCookie>) -> SetCookie {
    match written {
        None | Some(schema::SetCookie::Uncacheable) => SetCookie::Uncacheable,
        Some(schema::SetCookie::Strip) => SetCookie::Strip,
        Some(schema::SetCookie::Store) => SetCookie::Store,
    }
}

fn heuristic(
    written: &schema::Heuristic,
    defaults: &schema::Heuristic,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Option<Heuristic> {
    let percent = written.percent.or(defaults.percent).unwrap_or(10);
    if !(1..=100).contains(&percent) {
        let message = format!("{percent} is not a share in percent");
        mistakes.error(&path.key("percent"), message, "write a number from 1 to 100; RFC 9111 suggests 10");
    }
    let max = period(written.max.or(defaults.max), Duration::from_secs(24 * 3600));
    let mode = written.mode.or(defaults.mode).unwrap_or(schema::HeuristicMode::Off);
    (mode == schema::HeuristicMode::LastModified).then_some(Heuristic { percent, max })
}

fn statuses(
    written: Option<&BTreeMap<u16, crate::config::values::Period>>,
    path: &Path,
    mistakes: &mut Mistakes,
) -> BTreeMap<u16, Duration> {
    let mut compiled = BTreeMap::new();
    for (status, ttl) in written.into_iter().flatten() {
        let place = path.key(status.to_string());
        if *status > 999 || is_of_the_exchange(*status) {
            let remedy =
                "write a final status from 200 on; 206, 304, 416, 428, 429, 431 and 511 are never stored";
            mistakes.error(&place, format!("responses with status {status} cannot be stored"), remedy);
        }
        compiled.insert(*status, ttl.0);
    }
    compiled
}

fn tags(written: &[String], path: &Path, mistakes: &mut Mistakes) -> Vec<Arc<str>> {
    mistakes.limit(path, written.len(), MAX_ITEMS, "tags");
    let mut tags = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match Selector::tag(text) {
            Ok(Selector::Tag(tag)) => tags.push(tag),
            Ok(_) => {}
            Err(error) => mistakes.error(&path.item(index), format!("`{text}`: {error}"), "write `products`"),
        }
    }
    tags
}

/// What a write through the route removes, and which keys of an item are wrong.
fn removals(
    written: &schema::Route,
    policies: &[QueryPolicy],
    path: &Path,
    mistakes: &mut Mistakes,
) -> Vec<Selector> {
    mistakes.limit(path, written.purge_on_success.len(), MAX_ITEMS, "items");
    let mut selectors = Vec::new();
    for (index, removal) in written.purge_on_success.iter().enumerate() {
        let path = path.item(index);
        let mut take =
            |key: &str, texts: Option<&OneOrMany>, read: &dyn Fn(&str) -> Result<Selector, SelectorError>| {
                for text in list(texts) {
                    let selector = read(text).map_err(|error| format!("`{text}`: {error}"));
                    selectors.extend(mistakes.take(&path.key(key), selector, ""));
                }
            };
        take("tags", removal.tags.as_ref(), &Selector::tag);
        take("prefix", removal.prefix.as_ref(), &Selector::prefix);
        take("url", removal.url.as_ref(), &|text| Selector::url(text, policies));
        if removal.tags.is_none() && removal.prefix.is_none() && removal.url.is_none() {
            mistakes.error(
                &path,
                "nothing to remove",
                "write `{tags: [products]}`, `{prefix: /products/}` or `{url: /}`",
            );
        }
    }
    selectors
}

/// Settings that are allowed and can hurt: the warning names the risk.
fn warn_of_risks(cache: &Cache, path: &Path, mistakes: &mut Mistakes) {
    warn_of_sharing(cache, path, mistakes);
    warn_of_staleness(cache, path, mistakes);
    for (index, pattern) in cache.ignore_cookies.iter().flatten().enumerate() {
        let Ok(compiled) = Patterns::new(std::slice::from_ref(pattern)) else {
            continue;
        };
        if let Some(session) = SESSION_COOKIES.iter().find(|name| compiled.matches(name)) {
            mistakes.warn(
                &path.key("ignore_cookies").item(index),
                format!(
                    "`{pattern}` takes the cookie `{session}` away: visitors appear logged out on this route"
                ),
                "right for routes that are the same for everyone, such as static files",
            );
        }
    }
}

/// What lets one visitor get what was made for another.
fn warn_of_sharing(cache: &Cache, path: &Path, mistakes: &mut Mistakes) {
    match cache.set_cookie {
        Some(schema::SetCookie::Store) => mistakes.warn(
            &path.key("set_cookie"),
            "`store` gives everyone the cookies that the first visitor was given, sessions included",
            "right only where cookies are the same for everyone; `strip` keeps the page and not the cookies",
        ),
        Some(schema::SetCookie::Strip) => mistakes.warn(
            &path.key("set_cookie"),
            "`strip` takes cookies from every visitor of this route; what the page says of the first one stays in it",
            "right for pages that set a cookie out of habit; not for forms, whose CSRF token is in the page",
        ),
        Some(schema::SetCookie::Uncacheable) | None => {}
    }
    if cache.authorization == Some(schema::Authorization::Rfc9111) {
        mistakes.warn(
            &path.key("authorization"),
            "`rfc9111` answers who is logged in with what is stored for everyone, and stores what the application \
             marks `public`, `s-maxage` or `must-revalidate`",
            "right where the application marks only what everyone may see",
        );
    }
}

/// What lets pages be older than the application thinks.
fn warn_of_staleness(cache: &Cache, path: &Path, mistakes: &mut Mistakes) {
    if cache.origin_cache_control == Some(schema::OriginCacheControl::Override) {
        mistakes.warn(
            &path.key("origin_cache_control"),
            "`override` keeps pages for longer than the application says",
            "right for files whose name changes with their content; elsewhere make sure that writes purge them",
        );
    }
    for (status, ttl) in cache.status_ttl.iter().flatten() {
        if *status >= 500 && !ttl.0.is_zero() {
            mistakes.warn(
                &path.key("status_ttl").key(status.to_string()),
                format!(
                    "a {status} would be repeated to everyone for {ttl} after the application has recovered"
                ),
                "keep it to a few seconds",
            );
        }
    }
    if cache.heuristic.mode == Some(schema::HeuristicMode::LastModified) {
        mistakes.warn(
            &path.key("heuristic").key("mode"),
            "`last_modified` keeps pages for a time that nobody has told",
            "right for files; elsewhere give the route a `ttl` and let writes purge",
        );
    }
    if cache.stale_on_disconnect.is_some_and(|window| !window.0.is_zero()) {
        mistakes.warn(
            &path.key("stale_on_disconnect"),
            "visitors do not learn that the application is gone as long as expired pages stand in for it",
            "watch `parvis_requests_total{reason=\"stale-on-disconnect\"}`, or allow it only for as long as a restart takes",
        );
    }
}
