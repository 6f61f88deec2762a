//! Walks a stream of frames without holding it.

use super::{
    Mask, OpCode, ProtocolError,
    header::{FrameHeader, MAX_HEADER, StreamRules},
};

/// Finds frame and message boundaries in bytes that are forwarded as they are.
///
/// It keeps the current header and a few counters, never payload and nothing on the heap. Where
/// the input is cut makes no difference to what it says, errors included. After an error it only
/// repeats that error: the place of the next frame is not known any more.
///
/// What may follow a close frame (section 5.5.1) is the business of whoever acts on it.
#[derive(Debug)]
pub struct FrameCursor {
    sender: Sender,
    /// Upper bound of the payload bytes of one data message over all its fragments.
    message_limit: u64,
    /// The data message that has begun and whose last fragment has not come yet.
    open: Option<OpenMessage>,
    progress: Progress,
    /// The header last completed or, while its bytes come in, the part that is here.
    head: [u8; MAX_HEADER],
    head_len: u8,
}

// One per direction lives in every relay.
const _: () = assert!(size_of::<FrameCursor>() <= 64);

/// Who wrote the bytes; decides about masks (section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Must mask every frame.
    Client,
    /// Must mask none.
    Server,
}

/// What the front of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that `piece` covers.
    pub used: usize,
    pub piece: Piece,
}

/// A part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The header is not complete: all input was kept in the cursor.
    Partial,
    /// A header ends with these bytes; [`FrameCursor::raw_header`] has all of them. At least one
    /// `Payload` follows, for an empty frame with `used` 0.
    Header {
        header: FrameHeader,
        /// A data message begins; false for continuations and control frames.
        starts_message: bool,
        /// The header began in an earlier input.
        split: bool,
    },
    /// Payload as it stands in the input.
    Payload {
        /// Turned to the first of these bytes.
        mask: Option<Mask>,
        /// That of the message: a continuation says `Text` or `Binary`.
        opcode: OpCode,
        /// The frame ends with these bytes.
        frame_end: bool,
        /// A data message ends with these bytes; never true in a control frame.
        message_end: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct OpenMessage {
    opcode: OpCode,
    /// Payload bytes announced so far.
    len: u64,
}

#[derive(Clone, Copy, Debug)]
enum Progress {
    /// `have` bytes of the next header are in `head`.
    Header { have: u8 },
    Payload {
        remaining: u64,
        mask: Option<Mask>,
        opcode: OpCode,
        /// This frame completes a data message.
        last: bool,
    },
    /// Terminal.
    Failed(ProtocolError),
}

impl FrameCursor {
    /// A cursor at the start of a stream; `message_limit` is in bytes of payload, and a message of
    /// exactly that size passes.
    pub fn new(sender: Sender, message_limit: u64) -> Self {
        Self {
            sender,
            message_limit,
            open: None,
            progress: Progress::Header { have: 0 },
            head: [0; MAX_HEADER],
            head_len: 0,
        }
    }

    /// Another limit, from the next frame on; what has passed of a message counts.
    pub fn set_message_limit(&mut self, message_limit: u64) {
        self.message_limit = message_limit;
    }

    /// Takes the next piece off the front of `input`.
    ///
    /// Empty input is answered with an empty piece, which is news only when
    /// [`FrameCursor::empty_payload_due`] says so.
    ///
    /// # Errors
    /// A violation is reported as soon as the byte that shows it is here, and at each later call.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        match self.progress {
            Progress::Payload {
                remaining,
                mask,
                opcode,
                last,
            } => Ok(self.step_payload(input, remaining, mask, opcode, last)),
            Progress::Header { have } => self.step_header(input, have).inspect_err(|&error| {
                self.progress = Progress::Failed(error);
                self.head_len = 0;
            }),
            Progress::Failed(error) => Err(error),
        }
    }

    /// The exact bytes of the header last completed; the part that is here while a header comes in;
    /// nothing after an error.
    pub fn raw_header(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len)]
    }

    /// Nothing of a frame is pending: what comes next is a header's first byte.
    pub fn at_frame_boundary(&self) -> bool {
        matches!(self.progress, Progress::Header { have: 0 })
    }

    /// The header of a data frame has been given out, the end of its payload not yet.
    ///
    /// False while a header comes in and after an error, which is always found in a header.
    pub fn in_data_payload(&self) -> bool {
        matches!(self.progress, Progress::Payload { opcode, .. } if !opcode.control())
    }

    /// The header of a data message has been given out, its end not yet; control frames may stand
    /// in between.
    pub fn in_message(&self) -> bool {
        self.open.is_some() || self.in_data_payload()
    }

    /// As [`FrameCursor::at_frame_boundary`], and no fragmented data message is open.
    pub fn at_message_boundary(&self) -> bool {
        self.open.is_none() && self.at_frame_boundary()
    }

    /// The payload of an empty frame is to be taken with the next step, which needs no input.
    pub fn empty_payload_due(&self) -> bool {
        matches!(self.progress, Progress::Payload { remaining: 0, .. })
    }

    fn step_header(&mut self, input: &[u8], have: u8) -> Result<Step, ProtocolError> {
        let kept = usize::from(have);
        // No header is longer than `head`, so an incomplete one has left no byte of `input` out.
        let taken = input.len().min(MAX_HEADER - kept);
        self.head[kept..kept + taken].copy_from_slice(&input[..taken]);
        let here = kept + taken;

        let Some((header, len)) = FrameHeader::parse_under(self, &self.head[..here])? else {
            let have = small(here);
            self.progress = Progress::Header { have };
            if have > 0 {
                self.head_len = have;
            }
            return Ok(Step {
                used: taken,
                piece: Piece::Partial,
            });
        };
        self.head_len = small(len);
        self.enter(&header);
        Ok(Step {
            used: len - kept,
            piece: Piece::Header {
                header,
                starts_message: matches!(header.opcode, OpCode::Text | OpCode::Binary),
                split: kept > 0,
            },
        })
    }

    /// Moves on to the payload of a frame that has passed all checks.
    fn enter(&mut self, header: &FrameHeader) {
        let (opcode, last) = if header.opcode.control() {
            (header.opcode, false)
        } else {
            let before = self.open.unwrap_or(OpenMessage {
                opcode: header.opcode,
                len: 0,
            });
            self.open = (!header.fin).then_some(OpenMessage {
                opcode: before.opcode,
                len: before.len.saturating_add(header.len),
            });
            (before.opcode, header.fin)
        };
        self.progress = Progress::Payload {
            remaining: header.len,
            mask: header.mask.map(Mask::new),
            opcode,
            last,
        };
    }

    fn step_payload(
        &mut self,
        input: &[u8],
        remaining: u64,
        mask: Option<Mask>,
        opcode: OpCode,
        last: bool,
    ) -> Step {
        let used = usize::try_from(remaining).map_or(input.len(), |left| left.min(input.len()));
        let remaining = remaining - used as u64;
        let frame_end = remaining == 0;
        self.progress = if frame_end {
            Progress::Header { have: 0 }
        } else {
            Progress::Payload {
                remaining,
                mask: mask.map(|mask| mask.rotated(used)),
                opcode,
                last,
            }
        };
        Step {
            used,
            piece: Piece::Payload {
                mask,
                opcode,
                frame_end,
                message_end: frame_end && last,
            },
        }
    }
}

impl StreamRules for FrameCursor {
    fn order(&self, opcode: OpCode) -> Result<(), ProtocolError> {
        match (opcode, &self.open) {
            (OpCode::Continuation, None) => Err(ProtocolError::StrayContinuation),
            (OpCode::Text | OpCode::Binary, Some(_)) => Err(ProtocolError::InterleavedMessage),
            // Control frames may stand between fragments.
            _ => Ok(()),
        }
    }

    fn masking(&self, masked: bool) -> Result<(), ProtocolError> {
        match (self.sender, masked) {
            (Sender::Client, false) => Err(ProtocolError::MaskMissing),
            (Sender::Server, true) => Err(ProtocolError::MaskForbidden),
            _ => Ok(()),
        }
    }

    fn size(&self, opcode: OpCode, len: u64) -> Result<(), ProtocolError> {
        if opcode.control() {
            return Ok(());
        }
        let before = self.open.map_or(0, |message| message.len);
        if before.saturating_add(len) > self.message_limit {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(())
    }
}

/// A count of header bytes.
fn small(len: usize) -> u8 {
    u8::try_from(len).expect("no header is longer than 14 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [7, 77, 177, 250];

    fn frame(fin: bool, opcode: OpCode, mask: Option<[u8; 4]>, clear: &[u8]) -> Vec<u8> {
        let mut head = [0; MAX_HEADER];
        let len = FrameHeader {
            fin,
            opcode,
            mask,
            len: clear.len() as u64,
        }
        .encode(&mut head);
        let mut bytes = head[..len].to_vec();
        bytes.extend_from_slice(clear);
        if let Some(key) = mask {
            Mask::new(key).apply_in_place(&mut bytes[len..]);
        }
        bytes
    }

    /// A server's frame.
    fn plain(fin: bool, opcode: OpCode, clear: &[u8]) -> Vec<u8> {
        frame(fin, opcode, None, clear)
    }

    /// Walks all of `input`, adding clear data payload to `message`; fails with the first error.
    fn walk(
        cursor: &mut FrameCursor,
        mut input: &[u8],
        message: &mut Vec<u8>,
    ) -> Result<Vec<Piece>, ProtocolError> {
        let mut pieces = Vec::new();
        while !input.is_empty() || cursor.empty_payload_due() {
            let step = cursor.step(input)?;
            let (front, rest) = input.split_at(step.used);
            if let Piece::Payload { mask, opcode, .. } = step.piece
                && !opcode.control()
            {
                let start = message.len();
                message.extend_from_slice(front);
                if let Some(mask) = mask {
                    mask.apply_in_place(&mut message[start..]);
                }
            }
            pieces.push(step.piece);
            input = rest;
        }
        Ok(pieces)
    }

    fn server(input: &[u8]) -> Result<Vec<Piece>, ProtocolError> {
        walk(
            &mut FrameCursor::new(Sender::Server, 1 << 20),
            input,
            &mut Vec::new(),
        )
    }

    #[test]
    fn a_fragmented_message_keeps_its_opcode_around_a_ping() {
        let stream = [
            plain(false, OpCode::Text, b"Hel"),
            plain(true, OpCode::Ping, b"?"),
            plain(true, OpCode::Continuation, b"lo"),
        ]
        .concat();
        let mut cursor = FrameCursor::new(Sender::Server, 5);
        let mut message = Vec::new();
        let pieces = walk(&mut cursor, &stream, &mut message).unwrap();
        assert_eq!(message, b"Hello");
        let payload = |opcode, message_end| Piece::Payload {
            mask: None,
            opcode,
            frame_end: true,
            message_end,
        };
        let header = |fin, opcode, len, starts_message| Piece::Header {
            header: FrameHeader {
                fin,
                opcode,
                mask: None,
                len,
            },
            starts_message,
            split: false,
        };
        assert_eq!(
            pieces,
            [
                header(false, OpCode::Text, 3, true),
                payload(OpCode::Text, false),
                header(true, OpCode::Ping, 1, false),
                payload(OpCode::Ping, false),
                header(true, OpCode::Continuation, 2, false),
                payload(OpCode::Text, true),
            ]
        );
        assert!(cursor.at_message_boundary());
    }

    #[test]
    fn boundaries_are_known_at_each_byte() {
        let stream = [
            plain(false, OpCode::Text, b"ab"),
            plain(true, OpCode::Continuation, b"c"),
        ]
        .concat();
        let mut cursor = FrameCursor::new(Sender::Server, 100);
        let mut frames = vec![cursor.at_frame_boundary()];
        let mut messages = vec![cursor.at_message_boundary()];
        for byte in stream.chunks(1) {
            walk(&mut cursor, byte, &mut Vec::new()).unwrap();
            frames.push(cursor.at_frame_boundary());
            messages.push(cursor.at_message_boundary());
        }
        assert_eq!(
            frames,
            [true, false, false, false, true, false, false, true]
        );
        assert_eq!(
            messages,
            [true, false, false, false, false, false, false, true]
        );
    }

    #[test]
    fn an_empty_frame_has_one_empty_payload_which_needs_no_input() {
        let mut cursor = FrameCursor::new(Sender::Server, 100);
        let stream = plain(true, OpCode::Text, b"");
        let step = cursor.step(&stream).unwrap();
        assert_eq!(step.used, 2);
        assert!(cursor.empty_payload_due() && !cursor.at_frame_boundary());
        let step = cursor.step(&[]).unwrap();
        assert_eq!(
            step,
            Step {
                used: 0,
                piece: Piece::Payload {
                    mask: None,
                    opcode: OpCode::Text,
                    frame_end: true,
                    message_end: true,
                }
            }
        );
        assert!(!cursor.empty_payload_due() && cursor.at_message_boundary());
    }

    #[test]
    fn a_cut_header_is_kept_and_given_back_whole() {
        let stream = frame(true, OpCode::Binary, Some(KEY), &[5; 70_000]);
        for cut in 1..MAX_HEADER {
            let mut cursor = FrameCursor::new(Sender::Client, 1 << 20);
            let step = cursor.step(&stream[..cut]).unwrap();
            assert_eq!((step.used, step.piece), (cut, Piece::Partial));
            assert!(!cursor.at_frame_boundary());
            assert_eq!(cursor.raw_header(), &stream[..cut]);
            let step = cursor.step(&stream[cut..]).unwrap();
            assert_eq!(step.used, MAX_HEADER - cut);
            assert!(matches!(step.piece, Piece::Header { split: true, .. }));
            assert_eq!(cursor.raw_header(), &stream[..MAX_HEADER]);
        }
    }

    #[test]
    fn the_mask_goes_on_at_its_offset() {
        let clear: Vec<u8> = (0..=255).collect();
        let stream = frame(true, OpCode::Binary, Some(KEY), &clear);
        for size in 1..20 {
            let mut cursor = FrameCursor::new(Sender::Client, 256);
            let mut message = Vec::new();
            for chunk in stream.chunks(size) {
                walk(&mut cursor, chunk, &mut message).unwrap();
            }
            assert_eq!(message, clear);
        }
    }

    #[test]
    fn masks_belong_to_clients_only() {
        assert_eq!(
            server(&frame(true, OpCode::Text, Some(KEY), b"x")),
            Err(ProtocolError::MaskForbidden)
        );
        assert_eq!(
            FrameCursor::new(Sender::Client, 10).step(&plain(true, OpCode::Text, b"x")),
            Err(ProtocolError::MaskMissing)
        );
    }

    #[test]
    fn fragments_follow_each_other() {
        assert_eq!(
            server(&plain(true, OpCode::Continuation, b"x")),
            Err(ProtocolError::StrayContinuation)
        );
        for opcode in [OpCode::Text, OpCode::Binary] {
            let stream = [plain(false, OpCode::Text, b"x"), plain(true, opcode, b"y")].concat();
            assert_eq!(server(&stream), Err(ProtocolError::InterleavedMessage));
        }
        let stream = [
            plain(false, OpCode::Text, b""),
            plain(true, OpCode::Continuation, b""),
            plain(true, OpCode::Continuation, b""),
        ]
        .concat();
        assert_eq!(server(&stream), Err(ProtocolError::StrayContinuation));
    }

    #[test]
    fn the_limit_counts_all_fragments_and_no_control_frame() {
        let exact = [
            plain(false, OpCode::Text, b"123"),
            plain(true, OpCode::Ping, &[0; 125]),
            plain(false, OpCode::Continuation, b"4"),
            plain(true, OpCode::Continuation, b"5"),
        ]
        .concat();
        let mut cursor = FrameCursor::new(Sender::Server, 5);
        walk(&mut cursor, &exact, &mut Vec::new()).unwrap();
        walk(&mut cursor, &exact, &mut Vec::new()).unwrap();

        cursor.set_message_limit(4);
        let error = walk(&mut cursor, &exact, &mut Vec::new()).unwrap_err();
        assert_eq!(error, ProtocolError::MessageTooBig);
        assert_eq!(error.close_code().0, 1009);
    }

    #[test]
    fn the_largest_lengths_do_not_overflow() {
        let huge = |fin, opcode| {
            let mut head = [0; MAX_HEADER];
            let len = FrameHeader {
                fin,
                opcode,
                mask: None,
                len: (1 << 63) - 1,
            }
            .encode(&mut head);
            head[..len].to_vec()
        };
        let mut cursor = FrameCursor::new(Sender::Server, u64::MAX);
        cursor.step(&huge(false, OpCode::Text)).unwrap();
        let step = cursor.step(&[0; 10]).unwrap();
        assert_eq!(step.used, 10);
        assert!(matches!(
            step.piece,
            Piece::Payload {
                frame_end: false,
                ..
            }
        ));
    }

    #[test]
    fn an_error_shows_with_its_first_byte_and_stays() {
        let mut cursor = FrameCursor::new(Sender::Server, 10);
        assert_eq!(cursor.step(&[0xC1]), Err(ProtocolError::ReservedBits));
        let sound = plain(true, OpCode::Text, b"x");
        assert_eq!(cursor.step(&sound), Err(ProtocolError::ReservedBits));
        assert!(!cursor.at_frame_boundary());
    }
}
