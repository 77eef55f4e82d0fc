//! What a client gets of a response, by its conditions and its ranges: all of it, nothing (304), or parts.

use std::ops::Range;

use bytes::Bytes;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::rules::conditional;
use crate::rules::head::{Fields, ResponseHead};
use crate::rules::ranges::{self, Part};
use crate::rules::request::Received;
use crate::store::forms::Selected;
use crate::store::response::StoredResponse;

/// What a client gets of a stored response.
pub struct Extract {
    /// The status it is sent with.
    pub status: u16,
    /// Fields that take the place of stored ones.
    pub fields: Vec<(&'static str, Vec<u8>)>,
    /// The body, in the pieces it is sent in.
    pub pieces: Vec<Bytes>,
}

impl Extract {
    /// Takes out of a representation of a stored response, whose fields these are, what this request asks for.
    pub fn of(
        response: &StoredResponse,
        selected: &Selected,
        fields: Fields<'_>,
        view: &Received<'_>,
    ) -> Self {
        let body = selected.body(response);
        let head = ResponseHead { status: response.head.status, fields };
        let own = response.head.with(|head| {
            let not_modified = not_modified(view, &head, response.freshness().stored_at);
            not_modified.then(|| {
                let tags = (head.fields.first("etag"), fields.first("etag"));
                conditional::held_other(view.fields(), tags.0, tags.1).map(<[u8]>::to_vec)
            })
        });
        if let Some(held) = own {
            let fields = held.into_iter().map(|tag| ("ETag", tag)).collect();
            return Self { status: 304, fields, pieces: Vec::new() };
        }
        let whole = || Self { status: head.status, fields: Vec::new(), pieces: vec![body.clone()] };
        // Ranges are of a GET that would be answered with 200 (RFC 9110 section 14.2).
        if view.method() != "GET" || head.status != 200 {
            return whole();
        }
        let (has_tag, is_dated) = (names_a_tag(view.fields()), is_dated(view.fields()));
        match ranges::part(view.fields(), fields, body.len() as u64) {
            // Of an encoded form only by its tag, as whoever selects it sees to; and several parts of one would have no
            // place to say that they are encoded.
            _ if selected.form.is_some() && !has_tag || selected.wanted.is_some() && is_dated => whole(),
            Part::Several(_) if selected.form.is_some() => whole(),
            Part::Whole => whole(),
            Part::Unsatisfiable => {
                let range = format!("bytes */{}", body.len()).into_bytes();
                Self { status: 416, fields: vec![("Content-Range", range)], pieces: Vec::new() }
            }
            Part::Bytes(range) => {
                let place = content_range(&range, body.len() as u64).into_bytes();
                let pieces = vec![body.slice(places(&range, body))];
                Self { status: 206, fields: vec![("Content-Range", place)], pieces }
            }
            Part::Several(ranges) => multipart(&ranges, &head, body),
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

fn names_a_tag(request: Fields<'_>) -> bool {
    request.first("if-range").is_some_and(|condition| condition.trim_ascii().starts_with(b"\""))
}

/// Whether a part is asked for on the condition of a date, which is that of all forms: the client may have a part of another.
fn is_dated(request: Fields<'_>) -> bool {
    request.has("if-range") && !names_a_tag(request)
}

/// Whether the client already has the response. Conditions are about a representation that there is (RFC 9110
/// section 13.2.1).
pub fn not_modified(view: &Received<'_>, head: &ResponseHead<'_>, received_at: Timestamp) -> bool {
    matches!(head.status, 200..=299) && conditional::not_modified(view.fields(), head.fields, received_at)
}

/// Which bytes of a body of `length` that is still on its way the client gets; `None` for all. Several ranges are
/// sent whole, and so is what has no such bytes: both could be told only once it is there. `has_forms` is whether others may
/// get it encoded.
pub fn cut(view: &Received<'_>, head: &ResponseHead<'_>, length: u64, has_forms: bool) -> Option<Range<u64>> {
    if view.method() != "GET" || head.status != 200 || has_forms && is_dated(view.fields()) {
        return None;
    }
    match ranges::part(view.fields(), head.fields, length) {
        Part::Bytes(range) => Some(range),
        Part::Whole | Part::Several(_) | Part::Unsatisfiable => None,
    }
}

/// Several ranges in one body (RFC 9110 section 14.6).
fn multipart(ranges: &[Range<u64>], head: &ResponseHead<'_>, body: &Bytes) -> Extract {
    let media_type = head.fields.first("content-type").unwrap_or(b"application/octet-stream");
    // Random, so that no body can hold it on purpose.
    let boundary = Uuid::new_v4().simple().to_string();
    let mut pieces: Vec<Bytes> = Vec::with_capacity(ranges.len() * 2 + 1);
    for range in ranges {
        let place = content_range(range, body.len() as u64);
        let opening = format!("\r\n--{boundary}\r\nContent-Range: {place}\r\nContent-Type: ");
        let part = [opening.as_bytes(), media_type, b"\r\n\r\n"].concat();
        pieces.extend([part.into(), body.slice(places(range, body))]);
    }
    pieces.push(format!("\r\n--{boundary}--\r\n").into());
    let media_type = format!("multipart/byteranges; boundary={boundary}");
    Extract { status: 206, fields: vec![("Content-Type", media_type.into_bytes())], pieces }
}

/// The `Content-Range` of a part of a body of `length` (RFC 9110 section 14.4).
pub fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// A range within the body, as places in memory.
fn places(range: &Range<u64>, body: &Bytes) -> Range<usize> {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
    place(range.start)..place(range.end)
}
