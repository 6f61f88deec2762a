//! The DDP side of one socket of a simulated streamer, without I/O: messages in, messages out.
//!
//! The order of things and the peculiarities are those of Rocket.Chat's own streamer
//! (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/{Client,Server,Publication}.ts`), because the
//! gateway has to live with them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    hub::{Hub, Outbox, PublicationId, Topic},
    logins::{Login, LoginTally},
    methods::{Caller, Fault, Outcome, call},
    publications::{Publication, publication},
    workspace::{User, Workspace},
};

/// Methods and subs that may wait in one socket's chain; above it the socket is not read.
pub(super) const MAX_CHAIN: usize = 256;
/// Publications that one socket may have.
const MAX_SUBS: usize = 10_000;

/// How messages are wrapped; decided by the upgrade's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Raw,
    SockJs,
}

/// What is to be sent now, in this order and without anything in between, and whether the socket
/// is then closed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Effects {
    pub(super) send: Vec<Value>,
    pub(super) close: Option<u16>,
}

impl Effects {
    fn send(messages: impl IntoIterator<Item = Value>) -> Self {
        Self {
            send: messages.into_iter().collect(),
            close: None,
        }
    }

    fn close(code: u16) -> Self {
        Self {
            send: Vec::new(),
            close: Some(code),
        }
    }
}

/// One client as its streamer sees it. Dropping it ends its publications and its presence.
#[derive(Debug)]
pub(super) struct Dialogue {
    framing: Framing,
    home: Home,
    outbox: Outbox,
    greeted: bool,
    /// Empty before the greeting.
    session: String,
    user: Option<User>,
    subs: HashMap<String, Sub>,
    /// Everything that was ever published to this socket and not stopped: also what a second sub
    /// with the same id has pushed out of `subs`, which nothing can stop any more.
    running: Vec<(Topic, PublicationId)>,
    watches_presence: bool,
    chain: VecDeque<Request>,
    /// Added before each answer of the chain.
    delay: Duration,
    head_ready: Instant,
    blocked: Option<Blocked>,
}

/// The streamer that a socket is on.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) streamer: Arc<str>,
    pub(super) workspace: Workspace,
    pub(super) hub: Arc<Hub>,
    pub(super) logins: Arc<LoginTally>,
}

#[derive(Debug)]
enum Sub {
    Stream(Topic, PublicationId),
    Presence,
    Documents,
}

#[derive(Debug)]
enum Request {
    Method {
        id: String,
        method: String,
        params: Vec<Value>,
    },
    Sub {
        id: String,
        name: String,
        params: Option<Vec<Value>>,
    },
}

/// A method that takes its time.
#[derive(Debug)]
struct Blocked {
    until: Instant,
    id: String,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Pause(Value),
    Login(Login, User, Value),
}

impl Dialogue {
    pub(super) fn new(framing: Framing, home: Home, outbox: Outbox, now: Instant) -> Self {
        Self {
            framing,
            home,
            outbox,
            greeted: false,
            session: String::new(),
            user: None,
            subs: HashMap::new(),
            running: Vec::new(),
            watches_presence: false,
            chain: VecDeque::new(),
            delay: Duration::ZERO,
            head_ready: now,
            blocked: None,
        }
    }

    pub(super) fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    pub(super) fn session(&self) -> &str {
        &self.session
    }

    pub(super) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    pub(super) fn is_full(&self) -> bool {
        self.chain.len() >= MAX_CHAIN
    }

    /// When [`Self::step`] is due; `None` while nothing waits.
    pub(super) fn next_step(&self) -> Option<Instant> {
        match &self.blocked {
            Some(blocked) => Some(blocked.until),
            None => (!self.chain.is_empty()).then_some(self.head_ready),
        }
    }

    /// A text message came in. Answers what does not go through the chain, puts the rest there.
    pub(super) fn receive(&mut self, text: &str, now: Instant) -> Effects {
        let Some(message) = self.parse(text) else {
            return Effects::close(1007);
        };
        let field = |name| message.get(name).and_then(Value::as_str);
        let given = |name| {
            field(name)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let params = || message.get("params").and_then(Value::as_array).cloned();
        let kind = field("msg").unwrap_or_default();
        if !self.greeted {
            if kind != "connect" {
                return Effects::close(1002);
            }
            self.greeted = true;
            let session = uuid();
            self.session.clone_from(&session);
            return Effects::send([json!({ "msg": "connected", "session": session })]);
        }
        let request = match kind {
            "ping" => {
                let mut pong = json!({ "msg": "pong" });
                if let Some(id) = message.get("id") {
                    pong["id"] = id.clone();
                }
                return Effects::send([pong]);
            }
            "unsub" => {
                return match given("id") {
                    Some(id) => self.unsubscribe(&id),
                    None => Effects::close(1002),
                };
            }
            "method" => given("id")
                .zip(given("method"))
                .map(|(id, method)| Request::Method {
                    id,
                    method,
                    params: params().unwrap_or_default(),
                }),
            "sub" => given("id")
                .zip(given("name"))
                .map(|(id, name)| Request::Sub {
                    id,
                    name,
                    params: params(),
                }),
            _ => return Effects::default(),
        };
        let Some(request) = request else {
            return Effects::close(1002);
        };
        if self.chain.is_empty() && self.blocked.is_none() {
            self.head_ready = now + self.delay;
        }
        self.chain.push_back(request);
        Effects::default()
    }

    /// Runs what is at the head of the chain.
    pub(super) fn step(&mut self, now: Instant) -> Effects {
        if let Some(blocked) = self.blocked.take() {
            if blocked.until > now {
                self.blocked = Some(blocked);
                return Effects::default();
            }
            self.head_ready = now + self.delay;
            let Blocked { id, work, .. } = blocked;
            return match work {
                Work::Pause(result) => Effects::send(answer(&id, Ok(result))),
                Work::Login(login, user, result) => self.log_in(&id, login, user, result),
            };
        }
        if self.head_ready > now {
            return Effects::default();
        }
        let Some(request) = self.chain.pop_front() else {
            return Effects::default();
        };
        self.head_ready = now + self.delay;
        match request {
            Request::Method { id, method, params } => self.run(id, &method, &params, now),
            Request::Sub { id, name, params } => self.subscribe(id, &name, params.as_deref()),
        }
    }

    fn parse(&self, text: &str) -> Option<Value> {
        let message: Value = match self.framing {
            Framing::Raw => serde_json::from_str(text).ok()?,
            Framing::SockJs => {
                // Of several messages in one array only the first is ever looked at.
                let array: Vec<Value> = serde_json::from_str(text).ok()?;
                serde_json::from_str(array.first()?.as_str()?).ok()?
            }
        };
        (!message.is_null()).then_some(message)
    }

    fn run(&mut self, id: String, method: &str, params: &[Value], now: Instant) -> Effects {
        let caller = Caller {
            connection: self.outbox.connection,
            user: self.user.as_ref(),
            streamer: &self.home.streamer,
            workspace: &self.home.workspace,
        };
        match call(&caller, method, params) {
            Outcome::Done(result) => Effects::send(answer(&id, Ok(result))),
            Outcome::Failed(fault) => Effects::send(answer(&id, Err(fault))),
            Outcome::Later(pause, result) => {
                let until = now + pause;
                let work = Work::Pause(result);
                self.blocked = Some(Blocked { until, id, work });
                Effects::default()
            }
            Outcome::LoggedIn(user, result) => {
                let desk = self.home.workspace.login_desk();
                let login = desk.begin(&self.home.logins, now);
                if login.until <= now {
                    return self.log_in(&id, login, user, result);
                }
                self.blocked = Some(Blocked {
                    until: login.until,
                    id,
                    work: Work::Login(login, user, result),
                });
                Effects::default()
            }
            Outcome::LoggedOut => {
                self.leave_presence();
                Effects {
                    send: answer(&id, Ok(Value::Null)).into(),
                    close: Some(1002),
                }
            }
        }
    }

    /// The monolith has answered a login.
    fn log_in(&mut self, id: &str, login: Login, user: User, result: Value) -> Effects {
        if login.late {
            return Effects::send(answer(id, Err(Fault::new(500, "Internal server error"))));
        }
        let fields = json!({ "username": user.name, "name": user.name, "active": true });
        let own = json!({
            "msg": "added",
            "collection": "users",
            "id": user.id,
            "fields": fields,
        });
        self.leave_presence();
        let connection = self.outbox.connection;
        self.home.workspace.connected(&user, connection);
        self.user = Some(user);
        Effects::send(answer(id, Ok(result)).into_iter().chain([own]))
    }

    fn subscribe(&mut self, id: String, name: &str, params: Option<&[Value]>) -> Effects {
        if self.running.len() >= MAX_SUBS || self.subs.len() >= MAX_SUBS {
            return Effects::send([nosub(&id, Some(&Fault::new(500, "Too many subscriptions")))]);
        }
        let ready = json!({ "msg": "ready", "subs": [id] });
        match publication(name, params, self.user.as_ref()) {
            Err(fault) => Effects::send([nosub(&id, Some(&fault))]),
            Ok(Publication::Stream { topic, announce }) => {
                let announced = announce.then(|| {
                    json!({
                        "msg": "added",
                        "collection": topic.stream,
                        "id": "id",
                        "fields": { "eventName": topic.event },
                    })
                });
                let publication = self.home.hub.subscribe(topic.clone(), self.outbox.clone());
                self.running.push((topic.clone(), publication));
                self.subs.insert(id, Sub::Stream(topic, publication));
                Effects::send(announced.into_iter().chain([ready]))
            }
            Ok(Publication::Presence { added, removed }) => {
                let (added, removed) = (added.into_iter(), removed.into_iter());
                self.home.hub.watch_presence(&self.outbox, added, removed);
                if self.watches_presence {
                    return Effects::send([nosub(&id, None)]);
                }
                self.watches_presence = true;
                self.subs.insert(id, Sub::Presence);
                Effects::send([ready])
            }
            Ok(Publication::Documents(mut documents)) => {
                let mut sub = Sub::Documents;
                for (collection, _, fields) in &mut documents {
                    fields["version"] = self.home.workspace.client_version().into();
                    let topic = Topic {
                        stream: (*collection).to_owned(),
                        event: String::new(),
                    };
                    let publication = self.home.hub.subscribe(topic.clone(), self.outbox.clone());
                    self.running.push((topic.clone(), publication));
                    sub = Sub::Stream(topic, publication);
                }
                self.subs.insert(id, sub);
                let added = documents.into_iter().map(|(collection, id, fields)| {
                    json!({ "msg": "added", "collection": collection, "id": id, "fields": fields })
                });
                Effects::send(added.chain([ready]))
            }
        }
    }

    fn unsubscribe(&mut self, id: &str) -> Effects {
        match self.subs.remove(id) {
            None => return Effects::default(),
            Some(Sub::Stream(topic, publication)) => {
                self.home.hub.unsubscribe(&topic, publication);
                self.running.retain(|(_, running)| *running != publication);
            }
            Some(Sub::Presence) => {
                self.home.hub.forget_presence(self.outbox.connection);
                self.watches_presence = false;
            }
            Some(Sub::Documents) => {}
        }
        Effects::send([nosub(id, None)])
    }

    fn leave_presence(&mut self) {
        if let Some(user) = self.user.take() {
            self.home
                .workspace
                .disconnected(&user, self.outbox.connection);
        }
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        for (topic, publication) in &self.running {
            self.home.hub.unsubscribe(topic, *publication);
        }
        self.home.hub.forget_presence(self.outbox.connection);
        self.leave_presence();
    }
}

/// `result` and right behind it `updated`. A falsy result is left out.
fn answer(id: &str, outcome: Result<Value, Fault>) -> [Value; 2] {
    let mut result = json!({ "msg": "result", "id": id });
    match outcome {
        Ok(value) if is_falsy(&value) => {}
        Ok(value) => result["result"] = value,
        Err(fault) => result["error"] = fault.json(),
    }
    [result, json!({ "msg": "updated", "methods": [id] })]
}

fn nosub(id: &str, fault: Option<&Fault>) -> Value {
    let mut nosub = json!({ "msg": "nosub", "id": id });
    if let Some(fault) = fault {
        nosub["error"] = fault.json();
    }
    nosub
}

fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn uuid() -> String {
    let digits = format!("{:032x}", rand::random::<u128>());
    let (a, b, c) = (&digits[..8], &digits[8..12], &digits[13..16]);
    format!("{a}-{b}-1{c}-a{}-{}", &digits[17..20], &digits[20..])
}
