//! Who gets the next session.

use std::{sync::Arc, time::Instant};

use crate::base::id::StreamerId;

use super::{
    health::Health,
    streamer::Streamer,
    view::{Entry, PoolView},
};

/// What a client would like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Where the client was before: taken while that streamer is up and has room.
    pub preferred: Option<StreamerId>,
    /// Where an [`Expectation`](super::streamer::Expectation) points; comes after `preferred`.
    pub expected: Option<StreamerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// Streamers are up, but none has room, or others wait for it already.
    #[error("every streamer of the pool is full")]
    Full,
    /// No streamer is in rotation (apart from those to be avoided).
    #[error("no streamer of the pool is up")]
    NoneUp,
}

/// The streamer for a client with this wish: the preferred one while it is up and has room, then
/// the one with the fewest sessions and expected ones among those that are up, then the same among
/// those that are degraded. One that is hot gets a newcomer of these only now and then, a quarter of
/// its share, as long as others have room. Ties are broken by `seed`, so that many gateways with the same picture
/// do not all begin with the same streamer.
pub(super) fn choose<'view>(
    view: &'view PoolView,
    wish: &Wish,
    avoid: &[StreamerId],
    seed: u64,
    now: Instant,
) -> Result<&'view Arc<Streamer>, PickError> {
    for id in [&wish.preferred, &wish.expected].into_iter().flatten() {
        if !avoid.contains(id)
            && let Some(entry) = view.find(id)
            && matches!(entry.health, Health::Up { .. })
            && entry.has_room(now)
        {
            return Ok(&entry.streamer);
        }
    }
    let mut someone = false;
    let mut up = Fewest::new(seed);
    let mut hot = Fewest::new(seed);
    let mut degraded = Fewest::new(seed);
    for entry in &view.entries {
        if !entry.eligible() || avoid.contains(&entry.streamer.id) {
            continue;
        }
        someone = true;
        if !entry.has_room(now) {
            continue;
        }
        match entry.health {
            Health::Up { .. } if entry.hot => hot.offer(entry),
            Health::Up { .. } => up.offer(entry),
            Health::Degraded { .. } | Health::Unknown { .. } | Health::Down { .. } => {
                degraded.offer(entry);
            }
        }
    }
    let best = match (up.best, hot.best) {
        (Some(_), Some(spared)) if hot.load <= up.load && hot.is_drawn(&up) => Some(spared),
        (cool, spared) => cool.or(spared),
    };
    match best.or(degraded.best) {
        Some(entry) => Ok(&entry.streamer),
        None if someone => Err(PickError::Full),
        None => Err(PickError::NoneUp),
    }
}

/// Whether one session less on `from` and one more on `to` makes the two more even, and `to` is in
/// good health.
pub(super) fn levels(view: &PoolView, from: &Streamer, to: &Streamer) -> bool {
    let well = view
        .find(&to.id)
        .is_some_and(|entry| matches!(entry.health, Health::Up { .. }));
    well && to.load().saturating_add(1) < from.load()
}

/// The least loaded entry so far; equal ones win with equal probability.
struct Fewest<'view> {
    best: Option<&'view Entry>,
    load: u32,
    ties: u64,
    offered: u64,
    random: SplitMix,
}

impl<'view> Fewest<'view> {
    fn new(seed: u64) -> Self {
        Self {
            best: None,
            load: u32::MAX,
            ties: 0,
            offered: 0,
            random: SplitMix(seed),
        }
    }

    fn offer(&mut self, entry: &'view Entry) {
        let load = entry.streamer.whole_load();
        self.offered += 1;
        if self.best.is_none() || load < self.load {
            self.best = Some(entry);
            self.load = load;
            self.ties = 1;
        } else if load == self.load {
            self.ties += 1;
            if self.random.below(self.ties) == 0 {
                self.best = Some(entry);
            }
        }
    }

    /// Whether it is the turn of one of these, who are spared, though there are `others`.
    fn is_drawn(&mut self, others: &Fewest<'_>) -> bool {
        let shares = SPARED * (self.offered + others.offered);
        self.random.below(shares) < self.offered
    }
}

/// Who is spared gets one newcomer in place of this many.
const SPARED: u64 = 4;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): plenty
/// for breaking ties and for jitter, and reproducible in tests.
#[derive(Clone, Copy, Debug)]
pub struct SplitMix(pub u64);

impl SplitMix {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of the remainder is below 2^-32 for the small ranges used here.
        self.draw().checked_rem(end).unwrap_or(0)
    }
}
