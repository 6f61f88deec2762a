//! What is different between two configurations, for the log line of a reload and for those parts
//! that have to act on it.

use std::{collections::HashMap, fmt};

use super::model::{Config, Listener, Pool};
use crate::base::id::{ListenAddr, PoolName};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Has to be bound before the new configuration may be used.
    ListenerAdded(ListenAddr),
    /// Accepts no more; its connections live on.
    ListenerRemoved(ListenAddr),
    /// The same socket with other settings, for the next connection.
    ListenerChanged(ListenAddr),
    Admin,
    Routes,
    Monoliths,
    PoolAdded(PoolName),
    PoolRemoved(PoolName),
    /// `sources`: streamers are looked for elsewhere, not only treated otherwise.
    PoolChanged {
        name: PoolName,
        sources: bool,
    },
    Http,
    WebSocket,
    Limits,
    Logins,
    TrustedProxies,
    Affinity,
    Rebalance,
    Replicas,
    Drain,
    Log,
    Watch,
}

impl Change {
    /// Whether a new socket has to be opened for it, which may fail.
    pub fn needs_new_listener(&self) -> bool {
        matches!(self, Self::ListenerAdded(_) | Self::Admin)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListenerAdded(address) => write!(f, "listener {address} added"),
            Self::ListenerRemoved(address) => write!(f, "listener {address} removed"),
            Self::ListenerChanged(address) => write!(f, "listener {address} changed"),
            Self::PoolAdded(name) => write!(f, "pool {name} added"),
            Self::PoolRemoved(name) => write!(f, "pool {name} removed"),
            Self::PoolChanged { name, .. } => write!(f, "pool {name} changed"),
            Self::Admin => f.write_str("admin changed"),
            Self::Routes => f.write_str("routes changed"),
            Self::Monoliths => f.write_str("monolith changed"),
            Self::Http => f.write_str("[http] changed"),
            Self::WebSocket => f.write_str("[websocket] changed"),
            Self::Limits => f.write_str("[limits] changed"),
            Self::Logins => f.write_str("[logins] changed"),
            Self::TrustedProxies => f.write_str("trusted_proxies changed"),
            Self::Affinity => f.write_str("[affinity] changed"),
            Self::Rebalance => f.write_str("[rebalance] changed"),
            Self::Replicas => f.write_str("[replicas] changed"),
            Self::Drain => f.write_str("[drain] changed"),
            Self::Log => f.write_str("[log] changed"),
            Self::Watch => f.write_str("watch changed"),
        }
    }
}

/// All differences; empty exactly when the two are equal, apart from the order of listeners and
/// further pools.
///
/// Listeners are the same when their address is; of several with port 0 the first is compared with
/// the first, and so on.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    listeners(&old.listeners, &new.listeners, &mut changes);
    pools(&old.pools, &new.pools, &mut changes);
    // Indices of pools and monoliths may differ where nothing else does.
    let routes = |config: &Config| -> Vec<_> {
        let pool = |at: usize| config.pools[at].name.clone();
        let monolith = |at: usize| config.monoliths[at].clone();
        config
            .routes
            .iter()
            .map(|route| {
                (
                    route.host.clone(),
                    route.path.clone(),
                    monolith(route.monolith),
                    route.pool.map(pool),
                )
            })
            .collect()
    };
    let parts = [
        (old.admin != new.admin, Change::Admin),
        (routes(old) != routes(new), Change::Routes),
        (old.monoliths != new.monoliths, Change::Monoliths),
        (old.http != new.http, Change::Http),
        (old.websocket != new.websocket, Change::WebSocket),
        (old.limits != new.limits, Change::Limits),
        (old.logins != new.logins, Change::Logins),
        (
            old.trusted_proxies != new.trusted_proxies,
            Change::TrustedProxies,
        ),
        (old.affinity != new.affinity, Change::Affinity),
        (old.rebalance != new.rebalance, Change::Rebalance),
        (old.replicas != new.replicas, Change::Replicas),
        (old.drain != new.drain, Change::Drain),
        (old.log != new.log, Change::Log),
        (old.watch != new.watch, Change::Watch),
    ];
    changes.extend(
        parts
            .into_iter()
            .filter_map(|(differs, change)| differs.then_some(change)),
    );
    changes
}

fn listeners(old: &[Listener], new: &[Listener], changes: &mut Vec<Change>) {
    let mut before: HashMap<ListenAddr, Vec<&Listener>> = HashMap::new();
    for listener in old.iter().rev() {
        before.entry(listener.address).or_default().push(listener);
    }
    for listener in new {
        let address = listener.address;
        match before.get_mut(&address).and_then(Vec::pop) {
            None => changes.push(Change::ListenerAdded(address)),
            Some(same) if same == listener => {}
            Some(_) => changes.push(Change::ListenerChanged(address)),
        }
    }
    for listener in old {
        // One entry per listener that is left, in the order of the old configuration.
        if before
            .get_mut(&listener.address)
            .and_then(Vec::pop)
            .is_some()
        {
            changes.push(Change::ListenerRemoved(listener.address));
        }
    }
}

fn pools(old: &[Pool], new: &[Pool], changes: &mut Vec<Change>) {
    for pool in new {
        let name = pool.name.clone();
        match old.iter().find(|before| before.name == pool.name) {
            None => changes.push(Change::PoolAdded(name)),
            Some(before) if before == pool => {}
            Some(before) => changes.push(Change::PoolChanged {
                name,
                sources: before.streamers != pool.streamers
                    || before.dns != pool.dns
                    || before.nats != pool.nats
                    || before.kubernetes != pool.kubernetes,
            }),
        }
    }
    for pool in old {
        if !new.iter().any(|after| after.name == pool.name) {
            changes.push(Change::PoolRemoved(pool.name.clone()));
        }
    }
}
