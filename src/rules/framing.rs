//! Where a request begins and ends on a connection, and which heads are not let in.
//!
//! Two readers of one connection that disagree about where a request ends let a client hide a second request in the
//! first (request smuggling). So whatever can be read in two ways is refused, although RFC 9112 lets a server repair
//! some of it; and what is let in is handed on exactly as far as it goes.

use std::fmt;

use memchr::{memchr, memchr_iter, memchr2};

use super::head::Fields;
use super::target::is_host;
use super::text::same;

/// How the content of a request is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// By a length in bytes, which is zero where there is none.
    Length(u64),
    /// By chunks.
    Chunked,
}

/// The most members of `Connection`.
pub const MAX_CONNECTION: usize = 64;

/// Why a head is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Its lines cannot be read.
    Syntax,
    /// A line ends without a carriage return.
    BareLineFeed,
    /// A line continues the one before.
    Folding,
    /// White space stands between the name of a field and its colon.
    SpaceBeforeColon,
    /// The version is not one of HTTP/1.
    Version,
    /// The target is in none of the forms that its method allows.
    Target,
    /// The target has characters that no URL has.
    Characters,
    /// No host is named.
    NoHost,
    /// The host is named twice, or is none.
    Host,
    /// `Connection` names more than [`MAX_CONNECTION`] fields.
    Connection,
    /// The length is not one number, or is given twice.
    ContentLength,
    /// Both a length and a transfer coding are given.
    LengthAndCoding,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// A transfer coding in HTTP/1.0.
    CodingInHttp10,
}

impl Malformed {
    /// One sentence, for the client as for the operator.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Syntax => "its head cannot be read",
            Self::BareLineFeed => "a line of its head ends without a carriage return",
            Self::Folding => "a line of its head continues the one before",
            Self::SpaceBeforeColon => "white space stands before a colon",
            Self::Version => "its version is not HTTP/1.0 or HTTP/1.1",
            Self::Target => "its target is in no form that its method allows",
            Self::Characters => "its target has characters that must be percent-encoded",
            Self::NoHost => "it names no host",
            Self::Host => "its host is named twice, or is none",
            Self::Connection => "its Connection names too many fields",
            Self::ContentLength => "its Content-Length is not one number",
            Self::LengthAndCoding => "it has a Content-Length and a Transfer-Encoding",
            Self::TransferCoding => "its transfer coding is not `chunked`",
            Self::CodingInHttp10 => "HTTP/1.0 knows no Transfer-Encoding",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.explain())
    }
}

/// A request line and its fields, as far as they decide whether a head is let in.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    /// As sent.
    pub method: &'a str,
    /// As sent; only its beginning and its authority are looked at.
    pub target: &'a str,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    /// All lines, as received.
    pub fields: Fields<'a>,
    /// Whether the request may lack a host: old clients of other caches send purges so.
    pub may_lack_host: bool,
}

impl<'a> Lines<'a> {
    /// Checks the head, and tells how its content is delimited.
    pub fn check(&self) -> Result<Content, Malformed> {
        self.check_target()?;
        self.check_host()?;
        self.check_connection()?;
        self.content()
    }

    /// RFC 9112 section 3.2: which forms of a target there are, and for whom.
    fn check_target(&self) -> Result<(), Malformed> {
        let fits = match self.method {
            "CONNECT" => is_host(self.target.as_bytes()) && !self.target.is_empty(),
            "OPTIONS" if self.target == "*" => true,
            _ => self.target.starts_with('/') || authority(self.target).is_some_and(|host| !host.is_empty()),
        };
        if !fits {
            return Err(Malformed::Target);
        }
        // What libraries for URLs refuse (RFC 3986 section 2 refuses more).
        let target = self.target.as_bytes();
        let path = memchr(b'?', target).map_or(target, |end| &target[..end]);
        match memchr2(b'<', b'>', target).or(memchr(b'`', path)) {
            Some(_) => Err(Malformed::Characters),
            None => Ok(()),
        }
    }

    /// Section 3.2: a server must refuse a request of HTTP/1.1 without a host, with two, and with one that is none.
    fn check_host(&self) -> Result<(), Malformed> {
        if authority(self.target).is_some_and(|host| !is_host(host.as_bytes())) {
            return Err(Malformed::Host);
        }
        let mut hosts = self.fields.all("host");
        match (hosts.next(), hosts.next()) {
            (None, _) if self.minor_version == 0 || self.may_lack_host => Ok(()),
            (None, _) => Err(Malformed::NoHost),
            (Some(host), None) if is_host(host.trim_ascii()) => Ok(()),
            _ => Err(Malformed::Host),
        }
    }

    /// Each member is held against every field; nobody needs many.
    fn check_connection(&self) -> Result<(), Malformed> {
        let members = self.fields.all("connection").map(|line| memchr_iter(b',', line).count() + 1);
        if members.sum::<usize>() > MAX_CONNECTION { Err(Malformed::Connection) } else { Ok(()) }
    }

    fn content(&self) -> Result<Content, Malformed> {
        let mut lengths = self.fields.all("content-length");
        let length = lengths.next();
        // Section 6.3 point 5 lets a server accept equal ones; whoever is next may take another of them.
        if lengths.next().is_some() {
            return Err(Malformed::ContentLength);
        }
        let number = |value: &[u8]| {
            let text =
                std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            text?.parse().ok()
        };
        let mut codings = self.fields.all("transfer-encoding");
        let Some(coding) = codings.next() else {
            return match length {
                None => Ok(Content::Length(0)),
                Some(value) => number(value).map(Content::Length).ok_or(Malformed::ContentLength),
            };
        };
        match () {
            // Section 6.1: such a message ought to be handled as an error.
            () if length.is_some() => Err(Malformed::LengthAndCoding),
            () if self.minor_version == 0 => Err(Malformed::CodingInHttp10),
            () if codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked") => Ok(Content::Chunked),
            () => Err(Malformed::TransferCoding),
        }
    }
}

/// The authority of a target in absolute form (RFC 9112 section 3.2.2).
pub fn authority(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return None;
    }
    let (scheme, rest) = target.split_once("://")?;
    let is_http = ["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme));
    is_http.then(|| rest.split(['/', '?', '#']).next().unwrap_or(rest))
}

/// Whether another request may follow on the connection (RFC 9112 section 9.3). Of HTTP/1.0, only to who asks for nothing
/// else.
pub fn persists(minor_version: u8, fields: Fields<'_>) -> bool {
    match minor_version {
        0 => fields.text("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")),
        _ => !fields.all("connection").any(|line| {
            // Nearly all lines are but one option.
            !same(line, b"keep-alive")
                && line
                    .split(|byte| *byte == b',')
                    .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
        }),
    }
}

/// Why a head cannot be read, told by the lines themselves: a parser only says where.
pub fn diagnose(head: &[u8]) -> Malformed {
    if has_bare_line_feed(head) {
        return Malformed::BareLineFeed;
    }
    let mut lines = head.split(|byte| *byte == b'\n');
    let request_line = lines.next().unwrap_or_default().trim_ascii_end();
    if request_line
        .rsplit(|byte| *byte == b' ')
        .next()
        .is_some_and(|version| version.starts_with(b"HTTP/") && !version.starts_with(b"HTTP/1."))
    {
        return Malformed::Version;
    }
    for line in lines {
        if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            return Malformed::Folding;
        }
        let name = memchr(b':', line).map_or(line, |colon| &line[..colon]);
        if name.len() < line.len() && name.last().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            return Malformed::SpaceBeforeColon;
        }
    }
    Malformed::Syntax
}

/// Whether a line ends without a carriage return (RFC 9112 section 2.2 lets a server take it for an end).
pub fn has_bare_line_feed(head: &[u8]) -> bool {
    memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

/// Follows a request to its end.
#[derive(Clone, Debug)]
pub enum Boundary {
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
}

/// The framing of chunks cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

impl Boundary {
    /// The end of a request whose head has `head` bytes.
    pub fn new(head: usize, content: Content) -> Self {
        match content {
            Content::Length(length) => Self::Length(length.saturating_add(head as u64)),
            Content::Chunked => Self::Chunked(Chunks::after(head)),
        }
    }

    /// How many of the next bytes are of the request. Where they are fewer than all it ends, or cannot be read further:
    /// then the rest is an error.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
        }
    }

    /// Whether the request has ended.
    pub fn is_reached(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.place == Place::End,
        }
    }
}

/// Follows chunks (RFC 9112 section 7.1), and refuses what two readers may read differently.
#[derive(Clone, Debug)]
pub struct Chunks {
    place: Place,
    /// Bytes of the line or the trailer section so far.
    length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head(usize),
    Size { size: u64, digits: u8 },
    Extension(u64),
    SizeFeed(u64),
    Data(u64),
    DataReturn,
    DataFeed,
    TrailerStart,
    Trailer,
    TrailerFeed,
    EndFeed,
    End,
}

impl Chunks {
    /// The longest line of a chunk, its extensions included.
    pub const MAX_LINE: usize = 256;
    /// The longest trailer section.
    pub const MAX_TRAILERS: usize = 8 * 1024;

    fn after(head: usize) -> Self {
        Self { place: Place::Head(head), length: 0 }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < bytes.len() && self.place != Place::End {
            let rest = bytes.len() - at;
            match self.place {
                Place::Head(left) => {
                    let taken = left.min(rest);
                    at += taken;
                    self.place = if taken == left { SIZE } else { Place::Head(left - taken) };
                }
                Place::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
                    at += taken;
                    let left = left - taken as u64;
                    self.place = if left == 0 { Place::DataReturn } else { Place::Data(left) };
                }
                _ => {
                    self.place = match self.step(bytes[at]) {
                        Ok(place) => place,
                        // What comes before is good.
                        Err(_) if at > 0 => return Ok(at),
                        Err(bad) => return Err(bad),
                    };
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// The place after one byte of the framing.
    fn step(&mut self, byte: u8) -> Result<Place, BadChunk> {
        self.length += 1;
        let is_trailer = matches!(self.place, Place::TrailerStart | Place::Trailer | Place::TrailerFeed);
        if self.length > if is_trailer { Self::MAX_TRAILERS } else { Self::MAX_LINE } {
            return Err(BadChunk);
        }
        match (self.place, byte) {
            (Place::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let size = size.checked_mul(16).and_then(|size| size.checked_add(digit.into()));
                Ok(Place::Size { size: size.ok_or(BadChunk)?, digits: digits + 1 })
            }
            (Place::Size { size, digits: 1.. }, b'\r') => Ok(Place::SizeFeed(size)),
            (Place::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Ok(Place::Extension(size)),
            (Place::Extension(size), b'\r') => Ok(Place::SizeFeed(size)),
            (Place::Extension(_), b' '..=b'~' | b'\t' | 0x80..) => Ok(self.place),
            (Place::SizeFeed(size), b'\n') => {
                self.length = 0;
                Ok(if size == 0 { Place::TrailerStart } else { Place::Data(size) })
            }
            (Place::DataReturn, b'\r') => Ok(Place::DataFeed),
            (Place::DataFeed, b'\n') => {
                self.length = 0;
                Ok(SIZE)
            }
            (Place::TrailerStart, b'\r') => Ok(Place::EndFeed),
            (Place::TrailerStart | Place::Trailer, b'!'..=b'~' | 0x80..) => Ok(Place::Trailer),
            (Place::Trailer, b' ' | b'\t') => Ok(Place::Trailer),
            (Place::Trailer, b'\r') => Ok(Place::TrailerFeed),
            (Place::TrailerFeed, b'\n') => Ok(Place::TrailerStart),
            (Place::EndFeed, b'\n') => Ok(Place::End),
            _ => Err(BadChunk),
        }
    }
}

const SIZE: Place = Place::Size { size: 0, digits: 0 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::Field;
    use proptest::prelude::*;

    fn check(request_line: &str, fields: &[(&str, &str)]) -> Result<Content, Malformed> {
        let mut parts = request_line.split(' ');
        let (method, target) = (parts.next().unwrap(), parts.next().unwrap());
        let fields: Vec<Field<'_>> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let minor_version = u8::from(parts.next() != Some("HTTP/1.0"));
        let may_lack_host = method == "PURGE";
        Lines { method, target, minor_version, fields: Fields::new(&fields), may_lack_host }.check()
    }

    const HOST: (&str, &str) = ("Host", "shop");

    #[test]
    fn what_can_be_read_in_one_way_only_is_let_in() {
        use Content::{Chunked, Length};
        for (line, fields, content) in [
            ("GET /", &[HOST][..], Length(0)),
            ("GET / HTTP/1.0", &[], Length(0)),
            ("PURGE /a", &[], Length(0)),
            ("GET http://shop/", &[("host", "other")], Length(0)),
            ("GET HTTPS://shop:8080?a", &[HOST], Length(0)),
            ("OPTIONS *", &[HOST], Length(0)),
            ("CONNECT shop:443", &[HOST], Length(0)),
            ("GET /", &[("host", "")], Length(0)),
            ("GET /{a}\"|^?`", &[HOST], Length(0)),
            ("POST /", &[HOST, ("content-length", "12")], Length(12)),
            ("POST /", &[HOST, ("Transfer-Encoding", "Chunked")], Chunked),
        ] {
            assert_eq!(check(line, fields), Ok(content), "{line} {fields:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        use Malformed::*;
        for (line, fields, why) in [
            ("GET /", &[][..], NoHost),
            ("GET /", &[HOST, HOST], Host),
            ("GET /", &[("Host", "a, b")], Host),
            ("GET /", &[("Host", "a/b")], Host),
            ("GET /", &[("Host", "user@shop")], Host),
            ("GET http://user@shop/", &[HOST], Host),
            ("GET http:///a", &[HOST], Target),
            ("GET ftp://shop/", &[HOST], Target),
            ("GET *", &[HOST], Target),
            ("GET shop", &[HOST], Target),
            ("CONNECT /", &[HOST], Target),
            ("GET /<b>", &[HOST], Characters),
            ("GET /?a=>", &[HOST], Characters),
            ("GET /`", &[HOST], Characters),
            ("GET /", &[HOST, ("connection", &"a,".repeat(64))], Connection),
            ("POST /", &[HOST, ("content-length", "1"), ("Content-Length", "1")], ContentLength),
            ("POST /", &[HOST, ("content-length", "1, 1")], ContentLength),
            ("POST /", &[HOST, ("content-length", "+1")], ContentLength),
            ("POST /", &[HOST, ("content-length", "")], ContentLength),
            ("POST /", &[HOST, ("content-length", "99999999999999999999")], ContentLength),
            ("POST /", &[HOST, ("content-length", "1"), ("transfer-encoding", "chunked")], LengthAndCoding),
            ("POST /", &[HOST, ("transfer-encoding", "gzip, chunked")], TransferCoding),
            ("POST /", &[HOST, ("transfer-encoding", "chunked"), ("transfer-encoding", "x")], TransferCoding),
            ("POST /", &[HOST, ("transfer-encoding", "xchunked")], TransferCoding),
            ("POST /", &[HOST, ("transfer-encoding", "\u{b}chunked")], TransferCoding),
            ("POST / HTTP/1.0", &[HOST, ("transfer-encoding", "chunked")], CodingInHttp10),
        ] {
            assert_eq!(check(line, fields), Err(why), "{line} {fields:?}");
        }
    }

    #[test]
    fn an_unreadable_head_is_diagnosed() {
        for (head, why) in [
            ("GET / HTTP/1.1\nHost: a\n\n", Malformed::BareLineFeed),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Malformed::Folding),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Malformed::SpaceBeforeColon),
            ("PRI * HTTP/2.0\r\n\r\n", Malformed::Version),
            ("GET / HTTP/1.1\r\nH(st: a\r\n\r\n", Malformed::Syntax),
        ] {
            assert_eq!(diagnose(head.as_bytes()), why, "{head:?}");
        }
    }

    fn taken(bytes: &[u8], piece: usize) -> Result<(usize, bool), BadChunk> {
        let mut boundary = Boundary::new(2, Content::Chunked);
        let mut total = 0;
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() && !boundary.is_reached() {
                let taken = boundary.take(piece)?;
                total += taken;
                piece = &piece[taken..];
            }
        }
        Ok((total, boundary.is_reached()))
    }

    #[test]
    fn chunks_are_followed_to_their_end_however_they_arrive() {
        for (body, ends) in [
            ("0\r\n\r\n", true),
            ("3\r\nabc\r\n00\r\n\r\n", true),
            ("a;x=\"y\"\r\n0123456789\r\n0\r\nX-Trailer: 1\r\nY: 2\r\n\r\n", true),
            ("3\r\nabc\r\n0\r\n", false),
            ("FFFFFFFFFFFFFFFF\r\nabc", false),
        ] {
            let sent = format!("xx{body}GET / HTTP/1.1\r\n");
            for piece in 1..=sent.len() {
                let whole = if ends { body.len() + 2 } else { sent.len() };
                if ends || body.starts_with('F') {
                    assert_eq!(taken(sent.as_bytes(), piece), Ok((whole, ends)), "{body:?} by {piece}");
                }
            }
            assert_eq!(taken(format!("xx{body}").as_bytes(), 3).map(|(_, ends)| ends), Ok(ends), "{body:?}");
        }
    }

    #[test]
    fn chunks_that_can_be_read_in_two_ways_are_refused() {
        let long = "x".repeat(Chunks::MAX_LINE);
        let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(Chunks::MAX_TRAILERS));
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\nab",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1;a\nb\r\n",
            "1;\u{0}\r\n",
            "10000000000000000\r\n",
            "00000000000000001\r\n",
            "0\r\n\n",
            "0\r\n folded: 1\r\n\r\n",
            "0\r\nX: 1\n\r\n",
            &format!("1;{long}\r\n"),
            &trailers,
        ] {
            assert_eq!(taken(format!("xx{body}").as_bytes(), 7), Err(BadChunk), "{body:?}");
        }
    }

    proptest! {
        /// A body of chunks ends where it ends, whatever is in it and however it arrives.
        #[test]
        fn data_is_never_framing(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), piece in 1_usize..50) {
            let mut sent = b"xx".to_vec();
            for chunk in &chunks {
                sent.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
            }
            sent.extend_from_slice(b"0\r\n\r\n");
            let end = sent.len();
            sent.extend_from_slice(b"next");
            prop_assert_eq!(taken(&sent, piece), Ok((end, true)));
        }
    }
}
