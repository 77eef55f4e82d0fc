//! Who has heard of a purge.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{LOG, Position};
use crate::clock;
use crate::shared::{Away, Shared};

/// How often to ask.
const LOOK: Duration = Duration::from_millis(5);

/// The other instances that are alive, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Those that serve nothing older.
    pub by: Vec<String>,
    /// Those that have not said so in time.
    pub missing: Vec<String>,
}

impl Shared {
    /// Waits until all instances that are alive have carried out the purge at this place, or until `deadline`.
    ///
    /// # Errors
    ///
    /// When there is no answer: then nobody knows.
    pub async fn heard(&self, at: Position, deadline: Instant) -> Result<Heard, Away> {
        loop {
            let key = self.key(LOG, ":followers");
            let ask = |mut link| async move { redis::cmd("HGETALL").arg(key).query_async(&mut link).await };
            let followers: BTreeMap<String, String> = self.ask("heard", LOG, ask).await?;
            let mut heard = Heard::default();
            for (instance, said) in followers.into_iter().filter(|(name, _)| **name != *self.instance) {
                let place = said.split_once(' ').and_then(|(place, _)| place.parse::<Position>().ok());
                let list = if place >= Some(at) { &mut heard.by } else { &mut heard.missing };
                list.push(instance);
            }
            if heard.missing.is_empty() || clock::start() >= deadline {
                return Ok(heard);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
