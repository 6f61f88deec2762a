//! The wire side of health probes: a small `GET /health`, and a DDP connection opened and closed.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, ClientRequestBuilder, Message,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::ddp::{self, Framing, Kind, Sender};

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("the connection ended before the answer was complete")]
    Closed,
    #[error("the answer has status {0} instead of 200")]
    Status(u16),
    #[error("the answer is not HTTP, or too long")]
    NotHttp,
    #[error("the WebSocket fails: {0}")]
    WebSocket(#[source] Box<tungstenite::Error>),
    #[error("the streamer says something other than DDP's server_id and connected")]
    NotDdp,
}

/// Time limits of one probe.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the TCP connection.
    pub connect: Duration,
    /// For everything.
    pub whole: Duration,
}

/// `GET /health` over `kept`, a connection that an earlier call gave back, or a new one. Gives the
/// connection back if it can be used again.
pub async fn health(
    address: SocketAddr,
    kept: Option<TcpStream>,
    patience: Patience,
) -> Result<Option<TcpStream>, ProbeError> {
    let exchange = async {
        if let Some(stream) = kept {
            match get_health(stream, address).await {
                // The streamer closed it while it was idle; that says nothing.
                Err(ProbeError::Closed) => {}
                result => return result,
            }
        }
        get_health(connect(address, patience.connect).await?, address).await
    };
    timeout(patience.whole, exchange)
        .await
        .unwrap_or(Err(ProbeError::Timeout))
}

/// A DDP session opened and closed: upgrade of exactly `/websocket`, `connect`, `server_id` if the
/// server has one, `connected`, close with 1000.
pub async fn ddp(address: SocketAddr, patience: Patience) -> Result<(), ProbeError> {
    let exchange = async {
        let stream = connect(address, patience.connect).await?;
        let mut socket = upgrade(stream, address).await?;
        // The greeting is not waited for, because other DDP servers have none. The streamer counts
        // `pong` before `connect` as an offence, so its early ping is passed over.
        let connect = Message::text(ddp::Connect::fresh().to_json());
        socket.send(connect).await?;
        await_message(&mut socket, Kind::Connected).await?;
        Ok(socket)
    };
    let mut socket = timeout(patience.whole, exchange)
        .await
        .unwrap_or(Err(ProbeError::Timeout))?;
    // It is proven; the farewell is a courtesy with a limit of its own.
    let farewell = async {
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        socket.close(Some(close)).await?;
        while let Some(Ok(_)) = socket.next().await {}
        Ok::<_, tungstenite::Error>(())
    };
    let _ = timeout(FAREWELL, farewell).await;
    Ok(())
}

async fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream, ProbeError> {
    let stream = match timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(ProbeError::Connect)?,
        Err(_) => return Err(ProbeError::Connect(io::ErrorKind::TimedOut.into())),
    };
    // A delay by Nagle's algorithm would only look like a slow streamer.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn get_health(
    mut stream: TcpStream,
    address: SocketAddr,
) -> Result<Option<TcpStream>, ProbeError> {
    let request = format!(
        "GET /health HTTP/1.1\r\nhost: {address}\r\nuser-agent: ddp-gateway-probe\r\naccept: */*\r\n\r\n"
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(|_| ProbeError::Closed)?;
    let mut answer = Vec::with_capacity(512);
    let mut head = None;
    loop {
        if head.is_none() {
            head = Head::parse(&answer)?;
        }
        if let Some(head) = &head
            && let Some(end) = head.end_of_body(&answer)?
        {
            if head.status != 200 {
                return Err(ProbeError::Status(head.status));
            }
            // Anything after the end would be taken for the next answer.
            let reusable = head.keep_alive && end == answer.len();
            return Ok(reusable.then_some(stream));
        }
        if answer.len() >= ANSWER_LIMIT {
            return Err(ProbeError::NotHttp);
        }
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(0) => {
                return match head {
                    // A body without a length ends with the connection.
                    Some(Head {
                        body: Body::UntilClose,
                        status: 200,
                        ..
                    }) => Ok(None),
                    Some(Head { status, .. }) if status != 200 => Err(ProbeError::Status(status)),
                    _ => Err(ProbeError::Closed),
                };
            }
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(_) => return Err(ProbeError::Closed),
        }
    }
}

/// The part of a response's head that matters here.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where the body begins.
    end: usize,
    body: Body,
    keep_alive: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Head {
    /// `None` while it is incomplete.
    fn parse(answer: &[u8]) -> Result<Option<Self>, ProbeError> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let end = match response.parse(answer) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(ProbeError::NotHttp),
        };
        let mut head = Self {
            status: response.code.ok_or(ProbeError::NotHttp)?,
            end,
            body: Body::UntilClose,
            keep_alive: response.version == Some(1),
        };
        for header in response.headers.iter() {
            let value = header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(ProbeError::NotHttp);
                }
                head.body = Body::Chunked;
            } else if header.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(value).ok();
                let length = length.and_then(|text| text.parse().ok());
                // Chunked wins over a length (RFC 9112, 6.3).
                if head.body == Body::UntilClose {
                    head.body = Body::Length(length.ok_or(ProbeError::NotHttp)?);
                }
            } else if header.name.eq_ignore_ascii_case("connection") {
                head.keep_alive &= !value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(Some(head))
    }

    /// Where the body ends within `answer`; `None` while it is incomplete.
    fn end_of_body(&self, answer: &[u8]) -> Result<Option<usize>, ProbeError> {
        match self.body {
            Body::UntilClose => Ok(None),
            Body::Length(length) => {
                let end = self.end.checked_add(length).ok_or(ProbeError::NotHttp)?;
                Ok((answer.len() >= end).then_some(end))
            }
            Body::Chunked => {
                let mut at = self.end;
                loop {
                    let Some(rest) = answer.get(at..) else {
                        return Ok(None);
                    };
                    let (line, size) = match httparse::parse_chunk_size(rest) {
                        Ok(httparse::Status::Complete(chunk)) => chunk,
                        Ok(httparse::Status::Partial) => return Ok(None),
                        Err(_) => return Err(ProbeError::NotHttp),
                    };
                    let size = usize::try_from(size)
                        .ok()
                        .filter(|size| *size <= ANSWER_LIMIT)
                        .ok_or(ProbeError::NotHttp)?;
                    // The data and the line end after it; after the last chunk no trailers are
                    // expected, and the same line end closes the body.
                    let end = at + line + size + 2;
                    if answer.len() < end {
                        return Ok(None);
                    }
                    if &answer[end - 2..end] != b"\r\n" {
                        return Err(ProbeError::NotHttp);
                    }
                    if size == 0 {
                        return Ok(Some(end));
                    }
                    at = end;
                }
            }
        }
    }
}

async fn upgrade(
    stream: TcpStream,
    address: SocketAddr,
) -> Result<WebSocketStream<TcpStream>, ProbeError> {
    let uri = format!("ws://{address}/websocket")
        .parse()
        .map_err(|_| ProbeError::NotDdp)?;
    let request = ClientRequestBuilder::new(uri).with_header("user-agent", "ddp-gateway-probe");
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .max_message_size(Some(ANSWER_LIMIT))
        .max_frame_size(Some(ANSWER_LIMIT));
    let (socket, _) =
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
    Ok(socket)
}

/// Reads until a message of this kind. A few others may come before it.
async fn await_message(
    socket: &mut WebSocketStream<TcpStream>,
    awaited: Kind,
) -> Result<(), ProbeError> {
    for _ in 0..MESSAGES_BEFORE {
        match socket.next().await.ok_or(ProbeError::Closed)?? {
            Message::Text(text) => {
                let kind = ddp::peek(text.as_bytes(), Framing::Raw, Sender::Server).kind;
                match kind {
                    _ if kind == awaited => return Ok(()),
                    Kind::ServerId | Kind::Ping => {}
                    _ => return Err(ProbeError::NotDdp),
                }
            }
            Message::Close(_) => return Err(ProbeError::Closed),
            Message::Binary(_) => return Err(ProbeError::NotDdp),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    Err(ProbeError::NotDdp)
}

impl From<tungstenite::Error> for ProbeError {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::{Error, error::ProtocolError};
        match error {
            Error::Http(response) => Self::Status(response.status().as_u16()),
            Error::Io(_)
            | Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(
                ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake,
            ) => Self::Closed,
            other => Self::WebSocket(Box::new(other)),
        }
    }
}

/// Bytes of one answer or message; the real ones have less than 200.
const ANSWER_LIMIT: usize = 16 * 1024;
/// Messages that may come before the one that is awaited: `server_id` and an early ping.
const MESSAGES_BEFORE: usize = 8;
/// The answer to our close frame; a courtesy that must not delay the result.
const FAREWELL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::{ANSWER_LIMIT, Patience, ProbeError, ddp, health};

    const PATIENCE: Patience = Patience {
        connect: Duration::from_secs(5),
        whole: Duration::from_secs(5),
    };
    const HURRY: Patience = Patience {
        connect: Duration::from_millis(50),
        whole: Duration::from_millis(50),
    };

    /// Answers each request with `answer`, in pieces of `piece` bytes, and closes after `uses`
    /// of a connection. Counts the connections.
    async fn server(answer: Vec<u8>, piece: usize, uses: u32) -> (SocketAddr, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU32::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                tokio::spawn(async move {
                    for _ in 0..uses {
                        let mut request = Vec::new();
                        while !request.ends_with(b"\r\n\r\n") {
                            let mut byte = [0];
                            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                                return;
                            }
                            request.push(byte[0]);
                        }
                        for piece in answer.chunks(piece.max(1)) {
                            if stream.write_all(piece).await.is_err() {
                                return;
                            }
                            tokio::task::yield_now().await;
                        }
                    }
                });
            }
        });
        (address, connections)
    }

    #[tokio::test]
    async fn keeps_the_connection_for_the_next_probe() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
        ] {
            for piece in [1, 7, 1_000] {
                let (address, connections) = server(answer.into(), piece, 5).await;
                let mut kept = None;
                for _ in 0..5 {
                    kept = health(address, kept, PATIENCE).await.unwrap();
                    assert!(kept.is_some(), "{answer}");
                }
                assert_eq!(connections.load(Ordering::SeqCst), 1);
                // The server has closed it meanwhile, which is no failure.
                let kept = health(address, kept, PATIENCE).await.unwrap();
                assert!(kept.is_some());
                assert_eq!(connections.load(Ordering::SeqCst), 2);
            }
        }
    }

    #[tokio::test]
    async fn does_not_keep_what_cannot_be_used_again() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let (address, _) = server(answer.into(), 1_000, 1).await;
            let kept = health(address, None, PATIENCE).await.unwrap();
            assert!(kept.is_none(), "{answer}");
        }
    }

    #[tokio::test]
    async fn tells_bad_answers_apart() {
        let of = async |answer: &[u8]| {
            let (address, _) = server(answer.to_vec(), 1_000, 1).await;
            health(address, None, PATIENCE).await.unwrap_err()
        };
        let sick = of(b"HTTP/1.1 500 no\r\nContent-Length: 11\r\n\r\nnot healthy").await;
        assert!(matches!(sick, ProbeError::Status(500)), "{sick}");
        let cut = of(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok").await;
        assert!(matches!(cut, ProbeError::Closed), "{cut}");
        for nonsense in [
            b"SSH-2.0-OpenSSH_9\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: lots\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
                .iter()
                .copied()
                .chain(std::iter::repeat_n(b'x', 4 * ANSWER_LIMIT))
                .collect(),
            [
                b"HTTP/1.1 200 OK\r\nX: ".to_vec(),
                vec![b'x'; 4 * ANSWER_LIMIT],
            ]
            .concat(),
        ] {
            let error = of(&nonsense).await;
            let start = String::from_utf8_lossy(&nonsense[..20]).into_owned();
            assert!(matches!(error, ProbeError::NotHttp), "{start}: {error}");
        }
    }

    #[tokio::test]
    async fn gives_up_on_silence_and_on_refusal() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let error = health(address, None, HURRY).await.unwrap_err();
        assert!(matches!(error, ProbeError::Timeout), "{error}");
        let error = ddp(address, HURRY).await.unwrap_err();
        assert!(matches!(error, ProbeError::Timeout), "{error}");
        drop(silent);
        let error = health(address, None, PATIENCE).await.unwrap_err();
        assert!(matches!(error, ProbeError::Connect(_)), "{error}");
        let error = ddp(address, PATIENCE).await.unwrap_err();
        assert!(matches!(error, ProbeError::Connect(_)), "{error}");
    }

    #[tokio::test]
    async fn an_http_server_is_no_streamer() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (address, _) = server(answer.into(), 1_000, 1).await;
        let error = ddp(address, PATIENCE).await.unwrap_err();
        assert!(matches!(error, ProbeError::Status(200)), "{error}");
    }
}
