//! Does parvis show what the origin shows? A page that changes with every request cannot tell.

use clap::Args;
use serde::Serialize;

use super::Sites;
use super::budget::INTERVAL;
use super::progress::Progress;
use super::web::{Fetched, MAX_BODY, Page, REQUEST_TIMEOUT, Site, Web, excerpt};
use crate::cli::Failure;

/// How much of both bodies is shown before the first difference, in bytes.
const CONTEXT: usize = 10;

#[derive(Args, Debug)]
#[command(next_help_heading = "After the purge")]
pub struct Verify {
    /// Compare a page through parvis with the origin's: status, content type and body. May be repeated.
    #[arg(long = "verify", id = "verify", value_name = "URL")]
    urls: Vec<String>,
}

impl Verify {
    /// The pages, and the origin that they are compared with.
    pub fn read(self, sites: &Sites) -> Result<Verification, Failure> {
        let pages = self.urls.iter().map(|url| Page::parse(url, sites.through.as_ref()));
        let pages = pages.collect::<Result<Vec<_>, _>>().map_err(Failure::usage)?;
        match (&sites.origin, pages.is_empty()) {
            (None, false) => {
                Err(Failure::usage("--verify compares with the origin: give --origin or --after-url"))
            }
            (origin, _) => Ok(Verification { pages, origin: origin.clone() }),
        }
    }
}

/// What is to be compared.
pub struct Verification {
    pages: Vec<Page>,
    origin: Option<Site>,
}

/// What a comparison came to.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// The page.
    pub url: String,
    /// Whether it is the same.
    pub result: Verdict,
    /// For people.
    pub detail: String,
}

/// Whether parvis shows what the origin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does.
    Same,
    /// It does not, or one of them did not answer.
    Different,
    /// The origin's own answers differ from each other; status and content type are the same.
    Volatile,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Volatile => "volatile",
        }
    }
}

impl Verification {
    /// Compares the pages; `None` when there are none.
    pub fn run(self, web: &Web, sites: &Sites, progress: Progress) -> Option<Vec<Verified>> {
        let origin = self.origin.filter(|_| !self.pages.is_empty())?;
        let phase = progress.begin("verifying", Some(self.pages.len()));
        let verify = |page: &Page| {
            let (result, detail) = compare(web, page, sites.through(page), &origin)
                .unwrap_or_else(|error| (Verdict::Different, error));
            phase.step();
            Verified { url: page.to_string(), result, detail }
        };
        let verified: Vec<_> = self.pages.iter().map(verify).collect();
        let bad = verified.iter().filter(|one| one.result == Verdict::Different).count();
        phase.end(&format!("{} pages, {bad} different", verified.len()));
        Some(verified)
    }
}

fn compare(web: &Web, page: &Page, parvis: &Site, origin: &Site) -> Result<(Verdict, String), String> {
    let ask = |site: &Site, who: &str| {
        let answer = web.get(page, site, MAX_BODY, REQUEST_TIMEOUT);
        answer.map_err(|error| format!("{who} at {site}: {error}"))
    };
    let (mut shown, first) = (ask(parvis, "parvis")?, ask(origin, "the origin")?);
    if shown == first {
        return Ok((Verdict::Same, format!("{}, {} bytes", shown.status, shown.body.len())));
    }
    // A clock on the page may count in seconds; and what was shown may have been stale, and refreshed meanwhile.
    std::thread::sleep(INTERVAL);
    let second = ask(origin, "the origin")?;
    shown = ask(parvis, "parvis")?;
    if shown == first || shown == second {
        return Ok((Verdict::Same, format!("{}, {} bytes", shown.status, shown.body.len())));
    }
    if first == second {
        return Ok((Verdict::Different, difference(&shown, &first)));
    }
    let head = |answer: &Fetched| (answer.status, answer.content_type.clone());
    if head(&shown) == head(&first) || head(&shown) == head(&second) {
        let detail = "the page changes by itself: only status and content type were compared";
        return Ok((Verdict::Volatile, detail.to_owned()));
    }
    Ok((Verdict::Different, difference(&shown, &second)))
}

/// The first thing that differs.
fn difference(shown: &Fetched, origin: &Fetched) -> String {
    if shown.status != origin.status {
        return format!("status {} through parvis, {} from the origin", shown.status, origin.status);
    }
    if shown.content_type != origin.content_type {
        let (ours, theirs) = (&shown.content_type, &origin.content_type);
        return format!("content type `{ours}` through parvis, `{theirs}` from the origin");
    }
    let (ours, theirs) = (&shown.body, &origin.body);
    let common = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let from = common.saturating_sub(CONTEXT);
    let (ours, theirs) = (excerpt(&ours[from..]), excerpt(&theirs[from..]));
    format!("the bodies differ at byte {common}: `{ours}` through parvis, `{theirs}` from the origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told_with_what_is_around_it() {
        let fetched = |status, content_type: &str, body: &str| Fetched {
            status,
            content_type: content_type.to_owned(),
            body: body.into(),
        };
        let new = fetched(200, "text/html", "<p>The price is 42 today\n</p>");
        for (old, says) in [
            (fetched(404, "text/html", ""), "status 404 through parvis, 200"),
            (fetched(200, "", ""), "content type `` through parvis, `text/html`"),
            (
                fetched(200, "text/html", "<p>The price is 41 today"),
                "byte 17: `price is 41 today` through parvis, `price is 42 today\\n</p>`",
            ),
            (fetched(200, "text/html", "<p>"), "byte 3: `<p>` through parvis, `<p>The price"),
        ] {
            let told = difference(&old, &new);
            assert!(told.contains(says), "{says}: {told}");
        }
    }
}
