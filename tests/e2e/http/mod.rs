//! HTTP through the gateway: forwarding, refusing, limits, tunnels.

mod bypass;
mod forwarding;
mod health;
mod http2;
mod informational;
mod limits;
mod log;
mod routing;
mod smuggling;
mod time;
mod tunnel;

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::secret::Secret,
    config::{self, Environment, model::Config},
    demo::monolith::{Monolith, MonolithOptions},
    net::{
        gate::{Gate, GateTerms},
        listen::{self, Accepted},
        stream::Downstream,
    },
    pool::{Pool, Settings},
    proxy::{
        connection,
        shared::{Phase, Shared},
        snapshot::Snapshot,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

/// The data path of a gateway on a free port, without the rest of the process.
struct Served {
    address: SocketAddr,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    accepting: JoinHandle<()>,
}

impl Served {
    async fn start(monoliths: &[SocketAddr]) -> Self {
        Self::start_with(monoliths, |_| {}).await
    }

    async fn start_with(monoliths: &[SocketAddr], change: impl FnOnce(&mut Config)) -> Self {
        Self::listen(monoliths, false, change).await
    }

    /// Speaks HTTP/2 without TLS, as if ALPN had agreed on it.
    async fn start_http2(monoliths: &[SocketAddr], change: impl FnOnce(&mut Config)) -> Self {
        Self::listen(monoliths, true, change).await
    }

    async fn listen(
        monoliths: &[SocketAddr],
        http2: bool,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let servers: Vec<String> = monoliths
            .iter()
            .map(|address| format!("\"http://{address}\""))
            .collect();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nmonolith = [{}]\nstreamers = [\"127.0.0.1:9\"]\n",
            servers.join(", ")
        );
        let mut config = config::from_str("test", &text, &Environment::default())
            .unwrap_or_else(|faults| panic!("{faults:?}"))
            .config;
        change(&mut config);
        let pools = config
            .pools
            .iter()
            .map(|pool| {
                let mut settings = Settings::named(pool.name.clone());
                settings.queue_length = pool.queue.length;
                Pool::new(settings, Instant::now())
            })
            .collect();
        let listener = Arc::new(config.listeners[0].clone());
        let bound = listen::bind(listener.address).unwrap();
        let address = bound.local().0;
        let gate = Arc::new(Gate::new(GateTerms {
            max_connections: 10_000,
            max_handshakes: 100,
            per_address: config.limits.connections,
            exempt: config.trusted_proxies.clone(),
        }));
        let secret = Secret::new(b"of this test".to_vec());
        let snapshot = Snapshot::first(Arc::new(config), pools, &secret);
        let (phase, phases) = watch::channel(Phase::Running);
        let shared = Shared::new(snapshot, phases);
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((stream, peer)) = bound.accept().await {
                    let accepted = Accepted {
                        stream: Downstream::Plain(stream),
                        peer,
                        http2,
                        listener: listener.clone(),
                        guard: gate.enter(&metrics::Gauge::noop()).unwrap(),
                    };
                    shared
                        .tasks
                        .spawn(connection::serve(shared.clone(), accepted));
                }
            }
        });
        Self {
            address,
            shared,
            phase,
            accepting,
        }
    }

    async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.address).await.unwrap())
    }

    /// Waits until nothing that a client began goes on any more.
    async fn rests(&self) {
        self.shared.tasks.close();
        within(self.shared.tasks.wait()).await;
    }

    /// Sends one request on a connection of its own and reads to the end of the connection.
    async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut raw = self.connect().await;
        raw.send(request).await;
        raw.rest().await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A client that sends exactly what it is told.
struct Raw(TcpStream);

impl Raw {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends no more.
    async fn finish(&mut self) {
        // The other side may have ended the connection already.
        let _ = self.0.shutdown().await;
    }

    /// Everything until the connection ends.
    async fn rest(mut self) -> Answer {
        let mut bytes = Vec::new();
        let result = within(self.0.read_to_end(&mut bytes)).await;
        Answer {
            bytes,
            reset: result.is_err(),
        }
    }

    /// Reads until `end` has come.
    async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        within(async {
            while !String::from_utf8_lossy(&bytes).contains(end) {
                let mut chunk = vec![0; 4096];
                let read = self.0.read(&mut chunk).await.unwrap();
                assert!(
                    read > 0,
                    "ended before {end:?}: {}",
                    String::from_utf8_lossy(&bytes)
                );
                bytes.extend_from_slice(&chunk[..read]);
            }
        })
        .await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What came back on a connection.
#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    reset: bool,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn status(&self) -> u16 {
        let text = self.text();
        text.split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status in {text:?}"))
    }

    fn head(&self) -> String {
        let text = self.text();
        text.split("\r\n\r\n")
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
    }

    fn body(&self) -> String {
        self.text()
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default()
    }

    fn body_bytes(&self) -> usize {
        self.bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .map_or(0, |head| self.bytes.len() - head - 4)
    }

    fn header(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}: ");
        self.head()
            .lines()
            .find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }
}

/// An origin that is written out in a test: gets each connection, and its number.
struct Origin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Origin {
    async fn start<F, S>(serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(TcpStream) -> F + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address, task }
    }

    /// Reads one head, answers with these bytes, closes.
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |mut stream| {
            let answer = answer.clone();
            async move {
                let head = read_head(&mut stream).await;
                if head.starts_with("GET /health ") {
                    let _ = stream
                        .write_all(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                        )
                        .await;
                } else {
                    let _ = stream.write_all(&answer).await;
                }
                let _ = stream.shutdown().await;
            }
        })
        .await
    }
}

/// An origin that says when it is asked, and answers when it is told to.
struct Reluctant {
    origin: Origin,
    asked: mpsc::UnboundedReceiver<()>,
    answers: Arc<Semaphore>,
}

impl Reluctant {
    async fn start() -> Self {
        let (ask, asked) = mpsc::unbounded_channel();
        let answers = Arc::new(Semaphore::new(0));
        let leave = answers.clone();
        let origin = Origin::start(move |mut stream| {
            let (ask, leave) = (ask.clone(), leave.clone());
            async move {
                loop {
                    let head = read_head(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    if !head.starts_with("GET /health ") {
                        let _ = ask.send(());
                        leave.acquire().await.unwrap().forget();
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self {
            origin,
            asked,
            answers,
        }
    }

    /// Waits for the next request that is no probe.
    async fn asked(&mut self) {
        within(self.asked.recv()).await.unwrap();
    }

    /// One request gets its answer.
    fn answer(&self) {
        self.answers.add_permits(1);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request's head, or what came of it.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

async fn demo() -> Monolith {
    Monolith::start(MonolithOptions::default()).await.unwrap()
}

/// A test's patience: far more than anything here needs.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("did not happen in time")
}
