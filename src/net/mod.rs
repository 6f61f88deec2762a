//! Sockets: listening, TLS, dialling, the client of the monolith.

pub mod dial;
mod farewell;
pub mod gate;
pub mod http2;
pub mod https;
pub mod incoming;
pub mod listen;
pub mod monolith;
mod origin;
pub mod probe;
pub mod proxy_protocol;
pub mod secure;
mod spare;
pub mod splice;
pub mod stream;
pub mod tls;
mod vigil;
pub mod wire;
pub mod workers;
