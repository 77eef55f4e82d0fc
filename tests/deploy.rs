//! `parvis purge` after a deploy: waiting for the version, purging, warming, verifying, and what the exit code tells.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::process::{BINARY, command};
use crate::support::{Directory, Origin, PURGE_SECRET, Parvis, Reply, Rig, free_port, upstream};

const ROUTES: &str = "routes:
  - {name: products, match: {path: /products/*}, cache: {ttl: 5m, status_ttl: {301: 5m}, tags: [products]}}
  - {name: all, cache: {ttl: 5m, tags: [rest]}}";

/// What a command came to.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    out: String,
    errors: String,
}

impl Outcome {
    fn of(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let outcome =
            Self { code: output.status.code(), out: text(output.stdout), errors: text(output.stderr) };
        let said = format!("{outcome:?}");
        assert!(!said.contains(PURGE_SECRET), "the secret is shown: {said}");
        outcome
    }

    /// Its one JSON object.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("not one JSON object: {self:?}"))
    }

    #[track_caller]
    fn assert(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let all = format!("{}{}", self.out, self.errors);
        for words in says {
            assert!(all.contains(words), "{words}: {self:?}");
        }
    }
}

fn purge(arguments: &[&str]) -> Outcome {
    Outcome::of(command(&[&["purge"], arguments].concat(), &[("PARVIS_TOKEN", PURGE_SECRET)]))
}

/// Purges at a parvis, and asks for pages through it and from its origin.
fn deploy(rig: &Rig, arguments: &[&str]) -> Outcome {
    let admin = format!("http://{}", rig.parvis.admin);
    let (through, origin) = (format!("http://{}", rig.parvis.listen), site(&rig.origin));
    let at = ["--admin", &admin, "--through", &through, "--origin", &origin];
    purge(&[&at, arguments].concat())
}

fn site(origin: &Origin) -> String {
    format!("http://{}", origin.address)
}

/// An answer of the admin listener.
fn answer() -> Value {
    json!({"sequence": 7, "soft": false, "dry_run": false, "entries": 1, "bytes": 9,
           "selectors": [{"selector": "tag a", "entries": 1, "bytes": 9}],
           "instances": [{"instance": "web-1:8080", "entries": 1}]})
}

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn sitemap(kind: &str, entry: &str, urls: &[String]) -> String {
    let entries: String = urls.iter().map(|url| format!("<{entry}><loc>{url}</loc></{entry}>")).collect();
    format!("<{kind}>{entries}</{kind}>")
}

#[test]
fn a_deploy_waits_for_the_version_purges_warms_and_verifies() {
    let rig = Rig::new(ROUTES);
    rig.origin.on("/products/1", Reply::ok("old"));
    assert_eq!((rig.get("/products/1").verdict(), rig.get("/products/1").verdict()), ("miss", "hit"));
    rig.origin.on("/products/1", Reply::ok("new"));
    let starting = Reply::status(503, "v2 is starting");
    rig.origin.on_sequence("/version", vec![starting, Reply::ok("this is v1"), Reply::ok("this is v2")]);
    let directory = Directory::new();
    let list = directory.write("pages", "# what matters\n\nhttp://shop.test/products/1\n");
    let version = format!("{}/version", site(&rig.origin));
    let (admin, through) = (format!("http://{}", rig.parvis.admin), format!("http://{}", rig.parvis.listen));
    let arguments = [
        &["--admin", &admin, "--through", &through, "--after-url", &version, "--until-contains", "v2"][..],
        &["--tag", "products", "--warm", list.to_str().unwrap(), "--verify", "http://shop.test/products/1"],
    ]
    .concat();
    let outcome = purge(&arguments);
    outcome.assert(0, &["tag products", "1 entries", "warmed 1 of 1", "same", "200, 3 bytes"]);
    outcome.assert(0, &["waiting for `v2`", "there", "warming ...", "verifying: 1 pages, 0 different"]);
    assert_eq!(rig.origin.count("/version"), 3);
    let page = rig.get("/products/1");
    assert_eq!((page.verdict(), page.text().as_str()), ("hit", "new"));
    let outcome = purge(&[&arguments, &["--json"][..]].concat());
    let json = outcome.json();
    assert_eq!((outcome.code, outcome.errors.as_str(), &json["entries"]), (Some(0), "", &json!(1)));
    assert_eq!(json["warmed"], json!({"urls": 1, "failed": 0}));
    let verified =
        json!([{"url": "http://shop.test/products/1", "result": "same", "detail": "200, 3 bytes"}]);
    assert_eq!(json["verified"], verified);
}

#[test]
fn nothing_is_purged_when_the_version_does_not_come() {
    let rig = Rig::new(ROUTES);
    rig.origin.on("/products/1", Reply::ok("old"));
    rig.get("/products/1");
    rig.origin.on("/version", Reply::ok("this is v1"));
    rig.origin.on("/broken", Reply::status(500, "v2\nTraceback"));
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let at = |path: &str| format!("{}{path}", site(&rig.origin));
    for (url, says) in
        [(at("/version"), "200, `this is v1`"), (at("/broken"), "500, `v2\\nTraceback`"), (nobody, "refused")]
    {
        let wait = ["--after-url", &url, "--until-contains", "v2", "--timeout", "1ms"];
        let outcome = deploy(&rig, &[&["--tag", "products"], &wait[..]].concat());
        outcome.assert(3, &["not within 1ms", says, "nothing was purged"]);
        assert_eq!(outcome.out, "");
    }
    assert_eq!(rig.get("/products/1").verdict(), "hit");
}

#[test]
fn a_page_that_is_not_the_origins_is_shown_with_the_first_difference() {
    let rig = Rig::new(ROUTES);
    for page in ["/price", "/gone", "/type"] {
        rig.origin.on(page, Reply::ok("The price is 41.").field("Content-Type", "text/plain"));
        rig.get(page);
    }
    rig.origin.on("/price", Reply::ok("The price is 42.").field("Content-Type", "text/plain"));
    rig.origin.on("/gone", Reply::status(404, ""));
    rig.origin.on("/type", Reply::ok("The price is 41.").field("Content-Type", "text/html"));
    for (page, says) in [
        ("/price", "the bodies differ at byte 14: `price is 41.` through parvis, `price is 42.` from"),
        ("/gone", "status 200 through parvis, 404 from the origin"),
        ("/type", "content type `text/plain` through parvis, `text/html` from the origin"),
    ] {
        // Purged is something else.
        let url = format!("http://shop.test{page}");
        let outcome = deploy(&rig, &["--tag", "products", "--verify", &url]);
        outcome.assert(4, &["purged, but 1 of 1 pages is not what", says]);
    }
    let outcome = deploy(&rig, &["--tag", "rest", "--verify", "/price", "--json"]);
    outcome.assert(0, &[]);
    assert_eq!(outcome.json()["verified"][0]["result"], "same");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let admin = format!("http://{}", rig.parvis.admin);
    let url = format!("http://{}/price", rig.parvis.listen);
    let at = ["--admin", &admin, "--origin", &nobody];
    let outcome = purge(&[&at[..], &["--tag", "a", "--verify", &url, "--json"]].concat());
    assert_eq!((outcome.code, &outcome.json()["verified"][0]["result"]), (Some(4), &json!("different")));
    outcome.assert(4, &["the origin at", "refused"]);
}

#[test]
fn a_page_that_changes_by_itself_is_compared_by_status_and_type() {
    let rig = Rig::new(ROUTES);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let next = move || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    rig.origin.on_each("/token", move |_| Reply::ok(format!("token {}", next())));
    let outcome = deploy(&rig, &["--tag", "rest", "--verify", "/token"]);
    outcome.assert(0, &["volatile", "changes by itself: only status and content type"]);
    let missing = |n: u8| Reply::status(404, format!("no {n}"));
    rig.origin.on_sequence("/token", vec![missing(1), missing(2), missing(3)]);
    deploy(&rig, &["--tag", "products", "--verify", "/token"])
        .assert(4, &["status 200 through parvis, 404 from the origin"]);
}

#[test]
fn the_pages_of_sitemaps_are_warmed_and_the_origins_sitemaps_are_read() {
    let rig = Rig::new(ROUTES);
    let urls =
        |paths: &[&str]| paths.iter().map(|path| format!("http://shop.test{path}")).collect::<Vec<_>>();
    for page in ["/products/1", "/products/2", "/about"] {
        rig.origin.on(page, Reply::ok(page));
    }
    rig.origin.on("/products/old", Reply::status(301, "").field("Location", "/products/new"));
    let (index, deeper) = (urls(&["/products.xml", "/index-2.xml"]), urls(&["/rest.xml.gz"]));
    rig.origin.on("/sitemap.xml", Reply::ok(sitemap("sitemapindex", "sitemap", &index)));
    rig.origin.on("/index-2.xml", Reply::ok(sitemap("sitemapindex", "sitemap", &deeper)));
    let products = sitemap("urlset", "url", &urls(&["/products/1", "/products/2", "/products/old"]));
    rig.origin.on("/products.xml", Reply::ok(products));
    rig.origin.on("/rest.xml.gz", Reply::ok(packed(&sitemap("urlset", "url", &urls(&["/about"])))));
    let warm =
        ["--tag", "products", "--warm", "http://shop.test/sitemap.xml", "--json", "--warm-rate", "1000"];
    let outcome = deploy(&rig, &warm);
    outcome.assert(0, &[]);
    assert_eq!(outcome.json()["warmed"], json!({"urls": 4, "failed": 0}));
    for page in ["/products/1", "/products/2", "/products/old", "/about"] {
        assert_eq!(rig.get(page).verdict(), "hit", "{page}");
    }
    assert_eq!(rig.origin.count("/products/new"), 0, "a redirect is not followed");
    // One level too deep, and one that is none.
    rig.origin.on("/rest.xml.gz", Reply::ok(sitemap("sitemapindex", "sitemap", &urls(&["/x.xml"]))));
    rig.origin.on("/x.xml", Reply::ok(sitemap("sitemapindex", "sitemap", &[])));
    rig.origin.on("/products.xml", Reply::ok("<html></html>"));
    let outcome = deploy(&rig, &warm[..4]);
    outcome.assert(
        5,
        &["purged, but 2", "products.xml: is a <html>, not a sitemap", "rest.xml.gz: an index below"],
    );
    assert_eq!(rig.origin.count("/x.xml"), 0);
    let directory = Directory::new();
    let file = directory.write("local.xml", &sitemap("urlset", "url", &urls(&["/about"])));
    deploy(&rig, &["--tag", "rest", "--warm", file.to_str().unwrap()]).assert(0, &["warmed 1 of 1"]);
}

#[test]
fn what_could_not_be_warmed_is_listed_and_is_no_success() {
    let rig = Rig::new(ROUTES);
    rig.origin.on("/about", Reply::ok("about"));
    let directory = Directory::new();
    let missing: String = (0..12).map(|n| format!("/missing/{n}\n")).collect();
    let list = directory.write("pages", &format!("http://shop.test/about\n{missing}"));
    let warm = ["--tag", "rest", "--warm", list.to_str().unwrap(), "--warm-rate", "1000"];
    let outcome = deploy(&rig, &warm);
    outcome.assert(5, &["warmed 1 of 13", "/missing/0: status 404", "/missing/9: status 404", "and 2 more"]);
    assert!(!outcome.errors.contains("/missing/10"), "{outcome:?}");
    assert_eq!(rig.get("/about").verdict(), "hit");
    // Not purged, and by now another one.
    rig.origin.on("/about", Reply::ok("About"));
    let outcome = deploy(
        &rig,
        &[&["--tag", "products", "--verify", "http://shop.test/about", "--json"], &warm[2..]].concat(),
    );
    outcome.assert(4, &["12 could not be warmed", "1 of 1 pages is not what the origin shows"]);
    assert_eq!(outcome.json()["warmed"], json!({"urls": 13, "failed": 12}));
}

#[test]
fn a_page_is_asked_for_as_a_stranger_would_at_another_address() {
    let origin = Origin::start();
    origin.on("/purge", Reply::ok(answer().to_string()));
    origin.on("/a", Reply::ok("a"));
    let body = Reply::script().then("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    origin.on("/huge", body.then_repeat(vec![b'x'; 1 << 20], 65).then_close());
    let at = site(&origin);
    let arguments =
        ["purge", "--admin", &at, "--through", &at, "--tag", "a", "--warm", "-", "--warm-rate", "1000"];
    let mut child = Command::new(BINARY)
        .args(arguments)
        .env("PARVIS_TOKEN", PURGE_SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"https://shop.test/a\n/a\n/huge\n").unwrap();
    let outcome = Outcome::of(child.wait_with_output().unwrap());
    outcome.assert(5, &["warmed 2 of 3", "the body has more than 67108864 bytes, the limit"]);
    let received = origin.received("/a");
    let of = |host: &str| received.iter().find(|one| one.field("host").as_deref() == Some(host)).unwrap();
    let version = format!("parvis/{}", env!("CARGO_PKG_VERSION"));
    let (other, own) = (of("shop.test"), of(&origin.address.to_string()));
    assert_eq!(other.field("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(own.field("x-forwarded-proto"), None);
    for one in [other, own] {
        assert_eq!(one.field("user-agent").as_deref(), Some(version.as_str()));
        assert!(one.field("cookie").is_none() && one.field("authorization").is_none(), "{one:?}");
    }
}

#[test]
fn a_purge_waits_for_a_parvis_that_starts_late() {
    let origin = Origin::start();
    let port = free_port();
    let away = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let admin = format!("http://127.0.0.1:{port}");
    let waiting = std::thread::spawn(move || purge(&["--admin", &admin, "--tag", "products", "--wait"]));
    // The first try came, and failed.
    drop(away.accept().unwrap());
    drop(away);
    let yaml =
        upstream(origin.address, "{connect: 1s}", ROUTES).replace("{admin}", &format!("127.0.0.1:{port}"));
    let _parvis = Parvis::start(&yaml);
    waiting.join().unwrap().assert(0, &["tag products", "0 entries"]);
}

#[test]
fn a_purge_that_is_tried_again_is_the_same_purge() {
    let admin = Origin::start();
    let not_yet = Reply::status(503, json!({"error": "starting", "remedy": "try again"}).to_string());
    admin.on_sequence("/purge", vec![not_yet.clone(), Reply::ok(answer().to_string())]);
    let at = site(&admin);
    let outcome = purge(&["--admin", &at, "--tag", "a", "--wait", "--json"]);
    assert_eq!((outcome.code, outcome.json()), (Some(0), answer()));
    let keys: Vec<_> = admin.received("/purge").iter().map(|one| one.field("idempotency-key")).collect();
    assert!(keys.len() == 2 && keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
    admin.on("/purge", not_yet);
    let outcome = purge(&["--admin", &at, "--tag", "a", "--wait", "--timeout", "1ms"]);
    outcome.assert(3, &["not within 1ms", "503", "starting; try again"]);
    let outcome = purge(&["--admin", &at, "--tag", "a", "--idempotency-key", "job-7"]);
    outcome.assert(1, &["503"]);
    let last = admin.received("/purge").pop().unwrap();
    assert_eq!(last.field("idempotency-key").as_deref(), Some("job-7"));
}

#[test]
fn what_is_refused_is_not_tried_again_and_shows_no_secret() {
    let admin = Origin::start();
    // Somebody else's, that shows what it was sent.
    admin.on_each("/purge", |request| Reply::status(403, format!("{:?}", request.fields)));
    let outcome = purge(&["--admin", &site(&admin), "--tag", "a", "--wait", "--json"]);
    outcome.assert(1, &["403", "Bearer ***"]);
    assert_eq!((outcome.out.as_str(), admin.count("/purge")), ("", 1));
    admin.on("/purge", Reply::ok("<html>"));
    purge(&["--admin", &site(&admin), "--tag", "a", "--wait"]).assert(1, &["did not answer like parvis"]);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    purge(&["--admin", &nobody, "--tag", "a"]).assert(1, &["refused"]);
}

#[test]
fn every_selector_is_sent_and_a_dry_run_tells_what_would_go() {
    let admin = Origin::start();
    let dry = json!({"soft": true, "dry_run": true, "entries": 3, "bytes": 9000,
                     "selectors": [{"selector": "tag a", "entries": 3, "bytes": 9000}],
                     "instances": [{"instance": "web-1:80", "entries": 1}, {"instance": "web-2:80", "entries": 2}],
                     "origin_requests": 3, "examples": ["http://shop.test/products/7"]});
    admin.on("/purge", Reply::ok(dry.to_string()));
    let at = site(&admin);
    let outcome = purge(
        &[
            &[
                "--admin",
                &at,
                "--tag",
                "a",
                "--tag",
                "b",
                "--url",
                "/u",
                "--prefix",
                "/p/",
                "--wildcard",
                "/*/w",
            ][..],
            &["--host", "shop.test", "--regex", "^/r", "--soft", "--dry-run"],
        ]
        .concat(),
    );
    outcome.assert(
        0,
        &["dry run", "2 entries at web-2:80", "at most 3 more requests", "such as http://shop.test/"],
    );
    let sent: Value = serde_json::from_slice(&admin.received("/purge")[0].body).unwrap();
    let expected = json!({"tags": ["a", "b"], "urls": ["/u"], "prefixes": ["/p/"], "wildcards": ["/*/w"],
                          "hosts": ["shop.test"], "regex": ["^/r"], "soft": true, "dry_run": true});
    assert_eq!(sent, expected);
    purge(&["--admin", &at, "--all"]).assert(0, &[]);
    let sent: Value = serde_json::from_slice(&admin.received("/purge")[1].body).unwrap();
    assert_eq!(sent, json!({"all": true}));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_purged() {
    let admin = Origin::start();
    let directory = Directory::new();
    let bad = directory.write("bad", "http://shop.test/\nshop.test/a\n");
    let broken = directory.write("broken.xml", "<urlset>");
    let path = directory.write("path", "/a\n");
    let at = site(&admin);
    let file = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (bad, broken, path) = (file(&bad), file(&broken), file(&path));
    for (arguments, says) in [
        (&["--warm", &bad][..], "nothing to purge"),
        (&["--verify", "http://shop.test/"], "nothing to purge"),
        (&["--tag", "a b"], "one --tag per tag"),
        (&["--tag", "a", "--timeout", "60"], "`60` has no unit"),
        (&["--tag", "a", "--after-url", "http://app/"], "--until-contains"),
        (&["--tag", "a", "--until-contains", "v2"], "--after-url"),
        (&["--tag", "a", "--until-contains", "", "--after-url", "http://app/"], "value is required"),
        (&["--tag", "a", "--verify", "http://shop.test/"], "give --origin"),
        (&["--tag", "a", "--verify", "/", "--origin", "http://app"], "--through"),
        (&["--tag", "a", "--origin", "http://app/path"], "without a path"),
        (&["--tag", "a", "--dry-run", "--warm", "x"], "cannot be used with"),
        (&["--tag", "a", "--warm", "/nonexistent"], "/nonexistent: "),
        (&["--tag", "a", "--warm", &bad], "line 2: `shop.test/a` is not a URL"),
        (&["--tag", "a", "--warm", &path], "--through"),
        (&["--tag", "a", "--warm", &broken], "ends early"),
        (&["--tag", "a", "--warm", &bad, "--warm-rate", "0"], "not in 1..=1000"),
        (&["--tag", "a", "--idempotency-key", "a b"], "visible ASCII"),
    ] {
        purge(&[&["--admin", &at], arguments].concat()).assert(2, &[says]);
    }
    let empty = command(&["purge", "--admin", &at, "--tag", "a"], &[("PARVIS_TOKEN", " ")]);
    Outcome::of(empty).assert(2, &["the token is empty"]);
    assert_eq!(admin.all_received().len(), 0);
}
