//! Numbers and strings written as text into buffers that are there already: formatting through `core::fmt` would be
//! most of what recording a request costs.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

/// Something that bytes are appended to.
pub trait Sink {
    /// Appends these.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The numbers below a hundred, with two digits each.
const PAIRS: [[u8; 2]; 100] = {
    let (mut pairs, mut at) = ([[0; 2]; 100], 0);
    while at < pairs.len() {
        pairs[at] = [b'0' + (at / 10) as u8, b'0' + (at % 10) as u8];
        at += 1;
    }
    pairs
};

/// Appends a number.
pub fn number(out: &mut impl Sink, mut number: u64) {
    let [first, last] = [number / 100, number % 100];
    let pair = PAIRS[last as usize];
    // Nearly all are short.
    match first {
        0 if last < 10 => return out.put(&[digit(last)]),
        0 => return out.put(&pair),
        1..10 => return out.put(&[digit(first), pair[0], pair[1]]),
        10..100 => {
            let before = PAIRS[first as usize];
            return out.put(&[before[0], before[1], pair[0], pair[1]]);
        }
        _ => {}
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    while number >= 10 {
        at -= 2;
        digits[at..][..2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    if number > 0 {
        at -= 1;
        digits[at] = digit(number);
    }
    out.put(&digits[at..]);
}

/// Appends the last `N` digits of a number.
pub fn padded<const N: usize>(out: &mut impl Sink, mut number: u64) {
    let mut digits = [b'0'; N];
    for place in digits.iter_mut().rev() {
        *place = digit(number);
        number /= 10;
    }
    out.put(&digits);
}

/// Appends a number that may be negative.
pub fn signed(out: &mut impl Sink, signed: i64) {
    if signed < 0 {
        out.put(b"-");
    }
    number(out, signed.unsigned_abs());
}

fn digit(number: u64) -> u8 {
    // Below ten.
    b'0' + (number % 10) as u8
}

/// Appends seconds with three digits after the point.
pub fn seconds(out: &mut impl Sink, time: Duration) {
    let millis = rounded(time, 1_000_000, || time.as_secs_f64(), 1000.0);
    number(out, millis / 1000);
    out.put(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis)]);
}

/// Appends milliseconds with one digit after the point.
pub fn millis(out: &mut impl Sink, time: Duration) {
    let tenths = rounded(time, 100_000, || time.as_secs_f64() * 1000.0, 10.0);
    number(out, tenths / 10);
    out.put(&[b'.', digit(tenths)]);
}

/// `time` in units of `unit` nanoseconds, rounded as `core::fmt` rounds the floating-point number that tells it, of
/// which `per_unit` make one unit. That decides half a unit by where the nearest number in binary happens to lie.
fn rounded(time: Duration, unit: u64, number: impl FnOnce() -> f64, per_unit: f64) -> u64 {
    let nanos = nanos(time);
    let (whole, rest) = (nanos / unit, nanos % unit);
    if rest * 2 != unit {
        return whole + u64::from(rest * 2 > unit);
    }
    // With one rounding only, so that its sign is right.
    let above = number().mul_add(2.0 * per_unit, -((2 * whole + 1) as f64));
    whole + u64::from(above > 0.0 || above == 0.0 && whole % 2 == 1)
}

/// Saturates after 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Appends milliseconds to the nearest microsecond, as JSON writes a floating-point number.
pub fn json_millis(out: &mut Vec<u8>, time: Duration) {
    let micros = nanos(time).saturating_add(500) / 1000;
    number(out, micros / 1000);
    let mut rest = micros % 1000;
    let mut digits = 3;
    while digits > 1 && rest.is_multiple_of(10) {
        rest /= 10;
        digits -= 1;
    }
    out.push(b'.');
    match digits {
        1 => padded::<1>(out, rest),
        2 => padded::<2>(out, rest),
        _ => padded::<3>(out, rest),
    }
}

/// Appends what stands between the quotes of a string of JSON.
pub fn json_text(out: &mut Vec<u8>, text: &str) {
    // Nearly every text needs nothing escaped.
    match has_escaped(text.as_bytes()) {
        true => escaped(out, text),
        false => out.extend_from_slice(text.as_bytes()),
    }
}

/// Whether a text has control characters, quotes or backslashes; eight bytes at a time.
fn has_escaped(text: &[u8]) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // The highest bit of each byte that is less than `limit`, or behind one: which is as good here.
    let less = |bytes: u64, limit: u8| bytes.wrapping_sub(u64::from(limit) * EACH) & !bytes;
    let has = |bytes: u64| {
        // With their second bit turned, control characters are below 32 as before, and a quote is 32.
        let [quote, backslash] = [2, b'\\'].map(|byte| bytes ^ (u64::from(byte) * EACH));
        (less(quote, b' ' + 1) | less(backslash, 1)) & (0x80 * EACH) != 0
    };
    let Some(end) = text.last_chunk() else {
        return text.iter().any(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\');
    };
    // The last eight may overlap those before.
    let mut words = text.as_chunks().0.iter().chain([end]);
    words.any(|word| has(u64::from_le_bytes(*word)))
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ if byte < b' ' => {
                let hex = |half: u8| b"0123456789abcdef"[usize::from(half)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

/// The numbers of an address with a point behind each, and how long that is.
const OCTETS: [([u8; 4], usize); 256] = {
    let (mut octets, mut at) = ([([b'.'; 4], 0); 256], 0);
    while at < octets.len() {
        let (octet, mut length) = (&mut octets[at], 0);
        let mut unit = [1, 10, 100][(at >= 10) as usize + (at >= 100) as usize];
        while unit > 0 {
            octet.0[length] = b'0' + (at / unit % 10) as u8;
            (length, unit) = (length + 1, unit / 10);
        }
        octet.1 = length + 1;
        at += 1;
    }
    octets
};

/// Appends an address.
pub fn address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{address}");
        return;
    };
    let (mut text, mut end) = ([0; 16], 0);
    for part in address.octets() {
        let (digits, length) = OCTETS[usize::from(part)];
        text[end..][..4].copy_from_slice(&digits);
        end += length;
    }
    out.extend_from_slice(&text[..end - 1]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// Whatever their length, and halves of the last digit more often than they come by chance.
    fn times() -> impl Strategy<Value = Duration> {
        let halves = |unit: u64| (0..10_000u64).prop_map(move |n| (2 * n + 1) * unit);
        let nanos = prop_oneof![
            0..2_000_000u64,
            0..4_000_000_000_000_000u64,
            halves(50_000),
            halves(500_000),
            halves(500)
        ];
        nanos.prop_map(Duration::from_nanos)
    }

    proptest! {
        #[test]
        fn times_are_written_as_the_library_writes_them(time in times()) {
            prop_assert_eq!(text(|out| seconds(out, time)), format!("{:.3}", time.as_secs_f64()));
            prop_assert_eq!(text(|out| millis(out, time)), format!("{:.1}", time.as_secs_f64() * 1000.0));
            let micros = ((time.as_nanos() + 500) / 1000) as f64 / 1e3;
            prop_assert_eq!(text(|out| json_millis(out, time)), serde_json::json!(micros).to_string());
        }

        #[test]
        fn so_are_numbers_and_addresses(n in prop_oneof![0..20_000u64, any::<u64>()], signed_n: i64, ip: IpAddr) {
            prop_assert_eq!(text(|out| number(out, n)), n.to_string());
            prop_assert_eq!(text(|out| signed(out, signed_n)), signed_n.to_string());
            prop_assert_eq!(text(|out| padded::<3>(out, n)), format!("{:03}", n % 1000));
            prop_assert_eq!(text(|out| address(out, ip)), ip.to_string());
        }

        #[test]
        fn so_are_strings(odd in "\\PC{0,9}[\u{0}-\u{7f}]{0,9}[\"\\\\a]{0,9}") {
            let quoted = format!("\"{}\"", text(|out| json_text(out, &odd)));
            prop_assert_eq!(quoted, serde_json::json!(odd).to_string());
        }
    }

    #[test]
    fn every_character_of_ascii_is_escaped_as_the_library_does() {
        for byte in 0..128u8 {
            let odd = format!("a{}b", char::from(byte));
            let quoted = format!("\"{}\"", text(|out| json_text(out, &odd)));
            assert_eq!(quoted, serde_json::json!(odd).to_string());
        }
    }
}
