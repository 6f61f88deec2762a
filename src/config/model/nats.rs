//! A message bus: how it is reached, and what is found there.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{Certificate, Ranges};
use crate::base::{id::ListenAddr, secret::Secret};

/// How a bus is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Never empty.
    pub servers: Vec<NatsServer>,
    pub login: NatsLogin,
    /// Trusted instead of the system's certificates.
    pub ca: Option<PathBuf>,
    /// Shown to servers that ask for one.
    pub certificate: Option<Certificate>,
}

/// A bus on which streamers are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nats {
    pub bus: Bus,
    pub broker: Broker,
    /// HTTP port of each streamer; nothing on the bus tells it.
    pub port: u16,
    /// Where streamers may be; empty: anywhere.
    pub networks: Ranges,
    /// A streamer that is not heard for this long has gone.
    pub heartbeat_timeout: Duration,
    /// Listen to what the services tell each other.
    pub events: bool,
}

/// What the services on the bus speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// Moleculer 0.14, Rocket.Chat's default. The namespace may be empty.
    Moleculer { namespace: String },
    /// Services of NATS itself (`BROKER=nats`).
    Micro,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NatsServer {
    /// A name, or an address without brackets.
    pub host: Arc<str>,
    pub port: u16,
    /// Insist on TLS. It is used in any case when the server asks for it.
    pub tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsLogin {
    Nobody,
    User {
        user: String,
        password: Secret<String>,
    },
    Token(Secret<String>),
    /// Seed of a key.
    Key(Secret<String>),
    /// Contents of a `.creds` file: a JWT and the seed of its key.
    Credentials(Secret<String>),
}

impl NatsLogin {
    /// How the gateway proves who it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nobody => "no credentials",
            Self::User { .. } => "user and password",
            Self::Token(_) => "the token",
            Self::Key(_) => "the nkey",
            Self::Credentials(_) => "the credentials file",
        }
    }
}

impl fmt::Display for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "tls" } else { "nats" };
        match self.host.parse() {
            Ok(IpAddr::V6(host)) => write!(f, "{scheme}://[{host}]:{}", self.port),
            _ => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl Bus {
    /// Its servers, without credentials.
    pub fn name(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        servers.join(",")
    }
}

/// How gateways act as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    pub bus: Bus,
    /// Every subject that they use begins with this and a dot.
    pub subject: String,
    /// Where others fetch sessions; `None`: nowhere.
    pub listen: Option<ListenAddr>,
    /// Where they reach that; `None`: the address by which this gateway reaches the bus.
    pub address: Option<ListenAddr>,
}

impl Replicas {
    /// The bus without credentials, told apart from one on which streamers are found.
    pub fn name(&self) -> String {
        format!("{} ({})", self.bus.name(), self.subject)
    }
}

impl Nats {
    /// Its servers, without credentials.
    pub fn name(&self) -> String {
        let servers = self.bus.name();
        match &self.broker {
            Broker::Moleculer { namespace } if !namespace.is_empty() => {
                format!("{servers} ({namespace})")
            }
            _ => servers,
        }
    }
}
