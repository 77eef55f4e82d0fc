//! parvis stands in front of a legacy HTTP application and makes it fast, observable and hard to knock over,
//! without touching its code.
//!
//! # The way of a request
//!
//! [`front`] owns the connection and lends it to [`proxy`], where a request is identified, routed, judged, and
//! served: from the [`store`], from a fetch that all who ask for the same page share, or from the [`origin`]. Every
//! decision on that way is taken by [`rules`], by pure functions with named reasons; [`observe`] tells the outcome
//! in the same words to the client, the log and the metrics.
//!
//! # The rooms
//!
//! | module | is |
//! |---|---|
//! | [`cli`] | the commands |
//! | [`config`] | the YAML as written, and how its mistakes are told |
//! | [`plan`] | the configuration compiled: validated, immutable, swapped whole |
//! | [`rules`] | every decision of the cache, pure |
//! | [`store`] | what is kept, what is on its way, and how it leaves |
//! | [`front`] | the doorman of every connection |
//! | [`proxy`] | the full path of a request |
//! | [`origin`] | the upstream side |
//! | [`admin`] | purge, metrics and health on a listener of their own |
//! | [`observe`] | outcome, metrics, logs |
//! | [`shared`] | what several instances share |
//! | [`server`] | puts the parts together and runs them |
//! | [`codec`] | the content codings themselves |
//! | [`clock`] | the only place that reads the time |
//!
//! Imports point one way: `config → plan → rules ← {store, shared, proxy, front, admin}`.
// Two functions are allowed it, and say why: `proxy::wire::Wire::descriptor` and `proxy::deadline::Deadline::new`.
#![deny(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod front;
pub mod observe;
pub mod origin;
pub mod plan;
pub mod proxy;
pub mod rules;
pub mod server;
pub mod shared;
pub mod store;
