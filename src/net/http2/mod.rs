//! Serving HTTP/2 on the h2 crate.
//!
//! hyper's server cannot send informational responses over HTTP/2, so connections are driven here:
//! streams are accepted and handed out, and clients that vanished are noticed by pings. What h2 does
//! by itself (limits on streams and header lists, resets, floods, flow control) is only set.

mod exchange;
mod informs;
mod multiplexed;
mod received;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use h2::{
    Ping, PingPong, RecvStream,
    server::{Connection, Handshake, SendResponse},
};
use http::{HeaderMap, Method, Request, header};
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

pub use self::{exchange::Exchange, informs::Hints, multiplexed::Multiplexed, received::Received};
use super::{
    incoming::{Incoming, Pending},
    wire::Wire,
};

/// What one connection may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub streams: u32,
    /// Bytes of one request's headers, as RFC 9113 section 6.5.2 counts them.
    pub header_list: u32,
    /// Streams that the client opened and reset before they were taken up ("rapid reset").
    pub pending_resets: usize,
    /// Streams that were reset because of what the client did on them.
    pub local_resets: usize,
    /// Bytes that a client may send ahead on one stream, and on all of them.
    pub stream_window: u32,
    pub connection_window: u32,
    /// Bytes of one answer that wait for the client.
    pub send_buffer: usize,
    /// Pause between two pings, and the time that the client has for each.
    pub ping: Duration,
    /// Whether streams may become WebSockets (RFC 8441).
    pub websocket: bool,
}

/// Why a connection ended before both sides were done with it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the client answers no ping")]
    Silent,
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// One connection; ready when it has ended.
pub struct Server<F> {
    state: State,
    limits: Limits,
    serve: F,
    /// Set by [`Self::graceful_shutdown`].
    leaving: bool,
}

enum State {
    Greeting(Box<Handshake<Wire, Bytes>>),
    Serving(Box<Serving>),
}

struct Serving {
    connection: Connection<Wire, Bytes>,
    keep_alive: Option<KeepAlive>,
    pulse: Pulse,
}

/// Set when something came from the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<AtomicBool>);

impl<F: FnMut(Request<Incoming>, Exchange) + Unpin> Server<F> {
    /// `serve` gets each request and the way to answer it, and should do so on a task of its own.
    pub fn new(wire: Wire, limits: Limits, serve: F) -> Self {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_list)
            .max_pending_accept_reset_streams(limits.pending_resets)
            .max_local_error_reset_streams(Some(limits.local_resets))
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_send_buffer_size(limits.send_buffer);
        if limits.websocket {
            builder.enable_connect_protocol();
        }
        Self {
            state: State::Greeting(Box::new(builder.handshake(wire))),
            limits,
            serve,
            leaving: false,
        }
    }

    /// No new streams; the connection ends with the last one.
    pub fn graceful_shutdown(self: Pin<&mut Self>) {
        let server = self.get_mut();
        if let State::Serving(serving) = &mut server.state
            && !server.leaving
        {
            serving.connection.graceful_shutdown();
        }
        server.leaving = true;
    }
}

impl<F: FnMut(Request<Incoming>, Exchange) + Unpin> Future for Server<F> {
    type Output = Result<(), Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let server = self.get_mut();
        loop {
            match &mut server.state {
                State::Greeting(handshake) => {
                    let mut connection = ready!(Pin::new(handshake.as_mut()).poll(cx))?;
                    if server.leaving {
                        connection.graceful_shutdown();
                    }
                    let pulse = Pulse::default();
                    let keep_alive = connection.ping_pong().map(|pings| KeepAlive {
                        pings,
                        pulse: pulse.clone(),
                        pause: server.limits.ping,
                        timer: Box::pin(sleep(server.limits.ping)),
                        asked: false,
                    });
                    server.state = State::Serving(Box::new(Serving {
                        connection,
                        keep_alive,
                        pulse,
                    }));
                }
                State::Serving(serving) => match ready!(serving.poll_accept(cx))? {
                    Some(asked) => (server.serve)(asked.request, asked.exchange),
                    None => return Poll::Ready(Ok(())),
                },
            }
        }
    }
}

impl Serving {
    /// The next request; `None` when there will be no more.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Asked>, Failure>> {
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.poll_silent(cx).is_ready()
        {
            return Poll::Ready(Err(Failure::Silent));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.connection).poll_next(cx)) {
            Some(Ok((request, respond))) => {
                self.pulse.beat();
                Ok(Some(Asked::of(request, respond, &self.pulse)))
            }
            Some(Err(error)) => Err(error.into()),
            None => Ok(None),
        })
    }
}

/// A request, and what it takes to answer it.
struct Asked {
    request: Request<Incoming>,
    exchange: Exchange,
}

impl Asked {
    fn of(request: Request<RecvStream>, respond: SendResponse<Bytes>, pulse: &Pulse) -> Self {
        let (mut parts, stream) = request.into_parts();
        let hints = Arc::new(Hints::default());
        parts.extensions.insert(hints.clone());
        let upgrades = parts.method == Method::CONNECT
            && parts.extensions.get::<h2::ext::Protocol>().is_some();
        let (body, upgrade) = if upgrades {
            let (ready, awaited) = oneshot::channel();
            parts.extensions.insert(Pending::new(awaited));
            (Incoming::Empty, Some((ready, stream)))
        } else {
            let expects = parts.headers.contains_key(header::EXPECT);
            let length = length(&parts.headers);
            let body = Received::new(
                stream,
                length,
                expects.then(|| hints.clone()),
                pulse.clone(),
            );
            (Incoming::Http2(body), None)
        };
        Self {
            request: Request::from_parts(parts, body),
            exchange: Exchange::new(respond, hints, upgrade, pulse.clone()),
        }
    }
}

/// The length that was announced; h2 itself holds the body to it.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

impl Pulse {
    pub(super) fn beat(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether there was a beat since the last call.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Asks the client every now and then whether it is there.
struct KeepAlive {
    pings: PingPong,
    pulse: Pulse,
    pause: Duration,
    /// For the next ping, or for the answer to the last one.
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl KeepAlive {
    /// Ready when a ping was not answered in time and nothing else came meanwhile: on a slow line the
    /// answer stands behind the body that the client sends.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked && self.pings.poll_pong(cx).is_ready() {
                self.asked = false;
                self.wait();
            }
            ready!(self.timer.as_mut().poll(cx));
            if !self.asked {
                self.pulse.take();
                // It fails on a connection that is ending, which is seen elsewhere.
                self.asked = self.pings.send_ping(Ping::opaque()).is_ok();
            } else if !self.pulse.take() {
                return Poll::Ready(());
            }
            self.wait();
        }
    }

    fn wait(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.pause);
    }
}
