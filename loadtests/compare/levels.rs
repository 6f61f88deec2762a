//! Figures of a connection, by how many others stood.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::machine::{Machine, Program};

use super::outcome::{Middle, middle};

/// All of them.
pub(crate) struct Levels {
    pub(super) program: Program,
    pub(super) machine: Machine,
    /// Of the gateway.
    pub(super) version: String,
    pub(super) began: SystemTime,
    pub(super) gateways: usize,
    pub(super) servers: usize,
    pub(super) rounds: u32,
    pub(super) is_quick: bool,
    pub(super) is_tls: bool,
    pub(super) levels: Vec<Level>,
    pub(super) faults: Vec<String>,
}

/// What was found while so many stood.
#[derive(Clone, Debug)]
pub(super) struct Level {
    standing: u32,
    all: Vec<Figures>,
}

/// Of one window.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Figures {
    /// Time of processors for a visit, in microseconds, without what those who stand cost.
    pub(super) visit: f64,
    /// Time of processors for one who stands, in microseconds a second.
    pub(super) standing: f64,
    /// Memory for one who stands, in KiB.
    pub(super) memory: f64,
    /// The gateways' own count of it.
    pub(super) heap: f64,
    /// Median time that a visit takes, in microseconds.
    pub(super) middle: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            visit,
            standing,
            memory,
            heap,
            middle,
        } = self;
        write!(
            f,
            "a visit {visit:.0} us CPU, {middle:.0} us in all; one who stands {standing:.1} us/s CPU, \
             {memory:.2} KiB ({heap:.2} of heap)"
        )
    }
}

impl Level {
    fn middle(&self, of: fn(&Figures) -> f64) -> Middle {
        let values: Vec<f64> = self.all.iter().map(of).collect();
        middle(&values)
    }
}

impl Levels {
    pub(super) fn add(&mut self, standing: u32, figures: Figures) {
        let mut known = self.levels.iter_mut();
        match known.find(|level| level.standing == standing) {
            Some(level) => level.all.push(figures),
            None => self.levels.push(Level {
                standing,
                all: vec![figures],
            }),
        }
    }

    /// Whether everything was looked at.
    pub(crate) fn is_complete(&self) -> bool {
        self.faults.is_empty()
    }

    /// The costs of the fullest level as shares of those of the emptiest, by name.
    fn ratios(&self) -> Vec<(&'static str, f64)> {
        let (Some(first), Some(last)) = (self.levels.first(), self.levels.last()) else {
            return Vec::new();
        };
        let ratio = |of| last.middle(of).median / first.middle(of).median;
        vec![
            ("CPU of a visit", ratio(|one| one.visit)),
            ("memory of a connection", ratio(|one| one.memory)),
            ("heap of a connection", ratio(|one| one.heap)),
        ]
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = self.head();
        text.push_str(
            "| standing | a visit: CPU, us | memory of one who stands, KiB | of it heap, KiB \
             | its CPU, us/s | a visit takes, us |\n|---:|---:|---:|---:|---:|---:|\n",
        );
        for level in &self.levels {
            let _ = write!(text, "| {} |", level.standing);
            let columns: [fn(&Figures) -> f64; 5] = [
                |one| one.visit,
                |one| one.memory,
                |one| one.heap,
                |one| one.standing,
                |one| one.middle,
            ];
            for of in columns {
                let Middle { median, mad } = level.middle(of);
                let _ = write!(text, " {} ±{} |", digits(median), digits(mad));
            }
            text.push('\n');
        }
        text.push('\n');
        if let [first, .., last] = self.levels.as_slice() {
            let (few, many) = (first.standing, last.standing);
            let _ = writeln!(text, "| goal: with {many} as with {few} | | found | |");
            text.push_str("|---|---:|---:|---|\n");
            for (name, ratio) in self.ratios() {
                let verdict = if ratio <= MOST { "reached" } else { "missed" };
                let _ = writeln!(text, "| {name} | <= {MOST:.2} | {ratio:.2} | {verdict} |");
            }
            text.push('\n');
        }
        for fault in &self.faults {
            let _ = writeln!(text, "- missing: {fault}");
        }
        text
    }

    fn head(&self) -> String {
        let mut text = format!(
            "{}, {}; {}; {}; {} gateways on one port, {} processes of servers, {}; {} rounds.\n\n",
            self.machine,
            httpdate::fmt_http_date(self.began),
            self.program,
            self.version,
            self.gateways,
            self.servers,
            if self.is_tls { "TLS" } else { "plain" },
            self.rounds,
        );
        if self.is_quick || !self.program.optimized {
            text.push_str(
                "A quick run, or one without optimization: take no figure of it for good.\n\n",
            );
        }
        text.push_str("Medians of all windows, with the median distance from them.\n\n");
        text
    }

    pub(crate) fn json(&self) -> Value {
        let levels = self.levels.iter().map(|level| {
            json!({
                "standing": level.standing,
                "windows": level.all,
                "visit": level.middle(|one| one.visit),
                "standing_cpu": level.middle(|one| one.standing),
                "memory": level.middle(|one| one.memory),
                "heap": level.middle(|one| one.heap),
                "visit_takes": level.middle(|one| one.middle),
            })
        });
        let levels: Vec<Value> = levels.collect();
        let goals = self.ratios().into_iter().map(|(name, ratio)| {
            json!({ "name": name, "goal": MOST, "found": ratio, "reached": ratio <= MOST })
        });
        let goals: Vec<Value> = goals.collect();
        json!({
            "schema": 1,
            "program": self.program,
            "machine": self.machine,
            "gateway": self.version,
            "began": httpdate::fmt_http_date(self.began),
            "gateways": self.gateways,
            "servers": self.servers,
            "rounds": self.rounds,
            "quick": self.is_quick,
            "tls": self.is_tls,
            "levels": levels,
            "goals": goals,
            "faults": self.faults,
        })
    }
}

/// Three of them.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        n if n >= 100.0 || n == 0.0 => 0,
        n if n >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Flat within a tenth.
const MOST: f64 = 1.1;
