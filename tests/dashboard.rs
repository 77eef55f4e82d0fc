//! The page of the admin listener, in a browser.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::peers::Peers;
use crate::support::redis::Redis;
use crate::support::{Directory, Origin, PATIENCE, Parvis, Reply, eventually};

/// The document as the browser has it once the page has asked for its figures.
fn shown(parvis: &Parvis, directory: &Directory) -> String {
    let out = directory.path().join("page.html");
    let mut browser = Command::new("chromium")
        // As root, in a container: what it shows is ours.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
        .arg(format!("http://{}/", parvis.admin))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromium, which `scripts/setup test` installs");
    let started = Instant::now();
    while browser.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            browser.kill().unwrap();
            browser.wait().unwrap();
            panic!("the browser did not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::fs::read_to_string(out).unwrap()
}

#[test]
fn a_browser_shows_how_servers_routes_and_store_stand() {
    let (origin, directory) = (Origin::start(), Directory::new());
    origin.on("/page", Reply::ok("page"));
    let dead = "127.0.0.1:1";
    let parvis = Parvis::start(&format!(
        "listen: {{listen}}\nadmin: {{listen: {{admin}}}}\ninstance: web-1\nstorage: {{redis: {{url: \"redis://{dead}\"}}}}\nupstreams:\n  app: {{servers: [\"{}\"]}}\n  gone: {{servers: [\"{dead}\"], circuit_breaker: {{max_fails: 1, fail_timeout: 1h}}, retries: {{attempts: 0}}}}\nroutes:\n  - {{name: pages, match: {{path: /page}}, upstream: app, cache: {{ttl: 1m}}}}\n  - {{name: gone, upstream: gone}}\n",
        origin.address
    ));
    (0..4).for_each(|_| assert_eq!(parvis.client().get("/page").status, 200));
    assert_eq!(parvis.client().get("/gone").status, 502);
    eventually("the Redis is found dead", || {
        parvis.admin("GET", "/readyz", None, "").text().contains("refused")
    });
    eventually("all is counted", || parvis.metric("parvis_requests_total", "") == 5.0);
    let page = shown(&parvis, &directory);
    let origin = origin.address.to_string();
    for text in [
        "as of ",
        ">web-1<",
        "1 entries",
        "The Redis is left alone: Connection refused",
        "75.0 %",
        "hit 3, miss 1",
        &format!("<td>{origin}</td><td class=\"up\">up</td>"),
        &format!("<td>{dead}</td><td class=\"open\">open</td>"),
    ] {
        assert!(page.contains(text), "no `{text}` in\n{page}");
    }
}

#[test]
fn a_browser_shows_what_instances_share() {
    let (redis, directory) = (Redis::start(), Directory::new());
    let peers = Peers::start(2, &redis, "routes: [{name: pages, cache: {ttl: 1h}}]");
    peers.origin.on("/a", Reply::ok("page"));
    peers.get(0, "/a");
    peers.written(0, 1.0);
    assert_eq!(peers.get(1, "/a").detail(), "redis");
    eventually("they know one another", || peers.all[1].metric("parvis_instances", "") == 2.0);
    let page = shown(&peers.all[1], &directory);
    for text in ["2 instances share the Redis: 100.0 % of 1 pages", "purges: in touch, 0 ms behind"] {
        assert!(page.contains(text), "no `{text}` in\n{page}");
    }
    let stats = peers.all[1].admin("GET", "/stats", None, "").text();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["redis"]["recalls"]["hit"], 1, "{stats}");
}

#[test]
fn the_page_may_do_nothing_but_ask() {
    let parvis = Parvis::start(
        "listen: {listen}\nadmin: {listen: {admin}}\nupstreams: {app: {servers: [\"127.0.0.1:1\"]}}\nroutes: [{name: all}]\n",
    );
    for path in ["/", "/dashboard.js", "/dashboard.css"] {
        let response = parvis.admin("GET", path, None, "");
        assert_eq!(response.status, 200, "{path}");
        let policy = response.field("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
        assert_eq!(parvis.admin("POST", path, None, "").status, 405, "{path}");
    }
}
