//! Sockets: listening, TLS, dialling, the client of the monolith.

pub mod stream;
