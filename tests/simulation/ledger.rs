//! What the client asked for, what became of it, and what the client was told: in plain maps.

use std::collections::BTreeMap;

use ddp_gateway::{
    ddp::Framing,
    session::{LoginState, Note, Phase, journal::Presence},
};
use serde_json::{Value, json};

use crate::{
    client::{Ask, What},
    dice::Dice,
    tally::Tally,
    wire::{Down, Up},
};

pub(crate) struct Ledger {
    framing: Framing,
    // As the client sees it.
    calls: BTreeMap<String, Calls>,
    subs: BTreeMap<String, Subs>,
    pings: BTreeMap<String, u32>,
    events: u64,
    // As the session has to see it.
    /// Methods without `result` or `updated`, in their order.
    in_flight: Vec<Call>,
    /// Subscriptions, and whether they are ready.
    pub(crate) open: BTreeMap<String, bool>,
    pub(crate) held_logins: Vec<String>,
    pub(crate) running_logins: Vec<String>,
    pub(crate) user: Option<String>,
    /// What the session may know as the user's token.
    pub(crate) tokens: Vec<Option<String>>,
    pub(crate) presence: Option<Presence>,
    /// The session was told of requests whose ids it does not know.
    pub(crate) blurred: bool,
}

#[derive(Default)]
struct Calls {
    sent: u32,
    results: u32,
    updated: u32,
}

#[derive(Default)]
struct Subs {
    pending: u32,
    active: u32,
}

/// A method in flight.
struct Call {
    id: String,
    what: What,
    token: String,
    /// There were other logins between its beginning and its end.
    among_others: bool,
    result: bool,
    updated: bool,
}

impl Ledger {
    pub(crate) fn new(framing: Framing) -> Self {
        Self {
            framing,
            calls: BTreeMap::new(),
            subs: BTreeMap::new(),
            pings: BTreeMap::new(),
            events: 0,
            in_flight: Vec::new(),
            open: BTreeMap::new(),
            held_logins: Vec::new(),
            running_logins: Vec::new(),
            user: None,
            tokens: vec![None],
            presence: None,
            blurred: false,
        }
    }

    pub(crate) fn finished_call(&self, dice: &mut Dice) -> Option<String> {
        self.some_call(dice, |calls| calls.updated == calls.sent)
    }

    pub(crate) fn open_call(&self, dice: &mut Dice) -> Option<String> {
        self.some_call(dice, |calls| calls.updated < calls.sent)
    }

    fn some_call(&self, dice: &mut Dice, is_wanted: impl Fn(&Calls) -> bool) -> Option<String> {
        let wanted = self
            .calls
            .iter()
            .filter(|(id, calls)| is_wanted(calls) && !id.starts_with("big"));
        let ids: Vec<_> = wanted.map(|(id, _)| id.clone()).collect();
        (!ids.is_empty()).then(|| dice.pick(&ids).clone())
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn login_state(&self) -> LoginState {
        match self.held_logins.is_empty() && self.running_logins.is_empty() {
            false => LoginState::Under,
            true if self.user.is_some() => LoginState::In,
            true => LoginState::Out,
        }
    }

    /// The session was asked about a message of the client.
    pub(crate) fn judged(&mut self, up: &Up, tally: &mut Tally) {
        let phase = up.phase.expect("the phase is known");
        let gone = matches!(phase, Phase::Orphaned | Phase::Closing(_) | Phase::Ended(_));
        if gone {
            assert!(
                up.now.is_empty() && up.later.is_empty() && up.replies.is_empty(),
                "{phase:?}: something still passes"
            );
            return;
        }
        if up.close.is_some() {
            // The last answers may still come, but none has to.
            for ask in &up.text.asks {
                self.expects_an_answer(ask);
            }
            return;
        }
        let now = tags(self.framing, &up.now);
        let later = tags(self.framing, &up.later);
        let mut replies = up.replies.iter().map(|json| parsed(json));
        for ask in &up.text.asks {
            let lane = match (now.contains(&ask.tag), later.contains(&ask.tag)) {
                (true, true) => panic!("{ask:?} passes twice"),
                (true, false) => Some(Lane::Now),
                (false, true) => Some(Lane::Later),
                (false, false) => None,
            };
            // Of the greeting's batch, only what is behind `connect` is judged in this phase.
            let live = phase == Phase::Live;
            self.judged_one(ask, lane, live, up, &mut replies, tally);
        }
        assert_eq!(replies.next(), None, "answers that nobody waits for");
        let passed = up.now.len() + up.later.len();
        assert!(passed <= up.text.asks.len(), "more passes than came");
    }

    /// The client sent this, and it was not swallowed.
    fn expects_an_answer(&mut self, ask: &Ask) {
        let id = ask.id.clone();
        match ask.what {
            What::Method | What::Login | What::Logout => {
                self.calls.entry(id).or_default().sent += 1;
            }
            What::Sub => self.subs.entry(id).or_default().pending += 1,
            What::Ping => *self.pings.entry(id).or_default() += 1,
            _ => {}
        }
    }

    fn judged_one(
        &mut self,
        ask: &Ask,
        lane: Option<Lane>,
        live: bool,
        up: &Up,
        replies: &mut impl Iterator<Item = Value>,
        tally: &mut Tally,
    ) {
        // What waits, waits in the client's order.
        let due = match self.held_logins.is_empty() {
            true => Lane::Now,
            false => Lane::Later,
        };
        let behind = due == Lane::Later && lane.is_some();
        match ask.what {
            What::Method | What::Login | What::Logout => {
                self.expects_an_answer(ask);
                tally.methods += 1;
                if lane.is_none() {
                    expect_limited(replies.next(), "result", &ask.id);
                    let updated = replies.next().expect("`updated` follows at once");
                    assert_eq!(updated["methods"][0], ask.id.as_str());
                    tally.limited_methods += 1;
                    tally.full_journal += u64::from(self.in_flight.len() >= METHODS_IN_FLIGHT);
                    return;
                }
                tally.held_behind += u64::from(behind);
                if ask.what == What::Login {
                    assert_eq!(lane, Some(Lane::Later), "no login without a turn");
                    self.begin_login(ask);
                } else {
                    assert_eq!(lane, Some(due), "{ask:?}");
                }
                self.begin_call(ask, up.oversized, tally);
            }
            What::Sub => {
                if self.open.contains_key(&ask.id) {
                    assert_eq!(lane, None, "{ask:?} is there already");
                    tally.swallowed_subs += 1;
                    return;
                }
                self.expects_an_answer(ask);
                tally.subs += 1;
                if lane.is_none() {
                    expect_limited(replies.next(), "nosub", &ask.id);
                    tally.limited_subs += 1;
                    return;
                }
                assert_eq!(lane, Some(due), "{ask:?}");
                tally.held_behind += u64::from(behind);
                self.blurred |= up.oversized;
                tally.oversized += u64::from(up.oversized);
                if !up.oversized {
                    self.open.insert(ask.id.clone(), false);
                }
            }
            What::Unsub => {
                let known = self.open.contains_key(&ask.id);
                assert_eq!(lane, known.then_some(due), "{ask:?}");
                if !known {
                    // As Meteor's server does it, and a streamer does not.
                    let nosub = replies.next().expect("a nosub");
                    assert_eq!(nosub, json!({"msg": "nosub", "id": ask.id}));
                    self.subs.entry(ask.id.clone()).or_default().pending += 1;
                    tally.unknown_unsubs += 1;
                }
            }
            What::Ping => {
                self.expects_an_answer(ask);
                if live {
                    // Whatever waits: who hears no pong gives up.
                    assert_eq!(lane, Some(Lane::Now), "{ask:?}");
                    tally.pings_while_held += u64::from(due == Lane::Later);
                } else {
                    let pong = replies.next().expect("a pong");
                    assert_eq!(pong["msg"], "pong");
                    assert_eq!(pong["id"], ask.id.as_str());
                    tally.pings_while_parked += 1;
                }
            }
            What::Pong | What::Other => assert_eq!(lane, live.then_some(Lane::Now), "{ask:?}"),
            What::Connect => assert_eq!(lane, None, "a second connect passes"),
        }
    }

    fn begin_login(&mut self, ask: &Ask) {
        let others = self.in_flight.iter_mut();
        let mut alone = true;
        for other in others.filter(|call| call.what == What::Login && !call.result) {
            other.among_others = true;
            alone = false;
        }
        self.held_logins.push(ask.id.clone());
        let text: Value = parsed(&ask.json);
        let token = text["params"][0]["resume"].as_str().expect("a token");
        self.in_flight.push(Call {
            id: ask.id.clone(),
            what: What::Login,
            token: token.to_owned(),
            among_others: !alone,
            result: false,
            updated: false,
        });
    }

    fn begin_call(&mut self, ask: &Ask, oversized: bool, tally: &mut Tally) {
        match ask.name {
            "UserPresence:online" if !oversized => self.presence = Some(Presence::Online),
            "UserPresence:away" if !oversized => self.presence = Some(Presence::Away),
            _ => {}
        }
        if ask.what == What::Login {
            return;
        }
        tally.oversized += u64::from(oversized);
        let reused = self.in_flight.iter().any(|call| call.id == ask.id);
        tally.reused_in_flight += u64::from(reused);
        self.blurred |= oversized;
        if oversized {
            return;
        }
        self.in_flight.push(Call {
            id: ask.id.clone(),
            what: ask.what,
            token: String::new(),
            among_others: false,
            result: false,
            updated: false,
        });
    }

    /// The client may log in: what was held goes on.
    pub(crate) fn released(&mut self, tally: &mut Tally) {
        assert!(
            self.running_logins.is_empty(),
            "a second login while one is unanswered"
        );
        tally.turns += 1;
        self.running_logins.append(&mut self.held_logins);
    }

    /// The session was asked about a message of the streamer.
    pub(crate) fn fed(&mut self, down: &Down, tally: &mut Tally) {
        let unread = down.judged.len() > ASSEMBLE_BYTES;
        for message in messages(self.framing, &down.judged) {
            let id = message["id"].as_str().unwrap_or_default();
            match message["msg"].as_str().unwrap_or_default() {
                "result" => self.fed_result(id, &message, unread, tally),
                "updated" => {
                    for id in ids(&message, "methods") {
                        self.fed_updated(&id);
                    }
                }
                "ready" => {
                    for id in ids(&message, "subs") {
                        self.open.entry(id).and_modify(|ready| *ready = true);
                    }
                }
                "nosub" => {
                    self.open.remove(id);
                }
                _ => {}
            }
        }
        let unasked = down.notes.iter().filter(|note| **note == Note::Unasked);
        tally.unasked += unasked.count() as u64;
    }

    fn fed_result(&mut self, id: &str, message: &Value, unread: bool, tally: &mut Tally) {
        let calls = &mut self.in_flight;
        let Some(place) = calls.iter().position(|call| call.id == id && !call.result) else {
            return;
        };
        let call = &mut calls[place];
        call.result = true;
        let (what, done) = (call.what, call.updated);
        if what == What::Login {
            let token = std::mem::take(&mut call.token);
            let others = call.among_others;
            let running = self.running_logins.iter().position(|login| login == id);
            self.running_logins
                .remove(running.expect("answered before its turn"));
            self.fed_login(message, unread, token, others, tally);
        }
        if what == What::Logout {
            tally.logged_out += 1;
            self.log_out();
        }
        if done {
            self.in_flight.remove(place);
        }
    }

    fn fed_login(
        &mut self,
        message: &Value,
        unread: bool,
        offered: String,
        others: bool,
        tally: &mut Tally,
    ) {
        let code = message["error"]["error"].as_u64();
        match (code, message["result"]["id"].as_str()) {
            _ if unread => tally.login_failed += 1,
            (Some(403), _) => {
                tally.login_refused += 1;
                self.log_out();
            }
            (None, Some(user)) => {
                tally.logged_in += 1;
                self.user = Some(user.to_owned());
                self.tokens = match message["result"]["token"].as_str() {
                    Some(token) => vec![Some(token.to_owned())],
                    None if others => vec![Some(offered), None],
                    None => vec![Some(offered)],
                };
            }
            _ => tally.login_failed += 1,
        }
    }

    fn log_out(&mut self) {
        self.user = None;
        self.tokens = vec![None];
        self.presence = None;
    }

    fn fed_updated(&mut self, id: &str) {
        let calls = &mut self.in_flight;
        if let Some(place) = calls.iter().position(|call| call.id == id && call.result) {
            calls.remove(place);
        } else if let Some(call) = calls.iter_mut().find(|call| call.id == id && !call.updated) {
            call.updated = true;
        }
    }

    /// The client gets a text.
    pub(crate) fn delivered(&mut self, text: &[u8]) {
        for message in messages(self.framing, text) {
            let id = message["id"].as_str().unwrap_or_default();
            match message["msg"].as_str().unwrap_or_default() {
                "result" => {
                    let calls = self.calls.get_mut(id);
                    let calls = calls.unwrap_or_else(|| panic!("result {id} was not asked for"));
                    calls.results += 1;
                    assert!(calls.results <= calls.sent, "one result too many for {id}");
                }
                "updated" => {
                    let ids = ids(&message, "methods");
                    assert_eq!(ids.len(), 1, "one at a time: {ids:?}");
                    let calls = self.calls.get_mut(&ids[0]);
                    let calls = calls.unwrap_or_else(|| panic!("updated {ids:?} breaks clients"));
                    calls.updated += 1;
                    assert!(
                        calls.updated <= calls.results,
                        "updated before result: {ids:?}"
                    );
                }
                "ready" => {
                    let ids = ids(&message, "subs");
                    assert_eq!(ids.len(), 1, "one at a time: {ids:?}");
                    let subs = self.subs.get_mut(&ids[0]).filter(|subs| subs.pending > 0);
                    let subs = subs.unwrap_or_else(|| panic!("ready {ids:?} was not asked for"));
                    subs.pending -= 1;
                    subs.active += 1;
                }
                "nosub" => {
                    let limited = message["error"]["error"] == "too-many-requests";
                    let subs = self.subs.get_mut(id);
                    let subs = subs.unwrap_or_else(|| panic!("nosub {id} was not asked for"));
                    let count = match subs.active > 0 && !limited {
                        true => &mut subs.active,
                        false => &mut subs.pending,
                    };
                    assert!(*count > 0, "one nosub too many for {id}");
                    *count -= 1;
                }
                "pong" => {
                    let pings = self.pings.get_mut(id).filter(|pings| **pings > 0);
                    *pings.unwrap_or_else(|| panic!("pong {id} was not asked for")) -= 1;
                }
                "changed" => {
                    self.events += 1;
                    assert_eq!(
                        message["seq"], self.events,
                        "an event is lost or twice there"
                    );
                }
                "ping" => {}
                other => panic!("{other:?} must not reach the client: {message}"),
            }
        }
    }

    /// Everything that was asked for is answered, by an `active` number of subscriptions at the streamer.
    pub(crate) fn expect_settled(&self, active: usize) {
        for (id, calls) in &self.calls {
            let answers = (calls.results, calls.updated);
            assert_eq!(
                answers,
                (calls.sent, calls.sent),
                "results and updated of {id:?}"
            );
        }
        let mut sum = 0;
        for (id, subs) in &self.subs {
            assert_eq!(subs.pending, 0, "{id:?} waits for ready or nosub");
            sum += subs.active as usize;
        }
        assert_eq!(sum, active, "active subscriptions");
        let waiting: Vec<_> = self.pings.iter().filter(|(_, count)| **count > 0).collect();
        assert!(waiting.is_empty(), "no pong for {waiting:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Now,
    Later,
}

fn expect_limited(reply: Option<Value>, msg: &str, id: &str) {
    let reply = reply.unwrap_or_else(|| panic!("{id} neither passes nor is it answered"));
    assert_eq!((&reply["msg"], &reply["id"]), (&msg.into(), &id.into()));
    assert_eq!(reply["error"]["error"], "too-many-requests");
    assert!(
        reply["error"]["details"]["timeToReset"].as_u64() > Some(0),
        "{reply}"
    );
}

/// The numbers of the messages in these texts for the streamer.
fn tags(framing: Framing, texts: &[Vec<u8>]) -> Vec<u64> {
    let read = |text: &Vec<u8>| match framing {
        Framing::Raw => parsed(str::from_utf8(text).expect("text")),
        Framing::SockJs => {
            let quoted: Vec<String> = serde_json::from_slice(text).expect("an array of strings");
            parsed(&quoted[0])
        }
    };
    let tags = texts.iter().map(|text| read(text)["tag"].as_u64());
    tags.map(|tag| tag.expect("every message has its number"))
        .collect()
}

/// The messages in a text for the client.
pub(crate) fn messages(framing: Framing, text: &[u8]) -> Vec<Value> {
    let text = str::from_utf8(text).expect("text");
    match framing {
        _ if text.is_empty() || text == "h" => Vec::new(),
        Framing::Raw => vec![parsed(text)],
        Framing::SockJs => {
            let array = text.strip_prefix('a').expect("a SockJS frame");
            let quoted: Vec<String> = serde_json::from_str(array).expect("an array of strings");
            quoted.iter().map(|json| parsed(json)).collect()
        }
    }
}

fn ids(message: &Value, key: &str) -> Vec<String> {
    let ids = message[key].as_array().into_iter().flatten();
    ids.map(|id| id.as_str().expect("an id").to_owned())
        .collect()
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// As the journal has them, and the relay.
const METHODS_IN_FLIGHT: usize = 256;
const ASSEMBLE_BYTES: usize = 64 * 1024;
