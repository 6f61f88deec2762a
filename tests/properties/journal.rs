//! The journal under random operations, beside one that keeps everything in plain strings.

use ddp_gateway::{
    pool::SplitMix,
    session::journal::{
        Answered, Begun, Bounds, Journal, LONGEST_ID, LONGEST_TEXT, Name, Presence, Updated, Waited,
    },
};
use serde_json::{Value, json};

#[test]
fn a_roomy_journal_is_a_plain_one_in_fewer_bytes() {
    for seed in 0..40 {
        let bounds = Bounds {
            bytes: 64 * 1024,
            subs: 25,
            methods: 8,
        };
        let mut world = World::new(seed, bounds);
        world.run(300);
        assert!(!world.journal.overflowed(), "seed {seed}");
    }
}

#[test]
fn a_cramped_journal_drops_what_it_says_it_drops() {
    let mut overflowed = 0;
    for (seed, bytes) in (0..60).zip((100..).step_by(20)) {
        let bounds = Bounds {
            bytes,
            subs: 40,
            methods: 20,
        };
        let mut world = World::new(1_000 + seed, bounds);
        world.run(250);
        overflowed += u32::from(world.overflows > 0);
    }
    assert!(overflowed > 10, "the test is about {overflowed} cases only");
}

struct World {
    name: String,
    random: SplitMix,
    bounds: Bounds,
    journal: Journal,
    plain: Plain,
    /// How often parameters were dropped.
    overflows: u32,
    clock: u32,
}

#[derive(Default)]
struct Plain {
    session: Option<String>,
    user: Option<String>,
    token: Option<String>,
    presence: Option<Presence>,
    subs: Vec<Sub>,
    methods: Vec<Method>,
    unseen: u32,
    overflowed: bool,
}

#[derive(Clone)]
struct Sub {
    id: String,
    name: String,
    params: String,
    since: u32,
    ready: bool,
    ending: bool,
}

struct Method {
    id: String,
    name: String,
    since: u32,
    result: bool,
    updated: bool,
}

impl World {
    fn new(seed: u64, bounds: Bounds) -> Self {
        Self {
            name: format!("seed {seed}"),
            random: SplitMix(seed),
            bounds,
            journal: Journal::new(bounds),
            plain: Plain::default(),
            overflows: 0,
            clock: 0,
        }
    }

    fn run(&mut self, steps: u32) {
        let seed = self.name.clone();
        for step in 0..steps {
            self.name = format!("{seed}, step {step}");
            self.clock = self.clock.wrapping_add(count(self.below(1 << 22)));
            self.step();
            self.check();
        }
        for id in self
            .plain
            .subs
            .iter()
            .map(|sub| sub.id.clone())
            .collect::<Vec<_>>()
        {
            self.end_sub(&id);
        }
        for id in self
            .plain
            .methods
            .iter()
            .map(|method| method.id.clone())
            .collect::<Vec<_>>()
        {
            self.result(&id);
            self.updated(&id);
        }
        self.check();
        self.journal.log_out();
        self.journal.set_session(&"x".repeat(LONGEST_TEXT + 1));
        assert_eq!(self.journal.bytes(), 0, "{}", self.name);
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..25 => self.begin_sub(),
            25..40 => {
                let id = self.sub_id();
                let expected = match self.plain.sub(&id) {
                    None => Answered::Unknown,
                    Some(sub) if sub.ready => Answered::Again,
                    Some(sub) => {
                        sub.ready = true;
                        first(&sub.name, sub.since, false)
                    }
                };
                assert_eq!(self.journal.sub_ready(&id), expected, "{}", self.name);
            }
            40..48 => {
                let id = self.sub_id();
                let known = self.plain.sub(&id).map(|sub| sub.ending = true).is_some();
                assert_eq!(self.journal.wants_end(&id), known, "{}", self.name);
            }
            48..60 => {
                let id = self.sub_id();
                self.end_sub(&id);
            }
            60..72 => self.begin_method(),
            72..80 => {
                let id = self.method_id();
                self.result(&id);
            }
            80..88 => {
                let id = self.method_id();
                self.updated(&id);
            }
            88..91 => self.log_in(),
            91 => {
                self.plain.user = None;
                self.plain.token = None;
                self.plain.presence = None;
                let before = self.journal.overflowed();
                self.journal.log_out();
                self.adopt_overflow(before, 0);
            }
            92..94 => {
                let session = self.some_id();
                self.plain.session = None;
                let before = self.journal.overflowed();
                self.journal.set_session(&session);
                self.adopt_overflow(before, session.len() + 4);
                self.plain.session = self.kept(session, self.journal.session().is_some());
            }
            94..96 => {
                let presence = if self.random.below(2) == 0 {
                    Presence::Online
                } else {
                    Presence::Away
                };
                self.plain.presence = Some(presence);
                self.journal.set_presence(presence);
            }
            96..98 => {
                self.plain.unseen += 1;
                self.journal.begin_unseen();
            }
            _ => {
                self.plain.unseen = self.plain.unseen.saturating_sub(1);
                self.journal.end_unseen();
            }
        }
    }

    fn begin_sub(&mut self) {
        let id = self.sub_id();
        let (name, params) = self.request();
        let sub = Sub {
            id,
            name,
            params,
            since: self.clock,
            ready: false,
            ending: false,
        };
        let overflowed = self.journal.overflowed();
        let begun = self
            .journal
            .begin_sub(&sub.id, &sub.name, &sub.params, sub.since);
        let subs = count(self.plain.subs.len());
        if self.plain.sub(&sub.id).is_some() {
            assert_eq!(begun, Begun::Duplicate, "{}", self.name);
            return;
        }
        if sub.id.len() > LONGEST_ID || subs >= self.bounds.subs {
            assert_eq!(begun, Begun::Full, "{}", self.name);
            return;
        }
        match begun {
            Begun::New => self.plain.subs.push(sub.clone()),
            Begun::Full => self.no_room_for_ids(sub.id.len()),
            Begun::Duplicate => panic!("{}: nobody has {}", self.name, sub.id),
        }
        self.adopt_overflow(overflowed, sub.bytes());
    }

    fn end_sub(&mut self, id: &str) {
        let place = self.plain.subs.iter().position(|sub| sub.id == id);
        let overflowed = self.journal.overflowed();
        let answered = self.journal.end_sub(id);
        let Some(place) = place else {
            assert_eq!(answered, Answered::Unknown, "{}", self.name);
            return;
        };
        let sub = self.plain.subs.remove(place);
        if sub.ready {
            assert_eq!(answered, Answered::Again, "{}", self.name);
        } else {
            assert_eq!(
                answered,
                first(&sub.name, sub.since, false),
                "{}",
                self.name
            );
            self.plain.change_presence(&sub);
        }
        if self.plain.subs.is_empty() {
            self.plain.overflowed = false;
        }
        self.adopt_overflow(overflowed, 0);
    }

    fn begin_method(&mut self) {
        let id = self.method_id();
        let name = self.method_name();
        let overflowed = self.journal.overflowed();
        let begun = self.journal.begin_method(&id, &name, self.clock);
        let methods = count(self.plain.methods.len());
        if id.len() > LONGEST_ID || methods >= self.bounds.methods {
            assert_eq!(begun, Begun::Full, "{}", self.name);
            return;
        }
        let len = id.len();
        match begun {
            Begun::New => self.plain.methods.push(Method {
                id,
                name,
                since: self.clock,
                result: false,
                updated: false,
            }),
            Begun::Full => self.no_room_for_ids(len),
            Begun::Duplicate => panic!("{}: methods may share an id", self.name),
        }
        self.adopt_overflow(overflowed, len + ENTRY);
    }

    fn result(&mut self, id: &str) {
        let waiting = |method: &Method| method.id == id && !method.result;
        let expected = match self.plain.methods.iter().position(waiting) {
            None if self.plain.methods.iter().any(|method| method.id == id) => Answered::Again,
            None => Answered::Unknown,
            Some(place) => {
                let method = &mut self.plain.methods[place];
                method.result = true;
                let updated = method.updated;
                let expected = first(&method.name, method.since, updated);
                if updated {
                    self.plain.methods.remove(place);
                }
                expected
            }
        };
        assert_eq!(self.journal.method_result(id), expected, "{}", self.name);
    }

    fn updated(&mut self, id: &str) {
        let methods = &mut self.plain.methods;
        let answered = methods
            .iter()
            .position(|method| method.id == id && method.result);
        let expected = if let Some(place) = answered {
            methods.remove(place);
            Updated::Forward
        } else if let Some(method) = methods
            .iter_mut()
            .find(|method| method.id == id && !method.updated)
        {
            method.updated = true;
            Updated::Early
        } else if methods.iter().any(|method| method.id == id) {
            Updated::Early
        } else {
            Updated::Unknown
        };
        assert_eq!(self.journal.method_updated(id), expected, "{}", self.name);
    }

    fn log_in(&mut self) {
        let user = self.user_id();
        let token = (self.random.below(3) > 0).then(|| self.some_id());
        self.plain.user = None;
        self.plain.token = None;
        let overflowed = self.journal.overflowed();
        self.journal.log_in(&user, token.as_deref());
        self.adopt_overflow(
            overflowed,
            user.len() + token.as_ref().map_or(0, String::len) + 8,
        );
        self.plain.user = self.kept(user, self.journal.user().is_some());
        self.plain.token = token.and_then(|token| self.kept(token, self.journal.token().is_some()));
    }

    /// A text about the session is kept unless it is too long or there is no room.
    fn kept(&self, text: String, kept: bool) -> Option<String> {
        if kept {
            return Some(text);
        }
        if text.len() <= LONGEST_TEXT {
            self.no_room_for_ids(text.len());
        }
        None
    }

    /// Compares everything that can be asked.
    fn check(&self) {
        let (journal, plain, name) = (&self.journal, &self.plain, &self.name);
        assert_eq!(
            journal.session().as_deref(),
            plain.session.as_deref(),
            "{name}"
        );
        assert_eq!(journal.user().as_deref(), plain.user.as_deref(), "{name}");
        assert_eq!(
            journal.token().map(|token| token.expose().clone()),
            plain.token,
            "{name}"
        );
        assert_eq!(journal.presence(), plain.presence, "{name}");
        assert_eq!(journal.unseen(), plain.unseen, "{name}");
        assert_eq!(
            journal.unanswered_methods(),
            count(plain.methods.len()),
            "{name}"
        );
        assert_eq!(journal.sub_count(), count(plain.subs.len()), "{name}");
        let pending = plain.subs.iter().filter(|sub| !sub.ready).count();
        assert_eq!(journal.pending_subs(), count(pending), "{name}");
        let mut subs = journal.subs();
        for expected in &plain.subs {
            let Some(sub) = subs.next() else {
                panic!("{name}: {} is missing", expected.id);
            };
            assert_eq!(sub.id, expected.id, "{name}");
            assert_eq!(sub.name, Name::of(&expected.name), "{name}");
            assert_eq!(
                (sub.ready, sub.ending),
                (expected.ready, expected.ending),
                "{name}"
            );
            let request = sub
                .request
                .as_ref()
                .map(|request| (&*request.name, &*request.params));
            let whole = (&*expected.name, &*expected.params);
            assert_eq!(request, (!plain.overflowed).then_some(whole), "{name}");
        }
        assert!(subs.next().is_none(), "{name}");
        assert_eq!(journal.overflowed(), plain.overflowed, "{name}");
        assert!(journal.bytes() <= self.bounds.bytes, "{name}");
        let least = plain.subs.len() * 3 + plain.methods.len() * 3;
        assert!(
            journal.bytes() >= least,
            "{name}: {} cannot be",
            journal.bytes()
        );
        self.check_debug();
    }

    fn check_debug(&self) {
        let printed = format!(
            "{:?} {:?}",
            self.journal,
            self.journal.subs().collect::<Vec<_>>()
        );
        let subs = self
            .plain
            .subs
            .iter()
            .flat_map(|sub| [&sub.id, &sub.params]);
        let methods = self.plain.methods.iter().map(|method| &method.id);
        let identity = [&self.plain.session, &self.plain.user, &self.plain.token];
        for secret in subs.chain(methods).chain(identity.into_iter().flatten()) {
            // Shorter ones are found by chance in a name or a number.
            if secret.chars().count() > 8 {
                assert!(
                    !printed.contains(secret.as_str()),
                    "{}: {printed}",
                    self.name
                );
            }
        }
    }

    /// Parameters may be dropped when there is no room for them, and not otherwise.
    fn adopt_overflow(&mut self, before: bool, more: usize) {
        if self.journal.overflowed() && !before {
            let wanted = self.plain.bytes() + more;
            assert!(
                wanted > self.bounds.bytes,
                "{}: there is room for {wanted}",
                self.name
            );
            self.overflows += 1;
        }
        self.plain.overflowed = self.journal.overflowed();
        assert!(
            !self.plain.overflowed || !self.plain.subs.is_empty(),
            "{}",
            self.name
        );
    }

    /// `Full` needs to have a reason.
    fn no_room_for_ids(&self, more: usize) {
        let wanted = self.plain.bytes_of_ids() + more + ENTRY;
        assert!(
            wanted > self.bounds.bytes,
            "{}: there is room for {wanted}",
            self.name
        );
    }

    fn sub_id(&mut self) -> String {
        match self.random.below(3) {
            0 => self.some_id(),
            _ => {
                let place = self.below(self.plain.subs.len());
                match self.plain.subs.get(place) {
                    Some(sub) => sub.id.clone(),
                    None => self.some_id(),
                }
            }
        }
    }

    fn method_id(&mut self) -> String {
        match self.random.below(3) {
            0 => self.some_id(),
            _ => {
                let place = self.below(self.plain.methods.len());
                match self.plain.methods.get(place) {
                    Some(method) => method.id.clone(),
                    None => self.some_id(),
                }
            }
        }
    }

    fn some_id(&mut self) -> String {
        let number = self.random.draw();
        match self.random.below(16) {
            0..3 => self.letters(17),
            3 => (number % 20_000).to_string(),
            4 => number.to_string(),
            5 => format!("rc-ddp-client-{}", number % 300),
            6 => format!("ddp-{}", number % 300),
            7 => format!("{number:016x}{:08x}", number % 7_777),
            8 => {
                let (a, b) = (self.random.draw(), self.random.draw());
                format!(
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    a >> 32,
                    a & 0xffff,
                    a >> 8 & 0xffff,
                    b & 0xffff,
                    b >> 16
                )
            }
            9 => self.letters(43),
            10 => self.letters(34),
            11 => self.rubbish(12),
            12 => self.rubbish(80),
            13 => format!("00{}", number % 99_999),
            14 => {
                let len = self.below(600);
                self.letters(len)
            }
            _ => {
                const ODD: [&str; 8] = [
                    "",
                    "1",
                    "user",
                    "-",
                    "__my_messages__",
                    "GENERAL",
                    "0",
                    "\u{0}",
                ];
                ODD[self.below(ODD.len())]
            }
            .to_owned(),
        }
    }

    fn user_id(&mut self) -> String {
        match self.random.below(6) {
            0..3 => "aobEdbYhXfu5hkeqG".to_owned(),
            3 => "rocket.cat".to_owned(),
            _ => {
                // Nobody is nobody's name.
                format!("u{}", self.some_id())
            }
        }
    }

    fn request(&mut self) -> (String, String) {
        let user = self
            .plain
            .user
            .clone()
            .unwrap_or_else(|| "nobody".to_owned());
        let room = self.letters(17);
        let params = match self.random.below(8) {
            0 => return ("stream-user-presence".to_owned(), self.presence_params()),
            1 => format!(r#"["{user}/rooms-changed",{{"useCollection":false,"args":[]}}]"#),
            2 => format!(
                r#"["{room}/deleteMessage",{{"useCollection":false,"args":[{{"visitorToken":"{room}"}}]}}]"#
            ),
            3 => format!(r#"["{user}{room}/user-activity",false]"#),
            4 => format!("[{}]", self.rubbish(100)),
            5 => String::new(),
            6 => format!("[\"{room}{user}\\u0007{user}\" , {{ }}]"),
            _ => format!(r#"["{}"]"#, self.some_id()),
        };
        (self.method_name(), params)
    }

    fn presence_params(&mut self) -> String {
        let mut users = || -> Vec<String> {
            (0..self.random.below(4))
                .map(|_| match self.random.below(6) {
                    0 => format!("kX3fS9bQ7Zt2LmNa{}", self.random.below(4)),
                    1 => "\"é\\".to_owned(),
                    other => format!("user{}", other + self.random.below(5)),
                })
                .collect()
        };
        let (added, removed) = (users(), users());
        match self.random.below(8) {
            0 => "nothing".to_owned(),
            1 => r#"["",false]"#.to_owned(),
            2 => json!(["", { "added": added }]).to_string(),
            _ => json!(["", { "added": added, "removed": removed }]).to_string(),
        }
    }

    fn method_name(&mut self) -> String {
        if self.random.below(4) == 0 {
            return self.rubbish(20);
        }
        Name::ALL[self.below(Name::COUNT)].label().to_owned()
    }

    fn letters(&mut self, count: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        (0..count)
            .map(|_| char::from(LETTERS[self.below(LETTERS.len())]))
            .collect()
    }

    fn rubbish(&mut self, most: u64) -> String {
        (0..self.random.below(most))
            .map(|_| match self.random.below(8) {
                0 => self.character(0, 0x11_0000),
                1 => self.character(0, 0x20),
                2 => self.character(0x7e, 0x200),
                _ => self.character(0x20, 0x7f),
            })
            .collect()
    }

    fn character(&mut self, from: usize, to: usize) -> char {
        char::from_u32(count(from + self.below(to - from))).unwrap_or('\u{fffd}')
    }

    fn below(&mut self, end: usize) -> usize {
        let number = self.random.below(end as u64);
        usize::try_from(number).expect("it is below a usize")
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).expect("the tests count to a few thousand")
}

/// What an entry takes beside its texts, at most.
const ENTRY: usize = 20;

impl Plain {
    fn sub(&mut self, id: &str) -> Option<&mut Sub> {
        self.subs.iter_mut().find(|sub| sub.id == id)
    }

    fn change_presence(&mut self, change: &Sub) {
        let stream = "stream-user-presence";
        let Some(main) = self
            .subs
            .iter_mut()
            .find(|sub| sub.ready && sub.name == stream)
        else {
            return;
        };
        if self.overflowed || change.name != stream {
            return;
        }
        if let Some((event, users)) = watched(&main.params, &change.params) {
            main.params = json!([event, { "added": users }]).to_string();
        }
    }

    /// What the whole takes at most.
    fn bytes(&self) -> usize {
        self.bytes_of_ids() + self.subs.iter().map(Sub::bytes).sum::<usize>()
    }

    fn bytes_of_ids(&self) -> usize {
        let subs = self.subs.iter().map(|sub| sub.id.len() + ENTRY);
        let methods = self.methods.iter().map(|method| method.id.len() + ENTRY);
        let identity = [&self.session, &self.user, &self.token];
        let identity = identity
            .into_iter()
            .flatten()
            .map(|text| text.len() + ENTRY);
        subs.chain(methods).chain(identity).sum()
    }
}

impl Sub {
    fn bytes(&self) -> usize {
        self.id.len() + self.name.len() + self.params.len() + ENTRY
    }
}

/// Event and users of a presence subscription after a change; `None` if any of it cannot be read.
fn watched(params: &str, change: &str) -> Option<(Value, Vec<Value>)> {
    let mut users: Vec<Value> = Vec::new();
    let params: Value = serde_json::from_str(params).ok()?;
    let change: Value = serde_json::from_str(change).ok()?;
    for message in [&params, &change] {
        let list = |key: &str| message[1][key].as_array().cloned().unwrap_or_default();
        for user in list("added") {
            if !users.contains(&user) {
                users.push(user);
            }
        }
        users.retain(|user| !list("removed").contains(user));
    }
    Some((params[0].clone(), users))
}

fn first(name: &str, since: u32, owes_updated: bool) -> Answered {
    Answered::First(Waited {
        name: Name::of(name),
        since,
        owes_updated,
    })
}
