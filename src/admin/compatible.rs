//! The purge APIs of Fastly, Cloudflare and Souin, as their clients speak them: whoever points one at this listener need
//! change nothing but the address and the token.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::purge::{internal, read_object, too_large, unreadable};
use super::token::Caller;
use super::{Admins, Refusal};
use crate::clock;
use crate::rules::invalidate::Expires;
use crate::rules::pattern::{Pattern, Rule};
use crate::rules::selector::{MAX_SELECTORS, Selector, SelectorError, any_scheme};
use crate::rules::tags;

/// The most keys that Souin's list shows.
const MAX_KEYS: usize = 10_000;

type Body = Result<Bytes, BytesRejection>;

/// Carries a purge out; its number.
async fn carry_out(
    admin: &Admins,
    caller: &Caller,
    selectors: Result<Vec<Selector>, Refusal>,
    expires: Expires,
) -> Result<u64, Refusal> {
    let checked = selectors.and_then(|selectors| {
        let count = selectors.len();
        match count {
            0 => Err(bad_request("nothing to purge")),
            1..=MAX_SELECTORS => caller.may_purge(&selectors).map(|()| selectors),
            _ => Err(bad_request(format!("{count} selectors; at most {MAX_SELECTORS} in one purge"))),
        }
    });
    let selectors = checked.map_err(|refusal| caller.refused(&admin.app, refusal))?;
    let report = admin.app.purge(selectors, expires, caller.asker()).await;
    report.map(|report| report.sequence).map_err(|error| internal(&error))
}

fn bad_request(error: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error, "nothing was purged")
}

fn each(
    texts: &[String],
    read: impl Fn(&str) -> Result<Selector, SelectorError>,
) -> Result<Vec<Selector>, Refusal> {
    texts.iter().map(|text| read(text).map_err(|error| unreadable(text, &error))).collect()
}

fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    read_object(&body.map_err(too_large)?)
}

/// `Fastly-Soft-Purge: 1`.
fn softness(headers: &HeaderMap) -> Expires {
    Expires::softly(headers.get("fastly-soft-purge").is_some_and(|value| value == "1"))
}

/// `Surrogate-Key: a b`.
fn keys(headers: &HeaderMap) -> Vec<Selector> {
    let lines = headers.get_all("surrogate-key").iter();
    lines.flat_map(|line| tags::read("surrogate-key", line.as_bytes())).map(Selector::of_tag).collect()
}

/// `POST /service/ID/purge/KEY`.
pub(super) async fn fastly_key(
    State(admin): State<Admins>,
    caller: Caller,
    Path((_, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let selectors = each(&[key], Selector::tag);
    let id = carry_out(&admin, &caller, selectors, softness(&headers)).await?;
    Ok(Json(json!({"status": "ok", "id": id.to_string()})).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SurrogateKeys {
    surrogate_keys: Vec<String>,
}

/// `POST /service/ID/purge`, with the keys in a field or in JSON. Fastly answers with an id per key.
pub(super) async fn fastly_keys(
    State(admin): State<Admins>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let selectors = match headers.contains_key("surrogate-key") {
        true => Ok(keys(&headers)),
        false => {
            read_json(body).and_then(|SurrogateKeys { surrogate_keys }| each(&surrogate_keys, Selector::tag))
        }
    };
    let named: Vec<String> = selectors.iter().flatten().filter_map(tag_name).collect();
    let id = carry_out(&admin, &caller, selectors, softness(&headers)).await?;
    let mut answer: Map<String, Value> = named.into_iter().map(|key| (key, json!(id.to_string()))).collect();
    answer.insert("status".to_owned(), json!("ok"));
    answer.insert("id".to_owned(), json!(id.to_string()));
    Ok(Json(answer).into_response())
}

fn tag_name(selector: &Selector) -> Option<String> {
    match selector {
        Selector::Tag { tag, .. } => Some(tag.to_string()),
        _ => None,
    }
}

/// `POST /service/ID/purge_all`.
pub(super) async fn fastly_all(
    State(admin): State<Admins>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    carry_out(&admin, &caller, Ok(vec![Selector::All]), softness(&headers)).await?;
    Ok(Json(json!({"status": "ok"})).into_response())
}

/// `POST /purge/HOST/PATH`.
pub(super) async fn fastly_url(
    State(admin): State<Admins>,
    caller: Caller,
    uri: axum::http::Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let live = admin.app.live.load_full();
    // As sent: a path that is decoded first may be another.
    let text = uri.path_and_query().map_or("", |path| path.as_str());
    let url = format!("http://{}", text.strip_prefix("/purge/").unwrap_or_default());
    let selectors = each(&[url], |url| Selector::url(url, &live.plan.query_policies));
    let id = carry_out(&admin, &caller, selectors, softness(&headers)).await?;
    Ok(Json(json!({"status": "ok", "id": id.to_string()})).into_response())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PurgeCache {
    files: Vec<File>,
    tags: Vec<String>,
    hosts: Vec<String>,
    prefixes: Vec<String>,
    purge_everything: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Url(String),
    /// The fields select a variant there; here all go.
    WithFields {
        url: String,
    },
}

/// `POST /client/v4/zones/ID/purge_cache`.
pub(super) async fn cloudflare(
    State(admin): State<Admins>,
    caller: Result<Caller, Refusal>,
    Path(zone): Path<String>,
    body: Body,
) -> Response {
    let answer = |success: bool, errors: Value, result: Value| {
        Json(json!({"success": success, "errors": errors, "messages": [], "result": result}))
    };
    let done = match caller {
        Ok(caller) => {
            let selectors = read_json(body).and_then(|request| cloudflare_selectors(&admin, &request));
            carry_out(&admin, &caller, selectors, Expires::No).await
        }
        Err(refusal) => Err(refusal),
    };
    match done {
        Ok(_) => answer(true, json!([]), json!({"id": zone})).into_response(),
        Err(refusal) => {
            let message = format!("{}; {}", refusal.error, refusal.remedy);
            let errors = json!([{"code": refusal.status.as_u16(), "message": message}]);
            (refusal.status, answer(false, errors, Value::Null)).into_response()
        }
    }
}

fn cloudflare_selectors(admin: &Admins, request: &PurgeCache) -> Result<Vec<Selector>, Refusal> {
    let live = admin.app.live.load_full();
    let files = request.files.iter().map(|file| match file {
        File::Url(url) | File::WithFields { url } => url.clone(),
    });
    let files: Vec<String> = files.collect();
    let mut selectors = each(&files, |url| Selector::url(url, &live.plan.query_policies))?;
    selectors.extend(each(&request.tags, Selector::tag)?);
    selectors.extend(each(&request.hosts, Selector::host)?);
    // Without a scheme there.
    let with_scheme = |text: &str| match text.contains("://") || text.starts_with('/') {
        true => Selector::prefix(text),
        false => Selector::prefix(&format!("http://{text}")),
    };
    selectors.extend(each(&request.prefixes, with_scheme)?);
    if request.purge_everything {
        selectors.push(Selector::All);
    }
    Ok(selectors)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invalidation {
    r#type: InvalidationType,
    #[serde(default)]
    selectors: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    purge: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum InvalidationType {
    Uri,
    UriPrefix,
    Origin,
    Group,
}

/// `GET` lists the keys, `PURGE` takes the keys in a field, `POST` takes JSON: at `/souin-api/souin`.
pub(super) async fn souin(
    State(admin): State<Admins>,
    caller: Caller,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let live = admin.app.live.load_full();
    match method.as_str() {
        "GET" => souin_keys(&admin, &caller).await,
        "PURGE" => {
            carry_out(&admin, &caller, Ok(keys(&headers)), Expires::No).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        "POST" => {
            let read = read_json::<Invalidation>(body);
            let expires = Expires::softly(!read.as_ref().is_ok_and(|asked| asked.purge));
            let selectors = read.and_then(|asked| match asked.r#type {
                InvalidationType::Uri => {
                    each(&asked.selectors, |url| Selector::url(url, &live.plan.query_policies))
                }
                InvalidationType::UriPrefix => each(&asked.selectors, Selector::prefix),
                InvalidationType::Origin => each(&asked.selectors, origin),
                InvalidationType::Group => each(&[asked.groups, asked.selectors].concat(), Selector::tag),
            });
            carry_out(&admin, &caller, selectors, expires).await?;
            Ok(StatusCode::OK.into_response())
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no such method", "send GET, PURGE or POST")),
    }
}

/// `http://host`, or the host alone.
fn origin(text: &str) -> Result<Selector, SelectorError> {
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    Selector::host(host.trim_end_matches('/'))
}

async fn souin_keys(admin: &Admins, caller: &Caller) -> Result<Response, Refusal> {
    caller.may_read().map_err(|refusal| caller.refused(&admin.app, refusal))?;
    let store = admin.app.store.clone();
    // It looks at every entry: not on a thread that serves requests.
    let looking = tokio::task::spawn_blocking(move || {
        store.memory.survey(&[Selector::All], clock::now(), MAX_KEYS).examples
    });
    let urls = looking.await.map_err(|error| internal(&error))?;
    let key = |url: &String| match url.trim_start_matches("http://").split_once('/') {
        Some((host, path)) => format!("GET-http-{host}-/{path}"),
        None => url.clone(),
    };
    Ok(Json(urls.iter().map(key).collect::<Vec<_>>()).into_response())
}

/// `PURGE /souin-api/souin/REGEX`, or `/flush` for everything. The expression is over keys as the list shows them, or over
/// paths.
pub(super) async fn souin_regex(
    State(admin): State<Admins>,
    caller: Caller,
    Path(pattern): Path<String>,
    method: Method,
) -> Result<Response, Refusal> {
    if method.as_str() != "PURGE" {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no such method", "send PURGE"));
    }
    let selectors = match pattern.as_str() {
        "flush" => Ok(vec![Selector::All]),
        _ => each(&[pattern], key_pattern),
    };
    carry_out(&admin, &caller, selectors, Expires::No).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET-http-HOST-/path.*`: the part before the path names a host.
fn key_pattern(text: &str) -> Result<Selector, SelectorError> {
    let bare = text.strip_prefix('^').unwrap_or(text);
    let of_key = ["GET-http-", "GET-https-"].iter().find_map(|start| bare.strip_prefix(start));
    let Some((host, path)) = of_key.and_then(|rest| rest.split_once("-/")) else {
        return Selector::regex(text);
    };
    let host = Some(Rule::exact(&any_scheme(host))?);
    let url = Some(Rule::regex(&format!("^/{path}"))?);
    Ok(Selector::pattern(Pattern { host, url, ..Pattern::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_souin_name_a_host_and_a_path() {
        for (text, expected) in [
            ("GET-http-shop.example-/blog/.*", "prefix //shop.example/blog/"),
            ("^GET-https-shop-1:443-/a$", "regex ^/a$ host shop-1"),
            ("/blog/.+", "regex /blog/.+"),
            (".*", "all"),
        ] {
            assert_eq!(key_pattern(text).unwrap().to_string(), expected, "{text}");
        }
    }
}
