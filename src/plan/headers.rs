//! Fields that are added, replaced and removed, compiled.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderValue;

use super::compile::Mistakes;
use super::routes::MAX_ITEMS;
use crate::config::headers::{Headers, Preset, ResponseHeaders};
use crate::config::locate::Path;
use crate::rules::head::is_token;
use crate::rules::headers::{HeaderPolicy, Mode, RequestHeaders, Written, is_own};

const BASIC: &[(&str, &str)] = &[
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
];

const PERMISSIONS: &str = "camera=(), geolocation=(), microphone=(), payment=(), usb=()";

/// What the lists of browsers ask for (hstspreload.org).
const MIN_PRELOAD: Duration = Duration::from_secs(31_536_000);

pub(super) fn compile(written: &ResponseHeaders, path: &Path, mistakes: &mut Mistakes) -> HeaderPolicy {
    let preset = written.preset.unwrap_or(Preset::Basic);
    let mut fields: Vec<Written> = Vec::new();
    if preset != Preset::Off {
        fields.extend(BASIC.iter().map(|(name, value)| Written::new(name, value, Mode::IfAbsent)));
    }
    let permissions = (preset == Preset::Strict).then_some(PERMISSIONS);
    for (name, value, key) in [
        ("Permissions-Policy", written.permissions_policy.as_deref().or(permissions), "permissions_policy"),
        ("Content-Security-Policy", written.content_security_policy.as_deref(), "content_security_policy"),
        ("X-XSS-Protection", written.xss_protection.as_deref(), "xss_protection"),
    ] {
        if let Some(value) = value.filter(|value| is_value(value, &path.key(key), mistakes)) {
            fields.push(Written::new(name, value, Mode::IfAbsent));
        }
    }
    fields.extend(hsts(written, preset, &path.key("hsts"), mistakes));
    for (index, name) in written.r#override.iter().enumerate() {
        match fields.iter_mut().find(|field| field.name.eq_ignore_ascii_case(name)) {
            Some(field) => field.mode = Mode::Replace,
            None => {
                let remedy =
                    "name one that is added here; a route's `response_headers: {set: ..}` replaces any";
                mistakes.error(&path.key("override").item(index), format!("`{name}` is not added"), remedy);
            }
        }
    }
    HeaderPolicy::new(fields, removed(&written.remove, &path.key("remove"), mistakes))
}

fn hsts(written: &ResponseHeaders, preset: Preset, path: &Path, mistakes: &mut Mistakes) -> Option<Written> {
    let own = &written.hsts;
    let is_written = own.max_age.is_some() || own.include_subdomains.is_some() || own.preload.is_some();
    if preset != Preset::Strict && !is_written {
        return None;
    }
    let max_age = own.max_age.map_or(MIN_PRELOAD, |period| period.0);
    let mut value = format!("max-age={}", max_age.as_secs());
    let subdomains = own.include_subdomains.unwrap_or(true);
    if subdomains {
        value += "; includeSubDomains";
    }
    if own.preload == Some(true) {
        value += "; preload";
        if max_age < MIN_PRELOAD || !subdomains {
            let remedy = "write `max_age: 365d`, and leave `include_subdomains` as it is";
            mistakes.error(
                &path.key("preload"),
                "browsers preload a year at least, with all names below",
                remedy,
            );
        }
    }
    Some(Written { https_only: true, ..Written::new("Strict-Transport-Security", &value, Mode::IfAbsent) })
}

/// What is done to the responses of a route, besides what is done to all.
pub(super) fn of_route(
    all: &HeaderPolicy,
    own: &Headers,
    path: &Path,
    mistakes: &mut Mistakes,
) -> HeaderPolicy {
    let of = |fields: Vec<(String, String)>, mode| {
        fields.into_iter().map(move |(name, value)| Written::new(&name, &value, mode))
    };
    let RequestHeaders { set, add, remove } = of_requests(own, path, mistakes);
    all.with(of(set, Mode::Replace).chain(of(add, Mode::Add)).collect(), &remove)
}

/// What is done to the requests of a route.
pub(super) fn of_requests(own: &Headers, path: &Path, mistakes: &mut Mistakes) -> RequestHeaders {
    let mut fields = |map: &BTreeMap<String, String>, key: &str| {
        let path = path.key(key);
        mistakes.limit(&path, map.len(), MAX_ITEMS, "fields");
        let mut kept = Vec::new();
        for (name, value) in map {
            let path = path.key(name);
            if is_name(name, &path, mistakes) && is_value(value, &path, mistakes) {
                kept.push((name.clone(), value.clone()));
            }
        }
        kept
    };
    let (set, add) = (fields(&own.set, "set"), fields(&own.add, "add"));
    let names_host = |name: &String| name.eq_ignore_ascii_case("host");
    if own.add.keys().any(names_host) || own.remove.iter().any(names_host) {
        mistakes.error(path, "a request has one host", "replace it: `set: {Host: app.internal}`");
    }
    RequestHeaders { set, add, remove: removed(&own.remove, &path.key("remove"), mistakes) }
}

fn removed(names: &[String], path: &Path, mistakes: &mut Mistakes) -> Vec<String> {
    mistakes.limit(path, names.len(), MAX_ITEMS, "fields");
    let mut kept = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if is_name(name, &path.item(index), mistakes) {
            kept.push(name.to_ascii_lowercase());
        }
    }
    kept
}

fn is_name(name: &str, path: &Path, mistakes: &mut Mistakes) -> bool {
    if !is_token(name) {
        mistakes.error(path, format!("`{name}` is not the name of a field"), "write `X-Frame-Options`");
        return false;
    }
    if is_own(name) {
        mistakes.error(path, format!("`{name}` is parvis' own to write"), "leave it out");
        return false;
    }
    true
}

fn is_value(value: &str, path: &Path, mistakes: &mut Mistakes) -> bool {
    let fits = HeaderValue::from_str(value).is_ok() && value.len() <= 8192;
    if !fits {
        // It may be a secret, and is not repeated.
        mistakes.error(
            path,
            "this is not the value of a field",
            "one line of visible characters, 8 KiB at most",
        );
    }
    fits
}
