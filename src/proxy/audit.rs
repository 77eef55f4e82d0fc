//! Audits: a share of hits is compared with what the origin would have answered to the same visitor.
//!
//! A difference alone may be a change of the page that no purge has told of, a page that is never twice the same, or a slip
//! of the origin. So the origin is asked four times, in turn as the visitor and as anyone, with nothing of the visitor that
//! could be left out. When each pair agrees within itself and not with the other, the page depends on the visitor, and the
//! route is tripped: what is stored of it is removed, and its requests pass until the next reload.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use pingora::Result;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::subrequest::server::SubrequestHandle;
use pingora::proxy::{PreparedSubrequest, Session};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::context::Context;
use super::view;
use super::{App, Live, fetch, upstream};
use crate::origin::queue::Urgency;
use crate::rules::cache_control::CacheControl;
use crate::rules::guard::{self, Difference};
use crate::rules::head::{Fields, ResponseHead};
use crate::rules::route::Route;
use crate::rules::selector::Selector;
use crate::store::collect::Collected;
use crate::store::response::{Head, StoredResponse};

/// The routes that an audit has tripped, for as long as a configuration is live.
#[derive(Default)]
pub struct Tripped(RwLock<HashSet<Arc<str>>>);

impl Tripped {
    /// Whether this route is.
    pub fn holds(&self, route: &str) -> bool {
        let routes = self.0.read();
        !routes.is_empty() && routes.contains(route)
    }

    fn trip(&self, route: &Arc<str>) {
        self.0.write().insert(route.clone());
    }
}

/// What an audit found.
enum Finding {
    /// The visitor would have got the same.
    Same,
    /// The page has changed since it was stored, for everyone alike.
    Changed,
    /// The page is never twice the same.
    Volatile,
    /// The page depends on the visitor.
    Different(Difference),
    /// The origin did not answer completely.
    Failed,
}

impl Finding {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Changed => "changed",
            Self::Volatile => "volatile",
            Self::Different(_) => "different",
            Self::Failed => "failed",
        }
    }
}

/// How long an audit may take: nobody waits for it, and it holds workers of the origin.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One answer of the origin.
struct Answer {
    head: Head,
    body: Collected,
}

impl Answer {
    fn parts(&self) -> (&Head, &[u8]) {
        (&self.head, self.body.bytes())
    }
}

type Question = (PreparedSubrequest, SubrequestHandle);

/// One hit under audit.
struct Audit {
    live: Arc<Live>,
    route: Arc<Route>,
    stored: Arc<StoredResponse>,
    /// As the visitor asks, and as anyone asks; twice.
    rounds: [[Question; 2]; 2],
    _permit: OwnedSemaphorePermit,
}

/// Audits a hit that was served with `stored`, if the lot falls on it.
pub fn sample(app: &App, session: &Session, ctx: &Context, stored: &Arc<StoredResponse>) {
    let Some(route) = ctx.route.as_ref().filter(|route| is_drawn(route.cache.audit)) else { return };
    if session.req_header().method != "GET" {
        return;
    }
    let Ok(permit) = app.audits.clone().try_acquire_owned() else {
        app.observer.metrics.limit("audits");
        return;
    };
    match Audit::new(app, session, ctx, route, stored, permit) {
        Ok(audit) => {
            let app = app.clone();
            tokio::spawn(async move { audit.run(&app).await });
        }
        Err(error) => tracing::error!(%error, route = %route.name, "an audit could not be started"),
    }
}

/// Draws a lot: true for this share of all calls. Nobody outside can foresee it.
fn is_drawn(share: f64) -> bool {
    // 53 bits are what a float holds.
    #[allow(clippy::cast_precision_loss)]
    let lot = || (Uuid::new_v4().as_u64_pair().1 & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64;
    share > 0.0 && lot() < share
}

impl Audit {
    fn new(
        app: &App,
        session: &Session,
        ctx: &Context,
        route: &Arc<Route>,
        stored: &Arc<StoredResponse>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self> {
        let view = view::received(session.req_header(), &ctx.client);
        let ask = |request| {
            let (route, live) = (route.clone(), ctx.live.clone());
            let terms = fetch::Terms { urgency: Urgency::Background, fill: None, hash: 0 };
            fetch::subrequest(&app.blank, session, fetch::Order { request, route, live, terms })
        };
        let visitor = upstream::for_audit(&view, &route.cache, ctx)?;
        let anyone = upstream::for_anyone(&view, &route.cache, ctx)?;
        Ok(Self {
            rounds: [[ask(visitor.clone())?, ask(anyone.clone())?], [ask(visitor)?, ask(anyone)?]],
            live: ctx.live.clone(),
            route: route.clone(),
            stored: stored.clone(),
            _permit: permit,
        })
    }

    async fn run(self, app: &App) {
        let (live, route) = (self.live.clone(), self.route.clone());
        let path = self.stored.facts.path.clone();
        let found = tokio::time::timeout(TIMEOUT, self.find(app)).await;
        let finding = found.unwrap_or(Finding::Failed);
        app.observer.metrics.audit(&route.name, finding.as_str());
        if let Finding::Different(difference) = finding {
            live.tripped.trip(&route.name);
            app.store.memory.remove_route(&route.name);
            if let Some(shared) = app.shared.as_ref().filter(|_| route.cache.is_shared) {
                // A purge cannot name a route, and what it has shared may be anybody's.
                shared.log.announce(&[Selector::All], false);
            }
            tracing::error!(
                route = %route.name,
                %path,
                "audit: a visitor would have got another {difference}; the route passes until the next reload"
            );
        }
    }

    async fn find(self, app: &App) -> Finding {
        let ask = |question| answer(app, question, self.live.plan.memory.max_object_size);
        let [[visitor, anyone], [visitor_again, anyone_again]] = self.rounds;
        let stored = (&self.stored.head, &self.stored.body[..]);
        // What the origin refuses or cannot do now says nothing of the page.
        let is_of_page = |answer: &Answer| answer.head.status < 400 || answer.head.status == stored.0.status;
        let Some(own) = ask(visitor).await.filter(is_of_page) else { return Finding::Failed };
        if difference(stored, own.parts()).is_none() {
            return Finding::Same;
        }
        let Some(others) = ask(anyone).await.filter(is_of_page) else { return Finding::Failed };
        let Some(differs) = difference(others.parts(), own.parts()) else { return Finding::Changed };
        let Some(own_again) = ask(visitor_again).await.filter(is_of_page) else { return Finding::Failed };
        let Some(others_again) = ask(anyone_again).await.filter(is_of_page) else { return Finding::Failed };
        let is_volatile = difference(own.parts(), own_again.parts())
            .or_else(|| difference(others.parts(), others_again.parts()))
            .is_some();
        if is_volatile { Finding::Volatile } else { Finding::Different(differs) }
    }
}

fn difference(one: (&Head, &[u8]), other: (&Head, &[u8])) -> Option<Difference> {
    one.0.with(|a| other.0.with(|b| guard::difference((a, one.1), (b, other.1))))
}

/// Asks the origin; `None` when it fails, breaks off, or sends more than `max` bytes or than is left of the budget.
async fn answer(app: &App, (subrequest, handle): Question, max: u64) -> Option<Answer> {
    let (_, answer) = tokio::join!(subrequest.run(), receive(app, handle, app.store.fills.collect(max)));
    answer
}

async fn receive(app: &App, mut handle: SubrequestHandle, mut body: Collected) -> Option<Answer> {
    let mut head = None;
    let mut ends = false;
    while let Some(task) = handle.rx.recv().await {
        match task {
            HttpTask::Header(response, _) if response.status.is_informational() => {}
            HttpTask::Header(response, end) => {
                let fields = view::response_fields(&response);
                let response =
                    ResponseHead { status: response.status.as_u16(), fields: Fields::new(&fields) };
                head = Some(comparable(&response));
                ends |= end;
            }
            HttpTask::Body(chunk, end) => {
                if let Err(reason) = body.push(&chunk.unwrap_or_default()) {
                    app.observer.metrics.limit(reason.as_str());
                    return None;
                }
                ends |= end;
            }
            HttpTask::Done => ends = true,
            HttpTask::Trailer(_) => {}
            HttpTask::UpgradedBody(..) | HttpTask::Failed(_) => return None,
        }
    }
    head.filter(|_| ends).map(|head| Answer { head, body })
}

/// What of a head is compared with a stored one: neither cookies nor what is for one visitor by name.
pub fn comparable(response: &ResponseHead<'_>) -> Head {
    let withheld = CacheControl::of(response.fields).withheld;
    Head::storable(response).without(&["set-cookie"]).without(&withheld)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lot_falls_as_often_as_the_share_says() {
        assert!(!(0..1000).any(|_| is_drawn(0.0)));
        assert!((0..1000).all(|_| is_drawn(1.0)));
        let drawn = (0..10_000).filter(|_| is_drawn(0.25)).count();
        assert!((2_000..3_000).contains(&drawn), "{drawn}");
    }
}
