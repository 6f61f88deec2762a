//! One direction of a relay: bytes in, the same bytes out, a look at the start of each message.
//!
//! Frames are passed on as they came, header, mask and fragments included. Control frames end here.
//! A message is judged by at most [`PEEK_BYTES`] of its text; it is held back only while fewer of
//! them are here than that and the message has not ended, which is rare, or when its whole text is
//! wanted. Nothing is allocated for a message that arrives in one read.

use tokio::io::AsyncWrite;

use super::outlet::{Lane, Outlet};
use crate::{
    session::{Disconnect, Verdict},
    ws::{
        CloseFrame, ControlPayload, FrameCursor, Mask, OpCode, Piece, ProtocolError, Sender,
        Utf8Check,
    },
};

/// Bytes of a message's text that decide about it.
pub(super) const PEEK_BYTES: usize = 512;

/// One direction's place in the stream.
#[derive(Debug)]
pub(super) struct Pump {
    cursor: FrameCursor,
    flow: Flow,
    /// Payload of the control frame that is coming in.
    control: Option<Box<ControlPayload>>,
    /// Text of clients is checked, so that it is the gateway that closes with 1007 and not a
    /// streamer that has read half of it.
    utf8: Option<Utf8Check>,
}

/// What the pump asks about and reports while it walks.
pub(super) trait Inspector {
    /// A data message begins with `prefix`, which is the `whole` message or at least
    /// [`PEEK_BYTES`] of it.
    fn judge(&mut self, text: bool, prefix: &[u8], whole: bool) -> Verdict;

    /// A message that was to be put together is complete.
    fn assembled(&mut self, message: Held) -> Result<Passed, Disconnect>;

    /// A message that was to be put together is too large for that; `prefix` is what there is of it.
    fn oversized(&mut self, prefix: &[u8]) -> Verdict;

    /// A ping came; it wants a pong with the same payload.
    fn ping(&mut self, payload: Box<ControlPayload>);

    /// A pong came; as a sign of life it has done its work by arriving.
    fn pong(&mut self, payload: &ControlPayload);
}

/// A message held back: its frames as they came, and its clear text.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) frames: Vec<u8>,
    pub(super) text: Vec<u8>,
}

/// The frames of a message that was put together, as they pass on.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) now: Vec<u8>,
    pub(super) later: Vec<u8>,
}

impl Passed {
    pub(super) fn now(frames: Vec<u8>) -> Self {
        Self {
            now: frames,
            later: Vec::new(),
        }
    }

    pub(super) fn later(frames: Vec<u8>) -> Self {
        Self {
            now: Vec::new(),
            later: frames,
        }
    }
}

/// What one call of [`Pump::feed`] went through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fed {
    /// Data messages that began.
    pub(super) messages: u32,
    /// Frames of all kinds that began.
    pub(super) frames: u32,
}

/// Why a direction ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// A close frame came.
    Closed(Option<CloseFrame>),
    /// The sender broke the protocol.
    Protocol(ProtocolError),
    /// A verdict.
    Disconnect(Disconnect),
    /// The process has no memory left for slow receivers.
    Full,
    /// The receiver's socket failed.
    Broken,
}

impl From<ProtocolError> for Stop {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// State of the data message that is passing.
#[derive(Debug)]
enum Flow {
    /// Passes on (or none is open).
    Forward(Lane),
    Drop,
    /// Held until enough of it is here to judge it.
    Judge(Box<Held>),
    /// Held until all of it is here.
    Assemble(Box<Held>),
}

impl Pump {
    pub(super) fn new(sender: Sender, message_limit: u64) -> Self {
        Self {
            cursor: FrameCursor::new(sender, message_limit),
            flow: Flow::Forward(Lane::Now),
            control: None,
            utf8: (sender == Sender::Client).then(Utf8Check::new),
        }
    }

    pub(super) fn set_message_limit(&mut self, message_limit: u64) {
        self.cursor.set_message_limit(message_limit);
    }

    /// Whether a frame of the gateway's own may stand here in what was passed on. Headers are passed
    /// on when they are complete and valid, control frames never.
    pub(super) fn at_frame_boundary(&self) -> bool {
        !self.cursor.in_data_payload() || !matches!(self.flow, Flow::Forward(Lane::Now))
    }

    /// Whether a message of the gateway's own may stand here in what was passed on: no message is
    /// open of which a part has been.
    pub(super) fn at_message_boundary(&self) -> bool {
        !self.cursor.in_message() || !matches!(self.flow, Flow::Forward(Lane::Now))
    }

    /// Whether nothing of a frame or message is in here: all that was fed has been passed on.
    pub(super) fn is_at_rest(&self) -> bool {
        self.cursor.at_message_boundary() && self.control.is_none()
    }

    /// What waited goes on, a message that is passing there included. Only at a message boundary.
    pub(super) fn promote(&mut self) {
        debug_assert!(self.at_message_boundary());
        if let Flow::Forward(lane) = &mut self.flow {
            *lane = Lane::Now;
        }
    }

    /// Walks over `input` and writes what passes to `outlet`, in order.
    ///
    /// # Errors
    /// After an error nothing more may be fed; what stood before the fault has been written.
    pub(super) fn feed<S: AsyncWrite + Unpin>(
        &mut self,
        input: &[u8],
        outlet: &mut Outlet<'_, '_, S>,
        inspector: &mut impl Inspector,
    ) -> Result<Fed, Stop> {
        let mut fed = Fed::default();
        outlet.lane = match self.flow {
            Flow::Forward(lane) => lane,
            _ => Lane::Now,
        };
        let mut at = 0;
        // Bytes from here to `at` pass and are not written yet; equal to `at` in any flow but
        // `Forward`.
        let mut from = 0;
        // The text of the message whose payload is next has been checked as a whole.
        let mut checked = false;
        while at < input.len() || self.cursor.empty_payload_due() {
            let step = match self.cursor.step(&input[at..]) {
                Ok(step) => step,
                Err(error) => {
                    outlet.write(&input[from..at])?;
                    return Err(error.into());
                }
            };
            let next = at + step.used;
            match step.piece {
                Piece::Partial => {
                    outlet.write(&input[from..at])?;
                    from = next;
                }
                Piece::Header {
                    header,
                    starts_message,
                    split,
                } => {
                    fed.frames += 1;
                    if header.opcode.control() {
                        outlet.write(&input[from..at])?;
                        from = next;
                        self.control = Some(Box::new(ControlPayload::new()));
                    } else if starts_message {
                        fed.messages += 1;
                        let here = &input[next..];
                        let whole = header.fin && header.len <= here.len() as u64;
                        let seen = PEEK_BYTES
                            .min(here.len())
                            .min(usize::try_from(header.len).unwrap_or(usize::MAX));
                        if whole || seen == PEEK_BYTES {
                            let text = header.opcode == OpCode::Text;
                            let prefix = &here[..seen];
                            let whole = header.fin && header.len == seen as u64;
                            let verdict = match header.mask {
                                Some(key) => {
                                    let mut clear = [0; PEEK_BYTES];
                                    let clear = &mut clear[..seen];
                                    Mask::new(key).apply(prefix, clear);
                                    let verdict = inspector.judge(text, clear, whole);
                                    checked = whole && text;
                                    if checked
                                        && let Some(utf8) = &mut self.utf8
                                        && let Err(error) = check_clear(utf8, clear, true)
                                    {
                                        outlet.write(&input[from..at])?;
                                        return Err(error.into());
                                    }
                                    verdict
                                }
                                None => inspector.judge(text, prefix, whole),
                            };
                            if verdict != Verdict::Forward || split {
                                outlet.write(&input[from..at])?;
                                from = next;
                            }
                            match verdict {
                                Verdict::Forward if split => {
                                    outlet.write(self.cursor.raw_header())?;
                                }
                                Verdict::Forward => {}
                                Verdict::Hold => {
                                    outlet.lane = Lane::Later;
                                    outlet.write(self.cursor.raw_header())?;
                                    self.flow = Flow::Forward(Lane::Later);
                                }
                                Verdict::Drop => self.flow = Flow::Drop,
                                Verdict::Assemble => self.flow = Flow::Assemble(self.hold()),
                                Verdict::Close(reason) => {
                                    self.flow = Flow::Drop;
                                    return Err(Stop::Disconnect(reason));
                                }
                            }
                        } else {
                            outlet.write(&input[from..at])?;
                            from = next;
                            self.flow = Flow::Judge(self.hold());
                        }
                    } else {
                        match &mut self.flow {
                            Flow::Forward(_) if split => {
                                outlet.write(&input[from..at])?;
                                outlet.write(self.cursor.raw_header())?;
                                from = next;
                            }
                            Flow::Forward(_) => {}
                            Flow::Drop => from = next,
                            Flow::Judge(held) | Flow::Assemble(held) => {
                                held.frames.extend_from_slice(self.cursor.raw_header());
                                from = next;
                            }
                        }
                    }
                }
                Piece::Payload {
                    mask,
                    opcode,
                    frame_end,
                    ..
                } if opcode.control() => {
                    from = next;
                    if let Some(control) = &mut self.control {
                        control.push(&input[at..next], mask)?;
                    }
                    if frame_end {
                        self.end_control(opcode, inspector)?;
                    }
                }
                Piece::Payload {
                    mask,
                    opcode,
                    message_end,
                    ..
                } => {
                    let bytes = &input[at..next];
                    if opcode == OpCode::Text
                        && !std::mem::take(&mut checked)
                        && let Some(utf8) = &mut self.utf8
                        && let Err(error) = check_text(utf8, bytes, mask, message_end)
                    {
                        outlet.write(&input[from..at])?;
                        return Err(error.into());
                    }
                    match &mut self.flow {
                        Flow::Forward(_) => {}
                        Flow::Drop => from = next,
                        Flow::Judge(held) => {
                            let text = opcode == OpCode::Text;
                            // Only what decides is held, whatever the size of this read.
                            let wanted = PEEK_BYTES.saturating_sub(held.text.len());
                            let (start, rest) = bytes.split_at(wanted.min(bytes.len()));
                            held.push(start, mask);
                            from = at + start.len();
                            let ends = message_end && rest.is_empty();
                            self.judge_held(text, ends, outlet, inspector)?;
                            let mask = mask.map(|mask| mask.rotated(start.len()));
                            match &mut self.flow {
                                Flow::Assemble(held) if held.has_room(rest.len()) => {
                                    held.push(rest, mask);
                                    from = next;
                                    self.end_held(message_end, outlet, inspector)?;
                                }
                                Flow::Assemble(_) => {
                                    from += self.give_up(rest, mask, outlet, inspector)?;
                                    if let Flow::Drop = self.flow {
                                        from = next;
                                    }
                                }
                                Flow::Judge(held) => {
                                    held.push(rest, mask);
                                    from = next;
                                }
                                Flow::Drop => from = next,
                                Flow::Forward(_) => {}
                            }
                        }
                        Flow::Assemble(held) if held.has_room(bytes.len()) => {
                            held.push(bytes, mask);
                            from = next;
                            self.end_held(message_end, outlet, inspector)?;
                        }
                        Flow::Assemble(_) => {
                            from = at + self.give_up(bytes, mask, outlet, inspector)?;
                            if let Flow::Drop = self.flow {
                                from = next;
                            }
                        }
                    }
                    if message_end {
                        if let Flow::Forward(Lane::Later) = self.flow {
                            outlet.write(&input[from..next])?;
                            from = next;
                        }
                        self.flow = Flow::Forward(Lane::Now);
                        outlet.lane = Lane::Now;
                    }
                }
            }
            at = next;
        }
        outlet.write(&input[from..at])?;
        Ok(fed)
    }

    /// A message whose header was read last and is held back from here on.
    fn hold(&self) -> Box<Held> {
        Box::new(Held {
            frames: self.cursor.raw_header().to_vec(),
            text: Vec::new(),
        })
    }

    /// Decides about a held message when enough of it is here.
    fn judge_held<S: AsyncWrite + Unpin>(
        &mut self,
        text: bool,
        message_end: bool,
        outlet: &mut Outlet<'_, '_, S>,
        inspector: &mut impl Inspector,
    ) -> Result<(), Stop> {
        let Flow::Judge(held) = &mut self.flow else {
            return Ok(());
        };
        let enough = held.text.len() >= PEEK_BYTES || held.frames.len() >= JUDGE_BYTES;
        if !enough && !message_end {
            return Ok(());
        }
        let held = std::mem::take(held);
        let prefix = &held.text[..held.text.len().min(PEEK_BYTES)];
        match inspector.judge(text, prefix, message_end) {
            Verdict::Assemble => {
                self.flow = Flow::Assemble(held);
                self.end_held(message_end, outlet, inspector)
            }
            verdict => self.release(verdict, &held, outlet),
        }
    }

    /// Deals with a message that was put together, if it has ended.
    fn end_held<S: AsyncWrite + Unpin>(
        &mut self,
        message_end: bool,
        outlet: &mut Outlet<'_, '_, S>,
        inspector: &mut impl Inspector,
    ) -> Result<(), Stop> {
        let Flow::Assemble(held) = &mut self.flow else {
            return Ok(());
        };
        if !message_end {
            return Ok(());
        }
        let held = std::mem::take(held);
        self.flow = Flow::Drop;
        let Passed { now, later } = inspector.assembled(*held).map_err(Stop::Disconnect)?;
        outlet.lane = Lane::Now;
        outlet.write(&now)?;
        outlet.lane = Lane::Later;
        outlet.write(&later)?;
        outlet.lane = Lane::Now;
        Ok(())
    }

    /// The message that is being put together is too large for that. Says how many of `bytes`, which
    /// come next, it took to know as much as possible about it.
    fn give_up<S: AsyncWrite + Unpin>(
        &mut self,
        bytes: &[u8],
        mask: Option<Mask>,
        outlet: &mut Outlet<'_, '_, S>,
        inspector: &mut impl Inspector,
    ) -> Result<usize, Stop> {
        let Flow::Assemble(held) = &mut self.flow else {
            return Ok(0);
        };
        let mut held = std::mem::take(held);
        let room = ASSEMBLE_BYTES.saturating_sub(held.frames.len());
        let taken = room.min(bytes.len());
        held.push(&bytes[..taken], mask);
        let verdict = inspector.oversized(&held.text);
        self.release(verdict, &held, outlet)?;
        Ok(taken)
    }

    /// What was held goes where the verdict says, and the rest of its message will follow.
    fn release<S: AsyncWrite + Unpin>(
        &mut self,
        verdict: Verdict,
        held: &Held,
        outlet: &mut Outlet<'_, '_, S>,
    ) -> Result<(), Stop> {
        let lane = match verdict {
            Verdict::Forward => Lane::Now,
            Verdict::Hold => Lane::Later,
            Verdict::Drop | Verdict::Assemble => {
                self.flow = Flow::Drop;
                return Ok(());
            }
            Verdict::Close(reason) => return Err(Stop::Disconnect(reason)),
        };
        self.flow = Flow::Forward(lane);
        outlet.lane = lane;
        outlet.write(&held.frames)
    }

    fn end_control(&mut self, opcode: OpCode, inspector: &mut impl Inspector) -> Result<(), Stop> {
        let Some(payload) = self.control.take() else {
            return Ok(());
        };
        match opcode {
            OpCode::Ping => inspector.ping(payload),
            OpCode::Close => return Err(Stop::Closed(CloseFrame::parse(payload.as_bytes())?)),
            OpCode::Pong => inspector.pong(&payload),
            _ => {}
        }
        Ok(())
    }
}

impl Held {
    fn has_room(&self, more: usize) -> bool {
        self.frames.len() + more <= ASSEMBLE_BYTES
    }

    fn push(&mut self, bytes: &[u8], mask: Option<Mask>) {
        self.frames.extend_from_slice(bytes);
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        if let Some(mask) = mask {
            mask.apply_in_place(&mut self.text[start..]);
        }
    }
}

fn check_text(
    utf8: &mut Utf8Check,
    bytes: &[u8],
    mask: Option<Mask>,
    message_end: bool,
) -> Result<(), ProtocolError> {
    let Some(mask) = mask else {
        return check_clear(utf8, bytes, message_end);
    };
    let mut clear = [0; PEEK_BYTES];
    let mut done = 0;
    for window in bytes.chunks(clear.len()) {
        let clear = &mut clear[..window.len()];
        mask.rotated(done).apply(window, clear);
        utf8.push(clear)?;
        done += window.len();
    }
    if message_end { utf8.finish() } else { Ok(()) }
}

fn check_clear(utf8: &mut Utf8Check, clear: &[u8], message_end: bool) -> Result<(), ProtocolError> {
    utf8.push(clear)?;
    if message_end { utf8.finish() } else { Ok(()) }
}

/// A message that comes in this many bytes of fragments without [`PEEK_BYTES`] of text is judged by
/// what is there.
const JUDGE_BYTES: usize = 8 * 1024;

/// Largest message that is put together.
const ASSEMBLE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        task::{Context, Waker},
    };

    use proptest::prelude::{Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

    use super::{Held, Inspector, PEEK_BYTES, Passed, Pump, Stop};
    use crate::{
        base::chunk::{Backlog, Budget},
        proxy::outlet::{Lane, Later, Loss, Outlet, Target},
        session::{Disconnect, Verdict},
        ws::{ControlPayload, FrameHeader, MAX_HEADER, Mask, OpCode, ProtocolError, Sender},
    };

    /// Judges by the first letter of a message: `h` is held, `d` dropped, `a` put together.
    #[derive(Default)]
    struct Letters {
        judged: Vec<Vec<u8>>,
        whole: Vec<bool>,
        assembled: Vec<Vec<u8>>,
        pings: Vec<Vec<u8>>,
    }

    impl Inspector for Letters {
        fn judge(&mut self, _text: bool, prefix: &[u8], whole: bool) -> Verdict {
            self.judged.push(prefix.to_vec());
            self.whole.push(whole);
            match prefix.first() {
                Some(b'h') => Verdict::Hold,
                Some(b'd') => Verdict::Drop,
                Some(b'a') => Verdict::Assemble,
                Some(b'c') => Verdict::Close(Disconnect::NotConnect),
                _ => Verdict::Forward,
            }
        }

        fn assembled(&mut self, message: Held) -> Result<Passed, Disconnect> {
            self.assembled.push(message.text);
            Ok(Passed {
                now: b"now".to_vec(),
                later: b"later".to_vec(),
            })
        }

        fn oversized(&mut self, prefix: &[u8]) -> Verdict {
            match prefix.get(1) {
                Some(b'n') => Verdict::Forward,
                Some(b'l') => Verdict::Hold,
                _ => Verdict::Close(Disconnect::Unreadable),
            }
        }

        fn ping(&mut self, payload: Box<ControlPayload>) {
            self.pings.push(payload.as_bytes().to_vec());
        }

        fn pong(&mut self, _payload: &ControlPayload) {}
    }

    fn frame(fin: bool, opcode: OpCode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            fin,
            opcode,
            mask,
            len: payload.len() as u64,
        };
        let mut head = [0; MAX_HEADER];
        let length = header.encode(&mut head);
        let mut frame = head[..length].to_vec();
        let start = frame.len();
        frame.extend_from_slice(payload);
        if let Some(key) = mask {
            Mask::new(key).apply_in_place(&mut frame[start..]);
        }
        frame
    }

    /// What passed, what waits, what was asked, and how it ended.
    fn run(pieces: &[&[u8]], sender: Sender) -> (Vec<u8>, Vec<u8>, Letters, Option<Stop>) {
        let mut pump = Pump::new(sender, 100_000);
        let mut later = Later::default();
        let mut backlog = Backlog::new(Arc::new(Budget::new(usize::MAX)));
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        let mut letters = Letters::default();
        for piece in pieces {
            let mut outlet = Outlet {
                target: Target::Stream(&mut out),
                backlog: &mut backlog,
                later: Some(&mut later),
                lane: Lane::Now,
                cx: &mut cx,
                copy: None,
                loss: Loss::Fails,
                taken: 0,
            };
            if let Err(stop) = pump.feed(piece, &mut outlet, &mut letters) {
                backlog.clear();
                return (out, drain(later, backlog), letters, Some(stop));
            }
        }
        assert!(backlog.is_empty());
        (out, drain(later, backlog), letters, None)
    }

    fn drain(mut later: Later, mut backlog: Backlog) -> Vec<u8> {
        later.release(&mut backlog).unwrap();
        let mut out = Vec::new();
        while !backlog.is_empty() {
            let taken = backlog.front().len();
            out.extend_from_slice(backlog.front());
            backlog.advance(taken);
        }
        out
    }

    #[derive(Clone, Debug)]
    struct Message {
        text: Vec<u8>,
        cuts: Vec<usize>,
        ping: Option<Vec<u8>>,
    }

    fn message() -> impl Strategy<Value = Message> {
        let first = prop_oneof![4 => Just(b'f'), 2 => Just(b'd'), 1 => Just(b'a'), 2 => Just(b'h')];
        let size = prop_oneof![0..40_usize, 500..530_usize, 1000..3000_usize];
        (
            first,
            size,
            prop::collection::vec(any::<prop::sample::Index>(), 0..3),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..125)),
        )
            .prop_map(|(first, size, cuts, ping)| {
                let mut text = vec![first; size];
                for (n, byte) in text.iter_mut().enumerate().skip(1) {
                    *byte = b"0123456789"[n % 10];
                }
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(size + 1)).collect();
                cuts.sort_unstable();
                Message { text, cuts, ping }
            })
    }

    use proptest::prelude::Just;

    proptest! {
        #[test]
        fn what_passes_is_the_same_wherever_reads_are_cut(
            messages in prop::collection::vec(message(), 1..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            masked in any::<bool>(),
        ) {
            let (sender, mask) = if masked {
                (Sender::Client, Some([7, 0, 255, 31]))
            } else {
                (Sender::Server, None)
            };
            let mut wire = Vec::new();
            let mut expected = Vec::new();
            let mut waiting = Vec::new();
            let mut assembled = Vec::new();
            let mut pings = Vec::new();
            for Message { text, cuts, ping } in &messages {
                let mut from = 0;
                let ends = cuts.iter().copied().chain([text.len()]);
                for (n, end) in ends.enumerate() {
                    let opcode = if n == 0 { OpCode::Text } else { OpCode::Continuation };
                    let part = frame(n == cuts.len(), opcode, mask, &text[from..end]);
                    wire.extend_from_slice(&part);
                    match text.first() {
                        Some(b'd' | b'a') => {}
                        Some(b'h') => waiting.extend_from_slice(&part),
                        _ => expected.extend_from_slice(&part),
                    }
                    if n == 0 && let Some(ping) = ping {
                        wire.extend_from_slice(&frame(true, OpCode::Ping, mask, ping));
                        pings.push(ping.clone());
                    }
                    from = end;
                }
                if text.first() == Some(&b'a') {
                    assembled.push(text.clone());
                    expected.extend_from_slice(b"now");
                    waiting.extend_from_slice(b"later");
                }
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
            at.extend([0, wire.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
            let (out, later, letters, stop) = run(&pieces, sender);
            assert!(stop.is_none(), "{stop:?}");
            prop_assert_eq!(out, expected);
            prop_assert_eq!(later, waiting);
            prop_assert_eq!(letters.assembled, assembled);
            prop_assert_eq!(letters.pings, pings);
            let judged: Vec<Vec<u8>> = messages
                .iter()
                .map(|message| message.text[..message.text.len().min(PEEK_BYTES)].to_vec())
                .collect();
            prop_assert_eq!(letters.judged, judged);
            for (said, message) in letters.whole.iter().zip(&messages) {
                // A small message is always known to be whole, a large one never. Of one in between,
                // an empty last fragment may be missing.
                match message.text.len() {
                    PEEK_BYTES if !message.cuts.is_empty() => {}
                    length => prop_assert_eq!(*said, length <= PEEK_BYTES),
                }
            }
        }
    }

    #[test]
    fn what_stands_before_a_fault_is_passed_on() {
        let good = frame(true, OpCode::Text, Some([1, 2, 3, 4]), b"fine");
        let mut wire = good.clone();
        wire.extend_from_slice(&frame(true, OpCode::Text, None, b"not masked"));
        let (out, _, _, stop) = run(&[&wire], Sender::Client);
        assert_eq!(out, good);
        assert!(
            matches!(stop, Some(Stop::Protocol(ProtocolError::MaskMissing))),
            "{stop:?}"
        );
    }

    #[test]
    fn a_close_frame_may_stand_where_nothing_of_a_frame_was_passed_on() {
        let text = |payload: &[u8]| frame(true, OpCode::Text, None, payload);
        let ping = frame(true, OpCode::Ping, None, b"half of it");
        for (wire, boundary) in [
            (text(b"fine"), true),
            (text(b"fine")[..1].to_vec(), true),
            (ping[..6].to_vec(), true),
            (text(b"close me"), true),
            (frame(true, OpCode::Text, Some([1; 4]), b"masked"), true),
            (vec![0xff; 20], true),
            // Long enough to be judged and passed on before its end.
            (text(&[b'f'; 1000])[..700].to_vec(), false),
            (text(&[b'd'; 1000])[..700].to_vec(), true),
        ] {
            let mut backlog = Backlog::new(Arc::new(Budget::new(1 << 20)));
            let mut out = Vec::new();
            let mut cx = Context::from_waker(Waker::noop());
            let mut outlet = Outlet {
                target: Target::Stream(&mut out),
                backlog: &mut backlog,
                later: None,
                lane: Lane::Now,
                cx: &mut cx,
                copy: None,
                loss: Loss::Fails,
                taken: 0,
            };
            let mut pump = Pump::new(Sender::Server, 1 << 20);
            let _ = pump.feed(&wire, &mut outlet, &mut Letters::default());
            assert_eq!(pump.at_frame_boundary(), boundary, "{wire:?}");
        }
    }

    #[test]
    fn broken_text_of_a_client_is_found() {
        let broken = frame(true, OpCode::Text, Some([9, 9, 9, 9]), b"f\xff\xff");
        let (_, _, _, stop) = run(&[&broken], Sender::Client);
        let Some(Stop::Protocol(error)) = stop else {
            panic!("{stop:?}")
        };
        assert_eq!(error.close_code().0, 1007);
    }

    #[test]
    fn a_large_message_passes_whose_header_came_alone() {
        for mask in [None, Some([5, 6, 7, 8])] {
            let sender = match mask {
                None => Sender::Server,
                Some(_) => Sender::Client,
            };
            let payload = [b"f".as_slice(), &[b'x'; 89_999]].concat();
            let large = frame(true, OpCode::Text, mask, &payload);
            for cut in [1, 8, 14, 15, 300, 600] {
                let (start, rest) = large.split_at(cut);
                let (out, _, letters, stop) = run(&[start, rest], sender);
                assert!(stop.is_none(), "cut at {cut}: {stop:?}");
                assert_eq!(out, large, "cut at {cut}");
                assert_eq!(letters.judged, [&payload[..PEEK_BYTES]]);
            }
        }
    }

    #[test]
    fn a_verdict_ends_the_direction() {
        let good = frame(true, OpCode::Text, None, b"fine");
        let mut wire = good.clone();
        wire.extend_from_slice(&frame(true, OpCode::Text, None, b"close me"));
        let (out, _, _, stop) = run(&[&wire], Sender::Server);
        assert_eq!(out, good);
        assert!(
            matches!(stop, Some(Stop::Disconnect(Disconnect::NotConnect))),
            "{stop:?}"
        );
    }

    #[test]
    fn a_message_to_be_put_together_has_a_bound() {
        for (start, verdict) in [("ax", 'c'), ("an", 'n'), ("al", 'l')] {
            let payload = [start.as_bytes(), &[b'a'; 90_000]].concat();
            let large = frame(true, OpCode::Text, Some([1, 2, 3, 4]), &payload);
            let next = frame(true, OpCode::Text, Some([1, 2, 3, 4]), b"fine");
            let wire = [large.as_slice(), &next].concat();
            for cut in [4, 100, 514, 600, 65_000, 70_000, 90_000] {
                let (start, rest) = wire.split_at(cut);
                let (out, later, _, stop) = run(&[start, rest], Sender::Client);
                match verdict {
                    'c' => assert!(
                        out.is_empty() && matches!(stop, Some(Stop::Disconnect(_))),
                        "{stop:?}"
                    ),
                    'n' => assert!(out == wire && later.is_empty(), "cut at {cut}"),
                    _ => assert!(out == next && later == large, "cut at {cut}"),
                }
            }
        }
    }
}
