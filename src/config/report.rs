//! Mistakes in a file, and how they are shown: `file:line:column`, the line with a caret, and a remedy.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use regex::Regex;

use super::locate::{Part, Path, Places};

/// Whether a mistake keeps the file from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but names a risk.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Whether the file can still be used.
    pub severity: Severity,
    /// Where, unless the place is known in bytes already.
    pub path: Path,
    /// What of the value at the path is wrong.
    pub part: Part,
    /// The place in bytes: from the reader of the YAML, since a file that is not YAML has no paths, or filled in by
    /// [`Report::new`].
    pub range: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead; empty when the message says it.
    pub remedy: String,
}

impl Mistake {
    /// An error about the value at `path`.
    pub fn error(path: &Path, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: path.clone(),
            part: Part::Value,
            range: 0..0,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// A warning about the value at `path`.
    pub fn warning(path: &Path, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, message, remedy) }
    }
}

/// All mistakes of one file, with its text to point into.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name of the file as given.
    pub file: String,
    /// Its text.
    pub text: String,
    /// In the order of the file.
    pub mistakes: Vec<Mistake>,
}

impl Report {
    /// A report of `mistakes`, sorted by place.
    pub fn new(file: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        let text = without_secrets(text);
        let places = Places::new(&text);
        for mistake in &mut mistakes {
            if mistake.range.is_empty() && mistake.range.start == 0 {
                mistake.range = places.find(&mistake.path, mistake.part);
            }
            mistake.range = visible(&text, mistake.range.clone());
        }
        drop(places);
        mistakes.sort_by_key(|mistake| mistake.range.start);
        Self { file: file.to_owned(), text, mistakes }
    }

    /// Whether any mistake keeps the file from being used.
    pub fn has_errors(&self) -> bool {
        self.mistakes.iter().any(|mistake| mistake.severity == Severity::Error)
    }

    /// The place of a mistake as `file:line:column`, counted from one.
    pub fn position(&self, mistake: &Mistake) -> String {
        let before = &self.text[..mistake.range.start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.file)
    }

    /// The whole report as text, in colour for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for mistake in &self.mistakes {
            let level = match mistake.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let mut group = level.primary_title(&mistake.message).element(
                Snippet::source(&self.text)
                    .path(&self.file)
                    .annotation(AnnotationKind::Primary.span(mistake.range.clone())),
            );
            if !mistake.remedy.is_empty() {
                group = group.element(Level::HELP.message(&mistake.remedy));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        out.push_str(&self.summary());
        out
    }

    fn summary(&self) -> String {
        let count = |severity| self.mistakes.iter().filter(|mistake| mistake.severity == severity).count();
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        match (errors, warnings) {
            (0, 0) => format!("{}: no mistakes", self.file),
            (0, _) => format!("{}: {}", self.file, plural(warnings, "warning")),
            (_, 0) => format!("{}: {}", self.file, plural(errors, "error")),
            _ => format!("{}: {}, {}", self.file, plural(errors, "error"), plural(warnings, "warning")),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The text with every value of a key `secret`, and every user and password in a URL, blotted out, at the same length: the line of a
/// mistake is shown, and a secret may stand on it. What comes from the environment is no secret here.
fn without_secrets(text: &str) -> String {
    // By text and not by structure, since a file with mistakes may have none; and by its letters, since the key
    // may be misspelt.
    let value = r#"(?s)\b[secrt]{5,8}["']?\s*:\s*("[^"]*"?|'[^']*'?|[|>][^\n]*(?:\n[ \t]+[^\n]*|\n)*|[^\s,}#][^,}\n#]*)"#;
    let in_url = r"(?i)[a-z]://(\S*)@";
    let in_query = r"(?i)[?&](?:user|pass)=([^\s&]*)";
    let mut blotted = text.to_owned();
    for pattern in [value, in_url, in_query].map(Regex::new).into_iter().flatten() {
        for found in pattern.captures_iter(text).filter_map(|found| found.get(1)) {
            let inner = found.as_str().trim_matches(['"', '\'', ' ']);
            if !is_of_environment(inner) {
                let start = found.start() + found.as_str().find(inner).unwrap_or(0);
                blotted.replace_range(start..start + inner.len(), &cover(inner));
            }
        }
    }
    blotted
}

/// Whether a text is nothing but variables, and colons between them.
fn is_of_environment(mut text: &str) -> bool {
    while let Some((_, rest)) = text.strip_prefix("${").and_then(|variable| variable.split_once('}')) {
        text = rest.trim_start_matches(':');
    }
    text.is_empty()
}

fn cover(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { "\n".into() } else { "x".repeat(c.len_utf8()) }).collect()
}

/// A range that is not empty where there is text, so that the caret has something to stand under.
fn visible(text: &str, range: Range<usize>) -> Range<usize> {
    if !range.is_empty() {
        return range;
    }
    let start = (0..=range.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let end = text[start..].chars().next().map_or(start, |c| start + c.len_utf8());
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_beside_a_mistake_is_blotted_out() {
        for (text, shown) in [
            ("{secret: hunter2, scope: x}", "{secret: xxxxxxx, scope: x}"),
            ("secret: \"a, b}\"  # note", "secret: \"xxxxx\"  # note"),
            ("'secret' : 'q'", "'secret' : 'x'"),
            ("secret: \"${TOKEN}\"", "secret: \"${TOKEN}\""),
            ("secret: é!", "secret: xxx"),
            ("secret:\n  - a", "secret:\n  xxx"),
            ("secert: hunter2", "secert: xxxxxxx"),
            ("url: [redis://:a@b@h, \"redis://u:p@h\"]", "url: [redis://xxxx@h, \"redis://xxx@h\"]"),
            ("url: redis://${USER}:${PASSWORD}@h", "url: redis://${USER}:${PASSWORD}@h"),
            ("url: redis://${USER}:p@h", "url: redis://xxxxxxxxx@h"),
            ("url: http://h/ # to me@h", "url: http://h/ # to me@h"),
            ("url: REDIS://:pa'ss@h", "url: REDIS://xxxxxx@h"),
            ("url: unix:///r.sock?user=u&pass=geheim", "url: unix:///r.sock?user=x&pass=xxxxxx"),
            ("scopes: plain", "scopes: plain"),
        ] {
            assert_eq!(without_secrets(text), shown);
            assert_eq!(without_secrets(text).len(), text.len());
        }
    }
}
