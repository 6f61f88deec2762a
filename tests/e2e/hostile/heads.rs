//! Heads of requests that are too large. What is wrong inside of a head is in `http::smuggling`.

use super::{Peer, Scene, shown};
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
