//! `parvis purge`: a client of the admin listener, for people and for CI.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Failure, print};
use crate::admin::purge::{Answer, Request};

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub struct Options {
    /// Pages: `/path?query` on every host, or `http://host/path?query`. May be repeated.
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// Everything below a path: `/blog/` on every host, or `http://host/blog/`. May be repeated.
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,
    /// Everything with a tag. May be repeated.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
    /// The admin listener.
    #[arg(long, value_name = "URL", env = "PARVIS_ADMIN", default_value = "http://127.0.0.1:9180")]
    admin: String,
    /// A file that holds the token's secret; without it the environment variable PARVIS_TOKEN does. There is no
    /// option for the secret itself: it would show in the list of processes.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

impl Options {
    pub fn run(self) -> Result<(), Failure> {
        let secret = self.secret()?;
        let request = Request { urls: self.url, prefixes: self.prefix, tags: self.tag, all: self.all };
        if request.urls.is_empty() && request.prefixes.is_empty() && request.tags.is_empty() && !request.all {
            return Err(Failure::usage("nothing to purge: give --url, --prefix, --tag or --all"));
        }
        let endpoint = format!("{}/purge", self.admin.trim_end_matches('/'));
        let config =
            ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
        let mut response = ureq::Agent::new_with_config(config)
            .post(&endpoint)
            .header("Authorization", format!("Bearer {secret}"))
            .send_json(&request)
            .map_err(|error| Failure::failed(format!("{endpoint}: {error}")))?;
        let status = response.status();
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| Failure::failed(format!("{endpoint}: {error}")))?;
        if !status.is_success() {
            return Err(Failure::failed(format!("{endpoint} answered {status}: {}", text.trim())));
        }
        if self.json {
            print(text.trim());
            return Ok(());
        }
        let answer: Answer = serde_json::from_str(&text)
            .map_err(|error| Failure::failed(format!("{endpoint} did not answer like parvis: {error}")))?;
        for removed in &answer.selectors {
            print(&format!(
                "{:>8} entries {:>12} bytes  {}",
                removed.entries, removed.bytes, removed.selector
            ));
        }
        print(&format!("{:>8} entries {:>12} bytes  in all", answer.entries, answer.bytes));
        Ok(())
    }

    fn secret(&self) -> Result<String, Failure> {
        let read = match &self.token_file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?,
            None => std::env::var("PARVIS_TOKEN")
                .map_err(|_| Failure::usage("no token: set PARVIS_TOKEN or give --token-file"))?,
        };
        Ok(read.trim().to_owned())
    }
}
