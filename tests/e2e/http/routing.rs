//! Who answers: the gateway itself, which monolith, which of its servers, and how often.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ddp_gateway::{
    config::model::{self, HostPattern, Route},
    proxy::shared::Phase,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Origin, Reluctant, Served, demo, read_head};
use crate::support::until;

#[tokio::test]
async fn the_gateway_answers_sockjs_itself() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.pools[0].queue.length = 0;
    })
    .await;
    let get = async |path: &str| {
        served
            .ask(format!(
                "GET {path} HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\nConnection: close\r\n\r\n"
            ))
            .await
    };
    let answer = get("/sockjs").await;
    assert_eq!(
        (answer.status(), answer.body().as_str()),
        (200, "Welcome to SockJS!\n")
    );
    assert_eq!(get("/sockjs/iframe.html").await.status(), 200);
    for transport in [
        "xhr",
        "xhr_send",
        "xhr_streaming",
        "eventsource",
        "htmlfile",
        "jsonp",
    ] {
        let answer = get(&format!("/sockjs/000/abcdefgh/{transport}")).await;
        assert_eq!(answer.status(), 404, "{transport}");
    }
    let answer = served
        .ask(
            "POST /sockjs/000/abcdefgh/xhr HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\
             Connection: close\r\n\r\nhello",
        )
        .await;
    assert_eq!(answer.status(), 404);
    // Nobody can be served and nobody may wait, so a client is told before it opens a socket.
    let answer = get("/sockjs/info").await;
    assert_eq!(answer.status(), 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    assert_eq!(
        answer.header("access-control-allow-origin").as_deref(),
        Some("https://a.example")
    );
}

#[tokio::test]
async fn hosts_and_prefixes_choose_the_monolith() {
    let (one, two) = (named("one").await, named("two").await);
    let served = Served::start_with(&[one.address], |config| {
        config.monoliths.push(model::Monolith {
            servers: vec![model::Server {
                host: "127.0.0.1".into(),
                port: two.address.port(),
            }],
        });
        let route = |host, path: &str| Route {
            host,
            path: path.to_owned(),
            monolith: 1,
            pool: None,
        };
        config
            .routes
            .insert(0, route(HostPattern::Exact("wiki.example".to_owned()), "/"));
        config.routes.insert(1, route(HostPattern::Any, "/wiki"));
    })
    .await;
    for (host, path, expected) in [
        ("chat.example", "/", "one"),
        ("wiki.example", "/", "two"),
        ("WIKI.example:8443", "/", "two"),
        ("wiki.example.", "/", "two"),
        ("chat.example", "/wiki", "two"),
        ("chat.example", "/wiki/page", "two"),
        ("chat.example", "/wikipage", "one"),
        ("chat.example", "/x/../wiki", "two"),
        ("chat.example", "/wiki/../x", "one"),
        ("chat.example", "/%77iki", "two"),
    ] {
        let answer = served
            .ask(format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.body(), expected, "{host}{path}");
    }
    // Readers could disagree about these, and with that about the monolith.
    for path in ["/wiki%2fpage", "/x%2f..%2fwiki", "//wiki", "/wiki/..%2fx"] {
        let answer = served
            .ask(format!(
                "GET {path} HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.status(), 400, "{path}");
    }
}

async fn named(name: &'static str) -> Origin {
    Origin::answering(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
        name.len()
    ))
    .await
}

#[tokio::test]
async fn plain_listeners_can_send_everyone_to_https() {
    let monolith = demo().await;
    let served = Served::start_with(&[monolith.address()], |config| {
        config.listeners[0].redirect_https = Some(443);
    })
    .await;
    let answer = served
        .ask("POST /a/../b?c=d HTTP/1.1\r\nHost: Chat.Example:8080\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 308, "{}", answer.text());
    assert_eq!(
        answer.header("location").as_deref(),
        Some("https://chat.example/b?c=d")
    );
    let answer = served
        .ask("GET //evil.example HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(
        answer.header("location").as_deref(),
        Some("https://h//evil.example")
    );
    let answer = served.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn the_gateway_is_asked_about_itself() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let answer = served
        .ask("OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 204);
    assert!(answer.header("allow").is_some());
    let answer = served
        .ask("TRACE / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nCookie: a=b\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 405);
    assert!(!answer.text().contains("a=b"));
}

/// Closes the connection of every request but probes, and counts them.
async fn closing() -> (Origin, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let origin = Origin::start(move |mut stream| {
        let counter = counter.clone();
        async move {
            if read_head(&mut stream).await.starts_with("GET /health ") {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
            } else {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    (origin, count)
}

#[tokio::test]
async fn only_what_is_safe_is_sent_twice() {
    for (request, tries) in [
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 2),
        (
            "DELETE /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            2,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            1,
        ),
        (
            "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
            1,
        ),
    ] {
        let (one, count_one) = closing().await;
        let (two, count_two) = closing().await;
        let served = Served::start(&[one.address, two.address]).await;
        let answer = served.ask(request).await;
        assert_eq!(answer.status(), 502, "{}", answer.text());
        let counts = [&count_one, &count_two].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts.iter().sum::<usize>(), tries, "{request:?}");
        assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
    }
}

#[tokio::test]
async fn nothing_was_sent_so_even_a_post_goes_to_the_other_server() {
    let monolith = demo().await;
    // A port that nobody listens on.
    let gone = Origin::start(|_| async {}).await;
    let address = gone.address;
    drop(gone);
    until("the port to be closed", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    let served = Served::start(&[address, monolith.address()]).await;
    for _ in 0..4 {
        let answer = served
            .ask("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            .await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert!(answer.body().contains("\"bytes\":5"));
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_costs_no_request() {
    // One answer for each connection, which looks as if it could be kept.
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    for _ in 0..50 {
        raw.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let answer = raw.until("\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_drain_lets_requests_finish_and_ends_idle_connections() {
    let mut reluctant = Reluctant::start().await;
    let served = Served::start(&[reluctant.origin.address]).await;
    let mut idle = served.connect().await;
    idle.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    reluctant.asked().await;
    reluctant.answer();
    idle.until("\r\n\r\nok").await;
    let mut busy = served.connect().await;
    busy.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    reluctant.asked().await;
    served.phase.send_replace(Phase::Draining);
    assert!(idle.rest().await.bytes.is_empty());
    reluctant.answer();
    let answer = busy.rest().await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.body(), "ok");
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    served.rests().await;
}
