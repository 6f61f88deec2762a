//! Sessions that leave for another gateway, and sessions that come without their client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info};

use super::{Ends, Kept, Later, Leg, Relay, STREAMER_MESSAGE_BYTES, Stage, State, bounded};
use crate::{
    base::{chunk::Backlog, secret::Secret},
    net::stream::{Downstream, Upstream},
    pool::{Permit, Streamer},
    proxy::{
        introduction::Introduction,
        pump::Pump,
        registry::{Registration, Standing},
        shared::Shared,
    },
    session::{Session, Unpackable},
    telemetry::meters::Counted,
    ws::Sender,
};

impl Kept {
    /// A session whose leg is at another gateway.
    pub(in crate::proxy) fn borrowed(
        stream: Upstream,
        permit: Permit,
        introduction: Arc<Introduction>,
        session: Session,
        shared: &Shared,
    ) -> Self {
        Self {
            leg: Leg {
                stream,
                permit,
                introduction,
            },
            session,
            down_pump: Pump::new(Sender::Server, STREAMER_MESSAGE_BYTES),
            up_backlog: Backlog::new(shared.budget.clone()),
            own: None,
            login: None,
            packed: None,
        }
    }

    pub(in crate::proxy) fn streamer(&self) -> &Arc<Streamer> {
        self.leg.permit.streamer()
    }

    pub(in crate::proxy) fn introduction(&self) -> &Introduction {
        &self.leg.introduction
    }

    /// The session as another gateway reads it; `None` for one that is not to leave.
    pub(in crate::proxy) fn take_packed(&mut self) -> Option<Secret<Vec<u8>>> {
        self.packed.take()
    }

    /// The leg without its session, and what is still to be written to it.
    pub(in crate::proxy) fn into_leg(self) -> (Upstream, Permit, Backlog) {
        (self.leg.stream, self.leg.permit, self.up_backlog)
    }
}

impl Relay {
    /// A relay for a session whose client is away.
    pub(in crate::proxy) fn adopt(kept: Kept, registration: Registration, now: Instant) -> Self {
        let Kept {
            leg,
            mut session,
            down_pump,
            up_backlog,
            own,
            login,
            packed: _,
        } = kept;
        let shared = registration.shared();
        let entry = registration.entry();
        let terms_version = shared.terms.version();
        let terms = shared.terms.load();
        let streamer = leg.permit.streamer().id.clone();
        if let Some(name) = session.journal().and_then(|journal| journal.session()) {
            shared.detached.name(&name, entry.id);
            shared.recall.remember(&name, &streamer, now);
        }
        if leg.permit.is_borrowed() {
            shared.handover.borrow(entry.id);
            session.handle_borrowed(now);
        }
        info!(
            target: "access",
            event = "session_kept",
            session = %entry.id,
            client = %entry.client,
            streamer = streamer.as_str(),
            "a session without its client is kept for that client's return"
        );
        entry.set_streamer(streamer);
        entry.set_standing(Standing::Detached);
        Self {
            state: State {
                down: Downstream::Gone,
                leg: Some(leg),
                session,
                up_pump: Pump::new(Sender::Client, terms.message_limit),
                down_pump,
                down_backlog: up_backlog.sibling(),
                up_backlog,
                later: Later::default(),
                stage: match login {
                    Some(permit) => Stage::LoggingIn(permit),
                    None => Stage::Idle,
                },
                down_waiting: 0,
                ends: Ends {
                    client_told: true,
                    client_done: true,
                    client_deaf: true,
                    ..Ends::default()
                },
                own,
                counted: Counted::new(&shared.meters.greeting),
                counted_as: Standing::Greeting,
                terms_version,
                buffer: bounded(terms.buffer),
                registration,
            },
            timer: tokio::time::sleep(Duration::ZERO),
        }
    }
}

impl State {
    /// The session for another gateway, if it can leave now. All that is the gateway's own is in it
    /// or on its way to the streamer.
    ///
    /// # Errors
    /// With the reason why it cannot.
    pub(super) fn pack(&mut self, now: Instant) -> Result<Secret<Vec<u8>>, Unpackable> {
        self.write_asks(now);
        self.keep_missed();
        if self.own.is_some() {
            return Err(Unpackable::Moving);
        }
        self.session.pack(now).inspect_err(|reason| {
            debug!(
                session = %self.registration.entry().id,
                reason = reason.label(),
                "another gateway asks for a session that cannot leave now"
            );
        })
    }
}
