//! The gateway as its operator sees it.

use ddp_gateway::demo::streamer::Streamer;
use serde_json::Value;

use crate::{
    scene::{Scene, pod, slice},
    support::{apiserver::Pod, http, metrics::Metrics},
};

impl Scene {
    /// An order to the gateway, such as `/streamers/drain?streamer=...`.
    pub(crate) async fn order(&self, path: &str) -> Value {
        let answer = http::post(self.admin, path).await;
        let accepted = matches!(answer.status, 200 | 202);
        assert!(accepted, "{path}: {}", answer.text());
        answer.json()
    }

    /// Empties a streamer, as fast as logins allow.
    pub(crate) async fn drain(&self, n: usize) {
        let id = self.streamers[n].address();
        self.order(&format!("/streamers/drain?streamer={id}")).await;
        self.sees("the streamer to be empty", async || {
            self.streamers[n].sessions() == 0
        })
        .await;
    }

    pub(crate) async fn undrain(&self, n: usize) {
        let id = self.streamers[n].address();
        self.order(&format!("/streamers/undrain?streamer={id}"))
            .await;
        self.in_rotation(n).await;
    }

    /// Kubernetes replaces the pod of a streamer, and asks nobody: it says that the pod is about to
    /// end, and lets it live until it is empty. The new one has the address of the old one.
    pub(crate) async fn replace_pod(&self, n: usize) {
        let api = self.api.as_ref().unwrap();
        let address = self.streamers[n].address();
        api.put(&slice(n), &[Pod::ending(&pod(n, 0), address)]);
        self.sees("the streamer to be empty", async || {
            self.streamers[n].sessions() == 0
        })
        .await;
        self.streamers[n].stop().await;
        api.remove(&slice(n));
        self.streamers[n].start_again().await.unwrap();
        api.put(&slice(n), &[Pod::ready(&pod(n, 1), address)]);
        self.in_rotation(n).await;
    }

    /// Waits until a streamer gets new sessions.
    pub(crate) async fn in_rotation(&self, n: usize) {
        let id = self.streamers[n].address().to_string();
        self.sees("the streamer to be up", async || {
            let page = http::get(self.admin, "/streamers").await.json();
            let rows = page["pools"][0]["streamers"].as_array().cloned();
            rows.into_iter().flatten().any(|row| {
                row["id"] == id.as_str() && row["health"] == "up" && row["admin"] == "ready"
            })
        })
        .await;
    }

    /// Waits until no streamer has more than a tenth above the mean, and no move is under way.
    pub(crate) async fn is_level(&self) {
        self.sees("the streamers to be level", async || {
            self.skew() <= 1.1 && self.sockets() == self.clients()
        })
        .await;
    }

    /// Sockets of all streamers.
    pub(crate) fn sockets(&self) -> usize {
        self.streamers.iter().map(Streamer::sessions).sum()
    }

    /// Sockets of the fullest streamer by those of all of them in the mean.
    pub(crate) fn skew(&self) -> f64 {
        let sockets = || self.streamers.iter().map(Streamer::sessions);
        let (most, all) = (sockets().max().unwrap_or(0), sockets().sum::<usize>());
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let skew = most as f64 * self.streamers.len() as f64 / all as f64;
        skew
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::read(self.admin).await
    }
}
