//! What a client says after its transport has opened, without I/O: messages in, messages out.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use ddp_gateway::ddp::message;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    board::{Board, Pin, Standing},
    chance::Chance,
    crowd::Person,
    doing::Doing,
    kind::{Family, Rhythm},
    subscriptions::subscription,
};

/// One connection of one user.
pub(super) struct Dialogue<'a> {
    person: &'a Person,
    board: &'a Board,
    rhythm: Rhythm,
    /// When the TCP connection was begun.
    began: Instant,
    /// When the session before this one was lost.
    lost: Option<Instant>,
    connected: bool,
    login: Login,
    subs: Subs,
    pings: Pings,
    heard: Instant,
    /// SockJS arms its timer with the first message.
    heard_any: bool,
    busy: Option<Doing<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    Unsent,
    Sent(Instant),
    /// The result is here, `updated` is not.
    Answered {
        accepted: bool,
    },
    Updated {
        accepted: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Subs {
    sent: Option<Instant>,
    /// A bit for each that is unanswered.
    unanswered: u64,
}

#[derive(Clone, Copy, Debug)]
enum Pings {
    /// The next one is due then.
    Due(Instant),
    /// Sent; nothing was heard since then.
    Sent,
}

/// What the client does on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Ping,
    /// Gives up and closes with this code.
    GiveUp(u16),
}

/// A server's message as far as a client looks at it.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow, default)]
    msg: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    session: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    subs: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    methods: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    collection: Cow<'a, str>,
    #[serde(borrow)]
    fields: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    error: Value,
}

impl<'a> Dialogue<'a> {
    pub(super) fn new(
        person: &'a Person,
        board: &'a Board,
        began: Instant,
        lost: Option<Instant>,
        chance: Chance,
        now: Instant,
    ) -> Self {
        let rhythm = person.kind.rhythm();
        Self {
            busy: Doing::of(person, board, chance),
            person,
            board,
            rhythm,
            began,
            lost,
            connected: false,
            login: Login::Unsent,
            subs: Subs {
                sent: None,
                unanswered: 0,
            },
            pings: Pings::Due(now + rhythm.ping),
            heard: now,
            heard_any: false,
        }
    }

    /// What the client says first; `session` is that of its last connection.
    pub(super) fn open(&mut self, session: Option<&str>, say: &mut Vec<String>, now: Instant) {
        let mut connect = json!({
            "msg": "connect",
            "version": "1",
            "support": ["1", "pre2", "pre1"],
        });
        if let (Family::Web, Some(session)) = (self.person.kind.family(), session) {
            connect["session"] = json!(session);
        }
        say.push(connect.to_string());
        // Meteor's client waits for nothing: login, and the subs right behind it.
        if self.person.kind.family() == Family::Web {
            self.log_in(say, now);
            self.subscribe(say, now);
        }
    }

    /// A heartbeat of the layer below.
    pub(super) fn hear_heartbeat(&mut self, now: Instant) {
        self.heard = now;
        self.heard_any = true;
    }

    /// A message came in; answers the session's name when it is `connected`.
    pub(super) fn hear(
        &mut self,
        text: &str,
        say: &mut Vec<String>,
        pin: &mut Pin<'_>,
        now: Instant,
    ) -> Option<String> {
        self.hear_heartbeat(now);
        let silent = self.rhythm.ping_when_silent;
        if silent {
            self.pings = Pings::Due(now + self.rhythm.ping);
        }
        let Ok(incoming) = serde_json::from_str::<Incoming<'_>>(text) else {
            self.breach("a message is no JSON object");
            return None;
        };
        let id = incoming.id.as_deref();
        match &*incoming.msg {
            "connected" => return self.hear_connected(&incoming, say, pin, now),
            "ping" => say.push(message::pong(id)),
            "pong" if !silent => self.pings = Pings::Due(now + self.rhythm.ping),
            "result" => self.hear_result(id, &incoming, say, now),
            "changed" => {
                if let (Some(busy), Some(fields)) = (&mut self.busy, incoming.fields) {
                    busy.hear_event(&incoming.collection, fields);
                }
            }
            "updated" => {
                for id in &incoming.methods {
                    self.hear_updated(id);
                }
            }
            "ready" => {
                if incoming.subs.len() != 1 {
                    self.breach("ready does not name exactly one subscription");
                }
                for id in &incoming.subs {
                    self.hear_sub_answer(id, true, None, now);
                }
            }
            "nosub" => {
                let id = id.unwrap_or_default();
                self.hear_sub_answer(id, false, incoming.error.as_ref(), now);
            }
            _ => {}
        }
        self.stand(pin);
        if let (Some(busy), Standing::Settled) = (&mut self.busy, pin.standing()) {
            busy.settled(say, now);
        }
        None
    }

    fn hear_connected(
        &mut self,
        connected: &Incoming<'_>,
        say: &mut Vec<String>,
        pin: &mut Pin<'_>,
        now: Instant,
    ) -> Option<String> {
        if self.connected {
            self.breach("a second connected");
            return None;
        }
        self.connected = true;
        let took = now - self.began;
        self.board.tally().connected.record(took);
        match self.person.kind.family() {
            Family::Web => {}
            Family::ReactNative if self.person.logs_in => self.log_in(say, now),
            Family::ReactNative => self.subscribe(say, now),
            Family::Sdk => {
                self.log_in(say, now);
                self.subscribe(say, now);
            }
        }
        self.pings = Pings::Due(now + self.rhythm.ping);
        self.stand(pin);
        connected.session.as_deref().map(str::to_owned)
    }

    fn hear_result(
        &mut self,
        id: Option<&str>,
        incoming: &Incoming<'_>,
        say: &mut Vec<String>,
        now: Instant,
    ) {
        let fault = incoming.error.as_ref();
        let is_login = id == Some(self.login_id());
        if let (Some(busy), false) = (&mut self.busy, is_login) {
            if let Some(fault) = fault {
                let errors = &mut self.board.tally().errors;
                *errors.entry(("method", fault.name())).or_default() += 1;
            }
            return busy.hear_result(id, incoming.result, fault.is_some(), now);
        }
        let sent = match self.login {
            Login::Sent(sent) if is_login => sent,
            _ => return self.breach("a result that was not asked for, or a second one"),
        };
        let accepted = fault.is_none();
        self.login = Login::Answered { accepted };
        let mut tally = self.board.tally();
        tally.login.record(now - sent);
        tally.logins += u64::from(accepted);
        match fault {
            Some(fault) => *tally.errors.entry(("login", fault.name())).or_default() += 1,
            None => {
                if let Some(lost) = self.lost {
                    tally.back.record(now - lost);
                }
            }
        }
        drop(tally);
        if self.person.kind.family() == Family::ReactNative && accepted {
            self.subscribe(say, now);
        }
    }

    fn hear_updated(&mut self, id: &str) {
        match self.login {
            Login::Answered { accepted } if id == self.login_id() => {
                self.login = Login::Updated { accepted };
            }
            _ if self.busy.is_some() && id != self.login_id() => {
                if let Some(busy) = &mut self.busy {
                    busy.hear_updated(id);
                }
            }
            // Meteor's client throws.
            _ => self.breach("updated for an unknown method, or before its result"),
        }
    }

    fn hear_sub_answer(&mut self, id: &str, ready: bool, fault: Option<&Fault>, now: Instant) {
        let known = (0..self.subscriptions()).find(|n| self.sub_id(*n) == id);
        let bit = known.map_or(0, |n| 1_u64 << n);
        if self.subs.unanswered & bit == 0 {
            if let (Some(busy), None, None) = (&mut self.busy, known, fault)
                && busy.hear_sub_answer(id, ready, now)
            {
                return;
            }
            return self.breach("an answer to a sub that has none to come");
        }
        self.subs.unanswered &= !bit;
        let own = known.and_then(|n| n.checked_sub(self.person.subscriptions));
        if let (Some(busy), Some(own), true) = (&mut self.busy, own, ready) {
            busy.ready(own);
        }
        let mut tally = self.board.tally();
        if let Some(fault) = fault {
            *tally.errors.entry(("sub", fault.name())).or_default() += 1;
        }
        if let (0, Some(sent)) = (self.subs.unanswered, self.subs.sent) {
            tally.subscribed.record(now - sent);
        }
    }

    fn stand(&self, pin: &mut Pin<'_>) {
        let accepted = match self.login {
            Login::Unsent | Login::Sent(_) => None,
            Login::Answered { accepted } | Login::Updated { accepted } => Some(accepted),
        };
        let answered = self.subs.sent.is_some() && self.subs.unanswered == 0;
        pin.set(match accepted {
            _ if !self.connected => Standing::Parked,
            None if answered && !self.person.logs_in => Standing::Settled,
            None => Standing::Connected,
            Some(false) => Standing::Refused,
            Some(true) if answered && matches!(self.login, Login::Updated { .. }) => {
                Standing::Settled
            }
            Some(true) => Standing::LoggedIn,
        });
    }

    /// When [`Self::due`] wants to be asked.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let ping = match self.pings {
            Pings::Due(at) if self.connected => Some(at),
            _ => None,
        };
        let act = self.busy.as_ref().and_then(|busy| busy.next_timeout());
        [ping, self.dead_at(), act].into_iter().flatten().min()
    }

    fn dead_at(&self) -> Option<Instant> {
        if self.connected || !self.rhythm.from_connected {
            return Some(self.heard + self.rhythm.dead);
        }
        let limit = self.rhythm.unconnected_dead.filter(|_| self.heard_any)?;
        Some(self.heard + limit)
    }

    pub(super) fn due(&mut self, say: &mut Vec<String>, now: Instant) -> Option<Due> {
        if let Some(busy) = &mut self.busy {
            busy.due(say, now);
        }
        if self.dead_at().is_some_and(|dead| dead <= now) {
            return Some(Due::GiveUp(self.rhythm.close));
        }
        match self.pings {
            Pings::Due(at) if self.connected && at <= now => {
                self.pings = Pings::Sent;
                Some(Due::Ping)
            }
            _ => None,
        }
    }

    fn log_in(&mut self, say: &mut Vec<String>, now: Instant) {
        if !self.person.logs_in {
            return;
        }
        let login = json!({
            "msg": "method",
            "id": self.login_id(),
            "method": "login",
            "params": [{ "resume": self.person.token }],
        });
        say.push(login.to_string());
        self.login = Login::Sent(now);
    }

    fn subscribe(&mut self, say: &mut Vec<String>, now: Instant) {
        for n in 0..self.subscriptions() {
            let (name, params) = self.subscription(n);
            if let (Some(busy), Some(own)) =
                (&mut self.busy, n.checked_sub(self.person.subscriptions))
            {
                busy.subscribed(own);
            }
            let sub = json!({
                "msg": "sub",
                "id": self.sub_id(n),
                "name": name,
                "params": params,
            });
            say.push(sub.to_string());
            self.subs.unanswered |= 1 << n;
        }
        self.subs.sent = Some(now);
    }

    /// Those of the client, and behind them those of its user's habits.
    fn subscriptions(&self) -> u8 {
        self.person.subscriptions + self.person.own_subscriptions()
    }

    fn subscription(&self, n: u8) -> (&'static str, Value) {
        let own = n.checked_sub(self.person.subscriptions);
        own.and_then(|own| self.person.own_subscription(own))
            .unwrap_or_else(|| {
                let family = self.person.kind.family();
                subscription(family, usize::from(n), &self.person.user)
            })
    }

    fn login_id(&self) -> &'static str {
        match self.person.kind.family() {
            Family::Web => "1",
            Family::ReactNative => "ddp-1",
            Family::Sdk => "rc-ddp-client-1",
        }
    }

    /// The same on each connection, as with the real clients.
    fn sub_id(&self, n: u8) -> String {
        match self.person.kind.family() {
            Family::Web => format!("{n:02}{:015}", self.person.number),
            Family::ReactNative => format!("ddp-{}", n + 2),
            Family::Sdk => format!("rc-ddp-client-{}", n + 2),
        }
    }

    fn breach(&self, what: &str) {
        self.board.tally().breach(self.person.number, what);
    }
}

impl Fault {
    fn name(&self) -> String {
        let name = &self.error;
        name.as_str()
            .map_or_else(|| name.to_string(), str::to_owned)
    }
}

/// Subscriptions that a dialogue can tell apart.
pub(super) const MAX_SUBSCRIPTIONS: u8 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Kind;

    fn person(kind: Kind) -> Person {
        Person::new(3, kind, "demo-3", "uid-3", 2)
    }

    /// Says these in turn, and answers what the client said to each.
    fn talk(kind: Kind, lines: &[&str]) -> (Vec<Vec<String>>, Board, Standing) {
        let (person, board) = (person(kind), Board::new(0));
        let now = Instant::now();
        let mut dialogue = Dialogue::new(&person, &board, now, None, Chance::new(1), now);
        let mut pin = Pin::new(&board);
        let mut said = vec![Vec::new()];
        dialogue.open(Some("old"), &mut said[0], now);
        for line in lines {
            let mut say = Vec::new();
            dialogue.hear(line, &mut say, &mut pin, now);
            said.push(say);
        }
        let standing = pin.standing();
        drop(pin);
        drop(dialogue);
        let kinds = said.iter().map(|said| {
            said.iter()
                .map(|text| {
                    let message: Value = serde_json::from_str(text).unwrap_or_default();
                    message["msg"].as_str().unwrap_or_default().to_owned()
                })
                .collect()
        });
        (kinds.collect(), board, standing)
    }

    const CONNECTED: &str = r#"{"msg":"connected","session":"s"}"#;

    #[test]
    fn each_kind_keeps_its_order() {
        let (said, ..) = talk(Kind::Web, &[CONNECTED]);
        assert_eq!(said[0], ["connect", "method", "sub", "sub"]);
        assert_eq!(said[1], [""; 0]);
        let (said, ..) = talk(Kind::SDK, &[CONNECTED]);
        assert_eq!(said[0], ["connect"]);
        assert_eq!(said[1], ["method", "sub", "sub"]);
        let result = r#"{"msg":"result","id":"ddp-1","result":{}}"#;
        let (said, ..) = talk(Kind::ReactNative, &[CONNECTED, result]);
        assert_eq!(said[0], ["connect"]);
        assert_eq!(said[1], ["method"]);
        assert_eq!(said[2], ["sub", "sub"]);
    }

    #[test]
    fn a_user_is_settled_when_all_is_answered() {
        let lines = [
            CONNECTED,
            r#"{"msg":"result","id":"1","result":{"id":"uid-3"}}"#,
            r#"{"msg":"updated","methods":["1"]}"#,
            r#"{"msg":"ready","subs":["00000000000000003"]}"#,
            r#"{"msg":"nosub","id":"01000000000000003","error":{"error":"not-allowed"}}"#,
        ];
        let (_, board, standing) = talk(Kind::Web, &lines);
        assert_eq!(standing, Standing::Settled);
        let tally = board.take();
        assert_eq!((tally.logins, tally.breaches), (1, 0), "{tally}");
        assert_eq!(tally.errors_named("not-allowed"), 1);
        let (_, _, standing) = talk(Kind::Web, &lines[..4]);
        assert_eq!(standing, Standing::LoggedIn);
    }

    #[test]
    fn a_user_who_does_not_log_in_is_settled_without_it() {
        for kind in [Kind::Web, Kind::ReactNative, Kind::SDK] {
            let board = Board::new(0);
            let person = Person::new(3, kind, "", "", 0).without_login();
            let now = Instant::now();
            let mut dialogue = Dialogue::new(&person, &board, now, None, Chance::new(1), now);
            let mut pin = Pin::new(&board);
            let mut say = Vec::new();
            dialogue.open(None, &mut say, now);
            dialogue.hear(CONNECTED, &mut say, &mut pin, now);
            assert_eq!(say.len(), 1, "{say:?}");
            assert_eq!(pin.standing(), Standing::Settled);
        }
    }

    #[test]
    fn what_no_server_may_say_is_noticed() {
        for lines in [
            &[CONNECTED, CONNECTED][..],
            &[CONNECTED, r#"{"msg":"updated","methods":["1"]}"#],
            &[CONNECTED, r#"{"msg":"updated","methods":["7"]}"#],
            &[CONNECTED, r#"{"msg":"ready","subs":["x"]}"#],
            &["[1"],
        ] {
            let (_, board, _) = talk(Kind::Web, lines);
            assert_eq!(board.take().breaches, 1, "{lines:?}");
        }
    }

    #[test]
    fn silence_is_answered_as_each_kind_does() {
        for (kind, expected) in [
            (
                Kind::Web,
                [(17_500, Due::Ping), (32_500, Due::GiveUp(1000))],
            ),
            (
                Kind::ReactNative,
                [(10_000, Due::Ping), (20_000, Due::GiveUp(4000))],
            ),
            (
                Kind::SDK,
                [(30_000, Due::Ping), (60_000, Due::GiveUp(1000))],
            ),
        ] {
            let (person, board) = (person(kind), Board::new(0));
            let now = Instant::now();
            let mut dialogue = Dialogue::new(&person, &board, now, None, Chance::new(1), now);
            let mut pin = Pin::new(&board);
            dialogue.hear(CONNECTED, &mut Vec::new(), &mut pin, now);
            for (ms, due) in expected {
                let at = now + Duration::from_millis(ms);
                assert_eq!(dialogue.next_timeout(), Some(at), "{kind:?}");
                assert_eq!(dialogue.due(&mut Vec::new(), at), Some(due));
            }
        }
    }

    #[test]
    fn a_parked_client_waits_as_long_as_its_transport_lets_it() {
        let now = Instant::now();
        for (kind, limit) in [
            (Kind::Web, None),
            (Kind::ReactNative, Some(20)),
            (Kind::SDK, Some(60)),
        ] {
            let (person, board) = (person(kind), Board::new(0));
            let mut dialogue = Dialogue::new(&person, &board, now, None, Chance::new(1), now);
            let limit = limit.map(|seconds| now + Duration::from_secs(seconds));
            assert_eq!(dialogue.next_timeout(), limit, "{kind:?}");
            dialogue.hear_heartbeat(now);
            let limit = limit.unwrap_or(now + Duration::from_secs(100));
            assert_eq!(dialogue.next_timeout(), Some(limit));
        }
    }
}
