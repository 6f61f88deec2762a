//! The files of a proxy, filled in.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use rustix::thread::{CpuSet, sched_getaffinity};

use super::{certificate::Certificate, peer::Peer, servers::Servers};

/// What the placeholders of a file stand for.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) folder: PathBuf,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) admin: SocketAddr,
    monolith: SocketAddr,
    streamers: Vec<SocketAddr>,
    threads: usize,
    /// Of one proxy; half as many connections, less a reserve.
    files: u64,
    /// A timeout in seconds that a reload changes.
    change: u32,
    /// Other gateways listen on the same ports.
    is_shared: bool,
}

impl Setting {
    pub(super) fn new(
        folder: PathBuf,
        servers: &Servers,
        threads: usize,
        files: u64,
    ) -> io::Result<Self> {
        let [http, https, admin] = free_ports()?;
        Ok(Self {
            folder,
            http,
            https,
            admin,
            monolith: servers.monolith,
            streamers: servers.streamers.clone(),
            threads,
            files,
            change: 3600,
            is_shared: false,
        })
    }

    /// The first of several gateways.
    pub(super) fn with_a_shared_port(self) -> Self {
        Self {
            is_shared: true,
            ..self
        }
    }

    /// One more gateway on the ports of this one.
    pub(super) fn beside(&self, folder: PathBuf) -> io::Result<Self> {
        let [admin] = free_ports()?;
        Ok(Self {
            folder,
            admin,
            ..self.clone()
        })
    }

    /// What a proxy reads when it starts.
    pub(super) fn write(&self, peer: Peer, certificate: &Certificate) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        certificate.write(&self.folder)?;
        self.write_files(peer)
    }

    /// The same once more, with another timeout.
    pub(super) fn change(&mut self, peer: Peer) -> io::Result<()> {
        self.change += 1;
        self.write_files(peer)
    }

    fn write_files(&self, peer: Peer) -> io::Result<()> {
        for (name, template) in peer.files() {
            // As a whole: who watches a file does not see half of it.
            let (path, part) = (self.folder.join(name), self.folder.join("part"));
            fs::write(&part, self.fill(template))?;
            fs::rename(&part, path)?;
        }
        Ok(())
    }

    /// A line with `{{streamer}}` is there once for each of them.
    pub(super) fn fill(&self, template: &str) -> String {
        let mut text = String::with_capacity(template.len() + 500);
        for line in template.lines() {
            let is_list = line.trim_start().starts_with("to {{streamer}}");
            if is_list {
                let all: Vec<String> = self.streamers.iter().map(SocketAddr::to_string).collect();
                text += &line.replace("{{streamer}}", &all.join(" "));
                text.push('\n');
            } else if line.contains("{{streamer}}") {
                for (streamer, n) in self.streamers.iter().zip(1..) {
                    let line = line.replace("{{streamer}}", &streamer.to_string());
                    text += &line.replace("{{n}}", &format!("{n}"));
                    text.push('\n');
                }
            } else {
                text += line;
                text.push('\n');
            }
        }
        let is_root = rustix::process::geteuid().is_root();
        // HAProxy wants two and a half for each.
        let connections = self.files * 3 / 8;
        for (name, value) in [
            ("folder", path(&self.folder)),
            ("http", self.http.to_string()),
            ("https", self.https.to_string()),
            ("http_port", self.http.port().to_string()),
            ("https_port", self.https.port().to_string()),
            ("admin", self.admin.to_string()),
            ("monolith", self.monolith.to_string()),
            ("threads", self.threads.to_string()),
            ("cpu_map", cpu_map(self.threads)),
            ("files", self.files.to_string()),
            ("connections", connections.to_string()),
            ("buffers", (4 * connections).to_string()),
            ("user", if is_root { "root" } else { "nobody" }.to_owned()),
            ("change", self.change.to_string()),
            ("is_shared", self.is_shared.to_string()),
        ] {
            text = text.replace(&format!("{{{{{name}}}}}"), &value);
        }
        text
    }
}

/// HAProxy's line that keeps each thread on a core, if there are as many of both.
fn cpu_map(threads: usize) -> String {
    let Ok(all) = sched_getaffinity(None) else {
        return String::new();
    };
    let cores: Vec<String> = (0..CpuSet::MAX_CPU)
        .filter(|&core| all.is_set(core))
        .map(|core| core.to_string())
        .collect();
    match cores.len() == threads {
        true => format!("cpu-map auto:1/1-{threads} {}", cores.join(" ")),
        false => String::new(),
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Below those that the system gives to connections, which would take one before its owner does.
fn free_ports<const N: usize>() -> io::Result<[SocketAddr; N]> {
    let mut held = Vec::new();
    for _ in 0..10_000 {
        let address = (
            IpAddr::from(Ipv4Addr::LOCALHOST),
            rand::random_range(10_240..32_000),
        );
        if let Ok(listener) = TcpListener::bind(address) {
            held.push(listener);
        }
        if held.len() == N {
            let ports: io::Result<Vec<SocketAddr>> =
                held.iter().map(TcpListener::local_addr).collect();
            let ports = ports?.try_into();
            return ports.map_err(|_| io::ErrorKind::AddrInUse.into());
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_open_in_any_file() {
        let servers = Servers {
            monolith: ([127, 0, 0, 1], 3000).into(),
            streamers: vec![([127, 0, 0, 1], 4001).into(), ([127, 0, 0, 1], 4002).into()],
        };
        let mut setting = Setting::new("/tmp/x".into(), &servers, 2, 20_000).unwrap();
        for peer in Peer::ALL {
            for (name, template) in peer.files() {
                setting.change = 3600;
                let before = setting.fill(template);
                assert!(!before.contains("{{"), "{name}: {before}");
                if before.contains("4001") {
                    assert!(before.contains("127.0.0.1:4002"), "{name}: {before}");
                    assert!(before.contains("127.0.0.1:3000"), "{name}: {before}");
                    setting.change = 3601;
                    assert_ne!(before, setting.fill(template), "{name}");
                }
            }
        }
        let text = setting.fill("a\n  to {{streamer}}\n  server s{{n}} {{streamer}}\n");
        assert_eq!(
            text,
            "a\n  to 127.0.0.1:4001 127.0.0.1:4002\n  server s1 127.0.0.1:4001\n  \
             server s2 127.0.0.1:4002\n"
        );
    }
}
