//! Several gateways that act as one. No I/O.
//!
//! Each gateway tells the others once a second, and soon after a change, what it has: one packet
//! ([`State`]), by a message bus that somebody else looks after. Nobody is in charge, nothing is
//! asked for a single client, and without the bus each gateway goes on by itself.
//!
//! [`Replicas`] is a machine that others drive: packets go in ([`Replicas::handle`]), what this
//! gateway has ([`Replicas::claim`], [`Replicas::set_demand`]), and time ([`Replicas::handle_timeout`]);
//! out come the packet that is due ([`Replicas::packet`]), what this gateway may have of each
//! streamer, and its share of the pace of logins ([`Replicas::share`]).
//!
//! Clocks of different gateways are never compared: packets carry none, and how old one is is
//! measured from when it came.

mod claims;
mod packet;
mod roster;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

pub use self::{
    claims::Usage,
    packet::{
        Charge, Charges, Claim, Demand, MOST_CHARGES, MOST_REPLICAS, PoolState, ReplicaId, State,
        Unusable, VERSION,
    },
    roster::{News, Replica},
};
use self::{
    claims::{Account, Knowledge, Others},
    roster::Roster,
};

/// This gateway among the others.
#[derive(Debug)]
pub struct Replicas {
    own: ReplicaId,
    name: String,
    /// Of the last packet.
    seq: u64,
    roster: Roster,
    phase: Phase,
    accounts: HashMap<(String, String), Account>,
    pools: BTreeMap<String, PoolState>,
    demand: Demand,
    /// What packets said of it, each with its number: those that somebody may not have heard, and
    /// the one before.
    said: VecDeque<(u64, Demand)>,
    /// When the last packet was sent, or the first one may be.
    spoke_at: Instant,
    /// Something is to be said soon.
    urgent: bool,
    /// Until the next packet; not always the same, so that gateways do not all speak at once.
    period: Duration,
}

/// What is known of who there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no bus.
    Away,
    /// Somebody may be there who has not been heard yet.
    Learning {
        until: Instant,
    },
    Knowing,
}

/// What a gateway may do at one streamer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Sessions that it may have; `None`: no claim limits it.
    pub claim: Option<u32>,
    /// Sessions of the other gateways.
    pub others: u32,
}

impl Replicas {
    /// `id` must be random. The name is for people.
    pub fn new(id: ReplicaId, name: String, now: Instant) -> Self {
        Self {
            own: id,
            name,
            seq: 0,
            roster: Roster::default(),
            phase: Phase::Away,
            accounts: HashMap::new(),
            pools: BTreeMap::new(),
            demand: Demand::default(),
            said: VecDeque::new(),
            spoke_at: now,
            urgent: false,
            period: PERIOD,
        }
    }

    pub fn id(&self) -> ReplicaId {
        self.own
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// There is a bus, again. Whoever knows somebody still knows everybody.
    pub fn handle_connected(&mut self, now: Instant) {
        self.phase = match self.roster.is_empty() {
            true => Phase::Learning { until: now + LEARN },
            false => Phase::Knowing,
        };
        self.urgent = true;
        self.spoke_at = now.checked_sub(SHORTEST_PAUSE).unwrap_or(now);
    }

    /// There is none. What was agreed on holds until those that it was agreed with have been silent
    /// for too long.
    pub fn handle_disconnected(&mut self) {
        self.phase = Phase::Away;
    }

    /// Somebody has said something; a packet of one's own is passed over.
    ///
    /// # Errors
    /// [`Unusable`]
    pub fn handle(&mut self, state: State, now: Instant) -> Result<News, Unusable> {
        if state.id == self.own {
            return Ok(News::Nothing);
        }
        let news = self.roster.handle(state, now)?;
        self.urgent |= news != News::Nothing;
        Ok(news)
    }

    /// Forgets who is silent; returns them.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Replica> {
        if let Phase::Learning { until } = self.phase
            && now >= until
        {
            self.phase = Phase::Knowing;
        }
        self.roster.expire(now)
    }

    /// When something is to be done next, by [`Self::handle_timeout`] or [`Self::packet`].
    pub fn next_due(&self) -> Option<Instant> {
        let learned = match self.phase {
            Phase::Learning { until } => Some(until),
            Phase::Away | Phase::Knowing => None,
        };
        [learned, self.roster.next_due(), self.packet_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Decides how many sessions this gateway may have on each streamer of a pool. The caller sees
    /// to it that no session begins between counting those that there are and putting the answer
    /// into effect.
    pub fn claim(
        &mut self,
        pool: &str,
        sessions: u32,
        waiting: u32,
        streamers: &[(&str, Usage)],
    ) -> Vec<Terms> {
        let mut state = PoolState {
            sessions,
            waiting,
            streamers: BTreeMap::new(),
        };
        let alone = self.roster.is_empty();
        let (heard, next) = (self.roster.heard_by_all(self.own), self.seq + 1);
        let learning = matches!(self.phase, Phase::Learning { .. });
        let terms = streamers.iter().map(|(name, usage)| {
            let key = (pool.to_owned(), (*name).to_owned());
            let account = self.accounts.entry(key).or_default();
            let (others, held) = others(&self.roster, self.own, pool, name);
            if alone && !learning {
                // Others that come hear of it, and take nothing before it is given up.
                account.told = Claim {
                    held: usage.held,
                    claim: usage.limit.max(usage.held),
                    wants: 0,
                };
                account.barrier = next;
            } else {
                let known = Knowledge {
                    others,
                    heard,
                    next,
                    learning,
                };
                let agreed = || self.roster.agree_on(pool, name);
                self.urgent |= account.decide(*usage, known, agreed);
            }
            state.streamers.insert((*name).to_owned(), account.told);
            Terms {
                claim: (!alone || learning).then_some(account.told.claim),
                others: held,
            }
        });
        let terms = terms.collect();
        self.accounts
            .retain(|(of, name), _| of != pool || state.streamers.contains_key(name));
        let before = self.pools.insert(pool.to_owned(), state);
        // Others keep nothing in reserve while somebody waits.
        self.urgent |= before.is_none_or(|before| (before.waiting == 0) != (waiting == 0));
        terms
    }

    /// Forgets pools that are no longer there.
    pub fn retain_pools(&mut self, exists: impl Fn(&str) -> bool) {
        self.pools.retain(|pool, _| exists(pool));
        self.accounts.retain(|(pool, _), _| exists(pool));
    }

    /// How many logins this gateway has.
    pub fn set_demand(&mut self, demand: Demand) {
        self.urgent |= demand.is_news_after(&self.demand);
        self.demand = demand;
    }

    /// This gateway's share of the pace of logins, in all (`None`) or at one streamer. A quarter of
    /// the pace is shared evenly, the rest by how many logins there are.
    ///
    /// The shares of all gateways together are never more than 1 while packets arrive: this one
    /// counts what it had in any packet that somebody may have heard last, and the others the more
    /// of the last two of it. One that has been silent for 1.5 s is not waited
    /// for; it is probably gone.
    pub fn share(&self, streamer: Option<&str>, now: Instant) -> f64 {
        if matches!(self.phase, Phase::Learning { .. }) {
            return 0.0;
        }
        let of = |demand: &Demand| match streamer {
            None => demand.whole,
            Some(streamer) => demand.streamers.get(streamer).copied().unwrap_or(0),
        };
        let weight = |logins: u32| f64::from(logins) + 1.0;
        let heard = self.roster.heard_by_all_since(self.own, now, SOON);
        let least = self.unheard(heard).map(of).min().unwrap_or(0);
        let own = match heard {
            // Somebody may not know yet that this gateway is there.
            0 => 0.0,
            _ => weight(least),
        };
        let others = self.roster.others().map(|replica| match streamer {
            None => replica.logins(),
            Some(streamer) => replica.logins_at(streamer),
        });
        let all = own + others.map(weight).sum::<f64>();
        let even = 1.0 / (f64::from(u32::try_from(self.roster.len()).unwrap_or(u32::MAX)) + 1.0);
        even / 4.0 + own / all * 0.75
    }

    /// What was said of logins since the packet of this number, that one included.
    fn unheard(&self, heard: u64) -> impl Iterator<Item = &Demand> {
        let newer = self.said.partition_point(|(seq, _)| *seq <= heard);
        let from = newer.saturating_sub(1);
        self.said.range(from..).map(|(_, demand)| demand)
    }

    /// Others are to hear at once what the caller has to add.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// The packet that is due, if one is. `jitter` is between 0 and 1.
    pub fn packet(&mut self, jitter: f64, now: Instant) -> Option<State> {
        if self.packet_at()? > now {
            return None;
        }
        self.spoke_at = now;
        self.urgent = false;
        let heard = self.roster.heard_by_all_since(self.own, now, SOON);
        let newer = self.said.partition_point(|(seq, _)| *seq <= heard);
        self.said.drain(..newer.saturating_sub(1));
        self.period = PERIOD.mul_f64(0.8 + 0.2 * jitter.clamp(0.0, 1.0));
        Some(self.state())
    }

    /// The last packet: this gateway holds nothing any more.
    pub fn farewell(&mut self) -> State {
        let mut state = self.state();
        state.leaves = true;
        state.pools.clear();
        state
    }

    /// Those that there are, besides this one.
    pub fn others(&self) -> impl Iterator<Item = &Replica> {
        self.roster.others()
    }

    pub fn is_alone(&self) -> bool {
        self.roster.is_empty()
    }

    /// What this gateway says of a pool.
    pub fn pool(&self, pool: &str) -> Option<&PoolState> {
        self.pools.get(pool)
    }

    fn state(&mut self) -> State {
        self.seq += 1;
        let mut state = State::new(self.own, self.name.clone(), self.seq);
        let seen = self.roster.others();
        state.seen = seen
            .map(|replica| (replica.state.id, replica.state.seq))
            .collect();
        state.pools = self.pools.clone();
        state.logins = self.demand.clone();
        if self.said.len() == MOST_SAID {
            // Whoever has heard no newer one counts with the more of the two.
            if let Some((_, oldest)) = self.said.pop_front()
                && let Some((_, next)) = self.said.front_mut()
            {
                next.lower_to(&oldest);
            }
        }
        self.said.push_back((self.seq, self.demand.clone()));
        state
    }

    fn packet_at(&self) -> Option<Instant> {
        if self.phase == Phase::Away {
            return None;
        }
        Some(match self.urgent {
            true => self.spoke_at + SHORTEST_PAUSE,
            false => self.spoke_at + self.period,
        })
    }
}

/// What the others have of a streamer, and what of it they use.
fn others(roster: &Roster, own: ReplicaId, pool: &str, streamer: &str) -> (Others, u32) {
    let mut others = Others::default();
    let mut held = 0_u32;
    for replica in roster.others() {
        others.count += 1;
        let Some(pool) = replica.state.pools.get(pool) else {
            continue;
        };
        others.in_need |= pool.waiting > 0;
        let Some(claim) = pool.streamers.get(streamer) else {
            continue;
        };
        others.claims += u64::from(claim.most());
        held = held.saturating_add(claim.held);
        if claim.wants > 0 {
            others.wanting += 1;
            others.before += u32::from(replica.state.id < own);
        }
    }
    (others, held)
}

const PERIOD: Duration = Duration::from_secs(1);
/// What changes is told soon, but not each change by itself.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Longer than the pause between two packets of anybody.
const LEARN: Duration = Duration::from_millis(1_200);
/// The same, with what is late.
const SOON: Duration = Duration::from_millis(1_500);
/// More than there are packets until somebody who is silent is not counted with any more.
const MOST_SAID: usize = 40;
