//! The message bus on which streamers are found.

use std::{fs, time::Duration};

use super::{
    build::{Builder, reason},
    diagnostic::{Diagnostic, Place},
    file::NatsFile,
    model::{Broker, Certificate, Nats, NatsLogin, Ranges},
    table::{Maybe, Setting},
    value::{
        bus::{BrokerKind, UrlLogin},
        text::FilePath,
    },
};
use crate::base::secret::Secret;

/// A way to log in, and where it is written.
struct Way<'a> {
    place: &'a Place,
    login: NatsLogin,
}

impl Builder<'_> {
    pub(super) fn nats(&mut self, file: &NatsFile) -> Option<Nats> {
        if matches!(file.port, Maybe::Missing) {
            self.faults.push(
                Diagnostic::error(&file.place, "`port` of discovery.nats is missing")
                    .label("nothing on the bus says on which port streamers listen")
                    .absence()
                    .help("add: port = 3000"),
            );
        }
        self.at_least(&file.heartbeat_timeout, Duration::from_secs(1));
        let login = self.nats_login(file);
        let certificate = self.nats_certificate(file);
        let ca = file.ca.as_ref();
        let ca = ca.map(|ca| self.named_file(ca, &ca.value.0));
        let broker = match file.broker.value {
            BrokerKind::Moleculer => Broker::Moleculer {
                namespace: file.namespace.value.0.clone(),
            },
            BrokerKind::Nats => Broker::Micro,
        };
        if broker == Broker::Micro && !file.namespace.value.0.is_empty() {
            self.faults.push(
                Diagnostic::error(
                    &file.namespace.place,
                    "`namespace` has no meaning with broker = \"nats\"",
                )
                .label("Moleculer's")
                .related(&file.broker.place, "set here"),
            );
        }
        let mut servers = Vec::new();
        for url in &file.url.0.as_ref()?.value.0.all {
            for server in &url.value.servers {
                if !servers.contains(server) {
                    servers.push(server.clone());
                }
            }
        }
        if servers.is_empty() {
            let url = file.url.0.as_ref()?;
            if url.value.0.is_empty() {
                self.faults
                    .push(Diagnostic::error(&url.place, "the bus has no servers").label("empty"));
            }
            return None;
        }
        let networks = file.networks.value.0.all.iter();
        Some(Nats {
            servers,
            login,
            ca,
            certificate,
            broker,
            port: u16::try_from(file.port.given()?.value.0).unwrap_or(u16::MAX),
            networks: Ranges(networks.map(|network| network.value).collect()),
            heartbeat_timeout: file.heartbeat_timeout.value,
        })
    }

    /// With `broker = "nats"` a bus tells no addresses.
    pub(super) fn nats_alone(&mut self, file: Option<&NatsFile>, others: bool) {
        if let Some(file) = file
            && file.broker.value == BrokerKind::Nats
            && !others
        {
            self.faults.push(
                Diagnostic::error(
                    &file.broker.place,
                    "the pool has no source that knows addresses",
                )
                .label("this broker tells hosts only")
                .absence()
                .help("add `streamers` or another table of [discovery]"),
            );
        }
    }

    fn nats_certificate(&mut self, file: &NatsFile) -> Option<Certificate> {
        match (&file.cert, &file.key) {
            (Some(cert), Some(key)) => Some(Certificate {
                cert: self.named_file(cert, &cert.value.0),
                key: self.named_file(key, &key.value.0),
            }),
            (Some(alone), None) | (None, Some(alone)) => {
                self.faults.push(
                    Diagnostic::error(&alone.place, "`cert` and `key` belong together")
                        .label("the other one is missing")
                        .absence(),
                );
                None
            }
            (None, None) => None,
        }
    }

    fn nats_login(&mut self, file: &NatsFile) -> NatsLogin {
        let mut ways: Vec<Way<'_>> = Vec::new();
        let urls = file.url.0.iter().flat_map(|urls| &urls.value.0.all);
        for url in urls {
            let login = match &url.value.login {
                UrlLogin::Nobody => continue,
                UrlLogin::User(user, password) => NatsLogin::User {
                    user: user.clone(),
                    password: password.clone(),
                },
                UrlLogin::Token(token) => NatsLogin::Token(token.clone()),
            };
            if ways.iter().all(|way| way.login != login) {
                ways.push(Way {
                    place: &url.place,
                    login,
                });
            }
        }
        let mut read = |file: &Option<Setting<FilePath>>| {
            file.as_ref().and_then(|file| self.nats_secret(file))
        };
        let (password, token) = (read(&file.password_file), read(&file.token_file));
        let (key, credentials) = (read(&file.nkey_file), read(&file.credentials_file));
        match (&file.user, &file.password_file) {
            (Some(user), Some(_)) => ways.extend(password.map(|password| Way {
                place: &user.place,
                login: NatsLogin::User {
                    user: user.value.0.clone(),
                    password,
                },
            })),
            (Some(alone), None) => self.alone(&alone.place, "`password_file` is missing"),
            (None, Some(alone)) => self.alone(&alone.place, "`user` is missing"),
            (None, None) => {}
        }
        let way = |file: &'_ Option<Setting<FilePath>>, login: Option<NatsLogin>| {
            let place = file.as_ref().map(|file| file.place.clone());
            place.zip(login)
        };
        let from_files = [
            way(&file.token_file, token.map(NatsLogin::Token)),
            way(&file.nkey_file, key.map(NatsLogin::Key)),
            way(
                &file.credentials_file,
                credentials.map(NatsLogin::Credentials),
            ),
        ];
        let from_files: Vec<_> = from_files.into_iter().flatten().collect();
        ways.extend(from_files.iter().map(|(place, login)| Way {
            place,
            login: login.clone(),
        }));
        if let [first, second, ..] = ways.as_slice() {
            let fault = Diagnostic::error(second.place, "two ways to log in to the bus")
                .label(second.login.kind())
                .related(first.place, format!("and {} here", first.login.kind()));
            self.faults.push(fault.help("keep one of them"));
        }
        let first = ways.into_iter().next();
        first.map_or(NatsLogin::Nobody, |way| way.login)
    }

    fn alone(&mut self, place: &Place, missing: &str) {
        self.faults.push(
            Diagnostic::error(place, "`user` and `password_file` belong together")
                .label(missing)
                .absence(),
        );
    }

    /// What stands in the file, without the newline that editors put at the end.
    fn nats_secret(&mut self, file: &Setting<FilePath>) -> Option<Secret<String>> {
        let path = self.named_file(file, &file.value.0);
        let fault = match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => "it is empty".to_owned(),
            Ok(text) => return Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => reason(&error),
        };
        self.faults.push(
            Diagnostic::error(&file.place, format!("`{}` cannot be used", file.path))
                .label(format!("{}: {fault}", path.display())),
        );
        None
    }
}
