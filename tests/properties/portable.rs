//! Sessions as bytes: whatever happened to one, it is the same one on the other side, and whatever the
//! bytes are, they do no harm.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::chunk::{Backlog, Budget},
    ddp::{Connect, Framing},
    pool::SplitMix,
    session::{
        Arrival, Asker, Effects, Note, Phase, QuotaRules, Quotas, Rules, Session, Timeouts, Turn,
        Unpackable, Unreadable, limits::Allowance, portable::MOST_BYTES,
    },
};
use serde_json::{Value, json};

#[test]
fn what_was_packed_is_the_same_session_elsewhere() {
    let mut packed = 0;
    for seed in 0..300 {
        let mut world = World::new(seed);
        world.run(80);
        world.lose();
        let Ok(bytes) = world.session.pack(world.now) else {
            continue;
        };
        packed += 1;
        let bytes = bytes.expose();
        assert!(bytes.len() <= MOST_BYTES + 17);
        let there = world.unpack(bytes).unwrap();
        // All of it, as it is written; and what can be asked for.
        assert!(
            there.pack(world.now).unwrap().expose() == bytes,
            "seed {seed}"
        );
        let (one, other) = (world.session.journal(), there.journal());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.subs().eq(other.subs()), "seed {seed}");
        assert!(one.methods().eq(other.methods()), "seed {seed}");
        assert!(one.documents().eq(other.documents()), "seed {seed}");
        assert_eq!(one.user(), other.user());
        assert_eq!(one.session(), other.session());
        assert_eq!(there.sent(), world.session.sent());
        assert_eq!(there.next_timeout(), world.session.next_timeout());
        assert_eq!(there.phase(), Phase::Detached);
        let shown = format!("{there:?}");
        assert!(!shown.contains("a-token"), "{shown}");
    }
    assert!(packed > 200, "only {packed} of 300 could be packed");
}

#[test]
fn one_with_a_client_or_a_login_under_way_stays() {
    let mut world = World::new(1);
    assert_eq!(world.pack(), Err(Unpackable::NotDetached));
    world.lose();
    assert!(world.session.pack(world.now).is_ok());
    world
        .session
        .close(ddp_gateway::session::Disconnect::Drain, world.now);
    assert_eq!(world.pack(), Err(Unpackable::NotDetached));
}

#[test]
fn bytes_that_are_no_session_do_no_harm() {
    let mut random = SplitMix(7);
    let mut accepted = 0;
    for seed in 0..40 {
        let mut world = World::new(seed);
        world.run(60);
        world.lose();
        let Ok(bytes) = world.session.pack(world.now) else {
            continue;
        };
        let bytes = bytes.expose().clone();
        let unpack = |bytes: &[u8]| world.unpack(bytes);
        assert_eq!(unpack(&[]).unwrap_err(), UNREADABLE);
        let newer = [&[2], &bytes[1..]].concat();
        assert_eq!(unpack(&newer).unwrap_err(), Unreadable::Version);
        for _ in 0..60 {
            let mut changed = bytes.clone();
            let place = 1 + random.index(changed.len() - 1);
            changed[place] ^= 1 << random.index(8);
            assert_eq!(unpack(&changed).unwrap_err(), Unreadable::Damaged);
        }
        // With a checksum that fits: as if somebody had written it so.
        for _ in 0..400 {
            let mut body = bytes[17..].to_vec();
            match random.index(4) {
                0 => body.truncate(random.index(body.len())),
                1 => body = (0..random.index(300)).map(|_| random.byte()).collect(),
                _ => {
                    for _ in 0..=random.index(4) {
                        let place = random.index(body.len());
                        body[place] = random.byte();
                    }
                }
            }
            if let Ok(mut session) = unpack(&sealed(&body)) {
                accepted += 1;
                // Whatever it says, it can be worked with.
                let journal = session.journal().unwrap();
                assert!(journal.bytes() <= 64 * 1024);
                assert!(journal.subs().count() <= 1_000);
                session.handle_timeout(world.now + Duration::from_secs(3_600));
                while session.poll_action().is_some() {}
                let _ = session.pack(world.now);
            }
        }
    }
    assert!(accepted > 100, "the test is about {accepted} cases only");
}

fn sealed(body: &[u8]) -> Vec<u8> {
    [&[1], &blake3::hash(body).as_bytes()[..16], body].concat()
}

const UNREADABLE: Unreadable = Unreadable::Garbled(ddp_gateway::base::packing::Garbled);

trait Index {
    fn index(&mut self, bound: usize) -> usize;
    fn byte(&mut self) -> u8;
}

impl Index for SplitMix {
    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % (bound.max(1) as u64)).expect("it is below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.draw().to_le_bytes()[0]
    }
}

struct World {
    random: SplitMix,
    session: Session,
    quotas: Quotas,
    now: Instant,
    budget: Arc<Budget>,
    next: u32,
    subs: Vec<String>,
    methods: Vec<String>,
}

struct Deaf;

impl Effects for Deaf {
    fn reply(&mut self, _message: String) {}

    fn shadow(&mut self, _message: String) {}

    fn note(&mut self, _note: Note) {}
}

impl World {
    /// One that is logged in.
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut random = SplitMix(seed);
        let framing = [Framing::Raw, Framing::SockJs][random.index(2)];
        let mut world = Self {
            random,
            session: Session::new(framing, rules(), now),
            quotas: Quotas::new(1, now),
            now,
            budget: Arc::new(Budget::new(1 << 24)),
            next: 1,
            subs: Vec::new(),
            methods: Vec::new(),
        };
        let connect = Connect::fresh();
        world.session.handle_connect(&connect, asker(), now);
        world.session.handle_attached("a-session", now);
        world.asks(&json!({"msg": "method", "id": "login", "method": "login",
                           "params": [{"resume": "a-token"}]}));
        world.session.handle_login_turn();
        world.says(&json!({"msg": "result", "id": "login",
                           "result": {"id": "aobEdbYhXfu5hkeqG", "token": "a-token"}}));
        world.says(&json!({"msg": "updated", "methods": ["login"]}));
        let tail = Backlog::new(world.budget.clone());
        world.session.keep_tail(tail);
        world
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now += Duration::from_millis(self.random.draw() % 500);
            self.step();
        }
    }

    fn step(&mut self) {
        match self.random.index(10) {
            0 | 1 => self.subscribe(),
            2 => self.call(),
            3 => {
                let Some(id) = pick(&mut self.random, &self.subs) else {
                    return;
                };
                self.asks(&json!({"msg": "unsub", "id": id}));
            }
            4 => {
                let Some(id) = pick(&mut self.random, &self.subs) else {
                    return;
                };
                self.says(&json!({"msg": "ready", "subs": [id]}));
            }
            5 => {
                let Some(id) = pick(&mut self.random, &self.subs) else {
                    return;
                };
                self.says(&json!({"msg": "nosub", "id": id}));
            }
            6 => {
                let Some(id) = pick(&mut self.random, &self.methods) else {
                    return;
                };
                self.says(&json!({"msg": "result", "id": id, "result": {}}));
            }
            7 => {
                let Some(id) = pick(&mut self.random, &self.methods) else {
                    return;
                };
                self.says(&json!({"msg": "updated", "methods": [id]}));
            }
            8 => {
                let number = self.random.index(4);
                let field = format!("field{}", self.random.index(9));
                self.says(&json!({"msg": "added", "id": format!("d{number}"),
                    "collection": "meteor_accounts_loginServiceConfiguration",
                    "fields": {"a": number, field: "x"}}));
            }
            _ => {
                let text = "x".repeat(self.random.index(3_000));
                self.says(
                    &json!({"msg": "changed", "collection": "stream-room-messages",
                    "id": "id", "fields": {"eventName": "GENERAL", "args": [text]}}),
                );
            }
        }
    }

    fn subscribe(&mut self) {
        let id = self.id();
        let user = "kX3fS9bQ7Zt2LmNaP";
        let (name, params) = match self.random.index(6) {
            0 => ("meteor.loginServiceConfiguration", json!([])),
            1 => ("stream-user-presence", json!(["", {"added": [user, id]}])),
            2 => (
                "stream-notify-user",
                json!(["aobEdbYhXfu5hkeqG/message", false]),
            ),
            3 => ("somebody's own", json!([{"a": [1, "é\u{1}\""]}])),
            4 => ("stream-roles", Value::Null),
            _ => (
                "stream-room-messages",
                json!([id, {"useCollection": false, "args": []}]),
            ),
        };
        let mut sub = json!({"msg": "sub", "id": id, "name": name});
        if !params.is_null() {
            sub["params"] = params;
        }
        self.asks(&sub);
        self.subs.push(id);
    }

    fn call(&mut self) {
        let id = match self.random.index(8) {
            // Methods may share one.
            0 => "the same".to_owned(),
            _ => self.id(),
        };
        let name = ["sendMessage", "UserPresence:away", "unknown to all"][self.random.index(3)];
        self.asks(&json!({"msg": "method", "id": id, "method": name, "params": []}));
        self.methods.push(id);
    }

    fn id(&mut self) -> String {
        self.next += 1;
        match self.random.index(3) {
            0 => self.next.to_string(),
            1 => format!("rc-ddp-client-{}", self.next),
            _ => format!("{:0>17}", format!("aB{}", self.next)),
        }
    }

    fn asks(&mut self, message: &Value) {
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut Deaf,
        };
        let messages = vec![message.to_string()];
        let handled = self.session.handle_messages(messages, &mut turn);
        handled.expect("the client breaks no rule");
    }

    fn says(&mut self, message: &Value) {
        let json = message.to_string();
        let text = match self.session.framing() {
            Framing::Raw => json.into_bytes(),
            Framing::SockJs => format!("a{}", json!([json])).into_bytes(),
        };
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut Deaf,
        };
        let _ = self.session.handle_streamer_assembled(&text, &mut turn);
        self.session.handle_sent(&text);
        let mut tail = self.session.lend_tail();
        if let Some(tail) = &mut tail {
            tail.record(&frame(&text));
        }
        self.session.return_tail(tail);
    }

    fn lose(&mut self) {
        let tail = Backlog::new(self.budget.clone());
        assert!(self.session.is_keepable());
        self.session.detach(tail, self.now);
    }

    fn pack(&self) -> Result<(), Unpackable> {
        self.session.pack(self.now).map(|_| ())
    }

    fn unpack(&self, bytes: &[u8]) -> Result<Session, Unreadable> {
        let arrival = Arrival {
            rules: rules(),
            quotas: &self.quotas,
            asker: asker(),
            tail: Backlog::new(self.budget.clone()),
            now: self.now,
        };
        Session::unpack(bytes, arrival)
    }
}

fn pick(random: &mut SplitMix, ids: &[String]) -> Option<String> {
    ids.get(random.index(ids.len())).cloned()
}

fn frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()) {
        Ok(short @ ..126) => frame.extend(short.to_be_bytes().last()),
        Ok(length) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => unreachable!("the texts here are short"),
    }
    frame.extend_from_slice(text);
    frame
}

fn asker() -> Asker {
    Asker {
        connection: 1,
        user: None,
        client: 2,
        address: None,
    }
}

fn rules() -> Arc<Rules> {
    let n = |n| NonZeroU32::new(n).expect("it is not 0");
    Arc::new(Rules {
        timeouts: Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(50),
            stall: Duration::from_secs(20),
            resume: Duration::from_secs(15),
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
