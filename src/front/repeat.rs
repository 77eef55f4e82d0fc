//! What a connection's heads said behind their targets, which clients say again and again.
//!
//! A browser fetches a page's pictures with the same fields, a program all that it fetches. What is the same to the byte
//! need not be taken apart anew: it has been let in, holds the same fields, and comes from the same caller. Only the target
//! is read then, and only one that has nothing unusual about it. All else is read as if nothing were known.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use memchr::memchr;
use self_cell::self_cell;

use super::caller::Caller;
use super::head::{self, Head, Read};
use crate::proxy::Live;
use crate::rules::framing::Content;
use crate::rules::request::FieldList;
use crate::rules::target::Scheme;

/// The longest end of a head that is kept, in bytes: a connection keeps two while it is idle.
const MAX_LENGTH: usize = 2 * 1024;

/// The most field lines of one that is known; each takes some bytes more.
const MAX_FIELDS: usize = 32;

const METHOD: &str = "GET";

/// The head that is kept in place of those with the same end and other targets.
const BEGIN: &[u8] = b"GET /";

/// How the heads of a connection end, from the space behind their targets on.
#[derive(Default)]
pub struct Repeat {
    /// The end of the last one that was read as if nothing were known; empty where that was out of the ordinary.
    last: Vec<u8>,
    /// One that has come twice.
    known: Option<Known>,
}

struct Known {
    reading: Reading,
    minor_version: u8,
    /// Under which its caller was judged.
    live: Weak<Live>,
}

self_cell! {
    /// A head, and who sends it.
    struct Reading {
        owner: Vec<u8>,
        #[covariant]
        dependent: Caller,
    }
}

impl Repeat {
    /// The head at the beginning of `bytes`, who sends it, and its length, if it ends as one that is known.
    pub fn find<'b>(
        &'b self,
        bytes: &'b [u8],
        live: &Arc<Live>,
    ) -> Option<(Head<'b>, &'b Caller<'b>, usize)> {
        let known = self.known.as_ref().filter(|known| known.live.as_ptr() == Arc::as_ptr(live))?;
        let rest = bytes.strip_prefix(b"GET ")?;
        let (target, rest) = rest.split_at_checked(memchr(b' ', rest)?)?;
        let end = &known.reading.borrow_owner()[BEGIN.len()..];
        if !rest.starts_with(end) || !is_usual(target) {
            return None;
        }
        let target = std::str::from_utf8(target).ok()?;
        let caller = known.reading.borrow_dependent();
        let head = Head {
            method: METHOD,
            target,
            minor_version: known.minor_version,
            fields: caller.envelope.fields(),
            content: Content::Length(0),
        };
        Some((head, caller, METHOD.len() + 1 + target.len() + end.len()))
    }

    /// Notes the end of a head that was read from `bytes`, which came on a connection from `peer`, unless it is out of the
    /// ordinary. One that comes for the second time is known from now on.
    pub fn note(&mut self, head: &Head<'_>, bytes: &[u8], live: &Arc<Live>, peer: (IpAddr, Scheme)) {
        let is_ordinary = head.method == METHOD
            && is_usual(head.target.as_bytes())
            && head.content == Content::Length(0)
            && head.fields.lines().len() <= MAX_FIELDS;
        let end = bytes.get(METHOD.len() + 1 + head.target.len()..);
        let end = end.filter(|end| is_ordinary && end.len() <= MAX_LENGTH).unwrap_or_default();
        if self.known.as_ref().is_some_and(|known| known.live.as_ptr() != Arc::as_ptr(live)) {
            self.known = None;
        }
        if end.is_empty() || self.last != end {
            self.last.clear();
            self.last.extend_from_slice(end);
            return;
        }
        self.last = Vec::new();
        if let Some(reading) = read_again([BEGIN, end].concat(), live, peer) {
            let (minor_version, live) = (head.minor_version, Arc::downgrade(live));
            self.known = Some(Known { reading, minor_version, live });
        }
    }
}

/// The caller of a head, unless that has fields which are not the request's ([`crate::rules::hop`]).
fn read_again(head: Vec<u8>, live: &Live, peer: (IpAddr, Scheme)) -> Option<Reading> {
    let reading = Reading::try_new(head, |head| {
        let mut lines = FieldList::new();
        let Read::Head { head: Head { minor_version, .. }, .. } = head::read(head, 0, &mut lines) else {
            return Err(());
        };
        let caller = Caller::new(live, lines.to_vec(), minor_version, peer);
        if caller.envelope.fields().lines().len() == lines.len() { Ok(caller) } else { Err(()) }
    });
    reading.ok()
}

/// Whether a target is in origin form, and has no character that any reader minds.
fn is_usual(target: &[u8]) -> bool {
    target.first() == Some(&b'/') && target.iter().fold(true, |all, byte| all & USUAL[usize::from(*byte)])
}

/// By character: targets are short, and this takes fewer instructions than comparing with each that is not.
const USUAL: [bool; 256] = {
    let (mut usual, mut byte) = ([false; 256], b'!');
    while byte <= b'~' {
        usual[byte as usize] = !matches!(byte, b'<' | b'>' | b'`' | b'"' | b'#' | b'\\');
        byte += 1;
    }
    usual
};

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::front::caller;

    const PEER: (IpAddr, Scheme) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Scheme::Http);
    const FIELDS: &str = " HTTP/1.1\r\nHost: shop\r\nCookie:  _ga=1 \r\nX-Empty:\r\n\r\n";

    fn live(options: &str) -> Arc<Live> {
        Arc::new(caller::tests::live(&format!("{options}\nroutes: [{{name: rest}}]")))
    }

    /// What the parser says of the head at the beginning of `bytes`.
    fn parsed(bytes: &str) -> Option<String> {
        let mut lines = FieldList::new();
        match head::read(bytes.as_bytes(), 0, &mut lines) {
            Read::Head { head, end, .. } => Some(format!("{end} {head:?}")),
            _ => None,
        }
    }

    fn found(repeat: &Repeat, bytes: &str, live: &Arc<Live>) -> Option<String> {
        repeat.find(bytes.as_bytes(), live).map(|(head, _, length)| format!("{length} {head:?}"))
    }

    fn note(repeat: &mut Repeat, bytes: &str, live: &Arc<Live>) {
        let mut lines = FieldList::new();
        if let Read::Head { head, end, .. } = head::read(bytes.as_bytes(), 0, &mut lines) {
            repeat.note(&head, &bytes.as_bytes()[..end], live, PEER);
        }
    }

    fn known(head: &str, live: &Arc<Live>) -> Repeat {
        let mut repeat = Repeat::default();
        note(&mut repeat, head, live);
        assert!(found(&repeat, head, live).is_none(), "it has come once");
        note(&mut repeat, head, live);
        repeat
    }

    #[test]
    fn what_was_said_twice_is_known() {
        let live = live("");
        let repeat = known(&format!("GET /{FIELDS}"), &live);
        let next = format!("GET /other?page=2{FIELDS}GET /pipelined HTTP/1.1\r\n");
        assert!(parsed(&next).is_some());
        assert_eq!(found(&repeat, &next, &live), parsed(&next));
    }

    #[test]
    fn others_in_between_leave_it_known() {
        let (live, page) = (live(""), format!("GET /{FIELDS}"));
        let mut repeat = known(&page, &live);
        note(&mut repeat, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", &live);
        assert!(found(&repeat, &page, &live).is_some());
    }

    #[test]
    fn what_differs_is_not_known() {
        let (live, first) = (live(""), format!("GET /{FIELDS}"));
        let repeat = known(&first, &live);
        assert!(found(&repeat, &first, &live).is_some());
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
            assert!(found(&repeat, &other, &live).is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_not_remembered() {
        let live = live("");
        let long = format!(" HTTP/1.1\r\nHost: shop\r\nX: {}\r\n\r\n", "x".repeat(MAX_LENGTH));
        for head in [
            format!("POST /{FIELDS}"),
            format!("GET /{long}"),
            format!("GET http://shop/{FIELDS}"),
            "GET / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: shop\r\nConnection: x\r\nX: 1\r\n\r\n".to_owned(),
            format!("GET / HTTP/1.1\r\nHost: shop\r\n{}\r\n", "X: 1\r\n".repeat(MAX_FIELDS)),
        ] {
            assert!(known(&head, &live).known.is_none(), "{head}");
        }
    }

    #[test]
    fn a_caller_is_judged_anew_under_another_configuration() {
        let head = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
        let (before, after) = (live(""), live("trusted_proxies: [127.0.0.1]"));
        let mut repeat = known(head, &before);
        let address = |repeat: &Repeat, live: &Arc<Live>| {
            repeat.find(head.as_bytes(), live).map(|(_, caller, _)| caller.client.address.to_string())
        };
        assert_eq!(address(&repeat, &before).as_deref(), Some("127.0.0.1"));
        assert_eq!(address(&repeat, &after), None);
        note(&mut repeat, head, &after);
        note(&mut repeat, head, &after);
        assert_eq!(address(&repeat, &after).as_deref(), Some("192.0.2.7"));
    }

    proptest! {
        #[test]
        fn a_known_head_is_as_the_parser_reads_it(
            targets in ["/[!-~]{0,12}", "/[!-~é ]{0,12}"],
            names in proptest::collection::vec("[!-~]{1,6}", 0..6),
            values in proptest::collection::vec("[ -~é\t]{0,8}", 6),
        ) {
            let live = live("");
            let lines: String = names.iter().zip(&values).map(|(name, value)| format!("{name}:{value}\r\n")).collect();
            let [first, next] = targets.map(|target| format!("GET {target} HTTP/1.1\r\nHost: shop\r\n{lines}\r\n"));
            let mut repeat = Repeat::default();
            note(&mut repeat, &first, &live);
            note(&mut repeat, &first, &live);
            for again in [&first, &next] {
                if let Some(found) = found(&repeat, again, &live) {
                    prop_assert_eq!(Some(found), parsed(again));
                }
            }
        }
    }
}
