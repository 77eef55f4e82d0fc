//! Asking servers whether they are well.

use super::{PASSING, Servers, states};
use crate::support::{Reply, eventually};

#[test]
fn a_server_that_fails_its_checks_gets_no_requests_until_it_passes_them() {
    let settings = "health_check: {uri: \"/health?deep=1\", host: check.test, interval: 50ms, timeout: 1s, fails: 2, passes: 2, body: fine}";
    let servers = Servers::new(2, settings, PASSING);
    for origin in &servers.origins {
        origin.on("/", Reply::ok("x"));
        origin.on("/health", Reply::ok("all is fine"));
    }
    eventually("both are well", || states(&servers.parvis, "up") == 2.0);
    for (bad, why) in [
        (Reply::status(500, "fine"), "the answer is 500"),
        (Reply::ok("not well"), "the answer does not contain `fine`"),
        (Reply::script().then_close(), "fails its checks"),
    ] {
        servers.origins[0].on("/health", bad);
        eventually("one is down", || states(&servers.parvis, "down") == 1.0);
        assert!(servers.parvis.errors().contains(why), "{why}");
        let before = servers.origins[0].count("/");
        (0..4).for_each(|_| assert_eq!(servers.get("/").status, 200));
        assert_eq!(servers.origins[0].count("/"), before);
        servers.origins[0].on("/health", Reply::ok("fine again"));
        eventually("it is well", || states(&servers.parvis, "up") == 2.0);
        (0..4).for_each(|_| assert_eq!(servers.get("/").status, 200));
        assert_eq!(servers.origins[0].count("/"), before + 2);
    }
    let stats = servers.parvis.admin("GET", "/stats", None, "");
    let stats: serde_json::Value = serde_json::from_str(&stats.text()).unwrap();
    assert_eq!(
        (&stats["upstreams"]["app"]["waiting"], &stats["upstreams"]["app"]["servers"][1]["state"]),
        (&0.into(), &"up".into())
    );
    assert!(stats["store"]["capacity"].as_u64() > Some(0), "{stats}");
    let asked = servers.origins[0].received("/health").pop().unwrap();
    assert_eq!(
        (asked.target.as_str(), asked.field("host").as_deref()),
        ("/health?deep=1", Some("check.test"))
    );
    let told = servers.parvis.errors();
    assert_eq!(told.matches("a server fails its checks").count(), 3, "each is told once: {told}");
    assert_eq!(told.matches("a server passes its checks again").count(), 3, "{told}");
}

#[test]
fn with_no_server_well_requests_are_refused_and_a_reload_begins_anew() {
    let settings = "health_check: {uri: /health, interval: 50ms, fails: 1, passes: 1}";
    let servers = Servers::new(1, settings, PASSING);
    servers.origins[0].on("/", Reply::ok("x"));
    servers.origins[0].on("/health", Reply::status(503, "starting"));
    eventually("it is down", || states(&servers.parvis, "down") == 1.0);
    assert_eq!(servers.get("/").detail(), "no-server");
    let yaml = std::fs::read_to_string(&servers.parvis.config).unwrap();
    std::fs::write(
        &servers.parvis.config,
        yaml.replace("health_check: {uri: /health, interval: 50ms, fails: 1, passes: 1}", "max_conns: 5"),
    )
    .unwrap();
    servers.parvis.signal("HUP");
    eventually("nobody asks any longer", || servers.get("/").status == 200);
    let asked = servers.origins[0].count("/health");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(servers.origins[0].count("/health") <= asked + 1);
}
