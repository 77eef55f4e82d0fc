//! The servers of an upstream as they stand: what each has under way, how it has done, and who waits.
//!
//! Nothing in here waits or reads a clock. [`super::Pool`] holds it behind a lock.

use std::sync::Arc;
use std::time::Instant;

use super::Waiter;
use super::peer::Endpoint;
use super::queue::Queue;
use crate::plan::upstreams::Upstream;
use crate::rules::balance::{Candidate, choose};
use crate::rules::breaker::{Admit, Breaker, Trip};
use crate::rules::retry::{Budget, Failure};
use crate::rules::unavailable::Unavailable;

/// The most servers that are remembered although they are gone.
const MAX_RETIRED: usize = 64;

/// The least share of its weight that a server has which comes back.
const FIRST_SHARE: f64 = 0.1;

/// What a request brings along to choose by.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// What its own part hashes to.
    pub hash: u64,
    /// Whether it may be the one that tries a server again: one that can be sent elsewhere if that fails.
    pub may_probe: bool,
    /// Servers that have failed it, which get it only if there is no other.
    pub failed_by: Vec<u64>,
}

/// A server as it stands.
#[derive(Debug)]
pub struct Standing {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// Requests under way.
    pub in_flight: usize,
    /// How requests have done.
    pub breaker: Breaker,
    /// Whether checks say that it is not well.
    is_unwell: bool,
    /// Bad or good answers in a row that contradict that.
    contrary: u32,
    /// Since when it is back.
    back_since: Option<Instant>,
    owed: f64,
}

impl Standing {
    fn new(endpoint: Arc<Endpoint>, now: Instant, is_new: bool) -> Self {
        Self {
            endpoint,
            in_flight: 0,
            breaker: Breaker::new(now),
            is_unwell: false,
            contrary: 0,
            back_since: is_new.then_some(now),
            owed: 0.0,
        }
    }

    /// Which part of its share it gets.
    fn share(&self, now: Instant, settings: &Upstream) -> f64 {
        match self.back_since {
            Some(since) if !settings.slow_start.is_zero() => {
                let passed = now.saturating_duration_since(since).as_secs_f64();
                (passed / settings.slow_start.as_secs_f64()).clamp(FIRST_SHARE, 1.0)
            }
            _ => 1.0,
        }
    }

    fn places(&self, now: Instant, settings: &Upstream) -> usize {
        ((settings.max_conns as f64 * self.share(now, settings)).ceil() as usize).max(1)
    }

    fn admit(&self, now: Instant, settings: &Upstream) -> Admit {
        match self.is_unwell {
            true => Admit::NotBefore(
                now + settings.health.as_ref().map(|health| health.interval).unwrap_or_default(),
            ),
            false => self.breaker.admit(now, &settings.breaker),
        }
    }

    /// Whether it would be another one if it began anew.
    fn is_remembered(&self) -> bool {
        self.in_flight > 0 || self.is_unwell || !self.breaker.is_closed()
    }

    /// The word used in metrics and statistics: `up`, or why not.
    pub fn state(&self) -> &'static str {
        match (self.is_unwell, self.breaker.is_closed()) {
            (true, _) => "down",
            (false, true) => "up",
            (false, false) => self.breaker.as_str(),
        }
    }
}

/// Something that the operator should hear of, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A server is left alone.
    Opened(Arc<str>, Trip),
    /// It takes requests again.
    Closed(Arc<str>),
    /// Checks have taken it out.
    Unwell(Arc<str>, String),
    /// They have taken it in again.
    Well(Arc<str>),
}

/// All of an upstream.
#[derive(Debug)]
pub struct Servers {
    settings: Arc<Upstream>,
    all: Vec<Standing>,
    /// Those whose address was not among the last that were looked up, as far as there is something to remember.
    retired: Vec<Standing>,
    /// Who waits.
    pub queue: Queue<Waiter>,
    /// What retries may cost.
    pub budget: Budget,
}

/// Which server a request gets.
enum Pick {
    /// This one, perhaps as its probe; and then so much is owed to these.
    Take(usize, bool, Vec<(usize, f64)>),
    /// All that could take it have enough to do.
    Busy,
    /// None takes any, before this moment.
    Nobody(Option<Instant>),
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Nothing is known.
    Begun,
    /// The head has come, and nothing bad since.
    Answered,
    /// It has failed, and that has been counted.
    Failed,
}

/// A place at a server.
#[derive(Debug)]
pub struct Placed {
    /// Which.
    pub endpoint: Arc<Endpoint>,
    /// Whether the request finds out if the server is well again.
    pub is_probe: bool,
    /// Of the breaker, when it began.
    pub generation: u64,
}

impl Servers {
    /// Those of `settings`, of which none is known yet.
    pub fn new(settings: Arc<Upstream>) -> Self {
        Self {
            settings,
            all: Vec::new(),
            retired: Vec::new(),
            queue: Queue::default(),
            budget: Budget::default(),
        }
    }

    /// The servers are these from now on. What is known of those that stay is kept, also while an address is missing for a while;
    /// the first ones ever have their whole share at once.
    pub fn replace(&mut self, endpoints: Vec<Arc<Endpoint>>, now: Instant) {
        let (is_new, mut before) = (!self.all.is_empty(), std::mem::take(&mut self.all));
        before.append(&mut self.retired);
        for endpoint in endpoints {
            let known = before.iter().position(|standing| standing.endpoint.id == endpoint.id);
            self.all.push(match known {
                Some(at) => before.remove(at),
                None => Standing::new(endpoint, now, is_new),
            });
        }
        before.retain(Standing::is_remembered);
        before.truncate(MAX_RETIRED);
        self.retired = before;
    }

    /// Every server.
    pub fn all(&self) -> &[Standing] {
        &self.all
    }

    /// A place for a request that has just come: at once, or not now (`Ok(None)`), or at nobody.
    pub fn place(&mut self, ask: &Ask, now: Instant) -> Result<Option<Placed>, Unavailable> {
        match self.pick(ask, now) {
            // Who waits already is first; but a server that nobody tries never comes back.
            Pick::Take(_, false, _) if !self.queue.is_empty() => Ok(None),
            Pick::Take(at, is_probe, owed) => Ok(Some(self.take(at, is_probe, owed, now))),
            Pick::Busy => Ok(None),
            Pick::Nobody(until) => Err(Unavailable::nobody(until, now)),
        }
    }

    /// Places for those who wait, as far as there are some; if there is no server left to wait for, they hear of it.
    pub fn serve_queue(&mut self, now: Instant) -> Vec<(Waiter, Result<Placed, Unavailable>)> {
        let mut served = Vec::new();
        while let Some(ask) = self.queue.first().map(|waiter| waiter.ask.clone()) {
            let result = match self.pick(&ask, now) {
                Pick::Busy => break,
                Pick::Take(at, is_probe, owed) => Ok(self.take(at, is_probe, owed, now)),
                Pick::Nobody(until) => Err(Unavailable::nobody(until, now)),
            };
            let Some(waiter) = self.queue.pop() else { break };
            served.push((waiter, result));
        }
        served
    }

    /// A request has ended at a server.
    pub fn release(&mut self, placed: &Placed, course: Course, now: Instant) {
        let policy = self.settings.breaker;
        let Some(standing) = self.find(placed.endpoint.id) else { return };
        standing.in_flight = standing.in_flight.saturating_sub(1);
        match course {
            Course::Begun if placed.is_probe => standing.breaker.abandon_probe(placed.generation, now),
            Course::Answered => standing.breaker.succeeded(placed.generation, now, &policy),
            Course::Begun | Course::Failed => {}
        }
    }

    /// A server has begun to answer.
    pub fn answered(&mut self, placed: &mut Placed, now: Instant) -> Option<Change> {
        let standing = self.find(placed.endpoint.id)?;
        let closed = standing.breaker.answered(placed.generation, now);
        closed.then(|| {
            // What becomes of the rest is the first that is known of it.
            placed.generation = standing.breaker.generation();
            standing.back_since = Some(now);
            Change::Closed(standing.endpoint.label.clone())
        })
    }

    /// A request to a server has failed.
    pub fn failed(&mut self, placed: &Placed, now: Instant) -> Option<Change> {
        let policy = self.settings.breaker;
        let standing = self.find(placed.endpoint.id)?;
        let trip = standing.breaker.failed(placed.generation, now, &policy)?;
        Some(Change::Opened(standing.endpoint.label.clone(), trip))
    }

    /// A check has ended, well or with what was wrong.
    pub fn checked(&mut self, id: u64, result: &Result<(), String>, now: Instant) -> Option<Change> {
        let settings = self.settings.clone();
        let policy = settings.health.as_ref()?;
        let standing = self.find(id)?;
        let needed = if standing.is_unwell { policy.passes } else { policy.fails };
        let agrees = result.is_err() == standing.is_unwell;
        standing.contrary = if agrees { 0 } else { standing.contrary + 1 };
        // A good answer says more than the time that has passed since a bad one.
        let closes = result.is_ok() && !standing.is_unwell && !standing.breaker.is_closed();
        if closes {
            standing.breaker.close(now);
            standing.back_since = Some(now);
            return Some(Change::Closed(standing.endpoint.label.clone()));
        }
        if standing.contrary < needed {
            return None;
        }
        standing.contrary = 0;
        let label = standing.endpoint.label.clone();
        Some(match result {
            Ok(()) => {
                standing.is_unwell = false;
                standing.back_since = Some(now);
                standing.breaker.close(now);
                Change::Well(label)
            }
            Err(why) => {
                standing.is_unwell = true;
                Change::Unwell(label, why.clone())
            }
        })
    }

    /// Whether a server other than these takes requests.
    pub fn has_another(&self, than: &[u64], now: Instant) -> bool {
        let takes = |standing: &Standing| !matches!(standing.admit(now, &self.settings), Admit::NotBefore(_));
        self.all.iter().any(|standing| !than.contains(&standing.endpoint.id) && takes(standing))
    }

    fn find(&mut self, id: u64) -> Option<&mut Standing> {
        self.all.iter_mut().chain(&mut self.retired).find(|standing| standing.endpoint.id == id)
    }

    fn take(&mut self, at: usize, is_probe: bool, owed: Vec<(usize, f64)>, now: Instant) -> Placed {
        for (server, owed) in owed {
            self.all[server].owed = owed;
        }
        let standing = &mut self.all[at];
        standing.in_flight += 1;
        if is_probe {
            standing.breaker.begin_probe(now);
        }
        let generation = standing.breaker.generation();
        Placed { endpoint: standing.endpoint.clone(), is_probe, generation }
    }

    /// Those that have not failed the request come first, then backups, then those that have.
    fn pick(&self, ask: &Ask, now: Instant) -> Pick {
        let mut nobody = None;
        for (may_have_failed, is_backup) in [(false, false), (false, true), (true, false), (true, true)] {
            let fits = |standing: &Standing| {
                standing.endpoint.is_backup == is_backup
                    && ask.failed_by.contains(&standing.endpoint.id) == may_have_failed
            };
            match self.pick_among(fits, ask, now) {
                Pick::Nobody(until) => nobody = [nobody, until].into_iter().flatten().min(),
                pick => return pick,
            }
        }
        Pick::Nobody(nobody)
    }

    fn pick_among(&self, fits: impl Fn(&Standing) -> bool, ask: &Ask, now: Instant) -> Pick {
        let settings = self.settings.clone();
        let (mut free, mut is_busy, mut until, mut probe) = (Vec::new(), false, None, None);
        for (at, standing) in self.all.iter().enumerate().filter(|(_, standing)| fits(standing)) {
            match standing.admit(now, &settings) {
                Admit::NotBefore(moment) => until = [until, Some(moment)].into_iter().flatten().min(),
                Admit::Probe => probe = Some(at),
                Admit::Yes if standing.in_flight >= standing.places(now, &settings) => is_busy = true,
                Admit::Yes => free.push(at),
            }
        }
        // A server that nobody tries never comes back; but who cannot be sent elsewhere need not be the one.
        if let Some(at) = probe.filter(|_| ask.may_probe || (free.is_empty() && !is_busy)) {
            return Pick::Take(at, true, Vec::new());
        }
        let mut candidates: Vec<Candidate> =
            free.iter().map(|at| self.all[*at].candidate(now, &settings)).collect();
        let chosen = choose(&settings.balance, ask.hash, &mut candidates);
        let owed = free.iter().zip(&candidates).map(|(at, candidate)| (*at, candidate.owed)).collect();
        match chosen {
            Some(chosen) => Pick::Take(free[chosen], false, owed),
            None if is_busy => Pick::Busy,
            None => Pick::Nobody(until),
        }
    }
}

impl Standing {
    fn candidate(&self, now: Instant, settings: &Upstream) -> Candidate {
        Candidate {
            weight: f64::from(self.endpoint.weight) * self.share(now, settings),
            in_flight: self.in_flight,
            owed: self.owed,
            seed: self.endpoint.id,
        }
    }
}

/// Whether a failure is the server's.
pub fn counts(failure: Failure, settings: &Upstream) -> bool {
    match failure {
        Failure::Status(status) => settings.failures.contains(&status),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::load;
    use crate::origin::peer::{Material, Reach};
    use crate::plan::Plan;

    fn settings() -> Arc<Upstream> {
        let yaml = "upstreams: {app: {servers: [\"a.test:80\"], circuit_breaker: {max_fails: 1}}}\nroutes: [{name: all, cache: {ttl: 0s}}]\n";
        let (plan, _) = Plan::from_loaded(&load::parse("test.yaml", yaml, &|_| None)).unwrap();
        Arc::new(plan.upstreams.values().next().unwrap().clone())
    }

    fn endpoint(settings: &Upstream, last: u8) -> Arc<Endpoint> {
        let reach = Reach::Tcp(([127, 0, 0, last], 80).into());
        Arc::new(Endpoint::new(&settings.servers[0], &reach, settings, &Material::default()).unwrap())
    }

    #[test]
    fn an_address_that_is_missing_for_a_while_is_the_same_when_it_returns() {
        let (settings, now) = (settings(), clock::start());
        let both = vec![endpoint(&settings, 1), endpoint(&settings, 2)];
        let mut servers = Servers::new(settings);
        servers.replace(both.clone(), now);
        let ask = Ask { may_probe: true, ..Ask::default() };
        let placed: Vec<_> = (0..2).map(|_| servers.place(&ask, now).unwrap().unwrap()).collect();
        let (lost, other) = match placed[0].endpoint.id == both[0].id {
            true => (&placed[0], &placed[1]),
            false => (&placed[1], &placed[0]),
        };
        servers.replace(vec![both[1].clone()], now);
        // It fails while it is gone, and with it what it was asked before.
        assert!(matches!(servers.failed(lost, now), Some(Change::Opened(..))));
        servers.release(lost, Course::Failed, now);
        servers.release(other, Course::Answered, now);
        servers.replace(both.clone(), now);
        let states: Vec<_> = servers.all().iter().map(Standing::state).collect();
        assert_eq!(states, ["open", "up"]);
        assert!(servers.all().iter().all(|standing| standing.in_flight == 0));
        // Of one that is well nothing need be remembered.
        servers.replace(vec![both[0].clone()], now);
        assert!(servers.retired.is_empty());
    }
}
