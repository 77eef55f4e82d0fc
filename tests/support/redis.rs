//! Real servers: one Redis, a cluster of three, or a primary with a replica and a Sentinel. Killed by their process ids.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use super::{Directory, eventually, free_port};

/// A running server.
pub struct Redis {
    pub port: u16,
    arguments: Vec<String>,
    child: Child,
    directory: Directory,
}

impl Redis {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more of its own options.
    pub fn with(options: &[&str]) -> Self {
        let (port, directory) = (free_port(), Directory::new());
        let directory_name = directory.path().display().to_string();
        let mut arguments: Vec<String> =
            ["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", &directory_name]
                .into_iter()
                .chain(["--save", "", "--appendonly", "no"])
                .map(str::to_owned)
                .collect();
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        Self::run(port, arguments, directory)
    }

    fn run(port: u16, arguments: Vec<String>, directory: Directory) -> Self {
        let child = spawn(&arguments, &directory);
        let redis = Self { port, arguments, child, directory };
        redis.wait();
        redis
    }

    fn wait(&self) {
        // One that wants a password answers too.
        eventually("the Redis answers", || {
            ["PONG", "NOAUTH"].iter().any(|word| self.cli(&["ping"]).contains(word))
        });
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` says to a command.
    pub fn cli(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(words).output();
        let output = output.expect("redis-cli, which `scripts/setup test` installs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Starts it again, with nothing in it.
    pub fn restart(&mut self) {
        self.child = spawn(&self.arguments, &self.directory);
        self.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(arguments: &[String], directory: &Directory) -> Child {
    let log = File::create(directory.path().join("redis.log")).expect("a log file");
    Command::new("redis-server")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server, which `scripts/setup test` installs")
}

/// Three masters that share the keys.
pub struct Cluster(pub Vec<Redis>);

impl Cluster {
    pub fn start() -> Self {
        let nodes: Vec<Redis> = (0..3)
            .map(|_| {
                let bus = free_port().to_string();
                let options =
                    ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
                // Those that are left go on with their part.
                Redis::with(&[&options[..], &["--cluster-require-full-coverage", "no"]].concat())
            })
            .collect();
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .arg("--cluster-yes")
            .stdin(Stdio::null())
            .output()
            .expect("redis-cli");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        eventually("all nodes agree", || {
            nodes.iter().all(|node| node.cli(&["cluster", "info"]).contains("cluster_state:ok"))
        });
        Self(nodes)
    }

    /// Moves so many slots, with their keys, from one node to another; tells whether that was done.
    pub fn reshard(&self, from: &str, to: &str, slots: usize) -> bool {
        let address = format!("127.0.0.1:{}", self.0[0].port);
        let done = Command::new("redis-cli")
            .args(["--cluster", "reshard", &address, "--cluster-from", from, "--cluster-to", to])
            .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"])
            .stdin(Stdio::null())
            .output()
            .expect("redis-cli");
        done.status.success()
    }

    /// As YAML.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.0.iter().map(|node| format!("\"{}\"", node.url())).collect();
        format!("[{}]", urls.join(", "))
    }
}

/// A primary, its replica, and a Sentinel that knows them as `shop`.
pub struct Watched {
    pub primary: Redis,
    pub replica: Redis,
    pub sentinel: Redis,
}

impl Watched {
    pub fn start() -> Self {
        let primary = Redis::start();
        let of = primary.port.to_string();
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &of]);
        eventually("the replica is in step", || {
            replica.cli(&["info", "replication"]).contains("master_link_status:up")
        });
        let (port, directory) = (free_port(), Directory::new());
        let file = directory.write(
            "sentinel.conf",
            &format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor shop 127.0.0.1 {of} 1\nsentinel down-after-milliseconds shop 500\nsentinel failover-timeout shop 3000\n",
                directory.path().display()
            ),
        );
        let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        let sentinel = Redis::run(port, arguments, directory);
        eventually("it knows the replica", || {
            sentinel.cli(&["sentinel", "replicas", "shop"]).contains("127.0.0.1")
        });
        Self { primary, replica, sentinel }
    }
}
