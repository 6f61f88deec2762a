//! The client: what it asks, and what it believes of what it gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use serde_json::{Value, json};

use super::{
    bus::{Fields, Key, key_of},
    tally::Tally,
};
use crate::client::quoted;

pub(crate) struct Client {
    tags: u64,
    calls: BTreeMap<String, Call>,
    /// Every sub that it has ever sent and that was not swallowed.
    pub(crate) instances: Vec<Instance>,
    /// By their ids, until their `nosub`.
    pub(crate) open: BTreeMap<String, Open>,
    pings: BTreeMap<String, u64>,
    pub(crate) documents: BTreeMap<Key, Fields>,
    /// Collections in which documents may be left from a subscription that has ended.
    pub(crate) stale: BTreeSet<String>,
    /// How often each event came.
    pub(crate) got: BTreeMap<String, usize>,
    last: BTreeMap<String, usize>,
    /// Whom it does not want to watch any more, everybody without a name, and since when.
    pub(crate) unwatched: Vec<(Option<String>, Instant)>,
    pub(crate) session: String,
    pub(crate) token: String,
    /// Its last word about its presence, and when that was.
    pub(crate) away: Option<bool>,
    pub(crate) away_changed: Instant,
    pub(crate) now: Instant,
    logins: u64,
}

#[derive(Debug)]
struct Call {
    leaves: bool,
    writes: bool,
    result: bool,
}

/// One sub: asked for, and what became of it on each leg.
pub(crate) struct Instance {
    pub(crate) tag: u64,
    pub(crate) id: String,
    pub(crate) stream: String,
    pub(crate) event: String,
    pub(crate) unsub: Option<Instant>,
    /// From when, and until when.
    pub(crate) legs: BTreeMap<usize, (Instant, Option<Instant>)>,
    pub(crate) refused: bool,
    /// When its `nosub` came.
    pub(crate) over: Option<Instant>,
    collects: bool,
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) name: &'static str,
    pub(crate) ready: bool,
    pub(crate) unsub: bool,
}

impl Client {
    pub(crate) fn new(session: &str, now: Instant) -> Self {
        Self {
            tags: 0,
            calls: BTreeMap::new(),
            instances: Vec::new(),
            open: BTreeMap::new(),
            pings: BTreeMap::new(),
            documents: BTreeMap::new(),
            stale: BTreeSet::new(),
            got: BTreeMap::new(),
            last: BTreeMap::new(),
            unwatched: Vec::new(),
            session: session.to_owned(),
            token: "good-0".to_owned(),
            away: None,
            away_changed: now,
            now,
            logins: 0,
        }
    }

    fn tag(&mut self) -> u64 {
        self.tags += 1;
        self.tags
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// It is logging out.
    pub(crate) fn leaves(&self) -> bool {
        self.calls.values().any(|call| call.leaves)
    }

    /// A write to a stream has no answer.
    pub(crate) fn writes(&self) -> bool {
        self.calls.values().any(|call| call.writes)
    }

    pub(crate) fn waits_for_pongs(&self) -> bool {
        self.pings.values().any(|count| *count > 0)
    }

    /// The token of one that has logged in is what it says at the next login, as apps do.
    pub(crate) fn login(&mut self, resumes: bool) -> String {
        self.logins += 1;
        let offered = match resumes {
            true => json!([{"resume": self.token}]),
            false => json!([{"user": {"username": "u"}, "password": {"digest": "d"}}]),
        };
        self.call("login", &offered)
    }

    pub(crate) fn call(&mut self, name: &str, params: &Value) -> String {
        let tag = self.tag();
        let id = format!("{tag}");
        let call = Call {
            leaves: name == "logout",
            writes: name.starts_with("stream-"),
            result: false,
        };
        self.calls.insert(id.clone(), call);
        match name {
            "UserPresence:online" => self.away = Some(false),
            "UserPresence:away" => self.away = Some(true),
            "logout" => self.away = None,
            _ => {}
        }
        if name.starts_with("UserPresence:") {
            self.away_changed = self.now;
        }
        let name = quoted(name);
        format!(r#"{{"msg":"method","id":"{id}","method":{name},"params":{params},"tag":{tag}}}"#)
    }

    /// A request so large that its id cannot be seen.
    pub(crate) fn unseen(&mut self) -> String {
        let pad = "x".repeat(70_000);
        let tag = self.tag();
        let call = Call {
            leaves: false,
            writes: false,
            result: false,
        };
        self.calls.insert(format!("{tag}"), call);
        format!(
            r#"{{"msg":"method","method":"sendMessage","params":["{pad}"],"tag":{tag},"id":"{tag}"}}"#
        )
    }

    /// A sub to this; `None` as its id is in use, and Meteor's server would do nothing.
    pub(crate) fn sub(
        &mut self,
        id: &str,
        name: &'static str,
        params: &Value,
        now: Instant,
    ) -> String {
        let tag = self.tag();
        let mut params = params.clone();
        let collects = params[1]["useCollection"] == true;
        if name == "stream-user-presence" {
            for uid in params[1]["removed"].as_array().into_iter().flatten() {
                let uid = uid.as_str().expect("an id").to_owned();
                self.unwatched.push((Some(uid), now));
            }
        } else if params[1].is_object() {
            params[1]["args"] = json!([tag]);
        }
        let event = params[0].as_str().unwrap_or_default().to_owned();
        let json = format!(
            r#"{{"msg":"sub","id":{},"name":"{name}","params":{params},"tag":{tag}}}"#,
            quoted(id)
        );
        if self.open.contains_key(id) {
            return json;
        }
        self.open.insert(
            id.to_owned(),
            Open {
                name,
                ready: false,
                unsub: false,
            },
        );
        self.instances.push(Instance {
            tag,
            id: id.to_owned(),
            stream: name.to_owned(),
            event,
            unsub: None,
            legs: BTreeMap::new(),
            refused: false,
            over: None,
            collects,
        });
        json
    }

    pub(crate) fn unsub(&mut self, id: &str, now: Instant) -> String {
        let tag = self.tag();
        if let Some(open) = self.open.get_mut(id) {
            open.unsub = true;
            if open.name == "stream-user-presence" {
                self.unwatched.push((None, now));
            }
            if !open.name.starts_with("stream-") {
                self.stale.insert(collection(open.name).to_owned());
            }
            let of_id = self.instances.iter_mut().rev();
            let instance = of_id.into_iter().find(|instance| instance.id == id);
            instance.expect("an open one is noted").unsub = Some(now);
        }
        format!(r#"{{"msg":"unsub","id":{},"tag":{tag}}}"#, quoted(id))
    }

    pub(crate) fn ping(&mut self) -> String {
        let tag = self.tag();
        *self.pings.entry(format!("p{tag}")).or_default() += 1;
        format!(r#"{{"msg":"ping","id":"p{tag}","tag":{tag}}}"#)
    }

    pub(crate) fn pong(&mut self) -> String {
        let tag = self.tag();
        format!(r#"{{"msg":"pong","tag":{tag}}}"#)
    }

    /// A message came. `switches`: what the session says at the moment of a switch.
    pub(crate) fn receive(
        &mut self,
        message: &Value,
        switches: bool,
        now: Instant,
        tally: &mut Tally,
    ) {
        let word = |key: &str| message[key].as_str().unwrap_or_default();
        let id = word("id");
        match word("msg") {
            "result" => {
                let call = self.calls.get_mut(id);
                let call = call.unwrap_or_else(|| panic!("result {id} was not asked for"));
                assert!(!call.result, "a second result {id}");
                call.result = true;
            }
            "updated" => {
                let methods = message["methods"].as_array().expect("ids");
                assert_eq!(methods.len(), 1, "one at a time");
                let id = methods[0].as_str().expect("an id");
                let call = self.calls.remove(id);
                let call = call.unwrap_or_else(|| panic!("updated {id} breaks clients"));
                assert!(call.result, "updated {id} before its result");
            }
            "ready" => {
                let subs = message["subs"].as_array().expect("ids");
                assert_eq!(subs.len(), 1, "one at a time");
                let id = subs[0].as_str().expect("an id");
                let open = self.open.get_mut(id);
                let open = open.unwrap_or_else(|| panic!("ready {id} was not asked for"));
                assert!(!open.ready, "a second ready {id}");
                open.ready = true;
            }
            "nosub" => {
                let open = self.open.remove(id);
                let open = open.unwrap_or_else(|| panic!("nosub {id} was not asked for"));
                let refused = !message["error"].is_null();
                let changed = open.name == "stream-user-presence" && !open.ready;
                assert!(
                    refused || open.unsub || changed,
                    "{id} ends without a reason"
                );
                assert!(
                    !(refused && open.ready) || switches,
                    "{id} was ready and is refused"
                );
                tally.refused_at_switch += u64::from(refused && switches);
                let of_id = self.instances.iter_mut().rev();
                let instance = of_id.into_iter().find(|instance| instance.id == id);
                let instance = instance.expect("an open one is noted");
                instance.refused |= refused;
                instance.over = Some(now);
            }
            "pong" => {
                let pings = self.pings.get_mut(id).filter(|pings| **pings > 0);
                *pings.unwrap_or_else(|| panic!("pong {id} was not asked for")) -= 1;
            }
            "ping" => assert!(id.is_empty(), "{id} is not for clients"),
            "added" | "changed" | "removed" => self.data(message, tally),
            other => panic!("{other:?} must not reach the client: {message}"),
        }
    }

    fn data(&mut self, message: &Value, tally: &mut Tally) {
        let word = |key: &str| message[key].as_str().unwrap_or_default();
        let (collection, id) = (word("collection"), word("id"));
        if collection.starts_with("stream-") {
            let event = message["fields"]["eventName"].as_str().unwrap_or(id);
            if word("msg") == "added" {
                let asked = self.instances.iter().filter(|instance| instance.collects);
                assert!(
                    asked.into_iter().any(|instance| instance.event == event),
                    "{message}"
                );
                *self.got.entry(format!("added {event}")).or_default() += 1;
                return;
            }
            let (key, number) = key_of(message);
            if let Some(number) = number {
                let name = format!("{collection} {event}");
                let last = self.last.entry(name).or_default();
                assert!(
                    number >= *last,
                    "{number} of {event} comes behind {last}: {message}"
                );
                *last = number;
            }
            *self.got.entry(key).or_default() += 1;
            tally.events += 1;
            return;
        }
        let key = (collection.to_owned(), id.to_owned());
        let fields: Fields = match &message["fields"] {
            Value::Null => Fields::new(),
            fields => serde_json::from_value(fields.clone()).expect("words"),
        };
        match word("msg") {
            "added" => {
                self.documents.insert(key, fields);
            }
            "changed" => {
                let document = self.documents.get_mut(&key);
                let document =
                    document.unwrap_or_else(|| panic!("{key:?} changes and is not there"));
                document.extend(fields);
                for name in message["cleared"].as_array().into_iter().flatten() {
                    document.remove(name.as_str().expect("a name"));
                }
            }
            _ => {
                self.documents.remove(&key);
            }
        }
    }

    /// How often subs asked for an `added` of their stream.
    pub(crate) fn collecting(&self, event: &str) -> usize {
        let asked = self.instances.iter();
        let asked = asked.filter(|instance| instance.collects && instance.event == event);
        asked.count()
    }

    /// Whether this id is one of its own, in methods or pings.
    pub(crate) fn uses(&self, id: &str) -> bool {
        let number = id.strip_prefix('p').unwrap_or(id);
        number
            .parse::<u64>()
            .is_ok_and(|number| number <= self.tags)
    }
}

/// In which a publication has its documents.
pub(crate) fn collection(name: &str) -> &str {
    match name {
        "meteor.loginServiceConfiguration" => "meteor_accounts_loginServiceConfiguration",
        other => other,
    }
}
