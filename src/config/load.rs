//! Reads a file into a [`Config`], and goes on after a mistake.
//!
//! serde stops at the first mistake. To report them all, the loader notes where it stopped, cuts that one piece
//! out of the tree, and reads again until nothing is wrong. A piece that was cut is remembered, so that nobody
//! reports it as missing afterwards.

use std::path::Path as FilePath;

use serde_yaml::Value;

use super::locate::{Part, Path, Step, duplicate_key, expanded_nodes};
use super::redis::Urls;
use super::report::{Mistake, Report};
use super::schema::Config;

/// The most mistakes reported at once; a file with more has one cause.
const MAX_MISTAKES: usize = 100;

/// The most nodes, with aliases put in: far more than a file of the largest size has without them.
const MAX_NODES: u64 = 1 << 20;

/// The largest file read, in bytes.
const MAX_FILE_SIZE: u64 = 4 << 20;

/// What was read, and what was wrong with it.
#[derive(Debug)]
pub struct Loaded {
    /// The file, without the pieces that were wrong.
    pub config: Config,
    /// The file's name as given.
    pub file: String,
    /// The file's text.
    pub text: String,
    /// What was wrong.
    pub mistakes: Vec<Mistake>,
    /// The pieces left out, so that their absence is not reported too.
    pub cut: Vec<Path>,
}

impl Loaded {
    /// A configuration made by the program itself.
    pub fn generated(config: Config) -> Self {
        Self {
            config,
            file: "(generated)".to_owned(),
            text: String::new(),
            mistakes: Vec::new(),
            cut: Vec::new(),
        }
    }
}

/// Reads a file. The error is for the case that it cannot be read at all.
pub fn load(file: &FilePath) -> Result<Loaded, String> {
    let name = file.display().to_string();
    let failed = |error: std::io::Error| format!("cannot read {name}: {error}");
    let size = std::fs::metadata(file).map_err(failed)?.len();
    if size > MAX_FILE_SIZE {
        return Err(format!("{name} has {size} bytes; a configuration has at most {MAX_FILE_SIZE}"));
    }
    let text = std::fs::read_to_string(file).map_err(failed)?;
    Ok(parse(&name, &text, &|variable| std::env::var(variable).ok()))
}

/// Reads a text; `environment` answers for `${VAR}`.
pub fn parse(file: &str, text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Loaded {
    // Some editors begin a file with a byte order mark, which the reader takes for a document of its own.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut loaded = Loaded {
        config: Config::default(),
        file: file.to_owned(),
        text: text.to_owned(),
        mistakes: Vec::new(),
        cut: Vec::new(),
    };
    if expanded_nodes(text) > MAX_NODES {
        let message = format!("the aliases of the file stand for more than {MAX_NODES} values");
        loaded.mistakes.push(Mistake::error(&Path::default(), message, "write out what they stand for"));
        // Nor may it be read for the places of mistakes.
        loaded.text.clear();
        loaded.cut.push(Path::default());
        return loaded;
    }
    let mut tree: Value = match serde_yaml::from_str(text) {
        Ok(Value::Null) => Value::Mapping(serde_yaml::Mapping::new()),
        Ok(tree) => tree,
        Err(error) => {
            loaded.mistakes.push(not_yaml(text, &error));
            loaded.cut.push(Path::default());
            return loaded;
        }
    };
    expand(&mut tree, &Path::default(), environment, &mut loaded);
    loop {
        if loaded.mistakes.len() >= MAX_MISTAKES {
            let message = format!("{MAX_MISTAKES} mistakes; the rest of the file was not read");
            loaded.mistakes.push(Mistake::error(&Path::default(), message, "mend these first"));
            loaded.cut.push(Path::default());
            break;
        }
        match serde_path_to_error::deserialize::<_, Config>(tree.clone()) {
            Ok(config) => {
                loaded.config = config;
                name_redis(&mut loaded.config, environment);
                break;
            }
            Err(error) => {
                let path = steps(error.path());
                let (mistake, cut) = describe(path, &error.into_inner().to_string());
                remove(&mut tree, &cut);
                loaded.mistakes.push(mistake);
                loaded.cut.push(cut.clone());
                if cut.0.is_empty() {
                    break;
                }
            }
        }
    }
    loaded
}

/// A Redis that the file does not name is the one that the environment names.
fn name_redis(config: &mut Config, environment: &dyn Fn(&str) -> Option<String>) {
    let Some(redis) = config.storage.redis.as_mut().filter(|redis| redis.url.is_none()) else { return };
    let url = environment("REDIS_URL").and_then(|url| url.parse().ok());
    redis.url = url.map(|url| Urls(vec![url]));
}

impl Loaded {
    /// The report of what was wrong here together with what was found later.
    pub fn report(&self, further: Vec<Mistake>) -> Report {
        let mut mistakes = self.mistakes.clone();
        // What was cut out is missing because it was wrong; that has been said.
        mistakes
            .extend(further.into_iter().filter(|later| !self.cut.iter().any(|cut| cut.touches(&later.path))));
        Report::new(&self.file, &self.text, mistakes)
    }
}

fn not_yaml(text: &str, error: &serde_yaml::Error) -> Mistake {
    let mut mistake = Mistake::error(&Path::default(), strip_location(&error.to_string()), "");
    let at = duplicate_key(text).or_else(|| error.location().map(|location| location.index()));
    mistake.range = at.map_or(0..0, |at| at..at);
    mistake
}

/// The message without the line and column, which the report shows itself.
fn strip_location(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

fn steps(path: &serde_path_to_error::Path) -> Path {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Seq { index } => Some(Step::Item(*index)),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    Path(steps.collect())
}

/// Turns serde's message into one for an operator, and names the piece to cut.
fn describe(path: Path, message: &str) -> (Mistake, Path) {
    let message = strip_location(message);
    // What stands under `tokens` may be a secret, also out of the environment: it is not repeated.
    let may_be_secret = path.to_string().starts_with("admin.tokens");
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let name = rest.split('`').next().unwrap_or_default().to_owned();
        let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
        // The path may or may not name the unknown key itself.
        let path = match path.0.last() {
            Some(Step::Key(last)) if *last == name => path,
            _ => path.key(&name),
        };
        let remedy = match closest(&name, &known) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        let mut mistake = Mistake::error(&path, format!("unknown key `{name}`"), remedy);
        mistake.part = Part::Key;
        return (mistake, path);
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        let name = rest.split('`').next().unwrap_or_default();
        let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
        let remedy = match closest(name, &known) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => format!("one of: {}", known.join(", ")),
        };
        let shown = if may_be_secret { "this".to_owned() } else { format!("`{name}`") };
        return (Mistake::error(&path, format!("{shown} is not a value of `{path}`"), remedy), path);
    }
    let quoted = message.find(['"', '`']).filter(|_| may_be_secret);
    let message = quoted.map_or(message.clone(), |at| {
        format!("{}, expected {}", message[..at].trim_end(), expected(&message))
    });
    // "invalid type: string "x", expected a map": the first half is the finding, the second the remedy.
    let (finding, remedy) = match message.split_once(", expected ") {
        Some((finding, expected)) => (finding.to_owned(), format!("expected {}", plain_type(expected))),
        None => match message.split_once("; ") {
            Some((finding, remedy)) => (finding.to_owned(), remedy.to_owned()),
            None => (message, String::new()),
        },
    };
    let place = if path.0.is_empty() { "the file".to_owned() } else { path.to_string() };
    (Mistake::error(&path, format!("{place}: {finding}"), remedy), path)
}

fn expected(message: &str) -> &str {
    message.split_once(", expected ").map_or("another value", |(_, expected)| expected)
}

/// serde names Rust's types; an operator knows YAML's.
fn plain_type(expected: &str) -> String {
    match expected {
        "a sequence" => "a list, such as `[a, b]`".to_owned(),
        "a map" => "a block of `key: value` lines".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" => "text".to_owned(),
        "u16" => "a number".to_owned(),
        _ if expected.starts_with("struct ") => "a block of `key: value` lines".to_owned(),
        _ => expected.to_owned(),
    }
}

fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn remove(tree: &mut Value, path: &Path) {
    let Some((last, parents)) = path.0.split_last() else {
        *tree = Value::Null;
        return;
    };
    let mut node = tree;
    for step in parents {
        let next = match step {
            Step::Key(key) => child(node, key),
            Step::Item(index) => node.get_mut(*index),
        };
        let Some(next) = next else { return };
        node = next;
    }
    match (last, node) {
        (Step::Key(key), Value::Mapping(mapping)) => {
            mapping.retain(|name, _| key_text(name).as_deref() != Some(key));
        }
        // An item keeps its place, so that the paths of its neighbours stay true.
        (Step::Item(index), Value::Sequence(items)) => match items.get(*index) {
            Some(Value::Mapping(_)) => items[*index] = Value::Mapping(serde_yaml::Mapping::new()),
            Some(_) => {
                items.remove(*index);
            }
            None => {}
        },
        _ => {}
    }
}

fn child<'v>(node: &'v mut Value, key: &str) -> Option<&'v mut Value> {
    let Value::Mapping(mapping) = node else {
        return None;
    };
    mapping.iter_mut().find(|(name, _)| key_text(name).as_deref() == Some(key)).map(|(_, value)| value)
}

/// Keys such as `404` are numbers to YAML and text in a path.
fn key_text(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(word) => Some(word.to_string()),
        _ => None,
    }
}

/// Replaces `${VAR}` and `${VAR:-default}` in every text of the tree; `$$` stands for one dollar sign.
fn expand(node: &mut Value, path: &Path, environment: &dyn Fn(&str) -> Option<String>, loaded: &mut Loaded) {
    match node {
        Value::String(text) if text.contains('$') => match substitute(text, environment) {
            Ok(expanded) => *text = expanded,
            Err((message, remedy)) => {
                loaded.mistakes.push(Mistake::error(path, message, remedy));
                loaded.cut.push(path.clone());
            }
        },
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                expand(item, &path.item(index), environment, loaded);
            }
        }
        Value::Mapping(mapping) => {
            for (key, value) in mapping.iter_mut() {
                let key = key_text(key).unwrap_or_default();
                expand(value, &path.key(key), environment, loaded);
            }
        }
        _ => {}
    }
}

fn substitute(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some(inner) = after.strip_prefix('{') {
            let Some(end) = inner.find('}') else {
                return Err((
                    "`${` without a closing `}`".to_owned(),
                    "write `${NAME}`, or `$$` for a dollar sign".to_owned(),
                ));
            };
            let (name, default) = match inner[..end].split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (&inner[..end], None),
            };
            let value = environment(name).filter(|value| !value.is_empty());
            match value.as_deref().or(default) {
                Some(value) => out.push_str(value),
                None => {
                    return Err((
                        format!("the environment variable `{name}` is not set"),
                        format!("set it, or give a default: `${{{name}:-value}}`"),
                    ));
                }
            }
            rest = &inner[end + 1..];
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Loaded {
        parse("test.yaml", text, &|name| (name == "SET").then(|| "value".to_owned()))
    }

    fn complaints(text: &str) -> Vec<String> {
        let report = read(text).report(Vec::new());
        report
            .mistakes
            .iter()
            .map(|m| format!("{} {} | {}", report.position(m), m.message, m.remedy))
            .collect()
    }

    #[test]
    fn all_mistakes_are_reported_in_the_order_of_the_file() {
        let text = "lisen: 1\ncache_defaults:\n  ttl: 5\n  mode: enforced\nroutes:\n  - name: [1]\n    cache: {ttl: x}\n  - nam: b\nstorage: {memory: {max_size: 12}}\n";
        assert_eq!(
            complaints(text),
            [
                "test.yaml:1:1 unknown key `lisen` | did you mean `listen`?",
                "test.yaml:3:8 cache_defaults.ttl: `5` has no unit | write `5s`, `5m`, `5h` or `5d`",
                "test.yaml:4:9 `enforced` is not a value of `cache_defaults.mode` | did you mean `enforce`?",
                "test.yaml:6:5 routes[0].name: invalid type: sequence | expected text",
                "test.yaml:7:18 routes[0].cache.ttl: `x` is not a duration (expected number at 0) | write `250ms`, `2s`, `5m`, `1h`, `1d`",
                "test.yaml:8:5 unknown key `nam` | did you mean `name`?",
                "test.yaml:9:30 storage.memory.max_size: `12` has no unit | write `12B`, `12KiB` or `12MiB`",
            ]
        );
    }

    #[test]
    fn what_is_not_yaml_has_a_place_too() {
        let found = complaints("listen: [\nroutes: }\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("test.yaml:2:"), "{found:?}");
        let found = complaints("listen: a\nlisten: b\n");
        assert!(found[0].contains("duplicate"), "{found:?}");
        assert_eq!(complaints("- a\n").len(), 1);
        assert_eq!(complaints(""), Vec::<String>::new());
    }

    #[test]
    fn variables_expand_in_text_only() {
        let loaded =
            read("upstreams:\n  ${SET}: {servers: [\"${SET}:80\", \"${UNSET:-d}:1\", \"$$x $y\"]}\n");
        let servers = &loaded.config.upstreams["${SET}"].servers;
        let addresses: Vec<&str> = servers.iter().map(|server| server.address.as_str()).collect();
        assert_eq!(addresses, ["value:80", "d:1", "$x $y"]);
        let found = complaints("listen: \"${UNSET}\"\n");
        assert_eq!(
            found,
            [
                "test.yaml:1:9 the environment variable `UNSET` is not set | set it, or give a default: `${UNSET:-value}`"
            ]
        );
    }

    #[test]
    fn a_piece_that_was_wrong_is_not_reported_as_missing() {
        let loaded = read("upstreams: {a: {servers: 5}}\n");
        let servers = Path::default().key("upstreams").key("a").key("servers");
        let report = loaded.report(vec![Mistake::error(&servers, "no servers", "")]);
        assert_eq!(report.mistakes.len(), 1);
    }
}
