//! Simulated users of Rocket.Chat against a server, and what they see of it, measured.
//!
//!     cargo run --release --bin ddp-load -- run chat --embedded --html chat.html
//!
//! `scenario` says what is done, `people` who the users are; `run` does it with a crowd of `users` or
//! with `requests`, `watch` looks on and writes the `record`, `report` and `page` show it.

mod command;
#[path = "../compare/mod.rs"]
mod compare;
mod drains;
mod embedded;
mod machine;
mod page;
mod people;
mod record;
mod report;
mod requests;
mod run;
mod scenario;
mod schedule;
mod target;
mod units;
mod upload;
#[path = "../users/mod.rs"]
mod users;
mod watch;

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use clap::Parser as _;
use ddp_gateway::cli::Exit;
use tikv_jemallocator::Jemalloc;
use tokio::runtime::Runtime;

use crate::{
    command::{Cli, Command, CompareArgs, EmbeddedArgs, How, RunArgs, Sources},
    compare::{Bench, Wish},
    embedded::Embedded,
    people::Accounts,
    run::Order,
    scenario::{KNOWN, Scenario},
    target::{Origin, Reach, Trust},
};

/// The gateway that runs against itself runs with the allocator that it is shipped with.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let is_fault = error.use_stderr();
            return if is_fault { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return Exit::Failed.into();
        }
    };
    let ended = match cli.command {
        Command::Run(arguments) => runtime.block_on(Box::pin(run(&arguments))),
        Command::Compare(arguments) => runtime.block_on(Box::pin(compare(&arguments))),
        Command::Scenarios => scenarios(),
        Command::Servers => {
            let served = runtime.block_on(Box::pin(compare::serve()));
            served.map(|()| Exit::Done).map_err(Fault::Failed)
        }
        Command::Embedded(EmbeddedArgs { users }) => {
            let served = runtime.block_on(Box::pin(embedded::serve(users)));
            served.map(|()| Exit::Done).map_err(Fault::Failed)
        }
    };
    // Nothing is waited for that is still under way.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(Fault::Usage(text)) => {
            eprintln!("error: {text}");
            Exit::Usage.into()
        }
        Err(Fault::Failed(text)) => {
            eprintln!("error: {text}");
            Exit::Failed.into()
        }
    }
}

enum Fault {
    /// What was asked for makes no sense.
    Usage(String),
    Failed(String),
}

async fn run(arguments: &RunArgs) -> Result<Exit, Fault> {
    let mut scenario = Scenario::load(&arguments.scenario).map_err(Fault::Usage)?;
    scenario.users = arguments.users.unwrap_or(scenario.users);
    scenario.duration = arguments.duration.unwrap_or(scenario.duration);
    scenario.ramp = arguments.ramp.unwrap_or(scenario.ramp);
    let load = scenario.check().map_err(Fault::Usage)?;
    let accounts = match &arguments.accounts {
        Some(file) => Accounts::read(file).map_err(Fault::Usage)?,
        None => Accounts::Demo,
    };
    let embedded = match arguments.embedded {
        Some(_) => {
            let embedded = Embedded::start(scenario.users).await;
            Some(embedded.map_err(Fault::Failed)?)
        }
        None => None,
    };
    let reach = reach(arguments, embedded.as_ref())?;
    let admin = embedded.as_ref().map(|embedded| embedded.place.admin);
    let admin = arguments.admin.or(admin);
    if scenario.drain.is_some() && admin.is_none() {
        let text = "streamers are drained by the gateway's admin listener: name it with --admin";
        return Err(Fault::Usage(text.to_owned()));
    }
    let order = Order {
        load,
        target: Arc::new(reach.target().map_err(Fault::Failed)?),
        url: reach.origin.to_string(),
        is_quiet: false,
        scenario,
        accounts,
        admin,
    };
    let report = order.run(embedded.as_ref(), &mut ()).await;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    let report = report.map_err(Fault::Failed)?;
    // Who has closed the other end does not want to read it.
    let _ = writeln!(io::stdout(), "{report}");
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&report.json());
        let text = text.map_err(|error| Fault::Failed(error.to_string()))?;
        keep(file, &text)?;
    }
    if let Some(file) = &arguments.html {
        keep(file, &page::page(&report))?;
    }
    Ok(match report.passed() {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

fn reach(arguments: &RunArgs, embedded: Option<&Embedded>) -> Result<Reach, Fault> {
    let roots = Trust::Roots(arguments.ca.clone());
    let trust = if arguments.insecure {
        Trust::Anybody
    } else {
        roots
    };
    let (origin, trust) = match (embedded, &arguments.target) {
        (Some(embedded), _) => {
            let place = &embedded.place;
            let is_tls = arguments.embedded == Some(How::Tls);
            let address = if is_tls { place.https } else { place.http };
            let origin = Origin {
                is_tls,
                host: address.ip().to_string(),
                port: address.port(),
            };
            (origin, Trust::Roots(Some(place.certificate.clone())))
        }
        (None, Some(target)) => (target.clone(), trust),
        (None, None) => {
            let text = "there is no target: name one with --target, or take --embedded";
            return Err(Fault::Usage(text.to_owned()));
        }
    };
    let sources = arguments.from.clone();
    Ok(Reach {
        origin,
        sources: sources.map_or_else(Vec::new, |Sources(sources)| sources),
        trust,
        resume: arguments.resume_tls,
        one_suite: false,
    })
}

async fn compare(arguments: &CompareArgs) -> Result<Exit, Fault> {
    let bench = Bench::prepare(Wish {
        peers: arguments.peers.clone(),
        cases: arguments.cases.clone(),
        rounds: arguments.rounds,
        is_quick: arguments.quick,
        installs: arguments.install,
        home: arguments.home.clone(),
        gateway: arguments.gateway.clone(),
    });
    let bench = bench.map_err(Fault::Usage)?;
    let outcome = bench.run().await.map_err(Fault::Failed)?;
    let markdown = outcome.markdown();
    let _ = writeln!(io::stdout(), "{markdown}");
    if let Some(file) = &arguments.markdown {
        keep(file, &markdown)?;
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&outcome.json());
        keep(
            file,
            &text.map_err(|error| Fault::Failed(error.to_string()))?,
        )?;
    }
    Ok(match outcome.is_complete() {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

fn scenarios() -> Result<Exit, Fault> {
    let mut text = String::new();
    for (name, _) in KNOWN {
        let scenario = Scenario::load(name).map_err(Fault::Failed)?;
        text += &format!("{name:<16} {}\n", scenario.about);
    }
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(Exit::Done)
}

fn keep(file: &Path, text: &str) -> Result<(), Fault> {
    fs::write(file, text)
        .map_err(|error| Fault::Failed(format!("{} cannot be written: {error}", file.display())))
}
