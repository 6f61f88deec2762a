//! What the two streamers do.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    bus::{Change, Fields, Key, Publication, USER, What},
    client::collection,
    leg::{Active, Refusal, Watch, Work},
    plan::Fault,
    world::{Event, World},
};

impl World {
    /// A text of the gateway is there.
    pub(crate) fn arrives(&mut self, leg: usize) {
        while !self.legs[leg].closed {
            let Some(text) = self.legs[leg].up.pop(self.now) else {
                return;
            };
            let message = self.legs[leg].read(&text);
            self.received(leg, message);
            self.begins_work(leg);
            self.flush(leg);
        }
    }

    fn received(&mut self, number: usize, message: Value) {
        let tag = message["tag"].as_u64();
        let word = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        let (msg, id) = (word("msg"), word("id"));
        self.check_received(number, &message);
        let leg = &mut self.legs[number];
        match msg.as_str() {
            "method" => leg.queue.push_back(Work {
                message,
                private: tag.is_none(),
            }),
            "sub" => {
                assert!(!leg.knows_sub(&id), "a second {id} would deliver twice");
                leg.queue.push_back(Work {
                    message,
                    private: tag.is_none(),
                });
            }
            // It overtakes its sub: ignored.
            "unsub" if self.plan.overtakes || !leg.waits(&id) => self.ends_sub(number, &id),
            "unsub" => leg.queue.push_back(Work {
                message,
                private: tag.is_none(),
            }),
            "ping" => leg.emit(json!({"msg": "pong", "id": id}).to_string()),
            "pong" => {}
            other => panic!("{other} must not reach a streamer"),
        }
    }

    fn ends_sub(&mut self, number: usize, id: &str) {
        let leg = &mut self.legs[number];
        let tag = leg.subs.iter().find(|sub| sub.id == id).map(|sub| sub.tag);
        leg.end_sub(id);
        leg.note_watched(self.now);
        if let Some(tag) = tag {
            let instances = &mut self.client.instances;
            let instance = instances.iter_mut().find(|instance| instance.tag == tag);
            let instance = instance.expect("the client asked for it");
            if let Some((_, until)) = instance.legs.get_mut(&number) {
                *until = Some(self.now);
            }
        }
    }

    /// Turns to what has waited longest.
    fn begins_work(&mut self, number: usize) {
        let leg = &self.legs[number];
        let Some(work) = leg.queue.front().filter(|_| !leg.works && !leg.closed) else {
            return;
        };
        let shadow = self.shadow == Some(number);
        let fault = self.moving.as_ref().and_then(|moving| moving.fault);
        let is_login = work.message["method"] == "login";
        let refusing = self.refusal(number, &work.message) == Some(Refusal::Silence);
        let hangs = (shadow && is_login && fault == Some(Fault::LoginHangs)) || refusing;
        let leg = &mut self.legs[number];
        leg.works = true;
        if hangs || (self.hanging == Some(number)) {
            return;
        }
        let (slow, percent) = self.plan.slow;
        let is_method = !is_login && leg.queue[0].message["msg"] == "method";
        let time = match is_method && self.plan.dice.chance(percent) {
            true => {
                self.tally.slow_methods += 1;
                self.plan.dice.time(slow)
            }
            false => self.plan.dice.time(Duration::from_millis(5)),
        };
        self.at(time, Event::Works(number));
    }

    /// Is done with it.
    pub(crate) fn works(&mut self, number: usize) {
        let leg = &mut self.legs[number];
        if leg.closed {
            return;
        }
        leg.works = false;
        let work = leg.queue.pop_front().expect("there is work");
        match work.message["msg"].as_str() {
            Some("method") => self.executes(number, &work),
            Some("sub") => self.subscribes(number, &work.message),
            _ => {
                let id = work.message["id"].as_str().expect("an id").to_owned();
                self.ends_sub(number, &id);
            }
        }
        self.begins_work(number);
        self.flush(number);
    }

    fn executes(&mut self, number: usize, work: &Work) {
        let message = &work.message;
        let id = message["id"].as_str().expect("an id").to_owned();
        if !work.private {
            let tag = message["tag"].as_u64().expect("the client's have numbers");
            assert!(
                tag > self.executed,
                "{tag} is executed twice, or behind {}",
                self.executed
            );
            self.executed = tag;
            self.tally.methods += 1;
        }
        let params = &message["params"];
        let mut outcome = r#","result":{"list":[1,2.50,"}"]}"#.to_owned();
        match message["method"].as_str().expect("a method") {
            "login" => outcome = self.logs_in(number, work),
            "logout" => {
                self.legs[number].user = None;
                self.at(Duration::from_millis(1), Event::Closes(number));
            }
            "UserPresence:online" => self.legs[number].away = false,
            "UserPresence:away" => self.legs[number].away = true,
            "stream-notify-room" => {
                let event = params[0].as_str().expect("an event").to_owned();
                let what = What::Typing {
                    name: "me".to_owned(),
                };
                self.publish_from(what, "stream-notify-room", event, Some(number));
                self.tally.writes_while_moving += u64::from(self.moving.is_some());
                outcome.clear();
            }
            "sendMessage" => outcome.clear(),
            _ => {}
        }
        self.legs[number].answer(&id, &outcome);
        self.legs[number].muted |= message["method"] == "logout";
    }

    fn logs_in(&mut self, number: usize, work: &Work) -> String {
        let error = |code: u64| {
            let error = json!({"isClientSafe": true, "error": code, "errorType": "Meteor.Error"});
            format!(r#","error":{error}"#)
        };
        let token = work.message["params"][0]["resume"].as_str();
        let fault = self.moving.as_ref().and_then(|moving| moving.fault);
        let shadow = self.shadow == Some(number);
        match fault {
            Some(Fault::LoginRefused) if shadow => return error(403),
            Some(Fault::LoginFails) if shadow => return error(500),
            _ => {}
        }
        let leg = &mut self.legs[number];
        let before = leg.user.replace(USER.to_owned());
        leg.away &= before.is_some();
        let mut result = json!({"id": USER, "type": "resume"});
        match token {
            Some(token) => {
                assert_eq!(token, self.client.token, "another token");
                self.untold_token = false;
                if !work.private && self.plan.dice.chance(50) {
                    self.client.token = format!("good-{number}");
                }
                result["token"] = self.client.token.clone().into();
            }
            None => self.untold_token = true,
        }
        let soon = self.plan.dice.time(Duration::from_millis(40));
        self.at(soon, Event::UserDocument(number));
        format!(r#","result":{result}"#)
    }

    /// The user's own document, some time after the login.
    pub(crate) fn shows_user(&mut self, number: usize) {
        let key: Key = ("users".to_owned(), USER.to_owned());
        let leg = &mut self.legs[number];
        if leg.closed || leg.user.is_none() {
            return;
        }
        let fields = self.stores[leg.streamer].get(&key);
        leg.publish(&key, fields);
        leg.publishes.insert(key.0, "(login)".to_owned());
        self.flush(number);
    }

    fn refusal(&self, number: usize, message: &Value) -> Option<Refusal> {
        if message["msg"] != "sub" {
            return None;
        }
        let id = message["id"].as_str().expect("an id");
        let leg = &self.legs[number];
        let (left, kind) = leg.refuses?;
        (left == 0 || leg.refused.contains_key(id)).then_some(kind)
    }

    fn subscribes(&mut self, number: usize, message: &Value) {
        let id = message["id"].as_str().expect("an id").to_owned();
        let name = message["name"].as_str().expect("a name").to_owned();
        let params = &message["params"];
        let event = params[0].as_str().unwrap_or_default().to_owned();
        let refusal = self.refusal(number, message);
        let differs = self.plan.differ;
        let leg = &mut self.legs[number];
        if let Some((left, _)) = &mut leg.refuses {
            *left = left.saturating_sub(1);
        }
        let unknown = name == "no.such.publication";
        let forbidden = event.starts_with("FORBIDDEN") && !(differs && leg.streamer == 1);
        let error = match refusal {
            Some(Refusal::NotAllowed) => Some(json!("not-allowed")),
            Some(Refusal::Unknown) => Some(json!(404)),
            Some(Refusal::Once | Refusal::Always) => Some(json!(500)),
            _ if unknown => Some(json!(404)),
            _ if forbidden => Some(json!("not-allowed")),
            _ => None,
        };
        if let Some(error) = error {
            match refusal {
                Some(Refusal::Always) => leg.refuses = Some((usize::MAX, Refusal::Always)),
                Some(_) => leg.refuses = None,
                None => {}
            }
            leg.refused.insert(id.clone(), error.clone());
            leg.refuse(&id, &error);
            return;
        }
        leg.refused.remove(&id);
        if name == "stream-user-presence" {
            self.watches(number, &id, &params[1]);
            return;
        }
        if !name.starts_with("stream-") {
            let collection = collection(&name).to_owned();
            leg.documents.retain(|key, _| key.0 != collection);
            leg.publishes.insert(collection.clone(), id.clone());
            let store = self.stores[leg.streamer].iter();
            let here = store.filter(|(key, _)| key.0 == collection);
            let here: Vec<(Key, Fields)> = here
                .map(|(key, fields)| (key.clone(), fields.clone()))
                .collect();
            for (key, fields) in here {
                leg.publish(&key, Some(&fields));
            }
            leg.ready(&id);
            return;
        }
        let tag = params[1]["args"][0]
            .as_u64()
            .expect("the number of the sub");
        let instances = &mut self.client.instances;
        let instance = instances.iter_mut().find(|instance| instance.tag == tag);
        let instance = instance.expect("the client asked for it");
        assert_eq!(
            (&instance.id, &instance.stream, &instance.event),
            (&id, &name, &event),
            "a sub that is not the client's"
        );
        let again = instance.legs.insert(number, (self.now, None));
        assert!(again.is_none(), "{id} comes twice to one leg");
        if params[1]["useCollection"] == true {
            leg.emit(
                json!({"msg": "added", "collection": name, "id": "id", "fields": {"eventName": event}})
                    .to_string(),
            );
        }
        leg.subs.push(Active {
            id: id.clone(),
            tag,
            stream: name,
            event,
        });
        leg.ready(&id);
    }

    fn watches(&mut self, number: usize, id: &str, change: &Value) {
        let leg = &mut self.legs[number];
        let first = leg.watch.is_none();
        let watch = leg.watch.get_or_insert_with(|| Watch {
            id: id.to_owned(),
            users: std::collections::BTreeSet::new(),
        });
        let who = |key: &str| {
            let who = change[key].as_array().into_iter().flatten();
            let who = who.map(|uid| uid.as_str().expect("an id").to_owned());
            who.collect::<Vec<_>>()
        };
        watch.users.extend(who("added"));
        for uid in who("removed") {
            watch.users.remove(&uid);
        }
        leg.note_watched(self.now);
        if first {
            leg.ready(id);
        } else {
            leg.emit(json!({"msg": "nosub", "id": id}).to_string());
        }
    }

    pub(crate) fn publish(&mut self, what: What, stream: &'static str, event: String) {
        self.publish_from(what, stream, event, None);
    }

    fn publish_from(
        &mut self,
        what: What,
        stream: &'static str,
        event: String,
        author: Option<usize>,
    ) {
        let name = match &what {
            What::Status { uid } => uid,
            _ => &event,
        };
        let there = self.bus.arrivals(name, self.now, &mut self.plan.dice);
        let number = self.bus.publications.len();
        self.bus.publications.push(Publication {
            what,
            stream,
            event,
            at: self.now,
            there,
            author,
            number,
        });
        for (streamer, at) in there.into_iter().enumerate() {
            self.when(at, Event::Bus(streamer, number));
        }
    }

    /// The bus brings an event to a streamer, which passes it on to who has asked for it.
    pub(crate) fn delivers(&mut self, streamer: usize, publication: usize) {
        let publication = &self.bus.publications[publication];
        for leg in &mut self.legs {
            if leg.closed || leg.streamer != streamer {
                continue;
            }
            if publication.author == Some(leg.number) {
                continue;
            }
            let times = match &publication.what {
                What::Status { uid } => {
                    let watch = leg.watch.as_ref();
                    usize::from(watch.is_some_and(|watch| watch.users.contains(uid)))
                }
                _ => {
                    let mut subs = leg.subs.iter();
                    let is = |sub: &&Active| {
                        sub.stream == publication.stream && sub.event == publication.event
                    };
                    subs.by_ref().filter(is).count()
                }
            };
            if times == 0 {
                continue;
            }
            let written = publication.written(streamer);
            for _ in 0..times {
                leg.emit(written.clone());
            }
        }
        self.flush_all();
    }

    pub(crate) fn change(&mut self, key: Key, fields: Option<Fields>) {
        let there = self.bus.arrivals(&key.1, self.now, &mut self.plan.dice);
        self.bus.changes.push(Change { key, fields });
        let number = self.bus.changes.len() - 1;
        for (streamer, at) in there.into_iter().enumerate() {
            self.when(at, Event::Document(streamer, number));
        }
    }

    /// The bus brings a new state of a document.
    pub(crate) fn changes(&mut self, streamer: usize, number: usize) {
        let Change { key, mut fields } = self.bus.changes[number].clone();
        if self.plan.differ
            && let Some(fields) = &mut fields
        {
            fields.insert("by".to_owned(), format!("{streamer}"));
        }
        match &fields {
            Some(fields) => self.stores[streamer].insert(key.clone(), fields.clone()),
            None => self.stores[streamer].remove(&key),
        };
        for leg in &mut self.legs {
            let here = leg.streamer == streamer && !leg.closed;
            if here && leg.publishes.contains_key(&key.0) {
                leg.publish(&key, fields.as_ref());
            }
        }
        self.flush_all();
    }

    fn flush_all(&mut self) {
        for leg in 0..self.legs.len() {
            self.flush(leg);
        }
    }

    /// What was written goes into the socket.
    pub(crate) fn flush(&mut self, number: usize) {
        let together = self.plan.batches && self.plan.dice.chance(60);
        let leg = &mut self.legs[number];
        if leg.closed {
            return;
        }
        for text in leg.flush(together) {
            let lag = self.plan.dice.time(self.plan.lag[leg.streamer]);
            let at = leg.down.push(text, self.now, lag);
            self.agenda.insert((at, self.next), Event::Down(number));
            self.next += 1;
        }
    }
}
