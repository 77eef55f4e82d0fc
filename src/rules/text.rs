//! Short texts: taken apart at an ASCII character, and compared.
//!
//! The standard library is made for any pattern in texts of any length; what requests are made of is short, and every hit
//! takes some of it apart. [`same`] is for the way of a hit; elsewhere `eq_ignore_ascii_case` says it better.

use memchr::memchr;

/// A one in each of eight bytes.
const EACH: u64 = 0x0101_0101_0101_0101;

/// The highest bit of each of eight bytes.
const HIGHEST: u64 = 0x80 * EACH;

/// The longest text that is looked through here; in longer ones the library is faster.
const MAX_SHORT: usize = 64;

/// Where a byte is first.
#[inline]
pub fn find(text: &[u8], byte: u8) -> Option<usize> {
    let Some(end) = text.last_chunk().filter(|_| text.len() <= MAX_SHORT) else {
        return if text.len() < 8 { text.iter().position(|each| *each == byte) } else { memchr(byte, text) };
    };
    // The lowest bit that is set is that of the first such byte; those above it may be of others (`zeros`).
    let first = |word: &[u8; 8]| match zeros(u64::from_le_bytes(*word) ^ (u64::from(byte) * EACH)) {
        0 => None,
        found => Some(found.trailing_zeros() as usize / 8),
    };
    let mut words = text.as_chunks().0.iter().enumerate();
    let in_words = words.find_map(|(at, word)| first(word).map(|found| at * 8 + found));
    // The last eight may overlap those before, where it is not.
    in_words.or_else(|| first(end).map(|found| text.len() - 8 + found))
}

/// Marks of eight bytes those that are zero by their highest bit; and ones above such a byte, too.
fn zeros(bytes: u64) -> u64 {
    bytes.wrapping_sub(EACH) & !bytes & HIGHEST
}

/// What stands before the first `separator` and what behind it; `None` without one. `separator` is ASCII.
#[inline]
pub fn cut(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = find(text.as_bytes(), separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The parts of a text between `separator`s, which are ASCII; one where there is none, though it be empty.
pub fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match cut(text, separator) {
            Some((part, behind)) => {
                rest = Some(behind);
                Some(part)
            }
            None => rest.take(),
        }
    })
}

/// The first eight bytes of a text, or as many as there are, as a number; the first is the lowest.
#[inline]
pub fn beginning(text: &[u8]) -> u64 {
    if let Some(first) = text.first_chunk() {
        return u64::from_le_bytes(*first);
    }
    // Of what is shorter than eight, the last four overlap the first.
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        let [first, last] = [*first, *last].map(|four| u64::from(u32::from_le_bytes(four)));
        return first | last << (8 * (text.len() - 4));
    }
    text.iter().rev().fold(0, |bytes, byte| bytes << 8 | u64::from(*byte))
}

/// Whether two texts are the same but for the case of ASCII letters.
#[inline]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    // Inlined: the length alone tells most apart.
    one.len() == other.len() && same_bytes(one, other)
}

/// The same of two that are equally long; eight bytes at a time, of which the last may overlap those before.
fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    // Mostly the case is the same too.
    let is_same = |one: &[u8; 8], other: &[u8; 8]| {
        one == other || lower(u64::from_le_bytes(*one)) == lower(u64::from_le_bytes(*other))
    };
    let (Some(end), Some(other_end)) = (one.last_chunk(), other.last_chunk()) else {
        return lower(beginning(one)) == lower(beginning(other));
    };
    let words = one.as_chunks().0.iter().zip(other.as_chunks().0);
    is_same(end, other_end) && words.into_iter().all(|(one, other)| is_same(one, other))
}

/// Eight bytes with their ASCII letters in lower case.
fn lower(bytes: u64) -> u64 {
    // No sum exceeds a byte. Its highest bit tells whether the seven others are at least `A`, and more than `Z`.
    let seven = bytes & (0x7f * EACH);
    let from_a = seven + (0x80 - b'A' as u64) * EACH;
    let behind_z = seven + (0x7f - b'Z' as u64) * EACH;
    let is_upper = from_a & !behind_z & !bytes & HIGHEST;
    bytes | is_upper >> 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_are_compared_as_by_the_library(one in "[@A-Z\\[`a-z{0-9é-]{0,20}", seed: u32) {
            // Some letters in the other case; one byte changed, or not.
            let mut other: Vec<u8> = one.bytes().enumerate().map(|(at, byte)| match seed >> (at % 32) & 1 {
                1 if byte.is_ascii_alphabetic() => byte ^ 0x20,
                _ => byte,
            }).collect();
            prop_assert!(same(one.as_bytes(), &other));
            if let Some(byte) = other.get_mut(seed as usize % 24) {
                *byte ^= 1 << (seed % 8);
            }
            prop_assert_eq!(same(one.as_bytes(), &other), one.as_bytes().eq_ignore_ascii_case(&other));
            prop_assert!(!same(one.as_bytes(), &one.as_bytes()[..one.len().saturating_sub(1)]) || one.is_empty());
        }

        #[test]
        fn a_beginning_is_that_of_the_text(text: Vec<u8>) {
            let mut bytes = [0; 8];
            let length = text.len().min(8);
            bytes[..length].copy_from_slice(&text[..length]);
            prop_assert_eq!(beginning(&text), u64::from_le_bytes(bytes));
        }

        #[test]
        fn a_byte_is_found_where_the_library_finds_it(text in "[a\u{1}`é]{0,80}", byte in "[abc\u{1}`]") {
            let byte = byte.as_bytes()[0];
            prop_assert_eq!(find(text.as_bytes(), byte), memchr(byte, text.as_bytes()));
        }

        #[test]
        fn a_text_is_taken_apart_as_by_the_library(text in "(;|=|[a-z]|\\PC){0,12}") {
            prop_assert_eq!(cut(&text, b'='), text.split_once('='));
            prop_assert_eq!(split(&text, b';').collect::<Vec<_>>(), text.split(';').collect::<Vec<_>>());
        }
    }
}
