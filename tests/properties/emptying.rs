//! Emptying a streamer whose sessions do what they like: everybody is told often enough and not too
//! often, within the bounds, and at last it is empty.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::id::SessionId,
    pool::{Emptying, Ends, Progress, Seen, SplitMix, Turn},
};

#[test]
fn it_is_empty_at_last_and_nobody_is_told_too_often() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.run();
        world.check(&format!("seed {seed}"));
    }
}

/// What a session does when it is told to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Moves,
    /// At the second or third time.
    MovesLater(u32),
    Refuses,
    Fails,
    /// Ends by itself on the way.
    Ends,
    /// Is gone before its turn.
    Vanishes,
}

struct Session {
    fate: Fate,
    moving: Option<Instant>,
    told: u32,
    progress: Progress,
}

struct World {
    emptying: Emptying,
    random: SplitMix,
    start: Instant,
    now: Instant,
    rate: u32,
    most: usize,
    ends: Ends,
    there: BTreeMap<SessionId, Session>,
    to_come: Vec<(Duration, SessionId)>,
    /// Those told to move, how often; those told to end.
    moves: HashMap<SessionId, u32>,
    closed: HashMap<SessionId, u32>,
    fates: HashMap<SessionId, Fate>,
    moved: HashSet<SessionId>,
    /// When somebody was told whose turn counts.
    paced: Vec<Instant>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let start = Instant::now();
        let rate = 1 + u32::try_from(random.below(60)).unwrap_or(0);
        let ends = match random.below(2) {
            0 => Ends::Told,
            _ => Ends::ByThemselves,
        };
        let most = 1 + usize::try_from(random.below(40)).unwrap_or(0);
        let mut emptying = Emptying::new(rate, ends, seed, start);
        emptying.set_most(most);
        let count = random.below(200);
        let late = |id| Duration::from_millis(if id % 9 == 0 { id * 40 } else { 0 });
        Self {
            emptying,
            random,
            start,
            now: start,
            rate,
            most,
            ends,
            there: BTreeMap::new(),
            to_come: (0..count).map(|id| (late(id), SessionId(id))).collect(),
            moves: HashMap::new(),
            closed: HashMap::new(),
            fates: HashMap::new(),
            moved: HashSet::new(),
            paced: Vec::new(),
        }
    }

    fn run(&mut self) {
        let end = self.start + Duration::from_secs(3_600);
        while self.now < end {
            self.come_and_go();
            for id in self.emptying.asked(self.now) {
                let progress = match self.there.get(&id) {
                    Some(session) => session.progress,
                    None if self.moved.contains(&id) => Progress::Moved,
                    None => Progress::Gone,
                };
                self.emptying.heard(id, progress, self.now);
            }
            if self.emptying.wants_look(self.now) {
                let seen: Vec<_> = (self.there.keys())
                    .map(|id| Seen {
                        id: *id,
                        messages: id.0,
                        age: Duration::from_secs(60),
                        moving: false,
                    })
                    .collect();
                self.emptying.saw(&seen, self.now);
            }
            while let Some(turn) = self.emptying.next(self.now) {
                self.tell(turn);
            }
            let under_way = self.emptying.under_way();
            assert!(under_way <= self.most, "{under_way} > {}", self.most);
            if self.to_come.is_empty() && !self.emptying.is_busy() {
                return;
            }
            let next = self.emptying.next_timeout().unwrap_or(self.now);
            let late = Duration::from_millis(1 + self.random.below(20));
            self.now = next.max(self.now) + late;
        }
        panic!("it is never over: {:?}", self.emptying.tally());
    }

    fn come_and_go(&mut self) {
        let passed = self.now - self.start;
        let come: Vec<_> = (self.to_come)
            .extract_if(.., |(at, _)| *at <= passed)
            .collect();
        for (_, id) in come {
            let fate = match self.random.below(6) {
                0 => Fate::MovesLater(2 + u32::try_from(self.random.below(2)).unwrap_or(0)),
                1 => Fate::Refuses,
                2 => Fate::Fails,
                3 => Fate::Ends,
                4 => Fate::Vanishes,
                _ => Fate::Moves,
            };
            self.fates.insert(id, fate);
            let session = Session {
                fate,
                moving: None,
                told: 0,
                progress: Progress::UnderWay,
            };
            self.there.insert(id, session);
        }
        let now = self.now;
        let mut gone = Vec::new();
        for (id, session) in &mut self.there {
            if session.fate == Fate::Vanishes && u128::from(id.0) * 50 <= passed.as_millis() {
                gone.push(*id);
            }
            if session.moving.take_if(|ends| *ends <= now).is_none() {
                continue;
            }
            let stays = |reason, passes, begun| Progress::Stays {
                reason,
                passes,
                begun,
            };
            match session.fate {
                Fate::Refuses => session.progress = stays("livechat", false, false),
                Fate::Fails => session.progress = stays("unreachable", true, true),
                Fate::MovesLater(at) if session.told < at => {
                    session.progress = stays("busy", true, true);
                }
                Fate::Moves | Fate::MovesLater(_) | Fate::Vanishes => {
                    self.moved.insert(*id);
                    gone.push(*id);
                }
                Fate::Ends => gone.push(*id),
            }
        }
        for id in gone {
            self.there.remove(&id);
        }
    }

    fn tell(&mut self, turn: Turn) {
        let (Turn::Move(id) | Turn::End(id)) = turn;
        let Some(session) = self.there.get_mut(&id) else {
            return;
        };
        self.emptying.told(turn, self.now);
        match turn {
            Turn::Move(_) => {
                *self.moves.entry(id).or_default() += 1;
                session.told += 1;
                session.progress = Progress::UnderWay;
                let takes = match session.fate {
                    Fate::Refuses => Duration::ZERO,
                    _ => Duration::from_millis(self.random.below(1_500)),
                };
                session.moving = Some(self.now + takes);
            }
            Turn::End(_) => {
                *self.closed.entry(id).or_default() += 1;
                self.there.remove(&id);
            }
        }
        // What is refused at once gives its turn back.
        if self.fates[&id] != Fate::Refuses || matches!(turn, Turn::End(_)) {
            self.paced.push(self.now);
        }
    }

    fn check(&self, place: &str) {
        let tally = self.emptying.tally();
        let closed: u32 = self.closed.values().sum();
        assert_eq!(tally.closed, u64::from(closed), "{place}");
        assert!(self.closed.values().all(|times| *times == 1), "{place}");
        assert!(self.moves.values().all(|times| *times <= 3), "{place}");
        assert_eq!(self.emptying.under_way(), 0, "{place}");
        for id in self.closed.keys() {
            let fate = self.fates[id];
            assert!(
                matches!(fate, Fate::Refuses | Fate::Fails),
                "{place}: {fate:?}"
            );
        }
        match self.ends {
            Ends::Told => assert!(self.there.is_empty(), "{place}"),
            Ends::ByThemselves => {
                let stay = |session: &Session| matches!(session.fate, Fate::Refuses | Fate::Fails);
                assert!(self.there.values().all(stay), "{place}");
                assert_eq!(closed, 0, "{place}");
            }
        }
        assert_eq!(tally.moved, self.moved.len() as u64, "{place}");
        let refused: u64 = tally.refused.values().sum();
        let stuck = closed as usize + self.there.len();
        assert_eq!(refused, stuck as u64, "{place}");
        // The burst; and turns that are given back count for the moment after.
        let bound = (self.rate + 2 * (self.rate / 10).max(1)) as usize;
        for (at, began) in self.paced.iter().enumerate() {
            let within = self.paced[at..]
                .iter()
                .take_while(|later| **later < *began + Duration::from_secs(1));
            let within = within.count();
            assert!(
                within <= bound,
                "{place}: {within} in a second, at {}/s",
                self.rate
            );
        }
    }
}
