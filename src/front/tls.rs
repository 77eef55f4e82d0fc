//! The certificates of a listener, found by the name that a client asks for, and read anew when their files change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::tls::ext::{ssl_add_chain_cert, ssl_use_certificate, ssl_use_private_key};
use pingora::tls::pkey::{PKey, Private};
use pingora::tls::ssl::{NameType, SslRef};
use pingora::tls::x509::{X509, X509Ref};

use crate::config::listener::Certificate;
use crate::plan::listeners::check;

/// How often to look whether a file has changed.
pub const LOOK: Duration = Duration::from_secs(5);

/// The certificates of one listener.
pub struct Certificates {
    files: Vec<Certificate>,
    live: ArcSwap<Vec<Loaded>>,
}

/// A certificate that is shown.
struct Loaded {
    /// In lower case, a wildcard as `*.`.
    names: Vec<String>,
    chain: Vec<X509>,
    key: PKey<Private>,
}

/// What tells whether a file has changed.
type Stamp = Vec<Option<(SystemTime, u64)>>;

impl Certificates {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// What is wrong with the first that cannot be used.
    pub fn read(files: &[Certificate]) -> Result<Self, String> {
        let live = ArcSwap::from_pointee(load(files)?);
        Ok(Self { files: files.to_vec(), live })
    }

    /// Reads them anew whenever a file has changed. What cannot be used leaves the old ones in their place.
    pub async fn watch(&self) {
        let mut known = self.stamp();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.stamp();
            if now == known {
                continue;
            }
            known = now;
            match load(&self.files) {
                Ok(loaded) => {
                    let names: Vec<&str> =
                        loaded.iter().flat_map(|one| one.names.iter().map(String::as_str)).collect();
                    tracing::info!(names = names.join(", "), "certificates were read anew");
                    self.live.store(Arc::new(loaded));
                }
                Err(error) => tracing::error!(error, "the certificates stay as they are"),
            }
        }
    }

    fn stamp(&self) -> Stamp {
        let of = |file: &Path| {
            let found = std::fs::metadata(file).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        self.files.iter().flat_map(|files| [of(&files.certificate), of(&files.key)]).collect()
    }
}

fn load(files: &[Certificate]) -> Result<Vec<Loaded>, String> {
    let one = |files: &Certificate| {
        let (chain, key) = check(files)?;
        let names = chain.first().map(|leaf| names(leaf)).unwrap_or_default();
        Ok(Loaded { names, chain, key })
    };
    files.iter().map(one).collect()
}

/// The host names that a certificate is for (RFC 9110 section 4.3.4).
fn names(leaf: &X509Ref) -> Vec<String> {
    let listed = leaf.subject_alt_names().into_iter().flatten();
    listed.filter_map(|name| name.dnsname().map(str::to_ascii_lowercase)).collect()
}

/// Which of several lists of names has one, exactly or by a wildcard for its first part; if none, the first.
fn choose<'n>(wanted: Option<&str>, all: impl Iterator<Item = &'n [String]> + Clone) -> usize {
    let Some(wanted) = wanted.map(str::to_ascii_lowercase) else { return 0 };
    let with = |name: &str| all.clone().position(|names| names.iter().any(|own| own == name));
    let wildcard = || wanted.split_once('.').and_then(|(_, rest)| with(&format!("*.{rest}")));
    with(&wanted).or_else(wildcard).unwrap_or(0)
}

/// Lets Pingora ask for a certificate.
pub struct Chooser(pub Arc<Certificates>);

#[async_trait]
impl TlsAccept for Chooser {
    async fn certificate_callback(&self, ssl: &mut SslRef) {
        let live = self.0.live.load();
        let at = choose(ssl.servername(NameType::HOST_NAME), live.iter().map(|one| one.names.as_slice()));
        let Some(Loaded { chain, key, .. }) = live.get(at) else { return };
        let Some((leaf, others)) = chain.split_first() else { return };
        let shown = ssl_use_certificate(ssl, leaf)
            .and_then(|()| ssl_use_private_key(ssl, key))
            .and_then(|()| others.iter().try_for_each(|other| ssl_add_chain_cert(ssl, other)));
        if let Err(error) = shown {
            tracing::error!(%error, "a certificate cannot be shown");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_chosen_by_its_names() {
        let all: Vec<Vec<String>> = [&["a.test"][..], &["*.b.test", "b.test"], &["x.b.test"]]
            .iter()
            .map(|names| names.iter().map(|name| (*name).to_owned()).collect())
            .collect();
        for (wanted, expected) in [
            (None, 0),
            (Some("A.test"), 0),
            (Some("b.test"), 1),
            (Some("y.B.test"), 1),
            (Some("x.b.test"), 2),
            (Some("z.y.b.test"), 0),
            (Some("unknown"), 0),
        ] {
            assert_eq!(choose(wanted, all.iter().map(Vec::as_slice)), expected, "{wanted:?}");
        }
    }
}
