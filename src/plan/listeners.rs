//! Where clients connect, compiled.

use std::net::{Ipv4Addr, SocketAddr};

use pingora::tls::pkey::PKey;
use pingora::tls::x509::X509;

use super::compile::{DEFAULT_PORT, Mistakes, address};
use super::upstreams::pem;
use crate::config::listener::{self as written, Certificate};
use crate::config::locate::Path;
use crate::config::schema::Config;

const MAX_LISTENERS: usize = 64;
const MAX_CERTIFICATES: usize = 1000;

/// The paths that go on although all others are redirected to TLS: by them certificate authorities look whether who asks for a
/// certificate has the name (RFC 8555 section 8.3).
pub const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// The certificates; empty: no TLS.
    pub certificates: Vec<Certificate>,
    /// Whether HTTP/2 is spoken too, with TLS.
    pub http2: bool,
    /// Whether each connection begins with the PROXY protocol.
    pub proxy_protocol: bool,
    /// The port of `https://` that every request is redirected to.
    pub redirect_to_https: Option<u16>,
}

impl Listener {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            certificates: Vec::new(),
            http2: false,
            proxy_protocol: false,
            redirect_to_https: None,
        }
    }
}

pub(super) fn compile(config: &Config, path: &Path, mistakes: &mut Mistakes) -> Vec<Listener> {
    let Some(written) = &config.listen else {
        return vec![Listener::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DEFAULT_PORT))];
    };
    if written.0.is_empty() {
        mistakes.error(path, "no address to listen on", "write `:8080`, or leave `listen` out");
    }
    mistakes.limit(path, written.0.len(), MAX_LISTENERS, "addresses");
    let mut listeners: Vec<Listener> = Vec::new();
    for (index, written) in written.0.iter().enumerate() {
        let place = if config.listen.as_ref().is_some_and(|all| all.0.len() > 1) {
            path.item(index)
        } else {
            path.clone()
        };
        let remedy = "write `:8080` or `127.0.0.1:8080`";
        let Some(address) = mistakes.take(&place, address(&written.address), remedy) else { continue };
        if listeners.iter().any(|other| other.address == address) {
            mistakes.error(&place, format!("`{}` is listed twice", written.address), "remove one");
        }
        listeners.push(listener(config, written, address, &place, mistakes));
    }
    listeners
}

fn listener(
    config: &Config,
    written: &written::Listener,
    address: SocketAddr,
    path: &Path,
    mistakes: &mut Mistakes,
) -> Listener {
    let place = path.key("tls");
    mistakes.limit(&place, written.tls.len(), MAX_CERTIFICATES, "certificates");
    for (index, files) in written.tls.iter().enumerate() {
        let place = place.item(index);
        if let Err(complaint) = check(files) {
            mistakes.error(&place, complaint, "name files in PEM format that parvis may read");
        }
    }
    let has_tls = !written.tls.is_empty();
    if written.http2 == Some(true) && !has_tls {
        mistakes.error(&path.key("http2"), "HTTP/2 is spoken with TLS only", "add `tls`, or leave it out");
    }
    let proxy_protocol = written.proxy_protocol.unwrap_or(false);
    if proxy_protocol && config.trusted_proxies.is_empty() {
        let remedy = "list the load balancer's network: `trusted_proxies: [10.0.0.0/8]`";
        mistakes.error(&path.key("proxy_protocol"), "nobody may connect: no proxy is trusted", remedy);
    }
    if written.redirect_to_https.is_some() && has_tls {
        mistakes.error(&path.key("redirect_to_https"), "this is `https://` already", "leave it out");
    }
    if written.redirect_to_https == Some(0) {
        mistakes.error(&path.key("redirect_to_https"), "0 is no port", "write `443`");
    }
    Listener {
        address,
        certificates: written.tls.clone(),
        http2: has_tls && written.http2.unwrap_or(true),
        proxy_protocol,
        redirect_to_https: written.redirect_to_https,
    }
}

/// Whether a certificate and its key can be read, and belong together.
pub fn check(files: &Certificate) -> Result<(Vec<X509>, PKey<pingora::tls::pkey::Private>), String> {
    let chain =
        pem(&files.certificate, |pem| X509::stack_from_pem(pem).is_ok_and(|found| !found.is_empty()))?;
    let key = pem(&files.key, |pem| PKey::private_key_from_pem(pem).is_ok())?;
    let unreadable = |file: &std::path::Path| format!("{}: cannot be read", file.display());
    let chain = X509::stack_from_pem(&chain.0).map_err(|_| unreadable(&files.certificate))?;
    let key = PKey::private_key_from_pem(&key.0).map_err(|_| unreadable(&files.key))?;
    let is_its = chain.first().and_then(|leaf| leaf.public_key().ok()).is_some_and(|own| own.public_eq(&key));
    match is_its {
        true => Ok((chain, key)),
        false => Err(format!("{} is not the key of {}", files.key.display(), files.certificate.display())),
    }
}
