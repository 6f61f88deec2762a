//! A user who talks at a rate, without I/O: it writes messages and types, whatever the server does.
//!
//! What it is late with it makes up for, and all times count from the moment at which a message was
//! meant to be sent: a server that stands still for a second is seen by all that should have been
//! sent in that second, not only by what was under way.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    board::Board,
    chance::Chance,
    crowd::Person,
    habits::{MESSAGES, ROOM, options},
};

/// What one user says.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Tells the messages of this run from others in the same rooms.
    pub run: u64,
    /// Ids of the rooms that it is in; it talks in the first one.
    pub rooms: Box<[Box<str>]>,
    /// How others know it; a server checks that nobody types in another's name.
    pub name: Box<str>,
    /// Users who hear what it says, itself included.
    pub hearers: u32,
    /// Between two messages; `None`: it only listens.
    pub message: Option<Duration>,
    /// Length of a message in characters, at least.
    pub length: usize,
    /// Between two times at which it tells that it types.
    pub typing: Option<Duration>,
    /// Between two times at which it goes to another room.
    pub switch: Option<Duration>,
    /// Ids of the rooms that it looks into then, one after the other; none of `rooms`.
    pub others: Box<[Box<str>]>,
    /// What it calls for the sake of the answer.
    pub echo: Option<Echo>,
}

/// A method that is called at a rate, with a text of [`Talk::length`] characters.
#[derive(Clone, Debug)]
pub struct Echo {
    pub method: Box<str>,
    /// Between two calls.
    pub pause: Duration,
}

impl Talk {
    /// Two per room.
    pub(super) fn subscriptions(&self) -> u8 {
        u8::try_from(2 * self.rooms.len()).unwrap_or(u8::MAX)
    }

    pub(super) fn subscription(&self, n: u8) -> Option<(&'static str, Value)> {
        let room = self.rooms.get(usize::from(n / 2))?;
        Some(if n.is_multiple_of(2) {
            (MESSAGES, json!([room, options()]))
        } else {
            (ROOM, json!([format!("{room}/user-activity"), options()]))
        })
    }

    /// When it was meant to be sent, in microseconds of the board's clock, and something to read.
    fn text(&self, micros: u128) -> String {
        let mut text = format!("[{:016x} {micros}]", self.run);
        while text.len() < self.length {
            text.push_str(" and so on");
        }
        text
    }

    /// When a message of this run was meant to be sent.
    fn sent(&self, text: &str) -> Option<Duration> {
        let (run, rest) = text.strip_prefix('[')?.split_once(' ')?;
        let (micros, _) = rest.split_once(']')?;
        let is_ours = u64::from_str_radix(run, 16).is_ok_and(|run| run == self.run);
        let micros = micros.parse().ok().filter(|_| is_ours)?;
        Some(Duration::from_micros(micros))
    }
}

pub(super) struct Talking<'a> {
    person: &'a Person,
    talk: &'a Talk,
    board: &'a Board,
    chance: Chance,
    /// Number of the next call.
    next: u32,
    /// When the next message is meant to be sent, and the next sign of typing.
    message_at: Option<Instant>,
    typing_at: Option<Instant>,
    echo_at: Option<Instant>,
    switch_at: Option<Instant>,
    /// Rooms that it has gone to.
    switches: usize,
    /// Subscriptions of the room that it looks into, and of the one before.
    looks: HashMap<String, Look>,
    is_settled: bool,
    calls: HashMap<String, Call>,
}

struct Call {
    intended: Instant,
    is_message: bool,
}

/// How a subscription of a room that a user looks into stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Opening,
    Open,
    /// Its end was asked for.
    Closing,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, rename = "eventName")]
    event: Cow<'a, str>,
    #[serde(borrow)]
    args: &'a RawValue,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, default)]
    msg: Cow<'a, str>,
}

impl<'a> Talking<'a> {
    pub(super) fn new(
        person: &'a Person,
        talk: &'a Talk,
        board: &'a Board,
        chance: Chance,
    ) -> Self {
        Self {
            person,
            talk,
            board,
            chance,
            next: 100,
            message_at: None,
            typing_at: None,
            echo_at: None,
            switch_at: None,
            switches: 0,
            looks: HashMap::new(),
            is_settled: false,
            calls: HashMap::new(),
        }
    }

    /// It has all that it asked for at its start. Users begin at different moments.
    pub(super) fn settled(&mut self, now: Instant) {
        if self.is_settled {
            return;
        }
        self.is_settled = true;
        let chance = &mut self.chance;
        let mut first = |period: Duration| now + period.mul_f64(chance.between(0.0, 1.0));
        self.message_at = self.talk.message.map(&mut first);
        self.typing_at = self.talk.typing.map(&mut first);
        let echo = self.talk.echo.as_ref();
        self.echo_at = echo.map(|echo| first(echo.pause));
        let switch = self.talk.switch.filter(|_| !self.talk.others.is_empty());
        self.switch_at = switch.map(&mut first);
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if self.calls.len() >= CALLS {
            return None;
        }
        let all = [
            self.message_at,
            self.typing_at,
            self.echo_at,
            self.switch_at,
        ];
        all.into_iter().flatten().min()
    }

    pub(super) fn due(&mut self, say: &mut Vec<String>, now: Instant) {
        let is_busy = self.board.is_busy();
        while let Some(at) = self.next_timeout().filter(|at| *at <= now) {
            let after = |period: Option<Duration>| period.map(|period| at + period);
            if self.message_at == Some(at) {
                self.message_at = after(self.talk.message);
                if is_busy {
                    self.write(at, say, now);
                }
            } else if self.typing_at == Some(at) {
                self.typing_at = after(self.talk.typing);
                if is_busy {
                    self.type_(at, say);
                }
            } else if self.switch_at == Some(at) {
                self.switch_at = after(self.talk.switch);
                if is_busy {
                    self.switch(at, say);
                }
            } else {
                self.echo_at = after(self.talk.echo.as_ref().map(|echo| echo.pause));
                if is_busy {
                    self.ask_echo(at, say);
                }
            }
        }
    }

    fn write(&mut self, intended: Instant, say: &mut Vec<String>, now: Instant) {
        let Some(room) = self.talk.rooms.first() else {
            return;
        };
        let micros = self.board.elapsed().saturating_sub(now - intended);
        let message = json!({
            "_id": self.chance.letters(17),
            "rid": room,
            "msg": self.talk.text(micros.as_micros()),
        });
        self.call("sendMessage", &json!([message]), true, intended, say);
    }

    fn type_(&mut self, intended: Instant, say: &mut Vec<String>) {
        let Some(room) = self.talk.rooms.first() else {
            return;
        };
        let event = format!("{room}/user-activity");
        let params = json!([event, self.talk.name, ["user-typing"], {}]);
        self.call(ROOM, &params, false, intended, say);
    }

    /// Leaves the room that it looks into, and opens another one as the clients do: what happens there
    /// is subscribed to, and what was said is fetched. A room whose opening or closing is not answered
    /// yet is waited for.
    fn switch(&mut self, intended: Instant, say: &mut Vec<String>) {
        if self.looks.values().any(|look| *look != Look::Open) {
            return;
        }
        for (id, look) in &mut self.looks {
            *look = Look::Closing;
            say.push(json!({ "msg": "unsub", "id": id }).to_string());
        }
        let others = &self.talk.others;
        let Some(room) = others.get(self.switches % others.len().max(1)) else {
            return;
        };
        self.switches += 1;
        let events = [
            (MESSAGES, room.to_string()),
            (ROOM, format!("{room}/user-activity")),
        ];
        for (n, (name, event)) in events.into_iter().enumerate() {
            let id = format!("look-{}-{n}", self.switches);
            let params = json!([event, options()]);
            let sub = json!({ "msg": "sub", "id": id, "name": name, "params": params });
            say.push(sub.to_string());
            self.looks.insert(id, Look::Opening);
        }
        let params = json!([room, null, 50, null]);
        self.call("loadHistory", &params, false, intended, say);
    }

    /// Whether the answer was to a subscription of a room that it looks into.
    pub(super) fn hear_sub_answer(&mut self, id: &str, ready: bool) -> bool {
        match (self.looks.get_mut(id), ready) {
            (Some(look @ Look::Opening), true) => *look = Look::Open,
            (Some(Look::Closing), false) => {
                self.looks.remove(id);
                let is_gone = !self.looks.values().any(|look| *look == Look::Closing);
                self.board.tally().traffic.visits += u64::from(is_gone);
            }
            _ => return false,
        }
        true
    }

    fn ask_echo(&mut self, intended: Instant, say: &mut Vec<String>) {
        let Some(Echo { method, .. }) = &self.talk.echo else {
            return;
        };
        let text = "so on and ".repeat(self.talk.length / 10 + 1);
        let text = text.get(..self.talk.length).unwrap_or_default();
        self.call(method, &json!([text]), false, intended, say);
    }

    fn call(
        &mut self,
        method: &str,
        params: &Value,
        is_message: bool,
        intended: Instant,
        say: &mut Vec<String>,
    ) {
        self.next += 1;
        let id = format!("{}", self.next);
        let message = json!({ "msg": "method", "id": id, "method": method, "params": params });
        say.push(message.to_string());
        let call = Call {
            intended,
            is_message,
        };
        self.calls.insert(id, call);
        self.board.tally().traffic.called += 1;
    }

    pub(super) fn hear_result(&mut self, id: Option<&str>, failed: bool, now: Instant) {
        let call = id.and_then(|id| self.calls.remove(id));
        let mut tally = self.board.tally();
        let Some(call) = call else {
            tally.traffic.faults.answers += 1;
            return tally.breach(self.person.number, "a result that was not asked for");
        };
        if failed {
            tally.traffic.faults.failed += 1;
            return;
        }
        tally.traffic.call.record(now - call.intended);
        tally.traffic.answered += 1;
        if call.is_message {
            tally.traffic.owed += u64::from(self.talk.hearers);
        }
    }

    pub(super) fn hear_event(&self, collection: &str, fields: &RawValue) {
        match collection {
            ROOM => self.board.tally().traffic.typed += 1,
            MESSAGES => {
                let fields = serde_json::from_str::<Fields<'_>>(fields.get());
                let Ok(Fields { event, args }) = fields else {
                    return;
                };
                // What it hears where it only looks in is owed to nobody.
                if !self.talk.rooms.iter().any(|room| **room == *event) {
                    return;
                }
                let Ok((said,)) = serde_json::from_str::<(Said<'_>,)>(args.get()) else {
                    return;
                };
                if let Some(sent) = self.talk.sent(&said.msg) {
                    let delay = self.board.elapsed().saturating_sub(sent);
                    self.board.tally().traffic.delay.record(delay);
                }
            }
            _ => {}
        }
    }
}

impl Drop for Talking<'_> {
    fn drop(&mut self) {
        let unanswered = self.calls.len() as u64;
        if unanswered > 0 {
            self.board.tally().traffic.faults.abandoned += unanswered;
        }
    }
}

/// Calls that a user has under way at most; what is due meanwhile waits, and its time runs.
const CALLS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Kind;

    fn talk() -> Talk {
        Talk {
            run: 7,
            rooms: Box::new(["r".into()]),
            name: "user1".into(),
            hearers: 3,
            message: Some(Duration::from_millis(100)),
            length: 40,
            typing: None,
            switch: None,
            others: Box::default(),
            echo: None,
        }
    }

    #[test]
    fn a_server_that_stands_still_is_seen_by_all_that_was_to_be_sent_meanwhile() {
        let talk = talk();
        let person = Person::new(1, Kind::SDK, "demo-user1", "uid-user1", 0);
        let board = Board::new(0);
        board.set_busy(true);
        let start = Instant::now();
        let mut talking = Talking::new(&person, &talk, &board, Chance::new(1));
        talking.settled(start);
        let first = talking.next_timeout().unwrap();
        assert!(first <= start + Duration::from_millis(100));
        // Nothing could be sent for three seconds.
        let mut say = Vec::new();
        let now = first + Duration::from_secs(3);
        talking.due(&mut say, now);
        assert_eq!(say.len(), CALLS);
        assert_eq!(talking.next_timeout(), None);
        for n in 101..=120 {
            talking.hear_result(Some(&n.to_string()), false, now);
        }
        say.clear();
        talking.due(&mut say, now);
        assert_eq!(say.len(), 11);
        for n in 121..=131 {
            talking.hear_result(Some(&n.to_string()), false, now);
        }
        drop(talking);
        let traffic = board.take().traffic;
        assert_eq!((traffic.called, traffic.answered), (31, 31));
        assert_eq!(traffic.owed, 93);
        assert_eq!(traffic.faults.abandoned, 0);
        let half = traffic.call.at(0.5).as_secs_f64();
        assert!((half - 1.5).abs() < 0.05, "{half}");
    }

    #[test]
    fn a_room_is_left_when_another_one_is_opened() {
        let mut talk = talk();
        talk.message = None;
        talk.switch = Some(Duration::from_secs(1));
        talk.others = Box::new(["x".into(), "y".into()]);
        let person = Person::new(1, Kind::SDK, "demo-user1", "uid-user1", 0);
        let board = Board::new(0);
        board.set_busy(true);
        let mut talking = Talking::new(&person, &talk, &board, Chance::new(1));
        let mut now = Instant::now();
        talking.settled(now);
        let mut said = Vec::new();
        for round in 1..=3 {
            now = talking.next_timeout().unwrap();
            let mut say = Vec::new();
            talking.due(&mut say, now);
            assert_eq!(say.len(), if round == 1 { 3 } else { 5 }, "{say:?}");
            assert_eq!(
                say.iter()
                    .filter(|text| text.contains("loadHistory"))
                    .count(),
                1
            );
            for n in 0..2 {
                let id = format!("look-{}-{n}", round - 1);
                assert_eq!(talking.hear_sub_answer(&id, false), round > 1);
                assert!(talking.hear_sub_answer(&format!("look-{round}-{n}"), true));
            }
            let id = (100 + round).to_string();
            talking.hear_result(Some(&id), false, now);
            said.extend(say);
        }
        assert!(!talking.hear_sub_answer("look-3-0", true));
        // Nothing is asked for while an answer is missing.
        let mut say = Vec::new();
        for _ in 0..2 {
            now = talking.next_timeout().unwrap();
            talking.due(&mut say, now);
        }
        assert_eq!(say.len(), 5);
        assert!(
            said[2].contains("\"x\"") && said[7].contains("\"y\""),
            "{said:?}"
        );
        drop(talking);
        let traffic = board.take().traffic;
        assert_eq!((traffic.visits, traffic.called), (2, 4));
    }

    #[test]
    fn messages_of_other_runs_are_not_heard() {
        let talk = talk();
        let text = talk.text(1500);
        assert!(text.len() >= 40);
        assert_eq!(talk.sent(&text), Some(Duration::from_micros(1500)));
        assert_eq!(
            Talk {
                run: 8,
                ..talk.clone()
            }
            .sent(&text),
            None
        );
        for text in ["", "[", "[7", "[7 ]", "[7 1", "[x 1]", "Good morning"] {
            assert_eq!(talk.sent(text), None, "{text:?}");
        }
    }
}
