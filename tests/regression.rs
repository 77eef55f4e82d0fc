//! Defects that were found, each with a test that fails without its fix.

use crate::support::{Reply, Rig, eventually};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

#[test]
fn a_page_that_sets_a_cookie_is_not_shortened_to_a_304() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("page").field("ETag", "\"1\"").field("Set-Cookie", "csrftoken=new"));
    let response = rig.get_with("/", &[("If-None-Match", "\"1\"")]);
    assert_eq!((response.status, response.text().as_str()), (200, "page"));
    assert_eq!(response.field("set-cookie").as_deref(), Some("csrftoken=new"));
}

#[test]
fn a_write_whose_client_left_counts_as_carried_out() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("old"));
    rig.get("/");
    rig.origin.on("/", Reply::ok("written").delayed(std::time::Duration::from_millis(500)));
    let mut writer = rig.parvis.client().connect();
    writer.write_request("PUT", "/", &[], b"new");
    eventually("the origin has the write", || rig.origin.count("/") == 2);
    drop(writer);
    eventually("the write has ended", || rig.parvis.access_log().len() == 2);
    rig.origin.on("/", Reply::ok("new"));
    assert_eq!((rig.get("/").verdict(), rig.get("/").text().as_str()), ("miss", "new"));
}

#[test]
fn a_failed_fetch_tells_the_operator_why_on_the_line_of_its_request() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::script().then_close());
    let id = rig.get("/").field("x-request-id").unwrap();
    let told = |line: &serde_json::Value| line["request_id"] == id.as_str() && line["error"].is_string();
    eventually("the error is in the access log", || rig.parvis.access_log().iter().any(told));
}
