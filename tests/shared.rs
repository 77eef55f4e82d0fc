//! Several instances and what they share by way of a Redis.

use crate::support::process::command;
use crate::support::redis::{Cluster, Redis, Watched};
use crate::support::tls::Authority;
use crate::support::{Directory, Origin, Parvis, Reply, Response, eventually, free_port};

/// Instances in front of one application, named `a`, `b`, ...
struct Instances {
    all: Vec<Parvis>,
    _origin: Origin,
}

impl Instances {
    /// So many with this Redis, and these limits of their only route.
    fn start(count: u8, redis: &str, limits: &str) -> Self {
        Self::named(b'a'..b'a' + count, redis, limits)
    }

    /// The same with these names.
    fn named(names: std::ops::Range<u8>, redis: &str, limits: &str) -> Self {
        // On a busy machine an answer takes its time, and what is late is counted alone.
        let redis = &match redis.contains("timeout") {
            true => redis.to_owned(),
            false => redis.replacen('}', ", timeout: 5s}", 1),
        };
        let origin = Origin::start();
        origin.on("/", Reply::ok("page"));
        let start = |name: u8| {
            Parvis::start(&format!(
                "listen: {{listen}}\nadmin: {{listen: {{admin}}}}\ninstance: {}\nstorage: {{redis: {redis}}}\nupstreams: {{app: {{servers: [\"{}\"]}}}}\nroutes: [{{name: pages, cache: {{ttl: 1h}}, rate_limit: {limits}}}]\n",
                char::from(name),
                origin.address
            ))
        };
        let all: Vec<Parvis> = names.map(start).collect();
        Self { all, _origin: origin }
    }

    /// Until all know of all.
    fn met(self) -> Self {
        let count = self.all.len() as f64;
        eventually("they know one another", || {
            self.all.iter().all(|parvis| parvis.metric("parvis_instances", "") == count)
        });
        self
    }

    /// Asks them in turn, so often; tells the statuses.
    fn ask(&self, count: usize) -> Vec<u16> {
        (0..count).map(|at| self.all[at % self.all.len()].client().get("/").status).collect()
    }
}

fn ready(parvis: &Parvis) -> Response {
    parvis.admin("GET", "/readyz", None, "")
}

fn passed(statuses: &[u16]) -> usize {
    statuses.iter().filter(|status| **status == 200).count()
}

#[test]
fn instances_count_clients_together_for_pages_from_the_store_too() {
    let redis = Redis::start();
    let url = format!("{{url: \"{}\"}}", redis.url());
    let instances = Instances::start(2, &url, "{rate: 6/h, shared: true}").met();
    assert_eq!(instances.ask(8), [200, 200, 200, 200, 200, 200, 429, 429]);
    let refused = instances.all[0].client().get("/");
    let seconds: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&seconds), "a tenth of an hour, by the clock of the Redis: {seconds}");
    assert_eq!(refused.field("ratelimit-policy").as_deref(), Some("\"pages\";q=6;w=3600"));
    // Another application with the same Redis counts by itself.
    let other = format!("{{url: \"{}\", key_prefix: \"other:\"}}", redis.url());
    assert_eq!(passed(&Instances::start(1, &other, "{rate: 6/h, shared: true}").met().ask(7)), 6);
    let keys = redis.cli(&["keys", "*"]);
    assert!(keys.lines().all(|key| key.starts_with("parvis:") || key.starts_with("other:")), "{keys}");
    assert!(!keys.contains("127.0.0.1"), "clients are not named: {keys}");
}

#[test]
fn what_one_limit_refuses_costs_nothing_with_the_others() {
    let redis = Redis::start();
    let url = format!("{{url: \"{}\"}}", redis.url());
    let limits = "[{name: short, rate: 2/h, shared: true, key: header:X-Key}, {name: long, rate: 3/h, shared: true}, {name: dry, rate: 1/h, shared: true, dry_run: true}]";
    let instances = Instances::start(1, &url, limits).met();
    let ask = |key: &str| instances.all[0].client().send("GET", "/", &[("X-Key", key)], b"").status;
    assert_eq!([ask("a"), ask("a"), ask("a"), ask("a")], [200, 200, 429, 429]);
    assert_eq!([ask("b"), ask("b")], [200, 429], "two of three were counted");
    let dry = instances.all[0].metric("parvis_rate_limited_total", "limit=\"dry\",result=\"dry-run\"");
    assert_eq!(dry, 2.0);
    let limits = "[{name: own, rate: 1/h, key: header:X-Key}, {name: all, rate: 3/h, shared: true}]";
    let other = format!("{{url: \"{}\", key_prefix: \"other:\"}}", redis.url());
    let instances = Instances::start(1, &other, limits).met();
    let ask = |key: &str| instances.all[0].client().send("GET", "/", &[("X-Key", key)], b"").status;
    assert_eq!([ask("a"), ask("a"), ask("a"), ask("b"), ask("c"), ask("d")], [200, 429, 429, 200, 200, 429]);
}

#[test]
fn without_the_redis_each_lets_its_part_through_or_nobody() {
    let mut redis = Redis::start();
    let url = format!("{{url: \"{}\"}}", redis.url());
    let open = Instances::start(2, &url, "{rate: 8/h, shared: true}").met();
    let closed = Instances::named(b'x'..b'y', &url, "{rate: 8/h, shared: true, on_error: closed}");
    let three = |parvis: &Parvis| parvis.metric("parvis_instances", "") == 3.0;
    eventually("all three are known", || open.all.iter().all(three));
    redis.kill();
    let parvis = &open.all[0];
    eventually("it is left alone", || ready(parvis).text().contains("left alone"));
    // Two of eight for each of three.
    assert_eq!(passed(&open.ask(8)), 4);
    let uncounted = closed.all[0].client().get("/");
    assert_eq!((uncounted.status, uncounted.detail().as_str()), (503, "uncounted"));
    assert_eq!(ready(parvis).status, 200, "it serves all the same");
    assert_eq!(parvis.metric("parvis_redis_connected", ""), 0.0);
    redis.restart();
    eventually("it is connected again", || ready(parvis).text().contains("connected"));
    eventually("and so is the other", || closed.all[0].client().get("/").status == 200);
    let told = |text: &str| parvis.errors().lines().filter(|line| line.contains(text)).count();
    assert_eq!((told("is left alone"), told("is connected")), (1, 2), "one line for each change");
}

#[test]
fn a_redis_that_hangs_is_soon_asked_no_longer() {
    let redis = Redis::start();
    let url = format!("{{url: \"{}\"}}", redis.url());
    let url = url.replacen('}', ", timeout: 100ms}", 1);
    let instances = Instances::start(1, &url, "{rate: 1000/h, shared: true}").met();
    let parvis = &instances.all[0];
    redis.signal("STOP");
    assert_eq!(passed(&instances.ask(40)), 40);
    let asked = |result: &str| {
        parvis.metric("parvis_redis_requests_total", &format!("about=\"rate\",result=\"{result}\""))
    };
    assert!(asked("late") <= 3.0, "{}", asked("late"));
    assert!(asked("unconnected") >= 37.0, "{}", asked("unconnected"));
    redis.signal("CONT");
    eventually("it is asked again", || {
        instances.ask(1);
        asked("ok") > 0.0
    });
}

#[test]
fn a_full_redis_and_one_that_only_reads_are_as_good_as_none() {
    let redis = Redis::start();
    let url = format!("{{url: \"{}\"}}", redis.url());
    let instances = Instances::start(1, &url, "{rate: 5/h, shared: true}").met();
    redis.cli(&["config", "set", "maxmemory", "1"]);
    assert_eq!(instances.ask(6), [200, 200, 200, 200, 200, 429], "by itself");
    let primary = Redis::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let url = format!("{{url: \"{}\"}}", replica.url());
    let instances = Instances::start(1, &url, "{rate: 5/h, shared: true}");
    eventually("it is told", || instances.all[0].errors().contains("is left alone"));
    assert_eq!(instances.ask(6), [200, 200, 200, 200, 200, 429]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(
        instances.all[0].errors().matches("is left alone").count(),
        1,
        "it is tried again, and told once"
    );
}

#[test]
fn the_nodes_of_a_cluster_count_together() {
    let mut cluster = Cluster::start();
    let url = format!("{{url: {}, cluster: true, timeout: 500ms}}", cluster.urls());
    let instances = Instances::start(2, &url, "{rate: 6/h, shared: true}").met();
    assert_eq!(passed(&instances.ask(8)), 6);
    // The node that counts; the instances are known to another one, which goes on.
    let has = |node: &Redis, key: &str| node.cli(&["keys", "*"]).contains(key);
    let counting = cluster.0.iter().position(|node| has(node, "rate:")).unwrap();
    assert!(!has(&cluster.0[counting], "instances"), "the name of the route leads to another node");
    cluster.0[counting].kill();
    // Each lets its part through: three of six, and those that are asked again are not let wait.
    assert_eq!(passed(&instances.ask(16)), 6);
    let parvis = &instances.all[0];
    let asked = |result: &str| {
        parvis.metric("parvis_redis_requests_total", &format!("about=\"rate\",result=\"{result}\""))
    };
    assert!(asked("unconnected") > 0.0, "its part of the keys is left alone");
    assert!(ready(parvis).text().contains("connected"), "the others are not");
    assert!(!parvis.errors().contains("is left alone"), "{}", parvis.errors());
}

#[test]
fn sentinels_tell_who_counts() {
    let mut watched = Watched::start();
    let url = format!("{{url: \"{}\", sentinel: shop}}", watched.sentinel.url());
    let instances = Instances::start(2, &url, "{rate: 1000/h, shared: true}").met();
    assert_eq!(passed(&instances.ask(4)), 4);
    assert!(watched.primary.cli(&["keys", "*"]).contains("rate:"));
    watched.primary.kill();
    let asked = || instances.all[0].metric("parvis_redis_requests_total", "about=\"rate\",result=\"ok\"");
    let before = asked();
    eventually("the other one counts", || {
        assert_eq!(passed(&instances.ask(2)), 2, "nobody notices");
        asked() > before
    });
    assert!(watched.replica.cli(&["info", "replication"]).contains("role:master"));
}

#[test]
fn users_and_databases_are_as_the_url_says_and_secrets_stay_secret() {
    let redis = Redis::start();
    assert!(redis.cli(&["acl", "setuser", "shop", "on", ">geheim", "~shop:*", "+@all"]).contains("OK"));
    let limits = "{rate: 5/h, shared: true}";
    let with =
        |user: &str| format!("{{url: \"redis://{user}@127.0.0.1:{}/3\", key_prefix: \"shop:\"}}", redis.port);
    let instances = Instances::start(1, &with("shop:geheim"), limits).met();
    assert_eq!(passed(&instances.ask(6)), 5);
    assert!(redis.cli(&["-n", "3", "keys", "*"]).contains("shop:"));
    let stranger = Instances::start(1, &with("shop:falsch"), limits);
    let parvis = &stranger.all[0];
    eventually("it is told", || parvis.errors().contains("is left alone"));
    let told =
        [parvis.errors(), ready(parvis).text(), parvis.admin("GET", "/stats", None, "").text()].concat();
    assert!(!told.contains("falsch") && !told.contains("geheim"), "{told}");
    assert_eq!(passed(&stranger.ask(6)), 5, "by itself");
}

#[test]
fn a_redis_may_listen_on_a_socket_and_be_named_by_the_environment() {
    let directory = Directory::new();
    let socket = directory.path().join("redis.sock");
    let redis = Redis::with(&["--unixsocket", socket.to_str().unwrap()]);
    let url = format!("unix://{}", socket.display());
    let instances = Instances::start(1, &format!("{{url: \"{url}\"}}"), "{rate: 5/h, shared: true}").met();
    assert_eq!(passed(&instances.ask(6)), 5);
    assert!(redis.cli(&["keys", "*"]).contains("rate:"));
    let yaml =
        "storage: {redis: {}}\nupstreams: {app: {servers: [\"127.0.0.1:1\"]}}\nroutes: [{name: all}]\n";
    let file = directory.write("config.yaml", yaml);
    let check = |environment: &[(&str, &str)]| command(&["check", "-c", file.to_str().unwrap()], environment);
    assert!(check(&[("REDIS_URL", &url)]).status.success());
    let unnamed = check(&[]);
    assert!(!unnamed.status.success());
    assert!(String::from_utf8_lossy(&unnamed.stderr).contains("no Redis is named"));
}

#[test]
fn the_check_tells_what_would_surprise_and_no_secret() {
    let directory = Directory::new();
    let check = |redis: &str| {
        let yaml = format!(
            "storage: {{redis: {redis}}}\nupstreams: {{app: {{servers: [\"127.0.0.1:1\"]}}}}\nroutes: [{{name: all}}]\n"
        );
        let file = directory.write("config.yaml", &yaml);
        let output = command(&["redis", "check", "-c", file.to_str().unwrap()], &[]);
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), told)
    };
    let redis = Redis::start();
    redis.cli(&["config", "set", "requirepass", "geheim"]);
    let (code, told) = check(&format!("{{url: \"redis://:geheim@127.0.0.1:{}\"}}", redis.port));
    assert_eq!(code, Some(0), "{told}");
    for text in [
        "connected   127.0.0.1:",
        "latency  ",
        "scripts     may",
        "purges      0 entries in the log, which is followed by nobody",
        "version  ",
        "master",
        "nothing limits its memory",
        "what it holds when it restarts is used by nobody",
    ] {
        assert!(told.contains(text), "no `{text}` in\n{told}");
    }
    redis.cli(&["-a", "geheim", "config", "set", "maxmemory-policy", "allkeys-lru"]);
    let (_, evicts) = check(&format!("{{url: \"redis://:geheim@127.0.0.1:{}\"}}", redis.port));
    assert!(evicts.contains("it may evict the log of purges"), "{evicts}");
    let (code, refused) = check(&format!("{{url: \"redis://:falsch@127.0.0.1:{}\"}}", redis.port));
    assert_eq!(code, Some(1), "{refused}");
    assert!(![told, refused].concat().contains("geheim"));
    let cluster = Cluster::start();
    let (code, told) = check(&format!("{{url: {}, cluster: true}}", cluster.urls()));
    assert_eq!((code, told.matches("slots       16384 of 16384").count()), (Some(0), 3), "{told}");
}

#[test]
fn by_tls_it_is_who_it_says_or_is_left_alone() {
    let directory = Directory::new();
    let authority = Authority::new(directory.path());
    let (certificate, key) = authority.sign("redis", &["localhost"]);
    let port = free_port();
    let (ca, tls_port) = (authority.file(), port.to_string());
    let files = [&certificate, &key, &ca].map(|file| file.to_str().unwrap());
    let options = ["--tls-port", &tls_port, "--tls-cert-file", files[0], "--tls-key-file", files[1]];
    let redis =
        Redis::with(&[&options[..], &["--tls-ca-cert-file", files[2], "--tls-auth-clients", "no"]].concat());
    let url = |more: &str| format!("{{url: \"rediss://localhost:{port}\"{more}}}");
    let limits = "{rate: 5/h, shared: true}";
    let instances = Instances::start(1, &url(&format!(", ca: \"{}\"", files[2])), limits).met();
    assert_eq!(passed(&instances.ask(6)), 5);
    assert!(redis.cli(&["keys", "*"]).contains("rate:"));
    let strangers = Instances::start(1, &url(""), limits);
    eventually("it is told", || strangers.all[0].errors().contains("is left alone"));
    assert_eq!(passed(&strangers.ask(6)), 5, "by itself");
}

#[test]
fn a_limit_that_a_reload_shares_counts_alone_until_the_next_start() {
    let origin = Origin::start();
    origin.on("/", Reply::ok("page"));
    let yaml = |redis: &str, limit: &str| {
        format!(
            "{redis}upstreams: {{app: {{servers: [\"{}\"]}}}}\nroutes: [{{name: page, rate_limit: {{rate: 3/h{limit}}}}}]\n",
            origin.address
        )
    };
    let parvis =
        Parvis::start(&format!("listen: {{listen}}\nadmin: {{listen: {{admin}}}}\n{}", yaml("", "")));
    let before = std::fs::read_to_string(&parvis.config).unwrap();
    let listeners: String = before.lines().take(2).map(|line| format!("{line}\n")).collect();
    let redis = "storage: {redis: {url: \"redis://127.0.0.1:1\"}}\n";
    for (limit, statuses) in
        [(", shared: true", [200, 200, 200, 429]), (", shared: true, on_error: closed", [503; 4])]
    {
        std::fs::write(&parvis.config, listeners.clone() + &yaml(redis, limit)).unwrap();
        let reloads = || parvis.metric("parvis_reloads_total", "result=\"ok\"");
        let done = reloads();
        parvis.signal("HUP");
        eventually("it is reloaded", || reloads() > done);
        let got: Vec<u16> = (0..4).map(|_| parvis.client().get("/").status).collect();
        assert_eq!(got, statuses, "{limit}");
    }
    assert_eq!(parvis.errors().matches("storage.redis").count(), 2, "each time it is told");
}
