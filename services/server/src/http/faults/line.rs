//! The bytes of one connection, and what goes wrong with them. Until a WebSocket begins they pass; then its frames are counted on their
//! way out, and each is late or the last one as the plan says.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::schedule::{End, SocketPlan};

/// How long a connection that was closed on purpose waits for the close frame of its client.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// The end of a response's head.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// The longest header of a frame that is not masked.
const HEADER_MAX: usize = 10;
const TEXT: u8 = 0x1;

/// What is to happen to a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    Now,
    /// When its WebSocket comes to that.
    Planned(SocketPlan),
}

/// What a connection's requests and its bytes share.
#[derive(Debug, Default)]
pub(in super::super) struct Line(Mutex<Option<Cut>>);

impl Line {
    pub(super) fn cut(&self, cut: Cut) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }

    fn get(&self) -> Option<Cut> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds where frames end in the bytes that a server sends, however they are cut. Pure.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    payload_left: u64,
}

impl Frames {
    /// Whether the next byte begins a frame.
    fn is_between(&self) -> bool {
        self.header.is_empty() && self.payload_left == 0
    }

    /// How many of `bytes` belong to the present frame.
    fn rest(&self, bytes: &[u8]) -> usize {
        let mut scan = Self { header: self.header.clone(), payload_left: self.payload_left };
        let mut at = 0;
        while at < bytes.len() {
            at += scan.step(&bytes[at..]);
            if scan.is_between() {
                break;
            }
        }
        at
    }

    /// `bytes`, which are all of one frame, were sent.
    fn advance(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += self.step(&bytes[at..]);
        }
    }

    /// Reads one byte of a header, or as much of a payload as there is.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.payload_left > 0 {
            let some = self.payload_left.min(bytes.len() as u64);
            self.payload_left -= some;
            return usize::try_from(some).unwrap_or(usize::MAX);
        }
        self.header.push(bytes[0]);
        let big_endian = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, byte| (n << 8) | u64::from(*byte));
        let payload = match self.header.get(1).map(|byte| byte & 0x7F) {
            Some(126) if self.header.len() == 4 => big_endian(&self.header[2..]),
            Some(127) if self.header.len() == HEADER_MAX => big_endian(&self.header[2..]),
            Some(short) if short < 126 => u64::from(short),
            _ => return 1,
        };
        self.header.clear();
        self.payload_left = payload;
        1
    }
}

/// What a connection is doing.
#[derive(Debug)]
enum State {
    /// HTTP, or the head of the answer that begins a WebSocket: so many bytes of its end were sent.
    Http(usize),
    Socket {
        plan: SocketPlan,
        frames: Frames,
        /// The text frames that began.
        number: u64,
        /// The present frame waits.
        late: Option<Pin<Box<Sleep>>>,
    },
    /// The close frame that is still to be sent, and then the wait for the client's.
    Closing(Vec<u8>, Pin<Box<Sleep>>),
    Silent,
    Cut,
}

/// An IO with the faults of its line; without one, nothing but the IO.
#[derive(Debug)]
pub(in super::super) struct FaultyIo<T> {
    io: T,
    line: Option<Arc<Line>>,
    state: State,
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut off on purpose")
}

impl<T: AsyncRead + AsyncWrite + Unpin> FaultyIo<T> {
    pub(in super::super) fn new(io: T, line: Option<Arc<Line>>) -> Self {
        Self { io, line, state: State::Http(0) }
    }

    fn poll_write_http(&mut self, cx: &mut Context<'_>, bytes: &[u8], cut: Option<Cut>) -> Poll<io::Result<usize>> {
        let State::Http(matched) = &mut self.state else { return Poll::Ready(Ok(0)) };
        let plan = match cut {
            None => return Pin::new(&mut self.io).poll_write(cx, bytes),
            Some(Cut::Now) => {
                self.state = State::Cut;
                return Poll::Ready(Err(cut_off()));
            }
            Some(Cut::Planned(plan)) => plan,
        };
        // Up to the end of the head.
        let mut end = *matched;
        let head = bytes.iter().take_while(|byte| {
            let goes_on = end < HEAD_END.len();
            if goes_on {
                end = if **byte == HEAD_END[end] { end + 1 } else { usize::from(**byte == HEAD_END[0]) };
            }
            goes_on
        });
        let head = head.count();
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[..head]))?;
        if sent < head {
            for byte in &bytes[..sent] {
                *matched = if *byte == HEAD_END[*matched] { *matched + 1 } else { usize::from(*byte == HEAD_END[0]) };
            }
        } else if end == HEAD_END.len() {
            self.state = State::Socket { plan, frames: Frames::default(), number: 0, late: None };
        } else {
            *matched = end;
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_write_socket(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let State::Socket { plan, frames, number, late } = &mut self.state else { return Poll::Ready(Ok(0)) };
        let begins = frames.is_between() && late.is_none();
        if begins && bytes.first().is_some_and(|byte| byte & 0x0F == TEXT) {
            *number += 1;
            if let Some((_, end)) = plan.end.filter(|(at, _)| at == number) {
                self.state = match end {
                    End::Cut => State::Cut,
                    End::Silence => State::Silent,
                    End::Close(code) => State::Closing(close_frame(code), Box::pin(sleep(CLOSE_WAIT))),
                };
                return self.poll_write_ended(cx, bytes);
            }
            *late = plan.late_ms(*number).map(|ms| Box::pin(sleep(Duration::from_millis(ms))));
        }
        if let Some(wait) = late {
            ready!(wait.as_mut().poll(cx));
        }
        let rest = frames.rest(bytes);
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[..rest]))?;
        frames.advance(&bytes[..sent]);
        if sent > 0 {
            *late = None;
        }
        Poll::Ready(Ok(sent))
    }

    /// What is sent after the end goes nowhere.
    fn poll_write_ended(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.state {
            State::Cut => return Poll::Ready(Err(cut_off())),
            State::Closing(frame, _) => {
                while !frame.is_empty() {
                    let sent = ready!(Pin::new(&mut self.io).poll_write(cx, frame))?;
                    frame.drain(..sent);
                }
            }
            _ => {}
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Reads and discards until the client goes.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 1_024];
        loop {
            let mut discarded = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut discarded))?;
            if discarded.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for FaultyIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Http(_) | State::Socket { .. } => Pin::new(&mut self.io).poll_read(cx, buf),
            State::Cut => Poll::Ready(Err(cut_off())),
            State::Silent => self.poll_discard(cx),
            State::Closing(_, wait) => match wait.as_mut().poll(cx) {
                // The end of the input.
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => self.poll_discard(cx),
            },
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FaultyIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(line) = &self.line else { return Pin::new(&mut self.io).poll_write(cx, bytes) };
        match self.state {
            State::Http(_) => {
                let cut = line.get();
                self.poll_write_http(cx, bytes, cut)
            }
            State::Socket { .. } => self.poll_write_socket(cx, bytes),
            _ => self.poll_write_ended(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.line.is_none() {
            return Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &**buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.line.is_none() && self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A close frame with `code` (RFC 6455, 5.5.1).
fn close_frame(code: u16) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    vec![0x88, 2, high, low]
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::super::schedule::Schedule;
    use super::*;

    /// The first plan of these that ends so, and the number of the frame.
    fn plan(ends: impl Fn(End) -> bool) -> (SocketPlan, usize) {
        let plans = (0..).map(|seed| Schedule(seed).socket("phone", 0));
        let found = plans.filter_map(|plan| Some((plan, plan.end.filter(|(_, end)| ends(*end))?.0)));
        let (plan, at) = found.into_iter().next().unwrap();
        (plan, usize::try_from(at).unwrap())
    }

    fn text(payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0x81, 126][..], &length, payload].concat()
    }

    /// What comes through of 40 text frames with a ping before each, written in pieces of `piece` bytes; and how the writing ended.
    async fn through(plan: SocketPlan, piece: usize) -> (Vec<u8>, io::Result<()>, Duration) {
        let (near, mut far) = duplex(1 << 20);
        let line = Arc::new(Line::default());
        let mut io = FaultyIo::new(near, Some(line.clone()));
        io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        line.cut(Cut::Planned(plan));
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        for n in 0..40 {
            bytes.extend([&[0x89, 0][..], &text(&vec![n; 300])].concat());
        }
        let begun = Instant::now();
        let mut ended = Ok(());
        for piece in bytes.chunks(piece) {
            ended = io.write_all(piece).await;
            if ended.is_err() {
                break;
            }
        }
        let took = begun.elapsed();
        drop(io);
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        let head = read.windows(4).rposition(|part| part == HEAD_END).unwrap() + 4;
        (read.split_off(head), ended, took)
    }

    fn frames(count: usize) -> Vec<u8> {
        (0..count).flat_map(|n| [&[0x89, 0][..], &text(&[u8::try_from(n).unwrap(); 300])].concat()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whole_frames_come_through_until_the_planned_one_however_they_are_written() {
        for piece in [1, 7, 304, 5_000, 100_000] {
            let (cut, at) = plan(|end| end == End::Cut);
            let (read, ended, _) = through(cut, piece).await;
            let expected = [frames(at - 1), vec![0x89, 0]].concat();
            assert_eq!((read, ended.unwrap_err().kind()), (expected, io::ErrorKind::ConnectionReset), "{piece}");

            let (closed, at) = plan(|end| end == End::Close(1012));
            let (read, ended, _) = through(closed, piece).await;
            let expected = [frames(at - 1), vec![0x89, 0, 0x88, 2, 0x03, 0xF4]].concat();
            assert_eq!((read, ended.is_ok()), (expected, true), "{piece}");

            let (silent, at) = plan(|end| end == End::Silence);
            let (read, ended, _) = through(silent, piece).await;
            assert_eq!((read, ended.is_ok()), ([frames(at - 1), vec![0x89, 0]].concat(), true), "{piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_late_by_what_the_plan_says_and_nothing_is_lost() {
        let mut plans = (0..).map(|seed| Schedule(seed).socket("phone", 0));
        let whole = plans.find(|plan| plan.end.is_none() && (1..=40).any(|n| plan.late_ms(n).is_some())).unwrap();
        let late: u64 = (1..=40).filter_map(|n| whole.late_ms(n)).sum();
        let (read, ended, took) = through(whole, 64).await;
        assert_eq!((read, ended.is_ok()), (frames(40), true));
        assert_eq!(took, Duration::from_millis(late));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_end_nothing_is_read_and_a_closed_one_waits_for_its_client() {
        for (ends, waits) in [(End::Close(1001), Some(CLOSE_WAIT)), (End::Silence, None)] {
            let (plan, at) = plan(|end| end == ends);
            let (near, mut far) = duplex(1 << 20);
            let line = Arc::new(Line::default());
            line.cut(Cut::Planned(plan));
            let mut io = FaultyIo::new(near, Some(line));
            io.write_all(&[HEAD_END, &frames(at)].concat()).await.unwrap();
            far.write_all(b"a command").await.unwrap();
            let begun = Instant::now();
            let read = tokio::time::timeout(Duration::from_secs(100), io.read_u8()).await;
            assert_eq!(read.is_ok(), waits.is_some());
            assert!(waits.is_none_or(|wait| begun.elapsed() == wait));
            drop(far);
            if read.is_err() {
                assert_eq!(io.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }

    #[tokio::test]
    async fn without_a_line_or_a_plan_bytes_pass() {
        for line in [None, Some(Arc::new(Line::default()))] {
            let (near, mut far) = duplex(1 << 10);
            let mut io = FaultyIo::new(near, line);
            io.write_all(&frames(2)).await.unwrap();
            drop(io);
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, frames(2));
        }
    }
}
