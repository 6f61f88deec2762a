//! All figures, and what they come to.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use crate::machine::{Machine, Program};

use super::{
    case::{Case, Goal, Way, What},
    peer::Peer,
};

/// Who takes part.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Candidate {
    pub(super) peer: Peer,
    pub(super) program: Option<PathBuf>,
    pub(super) version: String,
}

/// What a figure is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) case: String,
    pub(super) way: Way,
    pub(super) what: What,
    pub(super) peer: Peer,
}

pub(crate) struct Outcome {
    pub(super) program: Program,
    pub(super) machine: Machine,
    pub(super) began: SystemTime,
    pub(super) threads: usize,
    pub(super) rounds: u32,
    pub(super) is_quick: bool,
    pub(super) cases: Vec<Case>,
    pub(super) candidates: Vec<Candidate>,
    /// One number for each round.
    pub(super) series: BTreeMap<Key, Vec<f64>>,
    pub(super) faults: Vec<String>,
}

/// Median, and the median distance from it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Middle {
    pub(super) median: f64,
    pub(super) mad: f64,
}

impl Candidate {
    pub(super) fn direct() -> Self {
        Self {
            peer: Peer::Direct,
            program: None,
            version: String::new(),
        }
    }

    pub(super) fn new(peer: Peer, program: PathBuf) -> Self {
        let version = peer.version(&program);
        Self {
            peer,
            program: Some(program),
            version,
        }
    }
}

impl Outcome {
    /// Takes the figures of one turn, and says the first one.
    pub(super) fn add(
        &mut self,
        case: &Case,
        way: Way,
        peer: Peer,
        found: &[(What, f64)],
    ) -> String {
        let mut shown = Vec::new();
        for &(what, value) in found {
            let key = Key {
                case: case.name.clone(),
                way,
                what,
                peer,
            };
            self.series.entry(key).or_default().push(value);
            let unit = what.unit(case.operation);
            if what != What::Errors || value > 0.0 {
                shown.push(format!("{} {value:.1}{unit}", what.name()));
            }
        }
        shown.join(", ")
    }

    pub(super) fn middle(&self, case: &Case, way: Way, what: What, peer: Peer) -> Option<Middle> {
        Some(middle(self.values(case, way, what, peer)?))
    }

    /// The gateway's figure as a share of a peer's, in the same round.
    pub(super) fn ratio(&self, case: &Case, way: Way, what: What, peer: Peer) -> Option<Middle> {
        let own = self.values(case, way, what, Peer::Gateway)?;
        let theirs = self.values(case, way, what, peer)?;
        let pairs = own.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0);
        let ratios: Vec<f64> = pairs.map(|(own, theirs)| own / theirs).collect();
        (!ratios.is_empty()).then(|| middle(&ratios))
    }

    fn values(&self, case: &Case, way: Way, what: What, peer: Peer) -> Option<&[f64]> {
        let key = Key {
            case: case.name.clone(),
            way,
            what,
            peer,
        };
        self.series.get(&key).map(Vec::as_slice)
    }

    /// What a goal is compared with, and whether it is reached.
    pub(super) fn reached(&self, case: &Case, goal: &Goal) -> Option<(Middle, bool)> {
        let found = match goal.beside {
            Some(peer) => self.ratio(case, goal.way, goal.figure, peer)?,
            None => self.middle(case, goal.way, goal.figure, Peer::Gateway)?,
        };
        let is_reached = match goal.figure.is_more_better() {
            true => found.median >= goal.most,
            false => found.median <= goal.most,
        };
        Some((found, is_reached))
    }

    /// Whether everybody has done everything.
    pub(crate) fn is_complete(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn json(&self) -> Value {
        let figures = self.series.iter().map(|(key, values)| {
            let case = self.cases.iter().find(|case| case.name == key.case);
            let unit = case.map_or("", |case| key.what.unit(case.operation));
            let ratio = case.filter(|_| key.peer != Peer::Gateway);
            let ratio = ratio.and_then(|case| self.ratio(case, key.way, key.what, key.peer));
            json!({
                "case": key.case,
                "way": key.way,
                "figure": key.what,
                "peer": key.peer,
                "unit": unit,
                "values": values,
                "middle": middle(values),
                "gateway_ratio": ratio,
            })
        });
        let figures: Vec<Value> = figures.collect();
        let goals: Vec<Value> = self
            .goals()
            .map(|(case, goal, reached)| {
                json!({
                    "case": case.name,
                    "way": goal.way,
                    "figure": goal.figure,
                    "beside": goal.beside,
                    "goal": goal.most,
                    "found": reached.map(|(found, _)| found),
                    "reached": reached.map(|(_, is_reached)| is_reached),
                })
            })
            .collect();
        let peers = self.candidates.iter().map(|candidate| candidate.peer);
        let mut configs = serde_json::Map::new();
        for peer in peers {
            for (name, text) in peer.files() {
                configs.insert((*name).to_owned(), (*text).into());
            }
            for (name, text) in peer.sources() {
                configs.insert(format!("{}/{name}", peer.name()), (*text).into());
            }
        }
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                let scenario = if self.is_quick {
                    &case.quick
                } else {
                    &case.scenario
                };
                json!({ "name": case.name, "about": case.about, "settings": scenario })
            })
            .collect();
        json!({
            "schema": 1,
            "program": self.program,
            "machine": self.machine,
            "began": httpdate::fmt_http_date(self.began),
            "threads": self.threads,
            "rounds": self.rounds,
            "quick": self.is_quick,
            "candidates": self.candidates,
            "cases": cases,
            "figures": figures,
            "goals": goals,
            "faults": self.faults,
            "configs": configs,
        })
    }

    pub(super) fn goals(&self) -> impl Iterator<Item = (&Case, &Goal, Option<(Middle, bool)>)> {
        self.cases.iter().flat_map(move |case| {
            let goals = case.goals.iter();
            goals.map(move |goal| (case, goal, self.reached(case, goal)))
        })
    }
}

pub(super) fn middle(values: &[f64]) -> Middle {
    let median = median(values.to_vec());
    let distances = values.iter().map(|value| (value - median).abs());
    Middle {
        median,
        mad: self::median(distances.collect()),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), values.len() % 2) {
        (None, _) => f64::NAN,
        (Some(high), 1) => *high,
        (Some(high), _) => f64::midpoint(*high, values[half - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_far_off_moves_nothing() {
        let Middle { median, mad } = middle(&[3.0, 1.0, 1000.0]);
        assert_eq!((median, mad), (3.0, 2.0));
        assert_eq!(middle(&[1.0, 2.0]).median, 1.5);
        assert_eq!(
            middle(&[7.0]),
            Middle {
                median: 7.0,
                mad: 0.0
            }
        );
    }
}
