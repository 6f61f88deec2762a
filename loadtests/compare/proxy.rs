//! A proxy that runs.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{
    certificate::Certificate,
    peer::{Peer, Reload},
    setting::Setting,
    usage::Tree,
};

/// Ends with all its processes when it is dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) peer: Peer,
    pub(super) setting: Setting,
    program: PathBuf,
    child: Child,
}

impl Proxy {
    /// Returns when it serves.
    ///
    /// # Errors
    /// Why it does not, with the end of what it said.
    pub(super) fn start(
        peer: Peer,
        program: PathBuf,
        setting: Setting,
        certificate: &Certificate,
        threads: usize,
    ) -> Result<Self, String> {
        let name = peer.name();
        let wrong = |error: io::Error| format!("{name} cannot be started: {error}");
        setting.write(peer, certificate).map_err(wrong)?;
        let log = File::create(setting.folder.join("log")).map_err(wrong)?;
        let mut command = peer.command(&program, &setting.folder, threads);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(wrong)?)
            .stderr(log)
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| {
            let _ = fs::remove_dir_all(&setting.folder);
            wrong(error)
        })?;
        let mut proxy = Self {
            peer,
            setting,
            program,
            child,
        };
        let deadline = Instant::now() + START_LIMIT;
        while let Err(fault) = proxy.serves() {
            let ended = proxy.child.try_wait().map_err(wrong)?;
            if ended.is_some() || Instant::now() >= deadline {
                let said = proxy.last_words();
                return Err(format!("{name} does not serve: {fault}; it says: {said}"));
            }
            sleep(LOOK);
        }
        Ok(proxy)
    }

    /// Whether it reaches the monolith and a streamer.
    ///
    /// # Errors
    /// What it lacks.
    fn serves(&self) -> Result<(), String> {
        let http = self.setting.http;
        for (path, headers, expected) in [
            ("/health", "Connection: close", 200),
            ("/websocket", UPGRADE, 101),
        ] {
            match ask(http, "GET", path, headers) {
                Some(status) if status == expected => {}
                Some(status) => {
                    return Err(format!("GET {path}: {status}, {expected} is expected"));
                }
                None => return Err(format!("GET {path}: no answer")),
            }
        }
        match TcpStream::connect_timeout(&self.setting.https, ANSWER_LIMIT) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("TLS port: {error}")),
        }
    }

    pub(super) fn tree(&self) -> Tree {
        Tree(self.child.id())
    }

    /// Changes its files and makes it read them.
    ///
    /// # Errors
    /// Why it was not told.
    pub(super) fn reload(&mut self) -> Result<(), String> {
        let name = self.peer.name();
        let wrong = |error: io::Error| format!("{name} cannot be reloaded: {error}");
        self.setting.change(self.peer).map_err(wrong)?;
        let signal = |signal| match self.pid() {
            Some(pid) => kill_process(pid, signal).map_err(|error| wrong(error.into())),
            None => Ok(()),
        };
        match self.peer.reload(&self.program, &self.setting.folder) {
            Reload::Never => Err(format!("{name} reads its files only when it starts")),
            Reload::Watched => Ok(()),
            Reload::Hangup => signal(Signal::HUP),
            Reload::User2 => signal(Signal::USR2),
            Reload::Command(mut command) => {
                let output = command.output().map_err(wrong)?;
                match output.status.success() {
                    true => Ok(()),
                    false => Err(format!(
                        "{name} cannot be reloaded: {}",
                        String::from_utf8_lossy(&output.stderr).trim()
                    )),
                }
            }
        }
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(self.setting.folder.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.trim().lines().collect();
        let last = lines.get(lines.len().saturating_sub(5)..);
        last.unwrap_or_default().join(" | ")
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // Its group is its own; what does not end by itself is ended.
            let _ = kill_process_group(pid, Signal::TERM);
            let deadline = Instant::now() + STOP_LIMIT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                sleep(LOOK);
            }
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.setting.folder);
    }
}

/// The status of an answer.
pub(super) fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Option<u16> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let port = address.port();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n{headers}\r\n\r\n"
        )?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok::<_, io::Error>(answer)
    };
    let answer = ask().ok()?;
    let status = answer.strip_prefix(b"HTTP/1.1 ")?;
    str::from_utf8(status).ok()?.parse().ok()
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==";
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
