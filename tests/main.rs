//! parvis from outside: the real binary between a client and an origin. One module per feature; built as one
//! program, because linking is what takes the time.
#![allow(clippy::disallowed_methods)]

mod support;

mod cache;
mod coalescing;
mod command_line;
mod dashboard;
mod deploy;
mod differential;
mod django;
mod docs;
mod downgrade;
mod encoding;
mod faults;
mod front;
mod headers;
mod lifecycle;
mod limits;
mod memory;
mod observe;
mod oracle;
mod origin;

mod passing;
mod peers;
mod purge;
mod regression;
mod rfc;
mod safety;
mod shared;
mod tidy;
mod tls;
mod trial;
mod upstream;
mod writes;
