//! `POST /purge`: what it names, what went, who has acknowledged. `GET /purges`: what was purged before.

use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::idempotency::{self, Turn};
use super::token::Caller;
use super::{Admins, Refusal};
use crate::clock;
use crate::observe::audit::Entry;
use crate::plan::Plan;
use crate::rules::invalidate::Expires;
use crate::rules::selector::{MAX_SELECTORS, Selector, SelectorError};
use crate::shared::log::acknowledge::Acknowledged as Others;
use crate::store::ban::Count;

/// The most regular expressions and wildcards in one request: each is held against every entry.
const MAX_PATTERNS: usize = 50;

/// How long the other instances are waited for, in seconds.
const DEFAULT_WAIT: u64 = 1;
/// The longest.
pub const MAX_WAIT: u64 = 60;

/// The most URLs that a dry run shows.
const MAX_EXAMPLES: usize = 20;

/// How many characters of a selector a refusal repeats.
const MAX_SHOWN: usize = 200;

/// How many entries of the audit log are shown unless asked otherwise.
const SHOWN: usize = 100;

/// What to remove.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// `/path?query` on every host, or `http://host/path?query`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// `/path` on every host, or `http://host/path`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// URLs with `*` for any text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wildcards: Vec<String>,
    /// Labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Everything of a host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Regular expressions, searched for in path and query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regex: Vec<String>,
    /// Everything.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// What is named only expires: it is validated before it is served, or served within its stale windows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub soft: bool,
    /// Nothing is removed: the answer tells what would be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Answer {
    /// The purge's place in the order of purges. A dry run has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Whether it only expired.
    #[serde(default)]
    pub soft: bool,
    /// Whether nothing was removed, and this is what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Stored responses removed.
    pub entries: usize,
    /// Bytes they were charged with.
    pub bytes: u64,
    /// The same per selector, in the order given; an entry counts where it is named first.
    pub selectors: Vec<Removed>,
    /// Who has acknowledged: nothing older is served there.
    #[serde(default)]
    pub instances: Vec<Acknowledged>,
    /// Other instances that are alive and have not acknowledged in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Why nobody knows whether the other instances have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// What the purge is called in the log that all instances follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Uuid>,
    /// Of a dry run: at most so many requests to the origin until all is stored again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_requests: Option<usize>,
    /// Of a dry run: some of the URLs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

/// What one selector removed.
#[derive(Debug, Deserialize, Serialize)]
pub struct Removed {
    /// As understood.
    pub selector: String,
    /// Stored responses removed.
    pub entries: usize,
    /// Bytes they were charged with.
    pub bytes: u64,
}

/// An instance that has carried it out.
#[derive(Debug, Deserialize, Serialize)]
pub struct Acknowledged {
    /// Its name.
    pub instance: String,
    /// Stored responses it removed, of the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<usize>,
}

type Body = Result<Bytes, BytesRejection>;

pub(super) async fn purge(
    State(admin): State<Admins>,
    caller: Caller,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let refused = |refusal| caller.refused(&admin.app, refusal);
    let deadline = asked.map_err(|error| error.body_text()).and_then(|Query(asked)| asked.deadline());
    let unreadable = |error| {
        Refusal::new(StatusCode::BAD_REQUEST, error, format!("write `/purge?wait=5`, at most {MAX_WAIT}"))
    };
    let deadline = deadline.map_err(unreadable).map_err(refused)?;
    let body = body.map_err(too_large).map_err(refused)?;
    let Some(key) = idempotency::key(&headers).map_err(refused)? else {
        let answer = answer(&admin, &caller, &body).await.map_err(refused)?;
        return with_others(&admin, &answer, deadline).await.map(json);
    };
    match admin.answers.enter(caller.name(), &key, &body, clock::now()).map_err(refused)? {
        Turn::Again(answer) => {
            let answer = with_others(&admin, &answer, deadline).await?;
            Ok(([("idempotency-replayed", "true")], json(answer)).into_response())
        }
        Turn::First(place) => {
            // Carried through though the client leaves: it will ask again, with this key.
            let (admin, caller) = (admin.clone(), caller.clone());
            let (store, caller) = ((admin.clone(), caller.clone()), caller);
            let carried = tokio::spawn(async move {
                let (admin, caller) = store;
                let answer = answer(&admin, &caller, &body).await?;
                place.answer(&short(&answer).map_err(|error| internal(&error))?);
                Ok(answer)
            });
            let carried = carried.await.map_err(|error| internal(&error)).and_then(|answer| answer);
            let answer = carried.map_err(|refusal| caller.refused(&admin.app, refusal))?;
            with_others(&admin, &answer, deadline).await.map(json)
        }
    }
}

/// How a purge is answered; apart from what it is, so that who asks again may wait for longer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// How long to wait until the other instances have acknowledged, in seconds.
    #[serde(default = "default_wait")]
    wait: u64,
}

fn default_wait() -> u64 {
    DEFAULT_WAIT
}

impl Asked {
    fn deadline(&self) -> Result<Instant, String> {
        match self.wait <= MAX_WAIT {
            true => Ok(clock::start() + Duration::from_secs(self.wait)),
            false => Err("that is too long to wait".to_owned()),
        }
    }
}

/// The answer as it is remembered: without the selectors, where these are very many.
fn short(answer: &str) -> serde_json::Result<String> {
    if answer.len() <= idempotency::MAX_ANSWER {
        return Ok(answer.to_owned());
    }
    let answer: Answer = serde_json::from_str(answer)?;
    serde_json::to_string(&Answer { selectors: Vec::new(), ..answer })
}

/// The answer with the other instances: who has acknowledged by now, or by `deadline`.
async fn with_others(admin: &Admins, answer: &str, deadline: Instant) -> Result<String, Refusal> {
    let mut answer: Answer = serde_json::from_str(answer).map_err(|error| internal(&error))?;
    if let (Some(shared), Some(purge)) = (&admin.app.shared, answer.log) {
        match shared.acknowledged(purge, deadline).await {
            Ok(Others { by, missing }) => {
                let others = by.into_iter().map(|instance| Acknowledged { instance, entries: None });
                answer.instances.extend(others);
                answer.missing = missing;
            }
            Err(why) => answer.unknown = Some(why),
        }
    }
    serde_json::to_string(&answer).map_err(|error| internal(&error))
}

/// A body that is too large.
pub(super) fn too_large(error: BytesRejection) -> Refusal {
    Refusal::new(error.status(), error.body_text(), "send at most 1 MiB; split the purge")
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Carries a request out; the answer as JSON.
async fn answer(admin: &Admins, caller: &Caller, body: &[u8]) -> Result<String, Refusal> {
    let live = admin.app.live.load_full();
    let request = read(body)?;
    let selectors = selectors(&request, &live.plan)?;
    caller.may_purge(&selectors)?;
    let answer = match request.dry_run {
        true => survey(admin, selectors, request.soft).await?,
        false => {
            let report = admin.app.purge(selectors, Expires::softly(request.soft), caller.asker()).await;
            let report = report.map_err(|error| internal(&error))?;
            let entries = report.total.entries;
            Answer {
                sequence: Some(report.sequence),
                soft: request.soft,
                entries,
                bytes: report.total.bytes,
                selectors: removed(report.named),
                instances: vec![Acknowledged {
                    instance: live.plan.instance.to_string(),
                    entries: Some(entries),
                }],
                log: report.told,
                ..Answer::default()
            }
        }
    };
    serde_json::to_string(&answer).map_err(|error| internal(&error))
}

/// Tells what a purge would remove.
async fn survey(admin: &Admins, selectors: Vec<Selector>, soft: bool) -> Result<Answer, Refusal> {
    let store = admin.app.store.clone();
    // It looks at every entry: not on a thread that serves requests.
    let looking = tokio::task::spawn_blocking(move || {
        let survey = store.memory.survey(&selectors, clock::now(), MAX_EXAMPLES);
        (selectors.iter().map(ToString::to_string).collect::<Vec<_>>(), survey)
    });
    let (words, survey) = looking.await.map_err(|error| internal(&error))?;
    let total: Count = survey.named.iter().copied().sum();
    Ok(Answer {
        soft,
        dry_run: true,
        entries: total.entries,
        bytes: total.bytes,
        selectors: removed(words.into_iter().zip(survey.named).collect()),
        origin_requests: Some(survey.fresh),
        examples: survey.examples,
        ..Answer::default()
    })
}

pub(super) fn internal(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "a purge could not be answered");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong on our side", "see the log")
}

fn removed(named: Vec<(String, Count)>) -> Vec<Removed> {
    let each = named.into_iter();
    each.map(|(selector, count)| Removed { selector, entries: count.entries, bytes: count.bytes }).collect()
}

/// Reads a JSON object; serde would also take a struct's fields from a list, in order.
pub(super) fn read_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let refusal = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error, "nothing was purged");
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(refusal("not a JSON object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| refusal(error.to_string()))
}

fn read(body: &[u8]) -> Result<Request, Refusal> {
    let remedy = "send JSON such as {\"tags\": [\"products\"], \"urls\": [\"/\"], \"prefixes\": [\"/blog/\"]} or {\"all\": true}";
    let request: Request = read_object(body).map_err(|error| error.with_remedy(remedy))?;
    let patterns = request.wildcards.len() + request.regex.len();
    let others = [&request.urls, &request.prefixes, &request.tags, &request.hosts];
    let count = others.iter().map(|list| list.len()).sum::<usize>() + patterns;
    if count == 0 && !request.all {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "nothing to purge", remedy));
    }
    for (found, max, what) in
        [(count, MAX_SELECTORS, "selectors"), (patterns, MAX_PATTERNS, "wildcards and regular expressions")]
    {
        if found > max {
            let error = format!("{found} {what}; at most {max} in one purge");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, error, "split the purge"));
        }
    }
    Ok(request)
}

fn selectors(request: &Request, plan: &Plan) -> Result<Vec<Selector>, Refusal> {
    type Read<'r> = &'r dyn Fn(&str) -> Result<Selector, SelectorError>;
    let lists: [(&[String], Read<'_>); 6] = [
        (&request.urls, &|text| Selector::url(text, &plan.query_policies)),
        (&request.prefixes, &Selector::prefix),
        (&request.wildcards, &Selector::wildcard),
        (&request.tags, &Selector::tag),
        (&request.hosts, &Selector::host),
        (&request.regex, &Selector::regex),
    ];
    let mut selectors = Vec::new();
    for (texts, read) in lists {
        for text in texts {
            selectors.push(read(text).map_err(|error| unreadable(text, &error))?);
        }
    }
    if request.all {
        selectors.push(Selector::All);
    }
    Ok(selectors)
}

/// A selector that cannot be read.
pub(super) fn unreadable(text: &str, error: &SelectorError) -> Refusal {
    let shown: String = text.chars().take(MAX_SHOWN).collect();
    Refusal::new(StatusCode::BAD_REQUEST, format!("`{shown}`: {error}"), "nothing was purged")
}

/// What to show of the audit log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    #[serde(default = "shown")]
    limit: usize,
}

fn shown() -> usize {
    SHOWN
}

/// `GET /purges`: the latest, newest first.
pub(super) async fn purges(
    State(admin): State<Admins>,
    caller: Caller,
    query: Result<Query<Shown>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, Refusal> {
    let read = query.map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, error.body_text(), "write `/purges?limit=20`")
    });
    let shown = read.and_then(|Query(shown)| caller.may_read().map(|()| shown));
    let shown = shown.map_err(|refusal| caller.refused(&admin.app, refusal))?;
    Ok(Json(admin.app.audit.recent(shown.limit)))
}
