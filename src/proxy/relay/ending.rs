//! Frames of the gateway's own, and how a relay ends.

use std::{pin::Pin, task::Context, time::Instant};

use tokio::io::AsyncWrite;

use super::{HELD_BYTES, Stage, State};
use crate::{
    ddp::{self, Framing, wrap_for_client},
    pool::Outcome,
    proxy::{attach::text_frame, pump::Stop},
    session::{Action, Disconnect, Phase, migration::Aborted},
    ws::{CloseCode, CloseFrame, ControlFrame, ControlPayload},
};

impl State {
    /// Keeps frames for the client until they may stand between those of the streamer.
    pub(super) fn keep_own(&mut self, pong: Option<Box<ControlPayload>>, texts: &[u8]) {
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
    pub(super) fn push_up(&mut self, frame: &ControlFrame) {
        if self.leg.is_some() && !self.ends.leg_told && self.up_pump.at_frame_boundary() {
            // A streamer that pings and does not read, or a process out of its budget: the streamer
            // then misses a pong.
            let _ = self.up_backlog.push(frame.as_bytes(), HELD_BYTES);
        }
    }

    pub(super) fn stop_client(&mut self, stop: Stop, now: Instant) {
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

    pub(super) fn stop_leg(&mut self, stop: Stop, now: Instant) {
        match stop {
            Stop::Closed(frame) => {
                self.ends.leg_done = true;
                let reason = match frame.map(|frame| frame.code.0) {
                    None if self.is_forced_out(now) => Disconnect::ForcedLogout,
                    code => Disconnect::StreamerClosed(code),
                };
                self.session.close(reason, now);
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
            Stop::Broken => self.session.end(Disconnect::ClientGone),
        }
    }

    pub(super) fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Fence { shadow, number } => self.push_fence(shadow, number, now),
            Action::Release => self.own.get_or_insert_default().release = true,
            Action::Abandon(why) => self.abandon_move(why),
            Action::Detach => {
                if !self.try_detach(now) {
                    self.session.close(Disconnect::ClientSilent, now);
                }
            }
            Action::Park => {
                if !self.park(now) {
                    self.session.close(Disconnect::Drain, now);
                }
            }
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
            Action::Close(mut reason) => {
                // The news may have come after the leg was cut.
                if reason == Disconnect::StreamerLost && self.is_forced_out(now) {
                    reason = Disconnect::ForcedLogout;
                    self.session.reconsider(reason);
                }
                self.abandon_move(Aborted::Ended);
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

    /// Whether the bus has said that this session is to end.
    pub(super) fn is_forced_out(&self, now: Instant) -> bool {
        let entry = self.registration.entry();
        let logouts = &self.registration.shared().forced_logouts;
        let names = self.session.names(entry.id);
        names.is_some_and(|names| logouts.covers(&names, entry.opened, now))
    }

    /// Says goodbye to the streamer, or leaves without when that would cut a frame in two.
    pub(super) fn close_leg(&mut self, reason: Disconnect) {
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
    pub(super) fn write_own_frames(&mut self, now: Instant) {
        if self.session.phase() == Phase::Detached {
            return self.keep_missed();
        }
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
                    own.texts = Vec::new();
                } else if own.texts.len() > self.buffer as usize {
                    self.session.close(Disconnect::SlowConsumer, now);
                    own.texts = Vec::new();
                }
            }
            if !own.is_empty() {
                self.own = Some(own);
            }
        }
        if let Some(reason) = self.ends.client_due.take() {
            self.push_close(reason);
            self.ends.client_told = true;
        }
    }

    /// A goodbye to the client, between two frames.
    pub(super) fn push_close(&mut self, reason: Disconnect) {
        let close = CloseFrame::new(CloseCode(reason.close_code()), reason.reason());
        let frame = ControlFrame::close(Some(&close), None);
        let _ = self.down_backlog.push(frame.as_bytes(), usize::MAX);
    }

    /// Messages of our own count like those of the streamer: who does not read them is slow.
    pub(super) fn push_texts(&mut self, texts: &[u8], now: Instant) {
        if !self.down_backlog.is_empty() {
            self.down_waiting = self.down_waiting.saturating_add(1);
        }
        if self.down_backlog.len() >= self.buffer as usize {
            self.session.close(Disconnect::SlowConsumer, now);
        } else if self.down_backlog.push(texts, usize::MAX).is_err() {
            self.session.close(Disconnect::Overload, now);
        } else {
            self.note_own(texts);
        }
    }

    /// Ends the session when both sides have said what they had to.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) {
        let Phase::Closing(reason) = self.session.phase() else {
            return;
        };
        let told = self.ends.client_told && self.down_backlog.is_empty();
        // A client that cannot be told, because a frame towards it was cut, is just left.
        let mute = self.ends.client_due.is_some() && self.leg.is_none();
        let client = self.ends.client_done && told || mute;
        let leg = self.leg.is_none() || self.ends.leg_done && self.up_backlog.is_empty();
        if (told || mute) && !self.ends.client_shut {
            self.ends.client_shut = Pin::new(&mut self.down).poll_shutdown(cx).is_ready();
        }
        if self.ends.client_shut && client && leg {
            self.session.end(reason);
        }
    }
}

/// The SockJS heartbeat frame.
const HEARTBEAT: &[u8] = b"h";
