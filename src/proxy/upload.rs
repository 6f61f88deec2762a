//! A request's body on its way from the client to the monolith.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    body::BodyError,
    pace::{Late, Pace, Rules},
};
use crate::net::incoming::Incoming;

/// Streams a client's body, bounded in size, pace and time.
#[derive(Debug)]
pub(super) struct Upload {
    /// `None` after an error.
    body: Option<Incoming>,
    /// Bytes that may still come.
    room: u64,
    pace: Pace,
    progress: Arc<Progress>,
    /// Set while the monolith has yet to say whether it wants the body at all.
    held: Option<Pin<Box<Sleep>>>,
}

/// How far the upload is, for the task that waits for the response.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
    bytes: AtomicU64,
    stage: AtomicU8,
    /// Milliseconds from `start` to the last change.
    moved: AtomicU64,
    changed: Notify,
    reply: Mutex<Reply>,
}

/// What the monolith did, as far as the upload depends on it.
#[derive(Debug, Default)]
struct Reply {
    wants_body: bool,
    /// Its response is complete; nobody needs the rest of the body.
    over: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The monolith has not asked for the next piece.
    Offered = 0,
    /// The client has not sent the next piece.
    Awaited = 1,
    /// Everything was handed to the monolith's connection.
    Ended = 2,
    ClientCut = 3,
    ClientSlow = 4,
    TooLarge = 5,
    Deadline = 6,
}

impl Upload {
    /// With `expects`, the client is not asked for its body before the monolith is known to want it,
    /// or has been silent for as long as clients commonly wait.
    pub(super) fn new(
        body: Incoming,
        limit: u64,
        rules: Rules,
        progress: Arc<Progress>,
        expects: bool,
    ) -> Self {
        Self {
            body: Some(body),
            room: limit,
            pace: Pace::new(rules),
            progress,
            held: expects.then(|| Box::pin(sleep(CONTINUE))),
        }
    }

    /// Ready when the body may be asked for.
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.held else {
            return Poll::Ready(());
        };
        let wanted = self.progress.reply().wants_body;
        if wanted || timer.as_mut().poll(cx).is_ready() {
            self.held = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let stage = match error {
            BodyError::ClientSlow => Stage::ClientSlow,
            BodyError::TooLarge => Stage::TooLarge,
            BodyError::Deadline => Stage::Deadline,
            _ => Stage::ClientCut,
        };
        self.progress.enter(stage);
        if let Some(body) = self.body.take()
            && matches!(error, BodyError::TooLarge | BodyError::Unwanted)
        {
            linger(body);
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The monolith's connection ended before the client's body did.
        if let Some(body) = self.body.take() {
            linger(body);
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.progress.is_over(cx.waker()) {
            return self.fail(BodyError::Unwanted);
        }
        ready!(self.poll_wanted(cx));
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(room) = self.room.checked_sub(length as u64) else {
                    return self.fail(BodyError::TooLarge);
                };
                self.room = room;
                self.progress.came(length);
                if let Err(late) = self.pace.came(length, Instant::now()) {
                    return self.fail(late.into());
                }
                if self.is_end_stream() {
                    self.progress.enter(Stage::Ended);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.progress.enter(Stage::Ended);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => self.fail(BodyError::ClientCut),
            Poll::Pending => {
                self.progress.wait();
                match self.pace.poll_late(cx) {
                    Poll::Ready(late) => self.fail(late.into()),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::new, Body::size_hint)
    }
}

impl Progress {
    pub(super) fn new(start: Instant) -> Arc<Self> {
        Arc::new(Self {
            start,
            bytes: AtomicU64::new(0),
            stage: AtomicU8::new(Stage::Offered as u8),
            moved: AtomicU64::new(0),
            changed: Notify::new(),
            reply: Mutex::default(),
        })
    }

    /// Body bytes received from the client.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Offered,
            1 => Stage::Awaited,
            2 => Stage::Ended,
            3 => Stage::ClientCut,
            4 => Stage::ClientSlow,
            5 => Stage::TooLarge,
            _ => Stage::Deadline,
        }
    }

    /// Whether there is more to be handed to the monolith's connection.
    pub(super) fn is_under_way(&self) -> bool {
        self.stage() != Stage::Ended
    }

    /// When it last moved.
    pub(super) fn moved(&self) -> Instant {
        self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// Waits until the upload ended, well or not. May return early.
    pub(super) async fn ended(&self) {
        self.changed.notified().await;
    }

    /// The monolith asked for the body.
    pub(super) fn wanted(&self) {
        let mut reply = self.reply();
        reply.wants_body = true;
        if let Some(waker) = reply.waker.take() {
            waker.wake();
        }
    }

    /// The monolith's response is complete. A body that is still under way ends here, and with it its
    /// connection to the monolith.
    pub(super) fn over(&self) {
        let mut reply = self.reply();
        reply.over = true;
        if let Some(waker) = reply.waker.take() {
            waker.wake();
        }
    }

    /// Whether the response is complete; if not, `waker` is told when it is or when the body is
    /// asked for.
    fn is_over(&self, waker: &Waker) -> bool {
        let mut reply = self.reply();
        if !reply.over
            && !reply
                .waker
                .as_ref()
                .is_some_and(|known| known.will_wake(waker))
        {
            reply.waker = Some(waker.clone());
        }
        reply.over
    }

    fn reply(&self) -> MutexGuard<'_, Reply> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn came(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
        self.stage.store(Stage::Offered as u8, Ordering::Release);
    }

    fn wait(&self) {
        self.stage.store(Stage::Awaited as u8, Ordering::Release);
    }

    fn enter(&self, stage: Stage) {
        self.touch();
        self.stage.store(stage as u8, Ordering::Release);
        self.changed.notify_one();
    }

    fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(millis, Ordering::Relaxed);
    }
}

impl From<Late> for BodyError {
    fn from(late: Late) -> Self {
        match late {
            Late::Idle | Late::Slow => Self::ClientSlow,
            Late::Deadline => Self::Deadline,
        }
    }
}

/// Reads on and forgets what comes, for a moment.
///
/// A client that is told no while it still sends would have its connection reset by the kernel, and
/// with it lose the answer that says why.
pub(super) fn linger(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    // A body may be dropped by the end of the runtime as well.
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    runtime.spawn(timeout(LINGER, async move {
        let mut left = LINGER_BYTES;
        while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    }));
}

/// Clients that wait for `100 Continue` wait about this long (RFC 9110 section 10.1.1 leaves it open).
const CONTINUE: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 * 1024 * 1024;
