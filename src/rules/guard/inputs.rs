//! What of a request reaches the origin and is not in the key.

use std::net::IpAddr;

use super::witness::{Ambient, leaves_out};
use crate::rules::cookies::{self, Role};
use crate::rules::head::{Fields, RequestHead};
use crate::rules::identity::{Stand, stand};
use crate::rules::outgoing::Outgoing;
use crate::rules::policy::{CachePolicy, Guard, OriginControl};
use crate::rules::target::parameter_name;

/// One thing that reaches the origin and is not in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub name: Box<str>,
    pub value: Stand,
    pub kind: Kind,
}

/// How an input is proven harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not at all.
    Credential,
    /// By a request with nothing personal, and two with different values.
    Personal,
    /// By three different values: it names nobody.
    Trait,
    /// The same, where the address counts.
    Address,
    /// The same, where the browser counts.
    Agent,
}

impl Kind {
    /// Whether it may name a person.
    fn is_personal(self) -> bool {
        matches!(self, Self::Credential | Self::Personal)
    }
}

/// The inputs of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(pub(super) Vec<Input>);

impl Inputs {
    /// The most inputs that are told apart. What exceeds them counts as one, which cannot be proven.
    pub(super) const MAX: usize = 32;
    /// The longest name of one, in bytes; longer ones count with those that exceed.
    const MAX_NAME: usize = 128;

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
        // Where only a claim of it is keyed, or where it takes part without being keyed.
        if leaves_out(policy) && !policy.identity.keys_on("authorization") && fields.has("authorization") {
            inputs.add("field authorization".to_owned(), &lines(fields, "authorization"), Kind::Credential);
        }
        let forces = policy.origin_cache_control == OriginControl::Override;
        if forces {
            inputs.add("address".to_owned(), client.to_string().as_bytes(), Kind::Address);
        }
        if forces || policy.identity.device {
            // All lines are sent, and the origin may look at any.
            inputs.add("user-agent".to_owned(), &lines(fields, "user-agent"), Kind::Agent);
        }
        inputs
    }

    fn add(&mut self, name: String, value: &[u8], kind: Kind) {
        let is_known = self.0.iter().any(|input| *input.name == name);
        // Of traits there are as many as the operator names; they are sent to the origin whoever asks.
        let fits =
            !kind.is_personal() || (name.len() <= Self::MAX_NAME && (self.0.len() < Self::MAX || is_known));
        let (name, kind) = if fits { (name.as_str(), kind) } else { ("others", Kind::Credential) };
        match self.0.iter_mut().find(|input| &*input.name == name) {
            // Sent twice alike it is one value.
            Some(input) if input.value == stand([value]) => {}
            // All values of one name together.
            Some(input) => input.value = stand([&input.value[..], value]),
            None => self.0.push(Input { name: name.into(), value: stand([value]), kind }),
        }
    }

    /// What stands for all that may name a person among them; `None` for a stranger. Requests that differ in it do not
    /// wait for each other: what one gets proves nothing for the other.
    pub fn person(&self) -> Option<Stand> {
        let mut personal: Vec<&Input> = self.personal().collect();
        // Browsers send cookies in any order.
        personal.sort_by(|a, b| a.name.cmp(&b.name));
        let parts = personal.iter().flat_map(|input| [input.name.as_bytes(), &input.value]);
        (!personal.is_empty()).then(|| stand(parts))
    }

    /// The inputs of the same client if it had nothing personal.
    pub fn of_stranger(&self) -> Self {
        Self(self.0.iter().filter(|input| !input.kind.is_personal()).cloned().collect())
    }

    pub(super) fn personal(&self) -> impl Iterator<Item = &Input> {
        self.0.iter().filter(|input| input.kind.is_personal())
    }

    pub(super) fn has_credential(&self) -> bool {
        self.0.iter().any(|input| input.kind == Kind::Credential)
    }

    /// The names of those that count for a response, for a person.
    pub fn names(&self, ambient: Ambient) -> impl Iterator<Item = &str> {
        let counts = move |input: &&Input| ambient.counts(input.kind) || input.kind.is_personal();
        self.0.iter().filter(counts).map(|input| &*input.name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Input> {
        self.0.iter().find(|input| &*input.name == name)
    }
}

/// All lines of a field as one.
fn lines(fields: Fields<'_>, name: &str) -> Vec<u8> {
    fields.all(name).collect::<Vec<_>>().join(&b'\n')
}
