//! What the log says of requests and sockets, and what it never says.

use std::fs;

use ddp_gateway::ddp::Framing;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    certificate::Pair,
    deployment::{self, Plan, Servers},
    metrics::Metrics,
    process::Gateway,
    socket::{Client, Way},
    soon, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_line_per_request_and_two_per_socket_without_secrets() {
    let servers = Servers::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = Pair::write(folder.path(), "tls", &["localhost"]);
    let path = folder.path().join("proxy.toml");
    // Everything is said that can be said.
    let plan = Plan {
        tables: "[log]\nformat = \"json\"\nfilter = \"trace\"\n".to_owned(),
        ..Plan::default()
    };
    fs::write(&path, deployment::text(&plan, &servers, &certificate)).unwrap();
    let mut gateway = Gateway::run(&path);
    let plain = gateway.address("listening: http://");
    let admin = gateway.address("admin: http://");
    until("the streamer is in rotation", async || {
        Metrics::read(admin).await.sum("streamer_up", &[]) >= 1.0
    })
    .await;

    let headers = [
        ("Cookie", "rc_token=s3cret"),
        ("Authorization", "Bearer s3cret"),
    ];
    let target = "/sockjs/7/logged00/websocket?token=s3cret";
    let mut client = Client::connect(plain, Way::Plain, Framing::SockJs, target, &headers).await;
    client
        .call("login", json!([{"resume": "demo-s3cret"}]))
        .await;
    client.close().await;

    let mut stream = TcpStream::connect(plain).await.unwrap();
    let request = "GET /echo?access_token=s3cret HTTP/1.1\r\nHost: chat.example.com\r\n\
                   Cookie: rc_token=s3cret\r\nX-Auth-Token: s3cret\r\n\
                   Authorization: Bearer s3cret\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    // The origin did get them.
    assert!(answer.contains("s3cret"), "{answer}");

    gateway.signal(rustix::process::Signal::TERM);
    gateway.signal(rustix::process::Signal::TERM);
    gateway.ended().await;
    let output = gateway.output();
    assert!(!output.contains("s3cret"), "{output}");

    let lines: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let events = |event: &str| {
        let found: Vec<&Value> = lines.iter().filter(|line| line["event"] == event).collect();
        assert!(!found.is_empty(), "no {event} in\n{output}");
        found
    };

    let requests = events("request");
    let echo = requests
        .iter()
        .find(|line| line["path"] == "/echo")
        .unwrap();
    assert_eq!(echo["status"], 200);
    assert_eq!(echo["method"], "GET");
    assert_eq!(echo["host"], "chat.example.com");
    assert_eq!(echo["client"], "127.0.0.1");
    assert!(echo["duration_ms"].is_number(), "{echo}");
    assert_eq!(
        requests
            .iter()
            .filter(|line| line["path"] == "/echo")
            .count(),
        1
    );

    let opened = events("socket_open");
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0]["framing"], "sockjs");
    assert_eq!(opened[0]["client"], "127.0.0.1");

    let closed = events("socket_close");
    assert_eq!(closed.len(), 1);
    let closed = closed[0];
    assert_eq!(closed["session"], opened[0]["session"]);
    assert_eq!(closed["reason"], "client_closed");
    assert_eq!(closed["close_code"], 1000);
    assert_eq!(closed["closed_by"], "client");
    assert_eq!(
        closed["streamer"],
        servers.streamers[0].address().to_string()
    );
    assert_eq!(closed["messages_up"], 2);
    assert!(closed["messages_down"].as_u64().unwrap() >= 3, "{closed}");
    assert!(closed["bytes_up"].as_u64().unwrap() > 100, "{closed}");
    assert!(closed["bytes_down"].as_u64().unwrap() > 100, "{closed}");
    assert!(closed["duration_ms"].is_number(), "{closed}");
}
