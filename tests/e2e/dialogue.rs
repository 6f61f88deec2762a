//! What the gateway understands of a session's messages, and what waits with a login.

use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use ddp_gateway::{base::id::StreamerId, pool::logins::LoginTicket};

use crate::support::{
    deployment::{Deployment, Plan},
    http,
    socket::{Client, Way, open},
    soon, until,
};

/// One place for logins, at whichever streamer.
async fn one_login_at_a_time(more: &str) -> Deployment {
    Deployment::of(Plan {
        keys: "watch = false\n".to_owned(),
        tables: format!("[logins]\nconcurrency = 1\nstreamer_concurrency = 1\n{more}"),
        ..Plan::default()
    })
    .await
}

/// Takes the only place for logins until it is dropped.
async fn occupy(deployment: &Deployment) -> impl Drop {
    let logins = deployment.app.control().shared().logins.clone();
    let streamer = StreamerId::new("somewhere else");
    let mut ticket = logins.wait(&streamer, Instant::now()).unwrap();
    let turn = std::future::poll_fn(|cx| ticket.poll(cx, Instant::now()));
    soon("the only place", turn).await
}

fn waiting(deployment: &Deployment) -> usize {
    let logins = &deployment.app.control().shared().logins;
    logins.report(Instant::now()).waiting
}

fn method(id: &str, name: &str, params: &Value) -> Value {
    json!({"msg": "method", "id": id, "method": name, "params": params})
}

fn login(id: &str) -> Value {
    method(id, "login", &json!([{"resume": "demo-ann"}]))
}

#[tokio::test]
async fn each_message_of_a_sockjs_batch_is_answered() {
    let deployment = Deployment::start().await;
    let target = "/sockjs/123/abcdefgh/websocket";
    let (mut socket, _) = open(deployment.plain(), Way::Plain, target, &[])
        .await
        .unwrap();
    let text = |message: Value| message.to_string();
    let connect = text(json!({"msg": "connect", "version": "1", "support": ["1"]}));
    let echo = |n: u32| text(method(&n.to_string(), "demo:echo", &json!([n])));
    // The streamer itself would look at the first of each only, and at a bare string not at all.
    for frame in [
        json!([connect, echo(1), text(login("2")), echo(3)]),
        json!([]),
        json!(echo(4)),
        json!([echo(5), echo(6)]),
    ] {
        socket.send(Message::text(frame.to_string())).await.unwrap();
        socket.send(Message::text("")).await.unwrap();
    }
    let mut results = Vec::new();
    while results.len() < 6 {
        let frame = soon("an answer", socket.next()).await.unwrap().unwrap();
        let Some(array) = frame.to_text().unwrap().strip_prefix('a') else {
            continue;
        };
        for message in serde_json::from_str::<Vec<String>>(array).unwrap() {
            let message: Value = serde_json::from_str(&message).unwrap();
            assert!(message["error"].is_null(), "{message}");
            if message["msg"] == "result" {
                results.push(message["id"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(results, ["1", "2", "3", "4", "5", "6"]);
}

#[tokio::test]
async fn a_subscription_with_an_id_in_use_does_not_double_its_events() {
    let deployment = Deployment::start().await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    client.call("login", json!([{"resume": "demo-ann"}])).await;
    let params = json!(["GENERAL", {"useCollection": false, "args": []}]);
    let sub = json!({"msg": "sub", "id": "s", "name": "stream-room-messages", "params": params});
    client.send(&sub).await;
    client.send(&sub).await;
    client.message("ready").await;
    let message = json!([{"rid": "GENERAL", "msg": "hello"}]);
    client.call("sendMessage", message).await;
    let mut events = 0;
    // Whatever the streamer has to say comes before the answer to a later call.
    client.send(&method("last", "demo:echo", &json!([1]))).await;
    loop {
        let message = client.next().await.unwrap();
        match message["msg"].as_str() {
            Some("changed") if message["collection"] == "stream-room-messages" => events += 1,
            Some("ready") => panic!("a second ready: {message}"),
            Some("result") if message["id"] == "last" => break,
            _ => {}
        }
    }
    assert!(events <= 1, "{events} events of one message");
    client.send(&json!({"msg": "unsub", "id": "s"})).await;
    client.message("nosub").await;
}

#[tokio::test]
async fn what_follows_a_login_waits_with_it_and_pings_do_not() {
    let deployment = one_login_at_a_time("").await;
    let place = occupy(&deployment).await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    client
        .send(&method("1", "demo:echo", &json!(["before"])))
        .await;
    client.send(&login("2")).await;
    client.send(&method("3", "demo:whoami", &json!([]))).await;
    let params = json!(["GENERAL", {"useCollection": false, "args": []}]);
    let sub = json!({"msg": "sub", "id": "s", "name": "stream-room-messages", "params": params});
    client.send(&sub).await;
    client.send(&json!({"msg": "ping", "id": "p"})).await;
    // The ping was sent behind the login and is answered while that waits.
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let message = client.next().await.unwrap();
        match message["msg"].as_str() {
            Some("pong" | "result") => answers.push(message["id"].as_str().unwrap().to_owned()),
            Some("updated" | "ping") => {}
            _ => panic!("answered before its turn: {message}"),
        }
    }
    answers.sort();
    assert_eq!(answers, ["1", "p"]);
    assert_eq!(waiting(&deployment), 1);
    let row = http::get(deployment.admin(), "/sessions").await.json();
    assert_eq!(row["sessions"][0]["phase"], "logging_in");

    drop(place);
    let mut order = Vec::new();
    while order.len() < 3 {
        let message = client.next().await.unwrap();
        assert!(message["error"].is_null(), "{message}");
        match message["msg"].as_str() {
            Some("result") => order.push(message["id"].as_str().unwrap().to_owned()),
            Some("ready") => order.push("s".to_owned()),
            _ => {}
        }
    }
    assert_eq!(order, ["2", "3", "s"]);
    let row = http::get(deployment.admin(), "/sessions").await.json();
    assert_eq!(row["sessions"][0]["phase"], "logged_in");
    until("the streamer's logged-in session is counted", async || {
        deployment.metrics().await.sum("streamer_logged_in", &[]) == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_turn_to_the_next() {
    let deployment = one_login_at_a_time("").await;
    let mut inside = Client::raw(deployment.plain(), Way::Plain).await;
    inside.call("login", json!([{"resume": "demo-ben"}])).await;
    let place = occupy(&deployment).await;
    let mut first = Client::raw(deployment.plain(), Way::Plain).await;
    first.send(&login("1")).await;
    until("the first waits", async || waiting(&deployment) == 1).await;
    let mut second = Client::raw(deployment.plain(), Way::Plain).await;
    second.send(&login("1")).await;
    until("the second waits", async || waiting(&deployment) == 2).await;
    // Who is in goes on chatting.
    let answer = inside.call("demo:echo", json!(["still here"])).await;
    assert_eq!(answer["result"], "still here");
    first.close().await;
    until("the first has left", async || waiting(&deployment) == 1).await;
    drop(place);
    let answer = second.message("result").await;
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn newcomers_are_turned_away_gently_when_too_many_logins_wait() {
    let deployment = one_login_at_a_time("queue_length = 10\n").await;
    let _place = occupy(&deployment).await;
    let logins = deployment.app.control().shared().logins.clone();
    let queue: Vec<LoginTicket> = (0..9)
        .map(|_| {
            let streamer = StreamerId::new("somewhere else");
            logins.wait(&streamer, Instant::now()).unwrap()
        })
        .collect();
    let info = http::get(deployment.plain(), "/sockjs/info").await;
    assert_eq!(info.status, 503);
    assert!(info.header("retry-after").is_some());
    let target = "/sockjs/123/abcdefgh/websocket";
    let (mut socket, _) = open(deployment.plain(), Way::Plain, target, &[])
        .await
        .unwrap();
    let first = soon("the first frame", socket.next())
        .await
        .unwrap()
        .unwrap();
    assert!(first.to_text().unwrap().starts_with("c[3000,"), "{first}");
    drop(queue);
    assert_eq!(
        http::get(deployment.plain(), "/sockjs/info").await.status,
        200
    );
}

#[tokio::test]
async fn a_silent_sockjs_client_gets_a_heartbeat_and_a_ping() {
    let deployment = Deployment::of(Plan {
        tables: "[websocket]\nidle_timeout = \"2s\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let target = "/sockjs/123/abcdefgh/websocket";
    let (mut socket, _) = open(deployment.plain(), Way::Plain, target, &[])
        .await
        .unwrap();
    let connect = json!({"msg": "connect", "version": "1", "support": ["1"]}).to_string();
    let frame = json!([connect]).to_string();
    socket.send(Message::text(frame)).await.unwrap();
    let (mut heartbeat, mut ping) = (false, false);
    while !(heartbeat && ping) {
        match soon("a sign of life", socket.next())
            .await
            .unwrap()
            .unwrap()
        {
            Message::Text(text) => heartbeat |= text.as_str() == "h",
            Message::Ping(_) => ping = true,
            Message::Close(frame) => panic!("closed before it was pinged: {frame:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn the_list_of_sessions_shows_who_is_limited() {
    let deployment = Deployment::of(Plan {
        tables: "[limits.methods]\nconnection_by_method = \"1/1h\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    let mut other = Client::raw(deployment.plain(), Way::Plain).await;
    client.call("demo:echo", json!([1])).await;
    other.call("demo:echo", json!([1])).await;
    let refused = client.call("demo:echo", json!([2])).await;
    assert_eq!(refused["error"]["error"], "too-many-requests");
    let page = http::get(deployment.admin(), "/sessions").await.json();
    let rows = page["sessions"].as_array().unwrap();
    assert_eq!(rows[0]["limited"]["rule"], "connection_by_method", "{page}");
    assert!(rows[0]["limited"]["seconds_ago"].is_u64(), "{page}");
    assert!(rows[1].get("limited").is_none(), "{page}");
}
