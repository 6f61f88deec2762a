//! The gateway beside the proxies that people would use instead, with the same load on the same
//! machine.
//!
//! `case` says what is measured, `peer` who is compared, `proxy` starts one of them with one of the
//! `configs`, `usage` reads from the system what it costs, `bench` takes turns, `outcome` has the
//! figures and `table` shows them.

mod apart;
mod bench;
mod case;
mod certificate;
mod gauge;
mod install;
mod outcome;
mod peer;
mod proxy;
mod servers;
mod setting;
mod table;
mod usage;

pub(crate) use self::{
    apart::Apart,
    bench::{Bench, Wish},
    peer::Peer,
    servers::serve,
};
