//! How long to wait for the next piece of a body.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Deadlines of one direction of an exchange. Only time spent waiting for the sender counts: a sender
/// that is held back by a slow receiver is not slow itself.
#[derive(Debug)]
pub(super) struct Pace {
    rules: Rules,
    wait: Option<Wait>,
    /// Of the current window: time spent waiting, and bytes that came.
    waited: Duration,
    bytes: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    /// Up to here the wait is in [`Pace::waited`].
    counted: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Longest wait for a piece.
    pub(super) idle: Duration,
    /// Bytes per second that are expected at least, over [`Self::window`]; 0 for any.
    pub(super) min_rate: u64,
    pub(super) window: Duration,
    /// For the whole exchange.
    pub(super) deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    Idle,
    Slow,
    Deadline,
}

impl Pace {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            wait: None,
            waited: Duration::ZERO,
            bytes: 0,
            timer: None,
        }
    }

    /// A piece came.
    pub(super) fn came(&mut self, bytes: usize, now: Instant) -> Result<(), Late> {
        if let Some(wait) = self.wait.take() {
            self.waited += now.saturating_duration_since(wait.counted);
        }
        self.bytes += bytes as u64;
        if now >= self.rules.deadline {
            return Err(Late::Deadline);
        }
        self.judge()
    }

    /// No piece is there; ready when the sender is late. To be polled again at any wake-up.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        loop {
            let now = Instant::now();
            if let Err(late) = self.waits(now) {
                return Poll::Ready(late);
            }
            let next = self.next();
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(next)));
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// It is `now`, and nothing has come.
    fn waits(&mut self, now: Instant) -> Result<(), Late> {
        let wait = self.wait.get_or_insert(Wait {
            since: now,
            counted: now,
        });
        self.waited += now.saturating_duration_since(wait.counted);
        wait.counted = now;
        if now >= self.rules.deadline {
            return Err(Late::Deadline);
        }
        if now >= wait.since + self.rules.idle {
            return Err(Late::Idle);
        }
        self.judge()
    }

    /// When the sender is late at the earliest.
    fn next(&self) -> Instant {
        let Some(wait) = self.wait else {
            return self.rules.deadline;
        };
        let mut next = self.rules.deadline.min(wait.since + self.rules.idle);
        if self.rules.min_rate > 0 {
            next = next.min(wait.counted + self.rules.window.saturating_sub(self.waited));
        }
        next
    }

    fn judge(&mut self) -> Result<(), Late> {
        if self.waited < self.rules.window {
            return Ok(());
        }
        let enough = self.rules.min_rate.saturating_mul(self.waited.as_secs());
        if self.bytes < enough {
            return Err(Late::Slow);
        }
        self.waited = Duration::ZERO;
        // A piece that came right at the edge may have been counted before it.
        self.bytes = (self.bytes - enough).min(self.rules.min_rate);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Late, Pace, Rules};

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(start: Instant) -> Pace {
        Pace::new(Rules {
            idle: SECOND * 30,
            min_rate: 100,
            window: SECOND * 10,
            deadline: start + SECOND * 600,
        })
    }

    #[test]
    fn a_trickle_is_late_after_one_window() {
        let start = Instant::now();
        let mut pace = pace(start);
        for second in 0..10 {
            assert_eq!(pace.waits(start + SECOND * second), Ok(()));
            assert_eq!(pace.came(1, start + SECOND * second + SECOND / 2), Ok(()));
            assert_eq!(pace.waits(start + SECOND * second + SECOND / 2), Ok(()));
        }
        assert_eq!(pace.next(), start + SECOND * 10);
        assert_eq!(pace.waits(start + SECOND * 10), Err(Late::Slow));
    }

    #[test]
    fn a_piece_at_the_edge_of_a_window_counts_on_either_side() {
        let start = Instant::now();
        let mut pace = pace(start);
        for second in 0..60 {
            let now = start + SECOND * second;
            // Now the piece is there before the timer, now behind it.
            if second % 20 == 0 {
                assert_eq!(pace.waits(now), Ok(()));
            }
            assert_eq!(pace.came(105, now), Ok(()));
            assert_eq!(pace.waits(now), Ok(()));
        }
    }

    #[test]
    fn a_steady_sender_is_never_late() {
        let start = Instant::now();
        let mut pace = pace(start);
        for second in 0..599 {
            assert_eq!(pace.waits(start + SECOND * second), Ok(()));
            assert_eq!(pace.came(100, start + SECOND * (second + 1)), Ok(()));
        }
        assert_eq!(pace.waits(start + SECOND * 600), Err(Late::Deadline));
    }

    #[test]
    fn time_in_which_nobody_asked_does_not_count() {
        let start = Instant::now();
        let mut pace = pace(start);
        for minute in 0..9 {
            // The receiver took a minute for each piece; the sender had it ready at once.
            assert_eq!(pace.came(1, start + SECOND * 60 * minute), Ok(()));
        }
    }

    #[test]
    fn silence_is_late_without_a_rate() {
        let start = Instant::now();
        let mut pace = pace(start);
        pace.rules.min_rate = 0;
        assert_eq!(pace.waits(start), Ok(()));
        assert_eq!(pace.next(), start + SECOND * 30);
        assert_eq!(pace.waits(start + SECOND * 20), Ok(()));
        assert_eq!(pace.waits(start + SECOND * 30), Err(Late::Idle));
    }
}
