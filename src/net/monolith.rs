//! The client of the monolith: which server is asked, and what becomes of a request.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::{Body, Incoming};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, time::timeout};

use super::origin::{Channel, Origin, Readiness};
pub use super::origin::{Fault, Outgoing, Terms};
use crate::config::model::Server;

/// One logical monolith: the servers that answer for a route.
#[derive(Debug)]
pub struct Monolith {
    /// Never empty.
    origins: Vec<Arc<Origin>>,
    turn: AtomicUsize,
}

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

/// The socket of a connection whose response is not read by HTTP any more. Dropping it closes it.
#[derive(Debug)]
pub struct Bare {
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
    lease: Lease,
    terms: Terms,
}

/// A request got no response.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct SendError {
    pub fault: Fault,
    /// Given back when not one byte of it was sent.
    pub unsent: Option<Box<Request<Outgoing>>>,
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
                    .find(|origin| origin.is(server))
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
                (avoided, !origin.is_up(), origin.in_flight())
            })
            .expect("the configuration gives each monolith at least one server");
        Lease::of(best)
    }

    /// Whether there is a second server to try.
    pub fn has_several(&self) -> bool {
        self.origins.len() > 1
    }

    /// Each server with whether it is in rotation.
    pub fn servers(&self) -> impl Iterator<Item = (&str, bool)> {
        self.origins
            .iter()
            .map(|origin| (origin.label(), origin.is_up()))
    }
}

impl Lease {
    fn of(origin: &Arc<Origin>) -> Self {
        origin.enter();
        Self(origin.clone())
    }

    /// The server's `host:port`, for logs and as `Host` of requests that name none.
    pub fn server(&self) -> &str {
        self.0.label()
    }

    pub fn host(&self) -> &HeaderValue {
        self.0.host()
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
                // Boxed, so that requests on a kept connection do not carry it along.
                None => match Box::pin(self.0.dial(&terms)).await {
                    Ok(channel) => channel,
                    Err(fault) => {
                        self.0.failed(fault);
                        return Err(SendError {
                            fault,
                            unsent: Some(Box::new(request)),
                        });
                    }
                },
            };
            let mut sending = pin!(channel.sender.try_send_request(request));
            let sent = poll_fn(|cx| {
                channel.drive(cx);
                sending.as_mut().poll(&mut channel.listener(cx))
            });
            match sent.await {
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
                        self.0.failed(fault);
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
        self.0.timed_out();
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Used {
    /// Keeps the connection for another request. Call it when the response's body was read to its
    /// end.
    pub fn give_back(mut self) {
        match self.channel.readiness() {
            Readiness::Closed => return,
            Readiness::Ready => {
                self.lease.0.put_idle(self.channel, &self.terms);
                return;
            }
            Readiness::Busy => {}
        }
        // hyper has yet to see the end itself, or still sends a body that the server did not wait
        // for.
        tokio::spawn(async move {
            let channel = &mut self.channel;
            let settled = poll_fn(|cx| {
                channel.drive(cx);
                channel.sender.poll_ready(cx)
            });
            if let Ok(Ok(())) = timeout(SETTLE, settled).await {
                self.lease.0.put_idle(self.channel, &self.terms);
            }
        });
    }

    /// Moves the connection on. To be called before the response's body is polled, and again when
    /// that has nothing.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.channel.drive(cx);
    }

    /// With what the response's body is polled, after [`Self::drive`]: what comes is driven here by
    /// the task that waits for it, and nobody has to wake it for that.
    pub fn listener<'a>(&self, cx: &Context<'a>) -> Context<'a> {
        self.channel.listener(cx)
    }

    /// From here on the connection moves without [`Self::drive`]: to be called when something is
    /// still to be sent on it while the response may wait for its reader.
    pub fn detach(&mut self) {
        self.channel.detach();
    }

    /// Leaves the connection to the protocol that it changed to.
    pub fn upgraded(self) {
        self.channel.release();
    }

    /// Takes the socket out of HTTP, with the part of the body that was read from it already.
    /// `Err`: the connection moves by itself.
    pub fn into_bare(self) -> Result<(Bare, Bytes), Self> {
        let Self {
            channel,
            lease,
            terms,
        } = self;
        match channel.into_socket() {
            Ok((stream, early, place)) => {
                let bare = Bare {
                    stream,
                    place,
                    lease,
                    terms,
                };
                Ok((bare, early))
            }
            Err(channel) => Err(Self {
                channel,
                lease,
                terms,
            }),
        }
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Bare {
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Keeps the connection for another request. Call it when the response's body was read to its
    /// end.
    pub async fn give_back(self) {
        if let Ok(channel) = Channel::open(self.stream, self.place, &self.terms).await {
            self.lease.0.put_idle(channel, &self.terms);
        }
    }
}

/// Asks a server whether it works: any answer below 500 to `GET /health` says so.
pub(super) async fn probe(origin: &Arc<Origin>) -> Result<(), &'static str> {
    // A server that is out gets a fresh connection: the kept ones may be dead. One that is in may
    // have closed the kept one at this very moment, which is no fault.
    let kept = origin.is_up();
    match ask_health(origin, !kept).await {
        Err(Some(Fault::Closed)) if kept => ask_health(origin, true).await,
        result => result,
    }
    .map_err(|fault| fault.map_or("its /health says so", Fault::label))
}

/// `None` as the fault: the answer itself says that the server is ill.
async fn ask_health(origin: &Arc<Origin>, fresh: bool) -> Result<(), Option<Fault>> {
    let mut request = Request::new(Outgoing::empty());
    *request.uri_mut() = Uri::from_static("/health");
    let headers = request.headers_mut();
    headers.insert(header::HOST, origin.host().clone());
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static("ddp-gateway (health)"),
    );
    let reply = Lease::of(origin)
        .send(request, PROBE_TERMS, fresh)
        .await
        .map_err(|error| error.fault)?;
    if reply.response.status().is_server_error() {
        return Err(None);
    }
    let mut body = reply.response.into_body();
    let mut connection = reply.connection;
    let mut read = 0;
    loop {
        let next = poll_fn(|cx| {
            connection.drive(cx);
            Pin::new(&mut body).poll_frame(cx)
        });
        let Some(frame) = next.await else {
            break;
        };
        let frame = frame.map_err(|_| Fault::Closed)?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > PROBE_BODY {
            return Ok(());
        }
    }
    connection.give_back();
    Ok(())
}

const PROBE_TERMS: Terms = Terms {
    connect_timeout: Duration::from_secs(1),
    head_limit: 64 * 1024,
    keep_alive: Duration::from_secs(5),
    keep_alive_connections: 64,
    probe: true,
    tunnel: false,
};
/// Of a probe's answer no more is read.
const PROBE_BODY: usize = 64 * 1024;
/// How long a connection may take to become usable again after a response.
const SETTLE: Duration = Duration::from_secs(5);
