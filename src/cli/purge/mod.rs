//! `parvis purge`: what a deploy does about stored pages: wait for the new version, purge, warm, verify.

mod ask;
mod budget;
mod progress;
mod release;
mod sitemap;
mod verify;
mod warm;
mod web;

use clap::Args;
use serde_json::json;

use self::ask::{How, Order, Purged, What};
use self::budget::Budget;
use self::progress::Progress;
use self::release::Release;
use self::verify::{Verdict, Verified, Verify};
use self::warm::{Warm, Warmed};
use self::web::{Page, Site, Web};
use super::{Failure, print};
use crate::config::values::Period;

/// How many of the pages that could not be warmed are listed.
const MAX_LISTED: usize = 10;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed: parvis cannot be reached, or has refused
  2  what it was given is wrong; nothing was purged
  3  not within --timeout
  4  purged, but a page is not what the origin shows (--verify)
  5  purged, but not every page could be warmed (--warm)";

#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    release: Release,
    #[command(flatten)]
    warm: Warm,
    #[command(flatten)]
    verify: Verify,
    #[command(flatten)]
    sites: Sites,
    /// How long --after-url and --wait may wait, together.
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Options")]
    timeout: Period,
    /// Print the outcome as one JSON object, and no progress.
    #[arg(long, help_heading = "Options")]
    json: bool,
}

/// Where pages are asked for, unless that is where their URLs say. The requests have the Host of the URL all the same,
/// and X-Forwarded-Proto where the scheme is another.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "After the purge")]
struct Sites {
    /// The application, for --verify and sitemaps; default: that of --after-url.
    #[arg(long, value_name = "URL")]
    origin: Option<Site>,
    /// The listener of parvis, for --warm and --verify; default: that of each page's URL.
    #[arg(long, value_name = "URL")]
    through: Option<Site>,
}

impl Sites {
    /// Where parvis listens for a page.
    fn through<'a>(&'a self, page: &'a Page) -> &'a Site {
        self.through.as_ref().unwrap_or(&page.site)
    }
}

impl Options {
    pub fn run(self) -> Result<(), Failure> {
        // What is wrong is found before anything happens.
        let mut sites = self.sites;
        sites.origin = sites.origin.or_else(|| self.release.after_url.as_ref().map(|page| page.site.clone()));
        let order = Order::new(self.what, self.how)?;
        let verification = self.verify.read(&sites)?;
        let warming = self.warm.read(&sites)?;
        let (web, budget, progress) = (Web::new(), Budget::new(self.timeout.0), Progress::new(self.json));
        self.release.wait(&web, &budget, progress)?;
        let purged = order.send(&web, &budget, progress)?;
        if !self.json {
            purged.print();
        }
        let warmed = warming.map(|warming| warming.run(&web, &sites, progress));
        let verified = verification.run(&web, &sites, progress);
        match self.json {
            true => print(&as_json(purged, warmed.as_ref(), verified.as_deref())),
            false => report(warmed.as_ref(), verified.as_deref()),
        }
        conclude(warmed.as_ref(), verified.as_deref().unwrap_or_default())
    }
}

/// The server's answer and what came after it.
fn as_json(purged: Purged, warmed: Option<&Warmed>, verified: Option<&[Verified]>) -> String {
    let mut object = purged.json;
    object.extend(warmed.map(|warmed| ("warmed".to_owned(), json!(warmed))));
    object.extend(verified.map(|verified| ("verified".to_owned(), json!(verified))));
    serde_json::Value::from(object).to_string()
}

/// The same for people.
fn report(warmed: Option<&Warmed>, verified: Option<&[Verified]>) {
    if let Some(warmed) = warmed {
        print(&format!("warmed {} of {} pages", warmed.urls - warmed.failed, warmed.urls));
    }
    for one in verified.unwrap_or_default() {
        print(&format!("{:<10} {} ({})", one.result.as_str(), one.url, one.detail));
    }
}

/// The exit code, and what went wrong after the purge.
fn conclude(warmed: Option<&Warmed>, verified: &[Verified]) -> Result<(), Failure> {
    let failures = warmed.map(|warmed| warmed.failures.as_slice()).unwrap_or_default();
    let different = verified.iter().filter(|one| one.result == Verdict::Different).count();
    let mut lines = Vec::new();
    if !failures.is_empty() {
        lines.push(format!("purged, but {} could not be warmed:", failures.len()));
        lines.extend(failures.iter().take(MAX_LISTED).map(|failure| format!("  {failure}")));
        let more = failures.len().saturating_sub(MAX_LISTED);
        lines.extend((more > 0).then(|| format!("  and {more} more")));
    }
    if different > 0 {
        let is = if different == 1 { "is" } else { "are" };
        lines.push(format!(
            "purged, but {different} of {} pages {is} not what the origin shows",
            verified.len()
        ));
    }
    let code = match (different == 0, failures.is_empty()) {
        (false, _) => 4,
        (true, false) => 5,
        (true, true) => return Ok(()),
    };
    Err(Failure { code, message: lines.join("\n") })
}
