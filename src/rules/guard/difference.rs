//! In what two responses differ, apart from what differs by the moment.

use crate::rules::head::{Fields, ResponseHead};

/// In what two responses to the same key differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The status.
    Status,
    /// A field, by its name in lower case.
    Field(String),
    /// The body.
    Body,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status => f.write_str("status"),
            Self::Field(name) => write!(f, "field {name}"),
            Self::Body => f.write_str("body"),
        }
    }
}

/// Fields that differ by the moment or the exchange, and not by the visitor.
const OF_THE_MOMENT: &[&str] = &[
    "age",
    "cf-ray",
    "date",
    "etag",
    "expires",
    "last-modified",
    "nel",
    "report-to",
    "server-timing",
    "set-cookie",
    "traceparent",
    "tracestate",
    "via",
    "x-amz-cf-id",
    "x-amz-request-id",
    "x-amzn-requestid",
    "x-amzn-trace-id",
    "x-correlation-id",
    "x-processing-time",
    "x-request-id",
    "x-request-start",
    "x-response-time",
    "x-runtime",
    "x-served-by",
    "x-timer",
    "x-trace-id",
    "x-varnish",
];

/// The same, by the beginning of their names.
const FAMILIES_OF_THE_MOMENT: &[&str] = &["ratelimit", "x-b3-", "x-cache", "x-debug-", "x-ratelimit-"];

/// The first difference between two responses, apart from what differs by the moment.
pub fn difference(
    (one, one_body): (ResponseHead<'_>, &[u8]),
    (other, other_body): (ResponseHead<'_>, &[u8]),
) -> Option<Difference> {
    if one.status != other.status {
        return Some(Difference::Status);
    }
    let (ones, others) = (lasting(one.fields), lasting(other.fields));
    let differing = ones
        .iter()
        .filter(|field| !others.contains(field))
        .chain(others.iter().filter(|field| !ones.contains(field)));
    if let Some((name, _)) = differing.min() {
        return Some(Difference::Field(name.clone()));
    }
    (one_body != other_body).then_some(Difference::Body)
}

/// The names, in lower case, of the fields of the moment in which two responses differ: how long one took, or who asked.
/// Those that every response has anew are left out.
pub fn of_the_moment(one: Fields<'_>, other: Fields<'_>) -> Vec<String> {
    const ALWAYS_NEW: &[&str] = &["age", "date", "expires"];
    let names = one.lines().iter().chain(other.lines()).map(|(name, _)| name.to_ascii_lowercase());
    let mut differing: Vec<String> = names
        .filter(|name| is_momentary(name) && !ALWAYS_NEW.contains(&name.as_str()))
        .filter(|name| !one.all(name).eq(other.all(name)))
        .collect();
    differing.dedup();
    differing
}

fn is_momentary(name: &str) -> bool {
    OF_THE_MOMENT.contains(&name) || FAMILIES_OF_THE_MOMENT.iter().any(|family| name.starts_with(family))
}

fn lasting(fields: Fields<'_>) -> Vec<(String, &[u8])> {
    let named = fields.lines().iter().map(|(name, value)| (name.to_ascii_lowercase(), value.trim_ascii()));
    named.filter(|(name, _)| !is_momentary(name)).collect()
}
