//! The part of a route about how often its clients may ask.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::values::{OneOrMany, Period, one_or_list};

/// One limit, or a list of them that must all agree.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct RateLimits(pub Vec<RateLimit>);

/// How often a client may ask.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// In the response and the metric. Default the route's name.
    pub name: Option<String>,
    /// What counts as a client: `client_ip` (default; of IPv6 its /64), `header:NAME`, `cookie:NAME`, `jwt_claim:NAME`, or
    /// `route`: all together. None of them is verified, and who does not say is known by its address.
    pub key: Option<String>,
    /// How often: `100/h`, `10/s`, `5/30s`.
    pub rate: Option<Rate>,
    /// How many at once. Default as many as `rate` says.
    pub burst: Option<u32>,
    /// For which methods. Default all.
    pub methods: Option<OneOrMany>,
    /// Networks that are not limited. Default none.
    pub allow: Vec<String>,
    /// Whether it only counts what it would refuse. Default `false`.
    pub dry_run: Option<bool>,
    /// Whether all instances that share `storage.redis` count together. Default `false`.
    pub shared: Option<bool>,
    /// What then happens while the Redis does not answer: `open` (default), each instance lets through its part; `closed`, nobody
    /// is let through.
    pub on_error: Option<OnError>,
}

/// What a shared limit does while nobody knows how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Each instance counts by itself, against its part.
    Open,
    /// It refuses.
    Closed,
}

/// Whom a route lets through; the closest network decides.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// Only these networks. Default all.
    pub allow: Vec<String>,
    /// None of these. Default none.
    pub deny: Vec<String>,
}

impl<'de> Deserialize<'de> for RateLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_or_list(deserializer, "a limit such as `{rate: 100/h}`, or a list of them").map(Self)
    }
}

/// So many requests within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests.
    pub count: u32,
    /// The time.
    pub period: Duration,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate; write `100/h`, `10/s` or `5/30s`");
        let (count, period) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
        let period = period.trim();
        let period = if period.starts_with(|c: char| c.is_ascii_digit()) {
            period.to_owned()
        } else {
            format!("1{period}")
        };
        let Period(period) = period.parse().map_err(|_| wrong())?;
        // A request that costs nothing would be no limit.
        let fits = period / count >= Duration::from_nanos(1) && period <= Duration::from_secs(366 * 86_400);
        fits.then_some(Self { count, period }).ok_or_else(wrong)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, Period(self.period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        let rate = |count, seconds| Ok(Rate { count, period: Duration::from_secs(seconds) });
        assert_eq!("100/h".parse(), rate(100, 3600));
        assert_eq!("10 / s".parse(), rate(10, 1));
        assert_eq!("5/30s".parse(), rate(5, 30));
        for bad in ["", "5", "0/s", "-1/s", "5/", "5/x", "h/5", "5/999y"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
