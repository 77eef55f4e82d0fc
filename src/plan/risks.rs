//! Settings that are allowed and can hurt: `check` names the risk of each.

use super::compile::Mistakes;
use crate::config::locate::Path;
use crate::config::schema::{self, Cache};
use crate::rules::admission::is_provoked;
use crate::rules::policy::Patterns;

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

/// Warns of every such setting of a `cache` section.
pub(super) fn warn(cache: &Cache, path: &Path, mistakes: &mut Mistakes) {
    warn_of_sharing(cache, path, mistakes);
    warn_of_staleness(cache, path, mistakes);
    warn_of_unkeyed(cache, path, mistakes);
    warn_of_poisoning(cache, path, mistakes);
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

/// What is said to change nothing, and reaches the origin all the same.
fn warn_of_unkeyed(cache: &Cache, path: &Path, mistakes: &mut Mistakes) {
    let unwatched = cache.guard == Some(schema::Guard::Off);
    if unwatched {
        mistakes.warn(
            &path.key("guard"),
            "`off` shares a page at once, whoever it was made for",
            "right for files; elsewhere prove the route with `mode: shadow` first",
        );
    }
    let listed = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if listed(&cache.forward_cookies) {
        mistakes.warn(
            &path.key("forward_cookies"),
            "what the application makes of these cookies is shared with visitors who have others",
            "the guard shares what a stranger gets too, and else fetches for each; `key: {cookies: [..]}` gives each value entries of \
             its own",
        );
    }
    if listed(&cache.ignore_vary) {
        mistakes.warn(
            &path.key("ignore_vary"),
            "the application says that pages differ by these fields, and all visitors get the same",
            "the guard compares what visitors get; lists in `vary` keep the difference with few variants",
        );
    }
    if cache.key.query.excluded == Some(schema::Excluded::Forward) {
        mistakes.warn(
            &path.key("key").key("query").key("excluded"),
            "`forward` sends parameters that are not in the key: a page that shows them passes for everyone",
            "the guard compares what visitors get; `drop` keeps such pages cacheable, and anyone from ending that",
        );
    }
}

/// What a client can do to the pages of others.
fn warn_of_poisoning(cache: &Cache, path: &Path, mistakes: &mut Mistakes) {
    if cache.extension_must_match == Some(false) {
        mistakes.warn(
            &path.key("extension_must_match"),
            "a page behind a path like `/account/x.css` is stored as the file it is not",
            "right where the application answers 404 to what it does not know",
        );
    }
    for status in cache.status_ttl.iter().flatten().map(|(status, _)| *status).filter(|s| is_provoked(*s)) {
        mistakes.warn(
            &path.key("status_ttl").key(status.to_string()),
            format!("one request with an oversized or odd field can make a {status} everybody's answer"),
            "keep it to a few seconds",
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
