//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    compare::Peer,
    target::{self, Origin},
    units::{Rate, Time},
};

#[derive(Clone, Debug, Parser)]
#[command(
    name = "ddp-load",
    version,
    about = "Simulated users of Rocket.Chat, and what they see of a server",
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a scenario, print a table, and exit with 1 when there were too many errors
    Run(Box<RunArgs>),
    /// Run the same loads against the gateway and other proxies, and print what each of them costs
    Compare(Box<CompareArgs>),
    /// Ask what a connection costs the gateway while few or many others stand, in several processes
    /// on one port
    Flat(FlatArgs),
    /// The scenarios that the program brings along
    Scenarios,
    /// Gateway and simulated servers, as --embedded starts them; ends with its standard input
    #[command(hide = true)]
    Embedded(EmbeddedArgs),
    /// Simulated servers alone, as compare starts them; ends with its standard input
    #[command(hide = true)]
    Servers,
    /// Users who come and stay, as flat starts them; ends with its standard input
    #[command(hide = true)]
    Standing(StandingArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// One of those that `ddp-load scenarios` shows, or a TOML file
    pub(crate) scenario: String,
    /// Server, as http://127.0.0.1:8080; https as well
    #[arg(
        long,
        value_name = "URL",
        required_unless_present_any = ["embedded", "gateway"],
        conflicts_with_all = ["embedded", "gateway"]
    )]
    pub(crate) target: Option<Origin>,
    /// Start this program as a gateway, in a process of its own, with simulated servers behind it
    #[arg(long, value_name = "PROGRAM", conflicts_with = "embedded")]
    pub(crate) gateway: Option<PathBuf>,
    /// Connect to the gateway that is started here over TLS
    #[arg(long, requires = "gateway")]
    pub(crate) tls: bool,
    /// Start the gateway with simulated servers behind it, and run against that
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "plain")]
    pub(crate) embedded: Option<How>,
    /// The gateway's admin listener, as 127.0.0.1:9901, for drain and soak
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["embedded", "gateway"])]
    pub(crate) admin: Option<SocketAddr>,
    /// Instead of the scenario's
    #[arg(long, value_name = "N")]
    pub(crate) users: Option<u32>,
    /// Instead of the scenario's: 500ms, 30s, 5m
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<Time>,
    /// Users who come in a second, instead of the scenario's: 80/s
    #[arg(long, value_name = "RATE")]
    pub(crate) ramp: Option<Rate>,
    /// Source address, or a range: 127.0.0.1-127.0.0.8
    #[arg(long, value_name = "ADDRESS", value_parser = sources)]
    pub(crate) from: Option<Sources>,
    /// Accounts, one in a line: user name, user id and login token, with blanks between them;
    /// otherwise those of the demo are made up
    #[arg(long, value_name = "FILE")]
    pub(crate) accounts: Option<PathBuf>,
    /// Take every certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Certificates to trust (PEM), instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Resume TLS sessions, where the server takes part; otherwise every handshake is a full one
    #[arg(long)]
    pub(crate) resume_tls: bool,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    Plain,
    Tls,
}

#[derive(Clone, Debug)]
pub(crate) struct Sources(pub(crate) Vec<IpAddr>);

fn sources(text: &str) -> Result<Sources, String> {
    target::sources(text).map(Sources)
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Whom to compare; otherwise all whose programs are there
    #[arg(long, value_name = "NAMES", value_delimiter = ',', num_args = 1..)]
    pub(crate) peers: Vec<Peer>,
    /// Which loads, by the beginnings of their names; otherwise all
    #[arg(long, value_name = "NAMES", value_delimiter = ',', num_args = 1..)]
    pub(crate) cases: Vec<String>,
    /// Times that everybody has their turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// A second of each load with few users: to see that it works, the figures say nothing
    #[arg(long)]
    pub(crate) quick: bool,
    /// Install the programs that are missing: Debian packages and PyPI; crates.io for sozu and pingora,
    /// when they are named
    #[arg(long)]
    pub(crate) install: bool,
    /// Where programs are installed, and where the proxies keep their files meanwhile; otherwise the
    /// folder compare beside that of this program
    #[arg(long, value_name = "FOLDER")]
    pub(crate) home: Option<PathBuf>,
    /// The gateway; otherwise the one that was built with this program
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) gateway: Option<PathBuf>,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write what is printed
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FlatArgs {
    /// Connections that stand, one number after the other; the processes are as many as the last
    /// one needs. With --quick 20,40,80
    #[arg(long, value_name = "N", value_delimiter = ',', num_args = 1.., default_values_t = [1_000, 10_000, 50_000])]
    pub(crate) standing: Vec<u32>,
    /// Times that all of it is done, with new processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Connect over TLS
    #[arg(long)]
    pub(crate) tls: bool,
    /// Half a second of each with few users: to see that it works, the figures say nothing
    #[arg(long, conflicts_with = "standing")]
    pub(crate) quick: bool,
    /// Where the gateways keep their files meanwhile; otherwise the folder compare beside that of
    /// this program
    #[arg(long, value_name = "FOLDER")]
    pub(crate) home: Option<PathBuf>,
    /// The gateway; otherwise the one that was built with this program
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) gateway: Option<PathBuf>,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write what is printed
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StandingArgs {
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Certificate to trust; otherwise without TLS
    #[arg(long)]
    pub(crate) ca: Option<PathBuf>,
    #[arg(long)]
    pub(crate) from: IpAddr,
    /// Number of the first user
    #[arg(long)]
    pub(crate) first: u32,
    #[arg(long)]
    pub(crate) users: u32,
    #[arg(long)]
    pub(crate) ramp: Rate,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EmbeddedArgs {
    /// Users who find room
    #[arg(long, default_value_t = 1000)]
    pub(crate) users: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
