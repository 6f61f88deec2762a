//! The Service behind which streamers are found.

use std::time::Duration;

use super::{build::Builder, diagnostic::Diagnostic, file::KubernetesFile, model::Kubernetes};

impl Builder<'_> {
    /// Files are not looked at: this may be checked anywhere, but they are in the pod only.
    pub(super) fn kubernetes(&mut self, file: &KubernetesFile) -> Option<Kubernetes> {
        self.at_least(&file.timeout, Duration::from_millis(100));
        self.at_least(&file.renew, Duration::from_secs(1));
        if let Some(server) = &file.server
            && !server.value.tls
            && !is_loopback(&server.value.host)
        {
            self.faults.push(
                Diagnostic::warning(&server.place, "the API server is asked in plain text")
                    .label("no token is sent there")
                    .help(
                        "use https://; http:// is for a proxy in the same pod that logs in by \
                         itself, as `kubectl proxy` does",
                    ),
            );
        }
        Some(Kubernetes {
            service: file.service.0.as_ref()?.value.0.clone(),
            namespace: file.namespace.as_ref().map(|name| name.value.0.clone()),
            port: file.port.value.clone(),
            server: file.server.as_ref().map(|server| server.value.clone()),
            token_file: self.base.join(&file.token_file.value.0),
            ca_file: self.base.join(&file.ca_file.value.0),
            timeout: file.timeout.value,
            renew: file.renew.value,
        })
    }
}

fn is_loopback(host: &str) -> bool {
    let address: Option<std::net::IpAddr> = host.parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}
