//! Whether a request is sent once more, after it has failed.
//!
//! What may have been carried out is not repeated unless its method says that twice is once (RFC 9110 section 9.2.2). And
//! retries must not multiply an outage: they are paid out of a budget that requests fill.

/// What went wrong between parvis and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about.
    Connect,
    /// It took too long: to connect, to take the request, or to answer.
    Timeout,
    /// The connection broke off.
    Broken,
    /// What came was no HTTP.
    Malformed,
    /// An answer with a status that counts as a failure.
    Status(u16),
}

impl Failure {
    /// The word used in metrics and statistics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Malformed => "malformed",
            Self::Status(_) => "status",
        }
    }
}

/// After what a request is sent again, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// How often at most.
    pub attempts: usize,
    /// Whether where no connection came about.
    pub on_connect: bool,
    /// Whether after an error: a connection that broke off, or no HTTP.
    pub on_error: bool,
    /// Whether after a timeout.
    pub on_timeout: bool,
    /// After which statuses.
    pub statuses: Vec<u16>,
    /// Retries per request, in the long run.
    pub budget: f64,
}

/// What is known of an attempt that has failed.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// What went wrong.
    pub failure: Failure,
    /// How often the request was sent before it.
    pub before: usize,
    /// Whether anything of the request may have reached the server.
    pub was_sent: bool,
    /// Whether that was on a connection that had been used before: the server may have been about to close it.
    pub was_reused: bool,
    /// Whether the method may be repeated.
    pub is_idempotent: bool,
    /// Whether the content of the request is still there to be sent again.
    pub has_content: bool,
    /// Whether the client has got something of the answer.
    pub has_answered: bool,
}

/// Why a request is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// The policy does not name the failure.
    Policy,
    /// It was sent often enough.
    Attempts,
    /// It may have been carried out.
    NotIdempotent,
    /// Its content is not kept.
    Content,
    /// The client has got something of the answer.
    Answered,
    /// The budget is spent.
    Budget,
}

impl RetryPolicy {
    /// Decides it. Who is told yes takes it out of the budget.
    pub fn judge(&self, attempt: &Attempt, budget: &mut Budget) -> Result<(), NoRetry> {
        let is_named = match attempt.failure {
            // Not the server's failure: it closes connections that nobody uses.
            Failure::Broken if attempt.was_reused => true,
            Failure::Connect => self.on_connect,
            Failure::Broken | Failure::Malformed => self.on_error,
            Failure::Timeout => self.on_timeout,
            Failure::Status(status) => self.statuses.contains(&status),
        };
        if attempt.has_answered {
            return Err(NoRetry::Answered);
        }
        if !is_named {
            return Err(NoRetry::Policy);
        }
        if attempt.before >= self.attempts {
            return Err(NoRetry::Attempts);
        }
        if attempt.was_sent && !attempt.is_idempotent {
            return Err(NoRetry::NotIdempotent);
        }
        if !attempt.has_content {
            return Err(NoRetry::Content);
        }
        if budget.spend() { Ok(()) } else { Err(NoRetry::Budget) }
    }
}

/// Retries that may be made without a request that pays for them.
const RESERVE: f64 = 10.0;

/// How many retries the requests so far have left.
#[derive(Debug)]
pub struct Budget(f64);

impl Default for Budget {
    fn default() -> Self {
        Self(RESERVE)
    }
}

impl Budget {
    /// A request pays its share.
    pub fn pay(&mut self, share: f64) {
        self.0 = (self.0 + share).min(RESERVE);
    }

    fn spend(&mut self) -> bool {
        let is_enough = self.0 >= 1.0;
        if is_enough {
            self.0 -= 1.0;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            attempts: 2,
            on_connect: true,
            on_error: true,
            on_timeout: false,
            statuses: vec![503],
            budget: 0.2,
        }
    }

    fn attempt(failure: Failure) -> Attempt {
        Attempt {
            failure,
            before: 0,
            was_sent: true,
            was_reused: false,
            is_idempotent: true,
            has_content: true,
            has_answered: false,
        }
    }

    #[test]
    fn only_what_is_named_and_harmless_is_repeated() {
        let connect = attempt(Failure::Connect);
        let broken = attempt(Failure::Broken);
        for (attempt, expected) in [
            (connect, Ok(())),
            (Attempt { is_idempotent: false, was_sent: false, ..connect }, Ok(())),
            (broken, Ok(())),
            (Attempt { is_idempotent: false, ..broken }, Err(NoRetry::NotIdempotent)),
            (Attempt { has_content: false, ..broken }, Err(NoRetry::Content)),
            (Attempt { has_answered: true, ..broken }, Err(NoRetry::Answered)),
            (Attempt { before: 1, ..broken }, Ok(())),
            (Attempt { before: 2, ..broken }, Err(NoRetry::Attempts)),
            (self::attempt(Failure::Malformed), Ok(())),
            (self::attempt(Failure::Timeout), Err(NoRetry::Policy)),
            (self::attempt(Failure::Status(503)), Ok(())),
            (self::attempt(Failure::Status(500)), Err(NoRetry::Policy)),
        ] {
            assert_eq!(policy().judge(&attempt, &mut Budget::default()), expected, "{attempt:?}");
        }
        let silent = RetryPolicy { on_connect: false, on_error: false, statuses: vec![], ..policy() };
        let reused = Attempt { was_reused: true, ..broken };
        assert_eq!(silent.judge(&connect, &mut Budget::default()), Err(NoRetry::Policy));
        assert_eq!(silent.judge(&broken, &mut Budget::default()), Err(NoRetry::Policy));
        assert_eq!(silent.judge(&reused, &mut Budget::default()), Ok(()), "the server was about to close it");
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let (policy, mut budget) = (policy(), Budget::default());
        let mut retries = 0;
        for _ in 0..1000 {
            budget.pay(policy.budget);
            retries += usize::from(policy.judge(&attempt(Failure::Broken), &mut budget).is_ok());
        }
        assert!((200..=210).contains(&retries), "{retries}");
    }
}
