//! What has to be true after every step.

use std::time::{Duration, Instant};

use ddp_gateway::session::{Disconnect, LoginState, Phase, journal::Bounds};

use crate::world::World;

impl World {
    pub(crate) fn check(&mut self) {
        if !self.wire.session.reads_client() {
            // The silence of somebody who is not listened to proves nothing.
            self.times.client_heard = self.times.now;
        }
        self.check_journal();
        self.check_logins();
        if !self.times.late {
            self.check_times();
        }
        let phase = self.phase();
        let next = self.wire.session.next_timeout();
        match phase {
            Phase::Ended(_) => assert_eq!(next, None, "a timer behind the end"),
            _ => assert!(next.is_some(), "{phase:?} would never end"),
        }
        let over = matches!(phase, Phase::Closing(_) | Phase::Ended(_));
        assert_eq!(over, self.times.closed.is_some(), "{phase:?}");
    }

    fn check_journal(&self) {
        let Some(journal) = self.wire.session.journal() else {
            assert!(self.ledger.in_flight() == 0 && self.ledger.open.is_empty());
            return;
        };
        let bounds = Bounds::default();
        assert!(journal.bytes() <= bounds.bytes);
        assert!(journal.sub_count() <= bounds.subs);
        assert!(journal.unanswered_methods() <= bounds.methods);
        if self.times.closed.is_some() {
            return;
        }
        let pending = self.ledger.open.values().filter(|ready| !**ready).count();
        assert_eq!(journal.sub_count() as usize, self.ledger.open.len());
        assert_eq!(journal.pending_subs() as usize, pending);
        assert_eq!(
            journal.unanswered_methods() as usize,
            self.ledger.in_flight()
        );
        assert!(self.ledger.blurred || journal.unseen() == 0);
        assert_eq!(journal.user().as_deref(), self.ledger.user.as_deref());
        assert_eq!(journal.presence(), self.ledger.presence);
        let token = journal.token().map(|token| token.expose().clone());
        assert!(
            self.ledger.tokens.contains(&token),
            "{token:?} is another's"
        );
    }

    fn check_logins(&self) {
        if self.times.closed.is_some() {
            return;
        }
        let session = &self.wire.session;
        let (held, running) = (&self.ledger.held_logins, &self.ledger.running_logins);
        assert_eq!(session.login_state(), self.ledger.login_state());
        assert_eq!(session.is_logging_in(), !running.is_empty());
        let wants = self.phase() == Phase::Live && !held.is_empty() && running.is_empty();
        assert_eq!(
            session.wants_login(),
            wants,
            "a login is forgotten, or has no turn"
        );
        if held.is_empty() {
            assert!(self.wire.later.is_empty(), "something waits for nothing");
        }
    }

    /// Upper bounds, while timers are looked at in time.
    fn check_times(&self) {
        let times = &self.times;
        let since = |at: Instant| times.now.saturating_duration_since(at);
        if let Some((_, at)) = times.closed {
            assert!(
                since(at) <= Duration::from_secs(2) + TICK,
                "the goodbye takes too long"
            );
            return;
        }
        if let Some(waiting) = times.waiting
            && !self.wire.streamer_is_half_through()
        {
            let silence = since(times.client_told.max(waiting));
            assert!(
                silence <= KEEP_ALIVE + TICK,
                "waits {silence:?} without a sign of life"
            );
        }
        if let Some(doom) = times.doom {
            assert!(times.now <= doom + TICK, "should have ended");
        }
        // A new rule counts from its beginning.
        let silence = since(times.client_heard.max(times.rules_changed));
        if self.wire.session.reads_client() {
            // A timer that runs under old rules runs to its end.
            let limit = match self.tally.rules_changed {
                0 => self.rules.timeouts.idle,
                _ => LONGEST_IDLE * 3 / 2,
            };
            assert!(silence <= limit + TICK, "{silence:?} without a word");
        }
        if let Some(stalled) = times.stalled {
            let waits = since(stalled.max(times.rules_changed));
            assert!(waits <= LONGEST_STALL + TICK, "takes nothing for {waits:?}");
        }
    }

    /// A session ends for a reason only.
    pub(crate) fn check_reason(&mut self, reason: Disconnect) {
        let times = &self.times;
        let since = |at: Instant| times.now.saturating_duration_since(at);
        let timeouts = self.rules.timeouts;
        match reason {
            Disconnect::ClientSilent => {
                let pinged = times.pinged.expect("who is silent is pinged first");
                assert!(
                    since(pinged) + TICK >= timeouts.idle / 2,
                    "no time to answer"
                );
                assert!(since(times.client_heard) + TICK >= timeouts.idle);
                assert!(self.is_silent() || times.late, "a living client is closed");
                self.tally.silent += 1;
            }
            Disconnect::SlowConsumer => {
                let stalled = times.stalled.expect("a client that takes what it gets");
                assert!(since(stalled) + TICK >= timeouts.stall);
                self.tally.slow += 1;
            }
            Disconnect::NoConnect => self.tally.no_connect += 1,
            Disconnect::Drain | Disconnect::StreamerLost => {
                let doom = times.doom.expect("an order or a loss");
                assert!(times.now + TICK >= doom, "too early");
            }
            _ => {}
        }
    }

    /// Nothing is left in the journal but what is subscribed.
    pub(crate) fn check_settled(&self) {
        let journal = self.wire.session.journal().expect("the session is live");
        assert_eq!(journal.unanswered_methods(), 0);
        assert_eq!(journal.pending_subs(), 0);
        assert_eq!(journal.unseen(), 0);
        assert_ne!(self.wire.session.login_state(), LoginState::Under);
        assert!(self.wire.up.is_empty() && self.wire.later.is_empty());
    }
}

/// Timers are kept in milliseconds.
const TICK: Duration = Duration::from_millis(1);

/// React Native gives up after 20 s without a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Of those that [`crate::plan::rules`] draws.
const LONGEST_IDLE: Duration = Duration::from_secs(90);
const LONGEST_STALL: Duration = Duration::from_secs(20);
