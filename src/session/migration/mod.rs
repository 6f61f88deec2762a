//! Moving a live session to another streamer, unnoticed by its client.
//!
//! *The shadow leg.* The new leg shadows the old one until both are level, then one switch puts it
//! in charge. Until then the old leg alone speaks to the client and gets what the client sends, so
//! that a move that is given up has changed nothing, and no method can run twice.
//!
//! 1. The new leg is asked for what the journal knows: login with the client's token, the last
//!    presence call, the subscriptions. What the client subscribes to meanwhile goes to both legs.
//!    All answers of the new leg are swallowed (`shadow`).
//! 2. Events of both are compared by content (`overlap`) until everything from before the new
//!    subscriptions has surely arrived: some generations after the new leg's last answer.
//! 3. The client's messages are held until the old leg owes it nothing: no answer, and no pong (a
//!    last ping of our own is answered behind all of them).
//! 4. The switch: what the old leg has not brought yet goes to the client, documents are compared
//!    (`documents`), what was held goes to the new leg.
//!
//! One switch for the whole session instead of a hand-over for each subscription keeps the order
//! within every subscription and among them, and needs no undoing before it. Sans-io like the rest:
//! the relay dials, and says when both directions are between two messages.

mod documents;
mod meanwhile;
mod new_leg;
mod outcome;
mod overlap;
mod print;
mod shadow;
mod switch;
mod translation;

use std::{
    fmt,
    time::{Duration, Instant},
};

pub(super) use documents::note as note_document;
pub(super) use meanwhile::Ends;
pub use outcome::{Aborted, Unmovable};
pub use overlap::SKEW;
pub(super) use translation::{MARK, STREAM};

use documents::Documents;
use overlap::{Generation, Overlap};
use shadow::Shadow;

use super::{
    Action, Session,
    book::Aside,
    journal::{Journal, Name},
    machine::{Phase, Timer},
};
use crate::{base::secret::Secret, ddp::login};

/// The method by which the livechat widget names its visitor to the streamer.
pub(super) const LIVECHAT_SET_UP: &str = "livechat:setUpConnection";

/// The publication of which a connection has one; further ones change it.
const WATCH: &str = "stream-user-presence";

/// Begins the ids of the gateway's own requests and pings.
pub(super) const PRIVATE: &str = "ddpgw:";

/// A move under way.
pub(super) struct Migration {
    began: Instant,
    /// Of the next fence; the first of each move is later than all of the one before.
    fence: u32,
    /// Fences to be sent; at most one of a generation to each leg, and one of the hold.
    fences_due: Vec<Action>,
    /// What is held has to go on.
    release_due: bool,
    /// The token of a login that the client sent while the move was not forgotten yet.
    offered: Option<Secret<String>>,
    stage: Stage,
}

enum Stage {
    /// A new leg is on its way; what the client writes to streams is noted already.
    Reaching(Box<Overlap>),
    Shadowing(Box<Shadowing>),
    /// The new leg is in charge, and may still bring what the client has from the old one.
    Settling(Box<Settling>),
    /// To be told to the relay.
    Abandoned(Aborted),
}

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
    /// Something was held that went on to the old leg, and the new one was not told of it.
    catches_up: bool,
}

impl Shadowing {
    /// The legs are not level, or the hold was in vain. Whether something was held: that goes on to
    /// the old leg, and what of it the new one has to know is told to it as it is answered.
    fn start_over(&mut self) -> bool {
        self.level = 0;
        self.catches_up |= self.hold.is_some();
        self.hold.take().is_some()
    }
}

struct Settling {
    /// What the streamer before called the session, if the client calls it something else.
    former: Option<String>,
    overlap: Overlap,
    generation: Generation,
    /// Generations that are left.
    left: u8,
}

impl Migration {
    /// What the streamer that is not in charge calls the session, if the client does not.
    fn other_name(&self) -> Option<&str> {
        match &self.stage {
            Stage::Shadowing(shadowing) => Some(&shadowing.upstream),
            Stage::Settling(settling) => settling.former.as_deref(),
            Stage::Reaching(_) | Stage::Abandoned(_) => None,
        }
    }
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

/// Requests may carry tokens, and names of sessions are secrets too.
impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Reaching(_) => "reaching",
            Stage::Shadowing(shadowing) if shadowing.hold.is_some() => "holding",
            Stage::Shadowing(_) => "shadowing",
            Stage::Settling(_) => "settling",
            Stage::Abandoned(_) => "abandoned",
        };
        f.debug_struct("Migration")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
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
        if self.is_returning() {
            return Err(Unmovable::Resuming);
        }
        let served = matches!(self.phase, Phase::Live | Phase::Detached);
        let Some(book) = self.book.as_mut().filter(|_| served) else {
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
            offered: None,
            stage: Stage::Reaching(Box::default()),
        })));
        self.timers.set(Timer::Step as usize, now + REACH_WITHIN);
        Ok(())
    }

    /// The client's login offers this token, or one that is not known; the last login counts.
    pub(super) fn keep_offered(&mut self, offered: Option<Secret<String>>) {
        let Some(book) = &mut self.book else { return };
        match book.aside.as_deref_mut() {
            // A move that has switched goes on; one that the login ended is still to be told of.
            Some(Aside::Moving(moving)) => moving.offered = offered,
            _ => book.aside = offered.map(|token| Box::new(Aside::Offered(token))),
        }
    }

    /// The token that was offered by the login that has its answer.
    pub(super) fn take_offered(&mut self) -> Option<Secret<String>> {
        let book = self.book.as_mut()?;
        if let Some(Aside::Moving(moving)) = book.aside.as_deref_mut() {
            return moving.offered.take();
        }
        match *book.aside.take()? {
            Aside::Offered(token) => Some(token),
            Aside::Moving(_) => None,
        }
    }

    /// Whether a move is under way whose switch has not come yet.
    pub fn is_moving(&self) -> bool {
        self.migration()
            .is_some_and(|moving| matches!(moving.stage, Stage::Reaching(_) | Stage::Shadowing(_)))
    }

    /// Whether the new leg of a move needs a turn to log in.
    pub fn moves_login(&self) -> bool {
        self.journal()
            .is_some_and(|journal| journal.user().is_some())
    }

    /// What the streamer that is not in charge, or not any more, calls the session, if it is known
    /// and the client does not call it so.
    pub fn other_name(&self) -> Option<&str> {
        self.migration()?.other_name()
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

    /// Whether the client's messages are held until the switch.
    pub(super) fn holds_client(&self) -> bool {
        let releases = self.migration().is_some_and(|moving| moving.release_due);
        releases || self.hold().is_some()
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
        let ending = |known: bool| {
            let mut subs = journal.subs().filter(|view| view.ending);
            subs.any(|view| shadowing.shadow.has_sub(&view.id) == known)
        };
        // An unsub that overtakes its sub is ignored by a streamer. One from before the move keeps
        // nobody for ever; one from the time of the move makes this one fail and the next one not.
        let waits = journal.unanswered_methods() > 0 || journal.pending_subs() > 0 || ending(false);
        let patient = now < shadowing.level_since + PATIENCE;
        if ending(true) || journal.unseen() > 0 || waits && patient {
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
            Stage::Reaching(_) if now >= moving.began + REACH_WITHIN => {
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
                    moving.release_due |= shadowing.start_over();
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
            && let Some(Aside::Moving(moving)) = book.aside.as_deref_mut()
        {
            let offered = moving.offered.take();
            book.aside = offered.map(|token| Box::new(Aside::Offered(token)));
            self.timers.stop(Timer::Step as usize);
        }
    }

    fn answer_fence(&mut self, number: u32, by_shadow: bool, now: Instant) {
        let Some((moving, journal)) = self.migration_mut() else {
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
                    shadowing
                        .overlap
                        .grow_older(journal.unanswered_methods() == 0);
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
                    settling.overlap.grow_older(true);
                    settling.left -= 1;
                    if settling.left == 0 {
                        return self.forget_move();
                    }
                }
            }
            Stage::Reaching(_) | Stage::Abandoned(_) => return,
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
            Stage::Reaching(_) | Stage::Abandoned(_) => return,
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
            Stage::Reaching(_) => Some(moving.began + REACH_WITHIN),
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
                Stage::Reaching(_) => false,
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
    // Its token is about to end, and the streamer closes the leg behind the answer.
    if journal.has_method(|name| name.label() == login::LOGOUT) {
        return Err(Unmovable::NotLive);
    }
    if journal.has_method(|name| name.label().starts_with("stream-")) {
        return Err(Unmovable::Writing);
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

/// Of these, those behind which nothing can come any more that was published before the new leg served
/// all that it was asked for.
const SERVED: u8 = 2;

#[cfg(test)]
mod tests;
