//! Sockets of clients, from the upgrade to the close.

use std::{collections::BTreeSet, time::Duration};

use ddp_gateway::{ddp::Framing, demo::streamer::Mode};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{Error, Message, http::Response, protocol::Role};

use crate::support::{
    certificate::Pair,
    deployment::{Deployment, Plan},
    eventually, http, settles,
    socket::{Client, End, Socket, Stream, Way, open},
    soon,
    stopwatch::Stopwatch,
    until,
};

const WAYS: [(Way, Framing, &str); 5] = [
    (Way::Plain, Framing::Raw, "/websocket"),
    (
        Way::Plain,
        Framing::SockJs,
        "/sockjs/123/abcdefgh/websocket",
    ),
    (Way::Plain, Framing::Raw, "/sockjs/websocket"),
    (Way::Tls, Framing::Raw, "/websocket"),
    (Way::Tls, Framing::SockJs, "/sockjs/123/abcdefgh/websocket"),
];

fn address(deployment: &Deployment, way: Way) -> std::net::SocketAddr {
    match way {
        Way::Plain => deployment.plain(),
        Way::Tls => deployment.tls(),
    }
}

fn keys(tables: &str) -> Plan {
    Plan {
        tables: tables.to_owned(),
        ..Plan::default()
    }
}

#[tokio::test]
async fn every_kind_of_client_chats() {
    let deployment = Deployment::start().await;
    for (way, framing, path) in WAYS {
        let address = address(&deployment, way);
        let mut ann = Client::connect(address, way, framing, path, &[]).await;
        let mut bob = Client::connect(address, way, framing, path, &[]).await;
        ann.call("login", json!([{"resume": "demo-ann"}])).await;
        bob.call("login", json!([{"resume": "demo-bob"}])).await;
        let room = json!(["GENERAL", {"useCollection": false, "args": []}]);
        bob.send(
            &json!({"msg": "sub", "id": "s1", "name": "stream-room-messages", "params": room}),
        )
        .await;
        assert_eq!(bob.message("ready").await["subs"], json!(["s1"]));
        let text = format!("hello over {path}");
        let sent = ann
            .call("sendMessage", json!([{"rid": "GENERAL", "msg": text}]))
            .await;
        assert!(sent["error"].is_null(), "{sent}");
        let event = eventually("the event", async || {
            let event = bob.message("changed").await;
            (event["fields"]["args"][0]["msg"] == text.as_str()).then_some(event)
        })
        .await;
        assert_eq!(event["collection"], "stream-room-messages");
        ann.close().await;
        bob.close().await;
    }
    deployment.sessions(0).await;
    for streamer in &deployment.streamers {
        settles("sockets left on the streamer", 0, async || {
            streamer.sessions()
        })
        .await;
    }
}

#[tokio::test]
async fn the_streamer_sees_the_client_but_none_of_its_secrets() {
    let deployment = Deployment::start().await;
    let headers = [
        ("Cookie", "rc_token=secret"),
        ("Authorization", "Bearer secret"),
        ("X-Auth-Token", "secret"),
        ("User-Agent", "test agent"),
        ("X-Forwarded-For", "203.0.113.9"),
    ];
    for (way, framing, path) in WAYS {
        let address = address(&deployment, way);
        Client::connect(address, way, framing, path, &headers)
            .await
            .close()
            .await;
    }
    let mut targets = BTreeSet::new();
    for upgrade in deployment
        .streamers
        .iter()
        .flat_map(|streamer| streamer.upgrades())
    {
        if upgrade
            .headers
            .get("user-agent")
            .is_none_or(|agent| agent != "test agent")
        {
            continue;
        }
        let all = format!("{:?}", upgrade.headers);
        assert!(!all.contains("secret"), "{all}");
        // Loopback is not among the trusted proxies, so the client's word does not count.
        assert_eq!(upgrade.headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(upgrade.headers["x-real-ip"], "127.0.0.1");
        targets.insert(upgrade.target);
    }
    let expected = ["/sockjs/123/abcdefgh/websocket", "/websocket"].map(str::to_owned);
    assert_eq!(targets, BTreeSet::from(expected));
}

#[tokio::test]
async fn the_answer_does_not_wait_for_a_streamer() {
    let deployment = Deployment::start().await;
    for streamer in &deployment.streamers {
        streamer.stop().await;
    }
    let path = "/sockjs/1/parked/websocket";
    let (mut socket, _) = open(deployment.plain(), Way::Plain, path, &[])
        .await
        .unwrap();
    let first = soon("the greeting", socket.next()).await.unwrap().unwrap();
    assert_eq!(first, Message::text("o"));

    // Parked with all it has to say; nothing of it is lost and nothing is sent twice.
    let mut client = tokio::spawn(Client::greet(socket, Framing::SockJs));
    deployment.sessions(1).await;
    until("the client is parked", async || {
        deployment.metrics().await.sum("pool_waiting", &[]) >= 1.0
    })
    .await;
    assert!(!client.is_finished());
    let back = Stopwatch::start("attached once a streamer was back");
    deployment.streamers[1].start_again().await.unwrap();
    let mut client = soon("the attachment", &mut client).await.unwrap();
    let took = back.read();
    assert_eq!(client.streamer().await, "streamer-2");
    assert!(took < Duration::from_millis(500), "attached after {took:?}");
    client.close().await;
}

#[tokio::test]
async fn what_is_sent_before_the_answer_arrives_in_order() {
    let deployment =
        Deployment::of(keys("[limits.methods]\nconnection_by_method = \"off\"\n")).await;
    let (mut socket, _) = open(deployment.plain(), Way::Plain, "/websocket", &[])
        .await
        .unwrap();
    let mut messages =
        vec![json!({"msg": "connect", "version": "1", "support": ["1"]}).to_string()];
    let login = json!([{"resume": "demo-ann"}]);
    messages
        .push(json!({"msg": "method", "id": "0", "method": "login", "params": login}).to_string());
    for n in 1..=60 {
        let id = n.to_string();
        let call = json!({"msg": "method", "id": id, "method": "demo:echo", "params": [n]});
        messages.push(call.to_string());
    }
    for message in messages {
        socket.feed(Message::text(message)).await.unwrap();
    }
    socket.flush().await.unwrap();
    let mut results = Vec::new();
    while results.len() < 61 {
        let message = soon("a result", socket.next()).await.unwrap().unwrap();
        let message: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if message["msg"] == "result" {
            results.push(message["id"].as_str().unwrap().parse::<u32>().unwrap());
        }
    }
    assert_eq!(results, (0..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn large_and_fragmented_messages_pass_unchanged() {
    let deployment = Deployment::start().await;
    for (way, framing, path) in [WAYS[0], WAYS[4]] {
        let address = address(&deployment, way);
        let mut client = Client::connect(address, way, framing, path, &[]).await;
        for size in [0, 1, 100, 511, 512, 513, 65_535, 65_536, 300_000, 900_000] {
            let text = "grüße ".repeat(size / 8 + 1);
            let answer = client.call("demo:echo", json!([text])).await;
            assert_eq!(answer["result"], text.as_str(), "{size} bytes over {path}");
        }
        client.close().await;
    }
}

#[tokio::test]
async fn pings_are_answered_by_the_gateway() {
    let deployment = Deployment::start().await;
    let (mut socket, _) = open(deployment.plain(), Way::Plain, "/websocket", &[])
        .await
        .unwrap();
    socket
        .send(Message::Ping("are you there".into()))
        .await
        .unwrap();
    let answer = soon("a pong", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong("are you there".into()));
}

#[tokio::test]
async fn an_idle_close_of_the_streamer_reaches_the_client_as_another_code() {
    let plan = Plan {
        streamer_idle: Some(Duration::from_millis(300)),
        ..Plan::default()
    };
    let deployment = Deployment::of(plan).await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    // Reads on and answers no ping of the streamer.
    let end = soon("the close", client.end()).await;
    assert_eq!(end.code(), Some(1001), "{end:?}");
    deployment.sessions(0).await;
    let metrics = deployment.metrics().await;
    let closed = metrics.sum("sessions_closed_total", &[("reason", "streamer_timeout")]);
    assert!((closed - 1.0).abs() < f64::EPSILON, "{closed}");
}

#[tokio::test]
async fn a_dead_streamer_ends_its_clients_with_1012_and_no_others() {
    let deployment = Deployment::start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::sockjs(deployment.plain(), Way::Plain).await;
        let streamer = client.streamer().await;
        clients.push((streamer, client));
    }
    let here = clients
        .iter()
        .filter(|(streamer, _)| streamer == "streamer-1")
        .count();
    assert_eq!(here, 10, "newcomers go where the fewest are");
    deployment.streamers[0].stop().await;
    for (streamer, client) in &mut clients {
        if streamer == "streamer-1" {
            let end = soon("the close", client.end()).await;
            assert_eq!(end.code(), Some(1012), "{end:?}");
        } else {
            assert_eq!(client.streamer().await, "streamer-2");
        }
    }
    deployment.sessions(10).await;
}

#[tokio::test]
async fn logout_ends_as_the_streamer_ends_it() {
    let deployment = Deployment::start().await;
    let mut client = Client::raw(deployment.tls(), Way::Tls).await;
    client.call("login", json!([{"resume": "demo-ann"}])).await;
    client.call("logout", json!([])).await;
    let end = soon("the close", client.end()).await;
    assert_eq!(end.code(), Some(1002), "{end:?}");
}

#[tokio::test]
async fn only_listed_origins_may_open_sockets() {
    let plan = keys("[websocket]\norigins = [\"https://chat.example.com\"]\n");
    let deployment = Deployment::of(plan).await;
    let plain = deployment.plain();
    let good = [("Origin", "https://chat.example.com")];
    Client::connect(plain, Way::Plain, Framing::Raw, "/websocket", &good)
        .await
        .close()
        .await;
    Client::raw(plain, Way::Plain).await.close().await;
    let bad = [("Origin", "https://evil.example.com")];
    let refused = open(plain, Way::Plain, "/websocket", &bad).await;
    let Err(Error::Http(response)) = refused else {
        panic!("not refused over HTTP")
    };
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn a_returning_client_gets_its_streamer_back() {
    let deployment = Deployment::of(Plan {
        streamers: 4,
        ..Plan::default()
    })
    .await;
    let plain = deployment.plain();

    // By cookie.
    let (socket, response) = open(plain, Way::Plain, "/websocket", &[]).await.unwrap();
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let mut first = Client::greet(socket, Framing::Raw).await;
    let home = first.streamer().await;
    let mut others = Vec::new();
    for _ in 0..7 {
        others.push(Client::raw(plain, Way::Plain).await);
    }
    let old_session = first.session.clone();
    first.close().await;
    let headers = [("Cookie", cookie.as_str())];
    for _ in 0..5 {
        let mut again =
            Client::connect(plain, Way::Plain, Framing::Raw, "/websocket", &headers).await;
        assert_eq!(again.streamer().await, home);
        others.push(again);
    }

    // By the session in `connect`, although that streamer has the most sessions now.
    let (mut socket, _) = open(plain, Way::Plain, "/websocket", &[]).await.unwrap();
    let connect = json!({
        "msg": "connect", "version": "1", "support": ["1"], "session": old_session
    });
    socket
        .send(Message::text(connect.to_string()))
        .await
        .unwrap();
    let mut again = Client::greet(socket, Framing::Raw).await;
    assert_eq!(again.streamer().await, home);

    // Never to one that is gone.
    let gone = deployment
        .streamers
        .iter()
        .find(|streamer| streamer.name() == home)
        .unwrap();
    gone.stop().await;
    deployment.streamers_in_rotation(3).await;
    let mut moved = Client::connect(plain, Way::Plain, Framing::Raw, "/websocket", &headers).await;
    assert_ne!(moved.streamer().await, home);
    let metrics = deployment.metrics().await;
    assert!(metrics.sum("affinity_total", &[("result", "kept")]) >= 6.0);
}

/// The cookie of a client still names the streamer that its session has left. It is a wish, no
/// more: nobody is sent to one that is drained, nobody waits for it, and the next answer brings a
/// cookie that is right.
#[tokio::test]
async fn the_cookie_of_a_moved_client_does_not_bring_it_back_to_a_drained_streamer() {
    let deployment = Deployment::of(Plan {
        streamers: 3,
        ..Plan::default()
    })
    .await;
    let plain = deployment.plain();
    let cookie_of = |response: &Response<Option<Vec<u8>>>| {
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    };
    let (socket, response) = open(plain, Way::Plain, "/websocket", &[]).await.unwrap();
    let stale = cookie_of(&response);
    let mut client = Client::greet(socket, Framing::Raw).await;
    let home = client.streamer().await;
    let at_home = |name: &str| {
        let mut streamers = deployment.streamers.iter();
        streamers.find(|streamer| streamer.name() == name).unwrap()
    };
    let id = at_home(&home).address();
    let order = async |what: &str| {
        let path = format!("/streamers/{what}?streamer={id}");
        assert!(matches!(
            http::post(deployment.admin(), &path).await.status,
            200 | 202
        ));
    };
    order("drain").await;
    settles("sessions on it", 0, async || at_home(&home).sessions()).await;
    let away = client.streamer().await;
    assert_ne!(away, home);
    let session = client.session.clone();
    client.close().await;

    // As an app that keeps the session's id, and as a browser that has only the cookie.
    for session in [Some(session.as_str()), None] {
        let headers = [("Cookie", stale.as_str())];
        let (socket, response) = open(plain, Way::Plain, "/websocket", &headers)
            .await
            .unwrap();
        let fresh = cookie_of(&response);
        assert_ne!(fresh, stale);
        let mut connect = json!({"msg": "connect", "version": "1", "support": ["1"]});
        if let Some(session) = session {
            connect["session"] = session.into();
        }
        let mut again = Client::connect_as(socket, Framing::Raw, &connect, None).await;
        let there = again.streamer().await;
        assert_ne!(there, home, "{session:?}");
        again.close().await;
        // The new cookie holds when the old streamer is back and the emptiest.
        order("undrain").await;
        let headers = [("Cookie", fresh.as_str())];
        let mut later =
            Client::connect(plain, Way::Plain, Framing::Raw, "/websocket", &headers).await;
        assert_eq!(later.streamer().await, there, "{session:?}");
        later.close().await;
        order("drain").await;
    }
    // Gone altogether, it is as good as no cookie.
    at_home(&home).stop().await;
    deployment.streamers_in_rotation(2).await;
    let headers = [("Cookie", stale.as_str())];
    let mut again = Client::connect(plain, Way::Plain, Framing::Raw, "/websocket", &headers).await;
    assert_ne!(again.streamer().await, home);
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("affinity_total", &[("result", "moved")]), 3.0);
    assert_eq!(
        metrics.sum("sessions_closed_total", &[("by", "gateway")]),
        0.0
    );
}

#[tokio::test]
async fn a_forged_cookie_is_ignored() {
    let deployment = Deployment::start().await;
    for cookie in [
        "ddp_gateway=x",
        "ddp_gateway=",
        "ddp_gateway=////",
        "ddp_gateway",
    ] {
        let headers = [("Cookie", cookie)];
        let (socket, response) = open(deployment.plain(), Way::Plain, "/websocket", &headers)
            .await
            .unwrap();
        assert!(response.headers().contains_key("set-cookie"));
        Client::greet(socket, Framing::Raw).await.close().await;
    }
}

#[tokio::test]
async fn a_full_pool_queues_and_then_refuses_without_a_storm() {
    let plan = Plan {
        streamers: 1,
        ..keys(
            "[pool]\nsessions_per_streamer = 2\nqueue_length = 1\nqueue_wait = \"25s\"\n\
             slow_start = \"0s\"\n",
        )
    };
    let deployment = Deployment::of(plan).await;
    let plain = deployment.plain();
    let first = Client::raw(plain, Way::Plain).await;
    let _second = Client::sockjs(plain, Way::Plain).await;
    let (third, _) = open(plain, Way::Plain, "/websocket", &[]).await.unwrap();
    let third = tokio::spawn(Client::greet(third, Framing::Raw));
    until("the third one waits", async || {
        deployment.metrics().await.sum("pool_waiting", &[]) >= 1.0
    })
    .await;

    // The queue is full now: each kind of client is told in its own way.
    let info = http::get(plain, "/sockjs/info").await;
    assert_eq!(info.status, 503);
    assert!(info.header("retry-after").is_some());
    let refused = open(plain, Way::Plain, "/websocket", &[]).await;
    let Err(Error::Http(response)) = refused else {
        panic!("not refused over HTTP")
    };
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let path = "/sockjs/1/refused/websocket";
    let (mut socket, _) = open(plain, Way::Plain, path, &[]).await.unwrap();
    let only = soon("the refusal", socket.next()).await.unwrap().unwrap();
    let only = only.to_text().unwrap();
    assert!(only.starts_with("c[3000,"), "{only}");

    // Room goes to the one who waits.
    first.close().await;
    let mut third = soon("its turn", third).await.unwrap();
    assert_eq!(third.streamer().await, "streamer-1");
    until("the queue is open again", async || {
        http::get(plain, "/sockjs/info").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_client_that_waits_too_long_is_let_go() {
    let plan = keys("[pool]\nqueue_wait = \"1s\"\n");
    let deployment = Deployment::of(plan).await;
    for streamer in &deployment.streamers {
        streamer.set_mode(Mode::Refuse).await.unwrap();
    }
    let (mut socket, _) = open(deployment.plain(), Way::Plain, "/websocket", &[])
        .await
        .unwrap();
    let connect = json!({"msg": "connect", "version": "1", "support": ["1"]});
    socket
        .send(Message::text(connect.to_string()))
        .await
        .unwrap();
    let code = eventually("the close", async || match socket.next().await {
        Some(Ok(Message::Close(frame))) => Some(frame.map(|frame| u16::from(frame.code))),
        Some(Ok(_)) => None,
        other => panic!("{other:?}"),
    })
    .await;
    assert_eq!(code, Some(1013));
}

#[tokio::test]
async fn a_burst_after_login_passes_and_a_flood_does_not() {
    let plan = keys("[limits]\nmessages = \"50/s\"\nmessages_burst = 100\nabuse_after = \"1s\"\n");
    let deployment = Deployment::of(plan).await;
    let mut honest = Client::raw(deployment.plain(), Way::Plain).await;
    let started = Instant::now();
    for n in 0..60 {
        // As many of one name as Rocket.Chat's own limits allow.
        let name = match n {
            0..10 => "meteor.loginServiceConfiguration",
            10..20 => "meteor_autoupdate_clientVersions",
            _ => "stream-notify-all",
        };
        let params = json!([format!("event-{n}"), {"useCollection": false, "args": []}]);
        honest
            .send(&json!({"msg": "sub", "id": n.to_string(), "name": name, "params": params}))
            .await;
    }
    for _ in 0..60 {
        honest.message("ready").await;
    }
    let honest_took = started.elapsed();

    let (mut flood, _) = open(deployment.plain(), Way::Plain, "/websocket", &[])
        .await
        .unwrap();
    let connect = json!({"msg": "connect", "version": "1", "support": ["1"]});
    flood
        .send(Message::text(connect.to_string()))
        .await
        .unwrap();
    let (mut write, mut read) = flood.split();
    let writer = tokio::spawn(async move {
        let mut sent = 0_u32;
        while sent < 1_000_000 && write.send(Message::text(r#"{"msg":"pong"}"#)).await.is_ok() {
            sent += 1;
        }
    });
    let code = eventually("the close", async || match read.next().await {
        Some(Ok(Message::Close(frame))) => Some(frame.map(|frame| u16::from(frame.code))),
        Some(Ok(_)) => None,
        // The flood may still be in the air when the gateway closes.
        Some(Err(_)) | None => Some(None),
    })
    .await;
    assert!(code.is_none_or(|code| code == 1008), "{code:?}");
    writer.abort();
    until("the close is counted", async || {
        let metrics = deployment.metrics().await;
        metrics.sum("sessions_closed_total", &[("reason", "rate_abuse")]) >= 1.0
    })
    .await;
    let metrics = deployment.metrics().await;
    assert!(metrics.sum("limited_total", &[("reason", "messages")]) >= 1.0);
    // The honest client was neither slowed then nor is it now.
    assert!(honest_took < Duration::from_secs(5), "{honest_took:?}");
    assert!(!honest.streamer().await.is_empty());
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_disturbs_nobody() {
    let plan = keys(
        "[websocket]\nbuffer = \"64KiB\"\nmessage_limit = \"4MiB\"\nstall_timeout = \"3s\"\n\
         [limits]\nbytes = \"1GiB/s\"\nbytes_burst = \"1GiB\"\n",
    );
    let deployment = Deployment::of(plan).await;
    let mut slow = Client::raw(deployment.plain(), Way::Plain).await;
    let mut other = Client::raw(deployment.plain(), Way::Plain).await;
    let text = "x".repeat(200_000);
    for n in 0..100 {
        // Asks again and again and never reads an answer.
        let call =
            json!({"msg": "method", "id": n.to_string(), "method": "demo:echo", "params": [text]});
        let sending = slow.socket().send(Message::text(call.to_string()));
        if !matches!(timeout(Duration::from_secs(2), sending).await, Ok(Ok(()))) {
            break;
        }
    }
    until("the slow one is closed", async || {
        let metrics = deployment.metrics().await;
        metrics.sum("sessions_closed_total", &[("reason", "slow_consumer")]) >= 1.0
    })
    .await;
    assert!(!other.streamer().await.is_empty());
    deployment.sessions(1).await;
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed() {
    let plan = keys("[websocket]\nidle_timeout = \"2s\"\n");
    let deployment = Deployment::of(plan).await;
    // Never polled, so it answers no ping; its socket stays open.
    let vanished = Client::raw(deployment.plain(), Way::Plain).await;
    deployment.sessions(1).await;
    until("the close is counted", async || {
        let metrics = deployment.metrics().await;
        metrics.sum("sessions_closed_total", &[("reason", "client_silent")]) >= 1.0
    })
    .await;
    deployment.sessions(0).await;
    for streamer in &deployment.streamers {
        settles("sockets left on the streamer", 0, async || {
            streamer.sessions()
        })
        .await;
    }
    drop(vanished);
}

#[tokio::test]
async fn counters_move_while_a_socket_lives() {
    let deployment = Deployment::start().await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    client.call("demo:echo", json!(["one"])).await;
    let page = http::get(deployment.admin(), "/sessions").await.json();
    let row = &page["sessions"][0];
    assert_eq!(row["phase"], "anonymous");
    assert!(row["messages_up"].as_u64().unwrap() >= 2, "{row}");
    assert!(row["bytes_down"].as_u64().unwrap() > 0, "{row}");
    let metrics = deployment.metrics().await;
    assert!(metrics.sum("session_messages_total", &[("direction", "up")]) >= 2.0);
    assert!(metrics.sum("session_bytes_total", &[("direction", "down")]) > 0.0);
    assert!((metrics.sum("sessions", &[("phase", "anonymous")]) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_client_cut_in_the_middle_of_a_frame_leaves_nothing_behind() {
    let deployment = Deployment::start().await;
    let mut stream = TcpStream::connect(deployment.plain()).await.unwrap();
    let head = "GET /websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // The first frames may come together with the request, and be cut anywhere.
    let mut bytes = head.as_bytes().to_vec();
    let connect = br#"{"msg":"connect","version":"1","support":["1"]}"#;
    bytes.extend_from_slice(&[
        0x81,
        0x80 | u8::try_from(connect.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    bytes.extend_from_slice(connect);
    bytes.extend_from_slice(&[0x81, 0xfe, 0x10]);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    until("connected", async || {
        stream.read_buf(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).contains(r#""msg":"connected""#)
    })
    .await;
    drop(stream);
    deployment.sessions(0).await;
    for streamer in &deployment.streamers {
        settles("sockets left on the streamer", 0, async || {
            streamer.sessions()
        })
        .await;
    }
}

#[tokio::test]
async fn the_close_of_a_client_reaches_the_streamer() {
    let deployment = Deployment::start().await;
    let mut client = Client::raw(deployment.tls(), Way::Tls).await;
    client.socket().close(None).await.unwrap();
    let end = soon("the close", client.end()).await;
    assert!(matches!(end, End::Closed(..)), "{end:?}");
    deployment.sessions(0).await;
    let metrics = deployment.metrics().await;
    let closed = metrics.sum("sessions_closed_total", &[("by", "client")]);
    assert!((closed - 1.0).abs() < f64::EPSILON, "{closed}");
}

/// RFC 8441: one stream of an HTTP/2 connection is the socket.
#[tokio::test]
async fn a_socket_over_http2_chats_when_it_is_configured() {
    let listeners = |pair: &str, allowed: bool| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{pair}]\nhttp2_websocket = {allowed}\n"
        )
    };
    for allowed in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let pair = Pair::write(folder.path(), "tls", &["localhost"]);
        let plan = Plan {
            listeners: Some(listeners(&pair.toml(), allowed)),
            ..Plan::default()
        };
        let deployment = Deployment::of(plan).await;
        let stream = http::tls(deployment.tls(), "localhost", &["h2"])
            .await
            .unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let driver = tokio::spawn(connection);
        // The server's settings say whether it may be asked.
        let request = || {
            let mut request = hyper::Request::builder()
                .method("CONNECT")
                .uri("https://localhost/sockjs/1/overh2/websocket")
                .version(hyper::Version::HTTP_2)
                .header("sec-websocket-version", "13")
                .body(String::new())
                .unwrap();
            request
                .extensions_mut()
                .insert(hyper::ext::Protocol::from_static("websocket"));
            request
        };
        let answer = soon("an answer", sender.send_request(request())).await;
        if !allowed {
            // The client itself refuses to ask a server that has not offered it.
            assert!(answer.is_err());
            continue;
        }
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        let upgraded = hyper::upgrade::on(answer).await.unwrap();
        let stream: Box<dyn Stream> = Box::new(TokioIo::new(upgraded));
        let socket = Socket::from_raw_socket(stream, Role::Client, None).await;
        let mut client = Client::greet(socket, Framing::SockJs).await;
        assert!(!client.streamer().await.is_empty());
        let text = "x".repeat(200_000);
        let echoed = client.call("demo:echo", json!([text])).await;
        assert_eq!(echoed["result"], text.as_str());
        client.close().await;
        deployment.sessions(0).await;
        driver.abort();
    }
}
