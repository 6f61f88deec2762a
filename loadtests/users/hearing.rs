//! What a user hears from others, without I/O, and whether it is right.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    board::Board,
    crowd::Person,
    habits::{Habits, MESSAGES, PRESENCE, ROOM, room_name},
    series::{Series, Step},
    traffic::Faults,
};

/// What a user was told on one connection.
pub(super) struct Hearing<'a> {
    person: &'a Person,
    habits: &'a Habits,
    board: &'a Board,
    /// Rooms whose messages come, by name.
    rooms: HashMap<String, Listening>,
    /// What others write in a room while they type, by room and name.
    typists: HashMap<(String, String), Typist>,
    /// Who is away and was shown as online, which is what a login does for a moment.
    blinking: HashSet<String>,
}

struct Listening {
    room: u32,
    /// `None` until the subscription is ready.
    series: Option<Series>,
}

struct Typist {
    connection: u64,
    series: Series,
}

/// The body of an event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow, default)]
    event_name: Cow<'a, str>,
    #[serde(borrow)]
    args: &'a RawValue,
}

/// A room's message.
#[derive(Deserialize)]
struct Said {
    n: u64,
    /// When, in microseconds of the board's clock.
    at: u64,
    /// All users report that they have this one.
    #[serde(default)]
    last: bool,
}

#[derive(Deserialize)]
struct Written {
    connection: u64,
    n: u64,
}

impl<'a> Hearing<'a> {
    pub(super) fn new(person: &'a Person, habits: &'a Habits, board: &'a Board) -> Self {
        Self {
            person,
            habits,
            board,
            rooms: HashMap::new(),
            typists: HashMap::new(),
            blinking: HashSet::new(),
        }
    }

    /// A room's messages were asked for.
    pub(super) fn listen(&mut self, room: u32) {
        let listening = Listening { room, series: None };
        self.rooms.insert(room_name(room), listening);
    }

    /// The subscription to a room is ready.
    pub(super) fn ready(&mut self, room: u32) {
        // What is published from now on has to come.
        let series = Series::from(self.board.begun(room) + 1);
        if let Some(listening) = self.rooms.get_mut(&room_name(room)) {
            listening.series = Some(series);
        }
    }

    /// A subscription has ended, of which everything up to `done` had to come; answers how much
    /// has not.
    pub(super) fn leave(&mut self, room: u32, done: u64) -> u64 {
        let listening = self.rooms.remove(&room_name(room));
        let series = listening.and_then(|listening| listening.series);
        series.map_or(0, |series| series.behind(done))
    }

    pub(super) fn event(&mut self, collection: &str, fields: &RawValue) {
        match collection {
            MESSAGES | ROOM | PRESENCE => {}
            _ => return,
        }
        if collection == PRESENCE {
            return self.presence(fields);
        }
        let Ok(fields) = serde_json::from_str::<Fields<'_>>(fields.get()) else {
            return self.board.tally().breach(
                self.person.number,
                &format!("an event without a body: {}", fields.get()),
            );
        };
        let args = fields.args.get();
        if collection == MESSAGES {
            if let Ok((said,)) = serde_json::from_str::<(Said,)>(args) {
                self.said(&fields.event_name, &said);
            }
        } else if let Some((room, "user-activity")) = fields.event_name.split_once('/')
            && let Ok((who, _, written)) =
                serde_json::from_str::<(Cow<'_, str>, IgnoredAny, Written)>(args)
        {
            self.written(room, &who, &written);
        }
    }

    fn said(&mut self, room: &str, said: &Said) {
        let board = self.board;
        let mut tally = board.tally();
        let traffic = &mut tally.traffic;
        let delay = board
            .elapsed()
            .saturating_sub(Duration::from_micros(said.at));
        traffic.delay.record(delay);
        let listening = self.rooms.get_mut(room);
        let Some(Listening {
            room: number,
            series: Some(series),
        }) = listening
        else {
            traffic.faults.strays += 1;
            let when = match self.rooms.contains_key(room) {
                true => "before it is ready",
                false => "when it is over",
            };
            let what = format!("number {} of {room} {when}", said.n);
            return tally.breach(self.person.number, &what);
        };
        let wrong = step(series, said.n, &mut traffic.faults);
        if let Some(wrong) = wrong {
            let what = format!("number {} of {room}: {wrong:?}", said.n);
            tally.breach(self.person.number, &what);
        }
        if said.last && self.habits.rooms.contains(number) {
            board.has_last();
        }
    }

    fn written(&mut self, room: &str, who: &str, written: &Written) {
        let Written { connection, n } = *written;
        let board = self.board;
        let mut tally = board.tally();
        if who == self.person.name() {
            tally.traffic.faults.echoes += 1;
            let what = format!("its own writing, number {n}");
            return tally.breach(self.person.number, &what);
        }
        tally.traffic.typed += 1;
        // The first that is heard of a connection may be any.
        let unheard = || Typist {
            connection,
            series: Series::from(u64::MAX),
        };
        let key = (room.to_owned(), who.to_owned());
        let typist = self.typists.entry(key).or_insert_with(unheard);
        if typist.connection != connection {
            *typist = unheard();
        }
        if let Some(wrong) = step(&mut typist.series, n, &mut tally.traffic.faults) {
            let what = format!("writing number {n} of {who} in {room}: {wrong:?}");
            tally.breach(self.person.number, &what);
        }
    }

    fn presence(&mut self, fields: &RawValue) {
        /// `[[name, status, text]]`.
        #[derive(Deserialize)]
        struct Presence<'a> {
            #[serde(borrow)]
            uid: Cow<'a, str>,
            #[serde(borrow)]
            args: [(Cow<'a, str>, u8, Cow<'a, str>); 1],
        }
        if !self.board.is_busy() {
            return;
        }
        let mut tally = self.board.tally();
        match serde_json::from_str::<Presence<'_>>(fields.get()) {
            Ok(Presence {
                uid,
                args: [(_, status, _)],
            }) => {
                match status {
                    1 => {
                        tally.traffic.blinks += 1;
                        self.blinking.insert(uid.into_owned());
                        return;
                    }
                    2 if self.blinking.remove(&*uid) => return,
                    _ => tally.traffic.faults.flaps += 1,
                }
                let what = format!("{uid} shown with status {status}");
                tally.breach(self.person.number, &what);
            }
            Err(error) => tally.breach(self.person.number, &format!("presence: {error}")),
        }
    }
}

/// Notes what is wrong about a number.
fn step(series: &mut Series, number: u64, faults: &mut Faults) -> Option<Step> {
    let step = series.hear(number);
    match step {
        Step::Next => return None,
        Step::Gap(count) => faults.lost += count,
        Step::Late => {
            faults.lost = faults.lost.saturating_sub(1);
            faults.disordered += 1;
        }
        Step::Again => faults.doubled += 1,
    }
    Some(step)
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::users::Kind;

    /// What user 3 makes of these events: name of the stream, and its body. It is in room 0, whose
    /// messages it hears from the third on.
    fn faults(events: &[(&str, serde_json::Value)]) -> (Faults, u64) {
        let habits = Habits {
            rooms: [0].into(),
            all_rooms: 2,
            watched: [4].into(),
            away: false,
            pause: Duration::from_secs(1),
        };
        let person = Person::new(3, Kind::Web, "demo-user3", "uid-user3", 2);
        let board = Board::new(2);
        for _ in 0..2 {
            board.publish(0, |_, _| {});
        }
        let mut hearing = Hearing::new(&person, &habits, &board);
        hearing.listen(0);
        hearing.listen(1);
        hearing.ready(0);
        board.set_busy(true);
        for (stream, fields) in events {
            hearing.event(stream, &to_raw_value(fields).unwrap());
        }
        let tally = board.take();
        (tally.traffic.faults, tally.breaches)
    }

    fn said(room: u32, n: u64) -> (&'static str, serde_json::Value) {
        let said = json!({ "n": n, "at": 0, "msg": "hello" });
        let fields = json!({ "eventName": room_name(room), "args": [said] });
        (MESSAGES, fields)
    }

    fn written(who: &str, connection: u64, n: u64) -> (&'static str, serde_json::Value) {
        let written = json!({ "connection": connection, "n": n });
        let fields = json!({
            "eventName": "crowd-0/user-activity",
            "args": [who, ["user-typing"], written],
        });
        (ROOM, fields)
    }

    fn shown(status: u8) -> (&'static str, serde_json::Value) {
        let fields = json!({ "uid": "uid-user4", "args": [["user4", status, ""]] });
        (PRESENCE, fields)
    }

    #[test]
    fn what_is_right_is_no_fault() {
        let events = [
            said(0, 3),
            said(0, 4),
            written("user4", 7, 12),
            written("user4", 7, 13),
            written("user4", 8, 1),
            written("user5", 9, 1),
            shown(1),
            shown(2),
        ];
        assert_eq!(faults(&events), (Faults::default(), 0));
    }

    #[test]
    fn each_fault_is_noticed() {
        let none = Faults::default;
        for (events, expected) in [
            (vec![said(0, 4)], Faults { lost: 1, ..none() }),
            (
                vec![said(0, 3), said(0, 3)],
                Faults {
                    doubled: 1,
                    ..none()
                },
            ),
            (
                vec![said(1, 1)],
                Faults {
                    strays: 1,
                    ..none()
                },
            ),
            (
                vec![written("user3", 1, 1)],
                Faults {
                    echoes: 1,
                    ..none()
                },
            ),
            (
                vec![written("user4", 1, 5), written("user4", 1, 5)],
                Faults {
                    doubled: 1,
                    ..none()
                },
            ),
            (vec![shown(0)], Faults { flaps: 1, ..none() }),
            (vec![shown(2)], Faults { flaps: 1, ..none() }),
        ] {
            assert_eq!(faults(&events), (expected, 1), "{events:?}");
        }
        let events = [said(0, 4), said(0, 3)];
        let expected = Faults {
            disordered: 1,
            ..none()
        };
        assert_eq!(faults(&events), (expected, 2));
    }
}
