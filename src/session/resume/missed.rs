//! Frames that were sent, read again.

use crate::{
    ddp::{Framing, Kind, Sender, messages_from_streamer, peek},
    ws::{self, FrameCursor, Piece},
};

/// One message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    /// As they went over the wire.
    pub(super) frames: Vec<u8>,
    /// Without framing; empty when that cannot be taken off.
    pub(super) json: String,
    pub(super) kind: Kind,
    pub(super) counted: bool,
}

/// Whether Meteor's client counts the message of this kind that begins with `text`, which is at least
/// its first [`SHORT`] + 1 bytes: all that are messages, but pings and pongs.
pub(super) fn is_counted(text: &[u8], kind: Kind) -> bool {
    text.len() > SHORT
        || !matches!(
            kind,
            Kind::Ping
                | Kind::Pong
                | Kind::Heartbeat
                | Kind::Open
                | Kind::Closed
                | Kind::Empty
                | Kind::ServerId
        )
}

/// How many of these whole text frames are messages that the client counts.
pub(super) fn count(frames: &[u8], framing: Framing) -> u32 {
    let messages = split(frames, framing).unwrap_or_default();
    let counted = messages.iter().filter(|missed| missed.counted).count();
    u32::try_from(counted).unwrap_or(u32::MAX)
}

/// Splits what went to a client into its messages; `None` when it ends within one.
pub(super) fn split(mut bytes: &[u8], framing: Framing) -> Option<Vec<Missed>> {
    let mut cursor = FrameCursor::new(ws::Sender::Server, u64::MAX);
    let mut messages = Vec::new();
    let mut frames = Vec::new();
    let mut text = Vec::new();
    while !bytes.is_empty() || cursor.empty_payload_due() {
        let step = cursor.step(bytes).ok()?;
        let (used, rest) = bytes.split_at(step.used);
        bytes = rest;
        match step.piece {
            Piece::Partial => {}
            Piece::Header { .. } => frames.extend_from_slice(cursor.raw_header()),
            Piece::Payload { message_end, .. } => {
                frames.extend_from_slice(used);
                text.extend_from_slice(used);
                if message_end {
                    messages.push(Missed::read(std::mem::take(&mut frames), &text, framing));
                    text.clear();
                }
            }
        }
    }
    cursor.at_message_boundary().then_some(messages)
}

impl Missed {
    fn read(frames: Vec<u8>, text: &[u8], framing: Framing) -> Self {
        let mut inner = messages_from_streamer(framing, text).unwrap_or_default();
        let json = match inner.len() {
            1 => inner.swap_remove(0),
            _ => String::new(),
        };
        let kind = peek(text, framing, Sender::Server).kind;
        Self {
            frames,
            kind,
            counted: is_counted(text, kind),
            json,
        }
    }
}

/// No ping and no pong is longer, whatever its id: those of servers have 17 characters.
const SHORT: usize = 96;
