//! A table of deadlines, so that a machine with several timeouts needs one real timer.

use std::time::{Duration, Instant};

/// Deadlines of the `N` timers of one machine, each known by its index.
///
/// Kept as milliseconds after a base, rounded up: there are as many tables as sessions, and four
/// bytes do where an `Option<Instant>` takes sixteen.
#[derive(Clone, Debug)]
pub struct Timers<const N: usize> {
    base: Instant,
    /// [`UNARMED`], or the deadline in milliseconds after `base`.
    deadlines: [u32; N],
}

impl<const N: usize> Timers<N> {
    /// No timer armed; `now` is at most the earliest deadline that will be set.
    pub fn new(now: Instant) -> Self {
        Self {
            base: now,
            deadlines: [UNARMED; N],
        }
    }

    /// Arms (or moves) a timer. Panics when `timer` is not below `N`: the caller's enum says so.
    pub fn set(&mut self, timer: usize, deadline: Instant) {
        let mut after = deadline.saturating_duration_since(self.base);
        if after > FAR {
            self.rebase(after - FAR / 2);
            after = deadline.saturating_duration_since(self.base);
        }
        let millis = after.as_nanos().div_ceil(1_000_000);
        self.deadlines[timer] = u32::try_from(millis).unwrap_or(UNARMED - 1);
    }

    pub fn stop(&mut self, timer: usize) {
        self.deadlines[timer] = UNARMED;
    }

    pub fn clear(&mut self) {
        self.deadlines = [UNARMED; N];
    }

    pub fn deadline(&self, timer: usize) -> Option<Instant> {
        self.instant(self.deadlines[timer])
    }

    /// The moment at which something expires next.
    pub fn next(&self) -> Option<Instant> {
        self.instant(self.deadlines.iter().copied().min().unwrap_or(UNARMED))
    }

    /// Takes one timer that is due; call until `None`.
    pub fn expired(&mut self, now: Instant) -> Option<usize> {
        let due = (0..N).find(|&timer| self.deadline(timer).is_some_and(|at| at <= now))?;
        self.deadlines[due] = UNARMED;
        Some(due)
    }

    /// Moves the base on, so that a session may live longer than 49 days.
    fn rebase(&mut self, by: Duration) {
        let millis = u32::try_from(by.as_millis()).unwrap_or(UNARMED - 1);
        self.base += Duration::from_millis(u64::from(millis));
        for deadline in &mut self.deadlines {
            if *deadline != UNARMED {
                *deadline = deadline.saturating_sub(millis);
            }
        }
    }

    fn instant(&self, deadline: u32) -> Option<Instant> {
        (deadline != UNARMED).then(|| self.base + Duration::from_millis(u64::from(deadline)))
    }
}

const UNARMED: u32 = u32::MAX;

/// Deadlines are kept within this of the base.
const FAR: Duration = Duration::from_secs(40 * 24 * 3600);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Timers;

    #[test]
    fn expires_each_timer_once() {
        let start = Instant::now();
        let mut timers = Timers::<3>::new(start);
        timers.set(0, start + Duration::from_secs(5));
        timers.set(2, start + Duration::from_secs(1));
        assert_eq!(timers.next(), Some(start + Duration::from_secs(1)));
        assert_eq!(timers.expired(start), None);
        assert_eq!(timers.expired(start + Duration::from_secs(9)), Some(0));
        assert_eq!(timers.expired(start + Duration::from_secs(9)), Some(2));
        assert_eq!(timers.expired(start + Duration::from_secs(9)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn outlives_its_range() {
        let start = Instant::now();
        let mut timers = Timers::<2>::new(start);
        let day = Duration::from_secs(24 * 3600);
        let mut now = start;
        for _ in 0..400 {
            timers.set(0, now + Duration::from_secs(50));
            timers.set(1, now + day);
            assert_eq!(timers.expired(now + Duration::from_secs(49)), None);
            now += day + Duration::from_millis(1);
            assert_eq!(timers.expired(now), Some(0));
            assert_eq!(timers.expired(now), Some(1));
        }
    }

    #[test]
    fn never_fires_early() {
        let start = Instant::now();
        let mut timers = Timers::<1>::new(start);
        let deadline = start + Duration::from_micros(1_500);
        timers.set(0, deadline);
        assert!(timers.next().unwrap() >= deadline);
        assert_eq!(timers.expired(deadline), None);
    }
}
