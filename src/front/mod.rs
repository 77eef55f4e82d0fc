//! The doorman of every client connection.
//!
//! Each connection belongs to the front, which lends it to Pingora's `HttpProxy` for one request at a time and
//! takes it back afterwards. So there is one place where a request can be answered or refused before the proxy
//! sees a byte of it; today everything is handed over untouched.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use crate::proxy::App;
use crate::proxy::wire::Wire;

/// How long an idle connection is kept, in seconds.
const KEEPALIVE_SECONDS: u64 = 60;

/// The application of the client listeners.
pub struct Front {
    app: App,
    proxy: Arc<HttpProxy<App>>,
}

impl Front {
    /// A front that hands everything over to `proxy`.
    pub fn new(app: App, proxy: HttpProxy<App>) -> Self {
        Self { app, proxy: Arc::new(proxy) }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        self.app.observer.metrics.connection();
        let stream: Stream = Box::new(Wire::new(stream));
        let mut connection = Some((stream, None));
        while let Some((stream, settings)) = connection {
            let mut session = ServerSession::new_http1(stream);
            match settings {
                Some(settings) => HttpPersistentSettings::apply_to_session(settings, &mut session),
                None => session.set_pipelining_enabled(true),
            }
            // Every time: a session that was used once would otherwise wait for its next request forever.
            session.set_keepalive((!*shutdown.borrow()).then_some(KEEPALIVE_SECONDS));
            connection = self.proxy.process_new_http(session, shutdown).await.map(|reused| reused.consume());
        }
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
