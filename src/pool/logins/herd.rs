//! How many sessions are being lost, at all streamers together.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::base::id::StreamerId;

/// Streamers that are dying, and how many sessions each has or had. Together they are the herd that
/// comes back: each streamer alone says nothing of how many will want to log in.
///
/// Bounded by the streamers that lost a session within the last [`PAUSE`].
#[derive(Debug, Default)]
pub(super) struct Herd(HashMap<StreamerId, (u32, Instant)>);

impl Herd {
    /// `streamer` is losing this many sessions; returns how many are lost in all.
    pub(super) fn add(&mut self, streamer: &StreamerId, lost: u32, now: Instant) -> u32 {
        self.0
            .retain(|_, (_, last)| now.saturating_duration_since(*last) < PAUSE);
        match self.0.get_mut(streamer) {
            // The number is exact at first and falls with those that have found another place.
            Some((most, last)) => (*most, *last) = ((*most).max(lost), now),
            None => {
                self.0.insert(streamer.clone(), (lost, now));
            }
        }
        let lost = self.0.values().map(|(lost, _)| *lost);
        lost.fold(0, u32::saturating_add)
    }
}

/// What is lost after a pause of this length is another herd.
const PAUSE: Duration = Duration::from_secs(1);
