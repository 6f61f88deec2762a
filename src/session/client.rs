//! What becomes of a client's messages.

use std::time::{Duration, Instant};

use super::{
    Disconnect, Session, Verdict,
    book::{Book, Logins},
    journal::{Begun, Bounds, Journal, Presence},
    machine::{KEEP_ALIVE, LoginState, Phase, Timer},
    migration::LIVECHAT_SET_UP,
    quota::{Asked, Asker, Quotas, Refused, Rule, Strike},
    turn::{Effects, Note, Turn},
};
use crate::{
    ddp::{
        Connect, Envelope, Framing, Kind, Request, Sender, SyntaxError, login, message,
        messages_from_client, peek, reply, resume_token, single_message,
    },
    ws::ProtocolError,
};

/// What becomes of a message that was put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// Its bytes pass as they came, if it is a single message that passes.
    pub verdict: Option<Verdict>,
    /// Otherwise these pass in its place, to be framed anew: at once, and behind what is held.
    pub now: Vec<String>,
    pub later: Vec<String>,
}

impl Passage {
    pub(super) fn whole(verdict: Verdict) -> Self {
        Self {
            verdict: Some(verdict),
            ..Self::default()
        }
    }
}

impl Session {
    /// `connect` was read; a place on a streamer is wanted.
    pub fn handle_connect(&mut self, connect: &Connect, asker: Asker, now: Instant) {
        debug_assert_eq!(self.phase, Phase::Greeting);
        let mut journal = Journal::new(Bounds::default());
        journal.set_resumable(connect.received_count.is_some());
        self.book = Some(Box::new(Book {
            journal,
            asker,
            logins: Logins::default(),
            sent: 0,
            resume: None,
            aside: None,
        }));
        self.timers.stop(Timer::Step as usize);
        self.timers.set(Timer::KeepAlive as usize, now + KEEP_ALIVE);
        self.phase = Phase::Attaching;
    }

    /// A message of the client begins with `prefix`, which is `whole` or long enough to judge by;
    /// `text` tells a text from a binary message.
    pub fn handle_client<E: Effects>(
        &mut self,
        text: bool,
        prefix: &[u8],
        whole: bool,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        if self.is_past_requests() {
            return Verdict::Drop;
        }
        if !text {
            return Verdict::Close(Disconnect::Unreadable);
        }
        if whole
            && self.phase != Phase::Greeting
            && let Some(request) = Request::glance(self.framing, prefix)
            && !self.wants_text(&request)
        {
            return self.judge_request(request, turn);
        }
        let envelope = peek(prefix, self.framing, Sender::Client);
        match (self.phase, envelope.kind) {
            // SockJS wants empty frames ignored; the streamer closes with 1007 on them.
            (_, Kind::Empty) if self.framing == Framing::SockJs => Verdict::Drop,
            (_, Kind::Empty) => Verdict::Close(Disconnect::Unreadable),
            // The whole message tells `connect` from garbage.
            (Phase::Greeting, Kind::Connect | Kind::Unreadable) => Verdict::Assemble,
            // Its `msg` may come later, and what ends too early is no message at all.
            (Phase::Greeting, _) if envelope.cut => Verdict::Assemble,
            (Phase::Greeting, _) => Verdict::Close(Disconnect::NotConnect),
            _ => self.judge_prefix(prefix, whole, &envelope, turn),
        }
    }

    /// A message of the client was put together because its beginning did not say enough.
    ///
    /// # Errors
    /// With the code that the streamer would close with.
    pub fn handle_assembled<E: Effects>(
        &mut self,
        text: &[u8],
        turn: &mut Turn<'_, E>,
    ) -> Result<Passage, Disconnect> {
        let messages =
            messages_from_client(self.framing, text).map_err(|_| Disconnect::Unreadable)?;
        if messages.len() == 1 && !is_bare(self.framing, text) {
            return match self.judge_message(&messages[0], turn) {
                Verdict::Close(reason) => Err(reason),
                verdict => Ok(Passage::whole(verdict)),
            };
        }
        self.handle_messages(messages, turn)
    }

    /// Messages that came in one batch: the streamer would read the first of them only, so each
    /// goes on its own.
    ///
    /// # Errors
    /// As [`Self::handle_assembled`].
    pub fn handle_messages<E: Effects>(
        &mut self,
        messages: impl IntoIterator<Item = String>,
        turn: &mut Turn<'_, E>,
    ) -> Result<Passage, Disconnect> {
        let mut passage = Passage::default();
        for message in messages {
            match self.judge_message(&message, turn) {
                Verdict::Forward => passage.now.push(message),
                Verdict::Hold => passage.later.push(message),
                Verdict::Close(reason) => return Err(reason),
                Verdict::Drop | Verdict::Assemble => {}
            }
        }
        Ok(passage)
    }

    /// A message is too large to be put together; `prefix` is as much as there is of it.
    ///
    /// A request passes unlimited by its name: what it may cost is bounded by the bytes that a
    /// client may send. Its answers are believed without knowing its id.
    pub fn handle_oversized(&mut self, prefix: &[u8]) -> Verdict {
        if self.is_past_requests() {
            return Verdict::Drop;
        }
        let too_big = Verdict::Close(Disconnect::ClientProtocol(ProtocolError::MessageTooBig));
        // It would have to wait whole.
        if self.shown().is_some() {
            return too_big;
        }
        let lane = self.lane();
        let Some(book) = &mut self.book else {
            return too_big;
        };
        let envelope = peek(prefix, self.framing, Sender::Client);
        if envelope.batch || envelope.bare {
            return too_big;
        }
        match (envelope.kind, envelope.method) {
            (Kind::Unreadable, _) => Verdict::Close(Disconnect::Unreadable),
            (Kind::Method, None) => too_big,
            // Nobody needs that much to log in, and it must not get around the queue.
            (Kind::Method, Some(method)) if method == login::LOGIN.as_bytes() => too_big,
            (Kind::Method | Kind::Sub, _) => {
                book.journal.begin_unseen();
                lane
            }
            (Kind::Connect | Kind::Unsub, _) => Verdict::Drop,
            _ => Verdict::Forward,
        }
    }

    /// Whether a login of the client waits for its turn, and may have it.
    pub fn wants_login(&self) -> bool {
        self.phase == Phase::Live
            && self
                .book
                .as_ref()
                .is_some_and(|book| book.logins.running == 0 && book.logins.held > 0)
            && !self.is_renewing()
            || self.wants_renewal()
    }

    /// Whether a login was sent that has no answer yet.
    pub fn is_logging_in(&self) -> bool {
        self.book
            .as_ref()
            .is_some_and(|book| book.logins.running > 0)
            || self.is_renewing()
    }

    /// It is this client's turn to log in: what was held back goes on.
    pub fn handle_login_turn(&mut self) {
        self.begin_renewal();
        if let Some(book) = &mut self.book {
            book.logins.running = book.logins.running.saturating_add(book.logins.held);
            book.logins.held = 0;
            self.timers.stop(Timer::KeepAlive as usize);
        }
    }

    fn judge_prefix<E: Effects>(
        &mut self,
        prefix: &[u8],
        whole: bool,
        envelope: &Envelope<'_>,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        if envelope.kind == Kind::Unreadable {
            return Verdict::Close(Disconnect::Unreadable);
        }
        if !whole || envelope.cut {
            return Verdict::Assemble;
        }
        let mut unpacked = [0; UNPACK_BYTES];
        match single_message(self.framing, Sender::Client, prefix, &mut unpacked) {
            Some(message) => self.judge_message(message, turn),
            None => Verdict::Assemble,
        }
    }

    /// Whether there is nobody any more to whom requests could go: also for a message whose
    /// beginning came earlier.
    fn is_past_requests(&self) -> bool {
        matches!(
            self.phase,
            Phase::Detached | Phase::Orphaned | Phase::Closing(_) | Phase::Ended(_)
        )
    }

    /// Whether more of a message matters than what kind of request it is: its parameters, or all of it.
    fn wants_text(&self, request: &Request<'_>) -> bool {
        self.is_proving()
            || match request {
                Request::Method { method, .. } => {
                    method == login::LOGIN || self.is_returning() || self.compares_writes()
                }
                Request::Sub { .. } => true,
                _ => false,
            }
    }

    fn judge_message<E: Effects>(&mut self, json: &str, turn: &mut Turn<'_, E>) -> Verdict {
        if self.is_past_requests() || self.postpone(json) {
            return Verdict::Drop;
        }
        match Request::parse(json) {
            Ok(request) => self.judge_request(request, turn),
            // A method without an id and the like: 1002; what is no message at all: 1007
            // (`ee/apps/ddp-streamer/src/{Client,Server}.ts`).
            Err(SyntaxError::Missing { .. } | SyntaxError::Unexpected { .. }) => {
                Verdict::Close(Disconnect::Malformed)
            }
            Err(_) => Verdict::Close(Disconnect::Unreadable),
        }
    }

    fn judge_request<E: Effects>(
        &mut self,
        request: Request<'_>,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        let live = self.phase == Phase::Live;
        match request {
            Request::Method { id, method, params } => self.judge_method(&id, &method, params, turn),
            Request::Sub { id, name, params } => self.judge_sub(&id, &name, params, turn),
            Request::Unsub { id } => {
                let known = self
                    .book
                    .as_mut()
                    .is_some_and(|book| book.journal.wants_end(&id));
                if known {
                    return self.lane();
                }
                // Meteor's server answers these, a streamer does not; simpleddp waits for it.
                turn.effects.reply(reply::nosub(&id));
                Verdict::Drop
            }
            // Not behind a login that waits: a client that gets no pong gives up.
            Request::Ping { .. } if live && self.holds_client() => Verdict::Hold,
            Request::Ping { .. } if live => Verdict::Forward,
            Request::Ping { id } => {
                turn.effects.reply(message::pong(id.as_deref()));
                Verdict::Drop
            }
            // The streamer does nothing on a second one.
            Request::Connect => Verdict::Drop,
            Request::Disconnect => {
                self.handle_farewell();
                if live {
                    Verdict::Forward
                } else {
                    Verdict::Drop
                }
            }
            Request::Pong | Request::Other if live => Verdict::Forward,
            Request::Pong | Request::Other => Verdict::Drop,
        }
    }

    fn judge_method<E: Effects>(
        &mut self,
        id: &str,
        method: &str,
        params: &str,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        if let Some(verdict) = self.recall_method(id, method, params, turn) {
            return verdict;
        }
        let at = self.millis(turn.now);
        let charged = self.charge_request(method, turn.quotas, turn.now);
        let Some(book) = &mut self.book else {
            return Verdict::Drop;
        };
        let begun = charged.and_then(|()| match book.journal.begin_method(id, method, at) {
            Begun::New | Begun::Duplicate => Ok(()),
            Begun::Full => Err(Refused {
                rule: Rule::InFlight,
                wait: SHORT_WAIT,
            }),
        });
        if let Err(refused) = begun {
            turn.effects.reply(reply::limited_result(id, refused.wait));
            turn.effects.reply(reply::updated(id));
            return self.refuse(refused, Asked::Method, turn);
        }
        match method {
            "UserPresence:online" => book.journal.set_presence(Presence::Online),
            "UserPresence:away" => book.journal.set_presence(Presence::Away),
            LIVECHAT_SET_UP => book.journal.set_livechat(),
            _ => {}
        }
        self.shadow_method(method, params, turn);
        if method == login::LOGIN {
            self.supersede_renewal();
            let alone = self.login_state() != LoginState::Under;
            self.keep_offered(alone.then(|| resume_token(params)).flatten());
            let Some(book) = &mut self.book else {
                return Verdict::Drop;
            };
            if book.logins.held == 0 && self.phase == Phase::Live {
                self.timers
                    .set(Timer::KeepAlive as usize, turn.now + KEEP_ALIVE);
            }
            book.logins.held = book.logins.held.saturating_add(1);
            return Verdict::Hold;
        }
        self.lane()
    }

    fn judge_sub<E: Effects>(
        &mut self,
        id: &str,
        name: &str,
        params: &str,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        if let Some(verdict) = self.recall_sub(id, name, params, turn) {
            return verdict;
        }
        let at = self.millis(turn.now);
        let charged = self.charge_request(name, turn.quotas, turn.now);
        let Some(book) = &mut self.book else {
            return Verdict::Drop;
        };
        let begun = charged.and_then(|()| match book.journal.begin_sub(id, name, params, at) {
            Begun::Full => Err(Refused {
                rule: Rule::Subscriptions,
                wait: SHORT_WAIT,
            }),
            begun => Ok(begun),
        });
        match begun {
            // Meteor's server ignores these; a streamer would deliver every event twice.
            Ok(Begun::Duplicate) => Verdict::Drop,
            Ok(_) => {
                self.shadow_sub(id, name, turn);
                self.lane()
            }
            // `nosub` would end the one that there is.
            Err(_) if book.journal.has_sub(id) => Verdict::Drop,
            Err(refused) => {
                turn.effects.reply(reply::limited_nosub(id, refused.wait));
                self.refuse(refused, Asked::Sub, turn)
            }
        }
    }

    fn charge_request(&self, name: &str, quotas: &Quotas, now: Instant) -> Result<(), Refused> {
        match &self.book {
            Some(book) => quotas.charge(&self.rules.quotas, &book.asker, name, now),
            None => Ok(()),
        }
    }

    /// The request was answered; too many of them end the connection.
    fn refuse<E: Effects>(&self, refused: Refused, kind: Asked, turn: &mut Turn<'_, E>) -> Verdict {
        let rule = refused.rule;
        turn.effects.note(Note::Limited { rule, kind });
        let strike = self.book.as_ref().map(|book| {
            turn.quotas
                .strike(&self.rules.quotas, &book.asker, turn.now)
        });
        match strike {
            Some(Strike::Abuse) => {
                turn.effects.note(Note::Penalised);
                Verdict::Close(Disconnect::RateAbuse)
            }
            Some(Strike::Noted) | None => Verdict::Drop,
        }
    }

    /// Where a request goes: behind a login that waits, as the streamer would do it.
    fn lane(&self) -> Verdict {
        match &self.book {
            Some(book) if book.logins.held > 0 => Verdict::Hold,
            _ if self.holds_client() => Verdict::Hold,
            _ => Verdict::Forward,
        }
    }
}

/// A string that stands in no array; `sockjs/sockjs-node` reads it, the streamer does not.
fn is_bare(framing: Framing, text: &[u8]) -> bool {
    framing == Framing::SockJs && text.trim_ascii_start().starts_with(b"\"")
}

/// A message that is judged by its prefix has at most this many bytes.
const UNPACK_BYTES: usize = 512;

/// What a client is told to wait when it has too much open: until some of it is answered.
const SHORT_WAIT: Duration = Duration::from_secs(1);
