//! tungstenite as the other side: it writes what we read, and reads what we write.

use std::io::{self, Cursor, Read, Write};

use ddp_gateway::ws::{CloseCode, ControlFrame, OpCode, Sender, handshake};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::{
    self, Error, Message as PeerMessage, WebSocket,
    client::IntoClientRequest,
    handshake::{client::generate_request, derive_accept_key},
    protocol::{
        Role, WebSocketConfig,
        frame::{
            Frame as PeerFrame,
            coding::{CloseCode as PeerCode, Data, OpCode as PeerOpCode},
        },
    },
};

use crate::stream::{
    LIMIT, Message, Script, chunks, close, control_payload, cuts, script, sender, walk,
};

/// A stream in memory: what was sent to the peer, and what it has written.
#[derive(Debug)]
pub(crate) struct Wire {
    to_peer: Cursor<Vec<u8>>,
    from_peer: Vec<u8>,
}

impl Wire {
    fn new(to_peer: Vec<u8>) -> Self {
        Self {
            to_peer: Cursor::new(to_peer),
            from_peer: Vec::new(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.to_peer.read(out)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.from_peer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn socket(role: Role, to_peer: Vec<u8>) -> WebSocket<Wire> {
    let limit = Some(usize::try_from(LIMIT).expect("a limit below 4 GiB"));
    let config = WebSocketConfig::default()
        .max_message_size(limit)
        .max_frame_size(limit)
        .read_buffer_size(4096);
    WebSocket::from_raw_socket(Wire::new(to_peer), role, Some(config))
}

fn reader_of(sender: Sender) -> Role {
    match sender {
        Sender::Client => Role::Server,
        Sender::Server => Role::Client,
    }
}

fn writer_as(sender: Sender) -> Role {
    match sender {
        Sender::Client => Role::Client,
        Sender::Server => Role::Server,
    }
}

/// What the peer has against `bytes`, which must not be sound.
pub(crate) fn first_error(sender: Sender, bytes: Vec<u8>) -> Error {
    let mut peer = socket(reader_of(sender), bytes);
    loop {
        if let Err(error) = peer.read() {
            return error;
        }
    }
}

fn write_by_peer(sender: Sender, script: &Script) -> Vec<u8> {
    let mut peer = socket(writer_as(sender), Vec::new());
    for frame in &script.frames {
        let clear = frame.clear.clone();
        let data = |data| {
            PeerMessage::Frame(PeerFrame::message(
                clear.clone(),
                PeerOpCode::Data(data),
                frame.fin,
            ))
        };
        let message = match frame.opcode {
            OpCode::Continuation => data(Data::Continue),
            OpCode::Text if frame.fin => {
                PeerMessage::text(String::from_utf8(clear.clone()).expect("whole text"))
            }
            OpCode::Text => data(Data::Text),
            OpCode::Binary if frame.fin => PeerMessage::binary(clear.clone()),
            OpCode::Binary => data(Data::Binary),
            OpCode::Ping => PeerMessage::Ping(clear.clone().into()),
            // A pong sent as such may be replaced by the peer's own; a frame may not.
            OpCode::Pong => PeerMessage::Frame(PeerFrame::pong(clear.clone())),
            OpCode::Close => unreachable!("scripts do not close"),
        };
        peer.send(message).expect("writing to memory");
    }
    peer.into_inner().from_peer
}

fn ours(message: PeerMessage) -> Message {
    let opcode = match &message {
        PeerMessage::Text(_) => OpCode::Text,
        PeerMessage::Binary(_) => OpCode::Binary,
        PeerMessage::Ping(_) => OpCode::Ping,
        PeerMessage::Pong(_) => OpCode::Pong,
        PeerMessage::Close(_) | PeerMessage::Frame(_) => panic!("not expected: {message:?}"),
    };
    Message {
        opcode,
        clear: message.into_data().to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn what_tungstenite_writes_is_read(
        script in script(),
        sender in sender(),
        sizes in cuts(),
    ) {
        let bytes = write_by_peer(sender, &script);
        let walk = walk(sender, &chunks(&bytes, &sizes));
        prop_assert_eq!(walk.end, Ok((true, true)));
        prop_assert_eq!(walk.messages(), script.messages());
        prop_assert_eq!(walk.forwarded, bytes);
    }

    #[test]
    fn what_is_written_tungstenite_reads(
        script in script(),
        sender in sender(),
        code in prop_oneof![1000..=1003_u16, 1007..=1013_u16, 3000..=4999_u16],
        reason in proptest::collection::vec(any::<char>(), 0..60),
    ) {
        let reason = String::from_iter(reason);
        let mut bytes = script.bytes(sender);
        bytes.extend_from_slice(close(sender, CloseCode(code), &reason).as_bytes());
        let mut peer = socket(reader_of(sender), bytes);
        for expected in script.messages() {
            prop_assert_eq!(ours(peer.read().unwrap()), expected);
        }
        let PeerMessage::Close(Some(close)) = peer.read().unwrap() else {
            panic!("the close frame was not understood");
        };
        prop_assert_eq!(close.code, PeerCode::from(code));
        prop_assert!(reason.starts_with(close.reason.as_str()));
    }

    #[test]
    fn a_ping_is_answered_with_its_payload(payload in control_payload(), sender in sender()) {
        let key = (sender == Sender::Client).then_some([1, 2, 3, 4]);
        let ping = ControlFrame::ping(&payload, key).unwrap();
        let mut peer = socket(reader_of(sender), ping.as_bytes().to_vec());
        prop_assert_eq!(peer.read().unwrap(), PeerMessage::Ping(payload.clone().into()));
        peer.flush().unwrap();
        let answer = peer.into_inner().from_peer;
        let answering = match sender {
            Sender::Client => Sender::Server,
            Sender::Server => Sender::Client,
        };
        let expected = Message { opcode: OpCode::Pong, clear: payload };
        prop_assert_eq!(walk(answering, &[&answer]).messages(), vec![expected]);
    }

    #[test]
    fn accept_keys_are_tungstenites(nonce in any::<[u8; 16]>()) {
        let key = handshake::request_key(nonce);
        prop_assert_eq!(handshake::accept_key(&key), derive_accept_key(key.as_bytes()));
    }
}

fn header_map(headers: &[httparse::Header<'_>]) -> HeaderMap {
    headers
        .iter()
        .map(|header| {
            (
                header.name.parse::<HeaderName>().expect("a parsed name"),
                HeaderValue::from_bytes(header.value).expect("a parsed value"),
            )
        })
        .collect()
}

#[test]
fn tungstenite_accepts_our_handshake_and_we_its_answer() {
    let key = handshake::request_key(*b"sixteen bytes ok");
    let request = handshake::upgrade_request("/websocket", "streamer", &key, &HeaderMap::new());
    let socket = tungstenite::accept(Wire::new(request)).unwrap();
    let answer = socket.into_inner().from_peer;

    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    assert!(response.parse(&answer).unwrap().is_complete());
    let status = StatusCode::from_u16(response.code.unwrap()).unwrap();
    let headers = header_map(response.headers);
    assert_eq!(handshake::check_response(status, &headers, &key), Ok(()));
    let other = handshake::request_key([0; 16]);
    assert_eq!(
        handshake::check_response(status, &headers, &other),
        Err(handshake::HandshakeError::BadAccept)
    );
}

#[test]
fn we_accept_the_handshake_of_tungstenite() {
    let request = "ws://chat.example/websocket".into_client_request().unwrap();
    let (bytes, key) = generate_request(request).unwrap();
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    assert!(request.parse(&bytes).unwrap().is_complete());
    let accept =
        handshake::check_request(&Method::GET, Version::HTTP_11, &header_map(request.headers));
    assert_eq!(accept, Ok(derive_accept_key(key.as_bytes())));
}
