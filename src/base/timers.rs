//! A table of deadlines, so that a machine with several timeouts needs one real timer.

use std::time::Instant;

/// Deadlines of the `N` timers of one machine. The kind of timer converts to its index.
#[derive(Clone, Debug)]
pub struct Timers<const N: usize> {
    deadlines: [Option<Instant>; N],
}

impl<const N: usize> Timers<N> {
    pub fn new() -> Self {
        Self {
            deadlines: [None; N],
        }
    }

    /// Arms (or moves) a timer. Panics when `timer` is not below `N`: the caller's enum says so.
    pub fn set(&mut self, timer: usize, deadline: Instant) {
        self.deadlines[timer] = Some(deadline);
    }

    pub fn stop(&mut self, timer: usize) {
        self.deadlines[timer] = None;
    }

    pub fn deadline(&self, timer: usize) -> Option<Instant> {
        self.deadlines[timer]
    }

    /// The moment at which something expires next.
    pub fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes one timer that is due; call until `None`.
    pub fn expired(&mut self, now: Instant) -> Option<usize> {
        let due = self
            .deadlines
            .iter()
            .position(|at| at.is_some_and(|at| at <= now))?;
        self.deadlines[due] = None;
        Some(due)
    }
}

impl<const N: usize> Default for Timers<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Timers;

    #[test]
    fn expires_each_timer_once() {
        let start = Instant::now();
        let mut timers = Timers::<3>::new();
        timers.set(0, start + Duration::from_secs(5));
        timers.set(2, start + Duration::from_secs(1));
        assert_eq!(timers.next(), Some(start + Duration::from_secs(1)));
        assert_eq!(timers.expired(start), None);
        assert_eq!(timers.expired(start + Duration::from_secs(9)), Some(0));
        assert_eq!(timers.expired(start + Duration::from_secs(9)), Some(2));
        assert_eq!(timers.expired(start + Duration::from_secs(9)), None);
        assert_eq!(timers.next(), None);
    }
}
