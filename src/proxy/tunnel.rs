//! WebSockets and other upgrades of the monolith: a tunnel that nobody looks into.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header,
    request::Parts,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    body::Body,
    client::Client,
    http,
    record::Record,
    refusal::Refusal,
    shared::{Phase, Shared},
    snapshot::Snapshot,
};
use crate::{
    headers::hop,
    net::{
        incoming::{Incoming, OnUpgrade, UpgradeLost, on_upgrade, protocol},
        monolith::{Lease, Monolith, Outgoing, Terms},
        stream::Downstream,
    },
    telemetry::meters::Counted,
    ws::handshake,
};

/// Whether the request asks for another protocol that may be tunnelled.
///
/// HTTP/2 in clear text (`h2c`) is not: its requests would reach the monolith unseen. Such a request
/// is served as if it had not asked, which RFC 9110 section 7.8 allows.
pub(super) fn is_wanted(parts: &Parts, body: &Incoming) -> bool {
    if parts.method == Method::CONNECT {
        return is_websocket(&parts.extensions);
    }
    parts.version == Version::HTTP_11
        && parts.headers.contains_key(header::UPGRADE)
        && hop::has_token(&parts.headers, header::CONNECTION, "upgrade")
        && !hop::has_token(&parts.headers, header::UPGRADE, "h2c")
        && body.is_end_stream()
}

/// The one protocol that may be asked for with an extended CONNECT (RFC 8441).
fn is_websocket(extensions: &Extensions) -> bool {
    protocol(extensions).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

/// Asks the monolith to change the protocol; if it does, the tunnel lives in a task of its own.
pub(super) async fn open(
    shared: &Arc<Shared>,
    snapshot: &Arc<Snapshot>,
    monolith: &Monolith,
    client: &Client,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<Body>, Refusal> {
    let config = &snapshot.config;
    let downstream = on_upgrade(&mut request);
    let mut request = request.map(|_| Outgoing::empty());
    let accept = (request.method() == Method::CONNECT).then(|| as_http1(&mut request));
    let asked = request.headers().get(header::UPGRADE).cloned();
    let lease = monolith.choose(None);
    if !request.headers().contains_key(header::HOST) {
        let host = lease.host().clone();
        request.headers_mut().insert(header::HOST, host);
    }
    let server = lease.clone();
    let deadline = Instant::now() + config.http.first_byte_timeout;
    // A tunnel uses its connection up, so it gets one of its own.
    let terms = Terms::from(&config.http).with_upgrade();
    let sending = lease.send(request, terms, true);
    let mut reply = match timeout_at(deadline, sending).await {
        Ok(sent) => sent.map_err(|error| Refusal::from(error.fault))?,
        Err(_) => {
            server.timed_out();
            return Err(Refusal::Silent);
        }
    };
    record.served_by(server.server());
    if reply.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if accept.is_some() && reply.response.status().is_success() {
            // Over HTTP/2 that would say that the WebSocket is open.
            return Err(Refusal::BadGateway);
        }
        return http::answer(reply, false, http::rules(&config.http, record), None);
    }
    let headers = reply.response.headers();
    let accepted = accept
        .as_ref()
        .is_none_or(|accept| headers.get(header::SEC_WEBSOCKET_ACCEPT) == Some(accept));
    if !accepted || !names_one_of(headers, asked.as_ref()) {
        return Err(Refusal::BadGateway);
    }
    let upstream = hyper::upgrade::on(&mut reply.response);
    let tunnel = Tunnel {
        client: client.clone(),
        server,
        idle: config.http.tunnel_idle_timeout,
        spread: config.drain.spread,
        shared: shared.clone(),
        log: config.log.access,
        _counted: Counted::new(&snapshot.meters.tunnels),
    };
    snapshot.meters.tunnels_opened.increment(1);
    shared.tasks.spawn(tunnel.run(downstream, upstream));
    reply.connection.upgraded();
    let (mut parts, _) = reply.response.into_parts();
    if accept.is_some() {
        hop::strip(&mut parts.headers);
        parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        parts.status = StatusCode::OK;
    } else {
        hop::strip_but_upgrade(&mut parts.headers);
    }
    Ok(Response::from_parts(parts, Body::Empty))
}

/// Makes the extended CONNECT of an HTTP/2 client the handshake of an HTTP/1.1 one; returns the
/// `Sec-WebSocket-Accept` that the monolith has to answer.
fn as_http1(request: &mut Request<Outgoing>) -> HeaderValue {
    *request.method_mut() = Method::GET;
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let text = |text: &str| HeaderValue::from_str(text).expect("base64 is a header value");
    let headers = request.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_KEY, text(&key));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    text(&handshake::accept_key(&key))
}

/// One open tunnel.
struct Tunnel {
    client: Client,
    server: Lease,
    idle: Duration,
    spread: Duration,
    shared: Arc<Shared>,
    log: bool,
    _counted: Counted,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Client,
    Monolith,
    Broken,
    Idle,
    Drained,
}

impl Tunnel {
    async fn run(self, downstream: OnUpgrade, upstream: hyper::upgrade::OnUpgrade) {
        let opened = Instant::now();
        let upstream = async { upstream.await.map_err(|_| UpgradeLost) };
        let both = async { tokio::try_join!(downstream, upstream) };
        let Ok(Ok(((downstream, early), upstream))) = timeout(UPGRADE, both).await else {
            tracing::debug!(client = %self.client.addr, "a tunnel's upgrade was not completed");
            return;
        };
        let upstream = TokioIo::new(upstream);
        let traffic = Traffic::new(opened);
        let ended = {
            let relayed = relay(downstream, early, upstream, &traffic);
            tokio::pin!(relayed);
            tokio::select! {
                ended = &mut relayed => ended,
                () = traffic.idle_for(self.idle) => Ended::Idle,
                () = self.drained() => Ended::Drained,
            }
        };
        if self.log {
            let duration = opened.elapsed();
            tracing::info!(
                target: "access",
                event = "socket_close",
                client = %self.client.addr,
                peer = %self.client.peer,
                request_id = %self.client.request_id,
                route = "tunnel",
                server = self.server.server(),
                bytes_in = traffic.up.load(Ordering::Relaxed),
                bytes_out = traffic.down.load(Ordering::Relaxed),
                duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                reason = ended.label(),
            );
        }
    }

    /// Ready at this tunnel's moment of a shutdown: they do not all end at once, so that their
    /// clients do not all come back at once.
    async fn drained(&self) {
        let mut phase = self.shared.phase.clone();
        // An error means that the process lost its control part: nothing is drained then.
        if phase
            .wait_for(|phase| *phase == Phase::Closing)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
        sleep(self.spread.mul_f64(rand::random())).await;
    }
}

impl Ended {
    fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Monolith => "monolith",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Drained => "drained",
        }
    }
}

/// Bytes of each direction, and when the last ones moved.
struct Traffic {
    start: Instant,
    moved: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Traffic {
    fn new(start: Instant) -> Self {
        Self {
            start,
            moved: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        }
    }

    fn moved(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(millis, Ordering::Relaxed);
    }

    async fn idle_for(&self, limit: Duration) {
        loop {
            let due =
                self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Copies both ways until both ended, or one did and the other did not follow.
async fn relay(
    downstream: Downstream,
    early: Bytes,
    upstream: TokioIo<hyper::upgrade::Upgraded>,
    traffic: &Traffic,
) -> Ended {
    let (down_read, down_write) = split(downstream);
    let (up_read, up_write) = split(upstream);
    let up = copy(early, down_read, up_write, traffic, &traffic.up);
    let down = copy(Bytes::new(), up_read, down_write, traffic, &traffic.down);
    tokio::pin!(up, down);
    let (result, ended) = tokio::select! {
        result = &mut up => (result, Ended::Client),
        result = &mut down => (result, Ended::Monolith),
    };
    if result.is_err() {
        return Ended::Broken;
    }
    // One side said all it had to say; the other may still have something.
    let _ = match ended {
        Ended::Client => timeout(HALF_CLOSED, down).await,
        _ => timeout(HALF_CLOSED, up).await,
    };
    ended
}

async fn copy<R, W>(
    early: Bytes,
    mut from: R,
    mut to: W,
    traffic: &Traffic,
    counter: &AtomicU64,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    to.write_all(&early).await?;
    traffic.moved(counter, early.len());
    let mut buffer = vec![0; BUFFER];
    loop {
        to.flush().await?;
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        traffic.moved(counter, read);
    }
}

/// Whether the protocol that the monolith changed to is among those the client asked for.
fn names_one_of(headers: &HeaderMap, asked: Option<&HeaderValue>) -> bool {
    let asked = asked.and_then(|value| value.to_str().ok()).unwrap_or("");
    headers
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|chosen| {
            asked
                .split(',')
                .any(|protocol| protocol.trim().eq_ignore_ascii_case(chosen.trim()))
        })
}

/// For both connections to be handed over after the 101.
const UPGRADE: Duration = Duration::from_secs(10);
/// For the second direction to end after the first.
const HALF_CLOSED: Duration = Duration::from_secs(10);
const BUFFER: usize = 8 * 1024;
