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
//! visits is the same on all their devices. So what may name a person, such as a cookie, is proven harmless only by a
//! stranger, who has nothing of the kind: what a stranger gets is public. A token whose claim is keyed is never proven,
//! since anyone can write one.
//!
//! A proof belongs to the bytes and their lifetime. What replaces them has to be proven anew: two visitors may have the
//! same empty basket today. And what has expired may be a member's by now: who refreshes it shows that for themselves
//! only, unless they are a stranger.

pub mod difference;
mod inputs;
#[cfg(test)]
mod tests;
mod witness;

pub use difference::{Difference, difference};
pub use inputs::Inputs;
pub use witness::{Ambient, Witness};

use super::head::ResponseHead;

/// Whether a request with `inputs` may have a response with this witness. One without is for everyone.
pub fn may_have(inputs: &Inputs, witness: Option<&Witness>) -> bool {
    witness.is_none_or(|witness| witness.covers(inputs))
}

/// What is stored under a key, as far as the guard compares with it.
pub struct Stored<'a> {
    /// Who got it.
    pub witness: &'a Witness,
    /// Its status and fields.
    pub head: ResponseHead<'a>,
    /// Its body.
    pub body: &'a [u8],
    /// Whether it is still fresh: what has expired may just have changed.
    pub is_fresh: bool,
}

/// What becomes of a new response on a route that the guard watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is stored, for these.
    Store(Witness),
    /// It is the stored one, which stays as it is, for these now. It grows no younger by that: who refreshes a page for
    /// themselves does not show that the others may still have it.
    Admit(Witness),
    /// It is not stored, and what is stored stays. The request has a credential of its own: anyone can forge one, and
    /// must not end a page by that.
    Refuse,
    /// Different visitors got different responses: neither is shared, nor any that follows.
    Mark(Difference),
}

/// Settles a response that came of a request with `inputs`; `own` is its witness as long as nothing is known of others.
pub fn settle(stored: &Stored<'_>, new: (ResponseHead<'_>, &[u8]), own: Witness, inputs: &Inputs) -> Settled {
    let is_stranger = inputs.person().is_none();
    match difference((stored.head, stored.body), new) {
        None if stored.is_fresh && !is_stranger => Settled::Admit(stored.witness.joined_by(inputs)),
        None if stored.is_fresh => Settled::Store(stored.witness.joined_by(inputs)),
        None => Settled::Store(stored.witness.renewed_by(inputs)),
        // For one who might have had the stored one: the page has changed.
        Some(_) if !stored.is_fresh || stored.witness.covers(inputs) => Settled::Store(own),
        Some(_) if inputs.has_credential() => Settled::Refuse,
        Some(difference) => Settled::Mark(difference),
    }
}
