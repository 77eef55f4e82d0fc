//! The access log, off the request's path: a bounded queue that a thread of its own writes out. When the queue
//! is full, lines are dropped and counted rather than requests delayed.

use std::io::Write;

use serde_json::json;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::outcome::{Outcome, Shadowed};

/// The most lines that wait to be written.
const MAX_QUEUED_LINES: usize = 65_536;

/// The most bytes of a target that are logged.
const MAX_TARGET: usize = 2048;

/// One JSON object per request.
#[derive(Clone)]
pub struct AccessLog(NonBlocking);

impl AccessLog {
    /// A log that writes to `out`. Lines still queued are written when the guard is dropped.
    pub fn new(out: impl Write + Send + 'static) -> (Self, WorkerGuard) {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_QUEUED_LINES);
        let (writer, guard) = builder.thread_name("access-log").finish(out);
        (Self(writer), guard)
    }

    /// Counts the lines dropped.
    pub fn dropped(&self) -> ErrorCounter {
        self.0.error_counter()
    }

    /// Queues the line of a request.
    pub fn write(&self, outcome: &Outcome) {
        let mut line = line(outcome).to_string();
        line.push('\n');
        // The queue accepts or counts; it has no other error.
        let _ = self.0.clone().write_all(line.as_bytes());
    }
}

fn line(outcome: &Outcome) -> serde_json::Value {
    let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "time": humantime::format_rfc3339_millis(outcome.received_at.into()).to_string(),
        "request_id": outcome.request_id,
        "client": outcome.client,
        "method": outcome.method,
        "host": outcome.host,
        "target": shortened(&outcome.target),
        "route": outcome.route.as_deref(),
        "verdict": outcome.verdict_label(),
        "reason": outcome.reason(),
        "shadow": outcome.shadow.map(Shadowed::as_str),
        "status": outcome.status,
        "bytes": outcome.bytes,
        "origin_ms": outcome.origin.map(ms),
        "total_ms": ms(outcome.total()),
        "error": outcome.error,
    })
}

/// A target as far as it is logged: a queue of lines is only as bounded as its lines are.
fn shortened(target: &str) -> &str {
    let end = (0..=MAX_TARGET.min(target.len())).rev().find(|at| target.is_char_boundary(*at)).unwrap_or(0);
    &target[..end]
}

/// Warns of a slow request, with where the time went.
pub fn slow(outcome: &Outcome) {
    let seconds = |time: Option<std::time::Duration>| time.map(|time| format!("{:.3}", time.as_secs_f64()));
    tracing::warn!(
        target: "parvis::slow",
        request_id = outcome.request_id,
        method = outcome.method,
        host = outcome.host,
        target = shortened(&outcome.target),
        route = outcome.route.as_deref().unwrap_or_default(),
        verdict = outcome.verdict_label(),
        reason = outcome.reason(),
        status = outcome.status,
        origin_s = seconds(outcome.origin),
        first_byte_s = seconds(outcome.first_byte),
        total_s = seconds(Some(outcome.total())),
        "slow request"
    );
}

/// Sends the operator's log to standard error; `RUST_LOG` overrides what is shown.
pub fn init() {
    // Pingora reports at error level what the access log tells with its context.
    let default = "info,pingora=error,pingora_core=error,pingora_core::connectors=off,pingora_proxy=off";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second initialisation (the demo inside a test) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .try_init();
}
