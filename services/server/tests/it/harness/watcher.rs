//! Somebody who watches the bus, as with `nats sub ">"`: an operator's first command when something seems wrong. The whole
//! end-to-end suite runs beside one, because a subscriber of every subject is also a responder of every request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use streams::Bus;

/// The pause before a lost server is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a read may take before the watcher looks whether it is to end.
const READ_WAIT: Duration = Duration::from_millis(200);

/// Watches until it is dropped.
pub(crate) struct Watcher {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches the server at `url`, also after it was restarted.
    pub(crate) fn new(url: &str) -> Self {
        let address = url.trim_start_matches("nats://").to_owned();
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = ended.clone();
        let thread = spawn(move || {
            while !is_ended.load(Ordering::Relaxed) {
                // It ends with its connection; so does a server that a test has stopped.
                let _ = watch(&address, &is_ended);
                sleep(PAUSE);
            }
        });
        Self { ended, thread: Some(thread) }
    }

    /// Watches by this connection: a secured server lets nobody in without TLS and a user.
    pub(crate) async fn on(bus: &Bus) -> Self {
        let mut all = bus.subscribe(">", None).await.unwrap();
        tokio::spawn(async move { while all.next().await.is_some() {} });
        Self { ended: Arc::default(), thread: None }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(address: &str, ended: &AtomicBool) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(READ_WAIT))?;
    connection.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB > 1\r\nSUB _INBOX.> 2\r\nPING\r\n")?;
    let mut bytes = [0; 65_536];
    while !ended.load(Ordering::Relaxed) {
        match connection.read(&mut bytes) {
            Ok(0) => return Ok(()),
            // A PONG too many does no harm, and saves the parser that would find the PINGs.
            Ok(_) => connection.write_all(b"PONG\r\n")?,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                connection.write_all(b"PONG\r\n")?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
