//! Subrequests of our own, and what they are to do.
//!
//! Pingora makes a subrequest out of a session: it writes the head of that one's request, and parses it anew. Nothing of a
//! client's may reach the origin in that way, and what is sent is made elsewhere; so all are made out of one session with the
//! shortest head there is, and get their own by their order.

use std::io::Cursor;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll, Waker};

use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::subrequest::server::SubrequestHandle;
use pingora::proxy::subrequest::Ctx as SubrequestCtx;
use pingora::proxy::{PreparedSubrequest, Session};
use pingora::{Error, ErrorType, Result};

use crate::origin::queue::Urgency;
use crate::proxy::Live;
use crate::proxy::context::{Context, Kind};
use crate::rules::route::Route;
use crate::store::fill::Fill;

/// What a subrequest is to do.
pub struct Order {
    /// The head that is sent.
    pub request: RequestHeader,
    /// The route of the request that caused it.
    pub route: Arc<Route>,
    /// The configuration of then.
    pub live: Arc<Live>,
    /// How it is carried out.
    pub terms: Terms,
}

/// How a subrequest is carried out.
pub struct Terms {
    /// How urgent it is.
    pub urgency: Urgency,
    /// Where its response goes; `None` for an audit.
    pub fill: Option<Arc<Fill>>,
    /// What leads it to the same server as other requests.
    pub hash: u64,
}

/// The session that subrequests are made from.
pub struct Blank(ServerSession);

impl Default for Blank {
    fn default() -> Self {
        const HEAD: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
        let mut session = ServerSession::new_http1(Box::new(Cursor::new(HEAD.to_vec())));
        let read = pin!(session.read_request()).poll(&mut Task::from_waker(Waker::noop()));
        assert!(matches!(read, Poll::Ready(Ok(true))), "the head is well-formed, and in memory");
        Self(session)
    }
}

/// A subrequest with this order, caused by that of `session`, and its receiving end. It runs when it is told to.
///
/// # Errors
///
/// Where `session` may have none.
pub fn subrequest(
    blank: &Blank,
    session: &Session,
    order: Order,
) -> Result<(PreparedSubrequest, SubrequestHandle)> {
    let Some(spawner) = session.subrequest_spawner.as_ref() else {
        return Error::e_explain(ErrorType::InternalError, "no spawner for subrequests");
    };
    let order = SubrequestCtx::builder().user_ctx(Box::new(Some(order))).build();
    Ok(spawner.create_subrequest(&blank.0, order))
}

/// Turns a subrequest of ours into what its order says, and tells whether it was one; leaves a client's request
/// alone.
///
/// # Errors
///
/// That a subrequest has no order, which none of ours lacks.
pub fn accept_order(session: &mut Session, ctx: &mut Context) -> Result<bool> {
    let Some(subrequest) = session.subrequest_ctx.as_mut() else {
        return Ok(false);
    };
    let order = subrequest.user_ctx_mut().and_then(|user| user.downcast_mut::<Option<Order>>());
    let Some(order) = order.and_then(Option::take) else {
        return Error::e_explain(ErrorType::InternalError, "a subrequest without an order");
    };
    *session.req_header_mut() = order.request;
    ctx.live = order.live;
    ctx.route = Some(order.route);
    ctx.kind = Kind::Fetch(order.terms);
    Ok(true)
}
