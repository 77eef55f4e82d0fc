//! What stands in the log.

use redis::streams::StreamId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Mark, Position};
use crate::rules::selector::Selector;

/// The fields of an entry. The nonce comes first, where the scripts look for it.
pub(super) const NONCE: &str = "n";
pub(super) const BEGUN: &str = "b";
pub(super) const PURGE: &str = "p";

/// A purge of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {
    /// Tells it from all others.
    pub nonce: Uuid,
    /// What it names.
    pub selectors: Vec<Selector>,
    /// Whether that only expires.
    pub soft: bool,
}

impl Purge {
    /// One that names everything.
    pub fn of_everything() -> Self {
        Self { nonce: Uuid::new_v4(), selectors: vec![Selector::All], soft: false }
    }
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub position: Position,
    pub nonce: Uuid,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A log begins: there was none, or it has been lost.
    Begun,
    /// A purge.
    Purge { selectors: Vec<Selector>, soft: bool },
}

impl Entry {
    pub(super) fn mark(&self) -> Mark {
        Mark { position: self.position, nonce: self.nonce }
    }

    /// Reads one; nothing where it has no place, which every entry of a stream has.
    pub(super) fn read(id: &StreamId) -> Option<Self> {
        let position = id.id.parse().ok()?;
        let text = |field: &str| id.get::<String>(field);
        let nonce = text(NONCE).and_then(|nonce| nonce.parse().ok()).unwrap_or_default();
        let what = match text(BEGUN) {
            Some(_) => What::Begun,
            None => {
                // What cannot be read is a purge of something, by a later version.
                let purge = text(PURGE).and_then(|text| serde_json::from_str::<Purge>(&text).ok());
                let everything = (vec![Selector::All], false);
                let (selectors, soft) = purge.map_or(everything, |purge| (purge.selectors, purge.soft));
                What::Purge { selectors, soft }
            }
        };
        Some(Self { position, nonce, what })
    }
}
