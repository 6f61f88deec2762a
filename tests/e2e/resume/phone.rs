//! A client that does at a reconnect what Meteor's does, on a connection that can be cut.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use ddp_gateway::ddp::Framing;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use crate::support::{
    PATIENCE, certificate,
    socket::{Socket, Stream, Way},
    soon,
};

/// Where a phone calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) address: SocketAddr,
    pub(super) way: Way,
    pub(super) framing: Framing,
}

/// A user's client.
pub(super) struct Phone {
    pub(super) line: Line,
    /// Meteor 3.5 or newer: counts the messages of its session and says how many at a reconnect.
    counts: bool,
    pub(super) token: String,
    socket: Option<Socket>,
    waiting: VecDeque<Value>,
    pub(super) session: Option<String>,
    received: u64,
    next_id: u64,
    login: Option<String>,
    subs: BTreeMap<String, Value>,
    /// Methods without a result that were sent on this connection, and that wait for the login.
    sent: Vec<(String, Value)>,
    unsent: Vec<(String, Value)>,
    /// Ids that want their `updated`.
    half_done: Vec<String>,
    /// What came, for the test to look at.
    pub(super) events: Vec<Value>,
    pub(super) results: Vec<Value>,
    pub(super) ready: Vec<String>,
    pub(super) documents: Vec<Value>,
}

impl Phone {
    /// Not connected yet.
    pub(super) fn new(line: Line, counts: bool, user: &str) -> Self {
        Self {
            line,
            counts,
            token: format!("demo-{user}"),
            socket: None,
            waiting: VecDeque::new(),
            session: None,
            received: 0,
            next_id: 0,
            login: None,
            subs: BTreeMap::new(),
            sent: Vec::new(),
            unsent: Vec::new(),
            half_done: Vec::new(),
            events: Vec::new(),
            results: Vec::new(),
            ready: Vec::new(),
            documents: Vec::new(),
        }
    }

    /// One that is in, with a room and the login services.
    pub(super) async fn in_room(line: Line, counts: bool, user: &str) -> Self {
        let mut phone = Self::new(line, counts, user);
        let room = json!(["GENERAL", {"useCollection": false, "args": []}]);
        phone.want("room", "stream-room-messages", room);
        phone.want("services", "meteor.loginServiceConfiguration", json!([]));
        phone.connect().await;
        phone.until_in().await;
        phone
    }

    fn want(&mut self, id: &str, name: &str, params: Value) {
        let sub = json!({"msg": "sub", "id": id, "name": name, "params": params});
        self.subs.insert(id.to_owned(), sub);
    }

    pub(super) fn counts(&self) -> bool {
        self.counts
    }

    /// Sends all at once, as Meteor does, without waiting for an answer.
    pub(super) async fn connect(&mut self) {
        self.waiting.clear();
        self.socket = Some(dial(self.line).await);
        let mut connect = json!({"msg": "connect", "version": "1", "support": ["1"]});
        if let Some(session) = &self.session {
            connect["session"] = session.as_str().into();
            if self.counts {
                connect["receivedCount"] = self.received.into();
            }
        }
        self.send(connect).await;
        let mut unsent = std::mem::take(&mut self.sent);
        unsent.append(&mut self.unsent);
        self.unsent = unsent;
        let id = self.id();
        let login = json!({"msg": "method", "id": id, "method": "login",
                           "params": [{"resume": self.token}]});
        self.login = Some(id);
        self.send(login).await;
        for sub in self.subs.clone().into_values() {
            self.send(sub).await;
        }
    }

    /// Calls a method; its answer comes to `results`.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> String {
        let id = self.id();
        let call = json!({"msg": "method", "id": id, "method": method, "params": params});
        if self.login.is_some() {
            self.unsent.push((id.clone(), call));
        } else {
            self.sent.push((id.clone(), call.clone()));
            self.send(call).await;
        }
        id
    }

    pub(super) async fn say(&mut self, text: &str) -> String {
        let message = json!([{"rid": "GENERAL", "msg": text}]);
        self.call("sendMessage", message).await
    }

    /// The connection is reset: no close frame, no orderly end.
    pub(super) fn cut(&mut self) {
        self.socket = None;
    }

    /// The network is gone and nobody is told: the socket as it is now, open and unread.
    pub(super) fn vanish(&mut self) -> Option<Socket> {
        self.socket.take()
    }

    pub(super) async fn send(&mut self, message: Value) {
        let text = match self.line.framing {
            Framing::Raw => message.to_string(),
            Framing::SockJs => json!([message.to_string()]).to_string(),
        };
        let socket = self.socket.as_mut().unwrap();
        soon("a phone's message", socket.send(Message::text(text)))
            .await
            .unwrap();
    }

    pub(super) async fn send_frame(&mut self, frame: Message) {
        self.socket.as_mut().unwrap().send(frame).await.unwrap();
    }

    /// Logged in, with everything ready.
    pub(super) async fn until_in(&mut self) {
        while self.login.is_some() || self.ready.len() < self.subs.len() {
            self.read().await;
        }
    }

    /// The login has its result, and everything is ready.
    pub(super) async fn until_welcome(&mut self) {
        let is_in = |phone: &Self| match &phone.login {
            Some(id) => phone.half_done.contains(id),
            None => true,
        };
        while !is_in(self) || self.ready.len() < self.subs.len() {
            self.read().await;
        }
    }

    /// Whether the login has its `updated`.
    pub(super) fn is_logged_in(&self) -> bool {
        self.login.is_none()
    }

    pub(super) async fn until_logged_in(&mut self) {
        while self.login.is_some() || !self.half_done.is_empty() {
            self.read().await;
        }
    }

    pub(super) async fn until_answered(&mut self) {
        while self.login.is_some() || !self.sent.is_empty() || !self.half_done.is_empty() {
            self.read().await;
        }
    }

    pub(super) async fn until_event(&mut self, number: u64) {
        while self.numbers().last() != Some(&number) {
            self.read().await;
        }
    }

    /// The numbers of the events of the room.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.events
            .iter()
            .filter_map(|event| event["fields"]["args"][0]["n"].as_u64())
            .collect()
    }

    /// The texts of the room's messages.
    pub(super) fn texts(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| event["fields"]["args"][0]["msg"].as_str())
            .collect()
    }

    /// Deals with one message as Meteor's client does.
    pub(super) async fn read(&mut self) {
        let Ok(message) = timeout(PATIENCE, self.next()).await else {
            let calls = |calls: &[(String, Value)]| -> Vec<String> {
                calls.iter().map(|(id, _)| id.clone()).collect()
            };
            panic!(
                "nothing comes for {}, counting: {}, session {:?}, {} received, login {:?}, sent {:?}, \
                 unsent {:?}, half done {:?}, ready {:?}, events {:?}",
                self.token,
                self.counts,
                self.session,
                self.received,
                self.login,
                calls(&self.sent),
                calls(&self.unsent),
                self.half_done,
                self.ready,
                self.numbers(),
            );
        };
        self.take(message).await;
    }

    /// Reads on until the gateway says goodbye or hangs up; the code that it gave.
    pub(super) async fn until_closed(&mut self) -> Option<u16> {
        loop {
            match soon("a goodbye", self.hear()).await {
                Ok(message) => self.take(message).await,
                Err(Some(Ok(Message::Close(frame)))) => {
                    // The answer to it.
                    let _ = self.socket.as_mut().unwrap().flush().await;
                    self.socket = None;
                    return frame.map(|frame| frame.code.into());
                }
                Err(_) => {
                    self.socket = None;
                    return None;
                }
            }
        }
    }

    async fn take(&mut self, message: Value) {
        let kind = message["msg"].as_str().unwrap_or_default().to_owned();
        if kind != "ping" && kind != "pong" {
            self.received += 1;
        }
        match kind.as_str() {
            "connected" => {
                let session = message["session"].as_str().unwrap().to_owned();
                if self.session.as_deref() != Some(&session) {
                    // A new session: everything is to be revived.
                    self.received = 1;
                    self.ready.clear();
                    // Their results were enough.
                    self.half_done.clear();
                    self.documents.clear();
                }
                self.session = Some(session);
            }
            "ping" => self.send(json!({"msg": "pong", "id": message["id"]})).await,
            "result" => self.take_result(message).await,
            "updated" => {
                let id = message["methods"][0].as_str().unwrap().to_owned();
                let known = self.half_done.iter().position(|waits| *waits == id);
                let known = known.unwrap_or_else(|| panic!("an updated that throws: {id}"));
                self.half_done.swap_remove(known);
                if self.login.as_ref() == Some(&id) {
                    self.login = None;
                    for (id, call) in std::mem::take(&mut self.unsent) {
                        self.sent.push((id, call.clone()));
                        self.send(call).await;
                    }
                }
            }
            "ready" => {
                let id = message["subs"][0].as_str().unwrap().to_owned();
                assert!(!self.ready.contains(&id), "ready twice: {id}");
                self.ready.push(id);
            }
            "nosub" => panic!("{message}"),
            "changed" => self.events.push(message),
            _ => self.documents.push(message),
        }
    }

    async fn take_result(&mut self, message: Value) {
        let id = message["id"].as_str().unwrap().to_owned();
        if self.login.as_ref() == Some(&id) {
            assert!(message["error"].is_null(), "{message}");
            self.half_done.push(id);
            return;
        }
        let place = self.sent.iter().position(|(sent, _)| *sent == id);
        let place = place.unwrap_or_else(|| panic!("a result that is dropped: {message}"));
        self.sent.remove(place);
        self.half_done.push(id);
        self.results.push(message);
    }

    async fn next(&mut self) -> Value {
        let heard = self.hear().await;
        heard.unwrap_or_else(|other| panic!("the phone's socket ended: {other:?}"))
    }

    /// The next message, or how the connection ended.
    async fn hear(&mut self) -> Result<Value, Option<Result<Message, Error>>> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Ok(message);
            }
            let text = match self.socket.as_mut().unwrap().next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                other => return Err(other),
            };
            let read = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
            match (self.line.framing, text.as_bytes().first()) {
                (Framing::Raw, _) => self.waiting.push_back(read(&text)),
                (Framing::SockJs, Some(b'a')) => {
                    let texts: Vec<String> = serde_json::from_str(&text[1..]).unwrap();
                    self.waiting.extend(texts.iter().map(|text| read(text)));
                }
                (Framing::SockJs, _) => {}
            }
        }
    }

    fn id(&mut self) -> String {
        self.next_id += 1;
        self.next_id.to_string()
    }
}

/// A WebSocket whose end is a reset when it is dropped.
async fn dial(line: Line) -> Socket {
    let Line {
        address,
        way,
        framing,
    } = line;
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    socket2::SockRef::from(&tcp)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    let stream: Box<dyn Stream> = match way {
        Way::Plain => Box::new(tcp),
        Way::Tls => {
            let name = ServerName::try_from("localhost").unwrap();
            let connector = TlsConnector::from(Arc::new(certificate::client(&["http/1.1"])));
            let stream = soon("a TLS handshake", connector.connect(name, tcp)).await;
            Box::new(stream.unwrap())
        }
    };
    let path = match framing {
        Framing::Raw => "/websocket".to_owned(),
        Framing::SockJs => format!(
            "/sockjs/042/p{:07}/websocket",
            rand::random_range(0..10_000_000)
        ),
    };
    let request = format!("ws://{address}{path}")
        .into_client_request()
        .unwrap();
    let (socket, _) = soon("a WebSocket handshake", client_async(request, stream))
        .await
        .unwrap();
    socket
}
