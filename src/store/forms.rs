//! The encoded forms of a stored response: made once, read by every hit without a lock.
//!
//! A form is made on first demand, and made once more with all effort when it is asked for often. Each has an entity tag of
//! its own, so that parts of two never end in one body. What does not become smaller is remembered as such.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::index::EntryId;
use super::response::StoredResponse;
use super::sendable::Sendable;
use crate::rules::encodable::{EncodePolicy, Level, form_tag, says_it_varies};
use crate::rules::encoding::{self, Coding, Formats, Wish};
use crate::rules::head::{Field, Fields};

/// How often a quick form is asked for before the strongest is made.
pub const HOT: u32 = 8;

/// A body in a content coding.
#[derive(Debug)]
pub struct Form {
    /// Which.
    pub coding: Coding,
    /// How much work it was worth.
    pub level: Level,
    /// One allocation of exactly its length.
    pub body: Bytes,
    /// Its entity tag, where the response has one.
    pub etag: Option<Box<[u8]>>,
    /// The file of the body, where that is large.
    pub sendable: Option<Sendable>,
}

impl Form {
    /// What it occupies, in bytes, with the eighth that a body is charged for the gaps of the allocator.
    fn weight(&self) -> usize {
        const TABLES: usize = size_of::<Form>() + 48;
        let body = self.body.len()
            + self.body.len() / 8
            + self.sendable.as_ref().map_or(0, Sendable::weight) as usize;
        TABLES + self.etag.as_ref().map_or(0, |etag| etag.len()) + body
    }
}

/// What there is of a form, and what is under way.
#[derive(Debug, Default)]
struct Slot {
    form: ArcSwapOption<Form>,
    stage: AtomicU8,
    asked: AtomicU32,
}

/// Where a form stands. Only the one who moves it from a resting stage on may make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Nobody has asked for it.
    Absent,
    /// The quick one is made.
    Quick,
    /// Something is being made.
    UnderWay,
    /// There is nothing left to do: the strongest is made, or a form is not worth it.
    Settled,
}

/// The forms of one response. Shared by all that have the same body and entity tag: what is validated keeps them. They own
/// neither, since every stored page has forms to come.
#[derive(Debug)]
pub struct Forms {
    /// Whether the response says by itself that it varies by `Accept-Encoding`.
    says_it_varies: bool,
    /// Whether their length is blurred.
    is_padded: bool,
    /// Where it is stored; of several places the latest.
    place: AtomicU64,
    slots: [Slot; Coding::ALL.len()],
}

impl Forms {
    /// None yet, of a response with these fields.
    pub fn new(fields: Fields<'_>, is_padded: bool) -> Self {
        Self {
            says_it_varies: says_it_varies(fields),
            is_padded,
            place: AtomicU64::new(0),
            slots: Default::default(),
        }
    }

    /// Whether they do for a response with these fields too, of the same body and entity tag.
    pub fn suit(&self, fields: Fields<'_>, is_padded: bool) -> bool {
        self.says_it_varies == says_it_varies(fields) && self.is_padded == is_padded
    }

    /// Whether their length is blurred.
    pub fn is_padded(&self) -> bool {
        self.is_padded
    }

    /// The form in this coding, once it is made.
    pub fn get(&self, coding: Coding) -> Option<Arc<Form>> {
        self.slots[coding.index()].form.load_full()
    }

    /// The entity tag of a form, where that of the identity form is `identity`; its bytes are the same each time it is made
    /// unless they are padded.
    pub fn tag(&self, identity: Option<&[u8]>, coding: Coding, level: Level) -> Option<Box<[u8]>> {
        identity.and_then(|etag| form_tag(etag, coding, level, !self.is_padded)).map(Into::into)
    }

    /// Whether a form in this coding is there, or may come to be.
    fn is_worth_it(&self, coding: Coding) -> bool {
        !self.is_settled(coding) || self.slots[coding.index()].form.load().is_some()
    }

    /// Counts that a form in this coding is wanted, and tells which is to be made now. Who is told so makes it, or says that it
    /// did not ([`Forms::leave`]). Costs a load once there is nothing left to do.
    pub(super) fn ask(&self, coding: Coding) -> Option<Level> {
        let slot = &self.slots[coding.index()];
        let stage = slot.stage.load(Ordering::Acquire);
        let level = match stage {
            _ if stage == Stage::Absent as u8 => Level::Quick,
            _ if stage == Stage::Quick as u8 => {
                let asked = slot.asked.fetch_add(1, Ordering::Relaxed) + 1;
                if asked < HOT {
                    return None;
                }
                Level::Strongest
            }
            _ => return None,
        };
        let begun =
            slot.stage.compare_exchange(stage, Stage::UnderWay as u8, Ordering::AcqRel, Ordering::Relaxed);
        begun.is_ok().then_some(level)
    }

    /// What was to be made has not been: it may be asked for again, later.
    pub(super) fn leave(&self, coding: Coding, level: Level) {
        let slot = &self.slots[coding.index()];
        slot.asked.store(0, Ordering::Relaxed);
        let stage = if level == Level::Quick { Stage::Absent } else { Stage::Quick };
        slot.stage.store(stage as u8, Ordering::Release);
    }

    /// Nothing better can be made.
    pub(super) fn settle(&self, coding: Coding) {
        self.slots[coding.index()].stage.store(Stage::Settled as u8, Ordering::Release);
    }

    /// Whether there is nothing left to do for this coding.
    pub fn is_settled(&self, coding: Coding) -> bool {
        self.slots[coding.index()].stage.load(Ordering::Relaxed) == Stage::Settled as u8
    }

    /// Puts a form in its place. The caller holds the books of the memory tier, and has charged it.
    pub(super) fn put(&self, form: Form) {
        let slot = &self.slots[form.coding.index()];
        let stage = if form.level == Level::Quick { Stage::Quick } else { Stage::Settled };
        slot.form.store(Some(Arc::new(form)));
        slot.stage.store(stage as u8, Ordering::Release);
    }

    /// What they would occupy with this form in its place, in bytes.
    pub(super) fn weight_with(&self, new: Option<&Form>) -> usize {
        const TABLES: usize = size_of::<Forms>() + 16;
        let held = Coding::ALL.into_iter().map(|coding| match new.filter(|new| new.coding == coding) {
            Some(new) => new.weight(),
            None => self.slots[coding.index()].form.load().as_ref().map_or(0, |form| form.weight()),
        });
        TABLES + held.sum::<usize>()
    }

    pub(super) fn place(&self) -> EntryId {
        self.place.load(Ordering::Acquire)
    }

    pub(super) fn set_place(&self, id: EntryId) {
        self.place.store(id, Ordering::Release);
    }
}

/// Which representation of a stored response a client gets.
#[derive(Debug, Default)]
pub struct Selected {
    /// The encoded form; `None`: the identity form.
    pub form: Option<Arc<Form>>,
    /// Whether `Accept-Encoding` is to be added to `Vary`: with the identity form as with any other.
    pub adds_vary: bool,
    /// The coding that it likes best of those worth it: to be asked for, whatever it gets now.
    pub wanted: Option<Coding>,
    /// Whether it refuses the identity form, and there is no other yet.
    pub is_refused: bool,
}

impl Selected {
    /// The body of the representation.
    pub fn body<'a>(&'a self, stored: &'a StoredResponse) -> &'a Bytes {
        self.form.as_ref().map_or(&stored.body, |form| &form.body)
    }

    /// The file of that body.
    pub fn sendable<'a>(&'a self, stored: &'a StoredResponse) -> Option<&'a Sendable> {
        match &self.form {
            Some(form) => form.sendable.as_ref(),
            None => stored.sendable.as_deref(),
        }
    }

    /// Its entity tag, where that of the stored response is `stored`.
    pub fn etag<'a>(&'a self, stored: Option<&'a [u8]>) -> Option<&'a [u8]> {
        self.form.as_ref().map_or(stored, |form| form.etag.as_deref())
    }

    /// The fields of the representation, made of those of the stored response.
    pub fn fields<'a>(&'a self, mut stored: Vec<Field<'a>>) -> Vec<Field<'a>> {
        if let Some(form) = &self.form {
            match &form.etag {
                Some(etag) => {
                    let own = stored.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case("etag"));
                    own.into_iter().for_each(|(_, value)| *value = etag);
                }
                None => stored.retain(|(name, _)| !name.eq_ignore_ascii_case("etag")),
            }
            stored.push(("Content-Encoding", form.coding.as_str().as_bytes()));
        }
        if self.adds_vary {
            stored.push(("Vary", b"Accept-Encoding"));
        }
        stored
    }
}

impl StoredResponse {
    /// The encoded form in this coding, once it is made.
    pub fn form(&self, coding: Coding) -> Option<Arc<Form>> {
        self.forms.as_ref().and_then(|forms| forms.get(coding))
    }

    /// Chooses the representation for a request, as its `Accept-Encoding`, `Range` and `If-Range` have it. Neither waits nor
    /// allocates.
    ///
    /// A form may come or change between two requests. So parts of one are for who names it in `If-Range`; whoever asks for a
    /// part without that gets it of the identity form, which is always the same.
    pub fn select(&self, request: Fields<'_>, policy: &EncodePolicy) -> Selected {
        self.select_by(request, policy, |offered| encoding::negotiate(request, offered))
    }

    /// The same for who knows what the request gets of the codings on offer.
    pub fn select_by(
        &self,
        request: Fields<'_>,
        policy: &EncodePolicy,
        negotiate: impl FnOnce(Formats) -> Wish,
    ) -> Selected {
        let Some(forms) = &self.forms else { return Selected::default() };
        let offered = policy.offered(forms.is_padded);
        if offered.is_empty() {
            return Selected::default();
        }
        let wish = negotiate(offered);
        let adds_vary = !forms.says_it_varies;
        let mut codings = wish.codings.as_slice().iter().copied();
        // Who refuses the identity form gets another even where that is longer.
        let wanted = codings.find(|coding| wish.refuses_identity || forms.is_worth_it(*coding));
        let selected = |form: Option<Arc<Form>>| {
            let is_refused = form.is_none() && wish.refuses_identity;
            Selected { form, adds_vary, wanted, is_refused }
        };
        if request.has("range") {
            match forms.named_by(request, self.head.etag(), wish.codings) {
                Named::Form(form) => return selected(Some(form)),
                Named::Identity if !wish.refuses_identity => return selected(None),
                Named::Identity | Named::Neither => {}
            }
        }
        selected(forms.best(&wish))
    }
}

/// Of which representation a client wants a part.
enum Named {
    Form(Arc<Form>),
    Identity,
    /// One that there is not, or no longer: then it gets the whole.
    Neither,
}

impl Forms {
    fn best(&self, wish: &Wish) -> Option<Arc<Form>> {
        wish.codings.as_slice().iter().find_map(|coding| self.get(*coding))
    }

    /// Where `identity` is the tag of the identity form.
    fn named_by(&self, request: Fields<'_>, identity: Option<&[u8]>, accepted: Formats) -> Named {
        let Some(condition) = request.first("if-range").map(<[u8]>::trim_ascii) else {
            return Named::Identity;
        };
        let is_date = !condition.starts_with(b"\"") && !condition.starts_with(b"W/");
        // A date is that of all forms, of which who accepts one may have a part (RFC 9110 section 8.8.2.2).
        if identity == Some(condition) || is_date && accepted.is_empty() {
            return Named::Identity;
        }
        let mut forms = accepted.as_slice().iter().filter_map(|coding| self.get(*coding));
        let named = forms.find(|form| form.etag.as_deref() == Some(condition));
        named.map_or(Named::Neither, Named::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::guard::{Ambient, Inputs, Witness};
    use crate::rules::head::RequestHead;
    use crate::rules::policy::{CachePolicy, Patterns};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;
    use crate::store::memory::tests::page;
    use Coding::{Brotli, Gzip, Zstd};
    use std::net::{IpAddr, Ipv4Addr};

    fn policy(pads_stored: bool) -> EncodePolicy {
        let formats = Formats::new([Zstd, Brotli, Gzip]);
        EncodePolicy { formats, min_length: 1, max_length: 100, pads_passed: true, pads_stored }
    }

    fn stored() -> StoredResponse {
        page("/", b"identity".to_vec()).encodable(&policy(false), None)
    }

    /// Puts a form of a few bytes in its place.
    fn put(stored: &StoredResponse, coding: Coding, level: Level) {
        let forms = stored.forms.as_ref().unwrap();
        let body = Bytes::from_static(coding.as_str().as_bytes());
        let etag = forms.tag(stored.head.etag(), coding, level);
        forms.put(Form { coding, level, body, etag, sendable: None });
    }

    fn selected(stored: &StoredResponse, request: &[(&str, &str)]) -> (String, Option<Coding>) {
        let fields: Vec<Field<'_>> = request.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let selected = stored.select(Fields::new(&fields), &policy(false));
        assert!(selected.adds_vary);
        (String::from_utf8(selected.body(stored).to_vec()).unwrap(), selected.wanted)
    }

    #[test]
    fn the_best_form_that_is_there_is_given_and_the_best_of_all_is_wanted() {
        let stored = stored();
        let all = [("accept-encoding", "gzip, br, zstd")];
        assert_eq!(selected(&stored, &all), ("identity".into(), Some(Zstd)));
        put(&stored, Gzip, Level::Quick);
        assert_eq!(selected(&stored, &all), ("gzip".into(), Some(Zstd)));
        assert_eq!(selected(&stored, &[("accept-encoding", "br")]), ("identity".into(), Some(Brotli)));
        assert_eq!(selected(&stored, &[]), ("identity".into(), None));
        // It did not become smaller.
        stored.forms.as_ref().unwrap().settle(Zstd);
        assert_eq!(selected(&stored, &all), ("gzip".into(), Some(Brotli)));
        put(&stored, Brotli, Level::Strongest);
        assert_eq!(selected(&stored, &all), ("br".into(), Some(Brotli)));
        assert_eq!(selected(&stored, &[("accept-encoding", "zstd")]), ("identity".into(), None));
    }

    #[test]
    fn a_part_is_of_what_if_range_names_or_of_the_identity_form() {
        let stored = stored();
        put(&stored, Brotli, Level::Quick);
        for (condition, body) in [
            (None, "identity"),
            (Some("\"1\""), "identity"),
            (Some("\"1-br5\""), "br"),
            // A date is that of all forms.
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), "br"),
            // None of these is there (any longer): the whole of what it likes best.
            (Some("\"1-br11\""), "br"),
            (Some("W/\"1\""), "br"),
            (Some("\"2\""), "br"),
        ] {
            let mut request = vec![("accept-encoding", "br"), ("range", "bytes=1-2")];
            request.extend(condition.map(|condition| ("if-range", condition)));
            assert_eq!(selected(&stored, &request).0, body, "{condition:?}");
        }
        let request = [("accept-encoding", "gzip"), ("range", "bytes=1-2"), ("if-range", "\"1-br5\"")];
        assert_eq!(selected(&stored, &request).0, "identity", "it does not accept it");
        let request = [("accept-encoding", "br, identity;q=0"), ("range", "bytes=1-2")];
        assert_eq!(selected(&stored, &request).0, "br", "it refuses the other");
    }

    #[test]
    fn a_form_is_asked_for_once_and_counted_until_it_is_hot() {
        let stored = stored();
        let forms = stored.forms.as_ref().unwrap();
        assert_eq!((forms.ask(Gzip), forms.ask(Gzip)), (Some(Level::Quick), None));
        forms.leave(Gzip, Level::Quick);
        assert_eq!(forms.ask(Gzip), Some(Level::Quick), "it was not made");
        put(&stored, Gzip, Level::Quick);
        let asked: Vec<Option<Level>> = (0..=HOT).map(|_| forms.ask(Gzip)).collect();
        assert_eq!(asked.iter().flatten().collect::<Vec<_>>(), [&Level::Strongest]);
        forms.leave(Gzip, Level::Strongest);
        assert_eq!(forms.ask(Gzip), None, "it counts anew");
        put(&stored, Gzip, Level::Strongest);
        assert!(forms.ask(Gzip).is_none() && forms.is_settled(Gzip));
    }

    #[test]
    fn the_fields_are_those_of_the_representation() {
        let stored = stored();
        put(&stored, Brotli, Level::Quick);
        let fields = |request: &[Field<'_>]| {
            let selected = stored.select(Fields::new(request), &policy(false));
            let fields = selected.fields(stored.head.fields());
            fields
                .iter()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
                .collect::<Vec<_>>()
        };
        let encoded =
            ["etag: \"1-br5\"", "content-type: text/plain", "Content-Encoding: br", "Vary: Accept-Encoding"];
        assert_eq!(fields(&[("accept-encoding", b"br")]), encoded);
        assert_eq!(fields(&[]), ["etag: \"1\"", "content-type: text/plain", "Vary: Accept-Encoding"]);
    }

    #[test]
    fn lengths_that_are_blurred_have_weak_tags_and_no_zstd() {
        let stored = page("/", b"identity".to_vec()).encodable(&policy(true), None);
        let request = Fields::new(&[("accept-encoding", b"zstd, gzip")]);
        assert_eq!(stored.select(request, &policy(true)).wanted, Some(Gzip));
        let tag = stored.forms.as_ref().unwrap().tag(stored.head.etag(), Gzip, Level::Quick);
        assert_eq!(tag.as_deref(), Some(&b"W/\"1-gzip6\""[..]));
    }

    #[test]
    fn what_only_a_few_are_known_to_have_got_is_blurred() {
        let patterns = Patterns::new(&["id"]).unwrap();
        let watching = CachePolicy { forward_cookies: patterns, ..testing::policy() };
        let of = |fields: &[Field<'_>]| {
            let target = Target::new(Scheme::Http, "shop", "/");
            let fields = Fields::new(fields);
            let request = RequestHead { method: "GET", target, fields, has_body: false, believed: &[] };
            let inputs = Inputs::of(&request, IpAddr::V4(Ipv4Addr::LOCALHOST), &watching);
            let ambient = Ambient { address: false, agent: false };
            let mut page = page("/", b"identity".to_vec());
            page.witness = Some(Box::new(Witness::of(&inputs, ambient, &watching).unwrap()));
            page.encodable(&policy(false), None).forms.unwrap().is_padded()
        };
        assert!(of(&[("Cookie", b"id=ada")]), "of one person, on probation");
        assert!(!of(&[]), "of a stranger, for everyone");
    }

    #[test]
    fn what_is_not_worth_it_has_one_form_for_all() {
        let short = EncodePolicy { min_length: 50, ..policy(false) };
        let stored = page("/", b"identity".to_vec()).encodable(&short, None);
        let selected = stored.select(Fields::new(&[("accept-encoding", b"br, identity;q=0")]), &short);
        assert!(selected.form.is_none() && !selected.adds_vary && !selected.is_refused);
        let stored = page("/", b"identity".to_vec()).encodable(&policy(false), None);
        let nothing = EncodePolicy::default();
        let selected = stored.select(Fields::new(&[("accept-encoding", b"br")]), &nothing);
        assert!(!selected.adds_vary, "the route encodes nothing any longer");
    }
}
