//! `POST /purge`: who may, what it names, what went. Every attempt leaves a line in the audit log.

use std::net::SocketAddr;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Refusal;
use crate::config::schema::Scope;
use crate::plan::{Plan, Token};
use crate::proxy::App;
use crate::rules::invalidate::{Selector, SelectorError};

/// The most selectors in one request.
const MAX_SELECTORS: usize = 1000;

/// What to remove.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// `/path?query` on every host, or `http://host/path?query`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// `/path` on every host, or `http://host/path`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// The same with `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wildcards: Vec<String>,
    /// Labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Everything of a host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Regular expressions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regex: Vec<String>,
    /// Everything.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Expire it instead: it may be shown while it is refreshed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub soft: bool,
    /// Only tell what would go.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Answer {
    /// The purge's place in the order of purges. A dry run has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Expired rather than removed.
    #[serde(default)]
    pub soft: bool,
    /// Nothing was removed: this is what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Stored responses removed.
    pub entries: usize,
    /// Bytes they were charged with.
    pub bytes: u64,
    /// The same per selector, in the order given.
    pub selectors: Vec<Removed>,
    /// Who has acknowledged.
    #[serde(default)]
    pub instances: Vec<Acknowledged>,
    /// Of a dry run: at most so many requests to the origin until all is stored again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_requests: Option<u64>,
    /// Of a dry run: some of the URLs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

/// What one selector removed.
#[derive(Debug, Deserialize, Serialize)]
pub struct Removed {
    /// As understood.
    pub selector: String,
    /// Stored responses removed.
    pub entries: usize,
    /// Bytes they were charged with.
    pub bytes: u64,
}

/// One parvis that has done it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Acknowledged {
    /// Its name.
    pub instance: String,
    /// Stored responses it removed.
    pub entries: usize,
}

pub(super) async fn purge(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Json<Answer>, Refusal> {
    let live = app.live.load_full();
    let refused = |by: &str, refusal: Refusal| {
        app.observer.metrics.purge("refused", 0);
        tracing::warn!(target: "parvis::audit", by, %from, status = refusal.status.as_u16(), reason = refusal.error, "purge refused");
        refusal
    };
    let token = authenticate(&live.plan, &headers).map_err(|refusal| refused("unknown", refusal))?;
    let selectors = body
        .map_err(|error| {
            Refusal::new(error.status(), error.body_text(), "send at most 1 MiB; split the purge")
        })
        .and_then(|body| read(&body))
        .and_then(|request| authorize(token, &request).map(|()| request))
        .and_then(|request| selectors(&request, &live.plan))
        .map_err(|refusal| refused(&token.name, refusal))?;
    let purged = app.store.purge(&selectors);
    let (entries, bytes) = purged.total();
    app.observer.metrics.purge("api", entries);
    let names: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    tracing::info!(target: "parvis::audit", by = token.name, %from, selectors = names.join(", "), entries, bytes, sequence = purged.sequence.0, "purged");
    let removed = names.into_iter().zip(&purged.removed);
    let removed =
        removed.map(|(selector, (entries, bytes))| Removed { selector, entries: *entries, bytes: *bytes });
    let sequence = Some(purged.sequence.0);
    Ok(Json(Answer { sequence, entries, bytes, selectors: removed.collect(), ..Answer::default() }))
}

/// Finds the token of a request. Every token is compared, each in constant time.
fn authenticate<'p>(plan: &'p Plan, headers: &HeaderMap) -> Result<&'p Token, Refusal> {
    let remedy = "send `Authorization: Bearer <secret>` of a token from `admin.tokens`";
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some((scheme, secret)) = given.and_then(|value| value.split_once(' ')) else {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "no token", remedy));
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "not a bearer token", remedy));
    }
    let digest: [u8; 32] = Sha256::digest(secret.trim()).into();
    let mut found = None;
    for token in &plan.admin.tokens {
        if bool::from(token.digest.ct_eq(&digest)) {
            found = Some(token);
        }
    }
    found.ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "unknown token", remedy))
}

fn authorize(token: &Token, request: &Request) -> Result<(), Refusal> {
    let (needed, name) = if request.all { (Scope::PurgeAll, "purge_all") } else { (Scope::Purge, "purge") };
    // Who may remove everything may remove a part.
    if token.scopes.contains(&needed) || token.scopes.contains(&Scope::PurgeAll) {
        return Ok(());
    }
    let remedy = format!("add `{name}` to the scopes of token `{}`", token.name);
    Err(Refusal::new(StatusCode::FORBIDDEN, format!("the token does not allow `{name}`"), remedy))
}

fn read(body: &[u8]) -> Result<Request, Refusal> {
    let remedy = "send JSON such as {\"tags\": [\"products\"], \"urls\": [\"/\"], \"prefixes\": [\"/blog/\"]} or {\"all\": true}";
    let refusal = |error: serde_json::Error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string(), remedy);
    // Through an object: serde would also take a struct's fields from a list, in order.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).map_err(refusal)?;
    let request: Request = serde_json::from_value(object.into()).map_err(refusal)?;
    let unknown = [&request.wildcards, &request.hosts, &request.regex].iter().any(|list| !list.is_empty());
    if unknown || request.soft || request.dry_run {
        let error = "this parvis does not know wildcards, hosts, regex, soft and dry_run yet";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error, remedy));
    }
    let count = request.urls.len() + request.prefixes.len() + request.tags.len();
    if count == 0 && !request.all {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "nothing to purge", remedy));
    }
    if count > MAX_SELECTORS {
        let error = format!("{count} selectors; at most {MAX_SELECTORS} in one purge");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error, "split the purge"));
    }
    Ok(request)
}

fn selectors(request: &Request, plan: &Plan) -> Result<Vec<Selector>, Refusal> {
    let mut selectors = Vec::new();
    let mut add = |text: &str, read: Result<Selector, SelectorError>| {
        let refusal =
            |error| Refusal::new(StatusCode::BAD_REQUEST, format!("`{text}`: {error}"), "nothing was purged");
        read.map(|selector| selectors.push(selector)).map_err(refusal)
    };
    for url in &request.urls {
        add(url, Selector::url(url, &plan.query_policies))?;
    }
    for prefix in &request.prefixes {
        add(prefix, Selector::prefix(prefix))?;
    }
    for tag in &request.tags {
        add(tag, Selector::tag(tag))?;
    }
    if request.all {
        selectors.push(Selector::All);
    }
    Ok(selectors)
}
