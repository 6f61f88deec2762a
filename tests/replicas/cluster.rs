//! A bus of three servers, as larger deployments have: gateways at different ones, the routes between
//! the servers cut, one server killed.

use std::time::{Duration, Instant};

use crate::{cut::Cut, scene::Scene, server::NatsServer};

struct Cluster {
    servers: Vec<NatsServer>,
    /// The only ways to each of them for the others, who are told so.
    routes: Vec<Cut>,
}

impl Cluster {
    async fn start() -> Self {
        let mut routes = Vec::new();
        for _ in 0..3 {
            routes.push(Cut::to_be_led().await);
        }
        let mut servers: Vec<NatsServer> = Vec::new();
        for (n, route) in routes.iter().enumerate() {
            let known = routes[..n].iter();
            let known: Vec<String> = known
                .map(|route| format!("\"nats-route://{}\"", route.address))
                .collect();
            let server = NatsServer::with(&format!(
                "server_name: server-{n}\ncluster {{ name: test, no_advertise: true, listen: \"127.0.0.1:-1\", \
                 advertise: \"{}\", routes: [{}] }}",
                route.address,
                known.join(", "),
            ));
            route.lead_to(server.cluster_port.unwrap());
            servers.push(server);
        }
        Self { servers, routes }
    }
}

/// The first server is cut off from the two others and joined again, then the last one is killed,
/// whose gateway knows another one: nobody's socket notices, and all is right soon after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_routes_of_a_cluster_are_cut_and_one_of_its_servers_is_killed() {
    let mut cluster = Cluster::start().await;
    let [first, second, last] = [0, 1, 2].map(|at: usize| cluster.servers[at].url());
    let other = Cut::to_be_led().await;
    let urls = [first, second, format!("{}\", \"{last}", other.url())];
    let mut scene = Scene::start(&urls, 6, 2.0).await;
    scene.everybody_is_together().await;
    scene.let_in(0.4);
    scene.everybody_is_settled().await;
    scene.counts_are_right().await;

    cluster.routes[0].hold();
    scene.knows(0, 0).await;
    for gateway in [1, 2] {
        scene.knows(gateway, 1).await;
    }
    scene.let_in(0.2);
    scene.everybody_is_settled().await;
    cluster.routes[0].release();
    let joined = Instant::now();
    scene.counts_are_right().await;
    is_soon("the split", joined);

    // From now on the other server of its list is there.
    other.lead_to(cluster.servers[1].port);
    cluster.servers[2].kill();
    let killed = Instant::now();
    scene.all_hear_each_other(killed).await;
    is_soon("the end of a server", killed);
    scene.let_in(0.2);
    scene.everybody_is_settled().await;
    scene.counts_are_right().await;
    scene.nobody_noticed();
    scene.never_too_many();
}

fn is_soon(what: &str, since: Instant) {
    let took = since.elapsed();
    println!("right {took:.1?} after {what}");
    assert!(took < Duration::from_secs(5), "{took:?} after {what}");
}
