//! What a response looks like in the Redis.
//!
//! A byte of version, four of length, and a Zstandard frame with a checksum, in which a record lies as MessagePack. Whatever is
//! not exactly that, be it from another version, cut off or damaged, is as good as absent. The record names its own key: two
//! keys with one digest are told apart.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, Serializer};
use zstd::bulk::{Compressor, Decompressor};

use super::log::Mark;
use crate::clock::Timestamp;
use crate::rules::freshness::Freshness;
use crate::rules::key::{CacheKey, Vary};
use crate::rules::selector::Facts;
use crate::rules::tags::Tags;
use crate::store::response::{Head, StoredResponse};

/// Of all that follows: another one is not read.
const VERSION: u8 = 1;
/// Little effort: it is written once and read by each instance, and what is in the way is the network.
const LEVEL: i32 = 1;
/// What a record has beside its body at most: heads and tags are bounded elsewhere.
const MAX_BESIDE: u64 = 4 << 20;

/// What lies under a key.
pub(super) enum Record {
    /// A response, and the last entry of the log of purges that whoever fetched it had read when the fetch began.
    Response(Box<StoredResponse>, Mark),
    /// What selects among the variants of a page.
    Varies(Vary),
}

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    #[serde(serialize_with = "as_bytes")]
    key: &'a [u8],
    #[serde(borrow)]
    what: What<'a>,
}

#[derive(Serialize, Deserialize)]
enum What<'a> {
    #[serde(borrow)]
    Response(Box<Response<'a>>),
    Varies(Vec<String>),
}

#[derive(Serialize, Deserialize)]
struct Response<'a> {
    mark: Mark,
    status: u16,
    #[serde(serialize_with = "as_bytes")]
    delivered: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    withheld: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    body: &'a [u8],
    lifetime: Lifetime,
    host: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    content_type: &'a str,
    tags: Vec<String>,
    is_cut: bool,
    vary: Vec<String>,
}

/// Otherwise each byte would be a number of its own.
fn as_bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// [`Freshness`] in milliseconds.
#[derive(Serialize, Deserialize)]
struct Lifetime {
    stored_at: u64,
    initial_age: u64,
    lifetime: u64,
    stale_while_revalidate: u64,
    stale_if_error: u64,
    stale_on_disconnect: u64,
    stale_forbidden: bool,
}

/// Writes and reads records. It keeps what the codec works with, half a megabyte each, for the next time: as many as were ever in use
/// at once.
#[derive(Default)]
pub(super) struct Forms {
    compressors: Mutex<Vec<Compressor<'static>>>,
    decompressors: Mutex<Vec<Decompressor<'static>>>,
}

impl Forms {
    /// A response as it is written; nothing for one that is too large.
    pub(super) fn of_response(&self, key: &CacheKey, stored: &StoredResponse, mark: Mark) -> Option<Vec<u8>> {
        let facts = &stored.facts;
        let response = Response {
            mark,
            status: stored.head.status,
            delivered: stored.head.delivered_lines(),
            withheld: stored.head.withheld_lines(),
            body: &stored.body,
            lifetime: Lifetime::of(&stored.freshness()),
            host: &facts.host,
            path: &facts.path,
            query: facts.query.as_deref(),
            content_type: &facts.content_type,
            tags: facts.tags.names().iter().map(|tag| tag.to_string()).collect(),
            is_cut: facts.tags.is_cut(),
            vary: stored.vary.names().to_vec(),
        };
        self.write(&Written { key: key.as_ref(), what: What::Response(Box::new(response)) })
    }

    /// What selects among variants, as it is written.
    pub(super) fn of_vary(&self, key: &CacheKey, vary: &Vary) -> Option<Vec<u8>> {
        self.write(&Written { key: key.as_ref(), what: What::Varies(vary.names().to_vec()) })
    }

    fn write(&self, written: &Written<'_>) -> Option<Vec<u8>> {
        let plain = rmp_serde::to_vec(written).ok()?;
        let length = u32::try_from(plain.len()).ok()?;
        let kept = self.compressors.lock().pop();
        let mut compressor = kept.map_or_else(compressor, Ok).ok()?;
        let frame = compressor.compress(&plain).ok()?;
        self.compressors.lock().push(compressor);
        Some([&[VERSION][..], &length.to_le_bytes(), &frame].concat())
    }

    /// Reads what lies under `key`; nothing where that is not a record of it, or one with a body of more than `max_body` bytes.
    pub(super) fn read(&self, bytes: &[u8], key: &CacheKey, max_body: u64) -> Option<Record> {
        let (version, rest) = bytes.split_first()?;
        let (length, frame) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        if *version != VERSION || u64::from(length) > max_body.saturating_add(MAX_BESIDE) {
            return None;
        }
        let kept = self.decompressors.lock().pop();
        let mut decompressor = kept.map_or_else(Decompressor::new, Ok).ok()?;
        let plain = decompressor.decompress(frame, length as usize);
        self.decompressors.lock().push(decompressor);
        let plain = plain.ok()?;
        if plain.len() != length as usize {
            return None;
        }
        let written: Written<'_> = rmp_serde::from_slice(&plain).ok()?;
        if written.key != key.as_ref() {
            return None;
        }
        Some(match written.what {
            What::Varies(names) => Record::Varies(Vary::of_names(names)),
            What::Response(response) if response.body.len() as u64 <= max_body => {
                let mark = response.mark;
                Record::Response(Box::new(response.restored()), mark)
            }
            What::Response(_) => return None,
        })
    }
}

fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    Ok(compressor)
}

impl Response<'_> {
    fn restored(self) -> StoredResponse {
        let tags = Tags::restored(self.tags.into_iter().map(Into::into), self.is_cut);
        let facts = Facts {
            host: self.host.into(),
            path: self.path.into(),
            query: self.query.map(Into::into),
            content_type: self.content_type.into(),
            tags,
        };
        let head = Head::from_lines(self.status, self.delivered, self.withheld);
        let (body, freshness) = (Bytes::copy_from_slice(self.body), self.lifetime.freshness());
        StoredResponse::new(head, body, freshness, facts, Vary::of_names(self.vary), None)
    }
}

impl Lifetime {
    fn of(freshness: &Freshness) -> Self {
        let millis = |period: Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        Self {
            stored_at: freshness.stored_at.0,
            initial_age: millis(freshness.initial_age),
            lifetime: millis(freshness.lifetime),
            stale_while_revalidate: millis(freshness.stale_while_revalidate),
            stale_if_error: millis(freshness.stale_if_error),
            stale_on_disconnect: millis(freshness.stale_on_disconnect),
            stale_forbidden: freshness.stale_forbidden,
        }
    }

    fn freshness(&self) -> Freshness {
        let period = Duration::from_millis;
        Freshness {
            stored_at: Timestamp(self.stored_at),
            initial_age: period(self.initial_age),
            lifetime: period(self.lifetime),
            stale_while_revalidate: period(self.stale_while_revalidate),
            stale_if_error: period(self.stale_if_error),
            stale_on_disconnect: period(self.stale_on_disconnect),
            stale_forbidden: self.stale_forbidden,
            always_revalidate: false,
            is_purged: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::head::{Fields, RequestHead, ResponseHead};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;
    use crate::shared::log::Position;
    use proptest::prelude::*;
    use uuid::Uuid;

    const AT: Mark = Mark { position: Position { time: 7, number: 9 }, nonce: Uuid::from_u128(11) };

    fn forms() -> Forms {
        Forms::default()
    }

    fn key(path: &str) -> CacheKey {
        let target = Target::new(Scheme::Http, "shop", path);
        let request =
            RequestHead { method: "GET", target, fields: Fields::default(), has_body: false, believed: &[] };
        CacheKey::primary("r", &request, &testing::policy())
    }

    fn response(body: &[u8]) -> StoredResponse {
        let fields: &[(&str, &[u8])] = &[("ETag", b"\"a\""), ("X-Odd", b" \xff"), ("Cache-Tag", b"t,u")];
        let head = Head::storable(&ResponseHead { status: 203, fields: Fields::new(fields) })
            .withholding(&["cache-tag"]);
        let facts = Facts {
            host: "shop".into(),
            path: "/a".into(),
            query: Some("b=1".into()),
            content_type: "text/html".into(),
            tags: Tags::new(["t".into(), "u".into()]),
        };
        let lifetime = Lifetime {
            stored_at: 1_000_000,
            initial_age: 1,
            lifetime: 60_000,
            stale_while_revalidate: 2,
            stale_if_error: 3,
            stale_on_disconnect: 4,
            stale_forbidden: true,
        };
        let vary = Vary::of_names(vec!["accept".into()]);
        StoredResponse::new(head, Bytes::copy_from_slice(body), lifetime.freshness(), facts, vary, None)
    }

    #[test]
    fn a_response_comes_back_as_it_went_in() {
        let (sent, key) = (response(b"body"), key("/a"));
        let written = forms().of_response(&key, &sent, AT).unwrap();
        let Some(Record::Response(got, AT)) = forms().read(&written, &key, 4) else { panic!("it is there") };
        assert_eq!(
            (&got.head, &got.body, &got.facts, &got.vary),
            (&sent.head, &sent.body, &sent.facts, &sent.vary)
        );
        assert_eq!(got.freshness(), sent.freshness());
        assert!(forms().read(&written, &key, 3).is_none(), "larger than this instance stores");
        let vary = forms().of_vary(&key, &sent.vary).unwrap();
        assert!(matches!(forms().read(&vary, &key, 0), Some(Record::Varies(vary)) if vary == sent.vary));
    }

    #[test]
    fn a_response_of_nothing_comes_back_too() {
        let (key, head) = (key("/a"), Head::from_lines(204, b"", b""));
        let freshness = response(b"").freshness();
        let sent =
            StoredResponse::new(head, Bytes::new(), freshness, Facts::default(), Vary::default(), None);
        let written = forms().of_response(&key, &sent, AT).unwrap();
        let Some(Record::Response(got, AT)) = forms().read(&written, &key, 0) else { panic!("it is there") };
        assert_eq!((&got.head, &got.body, &got.facts), (&sent.head, &sent.body, &sent.facts));
    }

    #[test]
    fn what_repeats_itself_is_stored_small() {
        let written = forms().of_response(&key("/a"), &response(&b"<p>twelve</p>".repeat(1000)), AT).unwrap();
        assert!(written.len() < 600, "{}", written.len());
    }

    #[test]
    fn what_is_of_another_key_or_another_version_is_absent() {
        let mut written = forms().of_response(&key("/a"), &response(b"body"), AT).unwrap();
        assert!(forms().read(&written, &key("/b"), 100).is_none());
        written[0] += 1;
        assert!(forms().read(&written, &key("/a"), 100).is_none());
    }

    proptest! {
        #[test]
        fn what_is_damaged_anywhere_is_absent_or_the_same(at in 0_usize..200, bit in 0_u8..8, cut in any::<bool>()) {
            let sent = response(&b"some body ".repeat(40));
            let mut written = forms().of_response(&key("/a"), &sent, AT).unwrap();
            let at = at % written.len();
            if cut { written.truncate(at) } else { written[at] ^= 1 << bit }
            // A frame has bits that mean nothing.
            if let Some(Record::Response(got, AT)) = forms().read(&written, &key("/a"), 1000) {
                prop_assert_eq!((&got.head, &got.body, &got.facts), (&sent.head, &sent.body, &sent.facts));
            } else {
                prop_assert!(forms().read(&written, &key("/a"), 1000).is_none());
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(forms().read(&bytes, &key("/a"), 1000).is_none());
        }
    }
}
