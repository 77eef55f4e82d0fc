//! Several instances in front of one origin, each with a wire of its own to the Redis, which can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::redis::Redis;
use super::{ALL_SECRET, Origin, Parvis, Response, eventually, upstream};

/// A way to a port that can be cut, and mended. Ends with the test's process.
pub struct Wire {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Wire {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                if state.is_cut {
                    continue;
                }
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || carry(from, to));
                }
                state.streams.extend([near, far]);
            }
        });
        Self { port, state }
    }

    /// Nothing gets through, and what was connected breaks.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Instances named `a`, `b`, ... that have met.
pub struct Peers {
    pub all: Vec<Parvis>,
    pub origin: Origin,
    pub wires: Vec<Wire>,
    yaml: String,
    redis: String,
}

impl Peers {
    /// So many with a Redis of one server, each by a wire of its own.
    pub fn start(count: u8, redis: &Redis, routes: &str) -> Self {
        let wires: Vec<Wire> = (0..count).map(|_| Wire::to(redis.port)).collect();
        Self::with(count, "url: \"redis://127.0.0.1:{port}\"", routes, wires)
    }

    /// So many with this Redis, in which `{port}` stands for that of an instance's wire.
    pub fn with(count: u8, redis: &str, routes: &str, wires: Vec<Wire>) -> Self {
        let origin = Origin::start();
        let yaml = upstream(origin.address, "{connect: 1s, read: 5s, idle: 1s}", routes);
        // On a busy machine an answer takes its time.
        let timeout = if redis.contains("timeout") { "" } else { ", timeout: 5s" };
        let redis = format!("{{{redis}{timeout}}}");
        let mut peers = Self { all: Vec::new(), origin, wires, yaml, redis };
        peers.all = (0..count).map(|at| peers.instance(at)).collect();
        for parvis in &peers.all {
            follows(parvis);
        }
        peers
    }

    fn instance(&self, at: u8) -> Parvis {
        let wire = self.wires.get(usize::from(at)).map_or(0, |wire| wire.port).to_string();
        let name = char::from(b'a' + at);
        let redis = self.redis.replace("{port}", &wire).replace("{name}", &name.to_string());
        let yaml = &self.yaml;
        Parvis::start(&format!("instance: {name}\nstorage: {{redis: {redis}}}\n{yaml}"))
    }

    /// Ends an instance at once, and starts it again, with nothing in memory.
    pub fn restart(&mut self, at: u8) {
        self.all[usize::from(at)].signal("KILL");
        self.all[usize::from(at)].wait_for_end();
        self.all[usize::from(at)] = self.instance(at);
        follows(&self.all[usize::from(at)]);
    }

    pub fn cut(&self, at: usize) {
        self.wires[at].cut();
        eventually("it notices", || !is_following(&self.all[at]));
    }

    pub fn mend(&self, at: usize) {
        self.wires[at].mend();
        follows(&self.all[at]);
    }

    /// Asks an instance for a page.
    pub fn get(&self, at: usize, path: &str) -> Response {
        self.all[at].client().get(path)
    }

    /// Purges by an instance, which waits for the others.
    pub fn purge(&self, at: usize, json: &str) -> serde_json::Value {
        self.purge_waiting(at, json, 20)
    }

    /// The same, for so many seconds.
    pub fn purge_waiting(&self, at: usize, json: &str, seconds: u8) -> serde_json::Value {
        let response = self.all[at].admin("POST", &format!("/purge?wait={seconds}"), Some(ALL_SECRET), json);
        assert_eq!(response.status, 200, "{}", response.text());
        serde_json::from_str(&response.text()).expect("JSON")
    }

    /// Waits until all that an instance has stored is written.
    pub fn written(&self, at: usize, count: f64) {
        let written = || self.all[at].metric("parvis_redis_writes_total", "result=\"written\"");
        eventually("it is written", || written() >= count);
    }
}

fn is_following(parvis: &Parvis) -> bool {
    parvis.metric("parvis_purge_log_followed", "") == 1.0
}

/// Waits until an instance knows all purges.
pub fn follows(parvis: &Parvis) {
    eventually("it follows the log", || is_following(parvis));
}
