//! Heads of requests that are too large. What is wrong inside of a head is in `http::smuggling`.

use std::time::Duration;

use tokio::time::Instant;

use super::{CONNECT, Peer, Scene, shown, text, upgrade};
use crate::support::socket::Way;

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn huge_heads_are_refused() {
    let mut scene = Scene::start("").await;
    let head = |line: &str, headers: &str| {
        format!("GET {line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes()
    };
    let long = "x".repeat(MIB);
    let many: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
    let cases: [(&str, Vec<u8>, &[u16]); 6] = [
        (
            "1 MiB in one header",
            head("/", &format!("X-Long: {long}\r\n")),
            &[431],
        ),
        (
            "1 MiB of name",
            head("/", &format!("{long}: x\r\n")),
            &[431],
        ),
        (
            "1 MiB of cookies",
            head("/", &"Cookie: a=b\r\n".repeat(MIB / 13)),
            &[431],
        ),
        ("1000 headers", head("/websocket", &many), &[431]),
        (
            "1 MiB of target",
            head(&format!("/{long}"), ""),
            &[414, 431],
        ),
        (
            "1 MiB of method",
            [long.as_bytes(), b" / HTTP/1.1\r\n\r\n"].concat(),
            &[400, 431],
        ),
    ];
    let mut count = 0;
    for way in [Way::Plain, Way::Tls] {
        for (name, bytes, statuses) in &cases {
            let mut peer = Peer::connect(&scene.deployment, way).await;
            peer.send(bytes).await;
            let answer = peer.rest().await;
            let status = statuses
                .iter()
                .find(|status| answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
            assert!(status.is_some(), "{name} over {way:?}: {}", shown(&answer));
            count += 1;
        }
    }
    let reason = [("reason", "malformed")];
    scene.counted("http_refusals_total", &reason, count).await;
    scene.undisturbed().await;
}

/// A client has to wait for the answer to its upgrade. One that does not may send a little, and
/// loses nothing then; what it may not do is make the gateway keep a lot.
#[tokio::test]
async fn frames_that_come_with_a_large_head_are_kept_or_refused() {
    let mut scene = Scene::start("[http]\nrequest_header_limit = \"512KiB\"\n").await;
    let started = Instant::now();
    for (filler, frames) in [(1_000, 200_000), (130_000, 60_000), (130_000, 400_000)] {
        let padding = format!("\r\nX-Long: {}\r\n\r\n", "x".repeat(filler));
        let mut bytes = upgrade("/websocket")
            .replace("\r\n\r\n", &padding)
            .into_bytes();
        bytes.extend_from_slice(&text(CONNECT.as_bytes()));
        let long = "y".repeat(frames - 200);
        let ping = format!(r#"{{"msg":"ping","x":"{long}","id":"the last"}}"#);
        bytes.extend_from_slice(&text(ping.as_bytes()));
        let mut peer = Peer::connect(&scene.deployment, Way::Plain).await;
        peer.send(&bytes).await;
        // Whether it is too much depends on how many bytes came in one piece.
        while peer.fill().await {
            if String::from_utf8_lossy(&peer.read).contains("the last") {
                break;
            }
        }
    }
    // What had to wait for a streamer goes on as soon as there is one, not at the next sign of life.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    scene.undisturbed().await;
}
