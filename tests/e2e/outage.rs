//! Streamers and DNS servers that fail under a whole gateway: what clients and operators see.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use ddp_gateway::{ddp::Framing, demo::streamer::Mode};
use futures_util::{SinkExt, StreamExt, future::join_all};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    accept_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    nameserver::{Mood, NameServer, Zone},
    support::{
        self,
        deployment::{Deployment, Plan, Servers},
        http,
        socket::{Client, Way, open},
        stopwatch::Stopwatch,
    },
};

#[tokio::test]
async fn what_happens_to_streamers_is_seen_from_outside() {
    let deployment = Deployment::start().await;
    let first = &deployment.streamers[0];
    let id = first.address().to_string();
    let row = async || {
        let pools = http::get(deployment.admin(), "/streamers").await.json();
        let rows = pools["pools"][0]["streamers"].as_array().unwrap().clone();
        rows.into_iter()
            .find(|row| row["id"] == id.as_str())
            .unwrap()
    };
    for (mode, cause) in [
        (Mode::Hang, "no answer in time"),
        (Mode::Refuse, "connection refused or unreachable"),
    ] {
        let before = deployment.metrics().await;
        first.set_mode(mode).await.unwrap();
        deployment.streamers_in_rotation(1).await;
        let row_down = row().await;
        assert_eq!(row_down["health"], "down", "{row_down}");
        assert!(
            row_down["cause"].as_str().unwrap().ends_with(cause),
            "{row_down}"
        );
        assert_eq!(row_down["capacity"], 0);
        let metrics = deployment.metrics().await;
        let streamer = [("pool", "default"), ("streamer", id.as_str())];
        assert_eq!(metrics.sum("streamer_up", &streamer), 0.0);
        assert_eq!(metrics.sum("streamer_capacity", &streamer), 0.0);
        assert_eq!(metrics.sum("pool_streamers", &[("state", "down")]), 1.0);
        assert_eq!(metrics.sum("pool_streamers", &[("state", "up")]), 1.0);
        for (name, labels) in [
            ("streamer_transitions_total", vec![("to", "down")]),
            (
                "streamer_probes_total",
                vec![("probe", "health"), ("result", "failed")],
            ),
        ] {
            assert!(
                metrics.sum(name, &labels) > before.sum(name, &labels),
                "{name}"
            );
        }
        first.set_mode(Mode::Normal).await.unwrap();
        deployment.streamers_in_rotation(2).await;
        assert_eq!(row().await["cause"], serde_json::Value::Null);
        let metrics = deployment.metrics().await;
        assert_eq!(metrics.sum("streamer_up", &streamer), 1.0);
    }
}

#[tokio::test]
async fn a_dns_server_that_is_gone_shows_and_changes_nothing() {
    let servers = Servers::start(1).await;
    let port = servers.streamers[0].address().port();
    let zone = Zone::with_ttl(0).address("pool.outside.test", Ipv4Addr::LOCALHOST.into());
    let server = NameServer::start(zone.clone()).await.unwrap();
    server.set_mood(Mood::Empty);
    let address = server.address();
    let deployment = Deployment::of(Plan {
        streamers: 1,
        tables: format!(
            "[pools.dns]\ndiscovery = {{ dns = {{ name = \"pool.outside.test\", port = {port}, \
             resolvers = [\"{address}\"], ttl_min = \"100ms\" }} }}\n\
             [[route]]\npath = \"/other\"\npool = \"dns\"\n"
        ),
        ..Plan::default()
    })
    .await;
    let source = [("source", "pool.outside.test")];
    let is_stale = async || deployment.metrics().await.sum("discovery_stale", &source);
    support::until("it asks in vain", async || is_stale().await > 0.0).await;
    server.set_mood(Mood::Normal);
    deployment.streamers_in_rotation(2).await;
    assert_eq!(is_stale().await, 0.0);
    server.stop().await;
    support::until("the loss is shown", async || is_stale().await > 0.0).await;
    let metrics = deployment.metrics().await;
    let updates = |result| {
        let labels = [source[0], ("result", result)];
        metrics.sum("discovery_updates_total", &labels)
    };
    assert!(updates("ok") > 0.0);
    assert!(updates("empty") > 0.0);
    assert!(updates("failed") > 0.0);
    deployment.streamers_in_rotation(2).await;
    let _server = NameServer::start_at(address, zone).await.unwrap();
    support::until("it is well again", async || is_stale().await == 0.0).await;
    deployment.streamers_in_rotation(2).await;
}

#[tokio::test]
async fn nobody_notices_that_a_streamer_hangs_except_by_waiting() {
    let deployment = Deployment::of(Plan {
        tables: "[pool]\nattach_timeout = \"1s\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    deployment.streamers[0].set_mode(Mode::Hang).await.unwrap();
    let clients = (0..30).map(|_| Client::raw(deployment.plain(), Way::Plain));
    let mut clients = support::soon("all attached", join_all(clients)).await;
    let other = deployment.streamers[1].name();
    for client in &mut clients {
        assert_eq!(client.streamer().await, other);
    }
    deployment.streamers_in_rotation(1).await;
}

#[tokio::test]
async fn clients_wait_through_an_outage_of_all_streamers() {
    let deployment = Deployment::start().await;
    for streamer in &deployment.streamers {
        streamer.stop().await;
    }
    deployment.streamers_in_rotation(0).await;
    let address = deployment.plain();
    let clients = (0..100).map(|n| async move {
        match n % 2 {
            0 => Client::raw(address, Way::Plain).await,
            _ => Client::sockjs(address, Way::Plain).await,
        }
    });
    let clients = tokio::spawn(join_all(clients));
    let waiting = async || deployment.metrics().await.sum("pool_waiting", &[]);
    support::until("all wait", async || waiting().await == 100.0).await;
    let back = Stopwatch::start("100 clients served once the streamers were back");
    for streamer in &deployment.streamers {
        streamer.start_again().await.unwrap();
    }
    let clients = support::soon("all served", clients).await.unwrap();
    let took = back.read();
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(clients.len(), 100);
    assert_eq!(waiting().await, 0.0);
    let sessions = deployment.metrics().await.sum("streamer_sessions", &[]);
    assert_eq!(sessions, 100.0);
}

#[tokio::test]
async fn a_client_that_sends_nonsense_takes_no_streamer_out() {
    let (one, two) = (choosy_streamer().await, choosy_streamer().await);
    let deployment = Deployment::start().await;
    let plan = Plan {
        tables: format!(
            "[pools.choosy]\nstreamers = [\"{one}\", \"{two}\"]\n\
             [[route]]\npath = \"/choosy\"\npool = \"choosy\"\n"
        ),
        ..Plan::default()
    };
    let config = deployment.config_of(&plan);
    deployment.app.reload(config).await.unwrap();
    deployment.streamers_in_rotation(4).await;
    let address = deployment.plain();
    let before = deployment.metrics().await;
    for _ in 0..20 {
        let path = "/choosy/websocket";
        let (mut socket, _) = open(address, Way::Plain, path, &[]).await.unwrap();
        let poison = r#"{"msg":"connect","version":"1","support":["1"],"poison":1}"#;
        socket.send(Message::text(poison)).await.unwrap();
        let end = support::soon("the close", socket.next()).await;
        let Some(Ok(Message::Close(Some(close)))) = end else {
            panic!("{end:?}");
        };
        assert_eq!(u16::from(close.code), 1007);
    }
    let after = deployment.metrics().await;
    for name in ["streamer_failures_total", "streamer_transitions_total"] {
        assert_eq!(after.sum(name, &[]), before.sum(name, &[]), "{name}");
    }
    deployment.streamers_in_rotation(4).await;
    let path = "/choosy/websocket";
    Client::connect(address, Way::Plain, Framing::Raw, path, &[]).await;
}

/// A streamer that is well, and closes with 1007 on a `connect` that it cannot decode.
async fn choosy_streamer() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_choosy(stream));
        }
    });
    address
}

async fn serve_choosy(mut stream: TcpStream) -> Option<()> {
    let mut start = [0; 11];
    while stream.peek(&mut start).await.ok()? < start.len() {}
    if &start == b"GET /health" {
        let mut request = [0; 1024];
        while stream.read(&mut request).await.ok()? > 0 {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.ok()?;
        }
        return None;
    }
    let mut socket = accept_async(stream).await.ok()?;
    let server_id = r#"{"msg":"server_id","server_id":"0"}"#;
    socket.send(Message::text(server_id)).await.ok()?;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        if text.contains("poison") {
            let close = CloseFrame {
                code: CloseCode::Invalid,
                reason: "".into(),
            };
            socket.close(Some(close)).await.ok()?;
        } else {
            let connected = r#"{"msg":"connected","session":"s"}"#;
            socket.send(Message::text(connected)).await.ok()?;
        }
    }
    None
}
