//! What keeps a pool up to date: discovery, probes, real traffic, the operator, and time.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::base::id::{StreamerAddr, StreamerId};

use super::{
    Pool, State,
    health::{Fault, Outcome},
    machine::Transition,
    notice,
    probing::Probe,
    streamer::{AdminState, Streamer},
    wake_prober,
};

impl Pool {
    /// Takes the complete set of streamers that discovery knows. Returns whether anything changed.
    ///
    /// An empty set is ignored: a discovery that finds nobody is more likely broken than right.
    /// A streamer that is missing gets no new sessions and keeps those it has; it stands among
    /// [`PoolView::leaving`](super::PoolView::leaving) as long as it has some.
    pub fn apply(&self, endpoints: &BTreeMap<StreamerId, StreamerAddr>, now: Instant) -> bool {
        if endpoints.is_empty() {
            return false;
        }
        let mut state = self.lock_at(now);
        let changed = state.members.apply(&self.name, endpoints, now);
        if changed {
            state.hurried = true;
        }
        self.settle(state);
        changed
    }

    /// A streamer says that it will end, or somebody does who knows: from here on it is one that is
    /// missing in what discovery says, though it may be listed for a while yet. `false` when there
    /// is none of this id.
    pub fn announce_leave(&self, id: &StreamerId, now: Instant) -> bool {
        let mut state = self.lock_at(now);
        let found = state.members.announce_leave(&self.name, id, now);
        state.hurried |= found;
        self.settle(state);
        found
    }

    /// Sets what the operator wants of a streamer; `false` when there is none of this id.
    pub fn set_admin(&self, id: &StreamerId, admin: AdminState, now: Instant) -> bool {
        let mut state = self.lock_at(now);
        let found = state.members.set_admin(&self.name, id, admin, now);
        state.hurried |= found;
        self.settle(state);
        found
    }

    /// Begins to empty a streamer; `false` when there is none of this id. One that is being emptied
    /// goes on, at the new rate if there is one.
    pub fn drain(&self, id: &StreamerId, rate: Option<NonZeroU32>, now: Instant) -> bool {
        let mut state = self.lock_at(now);
        let (since, rate) = match state.members.admin(id) {
            Some(AdminState::Drain {
                since,
                rate: before,
            }) => (since, rate.or(before)),
            _ => (now, rate),
        };
        let admin = AdminState::Drain { since, rate };
        let found = state.members.set_admin(&self.name, id, admin, now);
        state.hurried |= found;
        self.settle(state);
        found
    }

    /// Streamers that have this id or this address, and what the operator wants of them. Those that
    /// left a while ago are among them: a streamer that ends is often gone from discovery before
    /// its end is announced.
    pub fn find(&self, name: &str) -> Vec<(Arc<Streamer>, AdminState)> {
        self.lock().members.find(name)
    }

    /// Takes up to `room` probes that are due; the result of each is owed to [`Self::probed`].
    pub fn due(&self, room: usize, now: Instant) -> Vec<Probe> {
        let mut state = self.lock_at(now);
        let State {
            members, settings, ..
        } = &mut *state;
        members.due(&settings.pace, room, now)
    }

    /// When to call [`Self::advance`] and [`Self::due`] next. [`Self::poll_hurried`] tells when
    /// this has become earlier.
    pub fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        let probe = state.members.next_due(&state.settings.pace);
        // Only who waits for a slow start needs it to be looked at; the gauges follow on the side.
        let ramp = state
            .members
            .any_ramp(state.clock)
            .then(|| state.clock + RAMP_STEP);
        [probe, ramp].into_iter().flatten().min()
    }

    /// Ready when something became due earlier than [`Self::next_due`] said. For one caller.
    pub fn poll_hurried(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if std::mem::take(&mut state.hurried) {
            return Poll::Ready(());
        }
        let before = state.prober.replace(cx.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// The result of a probe that [`Self::due`] gave out.
    pub fn probed(&self, probe: &Probe, result: Result<(), Fault>, now: Instant) {
        self.meters.probe(probe.kind, result.is_ok());
        let mut state = self.lock_at(now);
        let State {
            members,
            settings,
            random,
            ..
        } = &mut *state;
        let transition = members.probed(probe, result, settings, random, now);
        if transition.is_some() {
            self.announce(&state, &probe.streamer, transition);
            self.settle(state);
        }
    }

    /// A heartbeat of the streamer at this address, which says how much of its machine's CPU is in
    /// use. Of interest in comparison with the others only.
    pub fn beat(&self, addr: StreamerAddr, percent: u8, now: Instant) {
        let mut state = self.lock_at(now);
        state.members.beat(&self.name, addr, percent.min(100), now);
        self.settle(state);
    }

    /// Lets time pass: ramps rise, old records are forgotten.
    pub fn advance(&self, now: Instant) {
        let mut state = self.lock_at(now);
        state.members.forget_old(now);
        if state.members.cool(now) {
            return self.settle(state);
        }
        state.members.measure(&self.meters, &self.view.load(), now);
        let wakers = self.serve(&mut state);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn reported(&self, streamer: &Streamer, outcome: Outcome, now: Instant) {
        self.meters.traffic(outcome);
        let mut state = self.lock_at(now);
        let State {
            members, settings, ..
        } = &mut *state;
        let transition = members.reported(streamer, outcome, settings, now);
        if outcome != Outcome::Ok {
            state.hurried = true;
        }
        if transition.is_some() {
            self.announce(&state, streamer, transition);
            self.settle(state);
        } else {
            wake_prober(state);
        }
    }

    fn announce(&self, state: &State, streamer: &Streamer, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.meters.transition(transition.to);
            let left = state.members.in_rotation();
            notice::transition(&self.name, streamer, transition, left);
        }
    }
}

const RAMP_STEP: Duration = Duration::from_millis(100);
