//! Streamers that pass their probes and fail their clients.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ddp_gateway::ws::handshake::accept_key;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::AbortHandle,
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{CONNECT, Peer, Scene, count_panics, frame, text};
use crate::support::{
    deployment::{Deployment, Plan},
    settles,
    socket::{Client, Way},
    soon, until,
};

/// What a streamer does to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trick {
    /// Before the handshake is over.
    Hangup,
    NotHttp,
    Unavailable,
    WrongAccept,
    Extension,
    HugeHead,
    EndlessHead,
    HalfHead,
    /// After the handshake and before `connected`.
    Silence,
    Garbage,
    Masked,
    Close,
    NotDdp,
    Failed,
    EndlessGreeting,
    EndlessPings,
    HugeMessage,
    /// After `connected`: these bytes, and then this.
    Live(&'static [u8], Ending),
    /// After `connected`: pings without end, and nothing is ever read.
    PingFlood,
    /// After `connected`: reads nothing until it is told to, and then [`UPLOAD`].
    LateReader,
    /// After `connected`: one message of so many bytes.
    Download(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    /// Waits for the gateway.
    Open,
    /// Closes its connection.
    Fin,
    Reset,
}

impl Trick {
    const BEFORE: [Self; 17] = [
        Self::Hangup,
        Self::NotHttp,
        Self::Unavailable,
        Self::WrongAccept,
        Self::Extension,
        Self::HugeHead,
        Self::EndlessHead,
        Self::HalfHead,
        Self::Silence,
        Self::Garbage,
        Self::Masked,
        Self::Close,
        Self::NotDdp,
        Self::Failed,
        Self::EndlessGreeting,
        Self::EndlessPings,
        Self::HugeMessage,
    ];
}

/// A streamer that is well when it is probed.
struct Hostile {
    address: SocketAddr,
    seen: Arc<Seen>,
    accepting: AbortHandle,
}

struct Seen {
    trick: Mutex<Trick>,
    /// Sessions that came, and that are still open.
    sessions: AtomicUsize,
    open: AtomicUsize,
    /// Tells a [`Trick::LateReader`] to go on.
    go: Notify,
}

impl Hostile {
    async fn start(trick: Trick) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            trick: Mutex::new(trick),
            sessions: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            go: Notify::new(),
        });
        let serving = seen.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = serving.clone();
                // It ends as it likes; the gateway's side is what is tested.
                tokio::spawn(async move { seen.serve(stream).await });
            }
        });
        Self {
            address,
            seen,
            accepting: accepting.abort_handle(),
        }
    }

    fn sessions(&self) -> usize {
        self.seen.sessions.load(Ordering::SeqCst)
    }

    /// Waits until the gateway has let go of all its sessions here.
    async fn left(&self) {
        settles("legs on a hostile streamer", 0, async || {
            self.seen.open.load(Ordering::SeqCst)
        })
        .await;
    }

    fn set(&self, trick: Trick) {
        *self.seen.trick.lock().unwrap() = trick;
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Seen {
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).unwrap();
            if head.starts_with("GET /health ") {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await.ok()?;
                continue;
            }
            let key = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .starts_with("sec-websocket-key: ")
                        .then(|| &line[19..])
                })
                .unwrap()
                .to_owned();
            if head
                .to_ascii_lowercase()
                .contains("user-agent: ddp-gateway-probe")
            {
                return behave(stream, &key).await;
            }
            self.sessions.fetch_add(1, Ordering::SeqCst);
            self.open.fetch_add(1, Ordering::SeqCst);
            let trick = *self.trick.lock().unwrap();
            let _ = misbehave(&mut stream, &key, trick, &self.go).await;
            // Until the gateway has closed its side as well.
            let mut rest = [0; 4096];
            while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
            self.open.fetch_sub(1, Ordering::SeqCst);
            return Some(());
        }
    }
}

/// Bytes that a client sends to a [`Trick::LateReader`].
const UPLOAD: usize = 16 * 1024 * 1024;

/// A text frame of 1000 bytes, cut after 600.
const HALF_FRAME: [u8; 604] = {
    let mut bytes = [b'x'; 604];
    bytes[0] = 0x81;
    bytes[1] = 126;
    bytes[2] = 0x03;
    bytes[3] = 0xe8;
    bytes
};

fn switching(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n"
    )
}

/// As a streamer should.
async fn behave(mut stream: TcpStream, key: &str) -> Option<()> {
    let head = switching(&accept_key(key)) + "\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    socket
        .send(Message::text(r#"{"server_id":"0"}"#))
        .await
        .ok()?;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() {
            let connected = json!({"msg": "connected", "session": "probe"});
            socket
                .send(Message::text(connected.to_string()))
                .await
                .ok()?;
        }
    }
    Some(())
}

/// An unmasked frame.
fn server_text(payload: &str) -> Vec<u8> {
    let mut bytes = vec![0x81, u8::try_from(payload.len()).unwrap()];
    bytes.extend_from_slice(payload.as_bytes());
    bytes
}

async fn misbehave(
    stream: &mut TcpStream,
    key: &str,
    trick: Trick,
    go: &Notify,
) -> std::io::Result<()> {
    let good = switching(&accept_key(key));
    match trick {
        Trick::Hangup => return stream.shutdown().await,
        Trick::NotHttp => return stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await,
        Trick::Unavailable => {
            let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            return stream.write_all(answer).await;
        }
        Trick::WrongAccept => {
            let head = switching(&accept_key("dGhlIHNhbXBsZSBub25jZQ==")) + "\r\n";
            return stream.write_all(head.as_bytes()).await;
        }
        Trick::Extension => {
            let head = good + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
            return stream.write_all(head.as_bytes()).await;
        }
        Trick::HugeHead => {
            let head = format!("{good}X-Long: {}\r\n\r\n", "x".repeat(100_000));
            return stream.write_all(head.as_bytes()).await;
        }
        Trick::EndlessHead => {
            stream.write_all(good.as_bytes()).await?;
            loop {
                stream
                    .write_all(&b"X-More: of this\r\n".repeat(100))
                    .await?;
            }
        }
        Trick::HalfHead => return stream.write_all(&good.as_bytes()[..50]).await,
        _ => {}
    }
    stream.write_all((good + "\r\n").as_bytes()).await?;
    match trick {
        Trick::Silence => return Ok(()),
        Trick::Garbage => return stream.write_all(&[0xff; 1000]).await,
        Trick::Masked => return stream.write_all(&text(br#"{"server_id":"0"}"#)).await,
        Trick::Close => return stream.write_all(b"\x88\x02\x03\xf3").await,
        Trick::NotDdp => return stream.write_all(&server_text("hello")).await,
        Trick::Failed => {
            let failed = r#"{"msg":"failed","version":"1"}"#;
            return stream.write_all(&server_text(failed)).await;
        }
        Trick::EndlessGreeting => loop {
            let greeting = server_text(r#"{"msg":"ping"}"#).repeat(100);
            stream.write_all(&greeting).await?;
        },
        Trick::EndlessPings => loop {
            stream.write_all(&b"\x89\x00".repeat(1000)).await?;
        },
        Trick::HugeMessage => {
            return stream
                .write_all(b"\x81\x7f\x00\x00\x00\x00\xff\xff\xff\xff")
                .await;
        }
        _ => {}
    }
    stream
        .write_all(&server_text(r#"{"server_id":"0"}"#))
        .await?;
    let mut read = Vec::new();
    // The client's frame is masked, so only its length tells that it is complete.
    while read.len() < text(CONNECT.as_bytes()).len() {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
    let connected = r#"{"msg":"connected","session":"hostile"}"#;
    stream.write_all(&server_text(connected)).await?;
    match trick {
        Trick::Live(bytes, ending) => {
            stream.write_all(bytes).await?;
            match ending {
                Ending::Open => Ok(()),
                Ending::Fin => stream.shutdown().await,
                Ending::Reset => {
                    socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
                    stream.shutdown().await
                }
            }
        }
        Trick::LateReader => {
            go.notified().await;
            let mut left = UPLOAD;
            let mut bytes = vec![0; 64 * 1024];
            while left > 0 {
                match stream.read(&mut bytes).await? {
                    0 => return Ok(()),
                    count => left = left.saturating_sub(count),
                }
            }
            stream.write_all(&server_text("all of it was read")).await
        }
        Trick::Download(length) => {
            let mut header = vec![0x81, 127];
            header.extend_from_slice(&(length as u64).to_be_bytes());
            stream.write_all(&header).await?;
            stream.write_all(&vec![b'x'; length]).await?;
            stream.write_all(&server_text("that was all")).await
        }
        _ => {
            for _ in 0..2000 {
                stream.write_all(b"\x89\x7d").await?;
                stream.write_all(&[b'x'; 125]).await?;
            }
            stream
                .write_all(&server_text(r#"{"msg":"the last ping was sent"}"#))
                .await
        }
    }
}

#[tokio::test]
async fn a_streamer_that_fails_to_attach_is_passed_over_and_reported() {
    let mut hostile = Vec::new();
    for trick in Trick::BEFORE {
        hostile.push((trick, Hostile::start(trick).await));
    }
    let mut scene = Scene::of(Plan {
        streamers: 1,
        foreign: hostile
            .iter()
            .map(|(_, streamer)| streamer.address)
            .collect(),
        tables: "[pool]\nattach_timeout = \"1s\"\nslow_start = \"0s\"\n\
                 [health]\nmax_ejected = 0\n"
            .to_owned(),
        ..Plan::default()
    })
    .await;
    let plain = scene.deployment.plain();
    // Each tries one hostile streamer after the other until it comes to the honest one.
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(Client::raw(plain, Way::Plain)))
        .collect();
    for client in clients {
        let mut client = soon("an honest streamer", client).await.unwrap();
        assert_eq!(client.streamer().await, "streamer-1");
        client.close().await;
    }
    for (trick, streamer) in &hostile {
        assert!(streamer.sessions() > 0, "{trick:?} was never tried");
        streamer.left().await;
    }
    let metrics = scene.deployment.metrics().await;
    for reason in ["handshake", "timeout", "reset"] {
        let failures = metrics.sum("streamer_failures_total", &[("reason", reason)]);
        assert!(failures >= 1.0, "{reason}: {failures}");
    }
    assert!(metrics.sum("streamer_transitions_total", &[("to", "degraded")]) >= 1.0);
    scene.undisturbed().await;
}

#[tokio::test]
async fn where_every_streamer_fails_the_client_waits_only_so_long() {
    let hostile = Hostile::start(Trick::WrongAccept).await;
    let deployment = Deployment::of(Plan {
        streamers: 0,
        foreign: vec![hostile.address],
        tables: "[pool]\nqueue_wait = \"1s\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    count_panics();
    for path in ["/websocket", "/sockjs/1/waits/websocket"] {
        let connect = match path {
            "/websocket" => CONNECT.to_owned(),
            _ => json!([CONNECT]).to_string(),
        };
        let bytes = text(connect.as_bytes());
        let mut peer = Peer::upgraded(&deployment, Way::Plain, path, &bytes).await;
        assert_eq!(peer.close_code().await, Some(1013), "{path}");
    }
    assert!(hostile.sessions() >= 2);
    deployment.sessions(0).await;
    hostile.left().await;
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("panics_total", &[]), 0.0);
    assert_eq!(
        metrics.sum("sessions_closed_total", &[("reason", "no_capacity")]),
        2.0
    );
}

#[tokio::test]
async fn a_streamer_that_fails_a_live_session_ends_only_that() {
    use Ending::{Fin, Open, Reset};
    let hostile = Hostile::start(Trick::Silence).await;
    let deployment = Deployment::of(Plan {
        streamers: 0,
        foreign: vec![hostile.address],
        ..Plan::default()
    })
    .await;
    count_panics();
    // One that nothing is done to.
    hostile.set(Trick::Live(b"", Open));
    let mut neighbour = Peer::live(&deployment, Way::Tls, "/websocket").await;

    let protocol = "streamer_protocol";
    let closed = "streamer_closed";
    let lost = "streamer_lost";
    let mut reasons = BTreeMap::new();
    for (bytes, ending, code, reason) in [
        (
            &b"\x81\x85\x00\x00\x00\x00hello"[..],
            Open,
            Some(1012),
            protocol,
        ),
        (&[0xff; 1000], Open, Some(1012), protocol),
        (b"\xc1\x05hello", Open, Some(1012), protocol),
        (b"\x83\x05hello", Open, Some(1012), protocol),
        (b"\x80\x05hello", Open, Some(1012), protocol),
        (b"\x09\x00", Open, Some(1012), protocol),
        (
            b"\x81\x7f\x00\x00\x00\xff\xff\xff\xff\xff",
            Open,
            Some(1012),
            protocol,
        ),
        (b"\x88\x01\x03", Open, Some(1012), protocol),
        (b"\x88\x02\x03\xed", Open, Some(1012), protocol),
        (b"\x88\x00", Open, Some(1001), closed),
        (b"\x88\x02\x0f\xa1", Open, Some(4001), closed),
        (b"\x88\x02\x0f\xa0", Open, Some(1001), "streamer_timeout"),
        (b"", Fin, Some(1012), lost),
        (b"", Reset, Some(1012), lost),
        (b"\x81", Fin, Some(1012), lost),
        // The client has the first half of a frame, so nothing can be said to it any more.
        (&HALF_FRAME, Fin, None, lost),
        (&HALF_FRAME, Reset, None, lost),
        // So little of it came that the client has not seen it.
        (&HALF_FRAME[..100], Fin, Some(1012), lost),
        (b"\x01\x05hello", Fin, Some(1012), lost),
    ] {
        hostile.set(Trick::Live(bytes, ending));
        let mut peer = Peer::live(&deployment, Way::Plain, "/websocket").await;
        assert_eq!(peer.close_code().await, code, "{bytes:?} and {ending:?}");
        *reasons.entry(reason).or_insert(0_u32) += 1;
    }
    for (reason, count) in reasons {
        settles(reason, f64::from(count), async || {
            let metrics = deployment.metrics().await;
            metrics.sum("sessions_closed_total", &[("reason", reason)])
        })
        .await;
    }

    // What is no DDP is none of the gateway's business in a live session: the client gets it.
    hostile.set(Trick::Live(b"\x81\x05hello\x81\x04last", Open));
    let mut peer = Peer::live(&deployment, Way::Plain, "/websocket").await;
    assert_eq!(peer.message("hello").await, "hello");
    peer.message("last").await;
    drop(peer);

    // Pings are answered no faster than the answers are read.
    hostile.set(Trick::PingFlood);
    let mut peer = Peer::live(&deployment, Way::Plain, "/websocket").await;
    peer.message("the last ping was sent").await;
    drop(peer);

    deployment.sessions(1).await;
    let metrics = deployment.metrics().await;
    let failures = |reason| metrics.sum("streamer_failures_total", &[("reason", reason)]);
    // Every session that it broke counts against it, not only those that it cut.
    assert_eq!(failures("reset"), 16.0);
    assert_eq!(metrics.sum("panics_total", &[]), 0.0);
    neighbour.send(&frame(0x89, b"still here")).await;
    assert_eq!(
        neighbour.frame().await,
        Some((0x8a, b"still here".to_vec()))
    );
    drop(neighbour);
    deployment.sessions(0).await;
    hostile.left().await;
}

#[tokio::test]
async fn who_reads_late_gets_everything_at_once() {
    let hostile = Hostile::start(Trick::LateReader).await;
    let deployment = Deployment::of(Plan {
        streamers: 0,
        foreign: vec![hostile.address],
        tables: "[limits]\nbytes = \"1GiB/s\"\nbytes_burst = \"1GiB\"\n\
                 messages = \"10000/s\"\nmessages_burst = 10000\n"
            .to_owned(),
        ..Plan::default()
    })
    .await;
    let waiting = async |bytes: f64| deployment.metrics().await.sum("backlog_bytes", &[]) >= bytes;

    // Both sockets' buffers are full, and the gateway keeps what the streamer does not take.
    let peer = Peer::live(&deployment, Way::Plain, "/websocket").await;
    // A streamer ignores it, whatever its size.
    let ignored = format!(r#"{{"msg":"pong","x":"{}"}}"#, "x".repeat(64 * 1024));
    let message = text(ignored.as_bytes());
    let messages = UPLOAD / message.len() + 1;
    let (mut peer, sending) = peer.flooding(std::iter::repeat_n(message, messages));
    until("bytes wait for the streamer", async || waiting(1.0).await).await;
    let started = Instant::now();
    hostile.seen.go.notify_one();
    peer.message("all of it was read").await;
    assert!(started.elapsed() < LULL, "{:?}", started.elapsed());
    soon("the upload", sending).await.unwrap();
    drop(peer);
    deployment.sessions(0).await;

    // The same the other way: the client begins to read when the gateway has stopped to.
    hostile.set(Trick::Download(UPLOAD));
    let mut peer = Peer::live(&deployment, Way::Plain, "/websocket").await;
    until("bytes wait for the client", async || {
        waiting(f64::from(1 << 20)).await
    })
    .await;
    let started = Instant::now();
    peer.until(b"that was all").await;
    assert!(started.elapsed() < LULL, "{:?}", started.elapsed());
    drop(peer);
    deployment.sessions(0).await;
    hostile.left().await;
}

/// Timers of the gateway come later than this, so that they cannot be what makes bytes move on.
const LULL: Duration = Duration::from_secs(10);
