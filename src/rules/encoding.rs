//! Whether a client can read a response in the coding it is stored in.
//!
//! parvis asks for the identity form. An origin that encodes all the same is stored as it is, for those who say that
//! they can read it.

use super::head::Fields;

/// Codings that clients and servers agree on by `Accept-Encoding`. Any other is between the origin and clients that
/// know it, whatever they accept.
const NEGOTIATED: &[&str] = &["gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd"];

/// Whether the client accepts every coding of the response (RFC 9110 section 12.5.3). One that says nothing would
/// accept any by the letter; in practice it reads none.
pub fn is_readable(request: Fields<'_>, response: Fields<'_>) -> bool {
    response.list("content-encoding").all(|coding| {
        let negotiated = NEGOTIATED.iter().any(|known| known.eq_ignore_ascii_case(coding));
        !negotiated || accepts(request, coding)
    })
}

fn accepts(request: Fields<'_>, coding: &str) -> bool {
    let plain = |name: &str| name.trim().trim_start_matches("x-").to_ascii_lowercase();
    let wanted = plain(coding);
    let (mut named, mut any) = (None, false);
    for member in request.list("accept-encoding") {
        let (name, weight) = member.split_once(';').unwrap_or((member, ""));
        let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start().trim_start_matches('=').trim();
        let accepted = weight.is_empty() || weight.parse::<f32>().is_ok_and(|weight| weight > 0.0);
        match plain(name) {
            name if name == wanted => named = Some(accepted),
            name if name == "*" => any = accepted,
            _ => {}
        }
    }
    named.unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_accepts_a_coding_can_read_it() {
        for (accepted, coding, readable) in [
            (Some("gzip, br"), "gzip", true),
            (Some("gzip, br"), "BR", true),
            (Some("GZIP;q=0.5"), "x-gzip", true),
            (Some("*"), "zstd", true),
            (Some("*;q=0, gzip"), "gzip", true),
            (Some("*;q=0, gzip"), "br", false),
            (Some("gzip;q=0"), "gzip", false),
            (Some("gzip; q=0.000, *"), "gzip", false),
            (Some("gzip;q=x"), "gzip", false),
            (Some("identity"), "gzip", false),
            (Some("gzip"), "gzip, br", false),
            (Some(""), "gzip", false),
            (None, "gzip", false),
            (None, "identity", true),
            (None, "aes128gcm", true),
            (None, "", true),
        ] {
            let request = accepted.map(|value| ("accept-encoding", value.as_bytes()));
            let response = [("content-encoding", coding.as_bytes())];
            let found = is_readable(Fields(request.as_slice()), Fields(&response));
            assert_eq!(found, readable, "{accepted:?} {coding}");
        }
        assert!(is_readable(Fields(&[]), Fields(&[])), "not encoded");
    }
}
