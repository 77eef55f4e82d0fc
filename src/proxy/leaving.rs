//! Clients that leave while they wait. Nobody reads from their connections meanwhile, so that has to be looked for.

use std::time::Duration;

use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;

use super::wire::Wire;

/// How often to look.
pub const LOOK: Duration = Duration::from_millis(100);

/// Ends when the client has closed its connection, or by HTTP/2 its stream. Who only has said all may mean to leave, and is taken at
/// that where nothing is lost by it: with a request that is safe.
pub async fn left(session: &mut Session) {
    let is_safe = session.req_header().method.is_safe();
    match session.as_downstream_mut() {
        ServerSession::H1(http1) => {
            let Some(wire) = http1.stream().as_any().downcast_ref::<Wire>() else {
                return std::future::pending().await;
            };
            while !wire.has_ended(is_safe) {
                tokio::time::sleep(LOOK).await;
            }
        }
        other => match other.watch_h2_stream_close() {
            // Be it in order or not, nobody is there.
            Some(idle) => drop(idle.await),
            None => std::future::pending().await,
        },
    }
}
