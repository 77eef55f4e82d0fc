//! One address of a server, and how Pingora connects to it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use pingora::protocols::ALPN;
use pingora::tls::pkey::PKey;
use pingora::tls::x509::X509;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::CertKey;

use crate::config::upstream::{Protocol, Verify};
use crate::plan::upstreams::{Address, Server, Upstream};
use crate::rules::balance::hashed;

/// The most exchanges at once on a connection of HTTP/2.
const MAX_STREAMS: usize = 100;

/// Where a server can be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// An address of the network.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// One address of a server: a name may have several.
#[derive(Debug)]
pub struct Endpoint {
    /// Names it; the same in every process of this build.
    pub id: u64,
    /// The server, as in the file.
    server: Arc<str>,
    /// The same, and the address where it has a name.
    pub label: Arc<str>,
    /// Beside the others.
    pub weight: u32,
    /// Whether it is only for when no other can take a request.
    pub is_backup: bool,
    /// What it calls itself in `Host`, when it is asked by parvis itself.
    pub host: String,
    peer: HttpPeer,
}

impl Endpoint {
    /// One of `server`.
    ///
    /// # Errors
    ///
    /// What keeps Pingora from connecting to it: a path that is none.
    pub fn new(server: &Server, reach: &Reach, settings: &Upstream, tls: &Material) -> pingora::Result<Self> {
        let (name, host) = match &server.address {
            Address::Tcp(name, port) if name.contains(':') => (name.clone(), format!("[{name}]:{port}")),
            Address::Tcp(name, port) => (name.clone(), format!("{name}:{port}")),
            Address::Unix(_) => (String::new(), "localhost".to_owned()),
        };
        let is_name = name.parse::<IpAddr>().is_err();
        let label = match (is_name, reach) {
            (true, Reach::Tcp(address)) => format!("{} ({})", server.label, address.ip()).into(),
            _ => server.label.clone(),
        };
        let server_name = settings.tls.server_name.clone().unwrap_or(name);
        let mut peer = match reach {
            Reach::Tcp(address) => HttpPeer::new(*address, server.tls, server_name),
            Reach::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, server_name)?,
        };
        configure(&mut peer, settings, tls);
        Ok(Self {
            id: hashed(&(&server.label, reach)),
            server: server.label.clone(),
            label,
            weight: server.weight,
            is_backup: server.backup,
            host,
            peer,
        })
    }

    /// Whether it is one of this server's.
    pub fn is_of(&self, server: &Server) -> bool {
        self.server == server.label
    }

    /// What Pingora connects to.
    pub fn peer(&self) -> HttpPeer {
        self.peer.clone()
    }
}

fn configure(peer: &mut HttpPeer, settings: &Upstream, tls: &Material) {
    let options = &mut peer.options;
    options.connection_timeout = Some(settings.connect_timeout);
    options.total_connection_timeout = Some(settings.connect_timeout);
    options.read_timeout = Some(settings.read_timeout);
    options.write_timeout = Some(settings.write_timeout);
    options.idle_timeout = Some(settings.idle_timeout);
    options.verify_cert = settings.tls.verify != Verify::None;
    options.verify_hostname = settings.tls.verify == Verify::Full;
    options.ca.clone_from(&tls.ca);
    options.alpn = match settings.protocol {
        Protocol::Http1 => ALPN::H1,
        Protocol::Http2 => ALPN::H2,
        Protocol::Auto => ALPN::H2H1,
    };
    options.max_h2_streams = MAX_STREAMS;
    peer.client_cert_key.clone_from(&tls.identity);
}

/// Certificates and keys as Pingora wants them.
#[derive(Default)]
pub struct Material {
    ca: Option<Arc<Box<[X509]>>>,
    identity: Option<Arc<CertKey>>,
}

impl Material {
    /// Those of an upstream. That they can be read was found out when the plan was made.
    pub fn of(settings: &Upstream) -> Self {
        let certificates = |pem: &[u8]| X509::stack_from_pem(pem).unwrap_or_default();
        let ca = settings.tls.ca.as_ref().map(|pem| Arc::new(certificates(&pem.0).into_boxed_slice()));
        let identity = settings.tls.identity.as_ref().and_then(|(certificate, key)| {
            let certificates = Some(certificates(&certificate.0)).filter(|found| !found.is_empty())?;
            Some(Arc::new(CertKey::new(certificates, PKey::private_key_from_pem(&key.0).ok()?)))
        });
        Self { ca, identity }
    }
}
