//! Listeners, routes, monoliths and pools: the parts of the configuration that name each other.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    build::Builder,
    diagnostic::{Diagnostic, Place},
    file::{CertificateFile, DiscoveryFile, DnsFile, ListenerFile},
    model::{
        Certificate, Dns, DnsKind, HostPattern, Listener, Monolith, Pool, ProxyProtocol, Queue,
        Route, Server,
    },
    table::{Maybe, Setting, nearest},
    value::{Endpoint, Many, OneOrMany, Or, Record},
};
use crate::base::id::{ListenAddr, PoolName, StreamerAddr};

/// Name of the pool that is made of the top-level keys.
pub const DEFAULT_POOL: &str = "default";

impl Builder<'_> {
    pub(super) fn listeners(&mut self) -> Vec<Listener> {
        let file = self.file;
        if let (Some(listen), Some(first)) = (&file.listen, file.listener.first()) {
            self.faults.push(
                Diagnostic::error(
                    &listen.place,
                    "`listen` and `[[listener]]` exclude each other",
                )
                .label("listens here")
                .related(&first.place, "and here")
                .help("write the address of `listen` as one more [[listener]]"),
            );
        }
        let mut addresses: Vec<Setting<ListenAddr>> = Vec::new();
        let mut listeners = Vec::new();
        if let Some(listen) = &file.listen {
            for address in &listen.value.0.all {
                self.not_taken(address, &addresses);
                addresses.push(address.clone());
                listeners.push(plain(address.value));
            }
            if listen.value.0.is_empty() {
                self.faults.push(
                    Diagnostic::error(&listen.place, "`listen` is empty")
                        .label("no client could connect")
                        .help("without this key it is \"0.0.0.0:8080\""),
                );
            }
        }
        for listener in &file.listener {
            let built = self.listener(listener);
            if let Some(address) = &listener.address.0 {
                self.not_taken(address, &addresses);
                addresses.push(address.clone());
            }
            listeners.extend(built);
        }
        listeners
    }

    fn listener(&mut self, file: &ListenerFile) -> Option<Listener> {
        let tls: Vec<Certificate> = file
            .tls
            .iter()
            .filter_map(|certificate| self.certificate(certificate))
            .collect();
        let plain_text = file.tls.is_empty();
        if let Some(http2) = &file.http2
            && http2.value
            && plain_text
        {
            self.faults.push(
                Diagnostic::error(&http2.place, "HTTP/2 needs TLS")
                    .label("this listener has no `tls`")
                    .help("clients agree on HTTP/2 in the TLS handshake only"),
            );
        }
        let http2 = !plain_text && file.http2.as_ref().is_some_and(|http2| http2.value);
        let over_http2 = &file.http2_websocket;
        if over_http2.value && !http2 {
            let fault = Diagnostic::error(
                &over_http2.place,
                "`http2_websocket` needs HTTP/2 on the same listener",
            );
            self.faults.push(match (&file.http2, plain_text) {
                (Some(http2), false) => fault
                    .label("never used")
                    .related(&http2.place, "HTTP/2 is off here"),
                _ => fault.label("this listener has no `tls`, so no HTTP/2"),
            });
        }
        if let Some(redirect) = &file.redirect_https
            && !plain_text
        {
            self.faults.push(
                Diagnostic::error(&redirect.place, "a TLS listener cannot redirect to https")
                    .label("clients are already there")
                    .help("set `redirect_https` on the plain listener"),
            );
        }
        Some(Listener {
            address: file.address.0.as_ref()?.value,
            tls,
            http2,
            http2_websocket: over_http2.value,
            proxy_protocol: if file.proxy_protocol.value {
                ProxyProtocol::Required
            } else {
                ProxyProtocol::Off
            },
            redirect_https: file
                .redirect_https
                .as_ref()
                .and_then(|port| u16::try_from(port.value.0).ok()),
        })
    }

    fn certificate(&mut self, file: &CertificateFile) -> Option<Certificate> {
        match (&file.cert, &file.key, &file.secret_dir) {
            (Some(cert), Some(key), None) => Some(Certificate {
                cert: self.named_file(cert, &cert.value.0),
                key: self.named_file(key, &key.value.0),
            }),
            (None, None, Some(directory)) => {
                let inside = Certificate::in_directory(&directory.value.0);
                Some(Certificate {
                    cert: self.named_file(directory, &inside.cert),
                    key: self.named_file(directory, &inside.key),
                })
            }
            (cert, key, directory) => {
                let label = match (cert, key, directory) {
                    (Some(_), None, None) => "`key` is missing",
                    (None, Some(_), None) => "`cert` is missing",
                    (_, _, Some(_)) => "`secret_dir` stands for both `cert` and `key`",
                    _ => "neither `cert` and `key` nor `secret_dir`",
                };
                self.faults.push(
                    Diagnostic::error(&file.place, "this is not a certificate with its key")
                        .label(label)
                        .absence()
                        .help(
                            "write { cert = \"tls.crt\", key = \"tls.key\" } or \
                             { secret_dir = \"/etc/ddp-gateway/tls\" }",
                        ),
                );
                None
            }
        }
    }

    pub(super) fn admin(&mut self, listeners: &[Listener]) -> Option<ListenAddr> {
        let admin = &self.file.admin;
        let Or::Value(address) = admin.value else {
            return None;
        };
        let taken = listeners
            .iter()
            .find(|listener| collide(listener.address, address));
        if let Some(listener) = taken {
            let message = format!(
                "`admin` cannot be on {}, where clients connect",
                listener.address
            );
            let fault = if admin.place.is_default() {
                Diagnostic::placeless(message)
            } else {
                Diagnostic::error(&admin.place, message).label("the same address")
            };
            self.faults
                .push(fault.help("give `admin` a port of its own, or set it to \"off\""));
        }
        Some(address)
    }

    /// Reports an address that one of the others has already.
    fn not_taken(&mut self, address: &Setting<ListenAddr>, others: &[Setting<ListenAddr>]) {
        let same = others
            .iter()
            .find(|other| collide(other.value, address.value));
        if let Some(other) = same {
            let fault = Diagnostic::error(&address.place, "two listeners on one address")
                .label("the second one")
                .related(&other.place, "the first one");
            self.faults.push(if other.value == address.value {
                fault
            } else {
                fault.help("one of the two covers all addresses of this machine")
            });
        }
    }

    pub(super) fn pools(&mut self) -> Vec<Pool> {
        let file = self.file;
        let (streamers, mut dns) = self.streamers(file.streamers.given());
        dns.extend(self.discovery(&file.discovery));
        if streamers.is_empty() && dns.is_empty() {
            let fault = match &file.streamers {
                Maybe::Given(streamers) if streamers.value.0.is_empty() => Some(
                    Diagnostic::error(&streamers.place, "there are no streamers").label("empty"),
                ),
                // What could not be read has been reported.
                Maybe::Given(_) | Maybe::Faulty => None,
                Maybe::Missing if file.discovery.dns.is_some() => None,
                Maybe::Missing => Some(Diagnostic::placeless("`streamers` is missing")),
            };
            self.faults.extend(fault.map(|fault| {
                fault.absence().help(
                    "add: streamers = [\"127.0.0.1:4001\", \"127.0.0.1:4002\"], or [discovery.dns]",
                )
            }));
        }
        let health = self.health();
        let base = &file.pool;
        self.at_least(&base.attach_timeout, Duration::from_millis(10));
        self.patience(&base.queue_wait);
        let mut pools = vec![Pool {
            name: PoolName::new(DEFAULT_POOL),
            streamers,
            dns,
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
            let (streamers, mut dns) = self.streamers(pool.streamers.given());
            dns.extend(self.discovery(&pool.discovery));
            let said = pool.discovery.dns.is_some()
                || match &pool.streamers {
                    Maybe::Missing => false,
                    Maybe::Faulty => true,
                    Maybe::Given(streamers) => !streamers.value.0.is_empty(),
                };
            if streamers.is_empty() && dns.is_empty() && !said {
                self.faults.push(
                    Diagnostic::error(&pool.place, format!("the pool `{name}` has no streamers"))
                        .label("neither `streamers` nor `discovery.dns`")
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
                streamers,
                dns,
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

    fn discovery(&mut self, discovery: &DiscoveryFile) -> Option<Dns> {
        discovery.dns.as_ref().and_then(|dns| self.dns(dns))
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

    pub(super) fn routes(&mut self, pools: &[Pool]) -> (Vec<Monolith>, Vec<Route>) {
        let file = self.file;
        let mut monoliths = vec![match &file.monolith.0 {
            Some(monolith) => self.monolith(monolith),
            None => Monolith {
                servers: Vec::new(),
            },
        }];
        let mut routes: Vec<Route> = Vec::new();
        let mut places: BTreeMap<(String, String), &Place> = BTreeMap::new();
        let mut named = vec![false; pools.len()];
        for route in &file.route {
            let host = route.host.value.clone();
            let path = route.path.value.0.clone();
            if !route.host.stand_in && !route.path.stand_in {
                match places.entry((format!("{host:?}"), path.clone())) {
                    Entry::Vacant(free) => {
                        free.insert(&route.place);
                    }
                    Entry::Occupied(first) => {
                        self.faults.push(
                            Diagnostic::error(
                                &route.place,
                                "two routes for the same host and path",
                            )
                            .label("never reached")
                            .related(first.get(), "this one comes first"),
                        );
                        continue;
                    }
                }
            }
            let monolith = match &route.monolith {
                None => 0,
                Some(setting) => {
                    let monolith = self.monolith(setting);
                    let known = monoliths.iter().position(|known| *known == monolith);
                    known.unwrap_or_else(|| {
                        monoliths.push(monolith);
                        monoliths.len() - 1
                    })
                }
            };
            let pool = match &route.pool.value {
                Or::Word(_) => None,
                Or::Value(name) => {
                    let found = pools.iter().position(|pool| pool.name.as_str() == name.0);
                    if found.is_none() {
                        self.unknown_pool(&name.0, &route.pool, pools);
                    }
                    found
                }
            };
            if let Some(pool) = pool {
                named[pool] = true;
            }
            routes.push(Route {
                host,
                path,
                monolith,
                pool,
            });
        }
        for (pool, named) in pools.iter().zip(named).skip(1) {
            let place = file.pools.get(pool.name.as_str()).map(|pool| &pool.place);
            if let (Some(place), false, true) = (place, named, is_pool_name(pool.name.as_str())) {
                self.faults.push(
                    Diagnostic::warning(place, format!("no route names the pool `{}`", pool.name))
                        .label("nobody is sent there")
                        .help(format!("add a [[route]] with pool = \"{}\"", pool.name)),
                );
            }
        }
        if !routes
            .iter()
            .any(|route| route.host == HostPattern::Any && route.path == "/")
        {
            routes.push(Route {
                host: HostPattern::Any,
                path: "/".to_owned(),
                monolith: 0,
                pool: Some(0),
            });
        }
        routes.sort_by_key(|route| {
            let host = match &route.host {
                HostPattern::Exact(host) => (0, Reverse(host.len()), host.clone()),
                HostPattern::Suffix(host) => (1, Reverse(host.len()), host.clone()),
                HostPattern::Any => (2, Reverse(0), String::new()),
            };
            (host, Reverse(route.path.len()), route.path.clone())
        });
        (monoliths, routes)
    }

    fn unknown_pool<T>(&mut self, name: &str, setting: &Setting<T>, pools: &[Pool]) {
        let fault = Diagnostic::error(&setting.place, format!("there is no pool `{name}`"))
            .label("unknown pool");
        let names = || {
            let further = pools[1..].iter().map(|pool| pool.name.as_str());
            std::iter::once(DEFAULT_POOL).chain(further.filter(|name| is_pool_name(name)))
        };
        self.faults.push(match nearest(name, names()) {
            Some(meant) => fault.help(format!("did you mean \"{meant}\"?")),
            None => {
                let names: Vec<&str> = names().collect();
                fault.help(format!(
                    "the pools are {}; [pools.{name}] would make one",
                    names.join(", ")
                ))
            }
        });
    }

    fn monolith(&mut self, setting: &Setting<OneOrMany<Server>>) -> Monolith {
        let servers = &setting.value.0.all;
        if setting.value.0.is_empty() {
            self.faults.push(
                Diagnostic::error(&setting.place, format!("`{}` is empty", setting.path))
                    .label("nobody would answer")
                    .absence(),
            );
        }
        for (at, server) in servers.iter().enumerate() {
            let twin = servers[..at]
                .iter()
                .find(|other| other.value == server.value);
            if let Some(twin) = twin {
                self.faults.push(
                    Diagnostic::error(&server.place, "a server stands here twice")
                        .label("the second time")
                        .related(&twin.place, "the first time"),
                );
            }
        }
        Monolith {
            servers: servers.iter().map(|server| server.value.clone()).collect(),
        }
    }
}

/// Whether a pool of `[pools.NAME]` may be called that.
fn is_pool_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let reserved = name == DEFAULT_POOL || name == "off";
    !reserved && (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn plain(address: ListenAddr) -> Listener {
    Listener {
        address,
        tls: Vec::new(),
        http2: false,
        http2_websocket: false,
        proxy_protocol: ProxyProtocol::Off,
        redirect_https: None,
    }
}

/// Whether the system would refuse to open both. Port 0 is a free one each time.
fn collide(a: ListenAddr, b: ListenAddr) -> bool {
    let (a, b) = (a.0, b.0);
    let covers = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() == b.port() && a.port() != 0 && covers
}

fn own<T: Copy>(setting: &Option<Setting<T>>) -> Option<T> {
    setting.as_ref().map(|setting| setting.value)
}

fn length(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
