//! Who may open how many sessions on one streamer, without asking for each.
//!
//! A *claim* is how many sessions a gateway may have on a streamer. While every gateway hears the
//! others, the claims for a streamer together never exceed its limit, though nobody decides for all
//! and what is known of others is always a little old:
//!
//! 1. Whoever claims less than it would like says so (`wants`), and waits until everybody has heard
//!    that. From then on each of the others leaves it its part.
//! 2. It takes no more than its part of what is free: free is the limit without all claims that are
//!    known, and the parts are as many as those that want, itself included. What is left over goes
//!    to the first of them.
//! 3. Before it takes again, everybody must have heard what it took, and what it has heard that the
//!    others took. So at any time the others miss one raise of each gateway at most, and each of
//!    these was no more than a part of what everybody else knows to be free.
//! 4. Claims that are not used are given up, but for a small reserve, which goes too when others have
//!    clients that wait.
//!
//! A gateway that others have not heard cannot take anything; after a split, claims shrink to what
//! is really held, and nobody takes more until the sum is below the limit again.

use super::packet::Claim;

/// What there is on a streamer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Sessions of this gateway.
    pub held: u32,
    /// Sessions that the streamer may have in all.
    pub limit: u32,
    /// Clients that wait for room on any streamer of the pool.
    pub waiting: u32,
}

/// This gateway's account at one streamer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) told: Claim,
    /// The packet that has to be heard by all before anything may be taken.
    pub(super) barrier: u64,
}

/// The other gateways, as far as they matter for one streamer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Others {
    /// How many there are.
    pub(super) count: u32,
    /// What they claim together.
    pub(super) claims: u64,
    /// How many want more.
    pub(super) wanting: u32,
    /// How many of these come before this gateway.
    pub(super) before: u32,
    /// Some have clients that wait.
    pub(super) in_need: bool,
}

/// What is known while deciding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knowledge {
    pub(super) others: Others,
    /// The last packet of this gateway that all have heard.
    pub(super) heard: u64,
    /// The packet that will say what is decided now.
    pub(super) next: u64,
    /// This gateway may not know everybody yet.
    pub(super) learning: bool,
}

impl Account {
    /// Decides anew. `agreed`: all know of every raise that this gateway knows of. True when others
    /// should hear of it soon.
    pub(super) fn decide(
        &mut self,
        usage: Usage,
        known: Knowledge,
        agreed: impl FnOnce() -> bool,
    ) -> bool {
        let Knowledge { others, .. } = known;
        let limit = u64::from(usage.limit);
        let before = self.told;
        let mut claim = before.claim.max(usage.held);
        let reserve = match others.in_need || known.learning {
            true => 0,
            false => (usage.limit / 4 / (others.count + 1)).max(1),
        };
        let target = usage
            .held
            .saturating_add(usage.waiting)
            .saturating_add(reserve);
        let target = target.min(usage.limit.max(usage.held));
        if known.learning || u64::from(claim) + others.claims > limit {
            claim = usage.held;
        } else if claim > target.saturating_add(reserve / 2) {
            claim = target;
        }
        let mut wants = match claim < target.saturating_sub(reserve / 2) {
            true => target - claim,
            // It goes on until it has what it began to take.
            false if before.wants > 0 => target.saturating_sub(claim),
            false => 0,
        };
        let mut barrier = self.barrier;
        if before.wants == 0 && wants > 0 {
            barrier = known.next;
        } else if wants > 0 && !known.learning && known.heard >= barrier && agreed() {
            let free = limit.saturating_sub(u64::from(claim) + others.claims);
            let parts = u64::from(others.wanting + 1);
            let extra = u64::from(u64::from(others.before) < free % parts);
            let part = u32::try_from(free / parts + extra).unwrap_or(u32::MAX);
            let taken = part.min(wants);
            if taken > 0 {
                claim += taken;
                wants -= taken;
                barrier = known.next;
            }
        }
        self.barrier = barrier;
        self.told = Claim {
            held: usage.held,
            claim,
            wants,
        };
        claim > before.claim
            || (before.wants == 0) != (wants == 0)
            // Others may be waiting for it.
            || (others.in_need && claim < before.claim)
    }
}
