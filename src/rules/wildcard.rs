//! Lists of names with wildcards: paths, hosts, cookies, parameters.
//!
//! Nearly all patterns are a name, or a name with one star; every request is held against many of them. So these are
//! compared as text, and only what is left is left to `globset`.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::text::beginning;

/// A list of names with `*` and `?` as wildcards, matched case-sensitively.
#[derive(Clone, Default)]
pub struct Patterns {
    /// The closest first.
    simple: Vec<Simple>,
    others: GlobSet,
    /// How close each of the others comes.
    others_closeness: Vec<usize>,
    sources: Vec<String>,
}

/// A pattern with one star, or none.
#[derive(Clone)]
struct Simple {
    before: Box<str>,
    /// How it begins, which tells most names apart.
    beginning: u64,
    /// Of how many bytes that is.
    mask: u64,
    /// What stands behind the star; `None` without one.
    after: Option<Box<str>>,
    closeness: usize,
}

impl Simple {
    fn new(pattern: &str) -> Option<Self> {
        let (before, after) = match pattern.split_once('*') {
            // Two stars mean more to `globset` than two wildcards.
            Some((_, after)) if after.contains('*') => return None,
            Some((before, after)) => (before, Some(after.into())),
            None => (pattern, None),
        };
        let mask = beginning(&[0xff; 8][..before.len().min(8)]);
        let simple = Self {
            before: before.into(),
            beginning: beginning(before.as_bytes()),
            mask,
            after,
            closeness: closeness(pattern),
        };
        (!pattern.contains('?')).then_some(simple)
    }

    /// Whether it matches a name, which begins so.
    fn matches(&self, name: &str, beginning: u64) -> bool {
        if beginning & self.mask != self.beginning {
            return false;
        }
        match &self.after {
            None => *self.before == *name,
            Some(after) => {
                name.len() >= self.before.len() + after.len()
                    && name.starts_with(&*self.before)
                    && name.ends_with(&**after)
            }
        }
    }
}

/// How close a name that a pattern matches comes to it: the number of its characters that are no wildcards.
fn closeness(pattern: &str) -> usize {
    pattern.chars().filter(|c| !matches!(c, '*' | '?')).count()
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.sources.fmt(f)
    }
}

impl Patterns {
    /// Compiles the patterns; the error names the first one that is malformed.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, String> {
        let mut simple = Vec::new();
        let (mut others, mut others_closeness) = (GlobSetBuilder::new(), Vec::new());
        for pattern in patterns.iter().map(AsRef::as_ref) {
            match Simple::new(pattern) {
                Some(pattern) => simple.push(pattern),
                None => {
                    others.add(glob(pattern)?);
                    others_closeness.push(closeness(pattern));
                }
            }
        }
        simple.sort_by_key(|pattern| std::cmp::Reverse(pattern.closeness));
        let others = others.build().map_err(|error| error.to_string())?;
        let sources = patterns.iter().map(|pattern| pattern.as_ref().to_owned()).collect();
        Ok(Self { simple, others, others_closeness, sources })
    }

    /// Whether any of the patterns matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        self.simple_one(name).is_some() || self.is_among_others(name)
    }

    /// How close the closest of the patterns that match the name comes to it: the number of its characters that are no
    /// wildcards. `None` when none matches.
    pub fn closeness(&self, name: &str) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let simple = self.simple_one(name).map(|pattern| pattern.closeness);
        if !self.is_among_others(name) {
            return simple;
        }
        // Which of them allocates: so it is asked only where there are some.
        let others = self.others.matches(name).into_iter();
        others.filter_map(|at| self.others_closeness.get(at).copied()).max().max(simple)
    }

    /// The closest of the simple patterns that match.
    fn simple_one(&self, name: &str) -> Option<&Simple> {
        let beginning = beginning(name.as_bytes());
        self.simple.iter().find(|pattern| pattern.matches(name, beginning))
    }

    fn is_among_others(&self, name: &str) -> bool {
        !self.others.is_empty() && self.others.is_match(name)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The patterns as written.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }
}

/// Compiles one pattern. `*` also crosses `/`, so that `/static/*` covers everything below; only `*` and `?`
/// are special, since brackets and braces occur in real query parameters (`filter[name]`).
pub fn glob(pattern: &str) -> Result<globset::Glob, String> {
    let mut escaped = String::with_capacity(pattern.len() + 8);
    for c in pattern.chars() {
        match c {
            '[' => escaped.push_str("[[]"),
            ']' => escaped.push_str("[]]"),
            '{' => escaped.push_str("[{]"),
            '}' => escaped.push_str("[}]"),
            '!' => escaped.push_str("[!]"),
            _ => escaped.push(c),
        }
    }
    // In a class, `!` means "not" only in front of another character.
    let escaped = escaped.replace("[!]", "!");
    GlobBuilder::new(&escaped)
        .literal_separator(false)
        .backslash_escape(false)
        .build()
        .map_err(|error| format!("malformed pattern `{pattern}`: {}", error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_crosses_slashes_and_brackets_are_literal() {
        let patterns = Patterns::new(&["/static/*", "filter[*]", "a!b", "x{1}"]).unwrap();
        for (name, expected) in [
            ("/static/a/b.css", true),
            ("/static/", true),
            ("/static", false),
            ("filter[name]", true),
            ("filtern", false),
            ("a!b", true),
            ("x{1}", true),
        ] {
            assert_eq!(patterns.matches(name), expected, "{name}");
        }
    }

    #[test]
    fn the_closest_pattern_counts() {
        let patterns = Patterns::new(&["*", "_ga*", "_ga"]).unwrap();
        for (name, expected) in [("_ga", Some(3)), ("_ga_X", Some(3)), ("x", Some(0))] {
            assert_eq!(patterns.closeness(name), expected, "{name}");
        }
        assert_eq!(Patterns::default().closeness("x"), None);
    }

    #[test]
    fn an_empty_list_matches_nothing() {
        assert!(!Patterns::default().matches(""));
        assert!(!Patterns::new::<&str>(&[]).unwrap().matches("a"));
    }

    proptest! {
        /// Compared with `globset` alone.
        #[test]
        fn simple_patterns_match_as_any_other(
            patterns in proptest::collection::vec("(a|b|/|aaaaaaa|\\.|[*?]|\\[|!|\\{|é){0,5}", 0..5),
            name in "(a|b|/|aaaaaaa|\\.|\\[|!|\\{|é){0,6}",
        ) {
            // There `*.` does not match what ends in `..`.
            prop_assume!(!name.ends_with(".."));
            let mut all = GlobSetBuilder::new();
            patterns.iter().for_each(|pattern| { all.add(glob(pattern).unwrap()); });
            let matching = all.build().unwrap().matches(&name);
            let compiled = Patterns::new(&patterns).unwrap();
            prop_assert_eq!(compiled.matches(&name), !matching.is_empty());
            let closest = matching.into_iter().map(|at| closeness(&patterns[at])).max();
            prop_assert_eq!(compiled.closeness(&name), closest);
        }
    }
}
