//! How evenly the sessions of a pool lie on its streamers, and what makes them even.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use serde::Serialize;

use super::{
    health::{Health, Ramp},
    view::{Entry, PoolView},
};
use crate::base::id::StreamerId;

/// A streamer in rotation as those see it who level the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub id: StreamerId,
    pub sessions: u32,
    /// Sessions and clients that are expected.
    pub load: u32,
    /// Sessions that it takes now.
    pub room: u32,
    /// Sessions that it takes when it is warm.
    pub warm_room: u32,
    /// It does not start slowly any more.
    pub warm: bool,
    /// In this state of health.
    pub since: Instant,
}

/// What a streamer gives or gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    pub streamer: String,
    pub sessions: u32,
    pub gives: u32,
    pub gets: u32,
}

impl PoolView {
    /// The streamers in rotation; others neither give nor get, and neither do those that are hot,
    /// which have fewer sessions because they are to.
    pub fn levels(&self, now: Instant) -> Vec<Level> {
        let entries = self.entries.iter();
        let eligible = entries.filter(|entry| entry.eligible() && !entry.hot);
        eligible.map(|entry| level(entry, now)).collect()
    }
}

fn level(entry: &Entry, now: Instant) -> Level {
    let sessions = entry.streamer.sessions();
    let (well, warm) = match entry.health {
        Health::Up { ramp, .. } => match ramp {
            Ramp::Full => (true, true),
            Ramp::Rising { from, over } => (true, now.saturating_duration_since(from) >= over),
        },
        Health::Degraded { .. } | Health::Unknown { .. } | Health::Down { .. } => (false, true),
    };
    let room = |capacity: u32| match well {
        true => {
            let elsewhere = entry.streamer.sessions_of_others();
            let room = capacity.saturating_sub(sessions.saturating_add(elsewhere));
            let claimed = entry.streamer.claim().unwrap_or(u32::MAX);
            room.min(claimed.saturating_sub(sessions))
        }
        false => 0,
    };
    Level {
        id: entry.streamer.id.clone(),
        sessions,
        load: entry.streamer.load(),
        room: room(entry.capacity(now)),
        warm_room: room(entry.limit),
        warm,
        since: entry.health.since(),
    }
}

/// The fullest streamer in relation to the mean; 1 when nobody has a session.
pub fn skew(levels: &[Level]) -> f64 {
    let mean = mean(levels, 0);
    match mean > 0.0 {
        true => f64::from(fullest(levels)) / mean,
        false => 1.0,
    }
}

pub(super) fn fullest(levels: &[Level]) -> u32 {
    let sessions = levels.iter().map(|level| level.sessions);
    sessions.max().unwrap_or(0)
}

/// Sessions of a streamer if all had the same number. `doubled` are counted on two of them.
pub(super) fn mean(levels: &[Level], doubled: u32) -> f64 {
    let sum: f64 = levels.iter().map(|level| f64::from(level.sessions)).sum();
    let count = u32::try_from(levels.len()).unwrap_or(u32::MAX).max(1);
    (sum - f64::from(doubled)).max(0.0) / f64::from(count)
}

/// Most sessions that a streamer may have, if it may have this share above the mean.
pub(super) fn ceiling(mean: f64, above: f64) -> u32 {
    let most = mean * (1.0 + above);
    // Sessions are whole, and a mean that was not meant to be above a whole number is none.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a mean of 32-bit numbers, at most doubled; the conversion saturates"
    )]
    {
        (most - 1e-9).ceil() as u32
    }
}

/// What levelling means for each streamer: from those above the ceiling to those that have the
/// fewest and room, one after the other.
pub fn plan(levels: &[Level]) -> Vec<Share> {
    let most = ceiling(mean(levels, 0), GOAL);
    let mut shares: Vec<_> = levels
        .iter()
        .map(|level| Share {
            streamer: level.id.to_string(),
            sessions: level.sessions,
            gives: level.sessions.saturating_sub(most),
            gets: 0,
        })
        .collect();
    let below = |at: usize| Some(levels[at].sessions).filter(|sessions| *sessions < most);
    let mut receivers: BinaryHeap<_> = (0..levels.len())
        .filter_map(|at| Some(Reverse((below(at)?, at))))
        .collect();
    let surplus: u32 = shares.iter().map(|share| share.gives).sum();
    let mut placed = 0;
    while placed < surplus
        && let Some(Reverse((sessions, at))) = receivers.pop()
    {
        if shares[at].gets < levels[at].warm_room && sessions < most {
            shares[at].gets += 1;
            placed += 1;
            receivers.push(Reverse((sessions + 1, at)));
        }
    }
    // What nobody has room for stays, where the fewest are too many.
    let mut homeless = surplus - placed;
    let mut givers: Vec<_> = shares.iter_mut().filter(|share| share.gives > 0).collect();
    givers.sort_by_key(|share| share.gives);
    for share in givers {
        let stays = share.gives.min(homeless);
        share.gives -= stays;
        homeless -= stays;
    }
    shares
}

/// Levelling goes on until nobody has more than this share above the mean: less than what counts as
/// level, so that the next client does not undo it.
pub(super) const GOAL: f64 = 0.05;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Level, plan, skew};

    fn levels(sessions: &[u32]) -> Vec<Level> {
        let start = Instant::now();
        let level = |(at, sessions): (usize, &u32)| Level {
            id: format!("s{at}").as_str().into(),
            sessions: *sessions,
            load: *sessions,
            room: 500 - sessions,
            warm_room: 500 - sessions,
            warm: true,
            since: start,
        };
        sessions.iter().enumerate().map(level).collect()
    }

    fn planned(levels: &[Level]) -> Vec<(u32, u32)> {
        let shares = plan(levels);
        shares
            .iter()
            .map(|share| (share.gives, share.gets))
            .collect()
    }

    #[test]
    fn those_above_the_mean_give_and_the_emptiest_get() {
        for (sessions, shares) in [
            (&[][..], vec![]),
            (&[7], vec![(0, 0)]),
            (&[0, 0], vec![(0, 0), (0, 0)]),
            (&[100, 100, 0], vec![(30, 0), (30, 0), (0, 60)]),
            (&[100, 50, 0], vec![(47, 0), (0, 0), (0, 47)]),
            (&[100, 104], vec![(0, 0), (0, 0)]),
            (&[2, 1], vec![(0, 0), (0, 0)]),
            (&[3, 0], vec![(1, 0), (0, 1)]),
        ] {
            assert_eq!(planned(&levels(sessions)), shares, "{sessions:?}");
        }
    }

    #[test]
    fn nobody_gives_what_nobody_can_take() {
        let mut full = levels(&[300, 300, 0]);
        full[2].warm_room = 50;
        assert_eq!(planned(&full), [(0, 0), (50, 0), (0, 50)]);
        full[2].warm_room = 0;
        assert_eq!(planned(&full), [(0, 0), (0, 0), (0, 0)]);
    }

    #[test]
    fn skew_is_the_fullest_by_the_mean() {
        for (sessions, expected) in [
            (&[][..], 1.0),
            (&[0, 0], 1.0),
            (&[10, 10], 1.0),
            (&[20, 10, 0], 2.0),
        ] {
            let found = skew(&levels(sessions));
            assert!((found - expected).abs() < 1e-9, "{sessions:?}: {found}");
        }
    }
}
