//! The new leg, until it is in charge: what it is asked, and what its answers mean.

use super::{
    Aborted, MOVE_WITHIN, PRIVATE, Shadowing, Stage, WATCH,
    documents::Documents,
    overlap::Generation,
    shadow::{self, Next, Shadow},
    switch::topic_of,
    translation::translated,
};
use crate::{
    ddp::{
        self, Framing, Kind, LoginReply, Published, Sender, message, messages_from_streamer, peek,
        reply,
    },
    session::{Disconnect, Effects, Login, Note, Session, Turn},
};

impl Session {
    /// The new leg's streamer answered `connected` with this session id. What it is asked goes to
    /// [`Effects::shadow`].
    pub fn handle_shadow_attached<E: Effects>(&mut self, session: &str, turn: &mut Turn<'_, E>) {
        let now = turn.now;
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Reaching(overlap) = &mut moving.stage else {
            return;
        };
        let mut overlap = std::mem::take(&mut **overlap);
        let mut shadow = Shadow::default();
        if journal.user().is_some()
            && let Some(token) = journal.token()
        {
            turn.effects.shadow(shadow.log_in(token.expose()));
        }
        // At once behind the login: until then the user counts as online.
        if let Some(presence) = journal.presence() {
            turn.effects.shadow(shadow.call_presence(presence));
        }
        let (mut lost, mut busy) = (false, false);
        for view in journal.subs() {
            if view.name.label() == WATCH {
                // What is unanswered follows when the old leg has answered it.
                busy |= view.ready && view.ending;
                if !view.ready {
                    continue;
                }
            }
            if view.ending {
                continue;
            }
            if let Some(topic) = topic_of(&view).filter(|_| !view.ready) {
                overlap.both_asked(topic);
            }
            match shadow::sub(&view) {
                Some(json) => {
                    if let Some(message) = shadow.begin_sub(&view.id, json) {
                        turn.effects.shadow(message);
                    }
                }
                None => lost = true,
            }
        }
        lost |= shadow.is_overfull();
        moving.stage = Stage::Shadowing(Box::new(Shadowing {
            deadline: now + MOVE_WITHIN,
            upstream: session.to_owned(),
            shadow,
            documents: Documents::default(),
            overlap,
            generation: Generation::new(now),
            level: 0,
            level_since: now,
            hold: None,
            catches_up: false,
        }));
        if lost || busy {
            let why = match lost {
                true => Aborted::TooMuch,
                false => Aborted::Busy,
            };
            self.abandon(why);
        }
        self.arm_move(now);
    }

    /// A whole message of the new leg came, before the switch.
    pub fn handle_shadow<E: Effects>(&mut self, text: &[u8], turn: &mut Turn<'_, E>) {
        let Ok(messages) = messages_from_streamer(self.framing, text) else {
            return self.abandon(Aborted::Unreachable);
        };
        for json in messages {
            if !self.is_moving() {
                return;
            }
            self.hear_shadow(&json, turn);
        }
        self.consider_switch(turn.now);
    }

    /// One message of the new leg.
    fn hear_shadow<E: Effects>(&mut self, json: &str, turn: &mut Turn<'_, E>) {
        let envelope = peek(json.as_bytes(), Framing::Raw, Sender::Server);
        match envelope.kind {
            Kind::Ping => {
                let id = reply::id(json).ok();
                turn.effects.shadow(message::pong(id.as_deref()));
            }
            Kind::Pong => {
                let id = reply::id(json).unwrap_or_default();
                let number = id.strip_prefix(PRIVATE).and_then(|id| id.parse().ok());
                if let Some(number) = number {
                    self.answer_fence(number, true, turn.now);
                }
            }
            Kind::Result => self.hear_shadow_result(json, turn),
            Kind::Ready => {
                for id in ddp::ids(json).unwrap_or_default() {
                    self.hear_shadow_answer(turn, |shadow| shadow.ready(&id));
                }
            }
            Kind::Nosub => {
                if let (Ok(id), Ok(reason)) = (reply::id(json), reply::nosub_reason(json)) {
                    self.hear_shadow_answer(turn, |shadow| shadow.nosub(&id, reason));
                }
            }
            Kind::Added | Kind::Changed | Kind::Removed => self.hear_shadow_published(json),
            _ => {}
        }
    }

    fn hear_shadow_result<E: Effects>(&mut self, json: &str, turn: &mut Turn<'_, E>) {
        let now = turn.now;
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        let Ok(id) = reply::id(json) else { return };
        let before = shadowing.shadow.is_logging_in();
        if !shadowing.shadow.answered(&id) {
            return;
        }
        shadowing.level = 0;
        if !before || shadowing.shadow.is_logging_in() {
            return;
        }
        let (outcome, good) = match LoginReply::parse(json) {
            Ok(LoginReply::Done { user, .. }) => {
                (Login::In, journal.user().as_deref() == Some(user.as_str()))
            }
            Ok(LoginReply::Refused) => (Login::Refused, false),
            Ok(LoginReply::Failed) | Err(_) => (Login::Failed, false),
        };
        let took = now.saturating_duration_since(moving.began);
        turn.effects.note(Note::Login { outcome, took });
        match outcome {
            // The client's own login has to fail too, so that it learns that it is logged out.
            Login::Refused => self.close(Disconnect::LoggedOut, now),
            _ if !good => self.abandon(Aborted::LoginFailed),
            _ => {}
        }
    }

    fn hear_shadow_answer<E: Effects>(
        &mut self,
        turn: &mut Turn<'_, E>,
        answer: impl FnOnce(&mut Shadow) -> Next,
    ) {
        let Some((moving, _)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        shadowing.level = 0;
        let Next { send, abort } = answer(&mut shadowing.shadow);
        if let Some(message) = send {
            turn.effects.shadow(message);
        }
        if let Some(why) = abort {
            self.abandon(why);
        }
    }

    fn hear_shadow_published(&mut self, json: &str) {
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        let fits = match Published::parse(json) {
            Ok(Published::Event(event)) => {
                let other = Some(shadowing.upstream.as_str());
                match translated(&event, json, other, journal) {
                    None => shadowing.overlap.new_brought(&event, json).is_ok(),
                    Some(json) => match Published::parse(&json) {
                        Ok(Published::Event(event)) => {
                            shadowing.overlap.new_brought(&event, &json).is_ok()
                        }
                        _ => true,
                    },
                }
            }
            Ok(Published::Document(document)) => shadowing.documents.apply(&document).is_ok(),
            Ok(Published::Announced) | Err(_) => true,
        };
        if !fits {
            self.abandon(Aborted::TooMuch);
        }
    }
}
