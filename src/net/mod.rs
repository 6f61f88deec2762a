//! Sockets: listening, TLS, dialling, the client of the monolith.
