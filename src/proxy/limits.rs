//! The limits of routes, and what is known of clients for them: one moment each, and how many requests they have under way.
//!
//! Hits ask too, so it is cut into parts with a lock each. What does not fit is forgotten, the least recently seen first: then
//! a client begins anew. That favours it, and only it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use pingora::proxy::Session;
use smallvec::SmallVec;

use super::context::Context;
use super::{App, Parvis, view};
use crate::observe::outcome::Local;
use crate::rules::head::RequestHead;
use crate::rules::limit::{Allowance, OnError, RateLimit, network, whole_seconds};
use crate::rules::route::Route;
use crate::shared::rates::Verdict;

/// The most clients that are remembered, in all parts together.
pub const MAX_CLIENTS: usize = 256 * 1024;

const PARTS: usize = 64;

const PER_PART: NonZeroUsize = NonZeroUsize::new(MAX_CLIENTS / PARTS).expect("not zero");

/// All that is known of clients.
pub struct Limits {
    parts: Box<[Mutex<LruCache<u64, Instant>>]>,
    under_way: Mutex<HashMap<u64, usize>>,
    hasher: RandomState,
    forgotten: AtomicU64,
}

/// A client has as many requests under way as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// A request that a limit does not let through.
#[derive(Clone, Copy, Debug)]
pub struct Beyond<'r> {
    /// Which.
    pub limit: &'r RateLimit,
    /// For how long.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let part = |_| {
            // Grown on demand: the capacity is a bound, not a reservation.
            let mut part = LruCache::unbounded();
            part.resize(PER_PART);
            Mutex::new(part)
        };
        Self {
            parts: (0..PARTS).map(part).collect(),
            under_way: Mutex::default(),
            hasher: RandomState::new(),
            forgotten: AtomicU64::new(0),
        }
    }
}

impl Limits {
    /// Whether a request is within all rates of its route that this instance counts by itself. One that is counts, if it
    /// `counts`; `trial` hears of limits that only count and are exceeded.
    ///
    /// # Errors
    ///
    /// The first limit that it exceeds.
    pub fn admit<'r>(
        &self,
        route: &'r Route,
        request: &RequestHead<'_>,
        client: IpAddr,
        now: Instant,
        counts: bool,
        mut trial: impl FnMut(&RateLimit),
    ) -> Result<(), Beyond<'r>> {
        if route.limits.rates.is_empty() {
            return Ok(());
        }
        let own = route.limits.rates.iter().filter(|limit| limit.shared.is_none());
        let concerned = own.filter(|limit| limit.concerns(request.method, client));
        let known: SmallVec<[(&RateLimit, u64); 4]> = concerned
            .map(|limit| (limit, self.hashed(route, limit, &limit.key.of(request, client))))
            .collect();
        let judged = self.judge_all(&known, now, counts, &mut trial);
        judged.map_err(|(place, wait)| Beyond { limit: known[place].0, wait })
    }

    /// Whether a request is within all of these limits, each with its client; the error is the place of the first that it exceeds,
    /// and for how long.
    fn judge_all(
        &self,
        limits: &[(&RateLimit, u64)],
        now: Instant,
        counts: bool,
        trial: &mut dyn FnMut(&RateLimit),
    ) -> Result<(), (usize, Duration)> {
        // What one of several refuses shall cost nothing with the others.
        let passes: &[bool] = match counts {
            false => &[false],
            true if limits.len() < 2 => &[true],
            true => &[false, true],
        };
        for counts in passes.iter().copied() {
            for (place, (limit, client)) in limits.iter().enumerate() {
                match self.judge(*client, limit, now, counts) {
                    Allowance::Within(_) => {}
                    Allowance::Beyond(wait) if !limit.dry_run => return Err((place, wait)),
                    Allowance::Beyond(_) if counts => trial(limit),
                    Allowance::Beyond(_) => {}
                }
            }
        }
        Ok(())
    }

    /// The client of a limit, as it is remembered.
    fn hashed(&self, route: &Route, limit: &RateLimit, client: &[u8]) -> u64 {
        self.hasher.hash_one((&route.name, &limit.name, client))
    }

    fn judge(&self, client: u64, limit: &RateLimit, now: Instant, counts: bool) -> Allowance {
        // The part of the hash that the map inside does not begin with.
        let mut part = self.parts[(client >> 32) as usize % PARTS].lock();
        let known = part.get(&client).copied();
        let allowance = limit.judge(known, now);
        if let (Allowance::Within(kept), true) = (allowance, counts) {
            if known.is_none() && part.len() == PER_PART.get() {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
            }
            part.put(client, kept);
        }
        allowance
    }

    /// A place among the requests that a client may have under way at once, where the route has a limit.
    ///
    /// # Errors
    ///
    /// That it has as many.
    pub fn enter(self: &Arc<Self>, route: &Route, client: IpAddr) -> Result<Option<Place>, TooMany> {
        let Some(most) = route.limits.concurrency else { return Ok(None) };
        let client = self.hasher.hash_one((&route.name, network(client)));
        let mut under_way = self.under_way.lock();
        let count = under_way.entry(client).or_default();
        if *count >= most {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(Place { limits: self.clone(), client }))
    }

    /// How many clients were forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }
}

impl Parvis {
    /// Whether a request is within the rates of its route; then it counts.
    ///
    /// # Errors
    ///
    /// The limit that it exceeds.
    pub fn rate<'r>(
        &self,
        route: &'r Route,
        request: &RequestHead<'_>,
        client: IpAddr,
        now: Instant,
    ) -> Result<(), Beyond<'r>> {
        let trial = |limit: &RateLimit| self.observer.metrics.limited(&route.name, &limit.name, "dry-run");
        self.limits.admit(route, request, client, now, true, trial)
    }
}

impl App {
    /// Whether the client may ask this often, if at all. The error is the answer that it gets.
    pub async fn limit(&self, session: &Session, ctx: &mut Context) -> Result<(), Local> {
        let Some(route) = ctx.route.clone() else { return Ok(()) };
        let (client, limits) = (ctx.client.address, &route.limits);
        if !limits.access.lets_in(client) {
            return Err(Local::Forbidden);
        }
        if limits.is_shared() {
            // What one refuses costs nothing with the others, be they counted here or together.
            let view = view::received(session.req_header(), &ctx.client);
            let judged = self.limits.admit(&route, &view.head(), client, ctx.began, false, |_| {});
            drop(view);
            if let Err(beyond) = judged {
                return Err(self.refuse(ctx, &route, beyond));
            }
            self.limit_together(session, ctx, &route).await?;
        }
        if limits.rates.is_empty() {
            return Ok(());
        }
        let view = view::received(session.req_header(), &ctx.client);
        if let Err(beyond) = self.rate(&route, &view.head(), client, ctx.began) {
            return Err(self.refuse(ctx, &route, beyond));
        }
        Ok(())
    }

    /// The same, of what all instances count together.
    async fn limit_together(&self, session: &Session, ctx: &mut Context, route: &Route) -> Result<(), Local> {
        let client = ctx.client.address;
        let limits: Vec<(&RateLimit, Vec<u8>)> = {
            let view = view::received(session.req_header(), &ctx.client);
            let head = view.head();
            let concerned = route.limits.rates.iter().filter(|limit| limit.shared.is_some());
            let concerned = concerned.filter(|limit| limit.concerns(head.method, client));
            concerned.map(|limit| (limit, limit.key.of(&head, client).into_owned())).collect()
        };
        if limits.is_empty() {
            return Ok(());
        }
        let asked: Vec<(&RateLimit, &[u8])> =
            limits.iter().map(|(limit, client)| (*limit, client.as_slice())).collect();
        let Some(shared) = &self.shared else {
            // A reload has brought it; the Redis comes with the next start.
            return self.limit_alone(1, ctx, route, &asked);
        };
        match shared.admit(&route.name, &asked).await {
            Ok(Verdict::Within(beyond)) => {
                for (limit, _) in beyond.into_iter().filter_map(|place| asked.get(place)) {
                    self.observer.metrics.limited(&route.name, &limit.name, "dry-run");
                }
                Ok(())
            }
            Ok(Verdict::Beyond(place, wait)) => match asked.get(place) {
                Some((limit, _)) => Err(self.refuse(ctx, route, Beyond { limit, wait })),
                None => Ok(()),
            },
            // Counted, and told once, where it is asked.
            Err(_) => self.limit_alone(shared.instances(), ctx, route, &asked),
        }
    }

    /// What stands in for that while nobody knows what the others have let through.
    fn limit_alone(
        &self,
        instances: u32,
        ctx: &mut Context,
        route: &Route,
        limits: &[(&RateLimit, &[u8])],
    ) -> Result<(), Local> {
        let is_closed = |limit: &&RateLimit| limit.shared == Some(OnError::Closed) && !limit.dry_run;
        if let Some(limit) = limits.iter().map(|(limit, _)| *limit).find(is_closed) {
            self.observer.metrics.limited(&route.name, &limit.name, "uncounted");
            ctx.told.push(("Retry-After", "1".to_owned()));
            return Err(Local::Uncounted);
        }
        let parts: Vec<RateLimit> = limits.iter().map(|(limit, _)| limit.part(instances)).collect();
        let clients = limits.iter().map(|(limit, client)| self.limits.hashed(route, limit, client));
        let known: Vec<(&RateLimit, u64)> = parts.iter().zip(clients).collect();
        let mut trial =
            |limit: &RateLimit| self.observer.metrics.limited(&route.name, &limit.name, "dry-run");
        let judged = self.limits.judge_all(&known, ctx.began, true, &mut trial);
        judged.map_err(|(place, wait)| self.refuse(ctx, route, Beyond { limit: limits[place].0, wait }))
    }

    /// The answer to who is beyond a limit, with when to come back.
    fn refuse(&self, ctx: &mut Context, route: &Route, beyond: Beyond<'_>) -> Local {
        self.observer.metrics.limited(&route.name, &beyond.limit.name, "refused");
        ctx.told.push(("Retry-After", whole_seconds(beyond.wait).to_string()));
        ctx.told.push(("RateLimit-Policy", beyond.limit.policy_field()));
        ctx.told.push(("RateLimit", beyond.limit.field(beyond.wait)));
        Local::RateLimited
    }

    /// Whether the client may have one more request under way, which cannot be answered from the store. The error is the answer
    /// that it gets.
    pub fn enter(&self, ctx: &mut Context) -> Result<(), Local> {
        let Some(route) = ctx.route.clone().filter(|_| ctx.place.is_none()) else { return Ok(()) };
        let Ok(place) = self.limits.enter(&route, ctx.client.address) else {
            self.observer.metrics.limited(&route.name, "max_concurrent", "refused");
            ctx.told.push(("Retry-After", "1".to_owned()));
            return Err(Local::TooManyAtOnce);
        };
        ctx.place = place;
        Ok(())
    }
}

/// A request that is under way, until it is dropped.
pub struct Place {
    limits: Arc<Limits>,
    client: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.limits.under_way.lock();
        if let Some(count) = under_way.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.client);
            }
        }
    }
}
