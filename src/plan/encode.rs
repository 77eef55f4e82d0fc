//! How a route encodes: what it says, else what the top says, else the defaults.

use super::compile::Mistakes;
use crate::config::locate::Path;
use crate::config::schema::{Encode, Format, MitigateBreach};
use crate::rules::encodable::EncodePolicy;
use crate::rules::encoding::{Coding, Formats};
use crate::rules::policy::IdentityPolicy;

/// Text of this length fits in a packet as it is.
const DEFAULT_MIN_LENGTH: u64 = 800;
const DEFAULT_MAX_LENGTH: u64 = 4 << 20;
/// Beyond it the strongest level takes minutes of a processor.
const MAX_MAX_LENGTH: u64 = 64 << 20;

/// Compiles what a route and the top say. `identity` tells whether its entries are for one person each.
pub(super) fn compile(
    written: &Encode,
    top: &Encode,
    identity: &IdentityPolicy,
    path: &Path,
    mistakes: &mut Mistakes,
) -> EncodePolicy {
    check_section(written, path, mistakes);
    let formats = written.formats.as_ref().or(top.formats.as_ref());
    let coding = |format: &Format| match format {
        Format::Zstd => Coding::Zstd,
        Format::Br => Coding::Brotli,
        Format::Gzip => Coding::Gzip,
    };
    let (min_length, max_length) = lengths(written, top);
    if max_length < min_length && (written.min_length.is_some() || written.max_length.is_some()) {
        nothing_fits(path, mistakes);
    }
    let pads = written.mitigate_breach.or(top.mitigate_breach) != Some(MitigateBreach::Off);
    let is_personal =
        !identity.cookies.is_empty() || !identity.headers.is_empty() || identity.jwt_claim.is_some();
    EncodePolicy {
        formats: match formats {
            // By the bytes of the strongest forms.
            None => Formats::new([Coding::Brotli, Coding::Zstd, Coding::Gzip]),
            Some(formats) => Formats::new(formats.iter().map(coding)),
        },
        min_length,
        max_length,
        pads_passed: pads,
        pads_stored: pads && is_personal,
    }
}

/// Tells what is wrong at the top.
pub(super) fn check(top: &Encode, path: &Path, mistakes: &mut Mistakes) {
    check_section(top, path, mistakes);
    let (min_length, max_length) = lengths(top, &Encode::default());
    if max_length < min_length {
        nothing_fits(path, mistakes);
    }
}

/// The shortest and the longest body worth it.
fn lengths(written: &Encode, top: &Encode) -> (u64, u64) {
    let min_length = written.min_length.or(top.min_length).map_or(DEFAULT_MIN_LENGTH, |size| size.0);
    let max_length = written.max_length.or(top.max_length).map(|size| size.0);
    (min_length, max_length.unwrap_or(DEFAULT_MAX_LENGTH.max(min_length)))
}

fn nothing_fits(path: &Path, mistakes: &mut Mistakes) {
    mistakes.error(path, "`max_length` is below `min_length`", "to encode nothing write `formats: []`");
}

/// Tells what is wrong with one section, and what it risks.
fn check_section(written: &Encode, path: &Path, mistakes: &mut Mistakes) {
    let formats = written.formats.as_deref().unwrap_or_default();
    for (index, format) in formats.iter().enumerate() {
        if formats[..index].contains(format) {
            mistakes.error(&path.key("formats").item(index), "listed twice", "remove one");
        }
    }
    for (key, length) in [("min_length", written.min_length), ("max_length", written.max_length)] {
        if length.is_some_and(|length| length.0 > MAX_MAX_LENGTH) {
            mistakes.error(
                &path.key(key),
                format!("`{key}` is more than 64 MiB"),
                "larger bodies are sent as they are; write `4MiB`",
            );
        }
    }
    if written.mitigate_breach == Some(MitigateBreach::Off) {
        mistakes.warn(
            &path.key("mitigate_breach"),
            "the length of a page that holds a secret and repeats what its URL says tells the secret to who can measure it",
            "right for pages without secrets, such as files; keep `pad` where forms or sessions are",
        );
    }
}
