//! The simulated streamer keeps the rules of the real one; checked over real sockets.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use super::{
    streamer::{Mode, Streamer, StreamerOptions},
    workspace::Workspace,
};

const DEADLINE: Duration = Duration::from_secs(10);

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn open(streamer: &Streamer, target: &str) -> Self {
        let request = format!("ws://{}{target}", streamer.address())
            .into_client_request()
            .unwrap();
        let stream = TcpStream::connect(streamer.address()).await.unwrap();
        Self(client_async(request, stream).await.unwrap().0)
    }

    /// Raw, connected, `server_id` and `connected` read.
    async fn connect(streamer: &Streamer) -> Self {
        let mut client = Self::open(streamer, "/websocket").await;
        client
            .say(json!({ "msg": "connect", "version": "1", "support": ["1"] }))
            .await;
        assert_eq!(client.hear().await["msg"], "server_id");
        assert_eq!(client.hear().await["msg"], "connected");
        client
    }

    async fn login(streamer: &Streamer, name: &str) -> Self {
        let mut client = Self::connect(streamer).await;
        client
            .call("0", "login", json!([{ "resume": format!("demo-{name}") }]))
            .await;
        let result = client.hear().await;
        assert_eq!(result["result"]["id"], format!("uid-{name}"));
        assert_eq!(client.hear().await["msg"], "updated");
        assert_eq!(client.hear().await["collection"], "users");
        client
    }

    async fn say(&mut self, message: Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    async fn call(&mut self, id: &str, method: &str, params: Value) {
        self.say(json!({ "msg": "method", "id": id, "method": method, "params": params }))
            .await;
    }

    async fn sub(&mut self, id: &str, name: &str, params: Value) {
        self.say(json!({ "msg": "sub", "id": id, "name": name, "params": params }))
            .await;
    }

    async fn text(&mut self) -> String {
        match timeout(DEADLINE, self.0.next())
            .await
            .expect("no message in time")
        {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The close code; `None` when the connection ends without one.
    async fn end(&mut self) -> Option<u16> {
        loop {
            match timeout(DEADLINE, self.0.next())
                .await
                .expect("no end in time")
            {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}

async fn streamer() -> Streamer {
    Streamer::start(StreamerOptions::default()).await.unwrap()
}

#[tokio::test]
async fn only_the_exact_target_is_raw() {
    let streamer = streamer().await;
    for target in [
        "/websocket/",
        "/websocket?x=1",
        "/sockjs/websocket",
        "/sockjs/1/abc/websocket",
    ] {
        let mut client = Client::open(&streamer, target).await;
        assert_eq!(client.text().await, "o");
        let greeting = r#"a["{\"msg\":\"server_id\",\"server_id\":\"0\"}"]"#;
        assert_eq!(client.text().await, greeting);
        let connect = json!([json!({ "msg": "connect" }).to_string(), "not even read"]);
        client.say(connect).await;
        assert!(
            client
                .text()
                .await
                .starts_with(r#"a["{\"msg\":\"connected\""#)
        );
    }
    assert_eq!(streamer.upgrades()[1].target, "/websocket?x=1");
    Client::connect(&streamer).await;
}

/// What was published before a ping was read stands before its pong.
#[tokio::test]
async fn a_pong_does_not_overtake_events() {
    let workspace = Workspace::default();
    let start = |name| Streamer::start(StreamerOptions::new(name, &workspace));
    let (one, other) = (start("one").await.unwrap(), start("other").await.unwrap());
    let mut client = Client::connect(&one).await;
    let params = json!(["GENERAL", false]);
    client.sub("1", "stream-room-messages", params).await;
    assert_eq!(client.hear().await["msg"], "ready");
    // Both wait at the streamer when it wakes up: the ping in its socket, the events in its queue.
    one.set_mode(Mode::HalfDead).await.unwrap();
    client.say(json!({ "msg": "ping", "id": "fence" })).await;
    for n in 0..100 {
        workspace.publish("stream-room-messages", "GENERAL", &[json!(n)]);
    }
    Client::connect(&other).await;
    one.set_mode(Mode::Normal).await.unwrap();
    for n in 0..100 {
        let event = client.hear().await;
        assert_eq!(event["fields"]["args"], json!([n]), "{event}");
    }
    assert_eq!(client.hear().await["id"], "fence");
}

#[tokio::test]
async fn events_may_reach_one_streamer_later_than_another() {
    let workspace = Workspace::default();
    let lag = Duration::from_millis(50);
    let late = StreamerOptions {
        lag,
        ..StreamerOptions::new("late", &workspace)
    };
    let late = Streamer::start(late).await.unwrap();
    let mut client = Client::connect(&late).await;
    let params = json!(["GENERAL", false]);
    client.sub("1", "stream-room-messages", params).await;
    assert_eq!(client.hear().await["msg"], "ready");
    let published = std::time::Instant::now();
    for n in 0..3 {
        workspace.publish("stream-room-messages", "GENERAL", &[json!(n)]);
    }
    for n in 0..3 {
        assert_eq!(client.hear().await["fields"]["args"], json!([n]));
        assert!(published.elapsed() >= lag);
    }
}

#[tokio::test]
async fn pings_early_and_closes_with_4000_when_nothing_comes() {
    let options = StreamerOptions {
        idle: Duration::from_millis(50),
        ..StreamerOptions::default()
    };
    let streamer = Streamer::start(options).await.unwrap();
    let mut client = Client::open(&streamer, "/websocket").await;
    assert_eq!(client.hear().await["msg"], "server_id");
    assert_eq!(client.hear().await["msg"], "ping");
    assert_eq!(client.end().await, Some(4000));
}

#[tokio::test]
async fn faults_close_with_their_codes() {
    let streamer = streamer().await;
    let method = json!({ "msg": "method", "method": "demo:echo" }).to_string();
    let pong = json!({ "msg": "pong" }).to_string();
    for (connected, message, code) in [
        (false, Message::text(pong), 1002),
        (false, Message::text(""), 1007),
        (true, Message::text("{"), 1007),
        (true, Message::binary(b"{}".as_slice()), 1007),
        (true, Message::text(method), 1002),
        (true, Message::text(r#"{"msg":"sub","id":"1"}"#), 1002),
        (true, Message::text(r#"{"msg":"unsub"}"#), 1002),
    ] {
        let mut client = if connected {
            Client::connect(&streamer).await
        } else {
            Client::open(&streamer, "/websocket").await
        };
        client.0.send(message.clone()).await.unwrap();
        assert_eq!(client.end().await, Some(code), "{message:?}");
    }
    let mut client = Client::open(&streamer, "/sockjs/1/a/websocket").await;
    client.0.send(Message::text("[]")).await.unwrap();
    assert_eq!(client.end().await, Some(1007));
}

#[tokio::test]
async fn methods_and_subs_wait_for_each_other_and_pings_do_not() {
    let streamer = streamer().await;
    let mut client = Client::connect(&streamer).await;
    client.call("1", "demo:sleep", json!([200])).await;
    client
        .sub("s", "stream-notify-all", json!(["x", false]))
        .await;
    client.call("2", "demo:echo", json!([0])).await;
    client.say(json!({ "msg": "ping", "id": "p" })).await;
    assert_eq!(client.hear().await, json!({ "msg": "pong", "id": "p" }));
    assert_eq!(
        client.hear().await,
        json!({ "msg": "result", "id": "1", "result": 200 })
    );
    assert_eq!(
        client.hear().await,
        json!({ "msg": "updated", "methods": ["1"] })
    );
    assert_eq!(
        client.hear().await,
        json!({ "msg": "ready", "subs": ["s"] })
    );
    assert_eq!(client.hear().await, json!({ "msg": "result", "id": "2" }));
    assert_eq!(
        client.hear().await,
        json!({ "msg": "updated", "methods": ["2"] })
    );
}

#[tokio::test]
async fn unsub_overtakes_a_waiting_sub_and_equal_ids_leak() {
    let streamer = streamer().await;
    let mut client = Client::connect(&streamer).await;
    client.call("1", "demo:sleep", json!([50])).await;
    client
        .sub("s", "stream-notify-all", json!(["x", false]))
        .await;
    client.say(json!({ "msg": "unsub", "id": "s" })).await;
    for expected in ["result", "updated", "ready"] {
        assert_eq!(client.hear().await["msg"], expected);
    }
    client
        .sub("s", "stream-notify-all", json!(["x", false]))
        .await;
    assert_eq!(client.hear().await["msg"], "ready");
    streamer
        .workspace()
        .publish("stream-notify-all", "x", &[json!(1)]);
    assert_eq!(
        client.hear().await["fields"],
        json!({ "eventName": "x", "args": [1] })
    );
    assert_eq!(client.hear().await["id"], "id");
    client.say(json!({ "msg": "unsub", "id": "s" })).await;
    assert_eq!(client.hear().await, json!({ "msg": "nosub", "id": "s" }));
    // The first of the two can no longer be stopped.
    streamer
        .workspace()
        .publish("stream-notify-all", "x", &[json!(2)]);
    assert_eq!(client.hear().await["fields"]["args"], json!([2]));
    assert_eq!(streamer.counters().publications, 1);
}

#[tokio::test]
async fn events_reach_all_streamers_but_typing_not_its_writer() {
    let workspace = Workspace::default();
    let one = Streamer::start(StreamerOptions::new("one", &workspace))
        .await
        .unwrap();
    let two = Streamer::start(StreamerOptions::new("two", &workspace))
        .await
        .unwrap();
    let mut ann = Client::login(&one, "ann").await;
    let mut bob = Client::login(&two, "bob").await;
    for client in [&mut ann, &mut bob] {
        client
            .sub(
                "t",
                "stream-notify-room",
                json!(["GENERAL/user-activity", false]),
            )
            .await;
        client
            .sub("m", "stream-room-messages", json!(["GENERAL", true]))
            .await;
        assert_eq!(
            client.hear().await,
            json!({ "msg": "ready", "subs": ["t"] })
        );
        assert_eq!(client.hear().await["msg"], "added");
        assert_eq!(
            client.hear().await,
            json!({ "msg": "ready", "subs": ["m"] })
        );
    }
    let typing = json!(["GENERAL/user-activity", "ann", ["user-typing"], {}]);
    ann.call("1", "stream-notify-room", typing).await;
    ann.call(
        "2",
        "sendMessage",
        json!([{ "rid": "GENERAL", "msg": "hello" }]),
    )
    .await;
    assert_eq!(bob.hear().await["fields"]["args"][0], "ann");
    assert_eq!(bob.hear().await["fields"]["args"][0]["msg"], "hello");
    let heard: Vec<Value> = [ann.hear().await, ann.hear().await, ann.hear().await].into();
    assert!(
        heard
            .iter()
            .all(|message| message["collection"] != "stream-notify-room"),
        "{heard:?}"
    );
    ann.call("3", "demo:whoami", json!([])).await;
    loop {
        let message = ann.hear().await;
        if message["id"] == "3" {
            assert_eq!(message["result"]["streamer"], "one");
            break;
        }
    }
    assert_eq!(two.counters().logged_in, 1);
}

#[tokio::test]
async fn presence_is_one_set_per_socket() {
    let streamer = streamer().await;
    let mut ann = Client::login(&streamer, "ann").await;
    let watch = |added: &str| json!(["", { "added": [added], "removed": [] }]);
    ann.sub("p", "stream-user-presence", watch("uid-bob")).await;
    assert_eq!(ann.hear().await, json!({ "msg": "ready", "subs": ["p"] }));
    ann.sub("q", "stream-user-presence", watch("uid-eve")).await;
    assert_eq!(ann.hear().await, json!({ "msg": "nosub", "id": "q" }));
    let mut bob = Client::login(&streamer, "bob").await;
    let event = ann.hear().await;
    assert_eq!(event["id"], "uid-bob");
    assert_eq!(event["fields"]["args"], json!([["bob", 1, ""]]));
    bob.call("1", "UserPresence:away", json!([])).await;
    assert_eq!(ann.hear().await["fields"]["args"][0][1], 2);
    drop(bob);
    assert_eq!(ann.hear().await["fields"]["args"][0][1], 0);
}

#[tokio::test]
async fn logins_fail_with_403_and_logout_ends_with_1002() {
    let streamer = streamer().await;
    let mut client = Client::connect(&streamer).await;
    client
        .call("1", "login", json!([{ "resume": "stolen" }]))
        .await;
    assert_eq!(client.hear().await["error"]["error"], 403);
    assert_eq!(client.hear().await["msg"], "updated");
    let mut client = Client::login(&streamer, "ann").await;
    client.call("2", "logout", json!([])).await;
    assert_eq!(client.hear().await, json!({ "msg": "result", "id": "2" }));
    assert_eq!(client.end().await, Some(1002));
}

#[tokio::test]
async fn stops_without_goodbye_and_comes_back_on_its_port() {
    let streamer = streamer().await;
    let mut client = Client::connect(&streamer).await;
    assert_eq!(streamer.sessions(), 1);
    streamer.stop().await;
    assert_eq!(client.end().await, None);
    assert_eq!(streamer.sessions(), 0);
    TcpStream::connect(streamer.address()).await.unwrap_err();
    streamer.start_again().await.unwrap();
    let mut client = Client::connect(&streamer).await;
    streamer.set_mode(Mode::Refuse).await.unwrap();
    TcpStream::connect(streamer.address()).await.unwrap_err();
    client.say(json!({ "msg": "ping" })).await;
    assert_eq!(client.hear().await["msg"], "pong");
    streamer.set_mode(Mode::HalfDead).await.unwrap();
    let mut silent = Client::open(&streamer, "/websocket").await;
    let heard = timeout(Duration::from_millis(100), silent.0.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    streamer.set_mode(Mode::Normal).await.unwrap();
    assert_eq!(silent.hear().await["msg"], "server_id");
}

#[tokio::test]
async fn an_upgrade_without_a_key_is_refused() {
    let streamer = streamer().await;
    let mut request = format!("ws://{}/websocket", streamer.address())
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-version", "12".parse().unwrap());
    let stream = TcpStream::connect(streamer.address()).await.unwrap();
    match client_async(request, stream).await.unwrap_err() {
        Error::Http(response) => assert_eq!(response.status(), 400),
        other => panic!("{other:?}"),
    }
}
