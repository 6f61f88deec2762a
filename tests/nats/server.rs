//! A real `nats-server` on a port of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{PATIENCE, until};

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct NatsServer {
    child: Child,
    pub(crate) port: u16,
    /// Where other servers of its cluster find it.
    pub(crate) cluster_port: Option<u16>,
    configuration: String,
    folder: TempDir,
}

impl NatsServer {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With these lines in its configuration; `{folder}` in them is its folder.
    pub(crate) fn with(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration = configuration.replace("{folder}", &folder.path().display().to_string());
        let (child, Ports { clients, cluster }) = Self::spawn(&folder, &configuration, None);
        Self {
            child,
            port: clients,
            cluster_port: cluster,
            configuration,
            folder,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Without a goodbye.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Again on its port, after [`Self::kill`].
    pub(crate) fn start_again(&mut self) {
        (self.child, _) = Self::spawn(&self.folder, &self.configuration, Some(self.port));
    }

    /// Says that it will end, and lets its clients go one by one.
    pub(crate) fn lame_duck(&self) {
        self.signal(Signal::USR2);
    }

    /// Its kernel goes on to accept connections, and nobody answers.
    pub(crate) async fn hang(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.child.id());
        until("the server to be stopped", async || {
            // State `T`, behind the name in brackets (`man 5 proc_pid_stat`).
            let stat = fs::read_to_string(&stat).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
        .await;
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
    }

    fn spawn(folder: &TempDir, configuration: &str, port: Option<u16>) -> (Child, Ports) {
        let file = folder.path().join("nats.conf");
        fs::write(&file, configuration).unwrap();
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        // Debian has it where only root's shells look.
        let program = ["/usr/sbin/nats-server", "/usr/bin/nats-server"];
        let program = program
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false));
        let mut child = Command::new(program.unwrap_or("nats-server"))
            .arg("--config")
            .arg(&file)
            .args(["--addr", "127.0.0.1", "--port", &port])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("nats-server cannot be started ({error}): run tests/run")
            });
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, said) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut seen = Vec::new();
        let (mut clients, mut cluster) = (None, None);
        while let Ok(line) = said.recv_timeout(PATIENCE) {
            if let Some((_, found)) = line.split_once("client connections on 127.0.0.1:") {
                clients = found.trim().parse().ok();
            }
            if let Some((_, found)) = line.split_once("route connections on 127.0.0.1:") {
                cluster = found.trim().parse().ok();
            }
            let ready = seen
                .iter()
                .any(|line: &String| line.contains("Server is ready"));
            if (ready || line.contains("Server is ready"))
                && (cluster.is_some() || !configuration.contains("cluster"))
                && let Some(clients) = clients
            {
                return (child, Ports { clients, cluster });
            }
            seen.push(line);
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("nats-server does not start:\n{}", seen.join("\n"))
    }
}

struct Ports {
    clients: u16,
    cluster: Option<u16>,
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
