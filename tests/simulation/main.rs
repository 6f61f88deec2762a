//! A session under a scripted client and a scripted streamer, on a clock that the test turns.
//!
//! Every run is drawn from one number. After each step its promises are checked; at the end everything that was asked
//! has to be answered. A failure names the number: `SIMULATION_SEED=<seed>` plays that run alone, and
//! `SIMULATION_TRACE=1` prints its steps. `SIMULATION_SEEDS=<count>` plays more runs than usual.

mod checks;
mod client;
mod dice;
mod ledger;
mod moving;
mod plan;
mod streamer;
mod tally;
mod wire;
mod world;

use std::{env, time::Instant};

use plan::{Plan, Theme};
use world::World;

#[test]
fn everything_that_is_asked_is_answered_once_and_in_order() {
    play(Theme::Ordinary, 200);
}

#[test]
fn a_streamer_that_breaks_the_rules_of_ddp_does_not_confuse_the_client() {
    play(Theme::Nasty, 150);
}

#[test]
fn what_is_limited_is_answered_and_never_reaches_the_streamer() {
    play(Theme::Limited, 150);
}

#[test]
fn whatever_breaks_off_ends_in_time_and_forwards_nothing_more() {
    play(Theme::Broken, 250);
}

/// Plays `count` runs, or those that the environment names.
fn play(theme: Theme, count: u64) {
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SEEDS").unwrap_or(count),
    };
    let began = Instant::now();
    let runs = seeds.end - seeds.start;
    let mut sum = tally::Tally::default();
    for seed in seeds {
        let again = Again { seed, theme };
        let mut world = World::new(Plan::draw(theme, seed), trace());
        world.run();
        sum.add(&world.tally);
        drop(again);
    }
    let rate = f64::from(u32::try_from(runs).unwrap_or(u32::MAX)) / began.elapsed().as_secs_f64();
    println!("{theme:?}: {runs} runs, {rate:.0} per second; {sum:?}");
    if runs >= count {
        sum.expect_all(theme);
    }
}

/// What an environment variable says.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no whole number")))
}

fn trace() -> bool {
    number("SIMULATION_TRACE").is_some()
}

/// Says how to play a run again when it fails.
struct Again {
    seed: u64,
    theme: Theme,
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, theme } = self;
            eprintln!(
                "{theme:?}: to play this run again: SIMULATION_SEED={seed} SIMULATION_TRACE=1"
            );
        }
    }
}
