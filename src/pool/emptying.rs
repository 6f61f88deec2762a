//! Which sessions of a drained streamer end, and when.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{logins::pacer::Pacer, pick::SplitMix};
use crate::base::id::SessionId;

/// The end of a streamer's sessions, one after the other in random order, at an even rate.
///
/// Whoever drives it looks which sessions are there ([`Self::saw`]) when [`Self::wants_look`] says
/// so, takes those whose turn has come ([`Self::next`]), and confirms each that it told to end
/// ([`Self::told`]).
#[derive(Debug)]
pub struct Emptying {
    rate: u32,
    pacer: Pacer,
    random: SplitMix,
    /// In random order; the last one is next.
    turns: Vec<SessionId>,
    /// Those told to end that were there at the last look or have been told since.
    told: HashSet<SessionId>,
    closed: u64,
    look_at: Instant,
}

impl Emptying {
    /// `rate`: sessions per second; 0 counts as 1.
    pub fn new(rate: u32, seed: u64, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            pacer: Pacer::new(rate, now),
            random: SplitMix(seed),
            turns: Vec::new(),
            told: HashSet::new(),
            closed: 0,
            look_at: now,
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

    /// Sessions per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Sessions told to end so far.
    pub fn closed(&self) -> u64 {
        self.closed
    }

    /// The rest of this many sessions takes so long.
    pub fn remaining(&self, left: u32) -> Duration {
        Duration::from_secs(1) * left / self.rate
    }

    /// [`Self::saw`] is to be called: all sessions known have been told.
    pub fn wants_look(&self, now: Instant) -> bool {
        self.turns.is_empty() && self.look_at <= now
    }

    /// These sessions are on the streamer.
    pub fn saw(&mut self, there: Vec<SessionId>, now: Instant) {
        let mut still = HashSet::new();
        self.turns.clear();
        for id in there {
            if self.told.contains(&id) {
                still.insert(id);
            } else {
                let at = self.random.below(self.turns.len() as u64 + 1);
                let at = usize::try_from(at).unwrap_or_default();
                self.turns.push(id);
                let last = self.turns.len() - 1;
                self.turns.swap(at, last);
            }
        }
        self.told = still;
        self.look_at = now + LOOK_EVERY;
    }

    /// The session that is to end now, if one is. It counts only when it is [`Self::told`]: it may
    /// have ended by itself.
    pub fn next(&mut self, now: Instant) -> Option<SessionId> {
        if self.pacer.ready_at() > now {
            return None;
        }
        self.turns.pop()
    }

    /// The session was there and was told to end.
    pub fn told(&mut self, id: SessionId, now: Instant) {
        self.pacer.take(now);
        self.told.insert(id);
        self.closed += 1;
    }

    /// When there is something to do next.
    pub fn next_timeout(&self) -> Instant {
        match self.turns.is_empty() {
            true => self.look_at,
            false => self.pacer.ready_at(),
        }
    }
}

/// Sessions that were being attached when the others were seen turn up later.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Emptying, LOOK_EVERY};
    use crate::base::id::SessionId;

    fn ids(range: std::ops::Range<u64>) -> Vec<SessionId> {
        range.map(SessionId).collect()
    }

    /// Drives it as fast as it wants until `end`; the moments at which sessions were told.
    fn drive(emptying: &mut Emptying, mut now: Instant, end: Instant) -> Vec<(Instant, SessionId)> {
        let mut told = Vec::new();
        while now <= end {
            while let Some(id) = emptying.next(now) {
                emptying.told(id, now);
                told.push((now, id));
            }
            if emptying.wants_look(now) {
                return told;
            }
            now = now.max(emptying.next_timeout());
        }
        told
    }

    #[test]
    fn everybody_ends_once_at_the_rate_and_in_no_order() {
        let start = Instant::now();
        let mut emptying = Emptying::new(50, 7, start);
        assert!(emptying.wants_look(start));
        emptying.saw(ids(0..500), start);
        assert_eq!(emptying.remaining(500), Duration::from_secs(10));
        let told = drive(&mut emptying, start, start + Duration::from_secs(60));
        let mut order: Vec<_> = told.iter().map(|(_, id)| *id).collect();
        assert_ne!(order, ids(0..500));
        order.sort_unstable();
        assert_eq!(order, ids(0..500));
        let took = told[499].0 - start;
        assert!(
            took > Duration::from_millis(9_800) && took <= Duration::from_secs(10),
            "{took:?}"
        );
        // A tenth of a second's worth may come together, and in no second more than that above the
        // rate.
        for (at, _) in &told {
            let second = *at..*at + Duration::from_secs(1);
            let within = told.iter().filter(|(at, _)| second.contains(at)).count();
            assert!(within <= 55, "{within}");
        }
        assert_eq!(emptying.closed(), 500);
    }

    #[test]
    fn who_was_told_and_is_still_there_is_not_told_again_but_latecomers_are() {
        let start = Instant::now();
        let mut emptying = Emptying::new(10, 1, start);
        emptying.saw(ids(0..2), start);
        let end = start + Duration::from_secs(1);
        assert_eq!(drive(&mut emptying, start, end).len(), 2);
        assert!(!emptying.wants_look(start + LOOK_EVERY / 2));
        assert!(emptying.wants_look(end));
        emptying.saw(ids(1..4), end);
        let told = drive(&mut emptying, end, end + Duration::from_secs(1));
        let mut late: Vec<_> = told.iter().map(|(_, id)| *id).collect();
        late.sort_unstable();
        assert_eq!(late, ids(2..4));
        // Nobody to tell: it looks again, and not all the time.
        let now = end + Duration::from_secs(5);
        emptying.saw(Vec::new(), now);
        assert_eq!(emptying.next_timeout(), now + LOOK_EVERY);
    }

    #[test]
    fn one_that_had_gone_by_itself_costs_no_time() {
        let start = Instant::now();
        let mut emptying = Emptying::new(1, 1, start);
        emptying.saw(ids(0..100), start);
        for _ in 0..99 {
            assert!(emptying.next(start).is_some());
        }
        let last = emptying.next(start).unwrap();
        emptying.told(last, start);
        assert_eq!(emptying.closed(), 1);
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let start = Instant::now();
        let mut emptying = Emptying::new(1, 1, start);
        emptying.saw(ids(0..100), start);
        let told = drive(&mut emptying, start, start + Duration::from_millis(2_500));
        assert_eq!(told.len(), 3);
        let now = start + Duration::from_millis(2_500);
        emptying.set_rate(100, now);
        assert_eq!(emptying.rate(), 100);
        let told = drive(&mut emptying, now, now + Duration::from_secs(60));
        assert_eq!(told.len(), 97);
        assert!(told[96].0 - now < Duration::from_millis(1_100));
    }

    #[test]
    fn a_driver_that_comes_late_does_not_make_up_for_it() {
        let start = Instant::now();
        let mut emptying = Emptying::new(20, 1, start);
        emptying.saw(ids(0..100), start);
        let late = start + Duration::from_secs(3);
        let mut at_once = 0;
        while let Some(id) = emptying.next(late) {
            emptying.told(id, late);
            at_once += 1;
        }
        assert_eq!(at_once, 2);
    }
}
