//! A session that is live, and what passes in it again and again.

use std::{
    hint::black_box,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    ddp::{Connect, Framing},
    session::{
        Asker, Effects, Note, QuotaRules, Quotas, Rules, Session, Timeouts, Turn, Verdict,
        limits::Allowance,
    },
};

pub(crate) struct Talk {
    session: Session,
    quotas: Quotas,
    now: Instant,
}

struct Nobody;

impl Effects for Nobody {
    fn reply(&mut self, message: String) {
        panic!("the session answers by itself: {message}");
    }

    fn shadow(&mut self, _: String) {}

    fn note(&mut self, note: Note) {
        black_box(note);
    }
}

impl Talk {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let wide = NonZeroU32::new(1_000_000_000).expect("not zero");
        let rules = Rules {
            timeouts: Timeouts {
                resume: Duration::ZERO,
                connect: Duration::from_secs(10),
                idle: Duration::from_secs(60),
                stall: Duration::from_secs(20),
            },
            allowance: Allowance {
                messages_per_second: wide,
                messages_burst: wide,
                bytes_per_second: wide,
                bytes_burst: wide,
                abuse_after: Duration::from_secs(30),
            },
            quotas: QuotaRules::default(),
        };
        let mut session = Session::new(Framing::SockJs, Arc::new(rules), now);
        let connect = Connect {
            session: None,
            version: Some("1".to_owned()),
            support: vec!["1".to_owned()],
            received_count: None,
        };
        let asker = Asker {
            connection: 1,
            user: None,
            client: 2,
            address: Some(3),
        };
        session.handle_connect(&connect, asker, now);
        session.handle_attached("9f1b7c10-5f0e-11ef-9a53-0242ac120002", now);
        // A seed of its own would make each run another one.
        let mut talk = Self {
            session,
            quotas: Quotas::new(1, now),
            now,
        };
        talk.up(SUB, Verdict::Forward);
        talk.down(READY, Verdict::Forward);
        talk
    }

    pub(crate) fn repeat(mut self, rounds: u64, round: fn(&mut Self)) {
        for _ in 0..rounds {
            // Slow enough for every quota.
            self.now += Duration::from_secs(2);
            round(&mut self);
        }
    }

    pub(crate) fn event(&mut self) {
        self.down(EVENT, Verdict::Forward);
    }

    pub(crate) fn method(&mut self) {
        self.up(METHOD, Verdict::Forward);
        self.down(RESULT, Verdict::Forward);
        self.down(UPDATED, Verdict::Forward);
    }

    /// A method was too large to be read, so that any result may be its own, again and again.
    pub(crate) fn after_a_large_method(mut self) -> Self {
        let verdict = self.session.handle_oversized(METHOD.as_bytes());
        assert_eq!(verdict, Verdict::Forward);
        self
    }

    pub(crate) fn result(&mut self) {
        self.down(ROOMS, Verdict::Forward);
    }

    pub(crate) fn ping(&mut self) {
        self.up(PING, Verdict::Forward);
        self.down(PONG, Verdict::Forward);
    }

    fn up(&mut self, text: &str, expected: Verdict) {
        let text = black_box(text).as_bytes();
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut Nobody,
        };
        let mut verdict = self.session.handle_client(true, text, true, &mut turn);
        if verdict == Verdict::Assemble {
            let passage = self.session.handle_assembled(text, &mut turn);
            verdict = match passage {
                Ok(passage) => passage.verdict.expect("it is one message"),
                Err(reason) => Verdict::Close(reason),
            };
        }
        assert_eq!(verdict, expected);
    }

    fn down(&mut self, text: &str, expected: Verdict) {
        let text = black_box(text).as_bytes();
        let mut turn = Turn {
            now: self.now,
            quotas: &self.quotas,
            effects: &mut Nobody,
        };
        let mut verdict = self.session.handle_streamer(text, true, &mut turn);
        if verdict == Verdict::Assemble {
            let passage = self.session.handle_streamer_assembled(text, &mut turn);
            verdict = passage.verdict.expect("it is one message");
        }
        assert_eq!(verdict, expected);
    }
}

const SUB: &str = r#"["{\"msg\":\"sub\",\"id\":\"s1\",\"name\":\"stream-room-messages\",\"params\":[\"GENERAL\",{\"useCollection\":false,\"args\":[]}]}"]"#;
const READY: &str = r#"a["{\"msg\":\"ready\",\"subs\":[\"s1\"]}"]"#;
pub(crate) const METHOD: &str = r#"["{\"msg\":\"method\",\"id\":\"41\",\"method\":\"stream-notify-room\",\"params\":[\"GENERAL/user-activity\",\"ada\",[\"user-typing\"],{}]}"]"#;
const RESULT: &str = r#"a["{\"msg\":\"result\",\"id\":\"41\",\"result\":null}"]"#;
const UPDATED: &str = r#"a["{\"msg\":\"updated\",\"methods\":[\"41\"]}"]"#;
pub(crate) const EVENT: &str = r#"a["{\"msg\":\"changed\",\"collection\":\"stream-room-messages\",\"id\":\"id\",\"fields\":{\"eventName\":\"GENERAL\",\"args\":[{\"_id\":\"m4hq9Tq2EnoNZm8zB\",\"rid\":\"GENERAL\",\"msg\":\"Shall we meet at ten?\",\"ts\":{\"$date\":1763712000000},\"u\":{\"_id\":\"nDb9CZTMt8pDvqqnP\",\"username\":\"ada\",\"name\":\"Ada\"},\"mentions\":[],\"channels\":[],\"_updatedAt\":{\"$date\":1763712000001}}]}}"]"#;
pub(crate) const PING: &str = r#"["{\"msg\":\"ping\"}"]"#;
const PONG: &str = r#"a["{\"msg\":\"pong\"}"]"#;
const ROOMS: &str = r#"a["{\"msg\":\"result\",\"id\":\"42\",\"result\":{\"update\":[{\"_id\":\"GENERAL\",\"t\":\"c\",\"name\":\"general\",\"usernames\":[],\"msgs\":120,\"usersCount\":17,\"default\":true,\"lm\":{\"$date\":1763712000000},\"_updatedAt\":{\"$date\":1763712000001},\"ro\":false,\"u\":{\"_id\":\"rocket.cat\",\"username\":\"rocket.cat\"}}],\"remove\":[]}}"]"#;
