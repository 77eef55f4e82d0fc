//! Counting clients together with the other instances: the same algorithm as [`crate::rules::limit`], in one round trip, by the
//! clock of the Redis.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Away, Shared};
use crate::rules::limit::RateLimit;

/// For each key: what one request costs and how far ahead it may be, in microseconds, and whether that only counts. All of those that
/// refuse must agree before any counts. Answers which one refuses (from 1 on; 0: none) and for how long, and then of each key whether
/// it was beyond.
pub(super) const SCRIPT: &str = "
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ahead, answer = {}, {0, 0}
for i, key in ipairs(KEYS) do
  local kept = tonumber(redis.call('GET', key) or '0')
  -- A clock that was put back, or a rate that has become faster, keeps nobody out for longer than the rate does.
  ahead[i] = math.min(math.max(kept - now, 0), tonumber(ARGV[3 * i - 2]) + tonumber(ARGV[3 * i - 1]))
  local over = ahead[i] - tonumber(ARGV[3 * i - 1])
  answer[2 + i] = over > 0 and 1 or 0
  if over > 0 and ARGV[3 * i] == '0' and answer[1] == 0 then
    answer[1] = i
    answer[2] = over
  end
end
if answer[1] == 0 then
  for i, key in ipairs(KEYS) do
    if answer[2 + i] == 0 then
      local kept = ahead[i] + tonumber(ARGV[3 * i - 2])
      redis.call('SET', key, string.format('%.0f', now + kept), 'PX', math.ceil(kept / 1000) + 1)
    end
  end
end
return answer";

/// What all instances together say to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts; these only count, and were beyond, by their places.
    Within(Vec<usize>),
    /// The limit at this place does not let it through for so long.
    Beyond(usize, Duration),
}

impl Shared {
    /// Whether a request is within these limits of a route, with the client that each sees; one that is counts.
    ///
    /// # Errors
    ///
    /// Why nobody knows.
    pub async fn admit(&self, route: &str, limits: &[(&RateLimit, &[u8])]) -> Result<Verdict, Away> {
        let mut invocation = self.rate_script.prepare_invoke();
        for (limit, client) in limits {
            // Clients may have secret names. Those of a route are on one node, so that they can be asked together.
            let client = Sha256::digest(client);
            let digest: String = client.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            invocation.key(self.key(route, &format!("rate:{}:{digest}", limit.name)));
            invocation
                .arg(micros(limit.cost()).max(1))
                .arg(micros(limit.most()))
                .arg(u8::from(limit.dry_run));
        }
        let answer: Vec<i64> = self
            .ask("rate", route, |mut link| async move { invocation.invoke_async(&mut link).await })
            .await?;
        let (refusing, wait) = (answer.first().copied().unwrap_or(0), answer.get(1).copied().unwrap_or(0));
        if let Ok(place @ 1..) = usize::try_from(refusing) {
            let wait = Duration::from_micros(u64::try_from(wait).unwrap_or(0));
            return Ok(Verdict::Beyond(place - 1, wait));
        }
        let beyond = answer.iter().skip(2).enumerate().filter(|(_, beyond)| **beyond == 1);
        Ok(Verdict::Within(beyond.map(|(place, _)| place).collect()))
    }
}
