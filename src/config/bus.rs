//! Message buses: the one on which streamers are found, and the one of the replicas.

use std::{fs, time::Duration};

use super::{
    build::{Builder, reason},
    diagnostic::{Diagnostic, Place},
    file::{NatsFile, ReplicasFile},
    model::{Broker, Bus, Certificate, Nats, NatsLogin, Ranges, Replicas},
    table::{Maybe, Setting},
    value::{
        bus::{BrokerKind, NatsUrl, UrlLogin, UserName},
        list::OneOrMany,
        text::FilePath,
    },
};
use crate::base::{id::ListenAddr, secret::Secret};

/// A way to log in, and where it is written.
struct Way<'a> {
    place: &'a Place,
    login: NatsLogin,
}

/// The keys that say how a bus is reached, which several tables have.
struct Access<'a> {
    url: Option<&'a Setting<OneOrMany<NatsUrl>>>,
    user: &'a Option<Setting<UserName>>,
    password_file: &'a Option<Setting<FilePath>>,
    token_file: &'a Option<Setting<FilePath>>,
    nkey_file: &'a Option<Setting<FilePath>>,
    credentials_file: &'a Option<Setting<FilePath>>,
    ca: &'a Option<Setting<FilePath>>,
    cert: &'a Option<Setting<FilePath>>,
    key: &'a Option<Setting<FilePath>>,
}

macro_rules! access {
    ($file:expr, $url:expr) => {
        Access {
            url: $url,
            user: &$file.user,
            password_file: &$file.password_file,
            token_file: &$file.token_file,
            nkey_file: &$file.nkey_file,
            credentials_file: &$file.credentials_file,
            ca: &$file.ca,
            cert: &$file.cert,
            key: &$file.key,
        }
    };
}

impl NatsFile {
    fn access(&self) -> Access<'_> {
        access!(self, self.url.0.as_ref())
    }
}

impl ReplicasFile {
    fn access(&self) -> Access<'_> {
        access!(self, self.url.as_ref())
    }

    /// The first key that means nothing without `url`.
    fn belongs_to_url(&self) -> Option<(&Place, &str)> {
        let user = self.user.iter().map(|user| (&user.place, &*user.path));
        let files = [
            &self.password_file,
            &self.token_file,
            &self.nkey_file,
            &self.credentials_file,
            &self.ca,
            &self.cert,
            &self.key,
        ];
        let files = files.into_iter().flatten();
        user.chain(files.map(|file| (&file.place, &*file.path)))
            .next()
    }
}

impl Builder<'_> {
    /// The bus of the replicas is that of `[discovery.nats]` unless there is another one.
    pub(super) fn replicas(&mut self) -> Option<Box<Replicas>> {
        let file = self.file;
        let replicas = &file.replicas;
        let bus = match (&replicas.url, replicas.belongs_to_url()) {
            (Some(url), _) => {
                if replicas.enabled.place.is_default() {
                    self.faults.push(
                        Diagnostic::warning(&url.place, "this gateway looks for no replicas")
                            .label("`enabled` is not set")
                            .help("add: enabled = true"),
                    );
                }
                self.bus(&replicas.access())
            }
            (None, Some((place, key))) => {
                self.faults.push(
                    Diagnostic::error(place, format!("`{key}` needs `replicas.url`"))
                        .label("for which bus?")
                        .help(
                            "add `url`, or remove this: without `url`, all of [discovery.nats] \
                             holds for the replicas as well",
                        ),
                );
                None
            }
            // Its faults are reported where it is read for the streamers.
            (None, None) => match &file.discovery.nats {
                Some(nats) => self.unreported(|builder| builder.bus(&nats.access())),
                None => {
                    if replicas.enabled.value {
                        let place = &replicas.enabled.place;
                        self.faults.push(
                            Diagnostic::error(place, "the replicas have no message bus")
                                .label("there is no [discovery.nats] whose bus could be used")
                                .absence()
                                .help("add: url = \"nats://nats:4222\""),
                        );
                    }
                    None
                }
            },
        };
        let subject = replicas.subject.value.0.clone();
        let address = |key: &Option<Setting<ListenAddr>>| key.as_ref().map(|key| key.value);
        let (listen, address) = (address(&replicas.listen), address(&replicas.address));
        let enabled = bus.filter(|_| replicas.enabled.value);
        enabled.map(|bus| {
            Box::new(Replicas {
                bus,
                subject,
                listen,
                address,
            })
        })
    }

    /// What was read elsewhere too.
    fn unreported<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let (faults, files) = (self.faults.len(), self.files.len());
        let read = read(self);
        self.faults.truncate(faults);
        self.files.truncate(files);
        read
    }

    fn bus(&mut self, access: &Access<'_>) -> Option<Bus> {
        let login = self.nats_login(access);
        let certificate = self.nats_certificate(access);
        let ca = access.ca.as_ref();
        let ca = ca.map(|ca| self.named_file(ca, &ca.value.0));
        let url = access.url?;
        let mut servers = Vec::new();
        for part in &url.value.0.all {
            for server in &part.value.servers {
                if !servers.contains(server) {
                    servers.push(server.clone());
                }
            }
        }
        if servers.is_empty() {
            if url.value.0.is_empty() {
                self.faults
                    .push(Diagnostic::error(&url.place, "the bus has no servers").label("empty"));
            }
            return None;
        }
        Some(Bus {
            servers,
            login,
            ca,
            certificate,
        })
    }

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
        let bus = self.bus(&file.access());
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
        let networks = file.networks.value.0.all.iter();
        Some(Nats {
            bus: bus?,
            broker,
            port: u16::try_from(file.port.given()?.value.0).unwrap_or(u16::MAX),
            networks: Ranges(networks.map(|network| network.value).collect()),
            heartbeat_timeout: file.heartbeat_timeout.value,
            events: file.events.value,
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

    fn nats_certificate(&mut self, file: &Access<'_>) -> Option<Certificate> {
        match (file.cert, file.key) {
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

    fn nats_login(&mut self, file: &Access<'_>) -> NatsLogin {
        let mut ways: Vec<Way<'_>> = Vec::new();
        let urls = file.url.into_iter().flat_map(|urls| &urls.value.0.all);
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
        let (password, token) = (read(file.password_file), read(file.token_file));
        let (key, credentials) = (read(file.nkey_file), read(file.credentials_file));
        match (file.user, file.password_file) {
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
            way(file.token_file, token.map(NatsLogin::Token)),
            way(file.nkey_file, key.map(NatsLogin::Key)),
            way(
                file.credentials_file,
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
