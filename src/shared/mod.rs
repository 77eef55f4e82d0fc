//! What several instances share by way of a Redis: for now, rates.
//!
//! It is never needed. A request waits no longer than `timeout` for an answer, and not at all once a few have not come: then the
//! link is dropped, and [`connect`] makes another one aside while everybody goes on without.
//!
//! | module | |
//! |---|---|
//! | [`connect`] | the link, and who keeps it up |
//! | [`rates`] | counting clients together |

pub mod connect;
pub mod rates;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{ErrorKind, FromRedisValue, RedisError, ServerErrorKind};
use tokio::sync::Notify;

use crate::clock;
use crate::observe::shared::Figures;
use crate::plan::redis::Redis;
use connect::Link;

/// So many questions in a row without an answer, and the link is dropped.
const MAX_UNANSWERED: u32 = 3;

/// The Redis, and what is known of it.
pub struct Shared {
    settings: Redis,
    /// What this instance is called among the others.
    instance: Arc<str>,
    /// `None` while there is none.
    link: ArcSwapOption<Link>,
    unanswered: AtomicU32,
    /// Tells the keeper that the link is gone.
    lost: Notify,
    /// How many instances there are, this one included, as far as that is known.
    instances: AtomicU32,
    /// Why there is no link.
    trouble: Mutex<String>,
    figures: Figures,
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
            settings,
            instance,
            link: ArcSwapOption::empty(),
            unanswered: AtomicU32::new(0),
            lost: Notify::new(),
            instances: AtomicU32::new(1),
            trouble: Mutex::new("it has not been connected yet".to_owned()),
            figures,
        }
    }

    /// Whether there is a link; the error is why not.
    ///
    /// # Errors
    ///
    /// For the operator, without secrets.
    pub fn state(&self) -> Result<(), String> {
        match self.link.load().is_some() {
            true => Ok(()),
            false => Err(self.trouble.lock().clone()),
        }
    }

    /// How many instances there are, this one included, as far as that is known; at least 1.
    pub fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed).max(1)
    }

    /// A name for a key. `slot` are the keys that have to be on one node of a cluster.
    fn key(&self, slot: &str, rest: &str) -> String {
        format!("{}{{{slot}}}{rest}", self.settings.key_prefix)
    }

    /// Asks, within the time that a request may wait. `what` is for the metric.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    async fn ask<T: FromRedisValue, F: Future<Output = Result<T, RedisError>>>(
        &self,
        what: &'static str,
        question: impl FnOnce(Link) -> F,
    ) -> Result<T, Away> {
        let started = clock::start();
        let result = match self.link.load_full() {
            None => Err(Away::Unconnected),
            Some(link) => {
                match tokio::time::timeout(self.settings.timeout, question((*link).clone())).await {
                    Ok(answer) => answer.map_err(Away::from),
                    Err(_) => Err(Away::Late(self.settings.timeout)),
                }
            }
        };
        self.figures.asked(what, result.as_ref().map_or_else(Away::as_str, |_| "ok"), started.elapsed());
        match &result {
            Ok(_) => self.unanswered.store(0, Ordering::Relaxed),
            Err(away) if away.is_of_the_link() => self.unanswered(away),
            Err(_) => {}
        }
        result
    }

    /// One more question without an answer.
    fn unanswered(&self, away: &Away) {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_UNANSWERED {
            self.drop_link(away.to_string());
        }
    }

    /// Nobody asks any longer, until there is another link.
    fn drop_link(&self, why: String) {
        if self.link.swap(None).is_some() {
            tracing::warn!(reason = why, "the Redis is left alone; everything goes on without it");
            *self.trouble.lock() = why;
            self.figures.connected(false);
            self.lost.notify_one();
        }
    }
}
