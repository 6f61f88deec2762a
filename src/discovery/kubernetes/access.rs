//! Where the API server is, and how the gateway proves there who it is.
//!
//! Everything is read again for each request: Kubernetes replaces the token within the hour, and
//! the certificates of the cluster now and then.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderValue, header};
use tokio::{fs::File, io::AsyncReadExt};

use super::trouble::Trouble;
use crate::{
    base::secret::Secret,
    config::model::{ApiServer, Kubernetes},
    net::https::Trust,
};

/// What one request needs.
pub(super) struct Access {
    pub(super) server: ApiServer,
    pub(super) trust: Option<Trust>,
    /// `None`: whoever is at `server` knows the gateway without it.
    token: Option<Secret<HeaderValue>>,
}

impl Access {
    /// # Errors
    /// When a file or a variable is missing that is needed.
    pub(super) async fn read(config: &Kubernetes) -> Result<Self, Trouble> {
        let server = match &config.server {
            Some(server) => server.clone(),
            None => of_the_pod(|name| env::var(name).ok())?,
        };
        if !server.tls {
            // As with `kubectl proxy` beside the gateway, which adds a token of its own. Ours must
            // not be sent for everybody to see.
            return Ok(Self {
                server,
                trust: None,
                token: None,
            });
        }
        let authority = |reason: String| Trouble::Authority {
            path: config.ca_file.clone(),
            reason,
        };
        let pem = read(&config.ca_file).await.map_err(authority)?;
        let trust = Trust::of_pem(&pem).map_err(|error| authority(error.to_string()))?;
        let token = |reason: String| Trouble::Token {
            path: config.token_file.clone(),
            reason,
        };
        let text = Secret::new(read(&config.token_file).await.map_err(token)?);
        let text = text.expose().trim_ascii();
        if text.is_empty() {
            return Err(token("it is empty".to_owned()));
        }
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", text].concat())
            .map_err(|_| token("it is not text".to_owned()))?;
        value.set_sensitive(true);
        Ok(Self {
            server,
            trust: Some(trust),
            token: Some(Secret::new(value)),
        })
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, token.expose().clone());
        }
        headers
    }
}

/// The namespace of the Service: as configured, or that of the pod, which stands beside its token.
pub(super) async fn namespace(config: &Kubernetes) -> Result<String, Trouble> {
    if let Some(namespace) = &config.namespace {
        return Ok(namespace.clone());
    }
    let path = config.token_file.with_file_name("namespace");
    let trouble = |reason: String| Trouble::NoNamespace {
        path: path.clone(),
        reason,
    };
    let text = read(&path).await.map_err(trouble)?;
    let text = String::from_utf8(text).unwrap_or_default();
    let text = text.trim();
    match is_label(text) {
        true => Ok(text.to_owned()),
        false => Err(trouble("it holds no name of a namespace".to_owned())),
    }
}

/// As Kubernetes tells every container.
fn of_the_pod(variable: impl Fn(&str) -> Option<String>) -> Result<ApiServer, Trouble> {
    let host = variable("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty());
    // The first of them is the one of HTTPS in every cluster; the second says that it is.
    let port = variable("KUBERNETES_SERVICE_PORT_HTTPS")
        .or_else(|| variable("KUBERNETES_SERVICE_PORT"))
        .and_then(|port| port.parse().ok());
    match (host, port) {
        (Some(host), Some(port)) => Ok(ApiServer {
            tls: true,
            host: host.trim_matches(['[', ']']).into(),
            port,
        }),
        _ => Err(Trouble::NotInCluster),
    }
}

/// RFC 1123, as names of namespaces are.
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_file(path.to_owned())
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
            _ => error.to_string(),
        })
}

async fn read_file(path: PathBuf) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).await?;
    let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes).await?;
    match read as u64 > MOST_BYTES {
        true => Err(io::Error::other("it is too large")),
        false => Ok(bytes),
    }
}

/// Of a token, or of a bundle of certificates.
const MOST_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{Trouble, of_the_pod};

    #[test]
    fn a_pod_is_told_where_the_api_server_is() {
        let of = |variables: &[(&str, &str)]| {
            of_the_pod(|name| {
                let mut variables = variables.iter();
                let found = variables.find(|(known, _)| *known == name)?;
                Some(found.1.to_owned())
            })
        };
        let host = ("KUBERNETES_SERVICE_HOST", "10.96.0.1");
        let six = ("KUBERNETES_SERVICE_HOST", "fd00::1");
        let port = ("KUBERNETES_SERVICE_PORT", "443");
        let server = of(&[host, port]).unwrap();
        assert_eq!(
            (server.tls, &*server.host, server.port),
            (true, "10.96.0.1", 443)
        );
        let server = of(&[six, port, ("KUBERNETES_SERVICE_PORT_HTTPS", "6443")]).unwrap();
        assert_eq!((&*server.host, server.port), ("fd00::1", 6443));
        let useless = [
            &[][..],
            &[host],
            &[port],
            &[("KUBERNETES_SERVICE_HOST", ""), port],
        ];
        for variables in useless {
            assert_eq!(of(variables).unwrap_err(), Trouble::NotInCluster);
        }
    }
}
