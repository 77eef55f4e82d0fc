//! Hearing of the purges of all instances, in their order.
//!
//! Each instance reads the log by a connection of its own, on which it waits for the next entry. Before every read it makes sure
//! that the log still is the one it has read so far, and with that says how far that is: a failover may have lost the end of it,
//! or a restart all. An instance that cannot tell what it has missed drops all that it has in memory; it trusts the Redis when it
//! has read all that was there.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::streams::{StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisError, RedisResult};
use uuid::Uuid;

use super::entry::Entry;
use super::{LOG, Lost, Orders, Place, Position};
use crate::clock;
use crate::shared::Shared;
use crate::shared::connect::{self, ALIVE, Link};

/// How long one read waits for the next entry; after twice this the connection counts as dead.
const WAIT: Duration = Duration::from_secs(1);
/// The most entries read at once.
const AT_ONCE: usize = 100;
/// How many of the last entries are looked at to find one that has been read: more than the log keeps in the end.
const TAILS: [usize; 3] = [256, 4096, 65_536];
/// How long to wait before the next attempt.
const PAUSE: Duration = Duration::from_millis(200);
/// Who was away for longer from a log that has been lost may have missed more than its writers can tell again.
const MAX_MISSED: Duration = Duration::from_secs(5 * 60);
/// How long a look at the log may take; then the connection counts as dead.
const LOOK: Duration = Duration::from_secs(3);

/// Begins the log where there is none; holds what the caller has read last against it; notes how far the caller is. Answers how it
/// stands, the place of the last entry, and who follows it.
pub(in crate::shared) const STAND: &str = "
local log, followers = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
if #redis.call('XRANGE', log, '-', '+', 'COUNT', 1) == 0 then
  redis.call('XADD', log, '*', 'n', ARGV[3], 'b', '1')
end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1][1]
if ARGV[1] == '' then
  return {'new', last, {}}
end
if ARGV[2] ~= '' then
  local seen = redis.call('XRANGE', log, ARGV[1], ARGV[1])[1]
  if not seen or seen[2][2] ~= ARGV[2] then
    return {'lost', last, {}}
  end
end
redis.call('HSET', followers, ARGV[4], ARGV[1] .. ' ' .. now)
local all = redis.call('HGETALL', followers)
for i = 1, #all, 2 do
  if tonumber(now) - tonumber(string.match(all[i + 1], ' (%d+)$')) > 1000 * tonumber(ARGV[5]) then
    redis.call('HDEL', followers, all[i])
  end
end
redis.call('EXPIRE', followers, ARGV[5])
return {'kept', last, redis.call('HKEYS', followers)}";

/// How the log stands to what an instance has read of it.
struct Standing {
    state: State,
    last: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Kept,
    Lost,
}

/// Reads the log by one connection.
pub(in crate::shared) struct Follower {
    link: Link,
    catching: Catching,
}

/// What has to be read before the Redis is trusted, and up to where nothing has to be done about it.
#[derive(Default)]
struct Catching {
    target: Option<Position>,
    done_until: Position,
}

/// Who purges what the log says.
pub trait Obey: Send + Sync {
    /// Does so; when it returns, that is in force.
    fn obey(&self, orders: Orders) -> impl Future<Output = ()> + Send;
}

/// Follows the log for ever.
pub async fn follow(shared: Arc<Shared>, obey: impl Obey) {
    loop {
        if shared.state().is_ok() {
            let Err(error) = shared.follow_by_one_link(&obey).await;
            shared.log.lose();
            shared.figures.log_followed(false);
            let error = shared.settings.without_passwords(&error.to_string());
            tracing::debug!(error, "the log of purges is followed no longer");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An answer of the Redis, if it comes in time; the connection counts as dead if not.
async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = |_| RedisError::from((redis::ErrorKind::Io, "no answer in time"));
    tokio::time::timeout(LOOK, answer).await.map_err(late)?
}

impl Follower {
    pub(in crate::shared) fn new(link: Link) -> Self {
        Self { link, catching: Catching::default() }
    }
}

impl Shared {
    async fn follow_by_one_link(&self, obey: &impl Obey) -> Result<Infallible, RedisError> {
        let link = in_time(connect::connect_with(&self.settings, WAIT * 2)).await?;
        let mut follower = Follower::new(link);
        loop {
            self.follow_on(&mut follower, Some(WAIT), obey).await?;
        }
    }

    /// Finds out how the log stands, and reads what has come since; waits for it for so long.
    pub(in crate::shared) async fn follow_on(
        &self,
        follower: &mut Follower,
        wait: Option<Duration>,
        obey: &impl Obey,
    ) -> RedisResult<()> {
        let Follower { link, catching } = follower;
        let said_to_be_there = self.log.said_to_be_there();
        let standing = in_time(self.stand(link)).await?;
        match standing.state {
            State::Kept => {
                self.log.tell_again(&said_to_be_there, standing.last);
                let target = *catching.target.get_or_insert(standing.last);
                self.log.seen(clock::start(), standing.last);
                self.log.reaches(target);
            }
            State::New => *catching = self.start_over(link, &standing, true, obey).await?,
            State::Lost => *catching = self.find_place(link, &standing, obey).await?,
        }
        self.figures.log_followed(self.log.is_current());
        for entry in in_time(self.read(link, wait)).await? {
            if self.log.is_another(&entry) {
                *catching = self.find_place(link, &standing, obey).await?;
                break;
            }
            let is_done = entry.position <= catching.done_until;
            if let Some(orders) = self.log.take(entry)
                && !is_done
            {
                obey.obey(orders).await;
            }
        }
        self.figures.log_waiting(self.log.waiting());
        Ok(())
    }

    async fn stand(&self, link: &mut Link) -> RedisResult<Standing> {
        let place = self.log.place();
        let nonce = |place: Place| place.nonce.map(|nonce| nonce.to_string());
        let (state, last, followers): (String, String, Vec<String>) = self
            .stand_script
            .key(self.key(LOG, ""))
            .key(self.key(LOG, ":followers"))
            .arg(place.map(|place| place.position.to_string()).unwrap_or_default())
            .arg(place.and_then(nonce).unwrap_or_default())
            .arg(Uuid::new_v4().to_string())
            .arg(&*self.instance)
            .arg(ALIVE)
            .invoke_async(link)
            .await?;
        self.log.met(followers.into_iter(), clock::start());
        let state = match state.as_str() {
            "new" => State::New,
            "kept" => State::Kept,
            _ => State::Lost,
        };
        let last =
            last.parse().map_err(|()| (redis::ErrorKind::UnexpectedReturnType, "no place in a log"))?;
        Ok(Standing { state, last })
    }

    /// The entries after the place of this instance; waits for one.
    async fn read(&self, link: &mut Link, wait: Option<Duration>) -> RedisResult<Vec<Entry>> {
        let Some(place) = self.log.place() else { return Ok(Vec::new()) };
        let mut options = StreamReadOptions::default().count(AT_ONCE);
        if let Some(wait) = wait {
            options = options.block(usize::try_from(wait.as_millis()).unwrap_or(usize::MAX));
        }
        let (key, after) = (self.key(LOG, ""), place.position.to_string());
        let read: Option<StreamReadReply> = link.xread_options(&[key], &[after], &options).await?;
        let ids = read.into_iter().flat_map(|read| read.keys).flat_map(|key| key.ids);
        Ok(ids.filter_map(|id| Entry::read(&id)).collect())
    }

    /// Reads the log from its beginning. What is in memory may have missed what is no longer there, and is dropped if it is said
    /// to be `doubtful`.
    async fn start_over(
        &self,
        link: &mut Link,
        standing: &Standing,
        doubtful: bool,
        obey: &impl Obey,
    ) -> RedisResult<Catching> {
        let first: StreamRangeReply = link.xrange_count(self.key(LOG, ""), "-", "+", 1).await?;
        let first = first.ids.first().and_then(Entry::read).map_or(standing.last, |first| first.position);
        self.log.start_at(Place { position: first.before(), nonce: None, seen: clock::start() });
        let mut done_until = Position::default();
        if doubtful {
            obey.obey(Orders::DropAll).await;
            // What is in memory from now on was fetched after these.
            done_until = standing.last;
        }
        Ok(Catching { target: Some(standing.last), done_until })
    }

    /// Finds the place from which this instance has to read on in a log that is not the one it was.
    async fn find_place(
        &self,
        link: &mut Link,
        standing: &Standing,
        obey: &impl Obey,
    ) -> RedisResult<Catching> {
        let Some(place) = self.log.place() else { return Ok(Catching::default()) };
        let tail = self.tail(link).await?;
        let lost = self.log.go_back(&tail, clock::start());
        if lost == Lost::End {
            tracing::warn!(
                "the log of purges has lost its end: what was lost of this instance's is told again"
            );
            return Ok(Catching::default());
        }
        let missed = clock::start().saturating_duration_since(place.seen);
        let doubtful = lost == Lost::Beginning || missed > MAX_MISSED;
        tracing::warn!(
            memory_dropped = doubtful,
            "the log of purges has nothing left of what was read: what the Redis holds from before is not used any longer"
        );
        self.start_over(link, standing, doubtful, obey).await
    }

    /// The end of the log: as much of it as it takes to find an entry that has been read, or all.
    async fn tail(&self, link: &mut Link) -> RedisResult<Vec<Entry>> {
        for count in TAILS {
            let tail: StreamRangeReply = link.xrevrange_count(self.key(LOG, ""), "+", "-", count).await?;
            let entries: Vec<Entry> = tail.ids.iter().rev().filter_map(Entry::read).collect();
            if tail.ids.len() < count || self.log.knows_one_of(&entries) {
                return Ok(entries);
            }
        }
        Err((redis::ErrorKind::UnexpectedReturnType, "the log of purges is longer than it should be").into())
    }
}
