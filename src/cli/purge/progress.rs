//! How far the command is: a bar for a person at a terminal, lines for the log of a CI job, nothing beside JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::cli::is_terminal;
use crate::clock;

/// How often a line tells how far a phase is.
const EVERY: Duration = Duration::from_secs(10);
/// How often the bar moves while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// For whom progress is shown.
#[derive(Clone, Copy)]
pub enum Progress {
    /// For nobody.
    Silent,
    /// For a log.
    Lines,
    /// For a person.
    Bar,
}

impl Progress {
    /// What suits standard error.
    pub fn new(silent: bool) -> Self {
        match () {
            () if silent => Self::Silent,
            () if is_terminal() => Self::Bar,
            () => Self::Lines,
        }
    }

    /// Begins a phase of `steps`, or of nobody knows how many.
    pub fn begin(self, what: impl Into<String>, steps: Option<usize>) -> Phase {
        let what = what.into();
        let target = match self {
            Self::Bar => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let template = match steps {
            Some(_) => "{bar:30} {pos}/{len} {msg}, {eta} left",
            None => "{spinner} {msg}, {elapsed}",
        };
        let bar = ProgressBar::with_draw_target(steps.map(|steps| steps as u64), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.clone());
        match self {
            Self::Bar => bar.enable_steady_tick(TICK),
            Self::Lines => say(&format!("{what} ...")),
            Self::Silent => {}
        }
        Phase { progress: self, what, bar, said: Mutex::new(clock::start()) }
    }
}

/// A part of the command.
pub struct Phase {
    progress: Progress,
    what: String,
    bar: ProgressBar,
    said: Mutex<Instant>,
}

impl Phase {
    /// One step more is done.
    pub fn step(&self) {
        self.bar.inc(1);
        if !matches!(self.progress, Progress::Lines) {
            return;
        }
        let mut said = self.said.lock();
        if said.elapsed() >= EVERY {
            *said = clock::start();
            say(&format!(
                "{}: {} of {}",
                self.what,
                self.bar.position(),
                self.bar.length().unwrap_or_default()
            ));
        }
    }

    /// Ends the phase and says how.
    pub fn end(self, how: &str) {
        self.bar.finish_and_clear();
        if !matches!(self.progress, Progress::Silent) {
            say(&format!("{}: {how}", self.what));
        }
    }
}

/// To standard error: standard output is for results. That nobody reads it is no failure.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
