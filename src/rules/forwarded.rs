//! `Forwarded` (RFC 7239): what each proxy on the way says of the request that it was sent.

use smallvec::SmallVec;

use super::head::is_token;

/// What one proxy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Element<'a> {
    /// Who has sent it the request: an address with or without a port, `unknown`, or a name of its own (section 6).
    pub node: Option<&'a str>,
    /// By which scheme.
    pub proto: Option<&'a str>,
    /// What it was asked for as `Host`.
    pub host: Option<&'a str>,
}

/// What the proxies say in the lines of the field, the first one first; `None` when any of it cannot be read: where one element ends is not known then.
pub fn elements<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<SmallVec<[Element<'a>; 2]>> {
    let mut elements = SmallVec::new();
    for line in lines {
        let mut rest = std::str::from_utf8(line).ok()?.trim();
        while !rest.is_empty() {
            let element;
            (element, rest) = read_element(rest)?;
            elements.extend(element);
        }
    }
    Some(elements)
}

/// The element that `text` begins with, unless that is empty, and what follows its comma.
fn read_element(text: &str) -> Option<(Option<Element<'_>>, &str)> {
    let (mut element, mut is_empty, mut rest) = (Element::default(), true, text);
    loop {
        rest = rest.trim_start();
        match rest.bytes().next() {
            None => return Some(((!is_empty).then_some(element), rest)),
            Some(b',') => return Some(((!is_empty).then_some(element), rest[1..].trim_start())),
            Some(b';') => rest = &rest[1..],
            Some(_) => {
                let (name, value, after) = read_pair(rest)?;
                is_empty = false;
                let place = match () {
                    () if name.eq_ignore_ascii_case("for") => Some(&mut element.node),
                    () if name.eq_ignore_ascii_case("proto") => Some(&mut element.proto),
                    () if name.eq_ignore_ascii_case("host") => Some(&mut element.host),
                    () => None,
                };
                // Each parameter stands once (section 4).
                if place.is_some_and(|place| place.replace(value).is_some()) {
                    return None;
                }
                rest = after.trim_start();
                if !(rest.is_empty() || rest.starts_with([',', ';'])) {
                    return None;
                }
            }
        }
    }
}

/// A name, its value, and what follows.
fn read_pair(text: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = text.split_once('=')?;
    if !is_token(name) {
        return None;
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, after) = quoted.split_once('"')?;
        // Neither addresses nor hosts need anything escaped; what does is something else.
        return (!value.contains('\\')).then_some((name, value, after));
    }
    let end = rest.find([',', ';', ' ', '\t']).unwrap_or(rest.len());
    let (value, after) = rest.split_at(end);
    is_token(value).then_some((name, value, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::Fields;

    fn read<'a>(lines: &'a [(&'a str, &'a [u8])]) -> Option<Vec<Element<'a>>> {
        elements(Fields::new(lines).all("forwarded")).map(|elements| elements.to_vec())
    }

    #[test]
    fn elements_are_read_in_their_order() {
        let element = |node: &'static str| Element { node: Some(node), ..Element::default() };
        let lines = [
            (
                "Forwarded",
                &b"for=192.0.2.43, For=\"[2001:db8:cafe::17]:4711\" ; proto=http;host=shop.test"[..],
            ),
            ("Accept", b"*/*"),
            ("forwarded", b",for=unknown;by=203.0.113.43;secret=\"a, b; c\","),
            ("FORWARDED", b""),
        ];
        let second =
            Element { node: Some("[2001:db8:cafe::17]:4711"), proto: Some("http"), host: Some("shop.test") };
        assert_eq!(read(&lines), Some(vec![element("192.0.2.43"), second, element("unknown")]));
        assert_eq!(read(&[]), Some(Vec::new()));
    }

    #[test]
    fn what_cannot_be_read_tells_nothing() {
        for bad in [
            "for",
            "for=",
            "=x",
            "for=[::1]",
            "for=\"192.0.2.1",
            "for=\"a\\\"b\"",
            "for=a for=b",
            "for=a;for=b",
            "for=a;FOR=a",
            "for=\"a\"x",
            "for =a",
            "for=192.0.2.1:80",
        ] {
            assert_eq!(read(&[("forwarded", bad.as_bytes())]), None, "{bad}");
        }
        assert_eq!(read(&[("forwarded", b"for=a"), ("forwarded", b"for=\xff")]), None);
    }
}
