//! What a connection's last head said behind its target, which clients say again and again.
//!
//! A browser fetches a page's pictures with the same fields, a program all that it fetches. What is the same to the byte
//! need not be taken apart anew: it has been let in, and holds the same fields. Only the target is read then, and only one
//! that has nothing unusual about it. All else is read as if nothing were known.

use memchr::memchr;

use super::head::Head;
use crate::rules::framing::Content;
use crate::rules::head::{Fields, Names};
use crate::rules::request::FieldList;

/// The longest end of a head that is kept, in bytes: a connection keeps it while it is idle.
const MAX_LENGTH: usize = 2 * 1024;

const METHOD: &str = "GET ";

/// The end of a head, from the space behind its target on; empty where none is known.
#[derive(Default)]
pub struct Repeat {
    end: String,
    fields: Vec<Place>,
    names: Names,
    minor_version: u8,
}

/// Where the name of a field begins and ends, and then its value.
type Place = [u16; 4];

impl Repeat {
    /// The head at the beginning of `bytes`, and its length, if it ends as the last one did. `lines` is room for its field
    /// lines.
    pub fn read<'l, 'b: 'l>(
        &'b self,
        bytes: &'b [u8],
        lines: &'l mut FieldList<'b>,
    ) -> Option<(Head<'l>, usize)> {
        let rest = bytes.strip_prefix(METHOD.as_bytes()).filter(|_| !self.end.is_empty())?;
        let (target, rest) = rest.split_at_checked(memchr(b' ', rest)?)?;
        if !rest.starts_with(self.end.as_bytes()) || !is_usual(target) {
            return None;
        }
        let target = std::str::from_utf8(target).ok()?;
        let line = |[name, colon, value, end]: &Place| {
            let name = self.end.get(usize::from(*name)..usize::from(*colon))?;
            Some((name, self.end.as_bytes().get(usize::from(*value)..usize::from(*end))?))
        };
        lines.clear();
        lines.extend(self.fields.iter().filter_map(line));
        let fields = Fields::with_names(lines, self.names);
        let Self { minor_version, .. } = *self;
        let head =
            Head { method: METHOD.trim_end(), target, minor_version, fields, content: Content::Length(0) };
        Some((head, METHOD.len() + target.len() + self.end.len()))
    }

    /// Remembers the end of a head that was read from `bytes`, unless that is out of the ordinary.
    pub fn note(&mut self, head: &Head<'_>, bytes: &[u8]) {
        self.end.clear();
        let is_ordinary = bytes.starts_with(METHOD.as_bytes())
            && is_usual(head.target.as_bytes())
            && head.content == Content::Length(0);
        let end = bytes.get(METHOD.len() + head.target.len()..).filter(|end| end.len() <= MAX_LENGTH);
        let Some(end) = end.and_then(|end| std::str::from_utf8(end).ok()).filter(|_| is_ordinary) else {
            return;
        };
        // No more than `MAX_LENGTH`.
        let place = |part: &[u8]| (part.as_ptr().addr() - end.as_ptr().addr()) as u16;
        let places = head.fields.lines().iter().map(|(name, value)| {
            let (name_at, value_at) = (place(name.as_bytes()), place(value));
            [name_at, name_at + name.len() as u16, value_at, value_at + value.len() as u16]
        });
        self.fields.clear();
        self.fields.extend(places);
        self.names = head.fields.names();
        self.minor_version = head.minor_version;
        self.end.push_str(end);
    }
}

/// Whether a target is in origin form, and has no character that any reader minds.
fn is_usual(target: &[u8]) -> bool {
    let is_usual =
        |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'`' | b'"' | b'#' | b'\\');
    target.first() == Some(&b'/') && target.iter().fold(true, |all, byte| all & is_usual(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::head::{self, Read};
    use proptest::prelude::*;

    fn parse<'l, 'b: 'l>(bytes: &'b [u8], lines: &'l mut FieldList<'b>) -> Option<(Head<'l>, usize)> {
        match head::read(bytes, 0, lines) {
            Read::Head { head, end, .. } => Some((head, end)),
            _ => None,
        }
    }

    fn told(head: Option<(Head<'_>, usize)>) -> Option<String> {
        head.map(|(head, length)| format!("{length} {head:?}"))
    }

    const FIELDS: &str = " HTTP/1.1\r\nHost: shop\r\nCookie:  _ga=1 \r\nX-Empty:\r\n\r\n";

    #[test]
    fn what_is_said_again_is_known() {
        let (first, mut lines, mut repeat) = (format!("GET /{FIELDS}"), FieldList::new(), Repeat::default());
        let (head, _) = parse(first.as_bytes(), &mut lines).unwrap();
        repeat.note(&head, first.as_bytes());
        let next = format!("GET /other?page=2{FIELDS}GET /pipelined HTTP/1.1\r\n");
        let (mut lines, mut known) = (FieldList::new(), FieldList::new());
        let known = told(repeat.read(next.as_bytes(), &mut known));
        assert!(known.is_some());
        assert_eq!(known, told(parse(next.as_bytes(), &mut lines)));
    }

    #[test]
    fn what_differs_is_not_known() {
        let (first, mut lines, mut repeat) = (format!("GET /{FIELDS}"), FieldList::new(), Repeat::default());
        assert!(repeat.read(first.as_bytes(), &mut FieldList::new()).is_none(), "nothing is known yet");
        let (head, _) = parse(first.as_bytes(), &mut lines).unwrap();
        repeat.note(&head, first.as_bytes());
        for other in [
            first.replace("GET", "HEAD"),
            first.replace("GET", "get"),
            first.replace("1.1", "1.0"),
            first.replace("_ga=1", "_ga=2"),
            first.replace("shop", "Shop"),
            first.replace("GET /", "GET http://shop/"),
            first.replace("GET /", "GET  /"),
            first.replace("GET /", "GET /<b>"),
            first.replace("GET /", "GET /\u{e9}"),
            first.replace("\r\n\r\n", "\r\nX: 1\r\n\r\n"),
            first[..first.len() - 1].to_owned(),
        ] {
            assert!(repeat.read(other.as_bytes(), &mut FieldList::new()).is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_not_remembered() {
        let long = format!(" HTTP/1.1\r\nHost: shop\r\nX: {}\r\n\r\n", "x".repeat(MAX_LENGTH));
        for head in [
            format!("POST /{FIELDS}"),
            format!("GET /{long}"),
            format!("GET http://shop/{FIELDS}"),
            "GET / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\n\r\n".to_owned(),
        ] {
            let (mut lines, mut repeat) = (FieldList::new(), Repeat::default());
            repeat.note(&parse(head.as_bytes(), &mut lines).unwrap().0, head.as_bytes());
            assert!(repeat.end.is_empty(), "{head}");
        }
    }

    proptest! {
        #[test]
        fn a_known_head_is_as_the_parser_reads_it(
            targets in ["/[!-~]{0,12}", "/[!-~é ]{0,12}"],
            names in proptest::collection::vec("[!-~]{1,6}", 0..6),
            values in proptest::collection::vec("[ -~é\t]{0,8}", 6),
        ) {
            let lines: String = names.iter().zip(&values).map(|(name, value)| format!("{name}:{value}\r\n")).collect();
            let [first, next] = targets.map(|target| format!("GET {target} HTTP/1.1\r\nHost: shop\r\n{lines}\r\n"));
            let (mut room, mut repeat) = (FieldList::new(), Repeat::default());
            if let Some((head, _)) = parse(first.as_bytes(), &mut room) {
                repeat.note(&head, first.as_bytes());
            }
            for again in [&first, &next] {
                let (mut known, mut room) = (FieldList::new(), FieldList::new());
                if let Some(known) = told(repeat.read(again.as_bytes(), &mut known)) {
                    prop_assert_eq!(Some(known), told(parse(again.as_bytes(), &mut room)));
                }
            }
        }
    }
}
