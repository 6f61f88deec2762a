//! Monolith servers that fail, each in its own way.

use std::time::Duration;

use ddp_gateway::demo::monolith::{Monolith, MonolithMode, MonolithOptions};

use super::{Origin, Served, demo};
use crate::support::{stopwatch::Stopwatch, until};

async fn named(name: &str) -> Monolith {
    Monolith::start(MonolithOptions {
        name: name.to_owned(),
        ..MonolithOptions::default()
    })
    .await
    .unwrap()
}

const WHO: &str = "GET /demo/whoami HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn each_failure_has_its_status() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.http.first_byte_timeout = Duration::from_millis(300);
    })
    .await;
    let answer = served
        .ask("GET /close HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 502, "{}", answer.text());
    let answer = served
        .ask("GET /slow?ms=60000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 504, "{}", answer.text());
    monolith.set_mode(MonolithMode::Refuse).await.unwrap();
    monolith.stop().await;
    let answer = served
        .ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAccept: text/html\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert_eq!(answer.header("retry-after").as_deref(), Some("5"));
    assert!(answer.body().starts_with("<!DOCTYPE html>"));
    let port = monolith.address().port().to_string();
    assert!(!answer.text().contains(&port), "an address leaked");
    // The only server is tried whatever its health.
    monolith.start_again().await.unwrap();
    assert_eq!(served.ask(WHO).await.status(), 200);
}

#[tokio::test]
async fn nonsense_is_a_bad_gateway() {
    for answer in [
        "no HTTP at all\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nX\0: 1\r\n\r\n",
        "",
    ] {
        let origin = Origin::answering(answer).await;
        let served = Served::start(&[origin.address]).await;
        let got = served
            .ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(got.status(), 502, "{answer:?} became {}", got.text());
    }
}

#[tokio::test]
async fn a_second_server_takes_over_unseen() {
    let (one, two) = (named("one").await, named("two").await);
    let served = Served::start(&[one.address(), two.address()]).await;
    one.stop().await;
    for _ in 0..20 {
        let answer = served.ask(WHO).await;
        assert!(answer.text().contains("\"two\""), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_silent_server_is_out_within_two_seconds_and_back_within_half_a_second() {
    let (one, two) = (named("one").await, named("two").await);
    let served = Served::start(&[one.address(), two.address()]).await;
    let up = |server: &Monolith| {
        let address = server.address().to_string();
        let snapshot = served.shared.snapshot.load_full();
        snapshot.monoliths[0]
            .servers()
            .any(|(name, up)| name == address && up)
    };
    // A kept connection that falls silent, not only new ones.
    for _ in 0..4 {
        assert_eq!(served.ask(WHO).await.status(), 200);
    }
    one.set_mode(MonolithMode::Hang).await.unwrap();
    let silent = Stopwatch::start("a silent server of the monolith out");
    until("the silent server is out", async || !up(&one)).await;
    let took = silent.read();
    assert!(took < Duration::from_secs(2), "{took:?}");
    for _ in 0..10 {
        assert!(served.ask(WHO).await.text().contains("\"two\""));
    }
    one.set_mode(MonolithMode::Normal).await.unwrap();
    let back = Stopwatch::start("a server of the monolith back");
    until("the server is back", async || up(&one)).await;
    let took = back.read();
    assert!(took < Duration::from_millis(500), "{took:?}");
}
