//! A simulated ddp-streamer: what Rocket.Chat's own does on the wire, its quirks included.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::timeout;

use super::{door::Door, endpoint::Endpoint, logins::LoginCounters, workspace::Workspace};

/// Wait for sockets that were cut to be gone.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How a streamer is to be started.
#[derive(Clone, Debug)]
pub struct StreamerOptions {
    /// What `demo:whoami` answers.
    pub name: String,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Streamers with the same workspace share users, rooms and events.
    pub workspace: Workspace,
    /// Silence after which a client is pinged, and after as much again closed with 4000.
    pub idle: Duration,
    /// Time that events need to get to this streamer.
    pub lag: Duration,
}

impl Default for StreamerOptions {
    /// A free port on the loopback interface and a workspace of its own.
    fn default() -> Self {
        Self {
            name: "streamer".to_owned(),
            address: ([127, 0, 0, 1], 0).into(),
            workspace: Workspace::default(),
            idle: Duration::from_secs(30),
            lag: Duration::ZERO,
        }
    }
}

impl StreamerOptions {
    /// A streamer of this name that belongs to `workspace`.
    pub fn new(name: impl Into<String>, workspace: &Workspace) -> Self {
        Self {
            name: name.into(),
            workspace: workspace.clone(),
            ..Self::default()
        }
    }
}

/// How a streamer behaves; see [`Streamer::set_mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As it should.
    Normal,
    /// Like a stopped process: connections are accepted by the kernel, nothing is ever answered,
    /// open sockets are silent and not read.
    Hang,
    /// Nobody listens; open sockets live on.
    Refuse,
    /// `/health` is ok and upgrades are accepted, but no socket says or hears anything.
    HalfDead,
    /// Every HTTP answer, and every method and sub, takes this much longer.
    Slow(Duration),
}

/// What an upgrade request looked like when it arrived.
#[derive(Clone, Debug)]
pub struct Upgrade {
    pub target: String,
    pub headers: HeaderMap,
}

/// What a streamer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sockets open now.
    pub sockets: usize,
    /// Most that were open at the same time; those of health probes do not count.
    pub most_sessions: usize,
    /// Sockets ever opened.
    pub sockets_total: u64,
    /// Open sockets with a user.
    pub logged_in: usize,
    /// Publications running now, leaked ones included.
    pub publications: usize,
    /// Text messages from clients.
    pub messages_in: u64,
    /// Messages to clients.
    pub messages_out: u64,
    /// HTTP requests that were not upgrades.
    pub requests: u64,
    /// Logins of its sockets.
    pub logins: LoginCounters,
}

/// A running (or stopped) simulated streamer. Dropping it cuts its sockets.
#[derive(Debug)]
pub struct Streamer {
    door: Door,
    endpoint: Arc<Endpoint>,
}

impl Streamer {
    /// Binds the port and serves until dropped.
    pub async fn start(options: StreamerOptions) -> io::Result<Self> {
        let streamer = Self {
            door: Door::bind(options.address)?,
            endpoint: Endpoint::new(options),
        };
        streamer.start_again().await?;
        Ok(streamer)
    }

    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    pub fn name(&self) -> &str {
        self.endpoint.name()
    }

    pub fn workspace(&self) -> &Workspace {
        self.endpoint.workspace()
    }

    /// Closes the listener and cuts every connection without a close frame, as the real one does
    /// on SIGTERM. From then on connections are refused.
    pub async fn stop(&self) {
        self.door.close().await;
        self.door.cut();
        let _ = timeout(STOP_LIMIT, self.endpoint.emptied()).await;
    }

    /// Listens again on the same port, in [`Mode::Normal`].
    pub async fn start_again(&self) -> io::Result<()> {
        self.set_mode(Mode::Normal).await
    }

    /// Whether the port is open.
    pub fn is_listening(&self) -> bool {
        self.door.is_open()
    }

    /// Changes the behaviour; open sockets follow. When this returns, connections are refused or
    /// accepted as the mode says.
    pub async fn set_mode(&self, mode: Mode) -> io::Result<()> {
        self.endpoint.set_mode(mode);
        if mode == Mode::Refuse {
            self.door.close().await;
            return Ok(());
        }
        let endpoint = self.endpoint.clone();
        self.door
            .open(|listener, connections| endpoint.accept(listener, connections))
            .await
    }

    /// Cuts every socket of a user, as a forced logout does.
    pub fn terminate_user(&self, user: &str) {
        self.endpoint.terminate_user(user);
    }

    /// Names of a user's sessions.
    pub fn sessions_of(&self, user: &str) -> Vec<String> {
        self.endpoint.sessions_of(user)
    }

    /// Sockets open now.
    pub fn sessions(&self) -> usize {
        self.endpoint.sessions()
    }

    pub fn counters(&self) -> Counters {
        self.endpoint.counters()
    }

    /// The latest upgrade requests as they arrived, oldest first; at most 256.
    pub fn upgrades(&self) -> Vec<Upgrade> {
        self.endpoint.upgrades()
    }
}

impl Drop for Streamer {
    fn drop(&mut self) {
        self.endpoint.leave_bus();
    }
}
