//! A session through loss and return.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Back, ReturnKind, Returned, Shown, missed::split};
use crate::{
    base::{
        chunk::{Backlog, Budget},
        secret::Secret,
    },
    ddp::{Connect, Framing},
    session::{
        Action, Arrival, Asker, Disconnect, Effects, Note, Passage, Phase, QuotaRules, Quotas,
        Rules, Session, Timeouts, Turn, Verdict, limits::Allowance,
    },
    ws::{FrameHeader, MAX_HEADER, OpCode},
};

const GRACE: Duration = Duration::from_secs(15);

/// A session with its client and its streamer as plain lists of messages.
struct World {
    session: Session,
    quotas: Quotas,
    now: Instant,
    budget: Arc<Budget>,
    /// What went to the client and to the streamer since it was last looked at.
    client: Vec<Value>,
    streamer: Vec<Value>,
    /// How long news of the web client's version is held back, while many are to reload for it.
    wave: Option<Duration>,
}

#[derive(Default)]
struct Replies {
    messages: Vec<String>,
    wave: Option<Duration>,
}

impl Effects for Replies {
    fn reply(&mut self, message: String) {
        self.messages.push(message);
    }

    fn shadow(&mut self, _message: String) {}

    fn client_version(&mut self, _json: &str, changed: bool) -> Option<Duration> {
        self.wave.filter(|_| changed)
    }

    fn note(&mut self, _note: Note) {}
}

fn rules() -> Arc<Rules> {
    let n = |n| NonZeroU32::new(n).unwrap();
    Arc::new(Rules {
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(50),
            stall: Duration::from_secs(20),
            resume: GRACE,
        },
        allowance: Allowance {
            messages_per_second: n(1_000),
            messages_burst: n(1_000),
            bytes_per_second: n(1_000_000),
            bytes_burst: n(1_000_000),
            abuse_after: Duration::from_secs(30),
        },
        quotas: QuotaRules::default(),
    })
}

fn asker() -> Asker {
    Asker {
        connection: 1,
        user: None,
        client: 2,
        address: None,
    }
}

fn frame(text: &str) -> Vec<u8> {
    let header = FrameHeader {
        fin: true,
        opcode: OpCode::Text,
        mask: None,
        len: text.len() as u64,
    };
    let mut head = [0; MAX_HEADER];
    let length = header.encode(&mut head);
    [&head[..length], text.as_bytes()].concat()
}

fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

impl World {
    /// A client that is logged in, with two streams and the login services.
    fn logged_in() -> Self {
        let now = Instant::now();
        let mut world = Self {
            session: Session::new(Framing::Raw, rules(), now),
            quotas: Quotas::new(1, now),
            now,
            budget: Arc::new(Budget::new(1 << 20)),
            client: Vec::new(),
            streamer: Vec::new(),
            wave: None,
        };
        world
            .session
            .handle_connect(&Connect::fresh(), asker(), now);
        world.session.handle_attached("old", now);
        world.asks(
            json!({"msg": "method", "id": "1", "method": "login", "params": [{"resume": "tok"}]}),
        );
        world.session.handle_login_turn();
        world.says(json!({"msg": "result", "id": "1", "result": {"id": "ann", "token": "tok"}}));
        world.says(json!({"msg": "updated", "methods": ["1"]}));
        world.says(user());
        for (id, name, params) in [
            (
                "a",
                "stream-room-messages",
                json!(["GENERAL", {"useCollection": false, "args": []}]),
            ),
            ("b", "stream-notify-user", json!(["ann/message", false])),
            ("s", "meteor.loginServiceConfiguration", json!([])),
        ] {
            world.subscribes(id, name, &params);
            world.says(json!({"msg": "ready", "subs": [id]}));
        }
        let tail = Backlog::new(world.budget.clone());
        world.session.keep_tail(tail);
        world.client.clear();
        world.streamer.clear();
        world
    }

    fn subscribes(&mut self, id: &str, name: &str, params: &Value) {
        self.asks(json!({"msg": "sub", "id": id, "name": name, "params": params}));
    }

    /// The client sends a message.
    fn asks(&mut self, message: Value) {
        self.feeds(vec![message.to_string()]);
    }

    fn feeds(&mut self, messages: Vec<String>) {
        let mut replies = Replies {
            wave: self.wave,
            ..Replies::default()
        };
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut replies,
        };
        let passage = self.session.handle_messages(messages, &mut turn).unwrap();
        self.spoken();
        let Passage { now, later, .. } = passage;
        self.streamer
            .extend(now.iter().chain(&later).map(|json| parse(json)));
        self.replies(replies);
    }

    /// The streamer sends a message.
    fn says(&mut self, message: Value) {
        let text = message.to_string();
        let mut replies = Replies {
            wave: self.wave,
            ..Replies::default()
        };
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut replies,
        };
        let verdict = self
            .session
            .handle_streamer(text.as_bytes(), true, &mut turn);
        let out = match verdict {
            Verdict::Forward => {
                self.passes(&text);
                Vec::new()
            }
            Verdict::Assemble => {
                let passage = self
                    .session
                    .handle_streamer_assembled(text.as_bytes(), &mut turn);
                assert_eq!(passage.verdict, None);
                passage.now
            }
            _ => Vec::new(),
        };
        for json in out {
            self.session.handle_sent(json.as_bytes());
            self.passes(&json);
        }
        self.replies(replies);
    }

    fn replies(&mut self, replies: Replies) {
        for json in replies.messages {
            self.session.handle_own_sent(&frame(&json));
            self.passes(&json);
        }
        self.spoken();
    }

    fn spoken(&mut self) {
        let spoken = self.session.take_spoken();
        self.streamer
            .extend(spoken.to_streamer.iter().map(|json| parse(json)));
        for json in spoken.to_client {
            self.session.handle_own_sent(&frame(&json));
            self.passes(&json);
        }
    }

    fn passes(&mut self, json: &str) {
        let mut tail = self.session.lend_tail();
        if let Some(tail) = &mut tail {
            tail.record(&frame(json));
        }
        self.session.return_tail(tail);
        if self.session.phase() == Phase::Live {
            self.client.push(parse(json));
        }
    }

    fn loses_client(&mut self) {
        assert!(self.session.is_keepable());
        let tail = Backlog::new(self.budget.clone());
        self.session.detach(tail, self.now);
        self.spoken();
        self.client.clear();
        self.streamer.clear();
    }

    /// The session as another gateway has it, if it can be packed now.
    fn twin(&self) -> Option<Session> {
        let packed = self.session.pack(self.now).ok()?;
        let there = |now| Arrival {
            rules: rules(),
            quotas: &self.quotas,
            asker: asker(),
            tail: Backlog::new(self.budget.clone()),
            now,
        };
        let twin = Session::unpack(packed.expose(), there(self.now)).unwrap();
        let again = twin.pack(self.now).unwrap();
        assert!(again == packed, "what was packed, packed again");
        assert_eq!(twin.next_timeout(), self.session.next_timeout());
        Some(twin)
    }

    /// The client is back: at this gateway and, if possible, at another one, where it stays.
    fn returns(&mut self, received: Option<u64>) -> Returned {
        let back = || Back {
            received,
            fresh: "new",
            asker: asker(),
        };
        let twin = self.twin();
        let returned = self.session.handle_return(back(), self.now);
        if let Some(mut twin) = twin {
            assert_eq!(twin.handle_return(back(), self.now), returned);
            self.session = twin;
        }
        self.client.push(parse(&returned.connected));
        for missed in split(&returned.missed, Framing::Raw).unwrap() {
            self.client.push(parse(&missed.json));
        }
        self.spoken();
        returned
    }

    fn passes_time(&mut self, time: Duration) {
        self.now += time;
        self.session.handle_timeout(self.now);
        self.spoken();
    }

    /// It is the session's turn to log in.
    fn turn_to_log_in(&mut self) {
        assert!(self.session.wants_login());
        self.session.handle_login_turn();
        self.spoken();
    }

    /// The streamer answers the gateway's own login.
    fn renews(&mut self, answer: &Value) {
        assert!(self.session.is_logging_in());
        let mut result = json!({"msg": "result", "id": "ddpgw:renewal"});
        let answer = answer.as_object().unwrap().clone();
        result.as_object_mut().unwrap().extend(answer);
        self.says(result);
        assert!(!self.session.is_logging_in());
        self.says(updated("ddpgw:renewal"));
    }

    fn client(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.client)
    }

    fn streamer(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.streamer)
    }
}

fn user() -> Value {
    json!({"msg": "added", "collection": "users", "id": "ann", "fields": {"name": "Ann"}})
}

fn event(number: u32) -> Value {
    json!({"msg": "changed", "collection": "stream-room-messages", "id": "id",
           "fields": {"eventName": "GENERAL", "args": [number]}})
}

fn login(id: &str) -> Value {
    json!({"msg": "method", "id": id, "method": "login", "params": [{"resume": "tok"}]})
}

fn method(id: &str) -> Value {
    json!({"msg": "method", "id": id, "method": "sendMessage", "params": []})
}

fn result(id: &str) -> Value {
    json!({"msg": "result", "id": id, "result": id})
}

fn updated(id: &str) -> Value {
    json!({"msg": "updated", "methods": [id]})
}

#[test]
fn messages_are_counted_as_meteors_client_counts_them() {
    let mut world = World::logged_in();
    // connected, result, updated, the user, three times ready.
    assert_eq!(world.session.sent(), 7);
    world.says(json!({"msg": "ping"}));
    world.says(json!({"msg": "pong", "id": "7"}));
    assert_eq!(world.session.sent(), 7);
    world.says(event(1));
    world.says(user());
    assert_eq!(world.session.sent(), 9);
    // An answer of the gateway's own.
    world.asks(json!({"msg": "unsub", "id": "unknown"}));
    assert_eq!(world.session.sent(), 10);
}

#[test]
fn a_client_that_counts_gets_what_it_missed_and_nothing_twice() {
    let mut world = World::logged_in();
    world.asks(method("2"));
    world.asks(method("3"));
    world.says(event(1));
    let received = u64::from(world.session.sent());
    // Into a socket that is dead already.
    world.says(event(2));
    world.says(result("2"));
    world.says(updated("2"));
    world.loses_client();
    world.says(event(3));
    let returned = world.returns(Some(received));
    assert_eq!(returned.kind, ReturnKind::Resumed);
    assert_eq!(
        world.client(),
        [
            json!({"msg": "connected", "session": "old"}),
            event(2),
            event(3)
        ]
    );
    assert_eq!(u64::from(world.session.sent()), received + 3);
    // The client's first block: its login, and its subscriptions.
    world.asks(login("4"));
    let answers = world.client();
    assert_eq!(answers[0]["result"]["id"], "ann");
    assert_eq!(answers[0]["result"]["token"], "tok");
    assert_eq!(answers[1], updated("4"));
    world.subscribes(
        "a",
        "stream-room-messages",
        &json!(["GENERAL", {"useCollection": false, "args": []}]),
    );
    world.subscribes("s", "meteor.loginServiceConfiguration", &json!([]));
    assert_eq!(world.client(), [] as [Value; 0]);
    // Then the methods without a result.
    world.asks(method("2"));
    assert_eq!(world.client(), [result("2"), updated("2")]);
    world.asks(method("3"));
    world.asks(method("5"));
    assert_eq!(world.client(), [] as [Value; 0]);
    assert_eq!(world.streamer(), [method("5")], "no method runs twice");
    world.says(result("3"));
    world.says(updated("3"));
    assert_eq!(world.client(), [result("3"), updated("3")]);
    assert_eq!(u64::from(world.session.sent()), received + 3 + 6);
}

#[test]
fn an_answer_waits_until_the_client_asks_again() {
    for received in [true, false] {
        let mut world = World::logged_in();
        world.asks(method("2"));
        let count = u64::from(world.session.sent());
        world.loses_client();
        world.returns(received.then_some(count));
        world.client();
        // Meteor's client drops the result of a method that it has not sent again.
        world.says(result("2"));
        world.says(updated("2"));
        assert_eq!(world.client(), [] as [Value; 0]);
        world.asks(method("2"));
        assert_eq!(world.client(), [result("2"), updated("2")]);
        assert!(!world.streamer().contains(&method("2")));
    }
}

#[test]
fn an_answer_that_waits_is_not_lost_with_the_client() {
    for received in [true, false] {
        let mut world = World::logged_in();
        world.asks(method("2"));
        let count = u64::from(world.session.sent());
        world.loses_client();
        world.returns(received.then_some(count));
        world.says(result("2"));
        world.says(updated("2"));
        // Before it has asked again.
        world.loses_client();
        world.returns(received.then_some(count + 1));
        world.client();
        world.asks(method("2"));
        assert_eq!(world.client(), [result("2"), updated("2")], "{received}");
        assert!(
            !world.streamer().contains(&method("2")),
            "it would run twice"
        );
    }
}

#[test]
fn an_answer_that_nobody_asks_for_again_comes_in_the_end_where_the_session_is_the_same() {
    let mut world = World::logged_in();
    world.asks(method("2"));
    let count = u64::from(world.session.sent());
    world.loses_client();
    world.says(result("2"));
    world.says(updated("2"));
    world.returns(Some(count));
    assert_eq!(world.client().len(), 1);
    world.passes_time(Duration::from_secs(6));
    assert_eq!(world.client(), [result("2"), updated("2")]);
    assert!(!world.session.is_returning());
}

#[test]
fn a_subscription_that_ended_meanwhile_is_not_begun_again() {
    let mut world = World::logged_in();
    let count = u64::from(world.session.sent());
    let nosub = json!({"msg": "nosub", "id": "b", "error": {"error": "not-allowed"}});
    world.says(nosub.clone());
    world.loses_client();
    world.returns(Some(count));
    assert_eq!(world.client().pop(), Some(nosub));
    world.subscribes("b", "stream-notify-user", &json!(["ann/message", false]));
    assert_eq!(world.streamer(), [] as [Value; 0]);
}

#[test]
fn a_client_that_does_not_count_keeps_its_leg_under_a_new_name() {
    let mut world = World::logged_in();
    world.loses_client();
    world.says(event(1));
    let returned = world.returns(None);
    assert_eq!(returned.kind, ReturnKind::Rebound);
    assert_eq!(
        world.client(),
        [json!({"msg": "connected", "session": "new"})]
    );
    assert_eq!(world.session.sent(), 1);
    let journal = world.session.journal().unwrap();
    assert_eq!(journal.session().as_deref(), Some("new"));
    assert_eq!(journal.upstream().as_deref(), Some("old"));
    // Documents are sent only at the beginning of a subscription, and the client forgets its own.
    assert_eq!(world.streamer(), [json!({"msg": "unsub", "id": "s"})]);
    world.asks(login("2"));
    let answers = world.client();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["result"]["token"], "tok");
    world.subscribes(
        "a",
        "stream-room-messages",
        &json!(["GENERAL", {"useCollection": false, "args": []}]),
    );
    assert_eq!(world.client(), [json!({"msg": "ready", "subs": ["a"]})]);
    let services =
        json!({"msg": "sub", "id": "s", "name": "meteor.loginServiceConfiguration", "params": []});
    world.asks(services.clone());
    world.says(json!({"msg": "nosub", "id": "s"}));
    assert_eq!(
        world.client(),
        [] as [Value; 0],
        "the answer to the gateway's own unsub"
    );
    assert_eq!(world.streamer(), [services]);
    world.says(json!({"msg": "ready", "subs": ["s"]}));
    assert_eq!(world.client(), [json!({"msg": "ready", "subs": ["s"]})]);
    // `b` was not named again.
    world.passes_time(Duration::from_secs(6));
    assert_eq!(world.streamer(), [json!({"msg": "unsub", "id": "b"})]);
    world.says(json!({"msg": "nosub", "id": "b"}));
    assert_eq!(world.client(), [] as [Value; 0]);
    assert_eq!(world.session.journal().unwrap().sub_count(), 2);
}

/// A client that has begun a new session, and has the result of its login.
fn without_document() -> World {
    let mut world = World::logged_in();
    world.loses_client();
    world.returns(None);
    world.asks(login("2"));
    assert_eq!(world.client().last().unwrap()["result"]["id"], "ann");
    world.streamer.clear();
    world
}

fn good() -> Value {
    json!({"result": {"id": "ann", "token": "tok"}})
}

fn renewal() -> Value {
    login("ddpgw:renewal")
}

#[test]
fn the_users_document_is_fetched_behind_the_login_that_was_answered_from_memory() {
    let mut world = without_document();
    // In all the while.
    world.asks(method("3"));
    assert_eq!(world.streamer(), [method("3")]);
    world.turn_to_log_in();
    assert_eq!(world.streamer(), [renewal()]);
    world.renews(&good());
    assert!(!world.session.wants_login());
    assert_eq!(world.client(), [] as [Value; 0]);
    world.says(user());
    assert_eq!(world.client(), [user(), updated("2")]);
    assert!(!world.session.journal().unwrap().odd());
    // What it had begun before the loss it may still send again.
    assert!(world.session.is_returning());
    world.says(result("3"));
    world.says(updated("3"));
    world.passes_time(Duration::from_secs(6));
    assert!(!world.session.is_returning());
    // The next login is the streamer's.
    world.client.clear();
    world.asks(login("4"));
    assert_eq!(world.client(), [] as [Value; 0]);
    assert_eq!(world.streamer().pop(), Some(login("4")));
}

#[test]
fn a_document_that_comes_by_itself_needs_no_login() {
    let mut world = without_document();
    assert!(world.session.wants_login());
    world.says(user());
    assert_eq!(world.client(), [user(), updated("2")]);
    assert!(!world.session.wants_login());
    // Also one that comes before the client's login.
    let mut world = World::logged_in();
    world.loses_client();
    world.returns(None);
    world.says(user());
    world.client.clear();
    world.asks(login("2"));
    assert_eq!(world.client().pop(), Some(updated("2")));
    assert!(!world.session.wants_login());
}

#[test]
fn a_document_that_does_not_come_is_not_waited_for() {
    let mut world = without_document();
    world.turn_to_log_in();
    world.renews(&good());
    world.passes_time(Duration::from_secs(4));
    assert_eq!(world.client(), [] as [Value; 0]);
    world.passes_time(Duration::from_secs(1));
    assert_eq!(world.client(), [updated("2")]);
    assert!(!world.session.wants_login());
}

#[test]
fn a_streamer_in_trouble_is_asked_again_and_the_client_does_not_notice() {
    let mut world = without_document();
    for pause in [2, 4, 8, 16, 32, 60, 60] {
        world.turn_to_log_in();
        assert_eq!(world.streamer().pop(), Some(renewal()));
        world.renews(&json!({"error": {"error": 500}}));
        for _ in 0..pause {
            assert!(!world.session.wants_login());
            world.passes_time(Duration::from_secs(1));
            // Both are there.
            world.session.handle_client_input(1, 1, world.now);
            world.session.handle_streamer_input(world.now);
        }
    }
    assert_eq!(world.client(), [] as [Value; 0]);
    world.turn_to_log_in();
    world.renews(&good());
    world.says(user());
    assert_eq!(world.client(), [user(), updated("2")]);
}

#[test]
fn a_token_that_is_refused_ends_the_client() {
    let mut world = without_document();
    world.turn_to_log_in();
    world.says(json!({"msg": "result", "id": "ddpgw:renewal", "error": {"error": 403}}));
    assert_eq!(world.client(), [] as [Value; 0]);
    assert_eq!(world.session.phase(), Phase::Closing(Disconnect::LoggedOut));
}

#[test]
fn a_client_that_is_lost_again_gets_its_document_once() {
    for when in ["waiting", "sent", "answered"] {
        let mut world = without_document();
        if when != "waiting" {
            world.turn_to_log_in();
        }
        if when == "answered" {
            world.renews(&good());
        }
        world.loses_client();
        world.returns(None);
        world.asks(login("3"));
        assert_eq!(world.client().len(), 2, "connected and result, {when}");
        match when {
            "waiting" => {
                world.turn_to_log_in();
                world.renews(&good());
            }
            "sent" => {
                assert!(!world.session.wants_login());
                world.renews(&good());
            }
            // Its document is still on its way.
            _ => assert!(world.session.wants_login()),
        }
        world.says(user());
        assert_eq!(world.client(), [user(), updated("3")], "{when}");
        assert!(!world.session.wants_login());
        assert!(!world.session.journal().unwrap().odd());
    }
}

#[test]
fn one_that_resumes_without_its_document_still_gets_it() {
    let mut world = without_document();
    world.loses_client();
    let received = u64::from(world.session.sent());
    assert_eq!(world.returns(Some(received)).kind, ReturnKind::Resumed);
    assert!(
        !world.session.wants_login(),
        "it has not shown that it is in"
    );
    world.asks(login("3"));
    world.turn_to_log_in();
    world.renews(&good());
    world.client.clear();
    world.says(user());
    assert_eq!(world.client(), [user(), updated("2"), updated("3")]);
}

#[test]
fn a_login_of_the_clients_own_brings_the_document_too() {
    let mut world = without_document();
    let other =
        json!({"msg": "method", "id": "3", "method": "login", "params": [{"resume": "tok2"}]});
    world.asks(other.clone());
    assert_eq!(world.client(), [updated("2")]);
    world.turn_to_log_in();
    assert_eq!(world.streamer(), [other]);
    world.says(json!({"msg": "result", "id": "3", "result": {"id": "ann", "token": "tok2"}}));
    assert!(!world.session.wants_login());

    // Behind one of the gateway's own that is under way.
    let mut world = without_document();
    world.turn_to_log_in();
    world.asks(
        json!({"msg": "method", "id": "3", "method": "login", "params": [{"resume": "tok2"}]}),
    );
    assert!(!world.session.wants_login());
    world.renews(&good());
    assert!(world.session.wants_login());
}

#[test]
fn what_was_missed_beyond_the_bound_makes_an_honest_new_session() {
    let mut world = World::logged_in();
    let received = u64::from(world.session.sent()) - 1;
    world.loses_client();
    assert_eq!(world.returns(Some(received)).kind, ReturnKind::Rebound);
}

#[test]
fn a_second_loss_before_anything_arrived_is_no_other() {
    let mut world = World::logged_in();
    let received = u64::from(world.session.sent());
    world.says(event(1));
    world.loses_client();
    for round in 2..5 {
        world.says(event(round));
        let returned = world.returns(Some(received));
        assert_eq!(returned.kind, ReturnKind::Resumed);
        let mut expected = vec![json!({"msg": "connected", "session": "old"})];
        expected.extend((1..=round).map(event));
        assert_eq!(world.client(), expected);
        assert_eq!(
            u64::from(world.session.sent()),
            received + 1 + u64::from(round)
        );
        world.loses_client();
    }
}

#[test]
fn nothing_is_released_without_the_token() {
    let world = World::logged_in();
    let token = |text: &str| Secret::new(text.to_owned());
    assert!(world.session.is_proven("old", &token("tok")));
    for (name, text) in [
        ("old", "to"),
        ("old", "tok2"),
        ("old", "tik"),
        ("new", "tok"),
        ("", ""),
    ] {
        assert!(
            !world.session.is_proven(name, &token(text)),
            "{name} {text}"
        );
    }
}

#[test]
fn a_claim_is_shown_by_the_first_request() {
    for (messages, shown) in [
        (
            vec![json!({"msg": "ping"}), login("1"), method("2")],
            Shown::Token(Secret::new("tok".to_owned())),
        ),
        (vec![method("2"), login("1")], Shown::Other),
        (vec![json!({"msg": "ping"})], Shown::Nothing),
        (vec![json!({"msg": "ping"}); 20], Shown::Other),
        (
            vec![json!({"msg": "method", "id": "1", "method": "login", "params": [{"user": {}}]})],
            Shown::Other,
        ),
    ] {
        let mut world = World::logged_in();
        world.session.begin_proof();
        for message in &messages {
            world.asks(message.clone());
        }
        assert_eq!(world.session.shown(), Some(&shown), "{messages:?}");
        assert_eq!(world.session.reads_client(), shown == Shown::Nothing);
        assert!(world.streamer().is_empty() && world.client().is_empty());
        let waited: Vec<Value> = world
            .session
            .end_proof()
            .iter()
            .map(|json| parse(json))
            .collect();
        assert_eq!(waited, messages);
        assert_eq!(world.session.shown(), None);
    }
}

#[test]
fn who_says_goodbye_or_has_no_user_is_not_kept() {
    let mut world = World::logged_in();
    assert!(world.session.is_keepable());
    world.asks(json!({"msg": "disconnect"}));
    assert!(!world.session.is_keepable());

    let mut world = World::logged_in();
    world.asks(json!({"msg": "method", "id": "9", "method": "logout", "params": []}));
    world.says(result("9"));
    assert!(!world.session.is_keepable());

    let mut world = World::logged_in();
    world.asks(login("9"));
    assert!(!world.session.is_keepable(), "a login is under way");

    let mut world = World::logged_in();
    let mut off = *rules();
    off.timeouts.resume = Duration::ZERO;
    world.session.handle_rules(Arc::new(off));
    assert!(!world.session.is_keepable());
}

#[test]
fn the_grace_period_ends() {
    let mut world = World::logged_in();
    world.loses_client();
    assert_eq!(world.session.phase(), Phase::Detached);
    world.says(json!({"msg": "ping", "id": "x"}));
    assert_eq!(world.streamer(), [json!({"msg": "pong", "id": "x"})]);
    world.passes_time(GRACE - Duration::from_secs(1));
    assert_eq!(world.session.phase(), Phase::Detached);
    world.passes_time(Duration::from_secs(1));
    assert_eq!(world.session.phase(), Phase::Ended(Disconnect::ClientGone));
}

#[test]
fn orders_and_a_lost_leg_end_it_at_once() {
    let mut world = World::logged_in();
    world.loses_client();
    let now = world.now;
    let reason = Disconnect::LoggedOut;
    world.session.handle_order(reason, GRACE, now);
    assert_eq!(world.session.phase(), Phase::Closing(reason));
    let mut world = World::logged_in();
    world.loses_client();
    world.session.handle_leg_lost(GRACE, world.now);
    assert_eq!(
        world.session.phase(),
        Phase::Ended(Disconnect::StreamerLost)
    );
}

#[test]
fn a_way_through_another_gateway_is_given_up_sooner_than_a_streamer() {
    let step = Duration::from_secs(3);
    let mut world = World::logged_in();
    world.session.handle_borrowed(world.now);
    world.passes_time(step);
    assert_eq!(world.session.poll_action(), Some(Action::PingStreamer));
    assert_eq!(world.session.phase(), Phase::Live);
    world.passes_time(step);
    let lost = Disconnect::StreamerLost;
    assert_eq!(world.session.phase(), Phase::Closing(lost));
}

/// The gateway ends: where the session could be asked for from elsewhere, that is up to the relay.
#[test]
fn a_session_that_can_be_kept_is_parked_when_the_gateway_ends() {
    let soon = Duration::from_secs(2);
    let asks = |world: &mut World| world.session.poll_action();
    // With its client, at the moment that was chosen for it.
    let mut world = World::logged_in();
    let now = world.now;
    world.session.handle_order(Disconnect::Drain, soon, now);
    assert_eq!(asks(&mut world), None);
    world.passes_time(soon);
    assert_eq!(world.session.phase(), Phase::Live);
    assert_eq!(asks(&mut world), Some(Action::Park));
    world.loses_client();
    world.session.park(world.now + soon);
    world.passes_time(soon);
    assert_eq!(world.session.phase(), Phase::Ended(Disconnect::Drain));
    // Without, at once; never for longer than it was kept anyway.
    let mut world = World::logged_in();
    world.loses_client();
    let now = world.now;
    world.session.handle_order(Disconnect::Drain, soon, now);
    assert_eq!(asks(&mut world), Some(Action::Park));
    world.session.park(now + 2 * GRACE);
    world.passes_time(GRACE);
    assert_eq!(world.session.phase(), Phase::Ended(Disconnect::Drain));
}

#[test]
fn a_silent_client_is_one_that_is_lost() {
    let mut world = World::logged_in();
    let mut actions = Vec::new();
    for _ in 0..60 {
        world.now += Duration::from_secs(1);
        world.session.handle_streamer_input(world.now);
        world.session.handle_timeout(world.now);
        actions.extend(std::iter::from_fn(|| world.session.poll_action()));
    }
    assert_eq!(actions, [Action::PingClient, Action::Detach]);
}

fn version(name: &str) -> Value {
    json!({"msg": "changed", "collection": "meteor_autoupdate_clientVersions",
           "id": "web.browser", "fields": {"version": name}})
}

#[test]
fn who_is_told_to_reload_is_not_waited_for() {
    let (soon, gone) = (Duration::from_secs(9), Duration::from_secs(30));
    let mut world = World::logged_in();
    // A monolith has started: no news.
    world.says(version("v1"));
    assert_eq!(world.client(), [version("v1")]);
    assert!(world.session.is_keepable());
    // Told in the middle of the wave, with what came meanwhile.
    world.wave = Some(soon);
    world.says(version("v2"));
    world.wave = Some(Duration::ZERO);
    world.says(version("v3"));
    assert_eq!(world.client(), [] as [Value; 0]);
    assert!(world.session.is_keepable());
    world.passes_time(soon);
    assert_eq!(world.client(), [version("v2"), version("v3")]);
    assert!(!world.session.is_keepable());
    // Still there: it has not reloaded.
    world.passes_time(gone);
    assert!(world.session.is_keepable());
    // Heard of by the gateway after the client's moment in the wave.
    world.says(version("v4"));
    assert_eq!(world.client(), [version("v4")]);
    assert!(!world.session.is_keepable());
}
