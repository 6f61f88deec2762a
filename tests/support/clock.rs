//! Time that stands still unless a test moves it, for limits that are too long to wait for.

use std::{sync::mpsc, time::Duration};

use super::PATIENCE;

/// The clock of tokio's timers, stopped; sockets work on as ever. For a test on one thread.
///
/// tokio moves a stopped clock by itself when nobody has anything to do, which would take bytes that
/// the kernel has yet to deliver for silence. It does not while blocking work is under way, so this
/// holds some: time moves by [`Self::pass`] only. A test that hangs is an exception: after
/// [`PATIENCE`], measured by a real clock, time runs away, and some deadline of the test ends it.
#[derive(Debug)]
pub struct Clock {
    _work: mpsc::Sender<()>,
}

impl Clock {
    pub fn stop() -> Self {
        let (work, done) = mpsc::channel();
        tokio::task::spawn_blocking(move || {
            let _ = done.recv_timeout(PATIENCE);
        });
        tokio::time::pause();
        Self { _work: work }
    }

    /// Moves the clock, and lets run whoever waited for that.
    pub async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }
}
