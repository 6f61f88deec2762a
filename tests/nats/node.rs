//! Nodes on the bus: Moleculer's, and services of NATS itself, under Node.js.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::support::soon;

/// How a node is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) url: String,
    pub(crate) namespace: &'static str,
    /// Name of its host, which in Kubernetes is the pod.
    pub(crate) host: String,
    /// Address of its host.
    pub(crate) address: String,
    pub(crate) service: &'static str,
    /// What the service listens for.
    pub(crate) events: &'static [&'static str],
    /// Another serialiser than EJSON.
    pub(crate) serializer: Option<&'static str>,
}

impl Plan {
    /// A streamer whose host has this address.
    pub(crate) fn streamer(url: &str, address: impl ToString) -> Self {
        let address = address.to_string();
        Self {
            url: url.to_owned(),
            namespace: "",
            host: format!("pod-{}", address.replace('.', "-")),
            address,
            service: "streamer",
            events: &["stream", "user.forceLogout", "meteor.clientVersionUpdated"],
            serializer: None,
        }
    }

    /// A node that is told of logins and sockets.
    pub(crate) fn monolith(url: &str) -> Self {
        Self {
            host: "rocketchat-1".to_owned(),
            service: "sau-monitor",
            events: &["accounts.login", "socket.connected"],
            ..Self::streamer(url, "127.0.0.9")
        }
    }
}

/// A process on the bus; killed when dropped.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Node {
    /// A Moleculer node whose service runs.
    pub(crate) async fn moleculer(plan: Plan) -> Self {
        Self::start("node.mjs", plan).await
    }

    /// A service of NATS itself.
    pub(crate) async fn micro(plan: Plan) -> Self {
        Self::start("micro.mjs", plan).await
    }

    async fn start(script: &str, plan: Plan) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nats");
        assert!(
            folder.join("node_modules/.package-lock.json").exists(),
            "the npm packages of the tests are not installed: run tests/run, or npm ci in tests/nats"
        );
        let arguments = json!({
            "url": plan.url, "namespace": plan.namespace, "host": plan.host,
            "address": plan.address, "service": plan.service, "events": plan.events,
            "serializer": plan.serializer,
        });
        let mut child = Command::new("node")
            .arg(folder.join(script))
            .arg(arguments.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts: tests/run installs it");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut node = Self {
            id: String::new(),
            orders: child.stdin.take().unwrap(),
            answers: stdout.lines(),
            child,
        };
        let ready = node.answer().await;
        node.id = ready["id"].as_str().unwrap().to_owned();
        node
    }

    /// Ends its service and then itself, as a process does that gets SIGTERM.
    pub(crate) async fn stop(&mut self) {
        self.order("stop").await;
    }

    /// Ends its service only.
    pub(crate) async fn close(&mut self) {
        self.order("close").await;
    }

    /// Without a goodbye.
    pub(crate) async fn crash(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Ids of the nodes that it sees, and its complaints.
    pub(crate) async fn look(&mut self) -> (Vec<String>, Vec<String>) {
        let seen = self.order("look").await;
        let texts = |value: &Value| {
            let all = value.as_array().unwrap().iter();
            all.map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        (texts(&seen["nodes"]), texts(&seen["complaints"]))
    }

    /// Tells all services on the bus.
    pub(crate) async fn broadcast(&mut self, event: &str, args: Value) {
        let said = json!({"event": event, "args": args});
        self.order(&format!("broadcast {said}")).await;
    }

    /// From now on its heartbeats say that its machine is so busy, in percent.
    pub(crate) async fn cpu(&mut self, percent: u8) {
        self.order(&format!("cpu {percent}")).await;
    }

    async fn order(&mut self, order: &str) -> Value {
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> Value {
        let line = soon("an answer of the node", self.answers.next_line()).await;
        let line = line.unwrap().expect("the node goes on to answer");
        serde_json::from_str(&line).unwrap()
    }
}
