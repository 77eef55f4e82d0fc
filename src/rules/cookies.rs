//! Which cookies carry identity.
//!
//! A cookie that is not on the route's ignore list may change the page, so its request passes. One that is on
//! the list is taken out of the upstream request too: what the origin never sees, the stored page cannot
//! depend on.

use super::head::Fields;
use super::policy::Patterns;

/// The name of the first cookie that the patterns do not ignore.
pub fn first_identifying<'a>(fields: Fields<'a>, ignored: &Patterns) -> Option<&'a str> {
    for value in fields.all("cookie") {
        let Ok(value) = std::str::from_utf8(value) else {
            return Some("(not text)");
        };
        if let Some(pair) = pairs(value).find(|pair| !ignored.matches(name(pair))) {
            return Some(name(pair));
        }
    }
    None
}

fn pairs(value: &str) -> impl Iterator<Item = &str> {
    value.split(';').map(str::trim).filter(|pair| !pair.is_empty())
}

fn name(pair: &str) -> &str {
    pair.split('=').next().unwrap_or(pair).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ignored_cookies_are_anonymous() {
        let ignored = Patterns::new(&["_ga*", "_fbp"]).unwrap();
        for (lines, expected) in [
            (&[][..], None),
            (&[""][..], None),
            (&["_ga=1; _gat=2"][..], None),
            (&["_ga=1; sessionid=x"][..], Some("sessionid")),
            (&["_ga=1", "theme=dark"][..], Some("theme")),
            (&["  _fbp=1 ;"][..], None),
            (&["=value"][..], Some("")),
            (&["flag"][..], Some("flag")),
            (&["_GA=1"][..], Some("_GA")),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("Cookie", line.as_bytes())).collect();
            assert_eq!(first_identifying(Fields(&fields), &ignored), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_that_is_not_text_identifies() {
        let fields = [("cookie", &b"_ga=\xff"[..])];
        assert!(first_identifying(Fields(&fields), &Patterns::new(&["_ga"]).unwrap()).is_some());
    }
}
