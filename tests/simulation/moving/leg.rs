//! One connection of the session to a streamer: both directions of its socket, and what the streamer knows of it.
//!
//! As `RocketChat/Rocket.Chat:ee/apps/ddp-streamer` does it: methods and subs one after the other, pings and unsubs at
//! once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use ddp_gateway::ddp::Framing;
use serde_json::{Value, json};

use super::{
    bus::{Fields, Key},
    checks::{is_event, translate},
};
use crate::client::quoted;

pub(crate) struct Leg {
    pub(crate) number: usize,
    /// Which of the two streamers.
    pub(crate) streamer: usize,
    /// The session id that this streamer gave.
    pub(crate) session: String,
    framing: Framing,
    pub(crate) up: Socket,
    pub(crate) down: Socket,
    pub(crate) queue: VecDeque<Work>,
    /// The first of the queue is being worked at.
    pub(crate) works: bool,
    pub(crate) subs: Vec<Active>,
    pub(crate) watch: Option<Watch>,
    pub(crate) user: Option<String>,
    pub(crate) away: bool,
    /// Documents that were sent.
    pub(crate) documents: BTreeMap<Key, Fields>,
    /// Collections whose changes are sent.
    pub(crate) publishes: BTreeMap<String, String>,
    /// Written and not sent.
    batch: Vec<String>,
    /// What it was told, for a look at a new leg.
    pub(crate) told: Vec<Value>,
    /// The refusal that comes at the sub after so many, and to which subs it came.
    pub(crate) refuses: Option<(usize, Refusal)>,
    pub(crate) refused: BTreeMap<String, Value>,
    pub(crate) closed: bool,
    /// The user has logged out: nothing more is said.
    pub(crate) muted: bool,
    /// The number of the client's last request that came here, and of the last sub while it was new.
    pub(crate) last: u64,
    pub(crate) last_sub: u64,
    /// What the session has read of it while it was new: events, documents, answered subs.
    pub(crate) events: Vec<Value>,
    pub(crate) shown: BTreeMap<Key, Fields>,
    pub(crate) answered: BTreeSet<String>,
    /// Whom it watched from when on.
    watched: Vec<(Instant, BTreeSet<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotAllowed,
    Unknown,
    /// Error 500, then no more.
    Once,
    Always,
    /// No answer, ever.
    Silence,
}

#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) message: Value,
    pub(crate) private: bool,
}

/// A subscription that delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) id: String,
    pub(crate) tag: u64,
    pub(crate) stream: String,
    pub(crate) event: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) id: String,
    pub(crate) users: BTreeSet<String>,
}

/// One direction: what is written now arrives later, in its order.
#[derive(Default)]
pub(crate) struct Socket {
    queue: VecDeque<(Instant, Vec<u8>)>,
    last: Option<Instant>,
}

impl Socket {
    /// Says when it arrives.
    pub(crate) fn push(&mut self, text: Vec<u8>, now: Instant, lag: Duration) -> Instant {
        let at = self.last.map_or(now + lag, |last| last.max(now + lag));
        self.last = Some(at);
        self.queue.push_back((at, text));
        at
    }

    /// Nothing gets through for so long.
    pub(crate) fn stall(&mut self, now: Instant, time: Duration) {
        self.last = Some(self.last.unwrap_or(now).max(now + time));
    }

    pub(crate) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (at, _) = self.queue.front()?;
        (*at <= now)
            .then(|| self.queue.pop_front())?
            .map(|(_, text)| text)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.iter().map(|(_, text)| text.as_slice())
    }
}

impl Leg {
    pub(crate) fn new(number: usize, streamer: usize, framing: Framing) -> Self {
        Self {
            number,
            streamer,
            session: format!("9f1b7c1{number}-5f0e-11ef-9a53-0242ac12000{streamer}"),
            framing,
            up: Socket::default(),
            down: Socket::default(),
            queue: VecDeque::new(),
            works: false,
            subs: Vec::new(),
            watch: None,
            user: None,
            away: false,
            documents: BTreeMap::new(),
            publishes: BTreeMap::new(),
            batch: Vec::new(),
            told: Vec::new(),
            refuses: None,
            refused: BTreeMap::new(),
            closed: false,
            muted: false,
            last: 0,
            last_sub: 0,
            events: Vec::new(),
            shown: BTreeMap::new(),
            answered: BTreeSet::new(),
            watched: Vec::new(),
        }
    }

    /// It was the new leg of a move.
    pub(crate) fn was_new(&self) -> bool {
        self.number > 0
    }

    /// The session reads this of the new leg.
    pub(crate) fn brought(&mut self, message: &Value, names: &[String], session: &str) {
        let word = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        if is_event(message) {
            let mut message = message.clone();
            translate(&mut message, names, session);
            return self.events.push(message);
        }
        let key = (word("collection"), word("id"));
        let fields: Fields = match &message["fields"] {
            Value::Object(_) => serde_json::from_value(message["fields"].clone()).expect("words"),
            _ => Fields::new(),
        };
        match message["msg"].as_str().unwrap_or_default() {
            "ready" => {
                let ids = message["subs"].as_array().expect("ids");
                let ids = ids.iter().filter_map(Value::as_str);
                self.answered.extend(ids.map(str::to_owned));
            }
            "nosub" => {
                self.answered.insert(word("id"));
            }
            "added" if !key.0.starts_with("stream-") => {
                self.shown.insert(key, fields);
            }
            "changed" => {
                let shown = self.shown.entry(key).or_default();
                shown.extend(fields);
                for name in message["cleared"].as_array().into_iter().flatten() {
                    shown.remove(name.as_str().expect("a name"));
                }
            }
            "removed" => {
                self.shown.remove(&key);
            }
            _ => {}
        }
    }

    /// Notes whom it watches now.
    pub(crate) fn note_watched(&mut self, now: Instant) {
        let users = self.watch.as_ref().map(|watch| watch.users.clone());
        self.watched.push((now, users.unwrap_or_default()));
    }

    pub(crate) fn watched(&self, uid: &str, at: Instant) -> bool {
        let before = self.watched.iter().rev().find(|(from, _)| *from <= at);
        before.is_some_and(|(_, users)| users.contains(uid))
    }

    /// Since when it has watched somebody without a break, if it does.
    pub(crate) fn watches_since(&self, uid: &str, at: Instant) -> Option<Instant> {
        let before = self.watched.iter().rev().filter(|(from, _)| *from <= at);
        let watched = before.take_while(|(_, users)| users.contains(uid));
        watched.last().map(|(from, _)| *from)
    }

    /// Unframes a text of the gateway, which must hold one message.
    pub(crate) fn read(&self, text: &[u8]) -> Value {
        let text = str::from_utf8(text).expect("the streamer reads UTF-8");
        let json: String = match self.framing {
            Framing::Raw => text.to_owned(),
            Framing::SockJs => {
                let mut messages: Vec<String> =
                    serde_json::from_str(text).expect("the streamer reads arrays of strings");
                assert_eq!(
                    messages.len(),
                    1,
                    "the streamer reads the first only: {text}"
                );
                messages.remove(0)
            }
        };
        serde_json::from_str(&json).expect("the streamer reads JSON")
    }

    /// Whether a subscription with this id is active or waits.
    pub(crate) fn knows_sub(&self, id: &str) -> bool {
        self.holds(id) || self.waits(id)
    }

    pub(crate) fn holds(&self, id: &str) -> bool {
        self.subs.iter().any(|sub| sub.id == id)
            || self.watch.as_ref().is_some_and(|watch| watch.id == id)
            || self.publishes.values().any(|sub| sub == id)
    }

    pub(crate) fn waits(&self, id: &str) -> bool {
        let is = |work: &Work| work.message["msg"] == "sub" && work.message["id"] == id;
        self.queue.iter().any(is)
    }

    /// `nosub` for a subscription that is active; whether it was.
    pub(crate) fn end_sub(&mut self, id: &str) -> bool {
        let held = self.holds(id);
        self.subs.retain(|sub| sub.id != id);
        self.watch.take_if(|watch| watch.id == id);
        self.publishes.retain(|_, sub| sub != id);
        if held {
            self.emit(json!({"msg": "nosub", "id": id}).to_string());
        }
        held
    }

    pub(crate) fn answer(&mut self, id: &str, outcome: &str) {
        let id = quoted(id);
        self.emit(format!(r#"{{"msg":"result","id":{id}{outcome}}}"#));
        self.emit(format!(r#"{{"msg":"updated","methods":[{id}]}}"#));
    }

    pub(crate) fn ready(&mut self, id: &str) {
        self.emit(format!(r#"{{"msg":"ready","subs":[{}]}}"#, quoted(id)));
    }

    pub(crate) fn refuse(&mut self, id: &str, error: &Value) {
        let error = json!({"isClientSafe": true, "error": error, "errorType": "Meteor.Error"});
        let id = quoted(id);
        self.emit(format!(r#"{{"msg":"nosub","id":{id},"error":{error}}}"#));
    }

    /// Sends a document as it is now: what of it is new to the client.
    pub(crate) fn publish(&mut self, key: &Key, fields: Option<&Fields>) {
        let (collection, id) = key;
        let before = self.documents.get(key).cloned();
        let message = match (before, fields) {
            (None, None) => return,
            (None, Some(fields)) => {
                json!({"msg": "added", "collection": collection, "id": id, "fields": fields})
            }
            (Some(_), None) => json!({"msg": "removed", "collection": collection, "id": id}),
            (Some(before), Some(fields)) => {
                let new = fields
                    .iter()
                    .filter(|(name, value)| before.get(*name) != Some(*value));
                let new: BTreeMap<_, _> = new.collect();
                let gone = before.keys().filter(|name| !fields.contains_key(*name));
                let cleared: Vec<_> = gone.collect();
                if new.is_empty() && cleared.is_empty() {
                    return;
                }
                let mut message = json!({"msg": "changed", "collection": collection, "id": id});
                if !new.is_empty() {
                    message["fields"] = json!(new);
                }
                if !cleared.is_empty() {
                    message["cleared"] = json!(cleared);
                }
                message
            }
        };
        match fields {
            Some(fields) => self.documents.insert(key.clone(), fields.clone()),
            None => self.documents.remove(key),
        };
        self.emit(message.to_string());
    }

    pub(crate) fn emit(&mut self, json: String) {
        if !self.closed && !self.muted {
            self.batch.push(json);
        }
    }

    /// Everything that was written, as texts: together if SockJS lets it and `together` says so.
    pub(crate) fn flush(&mut self, together: bool) -> Vec<Vec<u8>> {
        let batch = std::mem::take(&mut self.batch);
        match self.framing {
            Framing::Raw => batch.into_iter().map(String::into_bytes).collect(),
            // That there are several has to be seen in what a message is judged by.
            Framing::SockJs if together && batch.len() > 1 && batch[0].len() < 200 => {
                vec![sockjs(&batch)]
            }
            Framing::SockJs => batch.into_iter().map(|json| sockjs(&[json])).collect(),
        }
    }
}

fn sockjs(messages: &[String]) -> Vec<u8> {
    let quoted: Vec<String> = messages.iter().map(|json| quoted(json)).collect();
    format!("a[{}]", quoted.join(",")).into_bytes()
}
