//! `proxy.toml` as it is written: every table, key, default and explanation.
//!
//! The comments here are what `config default` prints and what the JSON schema says.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ipnet::IpNet;

use super::{
    model::{ApiServer, HostPattern, LogFormat, RebalanceMode, Server, ServicePort},
    table::{Key, Maybe, Required, Setting, Shape, Table as _, tables},
    value::{
        address::{DnsName, Endpoint},
        bus::{BrokerKind, Namespace, NatsUrl, Subject, UserName},
        choice::{Auto, Off, Or},
        kubernetes::Label,
        list::{Many, OneOrMany},
        quantity::{BytesPerSecond, PerSecond, PerTime, Share, Size, Whole},
        text::{
            CookieName, FilePath, LogFilter, PoolRef, Record, RoutePath, SecretText, WebOrigin,
        },
    },
};
use crate::base::id::ListenAddr;

tables! {
    /// The whole file.
    FileConfig {
        /// Where clients connect, in plain text: one address or an array of them.
        /// For TLS, or to set more than the address, use [[listener]] instead.
        listen: Option<Setting<OneOrMany<ListenAddr>>> | "0.0.0.0:8080",

        /// Metrics, health and the list of streamers: an address of its own, or "off".
        /// Whoever reaches it can reload and drain the gateway. Kubernetes probes come from
        /// outside of the pod: give them "0.0.0.0:9901" and keep it out of every Service.
        admin: Setting<Or<ListenAddr, Off>> = "127.0.0.1:9901",

        /// The servers that answer everything but DDP: one address or an array of equal ones.
        /// A name is looked up at each new connection.
        monolith: Required<OneOrMany<Server>> | "http://127.0.0.1:3000",

        /// The ddp-streamers, as host:port. A name is looked up, and each address behind it is a
        /// streamer. Not needed with [discovery].
        streamers: Maybe<Many<Endpoint>> | ["127.0.0.1:4001", "127.0.0.1:4002"],

        /// Proxies in front of the gateway whose X-Forwarded-* headers are believed. Their
        /// connections are not limited by address either.
        trusted_proxies: Setting<Many<IpNet>> = [],

        /// Load this file again when it changes, or a certificate does. A file with a fault
        /// changes nothing. SIGHUP reloads in any case.
        watch: Setting<bool> = true,

        /// Threads that carry connections, each those that it accepted; "auto": one for each
        /// core. A change takes effect at the next start.
        workers: Setting<Or<Whole<1, 1_024>, Auto>> = "auto",

        /// Keep each worker on a core of its own: messages, requests and connections cost a tenth
        /// less. Only where there are as many workers as cores that the gateway may use; otherwise,
        /// as in a container with a share of a larger machine, the system places them. false for
        /// cores that other programs need as well. A change takes effect at the next start.
        pin_workers: Setting<bool> = true,

        /// Listeners with settings of their own. Not together with the key `listen`.
        listener: Vec<ListenerFile>,

        /// Which requests go elsewhere than to the monolith and the streamers above: first by
        /// host, then by the longest path. What no route matches goes to those above.
        route: Vec<RouteFile>,

        /// Where streamers are found besides the list `streamers`.
        discovery: DiscoveryFile,

        /// Streamers and the clients that wait for them; for every pool.
        pool: PoolFile,

        /// How streamers are watched; for every pool.
        health: HealthFile,

        /// Further pools, for routes to name. The one of the keys above is called `default`.
        pools: BTreeMap<String, NamedPoolFile>,

        /// Requests to the monolith.
        http: HttpFile,

        /// Sockets of clients.
        websocket: WebSocketFile,

        /// What one client may do. Over a limit the gateway reads no further until the client is
        /// within it again, so a slow answer is all that an honest client notices.
        limits: LimitsFile,

        /// Logins, the most expensive thing that clients do: after a restart all of them come within
        /// a second. The gateway lets only some at a time through, for every streamer and in all;
        /// the others wait in their order and notice nothing but the time.
        logins: LoginsFile,

        /// A returning client goes back to its streamer while that is healthy and has room.
        affinity: AffinityFile,

        /// Live sessions go from one streamer to another without their clients' noticing, to level
        /// the streamers of a pool and to empty those that go. It takes the turns of logins, and
        /// the idlest go first.
        rebalance: RebalanceFile,

        /// Several gateways act as one: they find each other on a message bus and count the
        /// sessions of each streamer, the pace of logins and the limits of users and addresses
        /// together. While the bus is away each gateway counts alone.
        replicas: Box<ReplicasFile>,

        /// What SIGTERM does. Together it must fit in terminationGracePeriodSeconds, which is
        /// 30 s in Kubernetes when nothing else is said.
        drain: DrainFile,

        /// Written to standard output, one line per event.
        log: LogFile,
    }

    /// `[[listener]]`
    ListenerFile {
        /// IP address and port.
        address: Required<ListenAddr> | "0.0.0.0:8443",

        /// Offer HTTP/2. Clients agree on it in the TLS handshake, so false without `tls`.
        http2: Option<Setting<bool>> | true,

        /// Accept WebSockets over HTTP/2 as well (RFC 8441). Costs 46 KB per idle socket instead
        /// of 9, so it pays only where clients cannot open a second connection.
        http2_websocket: Setting<bool> = false,

        /// Every connection begins with a PROXY header, v1 or v2, as a balancer in front sends it.
        /// One without is closed.
        proxy_protocol: Setting<bool> = false,

        /// Answer every request with a redirect to https on this port.
        redirect_https: Option<Setting<Whole<1, 65535>>> | 443,

        /// Several gateways of this machine listen on this address, each with true here and all as
        /// the same user; the system spreads new connections over them (SO_REUSEPORT), by the
        /// number of their workers. Otherwise an address in use is an error. Each needs an `admin`
        /// of its own. A change takes effect at the next start.
        reuse_port: Setting<bool> = false,

        /// Certificates, chosen by the name that the client asks for; the first one serves all
        /// others. Either the pair cert and key, or secret_dir with tls.crt and tls.key in it, as
        /// Kubernetes mounts a TLS secret. Relative paths begin at the directory of this file.
        tls: Vec<CertificateFile> | [{ cert = "certs/tls.crt", key = "certs/tls.key" }],
    }

    /// An element of `tls`.
    CertificateFile {
        /// PEM file with the certificate and those that it is signed by.
        cert: Option<Setting<FilePath>> | "certs/tls.crt",

        /// PEM file with the private key.
        key: Option<Setting<FilePath>> | "certs/tls.key",

        /// Directory with tls.crt and tls.key.
        secret_dir: Option<Setting<FilePath>> | "/etc/ddp-gateway/tls",
    }

    /// `[[route]]`
    RouteFile {
        /// A host, "*.example.com" or "*".
        host: Setting<HostPattern> = "*",

        /// Path that the URL begins with, by whole segments.
        path: Setting<RoutePath> = "/",

        /// As the key `monolith` above, which it stands for when it is not set.
        monolith: Option<Setting<OneOrMany<Server>>> | "http://127.0.0.1:3001",

        /// The pool of streamers for <path>/websocket and <path>/sockjs. "off": there are none,
        /// and WebSockets go to the monolith like everything else.
        pool: Setting<Or<PoolRef, Off>> = "default",
    }

    /// `[discovery]`
    DiscoveryFile {
        /// Ask the DNS. In Kubernetes a headless Service (clusterIP: None) has one address per
        /// pod; the chart's own Service has one for all, behind which pods cannot be told apart.
        dns: Option<DnsFile>,

        /// Listen to the message bus that Rocket.Chat's services talk on. A streamer that is about
        /// to end says so there, before its sockets die. The gateway asks who is there and says
        /// nothing else. What other sources know besides is used as well.
        nats: Option<Box<NatsFile>>,

        /// Watch the EndpointSlices of a Service. Unlike the DNS they say that a pod is about to end
        /// at the moment when that is decided, and its sessions are moved for as long as a preStop
        /// hook lets it live. Needs the rights of deploy/rbac.yaml.
        kubernetes: Option<Box<KubernetesFile>>,
    }

    /// `[discovery.dns]`
    DnsFile {
        /// The name to ask for.
        name: Required<DnsName> | "rocketchat-ddp-streamer-headless",

        /// "a" for addresses (IPv4, or IPv6 where there is none), "srv" for addresses with ports.
        kind: Setting<Record> = "a",

        /// Port of each streamer. Not with kind = "srv".
        port: Maybe<Whole<1, 65535>> | 3000,

        /// DNS servers to ask instead of the system's.
        resolvers: Setting<Many<SocketAddr>> = [],

        /// An answer is asked for again when its TTL is over, but not earlier than this ...
        ttl_min: Setting<Duration> = "1s",

        /// ... and not later than this.
        ttl_max: Setting<Duration> = "30s",
    }

    /// `[discovery.nats]`
    NatsFile {
        /// Its servers, as in Rocket.Chat's TRANSPORTER: one address, several between commas, or
        /// an array. tls:// insists on TLS, which is used in any case when the server asks for it.
        url: Required<OneOrMany<NatsUrl>> | "nats://nats:4222",

        /// HTTP port of each streamer, which nobody tells on the bus.
        port: Maybe<Whole<1, 65535>> | 3000,

        /// "moleculer", or "nats" where Rocket.Chat runs with BROKER=nats. The latter tells the
        /// hosts of streamers without their addresses, so it needs another source beside it.
        broker: Setting<BrokerKind> = "moleculer",

        /// As MS_NAMESPACE of Rocket.Chat.
        namespace: Setting<Namespace> = "",

        /// A streamer that is not heard for this long has gone. Each is heard every 10 s. Nobody
        /// has gone while the bus itself is away.
        heartbeat_timeout: Setting<Duration> = "30s",

        /// Ranges of addresses that streamers have. Of several addresses of one streamer the first
        /// that is in a range is taken, and addresses in none are not believed. Empty: the first.
        networks: Setting<Many<IpNet>> = [],

        /// Listen to what the services tell each other as well: who is logged out by force, that the
        /// web client has a new version, how streamers see their clients. One streamer's copy of
        /// what goes to all of them is heard, which is little beside what clients are sent.
        events: Setting<bool> = true,

        /// Who the gateway logs in as. A user and a password may stand in `url` as well.
        user: Option<Setting<UserName>> | "ddp-gateway",

        /// File that holds the password of `user`.
        password_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats-password",

        /// File that holds a token, instead.
        token_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats-token",

        /// File that holds the seed of an nkey (SU...), instead.
        nkey_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.nk",

        /// File with a JWT and the seed of its key, as nsc writes it, instead.
        credentials_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.creds",

        /// PEM file with the certificates that the servers' ones are signed by, instead of the
        /// system's.
        ca: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats-ca.crt",

        /// PEM file with the gateway's own certificate, for servers that ask for one ...
        cert: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.crt",

        /// ... and with its private key.
        key: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.key",
    }

    /// `[discovery.kubernetes]`
    KubernetesFile {
        /// Name of the Service; the chart's own will do.
        service: Required<Label> | "rocketchat-ddp-streamer",

        /// Its namespace; that of the gateway's pod when it is not set.
        namespace: Option<Setting<Label>> | "rocketchat",

        /// Port of each streamer: the name that the Service has for it, or its number in the pod.
        port: Setting<ServicePort> = "http",

        /// The API server; as the environment of every pod says when it is not set. With http://
        /// no token is sent.
        server: Option<Setting<ApiServer>> | "https://10.96.0.1:443",

        /// The service account's token. It is read again at each request, as Kubernetes renews it.
        token_file: Setting<FilePath> = "/var/run/secrets/kubernetes.io/serviceaccount/token",

        /// PEM file with the certificates that the API server's one is signed by.
        ca_file: Setting<FilePath> = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",

        /// For the API server to begin an answer.
        timeout: Setting<Duration> = "10s",

        /// A watch is renewed after this, so that one that broke without a sign is noticed.
        renew: Setting<Duration> = "60s",
    }

    /// `[pool]`, and the same keys below `[pools.NAME]`
    PoolFile {
        /// Sockets that one streamer may hold. Rocket.Chat's own sizing rule is a streamer for
        /// 500 users; the limits below are derived from it.
        sessions_per_streamer: Setting<Whole<1, 100_000>> = 500,

        /// Clients that may wait when all streamers are full or away. More than that are refused,
        /// in a way that makes them come back slowly. A waiting client costs about 9 KB.
        queue_length: Setting<Whole<0, 1_000_000>> = 10000,

        /// How long each of them may wait; clients bear 100 s.
        queue_wait: Setting<Duration> = "60s",

        /// A streamer that comes up gets its share of newcomers only after this time, because a
        /// cold one answers logins slowly. "0s": at once.
        slow_start: Setting<Duration> = "10s",

        /// TCP connection, upgrade and the DDP greeting of a streamer together; then another one
        /// is tried.
        attach_timeout: Setting<Duration> = "5s",
    }

    /// `[pools.NAME]`
    NamedPoolFile {
        /// As the key `streamers` above.
        streamers: Maybe<Many<Endpoint>> | ["127.0.0.1:4003"],

        /// As in [pool], which it stands for when it is not set.
        sessions_per_streamer: Option<Setting<Whole<1, 100_000>>> | 500,

        /// As in [pool].
        queue_length: Option<Setting<Whole<0, 1_000_000>>> | 10000,

        /// As in [pool].
        queue_wait: Option<Setting<Duration>> | "60s",

        /// As in [pool].
        slow_start: Option<Setting<Duration>> | "10s",

        /// As in [pool].
        attach_timeout: Option<Setting<Duration>> | "5s",

        /// As [discovery].
        discovery: DiscoveryFile | { dns = { name = "eu-ddp-streamer-headless", port = 3000 } },
    }

    /// `[health]`
    HealthFile {
        /// Pause between two GET /health. With the timeout and two failures a silent streamer is
        /// out within 2 s, and one that is back is used within 0.5 s.
        interval: Setting<Duration> = "400ms",

        /// For each of them.
        timeout: Setting<Duration> = "500ms",

        /// Pause between two probes that open a socket and greet in DDP.
        ddp_interval: Setting<Duration> = "10s",

        /// Failures in a row until a streamer gets no new clients.
        failures: Setting<Whole<1, 100>> = 2,

        /// Largest share of a pool that may be taken out because of failures in real traffic, so
        /// that one bad client or a moment of trouble does not empty it. Streamers that fail their
        /// probes are out in any case.
        max_ejected: Setting<Share> = 0.5,
    }

    /// `[http]`
    HttpFile {
        /// TCP connection to the monolith.
        connect_timeout: Setting<Duration> = "2s",

        /// From the end of the request to the first byte of the answer.
        first_byte_timeout: Setting<Duration> = "60s",

        /// Longest pause within a body, in either direction.
        idle_timeout: Setting<Duration> = "60s",

        /// Everything together. 200 MiB within an hour are 58 KiB/s.
        request_timeout: Setting<Duration> = "1h",

        /// For the head of a request, and for a TLS handshake.
        header_timeout: Setting<Duration> = "10s",

        /// Largest body of a request. Rocket.Chat's own limit for files is 100 MB at first.
        body_limit: Setting<Size> = "200MiB",

        /// Slowest body that is waited for, measured over 10 s, or "off".
        min_rate: Setting<Or<BytesPerSecond, Off>> = "1KiB/s",

        /// Largest head of a request.
        request_header_limit: Setting<Size> = "32KiB",

        /// Largest head of an answer. Large session cookies and policies need 64KiB.
        response_header_limit: Setting<Size> = "128KiB",

        /// Idle connections to the monolith are closed after this. It must be shorter than the
        /// monolith's own time (60 s), or a request meets a connection that is just closing.
        keep_alive: Setting<Duration> = "45s",

        /// Idle connections that are kept for each server of the monolith.
        keep_alive_connections: Setting<Whole<0, 10_000>> = 64,

        /// A WebSocket of the monolith's own (not DDP) may be silent for this long. Peers that
        /// vanish are noticed much earlier.
        tunnel_idle_timeout: Setting<Duration> = "1h",

        /// Large answers go from the monolith's socket to the client's within the kernel (splice),
        /// where neither is encrypted and the length is known. Off: they are copied, as all others.
        splice: Setting<bool> = true,

        /// Requests that one HTTP/2 client may have open at the same time.
        http2_streams: Setting<Whole<1, 10_000>> = 100,
    }

    /// `[websocket]`
    WebSocketFile {
        /// Pages that may open sockets, as "https://chat.example.com". Empty: all. Apps send no
        /// Origin and are let in either way.
        origins: Setting<Many<WebOrigin>> = [],

        /// Largest message from a client. Files travel over HTTP, so a message is some KiB.
        message_limit: Setting<Size> = "1MiB",

        /// A client that does not greet in DDP within this is closed.
        connect_timeout: Setting<Duration> = "10s",

        /// A silent client is pinged after half of this and closed after all of it. Phones that
        /// vanish without a word are noticed by it.
        idle_timeout: Setting<Duration> = "50s",

        /// Bytes that may wait for one client that reads slowly; over it, the client is closed and
        /// comes back. The streamer would otherwise keep all other clients waiting for this one.
        buffer: Setting<Size> = "1MiB",

        /// The same for all clients together.
        buffer_total: Setting<Size> = "256MiB",

        /// A client that reads nothing for this long while bytes wait is closed.
        stall_timeout: Setting<Duration> = "30s",

        /// A client whose connection breaks without a goodbye, as when a phone changes networks,
        /// finds its session again within this: it keeps its streamer, its user does not flap to
        /// offline. 0s: never.
        resume_grace: Setting<Duration> = "15s",
    }

    /// `[limits]`
    LimitsFile {
        /// Messages from one client. Rocket.Chat allows 600 a minute (10/s) per connection; twice
        /// that is never in the way, and 500 clients at it are 10,000/s for a streamer.
        messages: Setting<PerSecond> = "20/s",

        /// That many at once. After a login a client sends about 60 subscriptions and some
        /// methods; it may do so three times.
        messages_burst: Setting<Whole<1, 1_000_000>> = 200,

        /// Bytes from one client: 20 messages of 6 KiB each; 500 clients at it are 64 MiB/s.
        bytes: Setting<BytesPerSecond> = "128KiB/s",

        /// That many at once: two of the largest messages.
        bytes_burst: Setting<Size> = "2MiB",

        /// New connections from one address. Loopback and trusted_proxies are exempt.
        connections: Setting<PerSecond> = "200/s",

        /// That many at once: an office of 2,000 users behind one address comes back at once with
        /// five connections each.
        connections_burst: Setting<Whole<1, 10_000_000>> = 10000,

        /// A client that is held back for this long without a pause is closed with 1008.
        abuse_after: Setting<Duration> = "30s",

        /// Connections of clients. "auto": as many as the limit of open files allows, when each
        /// needs two and a reserve is kept for probes, certificates and logs.
        max_connections: Setting<Or<Whole<1, 10_000_000>, Auto>> = "auto",

        /// TLS handshakes at the same time; further ones wait. Each needs 30 KB and half a
        /// millisecond of a core.
        handshakes: Setting<Whole<1, 100_000>> = 256,

        /// Methods and subscriptions, by the rules and with the defaults of Rocket.Chat's own
        /// limiter (the settings DDP_Rate_Limit_*), which sees nothing of what goes through a
        /// streamer. What is over a limit is answered with too-many-requests and reaches no
        /// streamer. "600/60s": 600 at once, and from then on one each 0.1 s. Each may be "off".
        /// A login is limited for its connection only; for the rest it is paced, see [logins].
        methods: MethodLimitsFile,
    }

    /// `[limits.methods]`
    MethodLimitsFile {
        /// Of one connection. A web client sends about 60 after its login, and then a few a minute.
        connection: Setting<Or<PerTime, Off>> = "600/60s",

        /// Of one user, on all of the user's connections.
        user: Setting<Or<PerTime, Off>> = "1200/60s",

        /// Of all connections from one address. "auto": 240 a minute for each of the
        /// sessions_per_streamer clients of one streamer, so 120000/60s for 500 of them. Loopback
        /// and trusted_proxies are exempt.
        address: Setting<Or<Or<PerTime, Auto>, Off>> = "auto",

        /// Of one connection with one name. Names that begin with stream- (all subscriptions of
        /// the web client, and what is typed) have four times as many in four times the time.
        connection_by_method: Setting<Or<PerTime, Off>> = "10/10s",

        /// Of one user with one name; four times as wide for stream- as well.
        user_by_method: Setting<Or<PerTime, Off>> = "20/10s",

        /// Refusals that one user may collect (without a login: one client; never an address).
        /// Opening 60 rooms at once makes about 220; a loop at the 20 messages a second above
        /// makes 300 within 7 s. With more, the connection is closed with 1008.
        abuse: Setting<Or<PerTime, Off>> = "300/60s",

        /// For this long, everything is refused to a user who was closed for that.
        penalty: Setting<Duration> = "60s",
    }

    /// `[logins]`
    LoginsFile {
        /// false: let all of them through at once.
        pace: Setting<bool> = true,

        /// Logins in flight at one streamer, at most. It begins with a fifth of that, and so does a
        /// streamer that comes back; more are let through while the answers come in time, and only
        /// half as many when they do not.
        streamer_concurrency: Setting<Whole<1, 10_000>> = 10,

        /// The same for all streamers together, for the sake of the database behind them.
        concurrency: Setting<Whole<1, 100_000>> = 100,

        /// Logins at one streamer. With the subscriptions that follow, a login keeps a streamer
        /// busy for about 10 ms; at this rate half of its time remains for those who are in, and
        /// its 500 users are in after 10 s.
        streamer_rate: Setting<PerSecond> = "50/s",

        /// The same for all streamers together. A login is about 100 reads and 2 writes of the
        /// database: 5,000 users are in after 50 s at the cost of 10,000 reads/s.
        rate: Setting<PerSecond> = "100/s",

        /// A login that takes longer says that there are too many. At rest one takes 100 ms.
        latency_target: Setting<Duration> = "1s",

        /// A login that is not answered within this counts as failed and makes room for another.
        timeout: Setting<Duration> = "60s",

        /// Logins that may wait. More than that are answered with an error.
        queue_length: Setting<Whole<0, 1_000_000>> = 10000,
    }

    /// `[affinity]`
    AffinityFile {
        /// Name of the cookie that remembers the streamer, or "off".
        cookie: Setting<Or<CookieName, Off>> = "ddp_gateway",

        /// How long a client is remembered.
        remember: Setting<Duration> = "1h",

        /// Signs the cookie. Give the same to all replicas; without one each start makes its own,
        /// and clients are not recognised by another replica or after a restart.
        secret: Option<Setting<SecretText>> | "${DDP_GATEWAY_SECRET}",

        /// File that holds the secret, instead.
        secret_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/secret",
    }

    /// `[rebalance]`
    RebalanceFile {
        /// What happens when a streamer has joined, or is too full for the threshold: sessions move
        /// until nobody has more than a tenth above the mean. "slow": at a tenth of the rate of
        /// [logins]; "fast": at all of it, as long as no client waits for its login; "off": nothing,
        /// and what is under way stops. Who cannot be moved stays.
        mode: Setting<RebalanceMode> = "slow",

        /// A streamer is too full when it has this share, 0.1 at least, and ten sessions more than
        /// the mean for 5 s. Newcomers go to the emptiest streamer, so that is seldom.
        threshold: Setting<Share> = 0.25,

        /// Move the sessions of a streamer that discovery does not list any more, though it still
        /// serves them: in Kubernetes, a pod that is about to end. At the rate of [logins]. Who
        /// cannot be moved stays as long as the streamer does. When more streamers have gone than
        /// are left, discovery is not believed, and everybody stays.
        leaving: Setting<bool> = true,
    }

    /// `[replicas]`
    ReplicasFile {
        /// Whether there are other gateways in front of the same streamers.
        enabled: Setting<bool> = false,

        /// What the subjects begin with on which the gateways talk. Gateways with the same one are
        /// replicas of each other, so two deployments on one bus need two.
        subject: Setting<Subject> = "ddp-gateway",

        /// Where the other gateways fetch sessions whose clients came back to them instead of here,
        /// and leave theirs when they end. Without it a client that comes back to another gateway
        /// begins anew. Only gateways may reach this address, and all of them need the same
        /// affinity.secret: what goes over it is sealed with that.
        listen: Option<Setting<ListenAddr>> | "0.0.0.0:4301",

        /// Where the other gateways reach `listen`. Without it: the address by which this one
        /// reaches the bus, and the port of `listen`.
        address: Option<Setting<ListenAddr>> | "10.1.2.3:4301",

        /// Servers of the bus, as in [discovery.nats]. Without it, the bus of [discovery.nats] is
        /// used, with all that is said there about credentials and certificates.
        url: Option<Setting<OneOrMany<NatsUrl>>> | "nats://nats:4222",

        /// As in [discovery.nats].
        user: Option<Setting<UserName>> | "ddp-gateway",

        /// As in [discovery.nats].
        password_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats-password",

        /// As in [discovery.nats].
        token_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats-token",

        /// As in [discovery.nats].
        nkey_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.nk",

        /// As in [discovery.nats].
        credentials_file: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.creds",

        /// As in [discovery.nats].
        ca: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats-ca.crt",

        /// As in [discovery.nats].
        cert: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.crt",

        /// As in [discovery.nats].
        key: Option<Setting<FilePath>> | "/etc/ddp-gateway/nats.key",
    }

    /// `[drain]`
    DrainFile {
        /// Between /readyz saying no and the last new connection, for balancers to notice.
        delay: Setting<Duration> = "5s",

        /// Sockets are closed one by one over this time, so that their clients do not all come
        /// back in the same second.
        spread: Setting<Duration> = "15s",

        /// From the signal on; then the process ends, whatever is left.
        deadline: Setting<Duration> = "28s",
    }

    /// `[log]`
    LogFile {
        /// "json" or "text".
        format: Setting<LogFormat> = "json",

        /// Level, or levels by module: "info,ddp_gateway::pool=debug".
        filter: Setting<LogFilter> = "info",

        /// One line per request, two per socket.
        access: Setting<bool> = true,
    }
}

/// Where clients connect when nothing is said, as TOML.
const LISTEN: &str = "\"0.0.0.0:8080\"";

impl FileConfig {
    /// Writes down the defaults that depend on other keys.
    pub(super) fn fill_in(&mut self) {
        if self.listen.is_none() && self.listener.is_empty() {
            self.listen = Some(Setting::implied(LISTEN, "listen"));
        }
        for listener in &mut self.listener {
            // HTTP/2 is agreed on in the TLS handshake, so it comes with TLS.
            let tls = if listener.tls.is_empty() {
                "false"
            } else {
                "true"
            };
            listener
                .http2
                .get_or_insert_with(|| Setting::implied(tls, "listener.http2"));
        }
    }
}

/// The tables that have a key of this name, as they are written in the file.
pub(super) fn homes(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect_homes(name, &FileConfig::keys(), "", &mut found);
    found
}

fn collect_homes(name: &str, keys: &[Key], path: &str, found: &mut Vec<String>) {
    for key in keys {
        if key.name == name {
            found.push(if path.is_empty() {
                "the top level".to_owned()
            } else {
                path.to_owned()
            });
        }
        let inner = path.trim_matches(['[', ']']);
        let dot = if inner.is_empty() { "" } else { "." };
        match &key.shape {
            Shape::Value { .. } => {}
            Shape::Table(keys) => {
                collect_homes(name, &keys(), &format!("[{inner}{dot}{}]", key.name), found);
            }
            Shape::List(keys) => {
                collect_homes(
                    name,
                    &keys(),
                    &format!("[[{inner}{dot}{}]]", key.name),
                    found,
                );
            }
            Shape::Map(keys) => {
                let path = format!("[{inner}{dot}{}.NAME]", key.name);
                collect_homes(name, &keys(), &path, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FileConfig;
    use crate::config::{
        node::Document,
        source::Environment,
        table::{Reader, Table as _},
        writer::Writer,
    };

    /// `Setting::implied` relies on it.
    #[test]
    fn all_defaults_can_be_read() {
        let text = "monolith = 'http://a'\n[[listener]]\naddress = '[::]:1'\n[[listener.tls]]\n\
                    [[route]]\n[discovery.dns]\nname = 'a'\n[discovery.nats]\nurl = 'a'\n[discovery.kubernetes]\nservice = 'a'\n[pools.a.discovery.dns]\nname = 'a'";
        let document = Document::parse("x", text, &Environment::empty());
        let mut faults = document.faults;
        let mut file: FileConfig = Reader::root(&document.root, &mut faults);
        file.fill_in();
        assert!(faults.is_empty(), "{}", faults[0]);
        let mut writer = Writer::default();
        file.write(&mut writer);
        assert!(writer.finish().contains("ttl_min"));
    }
}
