//! The part of the YAML about where clients connect.

use std::path::PathBuf;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::values::{one_or_list, text_or_map};

/// One address to listen on, or a list of them.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Listeners(pub Vec<Listener>);

/// Where clients connect: the address alone, or with more to say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Listener {
    /// `:8080`, `127.0.0.1:8080`, `[::1]:8080`.
    pub address: String,
    /// Certificates to show; a client gets the one for the name that it asks for, or the first. Default none: no TLS.
    pub tls: Vec<Certificate>,
    /// Whether HTTP/2 is spoken too, with TLS. Default `true`.
    pub http2: Option<bool>,
    /// Whether each connection begins with the PROXY protocol, version 1 or 2, which tells the client's address. Only
    /// `trusted_proxies` may connect then. Default `false`.
    pub proxy_protocol: Option<bool>,
    /// Answers every request with a redirect to `https://` at this port, such as `443`; those for
    /// `/.well-known/acme-challenge/` go on. Default none.
    pub redirect_to_https: Option<u16>,
}

/// A certificate and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The file of the certificate and those that lead to its authority (PEM). Read anew when it changes.
    pub certificate: PathBuf,
    /// The file of its key (PEM).
    pub key: PathBuf,
}

impl From<&str> for Listener {
    fn from(address: &str) -> Self {
        Self { address: address.to_owned(), ..Self::default() }
    }
}

impl<'de> Deserialize<'de> for Listener {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map::<_, InFull, _>(deserializer, "an address, or a map with one")
    }
}

/// A listener with more to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFull {
    address: String,
    #[serde(default)]
    tls: Vec<Certificate>,
    http2: Option<bool>,
    proxy_protocol: Option<bool>,
    redirect_to_https: Option<u16>,
}

impl From<InFull> for Listener {
    fn from(InFull { address, tls, http2, proxy_protocol, redirect_to_https }: InFull) -> Self {
        Self { address, tls, http2, proxy_protocol, redirect_to_https }
    }
}

impl<'de> Deserialize<'de> for Listeners {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_or_list(deserializer, "an address, a map with one, or a list of these").map(Self)
    }
}
