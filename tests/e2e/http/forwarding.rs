//! What the monolith gets and what the client gets.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ddp_gateway::config::model::Ranges;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Answer, Origin, Served, demo, read_head, within};

fn echoed(answer: &Answer) -> (Value, Vec<(String, String)>) {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let value: Value = serde_json::from_str(&answer.body()).unwrap();
    let headers = value["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| {
            (
                pair[0].as_str().unwrap().to_owned(),
                pair[1].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    (value, headers)
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

#[tokio::test]
async fn the_monolith_sees_the_client_and_not_the_hop() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let answer = served
        .ask(
            "GET /a/../echo?x=%2e%2e HTTP/1.1\r\nHost: Chat.Example:8443\r\nConnection: close, x-hop\r\n\
             X-Hop: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             X-Forwarded-Proto: https\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\n\
             TE: gzip, trailers\r\nX-Request-Id: spoofed\r\nCookie: rc_token=a\r\n\r\n",
        )
        .await;
    let (value, headers) = echoed(&answer);
    assert_eq!(value["target"], "/echo?x=%2e%2e");
    assert_eq!(find(&headers, "host"), Some("Chat.Example:8443"));
    assert_eq!(find(&headers, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(find(&headers, "x-real-ip"), Some("127.0.0.1"));
    assert_eq!(find(&headers, "x-forwarded-proto"), Some("http"));
    assert_eq!(
        find(&headers, "x-forwarded-host"),
        Some("Chat.Example:8443")
    );
    assert_eq!(find(&headers, "cookie"), Some("rc_token=a"));
    assert_eq!(find(&headers, "te"), Some("trailers"));
    assert_ne!(find(&headers, "x-request-id"), Some("spoofed"));
    for gone in [
        "x-hop",
        "connection",
        "proxy-connection",
        "keep-alive",
        "forwarded",
    ] {
        assert_eq!(find(&headers, gone), None, "{gone}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_in_front_is_believed() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.trusted_proxies = Ranges(vec!["127.0.0.0/8".parse().unwrap()]);
    })
    .await;
    let answer = served
        .ask(
            "GET /echo HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\
             X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: lb-1\r\n\r\n",
        )
        .await;
    let (_, headers) = echoed(&answer);
    assert_eq!(
        find(&headers, "x-forwarded-for"),
        Some("6.6.6.6, 203.0.113.9, 127.0.0.1")
    );
    assert_eq!(find(&headers, "x-real-ip"), Some("203.0.113.9"));
    assert_eq!(find(&headers, "x-forwarded-proto"), Some("https"));
    assert_eq!(find(&headers, "x-request-id"), Some("lb-1"));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let mut raw = served.connect().await;
    for _ in 0..20 {
        raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\n")
            .await;
        let answer = raw.until("\"monolith\"}").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(
        monolith.connections() <= 4,
        "{} connections for 20 requests and the probes",
        monolith.connections()
    );
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let chunk = vec![b'x'; 64 * 1024];
    let mut hash = blake3::Hasher::new();
    let mut raw = served.connect().await;
    raw.send("POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        .await;
    for _ in 0..64 {
        hash.update(&chunk);
        raw.send(format!("{:x}\r\n", chunk.len())).await;
        raw.send(&chunk).await;
        raw.send("\r\n").await;
    }
    raw.send("0\r\n\r\n").await;
    let answer = raw.rest().await;
    let value: Value = serde_json::from_str(&answer.body()).unwrap();
    assert_eq!(value["bytes"], 4 * 1024 * 1024);
    assert_eq!(value["blake3"], hash.finalize().to_hex().as_str());

    let answer = served
        .ask("GET /download?bytes=5000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body_bytes() >= 5_000_000);
    assert!(!answer.reset);
}

#[tokio::test]
async fn a_cut_body_does_not_look_complete() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    for target in ["/cut?bytes=3000000", "/cut?bytes=3000000&chunked"] {
        let answer = served
            .ask(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"))
            .await;
        assert_eq!(answer.status(), 200);
        let ended = answer.text().ends_with("0\r\n\r\n");
        assert!(!ended, "{target} looks complete");
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            assert!(answer.body_bytes() < length, "{target} looks complete");
        }
    }
}

#[tokio::test]
async fn a_cut_body_does_not_look_complete_to_who_reads_to_the_end() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    // HTTP/1.0 has no chunks: the end of the connection is the end of the body.
    let answer = served
        .ask("GET /cut?bytes=3000000&chunked HTTP/1.0\r\nHost: h\r\n\r\n")
        .await;
    assert!(
        answer.reset,
        "an orderly end after {} bytes",
        answer.bytes.len()
    );
    let answer = served
        .ask("GET /trailers HTTP/1.0\r\nHost: h\r\n\r\n")
        .await;
    assert!(!answer.reset);
    assert_eq!(answer.body(), "with trailers\n");
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let mut raw = served.connect().await;
    raw.send("HEAD /download?bytes=777 HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    let head = raw.until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.contains("content-length: 777"), "{head}");
    // Were there a body, it would be read as the next answer.
    for status in [204, 304] {
        raw.send(format!("GET /status/{status} HTTP/1.1\r\nHost: h\r\n\r\n"))
            .await;
        let head = raw.until("\r\n\r\n").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
    raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert!(raw.rest().await.text().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn large_heads_pass() {
    let large = |bytes: usize| {
        let policy = "x".repeat(bytes);
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Policy: {policy}\r\n\r\n")
    };
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let origin = Origin::answering(large(100_000)).await;
    let served = Served::start(&[origin.address]).await;
    let answer = served.ask(request).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.head().len() > 100_000, "{}", answer.head().len());
    let origin = Origin::answering(large(300_000)).await;
    let served = Served::start(&[origin.address]).await;
    assert_eq!(served.ask(request).await.status(), 502);
    let many: String = (0..95).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let origin = Origin::answering(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{many}\r\n"
    ))
    .await;
    let served = Served::start(&[origin.address]).await;
    assert_eq!(served.ask(request).await.status(), 200);
}

#[tokio::test]
async fn trailers_pass_to_who_asks_for_them() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let answer = served
        .ask("GET /trailers HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: close\r\n\r\n")
        .await;
    let text = answer.text().to_ascii_lowercase();
    assert!(text.contains("trailer: grpc-status, x-checksum"), "{text}");
    assert!(text.contains("0\r\ngrpc-status: 0\r\n"), "{text}");

    // And towards the monolith.
    let answer = served
        .ask(
            "POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\
             Connection: close\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n",
        )
        .await;
    assert!(
        answer.body().contains(r#"["x-sum","42"]"#),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn http2_requests_become_http1() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |_| {}).await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("https://chat.example/echo")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::from_static(b"hello")))
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(value["version"], "HTTP/1.1");
    assert_eq!(value["body"]["bytes"], 5);
    let headers = value["headers"].to_string();
    assert!(headers.contains(r#"["host","chat.example"]"#), "{headers}");
    assert!(headers.contains(r#"["cookie","a=1; b=2"]"#), "{headers}");

    let request = Request::get("https://chat.example/trailers")
        .header("te", "trailers")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");

    let request = Request::get("https://chat.example/cut?bytes=3000000&chunked")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    assert!(within(response.into_body().collect()).await.is_err());
}

#[tokio::test]
async fn old_clients_are_served() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let answer = served.ask("GET /echo HTTP/1.0\r\n\r\n").await;
    let (_, headers) = echoed(&answer);
    assert_eq!(
        find(&headers, "host"),
        Some(monolith.address().to_string().as_str())
    );
    assert!(answer.header("transfer-encoding").is_none());
}

#[tokio::test]
async fn the_forwarded_bytes_are_exact() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let origin = Origin::start({
        let seen = seen.clone();
        move |mut stream| {
            let seen = seen.clone();
            async move {
                let head = read_head(&mut stream).await;
                if !head.starts_with("GET /health ") {
                    seen.lock().unwrap().push(head);
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    let served = Served::start(&[origin.address]).await;
    let answer = served
        .ask("GET /%7Euser/a%2fb?q=%zz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.header("x-hop"), None);
    let seen = seen.lock().unwrap();
    assert!(
        seen[0].starts_with("GET /~user/a%2Fb?q=%zz HTTP/1.1\r\n"),
        "{}",
        seen[0]
    );
}
