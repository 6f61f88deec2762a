//! What a relay asks its session about each message, and what the session causes on the way.

use std::time::{Duration, Instant};

use super::{
    attach::{masked_text_frame, text_frame},
    detached::Wanted,
    pump::{Held, Inspector, Passed},
    registry::{Entry, Registration},
    shared::Shared,
};
use crate::{
    ddp::{
        Connect, Framing, SyntaxError, messages_from_client, wrap_for_client, wrap_for_streamer,
    },
    pool::logins::LoginOutcome,
    session::{
        Disconnect, Effects, Login, Note, Passage, Phase, Session, Turn, Verdict, quota::Asker,
    },
    ws::{ControlPayload, ProtocolError},
};

/// Takes what the session causes besides its verdicts.
pub(super) struct Effect<'a> {
    pub(super) framing: Framing,
    pub(super) shared: &'a Shared,
    pub(super) entry: &'a Entry,
    pub(super) now: Instant,
    /// Frames of the gateway's own for the client.
    pub(super) replies: Vec<u8>,
    /// Messages for the new leg of a move, without framing.
    pub(super) shadow: Vec<String>,
    /// How the last login that was answered ended.
    pub(super) login: Option<LoginOutcome>,
}

impl<'a> Effect<'a> {
    pub(super) fn new(registration: &'a Registration, framing: Framing, now: Instant) -> Self {
        Self {
            framing,
            shared: registration.shared(),
            entry: registration.entry(),
            now,
            replies: Vec::new(),
            shadow: Vec::new(),
            login: None,
        }
    }
}

impl Effects for Effect<'_> {
    fn reply(&mut self, message: String) {
        let text = wrap_for_client(self.framing, &message);
        self.replies.extend_from_slice(&text_frame(&text));
    }

    fn shadow(&mut self, message: String) {
        self.shadow.push(message);
    }

    fn client_version(&mut self, json: &str, changed: bool) -> Option<Duration> {
        self.shared.client_version(json, changed, self.now)
    }

    fn note(&mut self, note: Note) {
        let meters = &self.shared.meters;
        match note {
            Note::Limited { rule, kind } => {
                self.shared.quotas.count(rule, kind);
                self.entry.set_limited(rule, self.now);
            }
            Note::Penalised => tracing::warn!(
                session = %self.entry.id,
                client = %self.entry.client,
                "a client went on asking although it was refused: its socket is closed with 1008, \
                 and all it asks for is refused for a while; /sessions shows who is limited"
            ),
            Note::Method { name, took } => meters.requests.method(name).record(took),
            Note::Sub { name, took } => meters.requests.sub(name).record(took),
            Note::Login { outcome, .. } => {
                self.login = Some(match outcome {
                    Login::In => LoginOutcome::Done,
                    Login::Refused => LoginOutcome::Refused,
                    Login::Failed => LoginOutcome::Failed,
                });
            }
            Note::Unasked => meters.requests.unasked.increment(1),
            Note::Moved { took } => meters.moves.seconds.record(took),
        }
    }
}

/// What the pump asks about a client's messages.
pub(super) struct FromClient<'a> {
    pub(super) session: &'a mut Session,
    pub(super) effect: Effect<'a>,
    /// For the client's `connect`.
    pub(super) asker: Option<Asker>,
    pub(super) connect: Option<Held>,
    /// The session that it names.
    pub(super) former: Option<String>,
    /// The session that it names, if that is here.
    pub(super) wanted: Option<Wanted>,
    pub(super) pong: Option<Box<ControlPayload>>,
    /// What was held is about to go on, and what comes now is behind it.
    pub(super) behind: bool,
}

impl Inspector for FromClient<'_> {
    fn judge(&mut self, text: bool, prefix: &[u8], whole: bool) -> Verdict {
        let Self {
            session, effect, ..
        } = self;
        match session.handle_client(text, prefix, whole, &mut turn(effect)) {
            Verdict::Forward if self.behind => Verdict::Hold,
            verdict => verdict,
        }
    }

    fn assembled(&mut self, message: Held) -> Result<Passed, Disconnect> {
        let framing = self.effect.framing;
        let passage = match self.asker.take() {
            Some(asker) if self.session.phase() == Phase::Greeting => self.greet(message, asker)?,
            _ => {
                let passage = self
                    .session
                    .handle_assembled(&message.text, &mut turn(&mut self.effect))?;
                match passage.verdict {
                    None => passage,
                    Some(Verdict::Forward) if self.behind => {
                        return Ok(Passed::later(message.frames));
                    }
                    Some(Verdict::Forward) => return Ok(Passed::now(message.frames)),
                    Some(Verdict::Hold) => return Ok(Passed::later(message.frames)),
                    Some(_) => return Ok(Passed::default()),
                }
            }
        };
        let frames = |messages: &[String]| {
            messages
                .iter()
                .flat_map(|message| {
                    masked_text_frame(&wrap_for_streamer(framing, message), rand::random())
                })
                .collect()
        };
        let (now, later) = (frames(&passage.now), frames(&passage.later));
        if self.behind {
            return Ok(Passed::later([now, later].concat()));
        }
        Ok(Passed { now, later })
    }

    fn oversized(&mut self, prefix: &[u8]) -> Verdict {
        match self.session.phase() {
            Phase::Greeting => {
                Verdict::Close(Disconnect::ClientProtocol(ProtocolError::MessageTooBig))
            }
            _ => self.session.handle_oversized(prefix),
        }
    }

    fn ping(&mut self, payload: Box<ControlPayload>) {
        // Only the last of several pings needs an answer (RFC 6455 section 5.5.3).
        self.pong = Some(payload);
    }

    fn pong(&mut self, payload: &ControlPayload) {
        self.session.handle_pong(payload.as_bytes());
    }
}

impl FromClient<'_> {
    /// The first message must be a `connect`; the codes are the streamer's
    /// (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/Client.ts`).
    fn greet(&mut self, mut message: Held, asker: Asker) -> Result<Passage, Disconnect> {
        let framing = self.effect.framing;
        let mut messages = messages_from_client(framing, &message.text)
            .map_err(|_| Disconnect::Unreadable)?
            .into_iter();
        let first = messages.next().ok_or(Disconnect::Unreadable)?;
        let connect = Connect::parse(&first).map_err(|error| match error {
            SyntaxError::Unexpected { .. } => Disconnect::NotConnect,
            _ => Disconnect::Unreadable,
        })?;
        self.session
            .handle_connect(&connect, asker, self.effect.now);
        let Effect { shared, entry, .. } = self.effect;
        let asks = shared.handover.is_open();
        self.wanted = shared
            .detached
            .find(&connect, entry, &shared.registry, asks);
        if self.wanted.is_some() {
            self.session.begin_proof();
        }
        let array = message.text.trim_ascii_start().starts_with(b"[");
        if framing == Framing::SockJs && (messages.len() > 0 || !array) {
            message.text = wrap_for_streamer(framing, &first);
            message.frames = masked_text_frame(&message.text, rand::random());
        }
        self.connect = Some(message);
        self.former = connect.session;
        self.session
            .handle_messages(messages, &mut turn(&mut self.effect))
    }
}

/// What the pump asks about a streamer's messages.
pub(super) struct FromStreamer<'a> {
    pub(super) session: &'a mut Session,
    pub(super) effect: Effect<'a>,
    pub(super) pong: Option<Box<ControlPayload>>,
}

impl Inspector for FromStreamer<'_> {
    fn judge(&mut self, _text: bool, prefix: &[u8], whole: bool) -> Verdict {
        let Self {
            session, effect, ..
        } = self;
        session.handle_streamer(prefix, whole, &mut turn(effect))
    }

    fn assembled(&mut self, message: Held) -> Result<Passed, Disconnect> {
        let framing = self.effect.framing;
        let passage = self
            .session
            .handle_streamer_assembled(&message.text, &mut turn(&mut self.effect));
        if passage.verdict.is_some() {
            self.session.handle_sent(&message.text);
            return Ok(Passed::now(message.frames));
        }
        let mut frames = Vec::new();
        for message in &passage.now {
            let text = wrap_for_client(framing, message);
            self.session.handle_sent(&text);
            frames.extend_from_slice(&text_frame(&text));
        }
        Ok(Passed::now(frames))
    }

    fn oversized(&mut self, prefix: &[u8]) -> Verdict {
        let Self {
            session, effect, ..
        } = self;
        let verdict = session.handle_streamer_oversized(prefix, &mut turn(effect));
        if verdict == Verdict::Forward {
            session.handle_sent(prefix);
        }
        verdict
    }

    fn ping(&mut self, payload: Box<ControlPayload>) {
        self.pong = Some(payload);
    }

    fn pong(&mut self, _payload: &ControlPayload) {}
}

pub(super) fn turn<'e, 'a>(effect: &'e mut Effect<'a>) -> Turn<'e, Effect<'a>> {
    Turn {
        now: effect.now,
        quotas: &effect.shared.quotas,
        effects: effect,
    }
}
