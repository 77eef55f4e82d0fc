//! gunicorn with the shop or the blog, as a test starts and ends it.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{Client, Directory, Parvis, eventually, free_port};

/// A running gunicorn, with a database and logs of its own.
pub struct Django {
    pub address: SocketAddr,
    cache: Option<SocketAddr>,
    site: Site,
    server: Child,
}

impl Django {
    /// Fills the shop's database with the first state and starts.
    pub fn start() -> Self {
        let site = Site::seeded("shop");
        let (address, server) = site.on_free_port(|address| Some((address, site.serve(address, None)?)));
        Self { address, cache: None, site, server }
    }

    /// The same for the blog, and the parvis in front of it, which the blog tells what its editors changed. Each must
    /// know the other's address, so `in_front` gets one where nothing listens yet.
    pub fn start_blog(in_front: impl Fn(SocketAddr) -> Parvis) -> (Self, Parvis) {
        let site = Site::seeded("blog");
        let (address, parvis, server) = site.on_free_port(|address| {
            let parvis = in_front(address);
            let server = site.serve(address, Some(parvis.listen))?;
            Some((address, parvis, server))
        });
        (Self { address, cache: Some(parvis.listen), site, server }, parvis)
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// What Django received, in order: `METHOD TARGET`, with ` conditional` behind it where it was.
    pub fn received(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.site.path("hits.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// How often it received this.
    pub fn count(&self, line: &str) -> usize {
        self.received().iter().filter(|received| *received == line).count()
    }

    /// Lets the streams go on that wait for this gate.
    pub fn open_gate(&self, name: &str) {
        self.site.directory.write(&format!("gate-{name}"), "");
    }

    /// Ends gunicorn as an operator would.
    pub fn stop(&mut self) {
        self.terminate();
        eventually("gunicorn has ended", || self.has_ended());
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        self.server = self.site.serve(self.address, self.cache).expect("its port is still free");
    }

    fn terminate(&self) {
        let _ = Command::new("kill").args(["-TERM", &self.server.id().to_string()]).status();
    }

    fn has_ended(&mut self) -> bool {
        self.server.try_wait().is_ok_and(|state| state.is_some())
    }
}

impl Drop for Django {
    fn drop(&mut self) {
        // The number of a process that has ended may be another's by now.
        if !self.has_ended() {
            self.terminate();
        }
        for _ in 0..1000 {
            if self.has_ended() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // Its workers end by themselves once it is gone.
        let _ = self.server.kill();
        let _ = self.server.wait();
        if thread::panicking() {
            eprintln!("--- gunicorn said:\n{}", self.site.said());
        }
    }
}

/// One of the applications here, with a directory of its own. Each takes from its variables what it knows.
struct Site {
    name: &'static str,
    directory: Directory,
}

impl Site {
    /// In its first state.
    fn seeded(name: &'static str) -> Self {
        let mut setup = Command::new(applications().join("setup.sh"));
        let ready = setup.arg(environment()).stdout(Stdio::null()).status();
        assert!(ready.expect("it runs").success(), "tests/django/setup.sh failed");
        let site = Self { name, directory: Directory::new() };
        let manage = applications().join(name).join("manage.py");
        let seeded = site.command("python").arg(manage).arg("seed").status();
        assert!(seeded.expect("python runs").success(), "{}", site.said());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn variable(&self, name: &str) -> String {
        format!("{}_{name}", self.name.to_uppercase())
    }

    fn command(&self, program: &str) -> Command {
        let log = File::options().create(true).append(true).open(self.path("gunicorn.log"));
        let mut command = Command::new(environment().join("bin").join(program));
        // Who tries the applications by hand may have set these.
        for set in ["SHOP_BIND", "BLOG_BIND", "BLOG_CACHE"] {
            command.env_remove(set);
        }
        command
            .env(self.variable("DB"), self.path("db.sqlite3"))
            .env(self.variable("STATIC"), self.path("static"))
            .env(self.variable("LOG"), self.path("hits.log"))
            // What the clients of the tests send.
            .env(self.variable("HOST"), "shop.test")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // A purge goes straight to parvis, whatever proxy this machine uses.
            .env("no_proxy", "*")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log file"));
        command
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("gunicorn.log")).unwrap_or_default()
    }

    /// Between finding a port and listening on it another test may take it.
    fn on_free_port<T>(&self, start: impl Fn(SocketAddr) -> Option<T>) -> T {
        let started = (0..5).find_map(|_| start(SocketAddr::from(([127, 0, 0, 1], free_port()))));
        started.unwrap_or_else(|| panic!("gunicorn did not start five times: {}", self.said()))
    }

    /// Starts gunicorn; `None` when its port was taken meanwhile.
    fn serve(&self, address: SocketAddr, cache: Option<SocketAddr>) -> Option<Child> {
        let said_before = self.said().len();
        let mut gunicorn = self.command("gunicorn");
        gunicorn.arg("-c").arg(applications().join("gunicorn.conf.py"));
        gunicorn.env(self.variable("BIND"), address.to_string());
        if let Some(cache) = cache {
            gunicorn.env(self.variable("CACHE"), format!("http://{cache}"));
        }
        let mut server = gunicorn.spawn().expect("gunicorn starts");
        let listens = || TcpStream::connect(address).is_ok();
        let healthy = || listens() && Client::new(address).get("/health/").status == 200;
        let taken = || self.said()[said_before..].contains("in use");
        eventually("gunicorn is healthy, or has ended", || {
            server.try_wait().expect("its state").is_some() || taken() || healthy()
        });
        if taken() {
            let _ = server.kill();
            let _ = server.wait();
            return None;
        }
        assert!(healthy(), "gunicorn ended: {}", self.said());
        Some(server)
    }
}

/// Where they and what they need lie.
fn applications() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/django"))
}

/// The virtual environment, beside what cargo builds.
fn environment() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("django-venv")
}
