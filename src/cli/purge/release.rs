//! Is the new version there? Purged before it is, pages of the old one would be stored again.

use std::ops::ControlFlow;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use memchr::memmem;

use super::budget::{Budget, Try};
use super::progress::Progress;
use super::web::{MAX_BODY, Page, Web, excerpt};
use crate::cli::Failure;

#[derive(Args, Debug)]
#[command(next_help_heading = "Before the purge")]
pub struct Release {
    /// Wait until this URL of the application itself, not of parvis, shows the new version; purge nothing if it does
    /// not within --timeout.
    #[arg(long, value_name = "URL", requires = "until_contains", value_parser = |text: &str| Page::parse(text, None))]
    pub after_url: Option<Page>,
    /// What the URL shows then: the version, in a body of a 2xx answer.
    #[arg(long, value_name = "VERSION", requires = "after_url", value_parser = NonEmptyStringValueParser::new())]
    until_contains: Option<String>,
}

impl Release {
    /// Waits until the version is out, if one is named.
    pub fn wait(&self, web: &Web, budget: &Budget, progress: Progress) -> Result<(), Failure> {
        let (Some(page), Some(version)) = (&self.after_url, &self.until_contains) else { return Ok(()) };
        let what = format!("waiting for `{version}` at {page}");
        let phase = progress.begin(&what, None);
        let waited = budget.retry(|time| match web.get(page, &page.site, MAX_BODY, time) {
            Err(error) => Try::Continue(error),
            Ok(answer) => {
                let is_out = memmem::find(&answer.body, version.as_bytes()).is_some();
                match is_out && (200..300).contains(&answer.status) {
                    true => ControlFlow::Break(Ok(())),
                    false => Try::Continue(format!("{}, `{}`", answer.status, excerpt(&answer.body))),
                }
            }
        });
        phase.end(if waited.is_ok() { "there" } else { "gave up" });
        waited.map_err(|failure| Failure {
            message: format!("{what}: {}; nothing was purged", failure.message),
            ..failure
        })
    }
}
