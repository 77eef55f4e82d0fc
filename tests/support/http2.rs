//! A client that speaks HTTP/2, over TLS.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::ALPN;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::HttpPeer;
use tokio::runtime::{Builder, Runtime};

use super::client::Response;

/// How often it is looked whether to give up.
const STEP: Duration = Duration::from_millis(10);

/// What came of a call.
#[derive(Debug, Default)]
pub struct Call {
    pub head: HeaderMap,
    pub answers: Vec<String>,
    pub trailers: HeaderMap,
}

/// Sends requests on one connection.
pub struct Http2 {
    runtime: Runtime,
    connector: Connector,
    peer: HttpPeer,
    host: &'static str,
}

impl Http2 {
    pub fn new(address: SocketAddr, host: &'static str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut peer = HttpPeer::new(address, true, host.to_owned());
        peer.options.alpn = ALPN::H2;
        peer.options.verify_cert = false;
        peer.options.idle_timeout = Some(super::PATIENCE);
        Self { runtime, connector: Connector::new(None), peer, host }
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[])
    }

    pub fn send(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let asked = async { tokio::time::timeout(super::PATIENCE, self.ask(method, path, fields)).await };
        self.runtime.block_on(asked).expect("in time").expect("a response")
    }

    /// Calls as gRPC does: sends each message when the last one has been answered. Tells the head, what was answered, and the
    /// trailers; an error in the middle ends it.
    pub fn call(&self, path: &str, messages: &[&str]) -> pingora::Result<Call> {
        let calling = async {
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            let mut session = self.begin("POST", path, &fields, false).await?;
            let mut call = Call::default();
            for (at, message) in messages.iter().enumerate() {
                session.write_request_body(message.to_string().into(), false).await?;
                if at == 0 {
                    session.read_response_header().await?;
                    call.head = session.response_header().expect("it has come").headers.clone();
                }
                let answer = session.read_response_body().await?.unwrap_or_default();
                call.answers.push(String::from_utf8_lossy(&answer).into_owned());
            }
            session.finish_request_body()?;
            while session.read_response_body().await?.is_some() {}
            call.trailers = session.read_trailers().await?.unwrap_or_default();
            Ok(call)
        };
        let called = async { tokio::time::timeout(super::PATIENCE, calling).await };
        self.runtime.block_on(called).expect("in time")
    }

    /// How many bytes of a page come, with a pause after each piece of it.
    pub fn get_slowly(&self, path: &str, pause: Duration) -> usize {
        self.runtime.block_on(async {
            let mut session = self.begin("GET", path, &[], true).await.expect("a request");
            session.read_response_header().await.expect("a head");
            let mut length = 0;
            while let Ok(Some(chunk)) = session.read_response_body().await {
                length += chunk.len();
                tokio::time::sleep(pause).await;
            }
            length
        })
    }

    /// Whether an upload of a byte after each pause, so many, is carried through.
    pub fn trickle(&self, path: &str, pause: Duration, bytes: usize) -> bool {
        self.runtime.block_on(async {
            let mut session = self.begin("POST", path, &[], false).await.expect("a request");
            for at in 1..=bytes {
                tokio::time::sleep(pause).await;
                if session.write_request_body("x".into(), at == bytes).await.is_err() {
                    return false;
                }
            }
            session.read_response_header().await.is_ok()
        })
    }

    /// Sends a request, and takes it back once it is `enough`.
    pub fn give_up(&self, path: &str, enough: impl Fn() -> bool) {
        self.runtime.block_on(async {
            tokio::select! {
                response = self.ask("GET", path, &[]) => panic!("it was answered: {response:?}"),
                () = async { while !enough() { tokio::time::sleep(STEP).await } } => {}
            }
            // That it is taken back has to be sent, too.
            tokio::time::sleep(10 * STEP).await;
        });
    }

    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> pingora::Result<Response> {
        let mut session = self.begin(method, path, fields, true).await?;
        session.read_response_header().await?;
        let head = session.response_header().expect("it has come");
        let status = head.status.as_u16();
        let fields = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let mut body = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            body.extend_from_slice(&chunk);
        }
        self.connector.release_http_session(HttpSession::H2(session), &self.peer, None).await;
        Ok(Response { status, fields, body, complete: true, head: String::new() })
    }

    /// Sends the head of a request.
    async fn begin(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        ends: bool,
    ) -> pingora::Result<Http2Session> {
        let (session, _) = self.connector.get_http_session(&self.peer).await?;
        let HttpSession::H2(mut session) = session else { panic!("not by HTTP/2") };
        let mut head = RequestHeader::build(method, b"/", None)?;
        head.set_uri(format!("https://{}{path}", self.host).parse().expect("a target"));
        for (name, value) in fields {
            head.append_header((*name).to_owned(), value.as_bytes())?;
        }
        session.write_request_header(Box::new(head), ends)?;
        Ok(session)
    }
}
