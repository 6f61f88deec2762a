//! Watching one server of the monolith: a probe every half second, four a second while it is out.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{monolith, origin::Origin};

/// Probes until the server is dropped by the last configuration that names it.
///
/// A server that stops or falls silent is noticed after at most one pause and one timeout, 1.5 s;
/// one that works again after a quarter of a second, because probes overlap instead of waiting for
/// those that the dead server will never answer. `alarm` asks for a probe at once.
pub(super) async fn watch(origin: Weak<Origin>, alarm: Arc<Notify>) {
    let mut probes = JoinSet::new();
    let mut started = 0_u64;
    let mut judged = 0_u64;
    loop {
        let Some(server) = origin.upgrade() else {
            return;
        };
        server.sweep(Instant::now());
        let pause = if server.is_up() { PAUSE_UP } else { PAUSE_DOWN };
        if probes.len() < OVERLAP {
            started += 1;
            let number = started;
            probes.spawn(async move {
                let result = timeout(TIMEOUT, monolith::probe(&server))
                    .await
                    .unwrap_or(Err("it does not answer"));
                (number, result)
            });
        } else {
            drop(server);
        }
        let pause = sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                () = alarm.notified() => {
                    // Failures come in crowds; one probe answers for all of them.
                    sleep(PAUSE_ALARM).await;
                    break;
                }
                Some(Ok((number, result))) = probes.join_next(), if !probes.is_empty() => {
                    let Some(server) = origin.upgrade() else {
                        return;
                    };
                    // Answers may overtake each other; only the newest question counts.
                    if number > judged {
                        judged = number;
                        match result {
                            Ok(()) => server.set_up(true, ""),
                            Err(why) => server.set_up(false, why),
                        }
                    }
                }
            }
        }
    }
}

const PAUSE_UP: Duration = Duration::from_millis(500);
const PAUSE_DOWN: Duration = Duration::from_millis(250);
const PAUSE_ALARM: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(1);
/// Probes under way at once: as many as start within [`TIMEOUT`] at the quicker pace.
const OVERLAP: usize = 4;
