//! In front of a real Django application under gunicorn: pages, forms, sessions and an API as sites have them.
//! What Django really did is read in its own log.

mod gunicorn;
mod matrix;
mod privacy;
mod visitor;
mod wagtail;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::Connection;
use crate::support::{Client, Parvis, Response, eventually};
use gunicorn::Django;
use visitor::{Visitor, after, cookies_set, form_token, unmasked};

/// What the operator of this shop would write. The last route shares for a minute whatever seems to be the same
/// for everyone, so that a personal page that slips through would be seen by others.
const CONFIG: &str = r#"
listen: "{listen}"
admin: {listen: "{admin}"}
upstreams:
  shop: {servers: ["{django}"], timeouts: {idle: 1500ms}}
routes:
  - name: static
    match: {path: /static/*}
    cache: {ttl: 1h, ignore_cookies: ["*"]}
  - name: api-writes
    match: {path: /api/products/*, methods: [POST, PUT, PATCH, DELETE]}
    purge_on_success: [{tags: products}]
  - name: edit-form
    match: {path: /products/*/edit/, methods: POST}
    purge_on_success: [{tags: products}]
  - name: products
    match: {path: [/products/*, /api/products/*], methods: [GET, HEAD]}
    cache: {ttl: 5m, tags: [products]}
  - name: rest
    cache: {ttl: 1m}
"#;

/// parvis in front of Django. parvis ends first: without its connections gunicorn ends at once.
struct Shop {
    parvis: Parvis,
    django: Django,
}

impl Shop {
    fn open() -> Self {
        let django = Django::start();
        let parvis = parvis(&django, "", "");
        Self { parvis, django }
    }

    fn client(&self) -> Client {
        self.parvis.client()
    }

    /// A stranger's GET.
    fn get(&self, path: &str) -> Response {
        Visitor::default().get(&self.client(), path)
    }

    /// The page is fetched once, whoever asks, and shows `text`.
    #[track_caller]
    fn expect_one_fetch(&self, path: &str, text: &str) {
        let line = format!("GET {path}");
        let before = self.django.count(&line);
        for verdict in ["miss", "hit", "hit"] {
            let response = self.get(path);
            expect(&response, 200, verdict);
            let page = response.text();
            assert!(page.contains(text), "{path} shows {text}: {page}");
        }
        assert_eq!(self.django.count(&line) - before, 1, "{path}");
    }

    /// Logs in by one POST.
    fn log_in(&self, name: &'static str) -> Visitor {
        let mut visitor = Visitor::new(name);
        let form = format!("username={name}&password={name}-secret");
        let answer = visitor.write(&self.client(), "POST", "/quick-login/", &form);
        expect(&answer, 302, "pass");
        visitor.keep_cookies(&answer);
        visitor
    }
}

/// Starts parvis with [`CONFIG`], in which `old` is `new`.
fn parvis(django: &Django, old: &str, new: &str) -> Parvis {
    let config = if old.is_empty() { CONFIG.to_owned() } else { CONFIG.replace(old, new) };
    Parvis::start(&config.replace("{django}", &django.address.to_string()))
}

#[track_caller]
fn expect(response: &Response, status: u16, verdict: &str) {
    let (head, text) = (&response.head, response.text());
    assert_eq!((response.status, response.verdict()), (status, verdict), "{head}{text}");
}

#[test]
fn a_write_through_parvis_shows_at_once_and_then_costs_each_page_one_fetch() {
    let shop = Shop::open();
    let client = shop.client();
    let pages = ["/products/7/", "/api/products/7/", "/products/", "/api/products/"];
    let [page, api, ..] = pages;
    let all_show = |price| pages.iter().for_each(|page| shop.expect_one_fetch(page, price));
    all_show("107.00");

    let refused = Visitor::default().write(&client, "PUT", api, r#"{"name": "mine", "price": "1.00"}"#);
    expect(&refused, 401, "pass");
    expect(&shop.get(page), 200, "hit");
    for (method, name, price, body) in [
        ("PUT", "ada", "5.25", r#"{"name": "product 7", "price": "5.25"}"#),
        ("PATCH", "bob", "6.50", r#"{"price": "6.50"}"#),
    ] {
        expect(&Visitor::with_token(name).write(&client, method, api, body), 200, "pass");
        all_show(price);
    }

    // The worker ends between the write and its answer: it may have been carried out, and must not be repeated.
    let lost = Visitor::default().write(&client, "POST", "/api/products/7/crash/", "price=7.75");
    assert_eq!(lost.status, 502, "{}", lost.head);
    assert_eq!(shop.django.count("POST /api/products/7/crash/"), 1);
    all_show("7.75");

    let ada = Visitor::with_token("ada");
    expect(&ada.write(&client, "DELETE", api, ""), 204, "pass");
    assert_eq!([shop.get(page).status, shop.get(api).status], [404, 404]);
    assert!(!shop.get("/products/").text().contains("product 7<"));

    let new = ada.write(&client, "POST", "/api/products/", r#"{"name": "a lamp", "price": "8.00"}"#);
    expect(&new, 201, "pass");
    shop.expect_one_fetch("/products/", "a lamp");
    shop.expect_one_fetch("/api/products/", "a lamp");
    let location = new.field("location").expect("where it is");
    shop.expect_one_fetch(location.strip_prefix("http://shop.test").expect("the host"), "a lamp");
}

#[test]
fn a_form_post_with_a_session_shows_at_once_and_the_form_is_never_stored() {
    let shop = Shop::open();
    let client = shop.client();
    let (page, form) = ("/products/7/", "/products/7/edit/");
    let mut ada = Visitor::new("ada");
    // By Django's own login form: a cookie and a hidden field that belong together, then a new session.
    let login = ada.get(&client, "/login/");
    ada.keep_cookies(&login);
    let token = form_token(&login.text()).to_owned();
    let body = format!("csrfmiddlewaretoken={token}&username=ada&password=ada-secret");
    let entered = ada.write(&client, "POST", "/login/", &body);
    expect(&entered, 302, "pass");
    ada.keep_cookies(&entered);
    assert!(ada.get(&client, "/greeting/").text().contains("Hello ada!"));

    shop.expect_one_fetch(page, "107.00");
    expect(&ada.write(&client, "POST", form, "price=1.00"), 403, "pass");
    expect(&shop.get(page), 200, "hit");
    let token = form_token(&ada.get(&client, form).text()).to_owned();
    let saved = ada.write(&client, "POST", form, &format!("csrfmiddlewaretoken={token}&price=8.75"));
    expect(&saved, 302, "pass");
    assert_eq!(saved.field("location").as_deref(), Some(page));
    shop.expect_one_fetch(page, "8.75");
    shop.expect_one_fetch("/products/", "8.75");
    // The API takes the same session, with the token in a field.
    let fields = [("X-CSRFToken", ada.cookies["csrftoken"].as_str()), ("Content-Type", "application/json")];
    let patched = ada.send(&client, "PATCH", "/api/products/7/", &fields, r#"{"price": "9.25"}"#);
    expect(&patched, 200, "pass");
    shop.expect_one_fetch(page, "9.25");

    let before = shop.django.count(&format!("GET {form}"));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = shop.get(form);
        assert_ne!(response.verdict(), "hit");
        let secret = unmasked(form_token(&response.text()));
        assert_eq!(
            cookies_set(&response).get("csrftoken"),
            Some(&secret),
            "cookie and field belong together"
        );
        assert!(!seen.contains(&secret), "each visitor has another");
        seen.push(secret);
    }
    assert_eq!(shop.django.count(&format!("GET {form}")) - before, 3);
}

/// Pages that are the same for every stranger.
const PLAIN: &[&str] = &[
    "/plain",
    "/plain/",
    "/json/",
    "/products/",
    "/products/3/",
    "/api/products/",
    "/api/products/3/",
    "/api/whoami/",
    "/greeting/",
    "/erased-vary/greeting/",
    "/theme/",
    "/messages/",
    "/weekday/",
    "/cached-page/",
    "/etag/",
    "/gzip/",
    "/static/shop/site.css",
    "/files/manual.txt",
    "/media/manual.txt",
    "/stream/?chunks=2&pause=0",
    "/slow/?s=0",
    "/echo/",
];

#[test]
fn analytics_cookies_and_campaign_parameters_cost_no_hit_and_never_reach_django() {
    let shop = Shop::open();
    let (mut asked, mut hits) = (0, 0);
    for round in 0..5 {
        for path in PLAIN {
            let sign = if path.contains('?') { '&' } else { '?' };
            let target =
                format!("{path}{sign}utm_source=letter-{round}&gclid=click-{round}&utm_campaign=spring");
            let visitor = Visitor::default()
                .with_cookie("_ga", &format!("GA1.1.{round}"))
                .with_cookie("_gid", &format!("GA1.2.{round}"))
                .with_cookie("_fbp", &format!("fb.1.{round}"));
            let response = visitor.get(&shop.client(), &target);
            let verdict = if round == 0 { "miss" } else { "hit" };
            assert_eq!(response.verdict(), verdict, "{target}: {}", response.head);
            asked += 1;
            hits += usize::from(response.verdict() == "hit");
        }
    }
    assert_eq!(hits * 5, asked * 4, "four of five visits are hits");
    let once: Vec<String> = PLAIN.iter().map(|path| format!("GET {path}")).collect();
    assert_eq!(shop.django.received(), once, "Django saw each page once, without the parameters");
    let received =
        |response: &Response| serde_json::from_slice::<serde_json::Value>(&response.body).expect("JSON");
    let seen = received(&shop.get("/echo/"));
    assert_eq!((seen["target"].as_str(), seen["headers"].get("Cookie")), (Some("/echo/"), None), "{seen}");
    // Any other cookie may change the page: then it passes, as it came.
    let known = Visitor::default().with_cookie("_ga", "1").with_cookie("basket", "2");
    let known = known.get(&shop.client(), "/echo/");
    expect(&known, 200, "pass");
    assert_eq!(received(&known)["headers"]["Cookie"].as_str(), Some("_ga=1; basket=2"));
}

#[test]
fn what_django_says_about_caching_is_obeyed() {
    let shop = Shop::open();
    for path in ["/never-cache/", "/login/"] {
        for _ in 0..3 {
            let response = shop.get(path);
            assert_eq!(response.status, 200);
            assert_ne!(response.verdict(), "hit", "{path}");
        }
        assert_eq!(shop.django.count(&format!("GET {path}")), 3, "{path}");
    }
    for (language, word) in [("en", "(en)"), ("de", "(de)"), ("fr", "(fr)")] {
        for verdict in ["miss", "hit"] {
            let fields = [("Accept-Language", language)];
            let response = Visitor::default().send(&shop.client(), "GET", "/weekday/", &fields, "");
            expect(&response, 200, verdict);
            assert!(response.text().contains(word), "{}", response.text());
        }
    }
    assert_eq!(shop.django.count("GET /weekday/"), 3);

    let style = after(&shop.get("/plain/").text(), "/static/shop/site.").to_owned();
    let style = format!("/static/shop/site.{style}.css");
    let first = shop.get(&style);
    expect(&first, 200, "miss");
    let again = shop.log_in("ada").get(&shop.client(), &style);
    expect(&again, 200, "hit");
    assert_eq!(first.body, again.body);
    assert!(ttl(&again) > 300_000_000, "immutable for ten years: {}", again.head);

    // Django's own cache answers with the age of what it holds; its minute counts from there.
    let age = |response: &Response| response.field("age").map_or(0, |age| age.parse().expect("a number"));
    let direct = shop.django.client();
    eventually("Django's cached page is a second old", || age(&direct.get("/cached-page/")) >= 1);
    expect(&shop.get("/cached-page/"), 200, "miss");
    let hit = shop.get("/cached-page/");
    expect(&hit, 200, "hit");
    assert!(age(&hit) >= 1, "{}", hit.head);
    assert_eq!(age(&hit) + ttl(&hit), 60, "{}", hit.head);
}

/// How many seconds are left, by `Cache-Status`.
fn ttl(response: &Response) -> i64 {
    after(&format!("{}.", response.cache_status()), "ttl=").parse().expect("a number")
}

#[test]
fn an_expired_page_is_validated_and_only_a_changed_one_is_sent_again() {
    let shop = Shop::open();
    let short = parvis(&shop.django, "ttl: 1m", "ttl: 1s");
    let get = |path: &str| Visitor::default().get(&short.client(), path);
    let expired = |path: &str| {
        let mut response = None;
        eventually("the page has expired", || {
            response = Some(get(path)).filter(|response| response.verdict() != "hit");
            response.is_some()
        });
        response.expect("one that is no hit")
    };
    for path in ["/media/manual.txt", "/etag/"] {
        let first = get(path);
        expect(&first, 200, "miss");
        let validated = expired(path);
        expect(&validated, 200, "revalidate");
        assert!(validated.cache_status().contains("; fwd-status=304; stored"), "{}", validated.head);
        assert_eq!(validated.body, first.body, "{path}");
        let lines = [format!("GET {path}"), format!("GET {path} conditional")];
        assert_eq!(lines.map(|line| shop.django.count(&line)), [1, 1], "{path}");
        expect(&get(path), 200, "hit");
    }
    // Behind the back of parvis: only the expiry brings it to light.
    let body = r#"{"price": "4.50"}"#;
    let changed = Visitor::with_token("ada").write(&shop.django.client(), "PATCH", "/api/products/1/", body);
    assert_eq!(changed.status, 200);
    let renewed = expired("/etag/");
    expect(&renewed, 200, "revalidate");
    assert!(!renewed.cache_status().contains("fwd-status=304"), "{}", renewed.head);
    assert!(renewed.text().contains("costs 4.50."), "{}", renewed.text());
}

/// Waits until `text` has arrived, without taking it.
fn await_text(connection: &Connection, text: &str) {
    let mut buffer = vec![0; 64 * 1024];
    eventually(text, || {
        let length = connection.stream.peek(&mut buffer).expect("more to come");
        String::from_utf8_lossy(&buffer[..length]).contains(text)
    });
}

#[test]
fn streams_come_piece_by_piece_and_what_breaks_is_not_stored() {
    let shop = Shop::open();
    // Django goes on only when the test has seen the beginning: held back until the end, it would never come.
    let ask = |path: &str, beginning: &str| {
        let mut connection = shop.client().connect();
        connection.write_request("GET", path, &[], b"");
        await_text(&connection, beginning);
        connection
    };
    let path = "/stream/?chunks=3&pause=0&gate=stream";
    let mut readers = [ask(path, "chunk 0"), ask(path, "chunk 0")];
    shop.django.open_gate("stream");
    let whole = "chunk 0\nchunk 1\nchunk 2\n";
    for reader in &mut readers {
        let response = reader.read_response("GET");
        expect(&response, 200, "miss");
        assert_eq!((response.complete, response.text().as_str()), (true, whole));
    }
    let stored = shop.get(path);
    expect(&stored, 200, "hit");
    assert_eq!(stored.text(), whole);
    assert_eq!(
        shop.django.count(&format!("GET {path}")),
        1,
        "the second reader joined the first one's fetch"
    );

    // The second time parvis knows that events are not for the store.
    for gate in ["first", "second"] {
        let mut reader = ask(&format!("/events/?gate={gate}&utm_source={gate}"), "data: event 0");
        shop.django.open_gate(gate);
        let response = reader.read_response("GET");
        assert_eq!((response.complete, response.text().matches("data: ").count()), (true, 3), "{gate}");
        assert_ne!(response.verdict(), "hit", "{}", response.head);
    }

    for (path, status, complete, text) in [
        ("/stream/broken/", 200, false, "the beginning\n"),
        ("/error/", 500, true, "Server Error (500)"),
        ("/status/503/", 503, true, "status 503"),
    ] {
        for _ in 0..2 {
            let response = shop.get(path);
            expect(&response, status, "miss");
            assert_eq!(response.complete, complete, "{path}");
            assert!(response.text().contains(text), "{}", response.text());
        }
        assert_eq!(shop.django.count(&format!("GET {path}")), 2, "{path}");
    }
}

#[test]
fn a_crowd_costs_one_run_and_never_sees_a_price_older_than_an_answered_write() {
    let shop = Shop::open();
    let barrier = Barrier::new(40);
    let ask = || {
        let mut connection = shop.client().connect();
        barrier.wait();
        connection.write_request("GET", "/slow/?s=1", &[], b"");
        connection.read_response("GET")
    };
    let responses: Vec<Response> = thread::scope(|scope| {
        let crowd: Vec<_> = (0..40).map(|_| scope.spawn(ask)).collect();
        crowd.into_iter().map(|asking| asking.join().expect("a response")).collect()
    });
    for response in &responses {
        // Each answer names the run it comes from.
        assert_eq!((response.status, &response.body), (200, &responses[0].body), "{}", response.head);
    }
    assert_eq!(shop.django.count("GET /slow/?s=1"), 1);
    readers_see_each_price_once_it_is_acknowledged(&shop);
}

fn readers_see_each_price_once_it_is_acknowledged(shop: &Shop) {
    let (acknowledged, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let read = |path: &str, before: &str| {
        let mut hits = 0;
        while !done.load(Ordering::SeqCst) {
            let least = acknowledged.load(Ordering::SeqCst);
            let response = shop.get(path);
            let price: u32 = after(&response.text(), before).parse().expect("a price");
            assert!(price >= least, "{path} shows {price} after {least}: {}", response.head);
            hits += usize::from(response.verdict() == "hit");
        }
        assert!(hits > 0, "{path}: no hit between the writes");
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| read("/products/7/", "id=\"price\">"));
            scope.spawn(|| read("/api/products/7/", "\"price\":\""));
        }
        let writer = scope.spawn(|| {
            for price in 1000..1040 {
                let body = format!(r#"{{"price": "{price}.00"}}"#);
                let ada = Visitor::with_token("ada");
                expect(&ada.write(&shop.client(), "PATCH", "/api/products/7/", &body), 200, "pass");
                acknowledged.store(price, Ordering::SeqCst);
            }
        });
        let written = writer.join();
        // Also when a write failed, or the readers would never end.
        done.store(true, Ordering::SeqCst);
        written.expect("every write succeeds");
    });
}

#[test]
fn a_restart_and_the_closed_connections_of_gunicorn_are_no_errors() {
    let mut shop = Shop::open();
    // One parvis closes idle connections before gunicorn does; the other keeps them and meets closed ones.
    let patient = parvis(&shop.django, "idle: 1500ms", "idle: 30s");
    let clients = [shop.client(), patient.client()];
    let works = |round: &str| {
        let path = format!("/products/?round={round}");
        for client in &clients {
            expect(&Visitor::default().get(client, &path), 200, "miss");
            expect(&Visitor::default().with_cookie("basket", "1").get(client, &path), 200, "pass");
            let posted = Visitor::default().write(client, "POST", "/echo/", "a=1");
            expect(&posted, 200, "pass");
            assert!(posted.text().contains("\"body\": \"a=1\""), "{}", posted.text());
        }
    };
    works("0");
    for round in ["1", "2", "3"] {
        // gunicorn closes a connection that was idle for two seconds.
        thread::sleep(Duration::from_millis(2200));
        works(round);
    }

    shop.django.stop();
    for client in &clients {
        for (method, path) in [("GET", "/products/?new"), ("GET", "/plain/"), ("POST", "/echo/")] {
            let failed = client.send(method, path, &[], b"");
            assert_eq!(failed.status, 502, "{}", failed.head);
            let id = failed.field("x-request-id").expect("a request id");
            assert!(failed.text().contains(&id), "{}", failed.text());
        }
        expect(&client.get("/products/?round=3"), 200, "hit");
    }
    shop.django.start_again();
    works("4");
}
