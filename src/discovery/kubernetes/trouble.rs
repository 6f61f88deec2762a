//! What can be wrong with the Kubernetes API, in words that say what to do.

use std::path::PathBuf;

/// Why there is nothing from the API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error(
        "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, as they are in every \
         pod: set `server` of [discovery.kubernetes]"
    )]
    NotInCluster,
    #[error(
        "the namespace is not known, {} cannot be read ({reason}): set `namespace` of \
         [discovery.kubernetes], or let the pod have its service account's token",
        path.display()
    )]
    NoNamespace { path: PathBuf, reason: String },
    #[error(
        "the token {} cannot be used ({reason}): the pod needs its service account's token \
         (automountServiceAccountToken)",
        path.display()
    )]
    Token { path: PathBuf, reason: String },
    #[error("the certificate file {} cannot be used ({reason})", path.display())]
    Authority { path: PathBuf, reason: String },
    #[error("the API server {server} is of no use: {reason}")]
    Unreachable { server: String, reason: String },
    #[error("the API server {server} did not answer in time")]
    Timeout { server: String },
    #[error(
        "the API server does not accept the token (401): it has expired, or is of another \
         cluster; look at {}", path.display()
    )]
    Unauthorized { path: PathBuf },
    #[error(
        "the service account may not {verb} endpointslices in namespace {namespace} (403): it needs \
         a Role with apiGroups [discovery.k8s.io], resources [endpointslices], verbs [list, watch], \
         and a RoleBinding to it, as in deploy/rbac.yaml. The API server says: {message}"
    )]
    Forbidden {
        verb: &'static str,
        namespace: String,
        message: String,
    },
    #[error(
        "the API server has no discovery.k8s.io/v1 (404): Kubernetes 1.21 or newer is needed, and \
         `server` has to be its API server"
    )]
    NotFound,
    #[error("the API server is busy ({code})")]
    Busy { code: u16 },
    #[error("the API server answered {code}: {message}")]
    Status { code: u16, message: String },
    #[error("the answer is not what an API server says")]
    Garbage,
    #[error("the answer is larger than that of any Service with streamers; is `service` right?")]
    TooMuch,
    #[error("the list expires faster than it can be watched")]
    Expired,
    #[error("no endpoint has the port {0}: set `port` of [discovery.kubernetes]")]
    NoPort(String),
}
