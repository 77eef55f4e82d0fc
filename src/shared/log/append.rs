//! Telling the others of this instance's purges, in order, for as long as it takes.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{self, Purge};
use super::journal::Journal;
use super::{LOG, Position};
use crate::shared::{Away, Shared};

/// How long to wait before the next attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// About how many entries the log keeps: who was away for longer drops what it has.
const MAX_ENTRIES: usize = 16_384;

/// Appends a purge, if the log has been begun, and answers its place.
pub(in crate::shared) const APPEND: &str = "
if #redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1) == 0 then
  return ''
end
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', ARGV[2], ARGV[3], ARGV[4], ARGV[5])";

/// Appends all that waits, for ever.
pub async fn append(shared: Arc<Shared>) {
    let mut journal = Journal::new(shared.settings.journal.clone());
    loop {
        let Some(purge) = shared.log.next() else {
            journal.hold(Vec::new()).await;
            shared.log.waits.notified().await;
            continue;
        };
        match shared.append(&purge).await {
            Ok(Some(at)) => shared.log.appended(purge.nonce, at),
            Ok(None) | Err(_) => {
                // Why has been counted; who follows the log begins it.
                journal.hold(shared.log.untold()).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
        shared.figures.log_waiting(shared.log.waiting());
    }
}

impl Shared {
    /// Appends a purge; its place, or nothing where nobody has begun the log.
    pub(in crate::shared) async fn append(&self, purge: &Purge) -> Result<Option<Position>, Away> {
        // What cannot be read is taken for a purge of everything.
        let text = serde_json::to_string(purge).unwrap_or_default();
        let place: String = self
            .ask("purge", LOG, |mut link| async move {
                let mut invocation = self.append_script.prepare_invoke();
                invocation.key(self.key(LOG, "")).arg(MAX_ENTRIES);
                invocation.arg(entry::NONCE).arg(purge.nonce.to_string()).arg(entry::PURGE).arg(text);
                invocation.invoke_async(&mut link).await
            })
            .await?;
        Ok(place.parse().ok())
    }
}
