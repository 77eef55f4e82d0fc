//! What is stored, what is not, and why.

use crate::support::{Reply, Rig};

const MINUTE: &str = "routes: [{name: all, cache: {ttl: 1m}}]";

#[test]
fn a_page_is_fetched_once_and_then_served_from_the_store() {
    let rig = Rig::new(MINUTE);
    rig.origin.on("/", Reply::ok("hello").field("X-Legacy", "one").field("x-LEGACY", "two"));
    let first = rig.get("/");
    assert_eq!((first.status, first.verdict(), first.text().as_str()), (200, "miss", "hello"));
    let second = rig.get("/");
    assert_eq!((second.status, second.verdict(), second.text().as_str()), (200, "hit", "hello"));
    assert_eq!(second.field("x-legacy").as_deref(), Some("one, two"));
    assert_eq!(second.field("content-length").as_deref(), Some("5"));
    assert_eq!(second.field("age").as_deref(), Some("0"));
    assert!(second.head.contains("x-LEGACY: two"), "names keep their spelling: {}", second.head);
    assert_eq!(rig.origin.count("/"), 1);
}
