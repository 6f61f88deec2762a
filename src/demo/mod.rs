//! An embedded deployment to try the gateway with: simulated streamers, a simulated monolith with
//! a small chat on its page, and the gateway in front of them, all in one process.

mod answers;
mod body;
pub mod counted;
pub mod deployment;
mod dialogue;
mod door;
mod echo_socket;
mod endpoint;
pub mod front;
mod hub;
pub mod logins;
mod methods;
pub mod monolith;
mod page;
mod port;
mod publications;
mod socket;
pub mod streamer;
pub mod workspace;

use std::io::{self, Write};

use self::{
    deployment::Deployment,
    front::{Addresses, Front, FrontError},
};
use crate::{
    control::app::Ended,
    telemetry::{
        log::{Format, Log, LogError},
        panic,
    },
};

/// Streamers that the demo simulates.
const STREAMERS: usize = 3;

/// Why the demo does not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("the simulated servers cannot be started: {0}")]
    Servers(io::Error),
    #[error(
        "{0}\n\nIf a port is taken, choose others, for example\n    \
         ddp-gateway demo --https 127.0.0.1:0 --http 127.0.0.1:0 --admin 127.0.0.1:0\n\
         where 0 takes any free port."
    )]
    Gateway(FrontError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the system takes no signal handler: {0}")]
    Signals(io::Error),
}

/// Runs the demo until a signal ends it.
///
/// # Errors
/// When something cannot be started; nothing is left running then.
pub async fn run(addresses: Addresses) -> Result<Ended, DemoError> {
    let log = Log::install(Format::Text, "warn", false)?;
    panic::install();
    let deployment = Deployment::start(STREAMERS)
        .await
        .map_err(DemoError::Servers)?;
    let front = Front::start(&deployment.upstreams_toml(), TABLES, addresses, Some(log))
        .await
        .map_err(DemoError::Gateway)?;
    deployment.behind(front.app().control());
    let welcome = async {
        // Who has closed the other end does not want to read it.
        let _ = io::stdout().write_all(banner(&deployment, &front).as_bytes());
    };
    let ended = front.app().serve_signals(welcome).await;
    for streamer in deployment.streamers() {
        streamer.stop().await;
    }
    ended.map_err(DemoError::Signals)
}

/// A streamer that is brought back serves at once, and Ctrl-C does not take long.
const TABLES: &str = "\
[pool]
slow_start = \"0s\"

[drain]
delay = \"0s\"
spread = \"500ms\"
deadline = \"3s\"

[log]
format = \"text\"
filter = \"warn\"
access = false
";

fn banner(deployment: &Deployment, front: &Front) -> String {
    let streamers: Vec<String> = deployment
        .streamers()
        .iter()
        .map(|streamer| format!("{} {}", streamer.name(), streamer.address()))
        .collect();
    let admin = front
        .app()
        .admin()
        .map_or_else(|| "off".to_owned(), |admin| format!("http://{admin}/"));
    let (https, http) = (front.https(), front.http());
    format!(
        "\n  ddp-gateway demo: a small Rocket.Chat in this process, the gateway in front of it\n\
         \n  open        https://{https}/     (its certificate was made just now: accept it)\
         \n              http://{http}/      (the same without TLS)\
         \n  admin       {admin}      (metrics, sessions, streamers, reload, drain)\
         \n  streamers   {}\
         \n  monolith    http://{}\
         \n  config      {}\n\
         \n  Unprotected: any name logs in without a password, the page may stop streamers, the\
         \n  admin address asks nobody who he is, http is not encrypted. Keep all of it local.\n\
         \n  Log in twice, write something, drain a streamer, kill another. Ctrl-C ends the demo.\n\n",
        streamers.join(", "),
        deployment.monolith.address(),
        front.config().display(),
    )
}

#[cfg(test)]
mod tests;
