//! The PROXY protocol: a load balancer that does not speak HTTP tells the client's address before all else.
//!
//! Whoever may say it may be anyone, so only trusted proxies may; and where it is expected it must come, or a client that
//! reaches the listener directly would be taken for one.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use pingora::listeners::PreTlsProcess;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::{GetSocketDigest, SocketDigest, UniqueID};
use pingora::{Error, ErrorType, OrErr, Result};
use ppp::{HeaderResult, v1, v2};
use tokio::io::AsyncReadExt;

use crate::proxy::App;

/// The error of a connection that does not begin as it has to.
const REFUSED: ErrorType = ErrorType::new("ProxyProtocol");

/// What any header has at least, without what follows it: the shortest line of version 1 has 15 bytes.
const LEAST: usize = 12;
/// The fixed part of version 2, whose last two bytes tell how long the rest is.
const FIXED: usize = 16;
/// The longest line of version 1.
const MAX_LINE: usize = 107;
/// The longest rest of version 2: addresses, and what a load balancer adds.
const MAX_REST: usize = 4096;

/// Reads the header of a connection, if its listener has one, before TLS begins.
pub struct BeforeTls(pub App);

#[async_trait]
impl PreTlsProcess for BeforeTls {
    async fn process(&self, stream: &mut Stream) -> Result<()> {
        accept(&self.0, stream).await
    }
}

/// Reads the header of a connection, if its listener has one: from then on the client's address is what that says.
///
/// # Errors
///
/// Why the connection has to end.
pub async fn accept(app: &App, stream: &mut Stream) -> Result<()> {
    let digest = stream.get_socket_digest();
    let local = digest.as_ref().and_then(|digest| digest.local_addr()?.as_inet().copied());
    let peer = digest.as_ref().and_then(|digest| digest.peer_addr()?.as_inet().copied());
    let live = app.live.load();
    let plan = &live.plan;
    if !local.and_then(|local| plan.listener(local)).is_some_and(|listener| listener.proxy_protocol) {
        return Ok(());
    }
    let trusted =
        |peer: SocketAddr| plan.trust.networks.iter().any(|net| net.contains(&peer.ip().to_canonical()));
    if !peer.is_some_and(trusted) {
        app.observer.metrics.limit("proxy-protocol");
        return Error::e_explain(REFUSED, "the PROXY protocol of someone who is not trusted");
    }
    let source = match tokio::time::timeout(plan.clients.header_timeout, read(stream)).await {
        Ok(source) => source,
        Err(_) => Error::e_explain(REFUSED, "the header of the PROXY protocol took too long"),
    };
    let source = source.inspect_err(|_| app.observer.metrics.limit("proxy-protocol"))?;
    if let Some(source) = source {
        let own = SocketDigest::from_raw_fd(stream.id());
        // They are set once, and the digest is new.
        let _ = own.peer_addr.set(Some(source.into()));
        let _ = own.local_addr.set(local.map(Into::into));
        stream.set_socket_digest(own);
    }
    Ok(())
}

/// The address that the header tells; `None` when it tells none, as for the load balancer's own checks.
async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Option<SocketAddr>> {
    let broken = "the header of the PROXY protocol breaks off";
    let mut header = vec![0; LEAST];
    stream.read_exact(&mut header).await.or_err(REFUSED, broken)?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(FIXED, 0);
        stream.read_exact(&mut header[LEAST..]).await.or_err(REFUSED, broken)?;
        let rest = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
        if rest > MAX_REST {
            return Error::e_explain(REFUSED, "the header of the PROXY protocol is too long");
        }
        header.resize(FIXED + rest, 0);
        stream.read_exact(&mut header[FIXED..]).await.or_err(REFUSED, broken)?;
    } else {
        // Not a byte of what follows may be taken.
        while !header.ends_with(b"\r\n") && header.len() < MAX_LINE && header.starts_with(b"PROXY ") {
            header.push(stream.read_u8().await.or_err(REFUSED, broken)?);
        }
    }
    parse(&header).or_err(REFUSED, "the connection does not begin with the PROXY protocol")
}

fn parse(header: &[u8]) -> std::result::Result<Option<SocketAddr>, String> {
    let address = |ip: IpAddr, port: u16| Some(SocketAddr::new(ip, port));
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(both) => address(both.source_address.into(), both.source_port),
            v1::Addresses::Tcp6(both) => address(both.source_address.into(), both.source_port),
        }),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(None),
        HeaderResult::V2(Ok(header)) => Ok(match header.addresses {
            v2::Addresses::IPv4(both) => address(both.source_address.into(), both.source_port),
            v2::Addresses::IPv6(both) => address(both.source_address.into(), both.source_port),
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        }),
        HeaderResult::V1(Err(error)) => Err(error.to_string()),
        HeaderResult::V2(Err(error)) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(bytes: &[u8]) -> (Option<Option<String>>, usize) {
        let mut rest = bytes;
        let read = read(&mut rest).await;
        (read.ok().map(|source| source.map(|source| source.to_string())), rest.len())
    }

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, addresses, b"GET /"].concat()
    }

    #[tokio::test]
    async fn the_address_is_read_and_not_a_byte_more() {
        let four = [&[192, 0, 2, 7][..], &[10, 0, 0, 1], &[0x1f, 0x90], &[0, 80], b"\x03\0\x04more"].concat();
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\nGET /".to_vec(), Some(Some("192.0.2.7:8080"))),
            (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\nGET /".to_vec(), Some(Some("[2001:db8::1]:1"))),
            (b"PROXY UNKNOWN\r\nGET /".to_vec(), Some(None)),
            (version_2(1, 0x11, &four), Some(Some("192.0.2.7:8080"))),
            (version_2(0, 0, b""), Some(None)),
        ] {
            let (source, rest) = outcome(&bytes).await;
            assert_eq!((source, rest), (expected.map(|source| source.map(str::to_owned)), 5), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_ends_the_connection() {
        let long = version_2(1, 0x11, &[0; MAX_REST + 1]);
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080",
            b"PROXY TCP4 192.0.2.700 10.0.0.1 8080 80\r\n",
            b"PROXY TCP4 nowhere\r\n",
            b"PRO",
            &[b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
            &version_2(1, 0x11, &[1, 2])[..],
            &long,
        ] {
            assert_eq!(outcome(bytes).await.0, None, "{}", bytes.escape_ascii());
        }
    }
}
