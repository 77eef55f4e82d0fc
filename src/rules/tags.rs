//! Which labels a response carries, so that a purge can name it by them.
//!
//! Every framework and every network has a field of its own for this, each with its own delimiter. What cannot be
//! remembered must not make a page unreachable for purges: a page with more tags than are kept is *cut*, and every purge
//! of any tag removes it.

use std::sync::Arc;

use super::head::Fields;

/// The most tags of one response.
pub const MAX_TAGS: usize = 1000;

/// The longest tag, in bytes.
pub const MAX_TAG_BYTES: usize = 1024;

/// The fields that are read, and stripped, by default; in lower case.
pub const TAG_FIELDS: &[&str] = &[
    "cache-groups",
    "cache-tag",
    "cache-tags",
    "edge-cache-tag",
    "surrogate-key",
    "x-cache-tags",
    "x-magento-tags",
    "x-pool",
    "xkey",
];

/// The labels of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    names: Box<[Arc<str>]>,
    is_cut: bool,
}

impl Tags {
    /// These labels, each once. What is too long or too many cuts them.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        let mut tags = Vec::new();
        let mut is_cut = false;
        for name in names {
            match name.len() <= MAX_TAG_BYTES && tags.len() < MAX_TAGS {
                true => tags.push(name),
                false => is_cut = true,
            }
        }
        tags.sort_unstable();
        tags.dedup();
        Self { names: tags.into(), is_cut }
    }

    /// The labels in the `fields` of a response, of those called `names`, which are in lower case.
    pub fn of_response(fields: Fields<'_>, names: &[impl AsRef<str>]) -> Self {
        let carried = names.iter().map(AsRef::as_ref).filter(|name| fields.has(name));
        let lists = carried.flat_map(|name| fields.all(name).map(move |line| (name, line)));
        Self::new(lists.flat_map(|(name, line)| read(name, line)))
    }

    /// Those that [`Tags::names`] told, and whether there were more.
    pub fn restored(names: impl Iterator<Item = Arc<str>>, is_cut: bool) -> Self {
        let tags = Self::new(names);
        Self { is_cut: is_cut || tags.is_cut, ..tags }
    }

    /// The labels of both.
    pub fn with(&self, other: &Self) -> Self {
        let mut both = Self::new(self.names.iter().chain(&other.names).cloned());
        both.is_cut |= self.is_cut || other.is_cut;
        both
    }

    /// Whether a purge of `tag` means a response with these.
    pub fn match_tag(&self, tag: &str) -> bool {
        self.is_cut || self.names.binary_search_by(|name| (**name).cmp(tag)).is_ok()
    }

    /// Whether there were more than are kept.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// In order.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// As the fields of most dialects spell them, which patterns are written for.
    pub fn joined(&self) -> String {
        self.names.join(",")
    }

    /// Bytes they occupy, here and in an index that has each of them for this page alone.
    pub fn size(&self) -> usize {
        const EACH: usize = 224;
        self.names.iter().map(|name| name.len() + EACH).sum()
    }
}

/// The tags in one line of the field `name`, which is in lower case; of a response, or of a client that purges by them.
pub fn read(name: &str, line: &[u8]) -> Vec<Arc<str>> {
    let text = String::from_utf8_lossy(line);
    match name {
        "cache-groups" => groups(line),
        // Applications use commas in these too.
        "xkey" | "xkey-purge" | "xkey-softpurge" | "surrogate-key" | "cache-tags" => {
            split(&text, |c| c == ',' || c.is_ascii_whitespace())
        }
        _ => split(&text, |c| c == ','),
    }
}

fn split(text: &str, is_delimiter: impl Fn(char) -> bool) -> Vec<Arc<str>> {
    text.split(is_delimiter).map(str::trim).filter(|name| !name.is_empty()).map(Arc::from).collect()
}

/// The strings of a list (RFC 9875 section 2, RFC 9651 section 3.1). A list that is malformed anywhere is none.
pub fn groups(line: &[u8]) -> Vec<Arc<str>> {
    let Ok(list) = sfv::Parser::new(line).parse::<sfv::List>() else { return Vec::new() };
    let name = |entry: &sfv::ListEntry| match entry {
        sfv::ListEntry::Item(item) => item.bare_item.as_string().map(|name| Arc::from(name.as_str())),
        sfv::ListEntry::InnerList(_) => None,
    };
    list.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(fields: &[(&str, &str)]) -> Vec<String> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let tags = Tags::of_response(Fields::new(&fields), TAG_FIELDS);
        tags.names().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_dialect_has_its_delimiter() {
        for (name, value, expected) in [
            ("X-Cache-Tags", "a, b,c", &["a", "b", "c"][..]),
            ("xkey", "a b\tc,d", &["a", "b", "c", "d"]),
            ("Surrogate-Key", "b a  b", &["a", "b"]),
            ("Surrogate-Key", "/books/1, /books", &["/books", "/books/1"]),
            ("Cache-Tag", "a,b", &["a", "b"]),
            ("Cache-Tags", "node:1 node_list", &["node:1", "node_list"]),
            ("Edge-Cache-Tag", "a b, c", &["a b", "c"]),
            ("X-Magento-Tags", "cat_p,cat_p_1,FPC", &["FPC", "cat_p", "cat_p_1"]),
            ("Cache-Groups", r#""scripts", "a b,c";q=1"#, &["a b,c", "scripts"]),
            ("Cache-Groups", r#"scripts, 7, ("x" "y"), "z""#, &["z"]),
            ("Cache-Groups", r#""scripts", "unclosed"#, &[]),
            ("Cache-Groups", r#""a", """#, &["", "a"]),
            ("X-Other", "a", &[]),
            ("xkey", " , ,", &[]),
        ] {
            assert_eq!(tags(&[(name, value)]), expected, "{name}: {value}");
        }
        assert_eq!(tags(&[("xkey", "b"), ("cache-tag", "a,b"), ("XKey", "c")]), ["a", "b", "c"]);
    }

    #[test]
    fn a_page_with_more_tags_than_are_kept_is_named_by_every_tag() {
        let many: Vec<String> = (0..=MAX_TAGS).map(|n| format!("t{n}")).collect();
        let line = many.join(",");
        let fields = [("cache-tag", line.as_bytes())];
        let tags = Tags::of_response(Fields::new(&fields), TAG_FIELDS);
        assert_eq!((tags.names().len(), tags.is_cut()), (MAX_TAGS, true));
        assert!(tags.match_tag("t0") && tags.match_tag("never seen"));
        let long = "x".repeat(MAX_TAG_BYTES + 1);
        assert!(Tags::new([Arc::from(long.as_str())]).match_tag(&long));
        let few = Tags::new([Arc::from("a")]);
        assert!(few.match_tag("a") && !few.match_tag("b") && !few.match_tag(""));
        assert!(few.with(&tags).is_cut() && !few.with(&few).is_cut());
    }
}
