//! `ddp-gateway check`: what is wrong with a configuration, and with what it names.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use futures_util::StreamExt as _;
use tokio::runtime::Builder;

use super::{ConfigArgs, Console, Exit, many};
use crate::{
    bus::{Link, LinkError, Meters, Turn},
    config::{
        Loaded, Severity,
        model::{Broker, Pool, Replicas},
    },
    discovery::nats::{self, Examined},
    replicas::State,
};

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Connect to the message buses as well, and look for streamers and replicas there.
    #[arg(long)]
    pub connect: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl CheckArgs {
    /// Says everything that is wrong.
    pub fn check(&self, console: &mut Console<'_>) -> Exit {
        let loaded = match self.config.load(console) {
            Ok(loaded) => loaded,
            Err(exit) => return exit,
        };
        console.print(&summary(&self.config, &loaded));
        match self.connect {
            true => buses(&loaded, console),
            false => Exit::Done,
        }
    }
}

fn summary(arguments: &ConfigArgs, loaded: &Loaded) -> String {
    let config = &loaded.config;
    let streamers: usize = config.pools.iter().map(|pool| pool.streamers.len()).sum();
    let names: usize = config.pools.iter().map(|pool| pool.dns.len()).sum();
    let buses = config.pools.iter().filter(|pool| pool.nats.is_some());
    let buses = match buses.count() {
        0 => String::new(),
        1 => ", 1 message bus".to_owned(),
        count => format!(", {count} message buses"),
    };
    let services = config.pools.iter().filter(|pool| pool.kubernetes.is_some());
    let services = match services.count() {
        0 => String::new(),
        count => format!(", {}", many(count, "Kubernetes Service")),
    };
    format!(
        "{}: no faults. {}, {}, {}, {}, {}{buses}{services}.",
        arguments.config.display(),
        many(config.listeners.len(), "listener"),
        many(config.routes.len(), "route"),
        many(config.pools.len(), "pool"),
        many(streamers, "streamer"),
        many(names, "DNS name"),
    )
}

/// Connects to each bus, one after the other; the worst of all exits.
fn buses(loaded: &Loaded, console: &mut Console<'_>) -> Exit {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            console.say(&format!("error: the system gives no runtime: {error}"));
            return Exit::Failed;
        }
    };
    let mut exit = Exit::Done;
    for pool in &loaded.config.pools {
        let Some(bus) = &pool.nats else { continue };
        match runtime.block_on(nats::examine(bus)) {
            Ok(examined) => found(loaded, pool, &examined, console),
            Err(error) => {
                let mut fault = loaded.about_bus(&pool.name, Severity::Error, &error.to_string());
                fault.help = Some(help(&error).to_owned());
                console.show(&[fault]);
                exit = match (exit, error.is_of_configuration()) {
                    (Exit::Usage, _) | (_, true) => Exit::Usage,
                    _ => Exit::Failed,
                };
            }
        }
    }
    if let Some(replicas) = &loaded.config.replicas {
        match runtime.block_on(meet(replicas)) {
            Ok(met) => console.print(&met),
            Err(error) => {
                let mut fault = loaded.about_replicas(Severity::Error, &error.to_string());
                fault.help = Some(help(&error).to_owned());
                console.show(&[fault]);
                exit = match (exit, error.is_of_configuration()) {
                    (Exit::Usage, _) | (_, true) => Exit::Usage,
                    _ => Exit::Failed,
                };
            }
        }
    }
    exit
}

/// Connects to the bus of the replicas, and hears who is there without a word of its own.
async fn meet(config: &Replicas) -> Result<String, LinkError> {
    let mut link = Link::connect(&config.bus, &Meters::new(&config.name())).await?;
    let mut messages = link.subscribe(format!("{}.state", config.subject)).await?;
    let mut found = BTreeMap::new();
    let heard = async {
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => if let Ok(state) = State::parse(&message.payload) {
                        found.insert(state.id, state.name);
                    },
                    None => return LinkError::Lost,
                },
                turn = link.turn() => if let Turn::Forbidden(text) = turn {
                    return LinkError::Forbidden(text);
                },
            }
        }
    };
    if let Ok(error) = tokio::time::timeout(HEAR_FOR, heard).await {
        return Err(error);
    }
    let names: Vec<String> = found.into_values().collect();
    Ok(format!(
        "the message bus of the replicas: connected to {}; {} running below {}{}{}",
        link.server(),
        many(names.len(), "gateway"),
        config.subject,
        if names.is_empty() { "" } else { ": " },
        names.join(", "),
    ))
}

/// Longer than the pause between two packets of a gateway.
const HEAR_FOR: Duration = Duration::from_millis(1_200);

fn found(loaded: &Loaded, pool: &Pool, examined: &Examined, console: &mut Console<'_>) {
    let hosts: Vec<String> = examined
        .seen
        .hosts
        .iter()
        .map(|(name, host)| match host.address {
            Some(address) => format!("{name} at {address}"),
            None => name.clone(),
        })
        .collect();
    console.print(&format!(
        "the message bus of pool {}: connected to {}; {}{}{}",
        pool.name,
        examined.server,
        many(hosts.len(), "streamer"),
        if hosts.is_empty() { "" } else { ": " },
        hosts.join(", "),
    ));
    if hosts.is_empty() {
        let mut fault = loaded.about_bus(
            &pool.name,
            Severity::Warning,
            "no streamer answers on the bus",
        );
        let broker = pool.nats.as_ref().map(|bus| &bus.broker);
        fault.help = Some(match broker {
            Some(Broker::Moleculer { .. }) => {
                "if there are some: compare `namespace` with MS_NAMESPACE, `url` with TRANSPORTER, \
                 SERIALIZER with EJSON; under BROKER=nats, set broker = \"nats\""
                    .to_owned()
            }
            _ => "if there are some: without BROKER=nats, leave `broker` out".to_owned(),
        });
        console.show(&[fault]);
    }
}

fn help(error: &LinkError) -> &'static str {
    match error {
        LinkError::Refused(_) => {
            "compare the credentials with those of the server and of TRANSPORTER; `user` with \
             `password_file`, `token_file`, `nkey_file` and `credentials_file` are the ways to log in"
        }
        LinkError::BadKey(_) => "an nkey's seed begins with SU; a .creds file comes from nsc",
        LinkError::NoSuchHost => "compare `url` with TRANSPORTER of Rocket.Chat",
        LinkError::NobodyListens | LinkError::Silent | LinkError::Network(_) | LinkError::Lost => {
            "compare `url` with TRANSPORTER of Rocket.Chat, and see whether the server runs and may \
             be reached from here"
        }
        LinkError::NotNats => "clients come to port 4222; 8222 is for monitoring, 6222 for servers",
        LinkError::Tls(_) | LinkError::TlsFiles(_) => {
            "`ca` has to hold what signed the server's certificate, `cert` and `key` what the \
             server asks its clients for"
        }
        LinkError::Forbidden(_) => "the permissions that the gateway needs are in the README",
    }
}
