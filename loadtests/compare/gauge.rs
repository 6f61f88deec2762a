//! Looks at a proxy while there is load.

use std::time::Duration;

use crate::{
    record::Record,
    run::{Moment, Onlooker},
};

use super::{
    case::{Act, Operation},
    proxy::Proxy,
    servers::Servers,
    usage::Usage,
};

/// What happened between the beginning and the end of the load.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) operations: u64,
    /// Time of processors; `None` without a proxy.
    pub(super) cost: Option<Duration>,
    /// Memory of the proxy at the end, in bytes.
    pub(super) memory: Option<u64>,
    /// Attempts of users to connect, after they were all in.
    pub(super) attempts: u64,
}

pub(super) struct Gauge<'a> {
    proxy: Option<&'a mut Proxy>,
    servers: &'a Servers,
    operation: Operation,
    act: Act,
    begun: Option<(Option<Usage>, u64, u64)>,
    pub(super) reading: Option<Reading>,
    pub(super) fault: Option<String>,
}

impl<'a> Gauge<'a> {
    pub(super) fn new(
        proxy: Option<&'a mut Proxy>,
        servers: &'a Servers,
        operation: Operation,
        act: Act,
    ) -> Self {
        Self {
            proxy,
            servers,
            operation,
            act,
            begun: None,
            reading: None,
            fault: None,
        }
    }
}

impl Onlooker for Gauge<'_> {
    fn look(&mut self, moment: Moment, record: &Record) {
        let operations = self.operation.count(record);
        let attempts = record.count("attempts");
        let usage = self.proxy.as_ref().map(|proxy| proxy.tree().usage());
        match (moment, &self.begun) {
            (Moment::Begins, _) => {
                self.begun = Some((usage, operations, attempts));
                self.fault = match (self.act, &mut self.proxy) {
                    (Act::Reload, Some(proxy)) => proxy.reload().err(),
                    (Act::Kill, _) => self.servers.kill().err(),
                    _ => None,
                };
            }
            (Moment::Ended, Some((before, earlier, tried))) => {
                let cost = before.as_ref().zip(usage);
                let memory = self.proxy.as_ref().and_then(|proxy| proxy.tree().memory());
                self.reading = Some(Reading {
                    operations: operations.saturating_sub(*earlier),
                    cost: cost.map(|(before, now)| before.until(&now)),
                    memory,
                    attempts: attempts.saturating_sub(*tried),
                });
            }
            (Moment::Ended, None) => {}
        }
    }
}
