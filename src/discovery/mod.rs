//! Where the streamers are.
//!
//! Each [`Source`] announces its complete set, never a difference, and says whether that set is
//! fresh or held because the last answer was empty or failed. [`Discovery`] runs the sources of one
//! pool and merges what they announce.

mod dns;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use futures_util::future::select_all;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    base::id::{StreamerAddr, StreamerId},
    config,
    telemetry::names,
};

/// All streamers that somebody knows; an address appears once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(pub BTreeMap<StreamerId, StreamerAddr>);

impl Endpoints {
    /// Streamers named after their addresses.
    pub fn of_addresses(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(
            addresses
                .into_iter()
                .map(|addr| (StreamerId::new(addr.to_string()), StreamerAddr(addr)))
                .collect(),
        )
    }

    /// Adds what `other` knows in addition. Where both know an id or an address, this one is right.
    pub fn complete(&mut self, other: &Self) {
        for (id, addr) in &other.0 {
            if !self.0.contains_key(id) && !self.0.values().any(|known| known == addr) {
                self.0.insert(id.clone(), *addr);
            }
        }
    }
}

/// What a source says at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The last set that was not empty.
    pub endpoints: Endpoints,
    /// Streamers of which this source knows that they are about to end, listed or not: it says so
    /// until they are back or forgotten.
    pub leaving: BTreeSet<StreamerAddr>,
    pub status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// No answer yet.
    #[default]
    Pending,
    Fresh,
    /// The last answer was of no use; the set of an earlier one is held.
    Stale(SourceError),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("the answer is empty")]
    Empty,
    #[error("the name does not exist")]
    NoSuchName,
    #[error("no DNS server answered in time")]
    Timeout,
    #[error("the DNS server answered {0}")]
    Refused(String),
    #[error("the DNS servers cannot be reached")]
    Unreachable,
    #[error("the name is not a valid DNS name")]
    BadName,
    #[error("the system's resolver configuration cannot be read (set `resolvers`)")]
    NoResolver,
    #[error("the answer brings a defect of the gateway to light (report it)")]
    Defect,
}

/// One place to learn from. Other kinds (Kubernetes, the message bus) are further variants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Addresses given literally; never stale.
    Fixed(Endpoints),
    Dns(config::model::Dns),
}

impl Source {
    /// The sources of a pool; where two contradict each other, the earlier one is right.
    pub fn of(pool: &config::model::Pool) -> Vec<Self> {
        let dns = pool.dns.iter().cloned().map(Self::Dns);
        let fixed = Self::Fixed(Endpoints::of_addresses(
            pool.streamers.iter().map(|addr| addr.0),
        ));
        dns.chain((!pool.streamers.is_empty()).then_some(fixed))
            .collect()
    }
}

/// The running sources of one pool; they end when it is dropped.
#[derive(Debug)]
pub struct Discovery {
    running: Vec<Running>,
    /// What was applied last.
    current: Endpoints,
    leaving: BTreeSet<StreamerAddr>,
}

#[derive(Debug)]
struct Running {
    source: Source,
    announced: watch::Receiver<Announcement>,
    /// Empty for sources that need no task.
    _task: JoinSet<()>,
}

impl Discovery {
    /// Starts the sources. Must be called within a tokio runtime.
    pub fn start(sources: Vec<Source>) -> Self {
        Self {
            running: sources.into_iter().map(Running::start).collect(),
            current: Endpoints::default(),
            leaving: BTreeSet::new(),
        }
    }

    /// Goes over to other sources: what is configured as before runs on undisturbed, and until the
    /// new ones have answered, what was known stays known.
    pub fn replace(&mut self, sources: Vec<Source>) {
        let mut before = std::mem::take(&mut self.running);
        self.running = sources
            .into_iter()
            .map(
                |source| match before.iter().position(|old| old.source == source) {
                    Some(same) => before.swap_remove(same),
                    None => Running::start(source),
                },
            )
            .collect();
    }

    /// Completes when some source has announced something new.
    pub async fn changed(&mut self) {
        let waiting = self.running.iter_mut().filter_map(|running| {
            // A source that ended has said what it had to say.
            let open = running.announced.has_changed().is_ok();
            open.then(|| Box::pin(running.announced.changed()))
        });
        let waiting: Vec<_> = waiting.collect();
        if waiting.is_empty() {
            std::future::pending::<()>().await;
        }
        let _ = select_all(waiting).await;
    }

    /// The merged set of all sources; what was known before is part of it while a source has not
    /// answered yet. Who is about to end, as any source knows, is not in it. May be empty, which
    /// says that nobody knows anything.
    pub fn endpoints(&mut self) -> &Endpoints {
        let mut merged = Endpoints::default();
        let mut leaving = BTreeSet::new();
        let mut pending = false;
        for running in &mut self.running {
            let announcement = running.announced.borrow_and_update();
            pending |= announcement.status == Status::Pending;
            merged.complete(&announcement.endpoints);
            leaving.extend(&announcement.leaving);
        }
        if pending {
            merged.complete(&self.current);
        }
        let mut staying = merged.clone();
        staying.0.retain(|_, addr| !leaving.contains(addr));
        if staying.0.is_empty() {
            // If all are to end, either nobody is left to take their sessions, or somebody lies.
            staying = merged;
            leaving.clear();
        }
        self.leaving = leaving;
        if !staying.0.is_empty() {
            self.current = staying;
        }
        &self.current
    }

    /// Who is about to end, as of the last [`Self::endpoints`]. Never all that are known.
    pub fn leaving(&self) -> &BTreeSet<StreamerAddr> {
        &self.leaving
    }
}

impl Running {
    fn start(source: Source) -> Self {
        let (announce, announced) = watch::channel(Announcement::default());
        let mut task = JoinSet::new();
        match &source {
            Source::Fixed(endpoints) => {
                announce.send_replace(Announcement {
                    endpoints: endpoints.clone(),
                    leaving: BTreeSet::new(),
                    status: Status::Fresh,
                });
            }
            Source::Dns(dns) => {
                let lookup = dns::Lookup::new(dns.clone());
                let board = Board::new(&dns.name, announce);
                task.spawn(lookup.run(board));
            }
        }
        Self {
            source,
            announced,
            _task: task,
        }
    }
}

/// Where one source puts its answers up: holds the last good one, counts, and logs each change of
/// status once.
struct Board {
    name: String,
    announce: watch::Sender<Announcement>,
    ok: metrics::Counter,
    empty: metrics::Counter,
    failed: metrics::Counter,
    stale: metrics::Gauge,
}

impl Board {
    fn new(name: &str, announce: watch::Sender<Announcement>) -> Self {
        let updates = |result| names::DISCOVERY_UPDATES.counter(&[name, result]);
        Self {
            name: name.to_owned(),
            announce,
            ok: updates("ok"),
            empty: updates("empty"),
            failed: updates("failed"),
            stale: names::DISCOVERY_STALE.gauge(&[name]),
        }
    }

    fn put(&self, answer: Result<Endpoints, SourceError>) {
        let source = &self.name;
        let answer = match answer {
            Ok(endpoints) if endpoints.0.is_empty() => Err(SourceError::Empty),
            other => other,
        };
        let counter = match &answer {
            Ok(_) => &self.ok,
            Err(SourceError::Empty | SourceError::NoSuchName) => &self.empty,
            Err(_) => &self.failed,
        };
        counter.increment(1);
        self.stale.set(f64::from(u8::from(answer.is_err())));
        self.announce.send_if_modified(|current| match answer {
            Ok(endpoints) => {
                if matches!(current.status, Status::Stale(_)) {
                    tracing::info!(%source, streamers = endpoints.0.len(), "DNS answers for {source} again");
                }
                let next = Announcement {
                    endpoints,
                    leaving: BTreeSet::new(),
                    status: Status::Fresh,
                };
                let changed = *current != next;
                *current = next;
                changed
            }
            Err(error) => {
                let next = Status::Stale(error);
                let changed = current.status != next;
                if changed && let Status::Stale(error) = &next {
                    let held = current.endpoints.0.len();
                    tracing::warn!(%source, %error, held, "DNS gives no streamers for {source}: {error}; the {held} known ones stay; check the name and the DNS server");
                }
                current.status = next;
                changed
            }
        });
    }
}

/// Pause after a failed answer, doubled each time up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{sync::watch, task::JoinSet};

    use super::{Announcement, Board, Discovery, Endpoints, Source, SourceError, Status};

    fn endpoints(ports: &[u16]) -> Endpoints {
        Endpoints::of_addresses(
            ports
                .iter()
                .map(|port| SocketAddr::from(([127, 0, 0, 1], *port))),
        )
    }

    #[test]
    fn an_empty_or_failed_answer_holds_the_last_good_one() {
        let (announce, announced) = watch::channel(Announcement::default());
        let board = Board::new("test", announce);
        board.put(Ok(endpoints(&[1, 2])));
        for bad in [Ok(Endpoints::default()), Err(SourceError::Timeout)] {
            board.put(bad);
            assert_eq!(announced.borrow().endpoints, endpoints(&[1, 2]));
            assert!(matches!(announced.borrow().status, Status::Stale(_)));
        }
        board.put(Ok(endpoints(&[3])));
        assert_eq!(announced.borrow().endpoints, endpoints(&[3]));
        assert_eq!(announced.borrow().status, Status::Fresh);
    }

    #[test]
    fn the_earlier_source_is_right() {
        let mut merged = Endpoints(
            [(
                "pod".into(),
                endpoints(&[1]).0.into_values().next().unwrap(),
            )]
            .into(),
        );
        merged.complete(&endpoints(&[1, 2]));
        let ids: Vec<_> = merged.0.keys().map(|id| id.as_str()).collect();
        assert_eq!(ids, ["127.0.0.1:2", "pod"]);
    }

    #[test]
    fn who_is_about_to_end_is_in_no_set_unless_nobody_else_is() {
        let (announce, announced) = watch::channel(Announcement::default());
        let mut discovery = Discovery::start(vec![Source::Fixed(endpoints(&[1, 2]))]);
        discovery.running.push(super::Running {
            source: Source::Fixed(Endpoints::default()),
            announced,
            _task: JoinSet::new(),
        });
        let says = |leaving: &[u16]| {
            announce.send_replace(Announcement {
                endpoints: Endpoints::default(),
                leaving: endpoints(leaving).0.into_values().collect(),
                status: Status::Fresh,
            });
        };
        says(&[1]);
        assert_eq!(discovery.endpoints(), &endpoints(&[2]));
        assert_eq!(discovery.leaving().len(), 1);
        says(&[1, 2]);
        assert_eq!(discovery.endpoints(), &endpoints(&[1, 2]));
        assert!(discovery.leaving().is_empty());
        says(&[]);
        assert_eq!(discovery.endpoints(), &endpoints(&[1, 2]));
    }

    #[tokio::test]
    async fn other_sources_take_over_at_once_when_they_need_nobody() {
        let mut discovery = Discovery::start(vec![Source::Fixed(endpoints(&[1, 2]))]);
        assert_eq!(discovery.endpoints(), &endpoints(&[1, 2]));
        discovery.replace(vec![Source::Fixed(endpoints(&[2, 3]))]);
        assert_eq!(discovery.endpoints(), &endpoints(&[2, 3]));
    }
}
