//! Logins on the admin pages.

use serde::Serialize;

use crate::base::id::StreamerId;

/// All logins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoginsReport {
    /// `false`: nothing is limited.
    pub paced: bool,
    pub waiting: usize,
    pub in_flight: u32,
    /// Logins that may be in flight now.
    pub limit: u32,
    /// Logins begun in the last second.
    pub rate: u32,
    /// Logins that may begin in a second.
    pub rate_limit: u32,
    /// Logins that may wait.
    pub queue_length: usize,
    /// What a streamer without logins has.
    #[serde(skip)]
    pub idle: LaneReport,
    /// Streamers with logins, sorted by id.
    #[serde(skip)]
    pub streamers: Vec<(StreamerId, LaneReport)>,
}

/// The logins of one streamer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    pub waiting: usize,
    pub in_flight: u32,
    /// Logins that may be in flight now.
    pub limit: u32,
    /// Logins begun in the last second.
    pub rate: u32,
    /// Logins that may begin in a second.
    pub rate_limit: u32,
}

impl LoginsReport {
    pub fn streamer(&self, id: &StreamerId) -> LaneReport {
        self.streamers
            .binary_search_by(|(other, _)| other.cmp(id))
            .map_or(self.idle, |at| self.streamers[at].1)
    }
}
