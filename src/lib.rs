#![forbid(unsafe_code)]
pub mod clock;
pub mod rules;
