//! A request that the store may answer: from what is stored, or from a fetch that all requests for the key share.

use std::sync::Arc;
use std::time::Duration;

use pingora::Result;
use pingora::proxy::Session;
use tokio::time::Instant as Deadline;

use super::App;
use super::context::Context;
use super::view;
use super::{answer, audit, fetch, purge};
use crate::clock::{self, Timestamp};
use crate::observe::outcome::{Fate, Local};
use crate::origin::queue::Urgency;
use crate::rules::client_control::ClientControl;
use crate::rules::dialect;
use crate::rules::encoding;
use crate::rules::freshness::StaleReason;
use crate::rules::guard::{self, Inputs, Witness};
use crate::rules::head::{Fields, RequestHead};
use crate::rules::key::{CacheKey, Vary};
use crate::rules::lookup::PassReason;
use crate::rules::outgoing::Outgoing;
use crate::rules::policy::{CachePolicy, QueryPolicy};
use crate::rules::ranges;
use crate::rules::request::Received;
use crate::rules::route::Route;
use crate::rules::selector::Facts;
use crate::rules::tags::Tags;
use crate::rules::verdict::{self, Verdict};
use crate::store::fill::{Failure, News, Opening, Reader, Streaming};
use crate::store::fills::{Place, Ticket};
use crate::store::memory;
use crate::store::response::{Head, StoredResponse};

/// How often a request looks again, when what it waited for was not for it.
const MAX_ROUNDS: usize = 4;

/// How much longer a request waits for a fetch that it has caused, where it has to be complete first: the fetch ends by itself
/// before.
const OWN_FETCH: Duration = Duration::from_secs(60);

/// How long it waits at most where `lock.timeout` is beyond all measure.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// What became of the request.
pub enum Served {
    /// It is answered.
    Answered,
    /// It goes to the origin by itself.
    Pass(PassReason),
}

/// What a round ended with.
enum Round {
    Served(Served),
    LookAgain,
}

/// What of a fetch that it did not lead a request may have.
enum Share {
    /// The response, as it comes.
    Now,
    /// Perhaps the response, once it is complete and has been looked at.
    Later,
    /// Not this one.
    Never(Round),
}

/// What the store says to a request.
struct Found {
    primary: CacheKey,
    key: CacheKey,
    /// What of it reaches the origin beside the key.
    inputs: Inputs,
    response: Option<Arc<StoredResponse>>,
    verdict: Verdict,
    client: ClientControl,
    wants_part: bool,
    /// Whether a HEAD asks for what is stored, has a validator, and has to be validated: it goes as a HEAD, which may freshen it.
    /// Any other goes as a GET, which stores the page.
    as_head: bool,
}

/// Answers from the store or a shared fetch.
pub async fn serve(app: &App, session: &mut Session, ctx: &mut Context) -> Result<Served> {
    let Some(route) = ctx.route.clone() else {
        return Ok(Served::Pass(PassReason::Off));
    };
    // One for all rounds: the operator's patience is with the request.
    let started = Deadline::from_std(clock::start());
    let deadline = started.checked_add(route.cache.lock_timeout).unwrap_or(started + LONGEST_WAIT);
    for _ in 0..MAX_ROUNDS {
        let now = clock::now();
        let found = look_up(app, session, ctx, &route, now);
        ctx.outcome.verdict = Some(found.verdict);
        let round = match (found.verdict, &found.response) {
            (Verdict::Hit, Some(response)) => {
                answer::stored(app, session, ctx, response, now).await?;
                audit::sample(app, session, ctx, response);
                Round::Served(Served::Answered)
            }
            (Verdict::HitStale(reason), Some(response)) => {
                if reason == StaleReason::WhileRevalidate {
                    refresh(app, session, ctx, &found);
                }
                answer::stored(app, session, ctx, response, now).await?;
                Round::Served(Served::Answered)
            }
            (Verdict::OnlyIfCached, _) => {
                answer::local(session, ctx, Local::OnlyIfCached).await?;
                Round::Served(Served::Answered)
            }
            (Verdict::Pass(reason), _) => Round::Served(Served::Pass(reason)),
            _ => match app.enter(ctx) {
                Ok(()) => share_a_fetch(app, session, ctx, found, now, deadline).await?,
                Err(local) => {
                    answer::local(session, ctx, local).await?;
                    Round::Served(Served::Answered)
                }
            },
        };
        match round {
            Round::Served(served) => return Ok(served),
            Round::LookAgain => {}
        }
    }
    Ok(Served::Pass(PassReason::Unsettled))
}

fn look_up(app: &App, session: &Session, ctx: &Context, route: &Route, now: Timestamp) -> Found {
    let view = view::received(session.req_header(), &ctx.client);
    let request = view.head();
    let policy = &route.cache;
    let primary = CacheKey::primary(&route.name, &request, policy);
    let inputs = Inputs::of(&request, ctx.client.address, policy);
    let found = stored_for(app, &request, &inputs, policy, &primary);
    let mut client = ClientControl::heeded(request.fields, policy);
    client.no_cache |= dialect::asks_for_refresh(request.fields) && purge::sender(session, ctx).is_some();
    let freshness = found.response.as_ref().map(|response| response.freshness());
    let mut verdict = verdict::judge(freshness.as_ref(), &client, now);
    let readable = |response: &Arc<StoredResponse>| is_readable(request.fields, &response.head);
    if !found.response.as_ref().is_none_or(readable) {
        verdict = Verdict::Pass(PassReason::Encoding);
    }
    Found {
        inputs,
        wants_part: request.method == "GET" && !ranges::begins_at_zero(request.fields),
        as_head: request.method == "HEAD" && found.response.as_ref().is_some_and(has_validator),
        primary,
        key: found.key,
        response: found.response,
        verdict,
        client,
    }
}

/// What a fetch for the request is known by until its head arrives.
fn facts(view: &Received<'_>, ctx: &Context) -> Facts {
    let request = view.head();
    match &ctx.route {
        Some(route) => Facts::new(&request, &route.cache.query, route.tags(&request.target.path)),
        None => Facts::new(&request, &QueryPolicy::default(), Tags::default()),
    }
}

/// What is stored under the key that the request selects. What is stored for others only is not there for it.
pub fn stored_for(
    app: &App,
    request: &RequestHead<'_>,
    inputs: &Inputs,
    policy: &CachePolicy,
    primary: &CacheKey,
) -> memory::Found {
    let mut found = app.store.memory.lookup(primary, |vary| variant(request, policy, primary, vary));
    found.response = found.response.filter(|response| guard::may_have(inputs, response.witness.as_deref()));
    found
}

/// The key of the variant that the request selects: by what a fetch for it would send.
fn variant(request: &RequestHead<'_>, policy: &CachePolicy, primary: &CacheKey, vary: &Vary) -> CacheKey {
    primary.variant(vary, Fields::new(&Outgoing::of(request, policy).lend()))
}

/// Joins the fetch of the key, or leads it.
async fn share_a_fetch(
    app: &App,
    session: &mut Session,
    ctx: &mut Context,
    found: Found,
    now: Timestamp,
    deadline: Deadline,
) -> Result<Round> {
    let pass = |reason| Ok(Round::Served(Served::Pass(reason)));
    // What begins at the beginning can be read along with the whole, and with something stored a validation can
    // still lead to the part.
    if found.wants_part && found.response.is_none() {
        return pass(PassReason::Range);
    }
    if let Some(reason) = app.store.memo.reason(&found.key, now) {
        if reason == PassReason::Uncacheable {
            ctx.believed_uncacheable = Some(found.key);
        }
        return pass(reason);
    }
    let begun = app.store.memory.begin();
    let key = if found.as_head { found.key.of_head() } else { found.key.clone() };
    let key = fetch::fill_key(&key, &found.inputs, found.response.is_some());
    let view = view::received(session.req_header(), &ctx.client);
    match app.store.fills.enter(&key, || facts(&view, ctx), begun) {
        Ticket::Full => pass(PassReason::FillLimit),
        Ticket::Lead(place, mut reader) => {
            let urgency = Urgency::Client;
            let as_stranger = lead(app, session, (&view, ctx), &found, found.as_head, urgency, place)?;
            drop(view);
            let opening = loop {
                match reader.news().await {
                    News::Interim(head) => answer::interim(session, ctx, &head).await?,
                    News::Opening(opening) => break opening,
                }
            };
            ctx.outcome.origin = Some(ctx.outcome.elapsed());
            if as_stranger && !is_failure(&opening) {
                let deadline = deadline + OWN_FETCH;
                return hand_out(app, session, ctx, &found, opening, reader, deadline).await;
            }
            serve_opening(app, session, ctx, opening, reader, true).await
        }
        Ticket::Follow(reader) => {
            drop(view);
            follow(app, session, ctx, &found, reader, deadline).await
        }
    }
}

/// Whether the origin cannot answer now, whoever asks.
fn is_failure(opening: &Opening) -> bool {
    matches!(opening, Opening::Streaming(streaming) if streaming.head.status >= 500)
}

/// Reads along with another request's fetch.
async fn follow(
    app: &App,
    session: &mut Session,
    ctx: &mut Context,
    found: &Found,
    mut reader: Reader,
    deadline: Deadline,
) -> Result<Round> {
    let Ok(opening) = tokio::time::timeout_at(deadline, reader.opening()).await else {
        return Ok(Round::Served(Served::Pass(PassReason::LockTimeout)));
    };
    ctx.outcome.collapsed = true;
    let round = hand_out(app, session, ctx, found, opening, reader, deadline).await;
    if !matches!(round, Ok(Round::Served(Served::Answered))) {
        ctx.outcome.collapsed = false;
    }
    round
}

/// Serves what came of a fetch that was not made as this request would have made it, as far as it may have it.
async fn hand_out(
    app: &App,
    session: &mut Session,
    ctx: &mut Context,
    found: &Found,
    opening: Opening,
    reader: Reader,
    deadline: Deadline,
) -> Result<Round> {
    match share(session, ctx, found, &opening) {
        Share::Now => {}
        Share::Later => {
            if tokio::time::timeout_at(deadline, reader.settled()).await.is_err() {
                return Ok(Round::Served(Served::Pass(PassReason::LockTimeout)));
            }
            return serve_settled(app, session, ctx, found).await;
        }
        Share::Never(round) => return Ok(round),
    }
    serve_opening(app, session, ctx, opening, reader, false).await
}

/// Serves what has been stored since the request came, be it fresh or not: it was fetched for it too.
async fn serve_settled(app: &App, session: &mut Session, ctx: &mut Context, found: &Found) -> Result<Round> {
    let Some(route) = ctx.route.clone() else { return Ok(Round::LookAgain) };
    let view = view::received(session.req_header(), &ctx.client);
    let stored = stored_for(app, &view.head(), &found.inputs, &route.cache, &found.primary).response;
    let is_new = |stored: &Arc<StoredResponse>| stored.freshness().stored_at >= ctx.outcome.received_at;
    let stored = stored.filter(is_new).filter(|stored| is_readable(view.fields(), &stored.head));
    drop(view);
    match stored {
        Some(response) => {
            ctx.outcome.fate = Some(Fate::Stored);
            answer::stored(app, session, ctx, &response, clock::now()).await?;
            Ok(Round::Served(Served::Answered))
        }
        None => Ok(Round::LookAgain),
    }
}

async fn serve_opening(
    app: &App,
    session: &mut Session,
    ctx: &mut Context,
    opening: Opening,
    reader: Reader,
    leads: bool,
) -> Result<Round> {
    let now = clock::now();
    match opening {
        Opening::Streaming(streaming) => {
            let is_decided = streaming.witness.is_none() && !streaming.is_sealed;
            let kept = if is_decided { Fate::Stored } else { Fate::OnProbation };
            ctx.outcome.fate = Some(streaming.discard.map_or(kept, Fate::Discarded));
            let head = streaming.for_leader.as_ref().filter(|_| leads).unwrap_or(&streaming.head);
            answer::streaming(app, session, ctx, &streaming, head, reader).await?;
        }
        Opening::Validated(response, discard) => {
            ctx.outcome.validated = true;
            ctx.outcome.fate = Some(discard.map_or(Fate::Stored, Fate::Discarded));
            answer::stored(app, session, ctx, &response, now).await?;
        }
        Opening::StandIn(response, reason) => {
            ctx.outcome.stood_in = Some(reason);
            answer::stored(app, session, ctx, &response, now).await?;
        }
        Opening::Again => return Ok(Round::LookAgain),
        Opening::Recalled => {
            (ctx.outcome.recalled, ctx.outcome.origin) = (true, None);
            return Ok(Round::LookAgain);
        }
        Opening::Failed(failure, message) => {
            ctx.outcome.error = Some(message.to_string());
            let kind = match failure {
                Failure::Unreachable => Local::OriginUnreachable,
                Failure::Timeout => Local::OriginTimeout,
                Failure::Unavailable(unavailable) => {
                    ctx.told.push(("Retry-After", unavailable.retry_after().to_string()));
                    unavailable.into()
                }
                Failure::Unvalidated => Local::Unvalidated,
                Failure::Internal => Local::Internal,
            };
            answer::local(session, ctx, kind).await?;
        }
    }
    Ok(Round::Served(Served::Answered))
}

/// Whether a follower may have what it waited for: not what nobody may share, nor another variant, nor what is still
/// on probation for requests that differ from its own.
fn share(session: &Session, ctx: &Context, found: &Found, opening: &Opening) -> Share {
    let view = view::received(session.req_header(), &ctx.client);
    let request = view.head();
    let covered = |witness: Option<&Witness>| guard::may_have(&found.inputs, witness);
    let streaming: &Streaming = match opening {
        Opening::Streaming(streaming) => streaming,
        Opening::Validated(response, _) | Opening::StandIn(response, _)
            if !covered(response.witness.as_deref()) =>
        {
            return Share::Never(Round::LookAgain);
        }
        // It holds for who led, and may not for others.
        Opening::Validated(_, Some(reason)) if reason.is_of_one_exchange() => {
            return Share::Never(Round::LookAgain);
        }
        _ => return Share::Now,
    };
    if streaming.discard.is_some() && streaming.is_personal {
        return Share::Never(Round::LookAgain);
    }
    if streaming.discard.is_some() {
        return Share::Never(Round::Served(Served::Pass(PassReason::Uncacheable)));
    }
    if !is_readable(request.fields, &streaming.head) {
        return Share::Never(Round::Served(Served::Pass(PassReason::Encoding)));
    }
    let own = match &ctx.route {
        Some(route) if !streaming.vary.is_empty() => {
            variant(&request, &route.cache, &found.primary, &streaming.vary)
        }
        _ => found.primary.clone(),
    };
    match own == streaming.key {
        false => Share::Never(Round::LookAgain),
        true if streaming.is_sealed || !covered(streaming.witness.as_ref()) => Share::Later,
        true => Share::Now,
    }
}

/// Begins the fetch of a fill that can be joined now, after a second look at what is stored. A purge may have come
/// since the first: what it removed must not come back by way of a validation or a failing origin (one from now on
/// detaches the fill). Or another fetch may have ended: then there is nothing left to fetch. Tells whether it is fetched as a
/// stranger would.
fn lead(
    app: &App,
    session: &Session,
    (view, ctx): (&Received<'_>, &Context),
    found: &Found,
    as_head: bool,
    urgency: Urgency,
    place: Place,
) -> Result<bool> {
    let Some(route) = &ctx.route else { return Ok(false) };
    let now_stored = stored_for(app, &view.head(), &found.inputs, &route.cache, &found.primary);
    let freshness = now_stored.response.as_ref().map(|response| response.freshness());
    let verdict = verdict::judge(freshness.as_ref(), &found.client, clock::now());
    if verdict == Verdict::Hit {
        place.filler.open(Opening::Again);
        return Ok(false);
    }
    let inputs = found.inputs.clone();
    let target =
        fetch::Target { primary: found.primary.clone(), stored: now_stored, inputs, as_head, urgency };
    fetch::start(app, session, (view, ctx), route, target, place)
}

/// Whether a HEAD can tell that it still holds.
fn has_validator(response: &Arc<StoredResponse>) -> bool {
    response.head.with(|head| head.fields.has("etag") || head.fields.has("last-modified"))
}

/// Whether the client accepts the coding that a response is stored in.
pub fn is_readable(request: Fields<'_>, head: &Head) -> bool {
    !head.is_encoded || head.with(|head| encoding::is_readable(request, head.fields))
}

/// Fetches an expired response anew while it is still served, unless that is under way already.
fn refresh(app: &App, session: &Session, ctx: &Context, found: &Found) {
    let begun = app.store.memory.begin();
    let view = view::received(session.req_header(), &ctx.client);
    if let Ticket::Lead(place, _) = app.store.fills.enter(&found.key, || facts(&view, ctx), begun)
        && let Err(error) = lead(app, session, (&view, ctx), found, false, Urgency::Background, place)
    {
        tracing::error!(%error, key = %found.key, "a background refresh could not be started");
    }
}
