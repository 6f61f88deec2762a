//! A simulated monolith: pages, an API, uploads, and paths that fail in ways that servers do.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    answers::{binary, echo, json_body, large_head, not_found, query, text, trailers, upload},
    body::Body,
    door::Door,
    echo_socket, page,
};

/// Connections served at the same time.
const MAX_CONNECTIONS: usize = 20_000;
/// Longest pause that a path may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Largest download.
const MAX_DOWNLOAD: u64 = 4 << 30;
/// Idle connections are closed after this; that of Node.js behind Meteor is 5 s or more.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// How the monolith is to be started.
#[derive(Clone, Debug)]
pub struct MonolithOptions {
    /// Answers `/demo/whoami` and the header `x-demo-server`.
    pub name: String,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Serves `/demo/...`: what the buttons of the demo page do.
    pub switchboard: Option<Arc<dyn Switchboard>>,
}

impl Default for MonolithOptions {
    /// A free port on the loopback interface.
    fn default() -> Self {
        Self {
            name: "monolith".to_owned(),
            address: ([127, 0, 0, 1], 0).into(),
            switchboard: None,
        }
    }
}

/// What can be switched from the demo page.
pub trait Switchboard: fmt::Debug + Send + Sync {
    /// The streamers and what they do, as JSON.
    fn streamers(&self) -> Value;

    /// Takes streamer number `streamer` away or brings it back, and is done when that has
    /// happened; false when there is no such streamer, or nobody who could empty it.
    fn switch(&self, streamer: usize, to: Switch) -> Switching<'_>;
}

/// What is to become of a streamer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Serves, and gets clients.
    Start,
    /// Hands its sessions over to the others and stops when it has none; this has only begun when
    /// [`Switchboard::switch`] is done.
    Drain,
    /// Ends at once, as a crash does.
    Kill,
}

/// The outcome of [`Switchboard::switch`].
pub type Switching<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// How the monolith behaves; see [`Monolith::set_mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonolithMode {
    Normal,
    /// Connections are accepted, requests read, nothing is answered.
    Hang,
    /// Nobody listens; open connections live on.
    Refuse,
}

/// A running simulated monolith. Dropping it cuts its connections.
///
/// Paths: `/` the demo page, `/health`, `/echo` (what arrived, as JSON), `/upload` (bytes and hash),
/// `/download?bytes=`, `/slow?ms=`, `/status/<code>`, `/cut` and `/cut?chunked`, `/trickle?count=&ms=`,
/// `/trailers`, `/headers?bytes=`, `/close` (no answer at all), `/other-ws` (a WebSocket that echoes),
/// and with a switchboard `/demo/streamers` and POST `/demo/streamers/<n>/drain`, `stop` or `start`.
#[derive(Debug)]
pub struct Monolith {
    door: Door,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: MonolithOptions,
    mode: watch::Sender<MonolithMode>,
    slots: Arc<Semaphore>,
    requests: AtomicU64,
    connections: AtomicU64,
}

impl Monolith {
    /// Binds the port and serves until dropped.
    pub async fn start(options: MonolithOptions) -> io::Result<Self> {
        let monolith = Self {
            door: Door::bind(options.address)?,
            shared: Arc::new(Shared {
                options,
                mode: watch::Sender::new(MonolithMode::Normal),
                slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
                requests: AtomicU64::new(0),
                connections: AtomicU64::new(0),
            }),
        };
        monolith.start_again().await?;
        Ok(monolith)
    }

    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Requests seen so far; those for `/health`, which probes send, do not count.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Closes the listener and cuts every connection.
    pub async fn stop(&self) {
        self.door.close().await;
        self.door.cut();
    }

    /// Listens again on the same port, in [`MonolithMode::Normal`].
    pub async fn start_again(&self) -> io::Result<()> {
        self.set_mode(MonolithMode::Normal).await
    }

    /// Changes the behaviour. When this returns, connections are refused or accepted accordingly.
    pub async fn set_mode(&self, mode: MonolithMode) -> io::Result<()> {
        self.shared.mode.send_replace(mode);
        if mode == MonolithMode::Refuse {
            self.door.close().await;
            return Ok(());
        }
        let shared = self.shared.clone();
        self.door
            .open(|listener, connections| shared.accept(listener, connections))
            .await
    }
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed on purpose")]
struct ClosedOnPurpose;

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, connections: CancellationToken) {
        loop {
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            self.connections.fetch_add(1, Ordering::Relaxed);
            let shared = self.clone();
            let stop = connections.clone();
            tokio::spawn(async move {
                let upgrade_stop = stop.clone();
                let service =
                    service_fn(|request| shared.clone().answer(request, upgrade_stop.clone()));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .half_close(true)
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
    ) -> Result<Response<Body>, ClosedOnPurpose> {
        if request.uri().path() != "/health" {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        let mut mode = self.mode.subscribe();
        // Fails only when the monolith is gone, and this connection with it.
        let _ = mode.wait_for(|mode| *mode != MonolithMode::Hang).await;
        let mut response = self.route(request, stop).await?;
        if let Ok(name) = HeaderValue::from_str(&self.options.name) {
            let header = HeaderName::from_static("x-demo-server");
            response.headers_mut().insert(header, name);
        }
        Ok(response)
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        stop: CancellationToken,
    ) -> Result<Response<Body>, ClosedOnPurpose> {
        let path = request.uri().path().to_owned();
        let number =
            |name| query(request.uri().query(), name).and_then(|text| text.parse::<u64>().ok());
        let pause = |default| Duration::from_millis(number("ms").unwrap_or(default)).min(MAX_PAUSE);
        let is_get = request.method() == Method::GET;
        Ok(match path.as_str() {
            "/health" => text(StatusCode::OK, "ok\n"),
            "/echo" => echo(request).await,
            "/upload" => upload(request).await,
            "/download" => {
                let bytes = number("bytes").unwrap_or(1 << 20).min(MAX_DOWNLOAD);
                binary(Body::pattern(bytes))
            }
            "/slow" => {
                tokio::time::sleep(pause(1000)).await;
                text(StatusCode::OK, "slow, but here\n")
            }
            "/cut" => {
                let sent = number("bytes").unwrap_or(10_000).min(MAX_DOWNLOAD);
                let chunked = query(request.uri().query(), "chunked").is_some();
                binary(Body::cut((!chunked).then_some(sent + 10_000), sent))
            }
            "/trickle" => {
                let count = number("count").unwrap_or(10).min(10_000);
                let count = usize::try_from(count).unwrap_or_default();
                binary(Body::trickle(count, pause(100)))
            }
            "/trailers" => trailers(),
            "/headers" => large_head(number("bytes").unwrap_or(60 << 10).min(1 << 20)),
            "/cookie" => {
                let mut response = text(StatusCode::OK, "two cookies\n");
                for cookie in ["one=1; Path=/", "two=2; Path=/; HttpOnly"] {
                    let value = HeaderValue::from_static(cookie);
                    response.headers_mut().append(header::SET_COOKIE, value);
                }
                response
            }
            "/close" => return Err(ClosedOnPurpose),
            "/other-ws" => echo_socket::upgrade(request, stop),
            "/demo/whoami" => json_body(&json!({ "server": self.options.name })),
            "/demo/streamers" if is_get => match &self.options.switchboard {
                Some(switchboard) => json_body(&switchboard.streamers()),
                None => not_found(),
            },
            _ => {
                if let Some(code) = path.strip_prefix("/status/") {
                    let code = code
                        .parse()
                        .ok()
                        .and_then(|code| StatusCode::from_u16(code).ok());
                    return Ok(match code.filter(|code| code.as_u16() >= 200) {
                        Some(code) => text(code, "as you wish\n"),
                        None => not_found(),
                    });
                }
                if let Some(rest) = path.strip_prefix("/demo/streamers/") {
                    return Ok(self.switch(request.method(), rest).await);
                }
                page::find(&path)
                    .filter(|_| is_get)
                    .unwrap_or_else(not_found)
            }
        })
    }

    async fn switch(&self, method: &Method, rest: &str) -> Response<Body> {
        let wish = rest.split_once('/').and_then(|(number, verb)| {
            let to = match verb {
                "start" => Switch::Start,
                "drain" => Switch::Drain,
                "stop" => Switch::Kill,
                _ => return None,
            };
            Some((number.parse().ok()?, to))
        });
        let (Some(switchboard), Some((number, to))) = (&self.options.switchboard, wish) else {
            return not_found();
        };
        if method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "POST\n");
        }
        if !switchboard.switch(number, to).await {
            return not_found();
        }
        json_body(&switchboard.streamers())
    }
}
