//! The connection to the bus.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use async_nats::{
    Client, ClientError, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr,
    ServerError, connection::State,
};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    messages::{Messages, Shelf},
    meters::Meters,
};
use crate::config::model::{Bus, NatsLogin};

/// Why there is no connection, in words that say what to look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the NATS server refuses the gateway, which comes with {0}")]
    Refused(&'static str),
    #[error("{0} cannot be used: it has no valid seed of a key in it")]
    BadKey(&'static str),
    #[error("no address is known for the host of the NATS server")]
    NoSuchHost,
    #[error("nobody listens at the address of the NATS server")]
    NobodyListens,
    #[error("the NATS server does not answer (4222 is the usual port for clients)")]
    Silent,
    #[error("what answers is no NATS server, or it hangs up")]
    NotNats,
    #[error("no TLS with the NATS server: {0}")]
    Tls(String),
    #[error("the files for TLS cannot be used: {0}")]
    TlsFiles(String),
    #[error("the network fails on the way to the NATS server: {0}")]
    Network(io::ErrorKind),
    #[error("the connection to the NATS server was lost")]
    Lost,
    #[error("the NATS server does not let the gateway listen: {0}")]
    Forbidden(String),
}

impl LinkError {
    /// Whether it stays until the configuration is another one.
    pub fn is_of_configuration(&self) -> bool {
        match self {
            Self::Refused(_)
            | Self::BadKey(_)
            | Self::NoSuchHost
            | Self::NotNats
            | Self::Tls(_)
            | Self::TlsFiles(_)
            | Self::Forbidden(_) => true,
            Self::NobodyListens | Self::Silent | Self::Network(_) | Self::Lost => false,
        }
    }
}

/// A connection that restores itself while one of the known servers answers soon.
#[derive(Debug)]
pub struct Link {
    client: Client,
    shelf: Shelf,
    events: mpsc::Receiver<Turn>,
    /// The news that it is there, which is none, may still come.
    first: bool,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is there again; whatever was said meanwhile is lost.
    Restored,
    Lost,
    /// Messages came faster than they were read, and some were dropped.
    Overrun,
    /// The server is about to end and wants its clients to go.
    LameDuck,
    Forbidden(String),
    Ended,
}

impl Link {
    /// Tries each server once.
    ///
    /// # Errors
    /// Why none of them would do.
    pub async fn connect(bus: &Bus, meters: &Meters) -> Result<Self, LinkError> {
        let (told, events) = mpsc::channel(TURNS);
        let shelf = Shelf::new(meters, told.downgrade());
        let options = options(bus, meters, told)?;
        let mut servers = Vec::new();
        for server in &bus.servers {
            let address: ServerAddr = server
                .to_string()
                .parse()
                .map_err(|_| LinkError::NoSuchHost)?;
            servers.push(address);
        }
        // Each server has its own limit; this one is for names that the system looks up forever.
        let patience =
            LOOKUP_TIMEOUT + CONNECT_TIMEOUT * 2 * u32::try_from(servers.len()).unwrap_or(1);
        let connecting = Box::pin(options.connect(servers));
        let connected = tokio::time::timeout(patience, connecting)
            .await
            .map_err(|_| LinkError::Silent)
            .and_then(|connected| connected.map_err(|error| link_error(&error, bus)));
        let client = connected.inspect_err(|error| meters.refused_or_failed(error))?;
        Ok(Self {
            client,
            shelf,
            events,
            first: true,
        })
    }

    /// Hears what is said on a subject, from now on until the connection ends.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when it has ended.
    pub async fn subscribe(&self, subject: String) -> Result<Messages, LinkError> {
        let subscribed = self.client.subscribe(subject).await;
        let subscriber = subscribed.map_err(|_| LinkError::Lost)?;
        Ok(self.shelf.take_in(subscriber))
    }

    /// Asks everybody at once; the answers come on the inbox, which may be used again.
    pub async fn call(&self, subject: String, inbox: &str) {
        if !self.is_up() {
            return;
        }
        let asked = self
            .client
            .publish_with_reply(subject, inbox.to_owned(), "".into());
        let _ = tokio::time::timeout(SEND_TIMEOUT, asked).await;
    }

    /// A subject of its own, for answers.
    pub fn inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Sends without waiting for more than the queue of the connection. What cannot be sent now
    /// is dropped.
    pub async fn publish(&self, subject: String, payload: impl Into<Bytes>) {
        publish(&self.client, subject, payload.into()).await;
    }

    pub fn is_up(&self) -> bool {
        is_up(&self.client)
    }

    /// What happens next; [`Turn::Ended`] from when on the connection does not restore itself.
    pub async fn turn(&mut self) -> Turn {
        loop {
            let turn = self.events.recv().await.unwrap_or(Turn::Ended);
            let first = std::mem::take(&mut self.first);
            if !first || turn != Turn::Restored {
                return turn;
            }
        }
    }

    /// Goes to another server, if there is one.
    pub async fn leave_server(&self) {
        let servers = tokio::time::timeout(SEND_TIMEOUT, self.client.server_pool()).await;
        if matches!(servers, Ok(Ok(servers)) if servers.len() > 1) {
            let _ = self.client.force_reconnect().await;
        }
    }

    /// The version of the server, and the name that it goes by.
    pub fn server(&self) -> String {
        let info = self.client.server_info();
        let name = match info.server_name.is_empty() {
            true => info.server_id,
            false => info.server_name,
        };
        format!("{} (nats-server {})", short(&name), short(&info.version))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }
}

pub(super) fn is_up(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

pub(super) async fn publish(client: &Client, subject: String, payload: Bytes) {
    // What cannot be sent now would be of no use later.
    if is_up(client) {
        let published = client.publish(subject, payload);
        let _ = tokio::time::timeout(SEND_TIMEOUT, published).await;
    }
}

fn options(
    bus: &Bus,
    meters: &Meters,
    told: mpsc::Sender<Turn>,
) -> Result<ConnectOptions, LinkError> {
    let meters = Arc::new(meters.clone());
    let options = ConnectOptions::new()
        .name("ddp-gateway")
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(WAITING_MESSAGES)
        .client_capacity(WAITING_COMMANDS)
        // Twice each, then whoever holds the link begins anew. A client that nobody holds any more
        // would otherwise go on for good.
        .max_reconnects(bus.servers.len() * 2)
        .reconnect_delay_callback(|attempt| match attempt {
            0 | 1 => jitter(FIRST_DELAY),
            _ => jitter(LATER_DELAY),
        })
        .event_callback(move |event| {
            if let Some(turn) = meters.turn(event) {
                tell(&told, turn);
            }
            std::future::ready(())
        });
    let options = match &bus.login {
        NatsLogin::Nobody => options,
        NatsLogin::User { user, password } => {
            options.user_and_password(user.clone(), password.expose().clone())
        }
        NatsLogin::Token(token) => options.token(token.expose().clone()),
        NatsLogin::Key(seed) => options.nkey(seed.expose().clone()),
        // The reader insists on the newline at the end, which some editors leave out.
        NatsLogin::Credentials(text) => options
            .credentials(&format!("{}\n", text.expose()))
            .map_err(|_| LinkError::BadKey(bus.login.kind()))?,
    };
    let options = match &bus.ca {
        Some(ca) => options.add_root_certificates(ca.clone()),
        None => options,
    };
    Ok(match &bus.certificate {
        Some(own) => options.add_client_certificate(own.cert.clone(), own.key.clone()),
        None => options,
    })
}

/// A flood of one kind leaves room for the others.
pub(super) fn tell(told: &mpsc::Sender<Turn>, turn: Turn) {
    if turn != Turn::Overrun || told.capacity() > TURNS / 2 {
        let _ = told.try_send(turn);
    }
}

impl Meters {
    fn refused_or_failed(&self, error: &LinkError) {
        match error {
            LinkError::Refused(_) => self.refused.increment(1),
            _ => self.failed.increment(1),
        }
    }

    /// Counts what the client tells, and says what of it matters.
    fn turn(&self, event: Event) -> Option<Turn> {
        match event {
            Event::Connected => {
                self.connected.increment(1);
                Some(Turn::Restored)
            }
            Event::Disconnected => {
                self.disconnected.increment(1);
                Some(Turn::Lost)
            }
            Event::LameDuckMode => {
                self.lame_duck.increment(1);
                Some(Turn::LameDuck)
            }
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
                self.slow_consumer.increment(1);
                Some(Turn::Overrun)
            }
            Event::ServerError(ServerError::Other(text)) => {
                self.refused.increment(1);
                Some(Turn::Forbidden(short(&text)))
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.refused.increment(1);
                None
            }
            Event::ClientError(ClientError::MaxReconnects) | Event::Closed => Some(Turn::Ended),
            Event::ClientError(_) => {
                self.failed.increment(1);
                None
            }
            Event::Draining => None,
        }
    }
}

fn link_error(error: &ConnectError, bus: &Bus) -> LinkError {
    let inner = error.source();
    let io = inner.and_then(|inner| inner.downcast_ref::<io::Error>());
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => LinkError::Refused(bus.login.kind()),
        ConnectErrorKind::Authentication => LinkError::BadKey(bus.login.kind()),
        ConnectErrorKind::Dns | ConnectErrorKind::ServerParse => LinkError::NoSuchHost,
        ConnectErrorKind::TimedOut | ConnectErrorKind::MaxReconnects => LinkError::Silent,
        ConnectErrorKind::Tls => LinkError::TlsFiles(inner.map_or_else(
            || "they have no certificate in them".to_owned(),
            |inner| short(&inner.to_string()),
        )),
        ConnectErrorKind::Io => match io {
            Some(io) => io_error(io),
            None => LinkError::NotNats,
        },
    }
}

fn io_error(error: &io::Error) -> LinkError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(tls) = tls {
        return LinkError::Tls(short(&tls.to_string()));
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => LinkError::NobodyListens,
        io::ErrorKind::TimedOut => LinkError::Silent,
        io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Other
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => LinkError::NotNats,
        kind => LinkError::Network(kind),
    }
}

/// Somebody else's words, for a line of the log.
fn short(text: &str) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(LONGEST_TEXT).collect()
}

/// From half of this to all of it, so that gateways do not come all at once.
pub fn jitter(most: Duration) -> Duration {
    most.mul_f64(rand::random_range(0.5..=1.0))
}

/// For TCP, TLS, the server's greeting and its answer to ours.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is given up after three of these without a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(4);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LATER_DELAY: Duration = Duration::from_secs(1);
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Of one subscription, until they are on the shelf, which happens without waiting for anybody. A
/// monolith's INFO is 100 KB, and 200 nodes answer one DISCOVER at once.
pub(super) const WAITING_MESSAGES: usize = 256;
const WAITING_COMMANDS: usize = 256;
const TURNS: usize = 64;
const LONGEST_TEXT: usize = 200;
