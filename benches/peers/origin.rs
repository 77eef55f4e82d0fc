//! The application behind all servers, and the floor below them: two loops that answer bytes made beforehand.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The validator of every page.
pub const ETAG: &str = "\"5f3c-1a2b\"";

/// The bytes of a page that nobody asked for before.
pub const NEW: usize = 1024;

/// The most bytes of a request.
const MAX_REQUEST: usize = 16 * 1024;

/// The bytes of the body of a path: as it says, or for `/zipf/N` one to seven KiB.
pub fn length(path: &[u8]) -> usize {
    let number = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    match path {
        _ if path.starts_with(b"/zipf/") => (1 + (number.wrapping_mul(2_654_435_761) >> 8) % 7) * 1024,
        _ if path.starts_with(b"/new/") => NEW,
        _ => number,
    }
}

/// Text that compresses about as well as an API's answers do.
fn body(length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length + 128);
    let mut n = 12_345_u32;
    while body.len() < length {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let line = format!(
            "{{\"id\": {n}, \"name\": \"Product {}\", \"price\": {}.99, \"stock\": {}}},\n",
            n >> 16,
            n >> 22,
            n % 97
        );
        body.extend_from_slice(line.as_bytes());
    }
    body.truncate(length);
    body
}

/// A whole answer.
fn answer(length: usize, media_type: &str) -> Vec<u8> {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: {date}\r\nContent-Type: {media_type}\r\n\
         Content-Length: {length}\r\nCache-Control: public, max-age=3600\r\nETag: {ETAG}\r\n\
         Last-Modified: {date}\r\n\r\n"
    )
    .into_bytes();
    answer.extend(body(length));
    answer
}

/// Answers made beforehand, by length.
struct Site {
    html: Vec<(usize, Vec<u8>)>,
    json: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        let lengths = (1..=7).map(|kib| kib * 1024).chain([15 * 1024, 100 * 1024]);
        Self {
            html: lengths.map(|length| (length, answer(length, "text/html"))).collect(),
            json: answer(15 * 1024, "application/json"),
        }
    }

    /// The answer to a request; `None` is a mistake of this program.
    fn answer(&self, request: &[u8]) -> Option<&[u8]> {
        let path = request.split(|byte| *byte == b' ').nth(1)?;
        if path.starts_with(b"/json/") {
            return Some(&self.json);
        }
        let wanted = length(path);
        self.html.iter().find(|(length, _)| *length == wanted).map(|(_, answer)| &answer[..])
    }
}

/// What is answered to a request that is to fail, before the connection ends; in turn.
fn fault(request: &[u8]) -> Option<&'static [u8]> {
    const FAULTS: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"no HTTP\r\n\r\n",
    ];
    let path = request.split(|byte| *byte == b' ').nth(1).filter(|path| path.starts_with(b"/fault/"))?;
    Some(FAULTS[length(path) % FAULTS.len()])
}

/// The application, in a thread of this program.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    answered: Arc<AtomicU64>,
}

impl Origin {
    /// Starts it; it ends with the program.
    pub fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, answered) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let count = answered.clone();
        std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            let site = Arc::new(Site::new());
            serve(listener, move |request, out| {
                count.fetch_add(1, Ordering::Relaxed);
                if let Some(fault) = fault(request) {
                    out.extend_from_slice(fault);
                    return false;
                }
                let answer = site.answer(request);
                out.extend_from_slice(
                    answer.unwrap_or(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
                );
                true
            })
        })?;
        Ok(Self { address, answered })
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// The floor: fixed bytes, whatever is asked. Does not return.
pub fn floor(address: SocketAddr, length: usize) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    if length == 0 {
        let head =
            format!("HTTP/1.1 304 Not Modified\r\nETag: {ETAG}\r\nCache-Control: max-age=3600\r\n\r\n");
        return serve_fixed(listener, head.into_bytes());
    }
    serve_fixed(listener, answer(length, "text/html"))
}

fn runtime(listener: TcpListener) -> std::io::Result<(tokio::runtime::Runtime, tokio::net::TcpListener)> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    drop(guard);
    Ok((runtime, listener))
}

fn serve_fixed(listener: TcpListener, bytes: Vec<u8>) -> std::io::Result<()> {
    let bytes = Arc::new(bytes);
    let (runtime, listener) = runtime(listener)?;
    runtime.block_on(async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    if buffer[..read].ends_with(b"\r\n\r\n") && stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

fn serve(
    listener: TcpListener,
    answer: impl Fn(&[u8], &mut Vec<u8>) -> bool + Clone + Send + Sync + 'static,
) -> std::io::Result<()> {
    let (runtime, listener) = runtime(listener)?;
    runtime.block_on(async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = answer.clone();
            tokio::spawn(async move {
                let (mut request, mut out) = (Vec::new(), Vec::new());
                while let Ok(1..) = stream.read_buf(&mut request).await {
                    if request.len() > MAX_REQUEST {
                        return;
                    }
                    if request.ends_with(b"\r\n\r\n") {
                        out.clear();
                        let goes_on = answer(&request, &mut out);
                        request.clear();
                        if stream.write_all(&out).await.is_err() || !goes_on {
                            return;
                        }
                    }
                }
            });
        }
    })
}
