//! `proxy.toml`: what loads, what does not and what is said about it.

mod autoscaling;
mod commands;
mod default_file;
mod diff;
mod examples;
mod fixtures;
mod layers;
mod round_trip;
mod schema;
mod support;
mod values;
