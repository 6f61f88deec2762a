//! The preStop hook for Rocket.Chat's streamers, as it is shipped, under Node.js.

use std::{fs, path::Path, process::Stdio};

use ddp_gateway::demo::streamer::Streamer;
use serde_json::json;
use tokio::process::Command;

use crate::{
    ROOT,
    support::{
        deployment::{Deployment, Plan},
        settles,
        socket::{Client, End, Way},
        soon,
    },
};

/// The script that stands in the patch.
fn script() -> String {
    let patch = Path::new(ROOT).join("deploy/ddp-streamer-drain.yaml");
    let patch = fs::read_to_string(patch).unwrap();
    let (_, script) = patch.split_once("                  - |\n").unwrap();
    let lines = script.lines().map(|line| match line.is_empty() {
        true => "",
        false => line.strip_prefix("                    ").unwrap(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Runs it in the place of this streamer; its exit code and what it complained about.
async fn hook(deployment: &Deployment, streamer: &str) -> (Option<i32>, String) {
    let run = Command::new("node")
        .arg("-e")
        .arg(script())
        .env("STREAMER", streamer)
        .env("DDP_GATEWAY_ADMIN", deployment.admin().to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = soon("the hook", run).await.unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), complaints)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamers_prestop_hook_empties_it_before_it_ends() {
    let deployment = Deployment::of(Plan {
        tables: "[logins]\nrate = \"10/s\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::raw(deployment.plain(), Way::Plain).await);
    }
    let [first, second] = &deployment.streamers[..] else {
        panic!("two streamers")
    };
    let sessions = |streamer: &Streamer| streamer.sessions();
    assert_eq!((sessions(first), sessions(second)), (10, 10));
    // One of them cannot be moved.
    let at_first = {
        let mut at_first = None;
        for (n, client) in clients.iter_mut().enumerate() {
            if client.streamer().await == first.name() {
                at_first = Some(n);
            }
        }
        at_first.unwrap()
    };
    let mut visitor = clients.remove(at_first);
    visitor.call("livechat:setUpConnection", json!([])).await;
    let visitor = tokio::spawn(async move { visitor.end().await });
    let (code, complaints) = hook(&deployment, &first.address().to_string()).await;
    assert_eq!(code, Some(0), "{complaints}");
    // It has not come back before the last one has left.
    settles("sessions on it", 0, async || first.sessions()).await;
    assert_eq!((sessions(first), sessions(second)), (0, 19));
    for client in &mut clients {
        assert_eq!(client.streamer().await, second.name());
    }
    let end = soon("the end of a socket", visitor).await.unwrap();
    assert!(matches!(end, End::Closed(1012, _)), "{end:?}");

    let (code, complaints) = hook(&deployment, "10.0.0.1:3000").await;
    assert_eq!(code, Some(1));
    assert!(
        complaints.contains("there is no streamer 10.0.0.1:3000"),
        "{complaints}"
    );
}
