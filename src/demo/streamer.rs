//! A simulated ddp-streamer: what Rocket.Chat's own does on the wire, its quirks included.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    dialogue::{Dialogue, Framing},
    hub::{ConnectionId, Hub, OUTBOX, Outbox},
    port::Port,
    socket::{Socket, websocket_config},
    workspace::{User, Workspace},
};

/// Connections that one streamer serves at the same time.
const MAX_CONNECTIONS: usize = 50_000;
/// Upgrades that are remembered.
const MAX_UPGRADES: usize = 256;
/// Wait for the tasks of terminated sockets.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How a streamer is to be started.
#[derive(Clone, Debug)]
pub struct StreamerOptions {
    /// What `demo:whoami` answers.
    pub name: String,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Streamers with the same workspace share users, rooms and events.
    pub workspace: Workspace,
    /// Silence after which a client is pinged, and after as much again closed with 4000.
    pub idle: Duration,
}

impl Default for StreamerOptions {
    /// A free port on the loopback interface and a workspace of its own.
    fn default() -> Self {
        Self {
            name: "streamer".to_owned(),
            address: ([127, 0, 0, 1], 0).into(),
            workspace: Workspace::default(),
            idle: Duration::from_secs(30),
        }
    }
}

impl StreamerOptions {
    /// A streamer of this name that belongs to `workspace`.
    pub fn new(name: impl Into<String>, workspace: &Workspace) -> Self {
        Self {
            name: name.into(),
            workspace: workspace.clone(),
            ..Self::default()
        }
    }
}

/// How a streamer behaves; see [`Streamer::set_mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As it should.
    Normal,
    /// Like a stopped process: connections are accepted by the kernel, nothing is ever answered,
    /// open sockets are silent and not read.
    Hang,
    /// Nobody listens; open sockets live on.
    Refuse,
    /// `/health` is ok and upgrades are accepted, but no socket says or hears anything.
    HalfDead,
    /// Every HTTP answer, and every method and sub, takes this much longer.
    Slow(Duration),
}

/// What an upgrade request looked like when it arrived.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub target: String,
    pub headers: HeaderMap,
}

/// What a streamer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sockets open now.
    pub sockets: usize,
    /// Sockets ever opened.
    pub sockets_total: u64,
    /// Open sockets with a user.
    pub logged_in: usize,
    /// Publications running now, leaked ones included.
    pub publications: usize,
    /// Text messages from clients.
    pub messages_in: u64,
    /// Messages to clients.
    pub messages_out: u64,
    /// HTTP requests that were not upgrades.
    pub requests: u64,
}

/// A running (or stopped) simulated streamer. Dropping it cuts its sockets.
#[derive(Debug)]
pub struct Streamer {
    port: Port,
    shared: Arc<Shared>,
    running: tokio::sync::Mutex<Option<Running>>,
    sockets: Mutex<CancellationToken>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    options: StreamerOptions,
    name: Arc<str>,
    hub: Arc<Hub>,
    mode: watch::Sender<Mode>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    clients: Mutex<HashMap<ConnectionId, Client>>,
    upgrades: Mutex<VecDeque<Upgrade>>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Totals {
    sockets: AtomicU64,
    requests: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
}

#[derive(Debug)]
struct Client {
    user: Option<String>,
    terminate: CancellationToken,
}

impl Streamer {
    /// Binds the port and serves until dropped.
    pub async fn start(options: StreamerOptions) -> io::Result<Self> {
        let hub = Arc::new(Hub::default());
        options.workspace.bus().join(hub.clone());
        let streamer = Self {
            port: Port::bind(options.address)?,
            shared: Arc::new(Shared {
                name: options.name.as_str().into(),
                hub,
                mode: watch::Sender::new(Mode::Normal),
                slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
                tasks: TaskTracker::new(),
                clients: Mutex::default(),
                upgrades: Mutex::default(),
                totals: Totals::default(),
                options,
            }),
            running: tokio::sync::Mutex::new(None),
            sockets: Mutex::new(CancellationToken::new()),
        };
        streamer.start_again().await?;
        Ok(streamer)
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub fn workspace(&self) -> &Workspace {
        &self.shared.options.workspace
    }

    /// Closes the listener and cuts every connection without a close frame, as the real one does
    /// on SIGTERM. From then on connections are refused.
    pub async fn stop(&self) {
        self.close_listener().await;
        lock(&self.sockets).cancel();
        let _ = timeout(STOP_LIMIT, async {
            while self.sessions() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Listens again on the same port, in [`Mode::Normal`]. Does nothing when it already listens.
    pub async fn start_again(&self) -> io::Result<()> {
        let mut running = self.running.lock().await;
        self.shared.mode.send_replace(Mode::Normal);
        if running.is_none() {
            *running = Some(self.listen()?);
        }
        Ok(())
    }

    /// Whether the port is open.
    pub fn is_listening(&self) -> bool {
        // Somebody who changes it right now holds the lock: then it is about to be what it was not.
        self.running
            .try_lock()
            .is_ok_and(|running| running.is_some())
    }

    /// Changes the behaviour; open sockets follow. When this returns, connections are refused or
    /// accepted as the mode says.
    pub async fn set_mode(&self, mode: Mode) -> io::Result<()> {
        self.shared.mode.send_replace(mode);
        if mode == Mode::Refuse {
            self.close_listener().await;
            return Ok(());
        }
        let mut running = self.running.lock().await;
        if running.is_none() {
            *running = Some(self.listen()?);
        }
        Ok(())
    }

    /// Cuts every socket of a user, as a forced logout does.
    pub fn terminate_user(&self, user: &str) {
        for client in lock(&self.shared.clients).values() {
            if client.user.as_deref() == Some(user) {
                client.terminate.cancel();
            }
        }
    }

    /// Sockets open now.
    pub fn sessions(&self) -> usize {
        lock(&self.shared.clients).len()
    }

    pub fn counters(&self) -> Counters {
        let totals = &self.shared.totals;
        let clients = lock(&self.shared.clients);
        Counters {
            sockets: clients.len(),
            sockets_total: totals.sockets.load(Ordering::Relaxed),
            logged_in: clients
                .values()
                .filter(|client| client.user.is_some())
                .count(),
            publications: self.shared.hub.publications(),
            messages_in: totals.messages_in.load(Ordering::Relaxed),
            messages_out: totals.messages_out.load(Ordering::Relaxed),
            requests: totals.requests.load(Ordering::Relaxed),
        }
    }

    /// The latest upgrade requests as they arrived, oldest first.
    pub fn upgrades(&self) -> Vec<Upgrade> {
        lock(&self.shared.upgrades).iter().cloned().collect()
    }

    fn listen(&self) -> io::Result<Running> {
        let listener = self.port.listen()?;
        let mut sockets = lock(&self.sockets);
        if sockets.is_cancelled() {
            *sockets = CancellationToken::new();
        }
        let stop = CancellationToken::new();
        let accept = self.shared.clone().accept(listener, sockets.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = accept => {}
            }
        });
        Ok(Running { stop, task })
    }

    async fn close_listener(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.stop.cancel();
            // Only then is the listening socket closed.
            let _ = running.task.await;
        }
    }
}

impl Drop for Streamer {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut() {
            running.stop.cancel();
        }
        lock(&self.sockets).cancel();
        self.shared.options.workspace.bus().leave(&self.shared.hub);
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, sockets: CancellationToken) {
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
            let shared = self.clone();
            let stop = sockets.clone();
            self.tasks.spawn(async move {
                let upgrade_stop = stop.clone();
                let service =
                    service_fn(|request| shared.clone().answer(request, upgrade_stop.clone()));
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
        self.remember(Upgrade {
            target,
            headers: request.headers().clone(),
        });
        let upgraded = hyper::upgrade::on(&mut request);
        let terminate = stop.child_token();
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
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
            self.serve(stream, framing, terminate).await;
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
            terminate: terminate.clone(),
        };
        lock(&self.clients).insert(connection, client);
        let traffic = Traffic {
            connection,
            shared: self.clone(),
        };
        let socket = Socket {
            stream,
            framing,
            dialogue: Dialogue::new(
                framing,
                self.name.clone(),
                self.options.workspace.clone(),
                self.hub.clone(),
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
    shared: Arc<Shared>,
}

impl Traffic {
    pub(super) fn received(&self) {
        self.shared
            .totals
            .messages_in
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self) {
        self.shared
            .totals
            .messages_out
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_user(&self, user: Option<&User>) {
        if let Some(client) = lock(&self.shared.clients).get_mut(&self.connection) {
            let id = user.map(|user| user.id.as_str());
            if client.user.as_deref() != id {
                client.user = id.map(str::to_owned);
            }
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        lock(&self.shared.clients).remove(&self.connection);
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
