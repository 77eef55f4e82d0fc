//! Keeps the house in order: what a reviewer would otherwise have to say again.

use std::path::{Path, PathBuf};

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;

fn sources(directories: &[&str]) -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    directories.iter().for_each(|directory| walk(&root.join(directory), &mut found));
    found
        .into_iter()
        .map(|path| (path.strip_prefix(root).unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

/// Complaints, each with its place; empty is good.
fn complaints(check: impl Fn(&Path, &str) -> Vec<(usize, String)>, directories: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for (path, text) in sources(directories) {
        for (line, complaint) in check(&path, &text) {
            all.push(format!("{}:{line}: {complaint}", path.display()));
        }
    }
    all
}

fn lines_with<'t>(text: &'t str, words: &'t [&str]) -> impl Iterator<Item = (usize, String)> + 't {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")).flat_map(
        move |(at, line)| {
            words.iter().filter(|word| line.contains(**word)).map(move |word| (at + 1, format!("`{word}`")))
        },
    )
}

#[test]
fn the_rules_are_pure() {
    // Put what waits, reads a clock or knows Pingora into the caller, and hand the rules what it found.
    let words = [
        "async ",
        ".await",
        "tokio::",
        "pingora",
        "SystemTime::now",
        "Instant::now",
        "clock::now",
        "std::net::Tcp",
    ];
    let found = complaints(|_, text| lines_with(text, &words).collect(), &["src/rules"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn imports_point_one_way() {
    // config -> plan -> rules <- store, shared, proxy, front, admin; nothing imports the command line.
    let found = complaints(
        |path, text| {
            let room = path.iter().nth(1).unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
            let forbidden: &[&str] = match room.as_str() {
                "rules" => &[
                    "crate::config",
                    "crate::plan",
                    "crate::store",
                    "crate::proxy",
                    "crate::admin",
                    "crate::observe",
                ],
                "config" => &[
                    "crate::plan",
                    "crate::rules",
                    "crate::store",
                    "crate::proxy",
                    "crate::admin",
                    "crate::observe",
                ],
                "plan" => &["crate::store", "crate::proxy", "crate::admin", "crate::observe"],
                "store" => &["crate::proxy", "crate::admin", "crate::observe", "crate::config"],
                "shared" => &["crate::proxy", "crate::front", "crate::admin", "crate::config"],
                _ => &[],
            };
            let cli: &[&str] = if matches!(room.as_str(), "cli" | "main") { &[] } else { &["crate::cli"] };
            lines_with(text, forbidden).chain(lines_with(text, cli)).collect()
        },
        &["src"],
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn files_and_functions_are_short() {
    let found = complaints(
        |_, text| {
            let mut found = Vec::new();
            let count = text.lines().count();
            if count > MAX_FILE_LINES {
                found.push((1, format!("{count} lines; where is the seam?")));
            }
            for (start, length) in functions(text) {
                if length > MAX_FUNCTION_LINES {
                    found.push((start, format!("a function of {length} lines; which verb is in it?")));
                }
            }
            found
        },
        &["src", "tests", "benches"],
    );
    assert!(found.is_empty(), "{found:#?}");
}

/// The first line and the length of every function, by the indentation that rustfmt guarantees.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let signature = code
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ");
        let signature = signature.trim_start_matches("async ").trim_start_matches("const ");
        if !signature.starts_with("fn ") || code.ends_with(';') {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(line.len() - code.len()));
        if let Some(length) = lines[at..].iter().position(|line| *line == closing) {
            found.push((at + 1, length + 1));
        }
    }
    found
}

#[test]
fn nothing_is_left_lying_about() {
    // Spelled apart, or this file would complain about itself.
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("#[ig", "nore"),
        concat!("static", " mut "),
    ];
    let found = complaints(|_, text| lines_with(text, &words).collect(), &["src", "tests", "benches"]);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_program_does_not_unwrap() {
    // `expect` states the invariant; `unwrap` states nothing. In tests both are fine.
    let found = complaints(
        |path, text| {
            let is_test = path.ends_with("tests.rs");
            let program = if is_test { "" } else { text.split("#[cfg(test)]").next().unwrap() };
            lines_with(program, &[".unwrap()", "panic!(", "println!("]).collect()
        },
        &["src"],
    );
    let found: Vec<_> = found.into_iter().filter(|complaint| !complaint.starts_with("src/main.rs")).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn modules_open_with_the_problem_they_solve() {
    let found = complaints(
        |_, text| match text.starts_with("//! ") || text.starts_with("#![forbid(unsafe_code)]\n//! ") {
            true => vec![],
            false => vec![(1, "no `//!` at the top".to_owned())],
        },
        &["src", "tests"],
    );
    assert!(found.is_empty(), "{found:#?}");
}
