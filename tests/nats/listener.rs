//! Everything that is said on a bus, to find what the gateway said.

use std::sync::{Arc, Mutex};

use async_nats::Client;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::task::JoinHandle;

/// Hears all subjects until it is dropped.
pub(crate) struct Listener {
    pub(crate) client: Client,
    heard: Arc<Mutex<Vec<(String, Value)>>>,
    task: JoinHandle<()>,
}

impl Listener {
    pub(crate) async fn on(url: &str) -> Self {
        let client = Self::client(url).await;
        let mut all = client.subscribe(">").await.unwrap();
        client.flush().await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let heard = heard.clone();
            async move {
                while let Some(message) = all.next().await {
                    let packet = serde_json::from_slice(&message.payload).unwrap_or_default();
                    heard
                        .lock()
                        .unwrap()
                        .push((message.subject.to_string(), packet));
                }
            }
        });
        Self {
            client,
            heard,
            task,
        }
    }

    pub(crate) async fn client(url: &str) -> Client {
        async_nats::connect(url).await.unwrap()
    }

    /// Subjects and packets that gateways have published.
    pub(crate) fn of_gateways(&self) -> Vec<(String, Value)> {
        let heard = self.heard.lock().unwrap();
        let by_gateway = |(_, packet): &&(String, Value)| {
            let sender = packet["sender"].as_str().unwrap_or_default();
            sender.starts_with("ddp-gateway")
        };
        heard.iter().filter(by_gateway).cloned().collect()
    }

    /// Subjects of everything.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|(subject, _)| subject.clone()).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}
