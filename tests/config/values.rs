//! What the values of a file mean.

use std::{fs, path::Path, time::Duration};

use ddp_gateway::config::{
    Environment,
    model::{
        Config, DnsKind, HostPattern, LogFormat, Logins, MethodLimits, ProxyProtocol, Quota, Rate,
        Rebalance, RebalanceMode, ServicePort,
    },
};

use crate::support::{BASE, environment, load, loaded, path};

fn fixture(name: &str) -> Config {
    let file = path("tests/config/valid").join(name);
    let text = fs::read_to_string(file).expect("the fixture is committed");
    loaded(&text, &environment()).config
}

#[test]
fn listeners() {
    let config = fixture("listeners.toml");
    assert_eq!(config.admin, None);
    let [plain, tls, proxied, free] = config.listeners.as_slice() else {
        panic!("four listeners");
    };
    assert_eq!(plain.redirect_https, Some(443));
    assert!(plain.reuse_port && !tls.reuse_port);
    assert!(tls.http2 && tls.http2_websocket);
    assert_eq!(tls.tls.len(), 2);
    assert_eq!(tls.tls[0].key, Path::new("/etc/ddp-gateway/tls/tls.key"));
    assert_eq!(proxied.proxy_protocol, ProxyProtocol::Required);
    assert_eq!(proxied.address, free.address);
    assert!(!free.http2);

    let servers: Vec<(&str, u16)> = config.monoliths[0]
        .servers
        .iter()
        .map(|server| (&*server.host, server.port))
        .collect();
    assert_eq!(
        servers,
        [("rocketchat-1", 3000), ("fd00::7", 3000), ("10.0.0.9", 80)]
    );
    // A streamer that is given by name is a name to look up.
    let pool = &config.pools[0];
    assert_eq!(pool.streamers[0].to_string(), "[fd00::8]:3000");
    assert_eq!(pool.dns[0].name, "streamer.example.com");
    assert_eq!(pool.dns[0].kind, DnsKind::Address { port: 3000 });
    for (address, trusted) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("192.168.1.4", true),
        ("192.168.1.5", false),
        ("fd12::1", true),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(
            config.trusted_proxies.contains(address),
            trusted,
            "{address}"
        );
    }
}

#[test]
fn the_most_specific_route_comes_first() {
    let config = fixture("routes.toml");
    let routes: Vec<(HostPattern, &str, usize, Option<usize>)> = config
        .routes
        .iter()
        .map(|route| {
            (
                route.host.clone(),
                route.path.as_str(),
                route.monolith,
                route.pool,
            )
        })
        .collect();
    assert_eq!(
        routes,
        [
            (
                HostPattern::Exact("eu.example.com".to_owned()),
                "/",
                1,
                Some(1)
            ),
            (
                HostPattern::Suffix("example.com".to_owned()),
                "/chat",
                2,
                None
            ),
            // Equal monoliths are one.
            (HostPattern::Any, "/livechat", 2, Some(0)),
            (HostPattern::Any, "/", 0, Some(0)),
        ]
    );
    let eu = &config.pools[1];
    assert_eq!(eu.sessions_per_streamer, 250);
    assert_eq!(
        (eu.queue.length, eu.queue.wait),
        (0, Duration::from_secs(5))
    );
    assert_eq!(eu.slow_start, Duration::ZERO);
    assert_eq!(eu.dns[0].kind, DnsKind::Srv);
    let resolvers: Vec<String> = eu.dns[0]
        .resolvers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        resolvers,
        ["10.96.0.10:53", "127.0.0.1:5353", "[fd00::a]:53"]
    );
    // What the pool does not say is as in [pool].
    assert_eq!(eu.health, config.pools[0].health);
}

#[test]
fn a_route_for_everything_replaces_the_implied_one() {
    let config = load(&format!("{BASE}[[route]]\npool = \"off\"\n"));
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].pool, None);
}

#[test]
fn services_of_kubernetes() {
    let config = fixture("kubernetes.toml");
    let [first, eu] = config.pools.as_slice() else {
        panic!("two pools");
    };
    let service = first.kubernetes.as_ref().unwrap();
    assert_eq!(service.name(), "rocketchat-ddp-streamer");
    assert_eq!((&service.namespace, &service.server), (&None, &None));
    assert_eq!(service.port, ServicePort::Name("http".to_owned()));
    let folder = Path::new("/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(service.token_file, folder.join("token"));
    assert_eq!(service.ca_file, folder.join("ca.crt"));
    assert_eq!(service.timeout, Duration::from_secs(10));
    assert_eq!(service.renew, Duration::from_secs(60));
    // Several sources complete each other.
    assert_eq!(first.dns.len(), 1);
    let service = eu.kubernetes.as_ref().unwrap();
    assert_eq!(service.name(), "chat-eu/eu-ddp-streamer");
    assert_eq!(service.port, ServicePort::Number(3000));
    let server = service.server.as_ref().unwrap();
    assert_eq!(
        (server.tls, &*server.host, server.port),
        (true, "fd00::1", 6443)
    );
    assert_eq!(server.to_string(), "https://[fd00::1]:6443");
    assert!(service.token_file.ends_with("tokens/eu"));
    assert_eq!(service.ca_file, Path::new("/etc/ca.crt"));
    for (port, expected) in [
        ("8080", ServicePort::Number(8080)),
        ("web", ServicePort::Name("web".to_owned())),
    ] {
        let variable = ("DDP_GATEWAY__DISCOVERY__KUBERNETES__PORT", port);
        let environment: Environment = [variable]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .into_iter()
            .collect();
        let text = "monolith = 'http://a'\n[discovery.kubernetes]\nservice = 'a'\n";
        let config = loaded(text, &environment).config;
        assert_eq!(config.pools[0].kubernetes.as_ref().unwrap().port, expected);
    }
}

#[test]
fn environment_is_filled_in() {
    let config = fixture("environment.toml");
    assert_eq!(&*config.monoliths[0].servers[0].host, "chat-rocketchat");
    assert_eq!(config.pools[0].dns[0].name, "chat-ddp-streamer-headless");
    assert_eq!(config.affinity.cookie, None);
    let secret = config.affinity.secret.unwrap();
    assert_eq!(secret.expose(), b"0123456789abcdef0123456789abcdef");
}

#[test]
fn limits_and_times() {
    let config = fixture("limits.toml");
    assert!(!config.watch);
    assert_eq!(config.pools[0].slow_start, Duration::from_secs(90));
    assert_eq!(config.pools[0].attach_timeout, Duration::from_millis(2500));
    assert_eq!(config.http.body_limit, 1_000_000_000);
    assert_eq!(config.http.min_rate, 0);
    assert_eq!(config.http.keep_alive_connections, 0);
    // As browsers send it: lower case, without the scheme's own port.
    assert_eq!(
        config.websocket.origins,
        ["https://chat.example.com", "http://localhost:3000"]
    );
    let messages = Rate {
        per_second: 10,
        burst: 60,
    };
    assert_eq!(config.limits.messages, messages);
    assert_eq!(config.limits.max_connections, Some(1000));
    let logins = Logins {
        pace: false,
        streamer_concurrency: 3,
        concurrency: 40,
        streamer_rate: 10,
        rate: 25,
        latency_target: Duration::from_millis(500),
        timeout: Duration::from_secs(30),
        queue_length: 0,
    };
    assert_eq!(config.logins, logins);
    let rebalance = Rebalance {
        mode: RebalanceMode::Fast,
        threshold: 0.5,
        leaving: false,
    };
    assert_eq!(config.rebalance, rebalance);
    assert_eq!(config.drain.spread, Duration::ZERO);
    assert_eq!(config.log.format, LogFormat::Text);
}

fn quota(requests: u32, interval: Duration) -> Option<Quota> {
    Some(Quota { requests, interval })
}

#[test]
fn limits_of_methods() {
    let second = Duration::from_secs(1);
    assert_eq!(
        fixture("limits.toml").limits.methods,
        MethodLimits {
            connection: quota(1200, 60 * second),
            user: None,
            address: quota(60_000, 30 * second),
            connection_by_method: quota(5, second / 2),
            user_by_method: quota(1000, 10 * second),
            abuse: None,
            penalty: 300 * second,
        }
    );
    assert_eq!(
        load(BASE).limits.methods,
        MethodLimits {
            connection: quota(600, 60 * second),
            user: quota(1200, 60 * second),
            address: quota(120_000, 60 * second),
            connection_by_method: quota(10, 10 * second),
            user_by_method: quota(20, 10 * second),
            abuse: quota(300, 60 * second),
            penalty: 60 * second,
        }
    );
}

/// An address may hold the clients of the largest streamer, unless something else is said.
#[test]
fn the_limit_of_an_address_follows_the_size_of_a_streamer() {
    let address = |more: &str| load(&format!("{BASE}{more}")).limits.methods.address;
    let minute = Duration::from_secs(60);
    let pools = "[pool]\nsessions_per_streamer = 100\n[pools.a]\nstreamers = [\"b:1\"]\n\
                 sessions_per_streamer = 1000\n[limits.methods]\n";
    assert_eq!(address(pools), quota(240_000, minute));
    assert_eq!(
        address(&format!("{pools}address = \"7/min\"")),
        quota(7, minute)
    );
    assert_eq!(address(&format!("{pools}address = \"off\"")), None);
}

/// The numbers that the defaults are derived from.
#[test]
fn defaults_leave_room_for_honest_clients() {
    let config = load(BASE);
    let limits = &config.limits;
    // 60 subscriptions after a login and some methods, three times.
    assert!(limits.messages.burst >= 3 * 60);
    // Rocket.Chat's own rule for a connection: 600 in a minute.
    assert!(limits.messages.per_second >= 600 / 60);
    assert!(u64::from(limits.bytes.burst) >= 2 * config.websocket.message_limit);
    // 2,000 users behind one address, all at once, with more than one connection each.
    assert!(limits.connections.burst >= 2 * 2_000);
    assert_eq!(config.pools[0].sessions_per_streamer, 500);
    // After a restart of everything 10,000 users are in within two minutes, those of one streamer
    // as fast as its slow start lets them come.
    let logins = &config.logins;
    assert!(logins.pace);
    assert!(10_000 / logins.rate < 120);
    let streamers_users = config.pools[0].sessions_per_streamer;
    let in_after = Duration::from_secs((streamers_users / logins.streamer_rate).into());
    assert!(in_after <= config.pools[0].slow_start);
    // A login of 100 ms: the rates are reached with what may be in flight, with room to spare.
    assert!(logins.streamer_concurrency * 10 >= 2 * logins.streamer_rate);
    assert!(logins.concurrency * 10 >= 2 * logins.rate);
    assert!(logins.queue_length >= 10_000);
    // Clients that vanish are noticed within 60 s.
    assert!(config.websocket.idle_timeout < Duration::from_secs(60));
    // A silent streamer is out within 2 s.
    let health = config.pools[0].health;
    let noticed = (health.interval + health.timeout) * health.failures;
    assert!(noticed < Duration::from_secs(2));
    assert!(health.interval < Duration::from_millis(500));
    assert!(config.http.keep_alive < Duration::from_secs(60));
    assert!(config.http.response_header_limit >= 64 << 10);
    assert!(config.drain.deadline < Duration::from_secs(30));
}
