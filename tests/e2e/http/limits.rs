//! Too large, too slow, too long.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};

use super::{Origin, Served, demo, read_head, within};
use crate::support::http::read_answer;

const QUICK: Duration = Duration::from_millis(300);

#[tokio::test]
async fn large_bodies_are_refused_whether_announced_or_not() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.body_limit = 1000;
    })
    .await;
    let answer = served
        .ask("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 413, "{}", answer.text());
    assert_eq!(answer.header("connection").as_deref(), Some("close"));

    // A client that sends all the same, and a lot, gets to read the answer.
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
        .await;
    raw.send(vec![b'x'; 3_000_000]).await;
    let answer = raw.rest().await;
    assert_eq!(answer.status(), 413);
    assert!(!answer.reset);

    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for _ in 0..100 {
        raw.send("64\r\n").await;
        raw.send([b'x'; 100]).await;
        raw.send("\r\n").await;
    }
    raw.send("0\r\n\r\n").await;
    let answer = raw.rest().await;
    assert_eq!(answer.status(), 413, "{}", answer.text());

    let exact = format!(
        "POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{}",
        "x".repeat(1000)
    );
    assert_eq!(served.ask(exact).await.status(), 200);
}

#[tokio::test]
async fn large_heads_are_refused() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let answer = served
        .ask(format!(
            "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
            "x".repeat(1 << 20)
        ))
        .await;
    // The rest of a megabyte may still be under way when the connection ends.
    if !answer.bytes.is_empty() {
        assert_eq!(answer.status(), 431, "{}", answer.text());
    }
    let answer = served
        .ask(format!(
            "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
            "x".repeat(40_000)
        ))
        .await;
    assert_eq!(answer.status(), 431, "{}", answer.text());
    let many: String = (0..300).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let answer = served
        .ask(format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"))
        .await;
    assert_eq!(answer.status(), 431, "{}", answer.text());
}

#[tokio::test]
async fn a_trickling_head_is_ended() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.header_timeout = QUICK;
    })
    .await;
    // Nothing at all; a head without an end; one that begins after a request was served.
    let nothing = served.connect().await;
    let started = Instant::now();
    assert!(nothing.rest().await.bytes.is_empty());
    assert!(started.elapsed() >= QUICK);

    let mut raw = served.connect().await;
    raw.send("GET / HTTP/1.1\r\nHost: h\r\n").await;
    assert!(raw.rest().await.bytes.is_empty());

    let mut raw = served.connect().await;
    raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\nGET")
        .await;
    let answer = raw.rest().await;
    assert_eq!(answer.text().matches("HTTP/1.1").count(), 1);
}

#[tokio::test]
async fn an_idle_client_may_stay_longer_than_a_head_may_last() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.header_timeout = Duration::from_millis(50);
    })
    .await;
    let mut raw = served.connect().await;
    for _ in 0..3 {
        raw.send("GET /slow?ms=200 HTTP/1.1\r\nHost: h\r\n\r\n")
            .await;
        raw.until("slow, but here\n").await;
    }
    // The exchange with the other connection takes longer than the limit for heads.
    served
        .ask("GET /slow?ms=200 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    raw.until("\"monolith\"}").await;
}

#[tokio::test]
async fn a_trickling_body_is_refused() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.idle_timeout = QUICK;
    })
    .await;
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    let answer = raw.rest().await;
    assert_eq!(answer.status(), 408, "{}", answer.text());
}

#[tokio::test]
async fn a_silent_monolith_in_the_middle_of_a_body_cuts_it() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.idle_timeout = QUICK;
    })
    .await;
    let answer = served
        .ask("GET /trickle?count=3&ms=60000 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.text().ends_with("0\r\n\r\n"), "{}", answer.text());
}

#[tokio::test]
async fn the_whole_exchange_has_a_limit() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.request_timeout = Duration::from_secs(1);
    })
    .await;
    let answer = served
        .ask("GET /trickle?count=1000&ms=50 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.text().ends_with("0\r\n\r\n"));
    let answer = served
        .ask("GET /slow?ms=60000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 504, "{}", answer.text());
}

/// Sends a gigabyte to whoever takes it, and says when its connection ended.
struct Firehose {
    origin: Origin,
    flow: Flow,
    ended: mpsc::UnboundedReceiver<()>,
}

/// What one side of an exchange has sent, for the other one to compare.
#[derive(Clone, Default)]
struct Flow(Arc<watch::Sender<Sent>>);

#[derive(Default)]
struct Sent {
    bytes: u64,
    /// The last write found no room: everything on the way is full.
    held: bool,
}

impl Flow {
    /// Writes as much as is taken at once, and waits for room where there is none.
    async fn send(&self, stream: &mut (impl AsyncWrite + Unpin), bytes: u64) -> io::Result<()> {
        let chunk = vec![b'x'; PIECE];
        let mut left = bytes;
        while left > 0 {
            let piece = usize::try_from(left).unwrap().min(chunk.len());
            let written = poll_fn(|cx| {
                let written = Pin::new(&mut *stream).poll_write(cx, &chunk[..piece]);
                self.0.send_if_modified(|sent| {
                    let before = std::mem::replace(&mut sent.held, written.is_pending());
                    before != sent.held
                });
                written
            })
            .await?;
            left -= written as u64;
            self.0.send_modify(|sent| sent.bytes += written as u64);
        }
        Ok(())
    }

    /// Reads 100 MB at the other end, a piece at a time and each only while the sender is held back,
    /// and returns the largest lead that the sender ever had.
    ///
    /// It waits for the sender's own word and never for time to pass. If bytes pile up somewhere
    /// between the two, the sender goes on after each of its short waits and its lead grows by far
    /// more than the piece that was read; if not, the lead stays what the buffers hold.
    async fn lead(&self, stream: &mut (impl AsyncRead + Unpin)) -> u64 {
        let mut flow = self.0.subscribe();
        let mut piece = vec![0; PIECE];
        let (mut read, mut lead) = (0, 0);
        within(async {
            while read < 100_000_000 {
                let sent = flow.wait_for(|sent| sent.held).await.unwrap().bytes;
                lead = lead.max(sent.saturating_sub(read));
                let count = stream.read(&mut piece).await.unwrap();
                assert!(count > 0, "the connection ended after {read} bytes");
                read += count as u64;
            }
        })
        .await;
        lead
    }
}

impl Firehose {
    async fn start() -> Self {
        let flow = Flow::default();
        let (end, ended) = mpsc::unbounded_channel();
        let sending = flow.clone();
        let origin = Origin::start(move |mut stream| {
            let (end, sending) = (end.clone(), sending.clone());
            async move {
                if read_head(&mut stream).await.starts_with("GET /health ") {
                    return;
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = sending.send(&mut stream, GIGABYTE).await;
                let _ = end.send(());
            }
        })
        .await;
        Self {
            origin,
            flow,
            ended,
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_the_connection() {
    let mut firehose = Firehose::start().await;
    let served = Served::start_with(&[firehose.origin.address], |config| {
        config.http.idle_timeout = QUICK;
        config.http.min_rate = 10 << 20;
    })
    .await;
    let mut raw = served.connect().await;
    raw.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    raw.until("\r\n\r\n").await;
    within(firehose.ended.recv()).await.unwrap();
    served.rests().await;
}

#[tokio::test]
async fn a_stalled_http2_stream_is_reset_and_the_others_live() {
    let mut firehose = Firehose::start().await;
    let served = Served::start_http2(&[firehose.origin.address], |config| {
        config.http.idle_timeout = QUICK;
        config.http.min_rate = 10 << 20;
    })
    .await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let get = |path: &str| {
        Request::get(format!("https://h{path}"))
            .body(Full::new(Bytes::new()))
            .unwrap()
    };
    let stalled = within(sender.send_request(get("/x"))).await.unwrap();
    // Lives beside it, and takes what it gets.
    let mut lively = within(sender.send_request(get("/y")))
        .await
        .unwrap()
        .into_body();
    let mut taken = 0;
    tokio::select! {
        ended = firehose.ended.recv() => ended.unwrap(),
        () = async {
            while let Some(frame) = lively.frame().await {
                taken += frame.unwrap().data_ref().map_or(0, Bytes::len);
            }
        } => {}
    }
    assert!(taken > 0);
    let frame = within(lively.frame()).await.unwrap();
    assert!(frame.is_ok(), "{frame:?}");
    assert!(within(stalled.into_body().collect()).await.is_err());
}

#[tokio::test]
async fn a_slow_client_holds_the_monolith_back() {
    let firehose = Firehose::start().await;
    let served = Served::start(&[firehose.origin.address]).await;
    let mut raw = served.connect().await;
    raw.send("GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    raw.until("\r\n\r\n").await;
    let lead = firehose.flow.lead(&mut raw.0).await;
    assert!(lead < BUFFERS, "{lead} bytes ahead of a slow client");
}

#[tokio::test]
async fn a_slow_monolith_holds_the_client_back() {
    let flow = Flow::default();
    let (leads, mut led) = mpsc::unbounded_channel();
    let watched = flow.clone();
    let origin = Origin::start(move |mut stream| {
        let (leads, watched) = (leads.clone(), watched.clone());
        async move {
            if read_head(&mut stream).await.starts_with("POST") {
                leads.send(watched.lead(&mut stream).await).unwrap();
            }
        }
    })
    .await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 150000000\r\n\r\n")
        .await;
    let lead = tokio::select! {
        // It ends early when the monolith has seen enough and closes.
        _ = flow.send(&mut raw.0, 150_000_000) => within(led.recv()).await,
        lead = led.recv() => lead,
    };
    let lead = lead.unwrap();
    assert!(lead < BUFFERS, "{lead} bytes ahead of a slow monolith");
}

#[tokio::test]
async fn a_monolith_that_takes_no_body_is_given_up() {
    let origin = Origin::start(|mut stream| async move {
        if read_head(&mut stream).await.starts_with("POST") {
            // Takes the head and nothing else.
            std::future::pending::<()>().await;
        }
    })
    .await;
    let served = Served::start_with(&[origin.address], |config| {
        config.http.idle_timeout = QUICK;
    })
    .await;
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 150000000\r\n\r\n")
        .await;
    let (mut read, mut write) = raw.0.split();
    let answer = within(async {
        tokio::select! {
            // The gateway reads no more at some point, and may reset the connection later.
            _ = async {
                let _ = Flow::default().send(&mut write, 150_000_000).await;
                std::future::pending::<()>().await;
            } => unreachable!("never ends"),
            answer = read_answer(&mut read, false) => answer,
        }
    })
    .await;
    assert_eq!(answer.status, 504, "{}", answer.text());
}

const GIGABYTE: u64 = 1_000_000_000;
const PIECE: usize = 64 * 1024;
/// More than the buffers of two connections hold, and far less than what is sent.
const BUFFERS: u64 = 30_000_000;
