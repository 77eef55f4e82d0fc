//! Who got the bytes of a stored response, and to whom it may be given by that.

use super::inputs::{Input, Inputs, Kind};
use crate::rules::identity::Stand;
use crate::rules::policy::{CachePolicy, Guard};

/// Which traits of the client itself count for a response, besides the fields that the route ignores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ambient {
    /// Its address.
    pub address: bool,
    /// Its `User-Agent`.
    pub agent: bool,
}

impl Ambient {
    pub(super) fn counts(self, kind: Kind) -> bool {
        match kind {
            Kind::Address => self.address,
            Kind::Agent => self.agent,
            Kind::Trait => true,
            Kind::Credential | Kind::Personal => false,
        }
    }
}

/// Whether a route lets anything reach the origin that its key does not hold.
pub(super) fn leaves_out(policy: &CachePolicy) -> bool {
    !policy.forward_cookies.is_empty()
        || !policy.ignore_vary.is_empty()
        || policy.query.forward_excluded
        || policy.identity.jwt_claim.is_some()
}

/// Who got the bytes of a response, and what that proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    ambient: Ambient,
    /// Whether someone with nothing personal did.
    is_public: bool,
    /// All that was personal in a request, as a whole: two harmless parts of two visitors are no third visitor.
    pub(super) persons: Vec<Stand>,
    /// By personal input, up to two values; they count once the page is public.
    pub(super) values: Vec<(Box<str>, Stand)>,
    /// By trait, up to three values; `None` for a request that had none.
    traits: Vec<(Box<str>, Option<Stand>)>,
}

/// So many different values prove a personal input, and a trait.
const PROOFS: usize = 2;
const TRAIT_PROOFS: usize = 3;

impl Witness {
    /// The most persons, and the most values, that one response remembers; the oldest is forgotten, and fetched for
    /// again.
    pub(super) const MAX: usize = 128;

    /// The witness of a response that came of a request with `inputs`; `None` where the guard has nothing to watch.
    /// `ambient` tells which traits of the client count for this response.
    pub fn of(inputs: &Inputs, ambient: Ambient, policy: &CachePolicy) -> Option<Self> {
        if policy.guard == Guard::Off || !(ambient.address || ambient.agent || leaves_out(policy)) {
            return None;
        }
        let none =
            Self { ambient, is_public: false, persons: Vec::new(), values: Vec::new(), traits: Vec::new() };
        let mut witness = none;
        witness.traits =
            witness.counted(inputs).map(|input| (input.name.clone(), Some(input.value))).collect();
        witness.admit_person(inputs);
        Some(witness)
    }

    /// Whether the response may be given to a request with `inputs`.
    pub fn covers(&self, inputs: &Inputs) -> bool {
        self.covers_person(inputs) && self.unproven_traits(inputs).next().is_none()
    }

    fn covers_person(&self, inputs: &Inputs) -> bool {
        let Some(person) = inputs.person() else { return self.is_public };
        let is_proven = |input: &Input| {
            let values = self.values.iter().filter(|(name, _)| *name == input.name).count();
            input.kind == Kind::Personal && values >= PROOFS
        };
        self.persons.contains(&person) || (self.is_public && inputs.personal().all(is_proven))
    }

    /// The traits of which a request has a value that nobody had who got the response, and that are not proven.
    fn unproven_traits<'a>(&'a self, inputs: &'a Inputs) -> impl Iterator<Item = (&'a str, Option<Stand>)> {
        let present = self.counted(inputs).map(|input| (&*input.name, Some(input.value)));
        let is_first = |at: usize, name: &str| !self.traits[..at].iter().any(|(other, _)| &**other == name);
        let known = self.traits.iter().enumerate();
        let missing = known
            .filter(move |(at, (name, _))| is_first(*at, name) && inputs.get(name).is_none())
            .map(|(_, (name, _))| (&**name, None));
        let is_settled = |name: &str, value: Option<Stand>| {
            let seen = self.traits.iter().filter(|(other, _)| &**other == name);
            seen.clone().count() >= TRAIT_PROOFS || seen.clone().any(|(_, other)| *other == value)
        };
        present.chain(missing).filter(move |(name, value)| !is_settled(name, *value))
    }

    /// The traits of a request that count for this response.
    fn counted<'a>(&self, inputs: &'a Inputs) -> impl Iterator<Item = &'a Input> + use<'a> {
        let ambient = self.ambient;
        inputs.0.iter().filter(move |input| ambient.counts(input.kind))
    }

    /// The witness once a request with `inputs` got the same bytes.
    pub fn joined_by(&self, inputs: &Inputs) -> Self {
        let mut joined = self.clone();
        for (name, value) in self.unproven_traits(inputs) {
            if !self.traits.iter().any(|(other, _)| &**other == name) {
                // Those before had none of it.
                joined.traits.push((name.into(), None));
            }
            joined.traits.push((name.into(), value));
        }
        joined.admit_person(inputs);
        joined
    }

    /// The witness once the response has expired and a request with `inputs` got the same bytes again. Whether the others
    /// would too is to be seen: a page may have become a member's, and a token may have been withdrawn.
    pub fn renewed_by(&self, inputs: &Inputs) -> Self {
        let mut renewed = Self { is_public: false, persons: Vec::new(), ..self.joined_by(inputs) };
        renewed.admit_person(inputs);
        renewed
    }

    /// Whether a stranger got the response.
    pub fn is_public(&self) -> bool {
        self.is_public
    }

    fn admit_person(&mut self, inputs: &Inputs) {
        let Some(person) = inputs.person() else {
            self.is_public = true;
            return;
        };
        if !self.persons.contains(&person) {
            self.persons.push(person);
        }
        for input in inputs.personal().filter(|input| input.kind == Kind::Personal) {
            let mut seen = self.values.iter().filter(|(name, _)| *name == input.name);
            if seen.clone().count() < PROOFS && !seen.any(|(_, value)| *value == input.value) {
                self.values.push((input.name.clone(), input.value));
            }
        }
        self.persons.drain(..self.persons.len().saturating_sub(Self::MAX));
        self.values.drain(..self.values.len().saturating_sub(Self::MAX));
    }

    /// Bytes it occupies.
    pub fn len(&self) -> usize {
        let names = self.values.iter().map(|(name, _)| name).chain(self.traits.iter().map(|(name, _)| name));
        let named: usize = names.map(|name| name.len() + size_of::<(Box<str>, Option<Stand>)>()).sum();
        named + self.persons.len() * size_of::<Stand>()
    }

    /// Whether it has seen nothing.
    pub fn is_empty(&self) -> bool {
        !self.is_public && self.persons.is_empty() && self.traits.is_empty()
    }
}
