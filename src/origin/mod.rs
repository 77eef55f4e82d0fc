//! The upstream side: which server takes a request, how many at once, and who has to wait.
//!
//! A request asks the [`Pool`] of its upstream for a [`Lease`], which is a place at one server: at once, or after waiting in
//! the [`queue`], or not at all. It tells the lease how it has done, and gives it back. What that says of the server is for
//! [`crate::rules::breaker`]; whether the request is sent once more is for [`crate::rules::retry`].
//!
//! | module | |
//! |---|---|
//! | [`servers`] | what is known of each server; who gets which |
//! | [`queue`] | who waits, and whose turn it is |
//! | [`peer`] | one address of a server, as Pingora connects to it |
//! | [`resolve`] | the addresses behind the names |
//! | [`health`] | asking servers whether they are well |

pub mod health;
pub mod peer;
pub mod queue;
pub mod resolve;
pub mod servers;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pingora::upstreams::peer::HttpPeer;
use tokio::sync::oneshot;

use crate::clock;
use crate::plan::Plan;
use crate::plan::upstreams::Upstream;
use crate::rules::retry::{Attempt, Failure, NoRetry};
use crate::rules::unavailable::Unavailable;
use queue::{Joined, Ticket, Urgency};
use resolve::{LookedUp, LookupError};
use servers::{Ask, Change, Course, Placed, Servers, counts};

/// The servers of one upstream.
#[derive(Debug)]
pub struct Pool {
    /// What it is called.
    pub name: Arc<str>,
    /// What the operator wants of it.
    pub settings: Arc<Upstream>,
    servers: Mutex<Servers>,
}

/// The pools of a plan, by the name of the upstream.
pub type Pools = BTreeMap<Arc<str>, Arc<Pool>>;

/// One that waits.
#[derive(Debug)]
pub struct Waiter {
    /// By what its server is chosen.
    ask: Ask,
    /// Where it hears of its place.
    grant: oneshot::Sender<Result<Lease, Unavailable>>,
}

/// How a request asks for a server.
#[derive(Debug)]
pub struct Wish {
    /// By what it is chosen.
    pub ask: Ask,
    /// The route, whose line it joins if it has to wait.
    pub route: Arc<str>,
    /// How urgent it is.
    pub urgency: Urgency,
    /// Until when it may wait, if that is sooner than the queue's own time.
    pub deadline: Instant,
}

/// Looks up the servers of a plan, which waits for the resolver. Pools of `before` whose settings are unchanged go on. A server
/// that cannot be looked up is tried again later.
pub fn pools(plan: &Plan, before: Option<&Pools>) -> Pools {
    let mut pools = Pools::new();
    for (name, settings) in &plan.upstreams {
        let kept = before.and_then(|pools| pools.get(name)).filter(|pool| *pool.settings == *settings);
        let pool = kept.cloned().unwrap_or_else(|| {
            let pool = Arc::new(Pool::new(name.clone(), settings.clone()));
            pool.take_over(resolve::look_up(settings), &mut Vec::new());
            pool
        });
        pools.insert(name.clone(), pool);
    }
    pools
}

impl Pool {
    fn new(name: Arc<str>, settings: Upstream) -> Self {
        let settings = Arc::new(settings);
        let servers = Mutex::new(Servers::new(settings.clone()));
        Self { name, settings, servers }
    }

    /// Takes over what was looked up. Addresses of a server that could not be looked up stay as they were. `failing` is what
    /// failed the last time: it is told once.
    pub fn take_over(self: &Arc<Self>, looked_up: Vec<LookedUp>, failing: &mut Vec<LookupError>) {
        let (mut endpoints, mut errors) = (Vec::new(), Vec::new());
        let known = self.endpoints();
        for (server, result) in self.settings.servers.iter().zip(looked_up) {
            match result {
                Ok(found) => endpoints.extend(found),
                Err(error) => {
                    endpoints.extend(known.iter().filter(|known| known.is_of(server)).cloned());
                    if !failing.contains(&error) {
                        tracing::warn!(upstream = %self.name, %error, "its last addresses are used, if there are any");
                    }
                    errors.push(error);
                }
            }
        }
        *failing = errors;
        self.update(|servers, now| {
            servers.replace(endpoints, now);
            None
        });
    }

    /// A place at a server for a request that has just come. `None`: not now, but it may wait for one.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn place(self: &Arc<Self>, ask: &Ask) -> Result<Option<Lease>, Unavailable> {
        let mut servers = self.servers.lock();
        if ask.failed_by.is_empty() {
            servers.budget.pay(self.settings.retries.budget);
        }
        let placed = servers.place(ask, clock::start())?;
        drop(servers);
        Ok(placed.map(|placed| Lease::new(self, placed)))
    }

    /// Waits for a place at a server. `left` ends when nobody wants it any longer.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn wait(
        self: &Arc<Self>,
        wish: Wish,
        left: impl Future<Output = ()>,
    ) -> Result<Lease, Unavailable> {
        let (grant, granted) = oneshot::channel();
        let Wish { ask, route, urgency, deadline } = wish;
        let waiting = self.settings.queue_size;
        let joined = {
            let mut servers = self.servers.lock();
            // One may have become free meanwhile.
            if let Some(placed) = servers.place(&ask, clock::start())? {
                drop(servers);
                return Ok(Lease::new(self, placed));
            }
            servers.queue.join(waiting, urgency, &route, Waiter { ask, grant })
        };
        // There may be a place that nobody has been told of: one that time has made, by a slow start.
        self.update(|_, _| None);
        let ticket = match joined {
            Joined::Waits(ticket) => ticket,
            Joined::Instead(ticket, displaced) => {
                // If it has left, nobody has to be told.
                let _ = displaced.grant.send(Err(Unavailable::Full(waiting)));
                ticket
            }
            Joined::Full(_) => return Err(Unavailable::Full(waiting)),
        };
        let _place = Waiting { pool: self, ticket };
        let own = clock::start() + self.settings.queue_timeout;
        tokio::select! {
            biased;
            granted = granted => granted.unwrap_or(Err(Unavailable::Left)),
            () = left => Err(Unavailable::Left),
            () = tokio::time::sleep_until(own.min(deadline).into()) => {
                Err(Unavailable::TooLate(self.settings.queue_timeout))
            }
        }
    }

    /// Whether a request that has failed, at these servers, is sent once more.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn may_retry(&self, attempt: &Attempt, failed_by: &[u64]) -> Result<(), NoRetry> {
        let mut servers = self.servers.lock();
        // Who did not listen a moment ago does not yet.
        if attempt.failure == Failure::Connect && !servers.has_another(failed_by, clock::start()) {
            return Err(NoRetry::Attempts);
        }
        self.settings.retries.judge(attempt, &mut servers.budget)
    }

    /// Calls `look` for every server, with its state and its requests under way.
    pub fn each(&self, mut look: impl FnMut(&str, &'static str, usize)) {
        for standing in self.servers.lock().all() {
            look(&standing.endpoint.label, standing.state(), standing.in_flight);
        }
    }

    /// Every server's address.
    fn endpoints(&self) -> Vec<Arc<peer::Endpoint>> {
        self.servers.lock().all().iter().map(|standing| standing.endpoint.clone()).collect()
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.servers.lock().queue.len()
    }

    /// Changes what is known, tells the operator what that means, and serves who waits.
    fn update(self: &Arc<Self>, change: impl FnOnce(&mut Servers, Instant) -> Option<Change>) {
        let (change, served) = {
            let now = clock::start();
            let mut servers = self.servers.lock();
            (change(&mut servers, now), servers.serve_queue(now))
        };
        if let Some(change) = change {
            self.tell(&change);
        }
        for (waiter, result) in served {
            // A lease that nobody takes goes back when it is dropped here.
            let _ = waiter.grant.send(result.map(|placed| Lease::new(self, placed)));
        }
    }

    fn tell(&self, change: &Change) {
        let upstream = &self.name;
        match change {
            Change::Opened(server, trip) => {
                let again_in = self.settings.breaker.fail_timeout;
                tracing::warn!(%upstream, %server, reason = %trip, ?again_in, "a server is left alone");
            }
            Change::Closed(server) => tracing::info!(%upstream, %server, "a server takes requests again"),
            Change::Unwell(server, why) => {
                tracing::warn!(%upstream, %server, reason = why, "a server fails its checks");
            }
            Change::Well(server) => tracing::info!(%upstream, %server, "a server passes its checks again"),
        }
    }
}

/// A place in the queue, which is given up with it.
struct Waiting<'p> {
    pool: &'p Pool,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // It is not there when its turn has come.
        drop(self.pool.servers.lock().queue.leave(self.ticket));
    }
}

/// A place at a server, given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    placed: Placed,
    course: Course,
}

impl Lease {
    fn new(pool: &Arc<Pool>, placed: Placed) -> Self {
        Self { pool: pool.clone(), placed, course: Course::Begun }
    }

    /// What to connect to.
    pub fn peer(&self) -> HttpPeer {
        self.placed.endpoint.peer()
    }

    /// What the server is called.
    pub fn label(&self) -> &Arc<str> {
        &self.placed.endpoint.label
    }

    /// Names the server.
    pub fn id(&self) -> u64 {
        self.placed.endpoint.id
    }

    /// The server has answered with this status. Tells whether that counts as a failure.
    pub fn answered(&mut self, status: u16) -> bool {
        let failure = Failure::Status(status);
        let has_failed = counts(failure, &self.pool.settings);
        match has_failed {
            true => {
                self.failed(failure);
            }
            false => {
                self.course = Course::Answered;
                self.pool.clone().update(|servers, now| servers.answered(&mut self.placed, now));
            }
        }
        has_failed
    }

    /// It has not, or not as it should. Tells whether that is news: an exchange fails once.
    pub fn failed(&mut self, failure: Failure) -> bool {
        if self.course == Course::Failed {
            return false;
        }
        if counts(failure, &self.pool.settings) {
            self.course = Course::Failed;
            self.pool.clone().update(|servers, now| servers.failed(&self.placed, now));
        }
        true
    }

    /// It has ended early, and not by the server's doing: nobody knows how it would have ended.
    pub fn broken_off(&mut self) {
        if self.course == Course::Answered {
            self.course = Course::Begun;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.clone().update(|servers, now| {
            servers.release(&self.placed, self.course, now);
            None
        });
    }
}
