//! The YAML as written. Every key is optional and unknown keys are mistakes; what a key left out means stands
//! in its comment, and [`crate::plan`] gives it that meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::headers::{Headers, ResponseHeaders};
use super::limits::{Access, RateLimits};
use super::listener::Listeners;
use super::redis::Redis;
use super::upstream::RouteTimeouts;
pub use super::upstream::Upstream;
use super::values::{OneOrMany, Period, Secret, Share, Size};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients connect: one address or a list. Default `:8080`, which is every address of the machine.
    pub listen: Option<Listeners>,
    /// Networks of proxies that are believed about their clients. Default none.
    pub trusted_proxies: Vec<String>,
    /// By which fields these tell of them; those of the other kind may be the client's own, and are dropped. Default
    /// `x_forwarded`.
    pub forwarded_fields: Option<ForwardedFields>,
    /// Networks whose `PURGE`, `BAN`, `PURGEKEYS`, `PURGETAGS` and `URIBAN` on the main listener are carried out. Default
    /// the machine itself, `[127.0.0.0/8, "::1"]`; `[]` for nobody.
    pub purge_clients: Option<Vec<String>>,
    /// What the connections of clients are allowed.
    pub clients: Clients,
    /// What this instance is called in answers to purges and in the audit log. Default the machine's name and the first
    /// port of `listen`.
    pub instance: Option<String>,
    /// The operators' own listener.
    pub admin: Admin,
    /// The applications behind parvis, by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Where responses are kept.
    pub storage: Storage,
    /// What every route's `cache` starts from.
    pub cache_defaults: Cache,
    /// How bodies are encoded for those who accept that; what every route's `encode` starts from.
    pub encode: Encode,
    /// The rules; the first match wins.
    pub routes: Vec<Route>,
    /// What is done to the fields of every response.
    pub response_headers: ResponseHeaders,
    /// Logs.
    pub observability: Observability,
}

/// By which fields proxies tell of their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedFields {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Prefix` and `-Port`, and what names the visitor, as `X-Remote-User`.
    XForwarded,
    /// `Forwarded` (RFC 7239): `for`, `proto`, `host`.
    Forwarded,
}

/// What the connections of clients are allowed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// The largest head of a request, its request line included; a larger one is answered 431. Default `32KiB`.
    pub max_header_size: Option<Size>,
    /// How long a head may take from its first byte to its last; then it is answered 408. Default `10s`.
    pub header_timeout: Option<Period>,
    /// How long a connection is kept that waits for a request. Default `60s`.
    pub idle_timeout: Option<Period>,
    /// How long a client may send nothing of a request's body, or take nothing of a response; then its connection ends.
    /// Default `60s`.
    pub stall_timeout: Option<Period>,
    /// The least that a client has to send or take in a second, on average over the time that it is waited for, once that is
    /// longer than `stall_timeout`; by HTTP/2 to send. `0B`: anything. Default `100B`.
    pub min_rate: Option<Size>,
}

/// The operators' own listener: purge, metrics, health.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Default `127.0.0.1:9180`. Anything but a loopback address draws a warning.
    pub listen: Option<String>,
    /// Who may purge. Default nobody.
    pub tokens: Vec<Token>,
    /// A file that gets one line of JSON per purge, besides the log. Default none.
    pub audit_log: Option<PathBuf>,
}

/// A bearer token of the admin API.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Token {
    /// Named in the audit log.
    pub name: Option<String>,
    /// At least 16 bytes; best from the environment: `${PARVIS_CI_TOKEN}`.
    pub secret: Option<Secret>,
    /// Instead of it: its SHA-256 in hexadecimal, as `printf %s "$SECRET" | sha256sum` prints it.
    pub sha256: Option<String>,
    /// What it allows.
    pub scopes: Vec<Scope>,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Purge by all but `all`.
    Purge,
    /// Purge everything.
    PurgeAll,
    /// See what was purged, and what is stored.
    Read,
}

/// Where responses are kept.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// In the process.
    pub memory: Memory,
    /// Beside it, for several instances. Default none.
    pub redis: Option<Redis>,
}

/// The memory tier.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// What stored responses may occupy, their bookkeeping included. Default `256MiB`.
    pub max_size: Option<Size>,
    /// The largest body stored; larger ones stream through. Default `8MiB`.
    pub max_object_size: Option<Size>,
}

/// How responses are cached. A key set on a route replaces the one in `cache_defaults`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// `enforce` (default), `shadow` or `off`.
    pub mode: Option<Mode>,
    /// Which share of hits is compared with what the origin would have answered to the same visitor. A difference
    /// that is not a mere change of the page trips the route: its requests pass until the next reload. Default `0%`.
    pub audit: Option<Share>,
    /// How long a successful response is fresh when the origin does not say. Default `0s`: only what the origin
    /// marks as fresh is stored.
    pub ttl: Option<Period>,
    /// The same by status, such as `{404: 30s}`; wins over `ttl`.
    pub status_ttl: Option<BTreeMap<u16, Period>>,
    /// `honour` (default): a lifetime from the origin wins. `override`: the route's wins; `no-store`, `private`,
    /// `no-cache` and `Set-Cookie` are obeyed all the same.
    pub origin_cache_control: Option<OriginCacheControl>,
    /// A lifetime guessed from `Last-Modified` where nobody gives one.
    pub heuristic: Heuristic,
    /// What is done with a response that sets a cookie. `uncacheable` (default): it was made for one visitor and is
    /// not stored. `strip`: it is stored, and sent to everyone, without its cookies. `store`: everyone gets the
    /// same cookies.
    pub set_cookie: Option<SetCookie>,
    /// What is done with a request that carries `Authorization`. `pass` (default): it goes to the origin by itself.
    /// `rfc9111`: it may be answered from the store, and its response is stored when the origin marks it `public`,
    /// `s-maxage` or `must-revalidate`.
    pub authorization: Option<Authorization>,
    /// Whether the `Cache-Control` of requests counts: `honour` (default) or `ignore`.
    pub client_cache_control: Option<ClientCacheControl>,
    /// Labels for purges, in which `{id}` stands for what the route's path captures. Default none.
    pub tags: Option<Vec<String>>,
    /// Fields of responses that carry more labels; none that clients need, such as `ETag`. Default those of the usual dialects.
    pub tag_headers: Option<Vec<String>>,
    /// Whether clients are sent those fields. Default `false`.
    pub deliver_tags: Option<bool>,
    /// Cookies that change nothing, with `*` as wildcard: left out of the key and of what the origin is sent.
    /// Default the cookies of the usual analytics scripts.
    pub ignore_cookies: Option<Vec<String>>,
    /// Cookies that change nothing but that the origin needs: left out of the key, and sent. The guard watches them.
    /// Default none.
    pub forward_cookies: Option<Vec<String>>,
    /// Fields of the origin's `Vary` that change nothing; never `*`. The guard watches them. Default none.
    pub ignore_vary: Option<Vec<String>>,
    /// Whether the guard watches what reaches the origin and is not in the key: `on` (default) or `off`.
    pub guard: Option<Guard>,
    /// How long a key is not stored after different visitors got different responses to it. Default `10m`.
    pub personalised_ttl: Option<Period>,
    /// Whether a path that ends like a static file is stored only when the response is such a file. Default `true`.
    pub extension_must_match: Option<bool>,
    /// What else makes a request personal.
    pub bypass: Bypass,
    /// What makes two requests the same.
    pub key: Key,
    /// What preferences of clients are reduced to, in the key and in what the origin is sent.
    pub vary: Preferences,
    /// The most entries of one URL; the oldest makes room. Default `1000`.
    pub max_variants: Option<usize>,
    /// Waiting for another request's fetch.
    pub lock: Lock,
    /// Where responses are kept: `[memory, redis]` (default, where there is `storage.redis`), or `[memory]`.
    pub tiers: Option<Vec<Tier>>,
    /// How long a key that proved uncacheable is not waited for. Default `2m`.
    pub uncacheable_ttl: Option<Period>,
    /// How long an expired response is served while it is refreshed. Default `0s`.
    pub stale_while_revalidate: Option<Period>,
    /// How long an expired response is served when the origin fails. Default `0s`.
    pub stale_if_error: Option<Period>,
    /// How long an expired response is served when the origin does not answer at all; an error that it answers with
    /// is passed on. Default `0s`.
    pub stale_on_disconnect: Option<Period>,
}

/// Where responses are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// In this instance.
    Memory,
    /// In `storage.redis`, for all instances.
    Redis,
}

/// How bodies are encoded.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Encode {
    /// On offer; of those that a client likes equally the first is taken. Default `[br, zstd, gzip]`; `[]` encodes nothing.
    pub formats: Option<Vec<Format>>,
    /// The smallest body worth it. Default `800B`.
    pub min_length: Option<Size>,
    /// The largest, at most `64MiB`. Default `4MiB`.
    pub max_length: Option<Size>,
    /// Whether a length may tell what a page holds (BREACH). `pad` (default): random bytes that decoders skip are added to what
    /// passes, and to what is stored for one person each; then there is no zstd. `off`: lengths are as they are.
    pub mitigate_breach: Option<MitigateBreach>,
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// gzip.
    Gzip,
}

/// What is done about lengths that tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MitigateBreach {
    /// They are blurred.
    Pad,
    /// Nothing.
    Off,
}

/// A lifetime guessed where neither the origin nor the route gives one: what has not changed for long will not
/// change soon.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heuristic {
    /// `off` (default) or `last_modified`.
    pub mode: Option<HeuristicMode>,
    /// Which share of the time since `Last-Modified`. Default `10`.
    pub percent: Option<u8>,
    /// The longest lifetime guessed. Default `1d`.
    pub max: Option<Period>,
}

/// Whether a lifetime is guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeuristicMode {
    /// It is not.
    Off,
    /// From `Last-Modified`.
    LastModified,
}

/// What is done with a response that sets a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SetCookie {
    /// It is not stored.
    Uncacheable,
    /// It is stored without its cookies.
    Strip,
    /// It is stored with its cookies.
    Store,
}

/// What is done with a request that carries `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Authorization {
    /// It goes to the origin by itself.
    Pass,
    /// It takes part in caching.
    Rfc9111,
}

/// Whether the `Cache-Control` of requests counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCacheControl {
    /// It does.
    Honour,
    /// It does not.
    Ignore,
}

/// Whether a route caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It does.
    Enforce,
    /// Every request goes to the origin; what the store would have answered is compared with what came.
    Shadow,
    /// Every request goes to the origin.
    Off,
}

/// Whether the personalisation guard watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// It does.
    On,
    /// It does not.
    Off,
}

/// Whose lifetime wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginCacheControl {
    /// The origin's, where it gives one.
    Honour,
    /// The route's.
    Override,
}

/// What else makes a request personal.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bypass {
    /// Field names, besides `Authorization` and the usual names of API keys and tokens, which always count.
    pub headers: Option<Vec<String>>,
}

/// What makes two requests the same.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Key {
    /// The query string.
    pub query: Query,
    /// Cookies whose value is part of the key, with `*` as wildcard: each value has entries of its own. Default none.
    pub cookies: Option<Vec<String>>,
    /// Fields whose value is part of the key, such as `Authorization`. Default none.
    pub headers: Option<Vec<String>>,
    /// A claim of the JSON Web Token in `Authorization`, such as `sub`. It is not verified; the guard gives an entry to
    /// a token only once the origin has answered it with the same bytes.
    pub jwt_claim: Option<String>,
    /// Whether the kind of device (`mobile`, `tablet`, `desktop`) is part of the key; the origin is sent it as
    /// `X-Device-Class`, and need not vary on `User-Agent`. Default `false`.
    pub device_class: Option<bool>,
}

/// Lists that the preferences of clients are reduced to: a fetch asks for the item that the client likes best, or, when
/// it likes none, does not ask.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Preferences {
    /// Languages that the origin distinguishes, such as `[fr, en]`. Default: as sent.
    pub accept_language: Option<Vec<String>>,
    /// Media types that it distinguishes, such as `[text/html, application/json]`. Default: as sent.
    pub accept: Option<Vec<String>>,
}

/// How the query takes part in the key.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    /// The only parameters that change anything, with `*` as wildcard. Default all that are not excluded.
    pub include: Option<Vec<String>>,
    /// Parameters that change nothing, with `*` as wildcard: left out of the key. Default those of the usual campaigns.
    pub exclude: Option<Vec<String>>,
    /// Whether parameters outside the key are sent to the origin all the same: `drop` (default) or `forward`, watched
    /// by the guard.
    pub excluded: Option<Excluded>,
    /// Whether `?a=1&b=2` and `?b=2&a=1` are one page. Default `true`.
    pub sort: Option<bool>,
}

/// What becomes of parameters outside the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Excluded {
    /// A fetch does not send them.
    Drop,
    /// It does.
    Forward,
}

/// Waiting for another request's fetch of the same key.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lock {
    /// Then the request goes to the origin by itself. Default `5s`.
    pub timeout: Option<Period>,
    /// Whether a fetch of another instance is waited for too, for as long. Needs `storage.redis`. Default `false`.
    pub shared: Option<bool>,
}

/// One rule.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// Unique; part of the key, and a label in logs and metrics.
    pub name: Option<String>,
    /// Which requests it takes. Default all.
    pub r#match: Match,
    /// A name from `upstreams`. May be left out where there is only one.
    pub upstream: Option<String>,
    /// How its responses are cached.
    pub cache: Cache,
    /// How they are encoded. A key set here replaces the one at the top.
    pub encode: Encode,
    /// What a successful write through it removes, besides its own URL.
    pub purge_on_success: Vec<Removal>,
    /// How often a client may ask: one limit, or a list. Beyond it is answered 429. Default any number.
    pub rate_limit: RateLimits,
    /// The most requests of one client under way at once, pages from the store not counted. Default any number.
    pub max_concurrent: Option<usize>,
    /// Whom it lets through; all others are answered 403.
    pub access: Access,
    /// How long its requests may take, where that is not as its upstream has it.
    pub timeouts: RouteTimeouts,
    /// What is done to the fields of its requests before the application gets them.
    pub request_headers: Headers,
    /// What is done to the fields of its responses, besides what is done to all.
    pub response_headers: Headers,
}

/// Which requests a route takes; all given criteria must hold.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Host names, with `*` as wildcard.
    pub host: Option<OneOrMany>,
    /// Paths, with `*` as wildcard that also crosses `/`; `{id}` captures within one segment.
    pub path: Option<OneOrMany>,
    /// A regular expression searched for in the path, which is percent-encoded where it must be; `(?<id>..)` captures.
    pub path_regex: Option<String>,
    /// Methods. Default all.
    pub methods: Option<OneOrMany>,
    /// Fields that must be present, with a pattern for their value; `*` for any.
    pub headers: Option<BTreeMap<String, String>>,
}

/// What a write removes. `{id}` stands for what the route's path captures.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Removal {
    /// Everything with one of these tags.
    pub tags: Option<OneOrMany>,
    /// Everything whose path begins like this.
    pub prefix: Option<OneOrMany>,
    /// These pages.
    pub url: Option<OneOrMany>,
    /// Every URL like this, with `*` for any text.
    pub wildcard: Option<OneOrMany>,
    /// Whether it only expires: then it may be served within its stale windows. Default `false`.
    pub soft: Option<bool>,
}

/// Logs.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Observability {
    /// One line per request.
    pub access_log: AccessLog,
    /// Requests slower than this are logged with where the time went. Default `1s`.
    pub slow_request: Option<Period>,
}

/// One line per request, to standard output.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// `json` (default) or `off`.
    pub format: Option<LogFormat>,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// No access log.
    Off,
}
