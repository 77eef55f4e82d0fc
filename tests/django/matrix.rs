//! What an operator gets who wants effect, and whether it stays safe: every kind of page that origins have, asked for
//! by strangers, by two people who are logged in and by two programs with tokens. Each response is compared with what
//! Django itself answers the same visitor, and each is a hit exactly when the configuration says that it can be.

use std::collections::BTreeSet;
use std::thread;

use super::Shop;
use super::gunicorn::Django;
use super::privacy::{Ask, Ledger, logins_open_a_session_of_ones_own, messages_reach_who_left_them};
use super::visitor::{Visitor, after};
use crate::support::{Parvis, Response};

/// Every lifetime is longer than the test, so that a slow machine changes no number.
const CONFIG: &str = r#"
listen: "{listen}"
admin: {listen: "{admin}"}
upstreams:
  shop: {servers: ["{django}"], timeouts: {idle: 1500ms}}
cache_defaults:
  ttl: 10m
  vary: {accept-language: [en, de, fr], accept: [application/json, text/html]}
routes:
  - name: static
    match: {path: /static/*}
    cache: {ttl: 1h, origin_cache_control: override, ignore_cookies: ["*"]}
  - name: api
    match: {path: /api/*, methods: [GET, HEAD]}
    cache:
      key: {headers: [Authorization], cookies: [sessionid, csrftoken]}
      ignore_cookies: [_ga, _gid, _fbp, theme, django_language]
  # Said to be the same for everyone, which the guard has to find out: of one page it is not true.
  - name: shared
    match:
      path: [/json/, /files/*, /media/*, /gzip/, /etag/, /welcome/, /erased-vary/welcome/]
      methods: [GET, HEAD]
    cache: {forward_cookies: [sessionid, csrftoken, theme, django_language]}
  - name: page-cache
    match: {path: /cached-page/, methods: [GET, HEAD]}
    cache: {origin_cache_control: override, key: {cookies: [sessionid, csrftoken, theme, django_language]}}
  - name: per-session
    match:
      path: [/plain/, /greeting/, /form/, /visits/, /products/*, /theme/, /weekday/, /erased-vary/*]
      methods: [GET, HEAD]
    cache: {key: {cookies: [sessionid, csrftoken, theme, django_language]}}
  - name: rest
"#;

const ROUNDS: usize = 5;

/// For whom there is an entry, on the route that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entries {
    /// For nobody, whatever the route.
    None,
    /// One for all strangers; whoever can be told from others passes.
    OfStrangers,
    /// One for each session and one for all strangers; a token passes.
    PerSession,
    /// One for each session, each token and all strangers.
    PerUser,
    /// As before, but only those with a session are answered with a page at all.
    OfSessions,
    /// The same for tokens.
    OfTokens,
    /// A single one; a token passes.
    Single,
    /// A single one, once a stranger and two sessions got the same bytes, for who comes later; a token passes.
    SingleOnceProven,
}

impl Entries {
    /// Whether there is one for `visitor`.
    fn include(self, visitor: &Visitor) -> bool {
        match self {
            Self::None => false,
            Self::OfStrangers => !visitor.has_session() && !visitor.has_token(),
            Self::PerSession | Self::Single | Self::SingleOnceProven => !visitor.has_token(),
            Self::PerUser => true,
            Self::OfSessions => visitor.has_session(),
            Self::OfTokens => visitor.has_token(),
        }
    }

    /// Whether one of these visitors is answered from the store, after `earlier` ones of them.
    fn hold(self, visitor: usize, earlier: &BTreeSet<usize>) -> bool {
        let suffice = match self {
            Self::Single => 1,
            _ => usize::MAX,
        };
        earlier.contains(&visitor) || earlier.len() >= suffice
    }
}

const AS_PAGE: &[(&str, &str)] = &[("Accept", "text/html")];
const IN_GERMAN: &[(&str, &str)] = &[("Accept-Language", "de-AT, de;q=0.9, en;q=0.5")];

/// What kind of page, how to ask for it, and what is stored of it. `HASHED` stands for the name with the hash.
const PAGES: &[(&str, Ask<'static>, Entries)] = &[
    ("plain page", ("/plain/", &[]), Entries::PerSession),
    ("list", ("/products/", &[]), Entries::PerSession),
    ("page of an object", ("/products/3/", &[]), Entries::PerSession),
    ("JSON", ("/json/", &[]), Entries::SingleOnceProven),
    ("FileResponse", ("/files/manual.txt", &[]), Entries::SingleOnceProven),
    ("static.serve", ("/media/manual.txt", &[]), Entries::SingleOnceProven),
    ("ETag", ("/etag/", &[]), Entries::SingleOnceProven),
    ("GZip and ConditionalGet", ("/gzip/", &[]), Entries::SingleOnceProven),
    ("request.user, Vary: Cookie", ("/greeting/", &[]), Entries::PerSession),
    ("the same, cookies forwarded", ("/welcome/", &[]), Entries::PerSession),
    ("Vary erased", ("/erased-vary/greeting/", &[]), Entries::PerSession),
    ("the same, cookies forwarded", ("/erased-vary/welcome/", &[]), Entries::None),
    ("form", ("/form/", &[]), Entries::None),
    ("form, Vary erased", ("/erased-vary/form/", &[]), Entries::None),
    ("form of an object", ("/products/3/edit/", &[]), Entries::None),
    ("session write", ("/visits/", &[]), Entries::None),
    ("messages, none left", ("/messages/", &[]), Entries::OfStrangers),
    ("cookie of its own", ("/theme/", &[]), Entries::PerSession),
    ("login", ("/login/", &[]), Entries::None),
    ("never_cache", ("/never-cache/", &[]), Entries::None),
    ("cache_page", ("/cached-page/", &[]), Entries::PerSession),
    ("DRF, whoever asks", ("/api/whoami/", &[]), Entries::PerUser),
    ("DRF list", ("/api/products/", &[]), Entries::PerUser),
    ("DRF object", ("/api/products/3/", &[]), Entries::PerUser),
    ("DRF, session only", ("/api/me/session/", &[]), Entries::OfSessions),
    ("DRF, token only", ("/api/me/", &[]), Entries::OfTokens),
    ("DRF browsable", ("/api/whoami/", AS_PAGE), Entries::None),
    ("DRF browsable object", ("/api/products/3/", AS_PAGE), Entries::None),
    ("i18n", ("/weekday/", &[]), Entries::PerSession),
    ("i18n, in German", ("/weekday/", IN_GERMAN), Entries::PerSession),
    ("WhiteNoise, hashed", ("/static/shop/site.HASHED.css", &[]), Entries::Single),
    ("WhiteNoise", ("/static/shop/site.css", &[]), Entries::Single),
    ("stream", ("/stream/?chunks=2&pause=0", &[]), Entries::OfStrangers),
    ("server-sent events", ("/events/?pause=0", &[]), Entries::None),
    ("legacy, two cookies", ("/legacy/", &[]), Entries::None),
];

const VISITORS: [&str; 5] = ["anonymous", "session A", "session B", "token A", "token B"];
const STRANGER: usize = 0;

/// One kind of page, and what has come of it so far.
struct Page {
    kind: &'static str,
    path: String,
    fields: &'static [(&'static str, &'static str)],
    entries: Entries,
    asked_by: BTreeSet<usize>,
    hits: [usize; VISITORS.len()],
}

struct Matrix {
    shop: Shop,
    visitors: [Visitor; VISITORS.len()],
    ledger: Ledger,
    strangers: usize,
    pages: Vec<Page>,
}

impl Matrix {
    fn open() -> Self {
        let django = Django::start();
        let parvis = Parvis::start(&CONFIG.replace("{django}", &django.address.to_string()));
        let shop = Shop { parvis, django };
        let hash = after(&shop.django.client().get("/plain/").text(), "/static/shop/site.").to_owned();
        let visitors = [
            Visitor::default(),
            shop.log_in("ada").with_cookie("theme", "dark").with_cookie("django_language", "de"),
            shop.log_in("bob").with_cookie("theme", "blue").with_cookie("django_language", "fr"),
            Visitor::with_token("ada"),
            Visitor::with_token("bob"),
        ];
        let mut ledger = Ledger::default();
        for visitor in &visitors {
            let owned = visitor.secrets().map(|secret| (secret.to_owned(), visitor.name.to_owned()));
            ledger.owners.extend(owned);
        }
        let pages = PAGES.iter().map(|(kind, (path, fields), entries)| Page {
            kind,
            path: path.replace("HASHED", &hash),
            fields,
            entries: *entries,
            asked_by: BTreeSet::new(),
            hits: [0; VISITORS.len()],
        });
        Self { pages: pages.collect(), shop, visitors, ledger, strangers: 0 }
    }

    /// Has Django answer a stranger first: `cache_page` adds a field to what it renders for a token, but not to what it
    /// holds already.
    fn settle(&self, path: &str) {
        self.shop.django.client().get(path);
    }

    /// The visitor in this place, and the target to ask for. Each stranger is another one, who came by another letter.
    fn visit(&mut self, place: usize, path: &str) -> (Visitor, String) {
        let visitor = self.visitors[place].clone();
        if place != STRANGER {
            return (visitor, path.to_owned());
        }
        self.strangers += 1;
        let n = self.strangers;
        let visitor = visitor
            .with_cookie("_ga", &format!("GA1.1.{n}"))
            .with_cookie("_gid", &format!("GA1.2.{n}"))
            .with_cookie("_fbp", &format!("fb.1.{n}"));
        let sign = if path.contains('?') { '&' } else { '?' };
        (visitor, format!("{path}{sign}utm_source=letter-{n}&utm_campaign=spring-{n}"))
    }

    /// Everyone asks for every page, in another order each time; what is in the store is known before each request.
    fn round(&mut self, round: usize) {
        for index in 0..self.pages.len() {
            self.settle(&self.pages[index].path);
            for turn in 0..VISITORS.len() {
                let place = (round + index + turn) % VISITORS.len();
                let Page { path, fields, entries, .. } = &self.pages[index];
                let (path, fields, entries) = (path.clone(), *fields, *entries);
                let (visitor, target) = self.visit(place, &path);
                let before = self.shop.django.received().len();
                let response = visitor.send(&self.shop.client(), "GET", &target, fields, "");
                let fetched = self.shop.django.received().len() - before;
                self.is_safe(&visitor, (&path, fields), &target, &response);
                let page = &mut self.pages[index];
                let included = entries.include(&visitor);
                let expected = included && entries.hold(place, &page.asked_by);
                let (kind, who, head) = (page.kind, VISITORS[place], &response.head);
                let is_hit = response.verdict() == "hit";
                assert_eq!(is_hit, expected, "round {round}: {kind}, {target} for {who}: {head}");
                assert_eq!(fetched, usize::from(!is_hit), "Django saw {target} for {who}: {head}");
                page.hits[place] += usize::from(is_hit);
                if included {
                    page.asked_by.insert(place);
                }
            }
        }
        let (stranger, _) = self.visit(STRANGER, "");
        let readers = [&[stranger], &self.visitors[1..]].concat();
        messages_reach_who_left_them(&self.shop, &readers, &mut self.ledger, round);
    }

    /// The response is what Django would have answered, and shows nothing of anyone else.
    fn is_safe(&mut self, visitor: &Visitor, (path, fields): Ask<'_>, target: &str, response: &Response) {
        let text = response.text();
        let own: Vec<&str> = visitor.secrets().collect();
        let secrets = self.visitors.iter().flat_map(Visitor::secrets);
        for secret in secrets.filter(|secret| !own.contains(secret)) {
            let shown = response.head.contains(secret) || text.contains(secret);
            assert!(!shown, "{secret} of another in {target}: {}{text}", response.head);
        }
        // What is fetched for the store goes without the campaign, and some pages show their own address.
        let asked = if response.verdict() == "pass" { target } else { path };
        self.ledger.is_theirs(&self.shop, visitor, (asked, fields), response);
    }

    /// Someone with a new session: on pages that are proven to be public they need no entry of their own.
    fn latecomer(&mut self) {
        let visitor =
            self.shop.log_in("ada").with_cookie("theme", "green").with_cookie("django_language", "en");
        let owned = visitor.secrets().map(|secret| (secret.to_owned(), visitor.name.to_owned()));
        self.ledger.owners.extend(owned);
        let proven = self.pages.iter().filter(|page| page.entries == Entries::SingleOnceProven);
        let asks: Vec<_> = proven.map(|page| (page.path.clone(), page.fields)).collect();
        assert!(!asks.is_empty());
        for (path, fields) in asks {
            let response = visitor.send(&self.shop.client(), "GET", &path, fields, "");
            assert_eq!(response.verdict(), "hit", "{path}: {}", response.head);
            self.is_safe(&visitor, (&path, fields), &path, &response);
        }
    }

    /// Everyone at once, and each twice, on pages of which nothing is known: they wait for each other's fetches.
    fn crowd(&mut self) {
        for index in 0..self.pages.len() {
            let Page { path, fields, .. } = &self.pages[index];
            let sign = if path.contains('?') { '&' } else { '?' };
            let (path, fields) = (format!("{path}{sign}fresh=1"), *fields);
            self.settle(&path);
            // A second visit would change what the first one is compared with.
            let times = if path.starts_with("/visits/") { 1 } else { 2 };
            let places = (0..VISITORS.len() * times).map(|n| n % VISITORS.len());
            let crowd: Vec<_> = places.map(|place| self.visit(place, &path)).collect();
            let client = self.shop.client();
            let responses: Vec<Response> = thread::scope(|scope| {
                let ask = |(visitor, target): &(Visitor, String)| {
                    let (visitor, target) = (visitor.clone(), target.clone());
                    scope.spawn(move || visitor.send(&client, "GET", &target, fields, ""))
                };
                let asking: Vec<_> = crowd.iter().map(ask).collect();
                asking.into_iter().map(|asking| asking.join().expect("a response")).collect()
            });
            for ((visitor, target), response) in crowd.iter().zip(&responses) {
                self.is_safe(visitor, (&path, fields), target, response);
            }
        }
    }

    /// Of this visitor: the requests, those for pages of which there is an entry for them, and the hits.
    fn counts(&self, place: usize) -> [usize; 3] {
        let visitor = &self.visitors[place];
        let with_entry = self.pages.iter().filter(|page| page.entries.include(visitor)).count();
        let hits = self.pages.iter().map(|page| page.hits[place]).sum();
        [self.pages.len() * ROUNDS, with_entry * ROUNDS, hits]
    }

    fn summary(&self) -> String {
        let mut lines = vec![format!("hits of {ROUNDS} visits each, by kind of page and visitor")];
        let row = |cells: [String; 5]| cells.map(|cell| format!("{cell:>10}")).join(" ");
        lines.push(format!("{:<30} {}", "", row(VISITORS.map(str::to_owned))));
        for page in &self.pages {
            lines.push(format!("{:<30} {}", page.kind, row(page.hits.map(|hits| hits.to_string()))));
        }
        let counts = [0, 1, 2, 3, 4].map(|place| self.counts(place));
        lines.push(format!("{:<30} {}", "requests", row(counts.map(|[all, ..]| all.to_string()))));
        lines.push(format!("{:<30} {}", "hits", row(counts.map(|[.., hits]| hits.to_string()))));
        lines.push(format!("{:<30} {}", "share", row(counts.map(|[all, _, hits]| percent(hits, all)))));
        let of_storable = counts.map(|[_, storable, hits]| percent(hits, storable));
        lines.push(format!("{:<30} {}", "share of what may be stored", row(of_storable)));
        let sum = |places: &[usize], which: usize| places.iter().map(|place| counts[*place][which]).sum();
        let share = |places| {
            let [all, storable, hits] = [0, 1, 2].map(|which| sum(places, which));
            format!("{} ({} of what may be stored)", percent(hits, all), percent(hits, storable))
        };
        let (anonymous, logged_in, token) = (share(&[0]), share(&[1, 2]), share(&[3, 4]));
        lines.push(format!("responses checked for privacy: {}", self.ledger.responses));
        lines.push(format!("share of hits: anonymous {anonymous}, logged in {logged_in}, token {token}"));
        lines.join("\n")
    }
}

fn percent(part: usize, of: usize) -> String {
    format!("{:.1}%", 100.0 * part as f64 / of as f64)
}

#[test]
fn every_kind_of_page_is_safe_and_as_many_visits_as_can_be_are_hits() {
    let mut matrix = Matrix::open();
    for round in 0..ROUNDS {
        matrix.round(round);
    }
    for (place, who) in VISITORS.iter().enumerate() {
        let [_, storable, hits] = matrix.counts(place);
        // Of a page with an entry only the first visit may have to be fetched.
        assert!(hits * ROUNDS >= storable * (ROUNDS - 1), "{who}: {hits} of {storable}");
        for page in matrix.pages.iter().filter(|page| page.entries == Entries::None) {
            assert_eq!(page.hits[place], 0, "{}: {who}", page.kind);
        }
    }
    // Last, since a login removes the page that it leads to.
    matrix.latecomer();
    logins_open_a_session_of_ones_own(&matrix.shop, &mut matrix.ledger, ROUNDS);
    matrix.crowd();
    println!("{}", matrix.summary());
}
