//! The operators' own listener: purges, metrics, health. Loopback unless the configuration says otherwise.

mod compatible;
mod dashboard;
mod idempotency;
pub mod purge;
mod token;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use serde_json::json;

use crate::proxy::App;

/// The largest request body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// How long to wait before trying to listen again.
const RETRY: Duration = Duration::from_secs(1);

/// The admin listener as a service.
pub struct Admin {
    /// What it operates.
    pub app: App,
    /// Where it listens.
    pub listen: SocketAddr,
}

#[async_trait]
impl BackgroundService for Admin {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let router = router(self.app.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let listener = loop {
            match tokio::net::TcpListener::bind(self.listen).await {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::error!(%error, listen = %self.listen, "the admin listener cannot listen; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let stopped = async move {
            // An error means that the server is gone, which also ends this.
            let _ = shutdown.changed().await;
        };
        let listener = listener.tap_io(|stream| {
            // An answer in two writes would otherwise wait for the client's delayed acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
        });
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the admin listener ended");
        }
    }
}

/// What the endpoints operate.
#[derive(Clone)]
struct Admins {
    app: App,
    answers: Arc<idempotency::Answers>,
}

const ENDPOINTS: &str = "POST /purge, GET /purges, GET /metrics, GET /stats, GET / for a browser, GET /healthz, GET /readyz, and those of Fastly, Cloudflare and Souin";

fn router(app: App) -> Router {
    Router::new()
        .route("/purge", post(purge::purge))
        .route("/purges", get(purge::purges))
        .route("/purge/{*url}", post(compatible::fastly_url))
        .route("/service/{id}/purge", post(compatible::fastly_keys))
        .route("/service/{id}/purge/{*key}", post(compatible::fastly_key))
        .route("/service/{id}/purge_all", post(compatible::fastly_all))
        .route("/client/v4/zones/{id}/purge_cache", post(compatible::cloudflare))
        .route("/souin-api/souin", any(compatible::souin))
        .route("/souin-api/souin/", any(compatible::souin))
        .route("/souin-api/souin/{*pattern}", any(compatible::souin_regex))
        .route("/metrics", get(metrics))
        .route("/metrics/", get(metrics))
        .route("/stats", get(stats))
        .route("/", get(dashboard::page))
        .route("/dashboard.css", get(dashboard::style))
        .route("/dashboard.js", get(dashboard::script))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "no such endpoint", ENDPOINTS) })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this endpoint has another method", ENDPOINTS)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Admins { app, answers: Arc::default() })
}

async fn metrics(State(admin): State<Admins>) -> impl IntoResponse {
    let upstreams = admin.app.observer.metrics.upstreams();
    admin.app.observer.metrics.raise_limit("rate-limit-clients", admin.app.limits.forgotten());
    upstreams.renew();
    for pool in admin.app.live.load().pools.values() {
        upstreams.queue(&pool.name, pool.waiting());
        pool.each(|server, state, in_flight| upstreams.server(&pool.name, server, state, in_flight));
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        admin.app.observer.metrics.render(),
    )
}

/// Who is answered here is served. What is missing is told, and keeps nobody from being served.
async fn ready(State(admin): State<Admins>) -> impl IntoResponse {
    let redis = admin.app.shared.as_ref().map(|shared| match shared.state() {
        Ok(()) if !shared.log.is_current() => {
            "connected; not all purges of the other instances are known".to_owned()
        }
        Ok(()) => "connected".to_owned(),
        Err(why) => format!("left alone: {why}"),
    });
    Json(json!({"redis": redis}))
}

/// How the servers and the store stand, for people and scripts.
async fn stats(State(admin): State<Admins>) -> impl IntoResponse {
    let live = admin.app.live.load();
    let upstreams: serde_json::Map<String, serde_json::Value> = live
        .pools
        .values()
        .map(|pool| {
            let mut servers = Vec::new();
            pool.each(|server, state, requests| {
                servers.push(json!({"server": server, "state": state, "requests": requests}));
            });
            (pool.name.to_string(), json!({"waiting": pool.waiting(), "servers": servers}))
        })
        .collect();
    let memory = &admin.app.store.memory;
    let store = json!({"entries": memory.entries(), "bytes": memory.bytes(), "capacity": memory.capacity()});
    // Those that nobody has asked yet, too.
    let mut routes: BTreeMap<String, BTreeMap<&str, u64>> =
        live.plan.routes.iter().map(|route| (route.name.to_string(), BTreeMap::new())).collect();
    routes.extend(admin.app.observer.metrics.verdicts());
    let redis = admin.app.shared.as_ref().map(|shared| shared.standing());
    Json(json!({
        "instance": &*live.plan.instance, "upstreams": upstreams, "store": store, "routes": routes, "redis": redis,
    }))
}

/// A refusal, told in JSON: what is wrong, and what to do instead.
struct Refusal {
    status: StatusCode,
    error: String,
    remedy: String,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status, error: error.into(), remedy: remedy.into() }
    }

    fn with_remedy(self, remedy: &str) -> Self {
        Self { remedy: remedy.to_owned(), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": self.error, "remedy": self.remedy}));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = header::HeaderValue::from_static("Bearer realm=\"parvis\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
