//! An origin that speaks HTTP/2 without TLS, as servers of gRPC do: it answers each message, and ends with trailers.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// It runs until it is dropped.
pub struct GrpcOrigin {
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl GrpcOrigin {
    pub fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(answer(request, respond));
                    }
                });
            }
        });
        Self { address, _runtime: runtime }
    }
}

/// Sends back each message as it comes, in capitals, with what the request said of trailers.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let te = request.headers().get("te").cloned();
    let mut head = Response::builder().header("content-type", "application/grpc");
    if let Some(te) = te {
        head = head.header("x-te", te);
    }
    let mut sending = respond.send_response(head.body(()).expect("a head"), false)?;
    let mut body = request.into_body();
    while let Some(message) = body.data().await {
        let message = message?;
        body.flow_control().release_capacity(message.len())?;
        if message.as_ref() == b"break" {
            sending.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        sending.send_data(message.to_ascii_uppercase().into(), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    sending.send_trailers(trailers)
}
