//! What follows from what Rocket.Chat's services tell each other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::app::Inner;
use crate::{base::id::PoolName, discovery::Event, proxy::mailbox::Command, session::Disconnect};

/// Where events are told; by default nobody listens.
#[derive(Clone, Debug, Default)]
pub struct Events(Option<mpsc::Sender<Heard>>);

/// An event, and the pool on whose bus it was heard.
#[derive(Debug)]
pub(super) struct Heard {
    pool: PoolName,
    event: Event,
}

impl Events {
    pub(super) fn channel() -> (Self, mpsc::Receiver<Heard>) {
        let (events, heard) = mpsc::channel(WAITING);
        (Self(Some(events)), heard)
    }

    /// What finds no room is lost: everything works without it.
    pub(super) fn tell(&self, pool: &PoolName, event: Event) {
        let pool = pool.clone();
        let _ = (self.0.as_ref()).map(|events| events.try_send(Heard { pool, event }));
    }
}

/// Runs until the process stops.
pub(super) async fn run(inner: Arc<Inner>, mut heard: mpsc::Receiver<Heard>) {
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            heard = heard.recv() => match heard {
                Some(Heard { pool, event }) => handle(&inner, &pool, event, Instant::now()),
                None => return,
            },
        }
    }
}

fn handle(inner: &Inner, pool: &PoolName, event: Event, now: Instant) {
    match event {
        Event::ForcedLogout { user, session } => {
            tracing::debug!(%pool, session = session.is_some(), "a user is logged out by force");
            let shared = &inner.shared;
            shared.forced_logouts.add(&user, session.as_deref(), now);
            // After a move the streamers know the session by another name than the one that the
            // user's list of devices may still have, and none of them would end it.
            if let Some(entry) = session.and_then(|session| shared.find_named(&session)) {
                entry.mailbox.send(Command::Close {
                    reason: Disconnect::ForcedLogout,
                    after: Duration::ZERO,
                });
            }
        }
        Event::ClientVersion { kind, version } => {
            inner.shared.expect_version(&kind, &version, now);
        }
        Event::Socket { .. } => {}
    }
}

const WAITING: usize = 1024;
