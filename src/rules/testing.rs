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
        mode: Mode::Enforce,
        ttl: Duration::from_secs(60),
        status_ttl: [(404, Duration::from_secs(10))].into(),
        origin_cache_control: OriginControl::Honour,
        heuristic: None,
        set_cookie: SetCookie::Uncacheable,
        authorization: Authorization::Pass,
        client_cache_control: ClientCacheControl::Honour,
        tags: vec!["products".into()],
        ignore_cookies: Patterns::new(ANALYTICS_COOKIES).expect("constants compile"),
        forward_cookies: Patterns::default(),
        ignore_vary: Vec::new(),
        bypass_headers: Vec::new(),
        identity: IdentityPolicy::default(),
        query: QueryPolicy {
            include: Patterns::default(),
            exclude: Patterns::new(CAMPAIGN_PARAMETERS).expect("constants compile"),
            forward_excluded: false,
            sort: true,
        },
        preferences: Preferences::default(),
        max_variants: 1000,
        guard: Guard::On,
        personalised_ttl: Duration::from_secs(600),
        extension_must_match: true,
        stamp: 0,
        audit: 0.0,
        lock_timeout: Duration::from_secs(5),
        uncacheable_ttl: Duration::from_secs(120),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        stale_on_disconnect: Duration::ZERO,
    }
}
