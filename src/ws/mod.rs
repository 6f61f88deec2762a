//! WebSocket frames as bytes: headers, masks, closes, the two handshakes (RFC 6455). No I/O.
//!
//! Everything here takes bytes and gives back meaning; nothing is buffered but the few bytes of a
//! frame header that a read has cut. Section numbers in comments are those of RFC 6455.

mod close;
mod control;
mod cursor;
mod error;
pub mod handshake;
mod header;
mod mask;
mod utf8;

pub use self::{
    close::{CloseCode, CloseFrame, CloseReason, MAX_CLOSE_REASON},
    control::{ControlFrame, ControlPayload, MAX_CONTROL_FRAME, MAX_CONTROL_PAYLOAD},
    cursor::{FrameCursor, Piece, Sender, Step},
    error::ProtocolError,
    handshake::HandshakeError,
    header::{FrameHeader, MAX_HEADER, OpCode},
    mask::Mask,
    utf8::Utf8Check,
};
