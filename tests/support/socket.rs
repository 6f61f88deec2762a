//! WebSocket and DDP clients made of tungstenite, which shares no code with the gateway.

use std::net::SocketAddr;

use ddp_gateway::ddp::Framing;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        error::Error,
        http::Response,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{http, soon};

/// A byte stream to the gateway, plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A WebSocket with whatever below it.
pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// Which way a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Plain,
    Tls,
}

/// Opens a WebSocket at this path, with further headers.
pub async fn open(
    address: SocketAddr,
    way: Way,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(Socket, Response<Option<Vec<u8>>>), Error> {
    let stream: Box<dyn Stream> = match way {
        Way::Plain => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Way::Tls => Box::new(http::tls(address, "localhost", &["http/1.1"]).await?),
    };
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().append(
            http_name(name),
            value.parse().expect("a test sends a valid header"),
        );
    }
    soon("a WebSocket handshake", client_async(request, stream)).await
}

fn http_name(name: &str) -> tokio_tungstenite::tungstenite::http::HeaderName {
    name.parse().expect("a test sends a valid header")
}

/// A DDP client on a WebSocket.
pub struct Client {
    socket: Socket,
    framing: Framing,
    /// The id in `connected`.
    pub session: String,
    /// Messages of an `a[...]` frame that were not asked for yet.
    waiting: Vec<Value>,
    calls: u64,
}

impl Client {
    /// Raw DDP at `/websocket`, greeted.
    pub async fn raw(address: SocketAddr, way: Way) -> Self {
        Self::connect(address, way, Framing::Raw, "/websocket", &[]).await
    }

    /// SockJS's WebSocket transport, greeted.
    pub async fn sockjs(address: SocketAddr, way: Way) -> Self {
        let path = format!(
            "/sockjs/042/t{:07}/websocket",
            rand::random_range(0..10_000_000)
        );
        Self::connect(address, way, Framing::SockJs, &path, &[]).await
    }

    pub async fn connect(
        address: SocketAddr,
        way: Way,
        framing: Framing,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let (socket, _) = open(address, way, path, headers).await.unwrap();
        Self::greet(socket, framing).await
    }

    /// Greets on an open socket.
    pub async fn greet(socket: Socket, framing: Framing) -> Self {
        let connect = json!({"msg": "connect", "version": "1", "support": ["1"]});
        Self::connect_as(socket, framing, &connect, None).await
    }

    /// Greets with this message, and sends another one behind it without waiting for the answer.
    pub async fn connect_as(
        socket: Socket,
        framing: Framing,
        connect: &Value,
        behind: Option<&Value>,
    ) -> Self {
        let mut client = Self {
            socket,
            framing,
            session: String::new(),
            waiting: Vec::new(),
            calls: 0,
        };
        client.send(connect).await;
        if let Some(message) = behind {
            client.send(message).await;
        }
        let connected = client.message("connected").await;
        client.session = connected["session"].as_str().unwrap().to_owned();
        client
    }

    /// Calls a method and returns its result; other messages that come meanwhile are dropped.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls.to_string();
        self.send(&json!({"msg": "method", "id": id, "method": method, "params": params}))
            .await;
        loop {
            let message = self.message("result").await;
            if message["id"] == id.as_str() {
                return message;
            }
        }
    }

    /// Which streamer serves this client.
    pub async fn streamer(&mut self) -> String {
        let answer = self.call("demo:whoami", json!([])).await;
        answer["result"]["streamer"].as_str().unwrap().to_owned()
    }

    pub async fn send(&mut self, message: &Value) {
        self.try_send(message).await.unwrap();
    }

    /// Sends what the gateway still takes.
    pub async fn try_send(&mut self, message: &Value) -> Result<(), Error> {
        let text = match self.framing {
            Framing::Raw => message.to_string(),
            Framing::SockJs => json!([message.to_string()]).to_string(),
        };
        self.socket.send(Message::text(text)).await
    }

    /// The next message of this kind; pings are answered, others dropped.
    pub async fn message(&mut self, kind: &str) -> Value {
        loop {
            let message = soon(kind, self.next()).await;
            let message = message.unwrap_or_else(|end| panic!("closed ({end:?}) before `{kind}`"));
            if message["msg"] == "ping" {
                self.send(&json!({"msg": "pong"})).await;
            }
            if message["msg"] == kind {
                return message;
            }
        }
    }

    /// The next DDP message, or how the socket ended.
    pub async fn next(&mut self) -> Result<Value, End> {
        loop {
            if !self.waiting.is_empty() {
                return Ok(self.waiting.remove(0));
            }
            let text = match self.socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(frame))) => return Err(End::of(frame)),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Err(End::Cut),
            };
            match self.framing {
                Framing::Raw => self.waiting.push(parse(&text)),
                Framing::SockJs => match text.as_bytes().first() {
                    Some(b'a') => {
                        let texts: Vec<String> = serde_json::from_str(&text[1..]).unwrap();
                        self.waiting.extend(texts.iter().map(|text| parse(text)));
                    }
                    Some(b'o' | b'h') => {}
                    Some(b'c') => {
                        let (code, reason): (u16, String) =
                            serde_json::from_str(&text[1..]).unwrap();
                        return Err(End::Closed(code, reason));
                    }
                    _ => panic!("no SockJS frame: {text}"),
                },
            }
        }
    }

    /// Reads until the socket ends.
    pub async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }

    pub async fn close(mut self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = self.socket.close(Some(frame)).await;
        let _ = soon("a close handshake", async {
            while self.next().await.is_ok() {}
        })
        .await;
    }

    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// How a socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By a close frame, WebSocket's or SockJS's.
    Closed(u16, String),
    /// Without one.
    Cut,
}

impl End {
    fn of(frame: Option<CloseFrame>) -> Self {
        frame.map_or(Self::Closed(1005, String::new()), |frame| {
            Self::Closed(frame.code.into(), frame.reason.to_string())
        })
    }

    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Closed(code, _) => Some(*code),
            Self::Cut => None,
        }
    }
}
