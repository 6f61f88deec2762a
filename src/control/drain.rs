//! Ending the process without losing anything that can be kept.
//!
//! `Running -> Waiting -> Closing -> Stopped`. At the signal `/readyz` fails and everything goes on,
//! until the balancer has noticed; then the listeners close, HTTP exchanges finish, and sockets are
//! closed with 1012, each at its own random moment, so that the clients do not all come back at
//! once. Where there are other gateways, sessions whose clients are away are offered to them first,
//! and those of clients that are sent away are kept for the moment in which these ask for them by way of
//! another one. A deadline, counted from the signal, bounds the whole.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::app::Inner;
use crate::{
    base::id::SessionId,
    config::model::Drain,
    proxy::{handover, mailbox::Command, shared::Phase},
    session::Disconnect,
    telemetry::names,
};

/// Where the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Running,
    /// `/readyz` fails; listeners are still open for the delay.
    Waiting,
    /// Listeners are closed; what is open finishes or is closed.
    Closing,
    Stopped,
}

/// How far a drain has come, as the admin page tells it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Progress {
    pub stage: Stage,
    pub sessions: usize,
    pub connections: usize,
    /// Since the drain began.
    pub elapsed_seconds: f64,
    /// Until whatever is left is cut; `null` while running.
    pub deadline_in_seconds: Option<f64>,
}

/// The way out of the process, taken at most once.
#[derive(Debug)]
pub(super) struct Exit {
    begun: Mutex<Option<Begun>>,
    stage: watch::Sender<Stage>,
    pub(super) stopped: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    deadline: Instant,
}

impl Exit {
    pub(super) fn new() -> Self {
        Self {
            begun: Mutex::new(None),
            stage: watch::Sender::new(Stage::Running),
            stopped: CancellationToken::new(),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Notes the beginning. `None`: somebody else began.
    fn begin(&self, deadline: Duration) -> Option<Begun> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.is_some() {
            return None;
        }
        let at = Instant::now();
        *begun = Some(Begun {
            at,
            deadline: at + deadline,
        });
        *begun
    }

    pub(super) fn progress(&self, sessions: usize, connections: usize) -> Progress {
        let begun = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        Progress {
            stage: self.stage(),
            sessions,
            connections,
            elapsed_seconds: begun.map_or(0.0, |begun| (now - begun.at).as_secs_f64()),
            deadline_in_seconds: begun.map(|begun| (begun.deadline - now).as_secs_f64()),
        }
    }
}

/// Starts the drain; `false` when one is under way already.
pub(super) fn begin(inner: &Arc<Inner>, terms: Drain, why: &'static str) -> bool {
    let Some(begun) = inner.exit.begin(terms.deadline) else {
        return false;
    };
    info!(
        why,
        sessions = inner.sessions(),
        connections = inner.gate.open(),
        delay = ?terms.delay, spread = ?terms.spread, deadline = ?terms.deadline,
        "draining: not ready any more; new clients are still served until the delay is over"
    );
    names::DRAINING.gauge(&[]).set(1.0);
    inner.exit.stage.send_replace(Stage::Waiting);
    tokio::spawn(run(inner.clone(), terms, begun));
    true
}

async fn run(inner: Arc<Inner>, terms: Drain, begun: Begun) {
    // Whoever takes a session needs a moment to get a leg of its own for it.
    give_away(&inner, begun).await;
    sleep_until((begun.at + terms.delay).min(begun.deadline)).await;
    give_away(&inner, begun).await;
    inner.exit.stage.send_replace(Stage::Closing);
    inner.phase.send_replace(Phase::Closing);
    inner.state.lock().await.close();
    let closes_until = (Instant::now() + terms.spread).min(begun.deadline);
    info!(
        sessions = inner.sessions(),
        "listeners closed; sockets are closed over {:?}",
        closes_until - Instant::now()
    );
    let finished = async {
        let mut told = SessionId(0);
        loop {
            told = close_sessions(&inner, told, closes_until);
            if inner.is_idle() {
                return;
            }
            // Sockets that were being upgraded when the listeners closed turn up late.
            tokio::time::sleep(POLL).await;
        }
    };
    if timeout_at(begun.deadline, finished).await.is_err() {
        warn!(
            sessions = inner.sessions(),
            connections = inner.gate.open(),
            "the drain's deadline is over: what is still open is cut"
        );
    } else {
        info!(elapsed = ?begun.at.elapsed(), "drained: nothing is open any more");
    }
    inner.fellows.leave().await;
    inner.exit.stage.send_replace(Stage::Stopped);
    inner.exit.stopped.cancel();
}

/// Sessions whose clients are away go to other gateways, if there are any.
async fn give_away(inner: &Arc<Inner>, begun: Begun) {
    let given = handover::give_away(&inner.shared);
    let until = (Instant::now() + GIVE_WITHIN).min(begun.deadline);
    let _ = timeout_at(until, given).await;
}

/// Orders each session above `told` to close at a random moment until `latest`; returns the
/// highest id seen.
fn close_sessions(inner: &Inner, told: SessionId, latest: Instant) -> SessionId {
    let spread = latest
        .saturating_duration_since(Instant::now())
        // Of the last moments something is left for the close handshake.
        .mul_f64(0.95);
    let mut highest = told;
    inner.shared.registry.for_each(|entry| {
        if entry.id > told {
            entry.mailbox.send(Command::Close {
                reason: Disconnect::Drain,
                after: spread.mul_f64(rand::random()),
            });
            highest = highest.max(entry.id);
        }
    });
    highest
}

const POLL: Duration = Duration::from_millis(50);

/// A thousand sessions take a second.
const GIVE_WITHIN: Duration = Duration::from_secs(5);
