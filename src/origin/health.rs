//! Asking servers now and then whether they are well, and looking their names up anew.

use std::sync::{Arc, Weak};

use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::{ErrorType, OrErr};
use tokio::task::JoinSet;

use super::peer::Endpoint;
use super::{Pool, resolve};
use crate::plan::upstreams::HealthPolicy;

/// The most that is read of an answer's body.
const MAX_BODY: usize = 64 * 1024;

/// Looks after a pool until it is there no longer.
pub async fn keep(pool: Weak<Pool>) {
    tokio::join!(keep_looking_up(pool.clone()), keep_checking(pool));
}

async fn keep_looking_up(pool: Weak<Pool>) {
    let mut failing = Vec::new();
    loop {
        let Some(every) = pool.upgrade().map(|pool| pool.settings.resolve_every) else { return };
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade().filter(|pool| resolve::has_names(&pool.settings)) else { return };
        let settings = pool.settings.clone();
        // It waits for the resolver, in a thread of its own.
        match tokio::task::spawn_blocking(move || resolve::look_up(&settings)).await {
            Ok(looked_up) => pool.take_over(looked_up, &mut failing),
            Err(error) => tracing::error!(%error, "looking up names has failed"),
        }
    }
}

async fn keep_checking(pool: Weak<Pool>) {
    let connector = Arc::new(Connector::new(None));
    loop {
        let Some(strong) = pool.upgrade() else { return };
        let Some(policy) = strong.settings.health.clone() else { return };
        let interval = policy.interval;
        let policy = Arc::new(policy);
        // All at once: one that hangs must not keep the others from being asked.
        let mut checks = JoinSet::new();
        for endpoint in strong.endpoints() {
            let (connector, policy) = (connector.clone(), policy.clone());
            checks.spawn(async move { (endpoint.id, check(&connector, &endpoint, &policy).await) });
        }
        for (id, result) in checks.join_all().await {
            strong.update(|servers, now| servers.checked(id, &result, now));
        }
        drop(strong);
        tokio::time::sleep(interval).await;
    }
}

/// Asks a server. The error tells what is wrong.
async fn check(connector: &Connector, endpoint: &Endpoint, policy: &HealthPolicy) -> Result<(), String> {
    match tokio::time::timeout(policy.timeout, ask(connector, endpoint, policy)).await {
        Ok(Ok(complaint)) => complaint.map_or(Ok(()), Err),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {:?}", policy.timeout)),
    }
}

/// What is wrong with the answer, if there is one.
async fn ask(
    connector: &Connector,
    endpoint: &Endpoint,
    policy: &HealthPolicy,
) -> pingora::Result<Option<String>> {
    let peer = endpoint.peer();
    // A new connection, which is closed afterwards: that it can be made is a part of the answer.
    let (mut session, _) = connector.get_http_session(&peer).await?;
    let host = policy.host.as_deref().unwrap_or(&endpoint.host);
    let mut head = RequestHeader::build("GET", policy.uri.as_bytes(), None)?;
    head.insert_header("Host", host)?;
    head.insert_header("User-Agent", "parvis")?;
    head.insert_header("Accept", "*/*")?;
    match &session {
        HttpSession::H1(_) => head.insert_header("Connection", "close")?,
        _ => {
            let scheme = if peer.is_tls() { "https" } else { "http" };
            let uri = format!("{scheme}://{host}{}", policy.uri);
            head.set_uri(uri.parse().or_err(ErrorType::InvalidHTTPHeader, "the URI of the health check")?);
        }
    }
    session.write_request_header(Box::new(head)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map_or(0, |head| head.status.as_u16());
    if !policy.statuses.iter().any(|good| good.contains(&status)) {
        return Ok(Some(format!("the answer is {status}")));
    }
    let Some(wanted) = &policy.body else { return Ok(None) };
    let mut body = Vec::new();
    while body.len() < MAX_BODY {
        let Some(chunk) = session.read_response_body().await? else { break };
        body.extend_from_slice(&chunk);
    }
    let is_there = memchr::memmem::find(&body, wanted.as_bytes()).is_some();
    Ok((!is_there).then(|| format!("the answer does not contain `{wanted}`")))
}
