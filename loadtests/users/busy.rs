//! A user who does things, without I/O: what it calls and writes, and where it looks in.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json, value::RawValue};

use super::{
    board::Board,
    chance::Chance,
    crowd::Person,
    habits::{Habits, MESSAGES, ROOM, activity, options, room_name},
    hearing::Hearing,
    kind::Family,
};

/// What a user does on one connection, and what it is told there.
pub(super) struct Busy<'a> {
    person: &'a Person,
    habits: &'a Habits,
    board: &'a Board,
    chance: Chance,
    /// Number of the next message that has an id.
    next: u32,
    act_at: Option<Instant>,
    away_told: bool,
    hearing: Hearing<'a>,
    /// Tells its writing from that of its earlier connections.
    connection: u64,
    written: u64,
    calls: HashMap<String, Call>,
    visit: Visit,
}

struct Call {
    sent: Instant,
    /// The result is here, `updated` is not.
    answered: bool,
    /// The result is how often this was executed.
    counts: bool,
}

/// A look into a room that the user is not in.
enum Visit {
    None,
    Opening {
        id: String,
        room: u32,
    },
    Open {
        id: String,
        room: u32,
        until: Instant,
    },
    /// `done`: the last message that had been published when the client said that it leaves.
    Closing {
        id: String,
        room: u32,
        done: u64,
    },
}

impl<'a> Busy<'a> {
    pub(super) fn new(
        person: &'a Person,
        habits: &'a Habits,
        board: &'a Board,
        chance: Chance,
    ) -> Self {
        Self {
            person,
            habits,
            board,
            chance,
            next: 100,
            act_at: None,
            away_told: false,
            hearing: Hearing::new(person, habits, board),
            connection: board.key(),
            written: 0,
            calls: HashMap::new(),
            visit: Visit::None,
        }
    }

    /// Subscription number `n` of the user's habits has been asked for.
    pub(super) fn subscribed(&mut self, n: u8) {
        if let Some(room) = self.habits.room_of(n) {
            self.hearing.listen(room);
        }
    }

    /// It is ready.
    pub(super) fn ready(&mut self, n: u8) {
        if let Some(room) = self.habits.room_of(n) {
            self.hearing.ready(room);
        }
    }

    /// The client has all that it asked for at its start.
    pub(super) fn settled(&mut self, say: &mut Vec<String>, now: Instant) {
        if self.act_at.is_some() {
            return;
        }
        if self.habits.away && !self.away_told {
            self.away_told = true;
            self.call("UserPresence:away", &json!([]), false, say, now);
        }
        self.act_at = Some(now + self.pause());
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.act_at
    }

    /// Does what it is time for.
    pub(super) fn due(&mut self, say: &mut Vec<String>, now: Instant) {
        if self.act_at.is_none_or(|at| at > now) {
            return;
        }
        self.act_at = Some(now + self.pause());
        if let Visit::Open { until, .. } = self.visit
            && (until <= now || !self.board.is_busy())
        {
            return self.leave(say);
        }
        if !self.board.is_busy() || self.calls.len() >= CALLS {
            return;
        }
        match self.chance.next() % 100 {
            0..45 => self.count(0, say, now),
            45..55 => {
                let pause = 200 + self.chance.next() % 1300;
                self.count(pause, say, now);
            }
            55..80 => self.write(say, now),
            _ => self.look_in(say),
        }
    }

    fn pause(&mut self) -> Duration {
        self.chance.around(self.habits.pause, 0.9)
    }

    /// Calls what is counted where it is executed, and takes so many milliseconds.
    fn count(&mut self, pause: u64, say: &mut Vec<String>, now: Instant) {
        let key = format!("{}-{}", self.person.number, self.board.key());
        self.call("demo:count", &json!([key, pause]), true, say, now);
    }

    fn write(&mut self, say: &mut Vec<String>, now: Instant) {
        let Some(room) = self.habits.rooms.first() else {
            return;
        };
        self.written += 1;
        let params = json!([
            activity(*room),
            self.person.name(),
            ["user-typing"],
            { "connection": self.connection, "n": self.written },
        ]);
        self.call(ROOM, &params, false, say, now);
    }

    fn call(
        &mut self,
        method: &str,
        params: &Value,
        counts: bool,
        say: &mut Vec<String>,
        now: Instant,
    ) {
        let id = self.id();
        let message = json!({ "msg": "method", "id": id, "method": method, "params": params });
        say.push(message.to_string());
        let call = Call {
            sent: now,
            answered: false,
            counts,
        };
        self.calls.insert(id, call);
        let mut tally = self.board.tally();
        tally.traffic.called += 1;
        tally.traffic.counted += u64::from(counts);
    }

    fn look_in(&mut self, say: &mut Vec<String>) {
        if !matches!(self.visit, Visit::None) {
            return;
        }
        let Ok(room) = u32::try_from(self.chance.next() % u64::from(self.habits.all_rooms.max(1)))
        else {
            return;
        };
        if self.habits.rooms.contains(&room) {
            return;
        }
        let id = match self.person.kind.family() {
            Family::Web => self.chance.letters(17),
            Family::ReactNative | Family::Sdk => self.id(),
        };
        let params = json!([room_name(room), options()]);
        let sub = json!({ "msg": "sub", "id": id, "name": MESSAGES, "params": params });
        say.push(sub.to_string());
        self.hearing.listen(room);
        self.visit = Visit::Opening { id, room };
    }

    fn leave(&mut self, say: &mut Vec<String>) {
        let Visit::Open { id, room, .. } = std::mem::replace(&mut self.visit, Visit::None) else {
            return;
        };
        say.push(json!({ "msg": "unsub", "id": id }).to_string());
        let done = self.board.done(room);
        self.visit = Visit::Closing { id, room, done };
    }

    fn id(&mut self) -> String {
        let n = self.next;
        self.next += 1;
        match self.person.kind.family() {
            Family::Web => n.to_string(),
            Family::ReactNative => format!("ddp-{n}"),
            Family::Sdk => format!("rc-ddp-client-{n}"),
        }
    }

    pub(super) fn hear_event(&mut self, collection: &str, fields: &RawValue) {
        self.hearing.event(collection, fields);
    }

    pub(super) fn hear_result(
        &mut self,
        id: Option<&str>,
        result: Option<&RawValue>,
        failed: bool,
        now: Instant,
    ) {
        let mut tally = self.board.tally();
        let call = id.and_then(|id| self.calls.get_mut(id));
        let Some(call) = call.filter(|call| !call.answered) else {
            tally.traffic.faults.answers += 1;
            return tally.breach(self.person.number, &format!("a result for {id:?}"));
        };
        call.answered = true;
        tally.traffic.call.record(now - call.sent);
        if failed {
            tally.traffic.faults.failed += 1;
        } else if call.counts && result.map(RawValue::get) != Some("1") {
            tally.traffic.faults.repeated += 1;
        }
    }

    pub(super) fn hear_updated(&mut self, id: &str) {
        let mut tally = self.board.tally();
        match self.calls.get(id) {
            Some(Call { answered: true, .. }) => {
                self.calls.remove(id);
                tally.traffic.answered += 1;
            }
            _ => {
                tally.traffic.faults.answers += 1;
                tally.breach(self.person.number, &format!("updated for {id:?}"));
            }
        }
    }

    /// Whether the answer was to a subscription of this user's visits.
    pub(super) fn hear_sub_answer(&mut self, id: &str, ready: bool, now: Instant) -> bool {
        match &self.visit {
            Visit::Opening { id: asked, room } if asked == id && ready => {
                let room = *room;
                self.hearing.ready(room);
                let until = now + self.chance.around(3 * self.habits.pause, 0.9);
                let id = id.to_owned();
                self.visit = Visit::Open { id, room, until };
                true
            }
            Visit::Closing {
                id: asked,
                room,
                done,
            } if asked == id && !ready => {
                let (room, done) = (*room, *done);
                self.visit = Visit::None;
                let mut tally = self.board.tally();
                tally.traffic.visits += 1;
                let missed = self.hearing.leave(room, done);
                if !self.board.is_skewed() {
                    tally.traffic.faults.lost += missed;
                }
                true
            }
            _ => false,
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let unanswered = self.calls.len() as u64;
        if unanswered > 0 {
            self.board.tally().traffic.faults.abandoned += unanswered;
        }
    }
}

/// Calls that a user has under way at most.
const CALLS: usize = 20;
