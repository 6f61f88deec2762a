//! A deployment to run against, in a process of its own: the gateway, and simulated streamers and a
//! simulated monolith behind it.

use std::{
    env,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use ddp_gateway::{
    demo::{
        deployment::Deployment,
        front::{Addresses, Front},
    },
    telemetry::{export, process},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

/// What the deployment says of itself, in one line.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Place {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) certificate: PathBuf,
    pub(crate) config: PathBuf,
}

/// This program once more, as a server. It ends by itself when this is dropped.
#[derive(Debug)]
pub(crate) struct Embedded<P = Place> {
    pub(crate) place: P,
    child: Child,
    /// Its end is what the process waits for.
    stdin: ChildStdin,
}

impl Embedded {
    pub(crate) async fn start(users: u32) -> Result<Self, String> {
        Self::with(&["embedded", "--users", &users.to_string()]).await
    }
}

impl<P: DeserializeOwned> Embedded<P> {
    /// With these arguments. Its messages go where ours go.
    pub(crate) async fn with(arguments: &[&str]) -> Result<Self, String> {
        Self::within(START_LIMIT, arguments).await
    }

    /// The same, for what may take so long to start.
    pub(crate) async fn within(limit: Duration, arguments: &[&str]) -> Result<Self, String> {
        let wrong = |error: io::Error| format!("the embedded deployment does not start: {error}");
        let mut child = Command::new(env::current_exe().map_err(wrong)?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(wrong)?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = pipes else {
            return Err("the embedded deployment has no pipes".to_owned());
        };
        let mut lines = BufReader::new(stdout).lines();
        let line = match timeout(limit, lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(_) => return Err("the embedded deployment ended at its start".to_owned()),
            Err(_) => {
                let seconds = limit.as_secs();
                return Err(format!(
                    "the embedded deployment has not started in {seconds} s"
                ));
            }
        };
        let place = serde_json::from_str(&line)
            .map_err(|error| format!("the embedded deployment says {line:?}: {error}"))?;
        Ok(Self {
            place,
            child,
            stdin,
        })
    }
}

impl<P> Embedded<P> {
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Returns when it has cleaned up behind itself.
    pub(crate) async fn stop(self) {
        let Self {
            mut child, stdin, ..
        } = self;
        drop(stdin);
        let _ = timeout(STOP_LIMIT, child.wait()).await;
    }
}

/// The other side: serves until standard input ends, which it does with the process that started it.
///
/// # Errors
/// What could not be started.
pub(crate) async fn serve(users: u32) -> Result<(), String> {
    export::recorder();
    process::raise_descriptor_limit();
    process::give_memory_back_soon();
    let deployment = Deployment::start(STREAMERS)
        .await
        .map_err(|error| format!("the simulated servers cannot be started: {error}"))?;
    // Room for all on two of the streamers, no access log, and a memory of where clients were that is
    // as large as it gets within two minutes instead of two hours; all else is as it is shipped.
    let room = users.div_ceil(2).max(500);
    let tables = format!(
        "[pool]\nsessions_per_streamer = {room}\nslow_start = \"0s\"\n\n\
         [http]\nrequest_timeout = \"3600s\"\n\n\
         [affinity]\nremember = \"60s\"\n\n\
         [drain]\ndelay = \"0s\"\nspread = \"500ms\"\ndeadline = \"3s\"\n\n\
         [log]\nfilter = \"warn\"\naccess = false\n"
    );
    let upstreams = deployment.upstreams_toml();
    let front = Front::start(&upstreams, &tables, Addresses::free(), None);
    let front = Box::pin(front).await.map_err(|error| error.to_string())?;
    deployment.behind(front.app().control());
    let admin = front.app().admin();
    let admin = admin.ok_or("the gateway has no admin listener")?;
    let place = Place {
        admin,
        http: front.http(),
        https: front.https(),
        certificate: front.certificate(),
        config: front.config(),
    };
    tell_and_wait(&place).await
}

/// Says where it serves, and waits for the end of standard input.
///
/// # Errors
/// Why nobody can know where it is.
pub(crate) async fn tell_and_wait<P: Serialize>(place: &P) -> Result<(), String> {
    let line = serde_json::to_string(place).map_err(|error| error.to_string())?;
    let told = writeln!(io::stdout(), "{line}");
    told.map_err(|error| format!("nobody reads where it listens: {error}"))?;
    // Ctrl-C is for who started it, and ends this by the input.
    let _interrupts = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let end = tokio::task::spawn_blocking(|| {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(count) if count > 0) {}
    });
    // It ends with the input, whatever else the thread has met.
    let _ = end.await;
    Ok(())
}

const STREAMERS: usize = 3;
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);
