//! Nobody receives what was made for another, although the last route shares whatever seems to be for everyone.

use std::collections::HashMap;
use std::thread;

use super::Shop;
use super::visitor::{Visitor, after, cookies_set, unmasked};
use crate::support::Response;

/// A path, and the fields to ask with.
pub(super) type Ask<'a> = (&'a str, &'a [(&'a str, &'a str)]);

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

/// Whose each secret is that was seen: session ids, other cookies' values, the secrets behind form tokens.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) owners: HashMap<String, String>,
    pub(super) responses: usize,
    hits: usize,
}

impl Ledger {
    /// The response to `visitor` is theirs, and past the store if anything tells them from others.
    fn check(&mut self, shop: &Shop, visitor: &Visitor, ask: Ask<'_>, response: &Response) {
        let passed = response.verdict() == "pass";
        assert!(visitor.is_anyone() || passed, "{} for {:?}: {}", ask.0, visitor.cookies, response.head);
        self.is_theirs(shop, visitor, ask, response);
    }

    /// The response to `visitor` holds nobody else's secret, and is what Django itself answers them.
    pub(super) fn is_theirs(
        &mut self,
        shop: &Shop,
        visitor: &Visitor,
        (path, more): Ask<'_>,
        response: &Response,
    ) {
        self.responses += 1;
        self.hits += usize::from(response.verdict() == "hit");
        let page = response.text();
        let seen = format!("{path} for {:?}: {}{page}", visitor.cookies, response.head);
        // Without a session whatever is secret was made for this one response.
        let owner = match visitor.has_session() {
            true => visitor.name.to_owned(),
            false => format!("response {}", self.responses),
        };
        let tokens = words(&page).filter(|word| word.len() == 64).map(unmasked);
        for secret in cookies_set(response).into_values().chain(tokens) {
            let first = self.owners.entry(secret).or_insert_with(|| owner.clone());
            assert_eq!(*first, owner, "another's secret in {seen}");
        }
        let others = ["ada", "bob"].into_iter().filter(|name| *name != visitor.name);
        for other in others {
            assert!(!words(&page).any(|word| word == other), "{other} in {seen}");
        }
        let direct = visitor.send(&shop.django.client(), "GET", path, more, "");
        let next = visit_number(&page).map(|number| number + u32::from(visitor.has_session()));
        assert_eq!(visit_number(&direct.text()), next, "{seen}");
        assert_eq!(essence(response), essence(&direct), "{path}");
    }
}

fn words(page: &str) -> impl Iterator<Item = &str> {
    page.split(|c: char| !c.is_ascii_alphanumeric())
}

fn visit_number(page: &str) -> Option<u32> {
    let counts = page.contains("Visit number ");
    counts.then(|| after(page, "Visit number ").parse().expect("a number"))
}

/// The value of a field; of `Vary` without what parvis adds, since it encodes.
fn without_coding(name: &str, value: &str) -> Option<String> {
    if name != "vary" {
        return Some(value.to_owned());
    }
    let names = value.split(", ").filter(|name| !name.eq_ignore_ascii_case("accept-encoding"));
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// What must be the same whether asked through parvis or not: all but what Django makes anew for each response.
fn essence(response: &Response) -> (u16, Vec<Option<String>>, Vec<String>, String) {
    let names = ["content-type", "content-language", "location", "vary", "cache-control", "allow"];
    let fields = names.iter().map(|name| response.field(name).and_then(|value| without_coding(name, &value)));
    let fields = fields.collect();
    let mut page = response.text();
    for secret in words(&response.text()).filter(|word| word.len() >= 32) {
        page = page.replace(secret, "SECRET");
    }
    if let Some(number) = visit_number(&page) {
        page = page.replace(&format!("Visit number {number}."), "Visit number N.");
    }
    (response.status, fields, cookies_set(response).into_keys().collect(), page)
}

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
        // Nobody in particular, but with wishes.
        Visitor::default().with_cookie("theme", "blue").with_cookie("django_language", "de"),
    ];
    for visitor in visitors.iter().filter(|visitor| visitor.has_session()) {
        for name in ["sessionid", "csrftoken"] {
            ledger.owners.insert(visitor.cookies[name].clone(), visitor.name.to_owned());
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
        messages_reach_who_left_them(&shop, &visitors, &mut ledger, round);
        logins_open_a_session_of_ones_own(&shop, &mut ledger, round);
    }
    assert!(ledger.hits > 0, "strangers do share pages here");
    all_at_once(&shop, &visitors, &mut ledger);
}

/// On pages of which nothing is known yet: strangers wait for a fetch that turns out to be personal.
fn all_at_once(shop: &Shop, visitors: &[Visitor], ledger: &mut Ledger) {
    for (path, more) in PERSONAL {
        let path = format!("{path}?fresh");
        let crowd: Vec<&Visitor> = visitors.iter().chain([&visitors[0]; 3]).collect();
        let ask = |visitor: &Visitor| visitor.send(&shop.client(), "GET", &path, more, "");
        let responses: Vec<Response> = thread::scope(|scope| {
            let asking: Vec<_> = crowd.iter().map(|visitor| scope.spawn(|| ask(visitor))).collect();
            asking.into_iter().map(|asking| asking.join().expect("a response")).collect()
        });
        for (visitor, response) in crowd.iter().zip(&responses) {
            ledger.check(shop, visitor, (&path, more), response);
        }
    }
}

pub(super) fn messages_reach_who_left_them(
    shop: &Shop,
    visitors: &[Visitor],
    ledger: &mut Ledger,
    round: usize,
) {
    let leave = |(index, visitor): (usize, &Visitor)| {
        let left = visitor.get(&shop.client(), &format!("/messages/add/?text=note-{round}-{index}"));
        assert_eq!(left.status, 302, "{}", left.head);
        visitor.clone().with_cookie("messages", &cookies_set(&left)["messages"])
    };
    let readers: Vec<Visitor> = visitors.iter().enumerate().map(leave).collect();
    for (index, reader) in readers.iter().enumerate() {
        let response = reader.get(&shop.client(), "/messages/");
        assert_eq!(after(&response.text(), "class=\"message\">"), format!("note-{round}-{index}"));
        ledger.check(shop, reader, ("/messages/", &[]), &response);
    }
}

pub(super) fn logins_open_a_session_of_ones_own(shop: &Shop, ledger: &mut Ledger, round: usize) {
    for name in ["ada", "bob"] {
        let visitor = shop.log_in(name);
        assert!(visitor.has_session());
        for secret in visitor.cookies.values() {
            let owner = format!("login {round} of {name}");
            assert!(ledger.owners.insert(secret.clone(), owner).is_none(), "{secret} is another's");
        }
        let me = visitor.get(&shop.client(), "/api/me/session/").text();
        assert!(me.contains(&format!("for the eyes of {name} only")), "{me}");
    }
}
