//! The operators' listener and its tokens. Of a secret only the digest is kept.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sha2::{Digest, Sha256};

use super::compile::{Mistakes, address};
use super::{Admin, Token};
use crate::config::locate::Path;
use crate::config::schema;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);
/// Shorter secrets can be guessed.
const MIN_SECRET: usize = 16;
const MAX_TOKENS: usize = 100;

/// Compiles what is written.
pub(super) fn compile(written: &schema::Admin, path: &Path, mistakes: &mut Mistakes) -> Admin {
    let place = path.key("listen");
    let listen = written
        .listen
        .as_deref()
        .and_then(|text| mistakes.take(&place, address(text), "write `127.0.0.1:9180`"))
        .unwrap_or(DEFAULT_LISTEN);
    if !listen.ip().is_loopback() {
        mistakes.warn(
            &place,
            format!("the admin listener is reachable from outside at {listen}; metrics need no token"),
            "listen on 127.0.0.1, or make sure that a firewall stands before it",
        );
    }
    let place = path.key("tokens");
    mistakes.limit(&place, written.tokens.len(), MAX_TOKENS, "tokens");
    let mut tokens: Vec<Token> = Vec::new();
    for (index, written) in written.tokens.iter().enumerate() {
        let place = place.item(index);
        let Some(token) = token(written, &place, mistakes) else { continue };
        if tokens.iter().any(|other| other.name == token.name) {
            let message = format!("two tokens are called `{}`", token.name);
            mistakes.error(&place.key("name"), message, "rename one");
        }
        tokens.push(token);
    }
    Admin { listen, tokens, audit_log: written.audit_log.clone() }
}

fn token(written: &schema::Token, place: &Path, mistakes: &mut Mistakes) -> Option<Token> {
    let Some(name) = written.name.clone().filter(|name| !name.is_empty()) else {
        let remedy = "add `name: ci`; it is what the audit log shows";
        mistakes.error(place, "a token without a name", remedy);
        return None;
    };
    if written.scopes.is_empty() {
        let remedy = "add `scopes: [purge]`";
        mistakes.error(&place.key("scopes"), format!("token `{name}` allows nothing"), remedy);
    }
    let digest = digest(&name, written, place, mistakes)?;
    Some(Token { name, digest, scopes: written.scopes.clone() })
}

fn digest(name: &str, written: &schema::Token, place: &Path, mistakes: &mut Mistakes) -> Option<[u8; 32]> {
    match (&written.secret, &written.sha256) {
        (Some(secret), None) => {
            if secret.expose().len() < MIN_SECRET {
                let message = format!("the secret of token `{name}` is shorter than {MIN_SECRET} bytes");
                mistakes.error(&place.key("secret"), message, "make one with `openssl rand -hex 32`");
            }
            Some(Sha256::digest(secret.expose()).into())
        }
        (None, Some(digest)) => {
            let remedy = "write the 64 digits that `printf %s \"$SECRET\" | sha256sum` prints";
            let read = from_hex(digest).ok_or_else(|| "not a SHA-256 in hexadecimal".to_owned());
            mistakes.take(&place.key("sha256"), read, remedy)
        }
        (Some(_), Some(_)) => {
            let message = format!("token `{name}` has a secret and a digest");
            mistakes.error(&place.key("sha256"), message, "remove one of them");
            None
        }
        (None, None) => {
            let message = format!("token `{name}` has no secret");
            mistakes.error(&place.key("secret"), message, "add `secret: \"${VAR}\"`");
            None
        }
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        // A sign would be read as one.
        let digits = text.get(at * 2..at * 2 + 2).filter(|digits| !digits.contains('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_64_hexadecimal_digits() {
        let digest: [u8; 32] = Sha256::digest("secret").into();
        let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(from_hex(&text), Some(digest));
        assert_eq!(from_hex(&text.to_ascii_uppercase()), Some(digest));
        for bad in ["", &text[1..], &format!("+{}", &text[1..]), &format!("g{}", &text[1..])] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
