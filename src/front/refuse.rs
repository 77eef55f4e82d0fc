//! The answer to a request that is not let in.
//!
//! Nothing of it is repeated in the answer, and the connection ends with it: where a request cannot be read, neither
//! can what follows it.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadBuf};

use super::answer::finish;
use super::connection::{Connection, record};
use super::head::Refused;
use super::output::Output;
use crate::observe::outcome::{Local, Outcome};
use crate::observe::text::Sink;
use crate::proxy::App;
use crate::proxy::answer::ALLOWED;
use crate::rules::framing::Malformed;
use crate::rules::head::{Fields, Names};
use crate::rules::target::Scheme;

/// How long a client may take to read why it was refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much is read of what it goes on sending, so that the answer is not lost in a reset.
const MAX_IGNORED: usize = 256 * 1024;

impl Refused {
    fn local(self) -> Local {
        match self {
            Self::Malformed(Malformed::Version) => Local::Version,
            Self::Malformed(Malformed::TransferCoding) => Local::TransferCoding,
            Self::Malformed(_) => Local::BadRequest,
            Self::TooLarge => Local::HeadTooLarge,
            Self::TooSlow => Local::HeadTooSlow,
            Self::Method => Local::Refused,
        }
    }

    fn explain(self) -> &'static str {
        match self {
            Self::Malformed(why) => why.explain(),
            Self::TooLarge => "its head is too large",
            Self::TooSlow => "its head took too long",
            Self::Method => "its method is refused",
        }
    }

    /// The limit that was reached.
    fn limit(self) -> Option<&'static str> {
        match self {
            Self::Malformed(_) | Self::Method => None,
            Self::TooLarge => Some("max_header_size"),
            Self::TooSlow => Some("header_timeout"),
        }
    }
}

/// Tells the client why it is refused, as far as it listens, and records it.
pub async fn send(app: &App, connection: &mut Connection<'_>, why: Refused) {
    let mut outcome = Outcome::default();
    outcome.set_request_id(Fields::default());
    outcome.client = Some(connection.peer);
    outcome.local = Some(why.local());
    outcome.status = why.local().status();
    outcome.error = Some(why.explain().to_owned());
    if let Some(limit) = why.limit() {
        app.observer.metrics.limit(limit);
    }
    let body = format!(
        "{} the request is refused: {}\nrequest id: {}\n",
        outcome.status,
        why.explain(),
        outcome.request_id
    );
    outcome.bytes = body.len() as u64;
    let mut output = Output::default();
    output.status_line(outcome.status);
    output.field("Content-Type", b"text/plain; charset=utf-8");
    output.field("Content-Length", body.len().to_string().as_bytes());
    output.field("Cache-Control", b"no-store");
    if why == Refused::Method {
        output.field("Allow", ALLOWED.as_bytes());
    }
    output.field("Date", httpdate::fmt_http_date(outcome.received_at.into()).as_bytes());
    let live = app.live.load();
    let scheme = if connection.wire.has_tls() { Scheme::Https } else { Scheme::Http };
    let set = (Names::default(), |_: &str| false);
    finish(&mut output, &mut outcome, (scheme, &live.plan.response_headers), set, false);
    output.put(body.as_bytes());
    record(app, &app.live.load(), &mut outcome);
    // Not all of it at once on the stack of a future. Who does not listen needs no answer.
    let bytes = output.whole().unwrap_or_default().to_vec();
    let _ = tokio::time::timeout(PATIENCE, deliver(connection, &bytes)).await;
}

/// Sends all of it, and then reads on until the client has closed: a connection that is closed with something unread
/// is reset, and the answer may be lost with it.
async fn deliver(connection: &mut Connection<'_>, output: &[u8]) -> io::Result<()> {
    connection.wire.write_all(output).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut connection.wire).await?;
    let mut ignored = 0;
    while ignored < MAX_IGNORED {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut buffer = ReadBuf::uninit(&mut space);
        std::future::poll_fn(|cx| connection.wire.poll_receive(cx, &mut buffer)).await?;
        if buffer.filled().is_empty() {
            break;
        }
        ignored += buffer.filled().len();
    }
    Ok(())
}
