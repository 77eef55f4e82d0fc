//! In front of a real Django application under gunicorn: pages, forms, sessions and an API as sites have them.
//! What Django really did is read in its own log.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::client::Connection;
use crate::support::{Client, Directory, Parvis, Response, eventually, free_port};

/// What the operator of this shop would write. The last route shares for a minute whatever seems to be the same
/// for everyone, so that a personal page that slips through would be seen by others.
const CONFIG: &str = r#"
listen: "{listen}"
admin: {listen: "{admin}"}
upstreams:
  shop: {servers: ["{django}"]}
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

/// gunicorn with the shop, in a directory of its own.
struct Django {
    address: SocketAddr,
    directory: Directory,
    server: Child,
}

impl Django {
    fn start() -> Self {
        let setup = Command::new(shop_source().join("setup.sh"))
            .arg(environment())
            .stdout(Stdio::null())
            .status();
        assert!(
            setup.expect("setup.sh runs").success(),
            "tests/django/setup.sh failed"
        );
        let directory = Directory::new();
        let seed = command("python", &directory, "")
            .arg(shop_source().join("shop/manage.py"))
            .arg("seed")
            .status();
        assert!(seed.expect("python runs").success(), "{}", said(&directory));
        // Between finding a port and listening on it another test may take it.
        for _ in 0..5 {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Some(server) = serve(&directory, address) {
                return Self {
                    address,
                    directory,
                    server,
                };
            }
        }
        panic!("gunicorn did not start five times: {}", said(&directory));
    }

    fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The requests that Django received, in order: `METHOD TARGET`, with ` conditional` behind it where they are.
    fn received(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.path().join("hits.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.received()
            .iter()
            .filter(|received| *received == line)
            .count()
    }

    /// Lets the streams go on that wait for this gate.
    fn open_gate(&self, name: &str) {
        self.directory.write(&format!("gate-{name}"), "");
    }

    /// Ends gunicorn as an operator would.
    fn stop(&mut self) {
        let _ = Command::new("kill")
            .args(["-TERM", &self.server.id().to_string()])
            .status();
        eventually("gunicorn has ended", || {
            self.server.try_wait().expect("its state").is_some()
        });
    }

    fn start_again(&mut self) {
        self.server = serve(&self.directory, self.address).expect("its port is still free");
    }
}

impl Drop for Django {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-TERM", &self.server.id().to_string()])
            .status();
        for _ in 0..1000 {
            if self.server.try_wait().is_ok_and(|state| state.is_some()) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // Its workers end by themselves once it is gone.
        let _ = self.server.kill();
        let _ = self.server.wait();
        if thread::panicking() {
            eprintln!("--- gunicorn said:\n{}", said(&self.directory));
        }
    }
}

fn shop_source() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/django"))
}

/// The virtual environment, beside what cargo builds.
fn environment() -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("django-venv")
}

fn command(program: &str, directory: &Directory, bind: &str) -> Command {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.path().join("gunicorn.log"));
    let mut command = Command::new(environment().join("bin").join(program));
    command
        .env("SHOP_DB", directory.path().join("shop.sqlite3"))
        .env("SHOP_STATIC", directory.path().join("static"))
        .env("SHOP_LOG", directory.path().join("hits.log"))
        .env("SHOP_BIND", bind)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("a log file"));
    command
}

fn said(directory: &Directory) -> String {
    std::fs::read_to_string(directory.path().join("gunicorn.log")).unwrap_or_default()
}

/// Starts gunicorn; `None` when its port was taken meanwhile.
fn serve(directory: &Directory, address: SocketAddr) -> Option<Child> {
    let mut gunicorn = command("gunicorn", directory, &address.to_string());
    let mut server = gunicorn
        .arg("-c")
        .arg(shop_source().join("gunicorn.conf.py"))
        .spawn()
        .expect("gunicorn starts");
    let up = || {
        std::net::TcpStream::connect(address).is_ok() && Client::new(address).get("/health/").status == 200
    };
    let taken = || said(directory).contains("in use");
    eventually("gunicorn is healthy, or has ended", || {
        server.try_wait().expect("its state").is_some() || taken() || up()
    });
    if taken() {
        let _ = server.kill();
        let _ = server.wait();
        return None;
    }
    assert!(up(), "gunicorn ended: {}", said(directory));
    Some(server)
}

/// parvis in front of Django. parvis ends first: without its connections gunicorn ends at once.
struct Shop {
    parvis: Parvis,
    django: Django,
}

impl Shop {
    fn open() -> Self {
        let django = Django::start();
        let parvis = Parvis::start(&config(&django));
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
    fn expect_one_fetch(&self, path: &str, text: &str) {
        let line = format!("GET {path}");
        let before = self.django.count(&line);
        for verdict in ["miss", "hit", "hit"] {
            let response = self.get(path);
            assert_eq!(
                (response.status, response.verdict()),
                (200, verdict),
                "{path}: {}",
                response.head
            );
            assert!(
                response.text().contains(text),
                "{path} shows {text}: {}",
                response.text()
            );
        }
        assert_eq!(self.django.count(&line) - before, 1, "{path}");
    }

    /// Logs in by one POST.
    fn log_in(&self, name: &'static str) -> Visitor {
        let mut visitor = Visitor {
            name,
            ..Visitor::default()
        };
        let form = format!("username={name}&password={name}-secret");
        let answer = visitor.send(&self.client(), "POST", "/quick-login/", &[], &form);
        assert_eq!(
            (answer.status, answer.verdict()),
            (302, "pass"),
            "{}",
            answer.head
        );
        visitor.keep_cookies(&answer);
        visitor
    }
}

fn config(django: &Django) -> String {
    CONFIG.replace("{django}", &django.address.to_string())
}

/// Someone with a browser, or a program with a token.
#[derive(Clone, Default)]
struct Visitor {
    /// The name of the account, if any.
    name: &'static str,
    fields: Vec<(&'static str, String)>,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    fn with_token(name: &'static str) -> Self {
        let token = format!("Token {:0<40}", format!("token-of-{name}-"));
        Self {
            name,
            fields: vec![("Authorization", token)],
            ..Self::default()
        }
    }

    fn with_cookie(mut self, name: &str, value: &str) -> Self {
        self.cookies.insert(name.to_owned(), value.to_owned());
        self
    }

    fn get(&self, to: &Client, path: &str) -> Response {
        self.send(to, "GET", path, &[], "")
    }

    /// Sends a request; a body is JSON or a form. What comes from the store never sets a cookie.
    fn send(&self, to: &Client, method: &str, path: &str, more: &[(&str, &str)], body: &str) -> Response {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let cookies = cookies.join("; ");
        let mut fields: Vec<(&str, &str)> = self
            .fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        fields.extend(more);
        if !cookies.is_empty() {
            fields.push(("Cookie", &cookies));
        }
        if !body.is_empty() {
            let form = "application/x-www-form-urlencoded";
            fields.push((
                "Content-Type",
                if body.starts_with('{') {
                    "application/json"
                } else {
                    form
                },
            ));
        }
        let response = to.send(method, path, &fields, body.as_bytes());
        let stored =
            matches!(response.verdict(), "hit" | "stale") || response.cache_status().contains("; stored");
        assert!(
            !stored || cookies_set(&response).is_empty(),
            "{path}: {}",
            response.head
        );
        response
    }

    /// Takes over the cookies of a response, as a browser does.
    fn keep_cookies(&mut self, response: &Response) {
        self.cookies.extend(cookies_set(response));
    }

    fn has_session(&self) -> bool {
        self.cookies.contains_key("sessionid")
    }

    fn is_stranger(&self) -> bool {
        self.cookies.is_empty() && self.name.is_empty()
    }
}

/// The cookies that a response sets, without those that it deletes.
fn cookies_set(response: &Response) -> BTreeMap<String, String> {
    let lines = response
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    let pairs = lines.filter_map(|(_, line)| line.split(';').next()?.split_once('='));
    pairs
        .filter(|(_, value)| *value != "\"\"")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What stands in the page behind `before`.
fn after<'a>(page: &'a str, before: &str) -> &'a str {
    let start = page.find(before).unwrap_or_else(|| panic!("{before} in {page}")) + before.len();
    page[start..].split(['"', '<', '.']).next().expect("one part")
}

/// The hidden field of a form.
fn form_token(page: &str) -> &str {
    after(page, "csrfmiddlewaretoken\" value=\"")
}

/// The secret behind a form's token, which Django masks anew for each page; the cookie holds it unmasked.
fn unmasked(token: &str) -> String {
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
    let at = |c: char| {
        letters
            .iter()
            .position(|letter| *letter == c)
            .expect("a letter of a token")
    };
    let (mask, cipher) = token.split_at(32);
    let pairs = cipher.chars().zip(mask.chars());
    pairs
        .map(|(c, m)| letters[(at(c) + letters.len() - at(m)) % letters.len()])
        .collect()
}

#[test]
fn a_write_through_parvis_shows_at_once_and_then_costs_each_page_one_fetch() {
    let shop = Shop::open();
    let pages = ["/products/7/", "/api/products/7/", "/products/", "/api/products/"];
    let expect = |price| pages.iter().for_each(|page| shop.expect_one_fetch(page, price));
    expect("107.00");
    let refused = Visitor::default().send(&shop.client(), "PUT", pages[1], &[], r#"{"price": "1.00"}"#);
    assert_eq!(
        (refused.status, shop.get(pages[0]).verdict()),
        (401, "hit"),
        "what is refused removes nothing"
    );
    for (method, name, price, body) in [
        ("PUT", "ada", "5.25", r#"{"name": "product 7", "price": "5.25"}"#),
        ("PATCH", "bob", "6.50", r#"{"price": "6.50"}"#),
    ] {
        let answer = Visitor::with_token(name).send(&shop.client(), method, pages[1], &[], body);
        assert_eq!(
            (answer.status, answer.verdict()),
            (200, "pass"),
            "{}",
            answer.head
        );
        expect(price);
    }

    // The worker ends between the write and its answer: it may have been carried out, and must not be repeated.
    let lost = Visitor::default().send(
        &shop.client(),
        "POST",
        "/api/products/7/crash/",
        &[],
        "price=7.75",
    );
    assert_eq!(lost.status, 502, "{}", lost.head);
    assert_eq!(shop.django.count("POST /api/products/7/crash/"), 1);
    expect("7.75");

    let ada = Visitor::with_token("ada");
    let gone = ada.send(&shop.client(), "DELETE", pages[1], &[], "");
    assert_eq!((gone.status, gone.verdict()), (204, "pass"), "{}", gone.head);
    assert_eq!([shop.get(pages[0]).status, shop.get(pages[1]).status], [404, 404]);
    assert!(!shop.get("/products/").text().contains("product 7<"));

    let new = ada.send(
        &shop.client(),
        "POST",
        "/api/products/",
        &[],
        r#"{"name": "a lamp", "price": "8.00"}"#,
    );
    assert_eq!((new.status, new.verdict()), (201, "pass"), "{}", new.head);
    shop.expect_one_fetch("/products/", "a lamp");
    shop.expect_one_fetch(
        new.field("location")
            .expect("its URL")
            .trim_start_matches("http://shop.test"),
        "a lamp",
    );
}

#[test]
fn a_form_post_with_a_session_shows_at_once_and_the_form_is_never_stored() {
    let shop = Shop::open();
    let (page, form) = ("/products/7/", "/products/7/edit/");
    let mut ada = Visitor {
        name: "ada",
        ..Visitor::default()
    };
    // By Django's own form: a cookie and a hidden field that belong together, and a new session.
    let login = ada.get(&shop.client(), "/login/");
    ada.keep_cookies(&login);
    let token = form_token(&login.text()).to_owned();
    let body = format!("csrfmiddlewaretoken={token}&username=ada&password=ada-secret");
    let origin = [("Origin", "http://shop.test")];
    let entered = ada.send(&shop.client(), "POST", "/login/", &origin, &body);
    assert_eq!(
        (entered.status, entered.field("location").as_deref()),
        (302, Some("/greeting/")),
        "{}",
        entered.head
    );
    ada.keep_cookies(&entered);
    assert!(
        ada.get(&shop.client(), "/greeting/")
            .text()
            .contains("Hello ada!")
    );

    shop.expect_one_fetch(page, "107.00");
    let refused = ada.send(&shop.client(), "POST", form, &origin, "price=1.00");
    assert_eq!(
        (refused.status, shop.get(page).verdict()),
        (403, "hit"),
        "what is refused removes nothing"
    );
    let token = form_token(&ada.get(&shop.client(), form).text()).to_owned();
    let body = format!("csrfmiddlewaretoken={token}&price=8.75");
    let saved = ada.send(&shop.client(), "POST", form, &origin, &body);
    assert_eq!(
        (saved.status, saved.field("location").as_deref()),
        (302, Some(page)),
        "{}",
        saved.head
    );
    shop.expect_one_fetch(page, "8.75");
    shop.expect_one_fetch("/products/", "8.75");
    // The API takes the same session, with the token in a field.
    let secret = ada.cookies["csrftoken"].clone();
    let body = r#"{"price": "9.25"}"#;
    let patched = ada.send(
        &shop.client(),
        "PATCH",
        "/api/products/7/",
        &[("X-CSRFToken", &secret)],
        body,
    );
    assert_eq!(patched.status, 200, "{}", patched.text());
    shop.expect_one_fetch(page, "9.25");

    let before = shop.django.count(&format!("GET {form}"));
    let forms: Vec<Response> = (0..3).map(|_| shop.get(form)).collect();
    let secrets: Vec<String> = forms
        .iter()
        .map(|form| unmasked(form_token(&form.text())))
        .collect();
    for (form, secret) in forms.iter().zip(&secrets) {
        assert_ne!(form.verdict(), "hit");
        assert_eq!(
            cookies_set(form).get("csrftoken"),
            Some(secret),
            "cookie and field belong together"
        );
        assert_eq!(
            secrets.iter().filter(|other| *other == secret).count(),
            1,
            "each visitor has another"
        );
    }
    assert_eq!(shop.django.count(&format!("GET {form}")) - before, 3);
}

/// Whose each secret is that was seen: session ids, other cookies' values, the secrets behind form tokens.
#[derive(Default)]
struct Ledger {
    owners: HashMap<String, String>,
    responses: usize,
    hits: usize,
}

impl Ledger {
    /// The response to `visitor` holds nobody else's secret, and is what Django itself answers them.
    fn check(&mut self, shop: &Shop, visitor: &Visitor, (path, more): Ask<'_>, response: &Response) {
        self.responses += 1;
        self.hits += usize::from(response.verdict() == "hit");
        let seen = format!(
            "{path} for {:?}: {}{}",
            visitor.cookies,
            response.head,
            response.text()
        );
        assert!(visitor.is_stranger() || response.verdict() == "pass", "{seen}");
        // Without a session whatever is secret was made for this one response.
        let owner = if visitor.has_session() {
            visitor.name.to_owned()
        } else {
            format!("response {}", self.responses)
        };
        let page = response.text();
        let tokens = words(&page).filter(|word| word.len() == 64).map(unmasked);
        for secret in cookies_set(response).into_values().chain(tokens) {
            let first = self.owners.entry(secret).or_insert_with(|| owner.clone());
            assert_eq!(*first, owner, "another's secret in {seen}");
        }
        for name in ["ada", "bob"].iter().filter(|name| **name != visitor.name) {
            assert!(!words(&page).any(|word| word == *name), "{name} in {seen}");
        }
        let direct = visitor.send(&shop.django.client(), "GET", path, more, "");
        let next = visit_number(&page).map(|number| number + u32::from(visitor.has_session()));
        assert_eq!(next, visit_number(&direct.text()), "{seen}");
        assert_eq!(essence(response), essence(&direct), "{path}");
    }
}

/// A path, and the fields to ask with.
type Ask<'a> = (&'a str, &'a [(&'a str, &'a str)]);

fn words(page: &str) -> impl Iterator<Item = &str> {
    page.split(|c: char| !c.is_ascii_alphanumeric())
}

fn visit_number(page: &str) -> Option<u32> {
    page.contains("Visit number ")
        .then(|| after(page, "Visit number ").parse().expect("a number"))
}

/// What must be the same whether asked through parvis or not: all but what Django makes anew for each response.
fn essence(response: &Response) -> (u16, Vec<Option<String>>, Vec<String>, String) {
    let fields = [
        "content-type",
        "content-language",
        "location",
        "vary",
        "cache-control",
        "allow",
    ];
    let mut page = response.text();
    if let Some(number) = visit_number(&page) {
        page = page.replace(&format!("number {number}."), "number N.");
    }
    for secret in words(&response.text()).filter(|word| word.len() >= 32) {
        page = page.replace(secret, "SECRET");
    }
    let fields = fields.iter().map(|name| response.field(name)).collect();
    (
        response.status,
        fields,
        cookies_set(response).into_keys().collect(),
        page,
    )
}

const AS_PAGE: &[(&str, &str)] = &[("Accept", "text/html")];
const PERSONAL: &[Ask<'static>] = &[
    ("/greeting/", &[]),
    ("/erased-vary/greeting/", &[]),
    ("/form/", &[]),
    ("/erased-vary/form/", &[]),
    ("/products/3/edit/", &[]),
    ("/login/", &[]),
    ("/visits/", &[]),
    ("/messages/", &[]),
    ("/theme/", &[]),
    ("/weekday/", &[]),
    ("/weekday/", &[("Accept-Language", "de")]),
    ("/legacy/", &[]),
    ("/api/me/", &[]),
    ("/api/me/session/", &[]),
    ("/api/whoami/", &[]),
    ("/api/whoami/", AS_PAGE),
    ("/api/products/3/", AS_PAGE),
];

#[test]
fn nobody_receives_what_was_made_for_another() {
    let shop = Shop::open();
    let mut ledger = Ledger::default();
    let visitors = [
        Visitor::default(),
        shop.log_in("ada").with_cookie("theme", "dark"),
        shop.log_in("bob").with_cookie("django_language", "fr"),
        Visitor::with_token("ada"),
        Visitor::with_token("bob"),
        Visitor::default()
            .with_cookie("theme", "blue")
            .with_cookie("django_language", "de"),
    ];
    for visitor in visitors.iter().filter(|visitor| visitor.has_session()) {
        for name in ["sessionid", "csrftoken"] {
            ledger
                .owners
                .insert(visitor.cookies[name].clone(), visitor.name.to_owned());
        }
    }
    for round in 0..3 {
        for (index, ask) in PERSONAL.iter().enumerate() {
            // Everyone is the first to ask at some time.
            for turn in 0..visitors.len() {
                let visitor = &visitors[(round + index + turn) % visitors.len()];
                let response = visitor.send(&shop.client(), "GET", ask.0, ask.1, "");
                ledger.check(&shop, visitor, *ask, &response);
            }
        }
        leave_messages_and_log_in(&shop, &visitors, &mut ledger, round);
    }
    assert!(ledger.hits > 0, "strangers do share pages here");
    // All at once, on pages that nothing is known of: strangers wait for a fetch that turns out to be personal.
    for (path, more) in PERSONAL {
        let path = format!("{path}?fresh");
        let crowd: Vec<&Visitor> = visitors.iter().chain([&visitors[0]; 3]).collect();
        let ask = |visitor: &Visitor| visitor.send(&shop.client(), "GET", &path, more, "");
        let responses: Vec<Response> = thread::scope(|scope| {
            let asking: Vec<_> = crowd.iter().map(|visitor| scope.spawn(|| ask(visitor))).collect();
            asking
                .into_iter()
                .map(|asking| asking.join().expect("a response"))
                .collect()
        });
        for (visitor, response) in crowd.iter().zip(&responses) {
            ledger.check(&shop, visitor, (&path, more), response);
        }
    }
}

/// Everyone leaves a message, then everyone reads theirs; and ada and bob log in once more, by turns.
fn leave_messages_and_log_in(shop: &Shop, visitors: &[Visitor], ledger: &mut Ledger, round: usize) {
    let leave = |(index, visitor): (usize, &Visitor)| {
        let path = format!("/messages/add/?text=note-{round}-{index}");
        let left = visitor.get(&shop.client(), &path);
        assert_eq!(left.status, 302, "{}", left.head);
        visitor
            .clone()
            .with_cookie("messages", &cookies_set(&left)["messages"])
    };
    let readers: Vec<Visitor> = visitors.iter().enumerate().map(leave).collect();
    for (index, reader) in readers.iter().enumerate() {
        let response = reader.get(&shop.client(), "/messages/");
        assert_eq!(
            after(&response.text(), "class=\"message\">"),
            format!("note-{round}-{index}")
        );
        ledger.check(shop, reader, ("/messages/", &[]), &response);
    }
    for name in ["ada", "bob"] {
        let again = shop.log_in(name);
        for secret in again.cookies.values() {
            assert!(
                ledger
                    .owners
                    .insert(secret.clone(), format!("login {round} of {name}"))
                    .is_none()
            );
        }
        let me = again.get(&shop.client(), "/api/me/session/").text();
        assert!(me.contains(&format!("for the eyes of {name} only")), "{me}");
    }
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
            let expected = if round == 0 { "miss" } else { "hit" };
            assert_eq!(response.verdict(), expected, "{target}: {}", response.head);
            asked += 1;
            hits += usize::from(response.verdict() == "hit");
        }
    }
    assert_eq!(hits * 5, asked * 4, "four of five visits are hits");
    let once: Vec<String> = PLAIN.iter().map(|path| format!("GET {path}")).collect();
    assert_eq!(
        shop.django.received(),
        once,
        "Django saw each page once, without the parameters"
    );
    let seen: serde_json::Value = serde_json::from_slice(&shop.get("/echo/").body).expect("JSON");
    assert_eq!(
        (seen["target"].as_str(), seen["headers"].get("Cookie")),
        (Some("/echo/"), None),
        "{seen}"
    );
    // Any other cookie may change the page: it passes, as it came.
    let known = Visitor::default()
        .with_cookie("_ga", "1")
        .with_cookie("basket", "2")
        .get(&shop.client(), "/echo/");
    let seen: serde_json::Value = serde_json::from_slice(&known.body).expect("JSON");
    assert_eq!(
        (known.verdict(), seen["headers"]["Cookie"].as_str()),
        ("pass", Some("_ga=1; basket=2"))
    );
}

#[test]
fn what_django_says_about_caching_is_obeyed() {
    let shop = Shop::open();
    for path in ["/never-cache/", "/login/"] {
        let responses = [shop.get(path), shop.get(path), shop.get(path)];
        assert!(
            responses
                .iter()
                .all(|response| response.status == 200 && response.verdict() != "hit")
        );
        assert_eq!(shop.django.count(&format!("GET {path}")), 3, "{path}");
    }
    for (language, word) in [("en", "(en)"), ("de", "(de)"), ("fr", "(fr)")] {
        for verdict in ["miss", "hit"] {
            let fields = [("Accept-Language", language)];
            let response = Visitor::default().send(&shop.client(), "GET", "/weekday/", &fields, "");
            assert_eq!(
                (response.verdict(), response.text().contains(word)),
                (verdict, true),
                "{language}"
            );
        }
    }
    assert_eq!(shop.django.count("GET /weekday/"), 3);

    let plain = shop.get("/plain/").text();
    let style = after(&plain, "href=\"/static/shop/site.");
    let style = format!("/static/shop/site.{style}.css");
    let known = shop.log_in("ada");
    let (first, second) = (shop.get(&style), known.get(&shop.client(), &style));
    assert_eq!([first.verdict(), second.verdict()], ["miss", "hit"], "{style}");
    assert_eq!((first.body == second.body, first.body.is_empty()), (true, false));
    assert!(seconds(&second, "ttl=") > 300_000_000, "{}", second.head);

    // Django's own cache answers with the age of what it holds; the minute counts from there.
    let age = |response: &Response| {
        response
            .field("age")
            .map_or(0, |age| age.parse().expect("a number"))
    };
    eventually("Django's cached page is a second old", || {
        age(&shop.django.client().get("/cached-page/")) >= 1
    });
    assert_eq!(shop.get("/cached-page/").verdict(), "miss");
    let hit = shop.get("/cached-page/");
    assert_eq!((hit.verdict(), age(&hit) >= 1), ("hit", true), "{}", hit.head);
    assert_eq!(age(&hit) + seconds(&hit, "ttl="), 60, "{}", hit.head);
}

fn seconds(response: &Response, name: &str) -> i64 {
    let status = response.cache_status();
    let value = status
        .split("; ")
        .find_map(|part| part.strip_prefix(name))
        .unwrap_or_else(|| panic!("{status}"));
    value.parse().expect("a number")
}

#[test]
fn an_expired_page_is_validated_and_fetched_anew_only_when_it_changed() {
    let shop = Shop::open();
    let short = Parvis::start(&config(&shop.django).replace("ttl: 1m", "ttl: 1s"));
    let get = |path: &str| Visitor::default().get(&short.client(), path);
    let expired = |path: &str| {
        let mut response = get(path);
        eventually("it has expired", || {
            response = get(path);
            response.verdict() != "hit"
        });
        response
    };
    for path in ["/etag/", "/media/manual.txt"] {
        let first = get(path);
        assert_eq!(first.verdict(), "miss");
        let validated = expired(path);
        assert!(
            validated
                .cache_status()
                .contains("fwd=stale; fwd-status=304; stored"),
            "{}",
            validated.head
        );
        assert_eq!((validated.status, validated.body), (200, first.body), "{path}");
        let lines = [
            shop.django.count(&format!("GET {path}")),
            shop.django.count(&format!("GET {path} conditional")),
        ];
        assert_eq!(lines, [1, 1], "{path}: {:?}", shop.django.received());
        assert_eq!(get(path).verdict(), "hit", "{path}");
    }
    // Behind the back of parvis: only the expiry brings it to light.
    let ada = Visitor::with_token("ada");
    let changed = ada.send(
        &shop.django.client(),
        "PATCH",
        "/api/products/1/",
        &[],
        r#"{"price": "4.50"}"#,
    );
    assert_eq!(changed.status, 200);
    let renewed = expired("/etag/");
    assert!(
        renewed.cache_status().contains("fwd=stale; stored"),
        "{}",
        renewed.head
    );
    assert!(renewed.text().contains("costs 4.50."), "{}", renewed.text());
    assert_eq!(get("/etag/").body, renewed.body);
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
        assert_eq!(
            (response.complete, response.text().as_str()),
            (true, whole),
            "{}",
            response.head
        );
    }
    let stored = shop.get(path);
    assert_eq!(
        (stored.verdict(), stored.text().as_str()),
        ("hit", whole),
        "{}",
        stored.head
    );
    assert_eq!(
        shop.django.count(&format!("GET {path}")),
        1,
        "the second reader joined the first one's fetch"
    );

    for gate in ["one", "two"] {
        // The second time parvis knows that events are not for the store.
        let mut reader = ask("/events/?gate=events", "data: event 0");
        shop.django.open_gate("events");
        let response = reader.read_response("GET");
        assert_eq!(
            (response.complete, response.text().matches("data: ").count()),
            (true, 3),
            "{gate}"
        );
        assert_ne!(response.verdict(), "hit");
        let _ = std::fs::remove_file(shop.django.directory.path().join("gate-events"));
    }

    for (path, status, complete, text) in [
        ("/stream/broken/", 200, false, "the beginning\n"),
        ("/error/", 500, true, "Server Error (500)"),
        ("/status/503/", 503, true, "status 503"),
    ] {
        for _ in 0..2 {
            let response = shop.get(path);
            assert_eq!(
                (response.status, response.complete),
                (status, complete),
                "{path}: {}",
                response.head
            );
            assert_eq!(
                (response.text().contains(text), response.verdict() == "hit"),
                (true, false),
                "{path}"
            );
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
        crowd
            .into_iter()
            .map(|asking| asking.join().expect("a response"))
            .collect()
    });
    for response in &responses {
        assert_eq!(
            (response.status, response.text()),
            (200, responses[0].text()),
            "{}",
            response.head
        );
    }
    assert_eq!(shop.django.count("GET /slow/?s=1"), 1);

    // Readers never rest; each notes the price last acknowledged before it asks.
    let (acknowledged, done) = (AtomicU32::new(0), AtomicBool::new(false));
    let read = |path: &str, before: &str| {
        let (mut hits, mut reads) = (0, 0);
        while !done.load(Ordering::SeqCst) {
            let floor = acknowledged.load(Ordering::SeqCst);
            let response = shop.get(path);
            let price: u32 = after(&response.text(), before).parse().expect("a price");
            assert!(
                price >= floor,
                "{path} shows {price} after {floor} was acknowledged: {}",
                response.head
            );
            reads += 1;
            hits += usize::from(response.verdict() == "hit");
        }
        assert!(hits > 0, "{path}: none of {reads} was a hit");
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| read("/products/7/", "id=\"price\">"));
            scope.spawn(|| read("/api/products/7/", "\"price\":\""));
        }
        for price in 1000..1040 {
            let body = format!(r#"{{"price": "{price}.00"}}"#);
            let answer =
                Visitor::with_token("ada").send(&shop.client(), "PATCH", "/api/products/7/", &[], &body);
            assert_eq!(answer.status, 200, "{}", answer.text());
            acknowledged.store(price, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_restart_and_the_closed_connections_of_gunicorn_are_no_errors() {
    let mut shop = Shop::open();
    // One parvis closes idle connections before gunicorn does; the other keeps them and meets closed ones.
    let servers = format!("servers: [\"{}\"]", shop.django.address);
    let patient = format!("{servers}, timeouts: {{idle: 30s}}");
    let patient = Parvis::start(&config(&shop.django).replace(&servers, &patient));
    let clients = [shop.client(), patient.client()];
    let works = |round: &str| {
        let path = format!("/products/?round={round}");
        for client in &clients {
            let fetched = Visitor::default().get(client, &path);
            assert_eq!(
                (fetched.status, fetched.verdict()),
                (200, "miss"),
                "{round}: {}",
                fetched.head
            );
            let passed = Visitor::default().with_cookie("basket", "1").get(client, &path);
            assert_eq!(
                (passed.status, passed.verdict()),
                (200, "pass"),
                "{round}: {}",
                passed.head
            );
            let posted = Visitor::default().send(client, "POST", "/echo/", &[], "a=1");
            assert_eq!(
                (posted.status, posted.verdict()),
                (200, "pass"),
                "{round}: {}",
                posted.head
            );
            assert!(posted.text().contains("\"a=1\""), "{}", posted.text());
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
            let id = failed.field("x-request-id").expect("a request id");
            assert_eq!(
                (failed.status, failed.text().contains(&id)),
                (502, true),
                "{}{}",
                failed.head,
                failed.text()
            );
        }
        assert_eq!(
            client.get("/products/?round=3").verdict(),
            "hit",
            "what is stored is still there"
        );
    }
    shop.django.start_again();
    works("4");
}
