//! What several instances share by way of a Redis: responses, the order of purges, rates.
//!
//! It is never needed. A request waits no longer than `timeout` for an answer, and not at all once a few have not come: then the
//! link is dropped, and [`connect`] makes another one aside while everybody goes on without.
//!
//! | module | |
//! |---|---|
//! | [`connect`] | the link, and who keeps it up |
//! | [`log`] | the order of all purges |
//! | [`tier`] | responses |
//! | [`form`] | what a response looks like there |
//! | [`lock`] | one fetch for all |
//! | [`rates`] | counting clients together |

pub mod connect;
mod form;
pub mod lock;
pub mod log;
pub mod rates;
#[cfg(test)]
mod tests;
pub mod tier;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind};
use serde::Serialize;
use tokio::sync::Notify;

use crate::clock;
use crate::observe::shared::Figures;
use crate::plan::redis::{Redis, Topology};
use connect::Link;
use log::entry::Purge;
use log::{Log, Touch, journal};
use tier::Room;

/// So many questions in a row without an answer, and nobody asks any longer.
const MAX_UNANSWERED: u32 = 3;
/// What bodies are as a part, where there is one server.
const BODIES: &str = "bodies";
/// For how long the keys of one part of a cluster are left alone then.
const REST: Duration = Duration::from_secs(1);

/// The Redis, and what is known of it.
pub struct Shared {
    settings: Redis,
    /// What this instance is called among the others.
    instance: Arc<str>,
    /// `None` while there is none.
    held: ArcSwapOption<Held>,
    /// Tells the keeper that the link is gone.
    lost: Notify,
    /// How many instances there are, this one included, as far as that is known.
    instances: AtomicU32,
    /// Why there is no link.
    trouble: Mutex<String>,
    figures: Figures,
    /// What is known of the purges of all.
    pub log: Log,
    room: Room,
    /// Digested once.
    rate_script: Script,
    heartbeat_script: Script,
    append_script: Script,
    stand_script: Script,
    followers_script: Script,
    release_script: Script,
}

/// A link that is in use, and how it does. What is known of one says nothing of the next.
struct Held {
    link: Link,
    /// For bodies: small questions do not wait behind them.
    bulk: Link,
    /// By the part of the keys: each is on one node of a cluster, and the others may be well. Of a single server there is one part.
    parts: Mutex<HashMap<String, Part>>,
    /// When there was an answer last.
    answered_at: Mutex<Instant>,
    /// Why it is held no longer.
    lost_by: OnceLock<String>,
}

/// How the node does that has a part of the keys.
#[derive(Default)]
struct Part {
    unanswered: u32,
    rests_until: Option<Instant>,
}

/// How the Redis does.
#[derive(Debug, Serialize)]
pub struct Standing {
    /// Why there is no link, if there is none.
    pub trouble: Option<String>,
    /// How many instances there are, this one included, as far as that is known.
    pub instances: u32,
    /// Responses that were looked for, by what came of it.
    pub recalls: BTreeMap<String, u64>,
    /// How long an answer took, in the mean, in milliseconds.
    pub recall_ms: f64,
    /// How this instance stands to the purges of all.
    pub purges: Touch,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Away {
    /// There is no link at the moment.
    #[error("there is no connection")]
    Unconnected,
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It failed.
    #[error("{0}")]
    Failed(#[from] RedisError),
}

impl Away {
    /// The word used in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unconnected => "unconnected",
            Self::Late(_) => "late",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether the link is to blame, or the server behind it: another one may be better.
    fn is_of_the_link(&self) -> bool {
        use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
        match self {
            Self::Unconnected => false,
            Self::Late(_) => true,
            Self::Failed(error) => {
                let kind = error.kind();
                let is_of_server = |kind| matches!(kind, BusyLoading | ClusterDown | MasterDown | ReadOnly);
                matches!(
                    kind,
                    ErrorKind::Io | ErrorKind::AuthenticationFailed | ErrorKind::ClusterConnectionNotFound
                ) || matches!(kind, ErrorKind::Server(kind) if is_of_server(kind))
            }
        }
    }
}

impl Shared {
    /// One that is still to be connected.
    pub fn new(settings: Redis, instance: Arc<str>, figures: Figures) -> Self {
        Self {
            instance,
            held: ArcSwapOption::empty(),
            lost: Notify::new(),
            instances: AtomicU32::new(1),
            trouble: Mutex::new("it has not been connected yet".to_owned()),
            log: Log::new(waiting(&settings)),
            room: Room::default(),
            figures,
            rate_script: Script::new(rates::SCRIPT),
            heartbeat_script: Script::new(connect::HEARTBEAT),
            append_script: Script::new(log::append::APPEND),
            stand_script: Script::new(log::follow::STAND),
            followers_script: Script::new(log::acknowledge::FOLLOWERS),
            release_script: Script::new(lock::RELEASE),
            settings,
        }
    }

    /// Whether there is a link; the error is why not.
    ///
    /// # Errors
    ///
    /// For the operator, without secrets.
    pub fn state(&self) -> Result<(), String> {
        match self.held.load().is_some() {
            true => Ok(()),
            false => Err(self.trouble.lock().clone()),
        }
    }

    /// How many instances there are, this one included, as far as that is known; at least 1.
    pub fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed).max(1)
    }

    /// Writes the purges that could not be told yet to the journal, if there is one, before the process ends.
    pub fn write_journal(&self) {
        let untold = self.log.untold();
        if let Some(file) = self.settings.journal.as_ref().filter(|_| !untold.is_empty())
            && let Err(error) = journal::write(file, &untold)
        {
            tracing::error!(%error, "purges that wait for the Redis cannot be written to the journal");
        }
    }

    /// How long a request waits for an answer.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// How it does, for people and scripts.
    pub fn standing(&self) -> Standing {
        let (recalls, recall_ms) = self.figures.recalls();
        let (trouble, instances) = (self.state().err(), self.instances());
        Standing { trouble, instances, recalls, recall_ms, purges: self.log.touch(clock::start()) }
    }

    /// A name for a key. Those of a `part` are on one node of a cluster.
    fn key(&self, part: &str, rest: &str) -> String {
        self.settings.key(part, rest)
    }

    /// Asks about keys of a part, within the time that a request may wait. `what` is for the metric.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    async fn ask<T: FromRedisValue, F: Future<Output = Result<T, RedisError>>>(
        &self,
        what: &'static str,
        part: &str,
        question: impl FnOnce(Link) -> F,
    ) -> Result<T, Away> {
        self.ask_by(what, part, false, question).await
    }

    /// The same where bodies are sent or received. Who is late with them may only be busy with others: they are left alone for a
    /// while, and nothing else is.
    async fn ask_for_body<T: FromRedisValue, F: Future<Output = Result<T, RedisError>>>(
        &self,
        what: &'static str,
        part: &str,
        question: impl FnOnce(Link) -> F,
    ) -> Result<T, Away> {
        self.ask_by(what, part, true, question).await
    }

    async fn ask_by<T: FromRedisValue, F: Future<Output = Result<T, RedisError>>>(
        &self,
        what: &'static str,
        part: &str,
        is_body: bool,
        question: impl FnOnce(Link) -> F,
    ) -> Result<T, Away> {
        let started = clock::start();
        let part = match (&self.settings.topology, is_body) {
            (Topology::Cluster, _) => part,
            (_, true) => BODIES,
            (_, false) => "",
        };
        let held = self.held.load_full().filter(|held| !held.rests(part, started));
        let result = match &held {
            None => Err(Away::Unconnected),
            Some(held) => {
                let link = if is_body { &held.bulk } else { &held.link };
                match tokio::time::timeout(self.settings.timeout, question(link.clone())).await {
                    Ok(answer) => answer.map_err(Away::from),
                    Err(_) => Err(Away::Late(self.settings.timeout)),
                }
            }
        };
        self.figures.asked(what, result.as_ref().map_or_else(Away::as_str, |_| "ok"), started.elapsed());
        if let Some(held) = &held {
            self.note(held, part, &result);
        }
        result
    }

    /// Takes note of how a link has done.
    fn note<T>(&self, held: &Arc<Held>, part: &str, result: &Result<T, Away>) {
        match result {
            Ok(_) => held.answered(part, clock::start()),
            Err(away) if away.is_of_the_link() && held.unanswered(part, clock::start()) => {
                if self.settings.topology != Topology::Cluster && !self.is_only_late(part, away) {
                    self.drop_link(held, away.to_string());
                }
            }
            Err(_) => {}
        }
    }

    fn is_only_late(&self, part: &str, away: &Away) -> bool {
        part == BODIES && matches!(away, Away::Late(_))
    }

    /// Nobody asks by this link any longer. The keeper tells it, and makes another one.
    fn drop_link(&self, held: &Arc<Held>, why: String) {
        let before = self.held.compare_and_swap(held, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, held)) {
            // It is dropped once.
            let _ = held.lost_by.set(why);
            self.lost.notify_one();
        }
    }
}

/// The purges that wait from before a restart. Of a journal that cannot be read nobody knows what it holds.
fn waiting(settings: &Redis) -> Vec<Purge> {
    let Some(file) = &settings.journal else { return Vec::new() };
    journal::read(file).unwrap_or_else(|error| {
        tracing::error!(%error, file = %file.display(), "the journal of purges cannot be read: everything is purged");
        vec![Purge::of_everything()]
    })
}

impl Held {
    fn new(link: Link, bulk: Link) -> Self {
        Self {
            link,
            bulk,
            parts: Mutex::default(),
            answered_at: Mutex::new(clock::start()),
            lost_by: OnceLock::new(),
        }
    }

    fn rests(&self, part: &str, now: Instant) -> bool {
        self.parts.lock().get(part).is_some_and(|part| part.rests_until.is_some_and(|until| now < until))
    }

    fn answered(&self, part: &str, now: Instant) {
        *self.answered_at.lock() = now;
        self.parts.lock().remove(part);
    }

    /// One more question without an answer. Tells whether that was one too many.
    fn unanswered(&self, part: &str, now: Instant) -> bool {
        let mut parts = self.parts.lock();
        let part = parts.entry(part.to_owned()).or_default();
        part.unanswered += 1;
        let is_enough = part.unanswered >= MAX_UNANSWERED;
        if is_enough {
            part.rests_until = Some(now + REST);
        }
        is_enough
    }
}
