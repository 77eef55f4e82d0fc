//! `parvis redis check`: whether the shared Redis can be used, how fast it answers, and what about it would surprise.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use redis::{ConnectionInfo, InfoDict, RedisResult, Value};

use super::{Failure, print};
use crate::clock;
use crate::plan::Plan;
use crate::plan::redis::{Redis, Topology};
use crate::shared::connect::{self, Link};
use crate::shared::log::acknowledge;

/// How often it is asked for the latency.
const PINGS: usize = 20;
/// How long any of it may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell whether the Redis of a configuration can be used, how fast it answers, and what to look after.
    Check {
        /// The configuration file.
        #[arg(short, long, value_name = "FILE", default_value = "/etc/parvis/config.yaml")]
        config: PathBuf,
    },
}

impl Options {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let Command::Check { config } = self.command;
        let (plan, _) = Plan::load(&config)?;
        let Some(redis) = plan.redis else {
            return Err(Failure::usage(format!("{}: there is no `storage.redis`", config.display())));
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(error.to_string()))?;
        let checked = runtime.block_on(async { tokio::time::timeout(PATIENCE, check(&redis)).await });
        match checked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let error = redis.without_passwords(&error.to_string());
                Err(Failure::failed(format!("the Redis cannot be used: {error}")))
            }
            Err(_) => Err(Failure::failed(format!("the Redis did not answer within {PATIENCE:?}"))),
        }
    }
}

async fn check(redis: &Redis) -> RedisResult<()> {
    let started = clock::start();
    let mut link = connect::connect(redis).await?;
    print(&format!("connected   {} in {}", described(redis), millis(started.elapsed())));
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let started = clock::start();
        redis::cmd("PING").query_async::<Value>(&mut link).await?;
        times.push(started.elapsed());
    }
    times.sort();
    let (median, longest) = (times[PINGS / 2], times[PINGS - 1]);
    print(&format!("latency     {} median, {} the longest of {PINGS}", millis(median), millis(longest)));
    if longest > redis.timeout {
        warn(&format!(
            "that is more than `timeout` ({:?}): such requests go on without an answer",
            redis.timeout
        ));
    }
    connect::try_script(redis, &mut link).await?;
    print("scripts     may be run, and write");
    let (purges, followers) = acknowledge::standing(redis, &mut link).await?;
    let followers = if followers.is_empty() { "nobody".to_owned() } else { followers.join(", ") };
    print(&format!("purges      {purges} entries in the log, which is followed by {followers}"));
    match (&redis.topology, link) {
        (Topology::Cluster, _) => {
            for node in redis.nodes() {
                about_node(node, redis).await;
            }
        }
        (_, Link::Single(mut link)) => match redis::cmd("INFO").query_async(&mut link).await {
            Ok(info) => about(&info),
            Err(error) => warn(&format!("it does not tell about itself: {error}")),
        },
        (_, Link::Cluster(_)) => {}
    }
    Ok(())
}

/// What a node of a cluster says of itself. The cluster is usable without it, so that it does not answer is no error.
async fn about_node(node: ConnectionInfo, redis: &Redis) {
    print(&format!("node        {}", node.addr()));
    let asked: RedisResult<(InfoDict, String)> = async {
        let mut link = connect::client(node, redis)?.get_multiplexed_async_connection().await?;
        let info = redis::cmd("INFO").query_async(&mut link).await?;
        Ok((info, redis::cmd("CLUSTER").arg("INFO").query_async(&mut link).await?))
    }
    .await;
    match asked {
        Ok((info, cluster)) => {
            about(&info);
            let figure = |name: &str| {
                let line = cluster.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.unwrap_or("?").trim().to_owned()
            };
            let (assigned, ok) = (figure("cluster_slots_assigned"), figure("cluster_slots_ok"));
            print(&format!(
                "slots       {ok} of 16384 are served; the cluster is {}",
                figure("cluster_state")
            ));
            if assigned != "16384" || ok != "16384" {
                warn("the other slots have no keys: each instance goes on by itself for them");
            }
        }
        Err(error) => warn(&format!("it does not answer: {error}")),
    }
}

/// What a server says of itself.
fn about(info: &InfoDict) {
    let text = |name: &str| info.get::<String>(name).unwrap_or_default();
    let version = text("redis_version");
    print(&format!("version     {version}, {}", text("role")));
    let (used, most, policy) = (text("used_memory_human"), text("maxmemory_human"), text("maxmemory_policy"));
    let has_limit = info.get::<u64>("maxmemory").unwrap_or(0) > 0;
    print(&format!(
        "memory      {used} of {}, {policy}",
        if has_limit { most.as_str() } else { "any amount" }
    ));
    if has_limit && policy == "noeviction" {
        warn(
            "when it is full it takes nothing more, and purges reach nobody else: the eviction policy `volatile-lru` makes room",
        );
    }
    if policy.starts_with("allkeys") {
        warn(
            "it may evict the log of purges, and with it all pages are worth nothing: the eviction policy `volatile-lru` spares it",
        );
    }
    if !has_limit {
        warn("nothing limits its memory: set `maxmemory`");
    }
    let keeps_log = text("aof_enabled") == "1";
    print(&format!("persistence {}", if keeps_log { "append-only file" } else { "snapshots, or none" }));
    if !keeps_log {
        warn(
            "what it holds when it restarts is used by nobody: `appendonly yes` keeps the log of purges, and the pages",
        );
    }
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < 5 {
        warn("it is older than 5.0, whose scripts may not write after they have read the clock");
    }
    if text("role") == "slave" {
        warn("it is a replica, which takes no writes");
    }
}

/// How it is put together, without secrets.
fn described(redis: &Redis) -> String {
    let nodes: Vec<String> = redis.nodes().iter().map(|node| node.addr().to_string()).collect();
    let nodes = nodes.join(", ");
    match &redis.topology {
        Topology::Single => nodes,
        Topology::Cluster => format!("a cluster by way of {nodes}"),
        Topology::Sentinel(name) => format!("`{name}`, as the sentinels at {nodes} say"),
    }
}

fn warn(text: &str) {
    print(&format!("warning:    {text}"));
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
