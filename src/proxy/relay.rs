//! One client's socket and its leg, as one future without a buffer of its own.
//!
//! A pass does, in this order: orders from the mailbox, timers, client to streamer, the attachment,
//! streamer to client, what the session wants done, frames of our own, flush, counters, the end.
//! Each direction reads into the thread's scratch and writes on at once; only what the other side
//! does not take is kept.

mod adopted;
mod detached;
mod ending;
mod moving;
mod parked;
mod record;

pub(super) use detached::Kept;
use detached::Proving;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::{
    attach::{Attached, Opening, attach},
    detached::Wanted,
    inspect::{Effect, FromClient, FromStreamer},
    introduction::Introduction,
    mailbox::Command,
    outlet::{Lane, Later, Loss, Outlet, Target},
    pump::{Fed, Held, Pump},
    registry::{Registration, Standing},
    transfer::Transfer,
};
use crate::{
    base::chunk::{Backlog, SCRATCH_BYTES, with_scratch},
    net::stream::{Downstream, Upstream},
    pool::{
        Outcome, Permit,
        logins::{LoginOutcome, LoginPermit, LoginTicket},
    },
    session::{Disconnect, Phase, Session, limits::Over, migration::Aborted},
    telemetry::meters::Counted,
    ws::{ControlFrame, ControlPayload, Sender},
};

pin_project! {
    /// The relay of one session; resolves when the session is over.
    pub(super) struct Relay {
        state: State,
        #[pin]
        timer: Sleep,
    }
}

// Ten thousand sessions cost this times ten thousand. The runtime and the list of tasks add 112 bytes
// and round up to a multiple of 128: 768 in all, where eight bytes more would make it 896.
const _: () = assert!(size_of::<Relay>() <= 656);

struct State {
    down: Downstream,
    leg: Option<Leg>,
    session: Session,
    up_pump: Pump,
    down_pump: Pump,
    /// What the streamer, and what the client, has not taken yet.
    up_backlog: Backlog,
    down_backlog: Backlog,
    /// What waits with the client's login for its turn.
    later: Later,
    stage: Stage,
    /// Messages that began since the client's backlog was last empty, or the most that there can be.
    down_waiting: u16,
    ends: Ends,
    /// Frames of the gateway's own that wait for their place between those of the streamer.
    own: Option<Box<Own>>,
    /// The session's place in the gauge of its phase, and which one that is.
    counted: Counted,
    counted_as: Standing,
    terms_version: u32,
    /// Bytes that may wait for the client.
    buffer: u32,
    registration: Registration,
}

/// What is under way besides passing bytes on; freed when it is done.
enum Stage {
    /// The client has not sent `connect` yet.
    Greeting(Box<Opening>),
    /// The client wants a session back that is here.
    Proving(Box<Proving>),
    Attaching(Attaching),
    /// A login waits for its turn.
    Queueing(Box<LoginTicket>),
    /// A login is unanswered.
    LoggingIn(Box<LoginPermit>),
    /// The session is on its way to another streamer.
    Moving(Box<Transfer>),
    Idle,
}

/// Boxed twice, so that it takes no more room in the relay than the other stages.
type Attaching = Box<Pin<Box<dyn Future<Output = Result<Attached, Disconnect>> + Send>>>;

/// Frames of the gateway's own that wait for a place between others.
#[derive(Debug, Default)]
struct Own {
    /// A ping of the client that wants its pong.
    pong: Option<Box<ControlPayload>>,
    /// Whole text messages.
    texts: Vec<u8>,
    /// Frames for the streamer.
    asks: Vec<u8>,
    /// What waits for the client's turn goes on.
    release: bool,
}

impl Own {
    fn is_empty(&self) -> bool {
        self.pong.is_none() && self.texts.is_empty() && self.asks.is_empty() && !self.release
    }
}

/// A session's place on a streamer.
struct Leg {
    stream: Upstream,
    permit: Permit,
    introduction: Arc<Introduction>,
}

/// How far the end is, on each side.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// A close frame waits for the next frame boundary towards the client.
    client_due: Option<Disconnect>,
    client_told: bool,
    /// Nothing more can be written to the client.
    client_shut: bool,
    /// Nothing the client sends is understood any more.
    client_deaf: bool,
    /// The client has said goodbye or is gone.
    client_done: bool,
    leg_told: bool,
    leg_done: bool,
}

/// Traffic of one pass.
#[derive(Clone, Copy, Debug, Default)]
struct Flowed {
    messages_up: u64,
    messages_down: u64,
    bytes_up: u64,
    bytes_down: u64,
    /// Bytes that the client took.
    taken: u64,
}

impl Relay {
    /// A relay for a client that has been answered 101. `greeting` is sent at once; what the client
    /// sent together with its upgrade request is at most [`SCRATCH_BYTES`], so that the first read
    /// takes all of it.
    pub(super) fn new(
        down: Downstream,
        greeting: &[u8],
        opening: Box<Opening>,
        registration: Registration,
        now: Instant,
    ) -> Self {
        let shared = opening.shared.clone();
        let terms_version = shared.terms.version();
        let terms = shared.terms.load();
        let mut down_backlog = Backlog::new(shared.budget.clone());
        // Refused only when the process has used up its budget; then the client's first message
        // ends the session as overloaded.
        let _ = down_backlog.push(greeting, greeting.len());
        Self {
            state: State {
                down,
                leg: None,
                session: Session::new(opening.framing, terms.rules.clone(), now),
                up_pump: Pump::new(Sender::Client, terms.message_limit),
                down_pump: Pump::new(Sender::Server, STREAMER_MESSAGE_BYTES),
                up_backlog: Backlog::new(shared.budget.clone()),
                down_backlog,
                later: Later::default(),
                stage: Stage::Greeting(opening),
                down_waiting: 0,
                ends: Ends::default(),
                own: None,
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

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (state, mut timer) = (this.state, this.timer);
        let now = Instant::now();
        if timer.deadline().into_std() <= now {
            state.session.handle_timeout(now);
        }
        let again = state.pass(cx, now);
        if let Phase::Ended(reason) = state.session.phase() {
            state.record_end(reason, now);
            return Poll::Ready(());
        }
        // The timer is only ever moved forward, or set anew when it has fired: the common case, a
        // deadline that moves back with each message, costs nothing, and firing early does no harm.
        let armed = timer.deadline().into_std();
        if let Some(at) = state.session.next_timeout()
            && (at < armed || armed <= now)
        {
            timer.as_mut().reset(at.into());
            if timer.poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl State {
    /// Does all there is to do now; true when it stopped for fairness and wants another turn.
    fn pass(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut flowed = Flowed::default();
        self.read_orders(cx, now);
        let mut again = self.read_client(cx, &mut flowed, now);
        self.attach(cx, &mut flowed, now);
        again |= self.log_in(cx, now);
        again |= self.read_streamer(cx, &mut flowed, now);
        again |= self.advance_move(cx, &mut flowed, now);
        // Writing may end the session, whose goodbye is then to be written.
        for _ in 0..2 {
            while let Some(action) = self.session.poll_action() {
                self.act(action, now);
            }
            self.write_asks(now);
            self.write_own_frames(now);
        }
        if self.speak() {
            self.write_own_frames(now);
        }
        self.guard_tail(now);
        self.flush_shadow(cx, now);
        let (up, down) = (self.up_backlog.len(), self.down_backlog.len());
        self.flush(cx, &mut flowed, now);
        // A side that was not read because of its backlog has not registered for more either.
        again |= up > 0 && self.up_backlog.is_empty();
        let buffer = self.buffer as usize;
        again |= down >= buffer && self.down_backlog.len() < buffer;
        self.finish(cx);
        self.record(flowed);
        again || self.may_answer_claim()
    }

    fn read_orders(&mut self, cx: &Context<'_>, now: Instant) {
        let mailbox = &self.registration.entry().mailbox;
        // The first pass: it is counted from its end on.
        if self.counted_as == Standing::Greeting {
            mailbox.register(cx.waker());
        }
        match mailbox.take() {
            // Whoever sends it knows a hash of the session's name only.
            Some(Command::Close {
                reason: Disconnect::ForcedLogout,
                ..
            }) if !self.is_forced_out(now) => {}
            Some(Command::Close { reason, after }) => {
                self.session.handle_order(reason, after, now);
            }
            Some(Command::Move { optional }) => self.begin_move(optional, now),
            None => {}
        }
        self.answer_claim(now);
        let version = self.registration.shared().terms.version();
        if version != self.terms_version {
            self.terms_version = version;
            let terms = self.registration.shared().terms.load();
            self.buffer = bounded(terms.buffer);
            self.up_pump.set_message_limit(terms.message_limit);
            self.session.handle_rules(terms.rules.clone());
        }
    }

    fn read_client(&mut self, cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) -> bool {
        for _ in 0..READS {
            if self.ends.client_done || !self.session.reads_client() {
                return false;
            }
            let closing = is_closing(&self.session);
            let room = match self.leg {
                _ if closing => SCRATCH_BYTES,
                // Back-pressure: the client is read no faster than the streamer reads.
                Some(_) if !self.up_backlog.is_empty() => 0,
                Some(_) if self.later.is_empty() => SCRATCH_BYTES,
                _ => HELD_BYTES
                    .saturating_sub(self.up_backlog.len() + self.later.len())
                    .min(SCRATCH_BYTES),
            };
            if room == 0 {
                self.session.handle_unread(now);
                return false;
            }
            let read = with_scratch(|scratch| {
                let input = match self.fill_from_client(cx, &mut scratch[..room]) {
                    Poll::Ready(0) => {
                        self.lose_client(cx, now);
                        return false;
                    }
                    Poll::Ready(filled) => &scratch[..filled],
                    Poll::Pending => return false,
                };
                flowed.bytes_up += input.len() as u64;
                if !self.ends.client_deaf {
                    self.feed_up(input, cx, flowed, now);
                }
                true
            });
            if !read {
                return false;
            }
        }
        true
    }

    /// Bytes of the client into `room`; 0 when there will be no more.
    fn fill_from_client(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<usize> {
        if let Stage::Greeting(opening) = &mut self.stage
            && !opening.early.is_empty()
        {
            let length = opening.early.len().min(room.len());
            let early = opening.early.split_to(length);
            room[..early.len()].copy_from_slice(&early);
            return Poll::Ready(early.len());
        }
        self.down
            .poll_fill(cx, room)
            .map(|filled| filled.unwrap_or(0))
    }

    fn feed_up(&mut self, input: &[u8], cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) {
        let gone = is_closing(&self.session) || self.session.phase() == Phase::Orphaned;
        let mut outlet = Outlet {
            target: match &mut self.leg {
                _ if gone => Target::Nobody,
                Some(leg) => Target::Stream(&mut leg.stream),
                None => Target::Later,
            },
            backlog: &mut self.up_backlog,
            later: Some(&mut self.later),
            lane: Lane::Now,
            cx,
            copy: None,
            loss: Loss::Fails,
            taken: 0,
        };
        let mut inspector = FromClient {
            effect: Effect::new(&self.registration, self.session.framing(), now),
            asker: match &self.stage {
                Stage::Greeting(opening) => Some(opening.asker),
                _ => None,
            },
            session: &mut self.session,
            connect: None,
            former: None,
            wanted: None,
            pong: None,
            behind: self.own.as_ref().is_some_and(|own| own.release),
        };
        let fed = self.up_pump.feed(input, &mut outlet, &mut inspector);
        let FromClient {
            effect,
            connect,
            former,
            wanted,
            pong,
            ..
        } = inspector;
        let Effect {
            replies, shadow, ..
        } = effect;
        self.keep_own(pong, &replies);
        self.tell_shadow(&shadow, now);
        if let Some(connect) = connect {
            self.start_attaching(connect, former, wanted);
        }
        let (frames, messages) = match &fed {
            Ok(Fed { messages, frames }) => (*frames, *messages),
            Err(_) => (1, 0),
        };
        flowed.messages_up += u64::from(messages);
        let bytes = u32::try_from(input.len()).unwrap_or(u32::MAX);
        match self.session.handle_client_input(frames, bytes, now) {
            Some(Over::Messages) => self
                .registration
                .shared()
                .meters
                .limited_messages
                .increment(1),
            Some(Over::Bytes) => self.registration.shared().meters.limited_bytes.increment(1),
            None => {}
        }
        if let Err(stop) = fed {
            self.stop_client(stop, now);
        }
    }

    fn start_attaching(&mut self, connect: Held, former: Option<String>, wanted: Option<Wanted>) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Greeting(mut opening) => {
                opening.connect = connect;
                opening.former = former;
                debug_assert!(opening.early.is_empty());
                match wanted {
                    Some(wanted) => self.start_proving(opening, wanted),
                    None => {
                        self.stage = Stage::Attaching(Box::new(Box::pin(attach(*opening))));
                    }
                }
            }
            other => self.stage = other,
        }
    }

    fn attach(&mut self, cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) {
        self.poll_claim(cx, now);
        let Stage::Attaching(attaching) = &mut self.stage else {
            return;
        };
        let Poll::Ready(attached) = Pin::new(&mut **attaching).poll(cx) else {
            return;
        };
        self.stage = Stage::Idle;
        if self.session.phase() != Phase::Attaching {
            return;
        }
        let Attached {
            leg,
            permit,
            introduction,
            session,
            frames,
            rest,
        } = match attached {
            Ok(attached) => attached,
            Err(reason) => return self.session.close(reason, now),
        };
        self.leg = Some(Leg {
            stream: leg,
            permit,
            introduction,
        });
        self.session.handle_attached(&session, now);
        self.registration
            .shared()
            .detached
            .name(&session, self.registration.entry().id);
        flowed.messages_down += 1;
        flowed.bytes_down += frames.len() as u64;
        if self.down_backlog.push(&frames, usize::MAX).is_err() {
            return self.session.close(Disconnect::Overload, now);
        }
        if !rest.is_empty() {
            self.feed_down(&rest, cx, flowed, now);
        }
    }

    /// Lets a login of the client wait for its turn and go on when that has come; true when the
    /// client is to be read again.
    fn log_in(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if let (Stage::Idle, Some(leg), true) = (&self.stage, &self.leg, self.session.wants_login())
        {
            match self
                .registration
                .shared()
                .logins
                .wait(&leg.permit.streamer().id, now)
            {
                Ok(ticket) => self.stage = Stage::Queueing(Box::new(ticket)),
                Err(_) => self.session.close(Disconnect::NoCapacity, now),
            }
        }
        let Stage::Queueing(ticket) = &mut self.stage else {
            return false;
        };
        // What it was for may have come by itself.
        if !self.session.wants_login() {
            self.stage = Stage::Idle;
            return false;
        }
        // A ping of the client that is passing has to end first; its next bytes come back here.
        if !self.up_pump.at_message_boundary() {
            return false;
        }
        let Poll::Ready(permit) = ticket.poll(cx, now) else {
            return false;
        };
        self.session.handle_login_turn();
        self.stage = match self.session.is_logging_in() {
            true => Stage::LoggingIn(Box::new(permit)),
            false => Stage::Idle,
        };
        self.up_pump.promote();
        if self.later.release(&mut self.up_backlog).is_err() {
            self.session.close(Disconnect::Overload, now);
        }
        true
    }

    /// A login was answered.
    fn end_login(&mut self, outcome: LoginOutcome, now: Instant) {
        if self.session.is_logging_in() {
            return;
        }
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::LoggingIn(permit) => permit.finish(outcome, now),
            other => self.stage = other,
        }
    }

    fn read_streamer(&mut self, cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) -> bool {
        for _ in 0..READS {
            if self.leg.is_none() || self.ends.leg_done {
                return false;
            }
            if self.down_backlog.len() >= self.buffer as usize && !is_closing(&self.session) {
                // One huge message may take its time; the stall timer watches. Many messages mean
                // a client that does not keep up.
                if self.down_waiting > 1 {
                    self.session.close(Disconnect::SlowConsumer, now);
                }
                return false;
            }
            let read = with_scratch(|scratch| {
                let Some(leg) = &mut self.leg else {
                    return false;
                };
                let filled = match leg.stream.poll_fill(cx, scratch) {
                    Poll::Ready(filled) => filled.unwrap_or(0),
                    Poll::Pending => return false,
                };
                if filled == 0 {
                    self.lose_leg(now);
                    return false;
                }
                flowed.bytes_down += filled as u64;
                self.session.handle_streamer_input(now);
                self.feed_down(&scratch[..filled], cx, flowed, now);
                true
            });
            if !read {
                return false;
            }
        }
        true
    }

    fn feed_down(&mut self, input: &[u8], cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) {
        let mut tail = self.session.lend_tail();
        let mut outlet = Outlet {
            target: match self.ends {
                Ends {
                    client_told: true, ..
                }
                | Ends {
                    client_done: true, ..
                } => Target::Nobody,
                _ => Target::Stream(&mut self.down),
            },
            backlog: &mut self.down_backlog,
            later: None,
            lane: Lane::Now,
            cx,
            copy: tail.as_deref_mut(),
            loss: Loss::Passes,
            taken: 0,
        };
        let mut inspector = FromStreamer {
            effect: Effect::new(&self.registration, self.session.framing(), now),
            session: &mut self.session,
            pong: None,
        };
        let fed = self.down_pump.feed(input, &mut outlet, &mut inspector);
        flowed.taken += outlet.taken;
        let lost = outlet.loss == Loss::Happened;
        let FromStreamer { effect, pong, .. } = inspector;
        let Effect {
            replies,
            login,
            shadow,
            ..
        } = effect;
        self.session.return_tail(tail);
        self.keep_own(None, &replies);
        self.tell_shadow(&shadow, now);
        if let Some(outcome) = login {
            self.end_login(outcome, now);
        }
        if self.down_backlog.is_empty() {
            self.down_waiting = 0;
        }
        match fed {
            Ok(Fed { messages, .. }) => {
                flowed.messages_down += u64::from(messages);
                if !self.down_backlog.is_empty() {
                    let messages = u16::try_from(messages).unwrap_or(u16::MAX);
                    self.down_waiting = self.down_waiting.saturating_add(messages);
                }
            }
            Err(stop) => self.stop_leg(stop, now),
        }
        if lost {
            self.lose_client(cx, now);
        }
        if let Some(payload) = pong {
            self.push_up(&ControlFrame::pong_to(&payload, Some(rand::random())));
        }
    }

    /// The leg ended without a goodbye.
    fn lose_leg(&mut self, now: Instant) {
        self.up_backlog.clear();
        self.later.clear();
        self.abandon_move(Aborted::Ended);
        if !matches!(self.stage, Stage::Greeting(_)) {
            self.stage = Stage::Idle;
        }
        let Some(leg) = self.leg.take() else { return };
        if is_closing(&self.session) {
            return;
        }
        if self.is_forced_out(now) {
            return self.session.close(Disconnect::ForcedLogout, now);
        }
        leg.permit.streamer().report(Outcome::Reset, now);
        // Each client at a random moment, over a time in which as many may log in.
        let streamer = leg.permit.streamer();
        let logins = &self.registration.shared().logins;
        let spread = logins.spread(&streamer.id, streamer.lost(now), now);
        let delay = spread.mul_f64(rand::random::<f64>());
        let delay = delay.max(self.registration.shared().forced_logouts.patience());
        self.session.handle_leg_lost(delay, now);
    }

    fn flush(&mut self, cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) {
        if let Some(leg) = &mut self.leg {
            let mut outlet = Outlet {
                target: Target::Stream(&mut leg.stream),
                backlog: &mut self.up_backlog,
                later: None,
                lane: Lane::Now,
                cx,
                copy: None,
                loss: Loss::Fails,
                taken: 0,
            };
            if outlet.flush().is_err() {
                self.lose_leg(now);
            }
        }
        let mut outlet = Outlet {
            target: Target::Stream(&mut self.down),
            backlog: &mut self.down_backlog,
            later: None,
            lane: Lane::Now,
            cx,
            copy: None,
            loss: Loss::Fails,
            taken: 0,
        };
        let flushed = outlet.flush();
        flowed.taken += outlet.taken;
        if flushed.is_err() {
            self.lose_client(cx, now);
        }
        let waiting = !self.down_backlog.is_empty();
        self.session
            .handle_client_output(waiting, flowed.taken > 0, now);
    }
}

fn is_closing(session: &Session) -> bool {
    matches!(session.phase(), Phase::Closing(_) | Phase::Ended(_))
}

/// More than four gigabytes for one client are not told apart.
fn bounded(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Reads per direction and pass; each is at most [`SCRATCH_BYTES`].
const READS: usize = 2;

/// Bytes of a client that are kept until it has a streamer.
const HELD_BYTES: usize = 64 * 1024;

/// Largest message of a streamer: what its own library accepts (`ws`, `maxPayload` 100 MiB).
const STREAMER_MESSAGE_BYTES: u64 = 100 * 1024 * 1024;
