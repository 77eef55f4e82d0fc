//! How often a client may ask, and who may ask at all: of the application and of the store alike.

use crate::support::{Gate, Reply, Response, Rig, eventually};

fn from(rig: &Rig, client: &str, method: &str, path: &str) -> Response {
    rig.parvis.client().send(method, path, &[("X-Forwarded-For", client)], b"")
}

fn rig(route: &str) -> Rig {
    let rig = Rig::new(&format!(
        "trusted_proxies: [127.0.0.0/8]\nroutes: [{{name: api, cache: {{ttl: 1h}}, {route}}}]"
    ));
    rig.origin.on("/", Reply::ok("x"));
    rig
}

fn limited(rig: &Rig, limit: &str, result: &str) -> f64 {
    rig.parvis.metric("parvis_rate_limited_total", &format!("limit=\"{limit}\",result=\"{result}\""))
}

#[test]
fn a_client_beyond_its_rate_is_told_how_long_to_wait_for_pages_from_the_store_too() {
    let rig = rig("rate_limit: {rate: 3/h}");
    let verdicts: Vec<&str> = (0..3).map(|_| from(&rig, "192.0.2.1", "GET", "/").verdict()).collect();
    assert_eq!(verdicts, ["miss", "hit", "hit"]);
    for method in ["GET", "HEAD", "POST"] {
        let refused = from(&rig, "192.0.2.1", method, "/");
        assert_eq!((refused.status, refused.detail().as_str()), (429, "rate-limit"));
        let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
        assert!((1190..=1200).contains(&wait), "{wait}");
        assert_eq!(refused.field("ratelimit-policy").as_deref(), Some("\"api\";q=3;w=3600"));
        assert_eq!(refused.field("ratelimit"), Some(format!("\"api\";r=0;t={wait}")));
        assert_eq!(refused.field("cache-control").as_deref(), Some("no-store"));
    }
    assert_eq!(from(&rig, "192.0.2.2", "GET", "/").verdict(), "hit", "another client has its own");
    assert_eq!((limited(&rig, "api", "refused"), rig.origin.count("/")), (3.0, 1));
}

#[test]
fn a_household_has_one_share_however_many_addresses_it_has() {
    let rig = rig("rate_limit: {rate: 2/h}");
    let status = |client| from(&rig, client, "GET", "/").status;
    assert_eq!(
        ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"].map(status),
        [200, 200, 429, 200]
    );
}

#[test]
fn several_limits_must_agree_and_what_one_refuses_costs_nothing_with_the_others() {
    let rig = rig(
        "rate_limit: [{name: writes, rate: 1/h, methods: [POST], key: \"header:X-Key\"}, {name: all, rate: 5/h, key: route, allow: [10.0.0.0/8]}, {name: trial, rate: 1/h, dry_run: true}]",
    );
    let send = |client: &str, key: &str| {
        rig.parvis.client().send("POST", "/", &[("X-Forwarded-For", client), ("X-Key", key)], b"")
    };
    assert_eq!(send("192.0.2.1", "a").status, 200);
    let refused = send("192.0.2.2", "a");
    assert_eq!(refused.field("ratelimit-policy").as_deref(), Some("\"writes\";q=1;w=3600"));
    assert_eq!(send("192.0.2.2", "b").status, 200);
    // Three are left for all together.
    let statuses: Vec<u16> = (0..4).map(|_| from(&rig, "192.0.2.3", "GET", "/").status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert_eq!(from(&rig, "10.0.0.1", "GET", "/").status, 200, "an address that is not limited");
    assert_eq!([limited(&rig, "writes", "refused"), limited(&rig, "all", "refused")], [1.0, 1.0]);
    assert_eq!(limited(&rig, "trial", "dry-run"), 2.0);
}

#[test]
fn some_networks_are_not_let_in() {
    let rig = rig("access: {allow: [\"192.0.2.7\"], deny: [192.0.2.0/24]}");
    assert_eq!(from(&rig, "192.0.2.7", "GET", "/").status, 200);
    let refused = from(&rig, "192.0.2.8", "GET", "/");
    assert_eq!((refused.status, refused.detail().as_str()), (403, "access"));
    assert_eq!(from(&rig, "198.51.100.1", "GET", "/").status, 403, "nor who is not listed");
    assert_eq!(from(&rig, "192.0.2.7", "GET", "/").verdict(), "hit");
}

#[test]
fn a_client_has_so_many_requests_under_way_at_once() {
    let rig = rig("max_concurrent: 1");
    let gate = Gate::new();
    rig.origin.on("/slow", Reply::ok("slow").behind(&gate));
    let mut slow = rig.parvis.client().connect();
    slow.write_request("POST", "/slow", &[("X-Forwarded-For", "192.0.2.1")], b"");
    eventually("it is under way", || rig.origin.count("/slow") == 1);
    let refused = from(&rig, "192.0.2.1", "GET", "/");
    assert_eq!((refused.status, refused.detail().as_str()), (429, "max-concurrent"));
    assert_eq!(from(&rig, "192.0.2.2", "GET", "/").status, 200);
    for field in ["X-Any", "Range"] {
        let fields = [("X-Forwarded-For", "192.0.2.1"), (field, "bytes=0-0")];
        let response = rig.parvis.client().send("GET", "/", &fields, b"");
        assert_eq!(response.verdict(), "hit", "a page from the store takes no place");
    }
    gate.open();
    assert_eq!(slow.read_response("POST").text(), "slow");
    assert_eq!(from(&rig, "192.0.2.1", "POST", "/").status, 200);
}
