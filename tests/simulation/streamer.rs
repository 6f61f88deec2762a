//! What the streamer does: as `RocketChat/Rocket.Chat:ee/apps/ddp-streamer` does it, and what it should not.

use std::collections::{BTreeSet, VecDeque};

use ddp_gateway::ddp::Framing;
use serde_json::{Value, json};

use crate::{client::quoted, dice::Dice, plan::Nasty, tally::Tally};

pub(crate) struct Streamer {
    framing: Framing,
    nasty: Nasty,
    /// Methods and subscriptions, one after the other.
    queue: VecDeque<Work>,
    active: BTreeSet<String>,
    /// The subscription that the presence of others belongs to.
    presence: Option<String>,
    /// On their way to the gateway.
    pub(crate) down: VecDeque<Vec<u8>>,
    /// Small messages that go together.
    batch: Vec<String>,
    ready_together: Vec<String>,
    updated_together: Vec<String>,
    last_tag: u64,
    last_ping: u64,
    events: u64,
    ghosts: u64,
    /// It closes the socket when everything is sent.
    pub(crate) closes: bool,
}

enum Work {
    Call {
        id: String,
        name: String,
        token: String,
    },
    Sub {
        id: String,
        name: String,
    },
}

impl Streamer {
    pub(crate) fn new(framing: Framing, nasty: Nasty) -> Self {
        Self {
            framing,
            nasty,
            queue: VecDeque::new(),
            active: BTreeSet::new(),
            presence: None,
            down: VecDeque::new(),
            batch: Vec::new(),
            ready_together: Vec::new(),
            updated_together: Vec::new(),
            last_tag: 0,
            last_ping: 0,
            events: 0,
            ghosts: 0,
            closes: false,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.down.is_empty() && self.nothing_is_kept()
    }

    /// Everything up to the answer to `logout` is sent; what came behind it is left alone.
    pub(crate) fn is_idle_after_logout(&self) -> bool {
        self.down.is_empty() && self.nothing_is_kept()
    }

    fn nothing_is_kept(&self) -> bool {
        self.batch.is_empty() && self.ready_together.is_empty() && self.updated_together.is_empty()
    }

    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }

    /// A text of the gateway. What is asked for has to come in the client's order, each once.
    pub(crate) fn receive(&mut self, text: &[u8]) {
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
        let message: Value = serde_json::from_str(&json).expect("the streamer reads JSON");
        let word = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        let tag = message["tag"]
            .as_u64()
            .expect("every message has its number");
        let (msg, id) = (word("msg"), word("id"));
        match msg.as_str() {
            "method" | "sub" | "unsub" => {
                assert!(
                    tag > self.last_tag,
                    "{msg} {tag} comes behind {}",
                    self.last_tag
                );
                self.last_tag = tag;
            }
            "ping" => {
                assert!(tag > self.last_ping, "ping {tag} overtakes");
                self.last_ping = tag;
            }
            "pong" | "disconnect" => {}
            _ => panic!("{msg} must not reach the streamer"),
        }
        match msg.as_str() {
            "method" => self.queue.push_back(Work::Call {
                id,
                name: word("method"),
                token: message["params"][0]["resume"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            }),
            "sub" => {
                let same =
                    |work: &Work| matches!(work, Work::Sub { id: other, .. } if *other == id);
                assert!(
                    !self.active.contains(&id) && !self.queue.iter().any(same),
                    "a second subscription {id} would deliver twice"
                );
                let name = word("name");
                self.queue.push_back(Work::Sub { id, name });
            }
            "unsub" => {
                self.flush();
                if self.active.remove(&id) {
                    self.presence.take_if(|main| *main == id);
                    self.emit(&json!({"msg": "nosub", "id": id}).to_string());
                }
            }
            "ping" => self.emit(&json!({"msg": "pong", "id": id}).to_string()),
            _ => {}
        }
    }

    /// Answers what has waited longest.
    pub(crate) fn work(&mut self, dice: &mut Dice, tally: &mut Tally) {
        // Whoever has logged out is not served any more.
        let next = match self.closes {
            true => None,
            false => self.queue.pop_front(),
        };
        match next {
            Some(Work::Call { id, name, token }) => {
                let outcome = outcome(&id, &name, &token);
                self.answer_call(&id, &outcome, dice, tally);
                self.closes |= name == "logout";
            }
            Some(Work::Sub { id, name }) => self.answer_sub(id, &name, dice, tally),
            None => {}
        }
        if self.nasty.grouped && dice.chance(40) {
            self.flush_together();
        }
        if dice.chance(30) {
            self.flush_batch();
        }
    }

    fn answer_call(&mut self, id: &str, outcome: &str, dice: &mut Dice, tally: &mut Tally) {
        let pad = match self.nasty.large && dice.chance(15) {
            true => format!(
                r#","pad":"{}""#,
                "y".repeat(*dice.pick(&[600, 5_000, 70_000]))
            ),
            false => String::new(),
        };
        let (id_text, updated) = (
            quoted(id),
            format!(r#"{{"msg":"updated","methods":[{}]}}"#, quoted(id)),
        );
        let result = match self.nasty.msg_last && dice.chance(40) {
            true => format!(
                r#"{{{outcome},"pad2":"{}","id":{id_text},"msg":"result"}}"#,
                "z".repeat(700)
            ),
            false => format!(r#"{{"msg":"result","id":{id_text},{outcome}{pad}}}"#),
        };
        // One whose id nobody reads cannot be told from the answer to the next.
        let repeats = self.nasty.repeats && pad.is_empty() && dice.chance(30);
        tally.repeats += u64::from(repeats);
        let times = if repeats { 2 } else { 1 };
        if self.nasty.updated_first && dice.chance(40) {
            tally.early_updated += 1;
            for _ in 0..times {
                self.emit(&updated);
            }
            for _ in 0..times {
                self.emit(&result);
            }
            return;
        }
        for _ in 0..times {
            self.emit(&result);
        }
        if self.nasty.grouped && dice.chance(60) {
            self.updated_together.push(id.to_owned());
            return;
        }
        for _ in 0..times {
            self.emit(&updated);
        }
    }

    fn answer_sub(&mut self, id: String, name: &str, dice: &mut Dice, tally: &mut Tally) {
        let quirk = name == "stream-user-presence" && self.presence.is_some();
        tally.presence_quirk += u64::from(quirk);
        if quirk {
            self.emit(&json!({"msg": "nosub", "id": id}).to_string());
            return;
        }
        let error = match name {
            "no.such.publication" => Some(json!(404)),
            "stream-notify-room" if dice.chance(20) => Some(json!("not-allowed")),
            _ => None,
        };
        if let Some(error) = error {
            let error = json!({"error": error, "errorType": "Meteor.Error"});
            self.emit(&format!(
                r#"{{"msg":"nosub","id":{},"error":{error}}}"#,
                quoted(&id)
            ));
            return;
        }
        if name == "stream-user-presence" {
            self.presence = Some(id.clone());
        }
        self.active.insert(id.clone());
        if self.nasty.grouped && dice.chance(60) {
            self.ready_together.push(id);
            return;
        }
        let times = if self.nasty.repeats && dice.chance(30) {
            2
        } else {
            1
        };
        for _ in 0..times {
            self.emit(&format!(r#"{{"msg":"ready","subs":[{}]}}"#, quoted(&id)));
        }
    }

    /// What it says without being asked.
    pub(crate) fn chat(&mut self, dice: &mut Dice, tally: &mut Tally) {
        match dice.below(10) {
            0..6 => {
                self.events += 1;
                let size = *dice.pick(&[0, 0, 0, 30, 900, 30_000]);
                let seq = self.events;
                self.emit(&format!(
                    r#"{{"msg":"changed","collection":"stream-notify-user","id":"id","seq":{seq},"fields":{{"args":["{}"]}}}}"#,
                    "e".repeat(size)
                ));
            }
            6 => self.emit(r#"{"msg":"ping"}"#),
            7 | 8 if self.nasty.ghosts => {
                tally.ghosts += 1;
                self.ghosts += 1;
                let ghost = format!("ghost{}", self.ghosts);
                self.emit(&match dice.below(5) {
                    0 => format!(r#"{{"msg":"updated","methods":["{ghost}"]}}"#),
                    1 => format!(r#"{{"msg":"updated","methods":["{ghost}","g","h"]}}"#),
                    2 => format!(r#"{{"msg":"ready","subs":["{ghost}"]}}"#),
                    3 => format!(r#"{{"msg":"nosub","id":"{ghost}"}}"#),
                    _ => format!(r#"{{"msg":"result","id":"{ghost}","result":1}}"#),
                });
            }
            9 if self.nasty.greets_again => {
                tally.greeted_again += 1;
                let greetings = [
                    r#"{"msg":"connected","session":"another"}"#,
                    r#"{"server_id":"0"}"#,
                    r#"{"msg":"server_id","server_id":"0"}"#,
                ];
                self.emit(greetings[dice.below(greetings.len())]);
            }
            _ => {}
        }
    }

    /// Sends what was kept to go together.
    pub(crate) fn flush(&mut self) {
        self.flush_together();
        self.flush_batch();
    }

    fn flush_together(&mut self) {
        for (msg, key, ids) in [
            ("ready", "subs", std::mem::take(&mut self.ready_together)),
            (
                "updated",
                "methods",
                std::mem::take(&mut self.updated_together),
            ),
        ] {
            if !ids.is_empty() {
                let ids = serde_json::to_string(&ids).expect("strings can be written");
                self.emit(&format!(r#"{{"msg":"{msg}","{key}":{ids}}}"#));
            }
        }
    }

    fn flush_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let quoted: Vec<String> = self.batch.drain(..).map(|json| quoted(&json)).collect();
        self.down
            .push_back(format!("a[{}]", quoted.join(",")).into_bytes());
    }

    fn emit(&mut self, json: &str) {
        match self.framing {
            Framing::Raw => self.down.push_back(json.as_bytes().to_vec()),
            Framing::SockJs => {
                // That there are several has to be seen in what a message is judged by.
                if !self.nasty.batches || json.len() > 200 || self.batch.len() >= 4 {
                    self.flush_batch();
                }
                self.batch.push(json.to_owned());
                if !self.nasty.batches || json.len() > 200 {
                    self.flush_batch();
                }
            }
        }
    }
}

/// `result` or `error` of a call.
fn outcome(id: &str, name: &str, token: &str) -> String {
    let error = |code: Value| {
        let error = json!({"isClientSafe": true, "error": code, "errorType": "Meteor.Error"});
        format!(r#""error":{error}"#)
    };
    match (name, token.split_once('-')) {
        ("login", Some(("good", user))) => {
            let token = format!("token-{id}");
            let result = json!({"id": user, "token": token, "type": "resume"});
            format!(r#""result":{result}"#)
        }
        ("login", Some(("bare", user))) => format!(r#""result":{}"#, json!({"id": user})),
        ("login", Some(("refused", _))) => error(json!(403)),
        ("login", _) => error(json!(500)),
        // Nothing for what is undefined in JavaScript.
        ("sendMessage", _) => r#""x":0"#.to_owned(),
        _ => r#""result":{"list":[1,2.50,"}"]}"#.to_owned(),
    }
}
