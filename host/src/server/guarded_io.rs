//! The socket of a connection, with a deadline on writes that make no progress and a polite end after an early answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::limits::Limits;
use super::refuse;

/// What the parts of one connection tell each other.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// The number of the request whose body was not read to its end: its client may still be sending. 0 if there is none.
    /// A number, since the rest of an earlier body may turn out to be read while a later request is answered already.
    pub(super) body_left: AtomicU64,
    /// Request bodies that have ended, read or not.
    pub(super) bodies: AtomicU64,
    /// So much of the request body is left unread that the connection closes behind the answer.
    pub(super) closes: AtomicBool,
    /// The client did not read in time.
    pub(super) stalled: AtomicBool,
    /// The request body did not arrive in time.
    pub(super) body_timeout: AtomicBool,
    /// The kernel gave the peer up.
    pub(super) peer_timeout: AtomicBool,
    /// Requests that the program has and whose answer has not begun.
    pub(super) unanswered: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct GuardedIo {
    stream: TcpStream,
    flags: Arc<Flags>,
    write_stall: Duration,
    // Some while a write is waiting for the client. Boxed once and reset afterwards.
    stall: Timer,
    linger: Linger,
    linger_timeout: Duration,
    linger_left: usize,
    // Our words in place of hyper's own refusal, and how many of their bytes are written.
    refusal: Option<(Vec<u8>, usize)>,
}

#[derive(Debug, Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Timer {
    /// Ready once `after` has passed since the first poll after [`Timer::disarm`].
    fn poll(&mut self, cx: &mut Context<'_>, after: Duration) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        if !self.armed {
            self.armed = true;
            sleep.as_mut().reset(Instant::now() + after);
        }
        sleep.as_mut().poll(cx)
    }

    fn disarm(&mut self) {
        self.armed = false;
    }
}

#[derive(Debug)]
enum Linger {
    /// The write side is still open.
    Open,
    /// The write side is shut; the rest of the request is being thrown away.
    Draining(Timer),
    Done,
}

impl GuardedIo {
    pub(super) fn new(stream: TcpStream, limits: &Limits, flags: Arc<Flags>) -> Self {
        Self {
            stream,
            flags,
            write_stall: limits.write_stall_timeout,
            stall: Timer::default(),
            linger: Linger::Open,
            linger_timeout: limits.linger_timeout,
            linger_left: limits.linger_bytes,
            refusal: None,
        }
    }

    /// hyper answers a head that it cannot read by itself, without a body, before the program sees anything. Clients get
    /// the same JSON there as for every other refusal.
    fn reword(&mut self, bytes: &[u8]) {
        if self.refusal.is_none() && bytes.starts_with(b"HTTP/1.") && self.flags.unanswered.load(Relaxed) == 0 {
            self.refusal = refuse::reworded(bytes).map(|words| (words, 0));
            // The client may be sending still: it must be able to read why it is refused.
            if self.refusal.is_some() {
                self.flags.body_left.store(u64::MAX, Relaxed);
            }
        }
    }

    /// Writes our words; `len` bytes of hyper's count as written when all of them are.
    fn write_refusal(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        while let Some((words, at)) = &mut self.refusal {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &words[*at..])) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => *at += n,
                Err(e) => return Poll::Ready(Err(e)),
            }
            if *at >= words.len() {
                self.refusal = None;
            }
        }
        Poll::Ready(Ok(len))
    }

    /// Counts an answer's beginning.
    fn began(&self, bytes: &[u8], written: &Poll<io::Result<usize>>) {
        let head = bytes.starts_with(b"HTTP/1.") && !bytes.starts_with(b"HTTP/1.1 100");
        if head && matches!(written, Poll::Ready(Ok(_))) {
            // Never below zero: hyper's own refusals are not counted in.
            let _ = self.flags.unanswered.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
    }

    /// Passes progress on; turns a wait longer than the deadline into an error. The timer wakes the connection's task by itself, since a body that waits
    /// for the socket is not polled.
    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(result) => {
                self.stall.disarm();
                Poll::Ready(result.inspect_err(|e| self.note(e)))
            }
            Poll::Pending => {
                ready!(self.stall.poll(cx, self.write_stall));
                self.flags.stalled.store(true, Relaxed);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
            }
        }
    }

    fn note(&self, e: &io::Error) {
        if e.kind() == io::ErrorKind::TimedOut {
            self.flags.peer_timeout.store(true, Relaxed);
        }
    }
}

impl AsyncRead for GuardedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        Poll::Ready(read.inspect_err(|e| self.note(e)))
    }
}

impl AsyncWrite for GuardedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.reword(buf);
        if self.refusal.is_some() {
            let written = self.write_refusal(cx, buf.len());
            return self.watch(cx, written);
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.began(buf, &written);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut full = bufs.iter().filter(|b| !b.is_empty());
        let first: &[u8] = full.next().map_or(&[], |b| b);
        if full.next().is_none() {
            return self.poll_write(cx, first);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.began(first, &written);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.linger {
                Linger::Open => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    // Closing with unread bytes in the socket makes the kernel send a reset, which can overtake the answer.
                    let unread = this.flags.body_left.load(Relaxed) != 0;
                    this.linger = if unread { Linger::Draining(Timer::default()) } else { Linger::Done };
                }
                Linger::Draining(timer) => {
                    let mut scratch = [0; 16 * 1024];
                    let mut buf = ReadBuf::new(&mut scratch);
                    // Checked first, so that a client that sends without a pause is cut in time too.
                    let over = timer.poll(cx, this.linger_timeout).is_ready() || this.linger_left == 0;
                    let ended = over
                        || match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(read) => read.is_err() || buf.filled().is_empty(),
                        };
                    this.linger_left = this.linger_left.saturating_sub(buf.filled().len());
                    if ended {
                        this.linger = Linger::Done;
                    }
                }
                Linger::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}
