//! One client's TCP connection, and the WebSocket on it.
//!
//! It reads into a buffer that all users of a thread share and owns memory only for what is under
//! way, so that ten thousand silent users fit into a small process.

use std::{
    future::poll_fn,
    io,
    net::IpAddr,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use ddp_gateway::{
    base::chunk::with_scratch,
    ddp::{Framing, framing},
    ws::{
        CloseCode, CloseFrame, ControlFrame, ControlPayload, FrameCursor, FrameHeader, MAX_HEADER,
        Mask, OpCode, Piece, Sender, handshake,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{chance::Chance, crowd::Target, wire::Wire};

/// What came from the server.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// SockJS's `o`.
    Open,
    /// SockJS's `h`.
    Heartbeat,
    /// A DDP message.
    Message(String),
    /// SockJS's `c`.
    Goodbye(u16),
    /// A close frame of WebSocket.
    Closed(Option<u16>),
    /// Nothing follows, and nothing announced it.
    End,
}

/// Why there is no socket.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Ended before the answer was complete.
    Cut,
    Refused(u16),
    Nonsense,
}

/// The server broke a rule of WebSocket or SockJS.
#[derive(Debug)]
pub(super) struct Nonsense;

#[derive(Debug)]
pub(super) struct Socket {
    stream: Wire,
    reader: Reader,
    out: Vec<u8>,
    chance: Chance,
}

/// A connection of its own to one of the addresses.
pub async fn dial(target: &Target, number: u32) -> io::Result<Wire> {
    let nth = |count: usize| number as usize % count.max(1);
    let address = target.addresses[nth(target.addresses.len())];
    let source: Option<&IpAddr> = target.sources.get(nth(target.sources.len()));
    let stream = match source {
        None => TcpStream::connect(address).await?,
        Some(source) => {
            let socket = match source {
                IpAddr::V4(_) => TcpSocket::new_v4()?,
                IpAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.bind((*source, 0).into())?;
            socket.connect(address).await?
        }
    };
    stream.set_nodelay(true)?;
    match &target.tls {
        Some(tls) => tls.connect(stream).await,
        None => Ok(Wire::Plain(stream)),
    }
}

/// One request on a connection of its own; answers the status.
pub(super) async fn request(
    target: &Target,
    number: u32,
    method: &str,
    path: &str,
    user_agent: &str,
) -> io::Result<u16> {
    let mut stream = dial(target, number).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {user_agent}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        target.host
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::with_capacity(1024);
    while answer.len() < ANSWER_BYTES && stream.read_buf(&mut answer).await? > 0 {}
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&answer) {
        Ok(httparse::Status::Complete(_)) => response.code,
        _ => None,
    }
    .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Socket {
    /// Upgrades a connection. What came right behind the answer is put to `heard`.
    pub(super) async fn upgrade(
        mut stream: Wire,
        target: &Target,
        path: &str,
        user_agent: &'static str,
        framing: Framing,
        mut chance: Chance,
        heard: &mut Vec<Heard>,
    ) -> Result<Self, OpenError> {
        let key = handshake::request_key(chance.bytes());
        let mut extra = HeaderMap::new();
        extra.insert(header::USER_AGENT, HeaderValue::from_static(user_agent));
        let request = handshake::upgrade_request(path, &target.host, &key, &extra);
        let sent = async {
            stream.write_all(&request).await?;
            stream.flush().await
        };
        sent.await.map_err(|_| OpenError::Cut)?;
        let mut answer = Vec::with_capacity(512);
        let end = loop {
            match stream.read_buf(&mut answer).await {
                Ok(0) | Err(_) => return Err(OpenError::Cut),
                Ok(_) if answer.len() > ANSWER_BYTES => return Err(OpenError::Nonsense),
                Ok(_) => {}
            }
            if let Some(at) = memchr::memmem::find(&answer, b"\r\n\r\n") {
                break at + 4;
            }
        };
        let (status, headers) = parse_head(&answer[..end]).ok_or(OpenError::Nonsense)?;
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(OpenError::Refused(status.as_u16()));
        }
        handshake::check_response(status, &headers, &key).map_err(|_| OpenError::Nonsense)?;
        let mut socket = Self {
            stream,
            reader: Reader::new(framing),
            out: Vec::new(),
            chance,
        };
        let taken = socket.reader.take(&answer[end..], heard);
        taken.map_err(|Nonsense| OpenError::Nonsense)?;
        Ok(socket)
    }

    /// Waits for bytes and puts what they say to `heard`, [`Heard::End`] at the end.
    pub(super) async fn hear(&mut self, heard: &mut Vec<Heard>) -> Result<(), Nonsense> {
        let (stream, reader) = (&mut self.stream, &mut self.reader);
        let taken = poll_fn(|cx| {
            with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
                Poll::Ready(match read {
                    Ok(()) if !buffer.filled().is_empty() => reader.take(buffer.filled(), heard),
                    Ok(()) | Err(_) => {
                        heard.push(Heard::End);
                        Ok(())
                    }
                })
            })
        });
        let taken = taken.await;
        self.answer_pings();
        taken
    }

    /// Queues a DDP message.
    pub(super) fn say(&mut self, json: &str) {
        let text = framing::wrap_for_streamer(self.reader.framing, json);
        let mask: [u8; 4] = self.chance.bytes();
        let header = FrameHeader {
            fin: true,
            opcode: OpCode::Text,
            mask: Some(mask),
            len: text.len() as u64,
        };
        let mut head = [0; MAX_HEADER];
        let length = header.encode(&mut head);
        self.out.extend_from_slice(&head[..length]);
        let start = self.out.len();
        self.out.extend_from_slice(&text);
        Mask::new(mask).apply_in_place(&mut self.out[start..]);
    }

    /// Queues a close frame; SockJS and WebSocket clients both end with it.
    pub(super) fn say_close(&mut self, code: u16) {
        let close = CloseFrame::new(CloseCode(code), "");
        let frame = ControlFrame::close(Some(&close), Some(self.chance.bytes()));
        self.out.extend_from_slice(frame.as_bytes());
    }

    fn answer_pings(&mut self) {
        for ping in self.reader.pings.drain(..) {
            let pong = ControlFrame::pong_to(&ping, Some(self.chance.bytes()));
            self.out.extend_from_slice(pong.as_bytes());
        }
    }

    /// Sends what is queued; false when the server does not take it.
    pub(super) async fn flush(&mut self) -> bool {
        if self.out.is_empty() {
            return true;
        }
        let out = std::mem::take(&mut self.out);
        let written = async {
            self.stream.write_all(&out).await?;
            // TLS may still hold some of it.
            self.stream.flush().await
        };
        matches!(timeout(WRITE_LIMIT, written).await, Ok(Ok(())))
    }
}

/// Makes messages out of bytes.
#[derive(Debug)]
struct Reader {
    framing: Framing,
    cursor: FrameCursor,
    text: Vec<u8>,
    control: ControlPayload,
    pings: Vec<ControlPayload>,
}

impl Reader {
    fn new(framing: Framing) -> Self {
        Self {
            framing,
            cursor: FrameCursor::new(Sender::Server, MESSAGE_BYTES),
            text: Vec::new(),
            control: ControlPayload::new(),
            pings: Vec::new(),
        }
    }

    fn take(&mut self, input: &[u8], heard: &mut Vec<Heard>) -> Result<(), Nonsense> {
        let mut at = 0;
        while at < input.len() || self.cursor.empty_payload_due() {
            let step = self.cursor.step(&input[at..]).map_err(|_| Nonsense)?;
            let bytes = &input[at..at + step.used];
            at += step.used;
            match step.piece {
                Piece::Partial => {}
                Piece::Header { header, .. } if header.opcode.control() => self.control.clear(),
                Piece::Header { .. } => {}
                Piece::Payload {
                    opcode, frame_end, ..
                } if opcode.control() => {
                    self.control.push(bytes, None).map_err(|_| Nonsense)?;
                    if frame_end {
                        self.end_control(opcode, heard)?;
                    }
                }
                Piece::Payload {
                    opcode,
                    message_end,
                    ..
                } => {
                    self.text.extend_from_slice(bytes);
                    if message_end {
                        let text = std::mem::take(&mut self.text);
                        if opcode != OpCode::Text {
                            return Err(Nonsense);
                        }
                        self.end_message(&text, heard)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn end_control(&mut self, opcode: OpCode, heard: &mut Vec<Heard>) -> Result<(), Nonsense> {
        match opcode {
            OpCode::Ping => self.pings.push(self.control.clone()),
            OpCode::Close => {
                let close = CloseFrame::parse(self.control.as_bytes()).map_err(|_| Nonsense)?;
                heard.push(Heard::Closed(close.map(|close| close.code.0)));
            }
            _ => {}
        }
        Ok(())
    }

    fn end_message(&self, text: &[u8], heard: &mut Vec<Heard>) -> Result<(), Nonsense> {
        match (self.framing, text) {
            (Framing::SockJs, b"o") => heard.push(Heard::Open),
            (Framing::SockJs, b"h") => heard.push(Heard::Heartbeat),
            (Framing::SockJs, [b'c', close @ ..]) => {
                let (code, _): (u16, String) =
                    serde_json::from_slice(close).map_err(|_| Nonsense)?;
                heard.push(Heard::Goodbye(code));
            }
            (framing, text) => {
                let messages = framing::messages_from_streamer(framing, text);
                let messages = messages.map_err(|_| Nonsense)?;
                heard.extend(messages.into_iter().map(Heard::Message));
            }
        }
        Ok(())
    }
}

fn parse_head(head: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    if response.parse(head).ok()?.is_partial() {
        return None;
    }
    let status = StatusCode::from_u16(response.code?).ok()?;
    let mut map = HeaderMap::with_capacity(response.headers.len());
    for header in response.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        map.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some((status, map))
}

/// Largest head of an answer, or answer to a plain request, that is read.
const ANSWER_BYTES: usize = 64 * 1024;
/// As large as a browser takes it; a DDP message is a thousandth of it.
const MESSAGE_BYTES: u64 = 64 << 20;
/// A server that takes nothing for so long is lost.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_frames_wherever_they_are_cut() {
        let mut bytes = vec![0x81, 1, b'o', 0x89, 1, b'p', 0x81, 1, b'h'];
        let array = br#"a["{\"msg\":\"ping\"}","x"]"#;
        bytes.extend([0x81, u8::try_from(array.len()).unwrap_or(0)]);
        bytes.extend(array);
        bytes.extend([0x81, 12]);
        bytes.extend(br#"c[3000,"no"]"#);
        bytes.extend([0x88, 2, 0x03, 0xe8]);
        for cut in 0..=bytes.len() {
            let mut reader = Reader::new(Framing::SockJs);
            let mut heard = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                assert!(reader.take(part, &mut heard).is_ok());
            }
            let message = Heard::Message(r#"{"msg":"ping"}"#.into());
            assert_eq!(
                heard,
                [
                    Heard::Open,
                    Heard::Heartbeat,
                    message,
                    Heard::Message("x".into()),
                    Heard::Goodbye(3000),
                    Heard::Closed(Some(1000)),
                ],
                "cut at {cut}"
            );
            assert_eq!(reader.pings.len(), 1);
        }
    }
}
