//! What becomes of a streamer's messages.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use memchr::memmem;

use super::{
    Passage, Session, Verdict,
    journal::{Answered, Journal, Updated, Waited},
    machine::{Phase, Timer},
    migration::{Ends, MARK, STREAM, Told},
    turn::{Effects, Login, Note, Turn},
};
use crate::ddp::{
    self, Envelope, Framing, Kind, LoginReply, Sender, login, messages_from_streamer, peek, reply,
    single_message,
};

impl Session {
    /// The streamer answered `connected` with this session id.
    pub fn handle_attached(&mut self, session: &str, now: Instant) {
        debug_assert_eq!(self.phase, Phase::Attaching);
        if let Some(book) = &mut self.book {
            book.sent = 1;
            book.journal.set_session(session);
            if book.logins.held == 0 {
                self.timers.stop(Timer::KeepAlive as usize);
            }
        }
        self.take_over(now);
        self.phase = Phase::Live;
    }

    /// A message of the streamer begins with `prefix`, which is `whole` or long enough to judge by.
    pub fn handle_streamer<E: Effects>(
        &mut self,
        prefix: &[u8],
        whole: bool,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        if let Phase::Closing(_) | Phase::Ended(_) = self.phase {
            return Verdict::Drop;
        }
        let envelope = peek(prefix, self.framing, Sender::Server);
        let verdict = self.judge_envelope(&envelope, prefix, whole, turn);
        if verdict == Verdict::Forward {
            self.count_sent(prefix, envelope.kind);
        }
        verdict
    }

    fn judge_envelope<E: Effects>(
        &mut self,
        envelope: &Envelope<'_>,
        prefix: &[u8],
        whole: bool,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        if envelope.batch {
            return Verdict::Assemble;
        }
        let id = envelope.id.and_then(|id| str::from_utf8(id).ok());
        match (envelope.kind, id) {
            (Kind::Ping, _) if self.phase == Phase::Detached => {
                self.answer_ping(id);
                Verdict::Drop
            }
            // Answers of before may have to wait until the client asks again, and then whole.
            (Kind::Result | Kind::Updated, _) if self.is_returning() => Verdict::Assemble,
            // A second `connected` would start a second heartbeat in Meteor's client; the greeting
            // was the gateway's.
            (Kind::Connected | Kind::ServerId | Kind::Open, _) => Verdict::Drop,
            // The login's is read whole; which one that is, is not known before.
            (Kind::Result, Some(id)) if self.is_logging_in() => {
                let mut unpacked = [0; UNPACK_BYTES];
                match single_message(self.framing, Sender::Server, prefix, &mut unpacked) {
                    Some(json) if whole => self.judge_answer(Kind::Result, id, json, turn),
                    _ => Verdict::Assemble,
                }
            }
            (kind @ (Kind::Ready | Kind::Updated), Some(id)) if !envelope.several => {
                self.judge_answer(kind, id, "", turn)
            }
            (kind @ (Kind::Nosub | Kind::Result), Some(id)) => {
                self.judge_answer(kind, id, "", turn)
            }
            (Kind::Ready | Kind::Updated | Kind::Nosub | Kind::Result, _) => Verdict::Assemble,
            (Kind::Pong, Some(id)) if self.take_fence(id, turn.now) => Verdict::Drop,
            (Kind::Added | Kind::Changed | Kind::Removed, _)
                if self.wants_whole(envelope.collection, prefix) =>
            {
                Verdict::Assemble
            }
            // Its `msg` may come later, and an answer that is not seen is waited for.
            (Kind::Other, _) if envelope.cut => Verdict::Assemble,
            _ => Verdict::Forward,
        }
    }

    /// A message of the streamer was put together. What cannot be read passes as it came: it is not
    /// the gateway that the client has to believe.
    pub fn handle_streamer_assembled<E: Effects>(
        &mut self,
        text: &[u8],
        turn: &mut Turn<'_, E>,
    ) -> Passage {
        let Ok(messages) = messages_from_streamer(self.framing, text) else {
            return Passage::whole(Verdict::Forward);
        };
        let mut passage = Passage::default();
        for json in messages {
            self.pass_answers(json, &mut passage.now, turn);
        }
        passage
    }

    /// A message of the streamer is too large to be put together. It passes.
    pub fn handle_streamer_oversized<E: Effects>(
        &mut self,
        prefix: &[u8],
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        let envelope = peek(prefix, self.framing, Sender::Server);
        if envelope.kind != Kind::Result {
            self.cannot_compare();
            return Verdict::Forward;
        }
        // Who is logged in cannot be read from it, but that the login has its answer.
        if let Some(id) = envelope.id.and_then(|id| str::from_utf8(id).ok()) {
            return self.judge_answer(Kind::Result, id, "", turn);
        }
        // An id with escapes, or behind all that was seen: a streamer answers in order.
        let oldest = self.book.as_ref().and_then(|book| {
            let oldest = book.journal.oldest_method();
            oldest.filter(|_| book.journal.unseen() == 0)
        });
        match oldest.map(Cow::into_owned) {
            Some(id) => self.judge_answer(Kind::Result, &id, "", turn),
            None => Verdict::Forward,
        }
    }

    fn pass_answers<E: Effects>(
        &mut self,
        json: String,
        out: &mut Vec<String>,
        turn: &mut Turn<'_, E>,
    ) {
        let envelope = peek(json.as_bytes(), Framing::Raw, Sender::Server);
        match envelope.kind {
            Kind::Connected | Kind::ServerId => {}
            // React Native looks at the first id only, so each gets a message of its own.
            kind @ (Kind::Ready | Kind::Updated) => {
                let Ok(ids) = ddp::ids(&json) else {
                    out.push(json);
                    return;
                };
                for id in ids {
                    if self.judge_answer(kind, &id, "", turn) == Verdict::Forward
                        && !self.withhold(kind, &id, "")
                    {
                        out.push(match kind {
                            Kind::Ready => reply::ready(&id),
                            _ => reply::updated(&id),
                        });
                    }
                }
            }
            kind @ (Kind::Nosub | Kind::Result) => {
                let verdict = match reply::id(&json) {
                    Ok(id) => self.judge_answer(kind, &id, &json, turn),
                    Err(_) => Verdict::Forward,
                };
                let id = reply::id(&json).unwrap_or_default();
                if verdict == Verdict::Forward && !self.withhold(kind, &id, &json) {
                    out.push(json);
                }
            }
            Kind::Pong => {
                let id = reply::id(&json).unwrap_or_default();
                if !self.take_fence(&id, turn.now) {
                    out.push(json);
                }
            }
            kind @ (Kind::Added | Kind::Changed | Kind::Removed) => {
                let version = envelope.collection == Some(VERSIONS) && kind != Kind::Removed;
                let told = match self.tell_published(&json) {
                    Told::AsItCame => Some(json),
                    Told::Instead(json) => Some(json),
                    Told::Nothing => None,
                };
                let told = match told {
                    Some(json) if version => self.hold_reload(json, kind == Kind::Changed, turn),
                    told => told,
                };
                out.extend(told);
                self.settle_renewal(turn);
            }
            _ => out.push(json),
        }
    }

    /// Whether something that is published is not just passed on: documents are noted, and events
    /// are compared during a move; one kind of them names the session.
    fn wants_whole(&self, collection: Option<&[u8]>, prefix: &[u8]) -> bool {
        match collection {
            Some(collection) if collection.starts_with(b"stream-") => {
                self.compares_events()
                    || collection == STREAM.as_bytes()
                        && memmem::find(prefix, MARK).is_some()
                        && self
                            .journal()
                            .is_some_and(|journal| journal.upstream().is_some())
            }
            Some(_) => true,
            None => self.compares_events(),
        }
    }

    /// What becomes of an answer; `json` is the whole message when a login is unanswered.
    fn judge_answer<E: Effects>(
        &mut self,
        kind: Kind,
        id: &str,
        json: &str,
        turn: &mut Turn<'_, E>,
    ) -> Verdict {
        if self.take_renewal(kind, id, json, turn) {
            return Verdict::Drop;
        }
        let at = self.millis(turn.now);
        if kind == Kind::Nosub && self.withhold(kind, id, json) {
            return Verdict::Drop;
        }
        let ends = match kind {
            Kind::Nosub => self.what_ends(id),
            _ => Ends::Itself,
        };
        let Some(book) = &mut self.book else {
            return Verdict::Forward;
        };
        let journal = &mut book.journal;
        let asked = match kind {
            Kind::Ready => match journal.sub_ready(id) {
                Answered::First(waited) => {
                    turn.effects.note(sub_note(waited, at));
                    self.shadow_ready(id, turn);
                    true
                }
                Answered::Again => false,
                Answered::Unknown => believe(journal),
            },
            Kind::Nosub => match journal.end_sub(id) {
                Answered::First(waited) => {
                    turn.effects.note(sub_note(waited, at));
                    self.shadow_nosub(id, ends, turn);
                    true
                }
                Answered::Again => {
                    self.shadow_nosub(id, ends, turn);
                    true
                }
                Answered::Unknown => believe(journal),
            },
            Kind::Result => match journal.method_result(id) {
                Answered::First(waited) => {
                    self.end_method(waited, id, json, turn);
                    true
                }
                Answered::Again | Answered::Unknown => journal.unseen() > 0,
            },
            // Meteor's client throws at an `updated` that it did not ask for.
            _ => match journal.method_updated(id) {
                Updated::Forward => true,
                // It goes out when the result has.
                Updated::Early => return Verdict::Drop,
                Updated::Unknown => believe(journal),
            },
        };
        self.catch_up(turn);
        self.consider_switch(turn.now);
        if asked {
            return Verdict::Forward;
        }
        if let Some(book) = &mut self.book {
            book.journal.set_odd();
        }
        turn.effects.note(Note::Unasked);
        Verdict::Drop
    }

    /// A method has its result, which passes.
    fn end_method<E: Effects>(
        &mut self,
        waited: Waited,
        id: &str,
        json: &str,
        turn: &mut Turn<'_, E>,
    ) {
        let took = since(waited.since, self.millis(turn.now));
        let name = waited.name;
        if name.label() == login::LOGIN {
            let outcome = self.end_login(json, turn);
            turn.effects.note(Note::Login { outcome, took });
        } else {
            turn.effects.note(Note::Method { name, took });
        }
        if name.label() == login::LOGOUT
            && let Some(book) = &mut self.book
        {
            book.journal.log_out();
            book.asker.user = None;
        }
        if waited.owes_updated {
            turn.effects.reply(reply::updated(id));
        }
    }

    fn end_login<E: Effects>(&mut self, json: &str, turn: &Turn<'_, E>) -> Login {
        let offered = self.take_offered();
        let Some(book) = &mut self.book else {
            return Login::Failed;
        };
        book.logins.running = book.logins.running.saturating_sub(1);
        match LoginReply::parse(json) {
            Ok(LoginReply::Done { user, token }) => {
                let token = token.or(offered);
                let token = token.as_ref().map(|token| token.expose().as_str());
                book.journal.log_in(&user, token);
                book.asker.user = Some(turn.quotas.key(&[b"user", user.as_bytes()]));
                Login::In
            }
            Ok(LoginReply::Refused) => {
                book.journal.log_out();
                book.asker.user = None;
                Login::Refused
            }
            Ok(LoginReply::Failed) | Err(_) => Login::Failed,
        }
    }
}

/// Whether an answer that is the last one to its request may be for one whose id is unknown.
fn believe(journal: &mut Journal) -> bool {
    let believed = journal.unseen() > 0;
    journal.end_unseen();
    believed
}

fn sub_note(waited: Waited, at: u32) -> Note {
    Note::Sub {
        name: waited.name,
        took: since(waited.since, at),
    }
}

fn since(from: u32, to: u32) -> Duration {
    Duration::from_millis(u64::from(to.saturating_sub(from)))
}

/// The versions of the web client.
const VERSIONS: &[u8] = b"meteor_autoupdate_clientVersions";

/// A message that is judged by its prefix has at most this many bytes.
const UNPACK_BYTES: usize = 512;
