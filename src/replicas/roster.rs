//! Who else there is, as each of them said last.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::packet::{Demand, MOST_REPLICAS, ReplicaId, State, Unusable};

/// Another gateway.
#[derive(Clone, Debug)]
pub struct Replica {
    pub state: State,
    /// When its last packet came, by our own clock.
    pub heard_at: Instant,
    /// When its first one did.
    pub since: Instant,
    /// The packet that raised its claim for a streamer last.
    raised: HashMap<(String, String), u64>,
    /// The logins of the packet before, so that one moment without any does not give all away.
    before: Demand,
}

/// What a packet changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Joined,
    Left,
    /// Something that it waits for our acknowledgement of.
    Awaits,
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    others: BTreeMap<ReplicaId, Replica>,
}

impl Roster {
    pub(super) fn handle(&mut self, state: State, now: Instant) -> Result<News, Unusable> {
        let id = state.id;
        let Some(known) = self.others.get_mut(&id) else {
            if state.leaves {
                return Err(Unusable::Stale);
            }
            if self.others.len() + 1 >= MOST_REPLICAS {
                return Err(Unusable::TooMany);
            }
            let mut replica = Replica {
                state: State::default(),
                heard_at: now,
                since: now,
                raised: HashMap::new(),
                before: Demand::default(),
            };
            replica.learn(state);
            self.others.insert(id, replica);
            return Ok(News::Joined);
        };
        if state.seq <= known.state.seq {
            return Err(Unusable::Stale);
        }
        if state.leaves {
            self.others.remove(&id);
            return Ok(News::Left);
        }
        known.heard_at = now;
        Ok(match known.learn(state) {
            true => News::Awaits,
            false => News::Nothing,
        })
    }

    /// Forgets those that were silent for too long; returns them.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Replica> {
        let gone = |replica: &Replica| now.saturating_duration_since(replica.heard_at) >= SILENCE;
        let silent = self.others.iter().filter(|(_, replica)| gone(replica));
        let ids: Vec<ReplicaId> = silent.map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| self.others.remove(id)).collect()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.others
            .values()
            .map(|replica| replica.heard_at + SILENCE)
            .min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.others.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.others.len()
    }

    /// In the order of their ids.
    pub(super) fn others(&self) -> impl Iterator<Item = &Replica> {
        self.others.values()
    }

    /// Whether each of them knows of every raise of the others that we know of: what one of them
    /// takes meanwhile is then no more than we leave it.
    pub(super) fn agree_on(&self, pool: &str, streamer: &str) -> bool {
        let key = (pool.to_owned(), streamer.to_owned());
        self.others().all(|who| {
            let raise = who.raised.get(&key).copied().unwrap_or(0);
            self.others().all(|other| {
                let seen = other.state.seen.get(&who.state.id);
                other.state.id == who.state.id || seen.is_some_and(|seen| *seen >= raise)
            })
        })
    }

    /// The last packet of `own` that all of them have heard; `u64::MAX` when there are none.
    pub(super) fn heard_by_all(&self, own: ReplicaId) -> u64 {
        let seen = self.others().map(|replica| replica.state.seen.get(&own));
        seen.map(|seen| seen.copied().unwrap_or(0))
            .min()
            .unwrap_or(u64::MAX)
    }

    /// The same of those that were heard within this time.
    pub(super) fn heard_by_all_since(&self, own: ReplicaId, now: Instant, within: Duration) -> u64 {
        let fresh = |replica: &&Replica| now.saturating_duration_since(replica.heard_at) < within;
        let seen = self.others().filter(fresh);
        let seen = seen.map(|replica| replica.state.seen.get(&own).copied().unwrap_or(0));
        seen.min().unwrap_or(u64::MAX)
    }
}

impl Replica {
    /// Takes a newer packet in; whether something in it is of no use before all have heard it.
    fn learn(&mut self, state: State) -> bool {
        let mut awaits = false;
        for (name, pool) in &state.pools {
            let known = self.state.pools.get(name);
            for (streamer, claim) in &pool.streamers {
                let known = known.and_then(|pool| pool.streamers.get(streamer));
                let known = known.copied().unwrap_or_default();
                if claim.most() > known.most() {
                    let key = (name.clone(), streamer.clone());
                    self.raised.insert(key, state.seq);
                    awaits = true;
                }
                awaits |= known.wants == 0 && claim.wants > 0;
            }
        }
        self.raised.retain(|(pool, streamer), _| {
            let pool = state.pools.get(pool);
            pool.is_some_and(|pool| pool.streamers.contains_key(streamer))
        });
        awaits |= state.logins.is_news_after(&self.state.logins);
        let before = std::mem::replace(&mut self.state, state);
        self.before = before.logins;
        awaits
    }

    /// Logins there now or a moment ago.
    pub(super) fn logins(&self) -> u32 {
        self.state.logins.whole.max(self.before.whole)
    }

    pub(super) fn logins_at(&self, streamer: &str) -> u32 {
        let at = |demand: &Demand| demand.streamers.get(streamer).copied().unwrap_or(0);
        at(&self.state.logins).max(at(&self.before))
    }
}

/// Three periods, and a half for what is late.
pub(super) const SILENCE: Duration = Duration::from_millis(3_500);
