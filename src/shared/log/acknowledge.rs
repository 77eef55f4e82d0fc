//! Who has carried a purge out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::RedisResult;

use super::{LOG, Position};
use crate::clock;
use crate::plan::redis::Redis;
use crate::shared::Shared;
use crate::shared::connect::Link;

/// How long to wait before the next question: doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// The other instances that are alive, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Those that serve nothing older.
    pub by: Vec<String>,
    /// Those that have not said so.
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
    /// Waits until all other instances that are alive have carried out a purge of this one, or until `deadline`.
    ///
    /// # Errors
    ///
    /// Why nobody knows.
    pub async fn acknowledged(&self, purge: uuid::Uuid, deadline: Instant) -> Result<Acknowledged, String> {
        let mut wait = FIRST_WAIT;
        loop {
            let known = match self.log.whereabouts(purge) {
                None => Err(self.state().err().unwrap_or_else(|| "it waits to be told to them".to_owned())),
                Some(at) => self.acknowledged_by_now(at).await,
            };
            let is_over = clock::start() >= deadline;
            match known {
                Ok(known) if known.missing.is_empty() || is_over => return Ok(known),
                Err(why) if is_over => return Err(why),
                _ => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn acknowledged_by_now(&self, at: Position) -> Result<Acknowledged, String> {
        let key = self.key(LOG, ":followers");
        let ask = |mut link| async move { redis::cmd("HGETALL").arg(key).query_async(&mut link).await };
        let asked: Result<BTreeMap<String, String>, _> = self.ask("acknowledged", LOG, ask).await;
        let followers =
            asked.map_err(|away| format!("it was told to them; who has heard it is not known: {away}"))?;
        let mut acknowledged = Acknowledged::default();
        for (instance, said) in followers.into_iter().filter(|(name, _)| **name != *self.instance) {
            let list = if has_read(&said, at) { &mut acknowledged.by } else { &mut acknowledged.missing };
            list.push(instance);
        }
        Ok(acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_a_purge_is_no_acknowledgement() {
        let at = Position { time: 5_000, number: 1 };
        assert!(has_read("5000-1 5000", at) && has_read("6000-0 6001", at));
        assert!(!has_read("5000-0 5001", at), "it has not read so far");
        assert!(!has_read("7000-0 4999", at), "that was another entry");
        assert!(!has_read("", at) && !has_read("x y", at));
    }
}
