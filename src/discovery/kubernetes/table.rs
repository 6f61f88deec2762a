//! The slices of one Service, and whom they say to be there.
//!
//! An endpoint may stand in several slices at a time, because slices change one after the other;
//! and an address may belong to two pods, one that ends and one that has come after it. So what is
//! said is put together over all slices, whenever one of them changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{
    slice::{Event, Seat, Slice},
    trouble::Trouble,
};

/// All slices, as of the last event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    slices: BTreeMap<String, Slice>,
}

/// Whom the slices say to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// Those that serve, however long yet.
    pub(super) serving: BTreeSet<SocketAddr>,
    /// Those that are about to end, serving or not.
    pub(super) leaving: BTreeSet<SocketAddr>,
    /// Pods, each with its address and whether it is about to end.
    pub(super) pods: BTreeMap<String, (SocketAddr, bool)>,
    /// There are endpoints, but none has the wanted port.
    pub(super) portless: bool,
}

impl Table {
    /// Everything is as in this list; nothing else is.
    ///
    /// # Errors
    /// When it is more than can be held; the table is unchanged then.
    pub(super) fn replace(&mut self, slices: Vec<Slice>) -> Result<(), Trouble> {
        let slices = slices.into_iter().map(|slice| (slice.name.clone(), slice));
        let next = Self {
            slices: slices.collect(),
        };
        next.check()?;
        *self = next;
        Ok(())
    }

    /// Takes an event in; returns whether anything is different.
    ///
    /// # Errors
    /// When it is more than can be held; then only a new list helps.
    pub(super) fn apply(&mut self, event: Event) -> Result<bool, Trouble> {
        match event {
            Event::Is(slice) => {
                let before = self.slices.insert(slice.name.clone(), slice.clone());
                self.check()?;
                Ok(before.as_ref() != Some(&slice))
            }
            Event::Gone { name } => Ok(self.slices.remove(&name).is_some()),
            Event::Bookmark | Event::Expired | Event::Error(_) | Event::Unknown => Ok(false),
        }
    }

    fn check(&self) -> Result<(), Trouble> {
        let seats: usize = self.slices.values().map(|slice| slice.seats.len()).sum();
        match self.slices.len() <= MOST_SLICES && seats <= MOST_SEATS {
            true => Ok(()),
            false => Err(Trouble::TooMuch),
        }
    }

    pub(super) fn sight(&self) -> Sight {
        // A pod that ends never comes back, so of two entries for a pod the one that says so is newer.
        let mut newest: BTreeMap<_, &Seat> = BTreeMap::new();
        for seat in self.slices.values().flat_map(|slice| &slice.seats) {
            let newest = newest.entry((seat.address, &seat.uid, &seat.pod));
            let newest = newest.or_insert(seat);
            if age(seat) > age(newest) {
                *newest = seat;
            }
        }
        // Of two pods with an address the one that ends was there earlier.
        let mut by_address: BTreeMap<SocketAddr, &Seat> = BTreeMap::new();
        for seat in newest.into_values() {
            let latest = by_address.entry(seat.address).or_insert(seat);
            if (seat.terminating, !seat.ready) < (latest.terminating, !latest.ready) {
                *latest = seat;
            }
        }
        // Of the addresses of a pod that has several, one stands for it.
        let mut pods: BTreeMap<&str, &Seat> = BTreeMap::new();
        for seat in by_address.values() {
            if let Some(pod) = &seat.pod {
                let best = pods.entry(pod).or_insert(seat);
                if rank(seat) < rank(best) {
                    *best = seat;
                }
            }
        }
        let twin = |seat: &Seat| {
            let pod = seat.pod.as_deref().and_then(|pod| pods.get(pod));
            pod.is_some_and(|best| best.address != seat.address)
        };
        let serving = by_address.values().filter(|seat| match seat.terminating {
            true => seat.serving,
            // With publishNotReadyAddresses all are, which the pool's own probes judge better.
            false => seat.ready,
        });
        let leaving = by_address.values().filter(|seat| seat.terminating);
        Sight {
            serving: serving
                .filter(|seat| !twin(seat))
                .map(|seat| seat.address)
                .take(MOST_STREAMERS)
                .collect(),
            leaving: leaving.map(|seat| seat.address).collect(),
            pods: pods
                .iter()
                .map(|(name, seat)| ((*name).to_owned(), (seat.address, seat.terminating)))
                .collect(),
            portless: by_address.is_empty() && self.slices.values().any(|slice| slice.portless),
        }
    }
}

/// The highest is the newest of what is said about a pod, or else the most hopeful.
fn age(seat: &Seat) -> (bool, bool, bool) {
    (seat.terminating, seat.ready, seat.serving)
}

/// The lowest is the best to reach a pod by: one that stays, and IPv4 as with DNS.
fn rank(seat: &Seat) -> (bool, bool, SocketAddr) {
    (seat.terminating, seat.address.is_ipv6(), seat.address)
}

/// The API server makes one for each hundred endpoints.
const MOST_SLICES: usize = 256;
const MOST_SEATS: usize = 4096;
/// As with the DNS.
const MOST_STREAMERS: usize = 1024;
