//! The doorman of every client connection.
//!
//! Each connection belongs to the front. It reads every head itself, on the first request of a connection and on every
//! later one, and
//!
//! 1. **refuses** what is malformed, too large or too slow, before anyone else sees a byte of it ([`refuse`]);
//! 2. **answers** what is a plain hit, from the bytes that are stored ([`answer`]);
//! 3. **lends** the connection for everything else to Pingora's `HttpProxy`, for one request, with its bytes intact, and
//!    takes it back ([`crate::proxy::wire`]).
//!
//! HTTP/2 is Pingora's to read; there it answers hits, request by request ([`http2`]).
//!
//! It is a shortcut, never a second opinion: it asks the same functions as [`crate::proxy`], and where they do not say
//! that a fresh, complete response may be served as it is, it leaves the question to the full path.

pub mod answer;
pub mod caller;
mod connection;
pub mod head;
mod http2;
pub mod output;
pub mod proxy_protocol;
mod refuse;
pub mod repeat;
pub mod tls;

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{ALPN, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use crate::proxy::App;
use crate::proxy::wire::Wire;
use connection::{Connection, Event, Loan};
use http2::Streams;

/// Tells Pingora that the connection is kept, in its words: for any time. It is the front that waits for the next request.
const KEPT: u64 = 0;

/// The application of the client listeners.
pub struct Front {
    app: App,
    proxy: Arc<HttpProxy<App>>,
    /// Whether plain hits are answered here; if not, all goes the full way, to compare the two.
    answers: bool,
}

impl Front {
    /// A front before `proxy`, that `answers` plain hits or hands all over.
    pub fn new(app: App, proxy: HttpProxy<App>, answers: bool) -> Self {
        Self { app, proxy: Arc::new(proxy), answers }
    }

    /// Learns who is at the other end, where that is told before all else; `None` when the connection has to end.
    async fn introduce(&self, stream: Stream) -> Option<Stream> {
        // With TLS it has been read before that began.
        if !stream.as_any().is::<L4Stream>() {
            return Some(stream);
        }
        let mut plain = stream.into_any().downcast::<L4Stream>().ok()?;
        match proxy_protocol::accept(&self.app, &mut plain).await {
            Ok(()) => Some(plain),
            Err(error) => {
                tracing::debug!(%error, "a connection is closed");
                None
            }
        }
    }

    /// Lends the connection to the proxy for one request. `None` when no other can follow.
    async fn lend(&self, mut wire: Box<Wire>, loan: Loan, shutdown: &ShutdownWatch) -> Option<Box<Wire>> {
        self.app.observer.metrics.lent();
        wire.lend(loan.boundary, loan.may_switch, self.app.live.load().plan.clients.least_pace());
        let mut session = ServerSession::new_http1(wire);
        session.set_keepalive((!*shutdown.borrow()).then_some(KEPT));
        let (stream, _) = self.proxy.process_new_http(session, shutdown).await?.consume();
        let mut wire = stream.into_any().downcast::<Wire>().ok()?;
        wire.take_back().then_some(wire)
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        self.app.observer.metrics.connection();
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            let stream: Stream = Box::new(Wire::new(stream));
            return ServerApp::process_new(&Arc::new(Streams(self.clone())), stream, shutdown).await;
        }
        let stream = self.introduce(stream).await?;
        let mut connection = Connection::new(self, Box::new(Wire::new(stream)));
        loop {
            match connection.next(shutdown).await {
                Event::Lend(mut loan) => {
                    loan.name_the_host(&mut connection.wire.received);
                    let wire = self.lend(connection.wire, loan, shutdown).await?;
                    connection.wire = wire;
                }
                Event::Refuse(why) => {
                    // In a box, so that connections do not keep room for an answer that few are sent.
                    Box::pin(refuse::send(&self.app, &mut connection, why)).await;
                    return None;
                }
                Event::Close => return None,
            }
        }
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
