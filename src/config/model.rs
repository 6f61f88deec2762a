//! The checked configuration: narrow types, no option that must be set, no text left to parse.

mod kubernetes;
mod nats;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

pub use self::kubernetes::{ApiServer, Kubernetes, ServicePort};
pub use self::nats::{Broker, Bus, Nats, NatsLogin, NatsServer, Replicas};
use crate::base::{
    id::{ListenAddr, PoolName, StreamerAddr},
    secret::Secret,
};

/// Everything the gateway was told, checked.
///
/// Invariants: there is at least one listener; `routes` is sorted with the most specific first and
/// its last entry matches every request; each route's `monolith` is an index into `monoliths` and
/// each `pool` one into `pools`; the first pool and the first monolith are those of the top-level
/// keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub listeners: Vec<Listener>,
    /// Where `/metrics`, `/healthz` and the rest of the admin pages are; `None` when switched off.
    pub admin: Option<ListenAddr>,
    pub routes: Vec<Route>,
    pub monoliths: Vec<Monolith>,
    pub pools: Vec<Pool>,
    pub http: Http,
    pub websocket: WebSocket,
    pub limits: Limits,
    pub logins: Logins,
    pub trusted_proxies: Ranges,
    pub affinity: Affinity,
    pub rebalance: Rebalance,
    /// `None`: this gateway is alone.
    pub replicas: Option<Box<Replicas>>,
    pub drain: Drain,
    pub log: Log,
    /// Load the configuration again when its file (or a certificate) changes.
    pub watch: bool,
    /// Threads that carry connections; as many as there are cores when not set.
    pub workers: Option<NonZeroUsize>,
    /// Each of them stays on a core of its own, where there are as many cores.
    pub pin_workers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: ListenAddr,
    /// Empty: plain text. The first one is served to clients whose SNI matches none.
    pub tls: Vec<Certificate>,
    /// Offer HTTP/2 by ALPN (TLS listeners only).
    pub http2: bool,
    /// Accept WebSockets over HTTP/2 (RFC 8441). Needs `http2`.
    pub http2_websocket: bool,
    pub proxy_protocol: ProxyProtocol,
    /// Answer everything with a redirect to https on this port.
    pub redirect_https: Option<u16>,
    /// Other processes may listen on the same address.
    pub reuse_port: bool,
}

/// Where the PEM files of one certificate are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    Off,
    /// Every connection must begin with a header, v1 or v2.
    Required,
}

/// Which requests go where: first by host, then by the longest path prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub host: HostPattern,
    /// Begins with `/`; matches by whole segments. `/` matches everything.
    pub path: String,
    /// Index into [`Config::monoliths`].
    pub monolith: usize,
    /// Index into [`Config::pools`]; serves `<path>/websocket` and `<path>/sockjs/...`.
    /// `None`: this route has no streamers, its WebSockets are tunnelled to the monolith.
    pub pool: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Any,
    /// Lower case, without a port.
    Exact(String),
    /// `*.example.com`, kept as `example.com`: matches one or more labels in front.
    Suffix(String),
}

/// One logical monolith: the servers that answer HTTP for a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monolith {
    /// Never empty.
    pub servers: Vec<Server>,
}

/// An HTTP origin, `http://host:port`. The host may be a name: it is resolved at each dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub host: Arc<str>,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: PoolName,
    /// Addresses given literally.
    pub streamers: Vec<StreamerAddr>,
    /// Names to look up: those of `discovery.dns`, and each streamer that is given by a name.
    pub dns: Vec<Dns>,
    /// The message bus.
    pub nats: Option<Nats>,
    /// A Service whose endpoints are the streamers. There is at least one of this, `nats`, `dns`
    /// and `streamers`.
    pub kubernetes: Option<Box<Kubernetes>>,
    /// Sessions that one streamer may hold.
    pub sessions_per_streamer: u32,
    /// Clients that may wait for room, and for how long.
    pub queue: Queue,
    /// A streamer that comes up is filled over this time.
    pub slow_start: Duration,
    /// For TCP connect, upgrade and `connected` of one leg together.
    pub attach_timeout: Duration,
    pub health: Health,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    pub name: String,
    pub kind: DnsKind,
    /// Empty: the system's resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// Bounds on the TTL that is honoured.
    pub ttl_min: Duration,
    pub ttl_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsKind {
    /// A and AAAA; the port is configured.
    Address { port: u16 },
    /// SRV; the port is in the answer.
    Srv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub length: usize,
    pub wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// Pause between two `GET /health`.
    pub interval: Duration,
    /// For each probe.
    pub timeout: Duration,
    /// Pause between two DDP probes (upgrade, `server_id`, `connect`, `connected`, close) of a
    /// streamer that is up.
    pub ddp_interval: Duration,
    /// Consecutive failures until a streamer is out of rotation.
    pub failures: u32,
    /// Largest share of the pool, 0.0 to 1.0, that failures of real traffic may take out.
    /// Streamers that fail their probes are out whatever their share.
    pub max_ejected: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub connect_timeout: Duration,
    /// From the request's last byte to the response's head.
    pub first_byte_timeout: Duration,
    /// Longest pause within a body, either direction.
    pub idle_timeout: Duration,
    /// For the whole exchange.
    pub request_timeout: Duration,
    /// For a request's head, and for a TLS handshake.
    pub header_timeout: Duration,
    /// Largest request body in bytes.
    pub body_limit: u64,
    /// Slowest acceptable body, bytes per second over [`MIN_RATE_WINDOW`]; 0 switches it off.
    pub min_rate: u64,
    /// Largest request head in bytes.
    pub request_header_limit: usize,
    /// Largest response head in bytes.
    pub response_header_limit: usize,
    /// Idle connections to the monolith are closed after this; must be below the monolith's own.
    pub keep_alive: Duration,
    /// Idle connections kept per monolith server.
    pub keep_alive_connections: usize,
    /// Longest silence, both ways, of a socket that is tunnelled to the monolith.
    pub tunnel_idle_timeout: Duration,
    /// Streams that one HTTP/2 client may have open.
    /// Whether large answers may go from socket to socket within the kernel.
    pub splice: bool,
    pub http2_streams: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// Allowed `Origin` values (scheme, host and port, lower case); empty allows all.
    pub origins: Vec<String>,
    /// Largest message from a client, in bytes.
    pub message_limit: u64,
    /// A client that does not send `connect` within this is closed.
    pub connect_timeout: Duration,
    /// A silent client is pinged after half of this and closed after all of it.
    pub idle_timeout: Duration,
    /// Bytes that may wait for one slow client.
    pub buffer: usize,
    /// Bytes that may wait for all slow peers together.
    pub buffer_total: usize,
    /// A client that takes nothing for this long while bytes wait is closed.
    pub stall_timeout: Duration,
    /// A client whose connection broke finds its session again within this; zero: never.
    pub resume_grace: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages from one client.
    pub messages: Rate,
    /// Bytes from one client.
    pub bytes: Rate,
    /// New connections per client address; loopback and trusted ranges are exempt.
    pub connections: Rate,
    /// A client that is held back this long without a pause is closed with 1008.
    pub abuse_after: Duration,
    /// Open client connections; derived from the descriptor limit when `None`.
    pub max_connections: Option<usize>,
    /// TLS handshakes in flight.
    pub handshakes: usize,
    pub methods: MethodLimits,
}

/// Methods and subscriptions; `None` switches a limit off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodLimits {
    pub connection: Option<Quota>,
    pub user: Option<Quota>,
    /// Per client address; loopback and trusted ranges are exempt.
    pub address: Option<Quota>,
    /// Of one name. Names that begin with `stream-` have four times the requests in four times the
    /// interval, here and in `user_by_method`.
    pub connection_by_method: Option<Quota>,
    pub user_by_method: Option<Quota>,
    /// Refusals that are borne.
    pub abuse: Option<Quota>,
    /// Time in which everything is refused to whoever had more of them.
    pub penalty: Duration,
}

/// Requests that may come within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Never 0.
    pub requests: u32,
    /// Never zero.
    pub interval: Duration,
}

/// How logins are paced; both limits and both rates hold at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logins {
    /// `false`: nothing of the following applies.
    pub pace: bool,
    /// Most logins in flight at one streamer; never 0.
    pub streamer_concurrency: u32,
    /// Most logins in flight at all streamers together; never 0.
    pub concurrency: u32,
    /// Logins per second at one streamer; never 0.
    pub streamer_rate: u32,
    /// Logins per second at all streamers together; never 0.
    pub rate: u32,
    /// A login that takes longer says that there are too many.
    pub latency_target: Duration,
    /// A login without an answer for this long has failed.
    pub timeout: Duration,
    /// Logins that may wait.
    pub queue_length: usize,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Never 0.
    pub per_second: u32,
    /// Never 0.
    pub burst: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Name of the cookie; `None` switches the cookie off.
    pub cookie: Option<String>,
    /// Key of the signature; `None`: random at each start.
    pub secret: Option<Secret<Vec<u8>>>,
    /// How long a client is remembered.
    pub remember: Duration,
}

/// When live sessions go to other streamers by themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalance {
    pub mode: RebalanceMode,
    /// The fullest streamer may have this share of the mean, 0.1 to 1.0, above the mean.
    pub threshold: f64,
    /// Those of a streamer go that is not discovered any more.
    pub leaving: bool,
}

/// How fast the streamers of a pool are levelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceMode {
    Off,
    /// At a tenth of the pace of logins.
    Slow,
    /// At the pace of logins.
    Fast,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Between failing `/readyz` and closing the listeners.
    pub delay: Duration,
    /// Clients are closed at random moments within this.
    pub spread: Duration,
    /// After this (from the signal) the process ends whatever is left.
    pub deadline: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter, such as `info` or `info,ddp_gateway::pool=debug`.
    pub filter: String,
    /// One line per request and two per socket.
    pub access: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// A set of address ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(pub Vec<IpNet>);

impl Ranges {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.contains(&address))
    }
}

/// Time over which [`Http::min_rate`] is judged.
pub const MIN_RATE_WINDOW: Duration = Duration::from_secs(10);
