//! Safe in front of an application that nobody understands any more, and still effective.

mod guard;
mod identity;
mod keys;
mod poisoning;

use crate::support::origin::Received;
use crate::support::{Response, Rig};

/// What the application saw of a field; a personal page shows it.
fn seen(request: &Received, name: &str) -> String {
    request.field(name).unwrap_or_else(|| "nothing".to_owned())
}

fn with_cookie(rig: &Rig, path: &str, cookie: &str) -> Response {
    rig.get_with(path, &[("Cookie", cookie)])
}

fn short(response: &Response) -> (&'static str, String) {
    (response.verdict(), response.detail())
}

fn told(verdict: &'static str, detail: &str) -> (&'static str, String) {
    (verdict, detail.to_owned())
}
