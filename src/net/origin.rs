//! One server of the monolith: its connections, kept for reuse, and its health.

use std::{
    error::Error,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Frame, SizeHint},
    client::conn::http1::{Builder, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use metrics::{Counter, Gauge};
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::timeout,
};

use super::dial;
use crate::{
    config::model::{Http, Server},
    net::{vigil, workers},
    telemetry::names,
};

/// One server, with its idle connections and its health. Survives a reload that still names it.
pub(super) struct Origin {
    server: Server,
    label: String,
    host: HeaderValue,
    /// The newest last; it is used first, so that the others can expire.
    idle: Mutex<Vec<Idle>>,
    in_flight: AtomicUsize,
    /// Places for connections.
    places: Arc<Semaphore>,
    up: AtomicBool,
    alarm: Arc<Notify>,
    meters: Meters,
}

struct Idle {
    channel: Channel,
    /// Whose runtime hears of it.
    worker: usize,
    since: Instant,
    keep: Duration,
}

struct Meters {
    up: Gauge,
    connect: Counter,
    timeout: Counter,
    reset: Counter,
    protocol: Counter,
}

/// One connection to a server. Dropping it ends the connection at once.
pub(super) struct Channel {
    pub(super) sender: SendRequest<Outgoing>,
    driver: Driver,
    /// `None` for probes, which must get through when nothing else does.
    place: Option<OwnedSemaphorePermit>,
}

/// What can be done with a connection.
pub(super) enum Readiness {
    /// It takes a request.
    Ready,
    /// Something is still under way.
    Busy,
    Closed,
}

/// hyper's half of a connection, which moves while it is polled.
enum Driver {
    /// By the request that uses the connection: a task of its own would have to be woken for each
    /// step of it, and would have to wake the request's.
    Request(Box<Connection<TokioIo<TcpStream>, Outgoing>>),
    Task(AbortHandle),
    /// The connection has ended.
    Over,
}

/// What the configuration says about connections to the monolith.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub connect_timeout: Duration,
    /// Largest response head in bytes.
    pub head_limit: usize,
    pub keep_alive: Duration,
    pub keep_alive_connections: usize,
    pub(super) probe: bool,
    /// The connection may change to another protocol; it moves by itself, then.
    pub(super) tunnel: bool,
}

/// A body on its way to the monolith.
pub struct Outgoing(Content);

enum Content {
    /// Of nearly all requests.
    Empty,
    Body(UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>),
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the name of the monolith server cannot be resolved")]
    Unresolved,
    #[error("the monolith server cannot be reached")]
    Unreachable,
    #[error("the monolith server did not accept a connection in time")]
    ConnectTimeout,
    #[error("too many connections to the monolith server are open")]
    Busy,
    #[error("the monolith server closed the connection without an answer")]
    Closed,
    #[error("the body of the request ended with an error")]
    Body,
    #[error("the head of the response is too large")]
    HeadTooLarge,
    #[error("the response is no HTTP")]
    Protocol,
}

impl Origin {
    pub(super) fn start(server: Server) -> Arc<Self> {
        let bracketed = server.host.contains(':') && !server.host.starts_with('[');
        let label = if bracketed {
            format!("[{}]:{}", server.host, server.port)
        } else {
            format!("{}:{}", server.host, server.port)
        };
        let meters = Meters {
            up: names::MONOLITH_UP.gauge(&[&label]),
            connect: names::MONOLITH_FAILURES.counter(&["connect"]),
            timeout: names::MONOLITH_FAILURES.counter(&["timeout"]),
            reset: names::MONOLITH_FAILURES.counter(&["reset"]),
            protocol: names::MONOLITH_FAILURES.counter(&["protocol"]),
        };
        meters.up.set(1.0);
        let host =
            HeaderValue::from_str(&label).unwrap_or_else(|_| HeaderValue::from_static("monolith"));
        let origin = Arc::new(Self {
            server,
            label,
            host,
            idle: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            up: AtomicBool::new(true),
            alarm: Arc::new(Notify::new()),
            meters,
        });
        tokio::spawn(vigil::watch(Arc::downgrade(&origin), origin.alarm.clone()));
        origin
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Takes the server into or out of rotation; `why` is logged when that is a change.
    pub(super) fn set_up(&self, up: bool, why: &str) {
        if self.up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        self.meters.up.set(if up { 1.0 } else { 0.0 });
        if up {
            tracing::info!(server = self.label, "monolith server is back in rotation");
        } else {
            tracing::warn!(
                server = self.label,
                why,
                "monolith server is out of rotation; requests go to the others, or to it if there is none"
            );
        }
    }

    /// Closes connections that idled for too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.idle()
            .retain_mut(|entry| now < entry.since + entry.keep && entry.channel.is_open());
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// What a request that names no host is sent with.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    pub(super) fn is(&self, server: &Server) -> bool {
        self.server == *server
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a request that was given up because the server was silent.
    pub(super) fn timed_out(&self) {
        self.meters.timeout.increment(1);
    }

    /// Takes a failure of real traffic in.
    pub(super) fn failed(&self, fault: Fault) {
        match fault {
            Fault::Unresolved | Fault::Unreachable | Fault::ConnectTimeout => {
                self.meters.connect.increment(1);
                self.set_up(false, fault.label());
            }
            Fault::Closed => self.meters.reset.increment(1),
            Fault::HeadTooLarge | Fault::Protocol => self.meters.protocol.increment(1),
            // Says nothing about the server.
            Fault::Body | Fault::Busy => return,
        }
        self.alarm.notify_one();
    }

    /// The connection that was used last, of those that this thread's runtime hears of.
    pub(super) fn take_idle(&self, terms: &Terms) -> Option<Channel> {
        let now = Instant::now();
        let worker = workers::current();
        loop {
            let mut entry = {
                let mut idle = self.idle();
                let newest = idle.iter().rposition(|entry| entry.worker == worker)?;
                idle.remove(newest)
            };
            if now < entry.since + entry.keep.min(terms.keep_alive) && entry.channel.is_ready() {
                return Some(entry.channel);
            }
        }
    }

    pub(super) fn put_idle(&self, channel: Channel, terms: &Terms) {
        let mut idle = self.idle();
        if idle.len() < terms.keep_alive_connections {
            idle.push(Idle {
                channel,
                worker: workers::current(),
                since: Instant::now(),
                keep: terms.keep_alive,
            });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn dial(&self, terms: &Terms) -> Result<Channel, Fault> {
        let place = if terms.probe {
            None
        } else {
            let place = timeout(terms.connect_timeout, self.places.clone().acquire_owned());
            // The semaphore is never closed.
            Some(place.await.ok().and_then(Result::ok).ok_or(Fault::Busy)?)
        };
        let host = self
            .server
            .host
            .trim_start_matches('[')
            .trim_end_matches(']');
        let connect = async {
            let mut addresses = tokio::net::lookup_host((host, self.server.port))
                .await
                .map_err(|_| Fault::Unresolved)?
                .peekable();
            if addresses.peek().is_none() {
                return Err(Fault::Unresolved);
            }
            for address in addresses {
                if let Ok(stream) = TcpStream::connect(address).await {
                    return Ok(stream);
                }
            }
            Err(Fault::Unreachable)
        };
        let stream = timeout(terms.connect_timeout, connect)
            .await
            .map_err(|_| Fault::ConnectTimeout)??;
        // Small requests shall not wait for an acknowledgement; without the option they only do.
        // And a tunnel notices that its server vanished.
        let _ = dial::configure(&stream);
        Channel::open(stream, place, terms).await
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.meters.up.set(0.0);
        // The watching task sleeps otherwise until its next look.
        self.alarm.notify_one();
    }
}

impl Channel {
    /// Speaks HTTP on a socket on which nothing is under way.
    pub(super) async fn open(
        stream: TcpStream,
        place: Option<OwnedSemaphorePermit>,
        terms: &Terms,
    ) -> Result<Self, Fault> {
        let (sender, connection) = Builder::new()
            .max_header_size(terms.head_limit)
            .max_buf_size(terms.head_limit.max(READ_BUFFER))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Fault::Closed)?;
        let driver = if terms.tunnel {
            let connection = connection.with_upgrades();
            Driver::Task(tokio::spawn(connection).abort_handle())
        } else {
            Driver::Request(Box::new(connection))
        };
        Ok(Self {
            sender,
            driver,
            place,
        })
    }

    /// Takes the socket out of HTTP, with what was read from it and not used. `Err`: it moves by
    /// itself.
    pub(super) fn into_socket(
        mut self,
    ) -> Result<(TcpStream, Bytes, Option<OwnedSemaphorePermit>), Self> {
        match mem::replace(&mut self.driver, Driver::Over) {
            Driver::Request(connection) => {
                let parts = connection.into_parts();
                Ok((parts.io.into_inner(), parts.read_buf, self.place.take()))
            }
            driver => {
                self.driver = driver;
                Err(self)
            }
        }
    }

    /// Moves the connection on. To be called whenever something of it is waited for; errors reach
    /// the sender or the body.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Driver::Request(connection) = &mut self.driver
            && Pin::new(connection.as_mut()).poll(cx).is_ready()
        {
            self.driver = Driver::Over;
        }
    }

    /// From here on the connection moves by itself, whoever waits for what.
    pub(super) fn detach(&mut self) {
        self.driver = match mem::replace(&mut self.driver, Driver::Over) {
            Driver::Request(connection) => Driver::Task(tokio::spawn(connection).abort_handle()),
            other => other,
        };
    }

    /// Leaves the connection to the protocol that it changes to.
    pub(super) fn release(mut self) {
        self.detach();
        self.driver = Driver::Over;
    }

    /// Takes note of what came meanwhile, which nobody was woken for.
    fn look(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }

    /// With what a response or a piece of its body is waited for, after [`Self::drive`]: what comes
    /// comes while the waiting task drives the connection itself, and nobody has to wake it for that.
    pub(super) fn listener<'a>(&self, cx: &Context<'a>) -> Context<'a> {
        match &self.driver {
            Driver::Request(_) => Context::from_waker(Waker::noop()),
            Driver::Task(_) | Driver::Over => Context::from_waker(cx.waker()),
        }
    }

    /// Whether it can take a request.
    pub(super) fn is_ready(&mut self) -> bool {
        matches!(self.readiness(), Readiness::Ready)
    }

    pub(super) fn readiness(&mut self) -> Readiness {
        self.look();
        if self.sender.is_ready() {
            Readiness::Ready
        } else if self.sender.is_closed() {
            Readiness::Closed
        } else {
            Readiness::Busy
        }
    }

    /// Whether the server has not closed it.
    pub(super) fn is_open(&mut self) -> bool {
        self.look();
        !self.sender.is_closed()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // hyper would first wait until the server has taken what was sent to it, which one that
        // hangs never does.
        if let Driver::Task(task) = &self.driver {
            task.abort();
        }
    }
}

impl Fault {
    pub(super) fn of(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            Self::HeadTooLarge
        } else if error.is_parse() {
            Self::Protocol
        } else if error.is_user() {
            Self::Body
        } else {
            Self::Closed
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Unresolved => "its name cannot be resolved",
            Self::Unreachable => "it cannot be reached",
            Self::ConnectTimeout => "it did not accept a connection in time",
            Self::Busy => "too many connections to it are open",
            Self::Closed => "it closed a connection without an answer",
            Self::Body => "a request's body broke",
            Self::HeadTooLarge => "its response head is too large",
            Self::Protocol => "it does not answer in HTTP",
        }
    }
}

impl From<&Http> for Terms {
    fn from(http: &Http) -> Self {
        Self {
            connect_timeout: http.connect_timeout,
            head_limit: http.response_header_limit,
            keep_alive: http.keep_alive,
            keep_alive_connections: http.keep_alive_connections,
            probe: false,
            tunnel: false,
        }
    }
}

impl Terms {
    /// For a request that asks for another protocol.
    #[must_use]
    pub fn with_upgrade(self) -> Self {
        Self {
            tunnel: true,
            ..self
        }
    }
}

impl Outgoing {
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        Self(Content::Body(body.map_err(Into::into).boxed_unsync()))
    }

    pub fn empty() -> Self {
        Self(Content::Empty)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.0 {
            Content::Empty => Poll::Ready(None),
            Content::Body(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Empty => true,
            Content::Body(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Empty => SizeHint::with_exact(0),
            Content::Body(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outgoing")
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("server", &self.label)
            .field("up", &self.is_up())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}

/// Connections to one server, whatever clients ask for.
const MAX_CONNECTIONS: usize = 4096;
/// Most that hyper buffers of a response; the head must fit.
const READ_BUFFER: usize = 128 * 1024;
