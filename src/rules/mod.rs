//! Every decision of the cache, as pure functions.
//!
//! Nothing in here waits, reads a clock, opens a socket or knows the HTTP library: a function takes borrowed
//! heads, a policy and the present moment, and returns an enum whose refusals carry a named reason. Whoever
//! asks (the proxy, the front, `parvis explain`) gets the same answer in the same words.
//!
//! | module | decides |
//! |---|---|
//! | [`head`] | what a request or response head is to the rules |
//! | [`hop`] | which fields belong to a connection and not to a message |
//! | [`policy`] | what the operator wants, per route |
//! | [`wildcard`] | which names a list with wildcards means |
//! | [`target`] | how a URL is spelled: percent-encoding, host, query |
//! | [`route`] | which route takes a request, and why not the ones before it |
//! | [`routes`] | how that route is found among many |
//! | [`cookies`] | which cookies carry identity, and which are sent on |
//! | [`framing`] | where a request ends, and which heads are not let in |
//! | [`request`] | a request as the two parsers lend it |
//! | [`identity`] | who shares an entry |
//! | [`preferences`] | what a client's languages and media types are reduced to |
//! | [`outgoing`] | which fields a fetch takes along |
//! | [`lookup`] | whether a request may be answered from a stored response |
//! | [`key`] | under which key, and which variant |
//! | [`directives`] | how the directives of a `Cache-Control` line are spelled |
//! | [`cache_control`] | what the `Cache-Control` of a response says |
//! | [`targeted`] | what `CDN-Cache-Control` says instead |
//! | [`client_control`] | what a client asks of the cache |
//! | [`forwarding`] | who the client is, and which of its claims are believed |
//! | [`freshness`] | how long a response is fresh |
//! | [`verdict`] | hit, stale, revalidate or miss |
//! | [`admission`] | whether a response may be stored |
//! | [`media`] | whether a response is the file that its path promises |
//! | [`guard`] | whether a response may be shared with those whose requests differ |
//! | [`secrets`] | whether a body shows a secret of its visitor |
//! | [`encoding`] | in which coding a client gets it, and whether it can read the one it has |
//! | [`encodable`] | whether it is worth encoding, and what its forms are called |
//! | [`conditional`] | whether the client already has it (304) |
//! | [`ranges`] | which bytes of it the client asks for (206) |
//! | [`validation`] | what a 304 from the origin changes in the stored response |
//! | [`template`] | text with parts of the path in it |
//! | [`text`] | how short texts are split and compared |
//! | [`tags`] | which labels a response carries |
//! | [`selector`] | what a purge names |
//! | [`pattern`] | the same by regular expressions |
//! | [`invalidate`] | what a write removes |
//! | [`balance`] | which of several servers gets a request |
//! | [`breaker`] | when a server is left alone |
//! | [`headers`] | which fields of messages the operator adds, replaces and removes |
//! | [`limit`] | how often a client may ask, and who may ask at all |
//! | [`retry`] | whether a request that failed is sent once more |
//! | [`unavailable`] | why a request gets no server |
//! | [`dialect`] | what the purge clients of other caches mean |

pub mod admission;
pub mod balance;
pub mod breaker;
pub mod cache_control;
pub mod client_control;
pub mod conditional;
pub mod cookies;
pub mod dialect;
pub mod directives;
pub mod encodable;
pub mod encoding;
pub mod forwarded;
pub mod forwarding;
pub mod framing;
pub mod freshness;
pub mod guard;
pub mod head;
pub mod headers;
pub mod hop;
pub mod identity;
pub mod invalidate;
pub mod key;
pub mod limit;
pub mod lookup;
pub mod media;
pub mod outgoing;
pub mod pace;
pub mod pattern;
pub mod policy;
pub mod preferences;
pub mod ranges;
pub mod request;
pub mod retry;
pub mod route;
pub mod routes;
pub mod secrets;
pub mod selector;
pub mod tags;
pub mod target;
pub mod targeted;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod unavailable;
pub mod validation;
pub mod verdict;
pub mod wildcard;
