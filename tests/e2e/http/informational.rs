//! 1xx responses: `100 Continue` asked for and given by the monolith, others passed on.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use h2::{
    Reason,
    client::{ResponseFuture, SendRequest},
};
use http::{Method, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, mpsc},
};

use super::{Origin, Served, demo, read_head, within};

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

/// A client of HTTP/2 that shows informational responses, which hyper's does not.
async fn connect(served: &Served) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(served.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    within(sender.ready()).await.unwrap()
}

fn request(method: Method, path: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = format!("https://h{path}").parse().unwrap();
    request
}

/// The next informational response; `None` when the final one has come.
async fn informed(response: &mut ResponseFuture) -> Option<Response<()>> {
    let next = poll_fn(|cx| response.poll_informational(cx));
    within(next).await.transpose().unwrap()
}

async fn text(response: ResponseFuture) -> (u16, String) {
    let (head, mut body) = within(response).await.unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(data) = within(body.data()).await {
        text.extend_from_slice(&data.unwrap());
    }
    (head.status.as_u16(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn hints_reach_clients_of_http2_before_the_answer_is_there() {
    let answers = Arc::new(Semaphore::new(0));
    let leave = answers.clone();
    let origin = Origin::start(move |mut stream| {
        let leave = leave.clone();
        async move {
            if read_head(&mut stream).await.starts_with("GET /health ") {
                return;
            }
            let _ = stream.write_all(HINTS.repeat(2).as_bytes()).await;
            leave.acquire().await.unwrap().forget();
            let _ = stream.write_all(OK.as_bytes()).await;
        }
    })
    .await;
    let served = Served::start_http2(&[origin.address], |_| {}).await;
    let mut sender = connect(&served).await;
    let (mut response, _) = sender
        .send_request(request(Method::GET, "/"), true)
        .unwrap();
    for _ in 0..2 {
        let hint = informed(&mut response).await.unwrap();
        assert_eq!(hint.status(), 103);
        assert_eq!(hint.headers()["link"], "</a.css>; rel=preload");
        assert!(!hint.headers().contains_key("connection"));
    }
    answers.add_permits(1);
    assert_eq!(text(response).await, (200, "ok".to_owned()));
}

#[tokio::test]
async fn too_many_hints_are_not_passed_on() {
    let many = HINTS.repeat(100);
    let origin = Origin::answering(format!("{many}{OK}")).await;
    let served = Served::start_http2(&[origin.address], |_| {}).await;
    let mut sender = connect(&served).await;
    let (mut response, _) = sender
        .send_request(request(Method::GET, "/"), true)
        .unwrap();
    let mut hints = 0;
    while informed(&mut response).await.is_some() {
        hints += 1;
    }
    assert_eq!(hints, 16);
    assert_eq!(text(response).await, (200, "ok".to_owned()));
}

#[tokio::test]
async fn clients_of_http2_are_asked_for_the_body_too() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |_| {}).await;
    let mut sender = connect(&served).await;
    let mut upload = request(Method::POST, "/upload");
    upload
        .headers_mut()
        .insert("expect", "100-continue".parse().unwrap());
    upload
        .headers_mut()
        .insert("content-length", "5".parse().unwrap());
    let (mut response, mut body) = sender.send_request(upload, false).unwrap();
    let asked = informed(&mut response).await.unwrap();
    assert_eq!(asked.status(), 100);
    body.send_data("hello".into(), true).unwrap();
    let (status, text) = text(response).await;
    assert_eq!(status, 200);
    assert!(text.contains("\"bytes\":5"), "{text}");
}

#[tokio::test]
async fn a_body_that_was_reset_never_looks_complete() {
    let (say, mut said) = mpsc::unbounded_channel();
    let origin = Origin::start(move |mut stream| {
        let say = say.clone();
        async move {
            if !read_head(&mut stream).await.starts_with("POST") {
                return;
            }
            let mut piece = [0; 1024];
            while let Ok(read) = stream.read(&mut piece).await {
                let _ = say.send(String::from_utf8_lossy(&piece[..read]).into_owned());
                if read == 0 {
                    break;
                }
            }
            // A reset is an end as well.
            let _ = say.send(String::new());
        }
    })
    .await;
    let served = Served::start_http2(&[origin.address], |_| {}).await;
    let mut sender = connect(&served).await;
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let upload = request(Method::POST, "/upload");
        let (response, mut body) = sender.send_request(upload, false).unwrap();
        body.send_data("abc".into(), false).unwrap();
        let mut taken = String::new();
        while !taken.contains("abc") {
            taken += &within(said.recv()).await.unwrap();
        }
        body.send_reset(reason);
        drop(response);
        loop {
            let piece = within(said.recv()).await.unwrap();
            if piece.is_empty() {
                break;
            }
            taken += &piece;
        }
        // The chunk of no bytes is what would end it.
        assert!(!taken.contains("0\r\n\r\n"), "{reason:?}: {taken:?}");
        // Its second end, if the first one was orderly.
        while said.try_recv().is_ok() {}
        sender = within(sender.ready()).await.unwrap();
    }
}
