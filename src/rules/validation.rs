//! What a 304 from the origin changes in the stored response (RFC 9111 sections 3.2 and 4.3.4).

use super::head::{Field, Fields};

/// What became of a validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation<'a> {
    /// The stored response still holds; these are its fields from now on.
    Holds(Vec<Field<'a>>),
    /// The 304 speaks of another representation than the stored one.
    OtherRepresentation,
}

/// Not updated: they describe the stored body, or the connection the 304 came on.
const KEPT: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Applies the fields of a 304 to the stored ones.
pub fn apply<'a>(stored: Fields<'a>, not_modified: Fields<'a>) -> Validation<'a> {
    if let (Some(ours), Some(theirs)) = (stored.text("etag"), not_modified.text("etag"))
        && ours.trim_start_matches("W/") != theirs.trim_start_matches("W/")
    {
        return Validation::OtherRepresentation;
    }
    let nominated: Vec<&str> = not_modified.list("connection").collect();
    let updates = |name: &str| {
        !KEPT.iter().chain(&nominated).any(|kept| kept.eq_ignore_ascii_case(name)) && not_modified.has(name)
    };
    let mut merged: Vec<Field<'a>> = stored.0.iter().copied().filter(|(name, _)| !updates(name)).collect();
    merged.extend(not_modified.0.iter().copied().filter(|(name, _)| updates(name)));
    Validation::Holds(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &[Field<'static>] = &[
        ("Content-Type", b"text/html"),
        ("Content-Length", b"5"),
        ("ETag", b"\"a\""),
        ("Cache-Control", b"max-age=1"),
        ("X-Twice", b"1"),
        ("X-Twice", b"2"),
    ];

    fn merged(update: &'static [Field<'static>]) -> Vec<Field<'static>> {
        match apply(Fields(STORED), Fields(update)) {
            Validation::Holds(fields) => fields,
            Validation::OtherRepresentation => panic!("same representation"),
        }
    }

    #[test]
    fn fields_of_the_304_replace_all_lines_of_their_name() {
        let fields = merged(&[("cache-control", b"max-age=9"), ("X-Twice", b"3"), ("date", b"now")]);
        let fields = Fields(&fields);
        assert_eq!(fields.all("cache-control").collect::<Vec<_>>(), [b"max-age=9"]);
        assert_eq!(fields.all("x-twice").collect::<Vec<_>>(), [b"3"]);
        assert_eq!(fields.text("content-type"), Some("text/html"));
        assert!(fields.has("date"));
    }

    #[test]
    fn what_describes_the_body_or_the_connection_stays() {
        let fields = merged(&[
            ("content-length", b"0"),
            ("content-type", b"text/plain"),
            ("connection", b"close, X-Hop"),
            ("x-hop", b"1"),
        ]);
        assert_eq!(fields, STORED);
    }

    #[test]
    fn another_entity_tag_is_another_representation() {
        assert_eq!(apply(Fields(STORED), Fields(&[("etag", b"\"b\"")])), Validation::OtherRepresentation);
        assert!(matches!(apply(Fields(STORED), Fields(&[("etag", b"W/\"a\"")])), Validation::Holds(_)));
    }
}
