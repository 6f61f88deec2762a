//! What has to be true: after every step, at each switch, and at the end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ddp_gateway::session::{LoginState, Phase, migration::Aborted};
use serde_json::Value;

use super::{
    bus::{Fields, Key, key_of},
    client::Instance,
    plan::{Fault, Obstacle},
    world::World,
};
use crate::ledger::messages;

impl World {
    pub(crate) fn check(&mut self) {
        if self.closed.is_some() {
            return;
        }
        let session = &self.wire.session;
        assert_eq!(session.is_moving(), self.moving.is_some());
        if let Some(moving) = &self.moving {
            let (since, longest) = match moving.reached {
                Some(reached) => (self.now - reached, LONGEST_MOVE),
                None => (self.now - moving.began, LONGEST_DIAL),
            };
            assert!(since <= longest + TICK, "moves for {since:?}");
        } else {
            assert!(!session.wants_switch(), "there is nothing to switch to");
        }
        self.check_held();
        let Some(journal) = self.wire.session.journal() else {
            return;
        };
        let half = self.wire.client_is_half_through() || !self.outbox.is_empty();
        if half || self.phase() != Phase::Live || self.wire.streamer_is_half_through() {
            return;
        }
        assert_eq!(journal.sub_count() as usize, self.client.open.len());
        let in_flight = journal.unanswered_methods() + journal.unseen();
        assert_eq!(in_flight as usize, self.client.in_flight());
    }

    /// Nothing waits for longer than it may.
    fn check_held(&mut self) {
        let waits = !self.wire.later.is_empty();
        let for_login = self.wire.session.login_state() == LoginState::Under;
        if !waits || for_login || self.phase() != Phase::Live {
            self.held = None;
            return;
        }
        assert!(self.moving.is_some(), "something waits for nothing");
        let since = self.now - *self.held.get_or_insert(self.now);
        assert!(since <= LONGEST_HOLD + TICK, "held for {since:?}");
    }

    /// The last move is so recent that the new leg may still bring what the old one has brought.
    pub(crate) fn settles(&self) -> bool {
        let (since, _) = *self.charge.last().expect("there is always one");
        self.charge.len() > 1 && self.now - since < LONGEST_SETTLING
    }

    /// Whether the session cannot be moved now.
    pub(crate) fn prevented(&self) -> bool {
        let session = &self.wire.session;
        let Some(journal) = session.journal().filter(|_| self.phase() == Phase::Live) else {
            return true;
        };
        let unknown = |name: &&str| *name == "stream-of-a-later-version";
        let mut names = self.client.open.values().map(|open| open.name);
        let untold = self.untold_token && journal.user().is_some();
        session.login_state() == LoginState::Under
            || names.any(|name| unknown(&name))
            || self.plan.obstacle == Some(Obstacle::Livechat)
            || untold
            || self.client.writes()
            || journal.overflowed()
            || journal.unseen() > 0
    }

    /// A message of the gateway reached a streamer.
    pub(crate) fn check_received(&mut self, number: usize, message: &Value) {
        let word = |key: &str| message[key].as_str().unwrap_or_default();
        let (msg, id) = (word("msg"), word("id"));
        let in_charge = number == self.leg();
        let Some(tag) = message["tag"].as_u64() else {
            if in_charge {
                assert!(matches!(msg, "ping" | "pong"), "{message} is nobody's");
            }
            if matches!(msg, "ping" | "method") {
                assert!(!self.client.uses(id), "{id} is the client's");
            }
            if !in_charge {
                self.check_shadow(number, message);
            }
            return;
        };
        assert!(
            in_charge || matches!(msg, "sub" | "unsub"),
            "{message} is not for a new leg"
        );
        if in_charge && matches!(msg, "method" | "sub" | "unsub") {
            let leg = &mut self.legs[number];
            assert!(tag > leg.last, "{tag} comes behind {}", leg.last);
            leg.last = tag;
        }
        if !in_charge {
            self.check_shadow(number, message);
        }
    }

    /// A new leg is told: login, presence, subscriptions in their order.
    fn check_shadow(&mut self, number: usize, message: &Value) {
        let word = |key: &str| message[key].as_str().unwrap_or_default();
        let (msg, id) = (word("msg"), word("id"));
        let logs_in = self.wire.session.moves_login();
        let leg = &mut self.legs[number];
        match msg {
            "ping" | "pong" => return,
            "method" if word("method") == "login" => {
                assert!(
                    leg.told.is_empty() && logs_in,
                    "login comes first, and once"
                );
            }
            "method" => {
                let presence = word("method").starts_with("UserPresence:");
                assert!(presence, "{message} is executed twice");
                assert!(!leg.told.is_empty(), "presence of nobody");
            }
            "sub" => {
                assert!(!logs_in || !leg.told.is_empty(), "{id} before the login");
                if let Some(tag) = message["params"][1]["args"][0].as_u64() {
                    // One that follows an earlier one with its id waits for the end of that.
                    let again = leg.told.iter().any(|told| told["id"] == id);
                    assert!(again || tag > leg.last_sub, "{id} out of its order");
                    leg.last_sub = leg.last_sub.max(tag);
                }
            }
            "unsub" => {
                let over = leg.answered.contains(id);
                assert!(over, "the unsub of {id} overtakes its sub");
            }
            other => panic!("{other} is not for a new leg"),
        }
        let away = self.client.away == Some(true);
        if leg.told.len() == 1 && logs_in && away {
            let presence = word("method") == "UserPresence:away";
            let changed = self.client.away_changed > self.moving_since();
            assert!(presence || changed, "away and told as {message}");
        }
        self.legs[number].told.push(message.clone());
    }

    fn moving_since(&self) -> Instant {
        let began = self.moving.as_ref().map(|moving| moving.began);
        began.unwrap_or(self.now)
    }

    /// The leg in charge brought `came`, and the client `got` this.
    pub(crate) fn check_passed(&mut self, number: usize, came: Vec<Value>, got: &[Value]) {
        let mut got = got.iter().peekable();
        for mut message in came {
            let private = message["msg"] == "pong"
                && message["id"]
                    .as_str()
                    .is_some_and(|id| !self.client.uses(id));
            if private {
                self.tally.pongs_swallowed += 1;
                continue;
            }
            let is_event = is_event(&message);
            // Of a leg that is over, as it is.
            if got.next_if_eq(&&message).is_some() {
                continue;
            }
            translate(&mut message, &self.names(), &self.client.session);
            if got.next_if_eq(&&message).is_some() {
                continue;
            }
            let is_document = is_document(&message);
            if is_document && self.legs[number].was_new() {
                // What the client has is not added again, but perhaps changed.
                got.next_if(|got| is_document && got["id"] == message["id"]);
                continue;
            }
            // What the leg before it had brought already.
            let owed = is_event && number > 0 && self.legs[number].was_new();
            assert!(
                owed,
                "the client does not get {message}, but {:?}",
                got.peek()
            );
            let (key, _) = key_of(&message);
            match key.ends_with(" me") {
                true => self.tally.echoes_dropped += 1,
                false => self.tally.switched_owed += 1,
            }
        }
        assert_eq!(got.next(), None, "the client gets what nobody sent");
    }

    /// Both legs are level.
    pub(crate) fn check_switch(&self, old: usize, new: usize) {
        let (old, new) = (&self.legs[old], &self.legs[new]);
        let asked = |message: &Value| {
            let asks = ["method", "sub", "unsub"].contains(&message["msg"].as_str().unwrap_or(""));
            asks || (message["msg"] == "ping" && !message["tag"].is_null())
        };
        assert!(
            old.queue.is_empty(),
            "the old leg has {:?} to do",
            old.queue
        );
        assert!(
            new.queue.is_empty(),
            "the new leg has {:?} to do",
            new.queue
        );
        for text in old.up.texts() {
            let message = old.read(text);
            assert!(!asked(&message), "{message} would be lost");
        }
        for text in old.down.texts() {
            for message in messages(self.plan.framing, text) {
                let answer = matches!(
                    message["msg"].as_str(),
                    Some("result" | "updated" | "ready" | "nosub")
                );
                assert!(!answer, "{message} would be lost");
            }
        }
        for sub in &old.subs {
            let zombie = self.instance(sub.tag).unsub.is_some();
            let there = new.subs.contains(sub) || new.refused.contains_key(&sub.id);
            assert!(there || zombie, "{sub:?} is not there");
        }
        for (collection, id) in &old.publishes {
            // The user's own comes some time after the login, also after the switch.
            let there = new.publishes.contains_key(collection)
                || new.refused.contains_key(id)
                || collection == "users";
            let zombie = self.plan.overtakes;
            assert!(there || zombie, "{collection} is not there");
        }
        match (&old.watch, &new.watch) {
            (Some(watch), None) => assert!(
                new.refused.contains_key(&watch.id) || self.plan.overtakes,
                "{watch:?} is not there"
            ),
            (old, new) => assert!(old == new || self.plan.overtakes, "{old:?} becomes {new:?}"),
        }
        assert_eq!(old.user, new.user, "another user");
        assert_eq!(old.away, new.away, "away is not what it was");
    }

    /// What the client is told at the switch.
    pub(crate) fn check_told(&mut self, new: usize, replies: &[Value]) {
        let leg = &self.legs[new];
        let mut brought = leg.events.iter();
        let (mut ahead, mut documents) = (0, 0);
        for message in replies {
            if is_event(message) {
                // The name of a leg that is over is left as it is.
                let mut told = message.clone();
                translate(&mut told, &self.names(), &self.client.session);
                let found = brought.any(|event| *event == told);
                assert!(
                    found,
                    "{message} is not of the new leg, or out of its order"
                );
                ahead += 1;
            } else if message["msg"] == "nosub" {
                let id = message["id"].as_str().expect("an id");
                let refused = leg.refused.contains_key(id);
                // The old leg has ignored an unsub that came before the sub was served.
                let ignored = self.client.open.get(id).is_some_and(|open| open.unsub);
                assert!(refused || ignored, "{id} is not refused");
            } else {
                let known = matches!(
                    message["msg"].as_str(),
                    Some("added" | "changed" | "removed")
                );
                assert!(known, "{message} at a switch");
                documents += 1;
                self.tally.switched_cleared += u64::from(message["cleared"].is_array());
            }
        }
        self.tally.switched_ahead += u64::from(ahead > 0);
        self.tally.switched_documents += u64::from(documents > 0);
    }

    /// The client has the documents of the new leg.
    pub(crate) fn check_switched(&self, new: usize) {
        let leg = &self.legs[new];
        self.check_documents(new, &leg.shown);
    }

    pub(crate) fn check_documents(&self, number: usize, shown: &BTreeMap<Key, Fields>) {
        let leg = &self.legs[number];
        let published = |key: &&Key| leg.publishes.contains_key(&key.0);
        for (key, fields) in shown {
            if published(&key) {
                let has = self.client.documents.get(key);
                let has = has.unwrap_or_else(|| panic!("{key:?} is not there"));
                assert!(fields == has, "{key:?} is {fields:?} and not {has:?}");
            }
        }
        for key in self.client.documents.keys().filter(published) {
            let left = self.client.stale.contains(&key.0);
            assert!(
                left || shown.contains_key(key),
                "{key:?} is not there any more"
            );
        }
    }

    /// What streamers have called the session.
    pub(crate) fn names(&self) -> Vec<String> {
        self.legs.iter().map(|leg| leg.session.clone()).collect()
    }

    /// The client is not told a name that only streamers know.
    pub(crate) fn check_named(&self, message: &Value) {
        let named = &message["fields"]["args"][0];
        let charge = &self.legs[self.leg()].session;
        let moving = self.wire.session.is_moving();
        let shadow = self.shadow.filter(|_| moving);
        let shadow = shadow.map(|leg| &self.legs[leg].session);
        let mut now = [Some(charge), shadow].into_iter().flatten();
        assert!(
            *named == self.client.session || now.all(|name| named != name),
            "{message} is for {}",
            self.client.session
        );
    }

    pub(crate) fn check_abandoned(&self, why: Aborted) {
        let Some(moving) = &self.moving else {
            panic!("{why:?} of what does not move");
        };
        let fault = moving.fault;
        let lost = matches!(
            fault,
            Some(Fault::DialFails | Fault::DialHangs | Fault::NewLost)
        );
        assert!(lost || why != Aborted::Unreachable, "{fault:?}");
        let login = matches!(fault, Some(Fault::LoginFails | Fault::LoginRefused));
        assert!(login || why != Aborted::LoginFailed, "{fault:?}");
        let refused = matches!(fault, Some(Fault::Refused(_)));
        assert!(refused || why != Aborted::SubRefused, "{fault:?}");
        // It may come when another move is under way.
        let much = |fault: &Option<Fault>| {
            matches!(fault, Some(Fault::Huge | Fault::Flood | Fault::Flooded))
        };
        let much = self.plan.faults.iter().any(much);
        assert!(
            much || why != Aborted::TooMuch || self.plan.large,
            "{fault:?}"
        );
    }

    fn instance(&self, tag: u64) -> &Instance {
        let mut instances = self.client.instances.iter();
        instances
            .find(|instance| instance.tag == tag)
            .expect("the client asked for it")
    }
}

fn is_document(message: &Value) -> bool {
    let published = matches!(
        message["msg"].as_str(),
        Some("added" | "changed" | "removed")
    );
    let collection = message["collection"].as_str().unwrap_or_default();
    published && !collection.starts_with("stream-")
}

pub(crate) fn is_event(message: &Value) -> bool {
    let collection = message["collection"].as_str().unwrap_or_default();
    message["msg"] == "changed" && collection.starts_with("stream-")
}

/// Names the client's session where a forced logout names one of its legs'.
pub(crate) fn translate(message: &mut Value, from: &[String], to: &str) {
    let event = message["fields"]["eventName"].as_str().unwrap_or_default();
    if is_event(message) && event.ends_with("/force_logout") {
        for arg in message["fields"]["args"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            if from.iter().any(|from| arg == from) {
                *arg = to.into();
            }
        }
    }
}

/// Timers are kept in milliseconds.
const TICK: Duration = Duration::from_millis(2);
/// Three generations, each with a round trip through sockets that lag.
const LONGEST_SETTLING: Duration = Duration::from_secs(20);
/// Until there is a new leg, and from there to the end.
const LONGEST_DIAL: Duration = Duration::from_secs(60);
const LONGEST_MOVE: Duration = Duration::from_secs(30);
const LONGEST_HOLD: Duration = Duration::from_secs(2);
