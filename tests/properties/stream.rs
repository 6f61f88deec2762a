//! Random streams of frames, random places to cut them, and what a cursor says about them.

use ddp_gateway::ws::{
    CloseCode, CloseFrame, ControlFrame, FrameCursor, FrameHeader, MAX_HEADER, Mask, OpCode, Piece,
    ProtocolError, Sender,
};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Message limit of all cursors here, in bytes.
pub(crate) const LIMIT: u64 = 1 << 20;

/// A frame as its writer means it.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) opcode: OpCode,
    pub(crate) clear: Vec<u8>,
}

impl Frame {
    pub(crate) fn header(&self, mask: Option<[u8; 4]>) -> FrameHeader {
        FrameHeader {
            fin: self.fin,
            opcode: self.opcode,
            mask,
            len: self.clear.len() as u64,
        }
    }

    pub(crate) fn write(&self, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
        let mut head = [0; MAX_HEADER];
        let len = self.header(mask).encode(&mut head);
        out.extend_from_slice(&head[..len]);
        let start = out.len();
        out.extend_from_slice(&self.clear);
        if let Some(key) = mask {
            Mask::new(key).apply_in_place(&mut out[start..]);
        }
    }
}

/// A whole message, its fragments joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) opcode: OpCode,
    pub(crate) clear: Vec<u8>,
}

/// Frames of whole messages and control frames between them, in the order of the wire.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) frames: Vec<Frame>,
    /// Makes the masks of a client; 0 begins with the mask that changes nothing.
    seed: u32,
}

impl Script {
    pub(crate) fn mask(&self, sender: Sender, at: usize) -> Option<[u8; 4]> {
        let turn = u32::try_from(at)
            .expect("few frames")
            .wrapping_mul(0x9E37_79B9);
        match sender {
            Sender::Client => Some((self.seed ^ turn).to_be_bytes()),
            Sender::Server => None,
        }
    }

    pub(crate) fn bytes(&self, sender: Sender) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, frame) in self.frames.iter().enumerate() {
            frame.write(self.mask(sender, at), &mut out);
        }
        out
    }

    /// What a reader of whole messages gets, in the order in which they end.
    pub(crate) fn messages(&self) -> Vec<Message> {
        join(self.frames.iter().map(|frame| {
            let part = (frame.opcode, frame.clear.clone());
            (part, frame.fin)
        }))
    }
}

/// Joins fragments; a control frame is a message of its own.
fn join(frames: impl Iterator<Item = ((OpCode, Vec<u8>), bool)>) -> Vec<Message> {
    let mut done = Vec::new();
    let mut open: Option<Message> = None;
    for ((opcode, clear), fin) in frames {
        if opcode.control() {
            done.push(Message { opcode, clear });
            continue;
        }
        let message = open.get_or_insert(Message {
            opcode,
            clear: Vec::new(),
        });
        message.clear.extend_from_slice(&clear);
        if fin {
            done.extend(open.take());
        }
    }
    done
}

pub(crate) fn sender() -> impl Strategy<Value = Sender> {
    prop_oneof![Just(Sender::Client), Just(Sender::Server)]
}

/// Sizes of the inputs, used in turn.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        1 => Just(vec![1]),
        3 => vec(1..20_usize, 1..8),
        2 => vec(1..3000_usize, 1..6),
        1 => vec(60_000..70_000_usize, 1..3),
    ]
}

pub(crate) fn chunks<'a>(input: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = input;
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at(rest.len().min(*size));
        chunks.push(chunk);
        rest = behind;
    }
    chunks
}

/// Lengths around the borders of the three length forms, most of them small.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![
        12 => 0..40_usize,
        4 => 124..129_usize,
        1 => 65_534..65_538_usize,
    ]
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => vec(any::<char>(), 0..40).prop_map(|text| String::from_iter(text).into_bytes()),
        1 => len().prop_map(|len| vec![b'x'; len]),
    ]
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    (len(), any::<u8>(), any::<u8>()).prop_map(|(len, start, step)| {
        std::iter::successors(Some(start), |byte| Some(byte.wrapping_add(step)))
            .take(len)
            .collect()
    })
}

pub(crate) fn control_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..10), vec(any::<u8>(), 120..=125)]
}

fn control() -> impl Strategy<Value = Frame> {
    let opcode = prop_oneof![Just(OpCode::Ping), Just(OpCode::Pong)];
    (opcode, control_payload()).prop_map(|(opcode, clear)| Frame {
        fin: true,
        opcode,
        clear,
    })
}

/// A data message in one to four frames, perhaps with control frames between them.
fn message() -> impl Strategy<Value = Vec<Frame>> {
    let data = prop_oneof![
        text().prop_map(|clear| (OpCode::Text, clear)),
        binary().prop_map(|clear| (OpCode::Binary, clear)),
    ];
    let between = prop_oneof![3 => Just(None), 1 => control().prop_map(Some)];
    (data, vec((any::<Index>(), between), 0..4)).prop_map(|((opcode, clear), joints)| {
        let mut joints: Vec<(usize, Option<Frame>)> = joints
            .into_iter()
            .map(|(at, between)| (at.index(clear.len() + 1), between))
            .collect();
        joints.sort_by_key(|(at, _)| *at);
        let mut frames = Vec::new();
        let mut start = 0;
        let mut opcode = opcode;
        for (end, between) in joints {
            frames.push(Frame {
                fin: false,
                opcode,
                clear: clear[start..end].to_vec(),
            });
            frames.extend(between);
            start = end;
            opcode = OpCode::Continuation;
        }
        frames.push(Frame {
            fin: true,
            opcode,
            clear: clear[start..].to_vec(),
        });
        frames
    })
}

pub(crate) fn script() -> impl Strategy<Value = Script> {
    let item = prop_oneof![
        3 => message(),
        1 => control().prop_map(|frame| vec![frame]),
    ];
    (vec(item, 0..6), prop_oneof![Just(0), any::<u32>()]).prop_map(|(items, seed)| Script {
        frames: items.concat(),
        seed,
    })
}

/// A frame as a cursor has told it, its pieces joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) header: FrameHeader,
    pub(crate) raw_header: Vec<u8>,
    pub(crate) starts_message: bool,
    /// Of the message; `None` while no payload piece has come.
    pub(crate) opcode: Option<OpCode>,
    pub(crate) clear: Vec<u8>,
    pub(crate) frame_end: bool,
    pub(crate) message_end: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) frames: Vec<Seen>,
    /// Bytes that a relay would have passed on: headers when complete, payload at once.
    pub(crate) forwarded: Vec<u8>,
    /// Frame boundary and message boundary at the end, or what was wrong.
    pub(crate) end: Result<(bool, bool), ProtocolError>,
}

impl Walk {
    pub(crate) fn messages(&self) -> Vec<Message> {
        let whole = self.frames.iter().filter(|frame| frame.frame_end);
        join(whole.map(|frame| {
            let opcode = frame.opcode.expect("a frame ends with a payload piece");
            ((opcode, frame.clear.clone()), frame.header.fin)
        }))
    }
}

/// Feeds `chunks` one after the other and checks on the way what holds for any input.
pub(crate) fn walk(sender: Sender, chunks: &[&[u8]]) -> Walk {
    let mut cursor = FrameCursor::new(sender, LIMIT);
    let mut walk = Walk {
        frames: Vec::new(),
        forwarded: Vec::new(),
        end: Ok((true, true)),
    };
    for chunk in chunks {
        if let Err(error) = feed(&mut cursor, chunk, &mut walk) {
            assert_eq!(cursor.step(chunk), Err(error), "an error stays");
            walk.end = Err(error);
            return walk;
        }
        assert_eq!(
            cursor.at_frame_boundary(),
            walk.frames.last().is_none_or(|frame| frame.frame_end) && !cursor_has_part(&cursor),
        );
    }
    walk.end = Ok((cursor.at_frame_boundary(), cursor.at_message_boundary()));
    walk
}

/// Whether bytes of an incomplete header are kept.
fn cursor_has_part(cursor: &FrameCursor) -> bool {
    FrameHeader::parse(cursor.raw_header()) == Ok(None) && !cursor.raw_header().is_empty()
}

fn feed(cursor: &mut FrameCursor, chunk: &[u8], walk: &mut Walk) -> Result<(), ProtocolError> {
    // No bytes, no news.
    let idle = cursor.step(&[])?;
    assert_eq!(idle.used, 0);
    assert!(matches!(
        idle.piece,
        Piece::Partial
            | Piece::Payload {
                frame_end: false,
                ..
            }
    ));

    let part_before = !cursor.at_frame_boundary() && cursor_has_part(cursor);
    let mut rest = chunk;
    let mut first = true;
    while !rest.is_empty() || cursor.empty_payload_due() {
        let step = cursor.step(rest)?;
        let (front, behind) = rest.split_at(step.used);
        match step.piece {
            Piece::Partial => assert!(behind.is_empty(), "a part of a header takes all input"),
            Piece::Header {
                header,
                starts_message,
                split,
            } => {
                assert_eq!(split, first && part_before);
                assert!(cursor.raw_header().ends_with(front));
                walk.forwarded.extend_from_slice(cursor.raw_header());
                walk.frames.push(Seen {
                    header,
                    raw_header: cursor.raw_header().to_vec(),
                    starts_message,
                    opcode: None,
                    clear: Vec::new(),
                    frame_end: false,
                    message_end: false,
                });
            }
            Piece::Payload {
                mask,
                opcode,
                frame_end,
                message_end,
            } => {
                let frame = walk.frames.last_mut().expect("a header comes first");
                assert!(!frame.frame_end, "nothing follows the end of a frame");
                assert!(frame_end || !message_end, "a message ends with a frame");
                assert_eq!(frame.opcode.unwrap_or(opcode), opcode);
                frame.opcode = Some(opcode);
                let start = frame.clear.len();
                frame.clear.extend_from_slice(front);
                if let Some(mask) = mask {
                    mask.apply_in_place(&mut frame.clear[start..]);
                }
                frame.frame_end = frame_end;
                frame.message_end = message_end;
                walk.forwarded.extend_from_slice(front);
            }
        }
        rest = behind;
        first = false;
    }
    Ok(())
}

/// A close frame as one side sends it.
pub(crate) fn close(sender: Sender, code: CloseCode, reason: &str) -> ControlFrame {
    let key = match sender {
        Sender::Client => Some([3, 1, 4, 1]),
        Sender::Server => None,
    };
    ControlFrame::close(Some(&CloseFrame::new(code, reason)), key)
}
