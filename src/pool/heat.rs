//! How hot a streamer runs, by the CPU that it tells with its heartbeats.
//!
//! Sessions differ: a streamer with no more of them than the others may have the busy ones, or share
//! its machine with somebody. It is spared then: it goes on with what it has, and gets a part of the
//! newcomers that it would get otherwise. It is never cut off, since the value is that of its whole
//! machine, may be wrong, and says nothing about whether the streamer answers.

use std::time::{Duration, Instant};

/// What is known of one streamer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heat {
    beat: Option<Beat>,
    /// Heartbeats in a row that speak for the other state.
    against: u8,
    hot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    percent: u8,
    at: Instant,
}

/// The state has become another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Hot,
    Cool,
}

impl Heat {
    /// A heartbeat; `others` is the mean of the other streamers of the pool, if any is known.
    pub(super) fn beat(
        &mut self,
        percent: u8,
        others: Option<f64>,
        now: Instant,
    ) -> Option<Change> {
        self.beat = Some(Beat { percent, at: now });
        let above = |percent_least: u8, times: f64| {
            others.is_some_and(|mean| percent > percent_least && f64::from(percent) > times * mean)
        };
        let speaks_against = match self.hot {
            false => above(HOT_PERCENT, HOT_TIMES),
            true => !above(COOL_PERCENT, COOL_TIMES),
        };
        if !speaks_against {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < BEATS {
            return None;
        }
        self.against = 0;
        self.hot = !self.hot;
        Some(match self.hot {
            true => Change::Hot,
            false => Change::Cool,
        })
    }

    /// Forgets what is too old to be believed.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Change> {
        let stale = self
            .beat
            .is_some_and(|beat| now.saturating_duration_since(beat.at) >= STALE);
        if !stale {
            return None;
        }
        let was_hot = self.hot;
        *self = Self::default();
        was_hot.then_some(Change::Cool)
    }

    /// Percent of its machine's CPU, as of a heartbeat that is not too old.
    pub(super) fn percent(&self, now: Instant) -> Option<u8> {
        let beat = self.beat?;
        (now.saturating_duration_since(beat.at) < STALE).then_some(beat.percent)
    }

    pub(super) fn is_hot(&self) -> bool {
        self.hot
    }
}

/// Above both of these a streamer is hot, and below one of the lower ones it is not any more.
const HOT_PERCENT: u8 = 80;
const HOT_TIMES: f64 = 1.5;
const COOL_PERCENT: u8 = 70;
const COOL_TIMES: f64 = 1.25;
/// A single heartbeat is no proof: Moleculer measures for a tenth of a second.
const BEATS: u8 = 3;
/// Heartbeats come every 10 s; four that are missing leave nothing to go by.
const STALE: Duration = Duration::from_secs(45);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::{collection::vec, option, prelude::*};

    use super::{BEATS, Change, Heat, STALE};

    const BEAT: Duration = Duration::from_secs(10);

    /// The changes after each of these heartbeats.
    fn run(heat: &mut Heat, beats: &[(u8, Option<f64>)]) -> Vec<Option<Change>> {
        let start = Instant::now();
        let beats = beats.iter().zip(0..);
        beats
            .map(|((percent, others), n)| heat.beat(*percent, *others, start + BEAT * n))
            .collect()
    }

    #[test]
    fn several_in_a_row_and_not_alone() {
        let mut heat = Heat::default();
        let hot = (90, Some(40.0));
        assert_eq!(
            run(&mut heat, &[hot, hot, (30, Some(40.0)), hot, hot]),
            [None; 5]
        );
        assert_eq!(run(&mut heat, &[hot]), [Some(Change::Hot)]);
        // In between: neither.
        assert_eq!(run(&mut heat, &[(75, Some(50.0)); 9]), [None; 9]);
        let cool = (65, Some(40.0));
        let cooled = run(&mut heat, &[cool, cool, hot, cool, cool, cool, cool]);
        assert_eq!(cooled.iter().flatten().count(), 1);
        assert_eq!(cooled[5], Some(Change::Cool));
        // All at work, or nobody to compare with.
        for others in [Some(70.0), None] {
            assert_eq!(run(&mut Heat::default(), &[(99, others); 9]), [None; 9]);
        }
    }

    #[test]
    fn old_values_are_forgotten() {
        let now = Instant::now();
        let mut heat = Heat::default();
        for _ in 0..BEATS {
            heat.beat(95, Some(10.0), now);
        }
        assert!(heat.is_hot());
        assert_eq!(heat.expire(now + STALE / 2), None);
        assert_eq!(heat.percent(now + STALE / 2), Some(95));
        assert_eq!(heat.percent(now + STALE), None);
        assert_eq!(heat.expire(now + STALE), Some(Change::Cool));
        assert_eq!(heat, Heat::default());
    }

    proptest! {
        /// Who is hot was above what is allowed in each of the last beats before it became so.
        #[test]
        fn nobody_is_hot_without_cause(
            beats in vec((0u8..=100, option::of(0f64..100.0), 0u64..60), 0..60),
        ) {
            let (mut heat, mut now) = (Heat::default(), Instant::now());
            let mut run = 0;
            for (percent, others, pause) in beats {
                now += Duration::from_secs(pause);
                heat.expire(now);
                if heat == Heat::default() {
                    run = 0;
                }
                let before = heat.is_hot();
                let change = heat.beat(percent, others, now);
                let above = percent > 80 && others.is_some_and(|mean| f64::from(percent) > 1.5 * mean);
                run = if above { run + 1 } else { 0 };
                prop_assert_eq!(change.is_some(), before != heat.is_hot());
                if change == Some(Change::Hot) {
                    prop_assert!(run >= u32::from(BEATS));
                }
                prop_assert_eq!(heat.percent(now), Some(percent));
            }
        }
    }
}
