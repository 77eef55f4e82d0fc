//! Why a request gets no server.

use std::time::{Duration, Instant};

/// How long a client is asked to stay away when nobody can say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why there is no place for a request at any server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No server takes requests now.
    #[error("no server takes requests now")]
    Nobody {
        /// When one will be tried again.
        retry_after: Duration,
    },
    /// All are busy, and as many as may wait do so already.
    #[error("all servers are busy, and {0} requests wait already")]
    Full(usize),
    /// It has waited for too long.
    #[error("all servers were busy for {0:?}")]
    TooLate(Duration),
    /// Who wanted it has left.
    #[error("who wanted it has left")]
    Left,
}

impl Unavailable {
    /// Nobody takes it before that moment, if that is known.
    pub fn nobody(until: Option<Instant>, now: Instant) -> Self {
        let retry_after = until.map_or(RETRY_AFTER, |until| until.saturating_duration_since(now));
        Self::Nobody { retry_after: retry_after.max(RETRY_AFTER) }
    }

    /// The word used in the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody { .. } => "no-server",
            Self::Full(_) => "queue-full",
            Self::TooLate(_) => "queue-timeout",
            Self::Left => "left",
        }
    }

    /// How long a client should stay away, in whole seconds (RFC 9110 section 10.2.3).
    pub fn retry_after(self) -> u64 {
        match self {
            Self::Nobody { retry_after } => retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0),
            _ => RETRY_AFTER.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_comes_back_when_a_server_is_tried_again_and_not_at_once() {
        let now = crate::clock::start();
        for (millis, seconds) in [(0, 1), (1, 1), (1500, 2), (9000, 9)] {
            let until = Some(now + Duration::from_millis(millis));
            assert_eq!(Unavailable::nobody(until, now).retry_after(), seconds, "{millis}");
        }
        assert_eq!(Unavailable::nobody(None, now).retry_after(), 1);
        assert_eq!(Unavailable::Full(3).retry_after(), 1);
    }
}
