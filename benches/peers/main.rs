//! parvis beside nginx, HAProxy and Varnish, on the loopback interface of one machine: `make peers`.
//!
//! Every server has one core and one worker, and the load, with the origin, another core. Servers take turns within
//! each round, so that what else the machine does hits all of them. Figures are reported and never asserted;
//! docs/performance.md says how to read them.
#![allow(clippy::disallowed_methods)]

mod cases;
mod faults;
mod histogram;
mod load;
mod origin;
mod process;
mod servers;
mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;

use cases::{CASES, Case, Paths, Requests};
use faults::Faults;
use load::Load;
use origin::Origin;
use servers::{KINDS, Kind, Server, Site};
use table::{Results, Sample};

/// How long a server is warmed up before it is measured, and when it has just started.
const WARM_UP: Duration = Duration::from_millis(300);
const FIRST_WARM_UP: Duration = Duration::from_secs(1);

/// The same for the Zipf mix, in requests: a slow server's store shall have seen as much as a fast one's.
const ZIPF_WARM_UP: u64 = 300_000;

/// How long that may take.
const ZIPF_PATIENCE: Duration = Duration::from_secs(120);

/// How long servers are left alone between that and the first round: for its first minute nginx also serves what it has deleted
/// and still has open, and so has twice the memory.
const ZIPF_PAUSE: Duration = Duration::from_secs(65);

/// Times that a server is measured at a given rate until nothing is stolen meanwhile: of a machine that others use, a request
/// in a hundred tells how long it was taken away, rather than anything of the server.
const UNDISTURBED_ATTEMPTS: usize = 20;

/// Times that a page is asked for until it must be a hit.
const ATTEMPTS: usize = 10;

/// parvis beside nginx, HAProxy and Varnish. Without a case: all of them.
#[derive(Parser)]
struct Options {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds that each server is measured in each round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Requests per second of every server, rather than as many as it takes: latencies at equal load.
    #[arg(long)]
    rate: Option<f64>,
    /// At saturation the load sleeps while it waits, as most programs that make load do, and each server pays for waking it.
    #[arg(long, conflicts_with = "rate")]
    sleep: bool,
    /// The binary of parvis. Default: the release build, which `cargo bench` has made.
    #[arg(long, value_name = "FILE")]
    parvis: Option<PathBuf>,
    /// The core of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the load and the origin.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Only servers whose name contains this; may be repeated.
    #[arg(long, value_name = "TEXT")]
    server: Vec<String>,
    /// Names of cases, such as hit-1k.
    cases: Vec<String>,
    /// cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
    /// The floor: ADDRESS and LENGTH. For this program's own use.
    #[arg(long, hide = true, num_args = 2)]
    floor: Option<Vec<String>>,
}

impl Options {
    fn cases(&self) -> Result<Vec<Case>, String> {
        let all: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        let named = |name: &String| {
            let found = CASES.iter().find(|case| case.name == name).copied();
            found.ok_or_else(|| format!("no case `{name}`; there are {}", all.join(", ")))
        };
        let chosen = self.cases.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        Ok(if chosen.is_empty() { CASES.to_vec() } else { chosen })
    }

    fn kinds(&self) -> Vec<Kind> {
        let wanted = |name: &str| {
            let name = name.to_lowercase();
            self.server.is_empty() || self.server.iter().any(|part| name.contains(&part.to_lowercase()))
        };
        let (there, missing): (Vec<Kind>, Vec<Kind>) = KINDS
            .into_iter()
            .filter(|kind| wanted(kind.name()))
            .partition(|kind| kind.programs().iter().all(|program| process::find(program).is_some()));
        for kind in missing {
            println!("{} is left out: {} not installed.", kind.name(), kind.programs().join(", "));
            println!("    Debian: apt-get install --no-install-recommends nginx-light haproxy varnish\n");
        }
        there
    }
}

/// What all measurements need.
struct Bench {
    site: Site,
    origin: Origin,
    draws: Vec<u32>,
    seconds: Duration,
    rate: Option<f64>,
    sleeps: bool,
    load_core: usize,
    interrupted: Arc<AtomicBool>,
}

/// A server in one case.
struct Contestant<'b> {
    server: Server,
    requests: Requests<'b>,
    bench: &'b Bench,
    case: Case,
    samples: Vec<Sample>,
}

impl<'b> Contestant<'b> {
    /// Starts a server, and sees that it answers what the case is about.
    fn start(kind: Kind, case: Case, bench: &'b Bench) -> Result<Self, String> {
        let server = Server::start(kind, &bench.site, &case)?;
        let mut contestant =
            Self { server, requests: case.requests(&bench.draws), bench, case, samples: Vec::new() };
        contestant.verify()?;
        let mut load = contestant.connect(case.connections)?;
        let (started, mut asked) = (Instant::now(), 0);
        while asked == 0 || (case.paths == Paths::Zipf && asked < ZIPF_WARM_UP) {
            asked += load.run(&mut contestant.requests, case.status(), FIRST_WARM_UP)?.responses;
            if started.elapsed() > ZIPF_PATIENCE {
                return Err(format!("only {asked} requests in {} s of warming up", ZIPF_PATIENCE.as_secs()));
            }
        }
        Ok(contestant)
    }

    fn connect(&self, count: usize) -> Result<Load<'b>, String> {
        Load::connect(self.server.address, count, self.bench.sleeps, &self.bench.interrupted)
    }

    fn verify(&mut self) -> Result<(), String> {
        let mut complaint = String::new();
        for _ in 0..ATTEMPTS {
            // One that has the page already is not answered with all of it, so it has to be stored before.
            if self.case.conditional {
                let plain = Case { conditional: false, ..self.case };
                self.server.ask(plain.requests(&self.bench.draws).next())?;
            }
            match self.complaint()? {
                None => return Ok(()),
                Some(found) => complaint = found,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(complaint)
    }

    /// What is wrong with an answer.
    fn complaint(&mut self) -> Result<Option<String>, String> {
        let (case, kind) = (self.case, self.server.kind);
        let fetched = self.bench.origin.answered();
        let answer = self.server.ask(self.requests.next())?;
        let fetched = self.bench.origin.answered() - fetched;
        let hit = (answer.is_hit(kind), fetched);
        let encoding = answer.field("content-encoding").unwrap_or_else(|| "identity".to_owned());
        let said = || format!("{} bytes in {encoding}; {fetched} fetches\n{}", answer.length, answer.head);
        let is_right = answer.status() == case.status()
            && (encoding != "identity") == case.gzip
            && match case.paths {
                Paths::One(_) => {
                    case.length().is_none_or(|length| length == answer.length) && hit == (true, 0)
                }
                Paths::New => case.length() == Some(answer.length) && hit == (false, 1),
                // Which object was drawn is not known here.
                Paths::Zipf => answer.length.is_multiple_of(1024) && answer.length > 0,
            };
        Ok((!is_right).then(|| format!("it answers the request with {}", said())))
    }

    /// Measures once; at a given rate until that was undisturbed, or else takes what was disturbed least.
    fn measure(&mut self) -> Result<Sample, String> {
        let attempts = if self.bench.rate.is_some() { UNDISTURBED_ATTEMPTS } else { 1 };
        let mut best = self.measure_once()?;
        // Later ones find the memory of the first.
        let idle = best.idle;
        for _ in 1..attempts {
            if best.stolen == 0.0 {
                break;
            }
            let next = self.measure_once()?;
            best = if next.stolen < best.stolen { next } else { best };
        }
        Ok(Sample { idle, ..best })
    }

    fn measure_once(&mut self) -> Result<Sample, String> {
        let (case, bench) = (self.case, self.bench);
        let mut load = self.connect(case.connections)?;
        load.run(&mut self.requests, case.status(), WARM_UP)?;
        let without = self.server.memory();
        let mut idle = self.connect(case.idle)?;
        idle.run(&mut self.requests, case.status(), Duration::ZERO)?;
        let with = self.server.memory();
        let faults = if case.faults { Some(Faults::start(self.server.address)?) } else { None };
        if faults.is_some() {
            load.run(&mut self.requests, case.status(), FIRST_WARM_UP)?;
        }
        let cores = [bench.site.core, bench.load_core];
        let (cpu, fetched, stolen) = (self.server.cpu(), bench.origin.answered(), process::stolen(cores));
        let run = match bench.rate {
            None => load.run(&mut self.requests, case.status(), bench.seconds)?,
            Some(rate) => load.run_at(rate, &mut self.requests, case.status(), bench.seconds)?,
        };
        let (cpu, stolen) = (self.server.cpu() - cpu, process::stolen(cores) - stolen);
        let fetched = bench.origin.answered() - fetched;
        let memory = self.server.memory();
        drop(idle);
        if faults.is_some_and(|faults| faults.failed() == 0) {
            return Err("nothing has failed meanwhile".to_owned());
        }
        self.server.truncate_logs();
        let (responses, seconds) = (run.responses as f64, run.elapsed.as_secs_f64());
        Ok(Sample {
            cpu: cpu.as_secs_f64() * 1e6 / responses,
            rate: responses / seconds,
            p50: run.latency.quantile(0.5),
            p99: run.latency.quantile(0.99),
            memory: memory as f64 / f64::from(1 << 20),
            busy: cpu.as_secs_f64() * 100.0 / seconds,
            load: 100.0 - run.idle.as_secs_f64() * 100.0 / seconds,
            stolen: stolen.as_secs_f64() * 50.0 / seconds,
            hits: 100.0 - fetched as f64 * 100.0 / responses,
            idle: (case.idle > 0).then(|| (with as f64 - without as f64) / 1024.0 / case.idle as f64),
        })
    }
}

impl Bench {
    /// All rounds of all servers in one case.
    fn run(&self, case: Case, kinds: &[Kind], rounds: u32) -> Result<Results, String> {
        eprintln!("{}: {}", case.name, case.about);
        let kinds = kinds.iter().filter(|kind| kind.takes(&case));
        let start = |kind: &Kind| (*kind, Contestant::start(*kind, case, self));
        let mut contestants: Vec<_> = kinds.map(start).collect();
        for (kind, contestant) in &contestants {
            contestant.as_ref().err().into_iter().for_each(|error| eprintln!("  {}: {error}", kind.name()));
        }
        if case.paths == Paths::Zipf {
            std::thread::sleep(ZIPF_PAUSE);
        }
        for round in 1..=rounds {
            for (kind, contestant) in &mut contestants {
                let Ok(running) = contestant else { continue };
                match running.measure() {
                    Ok(sample) => {
                        eprintln!("  {round}/{rounds} {:<26} {:.2} µs", kind.name(), sample.cpu);
                        running.samples.push(sample);
                    }
                    Err(error) => {
                        eprintln!("  {}: {error}\n{}", kind.name(), running.server.complaints());
                        *contestant = Err(error);
                    }
                }
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
        }
        let outcome = |(kind, contestant): (Kind, Result<Contestant<'_>, String>)| {
            (kind, contestant.map(|contestant| contestant.samples))
        };
        let outcomes = contestants.into_iter().map(outcome).collect();
        Ok(Results { case, outcomes })
    }
}

/// A directory in memory, where the system has one. Removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, String> {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("parvis-peers-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left is only in the way.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the figures depend on.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(':').next().unwrap_or_default().trim().to_owned()
    };
    let load = field("/proc/loadavg", "");
    let load = load.split(' ').next().unwrap_or_default();
    let (processor, kernel) = (field("/proc/cpuinfo", "model name"), field("/proc/sys/kernel/osrelease", ""));
    format!("{processor}, Linux {kernel}; load average before: {load}")
}

fn run(options: &Options) -> Result<(), String> {
    let cases = options.cases()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if options.server_core == options.load_core || cores < 2 {
        return Err("two cores are needed: one for the servers, one for the load".to_owned());
    }
    let interrupted = Arc::<AtomicBool>::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).map_err(|error| error.to_string())?;
    }
    process::prepare(options.load_core)?;
    let directory = Directory::new()?;
    let origin = Origin::start().map_err(|error| format!("the origin does not start: {error}"))?;
    let parvis = options.parvis.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_parvis").into());
    let site =
        Site { core: options.server_core, origin: origin.address, parvis, directory: directory.0.clone() };
    println!("{}\n{}\n", machine(), servers::versions(&site).join("; "));
    let kinds = options.kinds();
    let seconds = Duration::from_secs_f64(options.seconds.clamp(0.1, 60.0));
    let rate = options.rate.map(|rate| rate.clamp(1.0, 1e6));
    let (sleeps, load_core) = (options.sleep, options.load_core);
    let bench = Bench { site, origin, draws: cases::draws(), seconds, rate, sleeps, load_core, interrupted };
    let mut all = Vec::new();
    for case in cases {
        let results = bench.run(case, &kinds, options.rounds)?;
        println!("{}", results.table());
        all.push(results);
    }
    println!("{}", table::overview(&all));
    Ok(())
}

/// The floor runs in a process of its own, which is this program again.
fn floor(arguments: &[String]) -> Result<(), String> {
    let address: SocketAddr = arguments[0].parse().map_err(|_| "no address".to_owned())?;
    let length = arguments[1].parse().map_err(|_| "no length".to_owned())?;
    origin::floor(address, length).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.floor {
        Some(arguments) => floor(arguments),
        None => run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
