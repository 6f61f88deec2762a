//! Single GET requests to a server of the operator's own, over TLS or in plain text.
//!
//! Each request has a connection of its own, which ends with the answer: whoever asks here asks
//! once a minute.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1::Builder};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;

use super::dial;

/// Whose certificates are believed.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

/// A server to ask.
#[derive(Clone, Debug)]
pub struct Peer<'a> {
    /// A name, or an address without brackets.
    pub host: &'a str,
    pub port: u16,
    /// `None`: plain text.
    pub trust: Option<Trust>,
}

/// The head of an answer, and its body as it comes in.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    /// Aborted with the answer.
    connection: AbortHandle,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error("its name cannot be resolved")]
    Unresolved(#[source] io::Error),
    #[error("it cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("no TLS comes about: {0}")]
    Tls(#[source] io::Error),
    #[error("the connection ended before the answer")]
    Closed,
    #[error("the answer is not HTTP, or its head is too long")]
    NotHttp,
    #[error("the request cannot be written: {0}")]
    Request(#[source] http::Error),
}

/// A file that holds no certificate which can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("holds no certificate in PEM")]
pub struct NoCertificate;

impl Trust {
    /// Believes those who are signed by one of the certificates in `pem`, and nobody else.
    ///
    /// # Errors
    /// When there is none, or one of them cannot be read.
    pub fn of_pem(pem: &[u8]) -> Result<Self, NoCertificate> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| NoCertificate)?;
            roots.add(certificate).map_err(|_| NoCertificate)?;
        }
        if roots.is_empty() {
            return Err(NoCertificate);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider's cipher suites cover TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

/// Asks `peer` for `target`, which is path and query.
///
/// Has no deadline of its own: the caller bounds it, and what it reads of the body.
///
/// # Errors
/// See [`GetError`].
pub async fn get(peer: &Peer<'_>, target: &str, headers: HeaderMap) -> Result<Answer, GetError> {
    let stream = connect(peer).await?;
    let Some(Trust(config)) = &peer.trust else {
        return ask(stream, peer, target, headers).await;
    };
    let name = ServerName::try_from(peer.host.to_owned())
        .map_err(|error| GetError::Tls(io::Error::other(error)))?;
    let stream = TlsConnector::from(config.clone())
        .connect(name, stream)
        .await
        .map_err(GetError::Tls)?;
    ask(stream, peer, target, headers).await
}

async fn connect(peer: &Peer<'_>) -> Result<TcpStream, GetError> {
    let addresses = tokio::net::lookup_host((peer.host, peer.port))
        .await
        .map_err(GetError::Unresolved)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Without it, a peer that vanished is noticed a minute later.
                let _ = dial::configure(&stream);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(GetError::Unreachable(last))
}

async fn ask<S>(
    stream: S,
    peer: &Peer<'_>,
    target: &str,
    headers: HeaderMap,
) -> Result<Answer, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = match peer.host.contains(':') {
        true => format!("[{}]:{}", peer.host, peer.port),
        false => format!("{}:{}", peer.host, peer.port),
    };
    let mut request = Request::get(target)
        .header(header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(GetError::Request)?;
    request.headers_mut().extend(headers);
    let agent = HeaderValue::from_static(concat!("ddp-gateway/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    let (mut sender, connection) = Builder::new()
        .max_buf_size(BUFFER)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| GetError::Closed)?;
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    // Whoever gives up waiting ends the connection too.
    let guard = Abort(Some(task.abort_handle()));
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| match error.is_parse() {
            true => GetError::NotHttp,
            false => GetError::Closed,
        })?;
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
        connection: guard.into_inner(),
    })
}

impl Answer {
    /// The next bytes of the body; `None` at its end, and when the connection broke.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let frame = self.body.frame().await?.ok()?;
            // Trailers say nothing.
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
    }

    /// The whole body, if it is complete and has at most `most` bytes.
    pub async fn whole(mut self, most: usize) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.ok()?.into_data() {
                if body.len() + data.len() > most {
                    return None;
                }
                body.extend_from_slice(&data);
            }
        }
        Some(body)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Aborts a task, unless it is taken out.
struct Abort(Option<AbortHandle>);

impl Abort {
    fn into_inner(mut self) -> AbortHandle {
        self.0.take().expect("taken once, here, by value")
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Of what is read ahead, and of a head.
const BUFFER: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::{NoCertificate, Trust};

    #[test]
    fn only_certificates_can_be_trusted() {
        for pem in [
            &b""[..],
            b"garbage",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\n!!\n",
        ] {
            assert_eq!(Trust::of_pem(pem).err(), Some(NoCertificate));
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a.test".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let twice = certificate.pem().repeat(2);
        assert!(Trust::of_pem(twice.as_bytes()).is_ok());
    }
}
