//! DDP servers on npm `sockjs` and `ws`.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use crate::{folder, node};

/// A running server; gone when dropped.
pub(crate) struct Backend {
    pub(crate) port: u16,
    _child: Child,
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
            _child: child,
        }
    }
}
