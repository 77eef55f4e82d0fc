//! HTTP caching by the RFCs, behaviour by behaviour, through the real binary. `docs/http-caching.md` lists them all
//! with their sections; the pure tests of the same rules stand beside the code.
//!
//! No test sleeps: an origin that sends an `Age` makes a response as old as a test needs it.

mod freshness;
mod headers;
mod ranges;
mod reusing;
mod stale;
mod storing;
mod validation;
mod vary;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::support::{Reply, Response, Rig};

/// Nothing configured: what the origin says decides.
const ROUTES: &str = "routes: [{name: all}]";

type Lines<'a> = &'a [(&'a str, &'a str)];

/// A path that no other page of the test has.
fn new_path() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("/page/{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A 200 with these fields.
fn page(fields: Lines<'_>) -> Reply {
    with(Reply::ok("page"), fields)
}

fn with(reply: Reply, fields: Lines<'_>) -> Reply {
    fields.iter().fold(reply, |reply, (name, value)| reply.field(name, value))
}

/// Asks twice for a page that is answered like this; the second response.
fn again(rig: &Rig, reply: Reply) -> Response {
    again_with(rig, reply, &[], &[])
}

/// The same with fields in the first and in the second request.
fn again_with(rig: &Rig, reply: Reply, first: Lines<'_>, second: Lines<'_>) -> Response {
    let path = new_path();
    rig.origin.on(&path, reply);
    rig.get_with(&path, first);
    rig.get_with(&path, second)
}

/// Whether the second of two requests is answered from the store.
fn is_reused(rig: &Rig, fields: Lines<'_>) -> bool {
    again(rig, page(fields)).verdict() == "hit"
}

/// A date so many seconds from now, as an IMF-fixdate.
fn date(seconds: i64) -> String {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    httpdate::fmt_http_date(if seconds < 0 { now - span } else { now + span })
}
