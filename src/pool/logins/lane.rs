//! The logins of one streamer: those that wait and those in flight.

use std::{
    collections::BTreeMap,
    task::{Context, Waker},
    time::Instant,
};

use super::{
    meters::LaneMeters,
    throttle::{Bounds, FORGET_AFTER, Throttle},
};
use crate::pool::as_gauge;

/// Made by the first login of a streamer, gone when there was none for a while.
#[derive(Debug)]
pub(super) struct Lane {
    throttle: Throttle,
    waiting: BTreeMap<u64, Waiter>,
    /// Since when what was learned holds.
    since: Instant,
    /// Since when nobody waits and nothing is in flight.
    idle_since: Option<Instant>,
    meters: LaneMeters,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    waker: Option<Waker>,
}

impl Lane {
    pub(super) fn new(bounds: Bounds, next: u64, meters: LaneMeters, now: Instant) -> Self {
        let lane = Self {
            throttle: Throttle::new(bounds, next, now),
            waiting: BTreeMap::new(),
            since: now,
            idle_since: Some(now),
            meters,
        };
        lane.measure();
        lane
    }

    pub(super) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    pub(super) fn rate(&mut self, now: Instant) -> u32 {
        self.throttle.rate(now)
    }

    pub(super) fn reconfigure(&mut self, bounds: Bounds, now: Instant) {
        self.throttle.reconfigure(bounds, now);
        self.measure();
    }

    pub(super) fn set_share(&mut self, share: f64, now: Instant) {
        self.throttle.set_share(share, now);
        self.measure();
    }

    /// The streamer came up at `since`: if it was another life that the limit was learned in, it
    /// begins anew.
    pub(super) fn came_up(&mut self, since: Instant, next: u64) {
        if since > self.since {
            self.since = since;
            self.restart(next);
        }
    }

    pub(super) fn restart(&mut self, next: u64) {
        self.throttle.restart(next);
        self.measure();
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The ticket whose turn is next.
    pub(super) fn head(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(number, _)| *number)
    }

    pub(super) fn is_waiting(&self, number: u64) -> bool {
        self.waiting.contains_key(&number)
    }

    /// How many are before this ticket.
    pub(super) fn before(&self, number: u64) -> Option<usize> {
        self.is_waiting(number)
            .then(|| self.waiting.range(..number).count())
    }

    pub(super) fn push(&mut self, number: u64, now: Instant) {
        self.waiting.insert(
            number,
            Waiter {
                since: now,
                waker: None,
            },
        );
        self.changed(now);
    }

    /// Takes the head out; since when it waited, and whom to wake once the lock is released.
    pub(super) fn pop(&mut self) -> Option<(u64, Instant, Option<Waker>)> {
        let (number, waiter) = self.waiting.pop_first()?;
        Some((number, waiter.since, waiter.waker))
    }

    /// Takes a ticket out that gave up; its waker is to be dropped once the lock is released.
    pub(super) fn leave(&mut self, number: u64, now: Instant) -> Option<Option<Waker>> {
        let waiter = self.waiting.remove(&number)?;
        self.changed(now);
        Some(waiter.waker)
    }

    /// Remembers whom to wake; gives the waker that was replaced, to be dropped once the lock is
    /// released.
    pub(super) fn watch(&mut self, number: u64, cx: &Context<'_>) -> Option<Waker> {
        match self.waiting.get_mut(&number)? {
            Waiter {
                waker: Some(waker), ..
            } if waker.will_wake(cx.waker()) => None,
            waiter => waiter.waker.replace(cx.waker().clone()),
        }
    }

    pub(super) fn begin(&mut self, paced: bool, now: Instant) {
        self.throttle.begin(paced, now);
        self.changed(now);
    }

    pub(super) fn end(&mut self, now: Instant) {
        self.throttle.end();
        self.changed(now);
    }

    pub(super) fn learn(&mut self, login: u64, good: bool, next: u64) {
        self.throttle.learn(login, good, next);
        self.measure();
    }

    /// When it is to be forgotten, if nobody comes.
    pub(super) fn forget_at(&self) -> Option<Instant> {
        self.idle_since.map(|since| since + FORGET_AFTER)
    }

    fn changed(&mut self, now: Instant) {
        let idle = self.waiting.is_empty() && self.throttle.in_flight() == 0;
        self.idle_since = idle.then_some(now);
        self.measure();
    }

    fn measure(&self) {
        self.meters.waiting.set(as_gauge(self.waiting.len()));
        self.meters.in_flight.set(self.throttle.in_flight());
        self.meters.limit.set(self.throttle.limit());
    }
}
