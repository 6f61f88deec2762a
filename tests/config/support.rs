//! Texts that load, and comparison with files that are committed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use ddp_gateway::config::{self, Config, Environment, Loaded};

/// From the top of the repository.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// All `.toml` files of a folder, sorted.
pub(crate) fn files(relative: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path(relative)).expect("the folder is committed");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{relative} is empty");
    files
}

/// The variables that all fixtures are read with.
pub(crate) fn environment() -> Environment {
    [
        ("RELEASE", "chat"),
        ("EMPTY", ""),
        ("SECRET", "0123456789abcdef0123456789abcdef"),
    ]
    .into_iter()
    .collect()
}

pub(crate) fn loaded(text: &str, environment: &Environment) -> Loaded {
    match config::from_str("proxy.toml", text, environment) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            panic!("{}", faults.join("\n\n"))
        }
    }
}

pub(crate) fn load(text: &str) -> Config {
    loaded(text, &Environment::empty()).config
}

/// What every configuration needs.
pub(crate) const BASE: &str = "monolith = \"http://127.0.0.1:3000\"\n\
                               streamers = [\"127.0.0.1:4001\"]\n";

/// The file must have exactly this text. With `UPDATE_EXPECTED=1` it gets it instead.
pub(crate) fn expect_file(file: &Path, text: &str) {
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(file, text).expect("the checkout can be written to");
        return;
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    let different = expected
        .lines()
        .zip(text.lines())
        .position(|(expected, found)| expected != found)
        .unwrap_or_else(|| expected.lines().count().min(text.lines().count()));
    assert!(
        expected == text,
        "{} differs from line {}; UPDATE_EXPECTED=1 writes this:\n\n{text}",
        file.display(),
        different + 1
    );
}
