//! What a request or response head is to the rules: borrowed text, cheap to build from any parser.
//!
//! A list of name and value pairs keeps duplicate lines and their order, costs no hashing, and is what both
//! `httparse` and a header map can lend without copying.

use super::target::Target;
use super::text::same;

/// One field line: its name in any case, and its value as received.
pub type Field<'a> = (&'a str, &'a [u8]);

/// Which names may be among field lines: a bit for each, told by its length and its ends. Most fields that are asked for
/// are not there, and one look at the bits tells that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names(u64);

impl Names {
    /// The names of these lines.
    pub fn of(lines: &[Field<'_>]) -> Self {
        Self(lines.iter().fold(0, |bits, (name, _)| bits | Self::one(name).0))
    }

    /// The names of a list, for a constant.
    pub const fn all(names: &[&str]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < names.len() {
            bits |= Self::one(names[at]).0;
            at += 1;
        }
        Self(bits)
    }

    /// A single name.
    #[inline]
    pub const fn one(name: &str) -> Self {
        Self(1 << place(name))
    }

    /// Adds one.
    pub fn add(&mut self, name: &str) {
        self.0 |= Self::one(name).0;
    }

    /// Whether any of `others` may be among these.
    #[inline]
    pub const fn may_have(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Which of 64 places a name has. The case of a letter is one bit, which is ignored. The factors keep the names that
/// browsers send apart from one another, and from those that the rules ask for.
#[inline]
const fn place(name: &str) -> usize {
    let name = name.as_bytes();
    let ([first, ..], [.., last]) = (name, name) else { return 0 };
    (name.len() + 2 * (*first | 0x20) as usize + 36 * (*last | 0x20) as usize) & 63
}

/// Known names, found without asking each.
pub struct KnownNames([&'static str; 64]);

impl KnownNames {
    /// A list of names, for a constant: names that share a place do not compile.
    pub const fn new(names: &[&'static str]) -> Self {
        let (mut places, mut at) = ([""; 64], 0);
        while at < names.len() {
            let place = place(names[at]);
            assert!(places[place].is_empty(), "the place is taken");
            places[place] = names[at];
            at += 1;
        }
        Self(places)
    }

    /// Whether a name, in any case, is among them.
    #[inline]
    pub fn has(&self, name: &str) -> bool {
        !name.is_empty() && same(self.0[place(name)].as_bytes(), name.as_bytes())
    }
}

/// The field lines of a head, in the order received.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    lines: &'a [Field<'a>],
    names: Names,
}

impl<'a> Fields<'a> {
    /// These lines.
    pub fn new(lines: &'a [Field<'a>]) -> Self {
        Self::with_names(lines, Names::of(lines))
    }

    /// These lines. `names` must cover every one of them: a name that it lacks is not found.
    pub fn with_names(lines: &'a [Field<'a>], names: Names) -> Self {
        Self { lines, names }
    }

    /// All of them.
    pub fn lines(self) -> &'a [Field<'a>] {
        self.lines
    }

    /// The names that may be among them.
    pub fn names(self) -> Names {
        self.names
    }

    /// The values of every line with this name, in order.
    #[inline]
    pub fn all(self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let lines = if self.names.may_have(Names::one(name)) { self.lines } else { &[] };
        lines.iter().filter(move |(n, _)| same(n.as_bytes(), name.as_bytes())).map(|(_, value)| *value)
    }

    /// The value of the first line with this name.
    #[inline]
    pub fn first(self, name: &str) -> Option<&'a [u8]> {
        if self.names.may_have(Names::one(name)) { self.search(name) } else { None }
    }

    fn search(self, name: &str) -> Option<&'a [u8]> {
        self.lines.iter().find(|(n, _)| same(n.as_bytes(), name.as_bytes())).map(|(_, value)| *value)
    }

    /// The first line with this name as text; `None` when absent or not visible ASCII or UTF-8.
    pub fn text(self, name: &str) -> Option<&'a str> {
        self.first(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a line with this name exists.
    #[inline]
    pub fn has(self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// The members of a comma-separated list field over all its lines, trimmed, empty members left out
    /// (RFC 9110 section 5.6.1). Only for fields whose members hold no quoted commas.
    #[inline]
    pub fn list(self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.all(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|member| !member.is_empty())
    }
}

/// Field lines that are lent, or were gathered for the purpose.
#[derive(Clone, Debug)]
pub struct FieldLines<'a> {
    lines: Lines<'a>,
    names: Names,
}

/// Unlike a `Cow`, of any shorter lifetime too.
#[derive(Clone, Debug)]
enum Lines<'a> {
    Lent(&'a [Field<'a>]),
    Gathered(Vec<Field<'a>>),
}

impl<'a> FieldLines<'a> {
    /// All of them.
    #[inline]
    pub fn fields(&self) -> Fields<'_> {
        Fields::with_names(self.lines(), self.names)
    }

    /// The lines.
    pub fn lines(&self) -> &[Field<'a>] {
        match &self.lines {
            Lines::Lent(lines) => lines,
            Lines::Gathered(lines) => lines,
        }
    }

    /// The values of every line with this name, in order.
    #[inline]
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines: &[Field<'a>] = if self.names.may_have(Names::one(name)) { self.lines() } else { &[] };
        lines.iter().filter(move |(n, _)| same(n.as_bytes(), name.as_bytes())).map(|(_, value)| *value)
    }

    /// Those that fit.
    pub fn filtered(self, fits: impl Fn(&Field<'a>) -> bool) -> Self {
        self.lines().iter().filter(|line| fits(line)).copied().collect::<Vec<_>>().into()
    }
}

impl<'a> From<Fields<'a>> for FieldLines<'a> {
    fn from(fields: Fields<'a>) -> Self {
        Self { lines: Lines::Lent(fields.lines), names: fields.names }
    }
}

impl<'a> From<Vec<Field<'a>>> for FieldLines<'a> {
    fn from(lines: Vec<Field<'a>>) -> Self {
        Self { names: Names::of(&lines), lines: Lines::Gathered(lines) }
    }
}

/// Whether a text is a token (RFC 9110 section 5.6.2), as the names of fields are.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A request head, with its target already split and normalised.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// The method as sent; methods are case-sensitive (RFC 9110 section 9.1).
    pub method: &'a str,
    /// Where the request is aimed at.
    pub target: Target<'a>,
    /// The field lines.
    pub fields: Fields<'a>,
    /// Whether the request carries content, told by its framing.
    pub has_body: bool,
    /// What a trusted proxy says of the request, beside the client's address and scheme, that the origin may build links
    /// from (see [`super::forwarding::is_believed`]): part of the key, and sent.
    pub believed: &'a [Field<'a>],
}

impl RequestHead<'_> {
    /// Whether the method can be answered from a stored response.
    pub fn is_read(&self) -> bool {
        matches!(self.method, "GET" | "HEAD")
    }

    /// Whether the method is safe, i.e. asks for no change (RFC 9110 section 9.2.1). Unknown methods are not.
    pub fn is_safe(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }
}

/// A response head.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The status code, 100 to 999.
    pub status: u16,
    /// The field lines.
    pub fields: Fields<'a>,
}
