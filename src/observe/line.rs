//! A line of the access log: one JSON object per request.

use std::io::Write;
use std::time::{Duration, SystemTime};

use super::outcome::{Outcome, Shadowed};
use super::text;
use crate::clock::Timestamp;

/// The most bytes of a target that are logged.
const MAX_TARGET: usize = 2048;

/// The second of the lines before, as it is written. Consecutive requests come within the same one.
#[derive(Debug, Default)]
pub struct Second {
    of: Option<u64>,
    text: Vec<u8>,
}

impl Second {
    /// Appends a moment as RFC 3339 with milliseconds.
    fn write(&mut self, out: &mut Vec<u8>, at: Timestamp) {
        let second = at.0 / 1000;
        if self.of != Some(second) {
            self.of = Some(second);
            self.text.clear();
            let time = SystemTime::from(Timestamp(second * 1000));
            // The only error is a year of five digits.
            let _ = write!(self.text, "{}", humantime::format_rfc3339_seconds(time));
            self.text.pop();
        }
        out.extend_from_slice(&self.text);
        out.push(b'.');
        text::padded::<3>(out, at.0);
        out.push(b'Z');
    }
}

/// Appends the line of a request, with its end.
pub fn write(out: &mut Vec<u8>, outcome: &Outcome, second: &mut Second) {
    let raw = |out: &mut Vec<u8>, text: &[u8]| out.extend_from_slice(text);
    raw(out, b"{\"bytes\":");
    text::number(out, outcome.bytes);
    raw(out, b",\"client\":");
    match outcome.client {
        Some(client) => {
            out.push(b'"');
            text::address(out, client);
            out.push(b'"');
        }
        None => null(out),
    }
    raw(out, b",\"error\":");
    optional(out, outcome.error.as_deref());
    raw(out, b",\"host\":\"");
    text::json_text(out, &outcome.host);
    raw(out, b"\",\"method\":\"");
    text::json_text(out, &outcome.method);
    raw(out, b"\",\"origin_ms\":");
    match outcome.origin {
        Some(origin) => text::json_millis(out, origin),
        None => null(out),
    }
    // One of our words, which need nothing escaped.
    raw(out, b",\"reason\":\"");
    raw(out, outcome.reason().as_bytes());
    raw(out, b"\",\"request_id\":\"");
    text::json_text(out, &outcome.request_id);
    raw(out, b"\",\"route\":");
    optional(out, outcome.route.as_deref());
    raw(out, b",\"shadow\":");
    optional(out, outcome.shadow.map(Shadowed::as_str));
    raw(out, b",\"status\":");
    text::number(out, outcome.status.into());
    raw(out, b",\"target\":\"");
    text::json_text(out, shortened(&outcome.target));
    raw(out, b"\",\"time\":\"");
    second.write(out, outcome.received_at);
    raw(out, b"\",\"total_ms\":");
    text::json_millis(out, outcome.total());
    raw(out, b",\"verdict\":\"");
    raw(out, outcome.verdict_label().as_bytes());
    raw(out, b"\"}\n");
}

#[inline]
fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => quoted(out, text),
        None => null(out),
    }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    text::json_text(out, text);
    out.push(b'"');
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

/// A target as far as it is logged.
fn shortened(target: &str) -> &str {
    let end = (0..=MAX_TARGET.min(target.len())).rev().find(|at| target.is_char_boundary(*at)).unwrap_or(0);
    &target[..end]
}

/// Warns of a slow request, with where the time went.
pub fn slow(outcome: &Outcome) {
    let seconds = |time: Option<Duration>| time.map(|time| format!("{:.3}", time.as_secs_f64()));
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::observe::outcome::Local;
    use crate::rules::lookup::PassReason;
    use crate::rules::verdict::Verdict;

    /// What a line says, by way of the library.
    fn reference(outcome: &Outcome) -> serde_json::Value {
        let ms = |time: Duration| ((time.as_nanos() + 500) / 1000) as f64 / 1e3;
        json!({
            "bytes": outcome.bytes,
            "client": outcome.client,
            "error": outcome.error,
            "host": outcome.host,
            "method": outcome.method,
            "origin_ms": outcome.origin.map(ms),
            "reason": outcome.reason(),
            "request_id": outcome.request_id,
            "route": outcome.route.as_deref(),
            "shadow": outcome.shadow.map(Shadowed::as_str),
            "status": outcome.status,
            "target": shortened(&outcome.target),
            "time": humantime::format_rfc3339_millis(outcome.received_at.into()).to_string(),
            "total_ms": ms(outcome.total()),
            "verdict": outcome.verdict_label(),
        })
    }

    fn line(outcome: &Outcome, second: &mut Second) -> String {
        let mut out = Vec::new();
        write(&mut out, outcome, second);
        String::from_utf8(out).unwrap().strip_suffix('\n').unwrap().to_owned()
    }

    fn odd() -> impl Strategy<Value = String> {
        "(\\PC|[\u{0}-\u{7f}]|[\"\\\\/]){0,12}"
    }

    fn times() -> impl Strategy<Value = Duration> {
        prop_oneof![0..3_000_000u64, 0..1_000_000_000_000_000u64].prop_map(Duration::from_nanos)
    }

    prop_compose! {
        fn outcomes()(
            texts in (odd(), odd(), odd(), odd()),
            route: Option<u8>,
            client: Option<IpAddr>,
            error in prop::option::of(odd()),
            numbers: (u16, u64),
            at in 0..4_102_444_800_000u64,
            times in (prop::option::of(times()), times()),
            shadow in prop::option::of(Just(Shadowed::NotStored)),
            verdict in prop_oneof![Just(None), Just(Some(Verdict::Hit)), Just(Some(Verdict::Pass(PassReason::Cookie)))],
        ) -> Outcome {
            let mut outcome = Outcome { received_at: Timestamp(at), client, error, shadow, verdict, ..Outcome::default() };
            (outcome.request_id, outcome.method, outcome.host, outcome.target) = texts;
            (outcome.status, outcome.bytes) = numbers;
            outcome.origin = times.0;
            outcome.total = Some(times.1);
            outcome.local = verdict.is_none().then_some(Local::NoRoute);
            outcome.route = route.map(|n| format!("route \"{n}\"").into());
            outcome
        }
    }

    proptest! {
        #[test]
        fn a_line_says_what_the_library_would_write(some in prop::collection::vec(outcomes(), 1..4)) {
            let mut second = Second::default();
            for outcome in &some {
                let (line, expected) = (line(outcome, &mut second), reference(outcome));
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), expected.clone());
                prop_assert_eq!(line, expected.to_string());
            }
        }
    }

    #[test]
    fn a_long_target_is_cut_between_characters() {
        let long = Outcome { target: format!("/{}", "é".repeat(MAX_TARGET)), ..Outcome::default() };
        let line: serde_json::Value = serde_json::from_str(&line(&long, &mut Second::default())).unwrap();
        assert_eq!(line["target"].as_str().unwrap().len(), MAX_TARGET - 1);
    }
}
