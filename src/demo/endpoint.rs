//! The HTTP side of a simulated streamer: health, info, upgrades.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};
use tokio_util::sync::CancellationToken;

use super::{
    dialogue::{Dialogue, Framing, Home},
    hub::{ConnectionId, Hub, OUTBOX, Outbox},
    logins::LoginTally,
    socket::{Socket, websocket_config},
    streamer::{Counters, Mode, StreamerOptions, Upgrade},
    workspace::{User, Workspace},
};

/// Connections that one streamer serves at the same time.
const MAX_CONNECTIONS: usize = 50_000;
/// Upgrades that are remembered.
const MAX_UPGRADES: usize = 256;

#[derive(Debug)]
pub(super) struct Endpoint {
    options: StreamerOptions,
    name: Arc<str>,
    hub: Arc<Hub>,
    mode: watch::Sender<Mode>,
    slots: Arc<Semaphore>,
    clients: Mutex<HashMap<ConnectionId, Client>>,
    upgrades: Mutex<VecDeque<Upgrade>>,
    totals: Totals,
    logins: Arc<LoginTally>,
}

#[derive(Debug, Default)]
struct Totals {
    sockets: AtomicU64,
    /// Of clients, open now.
    sessions: AtomicUsize,
    most_sessions: AtomicUsize,
    requests: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
}

#[derive(Debug)]
struct Client {
    user: Option<String>,
    /// A gateway's, which says so.
    probe: bool,
    /// Its name; known from the login on.
    session: String,
    terminate: CancellationToken,
}

impl Endpoint {
    pub(super) fn new(options: StreamerOptions) -> Arc<Self> {
        let hub = Arc::new(Hub::default());
        options.workspace.bus().join(hub.clone(), options.lag);
        Arc::new(Self {
            name: options.name.as_str().into(),
            hub,
            mode: watch::Sender::new(Mode::Normal),
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            clients: Mutex::default(),
            upgrades: Mutex::default(),
            totals: Totals::default(),
            logins: Arc::default(),
            options,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn workspace(&self) -> &Workspace {
        &self.options.workspace
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Sockets open now.
    pub(super) fn sessions(&self) -> usize {
        lock(&self.clients).len()
    }

    /// Returns when no socket is open any more.
    pub(super) async fn emptied(&self) {
        while self.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn terminate_user(&self, user: &str) {
        for client in lock(&self.clients).values() {
            if client.user.as_deref() == Some(user) {
                client.terminate.cancel();
            }
        }
    }

    pub(super) fn sessions_of(&self, user: &str) -> Vec<String> {
        let clients = lock(&self.clients);
        let of = clients
            .values()
            .filter(|client| client.user.as_deref() == Some(user));
        of.map(|client| client.session.clone()).collect()
    }

    pub(super) fn counters(&self) -> Counters {
        let totals = &self.totals;
        let clients = lock(&self.clients);
        let logged_in = clients.values().filter(|client| client.user.is_some());
        Counters {
            sockets: clients.len(),
            most_sessions: totals.most_sessions.load(Ordering::Relaxed),
            sockets_total: totals.sockets.load(Ordering::Relaxed),
            logged_in: logged_in.count(),
            publications: self.hub.publications(),
            messages_in: totals.messages_in.load(Ordering::Relaxed),
            messages_out: totals.messages_out.load(Ordering::Relaxed),
            requests: totals.requests.load(Ordering::Relaxed),
            logins: self.logins.counters(),
        }
    }

    /// The latest upgrade requests, oldest first.
    pub(super) fn upgrades(&self) -> Vec<Upgrade> {
        lock(&self.upgrades).iter().cloned().collect()
    }

    /// No more events for its sockets.
    pub(super) fn leave_bus(&self) {
        self.options.workspace.bus().leave(&self.hub);
    }

    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener, sockets: CancellationToken) {
        loop {
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(streamer = %self.name, %error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let endpoint = self.clone();
            let stop = sockets.clone();
            tokio::spawn(async move {
                let upgrade_stop = stop.clone();
                let service =
                    service_fn(|request| endpoint.clone().answer(request, upgrade_stop.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(60))
                    .max_buf_size(256 << 10)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = connection => {}
                }
                drop(slot);
            });
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        stop: CancellationToken,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        self.awake().await;
        let upgrade = request
            .headers()
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if upgrade {
            return Ok(self.upgrade(request, stop));
        }
        self.totals.requests.fetch_add(1, Ordering::Relaxed);
        Ok(match (request.method(), request.uri().path()) {
            (&Method::GET, "/health") => Response::new(Full::from("ok")),
            (&Method::GET, _) => info(),
            _ => empty(StatusCode::NOT_FOUND),
        })
    }

    async fn awake(&self) {
        let mut mode = self.mode.subscribe();
        let delay = match mode.wait_for(|mode| *mode != Mode::Hang).await.as_deref() {
            Ok(Mode::Slow(delay)) => *delay,
            _ => return,
        };
        tokio::time::sleep(delay).await;
    }

    fn upgrade(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        stop: CancellationToken,
    ) -> Response<Full<Bytes>> {
        let headers = request.headers();
        let version = headers.get(header::SEC_WEBSOCKET_VERSION);
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .filter(|key| key.len() == 24);
        let Some(key) = key.filter(|_| version.is_some_and(|version| version == "13")) else {
            return empty(StatusCode::BAD_REQUEST);
        };
        let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) else {
            return empty(StatusCode::BAD_REQUEST);
        };
        if lock(&self.clients).len() >= MAX_CONNECTIONS {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        }
        let target = request.uri().to_string();
        let framing = if target == "/websocket" {
            Framing::Raw
        } else {
            Framing::SockJs
        };
        let agent = headers.get(header::USER_AGENT);
        let probe = agent.is_some_and(|agent| agent == "ddp-gateway-probe");
        self.remember(Upgrade {
            target,
            headers: request.headers().clone(),
        });
        let upgraded = hyper::upgrade::on(&mut request);
        let terminate = stop.child_token();
        tokio::spawn(async move {
            let upgraded = tokio::select! {
                () = terminate.cancelled() => return,
                upgraded = upgraded => upgraded,
            };
            let Ok(Ok(parts)) = upgraded.map(|io| io.downcast::<TokioIo<TcpStream>>()) else {
                return;
            };
            let stream = WebSocketStream::from_partially_read(
                parts.io.into_inner(),
                parts.read_buf.to_vec(),
                Role::Server,
                Some(websocket_config()),
            )
            .await;
            self.serve(stream, framing, probe, terminate).await;
        });
        let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        response
    }

    async fn serve(
        self: Arc<Self>,
        stream: WebSocketStream<TcpStream>,
        framing: Framing,
        probe: bool,
        terminate: CancellationToken,
    ) {
        let connection = self.options.workspace.connection_id();
        let (frames, events) = mpsc::channel(OUTBOX);
        let outbox = Outbox {
            connection,
            frames,
            terminate: terminate.clone(),
        };
        self.totals.sockets.fetch_add(1, Ordering::Relaxed);
        let client = Client {
            user: None,
            probe,
            session: String::new(),
            terminate: terminate.clone(),
        };
        if !probe {
            let totals = &self.totals;
            let sessions = totals.sessions.fetch_add(1, Ordering::Relaxed) + 1;
            totals.most_sessions.fetch_max(sessions, Ordering::Relaxed);
        }
        lock(&self.clients).insert(connection, client);
        let traffic = Traffic {
            connection,
            endpoint: self.clone(),
        };
        let socket = Socket {
            stream,
            framing,
            dialogue: Dialogue::new(
                framing,
                Home {
                    streamer: self.name.clone(),
                    workspace: self.options.workspace.clone(),
                    hub: self.hub.clone(),
                    logins: self.logins.clone(),
                },
                outbox,
                Instant::now(),
            ),
            events,
            mode: self.mode.subscribe(),
            terminate,
            idle: self.options.idle,
            traffic,
        };
        socket.run().await;
    }

    fn remember(&self, upgrade: Upgrade) {
        let mut upgrades = lock(&self.upgrades);
        if upgrades.len() == MAX_UPGRADES {
            upgrades.pop_front();
        }
        upgrades.push_back(upgrade);
    }
}

/// Counts what one socket does; its drop is what takes the socket off the list.
pub(super) struct Traffic {
    connection: ConnectionId,
    endpoint: Arc<Endpoint>,
}

impl Traffic {
    pub(super) fn received(&self) {
        self.endpoint
            .totals
            .messages_in
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self) {
        self.endpoint
            .totals
            .messages_out
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_user(&self, user: Option<&User>, session: &str) {
        if let Some(client) = lock(&self.endpoint.clients).get_mut(&self.connection) {
            let id = user.map(|user| user.id.as_str());
            if client.user.as_deref() != id {
                client.user = id.map(str::to_owned);
                session.clone_into(&mut client.session);
            }
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let client = lock(&self.endpoint.clients).remove(&self.connection);
        if client.is_some_and(|client| !client.probe) {
            let sessions = &self.endpoint.totals.sessions;
            sessions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What the streamer says to a GET of anything: SockJS's info, whatever the path.
fn info() -> Response<Full<Bytes>> {
    let body = json!({
        "websocket": true,
        "origins": ["*:*"],
        "cookie_needed": false,
        "entropy": rand::random::<u32>(),
        "ms": true,
    });
    let mut response = Response::new(Full::from(body.to_string()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is made in one step, so a poisoned value is still a whole one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
