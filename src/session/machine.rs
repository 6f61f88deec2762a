//! The phases of one client, without I/O.
//!
//! `handle_*` tells the machine what happened, `poll_action` asks what to do, `next_timeout` when
//! to call `handle_timeout`. Times are arguments; the machine reads no clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    base::timers::Timers,
    ddp::{Envelope, Framing, Kind},
    session::{
        Disconnect,
        limits::{Allowance, Charge, Limiter, Over},
        quota::QuotaRules,
    },
};

/// Where a session is in its life.
///
/// `Closing` and `Ended` are never left for an earlier phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; the client has not sent `connect` yet.
    Greeting,
    /// `connect` is here; a place on a streamer and a leg to it are not yet.
    Attaching,
    /// Bytes flow.
    Live,
    /// The leg is gone; the client is told at its own random moment.
    Orphaned,
    /// Close frames are on their way.
    Closing(Disconnect),
    Ended(Disconnect),
}

impl Phase {
    /// Value of the `phase` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Attaching => "attaching",
            Self::Live => "live",
            Self::Orphaned | Self::Closing(_) | Self::Ended(_) => "closing",
        }
    }
}

/// What to do with one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass its bytes on as they are.
    Forward,
    /// Swallow it.
    Drop,
    /// Put it together and give it to [`Session::handle_connect`].
    Assemble,
    Close(Disconnect),
}

/// What the relay has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// WebSocket ping to the client: is it still there?
    PingClient,
    /// WebSocket ping to the streamer.
    PingStreamer,
    /// DDP ping to a client that waits for `connected`. React Native gives up after 20 s of
    /// silence, ddp-client after 60.
    KeepAlive,
    /// Send close frames to both sides and stop forwarding.
    Close(Disconnect),
    /// Close the client's socket now; whatever is not sent is lost.
    End(Disconnect),
}

/// What the configuration says about sessions; shared by all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub timeouts: Timeouts,
    pub allowance: Allowance,
    pub quotas: QuotaRules,
}

/// Times of a session that come from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the client's `connect`.
    pub connect: Duration,
    /// Silence of the client after which it is closed; it is pinged after half of it.
    pub idle: Duration,
    /// Time in which a client must take some of what waits for it.
    pub stall: Duration,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    framing: Framing,
    phase: Phase,
    rules: Arc<Rules>,
    timers: Timers<{ Timer::COUNT }>,
    limiter: Limiter,
    /// When the client and the streamer were last heard.
    client_heard: Instant,
    streamer_heard: Instant,
    /// Bytes have waited for the client, none taken, since then.
    stalled_since: Option<Instant>,
    /// Reading from the client is suspended by its limits.
    held: bool,
    /// What ends the session when [`Timer::Doom`] expires.
    doom: Option<Disconnect>,
    pending: Pending,
}

/// Actions that wait to be polled; each at most once.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    ping_client: bool,
    ping_streamer: bool,
    keep_alive: bool,
    close: bool,
    end: bool,
}

/// The timers of a session, as indices into its table.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// `connect` is late.
    Connect,
    /// The client may have gone silent.
    Client,
    /// The streamer may have gone silent.
    Streamer,
    /// A waiting client wants a sign of life.
    KeepAlive,
    /// The limits allow reading again.
    Resume,
    /// A slow client has to have taken something.
    Stall,
    /// The moment at which a lost or drained session is closed.
    Doom,
    /// The closing handshake is late.
    Close,
}

impl Timer {
    const ALL: [Self; 8] = [
        Self::Connect,
        Self::Client,
        Self::Streamer,
        Self::KeepAlive,
        Self::Resume,
        Self::Stall,
        Self::Doom,
        Self::Close,
    ];
    const COUNT: usize = Self::ALL.len();
}

impl Session {
    /// A client that was just accepted.
    pub fn new(framing: Framing, rules: Arc<Rules>, now: Instant) -> Self {
        let mut timers = Timers::new(now);
        timers.set(Timer::Connect as usize, now + rules.timeouts.connect);
        timers.set(Timer::Client as usize, now + rules.timeouts.idle / 2);
        Self {
            framing,
            phase: Phase::Greeting,
            limiter: Limiter::new(&rules.allowance, now),
            rules,
            timers,
            client_heard: now,
            streamer_heard: now,
            stalled_since: None,
            held: false,
            doom: None,
            pending: Pending::default(),
        }
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the relay may read from the client now.
    pub fn reads_client(&self) -> bool {
        !self.held
    }

    /// Bytes came from the client. Says which limit holds it back from here on, if one does.
    pub fn handle_client_input(&mut self, messages: u32, bytes: u32, now: Instant) -> Option<Over> {
        self.client_heard = now;
        match self.phase {
            Phase::Closing(_) | Phase::Ended(_) => None,
            _ => self.charge(messages, bytes, now),
        }
    }

    /// Bytes came from the streamer.
    pub fn handle_streamer_input(&mut self, now: Instant) {
        self.streamer_heard = now;
    }

    /// A message of the client begins; `text` tells a text from a binary message.
    pub fn handle_client(&self, text: bool, envelope: &Envelope<'_>) -> Verdict {
        if !text {
            return Verdict::Close(Disconnect::Unreadable);
        }
        match (self.phase, envelope.kind) {
            // SockJS wants empty frames ignored; the streamer closes with 1007 on them.
            (_, Kind::Empty) if self.framing == Framing::SockJs => Verdict::Drop,
            (_, Kind::Empty) => Verdict::Close(Disconnect::Unreadable),
            // The whole message tells `connect` from garbage.
            (Phase::Greeting, Kind::Connect | Kind::Unreadable) => Verdict::Assemble,
            // Its `msg` may come later, and what ends too early is no message at all.
            (Phase::Greeting, _) if envelope.cut => Verdict::Assemble,
            (Phase::Greeting, _) => Verdict::Close(Disconnect::NotConnect),
            (Phase::Orphaned | Phase::Closing(_) | Phase::Ended(_), _) => Verdict::Drop,
            (Phase::Attaching | Phase::Live, _) => Verdict::Forward,
        }
    }

    /// `connect` was read; a place on a streamer is wanted.
    pub fn handle_connect(&mut self, now: Instant) {
        debug_assert_eq!(self.phase, Phase::Greeting);
        self.timers.stop(Timer::Connect as usize);
        self.timers.set(Timer::KeepAlive as usize, now + KEEP_ALIVE);
        self.phase = Phase::Attaching;
    }

    /// The streamer answered `connected`.
    pub fn handle_attached(&mut self, now: Instant) {
        debug_assert_eq!(self.phase, Phase::Attaching);
        self.timers.stop(Timer::KeepAlive as usize);
        self.streamer_heard = now;
        self.timers
            .set(Timer::Streamer as usize, now + STREAMER_SILENCE / 2);
        self.phase = Phase::Live;
    }

    /// A message of the streamer begins.
    pub fn handle_streamer(&self, envelope: &Envelope<'_>) -> Verdict {
        match (self.phase, envelope.kind) {
            (Phase::Closing(_) | Phase::Ended(_), _) => Verdict::Drop,
            // A second `connected` would start a second heartbeat in Meteor's client; the greeting was
            // the gateway's.
            (_, Kind::Connected | Kind::ServerId | Kind::Open) => Verdict::Drop,
            _ => Verdict::Forward,
        }
    }

    /// The leg ended without a close frame. The client is told after `delay`, chosen at random by
    /// the caller, so that the clients of a dead streamer do not come back in one instant.
    pub fn handle_leg_lost(&mut self, delay: Duration, now: Instant) {
        if let Phase::Live = self.phase {
            self.phase = Phase::Orphaned;
            self.timers.stop(Timer::Streamer as usize);
            self.doom(Disconnect::StreamerLost, now + delay);
        }
    }

    /// Ends the session after `delay`; an earlier end that is already set stays.
    pub fn handle_order(&mut self, reason: Disconnect, delay: Duration, now: Instant) {
        if delay.is_zero() {
            self.close(reason, now);
        } else {
            self.doom(reason, now + delay);
        }
    }

    /// Begins the closing handshake; the first reason counts.
    pub fn close(&mut self, reason: Disconnect, now: Instant) {
        if let Phase::Closing(_) | Phase::Ended(_) = self.phase {
            return;
        }
        self.phase = Phase::Closing(reason);
        self.timers.clear();
        self.timers.set(Timer::Close as usize, now + CLOSE_WAIT);
        self.held = false;
        self.pending = Pending {
            close: true,
            ..Pending::default()
        };
    }

    /// The client's connection is over: there is nobody left to tell.
    pub fn end(&mut self, reason: Disconnect) {
        let reason = match self.phase {
            Phase::Closing(first) | Phase::Ended(first) => first,
            _ => reason,
        };
        if let Phase::Ended(_) = self.phase {
            return;
        }
        self.phase = Phase::Ended(reason);
        self.timers.clear();
        self.pending = Pending {
            end: true,
            ..Pending::default()
        };
    }

    /// The relay tried to write to the client: `waiting` bytes are left, `taken` says whether the
    /// client took any.
    pub fn handle_client_output(&mut self, waiting: bool, taken: bool, now: Instant) {
        if !waiting {
            if self.stalled_since.take().is_some() {
                self.timers.stop(Timer::Stall as usize);
            }
        } else if taken || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
            if self.timers.deadline(Timer::Stall as usize).is_none() {
                self.timers
                    .set(Timer::Stall as usize, now + self.rules.timeouts.stall);
            }
        }
    }

    /// New rules after a reload; what was owed is forgotten.
    pub fn handle_rules(&mut self, rules: Arc<Rules>, now: Instant) {
        self.limiter = Limiter::new(&rules.allowance, now);
        self.rules = rules;
        self.held = false;
        self.timers.stop(Timer::Resume as usize);
    }

    /// Deals with all timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.timers.expired(now) {
            match Timer::ALL[due] {
                Timer::Connect => self.close(Disconnect::NoConnect, now),
                Timer::Client => self.judge_client(now),
                Timer::Streamer => self.judge_streamer(now),
                Timer::KeepAlive => {
                    self.pending.keep_alive = true;
                    self.timers.set(Timer::KeepAlive as usize, now + KEEP_ALIVE);
                }
                Timer::Resume => {
                    self.held = false;
                    self.charge(0, 0, now);
                }
                Timer::Stall => self.judge_stall(now),
                Timer::Doom => {
                    let reason = self.doom.take().unwrap_or(Disconnect::Drain);
                    self.close(reason, now);
                }
                Timer::Close => {
                    let Phase::Closing(reason) = self.phase else {
                        continue;
                    };
                    self.end(reason);
                }
            }
        }
    }

    /// What to do next, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        let pending = &mut self.pending;
        if std::mem::take(&mut pending.end) {
            let Phase::Ended(reason) = self.phase else {
                return None;
            };
            return Some(Action::End(reason));
        }
        if std::mem::take(&mut pending.close) {
            let Phase::Closing(reason) = self.phase else {
                return None;
            };
            return Some(Action::Close(reason));
        }
        if std::mem::take(&mut pending.ping_client) {
            return Some(Action::PingClient);
        }
        if std::mem::take(&mut pending.ping_streamer) {
            return Some(Action::PingStreamer);
        }
        if std::mem::take(&mut pending.keep_alive) {
            return Some(Action::KeepAlive);
        }
        None
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn charge(&mut self, messages: u32, bytes: u32, now: Instant) -> Option<Over> {
        match self
            .limiter
            .charge(messages, bytes, self.rules.allowance.abuse_after, now)
        {
            Charge::Paid => None,
            Charge::Wait { until, over } => {
                self.held = true;
                self.timers.set(Timer::Resume as usize, until);
                Some(over)
            }
            Charge::Abuse => {
                self.close(Disconnect::RateAbuse, now);
                None
            }
        }
    }

    fn doom(&mut self, reason: Disconnect, at: Instant) {
        if let Phase::Closing(_) | Phase::Ended(_) = self.phase {
            return;
        }
        if self
            .timers
            .deadline(Timer::Doom as usize)
            .is_none_or(|earlier| at < earlier)
        {
            self.doom = Some(reason);
            self.timers.set(Timer::Doom as usize, at);
        }
    }

    fn judge_client(&mut self, now: Instant) {
        // Nothing is read from a client that is held back, so its silence proves nothing.
        if self.held {
            self.client_heard = now;
        }
        let half = self.rules.timeouts.idle / 2;
        let silent = now.duration_since(self.client_heard);
        if silent >= self.rules.timeouts.idle {
            self.close(Disconnect::ClientSilent, now);
        } else if silent >= half {
            self.pending.ping_client = true;
            self.timers.set(
                Timer::Client as usize,
                self.client_heard + self.rules.timeouts.idle,
            );
        } else {
            self.timers
                .set(Timer::Client as usize, self.client_heard + half);
        }
    }

    fn judge_streamer(&mut self, now: Instant) {
        let silent = now.duration_since(self.streamer_heard);
        if silent >= STREAMER_SILENCE {
            self.close(Disconnect::StreamerLost, now);
        } else if silent >= STREAMER_SILENCE / 2 {
            self.pending.ping_streamer = true;
            self.timers.set(
                Timer::Streamer as usize,
                self.streamer_heard + STREAMER_SILENCE,
            );
        } else {
            self.timers.set(
                Timer::Streamer as usize,
                self.streamer_heard + STREAMER_SILENCE / 2,
            );
        }
    }

    fn judge_stall(&mut self, now: Instant) {
        let Some(since) = self.stalled_since else {
            return;
        };
        if now.duration_since(since) >= self.rules.timeouts.stall {
            self.close(Disconnect::SlowConsumer, now);
        } else {
            self.timers
                .set(Timer::Stall as usize, since + self.rules.timeouts.stall);
        }
    }
}

/// Pause between two signs of life to a waiting client; React Native gives up after 20 s.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// A leg without any byte for this long is dead. A streamer sends something at least every 30 s
/// (`ee/apps/ddp-streamer/src/constants.ts`), and answers the ping that it gets after half of this.
const STREAMER_SILENCE: Duration = Duration::from_secs(80);

/// Time for the closing handshake.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU32,
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{Action, Phase, QuotaRules, Rules, Session, Timeouts, Timer, Verdict};
    use crate::{
        ddp::{Envelope, Framing, Kind, Sender, peek},
        session::{Disconnect, limits::Allowance},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn session(framing: Framing, now: Instant) -> Session {
        let n = |n| NonZeroU32::new(n).unwrap();
        let allowance = Allowance {
            messages_per_second: n(20),
            messages_burst: n(200),
            bytes_per_second: n(10_000),
            bytes_burst: n(50_000),
            abuse_after: 30 * SECOND,
        };
        let timeouts = Timeouts {
            connect: 10 * SECOND,
            idle: 50 * SECOND,
            stall: 20 * SECOND,
        };
        Session::new(
            framing,
            Arc::new(Rules {
                timeouts,
                allowance,
                quotas: QuotaRules::default(),
            }),
            now,
        )
    }

    fn live(now: Instant) -> Session {
        let mut session = session(Framing::Raw, now);
        session.handle_connect(now);
        session.handle_attached(now);
        session
    }

    fn envelope(text: &str) -> Envelope<'_> {
        peek(text.as_bytes(), Framing::Raw, Sender::Client)
    }

    /// Runs the timers until an action comes, and says when it came.
    fn next_action(session: &mut Session, start: Instant) -> (Action, u64) {
        for _ in 0..1000 {
            let at = session.next_timeout().expect("a timer is armed");
            session.handle_timeout(at);
            if let Some(action) = session.poll_action() {
                return (action, at.duration_since(start).as_secs());
            }
        }
        panic!("timers expire for ever without an action");
    }

    #[test]
    fn connect_must_come_first_and_in_time() {
        let now = Instant::now();
        let mut session = session(Framing::Raw, now);
        let connect = r#"{"msg":"connect","version":"1","support":["1"]}"#;
        assert_eq!(
            session.handle_client(true, &envelope(connect)),
            Verdict::Assemble
        );
        let pong = session.handle_client(true, &envelope(r#"{"msg":"pong"}"#));
        assert_eq!(pong, Verdict::Close(Disconnect::NotConnect));
        let late = format!(r#"{{"session":"{}"#, "x".repeat(500));
        for cut in [late.as_str(), "{", r#"{"msg":"pong""#] {
            let verdict = session.handle_client(true, &envelope(cut));
            assert_eq!(verdict, Verdict::Assemble, "{cut}");
        }
        let binary = session.handle_client(false, &envelope(connect));
        assert_eq!(binary, Verdict::Close(Disconnect::Unreadable));
        let (action, after) = next_action(&mut session, now);
        assert_eq!((action, after), (Action::Close(Disconnect::NoConnect), 10));
    }

    #[test]
    fn a_silent_client_is_pinged_and_then_closed() {
        let start = Instant::now();
        let mut session = live(start);
        session.handle_client_input(1, 10, start + 20 * SECOND);
        assert_eq!(next_action(&mut session, start), (Action::PingStreamer, 40));
        session.handle_streamer_input(start + 40 * SECOND);
        assert_eq!(next_action(&mut session, start), (Action::PingClient, 45));
        let closed = next_action(&mut session, start);
        assert_eq!(closed, (Action::Close(Disconnect::ClientSilent), 70));
        let ended = next_action(&mut session, start);
        assert_eq!(ended, (Action::End(Disconnect::ClientSilent), 72));
        assert_eq!(session.next_timeout(), None);
    }

    #[test]
    fn an_answered_ping_keeps_the_client() {
        let start = Instant::now();
        let mut session = live(start);
        for round in 1..100_u64 {
            let at = start + u32::try_from(round).unwrap() * 24 * SECOND;
            session.handle_timeout(at);
            assert_eq!(session.poll_action(), None);
            session.handle_client_input(1, 10, at);
            session.handle_streamer_input(at);
        }
        assert_eq!(session.phase(), Phase::Live);
    }

    #[test]
    fn a_waiting_client_hears_something_every_12_seconds() {
        let start = Instant::now();
        let mut session = session(Framing::SockJs, start);
        session.handle_connect(start);
        assert_eq!(next_action(&mut session, start), (Action::KeepAlive, 12));
        session.handle_client_input(0, 1, start + 12 * SECOND);
        assert_eq!(next_action(&mut session, start), (Action::KeepAlive, 24));
    }

    #[test]
    fn empty_frames_are_dropped_for_sockjs_only() {
        let now = Instant::now();
        let empty = Envelope {
            kind: Kind::Empty,
            ..envelope("")
        };
        assert_eq!(
            session(Framing::SockJs, now).handle_client(true, &empty),
            Verdict::Drop
        );
        let raw = session(Framing::Raw, now).handle_client(true, &empty);
        assert_eq!(raw, Verdict::Close(Disconnect::Unreadable));
    }

    #[test]
    fn a_second_connected_is_never_forwarded() {
        let session = live(Instant::now());
        let again = envelope(r#"{"msg":"connected","session":"x"}"#);
        assert_eq!(session.handle_streamer(&again), Verdict::Drop);
        let event = envelope(r#"{"msg":"changed","collection":"stream-notify-all","id":"id"}"#);
        assert_eq!(session.handle_streamer(&event), Verdict::Forward);
    }

    #[test]
    fn a_lost_leg_closes_the_client_at_its_own_moment() {
        let start = Instant::now();
        let mut session = live(start);
        session.handle_leg_lost(3 * SECOND, start);
        assert_eq!(session.phase(), Phase::Orphaned);
        // A later order does not move the end.
        session.handle_order(Disconnect::Drain, 9 * SECOND, start);
        let closed = next_action(&mut session, start);
        assert_eq!(closed, (Action::Close(Disconnect::StreamerLost), 3));
    }

    #[test]
    fn a_client_that_takes_nothing_is_closed() {
        let start = Instant::now();
        let mut session = live(start);
        session.handle_client_output(true, true, start);
        session.handle_client_output(true, false, start + 5 * SECOND);
        session.handle_client_output(true, true, start + 10 * SECOND);
        assert_eq!(next_action(&mut session, start), (Action::PingClient, 25));
        let closed = next_action(&mut session, start);
        assert_eq!(closed, (Action::Close(Disconnect::SlowConsumer), 30));
    }

    #[test]
    fn the_end_is_final() {
        let start = Instant::now();
        let mut session = live(start);
        session.close(Disconnect::Drain, start);
        session.close(Disconnect::Overload, start);
        session.end(Disconnect::ClientGone);
        assert_eq!(session.phase(), Phase::Ended(Disconnect::Drain));
        session.close(Disconnect::Overload, start);
        session.handle_leg_lost(SECOND, start);
        session.handle_order(Disconnect::Overload, Duration::ZERO, start);
        assert_eq!(session.phase(), Phase::Ended(Disconnect::Drain));
        assert_eq!(session.poll_action(), Some(Action::End(Disconnect::Drain)));
        assert_eq!(session.poll_action(), None);
        assert_eq!(session.next_timeout(), None);
    }

    #[test]
    fn timer_indices_are_their_own() {
        for (index, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer as usize, index);
        }
    }
}
