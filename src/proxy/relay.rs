//! One client's socket and its leg, as one future without a buffer of its own.
//!
//! A pass does, in this order: orders from the mailbox, timers, client to streamer, the attachment,
//! streamer to client, what the session wants done, frames of our own, flush, counters, the end.
//! Each direction reads into the thread's scratch and writes on at once; only what the other side
//! does not take is kept.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use tokio::{io::AsyncWrite, time::Sleep};
use tracing::info;

use super::{
    attach::{Attached, Opening, attach, text_frame},
    inspect::{Effect, FromClient, FromStreamer},
    mailbox::Command,
    pump::{Fed, Held, Lane, Later, Outlet, Pump, Stop, Target},
    registry::{Registration, Standing},
    shared::Shared,
};
use crate::{
    base::chunk::{Backlog, SCRATCH_BYTES, with_scratch},
    ddp::{self, Framing, wrap_for_client},
    net::stream::{Downstream, Upstream},
    pool::{
        Outcome, Permit,
        logins::{LoginOutcome, LoginPermit, LoginTicket},
    },
    session::{Action, Disconnect, LoginState, Phase, Session, limits::Over},
    telemetry::meters::Counted,
    ws::{CloseCode, CloseFrame, ControlFrame, ControlPayload, Sender},
};

pin_project! {
    /// The relay of one session; resolves when the session is over.
    pub(super) struct Relay {
        state: State,
        #[pin]
        timer: Sleep,
    }
}

// Ten thousand sessions cost this times ten thousand. The runtime adds 104 bytes and rounds up to a
// multiple of 128: 768 in all, where eight bytes more would make it 896.
const _: () = assert!(size_of::<Relay>() <= 664);

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
    /// Messages that began since the client's backlog was last empty.
    down_waiting: u32,
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
    shared: Arc<Shared>,
}

/// What is under way besides passing bytes on; freed when it is done.
enum Stage {
    /// The client has not sent `connect` yet.
    Greeting(Box<Opening>),
    Attaching(Attaching),
    /// A login waits for its turn.
    Queueing(Box<LoginTicket>),
    /// A login is unanswered.
    LoggingIn(Box<LoginPermit>),
    Idle,
}

/// Boxed twice, so that it takes no more room in the relay than the other stages.
type Attaching = Box<Pin<Box<dyn Future<Output = Result<Attached, Disconnect>> + Send>>>;

/// Frames of the gateway's own for the client.
#[derive(Debug, Default)]
struct Own {
    /// A ping of the client that wants its pong.
    pong: Option<Box<ControlPayload>>,
    /// Whole text messages.
    texts: Vec<u8>,
}

/// A session's place on a streamer.
struct Leg {
    stream: Upstream,
    permit: Permit,
}

/// How far the end is, on each side.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// A close frame waits for the next frame boundary towards the client.
    client_due: Option<Disconnect>,
    client_told: bool,
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
                shared,
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
        // Writing may end the session, whose goodbye is then to be written.
        for _ in 0..2 {
            while let Some(action) = self.session.poll_action() {
                self.act(action);
            }
            self.write_own_frames(now);
        }
        let (up, down) = (self.up_backlog.len(), self.down_backlog.len());
        self.flush(cx, &mut flowed, now);
        // A side that was not read because of its backlog has not registered for more either.
        again |= up > 0 && self.up_backlog.is_empty();
        let buffer = self.buffer as usize;
        again |= down >= buffer && self.down_backlog.len() < buffer;
        self.finish(cx);
        self.record(flowed);
        again
    }

    fn read_orders(&mut self, cx: &Context<'_>, now: Instant) {
        let mailbox = &self.registration.entry().mailbox;
        if let Stage::Greeting(_) = self.stage {
            mailbox.register(cx.waker());
        }
        if let Some(Command::Close { reason, after }) = mailbox.take() {
            self.session.handle_order(reason, after, now);
        }
        let version = self.shared.terms.version();
        if version != self.terms_version {
            self.terms_version = version;
            let terms = self.shared.terms.load();
            self.buffer = bounded(terms.buffer);
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
                        self.ends.client_done = true;
                        self.session.end(Disconnect::ClientGone);
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
            taken: 0,
        };
        let mut inspector = FromClient {
            effect: Effect {
                framing: self.session.framing(),
                shared: &self.shared,
                entry: self.registration.entry(),
                now,
                replies: Vec::new(),
                login: None,
            },
            asker: match &self.stage {
                Stage::Greeting(opening) => Some(opening.asker),
                _ => None,
            },
            session: &mut self.session,
            connect: None,
            pong: None,
        };
        let fed = self.up_pump.feed(input, &mut outlet, &mut inspector);
        let FromClient {
            effect,
            connect,
            pong,
            ..
        } = inspector;
        let replies = effect.replies;
        self.keep_own(pong, &replies);
        if let Some(connect) = connect {
            self.start_attaching(connect);
        }
        let (frames, messages) = match &fed {
            Ok(Fed { messages, frames }) => (*frames, *messages),
            Err(_) => (1, 0),
        };
        flowed.messages_up += u64::from(messages);
        let bytes = u32::try_from(input.len()).unwrap_or(u32::MAX);
        match self.session.handle_client_input(frames, bytes, now) {
            Some(Over::Messages) => self.shared.meters.limited_messages.increment(1),
            Some(Over::Bytes) => self.shared.meters.limited_bytes.increment(1),
            None => {}
        }
        if let Err(stop) = fed {
            self.stop_client(stop, now);
        }
    }

    fn start_attaching(&mut self, connect: Held) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Greeting(mut opening) => {
                opening.connect = connect;
                debug_assert!(opening.early.is_empty());
                self.stage = Stage::Attaching(Box::new(Box::pin(attach(*opening))));
            }
            other => self.stage = other,
        }
    }

    fn attach(&mut self, cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) {
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
        });
        self.session.handle_attached(&session, now);
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
            match self.shared.logins.wait(&leg.permit.streamer().id, now) {
                Ok(ticket) => self.stage = Stage::Queueing(Box::new(ticket)),
                Err(_) => self.session.close(Disconnect::NoCapacity, now),
            }
        }
        let Stage::Queueing(ticket) = &mut self.stage else {
            return false;
        };
        // A ping of the client that is passing has to end first; its next bytes come back here.
        if !self.up_pump.at_message_boundary() {
            return false;
        }
        let Poll::Ready(permit) = ticket.poll(cx, now) else {
            return false;
        };
        self.stage = Stage::LoggingIn(Box::new(permit));
        self.session.handle_login_turn();
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
            taken: 0,
        };
        let mut inspector = FromStreamer {
            effect: Effect {
                framing: self.session.framing(),
                shared: &self.shared,
                entry: self.registration.entry(),
                now,
                replies: Vec::new(),
                login: None,
            },
            session: &mut self.session,
            pong: None,
        };
        let fed = self.down_pump.feed(input, &mut outlet, &mut inspector);
        flowed.taken += outlet.taken;
        let FromStreamer { effect, pong, .. } = inspector;
        let Effect { replies, login, .. } = effect;
        self.keep_own(None, &replies);
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
                    self.down_waiting = self.down_waiting.saturating_add(messages);
                }
            }
            Err(stop) => self.stop_leg(stop, now),
        }
        if let Some(payload) = pong {
            self.push_up(&ControlFrame::pong_to(&payload, Some(rand::random())));
        }
    }

    /// Keeps frames for the client until they may stand between those of the streamer.
    fn keep_own(&mut self, pong: Option<Box<ControlPayload>>, texts: &[u8]) {
        if pong.is_none() && texts.is_empty() {
            return;
        }
        let own = self.own.get_or_insert_default();
        if pong.is_some() {
            own.pong = pong;
        }
        own.texts.extend_from_slice(texts);
    }

    /// A frame of our own towards the streamer; dropped when it does not fit in here.
    fn push_up(&mut self, frame: &ControlFrame) {
        if self.leg.is_some() && !self.ends.leg_told && self.up_pump.at_frame_boundary() {
            // A streamer that pings and does not read, or a process out of its budget: the streamer
            // then misses a pong.
            let _ = self.up_backlog.push(frame.as_bytes(), HELD_BYTES);
        }
    }

    fn stop_client(&mut self, stop: Stop, now: Instant) {
        match stop {
            Stop::Closed(frame) => {
                self.ends.client_done = true;
                let code = frame.map(|frame| frame.code.0);
                self.session.close(Disconnect::ClientClosed(code), now);
            }
            Stop::Protocol(error) => {
                self.ends.client_deaf = true;
                self.session.close(Disconnect::ClientProtocol(error), now);
            }
            Stop::Disconnect(reason) => {
                self.ends.client_deaf = true;
                self.session.close(reason, now);
            }
            Stop::Full => {
                self.ends.client_deaf = true;
                self.session.close(Disconnect::Overload, now);
            }
            Stop::Broken => self.lose_leg(now),
        }
    }

    fn stop_leg(&mut self, stop: Stop, now: Instant) {
        match stop {
            Stop::Closed(frame) => {
                self.ends.leg_done = true;
                let code = frame.map(|frame| frame.code.0);
                self.session.close(Disconnect::StreamerClosed(code), now);
            }
            Stop::Protocol(error) => {
                self.ends.leg_done = true;
                if let Some(leg) = &self.leg {
                    leg.permit.streamer().report(Outcome::Reset, now);
                }
                self.session.close(Disconnect::StreamerProtocol(error), now);
            }
            Stop::Disconnect(reason) => self.session.close(reason, now),
            Stop::Full => self.session.close(Disconnect::Overload, now),
            Stop::Broken => {
                self.ends.client_done = true;
                self.session.end(Disconnect::ClientGone);
            }
        }
    }

    /// The leg ended without a goodbye.
    fn lose_leg(&mut self, now: Instant) {
        self.up_backlog.clear();
        self.later.clear();
        if !matches!(self.stage, Stage::Greeting(_)) {
            self.stage = Stage::Idle;
        }
        let Some(leg) = self.leg.take() else { return };
        if is_closing(&self.session) {
            return;
        }
        leg.permit.streamer().report(Outcome::Reset, now);
        let delay = LOSS_SPREAD.mul_f64(rand::random::<f64>());
        self.session.handle_leg_lost(delay, now);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::PingClient => {
                if self.down_pump.at_frame_boundary()
                    && let Ok(ping) = ControlFrame::ping(b"", None)
                {
                    let _ = self.down_backlog.push(ping.as_bytes(), usize::MAX);
                }
                // What SockJS clients take for a sign of life.
                if self.session.framing() == Framing::SockJs {
                    self.keep_own(None, &text_frame(HEARTBEAT));
                }
            }
            Action::PingStreamer => {
                if let Ok(ping) = ControlFrame::ping(b"", Some(rand::random())) {
                    self.push_up(&ping);
                }
            }
            Action::KeepAlive => {
                let ping = wrap_for_client(self.session.framing(), ddp::message::PING);
                self.keep_own(None, &text_frame(&ping));
            }
            Action::Close(reason) => {
                self.stage = Stage::Idle;
                self.later.clear();
                self.ends.client_due = (!self.ends.client_told).then_some(reason);
                self.close_leg(reason);
            }
            // The flush that ends the pass is the goodbye's only try: the socket's buffer takes a
            // dozen bytes, or the streamer is stuck.
            Action::End(reason) => self.close_leg(reason),
        }
    }

    /// Says goodbye to the streamer, or leaves without when that would cut a frame in two.
    fn close_leg(&mut self, reason: Disconnect) {
        if self.leg.is_none() || self.ends.leg_told {
            return;
        }
        if !self.up_pump.at_frame_boundary() {
            self.leg = None;
            self.up_backlog.clear();
            return;
        }
        let close = CloseFrame::new(CloseCode(reason.leg_close_code()), "");
        let frame = ControlFrame::close(Some(&close), Some(rand::random()));
        self.ends.leg_told = true;
        let _ = self.up_backlog.push(frame.as_bytes(), usize::MAX);
    }

    /// Pongs, messages of our own and the close frame, where the stream towards the client allows
    /// them.
    fn write_own_frames(&mut self, now: Instant) {
        if !self.down_pump.at_frame_boundary() || self.ends.client_told {
            return;
        }
        if let Some(mut own) = self.own.take() {
            if let Some(payload) = own.pong.take() {
                let pong = ControlFrame::pong_to(&payload, None);
                let _ = self.down_backlog.push(pong.as_bytes(), usize::MAX);
            }
            if !own.texts.is_empty() {
                if self.down_pump.at_message_boundary() {
                    self.push_texts(&own.texts, now);
                } else if own.texts.len() > self.buffer as usize {
                    self.session.close(Disconnect::SlowConsumer, now);
                } else {
                    self.own = Some(own);
                }
            }
        }
        if let Some(reason) = self.ends.client_due.take() {
            let close = CloseFrame::new(CloseCode(reason.close_code()), reason.reason());
            let frame = ControlFrame::close(Some(&close), None);
            let _ = self.down_backlog.push(frame.as_bytes(), usize::MAX);
            self.ends.client_told = true;
        }
    }

    /// Messages of our own count like those of the streamer: who does not read them is slow.
    fn push_texts(&mut self, texts: &[u8], now: Instant) {
        if !self.down_backlog.is_empty() {
            self.down_waiting = self.down_waiting.saturating_add(1);
        }
        if self.down_backlog.len() >= self.buffer as usize {
            self.session.close(Disconnect::SlowConsumer, now);
        } else if self.down_backlog.push(texts, usize::MAX).is_err() {
            self.session.close(Disconnect::Overload, now);
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) {
        if let Some(leg) = &mut self.leg {
            let mut outlet = Outlet {
                target: Target::Stream(&mut leg.stream),
                backlog: &mut self.up_backlog,
                later: None,
                lane: Lane::Now,
                cx,
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
            taken: 0,
        };
        let flushed = outlet.flush();
        flowed.taken += outlet.taken;
        if flushed.is_err() {
            self.ends.client_done = true;
            self.session.end(Disconnect::ClientGone);
        }
        let waiting = !self.down_backlog.is_empty();
        self.session
            .handle_client_output(waiting, flowed.taken > 0, now);
    }

    /// Ends the session when both sides have said what they had to.
    fn finish(&mut self, cx: &mut Context<'_>) {
        let Phase::Closing(reason) = self.session.phase() else {
            return;
        };
        let told = self.ends.client_told && self.down_backlog.is_empty();
        // A client that cannot be told, because a frame towards it was cut, is just left.
        let mute = self.ends.client_due.is_some() && self.leg.is_none();
        let client = self.ends.client_done && told || mute;
        let leg = self.leg.is_none() || self.ends.leg_done && self.up_backlog.is_empty();
        if (told || mute) && Pin::new(&mut self.down).poll_shutdown(cx).is_ready() && client && leg
        {
            self.session.end(reason);
        }
    }

    fn record(&mut self, flowed: Flowed) {
        let meters = &self.shared.meters;
        let (standing, gauge) = match (self.session.phase(), self.session.login_state()) {
            (Phase::Greeting, _) => (Standing::Greeting, &meters.greeting),
            (Phase::Attaching, _) => (Standing::Attaching, &meters.attaching),
            (Phase::Live, LoginState::Out) => (Standing::Anonymous, &meters.anonymous),
            (Phase::Live, LoginState::Under) => (Standing::LoggingIn, &meters.logging_in),
            (Phase::Live, LoginState::In) => (Standing::LoggedIn, &meters.logged_in),
            (Phase::Orphaned | Phase::Closing(_) | Phase::Ended(_), _) => {
                (Standing::Closing, &meters.closing)
            }
        };
        if standing != self.counted_as {
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
    fn record_end(&self, reason: Disconnect, now: Instant) {
        let age = self.registration.age(now);
        self.shared.meters.session_seconds.record(age);
        self.shared
            .meters
            .closed(reason.label(), reason.by())
            .increment(1);
        let entry = self.registration.entry();
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

fn is_closing(session: &Session) -> bool {
    matches!(session.phase(), Phase::Closing(_) | Phase::Ended(_))
}

/// More than four gigabytes for one client are not told apart.
fn bounded(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The SockJS heartbeat frame.
const HEARTBEAT: &[u8] = b"h";

/// Reads per direction and pass; each is at most [`SCRATCH_BYTES`].
const READS: usize = 2;

/// Bytes of a client that are kept until it has a streamer.
const HELD_BYTES: usize = 64 * 1024;

/// Largest message of a streamer: what its own library accepts (`ws`, `maxPayload` 100 MiB).
const STREAMER_MESSAGE_BYTES: u64 = 100 * 1024 * 1024;

/// The clients of a streamer that died are told within this, each at a random moment.
const LOSS_SPREAD: Duration = Duration::from_secs(1);
