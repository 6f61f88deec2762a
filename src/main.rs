//! The program: one line per command. What they do is in the library.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use anyhow::{Context, Result};
use ddp_gateway::{
    admin,
    cli::{
        AdminArgs, Cli, Command, ConfigArgs, Console, DemoArgs, DrainArgs, Exit, RebalanceArgs,
        UndrainArgs,
    },
    config::model::LogFormat,
    control::app::{App, Ended, Options, Origin, Reading},
    demo::{self, front::Addresses},
    net::workers::{Placement, Threads},
    telemetry::{
        export,
        log::{Format, Log},
        panic, process,
    },
};
use tikv_jemallocator::Jemalloc;
use tokio::runtime::Runtime;

/// Returns memory to the system after a storm of connections, which the default allocator does not. Its
/// features put it behind `malloc` as well: the cryptography of a TLS session is written in C.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    let mut console = Console::of_process();
    let exit = match cli.command {
        Command::Run(arguments) => run(&arguments, &mut console),
        Command::Check(arguments) => Ok(arguments.check(&mut console)),
        Command::Config(command) => Ok(command.execute(&mut console)),
        Command::Demo(arguments) => demo(&arguments),
        Command::Drain(arguments) => drain(&arguments, &mut console),
        Command::Undrain(arguments) => undrain(&arguments, &mut console),
        Command::Rebalance(arguments) => rebalance(&arguments, &mut console),
        Command::Streamers(arguments) => streamers(&arguments, &mut console),
        Command::Replicas(arguments) => replicas(&arguments, &mut console),
    };
    match exit {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failed.into()
        }
    }
}

fn run(arguments: &ConfigArgs, console: &mut Console<'_>) -> Result<Exit> {
    let loaded = match arguments.load(console) {
        Ok(loaded) => loaded,
        Err(exit) => return Ok(exit),
    };
    // Before the first handle is made, so that nothing is counted into the void.
    export::recorder();
    process::raise_descriptor_limit();
    process::give_memory_back_soon();
    let log = &loaded.config.log;
    let format = match log.format {
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
    };
    let log = Log::install(format, &log.filter, log.access)?;
    panic::install();
    let threads = Threads::start(loaded.config.workers, Placement::of(&loaded.config))
        .context("the threads that carry connections cannot be started")?;
    let options = Options {
        origin: Origin::File {
            path: arguments.config.clone(),
            environment: arguments.environment(),
        },
        reading: Reading {
            effective: loaded.effective(),
            files: loaded.files,
        },
        log: Some(log.clone()),
        admin: Some(admin::serve),
        workers: threads.workers(),
    };
    let ended = runtime()?.block_on(async {
        let app = App::start(loaded.config, options).await?;
        let ended = app.serve_signals(app.announce()).await;
        ended.context("no signal handler")
    });
    // Both the reason for a failed start and the last words of a drain are still on their way.
    log.flush();
    Ok(ending(ended?))
}

fn demo(arguments: &DemoArgs) -> Result<Exit> {
    export::recorder();
    process::raise_descriptor_limit();
    process::give_memory_back_soon();
    let ended = runtime()?.block_on(demo::run(Addresses {
        https: arguments.https,
        http: arguments.http,
        admin: arguments.admin,
    }))?;
    Ok(ending(ended))
}

fn drain(arguments: &DrainArgs, console: &mut Console<'_>) -> Result<Exit> {
    if let Some(streamer) = &arguments.streamer {
        return drain_streamer(arguments, streamer, console);
    }
    let target = match arguments.gateway(console) {
        Ok(admin) => admin::DrainTarget {
            admin,
            deadline: arguments.deadline(),
            wait: arguments.wait,
        },
        Err(exit) => return Ok(exit),
    };
    admin::drain(target, &mut io::stdout())?;
    Ok(Exit::Done)
}

fn drain_streamer(
    arguments: &DrainArgs,
    streamer: &str,
    console: &mut Console<'_>,
) -> Result<Exit> {
    let order = match order(&arguments.admin, streamer, console) {
        Ok(order) => order,
        Err(exit) => return Ok(exit),
    };
    let wait = arguments.wait.then(screen);
    order.drain(arguments.rate, wait, &mut io::stdout())?;
    Ok(Exit::Done)
}

fn screen() -> admin::Screen {
    match io::stdout().is_terminal() {
        true => admin::Screen::Terminal,
        false => admin::Screen::Lines,
    }
}

fn rebalance(arguments: &RebalanceArgs, console: &mut Console<'_>) -> Result<Exit> {
    let order = match arguments.admin.gateways(console) {
        Ok(gateways) => admin::RebalanceOrder { gateways },
        Err(exit) => return Ok(exit),
    };
    let mut out = io::stdout();
    match (arguments.dry_run, arguments.stop) {
        (true, _) => order.dry_run(&mut out)?,
        (_, true) => order.stop(&mut out)?,
        _ => order.start(arguments.wait.then(screen), &mut out)?,
    }
    Ok(Exit::Done)
}

fn undrain(arguments: &UndrainArgs, console: &mut Console<'_>) -> Result<Exit> {
    match order(&arguments.admin, &arguments.streamer, console) {
        Ok(order) => order.undrain(&mut io::stdout())?,
        Err(exit) => return Ok(exit),
    }
    Ok(Exit::Done)
}

fn order(
    gateways: &AdminArgs,
    streamer: &str,
    console: &mut Console<'_>,
) -> Result<admin::StreamerOrder, Exit> {
    Ok(admin::StreamerOrder {
        gateways: gateways.gateways(console)?,
        streamer: streamer.to_owned(),
    })
}

fn streamers(arguments: &AdminArgs, console: &mut Console<'_>) -> Result<Exit> {
    match arguments.gateways(console) {
        Ok(gateways) => admin::streamers(&gateways, &mut io::stdout())?,
        Err(exit) => return Ok(exit),
    }
    Ok(Exit::Done)
}

fn replicas(arguments: &AdminArgs, console: &mut Console<'_>) -> Result<Exit> {
    match arguments.gateways(console) {
        Ok(gateways) => admin::replicas(&gateways, &mut io::stdout())?,
        Err(exit) => return Ok(exit),
    }
    Ok(Exit::Done)
}

fn ending(ended: Ended) -> Exit {
    match ended {
        Ended::Drained => Exit::Done,
        Ended::Cut => Exit::Failed,
    }
}

fn runtime() -> Result<Runtime> {
    Runtime::new().context("the runtime cannot be started")
}
