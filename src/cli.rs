//! The command line: what can be asked of the program, and the commands that need no gateway.

mod check;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand};

pub use self::check::CheckArgs;
use crate::{
    config::{self, Diagnostic, Environment, Loaded, Severity},
    net::tls::Certificates,
};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// It could not start, or not do what was asked.
    Failed,
    /// The configuration or the command line is wrong (`EX_USAGE`).
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 64,
        })
    }
}

#[derive(Clone, Debug, Parser)]
#[command(
    name = "ddp-gateway",
    version,
    override_help = HELP,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve.
    Run(ConfigArgs),
    /// Report every fault of a configuration, without starting.
    Check(CheckArgs),
    /// Print the commented default, the JSON schema or the values in force.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Three simulated streamers, a monolith and the gateway in one process.
    Demo(DemoArgs),
    /// Tell a running gateway to drain, as SIGTERM does, or to empty one of its streamers.
    Drain(DrainArgs),
    /// Take a streamer back into rotation.
    Undrain(UndrainArgs),
    /// Level the sessions of the streamers of a running gateway.
    Rebalance(RebalanceArgs),
    /// Print the streamers of a running gateway.
    Streamers(AdminArgs),
    /// Print the gateways that act as one with a running gateway.
    Replicas(AdminArgs),
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// The commented default, to begin with.
    Default,
    /// JSON schema, for editors and pipelines.
    Schema,
    /// The values in force, and where each comes from.
    Effective(ConfigArgs),
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// Configuration file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = DEFAULT_PATH,
        env = "DDP_GATEWAY_CONFIG"
    )]
    pub config: PathBuf,
    /// Set a key, such as http.body_limit=1GiB, over file and environment.
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Where the gateway of the demo listens with TLS; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub https: SocketAddr,
    /// Where it listens without.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Its admin listener.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
}

#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// Empty this streamer (its id or its address), instead of ending the gateway.
    #[arg(value_name = "STREAMER")]
    pub streamer: Option<String>,
    /// Sessions that leave the streamer in a second, instead of as many as may log in.
    #[arg(long, value_name = "N/s", value_parser = rate, requires = "streamer")]
    pub rate: Option<NonZeroU32>,
    /// Return only when the gateway has ended, or the streamer is empty.
    #[arg(long)]
    pub wait: bool,
    /// Seconds until the end, instead of the configured deadline.
    #[arg(long, value_name = "SECONDS", conflicts_with = "streamer")]
    pub deadline: Option<u64>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Clone, Debug, Args)]
pub struct UndrainArgs {
    /// Its id or its address.
    #[arg(value_name = "STREAMER")]
    pub streamer: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Clone, Debug, Args)]
pub struct RebalanceArgs {
    /// Only say which streamers would give and get how many sessions.
    #[arg(long, conflicts_with_all = ["stop", "wait"])]
    pub dry_run: bool,
    /// Stop what is under way.
    #[arg(long, conflicts_with = "wait")]
    pub stop: bool,
    /// Return only when it has ended.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Where a running gateway is.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Admin listener of the gateway, as http://127.0.0.1:9901; otherwise the one of its file. A
    /// name stands for all gateways that it has addresses of.
    #[arg(long, value_name = "URL", value_parser = admin_url)]
    pub admin: Option<Gateways>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Admin listeners; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateways(Vec<SocketAddr>);

/// Read when no other file is named.
const DEFAULT_PATH: &str = "proxy.toml";

const HELP: &str = "\
ddp-gateway: the edge of a Rocket.Chat deployment with microservices

Usage: ddp-gateway <command> [options]

Try it
  demo                 three simulated streamers, a monolith and the gateway in one process
                       [--https ADDRESS] [--http ADDRESS] [--admin ADDRESS]

Serve
  run                  serve; SIGHUP reloads, SIGTERM drains, a second SIGTERM ends at once
  drain [--wait]       drain a running gateway, as SIGTERM does; for a preStop hook
                       [--deadline SECONDS] [--admin URL]

Operate, with [--admin URL]
  streamers            the streamers with state, health, sessions and logins
  replicas             the gateways that act as one with this one, and how fresh that is
  drain STREAMER       no new sessions for it; those it has move to others as fast as clients may
                       log in or at [--rate N/s]; [--wait] shows it until the streamer is empty
  undrain STREAMER     take it back into rotation
  rebalance            level the streamers' sessions: [--dry-run] only says how, [--stop] ends it,
                       [--wait] shows it until it is over

Configure
  check                report every fault of a configuration; [--connect] tries the message bus
  config default       the commented default, to begin with
  config schema        its JSON schema, for editors and pipelines
  config effective     the values in force, and where each comes from

Options; the first two of all but demo, config default and config schema
  -c, --config FILE    configuration file [default: proxy.toml] [env: DDP_GATEWAY_CONFIG]
      --set KEY=VALUE  set a key, such as http.body_limit=1GiB; more than once if need be
  -h, --help           this
  -V, --version        the version

Environment
  DDP_GATEWAY__HTTP__BODY_LIMIT=1GiB sets body_limit of [http], and so does every other key.
  --set wins over the environment, the environment over the file.

Exit codes
  0 done    1 could not start or do it    64 wrong configuration or command line";

impl Cli {
    /// Reads the arguments of the process.
    ///
    /// # Errors
    /// The exit when there is nothing more to do: help was asked for, or the arguments are wrong.
    pub fn from_process() -> Result<Self, Exit> {
        Self::from_arguments(env::args_os(), &mut Console::of_process())
    }

    fn from_arguments(
        arguments: impl IntoIterator<Item = OsString>,
        console: &mut Console<'_>,
    ) -> Result<Self, Exit> {
        Self::try_parse_from(arguments).map_err(|error| {
            let text = error.to_string();
            if error.use_stderr() {
                console.say(text.trim_end());
                Exit::Usage
            } else {
                console.print(text.trim_end());
                Exit::Done
            }
        })
    }
}

/// Where a command writes to.
pub struct Console<'a> {
    /// What was asked for.
    out: Box<dyn Write + 'a>,
    /// What there is to say about it.
    err: Box<dyn Write + 'a>,
    /// Whether `err` understands colours.
    colour: bool,
}

impl<'a> Console<'a> {
    /// Standard output and standard error; in colour on a terminal, unless `NO_COLOR` is set.
    pub fn of_process() -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            colour: io::stderr().is_terminal() && !plain,
        }
    }

    /// Without colour.
    pub fn new(out: impl Write + 'a, err: impl Write + 'a) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
            colour: false,
        }
    }

    /// A reader that has gone (`| head`) is none of our business.
    fn print(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    fn say(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    fn show(&mut self, diagnostics: &[Diagnostic]) {
        for diagnostic in diagnostics {
            let text = diagnostic.render(self.colour);
            self.say(&text);
            self.say("");
        }
    }
}

impl ConfigArgs {
    /// What the configuration draws on besides its file.
    pub fn environment(&self) -> Environment {
        Environment::of_process().with_flags(self.set.iter().cloned())
    }

    /// Loads the configuration and looks at its certificates. Says what is wrong, and how to begin
    /// when there is no file.
    ///
    /// # Errors
    /// [`Exit::Usage`], after every fault has been shown.
    pub fn load(&self, console: &mut Console<'_>) -> Result<Loaded, Exit> {
        let name = self.config.display();
        if !self.config.exists() {
            let here = env::current_dir().unwrap_or_default();
            console.say(&format!(
                "error: there is no file {}",
                here.join(&self.config).display()
            ));
            if self.config == Path::new(DEFAULT_PATH) {
                console.say(BEGINNING);
            }
            return Err(Exit::Usage);
        }
        match config::load(&self.config, &self.environment()) {
            Ok(loaded) => {
                let mut diagnostics = loaded.warnings.clone();
                diagnostics.extend(certificates(&loaded));
                console.show(&diagnostics);
                match count(&diagnostics, Severity::Error) {
                    0 => Ok(loaded),
                    _ => {
                        console.say(&format!("{name}: {}", verdict(&diagnostics)));
                        Err(Exit::Usage)
                    }
                }
            }
            Err(faults) => {
                console.show(&faults);
                console.say(&format!("{name}: {}", verdict(&faults)));
                Err(Exit::Usage)
            }
        }
    }
}

impl ConfigCommand {
    /// `ddp-gateway config ...`
    pub fn execute(&self, console: &mut Console<'_>) -> Exit {
        match self {
            Self::Default => console.print(config::DEFAULT_FILE.trim_end()),
            Self::Schema => console.print(&format!("{:#}", config::schema())),
            Self::Effective(arguments) => match arguments.load(console) {
                Ok(loaded) => console.print(loaded.effective().trim_end()),
                Err(exit) => return exit,
            },
        }
        Exit::Done
    }
}

impl DrainArgs {
    /// Where the one gateway is that is to end.
    ///
    /// # Errors
    /// [`Exit::Usage`] as [`AdminArgs::gateways`], or when there are several.
    pub fn gateway(&self, console: &mut Console<'_>) -> Result<SocketAddr, Exit> {
        match self.admin.gateways(console)?[..] {
            [gateway] => Ok(gateway),
            _ => {
                console.say(
                    "error: --admin has the addresses of several gateways; say which one is to \
                     end, by its address",
                );
                Err(Exit::Usage)
            }
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.deadline.map(Duration::from_secs)
    }
}

impl AdminArgs {
    /// Where the admin listeners are reached from this machine.
    ///
    /// A preStop hook must work with a file that has been broken since the gateway read it, so then
    /// the default is taken.
    ///
    /// # Errors
    /// [`Exit::Usage`] when the configuration says that there is none.
    pub fn gateways(&self, console: &mut Console<'_>) -> Result<Vec<SocketAddr>, Exit> {
        if let Some(Gateways(addresses)) = &self.admin {
            return Ok(addresses.clone());
        }
        let file = &self.config.config;
        match config::load(file, &self.config.environment()) {
            Ok(loaded) => match loaded.config.admin {
                Some(admin) => Ok(vec![reachable(admin.0)]),
                None => {
                    console.say(&format!(
                        "error: `admin` is \"off\" in {}; so nothing can be asked of the gateway; \
                         SIGTERM drains it",
                        file.display()
                    ));
                    Err(Exit::Usage)
                }
            },
            Err(_) => {
                console.say(&format!(
                    "{} cannot be used, so the gateway is looked for at {DEFAULT_ADMIN}; \
                     --admin names another place",
                    file.display()
                ));
                Ok(vec![DEFAULT_ADMIN])
            }
        }
    }
}

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

const BEGINNING: &str = "
These three lines are enough; put them into proxy.toml:

    listen = \"127.0.0.1:8080\"
    monolith = \"http://127.0.0.1:3000\"
    streamers = [\"127.0.0.1:4001\", \"127.0.0.1:4002\"]

`ddp-gateway config default > proxy.toml` writes a file that explains every key,
`ddp-gateway demo` shows the gateway at work without a file.";

/// What TLS has to say about the certificates as they are on disk.
fn certificates(loaded: &Loaded) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for listener in &loaded.config.listeners {
        match Certificates::load(&listener.tls, None) {
            Ok((certificates, _)) => {
                for served in certificates.served() {
                    if let Some(complaint) = served.complaint(SystemTime::now()) {
                        found.push(loaded.about_file(served.path(), Severity::Warning, complaint));
                    }
                }
            }
            Err(faults) => found.extend(faults.iter().map(|fault| {
                loaded.about_file(&fault.path, Severity::Error, &fault.reason.to_string())
            })),
        }
    }
    found
}

fn count(diagnostics: &[Diagnostic], severity: Severity) -> usize {
    diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == severity)
        .count()
}

fn verdict(diagnostics: &[Diagnostic]) -> String {
    let errors = many(count(diagnostics, Severity::Error), "fault");
    match count(diagnostics, Severity::Warning) {
        0 => errors,
        warnings => format!("{errors}, {}", many(warnings, "warning")),
    }
}

fn many(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// A listener on all addresses is reached at this machine's own.
fn reachable(admin: SocketAddr) -> SocketAddr {
    match admin.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Ipv4Addr::LOCALHOST, admin.port()).into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (Ipv6Addr::LOCALHOST, admin.port()).into(),
        _ => admin,
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write KEY=VALUE, such as http.body_limit=1GiB".to_owned()),
    }
}

fn admin_url(text: &str) -> Result<Gateways, String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    let address = address.strip_suffix('/').unwrap_or(address);
    let address = match address.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address.to_owned(),
    };
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(Gateways(vec![reachable(address)]));
    }
    let port = |(_, port): (&str, &str)| port.parse::<u16>().is_ok();
    if !address.rsplit_once(':').is_some_and(port) {
        return Err("write an address and a port, such as http://127.0.0.1:9901".to_owned());
    }
    match address.to_socket_addrs().map(Vec::from_iter) {
        Ok(mut addresses) if !addresses.is_empty() => {
            addresses.sort_unstable();
            addresses.dedup();
            Ok(Gateways(addresses))
        }
        Ok(_) => Err("the name has no address".to_owned()),
        Err(error) => Err(format!("the name has no address: {error}")),
    }
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number
        .parse()
        .map_err(|_| "write how many sessions leave in a second, such as 20/s".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command, Console, Exit, Gateways, HELP, admin_url, assignment};

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_one_screen_and_names_everything() {
        assert!(HELP.lines().count() <= 40);
        assert!(HELP.lines().all(|line| line.len() <= 100));
        for command in Cli::command().get_subcommands() {
            assert!(
                HELP.contains(&format!("\n  {}", command.get_name())),
                "{command}"
            );
            for argument in command.get_arguments() {
                let name = match argument.get_long() {
                    Some(long) => format!("--{long}"),
                    None => argument.get_id().as_str().to_uppercase(),
                };
                assert!(HELP.contains(&name), "{command} {argument}");
            }
        }
    }

    #[test]
    fn wrong_arguments_are_64_and_help_is_0() {
        let exit = |arguments: &[&str]| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let arguments = arguments.iter().map(|argument| (*argument).into());
            let exit = Cli::from_arguments(arguments, &mut Console::new(&mut out, &mut err));
            (exit.map(|_| ()), out.is_empty(), err.is_empty())
        };
        assert_eq!(
            exit(&["ddp-gateway", "--help"]),
            (Err(Exit::Done), false, true)
        );
        assert_eq!(exit(&["ddp-gateway", "-V"]), (Err(Exit::Done), false, true));
        assert_eq!(
            exit(&["ddp-gateway", "rnu"]),
            (Err(Exit::Usage), true, false)
        );
        assert_eq!(exit(&["ddp-gateway"]), (Err(Exit::Usage), true, false));
        assert_eq!(
            exit(&["ddp-gateway", "run", "--set", "x"]),
            (Err(Exit::Usage), true, false)
        );
        for wrong in [
            &["ddp-gateway", "undrain"][..],
            &["ddp-gateway", "drain", "--rate", "5/s"],
            &["ddp-gateway", "drain", "a", "--rate", "0"],
            &["ddp-gateway", "drain", "a", "--rate", "5/min"],
            &["ddp-gateway", "drain", "a", "--deadline", "5"],
            &["ddp-gateway", "rebalance", "a"],
            &["ddp-gateway", "rebalance", "--stop", "--wait"],
            &["ddp-gateway", "rebalance", "--dry-run", "--stop"],
        ] {
            assert_eq!(exit(wrong), (Err(Exit::Usage), true, false), "{wrong:?}");
        }
        assert_eq!(
            exit(&["ddp-gateway", "drain", "a", "--rate", "5/s"]),
            (Ok(()), true, true)
        );
        assert_eq!(exit(&["ddp-gateway", "run"]), (Ok(()), true, true));
    }

    #[test]
    fn flags() {
        let cli = Cli::try_parse_from([
            "ddp-gateway",
            "drain",
            "--wait",
            "--admin",
            "http://localhost:9901/",
        ]);
        let Command::Drain(drain) = cli.unwrap().command else {
            panic!("another command");
        };
        assert!(drain.wait);
        let here = Gateways(vec!["127.0.0.1:9901".parse().unwrap()]);
        assert_eq!(drain.admin.admin, Some(here.clone()));
        assert_eq!(admin_url("0.0.0.0:9901"), Ok(here));
        for wrong in ["example.com", "http://example.com/x", ":x", "http://"] {
            assert!(admin_url(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            assignment("log.filter=a=debug"),
            Ok(("log.filter".to_owned(), "a=debug".to_owned()))
        );
    }
}
