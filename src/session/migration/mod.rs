//! Moving a live session to another streamer, unnoticed by its client.
//!
//! *The shadow leg.* The new leg shadows the old one until both are level, then one switch puts it
//! in charge. Until then the old leg alone speaks to the client and gets what the client sends, so
//! that a move that is given up has changed nothing, and no method can run twice.
//!
//! 1. The new leg is asked for what the journal knows: login with the client's token, the last
//!    presence call, the subscriptions. What the client subscribes to meanwhile goes to both legs.
//!    All answers of the new leg are swallowed ([`shadow`]).
//! 2. Events of both are compared by content ([`overlap`]) until everything from before the new
//!    subscriptions has surely arrived: some generations after the new leg's last answer.
//! 3. The client's messages are held until the old leg owes it nothing: no answer, and no pong (a
//!    last ping of our own is answered behind all of them).
//! 4. The switch: what the old leg has not brought yet goes to the client, documents are compared
//!    ([`documents`]), what was held goes to the new leg.
//!
//! One switch for the whole session instead of a hand-over for each subscription keeps the order
//! within every subscription and among them, and needs no undoing before it. Sans-io like the rest:
//! the relay dials, and says when both directions are between two messages.

mod documents;
mod outcome;
mod overlap;
mod print;
mod shadow;
mod translation;

use std::time::{Duration, Instant};

pub(super) use documents::note as note_document;
pub use outcome::{Aborted, Unmovable};
pub use overlap::SKEW;
pub(super) use translation::{MARK, STREAM};

use documents::Documents;
use overlap::{Generation, Overlap};
use print::Print;
use shadow::{Next, Shadow};
use translation::translated;

use super::{
    Action, Disconnect, Session,
    book::Aside,
    journal::{Collection, Journal, Name, SubView},
    machine::{Phase, Timer},
    turn::{Effects, Login, Note, Turn},
};
use crate::ddp::{
    self, Framing, Kind, LoginReply, Published, Sender, message, messages_from_streamer, peek,
    reply,
};

/// The method by which the livechat widget names its visitor to the streamer.
pub(super) const LIVECHAT_SET_UP: &str = "livechat:setUpConnection";

/// Begins the ids of the gateway's own requests and pings.
pub(super) const PRIVATE: &str = "ddpgw:";

/// A move under way.
#[derive(Debug)]
pub(super) struct Migration {
    began: Instant,
    /// Of the next fence; the first of each move is later than all of the one before.
    fence: u32,
    /// Fences to be sent; at most one of a generation to each leg, and one of the hold.
    fences_due: Vec<Action>,
    /// What is held has to go on.
    release_due: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// A new leg is on its way.
    Reaching,
    Shadowing(Box<Shadowing>),
    /// The new leg is in charge, and may still bring what the client has from the old one.
    Settling(Box<Settling>),
    /// To be told to the relay.
    Abandoned(Aborted),
}

#[derive(Debug)]
struct Shadowing {
    deadline: Instant,
    /// The new streamer's name for the session.
    upstream: String,
    shadow: Shadow,
    documents: Documents,
    overlap: Overlap,
    generation: Generation,
    /// Generations since the new leg was last asked or answered something.
    level: u8,
    level_since: Instant,
    hold: Option<Hold>,
}

#[derive(Debug)]
struct Settling {
    overlap: Overlap,
    generation: Generation,
    /// Generations that are left.
    left: u8,
}

/// The client's messages wait until the old leg owes nothing.
#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Instant,
    fence: u32,
    fenced: bool,
    /// Methods and subscriptions that wait: nobody owes them an answer yet.
    methods: u32,
    subs: u32,
}

/// What becomes of an event or document of the leg in charge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    AsItCame,
    Nothing,
    Instead(String),
}

/// The text of a ping of the gateway's own.
pub fn fence(number: u32) -> String {
    format!(r#"{{"msg":"ping","id":"{PRIVATE}{number}"}}"#)
}

impl Session {
    /// Begins to move the session to another streamer: a new leg is wanted.
    ///
    /// # Errors
    /// With the reason why it cannot be moved, at least now.
    pub fn begin_move(&mut self, now: Instant) -> Result<(), Unmovable> {
        let fence = self.millis(now);
        let Some(book) = self.book.as_mut().filter(|_| self.phase == Phase::Live) else {
            return Err(Unmovable::NotLive);
        };
        if book.logins.held > 0 || book.logins.running > 0 {
            return Err(Unmovable::LoggingIn);
        }
        if book.aside.is_some() {
            return Err(Unmovable::NotLive);
        }
        check(&book.journal)?;
        book.aside = Some(Box::new(Aside::Moving(Migration {
            began: now,
            fence,
            fences_due: Vec::new(),
            release_due: false,
            stage: Stage::Reaching,
        })));
        self.timers.set(Timer::Step as usize, now + REACH_WITHIN);
        Ok(())
    }

    /// Whether a move is under way whose switch has not come yet.
    pub fn is_moving(&self) -> bool {
        self.migration()
            .is_some_and(|moving| matches!(moving.stage, Stage::Reaching | Stage::Shadowing(_)))
    }

    /// Whether the new leg of a move needs a turn to log in.
    pub fn moves_login(&self) -> bool {
        self.journal()
            .is_some_and(|journal| journal.user().is_some())
    }

    /// The new leg's streamer answered `connected` with this session id. What it is asked goes to
    /// [`Effects::shadow`].
    pub fn handle_shadow_attached<E: Effects>(&mut self, session: &str, turn: &mut Turn<'_, E>) {
        let now = turn.now;
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Reaching = moving.stage else {
            return;
        };
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
        let mut lost = false;
        for view in journal.subs().filter(|view| !view.ending) {
            match shadow::sub(&view) {
                Some(json) => {
                    if let Some(message) = shadow.begin_sub(&view.id, json) {
                        turn.effects.shadow(message);
                    }
                }
                None => lost = true,
            }
        }
        moving.stage = Stage::Shadowing(Box::new(Shadowing {
            deadline: now + MOVE_WITHIN,
            upstream: session.to_owned(),
            shadow,
            documents: Documents::default(),
            overlap: Overlap::default(),
            generation: Generation::new(now),
            level: 0,
            level_since: now,
            hold: None,
        }));
        if lost {
            self.abandon(Aborted::TooMuch);
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

    /// There will be no new leg, or it is lost.
    pub fn handle_shadow_lost(&mut self, why: Aborted, now: Instant) {
        if self.is_moving() {
            self.abandon(why);
            self.arm_move(now);
        }
    }

    /// Whether the switch may come as soon as both directions are between two messages and
    /// everything for the old leg is on its way.
    pub fn wants_switch(&self) -> bool {
        let Some(book) = &self.book else { return false };
        let Some(Stage::Shadowing(shadowing)) = self.migration().map(|moving| &moving.stage) else {
            return false;
        };
        let journal = &book.journal;
        shadowing.hold.is_some_and(|hold| {
            hold.fenced
                && shadowing.shadow.is_settled()
                && journal.unanswered_methods() <= hold.methods
                && journal.pending_subs() <= hold.subs
        })
    }

    /// The new leg is in charge. What the client has to be told first goes to [`Effects::reply`];
    /// what was held is now for the new leg.
    pub fn handle_switched<E: Effects>(&mut self, turn: &mut Turn<'_, E>) {
        let now = turn.now;
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = std::mem::replace(&mut moving.stage, Stage::Reaching)
        else {
            return;
        };
        let Shadowing {
            upstream,
            shadow,
            documents,
            mut overlap,
            ..
        } = *shadowing;
        let topics: Vec<u64> = journal.subs().filter_map(|view| topic_of(&view)).collect();
        for (topic, json) in overlap.take_ahead() {
            if topics.contains(&topic) {
                turn.effects.reply(json);
            }
        }
        let refused: Vec<String> = shadow.refused().map(str::to_owned).collect();
        let served: Vec<Collection> = Collection::ALL
            .into_iter()
            .filter(|collection| {
                collection.publication().is_some_and(|name| {
                    let mut subs = journal.subs();
                    subs.any(|view| {
                        view.ready
                            && view.name.label() == name
                            && !refused.iter().any(|id| *id == view.id)
                    })
                })
            })
            .collect();
        for json in documents.settle(journal, |collection| served.contains(&collection)) {
            turn.effects.reply(json);
        }
        for id in refused {
            if journal.has_sub(&id) {
                let _ = journal.end_sub(&id);
                turn.effects.reply(reply::refused_nosub(&id));
            }
        }
        journal.set_upstream(&upstream);
        moving.stage = Stage::Settling(Box::new(Settling {
            overlap,
            generation: Generation::new(now),
            left: LEVEL,
        }));
        let took = now.saturating_duration_since(moving.began);
        turn.effects.note(Note::Moved { took });
        self.take_over(now);
        self.arm_move(now);
    }

    /// What the leg in charge publishes, and the client shall be told of it.
    pub(super) fn tell_published(&mut self, json: &str) -> Told {
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
        let translated = translated(&event, json, journal.upstream().as_deref(), journal);
        let outcome = match book.aside.as_deref_mut() {
            Some(Aside::Moving(moving)) => match &mut moving.stage {
                Stage::Shadowing(shadowing) => {
                    let print = match &translated {
                        Some(json) => print_of(json),
                        None => Some(Print::of(&event, json)),
                    };
                    print.map_or(Ok(()), |print| shadowing.overlap.old_brought(print))
                }
                Stage::Settling(settling) => {
                    if settling.overlap.is_delivered(&event, json) {
                        return Told::Nothing;
                    }
                    Ok(())
                }
                Stage::Reaching | Stage::Abandoned(_) => Ok(()),
            },
            _ => Ok(()),
        };
        if outcome.is_err() {
            self.abandon(Aborted::TooMuch);
        }
        translated.map_or(Told::AsItCame, Told::Instead)
    }

    /// Whether events are compared, so that each is wanted whole.
    pub(super) fn compares_events(&self) -> bool {
        self.migration()
            .is_some_and(|moving| matches!(moving.stage, Stage::Shadowing(_) | Stage::Settling(_)))
    }

    /// An event of the leg in charge is too large to be compared.
    pub(super) fn cannot_compare(&mut self) {
        if let Some(Stage::Shadowing(_)) = self.migration().map(|moving| &moving.stage) {
            self.abandon(Aborted::TooMuch);
        }
    }

    /// The leg in charge answered a ping; whether it was one of our own.
    pub(super) fn take_fence(&mut self, id: &str, now: Instant) -> bool {
        let Some(number) = id.strip_prefix(PRIVATE) else {
            return false;
        };
        if let Ok(number) = number.parse() {
            self.answer_fence(number, false, now);
        }
        true
    }

    /// Whether the client's messages are held until the switch.
    pub(super) fn holds_client(&self) -> bool {
        self.hold().is_some()
    }

    /// The client calls a method, which passes, or is held with everything else.
    pub(super) fn shadow_method<E: Effects>(
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
                    // It will run on the new leg, which then does not echo it.
                    hold.methods += 1;
                    return;
                }
                if let (Some(presence), "UserPresence:online" | "UserPresence:away") =
                    (journal.presence(), method)
                {
                    turn.effects
                        .shadow(shadowing.shadow.call_presence(presence));
                    shadowing.level = 0;
                }
                &mut shadowing.overlap
            }
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
    pub(super) fn shadow_sub<E: Effects>(&mut self, id: &str, name: &str, turn: &mut Turn<'_, E>) {
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
        let json = journal
            .subs()
            .find(|view| view.id == id)
            .as_ref()
            .and_then(shadow::sub)
            .filter(|_| is_known(Name::of(name)));
        match json {
            Some(json) => {
                shadowing.level = 0;
                if let Some(message) = shadowing.shadow.begin_sub(id, json) {
                    turn.effects.shadow(message);
                }
            }
            None => self.abandon(Aborted::TooMuch),
        }
    }

    /// The old leg has ended a subscription.
    pub(super) fn shadow_nosub<E: Effects>(&mut self, id: &str, turn: &mut Turn<'_, E>) {
        if let Some((moving, _)) = self.migration_mut()
            && let Stage::Shadowing(shadowing) = &mut moving.stage
            && let Some(message) = shadowing.shadow.end_sub(id)
        {
            shadowing.level = 0;
            turn.effects.shadow(message);
        }
    }

    /// Holds the client's messages when the time for the switch has come and the old leg owes
    /// nothing, or has owed something for too long.
    pub(super) fn consider_switch(&mut self, now: Instant) {
        let Some((moving, journal)) = self.migration_mut() else {
            return;
        };
        let Stage::Shadowing(shadowing) = &mut moving.stage else {
            return;
        };
        if shadowing.hold.is_some() || shadowing.level < LEVEL || !shadowing.shadow.is_settled() {
            return;
        }
        let waits = journal.unanswered_methods() > 0 || journal.pending_subs() > 0;
        let patient = now < shadowing.level_since + PATIENCE;
        if journal.ending_subs() > 0 || journal.unseen() > 0 || waits && patient {
            return;
        }
        moving.fence = moving.fence.wrapping_add(1);
        moving.fences_due.push(Action::Fence {
            shadow: false,
            number: moving.fence,
        });
        shadowing.hold = Some(Hold {
            until: now + HOLD_FOR,
            fence: moving.fence,
            fenced: false,
            methods: 0,
            subs: 0,
        });
        self.arm_move(now);
    }

    /// The timer of a move expired.
    pub(super) fn handle_move_timeout(&mut self, now: Instant) {
        let Some((moving, _)) = self.migration_mut() else {
            return;
        };
        match &mut moving.stage {
            Stage::Reaching if now >= moving.began + REACH_WITHIN => {
                self.abandon(Aborted::Unreachable);
            }
            Stage::Shadowing(shadowing) => {
                if now >= shadowing.deadline {
                    let why = match shadowing.shadow.is_settled() {
                        true => Aborted::Busy,
                        false => Aborted::Late,
                    };
                    return self.abandon(why);
                }
                if shadowing.hold.is_some_and(|hold| now >= hold.until) {
                    shadowing.hold = None;
                    shadowing.level = 0;
                    moving.release_due = true;
                }
            }
            _ => {}
        }
        self.send_fences(now);
        self.consider_switch(now);
        self.arm_move(now);
    }

    /// What a move wants done.
    pub(super) fn poll_move(&mut self) -> Option<Action> {
        let (moving, _) = self.migration_mut()?;
        if !moving.fences_due.is_empty() {
            return Some(moving.fences_due.remove(0));
        }
        if std::mem::take(&mut moving.release_due) {
            return Some(Action::Release);
        }
        let Stage::Abandoned(why) = moving.stage else {
            return None;
        };
        self.forget_move();
        Some(Action::Abandon(why))
    }

    /// The session ends, and a move with it.
    pub(super) fn forget_move(&mut self) {
        if let Some(book) = &mut self.book
            && let Some(Aside::Moving(_)) = book.aside.as_deref()
        {
            book.aside = None;
            self.timers.stop(Timer::Step as usize);
        }
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
                let upstream = Some(shadowing.upstream.as_str());
                match translated(&event, json, upstream, journal) {
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

    fn answer_fence(&mut self, number: u32, by_shadow: bool, now: Instant) {
        let Some((moving, _)) = self.migration_mut() else {
            return;
        };
        match &mut moving.stage {
            Stage::Shadowing(shadowing) => {
                if let Some(hold) = &mut shadowing.hold
                    && hold.fence == number
                    && !by_shadow
                {
                    hold.fenced = true;
                }
                if shadowing.generation.answered(number, by_shadow, now) {
                    shadowing.overlap.grow_older();
                    if shadowing.shadow.is_settled() {
                        shadowing.level = shadowing.level.saturating_add(1);
                        if shadowing.level == LEVEL {
                            shadowing.level_since = now;
                        }
                    }
                }
            }
            Stage::Settling(settling) => {
                if settling.generation.answered(number, true, now) {
                    settling.overlap.grow_older();
                    settling.left -= 1;
                    if settling.left == 0 {
                        return self.forget_move();
                    }
                }
            }
            Stage::Reaching | Stage::Abandoned(_) => return,
        }
        self.consider_switch(now);
        self.arm_move(now);
    }

    fn send_fences(&mut self, now: Instant) {
        let Some((moving, _)) = self.migration_mut() else {
            return;
        };
        let (generation, shadow) = match &mut moving.stage {
            Stage::Shadowing(shadowing) => (&mut shadowing.generation, true),
            Stage::Settling(settling) => (&mut settling.generation, false),
            Stage::Reaching | Stage::Abandoned(_) => return,
        };
        if !generation.wants_fence(now) {
            return;
        }
        moving.fence = moving.fence.wrapping_add(1);
        // In charge is the old leg before the switch and the new one behind it.
        generation.send_fence(moving.fence, shadow, true);
        let number = moving.fence;
        let legs = [Some(false), shadow.then_some(true)];
        let fence = |shadow| Action::Fence { shadow, number };
        moving
            .fences_due
            .extend(legs.into_iter().flatten().map(fence));
    }

    /// Sets the timer of a move to what comes next.
    fn arm_move(&mut self, now: Instant) {
        let next = self.migration().and_then(|moving| match &moving.stage {
            Stage::Reaching => Some(moving.began + REACH_WITHIN),
            Stage::Shadowing(shadowing) => {
                let hold = shadowing.hold.map(|hold| hold.until);
                let patience = (shadowing.hold.is_none() && shadowing.level >= LEVEL)
                    .then_some(shadowing.level_since + PATIENCE)
                    .filter(|at| *at > now);
                let times = [
                    Some(shadowing.deadline),
                    shadowing.generation.next_timeout(),
                    hold,
                    patience,
                ];
                times.into_iter().flatten().min()
            }
            // A leg that does not answer ends by its own timer.
            Stage::Settling(settling) => settling.generation.next_timeout(),
            Stage::Abandoned(_) => None,
        });
        match next {
            Some(at) => self.timers.set(Timer::Step as usize, at),
            None => self.timers.stop(Timer::Step as usize),
        }
    }

    /// Gives the move up; nothing has happened.
    fn abandon(&mut self, why: Aborted) {
        if let Some((moving, _)) = self.migration_mut() {
            let held = match &moving.stage {
                Stage::Shadowing(shadowing) => shadowing.hold.is_some(),
                Stage::Reaching => false,
                Stage::Settling(_) | Stage::Abandoned(_) => return,
            };
            moving.release_due |= held;
            moving.fences_due.clear();
            moving.stage = Stage::Abandoned(why);
            self.timers.stop(Timer::Step as usize);
        }
    }

    fn hold(&self) -> Option<&Hold> {
        match &self.migration()?.stage {
            Stage::Shadowing(shadowing) => shadowing.hold.as_ref(),
            _ => None,
        }
    }

    fn migration(&self) -> Option<&Migration> {
        match self.book.as_ref()?.aside.as_deref()? {
            Aside::Moving(moving) => Some(moving),
            Aside::Offered(_) => None,
        }
    }

    fn migration_mut(&mut self) -> Option<(&mut Migration, &mut Journal)> {
        let book = self.book.as_mut()?;
        match book.aside.as_deref_mut()? {
            Aside::Moving(moving) => Some((moving, &mut book.journal)),
            Aside::Offered(_) => None,
        }
    }
}

/// Whether all that the client has is known well enough to be set up elsewhere.
fn check(journal: &Journal) -> Result<(), Unmovable> {
    if journal.user().is_some() && journal.token().is_none() {
        return Err(Unmovable::NoToken);
    }
    if journal.livechat() {
        return Err(Unmovable::Livechat);
    }
    if journal.overflowed() {
        return Err(Unmovable::JournalFull);
    }
    if journal.odd() {
        return Err(Unmovable::Odd);
    }
    if journal.unseen() > 0 {
        return Err(Unmovable::Unseen);
    }
    if journal.subs().any(|view| !is_known(view.name)) {
        return Err(Unmovable::UnknownPublication);
    }
    Ok(())
}

fn is_known(publication: Name) -> bool {
    publication != Name::OTHER && publication.is_stream()
}

/// What a subscription to a stream asks for.
fn topic_of(view: &SubView<'_>) -> Option<u64> {
    let request = view.request.as_ref().filter(|_| !view.ending)?;
    let params: Vec<serde_json::Value> = serde_json::from_str(&request.params).ok()?;
    let event = params.first()?.as_str()?;
    Some(print::topic(&request.name, event))
}

fn print_of(json: &str) -> Option<Print> {
    match Published::parse(json) {
        Ok(Published::Event(event)) => Some(Print::of(&event, json)),
        _ => None,
    }
}

/// A new leg is there within this: the wait for a turn to log in included.
const REACH_WITHIN: Duration = Duration::from_secs(60);
/// From the new leg's first answer to the switch.
const MOVE_WITHIN: Duration = Duration::from_secs(30);
/// The client's messages are held for so long at most, and then go on to the old leg.
const HOLD_FOR: Duration = Duration::from_secs(2);
/// For so long the switch waits for a moment in which nothing is unanswered; then it makes one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Generations of the overlap behind the last answer of the new leg. The first one may have begun
/// before that; by the end of the second, all that was published before has arrived; with the third
/// it is forgotten.
const LEVEL: u8 = 3;

#[cfg(test)]
mod tests;
