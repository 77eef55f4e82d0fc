//! Purges: through the admin listener, the command line, the main listener.

mod api;
mod clients;
mod fence;
mod tags;

use serde_json::json;

use crate::support::process::command;
use crate::support::{ALL_SECRET, PURGE_SECRET, Reply, Rig, eventually};

const ROUTES: &str = "routes:
  - {name: products, match: {path: /products/*}, cache: {ttl: 5m, tags: [products, shop]}}
  - {name: all, cache: {ttl: 5m, tags: [shop]}}";

const PAGES: &[&str] = &["/products/1", "/products/2", "/products/2?x=1", "/about", "/"];

fn stored() -> Rig {
    let rig = Rig::new(ROUTES);
    for page in PAGES {
        rig.origin.on(page.split('?').next().unwrap(), Reply::ok("0123456789"));
        rig.get(page);
    }
    rig
}

/// The pages that are not stored any longer.
fn gone(rig: &Rig) -> Vec<&'static str> {
    PAGES.iter().copied().filter(|page| rig.get(page).verdict() == "miss").collect()
}

#[test]
fn a_selector_removes_what_it_names_and_nothing_else() {
    for (body, expected) in [
        (json!({"urls": ["/products/2"]}), &["/products/2"][..]),
        (json!({"urls": ["http://SHOP.test:80/products/2?x=1"]}), &["/products/2?x=1"]),
        (json!({"urls": ["http://other.test/about"]}), &[]),
        (json!({"prefixes": ["/products/"]}), &["/products/1", "/products/2", "/products/2?x=1"]),
        (json!({"prefixes": ["http://shop.test/ab"]}), &["/about"]),
        (json!({"tags": ["products"]}), &["/products/1", "/products/2", "/products/2?x=1"]),
        (json!({"tags": ["product"]}), &[]),
        (json!({"urls": ["/"], "tags": ["nothing"], "prefixes": ["/about"]}), &["/about", "/"]),
        (json!({"all": true}), PAGES),
    ] {
        let rig = stored();
        let answer = rig.purge(&body.to_string());
        assert_eq!(answer["entries"], expected.len(), "{body} {answer}");
        assert!(expected.is_empty() || answer["bytes"].as_u64() > Some(0));
        assert_eq!(gone(&rig), expected, "{body}");
    }
}

#[test]
fn the_answer_tells_what_each_selector_removed() {
    let rig = stored();
    let answer = rig.purge(r#"{"urls": ["/about"], "tags": ["shop", "nothing"]}"#);
    let removed: Vec<(String, u64)> = answer["selectors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["selector"].as_str().unwrap().to_owned(), one["entries"].as_u64().unwrap()))
        .collect();
    assert_eq!(removed, [("url /about".into(), 1), ("tag shop".into(), 4), ("tag nothing".into(), 0)]);
    let again = rig.purge(r#"{"tags": ["shop"]}"#);
    assert_eq!(again["sequence"].as_u64().unwrap(), answer["sequence"].as_u64().unwrap() + 1);
}

#[test]
fn whoever_may_not_purge_is_told_why_and_noted() {
    let rig = stored();
    let ask = |secret: Option<&str>, body: &str| rig.parvis.admin("POST", "/purge", secret, body);
    let tag = r#"{"tags": ["shop"]}"#;
    for (secret, body, status) in [
        (None, tag, 401),
        (Some("wrong-secret-0123456789"), tag, 401),
        (Some(""), tag, 401),
        (Some(PURGE_SECRET), r#"{"all": true}"#, 403),
    ] {
        let refused = ask(secret, body);
        assert_eq!(refused.status, status, "{}", refused.text());
        let answer: serde_json::Value = serde_json::from_str(&refused.text()).unwrap();
        assert!(answer["error"].is_string() && answer["remedy"].is_string(), "{answer}");
        assert_eq!(refused.field("www-authenticate").is_some(), status == 401);
    }
    assert_eq!(gone(&rig), [] as [&str; 0]);
    assert_eq!(ask(Some(PURGE_SECRET), tag).status, 200);
    eventually("every attempt is in the audit log", || {
        let log = rig.parvis.errors();
        log.matches("parvis::audit").count() == 5
            && log.contains("by=\"ci\"")
            && log.contains("by=\"unknown\"")
    });
    let log = rig.parvis.errors();
    for secret in [PURGE_SECRET, ALL_SECRET, "wrong-secret"] {
        assert!(!log.contains(secret), "a secret in the log: {log}");
    }
}

#[test]
fn a_purge_with_a_mistake_removes_nothing() {
    let rig = stored();
    let many = json!({"tags": vec!["x"; 1001]}).to_string();
    let large = format!(r#"{{"tags": ["{}"]}}"#, "x".repeat(2 << 20));
    for (body, status, says) in [
        ("", 400, "not a JSON object"),
        ("[]", 400, "not a JSON object"),
        (r#"{"tags": ["shop"], "tags": ["x"]}"#, 400, "duplicate field"),
        ("{}", 400, "nothing to purge"),
        (r#"{"tags": []}"#, 400, "nothing to purge"),
        (r#"{"tag": ["shop"]}"#, 400, "unknown field `tag`"),
        (r#"{"tags": "shop"}"#, 400, "invalid type"),
        (r#"{"tags": ["shop"], "urls": ["about"]}"#, 400, "`about`"),
        (r#"{"tags": ["shop"], "prefixes": ["/a?b"]}"#, 400, "query"),
        (many.as_str(), 400, "at most 1000"),
        (large.as_str(), 413, "length"),
    ] {
        let refused = rig.parvis.admin("POST", "/purge", Some(ALL_SECRET), body);
        assert_eq!(refused.status, status, "{}", refused.text());
        assert!(refused.text().contains(says), "{says}: {}", refused.text());
    }
    assert_eq!(rig.parvis.admin("GET", "/purge", Some(ALL_SECRET), "").status, 405);
    assert_eq!(rig.parvis.admin("GET", "/nothing", None, "").status, 404);
    assert_eq!(gone(&rig), [] as [&str; 0]);
}

#[test]
fn the_public_listener_does_not_purge_and_the_admin_listener_does_not_proxy() {
    let rig = stored();
    rig.origin.on("/purge", Reply::ok("the application's own"));
    assert_eq!(rig.send("POST", "/purge", r#"{"all": true}"#).text(), "the application's own");
    assert_eq!(rig.get("/metrics").status, 404);
    assert_eq!(rig.parvis.admin("GET", "/about", None, "").status, 404);
    assert_eq!(gone(&rig), [] as [&str; 0]);
}

#[test]
fn the_command_line_purges_and_its_exit_code_tells_how_it_went() {
    let rig = stored();
    let admin = format!("http://{}", rig.parvis.admin);
    let run = |arguments: &[&str], token: Option<&str>| {
        let arguments = [&["purge", "--admin", &admin], arguments].concat();
        let environment: Vec<_> = token.map(|token| ("PARVIS_TOKEN", token)).into_iter().collect();
        let output = command(&arguments, &environment);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, _) = run(&["--tag", "products", "--url", "/about"], Some(PURGE_SECRET));
    assert_eq!(code, Some(0));
    assert!(out.contains("url /about") && out.contains("tag products") && out.contains("4 entries"), "{out}");
    rig.get("/products/1");
    let dry = ["--wildcard", "/prod*", "--host", "other.test", "--regex", "^/pro.*1$", "--dry-run"];
    let (code, out, _) = run(&dry, Some(PURGE_SECRET));
    assert_eq!(code, Some(0));
    assert!(out.contains("dry run") && out.contains("at most 1 more request"), "{out}");
    let (_, out, _) = run(&["--wildcard", "/*/1", "--soft"], Some(PURGE_SECRET));
    assert!(out.contains("wildcard /*/1") && out.contains("1 entries") && out.contains("expired"), "{out}");
    assert_eq!(rig.get("/products/1").verdict(), "revalidate");
    run(&["--prefix", "/products/"], Some(PURGE_SECRET));
    let (code, out, _) = run(&["--all", "--json"], Some(ALL_SECRET));
    assert_eq!(
        (code, serde_json::from_str::<serde_json::Value>(&out).unwrap()["entries"].as_u64()),
        (Some(0), Some(1))
    );
    for (arguments, token, code, says) in [
        (&["--tag", "x"][..], Some("wrong-secret-0123456789"), 1, "401"),
        (&["--all"][..], Some(PURGE_SECRET), 1, "purge_all"),
        (&["--tag", "a,b"][..], Some(PURGE_SECRET), 2, "one --tag per tag"),
        (&["--url", "about"][..], Some(PURGE_SECRET), 1, "must begin with"),
        (&["--tag", "a b"][..], Some(PURGE_SECRET), 2, "one --tag per tag"),
        (&["--tag", "x"][..], None, 2, "PARVIS_TOKEN"),
        (&[][..], Some(PURGE_SECRET), 2, "--tag"),
        (&["--tag", "x", "--token-file", "/nonexistent"][..], None, 2, "/nonexistent"),
    ] {
        let (found, _, errors) = run(arguments, token);
        assert_eq!(found, Some(code), "{arguments:?} {errors}");
        assert!(errors.contains(says), "{says}: {errors}");
    }
    let output = command(&["purge", "--admin", "localhost:9180", "--all"], &[("PARVIS_TOKEN", PURGE_SECRET)]);
    assert_eq!(output.status.code(), Some(2), "no scheme");
    let nobody = format!("http://127.0.0.1:{}", crate::support::free_port());
    let output = command(&["purge", "--admin", &nobody, "--tag", "x"], &[("PARVIS_TOKEN", PURGE_SECRET)]);
    assert_eq!(output.status.code(), Some(1));
}
