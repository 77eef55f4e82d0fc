//! One stored response.
//!
//! The head is kept as the bytes that go on the wire: a fraction of what a map of headers takes, and it pins no
//! read buffer. The body is one allocation of exactly its length, for the same reason.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::forms::{Form, Forms};
use super::index::EntryId;
use super::sendable::{self, Sendable};
use crate::clock::Timestamp;
use crate::rules::encodable::{EncodePolicy, is_encodable};
use crate::rules::freshness::Freshness;
use crate::rules::guard::{self, Inputs, Settled, Stored, Witness};
use crate::rules::head::{Field, Fields, Names, ResponseHead};
use crate::rules::hop::{self, HopByHop};
use crate::rules::key::Vary;
use crate::rules::request::FieldList;
use crate::rules::selector::Facts;

/// Where something stands in a head. Every stored page has one: half the bytes of a pointer are enough.
type Offset = u32;

/// A status and field lines, serialised as `Name: value\r\n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Whether the body is in a content coding: what every hit asks, and few are.
    pub is_encoded: bool,
    lines: Box<[u8]>,
    /// Where the lines begin that no client is sent.
    delivered: Offset,
    /// Where the first line of an entity tag stands, if clients are sent it; empty where there is none.
    etag: Range<Offset>,
    /// The names that may be among the lines.
    names: Names,
}

impl Head {
    /// Serialises the fields of `response` that may be stored.
    pub fn storable(response: &ResponseHead<'_>) -> Self {
        let hop_by_hop = HopByHop::of(response.fields);
        let kept = response.fields.lines().iter().filter(|(name, _)| hop::is_stored(name, &hop_by_hop));
        Self::from_fields(response.status, kept.copied())
    }

    /// The same head without the fields of these names, which are in lower case.
    pub fn without(&self, names: &[impl AsRef<str>]) -> Self {
        let kept =
            |(name, _): &Field<'_>| !names.iter().any(|other| other.as_ref().eq_ignore_ascii_case(name));
        let delivered = self.delivered_fields().filter(kept);
        let withheld = fields_in(self.withheld_lines()).filter(kept);
        Self::in_two_parts(self.status, delivered, withheld)
    }

    /// The same head, with the fields of these names, which are in lower case, kept from clients.
    pub fn withholding(self, names: &[impl AsRef<str>]) -> Self {
        if !names.iter().any(|name| self.names.may_have(Names::one(name.as_ref()))) {
            return self;
        }
        let withheld =
            |(name, _): &Field<'_>| names.iter().any(|other| other.as_ref().eq_ignore_ascii_case(name));
        let all = || fields_in(&self.lines);
        Self::in_two_parts(self.status, all().filter(|field| !withheld(field)), all().filter(withheld))
    }

    /// Serialises these fields.
    pub fn from_fields<'a>(status: u16, fields: impl Iterator<Item = Field<'a>>) -> Self {
        Self::in_two_parts(status, fields, std::iter::empty())
    }

    fn in_two_parts<'a>(
        status: u16,
        delivered: impl Iterator<Item = Field<'a>>,
        withheld: impl Iterator<Item = Field<'a>>,
    ) -> Self {
        let mut lines = Vec::with_capacity(512);
        let (mut is_encoded, mut etag, mut names) = (false, 0..0, Names::default());
        let mut write = |(name, value): Field<'_>| {
            is_encoded |= name.eq_ignore_ascii_case("content-encoding");
            if name.eq_ignore_ascii_case("etag") && etag.is_empty() {
                etag = lines.len()..lines.len() + name.len() + value.len() + 4;
            }
            [name.as_bytes(), b": ", value, b"\r\n"].iter().for_each(|part| lines.extend_from_slice(part));
            names.add(name);
            lines.len()
        };
        let end = delivered.map(&mut write).last().unwrap_or_default();
        withheld.for_each(|field| {
            write(field);
        });
        // One that is withheld is none to clients.
        let etag = if etag.end <= end { etag } else { 0..0 };
        // What Pingora reads of a head is less by far.
        let offset = |at: usize| Offset::try_from(at).expect("a head is shorter than 4 GiB");
        let (delivered, etag) = (offset(end), offset(etag.start)..offset(etag.end));
        Self { status, is_encoded, lines: lines.into(), delivered, etag, names }
    }

    /// The field lines, in order.
    pub fn fields(&self) -> Vec<Field<'_>> {
        fields_in(&self.lines).collect()
    }

    /// The field lines that clients are sent, as they go on the wire.
    pub fn delivered_lines(&self) -> &[u8] {
        &self.lines[..self.delivered as usize]
    }

    /// The others, which are kept for ourselves.
    pub fn withheld_lines(&self) -> &[u8] {
        &self.lines[self.delivered as usize..]
    }

    /// The head with these lines.
    pub fn from_lines(status: u16, delivered: &[u8], withheld: &[u8]) -> Self {
        Self::in_two_parts(status, fields_in(delivered), fields_in(withheld))
    }

    /// The same without the entity tag: what stands before and after it.
    pub fn lines_around_etag(&self) -> (&[u8], &[u8]) {
        let delivered = self.delivered_lines();
        (&delivered[..self.etag.start as usize], &delivered[self.etag.end as usize..])
    }

    /// The same as fields.
    pub fn fields_around_etag(&self) -> (impl Iterator<Item = Field<'_>>, impl Iterator<Item = Field<'_>>) {
        let (before, after) = self.lines_around_etag();
        (fields_in(before), fields_in(after))
    }

    /// The names that may be among its fields.
    pub fn names(&self) -> Names {
        self.names
    }

    /// The entity tag.
    pub fn etag(&self) -> Option<&[u8]> {
        // `ETag: ` and the end of the line.
        let line = &self.lines[self.etag.start as usize..self.etag.end as usize];
        line.get(6..)?.strip_suffix(b"\r\n")
    }

    /// Whether clients are sent a field of this name.
    pub fn delivers(&self, name: &str) -> bool {
        self.names.may_have(Names::one(name))
            && self.delivered_fields().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }

    /// The field lines that clients are sent.
    pub fn delivered_fields(&self) -> impl Iterator<Item = Field<'_>> {
        fields_in(self.delivered_lines())
    }

    /// The media type with its parameters; empty when it has none.
    pub fn content_type(&self) -> String {
        let own = fields_in(&self.lines).find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        own.and_then(|(_, value)| std::str::from_utf8(value).ok()).unwrap_or_default().to_owned()
    }

    /// Calls `f` with the head as the rules see it.
    pub fn with<T>(&self, f: impl FnOnce(ResponseHead<'_>) -> T) -> T {
        let fields: FieldList<'_> = fields_in(&self.lines).collect();
        f(ResponseHead { status: self.status, fields: Fields::with_names(&fields, self.names) })
    }

    /// Bytes the field lines occupy.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are no field lines.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

fn fields_in(lines: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', lines).filter_map(move |end| {
        let line = &lines[std::mem::replace(&mut start, end + 1)..end];
        let line = line.strip_suffix(b"\r")?;
        let colon = memchr::memchr(b':', line)?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        Some((name, line.get(colon + 2..).unwrap_or_default()))
    })
}

/// A complete response in the store. Shared between readers; never changed, only replaced, but for the end of its
/// lifetime that a soft purge brings.
#[derive(Debug)]
pub struct StoredResponse {
    /// Status and fields.
    pub head: Head,
    /// The identity body.
    pub body: Bytes,
    freshness: Freshness,
    /// The moment of the first soft purge in milliseconds; zero when there was none.
    purged_at: AtomicU64,
    /// What purges know it by.
    pub facts: Arc<Facts>,
    /// What selects among its variants.
    pub vary: Vary,
    /// Whom it may be given to; `None`: everyone.
    pub witness: Option<Box<Witness>>,
    /// Its encoded forms; `None` where it is not worth encoding, or must not be.
    pub forms: Option<Arc<Forms>>,
    /// The file of the identity body, where that is large.
    pub sendable: Option<Arc<Sendable>>,
    /// Where it is stored: set anew by each insertion, and not shared with what renews it, unlike that of [`Forms`].
    place: AtomicU64,
}

impl StoredResponse {
    /// A response that no purge has touched.
    pub fn new(
        head: Head,
        body: Bytes,
        freshness: Freshness,
        facts: Facts,
        vary: Vary,
        witness: Option<Witness>,
    ) -> Self {
        let (facts, witness) = (Arc::new(facts), witness.map(Box::new));
        Self {
            sendable: (body.len() >= sendable::MIN_LENGTH).then(Arc::default),
            head,
            body,
            freshness,
            purged_at: AtomicU64::new(0),
            facts,
            vary,
            witness,
            forms: None,
            place: AtomicU64::new(0),
        }
    }

    /// The same with encoded forms, where it is worth encoding. Forms and file are those of `before`, if that has the same body.
    pub fn encodable(mut self, policy: &EncodePolicy, before: Option<&Self>) -> Self {
        // What is on probation is for those only who are known to have got it.
        let is_of_few = self.witness.as_ref().is_some_and(|witness| !witness.is_public());
        let (body, is_padded) = (&self.body, policy.pads_stored || policy.pads_passed && is_of_few);
        // The same allocation: a 304 kept the body.
        let before =
            before.filter(|before| before.body.as_ptr() == body.as_ptr() && before.body.len() == body.len());
        if let Some(before) = before {
            self.sendable = before.sendable.clone();
        }
        self.forms = self.head.with(|head| {
            if !is_encodable(&head, Some(body.len() as u64), policy) {
                return None;
            }
            Some(forms_for(head.fields, self.head.etag(), is_padded, before))
        });
        self
    }

    /// How long it is good for.
    pub fn freshness(&self) -> Freshness {
        match self.purged_at.load(Ordering::Acquire) {
            0 => self.freshness,
            at => self.freshness.purged(Timestamp(at)),
        }
    }

    /// Ends its lifetime at `at`, unless another soft purge has done so before.
    pub fn expire(&self, at: Timestamp) {
        // The first stays: the windows in which it may be served stale do not begin anew. A failure means just that.
        let _ = self.purged_at.compare_exchange(0, at.0.max(1), Ordering::AcqRel, Ordering::Acquire);
    }

    /// Settles a new response under the same key, which came of a request with `inputs` at `requested_at`.
    pub fn settle(
        &self,
        inputs: &Inputs,
        requested_at: Timestamp,
        (head, body): (&Head, &[u8]),
        own: Witness,
    ) -> Settled {
        let Some(witness) = self.witness.as_deref() else { return Settled::Store(own) };
        let is_fresh = self.freshness().remaining(requested_at).is_some();
        head.with(|new| {
            self.head.with(|head| {
                let stored = Stored { witness, head, body: &self.body, is_fresh };
                guard::settle(&stored, (new, body), own, inputs)
            })
        })
    }

    /// The same response, for those of `witness` now. What the new one among them got has the fields `new`: fields of the
    /// moment in which the two differ may tell of one visitor, and go.
    pub fn admitting(&self, witness: Witness, new: Fields<'_>) -> Self {
        let differing = guard::difference::of_the_moment(Fields::new(&self.head.fields()), new);
        let head = self.head.without(&differing);
        let forms = self.forms.as_ref().map(|forms| {
            head.with(|lent| forms_for(lent.fields, head.etag(), forms.is_padded(), Some(self)))
        });
        Self {
            head,
            body: self.body.clone(),
            freshness: self.freshness(),
            purged_at: AtomicU64::new(0),
            facts: self.facts.clone(),
            vary: self.vary.clone(),
            witness: Some(Box::new(witness)),
            forms,
            sendable: self.sendable.clone(),
            place: AtomicU64::new(0),
        }
    }

    pub(super) fn place(&self) -> EntryId {
        self.place.load(Ordering::Acquire)
    }

    pub(super) fn set_place(&self, id: EntryId) {
        self.place.store(id, Ordering::Release);
    }

    /// What it occupies in the process, in bytes, an allowance for allocator gaps and bookkeeping included.
    ///
    /// A body is charged an eighth more than its length: size classes of the allocator are that far apart.
    pub fn weight(&self) -> u64 {
        self.weight_with(None)
    }

    /// The same with this encoded form in its place.
    pub(super) fn weight_with(&self, form: Option<&Form>) -> u64 {
        const TABLES: usize = 528;
        let facts = self.facts.host.len()
            + self.facts.path.len()
            + self.facts.content_type.len()
            + self.facts.query.as_ref().map_or(0, |q| q.len());
        let witness = self.witness.as_ref().map_or(0, |witness| size_of::<Witness>() + witness.len());
        let small = self.head.len() + facts + self.facts.tags.size() + self.vary.len() + witness + TABLES;
        let forms = self.forms.as_ref().map_or(0, |forms| forms.weight_with(form));
        (small + forms + self.body.len() + self.body.len() / 8) as u64
            + self.sendable.as_ref().map_or(0, |sendable| sendable.weight())
    }
}

/// The forms of a response with these fields and this tag: those of `before`, which has the same body, where they do for it too.
fn forms_for(
    fields: Fields<'_>,
    etag: Option<&[u8]>,
    is_padded: bool,
    before: Option<&StoredResponse>,
) -> Arc<Forms> {
    let known = before.filter(|before| before.head.etag() == etag).and_then(|before| before.forms.as_ref());
    let known = known.filter(|forms| forms.suit(fields, is_padded)).cloned();
    known.unwrap_or_else(|| Arc::new(Forms::new(fields, is_padded)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::encoding::{Coding, Formats};
    use crate::store::memory::tests::page;

    #[test]
    fn forms_are_kept_with_the_same_body_and_the_same_tag_only() {
        let policy = EncodePolicy {
            formats: Formats::new(Coding::ALL),
            min_length: 1,
            max_length: 100,
            pads_passed: false,
            pads_stored: false,
        };
        let before = page("/", b"the body".to_vec()).encodable(&policy, None);
        let are_kept = |tag: &[u8], body: Bytes| {
            let fields: &[Field<'_>] = &[("ETag", tag), ("content-type", b"text/plain")];
            let mut after = page("/", Vec::new());
            (after.head, after.body) = (Head::from_fields(200, fields.iter().copied()), body);
            let after = after.encodable(&policy, Some(&before));
            Arc::ptr_eq(after.forms.as_ref().unwrap(), before.forms.as_ref().unwrap())
        };
        assert!(are_kept(b"\"1\"", before.body.clone()));
        assert!(!are_kept(b"\"2\"", before.body.clone()));
        assert!(!are_kept(b"\"1\"", Bytes::from_static(b"the body")));
        assert!(!are_kept(b"\"1\"", before.body.slice(..7)));
    }

    #[test]
    fn a_head_comes_back_as_it_went_in() {
        let fields: &[Field<'_>] =
            &[("X-Twice", b"1"), ("x-twice", b" 2: \xff"), ("X-Empty", b""), ("ETag", b"\"a\"")];
        let head = Head::storable(&ResponseHead { status: 203, fields: Fields::new(fields) });
        assert_eq!((head.status, head.fields().as_slice()), (203, fields));
    }

    #[test]
    fn fields_can_be_left_out() {
        let fields: &[Field<'_>] = &[("Set-Cookie", b"1"), ("X-A", b"1"), ("set-cookie", b"2")];
        let head = Head::storable(&ResponseHead { status: 200, fields: Fields::new(fields) });
        assert_eq!(head.without(&["set-cookie"]).fields(), [("X-A", &b"1"[..])]);
        assert_eq!(head.without(&[""; 0]), head);
    }

    #[test]
    fn a_tag_that_is_withheld_is_none() {
        let fields: &[Field<'_>] = &[("X-A", b"1"), ("ETag", b"\"a\"")];
        let head = Head::storable(&ResponseHead { status: 200, fields: Fields::new(fields) });
        assert_eq!(head.etag(), Some(&b"\"a\""[..]));
        let head = head.withholding(&["etag"]);
        assert_eq!((head.etag(), head.lines_around_etag()), (None, (&b""[..], &b"X-A: 1\r\n"[..])));
    }

    #[test]
    fn a_head_keeps_nothing_of_its_connection() {
        let fields: &[Field<'_>] =
            &[("Transfer-Encoding", b"chunked"), ("Connection", b"X-Hop"), ("x-hop", b"1"), ("Age", b"3")];
        assert!(Head::storable(&ResponseHead { status: 200, fields: Fields::new(fields) }).is_empty());
    }
}
