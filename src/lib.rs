#![forbid(unsafe_code)]
pub mod clock;
pub mod config;
pub mod plan;
pub mod rules;
pub mod store;
