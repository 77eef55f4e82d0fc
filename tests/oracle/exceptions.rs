//! Where the two caches of the oracle differ, and the sentence of the RFC that says who is right.
//!
//! Nearly every difference is a way of writing or combining fields that the other side does not know. So an
//! exception rewrites a case into the plain words that the sentence says it means. It explains a difference
//! only if parvis answers the rewritten case as before and the other side then agrees. What is merely not
//! stored, because nothing would come of it, is an abstention.
//!
//! Sections without the number of an RFC are of RFC 9111.

use parvis::rules::admission::DiscardReason;

use super::Answer;
use super::case::{Case, Form, TARGETED, date, meant};

/// A difference that is known and right.
pub struct Exception {
    pub name: &'static str,
    /// Section and sentence.
    pub says: &'static str,
    pub is: Kind,
}

pub enum Kind {
    /// The same case in words that both sides know; the case itself where it has nothing to say in them.
    /// parvis must answer it the same, whether the other side does or not.
    Equivalent(fn(&mut Case)),
    /// Another case, which has the same answer except at its edges. It explains nothing where parvis answers
    /// it otherwise.
    Near(fn(&mut Case)),
    /// parvis stores less than it may; told by both answers.
    Abstention(fn(&Case, &Answer, &Answer) -> bool),
}

use Kind::{Abstention, Equivalent, Near};

/// In the order in which they are applied: what is spelled oddly before what is meant by it.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        name: "nothing to gain",
        says: "2: caching is an entirely OPTIONAL feature of HTTP",
        is: Abstention(|case, ours, theirs| theirs.stale_on_arrival && is_useless(case, ours.refusal)),
    },
    Exception {
        name: "a Vary that matches nothing",
        says: "4.1: A stored response with a Vary header field value containing a member \"*\" always fails \
               to match.",
        is: Abstention(|_, ours, theirs| ours.refusal == Some(DiscardReason::Vary) && !theirs.served),
    },
    Exception {
        name: "HEAD from a stored GET",
        says: "RFC 9110 9.3.1: a cache MAY use it to satisfy subsequent GET and HEAD requests",
        is: Equivalent(|case| case.later.method = "GET"),
    },
    Exception {
        name: "Pragma in a response",
        says: "5.4: the meaning of \"Pragma: no-cache\" in responses was never specified",
        is: Equivalent(|case| case.pragma = None),
    },
    Exception {
        name: "Pragma beside Cache-Control",
        says: "5.4: support for Cache-Control is now widespread. As a result, this specification deprecates \
               Pragma.",
        is: Equivalent(|case| {
            if !case.later.control.is_empty() {
                case.later.pragma = None;
            }
        }),
    },
    Exception {
        name: "CDN-Cache-Control",
        says: "RFC 9213 2.2: use its value to determine the caching policy for the response, and it MUST \
               ignore the Cache-Control and Expires header fields in that response",
        is: Equivalent(targeted),
    },
    Exception {
        name: "other separators",
        says: "RFC 9110 2.4: a recipient MAY attempt to recover a usable protocol element from an invalid \
               construct",
        is: Equivalent(|case| case.control = case.control.iter().flat_map(|text| separated(text)).collect()),
    },
    Exception {
        name: "case of directives",
        says: "5.2: Cache directives are identified by a token, to be compared case-insensitively",
        is: Equivalent(|case| each_list(case, |list| list.iter_mut().for_each(lower_name))),
    },
    Exception {
        name: "unknown directives",
        says: "5.2.3: A cache MUST ignore unrecognized cache directives.",
        is: Equivalent(|case| {
            each_list(case, |list| list.retain(|text| KNOWN.contains(&&*name(text).to_lowercase())))
        }),
    },
    Exception {
        name: "numbers without end",
        says: "1.2.2: the cache MUST consider the value to be 2147483648",
        is: Equivalent(overflow),
    },
    Exception {
        name: "malformed lifetimes",
        says: "4.2.1: Caches are encouraged to consider responses that have invalid freshness information \
               (e.g., a max-age directive with non-integer content) to be stale.",
        is: Equivalent(|case| case.control.iter_mut().for_each(stale_if_malformed)),
    },
    Exception {
        name: "malformed wishes",
        says: "5.2.1: They are advisory; caches MAY implement them, but are not required to.",
        is: Equivalent(|case| case.later.control.retain(|text| seconds(text) != Some(None))),
    },
    Exception {
        name: "qualified private and no-cache",
        says: "5.2.2.7: then only the listed header fields are limited to a single user (5.2.2.4 for \
               no-cache)",
        is: Equivalent(|case| case.control.retain(|text| !text.contains("=\"x-"))),
    },
    Exception {
        name: "repeated directives",
        says: "4.2.1: either the first occurrence should be used or the response should be considered stale \
               (parvis takes the shortest, which lies between)",
        is: Equivalent(|case| case.control = narrowest(&case.control)),
    },
    Exception {
        name: "repeated wishes",
        says: "5.2.1.2: no more than the specified number of seconds (of each that is specified)",
        is: Equivalent(|case| case.later.control = narrowest(&case.later.control)),
    },
    Exception {
        name: "must-understand",
        says: "5.2.2.3: the cache SHOULD ignore the no-store directive if it understands and implements the \
               status code's caching requirements",
        is: Equivalent(must_understand),
    },
    Exception {
        name: "any final status",
        says: "3: the response status code is final",
        is: Equivalent(|case| {
            // 302 has no lifetime of its own either, and both sides know it. What must be understood is
            // another matter.
            let as_any = !case.control.iter().any(|text| text == "must-understand");
            if as_any && matches!(case.status, 299 | 500 | 503 | 599) {
                case.status = 302;
            }
        }),
    },
    Exception {
        name: "proxy-revalidate",
        says: "5.2.2.8: This is analogous to must-revalidate, except that proxy-revalidate does not apply \
               to private caches.",
        is: Equivalent(|case| {
            if is_open(case) && remove(&mut case.control, "proxy-revalidate") {
                add(&mut case.control, "must-revalidate");
            }
        }),
    },
    Exception {
        name: "never stale by s-maxage and no-cache",
        says: "4.2.4: prohibited by an explicit in-protocol directive (e.g., by a no-cache response \
               directive, a must-revalidate response directive, or an applicable s-maxage or \
               proxy-revalidate response directive",
        is: Equivalent(|case| {
            if is_open(case) && case.control.iter().any(|text| matches!(name(text), "s-maxage" | "no-cache"))
            {
                add(&mut case.control, "must-revalidate");
            }
        }),
    },
    Exception {
        name: "stale-while-revalidate",
        says: "RFC 5861 3: caches MAY serve the response in which it appears after it becomes stale, up to \
               the indicated number of seconds",
        is: Near(stale_while_revalidate),
    },
    Exception {
        name: "max-stale to the last second",
        says: "5.2.1.2: exceeded its freshness lifetime by no more than the specified number of seconds",
        is: Near(|case| set_max_stale(case, |seconds| seconds.saturating_add(1))),
    },
    Exception {
        name: "three date formats",
        says: "RFC 9110 5.6.7: A recipient that parses a timestamp value in an HTTP field MUST accept all \
               three HTTP-date formats.",
        is: Equivalent(|case| written_anew(case, &[Form::Rfc850, Form::Asctime])),
    },
    Exception {
        name: "other zones than GMT",
        says: "4.2: A cache recipient SHOULD consider a date with a zone abbreviation other than \"GMT\" to \
               be invalid for calculating expiration.",
        is: Equivalent(|case| {
            case.expires
                .iter_mut()
                .filter(|text| meant(text).is_none())
                .for_each(|text| *text = "0".to_owned());
        }),
    },
    Exception {
        name: "repeated Expires",
        says: "4.2.1: When there is more than one value present for a given directive (e.g., two Expires \
               header field lines [...]), either the first occurrence should be used or the response should \
               be considered stale.",
        is: Equivalent(|case| {
            if case.expires.len() > 1 {
                case.expires = vec!["0".to_owned()];
            }
        }),
    },
    Exception {
        name: "lists in Age",
        says: "5.1: a cache encountering a message with a list-based Age field value SHOULD use the first \
               member of the field value, discarding subsequent ones",
        is: Equivalent(|case| {
            case.age = case.age.take().and_then(|list| list.split(',').next().map(str::to_owned))
        }),
    },
    Exception {
        name: "malformed Age",
        says: "5.1: If the field value (after discarding additional members, as per above) is invalid \
               (e.g., it contains something other than a non-negative integer), a cache SHOULD ignore the \
               field.",
        is: Equivalent(|case| {
            case.age = case.age.take().filter(|age| age.bytes().all(|byte| byte.is_ascii_digit()))
        }),
    },
    Exception {
        name: "age by Date",
        says: "4.2.3: apparent_age = max(0, response_time - date_value); corrected_initial_age = \
               max(apparent_age, corrected_age_value);",
        is: Equivalent(apparent_age),
    },
    Exception {
        name: "lines and white space of selecting fields",
        says: "4.1: adding or removing whitespace, where allowed in the header field's syntax; combining \
               multiple header field lines with the same field name",
        is: Equivalent(|case| each_selecting(case, combine)),
    },
    Exception {
        name: "case of languages",
        says: "4.1: case-normalization, where values are defined to be case-insensitive (RFC 9110 12.5.4: \
               languages)",
        is: Equivalent(|case| {
            each_selecting(case, |lines| {
                let languages = lines.iter_mut().filter(|(name, _)| *name == "accept-language");
                languages.for_each(|(_, value)| *value = value.to_lowercase().replace(' ', ""));
            });
        }),
    },
    Exception {
        name: "Accept-Encoding",
        says: "RFC 9110 12.5.3: If the representation has no content coding, then it is acceptable by \
               default (and parvis asks the origin for no other)",
        is: Equivalent(|case| {
            each_selecting(case, |lines| lines.retain(|(name, _)| *name != "accept-encoding"))
        }),
    },
];

const KNOWN: &[&str] = &[
    "max-age",
    "max-stale",
    "min-fresh",
    "must-revalidate",
    "must-understand",
    "no-cache",
    "no-store",
    "private",
    "proxy-revalidate",
    "public",
    "s-maxage",
    "stale-while-revalidate",
];

/// Whether nobody gave a lifetime, or there is nothing to validate it with once it has none left.
fn is_useless(case: &Case, refusal: Option<DiscardReason>) -> bool {
    let gives_lifetime = |text: &String| matches!(name(text), "max-age" | "s-maxage");
    match refusal {
        Some(DiscardReason::NoTtl) => case.expires.is_empty() && !case.control.iter().any(gives_lifetime),
        Some(DiscardReason::Expired) => !case.etag && case.modified.is_none(),
        _ => false,
    }
}

fn name(directive: &str) -> &str {
    directive.split('=').next().unwrap().trim()
}

/// The seconds of a directive that has some: `None` for another one, `Some(None)` where they are malformed.
fn seconds(directive: &str) -> Option<Option<u64>> {
    let takes_seconds = ["max-age", "s-maxage", "min-fresh", "max-stale", "stale-while-revalidate"];
    if !takes_seconds.contains(&name(directive)) {
        return None;
    }
    let Some((name, value)) = directive.split_once('=') else {
        return Some((directive == "max-stale").then_some(u64::MAX));
    };
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(' ');
    Some(digits.then(|| value.parse().unwrap_or(u64::MAX)))
}

fn each_list(case: &mut Case, change: impl Fn(&mut Vec<String>)) {
    [&mut case.control, &mut case.first.control, &mut case.later.control].into_iter().for_each(change);
}

fn each_selecting(case: &mut Case, change: impl Fn(&mut Vec<(&'static str, String)>)) {
    [&mut case.first.selecting, &mut case.later.selecting].into_iter().for_each(change);
}

/// Whether `must-revalidate` would not be the permission that a response to a request with `Authorization`
/// needs.
fn is_open(case: &Case) -> bool {
    let permits = |text: &String| matches!(name(text), "public" | "must-revalidate" | "s-maxage");
    !case.first.authorized || case.control.iter().any(permits)
}

fn add(control: &mut Vec<String>, directive: &str) {
    if !control.iter().any(|text| text == directive) {
        control.push(directive.to_owned());
    }
}

/// Whether there was one to remove.
fn remove(control: &mut Vec<String>, directive: &str) -> bool {
    let before = control.len();
    control.retain(|text| text != directive);
    control.len() < before
}

fn targeted(case: &mut Case) {
    let Some(field) = case.targeted.take() else { return };
    if let Some((_, says)) = TARGETED.iter().find(|(text, _)| *text == field) {
        case.control = says.iter().map(|text| (*text).to_owned()).collect();
        case.expires.clear();
    }
}

fn separated(directive: &str) -> Vec<String> {
    if directive.contains('"') || directive.contains(" = ") {
        return vec![directive.to_owned()];
    }
    directive.split([';', ' ']).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

fn lower_name(directive: &mut String) {
    let (name, rest) = directive.split_at(directive.find('=').unwrap_or(directive.len()));
    *directive = name.to_lowercase() + rest;
}

fn overflow(case: &mut Case) {
    const LARGEST: u64 = 1 << 31;
    each_list(case, |list| {
        let endless =
            |text: &&mut String| text.contains('=') && matches!(seconds(text), Some(Some(LARGEST..)));
        list.iter_mut().filter(endless).for_each(|text| *text = format!("{}={LARGEST}", name(text)));
    });
    let is_endless = |age: &String| age.len() > 10 && age.bytes().all(|byte| byte.is_ascii_digit());
    if case.age.as_ref().is_some_and(is_endless) {
        case.age = Some(LARGEST.to_string());
    }
}

fn stale_if_malformed(directive: &mut String) {
    if seconds(directive) == Some(None) {
        *directive = format!("{}=0", name(directive));
    }
}

/// One of each name: the one that asks for more.
fn narrowest(control: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for text in control {
        match kept.iter_mut().find(|before| name(before) == name(text)) {
            None => kept.push(text.clone()),
            Some(before) => match (seconds(before).flatten(), seconds(text).flatten()) {
                (Some(had), Some(has)) if name(text) == "min-fresh" && has > had => before.clone_from(text),
                (Some(had), Some(has)) if name(text) != "min-fresh" && has < had => before.clone_from(text),
                _ => {}
            },
        }
    }
    kept
}

fn must_understand(case: &mut Case) {
    let understood = !matches!(case.status, 206 | 299 | 599);
    if understood && remove(&mut case.control, "must-understand") {
        remove(&mut case.control, "no-store");
    }
}

/// Changes the seconds of the later request's `max-stale`.
fn set_max_stale(case: &mut Case, change: impl Fn(u64) -> u64) {
    for text in case.later.control.iter_mut().filter(|text| name(text) == "max-stale" && text.contains('=')) {
        if let Some(allowed) = seconds(text).flatten() {
            *text = format!("max-stale={}", change(allowed));
        }
    }
}

/// What the origin allows for so long, the client may allow as well. The directive stays: its window is a
/// reason to store.
fn stale_while_revalidate(case: &mut Case) {
    let window = case.control.iter().find(|text| name(text) == "stale-while-revalidate");
    let Some(window) = window.and_then(|text| seconds(text).flatten()) else { return };
    if !case.later.control.iter().any(|text| name(text) == "max-stale") {
        case.later.control.push("max-stale=0".to_owned());
    }
    set_max_stale(case, |allowed| allowed.max(window));
}

fn written_anew(case: &mut Case, forms: &[Form]) {
    for text in case.expires.iter_mut().chain(&mut case.date).chain(&mut case.modified) {
        let Some(offset) = meant(text) else { continue };
        if forms.iter().any(|form| date(offset, *form) == *text) {
            *text = date(offset, Form::Imf);
        }
    }
}

fn apparent_age(case: &mut Case) {
    let offset = case.date.as_deref().and_then(meant).unwrap_or_default();
    let apparent = u64::try_from(-offset).unwrap_or_default();
    let told = case.age.as_deref().map_or(Ok(0), str::parse).unwrap_or_default();
    if apparent > told {
        case.age = Some(apparent.to_string());
    }
}

fn combine(lines: &mut Vec<(&'static str, String)>) {
    let mut combined: Vec<(&'static str, String)> = Vec::new();
    for (name, value) in lines.drain(..) {
        let value = value.split(',').map(str::trim).collect::<Vec<_>>().join(", ");
        match combined.iter_mut().find(|(before, _)| *before == name) {
            Some((_, list)) => *list += &format!(", {value}"),
            None => combined.push((name, value)),
        }
    }
    *lines = combined;
}
