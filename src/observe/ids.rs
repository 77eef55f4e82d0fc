//! Ids of requests without asking the kernel for randomness each time.

use std::cell::RefCell;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::clock::Timestamp;

/// The part of an id that follows the time, without version and variant: 74 bits.
const BITS: u32 = 74;

thread_local! {
    /// Those of this thread: a request is named without waiting for others.
    static OWN: RefCell<Option<RequestIds>> = const { RefCell::new(None) };
}

/// Appends an id of this moment.
pub fn write_next(now: Timestamp, into: &mut String) {
    OWN.with_borrow_mut(|ids| ids.get_or_insert_with(RequestIds::new).write_next(now, into));
}

/// Makes ids, one after another: UUIDs of version 7 (RFC 9562 section 5.7).
///
/// They are unique, not secret: who has seen some can tell the next. Ids made in the same millisecond increase, as
/// do ids of later milliseconds. Two that make them make different ones because each begins with randomness of its own.
#[derive(Clone, Debug)]
struct RequestIds {
    state: [u64; 2],
    at: Timestamp,
    tail: u128,
    /// The last one as text.
    text: [u8; Hyphenated::LENGTH],
}

/// How many characters of an id follow its last hyphen.
const LAST: usize = 12;

impl RequestIds {
    /// Ids that begin at random: the only time that the system is asked.
    fn new() -> Self {
        let (one, other) = Uuid::new_v4().as_u64_pair();
        Self { state: [one, other], at: Timestamp(u64::MAX), tail: 0, text: [0; Hyphenated::LENGTH] }
    }

    /// Appends the next id, of this moment.
    fn write_next(&mut self, now: Timestamp, into: &mut String) {
        let is_next = now == self.at;
        self.tail = if is_next { self.tail + 1 } else { self.random() };
        self.at = now;
        // The next one of a millisecond differs in its last digits as a rule.
        if !(is_next && count_up(&mut self.text[Hyphenated::LENGTH - LAST..])) {
            self.id().hyphenated().encode_lower(&mut self.text);
        }
        into.push_str(str::from_utf8(&self.text).expect("digits and hyphens"));
    }

    /// Half of what fits, at most: so there is room to count up.
    fn random(&mut self) -> u128 {
        let [high, low] = self.state.each_mut().map(mixed);
        (u128::from(high) << 64 | u128::from(low)) >> (128 - BITS + 1)
    }

    fn id(&self) -> Uuid {
        let millis = u128::from(self.at.0 & 0xffff_ffff_ffff);
        // Twelve bits before the variant, the others after it.
        let (first, last) = (self.tail >> 62 & 0xfff, self.tail & ((1 << 62) - 1));
        Uuid::from_u128(millis << 80 | 0x7 << 76 | first << 64 | 0b10 << 62 | last)
    }
}

/// Writes the next number over one in hexadecimal digits; `false` if that needs one digit more.
fn count_up(digits: &mut [u8]) -> bool {
    for digit in digits.iter_mut().rev() {
        *digit = match *digit {
            b'f' => b'0',
            b'9' => b'a',
            other => other + 1,
        };
        if *digit != b'0' {
            return true;
        }
    }
    false
}

/// The next number of SplitMix64, which comes by every number once before it repeats one.
fn mixed(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut number = *state;
    number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn next(ids: &mut RequestIds, millis: u64) -> String {
        let mut id = String::from("kept ");
        ids.write_next(Timestamp(millis), &mut id);
        id.strip_prefix("kept ").unwrap().to_owned()
    }

    #[test]
    fn an_id_is_a_uuid_of_its_time() {
        let mut ids = RequestIds::new();
        for millis in [0, 1_700_000_000_123, (1 << 48) - 1] {
            let id = Uuid::parse_str(&next(&mut ids, millis)).unwrap();
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            assert_eq!(seconds * 1000 + u64::from(nanos) / 1_000_000, millis);
        }
    }

    #[test]
    fn ids_of_a_thread_increase() {
        let mut ids = RequestIds::new();
        let all: Vec<_> = (0..10_000).map(|n| next(&mut ids, 1_700_000_000_000 + n / 1000)).collect();
        assert!(all.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn the_next_of_a_millisecond_is_one_more() {
        for tail in [0, 0x9e, (1 << 48) - 3, (1 << 62) - 3, (1 << (BITS - 1)) - 3] {
            let mut ids = RequestIds::new();
            next(&mut ids, 7);
            ids.tail = tail;
            ids.id().hyphenated().encode_lower(&mut ids.text);
            let mut before = ids.id().to_string();
            for more in 1..20 {
                let id = next(&mut ids, 7);
                let whole = RequestIds { tail: tail + more, ..ids.clone() }.id().to_string();
                assert!(id == whole && id > before, "{before} {id} {whole}");
                before = id;
            }
        }
    }

    #[test]
    fn no_two_are_the_same_even_where_the_clock_goes_back() {
        let mut seen = HashSet::new();
        for _ in 0..100 {
            let mut ids = RequestIds::new();
            for n in 0..100 {
                assert!(seen.insert(next(&mut ids, 1_700_000_000_000 + n % 3)));
                assert!(seen.insert(next(&mut ids, 1_700_000_000_000 + n % 3)));
            }
        }
    }
}
