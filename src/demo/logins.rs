//! What logins cost the simulated monolith, and how many of them it has been asked for.
//!
//! Streamers of one workspace share a monolith with a few workers. Each login occupies a worker for
//! a fixed time; those that find none free wait in order of arrival, so that the latency grows with
//! the number of logins in flight, as it does behind the real streamers' message bus.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What one login takes, and how many run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginModel {
    /// Time of a worker; nothing is ever waited for when it is zero.
    pub cost: Duration,
    /// Logins that are worked on at the same time, on all streamers together. At least 1.
    pub workers: usize,
}

impl Default for LoginModel {
    /// Logins cost nothing.
    fn default() -> Self {
        Self {
            cost: Duration::ZERO,
            workers: 1,
        }
    }
}

/// Logins seen by one streamer, or by all of a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginCounters {
    /// Begun and not answered; a login ends for the streamer when its socket does.
    pub in_flight: usize,
    /// Most that were ever in flight at the same time.
    pub most_in_flight: usize,
    /// Most that began within any one second.
    pub most_per_second: usize,
    /// Begun so far.
    pub begun: u64,
    /// Longest time from the beginning of one to its answer.
    pub slowest: Duration,
    /// Of these, given up because the monolith had not answered in time.
    pub timed_out: u64,
}

/// A call over the message bus is given up after this, and fails with an internal error
/// (`RocketChat/Rocket.Chat`, `REQUEST_TIMEOUT`).
const BUS_LIMIT: Duration = Duration::from_secs(60);

/// The monolith that logs users in for all streamers of a workspace.
#[derive(Debug)]
pub(super) struct LoginDesk {
    model: LoginModel,
    /// When each worker has done all that it was given.
    workers: Mutex<BinaryHeap<Reverse<Instant>>>,
    tally: LoginTally,
}

impl LoginDesk {
    pub(super) fn new(model: LoginModel) -> Self {
        Self {
            model,
            workers: Mutex::default(),
            tally: LoginTally::default(),
        }
    }

    pub(super) fn counters(&self) -> LoginCounters {
        self.tally.counters()
    }

    /// A login that arrives now at the streamer of `tally`. The work is done even when nobody waits
    /// for it any more.
    pub(super) fn begin(self: &Arc<Self>, tally: &Arc<LoginTally>, now: Instant) -> Login {
        let answered = self.book(now);
        let late = answered > now + BUS_LIMIT;
        let until = answered.min(now + BUS_LIMIT);
        let tallies = Tallies {
            desk: self.clone(),
            streamer: tally.clone(),
        };
        for tally in tallies.both() {
            tally.lock().begin(until, late, now);
        }
        Login {
            until,
            late,
            _tallies: tallies,
        }
    }

    /// When the worker that is free first will be done with one more login.
    fn book(&self, now: Instant) -> Instant {
        if self.model.cost.is_zero() {
            return now;
        }
        let mut workers = lock(&self.workers);
        let free = if workers.len() < self.model.workers.max(1) {
            now
        } else {
            workers.pop().map_or(now, |Reverse(free)| free.max(now))
        };
        let done = free + self.model.cost;
        workers.push(Reverse(done));
        done
    }
}

impl Default for LoginDesk {
    fn default() -> Self {
        Self::new(LoginModel::default())
    }
}

/// A login that a streamer has begun; it is in flight for as long as this lives.
#[derive(Debug)]
pub(super) struct Login {
    /// When it is answered.
    pub(super) until: Instant,
    /// The answer is that the monolith did not answer.
    pub(super) late: bool,
    _tallies: Tallies,
}

#[derive(Debug)]
struct Tallies {
    desk: Arc<LoginDesk>,
    streamer: Arc<LoginTally>,
}

impl Tallies {
    fn both(&self) -> [&LoginTally; 2] {
        [&self.desk.tally, &self.streamer]
    }
}

impl Drop for Tallies {
    fn drop(&mut self) {
        for tally in self.both() {
            tally.lock().counters.in_flight -= 1;
        }
    }
}

/// Counts logins of one streamer, or of all.
#[derive(Debug, Default)]
pub(super) struct LoginTally(Mutex<Tally>);

impl LoginTally {
    pub(super) fn counters(&self) -> LoginCounters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        lock(&self.0)
    }
}

#[derive(Debug, Default)]
struct Tally {
    counters: LoginCounters,
    /// When each of the last second began.
    latest: VecDeque<Instant>,
}

impl Tally {
    fn begin(&mut self, until: Instant, late: bool, now: Instant) {
        let counters = &mut self.counters;
        counters.begun += 1;
        counters.timed_out += u64::from(late);
        counters.slowest = counters.slowest.max(until - now);
        counters.in_flight += 1;
        counters.most_in_flight = counters.most_in_flight.max(counters.in_flight);
        self.latest.push_back(now);
        while let Some(first) = self.latest.front()
            && now.saturating_duration_since(*first) >= WINDOW
        {
            self.latest.pop_front();
        }
        counters.most_per_second = counters.most_per_second.max(self.latest.len());
    }
}

const WINDOW: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is made in one step, so a poisoned value is still a whole one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(cost_ms: u64, workers: usize) -> (Arc<LoginDesk>, Arc<LoginTally>) {
        let model = LoginModel {
            cost: Duration::from_millis(cost_ms),
            workers,
        };
        (Arc::new(LoginDesk::new(model)), Arc::default())
    }

    #[test]
    fn latency_grows_with_what_is_in_flight() {
        let (desk, streamer) = desk(10, 2);
        let now = Instant::now();
        let logins: Vec<Login> = (0..6).map(|_| desk.begin(&streamer, now)).collect();
        let waits: Vec<u128> = logins
            .iter()
            .map(|login| (login.until - now).as_millis())
            .collect();
        assert_eq!(waits, [10, 10, 20, 20, 30, 30]);
        let later = now + Duration::from_millis(25);
        assert_eq!(
            (desk.begin(&streamer, later).until - later).as_millis(),
            5 + 10
        );
    }

    #[test]
    fn a_login_that_nobody_waits_for_is_worked_on_all_the_same() {
        let (desk, streamer) = desk(10, 1);
        let now = Instant::now();
        drop(desk.begin(&streamer, now));
        assert_eq!((desk.begin(&streamer, now).until - now).as_millis(), 20);
    }

    #[test]
    fn counts_each_streamer_and_all_of_them() {
        let (desk, one) = desk(10, 4);
        let two = Arc::default();
        let now = Instant::now();
        let first = desk.begin(&one, now);
        let second = desk.begin(&two, now);
        drop(first);
        let _third = desk.begin(&one, now + Duration::from_millis(1200));
        drop(second);
        let in_all = desk.counters();
        assert_eq!((in_all.in_flight, in_all.most_in_flight), (1, 2));
        assert_eq!((in_all.most_per_second, in_all.begun), (2, 3));
        assert_eq!(in_all.slowest, Duration::from_millis(10));
        let first = one.counters();
        assert_eq!(
            (first.in_flight, first.most_in_flight, first.begun),
            (1, 1, 2)
        );
        assert_eq!(first.most_per_second, 1);
        assert_eq!(two.counters().in_flight, 0);
    }

    #[test]
    fn the_bus_gives_a_login_up() {
        let (desk, streamer) = desk(50_000, 1);
        let now = Instant::now();
        assert!(!desk.begin(&streamer, now).late);
        let second = desk.begin(&streamer, now);
        assert!(second.late);
        assert_eq!(second.until, now + BUS_LIMIT);
        assert_eq!(desk.counters().timed_out, 1);
    }

    #[test]
    fn logins_without_a_cost_are_answered_at_once() {
        let (desk, streamer) = desk(0, 1);
        let now = Instant::now();
        assert_eq!(desk.begin(&streamer, now).until, now);
    }
}
