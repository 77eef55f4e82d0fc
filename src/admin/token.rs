//! Who asks, and what they may do.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Admins, Refusal};
use crate::config::schema::Scope;
use crate::observe::metrics::Cause;
use crate::plan::{Plan, Token};
use crate::proxy::App;
use crate::proxy::purge::Asker;
use crate::rules::selector::Selector;

/// Fields that carry a secret besides `Authorization`: Fastly's and Cloudflare's.
const SECRET_FIELDS: &[&str] = &["fastly-key", "x-auth-key"];

/// Someone with a token.
#[derive(Clone)]
pub(super) struct Caller {
    token: Token,
    from: SocketAddr,
}

impl FromRequestParts<Admins> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, admin: &Admins) -> Result<Self, Refusal> {
        let app = &admin.app;
        let live = app.live.load_full();
        let from = ConnectInfo::<SocketAddr>::from_request_parts(parts, admin).await;
        let ConnectInfo(from) = from.map_err(|error| {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), "report this as a defect")
        })?;
        match authenticate(&live.plan, &parts.headers) {
            Ok(token) => Ok(Self { token: token.clone(), from }),
            Err(refusal) => Err(refused(app, "unknown", from, refusal)),
        }
    }
}

impl Caller {
    /// Whether the token allows a purge of all these.
    pub fn may_purge(&self, selectors: &[Selector]) -> Result<(), Refusal> {
        match selectors.iter().any(Selector::is_everything) {
            true => self.may(Scope::PurgeAll, "purge_all"),
            // Who may remove everything may remove a part.
            false if self.token.scopes.contains(&Scope::PurgeAll) => Ok(()),
            false => self.may(Scope::Purge, "purge"),
        }
    }

    /// Whether the token allows to see what was purged and what is stored.
    pub fn may_read(&self) -> Result<(), Refusal> {
        self.may(Scope::Read, "read")
    }

    fn may(&self, scope: Scope, name: &str) -> Result<(), Refusal> {
        if self.token.scopes.contains(&scope) {
            return Ok(());
        }
        let remedy = format!("add `{name}` to the scopes of token `{}`", self.token.name);
        Err(Refusal::new(StatusCode::FORBIDDEN, format!("the token does not allow `{name}`"), remedy))
    }

    /// The name of the token.
    pub fn name(&self) -> &str {
        &self.token.name
    }

    /// For the record of a purge.
    pub fn asker(&self) -> Asker {
        Asker { by: self.token.name.clone(), from: self.from.to_string(), cause: Cause::Api }
    }

    /// Takes note of a refusal, which it returns.
    pub fn refused(&self, app: &App, refusal: Refusal) -> Refusal {
        refused(app, &self.token.name, self.from, refusal)
    }
}

fn refused(app: &App, by: &str, from: SocketAddr, refusal: Refusal) -> Refusal {
    app.observer.metrics.purge_refused();
    tracing::warn!(
        target: "parvis::audit", by, %from, status = refusal.status.as_u16(), reason = refusal.error, "refused"
    );
    refusal
}

/// Finds the token of a request. Every token is compared, each in constant time.
fn authenticate<'p>(plan: &'p Plan, headers: &HeaderMap) -> Result<&'p Token, Refusal> {
    let remedy = "send `Authorization: Bearer <secret>` of a token from `admin.tokens`";
    let secret = secret(headers).map_err(|error| Refusal::new(StatusCode::UNAUTHORIZED, error, remedy))?;
    let digest: [u8; 32] = Sha256::digest(secret).into();
    let mut found = None;
    for token in &plan.admin.tokens {
        if bool::from(token.digest.ct_eq(&digest)) {
            found = Some(token);
        }
    }
    found.ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "unknown token", remedy))
}

fn secret(headers: &HeaderMap) -> Result<&[u8], &'static str> {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        let carried = SECRET_FIELDS.iter().find_map(|name| headers.get(*name));
        return carried.map(|value| value.as_bytes().trim_ascii()).ok_or("no token");
    };
    let (scheme, secret) = match authorization.to_str().ok().and_then(|value| value.split_once(' ')) {
        Some((scheme, secret)) => (scheme, secret.trim()),
        None => return Err("no token"),
    };
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.as_bytes()).ok_or("not a bearer token")
}
