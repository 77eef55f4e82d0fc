//! How many instructions the steps of a hit take, held against `instructions.budget`: `make instructions`.
//!
//! The program runs itself under callgrind, which counts what [`measured`] executes and nothing else. Counts hardly
//! depend on the machine or on what else it does, so that unlike times they can be checked with every change.
//! A new step is one more line in [`steps`] and, by `make instructions ARGS=--record`, in the budget.
#![allow(clippy::disallowed_methods)]

mod page;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use page::Page;
use parvis::clock;
use parvis::front::answer::Reused;
use parvis::proxy::limits::Limits;
use parvis::rules::client_control::ClientControl;
use parvis::rules::key::CacheKey;
use parvis::rules::target::{Scheme, Target};
use parvis::rules::verdict::Verdict;
use parvis::rules::{lookup, route, verdict};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Calls of one step that are counted together, so that what happens now and then (the allocator takes a new page)
/// has its share in every count.
const CALLS: u64 = 100;

/// What `--record` adds to a count, in percent: room for other compilers, C libraries and processors.
const ALLOWANCE: u64 = 5;

/// The least that it adds: 5 % of very few instructions would be none.
const LEAST_ALLOWANCE: u64 = 10;

/// What callgrind calls [`measured`].
const MEASURED: &str = "instructions::measured";

/// The argument that makes this program execute the steps rather than count them.
const EXECUTE: &str = "--execute";

/// A name without spaces, and what is counted.
type Step<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// The steps of a hit, and all of them together.
fn steps(page: &Page) -> Vec<Step<'_>> {
    let policy = &page.route.cache;
    let (client, found) = (ClientControl::default(), page.find().expect("the page is stored"));
    let mut steps: Vec<Step<'_>> = Vec::new();
    steps.push((
        "target",
        Box::new(|| {
            black_box(Target::new(Scheme::Http, black_box(page::HOST), black_box(page::PATH)));
        }),
    ));
    for (name, routes) in [("route-of-1", 1), ("route-of-100", 100), ("route-of-1000", 1000)] {
        let (plan, request) = (page::plan(routes), page::request());
        steps.push((
            name,
            Box::new(move || {
                black_box(route::select(black_box(&plan.routes), black_box(&request)));
            }),
        ));
    }
    let request = page::request();
    steps.push((
        "may-be-looked-up",
        Box::new(move || {
            black_box(lookup::allowed(black_box(&request), policy)).expect("it may");
        }),
    ));
    let request = page::request();
    steps.push((
        "key",
        Box::new(move || {
            black_box(CacheKey::primary("rest", black_box(&request), policy));
        }),
    ));
    steps.push(("store-lookup", Box::new(move || drop(black_box(black_box(page).find())))));
    steps.push((
        "verdict",
        Box::new(move || {
            black_box(verdict::judge(black_box(Some(&found.freshness())), &client, page.now));
        }),
    ));
    let (limits, limited, request) = (Limits::default(), page.limited(), page::request());
    steps.push((
        "rate-limit",
        Box::new(move || {
            let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
            let within = limits.admit(&limited, black_box(&request), client, clock::start(), true, |_| {});
            assert!(black_box(within).is_ok());
        }),
    ));
    steps.push(("rules-and-store", Box::new(move || whole(black_box(page)))));
    let (head, reused) = (page::head(), RefCell::new(Reused::default()));
    steps.push((
        "answer",
        Box::new(move || {
            let mut reused = reused.borrow_mut();
            black_box(page.answer(black_box(&head), &mut reused)).expect("a hit");
        }),
    ));
    let (head, reused) = (page::head(), RefCell::new(Reused::default()));
    let repeat = page.repeat(&head);
    steps.push((
        "answer-again",
        Box::new(move || {
            let mut reused = reused.borrow_mut();
            black_box(page.answer_again(black_box(&head), &repeat, &mut reused)).expect("a hit");
        }),
    ));
    steps
}

/// All decisions of a hit among fifty routes.
fn whole(page: &Page) {
    let request = page::request();
    let route = route::select(&page.app.live.load().plan.routes, black_box(&request))
        .cloned()
        .expect("the last takes all");
    lookup::allowed(&request, &route.cache).expect("it may be looked up");
    let key = CacheKey::primary(&route.name, &request, &route.cache);
    let found = page.app.store.memory.lookup(&key, |_| key.clone()).response.expect("the page is stored");
    let verdict = verdict::judge(Some(&found.freshness()), &ClientControl::default(), page.now);
    assert!(matches!(black_box(verdict), Verdict::Hit));
}

/// What callgrind counts. It finds the function by its name, so nothing else may be called like it.
#[inline(never)]
fn measured(step: &dyn Fn()) {
    for _ in 0..CALLS {
        step();
    }
}

/// Executes every step and prints its name, in the order in which callgrind writes its counts.
fn execute() {
    let page = Page::new();
    for (name, step) in steps(&page) {
        // What is done only once (thread locals, the first pages of the allocator) is no part of a hit.
        (0..10).for_each(|_| step());
        measured(&*step);
        println!("{name}");
    }
}

/// Instructions per call, by step.
type Counts = Vec<(String, u64)>;

/// Runs this program under callgrind.
fn count() -> Result<Counts, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let out = std::env::temp_dir().join(format!("parvis-instructions-{}", std::process::id()));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--combine-dumps=yes", "--collect-atstart=no"]);
    valgrind.args([format!("--toggle-collect={MEASURED}"), format!("--dump-after={MEASURED}")]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(program).arg(EXECUTE);
    let run = valgrind.output().map_err(|error| {
        format!("valgrind does not start ({error}); `scripts/setup instructions` installs it")
    })?;
    let profile = std::fs::read_to_string(&out);
    // It may not have been written.
    let _ = std::fs::remove_file(&out);
    if !run.status.success() {
        return Err(format!("valgrind failed: {}\n{}", run.status, String::from_utf8_lossy(&run.stderr)));
    }
    let profile = profile.map_err(|error| format!("{}: {error}", out.display()))?;
    let names = String::from_utf8_lossy(&run.stdout).lines().map(str::to_owned).collect();
    pair(names, &totals(&profile))
}

/// The totals of a profile's parts, one for each time that [`measured`] has ended.
fn totals(profile: &str) -> Vec<u64> {
    let mut is_counted = false;
    let mut totals = Vec::new();
    for line in profile.lines() {
        if let Some(trigger) = line.strip_prefix("desc: Trigger: ") {
            is_counted = trigger.ends_with(MEASURED);
        } else if let Some(total) = line.strip_prefix("totals: ").filter(|_| is_counted) {
            totals.extend(total.trim().parse::<u64>());
        }
    }
    totals
}

/// Names and counts, which must be equally many.
fn pair(names: Vec<String>, totals: &[u64]) -> Result<Counts, String> {
    if names.len() != totals.len() || totals.contains(&0) || names.is_empty() {
        return Err(format!("callgrind has not counted every step: {names:?} {totals:?}"));
    }
    Ok(names.into_iter().zip(totals).map(|(name, total)| (name, total / CALLS)).collect())
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.budget")
}

/// The lines of the budget: a step and the most instructions it may take.
fn parse(text: &str) -> Result<BTreeMap<&str, u64>, String> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, most] => most.parse().map(|most| (name, most)).map_err(|_| format!("`{line}`")),
            _ => Err(format!("`{line}`")),
        })
        .collect::<Result<_, _>>()
        .map_err(|line| format!("{}: no name and number: {line}", file().display()))
}

/// Prints every count beside its budget; what is over it, or has none, is an error.
fn check(counts: &Counts, budget: &BTreeMap<&str, u64>) -> Result<(), String> {
    let mut complaints = Vec::new();
    println!("{:<20} {:>8} {:>8}", "instructions", "counted", "budget");
    for (name, count) in counts {
        let most = budget.get(name.as_str()).copied();
        println!("{name:<20} {count:>8} {:>8}", most.map_or("-".to_owned(), |most| most.to_string()));
        match most {
            Some(most) if *count > most => {
                let percent = (count - most) as f64 * 100.0 / most as f64;
                complaints
                    .push(format!("{name}: {count} instructions, {percent:.1} % over its budget of {most}"));
            }
            Some(most) if count * (100 + 4 * ALLOWANCE) + 100 * LEAST_ALLOWANCE < most * 100 => {
                println!("{:<20} far below its budget: --record keeps what was gained", "");
            }
            Some(_) => {}
            None => complaints.push(format!("{name}: {count} instructions, and no budget")),
        }
    }
    for name in budget.keys().filter(|name| !counts.iter().any(|(counted, _)| counted == *name)) {
        complaints.push(format!("{name}: has a budget and is not counted"));
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nIf that is meant, record new budgets by `make instructions ARGS=--record`, and say why in the commit.",
        complaints.join("\n")
    ))
}

/// Writes the budget anew.
fn record(counts: &Counts) -> Result<(), String> {
    let mut text = format!(
        "# The most instructions (x86-64) that a step of a hit may take. `make instructions` checks it; what it counts\n\
         # and {ALLOWANCE} % is recorded by `make instructions ARGS=--record`.\n"
    );
    for (name, count) in counts {
        let most = count + (count * ALLOWANCE).div_ceil(100).max(LEAST_ALLOWANCE);
        text.push_str(&format!("{name:<20} {most:>8}\n"));
    }
    std::fs::write(file(), &text).map_err(|error| format!("{}: {error}", file().display()))?;
    print!("{text}");
    Ok(())
}

/// Whether this was built by the profile that the budget is for; its name is that of Cargo's directory.
fn is_profile() -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    Ok(program.iter().rev().skip(1).any(|directory| directory == "instructions"))
}

fn run() -> Result<(), String> {
    let counts = count()?;
    if std::env::args().any(|argument| argument == "--record") {
        return record(&counts);
    }
    if cfg!(not(target_arch = "x86_64")) || !is_profile()? {
        println!("the budget is for x86-64 and `make instructions`, so nothing is checked: {counts:#?}");
        return Ok(());
    }
    let text = std::fs::read_to_string(file()).map_err(|error| format!("{}: {error}", file().display()))?;
    check(&counts, &parse(&text)?)
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == EXECUTE) {
        execute();
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("instructions: {complaint}");
            ExitCode::FAILURE
        }
    }
}
