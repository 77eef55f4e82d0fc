//! What is known of a request while it is under way.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::Version;

use super::deadline::Deadline;
use super::encode::Encoding;
use super::shadow::Shadow;
use super::{Live, fetch, limits};
use crate::clock;
use crate::observe::outcome::Outcome;
use crate::origin::{Lease, Pool};
use crate::rules::forwarding::Client;
use crate::rules::key::CacheKey;
use crate::rules::pace::Pace;
use crate::rules::policy::Mode;
use crate::rules::route::Route;
use crate::rules::target::Scheme;

/// Whose request it is.
pub enum Kind {
    /// A client's.
    Client,
    /// One of our own, for the store.
    Fetch(fetch::Terms),
}

/// One request under way.
pub struct Context {
    /// The configuration it began with.
    pub live: Arc<Live>,
    /// Whose it is.
    pub kind: Kind,
    /// The version it came in.
    pub version: Version,
    /// Who sent it.
    pub client: Client,
    /// The route that took it.
    pub route: Option<Arc<Route>>,
    /// What the route's shadow watches.
    pub shadow: Option<Box<Shadow>>,
    /// What encodes the body of a pass on its way.
    pub encoding: Option<Encoding>,
    /// The key for which it passes because its response was uncacheable a moment ago.
    pub believed_uncacheable: Option<CacheKey>,
    /// What will be recorded.
    pub outcome: Outcome,
    /// When it began.
    pub began: Instant,
    /// The place that it has at a server.
    pub lease: Option<Lease>,
    /// The servers that have failed it.
    pub failed_by: Vec<u64>,
    /// How often it was sent, or was to be.
    pub attempts: usize,
    /// Whether the final head has come.
    pub has_answered: bool,
    /// Its place among the requests that its client may have under way at once.
    pub place: Option<limits::Place>,
    /// What an answer of parvis' own tells besides.
    pub told: Vec<(&'static str, String)>,
    /// Whether a connection to the origin was made.
    pub connected: bool,
    /// How long the server may still take for the head of its response.
    pub deadline: Option<Deadline>,
    /// How fast the client sends the content of a request by HTTP/2.
    pub sends: Pace,
    /// When the request was sent to the origin.
    pub sent_at: Option<Instant>,
    _active: Active,
}

/// Counts a request for as long as it lasts.
pub struct Active(Arc<AtomicUsize>);

impl Active {
    /// One more.
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Context {
    /// A client's request, of which nothing is known yet.
    pub fn new(live: Arc<Live>, active: &Arc<AtomicUsize>) -> Self {
        let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let client = Client { peer: unknown, address: unknown, scheme: Scheme::Http, told_by: None };
        Self {
            live,
            kind: Kind::Client,
            version: Version::HTTP_11,
            client,
            route: None,
            shadow: None,
            encoding: None,
            believed_uncacheable: None,
            outcome: Outcome::default(),
            began: clock::start(),
            lease: None,
            failed_by: Vec::new(),
            attempts: 0,
            has_answered: false,
            place: None,
            told: Vec::new(),
            connected: false,
            deadline: None,
            sends: Pace::default(),
            sent_at: None,
            _active: Active::new(active),
        }
    }

    /// The servers of the route's upstream.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        self.route.as_ref().and_then(|route| self.live.pools.get(&route.upstream))
    }

    /// Whether the route caches.
    pub fn mode(&self) -> Mode {
        self.route.as_ref().map_or(Mode::Off, |route| route.cache.mode)
    }

    /// The name of the route.
    pub fn route_name(&self) -> Option<Arc<str>> {
        self.route.as_ref().map(|route| route.name.clone())
    }
}
