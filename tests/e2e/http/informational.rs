//! 1xx responses: `100 Continue` asked for and given by the monolith, others passed on.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Origin, Served, demo, read_head};

const HINTS: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-y\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn early_hints_come_before_the_answer() {
    let origin = Origin::answering(format!("{HINTS}{HINTS}{OK}")).await;
    let served = Served::start(&[origin.address]).await;
    let answer = served
        .ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .text();
    let parts: Vec<&str> = answer.split("\r\n\r\n").collect();
    assert!(
        parts[0].starts_with("HTTP/1.1 103 Early Hints\r\n"),
        "{answer}"
    );
    assert!(parts[0].contains("link: </a.css>; rel=preload"), "{answer}");
    assert!(!parts[0].contains("connection"), "{answer}");
    assert!(parts[1].starts_with("HTTP/1.1 103"), "{answer}");
    assert!(parts[2].starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(parts[3], "ok");
}

#[tokio::test]
async fn hints_are_not_held_back_until_the_answer() {
    let origin = Origin::start(|mut stream| async move {
        if read_head(&mut stream).await.starts_with("GET /health ") {
            return;
        }
        let _ = stream.write_all(HINTS.as_bytes()).await;
        std::future::pending::<()>().await;
    })
    .await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    raw.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    raw.until("rel=preload").await;
}

#[tokio::test]
async fn old_clients_get_none() {
    let origin = Origin::answering(format!("{HINTS}{OK}")).await;
    let served = Served::start(&[origin.address]).await;
    let answer = served.ask("GET / HTTP/1.0\r\nHost: h\r\n\r\n").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

#[tokio::test]
async fn pipelined_answers_stay_in_order() {
    let origin = Origin::start(|mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            let number = head.split(['/', ' ']).nth(2).unwrap_or("").to_owned();
            let answer = format!(
                "HTTP/1.1 103 Early Hints\r\nX-N: {number}\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-N: {number}\r\n\r\n{}",
                number.len() + 100_000,
                number.clone() + &"x".repeat(100_000)
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    let mut requests = String::new();
    for n in 0..20 {
        let close = if n == 19 { "Connection: close\r\n" } else { "" };
        requests.push_str(&format!("GET /{n} HTTP/1.1\r\nHost: h\r\n{close}\r\n"));
    }
    raw.send(requests).await;
    let text = raw.rest().await.text();
    let mut rest = text.as_str();
    for n in 0..20 {
        for status in [103, 200] {
            let (head, after) = rest.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}")),
                "{n}: {head}"
            );
            assert!(head.contains(&format!("x-n: {n}")), "{n}: {head}");
            rest = after;
        }
        rest = &rest[n.to_string().len() + 100_000..];
    }
    assert!(rest.is_empty());
}

#[tokio::test]
async fn the_body_is_asked_for_when_the_monolith_wants_it() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        .await;
    let first = raw.until("\r\n\r\n").await;
    assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("hello").await;
    let answer = raw.rest().await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body().contains("\"bytes\":5"), "{}", answer.text());
}

#[tokio::test]
async fn a_refusal_needs_no_body() {
    let origin = Origin::start(|mut stream| async move {
        let head = read_head(&mut stream).await;
        if head.starts_with("GET /health ") {
            return;
        }
        assert!(
            head.to_ascii_lowercase().contains("expect: 100-continue"),
            "{head}"
        );
        let long = "x".repeat(1_000_000);
        let answer = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: 1000000\r\n\r\n{long}");
        let _ = stream.write_all(answer.as_bytes()).await;
        let mut more = Vec::new();
        let _ = stream.read_to_end(&mut more).await;
        assert!(more.is_empty(), "a body that nobody asked for");
    })
    .await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    raw.send(
        "POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    let answer = raw.rest().await;
    assert_eq!(answer.status(), 401, "{}", answer.head());
    assert_eq!(answer.body_bytes(), 1_000_000);
}

#[tokio::test]
async fn unknown_expectations_are_refused() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let answer = served
        .ask("GET / HTTP/1.1\r\nHost: h\r\nExpect: a-miracle\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 417);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let origin = Origin::start(|mut stream| async move {
        if read_head(&mut stream).await.starts_with("GET /health ") {
            return;
        }
        let _ = stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
            .await;
        // Reads a little, so that its end is no reset.
        let mut sink = vec![0; 1 << 16];
        while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
        .await;
    raw.send(vec![b'x'; 2_999_999]).await;
    let text = raw.until("\r\n\r\nno").await;
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
}
