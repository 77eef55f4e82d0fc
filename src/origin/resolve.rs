//! The addresses behind the names of servers, looked up by the system's resolver: that is what knows `/etc/hosts`, search
//! domains, and the names of containers. It does not tell how long they hold, so they are looked up anew now and then.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use super::peer::{Endpoint, Material, Reach};
use crate::plan::upstreams::{Address, Upstream};

/// The most addresses of one name that are used.
const MAX_ADDRESSES: usize = 64;

/// A server that cannot be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot look up `{server}`: {cause}")]
pub struct LookupError {
    /// As in the file.
    pub server: Arc<str>,
    /// What the system says.
    pub cause: String,
}

/// Whether any server has a name.
pub fn has_names(settings: &Upstream) -> bool {
    settings.servers.iter().any(|server| match &server.address {
        Address::Tcp(name, _) => name.parse::<IpAddr>().is_err(),
        Address::Unix(_) => false,
    })
}

/// What came of looking up one server: a name may have several addresses.
pub type LookedUp = Result<Vec<Arc<Endpoint>>, LookupError>;

/// Looks up all servers of an upstream, in their order. Waits for the resolver.
pub fn look_up(settings: &Upstream) -> Vec<LookedUp> {
    let tls = Material::of(settings);
    let look_up = |server: &crate::plan::upstreams::Server| {
        let failed = |cause: String| LookupError { server: server.label.clone(), cause };
        let endpoint = |reach: Reach| {
            let endpoint = Endpoint::new(server, &reach, settings, &tls);
            endpoint.map(Arc::new).map_err(|error| failed(error.to_string()))
        };
        reaches(&server.address).map_err(failed)?.into_iter().map(endpoint).collect()
    };
    settings.servers.iter().map(look_up).collect()
}

fn reaches(address: &Address) -> Result<Vec<Reach>, String> {
    let (name, port) = match address {
        Address::Unix(path) => return Ok(vec![Reach::Unix(path.clone())]),
        Address::Tcp(name, port) => (name.as_str(), *port),
    };
    let found = (name, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    // The order in which they come changes; what they are does not.
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    match addresses.is_empty() {
        true => Err("it has no address".to_owned()),
        false => Ok(addresses.into_iter().map(Reach::Tcp).collect()),
    }
}
