//! What follows from what Rocket.Chat's services tell each other.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::Counter;
use tokio::sync::mpsc;

use super::app::Inner;
use crate::{
    base::id::{ClientAddr, PoolName},
    discovery::Event,
    proxy::mailbox::Command,
    session::Disconnect,
    telemetry::{names, seldom::Seldom},
};

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
    let consequences = Consequences::new(inner.clone());
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            heard = heard.recv() => match heard {
                Some(heard) => consequences.draw(heard, Instant::now()),
                None => return,
            },
        }
    }
}

struct Consequences {
    inner: Arc<Inner>,
    right_addresses: Counter,
    wrong_addresses: Counter,
    warning: Seldom,
}

impl Consequences {
    fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            right_addresses: names::CLIENT_ADDRESSES.counter(&["right"]),
            wrong_addresses: names::CLIENT_ADDRESSES.counter(&["wrong"]),
            warning: Seldom::new(WARN_EVERY),
        }
    }

    fn draw(&self, Heard { pool, event }: Heard, now: Instant) {
        let shared = &self.inner.shared;
        match event {
            Event::ForcedLogout { user, session } => {
                tracing::debug!(%pool, session = session.is_some(), "a user is logged out by force");
                let meant = shared.forced_logouts.add(&user, session.as_deref(), now);
                // After a move the streamers know the session by another name than the one that the
                // user's list of devices may still have, and none of them would end it. During one,
                // the streamer that is named may have no leg in charge.
                let meant = meant.and_then(|id| shared.registry.find(id));
                let named = || shared.find_named(&session?);
                if let Some(entry) = meant.or_else(named) {
                    entry.mailbox.send(Command::Close {
                        reason: Disconnect::ForcedLogout,
                        after: Duration::ZERO,
                    });
                }
            }
            Event::ClientVersion { kind, version } => shared.expect_version(&kind, &version, now),
            Event::Socket { session, client } => {
                if let Some(entry) = shared.find_named(&session) {
                    self.compare(client, entry.client, now);
                }
            }
        }
    }

    /// Streamers believe one of our clients to be at `told`.
    fn compare(&self, told: IpAddr, client: ClientAddr, now: Instant) {
        if told == client.0.to_canonical() {
            return self.right_addresses.increment(1);
        }
        self.wrong_addresses.increment(1);
        if self.warning.due(now).is_some() {
            tracing::warn!(
                %told, %client,
                "Rocket.Chat believes a client to be at {told} that is at {client}: its limits per \
                 address hit all users at once; set HTTP_FORWARDED_COUNT on the streamers and the \
                 monolith to the number of proxies, this gateway included"
            );
        }
    }
}

const WAITING: usize = 1024;
const WARN_EVERY: Duration = Duration::from_secs(3600);
