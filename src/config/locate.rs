//! Where in the file a key or value stands.
//!
//! serde reads values without their places. A second, marked reading of the same text finds the place of a path
//! such as `routes[2].cache.ttl`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use saphyr::{LoadableYamlNode, MarkedYaml, YamlData};
use saphyr_parser::{Event, Parser};

/// One step into the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value under this key.
    Key(String),
    /// This item of a list.
    Item(usize),
}

/// The way to a value, from the top of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The path one key further.
    pub fn key(&self, key: impl Into<String>) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.into()));
        Self(steps)
    }

    /// The path to an item of the list at this path.
    pub fn item(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Item(index));
        Self(steps)
    }

    /// Whether one path leads through the other.
    pub fn touches(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, two)| one == two)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// What of the value at a path a mistake points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its key.
    Key,
    /// Itself.
    Value,
}

/// A text with the places of its nodes.
pub struct Places<'t> {
    text: &'t str,
    /// `None` when the text is not YAML.
    document: Option<MarkedYaml<'t>>,
}

impl<'t> Places<'t> {
    /// Reads the places of a text.
    pub fn new(text: &'t str) -> Self {
        let document =
            MarkedYaml::load_from_str(text).ok().and_then(|documents| documents.into_iter().next());
        Self { text, document }
    }

    /// The bytes at which the value (or key) at `path` stands; those of its closest ancestor where it does not
    /// exist. An empty range at the start when the text is not YAML.
    pub fn find(&self, path: &Path, part: Part) -> Range<usize> {
        self.document.as_ref().map_or(0..0, |document| find(self.text, document, path, part))
    }
}

fn find(text: &str, document: &MarkedYaml<'_>, path: &Path, part: Part) -> Range<usize> {
    let mut node = document;
    let mut range = 0..0;
    for step in &path.0 {
        match (step, &node.data) {
            (Step::Key(wanted), YamlData::Mapping(mapping)) => {
                let Some((key, value)) =
                    mapping.iter().find(|(key, _)| scalar(key).as_deref() == Some(wanted))
                else {
                    break;
                };
                range = match part {
                    Part::Key => span(text, key),
                    // A whole block would drown the reader: point at the key that opens it.
                    Part::Value if is_block(value) => span(text, key),
                    Part::Value => span(text, value),
                };
                node = value;
            }
            (Step::Item(index), YamlData::Sequence(items)) => {
                let Some(item) = items.get(*index) else { break };
                range = if is_block(item) { first_key(text, item) } else { span(text, item) };
                node = item;
            }
            _ => break,
        }
    }
    range
}

/// The byte at which a key stands that its mapping has already, if there is one. The reader of the YAML refuses
/// such a file without saying where.
pub fn duplicate_key(text: &str) -> Option<usize> {
    enum Open {
        Mapping { keys: HashSet<String>, at_key: bool },
        Sequence,
    }
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.ok()?;
        let is_node = !matches!(
            event,
            Event::MappingEnd
                | Event::SequenceEnd
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
        );
        if let Some(Open::Mapping { keys, at_key }) = open.last_mut().filter(|_| is_node) {
            if let (true, Event::Scalar(name, ..)) = (*at_key, &event)
                && !keys.insert(name.to_string())
            {
                return text.char_indices().nth(span.start.index()).map(|(at, _)| at);
            }
            *at_key = !*at_key;
        }
        match event {
            Event::MappingStart(..) => open.push(Open::Mapping { keys: HashSet::new(), at_key: true }),
            Event::SequenceStart(..) => open.push(Open::Sequence),
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
            }
            _ => {}
        }
    }
    None
}

/// How many nodes the text has once its aliases are put in; a few lines can stand for billions.
pub fn expanded_nodes(text: &str) -> u64 {
    // By anchor, the nodes below it; and the anchors that are open, each with the count at its beginning.
    let mut sizes: HashMap<usize, u64> = HashMap::new();
    let mut open: Vec<(usize, u64)> = Vec::new();
    let mut count: u64 = 0;
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::Scalar(_, _, anchor, _), _)) => {
                sizes.insert(anchor, 1);
                count = count.saturating_add(1);
            }
            Ok((Event::SequenceStart(anchor, ..) | Event::MappingStart(anchor, ..), _)) => {
                open.push((anchor, count));
                count = count.saturating_add(1);
            }
            Ok((Event::SequenceEnd | Event::MappingEnd, _)) => {
                if let Some((anchor, before)) = open.pop() {
                    sizes.insert(anchor, count.saturating_sub(before));
                }
            }
            Ok((Event::Alias(anchor), _)) => {
                count = count.saturating_add(sizes.get(&anchor).copied().unwrap_or(1));
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    count
}

fn is_block(node: &MarkedYaml<'_>) -> bool {
    matches!(&node.data, YamlData::Mapping(_) | YamlData::Sequence(_))
}

fn first_key(text: &str, node: &MarkedYaml<'_>) -> Range<usize> {
    match &node.data {
        YamlData::Mapping(mapping) => {
            mapping.iter().next().map_or_else(|| span(text, node), |(key, _)| span(text, key))
        }
        _ => {
            let span = span(text, node);
            span.start..(span.start + 1).min(text.len())
        }
    }
}

fn scalar(node: &MarkedYaml<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(saphyr::Scalar::String(text)) => Some(text.to_string()),
        YamlData::Value(saphyr::Scalar::Integer(number)) => Some(number.to_string()),
        YamlData::Representation(text, _, _) => Some(text.to_string()),
        _ => None,
    }
}

/// The node's bytes. The parser counts characters.
fn span(text: &str, node: &MarkedYaml<'_>) -> Range<usize> {
    let byte = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let start = byte(node.span.start.index());
    let end = byte(node.span.end.index()).max(start);
    let trimmed = text[start..end].trim_end().len();
    start..start + trimmed
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# é\nlisten: \":80\"\nroutes:\n  - name: one\n    cache: {ttl: 5}\n  - name: two\n    status_ttl:\n      404: x\n";

    fn at(path: &Path, part: Part) -> &'static str {
        &TEXT[Places::new(TEXT).find(path, part)]
    }

    #[test]
    fn keys_and_values_are_found() {
        let routes = Path::default().key("routes");
        assert_eq!(at(&Path::default().key("listen"), Part::Value), "\":80\"");
        assert_eq!(at(&Path::default().key("listen"), Part::Key), "listen");
        assert_eq!(at(&routes.item(0).key("cache").key("ttl"), Part::Value), "5");
        assert_eq!(at(&routes.item(1).key("name"), Part::Value), "two");
        assert_eq!(at(&routes.item(1).key("status_ttl").key("404"), Part::Value), "x");
        assert_eq!(at(&routes.item(1), Part::Value), "name");
        assert_eq!(at(&routes.item(1).key("absent"), Part::Value), "name");
        assert_eq!(Places::new("{").find(&routes, Part::Value), 0..0);
    }

    #[test]
    fn a_key_that_comes_twice_is_found_where_it_comes_again() {
        for (text, expected) in [
            ("a: 1\nb: {a: 1, c: {a: 1}}\n", None),
            ("é: 1\na: 1\na: 2\n", Some(11)),
            ("a: [{b: 1, c: 2, b: 3}]", Some(17)),
            ("a: {b: [1, 2], b: 3}", Some(15)),
            ("- a\n- a\n", None),
            ("a: [", None),
        ] {
            assert_eq!(duplicate_key(text), expected, "{text}");
        }
    }

    #[test]
    fn aliases_count_for_what_they_stand_for() {
        for (text, expected) in
            [("a: 1", 3), ("a: &a [1, 2]\nb: *a", 9), ("a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]", 29)]
        {
            assert_eq!(expanded_nodes(text), expected, "{text}");
        }
        let mut bomb = "a0: &a0 [x, x]\n".to_owned();
        for n in 1..40 {
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 8].join(", "));
        }
        assert!(expanded_nodes(&bomb) > 1 << 60);
    }

    #[test]
    fn paths_touch_when_one_leads_through_the_other() {
        let ttl = Path::default().key("cache").key("ttl");
        assert!(ttl.touches(&Path::default().key("cache")));
        assert!(Path::default().key("cache").touches(&ttl));
        assert!(!ttl.touches(&Path::default().key("cache").key("tags")));
        assert_eq!(Path::default().key("routes").item(2).key("cache").to_string(), "routes[2].cache");
    }
}
