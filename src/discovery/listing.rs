//! What the sources of a pool say, for those who only want to look.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::Serialize;
use tokio::sync::watch;

use super::{
    announcement::{Announcement, Status},
    board::Kind,
};

/// The sources of one pool; a cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Listing(Arc<Mutex<Vec<Listed>>>);

#[derive(Debug)]
pub(super) struct Listed {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) announced: watch::Receiver<Announcement>,
}

/// One source, as `/streamers` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    /// `list`, `dns` and so on.
    pub kind: &'static str,
    pub source: String,
    /// `pending`, `fresh` or `stale`.
    pub status: &'static str,
    /// Why it is stale.
    pub error: Option<String>,
    /// Since the source was last heard; a list is never heard.
    pub heard_seconds_ago: Option<f64>,
    pub streamers: Vec<ListedStreamer>,
}

/// A streamer, as one source knows it.
#[derive(Clone, Debug, Serialize)]
pub struct ListedStreamer {
    /// `None`: the source knows the host only.
    pub address: Option<String>,
    pub host: Option<String>,
    /// About to end.
    pub leaving: bool,
}

impl Listing {
    /// What each source says, the one that is right first.
    pub fn report(&self, now: Instant) -> Vec<SourceReport> {
        self.lock()
            .iter()
            .map(|listed| listed.report(now))
            .collect()
    }

    pub(super) fn replace(&self, listed: Vec<Listed>) {
        *self.lock() = listed;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    fn report(&self, now: Instant) -> SourceReport {
        let announcement = self.announced.borrow();
        let Announcement {
            seen,
            status,
            heard,
        } = &*announcement;
        let mut streamers: Vec<_> = seen
            .hosts
            .iter()
            .map(|(name, host)| ListedStreamer {
                address: host.address.map(|address| address.to_string()),
                host: Some(name.clone()),
                leaving: host.leaving,
            })
            .collect();
        let named = |address| {
            seen.hosts
                .values()
                .any(|host| host.address == Some(address))
        };
        let staying = seen.endpoints.0.values();
        let unnamed = staying.chain(&seen.leaving).filter(|addr| !named(**addr));
        streamers.extend(unnamed.map(|address| ListedStreamer {
            address: Some(address.to_string()),
            host: None,
            leaving: seen.leaving.contains(address),
        }));
        streamers.sort_by(|a, b| (&a.address, &a.host).cmp(&(&b.address, &b.host)));
        streamers
            .dedup_by(|a, b| a.address.is_some() && a.address == b.address && a.host == b.host);
        let (status, error) = match status {
            Status::Pending => ("pending", None),
            Status::Fresh => ("fresh", None),
            Status::Stale(error) => ("stale", Some(error.to_string())),
        };
        let heard = heard.filter(|_| self.kind != Kind::List);
        SourceReport {
            kind: self.kind.label(),
            source: self.name.clone(),
            status,
            error,
            heard_seconds_ago: heard
                .map(|heard| now.saturating_duration_since(heard).as_secs_f64()),
            streamers,
        }
    }
}
