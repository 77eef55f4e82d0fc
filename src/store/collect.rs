//! A body that is collected whole beside the fills: by a shadow or an audit, which nobody waits for.

use std::sync::Arc;

use super::fill::InFlight;
use crate::rules::admission::DiscardReason;

/// A body under way. Its bytes count against the budget of all bodies under way until it is dropped.
#[derive(Debug)]
pub struct Collected {
    bytes: Vec<u8>,
    max: u64,
    in_flight: Arc<InFlight>,
}

impl Collected {
    /// An empty body of at most `max` bytes.
    pub fn new(max: u64, in_flight: Arc<InFlight>) -> Self {
        Self { bytes: Vec::new(), max, in_flight }
    }

    /// Takes a chunk in, unless the body is too large for one object or for what is left of the budget.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), DiscardReason> {
        let length = chunk.len() as u64;
        if self.bytes.len() as u64 + length > self.max {
            return Err(DiscardReason::TooLarge);
        }
        if !self.in_flight.reserve(length) {
            return Err(DiscardReason::FillLimit);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// What has been collected.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.in_flight.release(self.bytes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_bounded_by_itself_and_by_all_and_gives_back_what_it_held() {
        let in_flight = InFlight::new(10);
        let mut one = Collected::new(6, in_flight.clone());
        assert_eq!((one.push(b"12345"), one.push(b"67")), (Ok(()), Err(DiscardReason::TooLarge)));
        let mut other = Collected::new(100, in_flight.clone());
        assert_eq!((other.push(b"12345"), other.push(b"6")), (Ok(()), Err(DiscardReason::FillLimit)));
        assert_eq!((one.bytes(), in_flight.used()), (&b"12345"[..], 10));
        drop((one, other));
        assert_eq!(in_flight.used(), 0);
    }
}
