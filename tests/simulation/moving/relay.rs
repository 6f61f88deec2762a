//! The relay's part: the session between its client and its legs.

use std::time::Duration;

use ddp_gateway::{
    ddp::{message::PING, wrap_for_streamer},
    session::{
        Action,
        migration::{Aborted, fence},
    },
};
use serde_json::Value;

use super::{
    bus::key_of,
    checks::is_event,
    world::{Event, World},
};
use crate::{
    client::Text,
    ledger::messages,
    wire::{Down, Up},
};

impl World {
    /// A text of the client's, behind those that wait.
    pub(crate) fn sends(&mut self, text: Vec<u8>) {
        self.outbox.push_back(text);
        self.client_speaks();
    }

    /// All that is there is read at once; only then is done what the session wants.
    fn client_speaks(&mut self) {
        while !self.wire.client_is_half_through() && self.wire.session.reads_client() {
            let Some(bytes) = self.outbox.pop_front() else {
                return;
            };
            self.shows("client:", &bytes);
            let length = u32::try_from(bytes.len()).expect("small");
            let text = Text {
                bytes,
                ..Text::default()
            };
            match self.wire.begin_client(text, self.now) {
                Some(up) => self.judged(&up),
                None => {
                    let soon = self.plan.dice.time(Duration::from_millis(30));
                    self.at(soon, Event::ClientEnds);
                }
            }
            self.wire.session.handle_client_input(1, length, self.now);
        }
    }

    pub(crate) fn client_ends(&mut self) {
        let up = self.wire.end_client(self.now);
        self.judged(&up);
        self.client_speaks();
    }

    fn judged(&mut self, up: &Up) {
        assert_eq!(up.close, None, "nothing is wrong with what it says");
        if self.wire.session.is_moving() {
            self.tally.messages_held += up.later.len() as u64;
        }
    }

    /// What the streamer wrote is there.
    pub(crate) fn comes_down(&mut self, number: usize) {
        loop {
            let in_charge = number == self.leg();
            if in_charge && self.wire.streamer_is_half_through() {
                return;
            }
            let leg = &mut self.legs[number];
            if leg.closed {
                return;
            }
            let Some(text) = leg.down.pop(self.now) else {
                return;
            };
            if in_charge {
                self.shows("old:", &text);
                let passing = messages(self.plan.framing, &text);
                self.counts(number, &passing);
                self.tally.batches += u64::from(passing.len() > 1);
                self.tally.large += u64::from(text.len() > 512);
                self.passing = passing;
                self.wire.session.handle_streamer_input(self.now);
                let down = self.wire.begin_streamer(text, self.now);
                if self.wire.streamer_is_half_through() {
                    let soon = self.plan.dice.time(Duration::from_millis(30));
                    return self.at(soon, Event::DownEnds(number));
                }
                self.passed(number, &down);
            } else if self.shadow == Some(number) {
                self.shows("new:", &text);
                self.shadowed(&text);
            }
            self.follow();
        }
    }

    /// For a reader of the trace.
    fn counts(&self, number: usize, messages: &[Value]) {
        for message in messages.iter().filter(|message| is_event(message)) {
            let (key, _) = key_of(message);
            self.says(&format!("  event {key} of leg {number}"));
        }
    }

    pub(crate) fn down_ends(&mut self, number: usize) {
        if self.legs[number].closed || !self.wire.streamer_is_half_through() {
            return;
        }
        let down = self.wire.end_streamer(self.now);
        self.passed(number, &down);
        self.follow();
        self.comes_down(number);
    }

    /// The leg in charge brought something.
    fn passed(&mut self, number: usize, down: &Down) {
        let came = std::mem::take(&mut self.passing);
        let framing = self.plan.framing;
        let texts = down.to_client.iter();
        let got: Vec<Value> = texts.flat_map(|text| messages(framing, text)).collect();
        for text in &down.to_client {
            self.shows("  to the client:", text);
        }
        self.check_passed(number, came, &got);
        for message in &got {
            self.gets(message, false);
        }
    }

    /// The client gets a message.
    pub(crate) fn gets(&mut self, message: &Value, switches: bool) {
        self.check_named(message);
        self.client
            .receive(message, switches, self.now, &mut self.tally);
        if message["msg"] == "ping" {
            let soon = self.plan.dice.time(Duration::from_millis(50));
            self.at(soon, Event::Pong);
        }
    }

    /// The new leg brought something: the client gets none of it.
    fn shadowed(&mut self, text: &[u8]) {
        let number = self.shadow.expect("there is one");
        let came = messages(self.plan.framing, text);
        self.counts(number, &came);
        for message in came {
            self.login_refused |= message["error"]["error"] == 403;
            let names = self.names();
            self.legs[number].brought(&message, &names, &self.client.session);
        }
        if text.len() > LARGEST {
            return self
                .wire
                .session
                .handle_shadow_lost(Aborted::TooMuch, self.now);
        }
        let replies = self.wire.feed_shadow(text, self.now);
        assert!(replies.is_empty(), "the new leg speaks: {replies:?}");
    }

    /// What a relay does at the end of a pass.
    pub(crate) fn follow(&mut self) {
        loop {
            self.pump();
            let Some(action) = self.wire.session.poll_action() else {
                break;
            };
            self.says(&format!("{action:?}"));
            match action {
                Action::Detach | Action::Park => panic!("nothing is kept here"),
                Action::PingClient => {
                    self.wire.session.handle_client_input(1, 6, self.now);
                }
                Action::PingStreamer => self.wire.session.handle_streamer_input(self.now),
                Action::KeepAlive => self.wire.tell(PING),
                Action::Close(reason) | Action::End(reason) => {
                    self.closed.get_or_insert(reason);
                    self.broken = true;
                }
                Action::Abandon(why) => self.abandons(why),
                Action::Release => {
                    self.tally.released += u64::from(!self.wire.later.is_empty());
                    self.wire.let_go();
                }
                Action::Fence { shadow, number } => self.fences(shadow, number),
            }
        }
        let session = &self.wire.session;
        if session.wants_login() && !self.login_due {
            self.login_due = true;
            let wait = self.plan.dice.time(Duration::from_millis(800));
            self.at(wait, Event::LoginTurn);
        }
        if self.wire.session.wants_switch() && !self.switch_due {
            self.switch_due = true;
            let wait = self.plan.dice.time(Duration::from_millis(20));
            self.at(wait, Event::Switch);
        }
    }

    fn pump(&mut self) {
        let old = self.leg();
        while let Some(text) = self.wire.up.pop_front() {
            self.shows("  to the old:", &text);
            self.up(old, text);
        }
        while let Some(json) = self.wire.shadow.pop_front() {
            self.shows("  to the new:", json.as_bytes());
            let Some(new) = self.shadow else {
                panic!("{json} for a leg that there is not");
            };
            let text = wrap_for_streamer(self.plan.framing, &json);
            self.up(new, text);
        }
        for text in self.wire.own() {
            self.shows("  own:", &text);
            for message in messages(self.plan.framing, &text) {
                self.gets(&message, false);
            }
        }
    }

    /// A ping of the gateway's own.
    fn fences(&mut self, shadow: bool, number: u32) {
        self.pump();
        let leg = match shadow {
            true => self.shadow.expect("there is a new leg"),
            false => self.leg(),
        };
        let text = wrap_for_streamer(self.plan.framing, &fence(number));
        self.up(leg, text);
    }

    fn up(&mut self, number: usize, text: Vec<u8>) {
        if self.legs[number].closed {
            return;
        }
        let lag = self.plan.lag[self.legs[number].streamer] / 2;
        let lag = self.plan.dice.time(lag);
        let at = self.legs[number].up.push(text, self.now, lag);
        self.when(at, Event::Up(number));
    }

    pub(crate) fn login_turn(&mut self) {
        self.login_due = false;
        if self.wire.session.wants_login() {
            self.wire.release();
        }
    }
}

/// A message that a relay does not put together.
const LARGEST: usize = 64 * 1024;
