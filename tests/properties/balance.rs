//! Levelling a pool under random crowds: it ends, it never swings, and it keeps its bounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::id::{SessionId, StreamerAddr, StreamerId},
    pool::{
        Fault, Permit, Pool, Progress, Seen, Settings, SplitMix, Wish,
        balance::{Balance, Event, Finish, Terms},
        level::{Level, skew},
    },
};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const RATE: u32 = 20;
const MOST: usize = 12;

#[test]
fn a_crowd_that_lies_unevenly_is_level_at_last_and_then_left_alone() {
    for seed in 0..12 {
        let mut world = World::new(seed, Crowd::Movable);
        world.crowd();
        world.join();
        world.run(Duration::from_secs(600));
        assert!(
            world.balance.running(&world.levels(), world.now).is_none(),
            "{seed}"
        );
        let levels = world.levels();
        let mean = world.sessions.len() as f64 / levels.len() as f64;
        let most = f64::from(levels.iter().map(|level| level.sessions).max().unwrap());
        assert!(
            most <= (mean * 1.1).ceil() || most - mean < 10.0,
            "seed {seed}: {levels:?}"
        );
        let (moved, told) = (world.moved, world.told.len());
        world.run(Duration::from_secs(3_600));
        assert_eq!(
            (world.moved, world.told.len()),
            (moved, told),
            "seed {seed}"
        );
    }
}

#[test]
fn clients_that_come_and_go_and_refuse_do_not_make_it_swing() {
    for seed in 0..12 {
        let mut world = World::new(seed, Crowd::Mixed);
        world.crowd();
        for _ in 0..6 {
            match world.random.below(3) {
                0 => world.join(),
                1 => world.churn(),
                _ => world.order(),
            }
            let pause = Duration::from_secs(world.random.below(60));
            world.run(pause);
        }
        // Nobody who stays where he is can be in the way for ever.
        world.run(Duration::from_secs(900));
        assert!(
            world.balance.running(&world.levels(), world.now).is_none(),
            "{seed}"
        );
        let moved = world.moved;
        world.run(Duration::from_secs(3_600));
        let again = world.moved - moved;
        assert_eq!(again, 0, "seed {seed}: {:?}", world.levels());
    }
}

#[test]
fn one_that_joins_gets_its_share_in_the_time_that_the_rate_gives() {
    let mut world = World::new(1, Crowd::Movable);
    world.most = 60;
    for _ in 0..300 {
        world.arrive();
    }
    world.run(Duration::from_secs(20));
    assert_eq!(world.moved, 0);
    let joined = world.now;
    world.join();
    world.run(Duration::from_secs(5));
    // It starts slowly: nothing moves before it is warm.
    assert_eq!(world.moved, 0);
    world.run(Duration::from_secs(60));
    let levels = world.levels();
    assert!(skew(&levels) <= 1.1, "{levels:?}");
    let took = *world.told.last().unwrap() - joined;
    assert!(took < Duration::from_secs(10 + 8), "{took:?}");
    assert_eq!(world.finished, [Finish::Balanced]);
}

#[test]
fn what_is_stopped_stays_stopped() {
    for off in [false, true] {
        let mut world = World::new(3, Crowd::Movable);
        for _ in 0..300 {
            world.arrive();
        }
        world.join();
        world.run(Duration::from_secs(11));
        assert!(world.balance.running(&world.levels(), world.now).is_some());
        let event = match off {
            false => world.balance.stop(world.now),
            true => {
                let terms = Terms {
                    automatic: false,
                    ..world.balance.terms()
                };
                world.balance.set_terms(terms, world.now)
            }
        };
        assert_eq!(event, Some(Event::Finished(Finish::Stopped)));
        let told = world.told.len();
        assert!(told < 60, "{told}");
        world.run(Duration::from_secs(300));
        assert_eq!(world.told.len(), told);
        // What was under way has arrived.
        assert_eq!(world.moved, told as u64);
    }
}

#[test]
fn it_waits_while_something_else_comes_first() {
    let mut world = World::new(3, Crowd::Movable);
    for _ in 0..300 {
        world.arrive();
    }
    world.held = true;
    world.join();
    world.run(Duration::from_secs(300));
    assert_eq!(world.told.len(), 0);
    world.held = false;
    world.run(Duration::from_secs(12));
    let told = world.told.len();
    assert!(told > 0);
    world.held = true;
    world.run(Duration::from_secs(300));
    assert!(world.told.len() <= told + 1);
    world.held = false;
    world.run(Duration::from_secs(60));
    assert!(skew(&world.levels()) <= 1.1);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Crowd {
    Movable,
    /// A third of them refuses.
    Mixed,
}

/// One pool with its sessions, and a clock that the test turns.
struct World {
    pool: Arc<Pool>,
    balance: Balance,
    random: SplitMix,
    start: Instant,
    now: Instant,
    crowd: Crowd,
    names: usize,
    held: bool,
    most: usize,
    last_id: u64,
    sessions: BTreeMap<SessionId, Session>,
    /// When sessions were told.
    told: Vec<Instant>,
    /// Of this run.
    in_run: BTreeSet<SessionId>,
    moved: u64,
    finished: Vec<Finish>,
}

struct Session {
    permit: Permit,
    messages: u64,
    came: Instant,
    refuses: bool,
    moving: Option<Moving>,
    stays: bool,
}

struct Moving {
    /// `None` when no streamer would take it.
    to: Option<Permit>,
    ends: Instant,
}

impl World {
    fn new(seed: u64, crowd: Crowd) -> Self {
        let now = Instant::now();
        let mut settings = Settings::named("default");
        settings.seed = seed;
        let terms = Terms {
            automatic: true,
            threshold: 0.25,
            rate: RATE,
        };
        let mut world = Self {
            pool: Pool::new(settings, now),
            balance: Balance::new(terms, seed, now),
            random: SplitMix(seed),
            start: now,
            now,
            crowd,
            names: 0,
            held: false,
            most: MOST,
            last_id: 0,
            sessions: BTreeMap::new(),
            told: Vec::new(),
            in_run: BTreeSet::new(),
            moved: 0,
            finished: Vec::new(),
        };
        world.join();
        world.join();
        world.run(Duration::from_secs(11));
        world
    }

    fn levels(&self) -> Vec<Level> {
        self.pool.view().levels(self.now)
    }

    fn join(&mut self) {
        self.names = (self.names + 1).min(NAMES.len());
        let addr = StreamerAddr(SocketAddr::from(([127, 0, 0, 1], 1)));
        let endpoints = NAMES[..self.names]
            .iter()
            .map(|name| ((*name).into(), addr));
        self.pool.apply(&endpoints.collect(), self.now);
        self.probe();
    }

    fn probe(&self) {
        for probe in self.pool.due(100, self.now) {
            self.pool.probed(&probe, Ok::<(), Fault>(()), self.now);
        }
        self.pool.advance(self.now);
    }

    /// Most of them on few streamers.
    fn crowd(&mut self) {
        for _ in 0..self.random.below(400) {
            let preferred = match self.random.below(3) {
                0 => None,
                _ => Some(NAMES[0].into()),
            };
            self.arrive_at(preferred);
        }
    }

    fn churn(&mut self) {
        for _ in 0..self.random.below(150) {
            let nth = usize::try_from(self.random.below(self.sessions.len() as u64)).unwrap_or(0);
            let id = self.sessions.keys().nth(nth).copied();
            if let Some(id) = id {
                self.sessions.remove(&id);
            }
        }
        self.crowd();
    }

    fn order(&mut self) {
        let event = self.balance.order(self.now);
        self.note(event);
    }

    fn arrive(&mut self) {
        self.arrive_at(None);
    }

    fn arrive_at(&mut self, preferred: Option<StreamerId>) {
        let wish = Wish {
            preferred,
            expected: None,
        };
        let Ok(permit) = self.pool.pick(&wish, &[], self.now) else {
            return;
        };
        self.last_id += 1;
        let refuses = self.crowd == Crowd::Mixed && self.random.below(3) == 0;
        let session = Session {
            permit,
            messages: 0,
            came: self.now,
            refuses,
            moving: None,
            stays: false,
        };
        self.sessions.insert(SessionId(self.last_id), session);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.probe();
            self.arrivals();
            self.drive();
            let step = self.balance.next_timeout(self.now) - self.now;
            // Where nothing happens, it happens in long steps.
            let idle = !self
                .sessions
                .values()
                .any(|session| session.moving.is_some())
                && self.balance.running(&[], self.now).is_none();
            self.now += match idle {
                true => Duration::from_secs(2).min(end - self.now),
                false => step.clamp(Duration::from_millis(20), Duration::from_millis(500)),
            };
        }
    }

    /// Moves that are over now.
    fn arrivals(&mut self) {
        let now = self.now;
        for session in self.sessions.values_mut() {
            let Some(moving) = session.moving.take_if(|moving| moving.ends <= now) else {
                continue;
            };
            match moving.to {
                Some(to) => {
                    session.permit = to;
                    self.moved += 1;
                }
                None => session.stays = true,
            }
        }
    }

    fn drive(&mut self) {
        let levels = self.levels();
        let event = self.balance.watch(&levels, self.held, self.now);
        self.note(event);
        for (id, from) in self.balance.asked(self.now) {
            let progress = match self.sessions.get(&id) {
                None => Progress::Gone,
                Some(session) if session.permit.streamer().id != from => Progress::Moved,
                Some(session) if session.moving.is_some() => Progress::UnderWay,
                Some(session) if session.stays => Progress::Stays {
                    reason: "livechat",
                    passes: false,
                    begun: false,
                },
                Some(_) => panic!("a session is nowhere"),
            };
            self.balance.heard(id, progress, self.now);
        }
        if self.balance.wants_look(self.now) {
            let mut there: BTreeMap<StreamerId, Vec<Seen>> = BTreeMap::new();
            for (id, session) in &self.sessions {
                let seen = Seen {
                    id: *id,
                    messages: session.messages,
                    age: self.now - session.came,
                    moving: session.moving.is_some(),
                };
                let at = session.permit.streamer().id.clone();
                there.entry(at).or_default().push(seen);
            }
            self.balance.saw(&there, self.now);
        }
        let most = if self.held { 0 } else { self.most };
        while let Some((id, from)) = self.balance.next(&self.levels(), most, self.now) {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            assert_eq!(session.permit.streamer().id, from);
            self.balance.told(id, from, self.now);
            assert!(self.in_run.insert(id), "told twice in a run");
            self.told.push(self.now);
            let window = self.now - Duration::from_secs(1);
            let lately = self
                .told
                .iter()
                .rev()
                .take_while(|at| **at > window)
                .count();
            if self.crowd == Crowd::Movable {
                assert!(lately <= (RATE + RATE / 10 + 1) as usize, "{lately}");
            }
            session.stays = false;
            let picked = match session.refuses {
                true => None,
                false => (self.pool)
                    .pick_to_move(session.permit.streamer(), true, self.now)
                    .ok(),
            };
            let takes = match picked {
                Some(_) => Duration::from_millis(300 + self.random.below(2_000)),
                None => Duration::ZERO,
            };
            session.moving = Some(Moving {
                to: picked,
                ends: self.now + takes,
            });
            let under_way = self.sessions.values();
            let under_way = under_way.filter(|session| session.moving.is_some()).count();
            assert!(under_way <= self.most + MOST, "{under_way}");
        }
    }

    fn note(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Begun(_)) => self.in_run.clear(),
            Some(Event::Finished(finish)) => self.finished.push(finish),
            None => {}
        }
        assert!(
            self.finished.len() < 50,
            "after {:?}: {:?}",
            self.now - self.start,
            self.finished
        );
    }
}
