//! Which sessions leave a streamer that is to be empty, how, and when.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{
    logins::pacer::Pacer,
    moves::{ASK_EVERY, Activity, LONGEST_MOVE, Progress, Seen, Speed},
    pick::SplitMix,
};
use crate::base::id::SessionId;

/// A streamer's sessions leave it, one after the other and idlest first, at an even rate.
///
/// Each is told to move. One that cannot for a reason that passes is told again a moment later, at
/// most three times in all. Who cannot be moved is told to end when all others have been told
/// to move, or stays.
///
/// Whoever drives it says how those under way are ([`Self::asked`], [`Self::heard`]), looks which
/// sessions are there ([`Self::saw`]) when [`Self::wants_look`] says so, takes those whose turn has
/// come ([`Self::next`]), and confirms each that it told ([`Self::told`]).
#[derive(Debug)]
pub struct Emptying {
    rate: u32,
    pacer: Pacer,
    random: SplitMix,
    ends: Ends,
    /// Most moves under way.
    most: usize,
    guests: HashMap<SessionId, Guest>,
    /// To be told to move; the last one is next.
    turns: Vec<SessionId>,
    /// Not to be moved; the last one is next.
    stuck: Vec<SessionId>,
    under_way: usize,
    tally: Tally,
    speed: Speed,
    looked_at: Option<Instant>,
    asked_at: Instant,
}

/// What becomes of sessions that cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// They are told to end as well.
    Told,
    /// They stay until their streamer ends.
    ByThemselves,
}

/// What a session is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Move(SessionId),
    End(SessionId),
}

/// What has been done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub moved: u64,
    /// Sessions told to end.
    pub closed: u64,
    /// Sessions that could not be moved, by the reason.
    pub refused: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Guest {
    activity: Activity,
    /// Moves begun or refused.
    tries: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has its turn some time.
    Waits,
    /// Was told to move.
    Moves { since: Instant },
    /// Could not be moved, which may be different later.
    Rests { until: Instant },
    /// Cannot be moved.
    Stuck,
    /// Was told to end.
    Told,
}

impl Emptying {
    /// `rate`: sessions per second; 0 counts as 1.
    pub fn new(rate: u32, ends: Ends, seed: u64, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            pacer: Pacer::new(rate, now),
            random: SplitMix(seed),
            ends,
            most: usize::MAX,
            guests: HashMap::new(),
            turns: Vec::new(),
            stuck: Vec::new(),
            under_way: 0,
            tally: Tally::default(),
            speed: Speed::default(),
            looked_at: None,
            asked_at: now,
        }
    }

    /// Goes on at another rate.
    pub fn set_rate(&mut self, rate: u32, now: Instant) {
        let rate = rate.max(1);
        if rate != self.rate {
            self.rate = rate;
            self.pacer.set(rate, now);
        }
    }

    /// Goes on with another end for those that cannot be moved.
    pub fn set_ends(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// At most this many moves are under way from now on; those above it go on.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Sessions per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Moves under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether somebody is to be told yet, or is under way.
    pub fn is_busy(&self) -> bool {
        self.guests.values().any(|guest| match guest.state {
            State::Waits | State::Moves { .. } | State::Rests { .. } => true,
            State::Stuck => self.ends == Ends::Told,
            State::Told => false,
        })
    }

    /// Time until all of the `left` have gone that go; `None` when there is no telling.
    pub fn remaining(&self, left: u32) -> Option<Duration> {
        let stay = match self.ends {
            Ends::Told => 0,
            Ends::ByThemselves => self.stuck.len() as u64,
        };
        let left = u64::from(left).saturating_sub(stay);
        self.speed.remaining(left, self.rate)
    }

    /// [`Self::saw`] is to be called.
    pub fn wants_look(&self, now: Instant) -> bool {
        self.look_at().is_none_or(|at| at <= now)
    }

    /// These sessions are on the streamer.
    pub fn saw(&mut self, there: &[Seen], now: Instant) {
        let mut before = std::mem::take(&mut self.guests);
        let mut order = Vec::new();
        for seen in there {
            let mut guest = before.remove(&seen.id).unwrap_or_else(|| {
                // Somebody else told it, for reasons of his own.
                let state = match seen.moving {
                    true => State::Moves { since: now },
                    false => State::Waits,
                };
                self.under_way += usize::from(seen.moving);
                Guest {
                    activity: Activity::new(seen, now),
                    tries: 0,
                    state,
                }
            });
            guest.activity.update(seen, now);
            match guest.state {
                State::Rests { until } if until <= now => guest.state = State::Waits,
                _ => {}
            }
            if guest.state == State::Waits {
                let lot = self.random.draw();
                order.push((guest.activity.per_second(), lot, seen.id));
            }
            self.guests.insert(seen.id, guest);
        }
        // How a move ended is still to be heard of those that are not there any more.
        let moves = |guest: &Guest| matches!(guest.state, State::Moves { .. });
        self.guests
            .extend(before.into_iter().filter(|(_, guest)| moves(guest)));
        order.sort_unstable_by(|one, other| {
            let busier = other.0.total_cmp(&one.0);
            busier.then(one.1.cmp(&other.1))
        });
        self.turns = order.into_iter().map(|(_, _, id)| id).collect();
        let guests = &self.guests;
        self.stuck.retain(|id| guests.contains_key(id));
        self.speed.pass(now);
        self.looked_at = Some(now);
    }

    /// The sessions that [`Self::heard`] is to be told of, if it is time for that.
    pub fn asked(&mut self, now: Instant) -> Vec<SessionId> {
        if self.under_way == 0 || now.saturating_duration_since(self.asked_at) < ASK_EVERY {
            return Vec::new();
        }
        self.asked_at = now;
        let moves = |guest: &Guest| matches!(guest.state, State::Moves { .. });
        let under_way = self.guests.iter().filter(|(_, guest)| moves(guest));
        under_way.map(|(id, _)| *id).collect()
    }

    /// A session that was told to move is so far.
    pub fn heard(&mut self, id: SessionId, progress: Progress, now: Instant) {
        let Some(guest) = self.guests.get_mut(&id) else {
            return;
        };
        let State::Moves { since } = guest.state else {
            return;
        };
        let (reason, passes, begun) = match progress {
            Progress::UnderWay if now.saturating_duration_since(since) < LONGEST_MOVE => return,
            Progress::UnderWay => ("late", true, true),
            Progress::Moved | Progress::Gone => {
                self.under_way -= 1;
                self.guests.remove(&id);
                self.tally.moved += u64::from(progress == Progress::Moved);
                self.speed.add(now);
                return;
            }
            Progress::Stays {
                reason,
                passes,
                begun,
            } => (reason, passes, begun),
        };
        self.under_way -= 1;
        guest.tries += 1;
        if !begun {
            self.pacer.give_back();
        }
        if passes && guest.tries < TRIES {
            let until = now + PAUSE * guest.tries;
            guest.state = State::Rests { until };
        } else {
            guest.state = State::Stuck;
            self.stuck.push(id);
            *self.tally.refused.entry(reason).or_default() += 1;
        }
    }

    /// The session whose turn it is, if it is somebody's. It counts only when it is [`Self::told`]:
    /// it may have ended by itself.
    pub fn next(&mut self, now: Instant) -> Option<Turn> {
        if self.pacer.ready_at() > now {
            return None;
        }
        match self.due()? {
            Due::Move => self.turns.pop().map(Turn::Move),
            Due::End => self.stuck.pop().map(Turn::End),
        }
    }

    /// The session was there and was told.
    pub fn told(&mut self, turn: Turn, now: Instant) {
        let (Turn::Move(id) | Turn::End(id)) = turn;
        let Some(guest) = self.guests.get_mut(&id) else {
            return;
        };
        self.pacer.take(now);
        match turn {
            Turn::Move(_) => {
                guest.state = State::Moves { since: now };
                self.under_way += 1;
            }
            Turn::End(_) => {
                guest.state = State::Told;
                self.tally.closed += 1;
                self.speed.add(now);
            }
        }
    }

    /// When there is something to do next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let turn = self.due().map(|_| self.pacer.ready_at());
        let ask = (self.under_way > 0).then(|| self.asked_at + ASK_EVERY);
        [self.look_at(), turn, ask].into_iter().flatten().min()
    }

    fn due(&self) -> Option<Due> {
        if !self.turns.is_empty() {
            return (self.under_way < self.most).then_some(Due::Move);
        }
        (self.ends == Ends::Told && !self.stuck.is_empty()).then_some(Due::End)
    }

    /// `None`: at once.
    fn look_at(&self) -> Option<Instant> {
        let pause = match self.turns.is_empty() {
            true => LOOK_EVERY,
            false => RANK_EVERY,
        };
        Some(self.looked_at? + pause)
    }
}

enum Due {
    Move,
    End,
}

/// How often a session is told to move, if the reason why it cannot is one that passes.
const TRIES: u32 = 3;

/// After the first time it could not, and longer after the next ones.
const PAUSE: Duration = Duration::from_secs(2);

/// Sessions that were being attached when the others were seen turn up later.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Who is idle is found out anew.
const RANK_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use super::{Emptying, Ends, LOOK_EVERY, Progress, Seen, TRIES, Turn};
    use crate::base::id::SessionId;

    fn ids(range: std::ops::Range<u64>) -> Vec<SessionId> {
        range.map(SessionId).collect()
    }

    const MOVES: fn(SessionId) -> Progress = |_| Progress::Moved;

    const REFUSES: fn(SessionId) -> Progress = |_| Progress::Stays {
        reason: "livechat",
        passes: false,
        begun: false,
    };

    const FAILS: fn(SessionId) -> Progress = |_| Progress::Stays {
        reason: "unreachable",
        passes: true,
        begun: true,
    };

    /// A streamer whose sessions do as they are told.
    struct Bench {
        emptying: Emptying,
        start: Instant,
        now: Instant,
        /// Sessions with their messages.
        there: BTreeMap<SessionId, u64>,
        /// How the move of each ends, the moment after it began.
        fate: fn(SessionId) -> Progress,
        told: Vec<(Duration, Turn)>,
    }

    impl Bench {
        fn new(rate: u32, sessions: u64, fate: fn(SessionId) -> Progress) -> Self {
            let start = Instant::now();
            Self {
                emptying: Emptying::new(rate, Ends::Told, 7, start),
                start,
                now: start,
                there: ids(0..sessions).into_iter().map(|id| (id, 10)).collect(),
                fate,
                told: Vec::new(),
            }
        }

        /// Drives it as it wants to be.
        fn run(&mut self, seconds: u64) {
            let end = self.now + Duration::from_secs(seconds);
            while self.now <= end {
                for id in self.emptying.asked(self.now) {
                    let progress = match self.there.contains_key(&id) {
                        true => (self.fate)(id),
                        false => Progress::Gone,
                    };
                    if progress == Progress::Moved {
                        self.there.remove(&id);
                    }
                    self.emptying.heard(id, progress, self.now);
                }
                if self.emptying.wants_look(self.now) {
                    let age = Duration::from_secs(100);
                    let seen: Vec<_> = self
                        .there
                        .iter()
                        .map(|(id, messages)| Seen {
                            id: *id,
                            messages: *messages,
                            age,
                            moving: false,
                        })
                        .collect();
                    self.emptying.saw(&seen, self.now);
                }
                while let Some(turn) = self.emptying.next(self.now) {
                    let (Turn::Move(id) | Turn::End(id)) = turn;
                    if self.there.contains_key(&id) {
                        self.emptying.told(turn, self.now);
                        self.told.push((self.now - self.start, turn));
                        if turn == Turn::End(id) {
                            self.there.remove(&id);
                        }
                    }
                }
                let next = self.emptying.next_timeout().unwrap_or(self.now);
                // A driver is never as fast as that.
                self.now = next.max(self.now + Duration::from_millis(1));
            }
        }

        fn ends(&self) -> usize {
            let ends = |told: &&(Duration, Turn)| matches!(told.1, Turn::End(_));
            self.told.iter().filter(ends).count()
        }
    }

    #[test]
    fn everybody_moves_once_at_the_rate_and_nobody_is_closed() {
        let mut bench = Bench::new(50, 500, MOVES);
        assert_eq!(bench.emptying.remaining(500), Some(Duration::from_secs(10)));
        bench.run(60);
        let mut order: Vec<_> = bench.told.iter().map(|(_, turn)| *turn).collect();
        order.sort_unstable_by_key(|turn| match turn {
            Turn::Move(id) | Turn::End(id) => *id,
        });
        let all: Vec<_> = ids(0..500).into_iter().map(Turn::Move).collect();
        assert_eq!(order, all);
        let took = bench.told[499].0;
        assert!(
            took > Duration::from_millis(9_800) && took <= Duration::from_millis(10_100),
            "{took:?}"
        );
        // At no time more than the burst, a tenth of a second's worth, above the rate.
        for (at, _) in &bench.told {
            let second = *at..*at + Duration::from_secs(1);
            let within = bench
                .told
                .iter()
                .filter(|(at, _)| second.contains(at))
                .count();
            assert!(within <= 55, "{within}");
        }
        let tally = bench.emptying.tally();
        assert_eq!((tally.moved, tally.closed), (500, 0));
        assert_eq!(bench.emptying.under_way(), 0);
    }

    #[test]
    fn the_idlest_go_first() {
        let mut bench = Bench::new(10, 60, MOVES);
        for (id, messages) in &mut bench.there {
            *messages = (id.0 * 37) % 60;
        }
        bench.run(2);
        let gone = bench.told.len() as u64;
        assert!((15..=25).contains(&gone), "{gone}");
        // From now on those are busy that were the next.
        for messages in bench.there.values_mut() {
            if *messages < 40 {
                *messages += 10_000;
            }
        }
        bench.run(20);
        let order: Vec<_> = bench
            .told
            .iter()
            .map(|(_, turn)| match turn {
                Turn::Move(id) => (id.0 * 37) % 60,
                Turn::End(_) => panic!("closed"),
            })
            .collect();
        assert!(
            order[..15].iter().all(|messages| *messages < 25),
            "{order:?}"
        );
        // Ranks are looked at once in a second, so some had their turn already.
        let late = &order[30..50];
        assert!(late.iter().all(|messages| *messages >= 40), "{order:?}");
        assert_eq!(order.len(), 60);
    }

    #[test]
    fn who_cannot_be_moved_ends_at_the_rate_when_all_others_have_gone() {
        let mut bench = Bench::new(20, 100, |id| match id.0 % 2 {
            0 => MOVES(id),
            _ => REFUSES(id),
        });
        bench.run(30);
        assert!(bench.there.is_empty());
        let tally = bench.emptying.tally();
        assert_eq!((tally.moved, tally.closed), (50, 50));
        assert_eq!(tally.refused, BTreeMap::from([("livechat", 50)]));
        let first_end = bench
            .told
            .iter()
            .position(|(_, turn)| matches!(turn, Turn::End(_)));
        assert_eq!(first_end, Some(100));
        // What was not begun costs no time: five seconds for all.
        let took = bench.told[149].0;
        assert!(took <= Duration::from_millis(5_600), "{took:?}");
        assert!(took >= Duration::from_millis(4_400), "{took:?}");
    }

    #[test]
    fn a_reason_that_passes_is_waited_for_but_not_for_ever() {
        let mut bench = Bench::new(50, 20, FAILS);
        bench.run(1);
        assert_eq!((bench.told.len(), bench.ends()), (20, 0));
        assert!(bench.emptying.tally().refused.is_empty());
        // For half of them it passes.
        bench.fate = |id| match id.0 % 2 {
            0 => MOVES(id),
            _ => FAILS(id),
        };
        bench.run(60);
        let tally = bench.emptying.tally();
        assert_eq!((tally.moved, tally.closed), (10, 10));
        assert_eq!(tally.refused, BTreeMap::from([("unreachable", 10)]));
        let tries = bench.told.len() - bench.ends();
        assert_eq!(tries, 10 * 2 + 10 * TRIES as usize);
        assert!(bench.there.is_empty());
    }

    #[test]
    fn one_that_has_only_left_discovery_closes_nobody() {
        let mut bench = Bench::new(50, 40, |id| match id.0 % 2 {
            0 => MOVES(id),
            _ => REFUSES(id),
        });
        bench.emptying.set_ends(Ends::ByThemselves);
        bench.run(30);
        assert_eq!((bench.there.len(), bench.ends()), (20, 0));
        assert_eq!(bench.emptying.remaining(20), Some(Duration::ZERO));
        // The operator wants it empty after all.
        bench.emptying.set_ends(Ends::Told);
        bench.run(30);
        assert_eq!((bench.there.len(), bench.ends()), (0, 20));
    }

    #[test]
    fn moves_that_take_their_time_are_bounded_and_one_that_never_ends_has_failed() {
        let mut bench = Bench::new(50, 40, |_| Progress::UnderWay);
        bench.emptying.set_most(8);
        bench.run(10);
        assert_eq!((bench.told.len(), bench.emptying.under_way()), (8, 8));
        assert_eq!(
            bench.emptying.remaining(40),
            Some(Duration::from_millis(800))
        );
        bench.run(120);
        assert_eq!(bench.told.len(), 16);
        bench.fate = MOVES;
        bench.run(30);
        assert!(bench.there.is_empty());
        assert_eq!(bench.emptying.tally().moved, 40);
    }

    #[test]
    fn latecomers_move_as_well_and_who_moves_already_is_not_told_again() {
        let mut bench = Bench::new(10, 2, MOVES);
        bench.run(2);
        assert_eq!(bench.told.len(), 2);
        bench.there.insert(SessionId(7), 3);
        bench.run(2);
        assert_eq!(bench.told[2].1, Turn::Move(SessionId(7)));
        // Nobody to tell: it looks again, and not all the time.
        let now = bench.now;
        bench.emptying.saw(&[], now);
        assert_eq!(bench.emptying.next_timeout(), Some(now + LOOK_EVERY));
        let moving = Seen {
            id: SessionId(8),
            messages: 0,
            age: Duration::ZERO,
            moving: true,
        };
        bench.emptying.saw(&[moving], now);
        assert_eq!(bench.emptying.next(now), None);
        assert_eq!(bench.emptying.asked(now + LOOK_EVERY), [SessionId(8)]);
        bench.emptying.heard(SessionId(8), Progress::Moved, now);
        assert_eq!(bench.emptying.tally().moved, 4);
    }

    #[test]
    fn one_that_had_gone_by_itself_costs_no_time() {
        let mut bench = Bench::new(1, 100, MOVES);
        bench.emptying.saw(&[], bench.now);
        let seen = |id| Seen {
            id,
            messages: 0,
            age: Duration::ZERO,
            moving: false,
        };
        let all: Vec<_> = ids(0..100).into_iter().map(seen).collect();
        bench.emptying.saw(&all, bench.now);
        for _ in 0..99 {
            assert!(bench.emptying.next(bench.now).is_some());
        }
        let last = bench.emptying.next(bench.now).unwrap();
        bench.emptying.told(last, bench.now);
        assert_eq!(bench.emptying.under_way(), 1);
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let mut bench = Bench::new(1, 100, MOVES);
        bench.run(2);
        assert_eq!(bench.told.len(), 3);
        let changed = bench.now;
        bench.emptying.set_rate(100, changed);
        assert_eq!(bench.emptying.rate(), 100);
        bench.run(60);
        assert_eq!(bench.told.len(), 100);
        let took = bench.start + bench.told[99].0 - changed;
        assert!(took < Duration::from_millis(1_200), "{took:?}");
    }

    #[test]
    fn a_driver_that_comes_late_does_not_make_up_for_it() {
        let start = Instant::now();
        let mut emptying = Emptying::new(20, Ends::Told, 1, start);
        let seen = |id| Seen {
            id,
            messages: 0,
            age: Duration::ZERO,
            moving: false,
        };
        let all: Vec<_> = ids(0..100).into_iter().map(seen).collect();
        emptying.saw(&all, start);
        let late = start + Duration::from_secs(3);
        let mut at_once = 0;
        while let Some(turn) = emptying.next(late) {
            emptying.told(turn, late);
            at_once += 1;
        }
        assert_eq!(at_once, 2);
    }
}
