//! Who has heard of a purge.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::RedisResult;

use super::{LOG, Position};
use crate::clock;
use crate::plan::redis::Redis;
use crate::shared::connect::Link;
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

/// Whether who has said this has read the entry there. What was said before it was appended is about another one, which is lost.
fn has_read(said: &str, at: Position) -> bool {
    let Some((place, time)) = said.split_once(' ') else { return false };
    place.parse().is_ok_and(|place: Position| place >= at)
        && time.parse().is_ok_and(|time: u64| time >= at.time)
}

/// How many purges are in the log, and who follows it.
///
/// # Errors
///
/// What is in the way, such as a user who may not.
pub async fn standing(settings: &Redis, link: &mut Link) -> RedisResult<(u64, Vec<String>)> {
    let purges = redis::cmd("XLEN").arg(settings.key(LOG, "")).query_async(link).await?;
    let followers = redis::cmd("HKEYS").arg(settings.key(LOG, ":followers")).query_async(link).await?;
    Ok((purges, followers))
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
                let list = if has_read(&said, at) { &mut heard.by } else { &mut heard.missing };
                list.push(instance);
            }
            if heard.missing.is_empty() || clock::start() >= deadline {
                return Ok(heard);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
