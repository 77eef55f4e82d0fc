//! The part of the YAML about fields that are added, replaced and removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::values::Period;

/// What is done to the fields of every response.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseHeaders {
    /// What is added where the application set none. `basic` (default): `X-Content-Type-Options: nosniff`, `X-Frame-Options: DENY`,
    /// `Referrer-Policy: strict-origin-when-cross-origin`. `strict`: also `Strict-Transport-Security` over TLS, and a
    /// `Permissions-Policy` that allows no camera, microphone, position or payment. `off`: nothing.
    pub preset: Option<Preset>,
    /// `Strict-Transport-Security`, over TLS only. Default: none, but with `strict`.
    pub hsts: Hsts,
    /// `Permissions-Policy`. Default: that of the preset.
    pub permissions_policy: Option<String>,
    /// `Content-Security-Policy`. Default none.
    pub content_security_policy: Option<String>,
    /// `X-XSS-Protection`, for those whose audits demand it. Default none.
    pub xss_protection: Option<String>,
    /// Which of these replace what the application set. Default none.
    pub r#override: Vec<String>,
    /// What clients are not told, such as `[Server, X-Powered-By]`. Default none.
    pub remove: Vec<String>,
}

/// A set of security headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// None.
    Off,
    /// The three that break nothing.
    Basic,
    /// All that need no knowledge of the application.
    Strict,
}

/// How long browsers are to come by TLS only.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hsts {
    /// How long. Default `365d`; `0s` ends it.
    pub max_age: Option<Period>,
    /// Whether the names below too. Default `true`.
    pub include_subdomains: Option<bool>,
    /// Whether browsers may know it before they have come once; hard to take back. Default `false`.
    pub preload: Option<bool>,
}

/// What is done to the fields of a route's messages.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Headers {
    /// Replaces what is there.
    pub set: BTreeMap<String, String>,
    /// Adds one more.
    pub add: BTreeMap<String, String>,
    /// Takes away.
    pub remove: Vec<String>,
}
