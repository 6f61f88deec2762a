//! Listening sockets: binding, accepting, and everything up to the first byte of HTTP.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use metrics::{Counter, Gauge, Histogram};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    base::id::{ListenAddr, PeerAddr},
    config::model::{Listener, ProxyProtocol},
    net::{
        farewell::{Farewells, Uninvited},
        gate::{Entered, Gate, Turned},
        proxy_protocol::{Origin, read_header},
        secure::Secure,
        spare::Spares,
        stream::Downstream,
        workers::Workers,
    },
    telemetry::names,
};

/// A client's connection, ready for HTTP.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Downstream,
    /// Who it comes from, the PROXY header believed.
    pub peer: PeerAddr,
    /// HTTP/2 was agreed on by ALPN.
    pub http2: bool,
    /// The listener as it was configured when the connection came.
    pub listener: Arc<Listener>,
    /// Keep it as long as the connection or the socket made of it lives.
    pub guard: Entered,
}

/// What a listener does with the next connection.
#[derive(Clone, Debug)]
pub struct Terms {
    pub listener: Arc<Listener>,
    /// `None`: plain text.
    pub tls: Option<Arc<ServerConfig>>,
    /// For the PROXY header and the TLS handshake, each.
    pub handshake_timeout: Duration,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", advice(source))]
pub struct BindError {
    pub address: ListenAddr,
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another process has it, see `ss -ltnp`; gateways share an address only if all of them \
             have `reuse_port = true` in its [[listener]] and run as the same user)"
        }
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE or a higher port)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// An address that clients can connect to already, though nobody accepts yet.
#[derive(Debug)]
pub struct Bound {
    /// At least one; each gets its part of the connections from the kernel.
    sockets: Vec<Listening>,
    local: SocketAddr,
}

#[derive(Debug)]
struct Listening {
    socket: TcpListener,
    /// Where its connections are carried.
    runtime: Handle,
}

/// Binds and listens. Must be called within the runtime.
pub fn bind(address: ListenAddr) -> Result<Bound, BindError> {
    bind_on(address, Sharing::Alone, &Workers::none())
}

/// The same with a socket for each of `workers`, which carries the connections that come in by it.
pub fn bind_on(
    address: ListenAddr,
    sharing: Sharing,
    workers: &Workers,
) -> Result<Bound, BindError> {
    open_all(address.0, sharing, workers.runtimes()).map_err(|source| BindError { address, source })
}

/// Who else may listen on the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: that somebody does is an error.
    Alone,
    /// Processes of the same user that say so too. Each socket gets its part of the connections.
    Processes,
}

fn open_all(address: SocketAddr, sharing: Sharing, runtimes: Vec<Handle>) -> io::Result<Bound> {
    let mut sockets = Vec::with_capacity(runtimes.len());
    let mut local = address;
    let has_siblings = runtimes.len() > 1;
    for runtime in runtimes {
        let first = sockets.is_empty();
        let socket = open(local, !first || sharing == Sharing::Processes)?;
        if first {
            local = socket.local_addr()?.as_socket().unwrap_or(address);
            if has_siblings {
                // Not before it is bound: that the address is another process's would go unnoticed.
                socket.set_reuse_port(true)?;
            }
        }
        let entered = runtime.enter();
        let socket = TcpListener::from_std(socket.into())?;
        drop(entered);
        sockets.push(Listening { socket, runtime });
    }
    Ok(Bound { sockets, local })
}

fn open(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` shall serve IPv4 too, whatever the machine's default is.
        socket.set_only_v6(false)?;
    }
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    prepare(&socket);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

impl Bound {
    /// The address with the port that the system chose, if 0 was asked for.
    pub fn local(&self) -> ListenAddr {
        ListenAddr(self.local)
    }

    /// The next connection with its address, without any of the checks of [`Self::serve`]. For an
    /// address that was bound without workers.
    pub async fn accept(&self) -> io::Result<(TcpStream, PeerAddr)> {
        let (stream, peer) = self.sockets[0].socket.accept().await?;
        Ok((stream, PeerAddr(peer)))
    }

    /// Accepts until `stop`, and hands each connection to `serve` in a task of its own. Returns at
    /// once; the work is done in `tasks`.
    ///
    /// Connections that were waiting in the kernel at the stop are still taken: a client that was
    /// let in by the kernel would see a reset otherwise.
    pub fn serve<F, S>(
        self,
        terms: &Arc<ArcSwap<Terms>>,
        gate: Arc<Gate>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        serve: &S,
    ) where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Accepted) -> F + Clone + Send + Sync + 'static,
    {
        let door = Arc::new(Door::new(gate, self.local));
        for Listening { socket, runtime } in self.sockets {
            let serving = door.clone().serve(
                socket,
                terms.clone(),
                tasks.clone(),
                stop.clone(),
                serve.clone(),
            );
            tasks.spawn_on(serving, &runtime);
        }
    }
}

impl Door {
    async fn serve<F, S>(
        self: Arc<Self>,
        socket: TcpListener,
        terms: Arc<ArcSwap<Terms>>,
        tasks: TaskTracker,
        stop: CancellationToken,
        serve: S,
    ) where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Accepted) -> F + Clone + Send + Sync + 'static,
    {
        let mut pause = BACKOFF_FIRST;
        let mut odd_errors = 0_u32;
        let mut left_after_stop = BACKLOG;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = socket.accept() => accepted,
                () = stop.cancelled() => return,
            };
            if stop.is_cancelled() {
                left_after_stop -= 1;
                if left_after_stop == 0 {
                    return;
                }
            }
            match accepted {
                Ok((stream, peer)) => {
                    if pause > BACKOFF_FIRST {
                        pause = BACKOFF_FIRST;
                        self.spares.refill();
                    }
                    odd_errors = 0;
                    let (door, serve) = (self.clone(), serve.clone());
                    let terms = terms.load_full();
                    match door.enter(&terms, peer) {
                        Ok(entered) => {
                            // Boxed first: on its way into a task a future is moved several times.
                            tasks.spawn(Box::pin(async move {
                                if let Some(accepted) =
                                    door.open(stream, peer, terms, entered).await
                                {
                                    serve(accepted).await;
                                }
                            }));
                        }
                        Err(turned) => {
                            let uninvited = Uninvited {
                                stream,
                                client: peer,
                                is_plain: terms.tls.is_none(),
                                room: None,
                            };
                            self.farewells.turn_away(uninvited, turned, &tasks);
                        }
                    }
                }
                Err(error) => {
                    let shortage = self.count_error(&error);
                    let is_told = shortage == Some(Shortage::Descriptors)
                        && self.refuse_one(&socket, &terms, &tasks);
                    if is_told {
                        pause = BACKOFF_FIRST;
                        continue;
                    }
                    odd_errors = if shortage.is_some() {
                        0
                    } else {
                        odd_errors + 1
                    };
                    if shortage.is_some() || odd_errors > ODD_ERRORS {
                        warn!(
                            listener = %self.local, %error, pause_ms = pause.as_millis(),
                            "cannot accept connections; raise the limit of open files if this stays"
                        );
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = stop.cancelled() => return,
                        }
                        pause = (pause * 2).min(BACKOFF_LONGEST);
                    }
                    // Anything else concerns the one connection that broke before it was taken.
                }
            }
        }
    }
}

/// Options that the accepted sockets inherit, so that they are not set on each. A peer that vanished
/// without a FIN is noticed within [`VANISHED`] whether bytes wait for it or not.
fn prepare(socket: &Socket) {
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(VANISHED));
}

/// One listener's way in: checks and handles to its metrics.
struct Door {
    gate: Arc<Gate>,
    local: SocketAddr,
    connections: Gauge,
    accepted: Counter,
    handshake_seconds: Histogram,
    proxy_header_failures: Counter,
    farewells: Farewells,
    spares: Arc<Spares>,
}

impl Door {
    fn new(gate: Arc<Gate>, local: SocketAddr) -> Self {
        let listener = local.to_string();
        Self {
            local,
            connections: names::CONNECTIONS.gauge(&[&listener]),
            accepted: names::CONNECTIONS_ACCEPTED.counter(&[&listener]),
            handshake_seconds: names::HANDSHAKE_SECONDS.histogram(&[]),
            proxy_header_failures: names::PROXY_HEADER_FAILURES.counter(&[]),
            farewells: Farewells::new(local, gate.clone()),
            spares: Spares::new(),
            gate,
        }
    }

    fn enter(&self, terms: &Terms, peer: SocketAddr) -> Result<Entered, Turned> {
        let entered = self.gate.enter(&self.connections)?;
        // With PROXY headers the peer is the balancer; its client is judged when it is known.
        if terms.listener.proxy_protocol == ProxyProtocol::Off {
            self.gate.admit(peer.ip())?;
        }
        self.accepted.increment(1);
        Ok(entered)
    }

    /// Everything before HTTP. `None`: the connection ended here, and that was said.
    async fn open(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        terms: Arc<Terms>,
        guard: Entered,
    ) -> Option<Accepted> {
        let peer = match terms.listener.proxy_protocol {
            ProxyProtocol::Off => peer,
            ProxyProtocol::Required => self.proxied(&mut stream, peer, &terms).await?,
        };
        let (stream, http2) = match &terms.tls {
            None => (Downstream::Plain(stream), false),
            Some(tls) => self.handshake(stream, peer, tls.clone(), &terms).await?,
        };
        Some(Accepted {
            stream,
            peer: PeerAddr(peer),
            http2,
            listener: terms.listener.clone(),
            guard,
        })
    }

    async fn proxied(
        &self,
        stream: &mut TcpStream,
        balancer: SocketAddr,
        terms: &Terms,
    ) -> Option<SocketAddr> {
        match read_header(stream, terms.handshake_timeout).await {
            Ok(Origin::Local) => Some(balancer),
            Ok(Origin::Proxied { source }) => match self.gate.admit(source.ip()) {
                Ok(()) => Some(source),
                Err(turned) => {
                    self.farewells.note(source, turned);
                    None
                }
            },
            Err(error) => {
                self.proxy_header_failures.increment(1);
                info!(
                    peer = %balancer, listener = %self.local, %error,
                    "connection closed: this listener has proxy_protocol on, so its balancer must send the header"
                );
                None
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Arc<ServerConfig>,
        terms: &Terms,
    ) -> Option<(Downstream, bool)> {
        let deadline = Instant::now() + terms.handshake_timeout;
        // A client that says nothing yet takes no place from those that do.
        if timeout_at(deadline, stream.peek(&mut [0])).await.is_err() {
            self.handshake_failed(peer, &HandshakeFailure::timeout(terms));
            return None;
        }
        // Those in front may all take their full time.
        let turn = Instant::now() + terms.handshake_timeout * 2;
        let slot = match self.gate.handshake(turn).await {
            Ok(slot) => slot,
            Err(turned) => {
                self.farewells.note(peer, turned);
                return None;
            }
        };
        // Waiting behind others is not the client's fault: its own time begins here.
        let started = Instant::now();
        let accept = Secure::accept(stream, tls);
        let outcome = timeout(terms.handshake_timeout, accept).await;
        drop(slot);
        let failure = match outcome {
            Ok(Ok(stream)) => {
                self.handshake_seconds.record(started.elapsed());
                let http2 = stream.alpn_protocol() == Some(b"h2");
                return Some((Downstream::Tls(Box::new(stream)), http2));
            }
            Ok(Err(error)) => HandshakeFailure::of(&error),
            Err(_) => HandshakeFailure::timeout(terms),
        };
        self.handshake_failed(peer, &failure);
        None
    }

    fn handshake_failed(&self, peer: SocketAddr, failure: &HandshakeFailure) {
        names::HANDSHAKE_FAILURES
            .counter(&[failure.label])
            .increment(1);
        info!(
            client = %peer, listener = %self.local, reason = failure.label, error = failure.text,
            "TLS handshake failed"
        );
    }

    /// Tells the next client that there is no descriptor for it, by one that was kept for that;
    /// otherwise it would hang, and with it all behind it. False when it cannot be told either.
    fn refuse_one(
        &self,
        socket: &TcpListener,
        terms: &ArcSwap<Terms>,
        tasks: &TaskTracker,
    ) -> bool {
        let Some(room) = self.spares.make_room() else {
            return false;
        };
        // It is there, unless it has just left.
        let Some(Ok((stream, peer))) = socket.accept().now_or_never() else {
            return false;
        };
        let uninvited = Uninvited {
            stream,
            client: peer,
            is_plain: terms.load().tls.is_none(),
            room: Some(room),
        };
        let turned = self.gate.out_of_descriptors();
        self.farewells.turn_away(uninvited, turned, tasks);
        true
    }

    /// Says of what the system is short, if it is something that only time brings back.
    fn count_error(&self, error: &io::Error) -> Option<Shortage> {
        use rustix::io::Errno;
        let (label, shortage) = match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE) => ("descriptors", Some(Shortage::Descriptors)),
            Some(Errno::NOBUFS | Errno::NOMEM) => ("memory", Some(Shortage::Memory)),
            _ => ("other", None),
        };
        names::ACCEPT_ERRORS.counter(&[label]).increment(1);
        debug!(listener = %self.local, %error, "accept failed");
        shortage
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shortage {
    Descriptors,
    Memory,
}

struct HandshakeFailure {
    label: &'static str,
    text: String,
}

impl HandshakeFailure {
    fn timeout(terms: &Terms) -> Self {
        Self {
            label: "timeout",
            text: format!("not finished within {:?}", terms.handshake_timeout),
        }
    }

    fn of(error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let label = match inner {
            Some(
                rustls::Error::InvalidMessage(_)
                | rustls::Error::InappropriateMessage { .. }
                | rustls::Error::InappropriateHandshakeMessage { .. }
                | rustls::Error::PeerMisbehaved(_),
            ) => "garbage",
            // rustls has no variant of its own for a resolver without an answer.
            Some(rustls::Error::General(text)) if text.contains("certificate") => "no_certificate",
            Some(rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_)) => "peer",
            Some(_) => "other",
            None => "peer",
        };
        Self {
            label,
            text: error.to_string(),
        }
    }
}

/// Connections that the kernel holds for us between two accepts. Half an office may come at once.
const BACKLOG: i32 = 4096;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);

/// Errors in a row, of a kind that concerns single connections, until they are taken for a lasting
/// one.
const ODD_ERRORS: u32 = 64;

/// A silent peer is asked after this, then every interval, and given up after the retries.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Bytes that stay unacknowledged for this long end the connection.
const VANISHED: Duration = Duration::from_secs(45);
