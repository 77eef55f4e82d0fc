//! A page for people that shows `/stats` as it changes. It needs nothing from elsewhere, and may do nothing but ask.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// Nothing but its own files, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("dashboard/index.html"))
}

/// How it looks.
pub async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("dashboard/dashboard.css"))
}

/// What renews it.
pub async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("dashboard/dashboard.js"))
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    let fields = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (fields, text).into_response()
}
