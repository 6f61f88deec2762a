//! What a relay tells the metrics, the registry and the log.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use tracing::info;

use super::{Flowed, State};
use crate::{
    proxy::registry::Standing,
    session::{Disconnect, LoginState, Phase},
    telemetry::meters::Counted,
};

impl State {
    pub(super) fn record(&mut self, flowed: Flowed) {
        let meters = &self.registration.shared().meters;
        let (standing, gauge) = match (self.session.phase(), self.session.login_state()) {
            (Phase::Greeting, _) => (Standing::Greeting, &meters.greeting),
            (Phase::Attaching, _) => (Standing::Attaching, &meters.attaching),
            (Phase::Live, LoginState::Out) => (Standing::Anonymous, &meters.anonymous),
            (Phase::Live, LoginState::Under) => (Standing::LoggingIn, &meters.logging_in),
            (Phase::Live, LoginState::In) => (Standing::LoggedIn, &meters.logged_in),
            (Phase::Detached, _) => (Standing::Detached, &meters.detached),
            (Phase::Orphaned | Phase::Closing(_) | Phase::Ended(_), _) => {
                (Standing::Closing, &meters.closing)
            }
        };
        if standing != self.counted_as {
            let lost = Phase::Ended(Disconnect::ClientGone);
            if self.counted_as == Standing::Detached && self.session.phase() == lost {
                meters.resume_expired.increment(1);
            }
            self.counted_as = standing;
            self.counted = Counted::new(gauge);
            // The attachment tells whether it is still parked.
            if standing != Standing::Attaching {
                self.registration.entry().set_standing(standing);
            }
        }
        let traffic = &self.registration.entry().traffic;
        if flowed.bytes_up > 0 {
            meters.bytes_up.increment(flowed.bytes_up);
            meters.messages_up.increment(flowed.messages_up);
            traffic
                .bytes_up
                .fetch_add(flowed.bytes_up, Ordering::Relaxed);
            traffic
                .messages_up
                .fetch_add(flowed.messages_up, Ordering::Relaxed);
        }
        if flowed.bytes_down > 0 {
            meters.bytes_down.increment(flowed.bytes_down);
            meters.messages_down.increment(flowed.messages_down);
            traffic
                .bytes_down
                .fetch_add(flowed.bytes_down, Ordering::Relaxed);
            traffic
                .messages_down
                .fetch_add(flowed.messages_down, Ordering::Relaxed);
        }
    }

    /// The metric and the log line of the end.
    pub(super) fn record_end(&self, reason: Disconnect, now: Instant) {
        let age = self.registration.age(now);
        self.registration
            .shared()
            .meters
            .session_seconds
            .record(age);
        self.registration
            .shared()
            .meters
            .closed(reason.label(), reason.by())
            .increment(1);
        let entry = self.registration.entry();
        if let Some(name) = self.session.journal().and_then(|journal| journal.session()) {
            self.registration.shared().detached.forget(&name, entry.id);
        }
        let place = entry.place();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        info!(
            target: "access",
            event = "socket_close",
            session = %entry.id,
            client = %entry.client,
            peer = %entry.peer(),
            streamer = place.streamer.as_ref().map(|id| id.as_str()),
            reason = reason.label(),
            close_code = reason.close_code(),
            closed_by = reason.by().label(),
            messages_up = read(&entry.traffic.messages_up),
            messages_down = read(&entry.traffic.messages_down),
            bytes_up = read(&entry.traffic.bytes_up),
            bytes_down = read(&entry.traffic.bytes_down),
            duration_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        );
    }
}
