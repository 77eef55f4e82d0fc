//! The purge itself: what it names, who asks for it, and asking again while parvis restarts.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::budget::{Budget, Try};
use super::progress::Progress;
use super::web::{REQUEST_TIMEOUT, Site, Web};
use crate::admin::purge::{Answer, MAX_WAIT, Request};
use crate::cli::{Failure, print};
use crate::config::values::Secret;

#[derive(Args, Debug)]
#[command(next_help_heading = "What to purge (each but --all may be repeated)")]
pub struct What {
    /// Everything with a tag.
    #[arg(long, value_parser = tag)]
    tag: Vec<String>,
    /// A page: `/path?query` on every host, or `http://host/path?query`.
    #[arg(long)]
    url: Vec<String>,
    /// Everything below a path: `/blog/` on every host, or `http://host/blog/`.
    #[arg(long)]
    prefix: Vec<String>,
    /// Everything that fits a pattern with `*`: `/blog/*/print` on every host, or `http://host/blog/*/print`.
    #[arg(long, value_name = "PATTERN")]
    wildcard: Vec<String>,
    /// Everything of a host.
    #[arg(long)]
    host: Vec<String>,
    /// Everything in whose path and query a regular expression is found.
    #[arg(long)]
    regex: Vec<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "How to purge")]
pub struct How {
    /// Expire it rather than remove it: visitors may see it while it is refreshed.
    #[arg(long)]
    soft: bool,
    /// Remove nothing, and tell what would go.
    #[arg(long, conflicts_with_all = ["warm", "verify"])]
    dry_run: bool,
    /// The admin listener.
    #[arg(long, value_name = "URL", env = "PARVIS_ADMIN", default_value = "http://127.0.0.1:9180")]
    admin: Site,
    /// A file that holds the token's secret; without it the environment variable PARVIS_TOKEN does. There is no
    /// option for the secret itself: it would show in the list of processes.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What marks a purge that is sent again as the same one; generated unless given.
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
    /// As long as parvis cannot be reached or answers 5xx, try again until --timeout; return when all instances have acknowledged.
    #[arg(long)]
    wait: bool,
}

fn tag(text: &str) -> Result<String, String> {
    match text.contains(|c: char| c.is_whitespace() || c == ',') {
        true => {
            Err("write one --tag per tag; one that has a space or a comma goes through the API".to_owned())
        }
        false => Ok(text.to_owned()),
    }
}

fn key(text: &str) -> Result<String, String> {
    match (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => {
            Err("a key is at most 255 visible ASCII characters, such as the id of the CI job".to_owned())
        }
    }
}

/// A purge that can be sent.
pub struct Order {
    request: Request,
    endpoint: String,
    secret: Secret,
    key: String,
    wait: bool,
}

impl Order {
    /// Finds out whether it can be sent.
    pub fn new(what: What, how: How) -> Result<Self, Failure> {
        let What { tag, url, prefix, wildcard, host, regex, all } = what;
        if !all && [&tag, &url, &prefix, &wildcard, &host, &regex].iter().all(|list| list.is_empty()) {
            let message =
                "nothing to purge: give --tag, --url, --prefix, --wildcard, --host, --regex or --all";
            return Err(Failure::usage(message));
        }
        let (tags, urls, prefixes, wildcards, hosts) = (tag, url, prefix, wildcard, host);
        let How { soft, dry_run, .. } = how;
        Ok(Self {
            request: Request { urls, prefixes, wildcards, tags, hosts, regex, all, soft, dry_run },
            endpoint: format!("{}/purge", how.admin),
            secret: secret(how.token_file)?,
            key: how.idempotency_key.unwrap_or_else(|| Uuid::new_v4().to_string()),
            wait: how.wait,
        })
    }

    /// Sends it: once, or until it is answered.
    pub fn send(&self, web: &Web, budget: &Budget, progress: Progress) -> Result<Purged, Failure> {
        let phase = progress.begin(format!("purging at {}", self.endpoint), None);
        let sent = match self.wait {
            true => budget.retry(|time| self.attempt(web, time)),
            false => match self.attempt(web, REQUEST_TIMEOUT) {
                ControlFlow::Break(result) => result,
                ControlFlow::Continue(seen) => Err(Failure::failed(seen)),
            },
        };
        phase.end(if sent.is_ok() { "done" } else { "failed" });
        sent
    }

    /// Goes on where another attempt may succeed: parvis is away, or not ready.
    fn attempt(&self, web: &Web, timeout: Duration) -> Try<Purged> {
        let endpoint = &self.endpoint;
        let wait = if self.wait { format!("?wait={}", patience(timeout)) } else { String::new() };
        let answer = web
            .0
            .post(format!("{endpoint}{wait}"))
            .header("Authorization", format!("Bearer {}", self.secret.expose()))
            .header("Idempotency-Key", &self.key)
            .config()
            .timeout_global(Some(timeout))
            .build()
            .send_json(&self.request)
            .and_then(|mut answer| Ok((answer.status(), answer.body_mut().read_to_string()?)));
        let (status, text) = match answer {
            Ok(answer) => answer,
            Err(error) if is_passing(&error) => return Try::Continue(format!("{endpoint}: {error}")),
            Err(error) => return ControlFlow::Break(Err(Failure::failed(format!("{endpoint}: {error}")))),
        };
        // Whoever answers may be somebody else, and repeat what it was sent.
        let text = text.replace(self.secret.expose(), "***");
        if status.is_success() {
            let read = Purged::read(&text)
                .map_err(|error| Failure::failed(format!("{endpoint} did not answer like parvis: {error}")));
            let unheard = read.as_ref().ok().filter(|_| self.wait).and_then(Purged::unheard);
            // The same key asks again who has acknowledged.
            return unheard.map_or(ControlFlow::Break(read), Try::Continue);
        }
        let message = format!("{endpoint} answered {status}: {}", refusal(&text));
        // Escaped in JSON it would have been another text.
        let message = message.replace(self.secret.expose(), "***");
        // 409: the one before it, whose answer was lost, is still being carried out.
        match status.is_server_error() || matches!(status.as_u16(), 409 | 429) {
            true => Try::Continue(message),
            false => ControlFlow::Break(Err(Failure::failed(message))),
        }
    }
}

/// For how many seconds the instances are waited for by who waits for so long himself.
fn patience(timeout: Duration) -> u64 {
    (timeout.as_secs() * 3 / 4).clamp(1, MAX_WAIT)
}

/// Whether an error may be gone once parvis has restarted.
fn is_passing(error: &ureq::Error) -> bool {
    use ureq::Error::{BodyStalled, ConnectionFailed, HostNotFound, Io, Protocol, Timeout};
    matches!(error, Io(_) | Timeout(_) | HostNotFound | ConnectionFailed | Protocol(_) | BodyStalled)
}

/// What a refusal says, without its JSON, and without what would steer a terminal.
fn refusal(text: &str) -> String {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let says = match (json["error"].as_str(), json["remedy"].as_str()) {
        (Some(error), Some(remedy)) => format!("{error}; {remedy}"),
        _ => text.trim().to_owned(),
    };
    says.replace(|c: char| c.is_control() && c != '\n', "?")
}

fn secret(file: Option<PathBuf>) -> Result<Secret, Failure> {
    let read = match file {
        Some(file) => std::fs::read_to_string(&file)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?,
        None => std::env::var("PARVIS_TOKEN")
            .map_err(|_| Failure::usage("no token: set PARVIS_TOKEN or give --token-file"))?,
    };
    match read.trim() {
        "" => Err(Failure::usage("the token is empty: set PARVIS_TOKEN or fill the --token-file")),
        text => text.parse().map_err(Failure::usage),
    }
}

/// A purge that was done.
pub struct Purged {
    answer: Answer,
    /// The answer as it came, with what a newer parvis adds.
    pub json: Map<String, Value>,
}

impl Purged {
    fn read(text: &str) -> serde_json::Result<Self> {
        Ok(Self { answer: serde_json::from_str(text)?, json: serde_json::from_str(text)? })
    }

    /// What is wrong where all instances are to have acknowledged.
    fn unheard(&self) -> Option<String> {
        let answer = &self.answer;
        match &answer.unknown {
            Some(why) => Some(format!(
                "purged at one instance; whether the others have acknowledged is not known: {why}"
            )),
            None if answer.missing.is_empty() => None,
            None => Some(format!("purged, but not acknowledged by {}", answer.missing.join(", "))),
        }
    }

    /// Prints it for people.
    pub fn print(&self) {
        let answer = &self.answer;
        for removed in &answer.selectors {
            let (entries, bytes) = (removed.entries, removed.bytes);
            print(&format!("{entries:>8} entries {bytes:>12} bytes  {}", removed.selector));
        }
        let how = match (answer.dry_run, answer.soft) {
            (true, _) => "in all would go; nothing was purged (dry run)",
            (false, true) => "in all, expired",
            (false, false) => "in all",
        };
        print(&format!("{:>8} entries {:>12} bytes  {how}", answer.entries, answer.bytes));
        for one in &answer.instances {
            match one.entries {
                Some(entries) => print(&format!("{entries:>8} entries at {}", one.instance)),
                None => print(&format!("    acknowledged by {}", one.instance)),
            }
        }
        for instance in &answer.missing {
            print(&format!("not acknowledged by {instance}"));
        }
        if let Some(why) = &answer.unknown {
            print(&format!("whether the other instances have acknowledged is not known: {why}"));
        }
        if let Some(requests) = answer.origin_requests {
            print(&format!("at most {requests} more requests to the origin until all is stored again"));
        }
        for url in &answer.examples {
            print(&format!("such as {url}"));
        }
    }
}
