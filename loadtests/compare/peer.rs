//! Who is compared, where the programs are, and how they are started.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Peer {
    /// Nobody in between.
    Direct,
    Gateway,
    Nginx,
    Haproxy,
    Sozu,
    Caddy,
    Traefik,
}

impl Peer {
    pub(crate) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Gateway,
        Self::Nginx,
        Self::Haproxy,
        Self::Sozu,
        Self::Caddy,
        Self::Traefik,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Gateway => "gateway",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Sozu => "sozu",
            Self::Caddy => "caddy",
            Self::Traefik => "traefik",
        }
    }

    /// Its files, the one that it is started with first.
    pub(super) fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Direct => &[],
            Self::Gateway => &[("gateway.toml", include_str!("configs/gateway.toml"))],
            Self::Nginx => &[("nginx.conf", include_str!("configs/nginx.conf"))],
            Self::Haproxy => &[("haproxy.cfg", include_str!("configs/haproxy.cfg"))],
            Self::Sozu => &[("sozu.toml", include_str!("configs/sozu.toml"))],
            Self::Caddy => &[("Caddyfile", include_str!("configs/Caddyfile"))],
            Self::Traefik => &[
                ("traefik.toml", include_str!("configs/traefik.toml")),
                ("routes.toml", include_str!("configs/traefik-routes.toml")),
            ],
        }
    }

    /// Where its program is: below `home`, where it was installed, or where the system has it.
    pub(super) fn find(self, home: &Path, gateway: Option<&Path>) -> Option<PathBuf> {
        let is_file = |path: &PathBuf| path.is_file();
        let name = match self {
            Self::Direct => return None,
            Self::Gateway => {
                let beside = || Some(env::current_exe().ok()?.parent()?.join("ddp-gateway"));
                return gateway.map(Path::to_owned).or_else(beside).filter(is_file);
            }
            _ => self.name(),
        };
        let places = env::var_os("PATH").unwrap_or_default();
        let own = ["venv/bin", "sozu/bin"].map(|folder| home.join(folder));
        let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let all = own.into_iter().chain(env::split_paths(&places));
        let mut all = all.chain(system).map(|folder| folder.join(name));
        all.find(is_file)
    }

    /// The first line that it says of itself.
    pub(super) fn version(self, program: &Path) -> String {
        let word = match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Caddy | Self::Traefik => "version",
            _ => "--version",
        };
        let Ok(output) = Command::new(program).arg(word).output() else {
            return "unknown".to_owned();
        };
        // nginx tells it as an error.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let mut lines = said.lines().map(str::trim);
        let line = lines.find(|line| !line.is_empty()).unwrap_or("unknown");
        line.chars().take(80).collect()
    }

    /// Serves with its files in `folder`, in the foreground.
    pub(super) fn command(self, program: &Path, folder: &Path, threads: usize) -> Command {
        let mut command = Command::new(program);
        let file = self.files().first().map_or("", |(name, _)| name);
        let file = folder.join(file);
        command.current_dir(folder);
        match self {
            Self::Direct => {}
            Self::Gateway => {
                command.args(["run", "--config"]).arg(file);
            }
            Self::Nginx => {
                command.args(["-e", "stderr", "-p"]).arg(folder);
                command.arg("-c").arg(file);
            }
            Self::Haproxy => {
                command.args(["-W", "-db", "-f"]).arg(file);
            }
            Self::Sozu => {
                command.args(["start", "--config"]).arg(file);
            }
            Self::Caddy => {
                command.args(["run", "--adapter", "caddyfile", "--config"]);
                command.arg(file).env("HOME", folder);
                command.env("XDG_DATA_HOME", folder);
                command.env("XDG_CONFIG_HOME", folder);
                command.env("GOMAXPROCS", threads.to_string());
            }
            Self::Traefik => {
                command.arg(format!("--configFile={}", file.display()));
                command.env("GOMAXPROCS", threads.to_string());
            }
        }
        command
    }

    /// How it is told that its files have changed.
    pub(super) fn reload(self, program: &Path, folder: &Path) -> Reload {
        let file = self.files().first().map_or("", |(name, _)| name);
        let file = folder.join(file);
        let mut command = Command::new(program);
        match self {
            Self::Direct | Self::Traefik => Reload::Watched,
            Self::Gateway | Self::Nginx => Reload::Hangup,
            Self::Haproxy => Reload::User2,
            Self::Sozu => {
                command
                    .arg("--config")
                    .arg(&file)
                    .args(["reload", "--file"]);
                command.arg(&file);
                Reload::Command(command)
            }
            Self::Caddy => {
                let socket = format!("unix/{}/admin.sock", folder.display());
                command.args(["reload", "--adapter", "caddyfile", "--address"]);
                command.arg(socket).arg("--config").arg(file);
                command.env("HOME", folder);
                Reload::Command(command)
            }
        }
    }
}

/// What makes a proxy read its files again.
pub(super) enum Reload {
    /// It watches them itself.
    Watched,
    Hangup,
    User2,
    Command(Command),
}
