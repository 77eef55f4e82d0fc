//! Who asks, and what they can read in the answer.

use std::collections::BTreeMap;

use crate::support::{Client, Response};

/// Someone with a browser, or a program with a token.
#[derive(Clone, Default)]
pub struct Visitor {
    /// The name of the account; empty for a stranger.
    pub name: &'static str,
    pub cookies: BTreeMap<String, String>,
    token: Option<String>,
}

impl Visitor {
    /// A browser without cookies, whose owner will log in as `name`.
    pub fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// A program with the token of `name`.
    pub fn with_token(name: &'static str) -> Self {
        let token = format!("Token {:0<40}", format!("token-of-{name}-"));
        Self { name, token: Some(token), ..Self::default() }
    }

    pub fn with_cookie(mut self, name: &str, value: &str) -> Self {
        self.cookies.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn get(&self, to: &Client, path: &str) -> Response {
        self.send(to, "GET", path, &[], "")
    }

    /// Sends a body, JSON or a form.
    pub fn write(&self, to: &Client, method: &str, path: &str, body: &str) -> Response {
        let json = body.starts_with('{');
        let media = if json { "application/json" } else { "application/x-www-form-urlencoded" };
        self.send(to, method, path, &[("Content-Type", media), ("Origin", "http://shop.test")], body)
    }

    /// Sends a request. What is in the store never sets a cookie.
    pub fn send(&self, to: &Client, method: &str, path: &str, more: &[(&str, &str)], body: &str) -> Response {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut fields = more.to_vec();
        fields.extend(self.token.iter().map(|token| ("Authorization", token.as_str())));
        if !cookies.is_empty() {
            fields.push(("Cookie", &cookies));
        }
        let response = to.send(method, path, &fields, body.as_bytes());
        let from_store = matches!(response.verdict(), "hit" | "stale");
        let stored = from_store || response.cache_status().contains("; stored");
        assert!(!stored || response.field("set-cookie").is_none(), "{path}: {}", response.head);
        response
    }

    /// Takes over the cookies of a response, as a browser does.
    pub fn keep_cookies(&mut self, response: &Response) {
        self.cookies.extend(cookies_set(response));
    }

    pub fn has_session(&self) -> bool {
        self.cookies.contains_key("sessionid")
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// What nobody else may ever see: the cookies of the session, the key of the token.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let cookies = ["sessionid", "csrftoken"].into_iter().filter_map(|name| self.cookies.get(name));
        let keys = self.token.iter().filter_map(|token| token.strip_prefix("Token "));
        cookies.map(String::as_str).chain(keys)
    }

    /// Whether nothing tells this visitor from any other.
    pub fn is_anyone(&self) -> bool {
        self.cookies.is_empty() && self.token.is_none()
    }
}

/// The cookies that a response sets, without those that it deletes.
pub fn cookies_set(response: &Response) -> BTreeMap<String, String> {
    let lines = response.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    let pairs = lines.filter_map(|(_, line)| line.split(';').next()?.split_once('='));
    let kept = pairs.filter(|(_, value)| *value != "\"\"");
    kept.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What stands in the page behind `before`, up to a quote, a tag or a dot.
pub fn after<'a>(page: &'a str, before: &str) -> &'a str {
    let found = page.find(before).unwrap_or_else(|| panic!("{before} in {page}"));
    page[found + before.len()..].split(['"', '<', '.']).next().unwrap_or_default()
}

/// The hidden field of a form.
pub fn form_token(page: &str) -> &str {
    after(page, "csrfmiddlewaretoken\" value=\"")
}

/// The secret behind a form's token, which Django masks anew for each page; the cookie holds it unmasked.
pub fn unmasked(token: &str) -> String {
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
    let at = |c: char| letters.iter().position(|letter| *letter == c).expect("a letter of a token");
    let (mask, cipher) = token.split_at(32);
    let pairs = cipher.chars().zip(mask.chars());
    pairs.map(|(c, m)| letters[(letters.len() + at(c) - at(m)) % letters.len()]).collect()
}
