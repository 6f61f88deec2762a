//! What passes between the client and the leg in charge while a session moves.

use std::time::Instant;

use super::{
    Aborted, LIVECHAT_SET_UP, PRIVATE, SERVED, Stage, Told, WATCH, is_known, note_document,
    print::{self, Print},
    shadow,
    switch::topic_of,
    translation::translated,
};
use crate::{
    ddp::{self, Published},
    session::{
        Effects, Session, Turn,
        book::Aside,
        journal::{Name, SubView},
    },
};

impl Session {
    /// What the leg in charge publishes, and the client shall be told of it.
    pub(in crate::session) fn tell_published(&mut self, json: &str) -> Told {
        let Some(book) = &mut self.book else {
            return Told::AsItCame;
        };
        let journal = &mut book.journal;
        let event = match Published::parse(json) {
            Ok(Published::Event(event)) => event,
            Ok(Published::Document(document)) => {
                let moved = journal.upstream().is_some();
                return match note_document(journal, &document, moved) {
                    None => Told::AsItCame,
                    Some(None) => Told::Nothing,
                    Some(Some(json)) => Told::Instead(json),
                };
            }
            Ok(Published::Announced) | Err(_) => return Told::AsItCame,
        };
        let other = match book.aside.as_deref() {
            Some(Aside::Moving(moving)) => moving.other_name(),
            _ => None,
        };
        let translated = translated(&event, json, other, journal);
        let outcome = match book.aside.as_deref_mut() {
            Some(Aside::Moving(moving)) => match &mut moving.stage {
                Stage::Shadowing(shadowing) => {
                    let print = match &translated {
                        Some(json) => print_of(json),
                        None => Some(Print::of(&event, json)),
                    };
                    {
                        let served = shadowing.level >= SERVED;
                        let brought = |print| shadowing.overlap.old_brought(print, served);
                        print.map_or(Ok(()), brought)
                    }
                }
                Stage::Settling(settling) => {
                    let as_told = translated.as_deref().unwrap_or(json);
                    if let Ok(Published::Event(event)) = Published::parse(as_told)
                        && settling.overlap.is_delivered(&event, as_told)
                    {
                        return Told::Nothing;
                    }
                    Ok(())
                }
                Stage::Reaching(_) | Stage::Abandoned(_) => Ok(()),
            },
            _ => Ok(()),
        };
        if outcome.is_err() {
            self.abandon(Aborted::TooMuch);
        }
        translated.map_or(Told::AsItCame, Told::Instead)
    }

    /// Whether events are compared, so that each is wanted whole.
    pub(in crate::session) fn compares_events(&self) -> bool {
        self.migration()
            .is_some_and(|moving| matches!(moving.stage, Stage::Shadowing(_) | Stage::Settling(_)))
    }

    /// Whether what the client writes to streams is noted, so that its parameters are wanted.
    pub(in crate::session) fn compares_writes(&self) -> bool {
        self.migration().is_some()
    }

    /// An event of the leg in charge is too large to be compared.
    pub(in crate::session) fn cannot_compare(&mut self) {
        if let Some(Stage::Shadowing(_)) = self.migration().map(|moving| &moving.stage) {
            self.abandon(Aborted::TooMuch);
        }
    }

    /// The leg in charge answered a ping; whether it was one of our own.
    pub(in crate::session) fn take_fence(&mut self, id: &str, now: Instant) -> bool {
        let Some(number) = id.strip_prefix(PRIVATE) else {
            return false;
        };
        if let Ok(number) = number.parse() {
            self.answer_fence(number, false, now);
        }
        true
    }

    /// The client calls a method, which passes, or is held with everything else.
    pub(in crate::session) fn shadow_method<E: Effects>(
        &mut self,
        method: &str,
        params: &str,
        turn: &mut Turn<'_, E>,
    ) {
        let unfit = matches!(
            method,
            ddp::login::LOGIN | ddp::login::LOGOUT | LIVECHAT_SET_UP
        );
        if unfit && self.is_moving() {
            return self.abandon(Aborted::Busy);
        }
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let overlap = match &mut moving.stage {
            Stage::Shadowing(shadowing) => {
                if let Some(hold) = &mut shadowing.hold {
                    hold.methods += 1;
                } else if let (Some(presence), "UserPresence:online" | "UserPresence:away") =
                    (journal.presence(), method)
                {
                    turn.effects
                        .shadow(shadowing.shadow.call_presence(presence));
                    shadowing.level = 0;
                }
                // Also what is held: it may still run on the old leg.
                &mut shadowing.overlap
            }
            Stage::Reaching(overlap) => overlap,
            _ => return,
        };
        if method.starts_with("stream-")
            && let Some(content) = print::of_write(method, params)
            && overlap.wrote(content).is_err()
        {
            self.abandon(Aborted::TooMuch);
        }
    }

    /// The client subscribes to something new, which passes, or is held with everything else.
    pub(in crate::session) fn shadow_sub<E: Effects>(
        &mut self,
        id: &str,
        name: &str,
        turn: &mut Turn<'_, E>,
    ) {
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        if let Some(hold) = &mut shadowing.hold {
            hold.subs += 1;
            return;
        }
        // Those that came before are told before.
        if shadowing.catches_up {
            return self.catch_up(turn);
        }
        // Whether it stands for itself or changes another one is up to the old leg.
        if name == WATCH {
            return;
        }
        let view = journal.subs().find(|view| view.id == id);
        if let Some(topic) = view.as_ref().and_then(topic_of) {
            shadowing.overlap.both_asked(topic);
        }
        let json = view
            .as_ref()
            .and_then(shadow::sub)
            .filter(|_| is_known(Name::of(name)));
        drop(view);
        match json {
            Some(json) => {
                shadowing.level = 0;
                if let Some(message) = shadowing.shadow.begin_sub(id, json) {
                    turn.effects.shadow(message);
                }
                self.check_shadow();
            }
            None => self.abandon(Aborted::TooMuch),
        }
    }

    /// The old leg has answered something: if that had been held, the new one learns of it now.
    pub(in crate::session) fn catch_up<E: Effects>(&mut self, turn: &mut Turn<'_, E>) {
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        if !shadowing.catches_up || shadowing.hold.is_some() {
            return;
        }
        shadowing.catches_up = journal.unanswered_methods() > 0 || journal.pending_subs() > 0;
        let mut messages = Vec::new();
        let mut unfit = false;
        for view in journal.subs() {
            let told = view.ending || view.name.label() == WATCH;
            if told || shadowing.shadow.has_sub(&view.id) {
                continue;
            }
            if let Some(topic) = topic_of(&view) {
                shadowing.overlap.both_asked(topic);
            }
            match shadow::sub(&view).filter(|_| is_known(view.name)) {
                Some(json) => messages.extend(shadowing.shadow.begin_sub(&view.id, json)),
                None => unfit = true,
            }
        }
        if unfit || shadowing.shadow.is_overfull() {
            return self.abandon(Aborted::TooMuch);
        }
        if let Some(presence) = journal.presence()
            && shadowing.shadow.presence() != Some(presence)
        {
            messages.push(shadowing.shadow.call_presence(presence));
        }
        if !messages.is_empty() {
            moving.release_due |= shadowing.start_over();
        }
        for message in messages {
            turn.effects.shadow(message);
        }
    }

    /// The old leg serves a subscription that was new to it.
    pub(in crate::session) fn shadow_ready<E: Effects>(
        &mut self,
        id: &str,
        turn: &mut Turn<'_, E>,
    ) {
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        let json = {
            let mut subs = journal.subs();
            let watch = subs.find(|view| view.id == id && view.name.label() == WATCH);
            watch.as_ref().and_then(shadow::sub)
        };
        if let Some(json) = json {
            moving.release_due |= shadowing.start_over();
            if let Some(message) = shadowing.shadow.begin_sub(id, json) {
                turn.effects.shadow(message);
            }
            self.check_shadow();
        }
    }

    /// Gives the move up when the new leg could not be told all.
    fn check_shadow(&mut self) {
        if let Some(Stage::Shadowing(shadowing)) = self.migration().map(|moving| &moving.stage)
            && shadowing.shadow.is_overfull()
        {
            self.abandon(Aborted::TooMuch);
        }
    }

    /// What the end of a subscription on the leg in charge will mean.
    pub(in crate::session) fn what_ends(&self, id: &str) -> Ends {
        let shadowing = self
            .migration()
            .is_some_and(|moving| matches!(moving.stage, Stage::Shadowing(_)));
        let Some(journal) = self.journal().filter(|_| shadowing) else {
            return Ends::Itself;
        };
        let watches = |view: &SubView<'_>| view.name.label() == WATCH;
        let Some(view) = journal.subs().find(|view| view.id == id && watches(view)) else {
            return Ends::Itself;
        };
        let served = journal.subs().any(|view| watches(&view) && view.ready);
        match view.request {
            _ if view.ready => Ends::Watch,
            Some(request) if served => Ends::Change(request.params.into_owned()),
            _ => Ends::Itself,
        }
    }

    /// The old leg has ended a subscription.
    pub(in crate::session) fn shadow_nosub<E: Effects>(
        &mut self,
        id: &str,
        ends: Ends,
        turn: &mut Turn<'_, E>,
    ) {
        let Some((moving, _)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        let message = match ends {
            // Which one the next presence subscription changes would be told differently by the two.
            Ends::Watch => return self.abandon(Aborted::Busy),
            Ends::Change(params) => shadowing.shadow.change_watch(&params),
            Ends::Itself => shadowing.shadow.end_sub(id),
        };
        if let Some(message) = message {
            moving.release_due |= shadowing.start_over();
            turn.effects.shadow(message);
        }
        self.check_shadow();
    }
}

/// What the end of a subscription means.
pub(in crate::session) enum Ends {
    Itself,
    /// A presence subscription beside another one: what that one watches changes by these
    /// parameters, and is served on.
    Change(String),
    /// The presence subscription that others change.
    Watch,
}

fn print_of(json: &str) -> Option<Print> {
    match Published::parse(json) {
        Ok(Published::Event(event)) => Some(Print::of(&event, json)),
        _ => None,
    }
}
