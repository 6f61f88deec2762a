//! How a session gets to another streamer: its second leg, and the switch.

use std::{
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tracing::info;

use super::{Flowed, HELD_BYTES, Leg, READS, STREAMER_MESSAGE_BYTES, Stage, State};
use crate::{
    base::{chunk::with_scratch, id::StreamerId},
    ddp::wrap_for_streamer,
    net::stream::Upstream,
    pool::Permit,
    proxy::{
        attach::masked_text_frame,
        detached::Alias,
        inspect::{Effect, turn},
        outlet::{Lane, Loss, Outlet, Target},
        registry::MoveRefused,
        transfer::{Departure, FromShadow, ShadowLeg, Transfer},
    },
    session::{
        Disconnect, Phase,
        migration::{self, Aborted, Unmovable},
    },
    ws::{CloseCode, CloseFrame, ControlFrame},
};

impl State {
    /// An order to go on at another streamer.
    pub(super) fn begin_move(&mut self, optional: bool, now: Instant) {
        let (Stage::Idle, Some(leg)) = (&self.stage, &self.leg) else {
            let reason = match self.stage {
                Stage::Queueing(_) | Stage::LoggingIn(_) => Unmovable::LoggingIn,
                // It is on its way already.
                Stage::Moving(_) => return,
                _ => Unmovable::NotLive,
            };
            return self.refuse_move(reason.into());
        };
        // One whose client is away is not disturbed, unless its leg has to go.
        let away = self.session.phase() == Phase::Detached;
        if away && !leg.permit.is_borrowed() {
            return self.refuse_move(Unmovable::Resuming.into());
        }
        if let Err(reason) = self.session.begin_move(now) {
            return self.refuse_move(reason.into());
        }
        let departure = Departure {
            shared: self.registration.shared().clone(),
            entry: self.registration.entry().clone(),
            from: leg.permit.streamer().clone(),
            introduction: leg.introduction.clone(),
            optional,
            logs_in: self.session.moves_login(),
        };
        self.stage = Stage::Moving(Box::new(Transfer::begin(departure)));
    }

    /// Does what a move has to do now; true when it stopped for fairness.
    pub(super) fn advance_move(
        &mut self,
        cx: &mut Context<'_>,
        flowed: &mut Flowed,
        now: Instant,
    ) -> bool {
        self.reach(cx, now);
        let again = self.read_shadow(cx, now);
        self.flush_shadow(cx, now);
        if self.session.wants_switch() {
            self.switch(cx, flowed, now);
        }
        again
    }

    /// Messages of the session for the new leg of its move.
    pub(super) fn tell_shadow(&mut self, messages: &[String], now: Instant) {
        let framing = self.session.framing();
        let Stage::Moving(transfer) = &mut self.stage else {
            return;
        };
        let Transfer::Shadowing(leg) = &mut **transfer else {
            return;
        };
        for message in messages {
            let text = wrap_for_streamer(framing, message);
            let frame = masked_text_frame(&text, rand::random());
            if leg.backlog.push(&frame, SHADOW_BYTES).is_err() {
                return self.session.handle_shadow_lost(Aborted::TooMuch, now);
            }
        }
    }

    /// The move is given up, or has no session any more.
    pub(super) fn abandon_move(&mut self, why: Aborted) {
        if let Stage::Moving(_) = self.stage {
            self.stage = Stage::Idle;
            self.refuse_move(why.into());
        }
    }

    /// A ping of the gateway's own, which waits for its place between two messages.
    pub(super) fn push_fence(&mut self, shadow: bool, number: u32, now: Instant) {
        let ping = migration::fence(number);
        if shadow {
            return self.tell_shadow(&[ping], now);
        }
        let text = wrap_for_streamer(self.session.framing(), &ping);
        let frame = masked_text_frame(&text, rand::random());
        self.own.get_or_insert_default().asks.extend(frame);
    }

    /// Writes what waits for a place between two messages of the client.
    pub(super) fn write_asks(&mut self, now: Instant) {
        let Some(own) = &mut self.own else { return };
        if !self.up_pump.at_message_boundary() {
            return;
        }
        let asks = std::mem::take(&mut own.asks);
        let release = std::mem::take(&mut own.release);
        if own.is_empty() {
            self.own = None;
        }
        if self.leg.is_none() || self.ends.leg_told {
            return;
        }
        // A process out of its budget: the fence is late, and with it the move.
        let _ = self.up_backlog.push(&asks, HELD_BYTES * 2);
        // With a login among it, it waits for that login's turn.
        if release && !self.session.wants_login() {
            self.up_pump.promote();
            if self.later.release(&mut self.up_backlog).is_err() {
                self.session.close(Disconnect::Overload, now);
            }
        }
    }

    fn refuse_move(&self, reason: MoveRefused) {
        self.registration
            .shared()
            .meters
            .moves
            .refused(reason)
            .increment(1);
        self.registration.entry().set_move_refused(reason);
    }

    fn reach(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Stage::Moving(transfer) = &mut self.stage else {
            return;
        };
        let Poll::Ready(reached) = transfer.poll_reached(cx) else {
            return;
        };
        let reached = match reached {
            Ok(reached) => reached,
            Err(why) => return self.session.handle_shadow_lost(why, now),
        };
        let session = reached.session.clone();
        let backlog = self.up_backlog.sibling();
        let holder = self.registration.entry().id;
        let alias = Alias::new(self.registration.shared(), &session, holder);
        let (leg, rest) = ShadowLeg::new(reached, alias, backlog, STREAMER_MESSAGE_BYTES);
        **transfer = Transfer::Shadowing(leg);
        let mut effect = Effect::new(&self.registration, self.session.framing(), now);
        self.session
            .handle_shadow_attached(&session, &mut turn(&mut effect));
        let said = effect.shadow;
        self.tell_shadow(&said, now);
        if !rest.is_empty() {
            self.feed_shadow(&rest, cx, now);
        }
    }

    fn read_shadow(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..READS {
            let read = with_scratch(|scratch| {
                let Stage::Moving(transfer) = &mut self.stage else {
                    return false;
                };
                let Transfer::Shadowing(leg) = &mut **transfer else {
                    return false;
                };
                let filled = match leg.stream.poll_fill(cx, scratch) {
                    Poll::Ready(filled) => filled.unwrap_or(0),
                    Poll::Pending => return false,
                };
                if filled == 0 {
                    self.lose_shadow(now);
                    return false;
                }
                self.feed_shadow(&scratch[..filled], cx, now);
                true
            });
            if !read {
                return false;
            }
        }
        true
    }

    fn feed_shadow(&mut self, input: &[u8], cx: &mut Context<'_>, now: Instant) {
        let mut nothing = self.up_backlog.sibling();
        let Stage::Moving(transfer) = &mut self.stage else {
            return;
        };
        let Transfer::Shadowing(leg) = &mut **transfer else {
            return;
        };
        let mut outlet = Outlet {
            target: Target::<Upstream>::Nobody,
            backlog: &mut nothing,
            later: None,
            lane: Lane::Now,
            cx,
            copy: None,
            loss: Loss::Fails,
            taken: 0,
        };
        let mut inspector = FromShadow::default();
        let fed = leg.pump.feed(input, &mut outlet, &mut inspector);
        if let Some(payload) = inspector.pong {
            let pong = ControlFrame::pong_to(&payload, Some(rand::random()));
            let _ = leg.backlog.push(pong.as_bytes(), SHADOW_BYTES);
        }
        for message in &inspector.messages {
            let mut effect = Effect::new(&self.registration, self.session.framing(), now);
            self.session.handle_shadow(message, &mut turn(&mut effect));
            let Effect { shadow, login, .. } = effect;
            if let (Some(outcome), Stage::Moving(transfer)) = (login, &mut self.stage)
                && let Transfer::Shadowing(leg) = &mut **transfer
                && let Some(permit) = leg.login.take()
            {
                permit.finish(outcome, now);
            }
            self.tell_shadow(&shadow, now);
        }
        if fed.is_err() {
            self.lose_shadow(now);
        } else if inspector.too_large {
            self.session.handle_shadow_lost(Aborted::TooMuch, now);
        }
    }

    pub(super) fn flush_shadow(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Stage::Moving(transfer) = &mut self.stage else {
            return;
        };
        let Transfer::Shadowing(leg) = &mut **transfer else {
            return;
        };
        let mut outlet = Outlet {
            target: Target::Stream(&mut leg.stream),
            backlog: &mut leg.backlog,
            later: None,
            lane: Lane::Now,
            cx,
            copy: None,
            loss: Loss::Fails,
            taken: 0,
        };
        if outlet.flush().is_err() {
            self.lose_shadow(now);
        }
    }

    /// The new leg ended before it was in charge. If that is how its streamer logs the session out,
    /// by the name that it has there alone, it is over for the session.
    fn lose_shadow(&mut self, now: Instant) {
        if self.is_forced_out(now) {
            return self.session.close(Disconnect::ForcedLogout, now);
        }
        if let Some(name) = self.session.other_name() {
            let logouts = &self.registration.shared().forced_logouts;
            logouts.leg_cut(self.registration.entry().id, name, now);
        }
        self.session.handle_shadow_lost(Aborted::Unreachable, now);
    }

    /// Puts the new leg in charge, if both directions are between two messages and the old leg has
    /// all that is meant for it.
    fn switch(&mut self, cx: &mut Context<'_>, flowed: &mut Flowed, now: Instant) {
        let ready = self.up_pump.at_message_boundary()
            && self.up_backlog.is_empty()
            && self.down_pump.at_message_boundary()
            && !self.ends.leg_done
            && !self.ends.leg_told;
        let (true, Some(old)) = (ready, self.leg.take()) else {
            return;
        };
        let Stage::Moving(transfer) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            self.leg = Some(old);
            return;
        };
        let leg = match *transfer {
            Transfer::Shadowing(leg) => leg,
            Transfer::Reaching(_) => {
                self.stage = Stage::Moving(transfer);
                self.leg = Some(old);
                return;
            }
        };
        let Leg {
            stream,
            permit,
            introduction,
        } = old;
        let from = permit.streamer().id.clone();
        let to = leg.permit.streamer().id.clone();
        if permit.is_borrowed() {
            let entry = self.registration.entry();
            self.registration.shared().handover.settle(entry.id);
        }
        let goodbye = say_goodbye(stream, permit);
        self.registration.shared().tasks.spawn(goodbye);
        self.leg = Some(Leg {
            stream: leg.stream,
            permit: leg.permit,
            introduction,
        });
        self.down_pump = leg.pump;
        self.up_backlog = leg.backlog;

        let mut effect = Effect::new(&self.registration, self.session.framing(), now);
        self.session.handle_switched(&mut turn(&mut effect));
        let replies = effect.replies;
        self.keep_own(None, &replies);
        // Before anything that the new leg says.
        self.write_own_frames(now);
        self.up_pump.promote();
        if self.later.release(&mut self.up_backlog).is_err() {
            self.session.close(Disconnect::Overload, now);
        }
        self.note_moved(&from, to, now);
        self.flush(cx, flowed, now);
    }

    /// Tells those who look that the session is somewhere else now.
    fn note_moved(&self, from: &StreamerId, to: StreamerId, now: Instant) {
        let shared = self.registration.shared();
        let entry = self.registration.entry();
        shared.meters.moves.moved.increment(1);
        if let Some(session) = self.session.journal().and_then(|journal| journal.session()) {
            shared.recall.remember(&session, &to, now);
        }
        info!(
            target: "access",
            event = "session_moved",
            session = %entry.id,
            client = %entry.client,
            from = %from,
            to = %to,
        );
        entry.set_streamer(to);
    }
}

/// The session has left: an orderly end, so that the streamer takes it for one.
async fn say_goodbye(mut stream: Upstream, permit: Permit) {
    let close = CloseFrame::new(CloseCode(1000), "");
    let frame = ControlFrame::close(Some(&close), Some(rand::random()));
    let goodbye = async {
        stream.write_all(frame.as_bytes()).await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever comes of it, the socket is closed.
    let _ = timeout(GOODBYE, goodbye).await;
    drop(permit);
}

/// Bytes that may wait for the new leg.
const SHADOW_BYTES: usize = 256 * 1024;

const GOODBYE: Duration = Duration::from_secs(2);
