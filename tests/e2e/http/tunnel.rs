//! WebSockets that belong to the monolith.

use std::time::Duration;

use bytes::Bytes;
use ddp_gateway::proxy::shared::Phase;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::{Request, client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{Origin, Served, demo, read_head, within};

const UPGRADE: &str = "GET /other-ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Cookie: rc_token=kept\r\nSec-WebSocket-Protocol: a, b\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// Takes any upgrade, says which head it saw, and echoes from there on.
async fn echo() -> Origin {
    Origin::start(|mut stream| async move {
        let head = read_head(&mut stream).await;
        if head.starts_with("GET /health ") {
            return;
        }
        let _ = stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: b\r\n\
                  Sec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: x=y\r\n\r\n",
            )
            .await;
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(b"ready").await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = stream.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn bytes_and_headers_pass_untouched() {
    let origin = echo().await;
    let served = Served::start(&[origin.address]).await;
    let mut raw = served.connect().await;
    // The first bytes of the new protocol come right behind the request.
    raw.send(UPGRADE).await;
    let answer = raw.until("\r\n\r\nready").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    for kept in [
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "sec-websocket-protocol: b",
        "set-cookie: x=y",
        "upgrade: websocket",
        "connection: upgrade",
        // Of the request, as the origin saw it.
        "cookie: rc_token=kept",
        "sec-websocket-protocol: a, b",
        "sec-websocket-key: dghlihnhbxbszsbub25jzq==",
        "x-real-ip: 127.0.0.1",
        "host: h",
    ] {
        assert!(lower.contains(kept), "{kept} is not in {answer}");
    }
    let bytes: Vec<u8> = (0..=255).collect();
    let mut back = vec![0; 256 * 1000];
    let (mut read, mut write) = raw.0.split();
    let send = async {
        for _ in 0..1000 {
            write.write_all(&bytes).await.unwrap();
        }
    };
    let (_, result) = within(async { tokio::join!(send, read.read_exact(&mut back)) }).await;
    result.unwrap();
    assert!(back.chunks(256).all(|chunk| chunk == bytes));
    // The end travels too, through both connections and back.
    raw.0.shutdown().await.unwrap();
    assert!(raw.rest().await.bytes.is_empty());
    served.rests().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let mut raw = served.connect().await;
    for _ in 0..2 {
        raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let answer = raw.until("\"monolith\"}").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn clear_text_http2_is_not_tunnelled() {
    let origin = Origin::start(|mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        let status = if head.contains("upgrade") {
            "500 Seen"
        } else {
            "200 OK"
        };
        let _ = stream
            .write_all(
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
    })
    .await;
    let served = Served::start(&[origin.address]).await;
    let answer = served
        .ask(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

#[tokio::test]
async fn an_idle_tunnel_ends() {
    let origin = echo().await;
    let served = Served::start_with(&[origin.address], |config| {
        config.http.tunnel_idle_timeout = Duration::from_millis(200);
    })
    .await;
    let mut raw = served.connect().await;
    raw.send(UPGRADE).await;
    raw.until("\r\n\r\nready").await;
    raw.rest().await;
    served.rests().await;
}

#[tokio::test]
async fn tunnels_end_with_the_gateway() {
    let origin = echo().await;
    let served = Served::start_with(&[origin.address], |config| {
        config.drain.spread = Duration::from_millis(100);
    })
    .await;
    let mut raw = served.connect().await;
    raw.send(UPGRADE).await;
    raw.until("\r\n\r\nready").await;
    served.phase.send_replace(Phase::Draining);
    raw.send("still here").await;
    raw.until("still here").await;
    served.phase.send_replace(Phase::Closing);
    raw.rest().await;
    served.rests().await;
}

#[tokio::test]
async fn a_socket_over_http2_reaches_the_monolith() {
    let monolith = demo().await;
    let served = Served::start_http2(&[monolith.address()], |config| {
        config.listeners[0].http2_websocket = true;
    })
    .await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let open = |path: &str, protocol: &'static str| {
        Request::connect(format!("https://h{path}"))
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-version", "13")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    // The settings that allow it have to arrive first.
    within(sender.ready()).await.unwrap();
    let plain = Request::get("https://h/demo/whoami")
        .body(Empty::new())
        .unwrap();
    within(sender.send_request(plain)).await.unwrap();

    let response = within(sender.send_request(open("/other-ws", "websocket")))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let upgraded = within(hyper::upgrade::on(response)).await.unwrap();
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
    within(socket.send(Message::text("through h2")))
        .await
        .unwrap();
    let echo = within(socket.next()).await.unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap().as_str(), "through h2");
    // More than any window on the way holds.
    let large = "windows ".repeat(400_000);
    let (mut sink, mut stream) = socket.split();
    let (sent, echo) =
        within(async { tokio::join!(sink.send(Message::text(large.as_str())), stream.next()) })
            .await;
    sent.unwrap();
    let echo = echo.unwrap().unwrap();
    assert!(echo.into_text().unwrap().as_str() == large);
    // A close is answered, and ends the stream in order.
    within(sink.send(Message::Close(None))).await.unwrap();
    assert!(within(stream.next()).await.unwrap().unwrap().is_close());
    assert!(within(stream.next()).await.is_none());

    // A page is no socket, and another protocol is none either.
    let response = within(sender.send_request(open("/demo/whoami", "websocket")))
        .await
        .unwrap();
    assert_eq!(response.status(), 502);
    let response = within(sender.send_request(open("/x", "connect-udp")))
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
}
