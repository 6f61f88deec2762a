//! The pools of streamers, kept by name from one configuration to the next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use super::{events_task::Events, pool_task};
use crate::{base::id::PoolName, config::model, discovery::Listing, pool::Pool};

/// Every pool with the task that keeps it up to date.
#[derive(Debug, Default)]
pub(super) struct Pools {
    running: BTreeMap<PoolName, Running>,
    listings: Listings,
    events: Events,
}

/// What the sources of each pool say; a cheap handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Listings(Arc<Mutex<BTreeMap<PoolName, Listing>>>);

impl Listings {
    /// Of a pool that is in use; nothing for others.
    pub(super) fn of(&self, pool: &PoolName) -> Listing {
        self.lock().get(pool).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PoolName, Listing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Running {
    pool: Arc<Pool>,
    /// The task ends when this is dropped.
    config: watch::Sender<Arc<model::Pool>>,
    listing: Listing,
}

impl Pools {
    pub(super) fn new(listings: Listings, events: Events) -> Self {
        Self {
            running: BTreeMap::new(),
            listings,
            events,
        }
    }

    /// Makes these the pools in use and returns them in the same order.
    ///
    /// A pool that stays keeps its streamers with their health, and its waiting clients. One that
    /// is no longer named is not probed any more; its sessions live on.
    pub(super) fn apply(&mut self, wanted: &[model::Pool]) -> Vec<Arc<Pool>> {
        let mut old = std::mem::take(&mut self.running);
        let pools = wanted
            .iter()
            .map(|config| {
                let running = match old.remove(&config.name) {
                    Some(running) => running.told(config),
                    None => Running::start(config, self.events.clone()),
                };
                let pool = running.pool.clone();
                self.running.insert(config.name.clone(), running);
                pool
            })
            .collect();
        let listings = self.running.iter();
        *self.listings.lock() = listings
            .map(|(name, running)| (name.clone(), running.listing.clone()))
            .collect();
        pools
    }
}

impl Running {
    fn start(config: &model::Pool, events: Events) -> Self {
        let pool = Pool::new(pool_task::settings(config), Instant::now());
        let (sender, receiver) = watch::channel(Arc::new(config.clone()));
        let listing = Listing::default();
        let task = pool_task::run(pool.clone(), receiver, listing.clone(), events);
        tokio::spawn(task);
        Self {
            pool,
            config: sender,
            listing,
        }
    }

    fn told(self, config: &model::Pool) -> Self {
        self.config.send_if_modified(|current| {
            let changed = **current != *config;
            if changed {
                *current = Arc::new(config.clone());
            }
            changed
        });
        self
    }
}
