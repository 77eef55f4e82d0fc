//! Purges: whatever clients and origins write, what is read names no less than what was written.

use crate::rules::dialect;
use crate::rules::head::{Fields, RequestHead};
use crate::rules::pattern::{Pattern, Rule, spelled_tags};
use crate::rules::policy::QueryPolicy;
use crate::rules::selector::{Facts, MAX_SELECTORS, Selector};
use crate::rules::tags::{MAX_TAG_BYTES, MAX_TAGS, TAG_FIELDS, Tags};
use crate::rules::target::{Scheme, Target};
use crate::rules::template::{PathPattern, Template};

pub fn are_read(fields: Fields<'_>) {
    let facts = facts(fields);
    tags_name_their_page(&facts);
    // Not of every field: compiling an expression takes longer than all the rest.
    for (_, value) in fields.lines().iter().filter(|(name, _)| name.starts_with("x-")) {
        if let Ok(text) = std::str::from_utf8(value) {
            texts_are_read(text, &facts);
        }
    }
    for method in ["PURGE", "BAN", "PURGEKEYS", "PURGETAGS", "URIBAN"] {
        let path = fields.text("x-url").filter(|path| path.starts_with('/')).unwrap_or("/a/b?c=1");
        let target = Target::new(Scheme::Http, fields.text("host").unwrap_or("shop"), path);
        let request = RequestHead { method, target, fields, has_body: false, believed: &[] };
        let Ok(asked) = dialect::read(&request, &[QueryPolicy::default()]) else { continue };
        assert!((1..=MAX_SELECTORS).contains(&asked.selectors.len()));
        asked.selectors.iter().for_each(|selector| is_consistent(selector, &facts));
    }
}

fn facts(fields: Fields<'_>) -> Facts {
    let target = Target::new(Scheme::Http, "shop", "/a/b?c=1");
    let request = RequestHead { method: "GET", target, fields, has_body: false, believed: &[] };
    let tags = Tags::of_response(fields, TAG_FIELDS);
    Facts::new(&request, &QueryPolicy::default(), Tags::default()).of_response("text/html", &tags)
}

fn tags_name_their_page(facts: &Facts) {
    let names = facts.tags.names();
    assert!(names.len() <= MAX_TAGS && names.iter().all(|name| name.len() <= MAX_TAG_BYTES));
    assert!(names.is_sorted());
    for name in names {
        assert!(Selector::of_tag(name.clone()).matches(facts));
        if let Ok(selector) = Selector::tag(name) {
            assert!(selector.matches(facts));
        }
    }
}

fn texts_are_read(text: &str, facts: &Facts) {
    let readers = [Selector::prefix, Selector::wildcard, Selector::regex, Selector::tag, Selector::host];
    let read = readers.iter().filter_map(|read| read(text).ok());
    let url = Selector::url(text, &[QueryPolicy::default()]);
    read.chain(url).for_each(|selector| is_consistent(&selector, facts));
    if let Some(tags) = spelled_tags(text) {
        // What is read as a list of tags means what the expression means.
        let by_tags = tags.iter().any(|tag| facts.tags.match_tag(tag));
        let rule = Rule::regex(text).expect("what spells tags is well-formed");
        let by_pattern = Pattern { tags: Some(rule), ..Pattern::default() }.matches(facts);
        assert!(by_tags || !by_pattern, "{text:?} {facts:?}");
    }
    let template = Template::parse(text);
    if template.names().next().is_none() {
        assert_eq!(template.render(&Vec::new(), str::to_owned).as_deref(), Some(text));
    }
    if let Ok(pattern) = PathPattern::new(text) {
        pattern.regex.is_match("/a/b");
    }
}

/// What matches a page may have matched it before its head was there.
fn is_consistent(selector: &Selector, facts: &Facts) {
    let pending = Facts { content_type: "".into(), tags: Tags::default(), ..facts.clone() };
    assert!(!selector.matches(facts) || selector.may_match(&pending), "{selector}");
    assert!(selector.size() > 0 && !selector.to_string().is_empty());
}
