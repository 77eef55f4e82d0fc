//! `parvis run`.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, is_terminal};
use crate::config::listener::Listeners;
use crate::config::schema::{Config, Route, Upstream};
use crate::config::{Loaded, Report};
use crate::observe::log;
use crate::plan::Plan;
use crate::server::{self, ServeError, Settings};

#[derive(Args, Debug)]
pub struct Options {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", required_unless_present = "origin", conflicts_with = "origin")]
    config: Option<PathBuf>,
    /// No file: safe defaults in front of this origin, such as http://127.0.0.1:8000. Stored is what the origin
    /// marks as fresh.
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// Where clients connect, with --origin.
    #[arg(long, value_name = "ADDRESS", requires = "origin")]
    listen: Option<String>,
    /// Where operators connect, with --origin.
    #[arg(long, value_name = "ADDRESS", requires = "origin")]
    admin: Option<String>,
    /// Threads that serve requests; default: one per core.
    #[arg(long, value_name = "N", env = "PARVIS_THREADS")]
    threads: Option<usize>,
    /// Lets plain hits go the full way too, which must answer the same: to find out which of the two is at fault.
    #[arg(long)]
    no_shortcut: bool,
}

impl Options {
    pub fn run(self) -> Result<(), Failure> {
        log::init();
        let (plan, report) = match (&self.config, &self.origin) {
            (Some(file), _) => Plan::load(file)?,
            (None, Some(origin)) => Plan::from_loaded(&self.defaults_for(origin))?,
            (None, None) => return Err(Failure::usage("give a file with -c, or an --origin")),
        };
        warn(&report);
        let cores = || std::thread::available_parallelism().map_or(1, Into::into);
        let threads = self.threads.unwrap_or_else(cores).clamp(1, 256);
        let settings = Settings { plan, file: self.config, threads, shortcut: !self.no_shortcut };
        server::start(settings, std::io::stdout()).and_then(server::Running::wait).map_err(failure)
    }

    fn defaults_for(&self, origin: &str) -> Loaded {
        let upstream = Upstream { servers: vec![origin.into()], ..Upstream::default() };
        let mut config = Config {
            listen: self.listen.as_deref().map(|address| Listeners(vec![address.into()])),
            upstreams: [("origin".to_owned(), upstream)].into(),
            routes: vec![Route { name: Some("all".to_owned()), ..Route::default() }],
            ..Config::default()
        };
        config.admin.listen.clone_from(&self.admin);
        Loaded::generated(config)
    }
}

fn warn(report: &Report) {
    if !report.mistakes.is_empty() {
        tracing::warn!("\n{}", report.render(is_terminal()));
    }
}

fn failure(error: ServeError) -> Failure {
    Failure::failed(error.to_string())
}
