//! Orders to move, what goes wrong on the way, and the switch.

use std::time::{Duration, Instant};

use ddp_gateway::session::{
    Disconnect, LoginState, Phase,
    migration::{Aborted, Unmovable},
};
use serde_json::{Value, json};

use super::{
    bus::{USER, What},
    leg::Leg,
    plan::{Fault, Obstacle},
    world::{Event, Moving, World},
};

impl World {
    /// The operator wants the session elsewhere.
    pub(crate) fn moves(&mut self) {
        self.meets_obstacle();
        if self.wire.client_is_half_through() || !self.outbox.is_empty() {
            // What the client thinks to have said is not all said.
            return self.at(Duration::from_millis(2), Event::Move);
        }
        let prevented = self.prevented();
        let before = self.phase();
        let began = self.wire.session.begin_move(self.now);
        self.says(&format!("the order to move: {began:?}"));
        match began {
            Ok(()) => {
                assert!(!prevented, "it must not be moved");
                let journal = self.wire.session.journal().expect("it is live");
                let logged_in = journal.user().is_some();
                assert_eq!(self.wire.session.moves_login(), logged_in);
                self.starts();
            }
            Err(Unmovable::NotLive) if before == Phase::Live => {
                assert!(self.settles() || self.client.leaves(), "it is live");
                self.tally.settling += 1;
                self.at(Duration::from_millis(400), Event::Move);
            }
            Err(why) => {
                assert!(prevented, "it can be moved: {why:?}");
                match why {
                    Unmovable::NotLive => assert_ne!(before, Phase::Live),
                    Unmovable::LoggingIn => {
                        assert_eq!(self.wire.session.login_state(), LoginState::Under);
                    }
                    Unmovable::Writing => assert!(self.client.writes()),
                    _ => {}
                }
                let tally = &mut self.tally;
                *match why {
                    Unmovable::NotLive => &mut tally.not_live,
                    Unmovable::LoggingIn => &mut tally.logging_in,
                    Unmovable::NoToken => &mut tally.no_token,
                    Unmovable::Livechat => &mut tally.livechat,
                    Unmovable::UnknownPublication => &mut tally.unknown_publication,
                    Unmovable::JournalFull => &mut tally.journal_full,
                    Unmovable::Unseen => &mut tally.unseen,
                    Unmovable::Writing => &mut tally.writing,
                    Unmovable::Odd | Unmovable::Resuming => panic!("{why:?}"),
                } += 1;
                if before != Phase::Live {
                    return;
                }
                match self.tries_again() {
                    true => self.at(Duration::from_millis(400), Event::Move),
                    false => self.moves_on(),
                }
            }
        }
    }

    /// The client does what makes it unmovable, once.
    fn meets_obstacle(&mut self) {
        if self.phase() != Phase::Live || std::mem::replace(&mut self.obstacle_met, true) {
            return;
        }
        match self.plan.obstacle {
            Some(Obstacle::UnknownPublication) => {
                let params = json!(["R4", {"args": []}]);
                let name = "stream-of-a-later-version";
                let sub = self.client.sub("unknown", name, &params, self.now);
                self.says_all(&[sub]);
            }
            Some(Obstacle::Unseen) => {
                let call = self.client.unseen();
                self.says_all(&[call]);
            }
            Some(Obstacle::JournalFull) => {
                let params = json!(["R3", {"args": [], "pad": "x".repeat(60_000)}]);
                for id in ["long1", "long2"] {
                    let sub = self.client.sub(id, "stream-room-data", &params, self.now);
                    self.says_all(&[sub]);
                }
            }
            _ => {}
        }
    }

    fn starts(&mut self) {
        let fault = self.fault();
        self.tally.begun += 1;
        self.moving = Some(Moving {
            began: self.now,
            reached: None,
            fault,
        });
        let pace = match self.wire.session.moves_login() && self.plan.dice.chance(30) {
            true => self.plan.dice.time(Duration::from_secs(2)),
            false => Duration::ZERO,
        };
        let dial = self.plan.dice.time(Duration::from_millis(60));
        if fault != Some(Fault::DialHangs) {
            self.at(pace + dial, Event::Dialled(self.now));
        }
        let Some(fault) = fault else { return };
        let longest = *self.plan.dice.pick(&[200, 1_000, 3_000]);
        let wait = self.plan.dice.time(Duration::from_millis(longest));
        let number = self.legs.len();
        match fault {
            Fault::NewLost => self.at(pace + dial + wait, Event::Fault(fault, number)),
            Fault::OldLost
            | Fault::OldHangs
            | Fault::OldCloses
            | Fault::ClientGone
            | Fault::Drained
            | Fault::LogsIn
            | Fault::LogsOut
            | Fault::Huge
            | Fault::Flood
            | Fault::Flooded => self.at(wait, Event::Fault(fault, number)),
            Fault::DialFails
            | Fault::DialHangs
            | Fault::LoginRefused
            | Fault::LoginFails
            | Fault::LoginHangs
            | Fault::Refused(_) => {}
        }
    }

    pub(crate) fn dialled(&mut self, began: Instant) {
        let Some(moving) = &mut self.moving else {
            return;
        };
        if moving.began != began {
            return;
        }
        moving.reached = Some(self.now);
        let fault = moving.fault;
        if fault == Some(Fault::DialFails) {
            let why = Aborted::Unreachable;
            return self.wire.session.handle_shadow_lost(why, self.now);
        }
        let number = self.legs.len();
        let other = 1 - self.legs[self.leg()].streamer;
        let mut leg = Leg::new(number, other, self.plan.framing);
        if let Some(Fault::Refused(refusal)) = fault {
            leg.refuses = Some((self.plan.dice.below(4), refusal));
        }
        let session = leg.session.clone();
        self.legs.push(leg);
        self.shadow = Some(number);
        self.at(Duration::from_millis(30), Event::StreamerPings(number));
        let replies = self.wire.attach_shadow(&session, self.now);
        assert!(replies.is_empty(), "the new leg speaks: {replies:?}");
    }

    pub(crate) fn fails(&mut self, fault: Fault, number: usize) {
        let now = self.now;
        let session = &mut self.wire.session;
        match fault {
            Fault::NewLost if self.shadow == Some(number) => {
                session.handle_shadow_lost(Aborted::Unreachable, now);
            }
            Fault::OldLost if self.moving.is_some() => {
                self.tally.old_lost += 1;
                self.broken = true;
                let delay = self.plan.dice.time(Duration::from_secs(1));
                session.handle_leg_lost(delay, now);
                let old = self.leg();
                self.legs[old].closed = true;
                self.wire.lose_streamer();
                // The relay has nobody any more to whom the new leg could belong.
                if let Some(new) = self.shadow.take() {
                    self.legs[new].closed = true;
                }
                self.moving = None;
            }
            Fault::OldHangs if self.moving.is_some() => {
                self.hanging = Some(self.leg());
                self.broken = true;
            }
            Fault::OldCloses if self.moving.is_some() => {
                self.tally.old_closed += 1;
                session.close(Disconnect::StreamerClosed(Some(1001)), now);
            }
            Fault::ClientGone if self.moving.is_some() => {
                self.tally.client_gone += 1;
                session.end(Disconnect::ClientGone);
            }
            Fault::Drained if self.moving.is_some() => {
                self.tally.drained += 1;
                let delay = self.plan.dice.time(Duration::from_secs(2));
                session.handle_order(Disconnect::Drain, delay, now);
                self.broken = true;
            }
            Fault::LogsIn | Fault::LogsOut if self.moving.is_some() => {
                let (logs_in, logged_in) = (fault == Fault::LogsIn, self.plan.logs_in);
                if !logs_in && !logged_in {
                    return;
                }
                let ask = match logs_in {
                    true => self.client.login(true),
                    false => self.client.call("logout", &json!([])),
                };
                match logs_in {
                    true => self.tally.logged_in_while_moving += 1,
                    false => self.tally.logged_out_while_moving += 1,
                }
                self.says_all(&[ask]);
            }
            Fault::Huge => {
                let what = What::Plain { size: 70_000 };
                let event = format!("{USER}/rooms-changed");
                self.publish(what, "stream-notify-user", event);
            }
            Fault::Flood | Fault::Flooded => {
                let old = self.leg();
                self.legs[old].down.stall(now, Duration::from_secs(4));
                let (count, size) = match fault {
                    Fault::Flood => (700, 0),
                    _ => (20, 30_000),
                };
                for _ in 0..count {
                    let what = What::Plain { size };
                    let event = format!("{USER}/rooms-changed");
                    self.publish(what, "stream-notify-user", event);
                }
            }
            _ => {}
        }
    }

    /// The streamer closes the socket behind the answer to `logout`.
    pub(crate) fn closes(&mut self, number: usize) {
        if number == self.leg() && !self.legs[number].down.is_empty() {
            return self.at(Duration::from_millis(1), Event::Closes(number));
        }
        if number == self.leg() {
            let reason = Disconnect::StreamerClosed(Some(1002));
            self.wire.session.close(reason, self.now);
        }
    }

    pub(crate) fn abandons(&mut self, why: Aborted) {
        let tally = &mut self.tally;
        match why {
            Aborted::Busy => tally.busy += 1,
            Aborted::Unreachable => tally.unreachable += 1,
            Aborted::LoginFailed => tally.login_failed += 1,
            Aborted::SubRefused => tally.sub_refused += 1,
            Aborted::TooMuch => tally.too_much += 1,
            Aborted::Late => tally.late += 1,
            Aborted::Ended => {}
        }
        self.check_abandoned(why);
        if let Some(new) = self.shadow.take() {
            self.legs[new].closed = true;
        }
        self.wire.shadow.clear();
        self.moving = None;
        self.switch_due = false;
        self.moves_on();
    }

    /// The relay's own conditions: both directions stand between two messages.
    pub(crate) fn switches(&mut self) {
        self.switch_due = false;
        if self.wire.streamer_passes() || !self.wire.session.wants_switch() {
            return;
        }
        let old = self.leg();
        let new = self.shadow.take().expect("there is a new leg");
        self.check_switch(old, new);
        let replies = self.wire.switch(self.now);
        self.says("switched");
        self.charge.push((self.now, new));
        self.legs[old].closed = true;
        self.legs[new].refuses = None;
        self.moving = None;
        let replies: Vec<Value> = replies
            .iter()
            .map(|json| serde_json::from_str(json).expect("JSON"))
            .collect();
        self.check_told(new, &replies);
        for message in &replies {
            self.says(&format!("  at the switch: {message}"));
            self.gets(message, true);
        }
        self.tally.moved += 1;
        self.tally.away_moved += u64::from(self.legs[new].away);
        let first = self.legs[0].streamer;
        self.tally.returned += u64::from(old != 0 && self.legs[new].streamer == first);
        self.wire.let_go();
        self.passing.clear();
        self.moves_on();
        self.check_switched(new);
    }
}
