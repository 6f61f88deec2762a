//! Emptying one streamer while the others go on, and losing one without having been asked.

use std::{fs, path::PathBuf, time::Duration};

use ddp_gateway::demo::streamer::Streamer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, task::JoinHandle, time::Instant};

use crate::support::{
    deployment::{Deployment, Plan, read},
    eventually, http,
    process::Gateway,
    settles,
    socket::{Client, End, Way},
    soon, until,
};

/// Visitors of the livechat, who cannot be moved, of both framings; the same number on each of two
/// streamers.
async fn visitors(deployment: &Deployment, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..count {
        // Of each framing on each streamer, which take turns.
        let mut client = match n / 2 % 2 {
            0 => Client::raw(deployment.plain(), Way::Plain).await,
            _ => Client::sockjs(deployment.tls(), Way::Tls).await,
        };
        client.call("livechat:setUpConnection", json!([])).await;
        clients.push(client);
    }
    deployment.sessions(count).await;
    clients
}

/// Clients of both framings, every other one logged in; the same number on each of two streamers.
async fn users(deployment: &Deployment, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..count {
        let mut client = match n / 2 % 2 {
            0 => Client::raw(deployment.plain(), Way::Plain).await,
            _ => Client::sockjs(deployment.tls(), Way::Tls).await,
        };
        if n / 4 % 2 == 0 {
            let token = json!([{ "resume": format!("demo-user{n}") }]);
            let answer = client.call("login", token).await;
            assert!(answer.get("error").is_none(), "{answer}");
        }
        clients.push(client);
    }
    deployment.sessions(count).await;
    clients
}

/// Those on the first streamer, and the others.
async fn split(deployment: &Deployment, all: Vec<Client>) -> (Vec<Client>, Vec<Client>) {
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for mut client in all {
        match client.streamer().await == deployment.streamers[0].name() {
            true => first.push(client),
            false => others.push(client),
        }
    }
    (first, others)
}

/// How each ends, and when.
fn ends(clients: Vec<Client>, started: Instant) -> Vec<JoinHandle<(End, Duration)>> {
    clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let end = soon("the end of a socket", client.end()).await;
                (end, started.elapsed())
            })
        })
        .collect()
}

async fn all(ends: Vec<JoinHandle<(End, Duration)>>) -> Vec<(End, Duration)> {
    let mut ended = Vec::new();
    for end in ends {
        ended.push(end.await.unwrap());
    }
    ended.sort_by_key(|(_, at)| *at);
    ended
}

async fn order(deployment: &Deployment, path: &str) -> Value {
    let answer = http::post(deployment.admin(), path).await;
    assert!(
        matches!(answer.status, 200 | 202),
        "{path}: {}",
        answer.text()
    );
    answer.json()["streamers"][0].clone()
}

/// The row of a streamer in `/streamers`.
async fn row(deployment: &Deployment, streamer: &Streamer) -> Value {
    let page = http::get(deployment.admin(), "/streamers").await.json();
    let rows = page["pools"][0]["streamers"].as_array().unwrap().clone();
    let id = streamer.address().to_string();
    rows.into_iter()
        .find(|row| row["id"] == id.as_str())
        .unwrap()
}

#[tokio::test]
async fn who_cannot_be_moved_is_closed_at_the_rate_and_newcomers_go_elsewhere() {
    let deployment = Deployment::start().await;
    let streamer = &deployment.streamers[0];
    let id = streamer.address().to_string();
    let (leaving, mut staying) = split(&deployment, visitors(&deployment, 24).await).await;
    assert_eq!((leaving.len(), staying.len()), (12, 12));
    let started = Instant::now();
    let leaving = ends(leaving, started);
    let path = format!("/streamers/drain?streamer={id}&rate=10");
    let begun = order(&deployment, &path).await;
    assert_eq!(begun["draining"], true, "{begun}");
    assert_eq!(begun["rate"], 10);
    assert_eq!(begun["others"], true);
    assert!(begun["eta_seconds"].as_u64() <= Some(2), "{begun}");
    let mut newcomers = clients_from(&deployment, 6).await;
    for newcomer in &mut newcomers {
        assert_eq!(newcomer.streamer().await, deployment.streamers[1].name());
    }
    let ended = all(leaving).await;
    for (end, _) in &ended {
        let End::Closed(1012, reason) = end else {
            panic!("{end:?}")
        };
        assert_eq!(reason, "server is being emptied, reconnect");
    }
    // One each tenth of a second, however late this machine is.
    let took = ended[11].1;
    assert!(took >= Duration::from_millis(1_090), "{took:?}");
    for at in 1..12 {
        let earliest = Duration::from_millis(at * 100 - 10);
        let at = usize::try_from(at).unwrap();
        assert!(ended[at].1 >= earliest, "number {at} at {:?}", ended[at].1);
    }
    settles("sessions on the streamer", 0, async || streamer.sessions()).await;
    settles("sessions left", json!(0), async || {
        row(&deployment, streamer).await["drain"]["left"].clone()
    })
    .await;
    for client in &mut staying {
        assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    }
    // Once more is once: it is still drained since then.
    let again = order(&deployment, &format!("/streamers/drain?streamer={id}")).await;
    assert_eq!(
        (&again["draining"], &again["closed"], &again["rate"]),
        (&json!(true), &json!(12), &json!(10)),
        "{again}"
    );
    assert_eq!(again["moved"], 0, "{again}");
    let refused = again["refused"].as_object().unwrap();
    let refused: u64 = refused.values().filter_map(Value::as_u64).sum();
    assert_eq!(refused, 12, "{again}");
    let drained = row(&deployment, streamer).await;
    assert_eq!(drained["admin"], "drain", "{drained}");
    assert_eq!(
        (&drained["health"], &drained["capacity"]),
        (&json!("up"), &json!(0))
    );
    let metrics = deployment.metrics().await;
    let labels = [("pool", "default"), ("streamer", id.as_str())];
    assert_eq!(metrics.sum("streamer_draining", &labels), 1.0);
    assert_eq!(metrics.sum("streamer_draining", &[]), 1.0);
    let closed = [("reason", "streamer_drain"), ("by", "gateway")];
    assert_eq!(metrics.sum("sessions_closed_total", &closed), 12.0);
    let listed = http::get(deployment.admin(), "/streamers/drain")
        .await
        .json();
    assert_eq!(listed["streamers"].as_array().unwrap().len(), 1);
    // Back again, and the emptiest.
    let back = order(&deployment, &format!("/streamers/undrain?streamer={id}")).await;
    assert_eq!(back["draining"], false);
    let mut next = Client::raw(deployment.plain(), Way::Plain).await;
    assert_eq!(next.streamer().await, streamer.name());
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("streamer_draining", &labels), 0.0);
    assert_eq!(row(&deployment, streamer).await["drain"], Value::Null);
}

async fn clients_from(deployment: &Deployment, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::raw(deployment.plain(), Way::Plain).await);
    }
    clients
}

#[tokio::test]
async fn its_sessions_move_and_their_clients_notice_nothing() {
    let deployment = Deployment::start().await;
    let [first, second] = &deployment.streamers[..] else {
        panic!("two streamers")
    };
    let id = first.address().to_string();
    let (mut leaving, mut staying) = split(&deployment, users(&deployment, 16).await).await;
    assert_eq!((leaving.len(), staying.len()), (8, 8));
    let logged_in = |streamer: &Streamer| streamer.counters().logged_in;
    assert_eq!((logged_in(first), logged_in(second)), (4, 4));
    let begun = order(&deployment, &format!("/streamers/drain?streamer={id}")).await;
    assert_eq!(begun["left"], 8, "{begun}");
    let drain = async || {
        let path = format!("/streamers/drain?streamer={id}");
        let page = http::get(deployment.admin(), &path).await.json();
        page["streamers"][0].clone()
    };
    settles("sessions left", json!(0), async || {
        drain().await["left"].clone()
    })
    .await;
    settles("moved", json!(8), async || drain().await["moved"].clone()).await;
    let done = drain().await;
    assert_eq!(
        (&done["closed"], &done["under_way"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(done["refused"], json!({}), "{done}");
    assert_eq!((first.sessions(), second.sessions()), (0, 16));
    // Who is logged in is so without having asked for it, and nobody else is.
    assert_eq!((logged_in(first), logged_in(second)), (0, 8));
    for client in leaving.iter_mut().chain(&mut staying) {
        assert_eq!(client.streamer().await, second.name());
    }
    let rows = http::get(deployment.admin(), "/sessions").await.json();
    let there = second.address().to_string();
    for row in rows["sessions"].as_array().unwrap() {
        assert_eq!(
            (&row["streamer"], &row["moving"]),
            (&json!(there), &json!(false))
        );
        assert!(row.get("move_refused").is_none(), "{row}");
    }
    let metrics = deployment.metrics().await;
    let moved = [("outcome", "moved")];
    assert_eq!(metrics.sum("session_moves_total", &moved), 8.0);
    assert_eq!(metrics.sum("sessions_closed_total", &[]), 0.0);
}

/// As a pod that is about to end is seen in the DNS.
#[tokio::test]
async fn one_that_leaves_discovery_is_emptied_by_itself_and_nobody_is_closed_for_it() {
    let deployment = Deployment::of(Plan {
        keys: "watch = false\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let streamer = &deployment.streamers[0];
    let id = streamer.address().to_string();
    let (mut users, _others) = split(&deployment, users(&deployment, 8).await).await;
    let mut visitor = Client::raw(deployment.plain(), Way::Plain).await;
    if visitor.streamer().await != streamer.name() {
        visitor = Client::raw(deployment.plain(), Way::Plain).await;
    }
    assert_eq!(visitor.streamer().await, streamer.name());
    visitor.call("livechat:setUpConnection", json!([])).await;
    let with = deployment.text_of(deployment.plan());
    let without = with.replace(&format!("\"{id}\", "), "");
    let stays = format!("{without}\n[rebalance]\nleaving = false\n");

    // Switched off, all of them stay.
    let app = &deployment.app;
    Box::pin(app.reload(read(&stays))).await.unwrap();
    settles("its state", json!("leaving"), async || {
        row(&deployment, streamer).await["admin"].clone()
    })
    .await;
    assert_eq!(row(&deployment, streamer).await["drain"], Value::Null);
    assert_eq!(users[0].streamer().await, streamer.name());

    Box::pin(app.reload(read(&without))).await.unwrap();
    settles("sessions on it", 1, async || streamer.sessions()).await;
    let drain = || async { row(&deployment, streamer).await["drain"].clone() };
    settles("moved", json!(4), async || drain().await["moved"].clone()).await;
    settles("left behind", json!({"livechat": 1}), async || {
        drain().await["refused"].clone()
    })
    .await;
    let done = drain().await;
    assert_eq!(
        (&done["leaving"], &done["draining"]),
        (&json!(true), &json!(false))
    );
    assert_eq!((&done["left"], &done["closed"]), (&json!(1), &json!(0)));
    for user in &mut users {
        assert_eq!(user.streamer().await, deployment.streamers[1].name());
    }
    // It serves, so the visitor has what is to be had.
    assert_eq!(visitor.streamer().await, streamer.name());
    let metrics = deployment.metrics().await;
    let closed = [("by", "gateway")];
    assert_eq!(metrics.sum("sessions_closed_total", &closed), 0.0);
    let rows = http::get(deployment.admin(), "/sessions").await.json();
    let refused = rows["sessions"].as_array().unwrap().iter();
    let refused = refused.filter(|row| row["move_refused"] == "livechat");
    assert_eq!(refused.count(), 1);

    // The operator, or its hook, wants it empty all the same.
    order(&deployment, &format!("/streamers/drain?streamer={id}")).await;
    assert_eq!(soon("its end", visitor.end()).await.code(), Some(1012));
}

/// An answer that lacks most streamers is a fault of the DNS before it is the end of them.
#[tokio::test]
async fn discovery_is_not_believed_that_most_streamers_have_gone() {
    let deployment = Deployment::of(Plan {
        streamers: 3,
        keys: "watch = false\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let mut users = users(&deployment, 6).await;
    let loads = || -> Vec<usize> {
        let streamers = deployment.streamers.iter();
        streamers.map(Streamer::sessions).collect()
    };
    assert_eq!(loads(), [2, 2, 2]);
    let ids = [0, 1].map(|n: usize| deployment.streamers[n].address().to_string());
    let all = deployment.text_of(deployment.plan());
    let without_two = all.replace(&format!("\"{}\", \"{}\", ", ids[0], ids[1]), "");
    let without_one = all.replace(&format!("\"{}\", ", ids[0]), "");
    let app = &deployment.app;
    Box::pin(app.reload(read(&without_two))).await.unwrap();
    for streamer in &deployment.streamers[..2] {
        settles("its state", json!("leaving"), async || {
            row(&deployment, streamer).await["admin"].clone()
        })
        .await;
    }
    // Two rounds of the task that would have them moved.
    let since = Instant::now();
    until("a second to pass", async || {
        assert_eq!(loads(), [2, 2, 2]);
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
    let moves = deployment.metrics().await.sum("session_moves_total", &[]);
    assert!(moves.abs() < 0.5, "{moves}");

    // One of three is another matter.
    Box::pin(app.reload(read(&without_one))).await.unwrap();
    settles("sessions", vec![0, 3, 3], async || loads()).await;
    for user in &mut users {
        assert_eq!(user.call("demo:echo", json!(["x"])).await["result"], "x");
    }
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("sessions_closed_total", &[]), 0.0);
}

#[tokio::test]
async fn with_nowhere_to_go_it_is_tried_three_times_and_then_they_are_closed() {
    let deployment = Deployment::of(Plan {
        tables: "[pool]\nsessions_per_streamer = 4\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let [first, second] = &deployment.streamers[..] else {
        panic!("two streamers")
    };
    let (leaving, mut staying) = split(&deployment, users(&deployment, 8).await).await;
    assert_eq!((leaving.len(), staying.len()), (4, 4));
    let path = format!("/streamers/drain?streamer={}", first.address());
    order(&deployment, &path).await;
    let sum = async |name: &str, labels: &[(&str, &str)]| {
        let metrics = deployment.metrics().await;
        metrics.sum(name, labels)
    };
    let unreachable = [("outcome", "unreachable")];
    settles("first attempts", 4.0, async || {
        sum("session_moves_total", &unreachable).await
    })
    .await;
    assert_eq!(first.sessions(), 4);
    // Room for one of them.
    staying.pop().unwrap().close().await;
    settles("sessions on it", 0, async || first.sessions()).await;
    assert_eq!(second.sessions(), 4);
    assert_eq!(
        sum("session_moves_total", &[("outcome", "moved")]).await,
        1.0
    );
    // Two more attempts of each of the others.
    assert_eq!(sum("session_moves_total", &unreachable).await, 10.0);
    let closed = [("reason", "streamer_drain")];
    settles("closed", 3.0, async || {
        sum("sessions_closed_total", &closed).await
    })
    .await;
    let done = http::get(deployment.admin(), &path).await.json()["streamers"][0].clone();
    assert_eq!(done["refused"], json!({"unreachable": 3}), "{done}");
    assert_eq!((&done["moved"], &done["closed"]), (&json!(1), &json!(3)));
    for client in &mut staying {
        assert_eq!(client.streamer().await, second.name());
    }
}

#[tokio::test]
async fn taken_back_midway_the_rest_stays() {
    let deployment = Deployment::start().await;
    let streamer = &deployment.streamers[0];
    let id = streamer.address();
    let _all = ends(visitors(&deployment, 20).await, Instant::now());
    assert_eq!(streamer.sessions(), 10);
    order(
        &deployment,
        &format!("/streamers/drain?streamer={id}&rate=2"),
    )
    .await;
    let path = format!("/streamers/drain?streamer={id}");
    until("some to be told", async || {
        let report = http::get(deployment.admin(), &path).await.json();
        report["streamers"][0]["left"].as_u64() < Some(10)
    })
    .await;
    let back = order(&deployment, &format!("/streamers/undrain?streamer={id}")).await;
    let left = back["left"].as_u64().unwrap();
    assert!((1..=9).contains(&left), "{back}");
    let closed = async || {
        let closed = [("reason", "streamer_drain")];
        deployment
            .metrics()
            .await
            .sum("sessions_closed_total", &closed)
    };
    // Those whose goodbye is under way.
    settles("told and gone", true, async || {
        closed().await + f64::from(u32::try_from(streamer.sessions()).unwrap()) == 10.0
    })
    .await;
    let (gone, since) = (closed().await, Instant::now());
    // Two turns of the drain that is no more.
    until("a second to pass", async || {
        assert_eq!(closed().await, gone, "closed after undrain");
        since.elapsed() > Duration::from_secs(1)
    })
    .await;
    let kept = row(&deployment, streamer).await;
    assert_eq!(kept["admin"], "ready");
    assert_eq!(kept["sessions"].as_f64(), Some(10.0 - gone));
}

#[tokio::test]
async fn taken_back_midway_those_between_two_streamers_arrive_and_nobody_is_closed() {
    let deployment = Deployment::start().await;
    let [first, second] = &deployment.streamers[..] else {
        panic!("two streamers")
    };
    let mut users = users(&deployment, 24).await;
    let path = format!("/streamers/drain?streamer={}&rate=4", first.address());
    order(&deployment, &path).await;
    let moving = async || {
        let page = http::get(deployment.admin(), "/sessions").await.json();
        let rows = page["sessions"].as_array().unwrap().iter();
        rows.filter(|row| row["moving"] == true).count()
    };
    until("one to be on the way", async || moving().await > 0).await;
    let path = format!("/streamers/undrain?streamer={}", first.address());
    let back = order(&deployment, &path).await;
    assert_eq!(back["draining"], false, "{back}");
    settles("sessions that move", 0, moving).await;
    settles("sessions", 24, async || {
        first.sessions() + second.sessions()
    })
    .await;
    let arrived = second.sessions() - 12;
    assert!((1..12).contains(&arrived), "{arrived}");
    let moved = [("outcome", "moved")];
    let metrics = deployment.metrics().await;
    let moved = metrics.sum("session_moves_total", &moved);
    assert_eq!(moved.to_string(), arrived.to_string());
    assert_eq!(metrics.sum("sessions_closed_total", &[]), 0.0);
    for user in &mut users {
        assert_eq!(user.call("demo:echo", json!(["x"])).await["result"], "x");
    }
}

/// A pod that ends is often gone from the DNS before its hook asks for the drain.
#[tokio::test]
async fn one_that_has_left_discovery_is_emptied_and_who_comes_after_it_is_new() {
    let deployment = Deployment::of(Plan {
        keys: "watch = false\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let streamer = &deployment.streamers[0];
    let id = streamer.address().to_string();
    let (leaving, _staying) = split(&deployment, visitors(&deployment, 12).await).await;
    let leaving = ends(leaving, Instant::now());
    let with = deployment.text_of(deployment.plan());
    let without = with.replace(&format!("\"{id}\", "), "");
    assert_ne!(with, without);
    let app = &deployment.app;
    Box::pin(app.reload(read(&without))).await.unwrap();
    settles("its state", json!("leaving"), async || {
        row(&deployment, streamer).await["admin"].clone()
    })
    .await;
    let path = format!("/streamers/drain?streamer={id}&rate=10");
    let begun = order(&deployment, &path).await;
    assert_eq!(begun["left"], 6, "{begun}");
    let labels = [("streamer", id.as_str())];
    let draining = async || deployment.metrics().await.sum("streamer_draining", &labels);
    assert_eq!(draining().await, 1.0);
    for (end, _) in all(leaving).await {
        assert_eq!(end.code(), Some(1012));
    }
    settles("sessions left", json!(0), async || {
        let path = format!("/streamers/drain?streamer={id}");
        let page = http::get(deployment.admin(), &path).await.json();
        page["streamers"][0]["left"].clone()
    })
    .await;
    settles("the gauge", 0.0, draining).await;
    Box::pin(app.reload(read(&with))).await.unwrap();
    deployment.streamers_in_rotation(2).await;
    let back = row(&deployment, streamer).await;
    assert_eq!(
        (&back["admin"], &back["drain"]),
        (&json!("ready"), &Value::Null)
    );
}

#[tokio::test]
async fn several_that_are_emptied_share_the_pace_of_logins() {
    let deployment = Deployment::of(Plan {
        tables: "[logins]\nrate = \"8/s\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let _all = visitors(&deployment, 12).await;
    let path = |n: usize| {
        let address = deployment.streamers[n].address();
        format!("/streamers/drain?streamer={address}")
    };
    let one = order(&deployment, &path(0)).await;
    assert_eq!((&one["rate"], &one["others"]), (&json!(8), &json!(true)));
    let other = order(&deployment, &path(1)).await;
    // Nobody is left to take its clients, and the operator is told.
    assert_eq!(
        (&other["rate"], &other["others"]),
        (&json!(4), &json!(false))
    );
    let rates = http::get(deployment.admin(), "/streamers/drain").await;
    for drain in rates.json()["streamers"].as_array().unwrap() {
        assert_eq!(drain["rate"], 4, "{drain}");
    }
    settles("sessions", 0, async || {
        let streamers = deployment.streamers.iter();
        streamers.map(Streamer::sessions).sum::<usize>()
    })
    .await;
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused() {
    let deployment = Deployment::start().await;
    let admin = deployment.admin();
    let id = deployment.streamers[0].address();
    for path in [
        "/streamers/drain?streamer=nobody",
        "/streamers/undrain?streamer=nobody",
    ] {
        let answer = http::post(admin, path).await;
        assert_eq!(answer.status, 404, "{path}");
        let known = answer.json()["known"].as_array().unwrap().len();
        assert_eq!(known, 2, "{}", answer.text());
        assert!(answer.text().contains(&id.to_string()));
    }
    let unknown = http::get(admin, "/streamers/drain?streamer=nobody").await;
    assert_eq!(unknown.status, 404);
    for query in [
        "",
        "?streamer=",
        "?streamer=%",
        &format!("?streamer={id}&rate=0"),
        &format!("?streamer={id}&rate=x"),
        &format!("?streamer={id}&rate=100001"),
    ] {
        let path = format!("/streamers/drain{query}");
        let answer = http::post(admin, &path).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
    let wrong = http::get(admin, &format!("/streamers/undrain?streamer={id}")).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    for streamer in &deployment.streamers {
        assert_eq!(row(&deployment, streamer).await["admin"], "ready");
    }
}

/// The command line at a gateway in this process.
struct Operator {
    folder: TempDir,
    admin: String,
}

impl Operator {
    fn of(deployment: &Deployment) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = deployment.admin().to_string();
        let file = format!(
            "admin = \"{admin}\"\nlisten = \"127.0.0.1:0\"\nmonolith = \"http://127.0.0.1:1\"\n\
             streamers = [\"127.0.0.1:2\"]\n"
        );
        fs::write(folder.path().join("proxy.toml"), file).unwrap();
        Self { folder, admin }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("proxy.toml")
    }

    fn by_url(&self, arguments: &[&str]) -> Gateway {
        let url = format!("http://{}", self.admin);
        Gateway::with(&[arguments, &["--admin", &url]].concat())
    }

    fn by_file(&self, arguments: &[&str]) -> Gateway {
        let file = self.file().display().to_string();
        Gateway::with(&[arguments, &["--config", &file]].concat())
    }
}

/// What it said, and its exit code.
async fn outcome(mut command: Gateway) -> (Option<i32>, String) {
    let status = command.ended().await;
    (status.code(), command.output())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_do_it_and_show_how_it_goes() {
    let deployment = Deployment::start().await;
    let operator = Operator::of(&deployment);
    let ids = [0, 1].map(|n: usize| deployment.streamers[n].address().to_string());
    let (leaving, _staying) = split(&deployment, visitors(&deployment, 16).await).await;

    let (code, said) = outcome(operator.by_url(&["streamers"])).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("LOGINS WAITING"), "{said}");
    for id in &ids {
        let line = said.lines().find(|line| line.contains(id.as_str()));
        let words: Vec<_> = line.unwrap().split_whitespace().collect();
        assert_eq!(
            words[..6],
            ["default", id, id, "list", "ready", "up"],
            "{said}"
        );
        assert_eq!(words[7..], ["0"; 3], "{said}");
        assert!(words[6].starts_with("8/"), "{said}");
    }

    let leaving = ends(leaving, Instant::now());
    let drain = operator.by_file(&["drain", &ids[0], "--rate", "2/s", "--wait"]);
    let (code, said) = outcome(drain).await;
    assert_eq!(code, Some(0), "{said}");
    // A pipe gets plain lines, one a second: seven gaps of 0.5 s are two of them at least.
    assert!(!said.contains('\r') && !said.contains('\x1b'), "{said:?}");
    let progress = said.matches(" left, 2/s, about ").count();
    assert!(progress >= 2, "{said}");
    assert!(said.contains("8 closed, 0 left"), "{said}");
    assert!(
        said.ends_with(&format!("streamer {} is empty", ids[0])),
        "{said}"
    );
    for (end, _) in all(leaving).await {
        assert_eq!(end.code(), Some(1012));
    }

    // There is nothing left to wait for.
    let (code, said) = outcome(operator.by_url(&["drain", &ids[0], "--wait"])).await;
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = outcome(operator.by_file(&["streamers"])).await;
    assert!(said.contains("drain"), "{said}");
    let (code, said) = outcome(operator.by_file(&["undrain", &ids[0]])).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("in rotation, 0 sessions"), "{said}");
    assert_eq!(
        row(&deployment, &deployment.streamers[0]).await["admin"],
        "ready"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_say_what_went_wrong() {
    let deployment = Deployment::start().await;
    let operator = Operator::of(&deployment);
    let id = deployment.streamers[1].address().to_string();
    let _all = visitors(&deployment, 20).await;

    for command in [&["drain", "nobody", "--wait"][..], &["undrain", "nobody"]] {
        let (code, said) = outcome(operator.by_url(command)).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("there is no streamer nobody"), "{said}");
        assert!(said.contains(&id), "{said}");
    }

    // Somebody else takes the order back.
    let drain = operator.by_url(&["drain", &id, "--rate", "1/s", "--wait"]);
    eventually("the drain", async || {
        let row = row(&deployment, &deployment.streamers[1]).await;
        (row["drain"]["closed"].as_u64() >= Some(1)).then_some(())
    })
    .await;
    let (code, said) = outcome(operator.by_url(&["undrain", &id])).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = outcome(drain).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is not drained any more"), "{said}");

    // Nobody is there.
    drop(deployment);
    let admin = operator.admin.as_str();
    until("the admin listener to close", async || {
        TcpStream::connect(admin).await.is_err()
    })
    .await;
    for command in [
        &["drain", &id, "--wait"][..],
        &["undrain", &id],
        &["streamers"],
        &["rebalance", "--dry-run"],
        &["rebalance", "--wait"],
        &["rebalance", "--stop"],
    ] {
        let (code, said) = outcome(operator.by_file(command)).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no gateway answers"), "{said}");
    }
}

/// The clients of a streamer that dies are told over the time in which as many may log in.
#[tokio::test]
async fn the_clients_of_a_lost_streamer_are_told_at_the_pace_of_logins() {
    let deployment = Deployment::of(Plan {
        tables: "[logins]\nrate = \"10/s\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let (lost, mut others) = split(&deployment, visitors(&deployment, 60).await).await;
    assert_eq!(lost.len(), 30);
    let lost = ends(lost, Instant::now());
    deployment.streamers[0].stop().await;
    let ended = all(lost).await;
    for (end, _) in &ended {
        assert_eq!(end.code(), Some(1012), "{end:?}");
    }
    // Thirty moments within three seconds: that none is in the last two has a chance of 3^-27.
    let late = ended
        .iter()
        .filter(|(_, at)| *at > Duration::from_secs(1))
        .count();
    assert!(late > 0, "{ended:?}");
    for client in &mut others {
        assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    }
}
