//! Purges: by the admin listener, by clients of other caches on the main one, by writes.
//!
//! A purge is in force before it is answered; what is left to do then, and takes long, is done aside.

use std::net::IpAddr;

use pingora::proxy::Session;
use tokio::task::JoinError;
use uuid::Uuid;

use super::App;
use super::answer;
use super::context::Context;
use super::view;
use crate::clock;
use crate::observe::audit::Entry;
use crate::observe::metrics::Cause;
use crate::observe::outcome::Local;
use crate::rules::dialect;
use crate::rules::forwarding;
use crate::rules::head::Fields;
use crate::rules::invalidate::Expires;
use crate::rules::selector::Selector;
use crate::shared::log::Orders;
use crate::shared::log::follow::Obey;
use crate::store::ban::{Ban, Count, Effect};
use crate::store::purging::Purged;

/// Who asks for a purge.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The name of a token, or a method.
    pub by: String,
    /// Where it comes from.
    pub from: String,
    /// How.
    pub cause: Cause,
}

/// A purge that has been carried out.
#[derive(Debug)]
pub struct Report {
    /// Its place in the order of purges.
    pub sequence: u64,
    /// Each selector, in words, and what it named.
    pub named: Vec<(String, Count)>,
    /// What all named.
    pub total: Count,
    /// What it is called in the log that all instances follow.
    pub told: Option<Uuid>,
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
        // What a reload changes is a matter of this instance.
        let (purged, told) = match asker.cause {
            Cause::Reload => (self.store.purge(&selectors, effect(expires)), None),
            _ => self.put_in_force(&selectors, expires),
        };
        let app = self.clone();
        let concluded = tokio::spawn(async move { app.conclude(purged, &selectors, expires, asker).await });
        Ok(Report { told, ..concluded.await?? })
    }

    /// Purges here, and has the other instances told. Tells what the purge is called in the log of all.
    fn put_in_force(&self, selectors: &[Selector], expires: Expires) -> (Purged, Option<Uuid>) {
        // First: what they share is not taken from the moment on in which it is purged here.
        let told = self.shared.as_ref().map(|shared| shared.log.announce(selectors, expires == Expires::Yes));
        (self.store.purge(selectors, effect(expires)), told)
    }
}

impl Obey for App {
    /// Purges what another instance has purged, or all that may have missed a purge.
    async fn obey(&self, orders: Orders) {
        let (cause, soft) = match &orders {
            Orders::Purge { soft, .. } => (Cause::Peer, *soft),
            Orders::DropAll => (Cause::Doubt, false),
        };
        let purged = self.store.purge(orders.selectors(), effect(Expires::softly(soft)));
        // It waits only where too much is in force already. An error is told where it happens: it is in force.
        let _ = self.carried_out(purged, cause, false).await;
    }
}

impl App {
    /// Records a purge that is in force, and carries it out.
    async fn conclude(
        &self,
        purged: Purged,
        selectors: &[Selector],
        expires: Expires,
        asker: Asker,
    ) -> Result<Report, JoinError> {
        let words: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        let mut entry = Entry {
            at: Entry::time(clock::now()),
            instance: self.live.load().plan.instance.to_string(),
            sequence: purged.sequence.0,
            cause: asker.cause.as_str().to_owned(),
            by: asker.by,
            from: asker.from,
            selectors: Entry::shown(&words),
            selector_count: words.len(),
            soft: expires == Expires::Yes,
            entries: purged.total().entries,
            bytes: purged.total().bytes,
            counted: purged.is_counted,
        };
        // At once: whatever happens before it is carried out, it is in force.
        self.record(&entry);
        let sequence = purged.sequence.0;
        let named = self.carried_out(purged, asker.cause, !entry.counted).await?;
        let total: Count = named.iter().copied().sum();
        if !entry.counted {
            (entry.entries, entry.bytes, entry.counted) = (total.entries, total.bytes, true);
            self.record(&entry);
        }
        Ok(Report { sequence, named: words.into_iter().zip(named).collect(), total, told: None })
    }

    fn record(&self, entry: &Entry) {
        if let Err(error) = self.audit.record(entry) {
            tracing::error!(%error, "a purge could not be written to the audit log");
            self.observer.metrics.audit_line_lost();
        }
    }

    /// Has a purge carried out, and counts it; what it named as far as that is known. Waits until it is carried out where it
    /// `waits`, or where too much is in force to leave more to later.
    async fn carried_out(&self, purged: Purged, cause: Cause, waits: bool) -> Result<Vec<Count>, JoinError> {
        let (is_counted, total) = (purged.is_counted, purged.total());
        if purged.is_crowded {
            self.observer.metrics.limit("bans");
        }
        let Some(ban) = purged.ban else {
            self.observer.metrics.purge(cause, total.entries);
            return Ok(purged.named);
        };
        let app = self.clone();
        let swept = tokio::spawn(async move {
            app.sweep(&ban).await?;
            let named = ban.named();
            let all: Count = if is_counted { total } else { named.iter().copied().sum() };
            app.observer.metrics.purge(cause, all.entries);
            Ok(named)
        });
        match waits || purged.is_crowded {
            true => swept.await?,
            false => Ok(purged.named),
        }
    }

    /// Carries out this purge and all others that wait, unless another has done so meanwhile.
    async fn sweep(&self, ban: &Ban) -> Result<(), JoinError> {
        // An error would tell that the semaphore is closed, which it never is.
        let _turn = self.sweeps.acquire().await;
        if ban.is_done() {
            return Ok(());
        }
        let store = self.store.clone();
        let swept = tokio::task::spawn_blocking(move || store.sweep()).await;
        swept.inspect_err(|error| tracing::error!(%error, "a purge is in force but not carried out"))
    }

    /// Purges what a write changed.
    pub async fn purge_after(&self, cause: Cause, removed: Vec<(Selector, Expires)>) {
        let purge = |expires| {
            let of_kind = removed.iter().filter(|(_, kind)| *kind == expires);
            let selectors: Vec<Selector> = of_kind.map(|(selector, _)| selector.clone()).collect();
            (!selectors.is_empty()).then(|| self.put_in_force(&selectors, expires).0)
        };
        // All is in force before anything is waited for.
        let purged = [Expires::No, Expires::Yes].map(purge);
        for purged in purged.into_iter().flatten() {
            // It waits only where too much is in force already. An error is told where it happens: it is in force.
            let _ = self.carried_out(purged, cause, false).await;
        }
    }

    /// Answers a client of another cache, whose request purges.
    pub(super) async fn answer_purge(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<()> {
        let plan = &ctx.live.plan;
        let Some(from) = sender(session, ctx) else {
            self.observer.metrics.purge_refused();
            let text = "this client may not purge: `purge_clients` says who may";
            return answer::says(session, ctx, Local::Refused, text).await;
        };
        let view = view::received(session.req_header(), &ctx.client);
        let (method, has_valid_host) = (view.method().to_owned(), view.has_valid_host());
        let asked = dialect::read(&view.head(), &plan.query_policies);
        drop(view);
        if !has_valid_host {
            return answer::local(session, ctx, Local::BadRequest).await;
        }
        let asked = match asked {
            Ok(asked) => asked,
            Err(error) => {
                tracing::warn!(target: "parvis::audit", method, %from, reason = %error, "refused");
                self.observer.metrics.purge_refused();
                return answer::says(session, ctx, Local::BadPurge, &error.to_string()).await;
            }
        };
        let asker = Asker { by: method, from: from.to_string(), cause: Cause::Client };
        let (purged, _) = self.put_in_force(&asked.selectors, asked.expires);
        let known = purged.total().entries;
        let text = match purged.ban {
            None => format!("purged; entries: {known}"),
            Some(_) => "purged".to_owned(),
        };
        let app = self.clone();
        // These clients wait for the answer while somebody saves a page.
        tokio::spawn(async move { app.conclude(purged, &asked.selectors, asked.expires, asker).await });
        answer::says(session, ctx, Local::Purged, &text).await
    }
}

/// The address from which the client may purge by the methods of other caches, if it may.
pub fn sender(session: &Session, ctx: &Context) -> Option<IpAddr> {
    let (plan, received) = (&ctx.live.plan, view::request_fields(session.req_header()));
    forwarding::sender_among(&plan.purge_clients, ctx.client.peer, &plan.trust, Fields::new(&received))
}

fn effect(expires: Expires) -> Effect {
    match expires {
        Expires::No => Effect::Remove,
        Expires::Yes => Effect::Expire(clock::now()),
    }
}
