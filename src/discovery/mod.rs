//! Where the streamers are.
//!
//! Each [`Source`] announces its complete set, never a difference, and says whether that set is
//! fresh or held because the last answer was empty or failed. [`Discovery`] runs the sources of one
//! pool and merges what they announce.

mod announcement;
mod board;
mod dns;
mod kubernetes;
mod listing;
pub mod nats;
mod news;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::select_all;
use tokio::{sync::watch, task::JoinSet};

pub use self::{
    announcement::{Announcement, Endpoints, Host, Seen, SourceError, Status},
    board::Kind,
    kubernetes::Trouble as KubernetesTrouble,
    listing::{ListedStreamer, Listing, SourceReport},
    nats::Event,
    news::{News, Tell},
};
use self::{board::Board, listing::Listed};
use crate::{base::id::StreamerAddr, config};

/// One place to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Addresses given literally; never stale.
    Fixed(Endpoints),
    Dns(config::model::Dns),
    Nats(Box<config::model::Nats>),
    Kubernetes(Box<config::model::Kubernetes>),
}

impl Source {
    /// The sources of a pool; where two contradict each other, the earlier one is right.
    pub fn of(pool: &config::model::Pool) -> Vec<Self> {
        let services = pool.kubernetes.iter().cloned().map(Self::Kubernetes);
        let nats = pool.nats.iter().cloned().map(Box::new).map(Self::Nats);
        let dns = pool.dns.iter().cloned().map(Self::Dns);
        let fixed = Self::Fixed(Endpoints::of_addresses(
            pool.streamers.iter().map(|addr| addr.0),
        ));
        services
            .chain(nats)
            .chain(dns)
            .chain((!pool.streamers.is_empty()).then_some(fixed))
            .collect()
    }
}

impl Source {
    fn kind(&self) -> Kind {
        match self {
            Self::Fixed(_) => Kind::List,
            Self::Dns(_) => Kind::Dns,
            Self::Nats(_) => Kind::Nats,
            Self::Kubernetes(_) => Kind::Kubernetes,
        }
    }

    /// Tells sources of one kind apart, in the log, in metrics and on pages.
    fn name(&self) -> String {
        match self {
            Self::Fixed(_) => "streamers".to_owned(),
            Self::Dns(dns) => dns.name.clone(),
            Self::Nats(nats) => nats.name(),
            Self::Kubernetes(service) => service.name(),
        }
    }
}

/// The running sources of one pool; they end when it is dropped.
#[derive(Debug)]
pub struct Discovery {
    running: Vec<Running>,
    listing: Listing,
    tell: Tell,
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
    /// Starts the sources, and has `listing` show what they say. What they hear besides goes to
    /// `tell`. Must be called within a tokio runtime.
    pub fn start(sources: Vec<Source>, listing: Listing, tell: Tell) -> Self {
        let start = |source| Running::start(source, &tell);
        let discovery = Self {
            running: sources.into_iter().map(start).collect(),
            listing,
            tell,
            current: Endpoints::default(),
            leaving: BTreeSet::new(),
        };
        discovery.list();
        discovery
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
                    None => Running::start(source, &self.tell),
                },
            )
            .collect();
        self.list();
    }

    fn list(&self) {
        self.listing
            .replace(self.running.iter().map(Running::listed).collect());
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
        let mut addresses = BTreeMap::new();
        let mut leaving_hosts = BTreeSet::new();
        for running in &mut self.running {
            let announcement = running.announced.borrow_and_update();
            let Announcement { seen, status, .. } = &*announcement;
            pending |= *status == Status::Pending;
            merged.complete(&seen.endpoints);
            leaving.extend(&seen.leaving);
            for (name, host) in &seen.hosts {
                let name = comparable(name);
                match host.address {
                    Some(address) => {
                        addresses.insert(name, address);
                    }
                    None if host.leaving => {
                        leaving_hosts.insert(name);
                    }
                    None => {}
                }
            }
        }
        leaving.extend(leaving_hosts.iter().filter_map(|name| addresses.get(name)));
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

/// The name of a host as all sources have it: they are the same in capitals, and ids of nodes have
/// `_` for what may not stand in a subject (`ee/packages/network-broker/src/NatsBroker.ts`).
fn comparable(host: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let odd = |c: char| if kept(c) { c.to_ascii_lowercase() } else { '_' };
    host.chars().map(odd).collect()
}

impl Running {
    fn start(source: Source, tell: &Tell) -> Self {
        let (announce, announced) = watch::channel(Announcement::default());
        let mut task = JoinSet::new();
        match &source {
            Source::Fixed(endpoints) => {
                announce.send_replace(Announcement {
                    seen: Seen::of_endpoints(endpoints.clone()),
                    status: Status::Fresh,
                    heard: Some(Instant::now()),
                });
            }
            Source::Dns(dns) => {
                let lookup = dns::Lookup::new(dns.clone());
                let board = Board::new(source.kind(), &source.name(), announce);
                task.spawn(lookup.run(board));
            }
            Source::Nats(nats) => {
                let board = Board::new(source.kind(), &source.name(), announce);
                let (bus, ear) = nats::Bus::telling((**nats).clone(), tell.clone());
                task.spawn(nats::run(bus, board));
                ear.map(|ear| task.spawn(ear.run()));
            }
            Source::Kubernetes(service) => {
                let board = Board::new(source.kind(), &source.name(), announce);
                task.spawn(kubernetes::Watch::new((**service).clone()).run(board));
            }
        }
        Self {
            source,
            announced,
            _task: task,
        }
    }

    fn listed(&self) -> Listed {
        Listed {
            kind: self.source.kind(),
            name: self.source.name(),
            announced: self.announced.clone(),
        }
    }
}

/// Pause after a failed answer, doubled each time up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{sync::watch, task::JoinSet};

    use super::{
        Announcement, Discovery, Endpoints, Host, Listing, Running, Seen, Source, Status, Tell,
    };
    use crate::base::id::StreamerAddr;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn endpoints(ports: &[u16]) -> Endpoints {
        Endpoints::of_addresses(ports.iter().map(|port| address(*port)))
    }

    /// A source that says what the test makes it say.
    fn told(discovery: &mut Discovery) -> impl Fn(Seen) + use<> {
        let (announce, announced) = watch::channel(Announcement::default());
        discovery.running.push(Running {
            source: Source::Fixed(Endpoints::default()),
            announced,
            _task: JoinSet::new(),
        });
        move |seen| {
            announce.send_replace(Announcement {
                seen,
                status: Status::Fresh,
                heard: None,
            });
        }
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
        let sources = vec![Source::Fixed(endpoints(&[1, 2]))];
        let mut discovery = Discovery::start(sources, Listing::default(), Tell::channel().0);
        let source = told(&mut discovery);
        let says = |leaving: &[u16]| {
            source(Seen {
                leaving: endpoints(leaving).0.into_values().collect(),
                ..Seen::default()
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

    #[test]
    fn a_source_without_addresses_is_completed_by_one_that_has_them() {
        let sources = vec![Source::Fixed(endpoints(&[1, 2]))];
        let mut discovery = Discovery::start(sources, Listing::default(), Tell::channel().0);
        let (pods, bus) = (told(&mut discovery), told(&mut discovery));
        let host = |port: Option<u16>, leaving| Host {
            address: port.map(|port| StreamerAddr(address(port))),
            leaving,
        };
        pods(Seen {
            hosts: [("Pod-1.zone".to_owned(), host(Some(1), false))].into(),
            ..Seen::default()
        });
        for (left, staying) in [
            ("pod-1.zone", &[2][..]),
            ("pod-1_zone", &[2]),
            ("pod-1", &[1, 2]),
            ("pod-3", &[1, 2]),
        ] {
            bus(Seen {
                hosts: [(left.to_owned(), host(None, true))].into(),
                ..Seen::default()
            });
            assert_eq!(discovery.endpoints(), &endpoints(staying), "{left}");
        }
    }

    #[tokio::test]
    async fn other_sources_take_over_at_once_when_they_need_nobody() {
        let listing = Listing::default();
        let source = |ports| vec![Source::Fixed(endpoints(ports))];
        let mut discovery = Discovery::start(source(&[1, 2]), listing.clone(), Tell::channel().0);
        assert_eq!(discovery.endpoints(), &endpoints(&[1, 2]));
        discovery.replace(source(&[2, 3]));
        assert_eq!(discovery.endpoints(), &endpoints(&[2, 3]));
        let report = listing.report(std::time::Instant::now());
        let [source] = report.as_slice() else {
            panic!("{report:?}")
        };
        assert_eq!((source.kind, source.status), ("list", "fresh"));
        let addresses = source.streamers.iter();
        let addresses: Vec<_> = addresses.filter_map(|one| one.address.as_deref()).collect();
        assert_eq!(addresses, ["127.0.0.1:2", "127.0.0.1:3"]);
    }
}
