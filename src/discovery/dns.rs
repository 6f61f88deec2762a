//! Streamers by DNS: A and AAAA records of a name, or SRV records and the addresses behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};

use crate::config::model::{Dns, DnsKind};

use super::{Board, Endpoints, Host, RETRY_FIRST, RETRY_MOST, Seen, SourceError};

/// The repeated look-up of one name.
///
/// A name with both A and AAAA records is taken to mean the same streamers twice, so AAAA records
/// count only where there is no A record. Priorities and weights of SRV records are not used: the
/// pool goes by sessions.
pub(super) struct Lookup {
    dns: Dns,
    /// Addresses of SRV targets as last known, for when one of them fails alone.
    targets: BTreeMap<Name, Vec<IpAddr>>,
}

/// One round of questions.
struct Answer {
    endpoints: Endpoints,
    /// The shortest of all records.
    ttl: Duration,
}

impl Lookup {
    pub(super) fn new(dns: Dns) -> Self {
        Self {
            dns,
            targets: BTreeMap::new(),
        }
    }

    /// Asks again whenever the answer expires; never ends by itself.
    pub(super) async fn run(mut self, board: Board) {
        let mut retry = RETRY_FIRST;
        loop {
            // A defect that an odd answer brings to light must not end the look-ups for good.
            let asked = AssertUnwindSafe(self.ask()).catch_unwind();
            let answer = match tokio::time::timeout(ROUND_TIMEOUT, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_panic)) => Err(SourceError::Defect),
                Err(_) => Err(SourceError::Timeout),
            };
            let pause = match &answer {
                Ok(answer) if !answer.endpoints.0.is_empty() => {
                    retry = RETRY_FIRST;
                    let most = self.dns.ttl_max.max(self.dns.ttl_min);
                    answer.ttl.clamp(self.dns.ttl_min, most)
                }
                _ => {
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MOST);
                    pause
                }
            };
            let seen = answer.map(|answer| self.seen(answer.endpoints));
            board.put(seen, Instant::now());
            tokio::time::sleep(pause.max(SHORTEST_PAUSE)).await;
        }
    }

    /// A name with one address is that of a host.
    fn seen(&self, endpoints: Endpoints) -> Seen {
        let mut addresses = endpoints.0.values();
        let hosts = match (addresses.next(), addresses.next(), self.dns.kind) {
            (Some(only), None, DnsKind::Address { .. }) => {
                let (host, _) = self
                    .dns
                    .name
                    .split_once('.')
                    .unwrap_or((&self.dns.name, ""));
                let known = Host {
                    address: Some(*only),
                    leaving: false,
                };
                [(host.to_owned(), known)].into()
            }
            _ => BTreeMap::new(),
        };
        Seen {
            hosts,
            ..Seen::of_endpoints(endpoints)
        }
    }

    async fn ask(&mut self) -> Result<Answer, SourceError> {
        // Made for each round, so that a changed resolv.conf (or hosts file) is noticed.
        let resolver = resolver(&self.dns.resolvers)?;
        let name = Name::from_utf8(&self.dns.name).map_err(|_| SourceError::BadName)?;
        match self.dns.kind {
            DnsKind::Address { port } => {
                let (addresses, ttl) = addresses(&resolver, &name).await?;
                let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port));
                Ok(Answer {
                    endpoints: Endpoints::of_addresses(addresses.take(MOST_STREAMERS)),
                    ttl,
                })
            }
            DnsKind::Srv => self.ask_srv(&resolver, name).await,
        }
    }

    async fn ask_srv(
        &mut self,
        resolver: &TokioResolver,
        name: Name,
    ) -> Result<Answer, SourceError> {
        let services = resolver
            .lookup(name, RecordType::SRV)
            .await
            .map_err(|error| source_error(&error))?;
        let mut ttl = Duration::MAX;
        let mut places = BTreeSet::new();
        for record in services.answers() {
            if let RData::SRV(service) = &record.data {
                ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                // A root target says that there is decidedly no such service (RFC 2782).
                if !service.target.is_root() && places.len() < MOST_STREAMERS {
                    places.insert((service.target.clone(), service.port));
                }
            }
        }
        let names: BTreeSet<_> = places.iter().map(|(target, _)| target).collect();
        let mut known = BTreeMap::new();
        let mut failure = None;
        for target in names {
            let found = match addresses(resolver, target).await {
                Ok((found, its_ttl)) => {
                    ttl = ttl.min(its_ttl);
                    found
                }
                Err(SourceError::Empty | SourceError::NoSuchName) => continue,
                Err(error) => match self.targets.get(target) {
                    Some(last) => {
                        failure = Some(error);
                        last.clone()
                    }
                    None => {
                        failure = Some(error);
                        continue;
                    }
                },
            };
            known.insert(target.clone(), found);
        }
        let found = places.iter().flat_map(|(target, port)| {
            let addresses = known.get(target).into_iter().flatten();
            addresses.map(|ip| SocketAddr::new(*ip, *port))
        });
        let endpoints = Endpoints::of_addresses(found.take(MOST_STREAMERS));
        self.targets = known;
        match failure {
            Some(error) if endpoints.0.is_empty() => Err(error),
            // Ask soon again for what is missing.
            Some(_) => Ok(Answer {
                endpoints,
                ttl: ttl.min(RETRY_FIRST),
            }),
            None => Ok(Answer { endpoints, ttl }),
        }
    }
}

/// A records, or AAAA records if there is no A record, with the shortest TTL.
async fn addresses(
    resolver: &TokioResolver,
    name: &Name,
) -> Result<(Vec<IpAddr>, Duration), SourceError> {
    let mut missing = SourceError::Empty;
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = match resolver.lookup(name.clone(), kind).await {
            Ok(answer) => answer,
            Err(error) => match source_error(&error) {
                error @ (SourceError::Empty | SourceError::NoSuchName) => {
                    missing = error;
                    continue;
                }
                error => return Err(error),
            },
        };
        let mut ttl = Duration::MAX;
        let mut found = BTreeSet::new();
        for record in answer.answers() {
            // Of a chain of CNAME records the shortest TTL counts too.
            ttl = ttl.min(Duration::from_secs(record.ttl.into()));
            match &record.data {
                RData::A(address) => found.insert(IpAddr::V4(address.0)),
                RData::AAAA(address) => found.insert(IpAddr::V6(address.0)),
                _ => false,
            };
        }
        if !found.is_empty() {
            return Ok((found.into_iter().collect(), ttl));
        }
    }
    Err(missing)
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, SourceError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|_| SourceError::NoResolver)?
    } else {
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
                .map(|mut connection| {
                    connection.port = server.port();
                    connection
                })
                .to_vec();
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        // The configured servers are asked for, and nobody else.
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder
    };
    let options: &mut ResolverOpts = builder.options_mut();
    // The TTL is honoured here; a cache in between could only make answers older.
    options.cache_size = 0;
    options.timeout = SERVER_TIMEOUT;
    options.attempts = 1;
    builder.build().map_err(|_| SourceError::NoResolver)
}

fn source_error(error: &NetError) -> SourceError {
    match error {
        _ if error.is_nx_domain() => SourceError::NoSuchName,
        _ if error.is_no_records_found() => SourceError::Empty,
        NetError::Dns(DnsError::ResponseCode(code)) => SourceError::Refused(code.to_string()),
        NetError::Timeout => SourceError::Timeout,
        _ => SourceError::Unreachable,
    }
}

/// For one question to one server, tried twice.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);
/// For all questions of one round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(15);
/// Between rounds, whatever the configured bounds say.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// An answer with more is cut: nobody has that many, and a hostile one must not cost memory.
const MOST_STREAMERS: usize = 1024;
