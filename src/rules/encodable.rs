//! Which responses are worth encoding, and what their encoded forms are called.

use super::conditional::opaque_tag;
use super::encoding::{Coding, Formats};
use super::head::{Fields, ResponseHead};

/// How a route encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodePolicy {
    /// On offer, the preferred one first.
    pub formats: Formats,
    /// The smallest body worth it, in bytes.
    pub min_length: u64,
    /// The largest, in bytes, where the length is known.
    pub max_length: u64,
    /// Whether lengths are blurred of what passes, and of stored pages on the guard's probation.
    pub pads_passed: bool,
    /// Whether the length of all that is stored is blurred too: the route has entries for one person each.
    pub pads_stored: bool,
}

impl Default for EncodePolicy {
    /// Nothing is encoded.
    fn default() -> Self {
        Self { formats: Formats::NONE, min_length: 0, max_length: 0, pads_passed: true, pads_stored: true }
    }
}

impl EncodePolicy {
    /// What is on offer for a body whose length is blurred, or is not. There is no room in zstd for bytes that every
    /// decoder skips.
    pub fn offered(&self, pads: bool) -> Formats {
        if pads { self.formats.without(Coding::Zstd) } else { self.formats }
    }
}

/// Fields that tell a digest of the bytes as they are.
const DIGESTS: &[&str] = &["content-digest", "content-md5", "digest", "repr-digest"];

/// Types beside `text/*`, and those that end in `+json` or `+xml`.
const TYPES: &[&str] = &[
    "application/dash+xml",
    "application/ecmascript",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/ndjson",
    "application/rtf",
    "application/vnd.apple.mpegurl",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-mpegurl",
    "application/x-ndjson",
    "application/x-protobuf",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
    "image/x-icon",
];

/// Whether a response is worth encoding, and may be. `length` is that of its body, where it is known.
pub fn is_encodable(response: &ResponseHead<'_>, length: Option<u64>, policy: &EncodePolicy) -> bool {
    let fields = response.fields;
    let fits = |length: u64| length > 0 && (policy.min_length..=policy.max_length).contains(&length);
    !policy.formats.is_empty()
        && matches!(response.status, 200..=203 | 207..=299 | 400..=599)
        && length.is_none_or(fits)
        && fields.text("content-type").is_some_and(is_text)
        && !fields.has("content-encoding")
        && !fields.has("content-range")
        && !DIGESTS.iter().any(|name| fields.has(name))
        && !forbids_transforming(fields)
}

/// RFC 9111 section 5.2.2.6. Wherever the word stands: a prohibition counts however it is written.
fn forbids_transforming(fields: Fields<'_>) -> bool {
    const WORD: &[u8] = b"no-transform";
    fields
        .all("cache-control")
        .any(|line| line.windows(WORD.len()).any(|part| part.eq_ignore_ascii_case(WORD)))
}

/// Whether bodies of this type shrink. Event streams do, but their readers wait for every event.
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is = |other: &str| essence.eq_ignore_ascii_case(other);
    let ends = |suffix: &str| {
        let at = essence.len().checked_sub(suffix.len());
        at.and_then(|at| essence.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    let is_text = essence.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case("text/"));
    (is_text && !is("text/event-stream"))
        || ends("+json")
        || ends("+xml")
        || TYPES.iter().any(|known| is(known))
}

/// How much work a form is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Made on first demand.
    Quick,
    /// Made for what is asked for often.
    Strongest,
}

impl Level {
    /// Both; each stands at the place of its number.
    pub const ALL: [Self; 2] = [Self::Quick, Self::Strongest];

    /// The word in the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Strongest => "strongest",
        }
    }

    /// Its place in [`Level::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The number by which the coding calls it.
    pub const fn number(self, coding: Coding) -> u8 {
        match (coding, self) {
            (Coding::Gzip, Self::Quick) => 6,
            (Coding::Gzip, Self::Strongest) => 9,
            (Coding::Brotli, Self::Quick) => 5,
            (Coding::Brotli, Self::Strongest) => 11,
            (Coding::Zstd, Self::Quick) => 3,
            (Coding::Zstd, Self::Strongest) => 19,
        }
    }
}

/// What a form appends to the entity tag. The level is a part of it: other bytes have another tag.
const fn suffix(coding: Coding, level: Level) -> &'static [u8] {
    match (coding, level) {
        (Coding::Gzip, Level::Quick) => b"-gzip6",
        (Coding::Gzip, Level::Strongest) => b"-gzip9",
        (Coding::Brotli, Level::Quick) => b"-br5",
        (Coding::Brotli, Level::Strongest) => b"-br11",
        (Coding::Zstd, Level::Quick) => b"-zstd3",
        (Coding::Zstd, Level::Strongest) => b"-zstd19",
    }
}

/// The entity tag of a form: `"x"` becomes `"x-br5"`, and a weak one stays weak. A form whose bytes are not the same each
/// time it is made has a weak one. `None` for what is no tag.
pub fn form_tag(base: &[u8], coding: Coding, level: Level, is_exact: bool) -> Option<Vec<u8>> {
    let base = base.trim_ascii();
    let opaque = opaque_tag(base);
    let open = opaque.strip_suffix(b"\"").filter(|open| open.starts_with(b"\""))?;
    let weak: &[u8] = if opaque.len() < base.len() || !is_exact { b"W/" } else { b"" };
    Some([weak, open, suffix(coding, level), b"\""].concat())
}

/// What an entity tag is to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// The same, by the weak comparison (RFC 9110 section 8.8.3.2).
    Same,
    /// That of a form in this coding.
    Form(Coding),
}

/// What `tag` is to `base`; `None` for a stranger.
pub fn kin(tag: &[u8], base: &[u8]) -> Option<Kin> {
    let (tag, base) = (opaque_tag(tag), opaque_tag(base));
    if tag == base {
        return Some(Kin::Same);
    }
    let (open, coding) = split_suffix(tag)?;
    (base.strip_suffix(b"\"") == Some(open)).then_some(Kin::Form(coding))
}

/// What stands before the suffix of a form in an opaque tag, the closing quote left out, and the coding of the form.
fn split_suffix(opaque: &[u8]) -> Option<(&[u8], Coding)> {
    let open = opaque.strip_suffix(b"\"")?;
    let all =
        Coding::ALL.into_iter().flat_map(|coding| Level::ALL.map(|level| (coding, suffix(coding, level))));
    all.into_iter().find_map(|(coding, suffix)| Some((open.strip_suffix(suffix)?, coding)))
}

/// The list, with the origin's own tags appended for those that parvis gave the suffix of a form, or made weak. `None` when there
/// are none. For `If-Match`, which compares strongly.
pub fn with_origin_tags(list: &[u8]) -> Option<Vec<u8>> {
    let mut added = Vec::new();
    for tag in super::conditional::entity_tags(list) {
        let opaque = opaque_tag(tag);
        match split_suffix(opaque) {
            Some((open, _)) => added.push([open, b"\""].concat()),
            None if opaque.len() < tag.len() => added.push(opaque.to_vec()),
            None => {}
        }
    }
    let added = added.into_iter().flat_map(|tag| [b", ".to_vec(), tag]);
    let list = std::iter::once(list.to_vec()).chain(added).collect::<Vec<_>>();
    (list.len() > 1).then(|| list.concat())
}

/// The same entity tag, weak: for a body that is encoded on its way.
pub fn weakened(tag: &[u8]) -> Vec<u8> {
    [b"W/", opaque_tag(tag)].concat()
}

/// Whether a response says already that it varies by `Accept-Encoding`.
pub fn says_it_varies(fields: Fields<'_>) -> bool {
    fields.list("vary").any(|name| name == "*" || name.eq_ignore_ascii_case("accept-encoding"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::Field;

    const POLICY: EncodePolicy = EncodePolicy {
        formats: Formats::NONE,
        min_length: 800,
        max_length: 10_000,
        pads_passed: true,
        pads_stored: false,
    };

    fn encodable(status: u16, length: Option<u64>, fields: &[Field<'_>]) -> bool {
        let policy = EncodePolicy { formats: Formats::new(Coding::ALL), ..POLICY };
        is_encodable(&ResponseHead { status, fields: Fields::new(fields) }, length, &policy)
    }

    #[test]
    fn text_of_a_sensible_length_is_worth_it() {
        const HTML: Field<'_> = ("Content-Type", b"text/html; charset=utf-8");
        for (status, length, expected) in [
            (200, Some(800), true),
            (200, Some(10_000), true),
            (200, None, true),
            (404, Some(900), true),
            (200, Some(799), false),
            (200, Some(10_001), false),
            (204, None, false),
            (206, Some(900), false),
            (304, None, false),
            (301, Some(900), false),
            (101, None, false),
        ] {
            assert_eq!(encodable(status, length, &[HTML]), expected, "{status} {length:?}");
        }
        for other in [
            ("Content-Encoding", &b"gzip"[..]),
            ("content-range", b"bytes 0-1/9"),
            ("cache-control", b"public, No-Transform"),
            ("Repr-Digest", b"sha-256=:x:"),
        ] {
            assert!(!encodable(200, Some(900), &[HTML, other]), "{other:?}");
        }
        let empty = EncodePolicy { formats: Formats::new(Coding::ALL), min_length: 0, ..POLICY };
        let head = ResponseHead { status: 200, fields: Fields::new(&[HTML]) };
        assert!(!is_encodable(&head, Some(0), &empty), "nothing is there");
        assert!(!is_encodable(&head, Some(900), &POLICY), "nothing is on offer");
    }

    #[test]
    fn only_types_that_shrink_are_encoded() {
        for (media_type, expected) in [
            ("text/css", true),
            ("TEXT/HTML", true),
            ("text/event-stream", false),
            ("text/event-stream; charset=utf-8", false),
            ("application/json", true),
            ("application/ld+json; profile=x", true),
            ("image/svg+xml", true),
            ("application/javascript", true),
            ("application/wasm", true),
            ("font/woff2", false),
            ("image/png", false),
            ("video/mp4", false),
            ("application/zip", false),
            ("application/octet-stream", false),
            ("texts", false),
            ("", false),
        ] {
            assert_eq!(
                encodable(200, None, &[("content-type", media_type.as_bytes())]),
                expected,
                "{media_type}"
            );
        }
        assert!(!encodable(200, None, &[]), "nobody says what it is");
    }

    #[test]
    fn each_form_has_a_tag_of_its_own_that_tells_whose_it_is() {
        let tag = |base: &str, is_exact| {
            let tag = form_tag(base.as_bytes(), Coding::Brotli, Level::Quick, is_exact);
            tag.map(|tag| String::from_utf8(tag).unwrap())
        };
        assert_eq!(tag("\"x\"", true).as_deref(), Some("\"x-br5\""));
        assert_eq!(tag(" W/\"x\" ", true).as_deref(), Some("W/\"x-br5\""));
        assert_eq!(tag("\"x\"", false).as_deref(), Some("W/\"x-br5\""));
        assert_eq!((tag("x", true), tag("\"", true)), (None, None));
        let mut known = Vec::new();
        for coding in Coding::ALL {
            for level in Level::ALL {
                let tag = form_tag(b"\"x\"", coding, level, true).unwrap();
                let form = Some(Kin::Form(coding));
                assert_eq!((kin(&tag, b"\"x\""), kin(&tag, b"W/\"x\"")), (form, form));
                assert_eq!((kin(&tag, b"\"y\""), kin(b"\"x\"", &tag)), (None, None));
                let number = level.number(coding).to_string();
                assert!(tag.ends_with(format!("{number}\"").as_bytes()), "the tag tells the level");
                assert!(!known.contains(&tag));
                known.push(tag);
            }
        }
        assert_eq!(kin(b"W/\"x\"", b"\"x\""), Some(Kin::Same));
        assert_eq!(kin(b"\"x-gzip\"", b"\"x\""), None, "another server's");
    }

    #[test]
    fn a_write_names_what_the_origin_knows() {
        for (list, expected) in [
            ("\"x-br5\"", Some("\"x-br5\", \"x\"")),
            ("W/\"x\"", Some("W/\"x\", \"x\"")),
            ("\"a\", W/\"x,y-zstd19\"", Some("\"a\", W/\"x,y-zstd19\", \"x,y\"")),
            ("\"x\"", None),
            ("*", None),
            ("", None),
        ] {
            let known = with_origin_tags(list.as_bytes());
            assert_eq!(known.map(|list| String::from_utf8(list).unwrap()).as_deref(), expected, "{list}");
        }
        assert_eq!((weakened(b"\"x\""), weakened(b"W/\"x\"")), (b"W/\"x\"".to_vec(), b"W/\"x\"".to_vec()));
    }

    #[test]
    fn what_varies_already_need_not_say_so_again() {
        for (vary, expected) in
            [("accept, Accept-Encoding", true), ("*", true), ("cookie", false), ("", false)]
        {
            assert_eq!(says_it_varies(Fields::new(&[("Vary", vary.as_bytes())])), expected, "{vary}");
        }
    }
}
