//! What those who have sessions moved know of them, and what the orders lead to.

use std::time::{Duration, Instant};

use crate::base::id::SessionId;

/// A session on a streamer, as somebody sees it who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: SessionId,
    /// Both ways, since it began.
    pub messages: u64,
    pub age: Duration,
    /// It has an order to move already.
    pub moving: bool,
}

/// How a session that was told to move is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    UnderWay,
    /// It is on another streamer.
    Moved,
    /// It has ended, or ends.
    Gone,
    /// It is where it was.
    Stays {
        /// One of a small set of words.
        reason: &'static str,
        /// The reason goes by itself.
        passes: bool,
        /// It cost a login, or might have.
        begun: bool,
    },
}

/// How busy a session is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity {
    messages: u64,
    seen_at: Instant,
    /// Messages; those of long ago count for less and less.
    per_second: f64,
}

impl Activity {
    /// By what it has done in all its life.
    pub(super) fn new(seen: &Seen, now: Instant) -> Self {
        Self {
            messages: seen.messages,
            seen_at: now,
            per_second: rate(seen.messages, seen.age.max(SECOND)),
        }
    }

    pub(super) fn update(&mut self, seen: &Seen, now: Instant) {
        let passed = now.saturating_duration_since(self.seen_at);
        if passed < SHORTEST_LOOK {
            return;
        }
        let recent = rate(seen.messages.saturating_sub(self.messages), passed);
        self.per_second = f64::midpoint(self.per_second, recent);
        self.messages = seen.messages;
        self.seen_at = now;
    }

    pub(super) fn per_second(&self) -> f64 {
        self.per_second
    }
}

/// How many sessions really leave in a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    /// Since when those are counted that left lately.
    window: Option<(Instant, u32)>,
    per_second: Option<f64>,
}

impl Speed {
    /// One has left.
    pub(super) fn add(&mut self, now: Instant) {
        let (_, count) = self.window.get_or_insert((now, 0));
        *count += 1;
        self.pass(now);
    }

    pub(super) fn pass(&mut self, now: Instant) {
        let Some((since, count)) = self.window else {
            return;
        };
        let passed = now.saturating_duration_since(since);
        if passed >= SPEED_WINDOW {
            let recent = rate(u64::from(count), passed);
            let before = self.per_second.unwrap_or(recent);
            self.per_second = Some(f64::midpoint(before, recent));
            self.window = Some((now, 0));
        }
    }

    /// Time for this many, who leave at `rate` in a second at most; `None` when nobody has left
    /// for so long that there is no telling.
    pub(super) fn remaining(&self, left: u64, rate: u32) -> Option<Duration> {
        let rate = f64::from(rate.max(1));
        let speed = self.per_second.map_or(rate, |speed| speed.min(rate));
        if left == 0 {
            return Some(Duration::ZERO);
        }
        (speed > SLOWEST).then(|| {
            let left = f64::from(u32::try_from(left).unwrap_or(u32::MAX));
            // To the millisecond: more would be noise.
            Duration::from_secs_f64((left / speed * 1e3).round() / 1e3)
        })
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    count / time.as_secs_f64().max(1e-3)
}

/// A move that is not over after this has failed, whatever its session says.
pub(super) const LONGEST_MOVE: Duration = Duration::from_secs(120);

/// Pause between two questions how the moves under way are.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(50);

const SECOND: Duration = Duration::from_secs(1);
const SHORTEST_LOOK: Duration = Duration::from_millis(100);
const SPEED_WINDOW: Duration = Duration::from_secs(2);

/// A session in a hundred seconds is no speed.
const SLOWEST: f64 = 0.01;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Activity, Seen, Speed};
    use crate::base::id::SessionId;

    #[test]
    fn who_is_busy_now_counts_as_busy_and_who_was_does_not_for_long() {
        let start = Instant::now();
        let seen = |messages| Seen {
            id: SessionId(1),
            messages,
            age: Duration::from_secs(100),
            moving: false,
        };
        let mut was = Activity::new(&seen(1_000), start);
        let mut is = Activity::new(&seen(10), start);
        assert!(was.per_second() > is.per_second());
        for second in 1..10 {
            let now = start + Duration::from_secs(second);
            was.update(&seen(1_000), now);
            is.update(&seen(10 + second), now);
        }
        assert!(was.per_second() < is.per_second());
    }

    #[test]
    fn the_time_that_is_left_follows_what_really_happens() {
        let start = Instant::now();
        let mut speed = Speed::default();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(speed.remaining(100, 50), seconds(2));
        for tenth in 0..=40 {
            speed.add(start + Duration::from_millis(tenth * 100));
        }
        let eta = speed.remaining(100, 50).unwrap();
        assert!((9..=11).contains(&eta.as_secs()), "{eta:?}");
        // A higher speed than the one allowed from now on is not believed.
        assert_eq!(speed.remaining(100, 2), seconds(50));
        for second in 10..60 {
            speed.pass(start + Duration::from_secs(second));
        }
        assert_eq!(speed.remaining(100, 50), None);
        assert_eq!(speed.remaining(0, 50), Some(Duration::ZERO));
    }
}
