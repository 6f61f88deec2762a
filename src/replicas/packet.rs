//! What the gateways tell each other: JSON, bounded, and open to fields of later versions.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Which gateway: a random number for each start of a process, so that one that starts again is not
/// taken for the one that was there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// Everything that a gateway has to say to the others; each packet replaces the one before.
///
/// There are no times in it: how old a packet is, each gateway finds by its own clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`VERSION`]
    v: u32,
    pub id: ReplicaId,
    /// For people: the name of the host.
    #[serde(default)]
    pub name: String,
    /// Counts the packets of this gateway, from 1.
    pub seq: u64,
    /// It ends, and holds nothing any more.
    #[serde(default)]
    pub leaves: bool,
    /// The last packet of each gateway that this one counts with.
    #[serde(default)]
    pub seen: BTreeMap<ReplicaId, u64>,
    #[serde(default)]
    pub pools: BTreeMap<String, PoolState>,
    #[serde(default)]
    pub logins: Demand,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Charges>,
}

/// One pool, as a gateway uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// On all streamers, those that leave included.
    #[serde(default)]
    pub sessions: u32,
    /// Clients that wait for room.
    #[serde(default)]
    pub waiting: u32,
    #[serde(default)]
    pub streamers: BTreeMap<String, Claim>,
}

/// What a gateway has of one streamer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Sessions there.
    #[serde(rename = "h")]
    pub held: u32,
    /// Sessions that it may have there without asking; never less than it has.
    #[serde(rename = "c")]
    pub claim: u32,
    /// How many more it would like to claim. With 0 it does not take any before it has said so
    /// and been heard.
    #[serde(rename = "w", default, skip_serializing_if = "is_zero")]
    pub wants: u32,
}

impl Claim {
    /// What it may come to hold without a further word.
    pub(super) fn most(self) -> u32 {
        self.claim.max(self.held)
    }
}

/// Logins that wait or are in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    #[serde(default)]
    pub whole: u32,
    /// By streamer, where there are any.
    #[serde(default)]
    pub streamers: BTreeMap<String, u32>,
}

/// What users and addresses have used since the packet before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charges {
    /// Gateways whose accounts have the same names say the same here.
    pub names: u64,
    /// Account, rule and nanoseconds, see `session::quota`.
    #[serde(default)]
    pub charges: Vec<Charge>,
    /// Accounts of those who are punished, and for how many nanoseconds.
    #[serde(default)]
    pub penalties: Vec<(u64, u64)>,
}

/// Subject, account, rule and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge(pub u64, pub u64, pub u8, pub u64);

/// Why a packet was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    TooLarge,
    /// Of another version of the protocol.
    Version,
    Malformed,
    /// Older than one that was heard before.
    Stale,
    /// There are as many replicas as there may be.
    TooMany,
}

impl Unusable {
    pub const ALL: [Self; 5] = [
        Self::TooLarge,
        Self::Version,
        Self::Malformed,
        Self::Stale,
        Self::TooMany,
    ];

    /// Value of the `result` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Version => "version",
            Self::Malformed => "malformed",
            Self::Stale => "stale",
            Self::TooMany => "too_many",
        }
    }
}

impl Demand {
    /// Whether others are to hear of it soon, and say that they have.
    pub(super) fn is_news_after(&self, before: &Self) -> bool {
        (self.whole == 0) != (before.whole == 0) || self.whole > before.whole.saturating_mul(2)
    }

    /// The fewer of each.
    pub(super) fn lower_to(&mut self, other: &Self) {
        self.whole = self.whole.min(other.whole);
        self.streamers.retain(|streamer, logins| {
            let other = other.streamers.get(streamer).copied().unwrap_or(0);
            *logins = (*logins).min(other);
            *logins > 0
        });
    }
}

impl State {
    pub(super) fn new(id: ReplicaId, name: String, seq: u64) -> Self {
        Self {
            v: VERSION,
            id,
            name,
            seq,
            ..Self::default()
        }
    }

    /// Reads what somebody has sent.
    ///
    /// # Errors
    /// [`Unusable`] when it is not a packet of this version within the bounds.
    pub fn parse(payload: &[u8]) -> Result<Self, Unusable> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        if payload.len() > LARGEST {
            return Err(Unusable::TooLarge);
        }
        let version: Version = serde_json::from_slice(payload).map_err(|_| Unusable::Malformed)?;
        if version.v != VERSION {
            return Err(Unusable::Version);
        }
        let mut state: Self = serde_json::from_slice(payload).map_err(|_| Unusable::Malformed)?;
        let charges = state.quotas.as_ref();
        let charges = charges.map_or(0, |quotas| quotas.charges.len() + quotas.penalties.len());
        let streamers = state.pools.values().map(|pool| pool.streamers.len());
        if state.seen.len() > MOST_REPLICAS
            || state.pools.len() > MOST_POOLS
            || streamers.sum::<usize>() > MOST_STREAMERS
            || state.logins.streamers.len() > MOST_STREAMERS
            || charges > MOST_CHARGES
        {
            return Err(Unusable::TooLarge);
        }
        let shown = state.name.chars().filter(|c| !c.is_control());
        state.name = shown.take(LONGEST_NAME).collect();
        Ok(state)
    }

    /// As it is sent; `None` when it is too large for the others.
    pub fn to_payload(&self) -> Option<Vec<u8>> {
        let payload = serde_json::to_vec(self).ok();
        payload.filter(|payload| payload.len() <= LARGEST)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for ReplicaId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReplicaId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let id = u64::from_str_radix(&text, 16);
        id.map(Self)
            .map_err(|_| de::Error::custom("no id of a gateway"))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Gateways of other versions are not counted with.
pub const VERSION: u32 = 1;
/// Gateways that act as one, this one included.
pub const MOST_REPLICAS: usize = 64;
/// Charges and penalties of one packet.
pub const MOST_CHARGES: usize = 1_100;
/// A quarter of what a NATS server takes at most unless it is told otherwise.
const LARGEST: usize = 256 << 10;
const MOST_POOLS: usize = 256;
const MOST_STREAMERS: usize = 4_096;
const LONGEST_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::{Charge, Charges, Claim, PoolState, ReplicaId, State, Unusable};

    fn full() -> State {
        let mut state = State::new(ReplicaId(7), "gateway-1".to_owned(), 3);
        state.seen.insert(ReplicaId(u64::MAX), 5);
        let claim = Claim {
            held: 1,
            claim: 2,
            wants: 0,
        };
        let pool = PoolState {
            sessions: 1,
            waiting: 0,
            streamers: [("10.0.0.1:3000".to_owned(), claim)].into(),
        };
        state.pools.insert("default".to_owned(), pool);
        state.quotas = Some(Charges {
            names: u64::MAX,
            charges: vec![Charge(1, u64::MAX, 2, 5)],
            penalties: vec![(1, 2)],
        });
        state
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let state = full();
        let payload = state.to_payload().unwrap();
        assert_eq!(State::parse(&payload), Ok(state));
    }

    #[test]
    fn later_versions_may_say_more() {
        let text = r#"{"v":1,"id":"7","seq":1,"peer":"x","pools":{"a":{"more":{}}},"name":"a\nb"}"#;
        let state = State::parse(text.as_bytes()).unwrap();
        assert_eq!((state.id, &*state.name), (ReplicaId(7), "ab"));
        assert!(state.pools.contains_key("a") && state.quotas.is_none());
    }

    #[test]
    fn what_is_not_for_us_is_passed_over() {
        for (text, why) in [
            (String::new(), Unusable::Malformed),
            ("{\"v\":1}".to_owned(), Unusable::Malformed),
            ("{\"v\":2,\"what\":1}".to_owned(), Unusable::Version),
            (
                "{\"v\":1,\"id\":\"x\",\"seq\":1}".to_owned(),
                Unusable::Malformed,
            ),
            ("x".repeat(300_000), Unusable::TooLarge),
        ] {
            assert_eq!(State::parse(text.as_bytes()), Err(why), "{text:.40}");
        }
        let mut state = full();
        for id in 0..65 {
            state.seen.insert(ReplicaId(id), 1);
        }
        let payload = state.to_payload().unwrap();
        assert_eq!(State::parse(&payload), Err(Unusable::TooLarge));
    }
}
