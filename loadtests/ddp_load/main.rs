//! Simulated users of Rocket.Chat against a server, and what they see of it, measured.
//!
//!     cargo run --release --bin ddp-load -- run chat --embedded --html chat.html
//!
//! `scenario` says what is done, `people` who the users are; `run` does it with a crowd of `users` or
//! with `requests`, `watch` looks on and writes the `record`, `report` and `page` show it.

mod admin;
mod churn;
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
mod stop;
mod target;
mod trend;
mod units;
mod upload;
#[path = "../users/mod.rs"]
mod users;
mod watch;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser as _;
use ddp_gateway::cli::Exit;
use serde_json::Value;
use tikv_jemallocator::Jemalloc;
use tokio::runtime::Runtime;

use crate::{
    command::{Cli, Command, CompareArgs, EmbeddedArgs, FlatArgs, How, RunArgs, Sources},
    compare::{Apart, Bench, Flat, FlatWish, Wish},
    embedded::{Embedded, Place},
    people::Accounts,
    report::Report,
    run::Order,
    scenario::{KNOWN, Load, Scenario},
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
        Command::Flat(arguments) => runtime.block_on(Box::pin(flat(&arguments))),
        Command::Scenarios => scenarios(),
        Command::Servers => {
            let served = runtime.block_on(Box::pin(compare::serve()));
            served.map(|()| Exit::Done).map_err(Fault::Failed)
        }
        Command::Standing(arguments) => {
            let stood = runtime.block_on(Box::pin(compare::stand(&arguments)));
            stood.map(|()| Exit::Done).map_err(Fault::Failed)
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
    let started = Started::of(arguments, scenario.users).await;
    let started = started.map_err(Fault::Failed)?;
    let ended = Box::pin(run_against(&started, arguments, scenario, load, accounts)).await;
    started.stop().await;
    let report = ended?;
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

/// What was started to run against.
enum Started {
    Nothing,
    Embedded(Box<Embedded>),
    Apart(Box<Apart>),
}

impl Started {
    async fn of(arguments: &RunArgs, users: u32) -> Result<Self, String> {
        match (&arguments.gateway, arguments.embedded) {
            (Some(program), _) => Ok(Self::Apart(Box::new(Apart::start(program).await?))),
            (None, Some(_)) => Ok(Self::Embedded(Box::new(Embedded::start(users).await?))),
            (None, None) => Ok(Self::Nothing),
        }
    }

    fn place(&self) -> Option<&Place> {
        match self {
            Self::Nothing => None,
            Self::Embedded(embedded) => Some(&embedded.place),
            Self::Apart(apart) => Some(&apart.place),
        }
    }

    fn process(&self) -> Option<u32> {
        match self {
            Self::Nothing => None,
            Self::Embedded(embedded) => embedded.process(),
            Self::Apart(apart) => Some(apart.process()),
        }
    }

    fn config(&self) -> Option<PathBuf> {
        match self {
            Self::Nothing => None,
            Self::Embedded(embedded) => Some(embedded.place.config.clone()),
            Self::Apart(apart) => Some(apart.place.config.clone()),
        }
    }

    async fn stop(self) {
        match self {
            Self::Nothing => {}
            Self::Embedded(embedded) => embedded.stop().await,
            Self::Apart(apart) => apart.stop().await,
        }
    }
}

async fn run_against(
    started: &Started,
    arguments: &RunArgs,
    scenario: Scenario,
    load: Load,
    accounts: Accounts,
) -> Result<Report, Fault> {
    let reach = reach(arguments, started.place())?;
    let admin = started.place().map(|place| place.admin);
    let admin = arguments.admin.or(admin);
    if scenario.needs_admin() && admin.is_none() {
        let text = "streamers are drained, and memory is looked at, by the gateway's admin \
                    listener: name it with --admin";
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
        config: started.config(),
        started: started.process(),
    };
    order.run(&mut ()).await.map_err(Fault::Failed)
}

fn reach(arguments: &RunArgs, place: Option<&Place>) -> Result<Reach, Fault> {
    let roots = Trust::Roots(arguments.ca.clone());
    let trust = if arguments.insecure {
        Trust::Anybody
    } else {
        roots
    };
    let (origin, trust) = match (place, &arguments.target) {
        (Some(place), _) => {
            let is_tls = arguments.tls || arguments.embedded == Some(How::Tls);
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
    tell(
        &outcome.markdown(),
        &outcome.json(),
        arguments.markdown.as_deref(),
        arguments.json.as_deref(),
    )?;
    Ok(match outcome.is_complete() {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

async fn flat(arguments: &FlatArgs) -> Result<Exit, Fault> {
    let standing = match arguments.quick {
        true => vec![20, 40, 80],
        false => arguments.standing.clone(),
    };
    let flat = Flat::prepare(FlatWish {
        standing,
        rounds: arguments.rounds,
        is_quick: arguments.quick,
        is_tls: arguments.tls,
        home: arguments.home.clone(),
        gateway: arguments.gateway.clone(),
    });
    let flat = flat.map_err(Fault::Usage)?;
    let levels = flat.run().await.map_err(Fault::Failed)?;
    tell(
        &levels.markdown(),
        &levels.json(),
        arguments.markdown.as_deref(),
        arguments.json.as_deref(),
    )?;
    Ok(match levels.is_complete() {
        true => Exit::Done,
        false => Exit::Failed,
    })
}

/// Prints the one, and writes both where that is asked for.
fn tell(
    markdown: &str,
    json: &Value,
    markdown_file: Option<&Path>,
    json_file: Option<&Path>,
) -> Result<(), Fault> {
    let _ = writeln!(io::stdout(), "{markdown}");
    if let Some(file) = markdown_file {
        keep(file, markdown)?;
    }
    if let Some(file) = json_file {
        let text = serde_json::to_string_pretty(json);
        keep(
            file,
            &text.map_err(|error| Fault::Failed(error.to_string()))?,
        )?;
    }
    Ok(())
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
