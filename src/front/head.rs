//! A request head in a buffer: where it ends, and what stands in it.

use std::mem::MaybeUninit;

use memchr::memmem;

use crate::rules::dialect;
use crate::rules::framing::{Content, Lines, Malformed, diagnose, has_bare_line_feed};
use crate::rules::head::Fields;
use crate::rules::request::FieldList;

/// The most field lines of a head.
pub const MAX_FIELDS: usize = 128;

/// What stands at the beginning of a buffer.
pub enum Scan {
    /// Nothing but line breaks, which a server skips (RFC 9112 section 2.2).
    Empty,
    /// A head that goes on.
    Partial,
    /// A head of so many bytes, with the line breaks before it.
    Complete {
        /// Where it begins.
        start: usize,
        /// Where it ends.
        end: usize,
    },
    /// Something that no head begins or ends like.
    Malformed(Malformed),
}

/// Looks for the end of a head. The first `scanned` bytes are known not to end one.
pub fn scan(bytes: &[u8], scanned: usize) -> Scan {
    const END: &[u8] = b"\r\n\r\n";
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let Some(first) = bytes.get(start) else { return Scan::Empty };
    // What begins a method; a handshake of TLS does not.
    if !first.is_ascii_alphabetic() {
        return Scan::Malformed(Malformed::Syntax);
    }
    let from = scanned.saturating_sub(END.len() - 1).max(start);
    match memmem::find(&bytes[from..], END) {
        Some(at) => Scan::Complete { start, end: from + at + END.len() },
        None if has_bare_line_feed(&bytes[start..]) => Scan::Malformed(Malformed::BareLineFeed),
        None => Scan::Partial,
    }
}

/// A head that is let in.
pub struct Head<'b> {
    /// As sent.
    pub method: &'b str,
    /// As sent; `None` for one with bytes that are not allowed in it, which Pingora escapes.
    pub target: Option<&'b str>,
    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub minor_version: u8,
    /// The field lines.
    pub fields: FieldList<'b>,
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

impl<'b> Head<'b> {
    /// Reads a complete head.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Refused> {
        if has_bare_line_feed(bytes) {
            return Err(Malformed::BareLineFeed.into());
        }
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Malformed::Syntax.into()),
            Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
            Err(_) => return parse_odd(bytes),
        }
        let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let minor_version = request.version.unwrap_or_default();
        let fields: FieldList<'b> =
            request.headers.iter().map(|header| (header.name, header.value)).collect();
        let may_lack_host = dialect::is_purge(method);
        let content =
            Lines { method, target, minor_version, fields: Fields(&fields), may_lack_host }.check()?;
        Ok(Self { method, target: Some(target), minor_version, fields, content })
    }
}

/// Reads a head whose target may be what cannot be read: old browsers and bots send quotes, braces and bytes of old
/// encodings. Everything else must be as it has to be.
fn parse_odd(bytes: &[u8]) -> Result<Head<'_>, Refused> {
    let unreadable = || Refused::Malformed(diagnose(bytes));
    let line_end = memmem::find(bytes, b"\r\n").ok_or_else(unreadable)?;
    let mut parts = bytes[..line_end].split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unreadable());
    };
    let is_control = |byte: &u8| byte.is_ascii_control();
    if target.iter().any(is_control) {
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
    let lines = Lines { method: "", target, minor_version, fields: Fields(&fields), may_lack_host: false };
    let content = lines.check()?;
    Ok(Head { method: "", target: None, minor_version, fields: FieldList::new(), content })
}
