//! Peers that break the rules: each gets a clear answer and is counted, nothing is left of it, and
//! those who chat meanwhile notice nothing.

mod floods;
mod frames;
mod handshakes;
mod heads;
mod streamers;

use std::{collections::BTreeMap, net::SocketAddr, panic, time::Duration};

use ddp_gateway::telemetry;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, join, sink, split},
    net::TcpStream,
    task::JoinHandle,
    time::interval,
};

use crate::support::{
    deployment::{Deployment, Plan},
    http, settles,
    socket::{Client, Stream, Way},
    soon,
};

/// A gateway, and two who chat through it while others misbehave.
struct Scene {
    deployment: Deployment,
    neighbours: [Client; 2],
}

impl Scene {
    async fn start(tables: &str) -> Self {
        Self::of(Plan {
            tables: tables.to_owned(),
            ..Plan::default()
        })
        .await
    }

    async fn of(plan: Plan) -> Self {
        // On the heap: a future that holds a whole configuration is large.
        let deployment = Box::pin(Deployment::of(plan)).await;
        count_panics();
        let neighbours = [
            Client::raw(deployment.plain(), Way::Plain).await,
            Client::sockjs(deployment.tls(), Way::Tls).await,
        ];
        Self {
            deployment,
            neighbours,
        }
    }

    /// Waits until a counter has this value.
    async fn counted(&self, name: &str, labels: &[(&str, &str)], value: u32) {
        let what = format!("{name} {labels:?}");
        settles(&what, f64::from(value), async || {
            self.deployment.metrics().await.sum(name, labels)
        })
        .await;
    }

    /// Waits until so many sessions have ended for these reasons.
    async fn closed(&self, reasons: &BTreeMap<&str, u32>) {
        for (reason, count) in reasons {
            self.counted("sessions_closed_total", &[("reason", reason)], *count)
                .await;
        }
    }

    /// Those who were here before still chat, and they are all that is left.
    async fn undisturbed(&mut self) {
        for neighbour in &mut self.neighbours {
            let answer = neighbour.call("demo:echo", json!(["still here"])).await;
            assert_eq!(answer["result"], "still here");
        }
        self.deployment.sessions(self.neighbours.len()).await;
        settles(
            "sockets on the streamers",
            self.neighbours.len(),
            async || {
                let sessions = self.deployment.streamers.iter().map(|s| s.sessions());
                sessions.sum::<usize>()
            },
        )
        .await;
        let metrics = self.deployment.metrics().await;
        assert!(metrics.has("panics_total"), "{}", metrics.text());
        assert_eq!(metrics.sum("panics_total", &[]), 0.0);
        settles("bytes that wait for somebody", 0.0, async || {
            self.deployment.metrics().await.sum("backlog_bytes", &[])
        })
        .await;
    }
}

/// Panics are counted as in the program, and still printed, so that a test that fails says why.
fn count_panics() {
    let print = panic::take_hook();
    telemetry::panic::install();
    let count = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        count(panic);
        print(panic);
    }));
}

/// A client that writes bytes.
struct Peer {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl Peer {
    fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            read: Vec::new(),
        }
    }

    async fn plain(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    async fn connect(deployment: &Deployment, way: Way) -> Self {
        match way {
            Way::Plain => Self::plain(deployment.plain()).await,
            Way::Tls => {
                let tls = http::tls(deployment.tls(), "localhost", &["http/1.1"]);
                Self::new(soon("a TLS handshake", tls).await.unwrap())
            }
        }
    }

    /// Sends `head` and, in the same write, `frames`; reads the 101.
    async fn upgraded(deployment: &Deployment, way: Way, path: &str, frames: &[u8]) -> Self {
        let mut peer = Self::connect(deployment, way).await;
        let mut bytes = upgrade(path).into_bytes();
        bytes.extend_from_slice(frames);
        peer.send(&bytes).await;
        let head = peer.until(b"\r\n\r\n").await;
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", shown(&head));
        peer
    }

    /// A session that a streamer has taken.
    async fn live(deployment: &Deployment, way: Way, path: &str) -> Self {
        let connect = match path {
            "/websocket" => CONNECT.to_owned(),
            _ => json!([CONNECT]).to_string(),
        };
        let mut peer = Self::upgraded(deployment, way, path, &text(connect.as_bytes())).await;
        peer.message("connected").await;
        peer
    }

    /// Sends what the gateway still takes.
    async fn send(&mut self, bytes: &[u8]) {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let _ = soon("sending", sending).await;
    }

    /// Sends one after the other for as long as they are taken, while the peer that is returned
    /// reads.
    fn flooding(
        self,
        pieces: impl Iterator<Item = Vec<u8>> + Send + 'static,
    ) -> (Self, JoinHandle<()>) {
        let (read, mut write) = split(self.stream);
        let sending = async move {
            for piece in pieces {
                if write.write_all(&piece).await.is_err() {
                    break;
                }
            }
        };
        let peer = Self {
            stream: Box::new(join(read, sink())),
            read: self.read,
        };
        (peer, tokio::spawn(sending))
    }

    /// Sends `byte` every now and then, while the peer that is returned reads.
    fn dripping(self, byte: u8) -> (Self, JoinHandle<()>) {
        let (read, mut write) = split(self.stream);
        let sending = async move {
            let mut drops = interval(Duration::from_millis(20));
            while write.write_all(&[byte]).await.is_ok() {
                drops.tick().await;
            }
        };
        let peer = Self {
            stream: Box::new(join(read, sink())),
            read: self.read,
        };
        (peer, tokio::spawn(sending))
    }

    /// Reads more; false when there will be no more.
    async fn fill(&mut self) -> bool {
        let reading = self.stream.read_buf(&mut self.read);
        soon("an answer", reading)
            .await
            .is_ok_and(|count| count > 0)
    }

    /// Everything up to and with `end`.
    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let at = self.read.windows(end.len()).position(|here| here == end);
            if let Some(at) = at {
                return self.read.drain(..at + end.len()).collect();
            }
            assert!(self.fill().await, "cut after {}", shown(&self.read));
        }
    }

    /// All that comes until the connection ends.
    async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.read)
    }

    /// The next frame: its first byte and its payload. `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((first, start, end)) = whole_frame(&self.read) {
                let payload = self.read[start..end].to_vec();
                self.read.drain(..end);
                return Some((first, payload));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Waits for a message with this in it.
    async fn message(&mut self, part: &str) -> String {
        loop {
            let (first, payload) = self.frame().await.expect("a message before the end");
            let text = String::from_utf8_lossy(&payload).into_owned();
            assert_ne!(first, 0x88, "closed before {part}: {payload:?}");
            if first == 0x81 && text.contains(part) {
                return text;
            }
        }
    }

    /// The code of the close frame, behind which nothing may come; `None` when the connection ends
    /// without one.
    async fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.frame().await {
            if first == 0x88 {
                let rest = self.rest().await;
                assert!(rest.is_empty(), "after the close: {rest:?}");
                return Some(
                    payload
                        .first_chunk()
                        .map_or(1005, |c| u16::from_be_bytes(*c)),
                );
            }
        }
        None
    }
}

/// First byte, start and end of the payload of an unmasked frame.
fn whole_frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length): (usize, usize) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?)),
        ),
        127 => {
            let length = u64::from_be_bytes(*bytes.get(2..10)?.first_chunk()?);
            (10, usize::try_from(length).unwrap())
        }
        short => (2, usize::from(short)),
    };
    let end = start.checked_add(length).unwrap();
    (bytes.len() >= end).then_some((first, start, end))
}

/// A client's frame with this first byte, its length in the shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(&KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(0x81, payload)
}

/// The head of a good handshake.
fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Bytes for a message, cut to what one can read.
fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(300)];
    format!("{:?}", String::from_utf8_lossy(start))
}

const CONNECT: &str = r#"{"msg":"connect","version":"1","support":["1"]}"#;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
