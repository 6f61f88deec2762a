//! One run: a clock, what is due, and who does it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    ddp::Framing,
    session::{Disconnect, Phase, Quotas, Session},
};
use serde_json::json;

use super::{
    bus::{Bus, Fields, Key, USER, What},
    client::Client,
    habits::{SUB_IDS, SUBS, TYPED, WATCHED},
    leg::Leg,
    plan::{Fault, Obstacle, Plan},
    tally::Tally,
};
use crate::{client::quoted, wire::Wire};

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) wire: Wire,
    pub(crate) client: Client,
    pub(crate) bus: Bus,
    /// The documents of each streamer.
    pub(crate) stores: [BTreeMap<Key, Fields>; 2],
    /// All there ever were.
    pub(crate) legs: Vec<Leg>,
    /// Which leg was in charge from when.
    pub(crate) charge: Vec<(Instant, usize)>,
    pub(crate) shadow: Option<usize>,
    pub(crate) moving: Option<Moving>,
    /// A leg that does nothing any more.
    pub(crate) hanging: Option<usize>,
    pub(crate) agenda: BTreeMap<(Instant, u64), Event>,
    pub(crate) next: u64,
    /// The number of the last request of the client that a streamer has executed.
    pub(crate) executed: u64,
    /// The client logged in without a token that could be used again.
    pub(crate) untold_token: bool,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) closed: Option<Disconnect>,
    /// A leg was lost or closed, or the client: not everything is answered.
    pub(crate) broken: bool,
    /// A new leg has refused the login.
    pub(crate) login_refused: bool,
    pub(crate) tally: Tally,
    /// What waits because the one before it is not through.
    pub(crate) outbox: VecDeque<Vec<u8>>,
    pub(crate) login_due: bool,
    pub(crate) switch_due: bool,
    /// Since when the client's messages wait for the switch.
    pub(crate) held: Option<Instant>,
    pub(crate) passing: Vec<serde_json::Value>,
    /// Who has typed where.
    typed: BTreeSet<String>,
    pub(crate) obstacle_met: bool,
    moves: usize,
    tries: usize,
    stopping: bool,
    trace: bool,
}

/// A move from its beginning to the switch or the end.
pub(crate) struct Moving {
    pub(crate) began: Instant,
    /// There is a new leg.
    pub(crate) reached: Option<Instant>,
    pub(crate) fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Attached,
    Client,
    ClientEnds,
    Pong,
    Chatter,
    Up(usize),
    Down(usize),
    DownEnds(usize),
    Works(usize),
    UserDocument(usize),
    StreamerPings(usize),
    Closes(usize),
    /// What was published comes to a streamer.
    Bus(usize, usize),
    Document(usize, usize),
    LoginTurn,
    Move,
    /// The dial of the move that began then.
    Dialled(Instant),
    Fault(Fault, usize),
    Switch,
    Stop,
}

impl World {
    pub(crate) fn new(plan: Plan, trace: bool) -> Self {
        let now = Instant::now();
        let mut plan = plan;
        let session = Session::new(plan.framing, Arc::new(plan.rules), now);
        let quotas = Quotas::new(plan.dice.draw(), now);
        let leg = Leg::new(0, plan.dice.below(2), plan.framing);
        Self {
            wire: Wire::new(session, quotas),
            client: Client::new(&leg.session, now),
            bus: Bus::new(plan.skew),
            stores: stores(plan.differ),
            legs: vec![leg],
            charge: vec![(now, 0)],
            shadow: None,
            moving: None,
            hanging: None,
            agenda: BTreeMap::new(),
            next: 0,
            executed: 0,
            untold_token: false,
            start: now,
            now,
            closed: None,
            broken: false,
            login_refused: false,
            tally: Tally::default(),
            outbox: VecDeque::new(),
            login_due: false,
            switch_due: false,
            held: None,
            passing: Vec::new(),
            typed: BTreeSet::new(),
            obstacle_met: false,
            moves: 0,
            tries: 0,
            stopping: false,
            trace,
            plan,
        }
    }

    pub(crate) fn run(&mut self) {
        self.begin();
        for _ in 0..1_000_000 {
            let due = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let timer = self.wire.session.next_timeout();
            let moving = self.wire.session.is_moving();
            let timer = timer.filter(|_| due.is_some() || moving);
            let Some(at) = due.into_iter().chain(timer).min() else {
                break;
            };
            self.now = self.now.max(at);
            self.client.now = self.now;
            if due.is_some_and(|due| due <= self.now) {
                let (_, event) = self.agenda.pop_first().expect("it is due");
                self.happens(event);
            } else {
                self.wire.session.handle_timeout(self.now);
                let next = self.wire.session.next_timeout();
                assert!(
                    next.is_none_or(|next| next > self.now),
                    "a timer that does not move"
                );
                // A relay reads the client before it asks what is to be done.
                if self.plan.dice.chance(30) || !self.wire.later.is_empty() {
                    self.client_says_something();
                }
            }
            self.follow();
            self.check();
            if self.closed.is_some() {
                self.check_end();
                return;
            }
        }
        assert!(self.agenda.is_empty(), "it goes on and on");
        self.check_end();
    }

    pub(crate) fn at(&mut self, wait: Duration, event: Event) {
        self.when(self.now + wait, event);
    }

    pub(crate) fn when(&mut self, at: Instant, event: Event) {
        self.agenda.insert((at, self.next), event);
        self.next += 1;
    }

    /// The leg in charge.
    pub(crate) fn leg(&self) -> usize {
        self.charge.last().expect("there is always one").1
    }

    fn begin(&mut self) {
        self.says("connect");
        let connect = r#"{"msg":"connect","version":"1","support":["1"]}"#;
        let text = framed(self.plan.framing, &[connect.to_owned()]);
        self.sends(text);
        let soon = self.plan.dice.time(Duration::from_millis(60));
        self.at(soon, Event::Attached);
        if self.plan.obstacle == Some(Obstacle::NotLive) {
            self.moves();
        }
        if self.plan.logs_in {
            let resumes = self.plan.obstacle != Some(Obstacle::NoToken);
            let login = self.client.login(resumes);
            self.says_all(&[login]);
        } else {
            self.tally.anonymous += 1;
        }
        let subs = 2 + self.plan.dice.below(6);
        for id in SUB_IDS.iter().take(subs) {
            let sub = self.client.any_sub(id, &mut self.plan, self.now);
            self.says_all(&[sub]);
        }
        self.follow();
    }

    fn happens(&mut self, event: Event) {
        if self.trace {
            self.says(&format!("{event:?}"));
        }
        match event {
            Event::Attached => self.attached(),
            Event::Client => self.client_acts(),
            Event::ClientEnds => self.client_ends(),
            Event::Pong => {
                let pong = self.client.pong();
                self.says_all(&[pong]);
            }
            Event::Chatter => self.chatter(),
            Event::Up(leg) => self.arrives(leg),
            Event::Down(leg) => self.comes_down(leg),
            Event::DownEnds(leg) => self.down_ends(leg),
            Event::Works(leg) => self.works(leg),
            Event::UserDocument(leg) => self.shows_user(leg),
            Event::StreamerPings(leg) => self.streamer_pings(leg),
            Event::Closes(leg) => self.closes(leg),
            Event::Bus(streamer, publication) => self.delivers(streamer, publication),
            Event::Document(streamer, change) => self.changes(streamer, change),
            Event::LoginTurn => self.login_turn(),
            Event::Move => self.moves(),
            Event::Dialled(began) => self.dialled(began),
            Event::Fault(fault, number) => self.fails(fault, number),
            Event::Switch => self.switches(),
            Event::Stop => self.stopping = true,
        }
    }

    fn attached(&mut self) {
        let session = self.client.session.clone();
        self.wire.session.handle_attached(&session, self.now);
        self.at(Duration::ZERO, Event::Client);
        self.at(Duration::ZERO, Event::Chatter);
        self.at(Duration::from_millis(30), Event::StreamerPings(0));
        let first = self.plan.dice.time(Duration::from_millis(1_200));
        self.at(first, Event::Move);
        if self.plan.obstacle == Some(Obstacle::Livechat) {
            let call = self.client.call("livechat:setUpConnection", &json!([]));
            self.says_all(&[call]);
        }
    }

    /// A long move is looked at less often.
    fn patience(&self) -> u32 {
        let began = self.moving.as_ref().map(|moving| moving.began);
        match began.map(|began| self.now - began) {
            Some(since) if since > Duration::from_secs(2) => 60,
            _ => 1,
        }
    }

    fn client_acts(&mut self) {
        if self.stopping {
            return;
        }
        let wait = self.plan.dice.time(self.plan.pause) * self.patience();
        self.at(wait, Event::Client);
        self.client_says_something();
    }

    fn client_says_something(&mut self) {
        if self.stopping {
            return;
        }
        let free = self.outbox.is_empty() && !self.wire.client_is_half_through();
        if !free || !self.wire.session.reads_client() || self.phase() != Phase::Live {
            return;
        }
        let messages = self.client.act(&mut self.plan, self.now);
        if self.wire.session.is_moving() {
            let is = |what: &str| messages.iter().any(|message| message.contains(what));
            self.tally.subs_while_moving += u64::from(is(r#""msg":"sub""#));
            self.tally.unsubs_while_moving += u64::from(is(r#""msg":"unsub""#));
            self.tally.watches_while_moving += u64::from(is("stream-user-presence"));
            self.tally.presence_while_moving += u64::from(is("UserPresence:"));
        }
        self.says_all(&messages);
    }

    pub(crate) fn says_all(&mut self, messages: &[String]) {
        let short: usize = messages.iter().map(String::len).sum();
        if self.plan.framing == Framing::SockJs && short < 400 && self.plan.dice.chance(50) {
            let text = framed(self.plan.framing, messages);
            return self.sends(text);
        }
        for message in messages {
            let text = framed(self.plan.framing, std::slice::from_ref(message));
            self.sends(text);
        }
    }

    fn chatter(&mut self) {
        if self.stopping {
            return;
        }
        let wait = self.plan.dice.time(self.plan.chatter) * self.patience();
        self.at(wait, Event::Chatter);
        let dice = &mut self.plan.dice;
        match dice.below(20) {
            0..4 => {
                let event = (*dice.pick(TYPED)).to_owned();
                let name = format!("user{}", dice.below(200));
                let times = *dice.pick(&[1, 1, 2, 3]);
                // Streamers write it alike each time: from a steady flow of them nobody could tell
                // how many one of the legs has missed.
                if !self.typed.insert(format!("{event} {name}")) {
                    return;
                }
                self.tally.repeated_typing += u64::from(times > 1);
                for _ in 0..times {
                    let what = What::Typing { name: name.clone() };
                    self.publish(what, "stream-notify-room", event.clone());
                }
            }
            4..6 => {
                let uid = format!("u{}", dice.below(WATCHED));
                let what = What::Status { uid };
                self.publish(what, "stream-user-presence", String::new());
            }
            6 if dice.chance(50) => {
                let before = self.charge.len().checked_sub(2);
                let before = before.map(|before| self.charge[before].1);
                let leg = match dice.below(4) {
                    0 => None,
                    1 => self.shadow,
                    2 => before.filter(|_| self.settles()),
                    _ => Some(self.leg()),
                };
                self.tally.force_logouts += 1;
                let other = leg.is_some_and(|leg| leg != self.leg());
                self.tally.other_logouts += u64::from(other);
                let session = leg.map(|leg| self.legs[leg].session.clone());
                let event = format!("{USER}/force_logout");
                self.publish(What::ForceLogout { session }, "stream-notify-user", event);
            }
            6..9 => self.document(),
            _ => {
                let (stream, event) = *dice.pick(SUBS);
                let event = event.replace("<uid>", USER);
                let ordinary = stream.starts_with("stream-")
                    && stream != "stream-user-presence"
                    && !event.ends_with("force_logout")
                    && !event.ends_with("user-activity");
                if ordinary {
                    let what = what(stream, &event, &mut self.plan);
                    self.publish(what, stream, event);
                }
            }
        }
    }

    fn document(&mut self) {
        let dice = &mut self.plan.dice;
        let (collection, id) = *dice.pick(DOCUMENTS);
        let value = format!("v{}", dice.below(1_000));
        let mut fields = Fields::from([("name".to_owned(), id.to_owned())]);
        fields.insert(format!("f{}", dice.below(3)), value);
        let gone = collection.starts_with("meteor_accounts") && dice.chance(20);
        let key = (collection.to_owned(), id.to_owned());
        self.change(key, (!gone).then_some(fields));
    }

    fn streamer_pings(&mut self, leg: usize) {
        if self.stopping || self.legs[leg].closed {
            return;
        }
        self.legs[leg].emit(r#"{"msg":"ping"}"#.to_owned());
        self.flush(leg);
        let wait = self.plan.dice.time(Duration::from_secs(2));
        self.at(wait * self.patience(), Event::StreamerPings(leg));
        if self.plan.stalls && self.plan.dice.chance(30) {
            let time = self.plan.dice.time(Duration::from_millis(1_500));
            let now = self.now;
            let leg = &mut self.legs[leg];
            match self.plan.dice.chance(70) {
                true => leg.down.stall(now, time),
                false => leg.up.stall(now, time),
            }
        }
    }

    /// A move is over, or cannot be: the next one, or the end.
    pub(crate) fn moves_on(&mut self) {
        self.moves += 1;
        let wait = self.plan.dice.time(self.plan.between);
        if self.moves < self.plan.faults.len() {
            self.at(wait, Event::Move);
        } else {
            self.at(wait + Duration::from_millis(300), Event::Stop);
        }
    }

    /// What goes wrong with the move that begins.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.plan.faults.get(self.moves).copied().flatten()
    }

    /// Whether it is worth trying again a little later.
    pub(crate) fn tries_again(&mut self) -> bool {
        self.tries += 1;
        self.tries < 5
    }

    pub(crate) fn phase(&self) -> Phase {
        self.wire.session.phase()
    }

    pub(crate) fn says(&self, what: &str) {
        if self.trace {
            let at = (self.now - self.start).as_secs_f64();
            let shadow = self.shadow;
            eprintln!("{at:9.4} {} {shadow:?} {what}", self.leg());
        }
    }

    pub(crate) fn shows(&self, what: &str, text: &[u8]) {
        if self.trace {
            let start = String::from_utf8_lossy(&text[..text.len().min(180)]);
            self.says(&format!("{what} {start}"));
        }
    }
}

fn what(stream: &str, event: &str, plan: &mut Plan) -> What {
    match stream {
        "stream-room-messages" => What::RoomMessage,
        _ if event.ends_with("/message") => What::OwnMessage,
        _ => What::Plain {
            size: match plan.large && plan.dice.chance(10) {
                true => *plan.dice.pick(&[600, 5_000, 40_000]),
                false => 0,
            },
        },
    }
}

pub(crate) fn framed(framing: Framing, messages: &[String]) -> Vec<u8> {
    match framing {
        Framing::Raw => messages[0].as_bytes().to_vec(),
        Framing::SockJs => {
            let quoted: Vec<String> = messages.iter().map(|json| quoted(json)).collect();
            format!("[{}]", quoted.join(",")).into_bytes()
        }
    }
}

fn stores(differ: bool) -> [BTreeMap<Key, Fields>; 2] {
    [0, 1].map(|streamer: usize| {
        let mut store = BTreeMap::new();
        for (collection, id) in DOCUMENTS {
            let mut fields = Fields::from([("name".to_owned(), (*id).to_owned())]);
            if differ {
                fields.insert("by".to_owned(), streamer.to_string());
                if streamer == 1 {
                    fields.insert("more".to_owned(), "1".to_owned());
                }
            }
            let missing = differ && *id == "svc2" && streamer == 0;
            if !missing {
                store.insert(((*collection).to_owned(), (*id).to_owned()), fields);
            }
        }
        store
    })
}

const DOCUMENTS: &[(&str, &str)] = &[
    ("users", USER),
    ("meteor_accounts_loginServiceConfiguration", "svc1"),
    ("meteor_accounts_loginServiceConfiguration", "svc2"),
    ("meteor_autoupdate_clientVersions", "web.browser"),
    ("meteor_autoupdate_clientVersions", "web.cordova"),
];
