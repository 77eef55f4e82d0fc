//! What is written to a client in one piece: a head, and a small body behind it.

use arrayvec::ArrayVec;

use crate::observe::text::{self, Sink};

/// Room for a head of ordinary size and a small body. It is on the stack: an idle connection has none.
const ROOM: usize = 8 * 1024;

/// Bytes to be sent. What does not fit is noted, and left out.
#[derive(Default)]
pub struct Output {
    bytes: ArrayVec<u8, ROOM>,
    is_cut: bool,
}

impl Output {
    /// Appends a field line.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        [name.as_bytes(), b": ", value, b"\r\n"].iter().for_each(|part| self.put(part));
    }

    /// Appends the first line.
    pub fn status_line(&mut self, status: u16) {
        if status == 200 {
            return self.put(b"HTTP/1.1 200 OK\r\n");
        }
        let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        self.put(b"HTTP/1.1 ");
        text::number(self, status.into());
        [b" ", reason.unwrap_or_default().as_bytes(), b"\r\n"].iter().for_each(|part| self.put(part));
    }

    /// The bytes, if all have found room.
    pub fn whole(&self) -> Option<&[u8]> {
        (!self.is_cut).then_some(&self.bytes)
    }
}

impl Sink for Output {
    fn put(&mut self, bytes: &[u8]) {
        if self.bytes.try_extend_from_slice(bytes).is_err() {
            self.is_cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_noted() {
        let mut output = Output::default();
        output.status_line(404);
        output.field("Age", b"7");
        assert_eq!(output.whole(), Some(&b"HTTP/1.1 404 Not Found\r\nAge: 7\r\n"[..]));
        output.put(&[b'x'; ROOM]);
        assert_eq!(output.whole(), None);
    }
}
