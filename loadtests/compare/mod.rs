//! The gateway beside the proxies that people would use instead, with the same load on the same
//! machine.
//!
//! `case` says what is measured, `peer` who is compared, `proxy` starts one of them with one of the
//! `configs`, `usage` reads from the system what it costs, `bench` takes turns, `outcome` has the
//! figures and `table` shows them.
//!
//! `flat` asks what a connection costs while few or many others stand: a `fleet` of gateways on one
//! port, users who are `standing` there, and the figures by `levels`.

mod apart;
mod bench;
mod case;
mod certificate;
mod flat;
mod fleet;
mod gauge;
mod install;
mod levels;
mod outcome;
mod peer;
mod proxy;
mod servers;
mod setting;
mod standing;
mod table;
mod usage;

pub(crate) use self::{
    apart::Apart,
    bench::{Bench, Wish},
    flat::{Flat, FlatWish},
    peer::Peer,
    servers::serve,
    standing::stand,
};
