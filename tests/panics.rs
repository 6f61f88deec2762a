//! A defect that panics in a live connection ends that connection, is counted and said once, and
//! disturbs nobody else.
//!
//! The gateway has no switch that makes it panic, so the defect comes from outside: this process's
//! recorder of metrics, which the gateway calls from within its tasks, panics once when it is armed. In
//! a binary of its own, because recorder and panic hook belong to a process.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

#[path = "support/mod.rs"]
mod support;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use ddp_gateway::telemetry;
use http_body_util::Empty;
use hyper::{Method, Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracing_subscriber::fmt::MakeWriter;

use support::{
    deployment::Deployment,
    http, settles,
    socket::{Client, End, Way},
    soon,
};

#[tokio::test]
async fn a_panic_in_one_connection_ends_only_that_connection() {
    let recorder = Recording::install();
    let lines = Lines::default();
    // For all threads: connections are carried by others than this one.
    tracing_subscriber::fmt()
        .json()
        .with_writer(lines.clone())
        .init();
    telemetry::panic::install();
    let deployment = Deployment::start().await;
    let plain = deployment.plain();

    // The neighbours.
    let mut page = TcpStream::connect(plain).await.unwrap();
    let request = b"GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(http::exchange(&mut page, request).await.status, 200);
    let mut chat = Client::sockjs(plain, Way::Plain).await;
    chat.streamer().await;
    deployment.sessions(1).await;
    let at_rest = recorder.held();

    // In the middle of a request, which is refused: no answer comes.
    let mut victim = TcpStream::connect(plain).await.unwrap();
    recorder.panics_in("http_refusals_total");
    victim
        .write_all(b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // It may end by a reset as well.
    let _ = soon("the end", victim.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    recorder.panicked(1, &lines);
    assert_eq!(http::exchange(&mut page, request).await.status, 200);
    chat.streamer().await;

    // The same on one stream of an HTTP/2 connection: the others do not notice.
    let stream = http::tls(deployment.tls(), "localhost", &["h2"])
        .await
        .unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let ask = |method: Method, path: &str| {
        let request = Request::builder().method(method);
        let request = request.uri(format!("https://localhost{path}"));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let neighbour = sender.send_request(ask(Method::GET, "/slow?ms=300"));
    let neighbour = tokio::spawn(neighbour);
    recorder.panics_in("http_refusals_total");
    let ended = soon("the end", sender.send_request(ask(Method::TRACE, "/"))).await;
    assert!(ended.is_err(), "{ended:?}");
    recorder.panicked(2, &lines);
    let neighbour = soon("the neighbour", neighbour).await.unwrap().unwrap();
    assert_eq!(neighbour.status(), 200);
    drop((sender, neighbour));

    // In a live session, with its message under way.
    let mut victim = Client::raw(deployment.tls(), Way::Tls).await;
    let streamer = victim.streamer().await;
    deployment.sessions(2).await;
    let streamers = &deployment.streamers;
    let streamer = streamers.iter().find(|one| one.name() == streamer).unwrap();
    let before = streamer.sessions();
    recorder.panics_in("session_messages_total");
    let call = json!({"msg": "method", "id": "last", "method": "demo:whoami", "params": []});
    victim.send(&call).await;
    assert_eq!(soon("the end", victim.end()).await, End::Cut);
    recorder.panicked(3, &lines);
    // Its registration and its leg are gone, and so is all that it held.
    deployment.sessions(1).await;
    settles("sessions of the streamer", before - 1, async || {
        streamer.sessions()
    })
    .await;
    settles("what is held", at_rest, async || recorder.held()).await;

    assert_eq!(http::exchange(&mut page, request).await.status, 200);
    chat.streamer().await;
    chat.close().await;
    // Newcomers are served as ever.
    Client::raw(plain, Way::Plain).await.close().await;
    assert_eq!(http::get(plain, "/demo/whoami").await.status, 200);
    recorder.panicked(3, &lines);
}

/// Metrics as the gateway's own recorder would show them, with traps in two counters.
#[derive(Clone)]
struct Recording {
    page: PrometheusHandle,
    traps: Arc<[Trap; 2]>,
}

struct Trap {
    name: &'static str,
    armed: AtomicBool,
}

impl Recording {
    fn install() -> Self {
        let inner = PrometheusBuilder::new().build_recorder();
        let trap = |name| Trap {
            name,
            armed: AtomicBool::new(false),
        };
        let recording = Self {
            page: inner.handle(),
            traps: Arc::new(["http_refusals_total", "session_messages_total"].map(trap)),
        };
        let recorder = Trapped {
            inner,
            traps: recording.traps.clone(),
        };
        assert!(metrics::set_global_recorder(recorder).is_ok());
        recording
    }

    /// The next one to count here panics.
    fn panics_in(&self, name: &str) {
        let trap = self.traps.iter().find(|trap| trap.name == name).unwrap();
        trap.armed.store(true, Ordering::SeqCst);
    }

    /// So many panics were counted, and each was said in one line.
    fn panicked(&self, times: usize, lines: &Lines) {
        assert_eq!(self.value("panics_total"), times.to_string());
        assert_eq!(lines.with("ended by a defect of the gateway"), times);
        let armed = |trap: &Trap| trap.armed.load(Ordering::SeqCst);
        assert!(!self.traps.iter().any(armed), "it came from elsewhere");
    }

    /// Gauges of what connections and sessions hold: their guards give it back, panic or not.
    fn held(&self) -> String {
        let page = self.page.render();
        let held = [
            "connections{",
            "http_requests_in_flight",
            "sessions{",
            "streamer_sessions{",
        ];
        let mut lines: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("ddp_gateway_"))
            .filter(|line| held.iter().any(|name| line.starts_with(name)))
            .collect();
        lines.sort_unstable();
        for name in held {
            let shown = lines.iter().any(|line| line.starts_with(name));
            assert!(shown, "no {name} in {page}");
        }
        lines.join("\n")
    }

    fn value(&self, name: &str) -> String {
        let prefix = format!("ddp_gateway_{name} ");
        let page = self.page.render();
        let value = page.lines().find_map(|line| line.strip_prefix(&prefix));
        value.unwrap_or("nothing").to_owned()
    }
}

struct Trapped {
    inner: PrometheusRecorder,
    traps: Arc<[Trap; 2]>,
}

impl Recorder for Trapped {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.inner.describe_counter(key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.inner.describe_gauge(key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.inner.describe_histogram(key, unit, text);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let inner = self.inner.register_counter(key, metadata);
        let is_trap = |trap: &Trap| key.name() == format!("ddp_gateway_{}", trap.name);
        match self.traps.iter().position(is_trap) {
            None => inner,
            Some(at) => Counter::from_arc(Arc::new(TrappedCounter {
                inner,
                traps: self.traps.clone(),
                at,
            })),
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.inner.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.inner.register_histogram(key, metadata)
    }
}

struct TrappedCounter {
    inner: Counter,
    traps: Arc<[Trap; 2]>,
    at: usize,
}

impl CounterFn for TrappedCounter {
    fn increment(&self, value: u64) {
        let trap = &self.traps[self.at];
        assert!(
            !trap.armed.swap(false, Ordering::SeqCst),
            "a defect made by a test in {}",
            trap.name
        );
        self.inner.increment(value);
    }

    fn absolute(&self, value: u64) {
        self.inner.absolute(value);
    }
}

/// What this thread logs, which is that of the gateway.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn with(&self, text: &str) -> usize {
        let log = self.0.lock().unwrap();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
