//! Parts of stored responses (RFC 9110 section 14, RFC 9111 section 3.3).

use super::{ROUTES, again_with, new_path, with};
use crate::support::{Gate, Reply, Rig, eventually};

const DATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn digits(more: &[(&str, &str)]) -> Reply {
    with(Reply::ok("0123456789").field("Cache-Control", "max-age=9999999999"), more)
}

#[test]
fn a_part_is_cut_from_a_complete_stored_response() {
    let rig = Rig::new(ROUTES);
    for (range, status, body, content_range) in [
        ("bytes=0-4", 206, "01234", Some("bytes 0-4/10")),
        ("bytes=5-", 206, "56789", Some("bytes 5-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=0-99", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=90-, 1-1", 206, "1", Some("bytes 1-1/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=-0", 416, "", Some("bytes */10")),
        ("bytes=4-2", 200, "0123456789", None),
        ("items=0-1", 200, "0123456789", None),
        ("nonsense", 200, "0123456789", None),
    ] {
        let part = again_with(&rig, digits(&[]), &[], &[("Range", range)]);
        assert_eq!((part.status, part.text().as_str()), (status, body), "{range}");
        assert_eq!(part.field("content-range").as_deref(), content_range, "{range}");
        assert_eq!(part.verdict(), "hit", "{range}");
    }
}

#[test]
fn a_range_that_there_is_not_is_no_answer_for_others() {
    let rig = Rig::new(ROUTES);
    let fields = [("ETag", "\"1\""), ("Last-Modified", MODIFIED), ("Vary", "Accept")];
    let refused = again_with(&rig, digits(&fields), &[], &[("Range", "bytes=10-")]);
    assert_eq!((refused.status, refused.verdict()), (416, "hit"));
    assert_eq!(refused.field("cache-control").as_deref(), Some("no-store"));
    for name in ["etag", "last-modified", "vary", "content-type"] {
        assert_eq!(refused.field(name), None, "{name} is the page's");
    }
}

#[test]
fn several_parts_come_in_one_multipart_body() {
    let rig = Rig::new(ROUTES);
    let several = [("Range", "bytes=0-1, -2")];
    let stored = [("Content-Type", "text/plain"), ("Content-Range", "bytes 0-9/10")];
    let response = again_with(&rig, digits(&stored), &[], &several);
    let media_type = response.field("content-type").unwrap();
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").expect(&media_type);
    let expected = format!(
        "\r\n--{boundary}\r\nContent-Range: bytes 0-1/10\r\nContent-Type: text/plain\r\n\r\n01\
         \r\n--{boundary}\r\nContent-Range: bytes 8-9/10\r\nContent-Type: text/plain\r\n\r\n89\r\n--{boundary}--\r\n"
    );
    assert_eq!((response.status, response.text()), (206, expected));
    assert_eq!(response.field("content-range"), None);
    let many = format!("bytes={}", (0..5).map(|n| format!("{0}-{0},", n * 2)).collect::<String>().repeat(20));
    for greedy in ["bytes=0-5, 3-8", "bytes=0-4, 5-9", &many] {
        let whole = again_with(&rig, digits(&[]), &[], &[("Range", greedy)]);
        assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"), "{greedy}");
    }
}

#[test]
fn if_range_holds_by_a_strong_validator_only() {
    let rig = Rig::new(ROUTES);
    for (condition, fields, status) in [
        ("\"a\"", &[("ETag", "\"a\"")][..], 206),
        ("\"b\"", &[("ETag", "\"a\"")][..], 200),
        ("W/\"a\"", &[("ETag", "W/\"a\"")][..], 200),
        ("\"a\"", &[("ETag", "W/\"a\"")][..], 200),
        (MODIFIED, &[("Last-Modified", MODIFIED), ("Date", DATE)][..], 206),
        (MODIFIED, &[("Last-Modified", MODIFIED), ("Date", MODIFIED)][..], 200),
        (DATE, &[("Last-Modified", MODIFIED), ("Date", DATE)][..], 200),
    ] {
        let asked = [("Range", "bytes=0-4"), ("If-Range", condition)];
        let response = again_with(&rig, digits(fields), &[], &asked);
        assert_eq!((response.status, response.verdict()), (status, "hit"), "{condition} {fields:?}");
    }
}

#[test]
fn a_part_from_the_origin_is_handed_on_and_never_served_as_the_whole() {
    let rig = Rig::new(ROUTES);
    rig.origin.on_each("/", |request| match request.field("range") {
        Some(_) => Reply::status(206, "01")
            .field("Content-Range", "bytes 0-1/10")
            .field("Cache-Control", "max-age=60"),
        None => digits(&[]),
    });
    let part = rig.get_with("/", &[("Range", "bytes=1-2")]);
    assert_eq!((part.status, part.text().as_str(), part.detail().as_str()), (206, "01", "range"));
    let whole = rig.get("/");
    assert_eq!((whole.status, whole.text().as_str(), whole.verdict()), (200, "0123456789", "miss"));
}

#[test]
fn a_range_from_the_beginning_stores_the_whole() {
    let rig = Rig::new(ROUTES);
    for (range, body) in [("bytes=0-", "0123456789"), ("bytes=0-1", "01")] {
        let path = new_path();
        rig.origin.on(&path, digits(&[("ETag", "\"1\"")]));
        let first = rig.get_with(&path, &[("Range", range)]);
        assert_eq!((first.status, first.text().as_str()), (206, body), "{range}");
        let place = format!("bytes 0-{}/10", body.len() - 1);
        assert_eq!((first.field("content-range"), first.verdict()), (Some(place), "miss"));
        assert_eq!(rig.origin.received(&path)[0].field("range"), None);
        eventually("the whole is stored", || rig.get(&path).verdict() == "hit");
        assert_eq!(rig.get_with(&path, &[("Range", "bytes=-2")]).text(), "89");
        assert_eq!(rig.origin.count(&path), 1);
    }
    let page = "0123456789".repeat(100);
    for (media_type, status, body) in [("text/plain", 200, page.as_str()), ("image/png", 206, "01")] {
        let path = new_path();
        let dated = [("Content-Type", media_type), ("Last-Modified", MODIFIED), ("Date", DATE)];
        rig.origin
            .on(&path, with(Reply::ok(page.clone()).field("Cache-Control", "max-age=9999999999"), &dated));
        let part = rig.get_with(&path, &[("Range", "bytes=0-1"), ("If-Range", MODIFIED)]);
        assert_eq!(
            (part.status, part.text().as_str()),
            (status, body),
            "{media_type}: only what has other forms"
        );
    }
    let path = new_path();
    rig.origin.on(&path, Reply::ok("").field("Cache-Control", "max-age=60").chunked(&["01234", "56789"]));
    let unknown = rig.get_with(&path, &[("Range", "bytes=0-1")]);
    assert_eq!((unknown.status, unknown.text().as_str()), (200, "0123456789"), "of no known length: whole");
}

#[test]
fn who_wants_the_beginning_reads_along_with_who_wants_all() {
    let rig = Rig::new(ROUTES);
    let gate = Gate::new();
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n";
    rig.origin.on("/", Reply::script().then(format!("{head}0123")).then_wait(&gate).then("456789"));
    std::thread::scope(|scope| {
        let all = scope.spawn(|| rig.get("/").text());
        eventually("the fetch is under way", || rig.origin.count("/") == 1);
        let beginning = rig.get_with("/", &[("Range", "bytes=0-2")]);
        assert_eq!((beginning.status, beginning.text().as_str()), (206, "012"), "before the rest has come");
        let longer = scope.spawn(|| rig.get_with("/", &[("Range", "bytes=0-7")]).text());
        gate.open();
        assert_eq!((all.join().unwrap(), longer.join().unwrap()), ("0123456789".into(), "01234567".into()));
    });
    assert_eq!(rig.origin.count("/"), 1);
}

#[test]
fn an_expired_response_is_validated_for_a_part_of_it() {
    let rig = Rig::new(ROUTES);
    let path = new_path();
    let expired = Reply::ok("0123456789")
        .field("Cache-Control", "max-age=60")
        .field("Age", "100")
        .field("ETag", "\"1\"");
    rig.origin.on_sequence(&path, vec![expired, Reply::status(304, "")]);
    rig.get(&path);
    let part = rig.get_with(&path, &[("Range", "bytes=2-3")]);
    assert_eq!((part.status, part.text().as_str(), part.verdict()), (206, "23", "revalidate"));
    assert_eq!(rig.origin.received(&path)[1].field("range"), None);
}
