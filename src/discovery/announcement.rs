//! What sources say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    base::id::{StreamerAddr, StreamerId},
    bus::LinkError,
};

/// All streamers that somebody knows; an address appears once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(pub BTreeMap<StreamerId, StreamerAddr>);

impl Endpoints {
    /// Streamers named after their addresses, which is what every source does: a streamer that two
    /// sources know must not become another one when one of them falls silent.
    pub fn of_addresses(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(
            addresses
                .into_iter()
                .map(|addr| (StreamerId::new(addr.to_string()), StreamerAddr(addr)))
                .collect(),
        )
    }

    /// Adds what `other` knows in addition. Where both know an id or an address, this one is right.
    pub fn complete(&mut self, other: &Self) {
        for (id, addr) in &other.0 {
            if !self.0.contains_key(id) && !self.0.values().any(|known| known == addr) {
                self.0.insert(id.clone(), *addr);
            }
        }
    }
}

/// One complete answer of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub endpoints: Endpoints,
    /// Streamers of which this source knows that they are about to end, listed or not: it says so
    /// until they are back or forgotten.
    pub leaving: BTreeSet<StreamerAddr>,
    /// Hosts (in Kubernetes: pods) of streamers, where the source knows them. A source that knows
    /// names only is completed by one that has addresses for them.
    pub hosts: BTreeMap<String, Host>,
}

/// A host of a streamer, as one source knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub address: Option<StreamerAddr>,
    pub leaving: bool,
}

impl Seen {
    /// Addresses without names, all of which stay.
    pub fn of_endpoints(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            ..Self::default()
        }
    }

    /// Whether there were any.
    pub(super) fn forget_farewells(&mut self) -> bool {
        let hosts = self.hosts.len();
        self.hosts.retain(|_, host| !host.leaving);
        let any = !self.leaving.is_empty() || self.hosts.len() < hosts;
        self.leaving.clear();
        any
    }

    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.endpoints.0.is_empty() && !self.hosts.values().any(|host| !host.leaving)
    }
}

/// What a source says at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The last answer that was not empty.
    pub seen: Seen,
    pub status: Status,
    /// When the source was last heard to confirm or to change it.
    pub heard: Option<Instant>,
}

impl Announcement {
    pub(super) fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        let heard = self.heard;
        heard.is_none_or(|heard| now.saturating_duration_since(heard) > age)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// No answer yet.
    #[default]
    Pending,
    Fresh,
    /// The last answer was of no use; the set of an earlier one is held.
    Stale(SourceError),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("the answer is empty")]
    Empty,
    #[error("the name does not exist")]
    NoSuchName,
    #[error("no DNS server answered in time")]
    Timeout,
    #[error("the DNS server answered {0}")]
    Refused(String),
    #[error("the DNS servers cannot be reached")]
    Unreachable,
    #[error("the name is not a valid DNS name")]
    BadName,
    #[error("the system's resolver configuration cannot be read (set `resolvers`)")]
    NoResolver,
    #[error("streamers are heard, but none has an address that is believed (see `networks`)")]
    NoAddress,
    #[error(transparent)]
    Nats(#[from] LinkError),
    #[error(transparent)]
    Kubernetes(#[from] super::KubernetesTrouble),
    #[error("the answer brings a defect of the gateway to light (report it)")]
    Defect,
}
