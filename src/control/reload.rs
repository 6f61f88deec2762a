//! Loading the configuration again: one task, three triggers, all or nothing.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::SystemTime};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{
    app::{Inner, Origin, Reading},
    listeners::ListenerError,
    watch::Watch,
};
use crate::{
    base::id::Generation,
    config::{self, Change, model::Config},
    telemetry::names,
};

/// What made somebody ask for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Signal,
    Files,
    Operator,
}

impl Trigger {
    fn label(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::Files => "a file changed",
            Self::Operator => "asked by the admin listener",
        }
    }
}

/// What a reload did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Of the configuration in use now.
    pub generation: Generation,
    /// Whether the configuration differs from the one before; certificates are read again either
    /// way.
    pub changed: bool,
    /// What is different from the configuration before.
    pub changes: Vec<Change>,
    /// What is in use and should not stay so, such as an old certificate.
    pub warnings: Vec<String>,
}

impl Applied {
    /// The changes in one line.
    fn listed(&self) -> String {
        let changes: Vec<String> = self.changes.iter().map(Change::to_string).collect();
        if changes.is_empty() {
            "none".to_owned()
        } else {
            changes.join(", ")
        }
    }
}

/// Why everything stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Each fault with its place in the file, as `ddp-gateway check` shows it.
    #[error("the configuration has faults:\n{}", .0.join("\n"))]
    Config(Vec<String>),
    #[error("{}", lines(.0))]
    Listeners(Vec<ListenerError>),
    #[error("`{key}` cannot be applied: {reason}")]
    Value { key: &'static str, reason: String },
    #[error("the gateway was started without a configuration file")]
    NoFile,
    #[error("the gateway is shutting down")]
    Stopping,
}

impl ReloadError {
    /// One text per fault.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Self::Config(faults) => faults.clone(),
            Self::Listeners(faults) => faults.iter().map(ToString::to_string).collect(),
            _ => vec![self.to_string()],
        }
    }
}

fn lines(faults: &[ListenerError]) -> String {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

/// The outcome of the last reload, for those who ask later.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub at: SystemTime,
    pub result: Result<Applied, Arc<ReloadError>>,
}

/// A wish for a reload, and who wants to know how it went.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) trigger: Trigger,
    pub(super) reply: Option<oneshot::Sender<Result<Applied, Arc<ReloadError>>>>,
}

/// Serves wishes, and watches the files, until the process stops.
pub(super) async fn run(inner: Arc<Inner>, mut wishes: mpsc::Receiver<Wish>) {
    let mut watch = None;
    follow(&inner, &mut watch).await;
    loop {
        let wish = tokio::select! {
            () = inner.stop.cancelled() => return,
            wish = wishes.recv() => match wish {
                Some(wish) => wish,
                None => return,
            },
            () = changed(&mut watch) => Wish { trigger: Trigger::Files, reply: None },
        };
        if let Some(watch) = &mut watch {
            watch.look();
        }
        let result = load(&inner, wish.trigger).await.map_err(Arc::new);
        inner.set_outcome(Outcome {
            at: SystemTime::now(),
            result: result.clone(),
        });
        if let Some(reply) = wish.reply {
            // Who asked may have gone.
            let _ = reply.send(result);
        }
        follow(&inner, &mut watch).await;
    }
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Watches what the configuration in use is made of, if it wants that.
async fn follow(inner: &Inner, watch: &mut Option<Watch>) {
    let files = {
        let state = inner.state.lock().await;
        if !state.config.watch {
            *watch = None;
            return;
        }
        watched(&inner.origin, &state.reading, &state.config)
    };
    match watch {
        Some(watch) => watch.follow(files),
        None if files.is_empty() => {}
        None => *watch = Some(Watch::new(files)),
    }
}

fn watched(origin: &Origin, reading: &Reading, config: &Config) -> BTreeSet<PathBuf> {
    let mut files: BTreeSet<PathBuf> = reading.files.iter().cloned().collect();
    if let Origin::File { path, .. } = origin {
        files.insert(path.clone());
        for certificate in config.listeners.iter().flat_map(|listener| &listener.tls) {
            files.insert(certificate.cert.clone());
            files.insert(certificate.key.clone());
        }
    }
    files
}

async fn load(inner: &Arc<Inner>, trigger: Trigger) -> Result<Applied, ReloadError> {
    let result = match read(&inner.origin).await {
        Ok((config, reading)) => inner.apply(config, reading).await,
        Err(error) => {
            record(&Err(&error));
            Err(error)
        }
    };
    match &result {
        Ok(applied) => info!(
            generation = applied.generation.0,
            changed = applied.changed,
            changes = %applied.listed(),
            why = trigger.label(),
            "configuration loaded; no connection was touched"
        ),
        Err(error) => {
            for fault in error.faults() {
                error!(fault, "configuration refused");
            }
            warn!(
                why = trigger.label(),
                "the configuration before stays in use; `ddp-gateway check` shows the faults"
            );
        }
    }
    result
}

async fn read(origin: &Origin) -> Result<(Config, Reading), ReloadError> {
    let Origin::File { path, environment } = origin else {
        return Err(ReloadError::NoFile);
    };
    let (path, environment) = (path.clone(), environment.clone());
    let loaded = tokio::task::spawn_blocking(move || config::load(&path, &environment))
        .await
        .map_err(|_| ReloadError::Stopping)?;
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                warn!(%warning, "doubtful configuration");
            }
            let reading = Reading {
                effective: loaded.effective(),
                files: loaded.files,
            };
            Ok((loaded.config, reading))
        }
        Err(faults) => Err(ReloadError::Config(
            faults.iter().map(ToString::to_string).collect(),
        )),
    }
}

/// Publishes how a load went.
pub(super) fn record(result: &Result<&Applied, &ReloadError>) {
    let label = match result {
        Ok(applied) if applied.changed => "ok",
        Ok(_) => "unchanged",
        Err(_) => "failed",
    };
    names::CONFIG_RELOADS.counter(&[label]).increment(1);
    let successful = names::CONFIG_LAST_RELOAD_SUCCESSFUL.gauge(&[]);
    successful.set(if result.is_ok() { 1.0 } else { 0.0 });
    if let Ok(applied) = result {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        names::CONFIG_LAST_RELOAD_SUCCESS_SECONDS
            .gauge(&[])
            .set(now.as_secs_f64());
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of reloads fits into 52 bits"
        )]
        names::CONFIG_GENERATION
            .gauge(&[])
            .set(applied.generation.0 as f64);
    }
}
