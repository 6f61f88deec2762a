//! Several streamers and a monolith that belong together.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinHandle};

use super::{
    monolith::{Monolith, MonolithOptions, Switch, Switchboard, Switching},
    streamer::{Streamer, StreamerOptions},
    workspace::{User, Workspace},
};
use crate::control::app::Control;

/// A small Rocket.Chat, as far as a gateway in front of it can tell.
#[derive(Debug)]
pub struct Deployment {
    pub monolith: Monolith,
    streamers: Arc<Streamers>,
}

#[derive(Debug)]
struct Streamers {
    list: Vec<Arc<Streamer>>,
    /// Those that are being emptied or were, by place in the list: each is stopped when it is empty.
    leaving: Vec<Mutex<Option<JoinHandle<()>>>>,
    gateway: OnceLock<Control>,
}

impl Deployment {
    /// Starts `streamers` streamers, named `streamer-1` and so on, and the monolith whose page
    /// switches them, all on free ports of the loopback interface.
    pub async fn start(streamers: usize) -> io::Result<Self> {
        let workspace = Workspace::default();
        greet(&workspace);
        let mut started = Vec::with_capacity(streamers);
        for n in 1..=streamers {
            let options = StreamerOptions::new(format!("streamer-{n}"), &workspace);
            started.push(Arc::new(Streamer::start(options).await?));
        }
        let streamers = Arc::new(Streamers {
            leaving: started.iter().map(|_| Mutex::default()).collect(),
            list: started,
            gateway: OnceLock::new(),
        });
        let monolith = Monolith::start(MonolithOptions {
            switchboard: Some(streamers.clone()),
            ..MonolithOptions::default()
        })
        .await?;
        Ok(Self {
            monolith,
            streamers,
        })
    }

    pub fn streamers(&self) -> &[Arc<Streamer>] {
        &self.streamers.list
    }

    /// The gateway in front, which empties a streamer when the page asks for it. The first one
    /// counts.
    pub fn behind(&self, gateway: &Control) {
        let _ = self.streamers.gateway.set(gateway.clone());
    }

    /// A `proxy.toml` for this deployment without its listeners: put `listen = ...` before it, or
    /// `[[listener]]` tables behind it.
    pub fn upstreams_toml(&self) -> String {
        let addresses: Vec<SocketAddr> = self
            .streamers()
            .iter()
            .map(|streamer| streamer.address())
            .collect();
        let quoted: Vec<String> = addresses
            .iter()
            .map(|address| format!("\"{address}\""))
            .collect();
        format!(
            "monolith = \"http://{}\"\nstreamers = [{}]\n",
            self.monolith.address(),
            quoted.join(", ")
        )
    }
}

impl Switchboard for Streamers {
    fn streamers(&self) -> Value {
        let list = self.list.iter().zip(&self.leaving).zip(1..);
        let list = list.map(|((streamer, leaving), number)| {
            // What somebody is changing right now is about to be what it was not.
            let leaving = leaving.try_lock().is_ok_and(|task| task.is_some());
            json!({
                "number": number,
                "name": streamer.name(),
                "address": streamer.address().to_string(),
                "state": match (streamer.is_listening(), leaving) {
                    (true, false) => "up",
                    (true, true) => "leaving",
                    (false, true) => "drained",
                    (false, false) => "killed",
                },
                "sockets": streamer.sessions(),
            })
        });
        list.collect()
    }

    fn switch(&self, streamer: usize, to: Switch) -> Switching<'_> {
        Box::pin(async move {
            let Some(n) = streamer.checked_sub(1) else {
                return false;
            };
            let (Some(streamer), Some(leaving)) = (self.list.get(n), self.leaving.get(n)) else {
                return false;
            };
            // Held to the end: one wish at a time.
            let mut leaving = leaving.lock().await;
            if let Some(task) = leaving.take() {
                task.abort();
            }
            match to {
                Switch::Start => {
                    let listens = streamer.start_again().await.is_ok();
                    if let Some(gateway) = self.gateway.get() {
                        let _ = gateway.undrain_streamer(&streamer.address().to_string());
                    }
                    listens
                }
                Switch::Drain => {
                    let address = streamer.address().to_string();
                    let gateway = self.gateway.get();
                    let begun = gateway.map(|gateway| gateway.drain_streamer(&address, None));
                    let begun = begun.is_some_and(|begun| begun.is_ok());
                    if begun {
                        *leaving = Some(tokio::spawn(stop_when_empty(streamer.clone())));
                    }
                    begun
                }
                Switch::Kill => {
                    streamer.stop().await;
                    true
                }
            }
        })
    }
}

impl Drop for Streamers {
    fn drop(&mut self) {
        for task in self
            .leaving
            .iter_mut()
            .filter_map(|task| task.get_mut().take())
        {
            task.abort();
        }
    }
}

/// As the process of a pod that is being replaced.
async fn stop_when_empty(streamer: Arc<Streamer>) {
    while streamer.sessions() > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    streamer.stop().await;
}

/// Something to read in each room.
fn greet(workspace: &Workspace) {
    for (room, name, text) in [
        ("GENERAL", "mira", "Good morning! Is the release out?"),
        (
            "GENERAL",
            "jonas",
            "Since ten. I restarted two streamers in the meantime.",
        ),
        ("GENERAL", "mira", "Really? I noticed nothing of it."),
        (
            "GENERAL",
            "jonas",
            "Try it yourself: drain the streamer that serves you, then kill the next one.",
        ),
        ("random", "jonas", "Coffee at three?"),
        (
            "gateway",
            "mira",
            "Each tab is one DDP session. Its streamer is marked on the right.",
        ),
    ] {
        if let Some(user) = User::of_token(&format!("demo-{name}")) {
            workspace.post(room, &user, text, None);
        }
    }
}
