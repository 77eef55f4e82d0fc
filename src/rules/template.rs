//! Text with parts of the path in it: `product:{id}` on a route that matches `/products/{id}`.

use regex::Regex;

/// What a route has captured of a path: names and values, as the path spells them.
pub type Captures<'p> = Vec<(String, &'p str)>;

/// Text with places for captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Capture(String),
}

impl Template {
    /// Reads `product:{id}`. Braces that do not enclose a name stand for themselves.
    pub fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, name, after)) = next_capture(rest) {
            plain.push_str(before);
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Capture(name.to_owned()));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Self(parts)
    }

    /// The names it needs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Capture(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text, that of the template itself as `spelled`; `None` when a capture took no part in the match.
    pub fn render(&self, captures: &Captures<'_>, spelled: impl Fn(&str) -> String) -> Option<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(&spelled(plain)),
                Part::Capture(name) => text.push_str(captures.iter().find(|(known, _)| known == name)?.1),
            }
        }
        Some(text)
    }
}

/// The text before the first `{name}`, the name, and the text behind it.
fn next_capture(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|at| from + at) {
        let close = open + text[open..].find('}')?;
        let name = &text[open + 1..close];
        if is_name(name) {
            return Some((&text[..open], name, &text[close + 1..]));
        }
        from = open + 1;
    }
    None
}

/// A name that a regular expression can give a group too.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a pattern for paths captures anything.
pub fn has_captures(pattern: &str) -> bool {
    next_capture(pattern).is_some()
}

/// A pattern for paths that captures.
#[derive(Clone, Debug)]
pub struct PathPattern {
    /// As written, in the spelling of paths.
    pub source: String,
    /// What it means.
    pub regex: Regex,
}

impl PathPattern {
    /// Compiles a pattern: `*` crosses `/`, `?` is one character, `{name}` one segment or part of one.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let mut expression = String::from("^");
        let mut rest = pattern;
        while let Some((before, name, after)) = next_capture(rest) {
            expression.push_str(&wild(before));
            expression.push_str(&format!("(?<{name}>[^/]+)"));
            rest = after;
        }
        expression.push_str(&wild(rest));
        expression.push('$');
        let regex = Regex::new(&expression).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => format!("`{pattern}` is too large"),
            _ => format!("`{pattern}` captures one name twice"),
        })?;
        Ok(Self { source: pattern.to_owned(), regex })
    }
}

fn wild(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '*' => ".*".to_owned(),
            '?' => ".".to_owned(),
            c => regex::escape(c.encode_utf8(&mut [0; 4])),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_put_in_their_places() {
        let captures = vec![("id".to_owned(), "7"), ("lang".to_owned(), "fr")];
        for (text, expected) in [
            ("product:{id}", Some("product:7")),
            ("/{lang}/products/{id}/", Some("/fr/products/7/")),
            ("{id}{id}", Some("77")),
            ("plain", Some("plain")),
            ("{other}", None),
            ("{not a name} {}", Some("{not a name} {}")),
            ("{{id}", Some("{7")),
            ("{id", Some("{id")),
        ] {
            assert_eq!(Template::parse(text).render(&captures, str::to_owned).as_deref(), expected, "{text}");
        }
        assert_eq!(Template::parse("{a}-{b}").names().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_pattern_captures_within_one_segment() {
        let captured = |pattern: &str, path: &str| {
            let compiled = PathPattern::new(pattern).unwrap();
            compiled.regex.captures(path).map(|found| found.name("id").map(|id| id.as_str().to_owned()))
        };
        assert_eq!(captured("/products/{id}", "/products/7"), Some(Some("7".into())));
        assert_eq!(captured("/products/{id}/*", "/products/7/a/b"), Some(Some("7".into())));
        assert_eq!(captured("/p-{id}.html", "/p-7.html"), Some(Some("7".into())));
        for path in ["/products/", "/products/7/8", "/x/products/7", "/products"] {
            assert_eq!(captured("/products/{id}", path), None, "{path}");
        }
        assert_eq!(captured("/a.b/{id}", "/axb/7"), None);
        assert!(PathPattern::new("/{id}/{id}").is_err());
        assert!(has_captures("/{id}") && !has_captures("/{not this}/*"));
    }
}
