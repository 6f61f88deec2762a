//! From what was written to what is meant, with every fault on the way.

use std::{
    fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    diagnostic::{Diagnostic, Place, Severity},
    file::FileConfig,
    model::{
        Affinity, Certificate, Config, Drain, Health, Http, Limits, Log, Logins, MethodLimits,
        Pool, Quota, Ranges, Rate, WebSocket,
    },
    table::Setting,
    value::{
        choice::{Auto, Off, Or},
        quantity::{PerTime, Size},
    },
};
use crate::base::secret::Secret;

/// A file that the configuration names, and where it does.
#[derive(Clone, Debug)]
pub(super) struct NamedFile {
    pub(super) path: PathBuf,
    pub(super) place: Place,
    /// As `listener.tls.cert`.
    pub(super) key: String,
}

/// Collects faults while it builds. What cannot be built is replaced by something that can, so that
/// everything is looked at; with a fault, nobody sees the result.
pub(super) struct Builder<'a> {
    pub(super) file: &'a FileConfig,
    /// Where relative paths begin.
    pub(super) base: &'a Path,
    pub(super) faults: Vec<Diagnostic>,
    pub(super) files: Vec<NamedFile>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(file: &'a FileConfig, base: &'a Path) -> Self {
        Self {
            file,
            base,
            faults: Vec::new(),
            files: Vec::new(),
        }
    }

    pub(super) fn config(&mut self) -> Config {
        let listeners = self.listeners();
        let admin = self.admin(&listeners);
        let pools = self.pools();
        let (monoliths, routes) = self.routes(&pools);
        let file = self.file;
        let trusted_proxies = self.trusted_proxies();
        let limits = self.limits(&pools);
        Config {
            listeners,
            admin,
            routes,
            monoliths,
            pools,
            http: self.http(),
            websocket: self.websocket(),
            limits,
            logins: self.logins(),
            trusted_proxies,
            affinity: self.affinity(),
            rebalance: self.rebalance(),
            replicas: self.replicas(),
            drain: self.drain(),
            log: Log {
                format: file.log.format.value,
                filter: file.log.filter.value.0.clone(),
                access: file.log.access.value,
            },
            watch: file.watch.value,
            workers: file
                .workers
                .value
                .value()
                .and_then(|workers| NonZeroUsize::new(count(workers.0))),
            pin_workers: file.pin_workers.value,
        }
    }

    pub(super) fn health(&mut self) -> Health {
        let health = &self.file.health;
        self.at_least(&health.interval, Duration::from_millis(50));
        self.at_least(&health.timeout, Duration::from_millis(10));
        self.at_least(&health.ddp_interval, Duration::from_millis(100));
        Health {
            interval: health.interval.value,
            timeout: health.timeout.value,
            ddp_interval: health.ddp_interval.value,
            failures: health.failures.value.0,
            max_ejected: health.max_ejected.value.0,
        }
    }

    fn trusted_proxies(&mut self) -> Ranges {
        let ranges = &self.file.trusted_proxies.value.0.all;
        for range in ranges {
            if range.value.prefix_len() == 0 {
                self.faults.push(
                    Diagnostic::warning(&range.place, "everybody is a trusted proxy")
                        .label("all addresses")
                        .help(
                            "any client can then claim any address; name the ranges of your \
                             balancers only",
                        ),
                );
            }
        }
        Ranges(ranges.iter().map(|range| range.value).collect())
    }

    fn http(&mut self) -> Http {
        let http = &self.file.http;
        for timeout in [
            &http.connect_timeout,
            &http.first_byte_timeout,
            &http.idle_timeout,
            &http.request_timeout,
            &http.header_timeout,
            &http.keep_alive,
        ] {
            self.at_least(timeout, Duration::from_millis(10));
        }
        if http.keep_alive.value >= Duration::from_secs(60) {
            self.faults.push(
                Diagnostic::warning(
                    &http.keep_alive.place,
                    "connections are kept longer than Rocket.Chat keeps them (60 s)",
                )
                .label("answers 502 now and then")
                .help("use less than 60s, unless your monolith was told to wait longer"),
            );
        }
        self.size_between(&http.request_header_limit, 8 << 10, 1 << 20);
        self.size_between(&http.response_header_limit, 64 << 10, 1 << 20);
        Http {
            connect_timeout: http.connect_timeout.value,
            first_byte_timeout: http.first_byte_timeout.value,
            idle_timeout: http.idle_timeout.value,
            request_timeout: http.request_timeout.value,
            header_timeout: http.header_timeout.value,
            body_limit: http.body_limit.value.0,
            min_rate: match http.min_rate.value {
                Or::Value(rate) => u64::from(rate.0),
                Or::Word(_) => 0,
            },
            request_header_limit: bytes(http.request_header_limit.value),
            response_header_limit: bytes(http.response_header_limit.value),
            keep_alive: http.keep_alive.value,
            keep_alive_connections: count(http.keep_alive_connections.value.0),
            tunnel_idle_timeout: http.tunnel_idle_timeout.value,
            splice: http.splice.value,
            http2_streams: http.http2_streams.value.0,
        }
    }

    fn websocket(&mut self) -> WebSocket {
        let websocket = &self.file.websocket;
        self.at_least(&websocket.connect_timeout, Duration::from_millis(100));
        self.at_least(&websocket.idle_timeout, Duration::from_secs(2));
        self.at_least(&websocket.stall_timeout, Duration::from_secs(1));
        // The streamer's own limit is 100 MiB: the default of the npm library ws.
        self.size_between(&websocket.message_limit, 1 << 10, 100 << 20);
        self.size_between(&websocket.buffer, 64 << 10, 1 << 30);
        if websocket.buffer_total.value.0 < websocket.buffer.value.0 {
            self.contradiction(
                &websocket.buffer_total,
                &websocket.buffer,
                "all clients together may not have less than one of them",
            );
        }
        WebSocket {
            origins: websocket
                .origins
                .value
                .0
                .all
                .iter()
                .map(|origin| origin.value.0.clone())
                .collect(),
            message_limit: websocket.message_limit.value.0,
            connect_timeout: websocket.connect_timeout.value,
            idle_timeout: websocket.idle_timeout.value,
            buffer: bytes(websocket.buffer.value),
            buffer_total: bytes(websocket.buffer_total.value),
            stall_timeout: websocket.stall_timeout.value,
            resume_grace: websocket.resume_grace.value,
        }
    }

    fn limits(&mut self, pools: &[Pool]) -> Limits {
        let limits = &self.file.limits;
        let message_limit = &self.file.websocket.message_limit;
        if limits.bytes_burst.value.0 < message_limit.value.0 {
            self.contradiction(
                &limits.bytes_burst,
                message_limit,
                "a message of the largest allowed size could never pass",
            );
        }
        if limits.bytes_burst.value.0 > u64::from(u32::MAX) {
            self.size_between(&limits.bytes_burst, 1, u64::from(u32::MAX));
        }
        self.at_least(&limits.abuse_after, Duration::from_secs(1));
        Limits {
            messages: Rate {
                per_second: limits.messages.value.0,
                burst: limits.messages_burst.value.0,
            },
            bytes: Rate {
                per_second: limits.bytes.value.0,
                burst: u32::try_from(limits.bytes_burst.value.0).unwrap_or(u32::MAX),
            },
            connections: Rate {
                per_second: limits.connections.value.0,
                burst: limits.connections_burst.value.0,
            },
            abuse_after: limits.abuse_after.value,
            max_connections: limits
                .max_connections
                .value
                .value()
                .map(|limit| count(limit.0)),
            handshakes: count(limits.handshakes.value.0),
            methods: self.method_limits(pools),
        }
    }

    fn method_limits(&mut self, pools: &[Pool]) -> MethodLimits {
        let methods = &self.file.limits.methods;
        self.at_least(&methods.penalty, Duration::from_secs(1));
        let quota = |setting: &Setting<Or<PerTime, Off>>| Some(setting.value.value()?.0);
        MethodLimits {
            connection: quota(&methods.connection),
            user: quota(&methods.user),
            address: methods.address.value.value().map(|quota| match quota {
                Or::Value(quota) => quota.0,
                Or::Word(Auto) => full_streamer(pools),
            }),
            connection_by_method: quota(&methods.connection_by_method),
            user_by_method: quota(&methods.user_by_method),
            abuse: quota(&methods.abuse),
            penalty: methods.penalty.value,
        }
    }

    fn logins(&mut self) -> Logins {
        let logins = &self.file.logins;
        self.at_least(&logins.latency_target, Duration::from_millis(10));
        self.at_least(&logins.timeout, Duration::from_secs(1));
        if logins.timeout.value < logins.latency_target.value {
            let parts = [&logins.timeout, &logins.latency_target];
            if !parts.iter().any(|part| part.stand_in) {
                let culprit = match logins.timeout.place.is_default() {
                    true => &logins.latency_target,
                    false => &logins.timeout,
                };
                self.faults.push(
                    Diagnostic::error(&culprit.place, "logins are given up before they are late")
                        .label(format!(
                            "timeout {} s < latency_target {} s",
                            logins.timeout.value.as_secs_f64(),
                            logins.latency_target.value.as_secs_f64(),
                        )),
                );
            }
        }
        Logins {
            pace: logins.pace.value,
            streamer_concurrency: logins.streamer_concurrency.value.0,
            concurrency: logins.concurrency.value.0,
            streamer_rate: logins.streamer_rate.value.0,
            rate: logins.rate.value.0,
            latency_target: logins.latency_target.value,
            timeout: logins.timeout.value,
            queue_length: count(logins.queue_length.value.0),
        }
    }

    fn affinity(&mut self) -> Affinity {
        let affinity = &self.file.affinity;
        let secret = match (&affinity.secret, &affinity.secret_file) {
            (Some(secret), Some(file)) => {
                self.faults.push(
                    Diagnostic::error(&file.place, "two secrets")
                        .label("a secret in a file")
                        .related(&secret.place, "and one here")
                        .help("keep `secret_file` and remove `secret`"),
                );
                None
            }
            (Some(secret), None) => {
                let bytes = secret.value.0.expose().as_bytes().to_vec();
                Some(Secret::new(bytes))
            }
            (None, Some(file)) => {
                let path = self.named_file(file, &file.value.0);
                match read_secret(&path) {
                    Ok(secret) => Some(secret),
                    Err(error) => {
                        self.faults.push(
                            Diagnostic::error(
                                &file.place,
                                format!("`{}` cannot be used", file.path),
                            )
                            .label(error.to_string()),
                        );
                        None
                    }
                }
            }
            (None, None) => None,
        };
        Affinity {
            cookie: match &affinity.cookie.value {
                Or::Value(name) => Some(name.0.clone()),
                Or::Word(_) => None,
            },
            secret,
            remember: affinity.remember.value,
        }
    }

    fn drain(&mut self) -> Drain {
        let drain = &self.file.drain;
        let needed = drain.delay.value + drain.spread.value;
        let parts = [&drain.deadline, &drain.spread, &drain.delay];
        if needed > drain.deadline.value && !parts.iter().any(|part| part.stand_in) {
            // Underline what was written rather than a default.
            let culprit = parts
                .into_iter()
                .find(|setting| !setting.place.is_default())
                .unwrap_or(&drain.deadline);
            self.faults.push(
                Diagnostic::error(&culprit.place, "the drain does not fit within its deadline")
                    .label(format!(
                        "delay {} s + spread {} s > deadline {} s",
                        drain.delay.value.as_secs_f64(),
                        drain.spread.value.as_secs_f64(),
                        drain.deadline.value.as_secs_f64(),
                    ))
                    .help(
                        "raise `drain.deadline`, and terminationGracePeriodSeconds of the pod \
                         with it",
                    ),
            );
        }
        Drain {
            delay: drain.delay.value,
            spread: drain.spread.value,
            deadline: drain.deadline.value,
        }
    }

    /// Notes a file that the configuration depends on, and says where it is.
    pub(super) fn named_file<T>(&mut self, setting: &Setting<T>, path: &Path) -> PathBuf {
        let path = self.base.join(path);
        self.files.push(NamedFile {
            path: path.clone(),
            place: setting.place.clone(),
            key: setting.path.to_string(),
        });
        path
    }

    pub(super) fn at_least(&mut self, setting: &Setting<Duration>, least: Duration) {
        if setting.value < least {
            let least = super::units::print_duration(least);
            self.faults.push(
                Diagnostic::error(
                    &setting.place,
                    format!("`{}` must be at least {least}", setting.path),
                )
                .label("too short"),
            );
        }
    }

    fn size_between(&mut self, setting: &Setting<Size>, least: u64, most: u64) {
        let size = setting.value.0;
        if (least..=most).contains(&size) {
            return;
        }
        let print = super::units::print_size;
        self.faults.push(
            Diagnostic::error(
                &setting.place,
                format!(
                    "`{}` must be from {} to {}",
                    setting.path,
                    print(least),
                    print(most)
                ),
            )
            .label(if size < least {
                "too small"
            } else {
                "too large"
            }),
        );
    }

    /// `small` is less than `large`, which makes no sense because of `reason`.
    fn contradiction(&mut self, small: &Setting<Size>, large: &Setting<Size>, reason: &str) {
        if small.stand_in || large.stand_in {
            return;
        }
        let (small_text, large_text) = (
            super::units::print_size(small.value.0),
            super::units::print_size(large.value.0),
        );
        let message = format!(
            "`{}` ({small_text}) is less than `{}` ({large_text})",
            small.path, large.path
        );
        let (place, other) = if small.place.is_default() {
            (large, small)
        } else {
            (small, large)
        };
        let mut fault = Diagnostic::error(&place.place, message).label(reason);
        if !other.place.is_default() {
            fault = fault.related(&other.place, "together with this");
        }
        self.faults.push(fault);
    }
}

impl NamedFile {
    /// Says something about the file at the place that names it.
    pub(super) fn diagnostic(&self, severity: Severity, reason: &str) -> Diagnostic {
        let text = format!("{}: {reason}", self.path.display());
        match severity {
            Severity::Error => {
                Diagnostic::error(&self.place, format!("`{}` cannot be used", self.key))
            }
            Severity::Warning => {
                Diagnostic::warning(&self.place, format!("`{}` will not serve well", self.key))
            }
        }
        .label(text)
    }
}

impl Certificate {
    /// From a directory as Kubernetes mounts a secret of type `kubernetes.io/tls`.
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self {
            cert: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SecretFileError {
    #[error("{}: {}", .0.display(), reason(.1))]
    Unreadable(PathBuf, io::Error),
    #[error("{}: has less than 16 bytes", .0.display())]
    TooShort(PathBuf),
}

/// What the clients of a full streamer may ask for if all of them come from one address: 240 a minute each.
fn full_streamer(pools: &[Pool]) -> Quota {
    let clients = pools.iter().map(|pool| pool.sessions_per_streamer).max();
    Quota {
        requests: clients.unwrap_or(1).saturating_mul(240),
        interval: Duration::from_secs(60),
    }
}

/// The bytes of the file without the newline that editors put at the end.
fn read_secret(path: &Path) -> Result<Secret<Vec<u8>>, SecretFileError> {
    let bytes =
        fs::read(path).map_err(|error| SecretFileError::Unreadable(path.to_owned(), error))?;
    let bytes = bytes.trim_ascii_end();
    if bytes.len() < 16 {
        return Err(SecretFileError::TooShort(path.to_owned()));
    }
    Ok(Secret::new(bytes.to_vec()))
}

/// Why a file cannot be read, in the same words on every system.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
