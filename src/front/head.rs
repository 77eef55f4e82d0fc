//! A request head in a buffer: where it ends, and what stands in it.

use std::mem::MaybeUninit;

use memchr::{memchr_iter, memmem};

use crate::rules::dialect;
use crate::rules::framing::{Content, Lines, Malformed, diagnose, has_bare_line_feed};
use crate::rules::head::Fields;
use crate::rules::request::FieldList;

/// The most field lines of a head.
pub const MAX_FIELDS: usize = 128;

/// What stands at the beginning of a buffer.
pub enum Read<'l> {
    /// Nothing but line breaks, which a server skips (RFC 9112 section 2.2).
    Empty,
    /// A head that goes on.
    Partial,
    /// A complete head, which is let in.
    Head {
        /// The head.
        head: Head<'l>,
        /// Where it begins, behind line breaks.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// A head that is not let in, or something that no head begins or ends like.
    Refused(Refused),
}

/// Reads the head at the beginning of `bytes`. The first `scanned` of them are known not to end one. `lines` is room for its
/// field lines.
pub fn read<'l, 'b: 'l>(bytes: &'b [u8], scanned: usize, lines: &'l mut FieldList<'b>) -> Read<'l> {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let Some(first) = bytes.get(start) else { return Read::Empty };
    // What begins a method; a handshake of TLS does not.
    if !first.is_ascii_alphabetic() {
        return Read::Refused(Malformed::Syntax.into());
    }
    let rest = &bytes[start..];
    // What comes in one piece ends with the head, as a rule. Then its end need not be looked for.
    let searched = match scanned == 0 && rest.ends_with(END) {
        true => rest,
        false => match end_of(rest, scanned.saturating_sub(start)) {
            Some(end) => &rest[..end],
            None if has_bare_line_feed(rest) => return Read::Refused(Malformed::BareLineFeed.into()),
            None => return Read::Partial,
        },
    };
    match Head::parse(searched, lines) {
        Ok((head, length)) => Read::Head { head, start, end: start + length },
        Err(refused) => Read::Refused(refused),
    }
}

const END: &[u8] = b"\r\n\r\n";

/// Where the first head ends.
fn end_of(bytes: &[u8], scanned: usize) -> Option<usize> {
    let from = scanned.saturating_sub(END.len() - 1);
    memmem::find(&bytes[from..], END).map(|at| from + at + END.len())
}

/// A head that is let in.
#[derive(Clone, Copy)]
pub struct Head<'l> {
    /// As sent.
    pub method: &'l str,
    /// As sent; `None` for one with bytes that are not allowed in it, which Pingora escapes.
    pub target: Option<&'l str>,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    /// The field lines.
    pub fields: Fields<'l>,
    /// How its content is delimited.
    pub content: Content,
}

/// Why a head is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It can be read in two ways, or in none.
    Malformed(Malformed),
    /// It is too large, or has more lines than [`MAX_FIELDS`].
    TooLarge,
    /// It took too long.
    TooSlow,
}

impl From<Malformed> for Refused {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why)
    }
}

impl<'l> Head<'l> {
    /// Reads the head that `bytes` begin with, and tells its length. They hold its end.
    fn parse<'b: 'l>(bytes: &'b [u8], lines: &'l mut FieldList<'b>) -> Result<(Self, usize), Refused> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Err(Malformed::Syntax.into()),
            Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
            Err(_) => return parse_odd(&bytes[..end_of(bytes, 0).unwrap_or(bytes.len())]),
        };
        lines.clear();
        lines.extend(request.headers.iter().map(|header| (header.name, header.value)));
        // The parser takes a bare line feed for the end of a line, but a carriage return nowhere else. The request line and
        // the empty one come on top.
        if memchr_iter(b'\r', &bytes[..length]).count() != lines.len() + 2 {
            return Err(Malformed::BareLineFeed.into());
        }
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let minor_version = request.version.unwrap_or_default();
        let (fields, may_lack_host) = (Fields::new(lines), dialect::is_purge(method));
        let content = Lines { method, target, minor_version, fields, may_lack_host }.check()?;
        Ok((Self { method, target: Some(target), minor_version, fields, content }, length))
    }
}

/// Reads a head whose target may be what cannot be read: old browsers and bots send quotes, braces and bytes of old
/// encodings. Everything else must be as it has to be.
fn parse_odd<'l>(bytes: &[u8]) -> Result<(Head<'l>, usize), Refused> {
    let unreadable = || Refused::Malformed(diagnose(bytes));
    let line_end = memmem::find(bytes, b"\r\n").ok_or_else(unreadable)?;
    let mut parts = bytes[..line_end].split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unreadable());
    };
    let is_control = |byte: &u8| byte.is_ascii_control();
    if target.iter().any(is_control) || has_bare_line_feed(bytes) {
        return Err(unreadable());
    }
    let mut readable = bytes.to_vec();
    for byte in &mut readable[method.len() + 1..method.len() + 1 + target.len()] {
        if !byte.is_ascii_alphanumeric() && !b"/:?*.-".contains(byte) {
            *byte = b'_';
        }
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(&readable, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
        _ => return Err(unreadable()),
    }
    let fields: FieldList<'_> = request.headers.iter().map(|header| (header.name, header.value)).collect();
    let (minor_version, target) = (request.version.unwrap_or_default(), request.path.unwrap_or_default());
    let fields = Fields::new(&fields);
    let content = Lines { method: "", target, minor_version, fields, may_lack_host: false }.check()?;
    let fields = Fields::default();
    Ok((Head { method: "", target: None, minor_version, fields, content }, bytes.len()))
}
