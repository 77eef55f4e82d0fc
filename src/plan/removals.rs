//! What a write through a route removes, and the names in braces that stand for parts of its path.

use super::compile::Mistakes;
use super::routes::{MAX_ITEMS, list};
use crate::config::locate::Path;
use crate::config::schema;
use crate::config::values::OneOrMany;
use crate::rules::invalidate::{Expires, Removal, RemovalKind};
use crate::rules::route::Matcher;
use crate::rules::selector::{Selector, SelectorError};
use crate::rules::template::Template;

/// Compiles `purge_on_success`.
pub(super) fn compile(
    written: &[schema::Removal],
    matcher: &Matcher,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Vec<Removal> {
    mistakes.limit(path, written.len(), MAX_ITEMS, "items");
    let mut removals = Vec::new();
    for (index, item) in written.iter().enumerate() {
        let path = path.item(index);
        let expires = Expires::softly(item.soft == Some(true));
        let mut take = |key: &str, texts: Option<&OneOrMany>, kind: RemovalKind| {
            let place = path.key(key);
            mistakes.limit(&place, list(texts).len(), MAX_ITEMS, "selectors");
            for text in list(texts) {
                let template = Template::parse(text);
                let checked = check(kind, text).map_err(|error| format!("`{text}`: {error}"));
                check_names(&template, matcher, &place, mistakes);
                removals.extend(mistakes.take(&place, checked, "").map(|()| Removal {
                    kind,
                    template,
                    expires,
                }));
            }
        };
        take("tags", item.tags.as_ref(), RemovalKind::Tag);
        take("prefix", item.prefix.as_ref(), RemovalKind::Prefix);
        take("url", item.url.as_ref(), RemovalKind::Url);
        take("wildcard", item.wildcard.as_ref(), RemovalKind::Wildcard);
        if [&item.tags, &item.prefix, &item.url, &item.wildcard].into_iter().all(Option::is_none) {
            let remedy = "write `{tags: [products]}`, `{prefix: /products/}` or `{url: /}`";
            mistakes.error(&path, "nothing to remove", remedy);
        }
    }
    removals
}

/// Whether the text can be read, whatever its captures are.
fn check(kind: RemovalKind, text: &str) -> Result<(), SelectorError> {
    match kind {
        RemovalKind::Tag => written_tag(text),
        RemovalKind::Prefix => Selector::prefix(text),
        RemovalKind::Url => Selector::url(text, &[]),
        RemovalKind::Wildcard => Selector::wildcard(text),
    }
    .map(drop)
}

/// Reads a tag as people write it: a comma or a space would be two.
pub(super) fn written_tag(text: &str) -> Result<Selector, SelectorError> {
    match text.contains([',', ' ']) {
        true => Err(SelectorError::SeveralTags),
        false => Selector::tag(text),
    }
}

/// Reports names in the tags of a route that it does not capture.
pub(super) fn check_tags(tags: &[Template], matcher: &Matcher, place: &Path, mistakes: &mut Mistakes) {
    for (index, tag) in tags.iter().enumerate() {
        check_names(tag, matcher, &place.item(index), mistakes);
    }
}

fn check_names(template: &Template, matcher: &Matcher, place: &Path, mistakes: &mut Mistakes) {
    for name in template.names().filter(|name| !matcher.always_captures(name)) {
        let message = format!("`{{{name}}}` is not captured by every path of the route");
        let remedy = format!("write `match: {{path: \"/products/{{{name}}}\"}}`");
        mistakes.error(place, message, remedy);
    }
}
