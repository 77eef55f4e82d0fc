//! `parvis check`: every mistake at once; exit code 2 when the file cannot be used.

use std::path::Path;

use super::{Failure, is_terminal, print};
use crate::plan::Plan;

pub fn run(file: &Path) -> Result<(), Failure> {
    let (plan, report) = Plan::load(file)?;
    if report.mistakes.is_empty() {
        print(&report.to_string());
    } else {
        print(&report.render(is_terminal()));
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (upstreams, routes) = (count(plan.upstreams.len(), "upstream"), count(plan.routes.len(), "route"));
    print(&format!("usable: {upstreams}, {routes}"));
    Ok(())
}
