//! DDP servers on npm `sockjs` and `ws`.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{folder, node, support::settles};

/// A running server; gone when dropped.
pub(crate) struct Backend {
    pub(crate) port: u16,
    child: Child,
}

impl Backend {
    pub(crate) async fn start(name: &str) -> Self {
        let mut child = node::command(&folder("clients").join("backend.mjs"))
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts: tests/run installs it");
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await.unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let port = said["port"].as_u64().and_then(|port| port.try_into().ok());
        Self {
            port: port.expect("it says its port first"),
            child,
        }
    }

    /// Sends a signal to the process, and waits until it is in effect.
    pub(crate) async fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs");
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
        let stopped = signal == Signal::STOP;
        settles("the process to obey", stopped, async || is_stopped(id)).await;
    }
}

/// State `T` in `/proc/<pid>/stat`, behind the name in brackets (`man 5 proc_pid_stat`).
fn is_stopped(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.starts_with('T')
}
