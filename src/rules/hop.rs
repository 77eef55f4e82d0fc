//! Which fields belong to one connection and not to the message (RFC 9110 section 7.6.1).

use smallvec::SmallVec;

use super::head::{FieldLines, Fields, KnownNames};
use super::text::same;

/// Fields that are about the connection even when `Connection` forgets to name them.
const HOP_BY_HOP: KnownNames = KnownNames::new(&[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
]);

/// Of one exchange: parvis writes its own.
const PER_EXCHANGE: KnownNames =
    KnownNames::new(&["age", "content-length", "x-request-id", "x-processing-time"]);

/// Which fields of a head are for the next hop only.
pub struct HopByHop<'a>(SmallVec<[&'a str; 4]>);

impl<'a> HopByHop<'a> {
    /// Those that every head may have, and those that the `Connection` of this one nominates.
    pub fn of(head: Fields<'a>) -> Self {
        Self(nominated(head.all("connection")))
    }

    /// Whether a field of this name is among them.
    pub fn has(&self, name: &str) -> bool {
        HOP_BY_HOP.has(name) || self.0.iter().any(|nominated| nominated.eq_ignore_ascii_case(name))
    }
}

/// Without these a message cannot be read, whatever `Connection` says of them.
const OF_THE_FRAMING: &[&str] = &["connection", "content-length", "host", "transfer-encoding", "upgrade"];

/// The fields of a request that reach the next hop: those that `Connection` nominates are not there, for the key as
/// little as for the origin. Otherwise a client could have a page stored under a value that the origin never saw.
pub fn end_to_end(lines: FieldLines<'_>) -> FieldLines<'_> {
    let nominated = nominated(lines.all("connection"));
    if nominated.is_empty() {
        return lines;
    }
    let is_nominated = |name: &str| {
        nominated.iter().any(|nominated| nominated.eq_ignore_ascii_case(name))
            && !OF_THE_FRAMING.iter().any(|kept| kept.eq_ignore_ascii_case(name))
    };
    lines.filtered(|(name, _)| !is_nominated(name))
}

/// The names in these lines of `Connection`.
fn nominated<'a>(lines: impl Iterator<Item = &'a [u8]>) -> SmallVec<[&'a str; 4]> {
    // Nearly all lines are but one member.
    let lines = lines.filter(|line| !is_usual(line));
    let members = lines.filter_map(|line| std::str::from_utf8(line).ok()).flat_map(|line| line.split(','));
    members.map(str::trim).filter(|name| !is_usual(name.as_bytes())).collect()
}

/// Whether a member of `Connection` is about the connection, and names no field that takes part.
fn is_usual(member: &[u8]) -> bool {
    [&b"keep-alive"[..], b"close", b"upgrade"].iter().any(|usual| same(usual, member))
}

/// Whether a field of a response is stored with it (RFC 9111 section 3.1).
pub fn is_stored(name: &str, hop_by_hop: &HopByHop<'_>) -> bool {
    !hop_by_hop.has(name) && !PER_EXCHANGE.has(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_nominates_is_not_there_but_for_the_framing() {
        let fields = [
            ("Connection", &b"close, X-Tenant, content-length"[..]),
            ("x-tenant", b"acme"),
            ("Content-Length", b"1"),
            ("cookie", b"a=b"),
        ];
        let kept = end_to_end(Fields::new(&fields).into());
        let names: Vec<&str> = kept.fields().lines().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["Connection", "Content-Length", "cookie"]);
    }

    #[test]
    fn what_belongs_to_the_connection_is_not_stored() {
        let fields = [("Connection", &b"close, X-Mine"[..]), ("connection", b"x-other")];
        let hop_by_hop = HopByHop::of(Fields::new(&fields));
        for (name, stored) in [
            ("Content-Type", true),
            ("ETag", true),
            ("CDN-Cache-Control", true),
            ("Warning", true),
            ("Transfer-Encoding", false),
            ("KEEP-ALIVE", false),
            ("x-mine", false),
            ("X-Other", false),
            ("Age", false),
            ("Content-Length", false),
        ] {
            assert_eq!(is_stored(name, &hop_by_hop), stored, "{name}");
        }
    }
}
