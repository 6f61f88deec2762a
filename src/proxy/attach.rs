//! From a client's `connect` to a leg on which a streamer has answered `connected`.
//!
//! Everything that waits is here, in one boxed future that lives only as long as the attachment:
//! for room in the pool, for the dial, for the handshake, for the streamer's answer. Nothing but
//! `connect` is sent before that answer, so that a failed leg can be replaced without repeating
//! anything else.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use super::{
    introduction::Introduction,
    pump::Held,
    registry::{Entry, Standing},
    shared::Shared,
};
use crate::{
    base::id::{StreamerAddr, StreamerId},
    ddp::{Connected, Framing, Kind, Sender, framing, peek},
    net::{
        dial::{DialError, LegRequest, dial, is_shortage},
        stream::Upstream,
    },
    pool::{Expectation, Outcome, Permit, PickError, Pool, QueueFull, Wish},
    session::{Disconnect, quota::Asker},
    ws::{
        self, CloseFrame, FrameCursor, FrameHeader, HandshakeError, MAX_HEADER, Mask, OpCode,
        Piece, ProtocolError,
    },
};

/// A client that has sent `connect`.
pub(super) struct Opening {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<Pool>,
    pub(super) wish: Wish,
    /// The streamer that was foreseen when the client came.
    pub(super) expectation: Option<Expectation>,
    pub(super) request: Box<LegRequest>,
    pub(super) framing: Framing,
    /// The frames of `connect`, as the client sent them.
    pub(super) connect: Held,
    /// The session that it names.
    pub(super) former: Option<String>,
    pub(super) entry: Arc<Entry>,
    /// For each leg that is tried: dial, handshake and answer together.
    pub(super) leg_timeout: Duration,
    /// Under which name a SockJS session is remembered.
    pub(super) sockjs_session: Option<String>,
    /// Whose account is charged.
    pub(super) asker: Asker,
    /// The client's first bytes, which were read together with its upgrade request.
    pub(super) early: Bytes,
}

/// A leg with an answer.
pub(super) struct Attached {
    pub(super) leg: Upstream,
    pub(super) permit: Permit,
    /// For another leg, should the session be moved.
    pub(super) introduction: Arc<Introduction>,
    /// The streamer's name for the session.
    pub(super) session: String,
    /// Frames for the client: `connected`, and what came with it.
    pub(super) frames: Vec<u8>,
    /// What had been read beyond them.
    pub(super) rest: Vec<u8>,
}

/// Why one leg failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LegError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the streamer ended the connection before it answered connect")]
    Ended,
    #[error("the streamer closed with {0:?} instead of answering connect")]
    Closed(Option<u16>),
    #[error("the streamer broke the WebSocket protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the streamer's answer to connect cannot be read")]
    Unreadable,
    #[error("the streamer did not answer in time")]
    TimedOut,
}

/// Whose fault a failed leg is.
enum Blame {
    Streamer(Outcome),
    /// Another streamer would not take this client either, and none must be taken out of rotation
    /// because somebody sends it nonsense.
    Client(Disconnect),
    /// This machine ran out of something.
    Gateway,
}

impl LegError {
    /// What it says about the streamer.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self.blame() {
            Blame::Streamer(outcome) => Some(outcome),
            Blame::Client(_) | Blame::Gateway => None,
        }
    }

    fn blame(&self) -> Blame {
        Blame::Streamer(match self {
            Self::Dial(DialError::Connect(error)) if is_shortage(error) => return Blame::Gateway,
            Self::Dial(DialError::Connect(_)) => Outcome::ConnectFailed,
            // A streamer that takes the probe's upgrade and not this one dislikes what the client
            // put into it; one that takes neither is found by the probe.
            Self::Dial(DialError::Refused(HandshakeError::Refused(status)))
                if status.is_client_error() =>
            {
                return Blame::Client(Disconnect::StreamerClosed(None));
            }
            Self::Dial(_) | Self::Protocol(_) | Self::Unreadable => Outcome::HandshakeFailed,
            Self::Closed(code @ Some(1002 | 1003 | 1007..=1010)) => {
                return Blame::Client(Disconnect::StreamerClosed(*code));
            }
            Self::Closed(_) | Self::Ended => Outcome::Reset,
            Self::TimedOut => Outcome::TimedOut,
        })
    }
}

/// Finds a place and sets up a leg, trying other streamers when one fails.
///
/// # Errors
/// [`Disconnect::NoCapacity`] when the queue is full or the waiting time is over;
/// [`Disconnect::StreamerClosed`] when a streamer refuses what this client sent.
pub(super) async fn attach(mut opening: Opening) -> Result<Attached, Disconnect> {
    let started = Instant::now();
    recall_place(&mut opening, started);
    let mut tried: Vec<StreamerId> = Vec::new();
    let mut waited_since = None;
    loop {
        let permit = match opening.pool.pick(&opening.wish, &tried, Instant::now()) {
            Ok(permit) => permit,
            Err(reason) => {
                if !tried.is_empty() {
                    // All that were worth trying have failed: give them a moment.
                    tried.clear();
                    sleep(RETRY_PAUSE).await;
                }
                wait(
                    &opening,
                    reason,
                    *waited_since.get_or_insert_with(Instant::now),
                )
                .await?
            }
        };
        let streamer = permit.streamer().clone();
        opening.entry.set_standing(Standing::Attaching);
        let turn = opening.shared.attaching.acquire().await;
        let opened = open_leg(
            streamer.addr,
            &opening.request,
            &opening.connect.frames,
            opening.framing,
        );
        let leg = match timeout(opening.leg_timeout, opened).await {
            Ok(leg) => leg,
            Err(_) => Err(LegError::TimedOut),
        };
        drop(turn);
        match leg {
            Ok((leg, answer)) => {
                streamer.report(Outcome::Ok, Instant::now());
                settle(&opening, &streamer.id, &answer.session, started);
                let Answer {
                    session,
                    frames,
                    rest,
                } = answer;
                return Ok(Attached {
                    leg: Upstream::new(leg),
                    permit,
                    introduction: opening
                        .shared
                        .introductions
                        .keep(&opening.request, &opening.entry),
                    session,
                    frames,
                    rest,
                });
            }
            Err(error) => {
                let blame = error.blame();
                info!(
                    session = %opening.entry.id,
                    client = %opening.entry.client,
                    streamer = %streamer.id,
                    error = &error as &dyn std::error::Error,
                    "a streamer did not take a session; {}",
                    match blame {
                        Blame::Streamer(_) => "another one is tried",
                        Blame::Client(_) => "what the client sent is at fault, so it is closed",
                        Blame::Gateway => "the gateway is short of descriptors, ports or memory: \
                                           raise its limits",
                    }
                );
                match blame {
                    Blame::Streamer(outcome) => streamer.report(outcome, Instant::now()),
                    Blame::Client(disconnect) => return Err(disconnect),
                    Blame::Gateway => {}
                }
                tried.push(streamer.id.clone());
            }
        }
    }
}

/// The session id in `connect` says where the client was before, unless its cookie did.
fn recall_place(opening: &mut Opening, now: Instant) {
    // From here on the wish names it; held on, it would count against itself.
    opening.expectation = None;
    if opening.wish.preferred.is_none() {
        let former = opening.former.as_ref();
        opening.wish.preferred =
            former.and_then(|session| opening.shared.recall.find(session, now));
    }
    debug!(session = %opening.entry.id, wish = ?opening.wish, "client sent connect");
}

/// Waits in the pool's queue.
async fn wait(opening: &Opening, reason: PickError, since: Instant) -> Result<Permit, Disconnect> {
    opening.entry.set_standing(Standing::Parked);
    let mut ticket = opening
        .pool
        .wait(opening.wish.clone(), since)
        .map_err(|QueueFull| Disconnect::NoCapacity)?;
    debug!(session = %opening.entry.id, %reason, "client waits for a streamer");
    // Room that is always there does not help a client whom every streamer fails.
    if ticket.deadline() <= Instant::now() {
        return Err(Disconnect::NoCapacity);
    }
    let deadline = ticket.deadline().into();
    let turn = poll_fn(|cx| ticket.poll(cx, Instant::now()));
    tokio::time::timeout_at(deadline, turn)
        .await
        .map_err(|_| Disconnect::NoCapacity)
}

/// What a streamer answered.
pub(super) struct Answer {
    pub(super) session: String,
    pub(super) frames: Vec<u8>,
    pub(super) rest: Vec<u8>,
}

/// Dials and upgrades, sends the frames of `connect` at once and waits for `connected`.
pub(super) async fn open_leg(
    address: StreamerAddr,
    request: &LegRequest,
    connect: &[u8],
    framing: Framing,
) -> Result<(TcpStream, Answer), LegError> {
    let (mut leg, mut read) = dial(address, request, rand::random()).await?;
    leg.write_all(connect).await.map_err(DialError::Lost)?;
    let mut reader = AnswerReader::new(framing);
    loop {
        if let Some(answer) = reader.feed(&read)? {
            return Ok((leg, answer));
        }
        read.clear();
        if leg.read_buf(&mut read).await.map_err(DialError::Lost)? == 0 {
            return Err(LegError::Ended);
        }
    }
}

/// Remembers where the session is, for others to see and for its return.
fn settle(opening: &Opening, streamer: &StreamerId, ddp_session: &str, started: Instant) {
    let now = Instant::now();
    let shared = &opening.shared;
    shared.recall.remember(ddp_session, streamer, now);
    if let Some(session) = &opening.sockjs_session {
        shared.recall.remember(session, streamer, now);
    }
    shared
        .meters
        .attach_seconds
        .record(now.duration_since(started));
    match &opening.wish.preferred {
        None => shared.meters.affinity_new.increment(1),
        Some(wanted) if wanted == streamer => shared.meters.affinity_kept.increment(1),
        Some(_) => shared.meters.affinity_moved.increment(1),
    }
    opening.entry.set_streamer(streamer.clone());
}

/// Reads the streamer's first messages: swallows its greeting and its early ping (it pings 30 ms
/// after the upgrade, `ee/apps/ddp-streamer/src/Client.ts`), and ends at `connected`.
struct AnswerReader {
    framing: Framing,
    cursor: FrameCursor,
    /// The frames and the text of the message that is coming in.
    frames: Vec<u8>,
    text: Vec<u8>,
    /// The payload of a close frame.
    farewell: Vec<u8>,
    seen: usize,
}

impl AnswerReader {
    fn new(framing: Framing) -> Self {
        Self {
            framing,
            cursor: FrameCursor::new(ws::Sender::Server, ANSWER_BYTES as u64),
            frames: Vec::new(),
            text: Vec::new(),
            farewell: Vec::new(),
            seen: 0,
        }
    }

    fn feed(&mut self, input: &[u8]) -> Result<Option<Answer>, LegError> {
        self.seen += input.len();
        if self.seen > GREETING_BYTES {
            return Err(LegError::Unreadable);
        }
        let mut at = 0;
        while at < input.len() || self.cursor.empty_payload_due() {
            let step = self.cursor.step(&input[at..])?;
            let bytes = &input[at..at + step.used];
            at += step.used;
            match step.piece {
                Piece::Partial => {}
                Piece::Header { header, .. } if header.opcode.control() => {}
                Piece::Header { .. } => self.frames.extend_from_slice(self.cursor.raw_header()),
                Piece::Payload {
                    opcode: OpCode::Close,
                    frame_end,
                    ..
                } => {
                    self.farewell.extend_from_slice(bytes);
                    if frame_end {
                        let farewell = CloseFrame::parse(&self.farewell)?;
                        return Err(LegError::Closed(farewell.map(|frame| frame.code.0)));
                    }
                }
                Piece::Payload { opcode, .. } if opcode.control() => {}
                Piece::Payload { message_end, .. } => {
                    self.frames.extend_from_slice(bytes);
                    self.text.extend_from_slice(bytes);
                    if message_end && let Some(mut answer) = self.end_message()? {
                        answer.rest = input[at..].to_vec();
                        return Ok(Some(answer));
                    }
                }
            }
        }
        Ok(None)
    }

    fn end_message(&mut self) -> Result<Option<Answer>, LegError> {
        let frames = std::mem::take(&mut self.frames);
        let text = std::mem::take(&mut self.text);
        let envelope = peek(&text, self.framing, Sender::Server);
        if !envelope.batch {
            return match envelope.kind {
                Kind::Connected => {
                    let session = self
                        .messages(&text)?
                        .first()
                        .and_then(|message| Connected::parse(message).ok())
                        .ok_or(LegError::Unreadable)?
                        .session;
                    Ok(Some(Answer {
                        session,
                        frames,
                        rest: Vec::new(),
                    }))
                }
                Kind::Failed | Kind::Closed | Kind::Error | Kind::Unreadable => {
                    Err(LegError::Unreadable)
                }
                _ => Ok(None),
            };
        }
        // Several messages in one SockJS frame: those after `connected` are the client's.
        let mut session = None;
        let mut frames = Vec::new();
        for message in self.messages(&text)? {
            if session.is_none() {
                let Ok(connected) = Connected::parse(&message) else {
                    continue;
                };
                session = Some(connected.session);
            }
            let wrapped = framing::wrap_for_client(self.framing, &message);
            frames.extend_from_slice(&text_frame(&wrapped));
        }
        Ok(session.map(|session| Answer {
            session,
            frames,
            rest: Vec::new(),
        }))
    }

    fn messages(&self, text: &[u8]) -> Result<Vec<String>, LegError> {
        framing::messages_from_streamer(self.framing, text).map_err(|_| LegError::Unreadable)
    }
}

/// An unmasked text frame.
pub(super) fn text_frame(text: &[u8]) -> Vec<u8> {
    frame(text, None)
}

/// A text frame as clients send it.
pub(super) fn masked_text_frame(text: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = frame(text, Some(key));
    let start = frame.len() - text.len();
    Mask::new(key).apply_in_place(&mut frame[start..]);
    frame
}

fn frame(text: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let header = FrameHeader {
        fin: true,
        opcode: OpCode::Text,
        mask,
        len: text.len() as u64,
    };
    let mut head = [0; MAX_HEADER];
    let length = header.encode(&mut head);
    let mut frame = Vec::with_capacity(length + text.len());
    frame.extend_from_slice(&head[..length]);
    frame.extend_from_slice(text);
    frame
}

/// Pause after a round in which no streamer took the session.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Largest message, and largest sum of messages, that a streamer may send before it is `connected`.
const ANSWER_BYTES: usize = 64 * 1024;
const GREETING_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::{AnswerReader, LegError, text_frame};
    use crate::ddp::Framing;

    fn frames(messages: &[&str]) -> Vec<u8> {
        messages
            .iter()
            .flat_map(|message| text_frame(message.as_bytes()))
            .collect()
    }

    #[test]
    fn swallows_the_greeting_wherever_it_is_cut() {
        let greeting = [
            r#"{"msg":"server_id","server_id":"0"}"#,
            r#"{"msg":"ping"}"#,
        ];
        let connected = frames(&[r#"{"msg":"connected","session":"s1"}"#]);
        let event = frames(&[r#"{"msg":"changed","collection":"x","id":"id"}"#]);
        let mut all = frames(&greeting);
        all.extend_from_slice(&connected);
        let end = all.len();
        all.extend_from_slice(&event);
        for cut in 0..=all.len() {
            let mut reader = AnswerReader::new(Framing::Raw);
            let (mut answer, mut rest) = (reader.feed(&all[..cut]).unwrap(), &all[cut..]);
            if answer.is_none() {
                answer = reader.feed(rest).unwrap();
                rest = &[];
            }
            let answer = answer.unwrap();
            assert_eq!(answer.session, "s1");
            assert_eq!(answer.frames, connected);
            assert_eq!(
                [answer.rest.as_slice(), rest].concat(),
                all[end..],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn takes_connected_out_of_a_batch() {
        let batch = frames(&[
            "o",
            r#"a["{\"msg\":\"server_id\",\"server_id\":\"0\"}","{\"msg\":\"connected\",\"session\":\"s2\"}","{\"msg\":\"ping\"}"]"#,
        ]);
        let answer = AnswerReader::new(Framing::SockJs)
            .feed(&batch)
            .unwrap()
            .unwrap();
        assert_eq!(answer.session, "s2");
        let expected = frames(&[
            r#"a["{\"msg\":\"connected\",\"session\":\"s2\"}"]"#,
            r#"a["{\"msg\":\"ping\"}"]"#,
        ]);
        assert_eq!(answer.frames, expected);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let failed = frames(&[r#"{"msg":"failed","version":"1"}"#]);
        let error = AnswerReader::new(Framing::Raw).feed(&failed);
        assert!(matches!(error, Err(LegError::Unreadable)));
        let close = AnswerReader::new(Framing::Raw).feed(&[0x88, 0x00]);
        assert!(matches!(close, Err(LegError::Closed(None))));
        let close = [0x88, 0x03, 0x03, 0xef, b'x'];
        for cut in 0..close.len() {
            let mut reader = AnswerReader::new(Framing::Raw);
            assert!(matches!(reader.feed(&close[..cut]), Ok(None)));
            let closed = reader.feed(&close[cut..]);
            assert!(matches!(closed, Err(LegError::Closed(Some(1007)))), "{cut}");
        }
        let flood = vec![0; 300 * 1024];
        assert!(AnswerReader::new(Framing::Raw).feed(&flood).is_err());
    }
}
