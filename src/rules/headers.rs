//! Which fields of messages the operator adds, replaces and removes: what protects browsers, and what nobody needs to know.

use super::head::Names;

/// What is done to the fields of responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderPolicy {
    written: Vec<Written>,
    /// In lower case.
    removed: Vec<String>,
    /// Those that clients are not sent as they are stored.
    gone: Names,
    /// Those that are written unless they are there already.
    yielding: Names,
    /// What is written where none of those is there, as lines: to clients that have come by `http`, and by `https`.
    lines: [String; 2],
}

/// A field that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// As it is sent.
    pub name: String,
    /// As it is sent.
    pub value: String,
    /// What becomes of the application's own.
    pub mode: Mode,
    /// Whether only clients that have come by `https` are sent it.
    pub https_only: bool,
}

/// What becomes of a field that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It stays, and nothing is written.
    IfAbsent,
    /// It goes.
    Replace,
    /// It stays, and one more is written.
    Add,
}

impl Written {
    /// A field for everyone.
    pub fn new(name: &str, value: &str, mode: Mode) -> Self {
        Self { name: name.to_owned(), value: value.to_owned(), mode, https_only: false }
    }
}

impl HeaderPolicy {
    /// Writes and removes these; what is removed is in lower case.
    pub fn new(written: Vec<Written>, removed: Vec<String>) -> Self {
        let replaced =
            written.iter().filter(|field| field.mode == Mode::Replace).map(|field| field.name.as_str());
        let gone = names(replaced.chain(removed.iter().map(String::as_str)));
        let yielding = written.iter().filter(|field| field.mode == Mode::IfAbsent);
        let yielding = names(yielding.map(|field| field.name.as_str()));
        let mut policy = Self { written, removed, gone, yielding, lines: Default::default() };
        policy.lines = [false, true].map(|is_https| {
            let written = policy.written(200, is_https, |_| false);
            written.map(|(name, value)| format!("{name}: {value}\r\n")).collect()
        });
        policy
    }

    /// The same, and what a route wants besides: where both write a field, or the route removes it, the route's wish counts.
    pub fn with(&self, written: Vec<Written>, removed: &[String]) -> Self {
        let is_named = |name: &str| {
            written.iter().any(|own| own.name.eq_ignore_ascii_case(name))
                || removed.iter().any(|own| own.eq_ignore_ascii_case(name))
        };
        let kept = self.written.iter().filter(|field| !is_named(&field.name)).cloned();
        let is_written = |name: &String| written.iter().any(|own| own.name.eq_ignore_ascii_case(name));
        let gone = self.removed.iter().chain(removed).filter(|name| !is_written(name)).cloned();
        Self::new(kept.chain(written.iter().cloned()).collect(), gone.collect())
    }

    /// Whether any of these names may be one that does not go to clients.
    pub fn touches(&self, names: Names) -> bool {
        self.gone.may_have(names)
    }

    /// Whether a field of this name does not go to clients.
    pub fn takes_away(&self, name: &str) -> bool {
        self.gone.may_have(Names::one(name))
            && (self.removed.iter().any(|removed| removed.eq_ignore_ascii_case(name))
                || self
                    .written
                    .iter()
                    .any(|field| field.mode == Mode::Replace && field.name.eq_ignore_ascii_case(name)))
    }

    /// What is written on a response of this status. On a 304 nothing: a client takes its fields over into what it has stored
    /// (RFC 9111 section 3.2), where the application may have set its own.
    pub fn written(
        &self,
        status: u16,
        is_https: bool,
        is_set: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (&str, &str)> {
        let written = if status == 304 { &[] } else { self.written.as_slice() };
        let fits = move |field: &&Written| {
            (is_https || !field.https_only) && (field.mode != Mode::IfAbsent || !is_set(&field.name))
        };
        written.iter().filter(fits).map(|field| (field.name.as_str(), field.value.as_str()))
    }

    /// All of that as lines, if none of it has to yield to these names: as a rule, and at once.
    pub fn lines(&self, status: u16, is_https: bool, present: Names) -> Option<&str> {
        (status != 304 && !self.yielding.may_have(present)).then_some(&*self.lines[usize::from(is_https)])
    }
}

fn names<'n>(names: impl Iterator<Item = &'n str>) -> Names {
    names.fold(Names::default(), |mut all, name| {
        all.add(name);
        all
    })
}

/// What is done to the fields of requests before the application gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHeaders {
    /// Replaces.
    pub set: Vec<(String, String)>,
    /// One more.
    pub add: Vec<(String, String)>,
    /// In lower case.
    pub remove: Vec<String>,
}

/// Fields that are parvis' own to write: they say where a message ends, how it is encoded, how old it is, and for whom.
const OWN: &[&str] = &[
    "accept-encoding",
    "accept-ranges",
    "age",
    "cache-status",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "date",
    "etag",
    "expect",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "last-modified",
    "max-forwards",
    "proxy-connection",
    "range",
    "server-timing",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "x-forwarded-for",
    "x-processing-time",
    "x-request-id",
];

/// Whether the operator may not touch a field.
pub fn is_own(name: &str) -> bool {
    OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the policies below.
    fn yields(name: &str) -> bool {
        name.eq_ignore_ascii_case("x-frame-options") || name.eq_ignore_ascii_case("strict-transport-security")
    }

    fn lines(policy: &HeaderPolicy, status: u16, is_https: bool, set: &[&str]) -> Vec<String> {
        let is_set = |name: &str| set.iter().any(|own| own.eq_ignore_ascii_case(name));
        let lines: Vec<String> = policy
            .written(status, is_https, is_set)
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let at_once = policy.lines(status, is_https, names(set.iter().copied()));
        assert_eq!(at_once.is_some(), status != 304 && !set.iter().any(|name| yields(name)));
        if let Some(at_once) = at_once {
            assert_eq!(at_once, lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
        }
        lines
    }

    fn policy() -> HeaderPolicy {
        let hsts = Written {
            https_only: true,
            ..Written::new("Strict-Transport-Security", "max-age=1", Mode::IfAbsent)
        };
        let written = vec![
            Written::new("X-Frame-Options", "DENY", Mode::IfAbsent),
            Written::new("Referrer-Policy", "no-referrer", Mode::Replace),
            Written::new("Link", "</a>", Mode::Add),
            hsts,
        ];
        HeaderPolicy::new(written, vec!["server".to_owned()])
    }

    #[test]
    fn what_is_there_stays_goes_or_gets_company() {
        let all = ["X-Frame-Options: DENY", "Referrer-Policy: no-referrer", "Link: </a>"];
        assert_eq!(lines(&policy(), 200, false, &[]), all);
        assert_eq!(lines(&policy(), 200, false, &["x-frame-options", "referrer-policy", "link"]), all[1..]);
        assert_eq!(
            lines(&policy(), 200, true, &["X-Frame-Options"])[2..],
            ["Strict-Transport-Security: max-age=1"]
        );
        assert!(lines(&policy(), 304, true, &[]).is_empty());
        let gone: Vec<bool> = ["Server", "REFERRER-POLICY", "X-Frame-Options", "Link"]
            .iter()
            .map(|name| policy().takes_away(name))
            .collect();
        assert_eq!(gone, [true, true, false, false]);
    }

    #[test]
    fn a_route_has_the_last_word() {
        let written = vec![
            Written::new("x-frame-options", "SAMEORIGIN", Mode::Replace),
            Written::new("Server", "shop", Mode::Replace),
        ];
        let policy = policy().with(written, &["referrer-policy".to_owned()]);
        assert_eq!(
            lines(&policy, 200, false, &[]),
            ["Link: </a>", "x-frame-options: SAMEORIGIN", "Server: shop"]
        );
        assert!(policy.takes_away("Referrer-Policy") && policy.takes_away("server"));
    }
}
