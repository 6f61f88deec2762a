//! Serving one accepted connection with HTTP/1.1 or HTTP/2, until it ends or turns into something
//! else.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::sleep_until;

use super::{
    Gateway,
    client::Connection,
    shared::{Phase, Shared},
};
use crate::{config::model::Http, net::listen::Accepted};

/// Serves a connection. A panic in it ends the task it runs in, and nothing else.
pub async fn serve(shared: Arc<Shared>, accepted: Accepted) {
    let Accepted {
        stream,
        peer,
        local,
        http2,
        listener,
        guard,
    } = accepted;
    let http = shared.snapshot.load().config.http.clone();
    let websocket = listener.http2_websocket;
    let activity = Arc::new(Activity::new());
    let connection = Arc::new(Connection {
        peer,
        local,
        listener,
        guard,
    });
    let gateway = Gateway::new(shared.clone(), connection, activity.clone());
    let io = TokioIo::new(stream);
    let watch = Watch {
        activity,
        phase: shared.phase.clone(),
        first: http.header_timeout,
        idle: KEEP_ALIVE,
    };
    let result = if http2 {
        let connection = version2(&http, websocket).serve_connection(io, gateway);
        watch
            .over(connection, http2::Connection::graceful_shutdown)
            .await
    } else {
        let connection = version1(&http)
            .serve_connection(io, gateway)
            .with_upgrades();
        watch
            .over(connection, http1::UpgradeableConnection::graceful_shutdown)
            .await
    };
    if let Err(error) = result {
        note(&error, peer);
    }
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
}

/// One request in progress on a connection.
#[derive(Debug)]
pub(super) struct Visit(Arc<Activity>);

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            open: AtomicUsize::new(0),
            changed: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    pub(super) fn enter(self: &Arc<Self>) -> Visit {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Visit(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    fn changed(&self) -> Instant {
        self.start + Duration::from_millis(self.changed.load(Ordering::Relaxed))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let millis = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.changed.store(millis, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Release);
    }
}

/// Ends a connection that idles or that the gateway no longer wants.
struct Watch {
    activity: Arc<Activity>,
    phase: tokio::sync::watch::Receiver<Phase>,
    /// For the first request.
    first: Duration,
    /// Between requests.
    idle: Duration,
}

impl Watch {
    async fn over<C>(
        self,
        connection: C,
        shut_down: impl Fn(Pin<&mut C>),
    ) -> Result<(), hyper::Error>
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut connection = pin!(connection);
        let mut phase = self.phase.clone();
        let mut leaving = false;
        let mut give_up: Option<Instant> = None;
        loop {
            let due = give_up.unwrap_or_else(|| self.due());
            tokio::select! {
                biased;
                result = connection.as_mut() => return result,
                Ok(_) = phase.wait_for(|phase| *phase != Phase::Running), if !leaving => {
                    leaving = true;
                    shut_down(connection.as_mut());
                }
                () = sleep_until(due.into()) => {
                    if !self.activity.is_idle() || Instant::now() < self.due() {
                        give_up = None;
                        continue;
                    }
                    if give_up.is_some() {
                        return Ok(());
                    }
                    shut_down(connection.as_mut());
                    give_up = Some(Instant::now() + LEAVE);
                }
            }
        }
    }

    /// When to look again; an idle connection is due then.
    fn due(&self) -> Instant {
        let limit = if self.activity.requests.load(Ordering::Relaxed) == 0 {
            self.first
        } else {
            self.idle
        };
        if self.activity.is_idle() {
            self.activity.changed() + limit
        } else {
            Instant::now() + limit
        }
    }
}

fn version1(http: &Http) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(http.header_timeout)
        .max_header_size(http.request_header_limit)
        .max_buf_size(http.request_header_limit.max(READ_BUFFER))
        .max_headers(MAX_HEADERS)
        .half_close(false)
        .keep_alive(true);
    builder
}

fn version2(http: &Http, websocket: bool) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http.http2_streams)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    if websocket {
        builder.enable_connect_protocol();
    }
    builder
}

/// A client's mistakes are its own affair: one line, and not a loud one.
fn note(error: &hyper::Error, peer: crate::base::id::PeerAddr) {
    let kind = if error.is_parse() {
        "bad_request"
    } else if error.is_timeout() {
        "timeout"
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        "client_gone"
    } else {
        "broken"
    };
    if kind == "bad_request" || kind == "timeout" {
        tracing::info!(%peer, kind, %error, "a client's connection was ended");
    } else {
        tracing::debug!(%peer, kind, %error, "a client's connection ended early");
    }
}

/// A connection may stay open this long between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// For an idle connection to end after it was told to.
const LEAVE: Duration = Duration::from_secs(5);
/// Most that hyper buffers of what a client sends; the head of a request must fit.
const READ_BUFFER: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
const HEADER_LIST: u32 = 32 * 1024;
/// Streams that the client opened and reset before they were taken up ("rapid reset").
const PENDING_RESETS: usize = 20;
/// Streams that we reset because of what the client did on them.
const LOCAL_RESETS: usize = 100;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// A peer that vanished is noticed after two of these at most.
const PING: Duration = Duration::from_secs(20);
