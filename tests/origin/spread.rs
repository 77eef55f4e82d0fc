//! Which server gets a request.

use super::{PASSING, Servers, started};
use crate::support::{Gate, Origin, Reply, eventually};

#[test]
fn turns_are_by_weight_and_a_backup_only_helps_out() {
    let origins: Vec<Origin> = (0..3).map(|_| Origin::start()).collect();
    for origin in &origins {
        origin.on("/", Reply::ok("x"));
    }
    let servers = format!(
        "{{address: \"{}\", weight: 3}}, \"{}\", {{address: \"{}\", backup: true}}",
        origins[0].address, origins[1].address, origins[2].address
    );
    let parvis = started(&servers, "retries: {attempts: 2}", PASSING);
    for _ in 0..8 {
        assert_eq!(parvis.client().get("/").status, 200);
    }
    let counts = |path| origins.iter().map(|origin| origin.count(path)).collect::<Vec<_>>();
    assert_eq!(counts("/"), [6, 2, 0]);
    origins[0].stop();
    origins[1].stop();
    for _ in 0..20 {
        assert_eq!(parvis.client().send("POST", "/", &[], b"x").status, 200);
    }
    assert_eq!(counts("/"), [6, 2, 20]);
}

#[test]
fn the_server_with_the_fewest_under_way_gets_the_next() {
    let servers = Servers::new(2, "load_balancing: least_conn", PASSING);
    let gate = Gate::new();
    for origin in &servers.origins {
        origin.on("/slow", Reply::ok("slow").behind(&gate));
        origin.on("/", Reply::ok("quick"));
    }
    let slow = servers.crowd(1, "/slow");
    eventually("it is under way", || servers.counts("/slow").iter().sum::<usize>() == 1);
    // A client may have its answer a moment before the server counts as free.
    let under_way = || servers.parvis.metric("parvis_upstream_requests", "");
    for _ in 0..6 {
        eventually("only the slow one is under way", || under_way() == 1.0);
        assert_eq!(servers.get("/").text(), "quick");
    }
    let (slow_at, quick_at) = (servers.counts("/slow"), servers.counts("/"));
    assert_eq!(slow_at.iter().zip(&quick_at).map(|(slow, quick)| slow * quick).sum::<usize>(), 0);
    gate.open();
    assert_eq!(slow.recv().unwrap().text(), "slow");
}

#[test]
fn the_same_session_goes_to_the_same_server() {
    let settings = "load_balancing: hash, hash_by: \"cookie:sessionid\"";
    let servers = Servers::new(3, settings, PASSING);
    for (number, origin) in servers.origins.iter().enumerate() {
        origin.on("/", Reply::ok(number.to_string()));
    }
    let ask = |session: usize| {
        let cookie = format!("theme=dark; sessionid={session}");
        servers.parvis.client().send("GET", "/", &[("Cookie", &cookie)], b"").text()
    };
    let first: Vec<String> = (0..30).map(ask).collect();
    assert_eq!((0..30).map(ask).collect::<Vec<_>>(), first);
    assert!(servers.counts("/").iter().all(|count| *count > 0), "{:?}", servers.counts("/"));
    // What the others had stays where it is.
    servers.origins[0].stop();
    for (session, before) in first.iter().enumerate().filter(|(_, server)| *server != "0") {
        assert_eq!(&ask(session), before);
    }
    assert!((0..30).map(ask).all(|server| server != "0"));
}
