//! A client is lost and its leg is kept; a client comes back for it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::Sleep};
use tracing::{info, warn};

use super::{Ends, Leg, Own, Stage, State, is_closing};
use crate::{
    base::{chunk::Backlog, secret::Secret},
    ddp::{wrap_for_client, wrap_for_streamer},
    net::stream::Downstream,
    pool::logins::LoginPermit,
    proxy::{
        attach::{Opening, attach, masked_text_frame, text_frame},
        detached::{Answer, Holder, Wanted},
        handover::{Errand, Fetch},
        inspect::{Effect, turn},
        pump::Pump,
    },
    session::{Back, Disconnect, Phase, ReturnKind, Session, Shown, migration::Aborted},
    ws::{ControlFrame, Sender},
};

/// All there is of a session but its client.
pub(in crate::proxy) struct Kept {
    pub(super) leg: Leg,
    pub(super) session: Session,
    pub(super) down_pump: Pump,
    pub(super) up_backlog: Backlog,
    pub(super) own: Option<Box<Own>>,
    /// Of a login of the gateway's own that has no answer yet.
    pub(super) login: Option<Box<LoginPermit>>,
    /// The session as another gateway reads it, for one that is to leave.
    pub(super) packed: Option<Secret<Vec<u8>>>,
}

impl Kept {
    /// With a leg that the calling thread hears of itself. `None`: this machine is short of
    /// something, and the session is lost.
    fn here(self) -> Option<Self> {
        let Leg {
            stream,
            permit,
            introduction,
        } = self.leg;
        let stream = stream
            .here()
            .inspect_err(|error| warn!(%error, "a session could not be given to its client"))
            .ok()?;
        let leg = Leg {
            stream,
            permit,
            introduction,
        };
        Some(Self { leg, ..self })
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// A client that wants its session back.
pub(super) struct Proving {
    opening: Box<Opening>,
    wanted: Wanted,
    asked: Asked,
    deadline: Pin<Box<Sleep>>,
}

/// Whether the holder has been asked.
enum Asked {
    No,
    Here(oneshot::Receiver<Answer>),
    Elsewhere(Fetch),
}

impl Asked {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        let answer = match self {
            Self::No => return Poll::Pending,
            Self::Here(answer) | Self::Elsewhere(Fetch { answer, .. }) => answer,
        };
        Pin::new(answer)
            .poll(cx)
            .map(|answer| answer.ok().flatten())
    }
}

impl State {
    /// The client's connection is over without a goodbye.
    pub(super) fn lose_client(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.ends.client_done = true;
        // It may have been given its session a moment ago.
        self.poll_claim(cx, now);
        if !self.try_detach(now) {
            self.session.end(Disconnect::ClientGone);
        }
    }

    /// Lets go of the client and keeps its leg, if that can be.
    pub(super) fn try_detach(&mut self, now: Instant) -> bool {
        let can = self.may_detach(now);
        if can {
            self.detach(now);
            self.note_detached();
        }
        can
    }

    /// Whether the session can do without its client now. A move under way is given up.
    pub(super) fn may_detach(&mut self, now: Instant) -> bool {
        self.stop_moving(now);
        self.can_detach() && !self.is_forced_out(now)
    }

    fn stop_moving(&mut self, now: Instant) {
        if self.session.is_moving() {
            self.session.handle_shadow_lost(Aborted::Ended, now);
            while let Some(action) = self.session.poll_action() {
                self.act(action, now);
            }
            self.write_asks(now);
        }
    }

    fn can_detach(&self) -> bool {
        self.session.is_keepable()
            // No login of the client's own is under way in a session that can be kept.
            && matches!(
                self.stage,
                Stage::Idle | Stage::Queueing(_) | Stage::LoggingIn(_)
            )
            && self.leg.is_some()
            && !self.ends.leg_told
            && !self.ends.leg_done
            && !self.ends.client_told
            && self.later.is_empty()
            && self.up_pump.at_message_boundary()
            && self.registration.shared().expects_returns()
    }

    /// Only when it can do without its client.
    pub(super) fn detach(&mut self, now: Instant) {
        if let Stage::Queueing(_) = self.stage {
            self.stage = Stage::Idle;
        }
        self.down = Downstream::Gone;
        self.down_backlog.clear();
        self.down_waiting = 0;
        self.ends = Ends {
            client_told: true,
            client_done: true,
            client_deaf: true,
            ..Ends::default()
        };
        self.session
            .detach(Backlog::new(self.registration.shared().budget.clone()), now);
    }

    fn note_detached(&self) {
        let entry = self.registration.entry();
        info!(
            target: "access",
            event = "socket_detached",
            session = %entry.id,
            client = %entry.client,
            streamer = entry.place().streamer.as_ref().map(|id| id.as_str()),
            "the client's connection broke; its leg is kept for its return"
        );
    }

    /// What kept a claim waiting has ended within this pass.
    pub(super) fn may_answer_claim(&self) -> bool {
        self.registration.entry().mailbox.is_called()
            && self.down_pump.is_at_rest()
            && (self.session.phase() != Phase::Detached || self.session.is_quiet())
    }

    /// Somebody claims the session.
    pub(super) fn answer_claim(&mut self, now: Instant) {
        let entry = self.registration.entry().clone();
        if !entry.mailbox.take_call() {
            return;
        }
        let shared = self.registration.shared().clone();
        let detached = &shared.detached;
        let Some(claim) = detached.take_claim(entry.id) else {
            return;
        };
        if claim.answer.is_closed() {
            return;
        }
        let is_detached = self.session.phase() == Phase::Detached;
        if self.is_forced_out(now) {
            let _ = claim.answer.send(None);
            return self.session.close(Disconnect::ForcedLogout, now);
        }
        let proven = match &claim.token {
            Some(token) => self.session.is_proven(&claim.name, token),
            // The gateway's own wish, for a client that is away.
            None if is_detached => true,
            None => {
                let _ = claim.answer.send(None);
                return;
            }
        };
        if !proven {
            self.registration
                .shared()
                .meters
                .resume_refused
                .increment(1);
            info!(
                session = %entry.id,
                client = %entry.client,
                "a client came with the id of this session and without the token of its user: it \
                 gets a session of its own"
            );
            let _ = claim.answer.send(None);
            if is_detached {
                self.session.end(Disconnect::ClientGone);
            }
            return;
        }
        // Not within a message of the streamer; the next of its bytes come back here.
        let at_rest = match claim.leaves {
            true => self.down_pump.is_at_rest(),
            false => self.down_pump.at_message_boundary(),
        };
        if !at_rest {
            detached.put_back(entry.id, claim);
            entry.mailbox.call_later();
            return;
        }
        if is_detached {
            self.stop_moving(now);
        } else if !self.try_detach(now) {
            let _ = claim.answer.send(None);
            return;
        }
        let packed = match claim.leaves {
            true => match self.pack(now) {
                Ok(packed) => Some(packed),
                // What is under way comes to its end by bytes of the streamer; whoever asks does not
                // wait for ever.
                Err(reason) if reason.passes() => {
                    detached.put_back(entry.id, claim);
                    entry.mailbox.call_later();
                    return;
                }
                Err(_) => {
                    let _ = claim.answer.send(None);
                    return;
                }
            },
            false => None,
        };
        let Some(leg) = self.leg.take() else {
            let _ = claim.answer.send(None);
            return;
        };
        let terms = self.registration.shared().terms.load();
        let session = Session::new(self.session.framing(), terms.rules.clone(), now);
        let kept = Kept {
            leg,
            session: std::mem::replace(&mut self.session, session),
            down_pump: std::mem::replace(&mut self.down_pump, Pump::new(Sender::Server, 0)),
            up_backlog: std::mem::replace(&mut self.up_backlog, self.down_backlog.sibling()),
            own: self.own.take(),
            login: self.take_login(),
            packed,
        };
        match claim.answer.send(Some(Box::new(kept))) {
            Ok(()) => self.session.end(Disconnect::Resumed),
            // It has left again.
            Err(Some(kept)) => {
                let Kept {
                    leg,
                    session,
                    down_pump,
                    up_backlog,
                    own,
                    login,
                    packed: _,
                } = *kept;
                self.leg = Some(leg);
                self.session = session;
                self.down_pump = down_pump;
                self.up_backlog = up_backlog;
                self.own = own;
                self.keep_login(login);
            }
            Err(None) => {}
        }
    }

    fn take_login(&mut self) -> Option<Box<LoginPermit>> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::LoggingIn(permit) => Some(permit),
            other => {
                self.stage = other;
                None
            }
        }
    }

    fn keep_login(&mut self, permit: Option<Box<LoginPermit>>) {
        if let Some(permit) = permit {
            self.stage = Stage::LoggingIn(permit);
        }
    }

    /// The client's `connect` names a session that is here.
    pub(super) fn start_proving(&mut self, opening: Box<Opening>, wanted: Wanted) {
        let within = match wanted.holder {
            Holder::Here(_) => PROVE_WITHIN,
            Holder::Elsewhere => FETCH_WITHIN,
        };
        let asked = match wanted.holder {
            Holder::Here(_) => Asked::No,
            Holder::Elsewhere => {
                let errand = Errand {
                    name: wanted.name.clone(),
                    entry: opening.entry.clone(),
                    introduction: opening
                        .shared
                        .introductions
                        .keep(&opening.request, &opening.entry),
                    asker: opening.asker,
                };
                Fetch::begin(&opening.shared, errand).map_or(Asked::No, Asked::Elsewhere)
            }
        };
        self.stage = Stage::Proving(Box::new(Proving {
            opening,
            wanted,
            asked,
            deadline: Box::pin(tokio::time::sleep(within)),
        }));
    }

    /// Goes on with a client that wants its session back.
    pub(super) fn poll_claim(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Stage::Proving(proving) = &mut self.stage else {
            return;
        };
        let late = proving.deadline.as_mut().poll(cx).is_ready();
        if let Some(Shown::Token(token)) = self.session.shown() {
            match (&mut proving.asked, &proving.wanted.holder) {
                (asked @ Asked::No, Holder::Here(holder)) if !late => {
                    let detached = &self.registration.shared().detached;
                    let answer = detached.claim(&proving.wanted.name, holder, token.clone());
                    *asked = Asked::Here(answer);
                }
                (Asked::Elsewhere(fetch), _) => {
                    if let Some(to) = fetch.token.take() {
                        let _ = to.send(token.clone());
                    }
                }
                _ => {}
            }
        }
        // Nobody asked, nobody answers; and the way to the others may have ended.
        let answer = match (&mut proving.asked, &proving.wanted.holder) {
            (Asked::No, Holder::Elsewhere) => Poll::Ready(None),
            (asked, _) => asked.poll(cx),
        };
        let kept = match (self.session.shown(), answer) {
            (Some(Shown::Token(_) | Shown::Nothing), Poll::Pending) if !late => return,
            (Some(Shown::Token(_)), Poll::Ready(answer)) => answer,
            _ => None,
        };
        let Stage::Proving(proving) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return;
        };
        let waiting = self.session.end_proof();
        if is_closing(&self.session) {
            if let Some(kept) = kept {
                // Nobody is here to take it: it ends with this session.
                drop(kept);
            }
            return;
        }
        match kept.and_then(|kept| kept.here()) {
            Some(kept) => self.take_over(kept, &proving, now),
            None => self.stage = Stage::Attaching(Box::new(Box::pin(attach(*proving.opening)))),
        }
        self.feed_waiting(waiting, now);
    }

    /// The client has its session back.
    fn take_over(&mut self, kept: Kept, proving: &Proving, now: Instant) {
        let Kept {
            leg,
            session,
            down_pump,
            up_backlog,
            own,
            login,
            packed: _,
        } = kept;
        self.keep_login(login);
        let streamer = leg.permit.streamer().id.clone();
        let borrowed = leg.permit.is_borrowed();
        self.leg = Some(leg);
        self.session = session;
        if borrowed {
            let shared = self.registration.shared();
            shared.handover.borrow(self.registration.entry().id);
            self.session.handle_borrowed(now);
        }
        self.down_pump = down_pump;
        self.up_backlog = up_backlog;
        if let Some(own) = own {
            let mine = self.own.get_or_insert_default();
            mine.texts.extend_from_slice(&own.texts);
            mine.asks.extend_from_slice(&own.asks);
        }
        self.session
            .handle_rules(self.registration.shared().terms.load().rules.clone());
        let fresh = fresh_name(rand::random());
        let back = Back {
            received: proving.wanted.received,
            fresh: &fresh,
            asker: proving.opening.asker,
        };
        let returned = self.session.handle_return(back, now);
        let framing = self.session.framing();
        let connected = text_frame(&wrap_for_client(framing, &returned.connected));
        let frames = [connected.as_slice(), &returned.missed].concat();
        if self.down_backlog.push(&frames, usize::MAX).is_err() {
            self.session.close(Disconnect::Overload, now);
        }
        let meters = &self.registration.shared().meters;
        match returned.kind {
            ReturnKind::Resumed => meters.resumed.increment(1),
            ReturnKind::Rebound => meters.rebound.increment(1),
        }
        let entry = self.registration.entry();
        if let Some(name) = self.session.journal().and_then(|journal| journal.session()) {
            self.registration.shared().detached.name(&name, entry.id);
            self.registration
                .shared()
                .recall
                .remember(&name, &streamer, now);
        }
        if let Some(name) = &proving.opening.sockjs_session {
            self.registration
                .shared()
                .recall
                .remember(name, &streamer, now);
        }
        info!(
            target: "access",
            event = "socket_resumed",
            session = %entry.id,
            before = proving.wanted.holder.id().map(tracing::field::display),
            client = %entry.client,
            streamer = streamer.as_str(),
            kind = returned.kind.label(),
            missed = returned.missed_messages,
        );
        entry.set_streamer(streamer);
        self.speak();
    }

    /// What the client sent before it was known which session reads it.
    fn feed_waiting(&mut self, waiting: Vec<String>, now: Instant) {
        let framing = self.session.framing();
        let mut effect = Effect::new(&self.registration, framing, now);
        let passage = self
            .session
            .handle_messages(waiting, &mut turn(&mut effect));
        let replies = effect.replies;
        self.keep_own(None, &replies);
        self.speak();
        let frames = |messages: &[String]| -> Vec<u8> {
            messages
                .iter()
                .flat_map(|message| {
                    masked_text_frame(&wrap_for_streamer(framing, message), rand::random())
                })
                .collect()
        };
        match passage {
            Ok(passage) => {
                let now_frames = frames(&passage.now);
                let later = frames(&passage.later);
                let full = self.up_backlog.push(&now_frames, usize::MAX).is_err()
                    || self.later.push(&later, &self.up_backlog).is_err();
                if full {
                    self.session.close(Disconnect::Overload, now);
                }
            }
            Err(reason) => {
                self.ends.client_deaf = true;
                self.session.close(reason, now);
            }
        }
    }

    /// Sends what the session has to say of its own, between two messages of the client. True when
    /// some of it is for the client, and waits for its place.
    pub(super) fn speak(&mut self) -> bool {
        if !self.session.speaks() || !self.up_pump.at_message_boundary() {
            return false;
        }
        let framing = self.session.framing();
        let spoken = self.session.take_spoken();
        for message in spoken.to_streamer {
            let frame = masked_text_frame(&wrap_for_streamer(framing, &message), rand::random());
            if self.leg.is_some() && !self.ends.leg_told {
                // Over its budget, the process has more to lose than one subscription or pong.
                let _ = self.up_backlog.push(&frame, usize::MAX);
            }
        }
        let any = !spoken.to_client.is_empty();
        for message in spoken.to_client {
            self.keep_own(None, &text_frame(&wrap_for_client(framing, &message)));
        }
        any
    }

    /// Keeps a copy of what is sent where that is of use, and puts fences behind it.
    pub(super) fn guard_tail(&mut self, now: Instant) {
        let has_tail = self.session.has_tail();
        if !has_tail && !self.registration.shared().detached.is_counting()
            || !self.down_pump.at_message_boundary()
        {
            return;
        }
        if !has_tail {
            if self.session.is_keepable() {
                self.session
                    .keep_tail(Backlog::new(self.registration.shared().budget.clone()));
            }
            return;
        }
        if !self.session.settle_tail(now) {
            self.registration
                .shared()
                .meters
                .resume_overflow
                .increment(1);
            self.session.end(Disconnect::SlowConsumer);
            return;
        }
        if self.session.phase() == Phase::Live
            && !self.ends.client_told
            && let Some(payload) = self.session.next_fence()
            && let Ok(ping) = ControlFrame::ping(&payload, None)
        {
            let _ = self.down_backlog.push(ping.as_bytes(), usize::MAX);
        }
    }

    /// Messages of our own for a client that is gone: they are among what it missed.
    pub(super) fn keep_missed(&mut self) {
        if !self.down_pump.at_message_boundary() {
            return;
        }
        let Some(own) = &mut self.own else { return };
        own.pong = None;
        let texts = std::mem::take(&mut own.texts);
        if own.is_empty() {
            self.own = None;
        }
        if !texts.is_empty() {
            self.note_own(&texts);
        }
    }

    /// Whole frames of our own are the next that the client gets.
    pub(super) fn note_own(&mut self, texts: &[u8]) {
        self.session.handle_own_sent(texts);
        let mut tail = self.session.lend_tail();
        if let Some(tail) = &mut tail {
            tail.record(texts);
        }
        self.session.return_tail(tail);
    }
}

/// A session id as streamers give them: the text of a UUID.
fn fresh_name(random: u128) -> String {
    // Version 4, RFC 9562 section 5.4.
    let random = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{random:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

/// For a client to show its token, and for the holder to answer.
const PROVE_WITHIN: Duration = Duration::from_secs(2);

/// The same where the holder is at another gateway and may have to finish something first.
const FETCH_WITHIN: Duration = Duration::from_secs(4);
