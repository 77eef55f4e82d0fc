//! `POST /purge` beyond its selectors: trial runs, retries, what is recorded, and for whom.

use serde_json::{Value, json};

use super::{PAGES, gone, stored};
use crate::support::{ALL_SECRET, Client, Directory, PURGE_SECRET, Parvis, Reply, Response, Rig, eventually};

fn value(response: &Response) -> Value {
    serde_json::from_str(&response.text()).unwrap()
}

#[test]
fn hosts_wildcards_and_expressions_name_what_they_say() {
    for (body, expected) in [
        (json!({"hosts": ["shop.test"]}), PAGES),
        (json!({"hosts": ["other.test"]}), &[][..]),
        (json!({"wildcards": ["/prod*/2*"]}), &["/products/2", "/products/2?x=1"]),
        (json!({"wildcards": ["http://*.test/about"]}), &["/about"]),
        (json!({"regex": ["^/products/2$"]}), &["/products/2"]),
        (json!({"regex": ["x=1", "(?i)ABOUT"]}), &["/products/2?x=1", "/about"]),
        (json!({"regex": ["^/products/.*"]}), &["/products/1", "/products/2", "/products/2?x=1"]),
    ] {
        let rig = stored();
        let answer = rig.purge(&body.to_string());
        assert_eq!(answer["entries"], expected.len(), "{body} {answer}");
        assert_eq!(gone(&rig), expected, "{body}");
    }
}

#[test]
fn a_dry_run_tells_what_would_go_and_removes_nothing() {
    let rig = stored();
    rig.purge(r#"{"urls": ["/about"], "soft": true}"#);
    let body = r#"{"prefixes": ["/products/"], "regex": ["^/a"], "dry_run": true}"#;
    let answer = rig.purge(body);
    assert_eq!((&answer["entries"], &answer["origin_requests"]), (&4.into(), &3.into()), "{answer}");
    assert_eq!(answer["selectors"][1]["entries"], 1);
    assert!(answer["bytes"].as_u64() > Some(0) && answer.get("sequence").is_none(), "{answer}");
    let examples = answer["examples"].as_array().unwrap();
    assert!(examples.contains(&"http://shop.test/products/2?x=1".into()), "{answer}");
    assert_eq!(answer["instances"], json!([]));
    rig.get("/about");
    assert_eq!(gone(&rig), [] as [&str; 0]);
    assert_eq!(rig.purge(r#"{"prefixes": ["/products/"], "regex": ["^/a"]}"#)["entries"], 4);
}

#[test]
fn a_purge_that_is_sent_again_with_its_key_is_not_carried_out_again() {
    let rig = stored();
    let ask = |key: &str, body: &str| {
        let bearer = format!("Bearer {ALL_SECRET}");
        let fields = [("Authorization", bearer.as_str()), ("Idempotency-Key", key), ("Connection", "close")];
        Client::new(rig.parvis.admin).send("POST", "/purge", &fields, body.as_bytes())
    };
    let body = r#"{"tags": ["shop"]}"#;
    let first = ask("deploy-1", body);
    assert_eq!((first.status, first.field("idempotency-replayed")), (200, None));
    assert_eq!(gone(&rig), PAGES, "and they are stored again");
    let again = ask("deploy-1", body);
    assert_eq!((again.text(), again.field("idempotency-replayed").as_deref()), (first.text(), Some("true")));
    assert_eq!(gone(&rig), [] as [&str; 0]);
    let other = ask("deploy-1", r#"{"all": true}"#);
    assert_eq!((other.status, other.text().contains("new key")), (422, true), "{}", other.text());
    assert_eq!(ask("", body).status, 400);
    assert_eq!(ask(&"k".repeat(256), body).status, 400);
    assert_eq!(ask("deploy-2", r#"{"tag": []}"#).status, 400);
    assert_eq!(gone(&rig), [] as [&str; 0]);
    assert_eq!(ask("deploy-2", body).status, 200, "a refused purge has not used its key up");
    assert_eq!(gone(&rig), PAGES);
}

#[test]
fn more_mistakes_that_remove_nothing() {
    let rig = stored();
    let patterns = json!({"regex": vec!["^/a[b]"; 51]}).to_string();
    for (body, says) in [
        (r#"{"regex": ["("]}"#, "malformed regular expression"),
        (r#"{"regex": ["(a{99}){99}{99}"]}"#, "malformed regular expression"),
        (r#"{"regex": [""]}"#, "say `all`"),
        (r#"{"tags": ["shop"], "regex": ["[z-a]"]}"#, "[z-a]"),
        (r#"{"wildcards": ["about*"]}"#, "must begin with"),
        (r#"{"hosts": ["http://shop.test"]}"#, "not a host"),
        (r#"{"urls": ["http://user@shop.test/"]}"#, "not a host"),
        (r#"{"tags": ["shop"], "soft": "yes"}"#, "invalid type"),
        (r#"{"all": "true"}"#, "invalid type"),
        (patterns.as_str(), "at most 50"),
    ] {
        let refused = rig.parvis.admin("POST", "/purge", Some(ALL_SECRET), body);
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.text().contains(says), "{says}: {}", refused.text());
    }
    let long = json!({"regex": [format!("/{}", "a".repeat(8192))]}).to_string();
    assert!(rig.parvis.admin("POST", "/purge", Some(ALL_SECRET), &long).text().contains("8192"));
    for everything in
        [r#"{"prefixes": ["/"]}"#, r#"{"wildcards": ["/**"]}"#, r#"{"regex": [".*"]}"#, r#"{"regex": ["."]}"#]
    {
        let refused = rig.parvis.admin("POST", "/purge", Some(PURGE_SECRET), everything);
        assert_eq!((refused.status, refused.text().contains("purge_all")), (403, true), "{everything}");
    }
    assert_eq!(gone(&rig), [] as [&str; 0]);
}

#[test]
fn every_purge_is_recorded_and_the_file_outlives_the_process() {
    let directory = Directory::new();
    let file = directory.path().join("purges.jsonl");
    let yaml = format!(
        "listen: \"{{listen}}\"\ninstance: web-7\nadmin: {{listen: \"{{admin}}\", audit_log: {}, tokens: [
  {{name: ci, secret: {PURGE_SECRET}, scopes: [purge]}},
  {{name: reader, secret: {ALL_SECRET}, scopes: [read]}}]}}
upstreams: {{app: {{servers: [\"127.0.0.1:1\"]}}}}\nroutes: [{{name: all}}]",
        file.display()
    );
    let ask = |parvis: &Parvis, secret: &str, body: &str| parvis.admin("POST", "/purge", Some(secret), body);
    let parvis = Parvis::start(&yaml);
    let answer = ask(&parvis, PURGE_SECRET, r#"{"tags": ["a", "b"], "soft": true}"#);
    assert_eq!(value(&answer)["instances"], json!([{"instance": "web-7", "entries": 0}]));
    assert_eq!(ask(&parvis, ALL_SECRET, r#"{"tags": ["a"]}"#).status, 403, "it may only read");
    assert_eq!(parvis.admin("GET", "/purges", Some(PURGE_SECRET), "").status, 403);
    assert_eq!(parvis.admin("GET", "/purges", None, "").status, 401);
    assert_eq!(parvis.admin("GET", "/purges?limit=x", Some(ALL_SECRET), "").status, 400);
    drop(parvis);
    let parvis = Parvis::start(&yaml);
    assert_eq!(ask(&parvis, PURGE_SECRET, r#"{"urls": ["/"]}"#).status, 200);
    let recorded = value(&parvis.admin("GET", "/purges", Some(ALL_SECRET), ""));
    let told: Vec<_> = recorded
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["by"].clone(), entry["selectors"].clone(), entry["soft"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            (json!("ci"), json!(["url /"]), json!(false)),
            (json!("ci"), json!(["tag a", "tag b"]), json!(true))
        ]
    );
    assert_eq!((&recorded[0]["cause"], &recorded[1]["selector_count"]), (&json!("api"), &json!(2)));
    assert!(recorded[0]["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(
        value(&parvis.admin("GET", "/purges?limit=1", Some(ALL_SECRET), "")).as_array().unwrap().len(),
        1
    );
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().count(), 2);
    assert!(!lines.contains(PURGE_SECRET) && !parvis.errors().contains(PURGE_SECRET));
}

#[test]
fn a_token_can_be_stored_as_its_digest() {
    // Of `hashed-secret-0123456789`.
    let digest = "da30aff6b871d87a49cbd714b66ed166eb2479e39b5d6a080bb8a78fff208155";
    let origin = crate::support::Origin::start();
    let yaml = format!(
        "listen: \"{{listen}}\"\nadmin: {{listen: \"{{admin}}\", tokens: [{{name: ci, sha256: {digest}, scopes: [purge]}}]}}
upstreams: {{app: {{servers: [\"{}\"]}}}}\nroutes: [{{name: all}}]",
        origin.address
    );
    let parvis = Parvis::start(&yaml);
    let ask = |secret: &str| parvis.admin("POST", "/purge", Some(secret), r#"{"tags": ["a"]}"#).status;
    assert_eq!(
        (ask("hashed-secret-0123456789"), ask("hashed-secret-012345678"), ask(digest)),
        (200, 401, 401)
    );
}

#[test]
fn an_audit_log_that_cannot_be_written_keeps_parvis_from_starting() {
    let directory = Directory::new();
    let (listen, admin) = (crate::support::free_port(), crate::support::free_port());
    let yaml = format!(
        "listen: 127.0.0.1:{listen}\nadmin: {{listen: 127.0.0.1:{admin}, audit_log: /nonexistent/purges.jsonl}}
upstreams: {{app: {{servers: [\"127.0.0.1:2\"]}}}}\nroutes: [{{name: all}}]"
    );
    let config = directory.write("config.yaml", &yaml);
    let output = crate::support::process::command(&["run", "-c", config.to_str().unwrap()], &[]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("cannot write the audit log /nonexistent/purges.jsonl"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn purges_at_the_same_time_all_take_effect() {
    let rig = Rig::new("routes: [{name: all, cache: {ttl: 5m}}]");
    for n in 0..40 {
        rig.origin.on(&format!("/{n}"), Reply::ok("x").field("xkey", &format!("t{n}")));
        rig.get(&format!("/{n}"));
    }
    std::thread::scope(|scope| {
        for n in 0..20 {
            let rig = &rig;
            let body = match n % 2 {
                0 => json!({"tags": [format!("t{n}")]}),
                _ => json!({"regex": [format!("^/{n}$")]}),
            };
            scope.spawn(move || assert_eq!(rig.purge(&body.to_string())["entries"], 1, "{body}"));
        }
    });
    let hits = (0..40).filter(|n| rig.get(&format!("/{n}")).verdict() == "hit").count();
    assert_eq!(hits, 20);
    eventually("all bans are lifted", || rig.parvis.metric("parvis_bans", "") == 0.0);
}

#[test]
fn a_purge_whose_client_leaves_is_carried_through_recorded_and_answered_with_its_key() {
    let rig = stored();
    let body = r#"{"tags": ["shop"], "regex": ["^/about$"]}"#;
    let head = format!(
        "POST /purge HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALL_SECRET}\r\nIdempotency-Key: 1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let send_and_leave = || {
        let mut connection = Client::new(rig.parvis.admin).connect();
        connection.write([head.as_bytes(), body.as_bytes()].concat().as_slice());
    };
    let recorded =
        || value(&rig.parvis.admin("GET", "/purges", Some(ALL_SECRET), "")).as_array().unwrap().len();
    // Who is gone before the request is looked at has purged nothing, and asks again with the same key.
    eventually("it is recorded", || {
        send_and_leave();
        recorded() == 1
    });
    eventually("it is carried out", || rig.parvis.metric("parvis_purged_entries_total", "") == 5.0);
    assert_eq!(gone(&rig), PAGES, "and they are stored again");
    let bearer = format!("Bearer {ALL_SECRET}");
    let fields = [("Authorization", bearer.as_str()), ("Idempotency-Key", "1"), ("Connection", "close")];
    let ask = || Client::new(rig.parvis.admin).send("POST", "/purge", &fields, body.as_bytes());
    eventually("it is answered", || ask().status != 409);
    let again = ask();
    assert_eq!(again.field("idempotency-replayed").as_deref(), Some("true"), "{}", again.text());
    assert_eq!((gone(&rig).len(), recorded()), (0, 1));
}

#[test]
fn a_purge_of_one_thing_many_times_over_names_it_once() {
    let rig = stored();
    let answer = rig.purge(&json!({"tags": vec!["shop"; 1000]}).to_string());
    assert_eq!((&answer["entries"], &answer["selectors"][999]["entries"]), (&5.into(), &0.into()));
}
