//! Levelling the streamers: by itself when one joins, on the operator's order, and only as far as
//! sessions can be moved.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    deployment::{Deployment, Plan, read},
    http,
    process::Gateway,
    settles,
    socket::{Client, Way},
    until,
};

/// A deployment whose last streamer is not in the configuration yet.
struct Growing {
    deployment: Deployment,
    tables: &'static str,
}

impl Growing {
    async fn start(count: usize, tables: &'static str) -> Self {
        let plan = Plan {
            streamers: count,
            keys: "watch = false\n".to_owned(),
            tables: tables.to_owned(),
            ..Plan::default()
        };
        let growing = Self {
            deployment: Deployment::of(plan).await,
            tables,
        };
        growing.reload(false, tables).await;
        let last = growing.last().to_string();
        until("the last one to have left", async || {
            let page = streamers(&growing.deployment).await;
            !page.to_string().contains(&last)
        })
        .await;
        growing
    }

    fn last(&self) -> SocketAddr {
        self.deployment.streamers.last().unwrap().address()
    }

    /// With the last streamer or without it, and with these settings.
    async fn reload(&self, with_last: bool, tables: &str) {
        let text = self.deployment.text_of(self.deployment.plan());
        let text = text.replace(self.tables, tables);
        let text = match with_last {
            true => text,
            false => text.replace(&format!(", \"{}\"", self.last()), ""),
        };
        let app = &self.deployment.app;
        Box::pin(app.reload(read(&text))).await.unwrap();
    }
}

async fn streamers(deployment: &Deployment) -> Value {
    http::get(deployment.admin(), "/streamers").await.json()
}

/// Every other one logged in.
async fn users(deployment: &Deployment, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..count {
        let mut client = Client::raw(deployment.plain(), Way::Plain).await;
        if n % 2 == 0 {
            let token = json!([{ "resume": format!("demo-user{n}") }]);
            let answer = client.call("login", token).await;
            assert!(answer.get("error").is_none(), "{answer}");
        }
        clients.push(client);
    }
    clients
}

async fn visitors(deployment: &Deployment, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::raw(deployment.plain(), Way::Plain).await;
        client.call("livechat:setUpConnection", json!([])).await;
        clients.push(client);
    }
    clients
}

/// What `/rebalance` says of the only pool.
async fn balance(deployment: &Deployment) -> Value {
    let page = http::get(deployment.admin(), "/rebalance").await.json();
    page["pools"][0].clone()
}

async fn post(deployment: &Deployment, path: &str) -> Value {
    let answer = http::post(deployment.admin(), path).await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    answer.json()["pools"][0].clone()
}

/// What the command said, and its exit code.
async fn command(deployment: &Deployment, arguments: &[&str]) -> (Option<i32>, String) {
    let url = format!("http://{}", deployment.admin());
    let arguments = [&["rebalance"], arguments, &["--admin", &url]].concat();
    let mut command = Gateway::with(&arguments);
    let status = command.ended().await;
    (status.code(), command.output())
}

fn loads(deployment: &Deployment) -> Vec<usize> {
    let streamers = deployment.streamers.iter();
    streamers.map(|streamer| streamer.sessions()).collect()
}

async fn all_are_served(clients: &mut [Client]) {
    for client in clients {
        assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    }
}

async fn nobody_was_closed(deployment: &Deployment) {
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("sessions_closed_total", &[]), 0.0);
}

const FAST: &str = "[rebalance]\nmode = \"fast\"\n[pool]\nslow_start = \"500ms\"\n";
const OFF: &str = "[rebalance]\nmode = \"off\"\n[pool]\nslow_start = \"0s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamer_that_joins_gets_its_share_and_nobody_notices() {
    let growing = Growing::start(3, FAST).await;
    let deployment = &growing.deployment;
    let mut clients = users(deployment, 61).await;
    let mut before = loads(deployment);
    before.sort_unstable();
    assert_eq!(before, [0, 30, 31]);
    // The two have been seen, so who comes now joins them.
    until("the skew to be known", async || {
        deployment.metrics().await.sum("pool_skew", &[]) > 1.0
    })
    .await;
    assert_eq!(balance(deployment).await["running"], false);
    let joined = Instant::now();
    growing.reload(true, FAST).await;
    settles("the end of a run", json!("balanced"), async || {
        balance(deployment).await["last"].clone()
    })
    .await;
    // Not because it was uneven for a while.
    assert!(joined.elapsed() < Duration::from_secs(5));
    let after = balance(deployment).await;
    assert_eq!(after["running"], false, "{after}");
    // Nobody has more than 5 % above the mean, and hardly anybody moved in vain.
    let moved = after["moved"].as_u64().unwrap();
    assert!((17..=20).contains(&moved), "{after}");
    settles("level streamers", true, async || {
        let loads = loads(deployment);
        loads.iter().sum::<usize>() == 61 && loads.iter().all(|load| *load <= 22)
    })
    .await;
    assert!(balance(deployment).await["skew"].as_f64() <= Some(1.1));
    all_are_served(&mut clients).await;
    nobody_was_closed(deployment).await;
    let metrics = deployment.metrics().await;
    let outcome = |outcome| [("pool", "default"), ("outcome", outcome)];
    assert_eq!(metrics.sum("rebalances_total", &outcome("balanced")), 1.0);
    assert_eq!(metrics.sum("rebalancing", &[("pool", "default")]), 0.0);
    assert!(metrics.sum("pool_skew", &[("pool", "default")]) <= 1.1);
    let counted = metrics.sum("session_moves_total", &[("outcome", "moved")]);
    assert_eq!(counted.to_string(), moved.to_string());
    // The fullest ones gave no more than they had to, and it is over.
    let plan = post(deployment, "/rebalance?dry_run=true").await;
    for share in plan["streamers"].as_array().unwrap() {
        assert_eq!(
            (&share["gives"], &share["gets"]),
            (&json!(0), &json!(0)),
            "{plan}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switched_off_it_waits_for_the_operator_who_may_look_first_and_stop_it() {
    let slow =
        "[rebalance]\nmode = \"off\"\n[pool]\nslow_start = \"0s\"\n[logins]\nrate = \"40/s\"\n";
    let growing = Growing::start(2, slow).await;
    let deployment = &growing.deployment;
    let mut clients = users(deployment, 40).await;
    growing.reload(true, slow).await;
    deployment.streamers_in_rotation(2).await;
    assert_eq!(loads(deployment), [40, 0]);

    let plan = post(deployment, "/rebalance?dry_run=true").await;
    let shares = plan["streamers"].as_array().unwrap().iter();
    let mut shares: Vec<_> = shares
        .map(|share| {
            (
                share["sessions"].clone(),
                share["gives"].clone(),
                share["gets"].clone(),
            )
        })
        .collect();
    shares.sort_by_key(|(sessions, ..)| sessions.as_u64());
    let share = |sessions, gives, gets| (json!(sessions), json!(gives), json!(gets));
    assert_eq!(shares, [share(0, 0, 19), share(40, 19, 0)]);
    assert_eq!(
        (&plan["running"], &plan["mode"]),
        (&json!(false), &json!("off"))
    );
    assert_eq!(loads(deployment), [40, 0]);

    let begun = post(deployment, "/rebalance").await;
    assert_eq!(
        (&begun["running"], &begun["rate"]),
        (&json!(true), &json!(4)),
        "{begun}"
    );
    assert_eq!(begun["because"], "the operator's order");
    until("some to have moved", async || {
        balance(deployment).await["moved"].as_u64() >= Some(2)
    })
    .await;
    let stopped = post(deployment, "/rebalance/stop").await;
    assert_eq!(
        (&stopped["running"], &stopped["last"]),
        (&json!(false), &json!("stopped"))
    );
    // Those between two streamers arrive, and that is all.
    settles("sessions that move", 0, async || {
        let page = http::get(deployment.admin(), "/sessions").await.json();
        let rows = page["sessions"].as_array().unwrap().iter();
        rows.filter(|row| row["moving"] == true).count()
    })
    .await;
    settles("all", 40, async || loads(deployment).iter().sum::<usize>()).await;
    let [full, other] = loads(deployment)[..] else {
        panic!("two streamers")
    };
    assert!(
        (2..19).contains(&other) && full + other == 40,
        "{full} {other}"
    );
    all_are_served(&mut clients).await;
    nobody_was_closed(deployment).await;
    let plan = balance(deployment).await;
    assert_eq!(
        (&plan["running"], &plan["left"]),
        (&json!(false), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_switches_it_off_stops_what_is_under_way() {
    let on =
        "[rebalance]\nmode = \"slow\"\n[logins]\nrate = \"40/s\"\n[pool]\nslow_start = \"0s\"\n";
    let off = on.replace("slow\"\n[l", "off\"\n[l");
    assert_ne!(on, off);
    let growing = Growing::start(2, on).await;
    let deployment = &growing.deployment;
    let mut clients = users(deployment, 60).await;
    growing.reload(true, on).await;
    // By itself: one that was skewed for a while, or has joined.
    until("some to have moved", async || {
        balance(deployment).await["moved"].as_u64() >= Some(1)
    })
    .await;
    growing.reload(true, &off).await;
    let stopped = balance(deployment).await;
    assert_eq!(
        (&stopped["running"], &stopped["last"], &stopped["mode"]),
        (&json!(false), &json!("stopped"), &json!("off"))
    );
    let metrics = deployment.metrics().await;
    let outcome = [("pool", "default"), ("outcome", "stopped")];
    assert_eq!(metrics.sum("rebalances_total", &outcome), 1.0);
    settles("all", 60, async || loads(deployment).iter().sum::<usize>()).await;
    let other = loads(deployment)[1];
    assert!((1..28).contains(&other), "{other}");
    all_are_served(&mut clients).await;
    nobody_was_closed(deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_moved_stays_and_is_counted() {
    let growing = Growing::start(2, OFF).await;
    let deployment = &growing.deployment;
    let mut clients = visitors(deployment, 16).await;
    clients.extend(users(deployment, 2).await);
    growing.reload(true, OFF).await;
    deployment.streamers_in_rotation(2).await;
    let (code, said) = command(deployment, &["--wait"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("; not to be moved: 16 livechat"), "{said}");
    assert!(
        said.contains("pool default could not be levelled"),
        "{said}"
    );
    let after = balance(deployment).await;
    assert_eq!(
        (&after["running"], &after["last"]),
        (&json!(false), &json!("stuck"))
    );
    assert_eq!(after["moved"], 2, "{after}");
    assert_eq!(after["refused"], json!({"livechat": 16}), "{after}");
    settles("sessions", vec![16, 2], async || loads(deployment)).await;
    all_are_served(&mut clients).await;
    nobody_was_closed(deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_shows_the_plan_and_how_it_goes() {
    let growing = Growing::start(2, OFF).await;
    let deployment = &growing.deployment;
    let _clients = users(deployment, 30).await;
    growing.reload(true, OFF).await;
    deployment.streamers_in_rotation(2).await;
    let run = async |arguments: &[&str]| command(deployment, arguments).await;
    let (code, said) = run(&["--dry-run"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("POOL     STREAMER"), "{said}");
    assert!(said.contains("30        14     0"), "{said}");
    assert!(
        said.contains("skew 2.00, 14 sessions would move, 10/s, about 2 s"),
        "{said}"
    );
    assert_eq!(loads(deployment), [30, 0]);

    let (code, said) = run(&["--wait"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("levelling: skew 2.00, 0 moved"), "{said}");
    assert!(said.contains("14 moved, 0 under way, 0 left"), "{said}");
    assert!(said.contains("levelling has ended, skew 1.0"), "{said}");
    settles("sessions", vec![16, 14], async || loads(deployment)).await;

    let (code, said) = run(&["--dry-run"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing is to be moved"), "{said}");
    let (code, said) = run(&["--stop"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("pool default: stopped"), "{said}");
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused() {
    let deployment = Deployment::start().await;
    let admin = deployment.admin();
    let wrong = http::post(admin, "/rebalance?dry_run=perhaps").await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    let read = http::get(admin, "/rebalance/stop").await;
    assert_eq!((read.status, read.header("allow")), (405, Some("POST")));
    // Nothing is to be done, and that is soon over.
    post(&deployment, "/rebalance").await;
    settles("the end of the run", json!("balanced"), async || {
        balance(&deployment).await["last"].clone()
    })
    .await;
}
