//! Handshakes of TLS and of WebSocket that are broken, cut or never end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{Peer, Scene, shown, upgrade};
use crate::support::{certificate, http, socket::Way, soon, until};

/// Long enough for honest handshakes on a busy machine.
const SHORT: &str = "[http]\nheader_timeout = \"1500ms\"\n";

/// The first flight of a real client.
fn client_hello() -> Vec<u8> {
    let config = certificate::client(&["http/1.1"]);
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Sends `bytes` to the TLS listener; with `end` no more will come.
async fn tls_peer(scene: &Scene, bytes: &[u8], end: bool) -> TcpStream {
    let mut stream = TcpStream::connect(scene.deployment.tls()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if end {
        stream.shutdown().await.unwrap();
    }
    stream
}

#[tokio::test]
async fn what_is_not_tls_is_ended_and_counted() {
    let mut scene = Scene::start(SHORT).await;
    let hello = client_hello();
    let mut wrong_record = hello.clone();
    wrong_record[0] = 0x17;
    let mut wrong_message = hello.clone();
    wrong_message[5] = 0x0f;
    let mut broken_inside = hello.clone();
    broken_inside[43] = 0xff;
    let random: Vec<u8> = (0..4096).map(|_| rand::random()).collect();
    let garbage: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[0; 512],
        &[0xff; 512],
        b"\x16\x03\x01\xff\xff\x01",
        &wrong_record,
        &wrong_message,
        &broken_inside,
    ];
    for bytes in garbage {
        let mut stream = tls_peer(&scene, bytes, false).await;
        let mut answer = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        // Nothing, or a fatal alert.
        assert!(
            answer.is_empty() || answer.starts_with(b"\x15\x03"),
            "{} got {answer:?}",
            shown(bytes)
        );
    }
    let reason = [("reason", "garbage")];
    scene
        .counted("tls_handshake_failures_total", &reason, 9)
        .await;
    // Random bytes may look like the start of a long record, so they end by their own end.
    let mut stream = tls_peer(&scene, &random, true).await;
    let _ = soon("the end", stream.read_to_end(&mut Vec::new())).await;
    scene.counted("tls_handshake_failures_total", &[], 10).await;
    scene.undisturbed().await;
}

#[tokio::test]
async fn handshakes_that_stop_are_ended_in_time() {
    let mut scene = Scene::start(SHORT).await;
    let hello = client_hello();
    let started = Instant::now();
    let mut stalled = Vec::new();
    for length in [0, 1, 5, 6, 100, hello.len() - 1, hello.len()] {
        stalled.push(tls_peer(&scene, &hello[..length], false).await);
    }
    let mut cut = Vec::new();
    for length in [1, 5, 6, 100, hello.len() - 1, hello.len()] {
        cut.push(tls_peer(&scene, &hello[..length], true).await);
    }
    // Those that are cut are over at once, while the others stall.
    scene
        .counted("tls_handshake_failures_total", &[("reason", "peer")], 6)
        .await;
    for mut stream in stalled {
        let _ = soon("the end", stream.read_to_end(&mut Vec::new())).await;
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    scene
        .counted("tls_handshake_failures_total", &[("reason", "timeout")], 7)
        .await;
    scene.counted("tls_handshakes", &[], 0).await;

    // No protocol in common.
    let refused = http::tls(scene.deployment.tls(), "localhost", &["smtp"]).await;
    assert!(refused.is_err());
    scene.counted("tls_handshake_failures_total", &[], 14).await;
    scene.undisturbed().await;
}

#[tokio::test]
async fn garbage_within_tls_ends_the_session() {
    let mut scene = Scene::start("").await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x17, 3, 3, 0, 32],
        &[0xff; 2000],
    ] {
        let tls = http::tls(scene.deployment.tls(), "localhost", &["http/1.1"]);
        let mut stream = soon("a TLS handshake", tls).await.unwrap();
        stream
            .write_all(upgrade("/websocket").as_bytes())
            .await
            .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        let (mut tcp, _) = stream.into_inner();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        let _ = soon("the end", tcp.read_to_end(&mut Vec::new())).await;
    }
    scene
        .counted("sessions_closed_total", &[("reason", "client_gone")], 3)
        .await;
    scene.undisturbed().await;
}

#[tokio::test]
async fn upgrades_that_stop_are_ended_in_time() {
    let mut scene = Scene::start(SHORT).await;
    let head = upgrade("/websocket");
    let started = Instant::now();
    let mut stalled = Vec::new();
    for way in [Way::Plain, Way::Tls] {
        for length in [0, 1, 30, head.len() / 2, head.len() - 1] {
            let mut peer = Peer::connect(&scene.deployment, way).await;
            peer.send(&head.as_bytes()[..length]).await;
            stalled.push(peer);
        }
    }
    // One that sends a little all the time gains nothing by it.
    let mut drip = Peer::connect(&scene.deployment, Way::Plain).await;
    drip.send(b"GET /websocket HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        .await;
    let (drip, dripping) = drip.dripping(b'x');
    stalled.push(drip);
    for mut peer in stalled {
        let answer = peer.rest().await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"),
            "{}",
            shown(&answer)
        );
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    soon("the drip to end", dripping).await.unwrap();
    for (reason, count) in [("slow_head", 9), ("no_request", 2)] {
        let reason = [("reason", reason)];
        scene.counted("http_refusals_total", &reason, count).await;
    }
    scene.undisturbed().await;
}

/// What is sent instead of a good handshake, the status that answers it, and the reason that is
/// counted, if it is one of the gateway's refusals.
fn bad_upgrades() -> Vec<(String, u16, Option<&'static str>)> {
    let good = upgrade("/websocket");
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let without = |line: &str| good.replace(line, "");
    let with = |line: &str, other: &str| good.replace(line, other);
    let bad = Some("bad_upgrade");
    let old = Some("upgrade_required");
    let mut cases = vec![
        (without(version), 426, old),
        (with(version, "Sec-WebSocket-Version: 8\r\n"), 426, old),
        (with(version, "Sec-WebSocket-Version: 013\r\n"), 426, old),
        (with(version, "Sec-WebSocket-Version: 13, 8\r\n"), 426, old),
        (with(version, &version.repeat(2)), 426, old),
        (without(key), 400, bad),
        (with(key, &key.repeat(2)), 400, bad),
        (without("Connection: Upgrade\r\n"), 400, bad),
        (
            with("Connection: Upgrade", "Connection: keep-alive"),
            400,
            bad,
        ),
        (with("Upgrade: websocket", "Upgrade: h2c"), 400, bad),
        (with("Upgrade: websocket", "Upgrade: websocket2"), 400, bad),
        (with("HTTP/1.1", "HTTP/1.0"), 400, bad),
        (with("GET ", "POST "), 405, Some("method")),
        (with("GET ", "HEAD "), 405, Some("method")),
        (with("Host: localhost\r\n", ""), 400, Some("bad_target")),
        (
            with("Host: localhost\r\n", "Host: a\r\nHost: b\r\n"),
            400,
            Some("bad_target"),
        ),
        (
            with("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"),
            400,
            bad,
        ),
        (
            with(
                "\r\n\r\n",
                "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            400,
            bad,
        ),
        // Not an upgrade at all: the page that SockJS has for it.
        (without("Upgrade: websocket\r\n"), 400, None),
    ];
    for bad_key in [
        "",
        "short",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZSBsb25n",
        "!!!!IHNhbXBsZSBub25jZQ==",
    ] {
        cases.push((with("dGhlIHNhbXBsZSBub25jZQ==", bad_key), 400, bad));
    }
    cases
}

#[tokio::test]
async fn broken_upgrades_are_refused_with_their_status() {
    let mut scene = Scene::start("").await;
    let mut counts = std::collections::BTreeMap::new();
    for (request, status, reason) in bad_upgrades() {
        for path in ["/websocket", "/sockjs/1/abc/websocket"] {
            if reason.is_none() && path != "/websocket" {
                continue;
            }
            let request = request.replace("/websocket", path);
            let mut stream = TcpStream::connect(scene.deployment.plain()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let head_only = request.starts_with("HEAD");
            let answer = soon("an answer", http::read_answer(&mut stream, head_only)).await;
            assert_eq!(answer.status, status, "{request}\n{}", answer.text());
            match status {
                426 => assert_eq!(answer.header("sec-websocket-version"), Some("13")),
                405 => assert_eq!(answer.header("allow"), Some("GET"), "{request}"),
                _ => {}
            }
            if let Some(reason) = reason {
                *counts.entry(reason).or_default() += 1;
            }
        }
    }
    for (reason, count) in counts {
        scene
            .counted("http_refusals_total", &[("reason", reason)], count)
            .await;
    }
    until("the connections to end", async || {
        scene.deployment.metrics().await.sum("connections", &[]) <= 2.0
    })
    .await;
    scene.undisturbed().await;
}
