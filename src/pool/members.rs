//! Everyone who is or was of the pool, with health, schedule and record.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use crate::base::id::{PoolName, StreamerAddr, StreamerId};

use super::{
    Pool, Settings,
    health::{Fault, Health, Outcome, Ramp},
    heat::{Change, Heat},
    machine::{Machine, Transition},
    meters::{self, HeatMeters, PoolMeters, StreamerMeters},
    pick::SplitMix,
    probing::{Pace, Probe, Schedule},
    streamer::{AdminState, Slots, Streamer},
    view::{Entry, PoolView},
};

#[derive(Debug)]
pub(super) struct Members {
    pool: Weak<Pool>,
    all: BTreeMap<StreamerId, Member>,
}

#[derive(Debug)]
struct Member {
    streamer: Arc<Streamer>,
    presence: Presence,
    admin: AdminState,
    machine: Machine,
    schedule: Schedule,
    meters: StreamerMeters,
    heat: Heat,
    /// From the first heartbeat on.
    heat_meters: Option<HeatMeters>,
}

/// What discovery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Listed,
    /// Gone, or about to go; the record is kept for a while, so that flapping does not wipe it.
    Leaving {
        since: Instant,
        /// It said so itself while discovery listed it, which may go on for a while.
        listed: bool,
    },
}

impl Members {
    pub(super) fn new(pool: Weak<Pool>) -> Self {
        Self {
            pool,
            all: BTreeMap::new(),
        }
    }

    /// See [`Pool::apply`].
    pub(super) fn apply(
        &mut self,
        name: &PoolName,
        endpoints: &BTreeMap<StreamerId, StreamerAddr>,
        now: Instant,
    ) -> bool {
        let mut changed = false;
        for (id, addr) in endpoints {
            changed |= match self.all.get_mut(id) {
                Some(member) => member.listed(*addr, &self.pool, name, now),
                None => {
                    tracing::info!(pool = %name, streamer = %id, %addr, "streamer {id} discovered; it is probed before it gets sessions");
                    let member = Member::new(id, *addr, &self.pool, name, now);
                    self.all.insert(id.clone(), member);
                    true
                }
            };
        }
        for (id, member) in &mut self.all {
            if endpoints.contains_key(id) {
                continue;
            }
            if member.leave(false, now) {
                tracing::info!(
                    pool = %name, streamer = %id, sessions = member.streamer.sessions(),
                    "streamer {id} is gone from discovery and gets no new sessions"
                );
                changed = true;
            }
        }
        changed
    }

    /// See [`Pool::announce_leave`].
    pub(super) fn announce_leave(
        &mut self,
        name: &PoolName,
        id: &StreamerId,
        now: Instant,
    ) -> bool {
        let Some(member) = self.all.get_mut(id) else {
            return false;
        };
        if member.leave(true, now) {
            tracing::info!(
                pool = %name, streamer = %id, sessions = member.streamer.sessions(),
                "streamer {id} says that it will end and gets no new sessions"
            );
        }
        true
    }

    /// See [`Pool::set_admin`].
    pub(super) fn set_admin(
        &mut self,
        name: &PoolName,
        id: &StreamerId,
        admin: AdminState,
        now: Instant,
    ) -> bool {
        let Some(member) = self.all.get_mut(id) else {
            return false;
        };
        let before = std::mem::replace(&mut member.admin, admin);
        if before.label() != admin.label() {
            tracing::info!(pool = %name, streamer = %id, from = before.label(), to = admin.label(), sessions = member.streamer.sessions(), "streamer {id} was set to {} by the operator", admin.label());
        }
        match (before, admin) {
            (_, AdminState::Maint { .. }) => member.schedule.stop(),
            // Nobody knows what was done to it meanwhile.
            (AdminState::Maint { .. }, _) => {
                member.machine.forget_proof(now);
                member.schedule = Schedule::new(now);
            }
            _ => {}
        }
        true
    }

    pub(super) fn admin(&self, id: &StreamerId) -> Option<AdminState> {
        Some(self.all.get(id)?.admin)
    }

    /// See [`Pool::find`].
    pub(super) fn find(&self, name: &str) -> Vec<(Arc<Streamer>, AdminState)> {
        self.all
            .values()
            .filter(|member| {
                let streamer = &member.streamer;
                streamer.id.as_str() == name || streamer.addr.to_string() == name
            })
            .map(|member| (member.streamer.clone(), member.admin))
            .collect()
    }

    pub(super) fn due(&mut self, pace: &Pace, room: usize, now: Instant) -> Vec<Probe> {
        let mut probes = Vec::new();
        // Those that wait longest first, so that a bound on probes starves nobody.
        let mut order: Vec<_> = self
            .all
            .values_mut()
            .filter(|member| member.presence == Presence::Listed)
            .filter_map(|member| {
                Some((member.schedule.next(pace).filter(|at| *at <= now)?, member))
            })
            .collect();
        order.sort_by_key(|(at, member)| (member.schedule.is_crowded(), *at));
        for (_, member) in order {
            while probes.len() < room
                && let Some(kind) = member.schedule.take(member.machine.health(), pace, now)
            {
                let health = member.machine.health();
                probes.push(Probe::new(member.streamer.clone(), kind, health, pace, now));
            }
        }
        probes
    }

    pub(super) fn next_due(&self, pace: &Pace) -> Option<Instant> {
        self.listed()
            .filter_map(|member| member.schedule.next(pace))
            .min()
    }

    /// A probe of a streamer that has gone or moved meanwhile counts for nothing.
    pub(super) fn probed(
        &mut self,
        probe: &Probe,
        result: Result<(), Fault>,
        settings: &Settings,
        random: &mut SplitMix,
        now: Instant,
    ) -> Option<Transition> {
        let ramp = if self.any_warm(settings.slow_start, now) {
            Ramp::Rising {
                from: now,
                over: settings.slow_start,
            }
        } else {
            Ramp::Full
        };
        let member = self.current(&probe.streamer)?;
        if matches!(member.admin, AdminState::Maint { .. }) {
            return None;
        }
        if !member.schedule.ended(probe.kind, probe.began) {
            return None;
        }
        let thresholds = settings.thresholds();
        let transition = member
            .machine
            .probed(probe.kind, result, &thresholds, ramp, now);
        if let Some(Transition {
            to: Health::Up { .. },
            ..
        }) = transition
        {
            member.schedule.proven(probe.began);
        }
        let may_return = member.machine.may_return(now);
        member.schedule.done(
            probe.kind,
            result.is_ok(),
            member.machine.health(),
            may_return,
            (&settings.pace, random, now),
        );
        transition
    }

    pub(super) fn reported(
        &mut self,
        streamer: &Streamer,
        outcome: Outcome,
        settings: &Settings,
        now: Instant,
    ) -> Option<Transition> {
        let listed = self.listed().count();
        let out = self
            .listed()
            .filter(|member| matches!(member.machine.health(), Health::Down { .. }))
            .count();
        let may_eject = as_f64(out + 1) <= settings.max_ejected * as_f64(listed);
        let member = self.current(streamer)?;
        let sessions = member.streamer.sessions();
        let thresholds = settings.thresholds();
        let transition = member
            .machine
            .reported(outcome, may_eject, sessions, &thresholds, now);
        if outcome != Outcome::Ok {
            member.schedule.hurry(outcome, now);
        }
        if let Some(Transition {
            to: Health::Degraded { .. },
            ..
        }) = transition
        {
            // The way back, should no client come by.
            member.schedule.ddp_at(now + settings.pace.interval * 3);
        }
        transition
    }

    /// See [`Pool::beat`].
    pub(super) fn beat(&mut self, name: &PoolName, addr: StreamerAddr, percent: u8, now: Instant) {
        let known = |member: &Member| member.streamer.addr == addr;
        let others = self.listed().filter(|member| !known(member));
        let others: Vec<_> = others
            .filter_map(|member| member.heat.percent(now))
            .collect();
        let sum: f64 = others.iter().copied().map(f64::from).sum();
        let mean = (!others.is_empty()).then(|| sum / as_f64(others.len()));
        for (id, member) in &mut self.all {
            if member.presence != Presence::Listed || !known(member) {
                continue;
            }
            match member.heat.beat(percent, mean, now) {
                Some(Change::Hot) => tracing::warn!(
                    pool = %name, streamer = %id, percent, others = mean,
                    "the machine of streamer {id} is at {percent} % of its CPU, the others' at \
                     {:.0} %: it gets a quarter of its share of newcomers until it is better",
                    mean.unwrap_or_default()
                ),
                Some(Change::Cool) => tracing::info!(
                    pool = %name, streamer = %id, percent,
                    "the machine of streamer {id} is at {percent} % of its CPU: it gets its share of \
                     newcomers again"
                ),
                None => {}
            }
            let meters = member
                .heat_meters
                .get_or_insert_with(|| HeatMeters::new(name, id));
            meters.cpu.set(f64::from(percent));
            meters.hot.set(f64::from(u8::from(member.heat.is_hot())));
        }
    }

    /// Forgets how hot those are who were not heard for long; returns whether there are any.
    pub(super) fn cool(&mut self, now: Instant) -> bool {
        let mut any = false;
        for (id, member) in &mut self.all {
            let before = member.heat;
            if member.heat.expire(now).is_some() {
                tracing::info!(
                    streamer = %id,
                    "nothing is heard of the CPU of streamer {id} any more: it gets its share of \
                     newcomers again"
                );
            }
            if member.heat != before {
                any = true;
                if let Some(meters) = &member.heat_meters {
                    meters.cpu.set(0.0);
                    meters.hot.set(0.0);
                }
            }
        }
        any
    }

    /// Slow start protects a cold streamer while others carry the load. Where nobody does (the
    /// process starts, the whole pool comes back) it would only starve clients.
    pub(super) fn end_needless_ramps(&mut self, slow_start: Duration, now: Instant) {
        if self.any_ramp(now) && !self.any_warm(slow_start, now) {
            for member in self.all.values_mut() {
                member.machine.end_ramp();
            }
        }
    }

    /// Some streamer's capacity rises with time.
    pub(super) fn any_ramp(&self, now: Instant) -> bool {
        self.listed().any(|member| {
            matches!(
                member.machine.health(),
                Health::Up { ramp: Ramp::Rising { from, over }, .. }
                    if now.saturating_duration_since(from) < over
            )
        })
    }

    fn any_warm(&self, slow_start: Duration, now: Instant) -> bool {
        self.listed().any(|member| {
            member.admin == AdminState::Ready
                && matches!(
                    member.machine.health(),
                    Health::Up { since, .. }
                        if now.saturating_duration_since(since) >= slow_start
                )
        })
    }

    /// Streamers that take sessions.
    pub(super) fn in_rotation(&self) -> usize {
        self.listed()
            .filter(|member| {
                member.admin == AdminState::Ready && member.machine.health().in_rotation()
            })
            .count()
    }

    pub(super) fn view(&self, name: &PoolName, limit: u32, now: Instant) -> PoolView {
        let entry = |member: &Member| Entry {
            streamer: member.streamer.clone(),
            admin: member.admin,
            health: member.machine.health(),
            limit,
            cpu: member.heat.percent(now),
            hot: member.heat.is_hot(),
        };
        PoolView {
            name: name.clone(),
            entries: self.listed().map(entry).collect(),
            leaving: self
                .all
                .values()
                .filter(|member| {
                    member.presence != Presence::Listed && member.streamer.sessions() > 0
                })
                .map(entry)
                .collect(),
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn measure(&self, pool: &PoolMeters, view: &PoolView, now: Instant) {
        let (mut up, mut degraded, mut down, mut unknown, mut draining) = (0, 0, 0, 0, 0);
        for entry in &view.entries {
            let count = match entry.health {
                _ if entry.admin != AdminState::Ready => &mut draining,
                Health::Unknown { .. } => &mut unknown,
                Health::Up { .. } => &mut up,
                Health::Degraded { .. } => &mut degraded,
                Health::Down { .. } => &mut down,
            };
            *count += 1;
            if let Some(member) = self.all.get(&entry.streamer.id) {
                member.meters.up.set(f64::from(u8::from(entry.eligible())));
                member.meters.capacity.set(f64::from(entry.capacity(now)));
            }
        }
        for member in self.all.values() {
            let draining = member.is_draining();
            member.meters.draining.set(f64::from(u8::from(draining)));
            if member.presence != Presence::Listed {
                member.meters.up.set(0.0);
                member.meters.capacity.set(0.0);
            }
        }
        for (gauge, count) in [
            (&pool.up, up),
            (&pool.degraded, degraded),
            (&pool.down, down),
            (&pool.unknown, unknown),
            (&pool.draining, draining),
        ] {
            gauge.set(f64::from(count));
        }
    }

    /// Drops the record of those that left long ago and hold no session, and bounds how many
    /// records there are, however fast a discovery churns.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.all.retain(|_, member| match member.presence {
            Presence::Listed => true,
            Presence::Leaving { since, .. } => {
                member.streamer.sessions() > 0 || now.saturating_duration_since(since) < RECORD_KEPT
            }
        });
        if self.all.len() <= MOST_RECORDS {
            return;
        }
        let idle = |member: &Member| match member.presence {
            Presence::Leaving { since, .. } if member.streamer.sessions() == 0 => Some(since),
            _ => None,
        };
        let mut records: Vec<_> = self
            .all
            .iter()
            .filter_map(|(id, member)| Some((idle(member)?, id.clone())))
            .collect();
        if let Some(excess) = records.len().checked_sub(MOST_RECORDS) {
            records.sort();
            for (_, id) in records.into_iter().take(excess) {
                self.all.remove(&id);
            }
        }
    }

    /// All of whom something is known, those that left included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn listed(&self) -> impl Iterator<Item = &Member> {
        self.all
            .values()
            .filter(|member| member.presence == Presence::Listed)
    }

    /// The member that this very streamer (not a predecessor at another address) stands for.
    fn current(&mut self, streamer: &Streamer) -> Option<&mut Member> {
        self.all.get_mut(&streamer.id).filter(|member| {
            member.presence == Presence::Listed && std::ptr::eq(&*member.streamer, streamer)
        })
    }
}

impl Member {
    fn new(
        id: &StreamerId,
        addr: StreamerAddr,
        pool: &Weak<Pool>,
        name: &PoolName,
        now: Instant,
    ) -> Self {
        let slots = Arc::new(Slots::new(meters::sessions(name, id)));
        Self {
            streamer: Streamer::new(id.clone(), addr, slots, pool.clone()),
            presence: Presence::Listed,
            admin: AdminState::Ready,
            machine: Machine::new(now),
            schedule: Schedule::new(now),
            meters: StreamerMeters::new(name, id),
            heat: Heat::default(),
            heat_meters: None,
        }
    }

    /// The drain of one that has gone is over when its last session is.
    fn is_draining(&self) -> bool {
        matches!(self.admin, AdminState::Drain { .. })
            && (self.presence == Presence::Listed || self.streamer.sessions() > 0)
    }

    /// It is going, or has gone when it is not `listed` any more; returns whether that is news.
    fn leave(&mut self, listed: bool, now: Instant) -> bool {
        match &mut self.presence {
            Presence::Listed => {
                self.presence = Presence::Leaving { since: now, listed };
                self.schedule.stop();
                true
            }
            Presence::Leaving { listed: still, .. } => {
                *still &= listed;
                false
            }
        }
    }

    /// Discovery lists it; returns whether that is news.
    fn listed(
        &mut self,
        addr: StreamerAddr,
        pool: &Weak<Pool>,
        name: &PoolName,
        now: Instant,
    ) -> bool {
        let moved = self.streamer.addr != addr;
        let back = match self.presence {
            Presence::Listed => false,
            // Discovery has not noticed yet what the streamer said of itself.
            Presence::Leaving {
                since,
                listed: true,
            } if !moved => now.saturating_duration_since(since) >= RECORD_KEPT,
            Presence::Leaving { .. } => true,
        };
        if !back && !moved {
            return false;
        }
        let id = &self.streamer.id;
        if moved {
            tracing::info!(pool = %name, streamer = %id, from = %self.streamer.addr, to = %addr, "streamer {id} has a new address; it is probed before it gets sessions");
            // The sessions on the old address count on.
            let slots = self.streamer.slots().clone();
            self.streamer = Streamer::new(id.clone(), addr, slots, pool.clone());
        } else {
            tracing::info!(pool = %name, streamer = %id, %addr, "streamer {id} is back in discovery; it is probed before it gets sessions");
        }
        if back && matches!(self.admin, AdminState::Drain { .. }) && !self.is_draining() {
            let id = &self.streamer.id;
            tracing::info!(pool = %name, streamer = %id, "the drain of streamer {id} ended when it left: who is there now is another one");
            self.admin = AdminState::Ready;
        }
        self.presence = Presence::Listed;
        self.heat = Heat::default();
        self.machine.forget_proof(now);
        if !matches!(self.admin, AdminState::Maint { .. }) {
            self.schedule = Schedule::new(now);
        }
        true
    }
}

fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

const RECORD_KEPT: Duration = Duration::from_secs(600);
const MOST_RECORDS: usize = 1024;
