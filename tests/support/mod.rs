//! The Rig: a scripted origin that can misbehave, the real binary in front of it, and a client.
//!
//! ```ignore
//! let rig = Rig::new("routes: [{name: all, cache: {ttl: 1m}}]");
//! rig.origin.on("/", Reply::ok("hello"));
//! assert_eq!(rig.get("/").verdict(), "miss");
//! assert_eq!(rig.get("/").verdict(), "hit");
//! assert_eq!(rig.origin.count("/"), 1);
//! ```
//!
//! Everything listens on free ports of the loopback interface, lives in a directory of its own, and is stopped by
//! the process id it was started with.

pub mod client;
pub mod grpc;
pub mod http2;
pub mod origin;
pub mod peers;
pub mod process;
pub mod redis;
pub mod tls;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use client::{Client, Response};
pub use grpc::GrpcOrigin;
pub use http2::Http2;
pub use origin::{Gate, Origin, Reply};
pub use process::Parvis;

/// How long anything may take before a test gives up on it. Generous: machines are noisy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The secret of the token that may purge.
pub const PURGE_SECRET: &str = "purge-secret-0123456789";
/// The secret of the token that may purge everything.
pub const ALL_SECRET: &str = "purge-all-secret-0123456789";

/// An origin, parvis in front of it, and a client.
pub struct Rig {
    pub origin: Origin,
    pub parvis: Parvis,
}

impl Rig {
    /// Starts both; `config` is the part of the YAML from `routes:` on, or more.
    pub fn new(config: &str) -> Self {
        Self::with_timeouts("{connect: 1s, read: 5s, idle: 1s}", config)
    }

    /// The same with other timeouts towards the origin.
    pub fn with_timeouts(timeouts: &str, config: &str) -> Self {
        let origin = Origin::start();
        let parvis = Parvis::start(&upstream(origin.address, timeouts, config));
        Self { origin, parvis }
    }

    /// Sends a GET on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        self.parvis.client().get(path)
    }

    /// Sends a GET with these fields.
    pub fn get_with(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.parvis.client().send("GET", path, fields, b"")
    }

    /// Sends a request with content.
    pub fn send(&self, method: &str, path: &str, body: &str) -> Response {
        self.parvis.client().send(method, path, &[], body.as_bytes())
    }

    /// Takes over the configuration with `old` replaced.
    pub fn reload(&self, old: &str, new: &str) {
        let reloads = || self.parvis.metric("parvis_reloads_total", "result=\"ok\"");
        let before = reloads();
        let config = std::fs::read_to_string(&self.parvis.config).expect("the configuration");
        assert!(config.contains(old), "{config}");
        std::fs::write(&self.parvis.config, config.replace(old, new)).expect("written");
        self.parvis.signal("HUP");
        eventually("it is taken over", || reloads() > before);
    }

    /// Purges through the admin listener, which must answer 200.
    pub fn purge(&self, json: &str) -> serde_json::Value {
        let response = self.parvis.admin("POST", "/purge", Some(ALL_SECRET), json);
        assert_eq!(response.status, 200, "{}", response.text());
        serde_json::from_str(&response.text()).expect("JSON")
    }
}

/// The top of a configuration with one upstream. `{listen}` and `{admin}` are filled in by [`Parvis::start`].
pub fn upstream(address: SocketAddr, timeouts: &str, config: &str) -> String {
    let mut yaml = String::new();
    let _ = write!(
        yaml,
        "listen: {{listen}}\nadmin:\n  listen: {{admin}}\n  tokens:\n    - {{name: ci, secret: {PURGE_SECRET}, \
         scopes: [purge]}}\n    - {{name: root, secret: {ALL_SECRET}, scopes: [purge_all, read]}}\nupstreams:\n  app: \
         {{servers: [\"{address}\"], timeouts: {timeouts}}}\n{config}\n"
    );
    yaml
}

/// The lines of a field, joined.
pub fn joined(fields: &[(String, String)], name: &str) -> Option<String> {
    let lines: Vec<&str> =
        fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory of its own, removed at the end.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("parvis-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file for the test");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that was free a moment ago, from below the range that the system hands out by itself: an origin or a
/// connection of another test cannot take it in between.
pub fn free_port() -> u16 {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    const FIRST: usize = 10_000;
    const PORTS: usize = 22_000;
    loop {
        let step = COUNT.fetch_add(1, Ordering::Relaxed);
        // Tests run in processes of their own: each walks from another place.
        let offset = (std::process::id() as usize * 911 + step * 7) % PORTS;
        let port = u16::try_from(FIRST + offset).expect("within the range of ports");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
