//! The real binary.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use super::{Client, Directory, Response, eventually, free_port};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_parvis");

/// A running parvis. Killed by its process id when dropped.
pub struct Parvis {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub config: PathBuf,
    child: Child,
    directory: Directory,
}

impl Parvis {
    /// Starts with this YAML, in which `{listen}` and `{admin}` stand for free ports.
    pub fn start(yaml: &str) -> Self {
        Self::start_also_with(yaml, &[])
    }

    /// The same with more arguments.
    pub fn start_also_with(yaml: &str, more: &[&str]) -> Self {
        Self::retry(|listen, admin, config| {
            let yaml = yaml.replace("{listen}", &listen.to_string()).replace("{admin}", &admin.to_string());
            std::fs::write(config, yaml).expect("the configuration");
            let file = ["-c".to_owned(), config.display().to_string()];
            file.into_iter().chain(more.iter().map(|argument| (*argument).to_owned())).collect()
        })
    }

    /// Starts without a file, with these arguments and free ports.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::retry(|listen, admin, _| {
            let ports = ["--listen".to_owned(), listen.to_string(), "--admin".to_owned(), admin.to_string()];
            arguments.iter().map(|argument| (*argument).to_owned()).chain(ports).collect()
        })
    }

    fn retry(arguments: impl Fn(SocketAddr, SocketAddr, &Path) -> Vec<String>) -> Self {
        // Between finding a port and listening on it another test may take it.
        for _ in 0..5 {
            if let Some(parvis) = Self::try_start(&arguments) {
                return parvis;
            }
        }
        panic!("parvis did not start five times");
    }

    fn try_start(arguments: &impl Fn(SocketAddr, SocketAddr, &Path) -> Vec<String>) -> Option<Self> {
        let directory = Directory::new();
        let (listen, admin) = (local(free_port()), local(free_port()));
        let config = directory.path().join("config.yaml");
        let child = spawn(&arguments(listen, admin, &config), &directory);
        let mut parvis = Self { listen, admin, config, child, directory };
        let mut ended = false;
        eventually("parvis listens, or has ended", || {
            ended = parvis.child.try_wait().expect("its state").is_some();
            // Its own word, and not a connection: that would also reach the sockets with which it tries whether
            // the addresses are free.
            ended || parvis.errors().contains("parvis is listening")
        });
        if ended {
            let errors = parvis.errors();
            assert!(errors.contains("in use"), "parvis ended: {errors}");
            return None;
        }
        Some(parvis)
    }

    pub fn client(&self) -> Client {
        Client::new(self.listen)
    }

    /// Asks the admin listener.
    pub fn admin(&self, method: &str, path: &str, secret: Option<&str>, body: &str) -> Response {
        let bearer = secret.map(|secret| format!("Bearer {secret}")).unwrap_or_default();
        let mut fields = vec![("Connection", "close"), ("Content-Type", "application/json")];
        if secret.is_some() {
            fields.push(("Authorization", &bearer));
        }
        Client::new(self.admin).send(method, path, &fields, body.as_bytes())
    }

    /// The value of a metric; `labels` is the beginning of its labels, such as `route="all"`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.admin("GET", "/metrics", None, "").text();
        let line = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| {
                rest.starts_with([' ', '{']) && labels.split(',').all(|label| rest.contains(label))
            })
        };
        text.lines()
            .filter(line)
            .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
            .sum()
    }

    /// The lines of the access log so far.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.directory.path().join("access.log")).expect("the access log");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The operator's log so far.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("error.log")).expect("the error log")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits until the process has ended by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("parvis has ended", || {
            status = self.child.try_wait().expect("its state");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// The bytes that the process has read by calls that are about files: `sendfile` counts, what is received from a socket
    /// does not, nor what is written to one.
    pub fn read_of_files(&self) -> u64 {
        let counters = std::fs::read_to_string(format!("/proc/{}/io", self.pid())).expect("its counters");
        let read = counters.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("its reads");
        read.parse().expect("a number")
    }

    /// How many bodies are kept in files.
    pub fn body_files(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("its descriptors");
        // One may be closed in between.
        let names = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        names.filter(|name| name.to_string_lossy().starts_with("/memfd:parvis-body")).count()
    }

    /// What the process occupies in memory, in bytes.
    pub fn resident_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its resident size");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
        kib * 1024
    }
}

impl Drop for Parvis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- parvis said:\n{}", self.errors());
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn spawn(arguments: &[String], directory: &Directory) -> Child {
    let file = |name: &str| Stdio::from(File::create(directory.path().join(name)).expect("a log file"));
    Command::new(BINARY)
        .arg("run")
        .args(arguments)
        .env("PARVIS_THREADS", "2")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(file("access.log"))
        .stderr(file("error.log"))
        .spawn()
        .expect("parvis starts")
}

/// Runs a command of the binary to its end.
pub fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .env_remove("PARVIS_TOKEN")
        .env_remove("PARVIS_ADMIN")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("parvis runs")
}
