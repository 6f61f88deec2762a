//! An embedded deployment to try the gateway with: simulated streamers and a simulated monolith.

mod body;
pub mod deployment;
mod dialogue;
mod echo_socket;
mod hub;
mod methods;
pub mod monolith;
mod page;
mod port;
mod publications;
mod socket;
pub mod streamer;
pub mod workspace;

#[cfg(test)]
mod tests;
