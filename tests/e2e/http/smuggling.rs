//! Shapes that two readers cut differently (RFC 9112 sections 6 and 11), sent as raw bytes.

use std::time::Duration;

use super::{Served, demo};

/// Refused, closed, and not a byte of it reaches the monolith.
async fn refused(status: u16, request: &[u8]) {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    // A second request follows: whoever takes the first one's end wrongly would answer it.
    let mut bytes = request.to_vec();
    bytes.extend_from_slice(b"GET /demo/whoami HTTP/1.1\r\nHost: second\r\n\r\n");
    let answer = served.ask(&bytes).await;
    assert_eq!(
        answer.status(),
        status,
        "{:?} got {}",
        String::from_utf8_lossy(request),
        answer.text()
    );
    assert_eq!(
        answer.text().matches("HTTP/1.1 ").count(),
        1,
        "{:?} got {}",
        String::from_utf8_lossy(request),
        answer.text()
    );
    assert!(!answer.text().contains("\"server\""), "{}", answer.text());
}

#[tokio::test]
async fn two_lengths() {
    for request in [
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: h\r\ntransfer-encoding:\tchunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 6\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nhello",
    ] {
        refused(400, request.as_bytes()).await;
    }
}

#[tokio::test]
async fn transfer_codings() {
    for (status, coding) in [
        (400, "chunked, identity"),
        (400, "identity"),
        (400, "xchunked"),
        (400, "chunked\r\nTransfer-Encoding: identity"),
        (400, "chunked\r\nTransfer-Encoding: chunked"),
        (501, "gzip, chunked"),
        (400, "\"chunked\""),
        (400, "chunked;q=1"),
    ] {
        let request = format!(
            "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"
        );
        refused(status, request.as_bytes()).await;
    }
    refused(
        400,
        b"POST /echo HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    .await;
}

#[tokio::test]
async fn broken_heads() {
    for request in [
        &b"GET /echo HTTP/1.1\r\nHost: h\r\nX-A: 1\r\n folded\r\n\r\n"[..],
        b"GET /echo HTTP/1.1\r\nHost: h\r\nX-A : 1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: h\r\n X-A: 1\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: h\r\nX-A: a\0b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: h\r\nX-A: a\rb\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: h\r\nX\0A: b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: h\r\n: empty\r\n\r\n",
        b"GET  /echo HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /echo HTTP/1.1 \r\nHost: h\r\n\r\n",
        b"GET /ec ho HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /echo\r\nHost: h\r\n\r\n",
        b"GET /echo HTTP/1.2\r\nHost: h\r\n\r\n",
        b"GE\x01T /echo HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        refused(400, request).await;
    }
}

#[tokio::test]
async fn hosts_and_targets() {
    for request in [
        "GET /echo HTTP/1.1\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET http://other/echo HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://h:81/echo HTTP/1.1\r\nHost: h\r\n\r\n",
        "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
        "GET /x/..%2fwebsocket HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET //websocket HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a%00 HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /sockjs\\info HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        refused(400, request.as_bytes()).await;
    }
}

/// The head is fine, so the request may reach the monolith; its body must end in an error, never in a
/// second request.
#[tokio::test]
async fn broken_chunks() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    for chunks in [
        "5 \u{b}\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
    ] {
        let request = format!(
            "POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\
             GET /demo/whoami HTTP/1.1\r\nHost: second\r\n\r\n"
        );
        let answer = served.ask(&request).await;
        assert!(
            !answer.text().contains("\"server\"") && !answer.text().contains("200 OK"),
            "{chunks:?} got {}",
            answer.text()
        );
        if !answer.bytes.is_empty() {
            assert_eq!(answer.status(), 400, "{chunks:?}");
        }
    }
}

/// Requests with random faults in them: whatever the gateway makes of each, it goes on serving, and
/// the monolith never gets what the gateway did not understand.
#[tokio::test]
async fn mutated_requests_disturb_nobody() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.header_timeout = Duration::from_millis(100);
        config.http.idle_timeout = Duration::from_millis(100);
    })
    .await;
    let seeds: [&[u8]; 4] = [
        b"POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
        b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        b"GET /sockjs/000/abc/websocket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"GET http://h/a/../b?x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=\"[::1]\"\r\nCookie: a=b; c\r\n\r\n",
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..400 {
        let mut bytes = seeds[n % seeds.len()].to_vec();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(4) {
                0 => bytes[at] = u8::try_from(draw(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\r\n\0 :,;\t%/"[draw(10)]),
                _ => {
                    let piece = bytes[at..(at + 12).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let mut raw = served.connect().await;
        raw.send(&bytes).await;
        asked.spawn(async move {
            // A request that is whole gets its answer; the others end by a time limit.
            raw.finish().await;
            raw.rest().await
        });
        if asked.len() >= 32 {
            asked.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(answer) = asked.join_next().await {
        answer.unwrap();
    }
    let answer = served
        .ask("GET /demo/whoami HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 200);
}
