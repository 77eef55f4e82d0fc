//! A request head in a buffer: where it ends, and what stands in it.

use std::mem::MaybeUninit;
use std::ops::Range;

use memchr::{memchr_iter, memmem};

use crate::rules::dialect;
use crate::rules::framing::{self, Content, Lines, Malformed, diagnose, has_bare_line_feed};
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
#[derive(Clone, Copy, Debug)]
pub struct Head<'l> {
    /// As sent.
    pub method: &'l str,
    /// As sent.
    pub target: &'l str,
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
    /// Nobody is connected through.
    Method,
}

impl From<Malformed> for Refused {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why)
    }
}

impl<'l> Head<'l> {
    /// Where the value of `Host` stands in `bytes`, and where the authority of an absolute target that has to replace it (RFC
    /// 9112 section 3.2.2). `None` where the two agree. `bytes` must be those that the head was read from.
    pub fn host_to_replace(&self, bytes: &[u8]) -> Option<[Range<usize>; 2]> {
        let authority = framing::authority(self.target)?.as_bytes();
        let host = self.fields.first("host").filter(|host| *host != authority)?;
        let place = |part: &[u8]| {
            let begin = part.as_ptr().addr() - bytes.as_ptr().addr();
            begin..begin + part.len()
        };
        Some([place(host), place(authority)])
    }

    /// Reads the head that `bytes` begin with, and tells its length. They hold its end.
    fn parse<'b: 'l>(bytes: &'b [u8], lines: &'l mut FieldList<'b>) -> Result<(Self, usize), Refused> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Err(Malformed::Syntax.into()),
            Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
            Err(_) => {
                let head = &bytes[..end_of(bytes, 0).unwrap_or(bytes.len())];
                return Err(diagnose(head).into());
            }
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
        Ok((Self { method, target, minor_version, fields, content }, length))
    }
}
