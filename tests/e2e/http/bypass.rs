//! Large answers that go from the monolith's socket to the client's past HTTP: what comes before, in
//! and after them is as if they had not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ddp_gateway::proxy::shared::Phase;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, mpsc},
};

use super::{Origin, Raw, Served, demo, read_head, within};

/// Large enough to go past HTTP, and no multiple of anything.
const LENGTH: usize = 3_000_017;

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n * 31 % 251).unwrap())
        .collect()
}

fn head(length: usize, more: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Length: {length}\r\n{more}\r\n"
    )
}

async fn healthy(stream: &mut TcpStream) {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let _ = stream.write_all(answer).await;
}

/// Answers every request on a connection with the same; counts the connections that clients' requests
/// came on.
async fn patient(answer: Vec<u8>) -> (Origin, Arc<AtomicUsize>) {
    let used = Arc::new(AtomicUsize::new(0));
    let (answer, count) = (Arc::new(answer), used.clone());
    let origin = Origin::start(move |mut stream| {
        let (answer, count) = (answer.clone(), count.clone());
        async move {
            let mut known = false;
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                if head.starts_with("GET /health ") {
                    healthy(&mut stream).await;
                    continue;
                }
                if !std::mem::replace(&mut known, true) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (origin, used)
}

/// Reads one answer to its end: its head, and its body.
async fn answer(raw: &mut Raw) -> (String, Vec<u8>) {
    let head = within(read_head(&mut raw.0)).await.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap_or_else(|| panic!("no length in {head:?}"))
        .parse()
        .unwrap();
    let mut body = vec![0; length];
    within(raw.0.read_exact(&mut body)).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn an_answer_is_whole_and_both_connections_go_on() {
    let mut sent = head(LENGTH, "X-Origin: yes\r\n").into_bytes();
    sent.extend(pattern(LENGTH));
    let (origin, connections) = patient(sent).await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    for _ in 0..3 {
        raw.send("GET /file HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let (head, body) = answer(&mut raw).await;
        assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
        assert!(head.contains("x-origin: yes\r\n"), "{head}");
        assert!(head.contains("date: sat, 21 nov 2026"), "{head}");
        assert!(body == pattern(LENGTH), "the body was changed");
    }
    assert!(served.shared.pipes.moved() > 0, "nothing went past HTTP");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_that_are_there_already_get_their_answers_in_order() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let mut raw = served.connect().await;
    // The first answer does not fit into the sockets, so that its end is still with hyper when the
    // second request is answered.
    for bytes in [200_000, 1_000_001, 77, 2_000_003, 1_500_000] {
        raw.send(format!(
            "GET /download?bytes={bytes} HTTP/1.1\r\nHost: h\r\n\r\n"
        ))
        .await;
    }
    raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    for bytes in [200_000, 1_000_001, 77, 2_000_003, 1_500_000] {
        let (head, body) = answer(&mut raw).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(body.len(), bytes);
    }
    let (_, body) = answer(&mut raw).await;
    assert!(String::from_utf8_lossy(&body).contains("monolith"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_a_reset() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let answer = served
        .ask("GET /cut?bytes=3000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 200);
    assert!(answer.reset, "an orderly end");
    served.rests().await;
}

#[tokio::test]
async fn what_follows_an_answer_uninvited_is_nobodys_answer() {
    let mut sent = head(LENGTH, "").into_bytes();
    sent.extend(pattern(LENGTH));
    sent.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    let (origin, connections) = patient(sent).await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    for _ in 0..2 {
        raw.send("GET /file HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let (_, body) = answer(&mut raw).await;
        assert!(body == pattern(LENGTH), "the body was changed");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_the_monolith_closes_is_not_used_again() {
    let mut sent = head(LENGTH, "Connection: close\r\n").into_bytes();
    sent.extend(pattern(LENGTH));
    let (origin, connections) = patient(sent).await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    for _ in 0..2 {
        raw.send("GET /file HTTP/1.1\r\nHost: h\r\n\r\n").await;
        answer(&mut raw).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

/// Sends the first half of a body, and the second when it is told to; says when a connection ended.
struct Halves {
    origin: Origin,
    second: Arc<Semaphore>,
    ended: mpsc::UnboundedReceiver<()>,
}

impl Halves {
    async fn start() -> Self {
        let second = Arc::new(Semaphore::new(0));
        let (say, ended) = mpsc::unbounded_channel();
        let go_on = second.clone();
        let origin = Origin::start(move |mut stream| {
            let (go_on, say) = (go_on.clone(), say.clone());
            async move {
                loop {
                    let request = read_head(&mut stream).await;
                    if request.is_empty() {
                        let _ = say.send(());
                        return;
                    }
                    if request.starts_with("GET /health ") {
                        healthy(&mut stream).await;
                        return;
                    }
                    let body = pattern(LENGTH);
                    let (first, rest) = body.split_at(LENGTH / 2);
                    let begun = [head(LENGTH, "").as_bytes(), first].concat();
                    if stream.write_all(&begun).await.is_err() {
                        continue;
                    }
                    tokio::select! {
                        permit = go_on.acquire() => permit.unwrap().forget(),
                        // Only the end of the connection can come now.
                        _ = stream.read_u8() => continue,
                    }
                    let _ = stream.write_all(rest).await;
                }
            }
        })
        .await;
        Self {
            origin,
            second,
            ended,
        }
    }

    /// A client that has got the first half.
    async fn client(&self, served: &Served) -> (Raw, Vec<u8>) {
        let mut raw = served.connect().await;
        raw.send("GET /file HTTP/1.1\r\nHost: h\r\n\r\n").await;
        within(read_head(&mut raw.0)).await;
        let mut body = vec![0; LENGTH / 2];
        within(raw.0.read_exact(&mut body)).await.unwrap();
        (raw, body)
    }
}

#[tokio::test]
async fn an_answer_under_way_is_finished_when_the_process_leaves() {
    let halves = Halves::start().await;
    let served = Served::start(&[halves.origin.address]).await;
    let (mut raw, mut body) = halves.client(&served).await;
    served.phase.send_replace(Phase::Draining);
    halves.second.add_permits(1);
    within(raw.0.read_to_end(&mut body)).await.unwrap();
    assert!(body == pattern(LENGTH), "the body was changed");
    served.rests().await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_monolith() {
    let mut halves = Halves::start().await;
    let served = Served::start(&[halves.origin.address]).await;
    let (raw, _) = halves.client(&served).await;
    drop(raw);
    within(halves.ended.recv()).await.unwrap();
    served.rests().await;
}

#[tokio::test]
async fn a_monolith_that_falls_silent_is_not_waited_for() {
    let halves = Halves::start().await;
    let served = Served::start_with(&[halves.origin.address], |config| {
        config.http.idle_timeout = Duration::from_millis(200);
    })
    .await;
    let (raw, _) = halves.client(&served).await;
    assert!(raw.rest().await.reset, "an orderly end");
    served.rests().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_not_waited_for() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.idle_timeout = Duration::from_millis(300);
        config.http.min_rate = 10 << 20;
    })
    .await;
    let mut raw = served.connect().await;
    raw.send("GET /download?bytes=90000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    within(read_head(&mut raw.0)).await;
    served.rests().await;
    let answer = raw.rest().await;
    assert!(answer.bytes.len() < 90_000_000);
}

#[tokio::test]
async fn what_must_stay_with_http_does() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    for request in [
        "GET /download?bytes=1000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /download?bytes=1000000 HTTP/1.0\r\nHost: h\r\n\r\n",
        "HEAD /download?bytes=1000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /download?bytes=1000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ] {
        let answer = served.ask(request).await;
        assert_eq!(answer.status(), 200);
        assert!(!answer.reset);
    }
    assert_eq!(served.shared.pipes.moved(), 0);
    let off = Served::start_with(&[monolith.address()], |config| config.http.splice = false).await;
    let mut raw = off.connect().await;
    raw.send("GET /download?bytes=1000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    answer(&mut raw).await;
    assert_eq!(off.shared.pipes.moved(), 0);
}
