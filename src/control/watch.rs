//! Notices that configuration or certificate files have other content than before.
//!
//! Folders are watched, not files: editors and Kubernetes replace files, and a mounted ConfigMap or
//! Secret changes by a symbolic link (`..data`) beside them. What an event says is not believed,
//! only taken as a reason to look; and somebody looks from time to time without a reason, for file
//! systems that report nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::warn;

/// The files that matter, and the state they were last seen in.
#[derive(Debug)]
pub(super) struct Watch {
    /// Each file with its content when it was last looked at; `None`: it could not be read.
    seen: BTreeMap<PathBuf, Option<blake3::Hash>>,
    folders: BTreeSet<PathBuf>,
    /// `None` when the system refused to watch; then only looking is left.
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches these files as they are now.
    pub(super) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        // One event waiting is enough: it means "look".
        let (event, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |outcome: notify::Result<notify::Event>| {
            if outcome.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            let _ = event.try_send(());
        });
        let watcher = watcher.inspect_err(refused).ok();
        let mut watch = Self {
            seen: BTreeMap::new(),
            folders: BTreeSet::new(),
            watcher,
            events,
        };
        watch.follow(files);
        watch
    }

    /// Watches these files from now on instead. What is new among them counts as seen with the
    /// content it has now.
    pub(super) fn follow(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let seen: BTreeMap<_, _> = files
            .into_iter()
            .map(|file| {
                let content = match self.seen.get(&file) {
                    Some(content) => *content,
                    None => fingerprint(&file),
                };
                (file, content)
            })
            .collect();
        let folders: BTreeSet<PathBuf> = seen.keys().flat_map(|file| folders_of(file)).collect();
        if let Some(watcher) = &mut self.watcher {
            for gone in self.folders.difference(&folders) {
                // Fails when the folder is gone, and then so is its watch.
                let _ = watcher.unwatch(gone);
            }
            for new in folders.difference(&self.folders) {
                if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                    refused(&error);
                }
            }
        }
        self.seen = seen;
        self.folders = folders;
    }

    /// Looks at the files; whether one has other content than when they were last looked at.
    ///
    /// To be called before the files are loaded for another reason, so that a change during the
    /// load is not missed.
    pub(super) fn look(&mut self) -> bool {
        let mut changed = false;
        for (file, seen) in &mut self.seen {
            let now = fingerprint(file);
            changed |= *seen != now;
            *seen = now;
        }
        changed
    }

    /// Returns when the content has changed and has been quiet for a moment. Safe to drop and call
    /// again.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    if event.is_none() {
                        sleep(LOOK).await;
                    }
                }
                () = sleep(LOOK) => {}
            }
            self.settle().await;
            if self.look() {
                return;
            }
        }
    }

    /// A certificate and its key are two files, and an editor writes one in several steps.
    async fn settle(&mut self) {
        let latest = Instant::now() + SETTLE_LONGEST;
        loop {
            let quiet = (Instant::now() + SETTLE).min(latest);
            match timeout_at(quiet, self.events.recv()).await {
                Ok(Some(())) if Instant::now() < latest => {}
                Ok(Some(())) | Err(_) => return,
                Ok(None) => {
                    sleep_until(quiet).await;
                    return;
                }
            }
        }
    }
}

fn refused(error: &notify::Error) {
    warn!(
        %error,
        "cannot watch a folder for changes; files are compared every {} s instead, and SIGHUP \
         loads at once",
        LOOK.as_secs()
    );
}

/// Where a change of this file would show: its folder, and the one that a link leads to.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("/"),
    };
    let mut folders = vec![parent(file)];
    if let Ok(real) = fs::canonicalize(file) {
        folders.push(parent(&real));
    }
    folders
}

/// Of the content, up to [`LARGEST_FILE`].
fn fingerprint(file: &Path) -> Option<blake3::Hash> {
    let mut content = Vec::new();
    let file = fs::File::open(file).ok()?;
    file.take(LARGEST_FILE).read_to_end(&mut content).ok()?;
    Some(blake3::hash(&content))
}

/// A pause this long means that whoever writes is done.
const SETTLE: Duration = Duration::from_millis(150);
const SETTLE_LONGEST: Duration = Duration::from_secs(2);

/// Pause between two looks without an event.
const LOOK: Duration = Duration::from_secs(15);

const LARGEST_FILE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, time::Duration};

    use tokio::time::timeout;

    use super::Watch;

    #[tokio::test]
    async fn sees_a_file_replaced_and_not_a_neighbour() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy.toml");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new([file.clone()]);
        fs::write(folder.path().join("other"), "noise").unwrap();
        fs::write(&file, "one").unwrap();
        let quiet = timeout(Duration::from_millis(600), watch.changed()).await;
        assert!(quiet.is_err(), "the same content is no change");
        fs::write(folder.path().join("next"), "two").unwrap();
        fs::rename(folder.path().join("next"), &file).unwrap();
        timeout(Duration::from_secs(10), watch.changed())
            .await
            .unwrap();
        fs::remove_file(&file).unwrap();
        timeout(Duration::from_secs(10), watch.changed())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn sees_a_mounted_config_map_change() {
        // The layout that the kubelet makes: proxy.toml -> ..data/proxy.toml, ..data -> ..1
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (version, content) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("proxy.toml"), content).unwrap();
        }
        symlink("..1", path("..data")).unwrap();
        symlink("..data/proxy.toml", path("proxy.toml")).unwrap();
        let mut watch = Watch::new([path("proxy.toml")]);
        symlink("..2", path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
        timeout(Duration::from_secs(10), watch.changed())
            .await
            .unwrap();
    }
}
