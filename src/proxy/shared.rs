//! What all requests and relays of the process share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::snapshot::Snapshot;

/// Where the process is in its life; see the module `control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// No new work is invited, what is there goes on.
    Draining,
    /// Listeners are closed, HTTP finishes, sockets are being closed.
    Closing,
}

/// One per process.
#[derive(Debug)]
pub struct Shared {
    /// What new requests see. Replaced as a whole by a reload.
    pub snapshot: ArcSwap<Snapshot>,
    /// Relays, connections and tunnels; empty means that nobody is served any more.
    pub tasks: TaskTracker,
    pub phase: watch::Receiver<Phase>,
}

impl Shared {
    pub fn new(snapshot: Arc<Snapshot>, phase: watch::Receiver<Phase>) -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::new(snapshot),
            tasks: TaskTracker::new(),
            phase,
        })
    }
}
