//! A gateway of the demo's own, with a certificate that it makes itself.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    admin,
    config::{self, Environment},
    control::app::{App, Options, Origin, Reading, StartError},
    telemetry::log::Log,
};

/// Where the gateway listens; port 0 takes a free one.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub admin: SocketAddr,
}

impl Addresses {
    /// Free ports of the loopback interface.
    pub fn free() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            https: any,
            http: any,
            admin: any,
        }
    }
}

/// Why the gateway cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("cannot write {path}: {source}", path = .path.display())]
    Files { path: PathBuf, source: io::Error },
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the configuration has faults:\n{0}")]
    Config(String),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running gateway whose configuration and certificate are files, so that they can be changed
/// and reloaded like real ones.
#[derive(Debug)]
pub struct Front {
    app: App,
    files: Directory,
    https: SocketAddr,
    http: SocketAddr,
}

impl Front {
    /// Starts a gateway in front of `upstreams`, the part of a `proxy.toml` that names the
    /// monolith and the streamers. `tables` is what else the file is to say.
    pub async fn start(
        upstreams: &str,
        tables: &str,
        addresses: Addresses,
        log: Option<Log>,
    ) -> Result<Self, FrontError> {
        let files = Directory::new()?;
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names)?;
        files.write("tls.crt", &made.cert.pem())?;
        files.write("tls.key", &made.signing_key.serialize_pem())?;
        let Addresses { https, http, admin } = addresses;
        let path = files.write(
            "proxy.toml",
            &format!(
                "admin = \"{admin}\"\n{upstreams}\n\
                 [[listener]]\naddress = \"{https}\"\n\
                 tls = [{{ cert = \"tls.crt\", key = \"tls.key\" }}]\n\n\
                 [[listener]]\naddress = \"{http}\"\n\n{tables}"
            ),
        )?;
        let environment = Environment::empty();
        let loaded = config::load(&path, &environment).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(|fault| fault.render(false)).collect();
            FrontError::Config(faults.join("\n"))
        })?;
        let reading = Reading {
            effective: loaded.effective(),
            files: loaded.files,
        };
        let options = Options {
            origin: Origin::File { path, environment },
            reading,
            log,
            admin: Some(|control, bound, stop| Box::pin(admin::serve(control, bound, stop))),
            ..Options::default()
        };
        let app = Box::pin(App::start(loaded.config, options)).await?;
        let bound = app.addresses();
        let [https, http] = [bound[0].0, bound[1].0];
        Ok(Self {
            app,
            files,
            https,
            http,
        })
    }

    pub fn app(&self) -> &App {
        &self.app
    }

    pub fn https(&self) -> SocketAddr {
        self.https
    }

    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its own `proxy.toml`; a change is noticed.
    pub fn config(&self) -> PathBuf {
        self.files.0.join("proxy.toml")
    }

    /// The certificate as PEM, for clients that are to trust it.
    pub fn certificate(&self) -> PathBuf {
        self.files.0.join("tls.crt")
    }
}

/// A directory that only this user can read, gone with its owner.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, FrontError> {
        let name = format!("ddp-gateway-demo-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| FrontError::Files {
                path: path.clone(),
                source,
            })?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, FrontError> {
        let path = self.0.join(name);
        match write_private(&path, text) {
            Ok(()) => Ok(path),
            Err(source) => Err(FrontError::Files { path, source }),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's temporary directory and is harmless.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}
