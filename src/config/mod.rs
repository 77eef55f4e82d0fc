//! The YAML as written: its types, how it is read, and how its mistakes are told.
//!
//! Reading never stops at the first mistake. [`load()`] collects all of them, each with its place in the file and
//! a remedy; [`crate::plan`] adds those that only the whole shows, and only a file without any becomes a plan.

pub mod headers;
pub mod limits;
pub mod listener;
pub mod load;
pub mod locate;
pub mod redis;
pub mod report;
pub mod schema;
pub mod upstream;
pub mod values;

pub use load::{Loaded, load};
pub use report::{Mistake, Report, Severity};
pub use schema::Config;
