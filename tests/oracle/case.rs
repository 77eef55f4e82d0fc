//! The cases of the oracle: a response, the request that fetched it, and a request that comes later. They are
//! made of what origins and clients write, well or badly.

use std::fmt;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// The moment the response arrived, in seconds since 1970: whole ones, as in the dates of HTTP.
pub const RECEIVED: u64 = 1_784_289_600;

/// One case. What a quirk of spelling can hide in is kept as text, one directive or one line each.
#[derive(Clone, PartialEq)]
pub struct Case {
    pub status: u16,
    /// The directives of `Cache-Control`, two to a line.
    pub control: Vec<String>,
    /// `CDN-Cache-Control`.
    pub targeted: Option<String>,
    /// The lines of `Expires`.
    pub expires: Vec<String>,
    pub date: Option<String>,
    pub age: Option<String>,
    pub modified: Option<String>,
    pub etag: bool,
    pub vary: Option<String>,
    pub pragma: Option<String>,
    pub first: Request,
    pub later: Request,
    /// How many seconds after the response the later request comes.
    pub after: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub method: &'static str,
    pub control: Vec<String>,
    pub pragma: Option<String>,
    pub authorized: bool,
    /// Lines that a `Vary` may name.
    pub selecting: Vec<Line>,
}

pub type Line = (&'static str, String);

impl Case {
    pub fn response(&self) -> Vec<Line> {
        let mut lines = control_lines(&self.control);
        lines.extend(self.expires.iter().map(|value| ("expires", value.clone())));
        let single = [
            ("cdn-cache-control", &self.targeted),
            ("date", &self.date),
            ("age", &self.age),
            ("last-modified", &self.modified),
            ("vary", &self.vary),
            ("pragma", &self.pragma),
        ];
        lines.extend(single.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        lines.extend(self.etag.then(|| ("etag", "\"1\"".to_owned())));
        lines
    }
}

impl Request {
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = control_lines(&self.control);
        lines.extend(self.pragma.iter().map(|value| ("pragma", value.clone())));
        lines.extend(self.authorized.then(|| ("authorization", "Token x".to_owned())));
        lines.extend(self.selecting.iter().cloned());
        lines
    }
}

fn control_lines(directives: &[String]) -> Vec<Line> {
    directives.chunks(2).map(|pair| ("cache-control", pair.join(", "))).collect()
}

impl fmt::Debug for Case {
    /// As heads, which is what a person compares with the RFC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = |f: &mut fmt::Formatter<'_>, start: &str, lines: Vec<Line>| {
            writeln!(f, "\n  {start}")?;
            lines.iter().try_for_each(|(name, value)| writeln!(f, "    {name}: {value}"))
        };
        head(f, "GET /page", self.first.lines())?;
        head(f, &format!("{} (arrives at {})", self.status, date(0, Form::Imf)), self.response())?;
        head(f, &format!("{} /page, {} s later", self.later.method, self.after), self.later.lines())
    }
}

/// How a date is written (RFC 9110 section 5.6.7).
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Imf,
    Rfc850,
    Asctime,
    LowerCase,
}

/// Offsets from the arrival, in seconds. Tens, so that a tenth of the time between two of them is a whole
/// second: the other side guesses in whole ones.
const OFFSETS: &[i64] = &[-864_000, -3600, -600, -100, -60, -10, 0, 10, 30, 60, 3600];

pub fn date(offset: i64, form: Form) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(RECEIVED.saturating_add_signed(offset));
    let imf = httpdate::fmt_http_date(at);
    let words: Vec<&str> = imf.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [weekday, day, month, year, time, _] = words[..] else { panic!("{imf}") };
    match form {
        Form::Imf => imf,
        Form::LowerCase => imf.to_lowercase(),
        Form::Asctime => format!("{weekday} {month} {:>2} {time} {year}", day.trim_start_matches('0')),
        Form::Rfc850 => {
            let long = match weekday {
                "Tue" => "Tuesday".to_owned(),
                "Wed" => "Wednesday".to_owned(),
                "Thu" => "Thursday".to_owned(),
                "Sat" => "Saturday".to_owned(),
                short => format!("{short}day"),
            };
            format!("{long}, {day}-{month}-{} {time} GMT", &year[2..])
        }
    }
}

/// The offset that a date of a case means; `None` for what is no date. Found by writing every possible one,
/// so that no reader of dates has to be trusted.
pub fn meant(text: &str) -> Option<i64> {
    let forms = [Form::Imf, Form::Rfc850, Form::Asctime];
    let writes = |offset: i64| forms.iter().any(|form| date(offset, *form).eq_ignore_ascii_case(text));
    OFFSETS.iter().copied().find(|offset| writes(*offset))
}

/// Valid values of `CDN-Cache-Control`, and what `Cache-Control` says the same.
pub const TARGETED: &[(&str, &[&str])] = &[
    ("max-age=30", &["max-age=30"]),
    ("max-age=0", &["max-age=0"]),
    ("max-age=60;p=1, must-revalidate", &["max-age=60", "must-revalidate"]),
    ("s-maxage=20, public", &["s-maxage=20", "public"]),
    ("no-store", &["no-store"]),
    ("private", &["private"]),
    ("no-cache", &["no-cache"]),
    ("foo=1", &["foo=1"]),
];

/// No structured fields, or with arguments of another type: as if they were not there.
const NOT_TARGETED: &[&str] = &["max-age=\"60\"", "MAX-AGE=60", "max-age", "no-store,", "no-store=?0"];

const LIFETIMES: &[&str] =
    &["max-age=0", "max-age=10", "max-age=60", "max-age=3600", "s-maxage=0", "s-maxage=10", "s-maxage=60"];

const FLAGS: &[&str] = &[
    "public",
    "must-revalidate",
    "proxy-revalidate",
    "stale-while-revalidate=30",
    "s-maxage=10",
    "max-age=60",
];

const FORBIDDING: &[&str] =
    &["no-store", "private", "no-cache", "no-cache", "must-understand", "no-store, must-understand"];

const ODD: &[&str] = &[
    "",
    "NO-STORE",
    "Private",
    "Public",
    "Max-Age=60",
    "S-MaxAge=\"30\"",
    "max-age",
    "max-age=",
    "max-age=+60",
    "max-age=-1",
    "max-age=1.5",
    "max-age=60s",
    "max-age='60'",
    "max-age = 60",
    "max-age=\"60\"",
    "max-age=0060",
    "max-age=99999999999999999999",
    "s-maxage",
    "s-maxage=x",
    "private; max-age=60",
    "no-cache no-store",
    "max-age=60; public",
    "private=\"x-user\"",
    "private=x-user",
    "no-cache=\"x-mood, x-user\"",
    "immutable",
    "x=\"a, no-store, b\"",
    "x=\"a, max-age=60, b\"",
    "x=\"caf\u{e9}\"",
    "foo=bar",
];

const ASKED: &[&str] = &[
    "no-cache",
    "no-store",
    "max-age=0",
    "max-age=10",
    "max-age=60",
    "min-fresh=0",
    "min-fresh=10",
    "min-fresh=60",
    "max-stale",
    "max-stale=0",
    "max-stale=10",
    "max-stale=60",
    "No-Cache",
    "No-Store",
    "MAX-STALE",
    "max-age = 0",
    "max-age=x",
    "max-stale=x",
    "min-fresh=\"10\"",
    "max-age=99999999999999999999",
    "foo=\"a, no-cache, b\"",
];

const STATUSES: &[u16] =
    &[200, 203, 204, 206, 299, 301, 302, 303, 307, 308, 404, 405, 410, 414, 500, 501, 503, 599];

const VARY: &[&str] = &[
    "Accept",
    "ACCEPT, x-flavour",
    "accept-language",
    "Accept-Language, X-Flavour,",
    "Accept-Encoding",
    "accept-encoding, accept",
    "X-Flavour",
    "*",
    "Accept, *",
];

const SELECTING: &[(&str, &str)] = &[
    ("accept", "text/html, */*"),
    ("accept", "text/html,*/*"),
    ("accept", "text/html"),
    ("accept", "*/*"),
    ("accept-language", "de, EN;q=0.5"),
    ("accept-language", "de, en; q=0.5"),
    ("accept-language", "fr"),
    ("accept-encoding", "gzip"),
    ("accept-encoding", "br"),
    ("x-flavour", "a"),
    ("x-flavour", "A"),
];

/// Mostly `None`, so that one quirk does not always hide behind another.
fn rarely<T: Clone + fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    prop_oneof![4 => Just(None), 1 => value.prop_map(Some)].boxed()
}

fn text(values: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(values).prop_map(str::to_owned)
}

fn directives() -> impl Strategy<Value = Vec<String>> {
    let one = prop_oneof![5 => text(LIFETIMES), 4 => text(FLAGS), 1 => text(FORBIDDING), 4 => text(ODD)];
    // A pair in one item becomes two, so that every item is one directive.
    let split = |items: Vec<String>| {
        let parts = |item: String| match item.contains('"') {
            true => vec![item],
            false => item.split(", ").map(str::to_owned).collect(),
        };
        items.into_iter().flat_map(parts).collect()
    };
    proptest::collection::vec(one, 0..=4).prop_map(split)
}

fn dates() -> impl Strategy<Value = String> {
    let form = prop_oneof![
        6 => Just(Form::Imf),
        1 => Just(Form::Rfc850),
        1 => Just(Form::Asctime),
        1 => Just(Form::LowerCase),
    ];
    (select(OFFSETS), form).prop_map(|(offset, form)| date(offset, form))
}

/// What stands in `Expires` besides dates; the last two are dates by other rules than those of HTTP.
fn expiries() -> impl Strategy<Value = String> {
    let other_zones = || select(&[" +0000", " EST"][..]);
    let zoned = other_zones().prop_map(|zone| date(3600, Form::Imf).replace(" GMT", zone));
    prop_oneof![6 => dates(), 1 => text(&["0", "-1", "soon", ""]), 1 => zoned]
}

/// How the lines that select in the later request stand to those in the first.
#[derive(Clone, Copy, Debug)]
enum Likeness {
    Same,
    Respelled,
    Other,
}

const LIKENESSES: &[Likeness] = &[Likeness::Same, Likeness::Respelled, Likeness::Other];

fn respelled((name, value): &Line) -> Vec<Line> {
    match *name {
        "accept" => value.split(", ").map(|member| (*name, member.to_owned())).collect(),
        "accept-language" => vec![(*name, value.to_uppercase().replace(";", "; "))],
        "accept-encoding" => vec![(*name, format!("{value}, zstd"))],
        _ => vec![(*name, value.clone())],
    }
}

fn requests(methods: &'static [&'static str]) -> impl Strategy<Value = Request> {
    let asked = prop_oneof![1 => Just(Vec::new()), 1 => proptest::collection::vec(text(ASKED), 1..=3)];
    (select(methods), asked, rarely(Just("no-cache".to_owned())), rarely(Just(())), selecting()).prop_map(
        |(method, control, pragma, authorized, selecting)| {
            let authorized = authorized.is_some();
            Request { method, control, pragma, authorized, selecting }
        },
    )
}

fn selecting() -> impl Strategy<Value = Vec<Line>> {
    let lines = subsequence(SELECTING, 0..=3);
    lines.prop_map(|lines| lines.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
}

pub fn cases() -> impl Strategy<Value = Case> {
    let targeted: Vec<&str> =
        TARGETED.iter().map(|(text, _)| *text).chain(NOT_TARGETED.iter().copied()).collect();
    let explicit = (
        directives(),
        rarely(rarely(select(targeted).prop_map(str::to_owned))).prop_map(Option::flatten),
        prop_oneof![3 => Just(Vec::new()), 2 => proptest::collection::vec(expiries(), 1..=2)],
    );
    let ages = &["0", "5", "10", "60", "05", "5, 60", "5, x", "x", "+5", "7.5", "", "99999999999999999999"];
    let told = (
        proptest::option::of(prop_oneof![8 => dates(), 1 => Just("soon".to_owned())]),
        proptest::option::of(text(ages)),
        proptest::option::of(prop_oneof![8 => dates(), 1 => Just("soon".to_owned())]),
        any::<bool>(),
        prop_oneof![2 => Just(None), 1 => text(VARY).prop_map(Some)],
        rarely(Just("no-cache".to_owned())),
    );
    // A page is always fetched with GET, whoever asks first; so is the other side told.
    let asked = (requests(&["GET"]), requests(&["GET", "GET", "GET", "HEAD"]), select(LIKENESSES));
    let soon = select(&[0, 1, 5, 9, 10, 11, 20, 30][..]);
    let after = prop_oneof![2 => soon, 1 => select(&[29, 50, 59, 60, 61, 90, 120, 3599, 3600, 7200][..])];
    (prop_oneof![1 => Just(200), 1 => select(STATUSES)], explicit, told, asked, after).prop_map(assemble)
}

type Explicit = (Vec<String>, Option<String>, Vec<String>);
type Told = (Option<String>, Option<String>, Option<String>, bool, Option<String>, Option<String>);

type Asked = (Request, Request, Likeness);

fn assemble((status, explicit, told, asked, after): (u16, Explicit, Told, Asked, u64)) -> Case {
    let (control, targeted, expires) = explicit;
    let (date, age, modified, etag, vary, pragma) = told;
    let (first, mut later, likeness) = asked;
    match likeness {
        Likeness::Same => later.selecting.clone_from(&first.selecting),
        Likeness::Respelled => later.selecting = first.selecting.iter().flat_map(respelled).collect(),
        Likeness::Other => {}
    }
    Case { status, control, targeted, expires, date, age, modified, etag, vary, pragma, first, later, after }
}
