//! The personalisation guard: a response made for one visitor is shared only once others got the same bytes.
//!
//! A route may let something reach the origin that is not in the key: a cookie that the application needs, a field of
//! `Vary` that is to be ignored, a token of which only a claim is keyed; or it may force a lifetime on pages that look
//! at the address or the browser. The operator says that none of it changes the page. The guard does not believe it.
//! A stored response knows with which of these [`Inputs`] it came ([`Witness`]), and is given to those who have the
//! same. Whoever differs in an input that is not proven harmless gets an answer of the origin's own, and the two are
//! compared: equal bytes prove the inputs in which they differ, and other bytes mark the key as personalised.
//!
//! A proof belongs to the bytes: what replaces them has to be proven anew. Two visitors may have the same empty
//! basket today.

use std::net::IpAddr;

use super::cookies::{self, Role};
use super::head::{Fields, RequestHead, ResponseHead};
use super::identity::{Stand, stand};
use super::outgoing::Outgoing;
use super::policy::{CachePolicy, Guard, OriginControl};
use super::target::parameter_name;

/// One thing that reaches the origin and is not in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Input {
    name: Box<str>,
    value: Stand,
    kind: Kind,
}

/// How an input is proven harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With two values: then every value is.
    Ordinary,
    /// With each value by itself: anyone can write a token with another's claim.
    Credential,
    /// Like an ordinary one, and it counts only where a lifetime is forced.
    Ambient,
}

/// The inputs of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(Vec<Input>);

impl Inputs {
    /// The most inputs that are told apart; what exceeds them counts as one.
    const MAX: usize = 32;

    /// What of a request of `client` reaches the origin beside the key.
    pub fn of(request: &RequestHead<'_>, client: IpAddr, policy: &CachePolicy) -> Self {
        let mut inputs = Self::default();
        if policy.guard == Guard::Off {
            return inputs;
        }
        let fields = request.fields;
        if !policy.forward_cookies.is_empty() {
            for (name, value) in cookies::with_role(fields, policy, Role::Forwarded) {
                inputs.add(format!("cookie {name}"), value.as_bytes(), Kind::Ordinary);
            }
        }
        for parameter in request.target.unkeyed_parameters(&policy.query) {
            inputs.add(
                format!("parameter {}", parameter_name(parameter)),
                parameter.as_bytes(),
                Kind::Ordinary,
            );
        }
        if !policy.ignore_vary.is_empty() {
            let sent = Outgoing::of(request, policy);
            for (name, value) in sent.lend() {
                let name = name.to_ascii_lowercase();
                // Of the cookies each is an input by itself.
                if name != "cookie" && policy.ignore_vary.contains(&name) {
                    inputs.add(format!("field {name}"), value, Kind::Ordinary);
                }
            }
        }
        if policy.identity.jwt_claim.is_some()
            && let Some(token) = fields.first("authorization")
        {
            inputs.add("field authorization".to_owned(), token, Kind::Credential);
        }
        if policy.origin_cache_control == OriginControl::Override {
            inputs.add("address".to_owned(), client.to_string().as_bytes(), Kind::Ambient);
            let agent = fields.first("user-agent").unwrap_or_default();
            inputs.add("user-agent".to_owned(), agent, Kind::Ambient);
        }
        inputs
    }

    fn add(&mut self, name: String, value: &[u8], kind: Kind) {
        let name = if self.0.len() < Self::MAX { name.into_boxed_str() } else { "others".into() };
        match self.0.iter_mut().find(|input| input.name == name) {
            // All values of one name together.
            Some(input) => input.value = stand([&input.value[..], value]),
            None => self.0.push(Input { name, value: stand([value]), kind }),
        }
    }

    /// What stands for the credential among them: each is fetched for by itself, since no other can be proven by it.
    pub fn credential(&self) -> Option<Stand> {
        self.0.iter().find(|input| input.kind == Kind::Credential).map(|input| input.value)
    }

    /// Their names, for a person.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|input| &*input.name)
    }

    fn get(&self, name: &str) -> Option<&Input> {
        self.0.iter().find(|input| &*input.name == name)
    }
}

/// Whether a request with `inputs` may have a response with this witness. One without a witness is for everyone, but on
/// a route that leaves something out it comes from before a reload: nobody knows of what request.
pub fn may_have(inputs: &Inputs, witness: Option<&Witness>, policy: &CachePolicy) -> bool {
    match witness {
        Some(witness) => witness.covers(inputs),
        None => policy.guard == Guard::Off || !leaves_out(policy),
    }
}

/// Whether a route lets anything reach the origin that its key does not hold.
fn leaves_out(policy: &CachePolicy) -> bool {
    !policy.forward_cookies.is_empty()
        || !policy.ignore_vary.is_empty()
        || policy.query.forward_excluded
        || policy.identity.jwt_claim.is_some()
}

/// With which inputs a stored response came, and which of them are proven to change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Whether ambient inputs count.
    is_forced: bool,
    /// Of a credential there may be several values.
    seen: Vec<Input>,
    proven: Vec<Box<str>>,
}

impl Witness {
    /// The most values of a credential, and the most proofs, that one response remembers.
    const MAX: usize = 64;

    /// The witness of a response that came of a request with `inputs`; `None` where the guard has nothing to watch.
    /// `is_forced` tells that the route gave the response a lifetime which the origin had not.
    pub fn of(inputs: &Inputs, is_forced: bool, policy: &CachePolicy) -> Option<Self> {
        if policy.guard == Guard::Off || !(is_forced || leaves_out(policy)) {
            return None;
        }
        let counts = |input: &&Input| is_forced || input.kind != Kind::Ambient;
        let seen = inputs.0.iter().filter(counts).cloned().collect();
        Some(Self { is_forced, seen, proven: Vec::new() })
    }

    /// Whether the response may be given to a request with `inputs`.
    pub fn covers(&self, inputs: &Inputs) -> bool {
        self.unproven(inputs).next().is_none()
    }

    /// The witness once a request with `inputs` got the same bytes.
    pub fn joined_by(&self, inputs: &Inputs) -> Self {
        let mut joined = self.clone();
        for name in self.unproven(inputs) {
            match inputs.get(name) {
                Some(input) if input.kind == Kind::Credential => {
                    joined.seen.push(input.clone());
                    let held = joined.seen.iter().filter(|seen| seen.name == input.name).count();
                    if held > Self::MAX
                        && let Some(oldest) = joined.seen.iter().position(|seen| seen.name == input.name)
                    {
                        joined.seen.remove(oldest);
                    }
                }
                _ if joined.proven.len() < Self::MAX => joined.proven.push(name.into()),
                _ => {}
            }
        }
        joined
    }

    /// The inputs in which a request differs from what the response came with, and that are not proven.
    fn unproven<'a>(&'a self, inputs: &'a Inputs) -> impl Iterator<Item = &'a str> {
        let counted = inputs.0.iter().filter(|input| self.is_forced || input.kind != Kind::Ambient);
        let unknown = counted.filter(|input| !self.seen.contains(input)).map(|input| &*input.name);
        let missing = self.seen.iter().map(|seen| &*seen.name).filter(|name| inputs.get(name).is_none());
        unknown.chain(missing).filter(|name| !self.proven.iter().any(|proven| &**proven == *name))
    }

    /// Bytes it occupies.
    pub fn len(&self) -> usize {
        let names = self.seen.iter().map(|seen| &seen.name).chain(&self.proven);
        names.map(|name| name.len() + size_of::<Input>()).sum()
    }

    /// Whether it watches nothing.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.proven.is_empty()
    }
}

/// What a new response says about the one that is stored under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It has the same bytes: this is what is proven now.
    Same(Witness),
    /// It is another, for a visitor who might have had the stored one: the page has changed.
    Changed,
    /// It is another, and only a credential tells the two requests apart: it is not one of those that the stored
    /// response is for. No reason to mark the key, or whoever forges a token could.
    OtherCredential,
    /// It is another, for another visitor.
    Personalised(Difference),
}

/// Compares a stored response, which has a witness, with a new one that came of a request with `inputs`.
pub fn compare(
    (witness, stored, stored_body): (&Witness, ResponseHead<'_>, &[u8]),
    new: (ResponseHead<'_>, &[u8]),
    inputs: &Inputs,
) -> Comparison {
    let Some(difference) = difference((stored, stored_body), new) else {
        return Comparison::Same(witness.joined_by(inputs));
    };
    let is_credential = |name: &str| inputs.get(name).is_some_and(|input| input.kind == Kind::Credential);
    if witness.covers(inputs) {
        Comparison::Changed
    } else if witness.unproven(inputs).all(is_credential) {
        Comparison::OtherCredential
    } else {
        Comparison::Personalised(difference)
    }
}

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
    "date",
    "etag",
    "expires",
    "last-modified",
    "server-timing",
    "set-cookie",
    "traceparent",
    "via",
    "x-processing-time",
    "x-request-id",
    "x-runtime",
];

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

fn lasting(fields: Fields<'_>) -> Vec<(String, &[u8])> {
    let named = fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.trim_ascii()));
    named.filter(|(name, _)| !OF_THE_MOMENT.contains(&name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::{IdentityPolicy, Patterns};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;
    use proptest::prelude::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn forwarding() -> CachePolicy {
        CachePolicy { forward_cookies: Patterns::new(&["*"]).unwrap(), ..testing::policy() }
    }

    fn inputs_from(address: &str, policy: &CachePolicy, path: &str, fields: &[(&str, &str)]) -> Inputs {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let target = Target::new(Scheme::Http, "shop", path);
        let request =
            RequestHead { method: "GET", target, fields: Fields(&fields), has_body: false, believed: &[] };
        Inputs::of(&request, address.parse().unwrap(), policy)
    }

    fn with_cookies(cookies: &str) -> Inputs {
        inputs_from(&HOME.to_string(), &forwarding(), "/", &[("Cookie", cookies)])
    }

    #[test]
    fn a_route_that_leaves_nothing_out_is_not_watched() {
        let inputs = inputs_from("192.0.2.1", &testing::policy(), "/?utm_source=x", &[("cookie", "_ga=1")]);
        assert_eq!(Witness::of(&inputs, false, &testing::policy()), None);
        let off = CachePolicy { guard: Guard::Off, ..forwarding() };
        assert_eq!(Witness::of(&with_cookies("a=1"), true, &off), None);
        for (policy, expected) in [(&testing::policy(), true), (&off, true), (&forwarding(), false)] {
            assert_eq!(may_have(&inputs, None, policy), expected, "stored before a reload");
        }
    }

    #[test]
    fn a_first_copy_is_for_those_with_the_same_inputs_until_others_got_the_same() {
        let first = with_cookies("theme=dark; plan=a");
        let witness = Witness::of(&first, false, &forwarding()).unwrap();
        assert!(witness.covers(&first));
        let strangers =
            ["theme=light; plan=a", "theme=light; plan=b", "theme=dark", "theme=dark; plan=a; x=1", ""];
        for cookies in strangers {
            assert!(!witness.covers(&with_cookies(cookies)), "{cookies}");
        }
        // Proven is what they differed in, and nothing else.
        let by_theme = witness.joined_by(&with_cookies("theme=light; plan=a"));
        assert!(by_theme.covers(&with_cookies("theme=blue; plan=a")));
        assert!(!by_theme.covers(&with_cookies("theme=light; plan=b")));
        let by_both = by_theme.joined_by(&with_cookies("plan=b"));
        for cookies in ["theme=blue; plan=c", "plan=z", ""] {
            assert!(by_both.covers(&with_cookies(cookies)), "{cookies}");
        }
        assert!(!by_both.covers(&with_cookies("x=1")), "never seen");
    }

    #[test]
    fn a_credential_is_proven_value_by_value() {
        let identity = IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() };
        let policy = CachePolicy { identity, ..testing::policy() };
        let with = |token: &str| inputs_from("192.0.2.1", &policy, "/", &[("Authorization", token)]);
        let witness = Witness::of(&with("Bearer a"), false, &policy).unwrap();
        let mut joined = witness.joined_by(&with("Bearer b"));
        assert!(joined.covers(&with("Bearer a")) && joined.covers(&with("Bearer b")));
        assert!(!joined.covers(&with("Bearer forged")));
        for n in 0..100 {
            joined = joined.joined_by(&with(&format!("Bearer {n}")));
        }
        assert_eq!(joined.seen.len(), Witness::MAX);
        assert!(joined.covers(&with("Bearer 99")) && !joined.covers(&with("Bearer a")));
    }

    #[test]
    fn other_bytes_mean_a_change_a_forged_token_or_a_personal_page() {
        let identity = IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() };
        let policy = CachePolicy { identity, ..forwarding() };
        let with = |token: &str, cookie: &str| {
            inputs_from("192.0.2.1", &policy, "/", &[("Authorization", token), ("Cookie", cookie)])
        };
        let stored = with("Bearer a", "theme=dark");
        let witness = Witness::of(&stored, false, &policy).unwrap();
        let head = ResponseHead { status: 200, fields: Fields::default() };
        let compared =
            |body: &[u8], inputs: &Inputs| compare((&witness, head, b"page"), (head, body), inputs);
        assert_eq!(compared(b"new", &stored), Comparison::Changed);
        let forged = with("Bearer b", "theme=dark");
        assert_eq!(compared(b"new", &forged), Comparison::OtherCredential);
        assert_eq!(compared(b"page", &forged), Comparison::Same(witness.joined_by(&forged)));
        let other = with("Bearer b", "theme=light");
        assert_eq!(compared(b"new", &other), Comparison::Personalised(Difference::Body));
    }

    #[test]
    fn a_forced_lifetime_makes_address_and_browser_count() {
        let policy = CachePolicy { origin_cache_control: OriginControl::Override, ..testing::policy() };
        let from = |address: &str, agent: &str| inputs_from(address, &policy, "/", &[("user-agent", agent)]);
        let first = from("192.0.2.1", "x");
        let forced = Witness::of(&first, true, &policy).unwrap();
        assert!(!forced.covers(&from("192.0.2.2", "x")) && !forced.covers(&from("192.0.2.1", "y")));
        assert!(forced.joined_by(&from("192.0.2.2", "y")).covers(&from("192.0.2.3", "z")));
        assert_eq!(Witness::of(&first, false, &policy), None, "the origin itself marked it as fresh");
    }

    #[test]
    fn parameters_and_fields_that_are_sent_unkeyed_count() {
        let mut policy = testing::policy();
        policy.query.forward_excluded = true;
        policy.ignore_vary = vec!["accept".into(), "cookie".into()];
        let of = |path: &str, accept: &str| inputs_from("192.0.2.1", &policy, path, &[("Accept", accept)]);
        let witness = Witness::of(&of("/?utm_source=a", "x"), false, &policy).unwrap();
        assert!(witness.covers(&of("/?utm_source=a&page=2", "x")), "what is keyed is no input");
        for (path, accept) in [("/?utm_source=b", "x"), ("/?utm_source=a", "y"), ("/", "x")] {
            assert!(!witness.covers(&of(path, accept)), "{path} {accept}");
        }
    }

    #[test]
    fn inputs_and_proofs_are_bounded() {
        let many: Vec<String> = (0..500).map(|n| format!("c{n}=1")).collect();
        let inputs = with_cookies(&many.join("; "));
        assert_eq!(inputs.0.len(), Inputs::MAX + 1);
        let mut fewer = many.clone();
        fewer.pop();
        let witness = Witness::of(&inputs, false, &forwarding()).unwrap();
        assert!(!witness.covers(&with_cookies(&fewer.join("; "))), "all of them still count");
        let mut joined = witness;
        for n in 0..500 {
            joined = joined.joined_by(&with_cookies(&format!("d{n}=1")));
        }
        assert!(joined.proven.len() <= Witness::MAX);
    }

    #[test]
    fn the_first_difference_is_named() {
        let page = |status, fields: &'static [(&'static str, &'static [u8])]| ResponseHead {
            status,
            fields: Fields(fields),
        };
        let one = page(200, &[("Date", b"1"), ("X-A", b"1"), ("x-b", b"2")]);
        let same = page(200, &[("X-B", b"2 "), ("x-a", b"1"), ("ETag", b"\"1\"")]);
        assert_eq!(difference((one, b"x"), (same, b"x")), None);
        assert_eq!(difference((one, b"x"), (same, b"y")), Some(Difference::Body));
        assert_eq!(difference((one, b"x"), (page(404, &[]), b"x")), Some(Difference::Status));
        let user = page(200, &[("x-a", b"1"), ("x-b", b"2"), ("X-User", b"ada")]);
        assert_eq!(difference((one, b"x"), (user, b"x")), Some(Difference::Field("x-user".into())));
        assert_eq!(difference((user, b"x"), (one, b"x")), Some(Difference::Field("x-user".into())));
    }

    proptest! {
        /// Whatever the order of visitors: a page that depends on one cookie never reaches a visitor whose cookie
        /// differs from those of all who got these bytes.
        #[test]
        fn a_page_that_depends_on_a_cookie_is_never_shared_across_it(
            visits in proptest::collection::vec((0u8..3, 0u8..3), 1..40),
        ) {
            let policy = forwarding();
            let mut stored: Option<(u8, Witness)> = None;
            for (user, theme) in visits {
                let inputs = with_cookies(&format!("user={user}; theme={theme}"));
                match &stored {
                    Some((body, witness)) if witness.covers(&inputs) => prop_assert_eq!(*body, user),
                    Some((body, witness)) if *body == user => stored = Some((user, witness.joined_by(&inputs))),
                    // Marked as personalised; here it begins anew.
                    _ => stored = Witness::of(&inputs, false, &policy).map(|witness| (user, witness)),
                }
            }
        }
    }
}
