#![forbid(unsafe_code)]
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod front;
pub mod observe;
pub mod origin;
pub mod plan;
pub mod proxy;
pub mod rules;
pub mod server;
pub mod store;
