//! What a request or response head is to the rules: borrowed text, cheap to build from any parser.
//!
//! A list of name and value pairs keeps duplicate lines and their order, costs no hashing, and is what both
//! `httparse` and a header map can lend without copying.

use super::target::Target;

/// One field line: its name in any case, and its value as received.
pub type Field<'a> = (&'a str, &'a [u8]);

/// The field lines of a head, in the order received.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a>(pub &'a [Field<'a>]);

impl<'a> Fields<'a> {
    /// The values of every line with this name, in order.
    pub fn all(self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The value of the first line with this name.
    pub fn first(self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The first line with this name as text; `None` when absent or not visible ASCII or UTF-8.
    pub fn text(self, name: &str) -> Option<&'a str> {
        self.first(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a line with this name exists.
    pub fn has(self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// The members of a comma-separated list field over all its lines, trimmed, empty members left out
    /// (RFC 9110 section 5.6.1). Only for fields whose members hold no quoted commas.
    pub fn list(self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.all(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|member| !member.is_empty())
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
