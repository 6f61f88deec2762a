//! Where the load goes, and from where.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use http::Uri;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use crate::users::{Target, Tls};

/// An origin as `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::str::FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no target: write it as https://chat.example.com:443");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(wrong)?.to_owned();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("{text:?} has a path; paths are for the scenario"));
        }
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { is_tls, host, port })
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Which servers are believed.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Whoever one of these certificates vouches for; those of the system without a file.
    Roots(Option<PathBuf>),
    Anybody,
}

/// How the target is reached.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) origin: Origin,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) trust: Trust,
    /// TLS sessions are resumed, where the server takes part.
    pub(crate) resume: bool,
    /// TLS 1.3 with X25519 and AES-128-GCM only, so that every server has the same to compute.
    pub(crate) one_suite: bool,
}

impl Reach {
    pub(crate) fn target(&self) -> Result<Target, String> {
        let Origin { is_tls, host, port } = &self.origin;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, *port).to_socket_addrs();
        let mut addresses: Vec<SocketAddr> = found
            .map_err(|error| format!("{host} has no address: {error}"))?
            .collect();
        if let Some(source) = self.sources.first() {
            addresses.retain(|address| address.is_ipv4() == source.is_ipv4());
        } else if let Some(first) = addresses.first().copied() {
            addresses.retain(|address| address.is_ipv4() == first.is_ipv4());
        }
        if addresses.is_empty() {
            return Err(format!(
                "{host} has no address of the same version of IP as --from"
            ));
        }
        let tls = match is_tls {
            true => Some(Arc::new(self.tls(bare)?)),
            false => None,
        };
        Ok(Target {
            addresses,
            sources: self.sources.clone(),
            host: format!("{host}:{port}"),
            tls,
        })
    }

    fn tls(&self, host: &str) -> Result<Tls, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} is no name that TLS knows"))?;
        let mut provider = aws_lc_rs::default_provider();
        let mut versions = rustls::DEFAULT_VERSIONS;
        if self.one_suite {
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
            provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
            versions = NEWEST;
        }
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let mut config = match &self.trust {
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TakeAny(provider)))
                .with_no_client_auth(),
            Trust::Roots(file) => builder
                .with_root_certificates(roots(file.as_deref())?)
                .with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = match self.resume {
            true => Resumption::in_memory_sessions(4096),
            false => Resumption::disabled(),
        };
        Ok(Tls::new(Arc::new(config), name))
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let file = match (file, env::var_os("SSL_CERT_FILE")) {
        (Some(file), _) => file.to_owned(),
        (None, Some(file)) => file.into(),
        (None, None) => SYSTEM_ROOTS.into(),
    };
    let shown = file.display();
    let text = fs::read(&file).map_err(|error| {
        format!(
            "no certificates to trust: {shown}: {error}. Name others with --ca, or take --insecure"
        )
    })?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
        // Some of the system's are too old for rustls; a target that needs them is not trusted.
        let _ = store.add(certificate);
    }
    if store.is_empty() {
        return Err(format!("{shown} has no certificate that can be trusted"));
    }
    Ok(store)
}

const NEWEST: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Source addresses: one, or the first and the last of a range of IPv4.
pub(crate) fn sources(text: &str) -> Result<Vec<IpAddr>, String> {
    let wrong = || format!("{text:?} is no address or range such as 127.0.0.1-127.0.0.8");
    let Some((first, last)) = text.split_once('-') else {
        return Ok(vec![text.parse().map_err(|_| wrong())?]);
    };
    let [first, last] = [first, last].map(|address| address.parse::<Ipv4Addr>());
    let (Ok(first), Ok(last)) = (first, last) else {
        return Err(wrong());
    };
    let (first, last) = (u32::from(first), u32::from(last));
    if last < first || last - first >= MOST_SOURCES {
        return Err(format!(
            "{text:?} has to go up, and over {MOST_SOURCES} addresses at most"
        ));
    }
    Ok((first..=last)
        .map(|address| Ipv4Addr::from(address).into())
        .collect())
}

const MOST_SOURCES: u32 = 4096;

/// Checks signatures, but not who signed the certificate.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_in_one_way() {
        let origin: Origin = "https://chat.example.com".parse().unwrap();
        assert_eq!(origin.to_string(), "https://chat.example.com:443");
        let origin: Origin = "http://[::1]:3000/".parse().unwrap();
        assert_eq!((origin.host.as_str(), origin.port), ("[::1]", 3000));
        for text in [
            "",
            "localhost:80",
            "ftp://x",
            "http://",
            "http://x/path",
            "http://x/?q",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_of_sources_are_counted_out() {
        assert_eq!(sources("127.0.0.1").unwrap().len(), 1);
        let range = sources("127.0.0.255-127.0.1.1").unwrap();
        assert_eq!(range[1], IpAddr::from([127, 0, 1, 0]));
        assert_eq!(range.len(), 3);
        for text in [
            "",
            "x",
            "127.0.0.2-127.0.0.1",
            "0.0.0.0-255.255.255.255",
            "::1-::2",
        ] {
            assert!(sources(text).is_err(), "{text}");
        }
    }
}
