//! What holds logins back: of one streamer, or of everything together.

use std::time::{Duration, Instant};

use super::{
    limit::Limit,
    pacer::{Pacer, Tally},
};

/// A limit of logins in flight and a rate at which they begin; both hold.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    limit: Limit,
    pacer: Pacer,
    tally: Tally,
    in_flight: u32,
    bounds: Bounds,
    /// Of both bounds, what other gateways leave: above 0, at most 1.
    share: f64,
}

/// Most logins in flight, and logins per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) most: u32,
    pub(super) rate: u32,
}

impl Throttle {
    /// `next`: number of the next login.
    pub(super) fn new(bounds: Bounds, next: u64, now: Instant) -> Self {
        Self {
            limit: Limit::new(bounds.most, next),
            pacer: Pacer::new(bounds.rate, now),
            tally: Tally::new(now),
            in_flight: 0,
            bounds,
            share: 1.0,
        }
    }

    pub(super) fn reconfigure(&mut self, bounds: Bounds, now: Instant) {
        self.bounds = bounds;
        self.limit.set_most(bounds.most);
        self.pacer.set(self.rate_limit(), now);
    }

    /// From now on, this share of the bounds. What is learned about all of them stays.
    pub(super) fn set_share(&mut self, share: f64, now: Instant) {
        let before = self.rate_limit();
        self.share = share.clamp(0.0, 1.0);
        if self.rate_limit() != before {
            self.pacer.set(self.rate_limit(), now);
        }
    }

    /// Logins that may begin in a second.
    pub(super) fn rate_limit(&self) -> u32 {
        part(self.bounds.rate, self.share)
    }

    pub(super) fn restart(&mut self, next: u64) {
        self.limit.restart(next);
    }

    /// A login may begin now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.has_room() && self.pacer.ready_at() <= now
    }

    /// When a login may begin, if nothing is answered until then; `None`: only after an answer.
    pub(super) fn opens_at(&self) -> Option<Instant> {
        self.has_room().then(|| self.pacer.ready_at())
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.limit()
    }

    /// A login begins. `paced`: it counts for the rate.
    pub(super) fn begin(&mut self, paced: bool, now: Instant) {
        self.in_flight += 1;
        self.limit
            .began(self.in_flight, part(self.limit.value(), self.share));
        self.tally.add(now);
        if paced {
            self.pacer.take(now);
        }
    }

    /// A login is in flight no longer.
    pub(super) fn end(&mut self) {
        debug_assert!(self.in_flight > 0, "a login ended twice");
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// What the end of a login said about those behind it; see [`Limit::answered`].
    pub(super) fn learn(&mut self, login: u64, good: bool, next: u64) {
        self.limit.answered(login, good, next);
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn limit(&self) -> u32 {
        part(self.limit.value(), self.share)
    }

    /// Logins begun in the last whole second.
    pub(super) fn rate(&mut self, now: Instant) -> u32 {
        self.tally.rate(now)
    }
}

/// A share of a number, rounded down: the parts of all gateways are no more than the whole, unless
/// that is too little for each to have 1.
pub(super) fn part(whole: u32, share: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of it is no larger; the conversion saturates"
    )]
    let part = (f64::from(whole) * share + ROUNDING) as u32;
    part.clamp(1, whole.max(1))
}

/// Without a login for this long, what was learned is forgotten: the backend of a minute ago is
/// not the one of now.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(10);

/// A third of 3 is 1.
const ROUNDING: f64 = 1e-6;
