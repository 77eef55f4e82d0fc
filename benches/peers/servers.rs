//! The servers: how each is started and told what to do, by the configurations beside this file.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cases::{Case, Paths};
use crate::load;
use crate::process::{self, Process};

/// Sections of the site, each a route of its own, besides the one that takes the rest.
const SECTIONS: usize = 49;

/// How long a server may take to start, and to answer one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fixed bytes.
    Floor,
    /// This project.
    Parvis,
    /// nginx, by its `sendfile`.
    Nginx { sendfile: bool },
    /// HAProxy.
    Haproxy,
    /// Varnish.
    Varnish,
}

/// All there are, in the order of the tables.
pub const KINDS: [Kind; 6] = [
    Kind::Floor,
    Kind::Parvis,
    Kind::Nginx { sendfile: true },
    Kind::Nginx { sendfile: false },
    Kind::Haproxy,
    Kind::Varnish,
];

impl Kind {
    /// As in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor: tokio, fixed bytes",
            Self::Parvis => "parvis",
            Self::Nginx { sendfile: true } => "nginx, sendfile on",
            Self::Nginx { sendfile: false } => "nginx, sendfile off",
            Self::Haproxy => "HAProxy",
            Self::Varnish => "Varnish",
        }
    }

    /// The programs it needs.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Floor | Self::Parvis => &[],
            Self::Nginx { .. } => &["nginx"],
            Self::Haproxy => &["haproxy"],
            Self::Varnish => &["varnishd", "varnishncsa", "cc"],
        }
    }

    /// Whether it can do what a case asks for.
    pub fn takes(self, case: &Case) -> bool {
        self != Self::Floor || (matches!(case.paths, Paths::One(_)) && !case.gzip)
    }
}

/// What all servers are told.
pub struct Site {
    /// The core that servers run on.
    pub core: usize,
    /// The application.
    pub origin: SocketAddr,
    /// The binary of parvis.
    pub parvis: PathBuf,
    /// Where servers write.
    pub directory: PathBuf,
}

/// A server that runs.
pub struct Server {
    /// Which.
    pub kind: Kind,
    /// Where it listens.
    pub address: SocketAddr,
    processes: Vec<Process>,
    directory: PathBuf,
}

/// A port that nobody uses at the moment.
fn free() -> Result<SocketAddr, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| error.to_string())
}

/// A configuration with its names filled in.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = String::new();
    for line in template.lines() {
        // The line that explains `@N@` is a comment.
        let times = if line.contains("@N@") && !line.starts_with('#') { SECTIONS } else { 1 };
        for n in 1..=times {
            text.push_str(&line.replace("@N@", &n.to_string()));
            text.push('\n');
        }
    }
    values.iter().fold(text, |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

impl Server {
    /// Starts a server, and waits until it listens.
    pub fn start(kind: Kind, site: &Site, case: &Case) -> Result<Self, String> {
        // Of its own for each case, or nginx would find what it has stored before.
        let directory = site.directory.join(case.name).join(kind.name().replace([' ', ',', ':'], ""));
        std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut server = Self { kind, address: free()?, processes: Vec::new(), directory };
        server.launch(site, case)?;
        server.wait()?;
        if kind == Kind::Varnish {
            let instance = server.path("varnish");
            let log = server.path("requests.log");
            server.run(site, &["varnishncsa", "-n", &instance, "-a", "-w", &log], &[])?;
        }
        Ok(server)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn launch(&mut self, site: &Site, case: &Case) -> Result<(), String> {
        let address = self.address.to_string();
        match self.kind {
            Kind::Floor => {
                let program = std::env::current_exe().map_err(|error| error.to_string())?;
                let length = case.length().unwrap_or_default().to_string();
                self.run(site, &[&program.display().to_string(), "--floor", &address, &length], &[])
            }
            Kind::Parvis => {
                let file = self.configure("parvis.yaml", include_str!("parvis.yaml"), site)?;
                let program = site.parvis.display().to_string();
                self.run(site, &[&program, "run", "-c", &file], &[("PARVIS_THREADS", "1")])
            }
            Kind::Nginx { .. } => {
                let file = self.configure("nginx.conf", include_str!("nginx.conf"), site)?;
                let errors = self.path("nginx.err");
                self.run(site, &["nginx", "-e", &errors, "-c", &file], &[])
            }
            Kind::Haproxy => {
                let file = self.configure("haproxy.cfg", include_str!("haproxy.cfg"), site)?;
                self.run(site, &["haproxy", "-db", "-f", &file], &[])
            }
            Kind::Varnish => {
                let file = self.configure("default.vcl", include_str!("default.vcl"), site)?;
                let instance = self.path("varnish");
                let program = ["varnishd", "-F", "-j", "none", "-n", &instance, "-f", &file, "-a", &address];
                let options = ["-s", "malloc,40m", "-p", "thread_pools=1", "-p", "thread_pool_min=64"];
                let more = ["-p", "thread_pool_max=1000", "-p", "timeout_idle=300", "-p", "nuke_limit=1000"];
                self.run(site, &[&program[..], &options[..], &more[..]].concat(), &[])
            }
        }
    }

    fn run(&mut self, site: &Site, program: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
        let log = self.directory.join(format!("{}.log", self.processes.len()));
        self.processes.push(Process::start(site.core, program, variables, &log)?);
        Ok(())
    }

    fn configure(&self, name: &str, template: &str, site: &Site) -> Result<String, String> {
        let sendfile = if self.kind == (Kind::Nginx { sendfile: true }) { "on" } else { "off" };
        let values = [
            ("DIR", self.directory.display().to_string()),
            ("LISTEN", self.address.to_string()),
            ("ADMIN", free()?.to_string()),
            ("ORIGIN", site.origin.to_string()),
            ("ORIGIN_PORT", site.origin.port().to_string()),
            ("SENDFILE", sendfile.to_owned()),
        ];
        let file = self.path(name);
        std::fs::write(&file, fill(template, &values)).map_err(|error| format!("{file}: {error}"))?;
        Ok(file)
    }

    fn wait(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.processes[0].ended();
            if ended.is_some() || started.elapsed() > PATIENCE {
                return Err(format!("does not start: {}\n{}", ended.unwrap_or_default(), self.complaints()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The last of what it wrote about errors.
    pub fn complaints(&self) -> String {
        let files =
            std::fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let errors = files.filter(|path| path.extension().is_some_and(|extension| extension == "err"));
        let text: String = errors.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// CPU time of all its processes so far.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(Process::cpu).sum()
    }

    /// Bytes of all its processes and of nginx's files.
    pub fn memory(&self) -> u64 {
        let processes: u64 = self.processes.iter().map(Process::memory).sum();
        processes + process::disk(&self.directory.join("cache"))
    }

    /// Empties the logs, which would otherwise fill the memory that they are in.
    pub fn truncate_logs(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                // One that cannot be emptied is only large.
                let _ =
                    std::fs::File::options().write(true).open(entry.path()).and_then(|file| file.set_len(0));
            }
        }
    }

    /// Asks once, on a connection of its own.
    pub fn ask(&self, request: &[u8]) -> Result<Answer, String> {
        let ask = || -> std::io::Result<Answer> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(request)?;
            Answer::read(&mut stream)
        };
        ask().map_err(|error| format!("does not answer: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.processes.clear();
        // What is left goes with the directory of all servers.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A response, read whole.
pub struct Answer {
    /// The lines before the body.
    pub head: String,
    /// Bytes of the body, as they are sent.
    pub length: usize,
}

impl Answer {
    fn read(stream: &mut TcpStream) -> std::io::Result<Self> {
        let (mut data, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let read = stream.read(&mut buffer)?;
            data.extend_from_slice(&buffer[..read]);
            let Some(end) = memchr::memmem::find(&data, b"\r\n\r\n").map(|at| at + 4) else {
                match read {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    _ => continue,
                }
            };
            let (head, body) = data.split_at(end);
            let complete = match load::framing(head) {
                _ if head.starts_with(b"HTTP/1.1 304") => true,
                Some(length) => body.len() >= length,
                None => body.ends_with(b"0\r\n\r\n"),
            };
            if complete || read == 0 {
                return Ok(Self { head: String::from_utf8_lossy(head).into_owned(), length: body.len() });
            }
        }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// The value of a field, in lower case.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_lowercase())
    }

    /// Whether the server says that it had it.
    pub fn is_hit(&self, kind: Kind) -> bool {
        let says = match kind {
            Kind::Floor => return true,
            Kind::Parvis => self.field("cache-status"),
            _ => self.field("x-cache"),
        };
        says.is_some_and(|says| says.split(';').any(|word| word.trim() == "hit"))
    }
}

/// Where parvis's versions, and those of its peers, can be read.
pub fn versions(site: &Site) -> Vec<String> {
    let parvis = site.parvis.display().to_string();
    let commands: [&[&str]; 4] =
        [&[&parvis, "--version"], &["nginx", "-v"], &["haproxy", "-v"], &["varnishd", "-V"]];
    let first_line = |command: &&[&str]| {
        let program =
            if Path::new(command[0]).is_absolute() { command[0].into() } else { process::find(command[0])? };
        let output = std::process::Command::new(program).arg(command[1]).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
    };
    commands.iter().filter_map(first_line).collect()
}
