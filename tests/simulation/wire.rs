//! The relay's part: it asks the session about each message, and does as it is told.

use std::{collections::VecDeque, time::Instant};

use ddp_gateway::{
    ddp::{Connect, Framing, messages_from_client, wrap_for_client, wrap_for_streamer},
    session::{Asker, Disconnect, Effects, Note, Passage, Phase, Quotas, Session, Turn, Verdict},
};

use crate::client::{TOO_BIG, Text};

pub(crate) struct Wire {
    pub(crate) session: Session,
    pub(crate) quotas: Quotas,
    framing: Framing,
    /// What goes on to the streamer, and what waits for the client's turn to log in.
    pub(crate) up: VecDeque<Vec<u8>>,
    pub(crate) later: VecDeque<Vec<u8>>,
    /// The session's own messages for a new leg.
    pub(crate) shadow: VecDeque<String>,
    /// A message of the client that is being put together.
    half_up: Option<Text>,
    half_down: Option<HalfDown>,
    /// Messages of the gateway's own that wait until the one that is passing has passed.
    own: Vec<String>,
}

/// A message of the streamer of which the end is not here yet.
enum HalfDown {
    Passing(Vec<u8>),
    Assembling(Vec<u8>),
}

/// What became of a message of the client.
#[derive(Default)]
pub(crate) struct Up {
    pub(crate) text: Text,
    pub(crate) phase: Option<Phase>,
    pub(crate) now: Vec<Vec<u8>>,
    pub(crate) later: Vec<Vec<u8>>,
    pub(crate) close: Option<Disconnect>,
    pub(crate) replies: Vec<String>,
    pub(crate) notes: Vec<Note>,
    pub(crate) oversized: bool,
}

/// What became of a message of the streamer.
#[derive(Default)]
pub(crate) struct Down {
    /// What the session was asked about; empty when it was asked before.
    pub(crate) judged: Vec<u8>,
    pub(crate) forwards: bool,
    pub(crate) to_client: Vec<Vec<u8>>,
    pub(crate) notes: Vec<Note>,
}

#[derive(Default)]
struct Sink {
    replies: Vec<String>,
    notes: Vec<Note>,
    shadow: Vec<String>,
}

impl Effects for Sink {
    fn reply(&mut self, message: String) {
        self.replies.push(message);
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    fn shadow(&mut self, message: String) {
        self.shadow.push(message);
    }
}

impl Wire {
    pub(crate) fn new(session: Session, quotas: Quotas) -> Self {
        Self {
            framing: session.framing(),
            session,
            quotas,
            up: VecDeque::new(),
            later: VecDeque::new(),
            shadow: VecDeque::new(),
            half_up: None,
            half_down: None,
            own: Vec::new(),
        }
    }

    pub(crate) fn client_is_half_through(&self) -> bool {
        self.half_up.is_some()
    }

    /// A message of the streamer has gone to the client in part.
    pub(crate) fn streamer_passes(&self) -> bool {
        matches!(self.half_down, Some(HalfDown::Passing(_)))
    }

    pub(crate) fn streamer_is_half_through(&self) -> bool {
        self.half_down.is_some()
    }

    /// A message of the client, or its beginning: then `None`, and [`Self::end_client`] goes on with it.
    pub(crate) fn begin_client(&mut self, text: Text, now: Instant) -> Option<Up> {
        let whole = text.bytes.len() <= PEEK_BYTES;
        let phase = self.session.phase();
        let mut sink = Sink::default();
        let verdict = self.session.handle_client(
            !text.binary,
            &text.bytes[..text.bytes.len().min(PEEK_BYTES)],
            whole,
            &mut turn(&self.quotas, &mut sink, now),
        );
        if verdict == Verdict::Assemble {
            self.half_up = Some(text);
            return whole.then(|| self.end_client(now));
        }
        Some(self.follow(verdict, text, phase, sink))
    }

    /// The rest of the message that is being put together.
    pub(crate) fn end_client(&mut self, now: Instant) -> Up {
        let text = self.half_up.take().expect("a message is half through");
        let phase = self.session.phase();
        let mut sink = Sink::default();
        if text.bytes.len() > ASSEMBLE_BYTES {
            let verdict = match phase {
                Phase::Greeting => Verdict::Close(TOO_BIG),
                _ => self.session.handle_oversized(&text.bytes[..ASSEMBLE_BYTES]),
            };
            let up = self.follow(verdict, text, phase, sink);
            return Up {
                oversized: true,
                ..up
            };
        }
        let mut turn = turn(&self.quotas, &mut sink, now);
        let passage = match phase {
            Phase::Greeting => greet(&mut self.session, &text, &mut turn),
            _ => self.session.handle_assembled(&text.bytes, &mut turn),
        };
        let passage = match passage {
            Ok(passage) => passage,
            Err(reason) => return self.follow(Verdict::Close(reason), text, phase, sink),
        };
        if let Some(verdict) = passage.verdict {
            return self.follow(verdict, text, phase, sink);
        }
        let frame = |messages: Vec<String>| {
            let frames = messages
                .iter()
                .map(|json| wrap_for_streamer(self.framing, json));
            frames.collect()
        };
        let (now, later) = (frame(passage.now), frame(passage.later));
        self.pass(now, later, text, phase, sink)
    }

    fn follow(&mut self, verdict: Verdict, text: Text, phase: Phase, sink: Sink) -> Up {
        let bytes = text.bytes.clone();
        let (now, later) = match verdict {
            Verdict::Forward => (vec![bytes], Vec::new()),
            Verdict::Hold => (Vec::new(), vec![bytes]),
            _ => (Vec::new(), Vec::new()),
        };
        let close = match verdict {
            Verdict::Close(reason) => Some(reason),
            _ => None,
        };
        Up {
            close,
            ..self.pass(now, later, text, phase, sink)
        }
    }

    fn pass(
        &mut self,
        now: Vec<Vec<u8>>,
        later: Vec<Vec<u8>>,
        text: Text,
        phase: Phase,
        sink: Sink,
    ) -> Up {
        self.up.extend(now.iter().cloned());
        self.later.extend(later.iter().cloned());
        self.own.extend(sink.replies.iter().cloned());
        self.shadow.extend(sink.shadow);
        Up {
            text,
            phase: Some(phase),
            now,
            later,
            close: None,
            replies: sink.replies,
            notes: sink.notes,
            oversized: false,
        }
    }

    /// There is nobody any more to whom anything could go.
    pub(crate) fn lose_streamer(&mut self) {
        self.up.clear();
        self.later.clear();
        self.half_down = None;
    }

    /// It is the client's turn to log in.
    pub(crate) fn release(&mut self) {
        self.session.handle_login_turn();
        self.up.append(&mut self.later);
    }

    /// A message of the streamer; of a long one the beginning, [`Self::end_streamer`] goes on with it.
    pub(crate) fn begin_streamer(&mut self, text: Vec<u8>, now: Instant) -> Down {
        let whole = text.len() <= PEEK_BYTES;
        let mut sink = Sink::default();
        let prefix = &text[..text.len().min(PEEK_BYTES)];
        let mut turn = turn(&self.quotas, &mut sink, now);
        let verdict = self.session.handle_streamer(prefix, whole, &mut turn);
        self.keep(&mut sink);
        let mut down = Down {
            judged: text.clone(),
            notes: sink.notes,
            ..Down::default()
        };
        match verdict {
            Verdict::Forward => {
                down.forwards = true;
                if whole {
                    down.to_client.push(text);
                } else {
                    self.half_down = Some(HalfDown::Passing(text));
                }
            }
            Verdict::Assemble => {
                self.half_down = Some(HalfDown::Assembling(text));
                if whole {
                    return self.end_streamer(now);
                }
                down.judged.clear();
            }
            Verdict::Drop => {}
            Verdict::Hold | Verdict::Close(_) => {
                panic!("{verdict:?} about a message of the streamer")
            }
        }
        down
    }

    pub(crate) fn end_streamer(&mut self, now: Instant) -> Down {
        let mut sink = Sink::default();
        let mut turn = turn(&self.quotas, &mut sink, now);
        let mut down = Down::default();
        match self.half_down.take().expect("a message is half through") {
            HalfDown::Passing(text) => down.to_client.push(text),
            HalfDown::Assembling(text) if text.len() > ASSEMBLE_BYTES => {
                let prefix = &text[..ASSEMBLE_BYTES];
                let verdict = self.session.handle_streamer_oversized(prefix, &mut turn);
                down.judged.clone_from(&text);
                if verdict == Verdict::Forward {
                    down.to_client.push(text);
                }
            }
            HalfDown::Assembling(text) => {
                let passage = self.session.handle_streamer_assembled(&text, &mut turn);
                down.judged.clone_from(&text);
                match passage.verdict {
                    Some(Verdict::Forward) => down.to_client.push(text),
                    Some(_) => {}
                    None => {
                        let messages = passage.now.iter();
                        let framed = messages.map(|json| wrap_for_client(self.framing, json));
                        down.to_client.extend(framed);
                    }
                }
                assert!(passage.later.is_empty(), "nothing waits for the client");
            }
        }
        down.forwards = !down.to_client.is_empty();
        self.keep(&mut sink);
        down.notes = sink.notes;
        down
    }

    fn keep(&mut self, sink: &mut Sink) {
        self.own.append(&mut sink.replies);
        self.shadow.extend(sink.shadow.drain(..));
    }

    /// A new leg has answered `connected`. Gives what the session would tell the client.
    pub(crate) fn attach_shadow(&mut self, session: &str, now: Instant) -> Vec<String> {
        let mut sink = Sink::default();
        let mut turn = turn(&self.quotas, &mut sink, now);
        self.session.handle_shadow_attached(session, &mut turn);
        self.take(sink)
    }

    /// A message of the new leg. Gives what the session would tell the client.
    pub(crate) fn feed_shadow(&mut self, text: &[u8], now: Instant) -> Vec<String> {
        let mut sink = Sink::default();
        let mut turn = turn(&self.quotas, &mut sink, now);
        self.session.handle_shadow(text, &mut turn);
        self.take(sink)
    }

    /// The new leg is the one from here on. Gives what the client has to be told first.
    pub(crate) fn switch(&mut self, now: Instant) -> Vec<String> {
        assert!(!self.streamer_passes(), "a message of the old leg is cut");
        self.half_down = None;
        let mut sink = Sink::default();
        let mut turn = turn(&self.quotas, &mut sink, now);
        self.session.handle_switched(&mut turn);
        self.take(sink)
    }

    fn take(&mut self, mut sink: Sink) -> Vec<String> {
        let replies = std::mem::take(&mut sink.replies);
        self.keep(&mut sink);
        replies
    }

    /// What was held goes on to the leg that there is, unless a login is among it.
    pub(crate) fn let_go(&mut self) {
        if !self.session.wants_login() {
            self.up.append(&mut self.later);
        }
    }

    /// A DDP message of the relay's own.
    pub(crate) fn tell(&mut self, json: &str) {
        self.own.push(json.to_owned());
    }

    /// Messages of the gateway's own, if they may stand here.
    pub(crate) fn own(&mut self) -> Vec<Vec<u8>> {
        if let Some(HalfDown::Passing(_)) = self.half_down {
            return Vec::new();
        }
        let framed = |json: String| wrap_for_client(self.framing, &json);
        self.own.drain(..).map(framed).collect()
    }
}

/// As the relay reads `connect`: what follows it in a batch goes on its own.
fn greet(
    session: &mut Session,
    text: &Text,
    turn: &mut Turn<'_, Sink>,
) -> Result<Passage, Disconnect> {
    let messages = messages_from_client(session.framing(), &text.bytes);
    let mut messages = messages.map_err(|_| Disconnect::Unreadable)?.into_iter();
    let first = messages.next().ok_or(Disconnect::Unreadable)?;
    let connect = Connect::parse(&first).map_err(|_| Disconnect::NotConnect)?;
    let asker = Asker {
        connection: 1,
        user: None,
        client: 2,
        address: Some(3),
    };
    session.handle_connect(&connect, asker, turn.now);
    session.handle_messages(messages, turn)
}

fn turn<'a>(quotas: &'a Quotas, effects: &'a mut Sink, now: Instant) -> Turn<'a, Sink> {
    Turn {
        now,
        quotas,
        effects,
    }
}

/// As the relay has them.
const PEEK_BYTES: usize = 512;
const ASSEMBLE_BYTES: usize = 64 * 1024;
