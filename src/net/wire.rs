//! A client's stream as HTTP sees it, with what hyper's server cannot do itself: informational
//! responses, a limit on the time of a head, a stricter look at the framing, and a reset when an
//! answer was cut.

use std::{
    fmt::Write as _,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::Instant,
};

use super::stream::Downstream;
use crate::headers::screen::Screen;

/// The stream itself; belongs to hyper.
#[derive(Debug)]
pub struct Wire {
    /// Empty only within [`Self::into_inner`].
    stream: Option<Downstream>,
    /// Watches the heads of HTTP/1.1.
    screen: Option<Screen>,
    heads: u64,
    /// Read already, and given back.
    unread: Bytes,
    /// Bytes that were written.
    written: usize,
    side: Arc<Side>,
}

/// A socket that is no longer HTTP's, and the bytes that the client sent behind its request: its
/// first frames, which come before anything read from the socket.
pub type Switched = (Downstream, Bytes);

/// What those who serve a connection see of its wire and tell it.
#[derive(Debug)]
pub struct Side {
    start: Instant,
    /// When the head that is open began, in milliseconds from `start`, plus one; 0 if none is.
    head: AtomicU64,
    refused: AtomicBool,
    cut: AtomicBool,
    /// Whether what was written last has to wait.
    blocked: AtomicBool,
    /// Whether something waits in `interim`, to spare its lock.
    waits: AtomicBool,
    interim: Mutex<Interim>,
    switching: AtomicBool,
    /// Who gets the socket when the connection changes its protocol.
    switch: Mutex<Option<oneshot::Sender<Switched>>>,
}

/// Informational responses that are not out yet.
#[derive(Debug, Default)]
struct Interim {
    bytes: Vec<u8>,
    /// Of these, the ones that are out. More than none: the rest comes before anything else.
    sent: usize,
    /// Whether the final response has yet to begin.
    open: bool,
    /// Responses taken in for the request in progress.
    count: usize,
    waker: Option<Waker>,
}

impl Wire {
    pub fn new(stream: Downstream, http2: bool) -> (Self, Arc<Side>) {
        let side = Arc::new(Side {
            start: Instant::now(),
            head: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            interim: Mutex::default(),
            switching: AtomicBool::new(false),
            switch: Mutex::default(),
        });
        let wire = Self {
            stream: Some(stream),
            screen: (!http2).then(Screen::new),
            heads: 0,
            unread: Bytes::new(),
            written: 0,
            side: side.clone(),
        };
        (wire, side)
    }

    /// The stream for another protocol.
    pub fn into_inner(mut self) -> Downstream {
        let stream = self.stream.take();
        let stream = stream.expect("taken only here, where the wire ends");
        if self.written >= UNSENT as usize {
            stream.limit_unsent(UNLIMITED);
        }
        stream
    }

    /// Gives bytes back that were read and not used: they are read again.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// The socket, if what is written to it reaches the client as it is.
    pub fn plain(&self) -> Option<&TcpStream> {
        self.stream.as_ref().and_then(Downstream::plain)
    }

    /// More is about to be written past it than may wait unsent.
    pub fn expect_much(&mut self) {
        self.wrote(UNSENT as usize);
    }

    /// The socket took so many bytes.
    fn wrote(&mut self, bytes: usize) {
        self.side.blocked.store(false, Ordering::Relaxed);
        let before = self.written;
        self.written = before.saturating_add(bytes);
        // Only now can that much wait: most connections spare the system call.
        if before < UNSENT as usize && self.written >= UNSENT as usize {
            let stream = self.stream.as_ref();
            stream.inspect(|stream| stream.limit_unsent(UNSENT));
        }
    }

    fn stream(&mut self) -> Pin<&mut Downstream> {
        let stream = self.stream.as_mut();
        Pin::new(stream.expect("taken only where the wire ends"))
    }

    /// Looks at bytes that came.
    fn came(&mut self, bytes: &mut [u8]) {
        let Some(screen) = &mut self.screen else {
            return;
        };
        if screen.push(bytes) {
            // hyper is about to refuse the head and end the connection.
            self.side.refused.store(true, Ordering::Relaxed);
            self.screen = None;
            return;
        }
        if !screen.in_head() {
            self.side.head.store(0, Ordering::Relaxed);
        } else if self.side.head.load(Ordering::Relaxed) == 0 || self.heads != screen.heads() {
            self.side.head.store(self.side.now() + 1, Ordering::Relaxed);
        }
        self.heads = screen.heads();
    }

    /// Writes informational responses, all of them or only the rest of what has begun.
    fn poll_interim(&mut self, cx: &mut Context<'_>, only_rest: bool) -> Poll<io::Result<()>> {
        if !self.side.waits.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let side = self.side.clone();
        let mut interim = side.interim();
        if only_rest && interim.sent == 0 {
            return Poll::Ready(Ok(()));
        }
        while interim.sent < interim.bytes.len() {
            let bytes = &interim.bytes[interim.sent..];
            let written = ready!(self.stream().poll_write(cx, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interim.sent += written;
        }
        interim.bytes = Vec::new();
        interim.sent = 0;
        side.waits.store(false, Ordering::Release);
        if let Some(waker) = &interim.waker {
            waker.wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl Side {
    /// For how long the head that is open has been.
    pub fn head_open_since(&self) -> Option<Instant> {
        match self.head.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(self.start + Duration::from_millis(millis - 1)),
        }
    }

    /// Whether a head was made unreadable because its body would have had two lengths.
    pub fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// The answer in progress will not be completed: the connection is to end with a reset, which
    /// even a reader that waits for the end of the connection does not take for the end of the body.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether the socket did not take all that was written to it: the writer still has the rest.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// A request begins, on the task that `waker` wakes.
    pub fn begin(&self, waker: &Waker) {
        let mut interim = self.interim();
        interim.open = true;
        interim.count = 0;
        interim.waker = Some(waker.clone());
    }

    /// Takes in an informational response, unless the final one has begun or there were too many.
    pub fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        let mut interim = self.interim();
        if !interim.open || interim.count >= INTERIM_RESPONSES {
            return;
        }
        let head = response_head(status, headers);
        if interim.bytes.len() + head.len() > INTERIM_BYTES {
            return;
        }
        interim.count += 1;
        interim.bytes.extend_from_slice(&head);
        self.waits.store(true, Ordering::Release);
        if let Some(waker) = &interim.waker {
            waker.wake_by_ref();
        }
    }

    /// Whether no informational response waits, as nearly always: the final one may begin.
    pub fn is_informed(&self) -> bool {
        let mut interim = self.interim();
        if !interim.bytes.is_empty() {
            return false;
        }
        interim.open = false;
        interim.waker = None;
        true
    }

    /// Ready when all informational responses are out; the final one may begin then.
    pub fn poll_informed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut interim = self.interim();
        if interim.bytes.is_empty() {
            interim.open = false;
            interim.waker = None;
            return Poll::Ready(());
        }
        interim.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The final response begins whatever waits; what has not begun is forgotten.
    pub fn end(&self) {
        let mut interim = self.interim();
        interim.open = false;
        interim.waker = None;
        if interim.sent == 0 {
            interim.bytes = Vec::new();
            self.waits.store(false, Ordering::Release);
        }
    }

    /// The socket is wanted; whoever wanted it before gets nothing.
    pub(super) fn switch(&self) -> oneshot::Receiver<Switched> {
        let (sender, receiver) = oneshot::channel();
        *self.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// The answer says that the connection changes its protocol.
    pub fn agree_to_switch(&self) {
        self.switching.store(true, Ordering::Relaxed);
    }

    /// Who gets the socket, if the connection has changed its protocol.
    pub fn switches(&self) -> Option<oneshot::Sender<Switched>> {
        if !self.switching.load(Ordering::Relaxed) {
            return None;
        }
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        switch.take()
    }

    fn interim(&self) -> MutexGuard<'_, Interim> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && self.side.cut.load(Ordering::Relaxed)
        {
            stream.reset_at_close();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.unread.is_empty() {
            let length = wire.unread.len().min(buf.remaining());
            buf.put_slice(&wire.unread[..length]);
            wire.unread.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(wire.stream().poll_read(cx, buf))?;
        wire.came(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        wire.side.blocked.store(true, Ordering::Relaxed);
        ready!(wire.poll_interim(cx, true))?;
        let written = ready!(wire.stream().poll_write(cx, buf))?;
        wire.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        wire.side.blocked.store(true, Ordering::Relaxed);
        ready!(wire.poll_interim(cx, true))?;
        let written = ready!(wire.stream().poll_write_vectored(cx, bufs))?;
        wire.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    /// hyper flushes only when nothing of its own waits any more, and does so whenever its task
    /// wakes: the moment between two messages, in which an informational response fits.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_interim(cx, false))?;
        wire.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_interim(cx, true))?;
        wire.stream().poll_shutdown(cx)
    }
}

/// A response's head as HTTP/1.1 has it (RFC 9112 section 4). A status without a name has none.
pub fn response_head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut line = String::new();
    let reason = status.canonical_reason().unwrap_or("");
    // Writing into a string cannot fail.
    let _ = write!(line, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
    let mut head = line.into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Bytes that the kernel takes beyond what it can send. Its own bound is up to 4 MiB, which would hide
/// for minutes that a slow client takes nothing.
const UNSENT: u32 = 128 * 1024;
/// The system's default.
const UNLIMITED: u32 = u32::MAX;
/// Informational responses per request, and bytes of them that may wait.
pub(super) const INTERIM_RESPONSES: usize = 16;
pub(super) const INTERIM_BYTES: usize = 64 * 1024;
