//! `BROKER=nats`: who answers to a call of the roll. A table without a socket and without a clock.
//!
//! The services of NATS itself tell no address, send no heartbeat and say no goodbye. All there is
//! to know is which nodes answer a `PING` (NATS ADR-32), each with its id.
//!
//! Which address a node has is found by the host in its id, `<host>-<uuid>`, which another source
//! knows with an address. The whole id cannot be compared: a streamer shows it to nobody who connects
//! to it (its `server_id` is always 0, and a session's id is made anew for each), so no source with
//! addresses has it. It stands as `instanceId` in the event of each new socket only, by which a node
//! could be known from the first session of this gateway there on, if it tells that event at all,
//! which the first versions of this mode do not. Where each host (each pod) has one streamer,
//! that says no more than the host does. Two streamers on one host are told apart by neither
//! the roll nor the DNS: the host counts as gone when none of its nodes answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::packet::{STREAMER, Unusable, host_of, is_node_id};
use crate::discovery::{Host, Seen};

/// The nodes that answered lately.
#[derive(Debug, Default)]
pub(super) struct Roll {
    nodes: BTreeMap<String, Standing>,
    answered: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Here { missed: u32 },
    Left { until: Instant },
}

/// What is asked for the roll.
pub(super) fn subject() -> String {
    format!("$SRV.PING.{STREAMER}")
}

/// The id of the node that answers.
pub(super) fn parse(payload: &[u8]) -> Result<String, Unusable> {
    if payload.len() > LARGEST_ANSWER {
        return Err(Unusable::TooLarge);
    }
    if payload.trim_ascii_start().first() != Some(&b'{') {
        return Err(Unusable::Serialiser);
    }
    let answer: Answer = serde_json::from_slice(payload).map_err(|_| Unusable::Malformed)?;
    if answer.kind != "io.nats.micro.v1.ping_response" || answer.name != STREAMER {
        return Err(Unusable::Version);
    }
    let node = answer.metadata.node;
    match is_node_id(&node) {
        true => Ok(node),
        false => Err(Unusable::Sender),
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "rocketchat-node-id")]
    node: String,
}

impl Roll {
    pub(super) fn handle(&mut self, node: String) {
        if self.answered.len() < MOST_NODES {
            self.answered.insert(node);
        }
    }

    /// The time for answers is over. A round in which nobody answered says more about the bus than
    /// about the nodes: it changes nothing, and is false.
    pub(super) fn end_round(&mut self, now: Instant) -> bool {
        let answered = std::mem::take(&mut self.answered);
        if answered.is_empty() {
            return false;
        }
        for (node, standing) in &mut self.nodes {
            if let Standing::Here { missed } = standing
                && !answered.contains(node)
            {
                *missed += 1;
                if *missed >= MISSES {
                    *standing = Standing::Left {
                        until: now + TELL_FOR,
                    };
                }
            }
        }
        self.nodes
            .retain(|_, standing| !matches!(standing, Standing::Left { until } if now >= *until));
        for node in answered {
            if self.nodes.len() < MOST_NODES || self.nodes.contains_key(&node) {
                self.nodes.insert(node, Standing::Here { missed: 0 });
            }
        }
        true
    }

    /// Hosts without addresses: those are for another source to know.
    pub(super) fn seen(&self) -> Seen {
        let is_left = |standing: &Standing| matches!(standing, Standing::Left { .. });
        let (left, here): (Vec<_>, Vec<_>) = self
            .nodes
            .iter()
            .partition(|(_, standing)| is_left(standing));
        let hosts = left.into_iter().chain(here).map(|(node, standing)| {
            let host = Host {
                address: None,
                leaving: is_left(standing),
            };
            (host_of(node).to_owned(), host)
        });
        Seen {
            hosts: hosts.collect(),
            ..Seen::default()
        }
    }
}

const LARGEST_ANSWER: usize = 64 << 10;
const MOST_NODES: usize = 1024;
/// Rounds without an answer until a node counts as gone.
const MISSES: u32 = 2;
/// Other sources notice within this that somebody has ended.
const TELL_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{MISSES, Roll, TELL_FOR, Unusable, parse};

    const UUID: &str = "0c2d6e9a-5f2b-4a52-9a37-7e8a3f6f1d11";

    fn round(roll: &mut Roll, hosts: &[&str], now: Instant) -> bool {
        for host in hosts {
            roll.handle(format!("{host}-{UUID}"));
        }
        roll.end_round(now)
    }

    fn hosts(roll: &Roll) -> Vec<(String, bool)> {
        let hosts = roll.seen().hosts;
        hosts
            .into_iter()
            .map(|(name, host)| (name, host.leaving))
            .collect()
    }

    #[test]
    fn who_answers_no_more_has_gone_unless_nobody_answers() {
        let now = Instant::now();
        let mut roll = Roll::default();
        assert!(!round(&mut roll, &[], now));
        assert!(round(&mut roll, &["a", "b"], now));
        for _ in 0..MISSES * 2 {
            assert!(!round(&mut roll, &[], now));
        }
        for missed in 0..=MISSES {
            let gone = missed >= MISSES;
            let both = [("a".to_owned(), false), ("b".to_owned(), gone)];
            assert_eq!(hosts(&roll), both, "{missed}");
            round(&mut roll, &["a"], now);
        }
        round(&mut roll, &["a"], now + TELL_FOR);
        assert_eq!(hosts(&roll), [("a".to_owned(), false)]);
    }

    #[test]
    fn a_new_process_on_a_host_counts_for_it() {
        let now = Instant::now();
        let mut roll = Roll::default();
        round(&mut roll, &["a"], now);
        for _ in 0..=MISSES {
            roll.handle(format!("a-1{}", &UUID[1..]));
            roll.end_round(now);
        }
        assert_eq!(hosts(&roll), [("a".to_owned(), false)]);
    }

    #[test]
    fn answers() {
        let answer = |kind: &str, name: &str, node: &str| {
            format!(
                r#"{{"type":"io.nats.micro.v1.{kind}","name":"{name}","id":"X","version":"0.1.0",
                     "metadata":{{"rocketchat-node-id":"{node}"}}}}"#
            )
        };
        let good = answer("ping_response", "streamer", "a");
        assert_eq!(parse(good.as_bytes()).as_deref(), Ok("a"));
        for (text, why) in [
            (answer("info_response", "streamer", "a"), Unusable::Version),
            (answer("ping_response", "presence", "a"), Unusable::Version),
            (answer("ping_response", "streamer", "a >"), Unusable::Sender),
            ("{}".to_owned(), Unusable::Malformed),
            (String::new(), Unusable::Serialiser),
            (format!("{{{}", " ".repeat(1 << 17)), Unusable::TooLarge),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(why), "{text:.90}");
        }
    }
}
