//! How many logins may begin within a time, and how many did.

use std::time::{Duration, Instant};

/// The generic cell rate algorithm: an even rate with a burst of a tenth of a second's worth.
///
/// Over any time `t`, no more than `burst + t * rate` logins begin.
#[derive(Clone, Debug)]
pub(in crate::pool) struct Pacer {
    interval: Duration,
    tolerance: Duration,
    /// When the next login would begin if all came evenly.
    due: Instant,
}

impl Pacer {
    /// `rate`: logins per second; 0 counts as 1.
    pub(in crate::pool) fn new(rate: u32, now: Instant) -> Self {
        let rate = rate.max(1);
        let interval = Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(rate)));
        Self {
            interval,
            tolerance: interval * (burst(rate) - 1),
            due: now,
        }
    }

    /// Goes on at another rate. What is left of the burst stays, as far as there is one; a larger
    /// burst comes with time, or else what one gateway hands to another would be there twice.
    pub(in crate::pool) fn set(&mut self, rate: u32, now: Instant) {
        let whole = self.tolerance + self.interval;
        let left = whole.saturating_sub(self.due.saturating_duration_since(now));
        let left = left.as_secs_f64() / self.interval.as_secs_f64();
        *self = Self::new(rate, now);
        let owed = f64::from(burst(rate.max(1))) - left;
        self.due = now + self.interval.mul_f64(owed.max(0.0));
    }

    /// When the next login may begin; in the past when it may at once.
    pub(in crate::pool) fn ready_at(&self) -> Instant {
        self.due.checked_sub(self.tolerance).unwrap_or(self.due)
    }

    pub(in crate::pool) fn take(&mut self, now: Instant) {
        self.due = self.due.max(now) + self.interval;
    }

    /// What was taken was not needed.
    pub(in crate::pool) fn give_back(&mut self) {
        self.due = self.due.checked_sub(self.interval).unwrap_or(self.due);
    }
}

/// Logins that may begin at the same moment after a pause, for a rate per second.
fn burst(rate: u32) -> u32 {
    (rate / 10).max(1)
}

/// Logins begun in the second before.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    since: Instant,
    count: u32,
    before: u32,
}

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            before: 0,
        }
    }

    pub(super) fn add(&mut self, now: Instant) {
        self.roll(now);
        self.count += 1;
    }

    /// Within the last whole second.
    pub(super) fn rate(&mut self, now: Instant) -> u32 {
        self.roll(now);
        self.before
    }

    fn roll(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= 2 * SECOND {
            *self = Self::new(now);
        } else if passed >= SECOND {
            self.before = std::mem::take(&mut self.count);
            self.since += SECOND;
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
