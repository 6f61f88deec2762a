//! `103 Early Hints` to a client of HTTP/2 that shares no code with the gateway.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{client, front};

const ANSWER: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </one.css>; rel=preload\r\n\r\n\
    HTTP/1.1 103 Early Hints\r\nLink: </two.css>; rel=preload\r\n\r\n\
    HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTrailer: X-Sum\r\n\
    Transfer-Encoding: chunked\r\n\r\n8\r\nthe page\r\n0\r\nX-Sum: 7\r\n\r\n";

/// hyper's server, and with it the simulated monolith, cannot send such an answer.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"GET /page ") {
        stream.write_all(ANSWER).await?;
    }
    stream.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_reach_node_over_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    let upstreams = format!("monolith = \"http://{address}\"\nstreamers = [\"127.0.0.1:9\"]\n");
    let front = front(&upstreams, "").await;
    client(&front, "hints.mjs").await;
}
