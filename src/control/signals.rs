//! What the process does when it is told something by a signal.

use std::{io, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{
    app::{Ended, Inner},
    reload::{Trigger, Wish},
};

/// Until the gateway has ended. SIGHUP reloads; SIGTERM and SIGINT drain, and end at once when they
/// come a second time. `ready` runs once signals are heard: who reads what it prints may send one.
pub(super) async fn serve(inner: Arc<Inner>, ready: impl Future<Output = ()>) -> io::Result<Ended> {
    let mut reload = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    ready.await;
    let mut told = false;
    loop {
        let why = tokio::select! {
            () = inner.exit.stopped.cancelled() => return Ok(Ended::Drained),
            Some(()) = reload.recv() => {
                let wish = Wish { trigger: Trigger::Signal, reply: None };
                // A queue full of wishes loads what this one would load.
                let _ = inner.wishes.try_send(wish);
                continue;
            }
            Some(()) = terminate.recv() => "SIGTERM",
            Some(()) = interrupt.recv() => "SIGINT",
        };
        if told {
            warn!(why, "second signal: ending at once, what is open is cut");
            return Ok(Ended::Cut);
        }
        told = true;
        if !inner.drain(None, why).await {
            info!(why, "already draining; a second signal ends at once");
        }
    }
}
