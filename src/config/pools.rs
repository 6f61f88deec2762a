//! Pools and where their streamers are found.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    build::Builder,
    diagnostic::Diagnostic,
    file::{DiscoveryFile, DnsFile},
    model::{Dns, DnsKind, Kubernetes, Nats, Pool, Queue, Rebalance},
    table::{Maybe, Setting},
    value::{address::Endpoint, list::Many, quantity::Share, text::Record},
};
use crate::base::id::{PoolName, StreamerAddr};

/// Name of the pool that is made of the top-level keys.
pub const DEFAULT_POOL: &str = "default";

/// Up to this share of the fullest streamer above the mean, streamers are level.
const LEVEL: f64 = 0.1;

impl Builder<'_> {
    pub(super) fn rebalance(&mut self) -> Rebalance {
        let Setting {
            value: Share(threshold),
            place,
            ..
        } = &self.file.rebalance.threshold;
        if *threshold < LEVEL {
            self.faults.push(
                Diagnostic::error(place, "rebalancing would never rest")
                    .label("streamers are level at 0.1")
                    .help("0.1 at least; 0.25 leaves room for clients that come and go"),
            );
        }
        Rebalance {
            mode: self.file.rebalance.mode.value,
            threshold: threshold.max(LEVEL),
            leaving: self.file.rebalance.leaving.value,
        }
    }

    pub(super) fn pools(&mut self) -> Vec<Pool> {
        let file = self.file;
        let sources = self.sources(&file.streamers, &file.discovery);
        if sources.is_empty() {
            let fault = match &file.streamers {
                Maybe::Given(streamers) if streamers.value.0.is_empty() => Some(
                    Diagnostic::error(&streamers.place, "there are no streamers").label("empty"),
                ),
                // What could not be read has been reported.
                Maybe::Given(_) | Maybe::Faulty => None,
                Maybe::Missing if file.discovery.is_given() => None,
                Maybe::Missing => Some(Diagnostic::placeless("`streamers` is missing")),
            };
            self.faults.extend(fault.map(|fault| {
                fault.absence().help(
                    "add: streamers = [\"127.0.0.1:4001\", \"127.0.0.1:4002\"], or one of [discovery]",
                )
            }));
        }
        let health = self.health();
        let base = &file.pool;
        self.at_least(&base.attach_timeout, Duration::from_millis(10));
        self.patience(&base.queue_wait);
        let mut pools = vec![Pool {
            name: PoolName::new(DEFAULT_POOL),
            streamers: sources.streamers,
            dns: sources.dns,
            nats: sources.nats,
            kubernetes: sources.kubernetes,
            sessions_per_streamer: base.sessions_per_streamer.value.0,
            queue: Queue {
                length: length(base.queue_length.value.0),
                wait: base.queue_wait.value,
            },
            slow_start: base.slow_start.value,
            attach_timeout: base.attach_timeout.value,
            health,
        }];
        for (name, pool) in &file.pools {
            if !is_pool_name(name) {
                let fault = Diagnostic::error(&pool.place, "a pool cannot have this name");
                self.faults.push(match name.as_str() {
                    DEFAULT_POOL => fault
                        .label("the pool of the keys at the top level")
                        .help("use `streamers` and [discovery] at the top level, or another name"),
                    "off" => fault.label("means \"no pool\" in a route"),
                    _ => fault.label("letters, digits, `-` and `_` only, at most 64"),
                });
            }
            let sources = self.sources(&pool.streamers, &pool.discovery);
            let said = pool.discovery.is_given()
                || match &pool.streamers {
                    Maybe::Missing => false,
                    Maybe::Faulty => true,
                    Maybe::Given(streamers) => !streamers.value.0.is_empty(),
                };
            if sources.is_empty() && !said {
                self.faults.push(
                    Diagnostic::error(&pool.place, format!("the pool `{name}` has no streamers"))
                        .label("neither `streamers` nor `discovery`")
                        .absence(),
                );
            }
            if let Some(timeout) = &pool.attach_timeout {
                self.at_least(timeout, Duration::from_millis(10));
            }
            if let Some(wait) = &pool.queue_wait {
                self.patience(wait);
            }
            let first = &pools[0];
            pools.push(Pool {
                name: PoolName::new(name.as_str()),
                streamers: sources.streamers,
                dns: sources.dns,
                nats: sources.nats,
                kubernetes: sources.kubernetes,
                sessions_per_streamer: own(&pool.sessions_per_streamer)
                    .map_or(first.sessions_per_streamer, |limit| limit.0),
                queue: Queue {
                    length: own(&pool.queue_length)
                        .map_or(first.queue.length, |limit| length(limit.0)),
                    wait: own(&pool.queue_wait).unwrap_or(first.queue.wait),
                },
                slow_start: own(&pool.slow_start).unwrap_or(first.slow_start),
                attach_timeout: own(&pool.attach_timeout).unwrap_or(first.attach_timeout),
                health,
            });
        }
        pools
    }

    /// Warns when clients would give up before the gateway does.
    fn patience(&mut self, wait: &Setting<Duration>) {
        if wait.value > Duration::from_secs(100) {
            self.faults.push(
                Diagnostic::warning(&wait.place, "clients do not wait that long")
                    .label("they give up after 100 s")
                    .help("what waits for nobody only takes a place in the queue"),
            );
        }
    }

    /// Everywhere that streamers of a pool are looked for.
    fn sources(&mut self, listed: &Maybe<Many<Endpoint>>, discovery: &DiscoveryFile) -> Sources {
        let (streamers, mut dns) = self.streamers(listed.given());
        dns.extend(discovery.dns.as_ref().and_then(|dns| self.dns(dns)));
        let nats = discovery.nats.as_deref();
        let listed = !matches!(listed, Maybe::Missing);
        let others = listed || discovery.dns.is_some() || discovery.kubernetes.is_some();
        self.nats_alone(nats, others);
        let kubernetes = discovery.kubernetes.as_deref();
        Sources {
            streamers,
            dns,
            nats: nats.and_then(|nats| self.nats(nats)),
            kubernetes: kubernetes
                .and_then(|service| self.kubernetes(service))
                .map(Box::new),
        }
    }

    /// Literal addresses, and a lookup for each name.
    fn streamers(
        &mut self,
        setting: Option<&Setting<Many<Endpoint>>>,
    ) -> (Vec<StreamerAddr>, Vec<Dns>) {
        let mut addresses = Vec::new();
        let mut names = Vec::new();
        let Some(setting) = setting else {
            return (addresses, names);
        };
        let endpoints = &setting.value.0.all;
        for (at, endpoint) in endpoints.iter().enumerate() {
            let twin = endpoints[..at]
                .iter()
                .find(|other| other.value == endpoint.value);
            if let Some(twin) = twin {
                self.faults.push(
                    Diagnostic::error(&endpoint.place, "a streamer stands here twice")
                        .label("the second time")
                        .related(&twin.place, "the first time"),
                );
                continue;
            }
            let Endpoint { host, port } = &endpoint.value;
            match host.parse::<IpAddr>() {
                Ok(ip) => addresses.push(StreamerAddr(SocketAddr::new(ip, *port))),
                Err(_) => names.push(self.lookup(host.clone(), *port)),
            }
        }
        (addresses, names)
    }

    /// A streamer that is given by name is asked for as `[discovery.dns]` is without further keys.
    fn lookup(&self, name: String, port: u16) -> Dns {
        Dns {
            name,
            kind: DnsKind::Address { port },
            resolvers: Vec::new(),
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(30),
        }
    }

    fn dns(&mut self, dns: &DnsFile) -> Option<Dns> {
        let port = dns.port.given().map(|port| {
            // The reader allows 1 to 65535 only.
            u16::try_from(port.value.0).unwrap_or(u16::MAX)
        });
        match (dns.kind.value, &dns.port) {
            (Record::Srv, Maybe::Given(port)) => self.faults.push(
                Diagnostic::error(&port.place, "`port` has no meaning with kind = \"srv\"")
                    .label("SRV answers bring their own")
                    .related(&dns.kind.place, "set here"),
            ),
            (Record::Address, Maybe::Missing) if !dns.kind.stand_in => self.faults.push(
                Diagnostic::error(
                    &dns.place,
                    format!("`port` of {} is missing", "discovery.dns"),
                )
                .label("addresses in the DNS have no port")
                .absence()
                .help("add: port = 3000, or kind = \"srv\""),
            ),
            _ => {}
        }
        self.at_least(&dns.ttl_min, Duration::from_millis(100));
        if dns.ttl_max.value < dns.ttl_min.value && !dns.ttl_max.stand_in && !dns.ttl_min.stand_in {
            let written = if dns.ttl_max.place.is_default() {
                &dns.ttl_min
            } else {
                &dns.ttl_max
            };
            self.faults.push(
                Diagnostic::error(&written.place, "`ttl_max` is less than `ttl_min`")
                    .label("no time is within these bounds"),
            );
        }
        Some(Dns {
            name: dns.name.0.as_ref()?.value.0.clone(),
            kind: dns.kind.value.with_port(port.unwrap_or_default()),
            resolvers: dns.resolvers.value.0.all.iter().map(|r| r.value).collect(),
            ttl_min: dns.ttl_min.value,
            ttl_max: dns.ttl_max.value,
        })
    }
}

/// Where the streamers of a pool are looked for.
struct Sources {
    streamers: Vec<StreamerAddr>,
    dns: Vec<Dns>,
    nats: Option<Nats>,
    kubernetes: Option<Box<Kubernetes>>,
}

impl Sources {
    fn is_empty(&self) -> bool {
        let addresses = self.streamers.is_empty() && self.dns.is_empty();
        addresses && self.nats.is_none() && self.kubernetes.is_none()
    }
}

impl DiscoveryFile {
    /// Whether it names a source, one that could not be read included.
    fn is_given(&self) -> bool {
        self.dns.is_some() || self.nats.is_some() || self.kubernetes.is_some()
    }
}

/// Whether a pool of `[pools.NAME]` may be called that.
pub(super) fn is_pool_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let reserved = name == DEFAULT_POOL || name == "off";
    !reserved && (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn own<T: Copy>(setting: &Option<Setting<T>>) -> Option<T> {
    setting.as_ref().map(|setting| setting.value)
}

fn length(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
