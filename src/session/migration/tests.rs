//! One session from the order to the far side of the switch, step by step.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Aborted, HOLD_FOR, SKEW, Unmovable, fence};
use crate::{
    ddp::{Connect, Framing},
    session::{
        Action, Asker, Disconnect, Effects, Note, Phase, QuotaRules, Quotas, Rules, Session,
        Timeouts, Turn, Verdict, limits::Allowance,
    },
};

#[derive(Default)]
struct Heard {
    replies: Vec<String>,
    shadow: Vec<String>,
    notes: Vec<Note>,
}

impl Effects for Heard {
    fn reply(&mut self, message: String) {
        self.replies.push(message);
    }

    fn shadow(&mut self, message: String) {
        self.shadow.push(message);
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }
}

struct Stage {
    session: Session,
    quotas: Quotas,
    now: Instant,
    heard: Heard,
}

impl Stage {
    fn rules() -> Rules {
        let many = NonZeroU32::new(1_000_000).unwrap();
        Rules {
            timeouts: Timeouts {
                resume: Duration::ZERO,
                connect: Duration::from_secs(10),
                idle: Duration::from_secs(1_000),
                stall: Duration::from_secs(20),
            },
            allowance: Allowance {
                messages_per_second: many,
                messages_burst: many,
                bytes_per_second: many,
                bytes_burst: many,
                abuse_after: Duration::from_secs(30),
            },
            quotas: QuotaRules::default(),
        }
    }

    /// A user who is logged in.
    fn new() -> Self {
        let now = Instant::now();
        let mut session = Session::new(Framing::Raw, Arc::new(Self::rules()), now);
        let asker = Asker {
            connection: 1,
            user: None,
            client: 2,
            address: None,
        };
        session.handle_connect(&Connect::fresh(), asker, now);
        session.handle_attached("up-1", now);
        let mut stage = Self {
            session,
            quotas: Quotas::new(1, now),
            now,
            heard: Heard::default(),
        };
        let login = r#"{"msg":"method","id":"1","method":"login","params":[{"resume":"t1"}]}"#;
        assert_eq!(stage.client(login), Verdict::Hold);
        stage.session.handle_login_turn();
        stage.streamer(r#"{"msg":"result","id":"1","result":{"id":"u1","token":"t1"}}"#);
        stage.streamer(r#"{"msg":"updated","methods":["1"]}"#);
        stage.heard = Heard::default();
        stage
    }

    fn client(&mut self, json: &str) -> Verdict {
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut self.heard,
        };
        self.session
            .handle_client(true, json.as_bytes(), true, &mut turn)
    }

    /// What of a message of the leg in charge reaches the client.
    fn streamer(&mut self, json: &str) -> Vec<String> {
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut self.heard,
        };
        match self
            .session
            .handle_streamer(json.as_bytes(), true, &mut turn)
        {
            Verdict::Forward => vec![json.to_owned()],
            Verdict::Drop => Vec::new(),
            Verdict::Assemble => {
                let passage = self
                    .session
                    .handle_streamer_assembled(json.as_bytes(), &mut turn);
                match passage.verdict {
                    Some(_) => vec![json.to_owned()],
                    None => passage.now,
                }
            }
            verdict => panic!("{verdict:?}"),
        }
    }

    fn shadow(&mut self, json: &str) {
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut self.heard,
        };
        self.session.handle_shadow(json.as_bytes(), &mut turn);
    }

    /// Begins a move and answers all that the new leg is asked.
    fn shadowed(&mut self) -> Vec<String> {
        self.shadowed_by("up-2")
    }

    fn shadowed_by(&mut self, upstream: &str) -> Vec<String> {
        self.session.begin_move(self.now).unwrap();
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut self.heard,
        };
        self.session.handle_shadow_attached(upstream, &mut turn);
        let asked = std::mem::take(&mut self.heard.shadow);
        self.shadow(r#"{"msg":"result","id":"ddpgw:login","result":{"id":"u1","token":"t1"}}"#);
        for message in &asked {
            let message: serde_json::Value = serde_json::from_str(message).unwrap();
            let id = message["id"].as_str().unwrap();
            match message["msg"].as_str().unwrap() {
                "sub" => self.shadow(&format!(r#"{{"msg":"ready","subs":["{id}"]}}"#)),
                _ => self.shadow(&format!(r#"{{"msg":"result","id":"{id}"}}"#)),
            }
        }
        asked
    }

    /// Lets time pass and answers pings until the client's messages are held.
    fn level(&mut self) {
        for _ in 0..50 {
            self.now += SKEW;
            self.session.handle_timeout(self.now);
            while !self.session.holds_client()
                && let Some(action) = self.session.poll_action()
            {
                self.answer(action);
            }
            if self.session.holds_client() {
                return;
            }
        }
        panic!("the legs are never level");
    }

    /// Answers all pings that are due; the rest of the actions.
    fn answer_fences(&mut self) -> Vec<Action> {
        let mut others = Vec::new();
        while let Some(action) = self.session.poll_action() {
            others.extend(self.answer(action));
        }
        others
    }

    fn answer(&mut self, action: Action) -> Option<Action> {
        let Action::Fence { shadow, number } = action else {
            return Some(action);
        };
        let pong = fence(number).replace("ping", "pong");
        if shadow {
            self.shadow(&pong);
        } else {
            assert!(self.streamer(&pong).is_empty());
        }
        None
    }

    fn switch(&mut self) -> Vec<String> {
        assert!(self.session.wants_switch());
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut self.heard,
        };
        self.session.handle_switched(&mut turn);
        std::mem::take(&mut self.heard.replies)
    }

    fn subscribe(&mut self, id: &str, event: &str) {
        let sub = format!(
            r#"{{"msg":"sub","id":"{id}","name":"stream-notify-room","params":["{event}",false]}}"#
        );
        assert_eq!(self.client(&sub), Verdict::Forward);
        self.streamer(&format!(r#"{{"msg":"ready","subs":["{id}"]}}"#));
    }
}

fn event(name: &str, arg: &str) -> String {
    format!(
        r#"{{"msg":"changed","collection":"stream-notify-room","id":"id","fields":{{"eventName":"{name}","args":["{arg}"]}}}}"#
    )
}

#[test]
fn the_client_notices_nothing() {
    let mut stage = Stage::new();
    stage.subscribe("a", "r/x");
    assert_eq!(
        stage.client(r#"{"msg":"method","id":"2","method":"UserPresence:away","params":[]}"#),
        Verdict::Forward
    );
    stage.streamer(r#"{"msg":"result","id":"2"}"#);
    stage.streamer(r#"{"msg":"updated","methods":["2"]}"#);
    stage.heard.notes.clear();
    assert_eq!(
        stage.shadowed(),
        [
            r#"{"msg":"method","id":"ddpgw:login","method":"login","params":[{"resume":"t1"}]}"#,
            r#"{"msg":"method","id":"ddpgw:p1","method":"UserPresence:away","params":[]}"#,
            r#"{"msg":"sub","id":"a","name":"stream-notify-room","params":["r/x",false]}"#,
        ]
    );
    // Both legs bring the same, one after the other.
    assert_eq!(stage.streamer(&event("r/x", "1")), [event("r/x", "1")]);
    stage.shadow(&event("r/x", "1"));
    stage.shadow(&event("r/x", "2"));
    assert_eq!(stage.streamer(&event("r/x", "2")), [event("r/x", "2")]);
    stage.level();
    // While the client is held, the old leg has brought what the new one has not, and the other way
    // round.
    assert_eq!(stage.streamer(&event("r/x", "3")), [event("r/x", "3")]);
    stage.shadow(&event("r/x", "3"));
    stage.shadow(&event("r/x", "4"));
    assert_eq!(stage.streamer(&event("r/x", "4")), [event("r/x", "4")]);
    stage.shadow(&event("r/x", "5"));
    let method = r#"{"msg":"method","id":"3","method":"sendMessage","params":[]}"#;
    assert_eq!(stage.client(method), Verdict::Hold);
    assert!(!stage.session.wants_switch(), "not fenced");
    assert_eq!(stage.answer_fences(), []);
    assert_eq!(
        stage.streamer(&event("r/y", "late")),
        [event("r/y", "late")]
    );
    assert_eq!(stage.switch(), [event("r/x", "5")]);
    assert!(matches!(
        stage.heard.notes[..],
        [Note::Login { .. }, Note::Moved { .. }]
    ));
    // What the old leg had brought comes once more, and then what is new.
    assert!(stage.streamer(&event("r/y", "late")).is_empty());
    assert_eq!(
        stage.streamer(&event("r/y", "late")),
        [event("r/y", "late")]
    );
    assert_eq!(
        stage.client(&method.replace("\"3\"", "\"4\"")),
        Verdict::Forward
    );
    let logout = r#"{"msg":"changed","collection":"stream-notify-user","id":"id","fields":{"eventName":"u1/force_logout","args":["up-2"]}}"#;
    let told = stage.streamer(logout);
    assert!(
        told[0].contains("up-1") && !told[0].contains("up-2"),
        "{told:?}"
    );
    for _ in 0..20 {
        stage.now += SKEW;
        stage.session.handle_timeout(stage.now);
        stage.answer_fences();
    }
    assert!(!stage.session.compares_events(), "it is over");
    assert_eq!(
        stage.session.begin_move(stage.now),
        Ok(()),
        "and may begin anew"
    );
}

#[test]
fn the_token_of_a_login_behind_the_switch_is_kept() {
    for settles_first in [true, false] {
        let mut stage = Stage::new();
        stage.shadowed();
        stage.level();
        stage.answer_fences();
        stage.switch();
        let login = r#"{"msg":"method","id":"5","method":"login","params":[{"resume":"t2"}]}"#;
        assert_eq!(stage.client(login), Verdict::Hold);
        stage.session.handle_login_turn();
        let settle = |stage: &mut Stage| {
            for _ in 0..20 {
                stage.now += SKEW;
                stage.session.handle_timeout(stage.now);
                stage.answer_fences();
            }
            assert!(!stage.session.compares_events());
        };
        if settles_first {
            settle(&mut stage);
        }
        // Its result names no token.
        stage.streamer(r#"{"msg":"result","id":"5","result":{"id":"u1"}}"#);
        stage.streamer(r#"{"msg":"updated","methods":["5"]}"#);
        let token = stage.session.journal().unwrap().token().unwrap();
        assert_eq!(token.expose(), "t2");
        if !settles_first {
            settle(&mut stage);
        }
        assert_eq!(stage.session.begin_move(stage.now), Ok(()));
    }
}

#[test]
fn a_forced_logout_is_the_clients_whichever_leg_it_names() {
    let mut stage = Stage::new();
    let sub =
        r#"{"msg":"sub","id":"f","name":"stream-notify-user","params":["u1/force_logout",false]}"#;
    stage.client(sub);
    stage.streamer(r#"{"msg":"ready","subs":["f"]}"#);
    let event = |session: &str, number: u32| {
        format!(
            r#"{{"msg":"changed","collection":"stream-notify-user","id":"id","fields":{{"eventName":"u1/force_logout","args":["{session}",{number}]}}}}"#
        )
    };
    for (old, new) in [("up-1", "up-2"), ("up-2", "up-3")] {
        stage.shadowed_by(new);
        for (number, named) in [(1, old), (2, new)] {
            let event_of = event(named, number);
            assert_eq!(stage.streamer(&event_of), [event("up-1", number)]);
            stage.shadow(&event_of);
        }
        stage.level();
        // By the old leg before the switch, and by the new one behind it.
        assert_eq!(stage.streamer(&event(old, 3)), [event("up-1", 3)]);
        stage.shadow(&event(new, 4));
        stage.answer_fences();
        assert_eq!(stage.switch(), [event("up-1", 4)]);
        assert!(stage.streamer(&event(old, 3)).is_empty());
        for _ in 0..20 {
            stage.now += SKEW;
            stage.session.handle_timeout(stage.now);
            stage.answer_fences();
        }
        assert!(!stage.session.compares_events());
        // A name that is nobody's any more is left as it is.
        let over = event("up-9", 5);
        assert_eq!(stage.streamer(&over), [over.as_str()]);
    }
}

#[test]
fn a_client_that_asks_for_more_than_is_kept_is_not_moved() {
    let mut stage = Stage::new();
    let mut rules = Stage::rules();
    rules.quotas = QuotaRules {
        connection: None,
        user: None,
        address: None,
        connection_method: None,
        user_method: None,
        abuse: None,
    };
    stage.session.handle_rules(Arc::new(rules));
    stage.shadowed();
    for number in 0..2_000 {
        let id = number.to_string();
        stage.subscribe(&id, "r/x");
        let unsub = format!(r#"{{"msg":"unsub","id":"{id}"}}"#);
        assert_eq!(stage.client(&unsub), Verdict::Forward);
        stage.streamer(&format!(r#"{{"msg":"nosub","id":"{id}"}}"#));
    }
    assert!(stage.session.is_moving(), "the new leg is slow");
    stage.subscribe("more", "r/x");
    assert!(!stage.session.is_moving());
    assert_eq!(
        stage.answer_fences(),
        [Action::Abandon(Aborted::TooMuch)],
        "and the client has noticed nothing"
    );
}

#[test]
fn what_the_client_writes_does_not_come_back() {
    let mut stage = Stage::new();
    stage.subscribe("a", "r/typing");
    stage.shadowed();
    let typing =
        r#"{"msg":"method","id":"9","method":"stream-notify-room","params":["r/typing","ann"]}"#;
    assert_eq!(stage.client(typing), Verdict::Forward);
    stage.shadow(&event("r/typing", "ann"));
    stage.streamer(r#"{"msg":"result","id":"9"}"#);
    stage.streamer(r#"{"msg":"updated","methods":["9"]}"#);
    stage.level();
    stage.answer_fences();
    assert!(stage.switch().is_empty());
}

#[test]
fn a_write_behind_a_slow_method_does_not_come_back() {
    let mut stage = Stage::new();
    stage.subscribe("a", "r/typing");
    let typing =
        r#"{"msg":"method","id":"9","method":"stream-notify-room","params":["r/typing","ann"]}"#;
    // Written before there is a new leg, and published long after.
    stage.session.begin_move(stage.now).unwrap();
    assert_eq!(stage.client(typing), Verdict::Forward);
    let mut turn = Turn {
        now: stage.now,
        quotas: &stage.quotas,
        effects: &mut stage.heard,
    };
    stage.session.handle_shadow_attached("up-2", &mut turn);
    stage.shadow(r#"{"msg":"result","id":"ddpgw:login","result":{"id":"u1","token":"t1"}}"#);
    stage.shadow(r#"{"msg":"ready","subs":["a"]}"#);
    for _ in 0..10 {
        stage.now += SKEW;
        stage.session.handle_timeout(stage.now);
        stage.answer_fences();
    }
    stage.streamer(r#"{"msg":"result","id":"9"}"#);
    stage.streamer(r#"{"msg":"updated","methods":["9"]}"#);
    stage.shadow(&event("r/typing", "ann"));
    stage.level();
    stage.answer_fences();
    assert!(stage.switch().is_empty());
}

#[test]
fn a_subscription_made_meanwhile_goes_to_both() {
    let mut stage = Stage::new();
    stage.shadowed();
    stage.subscribe("b", "r/y");
    assert_eq!(stage.heard.shadow.len(), 1);
    assert_eq!(
        stage.client(r#"{"msg":"unsub","id":"b"}"#),
        Verdict::Forward
    );
    assert_eq!(stage.streamer(r#"{"msg":"nosub","id":"b"}"#).len(), 1);
    assert_eq!(stage.heard.shadow.len(), 1, "not before it is ready there");
    stage.shadow(r#"{"msg":"ready","subs":["b"]}"#);
    assert_eq!(stage.heard.shadow[1], r#"{"msg":"unsub","id":"b"}"#);
    stage.shadow(&event("r/y", "late"));
    stage.shadow(r#"{"msg":"nosub","id":"b"}"#);
    stage.level();
    stage.answer_fences();
    assert!(stage.switch().is_empty(), "the client has ended it");
}

#[test]
fn the_switch_waits_for_answers_and_gives_up_holding() {
    let mut stage = Stage::new();
    stage.shadowed();
    let method = r#"{"msg":"method","id":"9","method":"rooms/get","params":[]}"#;
    assert_eq!(stage.client(method), Verdict::Forward);
    let before = stage.now;
    stage.level();
    assert!(stage.now >= before + super::PATIENCE, "not held at once");
    stage.answer_fences();
    assert!(!stage.session.wants_switch());
    let next = method.replace("\"9\"", "\"10\"");
    assert_eq!(stage.client(&next), Verdict::Hold);
    stage.now += HOLD_FOR;
    stage.session.handle_timeout(stage.now);
    // The relay may read the client before it asks what is to be done: that comes behind.
    let behind = method.replace("\"9\"", "\"11\"");
    assert_eq!(stage.client(&behind), Verdict::Hold);
    assert!(stage.answer_fences().contains(&Action::Release));
    assert!(!stage.session.holds_client());
    for id in ["9", "10", "11"] {
        stage.streamer(&format!(r#"{{"msg":"result","id":"{id}"}}"#));
        stage.streamer(&format!(r#"{{"msg":"updated","methods":["{id}"]}}"#));
    }
    stage.level();
    stage.answer_fences();
    assert!(stage.switch().is_empty());
}

#[test]
fn an_unsub_that_the_old_leg_ignored_keeps_nobody() {
    let mut stage = Stage::new();
    // The unsub overtakes the sub: no nosub ever comes.
    let sub = r#"{"msg":"sub","id":"a","name":"stream-notify-room","params":["r/x",false]}"#;
    assert_eq!(stage.client(sub), Verdict::Forward);
    assert_eq!(
        stage.client(r#"{"msg":"unsub","id":"a"}"#),
        Verdict::Forward
    );
    stage.streamer(r#"{"msg":"ready","subs":["a"]}"#);
    assert_eq!(stage.shadowed().len(), 1, "only the login");
    stage.level();
    stage.answer_fences();
    assert_eq!(stage.switch(), [r#"{"msg":"nosub","id":"a"}"#]);
    assert_eq!(stage.session.journal().unwrap().sub_count(), 0);
}

#[test]
fn a_move_that_is_given_up_has_changed_nothing() {
    let mut stage = Stage::new();
    stage.subscribe("a", "r/x");
    stage.shadowed();
    stage.level();
    assert_eq!(stage.client(r#"{"msg":"ping","id":"p"}"#), Verdict::Hold);
    stage.shadow(&event("r/x", "ahead"));
    stage
        .session
        .handle_shadow_lost(Aborted::Unreachable, stage.now);
    let actions: Vec<_> = stage.answer_fences();
    assert_eq!(
        actions,
        [Action::Release, Action::Abandon(Aborted::Unreachable)]
    );
    assert!(stage.heard.replies.is_empty());
    assert_eq!(
        stage.streamer(&event("r/x", "ahead")),
        [event("r/x", "ahead")]
    );
    assert_eq!(stage.client(r#"{"msg":"ping","id":"p"}"#), Verdict::Forward);
    assert!(
        stage
            .streamer(&fence(4711).replace("ping", "pong"))
            .is_empty()
    );
}

#[test]
fn a_refused_token_ends_the_client() {
    let mut stage = Stage::new();
    stage.session.begin_move(stage.now).unwrap();
    let mut turn = Turn {
        now: stage.now,
        quotas: &stage.quotas,
        effects: &mut stage.heard,
    };
    stage.session.handle_shadow_attached("up-2", &mut turn);
    stage.shadow(r#"{"msg":"result","id":"ddpgw:login","error":{"error":403}}"#);
    assert_eq!(stage.session.phase(), Phase::Closing(Disconnect::LoggedOut));
    assert_eq!(
        stage.session.poll_action(),
        Some(Action::Close(Disconnect::LoggedOut))
    );
}

#[test]
fn who_is_not_moved() {
    let refusal = |prepare: &dyn Fn(&mut Stage)| {
        let mut stage = Stage::new();
        prepare(&mut stage);
        stage.session.begin_move(stage.now).unwrap_err()
    };
    let sub = r#"{"msg":"sub","id":"z","name":"no.such","params":[]}"#;
    let livechat = r#"{"msg":"method","id":"7","method":"livechat:setUpConnection","params":[]}"#;
    let login = r#"{"msg":"method","id":"8","method":"login","params":[]}"#;
    assert_eq!(
        refusal(&|stage| _ = stage.client(sub)),
        Unmovable::UnknownPublication
    );
    assert_eq!(
        refusal(&|stage| _ = stage.client(livechat)),
        Unmovable::Livechat
    );
    assert_eq!(
        refusal(&|stage| _ = stage.client(login)),
        Unmovable::LoggingIn
    );
    let write = r#"{"msg":"method","id":"8","method":"stream-notify-room","params":["r/x"]}"#;
    assert_eq!(
        refusal(&|stage| _ = stage.client(write)),
        Unmovable::Writing
    );
    assert_eq!(
        refusal(&|stage| drop(stage.streamer(r#"{"msg":"updated","methods":["?"]}"#))),
        Unmovable::Odd
    );
    assert_eq!(
        refusal(&|stage| stage.session.close(Disconnect::Operator, stage.now)),
        Unmovable::NotLive
    );
}
