//! Discovery by EndpointSlices: an API server over TLS that behaves, misbehaves and hangs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use ddp_gateway::{
    config::model::{self, ServicePort},
    demo::{
        streamer::{Streamer, StreamerOptions},
        workspace::Workspace,
    },
    discovery::{Discovery, Endpoints, Listing, Source, Tell},
};
use serde_json::{Value, json};

use crate::support::{
    apiserver::{ApiServer, Mood, NAMESPACE, Pod, SERVICE},
    certificate::Pair,
    deployment::{Deployment, Plan},
    http, settles,
    socket::{Client, Way},
    until,
};

fn place(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn config(server: &ApiServer) -> model::Kubernetes {
    model::Kubernetes {
        service: SERVICE.to_owned(),
        namespace: None,
        port: ServicePort::Name("http".to_owned()),
        server: Some(model::ApiServer {
            tls: true,
            host: "127.0.0.1".into(),
            port: server.address().port(),
        }),
        token_file: server.token_file(),
        ca_file: server.ca_file(),
        timeout: Duration::from_millis(500),
        renew: Duration::from_secs(30),
    }
}

/// Discovery, and what it says about itself.
struct Watching {
    discovery: Discovery,
    listing: Listing,
}

impl Watching {
    fn start(sources: Vec<Source>) -> Self {
        let listing = Listing::default();
        Self {
            discovery: Discovery::start(sources, listing.clone(), Tell::channel().0),
            listing,
        }
    }

    fn error(&self) -> Option<String> {
        let sources = self.listing.report(Instant::now());
        sources.into_iter().find_map(|source| source.error)
    }
}

fn watching(config: model::Kubernetes) -> Watching {
    Watching::start(vec![Source::Kubernetes(Box::new(config))])
}

/// What discovery knows: the ports of those that are there, and of those that will end.
fn known(watching: &mut Watching) -> (Vec<u16>, Vec<u16>) {
    let discovery = &mut watching.discovery;
    let there = discovery.endpoints().0.values();
    let there = there.map(|addr| addr.0.port()).collect();
    let leaving = discovery.leaving().iter();
    (there, leaving.map(|addr| addr.0.port()).collect())
}

async fn knows(discovery: &mut Watching, there: &[u16], leaving: &[u16]) {
    let wanted = (there.to_vec(), leaving.to_vec());
    settles("known streamers", wanted, async || known(discovery)).await;
}

/// Waits until what is wrong contains all of these words.
async fn says(discovery: &Watching, words: &[&str]) {
    let wanted = words.join(" ... ");
    settles("what is wrong", wanted.clone(), async || {
        let said = discovery.error().unwrap_or_default();
        match words.iter().all(|word| said.contains(word)) {
            true => wanted.clone(),
            false => said,
        }
    })
    .await;
}

async fn is_well(discovery: &Watching) {
    settles("what is wrong", None, async || discovery.error()).await;
}

/// Waits until all is well again, and a change proves it; the back-off is over then.
async fn recovers(server: &ApiServer, discovery: &mut Watching, port: u16) {
    is_well(discovery).await;
    server.put("proof", &[Pod::ready("proof", place(port))]);
    knows(discovery, &[4001, port], &[]).await;
}

async fn watchers(server: &ApiServer, count: usize) {
    settles("open watches", count, async || server.watchers()).await;
}

#[tokio::test]
async fn a_service_is_listed_in_pages_and_then_watched() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    server.put("b", &[Pod::ready("pod-2", place(4002))]);
    server.put("c", &[Pod::ready("pod-3", place(4003))]);
    server.put_for(
        "rocketchat-account",
        "d",
        &[Pod::ready("other", place(5000))],
    );
    server.set_page(1);
    let mut discovery = watching(config(&server));
    knows(&mut discovery, &[4001, 4002, 4003], &[]).await;
    watchers(&server, 1).await;
    let asked = server.requests();
    let [first, second, third, watch] = asked.as_slice() else {
        panic!("{asked:#?}")
    };
    for request in &asked {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        assert_eq!(request.path, path);
        assert_eq!(
            request.selector,
            format!("kubernetes.io/service-name={SERVICE}")
        );
        assert_eq!(request.token.as_deref(), Some("eyJhbGciOi.first"));
    }
    assert_eq!(first.next, None);
    assert_eq!(second.next.as_deref(), Some("eyJ2/+1=="));
    assert_eq!(third.next.as_deref(), Some("eyJ2/+2=="));
    assert!(watch.watch && watch.bookmarks);
    assert_eq!(watch.version.as_deref(), Some("1004"));
    assert!((22..=30).contains(&watch.seconds.unwrap()), "{watch:?}");

    // One comes, one is about to end, one has gone.
    server.put("e", &[Pod::ready("pod-4", place(4004))]);
    knows(&mut discovery, &[4001, 4002, 4003, 4004], &[]).await;
    server.put("b", &[Pod::ending("pod-2", place(4002))]);
    knows(&mut discovery, &[4001, 4003, 4004], &[4002]).await;
    server.remove("b");
    knows(&mut discovery, &[4001, 4003, 4004], &[]).await;
    server.put_for("rocketchat-account", "d", &[]);
    server.put("a", &[]);
    knows(&mut discovery, &[4003, 4004], &[]).await;
    // All of it by one watch.
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_from_where_it_was() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    let mut discovery = watching(config(&server));
    watchers(&server, 1).await;
    let bookmark = server.bookmark();
    server.put("b", &[Pod::ready("pod-2", place(4002))]);
    knows(&mut discovery, &[4001, 4002], &[]).await;
    let bookmark = bookmark.max(server.bookmark());
    // Behind it, to know that it has been read.
    server.put("a", &[Pod::ending("pod-1", place(4001))]);
    knows(&mut discovery, &[4002], &[4001]).await;
    server.cut();
    until("another watch", async || {
        server.requests().iter().filter(|asked| asked.watch).count() > 1
    })
    .await;
    let asked = server.requests();
    let last: u64 = asked
        .last()
        .unwrap()
        .version
        .clone()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(last, bookmark.parse::<u64>().unwrap() + 1);
    assert_eq!(server.lists(), 1);
    watchers(&server, 1).await;
    server.put("a", &[]);
    knows(&mut discovery, &[4002], &[]).await;
    assert_eq!(discovery.error(), None);
}

#[tokio::test]
async fn a_version_that_is_too_old_is_listed_anew() {
    for mood in [Mood::Normal, Mood::GoneByStatus] {
        let server = ApiServer::start().await;
        server.put("a", &[Pod::ready("pod-1", place(4001))]);
        server.put("b", &[Pod::ready("pod-2", place(4002))]);
        let mut discovery = watching(config(&server));
        watchers(&server, 1).await;
        // Nothing of this reaches the watch.
        server.set_mood(Mood::Refusing(503, "etcd is away", ""));
        server.cut();
        says(&discovery, &["busy", "503"]).await;
        server.remove("a");
        server.put("c", &[Pod::ready("pod-3", place(4003))]);
        server.compact();
        server.set_mood(mood);
        knows(&mut discovery, &[4002, 4003], &[]).await;
        assert_eq!(server.lists(), 2);
        is_well(&discovery).await;
    }
}

#[tokio::test]
async fn a_list_that_is_always_too_old_is_not_asked_for_without_a_pause() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    server.set_mood(Mood::Refusing(410, "the continue token is too old", ""));
    let discovery = watching(config(&server));
    says(&discovery, &["expires faster"]).await;
    assert!(server.lists() <= 2, "{}", server.lists());
}

#[tokio::test]
async fn the_token_is_read_again_as_it_is_replaced() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    let mut discovery = watching(config(&server));
    watchers(&server, 1).await;
    // Replaced in time.
    server.set_token("second", true);
    server.cut();
    watchers(&server, 1).await;
    assert_eq!(
        server.requests().last().unwrap().token.as_deref(),
        Some("second")
    );
    // Replaced too late.
    server.set_token("third", false);
    server.cut();
    says(
        &discovery,
        &["401", "expired", &server.token_file().display().to_string()],
    )
    .await;
    knows(&mut discovery, &[4001], &[]).await;
    server.write_token("third");
    recovers(&server, &mut discovery, 4101).await;
    std::fs::remove_file(server.token_file()).unwrap();
    server.cut();
    says(
        &discovery,
        &["there is no such file", "automountServiceAccountToken"],
    )
    .await;
    server.write_token("bad\ntoken");
    says(&discovery, &["not text"]).await;
    server.write_token("third");
    recovers(&server, &mut discovery, 4102).await;
}

#[tokio::test]
async fn what_the_operator_has_to_do_is_said() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    let forbidden = "endpointslices.discovery.k8s.io is forbidden: User \
                     \"system:serviceaccount:chat:gateway\" cannot list resource";
    for (mood, words) in [
        (
            Mood::Refusing(403, forbidden, ""),
            &[
                "403",
                "list endpointslices in namespace chat",
                "discovery.k8s.io",
                "RoleBinding",
                "serviceaccount:chat:gateway",
            ][..],
        ),
        (
            Mood::Refusing(404, "not found", ""),
            &["discovery.k8s.io/v1 (404)"],
        ),
        (
            Mood::Refusing(500, "etcdserver: no leader", ""),
            &["500: etcdserver: no leader"],
        ),
        (Mood::Garbage, &["not what an API server says"]),
        (Mood::Endless, &["not what an API server says"]),
        (Mood::Silent, &["https://127.0.0.1:", "in time"]),
    ] {
        server.set_mood(mood.clone());
        let mut discovery = watching(config(&server));
        says(&discovery, words).await;
        assert_eq!(known(&mut discovery).0.len(), 0, "{mood:?}");
    }
    server.set_mood(Mood::Normal);
    let of = |change: &dyn Fn(&mut model::Kubernetes)| {
        let mut config = config(&server);
        change(&mut config);
        watching(config)
    };
    let other = Pair::write(
        server.token_file().parent().unwrap(),
        "other",
        &["127.0.0.1"],
    );
    let wrong = of(&|config| config.ca_file.clone_from(&other.cert));
    says(&wrong, &["no TLS comes about", "invalid peer certificate"]).await;
    let wrong = of(&|config| config.ca_file = "/nowhere/ca.crt".into());
    says(&wrong, &["/nowhere/ca.crt", "there is no such file"]).await;
    let wrong = of(&|config| config.ca_file.clone_from(&config.token_file));
    says(&wrong, &["holds no certificate"]).await;
    let wrong = of(&|config| config.server = None);
    says(&wrong, &["KUBERNETES_SERVICE_HOST", "set `server`"]).await;
    let wrong = of(&|config| config.token_file = other.cert.with_file_name("x/token"));
    says(&wrong, &["the namespace is not known", "set `namespace`"]).await;
    let wrong = of(&|config| config.port = ServicePort::Name("web".to_owned()));
    says(&wrong, &["no endpoint has the port web", "set `port`"]).await;
    let wrong = of(&|config| config.service = "somebody-else".to_owned());
    says(&wrong, &["the answer is empty"]).await;
    let mut elsewhere = of(&|config| config.port = ServicePort::Number(8080));
    knows(&mut elsewhere, &[8080], &[]).await;
}

#[tokio::test]
async fn whatever_becomes_of_the_api_server_the_streamers_stay() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    let mut discovery = watching(model::Kubernetes {
        renew: Duration::from_secs(1),
        ..config(&server)
    });
    knows(&mut discovery, &[4001], &[]).await;
    recovers(&server, &mut discovery, 4100).await;
    for (port, mood) in (4101..).zip([
        Mood::Silent,
        Mood::Garbage,
        Mood::Endless,
        Mood::Refusing(429, "slow down", "retry-after: 1\r\n"),
        Mood::Refusing(403, "no more", ""),
    ]) {
        server.set_mood(mood.clone());
        server.cut();
        until("an error", async || discovery.error().is_some()).await;
        let there = known(&mut discovery).0;
        assert_eq!(there, [4001, port - 1], "{mood:?}");
        server.set_mood(Mood::Normal);
        recovers(&server, &mut discovery, port).await;
    }
    // A Service whose pods have all gone is more likely one that was renamed.
    server.remove("a");
    server.remove("proof");
    says(&discovery, &["empty"]).await;
    assert_eq!(known(&mut discovery).0.len(), 1);
}

/// It sends no byte and no end: silence is what a Service sounds like that does not change.
#[tokio::test]
async fn a_watch_that_hangs_is_replaced() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    server.set_mood(Mood::Frozen);
    let mut discovery = watching(model::Kubernetes {
        renew: Duration::from_secs(1),
        ..config(&server)
    });
    knows(&mut discovery, &[4001], &[]).await;
    watchers(&server, 1).await;
    server.put("b", &[Pod::ready("pod-2", place(4002))]);
    server.set_mood(Mood::Normal);
    knows(&mut discovery, &[4001, 4002], &[]).await;
    assert_eq!(
        server.lists(),
        1,
        "what was missed is told by the next watch"
    );
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_begun_without_a_pause() {
    let server = ApiServer::start().await;
    server.put("a", &[Pod::ready("pod-1", place(4001))]);
    server.set_mood(Mood::Hasty);
    let began = Instant::now();
    let mut discovery = watching(config(&server));
    knows(&mut discovery, &[4001], &[]).await;
    until("some watches", async || server.requests().len() > 4).await;
    // Half of 0.5, 1 and 2 s.
    assert!(began.elapsed() > Duration::from_millis(1_700));
    assert_eq!(discovery.error(), None);
}

#[tokio::test]
async fn a_list_is_right_before_what_the_dns_and_the_file_say() {
    let server = ApiServer::start().await;
    server.put(
        "a",
        &[
            Pod::ending("pod-1", place(4001)),
            Pod::ready("pod-1b", place(4001)),
        ],
    );
    server.put("b", &[Pod::ending("pod-2", place(4002))]);
    let fixed = [4001, 4002, 4003].map(place);
    let endpoints = Endpoints::of_addresses(fixed);
    let sources = vec![
        Source::Kubernetes(Box::new(config(&server))),
        Source::Fixed(endpoints),
    ];
    let mut discovery = Watching::start(sources);
    knows(&mut discovery, &[4001, 4003], &[4002]).await;
}

/// Three streamers behind a Service, and a gateway that finds them there.
struct Cluster {
    api: ApiServer,
    deployment: Deployment,
    streamers: Vec<Streamer>,
}

impl Cluster {
    async fn start(keys: &str, tables: &str) -> Self {
        let api = ApiServer::start().await;
        let workspace = Workspace::default();
        let mut streamers = Vec::new();
        for n in 1..=2 {
            let options = StreamerOptions::new(format!("streamer-{n}"), &workspace);
            streamers.push(Streamer::start(options).await.unwrap());
        }
        let deployment = Deployment::of(Plan {
            streamers: 0,
            tables: format!("{}{tables}", api.toml(keys)),
            ..Plan::default()
        })
        .await;
        let cluster = Self {
            api,
            deployment,
            streamers,
        };
        cluster.is(0, Pod::ready);
        cluster.is(1, Pod::ready);
        cluster.deployment.streamers_in_rotation(2).await;
        cluster
    }

    /// What Kubernetes says of a streamer.
    fn is(&self, n: usize, how: impl Fn(&str, SocketAddr) -> Pod) {
        let pod = how(&format!("ddp-streamer-{n}"), self.streamers[n].address());
        self.api.put(&format!("slice-{n}"), &[pod]);
    }

    async fn row(&self, n: usize) -> Value {
        let page = http::get(self.deployment.admin(), "/streamers")
            .await
            .json();
        let id = self.streamers[n].address().to_string();
        let rows = page["pools"][0]["streamers"].as_array().unwrap().clone();
        rows.into_iter()
            .find(|row| row["id"] == id.as_str())
            .unwrap_or_default()
    }

    async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.deployment.metrics().await.sum(name, labels)
    }
}

#[tokio::test]
async fn sessions_of_a_pod_that_is_about_to_end_go_to_another_one() {
    let cluster = Cluster::start("", "").await;
    let [first, second] = &cluster.streamers[..] else {
        panic!("two streamers")
    };
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = Client::raw(cluster.deployment.plain(), Way::Plain).await;
        if n % 2 == 0 {
            let token = json!([{ "resume": format!("demo-user{n}") }]);
            assert!(client.call("login", token).await.get("error").is_none());
        }
        clients.push(client);
    }
    assert_eq!((first.sessions(), second.sessions()), (4, 4));
    cluster.is(0, Pod::ending);
    settles("sessions on it", 0, async || first.sessions()).await;
    settles("its row", json!("leaving"), async || {
        match cluster.row(0).await {
            // It is empty, so there is nothing to show of it any more.
            Value::Null => json!("leaving"),
            row => row["admin"].clone(),
        }
    })
    .await;
    assert_eq!(second.sessions(), 8);
    for client in &mut clients {
        assert_eq!(client.streamer().await, second.name());
    }
    assert_eq!(
        cluster
            .sum("session_moves_total", &[("outcome", "moved")])
            .await,
        4.0
    );
    assert_eq!(cluster.sum("sessions_closed_total", &[]).await, 0.0);
    // The pod ends, and nobody notices.
    first.stop().await;
    cluster.api.remove("slice-0");
    for client in &mut clients {
        assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    }
    let source = [("source", SERVICE)];
    assert_eq!(cluster.sum("discovery_stale", &source).await, 0.0);
    let ok = [("source", SERVICE), ("result", "ok")];
    assert!(cluster.sum("discovery_updates_total", &ok).await >= 3.0);
}

/// The one streamer of a small installation goes on until its successor is there.
#[tokio::test]
async fn the_only_one_serves_until_another_one_is_there() {
    let cluster = Cluster::start("", "").await;
    let [first, second] = &cluster.streamers[..] else {
        panic!("two streamers")
    };
    cluster.api.remove("slice-1");
    second.stop().await;
    cluster.deployment.streamers_in_rotation(1).await;
    let mut client = Client::raw(cluster.deployment.plain(), Way::Plain).await;
    let ok = [("source", SERVICE), ("result", "ok")];
    let before = cluster.sum("discovery_updates_total", &ok).await;
    cluster.is(0, Pod::ending);
    until("the end of it to be known", async || {
        cluster.sum("discovery_updates_total", &ok).await > before
    })
    .await;
    let mut newcomer = Client::raw(cluster.deployment.plain(), Way::Plain).await;
    assert_eq!(newcomer.streamer().await, first.name());
    assert_eq!(client.streamer().await, first.name());
    second.start_again().await.unwrap();
    cluster.is(1, Pod::ready);
    settles("sessions on it", 0, async || first.sessions()).await;
    for client in [&mut client, &mut newcomer] {
        assert_eq!(client.streamer().await, second.name());
    }
}

#[tokio::test]
async fn switched_off_they_stay_until_it_ends() {
    let cluster = Cluster::start("", "[rebalance]\nleaving = false\n").await;
    let mut client = Client::raw(cluster.deployment.plain(), Way::Plain).await;
    let n = usize::from(client.streamer().await != cluster.streamers[0].name());
    cluster.is(n, Pod::ending);
    settles("its state", json!("leaving"), async || {
        cluster.row(n).await["admin"].clone()
    })
    .await;
    let mut newcomer = Client::raw(cluster.deployment.plain(), Way::Plain).await;
    assert_eq!(newcomer.streamer().await, cluster.streamers[1 - n].name());
    assert_eq!(client.streamer().await, cluster.streamers[n].name());
}
