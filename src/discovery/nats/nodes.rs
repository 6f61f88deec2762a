//! Who is on the bus: a table of nodes, without a socket and without a clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    event::{Hearers, Hears},
    packet::{Info, Packet},
};
use crate::{
    base::id::StreamerAddr,
    config::model::{Nats, Ranges},
    discovery::{Endpoints, Host, Seen},
};

/// The nodes that were heard, and what follows from their packets and from their silence.
///
/// Invariants: `streamers`, `others`, `asked` and `left` are bounded; nobody is forgotten for being
/// silent while the bus itself was away.
#[derive(Debug)]
pub(super) struct Nodes {
    terms: Terms,
    streamers: BTreeMap<String, Streamer>,
    /// Nodes without sockets of clients, so that their heartbeats surprise nobody.
    others: BTreeMap<String, Other>,
    /// Nodes that were heard and are not known, and when they were asked who they are.
    asked: BTreeMap<String, Instant>,
    /// Who said goodbye, and until when that is told.
    left: BTreeMap<String, Left>,
    /// Since when packets can be heard.
    connected: Option<Instant>,
    /// A streamer was heard since then, or none will be.
    heard: bool,
    changed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Terms {
    port: u16,
    networks: Ranges,
    timeout: Duration,
    /// Our own id, whose packets would be a loop.
    own: String,
}

#[derive(Clone, Debug)]
struct Streamer {
    host: String,
    /// `None`: it says none that could be one.
    address: Option<StreamerAddr>,
    instance: String,
    sequence: u64,
    heard: Instant,
    hears: Hears,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    heard: Instant,
    hears: Hears,
}

#[derive(Clone, Debug)]
struct Left {
    host: String,
    address: Option<StreamerAddr>,
    until: Instant,
}

/// Whom to send a DISCOVER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Nobody,
    One(String),
}

impl Terms {
    pub(super) fn new(nats: &Nats, own: &str) -> Self {
        Self {
            port: nats.port,
            networks: nats.networks.clone(),
            timeout: nats.heartbeat_timeout,
            own: own.to_owned(),
        }
    }

    /// The first address that is within the configured ranges, or the very first: a node lists the
    /// pod's own before those of further interfaces.
    fn address(&self, addresses: &[IpAddr]) -> Option<StreamerAddr> {
        let possible = |ip: &&IpAddr| {
            let multicast = ip.is_multicast() || ip.is_unspecified();
            let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
            !multicast && !broadcast
        };
        let allowed = |ip: &&IpAddr| self.networks.0.is_empty() || self.networks.contains(**ip);
        let ip = addresses.iter().filter(possible).find(allowed)?;
        Some(StreamerAddr(SocketAddr::new(*ip, self.port)))
    }
}

impl Nodes {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            streamers: BTreeMap::new(),
            others: BTreeMap::new(),
            asked: BTreeMap::new(),
            left: BTreeMap::new(),
            connected: None,
            heard: false,
            changed: false,
        }
    }

    /// Packets can be heard from now on. Everybody is given all of the time again to be heard.
    pub(super) fn handle_connected(&mut self, now: Instant) {
        self.connected = Some(now);
        self.heard = false;
        self.asked.clear();
        self.changed = true;
    }

    pub(super) fn handle_disconnected(&mut self) {
        self.connected = None;
    }

    pub(super) fn handle(&mut self, packet: Packet, now: Instant) -> Ask {
        match packet {
            Packet::Info(info) => {
                self.handle_info(info, now);
                Ask::Nobody
            }
            Packet::Heartbeat { sender, .. } => self.handle_heartbeat(sender, now),
            Packet::Disconnect { sender } => {
                if let Some(streamer) = self.streamers.remove(&sender) {
                    self.leaves(sender, streamer, now);
                } else {
                    self.others.remove(&sender);
                }
                Ask::Nobody
            }
        }
    }

    fn handle_info(&mut self, info: Info, now: Instant) {
        if info.sender == self.terms.own {
            return;
        }
        self.asked.remove(&info.sender);
        let known = self.streamers.get(&info.sender);
        let older = known
            .is_some_and(|known| known.instance == info.instance && info.sequence < known.sequence);
        if older {
            return;
        }
        if !info.streams {
            if let Some(streamer) = self.streamers.remove(&info.sender) {
                // The service has ended, the process is about to.
                self.leaves(info.sender.clone(), streamer, now);
            }
            if self.others.len() < MOST_OTHERS || self.others.contains_key(&info.sender) {
                let other = Other {
                    heard: now,
                    hears: info.hears,
                };
                self.others.insert(info.sender, other);
            }
            return;
        }
        if known.is_none() && self.streamers.len() >= MOST_STREAMERS {
            return;
        }
        self.heard = true;
        self.others.remove(&info.sender);
        let address = self.terms.address(&info.addresses);
        let streamer = Streamer {
            host: info.host,
            address,
            instance: info.instance,
            sequence: info.sequence,
            heard: now,
            hears: info.hears,
        };
        self.changed |= known
            .is_none_or(|known| (known.address, &known.host) != (streamer.address, &streamer.host));
        // It is back, or somebody else is where it was.
        let before = self.left.len();
        self.left.retain(|id, left| {
            *id != info.sender && (address.is_none() || left.address != address)
        });
        self.changed |= self.left.len() != before;
        self.streamers.insert(info.sender, streamer);
    }

    fn handle_heartbeat(&mut self, sender: String, now: Instant) -> Ask {
        if sender == self.terms.own {
            return Ask::Nobody;
        }
        if let Some(streamer) = self.streamers.get_mut(&sender) {
            self.heard = true;
            streamer.heard = now;
            return Ask::Nobody;
        }
        if let Some(other) = self.others.get_mut(&sender) {
            other.heard = now;
            return Ask::Nobody;
        }
        self.asked.retain(|_, at| now < *at + ASK_AGAIN);
        if self.asked.len() >= MOST_ASKED || self.asked.contains_key(&sender) {
            return Ask::Nobody;
        }
        self.asked.insert(sender.clone(), now);
        Ask::One(sender)
    }

    fn leaves(&mut self, id: String, streamer: Streamer, now: Instant) {
        self.changed = true;
        if self.left.len() < MOST_STREAMERS {
            let left = Left {
                host: streamer.host,
                address: streamer.address,
                until: now + TELL_FOR,
            };
            self.left.insert(id, left);
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub(super) fn next_due(&self) -> Option<Instant> {
        let silent = self.connected.and_then(|since| {
            let heard = self.streamers.values().map(|streamer| streamer.heard);
            let first = heard
                .chain(self.others.values().map(|other| other.heard))
                .min()?;
            Some(first.max(since) + self.terms.timeout)
        });
        let left = self.left.values().map(|left| left.until);
        let patience = self.connected.filter(|_| !self.heard);
        let patience = patience.map(|since| since + PATIENCE);
        left.chain(silent).chain(patience).min()
    }

    /// Forgets who was not heard for too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(since) = self.connected {
            let timeout = self.terms.timeout;
            let silent = |heard: Instant| now >= heard.max(since) + timeout;
            let before = self.streamers.len();
            self.streamers.retain(|_, streamer| !silent(streamer.heard));
            self.changed |= self.streamers.len() != before;
            self.others.retain(|_, other| !silent(other.heard));
            if !self.heard && now >= since + PATIENCE {
                self.heard = true;
                self.changed = true;
            }
        }
        let before = self.left.len();
        self.left.retain(|_, left| now < left.until);
        self.changed |= self.left.len() != before;
    }

    /// Where a streamer is.
    pub(super) fn address_of(&self, node: &str) -> Option<StreamerAddr> {
        self.streamers.get(node)?.address
    }

    /// The nodes that get copies of events of interest.
    pub(super) fn hearers(&self) -> Hearers {
        let streamers = self.streamers.iter().map(|(id, node)| (id, node.hears));
        let others = self.others.iter().map(|(id, node)| (id, node.hears));
        let all = streamers
            .chain(others)
            .filter(|(_, hears)| !hears.is_empty());
        Hearers(all.map(|(id, hears)| (id.clone(), hears)).collect())
    }

    /// Whether it is time to tell what is known: not while the first answers are on their way.
    pub(super) fn is_settled(&self) -> bool {
        self.connected.is_some() && self.heard
    }

    /// Whether [`Self::seen`] is another one since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn seen(&self) -> Seen {
        let addresses = self.streamers.values().filter_map(|node| node.address);
        let here: BTreeSet<StreamerAddr> = addresses.collect();
        let gone = self.left.values().filter_map(|left| left.address);
        let left = self.left.values().map(|left| {
            let host = Host {
                address: left.address,
                leaving: true,
            };
            (left.host.clone(), host)
        });
        let staying = self.streamers.values().map(|node| {
            let host = Host {
                address: node.address,
                leaving: false,
            };
            (node.host.clone(), host)
        });
        Seen {
            leaving: gone.filter(|address| !here.contains(address)).collect(),
            endpoints: Endpoints::of_addresses(here.into_iter().map(|address| address.0)),
            // Who has come back under the name of one that has left counts.
            hosts: left.chain(staying).collect(),
        }
    }
}

/// Streamers on one bus; nobody has that many.
const MOST_STREAMERS: usize = 1024;
const MOST_OTHERS: usize = 4096;
/// Unknown nodes that were asked within [`ASK_AGAIN`].
const MOST_ASKED: usize = 256;
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Other sources notice within this that somebody has ended; until then they are contradicted.
const TELL_FOR: Duration = Duration::from_secs(60);
/// Answers to a DISCOVER come within half a second; after this, nobody will answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::{collection::vec, prelude::*};

    use super::{Ask, MOST_ASKED, MOST_STREAMERS, Nodes, PATIENCE, TELL_FOR, Terms};
    use crate::{
        config::model::Ranges,
        discovery::nats::{
            event::Hears,
            packet::{Info, Packet},
        },
    };

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn nodes(networks: &[&str]) -> Nodes {
        let networks = networks.iter().map(|range| range.parse().unwrap());
        Nodes::new(Terms {
            port: 3000,
            networks: Ranges(networks.collect()),
            timeout: TIMEOUT,
            own: "me".to_owned(),
        })
    }

    fn info(sender: &str, sequence: u64, streams: bool, addresses: &[&str]) -> Packet {
        Packet::Info(Info {
            sender: sender.to_owned(),
            host: format!("host-{sender}"),
            instance: format!("instance-{sender}"),
            sequence,
            streams,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            hears: Hears::default(),
        })
    }

    fn heartbeat(sender: &str) -> Packet {
        Packet::Heartbeat {
            sender: sender.to_owned(),
            cpu: None,
        }
    }

    fn disconnect(sender: &str) -> Packet {
        Packet::Disconnect {
            sender: sender.to_owned(),
        }
    }

    fn staying(nodes: &Nodes) -> Vec<String> {
        let seen = nodes.seen();
        seen.endpoints.0.values().map(ToString::to_string).collect()
    }

    fn leaving(nodes: &Nodes) -> Vec<String> {
        nodes
            .seen()
            .leaving
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn join_and_leave() {
        let now = Instant::now();
        let mut nodes = nodes(&[]);
        nodes.handle_connected(now);
        assert!(!nodes.is_settled());
        nodes.handle(info("a", 1, false, &["10.0.0.1"]), now);
        assert_eq!(staying(&nodes), [""; 0]);
        nodes.handle(info("a", 2, true, &["10.0.0.1", "10.0.0.9"]), now);
        nodes.handle(info("b", 2, true, &["10.0.0.2"]), now);
        assert!(nodes.is_settled() && nodes.take_changed());
        assert_eq!(staying(&nodes), ["10.0.0.1:3000", "10.0.0.2:3000"]);
        nodes.handle(info("b", 2, true, &["10.0.0.2"]), now);
        assert!(!nodes.take_changed());
        // The service ends first, which is when it is known, then the node.
        nodes.handle(info("a", 3, false, &["10.0.0.1"]), now);
        assert!(nodes.take_changed());
        assert_eq!(leaving(&nodes), ["10.0.0.1:3000"]);
        nodes.handle(disconnect("a"), now);
        assert_eq!(leaving(&nodes), ["10.0.0.1:3000"]);
        assert_eq!(staying(&nodes), ["10.0.0.2:3000"]);
        assert!(nodes.seen().hosts["host-a"].leaving);
        nodes.handle_timeout(now + TELL_FOR);
        assert_eq!(leaving(&nodes), [""; 0]);
    }

    #[test]
    fn one_that_is_back_at_the_same_address_is_not_leaving() {
        let now = Instant::now();
        let mut nodes = nodes(&[]);
        nodes.handle_connected(now);
        nodes.handle(info("a", 1, true, &["10.0.0.1"]), now);
        nodes.handle(info("b", 1, true, &["10.0.0.1"]), now);
        nodes.handle(disconnect("a"), now);
        assert_eq!((staying(&nodes).len(), leaving(&nodes).len()), (1, 0));
        nodes.handle(disconnect("b"), now);
        assert_eq!((staying(&nodes).len(), leaving(&nodes).len()), (0, 1));
        nodes.handle(info("c", 1, true, &["10.0.0.1"]), now);
        assert_eq!((staying(&nodes).len(), leaving(&nodes).len()), (1, 0));
    }

    #[test]
    fn a_late_info_changes_nothing() {
        let now = Instant::now();
        let mut nodes = nodes(&[]);
        nodes.handle_connected(now);
        nodes.handle(info("a", 5, true, &["10.0.0.1"]), now);
        nodes.handle(info("a", 4, false, &["10.0.0.1"]), now);
        assert_eq!(staying(&nodes), ["10.0.0.1:3000"]);
    }

    #[test]
    fn somebody_else_s_goodbye_is_contradicted_by_a_heartbeat() {
        let now = Instant::now();
        let mut nodes = nodes(&[]);
        nodes.handle_connected(now);
        nodes.handle(info("a", 1, true, &["10.0.0.1"]), now);
        nodes.handle(disconnect("a"), now);
        assert_eq!(nodes.handle(heartbeat("a"), now), Ask::One("a".to_owned()));
        assert_eq!(nodes.handle(heartbeat("a"), now), Ask::Nobody);
        nodes.handle(info("a", 1, true, &["10.0.0.1"]), now);
        assert_eq!((staying(&nodes).len(), leaving(&nodes).len()), (1, 0));
    }

    #[test]
    fn silence_counts_only_while_the_bus_is_there() {
        let start = Instant::now();
        let mut nodes = nodes(&[]);
        nodes.handle_connected(start);
        nodes.handle(info("a", 1, true, &["10.0.0.1"]), start);
        nodes.handle(info("b", 1, true, &["10.0.0.2"]), start);
        assert_eq!(nodes.next_due(), Some(start + TIMEOUT));
        nodes.handle(heartbeat("a"), start + TIMEOUT / 2);
        nodes.handle_timeout(start + TIMEOUT);
        assert_eq!(staying(&nodes), ["10.0.0.1:3000"]);
        nodes.handle_disconnected();
        let back = start + TIMEOUT * 100;
        nodes.handle_timeout(back);
        assert_eq!(staying(&nodes), ["10.0.0.1:3000"]);
        nodes.handle_connected(back);
        nodes.handle_timeout(back + TIMEOUT / 2);
        assert_eq!(staying(&nodes), ["10.0.0.1:3000"]);
        nodes.handle_timeout(back + TIMEOUT);
        assert_eq!(staying(&nodes), [""; 0]);
        // A crash says nothing: who went silent is not said to be leaving.
        assert_eq!(leaving(&nodes), [""; 0]);
    }

    #[test]
    fn a_bus_without_streamers_is_settled_after_a_while() {
        let now = Instant::now();
        let mut nodes = nodes(&[]);
        nodes.handle_connected(now);
        nodes.take_changed();
        assert_eq!(nodes.next_due(), Some(now + PATIENCE));
        nodes.handle_timeout(now + PATIENCE);
        assert!(nodes.is_settled() && nodes.take_changed());
        assert!(nodes.seen().is_empty());
    }

    #[test]
    fn the_first_address_in_a_configured_range() {
        let now = Instant::now();
        for (networks, list, chosen) in [
            (
                &[][..],
                &["10.0.0.1", "172.17.0.1"][..],
                Some("10.0.0.1:3000"),
            ),
            (
                &["172.16.0.0/12"],
                &["10.0.0.1", "172.17.0.1"],
                Some("172.17.0.1:3000"),
            ),
            (&["192.168.0.0/16"], &["10.0.0.1"], None),
            (&[], &["0.0.0.0", "224.0.0.1", "255.255.255.255"], None),
            (&[], &[], None),
        ] {
            let mut nodes = nodes(networks);
            nodes.handle_connected(now);
            nodes.handle(info("a", 1, true, list), now);
            let address = nodes.seen().hosts["host-a"].address;
            assert_eq!(
                address.map(|addr| addr.to_string()).as_deref(),
                chosen,
                "{list:?}"
            );
        }
    }

    proptest! {
        /// Whatever comes in whatever order, what is told is in itself right, and a change is
        /// never missed.
        #[test]
        fn any_packets(steps in vec((0u8..7, 0u8..5, 0u64..3, 0u8..4, 0u64..40), 0..60)) {
            let mut now = Instant::now();
            let mut nodes = nodes(&[]);
            let mut known = nodes.seen();
            for (kind, who, sequence, address, pause) in steps {
                now += Duration::from_secs(pause);
                let (sender, address) = (format!("n{who}"), format!("10.0.0.{address}"));
                match kind {
                    0 => nodes.handle_connected(now),
                    1 => nodes.handle_disconnected(),
                    2 => drop(nodes.handle(heartbeat(&sender), now)),
                    3 => drop(nodes.handle(disconnect(&sender), now)),
                    kind => drop(nodes.handle(info(&sender, sequence, kind > 4, &[&address]), now)),
                }
                nodes.handle_timeout(now);
                let due = nodes.next_due();
                prop_assert!(due.is_none_or(|due| due > now), "it would spin");
                let seen = nodes.seen();
                prop_assert!(nodes.take_changed() || seen == known);
                for address in seen.endpoints.0.values() {
                    prop_assert!(!seen.leaving.contains(address));
                }
                known = seen;
            }
        }
    }

    #[test]
    fn strangers_are_bounded() {
        let now = Instant::now();
        let mut nodes = nodes(&[]);
        nodes.handle_connected(now);
        for n in 0..MOST_STREAMERS + 10 {
            nodes.handle(info(&n.to_string(), 1, true, &["10.0.0.1"]), now);
        }
        assert_eq!(nodes.seen().hosts.len(), MOST_STREAMERS);
        let asked = (0..MOST_ASKED * 2)
            .filter(|n| nodes.handle(heartbeat(&format!("x{n}")), now) != Ask::Nobody)
            .count();
        assert_eq!(asked, MOST_ASKED);
        assert_eq!(
            nodes.handle(info("me", 1, true, &["10.0.0.3"]), now),
            Ask::Nobody
        );
        assert_eq!(nodes.handle(heartbeat("me"), now), Ask::Nobody);
    }
}
