//! Pages, and asking for them: at the address that the page's URL names, or at another one in its name.
//!
//! Behind a load balancer, and from a CI job, the URL that visitors use leads elsewhere or nowhere. What parvis
//! stores under, and what the application builds its links from, is the URL of the visitors all the same.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use crate::rules::target::{Scheme, is_host};

/// How long one request may take, with its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that is read of a page, in bytes.
pub const MAX_BODY: u64 = 64 << 20;
/// The longest part of a body that a message shows, in bytes.
const MAX_EXCERPT: usize = 80;

/// Where something listens, or what a visitor takes for it: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    scheme: Scheme,
    host: String,
}

impl FromStr for Site {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match split(text) {
            Some((site, "" | "/")) => Ok(site),
            _ => Err(format!("`{text}` is not an address: write `http://host:port`, without a path")),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)
    }
}

/// A page, as visitors ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where visitors ask for it.
    pub site: Site,
    path: String,
}

impl Page {
    /// Reads a URL; a path only is one of `base`.
    pub fn parse(text: &str, base: Option<&Site>) -> Result<Self, String> {
        let (site, path) = match split(text) {
            Some(parts) => parts,
            None if text.starts_with('/') => {
                let site =
                    base.ok_or_else(|| format!("`{text}` has no host: write it, or give --through"))?;
                (site.clone(), text)
            }
            None => return Err(format!("`{text}` is not a URL: write `http://host/path`")),
        };
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self { site, path: format!("{slash}{}", encoded(path)) })
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.site, self.path)
    }
}

/// The address of a URL, and the rest.
fn split(text: &str) -> Option<(Site, &str)> {
    let (scheme, rest) = match text.split_once("://")? {
        ("http", rest) => (Scheme::Http, rest),
        ("https", rest) => (Scheme::Https, rest),
        _ => return None,
    };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (!host.is_empty() && is_host(host.as_bytes())).then(|| (Site { scheme, host: host.to_owned() }, path))
}

/// What a browser would send where a URL was written as it reads: `/müsli` is `/m%C3%BCsli`.
fn encoded(path: &str) -> String {
    let byte = |byte: u8| match byte {
        b'!'..=b'~' if !b"\"<>\\^`{|}".contains(&byte) => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(byte).collect()
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its status.
    pub status: u16,
    /// Its media type; empty when it has none.
    pub content_type: String,
    /// Its content.
    pub body: Vec<u8>,
}

/// The one HTTP client of the command.
pub struct Web(pub ureq::Agent);

impl Web {
    /// A client that follows no redirect, keeps no cookie, and says who it is.
    pub fn new() -> Self {
        // The system's authorities: an operator's own may be among them.
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // A redirect is an answer like any other, and the token is for nobody else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A connection from before a restart would fail the first request after it.
            .max_idle_connections(0)
            .user_agent(concat!("parvis/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Self(ureq::Agent::new_with_config(config))
    }

    /// Asks `to` for a page and reads at most `most` bytes of it. The error is for the operator.
    pub fn get(&self, page: &Page, to: &Site, most: u64, timeout: Duration) -> Result<Fetched, String> {
        let mut request = self.0.get(format!("{to}{}", page.path));
        if to.host != page.site.host {
            request = request.header("Host", &page.site.host);
        }
        if to.scheme != page.site.scheme {
            // As the load balancer would that takes the visitors' TLS off.
            request = request.header("X-Forwarded-Proto", page.site.scheme.as_str());
        }
        let answer = request.config().timeout_global(Some(timeout)).build().call();
        let mut answer = answer.map_err(|error| error.to_string())?;
        let content_type = answer.headers().get("content-type").map(|value| value.as_bytes());
        let content_type = String::from_utf8_lossy(content_type.unwrap_or_default()).into_owned();
        let body =
            answer.body_mut().with_config().limit(most).read_to_vec().map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(_) => format!("the body has more than {most} bytes, the limit"),
                error => format!("the body did not come whole: {error}"),
            })?;
        Ok(Fetched { status: answer.status().as_u16(), content_type, body })
    }
}

/// The beginning of a body, in one line.
pub fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(MAX_EXCERPT)]).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_url_or_a_path_of_the_site_it_is_asked_through() {
        let base: Site = "http://127.0.0.1:8080/".parse().unwrap();
        for (text, read) in [
            ("https://shop.test/a?b=1#c", "https://shop.test/a?b=1"),
            ("http://shop.test", "http://shop.test/"),
            ("http://shop.test?a", "http://shop.test/?a"),
            ("http://[::1]:81/", "http://[::1]:81/"),
            ("/a/b?c", "http://127.0.0.1:8080/a/b?c"),
            ("/müsli/a b%20c", "http://127.0.0.1:8080/m%C3%BCsli/a%20b%20c"),
            ("//a", "http://127.0.0.1:8080//a"),
        ] {
            assert_eq!(Page::parse(text, Some(&base)).unwrap().to_string(), read);
        }
        for text in ["", "a", "ftp://shop.test/", "http:///a", "http://user:pass@shop.test/", "http://ba d/"]
        {
            assert!(Page::parse(text, Some(&base)).is_err(), "{text}");
        }
        assert!(Page::parse("/a", None).unwrap_err().contains("--through"));
    }

    #[test]
    fn an_address_has_no_path() {
        for text in ["shop.test:80", "http://shop.test/a", "http://", "http://shop.test?a"] {
            assert!(text.parse::<Site>().is_err(), "{text}");
        }
        assert_eq!("https://shop.test/".parse::<Site>().unwrap().to_string(), "https://shop.test");
    }
}
