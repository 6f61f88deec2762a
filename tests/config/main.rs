//! `proxy.toml`: what loads, what does not and what is said about it.

mod default_file;
mod examples;
mod support;
