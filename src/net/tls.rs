//! TLS of the listeners: certificates by name, replaced while handshakes go on.

use std::{
    collections::HashMap,
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
        StoresServerSessions,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use crate::{config::model::Certificate, telemetry::names};

/// The certificates of one listener.
///
/// Each handshake reads the set in use at its `ClientHello`; open connections keep what they have.
#[derive(Debug)]
pub struct CertStore {
    current: ArcSwap<Certificates>,
}

impl CertStore {
    /// Starts with what [`Certificates::load`] found.
    pub fn new(certificates: Certificates) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(certificates),
        })
    }

    pub fn current(&self) -> Arc<Certificates> {
        self.current.load_full()
    }

    /// Serves these from the next handshake on.
    pub fn install(&self, certificates: Certificates) {
        self.current.store(Arc::new(certificates));
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current
            .load()
            .choose(hello.server_name(), |served| {
                served
                    .key
                    .key
                    .choose_scheme(hello.signature_schemes())
                    .is_some()
            })
            .map(|served| served.key.clone())
    }
}

/// A checked set of certificates: each has its key, in the order of the configuration.
#[derive(Debug)]
pub struct Certificates {
    served: Vec<Arc<Served>>,
    /// Index into `served` by lower-case name; wildcards without their `*`, with the dot.
    names: HashMap<String, Vec<usize>>,
}

impl Certificates {
    /// Reads all files. A certificate that cannot be read, and that `old` serves, is taken over
    /// from there with its fault reported; one that nothing can stand in for fails the whole.
    pub fn load(
        wanted: &[Certificate],
        old: Option<&Self>,
    ) -> Result<(Self, Vec<CertificateError>), Vec<CertificateError>> {
        let mut served = Vec::with_capacity(wanted.len());
        let mut stood_in = Vec::new();
        let mut faults = Vec::new();
        for files in wanted {
            match Served::load(files) {
                Ok(fresh) => served.push(Arc::new(fresh)),
                Err(fault) => match old.and_then(|old| old.by_files(files)) {
                    Some(kept) => {
                        served.push(kept.clone());
                        stood_in.push(fault);
                    }
                    None => faults.push(fault),
                },
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut names: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, one) in served.iter().enumerate() {
            for name in &one.names {
                names.entry(name.clone()).or_default().push(index);
            }
        }
        Ok((Self { served, names }, stood_in))
    }

    /// What is served, in the order of the configuration.
    pub fn served(&self) -> impl Iterator<Item = &Served> {
        self.served.iter().map(AsRef::as_ref)
    }

    fn by_files(&self, files: &Certificate) -> Option<&Arc<Served>> {
        self.served.iter().find(|served| served.files == *files)
    }

    /// By exact name, then by wildcard, then the first one; among equals the first that suits.
    fn choose(&self, name: Option<&str>, suits: impl Fn(&Served) -> bool) -> Option<&Served> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_deref().and_then(|name| self.names.get(name));
        let wildcard = name
            .as_deref()
            .and_then(|name| name.find('.').map(|dot| &name[dot..]))
            .and_then(|parent| self.names.get(parent));
        let by_name = [exact, wildcard].into_iter().flatten().flatten();
        by_name
            .map(|index| self.served[*index].as_ref())
            .chain(self.served())
            .find(|served| suits(served))
    }
}

/// One certificate with its key, as read from its files.
#[derive(Debug)]
pub struct Served {
    files: Certificate,
    key: Arc<CertifiedKey>,
    /// As in [`Certificates::names`].
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

impl Served {
    fn load(files: &Certificate) -> Result<Self, CertificateError> {
        let fault = |path: &Path, reason| CertificateError {
            path: path.to_owned(),
            reason,
        };
        let in_cert = |reason| fault(&files.cert, reason);
        let in_key = |reason| fault(&files.key, reason);
        let chain = read(&files.cert).map_err(in_cert)?;
        let chain = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| in_cert(Reason::NotPem))?;
        let Some(leaf) = chain.first() else {
            return Err(in_cert(Reason::NoCertificate));
        };
        let (names, not_before, not_after) = facts(leaf).ok_or_else(|| in_cert(Reason::NotX509))?;
        let key = read(&files.key).map_err(in_key)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| in_key(Reason::NoKey))?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => in_key(Reason::Mismatch),
                _ => in_key(Reason::UnusableKey),
            },
        )?;
        Ok(Self {
            files: files.clone(),
            key: Arc::new(key),
            names,
            not_before,
            not_after,
        })
    }

    /// The file that holds the certificate.
    pub fn path(&self) -> &Path {
        &self.files.cert
    }

    /// End of validity in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Names it is served for; a wildcard shows as `.example.com`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Why browsers would refuse it, at this time.
    pub fn complaint(&self, now: SystemTime) -> Option<&'static str> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_secs()).ok())?;
        if now > self.not_after {
            Some("has expired")
        } else if now < self.not_before {
            Some("is not valid yet")
        } else if self.not_after - now < EXPIRY_WARNING_SECONDS {
            Some("expires within three days")
        } else {
            None
        }
    }

    /// Publishes the end of validity.
    pub fn record_expiry(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a date fits into 52 bits")]
        names::CERTIFICATE_EXPIRY
            .gauge(&[&self.files.cert.to_string_lossy()])
            .set(self.not_after as f64);
    }
}

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct CertificateError {
    pub path: PathBuf,
    pub reason: Reason,
}

#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("is larger than {MAX_FILE} bytes: that is no certificate")]
    TooLarge,
    #[error("holds broken PEM")]
    NotPem,
    #[error("holds no `BEGIN CERTIFICATE` block")]
    NoCertificate,
    #[error("does not begin with an X.509 certificate")]
    NotX509,
    #[error("holds no private key (`BEGIN PRIVATE KEY`, `BEGIN EC PRIVATE KEY`, ...)")]
    NoKey,
    #[error("holds a kind of private key that cannot be used: RSA, ECDSA or Ed25519 is needed")]
    UnusableKey,
    #[error("is not the key of the certificate")]
    Mismatch,
}

fn read(path: &Path) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(Reason::Unreadable)?;
    if read as u64 > MAX_FILE {
        return Err(Reason::TooLarge);
    }
    Ok(bytes)
}

/// Names and validity of a certificate.
fn facts(leaf: &[u8]) -> Option<(Vec<String>, i64, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let mut names = alternative_names(&parsed);
    if names.is_empty() {
        // Old private authorities put the name only here.
        names = parsed
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .filter_map(pattern)
            .collect();
    }
    let validity = parsed.validity();
    Some((
        names,
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

fn alternative_names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => pattern(name),
            _ => None,
        })
        .collect()
}

/// `*.example.com` as `.example.com`; a name with a `*` elsewhere matches nothing.
fn pattern(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let rest = name.strip_prefix('*').unwrap_or(&name);
    (!rest.is_empty() && !rest.contains('*')).then(|| rest.to_owned())
}

/// What all TLS listeners of the process share: algorithms, ticket keys, stored sessions.
pub struct Terms {
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Terms {
    /// Fails only when the system has no randomness.
    pub fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            ticketer: aws_lc_rs::Ticketer::new()?,
            sessions: ServerSessionMemoryCache::new(STORED_SESSIONS),
        })
    }

    /// TLS 1.2 and 1.3 with the certificates of `store`; `http2` is offered by ALPN before
    /// HTTP/1.1.
    pub fn server(&self, store: Arc<CertStore>, http2: bool) -> Arc<ServerConfig> {
        let mut server = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider's cipher suites cover TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(store);
        server.alpn_protocols = match http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        server.ticketer = self.ticketer.clone();
        server.session_storage = self.sessions.clone();
        // Each ticket is work and bytes at every handshake; browsers use one.
        server.send_tls13_tickets = 1;
        // A request in early data can be replayed by whoever recorded it.
        server.max_early_data_size = 0;
        Arc::new(server)
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").finish_non_exhaustive()
    }
}

/// For TLS 1.2 clients without tickets; all others carry their session themselves.
const STORED_SESSIONS: usize = 1024;

const MAX_FILE: u64 = 1024 * 1024;

const EXPIRY_WARNING_SECONDS: i64 = 3 * 24 * 3600;

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        time::{Duration, SystemTime},
    };

    use rcgen::{CertificateParams, KeyPair};

    use super::{Certificates, Reason};
    use crate::config::model::Certificate;

    fn files(folder: &Path, name: &str) -> Certificate {
        Certificate {
            cert: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        }
    }

    fn write(folder: &Path, name: &str, hosts: &[&str]) -> Certificate {
        let files = files(folder, name);
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let certificate = CertificateParams::new(hosts)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        fs::write(&files.cert, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn chosen(certificates: &Certificates, name: Option<&str>) -> PathBuf {
        certificates
            .choose(name, |_| true)
            .unwrap()
            .path()
            .to_owned()
    }

    #[test]
    fn chooses_by_name_then_wildcard_then_first() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = [
            write(folder.path(), "a", &["chat.example.com"]),
            write(folder.path(), "b", &["*.example.com"]),
            write(folder.path(), "c", &["other.test", "www.example.com"]),
        ];
        let (certificates, kept) = Certificates::load(&wanted, None).unwrap();
        assert!(kept.is_empty());
        for (name, expected) in [
            (Some("chat.example.com"), 0),
            (Some("CHAT.Example.com"), 0),
            (Some("files.example.com"), 1),
            (Some("www.example.com"), 2),
            (Some("other.test"), 2),
            (Some("a.b.example.com"), 0),
            (Some("example.com"), 0),
            (Some("nobody.test"), 0),
            (Some(""), 0),
            (Some("."), 0),
            (None, 0),
        ] {
            assert_eq!(
                chosen(&certificates, name),
                wanted[expected].cert,
                "{name:?}"
            );
        }
        assert!(certificates.choose(Some("other.test"), |_| false).is_none());
    }

    #[test]
    fn a_broken_one_keeps_the_old_and_says_which_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let one = write(folder.path(), "one", &["one.test"]);
        let two = write(folder.path(), "two", &["two.test"]);
        let wanted = [one.clone(), two.clone()];
        let (first, _) = Certificates::load(&wanted, None).unwrap();
        let good_key = fs::read(&one.key).unwrap();
        let good_cert = fs::read(&one.cert).unwrap();
        let other_key = fs::read(&two.key).unwrap();
        type Check = fn(&Reason) -> bool;
        let cases: [(&[u8], &[u8], Check); 5] = [
            (b"garbage", &good_key, |r| {
                matches!(r, Reason::NoCertificate)
            }),
            (
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &good_key,
                |r| matches!(r, Reason::NotX509),
            ),
            (b"-----BEGIN CERTIFICATE-----\n!!\n", &good_key, |r| {
                matches!(r, Reason::NotPem)
            }),
            (&good_cert, b"", |r| matches!(r, Reason::NoKey)),
            (&good_cert, &other_key, |r| matches!(r, Reason::Mismatch)),
        ];
        for (cert, key, expected) in cases {
            fs::write(&one.cert, cert).unwrap();
            fs::write(&one.key, key).unwrap();
            let (kept, faults) = Certificates::load(&wanted, Some(&first)).unwrap();
            assert_eq!(faults.len(), 1);
            assert!(expected(&faults[0].reason), "{}", faults[0]);
            assert!(faults[0].path == one.cert || faults[0].path == one.key);
            assert_eq!(chosen(&kept, Some("one.test")), one.cert);
            // Nothing to stand in for it at a start.
            assert_eq!(Certificates::load(&wanted, None).unwrap_err().len(), 1);
        }
        fs::remove_file(&one.key).unwrap();
        fs::write(&one.cert, &good_cert).unwrap();
        let (_, faults) = Certificates::load(&wanted, Some(&first)).unwrap();
        assert!(matches!(faults[0].reason, Reason::Unreadable(_)));
        assert_eq!(faults[0].path, one.key);
    }

    #[test]
    fn tells_the_end_of_validity() {
        let folder = tempfile::tempdir().unwrap();
        let one = write(folder.path(), "one", &["one.test"]);
        let (certificates, _) = Certificates::load(&[one], None).unwrap();
        let served = certificates.served().next().unwrap();
        let end = SystemTime::UNIX_EPOCH
            + Duration::from_secs(u64::try_from(served.not_after()).unwrap());
        assert_eq!(served.complaint(SystemTime::now()), None);
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(
            served.complaint(end - day),
            Some("expires within three days")
        );
        assert_eq!(served.complaint(end + day), Some("has expired"));
        assert_eq!(served.names(), ["one.test"]);
    }
}
