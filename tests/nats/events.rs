//! What the services tell each other, and what the gateway makes of it.

use ddp_gateway::demo::streamer::Mode;
use serde_json::{Value, json};

use crate::{
    listener::Listener,
    node::{Node, Plan},
    server::NatsServer,
    site::{Gateway, Hosts},
    support::{
        settles,
        socket::{Client, End},
        soon, until,
    },
};

/// A client whose user is logged in.
async fn logged_in(gateway: &Gateway, name: &str) -> Client {
    let mut client = gateway.client().await;
    let token = json!([{ "resume": format!("demo-{name}") }]);
    let answer = client.call("login", token).await;
    assert_eq!(answer["result"]["id"], format!("uid-{name}"), "{answer}");
    client
}

async fn heard(gateway: &Gateway, event: &str) -> f64 {
    let metrics = gateway.metrics().await;
    metrics.sum("nats_heard_total", &[("event", event)])
}

/// Waits until so many sessions have ended for this reason.
async fn is_closed(gateway: &Gateway, reason: &str, count: f64) {
    settles("sessions that ended", count, async || {
        let metrics = gateway.metrics().await;
        metrics.sum("sessions_closed_total", &[("reason", reason)])
    })
    .await;
}

/// Waits until the gateway hears what this node tells all others.
async fn is_heard(gateway: &Gateway, node: &mut Node) {
    let before = heard(gateway, "forced_logout").await;
    until("an event to be heard", async || {
        node.broadcast("user.forceLogout", json!(["uid-nobody"]))
            .await;
        heard(gateway, "forced_logout").await > before
    })
    .await;
}

/// Two streamers with their nodes, another node, and a gateway that hears them.
struct Scene {
    gateway: Gateway,
    hosts: Hosts,
    streamers: [Node; 2],
    monolith: Node,
    /// Ends last.
    server: NatsServer,
}

impl Scene {
    async fn start(keys: &str) -> Self {
        let server = NatsServer::start();
        let url = server.url();
        let hosts = Hosts::start(2).await;
        let streamers = [hosts.node(0, &url).await, hosts.node(1, &url).await];
        let monolith = Node::moleculer(Plan::monolith(&url)).await;
        let gateway = hosts.gateway("", &hosts.discovery(&url, keys)).await;
        gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
        Self {
            gateway,
            hosts,
            streamers,
            monolith,
            server,
        }
    }

    fn cut(&self, user: &str) {
        for streamer in &self.hosts.streamers {
            streamer.terminate_user(user);
        }
    }
}

fn logged_out() -> End {
    End::Closed(1001, "logged out by the server, log in again".to_owned())
}

/// The sockets of a user are cut without a word, before or after the news is there. The others are
/// undisturbed, and nothing is held against the streamers. When one dies, that is another matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_logged_out_is_told_apart_from_a_streamer_that_dies() {
    let mut scene = Scene::start("").await;
    is_heard(&scene.gateway, &mut scene.monolith).await;
    let gateway = &scene.gateway;
    let mut others = [
        logged_in(gateway, "ben").await,
        logged_in(gateway, "cid").await,
    ];
    let mut kicked = Vec::new();
    for _ in 0..6 {
        kicked.push(logged_in(gateway, "ann").await);
    }
    scene
        .monolith
        .broadcast("user.forceLogout", json!(["uid-ann"]))
        .await;
    until("the news to be heard", async || {
        let metrics = gateway.metrics().await;
        metrics.sum("nats_heard_total", &[("event", "forced_logout")]) >= 2.0
    })
    .await;
    scene.cut("uid-ann");
    for client in &mut kicked {
        assert_eq!(soon("the end", client.end()).await, logged_out());
    }
    is_closed(gateway, "forced_logout", 6.0).await;
    let resets = gateway
        .metrics()
        .await
        .sum("streamer_failures_total", &[("reason", "reset")]);
    assert_eq!(resets, 0.0);
    // With another one it is the other way round: first the cut, then the news.
    let mut late = logged_in(gateway, "dan").await;
    let copy = json!({
        "id": "1", "event": "user.forceLogout", "data": ["uid-dan"], "groups": ["streamer"],
        "broadcast": true, "ver": "4", "sender": "rocketchat-2",
    });
    let client = Listener::client(&scene.server.url()).await;
    scene.cut("uid-dan");
    for node in &scene.streamers {
        let subject = format!("MOL.EVENT.{}", node.id);
        client
            .publish(subject, copy.to_string().into())
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(soon("the end", late.end()).await, logged_out());
    for other in &mut others {
        other.streamer().await;
    }
    for streamer in &scene.hosts.streamers {
        streamer.set_mode(Mode::Refuse).await.unwrap();
        streamer.terminate_user("uid-ben");
        streamer.terminate_user("uid-cid");
    }
    for other in &mut others {
        assert_eq!(soon("the end", other.end()).await.code(), Some(1012));
    }
}

/// A session that is kept for its client is not, when its user is logged out.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_for_a_user_that_is_logged_out() {
    let mut scene = Scene::start("").await;
    is_heard(&scene.gateway, &mut scene.monolith).await;
    let gateway = &scene.gateway;
    let lost = logged_in(gateway, "ann").await;
    let before =
        json!({"msg": "connect", "version": "1", "support": ["1"], "session": lost.session});
    drop(lost);
    let detached = async || {
        let metrics = gateway.metrics().await;
        metrics.sum("sessions", &[("phase", "detached")])
    };
    settles("sessions without a client", 1.0, detached).await;
    let news = heard(gateway, "forced_logout").await;
    scene
        .monolith
        .broadcast("user.forceLogout", json!(["uid-ann"]))
        .await;
    until("the news", async || {
        heard(gateway, "forced_logout").await > news
    })
    .await;
    // Its streamer takes its time; the client that comes back gets a session of its own.
    let login =
        json!({"msg": "method", "id": "1", "method": "login", "params": [{"resume": "demo-ann"}]});
    let address = gateway.app.addresses()[0].0;
    let (socket, _) = crate::support::socket::open(
        address,
        crate::support::socket::Way::Plain,
        "/websocket",
        &[],
    )
    .await
    .unwrap();
    let mut back = Client::connect_as(
        socket,
        ddp_gateway::ddp::Framing::Raw,
        &before,
        Some(&login),
    )
    .await;
    back.message("result").await;
    settles("sessions without a client", 0.0, detached).await;
    is_closed(gateway, "forced_logout", 1.0).await;
    let resumes = gateway.metrics().await;
    assert_eq!(resumes.sum("resumes_total", &[("outcome", "rebound")]), 0.0);
    assert_eq!(resumes.sum("resumes_total", &[("outcome", "resumed")]), 0.0);
}

/// After a move, streamers know the session by another name than the one that the user's list of
/// devices may have; the gateway knows both.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_moved_is_logged_out_by_its_first_name() {
    let mut scene = Scene::start("").await;
    is_heard(&scene.gateway, &mut scene.monolith).await;
    let gateway = &scene.gateway;
    let mut client = logged_in(gateway, "ann").await;
    let mut other = logged_in(gateway, "ann").await;
    let on = client.streamer().await;
    let from = usize::from(on == "streamer-2");
    scene.streamers[from].close().await;
    gateway.sessions_at(&scene.hosts.host(from), 0).await;
    assert_ne!(client.streamer().await, on);
    let one = json!(["uid-ann", client.session]);
    scene.monolith.broadcast("user.forceLogout", one).await;
    assert_eq!(soon("the end", client.end()).await, logged_out());
    // Another session of the same user goes on.
    other.streamer().await;
    is_closed(gateway, "forced_logout", 1.0).await;
}

/// Whoever is heard ends: then it is another one. The gateway says nothing but `DISCOVER`, and no
/// node knows of it.
#[tokio::test(flavor = "multi_thread")]
async fn another_streamer_is_heard_when_one_ends() {
    let mut scene = Scene::start("").await;
    let listener = Listener::on(&scene.server.url()).await;
    is_heard(&scene.gateway, &mut scene.monolith).await;
    scene.streamers[0].stop().await;
    is_heard(&scene.gateway, &mut scene.monolith).await;
    let mut again = scene.hosts.node(0, &scene.server.url()).await;
    let hosts = [scene.hosts.host(0), scene.hosts.host(1)];
    scene
        .gateway
        .source_says("nats", &[&hosts[0], &hosts[1]], &[])
        .await;
    scene.streamers[1].crash().await;
    scene.gateway.source_says("nats", &[&hosts[0]], &[]).await;
    is_heard(&scene.gateway, &mut scene.monolith).await;
    for (subject, _) in listener.of_gateways() {
        assert!(subject.starts_with("MOL.DISCOVER"), "{subject}");
    }
    for node in [&mut again, &mut scene.monolith] {
        let (nodes, complaints) = node.look().await;
        assert!(
            !nodes.iter().any(|id| id.starts_with("ddp-gateway")),
            "{nodes:?}"
        );
        assert_eq!(complaints, [""; 0]);
    }
}

/// Off, or not permitted: streamers are found and clients served as ever, and a user that is logged
/// out is taken for one of a streamer in trouble.
#[tokio::test(flavor = "multi_thread")]
async fn without_events_all_goes_on() {
    let off = Scene::start("events = false").await;
    let denied = NatsServer::with(
        "authorization { users: [ { user: me, password: hunter2, permissions: \
         { subscribe: { deny: \"MOL.EVENT.>\" } } }, { user: rc, password: rc } ] }",
    );
    let url = |user: &str| format!("nats://{user}@127.0.0.1:{}", denied.port);
    let hosts = Hosts::start(1).await;
    let _node = hosts.node(0, &url("rc:rc")).await;
    let gateway = hosts.gateway_on(&url("me:hunter2")).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    until("the server to refuse", async || {
        gateway.events("refused").await > 0.0
    })
    .await;
    gateway.source_is("nats", "fresh").await;
    for (gateway, hosts) in [(&off.gateway, &off.hosts), (&gateway, &hosts)] {
        let mut client = logged_in(gateway, "ann").await;
        for streamer in &hosts.streamers {
            streamer.terminate_user("uid-ann");
        }
        assert_eq!(soon("the end", client.end()).await.code(), Some(1012));
        assert_eq!(heard(gateway, "forced_logout").await, 0.0);
        gateway.client().await.streamer().await;
    }
}

/// Moleculer sends logins to monoliths only, which are listened to now and then. Each says where the
/// client is, as the streamers believe.
#[tokio::test(flavor = "multi_thread")]
async fn logins_are_heard_by_samples() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(1).await;
    let mut streamer = hosts.node(0, &url).await;
    let gateway = hosts.gateway_on(&url).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    let listener = Listener::on(&url).await;
    let mut client = logged_in(&gateway, "ann").await;
    let mut monolith = Node::moleculer(Plan::monolith(&url)).await;
    // As `RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/DDPStreamer.ts` says it, headers included.
    let instance = streamer.id.clone();
    let login = |session: &str, address: &str| {
        let headers = json!({
            "user-agent": "Mozilla/5.0 \"socket.connected\"", "x-forwarded-for": address,
            "cookie": "x".repeat(4_000), "$date": 1,
        });
        json!([{ "userId": "uid-ann", "connection": {
            "id": session, "instanceId": instance, "clientAddress": address,
            "httpHeaders": headers, "loginToken": "hash",
        }}])
    };
    let session = client.session.clone();
    until("a login to be heard", async || {
        let said = login(&session, "::ffff:127.0.0.1");
        streamer.broadcast("accounts.login", said).await;
        heard(&gateway, "socket").await > 0.0
    })
    .await;
    let counts = async || {
        let metrics = gateway.metrics().await;
        let count = |result| metrics.sum("client_addresses_total", &[("result", result)]);
        (count("right") > 0.0, count("wrong"))
    };
    settles("addresses of clients", (true, 0.0), counts).await;
    let before = heard(&gateway, "socket").await;
    // Of other gateways' sockets nothing is known.
    for (session, address) in [("of-another-gateway", "10.0.0.2"), (&session, "10.0.0.1")] {
        let said = login(session, address);
        streamer.broadcast("accounts.login", said).await;
    }
    settles("addresses of clients", (true, 1.0), counts).await;
    assert!(heard(&gateway, "socket").await >= before + 2.0);
    // The client notices nothing of it, and on the bus nobody of the gateway.
    client.streamer().await;
    for (subject, _) in listener.of_gateways() {
        assert!(subject.starts_with("MOL.DISCOVER"), "{subject}");
    }
    for node in [&mut streamer, &mut monolith] {
        let (nodes, complaints) = node.look().await;
        assert_eq!(nodes.len(), 2, "{nodes:?}");
        assert_eq!(complaints, [""; 0]);
    }
}

/// With `BROKER=nats` each event is a subject of its own.
#[tokio::test(flavor = "multi_thread")]
async fn services_of_nats_itself() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(1).await;
    let mut node = Node::micro(hosts.plan(0, &url)).await;
    let keys = format!("streamers = [\"{}:{}\"]", hosts.host(0), hosts.port());
    let tables = hosts.discovery(&url, "broker = \"nats\"");
    let gateway = hosts.gateway(&keys, &tables).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    is_heard(&gateway, &mut node).await;
    let mut client = logged_in(&gateway, "ann").await;
    let session = Value::from(client.session.clone());
    // Where the client is, as the streamers see it; of other gateways' sockets nothing is known.
    for (session, address) in [
        (&session, "::ffff:127.0.0.1"),
        (&session, "10.0.0.1"),
        (&json!("of-another-gateway"), "10.0.0.2"),
    ] {
        let connection = json!({
            "id": session, "instanceId": node.id, "clientAddress": address, "httpHeaders": {},
        });
        let login = json!([{"userId": "uid-ann", "connection": connection}]);
        node.broadcast("accounts.login", login).await;
    }
    settles("addresses of clients", (1.0, 1.0, 3.0), async || {
        let metrics = gateway.metrics().await;
        let count = |result| metrics.sum("client_addresses_total", &[("result", result)]);
        let heard = metrics.sum("nats_heard_total", &[("event", "socket")]);
        (count("right"), count("wrong"), heard)
    })
    .await;
    node.broadcast("user.forceLogout", json!(["uid-ann", session]))
        .await;
    assert_eq!(soon("the end", client.end()).await, logged_out());
}

/// A streamer whose machine is far busier than the others' gets fewer newcomers, and its share again
/// when that is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_streamer_is_spared() {
    let mut scene = Scene::start("").await;
    let row = async |gateway: &Gateway, host: &str| {
        let page = gateway.page().await;
        let mut rows = page["streamers"].as_array().unwrap().clone();
        rows.retain(|row| row["address"].as_str().unwrap().starts_with(host));
        rows[0].clone()
    };
    scene.streamers[0].cpu(97).await;
    scene.streamers[1].cpu(20).await;
    let hot = scene.hosts.host(0);
    let gateway = &scene.gateway;
    settles(
        "the CPU of the streamers",
        (json!(97), json!(true)),
        async || {
            let row = row(gateway, &hot).await;
            (row["cpu_percent"].clone(), row["hot"].clone())
        },
    )
    .await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("streamer_cpu_percent", &[]), 117.0);
    assert_eq!(metrics.sum("streamer_hot", &[]), 1.0);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(gateway.client().await);
    }
    let spared = row(gateway, &hot).await["sessions"].as_u64().unwrap();
    assert!(spared < 16, "{spared} of 40 newcomers");
    scene.streamers[0].cpu(20).await;
    settles("its state", json!(false), async || {
        row(gateway, &hot).await["hot"].clone()
    })
    .await;
    for _ in 0..60 {
        crowd.push(gateway.client().await);
    }
    gateway.sessions_at(&hot, 50).await;
}

/// The bus tells that the web client has a new version, which begins the wave, and a monolith that
/// starts tells the same again, which does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_the_web_client_is_no_surprise() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(1).await;
    let _node = hosts.node(0, &url).await;
    let mut monolith = Node::moleculer(Plan::monolith(&url)).await;
    let tables = format!("{}[logins]\nrate = \"1/s\"\n", hosts.discovery(&url, ""));
    let gateway = hosts.gateway("", &tables).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    is_heard(&gateway, &mut monolith).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(gateway.client().await);
    }
    let wave = async || gateway.metrics().await.sum("reload_wave_seconds", &[]);
    for (version, seconds) in [("v1", 0.0), ("v1", 0.0), ("v2", 20.0)] {
        let before = heard(&gateway, "client_version").await;
        let record = json!([{"_id": "web.browser", "version": version, "assets": []}]);
        monolith
            .broadcast("meteor.clientVersionUpdated", record)
            .await;
        until("the version to be heard", async || {
            heard(&gateway, "client_version").await > before
        })
        .await;
        settles("the length of the wave", seconds, wave).await;
    }
    for client in &mut clients {
        client.streamer().await;
    }
}
