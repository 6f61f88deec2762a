//! What the tests stand on: a gateway with simulated servers behind it, clients of several kinds,
//! and waiting for a condition instead of for a time.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a panic here is a failed test"
)]

pub mod certificate;
pub mod deployment;
pub mod http;
pub mod metrics;
pub mod process;
pub mod socket;

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout};

/// Longer than anything that works takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
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
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = look().await;
        if value == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {value:?} instead of {wanted:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}
