//! One judge: every request of a generated corpus goes through the front and through the full path, and both must
//! answer the same, but for what is different every time.
//!
//! `PARVIS_DIFFERENTIAL=100000 cargo nextest run differential` runs as many requests, from another seed each time.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::tls::Authority;
use crate::support::{Directory, Http2, Origin, Parvis, Reply, Response, eventually, upstream};

/// How many requests, unless the environment says otherwise.
const REQUESTS: u64 = 4000;

const CONFIG: &str = r#"
trusted_proxies: [127.0.0.2/32]
# Forms come when they are ready: only on a page on which they are before the comparison begins.
encode: {formats: []}
routes:
  - {name: encoded, match: {path: /encoded}, cache: {ttl: 1h}, encode: {formats: [zstd, br, gzip]}}
  - {name: api, match: {path: /api/*, methods: [GET, HEAD]}, cache: {ttl: 1h, tags: [api], key: {query: {exclude: [utm_*]}}}}
  - {name: language, match: {path: /language}, cache: {ttl: 1h}}
  - {name: session, match: {path: /session}, cache: {ttl: 1h, key: {cookies: [sessionid]}}}
  - {name: forced, match: {path: /forced}, cache: {ttl: 1h, origin_cache_control: override}}
  - {name: off, match: {path: /off}, cache: {mode: off}}
  - {name: rest, cache: {ttl: 1h, stale_while_revalidate: 1h, deliver_tags: true}}
"#;

/// SplitMix64: a few bits of chance that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[usize::try_from(self.next()).unwrap_or(usize::MAX) % choices.len()]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// `date` is that of all pages.
fn origin(date: &str) -> Origin {
    let origin = Origin::start();
    let date = date.to_owned();
    let page = move |body: &str| {
        Reply::ok(body)
            .field("Date", &date)
            .field("Last-Modified", "Sat, 05 Nov 1994 08:49:37 GMT")
            .field("Cache-Control", "max-age=3600")
            .field("Age", "0")
    };
    let untagged = page.clone();
    let tagged = move |body: &str| untagged(body).field("ETag", &format!("\"{}\"", body.len()));
    let (small, large) = ("small page\n".repeat(20), "large page\n".repeat(3000));
    origin.on("/", tagged("front page").field("X-Frame-Options", "SAMEORIGIN").field("Surrogate-Key", "a b"));
    origin.on("/api/small", tagged(&small).field("Cache-Tag", "x").field("Content-Type", "application/json"));
    origin.on("/api/large", tagged(&large).field("Content-Type", "text/html; charset=utf-8"));
    origin.on("/empty", tagged(""));
    origin.on("/weak", page("weak").field("ETag", "W/\"w\""));
    origin.on("/missing", Reply::status(404, "no").field("Cache-Control", "max-age=3600"));
    origin.on("/moved", Reply::status(301, "").field("Location", "/").field("Cache-Control", "max-age=3600"));
    origin.on("/no-content", Reply::status(204, "").field("Cache-Control", "max-age=3600"));
    origin.on("/gzip", page("not really").field("Content-Encoding", "gzip"));
    origin.on("/private", page("mine").field("Set-Cookie", "a=b"));
    origin.on("/no-cache", Reply::ok("ask").field("Cache-Control", "no-cache").field("ETag", "\"n\""));
    origin.on("/stale", Reply::ok("old").field("Cache-Control", "max-age=1").field("Age", "100"));
    let translated = page.clone();
    origin.on_each("/language", move |request| {
        let language = request.field("accept-language").unwrap_or_default();
        translated(&format!("in {language}")).field("Vary", "Accept-Language")
    });
    origin.on("/session", page("of a session"));
    let line =
        |n: u32| format!("<li><a href=\"/products/{n}/\">Product {}</a> {}.00</li>\n", n * 7, n * 37 % 991);
    let list: String = (0..500).map(line).collect();
    let encodable = page(&list).field("ETag", "\"list\"").field("Content-Type", "text/html");
    origin.on("/encoded", encodable);
    origin.on("/forced", tagged("forced"));
    origin.on("/off", page("off"));
    origin
}

const PATHS: &[&str] = &[
    "/",
    "/",
    "/api/small",
    "/api/small",
    "/api/large",
    "/empty",
    "/weak",
    "/missing",
    "/moved",
    "/no-content",
    "/gzip",
    "/private",
    "/no-cache",
    "/stale",
    "/language",
    "/language",
    "/session",
    "/forced",
    "/off",
    "/%61pi/small",
    "/api/../",
    "/nowhere",
];
const QUERIES: &[&str] = &[
    "",
    "",
    "",
    "",
    "?",
    "?a=1&b=2",
    "?b=2&a=1",
    "?utm_source=x",
    "?a=%31&b=2",
    "?b=2&&a=1&utm_x",
    "?q=\u{e9}",
];
/// Those that write are rare: what they invalidate is no hit for a while.
const RARE_METHODS: &[&str] = &["OPTIONS", "POST", "get", "BREW", "PURGE"];
const FIELDS: &[&[&str]] = &[
    &[
        "Accept-Encoding: gzip, deflate, br, zstd",
        "accept-encoding: identity;q=0, br",
        "Accept-Encoding: gzip;q=0",
    ],
    &["Accept-Language: en-US,en;q=0.5", "accept-language: fr", "Accept-Language: en\r\nAccept-Language: fr"],
    &["Cookie: _ga=1", "COOKIE: sessionid=1", "Cookie: _ga=1; sessionid=2", "Cookie: theme=x", "cookie: ;;"],
    &[
        "If-None-Match: \"10\"",
        "if-none-match: W/\"10\", \"220\"",
        "If-None-Match: *",
        "If-None-Match: x",
        "If-None-Match: \"list-br5\"",
        "If-None-Match: \"list-gzip9\", \"list-zstd3\"",
    ],
    &["If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", "If-Modified-Since: soon"],
    &[
        "Range: bytes=0-3",
        "Range: bytes=-4",
        "Range: bytes=0-",
        "Range: bytes=0-1,4-5",
        "Range: x=1",
        "Range: bytes=0-9\r\nIf-Range: \"list\"",
        "Range: bytes=0-9\r\nIf-Range: \"list-br11\"",
        "Range: bytes=0-9\r\nIf-Range: \"list-zstd19\"",
        "Range: bytes=999999-",
    ],
    &[
        "Cache-Control: no-cache",
        "Cache-Control: max-age=0",
        "Cache-Control: only-if-cached",
        "cache-control: max-stale",
    ],
    &[
        "Pragma: no-cache",
        "If-Match: \"10\"",
        "X-Refresh: 1",
        "Cache-Control: no-store",
        "Cache-Control: min-fresh=10",
    ],
    &["Authorization: Basic eDp5", "X-Api-Key: 1", "X-Forwarded-User: ada", "HX-Request: true"],
    &[
        "Connection: close",
        "Connection: keep-alive",
        "connection: Keep-Alive, X-Hop\r\nX-Hop: 1",
        "Connection: cookie",
    ],
    &[
        "X-Forwarded-Host: other.test",
        "X-Forwarded-Proto: https",
        "X-Forwarded-For: 192.0.2.1",
        "Forwarded: host=x",
    ],
    &["X-Request-ID: chosen-by-me", "X-Request-ID: <bad>", "X-Request-ID: two\r\nX-Request-ID: lines"],
    &[
        "Content-Length: 0",
        "Upgrade: h2c",
        "TE: trailers",
        "Expect: 100-continue",
        "X-Empty:",
        "User-Agent: \u{e9}",
    ],
    &[
        "Content-Length: 1",
        "Content-Length: x",
        "Transfer-Encoding: x",
        "Bad Name: x",
        " folded: x",
        "Host: second.test",
    ],
];

/// Those of them that a page can be asked with again and again without being fetched anew.
const OF_ENCODED: &[usize] = &[0, 3, 4, 5, 9, 11];

fn request(dice: &mut Dice) -> (String, String) {
    let method =
        if dice.one_in(40) { dice.of(RARE_METHODS) } else { dice.of(&["GET", "GET", "GET", "HEAD"]) };
    let method = method.to_owned();
    let prefix = if dice.one_in(30) { "http://shop.test" } else { "" };
    let version = if dice.one_in(12) { "1.0" } else { "1.1" };
    let is_encoded = dice.one_in(8);
    let (method, target) = match is_encoded {
        // It is neither written to nor fetched anew: its forms would have to be made again.
        true => (dice.of(&["GET", "HEAD"]).to_owned(), "/encoded".to_owned()),
        false => (method, format!("{}{}", dice.of(PATHS), dice.of(QUERIES))),
    };
    let mut head = format!("{method} {prefix}{target} HTTP/{version}\r\n");
    let mut lines = Vec::new();
    if !dice.one_in(60) {
        lines.push(dice.of(&[
            "Host: shop.test",
            "HOST: shop.test",
            "host:shop.test:80",
            "Host: Shop.Test",
            "Host: shop.test ",
        ]));
    }
    for (at, choices) in FIELDS.iter().enumerate() {
        // The broken ones at the end are rare, or nothing else would be seen.
        let rarely = if at + 1 == FIELDS.len() { 60 } else { 14 };
        match is_encoded {
            true if OF_ENCODED.contains(&at) && dice.one_in(3) => lines.push(dice.of(choices)),
            false if dice.one_in(rarely) => lines.push(dice.of(choices)),
            _ => {}
        }
    }
    for at in (1..lines.len()).rev() {
        lines.swap(at, usize::try_from(dice.next()).unwrap_or(usize::MAX) % (at + 1));
    }
    for line in lines {
        let _ = write!(head, "{line}\r\n");
    }
    head.push_str("\r\n");
    if head.contains("Content-Length: 1\r\n") {
        head.push('x');
    }
    (method, head)
}

/// What must be the same: all but the id and what tells of time.
fn comparable(response: &Response, date: &str) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut age = 0;
    let mut fields: Vec<(String, String)> = Vec::new();
    for (name, value) in &response.fields {
        let name = name.to_ascii_lowercase();
        // Whether a fetch has just ended or ends just now is chance.
        let value = &value.replace("; collapsed", "");
        match name.as_str() {
            "age" => age = value.parse().expect("an age"),
            "x-request-id" if value.len() == 36 => fields.push((name, "made".to_owned())),
            "x-processing-time" => fields.push((name, String::new())),
            "server-timing" => fields.push((name, value.split(',').next().unwrap_or_default().to_owned())),
            // Of the moment that the fetch was made, or the answer of ours.
            "date" if value != date => fields.push((name, "now".to_owned())),
            _ => fields.push((name, value.clone())),
        }
    }
    for (name, value) in &mut fields {
        if name == "cache-status"
            && let Some((before, ttl)) = value.split_once("ttl=")
        {
            let (ttl, after) = ttl.split_once(';').unwrap_or((ttl, ""));
            let ttl: i64 = ttl.parse().expect("a ttl");
            *value = format!("{before}lifetime={};{after}", ttl + age);
        }
    }
    fields.sort();
    let mut body = response.body.clone();
    for (name, value) in &mut fields {
        if name == "content-type"
            && let Some((_, boundary)) = value.split_once("boundary=")
        {
            body = String::from_utf8(body).expect("parts of text").replace(boundary, "boundary").into_bytes();
            value.truncate(value.len() - boundary.len());
        }
    }
    // The last line of what parvis says by itself.
    if let Some(at) = memchr::memmem::rfind(&body, b"request id: ") {
        body.truncate(at);
    }
    (response.status, fields, body)
}

/// Asks for every form of the page until there is nothing left to make.
fn make_forms(parvis: &Parvis) {
    let made = || parvis.metric("parvis_encodings_total", "level=\"strongest\"");
    eventually("all forms are made", || {
        for coding in ["zstd", "br", "gzip"] {
            parvis.client().send("GET", "/encoded", &[("Accept-Encoding", coding)], b"");
        }
        // The strongest gzip is no smaller than the quick one, and so is none.
        made() >= 2.0
    });
}

#[test]
fn the_front_and_the_full_path_answer_the_same() {
    let chosen = std::env::var("PARVIS_DIFFERENTIAL").ok().map(|n| n.parse().expect("a number of requests"));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let seed = if chosen.is_some() { now() } else { 20_261_124 };
    let mut dice = Dice(seed);
    let date = httpdate::fmt_http_date(SystemTime::now());
    let (one, two) = (origin(&date), origin(&date));
    let front = Parvis::start(&upstream(one.address, "{}", CONFIG));
    let full = Parvis::start_also_with(&upstream(two.address, "{}", CONFIG), &["--no-shortcut"]);
    [&front, &full].into_iter().for_each(make_forms);
    let mut connections = None;
    let requests = chosen.unwrap_or(REQUESTS);
    for at in 0..requests {
        let (method, head) = request(&mut dice);
        let (mut a, mut b) =
            connections.take().unwrap_or_else(|| (front.client().connect(), full.client().connect()));
        a.write(head.as_bytes());
        b.write(head.as_bytes());
        let (of_front, of_full) = (a.try_read_response(&method), b.try_read_response(&method));
        let compared =
            (of_front.as_ref().map(|r| comparable(r, &date)), of_full.as_ref().map(|r| comparable(r, &date)));
        assert_eq!(compared.0, compared.1, "request {at} of seed {seed}:\n{head}");
        let ends = |response: &Response| response.field("connection").as_deref() == Some("close");
        let Some(response) = of_front else { continue };
        if !ends(&response) && response.status != 101 && !(100..200).contains(&response.status) {
            connections = Some((a, b));
        }
    }
    let lent = |parvis: &Parvis| parvis.metric("parvis_lent_total", "");
    let (by_front, by_full) = (lent(&full) - lent(&front), lent(&full));
    assert!(by_front * 5.0 > by_full, "the front answered {by_front} of {by_full} only");
}

/// Method, target and fields.
type Parts<'h> = (&'h str, &'h str, Vec<(&'h str, &'h str)>);

/// What HTTP/2 can say of a generated head; `None` where that is another request.
fn by_http_2(head: &str) -> Option<Parts<'_>> {
    const OF_THE_CONNECTION: &[&str] =
        &["host", "connection", "upgrade", "te", "transfer-encoding", "content-length", "expect", "bad name"];
    let mut lines = head.trim_end().lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?, first.next()?);
    let fields = lines.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name, value.trim()));
    let fields =
        fields.filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.trim().to_ascii_lowercase().as_str()));
    (target.starts_with('/') && target.is_ascii() && matches!(method, "GET" | "HEAD"))
        .then(|| (method, target, fields.collect()))
}

#[test]
fn by_http_2_they_answer_the_same() {
    let mut dice = Dice(20_261_129);
    let date = httpdate::fmt_http_date(SystemTime::now());
    let (one, two) = (origin(&date), origin(&date));
    let directory = Directory::new();
    let (certificate, key) = Authority::new(directory.path()).sign("shop", &["shop.test"]);
    let start = |origin: &Origin, more: &[&str]| {
        let listen = format!(
            "listen: {{address: {{listen}}, tls: [{{certificate: {}, key: {}}}]}}",
            certificate.display(),
            key.display()
        );
        let yaml = upstream(origin.address, "{}", CONFIG).replacen("listen: {listen}", &listen, 1);
        Parvis::start_also_with(&yaml, more)
    };
    let (front, full) = (start(&one, &[]), start(&two, &["--no-shortcut"]));
    let (a, b) = (Http2::new(front.listen, "shop.test"), Http2::new(full.listen, "shop.test"));
    for at in 0..REQUESTS {
        let (_, head) = request(&mut dice);
        let Some((method, target, fields)) = by_http_2(&head) else { continue };
        // Made of the page, they come when they are ready.
        if target.starts_with("/encoded") {
            continue;
        }
        let (of_front, of_full) = (a.send(method, target, &fields), b.send(method, target, &fields));
        assert_eq!(comparable(&of_front, &date), comparable(&of_full, &date), "request {at}:\n{head}");
    }
    let lent = |parvis: &Parvis| parvis.metric("parvis_lent_total", "");
    let (by_front, by_full) = (lent(&full) - lent(&front), lent(&full));
    assert!(by_front * 5.0 > by_full, "the front answered {by_front} of {by_full} only");
}
