//! What the purge clients of other caches mean by the methods they send to the main listener.
//!
//! Content management systems purge Varnish, nginx or a framework's own cache with `PURGE`, `BAN` and the like. Whoever
//! points one of them at parvis need change nothing else. Tags name pages on every host; a path is of the host that the
//! request names.

use std::net::IpAddr;
use std::sync::Arc;

use super::head::{Fields, RequestHead};
use super::invalidate::Expires;
use super::pattern::{Pattern, Rule, spelled_tags};
use super::policy::QueryPolicy;
use super::selector::{MAX_SELECTORS, Selector, SelectorError, any_scheme};
use super::tags;
use super::target::{Target, split_port};

/// What such a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What to purge.
    pub selectors: Vec<Selector>,
    /// Whether it only expires.
    pub expires: Expires,
}

impl Asked {
    fn hard(selectors: Vec<Selector>) -> Self {
        Self { selectors, expires: Expires::No }
    }
}

/// Why such a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// A field that says what to purge is missing or empty.
    #[error("{0} names nothing to purge")]
    Nothing(&'static str),
    /// It is not text.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// Too many at once.
    #[error("more than {MAX_SELECTORS} tags in one request; split it")]
    TooMany,
    /// What it names cannot be read.
    #[error("`{0}`: {1}")]
    Unreadable(String, SelectorError),
}

/// Whether a method is one by which caches are purged.
pub fn is_purge(method: &str) -> bool {
    matches!(method, "PURGE" | "BAN" | "PURGEKEYS" | "PURGETAGS" | "URIBAN")
}

/// Whether a read asks for its page to be fetched anew, whatever is stored: the refresh of FOSHttpCache for nginx. That
/// for Varnish is `Cache-Control: no-cache`, which every client may send.
pub fn asks_for_refresh(fields: Fields<'_>) -> bool {
    fields.text("x-refresh") == Some("1")
}

/// Reads a request whose method [`is_purge`].
pub fn read(request: &RequestHead<'_>, policies: &[QueryPolicy]) -> Result<Asked, DialectError> {
    let reader = Reader { request, fields: request.fields, policies };
    match request.method {
        "BAN" => reader.ban().map(Asked::hard),
        "PURGEKEYS" => reader.keys(),
        "PURGETAGS" => reader.tags(&["x-cache-tags"], "X-Cache-Tags").map(Asked::hard),
        "URIBAN" => Ok(Asked::hard(vec![reader.below(&request.target.path)?])),
        _ => reader.purge(),
    }
}

struct Reader<'r> {
    request: &'r RequestHead<'r>,
    fields: Fields<'r>,
    policies: &'r [QueryPolicy],
}

impl Reader<'_> {
    fn purge(&self) -> Result<Asked, DialectError> {
        // FOSHttpCache for Symfony.
        if self.text("clear-cache")? == Some("true") {
            return Ok(Asked::hard(vec![Selector::All]));
        }
        // Magento.
        for name in ["x-magento-tags-pattern", "x-pool"] {
            if let Some(pattern) = self.text(name)? {
                return by_tags(pattern).map(Asked::hard);
            }
        }
        if self.fields.has("xkey-purge") || self.fields.has("xkey-softpurge") {
            return self.keys();
        }
        let soft = self.text("fastly-soft-purge")? == Some("1");
        let expires = Expires::softly(soft);
        let of_tags = ["xkey", "surrogate-key", "cache-tags", "cache-tag", "x-cache-tags"];
        if of_tags.iter().any(|name| self.fields.has(name)) {
            let selectors = self.tags(&of_tags, "the list of tags")?;
            return Ok(Asked { selectors, expires });
        }
        // Proxy Cache Purge for WordPress.
        if self.text("x-purge-method")? == Some("regex") {
            return Ok(Asked::hard(vec![self.matching(&self.request.target.path)?]));
        }
        Ok(Asked { selectors: self.page(), expires })
    }

    fn ban(&self) -> Result<Vec<Selector>, DialectError> {
        for name in ["apiplatform-ban-regex", "x-magento-tags-pattern"] {
            if let Some(pattern) = self.text(name)? {
                return by_tags(pattern);
            }
        }
        let of_fos = ["x-host", "x-url", "x-content-type", "x-cache-tags"];
        if of_fos.iter().any(|name| self.fields.has(name)) {
            return self.conjunction();
        }
        let of_tags = ["cache-tags", "cache-tag", "xkey", "surrogate-key"];
        if of_tags.iter().any(|name| self.fields.has(name)) {
            return self.tags(&of_tags, "the list of tags");
        }
        let path = &self.request.target.path;
        match path.contains('*') {
            true if path.contains(".*") => Ok(vec![self.matching(path)?]),
            true => {
                let url = Rule::wildcard(path, '*').map_err(unreadable(path))?;
                Ok(vec![self.on_host(url, path)?])
            }
            false => Ok(self.page()),
        }
    }

    /// FOSHttpCache for Varnish: all that are given must match.
    fn conjunction(&self) -> Result<Vec<Selector>, DialectError> {
        let rule = |name: &'static str| match self.text(name)? {
            Some(text) => Rule::selective(text).map_err(unreadable(text)),
            None => Ok(None),
        };
        let (host, url, content_type) = (rule("x-host")?, rule("x-url")?, rule("x-content-type")?);
        match self.text("x-cache-tags")? {
            Some(pattern) if host.is_none() && url.is_none() && content_type.is_none() => by_tags(pattern),
            _ => {
                let tags = rule("x-cache-tags")?;
                Ok(vec![Selector::pattern(Pattern { host, url, content_type, tags })])
            }
        }
    }

    /// A field that was sent must be read, or the request would name something else.
    fn text(&self, name: &'static str) -> Result<Option<&str>, DialectError> {
        match (self.fields.text(name), self.fields.has(name)) {
            (None, true) => Err(DialectError::NotText(name)),
            (text, _) => Ok(text),
        }
    }

    fn keys(&self) -> Result<Asked, DialectError> {
        let names = ["xkey-purge", "xkey-softpurge"];
        let expires = Expires::softly(!self.fields.has("xkey-purge"));
        Ok(Asked { selectors: self.tags(&names, "xkey-purge or xkey-softpurge")?, expires })
    }

    fn tags(&self, names: &[&str], what: &'static str) -> Result<Vec<Selector>, DialectError> {
        let lines = names.iter().flat_map(|name| self.fields.all(name).map(move |line| (*name, line)));
        let tags: Vec<Arc<str>> = lines.flat_map(|(name, line)| tags::read(name, line)).collect();
        match tags.len() {
            0 => Err(DialectError::Nothing(what)),
            1..=MAX_SELECTORS => Ok(tags.into_iter().map(Selector::of_tag).collect()),
            _ => Err(DialectError::TooMany),
        }
    }

    /// The page that the request names; and, for FOSHttpCache for nginx, the one behind the path that it purges through.
    fn page(&self) -> Vec<Selector> {
        let target = &self.request.target;
        let mut selectors = vec![Selector::target(self.host(), target, self.policies)];
        if let Some(behind) = target.path.strip_prefix("/purge/") {
            let behind = Target { path: format!("/{behind}").into(), ..target.clone() };
            selectors.push(Selector::target(self.host(), &behind, self.policies));
        }
        selectors
    }

    fn below(&self, path: &str) -> Result<Selector, DialectError> {
        let url = Rule::wildcard(&format!("{path}*"), '*').map_err(unreadable(path))?;
        self.on_host(url, path)
    }

    fn matching(&self, pattern: &str) -> Result<Selector, DialectError> {
        let url = Rule::regex_from_start(pattern).map_err(unreadable(pattern))?;
        self.on_host(url, pattern)
    }

    fn on_host(&self, url: Rule, shown: &str) -> Result<Selector, DialectError> {
        let host = self.host().map(|host| Rule::exact(&host)).transpose().map_err(unreadable(shown))?;
        Ok(Selector::pattern(Pattern { host, url: Some(url), ..Pattern::default() }))
    }

    /// The site; none where the request names no host, or the address of the proxy that it was sent to.
    fn host(&self) -> Option<String> {
        let host = any_scheme(&self.request.target.host);
        let (name, _) = split_port(&host);
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        (!name.is_empty() && !is_address).then_some(host)
    }
}

/// By a regular expression over the tags of a page.
fn by_tags(pattern: &str) -> Result<Vec<Selector>, DialectError> {
    if let Some(tags) = spelled_tags(pattern) {
        return Ok(tags.into_iter().map(|tag| Selector::of_tag(tag.into())).collect());
    }
    let tags = Rule::selective(pattern).map_err(unreadable(pattern))?;
    Ok(vec![Selector::pattern(Pattern { tags, ..Pattern::default() })])
}

fn unreadable(text: &str) -> impl FnOnce(SelectorError) -> DialectError + use<> {
    let text = text.to_owned();
    move |error| DialectError::Unreadable(text, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::target::Scheme;
    use crate::rules::testing;

    fn asked(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<Asked, DialectError> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let fields = Fields::new(&fields);
        let host = fields.text("host").unwrap_or_default();
        let target = Target::new(Scheme::Http, host, target);
        let request = RequestHead { method, target, fields, has_body: false, believed: &[] };
        read(&request, &[testing::policy().query])
    }

    /// What is asked for, in words; soft purges are marked with a tilde.
    fn words(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<String, DialectError> {
        asked(method, target, fields).map(|asked| {
            let soft = if asked.expires == Expires::Yes { "~ " } else { "" };
            let all: Vec<String> = asked.selectors.iter().map(ToString::to_string).collect();
            format!("{soft}{}", all.join("; "))
        })
    }

    #[test]
    fn every_client_is_understood() {
        for (method, target, fields, expected) in [
            ("PURGE", "/a/?q=1", &[("Host", "shop:8080")][..], "url //shop:8080/a/?q=1"),
            ("PURGE", "/a?", &[("Host", "shop")], "url //shop/a"),
            ("PURGE", "/a", &[("Host", "shop:443")], "url //shop/a"),
            ("PURGE", "/a", &[("Host", "10.0.0.7")], "url /a"),
            ("PURGE", "/a", &[("Host", "[::1]:80")], "url /a"),
            ("PURGE", "/a", &[], "url /a"),
            ("PURGE", "/purge/a", &[("Host", "shop")], "url //shop/purge/a; url //shop/a"),
            ("PURGE", "/a", &[("Fastly-Soft-Purge", "1")], "~ url /a"),
            ("PURGE", "/", &[("Clear-Cache", "true")], "all"),
            ("PURGE", "/p/.*", &[("X-Purge-Method", "regex"), ("Host", "site")], "prefix //site/p/"),
            ("PURGE", "/.*", &[("X-Purge-Method", "regex"), ("Host", "site")], "host site"),
            ("PURGE", "/p", &[("X-Purge-Method", "default"), ("Host", "site")], "url //site/p"),
            ("PURGE", "/", &[("X-Magento-Tags-Pattern", ".*")], "all"),
            (
                "PURGE",
                "/",
                &[("X-Magento-Tags-Pattern", "((^|,)cat_p_1(,|$))|((^|,)cms_b(,|$))")],
                "tag cat_p_1; tag cms_b",
            ),
            ("PURGE", "/", &[("X-Pool", "cms.*")], "tags cms.*"),
            ("PURGE", "/", &[("xkey", "a b"), ("Host", "varnish")], "tag a; tag b"),
            ("PURGE", "/", &[("Surrogate-Key", "/books/1, /books")], "tag /books/1; tag /books"),
            ("PURGEKEYS", "/", &[("xkey-purge", "a b")], "tag a; tag b"),
            ("PURGEKEYS", "/", &[("xkey-softpurge", "a")], "~ tag a"),
            ("PURGETAGS", "/", &[("X-Cache-Tags", "a,b c")], "tag a; tag b c"),
            (
                "BAN",
                "/tags",
                &[("Cache-Tags", "node:1 node_list"), ("Host", "10.0.0.1")],
                "tag node:1; tag node_list",
            ),
            ("BAN", "/", &[("Cache-Tags", "node:1")], "tag node:1"),
            ("BAN", "/blog/*", &[("Host", "10.0.0.1")], "prefix /blog/"),
            ("BAN", "/.*", &[("Host", "10.0.0.1")], "all"),
            ("BAN", "/p", &[("Host", "site")], "url //site/p"),
            ("BAN", "/", &[("X-Host", ".*"), ("X-Url", "^/a/.*"), ("X-Content-Type", ".*")], "prefix /a/"),
            (
                "BAN",
                "/",
                &[("X-Host", "^(www[.])?s$"), ("X-Url", "/a"), ("X-Content-Type", "text")],
                "regex /a host ^(www[.])?s$ type text",
            ),
            (
                "BAN",
                "/",
                &[
                    ("X-Host", ".*"),
                    ("X-Url", ".*"),
                    ("X-Content-Type", ".*"),
                    ("X-Cache-Tags", "(^|,)(a|b)(,|$)"),
                ],
                "tag a; tag b",
            ),
            ("BAN", "/", &[("X-Url", ".*"), ("X-Host", ".*"), ("X-Content-Type", ".*")], "all"),
            ("BAN", "/", &[("ApiPlatform-Ban-Regex", r"(^|\,)/books/1($|\,)")], "tag /books/1"),
            ("URIBAN", "/img", &[("Host", "10.0.0.1")], "prefix /img"),
            ("URIBAN", "/img", &[("Host", "site")], "prefix //site/img"),
        ] {
            assert_eq!(
                words(method, target, fields).as_deref(),
                Ok(expected),
                "{method} {target} {fields:?}"
            );
        }
    }

    #[test]
    fn what_names_nothing_or_nonsense_is_refused() {
        for (method, fields) in [
            ("PURGEKEYS", &[][..]),
            ("PURGEKEYS", &[("xkey-purge", " ,")]),
            ("PURGETAGS", &[]),
            ("BAN", &[("Cache-Tags", "")]),
            ("PURGE", &[("xkey", "")]),
        ] {
            assert!(
                matches!(words(method, "/", fields), Err(DialectError::Nothing(_))),
                "{method} {fields:?}"
            );
        }
        for (method, fields) in [
            ("BAN", ("X-Url", "(")),
            ("BAN", ("X-Cache-Tags", "(a")),
            ("BAN", ("ApiPlatform-Ban-Regex", "")),
            ("PURGE", ("X-Magento-Tags-Pattern", "a{9999}{9999}")),
        ] {
            let found = words(method, "/", &[fields]);
            assert!(matches!(found, Err(DialectError::Unreadable(..))), "{method} {fields:?} {found:?}");
        }
        for (method, name) in [
            ("BAN", "x-url"),
            ("BAN", "x-cache-tags"),
            ("BAN", "apiplatform-ban-regex"),
            ("PURGE", "x-magento-tags-pattern"),
            ("PURGE", "clear-cache"),
        ] {
            let fields = [(name, &b"^/caf\xe9"[..])];
            let (target, fields) = (Target::new(Scheme::Http, "shop", "/"), Fields::new(&fields));
            let request = RequestHead { method, target, fields, has_body: false, believed: &[] };
            assert_eq!(read(&request, &[]), Err(DialectError::NotText(name)));
        }
        let many = vec!["t"; MAX_SELECTORS + 1].join(" ");
        assert_eq!(words("PURGE", "/", &[("xkey", &many)]), Err(DialectError::TooMany));
        assert!(asked("PURGE", "/(.*", &[("X-Purge-Method", "regex")]).is_err());
    }
}
