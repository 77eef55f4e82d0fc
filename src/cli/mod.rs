//! The command line: one file per command.

mod check;
pub mod demo;
mod explain;
mod purge;
mod redis;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::plan::LoadError;

/// A caching reverse proxy and performance sidecar for legacy HTTP applications.
#[derive(Debug, Parser)]
#[command(name = "parvis", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: with a configuration, or with safe defaults in front of one origin.
    Run(run::Options),
    /// Report every mistake in a configuration, and every risk.
    Check(ConfigFile),
    /// Tell what would happen to a request: its route, its key, what would be cached and why not. Sends nothing.
    Explain(explain::Options),
    /// Remove stored responses from a running parvis; after a deploy: wait for it, warm, and verify.
    Purge(Box<purge::Options>),
    /// Look at the Redis that several instances share.
    Redis(redis::Options),
    /// A tour in front of a slow built-in origin.
    Demo(demo::Options),
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/parvis/config.yaml")]
    config: PathBuf,
}

/// Why a command failed; what `main` prints and exits with.
#[derive(Debug)]
pub struct Failure {
    /// 1: it did not work. 2: what it was given is wrong. Of `purge` also 3: not within its time. 4: purged, and a
    /// page is not what the origin shows. 5: purged, and not every page could be warmed.
    pub code: u8,
    /// For the operator; empty when all has been said.
    pub message: String,
}

impl Failure {
    /// It did not work.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// What it was given is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// It was not done within its time.
    fn timed_out(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unreadable(message) => Self::usage(message),
            LoadError::Mistakes(report) => Self::usage(report.render(is_terminal())),
        }
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Run(options) => options.run(),
            Command::Check(file) => check::run(&file.config),
            Command::Explain(options) => options.run(),
            Command::Purge(options) => options.run(),
            Command::Redis(options) => options.run(),
            Command::Demo(options) => options.run(),
        }
    }
}

/// Whether mistakes are read by a person, in colour.
fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// A result on standard output. A reader that has left (`parvis explain | head`) is no failure.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
