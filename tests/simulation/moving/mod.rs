//! A session that is moved between two scripted streamers on one bus, on a clock that the test turns.
//!
//! Until the switch the client has to see exactly what its old leg says, whatever the new one does, so that a move that
//! is given up has not happened. Over the whole run every method is executed once and answered once, and every event of
//! a subscription comes as often as one streamer would have sent it, in its order.
//!
//! The bus brings an event to the two streamers less than 250 ms apart; sockets may lag by more than that. For events
//! that each streamer writes differently the same is asserted as for all others: the overlap knows them by what is
//! alike in them.

mod bus;
mod checks;
mod client;
mod ends;
mod habits;
mod leg;
mod orders;
mod plan;
mod relay;
mod server;
mod tally;
mod world;

use std::time::Instant;

use crate::{number, trace};

#[test]
fn a_session_that_is_moved_loses_and_doubles_nothing() {
    let count = 300;
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(count),
    };
    let began = Instant::now();
    let runs = seeds.end - seeds.start;
    let mut sum = tally::Tally::default();
    for seed in seeds {
        let again = Again { seed };
        let mut world = world::World::new(plan::Plan::draw(seed), trace());
        world.run();
        sum.add(&world.tally);
        drop(again);
    }
    let rate = f64::from(u32::try_from(runs).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64();
    println!("moving: {runs} runs, {rate:.0} per second; {sum:?}");
    if runs >= count {
        sum.expect_all();
    }
}

/// Says how to play a run again when it fails.
struct Again {
    seed: u64,
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            eprintln!("moving: to play this run again: SIMULATION_SEED={seed} SIMULATION_TRACE=1");
        }
    }
}
