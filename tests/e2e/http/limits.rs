//! Too large, too slow, too long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::{Origin, Served, demo, read_head, within};

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

/// Sends a gigabyte to whoever takes it, counts, and says when its connection ended.
struct Firehose {
    origin: Origin,
    sent: Arc<AtomicU64>,
    ended: mpsc::UnboundedReceiver<()>,
}

impl Firehose {
    async fn start() -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (end, ended) = mpsc::unbounded_channel();
        let counter = sent.clone();
        let origin = Origin::start(move |mut stream| {
            let (end, counter) = (end.clone(), counter.clone());
            async move {
                if read_head(&mut stream).await.starts_with("GET /health ") {
                    return;
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let chunk = vec![b'x'; 64 * 1024];
                let mut left = GIGABYTE;
                while left > 0 {
                    let piece = usize::try_from(left).unwrap().min(chunk.len());
                    if stream.write_all(&chunk[..piece]).await.is_err() {
                        break;
                    }
                    left -= piece as u64;
                    counter.fetch_add(piece as u64, Ordering::Relaxed);
                }
                let _ = end.send(());
            }
        })
        .await;
        Self {
            origin,
            sent,
            ended,
        }
    }

    /// Bytes sent once no more are taken.
    async fn settled(&self) -> u64 {
        within(async {
            let mut last = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let sent = self.sent.load(Ordering::Relaxed);
                if sent == last && sent > 0 {
                    return sent;
                }
                last = sent;
            }
        })
        .await
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
    within(async {
        while !served.shared.tasks.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
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
    let sent = firehose.settled().await;
    assert!(
        sent < 30_000_000,
        "{sent} bytes for a client that reads none"
    );
    // And goes on when the client does.
    let mut chunk = vec![0; 1 << 20];
    within(async {
        while firehose.sent.load(Ordering::Relaxed) < sent + 50_000_000 {
            assert!(raw.0.read(&mut chunk).await.unwrap() > 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_monolith_holds_the_client_back() {
    let origin = Origin::start(|mut stream| async move {
        if read_head(&mut stream).await.starts_with("POST") {
            // Takes the head and nothing else.
            std::future::pending::<()>().await;
        }
    })
    .await;
    let served = Served::start_with(&[origin.address], |config| {
        config.http.idle_timeout = Duration::from_secs(2);
    })
    .await;
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 150000000\r\n\r\n")
        .await;
    let chunk = vec![b'x'; 64 * 1024];
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), raw.0.write(&chunk)).await {
        taken += written.unwrap();
    }
    assert!(
        taken < 30_000_000,
        "{taken} bytes for a monolith that reads none"
    );
    let answer = raw.rest().await;
    assert_eq!(answer.status(), 504, "{}", answer.text());
}

const GIGABYTE: u64 = 1_000_000_000;
