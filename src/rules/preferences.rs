//! What a client prefers, reduced to the few answers that an application has.
//!
//! Browsers spell their languages and media types in thousands of ways. Where the operator lists what the
//! application distinguishes, a fetch for the store asks for the one of them that the client likes best, so that
//! there are as many variants as there are answers.

use super::head::Fields;

/// The item of `languages` that the client likes best (RFC 9110 section 12.5.4, lookup of RFC 4647 section 3.4);
/// `None` when it wants none of them, or does not say.
pub fn language<'l>(fields: Fields<'_>, languages: &'l [String]) -> Option<&'l str> {
    if languages.is_empty() {
        return None;
    }
    let mut ranges = weighted(fields, "accept-language");
    let refused: Vec<String> =
        ranges.iter().filter(|(_, weight)| *weight == 0).map(|(range, _)| range.clone()).collect();
    ranges.retain(|(_, weight)| *weight > 0);
    // Stable: of equal wishes the first counts.
    ranges.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let open = |language: &&String| !refused.contains(&language.to_ascii_lowercase());
    ranges.iter().find_map(|(range, _)| {
        let candidates = languages.iter().filter(open);
        match range.as_str() {
            "*" => candidates.map(String::as_str).next(),
            range => look_up(range, &candidates.map(String::as_str).collect::<Vec<_>>()),
        }
    })
}

/// `fr-CH` finds `fr-CH`, else `fr`, else, being a range too, `fr-FR`.
fn look_up<'l>(range: &str, languages: &[&'l str]) -> Option<&'l str> {
    let mut shorter = Some(range);
    while let Some(range) = shorter {
        if let Some(found) = languages.iter().find(|language| language.eq_ignore_ascii_case(range)) {
            return Some(found);
        }
        shorter = range.rsplit_once('-').map(|(rest, _)| rest);
    }
    let primary = range.split('-').next()?;
    let same =
        |language: &&&str| language.split('-').next().is_some_and(|own| own.eq_ignore_ascii_case(primary));
    languages.iter().find(same).copied()
}

/// The item of `media_types` that the client likes best (RFC 9110 section 12.5.1); of equal ones the first listed.
/// `None` when it wants none of them, or does not say.
pub fn media_type<'l>(fields: Fields<'_>, media_types: &'l [String]) -> Option<&'l str> {
    if media_types.is_empty() {
        return None;
    }
    let ranges = weighted(fields, "accept");
    let mut best: Option<(&str, u16)> = None;
    for media_type in media_types {
        let weight = weight_of(media_type, &ranges);
        if weight > best.map_or(0, |(_, weight)| weight) {
            best = Some((media_type, weight));
        }
    }
    best.map(|(media_type, _)| media_type)
}

/// The weight of a media type by the most specific range that holds it.
fn weight_of(media_type: &str, ranges: &[(String, u16)]) -> u16 {
    let media_type = media_type.to_ascii_lowercase();
    let family = format!("{}/*", media_type.split('/').next().unwrap_or_default());
    let specific = |range: &str| match range {
        range if range == media_type => 3,
        range if range == family => 2,
        "*/*" => 1,
        _ => 0,
    };
    let holding = ranges.iter().filter(|(range, _)| specific(range) > 0);
    holding.max_by_key(|(range, _)| specific(range)).map_or(0, |(_, weight)| *weight)
}

/// The members of a field with their weights, in thousandths and in lower case. A member whose weight cannot be read
/// is left out; other parameters are passed over.
fn weighted(fields: Fields<'_>, name: &str) -> Vec<(String, u16)> {
    let mut members = Vec::new();
    for line in fields.all(name).filter_map(|line| std::str::from_utf8(line).ok()) {
        for member in line.split(',') {
            let mut parts = member.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then(|| weight(value.trim()))
            });
            if let Some(weight) = weight.unwrap_or(Some(1000)).filter(|_| !range.is_empty()) {
                members.push((range, weight));
            }
        }
    }
    members
}

/// A weight in thousandths (RFC 9110 section 12.4.2).
fn weight(text: &str) -> Option<u16> {
    let value: f32 = text.parse().ok()?;
    // The range makes the conversion exact.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..=1.0).contains(&value).then(|| (value * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn the_best_language_of_the_list_is_found() {
        let languages = list(&["en", "fr", "pt-BR"]);
        for (value, expected) in [
            ("fr", Some("fr")),
            ("FR-ch, en;q=0.8", Some("fr")),
            ("de, fr;q=0.5, en;q=0.9", Some("en")),
            ("de", None),
            ("de, *;q=0.1", Some("en")),
            ("*, en;q=0", Some("fr")),
            ("pt", Some("pt-BR")),
            ("pt-PT", Some("pt-BR")),
            ("en;q=0", None),
            ("en;q=0.5, fr;q=0.5", Some("en")),
            ("fr;q=x, en", Some("en")),
            ("", None),
        ] {
            let fields = [("Accept-Language", value.as_bytes())];
            assert_eq!(language(Fields::new(&fields), &languages), expected, "{value}");
        }
        assert_eq!(language(Fields::default(), &languages), None);
    }

    #[test]
    fn the_best_media_type_of_the_list_is_found() {
        let types = list(&["application/json", "text/html"]);
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (value, expected) in [
            (browser, Some("text/html")),
            ("*/*", Some("application/json")),
            ("application/json; indent=4", Some("application/json")),
            ("text/*", Some("text/html")),
            ("text/*;q=0.3, */*;q=0.2, application/json;q=0", Some("text/html")),
            ("image/png", None),
            ("text/html;q=0", None),
            ("", None),
        ] {
            let fields = [("Accept", value.as_bytes())];
            assert_eq!(media_type(Fields::new(&fields), &types), expected, "{value}");
        }
    }
}
