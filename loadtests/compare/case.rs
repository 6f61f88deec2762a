//! What is measured: loads, and the figures that come of them.

use serde::{Deserialize, Serialize};

use crate::{
    record::{Measure, Record},
    scenario::{Load, Scenario},
};

use super::peer::Peer;

/// One load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    /// What one of its figures is about, as "DDP round trip, 500 connections".
    pub(super) about: String,
    /// What the cost is divided by.
    pub(super) operation: Operation,
    /// What is done to the proxy meanwhile.
    #[serde(default)]
    pub(super) act: Act,
    pub(super) ways: Vec<Way>,
    /// What is hoped for, as a share of what somebody else takes.
    #[serde(default)]
    pub(super) goals: Vec<Goal>,
    pub(super) scenario: Scenario,
    /// A few seconds of it, to see that it works.
    pub(super) quick: Scenario,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    Plain,
    Tls,
    /// TLS whose sessions are resumed.
    Resumed,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    RoundTrip,
    Delivery,
    /// A user who connects, and leaves.
    Visit,
    Request,
    /// A GB (10^9 bytes) of bodies.
    Body,
    /// Nothing: what counts is the memory for those who are there.
    Presence,
    /// Nothing: what counts is who loses the connection.
    Loss,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    #[default]
    Nothing,
    /// A change of its configuration.
    Reload,
    /// The end of one of the streamers behind it, without a goodbye.
    Kill,
}

/// The gateway's cost divided by a peer's, or a figure of the gateway's own.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Goal {
    pub(super) way: Way,
    pub(super) figure: What,
    /// `None`: `most` is in the unit of the figure.
    pub(super) beside: Option<Peer>,
    /// At most so much; for what is given back, at least.
    pub(super) most: f64,
}

/// A figure.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// Time of processors for an operation.
    Cost,
    P50,
    P99,
    /// Memory for a connection.
    Memory,
    /// Of the memory that connections took, how much is given back when they have gone.
    GivenBack,
    /// Of the TLS sessions after the first few, how many were resumed.
    Resumed,
    /// Users who lost their connection.
    Cut,
    /// From the loss of a session until its user was logged in again: the last one.
    Back,
    Rate,
    Errors,
}

impl Operation {
    /// How many there have been.
    pub(super) fn count(self, record: &Record) -> u64 {
        match self {
            Self::Body => record.count("response_bytes") + record.count("request_bytes"),
            Self::Presence | Self::Loss => 0,
            _ => self.measure().map_or(0, |measure| record.measured(measure)),
        }
    }

    /// Whether no socket is opened, and no session is there.
    pub(super) fn is_http(self) -> bool {
        matches!(self, Self::Request | Self::Body)
    }

    /// Whose latency is of interest.
    pub(super) fn measure(self) -> Option<Measure> {
        match self {
            Self::RoundTrip => Some(Measure::RoundTrip),
            Self::Delivery => Some(Measure::Delivery),
            Self::Visit => Some(Measure::Visit),
            Self::Request => Some(Measure::Request),
            Self::Body | Self::Presence | Self::Loss => None,
        }
    }
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cost => "CPU",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Memory => "memory per connection",
            Self::GivenBack => "memory given back",
            Self::Resumed => "handshakes resumed",
            Self::Cut => "users cut",
            Self::Back => "until the last one is back",
            Self::Rate => "rate",
            Self::Errors => "errors",
        }
    }

    pub(super) fn unit(self, operation: Operation) -> &'static str {
        match self {
            Self::Cost if operation == Operation::Body => "s/GB",
            Self::Cost | Self::P50 | Self::P99 => "us",
            Self::Back => "ms",
            Self::Memory => "KiB",
            Self::GivenBack | Self::Resumed => "%",
            Self::Rate => "/s",
            Self::Cut | Self::Errors => "",
        }
    }

    /// Whether a larger number is the better one.
    pub(super) fn is_more_better(self) -> bool {
        matches!(self, Self::GivenBack | Self::Resumed | Self::Rate)
    }
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "TLS",
            Self::Resumed => "TLS, resumed",
        }
    }
}

impl Case {
    pub(super) fn all() -> Result<Vec<Self>, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Cases {
            case: Vec<Case>,
        }
        let cases: Cases = toml::from_str(include_str!("cases.toml"))
            .map_err(|error| format!("loadtests/compare/cases.toml: {error}"))?;
        Ok(cases.case)
    }

    /// What is run, named like the case.
    pub(super) fn scenario(&self, is_quick: bool) -> Result<(Scenario, Load), String> {
        let mut scenario = match is_quick {
            true => self.quick.clone(),
            false => self.scenario.clone(),
        };
        scenario.name.clone_from(&self.name);
        // Errors are counted; they do not end the comparison.
        scenario.max_errors = u64::MAX;
        let load = scenario.check()?;
        Ok((scenario, load))
    }
}

#[cfg(test)]
mod tests {
    use super::Case;

    #[test]
    fn every_case_can_be_run() {
        let cases = Case::all().unwrap();
        assert!(cases.len() > 5);
        for case in &cases {
            for is_quick in [false, true] {
                case.scenario(is_quick).unwrap();
            }
            for goal in &case.goals {
                assert!(case.ways.contains(&goal.way), "{}", case.name);
            }
            let same = cases.iter().filter(|other| other.name == case.name);
            assert_eq!(same.count(), 1, "{}", case.name);
        }
    }
}
