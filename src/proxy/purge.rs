//! Purges: by the admin listener, by clients of other caches on the main one, by writes.
//!
//! A purge is in force before it is answered; what is left to do then, and takes long, is done aside.

use pingora::proxy::Session;
use tokio::task::JoinError;

use super::App;
use super::answer;
use super::context::Context;
use super::view::{self, View};
use crate::clock;
use crate::observe::audit::Entry;
use crate::observe::outcome::Local;
use crate::rules::dialect;
use crate::rules::forwarding;
use crate::rules::head::Fields;
use crate::rules::invalidate::Expires;
use crate::rules::selector::Selector;
use crate::store::purging::{Count, Effect, Purged, Sweep};

/// Who asks for a purge.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The name of a token, or a method.
    pub by: String,
    /// Where it comes from.
    pub from: String,
    /// The label of the metric.
    pub cause: &'static str,
}

/// A purge that has been carried out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its place in the order of purges.
    pub sequence: u64,
    /// Each selector, in words, and what it named.
    pub named: Vec<(String, Count)>,
    /// What all named.
    pub total: Count,
}

impl App {
    /// Purges, and waits until all that was named is counted. Once it is in force it is carried through and recorded, be
    /// the answer waited for or not.
    pub async fn purge(
        &self,
        selectors: Vec<Selector>,
        expires: Expires,
        asker: Asker,
    ) -> Result<Report, JoinError> {
        let purged = self.store.purge(&selectors, effect(expires));
        let app = self.clone();
        tokio::spawn(async move { app.conclude(purged, &selectors, expires, asker).await }).await?
    }

    /// Carries out the rest of a purge that is in force, and records it.
    async fn conclude(
        &self,
        purged: Purged,
        selectors: &[Selector],
        expires: Expires,
        asker: Asker,
    ) -> Result<Report, JoinError> {
        let sequence = purged.sequence.0;
        let mut named = purged.named;
        let mut swept = Ok(());
        match purged.sweep {
            Some(sweep) if sweep.is_counted() => drop(tokio::spawn(self.clone().carry_out(sweep))),
            Some(sweep) => swept = self.clone().carry_out(sweep).await.map(|counted| named = counted),
            None => {}
        }
        let total = named.iter().fold(Count::default(), |total, count| total.with(*count));
        self.observer.metrics.purge(asker.cause, total.entries);
        let words: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        self.audit.record(Entry {
            at: Entry::time(clock::now()),
            instance: self.live.load().plan.instance.to_string(),
            sequence,
            by: asker.by,
            from: asker.from,
            selectors: Entry::shown(&words),
            count: words.len(),
            soft: expires == Expires::Yes,
            entries: total.entries,
            bytes: total.bytes,
        });
        swept.map(|()| Report { sequence, named: words.into_iter().zip(named).collect(), total })
    }

    /// Carries out a purge that is in force, when those before it are; what it named.
    async fn carry_out(self, sweep: Sweep) -> Result<Vec<Count>, JoinError> {
        // An error would tell that the semaphore is closed, which it never is.
        let _turn = self.sweeps.acquire().await;
        let store = self.store.clone();
        let swept = tokio::task::spawn_blocking(move || store.carry_out(sweep)).await;
        swept.inspect_err(|error| tracing::error!(%error, "a purge is in force but not carried out"))
    }

    /// Purges what a write changed, for `cause`.
    pub fn purge_after(&self, cause: &str, removals: Removals) {
        for (selectors, expires) in [(removals.gone, Expires::No), (removals.expired, Expires::Yes)] {
            if selectors.is_empty() {
                continue;
            }
            let purged = self.store.purge(&selectors, effect(expires));
            self.observer.metrics.purge(cause, purged.total().entries);
            if let Some(sweep) = purged.sweep {
                tokio::spawn(self.clone().carry_out(sweep));
            }
        }
    }

    /// Answers a client of another cache, whose request purges.
    pub(super) async fn answer_purge(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<()> {
        let plan = &ctx.live.plan;
        let view = View::new(session.req_header(), &ctx.client);
        if !may_purge(session, ctx) {
            return answer::local(session, ctx, Local::Refused).await;
        }
        if !view.has_valid_host() {
            return answer::local(session, ctx, Local::BadRequest).await;
        }
        let asked = match dialect::read(&view.head(), &plan.query_policies) {
            Ok(asked) => asked,
            Err(error) => return answer::says(session, ctx, Local::BadPurge, &error.to_string()).await,
        };
        let asker =
            Asker { by: view.method().to_owned(), from: ctx.client.address.to_string(), cause: "client" };
        let purged = self.store.purge(&asked.selectors, effect(asked.expires));
        let known = purged.total().entries;
        let text = match purged.sweep {
            None => format!("purged; entries: {known}"),
            Some(_) => "purged".to_owned(),
        };
        let app = self.clone();
        // These clients wait for the answer while somebody saves a page.
        tokio::spawn(async move { app.conclude(purged, &asked.selectors, asked.expires, asker).await });
        answer::says(session, ctx, Local::Purged, &text).await
    }
}

/// What a write removes.
#[derive(Clone, Debug, Default)]
pub struct Removals {
    /// This is gone.
    pub gone: Vec<Selector>,
    /// This only expires.
    pub expired: Vec<Selector>,
}

impl Removals {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.expired.is_empty()
    }
}

/// Whether the client may purge by the methods of other caches: by the address that it sends from.
pub fn may_purge(session: &Session, ctx: &Context) -> bool {
    let received = view::request_fields(session.req_header());
    let sender = forwarding::sender(ctx.client.peer, &ctx.live.plan.trusted_proxies, Fields(&received));
    let allowed = |address| ctx.live.plan.purge_clients.iter().any(|network| network.contains(&address));
    sender.is_some_and(allowed)
}

fn effect(expires: Expires) -> Effect {
    match expires {
        Expires::No => Effect::Remove,
        Expires::Yes => Effect::Expire(clock::now()),
    }
}
