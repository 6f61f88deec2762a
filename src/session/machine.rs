//! The phases of one client, without I/O.
//!
//! `handle_*` tells the machine what happened, `poll_action` asks what to do, `next_timeout` when
//! to call `handle_timeout`. Times are arguments; the machine reads no clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Disconnect,
    book::Book,
    journal::Journal,
    limits::{Allowance, Charge, Limiter, Over},
    migration::Aborted,
    quota::QuotaRules,
};
use crate::{base::timers::Timers, ddp::Framing};

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
    /// The client is gone without a goodbye; the leg is kept for its return.
    Detached,
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
            Self::Detached => "detached",
            Self::Orphaned | Self::Closing(_) | Self::Ended(_) => "closing",
        }
    }
}

/// What to do with one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass its bytes on as they are.
    Forward,
    /// The same, but behind everything that waits for the client's turn to log in.
    Hold,
    /// Swallow it.
    Drop,
    /// Put it together: its beginning does not say enough.
    Assemble,
    Close(Disconnect),
}

/// How far a client is with its login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginState {
    /// Not logged in, and not trying.
    Out,
    /// A login waits or is unanswered.
    Under,
    In,
}

/// What the relay has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// WebSocket ping to the client: is it still there?
    PingClient,
    /// WebSocket ping to the streamer.
    PingStreamer,
    /// A DDP ping of our own, [`migration::fence`](super::migration::fence), to the leg in charge or
    /// to the new one of a move.
    Fence { shadow: bool, number: u32 },
    /// What of the client's messages is held goes on to the leg in charge, unless a login is among it.
    Release,
    /// The move is given up: close its new leg.
    Abandon(Aborted),
    /// The client is lost: keep the leg for it, or end the session.
    Detach,
    /// The gateway ends, and the client is to go: keep the leg for its return by way of another one
    /// ([`Session::park`]), or close both with [`Disconnect::Drain`].
    Park,
    /// DDP ping to a client that waits for `connected` or for its turn to log in. React Native gives
    /// up after 20 s of silence, ddp-client after 60.
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
    /// For a client that was lost to come back to its leg; zero keeps none.
    pub resume: Duration,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    pub(super) framing: Framing,
    pub(super) phase: Phase,
    pub(super) rules: Arc<Rules>,
    pub(super) timers: Timers<{ Timer::COUNT }>,
    /// From `connect` on.
    pub(super) book: Option<Box<Book>>,
    limiter: Limiter,
    started: Instant,
    /// When the client and the streamer were last heard, in milliseconds since the start, of which
    /// the last 32 bits are kept: differences of less than 49 days are right.
    client_heard: Millis,
    pub(super) streamer_heard: Millis,
    /// Bytes have waited for the client, none taken, since then.
    stalled_since: Option<Millis>,
    /// Reading from the client is suspended by its limits.
    held: bool,
    /// The client was pinged and not heard since.
    pinged: bool,
    /// The way to the streamer leads through another gateway.
    borrowed: bool,
    /// What ends the session when [`Timer::Doom`] expires.
    doom: Option<Disconnect>,
    pending: Pending,
}

/// Actions that wait to be polled; each at most once.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    parting: Option<Parting>,
    ping_client: bool,
    ping_streamer: bool,
    keep_alive: bool,
    close: bool,
    end: bool,
}

/// The session and its client are to part.
#[derive(Clone, Copy, Debug)]
enum Parting {
    Detach,
    /// Detaching is part of it.
    Park,
}

/// The timers of a session, as indices into its table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// `connect` is late, or, much later, a move of the session wants something.
    Step,
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
        Self::Step,
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
        timers.set(Timer::Step as usize, now + rules.timeouts.connect);
        timers.set(Timer::Client as usize, now + rules.timeouts.idle / 2);
        Self {
            framing,
            phase: Phase::Greeting,
            book: None,
            limiter: Limiter::default(),
            started: now,
            rules,
            timers,
            client_heard: Millis(0),
            streamer_heard: Millis(0),
            stalled_since: None,
            held: false,
            pinged: false,
            borrowed: false,
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

    /// What is known of the client's requests, from `connect` on.
    pub fn journal(&self) -> Option<&Journal> {
        self.book.as_ref().map(|book| &book.journal)
    }

    /// Whether the relay may read from the client now.
    pub fn reads_client(&self) -> bool {
        !self.held && !self.is_proof_shown()
    }

    /// Bytes came from the client. Says which limit holds it back from here on, if one does.
    pub fn handle_client_input(&mut self, messages: u32, bytes: u32, now: Instant) -> Option<Over> {
        self.hear_client(now);
        match self.phase {
            Phase::Closing(_) | Phase::Ended(_) => None,
            _ => self.charge(messages, bytes, now),
        }
    }

    /// Bytes came from the streamer.
    pub fn handle_streamer_input(&mut self, now: Instant) {
        self.streamer_heard = self.moment(now);
    }

    /// The client may be sending, but nothing is read from it because what it sent waits: its
    /// silence proves nothing.
    pub fn handle_unread(&mut self, now: Instant) {
        self.hear_client(now);
    }

    /// How far the client is with its login.
    pub fn login_state(&self) -> LoginState {
        match &self.book {
            None => LoginState::Out,
            Some(book) if book.logins.held > 0 || book.logins.running > 0 => LoginState::Under,
            Some(book) if book.asker.user.is_some() => LoginState::In,
            Some(_) => LoginState::Out,
        }
    }

    /// Milliseconds since the session began; 49 days are not exceeded, only reached.
    pub(super) fn millis(&self, now: Instant) -> u32 {
        u32::try_from(whole_millis(now.duration_since(self.started))).unwrap_or(u32::MAX)
    }

    /// The leg ended without a close frame. The client is told after `delay`, chosen at random by
    /// the caller, so that the clients of a dead streamer do not come back in one instant.
    pub fn handle_leg_lost(&mut self, delay: Duration, now: Instant) {
        if let Phase::Detached = self.phase {
            self.end(Disconnect::StreamerLost);
        } else if let Phase::Live = self.phase {
            self.forget_move();
            self.phase = Phase::Orphaned;
            self.timers.stop(Timer::Streamer as usize);
            self.doom(Disconnect::StreamerLost, now + delay);
        }
    }

    /// Ends the session after `delay`; an earlier end that is already set stays.
    pub fn handle_order(&mut self, reason: Disconnect, delay: Duration, now: Instant) {
        // Without a client there is nobody who could come back in one instant with all others.
        if delay.is_zero() || self.phase == Phase::Detached {
            self.meet(reason, now);
        } else {
            self.doom(reason, now + delay);
        }
    }

    /// The gateway ends, and the session, whose client has been let go, waits until then at most for
    /// that client to ask for it at another one. Only when detached.
    pub fn park(&mut self, until: Instant) {
        debug_assert_eq!(self.phase, Phase::Detached, "its client is here");
        self.timers.stop(Timer::Doom as usize);
        self.doom = Some(Disconnect::Drain);
        let waits = self.timers.deadline(Timer::Client as usize);
        if waits.is_none_or(|waits| until < waits) {
            self.timers.set(Timer::Client as usize, until);
        }
    }

    /// Begins the closing handshake; the first reason counts.
    pub fn close(&mut self, reason: Disconnect, now: Instant) {
        if let Phase::Closing(_) | Phase::Ended(_) = self.phase {
            return;
        }
        self.forget_move();
        self.phase = Phase::Closing(reason);
        self.timers.clear();
        self.timers.set(Timer::Close as usize, now + CLOSE_WAIT);
        self.held = false;
        self.pending = Pending {
            close: true,
            ..Pending::default()
        };
    }

    /// The client has not been told yet why it is closed, and the reason is another one.
    pub fn reconsider(&mut self, reason: Disconnect) {
        if let Phase::Closing(first) = &mut self.phase {
            *first = reason;
        }
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
        self.forget_move();
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
        // The goodbye has a limit of its own.
        if let Phase::Closing(_) | Phase::Ended(_) = self.phase {
            return;
        }
        if !waiting {
            if self.stalled_since.take().is_some() {
                self.timers.stop(Timer::Stall as usize);
            }
        } else if taken || self.stalled_since.is_none() {
            self.stalled_since = Some(self.moment(now));
            if self.timers.deadline(Timer::Stall as usize).is_none() {
                self.timers
                    .set(Timer::Stall as usize, now + self.rules.timeouts.stall);
            }
        }
    }

    /// New rules after a reload; what was owed is forgotten.
    pub fn handle_rules(&mut self, rules: Arc<Rules>) {
        self.limiter = Limiter::default();
        self.rules = rules;
        self.held = false;
        self.timers.stop(Timer::Resume as usize);
    }

    /// Deals with all timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.timers.expired(now) {
            match Timer::ALL[due] {
                Timer::Step if self.phase == Phase::Greeting => {
                    self.close(Disconnect::NoConnect, now);
                }
                Timer::Step => self.handle_move_timeout(now),
                Timer::Client if self.phase == Phase::Detached => {
                    let reason = self.doom.take().unwrap_or(Disconnect::ClientGone);
                    self.end(reason);
                }
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
                    self.meet(reason, now);
                }
                Timer::Close => {
                    let Phase::Closing(reason) = self.phase else {
                        continue;
                    };
                    self.end(reason);
                }
            }
        }
        self.handle_resume_timeout(now);
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
        if let Some(parting) = pending.parting.take() {
            return Some(match parting {
                Parting::Detach => Action::Detach,
                Parting::Park => Action::Park,
            });
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
        self.poll_move()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let own = self.timers.next();
        own.into_iter().chain(self.next_resume_timeout()).min()
    }

    /// The client is gone, and is waited for until then.
    pub(super) fn lose_client(&mut self, until: Instant) {
        self.phase = Phase::Detached;
        self.held = false;
        self.stalled_since = None;
        for timer in [Timer::KeepAlive, Timer::Resume, Timer::Stall] {
            self.timers.stop(timer as usize);
        }
        self.timers.set(Timer::Client as usize, until);
        self.pending = Pending::default();
    }

    /// A session that comes from another gateway without its client, which is waited for. It has an
    /// age, and some time left, in milliseconds.
    pub(super) fn unpacked(
        framing: Framing,
        rules: Arc<Rules>,
        age: u32,
        left: u32,
        now: Instant,
    ) -> Self {
        let age = Duration::from_millis(age.into());
        let left = Duration::from_millis(left.into()).min(rules.timeouts.resume);
        let mut session = Self::new(framing, rules, now);
        // The system may be younger than the session.
        session.started = now.checked_sub(age).unwrap_or(now);
        session.timers.stop(Timer::Step as usize);
        session.hear_client(now);
        session.take_over(now);
        session.lose_client(now + left);
        session
    }

    /// The client is back, on another socket.
    pub(super) fn regain_client(&mut self, now: Instant) {
        self.phase = Phase::Live;
        self.limiter = Limiter::default();
        self.hear_client(now);
        self.timers
            .set(Timer::Client as usize, now + self.rules.timeouts.idle / 2);
    }

    fn charge(&mut self, messages: u32, bytes: u32, now: Instant) -> Option<Over> {
        let since = now.duration_since(self.started);
        let allowance = &self.rules.allowance;
        match self.limiter.charge(allowance, messages, bytes, since) {
            Charge::Paid => None,
            Charge::Wait { until, over } => {
                self.held = true;
                self.timers
                    .set(Timer::Resume as usize, self.started + until);
                Some(over)
            }
            Charge::Abuse => {
                self.close(Disconnect::RateAbuse, now);
                None
            }
        }
    }

    /// Another leg is in charge.
    pub(super) fn take_over(&mut self, now: Instant) {
        self.borrowed = false;
        self.watch_streamer(now);
    }

    /// The leg leads through the gateway that had the session before, until the session has moved.
    /// That gateway is about to end, perhaps by hanging: it is not waited for as long as a streamer.
    pub fn handle_borrowed(&mut self, now: Instant) {
        self.borrowed = true;
        self.watch_streamer(now);
    }

    fn watch_streamer(&mut self, now: Instant) {
        self.streamer_heard = self.moment(now);
        let due = now + self.patience() / 2;
        self.timers.set(Timer::Streamer as usize, due);
    }

    /// How long the streamer may be silent; after half of it it is pinged.
    fn patience(&self) -> Duration {
        if self.borrowed {
            BORROWED_SILENCE
        } else {
            STREAMER_SILENCE
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

    /// The end that was set for the session is here.
    fn meet(&mut self, reason: Disconnect, now: Instant) {
        let kept = self.phase == Phase::Detached || self.is_keepable();
        match reason {
            Disconnect::Drain if kept => self.pending.parting = Some(Parting::Park),
            _ => self.close(reason, now),
        }
    }

    fn hear_client(&mut self, now: Instant) {
        self.client_heard = self.moment(now);
        self.pinged = false;
    }

    fn judge_client(&mut self, now: Instant) {
        // Nothing is read from a client that is held back, so its silence proves nothing.
        if self.held {
            self.hear_client(now);
        }
        let idle = self.rules.timeouts.idle;
        let silent = self.since(self.client_heard, now);
        let next = if silent >= idle && self.pinged {
            if self.is_keepable() {
                self.pending.parting.get_or_insert(Parting::Detach);
                return;
            }
            return self.close(Disconnect::ClientSilent, now);
        } else if silent >= idle / 2 {
            // Whatever the silence, nobody is closed without the time to answer: the rules may be
            // new, and the process may have slept.
            self.pinged = true;
            self.pending.ping_client = true;
            idle.saturating_sub(silent).max(idle / 2)
        } else {
            idle / 2 - silent
        };
        self.timers.set(Timer::Client as usize, now + next);
    }

    fn judge_streamer(&mut self, now: Instant) {
        let silent = self.since(self.streamer_heard, now);
        let patience = self.patience();
        let next = if silent >= patience {
            return self.close(Disconnect::StreamerLost, now);
        } else if silent >= patience / 2 {
            self.pending.ping_streamer = true;
            patience - silent
        } else {
            patience / 2 - silent
        };
        self.timers.set(Timer::Streamer as usize, now + next);
    }

    fn judge_stall(&mut self, now: Instant) {
        let Some(since) = self.stalled_since else {
            return;
        };
        let stall = self.rules.timeouts.stall;
        let stalled = self.since(since, now);
        if stalled >= stall {
            self.close(Disconnect::SlowConsumer, now);
        } else {
            self.timers
                .set(Timer::Stall as usize, now + (stall - stalled));
        }
    }

    pub(super) fn moment(&self, now: Instant) -> Millis {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the upper bits are not wanted"
        )]
        Millis(whole_millis(now.duration_since(self.started)) as u32)
    }

    fn since(&self, earlier: Millis, now: Instant) -> Duration {
        let Millis(now) = self.moment(now);
        Duration::from_millis(u64::from(now.wrapping_sub(earlier.0)))
    }
}

/// [`Duration::as_millis`] without the division of 128 bits.
fn whole_millis(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000) + u64::from(duration.subsec_millis())
}

/// The lower half of a number of milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Millis(u32);

/// Pause between two signs of life to a waiting client; React Native gives up after 20 s.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// A leg without any byte for this long is dead. A streamer sends something at least every 30 s
/// (`ee/apps/ddp-streamer/src/constants.ts`), and answers the ping that it gets after half of this.
pub(super) const STREAMER_SILENCE: Duration = Duration::from_secs(80);
/// The same for the way through another gateway, which lasts about a second.
const BORROWED_SILENCE: Duration = Duration::from_secs(6);

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
        ddp::{Connect, Framing},
        session::{
            Disconnect, Effects, Note, Turn,
            limits::Allowance,
            quota::{Asker, Quotas},
        },
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
            resume: 15 * SECOND,
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
        connect(&mut session, now);
        session.handle_attached("s", now);
        session
    }

    fn connect(session: &mut Session, now: Instant) {
        let asker = Asker {
            connection: 1,
            user: None,
            client: 2,
            address: None,
        };
        session.handle_connect(&Connect::fresh(), asker, now);
    }

    struct Deaf;

    impl Effects for Deaf {
        fn reply(&mut self, _message: String) {}

        fn shadow(&mut self, _message: String) {}

        fn note(&mut self, _note: Note) {}
    }

    fn judge(session: &mut Session, text: bool, message: &str, whole: bool) -> Verdict {
        let now = Instant::now();
        let quotas = Quotas::new(1, now);
        let mut turn = Turn {
            now,
            quotas: &quotas,
            effects: &mut Deaf,
        };
        session.handle_client(text, message.as_bytes(), whole, &mut turn)
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
        let verdict = judge(&mut session, true, connect, true);
        assert_eq!(verdict, Verdict::Assemble);
        let pong = judge(&mut session, true, r#"{"msg":"pong"}"#, true);
        assert_eq!(pong, Verdict::Close(Disconnect::NotConnect));
        let late = format!(r#"{{"session":"{}"#, "x".repeat(500));
        for cut in [late.as_str(), "{", r#"{"msg":"pong""#] {
            let verdict = judge(&mut session, true, cut, false);
            assert_eq!(verdict, Verdict::Assemble, "{cut}");
        }
        let binary = judge(&mut session, false, connect, true);
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
        connect(&mut session, start);
        assert_eq!(next_action(&mut session, start), (Action::KeepAlive, 12));
        session.handle_client_input(0, 1, start + 12 * SECOND);
        assert_eq!(next_action(&mut session, start), (Action::KeepAlive, 24));
    }

    #[test]
    fn empty_frames_are_dropped_for_sockjs_only() {
        let now = Instant::now();
        for empty in ["", "[]"] {
            let verdict = judge(&mut session(Framing::SockJs, now), true, empty, true);
            assert_eq!(verdict, Verdict::Drop);
        }
        let raw = judge(&mut session(Framing::Raw, now), true, "", true);
        assert_eq!(raw, Verdict::Close(Disconnect::Unreadable));
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
