//! An origin that says exactly what a test tells it to, also what no server should.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{PATIENCE, joined};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn field(&self, name: &str) -> Option<String> {
        joined(&self.fields, name)
    }
}

/// Holds a reply back until the test opens it.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        let (_open, timeout) = self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        assert!(!timeout.timed_out(), "the test never opened the gate");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Sleep(Duration),
    Wait(Gate),
    Repeat(Vec<u8>, usize),
    Close,
    Reset,
}

/// What the origin does when asked.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    before: Vec<Step>,
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    chunks: Option<Vec<Vec<u8>>>,
    raw: Option<Vec<Step>>,
    after: Vec<Step>,
}

impl Reply {
    /// 200 with this body and its length.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn with_body(mut self, body: &str) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body in these chunks instead.
    pub fn chunked(mut self, chunks: &[&str]) -> Self {
        self.chunks = Some(chunks.iter().map(|chunk| chunk.as_bytes().to_vec()).collect());
        self
    }

    /// Waits for `gate` before the head.
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.before.push(Step::Wait(gate.clone()));
        self
    }

    pub fn delayed(mut self, time: Duration) -> Self {
        self.before.push(Step::Sleep(time));
        self
    }

    /// Closes the connection after the reply.
    pub fn close(mut self) -> Self {
        self.after.push(Step::Close);
        self
    }

    /// Sends exactly these bytes and closes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::script().then(bytes).then_close()
    }

    /// A reply made step by step.
    pub fn script() -> Self {
        Self { raw: Some(Vec::new()), ..Self::default() }
    }

    pub fn then(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Bytes(bytes.into()))
    }

    pub fn then_repeat(self, bytes: impl Into<Vec<u8>>, times: usize) -> Self {
        self.step(Step::Repeat(bytes.into(), times))
    }

    pub fn then_sleep(self, time: Duration) -> Self {
        self.step(Step::Sleep(time))
    }

    pub fn then_wait(self, gate: &Gate) -> Self {
        self.step(Step::Wait(gate.clone()))
    }

    pub fn then_close(self) -> Self {
        self.step(Step::Close)
    }

    pub fn then_reset(self) -> Self {
        self.step(Step::Reset)
    }

    fn step(mut self, step: Step) -> Self {
        self.raw.get_or_insert_with(Vec::new).push(step);
        self
    }

    fn steps(&self, method: &str) -> Vec<Step> {
        let mut steps = self.before.clone();
        if let Some(raw) = &self.raw {
            steps.extend(raw.iter().cloned());
            return steps;
        }
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        let mut body = Vec::new();
        let bodiless = matches!(self.status, 204 | 304);
        match &self.chunks {
            Some(chunks) => {
                head += "Transfer-Encoding: chunked\r\n";
                for chunk in chunks {
                    body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    body.extend_from_slice(chunk);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"0\r\n\r\n");
            }
            None => {
                if !bodiless {
                    head += &format!("Content-Length: {}\r\n", self.body.len());
                }
                body.clone_from(&self.body);
            }
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        if method != "HEAD" && !bodiless {
            bytes.extend_from_slice(&body);
        }
        steps.push(Step::Bytes(bytes));
        steps.extend(self.after.iter().cloned());
        steps
    }
}

type Handler = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

#[derive(Default)]
struct Script {
    handlers: HashMap<String, Handler>,
    received: Vec<Received>,
    open: usize,
    /// To break them off.
    streams: HashMap<usize, TcpStream>,
    is_stopped: bool,
}

/// A running origin.
pub struct Origin {
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Origin {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"))
    }

    /// Starts at this address.
    pub fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = script.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let script = shared.clone();
                {
                    let mut script = script.lock().unwrap();
                    if script.is_stopped {
                        return;
                    }
                    script.open += 1;
                    script.streams.insert(number, stream.try_clone().expect("a descriptor"));
                }
                std::thread::spawn(move || {
                    serve(stream, &script);
                    let mut script = script.lock().unwrap();
                    script.open -= 1;
                    script.streams.remove(&number);
                });
            }
        });
        Self { address, script }
    }

    /// Dies: it listens no longer, and its connections break off.
    pub fn stop(&self) {
        let streams = {
            let mut script = self.script.lock().unwrap();
            script.is_stopped = true;
            std::mem::take(&mut script.streams)
        };
        // What is accepted next ends the listener.
        drop(TcpStream::connect(self.address));
        for stream in streams.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        super::eventually("it listens no longer", || TcpStream::connect(self.address).is_err());
    }

    /// Replies like this to every request for a path, whatever its query.
    pub fn on(&self, path: &str, reply: Reply) {
        self.on_each(path, move |_| reply.clone());
    }

    /// Replies with each of these in turn; the last one stays.
    pub fn on_sequence(&self, path: &str, replies: Vec<Reply>) {
        let replies = Mutex::new(VecDeque::from(replies));
        self.on_each(path, move |_| {
            let mut replies = replies.lock().unwrap();
            if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() }
        });
    }

    /// Replies as the function says.
    pub fn on_each(&self, path: &str, handler: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        self.script.lock().unwrap().handlers.insert(path.to_owned(), Arc::new(handler));
    }

    /// How many requests came for a path, whatever their query.
    pub fn count(&self, path: &str) -> usize {
        self.received(path).len()
    }

    /// The requests that came for a path, in order.
    pub fn received(&self, path: &str) -> Vec<Received> {
        let script = self.script.lock().unwrap();
        script.received.iter().filter(|received| path_of(&received.target) == path).cloned().collect()
    }

    /// Connections that it has not closed.
    pub fn open_connections(&self) -> usize {
        self.script.lock().unwrap().open
    }

    pub fn all_received(&self) -> Vec<Received> {
        self.script.lock().unwrap().received.clone()
    }
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

fn serve(mut stream: TcpStream, script: &Mutex<Script>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer) {
        let handler = {
            let mut script = script.lock().unwrap();
            script.received.push(request.clone());
            script.handlers.get(path_of(&request.target)).cloned()
        };
        let reply = handler.map_or_else(|| Reply::status(404, "not scripted"), |handler| handler(&request));
        for step in reply.steps(&request.method) {
            let written = match step {
                Step::Bytes(bytes) => stream.write_all(&bytes),
                Step::Repeat(bytes, times) => (0..times).try_for_each(|_| stream.write_all(&bytes)),
                Step::Sleep(time) => {
                    std::thread::sleep(time);
                    Ok(())
                }
                Step::Wait(gate) => {
                    gate.wait();
                    Ok(())
                }
                Step::Close => {
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
                Step::Reset => {
                    // Closing with unread input in the receive buffer sends RST.
                    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    return;
                }
            };
            if written.is_err() {
                return;
            }
        }
    }
}

fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        fill(stream, buffer)?;
    };
    let head = String::from_utf8_lossy(&buffer.drain(..head_end).collect::<Vec<_>>()).into_owned();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut received = Received { method, target, fields, body: Vec::new() };
    if received.field("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        while !buffer.windows(5).any(|window| window == b"0\r\n\r\n") {
            fill(stream, buffer)?;
        }
        received.body = std::mem::take(buffer);
    } else if let Some(length) = received.field("content-length").and_then(|length| length.parse().ok()) {
        while buffer.len() < length {
            fill(stream, buffer)?;
        }
        received.body = buffer.drain(..length).collect();
    }
    Some(received)
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut bytes = [0; 16 * 1024];
    match stream.read(&mut bytes) {
        Ok(n) if n > 0 => {
            buffer.extend_from_slice(&bytes[..n]);
            Some(())
        }
        _ => None,
    }
}
