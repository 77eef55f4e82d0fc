//! gunicorn with the shop, as a test starts and ends it.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{Client, Directory, eventually, free_port};

/// A running gunicorn, with a database and logs of its own.
pub struct Django {
    pub address: SocketAddr,
    directory: Directory,
    server: Child,
}

impl Django {
    /// Fills a database with the first state and starts.
    pub fn start() -> Self {
        let mut setup = Command::new(shop().join("setup.sh"));
        let ready = setup.arg(environment()).stdout(Stdio::null()).status();
        assert!(ready.expect("it runs").success(), "tests/django/setup.sh failed");
        let directory = Directory::new();
        let mut seed = command("python", &directory, "");
        let seeded = seed.arg(shop().join("shop/manage.py")).arg("seed").status();
        assert!(seeded.expect("python runs").success(), "{}", said(&directory));
        // Between finding a port and listening on it another test may take it.
        for _ in 0..5 {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Some(server) = serve(&directory, address) {
                return Self { address, directory, server };
            }
        }
        panic!("gunicorn did not start five times: {}", said(&directory));
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// What Django received, in order: `METHOD TARGET`, with ` conditional` behind it where it was.
    pub fn received(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.path().join("hits.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// How often it received this.
    pub fn count(&self, line: &str) -> usize {
        self.received().iter().filter(|received| *received == line).count()
    }

    /// Lets the streams go on that wait for this gate.
    pub fn open_gate(&self, name: &str) {
        self.directory.write(&format!("gate-{name}"), "");
    }

    /// Ends gunicorn as an operator would.
    pub fn stop(&mut self) {
        self.terminate();
        eventually("gunicorn has ended", || self.has_ended());
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        self.server = serve(&self.directory, self.address).expect("its port is still free");
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
            eprintln!("--- gunicorn said:\n{}", said(&self.directory));
        }
    }
}

fn shop() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/django"))
}

/// The virtual environment, beside what cargo builds.
fn environment() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("django-venv")
}

fn command(program: &str, directory: &Directory, bind: &str) -> Command {
    let path = |name: &str| directory.path().join(name);
    let log = File::options().create(true).append(true).open(path("gunicorn.log"));
    let mut command = Command::new(environment().join("bin").join(program));
    command
        .env("SHOP_DB", path("shop.sqlite3"))
        .env("SHOP_STATIC", path("static"))
        .env("SHOP_LOG", path("hits.log"))
        .env("SHOP_BIND", bind)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("a log file"));
    command
}

fn said(directory: &Directory) -> String {
    std::fs::read_to_string(directory.path().join("gunicorn.log")).unwrap_or_default()
}

/// Starts gunicorn; `None` when its port was taken meanwhile.
fn serve(directory: &Directory, address: SocketAddr) -> Option<Child> {
    let mut gunicorn = command("gunicorn", directory, &address.to_string());
    gunicorn.arg("-c").arg(shop().join("gunicorn.conf.py"));
    let mut server = gunicorn.spawn().expect("gunicorn starts");
    let listens = || TcpStream::connect(address).is_ok();
    let healthy = || listens() && Client::new(address).get("/health/").status == 200;
    let taken = || said(directory).contains("in use");
    eventually("gunicorn is healthy, or has ended", || {
        server.try_wait().expect("its state").is_some() || taken() || healthy()
    });
    if taken() {
        let _ = server.kill();
        let _ = server.wait();
        return None;
    }
    assert!(healthy(), "gunicorn ended: {}", said(directory));
    Some(server)
}
