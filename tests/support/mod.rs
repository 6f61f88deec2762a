//! What the tests stand on: a gateway with simulated servers behind it, clients of several kinds,
//! and waiting for a condition instead of for a time.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a panic here is a failed test"
)]

pub mod apiserver;
pub mod certificate;
pub mod clock;
pub mod deployment;
pub mod http;
pub mod metrics;
pub mod process;
pub mod socket;
pub mod stopwatch;

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

/// Longer than anything that works takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks at something that nobody announces, again and again. What a test knows after a look is what
/// it saw, never what a pause made likely: this is the only place where tests let time pass.
pub struct Looks {
    ticks: Interval,
    deadline: Instant,
}

impl Looks {
    /// For [`PATIENCE`]; the first look is at once.
    pub fn start() -> Self {
        Self::within(PATIENCE)
    }

    /// For as long as this.
    pub fn within(patience: Duration) -> Self {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            deadline: Instant::now() + patience,
        }
    }

    /// Waits for the next look; false when there were enough.
    pub async fn again(&mut self) -> bool {
        self.ticks.tick().await;
        Instant::now() < self.deadline
    }
}

/// Waits until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut looks = Looks::start();
    while looks.again().await {
        if let Some(found) = look().await {
            return found;
        }
    }
    panic!("waited in vain: {what}")
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually(what, async || holds().await.then_some(())).await;
}

/// A future that must not take longer than [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// Waits while `look` gives something other than `wanted`, and shows the last value if in vain.
pub async fn settles<T: Debug + PartialEq>(
    what: &str,
    wanted: T,
    mut look: impl AsyncFnMut() -> T,
) {
    let mut looks = Looks::start();
    let mut last = None;
    while looks.again().await {
        let value = look().await;
        if value == wanted {
            return;
        }
        last = Some(value);
    }
    panic!("{what}: {last:?} instead of {wanted:?}");
}

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);
