//! Certificates made for a test, and a client that speaks TLS.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

/// A certificate authority, and what it has signed, in a directory.
pub struct Authority {
    directory: PathBuf,
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    pub fn new(directory: &Path) -> Self {
        let (certificate, key) = make(&[], None);
        std::fs::write(directory.join("ca.pem"), certificate.to_pem().unwrap()).unwrap();
        Self { directory: directory.to_owned(), certificate, key }
    }

    /// The file of its own certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Signs a certificate for these names, and writes it and its key under `file`.
    pub fn sign(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let (certificate, key) = make(names, Some(self));
        let files = (self.directory.join(format!("{file}.pem")), self.directory.join(format!("{file}.key")));
        std::fs::write(&files.0, certificate.to_pem().unwrap()).unwrap();
        std::fs::write(&files.1, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        files
    }
}

fn make(names: &[&str], by: Option<&Authority>) -> (X509, PKey<Private>) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", names.first().unwrap_or(&"test authority")).unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(64, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(by.map_or(&name, |by| by.certificate.subject_name())).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.set_pubkey(&key).unwrap();
    if by.is_none() {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    } else {
        let mut listed = SubjectAlternativeName::new();
        for name in names {
            listed.dns(name);
        }
        let listed = listed.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(listed).unwrap();
    }
    builder.sign(by.map_or(&key, |by| &by.key), MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

/// A TLS connection that trusts `authority` and asks for `name`.
pub fn connect(
    address: SocketAddr,
    authority: &Authority,
    name: &str,
    newest: Option<SslVersion>,
) -> Result<SslStream<TcpStream>, String> {
    let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
    connector.set_ca_file(authority.file()).unwrap();
    connector.set_verify(SslVerifyMode::PEER);
    connector.set_min_proto_version(None).unwrap();
    connector.set_max_proto_version(newest).unwrap();
    let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    connector.build().connect(name, stream).map_err(|error| error.to_string())
}
