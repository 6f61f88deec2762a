//! One run: who does what next, and when.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    ddp::message::PING,
    session::{Action, Disconnect, Phase, Quotas, Rules, Session, limits::Over},
};

use crate::{
    client::{Client, Ids},
    ledger::Ledger,
    plan::{self, Plan, Theme},
    streamer::Streamer,
    tally::Tally,
    wire::{Down, Up, Wire},
};

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) wire: Wire,
    pub(crate) ledger: Ledger,
    client: Client,
    streamer: Streamer,
    pub(crate) tally: Tally,
    pub(crate) rules: Rules,
    pub(crate) times: Times,
    /// The streamer's side of the leg is open.
    leg: bool,
    /// The client waits in the queue for logins.
    ticket: bool,
    /// The client neither speaks nor answers any more.
    silent: bool,
    /// The client's pong is on its way.
    pong_at: Option<Instant>,
    trace: bool,
}

/// What happened when.
pub(crate) struct Times {
    start: Instant,
    pub(crate) now: Instant,
    /// Timers were looked at too late, so upper bounds do not hold.
    pub(crate) late: bool,
    /// Bytes of the client were read, or it was not read at all.
    pub(crate) client_heard: Instant,
    /// The client was pinged after that.
    pub(crate) pinged: Option<Instant>,
    /// The client got something.
    pub(crate) client_told: Instant,
    /// The client began to wait for `connected` or for its turn.
    pub(crate) waiting: Option<Instant>,
    pub(crate) rules_changed: Instant,
    /// The client does not take what waits for it, since then.
    pub(crate) stalled: Option<Instant>,
    /// The latest moment at which the session must have begun to close.
    pub(crate) doom: Option<Instant>,
    pub(crate) closed: Option<(Disconnect, Instant)>,
}

impl World {
    pub(crate) fn new(mut plan: Plan, trace: bool) -> Self {
        let now = Instant::now();
        let session = Session::new(plan.framing, Arc::new(plan.rules), now);
        let quotas = Quotas::new(plan.dice.draw(), now);
        let ids = match plan.theme {
            Theme::Nasty => Ids::None,
            _ if plan.reuses_ids => Ids::InFlight,
            _ => Ids::Finished,
        };
        Self {
            wire: Wire::new(session, quotas),
            ledger: Ledger::new(plan.framing),
            client: Client::new(ids),
            streamer: Streamer::new(plan.framing, plan.nasty),
            tally: Tally::default(),
            rules: plan.rules,
            times: Times::new(now),
            leg: false,
            ticket: false,
            silent: false,
            pong_at: None,
            trace,
            plan,
        }
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..self.plan.steps {
            self.step();
            self.check();
            if self.times.closed.is_some() {
                break;
            }
        }
        if self.times.closed.is_none() {
            self.settle();
        }
        self.finish();
    }

    pub(crate) fn phase(&self) -> Phase {
        self.wire.session.phase()
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    fn step(&mut self) {
        let phase = self.phase();
        let reads = self.wire.session.reads_client() && !self.silent;
        let half = self.wire.client_is_half_through();
        let half_down = self.wire.streamer_is_half_through();
        let may = |is: bool, weight: usize| if is { weight } else { 0 };
        let speaks = reads && !half && !(phase == Phase::Greeting && self.plan.no_connect);
        let breaks = self.plan.breaks;
        let weights = [
            may(speaks, 40),
            may(reads && half, 30),
            may(phase == Phase::Attaching, 6),
            may(self.leg && !self.wire.up.is_empty(), 40),
            may(self.leg, 25 * self.plan.diligence / 100),
            may(self.leg, 8),
            may(self.leg && !self.streamer.down.is_empty() && !half_down, 50),
            may(half_down, 30),
            may(self.ticket, 8),
            15,
            may(self.plan.theme == Theme::Limited || breaks, 1),
            may(breaks, 1),
        ];
        match self.plan.dice.weighed(&weights) {
            0 => self.client_speaks(),
            1 => self.client_ends(),
            2 => self.attach(),
            3 => self.streamer_reads(),
            4 => self.streamer.work(&mut self.plan.dice, &mut self.tally),
            5 => self.streamer.chat(&mut self.plan.dice, &mut self.tally),
            6 => self.streamer_speaks(),
            7 => self.streamer_ends(),
            8 => self.grant(),
            9 => self.pass_time(),
            10 => self.change_rules(),
            _ => self.break_something(),
        }
        self.act();
    }

    fn client_speaks(&mut self) {
        let phase = self.phase();
        let odd = self.plan.no_connect;
        let text = match phase {
            Phase::Greeting if odd => self.client.no_greeting(&mut self.plan, &self.ledger),
            Phase::Greeting => self.client.greeting(&mut self.plan, &self.ledger),
            _ => self.client.next(&mut self.plan, &self.ledger),
        };
        if self.trace {
            let start = String::from_utf8_lossy(&text.bytes[..text.bytes.len().min(150)]);
            self.say(&format!("client, {} bytes: {start}", text.bytes.len()));
        }
        let bytes = text.bytes.len().min(512);
        let up = self.wire.begin_client(text, self.times.now);
        if let Some(up) = up {
            self.judged(&up);
        }
        self.client_was_read(1, bytes);
    }

    fn client_ends(&mut self) {
        let up = self.wire.end_client(self.times.now);
        let bytes = up.text.bytes.len().saturating_sub(512);
        self.judged(&up);
        self.client_was_read(0, bytes);
    }

    fn judged(&mut self, up: &Up) {
        if self.trace {
            let (now, later) = (up.now.len(), up.later.len());
            self.say(&format!(
                "  {now} pass, {later} wait, {:?}, {:?}",
                up.replies, up.close
            ));
        }
        let was = up.phase.expect("the phase is known");
        let judges = matches!(was, Phase::Greeting | Phase::Attaching | Phase::Live);
        self.ledger.judged(up, &mut self.tally);
        self.tally.batches += u64::from(up.text.asks.len() > 1);
        self.tally.assembled += u64::from(up.text.bytes.len() > 512);
        match (up.close, up.text.fault) {
            (Some(reason), Some(fault)) if judges => {
                assert_eq!(reason, fault);
                self.tally.malformed += 1;
            }
            (Some(reason), None) if judges => {
                assert_eq!(reason, Disconnect::RateAbuse);
                assert!(up.notes.contains(&ddp_gateway::session::Note::Penalised));
                self.tally.abuse += 1;
            }
            (None, Some(fault)) if judges => {
                panic!(
                    "{} must end with {fault:?}",
                    String::from_utf8_lossy(&up.text.bytes)
                );
            }
            _ => {}
        }
        if let Some(reason) = up.close {
            self.wire.session.close(reason, self.times.now);
        }
    }

    /// Bytes of the client came in.
    fn client_was_read(&mut self, frames: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("small");
        let over = self
            .wire
            .session
            .handle_client_input(frames, bytes, self.times.now);
        self.times.client_heard = self.times.now;
        self.times.pinged = None;
        if let Some(Over::Messages | Over::Bytes) = over {
            self.tally.held_back += 1;
            assert!(!self.wire.session.reads_client(), "held back and read");
        }
    }

    fn attach(&mut self) {
        if self.plan.breaks && self.plan.dice.chance(5) {
            self.wire
                .session
                .close(Disconnect::NoCapacity, self.times.now);
            return;
        }
        self.say("attached");
        let id = "9f1b7c10-5f0e-11ef-9a53-0242ac120002";
        self.wire.session.handle_attached(id, self.times.now);
        self.times.client_told = self.times.now;
        self.leg = true;
    }

    fn streamer_reads(&mut self) {
        if let Some(text) = self.wire.up.pop_front() {
            self.streamer.receive(&text);
        }
    }

    fn streamer_speaks(&mut self) {
        let Some(text) = self.streamer.down.pop_front() else {
            return;
        };
        if self.trace {
            let start = String::from_utf8_lossy(&text[..text.len().min(150)]);
            self.say(&format!("streamer, {} bytes: {start}", text.len()));
        }
        self.wire.session.handle_streamer_input(self.times.now);
        let down = self.wire.begin_streamer(text, self.times.now);
        self.fed(&down);
    }

    fn streamer_ends(&mut self) {
        let down = self.wire.end_streamer(self.times.now);
        self.fed(&down);
    }

    fn fed(&mut self, down: &Down) {
        if self.times.closed.is_some() {
            assert!(!down.forwards, "something passes behind the goodbye");
            return;
        }
        self.ledger.fed(down, &mut self.tally);
        for text in &down.to_client {
            if self.trace {
                let start = String::from_utf8_lossy(&text[..text.len().min(150)]);
                self.say(&format!("  to the client: {start}"));
            }
            self.ledger.delivered(text);
            self.times.client_told = self.times.now;
        }
        if self.plan.nasty.grouped {
            self.tally.grouped += u64::from(down.to_client.len() > 1);
        }
    }

    fn grant(&mut self) {
        self.ticket = false;
        if !self.wire.session.wants_login() {
            return;
        }
        self.say("its turn");
        self.ledger.released(&mut self.tally);
        self.wire.release();
    }

    fn change_rules(&mut self) {
        self.rules = plan::rules(self.plan.theme == Theme::Limited, &mut self.plan.dice);
        self.say(&format!("new rules: {:?}", self.rules.timeouts));
        self.wire.session.handle_rules(Arc::new(self.rules));
        self.times.rules_changed = self.times.now;
        self.tally.rules_changed += 1;
    }

    fn break_something(&mut self) {
        let now = self.times.now;
        let live = self.phase() == Phase::Live;
        match self.plan.dice.below(7) {
            0 if live => {
                self.say("the leg is lost");
                let delay = self.plan.dice.time(Duration::from_secs(1));
                self.wire.session.handle_leg_lost(delay, now);
                self.tally.lost += 1;
                self.doomed(delay);
                self.lose_leg();
            }
            1 => {
                let delay = self.plan.dice.time(Duration::from_secs(20));
                self.say(&format!("an order to end in {delay:?}"));
                self.wire
                    .session
                    .handle_order(Disconnect::Drain, delay, now);
                self.tally.drained += 1;
                self.doomed(delay);
            }
            2 if live => {
                let code = *self.plan.dice.pick(&[Some(4000), Some(1002), None]);
                let reason = Disconnect::StreamerClosed(code);
                self.wire.session.close(reason, now);
                self.tally.streamer_closed += 1;
            }
            3 => {
                self.wire.session.end(Disconnect::ClientGone);
                self.tally.client_gone += 1;
            }
            4 => {
                self.say("the client is silent from here on");
                self.silent = true;
            }
            5 if self.times.stalled.is_none() => {
                self.say("the client takes nothing");
                self.times.stalled = Some(now);
                self.wire.session.handle_client_output(true, false, now);
            }
            _ => {
                // It takes some of it, or all.
                let waiting = self.plan.dice.chance(50) && self.times.stalled.is_some();
                self.times.stalled = waiting.then_some(now);
                self.wire.session.handle_client_output(waiting, true, now);
            }
        }
    }

    fn doomed(&mut self, delay: Duration) {
        let at = self.times.now + delay;
        let before = self.times.doom.unwrap_or(at);
        self.times.doom = Some(before.min(at));
    }

    fn lose_leg(&mut self) {
        self.leg = false;
        self.ticket = false;
        self.wire.lose_streamer();
    }

    fn pass_time(&mut self) {
        let long = self.plan.dice.chance(10);
        let most = if long {
            Duration::from_secs(40)
        } else {
            self.plan.pause
        };
        let target = self.times.now + self.plan.dice.time(most);
        if self.plan.late && self.plan.dice.chance(30) {
            self.say("a look at the clock that comes late");
            self.times.late = true;
            self.tally.late_clock += 1;
            self.times.now = target;
            self.expire();
            return;
        }
        self.pass_until(target);
    }

    /// Lets time pass, and each timer and pong come at its time.
    fn pass_until(&mut self, target: Instant) {
        loop {
            let due = [self.wire.session.next_timeout(), self.pong_at];
            let next = due.into_iter().flatten().min();
            let wake = next.map_or(target, |next| next.min(target));
            self.times.now = self.times.now.max(wake);
            self.expire();
            self.check();
            if wake == target || self.times.closed.is_some() {
                return;
            }
        }
    }

    fn expire(&mut self) {
        let now = self.times.now;
        if self.pong_at.is_some_and(|at| at <= now) && self.wire.session.reads_client() {
            self.client_was_read(1, 6);
            self.pong_at = None;
        } else if self.pong_at.is_some_and(|at| at <= now) {
            // It is read when the client is.
            self.pong_at = Some(now + Duration::from_millis(100));
        }
        if self.wire.session.next_timeout().is_some_and(|at| at <= now) {
            self.wire.session.handle_timeout(now);
            let next = self.wire.session.next_timeout();
            assert!(
                next.is_none_or(|next| next > now),
                "a timer that does not move"
            );
        }
        if self.times.stalled.is_some() {
            self.wire.session.handle_client_output(true, false, now);
        }
        self.act();
    }

    /// What the relay does at the end of a pass.
    fn act(&mut self) {
        let now = self.times.now;
        let mut closes = None;
        while let Some(action) = self.wire.session.poll_action() {
            self.say(&format!("{action:?}"));
            match action {
                Action::PingClient => {
                    self.tally.client_pings += 1;
                    self.times.pinged = Some(now);
                    self.times.client_told = now;
                    if !self.silent {
                        let wait = self.plan.dice.time(self.rules.timeouts.idle / 4);
                        self.pong_at.get_or_insert(now + wait);
                    }
                }
                Action::PingStreamer => {
                    self.tally.streamer_pings += 1;
                    self.wire.session.handle_streamer_input(now);
                }
                Action::KeepAlive => {
                    self.tally.keep_alives += 1;
                    self.wire.tell(PING);
                }
                Action::Close(reason) | Action::End(reason) => closes = Some(reason),
                Action::Detach
                | Action::Park
                | Action::Fence { .. }
                | Action::Release
                | Action::Abandon(_) => {
                    panic!("nothing moves or is kept here: {action:?}")
                }
            }
        }
        if self.times.closed.is_none() {
            for text in self.wire.own() {
                self.ledger.delivered(&text);
                self.times.client_told = now;
            }
        }
        if let Some(reason) = closes
            && self.times.closed.is_none()
        {
            self.check_reason(reason);
            self.times.closed = Some((reason, now));
            self.lose_leg();
        }
        if !self.ticket && self.leg && self.wire.session.wants_login() {
            self.ticket = true;
        }
        let waits = match self.phase() {
            Phase::Attaching => true,
            Phase::Live => !self.ledger.held_logins.is_empty(),
            _ => false,
        };
        self.times.waiting = match self.times.waiting {
            Some(since) if waits => Some(since),
            _ => waits.then_some(now),
        };
        if self.leg && self.streamer.closes && self.streamer.is_idle_after_logout() {
            let reason = Disconnect::StreamerClosed(Some(1002));
            self.wire.session.close(reason, now);
            self.leg = false;
            self.act();
        }
    }

    /// Nothing is asked for any more: what was has to be answered.
    fn settle(&mut self) {
        self.say("settling");
        self.times.stalled = None;
        self.wire
            .session
            .handle_client_output(false, true, self.times.now);
        for _ in 0..100_000 {
            if self.times.closed.is_some() {
                return;
            }
            let phase = self.phase();
            let reads = self.wire.session.reads_client();
            if self.wire.client_is_half_through() && reads {
                self.client_ends();
            } else if phase == Phase::Greeting && reads && !self.plan.no_connect && !self.silent {
                self.client_speaks();
            } else if phase == Phase::Attaching {
                self.attach();
            } else if self.ticket {
                self.grant();
            } else if self.wire.streamer_is_half_through() {
                self.streamer_ends();
            } else if self.leg && !self.wire.up.is_empty() {
                self.streamer_reads();
            } else if self.leg && !self.streamer.down.is_empty() {
                self.streamer_speaks();
            } else if self.leg && !self.streamer.is_idle() {
                self.streamer.work(&mut self.plan.dice, &mut self.tally);
                self.streamer.flush();
            } else if self.wire.client_is_half_through() || phase != Phase::Live {
                self.pass_until(self.times.now + Duration::from_secs(1));
            } else {
                break;
            }
            self.act();
            self.check();
        }
        if self.phase() != Phase::Live || self.streamer.closes {
            return;
        }
        self.ledger.expect_settled(self.streamer.active());
        self.check_settled();
        self.tally.settled += 1;
        // Who is quiet and answers stays; who is silent goes.
        self.pass_until(self.times.now + Duration::from_secs(400));
        let closed = self.times.closed;
        let must = self.silent || self.times.doom.is_some();
        let may = match closed {
            // What was read before may be more than it may send in half a minute.
            Some((Disconnect::RateAbuse, _)) => self.plan.theme == Theme::Limited,
            _ => must || self.times.late,
        };
        assert!(closed.is_some() || !must, "it goes on and on");
        assert!(closed.is_none() || may, "{closed:?}");
    }

    /// Ends the session if it has not ended, and shows that nothing goes on behind the end.
    fn finish(&mut self) {
        let now = self.times.now;
        if self.times.closed.is_none() {
            match self.plan.dice.chance(50) {
                true => {
                    let session = &mut self.wire.session;
                    session.handle_order(Disconnect::Drain, Duration::ZERO, now);
                    self.doomed(Duration::ZERO);
                }
                false => self.wire.session.end(Disconnect::ClientGone),
            }
            self.act();
        }
        assert!(self.times.closed.is_some(), "{:?}", self.phase());
        for _ in 0..6 {
            if self.wire.client_is_half_through() {
                self.client_ends();
            } else {
                self.client_speaks();
            }
            self.streamer.chat(&mut self.plan.dice, &mut self.tally);
            self.streamer.flush();
            self.streamer_speaks();
            if self.wire.streamer_is_half_through() {
                self.streamer_ends();
            }
            self.wire.session.handle_client_output(true, false, now);
            self.act();
            self.check();
        }
        let latest = now + Duration::from_millis(2_001);
        while let Some(at) = self.wire.session.next_timeout() {
            assert!(at <= latest, "the end takes longer than its two seconds");
            self.times.now = self.times.now.max(at);
            self.wire.session.handle_timeout(self.times.now);
            self.act();
        }
        assert!(
            matches!(self.phase(), Phase::Ended(_)),
            "{:?}",
            self.phase()
        );
    }

    fn say(&self, what: &str) {
        if self.trace {
            let at = (self.times.now - self.times.start).as_secs_f64();
            eprintln!("{at:9.3} {:?} {what}", self.phase());
        }
    }
}

impl Times {
    fn new(now: Instant) -> Self {
        Self {
            start: now,
            now,
            late: false,
            client_heard: now,
            pinged: None,
            client_told: now,
            waiting: None,
            rules_changed: now,
            stalled: None,
            doom: None,
            closed: None,
        }
    }
}
