//! Counts the frames of a WebSocket that end no message, where their bytes are read. The WebSocket library answers nothing
//! for them, so that a client could send them without end and no session would see one.
//!
//! Pings, pongs and whole messages reach the session, which counts them itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::rate_limit::Bucket;

/// The longest header of a frame: two bytes, a length of eight, a mask of four.
const HEADER_MAX: usize = 14;
/// What is discarded goes through a buffer of this size, and after so many reads the task lets others work.
const DISCARD_BUFFER: usize = 4_096;
const DISCARD_READS: usize = 16;

/// Finds the headers of frames in a stream of bytes, however it is cut. Pure.
#[derive(Debug, Default)]
struct FrameScanner {
    header: [u8; HEADER_MAX],
    /// The bytes of `header` that were read.
    header_len: usize,
    /// The bytes of the present frame's payload that are still to come.
    payload_left: u64,
}

impl FrameScanner {
    /// Scans `bytes` until `allows` refuses a frame; it is called for each frame that ends no message, once its header is
    /// complete. Returns how many bytes were scanned.
    fn scan(&mut self, bytes: &[u8], mut allows: impl FnMut() -> bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min((bytes.len() - at) as u64);
                self.payload_left -= skipped;
                at += usize::try_from(skipped).unwrap_or(usize::MAX);
                continue;
            }
            self.header[self.header_len] = bytes[at];
            self.header_len += 1;
            at += 1;
            if self.header_len < 2 || self.header_len < self.header_size() {
                continue;
            }
            self.payload_left = self.payload_size();
            self.header_len = 0;
            let (is_final, is_control) = (self.header[0] & 0x80 != 0, self.header[0] & 0x08 != 0);
            if !is_final && !is_control && !allows() {
                return at;
            }
        }
        at
    }

    fn header_size(&self) -> usize {
        let length = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length + mask
    }

    fn payload_size(&self) -> u64 {
        let big_endian = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, byte| (n << 8) | u64::from(*byte));
        match self.header[1] & 0x7F {
            126 => big_endian(&self.header[2..4]),
            127 => big_endian(&self.header[2..10]),
            short => u64::from(short),
        }
    }
}

/// A connection whose frames are counted as they are read. Once the client has sent too many, the rest is read and thrown
/// away, so that the close frame still reaches a client that goes on sending.
#[derive(Debug)]
pub(crate) struct FrameMeter<S> {
    connection: S,
    scanner: FrameScanner,
    bucket: Bucket,
    discards: bool,
    exceeded: Arc<AtomicBool>,
}

impl<S> FrameMeter<S> {
    pub(crate) fn new(connection: S, bucket: Bucket) -> Self {
        Self { connection, scanner: FrameScanner::default(), bucket, discards: false, exceeded: Arc::default() }
    }

    /// Set once, when the client has sent too many.
    pub(crate) fn exceeded(&self) -> Arc<AtomicBool> {
        self.exceeded.clone()
    }
}

impl<S: AsyncRead + Unpin> FrameMeter<S> {
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; DISCARD_BUFFER];
        for _ in 0..DISCARD_READS {
            let mut discarded = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.connection).poll_read(cx, &mut discarded))?;
            if discarded.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameMeter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.discards {
            return self.poll_discard(cx);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(cx, buf))?;
        let Self { scanner, bucket, .. } = &mut *self;
        let now = Instant::now();
        let mut refused = false;
        let scanned = scanner.scan(&buf.filled()[before..], || {
            refused = !bucket.take(now);
            !refused
        });
        if refused {
            // Never nothing, which would be the end of the connection: the header of the refused frame is in it.
            buf.set_filled(before + scanned);
            self.discards = true;
            self.exceeded.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameMeter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
