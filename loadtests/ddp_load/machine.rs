//! What the figures were measured on.

use std::{env, fmt, fs, process::Command, thread::available_parallelism, time::Duration};

use ddp_gateway::telemetry::process::{REVISION, VERSION};
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) kernel: Option<String>,
    /// How senders find their speed, such as `cubic`. `bbr` paces each of them by a timer: of what
    /// large bodies cost, that is the larger half on some machines.
    pub(crate) congestion_control: Option<String>,
}

/// What measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// As git describes the folder of the program, or as the build said.
    pub(crate) commit: Option<String>,
    pub(crate) rustc: Option<String>,
    /// Without optimization it is the program that is slow.
    pub(crate) optimized: bool,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processor = self.processor.as_deref().unwrap_or("?");
        let kernel = self.kernel.as_deref().unwrap_or("?");
        let congestion = self.congestion_control.as_deref().unwrap_or("?");
        write!(
            f,
            "{} cores ({processor}), Linux {kernel}, TCP {congestion}",
            self.cores
        )
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.as_deref().unwrap_or("?");
        write!(f, "{} {}, commit {commit}", self.name, self.version)
    }
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path| fs::read_to_string(path).ok();
        let line = |text: String, key: &str| {
            let found = text.lines().find(|line| line.starts_with(key));
            found.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
        };
        let memory = read("/proc/meminfo").and_then(|text| line(text, "MemTotal"));
        let memory = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cores: available_parallelism().map_or(0, usize::from),
            processor: read("/proc/cpuinfo").and_then(|text| line(text, "model name")),
            memory_bytes: memory.map(|kib| kib * 1024),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")
                .map(|text| text.trim().to_owned()),
        }
    }
}

impl Program {
    pub(crate) fn this() -> Self {
        Self {
            name: "ddp-load",
            version: VERSION,
            commit: commit(),
            rustc: rustc(),
            optimized: !cfg!(debug_assertions),
        }
    }
}

fn commit() -> Option<String> {
    if REVISION != "unknown" {
        return Some(REVISION.to_owned());
    }
    let program = env::current_exe().ok()?;
    let described = Command::new("git")
        .arg("-C")
        .arg(program.parent()?)
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .output()
        .ok()?;
    let text = String::from_utf8(described.stdout).ok()?;
    let text = text.trim();
    (described.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// The compiler writes its version into what it makes.
fn rustc() -> Option<String> {
    let program = fs::read(env::current_exe().ok()?).ok()?;
    let mark = b"rustc version ";
    memchr::memmem::find_iter(&program, mark).find_map(|at| {
        let rest = program.get(at + mark.len()..)?;
        let end = rest.iter().take(100).position(|byte| *byte == 0)?;
        let version = str::from_utf8(&rest[..end]).ok()?;
        let is_one = version.starts_with(|first: char| first.is_ascii_digit());
        is_one.then(|| version.to_owned())
    })
}

/// Time of processors that a process has used; `None` where the system does not say.
pub(crate) fn processor_time(process: &str) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Fields 14 and 15 are its own and the system's, in hundredths of a second
    // (`man 5 proc_pid_stat`); the name in brackets may have anything in it.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields = rest.split(' ').skip(11).take(2);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    Some(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}
