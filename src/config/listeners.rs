//! Listeners, their certificates, and the admin listener.

use super::{
    build::Builder,
    diagnostic::Diagnostic,
    file::{CertificateFile, ListenerFile},
    model::{Certificate, Listener, ProxyProtocol},
    table::Setting,
    value::choice::Or,
};
use crate::base::id::ListenAddr;

impl Builder<'_> {
    pub(super) fn listeners(&mut self) -> Vec<Listener> {
        let file = self.file;
        if let (Some(listen), Some(first)) = (&file.listen, file.listener.first()) {
            self.faults.push(
                Diagnostic::error(
                    &listen.place,
                    "`listen` and `[[listener]]` exclude each other",
                )
                .label("listens here")
                .related(&first.place, "and here")
                .help("write the address of `listen` as one more [[listener]]"),
            );
        }
        let mut addresses: Vec<Setting<ListenAddr>> = Vec::new();
        let mut listeners = Vec::new();
        if let Some(listen) = &file.listen {
            for address in &listen.value.0.all {
                self.not_taken(address, &addresses);
                addresses.push(address.clone());
                listeners.push(plain(address.value));
            }
            if listen.value.0.is_empty() {
                self.faults.push(
                    Diagnostic::error(&listen.place, "`listen` is empty")
                        .label("no client could connect")
                        .help("without this key it is \"0.0.0.0:8080\""),
                );
            }
        }
        for listener in &file.listener {
            let built = self.listener(listener);
            if let Some(address) = &listener.address.0 {
                self.not_taken(address, &addresses);
                addresses.push(address.clone());
            }
            listeners.extend(built);
        }
        listeners
    }

    fn listener(&mut self, file: &ListenerFile) -> Option<Listener> {
        let tls: Vec<Certificate> = file
            .tls
            .iter()
            .filter_map(|certificate| self.certificate(certificate))
            .collect();
        let plain_text = file.tls.is_empty();
        if let Some(http2) = &file.http2
            && http2.value
            && plain_text
        {
            self.faults.push(
                Diagnostic::error(&http2.place, "HTTP/2 needs TLS")
                    .label("this listener has no `tls`")
                    .help("clients agree on HTTP/2 in the TLS handshake only"),
            );
        }
        let http2 = !plain_text && file.http2.as_ref().is_some_and(|http2| http2.value);
        let over_http2 = &file.http2_websocket;
        if over_http2.value && !http2 {
            let fault = Diagnostic::error(
                &over_http2.place,
                "`http2_websocket` needs HTTP/2 on the same listener",
            );
            self.faults.push(match (&file.http2, plain_text) {
                (Some(http2), false) => fault
                    .label("never used")
                    .related(&http2.place, "HTTP/2 is off here"),
                _ => fault.label("this listener has no `tls`, so no HTTP/2"),
            });
        }
        if let Some(redirect) = &file.redirect_https
            && !plain_text
        {
            self.faults.push(
                Diagnostic::error(&redirect.place, "a TLS listener cannot redirect to https")
                    .label("clients are already there")
                    .help("set `redirect_https` on the plain listener"),
            );
        }
        if let Some(address) = &file.address.0
            && file.reuse_port.value
            && address.value.0.port() == 0
        {
            self.faults.push(
                Diagnostic::error(&file.reuse_port.place, "nobody can share port 0")
                    .label("never used")
                    .related(&address.place, "each process gets another free port here"),
            );
        }
        Some(Listener {
            address: file.address.0.as_ref()?.value,
            tls,
            http2,
            http2_websocket: over_http2.value,
            proxy_protocol: if file.proxy_protocol.value {
                ProxyProtocol::Required
            } else {
                ProxyProtocol::Off
            },
            redirect_https: file
                .redirect_https
                .as_ref()
                .and_then(|port| u16::try_from(port.value.0).ok()),
            reuse_port: file.reuse_port.value,
        })
    }

    fn certificate(&mut self, file: &CertificateFile) -> Option<Certificate> {
        match (&file.cert, &file.key, &file.secret_dir) {
            (Some(cert), Some(key), None) => Some(Certificate {
                cert: self.named_file(cert, &cert.value.0),
                key: self.named_file(key, &key.value.0),
            }),
            (None, None, Some(directory)) => {
                let inside = Certificate::in_directory(&directory.value.0);
                Some(Certificate {
                    cert: self.named_file(directory, &inside.cert),
                    key: self.named_file(directory, &inside.key),
                })
            }
            (cert, key, directory) => {
                let label = match (cert, key, directory) {
                    (Some(_), None, None) => "`key` is missing",
                    (None, Some(_), None) => "`cert` is missing",
                    (_, _, Some(_)) => "`secret_dir` stands for both `cert` and `key`",
                    _ => "neither `cert` and `key` nor `secret_dir`",
                };
                self.faults.push(
                    Diagnostic::error(&file.place, "this is not a certificate with its key")
                        .label(label)
                        .absence()
                        .help(
                            "write { cert = \"tls.crt\", key = \"tls.key\" } or \
                             { secret_dir = \"/etc/ddp-gateway/tls\" }",
                        ),
                );
                None
            }
        }
    }

    pub(super) fn admin(&mut self, listeners: &[Listener]) -> Option<ListenAddr> {
        let admin = &self.file.admin;
        let Or::Value(address) = admin.value else {
            return None;
        };
        let taken = listeners
            .iter()
            .find(|listener| collide(listener.address, address));
        if let Some(listener) = taken {
            let message = format!(
                "`admin` cannot be on {}, where clients connect",
                listener.address
            );
            let fault = if admin.place.is_default() {
                Diagnostic::placeless(message)
            } else {
                Diagnostic::error(&admin.place, message).label("the same address")
            };
            self.faults
                .push(fault.help("give `admin` a port of its own, or set it to \"off\""));
        }
        Some(address)
    }

    /// Reports an address that one of the others has already.
    fn not_taken(&mut self, address: &Setting<ListenAddr>, others: &[Setting<ListenAddr>]) {
        let same = others
            .iter()
            .find(|other| collide(other.value, address.value));
        if let Some(other) = same {
            let fault = Diagnostic::error(&address.place, "two listeners on one address")
                .label("the second one")
                .related(&other.place, "the first one");
            self.faults.push(if other.value == address.value {
                fault
            } else {
                fault.help("one of the two covers all addresses of this machine")
            });
        }
    }
}

fn plain(address: ListenAddr) -> Listener {
    Listener {
        address,
        tls: Vec::new(),
        http2: false,
        http2_websocket: false,
        proxy_protocol: ProxyProtocol::Off,
        redirect_https: None,
        reuse_port: false,
    }
}

/// Whether the system would refuse to open both. Port 0 is a free one each time.
fn collide(a: ListenAddr, b: ListenAddr) -> bool {
    let (a, b) = (a.0, b.0);
    let covers = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() == b.port() && a.port() != 0 && covers
}
