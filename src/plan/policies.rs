//! How a route caches: what it says, else what `cache_defaults` say, else the defaults that are safe in front of an
//! unknown application.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::compile::{Mistakes, period};
use super::removals::written_tag;
use super::routes::{MAX_ITEMS, patterns};
use crate::config::locate::Path;
use crate::config::schema::{self, Cache};
use crate::config::upstream::Server;
use crate::rules::admission::is_of_the_exchange;
use crate::rules::forwarding::folded;
use crate::rules::head::{Fields, is_token};
use crate::rules::hop::HopByHop;
use crate::rules::identity::DEVICE_FIELD;
use crate::rules::outgoing::is_left_out;
use crate::rules::policy::{
    ANALYTICS_COOKIES, Authorization, CAMPAIGN_PARAMETERS, CachePolicy, ClientCacheControl, Guard, Heuristic,
    IdentityPolicy, Mode, OriginControl, Patterns, Preferences, QueryPolicy, SetCookie, is_identity,
};
use crate::rules::tags::TAG_FIELDS;
use crate::rules::template::Template;

const DEFAULT_MAX_VARIANTS: usize = 1000;
/// Beyond this the tables of one URL would cost more than its pages.
const MAX_MAX_VARIANTS: usize = 1_000_000;

/// Compiles what a route and the defaults say; `None` when a list of patterns is malformed.
pub(super) fn compile(
    written: &Cache,
    defaults: &Cache,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Option<CachePolicy> {
    let zero = Duration::ZERO;
    let seconds = Duration::from_secs;
    let bypass = written.bypass.headers.as_ref().or(defaults.bypass.headers.as_ref());
    let status_ttl = written.status_ttl.as_ref().or(defaults.status_ttl.as_ref());
    let window = |of: fn(&Cache) -> Option<crate::config::values::Period>, default| {
        period(of(written).or_else(|| of(defaults)), default)
    };
    let list =
        |of: fn(&Cache) -> &Option<Vec<String>>| of(written).as_ref().or_else(|| of(defaults).as_ref());
    let (ignored, forwarded) = (list(|cache| &cache.ignore_cookies), list(|cache| &cache.forward_cookies));
    let ignore_cookies = compiled(ignored, ANALYTICS_COOKIES, &path.key("ignore_cookies"), mistakes)?;
    let forward_cookies = compiled(forwarded, &[], &path.key("forward_cookies"), mistakes)?;
    let identity = identity(&written.key, &defaults.key, &path.key("key"), mistakes)?;
    let query = query(&written.key.query, &defaults.key.query, &path.key("key").key("query"), mistakes)?;
    let mut policy = CachePolicy {
        mode: mode(written.mode.or(defaults.mode)),
        ttl: window(|cache| cache.ttl, zero),
        status_ttl: statuses(status_ttl, &path.key("status_ttl"), mistakes),
        origin_cache_control: control(written.origin_cache_control.or(defaults.origin_cache_control)),
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
        tags: tags(list(|cache| &cache.tags), &path.key("tags"), mistakes),
        tag_headers: tag_headers(list(|cache| &cache.tag_headers), &path.key("tag_headers"), mistakes),
        deliver_tags: written.deliver_tags.or(defaults.deliver_tags).unwrap_or(false),
        ignore_cookies,
        forward_cookies,
        ignore_vary: ignored_names(list(|cache| &cache.ignore_vary), &path.key("ignore_vary"), mistakes),
        bypass_headers: bypass.into_iter().flatten().map(|name| folded(name).to_owned()).collect(),
        identity,
        query,
        preferences: preferences(written, defaults, &path.key("vary"), mistakes),
        max_variants: max_variants(written.max_variants.or(defaults.max_variants), path, mistakes),
        guard: match written.guard.or(defaults.guard) {
            None | Some(schema::Guard::On) => Guard::On,
            Some(schema::Guard::Off) => Guard::Off,
        },
        personalised_ttl: window(|cache| cache.personalised_ttl, seconds(600)),
        extension_must_match: written.extension_must_match.or(defaults.extension_must_match).unwrap_or(true),
        stamp: 0,
        audit: written.audit.or(defaults.audit).map_or(0.0, |share| share.0),
        lock_timeout: period(written.lock.timeout.or(defaults.lock.timeout), seconds(5)),
        shares_lock: written.lock.shared.or(defaults.lock.shared).unwrap_or(false),
        shared_stamp: 0,
        is_shared: is_shared(written.tiers.as_ref().or(defaults.tiers.as_ref()), path, mistakes),
        uncacheable_ttl: window(|cache| cache.uncacheable_ttl, seconds(120)),
        stale_while_revalidate: window(|cache| cache.stale_while_revalidate, zero),
        stale_if_error: window(|cache| cache.stale_if_error, zero),
        stale_on_disconnect: window(|cache| cache.stale_on_disconnect, zero),
    };
    refuse_open_claims(&policy, path, mistakes);
    if written.audit.is_some() {
        warn_of_idle_audits(&policy, &path.key("audit"), mistakes);
    }
    policy.stamp = stamp(&policy);
    Some(policy)
}

fn control(written: Option<schema::OriginCacheControl>) -> OriginControl {
    match written {
        None | Some(schema::OriginCacheControl::Honour) => OriginControl::Honour,
        Some(schema::OriginCacheControl::Override) => OriginControl::Override,
    }
}

/// Notes what is to be shared where there is nothing to share it by.
pub(super) fn check_shared(written: &Cache, path: &Path, without_redis: bool, mistakes: &mut Mistakes) {
    let remedy = "add `storage: {redis: {url: redis://127.0.0.1:6379}}`, or leave it out";
    let in_redis = written.tiers.as_ref().is_some_and(|tiers| tiers.contains(&schema::Tier::Redis));
    if without_redis && in_redis {
        mistakes.error(&path.key("tiers"), "there is no Redis", remedy);
    }
    if without_redis && written.lock.shared == Some(true) {
        mistakes.error(&path.key("lock").key("shared"), "there is no Redis to share it by", remedy);
    }
}

/// Whether responses are kept in the Redis too, where there is one.
fn is_shared(tiers: Option<&Vec<schema::Tier>>, path: &Path, mistakes: &mut Mistakes) -> bool {
    let Some(tiers) = tiers else { return true };
    if !tiers.contains(&schema::Tier::Memory) {
        let remedy = "write `[memory]` or `[memory, redis]`";
        mistakes.error(&path.key("tiers"), "what is stored is in memory first", remedy);
    }
    tiers.contains(&schema::Tier::Redis)
}

/// A digest of all that decides who shares a response, and what it is called. It is the same for the same configuration.
fn stamp(policy: &CachePolicy) -> u32 {
    let rules = format!(
        "{:?}",
        (
            (policy.set_cookie, policy.authorization, policy.guard, &policy.bypass_headers, &policy.identity),
            (&policy.ignore_cookies, &policy.forward_cookies, &policy.ignore_vary, &policy.query),
            (&policy.preferences, policy.extension_must_match, policy.origin_cache_control),
            // Under other tags a purge would not find it.
            (&policy.tags, &policy.tag_headers, policy.deliver_tags),
        )
    );
    digest(&rules)
}

/// A digest of where the responses of a route come from, and how long they live. Of its servers the first one counts: others may
/// come and go.
pub(super) fn shared_stamp(policy: &CachePolicy, upstream: &str, servers: &[Server]) -> u32 {
    let lifetimes = (
        (policy.ttl, &policy.status_ttl, &policy.heuristic, policy.stale_while_revalidate),
        (policy.stale_if_error, policy.stale_on_disconnect),
    );
    digest(&format!("{:?}", (upstream, servers.first().map(|server| &server.address), lifetimes)))
}

fn digest(text: &str) -> u32 {
    let digest = Sha256::digest(text);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The patterns of a list, or of its default.
fn compiled(
    listed: Option<&Vec<String>>,
    default: &[&str],
    path: &Path,
    mistakes: &mut Mistakes,
) -> Option<Patterns> {
    let default = || default.iter().map(|name| (*name).to_owned()).collect();
    patterns(&listed.cloned().unwrap_or_else(default), path, mistakes)
}

fn identity(
    written: &schema::Key,
    defaults: &schema::Key,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Option<IdentityPolicy> {
    let cookies = written.cookies.as_ref().or(defaults.cookies.as_ref());
    let headers = written.headers.as_ref().or(defaults.headers.as_ref());
    Some(IdentityPolicy {
        cookies: compiled(cookies, &[], &path.key("cookies"), mistakes)?,
        headers: sent_names(headers, &path.key("headers"), mistakes),
        jwt_claim: written.jwt_claim.clone().or_else(|| defaults.jwt_claim.clone()),
        device: written.device_class.or(defaults.device_class).unwrap_or(false),
    })
}

fn query(
    written: &schema::Query,
    defaults: &schema::Query,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Option<QueryPolicy> {
    let include = written.include.as_ref().or(defaults.include.as_ref());
    let exclude = written.exclude.as_ref().or(defaults.exclude.as_ref());
    Some(QueryPolicy {
        include: compiled(include, &[], &path.key("include"), mistakes)?,
        exclude: compiled(exclude, CAMPAIGN_PARAMETERS, &path.key("exclude"), mistakes)?,
        forward_excluded: written.excluded.or(defaults.excluded) == Some(schema::Excluded::Forward),
        sort: written.sort.or(defaults.sort).unwrap_or(true),
    })
}

/// A claim is not verified: only the guard keeps a forged token from another's page.
fn refuse_open_claims(policy: &CachePolicy, path: &Path, mistakes: &mut Mistakes) {
    if policy.identity.jwt_claim.is_some() && policy.guard == Guard::Off {
        mistakes.error(
            &path.key("guard"),
            "with `key.jwt_claim` the guard cannot be off: anyone can write a token with another's claim",
            "remove `guard: off`, or key on the whole field: `key: {headers: [Authorization]}`",
        );
    }
}

fn warn_of_idle_audits(policy: &CachePolicy, path: &Path, mistakes: &mut Mistakes) {
    if policy.audit > 0.0 && policy.mode != Mode::Enforce {
        mistakes.warn(
            path,
            "nothing is served from the store in this mode, so there is nothing to audit",
            "remove it, or write `mode: enforce`",
        );
    }
}

fn mode(written: Option<schema::Mode>) -> Mode {
    match written {
        None | Some(schema::Mode::Enforce) => Mode::Enforce,
        Some(schema::Mode::Shadow) => Mode::Shadow,
        Some(schema::Mode::Off) => Mode::Off,
    }
}

fn max_variants(written: Option<usize>, path: &Path, mistakes: &mut Mistakes) -> usize {
    let number = written.unwrap_or(DEFAULT_MAX_VARIANTS);
    if !(1..=MAX_MAX_VARIANTS).contains(&number) {
        let message = format!("{number} is not a number of entries");
        mistakes.error(&path.key("max_variants"), message, "write a number from 1 to 1000000");
    }
    number
}

/// Names of fields, in lower case.
fn names(written: Option<&Vec<String>>, path: &Path, mistakes: &mut Mistakes) -> Vec<String> {
    let written = written.map_or(&[][..], Vec::as_slice);
    mistakes.limit(path, written.len(), MAX_ITEMS, "fields");
    for (index, name) in written.iter().enumerate() {
        if !is_token(name) || name == "*" || name.contains('_') {
            let message = format!("`{name}` is not the name of a field");
            mistakes.error(&path.item(index), message, "write `X-Tenant`, with hyphens");
        }
    }
    written.iter().map(|name| name.to_ascii_lowercase()).collect()
}

/// Names of fields that may be said to change nothing: none that names a person.
fn ignored_names(written: Option<&Vec<String>>, path: &Path, mistakes: &mut Mistakes) -> Vec<String> {
    let names = names(written, path, mistakes);
    for (index, name) in names.iter().enumerate().filter(|(_, name)| is_identity(name)) {
        let message = format!("`{name}` names a person: who varies by it has a page for each");
        mistakes.error(&path.item(index), message, "key on it: `key: {headers: [..]}`");
    }
    names
}

/// Names of fields that a fetch sends on as they came: only by these can pages differ.
fn sent_names(written: Option<&Vec<String>>, path: &Path, mistakes: &mut Mistakes) -> Vec<String> {
    let names = names(written, path, mistakes);
    // Of those with an underscore the operator has been told.
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !name.contains('_')) {
        let remedy = match name.as_str() {
            "cookie" => "write `key: {cookies: [sessionid]}`",
            "host" => "the host is part of every key",
            "accept-encoding" => "the application is always asked for the identity form",
            "x-device-class" => "write `key: {device_class: true}`",
            _ => "key on what the application is sent",
        };
        let is_replaced = ["cookie", "host", DEVICE_FIELD].contains(&name.as_str());
        if is_replaced || is_left_out(name) || HopByHop::of(Fields::default()).has(name) {
            let message = format!("`{name}` is not sent on as it came, so pages cannot differ by it");
            mistakes.error(&path.item(index), message, remedy);
        }
    }
    names
}

fn preferences(written: &Cache, defaults: &Cache, path: &Path, mistakes: &mut Mistakes) -> Preferences {
    let mut list = |key: &str, written: Option<&Vec<String>>, is_item: fn(&str) -> bool, example: &str| {
        let items = written.cloned().unwrap_or_default();
        let place = path.key(key);
        mistakes.limit(&place, items.len(), MAX_ITEMS, "items");
        for (index, item) in items.iter().enumerate().filter(|(_, item)| !is_item(item)) {
            let message = format!("`{item}` cannot be asked for in `{key}`");
            mistakes.error(&place.item(index), message, format!("write `{example}`"));
        }
        items
    };
    let is_language = |item: &str| {
        !item.is_empty() && item.split('-').all(|part| (1..=8).contains(&part.len()) && is_alphanumeric(part))
    };
    let is_media_type = |item: &str| {
        item.split_once('/').is_some_and(|(family, kind)| is_token(family) && is_token(kind) && kind != "*")
    };
    let (own, other) = (&written.vary, &defaults.vary);
    Preferences {
        languages: list(
            "accept-language",
            own.accept_language.as_ref().or(other.accept_language.as_ref()),
            is_language,
            "fr",
        ),
        media_types: list(
            "accept",
            own.accept.as_ref().or(other.accept.as_ref()),
            is_media_type,
            "text/html",
        ),
    }
}

fn is_alphanumeric(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
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

fn tags(written: Option<&Vec<String>>, path: &Path, mistakes: &mut Mistakes) -> Vec<Template> {
    let written = written.map_or(&[][..], Vec::as_slice);
    mistakes.limit(path, written.len(), MAX_ITEMS, "tags");
    for (index, text) in written.iter().enumerate() {
        if let Err(error) = written_tag(text) {
            mistakes.error(&path.item(index), format!("`{text}`: {error}"), "write `products`");
        }
    }
    written.iter().map(|text| Template::parse(text)).collect()
}

fn tag_headers(written: Option<&Vec<String>>, path: &Path, mistakes: &mut Mistakes) -> Vec<String> {
    match written {
        None => TAG_FIELDS.iter().map(|name| (*name).to_owned()).collect(),
        Some(written) => {
            for (index, name) in written.iter().enumerate() {
                if NO_TAGS.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                    let message = format!("`{name}` holds no tags, and clients need it");
                    mistakes.error(
                        &path.item(index),
                        message,
                        "name the field that your application writes tags into",
                    );
                }
            }
            names(Some(written), path, mistakes)
        }
    }
}

/// What a response cannot be read, kept or validated without.
const NO_TAGS: &[&str] = &[
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "etag",
    "expires",
    "last-modified",
    "location",
    "set-cookie",
    "vary",
];
