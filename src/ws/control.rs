//! Whole control frames: small enough to build on the stack (RFC 6455 section 5.5).

use super::{
    CloseFrame, Mask, OpCode, ProtocolError,
    header::{FrameHeader, MAX_HEADER},
};

/// Bytes of payload that a control frame may carry.
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// Bytes of the longest control frame: two of header, four of mask, the payload.
pub const MAX_CONTROL_FRAME: usize = 2 + 4 + MAX_CONTROL_PAYLOAD;

/// A control frame ready to be written. With a key it is one of a client, without one of a server.
#[derive(Clone)]
pub struct ControlFrame {
    bytes: [u8; MAX_CONTROL_FRAME],
    len: u8,
}

impl ControlFrame {
    /// `None` sends no code; so does a code that must not appear on the wire.
    pub fn close(close: Option<&CloseFrame>, mask: Option<[u8; 4]>) -> Self {
        let mut payload = [0; MAX_CONTROL_PAYLOAD];
        let len = close.map_or(0, |close| close.encode(&mut payload));
        Self::build(OpCode::Close, &payload[..len], mask)
    }

    /// # Errors
    /// [`ProtocolError::LongControl`] for a payload over 125 bytes.
    pub fn ping(payload: &[u8], mask: Option<[u8; 4]>) -> Result<Self, ProtocolError> {
        Self::checked(OpCode::Ping, payload, mask)
    }

    /// # Errors
    /// [`ProtocolError::LongControl`] for a payload over 125 bytes.
    pub fn pong(payload: &[u8], mask: Option<[u8; 4]>) -> Result<Self, ProtocolError> {
        Self::checked(OpCode::Pong, payload, mask)
    }

    /// The answer to a ping: its payload, unchanged (section 5.5.3).
    pub fn pong_to(ping: &ControlPayload, mask: Option<[u8; 4]>) -> Self {
        Self::build(OpCode::Pong, ping.as_bytes(), mask)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn checked(
        opcode: OpCode,
        payload: &[u8],
        mask: Option<[u8; 4]>,
    ) -> Result<Self, ProtocolError> {
        if payload.len() > MAX_CONTROL_PAYLOAD {
            return Err(ProtocolError::LongControl);
        }
        Ok(Self::build(opcode, payload, mask))
    }

    /// `payload` is at most 125 bytes.
    fn build(opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) -> Self {
        let header = FrameHeader {
            fin: true,
            opcode,
            mask,
            len: payload.len() as u64,
        };
        let mut head = [0; MAX_HEADER];
        let head_len = header.encode(&mut head);
        let mut bytes = [0; MAX_CONTROL_FRAME];
        bytes[..head_len].copy_from_slice(&head[..head_len]);
        let len = head_len + payload.len();
        let body = &mut bytes[head_len..len];
        match mask {
            Some(key) => Mask::new(key).apply(payload, body),
            None => body.copy_from_slice(payload),
        }
        Self {
            bytes,
            len: u8::try_from(len).expect("a control frame has at most 131 bytes"),
        }
    }
}

impl std::fmt::Debug for ControlFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ControlFrame")
            .field(&self.as_bytes())
            .finish()
    }
}

/// Collects the clear payload of a control frame that may come in several inputs.
#[derive(Clone)]
pub struct ControlPayload {
    bytes: [u8; MAX_CONTROL_PAYLOAD],
    len: u8,
}

impl ControlPayload {
    pub fn new() -> Self {
        Self {
            bytes: [0; MAX_CONTROL_PAYLOAD],
            len: 0,
        }
    }

    /// Appends a piece of payload, `mask` as the cursor gave it.
    ///
    /// # Errors
    /// [`ProtocolError::LongControl`] when it would not fit; a cursor lets no such frame pass.
    pub fn push(&mut self, piece: &[u8], mask: Option<Mask>) -> Result<(), ProtocolError> {
        let start = usize::from(self.len);
        let end = start + piece.len();
        let (Some(room), Ok(len)) = (self.bytes.get_mut(start..end), u8::try_from(end)) else {
            return Err(ProtocolError::LongControl);
        };
        match mask {
            Some(mask) => mask.apply(piece, room),
            None => room.copy_from_slice(piece),
        }
        self.len = len;
        Ok(())
    }

    /// Forgets what was collected.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Default for ControlPayload {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ControlPayload")
            .field(&self.as_bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::CloseCode;

    const KEY: [u8; 4] = [9, 8, 7, 6];

    #[test]
    fn writes_the_pongs_of_section_5_7() {
        let pong = ControlFrame::pong(b"Hello", None).unwrap();
        assert_eq!(pong.as_bytes(), b"\x8A\x05Hello");
        let pong = ControlFrame::pong(b"Hello", Some([0x37, 0xfa, 0x21, 0x3d])).unwrap();
        assert_eq!(
            pong.as_bytes(),
            b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
        );
    }

    #[test]
    fn the_longest_frame_fits_and_a_longer_one_is_refused() {
        let longest = ControlFrame::ping(&[1; MAX_CONTROL_PAYLOAD], Some(KEY)).unwrap();
        assert_eq!(longest.as_bytes().len(), MAX_CONTROL_FRAME);
        assert_eq!(
            ControlFrame::ping(&[1; MAX_CONTROL_PAYLOAD + 1], None).unwrap_err(),
            ProtocolError::LongControl
        );
    }

    #[test]
    fn a_close_without_a_code_is_empty() {
        assert_eq!(ControlFrame::close(None, None).as_bytes(), [0x88, 0]);
        let close = CloseFrame::new(CloseCode::GOING_AWAY, "bye");
        assert_eq!(
            ControlFrame::close(Some(&close), None).as_bytes(),
            b"\x88\x05\x03\xE9bye"
        );
    }

    #[test]
    fn a_masked_payload_is_collected_clear_and_echoed() {
        let ping = ControlFrame::ping(b"are you there", Some(KEY)).unwrap();
        let masked = &ping.as_bytes()[6..];
        let mut payload = ControlPayload::new();
        payload.push(&masked[..5], Some(Mask::new(KEY))).unwrap();
        payload
            .push(&masked[5..], Some(Mask::new(KEY).rotated(5)))
            .unwrap();
        assert_eq!(payload.as_bytes(), b"are you there");
        assert_eq!(
            ControlFrame::pong_to(&payload, None).as_bytes(),
            b"\x8A\x0Dare you there"
        );
        payload.clear();
        payload.push(&[0; MAX_CONTROL_PAYLOAD], None).unwrap();
        assert_eq!(payload.push(b"x", None), Err(ProtocolError::LongControl));
    }
}
