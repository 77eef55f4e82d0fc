//! A client that shows what came over the wire, and can send what no library would.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::{PATIENCE, joined};

/// Sends requests to one address, each on a connection of its own unless asked otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub address: SocketAddr,
    host: &'static str,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, host: "shop.test" }
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    /// Sends a request. `Host` and `Content-Length` are added unless given.
    pub fn send(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
        let mut connection = self.connect();
        connection.write_request(method, path, fields, body);
        connection.read_response(method)
    }

    /// Sends these bytes and returns all that comes back until the connection ends.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut connection = self.connect();
        connection.write(bytes);
        let mut answer = Vec::new();
        // A reset after the answer is an end too.
        let _ = connection.stream.read_to_end(&mut answer);
        answer
    }

    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Connection { stream, host: self.host, buffer: Vec::new() }
    }
}

/// A kept connection.
pub struct Connection {
    pub stream: TcpStream,
    host: &'static str,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("written");
    }

    pub fn write_request(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) {
        let has = |name: &str| fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !has("host") {
            head += &format!("Host: {}\r\n", self.host);
        }
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        let reads = matches!(method, "GET" | "HEAD" | "OPTIONS");
        let framed = has("content-length") || has("transfer-encoding") || (reads && body.is_empty());
        if !framed {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.write(&[head.as_bytes(), body].concat());
    }

    /// Reads one response; panics when it is not one. `complete` tells whether the body ended as announced.
    pub fn read_response(&mut self, method: &str) -> Response {
        self.try_read_response(method).expect("a response")
    }

    /// Reads one response; `None` when the connection ends before its head.
    pub fn try_read_response(&mut self, method: &str) -> Option<Response> {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..head_end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, fields, body: Vec::new(), complete: true, head };
        if (100..200).contains(&status) {
            return Some(response);
        }
        let bodiless = method == "HEAD" || matches!(status, 204 | 304);
        if bodiless {
            return Some(response);
        }
        if response.field("transfer-encoding").as_deref() == Some("chunked") {
            (response.body, response.complete) = self.read_chunks();
        } else if let Some(length) = response.field("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.buffer.len() < length && self.fill() {}
            response.complete = self.buffer.len() >= length;
            response.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        } else {
            while self.fill() {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Some(response)
    }

    fn read_chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(line_end) = find(&self.buffer, b"\r\n") else {
                if self.fill() {
                    continue;
                } else {
                    return (body, false);
                }
            };
            let size = String::from_utf8_lossy(&self.buffer[..line_end]).into_owned();
            let size =
                usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16).expect("a chunk size");
            let chunk_end = line_end + 2 + size + 2;
            while self.buffer.len() < chunk_end {
                if !self.fill() {
                    return (body, false);
                }
            }
            body.extend_from_slice(&self.buffer[line_end + 2..line_end + 2 + size]);
            self.buffer.drain(..chunk_end);
            if size == 0 {
                return (body, true);
            }
        }
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&buffer[..n]);
                true
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                panic!("nothing came for {PATIENCE:?}")
            }
            Err(_) => false,
        }
    }

    /// What has come beyond the last response.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// Ends the sending side.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("shut down");
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as announced.
    pub complete: bool,
    /// The head as it came.
    pub head: String,
}

impl Response {
    /// The lines of a field, joined.
    pub fn field(&self, name: &str) -> Option<String> {
        joined(&self.fields, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn cache_status(&self) -> String {
        self.field("cache-status").unwrap_or_default()
    }

    /// The verdict in short: `hit`, `stale`, `miss`, `revalidate`, `reload` (the same because the client asked for it),
    /// `pass`, or `local`.
    pub fn verdict(&self) -> &'static str {
        let status = self.cache_status();
        let ours = status.split(", ").last().unwrap_or_default();
        let says = |word: &str| ours.split("; ").any(|part| part == word);
        match () {
            () if says("hit") && ["stale-while-revalidate", "max-stale"].contains(&&*self.detail()) => {
                "stale"
            }
            () if says("hit") => "hit",
            () if says("fwd=miss") => "miss",
            () if says("fwd=stale") => "revalidate",
            () if says("fwd=request") => "reload",
            () if says("fwd=bypass") || says("fwd=method") => "pass",
            () if ours.starts_with("parvis") => "local",
            () => "none",
        }
    }

    /// The named reason.
    pub fn detail(&self) -> String {
        let status = self.cache_status();
        status.split("; ").find_map(|part| part.strip_prefix("detail=")).unwrap_or_default().to_owned()
    }
}
