//! Who is compared, where the programs are, and how they are started.

use std::{
    env, fs,
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
    Pingora,
    Caddy,
    Traefik,
}

impl Peer {
    pub(crate) const ALL: [Self; 8] = [
        Self::Direct,
        Self::Gateway,
        Self::Nginx,
        Self::Haproxy,
        Self::Sozu,
        Self::Pingora,
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
            Self::Pingora => "pingora",
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
            Self::Pingora => &[("pingora.yaml", include_str!("configs/pingora.yaml"))],
            Self::Caddy => &[("Caddyfile", include_str!("configs/Caddyfile"))],
            Self::Traefik => &[
                ("traefik.toml", include_str!("configs/traefik.toml")),
                ("routes.toml", include_str!("configs/traefik-routes.toml")),
            ],
        }
    }

    /// What its program is built from here, if it is one of ours.
    pub(super) fn sources(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Pingora => &[
                ("Cargo.toml", include_str!("configs/pingora/Cargo.toml")),
                ("Cargo.lock", include_str!("configs/pingora/Cargo.lock")),
                ("main.rs", include_str!("configs/pingora/main.rs")),
            ],
            _ => &[],
        }
    }

    /// Whether its program is compiled when it is installed, which takes minutes: for who asks for it
    /// by name.
    pub(super) fn is_compiled(self) -> bool {
        matches!(self, Self::Sozu | Self::Pingora)
    }

    /// Whether it takes changes of its files without a new process.
    pub(super) fn can_reload(self) -> bool {
        // What a program made with Pingora reads again is its own affair; the library itself starts
        // another process that is handed the listeners, and has this one end.
        self != Self::Pingora
    }

    /// Whether the program below `home` was built from other sources than these.
    fn is_outdated(self, home: &Path) -> bool {
        let folder = home.join(format!("{}-source", self.name()));
        let mut sources = self.sources().iter();
        sources.any(|(name, text)| {
            !fs::read_to_string(folder.join(name)).is_ok_and(|found| found == *text)
        })
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
        if !self.sources().is_empty() {
            // Whatever the system has by that name, this program it is not.
            let program = home.join(name).join("bin").join(name);
            return Some(program).filter(|path| is_file(path) && !self.is_outdated(home));
        }
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
            Self::Pingora => {
                command.arg("--conf").arg(file);
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
            Self::Pingora => Reload::Never,
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
    Never,
    /// It watches them itself.
    Watched,
    Hangup,
    User2,
    Command(Command),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    /// Sozu goes through those in front in no particular order: were the one for all paths among them,
    /// sockets would reach the monolith after every other start.
    #[test]
    fn sozu_looks_for_sockets_first() {
        let (_, text) = Peer::Sozu.files()[0];
        let text = text.replace("{{threads}}", "2");
        let text = text
            .replace("{{connections}}", "2")
            .replace("{{buffers}}", "2");
        let config = table(&text.replace("{{change}}", "2"));
        for (cluster, position) in [("streamers", "PRE"), ("monolith", "TREE")] {
            let frontends = config["clusters"][cluster]["frontends"].as_array().unwrap();
            assert!(frontends.len() >= 2);
            for frontend in frontends {
                assert_eq!(frontend["position"].as_str(), Some(position), "{frontend}");
                assert_eq!(frontend.get("path").is_some(), cluster == "streamers");
            }
        }
    }

    #[test]
    fn pingora_is_of_the_version_that_it_says() {
        let [(_, manifest), (_, lock), _] = Peer::Pingora.sources() else {
            panic!("three files");
        };
        let manifest = table(manifest);
        let version = manifest["package"]["version"].as_str().unwrap();
        let pinned = manifest["dependencies"]["pingora"]["version"].as_str();
        assert_eq!(pinned, Some(format!("={version}").as_str()));
        let lock = table(lock);
        let locked = lock["package"].as_array().unwrap().iter();
        let mut locked = locked.filter(|one| one["name"].as_str() == Some("pingora"));
        assert_eq!(locked.next().unwrap()["version"].as_str(), Some(version));
    }

    #[test]
    fn a_program_of_other_sources_is_not_taken() {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = || Peer::Pingora.find(home.path(), None);
        write("pingora/bin/pingora", "");
        assert_eq!(found(), None);
        for (name, text) in Peer::Pingora.sources() {
            write(&format!("pingora-source/{name}"), text);
        }
        assert_eq!(found(), Some(home.path().join("pingora/bin/pingora")));
        write("pingora-source/main.rs", "fn main() {}");
        assert_eq!(found(), None);
    }
}
