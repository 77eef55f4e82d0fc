//! What else goes on while hits are measured: an application that fails, and clients that trickle their heads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Clients that ask for what fails, one request after the other.
const FAILING: usize = 16;
/// How long each waits before it asks again.
const PAUSE: Duration = Duration::from_millis(20);
/// Clients that never end their heads.
const TRICKLING: usize = 1000;
/// How often they send a byte.
const BEAT: Duration = Duration::from_secs(1);

/// They go on until this is dropped.
pub struct Faults {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Faults {
    /// Begins to bother the server at this address.
    pub fn start(address: SocketAddr) -> Result<Self, String> {
        let (stop, failed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (stopped, count) = (stop.clone(), failed.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                for client in 0..FAILING {
                    tokio::spawn(fail(address, client, count.clone()));
                }
                for _ in 0..TRICKLING {
                    tokio::spawn(trickle(address));
                }
                while !stopped.load(Ordering::Relaxed) {
                    tokio::time::sleep(PAUSE).await;
                }
            });
        });
        Ok(Self { stop, failed, thread: Some(thread) })
    }

    /// How many requests have failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that has panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn fail(address: SocketAddr, client: usize, failed: Arc<AtomicU64>) {
    for n in 0_u64.. {
        tokio::time::sleep(PAUSE).await;
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        let request =
            format!("GET /fault/{client}/{n} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        // However it ends.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.read_to_end(&mut answer).await;
        failed.fetch_add(1, Ordering::Relaxed);
    }
}

async fn trickle(address: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let mut sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nX-Slow: ").await;
            while sent.is_ok() {
                tokio::time::sleep(BEAT).await;
                sent = stream.write_all(b"x").await;
            }
        }
        tokio::time::sleep(BEAT).await;
    }
}
