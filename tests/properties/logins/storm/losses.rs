//! The storm again, with clients that give up.

use std::{cmp::Reverse, time::Duration};

use ddp_gateway::pool::{SplitMix, logins::LoginSettings};

use super::{
    super::{MILLISECOND, index, seeds, small, with_seed},
    Backend, CLIENTS, Stage, Storm,
};

/// Clients give up at random, and yet all that stay get in.
#[test]
fn a_storm_with_losses_leaks_nothing() {
    for seed in seeds(10..14) {
        with_seed(seed, |seed| {
            let settings = LoginSettings {
                timeout: Duration::from_secs(5),
                ..LoginSettings::default()
            };
            let mut storm = Storm::new(seed, settings, Backend::HEALTHY);
            storm.run_with_losses();
            println!("seed {seed}, with losses: {}", storm.outcome());
        });
    }
}

impl Storm {
    fn run_with_losses(&mut self) {
        let mut losses = SplitMix(self.random.draw());
        let mut next_loss = self.now;
        let mut left = 0;
        while self.logged_in + left < CLIENTS {
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let loss = (left < CLIENTS / 5).then_some(next_loss);
            let timeout = self.logins.next_timeout();
            let next = [event, timeout, loss].into_iter().flatten().min();
            self.now = self.now.max(next.expect("clients are left"));
            self.logins.handle_timeout(self.now);
            self.answer_the_bell();
            if loss.is_some_and(|at| at <= self.now) {
                next_loss = self.now + MILLISECOND * (1 + small(&mut losses, 20));
                left += self.lose(&mut losses);
                self.answer_the_bell();
            }
            while let Some(Reverse((at, client))) = self.events.peek().copied()
                && at <= self.now
            {
                self.events.pop();
                // The answer for somebody who has left.
                if !matches!(self.clients[client].stage, Stage::In) {
                    self.happens(client);
                    self.answer_the_bell();
                }
            }
            self.check();
            let passed = self.now - self.start;
            assert!(passed < Duration::from_secs(3_600), "they starve");
        }
        let report = self.logins.report(self.now);
        assert_eq!((report.in_flight, report.waiting), (0, 0));
        while let Some(next) = self.logins.next_timeout() {
            self.logins.handle_timeout(next);
        }
        assert!(self.logins.streamers().is_empty());
    }

    /// One client goes away, in whatever stage it is; returns how many that were.
    fn lose(&mut self, random: &mut SplitMix) -> usize {
        let any = index(random, CLIENTS);
        // Few log in at a time: half of the losses are looked for among them.
        let logging_in = (0..CLIENTS)
            .map(|step| (any + step) % CLIENTS)
            .filter(|_| any.is_multiple_of(2))
            .find(|at| matches!(self.clients[*at].stage, Stage::LoggingIn { .. }));
        let at = logging_in.unwrap_or(any);
        let client = &mut self.clients[at];
        match std::mem::replace(&mut client.stage, Stage::In) {
            Stage::In => return 0,
            Stage::Away => {}
            Stage::Waiting(ticket) => {
                let lane = self.lanes.entry(client.streamer.clone()).or_default();
                lane.retain(|other| *other != at);
                drop(ticket);
            }
            Stage::LoggingIn { permit, .. } => {
                self.in_flight -= 1;
                *self.at_streamer.entry(client.streamer.clone()).or_default() -= 1;
                drop(permit);
            }
        }
        1
    }
}
