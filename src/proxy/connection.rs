//! Serving one accepted connection with HTTP/1.1 or HTTP/2, until it ends or turns into something
//! else.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::{Version, request::Parts};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    Gateway,
    bypass::Bypass,
    client::Connection,
    serving::Serving,
    shared::{Phase, Shared},
    snapshot::Snapshot,
    taken::{self, Look, Pull, Streams, Taken},
};
use crate::{
    base::id::PeerAddr,
    config::model::Http,
    net::{
        http2::{Exchange, Failure, Limits, Server},
        incoming::Informs,
        listen::Accepted,
        splice::Pipes,
        wire::{Side, Wire},
    },
};

/// Serves a connection. A panic in it ends the task it runs in, and nothing else.
pub async fn serve(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted {
        stream,
        peer,
        http2,
        listener,
        guard,
    } = accepted;
    let snapshot = shared.snapshot.load_full();
    let http = &snapshot.config.http;
    let pull = Pull::new(http);
    let websocket = listener.http2_websocket;
    let (wire, side) = Wire::new(stream, http2);
    let bypass = http.splice && !http2 && wire.plain().is_some();
    let bypass = bypass.then(|| shared.pipes.clone());
    let activity = Arc::new(Activity::new(side, !http2, bypass));
    let connection = Arc::new(Connection {
        peer,
        listener,
        guard,
    });
    let gateway = Gateway::new(shared.clone(), connection, activity.clone());
    let watch = Watch {
        activity: activity.clone(),
        phase: shared.phase.clone(),
        head: http.header_timeout,
        pull,
        looked: (Instant::now(), activity.taken.look()),
    };
    let ended = if http2 {
        let streams = Streams {
            pull,
            slow_readers: snapshot.meters.slow_readers.clone(),
        };
        let serve = move |request, exchange: Exchange| {
            let gateway = gateway.clone();
            streams.spawn(async move { exchange.answer(Box::pin(gateway.serve(request))).await });
        };
        let connection = Server::new(wire, version2(http, websocket), serve);
        watch.over(connection, Server::graceful_shutdown).await
    } else {
        let connection = Serving::new(wire, gateway, version1(http));
        watch.over(connection, Serving::graceful_shutdown).await
    };
    note(&ended, &snapshot, &activity, peer);
}

/// What one connection does, as seen by the task that owns it.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    /// Requests whose answer has not ended.
    open: AtomicUsize,
    /// Milliseconds from `start` to the last change.
    changed: AtomicU64,
    requests: AtomicU64,
    side: Arc<Side>,
    /// Of HTTP/1.1; streams have their own.
    taken: Arc<Taken>,
    /// HTTP/1.1, the version whose connections carry one request at a time.
    single: bool,
    /// For large answers, where they may go past HTTP.
    bypass: Option<Pipes>,
    /// One that is to.
    aside: Mutex<Option<Box<Bypass>>>,
    /// Whether there is one, to spare the lock.
    has_aside: AtomicBool,
}

/// One request in progress on a connection.
#[derive(Debug)]
pub(super) struct Visit(Arc<Activity>);

impl Activity {
    fn new(side: Arc<Side>, single: bool, bypass: Option<Pipes>) -> Self {
        Self {
            start: Instant::now(),
            open: AtomicUsize::new(0),
            changed: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            side,
            taken: Taken::new(),
            single,
            bypass,
            aside: Mutex::default(),
            has_aside: AtomicBool::new(false),
        }
    }

    pub(super) fn side(&self) -> &Arc<Side> {
        &self.side
    }

    /// What an answer may go past HTTP with.
    pub(super) fn bypass(&self) -> Option<&Pipes> {
        self.bypass.as_ref()
    }

    /// This answer goes past HTTP, on the task that polls the request.
    pub(super) fn set_aside(&self, answer: Box<Bypass>) {
        *self.aside.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.has_aside.store(true, Ordering::Relaxed);
    }

    /// The answer that goes past HTTP, once all before it is out.
    pub(super) fn aside(&self) -> Option<Box<Bypass>> {
        if !self.has_aside.load(Ordering::Relaxed) || self.side.is_blocked() {
            return None;
        }
        self.has_aside.store(false, Ordering::Relaxed);
        self.aside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(super) fn enter(self: &Arc<Self>) -> Visit {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Visit(self.clone())
    }

    /// Progress of the answer that this task is about to give.
    pub(super) fn taken(&self) -> Arc<Taken> {
        taken::of_stream().unwrap_or_else(|| self.taken.clone())
    }

    /// Where informational responses go, if this client can get them: HTTP/1.0 has none.
    pub(super) async fn informs(&self, parts: &Parts) -> Option<Informs> {
        if !self.single {
            return parts.extensions.get().cloned().map(Informs::Http2);
        }
        if parts.version != Version::HTTP_11 {
            return None;
        }
        poll_fn(|cx| {
            self.side.begin(cx.waker());
            Poll::Ready(())
        })
        .await;
        Some(Informs::Http1(self.side.clone()))
    }

    /// Waits until informational responses are out, for a moment.
    pub(super) async fn informed(&self) {
        if self.single && !self.side.is_informed() {
            let _ = timeout(INFORM, poll_fn(|cx| self.side.poll_informed(cx))).await;
            self.side.end();
        }
    }

    fn is_idle(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// Whether that time went by without a request.
    fn never_asked_within(&self, limit: Duration) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && self.start.elapsed() >= limit
    }

    fn changed(&self) -> Instant {
        self.start + Duration::from_millis(self.changed.load(Ordering::Relaxed))
    }
}

impl Visit {
    /// The answer of this request is cut.
    pub(super) fn cut(&self) {
        if self.0.single {
            self.0.side.cut();
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let millis = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.changed.store(millis, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Release);
    }
}

/// Ends a connection that idles, is too slow, or that the gateway no longer wants.
struct Watch {
    activity: Arc<Activity>,
    phase: tokio::sync::watch::Receiver<Phase>,
    /// For a head, and for the first one to begin.
    head: Duration,
    pull: Pull,
    /// The last look at the answer in progress.
    looked: (Instant, Look),
}

/// How a connection ended.
enum Ended {
    Http1(hyper::Error),
    Http2(Failure),
    Closed,
    /// No whole head came in time.
    SlowHead,
    /// The client did not take its answer.
    SlowReader,
}

/// What a connection is to do next.
enum Judgement {
    GoOn,
    Leave,
    End(Ended),
}

impl Watch {
    async fn over<C, E>(mut self, connection: C, shut_down: impl Fn(Pin<&mut C>)) -> Ended
    where
        C: Future<Output = Result<(), E>>,
        E: Into<Ended>,
    {
        let mut connection = pin!(connection);
        let mut phase = self.phase.clone();
        let mut drained = false;
        let mut give_up: Option<Instant> = None;
        loop {
            let due = give_up.unwrap_or_else(|| self.due());
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    return result.map_or_else(Into::into, |()| Ended::Closed);
                }
                Ok(_) = phase.wait_for(|phase| *phase != Phase::Running), if !drained => {
                    drained = true;
                    shut_down(connection.as_mut());
                }
                () = sleep_until(due) => match self.judge(Instant::now()) {
                    Judgement::GoOn => give_up = None,
                    Judgement::Leave if give_up.is_some() => return Ended::Closed,
                    Judgement::Leave => {
                        shut_down(connection.as_mut());
                        give_up = Some(Instant::now() + LEAVE);
                    }
                    Judgement::End(ended) => return ended,
                },
            }
        }
    }

    fn judge(&mut self, now: Instant) -> Judgement {
        if self.activity.is_idle() {
            if self.head_due().is_some_and(|due| now >= due) {
                return Judgement::End(Ended::SlowHead);
            }
            if now >= self.idle_due() {
                return Judgement::Leave;
            }
        }
        if now >= self.looked.0 + self.pull.window {
            let look = self.activity.taken.look();
            let missed = self.pull.is_missed(self.looked.1, look);
            self.looked = (now, look);
            if missed {
                return Judgement::End(Ended::SlowReader);
            }
        }
        Judgement::GoOn
    }

    /// When to look again at the latest. A head may begin at any moment, so an idle connection is
    /// looked at often enough to see one that lasts.
    fn due(&self) -> Instant {
        let next = Instant::now() + self.head / 2;
        let next = next.min(self.looked.0 + self.pull.window);
        if !self.activity.is_idle() {
            return next;
        }
        let next = next.min(self.idle_due());
        self.head_due().map_or(next, |due| next.min(due))
    }

    fn head_due(&self) -> Option<Instant> {
        Some(self.activity.side.head_open_since()? + self.head)
    }

    fn idle_due(&self) -> Instant {
        if self.activity.requests.load(Ordering::Relaxed) == 0 {
            self.activity.start + self.head
        } else {
            self.activity.changed() + KEEP_ALIVE
        }
    }
}

fn version1(http: &Http) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The watch over the connection has its own, which tells a slow head from an idle client.
        .header_read_timeout(None)
        .max_header_size(http.request_header_limit)
        .max_buf_size(http.request_header_limit.max(READ_BUFFER))
        .half_close(false)
        .keep_alive(true);
    builder
}

fn version2(http: &Http, websocket: bool) -> Limits {
    Limits {
        streams: http.http2_streams,
        header_list: HEADER_LIST,
        pending_resets: PENDING_RESETS,
        local_resets: LOCAL_RESETS,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        send_buffer: SEND_BUFFER,
        ping: PING,
        websocket,
    }
}

impl From<hyper::Error> for Ended {
    fn from(error: hyper::Error) -> Self {
        Self::Http1(error)
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Http2(failure)
    }
}

/// A client's mistakes are its own affair: one line, and not a loud one.
fn note(ended: &Ended, snapshot: &Snapshot, activity: &Activity, peer: PeerAddr) {
    let error = match ended {
        Ended::Closed => {
            if activity.never_asked_within(snapshot.config.http.header_timeout) {
                snapshot.meters.no_request.increment(1);
                tracing::debug!(%peer, "connection closed: the client never asked for anything");
            }
            return;
        }
        Ended::SlowHead => {
            snapshot.meters.slow_heads.increment(1);
            tracing::info!(%peer, "connection closed: no whole request head came in time");
            return;
        }
        Ended::SlowReader => {
            snapshot.meters.slow_readers.increment(1);
            tracing::info!(%peer, "connection closed: the client did not take its answer");
            return;
        }
        Ended::Http2(Failure::Http2(error)) if !error.is_io() => {
            snapshot.meters.http2.increment(1);
            tracing::info!(
                %peer, %error,
                "connection closed: the client broke the rules or the limits of HTTP/2"
            );
            return;
        }
        Ended::Http2(failure) => {
            tracing::debug!(%peer, error = %failure, "a client's connection ended early");
            return;
        }
        Ended::Http1(error) => error,
    };
    if activity.side.refused() {
        snapshot.meters.malformed.increment(1);
        tracing::info!(
            %peer,
            "request refused with 400: it has both Content-Length and Transfer-Encoding, or several lengths"
        );
    } else if error.is_parse() {
        snapshot.meters.malformed.increment(1);
        tracing::info!(%peer, %error, "request refused: its head is malformed or too large");
    } else {
        tracing::debug!(%peer, %error, "a client's connection ended early");
    }
}

/// A connection may stay open this long between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// For informational responses to get out before the final one.
const INFORM: Duration = Duration::from_secs(1);
/// For an idle connection to end after it was told to.
const LEAVE: Duration = Duration::from_secs(5);
/// Most that hyper buffers of what a client sends; the head of a request must fit.
const READ_BUFFER: usize = 64 * 1024;
const HEADER_LIST: u32 = 32 * 1024;
const PENDING_RESETS: usize = 20;
const LOCAL_RESETS: usize = 100;
/// Bytes of one request's body that an HTTP/2 client may send ahead.
pub const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of one answer that wait for an HTTP/2 client.
pub const SEND_BUFFER: usize = 64 * 1024;
/// A peer that vanished is noticed after two of these at most.
const PING: Duration = Duration::from_secs(20);
