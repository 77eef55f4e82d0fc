//! The content codings themselves: bodies that are encoded at once, and bodies that are encoded while they come.

use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use flate2::GzBuilder;
use flate2::write::GzEncoder;
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdEncoder;

use crate::rules::encodable::Level;
use crate::rules::encoding::Coding;

/// The most bytes by which a length is blurred: as many as Django adds.
pub const MAX_PADDING: u8 = 100;

/// How far back an encoder looks for what it has seen, as a power of two: bounds what it allocates. 1 MiB for a body that is
/// there, 256 KiB for one that is on its way, of which many may be at a time.
const WINDOW: u32 = 20;
const WINDOW_ON_THE_WAY: u32 = 18;

/// See [`brotli()`].
const LEAST_WINDOW_OF_BROTLI: u32 = 17;

/// How much brotli weighs at once, as a power of two. It is what its middle levels do anyway; four times as much, which the
/// strongest would, takes 14 MiB more with bodies above half a MiB, for forms smaller by 0.2 to 0.3 %.
const BLOCK_OF_BROTLI: i32 = 16;

/// How much is encoded between two looks at whether it is still wanted, in bytes.
const STEP: usize = 64 << 10;

/// Encodes a body. `padding` bytes blur its length; zstd has no room for them. `None` when `goes_on` says that nobody wants
/// it any longer.
pub fn encode(
    coding: Coding,
    level: Level,
    body: &[u8],
    padding: u8,
    goes_on: impl Fn() -> bool,
) -> io::Result<Option<Vec<u8>>> {
    let mut stream = Stream::sized(coding, level, padding, body.len())?;
    for step in body.chunks(STEP) {
        if !goes_on() {
            return Ok(None);
        }
        stream.write(step)?;
    }
    stream.finish().map(Some)
}

/// A body that is encoded while it comes.
pub struct Stream(Encoder);

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Box<ZstdEncoder<'static, Vec<u8>>>),
}

impl Stream {
    /// A stream of quick codings. `padding` bytes at its beginning blur its length; zstd has no room for them.
    pub fn new(coding: Coding, padding: u8) -> io::Result<Self> {
        Self::begin(coding, Level::Quick, padding, WINDOW_ON_THE_WAY, 0)
    }

    /// What one of [`Stream::new`] takes while it is open, in KiB: its window, its tables, and a chunk.
    pub const fn memory(coding: Coding) -> u32 {
        match coding {
            Coding::Gzip => 320,
            Coding::Zstd => 1280,
            Coding::Brotli => 2560,
        }
    }

    /// The same for a body of `length` bytes.
    fn sized(coding: Coding, level: Level, padding: u8, length: usize) -> io::Result<Self> {
        // No larger than the body, or the tables would cost more than the encoding. The least that all three take is 2^10.
        let window = (usize::BITS - length.leading_zeros()).clamp(10, WINDOW);
        Self::begin(coding, level, padding, window, length)
    }

    fn begin(coding: Coding, level: Level, padding: u8, window: u32, length: usize) -> io::Result<Self> {
        let number = level.number(coding);
        let encoder = match coding {
            Coding::Gzip => {
                // The name of a file that nobody reads.
                let name = vec![b'x'; padding.into()];
                let builder = if padding > 0 { GzBuilder::new().filename(name) } else { GzBuilder::new() };
                Encoder::Gzip(builder.write(Vec::new(), flate2::Compression::new(number.into())))
            }
            Coding::Brotli => Encoder::Brotli(Box::new(brotli(number, window, length, padding)?)),
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), number.into())?;
                encoder.set_parameter(CParameter::WindowLog(window))?;
                if length > 0 {
                    // The tables follow the window down, but not up: those of the strongest level would take 100 MiB.
                    encoder.set_pledged_src_size(Some(length as u64))?;
                }
                if level == Level::Strongest {
                    encoder.set_parameter(CParameter::ChainLog(window.clamp(6, WINDOW)))?;
                    encoder.set_parameter(CParameter::HashLog(window.clamp(6, WINDOW - 1)))?;
                }
                Encoder::Zstd(Box::new(encoder))
            }
        };
        Ok(Self(encoder))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            Encoder::Gzip(encoder) => encoder,
            Encoder::Brotli(encoder) => &mut **encoder,
            Encoder::Zstd(encoder) => &mut **encoder,
        }
    }

    /// Takes a part of the body in.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.writer().write_all(chunk)
    }

    /// What can be sent now, so that the client can read all that was taken in.
    pub fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.writer().flush()?;
        let encoded = match &mut self.0 {
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
        };
        Ok(std::mem::take(encoded))
    }

    /// The end of it.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Brotli(mut encoder) => {
                // It finishes where it gives its output back, and is silent about an error then.
                encoder.flush()?;
                Ok(encoder.into_inner())
            }
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

fn brotli(level: u8, window: u32, length: usize, padding: u8) -> io::Result<CompressorWriter<Vec<u8>>> {
    // Below this window the library has no smaller tables for its middle levels, and takes about 40 MiB.
    let window = if (5..10).contains(&level) { window.max(LEAST_WINDOW_OF_BROTLI) } else { window };
    let params = BrotliEncoderParams {
        quality: level.into(),
        // It fits in one byte: see the constants.
        lgwin: i32::try_from(window).unwrap_or(18),
        lgblock: BLOCK_OF_BROTLI,
        size_hint: length,
        ..BrotliEncoderParams::default()
    };
    let mut encoder = CompressorWriter::with_params(Vec::new(), 4096, &params);
    if let Some(skipped) = padding.checked_sub(1) {
        // Brings the output to the edge of a byte, where a block may begin.
        encoder.flush()?;
        let output = encoder.get_mut();
        output.extend_from_slice(&metadata(skipped));
        output.resize(output.len() + usize::from(padding), b'x');
    }
    Ok(encoder)
}

/// The head of a block of one byte more than `length` that decoders skip (RFC 7932 section 9.2): not the last block, no
/// nibbles of a length, a reserved zero, one byte of a length, and that.
fn metadata(length: u8) -> [u8; 2] {
    ((u16::from(length) << 6) | 0b01_0110).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// What a client makes of it.
    fn decoded(coding: Coding, encoded: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(encoded).read_to_end(&mut body).unwrap(),
            Coding::Brotli => brotli::Decompressor::new(encoded, 4096).read_to_end(&mut body).unwrap(),
            Coding::Zstd => {
                zstd::stream::read::Decoder::new(encoded).unwrap().read_to_end(&mut body).unwrap()
            }
        };
        body
    }

    fn page(length: usize) -> Vec<u8> {
        (0..)
            .flat_map(|n: u32| format!("<li id={n}>item {}</li>", n * 7919 % 1009).into_bytes())
            .take(length)
            .collect()
    }

    #[test]
    fn what_is_encoded_can_be_decoded() {
        for coding in Coding::ALL {
            for level in Level::ALL {
                for length in [1, 900, 15_000, 300_000] {
                    let body = page(length);
                    let encoded = encode(coding, level, &body, 0, || true).unwrap().unwrap();
                    assert!(decoded(coding, &encoded) == body, "{coding:?} {level:?} {length}");
                    assert!(length < 900 || encoded.len() < body.len() / 2, "{coding:?} {level:?} {length}");
                }
            }
        }
    }

    #[test]
    fn padding_lengthens_and_changes_nothing_else() {
        let body = page(5_000);
        for coding in [Coding::Gzip, Coding::Brotli] {
            let plain = encode(coding, Level::Quick, &body, 0, || true).unwrap().unwrap();
            let mut lengths = Vec::new();
            for padding in 1..=MAX_PADDING {
                let padded = encode(coding, Level::Quick, &body, padding, || true).unwrap().unwrap();
                assert!(decoded(coding, &padded) == body, "{coding:?} {padding}");
                lengths.push(padded.len());
            }
            let steps: Vec<usize> = lengths.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(steps.iter().all(|step| *step == 1), "{coding:?} {steps:?}");
            assert!(lengths[0] > plain.len() && lengths[0] < plain.len() + 8, "{coding:?}");
        }
    }

    #[test]
    fn all_that_was_taken_in_can_be_read_after_a_flush() {
        for coding in Coding::ALL {
            for padding in [0, 7] {
                let mut stream = Stream::new(coding, padding).unwrap();
                let (mut sent, mut taken) = (Vec::new(), Vec::new());
                for part in [&b"first"[..], b"", b"second", &page(100_000)] {
                    stream.write(part).unwrap();
                    sent.extend(stream.flush().unwrap());
                    taken.extend_from_slice(part);
                    assert!(readable(coding, &sent, taken.len()) == taken, "{coding:?}");
                }
                sent.extend(stream.finish().unwrap());
                assert!(decoded(coding, &sent) == taken, "{coding:?}");
            }
        }
    }

    /// The first bytes of a body of which only the beginning has come.
    fn readable(coding: Coding, sent: &[u8], length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(sent).read_exact(&mut body).unwrap(),
            Coding::Brotli => brotli::Decompressor::new(sent, 4096).read_exact(&mut body).unwrap(),
            Coding::Zstd => zstd::stream::read::Decoder::new(sent).unwrap().read_exact(&mut body).unwrap(),
        }
        body
    }

    #[test]
    fn what_nobody_wants_is_given_up() {
        let looks = std::cell::Cell::new(0);
        let goes_on = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        let encoded = encode(Coding::Gzip, Level::Quick, &page(STEP * 4), 0, goes_on).unwrap();
        assert_eq!((encoded, looks.get()), (None, 3));
    }
}
