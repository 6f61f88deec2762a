//! The client of the monolith: connections kept for reuse, servers chosen by load and health.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use metrics::{Counter, Gauge};
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::timeout,
};

use crate::{
    config::model::{Http, Server},
    net::vigil,
    telemetry::names,
};

/// One logical monolith: the servers that answer for a route.
#[derive(Debug)]
pub struct Monolith {
    /// Never empty.
    origins: Vec<Arc<Origin>>,
    turn: AtomicUsize,
}

/// One server, with its idle connections and its health. Survives a reload that still names it.
pub struct Origin {
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

/// What the configuration says about connections to the monolith.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub connect_timeout: Duration,
    /// Largest response head in bytes.
    pub head_limit: usize,
    pub keep_alive: Duration,
    pub keep_alive_connections: usize,
    probe: bool,
}

/// A body on its way to the monolith.
pub struct Outgoing(UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>);

/// A place in a server's count of requests in flight.
#[derive(Debug)]
pub struct Lease(Arc<Origin>);

/// A response whose body is still to be read.
#[derive(Debug)]
pub struct Reply {
    pub response: Response<Incoming>,
    pub connection: Used,
}

/// The connection a response comes from. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Used {
    channel: Channel,
    lease: Lease,
    terms: Terms,
}

/// One connection to a server.
struct Channel {
    sender: SendRequest<Outgoing>,
    task: AbortHandle,
    /// Whether dropping it ends the connection at once. hyper would first wait until the server has
    /// taken what was sent to it, which one that hangs never does.
    cuts: bool,
    /// `None` for probes, which must get through when nothing else does.
    _place: Option<OwnedSemaphorePermit>,
}

/// A request got no response.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct SendError {
    pub fault: Fault,
    /// Given back when not one byte of it was sent.
    pub unsent: Option<Box<Request<Outgoing>>>,
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

impl Monolith {
    /// Servers that `old` knows already are taken over with their connections and health.
    ///
    /// Must be called within the runtime: each new server is watched by a task, until it is dropped.
    pub fn new<'a>(servers: &[Server], old: impl Iterator<Item = &'a Self> + Clone) -> Arc<Self> {
        let origins = servers
            .iter()
            .map(|server| {
                old.clone()
                    .flat_map(|monolith| &monolith.origins)
                    .find(|origin| origin.server == *server)
                    .cloned()
                    .unwrap_or_else(|| Origin::start(server.clone()))
            })
            .collect();
        Arc::new(Self {
            origins,
            turn: AtomicUsize::new(0),
        })
    }

    /// The server with the fewest requests in flight among those in rotation, or among all when none
    /// is: a last resort costs less than an error that may be wrong. `avoid` is chosen only if there
    /// is no other.
    pub fn choose(&self, avoid: Option<&Lease>) -> Lease {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let best = (0..self.origins.len())
            .map(|n| &self.origins[(start.wrapping_add(n)) % self.origins.len()])
            .min_by_key(|origin| {
                let avoided = avoid.is_some_and(|lease| Arc::ptr_eq(&lease.0, origin));
                (
                    avoided,
                    !origin.is_up(),
                    origin.in_flight.load(Ordering::Relaxed),
                )
            })
            .expect("the configuration gives each monolith at least one server");
        best.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease(best.clone())
    }

    /// Whether there is a second server to try.
    pub fn has_several(&self) -> bool {
        self.origins.len() > 1
    }

    /// Each server with whether it is in rotation.
    pub fn servers(&self) -> impl Iterator<Item = (&str, bool)> {
        self.origins
            .iter()
            .map(|origin| (origin.label.as_str(), origin.is_up()))
    }
}

impl Origin {
    fn start(server: Server) -> Arc<Self> {
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
            .retain(|entry| !entry.channel.sender.is_closed() && now < entry.since + entry.keep);
    }

    /// Asks the server whether it works: any answer below 500 to `GET /health` says so.
    pub(super) async fn probe(self: &Arc<Self>) -> Result<(), &'static str> {
        let request = Request::get("/health")
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, "ddp-gateway (health)")
            .body(Outgoing::empty())
            .map_err(|_| "its address makes no valid request")?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let lease = Lease(self.clone());
        // A server that is out gets a fresh connection: the kept ones may be dead.
        let fresh = !self.is_up();
        let reply = lease
            .send(request, PROBE_TERMS, fresh)
            .await
            .map_err(|error| error.fault.label())?;
        if reply.response.status().is_server_error() {
            return Err("its /health says so");
        }
        let mut body = reply.response.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| "its answer was cut")?;
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > PROBE_BODY {
                return Ok(());
            }
        }
        reply.connection.give_back();
        Ok(())
    }

    fn take_idle(&self, terms: &Terms) -> Option<Channel> {
        let now = Instant::now();
        loop {
            let entry = self.idle().pop()?;
            if entry.channel.sender.is_ready()
                && now < entry.since + entry.keep.min(terms.keep_alive)
            {
                return Some(entry.channel);
            }
        }
    }

    fn put_idle(&self, mut channel: Channel, terms: &Terms) {
        channel.cuts = false;
        let mut idle = self.idle();
        if idle.len() < terms.keep_alive_connections {
            idle.push(Idle {
                channel,
                since: Instant::now(),
                keep: terms.keep_alive,
            });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(&self, terms: &Terms) -> Result<Channel, Fault> {
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
        let _ = stream.set_nodelay(true);
        let (sender, connection) = Builder::new()
            .max_header_size(terms.head_limit)
            .max_buf_size(terms.head_limit.max(READ_BUFFER))
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Fault::Closed)?;
        // Ends when the sender is dropped or the server closes; errors reach the sender.
        let task = tokio::spawn(connection.with_upgrades()).abort_handle();
        Ok(Channel {
            sender,
            task,
            cuts: false,
            _place: place,
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.meters.up.set(0.0);
        // The watching task sleeps otherwise until its next look.
        self.alarm.notify_one();
    }
}

impl Lease {
    /// The server's `host:port`, for logs and as `Host` of requests that name none.
    pub fn server(&self) -> &str {
        &self.0.label
    }

    pub fn host(&self) -> &HeaderValue {
        &self.0.host
    }

    /// Sends a request and waits for the head of its response, for as long as the caller does.
    ///
    /// A kept connection that turns out to be closed before anything was sent is replaced by another
    /// one. `fresh` asks for a new connection in any case.
    pub async fn send(
        self,
        mut request: Request<Outgoing>,
        terms: Terms,
        fresh: bool,
    ) -> Result<Reply, SendError> {
        let mut kept = if fresh {
            None
        } else {
            self.0.take_idle(&terms)
        };
        loop {
            let reused = kept.is_some();
            let mut channel = match kept.take() {
                Some(channel) => channel,
                None => match self.0.dial(&terms).await {
                    Ok(channel) => channel,
                    Err(fault) => {
                        self.failed(fault);
                        return Err(SendError {
                            fault,
                            unsent: Some(Box::new(request)),
                        });
                    }
                },
            };
            // Until there is an answer, giving up means cutting.
            channel.cuts = true;
            match channel.sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(Reply {
                        response,
                        connection: Used {
                            channel,
                            lease: self,
                            terms,
                        },
                    });
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        request = unsent;
                        kept = self.0.take_idle(&terms);
                    }
                    unsent => {
                        let fault = Fault::of(error.error());
                        self.failed(fault);
                        return Err(SendError {
                            fault,
                            unsent: unsent.map(Box::new),
                        });
                    }
                },
            }
        }
    }

    /// Counts a request that was given up because the server was silent.
    pub fn timed_out(&self) {
        self.0.meters.timeout.increment(1);
    }

    fn failed(&self, fault: Fault) {
        let meters = &self.0.meters;
        match fault {
            Fault::Unresolved | Fault::Unreachable | Fault::ConnectTimeout => {
                meters.connect.increment(1);
                self.0.set_up(false, fault.label());
            }
            Fault::Closed => meters.reset.increment(1),
            Fault::HeadTooLarge | Fault::Protocol => meters.protocol.increment(1),
            // Says nothing about the server.
            Fault::Body | Fault::Busy => return,
        }
        self.0.alarm.notify_one();
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Used {
    /// Keeps the connection for another request. Call it when the response's body was read to its
    /// end.
    pub fn give_back(mut self) {
        let sender = &mut self.channel.sender;
        if sender.is_closed() {
            return;
        }
        if sender.is_ready() {
            self.lease.0.put_idle(self.channel, &self.terms);
            return;
        }
        // hyper has yet to see the end itself, or still sends a body that the server did not wait
        // for.
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(SETTLE, self.channel.sender.ready()).await {
                self.lease.0.put_idle(self.channel, &self.terms);
            }
        });
    }

    /// Leaves the connection to the protocol that it changed to.
    pub fn upgraded(mut self) {
        self.channel.cuts = false;
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.cuts {
            self.task.abort();
        }
    }
}

impl Fault {
    fn of(error: &hyper::Error) -> Self {
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

    fn label(self) -> &'static str {
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
        }
    }
}

impl Outgoing {
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        Self(body.map_err(Into::into).boxed_unsync())
    }

    pub fn empty() -> Self {
        Self::new(Empty::new())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
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

const PROBE_TERMS: Terms = Terms {
    connect_timeout: Duration::from_secs(1),
    head_limit: 64 * 1024,
    keep_alive: Duration::from_secs(5),
    keep_alive_connections: 64,
    probe: true,
};
/// Of a probe's answer no more is read.
const PROBE_BODY: usize = 64 * 1024;
/// How long a connection may take to become usable again after a response.
const SETTLE: Duration = Duration::from_secs(5);
/// Most that hyper buffers of a response; the head must fit.
const READ_BUFFER: usize = 128 * 1024;
/// Connections to one server, whatever clients ask for.
const MAX_CONNECTIONS: usize = 4096;
/// Header lines of one response.
const MAX_HEADERS: usize = 256;
