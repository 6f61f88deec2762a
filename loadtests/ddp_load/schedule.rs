//! When things are meant to be done, whatever the server does meanwhile.

use std::time::{Duration, Instant};

/// Moments at even distances. One that is late is still the moment from which its time counts:
/// otherwise a server that stands still would be asked less, and would look better for it.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    next: Instant,
    pause: Duration,
}

impl Schedule {
    /// `nth` of `of` who share `rate`, each at moments of its own.
    pub(crate) fn share(start: Instant, rate: f64, nth: u32, of: u32) -> Self {
        let pause = Duration::from_secs_f64(1.0 / rate.max(1e-3));
        Self {
            next: start + pause * nth,
            pause: pause * of.max(1),
        }
    }

    /// The moment that comes next.
    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    pub(crate) fn advance(&mut self) {
        self.next += self.pause;
    }

    /// Moments before `end` that have not come.
    pub(crate) fn left(&self, end: Instant) -> u64 {
        let left = end.saturating_duration_since(self.next).as_nanos();
        let pause = self.pause.as_nanos().max(1);
        u64::try_from(left.div_ceil(pause)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Spread;

    /// One connection asks a hundred times in a second for ten seconds; an answer takes a
    /// millisecond, but in the middle the server stands still for a second.
    #[test]
    fn what_was_omitted_while_the_server_stood_still_is_counted() {
        let millis = Duration::from_millis;
        let start = Instant::now();
        let end = start + millis(10_000);
        let stop = start + millis(5_000)..start + millis(6_000);
        let mut schedule = Schedule::share(start, 100.0, 0, 1);
        let (mut honest, mut flattering) = (Spread::new(), Spread::new());
        let mut free = start;
        while schedule.due() < end {
            let intended = schedule.due();
            let sent = intended.max(free);
            let begun = if stop.contains(&sent) { stop.end } else { sent };
            free = begun + millis(1);
            honest.record(free - intended);
            flattering.record(free - sent);
            schedule.advance();
        }
        assert_eq!(honest.count(), 1000);
        // About 110 were late, the first by a second, the last by nothing.
        assert!(flattering.at(0.99) < millis(2), "{flattering}");
        assert!(honest.at(0.99) > millis(850), "{honest}");
        assert!(honest.at(0.95) > millis(400), "{honest}");
        assert!(honest.at(0.85) < millis(2), "{honest}");
        assert_eq!(honest.max(), flattering.max());
    }

    #[test]
    fn those_who_share_a_rate_make_it_together() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let all: u64 = (0..7)
            .map(|n| Schedule::share(start, 100.0, n, 7).left(start + second))
            .sum();
        assert_eq!(all, 100);
        let mut last = Schedule::share(start, 100.0, 6, 7);
        assert_eq!(last.due() - start, Duration::from_millis(60));
        last.advance();
        assert_eq!(last.due() - start, Duration::from_millis(130));
        assert_eq!(last.left(start), 0);
    }
}
