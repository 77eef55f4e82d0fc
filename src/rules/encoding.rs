//! In which coding a client gets a body: what it accepts, how much it likes it, and what it can read of a response that
//! comes encoded.
//!
//! parvis asks for the identity form and encodes by itself. An origin that encodes all the same is stored as it is, for
//! those who say that they can read it.

use super::head::Fields;

/// A content coding that parvis makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// All of them; each stands at the place of its number.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Brotli, Self::Zstd];

    /// Its name in `Content-Encoding`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Its place in [`Coding::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The coding of this name, in any case and under its old names.
    fn named(name: &str) -> Option<Self> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match () {
            () if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            () if is("br") => Some(Self::Brotli),
            () if is("zstd") => Some(Self::Zstd),
            () => None,
        }
    }
}

/// Distinct codings, the preferred one first. Copied freely: it is three bytes and a length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    list: [Coding; Coding::ALL.len()],
    len: usize,
}

impl std::fmt::Debug for Formats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl Formats {
    /// No coding at all.
    pub const NONE: Self = Self { list: [Coding::Gzip; Coding::ALL.len()], len: 0 };

    /// These, in this order; what is named again counts once.
    pub fn new(codings: impl IntoIterator<Item = Coding>) -> Self {
        codings.into_iter().fold(Self::NONE, |formats, coding| formats.with(coding))
    }

    fn with(mut self, coding: Coding) -> Self {
        if !self.as_slice().contains(&coding) {
            self.list[self.len] = coding;
            self.len += 1;
        }
        self
    }

    /// The same without one.
    pub fn without(self, coding: Coding) -> Self {
        Self::new(self.as_slice().iter().copied().filter(|other| *other != coding))
    }

    /// In order.
    pub fn as_slice(&self) -> &[Coding] {
        &self.list[..self.len]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a client gets, by its wishes and what is on offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The codings that it likes at least as much as the identity form, the best first.
    pub codings: Formats,
    /// Whether it refuses the identity form.
    pub refuses_identity: bool,
}

impl Wish {
    /// The identity form, and nothing else.
    pub const IDENTITY: Self = Self { codings: Formats::NONE, refuses_identity: false };
}

/// The weight of what is accepted without one, in thousandths.
const FULL: u16 = 1000;

/// Chooses among `offered` by the `Accept-Encoding` of a request (RFC 9110 section 12.5.3): the highest weight wins, and of
/// equal ones the first offered. Does not allocate.
///
/// A client that sends no such field would accept any coding by the letter; in practice it reads none. One that asks not to
/// have bodies transformed (RFC 9111 section 5.2.1.6) gets them as they are.
pub fn negotiate(request: Fields<'_>, offered: Formats) -> Wish {
    let (mut named, mut identity, mut any) = ([None; Coding::ALL.len()], None, None);
    for (name, weight) in members(request) {
        if name == "*" {
            lower(&mut any, weight);
        } else if name.eq_ignore_ascii_case("identity") {
            lower(&mut identity, weight);
        } else if let Some(coding) = Coding::named(name) {
            // What cannot be read accepts nothing.
            lower(&mut named[coding.index()], weight.or(Some(0)));
        }
    }
    let refuses_identity = identity.or(any) == Some(0);
    if request.list("cache-control").any(|directive| directive.eq_ignore_ascii_case("no-transform")) {
        return Wish { codings: Formats::NONE, refuses_identity };
    }
    let weight = |coding: Coding| named[coding.index()].or(any).unwrap_or(0);
    // A client that does not speak of it takes it where there is nothing else.
    let least = identity.or(any).unwrap_or(0).max(1);
    let mut codings = Formats::NONE;
    let mut bound = FULL + 1;
    // At most three rounds: in each all of the highest weight below that of the round before.
    while let Some(best) = offered.as_slice().iter().map(|c| weight(*c)).filter(|w| *w < bound).max() {
        if best < least {
            break;
        }
        codings =
            offered.as_slice().iter().filter(|c| weight(**c) == best).fold(codings, |all, c| all.with(*c));
        bound = best;
    }
    Wish { codings, refuses_identity }
}

/// Of several mentions the one that allows least counts; one whose weight cannot be read says nothing.
fn lower(known: &mut Option<u16>, weight: Option<u16>) {
    if let Some(weight) = weight {
        *known = Some(known.map_or(weight, |known: u16| known.min(weight)));
    }
}

/// What is named in `Accept-Encoding`, each with its weight; `None` where that cannot be read.
fn members<'a>(request: Fields<'a>) -> impl Iterator<Item = (&'a str, Option<u16>)> {
    request.list("accept-encoding").map(|member| {
        let (name, parameters) = member.split_once(';').unwrap_or((member, ""));
        (name.trim(), weight(parameters))
    })
}

/// The weight among the parameters of a member, in thousandths (RFC 9110 section 12.4.2). More digits than three are
/// tolerated, and ignored.
fn weight(parameters: &str) -> Option<u16> {
    let value = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let Some((_, value)) = value
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| name.eq_ignore_ascii_case("q"))
    else {
        return Some(FULL);
    };
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut thousandths = 0;
    for at in 0..3 {
        thousandths =
            thousandths * 10 + fraction.as_bytes().get(at).map_or(0, |digit| u16::from(digit - b'0'));
    }
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(FULL),
        _ => None,
    }
}

/// Codings that clients and servers agree on by `Accept-Encoding`. Any other is between the origin and clients that
/// know it, whatever they accept.
const NEGOTIATED: &[&str] = &["gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd"];

/// Whether the client accepts every coding of the response (RFC 9110 section 12.5.3). One that says nothing would
/// accept any by the letter; in practice it reads none.
pub fn is_readable(request: Fields<'_>, response: Fields<'_>) -> bool {
    response.list("content-encoding").all(|coding| {
        let negotiated = NEGOTIATED.iter().any(|known| known.eq_ignore_ascii_case(coding));
        !negotiated || accepts(request, coding)
    })
}

/// Whether a request accepts a coding.
pub(super) fn accepts(request: Fields<'_>, coding: &str) -> bool {
    let (mut named, mut any) = (None, None);
    for (name, weight) in members(request) {
        if name == "*" {
            lower(&mut any, weight);
        } else if plain(name).eq_ignore_ascii_case(plain(coding)) {
            lower(&mut named, weight.or(Some(0)));
        }
    }
    named.or(any).unwrap_or(0) > 0
}

/// The name without the prefix of its old form.
fn plain(name: &str) -> &str {
    match name.get(..2) {
        Some(prefix) if prefix.eq_ignore_ascii_case("x-") => &name[2..],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Coding::{Brotli, Gzip, Zstd};
    use proptest::prelude::*;

    fn wish(accepted: Option<&str>) -> Wish {
        let field = accepted.map(|value| ("Accept-Encoding", value.as_bytes()));
        negotiate(Fields::new(field.as_slice()), Formats::new([Zstd, Brotli, Gzip]))
    }

    #[test]
    fn the_highest_weight_wins_and_then_the_order_on_offer() {
        for (accepted, codings) in [
            ("gzip, deflate, br, zstd", &[Zstd, Brotli, Gzip][..]),
            ("gzip", &[Gzip]),
            ("X-GZIP", &[Gzip]),
            ("gzip;q=1.0, br;q=0.9, zstd;q=0.95", &[Gzip, Zstd, Brotli]),
            ("gzip;q=0.5, br;q=0.5", &[Brotli, Gzip]),
            ("br ; Q = 0.001", &[Brotli]),
            ("gzip;q=0.1234567", &[Gzip]),
            ("*", &[Zstd, Brotli, Gzip]),
            ("*;q=0.5, gzip", &[Gzip, Zstd, Brotli]),
            ("br;q=0, *", &[Zstd, Gzip]),
            ("gzip;q=0, gzip", &[]),
            ("identity, gzip;q=0.5", &[]),
            ("identity;q=0.5, gzip;q=0.4, br;q=0.6", &[Brotli]),
            ("identity;q=1, *;q=0", &[]),
            ("gzip;q=0.5, *", &[Zstd, Brotli]),
            ("deflate, compress, exi", &[]),
            ("gzip;q=x, br;q=2, zstd;q=-1", &[]),
            ("gzip;q=1.001", &[]),
            ("gzip;q=", &[]),
            ("gzip;level=9", &[Gzip]),
            ("gzip;level=9;q=0", &[]),
            ("", &[]),
            (",;,gzip,", &[Gzip]),
        ] {
            assert_eq!(wish(Some(accepted)).codings.as_slice(), codings, "{accepted}");
        }
        assert_eq!(wish(None), Wish::IDENTITY);
    }

    #[test]
    fn the_identity_form_may_be_refused() {
        for (accepted, refused) in [
            ("identity;q=0, gzip", true),
            ("identity;q=0.000", true),
            ("*;q=0, gzip", true),
            ("*;q=0, identity;q=0.1", false),
            ("identity;q=x", false),
            ("*;q=x", false),
            ("gzip", false),
            ("", false),
        ] {
            assert_eq!(wish(Some(accepted)).refuses_identity, refused, "{accepted}");
        }
    }

    #[test]
    fn who_asks_for_no_transformation_gets_none() {
        let fields = [("accept-encoding", &b"br"[..]), ("Cache-Control", b"max-age=0, No-Transform")];
        assert_eq!(negotiate(Fields::new(&fields), Formats::new(Coding::ALL)), Wish::IDENTITY);
    }

    #[test]
    fn several_lines_are_one_list() {
        let fields = [
            ("accept-encoding", &b"br;q=0.5"[..]),
            ("Accept-Encoding", b"gzip"),
            ("accept-encoding", b"\xff"),
        ];
        let wish = negotiate(Fields::new(&fields), Formats::new(Coding::ALL));
        assert_eq!(wish.codings.as_slice(), [Gzip, Brotli]);
    }

    #[test]
    fn formats_are_distinct_and_ordered() {
        let formats = Formats::new([Brotli, Gzip, Brotli]);
        assert_eq!(formats.as_slice(), [Brotli, Gzip]);
        assert_eq!(formats.without(Brotli).as_slice(), [Gzip]);
        assert!(formats.without(Gzip).without(Brotli).is_empty());
    }

    #[test]
    fn who_accepts_a_coding_can_read_it() {
        for (accepted, coding, readable) in [
            (Some("gzip, br"), "gzip", true),
            (Some("gzip, br"), "BR", true),
            (Some("GZIP;q=0.5"), "x-gzip", true),
            (Some("*"), "zstd", true),
            (Some("*;q=0, gzip"), "gzip", true),
            (Some("*;q=0, gzip"), "br", false),
            (Some("gzip;q=0"), "gzip", false),
            (Some("gzip; q=0.000, *"), "gzip", false),
            (Some("gzip;q=x"), "gzip", false),
            (Some("identity"), "gzip", false),
            (Some("gzip"), "gzip, br", false),
            (Some(""), "gzip", false),
            (None, "gzip", false),
            (None, "identity", true),
            (None, "aes128gcm", true),
            (None, "", true),
        ] {
            let request = accepted.map(|value| ("accept-encoding", value.as_bytes()));
            let response = [("content-encoding", coding.as_bytes())];
            let found = is_readable(Fields::new(request.as_slice()), Fields::new(&response));
            assert_eq!(found, readable, "{accepted:?} {coding}");
        }
        assert!(is_readable(Fields::new(&[]), Fields::new(&[])), "not encoded");
    }

    /// The same by the words of the RFC, with lists and a sort.
    fn naive(members: &[(String, Option<u16>)], offered: &[Coding]) -> (Vec<Coding>, bool) {
        let of = |name: &str| members.iter().filter(|(n, _)| n == name).map(|(_, w)| w.unwrap_or(FULL)).min();
        let weight = |coding: &Coding| of(coding.as_str()).or(of("*")).unwrap_or(0);
        let identity = of("identity").or(of("*"));
        let mut codings: Vec<Coding> = offered.to_vec();
        codings.retain(|coding| weight(coding) > 0 && weight(coding) >= identity.unwrap_or(0));
        codings.sort_by_key(|coding| std::cmp::Reverse(weight(coding)));
        (codings, identity == Some(0))
    }

    proptest! {
        #[test]
        fn it_chooses_as_the_words_say(
            members in prop::collection::vec(
                ("(gzip|br|zstd|identity|\\*|deflate)", prop::option::of(0u16..=1000)), 0..7),
            order in Just(Coding::ALL.to_vec()).prop_shuffle(),
            count in 0usize..=3,
        ) {
            let offered = &order[..count];
            let text: Vec<String> = members.iter().map(|(name, weight)| match weight {
                None => name.clone(),
                Some(1000) => format!("{name};q=1"),
                Some(weight) => format!("{name}; q=0.{weight:03}"),
            }).collect();
            let text = text.join(", ");
            let wish = negotiate(
                Fields::new(&[("accept-encoding", text.as_bytes())]),
                Formats::new(offered.iter().copied()),
            );
            let (codings, refused) = naive(&members, offered);
            prop_assert_eq!((wish.codings.as_slice(), wish.refuses_identity), (&codings[..], refused), "{}", text);
        }

        #[test]
        fn no_field_breaks_it(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let fields = [("accept-encoding", value.as_slice())];
            let wish = negotiate(Fields::new(&fields), Formats::new(Coding::ALL));
            prop_assert!(wish.codings.as_slice().len() <= 3);
        }
    }
}
