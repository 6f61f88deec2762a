//! A Service of Kubernetes behind which streamers are found.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    pub service: String,
    /// `None`: that of the pod.
    pub namespace: Option<String>,
    pub port: ServicePort,
    /// `None`: as the environment of the pod says.
    pub server: Option<ApiServer>,
    pub token_file: PathBuf,
    pub ca_file: PathBuf,
    /// For the API server to begin an answer.
    pub timeout: Duration,
    /// A watch is renewed after this.
    pub renew: Duration,
}

/// Where the endpoints of a Service listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePort {
    /// Of the pods, not of the Service.
    Number(u16),
    /// As the Service calls it.
    Name(String),
}

/// `https://host:port`, or `http://` for a proxy on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: Arc<str>,
    pub port: u16,
}

impl Kubernetes {
    /// For logs and metrics.
    pub fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.service),
            None => self.service.clone(),
        }
    }
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}
