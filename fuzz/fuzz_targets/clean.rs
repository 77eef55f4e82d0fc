//! Whether a line of `Cache-Control` names a directive beyond doubt. A second and stricter reader than that
//! of the rules: what it finds, they must find.

/// Whether a directive without argument is a member of the list. Without quotes, commas are all there is to
/// it; where there are some, everything up to it has to be by the grammar (RFC 9111 section 5.2).
pub fn names(line: &str, directive: &str) -> bool {
    let is_it = |member: &str| space_trimmed(member).eq_ignore_ascii_case(directive);
    if !line.contains('"') {
        return line.split(',').any(is_it);
    }
    let mut rest = line;
    loop {
        let Some((member, after)) = member(rest) else { return false };
        if is_it(member) {
            return true;
        }
        let Some(after) = after else { return false };
        rest = after;
    }
}

/// The first member by the grammar, and what follows its comma. `None` where it is malformed.
fn member(list: &str) -> Option<(&str, Option<&str>)> {
    let list = list.trim_start_matches([' ', '\t']);
    let name = token(list);
    let end = match list[name..].strip_prefix('=') {
        _ if name == 0 => 0,
        None => name,
        Some(value) if value.starts_with('"') => name + 1 + quoted_string(value)?,
        Some(value) => name + 1 + Some(token(value)).filter(|length| *length > 0)?,
    };
    let rest = list[end..].trim_start_matches([' ', '\t']);
    match rest.strip_prefix(',') {
        Some(after) => Some((&list[..end], Some(after))),
        None => rest.is_empty().then_some((&list[..end], None)),
    }
}

/// The length of the token that a text begins with.
fn token(text: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

/// The length of the quoted string that a text begins with.
fn quoted_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn space_trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}
