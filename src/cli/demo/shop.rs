//! The legacy application of the demo: slow, no cache fields, a cookie here and there, an API with writes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::json;

/// What every page takes: the template, the ORM, the forgotten loop.
const SLOWNESS: Duration = Duration::from_millis(300);

/// The shop, open until the process ends.
pub struct Shop {
    pub address: SocketAddr,
    books: Arc<Books>,
}

#[derive(Default)]
struct Books {
    visits: Mutex<HashMap<String, usize>>,
    prices: Mutex<HashMap<u32, u32>>,
}

impl Shop {
    /// Opens the shop on a free port, in a thread of its own.
    pub fn start() -> std::io::Result<Self> {
        let books = Arc::new(Books::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let router = router(books.clone());
        std::thread::Builder::new().name("shop".to_owned()).spawn(move || {
            if let Err(error) = runtime.block_on(async { axum::serve(listener, router).await }) {
                tracing::error!(%error, "the shop closed");
            }
        })?;
        Ok(Self { address, books })
    }

    /// How often a path was asked for.
    pub fn visits(&self, path: &str) -> usize {
        self.books.visits.lock().get(path).copied().unwrap_or_default()
    }
}

fn router(books: Arc<Books>) -> Router {
    Router::new()
        .route("/products/{id}", get(product_page))
        .route("/api/products/{id}", get(product).put(change_price))
        .route("/hello", get(hello))
        .route("/basket", get(basket))
        .route("/orders", get(hello))
        .route("/news", get(hello))
        .layer(middleware::from_fn_with_state(books.clone(), be_slow))
        .with_state(books)
}

async fn be_slow(State(books): State<Arc<Books>>, request: Request, next: Next) -> Response {
    *books.visits.lock().entry(request.uri().path().to_owned()).or_default() += 1;
    tokio::time::sleep(SLOWNESS).await;
    next.run(request).await
}

impl Books {
    fn price(&self, id: u32) -> u32 {
        self.prices.lock().get(&id).copied().unwrap_or(100 + id)
    }
}

async fn product_page(State(books): State<Arc<Books>>, Path(id): Path<u32>) -> Html<String> {
    let reviews = "<li>Solid. Would buy again.</li>\n".repeat(64);
    Html(format!("<h1>Product {id}</h1>\n<p>Price: {}</p>\n<ul>\n{reviews}</ul>\n", books.price(id)))
}

async fn product(State(books): State<Arc<Books>>, Path(id): Path<u32>) -> Json<serde_json::Value> {
    Json(json!({"id": id, "price": books.price(id)}))
}

async fn change_price(State(books): State<Arc<Books>>, Path(id): Path<u32>, body: String) -> Response {
    let Ok(price) = body.trim().parse() else {
        return (StatusCode::BAD_REQUEST, "the body is the new price, a whole number\n").into_response();
    };
    books.prices.lock().insert(id, price);
    Json(json!({"id": id, "price": price})).into_response()
}

/// Greets whoever has a session, and does not say that it does.
async fn hello(headers: HeaderMap) -> String {
    let cookies = headers.get(header::COOKIE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = cookies.split("; ").find_map(|cookie| cookie.strip_prefix("sessionid="));
    format!("Hello {}!\n", name.unwrap_or("stranger"))
}

async fn basket() -> impl IntoResponse {
    ([(header::SET_COOKIE, "basket=new; Path=/")], "Your basket is empty.\n")
}
