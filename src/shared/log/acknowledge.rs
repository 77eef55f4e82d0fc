//! Who has carried a purge out.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use redis::RedisResult;
use uuid::Uuid;

use super::{LOG, Position};
use crate::clock;
use crate::plan::redis::Redis;
use crate::shared::Shared;
use crate::shared::connect::Link;

/// How long to wait before the next question: doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Who follows the log, and how far each has read, if the purge with this nonce still is at its place, or has been cut off with what is
/// older.
pub(in crate::shared) const FOLLOWERS: &str = "
local there = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if there and there[2][2] == ARGV[2] then
  return redis.call('HGETALL', KEYS[2])
end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if there or not first then
  return false
end
local time, number = string.match(ARGV[1], '(%d+)-(%d+)')
local first_time, first_number = string.match(first[1], '(%d+)-(%d+)')
time, number, first_time, first_number = tonumber(time), tonumber(number), tonumber(first_time), tonumber(first_number)
if first_time > time or (first_time == time and first_number > number) then
  return redis.call('HGETALL', KEYS[2])
end
return false";

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
    pub async fn acknowledged(&self, purge: Uuid, deadline: Instant) -> Result<Acknowledged, String> {
        let mut wait = FIRST_WAIT;
        loop {
            let known = match self.log.whereabouts(purge) {
                Err(why) => Err(self.state().err().unwrap_or_else(|| why.to_owned())),
                Ok(at) => self.acknowledged_by_now(purge, at).await,
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

    async fn acknowledged_by_now(&self, purge: Uuid, at: Position) -> Result<Acknowledged, String> {
        let ask = |mut link| async move {
            let mut invocation = self.followers_script.prepare_invoke();
            invocation.key(self.key(LOG, "")).key(self.key(LOG, ":followers"));
            invocation.arg(at.to_string()).arg(purge.to_string());
            invocation.invoke_async(&mut link).await
        };
        let asked: Result<Option<HashMap<String, String>>, _> = self.ask("acknowledged", LOG, ask).await;
        let followers =
            asked.map_err(|away| format!("it was told to them; who has heard it is not known: {away}"))?;
        let followers = followers.ok_or("the log has lost it, and it is told again")?;
        let mut acknowledged = Acknowledged::default();
        let mut names: BTreeSet<String> = followers.keys().cloned().collect();
        names.extend(self.log.lately_met(clock::start()));
        self.log.met(followers.keys().cloned(), clock::start());
        for instance in names.into_iter().filter(|name| **name != *self.instance) {
            let has_read = followers.get(&instance).is_some_and(|said| has_read(said, at));
            if has_read { acknowledged.by.push(instance) } else { acknowledged.missing.push(instance) }
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
