//! The gateway as a process of its own, for what a process does: signals, exit codes, output.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, eventually, until};

/// A running binary; killed when dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Gateway {
    /// `ddp-gateway run --config <file>`.
    pub fn run(config: &Path) -> Self {
        Self::with(&["run", "--config", &config.display().to_string()])
    }

    /// The same with at most this many files open.
    pub fn run_with_descriptors(config: &Path, descriptors: u32) -> Self {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!(
                "ulimit -n {descriptors} && exec \"$0\" run --config \"$1\""
            ))
            .arg(env!("CARGO_BIN_EXE_ddp-gateway"))
            .arg(config);
        Self::spawn(shell)
    }

    /// With these arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-gateway"));
        command.args(arguments);
        Self::spawn(command)
    }

    /// Started by another program.
    pub fn of(command: Command) -> Self {
        Self::spawn(command)
    }

    /// Output and errors are read line by line.
    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        let errors = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = errors.send(line);
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line with this text; lines before it are remembered in [`Self::output`].
    pub fn line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {text:?} in:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// The address in the next line with this text: what follows it, up to a character that cannot
    /// belong to an address.
    pub fn address(&mut self, text: &str) -> SocketAddr {
        let line = self.line(text);
        let rest = &line[line.find(text).unwrap() + text.len()..];
        let end = rest
            .find(|c: char| !c.is_ascii_hexdigit() && !".:[]".contains(c))
            .unwrap_or(rest.len());
        rest[..end]
            .parse()
            .unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The address that it names behind this text, before or after other things.
    pub async fn said(&mut self, text: &str) -> SocketAddr {
        eventually(text, async || {
            let output = self.output();
            let (_, rest) = output.split_once(text)?;
            rest.split([' ', '/', '\n']).next()?.parse().ok()
        })
        .await
    }

    /// Everything it has printed so far.
    pub fn output(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.unwrap()
    }

    /// Time of processors that it has used.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Fields 14 and 15 are its own and the system's, in hundredths of a second
        // (`man 5 proc_pid_stat`); the name in brackets may have anything in it.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let fields = rest.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        until("the process to end", async || !self.is_running()).await;
        let status = self.child.wait().unwrap();
        // The threads that read see the end of the pipes.
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        status
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
