//! Drives the login queue: lets time pass in it, and tells it which streamers came up.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

use super::{app::Inner, restart::restarting};
use crate::pool::Health;

/// Runs until the process stops.
///
/// Without it logins that a rate holds back would wait for ever, so a defect that panics in here
/// costs a second and not the queue.
pub(super) async fn run(inner: Arc<Inner>) {
    restarting(&inner, "drives the login queue", || drive(&inner)).await;
}

async fn drive(inner: &Inner) -> ! {
    let logins = &inner.shared.logins;
    let mut look_at = Instant::now();
    loop {
        let now = Instant::now();
        if look_at <= now {
            look(inner);
            look_at = now + LOOK_EVERY;
        }
        logins.handle_timeout(now);
        let wake_at = logins.next_timeout().map_or(look_at, |at| at.min(look_at));
        tokio::select! {
            () = poll_fn(|cx| logins.poll_hurried(cx)) => {}
            () = sleep_until(wake_at.into()) => {}
        }
    }
}

/// Compares the streamers that have logins with what their pools know about them.
fn look(inner: &Inner) {
    let logins = &inner.shared.logins;
    let snapshot = inner.shared.snapshot.load();
    for streamer in logins.streamers() {
        let found = snapshot.pools.iter().filter_map(|pool| {
            let view = pool.view();
            match view.find(&streamer)?.health {
                Health::Up { since, .. } => Some(since),
                Health::Degraded { .. } | Health::Unknown { .. } | Health::Down { .. } => None,
            }
        });
        if let Some(since) = found.max() {
            logins.came_up(&streamer, since);
        }
    }
}

/// A streamer that was away is away for longer: its process has to start.
const LOOK_EVERY: Duration = Duration::from_millis(500);
