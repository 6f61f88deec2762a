//! Several streamers and a monolith that belong together.

use std::{io, net::SocketAddr, sync::Arc};

use serde_json::{Value, json};

use super::{
    monolith::{Monolith, MonolithOptions, Switchboard, Switching},
    streamer::{Streamer, StreamerOptions},
    workspace::{User, Workspace},
};

/// A small Rocket.Chat, as far as a gateway in front of it can tell.
#[derive(Debug)]
pub struct Deployment {
    pub monolith: Monolith,
    streamers: Arc<Streamers>,
}

#[derive(Debug)]
struct Streamers(Vec<Streamer>);

impl Deployment {
    /// Starts `streamers` streamers, named `streamer-1` and so on, and the monolith whose page
    /// switches them, all on free ports of the loopback interface.
    pub async fn start(streamers: usize) -> io::Result<Self> {
        let workspace = Workspace::default();
        greet(&workspace);
        let mut started = Vec::with_capacity(streamers);
        for n in 1..=streamers {
            let options = StreamerOptions::new(format!("streamer-{n}"), &workspace);
            started.push(Streamer::start(options).await?);
        }
        let streamers = Arc::new(Streamers(started));
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

    pub fn streamers(&self) -> &[Streamer] {
        &self.streamers.0
    }

    /// A `proxy.toml` for this deployment without its listeners: put `listen = ...` before it, or
    /// `[[listener]]` tables behind it.
    pub fn upstreams_toml(&self) -> String {
        let addresses: Vec<SocketAddr> = self.streamers().iter().map(Streamer::address).collect();
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
        let list = self.0.iter().zip(1..).map(|(streamer, number)| {
            json!({
                "number": number,
                "name": streamer.name(),
                "address": streamer.address().to_string(),
                "up": streamer.is_listening(),
                "sockets": streamer.sessions(),
            })
        });
        list.collect()
    }

    fn switch(&self, streamer: usize, on: bool) -> Switching<'_> {
        Box::pin(async move {
            let Some(streamer) = streamer.checked_sub(1).and_then(|n| self.0.get(n)) else {
                return false;
            };
            if on {
                return streamer.start_again().await.is_ok();
            }
            streamer.stop().await;
            true
        })
    }
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
        (
            "GENERAL",
            "mira",
            "Really? My chat blinked once and went on.",
        ),
        (
            "GENERAL",
            "jonas",
            "Try it yourself: take away the streamer that serves you.",
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
