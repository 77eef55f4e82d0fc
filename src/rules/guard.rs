//! The personalisation guard: a response made for one visitor is shared only once others got the same bytes.
//!
//! A route may let something reach the origin that is not in the key: a cookie that the application needs, a field of
//! `Vary` that is to be ignored, a token of which only a claim is keyed; or it may force a lifetime on pages that look
//! at the address or the browser. The operator says that none of it changes the page. The guard does not believe it.
//! A stored response knows with which of these [`Inputs`] it came ([`Witness`]), and is given to those whose values got
//! these very bytes. Whoever has another value gets an answer of the origin's own, and the two are compared: the same
//! bytes admit the value, and other bytes mark the key as personalised.
//!
//! When is a value good that nobody has tried? Two sessions may be one person's, and a page that only its owner ever
//! visits is the same on all their devices. So what may name a person, such as a cookie, is proven harmless by the
//! one who has none of it: what a stranger gets is public. A token whose claim is keyed is never proven, since anyone
//! can write one.
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
    /// Not at all.
    Credential,
    /// By a request without it, and two with different values.
    Personal,
    /// By three different values: it names nobody.
    Trait,
    /// The same, where the address counts.
    Address,
    /// The same, where the browser counts.
    Agent,
}

/// Which traits of the client itself count for a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ambient {
    /// Its address.
    pub address: bool,
    /// Its `User-Agent`.
    pub agent: bool,
}

impl Ambient {
    fn counts(self, kind: Kind) -> bool {
        match kind {
            Kind::Address => self.address,
            Kind::Agent => self.agent,
            Kind::Credential | Kind::Personal | Kind::Trait => true,
        }
    }
}

/// The inputs of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(Vec<Input>);

impl Inputs {
    /// The most inputs that are told apart. What exceeds them counts as one, which cannot be proven.
    const MAX: usize = 32;

    /// What of a request of `client` reaches the origin beside the key.
    pub fn of(request: &RequestHead<'_>, client: IpAddr, policy: &CachePolicy) -> Self {
        let mut inputs = Self::default();
        if policy.guard == Guard::Off {
            return inputs;
        }
        let fields = request.fields;
        if !policy.forward_cookies.is_empty() {
            for pair in cookies::with_role(fields, policy, Role::Forwarded) {
                inputs.add(format!("cookie {}", pair.name), pair.to_string().as_bytes(), Kind::Personal);
            }
        }
        for parameter in request.target.unkeyed_parameters(&policy.query) {
            let name = format!("parameter {}", parameter_name(parameter));
            inputs.add(name, parameter.as_bytes(), Kind::Personal);
        }
        if !policy.ignore_vary.is_empty() {
            for (name, value) in Outgoing::of(request, policy).lend() {
                let name = name.to_ascii_lowercase();
                // Of the cookies each is an input by itself.
                if name != "cookie" && policy.ignore_vary.contains(&name) {
                    inputs.add(format!("field {name}"), value, Kind::Trait);
                }
            }
        }
        if policy.identity.jwt_claim.is_some()
            && let Some(token) = fields.first("authorization")
        {
            inputs.add("field authorization".to_owned(), token, Kind::Credential);
        }
        let forces = policy.origin_cache_control == OriginControl::Override;
        if forces {
            inputs.add("address".to_owned(), client.to_string().as_bytes(), Kind::Address);
        }
        if forces || policy.identity.device {
            let agent = fields.first("user-agent").unwrap_or_default();
            inputs.add("user-agent".to_owned(), agent, Kind::Agent);
        }
        inputs
    }

    fn add(&mut self, name: String, value: &[u8], kind: Kind) {
        let fits = self.0.len() < Self::MAX || self.0.iter().any(|input| *input.name == name);
        let (name, kind) = if fits { (name.as_str(), kind) } else { ("others", Kind::Credential) };
        match self.0.iter_mut().find(|input| &*input.name == name) {
            // Sent twice alike it is one value.
            Some(input) if input.value == stand([value]) => {}
            // All values of one name together.
            Some(input) => input.value = stand([&input.value[..], value]),
            None => self.0.push(Input { name: name.into(), value: stand([value]), kind }),
        }
    }

    /// What stands for those among them that may name a person; `None` when there are none. Requests that differ in it
    /// do not wait for each other: what one gets proves nothing for the other.
    pub fn person(&self) -> Option<Stand> {
        let personal = self.0.iter().filter(|input| matches!(input.kind, Kind::Credential | Kind::Personal));
        let parts: Vec<&[u8]> = personal.flat_map(|input| [input.name.as_bytes(), &input.value]).collect();
        (!parts.is_empty()).then(|| stand(parts))
    }

    /// Their names, for a person.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|input| &*input.name)
    }

    fn get(&self, name: &str) -> Option<&Input> {
        self.0.iter().find(|input| &*input.name == name)
    }
}

/// Whether a request with `inputs` may have a response with this witness. One without is for everyone.
pub fn may_have(inputs: &Inputs, witness: Option<&Witness>) -> bool {
    witness.is_none_or(|witness| witness.covers(inputs))
}

/// Whether a route lets anything reach the origin that its key does not hold.
fn leaves_out(policy: &CachePolicy) -> bool {
    !policy.forward_cookies.is_empty()
        || !policy.ignore_vary.is_empty()
        || policy.query.forward_excluded
        || policy.identity.jwt_claim.is_some()
}

/// Which values of which inputs got the bytes of a response, and which inputs are proven to change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    ambient: Ambient,
    seen: Vec<Seen>,
    proven: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: Box<str>,
    kind: Kind,
    /// `None`: a request that had none.
    value: Option<Stand>,
}

impl Witness {
    /// The most values, and the most proofs, that one response remembers; beyond it the oldest is forgotten.
    const MAX: usize = 128;

    /// The witness of a response that came of a request with `inputs`; `None` where the guard has nothing to watch.
    /// `ambient` tells which traits of the client count for this response.
    pub fn of(inputs: &Inputs, ambient: Ambient, policy: &CachePolicy) -> Option<Self> {
        if policy.guard == Guard::Off || !(ambient.address || ambient.agent || leaves_out(policy)) {
            return None;
        }
        let counted = inputs.0.iter().filter(|input| ambient.counts(input.kind));
        let seen =
            |input: &Input| Seen { name: input.name.clone(), kind: input.kind, value: Some(input.value) };
        Some(Self { ambient, seen: counted.map(seen).collect(), proven: Vec::new() })
    }

    /// Whether the response may be given to a request with `inputs`.
    pub fn covers(&self, inputs: &Inputs) -> bool {
        self.unproven(inputs).next().is_none()
    }

    /// The witness once a request with `inputs` got the same bytes.
    pub fn joined_by(&self, inputs: &Inputs) -> Self {
        let mut joined = self.clone();
        for (name, kind) in self.unproven(inputs) {
            if !self.seen.iter().any(|seen| &*seen.name == name) {
                // Those before had none of it.
                joined.seen.push(Seen { name: name.into(), kind, value: None });
            }
            let value = inputs.get(name).map(|input| input.value);
            joined.seen.push(Seen { name: name.into(), kind, value });
            if joined.suffices(name, kind) {
                joined.seen.retain(|seen| &*seen.name != name);
                joined.proven.push(name.into());
            }
        }
        joined.seen.drain(..joined.seen.len().saturating_sub(Self::MAX));
        joined.proven.drain(..joined.proven.len().saturating_sub(Self::MAX));
        joined
    }

    /// Whether what was seen of an input proves it harmless.
    fn suffices(&self, name: &str, kind: Kind) -> bool {
        let of_name = || self.seen.iter().filter(|seen| &*seen.name == name);
        let values = of_name().filter(|seen| seen.value.is_some()).count();
        match kind {
            Kind::Credential => false,
            Kind::Personal => values >= 2 && of_name().any(|seen| seen.value.is_none()),
            Kind::Trait | Kind::Address | Kind::Agent => of_name().count() >= 3,
        }
    }

    /// The inputs of which a request has a value that nobody had who got the response, and that are not proven.
    fn unproven<'a>(&'a self, inputs: &'a Inputs) -> impl Iterator<Item = (&'a str, Kind)> {
        let has_seen = |name: &str, value: Option<Stand>| {
            self.seen.iter().any(|seen| &*seen.name == name && seen.value == value)
        };
        let counted = inputs.0.iter().filter(|input| self.ambient.counts(input.kind));
        let new = counted.filter(move |input| !has_seen(&input.name, Some(input.value)));
        let new = new.map(|input| (&*input.name, input.kind));
        // Each name once: with the first value that was seen of it.
        let is_first = |at: usize, seen: &Seen| !self.seen[..at].iter().any(|other| other.name == seen.name);
        let missing = self.seen.iter().enumerate().filter(move |(at, seen)| {
            is_first(*at, seen) && inputs.get(&seen.name).is_none() && !has_seen(&seen.name, None)
        });
        let missing = missing.map(|(_, seen)| (&*seen.name, seen.kind));
        new.chain(missing).filter(|(name, _)| !self.proven.iter().any(|proven| &**proven == *name))
    }

    /// Bytes it occupies.
    pub fn len(&self) -> usize {
        let names = self.seen.iter().map(|seen| &seen.name).chain(&self.proven);
        names.map(|name| name.len() + size_of::<Seen>()).sum()
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
    if witness.covers(inputs) {
        Comparison::Changed
    } else if witness.unproven(inputs).all(|(_, kind)| kind == Kind::Credential) {
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

fn lasting(fields: Fields<'_>) -> Vec<(String, &[u8])> {
    let named = fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.trim_ascii()));
    let is_momentary = |name: &str| {
        OF_THE_MOMENT.contains(&name) || FAMILIES_OF_THE_MOMENT.iter().any(|family| name.starts_with(family))
    };
    named.filter(|(name, _)| !is_momentary(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::{IdentityPolicy, Patterns};
    use crate::rules::target::{Scheme, Target};
    use crate::rules::testing;
    use proptest::prelude::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const NOTHING: Ambient = Ambient { address: false, agent: false };
    const FORCED: Ambient = Ambient { address: true, agent: true };

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

    /// The witness of a page that all of these got.
    fn witness(visits: &[&str]) -> Witness {
        let first = Witness::of(&with_cookies(visits[0]), NOTHING, &forwarding()).unwrap();
        visits[1..].iter().fold(first, |witness, cookies| witness.joined_by(&with_cookies(cookies)))
    }

    #[test]
    fn a_route_that_leaves_nothing_out_is_not_watched() {
        let inputs = inputs_from("192.0.2.1", &testing::policy(), "/?utm_source=x", &[("cookie", "_ga=1")]);
        assert_eq!(Witness::of(&inputs, NOTHING, &testing::policy()), None);
        let off = CachePolicy { guard: Guard::Off, ..forwarding() };
        assert_eq!(Witness::of(&with_cookies("a=1"), FORCED, &off), None);
    }

    #[test]
    fn a_first_copy_is_for_those_with_the_same_values() {
        let first = witness(&["theme=dark; plan=a"]);
        assert!(first.covers(&with_cookies("plan=a; theme=dark")));
        assert!(first.covers(&with_cookies("theme=dark; plan=a; theme=dark")), "sent twice alike");
        let strangers =
            ["theme=light; plan=a", "theme=light; plan=b", "theme=dark", "theme=dark; plan=a; x=1", ""];
        for cookies in strangers {
            assert!(!first.covers(&with_cookies(cookies)), "{cookies}");
        }
    }

    #[test]
    fn sessions_alone_prove_nothing_for_a_session_that_nobody_has_tried() {
        // They may all be of one person, on a page that only this person may see.
        let several = witness(&["id=1", "id=2", "id=3", "id=4", "id=1; id=2"]);
        for cookies in ["id=1", "id=4"] {
            assert!(several.covers(&with_cookies(cookies)), "{cookies}");
        }
        for cookies in ["id=5", "", "id=1; id=3"] {
            assert!(!several.covers(&with_cookies(cookies)), "{cookies}");
        }
    }

    #[test]
    fn what_a_stranger_and_two_sessions_got_is_public() {
        for visits in [["", "id=1", "id=2"], ["id=1", "id=2", ""], ["id=1", "", "id=2"]] {
            let public = witness(&visits);
            for cookies in ["", "id=1", "id=3"] {
                assert!(public.covers(&with_cookies(cookies)), "{visits:?} {cookies}");
            }
            assert!(!public.covers(&with_cookies("id=3; theme=dark")), "of another cookie nothing is known");
        }
        let halfway = witness(&["", "id=1"]);
        assert!(!halfway.covers(&with_cookies("id=2")), "a session that has ended looks like none");
    }

    #[test]
    fn a_credential_is_never_proven_but_for_its_own_value() {
        let identity = IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() };
        let policy = CachePolicy { identity, ..testing::policy() };
        let with = |token: &str| inputs_from("192.0.2.1", &policy, "/", &[("Authorization", token)]);
        let first = Witness::of(&with("Bearer a"), NOTHING, &policy).unwrap();
        let mut joined = first.joined_by(&with("Bearer b")).joined_by(&Inputs::default());
        assert!(joined.covers(&with("Bearer a")) && joined.covers(&with("Bearer b")));
        assert!(!joined.covers(&with("Bearer forged")));
        for n in 0..300 {
            joined = joined.joined_by(&with(&format!("Bearer {n}")));
        }
        assert_eq!(joined.seen.len(), Witness::MAX);
        assert!(joined.covers(&with("Bearer 299")) && !joined.covers(&with("Bearer a")));
    }

    #[test]
    fn traits_of_the_client_count_where_they_may_matter_and_three_prove_them() {
        let policy = CachePolicy { origin_cache_control: OriginControl::Override, ..testing::policy() };
        let from = |address: &str, agent: &str| inputs_from(address, &policy, "/", &[("user-agent", agent)]);
        let first = from("192.0.2.1", "x");
        let forced = Witness::of(&first, FORCED, &policy).unwrap();
        assert!(!forced.covers(&from("192.0.2.2", "x")) && !forced.covers(&from("192.0.2.1", "y")));
        let two = forced.joined_by(&from("192.0.2.2", "y"));
        assert!(two.covers(&from("192.0.2.2", "x")) && !two.covers(&from("192.0.2.3", "z")));
        assert!(two.joined_by(&from("192.0.2.3", "z")).covers(&from("192.0.2.4", "w")));
        let agent = Ambient { agent: true, ..NOTHING };
        let by_agent = Witness::of(&first, agent, &policy).unwrap();
        assert!(by_agent.covers(&from("192.0.2.9", "x")) && !by_agent.covers(&from("192.0.2.1", "y")));
        assert_eq!(Witness::of(&first, NOTHING, &policy), None, "the origin itself marked it as fresh");
    }

    #[test]
    fn parameters_and_fields_that_are_sent_unkeyed_count() {
        let mut policy = testing::policy();
        policy.query.forward_excluded = true;
        policy.ignore_vary = vec!["accept".into(), "cookie".into()];
        let of = |path: &str, accept: &str| inputs_from("192.0.2.1", &policy, path, &[("Accept", accept)]);
        let witness = Witness::of(&of("/?utm_source=a", "x"), NOTHING, &policy).unwrap();
        assert!(witness.covers(&of("/?utm_source=a&page=2", "x")), "what is keyed is no input");
        for (path, accept) in [("/?utm_source=b", "x"), ("/?utm_source=a", "y"), ("/", "x")] {
            assert!(!witness.covers(&of(path, accept)), "{path} {accept}");
        }
    }

    #[test]
    fn only_what_may_name_a_person_keeps_requests_from_waiting_for_each_other() {
        let policy = CachePolicy { origin_cache_control: OriginControl::Override, ..forwarding() };
        let of = |address: &str, cookies: &str| {
            inputs_from(address, &policy, "/", &[("Cookie", cookies)]).person()
        };
        assert_eq!(of("192.0.2.1", ""), None);
        assert_eq!(of("192.0.2.1", "id=1"), of("192.0.2.2", "id=1"));
        assert_ne!(of("192.0.2.1", "id=1"), of("192.0.2.1", "id=2"));
    }

    #[test]
    fn what_exceeds_the_inputs_told_apart_is_never_proven() {
        let flags: Vec<String> = (0..Inputs::MAX).map(|n| format!("c{n}=1")).collect();
        let with = |more: &str| with_cookies(&format!("{}; {more}", flags.join("; ")));
        assert_eq!(with("id=ada; x=1").0.len(), Inputs::MAX + 1);
        let first = Witness::of(&with("id=ada; x=1"), NOTHING, &forwarding()).unwrap();
        let joined =
            first.joined_by(&with("id=ada; x=2")).joined_by(&with_cookies("")).joined_by(&with("id=ada"));
        assert!(!joined.covers(&with("id=bob")) && !joined.covers(&with("id=bob; x=1")));
        let mut many = first;
        for n in 0..500 {
            many = many.joined_by(&with_cookies(&format!("d{n}=1")));
        }
        assert!(many.seen.len() <= Witness::MAX && many.proven.len() <= Witness::MAX);
    }

    #[test]
    fn other_bytes_mean_a_change_a_forged_token_or_a_personal_page() {
        let identity = IdentityPolicy { jwt_claim: Some("sub".into()), ..Default::default() };
        let policy = CachePolicy { identity, ..forwarding() };
        let with = |token: &str, cookie: &str| {
            inputs_from("192.0.2.1", &policy, "/", &[("Authorization", token), ("Cookie", cookie)])
        };
        let stored = with("Bearer a", "theme=dark");
        let witness = Witness::of(&stored, NOTHING, &policy).unwrap();
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
    fn the_first_difference_is_named() {
        let page = |status, fields: &'static [(&'static str, &'static [u8])]| ResponseHead {
            status,
            fields: Fields(fields),
        };
        let one = page(200, &[("Date", b"1"), ("X-A", b"1"), ("x-b", b"2")]);
        let same =
            page(200, &[("X-B", b"2 "), ("x-a", b"1"), ("ETag", b"\"1\""), ("X-RateLimit-Left", b"3")]);
        assert_eq!(difference((one, b"x"), (same, b"x")), None);
        assert_eq!(difference((one, b"x"), (same, b"y")), Some(Difference::Body));
        assert_eq!(difference((one, b"x"), (page(404, &[]), b"x")), Some(Difference::Status));
        let user = page(200, &[("x-a", b"1"), ("x-b", b"2"), ("X-User", b"ada")]);
        assert_eq!(difference((one, b"x"), (user, b"x")), Some(Difference::Field("x-user".into())));
        assert_eq!(difference((user, b"x"), (one, b"x")), Some(Difference::Field("x-user".into())));
    }

    proptest! {
        /// Whatever the order of visitors, a page that depends on a cookie never reaches a visitor with another
        /// value, nor one without it when those without get another.
        #[test]
        fn a_page_that_depends_on_a_cookie_is_never_shared_across_it(
            visits in proptest::collection::vec((0u8..4, 0u8..3), 1..60),
        ) {
            let policy = forwarding();
            let mut stored: Option<(u8, Witness)> = None;
            for (user, theme) in visits {
                let name = if user == 0 { String::new() } else { format!("user={user}; ") };
                let inputs = with_cookies(&format!("{name}theme={theme}"));
                match &stored {
                    Some((body, witness)) if witness.covers(&inputs) => prop_assert_eq!(*body, user),
                    Some((body, witness)) if *body == user => stored = Some((user, witness.joined_by(&inputs))),
                    // Marked as personalised; here it begins anew.
                    _ => stored = Witness::of(&inputs, NOTHING, &policy).map(|witness| (user, witness)),
                }
            }
        }

        /// A page that only one person may see, on as many devices as they like, reaches nobody else.
        #[test]
        fn the_page_of_one_person_stays_theirs(sessions in proptest::collection::vec(0u8..6, 1..40)) {
            let cookies: Vec<String> = sessions.iter().map(|n| format!("id=ada-{n}; theme={n}")).collect();
            let visits: Vec<&str> = cookies.iter().map(String::as_str).collect();
            let theirs = witness(&visits);
            for other in ["", "id=bob", "id=bob; theme=1", "theme=1"] {
                prop_assert!(!theirs.covers(&with_cookies(other)));
            }
        }
    }
}
