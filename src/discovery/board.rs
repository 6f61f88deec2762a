//! Where one source puts its answers up.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::announcement::{Announcement, Seen, SourceError, Status};
use crate::telemetry::names;

/// What a source is, for the log and the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `streamers` of the configuration.
    List,
    Dns,
    Nats,
    Kubernetes,
}

impl Kind {
    pub fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Dns => "dns",
            Self::Nats => "nats",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// As a person calls it.
    fn title(self) -> &'static str {
        match self {
            Self::List => "the list of streamers",
            Self::Dns => "DNS",
            Self::Nats => "the message bus",
            Self::Kubernetes => "Kubernetes",
        }
    }

    /// What to do when it says nothing.
    fn advice(self) -> &'static str {
        match self {
            Self::List => "check `streamers`",
            Self::Dns => "check the name and the DNS server",
            Self::Kubernetes => "look at the Service and its endpoints",
            Self::Nats => "`ddp-gateway check --connect` tells what is there",
        }
    }
}

/// Holds the last good answer of a source, counts, and logs each change of status once.
pub(super) struct Board {
    kind: Kind,
    name: String,
    announce: watch::Sender<Announcement>,
    ok: metrics::Counter,
    empty: metrics::Counter,
    failed: metrics::Counter,
    stale: metrics::Gauge,
}

impl Board {
    pub(super) fn new(kind: Kind, name: &str, announce: watch::Sender<Announcement>) -> Self {
        let updates = |result| names::DISCOVERY_UPDATES.counter(&[name, result]);
        Self {
            kind,
            name: name.to_owned(),
            announce,
            ok: updates("ok"),
            empty: updates("empty"),
            failed: updates("failed"),
            stale: names::DISCOVERY_STALE.gauge(&[name]),
        }
    }

    /// A complete answer, or why there is none. What an empty one says about streamers that are
    /// about to end is taken over even so.
    pub(super) fn put(&self, answer: Result<Seen, SourceError>, now: Instant) {
        let (kind, source) = (self.kind.label(), &self.name);
        let (title, advice) = (self.kind.title(), self.kind.advice());
        let (answer, farewells) = match answer {
            Ok(seen) if seen.is_empty() => (Err(SourceError::Empty), Some(seen)),
            Ok(seen) => (Ok(seen), None),
            Err(error) => (Err(error), None),
        };
        let counter = match &answer {
            Ok(_) => &self.ok,
            Err(SourceError::Empty | SourceError::NoSuchName) => &self.empty,
            Err(_) => &self.failed,
        };
        counter.increment(1);
        self.stale.set(f64::from(u8::from(answer.is_err())));
        self.announce.send_if_modified(|current| match answer {
            Ok(seen) => {
                if matches!(current.status, Status::Stale(_)) {
                    tracing::info!(
                        kind, %source, streamers = seen.endpoints.0.len(),
                        "{title} answers for {source} again"
                    );
                }
                let changed = current.seen != seen || current.status != Status::Fresh;
                *current = Announcement {
                    seen,
                    status: Status::Fresh,
                    heard: Some(now),
                };
                changed
            }
            Err(error) => {
                let next = Status::Stale(error);
                let mut changed = current.status != next;
                if changed && let Status::Stale(error) = &next {
                    let held = current.seen.endpoints.0.len();
                    tracing::warn!(
                        kind, %source, %error, held,
                        "{title} gives no streamers for {source}: {error}; the {held} known ones \
                         stay; {advice}"
                    );
                }
                current.status = next;
                if let Some(farewells) = farewells {
                    changed |= current.seen.leaving != farewells.leaving;
                    current.seen.leaving = farewells.leaving;
                    current.seen.hosts.extend(farewells.hosts);
                } else if current.is_older_than(FAREWELLS_FOR, now) {
                    changed |= current.seen.forget_farewells();
                }
                changed
            }
        });
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // A source that is not asked any more is not stale either.
        self.stale.set(0.0);
    }
}

/// A source that is not heard any more does not say for longer than this that somebody is about to
/// end: at the same address, another one may have come since.
const FAREWELLS_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Instant};

    use tokio::sync::watch;

    use super::{Board, FAREWELLS_FOR, Kind};
    use crate::discovery::{Announcement, Endpoints, Seen, SourceError, Status};

    fn seen(ports: &[u16]) -> Seen {
        let addresses = ports.iter().map(|port| ([127, 0, 0, 1], *port).into());
        Seen::of_endpoints(Endpoints::of_addresses(addresses))
    }

    #[test]
    fn an_empty_or_failed_answer_holds_the_last_good_one() {
        let (announce, announced) = watch::channel(Announcement::default());
        let board = Board::new(Kind::Dns, "test", announce);
        let now = Instant::now();
        board.put(Ok(seen(&[1, 2])), now);
        for bad in [Ok(Seen::default()), Err(SourceError::Timeout)] {
            board.put(bad, now);
            assert_eq!(announced.borrow().seen, seen(&[1, 2]));
            assert!(matches!(announced.borrow().status, Status::Stale(_)));
        }
        board.put(Ok(seen(&[3])), now);
        assert_eq!(announced.borrow().seen, seen(&[3]));
        assert_eq!(announced.borrow().status, Status::Fresh);
    }

    #[test]
    fn the_last_one_to_leave_is_heard() {
        let (announce, announced) = watch::channel(Announcement::default());
        let board = Board::new(Kind::Dns, "test", announce);
        board.put(Ok(seen(&[1])), Instant::now());
        let gone = SocketAddr::from(([127, 0, 0, 1], 1));
        let farewell = Seen {
            leaving: [crate::base::id::StreamerAddr(gone)].into(),
            ..Seen::default()
        };
        board.put(Ok(farewell.clone()), Instant::now());
        assert_eq!(announced.borrow().seen.endpoints, seen(&[1]).endpoints);
        assert_eq!(announced.borrow().seen.leaving, farewell.leaving);
    }

    #[test]
    fn the_farewells_of_a_silent_source_are_forgotten_after_a_while() {
        let (announce, mut announced) = watch::channel(Announcement::default());
        let board = Board::new(Kind::Nats, "test", announce);
        let (start, mut known) = (Instant::now(), seen(&[1]));
        known.leaving = seen(&[2]).endpoints.0.into_values().collect();
        board.put(Ok(known), start);
        board.put(Err(SourceError::Timeout), start + FAREWELLS_FOR / 2);
        assert_eq!(announced.borrow_and_update().seen.leaving.len(), 1);
        board.put(Err(SourceError::Timeout), start + FAREWELLS_FOR * 2);
        assert!(announced.has_changed().unwrap());
        assert_eq!(announced.borrow_and_update().seen, seen(&[1]));
        board.put(Err(SourceError::Timeout), start + FAREWELLS_FOR * 3);
        assert!(!announced.has_changed().unwrap());
    }
}
