//! Policies and heads for the tests of the rules.

use std::sync::LazyLock;
use std::time::Duration;

use super::policy::*;

/// What a route has when the operator says nothing, with a lifetime of one minute.
pub fn policy() -> CachePolicy {
    // Compiling the patterns takes longer than most tests.
    static POLICY: LazyLock<CachePolicy> = LazyLock::new(default_policy);
    POLICY.clone()
}

fn default_policy() -> CachePolicy {
    CachePolicy {
        ttl: Duration::from_secs(60),
        status_ttl: [(404, Duration::from_secs(10))].into(),
        ignore_cookies: Patterns::new(ANALYTICS_COOKIES).expect("constants compile"),
        query: QueryPolicy {
            exclude: Patterns::new(CAMPAIGN_PARAMETERS).expect("constants compile"),
            sort: true,
            ..QueryPolicy::default()
        },
        max_variants: 1000,
        personalised_ttl: Duration::from_secs(600),
        lock_timeout: Duration::from_secs(5),
        shares_lock: false,
        is_shared: true,
        shared_stamp: 0,
        uncacheable_ttl: Duration::from_secs(120),
        ..CachePolicy::default()
    }
}
