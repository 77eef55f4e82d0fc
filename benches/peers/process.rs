//! Processes pinned to a core: what they use, and that none is left behind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The kernel's unit of CPU time in /proc, on every architecture that matters.
const TICK: Duration = Duration::from_millis(10);

/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the programs of servers are that an ordinary account's PATH leaves out.
const SBIN: &str = "/usr/local/sbin:/usr/sbin";

/// A process and all that it has started. Ends when dropped, and when this program does, however that ends.
pub struct Process(Child);

impl Process {
    /// Starts a program on one core. What it prints is appended to `log`, which it may not find longer than it left it.
    pub fn start(
        core: usize,
        program: &[&str],
        variables: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self, String> {
        let append = || File::options().create(true).append(true).open(log);
        let errors = File::options().create(true).append(true).open(log.with_extension("err"));
        let (out, errors) = append().and_then(|out| Ok((out, errors?))).map_err(|error| error.to_string())?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "taskset", "-c", &core.to_string()]).args(program);
        command.env("PATH", path()).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(out).stderr(errors);
        command.spawn().map(Self).map_err(|error| format!("cannot start {}: {error}", program[0]))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        self.0.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// CPU time of all its processes so far.
    pub fn cpu(&self) -> Duration {
        tree(self.0.id()).iter().filter_map(|process| Some(TICK * stat(*process)?.ticks)).sum()
    }

    /// Memory of all its processes in bytes; what several share counts once.
    pub fn memory(&self) -> u64 {
        tree(self.0.id()).iter().map(|process| memory(*process)).sum()
    }
}

/// The time that the hypervisor has taken from these cores so far, where it tells.
pub fn stolen(cores: [usize; 2]) -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let of = |core: usize| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{core} ")))?;
        line.split_whitespace().nth(7)?.parse::<u32>().ok()
    };
    cores.into_iter().filter_map(of).map(|ticks| TICK * ticks).sum()
}

impl Drop for Process {
    fn drop(&mut self) {
        let all = tree(self.0.id());
        signal("-TERM", self.0.id());
        let started = Instant::now();
        while started.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Those that it has not ended itself, and it, unless it is gone: errors only say that nothing is left.
        all.iter().filter(|process| **process != self.0.id() && stat(**process).is_some()).for_each(
            |process| {
                signal("-KILL", *process);
            },
        );
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(name: &str, process: u32) {
    let _ = Command::new("kill").args([name, &process.to_string()]).stderr(Stdio::null()).status();
}

fn path() -> String {
    format!("{}:{SBIN}", std::env::var("PATH").unwrap_or_default())
}

/// Where a program is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    path().split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

struct Stat {
    parent: u32,
    ticks: u32,
}

fn stat(process: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before may contain anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some(Stat { parent: number(1)?, ticks: number(11)? + number(12)? })
}

/// A process and its descendants.
fn tree(root: u32) -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> =
        numbers.filter_map(|process| Some((process, stat(process)?.parent))).collect();
    let mut found = BTreeSet::from([root]);
    let mut before = 0;
    while found.len() > before {
        before = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| found.contains(parent))
                .map(|(process, _)| *process)
                .collect::<Vec<_>>(),
        );
    }
    found
}

fn memory(process: u32) -> u64 {
    let field = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{process}/{file}")).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    // Resident memory where the kernel does not tell the share of it.
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0) * 1024
}

/// Bytes that the files below a directory take: memory too, be it of tmpfs or of the page cache.
pub fn disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Keeps this program on one core, and lets it and what it starts open enough connections.
pub fn prepare(core: usize) -> Result<(), String> {
    let own = std::process::id().to_string();
    for command in [
        &["taskset", "-a", "-p", "-c", &core.to_string(), &own][..],
        &["prlimit", "--nofile=16384", "--pid", &own],
    ] {
        let output = Command::new(command[0]).args(&command[1..]).output();
        let output =
            output.map_err(|error| format!("{} (Debian package util-linux): {error}", command[0]))?;
        if !output.status.success() {
            return Err(format!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}
