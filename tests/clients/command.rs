//! `ddp-gateway demo` as a newcomer runs it.

use std::{process::Stdio, time::Duration};

use ddp_gateway::config::{self, Environment};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    process::Command,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(30);

fn demo(https: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-gateway"));
    command
        .args(["demo", "--https", https])
        .args(["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn demo_says_what_to_open_and_ends_on_a_signal() {
    let mut child = demo("127.0.0.1:0").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut banner = String::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            banner.push_str(&line);
            banner.push('\n');
            if line.contains("Ctrl-C") {
                break;
            }
        }
    };
    timeout(LIMIT, read).await.expect("the banner comes");
    for part in [
        "https://127.0.0.1:",
        "http://127.0.0.1:",
        "streamer-3",
        "Unprotected",
    ] {
        assert!(banner.contains(part), "{part} is missing:\n{banner}");
    }
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = timeout(LIMIT, child.wait())
        .await
        .expect("it ends")
        .unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn demo_explains_a_taken_port() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut child = demo(&address).spawn().unwrap();
    let status = timeout(LIMIT, child.wait())
        .await
        .expect("it ends")
        .unwrap();
    assert!(!status.success());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .await
        .unwrap();
    assert!(
        said.contains(&address) && said.contains("--https"),
        "{said}"
    );
}

#[test]
fn configurations_in_the_readme_are_valid() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<&str> = readme
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect();
    assert_eq!(blocks.len(), 6);
    let secret = (
        "DDP_GATEWAY_SECRET",
        "known to all gateways and to nobody else",
    );
    let environment: Environment = [(secret.0.to_owned(), secret.1.to_owned())]
        .into_iter()
        .collect();
    for block in blocks {
        if let Err(faults) = config::from_str("README.md", block, &environment) {
            let faults: Vec<String> = faults.iter().map(|fault| fault.render(false)).collect();
            panic!("{block}\n{}", faults.join("\n"));
        }
    }
}
