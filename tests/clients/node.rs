//! Node.js as a child process that never outlives its test.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::folder;

/// For one script. Each has closer deadlines of its own for each step.
const LIMIT: Duration = Duration::from_secs(150);

pub(crate) struct Script {
    path: PathBuf,
    command: Command,
}

impl Script {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            command: command(path),
        }
    }

    pub(crate) fn arg(mut self, arg: String) -> Self {
        self.command.arg(arg);
        self
    }

    /// Trusts this certificate besides those that Node.js knows.
    pub(crate) fn trusting(mut self, certificate: &Path) -> Self {
        self.command.env("NODE_EXTRA_CA_CERTS", certificate);
        self
    }

    /// Runs it to its end and fails the test, with all that it said, unless it succeeds.
    pub(crate) async fn succeeds(mut self) {
        let path = self.path.display();
        let run = self.command.stdin(Stdio::null()).output();
        let output = timeout(LIMIT, run)
            .await
            .unwrap_or_else(|_| panic!("{path} does not end"))
            .unwrap_or_else(|error| panic!("node cannot be started ({error}): run tests/run"));
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.trim_end().ends_with("ok"),
            "{path}: {}\n{said}{complained}",
            output.status
        );
        println!("{path}\n{said}");
    }
}

/// Node.js with a script; the child ends with its handle.
pub(crate) fn command(script: &Path) -> Command {
    let modules = folder("clients").join("node_modules/.package-lock.json");
    assert!(
        modules.exists(),
        "the npm packages of the tests are not installed: run tests/run, or npm ci in tests/clients"
    );
    let mut command = Command::new("node");
    command.arg(script).kill_on_drop(true);
    command
}
