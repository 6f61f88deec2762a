//! Tasks that go on when a defect panics in them.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::app::Inner;

/// Drives until the process stops. A panic costs a second and what `drive` had begun, not the task;
/// `what` says in the log what that is for.
pub(super) async fn restarting<F: Future>(inner: &Inner, what: &str, drive: impl Fn() -> F) {
    loop {
        let driven = AssertUnwindSafe(drive()).catch_unwind();
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = driven => {}
        }
        tracing::error!(
            "the task that {what} ended by a panic and starts again: report this defect"
        );
        sleep(RESTART_PAUSE).await;
    }
}

const RESTART_PAUSE: Duration = Duration::from_secs(1);
